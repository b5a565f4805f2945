"""How much of what an exact score would bring to whole texts does a head bring, and at what cost?

Texts of 128 tokens from masks alone, in random order, by the rule of evidence with several heads of one model (training
seeds, say), beside what needs none: plain sampling at the same passes and at the same cost, random remasking, a shadow
behind the text, and the posterior of the hidden token in 8 groups, which is the bound. Judged as in benchmarks/text.py:

    python -m benchmarks.evidence --heads code runs/code-1 runs/code-2      tau on 64 texts, then 128 others
    python -m benchmarks.evidence --heads code --tries                      variants of the rule, and tuned logits

Writes MODEL.json, MODEL.md and MODEL.png, or tries.json and tries.md, to docs/results/evidence. Every finished row is
written at once, with its precision, and the same command goes on where one was broken off.
"""

import argparse
import copy
import math
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.sharpness import Judged, by_score, figures, sampler_states
from benchmarks.text import interval, look, moments
from prism_plugin import ops
from prism_plugin.config import SamplerConfig
from prism_plugin.evaluation.judge import Judge
from prism_plugin.files import load_json, output_folder, save_json, write_atomic
from prism_plugin.models.checkpoint import ASSETS, PrismModel
from prism_plugin.models.denoiser import View
from prism_plugin.models.precision import in_halves, precision_in_words
from prism_plugin.plots import plain_ticks
from prism_plugin.quality.head import head_hash
from prism_plugin.quality.loss import QualityConfig
from prism_plugin.sampling.drive import generate
from prism_plugin.sampling.fills import draw_settings
from prism_plugin.sampling.parts import acts, patterns
from prism_plugin.sampling.selects import Together
from prism_plugin.sampling.state import State
from prism_plugin.tasks import HELD_OUT, TRAIN, get_task
from prism_plugin.tasks.text import TextTask
from prism_plugin.training.objectives import CavityObjective, States

TAUS = (0.1, 0.3, 1.0)
CHOOSE, TRY = 100, 200
"""Seeds of the sampler, and so the texts: those on which tau is chosen are none of those that are reported."""


@dataclass(frozen=True)
class Row:
    """A method: its sampler, the steps it takes, and the head it needs ('': none)."""

    method: str
    name: str
    steps: int
    head: str = ""
    settings: dict[str, Any] = field(default_factory=dict)

    def key(self) -> dict[str, Any]:
        """As a result has it."""
        return {"method": self.method, "preset": self.name, "steps": self.steps, "head": self.head} | {
            "settings": self.settings
        }


