"""Each part and published preset against its formula, restated here without the package's own code."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from prism_plugin import ops
from prism_plugin.errors import ConfigError
from prism_plugin.models.denoiser import View
from prism_plugin.sampling import schedules
from prism_plugin.sampling.config import SamplerConfig, fitting, resolve
from prism_plugin.sampling.drive import Result, generate
from prism_plugin.sampling.methods import check
from prism_plugin.sampling.parts import fills, guards, scores, selects
from prism_plugin.sampling.state import State
from tests.table_model import TableModel, chain

MASK = 3


def state_of(tokens: Tensor, name: str = "prism", step: int = 0, **changes: object) -> State:
    """A state with all positions editable, at a step, as a part sees it."""
    config = resolve(SamplerConfig(name, **changes))
    state = State(tokens, torch.ones_like(tokens, dtype=torch.bool), MASK, config, torch.arange(len(tokens)))
    state.step += step
    state.block_step += step
    return state


def record(model: TableModel, tokens: Tensor, config: SamplerConfig) -> tuple[Result, list[Tensor]]:
    """Run, keeping the text before every pass and after the last one."""
    texts: list[Tensor] = []
    result = generate(model, tokens, config, callback=lambda state, view: texts.append(state.tokens.clone()))
    return result, texts


def chi_square_bound(degrees: int) -> float:
    """A value that chi-square exceeds with probability below 1e-4 (Wilson and Hilferty's approximation)."""
    return degrees * (1 - 2 / (9 * degrees) + 3.72 * math.sqrt(2 / (9 * degrees))) ** 3


def chi_square(seen: Tensor, expected: Tensor) -> float:
    return float(((seen - expected).square() / expected).sum())


def test_even_split_is_lladas() -> None:
    steps = torch.arange(12)
    target = schedules.fill_target(steps, torch.full((12,), 32), torch.full((12,), 12))
    assert target.diff(prepend=torch.zeros(1, dtype=torch.long)).tolist() == [3] * 8 + [2] * 4
    early = schedules.fill_target(torch.arange(8), torch.full((8,), 9), torch.full((8,), 8), fill_share=0.75)
    assert early.tolist() == [2, 4, 6, 7, 8, 9, 9, 9]


def test_mdlm_fills_each_mask_with_the_hazard() -> None:
    """The number of masks after each of T steps is binomial with 1 - alpha, and every mask is equally likely filled."""
    model, rows, steps = chain(4), 4000, 3
    tokens = torch.full((rows, 4), MASK)
    _, texts = record(model, tokens, SamplerConfig("mdlm", steps=steps))
    masked = (texts[1] == MASK).sum(dim=1)  # texts[0] is before the first pass
    keep = 1 - 1 / steps
    law = torch.tensor([math.comb(4, k) * keep**k * (1 - keep) ** (4 - k) for k in range(5)])
    assert chi_square(torch.bincount(masked, minlength=5), law * rows) < chi_square_bound(4)
    where = (texts[1] == MASK).sum(dim=0)
    assert chi_square(where, torch.full((4,), keep * rows)) < chi_square_bound(4)


def test_one_token_a_step_draws_from_the_table() -> None:
    """With a step a token any fill order is exact: the texts have the table's distribution."""
    model, rows = chain(3, seed=4), 6000
    result = generate(model, torch.full((rows, 3), MASK), SamplerConfig("random", steps=3))
    index = (result.tokens * torch.tensor([9, 3, 1])).sum(dim=1)
    seen = torch.bincount(index, minlength=27)
    assert chi_square(seen, model.probability * rows) < chi_square_bound(26)
    assert result.forwards.eq(3).all()


def test_no_pass_is_spent_where_nothing_is_filled() -> None:
    """MDLM with many steps: as many passes as steps in which a mask comes up, which is what its cache saves."""
    model = chain(3)
    result = generate(model, torch.full((1, 3), MASK), SamplerConfig("mdlm", steps=200))
    assert model.passes == int(result.forwards) <= 3


def test_confidence_takes_the_likeliest_at_temperature_0() -> None:
    model = chain(5, seed=1)
    tokens = torch.tensor([[MASK, 0, MASK, MASK, 2]])
    result = generate(model, tokens, SamplerConfig("confidence", steps=3, temperature=0.0))
    expected = tokens.clone()
    for _ in range(3):
        p = model.leave_one_out(expected).masked_fill((expected != MASK)[..., None], -1)
        place = int(p.amax(-1).argmax())
        expected[0, place] = int(p[0, place].argmax())
    assert torch.equal(result.tokens, expected)


@pytest.mark.parametrize(
    ("order", "figure"),
    [
        ("margin", lambda p: p.sort(-1).values[..., -1] - p.sort(-1).values[..., -2]),
        ("entropy", lambda p: -torch.special.entr(p).sum(-1)),
    ],
)
def test_orders_by_another_figure(order: str, figure: Callable[[Tensor], Tensor]) -> None:
    model = chain(5, seed=2)
    tokens = torch.full((3, 5), MASK)
    tokens[1, 2], tokens[2, 0] = 0, 1
    _, texts = record(model, tokens, SamplerConfig("confidence", steps=5, order=order))
    rank = figure(model.leave_one_out(tokens)).masked_fill(tokens != MASK, -torch.inf)
    changed = (texts[1] != tokens).float().argmax(dim=1)
    assert torch.equal(changed, rank.argmax(dim=1))


def dit_release_step(
    tokens: Tensor, quality: Tensor, u: Tensor, x0: Tensor, keep: int, remask: int, initial: int, on: bool
) -> Tensor:
    """One step of PRISM's DiT release for one row (ALGORITHMS.md A.8): score all, keep the top k, mask the rest."""
    score = torch.where(tokens == MASK, 1 - u, torch.inf)
    visible = int((tokens != MASK).sum())
    if on and 0 < remask < visible < initial - remask:
        for place in quality.masked_fill(tokens == MASK, torch.inf).argsort()[:remask]:
            score[place] = quality[place] - 1
    kept = score.argsort(descending=True, stable=True)[:keep]
    after = torch.full_like(tokens, MASK)
    after[kept] = torch.where(tokens == MASK, x0, tokens)[kept]
    return after


@pytest.mark.parametrize(("length", "steps", "remask"), [(8, 8, 1), (8, 4, 2), (8, 8, 3), (6, 6, 2), (8, 2, 2)])
def test_prism_is_the_dit_releases_rule(length: int, steps: int, remask: int) -> None:
    model = chain(length, symbols=3, seed=length)
    tokens = torch.full((3, length), MASK)
    config = SamplerConfig("prism", steps=steps, num_remask=remask, step_on=1, seed=5)
    result, texts = record(model, tokens, config)
    place, remasked = torch.arange(length), 0
    for step in range(steps):
        for row in range(3):
            before = texts[step][row]
            p = model.leave_one_out(before[None])[0]
            key = torch.full((length,), row), place, torch.full((length,), step)
            x0 = ops.sample_rows(p.log(), place, *key, seed=5).token
            g = p.gather(1, before.clamp(max=2)[:, None])[:, 0]
            u = ops.uniform(5, *key, ops.ORDER)
            keep = math.ceil(length / steps * (step + 1))
            after = dit_release_step(before, g, u, x0, keep, remask, length, on=step >= 1)
            assert torch.equal(after, texts[step + 1][row]), (step, row)
            remasked += int(((before != MASK) & (after == MASK)).sum())
    assert remasked == int(result.remasked.sum())
    assert remasked > 0 or steps == 2


def test_prism_asks_for_no_logits_of_visible_tokens() -> None:
    model, length = chain(6), 6
    tokens = torch.full((2, length), MASK)
    tokens[:, 1] = 0
    for name in ("prism", "prism-evidence", "prism-llada"):
        before = model.logit_rows
        told = fitting({"steps": 4, "num_remask": 1}, name)
        result, texts = record(model, tokens, SamplerConfig(**told))
        masked = sum(int((text == MASK).sum()) for text in texts)
        needed = masked if name == "prism-llada" else int(result.fills.sum())  # by confidence every mask has to be seen
        assert model.logit_rows - before == needed
    before = model.logit_rows
    result, texts = record(model, tokens, SamplerConfig("self-likelihood", steps=4, num_remask=1))
    scored = texts[:-2]  # before every step but the last, in which nothing is masked again
    visible = sum(int((text != MASK).sum()) - len(text) for text in scored)  # less the given one
    assert model.logit_rows - before == int(result.fills.sum()) + visible


def test_binomial_is_capped_by_eta_and_by_the_plan() -> None:
    rows, length, steps = 3000, 10, 20
    tokens = torch.zeros(rows, length, dtype=torch.long)
    for visible, eta in ((4, 0.3), (9, 0.3), (10, 0.3)):
        tokens[:, :visible], tokens[:, visible:] = 0, MASK
        state = state_of(tokens, "prism-text", step=3, steps=steps, eta=eta)
        alpha = visible / length
        sigma = min(eta, (1 - min(alpha + 1 / steps, 1)) / alpha)
        _, counts = state.parts.select(torch.rand(rows, length), state)
        law = torch.tensor([math.comb(visible, k) * sigma**k * (1 - sigma) ** (visible - k) for k in range(5)])
        seen = torch.bincount(counts.clamp(max=5), minlength=6)[:5]
        if sigma == 0:
            assert seen[0] == rows
        else:
            assert chi_square(seen[law * rows > 5], (law * rows)[law * rows > 5]) < chi_square_bound(5)


def test_remdm_conf_draws_each_with_its_softmax() -> None:
    rows, steps, step = 4000, 10, 6
    tokens = torch.tensor([[0, 1, MASK, 2, MASK, 0]]).repeat(rows, 1)
    state = state_of(tokens, "remdm-conf", step=step, steps=steps)
    state.written = torch.tensor([[0.9, 0.2, 0.01, 0.6, 0.02, 0.4]]).repeat(rows, 1)
    keys, counts = selects["bernoulli_softmax"](scores["written"].function(None, state), state)
    gone = ops.select_lowest(keys, state.visible, counts)
    w = torch.tensor([0.9, 0.2, 0.6, 0.4])
    bound = min(1, (1 - (step + 1) / steps) / (step / steps))
    chance = torch.exp(-w) / torch.exp(-w).sum() * bound
    seen = gone.sum(dim=0)[[0, 1, 3, 5]]
    assert seen.sum() == gone.sum()
    z = (seen - chance * rows) / (chance * (1 - chance) * rows).sqrt()
    assert z.abs().max() < 4.5


def test_gate_is_all_or_nothing() -> None:
    tokens = torch.zeros(11, 10, dtype=torch.long)
    for visible in range(11):
        tokens[visible, visible:] = MASK
    state = state_of(tokens, steps=10)
    kept = guards["gate"](torch.full((11,), 3), state)
    assert kept.tolist() == [3 if 3 < visible < 10 - 3 else 0 for visible in range(11)]


def test_plan_guard_and_window() -> None:
    state = state_of(torch.zeros(1, 12, dtype=torch.long), steps=8, fill_share=0.75)
    assert guards["plan"](torch.tensor([50]), state).tolist() == [2]  # 12 tokens in 6 steps
    step, steps = torch.arange(8), torch.full((8,), 8)
    assert schedules.in_window(step, steps, 2, 0.75).tolist() == [False] * 2 + [True] * 4 + [False] * 2


def test_evidence_is_quality_over_written() -> None:
    model = chain(4)
    tokens = torch.tensor([[0, 1, MASK, 2]])
    state = state_of(tokens, "prism-evidence", steps=4)
    state.written = torch.tensor([[0.5, 0.25, 1.0, 0.8]])
    view = View(model, model(tokens))
    g = model.leave_one_out(tokens)[0, [0, 1, 3], [0, 1, 2]]
    found = scores["evidence"].function(view, state)[0, [0, 1, 3]]
    torch.testing.assert_close(found, (g / torch.tensor([0.5, 0.25, 0.8])).float())
    likelihood = scores["self_likelihood"].function(view, state)
    torch.testing.assert_close(likelihood[0, [0, 1, 3]], g.float())
    assert view.logit_rows == 3


def test_a_blocks_budget_is_its_own_and_empty_stretches_are_no_blocks() -> None:
    tokens = torch.full((2, 12), MASK)
    config = resolve(SamplerConfig("random", steps=5, block_length=4))
    editable = torch.ones(2, 12, dtype=torch.bool)
    editable[1, 1:9] = False
    state = State(tokens, editable, MASK, config, torch.arange(2))
    assert state.blocks.tolist() == [3, 2]
    assert state.size.tolist() == [[4, 4, 4], [1, 3, 0]]
    assert state.budget.tolist() == [[2, 2, 1], [3, 2, 2]]
    assert state.block_of[1].tolist() == [0, *[-1] * 8, 1, 1, 1]


def test_blocks_are_written_in_order() -> None:
    model = chain(6)
    _, texts = record(model, torch.full((4, 6), MASK), SamplerConfig("prism", steps=9, block_length=2, num_remask=1))
    for text in texts:
        left = (text == MASK).unflatten(1, (3, 2))
        for block in (1, 2):
            started = ~left[:, block].all(dim=1)
            assert not (started & left[:, :block].flatten(1).any(dim=1)).any()


def test_hazard_counts_what_the_random_order_fills() -> None:
    state = state_of(torch.full((3, 8), MASK), "mdlm", step=2, steps=6)
    chosen = ops.select_lowest(state.uniform(ops.ORDER), state.masked, fills["hazard"](state, state.masked))
    assert torch.equal(chosen, state.uniform(ops.ORDER) <= (1 / 6) / (1 - 2 / 6))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "pirsm"}, ["pirsm", "Nearest: prism"]),
        ({"score": "qualty"}, ["qualty", "Nearest: quality"]),
        ({"refill": "canel"}, ["refill", "canel", "cancel"]),
        ({"eta": 1.4}, ["sampler.eta", "'prism' has no part with it", "select=binomial"]),
        ({"steps": 0}, ["sampler.steps = 0"]),
        ({"step_on": 128.0}, ["step_on = 128.0", "write 128"]),
        ({"step_on": 9, "step_off": 3}, ["step_on = 9", "step_off = 3"]),
        ({"step_on": 64, "steps": 64}, ["step_on = 64", "of 64 steps"]),
        ({"refill": "fresh"}, ["refill = fresh", "score = quality"]),
        ({"fill": "hazard"}, ["refill = cancel", "fill = hazard"]),
    ],
)
def test_errors_name_what_clashes(changes: dict, words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        check(resolve(SamplerConfig(**changes)), has_head=True, gives=frozenset({"second_forward"}))
    assert all(word in str(error.value) for word in words), error.value


def test_errors_that_need_the_model() -> None:
    model = chain(4)
    tokens = torch.full((1, 4), MASK)
    with pytest.raises(ConfigError, match=r"steps = 2 is fewer than the 4 blocks that sampler.block_length = 1"):
        generate(model, tokens, SamplerConfig("prism", steps=2, block_length=1))
    model.head = None
    with pytest.raises(ConfigError, match=r"score = quality needs a trained quality head.*self_likelihood"):
        generate(model, tokens, SamplerConfig("prism"))
    model.gives = frozenset()
    with pytest.raises(ConfigError, match="cannot take padding"):
        generate(model, tokens, SamplerConfig("mdlm"), padding=torch.ones(1, 4, dtype=torch.bool))
    with pytest.raises(ConfigError, match="5 tokens is longer than the model's 4"):
        generate(model, torch.full((1, 5), MASK), SamplerConfig("mdlm"))
