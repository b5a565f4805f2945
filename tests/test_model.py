"""Our own model on disk: what comes back is what was saved, and what is damaged is refused with its name."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from prism_plugin import enable
from prism_plugin.config import load
from prism_plugin.errors import CheckpointError, ConfigError, PrismError
from prism_plugin.files import output_folder, save_json, write_atomic
from prism_plugin.models.checkpoint import ASSETS, PrismModel, embedded
from prism_plugin.quality.calibration import auroc
from prism_plugin.quality.head import load_head
from prism_plugin.sampling.config import SamplerConfig
from prism_plugin.sampling.drive import generate
from prism_plugin.tasks import HELD_OUT, get_task
from prism_plugin.training.train import train


def test_the_trained_model_solves_puzzles_and_its_head_finds_the_wrong_cell(sudoku4_model: PrismModel) -> None:
    task = get_task("sudoku4")
    prism = enable(sudoku4_model)
    prompts = task.prompts(40, clues=8)
    solved = task.accuracy(prism.generate(prompts, "confidence", steps=8).tokens, prompts)[0]
    assert solved.float().mean() > 0.5
    texts = task.texts(0, 64, HELD_OUT)
    wrong = torch.zeros_like(texts, dtype=torch.bool)
    wrong[torch.arange(64), torch.arange(64) % 16] = True
    spoilt = torch.where(wrong, texts % 4 + 1, texts)
    assert auroc(prism.score(spoilt).flatten(), ~wrong.flatten()) > 0.8


@pytest.mark.parametrize("name", sorted({"code", "prose"} & set(embedded())))
def test_the_shipped_text_models_know_held_out_texts_and_their_heads_find_wrong_tokens(name: str) -> None:
    model, task = PrismModel.from_pretrained(name), get_task(name)
    truth = task.texts(0, 48, HELD_OUT)
    place = torch.rand(truth.shape, generator=torch.Generator().manual_seed(0)).argsort(dim=1)
    judged = place < 12
    with torch.no_grad():
        context = truth.masked_fill(judged, task.mask_id)
        logits, _ = model.project(model(context), judged.flatten().nonzero().squeeze(1))
        best = (logits.argmax(dim=1) == truth[judged]).float().mean()
        frequent = (task.texts(48, 200, HELD_OUT).flatten().bincount().argmax() == truth[judged]).float().mean()
        assert best > 0.4 > 2 * frequent
        other = model(truth.masked_fill(place < 96, task.mask_id))  # drawn under a context three quarters hidden
        drawn = model.project(other, judged.flatten().nonzero().squeeze(1))[0].argmax(dim=1)
        text = truth.masked_scatter(judged, drawn)
        least = {"code": 0.75, "prose": 0.6}[name]  # .84 and .65 when they were trained
        assert auroc(model.judge(model(text), None, text)[judged], (text == truth)[judged]) > least


def told(model: PrismModel, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (N, V) of tokens of ``truth`` (B, L), of which half are hidden, and what these are, (N,)."""
    hidden = torch.rand(truth.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    with torch.no_grad():
        output = model(truth.masked_fill(hidden, model.mask_id))
        logits, rows = model.project(output, hidden.flatten().nonzero().squeeze(1))
    return logits[rows], truth[hidden]


def test_the_model_of_more_python_tells_hidden_tokens_better_than_the_smaller() -> None:
    truth, right = get_task("code").texts(0, 48, HELD_OUT), {}
    for name in ("code", "python"):
        logits, hidden = told(PrismModel.from_pretrained(name), truth)
        right[name] = float((logits.argmax(dim=1) == hidden).float().mean())
    assert right["python"] > right["code"] + 0.02 > 0.3


PLAIN = (
    "The old man went down to the river in the morning, and when he had looked at the water for a long time he said to "
    "his son that the winter would be hard. They took the boat and crossed over to the other side, where the people of "
    "the village had begun to gather wood. Nobody knew who had brought the news, but it was true, and before the night "
    "came the first snow was on the hills."
)


def test_the_model_of_more_english_knows_plain_english_better_and_its_head_what_does_not_fit() -> None:
    truth = torch.tensor(get_task("prose").encode(PLAIN)[:96])[None].expand(16, -1)
    model = PrismModel.from_pretrained("english")
    smaller, larger = (float(F.cross_entropy(*told(m, truth))) for m in (PrismModel.from_pretrained("prose"), model))
    assert larger < smaller - 0.5
    load_head(model, ASSETS / "english")
    wrong = torch.rand(truth.shape, generator=torch.Generator().manual_seed(1)) < 0.1
    text = torch.where(wrong, truth.roll(7, 1), truth)
    with torch.no_grad():
        assert auroc(model.judge(model(text), None, text).flatten(), (text == truth).flatten()) > 0.75


def test_a_model_comes_back_as_it_was_saved(sudoku4_model: PrismModel, tmp_path: Path) -> None:
    sudoku4_model.save_pretrained(tmp_path)
    again = PrismModel.from_pretrained(tmp_path)
    assert not again.training
    assert again.task == "sudoku4" and again.trained == sudoku4_model.trained
    assert again.backbone.config == sudoku4_model.backbone.config
    before, after = sudoku4_model.state_dict(), again.state_dict()
    assert before.keys() == after.keys() and any(name.startswith("head.") for name in after)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_model_without_a_head_has_none_when_it_comes_back(sudoku4_folder: Path, tmp_path: Path) -> None:
    model = PrismModel.from_pretrained(sudoku4_folder)
    model.head = None
    model.save_pretrained(tmp_path)
    assert PrismModel.from_pretrained(tmp_path).head is None


def _lose(weights: dict, name: str) -> None:
    del weights[name]


def _add(weights: dict, name: str) -> None:
    weights["of_another_model"] = weights[name].clone()


def _widen(weights: dict, name: str) -> None:
    weights[name] = torch.cat([weights[name], weights[name]])


def _cast(weights: dict, name: str) -> None:
    weights[name] = weights[name].long()


def _not_a_number(weights: dict, name: str) -> None:
    weights[name].view(-1)[-1] = torch.nan


def _infinite(weights: dict, name: str) -> None:
    weights[name].view(-1)[0] = -torch.inf


@pytest.mark.parametrize(("file", "name"), [("model.safetensors", "unembed.bias"), ("head.safetensors", "proj.weight")])
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_lose, "missing {name}"),
        (_add, "extra of_another_model"),
        (_widen, "{name} is ("),
        (_cast, "{name} is torch.int64"),
        (_not_a_number, "{name} holds NaN or inf"),
        (_infinite, "{name} holds NaN or inf"),
    ],
)
def test_weights_that_do_not_fit_are_named(sudoku4_folder: Path, tmp_path: Path, file, name, spoil, said) -> None:
    shutil.copytree(sudoku4_folder, tmp_path / "m")
    weights = load_file(tmp_path / "m" / file)
    spoil(weights, name)
    save_file(weights, tmp_path / "m" / file)
    with pytest.raises(CheckpointError) as caught:
        PrismModel.from_pretrained(tmp_path / "m")
    assert file in str(caught.value) and said.format(name=name) in str(caught.value)


