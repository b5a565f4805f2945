"""Published ways to train a model to revise, on one backbone: equal updates, equal forward passes, several seeds.

    python -m benchmarks.trained sudoku --base runs/mdm9 --seeds 0 1 2

Every recipe of docs/training.md goes on from the same backbone with the same number of updates on as many texts, for
each seed of training, and then writes the same texts as ``prism compare`` does, by the samplers that go with it.
``further`` is the backbone trained on as it was, for samplers that need no training. What is in --work or, trained by
the same settings, in NAME.json is not made again: a run that was killed goes on, and other recipes and seeds join those
that are there. Writes NAME.json after each, then NAME.md and NAME.png, to docs/results/trained; with --page the latter
two from the first alone.
"""

import argparse
import functools
import logging
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.compare import apart, machine, with_settings
from prism_plugin.config import load
from prism_plugin.errors import PrismError
from prism_plugin.evaluation.rivals import CONTROL, CompareConfig, compared, lines, merged, slid, tests, truth
from prism_plugin.files import load_json, output_folder, save_json, write_atomic
from prism_plugin.plots import plain_ticks
from prism_plugin.training.train import train

FURTHER = "further"
RECIPES: dict[str, tuple[str, str, str]] = {
    FURTHER: ("mdm", "train.lr=5e-4", "mdlm,confidence,remdm-conf,self-likelihood,prism-share,shadow-evidence"),
    "PRISM": ("quality", "train.lr=5e-4 quality.fills=stale", "prism,prism-share,prism-evidence"),
    "cavity": (
        "quality", "train.lr=2e-3 quality.objective=cavity quality.groups=8 head.num_layers=3",
        "prism-evidence,prism-share",
    ),
    "BackPlay": ("quality", "train.lr=2e-3 quality.fills=stale train.tune=head head.num_layers=3", "prism,prism-share"),
    "Token-Critic": ("quality", "train.lr=5e-4 quality.objective=critic", "token-critic"),
    "RemeDi": (
        "quality", "train.lr=5e-4 quality.objective=remedi quality.mdm_weight=3.33 head.num_layers=1", "remedi"
    ),
    "ProSeCo": (
        "mdm", "train.lr=5e-4 corrector.weight=1",
        "proseco,proseco:temperature=1,proseco:temperature=1:order=random",
    ),
    "T2T": (
        "mdm", "train.lr=1e-3 train.tune=lora lora.r=32 corrector.weight=1 corrector.over=filled "
        "corrector.reweight=false", "t2t,t2t:temperature=1,t2t:temperature=1:order=random",
    ),
}  # fmt: skip
"""By its name: what is trained, its settings beside ``TASKS``, and the samplers that write with it."""
TASKS = {
    "sudoku": ("train.steps=400 train.batch_size=64 train.warmup=50 train.ema=0.99", "steps=8,16,32 texts=128"),
    "code": (
        "train.steps=500 train.batch_size=32 train.warmup=50 train.ema=0.99",
        "steps=16,32 texts=64 metric=judge-causal",
    ),
}  # fmt: skip
"""Of a task: the length of every training, and what is compared."""
TEXT = {"quality.fills=stale": "quality.k=8", "corrector.weight=1": "corrector.upweight=true"}
"""What recipes with such a setting have on text that they have not on grids."""


def own(task: str, recipe: str) -> list[str]:
    """What a recipe is trained by on a task, beside what all are."""
    given = RECIPES[recipe][1]
    return [*given.split(), *(more for marks, more in TEXT.items() if task != "sudoku" and marks in given)]


def asked(task: str, base: str, recipe: str, seed: int) -> list[str]:
    """All that a recipe's model depends on, as settings of ``prism train``."""
    return [*TASKS[task][0].split(), *own(task, recipe), f"train.seed={seed}", f"model={base}"]


def trained(task: str, base: str, recipe: str, seed: int, work: Path) -> Path:
    """The folder of a recipe's model, made where it is not there."""
    settings = [*asked(task, base, recipe, seed), f"out={work / f'{recipe}-{seed}'}"]
    settings += ["train.threads=1", "train.eval_every=0", "train.save_every=100", "train.resume=true"]
    return train(RECIPES[recipe][0], load(settings))


def known(found: dict[str, Any], base: str, recipe: str, seed: int) -> bool:
    """Whether the page has what all samplers of a recipe wrote, by a model trained with the seed and these settings."""
    told = found["trained"].get(recipe, {}).get(str(seed))
    wrote = {unit["sampler"] for unit in found["units"] if unit["seed"] == seed}
    settings = asked(found["task"], base, recipe, seed)
    config, keys = load(settings), [one.partition("=")[0] for one in settings]
    return told is not None and wrote >= {named(recipe, name) for name in RECIPES[recipe][2].split(",")} and all(
        told["settings"].get(key) == functools.reduce(getattr, key.split("."), config)
        for key in keys
        if key in told["settings"]
    )  # fmt: skip


