"""Sudoku: texts of digits in which a wrong token can be seen.

Token ids are the digits 1 to side; 0 is blank, that is, the mask. Cells run row by row.
"""

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from ..ops import philox
from . import HELD_OUT, _sudoku, hide, tasks

SEEDS = {0: 20251001, 1: 777}  # of the streams TRAIN and HELD_OUT


class SudokuTask:
    """Full grids of side box * box, drawn by randomised search."""

    mask_id = 0

    def __init__(self, box: int, name: str) -> None:
        self.name, self.grid, self.side = name, box, box * box
        self.length, self.vocab_size = self.side**2, self.side + 1

    def texts(self, first: int, count: int, stream: int) -> Tensor:
        """Full grids, (count, length) int64; see ``Task.texts``."""
        cells = np.frombuffer(_sudoku.grids(self.grid, first, count, SEEDS[stream]), dtype=np.int8)
        return torch.from_numpy(cells.astype(np.int64)).view(count, self.length)

    def prompts(self, count: int, clues: int, stream: int = HELD_OUT, first: int = 0) -> Tensor:
        """Grids with ``clues`` random cells given (few clues: many solutions; 0: an empty grid)."""
        if not 0 <= clues <= self.length:
            raise DataError(f"clues = {clues}: a grid of {self.length} cells allowed 0 to {self.length}.")
        number = torch.arange(first, first + count)[:, None]
        order = philox.uniform(SEEDS[stream], number, torch.arange(self.length), torch.zeros(1, dtype=torch.long), 0)
        keep = order.argsort(dim=-1).argsort(dim=-1) < clues
        return hide(self.texts(first, count, stream), keep, self.mask_id)

    def accuracy(self, tokens: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """Solved: every row, column and box holds all digits and the clues stand. A cell is right where it
        clashes with no other cell of its three units and is not blank.
        """
        groups = self.units().to(tokens.device)
        values = tokens[:, groups]  # (B, 3 * side, side)
        count = torch.nn.functional.one_hot(values, self.vocab_size).sum(dim=2)  # (B, units, V)
        fine_in_unit = count.gather(2, values) == 1
        clash = torch.zeros_like(tokens).index_add_(1, groups.flatten(), (~fine_in_unit).long().flatten(1))
        kept = (prompts == self.mask_id) | (tokens == prompts)
        right = (clash == 0) & (tokens != self.mask_id) & kept
        return right.all(dim=1), right.float().mean(dim=1)

    def verdict(self, tokens: Tensor, prompts: Tensor) -> list[str]:
        """Solved, or how much of a grid is right."""
        solved, right = self.accuracy(tokens, prompts)
        return [
            "solved" if done else f"not solved, {100 * share:.0f}% of the cells are right"
            for done, share in zip(solved.tolist(), right.tolist(), strict=True)
        ]

    def units(self) -> Tensor:
        """Cells of every row, column and box, (3 * side, side) int64."""
        cell = torch.arange(self.length).view(self.side, self.side)
        box = cell.view(self.grid, self.grid, self.grid, self.grid).transpose(1, 2).reshape(self.side, self.side)
        return torch.cat([cell, cell.T, box])

    def check_puzzle(self, cells: list[int]) -> None:
        """Raises DataError where a puzzle has a wrong size, wrong digits, a clash, or no solution."""
        if len(cells) != self.length:
            raise DataError(f"a Sudoku of this kind has {self.length} cells, {len(cells)} came.")
        if not all(0 <= c <= self.side for c in cells):
            wrong = sorted(set(cells) - set(range(self.side + 1)))
            raise DataError(f"Sudoku cells are 0 (blank) to {self.side}, {wrong} came.")
        values = torch.tensor(cells)[self.units()]
        for unit, row in zip(["row", "column", "box"], values.view(3, self.side, self.side), strict=True):
            for number, one in enumerate(row, 1):
                digits, count = one[one > 0].unique(return_counts=True)
                if (count > 1).any():
                    raise DataError(f"impossible Sudoku: {unit} {number} holds {digits[count > 1][0]} twice.")
        if not _sudoku.count_solutions(self.grid, cells, 1):
            raise DataError("impossible Sudoku: the clues clash with no cell yet leave no solution.")

    def render(self, tokens: Tensor) -> str:
        """The grid as text, '.' where it is blank."""
        rows = tokens.view(self.side, self.side).tolist()
        return "\n".join(" ".join(str(c) if c else "." for c in row) for row in rows)


@tasks("sudoku")
def sudoku() -> SudokuTask:
    """9x9 Sudoku, 81 cells."""
    return SudokuTask(3, "sudoku")


@tasks("sudoku4")
def sudoku4() -> SudokuTask:
    """4x4 Sudoku, 16 cells, 288 grids: small enough for tests and for exact answers."""
    return SudokuTask(2, "sudoku4")
