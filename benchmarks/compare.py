"""Questions asked of revision, each answered by ``prism compare`` on the embedded models, each a page.

    python -m benchmarks.compare                    all of them, as `make bench` does
    python -m benchmarks.compare sudoku --quick     a look: 16 texts, one seed, two budgets

Writes docs/results/compare/QUESTION.json (what ``prism compare`` wrote of each part) and QUESTION.md, which is made
from the former and from nothing else. A part goes on where it was broken off, and from what its page has where more
seeds, samplers or budgets are asked for. Every sampler of a budget spends the same weighted forward passes; "level with
the best" means that the paired 95% interval of the difference (texts drawn anew, a text's scores averaged over the
seeds) holds 0. Where texts are judged by bits a character, a sampler that is below real text in bits and in entropy has
slid into what is frequent, and one whose mean text is poorer than 95% of the real ones writes loops: both are named,
and cannot be the best. Samplers that differ in ``top_p`` alone are a curve of quality against diversity: the page draws
it, and reads it off where texts are as rich as real ones.
"""

import argparse
import json
import platform
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prism_plugin.config import load
from prism_plugin.errors import PrismError
from prism_plugin.evaluation.judge import Causal, Judge
from prism_plugin.evaluation.rivals import (
    CONTROL,
    CompareConfig,
    bootstrap,
    compared,
    entropy_low,
    lines,
    richness,
    slid,
    truth,
)
from prism_plugin.files import load_json, output_folder, save_json, write_atomic
from prism_plugin.tasks import HELD_OUT, get_task
from prism_plugin.tasks.text import TextTask

WITHOUT = "mdlm,confidence,remdm-conf,remdm-loop,self-likelihood,shadow-evidence"
LEARNED = "prism,prism-share,prism-loop,prism-evidence,prism-adaptive"
TEXT = ("metric=judge-causal", "texts=64", "seeds=0,1")
PUBLISHED = ("model=code", "head=prism_plugin/assets/code/prism_loss", *TEXT)
TAUS = (0.6, 0.7, 0.8, 0.9)
THRESHOLDS = ",".join(["threshold", *(f"threshold-remask:tau={tau}" for tau in TAUS)])
NUCLEI = (1.0, 0.95, 0.9, 0.8)
COUNTS = ("self-likelihood", "prism")
CURVES = ["mdlm", "random-remask", *(f"{name}:num_remask={count}" for name in COUNTS for count in (1, 2, 4)),
          "prism-evidence", "shadow-evidence"]  # fmt: skip


def nuclei(*names: str, of: Sequence[float] = NUCLEI) -> str:
    """Samplers, each at every nucleus; the control is there without one."""
    return ",".join(f"{name}:top_p={p}" for name in names for p in of if (name, p) != (CONTROL, 1.0))


FEW = nuclei(*CURVES[3:5], CURVES[6], "prism-evidence", "shadow-evidence", of=(1.0, 0.9))
TUNED = nuclei(*(f"{name}:num_remask=2" for name in COUNTS), "prism-evidence", of=(1.0, 0.9))
HALF = ("steps=32", "clues=64", "metric=judge-causal", "texts=128", "seeds=0")
ENGLISH = "build/corpora/english/held_out.jsonl"
"""What `english` never learned: benchmarks/english.py makes it."""
TRAINED = Path("build/trained/code")
"""Where `python -m benchmarks.trained code --base python` leaves its models; one that is asked for is made first."""


@dataclass(frozen=True)
class Question:
    """title: what is asked. parts: names and settings of ``prism compare``; of a part ``short`` says how many masks
    stand alone in place of a text of the task, ``first`` how many tokens of a held-out one are given for the rest to be
    written. beside: the sampler that the others' differences from are told.
    """

    title: str
    parts: dict[str, tuple[str, ...]]
    samplers: str = f"{WITHOUT},{LEARNED}"
    beside: str = ""


