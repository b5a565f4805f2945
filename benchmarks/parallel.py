"""Does revision help where tokens depend on each other jointly, which filling many at once cannot know?

The waiting line of ParallelBench (arXiv 2510.04767, which finds no gain from ReMDM and RCR on its tasks), made from
scratch on tokens: a line of eight, a newcomer where there is one, and what is to be done with them.

    copy, reverse, sort   the answer is determined: every token of it can be written without knowing the others
    shuffle               the line in any other order: each token is free, all of them are not
    replace               the newcomer in the place of one of the line, whichever: one place only, and one there must be

    python -m benchmarks.parallel            to docs/results/parallel.json, .md and .png
    python -m benchmarks.parallel --quick    a look, within a minute, to build/parallel

One small model of all five is trained by ``prism train mdm data=…``, its head by ``quality.objective=cavity``: what the
model itself says of a token that is hidden from it. Every sampler of a budget costs the same weighted passes, and an
answer is right or it is not. Of shuffle and replace the same is done with the true distribution in the model's place
(``Truth``), whose posteriors are exact, so that what is wrong there is of the sampler alone.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.compare import machine
from benchmarks.exact_model import FirstHidden
from prism_plugin.config import load
from prism_plugin.evaluation.rivals import bootstrap, nearest
from prism_plugin.files import load_json, output_folder, save_json, write_atomic
from prism_plugin.models.backbone import BackboneConfig
from prism_plugin.models.checkpoint import PrismModel
from prism_plugin.models.denoiser import Denoiser, Layout, Output, View
from prism_plugin.plots import plain_ticks
from prism_plugin.quality import cavity
from prism_plugin.quality.calibration import auroc
from prism_plugin.sampling.config import SamplerConfig, fitting, resolve
from prism_plugin.sampling.drive import Result, generate
from prism_plugin.sampling.parts import trained_for
from prism_plugin.sampling.state import State
from prism_plugin.training.train import train

SIZE, WORDS = 8, 20
MASK, BLANK, BAR = 0, WORDS + 1, WORDS + 2  # words are 1 to 20
OPERATIONS = ("copy", "reverse", "sort", "shuffle", "replace")
JOINT = ("shuffle", "replace")
VOCABULARY = BAR + 1 + len(OPERATIONS)
LINE, NEWCOMER, ANSWER = slice(1, 1 + SIZE), 1 + SIZE, slice(3 + SIZE, 3 + 2 * SIZE)
SAMPLERS = (
    "mdlm", "random", "confidence", "random-remask", "self-likelihood", "remdm-conf", "rcr", "prism", "prism-evidence",
    "prism-adaptive", "shadow-evidence", "cavity-evidence",
)  # fmt: skip
FILLS = "random"
"""Fills by the same plan as those that revise, and nothing more: what revision is held against."""
CONTROL = "random-remask"
LEAK = 1e-6
"""Of ``Truth``: how likely a visible token is taken to be wrong."""


# ---- the tasks


def lines(count: int, generator: torch.Generator) -> Tensor:
    """Lines of different words with one more, the newcomer, behind, (count, SIZE + 1) int64."""
    return torch.rand(count, WORDS, generator=generator).argsort(1)[:, : SIZE + 1] + 1


def done(operation: str, words: Tensor, generator: torch.Generator) -> Tensor:
    """A right answer to each of the lines (N, SIZE + 1), any of them as likely as another, (N, SIZE)."""
    line, newcomer = words[:, :SIZE], words[:, SIZE:]
    if operation == "shuffle":
        answer = line
        while (same := (answer == line).all(1)).any():
            order = torch.rand(line.shape, generator=generator).argsort(1)
            answer = torch.where(same[:, None], line.gather(1, order), answer)
        return answer
    if operation == "replace":
        return line.scatter(1, torch.randint(SIZE, (len(line), 1), generator=generator), newcomer)
    return {"copy": line, "reverse": line.flip(1), "sort": line.sort(1).values}[operation]


def right(operation: str, words: Tensor, answer: Tensor) -> Tensor:
    """Which answers (N, SIZE) to the lines (N, SIZE + 1) are right, (N,) bool, as ParallelBench's metrics say."""
    line, newcomer = words[:, :SIZE], words[:, SIZE:]
    if operation == "shuffle":
        return (answer.sort(1).values == line.sort(1).values).all(1) & (answer != line).any(1)
    if operation == "replace":
        return ((answer == newcomer) | (answer == line)).all(1) & ((answer == newcomer).sum(1) == 1)
    return (answer == done(operation, words, torch.Generator())).all(1)


