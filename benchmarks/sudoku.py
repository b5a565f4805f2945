"""Which way to revise solves most Sudoku grids at the same number of forward passes?

Runs ``prism_plugin.evaluation.comparison.ROWS`` on held-out puzzles and writes JSON, a plot and a markdown table:

    python benchmarks/sudoku.py                                       512 empty grids a row at 16, 32 and 64 forwards
    python benchmarks/sudoku.py --forwards 16 --puzzles 128 --seeds 0   a quick look

Every finished run is written at once, and the same command goes on where one was broken off. Cost on one core:
about 6 ms a grid and forward pass in f32, 3 ms with --bf16 (where the CPU has it).
"""

import argparse
import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

from prism_plugin import ops
from prism_plugin.config import SamplerConfig
from prism_plugin.errors import ConfigError, PrismError
from prism_plugin.evaluation import comparison
from prism_plugin.files import output_folder, save_json, write_atomic
from prism_plugin.models.checkpoint import PrismModel
from prism_plugin.models.precision import in_halves, precision_in_words
from prism_plugin.plots import plain_ticks
from prism_plugin.tasks import HELD_OUT, get_task

console = Console()
COLOURS = {
    "PRISM": "#1f4fd8",
    "PRISM share": "#7a1fd8",
    "PRISM evidence": "#0b8a3e",
    "PRISM ev., k=1": "#b8431f",
    "random remask": "#9aa3ad",
}
DEFAULT = "PRISM share"
"""What ``prism sample`` takes for the model where no sampler is named."""
CONTROL = "self-lik. share"
"""The rule of the default on a score without training."""
SAME = ("model", "clues", "puzzles_a_seed")
BOUND = [
    comparison.Row(
        "exact share",
        SamplerConfig("prism-share", score="cavity", cavity_groups=16, order=order),
        "the bound: the rule of PRISM share by what the model says of every cell with its group of 16 hidden, in 16 "
        "passes more a step; run where it is named alone",
    )
    for order in ("confidence", "random")
]


def merge(runs: list[dict]) -> dict:
    """Runs of one row with different seeds as one: counts summed, means averaged, the interval over all puzzles."""
    puzzles, solved = (sum(run[key] for run in runs) for key in ("puzzles", "solved"))
    low, high = comparison.wilson(solved, puzzles)
    mean = {
        key: round(sum(run[key] * run["puzzles"] for run in runs) / puzzles, 4)
        for key in ("accuracy", "forwards", "remasks", "wasted", "diversity")
    }
    return {
        **runs[0], "puzzles": puzzles, "solved": solved, "solved_share": solved / puzzles, "low": low, "high": high,
        **mean, "seconds": round(sum(run["seconds"] for run in runs), 1), "seed": [run["seed"] for run in runs],
        "solved_by_seed": [run["solved"] for run in runs],
        "forward": ", ".join(sorted({run["forward"] for run in runs})),
        "outcomes": "".join(run.get("outcomes", "") for run in runs),
    }  # fmt: skip


def paired(one: dict, other: dict) -> tuple[float, float]:
    """By how much the first row's share is higher, and half the 95% interval of that; paired by grid and seed where the
    outcomes of both were kept, else as of two samples.
    """
    gap, n = one["solved_share"] - other["solved_share"], one["puzzles"]
    if len(one["outcomes"]) == len(other["outcomes"]) == n:
        both = sum(a == b == "1" for a, b in zip(one["outcomes"], other["outcomes"], strict=True)) / n
        variance = one["solved_share"] + other["solved_share"] - 2 * both - gap**2
    else:
        variance = sum(row["solved_share"] * (1 - row["solved_share"]) for row in (one, other))
    return gap, 1.96 * (variance / n) ** 0.5


def against(rows: list[dict]) -> list[str]:
    """``DEFAULT`` against the best of the others in every column, as lines of markdown; none where it was not run."""
    lines = []
    for steps, order in sorted({(row["steps"], row["order"]) for row in rows}, key=lambda c: (c[0], c[1] != "random")):
        column = {row["method"]: row for row in rows if (row["steps"], row["order"]) == (steps, order)}
        own = column.pop(DEFAULT, None)
        if own and column:
            best = max(column.values(), key=lambda row: row["solved"])
            gap, half = paired(own, best)
            kind = "paired" if len(own["outcomes"]) == len(best["outcomes"]) == own["puzzles"] else "two samples"
            control, more = column.get(CONTROL), ["-", "-"]
            if control:
                ahead, width = paired(own, control)
                more = [f"{100 * control['solved_share']:.1f}", f"{100 * ahead:+.1f} ± {100 * width:.1f}"]
            lines.append(
                f"| {steps}, {order} | {100 * own['solved_share']:.1f} | {best['method']} | "
                f"{100 * best['solved_share']:.1f} | {100 * gap:+.1f} ± {100 * half:.1f} | {kind} | "
                + " | ".join(more)
                + " |"
            )
    if not lines:
        return []
    return [
        "", f"## {DEFAULT}, the default, against the best of the others", "",
        "| passes, fill order | solved % | best of the others | solved % | difference (95%) | interval | "
        f"{CONTROL} % | difference (95%) |",
        "|---|--:|---|--:|--:|---|--:|--:|", *lines,
    ]  # fmt: skip


