"""WINO, Tolerator, CoRe, ProSeCo and the other late comers, their parts, guards and patterns, against their rules."""

import itertools
import math
from importlib.metadata import EntryPoint

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from prism_plugin import registry
from prism_plugin.errors import ConfigError
from prism_plugin.models.backbone import BackboneConfig
from prism_plugin.models.checkpoint import PrismModel
from prism_plugin.models.denoiser import View
from prism_plugin.sampling import schedules
from prism_plugin.sampling.config import SamplerConfig, resolve
from prism_plugin.sampling.drive import generate
from prism_plugin.sampling.methods import Parts, check, with_shadow
from prism_plugin.sampling.parts import acts, guards, scores
from prism_plugin.sampling.presets import presets
from prism_plugin.sampling.simulate import SYMBOLS, Stub
from prism_plugin.sampling.state import State
from tests.sampling.test_presets import model_for
from tests.sampling.test_rules import MASK, chi_square, chi_square_bound, record, state_of
from tests.table_model import TableModel, chain


def own(p: Tensor, text: Tensor) -> Tensor:
    """Probability of every token of a text (L,), whatever a mask has."""
    return p.gather(1, text.clamp(max=MASK - 1)[:, None])[:, 0]


def posterior(model: TableModel, text: Tensor) -> Tensor:
    return model.leave_one_out(text[None])[0]


def test_wino_fills_what_is_sure_and_takes_back_what_its_shadow_doubts() -> None:
    model, remasked = chain(8, seed=10), 0
    tokens = torch.tensor([[MASK] * 8, [MASK, 1, *[MASK] * 6], [*[MASK] * 5, 0, MASK, MASK]])
    config = SamplerConfig("wino", steps=60, fill="least", fill_bound=0.5, tau=0.9)
    result, texts = record(model, tokens, config)
    for row in range(3):
        text, before = tokens[row], math.inf
        for after in texts[1:]:
            masked = text == MASK
            if not masked.any():
                assert torch.equal(after[row], text)
                continue
            p = posterior(model, text)
            conf, best = p.max(-1)
            rank = conf.masked_fill(~masked, -1).argsort(descending=True, stable=True)
            sure = int((masked & (conf > 0.5)).sum())
            filled = rank[: max(1, min(sure, min(max(int(0.7 * int(masked.sum())), 5), 20)))]
            doubted = own(p, text).masked_fill(masked | (tokens[row] != MASK), math.inf)
            count = min(int((doubted < 0.9).sum()), before - 1) if len(filled) > 1 else 0
            text = text.index_put((filled,), best[filled]).index_fill(
                0, doubted.argsort(stable=True)[: int(count)], MASK
            )
            before, remasked = len(filled), remasked + int(count)
            assert torch.equal(after[row], text)
    assert remasked == int(result.remasked.sum()) > 0
    written = torch.tensor([8, 7, 7])  # the shadow is of these alone
    torch.testing.assert_close(result.cost, (1 + written / 8) * result.forwards.double())


@pytest.mark.parametrize(("grid", "layers"), [(0, 2), (2, 2), (0, 1), (2, 1)])
@torch.no_grad()
def test_the_text_does_not_see_its_shadow(grid: int, layers: int) -> None:
    """And a shadow does not see the token in its place; from the second layer on it sees what others made of it."""
    length = 16
    shape = {"vocab_size": 5, "mask_id": 4, "length": length, "grid": grid, "hidden_size": 32, "num_heads": 2}
    torch.manual_seed(0)
    model = PrismModel(BackboneConfig(**shape, num_layers=layers), "none")
    for parameter in model.parameters():
        parameter.normal_(std=0.2)
    tokens = torch.randint(5, (2, length), generator=torch.Generator().manual_seed(0))
    config = resolve(SamplerConfig("wino", block_length=5))
    padding = torch.ones(2, length, dtype=torch.bool)
    padding[1, -3:] = False
    editable = padding.clone()
    editable[1, :4] = False
    state = State(tokens, editable, 4, config, torch.arange(2), padding)
    view = with_shadow(state).by(model)
    torch.testing.assert_close(view.output.hidden[:, :length], model(tokens, padding).hidden)
    place = (torch.arange(2), state.places[:, 2])
    state.tokens = tokens.index_put(place, (tokens[place] + 1) % 4)
    again = with_shadow(state).by(model)
    same = (view.output.hidden - again.output.hidden).abs().amax(dim=-1)[:, length:] < 1e-5
    assert same[:, 2].eq(layers == 1).all() and not same[:, [0, 1, 3, 4]].any()
    assert view.output.share.tolist() == pytest.approx([1 + 5 / length, 1 + 5 / (length - 3)])  # type: ignore[union-attr]


