"""The base of every algorithm, with the loops that the runtime runs: block by block, or a step of every request."""

from typing import Any


class DllmAlgorithm:
    """What an algorithm may override, and ``run``. dense: whether ``step`` is given the logits alone."""

    dense = True

    def __init__(self, config: Any) -> None:
        self.block_size, self.mask_id = config.block_size, config.mask_id
        self.fdfo = config.first_done_first_out_mode

    def init_step_state(self, forward_batch: Any) -> list[Any]:
        return [None for _ in range(forward_batch.batch_size)]

    @classmethod
    def validate_request(cls, req: Any) -> str | None:
        return None

    def prepare_inputs(self, model_runner: Any, forward_batch: Any, states: list[Any]) -> None:
        pass

    def max_steps(self, block_size: int) -> int:
        return block_size + 1

    def step(self, forward_batch: Any, logits_output: Any, states: list[Any]) -> list[bool]:
        raise NotImplementedError

    def run(self, model_runner: Any, forward_batch: Any, algo_states: list[Any] | None = None) -> tuple[Any, ...]:
        """(output, ids, lengths accepted, states that go on, graph), as the runtime reads them."""
        ids = forward_batch.input_ids.view(forward_batch.batch_size, self.block_size)
        first = (ids != self.mask_id).sum(dim=1).tolist()
        if not self.fdfo:
            return self._whole_block(model_runner, forward_batch, first)
        states = list(algo_states or [None] * forward_batch.batch_size)
        if None in states:
            fresh = self.init_step_state(forward_batch)
            states = [new if old is None else old for old, new in zip(states, fresh, strict=True)]
        out = self._forward(model_runner, forward_batch, states)
        done = self._step(forward_batch, out, states)
        ids = forward_batch.input_ids.view_as(ids).tolist()
        kept = [None if over else state for over, state in zip(done, states, strict=True)]
        return out.logits_output, ids, [self.block_size * over for over in done], kept, out.can_run_graph

    def _whole_block(self, model_runner: Any, forward_batch: Any, first: list[int]) -> tuple[Any, ...]:
        states = self.init_step_state(forward_batch)
        out = self._forward(model_runner, forward_batch, states)
        if min(first) == self.block_size:
            return out.logits_output, [], None, None, out.can_run_graph
        for _ in range(self.max_steps(self.block_size)):
            if all(self._step(forward_batch, out, states)):
                break
            out = self._forward(model_runner, forward_batch, states)
        ids = forward_batch.input_ids.view(-1, self.block_size)
        return out.logits_output, [row[n:] for row, n in zip(ids, first, strict=True)], None, None, out.can_run_graph

    def _forward(self, model_runner: Any, forward_batch: Any, states: list[Any]) -> Any:
        self.prepare_inputs(model_runner, forward_batch, states)
        return model_runner.forward(forward_batch, pp_proxy_tensors=None)

    def _step(self, forward_batch: Any, out: Any, states: list[Any]) -> list[bool]:
        return self.step(forward_batch, out.logits_output.full_logits if self.dense else out.logits_output, states)
