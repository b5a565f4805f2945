"""Uniform and hybrid noise: the redraw against the closed-form posterior, and the law of the texts that come of it."""

import itertools
import math
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from prism_plugin.api import enable
from prism_plugin.config import load
from prism_plugin.errors import ConfigError
from prism_plugin.models.checkpoint import PrismModel
from prism_plugin.models.denoiser import Output, View
from prism_plugin.models.noise import Noise, Peaked
from prism_plugin.quality import loss
from prism_plugin.sampling.config import SamplerConfig, resolve
from prism_plugin.sampling.drive import generate
from prism_plugin.sampling.state import State
from prism_plugin.training.objectives import RedrawObjective
from prism_plugin.training.train import train
from tests.conftest import SIZE, TINY
from tests.hosts.noise_like import restated
from tests.sampling.test_rules import MASK, chi_square, chi_square_bound
from tests.table_model import TableModel, chain

SYMBOLS = 3


def noise(uniform: float) -> Tensor:
    """pi (4,): what noise puts in a token's place, the mask last."""
    return torch.tensor([uniform / SYMBOLS] * SYMBOLS + [1 - uniform], dtype=torch.float64)


def kept(alpha: float, uniform: float) -> Tensor:
    """(4, 4) from x_0, or x_s, to x_t: what is kept and what noise puts in its place."""
    return alpha * torch.eye(SYMBOLS + 1).double() + (1 - alpha) * noise(uniform)


def posterior(p: Tensor, now: int, alpha_t: float, alpha_s: float, uniform: float) -> Tensor:
    """q(x_s | x_t = now) (4,), summed over x_0 of p (3,), by Bayes' rule from the two transitions alone."""
    joint = kept(alpha_s, uniform)[:SYMBOLS] * kept(alpha_t / alpha_s, uniform)[:, now]  # q(x_s | x_0) q(x_t | x_s)
    return (p[:, None] * joint / joint.sum(dim=1, keepdim=True)).nan_to_num().sum(dim=0)


@pytest.mark.parametrize("step", [0, 2, 4])
@pytest.mark.parametrize(("uniform", "now"), [(1.0, 0), (1.0, 2), (0.4, 0), (0.4, 2), (0.4, MASK)])
def test_a_token_is_redrawn_from_the_exact_posterior(uniform: float, now: int, step: int) -> None:
    rows, steps = 6000, 5
    model = chain(1, seed=3)
    tokens = torch.full((rows, 1), now)
    config = resolve(SamplerConfig("uniform", steps=steps, seed=7))
    never = torch.tensor([MASK])
    state = State(
        tokens, torch.ones_like(tokens).bool(), MASK, config, torch.arange(rows), suppress=never, vocab_size=MASK + 1,
        noise=Noise(uniform),
    )  # fmt: skip
    state.step += step
    state.block_step += step
    state.parts.act(View(model, model(tokens)), state, torch.zeros(rows, 1), torch.ones(rows).long())
    law = posterior(model.leave_one_out(tokens)[0, 0], now, step / steps, (step + 1) / steps, uniform) * rows
    seen = torch.bincount(state.tokens[:, 0], minlength=MASK + 1)
    assert (seen[law == 0] == 0).all()
    there = law > 0
    assert chi_square(seen[there], law[there]) < chi_square_bound(max(1, int(there.sum()) - 1))
    changed = state.tokens != now
    assert torch.equal(state.doubted, changed if now != MASK else torch.zeros_like(changed))
    assert torch.equal(state.remasks > 0, state.doubted)


def redrawn(
    noise: Noise, now: int, step: int, steps: int, rows: int = 8000, **sampler: object
) -> tuple[Tensor, Tensor]:
    """What one step of a sampler makes of a token, (4,) counts, and what the model says of it, p (3,)."""
    rows = 8000
    model, tokens = chain(1, seed=3), torch.full((rows, 1), now)
    config = resolve(SamplerConfig(**{"name": "uniform", "seed": 7, **sampler, "steps": steps}))
    state = State(
        tokens, torch.ones_like(tokens).bool(), MASK, config, torch.arange(rows), suppress=torch.tensor([MASK]),
        vocab_size=MASK + 1, noise=noise,
    )  # fmt: skip
    state.step += step
    state.block_step += step
    state.parts.act(View(model, model(tokens)), state, torch.zeros(rows, 1), torch.ones(rows).long())
    return torch.bincount(state.tokens[:, 0], minlength=MASK + 1), model.leave_one_out(tokens)[0, 0]


