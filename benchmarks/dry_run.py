"""What ``prism train quality quality.objective=cavity --dry-run`` says a run needs, against what the run takes.

    python -m benchmarks.dry_run [--sizes 26 117] [--out docs/results]

Random models of ours, of so many million parameters, 128 tokens, 8 states a step, f32; a process of its own each. The
run makes states in every step (``quality.reuse=1``), once for each length of the sampler's runs, which is what the
estimate averages over, by the preset ``random`` alone and without evaluation: the counter of PyTorch does not follow a
head without gradients.
Memory is what the process reaches at most (VmHWM, reset before) above what it held before, after a small run that
loaded all code. Linux only. Writes dry_run.json and .md.
"""

import argparse
import ctypes
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.memory import status
from prism_plugin.config import load
from prism_plugin.files import output_folder, save_json, write_atomic
from prism_plugin.models.backbone import BackboneConfig
from prism_plugin.models.checkpoint import PrismModel
from prism_plugin.training import objectives, watch
from prism_plugin.training.plan import plan
from prism_plugin.training.train import train

SHAPES = {1: (128, 6), 26: (512, 8), 117: (1024, 9)}  # millions: width, layers
STEPS = len(objectives.FILLS)


def measure(size: int) -> dict[str, Any]:
    """One run in this process, after a small one, and what was said of it."""
    objectives.PRESETS = ("random",)
    watch.evaluate = lambda *given: ({"loss": 0.0}, {})
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for millions in (1, size):
            width, layers = SHAPES[millions]
            folder = Path(tempfile.mkdtemp(dir=temporary))
            torch.manual_seed(0)
            shape = BackboneConfig(
                vocab_size=1024, mask_id=0, length=128, hidden_size=width, num_layers=layers, num_heads=width // 64
            )
            PrismModel(shape, "code").save_pretrained(folder)
            settings = [
                f"model={folder}", f"out={folder}-head", "quality.objective=cavity", "quality.reuse=1",
                f"train.steps={STEPS}", "train.batch_size=8", "train.bf16=false", "train.threads=1",
                "train.eval_every=0", "train.save_every=0",
            ]  # fmt: skip
            said = plan("quality", load(settings))
            ctypes.CDLL(None).malloc_trim(0)
            before = status("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")
            started = time.process_time()
            with FlopCounterMode(display=False) as counter:
                train("quality", load(settings))
            found = {
                "parameters": said.parameters, "trained": said.trained,
                "memory_said_gb": said.memory / 1e9, "memory_taken_gb": (status("VmHWM") - before) * 2**20 / 1e9,
                "flops_said": said.flops, "flops_counted": counter.get_total_flops() / STEPS,
                "cpu_seconds_a_step": (time.process_time() - started) / STEPS,
            }  # fmt: skip
    return found


def apart(size: int) -> dict[str, Any]:
    """``measure`` in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "benchmarks.dry_run", "--one", str(size)]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    return json.loads(out.splitlines()[-1])


def markdown(result: dict[str, Any]) -> str:
    """The result as a page."""
    lines = [
        "# What a cavity run needs: --dry-run against the run", "", f"    {result['command']}", "",
        "Random models, 128 tokens, 8 states a step that are made in every step (quality.reuse=1, preset random, 8, 16 "
        f"and 32 forwards), f32. {result['machine']}. FLOPs a step: counted by PyTorch's counter. "
        "CPU seconds a step: all of the run, loading and saving included.", "",
        "| parameters | trained | GB said | GB taken | FLOPs a step, said | counted | CPU seconds a step |",
        "|--:|--:|--:|--:|--:|--:|--:|",
    ]  # fmt: skip
    for row in result["rows"]:
        cells = [f"{row[key]:,}" for key in ("parameters", "trained")]
        cells += [f"{row[key]:.2f}" for key in ("memory_said_gb", "memory_taken_gb")]
        cells += [f"{row[key]:.2e}" for key in ("flops_said", "flops_counted")]
        lines.append("| " + " | ".join([*cells, f"{row['cpu_seconds_a_step']:.1f}"]) + " |")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[26, 117], choices=list(SHAPES), help="(26 117)")
    parser.add_argument("--out", default="docs/results", help="folder to write to")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    if args.one:
        print(json.dumps(measure(args.one)))
        return
    folder = output_folder(args.out)
    result = {
        "command": shlex.join(["python", "-m", "benchmarks.dry_run", *(sys.argv[1:] if argv is None else argv)]),
        "machine": f"{platform.machine()} CPU, one thread, torch {version('torch')}, no GPU",
        "rows": [apart(size) for size in args.sizes],
    }  # fmt: skip
    save_json(folder / "dry_run.json", result)
    with write_atomic(folder / "dry_run.md") as path:
        path.write_text(markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    main()
