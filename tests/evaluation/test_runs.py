"""Whole runs under the real lm-eval, offline: broken off, cut up over processes, swept; what the results tell."""

import json
import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="lm_eval is not installed (extra: lm-eval)")
import lm_eval.models  # noqa: F401  (registers theirs)
from lm_eval import evaluator
from lm_eval.tasks import TaskManager

from prism_plugin.errors import ConfigError
from prism_plugin.evaluation import sweep
from prism_plugin.evaluation.lm_eval import PrismLM
from prism_plugin.quality.head import attach_head
from prism_plugin.sampling.trace import Trace

ROOT = Path(__file__).parents[2]
RESUME = runpy.run_path(str(ROOT / "benchmarks/resume.py"), run_name="resume")
SETTINGS = {"sampler": "random", "device": "cpu", "batch_size": 4, "mc_num": 16}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tasks"
    RESUME["make"](folder, 5)
    return folder


evaluator.add_env_info = lambda results: None  # asks the machine about itself for seconds


def run(tasks: Path, model: Any, names: list[str] | None = None, **given: Any) -> dict[str, Any]:
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    loaded = names or ["written", "chosen"]
    return evaluator.simple_evaluate(model=model, tasks=loaded, task_manager=manager, bootstrap_iters=0, **given)


def bare(results: dict[str, Any]) -> Any:
    return RESUME["bare"](json.loads(json.dumps(results, default=str)))


class Broken(dict):
    """A store that ends the run after some answers, as a kill does."""

    left = 0

    def __setitem__(self, key: str, value: Any) -> None:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        super().__setitem__(key, value)


@pytest.fixture(scope="module")
def whole(tasks: Path) -> dict[str, Any]:
    return run(tasks, PrismLM(f"{tasks.parent}/model", **SETTINGS))


@pytest.mark.parametrize("kept", [0, 1, 7, 15, 16, 29])
def test_a_run_that_was_broken_off_ends_as_if_it_had_not_been(tasks: Path, whole: dict, kept: int) -> None:
    """15 answers are written, then 15 are scored; whatever moment it is, the results and all samples are the same."""
    store = Broken()
    store.left = kept
    model = PrismLM(f"{tasks.parent}/model", **SETTINGS)
    model.store = store
    with pytest.raises(KeyboardInterrupt):
        run(tasks, model)
    assert len(store) == kept
    model = PrismLM(f"{tasks.parent}/model", **SETTINGS)
    model.store = dict(store)
    again = run(tasks, model)
    assert len(model.store) == 30
    for part in ("results", "samples", "prism"):
        assert bare(again[part]) == bare(whole[part]), part


def test_results_tell_settings_and_cost_with_intervals(whole: dict) -> None:
    told = whole["prism"]["tasks"]["written"]
    assert (
        told["settings"] == [{"until": ["\ndef"], "max_gen_toks": 24, "sampler": told["settings"][0]["sampler"]}]
        and told["settings"][0]["sampler"]["steps"] == 12
    )
    assert told["documents"] == 5 and told["forwards"] == {"mean": 36.0, "interval": [36.0, 36.0], "n": 5}
    assert {"cost", "remasked", "wasted", "cut", "tokens_a_second"} <= set(told)
    low, high = told["tokens_a_second"]["interval"]
    assert low < told["tokens_a_second"]["mean"] < high
    sample = whole["samples"]["written"][0]
    assert len(sample["prism"]) == 3 and sample["prism"][0]["forwards"] == 12
    chosen = whole["samples"]["chosen"][0]
    assert chosen["prism_margin"]["difference"] > 0 and "draws" not in chosen["prism"][1]
    assert whole["prism"]["tasks"]["chosen"]["stderr"]["n"] == 5


def test_other_models_pass_untouched(tasks: Path) -> None:
    results = run(tasks, "dummy", ["chosen"])
    assert "prism" not in results


