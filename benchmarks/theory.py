"""Is the quality that PRISM learns the quality that it means? Shown where every probability can be enumerated.

    python benchmarks/theory.py [--quick] [--json FILE] [--plot FILE]

The data are all strings of a small Markov chain, so that the quality of a visible token,
g*(y)_i = P(x_i = y_i | y with i masked), is known exactly, and so is what the PRISM loss is minimised by: the share of
right labels among all ways in which (y, i) can come about. Masks, positions and texts are those of our own
``draw_sample`` and ``reveal``, for a number of mask patterns; over texts and fills the sums are complete. Then a small
network is trained on that loss, summed over the full enumeration, and compared with g*, as are the free scores that
the learned one replaces.
"""

import argparse
import itertools
import json
import math
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prism_plugin.files import write_atomic
from prism_plugin.quality.loss import QualityConfig, draw_sample, reveal

CHAIN = [[0.6, 0.3, 0.1], [0.1, 0.6, 0.3], [0.3, 0.1, 0.6]]


@dataclass
class Enumerable:
    """A distribution over all its texts: texts (N, L) int64 over symbols 0 to V - 1, prob (N,) f64; the mask is V.

    A context is a text in which some symbols are masks; there are C = (V + 1)^L, numbered by ``code``.
    """

    texts: Tensor
    prob: Tensor
    symbols: int

    def code(self, y: Tensor) -> Tensor:
        """The number of a context, (…, L) -> (…)."""
        return (y * (self.symbols + 1) ** torch.arange(y.shape[-1])).sum(-1)

    @cached_property
    def contexts(self) -> Tensor:
        """Every context, (C, L) int64, in the order of its number."""
        length = self.texts.shape[1]
        number = torch.arange((self.symbols + 1) ** length)[:, None]
        return number // (self.symbols + 1) ** torch.arange(length) % (self.symbols + 1)

    @cached_property
    def posterior(self) -> Tensor:
        """P(x_i = v | the visible symbols of a context), (C, L, V) f64."""
        seen = self.contexts[:, None]
        mass = ((seen == self.texts) | (seen == self.symbols)).all(-1).double() * self.prob  # (C, N)
        counts = mass @ F.one_hot(self.texts, self.symbols).double().flatten(1)
        return (counts / mass.sum(1, keepdim=True)).view(len(mass), -1, self.symbols)

    @cached_property
    def quality(self) -> Tensor:
        """g*, (C, L) f64: each visible symbol's posterior with that symbol masked; NaN at masks."""
        y, place = self.contexts, torch.arange(self.texts.shape[1])
        hidden = self.code(y)[:, None] + (self.symbols - y) * (self.symbols + 1) ** place
        found = self.posterior[hidden, place, y.clamp(max=self.symbols - 1)]
        return found.masked_fill(y == self.symbols, math.nan)


def markov_chain(length: int) -> Enumerable:
    """Strings of a chain of three symbols, uniform at the start."""
    texts = torch.tensor(list(itertools.product(range(3), repeat=length)))
    step = torch.tensor(CHAIN, dtype=torch.float64)
    return Enumerable(texts, step[texts[:, :-1], texts[:, 1:]].prod(1) / 3, 3)


def spoil(posterior: Tensor) -> Tensor:
    """A posterior that is deliberately wrong: flattened, then tilted differently in every context and position."""
    tilt = torch.rand(posterior.shape, dtype=posterior.dtype, generator=torch.Generator().manual_seed(0))
    wrong = posterior.sqrt() * (0.2 + tilt)
    return wrong / wrong.sum(-1, keepdim=True)


@dataclass
class Enumeration:
    """What can come about at each (context, position), (C, L) f64: how often, and how often with a right label.

    ``written`` is the mean probability with which the token was drawn, summed over ways and weighted as they are.
    """

    weight: Tensor
    right: Tensor
    written: Tensor

    @property
    def reached(self) -> Tensor:
        """(C, L) bool: pairs that the fill can produce."""
        return self.weight > 0

    @property
    def minimiser(self) -> Tensor:
        """What the loss is minimised by: the share of right labels; NaN where nothing comes about."""
        return self.right / self.weight


