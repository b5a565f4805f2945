"""What a learned score costs: time, counted forward passes, parameters and memory, beside scores that are not learned.

    python -m benchmarks.head_cost [--quick]

Backbones of ours with random weights; texts are written whole in 8 steps, by filling alone and with each score, in
turn, on one thread and by the processor's time. ``time`` is the median ratio of seconds to filling alone, with
quartiles; ``counted`` the same ratio of ``Result.cost``, which budgets are equal in; ``MiB`` what a process reaches
above the model (VmHWM, Linux) beyond what filling alone does. Fresh heads: a trained one costs the same. Freed memory
is kept, as the ``prism`` command has it (``cli.keep_memory``); what that is worth is measured in processes that do not.
Writes docs/results/head_cost.json and head_cost.md.
"""

import argparse
import ctypes
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.compare import machine
from benchmarks.memory import status
from benchmarks.throughput import SIZES
from prism_plugin.cli import keep_memory
from prism_plugin.files import output_folder, save_json, write_atomic
from prism_plugin.models.backbone import BackboneConfig
from prism_plugin.models.checkpoint import PrismModel
from prism_plugin.quality.head import HeadConfig, attach_head
from prism_plugin.sampling.config import SamplerConfig
from prism_plugin.sampling.drive import Result, generate

STEPS = 8
PLAIN = "filling alone"
SCORES: dict[str, tuple[str, HeadConfig | None]] = {
    PLAIN: ("random", None),
    "self-likelihood, no head": ("self-likelihood", None),
    "a linear head": ("prism", HeadConfig("linear")),
    "a head of one block": ("prism", HeadConfig("dit", num_layers=1)),
    "a second stream of three blocks": ("prism-evidence", HeadConfig("two_stream", num_layers=3)),
    "a shadow of the text, no head": ("shadow-evidence", None),
    "each of 8 groups hidden, no head": ("cavity-evidence", None),
}
CASES = {"1.5M": (8, 1024, 128), "6M": (8, 1024, 128), "25M": (2, 32768, 128)}
"""Texts, vocabulary and length by the size of the backbone's blocks."""


def wrote(model: PrismModel, head: Any, sampler: str, tokens: torch.Tensor) -> tuple[Result, float]:
    """What a score's sampler writes, and the seconds of the processor."""
    model.head = head
    extra = {"cavity_groups": 8} if sampler == "cavity-evidence" else {}
    started = time.thread_time()
    result = generate(model, tokens, SamplerConfig(sampler, steps=STEPS, **extra))
    return result, time.thread_time() - started


def peak(model: PrismModel, head: Any, sampler: str, tokens: torch.Tensor) -> float:
    """MiB above what was resident before."""
    ctypes.CDLL(None).malloc_trim(0)
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    wrote(model, head, sampler, tokens)
    return status("VmHWM") - before


def made(size: str) -> tuple[PrismModel, torch.Tensor]:
    """A backbone and the masks that it is to fill."""
    rows, vocabulary, length = CASES[size]
    torch.manual_seed(0)
    config = BackboneConfig(
        vocab_size=vocabulary, mask_id=vocabulary - 1, length=length, hidden_size=SIZES[size], num_layers=8
    )
    model = PrismModel(config, "none").eval()
    torch.nn.init.normal_(model.backbone.unembed.weight, std=0.05)
    return model, torch.full((rows, length), model.mask_id)


def alone(size: str, repeats: int) -> float:
    """Median seconds of filling alone, in this process as it is."""
    model, tokens = made(size)
    return float(np.median([wrote(model, None, SCORES[PLAIN][0], tokens)[1] for _ in range(repeats + 1)][1:]))


def left(size: str, repeats: int) -> dict[str, float]:
    """Seconds of filling alone in processes that leave malloc as it is, and in such that keep freed memory."""
    code = "import torch; torch.set_num_threads(1); from benchmarks.head_cost import *"
    seconds = {}
    for name, first in (("left", ""), ("kept", "; keep_memory()")):
        command = [sys.executable, "-c", f"{code}{first}; print(alone({size!r}, {repeats}))"]
        seconds[name] = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return {"blocks": size, **seconds}


