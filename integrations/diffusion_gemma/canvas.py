"""Our samplers in DiffusionGemma's own ``generate``: its canvases, cache, self-conditioning and temperatures stay.

with in_generate(model, "prism", head="heads/gemma", num_remask=4):
    model.generate(input_ids, max_new_tokens=512)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from prism_plugin.config import from_mapping
from prism_plugin.errors import ConfigError
from prism_plugin.models.hooked import base_model, captured
from prism_plugin.sampling.config import SamplerConfig

from ..blocks import BlockState, Seen, Step, key, settings
from .adapter import DiffusionGemmaDenoiser

OWN = {
    "score": "random", "select": "share", "remask_share": 1.0, "refill": "stale", "fill": "least", "fill_least": 1,
    "order": "entropy_bound",
}  # fmt: skip
"""The host's own rule in our parts: the tokens of lowest entropy of every pass, as far as ``fill_bound`` (.1) goes."""


@contextmanager
def in_generate(model: Any, sampler: str = "", head: str = "", **given: Any) -> Iterator[None]:
    """While it lasts ``model.generate`` takes its denoising steps by one of our samplers.

    sampler: a preset; without one the host's own rule, ``OWN``. What is not written yet is shown as noise, any symbol,
    as the host shows what it did not accept. head: folder of a trained head; it reads what enters ``lm_head``. steps
    are those of a canvas, ``max_denoising_steps`` where none are given; temperatures are the host's, a preset's 0 takes
    the likeliest. A canvas ends when the sampler does, or by its steps. given: fields of ``SamplerConfig``.
    Raises ConfigError, before anything is run, for another model and for what cannot run a pass a step over a block.
    """
    host = base_model(model)
    if not DiffusionGemmaDenoiser.matches(host):
        raise ConfigError(f"{type(host).__name__}: {DiffusionGemmaDenoiser.wants}.")
    chosen = {"name": sampler or "confidence", **({} if sampler else OWN), **given}
    config = from_mapping(chosen, SamplerConfig, "sampler.")
    seen = Seen(host.config.text_config.vocab_size, head)
    settings(config, host.config.canvas_length, bool(head))
    host._denoising_step = Canvas(host, seen, config).step
    try:
        yield
    finally:
        del host._denoising_step


class Canvas:
    """What is written of a canvas, and ``DiffusionGemmaForBlockDiffusion._denoising_step`` upon it."""

    state: BlockState
    ahead: Step

    def __init__(self, host: Any, seen: Seen, config: SamplerConfig) -> None:
        self.host, self.seen, self.config = host, seen, config

    def step(
        self, decoder_forward: Any, current_canvas: Tensor, argmax_canvas: Tensor, input_ids: Tensor,
        decoder_position_ids: Tensor, self_conditioning_logits: Tensor | None, mask_mapping: Any, cache: Any,
        finished_denoising: Tensor, cur_step: int, logits_processor: Any, sampler: Any = None,
        diffusion_stopping_criteria: Any = None, **more: Any,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
        """The next canvas (B, L), the text as it would be now, the logits that condition the next pass, and (B,) bool:
        texts that have ended.
        """
        if argmax_canvas is current_canvas:  # the host begins a canvas so
            self._begin(current_canvas, input_ids, cur_step)
        with captured(self.host.lm_head, cut=False) as kept:
            made = decoder_forward(
                decoder_input_ids=current_canvas, self_conditioning_logits=self_conditioning_logits,
                decoder_attention_mask=mask_mapping, cache=cache, decoder_position_ids=decoder_position_ids, **more,
            )  # fmt: skip
        logits = logits_processor(input_ids, made.logits, cur_step=torch.tensor(cur_step, device=current_canvas.device))
        wider = torch.nn.functional.pad(logits.float(), (0, 1), value=-torch.inf)  # the marker's column, as the adapter
        ended = self.ahead.finish(self.seen.view(wider, kept[0])) | ~self.state.active
        if bool(self.state.active.any()):
            self.ahead = Step(self.state)
        open_ = self.state.tokens == self.seen.mask_id
        noise = torch.randint(self.seen.mask_id, open_.shape, device=open_.device)
        following = torch.where(open_, noise, self.state.tokens)
        text = torch.where(open_, logits.argmax(dim=-1), self.state.tokens)
        return following, text, logits.to(self.host.model.decoder.embed_tokens.weight.dtype), ended

    def _begin(self, canvas: Tensor, before: Tensor, steps: int) -> None:
        config = replace(self.config, steps=self.config.steps or steps)
        config = settings(config, canvas.shape[1], self.seen.head is not None)
        texts = [repr(text) for text in before.tolist()]
        names = [f"{text} {texts[:row].count(text)}" for row, text in enumerate(texts)]  # of equal prompts, which
        request = torch.tensor([key(name) for name in names], device=canvas.device)
        masks = torch.full_like(canvas, self.seen.mask_id)
        everywhere = torch.ones_like(canvas, dtype=torch.bool)
        self.state = BlockState(masks, everywhere, self.seen.mask_id, config, request)
        self.ahead = Step(self.state)
