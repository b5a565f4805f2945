"""What the PRISM loss is made of, and the proof: at k = 1 its minimiser is the quality it means, whatever fills."""

import dataclasses
import itertools
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.theory import Enumerable, enumerate_loss, learn, markov_chain, spoiled, sudoku
from prism_plugin.config import load
from prism_plugin.quality import loss as losses
from prism_plugin.quality.loss import QualityConfig, draw_sample, noise_level, quality_loss, reveal

MASK = 9


def by_hand(data: Enumerable, y: tuple[int, ...], i: int) -> float:
    """P(x_i = y_i | y with i masked) by adding up texts."""
    fits = [
        (text, prob)
        for text, prob in zip(data.texts.tolist(), data.prob.tolist(), strict=True)
        if all(
            seen in (token, data.symbols) for place, (seen, token) in enumerate(zip(y, text, strict=True)) if place != i
        )
    ]
    return sum(p for text, p in fits if text[i] == y[i]) / sum(p for _, p in fits)


def test_exact_quality_is_what_its_definition_says() -> None:
    data = markov_chain(3)
    assert data.prob.sum().item() == pytest.approx(1)
    for y in itertools.product(range(4), repeat=3):
        (found,) = data.quality(torch.tensor([y]))
        for i in range(3):
            assert math.isnan(found[i]) if y[i] == 3 else found[i].item() == pytest.approx(by_hand(data, y, i))


def test_exact_quality_of_grids_with_a_wrong_cell() -> None:
    data = sudoku()
    assert len(data.texts) == 288
    y = data.texts[:1].clone()
    assert (data.quality(y) == 1).all()
    y[0, 5] = (y[0, 5] + 1) % 4
    found = data.quality(y)
    assert found[0, 5] == 0 and found[0].isnan().sum() == 15, "with another cell masked no grid fits"
    near = data.quality(y, noise=0.01)
    assert near[0, 5] < 1e-3 and near.isfinite().all() and near[0, 10] > 0.9
    y[0, 9:] = 4
    close = data.quality(y, noise=1e-9) - data.quality(y)
    assert close[~close.isnan()].abs().max() < 1e-6


@pytest.mark.parametrize("fills", ["fresh", "stale"])
@pytest.mark.parametrize("backbone", ["exact", "wrong"])
@pytest.mark.parametrize("name", ["strings", "grids"])
def test_at_k_1_the_loss_is_minimised_by_the_exact_quality(name: str, fills: str, backbone: str) -> None:
    data, patterns, least = (markov_chain(4), 48, 400) if name == "strings" else (sudoku(), 4, 400)
    posterior = data.posterior if backbone == "exact" else spoiled(data)
    ways = enumerate_loss(data, posterior, QualityConfig(k=1, fills=fills), patterns)
    assert ways.reached.sum() > least
    assert (ways.minimiser - ways.quality)[ways.reached].abs().max() < 1e-12


def test_the_wrong_backbone_is_wrong() -> None:
    data = markov_chain(4)
    contexts = data.decode(torch.arange(4**4))
    assert (spoiled(data)(contexts) - data.posterior(contexts))[contexts == 3].abs().mean() > 0.1


def test_at_larger_k_it_is_not_and_depends_on_the_backbone() -> None:
    data = markov_chain(4)
    found = [
        enumerate_loss(data, p, QualityConfig(k=3, fills="fresh"), patterns=48) for p in (data.posterior, spoiled(data))
    ]
    assert torch.equal(found[0].y, found[1].y)
    both = found[0].reached & found[1].reached
    assert (found[0].minimiser - found[0].quality)[both].abs().mean() > 0.03
    assert (found[0].minimiser - found[1].minimiser)[both].abs().mean() > 0.01


