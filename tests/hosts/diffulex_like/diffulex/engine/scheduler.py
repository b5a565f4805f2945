"""A stand-in of what Diffulex's scheduler does with what a sampler gives back."""

from typing import Any


class SchedulerBase:
    """Writes tokens, and commits blocks that are final."""

    def postprocess(self, reqs: Any, output: Any) -> None:
        """After a pass."""
        for req in reqs:
            name = str(req.req_id)
            for number, writes in output.block_writes_map[name].items():
                for place, token in writes.items():
                    req.dllm_blocks[int(number)].write_token(token, place)
            for block in req.dllm_blocks:
                if block.is_active:
                    block.commit_ready = output.block_state_map[name][str(block.block_id)]["committable"]
            req.postprocess()