def enumerate_loss(
    data: Enumerable, posterior: Tensor, config: QualityConfig, patterns: int, seed: int = 0
) -> Enumeration:
    """Sum over ``patterns`` choices of masks and positions by ``draw_sample``, all texts and all fills.

    posterior (C, L, V) f64: what fills are drawn from.
    """
    length, symbols = data.texts.shape[1], data.symbols
    x = data.texts.repeat(patterns, 1)
    number = torch.arange(patterns).repeat_interleave(len(data.texts))
    sample = draw_sample(x, number, symbols, seed, config)
    chance = posterior[data.code(sample.context)]  # (B, L, V)
    slot = sample.chosen.cumsum(1) - 1
    index = sample.chosen.flatten().nonzero().squeeze(1)
    sums = torch.zeros(3, (symbols + 1) ** length * length, dtype=torch.float64)
    for digits in itertools.product(range(symbols), repeat=config.k):
        drawn = torch.tensor(digits)[slot.clamp(min=0)]  # (B, L), of use where chosen
        prob = chance.gather(2, drawn[..., None])[..., 0]
        ways = data.prob.repeat(patterns) * prob.masked_fill(~sample.chosen, 1).prod(1)
        spare = torch.tensor(digits) * (torch.arange(config.k) >= sample.chosen.sum(1, keepdim=True))
        ways = ways * (spare == 0).all(1)  # with fewer masks than k, each fill counts once
        y = reveal(sample, x, index, drawn.flatten()[index], symbols)
        key = (data.code(y)[:, None] * length + torch.arange(length))[sample.chosen]
        ways = ways[:, None].expand(-1, length)[sample.chosen]
        sums[0].index_add_(0, key, ways)
        sums[1].index_add_(0, key, ways * (x == y)[sample.chosen])
        sums[2].index_add_(0, key, ways * prob[sample.chosen])
    weight, right, written = sums.view(3, -1, length)
    return Enumeration(weight, right, written / weight)


def learn(inputs: Tensor, targets: Tensor, weight: Tensor, steps: int, seed: int = 0) -> Tensor:
    """Train a small network of one-hot contexts (C, D) on weighted cross-entropy against targets; its logits.

    targets, weight (C, …) f64: one sigmoid an entry where targets are (C, L), a softmax over V where (C, L, V).
    """
    torch.manual_seed(seed)
    out = targets[0].numel()
    net = nn.Sequential(nn.Linear(inputs.shape[1], 128), nn.GELU(), nn.Linear(128, 128), nn.GELU(), nn.Linear(128, out))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    pace = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    targets, weight = targets.float(), (weight / weight.sum()).float()
    for _ in range(steps):
        logits = net(inputs).view(targets.shape)
        if targets.ndim == 2:
            loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        else:
            loss = -(targets * logits.log_softmax(-1)).sum(-1)
        optimizer.zero_grad()
        (loss * weight).sum().backward()
        optimizer.step()
        pace.step()
    return net(inputs).detach().double().view(targets.shape)


def distance(found: Tensor, exact: Tensor, where: Enumeration) -> dict[str, float]:
    """Absolute errors over the pairs that can come about: their mean, the mean as often as they do, and the largest."""
    error = (found - exact).abs()[where.reached]
    weight = where.weight[where.reached]
    often = float((error * weight).sum() / weight.sum())
    return {"mean": float(error.mean()), "mean_by_frequency": often, "max": float(error.max())}


def study(length: int, patterns: int, steps: int) -> tuple[dict, dict[str, tuple[Tensor, Tensor]]]:
    """All comparisons: the table, and (exact, found) points for the figure."""
    started = time.perf_counter()
    data = markov_chain(length)
    inputs = F.one_hot(data.contexts, data.symbols + 1).flatten(1).float()
    backbones = {"exact": data.posterior, "wrong": spoil(data.posterior)}
    rows, points = [], {}
    for k, fills, backbone in itertools.product((1, 2, 4), ("fresh", "stale"), backbones):
        config = QualityConfig(k=k, fills=fills)
        ways = enumerate_loss(data, backbones[backbone], config, patterns)
        learned = learn(inputs, ways.minimiser.nan_to_num(0), ways.weight, steps).sigmoid()
        closed = distance(ways.minimiser, data.quality, ways)
        row = {"k": k, "fills": fills, "fills_drawn_from": backbone, "pairs": int(ways.reached.sum())}
        rows.append(row | {"minimiser": closed, "learned": distance(learned, data.quality, ways)})
        points[f"learned, k = {k}, {fills}, {backbone} fills"] = (data.quality[ways.reached], learned[ways.reached])
        if k == 1:
            rows[-1]["written"] = distance(ways.written, data.quality, ways)
            points[f"probability when written, {fills}, {backbone} fills"] = (
                data.quality[ways.reached], ways.written[ways.reached],
            )  # fmt: skip
    masked = data.contexts == data.symbols
    model = learn(inputs, data.posterior, masked.double() * _how_often(data), steps).softmax(-1)
    current = model.gather(2, data.contexts.clamp(max=data.symbols - 1)[..., None])[..., 0]
    ways = enumerate_loss(data, data.posterior, QualityConfig(k=1, fills="stale"), patterns)
    points["current posterior of a trained model"] = (data.quality[ways.reached], current[ways.reached])
    return {
        "data": f"all {len(data.texts)} strings of length {length} of a Markov chain {CHAIN}",
        "loss": f"summed over all texts and all fills of {patterns} mask patterns of draw_sample",
        "network": f"two hidden layers of 128 on the one-hot context, Adam, {steps} steps of the whole sum, one seed",
        "rows": rows,
        "current_posterior": distance(current, data.quality, ways),
        "seconds": round(time.perf_counter() - started),
    }, points  # fmt: skip