QUESTIONS = {
    "sudoku": Question(
        "9x9 grids written whole: who solves most at 8, 16, 32 and 64 forward passes?",
        {"sudoku": ("model=sudoku", "steps=8,16,32,64", "texts=64", "seeds=0,1")},
    ),
    "clued": Question(
        "Grids of which 30 cells are given: who solves most, and who spoils what is right?",
        {"sudoku, 30 given": ("model=sudoku", "steps=8,16,32", "clues=30", "texts=64", "seeds=0,1")},
    ),
    "whole": Question(
        "Python: texts of 128 tokens written whole, in fewer passes than tokens",
        {"python": ("model=python", "steps=16,48", *TEXT)},
    ),
    "long": Question(
        "Texts of 128 tokens written whole, in more passes than tokens",
        {
            "python": ("model=python", "steps=192", *TEXT, "texts=32"),
            "english": ("model=english", "steps=192", f"real={ENGLISH}", *TEXT, "texts=32"),
        },
        "mdlm,remdm-loop,self-likelihood,self-likelihood:num_remask=1,shadow-evidence,prism,prism:num_remask=1,"
        "prism-loop,prism-evidence",
    ),
    "given": Question(
        "Half of a text's tokens are given: who completes it best, and who spoils what is right?",
        {"python": ("model=python", "steps=16", "clues=64", *TEXT)},
    ),
    "continued": Question(
        "The first half of a text is given: who writes the rest best?",
        {name: (f"model={name}", "steps=16", "first=64", *TEXT) for name in ("python", "prose")},
        "mdlm,confidence,threshold,self-likelihood,self-likelihood:num_remask=2,shadow-evidence,prism-share,prism,"
        "prism-evidence,prism-evidence:top_p=0.9",
    ),
    "sooner": Question(
        "Half given, in few passes: is a text better filled with care, or at once and then corrected?",
        {
            "python": ("model=python", "steps=4,8,16", "clues=64", *TEXT),
            "english": ("model=english", "steps=4,8,16", "clues=64", f"real={ENGLISH}", *TEXT),
        },
        "confidence,confidence:temperature=0,threshold,saber,saber:score=evidence,wino,prism-share,"
        "threshold-remask:score=evidence:tau=0.6",
        "threshold",
    ),
    "short": Question(
        "Short texts, which the publication names as its limit: a fixed count, evidence, or the adaptive rule?",
        {f"{length} tokens": ("model=python", f"steps={steps}", f"short={length}", *TEXT)
         for length, steps in ((8, "4,8"), (16, "8,16"), (32, "16,32"), (64, "32"))},
        "mdlm,confidence,self-likelihood,shadow-evidence,prism,prism-evidence,prism-adaptive",
    ),
    "claims": Question(
        "The publication's claims for text, one by one, with a head that its own loss made",
        {
            "few passes": (*PUBLISHED, "steps=16,32", "samplers=mdlm,remdm-conf,remdm-rescale,prism,prism-text"),
            "diversity by the loop": (*PUBLISHED, "steps=64,128", "samplers=prism,prism-text,prism-loop", "texts=32"),
            "eta as steps grow": (*PUBLISHED, "steps=32,64,128", "texts=32",
                                  "samplers=prism-text:eta=0.03,prism-text:eta=0.0075:eta_schedule=inverse"),
            "need of tuning": (*PUBLISHED, "steps=32", "samplers="
                               + ",".join(f"prism-text:eta={eta}" for eta in (0.003, 0.01, 0.03, 0.1, 0.3))),
        },
    ),
    "seldom": Question(
        "Python, whole: is a head that costs a third of a pass better asked in some steps alone?",
        {"python": ("model=python", "steps=16", *TEXT)},
        ",".join(f"prism-evidence{when}" for when in ("", ":every=2", ":every=3", ":step_on=0.25", ":step_on=0.5")),
        "prism-evidence",
    ),
    "english": Question(
        "English: texts of 128 tokens written whole, by the model of five packages' prose",
        {"english": ("model=english", "steps=32", f"real={ENGLISH}", *TEXT)},
        "mdlm,confidence,remdm-conf,self-likelihood,shadow-evidence,prism,prism-evidence,prism-evidence:top_p=0.9",
    ),
    "frontier": Question(
        "Python: quality against diversity, with the nucleus and the count of remasks as what one turns",
        {
            "python": ("model=python", "steps=32", *TEXT),
            "tuned by the PRISM loss": (f"model={TRAINED}/PRISM-0", "steps=32", *TEXT, f"samplers={TUNED}"),
            "python in 16 passes": ("model=python", "steps=16", *TEXT, f"samplers={FEW}"),
        },
        nuclei(*CURVES),
    ),
    "thresholds": Question(
        "Remasking below strict and loose thresholds, before and after plain fine-tuning: by confidence, by the head",
        {
            "before": ("model=python", *HALF),
            "after plain fine-tuning": (f"model={TRAINED}/further-0", *HALF, f"samplers={THRESHOLDS}"),
        },
        ",".join([THRESHOLDS, *(f"threshold-remask:score=quality:tau={tau}" for tau in TAUS),
                  *(f"threshold-remask:score=evidence:tau={tau}" for tau in (0.1, 0.3, 0.6, 1.0))]),
        "threshold",
    ),
}  # fmt: skip
QUICK = {"steps": "8,16", "texts": "16", "seeds": "0"}