def markdown(result: dict) -> str:
    """The result as a page of tables, one for each number of forwards."""
    shown = {row["method"] for row in result["rows"]}
    notes = {row.method: row.note for row in [*comparison.ROWS, *BOUND] if row.method in shown}
    made_by = sorted({(run["date"], run["command"]) for run in result["runs"]})
    what = "empty grids, generated whole" if not result["clues"] else f"grids with {result['clues']} random clues"
    lines = [
        "# Sudoku: methods of revision at the same number of forward passes",
        "",
        f"{max(row['puzzles'] for row in result['rows'])} puzzles a row ({what}), model `{result['model']}`, "
        f"{result['puzzles_a_seed']} a seed. {result['machine']}, exact sampling; passes in what the rows say. Made by",
        "",
        *(f"    {command}  # {date}" for date, command in made_by),
        "",
        *(line for note in result["notes"] for line in (note, "")),
        "Solved: every row, column and box holds all digits and the clues stand, with the 95% Wilson interval. "
        "Cells right: cells that clash with no other. Remasks, and those wasted (the same token came back), are means "
        "a grid; s is the time of all, on a shared machine no measure of speed. Diversity: share of cells in which two "
        "grids of a seed differ, "
        f"{result['diversity_of_truth']:.3f} for true ones. The methods:",
        "",
        *(f"- {method}: {note}" for method, note in notes.items()),
        "",
        "![Share of grids solved](sudoku.png)",
    ]
    for steps in sorted({row["steps"] for row in result["rows"]}):
        lines += ["", f"## {steps} forward passes", "", "| " + " | ".join(comparison.COLUMNS) + " | passes in |"]
        lines += ["|" + "---|" * 2 + "--:|" * (len(comparison.COLUMNS) - 2) + "---|"]
        for row in (row for row in result["rows"] if row["steps"] == steps):
            lines.append("| " + " | ".join([*comparison.cells(row), row["forward"]]) + " |")
    return "\n".join(lines + against(result["rows"])) + "\n"


