"""Documents and judges of the offline tasks, in the form that lm-eval asks for, made on the spot from held-out texts.

``first`` and ``count`` say which, ``sha256`` what their documents hash to under the Python named beside it: code and
prose are those of the standard library that runs.
"""

import hashlib
import json
import logging
import platform
import re
from typing import Any

import datasets
import torch

from prism_plugin.evaluation.task import Made  # noqa: F401  (the class of every task here)
from prism_plugin.ops import philox
from prism_plugin.quality.calibration import auroc
from prism_plugin.tasks import HELD_OUT, get_task
from prism_plugin.tasks.text import code_fault

log = logging.getLogger(__name__)
SEED = 20261126  # of every draw below


def checked(name: str, docs: list[dict], sha256: str) -> dict[str, datasets.Dataset]:
    """Documents for lm-eval; a warning where they are not those of the published hash."""
    found = hashlib.sha256(json.dumps(docs, sort_keys=True).encode()).hexdigest()[:16]
    if found != sha256:
        log.warning(
            "%s: these documents hash to %s, not to %s: the standard library of Python %s is another. Compare scores "
            "only where the hashes agree.",
            name, found, sha256, platform.python_version(),
        )  # fmt: skip
    return {"test": datasets.Dataset.from_list(docs)}


def sudoku_4x4(first: int, count: int, clues: int, sha256: str) -> dict[str, datasets.Dataset]:
    """4x4 grids with ``clues`` given cells each."""
    task = get_task("sudoku4")
    grids, given = task.texts(first, count, HELD_OUT), task.prompts(count, clues, first=first)
    docs = [{"puzzle": _lines(p), "solution": _lines(g)} for p, g in zip(given, grids, strict=True)]
    return checked("prism_sudoku_4x4", docs, sha256)


def judge_4x4(doc: dict[str, str], results: list[str]) -> dict[str, float]:
    """Whether the answer's first 16 digits are a valid grid that keeps the clues, and its share that clashes not."""
    task = get_task("sudoku4")
    digits = [int(digit) for digit in re.findall(r"[1-4]", results[0])][: task.length]
    grid = torch.tensor([digits + [task.mask_id] * (task.length - len(digits))])
    clues = torch.tensor([[int(c) for c in re.findall(r"\d", doc["puzzle"].replace(".", "0"))]])
    solved, cells = task.accuracy(grid, clues)
    return {"solved": float(solved), "cell_accuracy": float(cells)}


def python(first: int, count: int, given: int, hidden: int, sha256: str) -> dict[str, datasets.Dataset]:
    """Held-out functions: ``given`` tokens, then ``hidden`` ones that are to be written."""
    task = get_task("code")
    docs = []
    for row in task.texts(first, count, HELD_OUT):
        docs.append(
            {"prompt": task.render(row[:given]), "answer": task.render(row[given : given + hidden]), "behind": ""}
        )
    return checked("prism_python", docs, sha256)


def python_infill(first: int, count: int, given: int, hidden: int, sha256: str) -> dict[str, datasets.Dataset]:
    """The same with ``given`` tokens behind the hole too."""
    task = get_task("code")
    docs = []
    for row in task.texts(first, count, HELD_OUT):
        before, hole, behind = row[:given], row[given : given + hidden], row[given + hidden : 2 * given + hidden]
        docs.append(
            {name: task.render(part) for name, part in (("prompt", before), ("answer", hole), ("behind", behind))}
        )
    return checked("prism_python_infill", docs, sha256)


def judge_python(doc: dict[str, str], results: list[str]) -> dict[str, float]:
    """Whether whole lines of the text parse, whether the answer is the true one, and its share of true tokens."""
    encode = get_task("code").tokenizer.encode  # type: ignore[attr-defined]  # a task of text
    said, true = encode(results[0]).ids, encode(doc["answer"]).ids
    return {
        "parses": float(code_fault(doc["prompt"] + results[0] + doc["behind"]) is None),
        "exact": float(results[0] == doc["answer"]),
        "token_match": sum(a == b for a, b in zip(said, true, strict=False)) / len(true),
    }


def detect(first: int, count: int, length: int, wrong: int, sha256: str) -> dict[str, datasets.Dataset]:
    """Held-out functions in which ``wrong`` tokens are another of the same text; ``spans``: where they stand."""
    task = get_task("code")
    docs = []
    for number, row in enumerate(task.texts(first, count, HELD_OUT)[:, :length].clone(), first):
        place = _uniform(number, torch.arange(length), 0).argsort()[:wrong]
        other = (_uniform(number, place, 1) * length).long()
        tokens = row.clone()
        tokens[place] = row[other]
        tokens = torch.where((tokens == row) & torch.isin(torch.arange(length), place), tokens.roll(1), tokens)
        words = [task.render(token[None]) for token in tokens]
        ends = torch.tensor([len(word) for word in words]).cumsum(0).tolist()
        spans = [
            [end - len(word), end] for end, word, is_wrong in zip(ends, words, tokens != row, strict=True) if is_wrong
        ]
        docs.append({"text": "".join(words), "spans": spans})
    return checked("prism_detect", docs, sha256)


def judge_detect(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """AUROC of the quality of tokens that touch no wrong one against those that do; ½ where the answer holds none."""
    try:
        judged = json.loads(results[0])
    except ValueError:
        return {"auroc": 0.5}
    scores, right, start = [], [], 0
    for end, quality in judged:
        if quality == quality:
            scores.append(quality)
            right.append(not any(start < stop and begin < end for begin, stop in doc["spans"]))
        start = end
    return {"auroc": auroc(torch.tensor(scores), torch.tensor(right))}


def choice(first: int, count: int, given: int, hidden: int, choices: int, sha256: str) -> dict[str, datasets.Dataset]:
    """Held-out code and prose by turns: what follows ``given`` tokens, among what follows in other texts."""
    docs = []
    for kind in ("code", "prose"):
        task = get_task(kind)
        windows = task.texts(first, count * choices, HELD_OUT)
        for number in range(count):
            row = windows[number]
            others = windows[count + number * (choices - 1) : count + (number + 1) * (choices - 1)]
            answers = [task.render(one[given : given + hidden]) for one in (row, *others)]
            order = _uniform(first + number, torch.arange(choices), 2).argsort().tolist()
            docs.append(
                {
                    "kind": kind, "prompt": task.render(row[:given]), "choices": [answers[n] for n in order],
                    "gold": order.index(0),
                }
            )  # fmt: skip
    return checked("prism_choice", docs, sha256)


def code_only(dataset: datasets.Dataset) -> datasets.Dataset:
    """Questions on code."""
    return dataset.filter(lambda doc: doc["kind"] == "code")


def prose_only(dataset: datasets.Dataset) -> datasets.Dataset:
    """Questions on prose."""
    return dataset.filter(lambda doc: doc["kind"] == "prose")


def _uniform(number: int, place: torch.Tensor, draw: int) -> torch.Tensor:
    zero = torch.zeros_like(place)
    return philox.uniform(SEED, zero + number, place, zero, philox.PROBE, draw)


def _lines(cells: torch.Tensor) -> str:
    return "\n".join("".join(str(cell) if cell else "." for cell in row) for row in cells.view(4, 4).tolist())
