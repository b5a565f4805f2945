"""What a task's results say of the head: how its quality tells right answers from wrong ones."""

from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="lm_eval is not installed (extra: lm-eval)")

from prism_plugin.evaluation import figures


def document(right: float, quality: float, least: float, metric: str = "acc") -> tuple[dict[str, Any], list[dict]]:
    return {"metrics": [metric], metric: right}, [{"quality_mean": quality, "quality_least": least}]


def test_auroc_of_quality_against_correctness() -> None:
    """Of the four pairs of a right and a wrong answer the mean orders three, the least two and one by half."""
    documents = [document(1, 0.9, 0.2), document(1, 0.5, 0.4), document(0, 0.6, 0.1), document(0, 0.1, 0.4)]
    found = figures.head(documents)
    assert found == pytest.approx({"auroc_of_quality_mean_for_acc": 3 / 4, "auroc_of_quality_least_for_acc": 2.5 / 4})


def test_it_is_not_told_where_it_means_nothing() -> None:
    assert figures.head([document(1, 0.9, 0.2), document(1, 0.5, 0.4)]) == {}, "all are right"
    assert (
        figures.head(
            [document(0.3, 0.9, 0.2), document(0.0, 0.5, 0.4)],
        )
        == {}
    ), "a score that is not 0 or 1"
    assert figures.head([({"metrics": ["acc"], "acc": 1.0}, [{"forwards": 3}])]) == {}, "nothing was judged"
