"""The evaluation harness, as far as it samples."""

from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any

import torch
from lm_eval.api.model import LM

import dllm

from .samplers import MDLMSampler, MDLMSamplerConfig


@dataclass
class MDLMEvalConfig:
    batch_size: int = 32


class MDLMEvalHarness(LM):
    def __init__(
        self, eval_config: Any = None, sampler_config: Any = None, sampler_cls: Any = MDLMSampler, **kwargs: Any
    ) -> None:
        super().__init__()
        source = sampler_config or MDLMSamplerConfig()
        known = [item.name for item in fields(source)]
        self.sampler_config = type(source)(**{n: kwargs[n] if n in kwargs else getattr(source, n) for n in known})
        self.model = dllm.utils.get_model(SimpleNamespace(model_name_or_path=kwargs["pretrained"]))
        self.tokenizer = dllm.utils.get_tokenizer(None)
        self.sampler = sampler_cls(model=self.model, tokenizer=self.tokenizer)
        self.batch_size = int(kwargs.get("batch_size", 32))

    @torch.no_grad()
    def generate_until(self, requests: list[Any]) -> list[str]:
        answers: list[str] = []
        for first in range(0, len(requests), self.batch_size):
            some = requests[first : first + self.batch_size]
            prompts = [torch.tensor(self.tokenizer(request.args[0])["input_ids"]) for request in some]
            ids = self.sampler.sample(inputs=prompts, config=self.sampler_config, return_dict=False)
            answers += dllm.utils.sample_trim(self.tokenizer, ids.tolist(), [prompt.tolist() for prompt in prompts])
        return answers

    def loglikelihood(self, requests: Any) -> Any:
        raise NotImplementedError

    def loglikelihood_rolling(self, requests: Any) -> Any:
        raise NotImplementedError
