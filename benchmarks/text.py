"""Does revision help on code and on English, where no rule says what is right?

Held-out texts of a task (128 tokens of Python or prose) by every method of ``evaluation.comparison.ROWS``, at the same
number of forward passes: half of the tokens given (``half``), a hole of 64 tokens (``hole``), nothing given (``free``).
Where a text was hidden its tokens are known; whole texts are judged by a 5-gram model of the training texts that is not
the model under test, beside what it says of real held-out text, since a figure below that of real text is no gain:

    python benchmarks/text.py --model code                        128 texts a row at 16 and 32 forwards
    python benchmarks/text.py --model prose --texts 32 --seeds 0    a quick look

What the rule of evidence would reach with an exact score in place of the head: benchmarks/evidence.py.

Writes MODEL.json, MODEL.md and MODEL.png. Every finished run is written at once, with its date and precision, and the
same command goes on where one was broken off, or another with other seeds, methods or settings; with another head only
the rows that need one are run again. Cost on one core: about 5 ms a text and forward pass in f32, 3 with --bf16 (where
the CPU has it).
"""

import argparse
import math
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor

from prism_plugin import ops
from prism_plugin.config import SamplerConfig
from prism_plugin.errors import ConfigError, PrismError
from prism_plugin.evaluation.comparison import ROWS, Row, diversity, gone_on_with, variety
from prism_plugin.evaluation.judge import Judge
from prism_plugin.files import output_folder, save_json, write_atomic
from prism_plugin.models.checkpoint import PrismModel
from prism_plugin.models.denoiser import View
from prism_plugin.models.precision import in_halves, precision_in_words
from prism_plugin.quality.calibration import auroc
from prism_plugin.quality.head import head_hash
from prism_plugin.sampling.drive import generate
from prism_plugin.sampling.state import State
from prism_plugin.tasks import HELD_OUT, get_task
from prism_plugin.tasks.text import TextTask

console = Console()
TAU = 1.0  # what ``default_for`` gives a head that says what its model says (benchmarks/evidence.py chose it)
SETTINGS = {"half": "half of the tokens given at random", "hole": "a hole of 64 tokens", "free": "nothing given"}
METHODS = [
    replace(row, sampler=SamplerConfig(row.sampler.name, order=row.sampler.order, tau=TAU))
    if row.method == "PRISM evidence"
    else row
    for row in ROWS
    if not row.model and row.method != "ReMDM score" and row.sampler.name != "prism-share"
]
SAME = ("model", "texts_a_seed", "made_of")
DEFAULT = "PRISM evidence"
"""What ``enable`` gives a head that says what its model says, in random order."""


def moments(values: list[float]) -> list[float]:
    """Count, sum and sum of squares of one figure a text: what runs are added up by."""
    return [len(values), round(sum(values), 6), round(sum(value * value for value in values), 6)]


def interval(count: float, total: float, squares: float) -> tuple[float, float]:
    """Mean of the figure, and half of its 95% interval."""
    mean = total / count
    variance = max(0.0, squares / count - mean * mean) / (count - 1)
    return mean, 1.96 * math.sqrt(variance)


def look(task: TextTask, judge: Judge, tokens: Tensor) -> dict[str, list[float]]:
    """Figures of whole texts (B, L), one a text: bits a character by the judge, on tokens as the tokenizer makes them;
    entropy of its own tokens in nats; share of its runs of four that are new in it; share before the first fault.
    """  # fmt: skip
    found: dict[str, list[float]] = {"bits": [], "entropy": [], "distinct": [], "sound": []}
    for row in tokens:
        text = task.render(row)
        found["bits"].append(judge.bits(task, text))
        for name, value in zip(("entropy", "distinct"), variety(row), strict=True):
            found[name].append(value)
        found["sound"].append(fault[0] / len(text) if (fault := task.fault(text)) else 1.0)
    return found


