"""Samplers on distributions whose posteriors and quality are exact, so that the sampler's errors are the only ones.

    python benchmarks/exact_model.py                                  the sparse chain, a minute a preset at most
    python benchmarks/exact_model.py --quick --json rows.json         four presets, T = 16 and 32, seconds
    python benchmarks/exact_model.py --chains zipf hmm --presets prism prism-evidence+tau=0.3 --texts 200

Texts of 64 tokens come from a Markov chain or a hidden Markov model. Forward-backward gives P(x_i = v | the visible
tokens but i) at every position in one batched pass: the exact posterior at masks, the exact quality g* at visible
tokens. That table stands in for a model and its head, and every preset runs through its own generator.

A preset may carry settings: ``prism+score=written`` is PRISM's rule on the probability when written. ``--wrong`` mixes
a uniform distribution into the backbone's posterior, ``--noise`` adds Gaussian noise to the logit of the quality,
``--timid`` shrinks that logit. "errors" are tokens of probability below 1e-4 given all before them (impossible
transitions of the chain); nll is the mean of -log P(token | all before it); TV is the distance of the distribution of
neighbouring pairs from the truth (zipf: of the successor's rank); the row ``truth`` shows what sampling noise does.

Last comes the bound of the evidence: of texts written exactly, one token a pass, the share of tokens whose g / w ever
fell below tau, which is at most tau (Ville's inequality).
"""

import argparse
import json
import platform
import re
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from prism_plugin.config import load
from prism_plugin.models.denoiser import Denoiser, Layout, Output
from prism_plugin.plots import plain_ticks
from prism_plugin.sampling.config import SamplerConfig, fitting, resolve
from prism_plugin.sampling.drive import generate
from prism_plugin.sampling.parts import trained_for
from prism_plugin.sampling.state import State

IMPOSSIBLE = 1e-4
LEAK = 4e-6
PRESETS = (
    "mdlm", "random", "remdm-conf", "dfm", "random-remask", "self-likelihood", "p2-self", "prism+score=written",
    "prism", "prism+select=binomial+eta=0.01", "prism+select=below+tau=0.01", "prism-evidence", "prism-adaptive",
)  # fmt: skip
TAUS = (0.5, 0.3, 0.1, 0.03, 0.01)
QUICK = ("mdlm", "remdm-conf", "prism", "prism-evidence")


@dataclass
class Chain:
    """A hidden Markov model: transition (S, S), emission (S, V). by_rank: TV is of the successors' ranks."""

    transition: Tensor
    emission: Tensor
    by_rank: bool = False

    def __post_init__(self) -> None:
        power = torch.linalg.matrix_power(self.transition, 4096)
        self.start = power[0] / power[0].sum()

    @property
    def symbol_pairs(self) -> Tensor:
        """True distribution of neighbouring symbols, (V, V)."""
        return (self.emission * self.start[:, None]).T @ self.transition @ self.emission

    def ranks(self) -> Tensor:
        """Rank of every successor of every symbol, (V, V) int64."""
        return self.transition.argsort(dim=1, descending=True).argsort(dim=1)

    def draw(self, texts: int, length: int, generator: torch.Generator) -> Tensor:
        """Texts from the truth, (texts, length) int64."""
        state = self.start.expand(texts, -1).multinomial(1, generator=generator)[:, 0]
        states = [state]
        for _ in range(length - 1):
            states.append(self.transition[states[-1]].multinomial(1, generator=generator)[:, 0])
        hidden = torch.stack(states, dim=1)
        return self.emission[hidden.flatten()].multinomial(1, generator=generator).view(texts, length)


