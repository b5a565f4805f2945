"""A remasking policy for vLLM's plugin of diffusion language models (vllm-project/dllm-plugin at 0c53db5).

Its contract is one call a step, ``apply(*, input_draft, logits, remasking_config)``, without hidden states, without a
place for a state: what a sampler remembers from step to step it cannot have here, and is refused.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from prism_plugin.config import from_mapping
from prism_plugin.errors import ConfigError
from prism_plugin.sampling.config import SamplerConfig
from prism_plugin.sampling.parts import scores

from .blocks import BlockState, Seen, Step, after_only, key, settings

REMEMBERS = {
    "score": ("written", "evidence", "drop"),
    "guard": ("repeat", "fewer_than_last", "converged"),
    "end": ("confident",),
}
"""Parts that read what earlier steps have left in the state."""


class PrismRemaskingPolicy:
    """``PrismRemaskingPolicy("prism", steps=16, num_remask=2)``: a preset and any setting of ``SamplerConfig``.

    Raises ConfigError for a sampler that cannot run so, by name.
    """

    def __init__(self, sampler: str = "prism", **given: Any) -> None:
        from vllm_dllm_plugin.config import DRAFT_SIZE

        chosen = from_mapping({**given, "name": sampler}, SamplerConfig, "sampler.")
        self.config = config = settings(chosen, DRAFT_SIZE)
        asked = [f"sampler.{kind} = {getattr(config, kind)}" for kind, names in REMEMBERS.items()
                 if set(getattr(config, kind).split("+")) & set(names)]  # fmt: skip
        asked += [f"sampler.score = {config.score}"] * (scores[config.score].watches is not None)
        asked += [f"sampler.{name}" for name in ("max_remasks", "cooldown", "lock_after") if getattr(config, name)]
        if asked:
            raise ConfigError(f"sampler = {sampler} cannot run here: {asked[0]} remembers steps, apply() has no state.")
        after_only(config)

    def apply(
        self,
        *,
        input_draft: Sequence[int],
        logits: Any | None = None,
        remasking_config: Mapping[str, Any] | None = None,
    ) -> Any:
        """One step: draft (L,) and logits (L, V) to ``RemaskStepResult``; a block is committed when its steps are over.

        remasking_config: ``mask_token_id`` and ``denoise_step_index`` as the plugin's own policy has them, and
        ``request``, a string that no other block of any request has: it keys the random numbers.
        """
        from vllm_dllm_plugin.remasking.base import RemaskStepResult

        given = remasking_config or {}
        for name in ("mask_token_id", "denoise_step_index", "request"):
            if name not in given:
                raise ConfigError(f"remasking_config has no {name!r}, which apply() cannot know by itself: pass it.")
        if logits is None:
            raise ConfigError("logits = None: a step needs those of the block, (L, V).")
        table = torch.as_tensor(logits)[None]
        tokens = torch.tensor([list(input_draft)], device=table.device)
        mask_id, index = int(given["mask_token_id"]), int(given["denoise_step_index"])
        request, never = (torch.tensor([n], device=table.device) for n in (key(str(given["request"])), mask_id))
        state = BlockState(tokens, torch.ones_like(tokens, dtype=torch.bool), mask_id, self.config, request,
                           suppress=never)  # fmt: skip
        over = min(index, self.config.steps - 1)
        state.step, state.block_step = state.step + over, state.block_step + over
        state = BlockState.gathered([(state, 0)])  # type: ignore[assignment]  # the host learns where it stands
        step = Step(state)
        step.finish(Seen(mask_id).view(table))
        written = tuple(state.tokens[0].tolist())
        if bool(state.active[0]):
            return RemaskStepResult((), written)
        return RemaskStepResult(written, (mask_id,) * len(written))
