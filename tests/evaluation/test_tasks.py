"""The offline tasks: documents are what their hashes say, judges judge, and a run of each is whole."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="lm_eval is not installed (extra: lm-eval)")
from lm_eval import evaluator
from lm_eval.tasks import TaskManager, get_task_dict

from prism_plugin.evaluation import TASKS
from prism_plugin.evaluation.lm_eval import PrismLM
from tests.evaluation.test_lm_eval import tiny

NAMES = ["prism_python", "prism_python_infill", "prism_detect", "prism_choice_code", "prism_choice_prose"]
evaluator.add_env_info = lambda results: None  # asks the machine about itself for seconds
sys.path.insert(0, str(TASKS / "prism_offline"))
import utils as offline  # noqa: E402

sys.path.pop(0)


@pytest.fixture(scope="module")
def manager() -> TaskManager:
    return TaskManager(include_path=str(TASKS), include_defaults=False)


@pytest.fixture(scope="module")
def code() -> PrismLM:
    return PrismLM("code", device="cpu", **{"sampler.steps": 4})


def run(manager: TaskManager, model: Any, name: str, limit: int = 2) -> dict[str, Any]:
    return evaluator.simple_evaluate(model=model, tasks=[name], task_manager=manager, bootstrap_iters=0, limit=limit)


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the hashes are of Python 3.11's standard library")
@pytest.mark.parametrize("name", ["prism_sudoku_4x4", *NAMES])
def test_documents_are_what_their_hashes_say(manager: TaskManager, name: str, caplog: pytest.LogCaptureFixture) -> None:
    task = get_task_dict([name], manager)[name]
    assert len(task.eval_docs) == (100 if "choice" in name else 200)
    assert "hash" not in caplog.text


@pytest.mark.parametrize("name", NAMES)
def test_a_run_of_each_is_whole(manager: TaskManager, code: PrismLM, name: str) -> None:
    results = run(manager, code, name)
    metrics = {key: value for key, value in results["results"][name].items() if key.endswith(",none")}
    assert metrics and all(0 <= value <= 1 for key, value in metrics.items() if "stderr" not in key)
    if "choice" in name:
        assert results["prism"]["tasks"][name]["forwards"]["n"] == 2


def test_a_grid_of_four(manager: TaskManager, tmp_path: Path) -> None:
    results = run(manager, PrismLM(tiny(tmp_path, 2), sampler="random", **{"sampler.steps": 2}), "prism_sudoku_4x4")
    assert 0 <= results["results"]["prism_sudoku_4x4"]["cell_accuracy,none"] <= 1
    doc = {"puzzle": "....\n2.34\n...2\n.2.3", "solution": "3421\n2134\n1342\n4213"}
    assert offline.judge_4x4(doc, [doc["solution"]]) == {"solved": 1.0, "cell_accuracy": 1.0}
    assert offline.judge_4x4(doc, ["no"]) == {"solved": 0.0, "cell_accuracy": 0.0}
    assert offline.judge_4x4(doc, ["1" * 16])["solved"] == 0.0


def test_judges_of_code() -> None:
    doc = {"prompt": "def f(x):\n    return", "answer": " x + 1\n", "behind": ""}
    assert offline.judge_python(doc, [" x + 1\n"]) == {"parses": 1.0, "exact": 1.0, "token_match": 1.0}
    wrong = offline.judge_python(doc, [" x +\n"])
    assert wrong["parses"] == 0.0 and wrong["exact"] == 0.0 and 0 < wrong["token_match"] < 1


def test_the_judge_of_doubts_goes_by_characters() -> None:
    doc = {"text": "abcd", "spans": [[1, 2]]}
    assert offline.judge_detect(doc, [json.dumps([[1, 0.9], [2, 0.1], [4, 0.8]])]) == {"auroc": 1.0}
    assert offline.judge_detect(doc, [json.dumps([[1, 0.1], [3, 0.9], [4, 0.2]])]) == {"auroc": 0.0}
    assert offline.judge_detect(doc, ["no idea"]) == {"auroc": 0.5}