class Bench:
    """Rows of one model, run once each: ``models`` by the name of their head, '' is any of them."""

    def __init__(self, heads: Sequence[str], texts: int, halves: bool, file: Path) -> None:
        self.models = {head: PrismModel.from_pretrained(head).eval() for head in heads}
        self.models[""] = self.models[heads[0]]
        task = get_task(self.models[""].task)
        assert isinstance(task, TextTask), "a model of task code or prose"
        self.task, self.texts, self.halves, self.file = task, texts, halves, file
        self.judge = Judge.of(task)
        truth = look(task, self.judge, task.texts(0, texts, HELD_OUT))
        self.truth = {name: interval(*moments(values)) for name, values in truth.items()}
        self.before: dict[str, Any] = load_json(file) if file.exists() else {}
        known = {"", *(head_hash(model.head) for model in self.models.values() if model.head is not None)}
        self.runs = [run for run in self.before.get("runs", []) if run["head_sha256"] in known]

    def run(self, row: Row, *seeds: int, texts: int = 0) -> dict[str, Any]:
        """A row on the texts of some seeds, ``texts`` of each where that is named: mean and half the 95% interval of
        each figure, a text.
        """
        found = [self._once(row, seed, texts or self.texts) for seed in seeds]
        figures = {}
        for name in found[0]["moments"]:
            figures[name] = interval(*torch.tensor([one["moments"][name] for one in found]).double().sum(0).tolist())
        counted = {name: sum(one[name] for one in found) for name in ("texts", "seconds")}
        return {**row.key(), **figures, **counted, "forward": ", ".join(sorted({one["forward"] for one in found}))}

    def _once(self, row: Row, seed: int, texts: int) -> dict[str, Any]:
        model = self.models[row.head]
        sha256 = head_hash(model.head) if row.head and model.head is not None else ""
        key = {**row.key(), "seed": seed, "texts": texts, "head_sha256": sha256}
        for run in self.runs:
            if all(run[name] == value for name, value in key.items()):
                return run
        sampler = SamplerConfig(row.name, steps=row.steps, seed=seed, **row.settings)
        parts = []
        for first in range(0, texts, 64):
            request = torch.arange(first, min(first + 64, texts))
            start = self.task.prompts(len(request), 0, first=first)
            with torch.autocast("cpu", torch.bfloat16, enabled=self.halves):
                parts.append(generate(model, start, sampler, request=request))
        figures = look(self.task, self.judge, torch.cat([part.tokens for part in parts]))
        for name, of in (("cost", "cost"), ("remasks", "remasked"), ("wasted", "wasted")):
            figures[name] = torch.cat([getattr(part, of) for part in parts]).double().tolist()
        run = {**key, "moments": {name: moments(values) for name, values in figures.items()}}
        run["forward"] = precision_in_words(self.halves)
        self.runs.append(run | {"seconds": round(sum(part.seconds for part in parts), 1)})
        save_json(self.file, {**self.before, **self.about(), "runs": self.runs})
        said = _said(self.run(row, seed, texts=texts), self.task.name)
        print(row.method, row.head, row.settings, seed, said, flush=True)
        return self.runs[-1]

    def about(self) -> dict[str, Any]:
        """What the runs were made of and by."""
        return {
            "model": self.task.name, "texts": self.texts, "truth": self.truth, "made_of": self.task.made_of(),
            "heads": {head: trained_by(head, model) for head, model in self.models.items() if head},
            "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
            "machine": f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s), torch {version('torch')}, no "
            "GPU",
        }  # fmt: skip


def trained_by(head: str, model: PrismModel) -> dict[str, Any]:
    """The command, seed and time of the training of a head, and its hash."""
    folder = ASSETS / head if (ASSETS / head).is_dir() else Path(head)
    written = [load_json(path) for path in sorted(folder.glob("training_*.json"))]
    found = next((one for one in written if "objective=cavity" in one["command"]), {})
    assert model.head is not None
    return {name: found.get(name) for name in ("command", "seed", "minutes")} | {"sha256": head_hash(model.head)}


def evidence(tau: float, steps: int, head: str = "", **settings: Any) -> Row:
    """The rule of evidence by a head, or by the posterior in 8 groups where none is named."""
    name, method = ("prism-evidence", "head") if head else ("cavity-evidence", "exact, 8 groups")
    return Row(method, name, steps, head, {"tau": tau, **settings})


# ---- tau, and the table


