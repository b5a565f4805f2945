"""The benchmark on exact distributions: what it stands on, and that any preset runs on it."""

import math
import runpy
from pathlib import Path

import pytest
import torch

BENCHMARK = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "exact_model.py"))
PLAIN = {"wrong": 0.0, "noise": 0.0, "timid": 1.0, "seed": 0}


@pytest.mark.parametrize("name", ["sparse", "zipf", "hmm"])
def test_posteriors_are_those_of_bayes(name: str) -> None:
    """P(x_i = v | the rest) of the table is the ratio of the probabilities of the texts themselves."""
    model = BENCHMARK["ExactModel"](BENCHMARK["make_chain"](name), 6)
    text = model.chain.draw(1, 6, torch.Generator().manual_seed(3))
    p, _ = model.leave_one_out(text)
    for place in (0, 3, 5):
        texts = text.repeat(model.mask_id, 1)
        texts[:, place] = torch.arange(model.mask_id)
        joint = model.leave_one_out(texts)[1].log().sum(dim=1)
        torch.testing.assert_close(p[0, place], joint.softmax(0))


def test_any_preset_runs_and_a_row_says_what_it_gave() -> None:
    presets = [
        "mdlm",
        "wino",
        "token-critic",
        "proseco",
        "core",
        "prism-adaptive",
        "prism+guard=gate+share+num_remask=1",
    ]
    rows = BENCHMARK["study"](["sparse"], presets, [4], 8, 12, **PLAIN)
    assert [row["preset"] for row in rows] == ["truth", *presets]
    assert {"preset", "chain", "T", "errors_percent", "tv", "entropy", "remasks"} <= set(rows[1])
    assert all(math.isfinite(row["nll"]) for row in rows)
    assert rows[-1]["settings"]["guard"] == "gate+share" and rows[-1]["settings"]["num_remask"] == 1


def test_evidence_is_bounded_by_ville() -> None:
    taus = (0.5, 0.3, 0.1)
    for name in ("sparse", "zipf"):
        shares = BENCHMARK["ever_below"](name, 60, 16, 0, taus)
        for tau, share in zip(taus, shares, strict=True):
            assert share <= tau + 4 * math.sqrt(tau / (60 * 16))
