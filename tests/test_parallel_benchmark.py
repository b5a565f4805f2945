"""benchmarks/parallel.py: what counts as a right answer, the rows, the true distribution, and the page."""

from itertools import permutations

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks import parallel
from benchmarks.parallel import ANSWER, MASK, SIZE, Effort, Truth, done, lines, right, text

WORDS = torch.tensor([[3, 1, 4, 15, 9, 2, 6, 5, 7]])  # a line of eight, and the newcomer 7


@pytest.mark.parametrize(
    ("operation", "good", "bad"),
    [
        ("copy", [[3, 1, 4, 15, 9, 2, 6, 5]], [[1, 3, 4, 15, 9, 2, 6, 5]]),
        ("reverse", [[5, 6, 2, 9, 15, 4, 1, 3]], [[3, 1, 4, 15, 9, 2, 6, 5]]),
        ("sort", [[1, 2, 3, 4, 5, 6, 9, 15]], [[1, 2, 3, 4, 5, 6, 15, 9]]),
        (
            "shuffle",
            [[1, 3, 4, 15, 9, 2, 6, 5], [5, 6, 2, 9, 15, 4, 1, 3]],
            [[3, 1, 4, 15, 9, 2, 6, 5], [3, 3, 4, 15, 9, 2, 6, 5], [7, 1, 4, 15, 9, 2, 6, 5]],
        ),
        (
            "replace",
            [[7, 1, 4, 15, 9, 2, 6, 5], [3, 1, 4, 15, 9, 2, 6, 7]],
            [[3, 1, 4, 15, 9, 2, 6, 5], [7, 7, 4, 15, 9, 2, 6, 5], [1, 7, 4, 15, 9, 2, 6, 5]],
        ),
    ],
)
def test_right_answers_and_wrong_ones(operation: str, good: list[list[int]], bad: list[list[int]]) -> None:
    for answers, truth in ((good, True), (bad, False)):
        found = right(operation, WORDS.expand(len(answers), -1), torch.tensor(answers))
        assert found.tolist() == [truth] * len(answers)


@pytest.mark.parametrize("operation", parallel.OPERATIONS)
def test_rows_hold_right_answers_of_every_kind(operation: str) -> None:
    generator = torch.Generator().manual_seed(0)
    words = lines(400, generator)
    assert all(len(set(row)) == SIZE + 1 for row in words.tolist())
    answer = done(operation, words, generator)
    assert bool(right(operation, words, answer).all())
    row, prompt = text(operation, words, answer), text(operation, words)
    assert torch.equal(row[:, : ANSWER.start], prompt[:, : ANSWER.start]) and torch.equal(row[:, ANSWER], answer)
    assert bool((prompt[:, ANSWER] == MASK).all()) and int(row.max()) < parallel.VOCABULARY
    assert not bool(right(operation, words, prompt[:, ANSWER]).any())
    if operation == "replace":
        places = (answer == words[:, SIZE:]).sum(0)
        assert int(places.sum()) == 400 and int(places.min()) > 25 and int(places.max()) < 80


def by_hand(operation: str, answer: Tensor) -> Tensor:
    """P(x_i = v | visible tokens but i) of one answer (SIZE,) to ``WORDS``, added up over all answers, (SIZE, V)."""
    line, newcomer = WORDS[0, :SIZE], WORDS[0, SIZE]
    if operation == "shuffle":
        answers = line[torch.tensor(list(permutations(range(SIZE))))]
    else:
        answers = torch.where(torch.eye(SIZE, dtype=torch.bool), newcomer, line)
    found = torch.zeros(SIZE, parallel.VOCABULARY, dtype=torch.float64)
    for i in range(SIZE):
        others = (answer != MASK) & (torch.arange(SIZE) != i)
        weight = parallel.LEAK ** ((answers != answer) & others).sum(1).double()
        found[i].index_add_(0, answers[:, i], weight)
    return found / found.sum(1, keepdim=True)


@pytest.mark.parametrize(
    ("operation", "answer"),
    [
        ("shuffle", [3, 0, 15, 0, 0, 1, 0, 0]),
        ("shuffle", [3, 3, 15, 0, 15, 15, 0, 0]),
        ("shuffle", [1, 3, 4, 15, 9, 2, 6, 5]),
        ("replace", [3, 0, 4, 0, 9, 2, 6, 5]),
        ("replace", [7, 0, 4, 7, 9, 2, 6, 5]),
        ("replace", [3, 1, 4, 15, 9, 2, 6, 5]),
    ],
)
def test_the_truth_is_what_all_answers_add_up_to(operation: str, answer: list[int]) -> None:
    whole = text(operation, WORDS, torch.tensor([answer]))
    found = Truth(operation).leave_one_out(whole)[0]
    assert torch.allclose(found, by_hand(operation, torch.tensor(answer)), atol=1e-4)


def share(operation: str, name: str, steps: int, words: Tensor) -> float:
    result = parallel.write(Truth(operation), text(operation, words), parallel.sampler(name, steps, 0))
    return float(right(operation, words, result.tokens[:, ANSWER]).double().mean())


def test_filling_several_at_once_is_as_often_right_as_it_must_be() -> None:
    words = lines(600, torch.Generator().manual_seed(3))
    for operation in parallel.JOINT:
        assert share(operation, "random", SIZE, words) > 0.99  # a shuffle may be the line itself, one in 40,320
    pairs = 7 / 8 * 5 / 6 * 3 / 4 * 1 / 2  # of 8, 6, 4 and 2 free words two are drawn at once, and must differ
    assert share("shuffle", "random", SIZE // 2, words) == pytest.approx(pairs, abs=0.055)  # three standard errors
    one = SIZE * (1 / SIZE) * (1 - 1 / SIZE) ** (SIZE - 1)
    assert share("replace", "random", 1, words) == pytest.approx(one, abs=0.06)


def test_the_page_and_paired_gains() -> None:
    effort = Effort(questions=(6, 6), seeds=(0, 1), budgets=(2, 4))
    words = lines(6, torch.Generator().manual_seed(4))
    units = parallel.units(Truth("shuffle"), "shuffle", words, effort)
    rows = parallel.merged(units)
    by = {(row["sampler"], row["budget"]): row for row in rows}
    assert len(rows) == 2 * len(parallel.SAMPLERS) and len(units) == 2 * len(rows)
    gain = by["rcr", 4]["over_fills"]["mean"]
    assert gain == pytest.approx(by["rcr", 4]["mean"] - by["random", 4]["mean"]) and "over_fills" not in by["random", 4]
    clash = parallel.clashes(Truth("shuffle"), lines(40, torch.Generator().manual_seed(5)), 0)
    assert clash["auroc"]["the head as evidence"] == 1 and clash["auroc"]["probability when written"] < 0.75
    page = parallel.page({
        "command": "c", "date": "d", "machine": "m", "size": SIZE, "words": 20, "questions": 6, "easy": 6,
        "seeds": "0, 1", "rows_trained": 1, "parameters": 1, "steps": "1, 1", "head": 1,
        "rows": {"exact": rows, "trained": rows}, "clashes": {"exact": clash, "trained": clash},
    })  # fmt: skip
    assert page.count("### shuffle") == 2 and f"| rcr | {parallel.shown(by['rcr', 2])} |" in page
    assert parallel.entropy(np.array([2, 2, 0, 0])) == 1 and parallel.entropy(np.zeros(8)) is None