def _how_often(data: Enumerable) -> Tensor:
    """How often each context comes about where t is uniform, (C, 1): P(its symbols) times B(n + 1, L - n + 1)."""
    length = data.texts.shape[1]
    seen = data.contexts[:, None]
    mass = (((seen == data.texts) | (seen == data.symbols)).all(-1).double() @ data.prob)[:, None]
    n = (data.contexts == data.symbols).sum(1, keepdim=True).double()
    return mass * (torch.lgamma(n + 1) + torch.lgamma(length - n + 1)).exp()


def table(result: dict) -> str:
    """The result as Markdown."""
    lines = [
        f"Data: {result['data']}. Loss: {result['loss']}. Network: {result['network']}. {result['seconds']} s.",
        "",
        "Absolute distance from the exact quality g* over all pairs (y, i) that the fill can produce, mean / largest:",
        "",
        "| k | fills | drawn from | pairs | minimiser of the loss | trained network | probability when written |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        cells = [
            f"{row[name]['mean']:.2g} / {row[name]['max']:.2g}" if name in row else "-"
            for name in ("minimiser", "learned", "written")
        ]
        drawn = f"{row['fills_drawn_from']} posterior"
        lines.append(f"| {row['k']} | {row['fills']} | {drawn} | {row['pairs']} | {' | '.join(cells)} |")
    found = result["current_posterior"]
    lines += [
        "",
        "Current posterior of a network trained as a masked diffusion model, read at visible tokens: "
        f"{found['mean']:.2g} / {found['max']:.2g}.",
    ]
    return "\n".join(lines) + "\n"


def plot(points: dict[str, tuple[Tensor, Tensor]], path: Path) -> None:
    """Found against exact, one panel a score."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = (
        "learned, k = 1, stale, exact fills", "learned, k = 1, stale, wrong fills",
        "learned, k = 2, stale, wrong fills",
        "learned, k = 4, stale, wrong fills", "probability when written, stale, wrong fills",
        "current posterior of a trained model",
    )  # fmt: skip
    figure, axes = pyplot.subplots(2, 3, figsize=(10, 6.8), sharex=True, sharey=True, layout="constrained")
    for axis, name in zip(axes.flat, shown, strict=True):
        exact, found = points[name]
        axis.plot([0, 1], [0, 1], color="0.7", linewidth=1, zorder=0)
        axis.scatter(exact, found, s=5, alpha=0.35, linewidths=0)
        error = (found - exact).abs()
        axis.set_title(f"{name}\nmean error {error.mean():.3f}, largest {error.max():.3f}", fontsize=9)
        axis.set_aspect("equal")
    figure.supxlabel("exact quality g*")
    figure.supylabel("score")
    with write_atomic(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter strings and less training: seconds")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--plot", type=Path, help="write the picture here (PNG)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    result, points = study(4, 128, 300) if args.quick else study(5, 256, 1500)
    print(table(result))
    if args.json:
        with write_atomic(args.json) as path:
            path.write_text(json.dumps(result, indent=1) + "\n")
        with write_atomic(args.json.with_suffix(".md")) as path:
            path.write_text("# Learned against exact quality\n\n`python benchmarks/theory.py`\n\n" + table(result))
    if args.plot:
        plot(points, args.plot)


if __name__ == "__main__":
    main()
