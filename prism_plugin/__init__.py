"""PRISM for masked diffusion language models: find the wrong tokens, mask them again, write them anew."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import Prism, enable
    from .models.checkpoint import PrismModel
    from .sampling.config import SamplerConfig
    from .sampling.drive import Result, generate

__version__ = "0.1.0"

__all__ = ["Prism", "PrismModel", "Result", "SamplerConfig", "enable", "generate"]

_HOME = {
    "Prism": "api",
    "PrismModel": "models.checkpoint",
    "Result": "sampling.drive",
    "SamplerConfig": "sampling.config",
    "enable": "api",
    "generate": "sampling.drive",
}


def __getattr__(name: str) -> Any:
    """Names are imported when first used, so that ``prism --help`` need not wait for torch."""
    from importlib import import_module

    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
