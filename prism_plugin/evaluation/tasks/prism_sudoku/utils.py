"""Data and judge of the task ``prism_sudoku``, in the form that lm-eval asks for."""

import json
import re
from pathlib import Path

import datasets
import torch

from prism_plugin.evaluation.task import Made  # noqa: F401  (the task's class)
from prism_plugin.tasks import get_task


def puzzles() -> dict[str, datasets.Dataset]:
    """The packaged puzzles."""
    lines = Path(__file__).with_name("puzzles.jsonl").read_text().splitlines()
    return {"test": datasets.Dataset.from_list([json.loads(line) for line in lines])}


def judge(doc: dict[str, str], results: list[str]) -> dict[str, float]:
    """Whether the answer is a valid grid that keeps the clues, and its share of cells that clash with nothing.

    The answer's first 81 digits are the grid; what is missing counts as blank.
    """
    task = get_task("sudoku")
    digits = [int(digit) for digit in re.findall(r"\d", results[0])][: task.length]
    grid = torch.tensor([digits + [task.mask_id] * (task.length - len(digits))])
    clues = torch.tensor([[int(c) for c in re.findall(r"[\d.]", doc["puzzle"].replace(".", "0"))]])
    solved, cells = task.accuracy(grid, clues)
    return {"solved": float(solved), "cell_accuracy": float(cells)}
