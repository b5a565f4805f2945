"""The comparison of revision methods: its statistics, its rows, the whole demonstration, and the benchmark on top."""

import importlib.util
import json
import math
from pathlib import Path
from types import ModuleType

import pytest
import torch
from rich.console import Console

from prism_plugin.commands import demo as command
from prism_plugin.errors import CheckpointError, ConfigError
from prism_plugin.evaluation import comparison as demo
from prism_plugin.models.checkpoint import PrismModel
from prism_plugin.sampling import methods
from prism_plugin.sampling.config import resolve
from prism_plugin.sampling.trace import CORRECTED, Recorder
from prism_plugin.tasks import get_task


def row(method: str, order: str = "random") -> demo.Row:
    return next(r for r in demo.ROWS if (r.method, r.order) == (method, order))


def test_wilson_interval() -> None:
    assert demo.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe (1998), table I, method 3
    assert demo.wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert demo.wilson(20, 20)[1] == pytest.approx(1.0)


def test_diversity_is_the_mean_over_pairs() -> None:
    tokens = torch.randint(1, 5, (7, 16), generator=torch.Generator().manual_seed(0))
    pairs = [(tokens[i] != tokens[j]).double().mean() for i in range(7) for j in range(7) if i != j]
    assert demo.diversity(tokens, 5) == pytest.approx(float(sum(pairs) / len(pairs)))
    assert demo.diversity(tokens[:1].expand(3, -1), 5) == pytest.approx(0)
    assert math.isnan(demo.diversity(tokens[:1], 5))


def test_rows_are_samplers_and_the_controls_differ_from_prism_in_the_score_alone() -> None:
    for each in demo.ROWS:
        methods.check(resolve(each.sampler), has_head=True, gives=frozenset({"second_forward"}))
    assert len({(r.method, r.order) for r in demo.ROWS}) == len(demo.ROWS)
    for order in ("random", "confidence"):
        prism = vars(resolve(row("PRISM", order).sampler))
        for method in ("ReMDM score", "random remask", "self-likelihood"):
            other = vars(resolve(row(method, order).sampler))
            assert {key for key in prism if prism[key] != other[key]} - {"name"} == {"score"}, method


def test_measure_counts(sudoku4_model: PrismModel) -> None:
    task = get_task("sudoku4")
    prompts = task.prompts(10, 2)
    told: list[int] = []
    found = demo.measure(
        sudoku4_model, task, prompts, row("PRISM"), 6, seed=3, batch_size=4, advance=lambda n: told.append(n)
    )
    assert told == [4, 4, 2] and found["puzzles"] == 10 and found["forwards"] == 6
    assert found["low"] <= found["solved_share"] == found["solved"] / 10 <= found["high"]
    assert 0 <= found["wasted"] <= found["remasks"] and found["remasks"] > 0
    one_batch = demo.measure(sudoku4_model, task, prompts, row("PRISM"), 6, seed=3)
    for key in ("solved", "accuracy", "remasks", "wasted", "diversity"):
        assert found[key] == pytest.approx(one_batch[key]), "batches change nothing"
    as_many = demo.measure(sudoku4_model, task, prompts, row("random remask"), 6, seed=3)
    assert as_many["remasks"] == found["remasks"], "the control remasks as many"


def test_the_text_shown_is_a_solved_one_that_was_corrected_most(sudoku4_model: PrismModel) -> None:
    task, recorder = get_task("sudoku4"), Recorder()
    prompts = task.prompts(12, 0)
    demo.measure(sudoku4_model, task, prompts, row("PRISM"), 8, seed=0, callback=recorder)
    trace = recorder.trace(grid=task.grid)
    solved, _ = task.accuracy(torch.from_numpy(trace.tokens[-1]), prompts)
    corrected = torch.from_numpy((trace.events() == CORRECTED).sum(axis=(0, 2)))
    assert solved.any() and not solved.all(), "the small model must be neither perfect nor useless for this test"
    shown = demo.repaired(trace, solved)
    assert solved[shown]
    assert demo.repaired(trace, torch.zeros_like(solved)) in range(12)
    assert corrected[shown] > 0


def test_the_whole_demonstration(
    sudoku4_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "RESULT", tmp_path / "none.json")
    command.show(str(sudoku4_folder), 6, 0, 5, 0, str(tmp_path / "out"), Console(width=120))
    out = capsys.readouterr().out
    for method in {r.method for r in demo.ROWS}:
        assert method in out
    assert "step 5" in out and "Held-out" in out and "No committed result" in out
    assert "prism demo --all" not in out
    command.show(str(sudoku4_folder), 6, 0, 5, 0, str(tmp_path / "out"), Console(width=80), every=False)
    out = capsys.readouterr().out
    assert "prism demo --all" in out and "PRISM evidence" not in out
    assert all(method in out for method in demo.FIRST)
    page = (tmp_path / "out" / "sudoku_replay.html").read_text()
    assert "PRISM corrects itself" in page


