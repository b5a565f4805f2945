"""The trainer: what it leaves behind, what it refuses, and that a run that was broken off goes on exactly."""

import contextlib
import csv
import io
import json
import multiprocessing
import random
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from prism_plugin import cli, enable, training
from prism_plugin.config import Config, load
from prism_plugin.errors import ConfigError, DataError, PrismError
from prism_plugin.models.checkpoint import PrismModel
from prism_plugin.quality import loss as losses
from prism_plugin.quality.head import attach_head
from prism_plugin.quality.loss import QualityConfig
from prism_plugin.tasks import get_task
from prism_plugin.tasks.sudoku import SudokuTask
from prism_plugin.training.objectives import MDMObjective, QualityObjective
from prism_plugin.training.train import WATCH, fit, train
from prism_plugin.training.watch import written

SIZE = ("backbone.hidden_size=16", "backbone.num_layers=1", "backbone.num_heads=2", "backbone.cond_size=8")
SMALL = (
    "task=sudoku4", "train.batch_size=8", "train.warmup=2", "train.eval_texts=16", "train.ema=0.9", "train.threads=1",
)  # fmt: skip


def settings(folder: Path, *more: str) -> Config:
    size = () if any(item.startswith("model=") for item in more) else SIZE  # a model that is there has its own
    return load([*SMALL, *size, f"out={folder}", *more])


def curve(folder: Path) -> list[dict[str, str]]:
    """The rows of the log without their times."""
    with (folder / "training_log.csv").open() as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found = load_file(folder / "model.safetensors")
    if (folder / "head.safetensors").exists():
        found |= {f"head.{name}": value for name, value in load_file(folder / "head.safetensors").items()}
    return found


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_leaves_a_model_a_log_and_its_story(sudoku4_folder: Path) -> None:
    names = {path.name for path in sudoku4_folder.iterdir()}
    assert names == {
        "config.json",
        "model.safetensors",
        "prism_config.json",
        "head.safetensors",
        "training_log.csv",
        "training_quality.json",
        "reliability.csv",
        "reliability.png",
    }
    story = json.loads((sudoku4_folder / "training_quality.json").read_text(), parse_constant=pytest.fail)
    assert story["last"]["auroc"] > 0.6 and story["seed"] == 0 and "torch" in story["versions"]
    trained = json.loads((sudoku4_folder / "prism_config.json").read_text())["trained"]
    assert trained["k"] == 4 and trained["mdm_weight"] == 5.0 and trained["quality_over"] and trained["mdm_over"]
    assert {"loss", "quality", "mdm", "brier", "ece", "low_right"} <= curve(sudoku4_folder)[-1].keys()


PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
ROW = r"^\| ([^|]+), arXiv [\d.]+ \| `prism train (.+?)`.*\| (?:`sampler=(.+)`|any .*) \|$"
RIVALS = re.findall(ROW, PAGE, re.MULTILINE)


@pytest.mark.parametrize(("rival", "command", "sampler"), RIVALS, ids=[rival for rival, _, _ in RIVALS])
def test_a_rival_trains_as_its_recipe_says_and_writes(
    rival: str, command: str, sampler: str, sudoku4_folder: Path, tmp_path: Path
) -> None:
    kind, *given = (
        command.replace("model=NAME", f"model={sudoku4_folder}").replace("out=…", f"out={tmp_path}/r").split()
    )
    short = ("train.steps=2", "train.batch_size=4", "train.eval_texts=4", "train.eval_forwards=0", "train.save_every=0")
    folder = train(kind, load([*given, *short]))
    prism = enable(folder, device="cpu")
    made = prism.generate(torch.zeros(2, 16, dtype=torch.long), sampler or "prism", steps=4)
    assert (made.tokens != 0).all()


def test_the_page_names_five_rivals() -> None:
    assert len(RIVALS) == 5


