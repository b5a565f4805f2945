"""Whether passes are faster under bf16 autocast on this machine: found out, never assumed."""

import logging
import time
from functools import cache

import torch

log = logging.getLogger(__name__)


@cache
def halves_are_faster(device: str) -> bool:
    """On CUDA whether it has bf16; elsewhere whether a product of matrices takes less time in bf16 than in f32.

    A CPU without instructions for it takes about ten times as long, one with them a third. The least of five turns of
    each, side by side: a few milliseconds, once a process.
    """
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported()
    x = {dtype: torch.randn(1024, 256, device=device, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)}
    least = dict.fromkeys(x, float("inf"))
    for _ in range(5):
        for dtype, rows in x.items():
            started = time.perf_counter()
            rows @ rows.T
            least[dtype] = min(least[dtype], time.perf_counter() - started)
    return least[torch.bfloat16] < least[torch.float32]


def in_halves(wanted: bool | str, device: str = "cpu") -> bool:
    """``wanted``, or with ``auto`` what is faster on the device, which the log then names."""
    if wanted != "auto":
        return bool(wanted)
    chosen = halves_are_faster(device)
    log.info("passes in %s: faster here (bf16=auto)", precision_in_words(chosen))
    return chosen


def precision_in_words(halves: bool) -> str:
    """What passes are made in, in words."""
    return "bf16 autocast" if halves else "f32"
