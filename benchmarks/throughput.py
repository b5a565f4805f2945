"""Whole generations: sequences a second, and the share of the time that is not the model's.

    python benchmarks/throughput.py [--quick] [--json FILE] [--plot FILE] [--threads N]

Backbones of ours with random weights (named by the parameters of their blocks), whole texts from masks alone. Of each
generation, beside its speed, the share of the time spent in
  forward   the backbone, from tokens to hidden states
  output    the norm and matrix that make logits for the rows asked for; 'fused': that and the drawing, in one op
  outside   all else: the quality head, drawing, revising, filling, bookkeeping
A host's own forward is the first two. Target: outside is under 5% with the 25M backbone; a row that misses says so.

Beside it a loop written by hand over the same backbone, one text in confidence order: target 1.05 times its time.

Then texts of 8 to 81 tokens that end at different times (threshold): fixed batches against slots that are filled again.
Last, what the trainer waits for: a batch of 128 texts of every task.
Medians of one to three repeats, of the last two of more; with one thread of the processor's time, into which other work
on the machine does not count. Ratios within one run are what counts.
"""

import argparse
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prism_plugin import ops
from prism_plugin.models import denoiser as denoiser_module
from prism_plugin.models.backbone import BackboneConfig
from prism_plugin.models.checkpoint import PrismModel
from prism_plugin.plots import plain_ticks
from prism_plugin.quality.head import attach_head
from prism_plugin.sampling.config import SamplerConfig
from prism_plugin.sampling.drive import batches, generate, generate_many
from prism_plugin.tasks import TRAIN, get_task

TARGET, TARGET_SIZE = 0.05, "25M"
SIZES = {"1.5M": 128, "6M": 256, "25M": 512}  # parameters of 8 blocks, hidden size
PRESETS = ("mdlm", "confidence", "prism")


def now() -> float:
    """Seconds of the processor where one thread works, of the clock where several do."""
    return time.thread_time() if torch.get_num_threads() == 1 else time.perf_counter()


class Timed(PrismModel):
    """Our model with a clock in its forward and in its output layer."""

    def __init__(self, size: str, vocabulary: int, length: int) -> None:
        config = BackboneConfig(
            vocab_size=vocabulary, mask_id=vocabulary - 1, length=length, hidden_size=SIZES[size], num_layers=8
        )
        super().__init__(config, "none")
        self.spent: Counter[str] = Counter()

    @contextmanager
    def clock(self, name: str) -> Iterator[None]:
        """Adds the seconds of a block of code to ``spent``."""
        started = now()
        yield
        self.spent[name] += now() - started

    def forward(self, *given: Any) -> Any:
        """Timed."""
        with self.clock("forward"):
            return super().forward(*given)

    def project(self, output: Any, index: Tensor) -> tuple[Tensor, Tensor]:
        """Timed."""
        with self.clock("output"):
            return super().project(output, index)


def model_of(size: str, vocabulary: int, length: int) -> Timed:
    """Random weights, a head that doubts by them."""
    torch.manual_seed(0)
    model = Timed(size, vocabulary, length).eval()
    torch.nn.init.normal_(model.backbone.unembed.weight, std=0.05)
    attach_head(model)
    return model


@contextmanager
def fused_timed(model: Timed) -> Iterator[None]:
    """The fused op always, its time booked as output."""
    limit, fused = denoiser_module.FUSED_FROM, ops.lm_head_sample

    def run(*given: Any, **named: Any) -> Any:
        with model.clock("output"):
            return fused(*given, **named)

    denoiser_module.FUSED_FROM, ops.lm_head_sample = 0, run
    try:
        yield
    finally:
        denoiser_module.FUSED_FROM, ops.lm_head_sample = limit, fused