def same_law(seen: Tensor, law: Tensor) -> None:
    law = law * seen.sum()
    assert float(law.sum()) == pytest.approx(float(seen.sum()))
    there = law > 1e-9
    assert (seen[~there] == 0).all()
    if int(there.sum()) > 1:
        assert chi_square(seen[there], law[there]) < chi_square_bound(int(there.sum()) - 1)


def reach(noise: Noise, level: Tensor) -> Tensor:
    """q(x_t | x_0) (B, 3, 4) at the levels alpha (B,)."""
    kept, masks, even = (share[:, None, None] for share in noise.shares(level.double()))
    spread = torch.cat([(even / SYMBOLS).expand(-1, -1, SYMBOLS), masks], dim=2)
    return kept * torch.eye(SYMBOLS, SYMBOLS + 1) + spread


def transition(noise: Noise, alpha_t: float, alpha_s: float) -> Tensor:
    """q(x_t | x_s) (4, 4), from what carries the shares at s to those at t."""
    at = [noise.shares(torch.tensor(alpha, dtype=torch.float64)) for alpha in (alpha_t, alpha_s)]
    (kept_t, masks_t, even_t), (kept_s, masks_s, even_s) = at
    keep = kept_t / kept_s
    step = keep * torch.eye(SYMBOLS + 1).double()
    if noise.absorbing:
        visible = (kept_t + even_t) / (kept_s + even_s)
        step[:SYMBOLS, :SYMBOLS] += (visible - keep) / SYMBOLS
        step[:SYMBOLS, MASK] += 1 - visible
        step[MASK, MASK] = 1
    else:
        step[:, :SYMBOLS] += (even_t - keep * even_s) / SYMBOLS
        step[:, MASK] += masks_t - keep * masks_s
    return step


@pytest.mark.parametrize("step", [1, 3, 6])
@pytest.mark.parametrize("now", [0, 1, 2])
def test_duo_and_psi_draw_as_the_host(now: int, step: int) -> None:
    """``alpha=loglinear_tail``: the grid of Duo's linspace(1, 0), whose last pass only cleans."""
    steps, noise = 8, Noise(1.0, tilted=True)
    alpha_t, alpha_s = (1 - 0.999 * (1 - i / (steps - 1)) for i in (step, step + 1))
    seen, p = redrawn(noise, now, step, steps, name="duo")
    same_law(seen[:MASK], restated.duo(p, now, alpha_t, alpha_s))
    eta = 0.3
    seen, p = redrawn(noise, now, step, steps, name="psi", eta=eta)
    sigma = min(eta, (1 - alpha_s) / alpha_t)
    kappa = 1 - sigma / (1 - alpha_s) if alpha_s < 1 else 1.0
    same_law(seen[:MASK], restated.psi(p, now, alpha_t, alpha_s, min(max(kappa, 0), 1)))


@pytest.mark.parametrize("now", [0, 2])
def test_the_last_pass_of_duo_takes_the_likeliest(now: int) -> None:
    seen, p = redrawn(Noise(1.0, tilted=True), now, 7, 8, name="duo")
    assert int(seen[p.argmax()]) == int(seen.sum())


@pytest.mark.parametrize(("step", "now"), [(0, MASK), *itertools.product([2, 4], [0, 2, MASK])])
@pytest.mark.parametrize("host", ["gidd", "scdd"])
def test_hybrids_draw_as_the_host(host: str, step: int, now: int) -> None:
    steps, most = 5, 0.2
    seen, p = redrawn(Peaked(most, host == "scdd", True), now, step, steps)
    p = torch.cat([p, p.new_zeros(1)])
    same_law(seen, getattr(restated, host)(p, now, 1 - step / steps, 1 - (step + 1) / steps, most, MASK))
    assert host == "gidd" or now == MASK or seen[MASK] == 0