@pytest.mark.parametrize("fills", ["fresh", "stale"])
def test_a_fill_that_looked_at_the_truth_would_be_found_out(fills: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof's one condition broken on purpose: fills are drawn in a context that shows the tokens to be filled."""

    def peeking(x: torch.Tensor, *args: object) -> losses.Sample:
        sample = draw_sample(x, *args)
        sample.context = torch.where(sample.chosen, x, sample.context)
        return sample

    monkeypatch.setattr("benchmarks.theory.draw_sample", peeking)
    data = markov_chain(4)
    ways = enumerate_loss(data, spoiled(data), QualityConfig(k=1, fills=fills), patterns=48)
    assert (ways.minimiser - ways.quality)[ways.reached].abs().max() > 0.05


def test_a_network_trained_on_the_loss_comes_near_the_exact_quality() -> None:
    data = markov_chain(3)
    ways = enumerate_loss(data, spoiled(data), QualityConfig(k=1, fills="stale"), patterns=64)
    inputs = data.one_hot(ways.y)
    learned = learn(inputs, ways.minimiser.nan_to_num(0), ways.weight, steps=400)(inputs).sigmoid()
    error = (learned - ways.quality)[ways.reached].abs()
    assert error.mean() < 0.02 and error.max() < 0.05


@settings(max_examples=40, deadline=None)
@given(
    k=st.integers(1, 6), length=st.integers(1, 12), first=st.integers(0, 1000),
    fills=st.sampled_from(["fresh", "stale"]), protect=st.booleans(),
)  # fmt: skip
def test_samples_mask_fill_and_show_what_they_should(
    k: int, length: int, first: int, fills: str, protect: bool
) -> None:
    number = torch.arange(first, first + 8)
    x = torch.randint(0, MASK, (8, length))
    maskable = torch.rand(8, length) < 0.5 if protect else None
    sample = draw_sample(x, number, MASK, 3, QualityConfig(k=k, fills=fills), maskable)
    assert torch.equal(sample.context == MASK, sample.masked)
    assert torch.equal(sample.chosen.sum(1), sample.masked.sum(1).clamp(max=k))
    assert not (sample.chosen & ~sample.masked).any() and not (sample.later & ~sample.masked).any()
    sample.later &= ~sample.chosen
    if maskable is not None:
        assert not (sample.masked & ~maskable).any()
    if fills == "fresh":
        assert torch.equal(sample.later | sample.chosen, sample.masked)
    index = sample.chosen.flatten().nonzero().squeeze(1)
    y = reveal(sample, x, index, torch.full_like(index, 7), MASK)
    assert torch.equal(y == MASK, sample.later)
    assert (y[sample.chosen] == 7).all()
    untouched = ~sample.later & ~sample.chosen
    assert torch.equal(y[untouched], x[untouched])


def test_what_is_masked_depends_on_the_text_number_alone() -> None:
    config = QualityConfig(k=2)
    some, other = torch.zeros(6, 10, dtype=torch.long), torch.randint(0, MASK, (6, 10))
    number = torch.arange(40, 46)
    a, b = draw_sample(some, number, MASK, 1, config), draw_sample(other, number, MASK, 1, config)
    one = draw_sample(other[4:5], number[4:5], MASK, 1, config)
    for name in ("masked", "later", "chosen"):
        assert torch.equal(getattr(a, name), getattr(b, name))
        assert torch.equal(getattr(b, name)[4:5], getattr(one, name))
    assert not torch.equal(a.masked, draw_sample(some, number, MASK, 2, config).masked)


def test_noise_levels_of_any_64_texts_in_a_row_are_spread_evenly() -> None:
    for first in (0, 1000, 10**7):
        level = noise_level(5, torch.arange(first, first + 64)).sort().values
        assert level[0] > 0 and level[-1] <= 1
        assert (level - (torch.arange(64) + 0.5) / 64).abs().max() < 0.06


def test_masked_share_is_the_noise_level_and_the_mdm_loss_is_unbiased() -> None:
    """With the same logits everywhere, E[sum CE / t] / (B L) is the cross-entropy itself."""
    number = torch.arange(20000)
    x = torch.zeros(len(number), 8, dtype=torch.long)
    sample = draw_sample(x, number, MASK, 0, QualityConfig(k=1))
    index = sample.masked.flatten().nonzero().squeeze(1)
    logits = torch.tensor([[1.0, 0.0, -1.0]]).expand(len(index), -1)
    one = torch.nn.functional.cross_entropy(logits[:1], x[0, :1])
    found = losses.mdm_loss(logits, x.flatten()[index], sample.t[index // 8], x.numel())
    assert found.item() == pytest.approx(one.item(), rel=0.06)
    assert sample.masked.float().mean() == pytest.approx(0.5, abs=0.01)


def test_quality_loss_is_the_mean_over_revealed_tokens_and_0_where_there_is_none() -> None:
    scores = torch.tensor([[0.3, -2.0, 5.0]], requires_grad=True)
    x, y = torch.tensor([[1, 2, 3]]), torch.tensor([[1, 4, 3]])
    chosen = torch.tensor([[True, True, False]])
    expected = -(math.log(1 / (1 + math.exp(-0.3))) + math.log(1 - 1 / (1 + math.exp(2.0)))) / 2
    assert quality_loss(scores, x == y, chosen).item() == pytest.approx(expected, rel=1e-5)
    nothing = quality_loss(scores, x == y, torch.zeros_like(chosen))
    nothing.backward()
    assert nothing.item() == 0 and (scores.grad == 0).all()


def test_the_page_on_the_loss_names_every_word_and_its_published_settings_can_be_used() -> None:
    page = (Path(__file__).parents[2] / "docs" / "loss.md").read_text()
    for field in dataclasses.fields(QualityConfig):
        assert f"`{field.name}`" in page
    for line in page.split("\n    Sudoku")[1].split("\n\n")[0].splitlines():
        load([word for word in line.split() if word.startswith("quality.")])
