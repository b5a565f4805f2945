"""What does the head say of the cells that clash in grids that were only filled, and why is so little below tau?

python benchmarks/clashes.py            128 empty grids, 16 forwards, preset random; writes docs/results/clashes.md
"""

import argparse
import platform
from importlib.metadata import version

import torch
from torch import Tensor

from prism_plugin import enable
from prism_plugin.files import output_folder, write_atomic
from prism_plugin.sampling.state import State
from prism_plugin.tasks import get_task

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


def main() -> None:
    """Fill grids, score them once, and tabulate quality and evidence of clashing and of other cells."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sudoku")
    parser.add_argument("--puzzles", type=int, default=128)
    parser.add_argument("--forwards", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="docs/results")
    options = parser.parse_args()
    folder = output_folder(options.out)

    prism = enable(options.model)
    task = get_task(prism.denoiser.task)
    last: list[State] = []
    result = prism.generate(
        task.prompts(options.puzzles, 0), "random", steps=options.forwards, seed=options.seed,
        callback=lambda state, view: last.append(state),
    )  # fmt: skip
    quality, written = prism.score(result.tokens), last[-1].written
    values = result.tokens[:, task.units()]
    count = torch.nn.functional.one_hot(values, task.vocab_size).sum(dim=2).gather(2, values)
    clash = torch.zeros_like(result.tokens).index_add_(1, task.units().flatten(), (count > 1).long().flatten(1)) > 0

    def row(name: str, figure: Tensor, where: Tensor) -> str:
        cut = figure[where].quantile(torch.tensor(LEVELS)).tolist()
        below = [float((figure[where] < tau).float().mean()) for tau in (0.1, 0.3)]
        return f"| {name} | " + " | ".join(f"{x:.3f}" for x in cut + below) + " |"

    lines = [
        "# What the head says of cells that clash",
        "",
        f"    python benchmarks/clashes.py --model {options.model} --puzzles {options.puzzles} "
        f"--forwards {options.forwards} --seed {options.seed}",
        "",
        f"{options.puzzles} empty grids filled in {options.forwards} forwards in random order, nothing remasked; "
        f"{100 * float(clash.float().mean()):.1f}% of the cells clash with another. g is the head's quality on the "
        f"full grid, w the probability when written. {platform.machine()} CPU, torch {version('torch')}, no GPU.",
        "",
        "| cells: figure | " + " | ".join(f"{100 * level:.0f}%" for level in LEVELS) + " | share < .1 | share < .3 |",
        "|---|" + "--:|" * (len(LEVELS) + 2),
        *(
            row(f"{name}: {figure}", value, where)
            for name, where in (("clashing", clash), ("others", ~clash))
            for figure, value in (("g", quality), ("g / w", quality / written))
        ),
    ]
    with write_atomic(folder / "clashes.md") as path:
        path.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
