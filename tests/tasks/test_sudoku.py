"""Sudoku grids: valid, distinct, the same everywhere, and with no symmetry that a model could lean on."""

import importlib.util
import itertools
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prism_plugin.errors import ConfigError, DataError
from prism_plugin.tasks import HELD_OUT, TRAIN, _sudoku, get_task


@pytest.mark.parametrize(("name", "count"), [("sudoku", 100), ("sudoku4", 50)])
def test_grids_are_valid_and_do_not_depend_on_how_they_are_asked_for(name: str, count: int) -> None:
    task = get_task(name)
    grids = task.texts(0, count, TRAIN)
    side = task.side
    for grid in grids.view(count, side, side):
        for line in (*grid, *grid.T):
            assert sorted(line.tolist()) == list(range(1, side + 1))
        for r, c in itertools.product(range(0, side, task.grid), repeat=2):
            assert grid[r : r + task.grid, c : c + task.grid].unique().numel() == side
    assert torch.equal(task.texts(7, 3, TRAIN), grids[7:10])
    assert task.accuracy(grids, grids)[0].all()


def test_grids_are_distinct_and_held_out_ones_are_others() -> None:
    task = get_task("sudoku")
    seen, held_out = ({tuple(g) for g in task.texts(0, 300, s).tolist()} for s in (TRAIN, HELD_OUT))
    assert len(seen) == len(held_out) == 300 and not seen & held_out


def test_no_symmetry_is_always_present() -> None:
    """Digits and cells as uniform as chance, and the first row not a rotation of another row of its box."""
    grids = get_task("sudoku").texts(0, 900, TRAIN)
    share = torch.nn.functional.one_hot(grids, 10).float().mean(0)[:, 1:]  # (81, 9), 1/9 each, sd .0105
    assert (share - 1 / 9).abs().max() < 0.05
    rows = grids.view(-1, 9, 9)
    rotated = torch.stack([rows[:, 1] == rows[:, 0].roll(n, dims=1) for n in range(1, 9)]).all(-1).any(0)
    assert rotated.float().mean() < 0.05
    cell = torch.arange(81).view(9, 9)
    for turned in (cell.T, cell.rot90(), cell.rot90(2), cell.flip(0)):  # the same up to a renaming of digits
        image = grids[:, turned.flatten()]
        pairs = (grids * 10 + image).sort(dim=1).values
        distinct = 1 + (pairs[:, 1:] != pairs[:, :-1]).sum(1)  # 9 pairs where renaming explains the turn
        assert (distinct == 9).float().mean() < 0.02


def test_all_288_small_grids_come_up_about_equally_often() -> None:
    grids, counts = get_task("sudoku4").texts(0, 6000, TRAIN).unique(dim=0, return_counts=True)
    assert len(grids) == 288
    assert counts.min() > 5 and counts.max() < 60  # 21 expected


def test_compiled_and_plain_python_draw_the_same_grids() -> None:
    if _sudoku.__file__.endswith(".py"):
        pytest.skip("the generator is not compiled here")
    source = Path(_sudoku.__file__).with_name("_sudoku.py")
    spec = importlib.util.spec_from_file_location("plain_sudoku", source)
    plain = importlib.util.module_from_spec(spec)
    sys.modules["plain_sudoku"] = plain
    spec.loader.exec_module(plain)
    assert not plain.cython.compiled
    assert plain.grids(3, 5, 4, 777) == _sudoku.grids(3, 5, 4, 777)
    assert plain.grids(2, 0, 40, 1) == _sudoku.grids(2, 0, 40, 1)
    clues = get_task("sudoku").prompts(1, 26)[0].tolist()
    assert plain.count_solutions(3, clues, 50) == _sudoku.count_solutions(3, clues, 50) >= 1


@settings(max_examples=20, deadline=None)
@given(clues=st.integers(0, 81), first=st.integers(0, 50))
def test_prompts_keep_the_clues_asked_for(clues: int, first: int) -> None:
    task = get_task("sudoku")
    prompts, grids = task.prompts(3, clues, first=first), task.texts(first, 3, HELD_OUT)
    assert ((prompts != 0).sum(1) == clues).all()
    assert ((prompts == 0) | (prompts == grids)).all()


def test_accuracy_sees_clashes_blanks_and_changed_clues() -> None:
    task = get_task("sudoku4")
    grid = task.texts(0, 1, HELD_OUT)
    blank = torch.zeros_like(grid)
    spoilt = grid.clone()
    spoilt[0, 5] = grid[0, 5] % 4 + 1
    solved, cells = task.accuracy(torch.cat([grid, blank, spoilt]), blank.repeat(3, 1))
    assert solved.tolist() == [True, False, False]
    assert cells[0] == 1 and cells[1] == 0 and 0 < cells[2] < 0.9
    other = task.texts(1, 1, HELD_OUT)
    assert not torch.equal(other, grid)
    assert task.accuracy(other, blank)[0] and not task.accuracy(other, grid)[0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({0: 1, 3: 1}, "row 1 holds 1 twice"),
        ({1: 2, 13: 2}, "column 2 holds 2 twice"),
        ({10: 4, 15: 4}, "box 4 holds 4 twice"),
        ({0: 5}, "0 .blank. to 4"),
        ({0: 1, 1: 2, 6: 3, 10: 4, 14: 1}, "leave no solution|no solution"),
    ],
)
def test_an_impossible_puzzle_is_refused(changes: dict[int, int], said: str) -> None:
    task = get_task("sudoku4")
    with pytest.raises(DataError, match=said):
        task.check_puzzle([changes.get(i, 0) for i in range(16)])


def test_a_possible_puzzle_is_not() -> None:
    task = get_task("sudoku4")
    task.check_puzzle(task.prompts(1, 6)[0].tolist())
    with pytest.raises(DataError, match="16 cells, 3 came"):
        task.check_puzzle([0, 0, 0])
    with pytest.raises(DataError, match="clues = 17"):
        task.prompts(1, 17)
    with pytest.raises(ConfigError, match="Nearest: sudoku"):
        get_task("sodoku")
