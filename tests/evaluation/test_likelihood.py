"""Log-likelihoods of a masked diffusion model: exact against enumeration, draws within their error of that."""

import importlib.util
import itertools
import math
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prism_plugin.errors import ConfigError
from prism_plugin.evaluation.likelihood import KINDS, draw, greedy, log_likelihood, subsets
from prism_plugin.models.denoiser import Denoiser, Output
from tests.table_model import chain

SYMBOLS, MASK = 4, 4
LLADA = os.environ.get("PRISM_HOST_LLADA", "")


class Hashed(Denoiser):
    """Logits that follow from all visible tokens, and belong to no distribution of texts: orders disagree."""

    vocab_size, mask_id, hidden_size, max_length = SYMBOLS + 1, MASK, 1, 64

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.widths = 0, []

    def forward(self, tokens: Tensor, padding: Tensor | None = None) -> Output:
        assert padding is None
        self.rows += len(tokens)
        self.widths.append(len(tokens))
        place = torch.arange(tokens.shape[1])
        seen = ((tokens + 1) * (place * place + 7) % 31).sum(1, keepdim=True)
        logits = (((seen * 13 + place * 5) % 29)[..., None] * (torch.arange(SYMBOLS) * 2 + 1) % 17) / 5.0
        return Output(tokens[..., None].float(), None, torch.nn.functional.pad(logits, (0, 1), value=-torch.inf))


def by_orders(model: Denoiser, context: Tensor, answer: Tensor, size: int) -> float:
    """The mean over all orders of the log-probability of the tokens, each given those before it; block by block."""
    total = 0.0
    for first in range(0, len(answer), size):
        block = range(len(context) + first, len(context) + min(first + size, len(answer)))
        text = torch.cat([context, answer])
        orders = []
        for order in itertools.permutations(block):
            seen, sum_ = text.clone(), 0.0
            seen[block.start :] = model.mask_id
            for place in order:
                output = model(seen[None])
                sum_ += float(output.logits[0, place].double().log_softmax(-1)[text[place]])
                seen[place] = text[place]
            orders.append(sum_)
        total += sum(orders) / len(orders)
    return total


@pytest.mark.parametrize(("kind", "size"), [("bound", 4), ("block", 3), ("chain", 1)])
def test_exact_is_the_mean_over_all_orders(kind: str, size: int) -> None:
    context, answer = torch.tensor([1, 0, 3]), torch.tensor([2, 2, 0, 1])
    found = log_likelihood(Hashed(), context, answer, kind=kind, block_length=size, mc_num=15, batch_size=4)
    assert found.value == pytest.approx(by_orders(Hashed(), context, answer, size), abs=1e-5)
    assert found.stderr == 0.0 and found.forwards == {"bound": 15, "block": 7 + 1, "chain": 4}[kind]


def test_a_model_with_one_distribution_has_one_likelihood() -> None:
    """Where all orders agree every kind gives log p(answer | context), exactly."""
    model = chain(5, 3)
    table = model.probability.view(3, 3, 3, 3, 3)
    context, answer = torch.tensor([2, 0]), torch.tensor([1, 1, 2])
    true = float((table[2, 0, 1, 1, 2] / table[2, 0].sum()).log())
    for kind in KINDS:
        assert log_likelihood(model, context, answer, kind=kind, block_length=2).value == pytest.approx(true, abs=1e-5)


@pytest.mark.parametrize("kind", ["chain", "chain-confidence"])
def test_chains_are_distributions(kind: str) -> None:
    context, total = torch.tensor([3, 1]), 0.0
    for answer in itertools.product(range(SYMBOLS), repeat=3):
        total += math.exp(log_likelihood(Hashed(), context, torch.tensor(answer), kind=kind).value)
    assert total == pytest.approx(1.0, abs=1e-5)


def test_draws_are_unbiased_and_know_their_error() -> None:
    context, answer = torch.tensor([1, 0]), torch.tensor([2, 2, 0, 1, 3, 0])
    exact = log_likelihood(Hashed(), context, answer, mc_num=63).value
    found = [log_likelihood(Hashed(), context, answer, mc_num=20, key=key) for key in range(300)]
    value = torch.tensor([one.value for one in found]).double()
    error = torch.tensor([one.stderr for one in found]).double()
    assert abs(float(value.mean()) - exact) < 4 * float(value.std()) / 300**0.5
    assert float(error.square().mean().sqrt()) == pytest.approx(float(value.std()), rel=0.15)
    assert all(one.forwards <= 20 for one in found)


def test_strata_are_sharper_than_plain_draws() -> None:
    """The variance of plain draws, by enumeration: k uniform, a set of that size, n times the mean over the set."""
    context, answer = torch.tensor([1, 0]), torch.tensor([2, 2, 0, 1, 3, 0])
    masks, weights = subsets(6)
    each = torch.tensor([_of(mask, context, answer) for mask in masks]) * 6
    plain = float((weights / 6 * each.square()).sum() - (weights / 6 * each).sum() ** 2) / 32
    ours = torch.tensor([log_likelihood(Hashed(), context, answer, mc_num=32, key=key).value for key in range(200)])
    assert float(ours.double().var()) < 0.9 * plain


