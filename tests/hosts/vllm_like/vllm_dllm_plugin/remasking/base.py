"""A stand-in of the contract of vLLM's diffusion plugin: what a step gives back."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RemaskStepResult:
    """Tokens that are final, none or a block, and the block that the next pass goes over."""

    committed_token_ids: tuple[int, ...]
    next_input_block: tuple[int, ...]
