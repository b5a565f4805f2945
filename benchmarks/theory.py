"""Is the quality that PRISM learns the quality that it means? Shown where every probability can be enumerated.

    python benchmarks/theory.py [--quick] [--json FILE] [--plot FILE]

The data are all strings of a small Markov chain, and the 288 grids of 4x4 Sudoku, so that the quality of a visible
token, g*(y)_i = P(x_i = y_i | y with i masked), is known exactly, and so is what the PRISM loss is minimised by: the
share of right labels among all ways in which (y, i) can come about. Masks, positions and texts are those of our own
``draw_sample`` and ``reveal``, for a number of mask patterns; over texts and fills the sums are complete. Then a small
network is trained on that loss, summed over the full enumeration, and compared with g*, as are the free scores that
the learned one replaces.
"""

import argparse
import itertools
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prism_plugin import ops
from prism_plugin.files import write_atomic
from prism_plugin.quality.loss import QualityConfig, draw_sample, reveal
from prism_plugin.tasks import TRAIN, get_task

CHAIN = [[0.6, 0.3, 0.1], [0.1, 0.6, 0.3], [0.3, 0.1, 0.6]]

COMMAND = "python -m benchmarks.theory --json docs/results/theory.json --plot docs/results/theory.png"

Posterior = Callable[[Tensor], Tensor]  # contexts (N, L) -> (N, L, V)


@dataclass
class Enumerable:
    """A distribution over all its texts: texts (N, L) int64 over symbols 0 to V - 1, prob (N,) f64; the mask is V.

    A context is a text in which some symbols are masks, numbered by ``code``.
    """

    texts: Tensor
    prob: Tensor
    symbols: int

    def code(self, y: Tensor) -> Tensor:
        """The number of a context, (…, L) -> (…)."""
        return (y * (self.symbols + 1) ** torch.arange(y.shape[-1])).sum(-1)

    def decode(self, code: Tensor) -> Tensor:
        """The context of a number, (…) -> (…, L)."""
        return code[..., None] // (self.symbols + 1) ** torch.arange(self.texts.shape[1]) % (self.symbols + 1)

    def one_hot(self, y: Tensor) -> Tensor:
        """(N, L) -> (N, L (V + 1)) f32, what a network reads."""
        return F.one_hot(y, self.symbols + 1).flatten(1).float()

    def disagreement(self, y: Tensor) -> Tensor:
        """How many visible symbols of y (M, L) a text has otherwise, (M, N) f64."""
        seen = F.one_hot(y, self.symbols + 1)[..., : self.symbols].flatten(1).double()
        texts = F.one_hot(self.texts, self.symbols).flatten(1).double()
        return (y != self.symbols).sum(1, keepdim=True) - seen @ texts.T

    def posterior(self, y: Tensor) -> Tensor:
        """P(x_i = v | the visible symbols of y), (M, L) -> (M, L, V) f64."""
        mass = (self.disagreement(y) == 0) * self.prob
        counts = mass @ F.one_hot(self.texts, self.symbols).double().flatten(1)
        return (counts / mass.sum(1, keepdim=True)).view(len(y), -1, self.symbols)

    def quality(self, y: Tensor, noise: float = 0.0) -> Tensor:
        """g*, (M, L) -> (M, L) f64: each visible symbol's posterior with it masked; NaN at masks and where 0 / 0.

        noise: chance of every other visible symbol to be a wrong one, so that no context is impossible.
        """
        wrong, texts = self.disagreement(y), F.one_hot(self.texts, self.symbols).double().flatten(1)
        odds = noise / (self.symbols - 1) / (1 - noise)
        fits = self.prob * (odds**wrong if noise else wrong == 0)  # the weight of each text, (M, N)
        hidden = (
            fits / odds if noise else self.prob * (wrong == 1)
        )  # the same where i, which it has otherwise, is masked
        place = y.clamp(max=self.symbols - 1)[..., None]
        own, same = ((mass @ texts).view(*y.shape, -1).gather(2, place)[..., 0] for mass in (fits, hidden))
        return (own / (own + hidden.sum(1, keepdim=True) - same)).masked_fill(y == self.symbols, math.nan)


def markov_chain(length: int) -> Enumerable:
    """Strings of a chain of three symbols, uniform at the start."""
    texts = torch.tensor(list(itertools.product(range(3), repeat=length)))
    step = torch.tensor(CHAIN, dtype=torch.float64)
    return Enumerable(texts, step[texts[:, :-1], texts[:, 1:]].prod(1) / 3, 3)


