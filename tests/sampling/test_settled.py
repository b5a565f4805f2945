"""Parts that ask whether a text has come to rest or is good enough: guard=converged, end=confident, order=commit,
score=verifier, each against its rule."""

import itertools

import pytest
import torch
from torch import Tensor

from prism_plugin.errors import ConfigError
from prism_plugin.models.denoiser import View
from prism_plugin.sampling.config import SamplerConfig, resolve
from prism_plugin.sampling.drive import generate
from prism_plugin.sampling.methods import check
from prism_plugin.sampling.state import State
from tests.sampling.test_rules import MASK, record, state_of
from tests.table_model import TableModel, chain


def sharp(power: float, length: int = 5) -> TableModel:
    """A chain whose probabilities are taken to a power: the larger, the surer."""
    return TableModel(chain(length, seed=2).probability.view([3] * length) ** power)


@pytest.mark.parametrize("passes", [1, 2])
def test_a_position_that_has_settled_is_left_alone_for_good(passes: int) -> None:
    """With a pass's likeliest tokens and probabilities restated from the table."""
    model, steps, moves = chain(6, seed=3), 24, 0.05
    seen: list[tuple[Tensor, Tensor]] = []

    def look(state: State, view: View | None) -> None:
        seen.append((state.tokens.clone(), state.settled.clone()))

    config = SamplerConfig(
        "random-remask", guard="converged", refill="wait", num_remask=2, steps=steps, fill_share=0.3, calm=passes,
        moves=moves,
    )  # fmt: skip
    generate(model, torch.full((6, 6), MASK), config, callback=look)
    calm, guess, prob = torch.zeros(6, 6), torch.full((6, 6), -1), torch.zeros(6, 6)
    settled = torch.zeros(6, 6, dtype=torch.bool)
    for (text, _), (after, found) in itertools.pairwise(seen):
        best, token = model.leave_one_out(text).float().max(dim=-1)
        calm = torch.where(token == guess, calm + 1, 0)
        still = (calm >= passes) & ((best - prob).abs() <= moves) & (token == text)
        guess, prob = token, best
        assert not (settled & (after != text)).any()  # what had settled before this step stays
        settled |= still
        assert torch.equal(found, settled)
    assert settled.any() and not settled.all()


def test_a_block_ends_when_its_likeliest_tokens_stay_and_are_sure() -> None:
    """As transformers' stopping rule for DiffusionGemma has it; the entropies are the table's."""
    config = SamplerConfig("prism-evidence", steps=40, fill_share=0.2, end="confident", entropy_below=0.05)
    sure, unsure = sharp(8.0), chain(5, seed=2)
    for model in (sure, unsure):
        result, texts = record(model, torch.full((1, 5), MASK), config)
        guesses = [model.leave_one_out(text).argmax(dim=-1) for text in texts[:-1]]
        entropies = [torch.special.entr(model.leave_one_out(text)).sum(-1).mean() for text in texts[:-1]]
        full = [bool((after != MASK).all()) for after in texts[1:]]
        ends = [
            step for step in range(1, len(guesses))
            if full[step] and torch.equal(guesses[step], guesses[step - 1]) and entropies[step] < 0.05
        ]  # fmt: skip
        assert int(result.forwards) == (ends[0] + 1 if ends else 40)
        assert bool(ends) == (model is sure)


@pytest.mark.parametrize("step", [0, 4, 8])
def test_all_masks_are_filled_once_their_gap_is_large(step: int) -> None:
    """The mean over masks of log p1 - log p2 against the bound of the third of the steps."""
    filled = []
    for power in (1.0, 2.0, 4.0, 6.0, 9.0):
        model = sharp(power)
        tokens = torch.tensor([[MASK, 0, MASK, MASK, MASK]])
        state = state_of(tokens.clone(), "prophet", step=step, steps=12)
        state.parts.order(View(model, model(tokens)), state, state.masked, torch.tensor([1]))
        top = model.leave_one_out(tokens)[0, [0, 2, 3, 4]].topk(2, dim=-1).values
        gap = (top[:, 0].log() - top[:, 1].log()).mean()
        everything = bool(gap >= {0: 7.5, 4: 5.0, 8: 2.5}[step])
        assert int(state.filled.sum()) == (4 if everything else 1)
        filled.append(everything)
    assert not all(filled) and any(filled)


def even(tokens: Tensor) -> Tensor:
    return (tokens.sum(dim=1) % 2 == 0).float()


def test_a_text_that_passes_is_left_alone_and_the_unlikely_tokens_of_others_go() -> None:
    model, rows, steps = chain(5, seed=1), 200, 30
    config = SamplerConfig(
        "random", score="verifier", verifier=f"{__name__}:even", select="below", tau=0.5, guard="share", steps=steps,
        fill_share=0.2, remask_share=0.4,
    )  # fmt: skip
    result, texts = record(model, torch.full((rows, 5), MASK), config)
    for before, after in itertools.pairwise(texts):
        whole = (before != MASK).all(dim=1)
        passed = whole & (even(before) == 1)
        assert torch.equal(after[passed], before[passed])
    likelihood = model.leave_one_out(texts[8]).gather(-1, texts[8].clamp(max=2)[..., None])[..., 0]
    failing = (texts[8] != MASK).all(dim=1) & (even(texts[8]) == 0)
    gone = (texts[9] == MASK)[failing]
    expected = (likelihood[failing] < 0.5).sum(dim=1).clamp(max=2)
    assert failing.any() and torch.equal(gone.sum(dim=1), expected)
    first = texts[int(0.2 * steps)]
    assert even(result.tokens).mean() > even(first).mean() + 0.1
    assert result.settings["verifier"] == f"{__name__}:even"
    own = SamplerConfig(**{**config.settings(), "verifier": even})
    assert torch.equal(generate(model, torch.full((rows, 5), MASK), own).tokens, result.tokens)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "sampler.score.verifier is not set"),
        ({"verifier": "nowhere:at_all"}, "sampler.score.verifier = nowhere:at_all: no such function"),
        ({"verifier": even, "select": "fixed"}, "select = fixed would take all the same: choose select=below"),
    ],
)
def test_a_verifier_that_cannot_be_used_is_refused(changes: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check(resolve(SamplerConfig(**{"name": "random", "score": "verifier", "select": "below", **changes})), True,
              frozenset())  # fmt: skip
