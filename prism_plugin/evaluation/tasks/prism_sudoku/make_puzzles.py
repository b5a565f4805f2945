"""Write puzzles.jsonl anew: ``python -m prism_plugin.evaluation.tasks.prism_sudoku.make_puzzles``.

The grids are numbers 100000 onwards of the held-out stream (``prism_plugin.tasks.sudoku.SEEDS``), which no model is
trained on and `prism demo` does not reach.
"""

import json
from pathlib import Path

from torch import Tensor

from prism_plugin.files import write_atomic
from prism_plugin.tasks import HELD_OUT, get_task

FIRST, COUNT, CLUES = 100_000, 200, 30


def lines(cells: Tensor) -> str:
    """A grid of 81 cells as nine lines of nine characters, '.' where it is blank."""
    return "\n".join("".join(str(cell) if cell else "." for cell in row) for row in cells.view(9, 9).tolist())


def main() -> None:
    """Write the file beside this one."""
    task = get_task("sudoku")
    clues, grids = task.prompts(COUNT, CLUES, first=FIRST), task.texts(FIRST, COUNT, HELD_OUT)
    records = [{"puzzle": lines(p), "solution": lines(g)} for p, g in zip(clues, grids, strict=True)]
    with write_atomic(Path(__file__).with_name("puzzles.jsonl")) as path:
        path.write_text("".join(json.dumps(record) + "\n" for record in records))


if __name__ == "__main__":
    main()
