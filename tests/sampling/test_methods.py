"""The methods beyond PRISM and MDLM, each against its rule restated here on exact tables."""

import math

import pytest
import torch
from torch import Tensor

from prism_plugin import ops
from prism_plugin.errors import ConfigError
from prism_plugin.sampling import schedules
from prism_plugin.sampling.config import SamplerConfig, fitting, resolve
from prism_plugin.sampling.drive import generate
from prism_plugin.sampling.methods import check
from prism_plugin.sampling.parts import selects
from prism_plugin.sampling.selects import Drawn
from prism_plugin.sampling.state import State
from tests.sampling.test_rules import MASK, chi_square, chi_square_bound, record, state_of
from tests.table_model import TableModel, chain


def masks(rows: int, length: int) -> Tensor:
    return torch.full((rows, length), MASK)


def lowest(values: Tensor, count: int) -> set[int]:
    return set(values.argsort(stable=True)[:count].tolist())


@pytest.mark.parametrize("name", ["remdm-cap", "remdm-rescale", "remdm-loop", "forward-backward"])
def test_remdm_keeps_the_marginals(name: str) -> None:
    """The share of visible tokens after every step is the planned one, though some are masked again (2503.00307)."""
    rows, length, steps = 1500, 4, 10
    eta = 0.1 if name == "remdm-loop" else 0.3
    config = SamplerConfig(**fitting({"steps": steps, "eta": eta}, name))
    result, texts = record(chain(length), masks(rows, length), config)
    assert result.remasked.sum() > rows / 4
    for step in range(1, steps + 1):
        share = step / steps
        if name == "remdm-loop":
            share = 0.9 * share / 0.45 if share < 0.45 else 0.9 if share <= 0.95 else 1.0
        visible = (texts[step] != MASK).double().mean()
        assert abs(visible - share) < 4.5 * math.sqrt(share * (1 - share) / rows / length) + 1e-9, step


def test_remask_rates() -> None:
    t, s, factor = (torch.tensor([value], dtype=torch.float64) for value in (0.6, 0.7, 0.5))
    eta = schedules.Eta(0.4)
    assert float(schedules.rate_cap(t, s, factor, eta)) == pytest.approx(0.2)
    assert float(schedules.rate_cap(t, s, factor * 4, eta)) == pytest.approx(0.5)
    assert float(schedules.rate_rescale(t, s, factor, eta)) == pytest.approx(0.1)
    assert float(schedules.rate_forward_backward(t, s, factor)) == pytest.approx(1 / 6)
    last = torch.tensor([0.9], dtype=torch.float64)
    assert float(schedules.rate_forward_backward(last, last + 0.1, factor)) == pytest.approx(0)  # unbounded it is 1/9
    assert float(schedules.rate_plateau(t, s, factor, eta)) == 0
    assert float(schedules.rate_plateau(t, t, factor, eta)) == pytest.approx(0.2)


def test_alphas_and_eta_schedules() -> None:
    steps, step = torch.full((1024,), 1024), torch.arange(1, 1025)
    plan = schedules.alpha_plateau(step, steps, schedules.Plateau())
    assert (int((plan < 0.9).sum()), int((plan == 0.9).sum()), int((plan > 0.9).sum())) == (460, 512, 52)
    assert plan[-1] == 1
    assert schedules.alpha_cosine(torch.tensor([0, 2, 3]), torch.tensor([3])).tolist() == pytest.approx([0, 0.5, 1])
    for name, progress, expected in (
        ("constant", 0.5, 0.2), ("linear", 0.75, 0.05), ("cosine", 0.5, 0.1), ("inverse", 0.5, 0.1),
        ("inverse_cosine", 0.5, 0.05),
    ):  # fmt: skip
        state = state_of(masks(1, 4), "prism-text", step=int(512 * progress), steps=512, eta_schedule=name, step_on=0)
        assert float(schedules.Eta(0.2).of(schedules.factor(state))) == pytest.approx(expected), name


def test_cosine_plan_is_followed() -> None:
    _, texts = record(chain(8), masks(2, 8), SamplerConfig("confidence", steps=4, alpha="cosine"))
    assert [int((text[0] != MASK).sum()) for text in texts] == [0, 1, 2, 5, 8]