def named(recipe: str, sampler: str) -> str:
    """A sampler as the page calls it."""
    if recipe != FURTHER:
        return f"{recipe}: {sampler}"
    return sampler.replace("prism-share", "prism-share by self-likelihood")  # without a head


def recipe_of(sampler: str) -> str:
    """Whose model a sampler of a page wrote with."""
    return sampler.split(": ", 1)[0] if ": " in sampler else FURTHER


def units(task: str, recipe: str, seed: int, folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What a model wrote, by sampler and budget, and the comparison that they are of."""
    given = [f"model={folder}", f"samplers={RECIPES[recipe][2]}", *TASKS[task][1].split()]
    found = compared(load([*given, f"out={folder / 'compared'}", "resume=true"], CompareConfig), tell(recipe, seed))
    made = [{**unit, "sampler": named(recipe, unit["sampler"]), "seed": seed} for unit in found["units"]]
    return made, found


def tell(recipe: str, seed: int) -> Any:
    """A line a unit."""

    def line(what: str, done: int, number: int) -> None:
        if done < number:  # what comes last is the report
            print(f"{recipe}, trained with seed {seed}: {done + 1}/{number} {what}", file=sys.stderr, flush=True)

    return line


def story(folder: Path) -> dict[str, Any]:
    """What a training was, and what it cost."""
    told = load_json(next(folder.glob("training_*.json")))
    return {name: told[name] for name in ("minutes", "machine", "settings")}


def page(found: dict[str, Any], picture: str) -> Iterator[str]:
    """The page, from what was found."""
    table = found | {"tests": tests(found["rows"])}
    first = found["rows"][0]
    seeds = {(row["sampler"], str(row["budget"])): ", ".join(map(str, row["seeds"])) for row in found["rows"]}
    yield from (
        f"# Trained to revise: {found['task']}", "",
        f"    {found['command']}", "",
        f"{found['date']}, {found['machine']}, no GPU. {first['texts']} texts, written once by each of the models, "
        f"which were trained with the seeds that a row has. Score: {found['metric']}, higher is better; intervals are "
        "over the texts, a text's scores averaged over the seeds; the spread is the standard deviation of the seeds' "
        f"means. Difference from `{CONTROL}` on the backbone trained further without a corrector, over the same texts.",
        "", f"![score against the budget of forward passes]({picture})", "",
    )  # fmt: skip
    for budget in sorted({row["budget"] for row in table["rows"]}):
        yield f"- {budget} forward passes: {verdict(found, budget)}"
    shown = [*lines(table), *([truth(table)] if table["real"] else [])]
    shown = [{**line, "seeds": seeds.get((line["sampler"], line["budget"]), "")} for line in shown]
    yield from ("", "| " + " | ".join(shown[0]) + " |", "|---|" + "--:|" * (len(shown[0]) - 1))
    yield from ("| " + " | ".join(line.values()) + " |" for line in shown)
    yield from ("", "## What each was trained by", "", f"All: `{TASKS[found['task']][0]}`.", "")
    yield from ("| | settings | minutes |", "|---|---|--:|")
    for recipe, runs in found["trained"].items():
        kind, given = RECIPES[recipe][0], " ".join(own(found["task"], recipe))
        minutes = np.mean([run["minutes"] for run in runs.values()])
        yield f"| {recipe} | `prism train {kind} {given}` | {minutes:.1f} |"


def add(file: Path, task: str, base: str, wanted: list[tuple[str, int]], work: Path) -> None:
    """Train and write what is wanted, recipes with seeds, and not in the file; each joins it as it ends."""
    found: dict[str, Any] = load_json(file) if file.exists() else {"task": task, "units": [], "rows": [], "trained": {}}
    for recipe, seed in wanted:
        if known(found, base, recipe, seed):
            continue
        folder = trained(task, base, recipe, seed, work)
        made, told = units(task, recipe, seed, folder)
        kept = [unit for unit in with_settings(found) if (recipe_of(unit["sampler"]), unit["seed"]) != (recipe, seed)]
        names = list(RECIPES)
        made = sorted(kept + made, key=lambda unit: (unit["seed"], names.index(recipe_of(unit["sampler"]))))
        found["trained"].setdefault(recipe, {})[str(seed)] = story(folder)
        found["trained"] = {name: found["trained"][name] for name in names if name in found["trained"]}
        found |= {"rows": merged(made)} | {name: told[name] for name in ("metric", "real", "other judge")}
        found["units"] = [{name: value for name, value in unit.items() if name != "settings"} for unit in made]
        seeds = sorted({str(unit["seed"]) for unit in made})
        found |= machine(shlex.join(["python", "-m", "benchmarks.trained", task, "--base", base, "--seeds", *seeds]))
        save_json(file, found)


def verdict(found: dict[str, Any], budget: int) -> str:
    """Who is best at a budget, who is level with it, and what PRISM is against the best rival."""
    rows = [row for row in found["rows"] if row["budget"] == budget]
    past = [row for row in rows if slid(row, found)]
    fair = [row for row in rows if row not in past and row["cost"] <= 1.1 * budget] or rows
    best = max(fair, key=lambda row: row["score"])
    level = [row["sampler"] for row in fair if row is not best and apart(best, row)[0] <= 0]
    text = f"best is {best['sampler']} ({best['score']:.3f})" + (f", level with it {', '.join(level)}" if level else "")
    ours = [row for row in fair if row["sampler"].startswith(("PRISM", "cavity"))]
    others = [row for row in fair if row not in ours]
    if ours and others:
        one, other = (max(some, key=lambda row: row["score"]) for some in (ours, others))
        low, high = apart(one, other)
        text += (f"; {one['sampler']} against the best of the others, {other['sampler']}: "
                 f"{one['score'] - other['score']:+.3f} ({low:+.3f}, {high:+.3f})")  # fmt: skip
    if past:
        text += f"; poorer than real text, so out of the race: {', '.join(row['sampler'] for row in past)}"
    return text + "."


def draw(found: dict[str, Any], file: Path) -> None:
    """Score against the budget, a line a sampler, in the colour of its recipe."""
    from matplotlib.figure import Figure

    rows = found["rows"]
    plot = Figure(figsize=(8.5, 5), layout="constrained")
    axes = plot.subplots()
    colours = {name: f"C{number}" for number, name in enumerate(RECIPES)}
    styles, seen = ("-", "--", ":", "-.", (0, (1, 3)), (0, (8, 2)), (0, (5, 1, 1, 1, 1, 1))), {}
    last = [row for row in rows if row["budget"] == max(row["budget"] for row in rows)]
    for name in (row["sampler"] for row in sorted(last, key=lambda row: -row["score"])):
        recipe = recipe_of(name)
        if name.endswith(f": {CONTROL}"):
            continue
        own = sorted((row for row in rows if row["sampler"] == name), key=lambda row: row["budget"])
        seen[recipe] = seen.get(recipe, -1) + 1
        low, high = (np.array([abs(row["score"] - row[end]) for row in own]) for end in ("low", "high"))
        axes.errorbar(
            [row["cost"] for row in own], [row["score"] for row in own], (low, high), label=name, marker="o",
            markersize=3, linewidth=1.4, elinewidth=0.7, color=colours[recipe],
            linestyle=styles[seen[recipe] % len(styles)],
        )  # fmt: skip
    axes.set(xlabel="weighted forward passes a text", ylabel=found["metric"], xscale="log")
    plain_ticks(axes.xaxis, {row["budget"] for row in rows})
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5))
    with write_atomic(file) as temporary:
        plot.savefig(temporary, dpi=120, format="png")


def main(argv: Sequence[str] | None = None) -> int:
    """Train, write, judge; or the page alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=list(TASKS))
    parser.add_argument("--base", help="folder or name of the backbone that all go on from")
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of training (0 1 2)")
    parser.add_argument("--work", help="folder of the trained models (build/trained/TASK)")
    parser.add_argument("--out", default="docs/results/trained", help="folder to write (docs/results/trained)")
    parser.add_argument(
        "--page", action="store_true", help="write the page and the picture from the JSON that is there"
    )
    options = parser.parse_args(argv)
    if not (options.base or options.page):
        parser.error("--base is not set: the folder of a model, as `prism train mdm` writes it, or a name.")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    out, file = output_folder(options.out), Path(options.out) / f"{options.task}.json"
    try:
        if not options.page:
            work = output_folder(options.work or f"build/trained/{options.task}")
            add(file, options.task, options.base, [(r, s) for s in options.seeds for r in options.recipes], work)
        found = load_json(file)
        with write_atomic(out / f"{options.task}.md") as temporary:
            temporary.write_text("\n".join(page(found, f"{options.task}.png")) + "\n", encoding="utf-8")
        draw(found, out / f"{options.task}.png")
    except PrismError as error:
        print(f"trained.py: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
