"""Models of masks, of symbols and of both as noise, each as large and trained as long: how many grids do they solve?

python benchmarks/uniform.py --models runs/noise        trains what is not there, writes docs/results/uniform.md
"""

import argparse
import platform
from importlib.metadata import version
from pathlib import Path

from prism_plugin import enable
from prism_plugin.config import load
from prism_plugin.files import output_folder, write_atomic
from prism_plugin.tasks import get_task
from prism_plugin.training.train import train

KINDS = ("mask", "hybrid", "uniform")
MDM = ["task=sudoku4", "train.steps=1500", "train.batch_size=64", "train.lr=3e-3", "backbone.hidden_size=64",
       "backbone.num_layers=2"]  # fmt: skip
QUALITY = ["train.steps=400", "train.batch_size=64", "train.lr=2e-3"]
STEPS = (8, 16)
REDRAWN: dict[str, dict[str, object]] = {
    "every token": {},
    "half of them, at random (control)": {"remask_share": 0.5},
    "p(x) < .5, no head": {"score": "self_likelihood", "select": "below", "tau": 0.5},
    "g < .5, head": {"score": "quality", "select": "below", "tau": 0.5},
    "g < .9, head": {"score": "quality", "select": "below", "tau": 0.9},
}
MASKS: dict[str, dict[str, object]] = {
    "nothing is revised": {"sampler": "random"},
    "prism, head": {"sampler": "prism", "num_remask": 1},
    "prism-evidence, head": {"sampler": "prism-evidence"},
}


def main() -> None:
    """Train where there is no model, solve empty grids, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="runs/noise")
    parser.add_argument("--puzzles", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="docs/results")
    options = parser.parse_args()
    task, models = get_task("sudoku4"), Path(options.models)

    lines = []
    for kind in KINDS:
        model, head = models / kind, models / f"{kind}-head"
        if not model.exists():
            train("mdm", load([*MDM, f"noise={kind}", f"out={model}"]))
        if not head.exists():
            train("quality", load([*QUALITY, f"model={model}", f"out={head}"]))
        for name, settings in (MASKS if kind == "mask" else REDRAWN).items():
            prism = enable(str(head), **{"sampler": "uniform", **settings})
            cells = []
            for steps in STEPS:
                prompts = task.prompts(options.puzzles, 0)
                result = prism.generate(prompts, steps=steps, seed=options.seed)
                share = float(task.accuracy(result.tokens, prompts)[0].float().mean())
                error, revised = (share * (1 - share) / options.puzzles) ** 0.5, float(result.remasked.float().mean())
                cells.append(f"{share:.3f} ± {error:.3f} ({revised:.0f})")
            lines.append(f"| {kind} | {name} | " + " | ".join(cells) + " |")
            print(lines[-1], flush=True)

    page = [
        "# Noise of masks, of symbols, of both",
        "",
        f"    python benchmarks/uniform.py --puzzles {options.puzzles} --seed {options.seed}",
        "",
        f"`prism train mdm noise=KIND {' '.join(MDM)}`, heads by `prism train quality {' '.join(QUALITY)}` (it tunes "
        f"the model too), one training seed each. Share of {options.puzzles} empty 4x4 grids solved, its standard "
        "error, and in brackets how many tokens of a grid were revised on average; in every row the model is the same. "
        f"{platform.machine()} CPU, one thread, torch {version('torch')}, no GPU.",
        "",
        "| noise | what is redrawn | " + " | ".join(f"{steps} forwards" for steps in STEPS) + " |",
        "|---|---|" + "--:|" * len(STEPS),
        *lines,
        "",
    ]
    notes = Path(options.out) / "uniform_notes.md"
    page += [notes.read_text()] if notes.exists() else []
    with write_atomic(output_folder(options.out) / "uniform.md") as path:
        path.write_text("\n".join(page))


if __name__ == "__main__":
    main()
