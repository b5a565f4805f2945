"""A decoder for dInfer's loops: ``decode(logits, block_start, block_end, x)`` after every pass, one step of a sampler.

from prism_plugin.integrations.dinfer import PrismDecoder

decoder = PrismDecoder("prism-llada", head="heads/llada", steps=32, num_remask=1).watch(model.lm_head)
BlockWiseDiffusionLLM(model, decoder, BlockIteratorFactory(), early_stop=True).generate(prompt, 256, 32)
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from dinfer.decoding.parallel_strategy import ParallelDecoder
from torch import Tensor, nn

from prism_plugin.config import from_mapping
from prism_plugin.errors import ConfigError
from prism_plugin.sampling.config import SamplerConfig

from ..blocks import BlockState, Seen, Step, key, settings


class PrismDecoder(ParallelDecoder):
    """A preset and any setting of ``SamplerConfig``; ``steps`` are those of a block, one a token where none are given.

    The engine asks while a block has masks: a sampler that only corrects from then on is not asked again. Random
    numbers are keyed by ``seed``, by what stands before a block, and by how many rows above have the same there: a text
    does not depend on other texts beside it, and equal prompts get texts of their own.
    head: folder of a trained head; it reads what enters the output layer that ``watch`` is given.
    Raises ConfigError, by name, for a sampler that cannot run so.
    """

    _step: Step  # the one whose pass comes next

    def __init__(
        self, sampler: str = "threshold", head: str = "", temperature: float = 0.0, mask_id: int = 126336,
        eos_id: int = 126081, **given: Any,
    ) -> None:  # fmt: skip
        super().__init__(temperature, mask_id=mask_id)
        self.eos_id, self.seen = eos_id, Seen(mask_id, head)
        chosen = {"confidence_of": "untempered", **given, "name": sampler, "temperature": temperature}
        self.config = from_mapping(chosen, SamplerConfig, "sampler.")
        settings(self.config, self.config.steps or 32, bool(head))
        self.state: BlockState | None = None
        self._hidden: Tensor | None = None

    def watch(self, layer: nn.Module) -> PrismDecoder:
        """Keep what enters the model's output layer in every pass, for a head."""
        layer.register_forward_pre_hook(lambda module, given: setattr(self, "_hidden", given[0]))
        return self

    def block_init(self, block_x: Tensor, block_id: int) -> None:
        """A block begins."""
        self.state = None

    def decode(
        self, logits: Tensor, block_start: int, block_end: int, x: Any, iter_threshold: float | None = None
    ) -> None:
        """A step: logits (B, W, V) of the block's W columns; x is a TokenArray or a tensor (B, L), written in place."""
        if iter_threshold is not None:
            raise ConfigError("iter_threshold: a threshold that changes with the pass is no setting of ours; use a "
                              "loop that does not smooth (BlockWiseDiffusionLLM).")  # fmt: skip
        tokens = x[:, block_start:block_end]
        state = self.state
        if state is None or not bool(state.active.any()):
            if not bool((tokens == self.mask_id).any()):
                return  # a pass that the engine had unrolled
            state = self._begin(tokens, x[:, :block_start], block_start)
        self._step.finish(self.seen.view(logits, self._states(block_start, block_end, x[:, :].shape[1])))
        if bool(state.active.any()):
            self._step = Step(state)  # what comes before the next pass
        x[:, block_start:block_end] = state.tokens

    def _begin(self, tokens: Tensor, before: Tensor, start: int) -> BlockState:
        config = settings(self.config, tokens.shape[1], self.seen.head is not None)
        seen: Counter[str] = Counter()
        numbers = []
        for row in map(repr, before.tolist()):
            numbers.append(key(f"{row} {seen[row]}"))
            seen[row] += 1
        request, never = (torch.tensor(ids, device=tokens.device) for ids in (numbers, [self.mask_id]))
        masked = tokens == self.mask_id
        self.state = state = BlockState(tokens.clone(), masked, self.mask_id, config, request, suppress=never)
        state.place = state.place + start  # no two blocks share random numbers
        self._step = Step(state)
        return state

    def _states(self, start: int, stop: int, length: int) -> Tensor | None:
        """The block's of the states that the last pass had: of all columns, of those from the block on, or of it."""
        if self.seen.head is None or self._hidden is None:
            return None
        first = {length: start, length - start: 0, stop - start: 0}.get(self._hidden.shape[1])
        if first is None:
            raise ConfigError(f"the pass showed states of {self._hidden.shape[1]} columns for a text of {length}.")
        return self._hidden[:, first : first + stop - start]
