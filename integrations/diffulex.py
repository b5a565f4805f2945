"""A sampler for Diffulex (SJTU-DENG-Lab/Diffulex at 184ba97): ``register`` puts it in the place of a model's own.

Its contract is one call a pass, ``sampler(reqs, logits, temperatures)``: what a block's tokens become, the mask
included, goes into ``block_writes_map``, and whether it is final into ``block_state_map``. Requests and blocks are at
hand, so that every block has a state of its own from pass to pass.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from diffulex.sampler.auto_sampler import AutoSampler
from diffulex.sampler.base import DllmSamplerNoShiftBase
from torch import Tensor

from prism_plugin.config import from_mapping
from prism_plugin.errors import ConfigError
from prism_plugin.sampling.config import SamplerConfig

from .blocks import BlockState, Place, Seen, Step, after_only, key, settings, together

MODELS = ("llada", "llada2", "llada2_mini", "llada2_moe", "sdar", "sdar_moe")
"""Models of Diffulex whose logits of a position are those of its own token."""


def register(model_name: str, sampler: str = "prism", head: str = "", **given: Any) -> None:
    """Have engines that are made from now on sample ``model_name`` by a preset; given: settings of ``SamplerConfig``.

    head: folder of a trained head. ConfigError for a setting that is not known, and for a model whose logits stand one
    place to the right; what cannot run with an engine's settings is refused when that is made.
    """
    if model_name not in MODELS:
        raise ConfigError(f"model_name = {model_name!r}: ours are for {', '.join(MODELS)}.")
    chosen = from_mapping({**given, "name": sampler}, SamplerConfig, "sampler.")

    def make(config: Any) -> PrismSampler:
        return PrismSampler(config, chosen, head)

    AutoSampler.register(model_name, make, use_full_config=True, exist_ok=True)


class PrismSampler(DllmSamplerNoShiftBase):
    """One of our samplers, in blocks of the engine's ``block_size``; the temperature of a request is not read.

    Raises ConfigError, by name, for a sampler that cannot run so.
    """

    def __init__(self, config: Any, sampler: SamplerConfig, head: str = "") -> None:
        super().__init__()
        self.sampler = settings(sampler, config.block_size, bool(head))
        after_only(self.sampler)
        if head and not config.enforce_eager:
            raise ConfigError(f"head = {head}: a CUDA graph shows no hidden states, pass enforce_eager=True.")
        self.model = Seen(config.mask_token_id, head)
        self.places: dict[tuple[str, int], Place] = {}
        self._hidden: Tensor | None = None

    def bind_model(self, model: Any) -> None:
        """Called by the engine with its model: keep what enters the output layer, where a head reads it."""
        if self.model.head is None:
            return
        compute = model.compute_logits

        def seen(hidden: Tensor) -> Any:
            self._hidden = hidden
            return compute(hidden)

        model.compute_logits = seen

    def evict_req_states(self, req_ids: Sequence[Any]) -> None:
        """Called by the engine when requests have ended: forget their blocks."""
        ended = {str(one) for one in req_ids}
        self.places = {where: place for where, place in self.places.items() if where[0] not in ended}

    def forward(self, reqs: Sequence[Any], logits: Tensor, temperatures: Any = None, **unused: Any) -> Any:
        """One step of every block that this pass went over: logits (N, V), of all requests one after another."""
        metadata = self.fetch_attn_metadata()
        hidden, self._hidden = self._hidden, None
        if self.model.head is not None and (hidden is None or len(hidden) != len(logits)):
            raise ConfigError("a head reads hidden states, and this forward pass showed none.")
        kept = self._split_logits_per_req(metadata, reqs, logits if hidden is None else hidden)
        writes: dict[str, Any] = {str(req.req_id): {} for req in reqs}
        told: dict[str, Any] = {name: {} for name in writes}
        found, tables, states = [], [], []
        for row, (req, rows) in enumerate(zip(reqs, self._split_logits_per_req(metadata, reqs, logits), strict=True)):
            for number, block, part in self._active(req, metadata.is_prefill[row]):
                told[str(req.req_id)][str(number)] = {"committable": False}
                if part.start >= 0 and part.stop <= len(rows):  # else a pass without it: it waits
                    found.append((req, number, block))
                    tables.append(rows[part])
                    states.append(kept[row][part])
        if found:
            self._step(found, torch.stack(tables), None if hidden is None else torch.stack(states), writes, told)
        none: list[dict[str, Any]] = [{name: {} for name in writes} for _ in range(3)]
        return self.output_cls(*none, block_writes_map=writes, block_state_map=told)

    @staticmethod
    def _active(req: Any, prefill: bool) -> Iterator[tuple[int, Any, slice]]:
        """Blocks that are being written, with their numbers and where they stand in the request's rows of a pass."""
        first = req.contiguous_in_cache_prefix_len if prefill else req.dllm_block_buffer.first_running_block.start
        for number, block in enumerate(req.dllm_blocks):
            if block.is_active:
                yield number, block, slice(block.start - first, block.end - first)

    def _step(
        self, found: Sequence[tuple[Any, int, Any]], logits: Tensor, hidden: Tensor | None, writes: Any, told: Any
    ) -> None:
        """One step of blocks, logits (B, L, V), hidden (B, L, D): what they become, and which are final."""
        tokens = torch.tensor([block.token_ids for _, _, block in found], device=logits.device)
        places = [self._place(*one, row, logits.shape[-1]) for one, row in zip(found, tokens, strict=True)]
        state = together(places)
        state.tokens = tokens.clone()
        step = Step(state)
        step.finish(self.model.view(logits, hidden))
        for row, (req, number, _) in enumerate(found):
            changed = (state.tokens[row] != tokens[row]).nonzero()[:, 0].tolist()
            writes[str(req.req_id)][str(number)] = {place: int(state.tokens[row, place]) for place in changed}
            told[str(req.req_id)][str(number)] = {
                "committable": not bool(state.active[row]),  # the engine goes over a final block once more by itself
                "same_as_previous": not changed,
                "same_token_ratio": 1 - len(changed) / tokens.shape[1],
                "all_confident": False,
            }

    def _place(self, req: Any, number: int, block: Any, tokens: Tensor, symbols: int) -> Place:
        """The state of a block, begun where it is new: what is a mask and not the prompt's is ours to write."""
        where = (str(req.req_id), number)
        if where not in self.places:
            known = self.tokenizer_vocab_size or symbols
            never = torch.cat([torch.arange(known, symbols), torch.tensor([self.model.mask_id])]).to(tokens.device)
            editable = tokens == self.model.mask_id
            editable[: block.editable_start] = False
            request = torch.tensor([key(where[0])], device=tokens.device)
            state = BlockState(tokens[None].clone(), editable[None], self.model.mask_id, self.sampler, request,
                               suppress=never)  # fmt: skip
            state.place = torch.arange(block.start, block.end, device=tokens.device)[None]
            self.places[where] = Place(state, 0)
        return self.places[where]
