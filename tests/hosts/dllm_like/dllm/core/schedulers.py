"""Schedulers: how many masks stay from time t to time s, in f32."""

from dataclasses import dataclass
from typing import Any

import torch


@dataclass
class BaseAlphaScheduler:
    def alpha(self, t: Any) -> torch.Tensor:
        raise NotImplementedError

    def reverse_mask_prob(self, s: Any, t: Any) -> Any:
        single = isinstance(s, float)
        s, t = (torch.as_tensor(x, dtype=torch.float32) for x in (s, t))
        kept = (1 - self.alpha(s)) / (1 - self.alpha(t))
        return kept.item() if single else kept


@dataclass
class LinearAlphaScheduler(BaseAlphaScheduler):
    def alpha(self, t: Any) -> torch.Tensor:
        return 1 - t


@dataclass
class CosineAlphaScheduler(BaseAlphaScheduler):
    def alpha(self, t: Any) -> torch.Tensor:
        return 1 - torch.cos(torch.pi / 2 * (1 - t))


def make_alpha_scheduler(name: str) -> BaseAlphaScheduler:
    return {kind.__name__: kind for kind in BaseAlphaScheduler.__subclasses__()}[name]()
