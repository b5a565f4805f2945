"""What does a head learn of a backbone that is wrong? PRISM's labels, cavity targets, one after the other, and both.

    python -m benchmarks.wrong_backbone                      three seeds, a few minutes of a free core
    python -m benchmarks.wrong_backbone --seeds 0 --steps 20   seconds: does it run?

The data are all strings of a small Markov chain (``theory``), so that g*, what the truth says of a visible token whose
place is masked, is added up, and so is g of the backbone, which is wrong on purpose (``theory.spoiled``) or right. The
head is a small network that reads the text, and learns by the objectives of ``prism train quality``, of drawn samples,
64 texts a step. It is judged on all pairs that a fill can produce, as often as they come about. Writes
wrong_backbone.json and .md.
"""

import argparse
import copy
import platform
import shlex
import statistics
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.theory import Enumerable, Enumeration, Posterior, enumerate_loss, markov_chain, spoiled
from prism_plugin import ops
from prism_plugin.files import output_folder, save_json, write_atomic
from prism_plugin.models.denoiser import Denoiser, Output
from prism_plugin.quality.loss import QualityConfig
from prism_plugin.training.objectives import CavityObjective, QualityObjective

BATCH, LENGTH = 64, 4
DRAWN_TEXTS = 99  # a Philox stream of its own


class TextHead(nn.Module):
    """Two hidden layers of 128 on the one-hot text."""

    reads_text = True

    def __init__(self, data: Enumerable) -> None:
        super().__init__()
        length = data.texts.shape[1]
        self.encode = data.one_hot
        self.net = nn.Sequential(
            nn.Linear(length * (data.symbols + 1), 128), nn.GELU(), nn.Linear(128, 128), nn.GELU(),
            nn.Linear(128, length),
        )  # fmt: skip

    def judge(self, denoiser: Denoiser, output: Output, tokens: Tensor, padding: Tensor | None = None) -> Tensor:
        """(B, L) logits of quality."""
        return self.net(self.encode(tokens))


class Backbone(Denoiser):
    """A posterior (B, L) -> (B, L, V) as a model; what it says where a token stands is of no use to anybody here."""

    def __init__(self, data: Enumerable, posterior: Posterior) -> None:
        super().__init__()
        self.mask_id, self.vocab_size, self.max_length = data.symbols, data.symbols + 1, data.texts.shape[1]
        self.hidden_size, self.posterior = 1, posterior
        self.head = TextHead(data)

    def forward(self, tokens: Tensor, padding: Tensor | None = None) -> Output:
        """See ``Denoiser.forward``."""
        logits = nn.functional.pad(self.posterior(tokens).log(), (0, 1), value=-torch.inf)
        return Output(torch.zeros(*tokens.shape, 1), None, logits.float())


def own_quality(posterior: Posterior, y: Tensor, mask_id: int) -> Tensor:
    """What the backbone says of each visible token of y (M, L) with that alone masked, (M, L) f64."""
    found = torch.ones(y.shape, dtype=torch.float64)
    for i in range(y.shape[1]):
        hidden = y.clone()
        hidden[:, i] = mask_id
        found[:, i] = posterior(hidden)[:, i].gather(1, y[:, i : i + 1].clamp(max=mask_id - 1))[:, 0]
    return found


Loss = Callable[[Tensor, Tensor], Tensor]


def fit(model: Backbone, data: Enumerable, loss: Loss, steps: int, lr: float, seed: int) -> None:
    """Adam with a cosine over numbered texts, (64, L) drawn by their probability a step."""
    optimizer = torch.optim.Adam(model.head.parameters(), lr=lr)
    pace = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    edges = data.prob.cumsum(0)
    for step in range(steps):
        number = torch.arange(step * BATCH, (step + 1) * BATCH)
        zero = torch.zeros_like(number)
        u = ops.uniform(seed, number, zero, zero, DRAWN_TEXTS)
        value = loss(data.texts[torch.searchsorted(edges, u * edges[-1]).clamp(max=len(edges) - 1)], number)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        pace.step()


def objective(model: Backbone, seed: int, **words: Any) -> Loss:
    """The loss of ``prism train quality`` with these words, as a function of texts and their numbers."""
    config = QualityConfig(**words)
    made = (CavityObjective if config.objective == "cavity" else QualityObjective)(model, seed, config).train()
    return lambda tokens, number: made(tokens, number)["loss"]


PRISM = {"fills": "stale", "k": 1}
CAVITY = {"objective": "cavity", "groups": LENGTH, "reuse": 16}  # every token hidden alone