def settings(part: tuple[str, ...], question: Question, quick: bool, folder: Path) -> list[str]:
    """Settings of ``prism compare`` for a part."""
    given = dict(one.split("=", 1) for one in (f"samplers={question.samplers}", *part))
    given |= QUICK if quick else {}
    if short := given.pop("short", ""):
        rows = [json.dumps({"prompt": f"[MASK*{short}]"})] * int(given["texts"])
        (folder / f"{short}.jsonl").write_text("\n".join(rows))
        given |= {"data": str(folder / f"{short}.jsonl"), "slots": "64"}
    if first := int(given.pop("first", 0)):
        task, file = text_task(given["model"]), folder / f"{given['model']}-{first}.jsonl"
        texts = task.texts(0, int(given["texts"]), HELD_OUT)
        file.write_text("\n".join(json.dumps({"prompt": task.render(row[:first])}) for row in texts))
        given |= {"data": str(file), "slots": "64", "max_new_tokens": str(task.length - first)}
    return [f"{name}={value}" for name, value in given.items()]


def text_task(model: str) -> TextTask:
    """The task of an embedded model of text."""
    task = get_task("prose" if model == "prose" else "code")
    assert isinstance(task, TextTask)
    return task


def real(task: TextTask, length: int, texts: int) -> dict[str, Any]:
    """What is said of the first ``length`` tokens of held-out texts, as ``prism compare`` does of what is written."""
    rows = list(task.texts(0, texts, HELD_OUT)[:, :length])
    scores, other = (
        np.array([-judge.of(task).bits(task, task.render(row)) for row in rows]) for judge in (Causal, Judge)
    )
    low, high = bootstrap(scores)
    said_of = {"score": float(scores.mean()), "low": low, "high": high, "other": float(other.mean())}
    return said_of | richness(rows, task.vocab_size) | {"entropy_low": entropy_low(rows)}


def run(name: str, out: Path, quick: bool, work: Path) -> None:
    """Make what is missing of a question, and its page."""
    question, file = QUESTIONS[name], out / f"{name}.json"
    found = load_json(file) if file.exists() else {}
    for label, part in question.parts.items():
        given = settings(part, question, quick, work)
        folder = work / picture(name, label).removesuffix(".png")
        if label in found.get("parts", {}):
            if sorted(found["parts"][label]["asked"]) == said(given):
                continue
            begin(found["parts"][label], load([*given, f"out={folder}"], CompareConfig))
        if (model := Path(dict(one.split("=", 1) for one in given)["model"])).parent == TRAINED:
            from benchmarks.trained import trained

            recipe, seed = model.name.rsplit("-", 1)
            trained("code", "python", recipe, int(seed), TRAINED)
        told = compared(load([*given, f"out={folder}", "resume=true"], CompareConfig), tell)
        if any(one.startswith("short=") for one in part):
            told["shorter"] = real(text_task(model.name), int(label.split()[0]), 128)
        if any(one.startswith("first=") for one in part):
            task = text_task(model.name)
            told["real"] = real(task, task.length, told["rows"][0]["texts"])
        for unit in told["units"]:
            unit.pop("settings")
        found.setdefault("parts", {})[label] = {"asked": said(given), **told}
        asked = shlex.join(["python", "-m", "benchmarks.compare", name, *(["--quick"] if quick else [])])
        found |= machine(asked) | {"question": question.title, "beside": question.beside}
        save_json(file, found)
    with write_atomic(out / f"{name}.md") as temporary:
        temporary.write_text("\n".join(page(found, name)) + "\n", encoding="utf-8")
    for label, part in found["parts"].items():
        if part["real"] and curves(part):
            draw(part, out / picture(name, label))
    print(f"Written: {file}, {name}.md", flush=True)


def begin(part: dict[str, Any], config: CompareConfig) -> None:
    """Lay what a page has of a part where ``prism compare`` goes on from it, where seeds, samplers or budgets alone are
    others now.
    """
    file = output_folder(config.out) / "results.json"
    if file.exists() or part["settings"] != config.same():
        return
    units = [
        unit
        for unit in with_settings(part)
        if unit["sampler"] in config.names and unit["budget"] in config.budgets and unit["seed"] in config.draws
    ]
    kept = {name: part[name] for name in ("settings", "of", "real", "calibration") if name in part}
    save_json(file, kept | {"units": units})


def with_settings(part: dict[str, Any]) -> list[dict[str, Any]]:
    """The units of a page with the settings of their rows, which they were written without."""
    of = {(row["sampler"], row["budget"]): row["settings"] for row in part["rows"]}
    return [{**unit, "settings": of[unit["sampler"], unit["budget"]]} for unit in part["units"]]