def sparse(symbols: int = 24, likely: int = 3, seed: int = 0) -> Tensor:
    """Transitions with few likely successors, all others ``LEAK``."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(symbols, symbols, generator=generator).argsort(dim=1)
    law = torch.full((symbols,), LEAK, dtype=torch.float64)
    law[:likely] = torch.arange(likely, 0, -1) * (1 - LEAK * (symbols - likely)) / (likely * (likely + 1) / 2)
    return torch.zeros(symbols, symbols, dtype=torch.float64).scatter(1, order, law.expand(symbols, -1))


def zipf(symbols: int = 96, entropy: float = 2.28, seed: int = 0) -> Tensor:
    """Transitions with P(rank r) ~ r^-a, ranks at random, a such that the conditional entropy is as given (nats)."""
    rank, low, high = torch.arange(1, symbols + 1, dtype=torch.float64), 0.5, 5.0
    for _ in range(60):
        a = (low + high) / 2
        law = (-a * rank.log()).softmax(0)
        low, high = (a, high) if torch.special.entr(law).sum() > entropy else (low, a)
    order = torch.rand(symbols, symbols, generator=torch.Generator().manual_seed(seed)).argsort(dim=1)
    return torch.zeros(symbols, symbols, dtype=torch.float64).scatter(1, order, law.expand(symbols, -1))


def make_chain(name: str) -> Chain:
    """``sparse``, ``zipf``, or ``hmm``: four sparse chains over the same symbols, of which one rules for long."""
    if name == "sparse":
        return Chain(sparse(), torch.eye(24, dtype=torch.float64))
    if name == "zipf":
        return Chain(zipf(), torch.eye(96, dtype=torch.float64), by_rank=True)
    topics, symbols, stay = 4, 24, 0.97
    topic = torch.full((topics, topics), (1 - stay) / (topics - 1), dtype=torch.float64).fill_diagonal_(stay)
    within = torch.stack([sparse(symbols, seed=k) for k in range(topics)])  # (K, V, V)
    transition = torch.einsum("kl,luv->kulv", topic, within).reshape(topics * symbols, topics * symbols)
    return Chain(transition, torch.eye(symbols, dtype=torch.float64).repeat(topics, 1))


class FirstHidden(nn.Module):
    """The head of a model whose hidden state is the logit of the quality itself."""

    def forward(self, hidden: Tensor, time: Tensor | None = None) -> Tensor:
        """(B, L, 1) -> (B, L)."""
        return hidden[..., 0]


class ExactModel(Denoiser):
    """Posteriors and quality of a chain, exact but for the knobs; see the head of this file."""

    gives = frozenset({"second_forward", "probe", "layout"})

    def __init__(
        self, chain: Chain, length: int, wrong: float = 0.0, noise: float = 0.0, timid: float = 1.0, seed: int = 0
    ) -> None:
        super().__init__()
        self.chain, self.max_length, self.hidden_size = chain, length, 1
        self.mask_id = chain.emission.shape[1]
        self.vocab_size = self.mask_id + 1
        self.wrong, self.jitter, self.timid = wrong, noise, timid
        self.generator = torch.Generator().manual_seed(seed)
        self.head = FirstHidden()

    def leave_one_out(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """P(x_i = v | visible tokens but i), (B, L, V), and P(y_i | those before i), (B, L), of tokens (B, L)."""
        chain = self.chain
        likelihood = torch.cat([chain.emission.T, torch.ones_like(chain.emission.T[:1])])[tokens]  # (B, L, S)
        before, after = torch.empty_like(likelihood), torch.empty_like(likelihood)
        message = chain.start.expand(len(tokens), -1)
        for i in range(tokens.shape[1]):
            before[:, i] = message
            seen = message * likelihood[:, i]
            message = (seen / seen.sum(-1, keepdim=True)) @ chain.transition
        message = torch.ones_like(message)
        for i in reversed(range(tokens.shape[1])):
            after[:, i] = message
            seen = message * likelihood[:, i]
            message = (seen / seen.sum(-1, keepdim=True)) @ chain.transition.T
        both = (before * after) @ chain.emission
        return both / both.sum(-1, keepdim=True), (before * likelihood).sum(-1)

    def forward(self, tokens: Tensor, padding: Tensor | None = None, layout: Layout | None = None) -> Output:
        """See ``Denoiser.forward``; f64. A shadow of a position is what the position itself shows: all but itself."""
        p, _ = self.leave_one_out(tokens[:, : self.max_length])
        if layout is not None:
            p = p.gather(1, layout.positions[..., None].expand(-1, -1, p.shape[-1]))
        quality = p.gather(-1, tokens.clamp(max=self.mask_id - 1)[..., None]).logit(eps=1e-12)
        if self.jitter:
            quality = quality + self.jitter * torch.randn(quality.shape, generator=self.generator, dtype=quality.dtype)
        p = (1 - self.wrong) * p + self.wrong / self.mask_id
        return Output(quality * self.timid, None, nn.functional.pad(p.log(), (0, 1), value=-torch.inf))


def figures(model: ExactModel, texts: Tensor, seed: int = 0) -> dict[str, float]:
    """What texts (N, L) are worth; ``*_pm`` is half a 95% interval over texts (bootstrap for TV and entropy)."""
    chain, count, symbols = model.chain, len(texts), model.mask_id
    _, given_past = model.leave_one_out(texts)
    wrong, nll = (given_past[:, 1:] < IMPOSSIBLE).double().mean(1), -given_past[:, 1:].log().mean(1)
    left, right = texts[:, :-1], texts[:, 1:]
    if chain.by_rank:
        seen, truth = chain.ranks()[left, right], chain.transition[0].sort(descending=True).values
    else:
        seen, truth = left * symbols + right, chain.symbol_pairs.flatten()
    pairs = torch.zeros(count, len(truth), dtype=torch.float64).scatter_add_(1, seen, torch.ones(seen.shape).double())
    single = torch.zeros(count, symbols, dtype=torch.float64).scatter_add_(1, texts, torch.ones(texts.shape).double())

    def tv(weight: Tensor) -> Tensor:
        total = weight @ pairs
        return (total / total.sum(-1, keepdim=True) - truth).abs().sum(-1) / 2

    def entropy(weight: Tensor) -> Tensor:
        total = weight @ single
        return torch.special.entr(total / total.sum(-1, keepdim=True)).sum(-1)

    generator = torch.Generator().manual_seed(seed)
    drawn = torch.ones(count).expand(100, -1).multinomial(count, replacement=True, generator=generator)
    weights = torch.zeros(100, count, dtype=torch.float64).scatter_add_(1, drawn, torch.ones(100, count).double())
    every = torch.ones(count, dtype=torch.float64)
    spread = 1.96 / count**0.5
    return {
        "errors_percent": 100 * float(wrong.mean()), "errors_percent_pm": 100 * spread * float(wrong.std()),
        "nll": float(nll.mean()), "nll_pm": spread * float(nll.std()),
        "tv": float(tv(every)), "tv_pm": 1.96 * float(tv(weights).std()),
        "entropy": float(entropy(every)), "entropy_pm": 1.96 * float(entropy(weights).std()),
    }  # fmt: skip


def settings_of(spec: str, steps: int, seed: int) -> SamplerConfig:
    """``name+key=value+…`` as a sampler, two remasks a step for the presets that count."""
    name, *changes = re.split(r"\+(?=\w+=)", spec)
    config = load([f"name={name}", f"steps={steps}", f"seed={seed}", *changes], SamplerConfig)
    return SamplerConfig(**fitting({"num_remask": 2, **config.settings()}, name))


def study(
    chains: list[str], presets: list[str], steps: list[int], texts: int, length: int, **knobs: float
) -> list[dict]:
    """A row for every chain, number of steps and preset, and one of texts drawn from the truth."""
    rows = []
    seed = int(knobs["seed"])
    for name in chains:
        model = ExactModel(make_chain(name), length, **knobs)  # type: ignore[arg-type]
        truth = model.chain.draw(texts, length, torch.Generator().manual_seed(seed + 1))
        rows.append({"preset": "truth", "chain": name, "T": 0, **figures(model, truth), "remasks": 0.0, "seconds": 0.0})
        for count in steps:
            for spec in presets:
                started = time.perf_counter()
                masks = torch.full((texts, length), model.mask_id)
                config = settings_of(spec, count, seed)
                model.trained = {"objective": trained_for(resolve(config).score)}
                result = generate(model, masks, config)
                rows.append(
                    {
                        "preset": spec, "chain": name, "T": count, **figures(model, result.tokens),
                        "remasks": float(result.remasked.double().mean()),
                        "wasted": float(result.wasted.double().mean()),
                        "forwards": float(result.forwards.double().mean()),
                        "seconds": round(time.perf_counter() - started, 2),
                        "settings": resolve(config).settings(),
                    }
                )  # fmt: skip
                print(line(rows[-1]), flush=True)
    return rows


def ever_below(name: str, texts: int, length: int, seed: int, taus: tuple[float, ...] = TAUS) -> list[float]:
    """Share of tokens whose g / w ever fell below each tau while texts were written exactly, one token a pass."""
    model = ExactModel(make_chain(name), length, seed=seed)
    least = torch.full((texts, length), torch.inf, dtype=torch.float64)

    def look(state: State, view: object) -> None:
        quality = model(state.tokens).hidden[..., 0].sigmoid()
        ratio = (quality / state.written).masked_fill(state.tokens == model.mask_id, torch.inf)
        torch.minimum(least, ratio, out=least)

    masks = torch.full((texts, length), model.mask_id)
    generate(model, masks, SamplerConfig("random", steps=length, seed=seed), callback=look)
    return [float((least < tau).double().mean()) for tau in taus]


HEADER = (
    "| chain | T | preset | errors % | nll | TV | entropy | remasks | unchanged | forwards |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


def line(row: dict) -> str:
    """A row as a line of a Markdown table."""
    cells = [row["chain"], row["T"] or "", row["preset"]]
    for key, digits in (("errors_percent", 2), ("nll", 3), ("tv", 3), ("entropy", 3)):
        cells.append(f"{row[key]:.{digits}f} ± {row[f'{key}_pm']:.{digits}f}")
    cells += [f"{row.get(key, 0):.1f}" for key in ("remasks", "wasted", "forwards")]
    return f"| {' | '.join(map(str, cells))} |"


def plot(rows: list[dict], file: Path) -> None:
    """Errors, TV and entropy against T: a line a preset, a row of panels a chain, dotted for the truth."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    chains = list(dict.fromkeys(row["chain"] for row in rows))
    panels = (("errors_percent", "errors, %"), ("nll", "nll, nats"), ("tv", "TV"), ("entropy", "entropy, nats"))
    figure, axes = plt.subplots(len(chains), 4, figsize=(15, 3.2 * len(chains)), squeeze=False, layout="constrained")
    for chain, across in zip(chains, axes, strict=True):
        mine = [row for row in rows if row["chain"] == chain]
        for axis, (key, title) in zip(across, panels, strict=True):
            for spec in dict.fromkeys(row["preset"] for row in mine if row["T"]):
                points = [row for row in mine if row["preset"] == spec]
                values, widths = ([row[k] for row in points] for k in (key, f"{key}_pm"))
                axis.errorbar([row["T"] for row in points], values, widths, marker="o", ms=3, lw=1, label=spec)
            axis.axhline(mine[0][key], color="black", ls=":", lw=1)
            axis.set(title=f"{chain}: {title}", xlabel="forwards T", xscale="log")
            plain_ticks(axis.xaxis, list({row["T"] for row in mine if row["T"]}))
            if key == "errors_percent":
                axis.set_yscale("symlog", linthresh=0.01)
                plain_ticks(axis.yaxis)
                axis.set_ylim(bottom=0)
            if not any(row[key] for row in mine):
                axis.clear()
                axis.set_axis_off()
                axis.set_title(f"{chain}: {title} (none)")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
    figure.savefig(file, dpi=110)