def text(operation: str, words: Tensor, answer: Tensor | None = None) -> Tensor:
    """Operation, line, newcomer (a blank where it is of no use), a bar, and the answer or masks, (N, 3 + 2 SIZE)."""
    first = torch.full_like(words[:, :1], BAR + 1 + OPERATIONS.index(operation))
    newcomer = words[:, SIZE:] if operation == "replace" else torch.full_like(first, BLANK)
    answer = torch.full_like(words[:, :SIZE], MASK) if answer is None else answer
    return torch.cat([first, words[:, :SIZE], newcomer, torch.full_like(first, BAR), answer], 1)


class Truth(Denoiser):
    """The true distribution of the answers to ``operation`` (of ``JOINT``) as a model: exact posteriors and quality.

    Row i of the logits is P(x_i = v | the question, and all visible tokens but i), each of which is wrong with
    probability ``LEAK``: where they contradict each other, those answers count that contradict fewest of them. A line
    as it was counts as a shuffle here, one of SIZE!.
    """

    gives = frozenset({"second_forward", "probe", "layout"})

    def __init__(self, operation: str) -> None:
        super().__init__()
        self.operation, self.mask_id, self.vocab_size = operation, MASK, VOCABULARY
        self.max_length, self.hidden_size = ANSWER.stop, 1
        self.head = FirstHidden()

    def leave_one_out(self, tokens: Tensor) -> Tensor:
        """P(x_i = v | the question and the visible tokens but i) of texts (B, L), (B, SIZE, V) f64."""
        names, answer = tokens[:, LINE.start : NEWCOMER + 1], tokens[:, ANSWER]
        visible = (answer != MASK)[..., None]
        same = visible & (answer[..., None] == names[:, None])  # (B, SIZE, SIZE + 1), which of the words stands where
        if self.operation == "shuffle":  # those that stand nowhere else are free, each as likely as another
            elsewhere = same.sum(1, keepdim=True) - same.long()
            p = torch.where(elsewhere > 0, LEAK, 1.0).double()
            p[..., SIZE] = 0
        else:  # the newcomer in place k, the rest as it was: how many visible tokens that contradicts, which of all k
            answers = torch.where(torch.eye(SIZE, dtype=torch.bool), SIZE, torch.arange(SIZE))
            table = F.one_hot(answers, SIZE + 1).double().flatten(1)  # (SIZE, SIZE (SIZE + 1))
            agree = same.double().flatten(1) @ table.T
            p = (LEAK ** (agree.amax(1, keepdim=True) - agree) @ table).view(same.shape)
            p = p / torch.where(visible & ~same, LEAK, 1.0)
        p = torch.zeros(*answer.shape, self.vocab_size, dtype=p.dtype).scatter(2, names[:, None].expand(p.shape), p)
        return p / p.sum(-1, keepdim=True)

    def forward(self, tokens: Tensor, padding: Tensor | None = None, layout: Layout | None = None) -> Output:
        """See ``Denoiser.forward``; f64. What stands in the question is taken to be right."""
        written = tokens[:, : self.max_length]
        p = F.one_hot(written, self.vocab_size).double()
        p[:, ANSWER] = self.leave_one_out(written)
        if layout is not None:
            p = p.gather(1, layout.positions[..., None].expand(-1, -1, self.vocab_size))
        return Output(p.gather(2, tokens[..., None]).logit(eps=1e-12), None, p.log())


# ---- the model


@dataclass
class Effort:
    """How much is trained and tried. questions: of an operation of ``JOINT``, and of one whose answer is determined."""

    rows: int = 60_000
    model_steps: tuple[int, ...] = (3000, 4000, 2500)
    head_steps: int = 400
    questions: tuple[int, int] = (200, 32)
    seeds: tuple[int, ...] = (0, 1, 2)
    budgets: tuple[int, ...] = (1, 2, 4, 6, 8)