def plot(result: dict, path: Path) -> None:
    """Share solved against forward passes, one panel a fill order, bars for the interval."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(11, 4.4), sharey=True, layout="constrained")
    methods = list(dict.fromkeys(row.method for row in [*comparison.ROWS, *BOUND]))
    for panel, order in zip(panels, ("random", "confidence"), strict=True):
        for number, method in enumerate(methods):
            rows = [row for row in result["rows"] if (row["method"], row["order"]) == (method, order)]
            if not rows:
                continue
            share = [100 * row["solved_share"] for row in rows]
            bars = [[s - 100 * row["low"] for s, row in zip(share, rows, strict=True)],
                    [100 * row["high"] - s for s, row in zip(share, rows, strict=True)]]  # fmt: skip
            place = [row["forwards"] * 1.012 ** (number - len(methods) / 2) for row in rows]
            style = {
                "linewidth": 2.4 if method.startswith("PRISM") else 1.2,
                "color": COLOURS.get(method, plt.get_cmap("tab20")(number)),
            }
            panel.errorbar(place, share, bars, label=method, marker="o", markersize=4, capsize=2, **style)
        panel.set(title=f"fill order: {order}", xlabel="forward passes", xscale="log", ylim=(-2, 102))
        plain_ticks(panel.xaxis, list({max(row["steps"], round(row["forwards"])) for row in result["rows"]}))
        panel.grid(alpha=0.25)
    panels[0].set_ylabel("grids solved, % (95% interval)")
    named = {name: handle for panel in panels for handle, name in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(named.values(), named.keys(), loc="outside right center", fontsize=8, frameon=False)
    with write_atomic(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")
    plt.close(figure)


def write(result: dict, runs: list[dict], folder: Path) -> dict:
    """Write the JSON from the runs there are and return it."""
    groups: dict[tuple, list[dict]] = {}
    for run in runs:
        groups.setdefault((run["steps"], run["method"], run["order"]), []).append(run)
    place = {(row.method, row.order): n for n, row in enumerate([*comparison.ROWS, *BOUND])}
    rows = sorted(
        (merge(group) for group in groups.values()), key=lambda r: (r["steps"], place[r["method"], r["order"]])
    )
    dates = sorted(run["date"] for run in runs)
    result = {**result, "date": " to ".join(dict.fromkeys(dates[:1] + dates[-1:])), "rows": rows, "runs": runs}
    save_json(folder / "sudoku.json", result)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing and write the result; 2 and one line where a setting cannot be used."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sudoku", help="embedded model or folder (sudoku)")
    parser.add_argument("--puzzles", type=int, default=512, help="puzzles a row, shared by the seeds (512)")
    parser.add_argument("--clues", type=int, default=0, help="cells given; 0: empty grids (0)")
    parser.add_argument("--forwards", type=int, nargs="+", default=[16, 32, 64], help="(16 32 64)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3], help="(0 1 2 3)")
    parser.add_argument("--methods", nargs="+", help="only these, as in the table (all)")
    parser.add_argument("--orders", nargs="+", choices=["random", "confidence"], help="only these (both)")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--bf16", nargs="?", const="true", default="auto", choices=["auto", "true", "false"],
                        help="autocast to bfloat16: other rounding; auto is what is faster here")  # fmt: skip
    parser.add_argument("--out", default="docs/results", help="folder to write (docs/results)")
    options = parser.parse_args(argv)
    options.bf16 = in_halves(options.bf16 if options.bf16 == "auto" else options.bf16 == "true")
    try:
        compare(options, argv if argv is not None else sys.argv[1:])
    except PrismError as error:
        console.print(f"sudoku.py: {error}", markup=False, highlight=False)
        return 2
    return 0


def compare(options: argparse.Namespace, argv: Sequence[str]) -> None:
    """Run every row of every seed and number of forwards that the output folder does not hold yet."""
    if options.puzzles < len(options.seeds) or min(options.forwards) < 1:
        raise ConfigError("at least one puzzle a seed and one forward pass are needed.")
    known = [*comparison.ROWS, *BOUND]
    chosen = [row for row in known if row.method in options.methods] if options.methods else comparison.ROWS
    if not chosen:
        raise ConfigError(f"no method of that name. Methods: {', '.join(dict.fromkeys(r.method for r in known))}.")
    folder = output_folder(options.out)
    model = PrismModel.from_pretrained(options.model)
    task = get_task(model.task)
    share = options.puzzles // len(options.seeds)
    result = {
        "model": options.model, "task": task.name, "clues": options.clues, "puzzles_a_seed": share, "notes": [],
        "diversity_of_truth": round(comparison.diversity(task.texts(0, max(share, 256), HELD_OUT), task.vocab_size), 4),
        "machine": f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s), torch {version('torch')}, no GPU, "
        f"{'compiled' if ops.compiled() else 'reference'} ops",
    }  # fmt: skip
    own = {
        "command": shlex.join(["python", "benchmarks/sudoku.py", *argv]), "forward": precision_in_words(options.bf16),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    }  # fmt: skip
    before = comparison.gone_on_with(folder / "sudoku.json", result, SAME)
    runs, result["notes"] = before["runs"], before.get("notes", [])
    done = {(run["steps"], run["method"], run["order"], run["seed"]) for run in runs}
    jobs = [
        (forwards, row, seed)
        for forwards in sorted(options.forwards)
        for row in chosen
        if not options.orders or row.order in options.orders
        for seed in options.seeds
        if (forwards, row.method, row.order, seed) not in done
    ]
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=sum(forwards for forwards, _, _ in jobs) * share)
        for forwards, row, seed in jobs:
            progress.update(bar, description=f"{forwards} forwards: {row.method}, {row.order}, seed {seed}")
            prompts = task.prompts(share, options.clues, first=seed * share)
            with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
                chosen_model = comparison.choose(row, model, options.model)
                runs.append(
                    comparison.measure(chosen_model, task, prompts, row, forwards, seed, batch_size=options.batch_size)
                    | own
                )
            progress.advance(bar, forwards * share)
            if seed == options.seeds[-1]:
                write(result, runs, folder)
    result = write(result, runs, folder)
    plot(result, folder / "sudoku.png")
    with write_atomic(folder / "sudoku.md") as temporary:
        temporary.write_text(markdown(result), encoding="utf-8")
    for forwards in sorted({row["steps"] for row in result["rows"]}):
        rows = [row for row in result["rows"] if row["steps"] == forwards]
        console.print(comparison.table(rows, f"Sudoku, {rows[0]['puzzles']} puzzles, {forwards} forward passes each"))
    console.print(f"Written: {folder / 'sudoku.json'}, sudoku.png, sudoku.md")


if __name__ == "__main__":
    sys.exit(main())