def test_a_model_from_scratch_learns_a_file_in_the_vocabulary_of_a_task(tmp_path: Path) -> None:
    grid = [1, 2, 3, 4, 3, 4, 1, 2, 2, 1, 4, 3, 4, 3, 2, 1]
    (tmp_path / "rows.jsonl").write_text("\n".join([json.dumps({"text": grid})] * 40))
    given = [f"data={tmp_path / 'rows.jsonl'}", f"out={tmp_path / 'made'}", "train.steps=80", "train.lr=3e-3",
             "train.batch_size=16", "train.warmup=2", "train.ema=0", "train.save_every=0", "train.eval_every=0",
             "backbone.hidden_size=64", "backbone.num_heads=2", "backbone.num_layers=1"]  # fmt: skip
    with pytest.raises(ConfigError, match="name it beside data"):
        train("mdm", load(given))
    model = PrismModel.from_pretrained(train("mdm", load(["task=sudoku4", *given])))
    with torch.no_grad():
        told = model.project(model(torch.zeros(1, 16, dtype=torch.long)), torch.arange(16))[0]
    assert told.argmax(1).tolist() == grid, "it has learned the one text there is"


def test_a_head_alone_leaves_the_backbone_as_it_was(sudoku4_folder: Path, tmp_path: Path) -> None:
    made = train(
        "quality",
        settings(tmp_path, f"model={sudoku4_folder}", "train.steps=2", "train.tune=head", "head=linear"),
    )
    assert same(load_file(made / "model.safetensors"), load_file(sudoku4_folder / "model.safetensors"))
    assert PrismModel.from_pretrained(made).trained["tune"] == "head"


def test_a_backbone_that_is_not_tuned_stays_in_eval_mode(sudoku4_folder: Path) -> None:
    model = PrismModel.from_pretrained(sudoku4_folder)
    model.backbone.requires_grad_(False)
    objective = QualityObjective(model, 0, QualityConfig()).train()
    assert objective.training and model.head.training and not model.backbone.training
    model.backbone.requires_grad_(True)
    assert QualityObjective(model, 0, QualityConfig()).train().denoiser.backbone.training


class Stop(BaseException):
    """What breaks a run off."""


@pytest.fixture
def broken_off(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Config, int], None]:
    """Train until a text of that number is asked for."""

    def run(kind: str, config: Config, number: int) -> None:
        def texts(task: SudokuTask, first: int, count: int, stream: int) -> torch.Tensor:
            if stream == 0 and first >= number:
                raise Stop
            return given(task, first, count, stream)

        given = SudokuTask.texts
        with monkeypatch.context() as patch:
            patch.setattr(SudokuTask, "texts", texts)
            with pytest.raises(Stop):
                train(kind, config)

    return run


@pytest.mark.parametrize("kind", ["mdm", "quality"])
def test_a_run_that_was_broken_off_goes_on_exactly(kind, sudoku4_folder: Path, tmp_path: Path, broken_off) -> None:
    more = (
        f"model={sudoku4_folder}",
        "train.steps=9",
        "train.eval_every=1",
        "train.save_every=3",
        "train.accumulate=2",
    )
    whole = train(kind, settings(tmp_path / "whole", *more))
    broken_off(kind, settings(tmp_path / "parts", *more), 8 * 7 + 4)
    assert not (tmp_path / "parts" / "model.safetensors").exists()
    with pytest.raises(ConfigError, match=r"interrupted run at checkpoint-6: train.resume=true"):
        train(kind, settings(tmp_path / "parts", *more))
    parts = train(kind, settings(tmp_path / "parts", *more, "train.resume=true"))
    assert len(curve(whole)) == 9 and curve(parts) == curve(whole)
    assert same(weights(parts), weights(whole))


def test_a_checkpoint_that_was_cut_off_is_not_resumed_from(tmp_path: Path, broken_off) -> None:
    more = ("train.steps=6", "train.eval_every=1", "train.save_every=2")
    whole = train("mdm", settings(tmp_path / "whole", *more))
    broken_off("mdm", settings(tmp_path / "parts", *more), 8 * 5)
    (tmp_path / "parts" / "checkpoints" / "checkpoint-4" / WATCH).unlink()
    parts = train("mdm", settings(tmp_path / "parts", *more, "train.resume=true"))
    assert curve(parts) == curve(whole) and same(weights(parts), weights(whole))


def test_resuming_where_nothing_was_saved_starts_anew(tmp_path: Path) -> None:
    assert len(curve(train("mdm", settings(tmp_path, "train.steps=2", "train.resume=true", "train.eval_every=1")))) == 2


SERVER = multiprocessing.get_context("forkserver")
"""Children of its own for every kill, forked from a process that has imported everything: no import is waited for."""
SERVER.set_forkserver_preload(["prism_plugin.training.train"])


