"""Does evidence help where tokens depend on each other jointly, which filling many at once cannot know?

Two families after ParallelBench (arXiv 2510.04767, which found no gain from ReMDM and RCR on its tasks), made from
scratch on letters, small enough to train a model on in minutes:

    shuffle       ten different letters, then the same in another order: any will do, but each letter once
    waiting_line  nine letters and a newcomer, then the line with the newcomer somewhere in it, all else in order

Filled one by one both are solved; filled several at a time each token is plausible and the text is not. The model, and
a head that learned what the model itself says (quality.objective=cavity), are trained by ``prism train``:

    python -m benchmarks.parallel             three training seeds, 256 texts: docs/results/parallel.md
    python -m benchmarks.parallel --quick     one model of few steps, a look

Every sampler of a budget spends the same weighted forward passes (``prism compare``).
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.compare import apart, machine
from prism_plugin.config import load
from prism_plugin.errors import PrismError
from prism_plugin.evaluation.rivals import CompareConfig, compared, lines
from prism_plugin.files import load_json, output_folder, save_json, write_atomic
from prism_plugin.ops import philox
from prism_plugin.tasks import HELD_OUT, hide, tasks
from prism_plugin.training.train import train

LETTERS = 26
MASK, BAR = 0, LETTERS + 1  # letters are 1 to 26
SAMPLERS = "mdlm,confidence,remdm-conf,rcr,self-likelihood,shadow-evidence,cavity-evidence,prism,prism-evidence"
MODEL = ("train.batch_size=128", "train.lr=2e-3", "train.warmup=50", "train.ema=0.99", "train.threads=1",
         "train.save_every=0", "train.eval_every=0", "train.eval_texts=128", "train.eval_forwards=0")  # fmt: skip
SIZE = ("backbone.hidden_size=96", "backbone.num_layers=4", "backbone.num_heads=4")


class Line:
    """Texts of letters: what is given, a bar, what is to be written."""

    mask_id, vocab_size, grid = MASK, LETTERS + 2, 0

    def __init__(self, name: str, given: int, written: int, make: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.name, self.given, self.make = name, given, make
        self.length = given + 1 + written

    def texts(self, first: int, count: int, stream: int) -> Tensor:
        """See ``Task.texts``: the letters by one draw of a text's number, what is made of them by another."""
        number = 2 * torch.arange(first, first + count)[:, None] + stream
        place, zero = torch.arange(LETTERS), torch.zeros(1, dtype=torch.long)
        given = philox.uniform(11, number, place, zero, 0).argsort(1)[:, : self.given] + 1
        written = self.make(given, philox.uniform(11, number, place, zero, 1))
        return torch.cat([given, torch.full_like(number, BAR), written], 1)

    def prompts(self, count: int, clues: int, stream: int = HELD_OUT, first: int = 0) -> Tensor:
        """What is given, and masks for the rest."""
        return hide(self.texts(first, count, stream), torch.arange(self.length) <= self.given, self.mask_id)

    def accuracy(self, tokens: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Task.accuracy``; a text is right or it is not."""
        solved = torch.tensor([fits(self.name, self.render(row)) for row in tokens], device=tokens.device)
        return solved, solved.double()

    def verdict(self, tokens: Tensor, prompts: Tensor) -> list[str]:
        """See ``Task.verdict``."""
        return ["solved" if done else "not solved" for done in self.accuracy(tokens, prompts)[0]]

    def render(self, tokens: Tensor) -> str:
        """Letters, with | between what is given and what is written."""
        return "".join("_" if t == MASK else "|" if t == BAR else chr(96 + t) for t in tokens.tolist())

    def encode(self, text: str) -> list[int]:
        """The tokens of what ``render`` shows."""
        return [BAR if c == "|" else ord(c) - 96 for c in text]


def shuffled(given: Tensor, u: Tensor) -> Tensor:
    """The letters in another order, (N, n)."""
    return given.gather(1, u[:, : given.shape[1]].argsort(1))


def joined(given: Tensor, u: Tensor) -> Tensor:
    """The line with its last letter, the newcomer, at a place drawn evenly, (N, n)."""
    count = given.shape[1]
    key = torch.arange(count).expand(len(given), -1).double().clone()
    key[:, -1] = (u[:, 0] * count).floor() - 0.5
    return given.gather(1, key.argsort(1))


def fits(name: str, text: str) -> bool:
    """Whether what stands behind the bar follows from what stands before it."""
    given, _, written = text.partition("|")
    if name == "shuffle":
        return sorted(given) == sorted(written)
    return len(written) == len(given) and written.count(given[-1]) == 1 and written.replace(given[-1], "") == given[:-1]


FAMILIES = {"shuffle": (10, shuffled), "waiting_line": (10, joined)}


def line(name: str) -> Line:
    """The task of a family."""
    count, make = FAMILIES[name]
    return Line(name, count, count, make)


def shuffle(texts: list[str]) -> list[float]:
    """The metric of ``prism compare``: whether each text is solved."""
    return [float(fits("shuffle", text)) for text in texts]


def waiting_line(texts: list[str]) -> list[float]:
    """As ``shuffle``."""
    return [float(fits("waiting_line", text)) for text in texts]


def trained(name: str, seed: int, work: Path, quick: bool) -> Path:
    """The folder of a model of a family with its head."""
    if name not in list(tasks):
        tasks(name)(partial(line, name))
    steps = (60, 40) if quick else (1500, 300)
    model, head = work / f"{name}-{seed}-mdm", work / f"{name}-{seed}"
    common = (*MODEL, f"train.seed={seed}", "train.resume=true")
    train("mdm", load([f"task={name}", f"out={model}", f"train.steps={steps[0]}", *SIZE, *common]))
    head_settings = ("quality.objective=cavity", "quality.groups=10", f"train.steps={steps[1]}")
    train("quality", load([f"model={model}", f"out={head}", *head_settings, *common]))
    return head


def run(name: str, seeds: list[int], work: Path, quick: bool) -> list[dict[str, Any]]:
    """What ``prism compare`` found of each trained model of a family."""
    found = []
    for seed in seeds:
        model = trained(name, seed, work, quick)
        given = [f"model={model}", f"out={work / f'{name}-{seed}-compared'}", f"samplers={SAMPLERS}", "resume=true",
                 f"steps={'2,5' if quick else '2,3,5,10'}", f"texts={32 if quick else 256}",
                 f"metric=benchmarks.parallel:{name}"]  # fmt: skip
        told = compared(load(given, CompareConfig), lambda what, done, units: print(what, file=sys.stderr, flush=True))
        found.append({"seed": seed, "rows": told["rows"], "tests": told["tests"], "real": told["real"]})
    return found


def page(result: dict[str, Any]) -> str:
    """The page, from the JSON."""
    about = (
        "Two families after ParallelBench (arXiv 2510.04767), which found no gain from ReMDM and RCR on its tasks: "
        "`shuffle` (ten letters in another order) and `waiting_line` (a line of nine, a newcomer somewhere in it). "
        "Share of texts solved, 95% interval over texts, for each trained model; real texts are all. `prism` and "
        "`prism-evidence` have a head that learned what the model says of a hidden token (`quality.objective=cavity`); "
        "`cavity-evidence` asks the model itself, at the price of its passes."
    )
    told = ["# Where tokens depend on each other jointly", "", f"    {result['command']}", ""]
    told += [f"{result['date']}, {result['machine']}, no GPU. {about}"]
    for name, models in result["families"].items():
        told += ["", f"## {name}", ""]
        for budget in sorted({row["budget"] for row in models[0]["rows"]}):
            told += [f"- {budget} passes for 10 tokens: {verdict(models, budget)}"]
        for model in models:
            shown = lines(model)
            told += ["", f"Training seed {model['seed']}:", "", "| " + " | ".join(shown[0]) + " |"]
            told += ["|---|" + "--:|" * (len(shown[0]) - 1), *("| " + " | ".join(r.values()) + " |" for r in shown)]
    return "\n".join(told) + "\n"


def verdict(models: list[dict[str, Any]], budget: int) -> str:
    """Means over the trained models, and in how many each learned sampler beats plain filling and the control."""
    by = [{row["sampler"]: row for row in model["rows"] if row["budget"] == budget} for model in models]
    means = {name: sum(rows[name]["score"] for rows in by) / len(by) for name in by[0]}
    said = ", ".join(f"{name} {value:.2f}" for name, value in sorted(means.items(), key=lambda one: -one[1]))
    won = [
        f"{name} beats {other} in {sum(apart(rows[name], rows[other])[0] > 0 for rows in by)} of {len(by)}"
        for name in ("prism", "prism-evidence")
        for other in ("mdlm", "random-remask")
    ]
    return f"{said}. {'; '.join(won)} (95%, paired)."


def main(argv: Sequence[str] | None = None) -> int:
    """Train what is not there, compare, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="training seeds (0 1 2)")
    parser.add_argument("--quick", action="store_true", help="one seed, few steps and texts")
    parser.add_argument("--work", default="build/parallel", help="folder of models and comparisons (build/parallel)")
    parser.add_argument("--out", default="docs/results", help="folder to write (docs/results)")
    options = parser.parse_args(argv)
    work, out = output_folder(Path(options.work) / ("quick" if options.quick else "whole")), output_folder(options.out)
    result = machine("python -m benchmarks.parallel" + " --quick" * options.quick) | {"families": {}}
    try:
        for name in FAMILIES:
            result["families"][name] = run(name, options.seeds[: 1 if options.quick else None], work, options.quick)
    except PrismError as error:
        print(f"parallel.py: {error}")
        return 2
    save_json(out / "parallel.json", result)
    with write_atomic(out / "parallel.md") as temporary:
        temporary.write_text(page(load_json(out / "parallel.json")), encoding="utf-8")
    print(f"Written: {out / 'parallel.json'}, parallel.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
