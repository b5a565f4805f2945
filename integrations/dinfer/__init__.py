"""dInfer (inclusionAI/dInfer): our samplers as a decoder of its engine. See README.md.

The decoder is imported when it is asked for: it is built on the engine's base class.
"""

from typing import Any

__all__ = ["PrismDecoder"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(name)
    from . import decoder

    return getattr(decoder, name)
