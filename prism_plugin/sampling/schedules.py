"""Schedules: pure functions of (step, counts, settings), on tensors with one entry a row."""

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import ops
from ..errors import ConfigError
from ..options import option
from .parts import alphas, eta_schedules, rates
from .state import State


def fill_target(step: Tensor, size: Tensor, steps: Tensor, fill_share: float = 1.0) -> Tensor:
    """How many of ``size`` tokens are to be visible after step number ``step`` (from 0), all (B,) int64.

    An even split over the first ``fill_share`` of the steps, one more in each of the first size % steps of them
    (LLaDA, generate.py get_num_transfer_tokens); all of them after the last.
    """
    return ops.even_split(step, size, filling_steps(steps, fill_share))


def filling_steps(steps: Tensor, fill_share: float) -> Tensor:
    """The first ``fill_share`` of the steps, at least one, (B,) int64."""
    return (steps if fill_share == 1 else (steps * fill_share).round().long()).clamp(min=1)


def planned(state: State) -> Tensor:
    """How many tokens of the block are to be visible after this step, (B,) int64."""
    size, steps, config = state.of_block(state.size), state.of_block(state.budget), state.config
    if config.alpha == "linear":
        return fill_target(state.block_step, size, steps, config.fill_share)
    level = state.levels[1] * size
    return level.ceil().long().clamp(max=size) if config.alpha == "even" else level.round().long()


@alphas("linear")
def alpha_linear(step: Tensor, steps: Tensor) -> Tensor:
    """Share of tokens kept at noise level t = 1 - step / steps (linear alpha_t = 1 - t), (B,) float64."""
    return step.double() / steps


@alphas("even")
def alpha_even(step: Tensor, steps: Tensor) -> Tensor:
    """As ``linear``, with a plan of ceil(alpha size): what is left over is spread (PRISM's DiT release)."""
    return alpha_linear(step, steps)


@alphas("cosine")
def alpha_cosine(step: Tensor, steps: Tensor) -> Tensor:
    """1 - cos(pi/2 step / steps): few at first (MaskGIT, arXiv 2202.04200)."""
    return 1 - (step.double() / steps * (math.pi / 2)).cos()


@alphas("loglinear")
def alpha_loglinear(step: Tensor, steps: Tensor) -> Tensor:
    """1 - (1 - 1e-3) t, MDLM's noise: the law of ``linear``, since only ratios of 1 - alpha count."""
    return 1 - (1 - 1e-3) * (1 - step.double() / steps)


CLEAN_TAIL = "loglinear_tail"


@alphas(CLEAN_TAIL)
def alpha_loglinear_tail(step: Tensor, steps: Tensor) -> Tensor:
    """``loglinear`` over all steps but the last, for which no noise is left: noise removal (Duo, SCDD)."""
    noisy = (steps - 1).clamp(min=1)
    return alpha_loglinear(torch.minimum(step, noisy), noisy)


@dataclass
class Held:
    """Of alpha=held."""

    level: float = option(0.99, "alpha of every step", low=0, below=1)


@alphas("held")
def alpha_held(step: Tensor, steps: Tensor, options: Held) -> Tensor:
    """The same at every step: a finished text is read as one with little noise (GIDD's self-correction, t0 = .01)."""
    return torch.full_like(step, options.level, dtype=torch.float64)


@alphas("dfm")
def alpha_dfm(step: Tensor, steps: Tensor) -> Tensor:
    """The grid on which rate=dfm keeps every probability below 1: finer at both ends (see ``dfm_grid``)."""
    known, row = steps.unique(return_inverse=True)  # the budgets of blocks: two numbers at most
    grids = [torch.tensor(dfm_grid(count), dtype=torch.float64, device=step.device) for count in known.tolist()]
    return torch.nn.utils.rnn.pad_sequence(grids, padding_value=1.0)[step, row]


