"""What an answer cost and how sure it is: carried by the answer itself, summed up by task with intervals."""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import NormalDist
from typing import Any

import torch

from ..quality.calibration import auroc

COUNTED = ("forwards", "cost", "remasked", "wasted", "cut", "stderr", "quality_mean", "quality_least")
"""Figures of an answer that a task has the mean of."""
NORMAL = NormalDist().inv_cdf(0.975)


class Answer(str):
    """A generated text with its ``figures``."""

    figures: dict[str, Any]

    def __new__(cls, text: object, figures: dict[str, Any] | None = None) -> "Answer":
        """The text, which is all that metrics and filters see; lm-eval makes the type of an answer's truth too."""
        made = super().__new__(cls, text)
        made.figures = figures or {}
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.figures)


class Likelihood(tuple):
    """(log-likelihood, is greedy) with its ``figures``, as ``loglikelihood`` gives them."""

    figures: dict[str, Any]

    def __new__(cls, value: tuple[float, bool], figures: dict[str, Any] | None = None) -> "Likelihood":
        """The pair, which is all that lm-eval sees."""
        made = super().__new__(cls, value)
        made.figures = figures or {}
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (tuple(self), self.figures)


class Rolling(float):
    """The log-likelihood of a whole text with its ``figures``."""

    figures: dict[str, Any]

    def __new__(cls, value: float, figures: dict[str, Any] | None = None) -> "Rolling":
        """The number, which is all that lm-eval sees."""
        made = super().__new__(cls, value)
        made.figures = figures or {}
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (float(self), self.figures)


KINDS: dict[str, Any] = {"generate_until": Answer, "loglikelihood": Likelihood, "loglikelihood_rolling": Rolling}


def of_sample(sample: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The figures of a document's answers, request by request and repeat by repeat."""
    return [one.figures for answers in sample["resps"] for one in answers if hasattr(one, "figures")]


def of_task(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A task's figures: each a mean over documents with its 95% interval, and ``n``.

    A document's figure is the sum over its requests of what they cost, the mean of all else. tokens_a_second is a ratio
    of sums. failed: documents that had no answer, by the reason. head: how the head's quality tells right answers from
    wrong ones, by each metric that is 0 or 1 throughout.
    """
    found = {id(sample): of_sample(sample) for sample in samples}
    documents = [(sample, found[id(sample)]) for sample in samples if found[id(sample)]]
    summary: dict[str, Any] = {"documents": len(documents)}
    for name in COUNTED:
        each = [[one[name] for one in answers if one.get(name) is not None] for _, answers in documents]
        values = [sum(some) if name in ("forwards", "cost") else sum(some) / len(some) for some in each if some]
        if values:
            summary[name] = mean(values)
    timed = [(sum(a.get("tokens", 0) for a in some), sum(a.get("seconds", 0.0) for a in some)) for _, some in documents]
    if sum(seconds for _, seconds in timed) and any("tokens" in a for _, some in documents for a in some):
        summary["tokens_a_second"] = ratio([t for t, _ in timed], [s for _, s in timed])
    failed: dict[str, int] = {}
    for _, answers in documents:
        for one in answers:
            for what in ("failed", "truncated"):
                if one.get(what):
                    failed[what] = failed.get(what, 0) + 1
    summary |= failed
    heads = head(documents)
    return summary | ({"head": heads} if heads else {})


def mean(values: Sequence[float]) -> dict[str, Any]:
    """Mean, 95% interval by the normal law, and how many; no interval for one value."""
    table = torch.tensor([float(value) for value in values], dtype=torch.float64)
    half = NORMAL * float(table.std()) / math.sqrt(len(table)) if len(table) > 1 else None
    return _with_interval(float(table.mean()), half, len(table))


def ratio(above: Sequence[float], below: Sequence[float]) -> dict[str, Any]:
    """A ratio of sums over documents, its interval by the delta method."""
    n, value = len(above), sum(above) / sum(below)
    rest = sum((a - value * b) ** 2 for a, b in zip(above, below, strict=True))
    half = NORMAL * math.sqrt(rest * n / (n - 1)) / sum(below) if n > 1 else None
    return _with_interval(value, half, n)


def head(documents: Iterable[tuple[Mapping[str, Any], list[dict[str, Any]]]]) -> dict[str, Any]:
    """AUROC of an answer's mean and least quality against each metric of 0 and 1; {} where nothing was judged."""
    judged = [(sample, answers[0]) for sample, answers in documents if "quality_mean" in answers[0]]
    found: dict[str, Any] = {}
    for metric in judged[0][0].get("metrics", []) if judged else []:
        right = [sample.get(metric) for sample, _ in judged]
        if all(isinstance(value, int | float) and value in (0, 1) for value in right) and 0 < right.count(1) < len(
            right
        ):
            labels = torch.tensor([value == 1 for value in right])
            for name in ("quality_mean", "quality_least"):
                scores = torch.tensor([answer[name] for _, answer in judged])
                found[f"auroc_of_{name}_for_{metric}"] = auroc(scores, labels)
    return found


def _with_interval(value: float, half: float | None, n: int) -> dict[str, Any]:
    return {"mean": value, "interval": None if half is None else [value - half, value + half], "n": n}
