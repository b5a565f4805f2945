"""Many settings in one run: every combination on the same documents, a table, a plot, and paired tests."""

import itertools
import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError
from ..files import save_json, write_atomic
from .figures import NORMAL

log = logging.getLogger(__name__)

DRAWS = 10_000
"""Sign flips of a paired test."""


def points(asked: Any) -> list[dict[str, Any]]:
    """Every combination of ``sampler=prism,wino;steps=32,64`` (or a mapping of lists) as settings; [{}] of nothing.

    Raises ConfigError where a part of it is no ``key=value,value``.
    """
    if not asked:
        return [{}]
    if not isinstance(asked, Mapping):
        parts = [part.partition("=") for part in str(asked).split(";") if part.strip()]
        for key, _, values in parts:
            if not key.strip() or not values.strip():
                raise ConfigError(
                    f"sweep = {asked!r}: {key!r} is no key=value,value; write sampler=prism,wino;steps=32,64."
                )
        asked = {key.strip(): [read(value) for value in values.split(",")] for key, _, values in parts}
    named = {"name" if key == "sampler" else key.removeprefix("sampler."): values for key, values in asked.items()}
    lists = [values if isinstance(values, list | tuple) else [values] for values in named.values()]
    return [dict(zip(named, values, strict=True)) for values in itertools.product(*lists)]


def read(value: str) -> Any:
    """A number, true, false, or text."""
    try:
        return json.loads(value)
    except ValueError:
        return value.strip()


def label(point: Mapping[str, Any]) -> str:
    """A combination in words that a file name can hold."""
    return ",".join(f"{'sampler' if key == 'name' else key}={value}" for key, value in point.items())


def together(
    points: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]], tasks: Mapping[str, Any], report: str | None
) -> dict[str, Any]:
    """One set of results out of those of all combinations: every task once by combination, and ``prism.sweep``."""
    whole: dict[str, Any] = {"results": {}, "prism": {"tasks": {}}}
    for point, results in zip(points, found, strict=True):
        for part, content in results.items():
            if part == "prism":
                whole["prism"]["model"] = content["model"]
                for name, figures in content["tasks"].items():
                    whole["prism"]["tasks"][f"{name}@{label(point)}"] = figures
            elif part == "group_subtasks":
                whole.setdefault(part, content)
            elif isinstance(content, Mapping):
                named = {f"{name}@{label(point)}": value for name, value in content.items()}
                whole.setdefault(part, {}).update(named)
            else:
                whole.setdefault(part, content)
    for name, row in whole["results"].items():
        row["alias"] = row["name"] = name
    table = [row for name in tasks for row in rows(name, points, found)]
    whole["prism"]["sweep"] = {"rows": table, "tests": [t for name in tasks for t in tests(name, points, found)]}
    print(written(whole["prism"]["sweep"]))
    if report:
        Path(report).mkdir(parents=True, exist_ok=True)
        save_json(Path(report) / "sweep.json", whole["prism"]["sweep"])
        with write_atomic(Path(report) / "sweep.md") as temporary:
            temporary.write_text(written(whole["prism"]["sweep"]) + "\n")
        plot(table, Path(report) / "sweep.png")
    return whole


def scores(name: str, results: Mapping[str, Any]) -> dict[str, dict[Any, float]]:
    """A task's metrics by document: {"metric,filter": {document: score}}, those that are numbers."""
    found: dict[str, dict[Any, float]] = {}
    for sample in results["samples"].get(name, []):
        for metric in sample["metrics"]:
            value = sample.get(metric)
            if isinstance(value, int | float | np.number):
                found.setdefault(f"{metric},{sample['filter']}", {})[sample["doc_id"]] = float(value)
    return found


def apart(points: Sequence[dict[str, Any]]) -> dict[str, list[int]]:
    """Numbers of the combinations that differ in the seed alone, by what they share."""
    groups: dict[str, list[int]] = {}
    for number, point in enumerate(points):
        groups.setdefault(label({key: value for key, value in point.items() if key != "seed"}), []).append(number)
    return groups