def sudoku() -> Enumerable:
    """The 288 grids of 4x4 Sudoku, all equally likely; digit d is symbol d - 1."""
    grids = get_task("sudoku4").texts(0, 6000, TRAIN).unique(dim=0) - 1
    return Enumerable(grids, torch.full((len(grids),), 1 / len(grids), dtype=torch.float64), 4)


def spoiled(data: Enumerable) -> Posterior:
    """A posterior that is deliberately wrong: flattened, then tilted differently in every context and position."""

    def posterior(y: Tensor) -> Tensor:
        place, symbol = torch.arange(y.shape[1])[:, None], torch.arange(data.symbols)
        tilt = ops.uniform(0, (data.code(y) % 2147483647)[:, None, None], place, symbol, 0)
        wrong = (data.posterior(y) + 0.02).sqrt() * (0.2 + tilt)
        return wrong / wrong.sum(-1, keepdim=True)

    return posterior


@dataclass
class Enumeration:
    """Every text y (M, L) that the head can be shown, and what can come about at its positions, (M, L) f64.

    weight: how often; right: how often with a right label; written: the probability with which the token was drawn,
    summed over ways and weighted as they are. quality is g*. contexts (K, L): what the fills are drawn in, ``often``
    (K,) f64.
    """

    y: Tensor
    weight: Tensor
    right: Tensor
    drawn: Tensor
    quality: Tensor
    contexts: Tensor
    often: Tensor

    @property
    def reached(self) -> Tensor:
        """(M, L) bool: pairs that the fill can produce."""
        return self.weight > 0

    @property
    def minimiser(self) -> Tensor:
        """What the loss is minimised by: the share of right labels; NaN where nothing comes about."""
        return self.right / self.weight

    @property
    def written(self) -> Tensor:
        """Mean probability of the token when it was written."""
        return self.drawn / self.weight


def enumerate_loss(
    data: Enumerable, posterior: Posterior, config: QualityConfig, patterns: int, seed: int = 0
) -> Enumeration:
    """Sum over ``patterns`` choices of masks and positions by ``draw_sample``, all texts and all fills.

    posterior: what fills are drawn from.
    """
    length, symbols = data.texts.shape[1], data.symbols
    x = data.texts.repeat(patterns, 1)
    number = torch.arange(patterns).repeat_interleave(len(data.texts))
    sample = draw_sample(x, number, symbols, seed, config)
    codes, inverse = data.code(sample.context).unique(return_inverse=True)
    contexts = data.decode(codes)
    often = torch.zeros(len(codes), dtype=torch.float64).index_add(0, inverse, data.prob.repeat(patterns))
    chance = posterior(contexts)[inverse]  # (B, L, V)
    slot = sample.chosen.cumsum(1) - 1
    index = sample.chosen.flatten().nonzero().squeeze(1)
    keys, sums = torch.zeros(0, dtype=torch.long), torch.zeros(3, 0, dtype=torch.float64)
    for digits in itertools.product(range(symbols), repeat=config.k):
        fills = torch.tensor(digits)
        drawn = fills[slot.clamp(min=0)]  # (B, L), of use where chosen
        prob = chance.gather(2, drawn[..., None])[..., 0]
        ways = data.prob.repeat(patterns) * prob.masked_fill(~sample.chosen, 1).prod(1)
        spare = fills * (torch.arange(config.k) >= sample.chosen.sum(1, keepdim=True))
        ways = ways * (spare == 0).all(1)  # with fewer masks than k, each fill counts once
        y = reveal(sample, x, index, drawn.flatten()[index], symbols)
        key = (data.code(y)[:, None] * length + torch.arange(length))[sample.chosen]
        ways = ways[:, None].expand(-1, length)[sample.chosen]
        new = torch.stack([ways, ways * (x == y)[sample.chosen], ways * prob[sample.chosen]])[:, ways > 0]
        keys, inverse = torch.cat([keys, key[ways > 0]]).unique(return_inverse=True)
        sums = torch.zeros(3, len(keys), dtype=torch.float64).index_add(1, inverse, torch.cat([sums, new], dim=1))
    codes, inverse = (keys // length).unique(return_inverse=True)
    table = torch.zeros(3, len(codes), length, dtype=torch.float64)
    table[:, inverse, keys % length] = sums
    y = data.decode(codes)
    return Enumeration(y, *table, data.quality(y), contexts, often)


def learn(inputs: Tensor, targets: Tensor, weight: Tensor, steps: int, seed: int = 0) -> nn.Module:
    """Train a small network of one-hot contexts (N, D) on weighted cross-entropy against targets, (N, …) f64.

    One sigmoid an entry where targets are (N, L), a softmax over V where (N, L, V). All of it at every step, or
    shuffled batches of 4,096 where it is more. Returns the network, of logits (N, L) or (N, L V).
    """
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Linear(inputs.shape[1], 128), nn.GELU(), nn.Linear(128, 128), nn.GELU(), nn.Linear(128, targets[0].numel())
    )  # fmt: skip
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    pace = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    targets, weight = targets.float(), (weight / weight.mean()).float()
    order = torch.zeros(0, dtype=torch.long)
    for _ in range(steps):
        if not len(order):
            order = torch.randperm(len(inputs))
        batch, order = order[:4096], order[4096:]
        logits = net(inputs[batch]).view(-1, *targets.shape[1:])
        if targets.ndim == 2:
            loss = F.binary_cross_entropy_with_logits(logits, targets[batch], reduction="none")
        else:
            loss = -(targets[batch] * logits.log_softmax(-1)).sum(-1)
        optimizer.zero_grad()
        (loss * weight[batch]).mean().backward()
        optimizer.step()
        pace.step()
    return net