QUICK = Effort(2000, (20,), 8, (16, 8), (0,), (2, 4))


def trained(effort: Effort, work: Path) -> PrismModel:
    """The model of all operations with its head, trained by ``prism train`` where it is not there yet.

    The model is trained in several runs, each from where the one before ended, the learning rate rising once more; from
    the third on four times as many rows are of ``JOINT``, which it learns last.
    """
    torch.manual_seed(0)
    size = {"hidden_size": 64, "num_layers": 4, "num_heads": 4, "length": ANSWER.stop}
    model = work / "start"
    PrismModel(BackboneConfig(vocab_size=VOCABULARY, mask_id=MASK, **size), "").save_pretrained(model)
    common = ("train.resume=true", "train.threads=1", "train.batch_size=64", "train.save_every=200",
              "train.eval_every=500", "train.eval_texts=128", "train.eval_forwards=0", "train.warmup=50",
              "train.bf16=false", "train.lr=3e-3", "train.ema=0.99")  # fmt: skip
    for number, steps in enumerate(effort.model_steps):
        data = rows(OPERATIONS if number < 2 else OPERATIONS + 3 * JOINT, effort.rows, work)
        source, model = model, work / f"model-{number + 1}"
        train("mdm", load([f"model={source}", f"out={model}", f"train.steps={steps}", f"data={data}", *common]))
    train("quality", load([f"model={model}", f"out={work / 'head'}", f"train.steps={effort.head_steps}",
                           f"data={data}", "quality.objective=cavity", f"quality.groups={SIZE}", *common]))  # fmt: skip
    return PrismModel.from_pretrained(work / "head")


