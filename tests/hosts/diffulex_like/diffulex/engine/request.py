"""A stand-in of a request of Diffulex, with one block in work."""

from types import SimpleNamespace
from typing import Any


class Block:
    """A block: active, then to be cached by one pass more, then in the cache."""

    def __init__(self, req: Any, number: int) -> None:
        self.req, self.block_id, self.start = req, number, number * req.block_size
        self.end, self.commit_ready = self.start + req.block_size, False
        self.editable_start = max(0, req.prefix_len - self.start)
        self.status = "cache" if self.editable_start >= req.block_size else "active"

    @property
    def token_ids(self) -> list[int]:
        return self.req.token_ids[self.start : self.end]

    @property
    def is_active(self) -> bool:
        return self.status == "active"

    def write_token(self, token: int, place: int) -> None:
        """As the name says; ValueError for a token of the prompt."""
        if place < self.editable_start:
            raise ValueError(place)
        self.req.token_ids[self.start + place] = token


class DllmReq:
    """A request for ``max_tokens`` more."""

    def __init__(self, token_ids: list[int], params: Any) -> None:
        self.token_ids, self.prefix_len, self.params = list(token_ids), len(token_ids), params
        self.is_prefilling = self.is_completed = False
        self.passes = 0

    def init_multi_block(self, config: Any) -> None:
        """Lay the first block out."""
        self.block_size, self.mask_token_id = config.block_size, config.mask_token_id
        self.dllm_blocks: list[Block] = []
        while not self.dllm_blocks or not self.dllm_blocks[-1].is_active:
            self._extend()

    def _extend(self) -> None:
        short = (len(self.dllm_blocks) + 1) * self.block_size - len(self.token_ids)
        self.token_ids += [self.mask_token_id] * max(0, short)
        self.dllm_blocks.append(Block(self, len(self.dllm_blocks)))

    def make_pending(self) -> None:
        """Nothing here."""

    def step(self) -> None:
        """Ahead of a pass: the first goes over the prompt."""
        self.is_prefilling = self.passes == 0
        self.passes += 1
        self.contiguous_in_cache_prefix_len = 0
        self.dllm_block_buffer = SimpleNamespace(first_running_block=self.dllm_blocks[-1])
        self.running_position_ids = range(0 if self.is_prefilling else self.dllm_blocks[-1].start, len(self.token_ids))

    def postprocess(self) -> None:
        """After it: a final block is left, and the next begun."""
        last = self.dllm_blocks[-1]
        if last.commit_ready and last.is_active:
            last.status = "cache"
            self.is_completed = len(self.token_ids) - self.prefix_len >= self.params.max_tokens
            if not self.is_completed:
                self._extend()