def distance(found: Tensor, ways: Enumeration) -> dict[str, float]:
    """Absolute errors over the pairs that can come about: their mean, the mean as often as they do, and the largest.

    Pairs of which g* is 0 / 0 (two fills that no text has together) are left out.
    """
    where = ways.reached & ~ways.quality.isnan()
    error, weight = (found - ways.quality)[where].abs(), ways.weight[where]
    often = float((error * weight).sum() / weight.sum())
    return {"mean": float(error.mean()), "mean_by_frequency": often, "max": float(error.max())}


@dataclass
class Effort:
    """What is compared, how many patterns of masks are added up, and how long the networks are trained."""

    patterns: int
    steps: int
    ks: tuple[int, ...]
    fills: tuple[str, ...] = ("fresh", "stale")


def study(data: Enumerable, effort: Effort) -> tuple[list[dict], dict[str, tuple[Tensor, Tensor]]]:
    """All comparisons on one distribution: the rows of the table, and (exact, found) points for the figure."""
    rows: list[dict] = []
    points: dict[str, tuple[Tensor, Tensor]] = {}

    def add(score: str, found: Tensor, ways: Enumeration, **settings: object) -> dict:
        where = ways.reached & ~ways.quality.isnan()
        row = {"score": score, **settings, "pairs": int(ways.reached.sum()), "defined": int(where.sum())}
        points[" ".join(str(value) for value in (score, *settings.values()))] = (ways.quality[where], found[where])
        rows.append({**row, "found": distance(found, ways)})
        return rows[-1]

    for k, fills, drawn in itertools.product(effort.ks, effort.fills, ("exact", "wrong")):
        posterior = data.posterior if drawn == "exact" else spoiled(data)
        ways = enumerate_loss(data, posterior, QualityConfig(k=k, fills=fills), effort.patterns)
        inputs = data.one_hot(ways.y)
        net = learn(inputs, ways.minimiser.nan_to_num(0), ways.weight, effort.steps)
        learned = net(inputs).detach().double().sigmoid()
        add("learned", learned, ways, k=k, fills=fills, drawn=drawn)["minimiser"] = distance(ways.minimiser, ways)
        if k == 1:
            add("written", ways.written, ways, k=k, fills=fills, drawn=drawn)
    ways = enumerate_loss(data, data.posterior, QualityConfig(k=1, fills="stale"), effort.patterns)
    masked = (ways.contexts == data.symbols) * ways.often[:, None]
    net = learn(data.one_hot(ways.contexts), data.posterior(ways.contexts), masked, effort.steps)
    current = net(data.one_hot(ways.y)).detach().double().view(*ways.y.shape, data.symbols).softmax(-1)
    add("current", current.gather(2, ways.y.clamp(max=data.symbols - 1)[..., None])[..., 0], ways)
    return rows, points


NAMES = {
    "learned": "learned (PRISM loss)", "written": "probability when written", "current": "current posterior of a model"
}  # fmt: skip


