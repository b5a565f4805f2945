"""dLLM (ZHZisZZ/dllm): a sampler in the library's own hierarchy, its models, its evaluation. See README.md.

The sampler is imported when it is asked for: it is built on the library's classes, the adapter is not.
"""

from typing import Any

__all__ = ["PrismSampler", "PrismSamplerConfig"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(name)
    from . import sampler

    return getattr(sampler, name)
