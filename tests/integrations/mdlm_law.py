"""The host's own update step and our preset, on the same posterior: do they draw the same texts?

A table stands for the network (three positions, three symbols and the mask; every posterior depends on the whole
context), so that the law of the text after every step can be compared over all of its 64 states.
"""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from prism_plugin.integrations.mdlm import is_remdm
from prism_plugin.models.denoiser import Denoiser, Output
from prism_plugin.sampling.config import SamplerConfig
from prism_plugin.sampling.drive import generate

LENGTH, MASK = 3, 3
TABLE = 1.5 * torch.randn(4**LENGTH, LENGTH, 4, generator=torch.Generator().manual_seed(1))
PLACE = 4 ** torch.arange(LENGTH)


class Network(nn.Module):
    """Logits (B, L, 4) for tokens (B, L), looked up by the whole text; the host calls it as its backbone."""

    def forward(self, tokens: Tensor, sigma: Tensor | None = None) -> Tensor:
        return TABLE[(tokens * PLACE).sum(-1)].clone()


class TableDenoiser(Denoiser):
    """The same table as a Denoiser."""

    vocab_size, mask_id, hidden_size, max_length = 4, MASK, 1, LENGTH

    def forward(self, tokens: Tensor, padding: Tensor | None = None) -> Output:
        logits = Network()(tokens)
        logits[..., MASK] = -torch.inf
        return Output(torch.zeros(*tokens.shape, 1), None, logits)


def host_states(host: Any, noise: nn.Module, rows: int, steps: int, sampler: str, **sampling: float) -> list[Tensor]:
    """States (rows,) after every step of the host's cached update, driven over its own grid of times."""
    model = host.__new__(host)
    nn.Module.__init__(model)
    model.backbone, model.noise, model.mask_index, model.vocab_size = Network(), noise, MASK, 4
    model.parameterization, model.time_conditioning, model.neg_infinity = "subs", False, -1e6
    settings = {"sampler": sampler, "nucleus_p": 1.0, **sampling}
    model.config = SimpleNamespace(noise=SimpleNamespace(type="loglinear"), sampling=SimpleNamespace(**settings))
    x = torch.full((rows, LENGTH), MASK)
    times, dt = torch.linspace(1, 1e-5, steps + 1), (1 - 1e-5) / steps
    seen, carried = [], {"conf": torch.full(x.shape, -torch.inf)} if is_remdm(host) else {}
    for t in times[:-1]:
        _, x, *rest = model._ddpm_caching_update(x, t.expand(rows, 1).clone(), dt, p_x0=None, **carried)
        carried = {"conf": rest[0]} if rest else {}
        seen.append((x * PLACE).sum(-1))
    return seen


def our_states(rows: int, steps: int, config: SamplerConfig) -> list[Tensor]:
    """States (rows,) after every step of our sampler."""
    seen = []
    tokens = torch.full((rows, LENGTH), MASK)
    generate(TableDenoiser(), tokens, config, callback=lambda state, view: seen.append((state.tokens * PLACE).sum(-1)))
    assert len(seen) == steps + 1
    return seen[1:]


def chi_square(first: Tensor, second: Tensor) -> tuple[float, int]:
    """Two-sample statistic over the states, and its degrees of freedom; states seen less than 10 times are pooled."""
    states = int(torch.cat([first, second]).max()) + 1
    counts = torch.stack([torch.bincount(sample, minlength=states) for sample in (first, second)]).double()
    rare = counts.sum(0) < 10
    counts = torch.cat([counts[:, ~rare], counts[:, rare].sum(1, keepdim=True)], dim=1)
    counts = counts[:, counts.sum(0) > 0]
    expected = counts.sum(1, keepdim=True) * counts.sum(0) / counts.sum()
    return float(((counts - expected) ** 2 / expected).sum()), counts.shape[1] - 1


def bound(df: int) -> float:
    """The chi-square value that chance exceeds with probability 1e-5 (Wilson and Hilferty, 1931)."""
    return df * (1 - 2 / (9 * df) + 4.265 * (2 / (9 * df)) ** 0.5) ** 3 if df else 0.0