def table(result: dict) -> str:
    """The result as Markdown."""
    lines = [
        f"Loss: {result['loss']}. Network: {result['network']}. {result['seconds']} s.", "",
        "Absolute distance from the exact quality g*, mean / largest, over all pairs (y, i) that the fill can produce "
        "and for which g* is defined (at k > 1 a grid may hold two fills that no grid has together: then it is 0 / 0).",
    ]  # fmt: skip
    for name, part in result["studies"].items():
        lines += [
            "", f"## {name}", "", f"{part['data']}; {part['patterns']} patterns of masks.", "",
            "| score | k | fills | drawn from | pairs | of them defined | minimiser of the loss | score |",
            "|---|---|---|---|--:|--:|---|---|",
        ]  # fmt: skip
        for row in part["rows"]:
            closed, found = (
                f"{row[key]['mean']:.2g} / {row[key]['max']:.2g}" if key in row else "-"
                for key in ("minimiser", "found")
            )
            about = " | ".join(str(row.get(key, "-")) for key in ("k", "fills", "drawn"))
            lines.append(
                f"| {NAMES[row['score']]} | {about} | {row['pairs']} | {row['defined']} | {closed} | {found} |"
            )
    return "\n".join(lines) + "\n"


SHOWN = {
    "learned 1 stale exact": "k = 1, exact fills", "learned 1 stale wrong": "k = 1, wrong fills",
    "learned 2 stale wrong": "k = 2, wrong fills", "learned 4 stale wrong": "k = 4, wrong fills",
    "written 1 stale wrong": "probability when written", "current": "current posterior of a model",
}  # fmt: skip


def plot(studies: dict[str, dict[str, tuple[Tensor, Tensor]]], path: Path) -> None:
    """Found against exact, a row a distribution and a panel a score."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        len(studies), len(SHOWN), figsize=(15, 3 * len(studies)), sharex=True, sharey=True, layout="constrained",
        squeeze=False,
    )  # fmt: skip
    for line, (data, points) in zip(axes, studies.items(), strict=True):
        for axis, (key, title) in zip(line, SHOWN.items(), strict=True):
            if key not in points:
                axis.set_axis_off()
                continue
            exact, found = points[key]
            error = (found - exact).abs()
            axis.plot([0, 1], [0, 1], color="0.7", linewidth=1, zorder=0)
            axis.scatter(exact, found, s=5, alpha=0.3, linewidths=0, rasterized=True)
            axis.set_title(f"{title}\nmean error {error.mean():.3f}, largest {error.max():.2f}", fontsize=9)
            axis.set_aspect("equal")
        line[0].set_ylabel(f"{data}\nscore", fontsize=9)
    figure.supxlabel("exact quality g*")
    with write_atomic(path) as temporary:
        figure.savefig(temporary, dpi=90, format="png")
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter strings, fewer masks, less training: seconds")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--plot", type=Path, help="write the picture here (PNG)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    length, steps = (4, 300) if args.quick else (5, 1500)
    strings, grids = markov_chain(length), sudoku()
    plans = {
        "Strings": (strings, Effort(128 if args.quick else 256, steps, (1, 2, 4))),
        "4x4 Sudoku": (grids, Effort(2 if args.quick else 8, steps, (1, 2), ("stale",))),
    }
    found = {name: study(*plan) for name, plan in plans.items()}
    said = {
        "Strings": f"all {len(strings.texts)} strings of length {length} of a Markov chain {CHAIN}",
        "4x4 Sudoku": f"all {len(grids.texts)} grids, equally likely",
    }
    result = {
        "loss": "summed over all texts and all fills of the given number of mask patterns of draw_sample",
        "network": f"two hidden layers of 128 on the one-hot context, Adam, {steps} steps, one seed",
        "seconds": round(time.perf_counter() - started),
        "studies": {
            name: {"data": said[name], "patterns": plans[name][1].patterns, "rows": rows}
            for name, (rows, _) in found.items()
        },
    }  # fmt: skip
    print(table(result))
    if args.json:
        with write_atomic(args.json) as path:
            path.write_text(json.dumps(result, indent=1) + "\n")
        with write_atomic(args.json.with_suffix(".md")) as path:
            path.write_text(
                f"# Learned against exact quality\n\n`{COMMAND}`\n\n![Learned against exact](theory.png)\n\n"
                + table(result)
            )
    if args.plot:
        plot({name: points for name, (_, points) in found.items()}, args.plot)


if __name__ == "__main__":
    main()