@functools.cache
def dfm_grid(steps: int) -> list[float]:
    """alpha after 0 … ``steps`` steps: t falls by min(1 / n, 1 / (a / t + b / (1 - t))), a = b + 1, n as they come out.

    ReMDM's DFM sampler takes n from its settings and lets the number of steps follow (128: 133 steps).
    """

    def grid(n: int) -> list[float]:
        t, found = 1.0, [1.0]
        while t > 1 / n and len(found) <= steps:
            b = 10 * (t * (1 - t)) ** 0.25
            t -= min(1 / n, 1 / ((b + 1) / t + b / (1 - t))) if t < 1 else 1 / n
            found.append(t)
        return [1 - t for t in found]

    alphas = next((found for n in range(steps, 0, -1) if len(found := grid(n)) <= steps), [0.0])
    return [*alphas, *[1.0] * (steps + 1 - len(alphas))]


@dataclass
class Plateau:
    """Of alpha=plateau."""

    loop_on: float = option(0.45, "share of the steps at which the plateau begins", above=0, high=1)
    loop_off: float = option(0.95, "share of the steps at which it ends", low=0, below=1)
    alpha_on: float = option(0.9, "share of the text that is visible on it", low=0, high=1)

    def __post_init__(self) -> None:
        if self.loop_on > self.loop_off:
            raise ConfigError(
                f"sampler.alpha.loop_on = {self.loop_on} is after sampler.alpha.loop_off = {self.loop_off}."
            )


@alphas("plateau")
def alpha_plateau(step: Tensor, steps: Tensor, options: Plateau) -> Tensor:
    """Rises to ``alpha_on`` at the share ``loop_on`` of the steps, holds until ``loop_off``, then rises to 1."""
    on, off, held = options.loop_on, options.loop_off, options.alpha_on
    share = step.double() / steps
    rising = held * share / on
    return torch.where(share < on, rising, held + (1 - held) * ((share - off) / (1 - off)).clamp(min=0))


def remask_bound(alpha_t: Tensor, alpha_s: Tensor) -> Tensor:
    """Largest remasking probability that keeps the marginals, min(1, (1 - alpha_s) / alpha_t) (ReMDM, 2503.00307)."""
    return ((1 - alpha_s) / alpha_t).clamp(max=1).nan_to_num(nan=1.0)


@dataclass
class Eta:
    """Of all that is bounded by eta."""

    eta: float = option(0.04, "chance of a token to be masked again, or what bounds it", low=0, high=1)

    def of(self, factor: Tensor) -> Tensor:
        """eta as scheduled, (B,) float64."""
        return (self.eta * factor).clamp(max=1)


@rates("none")
def rate_none(alpha_t: Tensor, alpha_s: Tensor, factor: Tensor) -> Tensor:
    """No visible token is masked again (MDLM)."""
    return torch.zeros_like(alpha_t)


@rates("cap")
def rate_cap(alpha_t: Tensor, alpha_s: Tensor, factor: Tensor, options: Eta) -> Tensor:
    """min(eta, bound) (ReMDM-cap)."""
    return torch.minimum(options.of(factor), remask_bound(alpha_t, alpha_s))


@rates("rescale")
def rate_rescale(alpha_t: Tensor, alpha_s: Tensor, factor: Tensor, options: Eta) -> Tensor:
    """eta times the bound (ReMDM-rescale)."""
    return options.of(factor) * remask_bound(alpha_t, alpha_s)


@rates("plateau")
def rate_plateau(alpha_t: Tensor, alpha_s: Tensor, factor: Tensor, options: Eta) -> Tensor:
    """``cap`` while the share of visible tokens is held, nothing else (ReMDM-loop)."""
    return rate_cap(alpha_t, alpha_s, factor, options).masked_fill((alpha_s - alpha_t).abs() > 1e-9, 0.0)