@pytest.mark.parametrize("block_length", [0, 8])
@pytest.mark.parametrize("name", ["wino", "shadow-evidence"])
@torch.no_grad()
def test_only_what_is_to_be_written_has_a_shadow(name: str, block_length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A completion, holes and a padded row come out as with one as long as the text, of which nobody reads the rest."""
    torch.manual_seed(3)
    shape = {"vocab_size": 7, "mask_id": 6, "length": 24, "hidden_size": 32, "num_heads": 2, "num_layers": 2}
    model = PrismModel(BackboneConfig(**shape), "none").eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.normal_(std=0.2)
    tokens = torch.randint(6, (3, 24), generator=torch.Generator().manual_seed(0))
    tokens[0, 14:] = tokens[1, [2, 3, 9, 20]] = tokens[2, 4:] = 6
    padding = torch.ones_like(tokens, dtype=torch.bool)
    padding[2, :3] = False
    bound = {"fill": "least", "fill_bound": 0.5} if name == "wino" else {}
    config = SamplerConfig(name, steps=60, block_length=block_length, seed=3, tau=0.9, **bound)
    widths: list[int] = []

    def whole(state: State) -> Tensor:
        length = state.tokens.shape[1]
        first = torch.where(state.in_block, torch.arange(length), length).sort(dim=1).values[:, : block_length or None]
        return first.masked_fill(first == length, -1)

    forward = model.backbone.forward
    monkeypatch.setattr(model.backbone, "forward", lambda x, *rest: (widths.append(x.shape[1]), forward(x, *rest))[1])
    now = generate(model, tokens, config, padding=padding)
    assert max(widths) == 24 + (block_length or 20) and int(now.remasked.sum()) > 0
    if not block_length:
        assert now.cost.tolist() == pytest.approx((now.forwards * torch.tensor([34 / 24, 28 / 24, 41 / 21])).tolist())
    monkeypatch.setattr(State, "places", property(whole))
    before = generate(model, tokens, config, padding=padding)
    assert torch.equal(now.tokens, before.tokens) and torch.equal(now.remasked, before.remasked)
    assert max(widths) == 24 + (block_length or 24)


def test_tolerator_redraws_a_falling_share_and_locks() -> None:
    model, length, steps = chain(6), 6, 24
    rounds: list[tuple[Tensor, Tensor]] = []

    def keep(state: State, view: object) -> None:
        rounds.append((state.masked.sum(1), state.open.sum(1) + state.masked.sum(1)))

    config = SamplerConfig("tolerator", steps=steps, lock_after=3)
    result = generate(model, torch.full((40, length), MASK), config, callback=keep)
    for round_, (masked, free) in enumerate(rounds[12:steps]):
        share = 0.8 * (3 + math.cos(math.pi * round_ / 12)) / 4
        assert torch.equal(masked, free - (free.double() * (1 - share)).long()), round_
    assert int(rounds[12][0][0]) == 5 and result.forwards.eq(steps).all()
    assert (rounds[23][1] < length).any()  # some are locked by then
    assert not torch.equal(result.remasked, torch.full_like(result.remasked, int(result.remasked[0])))


def test_core_doubts_what_a_joint_probe_does_not_support() -> None:
    model, length, steps = chain(8, symbols=3, seed=5), 8, 8
    config = SamplerConfig("core", steps=steps, every=2, num_remask=1, remask_share=0.5)
    result, texts = record(model, torch.full((1, length), MASK), config)
    text, passes = texts[0][0], iter(texts[1:])
    for step in range(steps):
        p = posterior(model, text)
        masked, doubted = text == MASK, None
        if step % 2 and step + 1 < steps:
            assert torch.equal(next(passes)[0], text)  # the pass of the probe writes nothing
            top = p.sort(-1).values
            brittle = (top[:, -1] - top[:, -2]).masked_fill(masked, math.inf).argsort(stable=True)
            listed = brittle[: math.ceil(0.5 * int((~masked).sum()))]
            support = own(posterior(model, text.index_fill(0, listed, MASK)), text)
            doubted = listed[support[listed].argmin()]
        count = step + 1 - int((~masked).sum()) + (doubted is not None)
        best = p.amax(-1).masked_fill(~masked, -1).argsort(descending=True, stable=True)[:count]
        text = text.index_put((best,), p.argmax(-1)[best])
        text = text if doubted is None else text.index_fill(0, doubted, MASK)
        assert torch.equal(next(passes)[0], text), step
    assert int(result.forwards) == steps + 3 and int(result.remasked) == 3


def test_proseco_overwrites_by_the_fixed_point_of_its_own_fill() -> None:
    model, length, steps = chain(6, seed=5), 6, 6
    tokens = torch.full((1, length), MASK)
    config = SamplerConfig("proseco", steps=steps, block_length=3, rounds=3)
    result, texts = record(model, tokens, config)
    text, forwards, edits, seen = texts[0][0], 0, 0, 0
    for step in range(steps):
        forwards += 1
        p, end = posterior(model, text), 3 if step < 3 else 6
        if step % 3 == 1:
            full = torch.where(text == MASK, p.argmax(-1), text)
            for _ in range(3):
                forwards, p = forwards + 1, posterior(model, full)
                better = torch.where(torch.arange(length) < end, p.argmax(-1), full)
                if torch.equal(better, full):
                    break
                full = better
            edits += int(((text != MASK) & (p.argmax(-1) != text)).sum())
            text = torch.where(text == MASK, text, p.argmax(-1))
        masked = (text == MASK) & (torch.arange(length) < end)
        place = p.amax(-1).masked_fill(~masked, -1).argmax()
        text = text.index_put((place,), p[place].argmax())
        seen = forwards
        assert torch.equal(texts[seen][0], text), step
    assert int(result.forwards) == forwards and int(result.remasked) == edits


@pytest.mark.parametrize("name", ["token-critic", "g-star"])
def test_all_is_filled_then_judged(name: str) -> None:
    model, steps = model_for(name, 5), 5
    result, texts = record(model, torch.full((2, 5), MASK), SamplerConfig(name, steps=steps, temperature=0.0))
    assert result.forwards.eq(2 * steps - 1).all()
    for row in range(2):
        text = texts[0][row]
        for step in range(steps):
            full = torch.where(text == MASK, posterior(model, text).argmax(-1), text)
            worst = own(posterior(model, full), full).argsort(stable=True)[: 5 - step - 1]
            assert torch.equal(texts[2 * step + 1][row], full)
            text = full.index_fill(0, worst, MASK)
        assert torch.equal(result.tokens[row], text)


def test_remedi_keeps_the_best_of_masks_and_tokens_together() -> None:
    length, steps, seen = 24, 8, []
    stub = Stub(length, "remedi")
    masks = torch.full((3, length), SYMBOLS)

    def keep(state: State, view: View | None) -> None:
        seen.append((state.tokens.clone(), None if view is None else view.quality.clone()))

    result = generate(stub, masks, SamplerConfig("remedi", steps=steps), callback=keep)
    for step, ((before, _), (after, score)) in enumerate(itertools.pairwise(seen[:-1]), 1):
        kept = after != SYMBOLS
        assert (kept.sum(dim=1) == step * length // steps).all()
        assert (score.masked_fill(~kept, 1).amin(dim=1) >= score.masked_fill(kept, 0).amax(dim=1)).all()
        assert torch.equal(before[kept & (before != SYMBOLS)], after[kept & (before != SYMBOLS)])
    assert len(seen) == steps + 1 and (result.remasked > 0).all()


def test_threshold_remask_fills_all_and_keeps_what_is_sure() -> None:
    model, remasked = chain(6, seed=5), 0
    result, texts = record(model, torch.full((1, 6), MASK), SamplerConfig("threshold-remask", steps=9, tau=0.7))
    text, written = texts[0][0], torch.zeros(6, dtype=torch.float64)
    for after in texts[1:]:
        p, masked = posterior(model, text), text == MASK
        text, written = torch.where(masked, p.argmax(-1), text), torch.where(masked, p.amax(-1), written)
        count = min(int((written < 0.7).sum()), int(masked.sum()) - 1) if after is not texts[9:10] else 0
        text = text.index_fill(0, written.argsort(stable=True)[: max(count, 0)], MASK)
        assert torch.equal(after[0], text)
        remasked += max(count, 0)
    assert remasked == int(result.remasked) > 0


def test_hierarchy_fills_the_best_of_every_run_and_more_than_it_doubts() -> None:
    revised, both = 0, {"select.tau": 0.45, "order.tau": 0.45}
    for seed in range(8):
        model = chain(8, symbols=3, seed=seed)
        text = torch.randint(3, (8,), generator=torch.Generator().manual_seed(seed))
        text[torch.tensor([1, 2, 5])] = MASK
        state = state_of(text[None].clone(), "hierarchy-remask", steps=8, fill_bound=0.8, **both)
        use, view = Parts(state), View(model, model(text[None]))
        use.revise(view, refilled=True)
        use.fill(view, state.masked)
        conf, best = posterior(model, text).max(-1)
        doubted = (text != MASK) & (conf < 0.45)
        free, chosen, run = doubted | (text == MASK), set(), []
        for place in range(9):
            if place < 8 and free[place]:
                run.append(place)
            elif run:
                first = max(run, key=lambda i: float(conf[i]))
                chosen |= {first} if conf[first] > 0.45 else set()
                run = []
        chosen |= {i for i in range(8) if free[i] and conf[i] > 0.8}
        rest = sorted((i for i in range(8) if free[i] and i not in chosen), key=lambda i: -float(conf[i]))
        chosen |= set(rest[: max(0, int(doubted.sum()) + 1 - len(chosen))])
        expected = [int(best[i]) if i in chosen else MASK if free[i] else int(text[i]) for i in range(8)]
        assert state.tokens[0].tolist() == expected
        revised += int(doubted.sum())
    assert revised > 0


def test_self_likelihood_mean_over_the_passes_since_a_token_was_written() -> None:
    model, steps = chain(6, seed=3), 10
    config = SamplerConfig("self-likelihood-mean", steps=steps, num_remask=4, alpha="linear", seed=4)
    result, texts = record(model, torch.full((3, 6), MASK), config)
    total, passes, remasked = torch.zeros(3, 6, dtype=torch.float64), torch.zeros(3, 6), 0
    for step in range(steps):
        text, after = texts[step], texts[step + 1]
        p = model.leave_one_out(text).gather(-1, text.clamp(max=MASK - 1)[..., None])[..., 0]
        visible = text != MASK
        total, passes = total + p * visible, passes + visible
        wanted = 0 if step < 4 or step == 9 else 4 >> (step // 2 - 2)
        target = int(schedules.fill_target(torch.tensor([step]), torch.tensor([6]), torch.tensor([steps])))
        for row in range(3):
            count = max(0, min(wanted, 6 - target, int(visible[row].sum())))
            mean = (total[row] / passes[row].clamp(min=1)).masked_fill(~visible[row], math.inf)
            gone = set(mean.argsort(stable=True)[:count].tolist())
            assert {i for i in range(6) if visible[row, i] and after[row, i] == MASK} == gone, (step, row)
            remasked += count
        fresh = ~visible & (after != MASK) | (after == MASK)
        total, passes = total.masked_fill(fresh, 0), passes.masked_fill(fresh, 0)
    assert remasked == int(result.remasked.sum()) > 0


def test_dfm_keeps_its_marginals_and_ends_in_time() -> None:
    assert len(schedules.dfm_grid(134)) == 135 and schedules.dfm_grid(134)[1] == pytest.approx(
        1 / 128
    )  # 133 steps and an end
    rows, length, steps = 1500, 4, 21
    result, texts = record(chain(length), torch.full((rows, length), MASK), SamplerConfig("dfm", steps=steps))
    grid = schedules.dfm_grid(steps)
    for step in range(1, steps + 1):
        alpha, t = grid[step - 1], 1 - grid[step - 1]
        push = 10 * (t * alpha) ** 0.25
        assert (push + 1) * (grid[step] - alpha) <= t + 1e-9 or step == steps or grid[step] == 1
        share = (texts[step] != MASK).double().mean() if step < len(texts) else torch.tensor(1.0)
        assert abs(share - grid[step]) < 4.5 * math.sqrt(grid[step] * (1 - grid[step]) / rows / length) + 1e-9, step
    assert int(result.remasked.sum()) > rows


def test_patterns_widen_a_selection() -> None:
    text = torch.tensor([[0, 1, MASK, 2, 0, 1, 2]])
    state = state_of(text, pattern="neighbours", pattern_size=3)
    found = torch.tensor([[0.9, 0.1, torch.inf, 0.8, 0.7, 0.5, 0.6]])
    near = state.parts.pattern(found, state)
    torch.testing.assert_close(near, torch.tensor([[0.1, 0.1, 0.1, 0.7, 0.5, 0.5, 0.5]]))
    torch.testing.assert_close(
        state_of(text, pattern="spans").parts.pattern(found, state)[0, [0, 1, 3, 5, 6]],
        torch.tensor([0.5, 0.5, 2 / 3, 2 / 3, 0.6]),
    )
    for pattern, gone in (("neighbours", [0, 1]), ("spans", [0, 1])):
        told = {"guard": "none", "select": "below", "tau": 0.52, "refill": "wait", "pattern": pattern, "steps": 9}
        state = state_of(text.clone(), score="written", **told)
        state.written = found.clone()
        Parts(state).revise(None)
        kept = {"neighbours": [4, 5, 6], "spans": []}[pattern]
        assert state.doubted[0].nonzero()[:, 0].tolist() == gone + kept


def test_discoveries_are_those_of_e_bh() -> None:
    state = state_of(torch.tensor([[0, 1, 2, MASK, 0, 1]]), "prism-adaptive", tau=0.5)
    ratio = torch.tensor([[0.15, 0.9, 0.05, 0.0, 0.4, 0.29]])  # bounds 0.1, 0.2, 0.3, 0.4, 0.5 of 5
    assert int(state.parts.select(ratio, state)[1]) == 4
    assert int(state.parts.select(ratio * 4, state)[1]) == 0


def test_guards_compose_and_know_the_step_before() -> None:
    state = state_of(torch.zeros(2, 10, dtype=torch.long), guard="share+fewer_than_last", steps=10, remask_share=0.4)
    state.filled[0, :3], state.filled[1, :1] = True, True
    state.fills_before = torch.tensor([4, 4])
    counts = torch.tensor([9, 9])
    for guard in state.parts.guards:
        counts = guard(counts, state)
    assert counts.tolist() == [3, 0]
    with pytest.raises(ConfigError, match="shre"):
        resolve(SamplerConfig(guard="gate+shre"))


def test_a_text_seen_before_ends_revision_and_says_so() -> None:
    state = state_of(torch.zeros(2, 4, dtype=torch.long), "t2t", steps=9)
    for step, text in enumerate([[0, 1, 2, 0], [0, 1, 2, 1], [0, 1, 2, 0]]):
        state.tokens[0] = torch.tensor(text)
        state.tokens[1, 0] = step
        kept = guards["repeat"](torch.tensor([2, 2]), state)
        state.filled[:] = True
        state.advance()
    assert kept.tolist() == [0, 2] and state.cut.tolist() == [True, False]


def test_the_trail_of_texts_is_bounded_and_only_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert state_of(torch.zeros(2, 4, dtype=torch.long), "prism", steps=10**9).trail.numel() == 0
    monkeypatch.setattr("prism_plugin.sampling.state.TRAIL", 3)
    state = state_of(torch.zeros(1, 4, dtype=torch.long), "t2t", steps=10**9)
    assert state.trail.shape == (1, 3)
    seen = []
    for text in (0, 1, 2, 3, 1, 2, 0):  # 1 stood here three calls before, 0 longer ago
        state.tokens[:] = text
        seen.append(bool(state.seen_before()))
        state.advance()
    assert seen == [False] * 4 + [True, True, False]


def test_a_result_says_which_texts_were_cut() -> None:
    """One that would be edited for ever: the likeliest token of each of two positions is the other's."""
    table = torch.tensor([[0.01, 0.49, 0.01], [0.49, 0.01, 0.01], [0.01, 0.01, 0.01]])  # never twice the same
    model, tokens = TableModel(table), torch.tensor([[MASK, MASK], [MASK, 2]])
    config = {"steps": 12, "fill": "least", "fill_least": 2, "fill_bound": 0.0, "tau": 1.0}
    result = generate(model, tokens, SamplerConfig("t2t", **config))
    assert result.cut.tolist() == [True, False] and int(result.forwards[0]) < 6
    free = generate(model, tokens, SamplerConfig("t2t", guard="none", **config))
    assert free.cut.tolist() == [True, False] and free.forwards.tolist() == [12, 2]


def test_positions_that_are_left_alone() -> None:
    tokens = torch.tensor([[0, 1, 2, 0, 1, 2]])
    state = state_of(tokens.clone(), steps=9, cooldown=2, lock_after=2, protect_end=True, score="random", refill="wait")
    state.stop = (torch.tensor([1, 2]),)
    assert state.open[0].tolist() == [True, False, False, True, False, False]
    state.stop = ()
    for step in range(6):
        cooled = state.open[0].tolist()
        assert cooled[0] == (step not in (1, 2, 4, 5)), step
        if step in (0, 3):
            state.remask(torch.arange(6.0)[None], state.open, torch.tensor([1]))
            state.write_rows(torch.tensor([0]), torch.tensor([0]), torch.tensor([0.5]))
        state.advance()
    state.step += 9
    assert state.streak[0, 0] == 2 and not state.open[0, 0] and state.open[0, 1:].all()


def test_reset_draws_uniformly_among_the_real_symbols() -> None:
    rows = 3000
    state = state_of(torch.zeros(rows, 2, dtype=torch.long), "t2t", steps=4)
    state.suppress, state.vocab_size = torch.tensor([MASK]), MASK + 1
    model = chain(2)
    acts["reset"](View(model, model(state.tokens[:1])), state, torch.zeros(rows, 2), torch.ones(rows).long())
    seen = torch.bincount(state.tokens[:, 0], minlength=MASK + 1)
    assert seen[MASK] == 0 and chi_square(seen[:MASK], torch.full((3,), rows / 3)) < chi_square_bound(2)
    assert (
        state.tokens[:, 1].eq(0).all() and state.written[0, 0] == pytest.approx(1 / 3) and state.overwritten.eq(1).all()
    )


@given(
    every=st.one_of(st.integers(1, 6), st.floats(0.05, 1.0)), step_on=st.one_of(st.integers(0, 4), st.floats(0.0, 1.0)),
    step_off=st.one_of(st.integers(1, 9), st.floats(0.01, 1.0)), steps=st.integers(4, 40),
    block_length=st.sampled_from([0, 3, 5]), refilled=st.booleans(),
)  # fmt: skip
def test_the_host_knows_who_may_revise_as_the_device_does(
    every: float, step_on: float, step_off: float, steps: int, block_length: int, refilled: bool
) -> None:
    tokens = torch.full((3, 11), MASK)
    tokens[1, :7] = 0
    window = {"every": every, "step_on": step_on, "step_off": step_off}
    on, off = (bound * steps if isinstance(bound, float) else bound for bound in (step_on, step_off))
    assume(on < off)
    config = resolve(SamplerConfig("prism", steps=steps, block_length=block_length, **window))
    state = State(tokens, tokens == MASK, MASK, config, torch.arange(3))
    use = Parts(state)
    while state.running():
        known = []
        for state.static in (False, True):
            known.append(use.idle(refilled))
        state.static = False
        assert known[0] == known[1] == (not use.due(refilled).any())
        state.advance()


def test_windows_and_periods() -> None:
    for every, due in ((2, [1, 3, 5]), (0.25, [1, 3, 5]), (3, [2, 5]), (1, [0, 1, 2, 3, 4, 5, 6])):
        found = []
        for step in range(8):
            state = state_of(torch.zeros(1, 8, dtype=torch.long), steps=8, every=every, step=step)
            found += [step] if bool(Parts(state).due()) else []
        assert found == due, every
    half = [float(schedules.eta_half_cosine(torch.tensor(x), torch.tensor(9))) for x in (0.0, 0.5, 1.0)]
    assert half == pytest.approx([1, 0.75, 0.5])
    assert float(schedules.eta_centred(torch.tensor(0.5), torch.tensor(9))) == pytest.approx(1)
    t = schedules.alpha_loglinear(torch.tensor([0, 4, 8]), torch.tensor([8]))
    assert float((t[1] - t[0]) / (1 - t[0])) == pytest.approx(0.5) and float(t[2]) == 1


@pytest.mark.parametrize(
    ("changes", "gives", "words"),
    [
        ({"name": "wino"}, {"second_forward"}, ["method = shadow", "attention mask"]),
        ({"name": "core"}, {"layout"}, ["method = joint_probe", "second forward"]),
        ({"name": "proseco"}, set(), ["method = argmax_fill", "second forward"]),
        ({"name": "proseco"}, {"second_forward"}, ["method = argmax_fill", "other tokens"]),
        ({"name": "wino", "score": "quality"}, {"layout"}, ["score = quality", "method = shadow"]),
        ({"name": "prism", "score": "shadow"}, {"layout"}, ["score = shadow", "method = revise_and_fill"]),
        ({"name": "prism", "score": "support"}, set(), ["score = support", "method = revise_and_fill"]),
        ({"name": "prism", "reach": "text"}, set(), ["reach = text", "act = remask"]),
        ({"name": "prism", "reach": "all"}, set(), ["sampler.reach", "block"]),
        ({"name": "token-critic"}, {"second_forward"}, ["score = critic", "objective = prism"]),
        ({"name": "remedi"}, set(), ["score = policy", "objective = prism"]),
        ({"name": "prism", "pattern": "span"}, set(), ["span", "Nearest: spans"]),
    ],
)
def test_errors_name_what_clashes(changes: dict, gives: set, words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        check(resolve(SamplerConfig(**changes)), has_head=True, gives=frozenset(gives), trained={})
    assert all(word in str(error.value) for word in words), error.value


def test_a_critic_is_no_quality_head() -> None:
    with pytest.raises(ConfigError, match=r"score = quality.*objective = critic.*sampler=token-critic"):
        check(resolve(SamplerConfig("prism")), True, frozenset(), {"objective": "critic"})


def test_a_part_and_a_preset_of_a_third_party(monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(group: str) -> list[EntryPoint]:
        found = {
            "prism_plugin.guard": ("one_at_most", f"{__name__}:one_at_most"),
            "prism_plugin.preset": ("mine", f"{__name__}:MINE"),
        }
        return [EntryPoint(*found[group], group)] if group in found else []

    monkeypatch.setattr(registry, "entry_points", fake)
    for known in (guards, presets):
        monkeypatch.setattr(known, "_loaded", False)
        monkeypatch.setattr(known, "_known", dict(known._known))
    counts: list[int] = []
    generate(chain(6), torch.full((4, 6), MASK), SamplerConfig("mine", steps=6),
             callback=lambda state, view: counts.append(int(state.doubted.sum(1).max())))  # fmt: skip
    assert max(counts) == 1


def one_at_most(counts: Tensor, state: State) -> Tensor:
    return counts.clamp(max=1)


MINE = {"score": "random", "guard": "gate+one_at_most", "num_remask": 2}


class Counting(TorchDispatchMode):
    """How many operations are dispatched."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", list(presets))
def test_no_loop_over_rows(name: str) -> None:
    """A pass over 24 rows takes as many operations as one over 3."""
    model, each = model_for(name, 4), []
    for rows in (3, 24):
        before = model.passes
        with Counting() as counting:
            generate(model, torch.full((rows, 4), MASK), SamplerConfig(name, steps=4))
        each.append(counting.count / (model.passes - before))
    assert each[1] < 1.3 * each[0] + 20


def test_scores_ask_for_the_rows_that_they_read() -> None:
    text = torch.tensor([[0, 1, MASK, 2, MASK, 0]])
    for name, rows in (
        ("quality", 0), ("evidence", 0), ("written", 0), ("random", 0), ("none", 0), ("self_likelihood", 4),
        ("disagreement", 4), ("margin", 4), ("confidence", 4), ("drop", 4), ("confidence_drop", 0), ("support", 0),
    ):  # fmt: skip
        model = chain(6)
        state = state_of(text.clone(), steps=6)
        scores[name].function(View(model, model(text)), state)
        assert model.logit_rows == rows, name