def measured(model: Timed, run: Callable[[], object], repeats: int) -> dict[str, float]:
    """Seconds of the median run, and its shares."""
    found = []
    for _ in range(repeats):
        model.spent.clear()
        started = now()
        run()
        found.append((now() - started, dict(model.spent)))
    seconds, spent = sorted(found, key=lambda one: one[0])[len(found) // 2]
    shares = {name: spent.get(name, 0.0) / seconds for name in ("forward", "output")}
    return {"seconds": seconds, **shares, "outside": 1 - sum(shares.values())}


def cases(quick: bool) -> Iterator[tuple[str, int, int, int, int]]:
    """(size, V, L, B, steps)."""
    for size in SIZES:
        for rows in (1,) if quick else (1, 8):
            yield size, 12, 81, rows, 8 if quick else 16
    for size in ("1.5M",) if quick else SIZES:
        for rows in (1, 8) if size == "1.5M" and not quick else (1,):
            yield size, 50258, 256, rows, 4 if quick else 16


def whole_texts(quick: bool) -> list[dict[str, Any]]:
    """Every case with every preset; print as they come."""
    print(f"{'blocks':7}{'V':>7}{'L':>5}{'B':>3}{'steps':>6} {'preset':11}{'logits':7}{'texts/s':>9}{'forward':>9}"
          f"{'output':>8}{'outside':>9}")  # fmt: skip
    rows = []
    for size, vocabulary, length, batch, steps in cases(quick):
        model = model_of(size, vocabulary, length)
        tokens = torch.full((batch, length), model.mask_id)
        for preset in PRESETS:
            config = SamplerConfig(preset, steps=steps)
            generate(model, tokens, SamplerConfig(preset, steps=2))
            for mode in ("plain", "fused") if vocabulary > 1000 else ("plain",):

                def run(config: SamplerConfig = config, model: Timed = model, tokens: Tensor = tokens) -> None:
                    generate(model, tokens, config)

                repeats = 1 if quick or (size == TARGET_SIZE and batch > 1) else 2 if size == TARGET_SIZE else 3
                if mode == "fused":
                    with fused_timed(model):
                        found = measured(model, run, repeats)
                else:
                    found = measured(model, run, repeats)
                missed = size == TARGET_SIZE and found["outside"] > TARGET
                row = {"name": preset, "size": size, "V": vocabulary, "L": length, "B": batch, "steps": steps,
                       "logits": mode, "sequences_per_second": batch / found["seconds"], **found,
                       "target": TARGET if size == TARGET_SIZE else None, "target_missed": missed}  # fmt: skip
                rows.append(row)
                print(f"{size:7}{vocabulary:>7}{length:>5}{batch:>3}{steps:>6} {preset:11}{mode:7}"
                      f"{row['sequences_per_second']:>9.2f}{found['forward']:>9.1%}{found['output']:>8.1%}"
                      f"{found['outside']:>9.1%}{'  misses the 5% target' if missed else ''}", flush=True)  # fmt: skip
    return rows


def ragged_texts(quick: bool) -> list[dict[str, Any]]:
    """Texts of many lengths, one token a pass: batches of ``slots`` in order, against slots that are filled again."""
    size, slots, count = "1.5M", 8, 24 if quick else 48
    model = model_of(size, 12, 81)
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(8, 82, (count,), generator=generator).tolist()
    texts = [torch.full((length,), model.mask_id) for length in lengths]
    config = SamplerConfig("threshold", steps=81, fill_bound=2.0)

    def fixed() -> None:
        for start in range(0, count, slots):
            for numbers, tokens, padding in batches(texts[start : start + slots], 0, True):
                generate(model, tokens, config, padding=padding, request=torch.tensor(numbers) + start)

    rows = []
    print(f"\n{count} texts of 8 to 81 tokens, {slots} at a time, {size}: texts a second")
    for name, run in (("fixed batches", fixed), ("slots", lambda: generate_many(model, texts, config, slots=slots))):
        found = measured(model, run, 1)
        row = {"name": name, "size": size, "V": 12, "L": 81, "B": slots, "texts": count,
               "sequences_per_second": count / found["seconds"], **found}  # fmt: skip
        rows.append(row)
        print(f"{name:15}{row['sequences_per_second']:>8.2f}   outside {found['outside']:.1%}", flush=True)
    return rows


def by_hand(model: PrismModel, tokens: Tensor, steps: int) -> Tensor:
    """The least that a sampler by confidence is: one text (1, L), the surest of the drawn tokens kept in every step."""
    tokens = tokens.clone()
    for left in range(steps, 0, -1):
        hidden, time_vector = model.backbone(tokens)
        rows = (tokens[0] == model.mask_id).nonzero()[:, 0]
        p = model.backbone.logits(hidden[:, rows], time_vector)[0].softmax(-1)
        token = torch.multinomial(p, 1)
        best = p.gather(1, token)[:, 0].topk(-(-len(rows) // left)).indices
        tokens[0, rows[best]] = token[best, 0]
    return tokens


def timed(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each, in turn; the first round is left out."""
    spent: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats + 1):
        for name, run in runs.items():
            started = now()
            run()
            spent[name].append(now() - started)
    return {name: taken[1:] for name, taken in spent.items()}


@torch.no_grad()
def beside_a_loop(quick: bool) -> list[dict[str, Any]]:
    """``generate`` and the loop by hand, one text at a time."""
    rows, size, steps = [], "1.5M", 16
    print(f"\none text, {size}, {steps} steps in confidence order: ms")
    for vocabulary, length in ((12, 81), (1024, 128)):
        timed_one = model_of(size, vocabulary, length)
        model = PrismModel(timed_one.backbone.config, "none").eval()  # without clocks: the loop has none either
        model.backbone, model.head = timed_one.backbone, timed_one.head
        tokens, config = torch.full((1, length), model.mask_id), SamplerConfig("confidence", steps=steps)
        runs = {"loop": partial(by_hand, model, tokens, steps), "ours": partial(generate, model, tokens, config)}
        found = timed(runs, 15 if quick else 31)
        middle = {name: statistics.median(taken) for name, taken in found.items()}
        pairs = sorted(ours / loop for ours, loop in zip(found["ours"], found["loop"], strict=True))
        row = {"name": "beside a loop", "size": size, "V": vocabulary, "L": length, "B": 1, "steps": steps, **middle,
               "ratio": statistics.median(pairs), "ratios": pairs}  # fmt: skip
        rows.append(row)
        print(f"V {vocabulary:>5} L {length:>4}  by hand{1e3 * middle['loop']:>8.1f}  ours{1e3 * middle['ours']:>8.1f}"
              f"  {row['ratio']:.3f} times in the median of {len(pairs)}, quartiles {pairs[len(pairs) // 4]:.3f} to "
              f"{pairs[-len(pairs) // 4]:.3f}", flush=True)  # fmt: skip
    return rows


def training_texts() -> list[dict[str, Any]]:
    """128 texts of every task, ten batches after one another."""
    print("\n128 texts for a step of training: ms")
    rows = []
    for name in ("sudoku", "code", "prose"):
        task = get_task(name)
        numbers = iter(range(0, 12800, 128))
        spent = timed({name: lambda task=task, numbers=numbers: task.texts(next(numbers), 128, TRAIN)}, 9)[name]
        rows.append({"name": f"texts of {name}", "seconds": statistics.median(spent), "most": max(spent)})
        print(f"{name:8}{1e3 * rows[-1]['seconds']:>8.2f}   {1e3 * max(spent):.2f} at most", flush=True)
    return rows


def plot(rows: list[dict[str, Any]], path: str) -> None:
    """Share outside the model against the size of the backbone."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    rows = [row for row in rows if row.get("logits") == "plain"]
    lines = {(row["V"], row["B"], row["name"]) for row in rows}
    for vocabulary, batch, preset in sorted(lines):
        chosen = [row for row in rows if (row["V"], row["B"], row["name"]) == (vocabulary, batch, preset)]
        if len(chosen) > 1:
            shares = [100 * row["outside"] for row in chosen]
            style = {1: "-", 8: "--"}[batch]
            axes.plot(
                [row["size"] for row in chosen], shares, style, marker="o", label=f"{preset}, V {vocabulary}, B {batch}"
            )
    axes.axhline(100 * TARGET, color="black", linewidth=0.8, label="target with 25M")
    axes.set(xlabel="parameters of the backbone's blocks", ylabel="% of the time outside the model", yscale="log")
    plain_ticks(axes.yaxis)
    axes.legend(fontsize=7, frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer cases, within two minutes")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--plot", metavar="FILE")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"ops compiled: {ops.compiled()}; threads: {arguments.threads}; CPU only, not run on a GPU\n")
    rows = whole_texts(arguments.quick) + ragged_texts(arguments.quick)
    rows += beside_a_loop(arguments.quick) + training_texts()
    worst = [row["outside"] for row in rows if row.get("target")]
    if worst:
        print(f"\noutside the model with {TARGET_SIZE}: median {statistics.median(worst):.1%}, most {max(worst):.1%}")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=1) + "\n")
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
