"""Whatever is given wrongly: one line, exit code 2, nothing written; what is finished stays."""

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from prism_plugin import cli
from prism_plugin.files import write_atomic
from prism_plugin.models.checkpoint import ASSETS

VALUES = ("abc", "-1", "1.5", "nan", "inf", "1e999", "true", "null", "[1,2]", "{a: 1}", "${x}", "???", "é", "'", "{",
          "*a", "1_0x", "10**3", "!!python/object:os.system")  # fmt: skip
SMALL = ("train.steps=2", "train.batch_size=4", "train.warmup=0", "train.eval_texts=4", "train.eval_forwards=0",
         "train.save_every=0", "train.threads=1", "task=sudoku4")  # fmt: skip
SIZE = ("backbone.hidden_size=16", "backbone.num_layers=1", "backbone.num_heads=1")


def refused(capsys: pytest.CaptureFixture, *argv: str) -> str:
    """The one line that is said."""
    there = sorted(Path.cwd().rglob("*"))
    capsys.readouterr()
    assert cli.main(argv) == 2, argv
    said = capsys.readouterr().err
    assert said.startswith("prism: ") and said.count("\n") == 1 and "unforeseen" not in said, (argv, said)
    assert sorted(Path.cwd().rglob("*")) == there, argv
    return said


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in, and no network to ask."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path


@pytest.mark.parametrize(
    "setting",
    ["sampler.steps", "sampler.top_k", "sampler.seed", "count", "clues", "sampler.step_on", "sampler.num_remask"],
)
def test_values_of_the_wrong_kind(setting: str, capsys: pytest.CaptureFixture) -> None:
    for value in VALUES:
        if value in ("null", "-1", "1.5", "inf") and setting in ("sampler.seed", "sampler.step_on"):
            continue
        if value == "null" and setting.startswith("sampler."):  # the preset's
            continue
        refused(capsys, "sample", f"{setting}={value}")


@pytest.mark.parametrize(
    "argv",
    [
        "--foo", "-x", "x", "--foo sample", "train foo", "train mdm", "train mdm out=o --foo", "sample =", "sample .=1",
        "sample count.x=3", "sample sampler.name.x=3", "sample --count 3", "sample -5", "sample trace=/dev/full",
        "sample out=/dev/null", "sample out=/proc/x/y", "sample model=code prompt=[MASK*x]", "sample puzzle=²",
        "sample file=nowhere", "sample model=code prompts=nowhere", "demo --puzzles -1", "demo --clues 82",
        "demo --forwards 0", "schedule --plot x.txt", "schedule --plot", "schedule length=99999999",
        "schedule texts=99999999", "info x", "info samplers x", "info settings x", "trace view x --row x",
        "train mdm out=o task=sudoku4 backbone.num_heads=0", "train mdm out=o task=sudoku4 backbone.hidden_size=-64",
        "train quality model=code out=o data=nowhere.jsonl --dry-run", "train quality model=user/name out=o",
        "train --dry-run quality model=nowhere", "sample model=user/name",
    ],
)  # fmt: skip
def test_words_and_files_that_cannot_be_used(argv: str, capsys: pytest.CaptureFixture) -> None:
    refused(capsys, *argv.split())


@pytest.mark.parametrize(
    ("file", "edit"),
    [
        ("config.json", {"num_heads": 0}), ("config.json", {"hidden_size": -64}), ("config.json", {"length": -1}),
        ("config.json", {"num_layers": "six"}), ("config.json", {"vocab_size": 10**12}), ("config.json", None),
        ("config.json", b""), ("config.json", b"\xff\xfe"), ("config.json", b"[]"), ("prism_config.json", b"{"),
        ("model.safetensors", b""), ("head.safetensors", b"\0" * 64),
    ],
)  # fmt: skip
def test_a_model_that_is_damaged(file: str, edit: object, here: Path, capsys: pytest.CaptureFixture) -> None:
    shutil.copytree(ASSETS / "code", here / "m")
    if isinstance(edit, bytes):
        (here / "m" / file).write_bytes(edit)
    else:
        content = json.loads((here / "m" / file).read_text())
        content["backbone"] = None if edit is None else {**content["backbone"], **edit}  # type: ignore[dict-item]
        (here / "m" / file).write_text(json.dumps(content))
    refused(capsys, "sample", "model=m")


