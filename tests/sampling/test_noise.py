"""Uniform and hybrid noise: the redraw against the closed-form posterior, and the law of the texts that come of it."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from prism_plugin.api import enable
from prism_plugin.config import load
from prism_plugin.errors import ConfigError
from prism_plugin.models.checkpoint import PrismModel
from prism_plugin.models.denoiser import Output, View
from prism_plugin.quality import loss
from prism_plugin.sampling.config import SamplerConfig, resolve
from prism_plugin.sampling.drive import generate
from prism_plugin.sampling.state import State
from prism_plugin.training.train import train
from tests.conftest import TINY
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


@pytest.mark.parametrize("uniform", [1.0, 0.4])
@pytest.mark.parametrize("now", [0, 2, MASK])
@pytest.mark.parametrize("step", [0, 2, 4])
def test_a_token_is_redrawn_from_the_exact_posterior(uniform: float, now: int, step: int) -> None:
    if now == MASK and uniform == 1:
        pytest.skip("a fact of the noise: it has no masks")
    rows, steps = 6000, 5
    model = chain(1, seed=3)
    tokens = torch.full((rows, 1), now)
    config = resolve(SamplerConfig("uniform", steps=steps, seed=7))
    never = torch.tensor([MASK])
    state = State(
        tokens, torch.ones_like(tokens).bool(), MASK, config, torch.arange(rows), suppress=never, vocab_size=MASK + 1,
        uniform_noise=uniform,
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


class Bayes(TableModel):
    """A text of one token under noise: its logits are P(x_0 | x_t) at the level that the sampler has reached."""

    def __init__(self, p: Tensor, uniform: float, steps: int) -> None:
        super().__init__(p)
        self.uniform_noise, self.steps, self.step = uniform, steps, 0

    def forward(self, tokens: Tensor, padding: Tensor | None = None, layout: object = None) -> Output:
        reach = kept(self.step / self.steps, self.uniform_noise)[:SYMBOLS, tokens[:, 0]].T  # q(x_t | x_0)
        self.step += 1
        logits = (reach * self.probability).log()[:, None]
        return Output(torch.full_like(logits[..., :1], 0.5), None, nn.functional.pad(logits, (0, 1), value=-torch.inf))


@pytest.mark.parametrize("uniform", [1.0, 0.4])
def test_every_step_has_the_marginals_of_the_noise_and_the_last_is_the_data(uniform: float) -> None:
    rows, steps, p = 8000, 4, torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    texts: list[Tensor] = []
    result = generate(
        Bayes(p, uniform, steps), torch.full((rows, 1), MASK), SamplerConfig("uniform", steps=steps),
        callback=lambda state, view: texts.append(state.tokens[:, 0].clone()),
    )  # fmt: skip
    for step, text in enumerate([*texts[:steps], result.tokens[:, 0]]):
        law = (torch.cat([p, p.new_zeros(1)]) @ kept(step / steps, uniform)) * rows
        seen = torch.bincount(text, minlength=MASK + 1)
        assert (seen[law < 1e-9] == 0).all()
        there = law > 1e-9
        assert chi_square(seen[there], law[there]) < chi_square_bound(int(there.sum()) - 1), step
    assert result.forwards.eq(steps).all() and result.overwritten.sum() > 0


def test_texts_are_noised_as_the_sampler_begins() -> None:
    class Model:
        vocab_size, mask_id, uniform_noise = 5, 2, 0.25

    x = torch.full((400, 20), 4)
    noised = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    found = loss.uniform_noise(x, noised, torch.arange(400), 3, Model())  # type: ignore[arg-type]
    assert torch.equal(found[~noised], x[~noised])
    seen = torch.bincount(found[noised], minlength=5)
    law = torch.tensor([0.25 / 4, 0.25 / 4, 0.75, 0.25 / 4, 0.25 / 4]) * int(noised.sum())
    assert chi_square(seen, law) < chi_square_bound(4)


@pytest.mark.parametrize("kind", ["uniform", "hybrid"])
def test_a_model_learns_to_undo_it_and_writes_grids(kind: str, tmp_path: Path) -> None:
    out = tmp_path / kind
    train("mdm", load([*TINY, f"noise={kind}", f"out={out}", "train.steps=160", "train.lr=4e-3"]))
    model = PrismModel.from_pretrained(out)
    assert model.uniform_noise == {"uniform": 1.0, "hybrid": 0.2}[kind]
    masks = torch.full((64, 16), model.mask_id)
    result = generate(model, masks, SamplerConfig("uniform", steps=64))
    rows = result.tokens.view(-1, 4)
    whole = (rows.sort(dim=1).values == torch.arange(1, 5)).all(dim=1).float().mean()
    assert whole > 0.35  # by chance 4! / 4^4 = 0.09
    assert not (result.tokens == model.mask_id).any()
    with pytest.raises(ConfigError, match=r"trained with uniform_noise.*choose sampler=uniform"):
        enable(str(out), sampler="confidence").generate(masks)


def test_masks_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"method = redraw.*train with noise=uniform"):
        generate(chain(2), torch.full((1, 2), MASK), SamplerConfig("uniform", steps=2))
    with pytest.raises(ConfigError, match=r"noise 'unifrom' is not known. Nearest: uniform"):
        load(["noise=unifrom"])
