"""The samplers' classes; MDLMSampler at temperature 0, one text after the other, each alone."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .schedulers import LinearAlphaScheduler


@dataclass
class BaseSamplerOutput:
    sequences: Tensor
    histories: list[Tensor] | None = None


@dataclass
class BaseSamplerConfig:
    return_dict: bool = False


@dataclass
class BaseSampler:
    model: Any
    tokenizer: Any
    scheduler: Any = None

    def __post_init__(self) -> None:
        self.scheduler = self.scheduler or LinearAlphaScheduler()


@dataclass
class MDLMSamplerConfig(BaseSamplerConfig):
    max_new_tokens: int = 128
    max_length: int = None  # type: ignore[assignment]  # as there
    block_size: int = 128
    steps: int = 128
    temperature: float = 0.0
    remasking: str = "low_confidence"
    stochastic_transfer: bool = False
    cfg_scale: float = 0.0
    cfg_keep_tokens: list[int] | None = None
    suppress_tokens: list[int] | None = None
    begin_suppress_tokens: list[int] | None = None
    right_shift_logits: bool = False


@dataclass
class MDLMSampler(BaseSampler):
    @torch.no_grad()
    def sample(self, inputs: Any, config: Any = None, **given: Any) -> Any:
        asked = MDLMSamplerConfig(**{**vars(config or MDLMSamplerConfig()), **given})
        longest = max(map(len, inputs))
        new = asked.max_new_tokens or asked.max_length - longest
        texts = [torch.cat([torch.as_tensor(p), torch.full((new,), self.tokenizer.mask_token_id)]) for p in inputs]
        return self._write(texts, [len(p) for p in inputs], math.ceil(new / asked.block_size), asked)

    @torch.no_grad()
    def infill(self, inputs: Any, config: Any, **given: Any) -> Any:
        asked = MDLMSamplerConfig(**{**vars(config), **given})
        asked.block_size = asked.block_size or max(map(len, inputs))
        texts = [torch.as_tensor(text).clone() for text in inputs]
        return self._write(texts, [0] * len(texts), math.ceil(max(map(len, texts)) / asked.block_size), asked)

    def _write(self, texts: list[Tensor], starts: list[int], blocks: int, asked: MDLMSamplerConfig) -> Any:
        steps = math.ceil(asked.steps / blocks)
        width = max(map(len, texts))
        runs = [list(self._one(*each, blocks, steps, asked, width)) for each in zip(texts, starts, strict=True)]
        canvas = [[run[min(n, len(run) - 1)] for run in runs] for n in range(max(map(len, runs)))]
        fill = {"batch_first": True, "padding_value": self.tokenizer.eos_token_id}
        histories = [torch.nn.utils.rnn.pad_sequence(rows, **fill) for rows in canvas]
        return BaseSamplerOutput(histories[-1], histories) if asked.return_dict else histories[-1]

    def _one(self, text: Tensor, start: int, blocks: int, steps: int, asked: MDLMSamplerConfig, width: int) -> Any:
        mask, keep = self.tokenizer.mask_token_id, torch.tensor(asked.cfg_keep_tokens or [-1])
        prompt = (text != mask) & ~torch.isin(text, keep)
        yield text.clone()
        for block in range(blocks):
            where = torch.zeros_like(text, dtype=torch.bool)
            where[start + block * asked.block_size : start + (block + 1) * asked.block_size] = True
            for step in range(steps):
                open_ = where & (text == mask)
                kept = self.scheduler.reverse_mask_prob(s=(steps - step - 1) / steps, t=(steps - step) / steps)
                fills = round(int(open_.sum()) * (1 - kept))
                if not fills:
                    continue
                logits = self.model(text[None], attention_mask=torch.ones_like(text)[None]).logits[0]
                if asked.cfg_scale:
                    blind = self.model(text.masked_fill(prompt, mask)[None]).logits[0]
                    logits = blind + (asked.cfg_scale + 1) * (logits - blind)
                logits[:, asked.suppress_tokens or []] = -torch.inf
                best = logits.argmax(-1)
                logits[:, asked.begin_suppress_tokens or []] = -torch.inf
                sure = logits.softmax(-1).gather(-1, best[:, None])[:, 0].masked_fill(~open_, -torch.inf)
                sure = torch.nn.functional.pad(sure, (0, width - len(sure)), value=-torch.inf)
                chosen = sure.topk(fills).indices  # of equals, what it takes depends on the width
                text[chosen] = best[chosen]
                yield text.clone()