@pytest.mark.parametrize(("steps", "wanted"), [(4, 1), (4, 2), (5, 3), (8, 12), (6, 5), (3, 3)])
def test_centred_is_the_llada_releases_split(steps: int, wanted: int) -> None:
    middle = (steps - 1) / 2
    nearest = sorted(range(steps), key=lambda step: abs(step - middle))  # stable: the earlier of two equals first
    expected = [wanted // steps + (step in nearest[: wanted % steps]) for step in range(steps)]
    found = []
    for step in range(steps):
        state = state_of(torch.zeros(1, 8, dtype=torch.long), "prism-code", step=step, steps=steps, num_remask=wanted)
        found.append(int(state.parts.select(torch.rand(1, 8), state)[1]))
    assert found == expected and sum(found) == wanted


def test_drawn_has_the_law_of_its_temperature() -> None:
    rows, heat = 6000, 2.0
    scores = torch.tensor([0.9, 0.3, 0.05]).expand(rows, 3)
    state = state_of(torch.zeros(rows, 3, dtype=torch.long), "prism-2pass", steps=4, remask_temperature=heat)
    keys, _ = state.parts.select(scores, state)
    seen = torch.bincount(keys.argmin(dim=1), minlength=3)
    assert chi_square(seen, (scores[0] ** (-1 / heat) / (scores[0] ** (-1 / heat)).sum()) * rows) < chi_square_bound(2)
    cold = selects["drawn"](scores, state, Drawn(remask_temperature=0.0))
    assert cold[0].argmin(dim=1).eq(2).all()


@pytest.mark.parametrize("order", ["threshold", "factor", "entropy_bound", "above_mean"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_fills_whose_number_follows_from_the_logits(order: str, seed: int) -> None:
    """Each row on its own, as the publications have it: the first always, more while the bound holds."""
    model, bound = chain(6, seed=seed), {"threshold": 0.6, "factor": 1.3, "entropy_bound": 1.2, "above_mean": 0}[order]
    tokens = torch.tensor([[MASK] * 6, [0, MASK, MASK, 1, MASK, MASK], [MASK, 2, 2, MASK, 0, MASK]])
    state = state_of(tokens.clone(), "threshold", order=order, steps=6, **({"fill_bound": bound} if bound else {}))
    state.written = torch.full((3, 6), 0.55)
    state.written[2] = 0.45
    before = tokens.clone()

    class Exact:
        def sample(self, index: Tensor, *key: Tensor, **draw: object) -> ops.Sampled:
            output = model(before)
            return ops.sample_rows(output.logits.flatten(0, 1), index, *key, **draw)  # type: ignore[arg-type]

    state.parts.order(Exact(), state, state.masked, torch.ones(3, dtype=torch.long))
    p = model.leave_one_out(before)
    for row in range(3):
        places = (before[row] == MASK).nonzero()[:, 0]
        conf, entropy = p[row, places].amax(-1), torch.special.entr(p[row, places]).sum(-1)
        rank = (entropy if order == "entropy_bound" else -conf).argsort(stable=True)
        taken, mean = 1, (0.45 if row == 2 else 0.55) if row else math.inf
        while taken < len(places):
            best = rank[: taken + 1]
            holds = {
                "threshold": conf[rank[taken]] >= bound,
                "factor": all(conf[rank[r]] >= 1 - bound / (r + 2) for r in range(taken + 1)),
                "entropy_bound": entropy[best].sum() - entropy[best].max() <= bound,
                "above_mean": all(conf[best] > mean),
            }[order]
            if not holds:
                break
            taken += 1
        filled = (state.tokens[row] != before[row]).nonzero()[:, 0].tolist()
        assert filled == sorted(places[rank[:taken]].tolist()), row
        assert torch.equal(state.tokens[row, filled], p[row, filled].argmax(-1))


def test_threshold_ends_when_the_text_is_full() -> None:
    model = chain(6, seed=3)
    sure = generate(model, masks(2, 6), SamplerConfig("threshold", steps=6, fill_bound=0.0))
    assert sure.forwards.tolist() == [1, 1]
    strict = generate(model, masks(2, 6), SamplerConfig("threshold", steps=6, fill_bound=1.1))
    assert strict.forwards.tolist() == [6, 6]


@pytest.mark.parametrize("name", ["p2-self", "rcr"])
def test_fill_all_then_keep_the_best(name: str) -> None:
    """After step i the planned number is visible: the likeliest under the posterior (P2), or when written (RCR)."""
    model, length, steps, rows = chain(6, seed=1), 6, 3, 4
    _, texts = record(model, masks(rows, length), SamplerConfig(name, steps=steps, seed=2))
    written = torch.zeros(rows, length, dtype=torch.float64)
    for step in range(steps):
        p = model.leave_one_out(texts[step])
        for row in range(rows):
            place = torch.arange(length)
            key = torch.full((length,), row), place, torch.full((length,), step)
            drawn = ops.sample_rows(p[row].log(), place, *key, seed=2).token
            full = torch.where(texts[step][row] == MASK, drawn, texts[step][row])
            now = p[row].gather(1, full[:, None])[:, 0]
            written[row] = torch.where(texts[step][row] == MASK, now, written[row])
            gone = lowest(now if name == "p2-self" else written[row], length - 2 * (step + 1))
            expected = [MASK if i in gone else int(full[i]) for i in range(length)]
            assert texts[step + 1][row].tolist() == expected, (step, row)


def test_saber_fills_then_takes_an_eighth_back() -> None:
    counts: list[tuple[Tensor, Tensor, Tensor]] = []

    def keep(state: State, view: object) -> None:
        counts.append((state.filled.sum(1), state.doubted.sum(1), state.masked.sum(1)))

    config = SamplerConfig("saber", steps=7, temperature=1.0, guard="fewer")
    result = generate(chain(7, seed=4), masks(40, 7), config, callback=keep)
    left = counts[0][2]
    for filled, doubted, masked in counts[1:-1]:
        assert (filled[left > 0] >= torch.minimum(left[left > 0], torch.tensor(2))).all()
        expected = torch.minimum((filled / 8).ceil().long(), (filled - 1).clamp(min=0))
        assert torch.equal(doubted[left > 0], expected[left > 0])
        left = masked
    assert result.forwards.min() < 7 and int(result.remasked.sum()) > 0


def test_t2t_overwrites_what_the_model_would_not_write() -> None:
    model, rows, length = chain(6, seed=5), 1, 6
    config = SamplerConfig("t2t", steps=12, fill_bound=0.45, tau=0.6, guard="none")
    result, texts = record(model, masks(rows, length), config)
    text, edits = texts[0][0], 0
    for step in range(12):
        p = model.leave_one_out(text[None])[0]
        conf, best = p.max(-1)
        full = text != MASK
        wrong = full & (best != text) & (conf > 1 - 0.6)
        if full.all() and not wrong.any():
            assert int(result.forwards) == step + 1  # one look finds nothing more to do
            break
        after = torch.where(wrong, best, text)
        fill = ~full & (conf >= 0.45)
        fill[conf.masked_fill(full, -1).argmax()] |= bool((~full).any())
        text = torch.where(fill, best, after)
        edits += int(wrong.sum())
        assert torch.equal(texts[step + 1][0], text), step
    assert edits == int(result.remasked) and edits > 0
    assert int(result.fills) == length + edits


def test_t2m_revises_no_position_twice() -> None:
    seen: list[Tensor] = []
    config = SamplerConfig("t2m", steps=12, fill_bound=0.3, tau=0.6, remask_share=0.4, temperature=1.0)
    result = generate(
        chain(6, seed=5), masks(20, 6), config, callback=lambda state, view: seen.append(state.doubted.clone())
    )
    times = torch.stack(seen[:-1]).long().sum(dim=0)
    assert int(result.remasked.sum()) > 0 and int(times.max()) == 1
    assert int(torch.stack(seen).sum(dim=2).max()) <= 2  # 40% of 6


def test_gibbs_leaves_an_exact_text_exact() -> None:
    """One token a step is exact, and a random-scan Gibbs step keeps the distribution."""
    model, rows = chain(3, seed=4), 5000
    config = SamplerConfig("gibbs", steps=6, fill_share=0.5, step_on=0.5, num_remask=1)
    result = generate(model, masks(rows, 3), config)
    seen = torch.bincount((result.tokens * torch.tensor([9, 3, 1])).sum(dim=1), minlength=27)
    assert chi_square(seen, model.probability * rows) < chi_square_bound(26)
    assert result.remasked.eq(3).all() and result.forwards.eq(3 + 2 * 3).all()


def test_two_pass_fills_from_the_text_without_the_doubted() -> None:
    model, length, steps = chain(6, seed=1), 6, 3
    config = SamplerConfig("prism-2pass", steps=steps, num_remask=1, remask_temperature=0.0, order="confidence",
                           temperature=0.0)  # fmt: skip
    result, texts = record(model, masks(2, length), config)
    assert result.forwards.tolist() == [5, 5] and result.remasked.tolist() == [2, 2]  # nobody to doubt at first
    text, passes = texts[0][0], iter(texts[1:])
    for step in range(steps):
        if step:
            g = model.leave_one_out(text[None])[0].gather(1, text.clamp(max=2)[:, None])[:, 0]
            text = text.index_fill(0, g.masked_fill(text == MASK, 2).argmin(), MASK)
            assert torch.equal(next(passes)[0], text)
        p = model.leave_one_out(text[None])[0]
        best = p.amax(-1).masked_fill(text != MASK, -1).argsort(descending=True, stable=True)
        text = text.index_put((best[: 2 + (step > 0)],), p.argmax(-1)[best[: 2 + (step > 0)]])
        assert torch.equal(next(passes)[0], text)


def test_prism_loop_redraws_a_finished_text() -> None:
    model, steps, loops = chain(6), 10, 4
    config = SamplerConfig("prism-loop", steps=steps, fill_share=0.6, step_on=2, step_off=6, num_remask_loop=2, eta=0.5)
    result, texts = record(model, masks(3, 6), config)
    assert all((text != MASK).all() for text in texts[-1:])
    assert int((texts[6] == MASK).sum()) == 3 * 2  # full, and two of each masked for the first loop
    assert all((text == MASK).sum(dim=1).tolist() == [2, 2, 2] for text in texts[6:-1])
    early = result.remasked - 2 * loops
    assert (early >= 0).all() and int(early.sum()) > 0
    assert result.forwards.eq(steps).all()


def test_remdm_llada_loops_at_seven_eighths() -> None:
    model, length, steps = chain(8), 8, 16
    result, texts = record(model, masks(2, length), SamplerConfig("remdm-llada", steps=steps))
    visible = [int((text[0] != MASK).sum()) for text in texts]
    assert visible == [0, 1, 2, 3, 4, 5, 6, 7, *[6] * 8, 8] or visible[7:] == [6, *[6] * 7, 7, 8], visible
    assert result.remasked.tolist() == [8, 8]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "t2t", "refill": "fresh", "score": "written"}, ["refill = fresh", "act = overwrite"]),
        ({"act": "overwrit"}, ["overwrit", "Nearest: overwrite"]),
        ({"end": "full"}, ["end 'full' is not known", "Nearest: filled"]),
        ({"name": "mdlm", "method": "two_pass"}, ["method = two_pass", "score = none"]),
        ({"alpha": "cosine", "fill_share": 0.5}, ["alpha = cosine", "fill_share = 0.5"]),
        ({"name": "remdm-loop", "loop_on": 0.9, "loop_off": 0.2}, ["loop_on = 0.9", "loop_off = 0.2"]),
        ({"name": "remdm-loop", "loop_off": 1.0}, ["loop_off = 1.0"]),
    ],
)
def test_errors_name_what_clashes(changes: dict, words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        check(resolve(SamplerConfig(**changes)), has_head=True, gives=frozenset({"second_forward"}))
    assert all(word in str(error.value) for word in words), error.value


def exact_text_and_ratios(model: TableModel, rows: int, length: int) -> Tensor:
    """Smallest g / w that every token ever had while its text was written one token a step, (rows, length)."""
    least = torch.full((rows, length), torch.inf, dtype=torch.float64)

    def look(state: State, view: object) -> None:
        tokens = state.tokens
        g = model.leave_one_out(tokens).gather(-1, tokens.clamp(max=model.mask_id - 1)[..., None])[..., 0]
        ratio = (g / state.written).masked_fill(tokens == model.mask_id, torch.inf)
        least.copy_(torch.minimum(least, ratio))

    generate(model, masks(rows, length), SamplerConfig("random", steps=length, seed=1), callback=look)
    return least


def test_evidence_falls_below_tau_at_most_in_a_share_tau_of_right_tokens() -> None:
    """Ville's inequality: under exact sampling w / g is a martingale of mean 1, so P(g / w ever below tau) <= tau."""
    rows, length = 3000, 5
    least = exact_text_and_ratios(chain(length, seed=7), rows, length)
    for tau in (0.5, 0.3, 0.1, 0.03):
        share = (least < tau).double().mean(dim=0).max()
        assert share <= tau + 4 * math.sqrt(tau * (1 - tau) / rows), tau
    assert (least < 0.5).double().mean() > 0.02  # the bound is not idle


def test_a_host_without_a_second_forward_is_refused_what_needs_one() -> None:
    with pytest.raises(ConfigError, match="two_pass needs a second forward"):
        check(resolve(SamplerConfig("gibbs")), has_head=True, gives=frozenset())
