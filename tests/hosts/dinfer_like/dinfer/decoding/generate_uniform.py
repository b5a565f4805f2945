"""The loop over blocks."""

from typing import Any

import torch
from torch import Tensor

from .utils import TokenArray


class BlockWiseDiffusionLLM:
    def __init__(self, model: Any, decoder: Any, iterator_factory: Any, early_stop: bool = True) -> None:
        self.model, self.decoder, self.iterator_factory, self.early_stop = model, decoder, iterator_factory, early_stop
        self.num_forwards = 0

    @torch.no_grad()
    def generate(self, prompt: Tensor, gen_length: int = 128, block_length: int = 128) -> Tensor:
        mask, end = self.decoder.mask_id, self.decoder.eos_id
        x = TokenArray(prompt, gen_length, mask)
        for number, (where, block) in enumerate(self.iterator_factory.create(x, prompt.shape[1], block_length)):
            self.decoder.block_init(block, number)
            while bool((block == mask).any()):
                for _ in range(max(min(int((block == mask).sum()) // 8, 4), 1)):
                    logits = self.model(x.data).logits[:, where.start : where.end]
                    self.decoder.decode(logits, where.start, where.end, x)
                    self.num_forwards += 1
            over = (block == end).any(dim=1)
            if self.early_stop:
                x[over, where.end :] = end
            if bool(over.all()):
                break
        return x.data[x.data != end][None] if len(prompt) == 1 else x.data