@given(
    st.floats(0, 1), st.booleans(), st.booleans(), st.floats(0.01, 0.98), st.floats(0.01, 1),
    st.floats(0.2, 0.8), st.floats(0.3, 2),
)  # fmt: skip
def test_a_noisy_token_was_what_bayes_says(
    uniform: float, absorbing: bool, peaked: bool, alpha_t: float, part: float, peak: float, gamma: float
) -> None:
    """The weights against transitions that carry the noise of s to that of t, whatever the noise."""
    if peaked:
        noise: Noise = Peaked(0.5 * uniform, absorbing, False, gamma, peak)
    else:
        noise = Noise(uniform, absorbing)
    alpha_s = alpha_t + part * (1 - alpha_t)
    one = torch.ones(1, dtype=torch.float64)
    at = [torch.cat(noise.shares(alpha * one)) for alpha in (alpha_t, alpha_s)]
    assert all(float(each.sum()) == pytest.approx(1) and (each >= 0).all() for each in at)

    start, end = (reach(noise, alpha * one)[0] for alpha in (alpha_s, alpha_t))
    step = transition(noise, alpha_t, alpha_s)
    assert torch.allclose(step.sum(dim=1), torch.ones(4).double())
    assume(not peaked or bool((step > -1e-12).all()))  # symbols that come and go too fast are no chain of noise
    assert (step > -1e-12).all()
    assert torch.allclose(start @ step, end)
    for x0, now in itertools.product(range(SYMBOLS), range(SYMBOLS + 1)):
        law = start[x0] * step[:, now]
        masked, right = torch.tensor([now == MASK]), torch.tensor([now == x0])
        clean, stay, fresh, back = noise.before(masked, right, SYMBOLS, alpha_t * one, alpha_s * one)[:, 0]
        found = torch.cat([(fresh / SYMBOLS).expand(SYMBOLS), back[None]]).index_add(
            0, torch.tensor([x0, now]), torch.stack([clean, stay])
        )
        assert torch.allclose(found, law, atol=1e-9), (x0, now)


def test_gidd_rewrites_the_one_token_that_it_is_surest_of() -> None:
    """One step of its self-correction, restated: z' from softmax(logits / T), the likeliest change is made."""
    model, rows, heat = chain(4, seed=5), 20000, 0.7
    model.noise = Noise(0.2)
    text = torch.tensor([[2, 0, 1, 2]]).expand(rows, -1)
    q = (model.leave_one_out(text[:1])[0] ** (1 / heat)).float()
    q = q / q.sum(-1, keepdim=True)
    law: dict[tuple[int, ...], float] = {}
    for drawn in itertools.product(range(SYMBOLS), repeat=4):
        weight = math.prod(float(q[i, v]) for i, v in enumerate(drawn))
        scores = [float(q[i, v]) if v != int(text[0, i]) else 0.0 for i, v in enumerate(drawn)]
        best = max(range(4), key=scores.__getitem__)
        after = tuple(drawn[best] if i == best and scores[i] else int(x) for i, x in enumerate(text[0]))
        law[after] = law.get(after, 0) + weight
    after = generate(
        model, text, SamplerConfig("gidd-correct", steps=1, temperature=heat), editable=torch.ones_like(text).bool()
    )
    kinds = sorted(law)
    seen = torch.tensor([int((after.tokens == torch.tensor(kind)).all(dim=1).sum()) for kind in kinds])
    same_law(seen, torch.tensor([law[kind] for kind in kinds], dtype=torch.float64))
    whole = generate(
        model, text[:50], SamplerConfig("gidd-correct", steps=60, temperature=0.0),
        editable=torch.ones(50, 4, dtype=torch.bool),
    )  # fmt: skip
    assert whole.forwards.max() < 60  # a pass that draws nothing new ends it
    assert torch.equal(model.leave_one_out(whole.tokens).argmax(dim=-1), whole.tokens)


class Bayes(TableModel):
    """A text of one token under noise: its logits are P(x_0 | x_t) at the level that it is told, or P(x_0) where the
    sampler is to multiply in what x_t says.
    """

    gives = TableModel.gives | {"level"}

    def __init__(self, p: Tensor, noise: Noise) -> None:
        super().__init__(p)
        self.noise = noise

    def forward(
        self, tokens: Tensor, padding: Tensor | None = None, layout: object = None, level: Tensor | None = None
    ) -> Output:
        logits = self.probability.log().expand(len(tokens), 1, -1)
        if not self.noise.tilted:
            assert level is not None
            logits = (self.probability * reach(self.noise, level)[torch.arange(len(tokens)), :, tokens[:, 0]]).log()
            logits = logits[:, None]
        return Output(torch.full_like(logits[..., :1], 0.5), None, nn.functional.pad(logits, (0, 1), value=-torch.inf))


NOISES = [Noise(1.0), Noise(0.4), Noise(1.0, tilted=True), Peaked(0.2, False, True), Peaked(0.2, True, True)]
DATA = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)


@pytest.mark.parametrize("noise", NOISES)
def test_every_step_has_the_marginals_of_the_noise_and_the_last_is_the_data(noise: Noise) -> None:
    rows, steps = 8000, 4
    texts: list[Tensor] = []
    result = generate(
        Bayes(DATA, noise), torch.full((rows, 1), MASK), SamplerConfig("uniform", steps=steps),
        callback=lambda state, view: texts.append(state.tokens[:, 0].clone()),
    )  # fmt: skip
    for step, text in enumerate([*texts[:steps], result.tokens[:, 0]]):
        law = DATA @ reach(noise, torch.tensor([step / steps]))[0]
        same_law(torch.bincount(text, minlength=MASK + 1), law)
    assert result.forwards.eq(steps).all() and (noise.absorbing or result.overwritten.sum() > 0)