def test_what_nobody_foresaw_is_one_line_too(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prism_plugin.config.load", lambda *given: 1 / 0)
    assert cli.main(["sample"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "unforeseen ZeroDivisionError" in said and "CONTRIBUTING.md" in said
    assert cli.main(["sample", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_what_is_finished_stays_unless_overwrite_is_said(here: Path, capsys: pytest.CaptureFixture) -> None:
    run = ["train", "mdm", *SMALL, *SIZE, "out=m"]
    assert cli.main(run) == 0
    before = (here / "m/model.safetensors").read_bytes()
    assert "overwrite=true" in refused(capsys, *run)
    assert "train.lr = 0.5 (was 0.001)" in refused(capsys, *run, "train.lr=0.5", "train.resume=true")
    assert "train.steps = 3 (was 2)" in refused(capsys, *run, "train.steps=3", "train.resume=true")
    assert cli.main([*run, "train.resume=true"]) == 0
    assert (here / "m/model.safetensors").read_bytes() == before, "it says that it is done"
    assert "is the model that is trained on" in refused(
        capsys, "train", "quality", *SMALL, "model=m", "out=m", "overwrite=true"
    )
    assert cli.main([*run, "overwrite=true", "train.seed=1"]) == 0
    assert (here / "m/model.safetensors").read_bytes() != before


def test_a_file_is_replaced_where_overwrite_is_said(here: Path, capsys: pytest.CaptureFixture) -> None:
    run = ["sample", "model=code", "prompt=x", "sampler.steps=1", "out=o.txt"]
    assert cli.main(run) == 0
    assert "overwrite=true" in refused(capsys, *run)
    assert cli.main([*run, "overwrite=true"]) == 0


def test_a_file_has_the_mode_that_open_gives_and_a_link_stays_one(here: Path) -> None:
    def write(name: str) -> int:
        with write_atomic(name) as temporary:
            os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))
        return stat.S_IMODE(Path(name).stat().st_mode)

    Path("opened").touch()
    assert write("new") == stat.S_IMODE(Path("opened").stat().st_mode)
    Path("opened").chmod(0o640)
    Path("link").symlink_to("opened")
    assert write("link") == 0o640 and Path("link").is_symlink()


def test_many_prompts_one_result_a_line(here: Path, capsys: pytest.CaptureFixture) -> None:
    Path("p.jsonl").write_text('{"prompt": "def f(x):\\n"}\n"import"\n', encoding="utf-8")
    settings = ["sample", "model=code", "prompts=p.jsonl", "sampler.steps=2"]
    assert cli.main([*settings, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["text"][:6] for row in rows] == ["def f(", "import"] and all(row["forwards"] for row in rows)
    assert cli.main([*settings, "--quiet"]) == 0
    found = capsys.readouterr()
    assert len(found.out.splitlines()) == 2 and not found.err


def test_json_of_info_and_schedule(capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["info", "samplers", "--json"]) == 0
    assert {"sampler": "mdlm", "settings": "fill=hazard"} in json.loads(capsys.readouterr().out)
    assert cli.main(["schedule", "length=16", "sampler.steps=4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["visible"][-1] == 16


@pytest.mark.parametrize("topic", ["", "samplers", "samplers prism", "parts", "hosts", "models"])
def test_tables_fit_80_columns(topic: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["info", *topic.split()]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80 and not any("…" in line for line in lines if topic == "samplers")


COMMANDS = ["", "demo", "import", "info", "sample", "schedule", "trace", "trace view", "train", "train mdm",
            "train quality"]  # fmt: skip


def test_help_fits_80_columns(capsys: pytest.CaptureFixture) -> None:
    for command in COMMANDS:
        assert cli.main([*command.split(), "--help"]) == 0
        assert max(map(len, capsys.readouterr().out.splitlines())) <= 80, command


def test_a_broken_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m prism_plugin info settings 2>&1 1>&3 | cat"
    done = subprocess.run(["bash", "-c", f"{{ {command}; }} 3>&1 >/dev/null | head -n 0; exit ${{PIPESTATUS[0]}}"])
    assert done.returncode == 0
    done = subprocess.run([sys.executable, "-m", "prism_plugin", "--version"], capture_output=True, text=True)
    assert done.stdout.startswith("prism-plugin ") and not done.stderr


def test_a_hub_that_cannot_be_reached_is_asked_once(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    from prism_plugin import files

    asked: list[str] = []

    class Session:
        def head(self, url: str, timeout: float) -> None:
            asked.append(url)
            raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.utils.get_session", Session)
    monkeypatch.setenv("HF_HUB_OFFLINE", "")
    files.hub_answers.cache_clear()
    assert "cannot be reached" in refused(capsys, "sample", "model=user/name")
    assert "cannot be reached" in refused(capsys, "train", "quality", "model=user/name", "out=o")
    assert len(asked) == 1
    files.hub_answers.cache_clear()


def test_what_would_end_the_process_or_recurse_is_refused(here: Path, capsys: pytest.CaptureFixture) -> None:
    assert "threads <= 1024" in refused(capsys, "train", "mdm", *SMALL, *SIZE, "out=m", "train.threads=100000000")
    for words in (("sample", "out=a\0b"), ("import", "a\0b", "out=i"), ("demo", "--out", "a\0b")):
        assert "zero byte" in refused(capsys, *words)
    (here / "deep").mkdir()
    (here / "deep" / "config.json").write_text("[" * 100000)
    assert "is not JSON" in refused(capsys, "sample", "model=deep")
    torch.save({"state_dict": 3}, here / "number.ckpt")
    assert "holds no state_dict but a int" in refused(capsys, "import", "number.ckpt", "out=i")
