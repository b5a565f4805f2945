"""Peak memory of a sampling step above the model and its hidden states: the fused head and the PyTorch reference.

    python benchmarks/memory.py [--full] [--threads N] [--folder docs/results]

V = 126,464, B = 8, L = 4096, hidden size 1024, half the rows masked. Hidden states and output embedding exist before;
what a process of its own then reaches at most (VmHWM, reset by /proc/self/clear_refs) is the step's. The fused head
holds one block of logits at a time, so that its peak does not depend on the number of rows once a block is full: shown
at two numbers of rows; --full takes all 16,384 (about 4 TFLOP, minutes). The reference holds all logits of the batch
twice (the product and its scaling), and then float64 blocks: measured at two sizes that fit, computed for the whole.
CPU, Linux with glibc only.
"""

import argparse
import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from prism_plugin.files import write_atomic
from prism_plugin.ops import lm_head_sample, lm_head_sample_ref

V, B, L, D = 126464, 8, 4096, 1024
MIB = 2**20
LIMIT = 64  # MiB
COLUMNS = ("op", "dtype", "hidden_rows", "needed_rows", "peak_mib", "computed_mib")


def status(field: str) -> float:
    """A memory field of /proc/self/status in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":")) / 1024


def measure(op: str, dtype: torch.dtype, hidden_rows: int, needed: int) -> float:
    """MiB that one step adds at its peak, in this process."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(hidden_rows, D, generator=generator).to(dtype)
    weight = torch.empty(V, D, dtype=dtype)
    for part in weight.split(4096):
        part.copy_(torch.randn(part.shape, generator=generator) / 32)
    rows = torch.randperm(hidden_rows, generator=generator)[:needed].sort().values
    zero = torch.zeros_like(rows)
    with torch.no_grad():
        lm_head_sample(hidden[:1], weight, None, zero[:1], zero[:1], zero[:1], zero[:1], seed=0)  # code is loaded
        ctypes.CDLL(None).malloc_trim(0)  # what setting up has freed would serve the step and hide it
        before = status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        if op == "fused":
            lm_head_sample(hidden, weight, None, rows, zero, rows, zero, seed=0, temperature=0.7)
        else:
            lm_head_sample_ref(
                hidden, weight, None, 1.0, rows, zero, rows, zero, 0, 0.7, 1.0, 0, 0.0, None, None, None, None, None,
                1.0, False, False, None, False, False, 0,
            )  # fmt: skip
    return status("VmHWM") - before


def apart(op: str, dtype: str, hidden_rows: int, needed: int, threads: int) -> dict[str, object]:
    """``measure`` in a process of its own."""
    command = [sys.executable, __file__, "--one", op, dtype, str(hidden_rows), str(needed), "--threads", str(threads)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    out = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    computed = 2 * hidden_rows * V * torch.empty(0, dtype=getattr(torch, dtype)).element_size() / MIB
    known = None if op == "fused" else computed
    return dict(zip(COLUMNS, (op, dtype, hidden_rows, needed, float(out), known), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="all 16,384 masked rows")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--folder", type=Path, default=Path("docs/results"))
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.one:
        op, dtype, hidden_rows, needed = arguments.one
        print(measure(op, getattr(torch, dtype), int(hidden_rows), int(needed)))
        return
    counts = (B * L // 2,) if arguments.full else (264, 528)
    asked = [("fused", dtype, B * L, count) for dtype in ("float32", "bfloat16") for count in counts]
    asked += [("reference", "float32", count, count // 2) for count in (256, 1024)]
    rows = [apart(*case, arguments.threads) for case in asked]
    whole = 2 * B * L * V * 4 / MIB
    rows.append(dict(zip(COLUMNS, ("reference", "float32", B * L, B * L // 2, None, whole), strict=True)))

    def cell(value: object) -> str:
        return "" if value is None else f"{value:,.0f}" if isinstance(value, float) else str(value)

    table = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    table += ["| " + " | ".join(cell(row[column]) for column in COLUMNS) + " |" for row in rows]
    worst = max(float(str(row["peak_mib"])) for row in rows if row["op"] == "fused")
    verdict = f"The fused head adds {worst:.0f} MiB at its peak; at most {LIMIT} wanted: " + (
        "met." if worst <= LIMIT else f"missed by {worst - LIMIT:.0f} MiB."
    )
    print(*table, verdict, sep="\n")
    command = "python benchmarks/memory.py" + (" --full" if arguments.full else "")
    note = (
        f"# Peak memory of a sampling step\n\n    {command}\n\nMiB above the model's output embedding and the hidden "
        f"states: V = {V:,}, hidden size {D}, B = {B}, L = {L}, temperature 0.7, torch {torch.__version__}, "
        f"{arguments.threads} thread(s), CPU; not yet run on a GPU. needed_rows are sampled; the fused peak does "
        "not grow with them: one block of at most 48 MiB of logits exists at a time. computed_mib: two copies of all "
        "logits, the least that the reference holds; for the whole batch that is not run.\n\n"
    )
    with write_atomic(arguments.folder / "memory.md") as path:
        path.write_text(note + "\n".join(table) + f"\n\n{verdict}\n")
    with write_atomic(arguments.folder / "memory.json") as path:
        path.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