def measured(size: str, repeats: int) -> Iterator[dict[str, Any]]:
    """A row for every score on a backbone of a size."""
    (rows, vocabulary, length), (model, tokens) = CASES[size], made(size)
    heads = {name: head and attach_head(model, head) for name, (_, head) in SCORES.items()}
    seconds: dict[str, list[float]] = {name: [] for name in SCORES}
    cost, mib = {}, {}
    for turn in range(repeats + 1):
        for name, (sampler, _) in SCORES.items():
            if turn:
                seconds[name].append(wrote(model, heads[name], sampler, tokens)[1])
            else:  # warms up
                cost[name] = float(wrote(model, heads[name], sampler, tokens)[0].cost.mean())
                mib[name] = peak(model, heads[name], sampler, tokens)
    for name in SCORES:
        low, middle, high = np.quantile(np.array(seconds[name]) / np.array(seconds[PLAIN]), (0.25, 0.5, 0.75))
        head = heads[name]
        yield {
            "blocks": size, "texts": rows, "vocabulary": vocabulary, "length": length, "score": name,
            "time": middle, "low": low, "high": high, "counted": cost[name] / cost[PLAIN],
            "parameters": sum(p.numel() for p in head.parameters()) if head else 0,
            "model": sum(p.numel() for p in model.backbone.parameters()), "mib": mib[name] - mib[PLAIN],
        }  # fmt: skip


def page(found: dict[str, Any]) -> Iterator[str]:
    """The page, from what was found."""
    yield from (
        "# What a learned score costs", "", f"    {found['command']}", "",
        f"{found['date']}, {found['machine']}, no GPU. Backbones with random weights, {STEPS} steps, median of "
        f"{found['repeats']} interleaved repeats and quartiles. time: seconds beside filling alone. counted: weighted "
        "forward passes beside it, in which budgets are made equal (positions and weights, so neither an output layer "
        "that is asked about visible tokens too, nor attention that grows with the square). MiB: the peak beyond that "
        "of filling alone.", "",
        "| blocks | texts x length, vocabulary | score | time | counted | parameters, of the model's % | MiB |",
        "|---|---|---|--:|--:|--:|--:|",
    )  # fmt: skip
    for row in found["rows"]:
        share = f"{row['parameters']:,}, {100 * row['parameters'] / row['model']:.1f}%" if row["parameters"] else "0"
        yield (f"| {row['blocks']} | {row['texts']} x {row['length']}, {row['vocabulary']:,} | {row['score']} "
               f"| {row['time']:.2f} ({row['low']:.2f} to {row['high']:.2f}) | {row['counted']:.2f} | {share} "
               f"| {row['mib']:+.0f} |")  # fmt: skip
    told = ", ".join(f"{row['left']:.2f} and {row['kept']:.2f} ({row['blocks']})" for row in found["malloc"])
    yield from ("", f"Seconds of filling alone where malloc is left as it is and where freed memory is kept: {told}.")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the smallest backbone, three repeats")
    parser.add_argument("--out", default="docs/results", help="folder to write (docs/results)")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    keep_memory()
    out, repeats = output_folder(options.out), 3 if options.quick else 5
    rows, sizes = [], list(CASES)[: 1 if options.quick else None]
    for size in sizes:
        for row in measured(size, repeats):
            print(f"{row['blocks']:6}{row['score']:36}{row['time']:6.2f}{row['counted']:7.2f}{row['mib']:+7.0f} MiB",
                  flush=True)  # fmt: skip
            rows.append(row)
    asked = "python -m benchmarks.head_cost" + (" --quick" if options.quick else "")
    found = machine(asked) | {"repeats": repeats, "rows": rows, "malloc": [left(size, repeats) for size in sizes]}
    save_json(out / "head_cost.json", found)
    with write_atomic(out / "head_cost.md") as temporary:
        temporary.write_text("\n".join(page(found)) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