def machine(command: str) -> dict[str, Any]:
    """What made a result: command, date and machine."""
    cpu = f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s), torch {version('torch')}"
    return {"command": command, "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"), "machine": cpu}


def said(given: Sequence[str]) -> list[str]:
    """Settings, sorted, without the place where a file of masks lies, and how many are written at a time."""
    kept = (one for one in given if not one.startswith("slots="))
    return sorted(one if not one.startswith("data=") else f"data={Path(one[5:]).name}" for one in kept)


def tell(what: str, done: int, units: int) -> None:
    """A line a unit."""
    print(f"{done + 1}/{units} {what}", file=sys.stderr, flush=True)


def picture(name: str, label: str) -> str:
    """The file of a part's picture."""
    return f"{name}-{label.replace(', ', '-').replace(' ', '-')}.png"


def page(found: dict[str, Any], name: str) -> Iterator[str]:
    """The page of a question, from what was found."""
    yield from (
        f"# {found['question']}",
        "",
        f"    {found['command']}",
        "",
        f"{found['date']}, {found['machine']}, no GPU.",
        "",
    )
    for label, part in found["parts"].items():
        first = part["rows"][0]
        seeds = ", ".join(map(str, first["seeds"]))
        yield from (f"## {label[0].upper()}{label[1:]}", "")
        yield f"{first['texts']} texts, seeds {seeds}. Score: {part['metric']}, higher is better. {spread(part)}"
        if part.get("shorter"):
            yield (f"Real text of this length: {part['shorter']['score']:.3f} "
                   f"({part['shorter']['low']:.3f}, {part['shorter']['high']:.3f}).")  # fmt: skip
        yield ""
        for budget in sorted({row["budget"] for row in part["rows"]}):
            yield from (f"- {budget} forward passes: {verdict(part, budget)}",)
            yield from beside(part, budget, found.get("beside"))
        if part["real"] and (drawn := curves(part)):
            yield from ("", f"![score against the entropy of a text]({picture(name, label)})", "")
            yield from as_rich(drawn, part["real"])
        shown = [*lines(part), *([truth(part)] if part["real"] else [])]
        yield from ("", "| " + " | ".join(shown[0]) + " |", "|---|" + "--:|" * (len(shown[0]) - 1))
        yield from ("| " + " | ".join(line.values()) + " |" for line in shown)
        yield ""


def spread(part: dict[str, Any]) -> str:
    """How far seeds lie apart."""
    spreads = [row["spread"] for row in part["rows"] if row["spread"] is not None]
    if not spreads:
        return "One seed: nothing is said of the spread over seeds."
    return f"The seeds' means lie {np.median(spreads):.3f} apart (standard deviation, median of the rows)."


def verdict(part: dict[str, Any], budget: int) -> str:
    """Who is best at a budget, who is level with it, who has slid past real text, and what the learned score brings."""
    rows = [row for row in part["rows"] if row["budget"] == budget]
    past = [row for row in rows if slid(row, part)]
    fair = [row for row in rows if row not in past and row["cost"] <= 1.1 * budget] or rows
    best = max(fair, key=lambda row: row["score"])
    level = [row["sampler"] for row in fair if row is not best and apart(best, row)[0] <= 0]
    text = f"best is {best['sampler']} ({best['score']:.3f})" + (f", level with it {', '.join(level)}" if level else "")
    learned = [row for row in fair if re.match(r"prism|.*score=(quality|evidence)", row["sampler"])]
    plain = [row for row in fair if row not in learned]
    if learned and plain:
        one, other = (max(some, key=lambda row: row["score"]) for some in (learned, plain))
        low, high = apart(one, other)
        text += (f"; the best learned, {one['sampler']}, against the best without a head, {other['sampler']}: "
                 f"{one['score'] - other['score']:+.3f} ({low:+.3f}, {high:+.3f})")  # fmt: skip
    if past:
        text += f"; poorer than real text, so out of the race: {', '.join(row['sampler'] for row in past)}"
    return text + "."


def beside(part: dict[str, Any], budget: int, sampler: str | None) -> Iterator[str]:
    """What every other sampler gains over one of them."""
    rows = {row["sampler"]: row for row in part["rows"] if row["budget"] == budget}
    if sampler in rows:
        for name, row in rows.items():
            low, high = apart(row, rows[sampler])
            if name != sampler:
                gain = row["score"] - rows[sampler]["score"]
                yield f"- `{name}` over `{sampler}`: {gain:+.3f} ({low:+.3f}, {high:+.3f})"


