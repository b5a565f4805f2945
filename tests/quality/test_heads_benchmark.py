"""benchmarks/heads.py: what it judges scores by, and that a run of it goes through."""

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import heads
from benchmarks.theory import sudoku


def test_the_posterior_itself_is_judged_best() -> None:
    data = sudoku()
    states = heads.States(heads.train_model(data, 16, 1, 4), data, 24, 4)
    best = states.judge(states.near)
    other = states.judge((states.near - 0.2).clamp(min=0))
    assert best["error_near"] == 0 and best["brier"] < other["brier"] and best["auroc"] > 0.85
    assert best["error"] < 0.15 and states.quality.isnan().any() and not states.quality.isnan().all()
    assert best["wrong_below"] == 1 and best["low_right"] == pytest.approx(best["low_predicted"])


def test_a_refit_finds_the_score_that_the_labels_were_drawn_by() -> None:
    generator = torch.Generator().manual_seed(0)
    logit = 3 * torch.randn(4000, generator=generator, dtype=torch.float64)
    labels = torch.bernoulli(logit.sigmoid(), generator=generator).bool()
    found = heads.refit([2 * logit + 1, torch.randn(4000, generator=generator, dtype=torch.float64)], labels)
    assert (found - logit.sigmoid()[2000:]).abs().mean() < 0.03


def test_a_run_writes_its_table_and_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = [
        "--steps",
        "2",
        "--model-steps",
        "2",
        "--width",
        "16",
        "--layers",
        "1",
        "--texts",
        "4",
        "--out",
        str(tmp_path),
    ]
    for seeds in (["0"], ["0", "1"]):
        monkeypatch.setattr(sys, "argv", ["heads", "--only", "stale, k=1", "--seeds", *seeds, *small])
        heads.main()
    rows = json.loads((tmp_path / "heads.json").read_text())["rows"]
    assert [(row["option"], row["seed"]) for row in rows] == [("stale, k=1", 0), ("stale, k=1", 1)]
    page = (tmp_path / "heads.md").read_text()
    assert "| stale, k=1 |" in page and "| with all three |" in page and (tmp_path / "heads.png").stat().st_size > 10000