def test_the_quick_run_is_compared_with_the_committed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(method: str, share: float) -> dict:
        return {"method": method, "order": "random", "steps": 16, "puzzles": 512, "solved_share": share,
                "low": share - 0.1, "high": share + 0.1}  # fmt: skip

    committed = {"clues": 0, "date": "2026-01-02", "rows": [found("PRISM", 0.5), found("MDLM", 0.1)]}
    monkeypatch.setattr(demo, "RESULT", tmp_path / "sudoku.json")
    demo.RESULT.write_text(json.dumps(committed))
    note = demo.compare_note([found("PRISM", 0.55), found("MDLM", 0.4)], 16, 0)
    assert "2026-01-02" in note and "1 of 2" in note and "outside: MDLM (random)" in note
    assert not demo.compare_note([found("PRISM", 0.55)], 32, 0)
    assert not demo.compare_note([found("PRISM", 0.55)], 16, 30)


def test_the_demonstration_needs_a_head_and_a_folder_before_it_works(sudoku4_folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((sudoku4_folder / name).read_bytes())
    with pytest.raises(ConfigError, match="has no quality head"):
        command.show(str(tmp_path), 2, 0, 2, 0, str(tmp_path / "out"), Console())
    with pytest.raises(CheckpointError, match="no model at"):
        command.show("nowhere", 2, 0, 2, 0, str(tmp_path / "out"), Console())
    with pytest.raises(ConfigError, match="cannot be written"):
        command.show(str(sudoku4_folder), 2, 0, 2, 0, str(tmp_path / "config.json" / "out"), Console())


@pytest.fixture
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sudoku_benchmark", Path("benchmarks/sudoku.py"))
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


def test_benchmark_writes_merges_and_goes_on(
    benchmark: ModuleType, sudoku4_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra: plots)")
    common = ["--model", str(sudoku4_folder), "--puzzles", "8", "--seeds", "0", "1", "--out", str(tmp_path)]
    assert benchmark.main([*common, "--forwards", "3", "--methods", "PRISM", "PRISM share", "MDLM"]) == 0
    result = json.loads((tmp_path / "sudoku.json").read_text())
    assert [(r["method"], r["order"], r["puzzles"]) for r in result["rows"]] == [
        ("MDLM", "random", 8), ("PRISM", "random", 8), ("PRISM", "confidence", 8),
        ("PRISM share", "random", 8), ("PRISM share", "confidence", 8),
    ]  # fmt: skip
    for merged in result["rows"]:
        runs = [r for r in result["runs"] if (r["method"], r["order"]) == (merged["method"], merged["order"])]
        assert merged["solved"] == sum(r["solved"] for r in runs) and [r["seed"] for r in runs] == [0, 1]
        assert merged["remasks"] == pytest.approx(sum(r["remasks"] for r in runs) / 2)
        assert merged["outcomes"].count("1") == merged["solved"] and len(merged["outcomes"]) == 8
    assert (tmp_path / "sudoku.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "sudoku.md").read_text()
    assert "| PRISM | confidence |" in page and "benchmarks/sudoku.py --model" in page
    assert "| 3, confidence |" in page.partition("against the best of the others")[2]

    run, again = demo.measure, []
    monkeypatch.setattr(demo, "measure", lambda *a, **k: again.append(a) or run(*a, **k))
    assert benchmark.main([*common, "--forwards", "3", "--methods", "PRISM", "PRISM share", "MDLM", "confidence"]) == 0
    assert {a[3].method for a in again} == {"confidence"}, "what is there is not run again"


def test_a_difference_is_paired_by_grid_where_outcomes_were_kept(benchmark: ModuleType) -> None:
    one, other = "1101" * 8, "1001" * 8
    rows = [{"solved_share": a.count("1") / 32, "puzzles": 32, "outcomes": a} for a in (one, other)]
    gaps = torch.tensor([int(a) - int(b) for a, b in zip(one, other, strict=True)]).double()
    gap, half = benchmark.paired(*rows)
    assert gap == pytest.approx(float(gaps.mean()))
    assert half == pytest.approx(1.96 * float(gaps.var(correction=0) / 32) ** 0.5)
    apart = benchmark.paired(rows[0], rows[1] | {"outcomes": ""})
    assert apart[0] == pytest.approx(gap) and apart[1] == pytest.approx(1.96 * ((0.1875 + 0.25) / 32) ** 0.5)


def test_benchmark_says_what_is_wrong(benchmark: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert benchmark.main(["--methods", "nothing", "--out", str(tmp_path)]) == 2
    assert "no method of that name" in capsys.readouterr().out
    assert benchmark.main(["--forwards", "0", "--out", str(tmp_path)]) == 2
