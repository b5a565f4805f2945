"""diffusers' ``LLaDA2Pipeline``: our samplers behind its own idiom, another scheduler. See README.md.

Imports nothing of diffusers before ``PrismScheduler`` is asked for, so that the list of hosts loads without it.
"""

from typing import TYPE_CHECKING, Any

from .adapter import LLaDA2Denoiser

if TYPE_CHECKING:
    from .scheduler import PrismScheduler

__all__ = ["LLaDA2Denoiser", "PrismScheduler"]


def __getattr__(name: str) -> Any:
    if name == "PrismScheduler":
        from .scheduler import PrismScheduler

        return PrismScheduler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