def trained(model: Backbone, data: Enumerable, steps: int, seed: int) -> dict[str, nn.Module]:
    """Heads by recipe: ``steps`` batches without labels, a tenth as many with labels, or as many."""
    prism, soft = objective(model, seed, **PRISM), objective(model, seed, **PRISM, labels="posterior")
    cavity = objective(model, seed, **CAVITY)
    both: Loss = lambda tokens, number: prism(tokens, number) + cavity(tokens, number)  # noqa: E731
    torch.manual_seed(seed)
    fresh = TextHead(data)
    found: dict[str, nn.Module] = {}

    def learn(name: str, start: nn.Module, loss: Loss, steps: int, lr: float, stream: int) -> nn.Module:
        model.head = copy.deepcopy(start)
        fit(model, data, loss, steps, lr, 10 * seed + stream)
        return found.setdefault(name, model.head)

    first = learn("cavity", fresh, cavity, steps, 1e-2, 0)
    learn("labels=posterior", fresh, soft, steps, 1e-2, 1)
    for count in (steps // 10, steps):
        texts = f"{count * BATCH:,} labels"
        learn(f"prism, {texts}", fresh, prism, count, 1e-2, 1)
        learn(f"cavity, then prism, {texts}", first, prism, count, 3e-3, 1)
        learn(f"cavity, then the sum of both, {texts}", first, both, count, 3e-3, 1)
    return found


def judge(model: Backbone, ways: Enumeration, own: Tensor) -> dict[str, float]:
    """Mean distance of the head from g* and from g of the backbone, over pairs as often as they come about."""
    with torch.no_grad():
        said = model.head.net(model.head.encode(ways.y)).double().sigmoid()
    where = ways.reached & ~ways.quality.isnan()
    weight = ways.weight[where]
    gaps = {"from_truth": said - ways.quality, "from_backbone": said - own, "between": own - ways.quality}
    return {name: float((gap[where].abs() * weight).sum() / weight.sum()) for name, gap in gaps.items()}


def study(data: Enumerable, steps: int, seeds: list[int]) -> list[dict[str, Any]]:
    """A row for every recipe, seed, and backbone, wrong and right."""
    rows = []
    for kind, posterior in (("wrong", spoiled(data)), ("right", data.posterior)):
        ways = enumerate_loss(data, posterior, QualityConfig(k=1, fills="stale"), 256)
        own = own_quality(posterior, ways.y, data.symbols)
        for seed in seeds:
            model = Backbone(data, posterior)
            for name, head in trained(model, data, steps, seed).items():
                model.head = head
                rows.append({"backbone": kind, "recipe": name, "seed": seed, **judge(model, ways, own)})
                print(rows[-1], flush=True)
    return rows


def markdown(result: dict[str, Any]) -> str:
    """The result as a page."""
    lines = [
        "# What a head learns of a backbone that is wrong", "", f"    {result['command']}", "",
        f"All {3**LENGTH} strings of a Markov chain; mean distance of g over pairs of text and token as often as fills "
        f"bring them about, mean ± standard deviation over training seeds {', '.join(map(str, result['seeds']))}. "
        "'The truth' is g*, P(x_i = y_i | the rest of y), 'the backbone' the same by the backbone. cavity: "
        f"{result['steps']} steps of {BATCH} states, no label; labels=posterior: as many steps of PRISM's samples with "
        "the backbone's posterior in place of labels; prism: its labels (stale fills, k = 1), one a text. "
        f"{result['machine']}.",
    ]  # fmt: skip
    for kind in ("wrong", "right"):
        mine = [row for row in result["rows"] if row["backbone"] == kind]
        lines += [
            "", f"## A backbone that is {kind}", "", f"It is {mine[0]['between']:.3f} from the truth.", "",
            "| the head learned by | from the truth | from the backbone |", "|---|--:|--:|",
        ]  # fmt: skip
        for recipe in dict.fromkeys(row["recipe"] for row in mine):
            found = [row for row in mine if row["recipe"] == recipe]
            cells = (_spread([row[key] for row in found]) for key in ("from_truth", "from_backbone"))
            lines.append(f"| {recipe} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.3f}" + (f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else "")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of training (0 1 2)")
    parser.add_argument("--steps", type=int, default=600, help="of a recipe (600)")
    parser.add_argument("--out", default="docs/results", help="folder to write to")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    folder = output_folder(args.out)
    result = {
        "command": shlex.join(["python", "-m", "benchmarks.wrong_backbone", *(sys.argv[1:] if argv is None else argv)]),
        "seeds": args.seeds, "steps": args.steps,
        "machine": f"{platform.machine()} CPU, one thread, torch {version('torch')}, no GPU",
        "rows": study(markov_chain(LENGTH), args.steps, args.seeds),
    }  # fmt: skip
    save_json(folder / "wrong_backbone.json", result)
    with write_atomic(folder / "wrong_backbone.md") as path:
        path.write_text(markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    main()