def hidden(task: TextTask, setting: str, first: int, count: int) -> tuple[Tensor, Tensor]:
    """Prompts and the true texts, (count, L) each."""
    texts = task.texts(first, count, HELD_OUT)
    if setting == "hole":
        place = torch.arange(task.length)
        return texts.masked_fill((place >= 32) & (place < 96), task.mask_id), texts
    return task.prompts(count, {"half": task.length // 2, "free": 0}[setting], first=first), texts


def measure(
    model: PrismModel, task: TextTask, judge: Judge, setting: str, row: Row, steps: int, count: int, seed: int
) -> dict:
    """One row: what a method makes of the ``count`` texts of a seed, the moments of each figure over the texts."""
    first = seed * count
    prompts, truth = hidden(task, setting, first, count)
    masked, parts = prompts == task.mask_id, []
    for start in range(0, count, 64):
        sampler = SamplerConfig(**{**vars(row.sampler), "steps": steps, "seed": seed})
        known = {} if setting == "free" else {"truth": truth[start : start + 64]}
        request = torch.arange(first + start, first + min(start + 64, count))
        parts.append(generate(model, prompts[start : start + 64], sampler, request=request, **known))
    tokens = torch.cat([part.tokens for part in parts])
    right = ((tokens == truth) & masked).sum(1) / masked.sum(1)
    counted = {
        name: torch.cat([getattr(part, field) for part in parts]).double().tolist()
        for name, field in (("cost", "cost"), ("remasks", "remasked"), ("wasted", "wasted"))
    }
    if setting != "free":
        counted |= {"right": right.tolist()}
        for name in ("wrong_to_right", "right_to_wrong"):
            counted[name] = torch.cat([getattr(part, name) for part in parts]).double().tolist()
    return {
        "setting": setting, "method": row.method, "order": row.order, "steps": steps, "seed": seed,
        "diversity": diversity(tokens, task.vocab_size), "seconds": round(sum(part.seconds for part in parts), 1),
        "moments": {name: moments(values) for name, values in {**look(task, judge, tokens), **counted}.items()},
        "sample": task.render(tokens[0]),
    }  # fmt: skip


@torch.no_grad()
def detection(model: PrismModel, task: TextTask, count: int) -> list[dict]:
    """Which score tells the true token from another? AUROC over the tokens that the model wrote, of each score.

    ``written by sampling``: half of a text in 16 forwards by plain MDLM, judged in the finished text. ``in true text``:
    16 tokens drawn where three quarters were hidden, judged in a text that is otherwise true. A token that would do as
    well as the true one counts as wrong, so that 1 is out of reach.
    """
    held: list[State] = []
    prompts, truth = hidden(task, "half", 0, count)
    plain = SamplerConfig("mdlm", steps=16)
    sampled = generate(model, prompts, plain, callback=lambda state, view: held.append(state)).tokens
    cases = {"written by sampling": (sampled, prompts == task.mask_id, held[-1].written)}

    number = torch.arange(count)[:, None]
    place, zero = torch.arange(task.length), torch.zeros(1, dtype=torch.long)
    rank = ops.philox.uniform(7, number, place, zero, 0).argsort(dim=1).argsort(dim=1)
    context = truth.masked_fill(rank < 96, task.mask_id)
    index = (rank < 16).flatten().nonzero().squeeze(1)
    drawn = View(model, model(context)).sample(index, index // task.length, index % task.length, 0 * index, seed=7)
    spoilt, written = truth.clone(), torch.ones(truth.shape)
    spoilt.view(-1)[index], written.view(-1)[index] = drawn.token, drawn.prob
    cases["in true text"] = (spoilt, rank < 16, written)

    rows = []
    for name, (tokens, judged, written) in cases.items():
        view = View(model, model(tokens), tokens=tokens)
        scores = {
            "learned quality": view.quality,
            "self-likelihood": view.probability(tokens, judged),
            "probability when written": written,
        }
        for score, values in scores.items():
            again = [auroc(values[one][judged[one]], (tokens == truth)[one][judged[one]]) for one in _resampled(count)]
            rows.append({
                "case": name, "score": score, "auroc": auroc(values[judged], (tokens == truth)[judged]),
                "se": float(np.std(again)), "wrong": float((tokens != truth)[judged].double().mean()),
            })  # fmt: skip
    return rows


def _resampled(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(count, (count,), generator=generator) for _ in range(100)]


# ---- the pages


COLUMNS = {
    "right": "right % ±", "bits": "bits/char ±", "entropy": "entropy", "distinct": "distinct-4", "sound": "sound % ±",
    "cost": "cost", "remasks": "remasks", "wasted": "wasted", "wrong_to_right": "mended",
    "right_to_wrong": "spoilt",
}  # fmt: skip

SHORT = ("right", "bits", "entropy", "sound", "remasks")
"""The columns for a terminal."""


def merged(runs: list[dict]) -> list[dict]:
    """Runs of one row with different seeds as one: means over all texts with their intervals."""
    groups: dict[tuple, list[dict]] = {}
    for run in runs:
        groups.setdefault((run["setting"], run["steps"], run["method"], run["order"]), []).append(run)
    place = {(row.method, row.order): number for number, row in enumerate(METHODS)}
    rows = []
    for key, group in groups.items():
        row = dict(zip(("setting", "steps", "method", "order"), key, strict=True))
        row |= {"texts": sum(run["moments"]["bits"][0] for run in group)}
        row |= {"forward": ", ".join(sorted({run["forward"] for run in group}))}
        for name in group[0]["moments"]:
            row[name], row[f"{name}_pm"] = interval(*np.sum([run["moments"][name] for run in group], axis=0).tolist())
        row["diversity"] = float(np.mean([run["diversity"] for run in group]))
        rows.append(row | {"seconds": round(sum(run["seconds"] for run in group), 1), "sample": group[0]["sample"]})
    return sorted(rows, key=lambda r: (list(SETTINGS).index(r["setting"]), r["steps"], place[r["method"], r["order"]]))


def cells(row: dict, names: Sequence[str]) -> list[str]:
    """A row of a table."""
    shown = []
    for name in names:
        value, pm = row[name], row.get(f"{name}_pm", 0.0)
        if name in ("right", "sound"):
            shown.append(f"{100 * value:.1f} ± {100 * pm:.1f}")
        else:
            shown.append(f"{value:.2f} ± {pm:.2f}" if name == "bits" else f"{value:.2f}")
    return shown


def names_of(rows: list[dict], task: str) -> list[str]:
    """The columns that say something of these rows."""
    return [name for name in COLUMNS if name in rows[0] and not (name == "sound" and task != "code")]


def slides(rows: list[dict], truth: dict) -> list[str]:
    """The default rule beside real text, as lines of the page: whether it has less than that in bits and entropy."""
    lines = [
        "", "## Does the default slide?", "",
        "A slide: fewer bits than real text and less entropy. Random order is what a model has unless another is asked "
        "for; beside it what the order does by itself, and the default on top of it.", "",
        "| setting | passes | fill order | fills only: bits ± | entropy | default: bits ± | entropy | a slide |",
        "|---|--:|---|--:|--:|--:|--:|---|",
    ]  # fmt: skip
    alone = {
        (row["setting"], row["steps"], row["order"]): row for row in rows if row["method"] in ("MDLM", "confidence")
    }
    found = [row for row in rows if row["method"] == DEFAULT]
    for row in found:
        plain = alone.get((row["setting"], row["steps"], row["order"]))
        fills = ["-", "-"] if plain is None else cells(plain, ("bits", "entropy"))
        below = [row[name] < truth[name] for name in ("bits", "entropy")]
        said = "yes" if all(below) else "no"
        if said == "yes" and row["bits"] + row["bits_pm"] >= truth["bits"]:
            said = "yes, within the interval"
        if said != "no" and plain is not None and all(plain[name] < truth[name] for name in ("bits", "entropy")):
            said += ", as fills only"
        cell = [row["setting"], str(row["steps"]), row["order"], *fills, *cells(row, ("bits", "entropy")), said]
        lines.append("| " + " | ".join(cell) + " |")
    return lines if found else []


def markdown(result: dict) -> str:
    """The result as a page."""
    what = "Python" if result["task"] == "code" else "English"
    truth = result["truth"]
    lines = [
        f"# {result['model']}: revision where no rule says what is right", "",
        f"Held-out texts ({what}, 128 tokens), model `{result['model']}`, head {result['head_sha256']}, "
        f"{result['texts_a_seed']} texts a seed; how many a row has, and in what its passes were made, the rows say. "
        f"{result['machine']}, exact sampling. Texts of Python {result['made_of']['python']}, hashes "
        f"{result['made_of']['train']} (training) and {result['made_of']['held_out']} (held out). Made by", "",
        *(f"    {command}  # {date}" for date, command in made_by(result["runs"])), "",
        "right: share of the hidden tokens that came back as they were (another may do as well), with half the 95% "
        "interval over texts. bits/char: of the whole text by a 5-gram model of the training texts; "
        f"**real held-out text has {truth['bits']:.2f} ± {truth['bits_pm']:.2f}, entropy {truth['entropy']:.2f}, "
        f"distinct-4 {truth['distinct']:.2f}**: less than that is no gain but a slide into what is frequent. "
        "sound: share of a text up to the first line that cannot be Python (real text: all of it). entropy: of a "
        "text's own tokens, in nats. distinct-4: share of its runs of four tokens that are new in it. cost: forward "
        "passes, each of a method with a head longer by the head's share of one. remasks, "
        "wasted (the same token came back), mended (wrong to right) and spoilt: a text.", "",
        f"## Which score finds the wrong tokens? ({result['numerics']})", "",
        "| tokens | score | AUROC ± se |", "|---|---|--:|",
        *(f"| {r['case']}, {100 * r['wrong']:.0f}% wrong | {r['score']} | {r['auroc']:.3f} ± {r['se']:.3f} |"
          for r in result["detection"]), "", f"![{what}]({result['task']}.png)", *slides(result["rows"], truth),
    ]  # fmt: skip
    for setting, said in SETTINGS.items():
        for steps in sorted({row["steps"] for row in result["rows"]}):
            rows = [row for row in result["rows"] if (row["setting"], row["steps"]) == (setting, steps)]
            if rows:
                names = names_of(rows, result["task"])
                lines += ["", f"## {said[0].upper()}{said[1:]}, {steps} forward passes", ""]
                lines += ["| method | fill order | texts | passes in | "]
                lines[-1] += " | ".join(COLUMNS[name] for name in names) + " |"
                lines += ["|---|---|--:|---|" + "--:|" * len(names)]
                for row in rows:
                    first = [row["method"], row["order"], str(row["texts"]), row["forward"]]
                    lines.append("| " + " | ".join([*first, *cells(row, names)]) + " |")
    lines += ["", "## A text of each, the first", ""]
    last = max(row["steps"] for row in result["rows"])
    for row in result["rows"]:
        if row["steps"] == last and row["setting"] == "free" and row["order"] == "random":
            lines += [f"{row['method']}:", "", *("    " + line for line in row["sample"].split("\n")), ""]
    return "\n".join(lines).rstrip() + "\n"


def made_by(runs: list[dict]) -> list[tuple[str, str]]:
    """Date and command of all that made the runs, the first first."""
    return sorted({(run["date"], run["command"]) for run in runs})


def plot(result: dict, path: Path) -> None:
    """Left: share right where the truth is hidden. Right: what the judge says of free text against its entropy."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    last = max(row["steps"] for row in result["rows"])
    rows = [row for row in result["rows"] if row["steps"] == last]
    hidden = any(row["setting"] != "free" for row in rows)
    figure, [panels] = plt.subplots(1, 1 + hidden, figsize=(6 + 6 * hidden, 4.8), layout="constrained", squeeze=False)
    there = {(row["method"], row["order"]) for row in rows}
    labels = [f"{row.method}, {row.order}" for row in METHODS if (row.method, row.order) in there]
    for setting, marker in (("half", "o"), ("hole", "s")):
        shown = [row for row in rows if row["setting"] == setting]
        if shown:
            place = [labels.index(f"{row['method']}, {row['order']}") for row in shown]
            bars = [100 * row["right_pm"] for row in shown]
            panels[0].errorbar(
                [100 * row["right"] for row in shown], place, xerr=bars, fmt=marker, capsize=2, label=SETTINGS[setting]
            )
    if hidden:
        panels[0].set_yticks(range(len(labels)), labels, fontsize=8)
        panels[0].invert_yaxis()
        panels[0].set(title=f"{last} forward passes", xlabel="hidden tokens that came back, % (95% interval)")
    methods = list(dict.fromkeys(row.method for row in METHODS))
    for row in (row for row in rows if row["setting"] == "free"):
        number = methods.index(row["method"])
        panels[-1].errorbar(
            row["entropy"], row["bits"], row["bits_pm"], row["entropy_pm"], color=f"C{number % 10}", capsize=2,
            marker="osD^vPXph<>d"[number], markersize=7, label=f"{row['method']}, {row['order']}",
            markerfacecolor=f"C{number % 10}" if row["order"] == "random" else "white",
        )  # fmt: skip
    truth = result["truth"]
    panels[-1].plot(truth["entropy"], truth["bits"], "k*", markersize=14, label="real held-out text")
    panels[-1].set(title=f"free texts, {last} forward passes", xlabel="entropy of a text's tokens, nats",
                  ylabel="bits a character, 5-gram judge")  # fmt: skip
    for panel in panels:
        panel.grid(alpha=0.25)
        panel.legend(fontsize=7, frameon=False)
    with write_atomic(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing and write the result; 2 and one line where a setting cannot be used."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="code", help="embedded model or folder of task code or prose (code)")
    parser.add_argument("--texts", type=int, default=128, help="texts a row, shared by the seeds (128)")
    parser.add_argument("--forwards", type=int, nargs="+", default=[16, 32], help="(16 32)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="(0 1)")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="(all)")
    parser.add_argument("--methods", nargs="+", help="only these, as in the table (all)")
    parser.add_argument("--bf16", nargs="?", const="true", default="auto", choices=["auto", "true", "false"],
                        help="autocast to bfloat16: other rounding; auto is what is faster here")  # fmt: skip
    parser.add_argument("--out", default="docs/results", help="folder to write (docs/results)")
    options = parser.parse_args(argv)
    options.bf16 = in_halves(options.bf16 if options.bf16 == "auto" else options.bf16 == "true")
    try:
        compare(options, argv if argv is not None else sys.argv[1:])
    except PrismError as error:
        console.print(f"text.py: {error}", markup=False, highlight=False)
        return 2
    return 0


def compare(options: argparse.Namespace, argv: Sequence[str]) -> None:
    """Run every row that the output folder does not hold yet, and write the pages."""
    share = options.texts // len(options.seeds)
    chosen = [row for row in METHODS if row.method in options.methods] if options.methods else METHODS
    if share < 2 or min(options.forwards) < 1 or not chosen:
        known = ", ".join(dict.fromkeys(row.method for row in METHODS))
        raise ConfigError(f"two texts a seed, one forward pass and a method are needed. Methods: {known}.")
    model = PrismModel.from_pretrained(options.model)
    task = get_task(model.task)
    if not isinstance(task, TextTask) or model.head is None:
        raise ConfigError(f"model {options.model!r} must be one of task code or prose, with a quality head.")
    folder = output_folder(options.out)
    result = {
        "model": options.model, "head_sha256": head_hash(model.head), "task": task.name,
        "texts_a_seed": share, "made_of": task.made_of(),
        "machine": f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s), torch {version('torch')}, no GPU",
        "numerics": f"{precision_in_words(options.bf16)}, {'compiled' if ops.compiled() else 'reference'} ops",
    }  # fmt: skip
    own = {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"), "forward": precision_in_words(options.bf16),
        "command": shlex.join(["python", "benchmarks/text.py", *argv]),
    }  # fmt: skip
    file = folder / f"{task.name}.json"
    before = gone_on_with(file, result, SAME)
    runs = before["runs"]
    if before.get("head_sha256") != result["head_sha256"]:
        runs = [run for run in runs if not run["method"].startswith("PRISM")]
    judge = Judge.of(task)
    truth = look(task, judge, task.texts(0, 128, HELD_OUT))
    result["truth"] = {}
    for name, values in truth.items():
        result["truth"][name], result["truth"][f"{name}_pm"] = interval(*moments(values))
    with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
        result["detection"] = detection(model, task, min(128, options.texts))
    done = {(run["setting"], run["steps"], run["method"], run["order"], run["seed"]) for run in runs}
    jobs = [
        (setting, steps, row, seed)
        for setting in options.settings
        for steps in sorted(options.forwards)
        for row in chosen
        for seed in options.seeds
        if (setting, steps, row.method, row.order, seed) not in done
    ]
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=sum(steps for _, steps, _, _ in jobs) * share)
        for setting, steps, row, seed in jobs:
            progress.update(bar, description=f"{setting}, {steps} forwards: {row.method}, {row.order}, seed {seed}")
            with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
                runs.append(measure(model, task, judge, setting, row, steps, share, seed) | own)
            progress.advance(bar, steps * share)
            save_json(file, {**result, "rows": merged(runs), "runs": runs})
    result |= {"rows": merged(runs), "runs": runs}
    save_json(file, result)
    plot(result, folder / f"{task.name}.png")
    with write_atomic(folder / f"{task.name}.md") as temporary:
        temporary.write_text(markdown(result), encoding="utf-8")
    for setting in options.settings:
        rows = [row for row in result["rows"] if row["setting"] == setting]
        if rows:
            names = [name for name in names_of(rows, task.name) if name in SHORT]
            table = Table(title=SETTINGS[setting], title_justify="left", box=None)
            for name in ("method", "order", "passes", *(COLUMNS[name] for name in names)):
                table.add_column(name, no_wrap=True)
            for row in rows:
                table.add_row(row["method"], row["order"], str(row["steps"]), *cells(row, names))
            console.print(table)
    console.print(f"Written: {file}, {task.name}.md, {task.name}.png")


if __name__ == "__main__":
    sys.exit(main())
