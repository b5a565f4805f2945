"""dLLM's evaluation harness, with our sampler in it.

    accelerate launch -m prism_plugin.integrations.dllm.eval --model dllm_prism --tasks gsm8k_cot --num_fewshot 5 \
        --apply_chat_template --model_args \
        "pretrained=GSAI-ML/LLaDA-8B-Instruct,max_new_tokens=512,steps=512,block_size=64,head=heads/llada,num_remask=1"
"""

from __future__ import annotations

from typing import Any

from dllm.core.eval import MDLMEvalConfig, MDLMEvalHarness
from lm_eval.__main__ import cli_evaluate
from lm_eval.api.registry import register_model

from .sampler import PrismSampler, PrismSamplerConfig


@register_model("dllm_prism")
class PrismEvalHarness(MDLMEvalHarness):
    """``MDLMEvalHarness``: every field of ``PrismSamplerConfig`` is a key of ``--model_args``."""

    def __init__(
        self,
        eval_config: MDLMEvalConfig | None = None,
        sampler_config: PrismSamplerConfig | None = None,
        sampler_cls: type[PrismSampler] = PrismSampler,
        **given: Any,
    ) -> None:
        super().__init__(eval_config, sampler_config or PrismSamplerConfig(), sampler_cls, **given)


if __name__ == "__main__":
    cli_evaluate()