def main() -> None:
    """The command line; see the head of this file."""
    parser = argparse.ArgumentParser(description="Samplers on distributions whose posteriors and quality are exact.")
    parser.add_argument("--chains", nargs="+", choices=("sparse", "zipf", "hmm"), default=["sparse"])
    parser.add_argument("--presets", nargs="+", default=list(PRESETS), help="names, with +key=value for settings")
    parser.add_argument("--steps", nargs="+", type=int, default=[16, 32, 64], help="forwards a text, T")
    parser.add_argument("--texts", type=int, default=400)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--wrong", type=float, default=0.0, help="share of the backbone's mass that is uniform")
    parser.add_argument("--noise", type=float, default=0.0, help="Gaussian noise on the logit of the quality")
    parser.add_argument("--timid", type=float, default=1.0, help="factor on the logit of the quality")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help=f"{', '.join(QUICK)} on the sparse chain, T = 16, 32")
    parser.add_argument("--json", type=Path, help="write the rows there")
    parser.add_argument("--md", type=Path, help="write the table there")
    parser.add_argument("--plot", type=Path, help="write the plot there (PNG)")
    args = parser.parse_args()
    if args.quick:
        args.chains, args.presets, args.steps = ["sparse"], list(QUICK), [16, 32]
    print(HEADER)
    rows = study(
        args.chains, args.presets, args.steps, args.texts, args.length,
        wrong=args.wrong, noise=args.noise, timid=args.timid, seed=args.seed,
    )  # fmt: skip
    bounds = {name: ever_below(name, min(args.texts, 100), args.length, args.seed) for name in args.chains}
    print("\n" + bound_table(bounds))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    if args.md:
        args.md.write_text(report(rows, args, bounds))
    if args.plot:
        plot(rows, args.plot)


