"""The algorithm ``Prism`` of SGLang's diffusion runtime: our methods, of which the host runs every forward pass.

The contract is that of ``DllmAlgorithm`` (0.5.23, srt/dllm/algorithm/base.py): ids are edited in place in
``forward_batch.input_ids``, a block may emit once a forward has gone over its final tokens, and only the block that is
being written may change. Requests come and go between steps; each carries its ``Place``.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar
from weakref import WeakValueDictionary

import torch
from sglang.srt.dllm.algorithm.base import DllmAlgorithm
from torch import Tensor

from prism_plugin.config import from_mapping
from prism_plugin.errors import ConfigError
from prism_plugin.models.denoiser import View
from prism_plugin.sampling.config import SamplerConfig

from ..blocks import BlockState, Place, Seen, Step, key, settings, together

if not hasattr(DllmAlgorithm, "step"):
    raise ConfigError("this SGLang has no DllmAlgorithm.step, which Prism is built on: install a newer one.")

NEUTRAL = {
    "frequency_penalty": 0.0, "presence_penalty": 0.0, "repetition_penalty": 1.0, "min_p": 0.0, "min_new_tokens": 0,
    "logit_bias": None, "sampling_seed": None, "json_schema": None, "regex": None, "ebnf": None, "structural_tag": None,
}  # fmt: skip
"""Settings of a request that are not read, and what they are where nobody has set them."""


@dataclass
class PrismConfig:
    """The YAML file of --dllm-algorithm-config.

    head: folder of a trained head. report: whether a request comes back with the step, the revisions and the quality
    of every token. block_size is the host's own key.
    """

    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    head: str = ""
    report: bool = False
    block_size: int = 0


class Prism(DllmAlgorithm):
    """Raises ConfigError for settings that are unknown or cannot run here, CheckpointError for a head that does not
    fit."""

    requests: ClassVar[WeakValueDictionary[str, Any]] = WeakValueDictionary()  # by rid, for what comes back with them

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        given = from_mapping(config.algorithm_config or {}, PrismConfig)
        self.report = given.report
        self.sampler = settings(given.sampler, self.block_size, bool(given.head))
        self.model = Seen(self.mask_id, given.head)
        if not hasattr(DllmAlgorithm, "prepare_inputs"):
            first = self.sampler.refill == "fresh" or self.sampler.method == "revise_then_loop"
            asked = f"sampler = {self.sampler.name} remasks" if first else "head looks at the model"
            if first or given.head:
                raise ConfigError(
                    f"{asked} before the forward pass, and this SGLang has no DllmAlgorithm.prepare_inputs: install a "
                    "newer one."
                )
        if self.report and not hasattr(DllmAlgorithm, "validate_request"):
            raise ConfigError("report = true: this SGLang has no place for it (DllmAlgorithm.validate_request).")
        self._begun: Step | None = None
        self._hidden: Tensor | None = None
        self._hooked = False

    @classmethod
    def validate_request(cls, req: Any) -> str | None:
        """Refuse what a request asks for and the sampler does not read, by name."""
        given = {name: getattr(req.sampling_params, name, None) for name in NEUTRAL}
        asked = [name for name, value in given.items() if value not in (None, {}, NEUTRAL[name])]
        asked += [name for name in ("return_logprob", "custom_logit_processor") if getattr(req, name, None)]
        if asked:
            return (
                f"Prism does not support {', '.join(asked)} of a request: how tokens are drawn is set by "
                "--dllm-algorithm-config, and its seed and the request's rid make the random numbers."
            )
        cls.requests[req.rid] = req
        return None

    def max_steps(self, block_size: int) -> int:
        """The steps of a block, and the pass that goes over its final tokens."""
        return self.sampler.steps + 1

    def init_step_state(self, forward_batch: Any) -> list[Place]:
        """Blocks as they come, one a request; what is a mask and not the prompt's is ours to write."""
        tokens = self._tokens(forward_batch)
        editable = tokens == self.mask_id
        prompt = getattr(forward_batch, "dllm_prompt_mask", None)
        if prompt is not None:
            editable = editable & ~prompt
        request = torch.tensor([key(rid) for rid in forward_batch.rids], device=tokens.device)
        never = torch.tensor([self.mask_id], device=tokens.device)
        state = BlockState(tokens, editable, self.mask_id, self.sampler, request, suppress=never)
        state.place = forward_batch.positions.view_as(tokens).long()  # no two blocks share random numbers
        return [Place(state, row) for row in range(len(tokens))]

    def prepare_inputs(self, model_runner: Any, forward_batch: Any, states: list[Place]) -> None:
        """What the method does before the forward pass, on the texts of this batch."""
        if self.model.head is not None and not self._hooked:
            self._hook(model_runner.model)
        self._begin(forward_batch, states)

    def step(self, forward_batch: Any, logits_output: Any, states: list[Place]) -> list[bool]:
        """What it does after. logits_output: (B * L, V), or an object with ``full_logits``."""
        if self._begun is None:  # a version without prepare_inputs
            self._begin(forward_batch, states)
        assert self._begun is not None
        step, self._begun = self._begun, None
        state = step.state
        shape = (*state.tokens.shape, -1)
        hidden = getattr(logits_output, "hidden_states", None)
        if hidden is None:
            hidden, self._hidden = self._hidden, None
        if self.model.head is not None and hidden is None:
            raise ConfigError(
                "a head reads hidden states, and this forward pass showed none: a CUDA graph runs no hooks, start the "
                "server with --disable-cuda-graph."
            )
        logits = getattr(logits_output, "full_logits", logits_output).view(shape)
        view = self.model.view(logits, None if hidden is None else hidden.view(shape))
        done = step.finish(view)
        forward_batch.input_ids.copy_(state.tokens.flatten())
        if self.report:
            self._report(forward_batch.rids, states, view, done)
        return done.tolist()

    def _begin(self, forward_batch: Any, states: list[Place]) -> None:
        """Bring the blocks of this batch together, unless they still are, and begin a step."""
        state = together(states)
        state.tokens = self._tokens(forward_batch)  # the text is the host's
        self._begun = Step(state)
        forward_batch.input_ids.copy_(state.tokens.flatten())

    def _tokens(self, forward_batch: Any) -> Tensor:
        """(B, L) int64, a copy."""
        return forward_batch.input_ids.view(forward_batch.batch_size, self.block_size).long().clone()

    def _hook(self, model: Any) -> None:
        """Keep what enters the model's logits processor, the states after the final norm, at every pass."""
        if not hasattr(model, "logits_processor"):
            raise ConfigError(f"a head reads hidden states: {type(model).__name__} has no logits_processor to hook.")

        def keep(module: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            self._hidden = named["hidden_states"] if "hidden_states" in named else given[1]

        model.logits_processor.register_forward_pre_hook(keep, with_kwargs=True)
        self._hooked = True

    def _report(self, rids: list[str], states: list[Place], view: View, done: Tensor) -> None:
        """Leave with each request whose block is done what became of its tokens; this pass went over the final ones."""
        ended = [row for row, place in enumerate(states) if bool(done[row]) and not place.reported]
        if not ended:
            return
        state = states[0].state
        learned = self.model.head is not None
        tables = {
            "prism_step": state.written_at,
            "prism_revisions": state.remasks,
            "prism_quality": view.quality if learned else view.probability(state.tokens, state.editable),
        }
        for row in ended:
            states[row].reported = True
            req = self.requests.get(rids[row])
            if req is None or not bool(state.editable[row].any()):
                continue
            req.customized_info = req.customized_info or {}
            for name, table in tables.items():
                req.customized_info.setdefault(name, []).extend(table[row][state.editable[row]].tolist())
