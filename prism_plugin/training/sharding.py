"""Weights that are shared out among processes (FSDP2, ``configs/fsdp2.yaml``): a tensor whole, and back in its shards.

accelerate shards where the processes have GPUs. On the CPU it would quietly train a copy in each process, so that we
tell it to; from there on both are one path.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from .objectives import CavityObjective


def asked() -> bool:
    """Whether ``accelerate launch`` was given a config that shards."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def prepare(objective: nn.Module, half: bool) -> None:
    """Name the layers that are sharded each for itself; half: passes are under bf16 autocast, weights as they are.

    ConfigError where this cannot be trained sharded.
    """
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise ConfigError("accelerate was told to shard by FSDP 1: use prism_plugin/training/configs/fsdp2.yaml.")
    if isinstance(objective, CavityObjective):
        raise ConfigError(
            "quality.objective = cavity lets every process write texts of its own, whose passes differ in number, and "
            "sharded weights need all processes in every pass: use prism_plugin/training/configs/ddp.yaml."
        )
    lists = [module for module in objective.modules() if isinstance(module, nn.ModuleList)]
    layers = max(lists, key=lambda one: sum(p.numel() for p in one.parameters()), default=())
    setattr(objective, "_no_split_modules", sorted({type(layer).__name__ for layer in layers}))  # noqa: B010
    if half:
        kind = "cuda" if torch.cuda.is_available() else "cpu"
        objective.forward = torch.autocast(kind, torch.bfloat16)(objective.forward)


def begin(accelerator: Any) -> None:
    """Have the model sharded when it is prepared, on whatever the processes have, and no weight cast."""
    from accelerate import PartialState
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    state = accelerator.state
    if state.distributed_type == DistributedType.MULTI_CPU:
        state.fsdp_plugin = FullyShardedDataParallelPlugin()
        state.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    state.fsdp_plugin.mixed_precision_policy = None


def whole(tensor: Tensor) -> Tensor:
    """A tensor with all its shards; as it is where it has none. All processes must ask."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def shard_like(tensor: Tensor, like: Tensor) -> Tensor:
    """This process's shard of a whole tensor, cut as ``like`` is; as it is where that is not cut."""
    if not hasattr(like, "full_tensor"):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    cut: Any = like
    return distribute_tensor(tensor.to(like.device), cut.device_mesh, cut.placements, src_data_rank=None)


@contextmanager
def opened(objective: nn.Module) -> Iterator[None]:
    """For passes outside of a training step: what lies outside of the layers is whole, a layer while it runs."""
    sharded: list[Any] = [module for module in objective.modules() if asked() and hasattr(module, "reshard")]
    for module in sharded[:1]:  # the root
        module.unshard()
    try:
        yield
    finally:
        for module in sharded:
            module.reshard()


def collect(objective: nn.Module, keep: bool) -> None:
    """Put whole weights in the place of shards, on the CPU, one after another, where they are to be kept.

    All processes must take part. No pass can be made thereafter.
    """
    found: dict[int, nn.Parameter] = {}
    for module in objective.modules():
        for name, parameter in module._parameters.items():
            if parameter is None or not hasattr(parameter, "full_tensor"):
                continue
            if id(parameter) not in found:
                tensor = whole(parameter.detach())
                tensor = tensor.cpu() if keep else tensor.new_empty(0)
                found[id(parameter)] = nn.Parameter(tensor, requires_grad=parameter.requires_grad)
            module._parameters[name] = found[id(parameter)]
