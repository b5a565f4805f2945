"""How near does a score come to what its backbone would say with the token hidden?

The leave-one-out posterior hides every visible token alone, a forward pass each. Against it: the head, scores without
training, and cheaper readings of the same posterior (groups hidden together; a shadow that sees the text but its own
token, WINO, arXiv 2507.18578; ``alone``: nor the other shadows, which is what COVER's read of keys and values comes to,
arXiv 2602.06161, where they are those of the same text). On states of the sampler, and on held-out text with wrong
tokens put in:

    python -m benchmarks.sharpness                           embedded code, prose and sudoku
    python -m benchmarks.sharpness --heads code PATH …       heads by name or folder, each against its own backbone;
                                                             those of one backbone share their states
    python -m benchmarks.sharpness --quick                   embedded code, a few texts, under a minute

Writes sharpness.json (rows), .md and .png. Intervals are bootstrapped over texts.
"""

import argparse
import copy
import hashlib
import math
import platform
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prism_plugin import ops
from prism_plugin.config import SamplerConfig
from prism_plugin.files import load_json, output_folder, save_json, write_atomic
from prism_plugin.models.checkpoint import PrismModel
from prism_plugin.models.denoiser import View
from prism_plugin.quality import cavity
from prism_plugin.quality.calibration import reliability, sharpness
from prism_plugin.sampling.config import resolve
from prism_plugin.sampling.drive import generate
from prism_plugin.sampling.methods import with_shadow
from prism_plugin.sampling.parts import Forward, scores
from prism_plugin.sampling.state import State
from prism_plugin.tasks import HELD_OUT, get_task

PRESETS = ("random", "random-remask")
STATES = ("sampler", "wrong tokens")
BOUNDS = (0.5, 1.5, 3.0)  # nats of entropy, between the bins
FIGURES = ("corr_logit", "corr_log_evidence", "kl", "recall_03", "precision_03", "recall_01", "precision_01")


@dataclass
class Judged:
    """Visible tokens to judge: ``states`` with their tokens; of the N tokens, a batch after the other, (N,) each:
    ``exact`` log posterior, ``entropy`` of that posterior in nats, log probability when ``written``, the ``text``.
    """

    states: list[State]
    exact: Tensor
    entropy: Tensor
    written: Tensor
    text: Tensor

    @classmethod
    def of(cls, model: PrismModel, states: list[State]) -> "Judged":
        """Judge the open tokens of the states, every one alone."""
        columns = zip(*(_alone(model, state) for state in states), strict=True)
        return cls(states, *(torch.cat(column) for column in columns))

    @torch.no_grad()
    def said(self, score: Callable[[State], Tensor]) -> Tensor:
        """Log of a score's probabilities, (N,) f64."""
        found = torch.cat([score(state)[state.open] for state in self.states])
        return found.double().clamp(1e-9, 1.0).log()


@torch.no_grad()
def _alone(model: PrismModel, state: State) -> tuple[Tensor, ...]:
    probability, entropy = torch.ones(state.tokens.shape), torch.zeros(state.tokens.shape)
    for rows, hidden, view in cavity.passes(model, state.tokens, state.open, 0, state.padding):
        index = hidden.flatten().nonzero().squeeze(1)
        zero, given = torch.zeros_like(index), state.tokens[rows].flatten()[index]
        seen = view.sample(index, zero, zero, zero, seed=0, temperature=0.0, confidence_of="untempered", given=given,
                           entropy=True)  # fmt: skip
        assert seen.given_prob is not None and seen.entropy is not None
        where = torch.zeros(state.tokens.shape, dtype=torch.bool).index_put((rows,), hidden)
        probability[where], entropy[where] = seen.given_prob, seen.entropy
    shown = state.open
    logs = (probability[shown].double().clamp(1e-9, 1.0).log(), entropy[shown].double())
    return *logs, state.written[shown].double().clamp(min=1e-9).log(), state.request[shown.nonzero()[:, 0]]