@rates("dfm")
def rate_dfm(alpha_t: Tensor, alpha_s: Tensor, factor: Tensor) -> Tensor:
    """b (alpha_s - alpha_t) / alpha_t with b = 10 (alpha_t (1 - alpha_t))^(1/4): DFM's corrector (2407.15595)."""
    push = 10 * (alpha_t * (1 - alpha_t)).clamp(min=0) ** 0.25
    return torch.minimum((push * (alpha_s - alpha_t) / alpha_t).nan_to_num(nan=0.0), remask_bound(alpha_t, alpha_s))


@rates("forward_backward")
def rate_forward_backward(alpha_t: Tensor, alpha_s: Tensor, factor: Tensor) -> Tensor:
    """(alpha_s - alpha_t) / alpha_t, within the bound that the published code lacks."""
    return torch.minimum(((alpha_s - alpha_t) / alpha_t).nan_to_num(nan=1.0), remask_bound(alpha_t, alpha_s))


def sigma(state: State) -> Tensor:
    """Chance of a visible token to be masked again in this step, (B,) float64: ``rate`` at the planned shares."""
    return state.parts.rate(*state.levels, factor(state))


def factor(state: State) -> Tensor:
    """What ``eta_schedule`` makes of the share of the window of steps that is over, (B,) float64."""
    config, steps = state.config, state.of_block(state.budget).double()
    on, off = window(steps, config.step_on, config.step_off)
    progress = ((state.block_step - on) / (off - on)).clamp(0, 1)
    return state.parts.eta_schedule(progress, steps)


@eta_schedules("constant")
def eta_constant(progress: Tensor, steps: Tensor) -> Tensor:
    """The same at every step; progress (B,) float64 is the share of the window of steps that is over."""
    return torch.ones_like(progress)


@eta_schedules("linear")
def eta_linear(progress: Tensor, steps: Tensor) -> Tensor:
    """Falls to 0 in a line."""
    return 1 - progress


@eta_schedules("cosine")
def eta_cosine(progress: Tensor, steps: Tensor) -> Tensor:
    """Falls to 0 along half a cosine."""
    return (1 + (progress * math.pi).cos()) / 2


@eta_schedules("half_cosine")
def eta_half_cosine(progress: Tensor, steps: Tensor) -> Tensor:
    """Falls to one half along half a cosine (Tolerator: from 0.8 to 0.4)."""
    return (3 + (progress * math.pi).cos()) / 4


@eta_schedules("centred")
def eta_centred(progress: Tensor, steps: Tensor) -> Tensor:
    """Rises from 0 to the middle and falls back to 0 along half a sine."""
    return (progress * math.pi).sin()


ETA_STEPS = 256  # the number of steps that ``eta`` is meant for under eta_schedule=inverse


@eta_schedules("inverse")
def eta_inverse(progress: Tensor, steps: Tensor) -> Tensor:
    """``eta`` is for 256 steps: 256 / T of it at T, so that the expected total of remasks does not grow with T."""
    return ETA_STEPS / steps


@eta_schedules("inverse_cosine")
def eta_inverse_cosine(progress: Tensor, steps: Tensor) -> Tensor:
    """``inverse``, and falls to 0 as ``cosine``: what is revised late is filled late, with nobody to check it."""
    return eta_inverse(progress, steps) * eta_cosine(progress, steps)


def window(steps: Tensor, step_on: int | float, step_off: int | float) -> tuple[Tensor, Tensor]:
    """First step of a window and first step after it, (B,) each, where a float counts as a share of the steps."""
    bounds = (step_on, step_off)
    low, high = (bound * steps if isinstance(bound, float) else torch.full_like(steps, bound) for bound in bounds)
    return low, torch.minimum(high, steps)


def in_window(step: Tensor, steps: Tensor, step_on: int | float, step_off: int | float) -> Tensor:
    """(B,) bool: step_on <= step < step_off."""
    low, high = window(steps, step_on, step_off)
    return (step >= low) & (step < high)