def tables(name: str, points: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """{metric: {combination without its seed: scores (documents, seeds) f64}}."""
    by_point = [scores(name, results) for results in found]
    whole: dict[str, dict[str, Any]] = {}
    for metric in by_point[0]:
        documents = sorted(set.intersection(*(set(one.get(metric, {})) for one in by_point)))
        for words, numbers in apart(points).items():
            columns = [[by_point[n][metric][doc] for doc in documents] for n in numbers]
            whole.setdefault(metric, {})[words] = np.array(columns).T
    return whole


def rows(name: str, points: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Score and forwards of each combination, its seeds together, the spread over documents apart from that over seeds.

    interval: 95% over documents, of the mean over seeds. seeds_sd: standard deviation of the seeds' scores.
    document_variance, seed_variance: of one score, between documents and between seeds of one document.
    """
    found_rows = []
    for metric, by_words in tables(name, points, found).items():
        for words, table in by_words.items():
            documents, seeds = table.shape
            means = table.mean(1)
            within = float(table.var(1, ddof=1).mean()) if seeds > 1 else None
            half = NORMAL * float(means.std(ddof=1)) / math.sqrt(documents) if documents > 1 else None
            between = float(means.var(ddof=1)) - (within or 0.0) / seeds if documents > 1 else None
            costs = [found[n]["prism"]["tasks"][name].get("forwards", {}).get("mean") for n in apart(points)[words]]
            known = [cost for cost in costs if cost is not None]
            score = float(table.mean())
            found_rows.append(
                {
                    "task": name, "metric": metric, "settings": words, "score": score,
                    "interval": None if half is None else [score - half, score + half],
                    "forwards": sum(known) / len(known) if known else None, "documents": documents, "seeds": seeds,
                    "seeds_sd": float(table.mean(0).std(ddof=1)) if seeds > 1 else None,
                    "document_variance": None if between is None else max(0.0, between), "seed_variance": within,
                }
            )  # fmt: skip
    return found_rows


def tests(name: str, points: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each two combinations on the same documents: the difference, its interval, and a two-sided p.

    McNemar's exact test where scores are 0 or 1 and there is one seed, else sign flips of the documents' differences.
    """
    found_tests = []
    for metric, by_words in tables(name, points, found).items():
        for (one, first), (other, second) in itertools.combinations(by_words.items(), 2):
            difference = first.mean(1) - second.mean(1)
            binary = first.shape[1] == second.shape[1] == 1 and set(np.unique([first, second])) <= {0.0, 1.0}
            half = NORMAL * float(difference.std(ddof=1)) / math.sqrt(len(difference)) if len(difference) > 1 else None
            value = float(difference.mean())
            found_tests.append(
                {
                    "task": name, "metric": metric, "first": one, "second": other, "difference": value,
                    "interval": None if half is None else [value - half, value + half],
                    "test": "McNemar, exact" if binary else "sign flips",
                    "p": mcnemar(difference) if binary else sign_flips(difference),
                }
            )  # fmt: skip
    return found_tests


def mcnemar(difference: np.ndarray) -> float:
    """Two-sided p of as uneven a split of the documents that differ, each way being as likely."""
    more, less = int((difference > 0).sum()), int((difference < 0).sum())
    n = more + less
    tail = sum(math.comb(n, k) for k in range(min(more, less) + 1)) / 2**n
    return min(1.0, 2 * tail)


def sign_flips(difference: np.ndarray) -> float:
    """Two-sided p of a mean so far from 0 where each document's difference may as well have the other sign."""
    signs = np.random.default_rng(0).integers(0, 2, (DRAWS, len(difference))) * 2 - 1
    reached = np.abs((signs * difference).mean(1)) >= abs(difference.mean()) - 1e-12
    return float((reached.sum() + 1) / (DRAWS + 1))


def written(sweep: Mapping[str, Any]) -> str:
    """The table and the tests, in markdown."""

    found = _markdown(
        {
            "task": "task", "metric": "metric", "settings": "settings", "score": "score",
            "interval": "95% over documents", "seeds_sd": "sd over seeds", "forwards": "forwards",
        },
        sweep["rows"],
    )  # fmt: skip
    if sweep["tests"]:
        found += "\n\n" + _markdown(
            {
                "task": "task", "metric": "metric", "first": "first", "second": "second", "difference": "difference",
                "interval": "95%", "p": "p", "test": "test",
            },
            sweep["tests"],
        )  # fmt: skip
    return found


def _markdown(heads: Mapping[str, str], table: Sequence[Mapping[str, Any]]) -> str:
    def cell(value: Any) -> str:
        if isinstance(value, list):
            return f"{value[0]:.4g} to {value[1]:.4g}"
        return "-" if value is None else value if isinstance(value, str) else f"{value:.4g}"

    lines = [heads.values(), ["---"] * len(heads), *([cell(row[key]) for key in heads] for row in table)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def plot(table: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Score against forwards, a line a sampler, a panel a task and metric; a word in the log without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        log.warning("matplotlib is not installed (extra: plots): the sweep has no plot.")
        return
    panels = list(dict.fromkeys((row["task"], row["metric"]) for row in table))
    figure = Figure(figsize=(5 * len(panels), 4), layout="constrained")
    for axes, (task, metric) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        lines: dict[str, list[Mapping[str, Any]]] = {}
        for row in table:
            if (row["task"], row["metric"]) == (task, metric) and row["forwards"] is not None:
                words = [word for word in row["settings"].split(",") if not word.startswith("steps=")]
                lines.setdefault(",".join(words) or "all", []).append(row)
        for own, its in lines.items():
            its.sort(key=lambda row: row["forwards"])
            score = [row["score"] for row in its]
            half = [0.0 if row["interval"] is None else row["interval"][1] - row["score"] for row in its]
            axes.errorbar([row["forwards"] for row in its], score, half, marker="o", capsize=3, label=own)
        axes.set(title=task, xlabel="forward passes", ylabel=metric)
        axes.legend()
    with write_atomic(file) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
