"""The settings that the runtime hands an algorithm."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class DllmConfig:
    """As in SGLang, as far as an algorithm reads it."""

    algorithm: str
    algorithm_config: dict[str, Any] = field(default_factory=dict)
    block_size: int = 32
    mask_id: int = 0
    max_running_requests: int = 1
    first_done_first_out_mode: bool = True
