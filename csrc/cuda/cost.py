"""What the sampling kernels cost on paper, held against budget.txt: a design that is not on a GPU can be kept to its
arithmetic.

    python3 csrc/cuda/cost.py FILE.ptx PTXAS.log BUDGET

PTX gives the loads and the instructions (of all paths, each option of the op among them; a warp's 64 logits a lane are
unrolled, so that they are divided by 64), ptxas the registers and the shared memory. BUDGET has a line a kernel: its
name, the most registers, bytes of shared memory and instructions a logit, and the least loads of 16 bytes. Exit code 1
where one is exceeded.
"""

import re
import sys
from pathlib import Path

LOGITS_A_LANE = 64


def short(name: str) -> str:
    """A mangled kernel as kernel<dtype,bytes>."""
    kernel = re.search(r"(scan|finish)_kernel", name)
    kinds = {"12BFloat16Bits": "bf16", "8HalfBits": "f16", "Iff": "f32", "Idd": "f64"}
    kind = next((word for mark, word in kinds.items() if mark in name), "?")
    width = re.search(r"Li(\d+)E", name)
    return f"{kernel[1] if kernel else name}<{kind}{',' + width[1] if width else ''}>"


def main() -> int:
    """Print the table; 1 where a budget is exceeded."""
    ptx, log, budget = (Path(path).read_text() for path in sys.argv[1:4])
    limits = {line.split()[0]: [int(x) for x in line.split()[1:]] for line in budget.splitlines() if line.strip("# ")
              and not line.startswith("#")}  # fmt: skip
    used = {short(name): (int(registers), int(shared or 0)) for name, registers, shared in re.findall(
        r"entry function '(\S+)'.*?Used (\d+) registers.*?(?:, (\d+) bytes smem)?\n", log, re.S)}  # fmt: skip
    over = False
    print(f"{'kernel':18}{'registers':>10}{'shared':>8}{'loads of 16 B':>15}{'PTX a logit':>13}")
    for name, body in re.findall(r"\.entry (\S+)\((.*?)\n\}\n", ptx, re.S):
        lines = [line.strip() for line in body.splitlines()]
        count = sum(line.endswith(";") and not line.startswith((".", "//")) for line in lines)
        wide = sum(bool(re.search(r"ld\.global(\.nc)?\.(v4\.[fu]32|v2\.[fu]64)", line)) for line in lines)
        kernel = short(name)
        registers, shared = used[kernel]
        found = (registers, shared, count // LOGITS_A_LANE, wide)
        *most, least = limits.get(kernel, [10**9] * 3 + [0])
        bad = any(a > b for a, b in zip(found[:3], most, strict=True)) or wide < least
        over |= bad
        print(f"{kernel:18}{registers:>10}{shared:>8}{wide:>15}{count / LOGITS_A_LANE:>13.1f}{'  OVER' if bad else ''}")
    missing = set(limits) - {short(name) for name in re.findall(r"\.entry (\S+)\(", ptx)}
    print(*(f"cuda-check: {kernel} of the budget is not there" for kernel in missing), sep="\n", end="")
    return int(over or bool(missing))


if __name__ == "__main__":
    sys.exit(main())
