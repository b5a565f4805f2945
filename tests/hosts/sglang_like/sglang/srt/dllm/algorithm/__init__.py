"""A stand-in of SGLang's diffusion runtime, for tests: the interface of its algorithms and the two loops over them."""

from typing import Any

algo_name_to_cls: dict[str, type] = {}


def get_algorithm(config: Any) -> Any:
    """The algorithm that a configuration names."""
    return algo_name_to_cls[config.algorithm](config)
