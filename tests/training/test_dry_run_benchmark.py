"""``benchmarks/dry_run.py`` on a model that is small enough for a test."""

import pytest

from benchmarks import dry_run
from prism_plugin.training import objectives, watch


def test_what_is_said_of_a_run_is_held_against_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objectives, "PRESETS", objectives.PRESETS)  # the benchmark sets both: put back afterwards
    monkeypatch.setattr(watch, "evaluate", watch.evaluate)
    monkeypatch.setattr(dry_run, "SHAPES", {1: (64, 2)})
    found = dry_run.measure(1)
    assert found["flops_said"] == pytest.approx(found["flops_counted"], rel=0.4)
    assert 0 < found["trained"] < found["parameters"] and found["cpu_seconds_a_step"] > 0
    page = dry_run.markdown({"command": "x", "machine": "y", "rows": [found]})
    assert f"| {found['parameters']:,} |" in page