def test_a_sweep_is_one_run_with_paired_tests(tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = "sampler=random,confidence;steps=3,6;seed=0,1"
    model = PrismLM(f"{tasks.parent}/model", **SETTINGS, sweep=asked, report=str(tmp_path / "report"))
    results = run(tasks, model, ["written"])
    names = list(results["results"])
    assert len(names) == 8 and names[0] == "written@sampler=random,steps=3,seed=0"
    for name in names:
        used = results["prism"]["tasks"][name]["settings"][0]["sampler"]
        assert f"sampler={used['name']},steps={used['steps']},seed={used['seed']}" in name
        assert len(results["samples"][name]) == 5 and name in results["configs"]
    rows = results["prism"]["sweep"]["rows"]
    assert len(rows) == 4 and all(row["seeds"] == 2 and row["documents"] == 5 for row in rows)
    assert [row["forwards"] for row in rows] == [9.0, 18.0, 9.0, 18.0]
    assert len(results["prism"]["sweep"]["tests"]) == 6
    assert "| written | exact_match,none | sampler=random,steps=3 |" in capsys.readouterr().out
    assert {file.name for file in (tmp_path / "report").iterdir()} == {"sweep.json", "sweep.md", "sweep.png"}


def test_points_of_a_sweep() -> None:
    assert sweep.points(None) == [{}]
    assert sweep.points("sampler=a,b;steps=4") == [{"name": "a", "steps": 4}, {"name": "b", "steps": 4}]
    assert sweep.points({"sampler.eta": [0.1, 0.2]}) == [{"eta": 0.1}, {"eta": 0.2}]
    with pytest.raises(ConfigError, match="key=value"):
        sweep.points("sampler")


def test_paired_tests_against_what_is_known() -> None:
    import numpy as np

    assert sweep.mcnemar(np.array([1.0] * 8 + [-1.0] + [0.0] * 20)) == pytest.approx(2 * 10 / 2**9)
    assert sweep.mcnemar(np.zeros(4)) == 1.0
    exact = 2 / 2**6  # all of six differences have one sign
    assert sweep.sign_flips(np.array([0.3, 0.1, 0.2, 0.4, 0.2, 0.1])) == pytest.approx(exact, abs=0.01)


def test_the_variance_over_seeds_is_told_apart_from_that_over_documents() -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    document, noise = rng.normal(0, 2.0, 4000), rng.normal(0, 0.5, (4000, 3))
    table = document[:, None] + noise
    found = [
        {
            "samples": {
                "t": [{"metrics": ["m"], "m": v, "filter": "none", "doc_id": n} for n, v in enumerate(table[:, seed])]
            },
            "prism": {"tasks": {"t": {"forwards": {"mean": 4.0}}}},
        }
        for seed in range(3)
    ]  # fmt: skip
    (row,) = sweep.rows("t", [{"seed": seed} for seed in range(3)], found)
    assert row["document_variance"] == pytest.approx(4.0, rel=0.1)
    assert row["seed_variance"] == pytest.approx(0.25, rel=0.1)
    assert row["seeds_sd"] == pytest.approx(0.5 / 4000**0.5, rel=1.0)


def test_traces_and_quality_of_answers(tasks: Path, tmp_path: Path, whole: dict) -> None:
    model = PrismLM(f"{tasks.parent}/model", **SETTINGS, trace=True, report=str(tmp_path), quality=True)
    attach_head(model.prism.denoiser)
    results = run(tasks, model, ["written"], limit=2)
    figures = results["samples"]["written"][0]["prism"][0]
    trace = Trace.load(tmp_path / "traces" / figures["trace"])
    assert trace.tokens.shape[0] == 13 and trace.about["settings"]["steps"] == 12
    assert 0 <= figures["quality_least"] <= figures["quality_mean"] <= 1
    assert results["samples"]["written"][0]["resps"] == whole["samples"]["written"][0]["resps"], "one by one, the same"
    assert results["prism"]["tasks"]["written"]["quality_mean"]["n"] == 2


def test_two_processes_give_what_one_gives(tasks: Path, whole: dict, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = f"""
import json, sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from tests.evaluation.test_runs import SETTINGS, PrismLM, bare, run
results = run(Path({str(tasks)!r}), PrismLM({str(tasks.parent / "model")!r}, **SETTINGS))
if results is not None:
    Path({str(tmp_path)!r}, "out.json").write_text(json.dumps(bare(results)))
"""
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", code], env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, cwd=ROOT,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    said = [rank.communicate(timeout=280)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said
    both, one = json.loads((tmp_path / "out.json").read_text()), bare(whole)
    assert both["results"] == one["results"]
    assert both["prism"]["model"]["prism_processes"] == 2

    def in_order(samples: dict[str, list]) -> dict[str, list]:
        return {name: sorted(some, key=lambda sample: sample["doc_id"]) for name, some in samples.items()}

    assert in_order(both["samples"]) == in_order(one["samples"])
    assert {name: told["forwards"] for name, told in both["prism"]["tasks"].items()} == {
        name: told["forwards"] for name, told in one["prism"]["tasks"].items()
    }