def rows(operations: tuple[str, ...], count: int, work: Path) -> Path:
    """A file of rows to train on, an operation after the other, for every line one of each."""
    generator = torch.Generator().manual_seed(1)
    with write_atomic(work / f"rows-{len(operations)}.jsonl") as temporary, temporary.open("w") as file:
        for _ in range(count // len(operations)):
            words = lines(1, generator)
            for operation in operations:
                row = text(operation, words, done(operation, words, generator))[0].tolist()
                file.write(json.dumps({"prompt": row[: ANSWER.start], "response": row[ANSWER.start :]}) + "\n")
    return work / f"rows-{len(operations)}.jsonl"


# ---- samplers at equal cost


def sampler(name: str, steps: int, seed: int) -> SamplerConfig:
    """A preset as it is, but that those which count take out one token a step: four of eight would never pass their
    gate.
    """
    return SamplerConfig(**fitting({"num_remask": 1}, name) | {"steps": steps, "seed": seed})


def write(model: Denoiser, prompts: Tensor, config: SamplerConfig, **given: Any) -> Result:
    """Answers to texts (B, L) with masks."""
    if isinstance(model, Truth):
        model.trained = {"objective": trained_for(resolve(config).score)}  # its quality is whatever a score reads
    return generate(model, prompts, config, **given)


def units(model: Denoiser, operation: str, words: Tensor, effort: Effort) -> list[dict[str, Any]]:
    """A unit for every budget, sampler and seed: which answers to lines (N, SIZE + 1) are right, and at what cost."""
    prompts, made = text(operation, words), []
    for budget in effort.budgets:
        for name in SAMPLERS:
            cost = lambda steps: float(write(model, prompts[:16], sampler(name, steps, 0)).cost.mean())  # noqa: B023, E731
            steps = nearest(cost, budget)
            for seed in effort.seeds:
                result = write(model, prompts, sampler(name, steps, seed))
                answer = result.tokens[:, ANSWER]
                good = right(operation, words, answer)
                moved = words[:, SIZE if operation == "replace" else 0, None]
                made.append({
                    "operation": operation, "budget": budget, "sampler": name, "seed": seed, "steps": steps,
                    "cost": float(result.cost.mean()), "remasked": float(result.remasked.double().mean()),
                    "right": "".join(str(int(one)) for one in good),
                    "places": (answer[good] == moved[good]).sum(0).tolist(),
                })  # fmt: skip
            print(f"{operation}, {budget} passes, {name}: {100 * float(good.double().mean()):.1f}%", file=sys.stderr)
    return made


def clashes(model: Denoiser, words: Tensor, seed: int) -> dict[str, Any]:
    """How well scores tell words that stand twice from those that stand once, in shuffles drafted in two passes."""
    seen: list[State] = []
    write(model, text("shuffle", words), sampler(FILLS, 2, seed), callback=lambda state, view: seen.append(state))
    state, tokens = seen[-1], seen[-1].tokens
    where = state.editable
    single = (tokens[:, ANSWER, None] == tokens[:, None, ANSWER]).sum(2) == 1
    mixed = (~single).any(1) & single.any(1)
    with torch.no_grad():
        output = model(tokens)
        own = output_probability(model, output, tokens, where)
        head = model.judge(output, None, tokens).sigmoid()
        exact = cavity.posterior(model, tokens, where, 0)
    scores = {"probability when written": state.written, "self-likelihood": own, "the head": head,
              "the head as evidence": head / state.written, "each token hidden alone": exact,
              "that as evidence": exact / state.written}  # fmt: skip
    labels = single[mixed].flatten()
    told = {name: auroc(score[:, ANSWER][mixed].flatten(), labels) for name, score in scores.items()}
    return {"texts": int(mixed.sum()), "tokens": len(labels), "auroc": told}


def output_probability(model: Denoiser, output: Output, tokens: Tensor, where: Tensor) -> Tensor:
    """What a pass says of the very tokens (B, L) that it went over, in ``where``."""
    return View(model, output, tokens=tokens).probability(tokens, where)


def merged(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The seeds of a sampler as one row: share of right answers with its interval over questions, and the gains."""
    groups: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    for unit in found:
        groups.setdefault((unit["operation"], unit["budget"], unit["sampler"]), []).append(unit)
    share = {key: np.array([[int(c) for c in u["right"]] for u in group]).mean(0) for key, group in groups.items()}
    rows = []
    for (operation, budget, name), group in groups.items():
        mine = share[operation, budget, name]
        places = np.array([unit["places"] for unit in group]).sum(0)
        row = {"operation": operation, "budget": budget, "sampler": name, **interval(mine),
               "cost": float(np.mean([unit["cost"] for unit in group])), "steps": group[0]["steps"],
               "remasked": float(np.mean([unit["remasked"] for unit in group])),
               "by_seed": [unit["right"].count("1") / len(unit["right"]) for unit in group],
               "place_entropy": entropy(places)}  # fmt: skip
        for word, other in (("over_fills", FILLS), ("over_control", CONTROL)):
            if name != other:
                row[word] = interval(mine - share[operation, budget, other])
        rows.append(row)
    return rows


def interval(values: np.ndarray) -> dict[str, float]:
    """Mean of values (N,) and its 95% interval over questions."""
    low, high = bootstrap(values)
    return {"mean": float(values.mean()), "low": low, "high": high}


def entropy(counts: np.ndarray) -> float | None:
    """In bits, None of nothing."""
    p = counts[counts > 0] / max(counts.sum(), 1)
    return float(abs((p * np.log2(p)).sum())) if counts.sum() else None


# ---- the page

ABOUT = """The waiting line of ParallelBench (arXiv 2510.04767) made from scratch on tokens: a line of {size} of {words}
words, and what is to be done with it. The answers to `copy`, `reverse` and `sort` are determined; `shuffle` is right in
any other order, `replace` with the newcomer in any one place, so that each token of the answer is free and all of them
are not. Share of right answers in %, 95% interval over {questions} questions ({easy} where the answer is determined),
each answered with sampler seeds {seeds}; one training seed. A budget is of weighted passes, and the steps of every
sampler are scaled until it costs that; what it did cost is in the last tables. Those that count remasks take out one
token a step. With {size} passes `random` writes one token a pass, so that it errs where the model does and nowhere
else; nobody can revise in one pass."""
EXACT = """The true distribution stands in the model's place, its posteriors exact, so that all that is wrong is the
sampler's. Where tokens contradict each other, the answers count that contradict fewest of them. `copy`, `reverse` and
`sort` are not run here: one answer has all the probability, and whoever fills is right in one pass."""
TRAINED = """{parameters:,} parameters, trained on {rows_trained:,} rows by `prism train mdm data=…` ({steps} steps),
its head by `quality.objective=cavity` ({head} steps). What `random` misses with {size} passes is the model's own
error, since it writes one token a pass there."""
GAINS = """Points ahead of `{fills}`, the same plan without any revision, at the same budget (paired, 95%):"""
CLASHES = """Shuffles drafted in two passes of {half} tokens: does a score tell words that stand twice from those that
stand once? AUROC over the tokens of the drafts that hold both; .5 is a guess."""


def shown(value: dict[str, float], sign: str = "") -> str:
    """Percent with its interval."""
    mean, low, high = (100 * value[key] for key in ("mean", "low", "high"))
    return f"{mean:{sign}.1f} ({low:{sign}.0f} to {high:{sign}.0f})"


def table(rows: list[dict[str, Any]], cell: Callable[[dict[str, Any]], str | None], head: str) -> list[str]:
    """A line a sampler and a column a budget; samplers that have no cell are left out."""
    budgets = sorted({row["budget"] for row in rows})
    made = ["", f"| {head} | " + " | ".join(map(str, budgets)) + " |", "|---|" + "--:|" * len(budgets)]
    for name in SAMPLERS:
        cells = [cell(row) for row in rows if row["sampler"] == name]
        if all(cells):
            made.append(f"| {name} | " + " | ".join(map(str, cells)) + " |")
    return made


def page(result: dict[str, Any]) -> str:
    """The page, from the JSON and from nothing else."""
    told = ["# Where tokens depend on each other jointly", "", f"    {result['command']}", "",
            f"{result['date']}, {result['machine']}, no GPU.", "", ABOUT.format(**result), "",
            "![Right answers against passes](parallel.png)"]  # fmt: skip
    for kind, title, about in (("exact", "The true distribution", EXACT), ("trained", "A trained model", TRAINED)):
        told += ["", f"## {title}", "", about.format(**result)]
        for operation in OPERATIONS:
            rows = [row for row in result["rows"][kind] if row["operation"] == operation]
            if not rows:
                continue
            told += ["", f"### {operation}", *table(rows, lambda row: shown(row), "right %, by passes")]
            if operation in JOINT:
                told += ["", GAINS.format(fills=FILLS)]
                told += table(rows, lambda row: shown(row["over_fills"], "+") if "over_fills" in row else None, "gain")
                told += ["", f"Points ahead of `{CONTROL}`, the control:"]
                told += table(
                    rows, lambda row: shown(row["over_control"], "+") if "over_control" in row else None, "gain"
                )
                told += ["", "What they cost in passes, remasks an answer, and in bits how evenly "
                         f"{'the newcomer' if operation == 'replace' else 'the first of the line'} falls on the "
                         f"{result['size']} places in right answers ({np.log2(result['size']):.0f} is evenly; - where "
                         "there are none)."]  # fmt: skip
                told += table(rows, spent, "cost, remasks, bits")
    told += ["", "## Who sees a clash", "", CLASHES.format(half=result["size"] // 2), "",
             "| score | the true distribution | the trained model |", "|---|--:|--:|"]  # fmt: skip
    both = [result["clashes"][kind]["auroc"] for kind in ("exact", "trained")]
    told += [f"| {name} | " + " | ".join(f"{one[name]:.3f}" for one in both) + " |" for name in both[0]]
    return "\n".join(told) + "\n"


def spent(row: dict[str, Any]) -> str:
    """What a sampler cost, what it took back, and how even its right answers are."""
    bits = "-" if row["place_entropy"] is None else f"{row['place_entropy']:.2f}"
    return f"{row['cost']:.1f}, {row['remasked']:.1f}, {bits}"


def plot(result: dict[str, Any], path: Path) -> None:
    """Right answers against passes, a panel an operation of ``JOINT`` for the truth and the trained model."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(11, 8), sharex=True, sharey=True, layout="constrained")
    for across, (kind, title) in zip(axes, (("exact", "exact posteriors"), ("trained", "trained model")), strict=True):
        for axis, operation in zip(across, JOINT, strict=True):
            rows = [row for row in result["rows"][kind] if row["operation"] == operation]
            for name, style in STYLES.items():
                mine = [row for row in rows if row["sampler"] == name]
                axis.plot([r["budget"] for r in mine], [100 * r["mean"] for r in mine], label=name, ms=4, **style)
                low, high = ([100 * row[end] for row in mine] for end in ("low", "high"))
                axis.fill_between([r["budget"] for r in mine], low, high, color=style["color"], alpha=0.1, lw=0)
            axis.set_xscale("log")
            plain_ticks(axis.xaxis, sorted({row["budget"] for row in rows}))
            axis.set_title(f"{operation}, {title}")
            axis.grid(alpha=0.3)
    for axis in axes[:, 0]:
        axis.set_ylabel("right answers, %")
    for axis in axes[1]:
        axis.set_xlabel(f"weighted passes for {result['size']} tokens")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    with write_atomic(path) as temporary:
        figure.savefig(temporary, dpi=90, format="png")
    pyplot.close(figure)


STYLES: dict[str, dict[str, Any]] = {
    "mdlm": {"color": "#9aa3ad", "ls": "--", "marker": "s"},
    "random": {"color": "#333333", "ls": "-", "marker": "o"},
    "confidence": {"color": "#777777", "ls": ":", "marker": "^"},
    "random-remask": {"color": "#d8a01f", "ls": "--", "marker": "v"},
    "self-likelihood": {"color": "#c77fd0", "ls": "--", "marker": "D"},
    "remdm-conf": {"color": "#b8431f", "ls": "-", "marker": "x"},
    "rcr": {"color": "#e0736a", "ls": "-.", "marker": "+"},
    "prism": {"color": "#1f4fd8", "ls": "--", "marker": "o"},
    "prism-evidence": {"color": "#0b8a3e", "ls": "-", "marker": "o"},
    "prism-adaptive": {"color": "#1fb8b0", "ls": "-", "marker": "^"},
    "shadow-evidence": {"color": "#7bbf3f", "ls": ":", "marker": "s"},
    "cavity-evidence": {"color": "#5a7d2a", "ls": "-.", "marker": "D"},
}


def main(argv: Sequence[str] | None = None) -> int:
    """Train what is not there, answer, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few steps, questions and budgets, one seed: a minute")
    parser.add_argument("--work", help="folder of what is trained (build/parallel, build/parallel/quick)")
    parser.add_argument("--out", help="folder to write (docs/results; with --quick the folder of what is trained)")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    effort = QUICK if options.quick else Effort()
    work = output_folder(options.work or ("build/parallel/quick" if options.quick else "build/parallel"))
    out = output_folder(options.out or (work if options.quick else "docs/results"))
    given = sys.argv[1:] if argv is None else argv
    result: dict[str, Any] = machine(shlex.join(["python", "-m", "benchmarks.parallel", *given]))
    model = trained(effort, work)
    words = lines(max(effort.questions), torch.Generator().manual_seed(2))
    hard, easy = effort.questions
    exact = {operation: Truth(operation) for operation in JOINT}
    found: dict[str, list[dict[str, Any]]] = {"exact": [], "trained": []}
    for operation in OPERATIONS:
        asked = words[: hard if operation in JOINT else easy]
        if operation in JOINT:
            found["exact"] += units(exact[operation], operation, asked, effort)
        found["trained"] += units(model, operation, asked, effort)
    result |= {
        "size": SIZE, "words": WORDS, "questions": hard, "easy": easy, "seeds": ", ".join(map(str, effort.seeds)),
        "rows_trained": effort.rows, "parameters": sum(p.numel() for p in model.backbone.parameters()),
        "steps": ", ".join(map(str, effort.model_steps)), "head": effort.head_steps,
        "rows": {kind: merged(some) for kind, some in found.items()}, "units": found,
        "clashes": {"exact": clashes(exact["shuffle"], words[:hard], 0), "trained": clashes(model, words[:hard], 0)},
    }  # fmt: skip
    save_json(out / "parallel.json", result)
    result = load_json(out / "parallel.json")
    with write_atomic(out / "parallel.md") as temporary:
        temporary.write_text(page(result), encoding="utf-8")
    plot(result, out / "parallel.png")
    print(f"Written: {out / 'parallel.json'}, parallel.md, parallel.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