def _of(mask: Tensor, context: Tensor, answer: Tensor) -> float:
    text = torch.cat([context, answer])
    seen = text.clone()
    seen[len(context) :][mask] = MASK
    log = Hashed()(seen[None]).logits[0].double().log_softmax(-1).gather(1, text[:, None])[len(context) :, 0]
    return float(log[mask].mean())


@settings(max_examples=40, deadline=None)
@given(size=st.integers(1, 40), mc_num=st.integers(1, 64), key=st.integers(0, 2**32 - 1))
def test_sets_are_never_empty_and_come_in_mirrored_pairs(size: int, mc_num: int, key: int) -> None:
    masks, strata = draw(size, mc_num, 0, key)
    count = masks.sum(1)
    assert len(masks) <= max(2, mc_num) and len(masks) % (2 * strata) == 0
    assert (count[::2] == count[1::2]).all() and ((count >= 1) & (count <= size)).all()
    assert (draw(size, mc_num, 0, key)[0] == masks).all()


def test_the_masks_of_a_question_are_the_same_so_that_differences_are_sharp() -> None:
    context = torch.tensor([1, 0])
    one, other = torch.tensor([2, 2, 0, 1, 3, 0, 1, 2]), torch.tensor([2, 2, 0, 1, 3, 0, 1, 3])
    exact = [log_likelihood(Hashed(), context, answer, mc_num=255).value for answer in (one, other)]
    found, spread = [], []
    for key in range(60):
        first, second = (log_likelihood(Hashed(), context, answer, mc_num=32, key=key) for answer in (one, other))
        difference, error = first.minus(second)
        found.append(difference)
        spread.append(error)
    mean = sum(found) / 60
    assert abs(mean - (exact[0] - exact[1])) < 4 * torch.tensor(found).std() / 60**0.5
    assert torch.tensor(spread).square().mean().sqrt() == pytest.approx(float(torch.tensor(found).std()), rel=0.35)


def test_a_pass_holds_one_answer_and_no_more_rows_than_asked_for() -> None:
    model = Hashed()
    log_likelihood(model, torch.tensor([1]), torch.tensor([0, 1, 2]), batch_size=3)
    assert model.widths == [3, 3, 1]


def test_greedy_is_what_the_surest_first_writes() -> None:
    model, context = Hashed(), torch.tensor([3, 3, 1])
    row = torch.cat([context, torch.full((4,), MASK)])
    for _ in range(4):
        log = Hashed()(row[None]).logits[0].log_softmax(-1)
        sure = log.max(1).values.masked_fill(row != MASK, -torch.inf)
        row[sure.argmax()] = log[sure.argmax()].argmax()
    assert greedy(model, context, row[3:]) == (True, 4)
    for place in range(4):
        other = row[3:].clone()
        other[place] = (other[place] + 1) % SYMBOLS
        assert not greedy(model, context, other)[0]


def test_what_cannot_be_is_refused_and_nothing_is_certain() -> None:
    with pytest.raises(ConfigError, match="Nearest: chain"):
        log_likelihood(Hashed(), torch.tensor([1]), torch.tensor([0]), kind="chian")
    with pytest.raises(ConfigError, match="mc_num"):
        log_likelihood(Hashed(), torch.tensor([1]), torch.tensor([0]), mc_num=0)
    assert log_likelihood(Hashed(), torch.tensor([1]), torch.tensor([], dtype=torch.long)).value == 0.0


@pytest.mark.real_host
@pytest.mark.skipif(not LLADA, reason="PRISM_HOST_LLADA does not name a checkout of ML-GSAI/LLaDA")
def test_the_hosts_own_estimate_has_this_mean() -> None:
    """get_log_likelihood.py of LLaDA, its draws against ours and against the exact value, on one model."""
    spec = importlib.util.spec_from_file_location("llada_likelihood", Path(LLADA) / "get_log_likelihood.py")
    theirs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(theirs)

    class Host:
        device = torch.device("cpu")

        def __call__(self, tokens: Tensor) -> SimpleNamespace:
            logits = Hashed()(tokens).logits
            return SimpleNamespace(logits=logits.masked_fill(logits == -torch.inf, -1e9))

    context, answer = torch.tensor([1, 0]), torch.tensor([2, 2, 0, 1, 3, 0])
    exact = log_likelihood(Hashed(), context, answer, mc_num=63).value
    torch.manual_seed(0)
    said = torch.tensor(
        [theirs.get_log_likelihood(Host(), context, answer, mc_num=32, batch_size=16, mask_id=MASK) for _ in range(400)]
    ).double()
    ours = torch.tensor([log_likelihood(Hashed(), context, answer, mc_num=32, key=k).value for k in range(400)])
    assert abs(float(said.mean()) - exact) < 4 * float(said.std()) / 20
    assert abs(float(ours.double().mean()) - exact) < 4 * float(ours.double().std()) / 20
    print(f"exact {exact:.4f}; 32 draws: theirs {said.std():.4f}, ours {ours.std():.4f} (standard deviation, 400 runs)")