def test_killed_at_any_moment_a_run_resumes_without_loss(tmp_path: Path) -> None:
    """kill -9 at 20 moments: while a checkpoint is being written, or at any other time between two of them."""
    more = ("train.steps=240", "train.eval_every=40", "train.eval_forwards=0", "train.save_every=3")
    whole = train("mdm", settings(tmp_path / "whole", *more))
    chance, folder, reached = random.Random(0), tmp_path / "parts", [0]
    config = settings(folder, *more, "train.resume=true")

    def saved(whole_only: bool) -> int:
        found = (folder / "checkpoints").glob("checkpoint-*" + (f"/{WATCH}" if whole_only else ""))
        return max([int((p.parent if whole_only else p).name.rpartition("-")[2]) for p in found], default=0)

    for _ in range(20):
        child = SERVER.Process(target=train, args=("mdm", config))
        child.start()
        while saved(whole_only=False) <= reached[-1] and child.is_alive():  # a new checkpoint has just been begun
            time.sleep(0.001)
        time.sleep(chance.random() * chance.choice([0.003, 0.03, 0.1]))
        child.kill()
        child.join()
        if (folder / "training_mdm.json").exists():  # it was quicker than the axe, and has cleared its checkpoints away
            break
        reached.append(saved(whole_only=True))
        if reached[-1]:
            last = folder / "checkpoints" / f"checkpoint-{reached[-1]}"
            assert load_file(last / "model.safetensors").keys() == load_file(last / WATCH).keys()
            assert torch.load(last / "optimizer.pt", weights_only=True)["state"]
    assert reached == sorted(reached) and len(reached) > 10
    train("mdm", config)
    assert curve(folder) == curve(whole) and same(weights(folder), weights(whole))