def sampler_states(model: PrismModel, texts: int, steps: int) -> list[State]:
    """Texts on their way from nothing but masks, each at one place: of every preset a third after a quarter of the
    steps, a third after half of them, a third after three quarters.
    """
    share, kept = -(-texts // (3 * len(PRESETS))), []
    for number, (preset, quarter) in enumerate(product(PRESETS, (1, 2, 3))):

        def keep(state: State, view: View | None, at: int = steps * quarter // 4) -> None:
            if int(state.step[0]) == at:
                kept.append(_copy(state))

        start, request = torch.full((share, model.max_length), model.mask_id), torch.arange(share) + number * share
        generate(model, start, SamplerConfig(preset, steps=steps, seed=11), request=request, callback=keep)
    return kept


@torch.no_grad()
def spoilt_states(model: PrismModel, texts: int) -> list[State]:
    """Held-out texts of which an eighth is drawn where three quarters were hidden; these tokens are judged."""
    truth = get_task(model.task).texts(0, texts, HELD_OUT)
    length, number = truth.shape[1], torch.arange(texts)[:, None]
    zero = torch.zeros(1, dtype=torch.long)
    rank = ops.philox.uniform(7, number, torch.arange(length), zero, 0).argsort(dim=1).argsort(dim=1)
    context = truth.masked_fill(rank < length * 3 // 4, model.mask_id)
    index = (rank < length // 8).flatten().nonzero().squeeze(1)
    drawn = View(model, model(context)).sample(index, index // length, index % length, 0 * index, seed=7)
    tokens = truth.flatten().index_copy(0, index, drawn.token).view_as(truth)
    state = State(tokens, rank < length // 8, model.mask_id, resolve(SamplerConfig("prism")), torch.arange(texts))
    state.written = state.written.flatten().index_copy(0, index, drawn.prob).view_as(state.written)
    return [state]


def _copy(state: State) -> State:
    """The state as it is; nothing of it was written in this very step."""
    copied = copy.copy(state)
    copied.tokens, copied.filled = state.tokens.clone(), torch.zeros_like(state.filled)
    return copied


# ---- what is compared: (B, L) probabilities of the visible tokens


def by_score(model: PrismModel, name: str) -> Callable[[State], Tensor]:
    """A score of the sampler, by one pass over the text."""
    return lambda state: scores[name].function(Forward(state).by(model), state)


def by_shadow(model: PrismModel, together: bool) -> Callable[[State], Tensor]:
    """WINO's shadow block behind the text; ``together``: its rows see each other, as there."""

    def judge(state: State) -> Tensor:
        return scores["shadow"].function(with_shadow(state, together).by(model), state)

    return judge


def compared(model: PrismModel, head: str, quick: bool) -> dict[str, tuple[float, Callable[[State], Tensor]]]:
    """What is held against the leave-one-out posterior, and the forward passes it takes beside the sampler's own."""
    found: dict[str, tuple[float, Callable[[State], Tensor]]] = {}
    if model.head is not None:
        found[head] = (round(getattr(model.head, "share", 0.0), 2), by_score(model, "quality"))
    found |= {
        "self-likelihood": (0, by_score(model, "self_likelihood")),
        "probability when written": (0, by_score(model, "written")),
        "shadow": (1, by_shadow(model, True)),
        "shadow, alone": (1, by_shadow(model, False)),
    }
    for groups in (1, 2, 4, 8) if quick else (1, 2, 4, 8, 16):
        found[f"hidden, {groups} groups"] = (
            groups, lambda state, groups=groups: cavity.posterior(model, state.tokens, state.open, groups)
        )  # fmt: skip
    return found


# ---- the measure


def figures(said: Tensor, exact: Tensor, written: Tensor) -> dict[str, float | None]:
    """``calibration.sharpness`` with the low end at .1 beside that at .3; None where there is nothing to find."""
    found: dict[str, float | None] = dict(sharpness(said, exact, written))
    for name, tau in (("03", 0.3), ("01", 0.1)):
        low, true = (log - written < math.log(tau) for log in (said, exact))
        hit = float((low & true).sum())
        found[f"recall_{name}"] = hit / float(true.sum()) if true.any() else None
        found[f"precision_{name}"] = hit / float(low.sum()) if low.any() else None
    return found


def measure(judged: Judged, said: Tensor, again: int = 200) -> dict[str, Any]:
    """All figures of one score on one set of states, with 95% intervals over texts."""
    row: dict[str, Any] = {"tokens": len(said), **figures(said, judged.exact, judged.written)}
    below = judged.exact - judged.written < math.log(0.3)
    row["share_03"] = float(below.double().mean())
    row["said_03"] = float((said - judged.written < math.log(0.3)).double().mean())
    row["off"] = float((_odds(said) - _odds(judged.exact)).abs().mean())
    row |= at_precision(said - judged.written, below)
    generator, texts = torch.Generator().manual_seed(0), judged.text.unique()
    places = [(judged.text == text).nonzero().squeeze(1) for text in texts]
    drawn = []
    for _ in range(again):
        index = torch.cat([places[i] for i in torch.randint(len(texts), (len(texts),), generator=generator)])
        drawn.append(figures(said[index], judged.exact[index], judged.written[index]))
    for name in FIGURES:
        values = torch.tensor([one[name] for one in drawn if one[name] is not None], dtype=torch.float64)
        ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
        row[f"{name}_between"] = values.quantile(ends).tolist() if len(values) else None
    kind = torch.bucketize(judged.entropy, torch.tensor(BOUNDS, dtype=torch.float64))
    row["by_entropy"] = [
        {"bin": name, "tokens": int((kind == i).sum())}
        | (
            figures(said[kind == i], judged.exact[kind == i], judged.written[kind == i])
            if (kind == i).sum() > 9
            else {}
        )
        for i, name in enumerate(bins())
    ]
    row["reliability"] = reliability(_odds(said), judged.exact.exp())
    return row


def at_precision(evidence: Tensor, low: Tensor, wanted: float = 0.6) -> dict[str, float | None]:
    """The best recall of ``low`` (N,) bool at a precision of ``wanted``, and below what said evidence (N,) that is."""
    order = evidence.argsort()
    hits = low[order].double().cumsum(0)
    reached = (hits / torch.arange(1, len(hits) + 1) >= wanted).nonzero()
    if not len(reached):
        return {"recall_at_06": 0.0 if low.any() else None, "says_at_06": None}
    last = int(reached[-1])
    return {"recall_at_06": float(hits[last] / hits[-1]), "says_at_06": float(evidence[order[last]].exp())}


def bins() -> list[str]:
    """Names of the bins of entropy."""
    return [f"< {BOUNDS[0]:g}", *(f"{low:g} to {high:g}" for low, high in pairwise(BOUNDS)), f"> {BOUNDS[-1]:g}"]


def _odds(log: Tensor) -> Tensor:
    log = log.clamp(max=-1e-6)
    return (log - torch.log1p(-log.exp())).clamp(-10, 10)


def run(
    head: str, texts: int, steps: int, quick: bool, known: dict[str, tuple[str, dict[str, Judged]]]
) -> list[dict[str, Any]]:
    """All rows of one head and of what needs none. known, by the hash of the backbone: the first head on it, by whose
    name the backbone goes, and what was judged already.
    """
    model = PrismModel.from_pretrained(head).eval()
    digest = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.backbone.state_dict().values()))
    seen = digest.hexdigest() in known
    if not seen:
        made = {"sampler": sampler_states(model, texts, steps), "wrong tokens": spoilt_states(model, texts)}
        known[digest.hexdigest()] = head, {name: Judged.of(model, states) for name, states in made.items()}
    rows = []
    backbone, held = known[digest.hexdigest()]
    for states, judged in held.items():
        for name, (passes, score) in compared(model, head, quick).items():
            if seen and name != head:
                continue
            said = judged.said(score)
            row = {"head": name, "model": backbone, "states": states, "passes": passes, "learned": name == head}
            row |= {"texts": len(judged.text.unique()), "steps": steps}
            row |= measure(judged, said)
            print(head, states, name, *(f"{key} {_cell(row[key])}" for key in FIGURES[:5]), flush=True)
            rows.append(row)
    return rows


# ---- the pages


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def markdown(result: dict[str, Any]) -> str:
    """The result as a page."""
    lines = [
        "# How sharp is a score?", "",
        *(f"    {command}" for command in dict.fromkeys(row["command"] for row in result["rows"])), "",
        "Against the posterior of the same backbone with the token hidden alone. Texts on their way from masks alone, "
        f"by the presets {' and '.join(PRESETS)}, each after a quarter, half or three quarters of the steps "
        "('sampler'); held-out texts an eighth of which is drawn where three quarters were hidden, these tokens judged "
        "('wrong tokens'). "
        f"{result['date']}, {result['machine']}.", "",
        "passes: forward passes beside the sampler's own (a shadow's is twice as long), of a head its share of one. "
        "log-odds, log evidence: correlations with those of the posterior, 95% interval over texts; evidence is the "
        "probability divided by that when written. KL in nats. recall and precision of 'evidence below .3' (and .1). "
        "says < .3: tokens of whose evidence the score says so. recall at .6: the best at a precision of .6, and below "
        "which evidence the score says so there. off: mean distance in log-odds.",
    ]  # fmt: skip
    for model in dict.fromkeys(row["model"] for row in result["rows"]):
        for states in STATES:
            rows = [row for row in result["rows"] if (row["model"], row["states"]) == (model, states)]
            lines += ["", f"## {model}, {states}", ""]
            about = f"{rows[0]['tokens']} tokens of {rows[0]['texts']} texts, {rows[0]['steps']} steps, "
            lines += [about + f"{100 * rows[0]['share_03']:.1f}% with evidence below .3.", ""]
            lines += ["| score | passes | log-odds | log evidence | KL | off | says < .3, % | recall .3 | "
                      "precision .3 | recall at .6 | recall .1 | precision .1 |", "|---|" + "--:|" * 11]  # fmt: skip
            for row in rows:
                spread = [
                    f"{_cell(row[name])} ({' to '.join(_cell(end) for end in row[f'{name}_between'])})"
                    for name in FIGURES[:2]
                ]
                rest = [_cell(row[name]) for name in ("kl", "off")] + [f"{100 * row['said_03']:.1f}"]
                rest += [_cell(row[name]) for name in FIGURES[3:5]]
                rest += [f"{_cell(row['recall_at_06'])} (< {_cell(row['says_at_06'])})"]
                rest += [_cell(row[name]) for name in FIGURES[5:]]
                lines.append(f"| {row['head']} | {row['passes']} | " + " | ".join([*spread, *rest]) + " |")
    lines += ["", "## By entropy of the position", "", "log evidence, and recall of evidence below .3, sampler's "
              "states, by the entropy of the posterior with the token hidden, in nats:", "",
              "| model | score | " + " | ".join(bins()) + " |", "|---|---|" + "--:|" * len(bins())]  # fmt: skip
    for row in result["rows"]:
        if row["states"] == "sampler":
            cells = [
                f"{_cell(one.get('corr_log_evidence'))}, {_cell(one.get('recall_03'))}" for one in row["by_entropy"]
            ]
            lines.append(f"| {row['model']} | {row['head']} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", "![Log evidence by passes, reliability in log-odds](sharpness.png)"]) + "\n"


def plot(result: dict[str, Any], path: Path) -> None:
    """Left: correlation of log evidence against passes. Right: reliability of heads in log-odds. Sampler's states."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    right.plot([-9, 9], [-9, 9], color="0.7", linewidth=1)
    for number, model in enumerate(dict.fromkeys(row["model"] for row in result["rows"])):
        rows = [row for row in result["rows"] if (row["model"], row["states"]) == (model, "sampler")]
        groups = [row for row in rows if row["head"].startswith("hidden")]
        left.plot([row["passes"] for row in groups], [row["corr_log_evidence"] for row in groups],
                  color=f"C{number}", marker="o", label=f"{model}: groups hidden")  # fmt: skip
        for kind, marker in (("head", "*"), ("self-likelihood", "x"), ("shadow", "s"), ("shadow, alone", "D")):
            shown = [row for row in rows if kind == ("head" if row["learned"] else row["head"])]
            if shown:
                left.plot([row["passes"] for row in shown], [row["corr_log_evidence"] for row in shown], marker,
                          color=f"C{number}", label=f"{model}: {kind}")  # fmt: skip
        table = [one for row in rows if row["head"] == model for one in row["reliability"] if one["count"] >= 30]
        points = [[math.log(one[key] / (1 - one[key])) for one in table if 0 < one["right"] < 1]
                  for key in ("predicted", "right")]  # fmt: skip
        right.plot(*points, marker="o", color=f"C{number}", label=model)
    left.set(xlabel="forward passes beside the sampler's own", ylabel="correlation of log evidence")
    right.set(xlabel="log-odds that the head says", ylabel="log-odds of the mean posterior")
    for panel in (left, right):
        panel.grid(alpha=0.25)
        panel.legend(fontsize=7, frameon=False)
    with write_atomic(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", nargs="+", default=["code", "prose", "sudoku"], help="embedded models or folders")
    parser.add_argument("--texts", type=int, default=132, help="of each model (132)")
    parser.add_argument("--steps", type=int, default=32, help="forward passes of the sampler (32)")
    parser.add_argument("--quick", action="store_true", help="the first head alone, 24 texts")
    parser.add_argument("--out", default="docs/results", help="folder to write to")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    folder = output_folder(options.out)
    heads, texts = (options.heads[:1], 24) if options.quick else (options.heads, options.texts)
    file = folder / "sharpness.json"
    rows = load_json(file)["rows"] if file.exists() else []
    rows = [row for row in rows if not {row["model"], row["head"]} & set(heads)]
    known: dict[str, tuple[str, dict[str, Judged]]] = {}
    command = shlex.join(["python", "-m", "benchmarks.sharpness", *(argv if argv is not None else sys.argv[1:])])
    result: dict[str, Any] = {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()} CPU, one thread, torch {version('torch')}, f32, no GPU",
    }  # fmt: skip
    for head in heads:
        rows += [row | {"command": command} for row in run(head, texts, options.steps, options.quick, known)]
        result["rows"] = rows
        save_json(file, result)
    with write_atomic(folder / "sharpness.md") as path:
        path.write_text(markdown(result))
    plot(result, folder / "sharpness.png")
    print(f"Written: {file}, sharpness.md, sharpness.png")


if __name__ == "__main__":
    main()
