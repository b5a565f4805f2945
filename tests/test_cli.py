"""The ``prism`` command: what it prints, and that anything wrong is one line and exit code 2 before any work."""

import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
from torch import Tensor

from prism_plugin import cli
from prism_plugin.api import enable
from prism_plugin.commands.info import TOPICS
from prism_plugin.errors import CheckpointError
from prism_plugin.models.backbone import BackboneConfig
from prism_plugin.models.checkpoint import PrismModel
from prism_plugin.sampling import drive
from prism_plugin.sampling.config import SamplerConfig, resolve
from prism_plugin.sampling.drive import Result, generate
from prism_plugin.sampling.methods import SURE, default_for
from prism_plugin.sampling.presets import presets
from prism_plugin.sampling.trace import Trace
from prism_plugin.tasks import get_task

PUZZLE = "1..4.........3.."


def run(capsys: pytest.CaptureFixture, *argv: str) -> str:
    assert cli.main(argv) == 0, capsys.readouterr().err
    return "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("sampel", "command 'sampel' is not known. Nearest: sample."),
        ("demo --cluse 3", "option '--cluse' is not known. Nearest: --clues."),
        ("demo --puzzles x", "Invalid value for '--puzzles'"),
        ("demo --puzzles 0", "--puzzles 0: allowed --puzzles >= 1"),
        ("demo --clues 99 --model MODEL --out OUT/out", "clues = 99"),
        ("info sampler", "topic 'sampler' is not known. Nearest: samplers."),
        ("train mdn", "command 'mdn' is not known. Nearest: mdm."),
        ("train mdm train.stepz=3", "Nearest: train.steps."),
        ("train mdm train.steps=0 out=x", "train.steps = 0"),
        ("sample sampler=pirsm model=MODEL", "preset 'pirsm' is not known. Nearest: prism."),
        ("sample sampler.etta=3", "Nearest: sampler.eta."),
        ("sample sampler.eta=1.4 model=MODEL", "sampler.eta: 'prism' has no part with it; select=binomial"),
        ("sample sampler.steps=0 model=MODEL", "sampler.steps = 0"),
        ("sample sampler.steps=many", "sampler.steps = 'many'"),
        ("sample puzzel=12", "setting 'puzzel' is not known. Nearest: puzzle."),
        ("sample model=nowhere", "no model at 'nowhere': no folder 'nowhere', and no hub id"),
        ("sample model=MODEL prompt=x", "was trained on 'sudoku4', which has no prompts"),
        ("import nothing.ckpt", "out is not set"),
        ("import nothing.ckpt out=OUT", "nothing.ckpt is not there"),
        ("import nothing.ckpt out=OUT mask=3", "setting 'mask' is not known. Nearest: mask_id"),
        ("sample model=MODEL puzzle=11..............", "impossible Sudoku: row 1 holds 1 twice"),
        ("sample model=MODEL puzzle=123....4........", "leave no solution"),
        ("sample model=MODEL puzzle=123.", "16 cells, 4 came"),
        ("sample model=MODEL puzzle=12a.............", "digits, 0 or . where blank"),
        ("sample model=MODEL puzzle=5...............", "0 (blank) to 4"),
        ("sample model=MODEL file=nowhere.txt", "'nowhere.txt' cannot be read: No such file"),
        ("sample model=MODEL clues=3 file=x", "file and clues are both set"),
        ("sample model=MODEL count=0", "count = 0"),
        ("sample model=MODEL trace=FILE/run.npz", "cannot be written"),
        ("demo --model MODEL --out FILE/out", "cannot be written"),
        ("schedule --plot FILE/x.png", "cannot be written"),
        ("schedule length=0", "length = 0"),
        ("schedule sampler=prims", "Nearest: prism."),
        ("schedule length=8 sampler.steps=4 --plot OUT/x.txt", "'.txt' is no kind of picture"),
        ("trace view nowhere.npz", "no trace at 'nowhere.npz'"),
        ("trace veiw nowhere.npz", "command 'veiw' is not known. Nearest: view."),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_2(
    argv: str, said: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    if "MODEL" in argv:
        argv = argv.replace("MODEL", str(request.getfixturevalue("sudoku4_folder")))
        capsys.readouterr()
    (tmp_path / "file").touch()
    argv = argv.replace("FILE", str(tmp_path / "file")).replace("OUT", str(tmp_path))
    assert cli.main(argv.split()) == 2
    err = capsys.readouterr().err
    assert said in err and err.startswith("prism: ")
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"], "nothing is written"


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from prism_plugin import cli\ntry: cli.main(sys.argv[1:])\nfinally: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")
    for command in ("demo", "train", "sample", "import", "info", "trace", "schedule"):
        assert f"\n  {command}" in done.stdout and f"prism {command}" in done.stdout


@pytest.mark.parametrize("command", ["demo", "train", "sample", "import", "trace", "schedule"])
def test_help_of_each_command_has_examples(command: str, capsys: pytest.CaptureFixture) -> None:
    out = run(capsys, command, "--help")
    assert f"  prism {command}" in out or command == "trace"


def test_sample_solves_a_puzzle_keeps_its_clues_and_records(
    sudoku4_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    trace = tmp_path / "run.npz"
    out = run(capsys, "sample", f"model={sudoku4_folder}", f"puzzle={PUZZLE}", "sampler=confidence",
              "sampler.steps=16", "sampler.temperature=0", f"trace={trace}")  # fmt: skip
    cells = re.findall(r"^(\d) (\d) (\d) (\d)$", out, re.M)
    assert len(cells) == 4
    assert all(given in (".", cell) for given, cell in zip(PUZZLE, "".join(map("".join, cells)), strict=True))
    assert "solved: " in out and "13 forward passes" in out
    kept = Trace.load(trace)
    assert "".join(map(str, kept.tokens[-1, 0])) == "".join(map("".join, cells))

    page = tmp_path / "run.html"
    assert f"Written: {page}" in run(capsys, "trace", "view", str(trace), "--html", str(page)).replace("\n", "")
    assert page.read_text().startswith("<!doctype html>")
    assert "step 13" in run(capsys, "trace", "view", str(trace), "--all")
    assert cli.main(["trace", "view", str(trace), "--row", "7"]) == 2
    assert "row 7: the trace has 1 text" in capsys.readouterr().err


def test_sample_goes_on_with_a_text_and_fills_its_holes(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    task = get_task("code")
    shape = BackboneConfig(vocab_size=task.vocab_size, mask_id=0, length=128, hidden_size=16, num_layers=1, num_heads=1)
    PrismModel(shape, "code").save_pretrained(tmp_path / "m")
    settings = [f"model={tmp_path / 'm'}", "sampler=confidence", "sampler.steps=3"]
    out = run(capsys, "sample", *settings, "count=2", "prompt=x = y[0, [MASK*4]]\\nreturn x[/red][MASK]")
    texts = out.split(" forward passes")
    assert len(texts) == 3
    for text in texts[:2]:
        assert "x = y[0, " in text and "]\nreturn x[/red]" in text and "[MASK" not in text
    assert "2 texts in" in out
    trace = tmp_path / "run.npz"
    run(capsys, "sample", *settings, "prompt=def f(x): return [MASK*3]", f"trace={trace}")
    assert "def f(x): return ▁▁▁" in run(capsys, "trace", "view", str(trace))
    (tmp_path / "prompt.py").write_text("def f(x):\n    return [MASK*2]\n")
    assert "def f(x):\n    return " in run(capsys, "sample", *settings, f"file={tmp_path / 'prompt.py'}")
    text, first = 'print("a\\nb")\nx = ', tmp_path / "first.txt"
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": f"{text}[MASK*2]"}))
    run(capsys, "sample", *settings, f"prompts={tmp_path / 'p.jsonl'}", f"out={first}")
    assert first.read_text().startswith('print("a\\\\nb")\\nx = '), "a backslash is told from a line feed"
    out = run(capsys, "sample", *settings, f"prompts={first}")
    assert 'print("a\\\\nb")\\nx = ' in out and "\\\\\\" not in out, "and comes back"
    first.write_text("x = [MASK]\n\ny = [MASK]\n")
    assert "1 blank line left out" in run(capsys, "sample", *settings, f"prompts={first}")
    first.write_text("")
    assert cli.main(["sample", *settings, f"file={first}"]) == 2
    assert "is empty" in capsys.readouterr().err
    assert cli.main(["sample", *settings, "prompt=é"]) == 2
    assert "'é' is not known to task 'code'" in capsys.readouterr().err


def test_sample_takes_puzzles_from_a_file_and_names_a_bad_one(
    sudoku4_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "puzzles.txt"
    task = get_task("sudoku4")
    prompts = task.prompts(3, 12)
    file.write_text("\n".join("".join(map(str, prompt.tolist())) for prompt in prompts) + "\n\n")
    out = run(capsys, "sample", f"model={sudoku4_folder}", f"file={file}", "sampler.steps=4")
    assert out.count("solved") >= 3 and "of 3 solved" in out
    rows = ["".join(map(str, row)) for row in prompts[0].view(4, 4).tolist()]
    file.write_text("\n".join([*rows, "", *rows, "".join(rows)]))
    assert "of 3 solved" in run(capsys, "sample", f"model={sudoku4_folder}", f"file={file}", "sampler.steps=4")
    for text, said in {
        f"{PUZZLE}\n11..............\n": "line 2: impossible Sudoku",
        "\n".join(
            [*rows[:3], "".join(rows)]
        ): "line 4: a grid has 4 lines of 4 cells, or one line: 3 stand before this",
        "\n".join([*rows, *rows[:1]]): "line 5: a grid has 4 lines of 4 cells, or one line: 1 came",
        "\n": "is empty: a puzzle or prompt is wanted",
    }.items():
        file.write_text(text)
        assert cli.main(["sample", f"model={sudoku4_folder}", f"file={file}"]) == 2
        assert said in capsys.readouterr().err.replace("\n", " ")


def test_sample_draws_held_out_puzzles_and_texts_from_nothing(
    sudoku4_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    for extra in ((), ("clues=8",)):
        out = run(capsys, "sample", f"model={sudoku4_folder}", "count=2", "sampler.steps=4", *extra)
        assert "of 2 solved" in out and len(re.findall(r"^\d \d \d \d$", out, re.M)) == 8


def test_a_damaged_model_is_one_line(sudoku4_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for file in sudoku4_folder.glob("*.*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert cli.main(["sample", f"model={tmp_path}"]) == 2
    assert re.fullmatch(r"prism: .*model\.safetensors is damaged: .*Copy it again\.\n", capsys.readouterr().err)
    with pytest.raises(CheckpointError):
        PrismModel.from_pretrained(tmp_path)


def test_info_lists_every_name(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    samplers = run(capsys, "info", "samplers")
    assert all(name in samplers for name in presets)
    for topic in TOPICS:
        assert run(capsys, "info", topic).strip()
    overview = run(capsys, "info")
    assert all(word in overview for word in ("torch", "ops on cpu", "prism-evidence", "sudoku4", "self_likelihood"))
    assert "sampler.eta" in run(capsys, "info", "settings")
    assert "Probability w_i of the token when it was written" in run(capsys, "info", "parts")


def test_schedule_counts_what_the_sampler_does(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    plot = tmp_path / "plot.svg"
    out = run(capsys, "schedule", "sampler=prism", "length=32", "sampler.steps=8", "--plot", str(plot))
    rows = [tuple(map(float, row)) for row in re.findall(r"^ +(\d+) +([\d.]+) +([\d.]+) +([\d.]+)  ", out, re.M)]
    assert [row[0] for row in rows] == list(range(1, 9))
    visible = [0, *(row[1] for row in rows)]
    for (_, after, filled, remasked), before in zip(rows, visible[:-1], strict=True):
        assert after == before + filled - remasked
    assert visible[-1] == 32 and rows[3][3] == 4, "4 remasks in a middle step"
    assert "<svg" in plot.read_text()


def test_without_a_name_a_sample_is_made_by_the_model_s_own_sampler(capsys: pytest.CaptureFixture) -> None:
    few = ["model=code", "prompt=x = [MASK*3]", "sampler.steps=2"]
    run(capsys, "sample", *few, "--json")
    assert default_for(PrismModel.from_pretrained("code")) == {"name": "prism-evidence", "tau": 1.0}
    assert default_for(PrismModel.from_pretrained("sudoku"))["name"] == "prism-share"  # its folder says so
    assert cli.main(["sample", *few, "sampler.tau=0.5"]) == 0 and "prism-evidence" in "".join(capsys.readouterr())
    assert cli.main(["sample", *few, "sampler=prism"]) == 0 and "sampler prism\n" in "".join(capsys.readouterr())


@pytest.mark.parametrize(("name", "tau"), [("prism-evidence", 1.0), ("prism-correct", SURE), ("shadow-evidence", 0.1)])
def test_what_a_head_wants_of_a_sampler_is_the_same_wherever_that_is_named(
    name: str, tau: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    used: list[SamplerConfig] = []

    def keep(model: PrismModel, tokens: Tensor, config: SamplerConfig, **given: object) -> Result:
        used.append(resolve(config))
        return generate(model, tokens, config, **given)

    monkeypatch.setattr(drive, "generate", keep)
    run(capsys, "sample", "model=code", "prompt=x = [MASK*3]", f"sampler={name}", "sampler.steps=2")
    used += [resolve(enable("code", sampler=name).config()), resolve(enable("code").config(name))]
    assert [config.options["select.tau"] for config in used] == [tau] * 3


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_a_command_keeps_freed_memory_and_leaves_the_settings_of_others(tmp_path: Path) -> None:
    code = (
        "import resource, torch; from prism_plugin.cli import keep_memory; keep_memory()\n"
        "def turn(): held = [torch.ones(2**20) for _ in range(8)]\n"
        "turn(); turn(); before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(4): turn()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    faults = [
        int(subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout)
        for env in (clean, clean | {"MALLOC_TRIM_THRESHOLD_": "131072"})
    ]
    assert faults[0] < 2_000 < 10_000 < faults[1], "pages of 4 KiB: 4 turns of 32 MiB are 32,768"