Curve = list[dict[str, Any]]


def curves(part: dict[str, Any]) -> dict[str, Curve]:
    """Samplers that were run at several nuclei at one budget, where there are two or more such: their rows, from the
    poorest texts to the richest.
    """
    found: dict[str, Curve] = {}
    for row in sorted(part["rows"], key=lambda row: float(row["entropy"])):
        found.setdefault(re.sub(r":top_p=[^:]*", "", row["sampler"]), []).append(row)
    swept = {name: rows for name, rows in found.items() if len({row["sampler"] for row in rows}) > 1}
    return swept if len(swept) > 1 else {}


def between(curve: Curve, entropy: float) -> np.ndarray | None:
    """A score a text at an entropy, in proportion between the two rows that enclose it; None outside the curve."""
    for poor, rich in pairwise(curve):
        if poor["entropy"] <= entropy <= rich["entropy"]:
            share = (entropy - poor["entropy"]) / max(rich["entropy"] - poor["entropy"], 1e-9)
            mixed: np.ndarray = (1 - share) * np.array(poor["scores"]) + share * np.array(rich["scores"])
            return mixed
    return None


def as_rich(drawn: dict[str, Curve], real: dict[str, Any]) -> Iterator[str]:
    """What each curve has where its texts are as rich as real ones, against the best of them."""
    found = {name: scores for name, curve in drawn.items() if (scores := between(curve, real["entropy"])) is not None}
    ranked = sorted(found, key=lambda name: -found[name].mean())
    yield f"Where the entropy of a text is that of real ones ({real['entropy']:.2f}), between the two nearest nuclei:"
    yield from ("", "| sampler | score (95%) | against the first (95%) |", "|---|--:|--:|")
    for name in ranked:
        (low, high), apart = bootstrap(found[name]), found[name] - found[ranked[0]]
        behind = "first" if name == ranked[0] else "{:+.3f} ({:+.3f}, {:+.3f})".format(apart.mean(), *bootstrap(apart))
        yield f"| {name} | {found[name].mean():.3f} ({low:.3f}, {high:.3f}) | {behind} |"
    for name, curve in drawn.items():
        if name not in found:
            side = "poorer" if curve[-1]["entropy"] < real["entropy"] else "richer"
            yield f"| {name} | {side} at every nucleus: {curve[0]['entropy']:.2f} to {curve[-1]['entropy']:.2f} | |"


def draw(part: dict[str, Any], file: Path) -> None:
    """Score against entropy, a line a curve, and the cross of real text."""
    from matplotlib.figure import Figure

    plot = Figure(figsize=(8.5, 5), layout="constrained")
    axes = plot.subplots()
    for number, (name, curve) in enumerate(curves(part).items()):
        low, high = (np.array([abs(row["score"] - row[end]) for row in curve]) for end in ("low", "high"))
        axes.errorbar(
            [row["entropy"] for row in curve], [row["score"] for row in curve], (low, high), label=name, marker="o",
            markersize=3, linewidth=1.4, elinewidth=0.6, color=f"C{number}",
        )  # fmt: skip
    real = part["real"]
    axes.plot(real["entropy"], real["score"], "x", color="black", markersize=11, markeredgewidth=2.5, label="real text")
    axes.set(xlabel="entropy of a text, nats", ylabel=part["metric"])
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    with write_atomic(file) as temporary:
        plot.savefig(temporary, dpi=120, format="png")


def apart(one: dict[str, Any], other: dict[str, Any]) -> tuple[float, float]:
    """Paired 95% interval of the difference of two rows."""
    return bootstrap(np.array(one["scores"]) - np.array(other["scores"]))


def main(argv: Sequence[str] | None = None) -> int:
    """Answer the questions that are named, all by default."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", nargs="*", help=f"of {', '.join(QUESTIONS)} (all)")
    parser.add_argument("--quick", action="store_true", help="16 texts, one seed, two budgets")
    parser.add_argument("--out", default="docs/results/compare", help="folder to write (docs/results/compare)")
    parser.add_argument("--work", help="folder of the comparisons and their reports (a temporary one)")
    options = parser.parse_args(argv)
    if unknown := set(options.questions) - set(QUESTIONS):
        print(f"compare.py: no question {', '.join(sorted(unknown))}; there are {', '.join(QUESTIONS)}.")
        return 2
    out = output_folder(options.out)
    with tempfile.TemporaryDirectory() as temporary:
        work = output_folder(options.work) if options.work else Path(temporary)
        try:
            for name in options.questions or QUESTIONS:
                run(name, out, options.quick, work)
        except PrismError as error:
            print(f"compare.py: {error}")
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
