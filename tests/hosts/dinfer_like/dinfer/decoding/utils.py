"""Texts and blocks."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor


class TokenArray:
    def __init__(self, prompt: Tensor, gen_length: int, mask_id: int) -> None:
        self.data = torch.nn.functional.pad(prompt, (0, gen_length), value=mask_id)

    def __getitem__(self, index: Any) -> Tensor:
        return self.data[index]

    def __setitem__(self, index: Any, values: Tensor) -> None:
        self.data[index] = values


class BlockIteratorFactory:
    def create(self, x: TokenArray, first: int, block_length: int) -> Any:
        for start in range(first, x.data.shape[1], block_length):
            stop = min(start + block_length, x.data.shape[1])
            yield SimpleNamespace(start=start, end=stop), x[:, start:stop]