def bound_table(bounds: dict[str, list[float]]) -> str:
    """What ``ever_below`` found, a row a chain."""
    lines = [f"| g / w ever below | {' | '.join(map(str, TAUS))} |", "|---" * (len(TAUS) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(f'{share:.4f}' for share in shares)} |" for name, shares in bounds.items()]
    return "\n".join(lines)


def report(rows: list[dict], args: argparse.Namespace, bounds: dict[str, list[float]]) -> str:
    """The table with what made it."""
    knobs = " ".join(f"--{k} {getattr(args, k)}" for k in ("texts", "length", "wrong", "noise", "timid", "seed"))
    lists = {"chains": args.chains, "presets": args.presets, "steps": map(str, args.steps)}
    what = " ".join([*(f"--{name} {' '.join(values)}" for name, values in lists.items()), knobs])
    machine = f"{platform.machine()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}, float64"
    table = "\n".join([HEADER, *map(line, rows)])
    return (
        f"# Samplers on exact distributions\n\n`python benchmarks/exact_model.py {what}`, {machine}.\n\n{table}\n\n"
        "± is half a 95% interval over texts. `unchanged` counts remasks that brought the same token back. "
        "Presets that count remask two a step.\n\n"
        f"Share of tokens whose g / w ever fell below tau, texts written one token a pass:\n\n{bound_table(bounds)}\n"
    )


if __name__ == "__main__":
    main()
