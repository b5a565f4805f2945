"""Decoders: they write tokens into a block after a pass."""

from typing import Any

import torch
from torch import Tensor


class ParallelDecoder:
    def __init__(self, temperature: float, remasking: str = "low_confidence", mask_id: int = 126336) -> None:
        self.temperature, self.remasking, self.mask_id = temperature, remasking, mask_id

    def block_init(self, block_x: Tensor, block_id: int) -> None:
        pass


class ThresholdParallelDecoder(ParallelDecoder):
    def __init__(self, temperature: float, threshold: float, mask_id: int, eos_id: int) -> None:
        super().__init__(temperature, mask_id=mask_id)
        self.threshold, self.eos_id = threshold, eos_id

    def decode(self, logits: Tensor, block_start: int, block_end: int, x: Any) -> None:
        block = x[:, block_start:block_end]
        sure, best = logits.float().softmax(-1).max(-1)
        sure = sure.masked_fill((block != self.mask_id) | (best == self.mask_id), -torch.inf)
        least = (sure.amax(dim=1, keepdim=True) - 1e-5).clamp(-1000, self.threshold)
        x[:, block_start:block_end] = torch.where(sure >= least, best, block)
