"""The model ``prism`` and the task ``prism_sudoku`` under the real lm-eval, with a tiny model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("lm_eval", reason="lm_eval is not installed (extra: lm-eval)")
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model

from prism_plugin.errors import CheckpointError, ConfigError
from prism_plugin.evaluation import lm_eval as backend
from prism_plugin.models.backbone import BackboneConfig
from prism_plugin.models.checkpoint import PrismModel
from prism_plugin.tasks import get_task

ROOT = Path(__file__).parents[2]
TASKS = ROOT / "prism_plugin/evaluation/tasks"
GRID = "1 2 3 4\n. 4 1 2\n.143\n4.21\n"


def tiny(folder: Path, box: int) -> str:
    """A folder with an untrained model of Sudoku; what it writes is nonsense, but always the same."""
    torch.manual_seed(0)
    size = box * box
    config = BackboneConfig(
        vocab_size=size + 1, mask_id=0, length=size * size, grid=box, hidden_size=16, num_layers=1, num_heads=2,
        cond_size=8,
    )  # fmt: skip
    PrismModel(config, "sudoku" if box == 3 else "sudoku4").save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def model4(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny(tmp_path_factory.mktemp("sudoku4"), 2)


def requests(*contexts: str, **asked: object) -> list[Instance]:
    return [Instance("generate_until", {}, (context, {"until": [], **asked}), n) for n, context in enumerate(contexts)]


def test_registered_and_generating_what_keeps_the_clues(model4: str) -> None:
    lm = get_model("prism").create_from_arg_string(f"model={model4},sampler=random,sampler.steps=4")
    answer = lm.generate_until(requests("Solve.\n" + GRID), disable_tqdm=True)[0]
    cells = [int(c) for c in answer.split()]
    clues = [int(c) for c in GRID.replace(".", "0") if c.isdigit()]
    assert len(cells) == 16
    assert 0 not in cells
    assert all(clue in (0, cell) for clue, cell in zip(clues, cells, strict=True))


def test_answers_do_not_depend_on_the_batch(model4: str) -> None:
    contexts = [GRID, "....\n" * 4, GRID.replace("1", "."), "....\n" * 4, "1...\n" + "....\n" * 3]
    answers = [
        backend.PrismLM(model4, batch_size=size, sampler="random", **{"sampler.steps": 3}).generate_until(
            requests(*contexts), disable_tqdm=True
        )
        for size in (1, 2, 5)
    ]
    assert answers[0] == answers[1] == answers[2]
    assert answers[0][1] != answers[0][3], "equal requests must differ, or repeats would be copies"


def test_gen_kwargs_are_checked_settings_of_the_sampler(model4: str) -> None:
    assert backend.sampler_settings({"until": ["x"], "max_gen_toks": 3}) == {}
    assert backend.sampler_settings({"do_sample": False}) == {"temperature": 0.0}
    asked = {"do_sample": False, "temperature": 0.5, "steps": 2}
    assert backend.sampler_settings(asked) == {"temperature": 0.5, "steps": 2}
    lm = backend.PrismLM(model4, sampler="random")
    with pytest.raises(ConfigError, match="steps"):
        lm.generate_until(requests(GRID, steps=0), disable_tqdm=True)


def test_without_a_head_the_score_falls_back(model4: str) -> None:
    assert backend.PrismLM(model4).get_model_info()["prism_sampler"]["score"] == "self_likelihood"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"sampler": "pirsm"}, "Nearest: prism"),
        ({"sampler": "random", "sampler.stepz": 4}, "sampler.stepz"),
        ({"sampler": "random", "sampler.eta": 1.4}, "eta"),
        ({"sampler": "random", "batch_size": 0}, "batch_size"),
        ({"samplr": "random"}, "Nearest: sampler"),
    ],
)
def test_wrong_arguments_are_refused_when_the_model_is_made(model4: str, arguments: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        backend.PrismLM(model4, **arguments)


def test_a_model_that_is_not_there() -> None:
    with pytest.raises(CheckpointError, match="no_such_model"):
        backend.PrismLM("no_such_model", sampler="random")


def test_likelihoods_and_chat_are_refused_with_a_reason(model4: str) -> None:
    lm = backend.PrismLM(model4, sampler="random")
    for ask in (lm.loglikelihood, lm.loglikelihood_rolling):
        with pytest.raises(ConfigError, match="left-to-right"):
            ask([])
    with pytest.raises(ConfigError, match="chat template"):
        lm.apply_chat_template([])


def test_the_puzzles_are_what_the_script_writes_and_their_solutions_are_right() -> None:
    sys.path.insert(0, str(TASKS / "prism_sudoku"))
    import make_puzzles
    import utils

    sys.path.pop(0)
    puzzles = utils.puzzles()["test"]
    task = get_task("sudoku")
    first = task.prompts(1, make_puzzles.CLUES, first=make_puzzles.FIRST)[0]
    assert puzzles[0]["puzzle"] == make_puzzles.lines(first)
    assert len(set(puzzles["puzzle"])) == make_puzzles.COUNT == len(puzzles)
    for doc in puzzles:
        assert utils.judge(doc, [doc["solution"]]) == {"solved": 1.0, "cell_accuracy": 1.0}
    doc, other = puzzles[0], puzzles[1]
    assert utils.judge(doc, [other["solution"]])["solved"] == 0.0, "a valid grid that ignores the clues"
    assert utils.judge(doc, ["I cannot"]) == {"solved": 0.0, "cell_accuracy": 0.0}
    assert 0 < utils.judge(doc, [doc["solution"][:40]])["cell_accuracy"] < 0.6


def test_plain_lm_eval_command_finds_model_and_task(tmp_path: Path) -> None:
    """As a user types it; only the start-up line is run by hand, since tests do not need an install."""
    line = (ROOT / "prism_plugin/evaluation/prism_plugin_lm_eval.pth").read_text()
    code = f"exec({line!r}); from lm_eval.__main__ import cli_evaluate; cli_evaluate()"
    arguments = f"--model prism --tasks prism_sudoku --limit 2 --output_path {tmp_path}/out --model_args".split()
    settings = f"model={tiny(tmp_path / 'model', 3)},sampler=random,sampler.steps=2"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, settings], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(next((tmp_path / "out").rglob("results_*.json")).read_text())
    assert 0 < results["results"]["prism_sudoku"]["cell_accuracy,none"] < 1
    assert results["config"]["prism_sampler"]["steps"] == 2