@pytest.mark.parametrize("noise", NOISES)
def test_a_head_is_shown_what_the_sampler_leaves_of_a_true_text(noise: Noise) -> None:
    """Of an exact model that is a text noised to the level s: P(y = x) is known, and masks are not judged."""
    model = Bayes(DATA, noise)
    number = torch.arange(1500)
    x = torch.multinomial(DATA, len(number), True, generator=torch.Generator().manual_seed(0))[:, None]
    found = RedrawObjective(model, 5, loss.QualityConfig()).eval()(x, number)
    t = loss.noise_level(5, number).double()
    s = t * loss.ranks(5, number, 1, loss.TIME)[:, 0]
    right, shown = torch.zeros(2, len(number), dtype=torch.float64)
    for i in range(len(number)):
        start, end = (reach(noise, 1 - level[i : i + 1])[0] for level in (s, t))
        seen = end[x[i, 0]]  # x_t, of x
        back = (DATA @ start) * transition(noise, float(1 - t[i]), float(1 - s[i])).T / (DATA @ end)[:, None]
        after = seen @ back.nan_to_num()
        right[i], shown[i] = after[x[i, 0]], 1 - after[MASK]
    labels = found["labels"]
    assert len(labels) == pytest.approx(
        float(shown.sum()), abs=4 * float((shown * (1 - shown)).sum().clamp(min=0).sqrt()) + 1e-3
    )
    assert float(labels.sum()) == pytest.approx(float(right.sum()), abs=4 * float((right * (1 - right)).sum().sqrt()))
    assert found["loss"].isfinite() and "mdm" not in found


def test_texts_are_noised_as_the_sampler_begins() -> None:
    class Model:
        vocab_size, mask_id, noise = 5, 2, Noise(0.25)

    x, number = torch.full((400, 20), 4), torch.arange(400)
    found = loss.noised(x, number, 3, Model())  # type: ignore[arg-type]
    t = loss.noise_level(3, number)
    seen = torch.bincount(found.flatten(), minlength=5)
    taken = float(t.sum()) * 20
    law = taken * torch.tensor([0.25 / 4, 0.25 / 4, 0.75, 0.25 / 4, 0.25 / 4]) + torch.tensor(
        [0, 0, 0, 0, 8000 - taken]
    )
    assert chi_square(seen, law) < chi_square_bound(4)
    kept = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    assert torch.equal(loss.noised(x, number, 3, Model(), ~kept), torch.where(kept, x, found))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["uniform", "hybrid"])
def test_a_model_learns_to_undo_it_and_writes_grids(kind: str, tmp_path: Path) -> None:
    out = tmp_path / kind
    train("mdm", load([*TINY, *SIZE, f"noise={kind}", f"out={out}", "train.steps=160", "train.lr=4e-3"]))
    model = PrismModel.from_pretrained(out)
    assert model.noise.uniform == {"uniform": 1.0, "hybrid": 0.2}[kind]
    masks = torch.full((64, 16), model.mask_id)
    result = generate(model, masks, SamplerConfig("uniform", steps=64))
    rows = result.tokens.view(-1, 4)
    whole = (rows.sort(dim=1).values == torch.arange(1, 5)).all(dim=1).float().mean()
    assert whole > 0.35  # by chance 4! / 4^4 = 0.09
    assert not (result.tokens == model.mask_id).any()
    train("quality", load([*TINY, f"model={out}", f"out={out}-head", "train.steps=10", "train.eval_every=10"]))
    judged = enable(f"{out}-head", sampler="uniform", score="quality", select="below", tau=0.9, steps=8)
    result = judged.generate(masks)
    assert not (result.tokens == model.mask_id).any() and (result.remasked < 8 * 16).all()
    with pytest.raises(ConfigError, match=r"trained with uniform_noise.*choose sampler=uniform"):
        enable(str(out), sampler="confidence").generate(masks)


def test_masks_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"method = redraw.*train with noise=uniform"):
        generate(chain(2), torch.full((1, 2), MASK), SamplerConfig("uniform", steps=2))
    with pytest.raises(ConfigError, match=r"noise 'unifrom' is not known. Nearest: uniform"):
        load(["noise=unifrom"])
