"""How far a learned quality can be trusted: ranking, calibration, and the low end that remasking lives on."""

import math

import torch
from torch import Tensor


def auroc(scores: Tensor, labels: Tensor) -> float:
    """Chance that a right token scores above a wrong one, ties count half; NaN where one kind is missing.

    scores (N,) float, labels (N,) bool.
    """
    _, inverse, counts = scores.double().unique(return_inverse=True, return_counts=True)
    rank = (counts.cumsum(0) - (counts - 1) / 2)[inverse]  # mid-ranks from 1
    right, wrong = int(labels.sum()), int((~labels).sum())
    if not right or not wrong:
        return float("nan")
    return float((rank[labels].sum() - right * (right + 1) / 2) / (right * wrong))


def expected_calibration_error(quality: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Mean distance between quality and share right over bins of equal width, weighted by size."""
    index = (quality * bins).long().clamp(max=bins - 1)
    size = torch.bincount(index, minlength=bins)
    gap = torch.bincount(index, (quality - labels.double()).double(), minlength=bins).abs()
    return float(gap.sum() / size.sum())


def reliability(scores: Tensor, labels: Tensor, low: int = -8, high: int = 8) -> list[dict[str, float]]:
    """Predicted against found, over bins of width 1 in log-odds, the two at the ends open; empty bins are left out.

    scores (N,) logits, labels (N,) bool. Each bin: ``count``, the mean of ``predicted`` quality, the share ``right``.
    """
    index = (scores.double().floor() - low).long().clamp(0, high - low - 1)
    quality = scores.double().sigmoid()
    table = []
    for one in index.unique().tolist():
        where = index == one
        row = {"from": float(low + one), "count": float(where.sum())}
        table.append(row | {"predicted": float(quality[where].mean()), "right": float(labels[where].double().mean())})
    return table


def report(scores: Tensor, labels: Tensor) -> dict[str, float]:
    """Figures of a head on revealed tokens: logits (N,), labels (N,) bool.

    ``low_share`` is the share of tokens with quality below 0.05, ``low_predicted`` their mean quality and ``low_right``
    how many of them are right after all: a calibrated head has the last two equal, a head that never says 'almost
    surely wrong' has an empty low end (NaN for both).
    """
    quality = scores.double().sigmoid()
    low = quality < 0.05
    return {
        "auroc": auroc(scores, labels),
        "brier": float((quality - labels.double()).square().mean()),
        "ece": expected_calibration_error(quality, labels),
        "low_share": float(low.double().mean()),
        "low_predicted": float(quality[low].mean()),
        "low_right": float(labels[low].double().mean()),
    }


def sharpness(said: Tensor, exact: Tensor, written: Tensor) -> dict[str, float]:
    """How near a score comes to what it should say, of log probabilities (N,) each: ``said`` by it, ``exact`` (the
    posterior with the token hidden), and the token's when it was ``written``.

    corr_logit: correlation of the log-odds, within +-10. corr_log_evidence: of said - written with exact - written.
    kl: KL of the two coins, exact from said, its mean in nats. recall_03 and precision_03: of 'evidence below .3'.
    """
    said, exact, written = (log.double().clamp(max=-1e-6) for log in (said, exact, written))
    odds = [(log - torch.log1p(-log.exp())).clamp(-10, 10) for log in (said, exact)]
    below = [log - written < math.log(0.3) for log in (said, exact)]
    hit = float((below[0] & below[1]).sum())
    p = exact.exp()
    kl = p * (exact - said) + (1 - p) * (torch.log1p(-p) - torch.log1p(-said.exp()))
    return {
        "corr_logit": _correlation(*odds), "corr_log_evidence": _correlation(said - written, exact - written),
        "kl": float(kl.mean()),
        "recall_03": hit / max(1.0, float(below[1].sum())), "precision_03": hit / max(1.0, float(below[0].sum())),
    }  # fmt: skip


def _correlation(one: Tensor, other: Tensor) -> float:
    one, other = one - one.mean(), other - other.mean()
    return float((one * other).sum() / (one.norm() * other.norm()).clamp(min=1e-12))
