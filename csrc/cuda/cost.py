"""What the kernels cost on paper, held against budget.txt: a design that is not on a GPU can be kept to its arithmetic.

    python3 csrc/cuda/cost.py BUDGET FOLDER NAME...

Of each NAME.ptx and NAME_sm90.log (of ptxas) in FOLDER, a line a kernel:
  registers, shared  of ptxas; bytes of shared memory
  16 B               loads of 16 bytes
  once               instructions outside every loop. A warp of the scan has 64 logits a lane unrolled there, so that a
                     logit costs it once / 64, of all paths, each option of the op among them
  loops              innermost loops: of every path over a row, a chunk, the candidates, what warps have left
  worst, together    instructions an element in the costliest of them, and in all of them: those of its body, all
                     branches taken, over the elements that a turn loads (4 f32 or 8 bf16 by 16 bytes; more if unrolled)
BUDGET has the same numbers: the most of each, of loads the least. Exit code 1 where one is exceeded, or a kernel has no
line.
"""

import re
import sys
from collections import Counter
from pathlib import Path

COLUMNS = ("registers", "shared", "16 B", "once", "loops", "worst", "together")
LEAST = 2  # of which the budget is the least
DTYPES = {"12BFloat16Bits": "bf16", "8HalfBits": "f16", "kernelIf": "f32", "kernelId": "f64"}
LOAD = re.compile(r"ld\.(?:global|shared)\S*?(?:\.(v[24]))?\.[a-z](\d+)\s")


def short(name: str) -> str:
    """A mangled kernel as kernel<dtype>, with the bytes of its loads or the bits of its tokens."""
    kernel = re.search(r"\d([a-z]+)_kernel", name)
    kind = next((word for mark, word in DTYPES.items() if mark in name), "")
    more = re.search(r"Li(\d+)E", name)
    token = {"i": "32", "l": "64"}.get((re.search(r"select_kernelI\w*?([il])EEv", name) or " " * 2)[1], "")
    about = ",".join(part for part in (kind, more[1] if more else "", token) if part)
    return f"{kernel[1] if kernel else name}<{about}>"


def loops_of(body: str) -> tuple[list[str], list[range]]:
    """The instructions of a kernel and its loops: from a label to a jump back to it, inner ones before outer ones."""
    code: list[str] = []
    labels: dict[str, int] = {}
    for line in (line.strip() for line in body.splitlines()):
        if line.startswith("$L") and ":" in line:
            labels[line.split(":")[0]] = len(code)
        elif line.endswith(";") and not line.startswith((".", "//")):
            code.append(re.sub(r"^@!?%p\d+\s+", "", line))
    ends: dict[int, int] = {}
    for at, line in enumerate(code):
        target = labels.get(line.split()[-1].rstrip(";"), at + 1) if line.startswith("bra") else at + 1
        if target <= at:
            ends[target] = at + 1  # jumps to one label are one loop
    return code, sorted((range(first, stop) for first, stop in ends.items()), key=len)


def elements(turn: list[str], narrow: bool) -> int:
    """How many elements a turn of a loop loads: of the kind of load that brings the most."""
    found: Counter[str] = Counter()
    for width, bits in (LOAD.match(line).groups() for line in turn if LOAD.match(line)):  # type: ignore[union-attr]
        many = int(width[1]) if width else 1
        found[f"{width}{bits}"] += many * 2 if narrow and many * int(bits) == 128 else many
    return max(found.values(), default=1)


def cost(body: str, narrow: bool) -> tuple[int, int, int, int, int]:
    """Loads of 16 bytes, instructions outside loops, innermost loops, instructions an element in the worst and in all.

    narrow: whether the elements in memory have 16 bits.
    """
    code, loops = loops_of(body)
    inner = [one for n, one in enumerate(loops) if not any(set(one) >= set(other) for other in loops[:n])]
    inside = {at for one in loops for at in one}
    each = [len(one) / elements(code[one.start : one.stop], narrow) for one in inner]
    wide = sum(bool(re.match(r"ld\.global\S*\.(v4\.[a-z]32|v2\.[a-z]64)\s", line)) for line in code)
    return wide, len(code) - len(inside), len(inner), round(max(each, default=0)), round(sum(each))


def main() -> int:
    """Print the table; 1 where a budget is exceeded."""
    budget, folder, *names = sys.argv[1:]
    written = [line.split() for line in Path(budget).read_text().splitlines() if line.strip() and line[0] != "#"]
    limits = {kernel: [int(number) for number in numbers] for kernel, *numbers in written}
    print(f"{'kernel':18}" + "".join(f"{column:>10}" for column in COLUMNS))
    over, seen = False, set()
    for name in names:
        log = (Path(folder) / f"{name}_sm90.log").read_text()
        used = {kernel: (int(registers), int(shared or 0)) for kernel, registers, shared in re.findall(
            r"entry function '(\S+)'.*?Used (\d+) registers.*?(?:, (\d+) bytes smem)?\n", log, re.S)}  # fmt: skip
        used = {short(kernel): numbers for kernel, numbers in used.items()}
        ptx = (Path(folder) / f"{name}.ptx").read_text()
        for mangled, body in re.findall(r"\.entry (\S+)\((.*?)\n\}\n", ptx, re.S):
            kernel = short(mangled)
            seen.add(kernel)
            found = (*used[kernel], *cost(body, any(kind in kernel for kind in ("bf16", "f16"))))
            most = limits.get(kernel)
            bad = "  not in the budget" if most is None else ""
            if most is not None:
                wrong = [column for n, column in enumerate(COLUMNS)
                         if (found[n] < most[n] if n == LEAST else found[n] > most[n])]  # fmt: skip
                bad = f"  OVER: {', '.join(wrong)}" if wrong else ""
            over |= bool(bad)
            print(f"{kernel:18}" + "".join(f"{number:>10}" for number in found) + bad)
    missing = limits.keys() - seen
    print(*(f"cuda-check: {kernel} of the budget is not there" for kernel in sorted(missing)), sep="\n", end="")
    return int(over or bool(missing))


if __name__ == "__main__":
    sys.exit(main())
