"""Schedules: pure functions of (step, counts, settings), on tensors with one entry a row."""

import torch
from torch import Tensor


def fill_target(step: Tensor, size: Tensor, steps: Tensor, fill_share: float = 1.0) -> Tensor:
    """How many of ``size`` tokens are to be visible after step number ``step`` (from 0), all (B,) int64.

    An even split over the first ``fill_share`` of the steps, one more in each of the first size % steps of them
    (LLaDA, generate.py get_num_transfer_tokens); all of them after the last.
    """
    filling = (steps * fill_share).round().long().clamp(min=1)
    done = torch.minimum(step + 1, filling)
    target = size // filling * done + torch.minimum(done, size % filling)
    return torch.where(step + 1 >= steps, size, target)


def alpha_linear(step: Tensor, steps: Tensor) -> Tensor:
    """Share of tokens kept at noise level t = 1 - step / steps (linear alpha_t = 1 - t), (B,) float64."""
    return step.double() / steps


def remask_bound(alpha_t: Tensor, alpha_s: Tensor) -> Tensor:
    """Largest remasking probability that keeps the marginals, min(1, (1 - alpha_s) / alpha_t) (ReMDM, 2503.00307)."""
    return ((1 - alpha_s) / alpha_t).clamp(max=1).nan_to_num(nan=1.0)


def in_window(step: Tensor, steps: Tensor, step_on: int | float, step_off: int | float) -> Tensor:
    """(B,) bool: step_on <= step < step_off, where a float counts as a share of the steps."""
    low, high = (bound * steps if isinstance(bound, float) else bound for bound in (step_on, step_off))
    return (step >= low) & (step < high)
