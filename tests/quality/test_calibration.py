"""Figures of a head, against their definitions."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prism_plugin.quality.calibration import auroc, expected_calibration_error, reliability, report, sharpness

SCORED = st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=1, max_size=30)


@settings(max_examples=60, deadline=None)
@given(SCORED)
def test_auroc_is_the_share_of_pairs_in_order(pairs: list[tuple[int, bool]]) -> None:
    right, wrong = ([s for s, label in pairs if label is kind] for kind in (True, False))
    found = auroc(torch.tensor([float(s) for s, _ in pairs]), torch.tensor([label for _, label in pairs]))
    if not right or not wrong:
        assert math.isnan(found)
    else:
        ordered = sum((r > w) + 0.5 * (r == w) for r in right for w in wrong)
        assert found == pytest.approx(ordered / len(right) / len(wrong))


def test_a_calibrated_head_is_told_from_one_that_is_not() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = 6 * torch.rand(40000, generator=generator, dtype=torch.float64) - 5
    labels = torch.rand(40000, generator=generator, dtype=torch.float64) < scores.sigmoid()
    good, bold = report(scores, labels), report(3 * scores, labels)
    assert good["ece"] < 0.01 < 0.05 < bold["ece"] and good["brier"] < bold["brier"]
    assert good["auroc"] == pytest.approx(bold["auroc"])
    assert good["low_right"] == pytest.approx(good["low_predicted"], abs=0.005)
    assert bold["low_right"] > 5 * bold["low_predicted"]
    assert good["low_share"] == pytest.approx((5 - math.log(19)) / 6, abs=0.01)


def test_a_head_without_a_low_end_has_no_figures_there() -> None:
    found = report(torch.tensor([2.0, 3.0, -1.0]), torch.tensor([True, True, False]))
    assert found["low_share"] == 0 and math.isnan(found["low_right"]) and math.isnan(found["low_predicted"])
    assert found["auroc"] == 1


def test_ece_by_hand() -> None:
    quality = torch.tensor([0.1, 0.12, 0.9, 1.0], dtype=torch.float64)
    labels = torch.tensor([False, True, True, True])
    assert expected_calibration_error(quality, labels, bins=2) == pytest.approx((0.5 - 0.11) / 2 + (1 - 0.95) / 2)


def test_reliability_counts_every_token_once_in_its_bin_of_log_odds() -> None:
    scores = torch.tensor([-20.0, -7.5, -0.5, -0.25, 0.0, 30.0])
    labels = torch.tensor([False, True, True, False, True, True])
    found = reliability(scores, labels)
    assert [(row["from"], row["count"], row["right"]) for row in found] == [
        (-8, 2, 0.5), (-1, 2, 0.5), (0, 1, 1.0), (7, 1, 1.0),
    ]  # fmt: skip
    assert found[1]["predicted"] == pytest.approx(scores[2:4].sigmoid().mean().item())


def test_sharpness_is_one_for_the_exact_score_and_counts_low_evidence() -> None:
    written = torch.rand(500, generator=torch.Generator().manual_seed(0)).log()
    exact = written + torch.randn(500, generator=torch.Generator().manual_seed(1)).clamp(max=0) * 2
    found = sharpness(exact, exact, written)
    assert found["corr_logit"] == pytest.approx(1) and found["corr_log_evidence"] == pytest.approx(1)
    assert found["recall_03"] == found["precision_03"] == 1 and found["kl"] == pytest.approx(0, abs=1e-9)
    shrunk = sharpness(written, exact, written)
    assert shrunk["recall_03"] == 0 and shrunk["kl"] > 0 and abs(shrunk["corr_log_evidence"]) < 1e-6
