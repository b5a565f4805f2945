"""A scheduler for ``LLaDA2Pipeline`` that steps one of our methods: the host runs the model and owns the loop.

    pipe.scheduler = PrismScheduler.from_config(pipe.scheduler.config, sampler="prism", head="runs/head")
    pipe.scheduler.attach(pipe)  # a head reads hidden states: only needed with one

The contract is that of diffusers' BlockRefinementScheduler (0.42.1, schedulers/scheduling_block_refinement.py): the
pipeline writes ``prev_sample`` where ``transfer_index | editing_transfer_index``. A token that is remasked, or
replaced at once, is an edit. A block starts at timestep 0; its text is the host's, read anew at every step.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import BlockRefinementScheduler, ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_block_refinement import BlockRefinementSchedulerOutput
from torch import Tensor

from prism_plugin.config import from_mapping
from prism_plugin.errors import ConfigError, unknown
from prism_plugin.models.denoiser import Denoiser, Output, View
from prism_plugin.quality.head import load_head
from prism_plugin.sampling import methods as rules
from prism_plugin.sampling.config import PARTS, SHARED, SamplerConfig, option_names, resolve
from prism_plugin.sampling.parts import Forward, scores
from prism_plugin.sampling.state import State

from .adapter import LLaDA2Denoiser

log = logging.getLogger(__name__)

HOSTS_OWN = {"steps": "num_inference_steps", "temperature": "temperature", "top_p": "top_p", "top_k": "top_k"}
SETTINGS = [name for name in (*PARTS, *SHARED, *sorted(option_names())) if name != "block_length" and "." not in name]


def _takes_settings(init: Callable[..., None]) -> Callable[..., None]:
    """Show every setting of ``SamplerConfig`` in the signature, which is what diffusers saves and loads by."""
    named = [p for p in inspect.signature(init).parameters.values() if p.kind is not p.VAR_KEYWORD]
    more = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in SETTINGS]
    init.__signature__ = inspect.Signature([*named, *more])  # type: ignore[attr-defined]
    return init


class PrismScheduler(SchedulerMixin, ConfigMixin):
    """``sampler`` (a preset) and any field of ``SamplerConfig`` (num_remask=2, order="random", seed=1, …).

    head: folder of a trained head. block_length, num_inference_steps: as in the host's schedulers, for a pipeline call
    that does not say. temperature, top_p, top_k and the number of steps are arguments of the pipeline call.

    Raises ConfigError for a name or number that is not known, and for settings that clash, naming both.
    """

    order = 1

    @register_to_config
    @_takes_settings
    def __init__(
        self,
        block_length: int = 32,
        num_inference_steps: int = 32,
        sampler: str = "prism",
        head: str | Path | None = None,
        **settings: Any,
    ) -> None:
        given = {name: value for name, value in settings.items() if value is not None}
        for name, hosts in HOSTS_OWN.items():
            if name in given:
                raise ConfigError(
                    f"{name} = {given[name]} of PrismScheduler clashes with {hosts} of the pipeline call: "
                    f"give it there, pipe(…, {hosts}={given[name]})."
                )
        chosen = from_mapping({**given, "name": sampler}, SamplerConfig, "sampler.")
        if head is None and "head" in scores[resolve(chosen).score].needs:
            log.warning(
                "sampler = %s without a head: doubtful tokens are found by self-likelihood instead of learned quality.",
                sampler,
            )
            chosen = replace(chosen, score="self_likelihood")
        self._chosen, self._resolved, self._head = chosen, resolve(chosen), head
        rules.check(self._resolved, has_head=head is not None, gives=LLaDA2Denoiser.gives)
        self._denoiser: Denoiser = Denoiser()  # stands for a model of which only logits are seen
        self.set_timesteps(num_inference_steps)

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """``ConfigMixin.from_config``; a setting that is not known raises ConfigError instead of being dropped."""
        known = [*inspect.signature(cls.__init__).parameters][1:]
        for name in kwargs:
            if name not in known:
                raise unknown("setting", name, known)
        return super().from_config(config, return_unused_kwargs, **kwargs)

    def attach(self, pipe: Any, mask_id: int | None = None, block_length: int = 0) -> PrismScheduler:
        """Read the hidden states (for the head) and the attention mask of ``pipe.model``; loads the head. LLaDA2 and
        kin get the block-causal mask that they were trained with, of blocks of ``block_length``, the model's own if 0.

        Without it nothing tells the scheduler which positions lie past gen_length: they are written too, unseen.
        Raises CheckpointError where the head does not fit the model.
        """
        denoiser = LLaDA2Denoiser(pipe, mask_id, block_length=block_length)
        if self._head is not None:
            load_head(denoiser, self._head)
            denoiser.head.to(pipe.device)
        self._denoiser = denoiser
        return self

    def set_timesteps(
        self, num_inference_steps: int, device: str | torch.device | None = None, block_length: int | None = None
    ) -> None:
        """Start a run: forward passes a block. block_length is read off the blocks that come."""
        resolve(replace(self._chosen, steps=num_inference_steps))
        self.num_inference_steps = num_inference_steps
        self.timesteps = torch.arange(num_inference_steps - 1, -1, -1, device=device)
        self._state: State | None = None
        self._method: Generator[Forward, View, None] | None = None
        self._request: Tensor | None = None
        self._finished: Tensor | None = None
        self._blocks = 0

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        *,
        mask_token_id: int | None = None,
        temperature: float = 0.0,
        top_p: float | None = None,
        top_k: int | None = None,
        sampling_method: str = "auto",
        threshold: float | None = None,
        editing_threshold: float | None = None,
        minimal_topk: int | None = None,
        prompt_mask: Tensor | None = None,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
    ) -> BlockRefinementSchedulerOutput | tuple[Tensor, ...]:
        """One step of the method on a block: logits (B, L, V), tokens (B, L) int64.

        Every mask that stands in the block at timestep 0 is ours to write, so that ``prompt_mask``, one row for all
        texts, says nothing new. threshold is that of samplers with order=threshold, unless fill_bound is set;
        editing_threshold and minimal_topk are rules of the stock scheduler.
        generator: keys the random numbers of a run together with ``seed``; without one, ``seed`` alone does.
        """
        if int(timestep) == 0 or self._state is None:
            if sampling_method == "greedy":
                temperature = 0.0
            drawn = self._draws(temperature, top_p, top_k, threshold)
            self._start(model_output, sample, mask_token_id, drawn, generator)
        state = self._state
        assert state is not None
        state.tokens = sample.clone()  # rows that ended are frozen by the host, and a callback may write
        if self._finished is not None:
            state.editable = state.editable & ~self._finished[:, None]
        if self._method is not None:
            self._send(View(self._denoiser, self._output(model_output), tokens=sample))
        masked = sample == state.mask_id
        changed = state.tokens != sample
        shown: dict[str, Any] = {
            "prev_sample": state.tokens,
            "transfer_index": changed & masked,
            "editing_transfer_index": changed & ~masked,
            "sampled_tokens": state.tokens,  # where a token was remasked: the mask, which is no end of text
            "sampled_probs": state.written,
            "pred_logits": model_output,
        }
        out = BlockRefinementSchedulerOutput(**shown)
        return out if return_dict else out.to_tuple()

    def _start(
        self,
        logits: Tensor,
        sample: Tensor,
        mask_id: int | None,
        drawn: dict[str, Any],
        generator: torch.Generator | None,
    ) -> None:
        """A fresh state and method for a block."""
        mask_id = self._checked(logits, mask_id)
        if self._request is None:
            self._request = torch.arange(len(sample))
            if generator is not None:
                self._request = torch.randint(2**62, (len(sample),), generator=generator, device=generator.device)
            self._request = self._request.to(sample.device)
        config: Any = resolve(replace(self._chosen, steps=self.num_inference_steps, block_length=0, **drawn))
        editable = sample.eq(mask_id)
        if isinstance(self._denoiser, LLaDA2Denoiser):
            editable = editable & self._denoiser.take("attended")[:, -sample.shape[1] :].bool()
        self._state = State(
            sample.clone(), editable, mask_id, config, self._request,
            suppress=torch.tensor([mask_id], device=sample.device), vocab_size=logits.shape[-1],
        )  # fmt: skip
        self._state.step += self._blocks * self.num_inference_steps  # no two steps of a run share random numbers
        self._blocks += 1
        self._method = self._state.parts.method(self._state)
        self._send(None)

    def _draws(
        self, temperature: float, top_p: float | None, top_k: int | None, threshold: float | None
    ) -> dict[str, Any]:
        """What the pipeline call says of how tokens are drawn, in our words."""
        said: dict[str, Any] = {"temperature": temperature}
        if temperature == 0:  # as the host: the likeliest token, with its probability under the whole distribution
            said |= {"top_p": 1.0, "top_k": 0}
        else:
            said |= {} if top_k is None else {"top_k": top_k}
            said |= {} if top_p is None else {"top_p": top_p, "top_p_rule": "inclusive"}
        if self._resolved.order == "threshold" and threshold is not None and self.config["fill_bound"] is None:
            said["fill_bound"] = threshold
        return said

    def _send(self, view: View | None) -> None:
        """Let the method take its step, up to the next forward that it asks for."""
        assert self._method is not None
        try:
            self._method.send(view)  # type: ignore[arg-type]
        except StopIteration:
            self._method = None

    def _output(self, logits: Tensor) -> Output:
        """The host's forward as the core knows it."""
        if not isinstance(self._denoiser, LLaDA2Denoiser):
            return Output(logits[..., :0], None, logits)
        return Output(self._denoiser.take("hidden")[:, -logits.shape[1] :].float(), None, logits)

    def _checked(self, logits: Tensor, mask_id: int | None) -> int:
        """The mask id, where this scheduler can work with it and with the pipeline that it is attached to."""
        if mask_id is None:
            raise ConfigError(
                f"sampler = {self._chosen.name} writes masks, and mask_token_id = None asks for the uniform noise of "
                "DiffusionGemma: use the stock scheduler there."
            )
        if not 0 <= mask_id < logits.shape[-1]:
            raise ConfigError(
                f"mask_token_id = {mask_id} is outside the vocabulary: allowed 0 to {logits.shape[-1] - 1}."
            )
        if not isinstance(self._denoiser, LLaDA2Denoiser):
            if self._head is not None:
                raise ConfigError(
                    f"head = {self._head} reads hidden states and the scheduler is attached to no pipeline: "
                    "call pipe.scheduler.attach(pipe) once (after from_pretrained too)."
                )
        elif self._denoiser.mask_id != mask_id:
            raise ConfigError(
                f"mask_token_id = {mask_id} clashes with mask_id = {self._denoiser.mask_id}, for which the scheduler "
                "was attached: attach(pipe, mask_id=…)."
            )
        return mask_id

    def check_block_should_continue(
        self, step_idx: int, masks_remaining: bool | Tensor, editing_enabled: bool, editing_transfer_index: Tensor,
        post_steps: int, max_post_steps: int, finished: Tensor,
    ) -> bool:  # fmt: skip
        """Until the method has ended: masks may come back, and a text may be revised with none left."""
        return self._method is not None and not bool(finished.all())

    def check_eos_finished(
        self, cur_x: Tensor, sampled_tokens: Tensor, final_transfer: Tensor, finished: Tensor, eos_token_id: int,
        mask_token_id: int, prompt_length: int,
    ) -> Tensor:  # fmt: skip
        """Rows that ended, by the host's rule, on the answer alone: an EOS in the prompt or its padding ends nothing.

        A method that revises may doubt an EOS: it judges the text when the block has had its steps.
        """
        if self._revises:
            if self._method is not None:
                return finished
            sampled_tokens = cur_x[:, -sampled_tokens.shape[1] :]
            final_transfer = torch.ones_like(final_transfer)
        self._finished = BlockRefinementScheduler.check_eos_finished(
            cur_x[:, prompt_length:], sampled_tokens, final_transfer, finished, eos_token_id, mask_token_id, 0
        )
        return self._finished

    add_noise = BlockRefinementScheduler.add_noise

    @property
    def _revises(self) -> bool:
        return self._resolved.score != "none"
