"""Revision methods side by side at the same number of forward passes: who is compared, how it is counted and shown.

``ROWS`` says what is compared; ``prism demo`` runs the rows on a few puzzles, ``benchmarks/sudoku.py`` on many.
"""

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from ..errors import ConfigError
from ..files import load_json
from ..models.checkpoint import PrismModel
from ..models.denoiser import Denoiser
from ..sampling.config import SamplerConfig
from ..sampling.drive import Callback, generate
from ..sampling.trace import CORRECTED, RESTORED, Trace
from ..tasks import Task

RESULT = Path(__file__).parents[2] / "docs" / "results" / "sudoku.json"
"""What ``benchmarks/sudoku.py`` wrote for the embedded model; in a checkout, not in a wheel."""


def gone_on_with(file: Path, result: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """What an earlier call left in ``file``, for this one to add its runs to; nothing where there is no such file.

    Raises:
        ConfigError: its runs are of other ``keys`` than those of ``result``: they would be lost.
    """
    before = load_json(file) if file.exists() else {"runs": []}
    other = [f"{key} = {before.get(key)} (now {result[key]})" for key in keys if before.get(key) != result[key]]
    if file.exists() and other:
        raise ConfigError(f"{file} holds runs of {', '.join(other)}: write elsewhere, or delete that file first.")
    return before


@dataclass(frozen=True)
class Row:
    """One method of the table: what it is called, and its sampler. ``note`` says what it stands for.

    model: the embedded model that has its head, where that is not the one of the others.
    """

    method: str
    sampler: SamplerConfig
    note: str
    model: str = ""

    @property
    def first(self) -> bool:
        """Whether it is one of those that say most: a newcomer's demonstration has these."""
        return self.method in FIRST

    @property
    def order(self) -> str:
        """Which masks are filled first."""
        return self.sampler.order or "random"


def _both_orders(method: str, note: str, *, model: str = "", **sampler: object) -> list[Row]:
    return [Row(method, SamplerConfig(order=order, **sampler), note, model) for order in ("random", "confidence")]  # type: ignore[arg-type]


FIRST = ("MDLM", "confidence", "random remask", "self-likelihood", "PRISM", "PRISM share")
ROWS: list[Row] = [
    Row("MDLM", SamplerConfig("mdlm"), "fills only"),
    Row("confidence", SamplerConfig("confidence", order="confidence"), "fills only"),
    *_both_orders("ReMDM-conf", "as published", name="remdm-conf"),
    *_both_orders(
        "ReMDM score", "lowest probability when written, as many remasks as PRISM", name="prism", score="written"
    ),
    *_both_orders("random remask", "the control, as many remasks as PRISM", name="random-remask"),
    *_both_orders("self-likelihood", "a score without training, as many remasks as PRISM", name="self-likelihood"),
    *_both_orders("PRISM", "the lowest qualities out at every step, sampled as published", name="prism"),
    *_both_orders(
        "self-lik. share", "the rule of PRISM share with a score without training", name="prism-share",
        score="self_likelihood",
    ),
    *_both_orders(
        "PRISM share",
        "preset prism-share: the lowest share of what is visible, falling to none, the same number in all however many "
        "passes (chosen on other grids)",
        name="prism-share",
    ),
    Row(
        "self-lik. < .9",
        SamplerConfig("prism-evidence", score="self_likelihood", tau=0.9, order="confidence"),
        "the rule of PRISM ev., k=1 and its model with a score without training, the best tau of .1, .3, .5, .7, .9",
        "sudoku-k1",
    ),
    *_both_orders("PRISM evidence", "quality / probability when written below tau = .1", name="prism-evidence"),
    *_both_orders(
        "PRISM ev., k=1",
        "the same below tau = .5 (of .1 to 1, chosen on other grids), by a head trained with k = 1",
        name="prism-evidence", tau=0.5, model="sudoku-k1",
    ),
]  # fmt: skip


def choose(row: Row, model: PrismModel, name: str) -> PrismModel:
    """The model of a row: beside the embedded ``sudoku`` its own where it has one."""
    return PrismModel.from_pretrained(row.model) if row.model and name == "sudoku" else model


def wilson(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """95% confidence interval of a share (Wilson, 1927)."""
    share = successes / trials
    middle, half = share + z * z / (2 * trials), z * math.sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2)
    return max(0.0, (middle - half) / (1 + z * z / trials)), min(1.0, (middle + half) / (1 + z * z / trials))


def diversity(tokens: Tensor, vocab_size: int) -> float:
    """Share of cells in which two different grids of (B, L) differ, averaged over all pairs; NaN for one grid."""
    count = torch.nn.functional.one_hot(tokens, vocab_size).sum(dim=0).double()  # (L, V)
    pairs = len(tokens) * (len(tokens) - 1)
    return float(1 - (count * (count - 1)).sum(dim=1).mean() / pairs) if pairs else math.nan


def variety(tokens: Tensor) -> tuple[float, float]:
    """Of a text (L,): entropy of its own tokens in nats, and the share of its runs of four that are new in it."""
    share = tokens.unique(return_counts=True)[1].double() / len(tokens)
    fours = tokens.unfold(0, min(4, len(tokens)), 1).tolist()
    return float(-(share * share.log()).sum()), len({tuple(four) for four in fours}) / len(fours)


def self_bleu(texts: Sequence[Tensor], longest: int = 4) -> float:
    """BLEU of each text (L,) against all others, averaged (Zhu et al., 2018): 1 where all are alike, NaN for one.

    Runs of up to ``longest`` tokens with equal weights; a count of 0 is taken as .1 (Chen and Cherry, 2014, method 1).
    """
    if len(texts) < 2:
        return math.nan
    log = np.zeros(len(texts))
    for size in range(1, longest + 1):
        grams = [Counter(tuple(text[at : at + size].tolist()) for at in range(len(text) - size + 1)) for text in texts]
        most: dict[tuple, list[tuple[int, int]]] = {}  # of a run, the two texts that have it most often
        for number, counted in enumerate(grams):
            for gram, count in counted.items():
                most[gram] = sorted([*most.get(gram, []), (count, number)], reverse=True)[:2]
        for number, counted in enumerate(grams):
            hits = sum(
                min(count, next((other for other, whose in most[gram] if whose != number), 0))
                for gram, count in counted.items()
            )
            log[number] += math.log((hits or 0.1) / max(1, counted.total())) / longest
    long = np.array([len(text) for text in texts])
    for number, own in enumerate(long):
        others = np.delete(long, number)
        nearest = others[np.lexsort((others, np.abs(others - own)))[0]]
        log[number] += min(0.0, 1 - nearest / own)
    return float(np.exp(log).mean())


def measure(
    model: Denoiser,
    task: Task,
    prompts: Tensor,
    row: Row,
    forwards: int,
    seed: int,
    *,
    batch_size: int = 128,
    callback: Callback | None = None,
    advance: Callable[[int], None] = lambda texts: None,
) -> dict:
    """Solve ``prompts`` (B, L) by one row and count; shares are of puzzles (solved) or cells (accuracy).

    forwards, remasks and wasted are means a grid; outcomes has a 1 or a 0 for every puzzle, solved or not.
    ``advance(n)`` is told of n puzzles done.
    """  # fmt: skip
    sampler = replace(row.sampler, steps=forwards, seed=seed)
    started, done = time.perf_counter(), []
    for first in range(0, len(prompts), batch_size):
        batch = prompts[first : first + batch_size]
        request = torch.arange(first, first + len(batch))
        done.append(generate(model, batch, sampler, request=request, callback=callback))
        advance(len(batch))
    seconds = time.perf_counter() - started
    tokens = torch.cat([result.tokens for result in done])
    solved, right = task.accuracy(tokens, prompts)
    low, high = wilson(int(solved.sum()), len(solved))
    mean = {
        name: round(float(torch.cat([getattr(result, field) for result in done]).double().mean()), 2)
        for name, field in (("forwards", "forwards"), ("remasks", "remasked"), ("wasted", "wasted"))
    }
    return {
        "method": row.method, "order": row.order, "steps": forwards, "seed": seed, "puzzles": len(prompts),
        "solved": int(solved.sum()), "solved_share": float(solved.double().mean()), "low": low, "high": high,
        "accuracy": float(right.double().mean()), **mean, "diversity": diversity(tokens, task.vocab_size),
        "outcomes": "".join(str(int(one)) for one in solved),
        "seconds": round(seconds, 1), "sampler": sampler.settings(),
    }  # fmt: skip


COLUMNS = (
    "method", "fill order", "solved % (95%)", "cells right %", "forwards", "remasks", "wasted", "diversity", "s",
)  # fmt: skip


SHORT = ("method", "order", "solved % (95%)", "cells %", "fwd", "remask", "waste", "div.", "s")
"""The same for a terminal of 80 characters."""


def cells(found: dict) -> list[str]:
    """A row of the table, one string a column of ``COLUMNS``."""
    return [
        found["method"], found["order"],
        f"{100 * found['solved_share']:.1f} ({100 * found['low']:.0f} to {100 * found['high']:.0f})",
        f"{100 * found['accuracy']:.1f}", f"{found['forwards']:.0f}", f"{found['remasks']:.0f}",
        f"{found['wasted']:.0f}", f"{found['diversity']:.3f}", f"{found['seconds']:.1f}",
    ]  # fmt: skip


def table(rows: list[dict], heading: str) -> Table:
    """The comparison for the terminal; the best share solved of each fill order is green."""
    shown = Table(title=heading, title_justify="left", title_style="bold", header_style="bold underline", box=None,
                  padding=(0, 1, 0, 0), pad_edge=False)  # fmt: skip
    for name in SHORT:
        shown.add_column(name, justify="left" if name in SHORT[:2] else "right", no_wrap=True)
    best = {order: max(r["solved"] for r in rows if r["order"] == order) for order in {r["order"] for r in rows}}
    previous = ""
    for found in rows:
        values = cells(found)
        if found["solved"] and found["solved"] == best[found["order"]]:
            values[2] = f"[bold green]{values[2]}[/]"
        if found["method"] == previous:
            values[0] = ""
        previous = found["method"]
        shown.add_row(*values)
    return shown


def repaired(trace: Trace, solved: Tensor) -> int:
    """The text to show: of the solved ones (of all, where none is) the one whose tokens were corrected most."""
    event = trace.events()
    corrected = (event == CORRECTED).sum(axis=(0, 2)) - 0.25 * (event == RESTORED).sum(axis=(0, 2))
    candidates = solved if bool(solved.any()) else torch.ones_like(solved)
    return int(np.where(candidates.numpy(), corrected, -np.inf).argmax())


def compare_note(rows: list[dict], forwards: int, clues: int) -> str:
    """One sentence on how the quick run agrees with the committed result of the same model; '' without one."""
    if not RESULT.exists():
        return ""
    committed = json.loads(RESULT.read_text())
    known = {(r["method"], r["order"]): r for r in committed["rows"] if r["steps"] == forwards}
    pairs = [
        (found, known[found["method"], found["order"]]) for found in rows if (found["method"], found["order"]) in known
    ]
    if not pairs or committed["clues"] != clues:
        return ""
    apart = [f"{a['method']} ({a['order']})" for a, b in pairs if not a["low"] <= b["solved_share"] <= a["high"]]
    agree = f"{len(pairs) - len(apart)} of {len(pairs)} rows hold the committed share within their interval"
    outside = f"; outside: {', '.join(apart)}" if apart else ""
    return f"Committed result of {committed['date']} ({pairs[0][1]['puzzles']} puzzles a row): {agree}{outside}."