def choose(bench: Bench, steps: int) -> tuple[float, list[dict[str, Any]]]:
    """The tau of the lowest bits by the first head on half as many texts as a row has, among those whose texts lose
    neither bits nor entropy below real text's.
    """
    head, half = next(iter(bench.models)), -(-bench.texts // 2)
    runs = [bench.run(evidence(tau, steps, head), CHOOSE, texts=half) for tau in TAUS]
    kept = [run for run in runs if all(run[name][0] >= bench.truth[name][0] for name in ("bits", "entropy"))]
    best = min(kept or runs[:1], key=lambda run: run["bits"][0])
    return best["settings"]["tau"], [bench.run(Row("plain", "mdlm", steps), CHOOSE, texts=half), *runs]


def compare(
    bench: Bench, steps: int, seeds: Sequence[int], bound: bool, equal: bool = True, tau: float | None = None
) -> dict[str, Any]:
    """All rows, and with the ``bound`` what share of the exact score's gain each head has; ``equal``: also what costs
    as much as a head, and a head by ranks. tau: chosen where none is given.
    """
    choice: list[dict[str, Any]] = []
    if tau is None:
        tau, choice = choose(bench, steps)
    heads = [head for head in bench.models if head]
    cost = round(steps * (1 + bench.models[heads[0]].head.share))
    controls = [
        Row("head, ranks", "prism", steps, heads[0]),
        Row("plain, equal cost", "mdlm", cost),
        Row("random remasking, equal cost", "random-remask", cost),
    ]
    rows = [
        Row("plain", "mdlm", steps),
        *(evidence(tau, steps, head) for head in heads),
        Row("shadow", "shadow-evidence", steps, "", {"tau": tau}),
        *(controls if equal else []),
        *([evidence(tau, steps)] if bound else []),
    ]
    runs = [bench.run(row, *seeds) for row in rows]
    plain, exact = runs[0], runs[-1]
    gains = {}
    for run in runs if bound else []:
        if run["method"] in ("head", "shadow"):
            gains[run["head"] or "shadow"] = {
                name: share(plain[name], run[name], exact[name]) for name in names(bench.task.name)
            }
    return {"tau": tau, "choice": choice, "steps": steps, "seeds": list(seeds), "rows": runs, "gains": gains}


def names(task: str) -> list[str]:
    """The figures of which a gain is counted."""
    return ["bits", "sound"] if task == "code" else ["bits"]


def share(plain: Sequence[float], run: Sequence[float], exact: Sequence[float]) -> tuple[float, float]:
    """(plain - run) / (plain - exact) of figures with half their intervals, and half of its own, to first order."""
    whole = plain[0] - exact[0]
    found = (plain[0] - run[0]) / whole
    half = math.hypot((1 - found) * plain[1], run[1], found * exact[1])
    return found, half / abs(whole)


# ---- what else was tried


def draw_again(view: View | None, state: State, keys: Tensor, counts: Tensor) -> None:
    """A doubted token is drawn anew from the very posterior that doubts it, the head's, and no mask comes back."""
    assert view is not None and view.tokens is not None
    denoiser, output = view.denoiser, view.output
    stream = denoiser.head(denoiser.embedded(view.tokens), output.hidden, output.time, view.padding)
    rows = state.rows(ops.select_lowest(keys, state.open, counts))
    drawn = View(denoiser, output._replace(hidden=stream, logits=None)).sample(*rows, **draw_settings(state, rows[0]))
    state.replace(rows[0], drawn.token, drawn.prob)


def apart(scores: Tensor, state: State, options: Together) -> Tensor:
    """Only the lowest of ``pattern_size`` positions around it is doubted: of two that clash one stays."""
    side = options.pattern_size // 2
    around = F.pad(scores, (side, side), value=torch.inf).unfold(1, 2 * side + 1, 1).amin(dim=-1)
    return scores.masked_fill(scores > around, torch.inf)


def tries(bench: Bench, steps: int, tau: float) -> dict[str, Any]:
    """Variants of the rule by the first head."""
    acts("draw_again")(draw_again)
    patterns("apart")(apart)
    head = next(iter(bench.models))
    rows = {
        "plain": Row("plain", "mdlm", steps),
        "as it is": evidence(tau, steps, head),
        "the lowest of 3 around it": evidence(tau, steps, head, pattern="apart", pattern_size=3),
        "the lowest of 17 around it": evidence(tau, steps, head, pattern="apart", pattern_size=17),
        "one a step": evidence(tau, steps, head, guard="share", remask_share=1 / 128),
        "tau falls to 0 in a line": evidence(tau, steps, head, eta_schedule="linear"),
        "tau falls to 0 in a line from twice as much": evidence(2 * tau, steps, head, eta_schedule="linear"),
        "drawn again": evidence(tau, steps, head, act="draw_again"),
        "drawn again, filled in all steps": evidence(tau, steps, head, act="draw_again", fill_share=1.0),
    }
    return {name: bench.run(row, TRY) for name, row in rows.items()}


def tuned(model: PrismModel, task: TextTask, steps: int = 100, batch: int = 16, seed: int = 0) -> dict[str, Any]:
    """The whole model learns to say at visible tokens what it said there with them hidden, and at masks what it said.

    Figures of its self-likelihood against the posterior of the model as it was, before and after, and how far its fills
    have moved (KL in nats a mask).
    """
    torch.manual_seed(seed)
    judged = Judged.of(model, sampler_states(model, 8, 32))
    student = PrismModel(model.backbone.config, model.task)
    student.backbone.load_state_dict(copy.deepcopy(model.backbone.state_dict()))
    found = {"before": figures(judged.said(by_score(model, "self_likelihood")), judged.exact, judged.written)}
    objective = CavityObjective(model, seed, QualityConfig(objective="cavity", groups=8)).eval()
    learning = torch.optim.AdamW(student.parameters(), lr=5e-4, betas=(0.9, 0.98), weight_decay=0.0)
    rate = torch.optim.lr_scheduler.OneCycleLR(learning, 5e-4, steps, pct_start=0.1)
    held: list[States] = []
    moved: list[float] = []
    for step in range(steps):
        if step % 8 == 0:
            number = torch.arange(batch) + step // 8 * (batch // 8)
            held = [*held[-31:], objective.states(task.texts(int(number[0]), batch, TRAIN), number, None, None)]
        one = held[int(torch.randint(len(held), ()))]
        index = (one.judged | (one.tokens == model.mask_id)).flatten().nonzero().squeeze(1)
        output = student(one.tokens)
        (logits, where), (before, _) = student.project(output, index), model.project(one.output, index)
        logits, before = (one[where].float().log_softmax(-1).clamp(min=-30) for one in (logits, before.detach()))
        visible = one.judged.flatten()[index]
        said = logits[visible].gather(1, one.tokens.flatten()[index][visible, None]).squeeze(1)
        apart_by = F.kl_div(logits[~visible], before[~visible], log_target=True, reduction="batchmean")
        (F.huber_loss(said, one.target) + apart_by).backward()
        learning.step()
        rate.step()
        learning.zero_grad()
        moved.append(float(apart_by.detach()))
    student.eval()
    after = figures(judged.said(by_score(student, "self_likelihood")), judged.exact, judged.written)
    return found | {"after": after, "kl_at_masks": sum(moved[-16:]) / 16, "steps": steps, "texts_a_step": batch}


# ---- the pages


def _said(run: dict[str, Any], task: str) -> str:
    cells = [f"{run['bits'][0]:.2f} ± {run['bits'][1]:.2f}", f"{run['entropy'][0]:.2f}"]
    cells += [f"{100 * run['sound'][0]:.1f} ± {100 * run['sound'][1]:.1f}"] if task == "code" else []
    cells += [f"{run[name][0]:.1f}" for name in ("cost", "remasks", "wasted")]
    return " | ".join([*cells, run["forward"]])


def markdown(result: dict[str, Any]) -> str:
    """The result as a page."""
    task, found, truth = result["model"], result["found"], result["truth"]
    sound = " sound % ± |" if task == "code" else ""
    lines = [
        f"# {task}: the score as evidence on whole texts", "", f"    {result['command']}", "",
        f"{result['texts'] * len(found['seeds'])} texts of 128 tokens a row from masks alone, seeds of the sampler "
        f"{', '.join(map(str, found['seeds']))}, {found['steps']} steps, random order. "
        f"{result['date']}, {result['machine']}. ±: half the 95% interval over texts. bits: a character, by a 5-gram "
        f"model of the training texts; **real held-out text has {truth['bits'][0]:.2f} ± {truth['bits'][1]:.2f} bits, "
        f"entropy {truth['entropy'][0]:.2f}**, less is a slide into what is frequent. cost: forward passes over the "
        "text, a head's share of one and a shadow's length counted.", "",
        f"| score | head | bits ± | entropy |{sound} cost | remasks | wasted | passes in |",
        "|---|---|" + "--:|" * (6 if sound else 5) + "---|",
    ]  # fmt: skip
    lines += [f"| {run['method']} | {run['head']} | {_said(run, task)} |" for run in found["rows"]]
    lines += ["", f"'head', 'shadow' and 'exact' take out what has evidence below tau = {found['tau']:g}, "
              "'head, ranks' a fixed number of the lowest."]  # fmt: skip
    if found["gains"]:
        lines += shares(found["gains"], list(result["heads"]), names(task))
    lines += (
        []
        if not found["choice"]
        else [
            "",
            "## How tau was chosen",
            "",
            f"On {found['choice'][0]['texts']} other texts (another seed of the sampler), by the "
            "first head: the lowest bits that lose neither bits nor entropy below real text's.",
            "",
            f"| tau | bits ± | entropy |{sound} cost | remasks | wasted | passes in |",
            "|--:|" + "--:|" * (6 if sound else 5) + "---|",
        ]
    )
    lines += [f"| {run['settings'].get('tau', 'plain')} | {_said(run, task)} |" for run in found["choice"]]
    lines += ["", "## The heads", ""]
    lines += [f"- `{head}`, seed {made['seed']}, {made['minutes']} minutes: `{made['command']}`"
              for head, made in result["heads"].items()]  # fmt: skip
    return "\n".join([*lines, "", f"![Bits against cost, and against entropy]({task}.png)"]) + "\n"


def tried(result: dict[str, Any]) -> str:
    """The variants of the rule, and the tuned logits, as a page."""
    task, found, tuned = result["model"], result["found"], result["tuned_logits"]
    sound = " sound % ± |" if task == "code" else ""
    head, made = next(iter(result["heads"].items()))
    lines = [
        f"# {task}: variants of the rule of evidence", "", f"    {result['command']}", "",
        f"{result['texts']} texts of 128 tokens a row from masks alone, seed {TRY} of the sampler, random order, head "
        f"`{head}` ({made['sha256']}). {result['date']}, {result['machine']}. ±: half the 95% interval over texts; "
        f"real held-out text has {result['truth']['bits'][0]:.2f} bits, entropy {result['truth']['entropy'][0]:.2f}.",
        "", f"| rule | bits ± | entropy |{sound} cost | remasks | wasted | passes in |",
        "|---|" + "--:|" * (6 if sound else 5) + "---|",
        *(f"| {rule} | {_said(run, task)} |" for rule, run in found.items()), "",
        f"The model's own logits at visible positions, tuned to the cavity posterior ({tuned['steps']} steps of "
        f"{tuned['texts_a_step']} texts, all weights; its fills then {tuned['kl_at_masks']:.3f} nats away): the "
        "self-likelihood against the posterior of each token hidden alone, sampler's states:", "",
        "| | log-odds | log evidence | recall .3 | precision .3 |", "|---|--:|--:|--:|--:|",
    ]  # fmt: skip
    for when in ("before", "after"):
        cells = [tuned[when][name] for name in ("corr_logit", "corr_log_evidence", "recall_03", "precision_03")]
        lines.append(f"| {when} | " + " | ".join("-" if cell is None else f"{cell:.2f}" for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def shares(gains: dict[str, Any], heads: list[str], figures: list[str]) -> list[str]:
    """What share of the exact score's gain each has, as lines of the page."""
    lines = ["", "Of the exact score's gain over plain sampling in as many steps each has:", "",
             "| | " + " | ".join(f"{name}, % ±" for name in figures) + " |",
             "|---|" + "--:|" * len(figures)]  # fmt: skip
    for who, gain in gains.items():
        cells = [f"{100 * gain[name][0]:.0f} ± {100 * gain[name][1]:.0f}" for name in figures]
        lines.append(f"| {who} | " + " | ".join(cells) + " |")
    if len(heads) > 1:
        of = {name: [100 * gains[head][name][0] for head in heads] for name in figures}
        cells = [f"{sum(v) / len(v):.0f} ({min(v):.0f} to {max(v):.0f})" for v in of.values()]
        lines.append(f"| mean of {len(heads)} training seeds (their range) | " + " | ".join(cells) + " |")
    return lines


def plot(result: dict[str, Any], path: Path) -> None:
    """Bits of whole texts against cost, and against the entropy of the text."""
    from matplotlib.figure import Figure

    figure, truth = Figure(figsize=(11, 4.6), layout="constrained"), result["truth"]
    panels = figure.subplots(1, 2)
    kinds = list(dict.fromkeys(run["method"] for run in result["found"]["rows"]))
    for panel, across in zip(panels, ("cost", "entropy"), strict=True):
        labelled = set()
        for run in result["found"]["rows"]:
            number = kinds.index(run["method"])
            label = None if run["method"] in labelled else run["method"]
            labelled.add(run["method"])
            panel.errorbar(run[across][0], run["bits"][0], run["bits"][1], color=f"C{number}", marker="osD^vP*"[number],
                           capsize=2, label=label)  # fmt: skip
        panel.grid(alpha=0.25)
    panels[0].axhline(truth["bits"][0], color="0.5", linewidth=1)
    panels[0].set(xscale="log", xlabel="cost, forward passes over the text", ylabel="bits a character, 5-gram judge")
    plain_ticks(panels[0].xaxis)
    panels[1].plot(truth["entropy"][0], truth["bits"][0], "k*", markersize=14, label="real held-out text")
    panels[1].set(xlabel="entropy of a text's tokens, nats")
    panels[1].legend(fontsize=8, frameon=False)
    with write_atomic(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is missing, and write the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", nargs="+", default=["code"], help="embedded models or folders, of one backbone")
    parser.add_argument("--texts", type=int, default=128, help="texts a row and seed (128)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the sampler (0)")
    parser.add_argument("--steps", type=int, default=32, help="(32)")
    parser.add_argument("--no-bound", action="store_true", help="without the exact score, two thirds of the work")
    parser.add_argument("--no-controls", action="store_true", help="without what costs as much, and the rule on ranks")
    parser.add_argument("--tries", action="store_true", help="variants of the rule by the first head, and tuned logits")
    parser.add_argument("--tau", type=float, help="given, not chosen; of the tries 1 without")
    parser.add_argument("--out", default="docs/results/evidence", help="folder to write")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    folder = output_folder(options.out)
    task = get_task(PrismModel.from_pretrained(options.heads[0]).task).name
    name = "tries" if options.tries else task
    bench = Bench(options.heads, options.texts, in_halves("auto"), folder / f"{name}.json")
    command = shlex.join(["python", "-m", "benchmarks.evidence", *(argv if argv is not None else sys.argv[1:])])
    result = {"command": command, **bench.about()}
    if options.tries:
        found = tries(bench, options.steps, options.tau or 1.0)
        logits = bench.before.get("tuned_logits")
        if logits is None:
            with torch.autocast("cpu", torch.bfloat16, enabled=bench.halves):
                logits = tuned(bench.models[""], bench.task)
            print("tuned logits", logits)
        result |= {"found": found, "tuned_logits": logits, "runs": bench.runs}
        save_json(bench.file, result)
        with write_atomic(folder / f"{name}.md") as page:
            page.write_text(tried(result), encoding="utf-8")
        return
    given = (not options.no_bound, not options.no_controls, options.tau)
    result |= {"found": compare(bench, options.steps, options.seeds, *given), "runs": bench.runs}
    save_json(bench.file, result)
    with write_atomic(folder / f"{name}.md") as page:
        page.write_text(markdown(result), encoding="utf-8")
    plot(result, folder / f"{name}.png")
    print(markdown(result))


if __name__ == "__main__":
    main()