def starved(limit: int, argv: list[str], said: Path) -> None:
    """The command, where no file may grow past ``limit`` bytes, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        code = cli.main(argv)
    line = next(line for line in errors.getvalue().splitlines() if line.startswith("prism: "))
    said.write_text(f"{code} {line}"[: limit - 1])


@pytest.mark.parametrize(("full", "last"), [("at the weights", 2), ("at the optimizer", 2), ("at the end", 4)])
def test_a_full_disk_leaves_the_last_good_checkpoint(full: str, last: int, tmp_path: Path, broken_off) -> None:
    more = ("train.steps=7", "train.eval_every=1", "train.save_every=2")
    whole = train("mdm", settings(tmp_path / "whole", *more))
    folder, said = tmp_path / "parts", tmp_path / "said"
    broken_off("mdm", settings(folder, *more), 8 * (last + 1))
    size = (whole / "model.safetensors").stat().st_size
    limit = size * 3 // 2 if full == "at the optimizer" else size // 2
    argv = ["train", "mdm", *SMALL, *SIZE, f"out={folder}", *more, "train.resume=true"]
    argv += ["train.save_every=0"] if full == "at the end" else []  # the model does not fit, a checkpoint is not tried
    child = SERVER.Process(target=starved, args=(limit, argv, said))
    child.start()
    child.join()
    assert re.match(r"2 prism: .* could not be saved \(.*\). The last whole checkpoint .* stays", said.read_text())
    assert not (folder / "config.json").exists()
    assert (folder / "checkpoints" / f"checkpoint-{last}" / WATCH).exists()
    parts = train("mdm", settings(folder, *more, "train.resume=true"))
    assert curve(parts) == curve(whole) and same(weights(parts), weights(whole))


def test_a_run_goes_on_with_the_settings_that_it_was_started_with(tmp_path: Path, broken_off) -> None:
    more = ("train.steps=6", "train.save_every=2")
    broken_off("mdm", settings(tmp_path, *more), 8 * 3)
    other = ("train.lr=0.5", "train.batch_size=4", "backbone.num_layers=2", "corrector.weight=1")
    said = (
        r"started with other settings: backbone.num_layers = 2 \(was 1\), corrector.weight = 1.0 \(was 0.0\), "
        r"train.batch_size = 4 \(was 8\), train.lr = 0.5 \(was 0.001\)"
    )
    with pytest.raises(ConfigError, match=said):
        train("mdm", settings(tmp_path, *more, *other, "train.resume=true"))
    free = ("train.eval_every=3", "train.save_every=0", "train.patience=9", "train.threads=2", "train.eval_texts=8")
    assert len(curve(train("mdm", settings(tmp_path, *more, *free, "train.resume=true")))) == 2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("mdm quality.k=2 head.num_layers=1 train.head_from=code", "head.num_layers, quality.k, train.head_from: of"),
        ("mdm head.num_layers=1", "head.num_layers: of `prism train quality`"),
        ("mdm model=sudoku noise=uniform backbone.num_layers=3", "backbone.num_layers, noise: of a model from scratch"),
        ("mdm train.tune=lora", "train.tune: of model=…"),
        ("mdm lora.r=2", "lora.r: of train.tune=lora, and full is tuned"),
        ("mdm data.length=9 data.columns.text=a", "data.length, data.columns: of data=FILE, which is not set"),
        ("mdm mask_id=3 device_map=auto", "mask_id, device_map: of a host's checkpoint"),
        ("quality model=sudoku corrector.weight=1", "corrector.weight: of `prism train mdm`"),
        ("quality model=sudoku train.tune=head lora.r=2", "lora.r: of train.tune=lora, and head is tuned"),
        ("quality model=sudoku quality.groups=8", "quality.groups: not read by"),
        ("quality model=sudoku quality.objective=cavity quality.k=2", "quality.k: not read by quality.objective=cav"),
        ("quality model=code task=prose", "task = prose: code is a model of the task code"),
        ("mdm model=sudoku task=sudoku4", "task = sudoku4: sudoku is a model of the task sudoku"),
    ],
)  # fmt: skip
def test_a_setting_that_a_run_would_not_read_is_refused(given: str, said: str, tmp_path: Path) -> None:
    kind, *settings = given.split()
    with pytest.raises(ConfigError, match=said):
        train(kind, load([*settings, f"out={tmp_path}/out"]))
    assert not list(tmp_path.glob("out/*"))


def test_a_finished_run_is_extended(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """While the learning rate warms up it does not depend on the length: then the curve is that of one run."""
    more = ("train.warmup=20", "train.save_every=4", "train.eval_every=1")
    whole = train("mdm", settings(tmp_path / "whole", *more, "train.steps=7"))
    train("mdm", settings(tmp_path / "parts", *more, "train.steps=3"))
    parts = train("mdm", settings(tmp_path / "parts", *more, "train.steps=7", "train.resume=true"))
    assert "extended to 7 steps" in caplog.text
    assert len(curve(whole)) == 7 and curve(parts) == curve(whole) and same(weights(parts), weights(whole))
    assert json.loads((parts / "training_mdm.json").read_text())["settings"]["train.steps"] == 7
    for other in ("train.steps=5", "train.lr=1"):
        with pytest.raises(ConfigError, match=r"goes on with more train.steps and nothing else changed"):
            train("mdm", settings(parts, *more, "train.steps=7", other, "train.resume=true"))
    assert same(weights(parts), weights(whole))


def test_an_old_model_outlives_a_disk_that_fills_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = train("mdm", settings(tmp_path, "train.steps=1"))
    before = {path.name: path.read_bytes() for path in made.iterdir() if path.is_file() and "training" not in path.name}

    def full(path: Path, content: dict) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("prism_plugin.models.checkpoint.save_json", full)  # the weights are written by then
        with pytest.raises(PrismError, match="No space left"):
            train("mdm", settings(tmp_path, "train.steps=2", "overwrite=true"))
    assert {name: (made / name).read_bytes() for name in before} == before
    assert not list(made.glob(".*.tmp"))


def test_a_checkpoint_holds_what_is_trained_and_no_more(sudoku4_folder: Path, tmp_path: Path, broken_off) -> None:
    more = (f"model={sudoku4_folder}", "train.tune=head", "train.steps=4", "train.save_every=2", "train.eval_every=1")
    broken_off("quality", settings(tmp_path / "parts", *more), 8 * 3)
    (checkpoint,) = (tmp_path / "parts" / "checkpoints").iterdir()
    names = load_file(checkpoint / "model.safetensors").keys()
    assert names and all(name.startswith("denoiser.head.") for name in names)
    parts = train("quality", settings(tmp_path / "parts", *more, "train.resume=true"))
    whole = train("quality", settings(tmp_path / "whole", *more))
    assert curve(parts) == curve(whole) and same(weights(parts), weights(whole))


def test_revealed_tokens_and_the_samplers_own_states_are_judged(sudoku4_folder: Path) -> None:
    last = {name: float(value) for name, value in curve(sudoku4_folder)[-1].items()}
    assert last["solved"] > 0.3 and last["states_auroc"] > 0.6 and 0 < last["states_brier"] < 0.3
    assert last["corr_logit"] > 0.2 and -1 <= last["corr_log_evidence"] <= 1 and last["kl"] > 0
    with (sudoku4_folder / "reliability.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["where"] for row in rows} == {"revealed", "states"}
    for where, brier in (("revealed", last["brier"]), ("states", last["states_brier"])):
        bins = [{name: float(row[name]) for name in row if name != "where"} for row in rows if row["where"] == where]
        assert all(0 <= row["predicted"] <= 1 and 0 <= row["right"] <= 1 and row["count"] > 0 for row in bins)
        spread = sum(row["count"] * row["right"] * (1 - row["right"]) for row in bins)
        gap = sum(row["count"] * (row["right"] - row["predicted"]) ** 2 for row in bins)
        assert (spread + gap) / sum(row["count"] for row in bins) == pytest.approx(brier, abs=0.02)
    assert (sudoku4_folder / "reliability.png").read_bytes().startswith(b"\x89PNG")


def test_the_states_that_are_judged_hold_what_the_sampler_wrote(sudoku4_model: PrismModel) -> None:
    """At one pass a text is written whole: what is judged is every masked token, once, twice, and once more."""
    task, config = get_task("sudoku4"), load([*SMALL, "train.eval_forwards=1", "sampler=confidence"])
    objective = QualityObjective(sudoku4_model, 0, config.quality).eval()
    number = torch.arange(6)
    tokens = task.texts(0, 6, 1)
    masked = losses.ranks(0, number, 16, losses.CONTEXT) < losses.noise_level(0, number)[:, None]
    with torch.no_grad():
        parts, told, solved = written(objective, task, config, tokens, number)
    assert [len(scores) for scores, _ in parts] == [0, 0, 0] and 0 <= solved <= 1
    assert [[len(figures) for figures in one] for one in told] == [[0] * 3] * 3
    config.train.eval_forwards = 16
    with torch.no_grad():
        parts, told, _ = written(objective, task, config, tokens, number, maskable=masked & (number[:, None] != 5))
    sizes = [len(scores) for scores, _ in parts]
    assert 0 < sizes[0] <= sizes[1] <= sizes[2] <= int(masked[:5].sum())
    assert all(labels.dtype == torch.bool and labels.float().mean() > 0.4 for _, labels in parts)
    for (scores, _), (said, hidden, drawn) in zip(parts, told, strict=True):
        assert torch.equal(said, torch.nn.functional.logsigmoid(scores))
        assert bool((hidden <= 0).all()) and bool((drawn <= 0).all()) and len(said) == len(hidden) == len(drawn)


def test_tensorboard_shows_the_same_figures(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed (extra: train)")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    made = train("mdm", settings(tmp_path, "train.steps=2", "train.eval_every=1", "train.report=tensorboard"))
    seen = EventAccumulator(str(made / "tensorboard")).Reload()
    shown = [(event.step, event.value) for event in seen.Scalars("held_out/loss")]
    assert shown == [(int(row["step"]), pytest.approx(float(row["loss"]))) for row in curve(made)]


def test_accumulated_passes_add_up_to_the_batch(tmp_path: Path) -> None:
    more = ("train.steps=3", "train.eval_every=1", "train.bf16=false")
    one = curve(train("mdm", settings(tmp_path / "1", *more)))
    four = curve(train("mdm", settings(tmp_path / "4", *more, "train.accumulate=4")))
    assert [float(row["loss"]) for row in four] == pytest.approx([float(row["loss"]) for row in one], rel=1e-5)
    with pytest.raises(ConfigError, match="batch_size = 8 cannot be shared evenly by 3 passes"):
        train("mdm", settings(tmp_path / "3", *more, "train.accumulate=3"))


def test_training_stops_early_when_nothing_gets_better(tmp_path: Path) -> None:
    more = ("train.steps=20", "train.eval_every=1", "train.lr=1e-30", "train.patience=2")
    assert len(curve(train("mdm", settings(tmp_path, *more)))) == 3


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_batch(tmp_path: Path) -> None:
    model = PrismModel.from_pretrained(train("mdm", settings(tmp_path / "m", "train.steps=1")))
    with torch.no_grad():
        model.backbone.unembed.weight.fill_(torch.nan)
    with pytest.raises(PrismError, match=r"not finite at step 1: lower train.lr .*not_finite.safetensors"):
        fit("mdm", MDMObjective(model, 0), get_task("sudoku4"), settings(tmp_path / "out"), model.save_pretrained)
    kept = load_file(tmp_path / "out" / "not_finite.safetensors")
    assert torch.equal(kept["tokens"], get_task("sudoku4").texts(0, 8, 0)) and kept["number"].tolist() == list(range(8))
    assert not (tmp_path / "out" / "model.safetensors").exists()


class Texts(SudokuTask):
    """Texts that cannot be trained on."""

    def __init__(self, wrong: torch.Tensor) -> None:
        super().__init__(2, "wrong")
        self.wrong = wrong

    def texts(self, first: int, count: int, stream: int) -> torch.Tensor:
        return self.wrong


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (torch.zeros(0, 16, dtype=torch.long), "data set is empty"),
        (torch.ones(1, 17, dtype=torch.long), "17 tokens is longer than the model's 16"),
        (torch.full((1, 16), 5), "tokens 5 to 5 came: the model knows 0 to 4"),
    ],
)
def test_texts_that_cannot_be_trained_on_are_refused_before_a_step(wrong, said, sudoku4_folder, tmp_path: Path) -> None:
    model = PrismModel.from_pretrained(sudoku4_folder)
    with pytest.raises(DataError, match=said):
        fit("mdm", MDMObjective(model, 0), Texts(wrong), settings(tmp_path), model.save_pretrained)


def test_settings_that_cannot_be_used_are_refused(sudoku4_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"quality.k = 17 is more than the 16"):
        train("quality", settings(tmp_path, f"model={sudoku4_folder}", "quality.k=17"))
    with pytest.raises(ConfigError, match="model is not set"):
        train("quality", settings(tmp_path))
    model = PrismModel.from_pretrained(sudoku4_folder)
    attach_head(model, "dit")
    tokens = get_task("sudoku4").texts(0, 2, 0)
    with pytest.raises(DataError, match="every position of this batch is protected"):
        QualityObjective(model, 0, QualityConfig())(tokens, torch.arange(2), torch.zeros_like(tokens, dtype=torch.bool))
    model.head = None
    with pytest.raises(ConfigError, match="no head to train"):
        QualityObjective(model, 0, QualityConfig())


def test_two_processes_train_as_one(sudoku4_folder: Path, tmp_path: Path) -> None:
    """The same texts, the mean over all revealed tokens, one log: the curve differs by rounding alone."""
    more = [
        *SMALL,
        f"model={sudoku4_folder}",
        "train.steps=4",
        "train.eval_every=1",
        "train.save_every=2",
        "quality.k=3",
        "train.bf16=false",
    ]
    one = curve(train("quality", load([*more, f"out={tmp_path}/one"])))
    config = Path(training.__file__).with_name("configs") / "ddp.yaml"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config),
              "--module", "prism_plugin.cli", "train", "quality"]  # fmt: skip
    done = subprocess.run([*launch, *more, f"out={tmp_path}/two"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Written:") == 1, "the first of the two speaks"
    assert json.loads((tmp_path / "two/training_quality.json").read_text())["processes"] == 2
    two = curve(tmp_path / "two")
    assert len(two) == len(one) == 4
    for name in ("loss", "quality", "mdm", "brier"):
        assert [float(row[name]) for row in two] == pytest.approx([float(row[name]) for row in one], rel=2e-4)


def test_bf16_is_what_is_faster_here_and_a_run_that_goes_on_keeps_to_it(
    tmp_path: Path, broken_off, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prism_plugin.models.precision.halves_are_faster", lambda device: True)
    more = ("train.steps=4", "train.save_every=2")
    broken_off("mdm", settings(tmp_path, *more), 8 * 3)
    monkeypatch.setattr("prism_plugin.models.precision.halves_are_faster", lambda device: False)
    folder = train("mdm", settings(tmp_path, *more, "train.resume=true"))
    assert json.loads((folder / "training_mdm.json").read_text())["settings"]["train.bf16"] is True
    other = train("mdm", settings(tmp_path / "new", "train.steps=1"))
    assert json.loads((other / "training_mdm.json").read_text())["settings"]["train.bf16"] is False