@pytest.mark.parametrize("file", ["model.safetensors", "head.safetensors", "config.json", "prism_config.json"])
def test_a_file_that_was_cut_off_is_refused(sudoku4_folder: Path, tmp_path: Path, file: str) -> None:
    shutil.copytree(sudoku4_folder, tmp_path / "m")
    content = (tmp_path / "m" / file).read_bytes()
    (tmp_path / "m" / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=file):
        PrismModel.from_pretrained(tmp_path / "m")


@pytest.mark.parametrize("file", ["model.safetensors", "head.safetensors", "config.json", "prism_config.json"])
def test_a_file_that_is_not_there_is_named(sudoku4_folder: Path, tmp_path: Path, file: str) -> None:
    shutil.copytree(sudoku4_folder, tmp_path / "m")
    (tmp_path / "m" / file).unlink()
    with pytest.raises(CheckpointError, match=f"{file} is not there"):
        PrismModel.from_pretrained(tmp_path / "m")


def test_a_folder_that_is_not_there_is_refused_with_the_embedded_names() -> None:
    with pytest.raises(CheckpointError, match="no model at 'nowhere'"):
        PrismModel.from_pretrained("nowhere")


def test_a_mask_outside_the_vocabulary_is_refused(sudoku4_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(sudoku4_folder, tmp_path / "m")
    described = json.loads((tmp_path / "m" / "config.json").read_text())
    described["backbone"]["mask_id"] = 5
    (tmp_path / "m" / "config.json").write_text(json.dumps(described))
    with pytest.raises(ConfigError, match="mask_id = 5 is outside the vocabulary: allowed 0 to 4"):
        PrismModel.from_pretrained(tmp_path / "m")


def test_a_head_of_another_model_is_refused_and_leaves_no_head_behind(sudoku4_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(sudoku4_folder, tmp_path / "m")
    model = PrismModel.from_pretrained(sudoku4_folder)
    model.head = None
    described = json.loads((tmp_path / "m" / "prism_config.json").read_text())
    for group, name, value in (("model", "vocab_size", 10), ("head", "hidden_size", 32), ("head", "name", "tid")):
        changed = json.loads(json.dumps(described))
        changed[group][name] = value
        (tmp_path / "m" / "prism_config.json").write_text(json.dumps(changed))
        with pytest.raises((CheckpointError, ConfigError), match=str(value)):
            load_head(model, tmp_path / "m")
    (tmp_path / "m" / "prism_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="list"):
        load_head(model, tmp_path / "m")
    (tmp_path / "m" / "prism_config.json").write_text(json.dumps(described))
    (tmp_path / "m" / "head.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="damaged"):
        load_head(model, tmp_path / "m")
    assert model.head is None


def test_a_folder_that_cannot_be_written_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for wrong in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match="cannot be written"):
            train("mdm", load(["task=sudoku4", f"out={wrong}"]))
    with pytest.raises(ConfigError, match="out is not set"):
        train("mdm", load(["task=sudoku4"]))
    assert (tmp_path / "file").read_bytes() == b""


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    save_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_json(tmp_path / "a.json", {"a": float("nan")})
    with suppress(OSError), write_atomic(tmp_path / "a.json") as path:
        path.write_text('{"a"')
        raise OSError("disk full")
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}
    assert list(output_folder(tmp_path / "new").iterdir()) == []


NO_ROOM = """
import resource, sys
from prism_plugin.errors import CheckpointError
from prism_plugin.files import save_json
from prism_plugin.models.checkpoint import PrismModel, embedded

model = PrismModel.from_pretrained(sys.argv[1])
for weights in model.parameters():
    weights.data.zero_()
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for save in (lambda: model.save_pretrained(sys.argv[1]), lambda: save_json(model_config, {"a": "b" * 5000})):
    try:
        model_config = __import__("pathlib").Path(sys.argv[1]) / "config.json"
        save()
    except (CheckpointError, OSError) as error:
        print(type(error).__name__, error)
"""


def test_a_full_disk_leaves_the_model_that_was_there(sudoku4_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(sudoku4_folder, tmp_path / "m")
    before = {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()}
    done = subprocess.run([sys.executable, "-c", NO_ROOM, tmp_path / "m"], capture_output=True, text=True, check=True)
    said = done.stdout.splitlines()
    assert said[0].startswith("CheckpointError") and "model.safetensors could not be written" in said[0]
    assert said[1].startswith("OSError") and "File too large" in said[1]
    assert {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()} == before


def in_the_cache(root: Path, name: str, folder: Path) -> None:
    """A repository as the hub's client keeps it: blobs by hash, a snapshot of links, a reference to the snapshot."""
    held, commit = root / f"models--{name.replace('/', '--')}", "c0ffee" * 6 + "c0ff"
    for part in ("blobs", "refs", f"snapshots/{commit}"):
        (held / part).mkdir(parents=True)
    (held / "refs" / "main").write_text(commit)
    for number, path in enumerate(sorted(folder.glob("*.*"))):
        if path.suffix in (".json", ".safetensors"):
            shutil.copy(path, held / "blobs" / f"{number:040d}")
            (held / "snapshots" / commit / path.name).symlink_to(f"../../blobs/{number:040d}")


def test_a_model_and_a_head_come_by_their_hub_id(sudoku4_folder: Path, tmp_path: Path) -> None:
    """Offline, from the cache; in a process of its own, since the client reads its settings once."""
    in_the_cache(tmp_path / "hub", "someone/sudoku4", sudoku4_folder)
    script = """
import sys
from prism_plugin.errors import CheckpointError
from prism_plugin.models.checkpoint import PrismModel, embedded
from prism_plugin.quality.head import load_head

model = PrismModel.from_pretrained("someone/sudoku4")
model.head = None
load_head(model, "someone/sudoku4")
model.save_pretrained(sys.argv[1])
for name in ("someone/other", "someone"):
    try:
        PrismModel.from_pretrained(name)
    except CheckpointError as error:
        print(error)
"""
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub")}
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "again"], capture_output=True, text=True, check=True, env=offline
    )
    for name in ("model.safetensors", "head.safetensors", "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (sudoku4_folder / name).read_bytes()
    unknown, no_id = done.stdout.splitlines()
    assert unknown.startswith("no model at 'someone/other': no folder") and "the hub" in unknown
    assert "no hub id either: that would be user/name" in no_id and "Embedded models: " in no_id


@pytest.mark.parametrize("setting", [{"steps": 0}, {"eta": 1.4}, {"eta": -1.0}])
def test_generation_is_refused_before_a_forward_pass(sudoku4_model: PrismModel, setting: dict) -> None:
    passes = []
    hook = sudoku4_model.register_forward_pre_hook(lambda *_: passes.append(1))
    with pytest.raises(PrismError, match="sampler"):
        generate(sudoku4_model, torch.zeros(1, 16, dtype=torch.long), SamplerConfig(**setting))
    hook.remove()
    assert not passes


def test_a_head_that_learned_a_hidden_tokens_posterior_is_given_the_rule_on_evidence() -> None:
    assert enable("code").settings["name"] == "prism-evidence" and enable("sudoku").settings["name"] == "prism-share"
    assert enable("code", head=ASSETS / "code" / "prism_loss").settings["name"] == "prism"
