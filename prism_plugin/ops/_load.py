"""Finds the compiled ops, once; where they are missing the PyTorch references run, and say so."""

import logging
import os

import torch
from torch import Tensor

from prism_plugin.errors import ConfigError, PrismError

log = logging.getLogger(__name__)


def _compiled_devices() -> frozenset[str]:
    """Device types that have compiled kernels; empty where the extension is absent or switched off."""
    wanted = os.environ.get("PRISM_OPS", "compiled")
    if wanted not in ("compiled", "reference"):
        raise ConfigError(
            f"PRISM_OPS = {wanted!r} (from the environment) is not known: allowed are compiled, reference."
        )
    if wanted == "reference":
        log.info("PRISM_OPS=reference: the PyTorch reference of every op runs.")
        return frozenset()
    try:
        import prism_plugin._C
        import prism_plugin.ops._fake  # noqa: F401
    except (ImportError, RuntimeError) as error:  # RuntimeError: an extension built before an op was added
        log.warning("The compiled ops are not available (%s): the slower PyTorch references run.", error)
        return frozenset()

    cuda = torch._C._dispatch_has_kernel_for_dispatch_key("prism::sample_rows", "CUDA")
    return frozenset({"cpu", "meta", "cuda"} if cuda else {"cpu", "meta"})


DEVICES = _compiled_devices()


def compiled(device: str = "cpu") -> bool:
    """Whether the compiled ops run on this device type (``cpu``, ``cuda``)."""
    return device in DEVICES


def by_one_op(table: Tensor) -> bool:
    """Whether bookkeeping on it is one compiled op: elsewhere a few launches more do not wait for one another."""
    return table.device.type == "cpu" and compiled()


def refuse_gradient(op: str, tensor: Tensor) -> None:
    """Raise ``PrismError`` where autograd would record an op that has no derivative."""
    if tensor.requires_grad and torch.is_grad_enabled():
        raise PrismError(
            f"{op} has no gradient (a choice is not differentiable), but its input requires one: "
            "call it under torch.no_grad() or detach the input."
        )
