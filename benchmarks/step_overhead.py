"""What one sampling step costs beside the model: this package's ops, the published samplers, and the floors.

    python benchmarks/step_overhead.py [--quick] [--isa avx512 avx2] [--threads N] [--kept FOLDER] [--json FILE]
        [--page FILE] [--plot FILE]

One run, side by side: every case times, in turn and several times over,
  read       a dot product over as many contiguous bytes as the needed rows hold; the least of its repeats is the floor
  arithmetic the op on as many logits of one cached row, at its best rate: exponentials, one or two a symbol
  ours       sample_rows + fill_scatter_ (the compiled ops where they are built); with top_p = 1 and top_k = 0 figures
             are of softmax(logits), so that T = 0.7 asks for two distributions; 'ours tempered' asks for one
  reference  the same through the PyTorch references
  torch      softmax and max, where that is all that is asked for (small vocabularies at T = 0)
  llada, fast_dllm, dllm, remdm, prism_release
             step functions with those samplers' mathematics, written from their description, each on the logits of all
             rows, as they do (tests/ops/test_published_steps.py shows their tokens equal to the checkouts' own), in
             one shape, since one step takes up to a minute
'/ floor' is a median over the nearer floor, that of reading or that of arithmetic. --isa runs every instruction set in
a process of its own; rows that --json FILE has of other sets stay, with the run that they are of. Then the selection
ops beside a torch.topk loop, what is fixed (a call of one row, the start of ``generate`` by the size of its head, the
output layer in tiles beside one product), and every target with what was measured. Rows of logits hold more than four
times a 32 MiB cache unless a case says 'cached'. Ratios within one run are what counts.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from prism_plugin.files import write_atomic
from prism_plugin.models.backbone import BackboneConfig
from prism_plugin.models.checkpoint import PrismModel
from prism_plugin.ops import (
    compiled,
    fill_scatter_,
    fill_scatter_ref_,
    lm_head_sample,
    remask_scatter_,
    remask_scatter_ref_,
    sample_rows,
    sample_rows_ref,
)
from prism_plugin.plots import plain_ticks
from prism_plugin.quality.head import head_hash
from prism_plugin.sampling.config import SamplerConfig
from prism_plugin.sampling.drive import stream

CACHE_BYTES = 4 * 32 * 2**20
HEADLINE = (126464, 1024, 1, torch.float32)  # where the others are measured too; LLaDA's step also in --quick
OURS = ("ours", TEMPERED := "ours tempered", ALONE := "ours, top_p alone")
Step = Callable[[], object]
Row = dict[str, Any]


# ---- The published steps. logits (B, L, V), tokens (B, L), masked (B, L) bool, counts (B,) tokens to fill ----


def gumbel_argmax(logits: Tensor, temperature: float) -> Tensor:
    """LLaDA: argmax of exp(logits) / (-log u)^T in float64; plain argmax at temperature 0."""
    if temperature == 0:
        return logits.argmax(-1)
    wide = logits.double()
    return (wide.exp() / (-torch.rand_like(wide).log()) ** temperature).argmax(-1)


def fill_top(tokens: Tensor, x0: Tensor, confidence: Tensor, masked: Tensor, counts: Tensor) -> Tensor:
    """Write x0 at the counts[b] most confident masked positions, one topk a row."""
    confidence = confidence.masked_fill(~masked, -torch.inf)
    chosen = torch.zeros_like(masked)
    for b in range(len(tokens)):
        chosen[b, confidence[b].topk(int(counts[b])).indices] = True
    return torch.where(chosen, x0, tokens)


def llada_step(
    logits: Tensor, tokens: Tensor, masked: Tensor, counts: Tensor, temperature: float, dtype: torch.dtype | None = None
) -> Tensor:
    """LLaDA (ALGORITHMS A.4); Fast-dLLM takes the confidence in float64 (A.7), dLLM's sampler as LLaDA (A.6)."""
    x0 = gumbel_argmax(logits, temperature)
    p = logits.to(dtype or logits.dtype).softmax(-1)
    return fill_top(tokens, x0, p.gather(-1, x0[..., None])[..., 0], masked, counts)


def categorical(weights: Tensor) -> Tensor:
    """ReMDM and PRISM: weights / (1e-10 - log(u + 1e-10)), argmax, in float64."""
    weights = weights.double()
    return (weights / (1e-10 - (torch.rand_like(weights) + 1e-10).log())).argmax(-1)


def posterior(logits: Tensor, tokens: Tensor, masked: Tensor, mask_id: int) -> Tensor:
    """MDLM's: no mass on the mask id, and a visible token is certain."""
    logits = logits.clone()
    logits[..., mask_id] -= 1e6
    p = logits.softmax(-1)
    return torch.where(masked[..., None], p, torch.nn.functional.one_hot(tokens, p.shape[-1]).to(p.dtype))


def nucleus(p: Tensor, top_p: float, renormalise: bool) -> Tensor:
    """Keep cum <= top_p and always the top one, by a full sort."""
    if top_p >= 1:
        return p
    ordered, index = p.sort(dim=-1, descending=True)
    keep = ordered.cumsum(-1) <= top_p
    keep[..., 0] = True
    ordered = ordered * keep
    if renormalise:
        ordered = ordered / ordered.sum(-1, keepdim=True)
    return torch.zeros_like(p).scatter_(-1, index, ordered)


def remdm_step(
    logits: Tensor, tokens: Tensor, masked: Tensor, mask_id: int, top_p: float, t: float, dt: float, eta: float
) -> Tensor:
    """ReMDM's ddpm_cache with sigma = min(eta, (1 - alpha_s) / alpha_t) (A.2)."""
    p = nucleus(posterior(logits, tokens, masked, mask_id), top_p, renormalise=True)
    alpha_t, alpha_s = 1 - t, 1 - t + dt
    sigma = min(eta, (1 - alpha_s) / alpha_t) if alpha_t > 0 else eta
    fill = (alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t)
    weights = p * torch.where(masked[..., None], fill, 1 - sigma)
    weights[..., mask_id] = torch.where(masked, (1 - alpha_s - sigma * alpha_t) / (1 - alpha_t), sigma).to(p.dtype)
    return categorical(weights)


def prism_release_step(
    logits: Tensor, tokens: Tensor, masked: Tensor, mask_id: int, top_p: float, quality: Tensor, remasks: int,
    keep: int,
) -> Tensor:  # fmt: skip
    """PRISM's release (A.8): draw everywhere, doubt the `remasks` lowest-quality tokens, keep the `keep` best."""
    p = nucleus(posterior(logits, tokens, masked, mask_id), top_p, renormalise=False)
    x0 = categorical(p)
    score = torch.where(masked, torch.rand_like(quality), torch.inf)
    doubted = quality.masked_fill(masked, torch.inf).topk(remasks, largest=False).indices
    score = score.scatter(1, doubted, quality.gather(1, doubted) - 1)
    kept = torch.zeros_like(masked).scatter(1, score.topk(keep).indices, True)
    return torch.where(kept, x0, mask_id)


# ---- One case ----


class Case(NamedTuple):
    """Logits (B, L, V), a share of the positions masked, and how tokens are drawn there."""

    V: int
    L: int
    B: int
    dtype: torch.dtype = torch.float32
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    masked: float = 0.5

    @property
    def needed(self) -> int:
        """Rows that are drawn from."""
        return self.B * max(1, round(self.masked * self.L))

    @property
    def bytes(self) -> int:
        """What these rows hold."""
        return self.needed * self.V * self.dtype.itemsize

    @property
    def figures(self) -> Row:
        """The case as a row of the table has it."""
        return {**self._asdict(), "dtype": str(self.dtype).removeprefix("torch.")}


@lru_cache(maxsize=1)
def logits_of(V: int, L: int, B: int, dtype: torch.dtype) -> Tensor:
    """(B, L, V): normal, three wide, about what a trained model's look like in the flatter places."""
    generator = torch.Generator().manual_seed(V + L + B)
    logits = torch.empty(B, L, V, dtype=dtype)
    for b in range(B):
        logits[b] = 3 * torch.randn(L, V, generator=generator)
    return logits


def steps_of(case: Case) -> dict[str, Step]:
    """The named steps of a case."""
    V, L, B, dtype, temperature, top_p, top_k, share = case
    generator = torch.Generator().manual_seed(V + L + B)
    mask_id = V - 1
    logits = logits_of(V, L, B, dtype)
    masked = torch.zeros(B, L, dtype=torch.bool)
    for b in range(B):
        masked[b, torch.randperm(L, generator=generator)[: max(1, round(share * L))]] = True
    tokens = torch.where(masked, mask_id, torch.randint(0, mask_id, (B, L), generator=generator))
    counts = (masked.sum(-1) + 3) // 4
    quality = torch.rand(B, L, generator=generator)
    rows = masked.flatten().nonzero()[:, 0]
    request, position, step = rows // L, rows % L, torch.zeros_like(rows)
    flat, suppress = logits.view(B * L, V), torch.tensor([mask_id])
    read = logits.view(-1).view(torch.float32)[: case.bytes // 4]

    def step_of(sample: Callable[..., tuple[Tensor, ...]], fill: Callable[..., Tensor]) -> Step:
        def run() -> Tensor:
            drawn = sample(flat, rows, request, position, step)
            x0, confidence = tokens.flatten().clone(), torch.zeros(B * L)
            x0[rows], confidence[rows] = drawn[0], drawn[1]
            out = tokens.clone()
            fill(out, x0.view(B, L), confidence.view(B, L), masked, counts)
            return out

        return run

    options = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "suppress": suppress}
    shown = "untempered" if top_p == 1 and top_k == 0 else "sampled"
    steps: dict[str, Step] = {
        "read": lambda: torch.dot(read, read),
        "ours": step_of(lambda *a: sample_rows(*a, seed=0, confidence_of=shown, **options), fill_scatter_),
    }
    if shown == "untempered" and temperature not in (0, 1):
        steps[TEMPERED] = step_of(lambda *a: sample_rows(*a, seed=0, **options), fill_scatter_)
    if top_p < 1 and top_k > 0:
        without = {**options, "top_k": 0}
        steps[ALONE] = step_of(lambda *a: sample_rows(*a, seed=0, **without), fill_scatter_)
    if V < 4096:
        steps["torch"] = step_of(lambda x, index, *_: x[index].softmax(-1).max(-1)[::-1], fill_scatter_)
        return steps
    if (V, L, B, dtype) != HEADLINE:
        return steps
    steps["reference"] = step_of(
        lambda *a: sample_rows_ref(
            *a, 0, temperature, top_p, top_k, 0.0, suppress, None, None, None, None, 1.0, shown == "untempered", False,
            None, False, False, 0,
        ),
        fill_scatter_ref_,
    )  # fmt: skip
    if shown == "untempered":
        steps["llada"] = lambda: llada_step(logits, tokens, masked, counts, temperature)
        steps["fast_dllm"] = lambda: llada_step(logits, tokens, masked, counts, temperature, torch.float64)
        steps["dllm"] = lambda: llada_step(logits, tokens, masked, counts, temperature)
    if temperature == 1 and top_k == 0:
        visible = L - int(masked[0].sum())
        steps["remdm"] = lambda: remdm_step(logits, tokens, masked, mask_id, top_p, 0.5, 0.01, 0.01)
        steps["prism_release"] = lambda: prism_release_step(
            logits, tokens, masked, mask_id, top_p, quality, min(4, visible), min(L, visible + int(counts[0]))
        )
    return steps


def selection(B: int, L: int) -> dict[str, Step]:
    """Remask 64 of every row: the fused op, its reference, and a loop of torch.topk + scatter."""
    generator = torch.Generator().manual_seed(0)
    scores, eligible = torch.rand(B, L, generator=generator), torch.rand(B, L, generator=generator) < 0.5
    counts, tokens = torch.full((B,), 64), torch.zeros(B, L, dtype=torch.int64)

    def loop() -> None:
        for b in range(B):
            tokens[b, scores[b].masked_fill(~eligible[b], torch.inf).topk(64, largest=False).indices] = 7

    return {
        "read": lambda: torch.dot(scores.flatten(), scores.flatten()),
        "select ours": lambda: remask_scatter_(tokens, scores, eligible, counts, 7),
        "select reference": lambda: remask_scatter_ref_(tokens, scores, eligible, counts, 7),
        "select topk loop": loop,
    }


TILES, PRODUCT = "lm_head_sample of 264 rows", "one product and sample_rows"


def calls() -> dict[str, Step]:
    """One row: what a call costs beside its logits."""
    zero = torch.zeros(1, dtype=torch.long)
    small, large = torch.randn(1, 32), torch.randn(1, 126464)
    steps: dict[str, Step] = {"a call of one row, V = 32": lambda: sample_rows(small, zero, zero, zero, zero, seed=0)}
    steps["a call of one row, V = 126464"] = lambda: sample_rows(large, zero, zero, zero, zero, seed=0)
    steps["the same with top_p"] = lambda: sample_rows(large, zero, zero, zero, zero, seed=0, top_p=0.9)
    return steps


def starts() -> dict[str, Step]:
    """A generation up to its first forward pass, by the parameters of the head."""
    steps: dict[str, Step] = {}
    tokens, settings = torch.full((1, 81), 11), SamplerConfig("prism", steps=16)
    for size in (130, 10_000):
        model = PrismModel(BackboneConfig(vocab_size=12, mask_id=11, length=81, num_layers=1), "none").eval()
        model.head = torch.nn.Linear(size, size)
        head_hash(model.head)  # as at its load
        steps[f"start of generate, a head of {size * size:,}"] = lambda model=model: (
            head_hash(model.head),
            next(stream(model, tokens, settings)),
        )
    return steps


def output_layer() -> dict[str, Step]:
    """Logits of 264 rows and a draw from each: a tile at a time, and all at once."""
    hidden, weight, rows = torch.randn(264, 256), torch.randn(126464, 256), torch.arange(264)
    return {
        TILES: lambda: lm_head_sample(hidden, weight, None, rows, rows, rows, rows, seed=0),
        PRODUCT: lambda: sample_rows(hidden @ weight.T, rows, rows, rows, rows, seed=0),
    }


def timed(steps: dict[str, Step], budget: float) -> dict[str, list[float]]:
    """Milliseconds of each step, taken in turn until the budget (seconds) is spent; a costly one of others just once.

    Of one thread the processor's time, which other work on the machine does not count into; of several the clock's.
    """
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    spent: dict[str, list[float]] = {name: [] for name in steps}
    end = time.perf_counter() + budget
    for turn in range(40):
        for name, step in steps.items():
            quick = name.startswith("ours") or not spent[name] or spent[name][-1] < 1000 * budget / 10
            if turn and (not quick or (turn > 4 and time.perf_counter() > end)):
                continue
            start = clock()
            step()
            spent[name].append(1000 * (clock() - start))
    return {name: taken[1:] or taken for name, taken in spent.items()}


def report(
    rows: list[Row], where: Row, taken: dict[str, list[float]], arithmetic: tuple[float, float], cached: bool
) -> None:
    """Print a case and add its rows; ``arithmetic`` is that floor of one and of two distributions, in milliseconds."""
    read = min(taken.pop("read", [0.0]))
    for name, values in taken.items():
        two = name == "ours" and where["top_p"] == 1 and where["top_k"] == 0 and where["temperature"] not in (0, 1)
        floor = max(read, arithmetic[two]) if name.startswith("ours") else read
        middle = statistics.median(values)
        row = {"name": name, "isa": isa(), **where, "ms_median": middle, "ms_min": min(values), "ms_max": max(values),
               "repeats": len(values), "read_ms": read, "arithmetic_ms": arithmetic[two], "floor_ms": floor,
               "ratio_to_floor": middle / floor if floor else 0.0, "two": two, "cached": cached}  # fmt: skip
        rows.append(row)
        print(f"{name:17}{isa():9}{where['V']:>7}{where['L']:>5}{where['B']:>3} {where['dtype']:9}"
              f"{where['temperature']:>4}{where['top_p']:>5}{where['top_k']:>4}{where['masked']:>5}{middle:>11.2f}"
              f"{min(values):>10.2f}{max(values):>10.2f}{floor:>9.2f}{row['ratio_to_floor']:>8.1f}"
              f"{'  cached' if cached else ''}", flush=True)  # fmt: skip


def isa() -> str:
    """The instruction set that the ops run on."""
    return str(torch.ops.prism.instruction_set()) if compiled() else "reference"


def cases(quick: bool) -> list[Case]:
    """Those whose f32 logits fit in 1 GiB."""
    bf16 = torch.bfloat16
    small = [Case(V, 1024, 1, temperature=t, masked=1.0) for V in (32, 128, 256, 1024, 2047, 2048) for t in (0.0, 0.7)]
    small += [Case(V, 1024, 1, temperature=0.7, top_p=0.9, masked=1.0) for V in (256, 257)]
    if quick:
        ways = [{}, {"temperature": 0.7}, {"temperature": 1.0, "top_p": 0.9}]
        return [small[6], *(Case(126464, 576, 1, **way) for way in ways)]
    large = [Case(V, L, 1) for V, L in ((50258, 1024), (50258, 4096), (126464, 1024), (151936, 1024))]
    ways = [{"temperature": t, "top_p": p} for p in (1.0, 0.9) for t in (0.0, 0.7, 1.0)]
    ways += [{"temperature": 0.7, "top_k": 50}, {"temperature": 0.7, "top_p": 0.9, "top_k": 50}]
    halves = [Case(V, 1024, 1, bf16, masked=1.0) for V in (50258, 126464)]  # as many bytes as half the rows in f32
    sparse = [Case(50258, 4096, 1, masked=0.1)]
    return [*small, *(one._replace(**way) for one in [*large, *halves, *sparse] for way in ways)]


def targets(rows: list[Row]) -> list[str]:
    """Each target beside the worst case measured, for every instruction set, over rows that no cache holds."""
    lines = []
    for name in dict.fromkeys(row["isa"] for row in rows):
        lines += [f"{name}: {line}" for line in _targets([row for row in rows if row["isa"] == name], name)]
    return lines


def _targets(rows: list[Row], name: str) -> list[str]:
    ours = [r for r in rows if r["name"].startswith("ours")]
    large = [r for r in ours if r["V"] >= 50000 and not r["cached"]]
    plain = [r for r in large if r["top_p"] == 1 and r["top_k"] == 0]
    kinds = {
        "one distribution": ([r for r in plain if not r["two"]], 2.0, 0.9),
        "two distributions": ([r for r in plain if r["two"]], 2.5, 1.6),
        "top_p = 0.9": ([r for r in large if r["top_p"] < 1 and r["top_k"] == 0], 4.0, 1.8),
    }

    def pairs(key: str, one: object, other: object, among: list[Row]) -> list[float]:
        """Time of ``one`` over that of ``other`` where a case differs in ``key`` alone, a logit."""
        parts = ("name", "V", "B", "L", "dtype", "temperature", "top_p", "top_k", "masked")
        mine = [part for part in parts if part != key and not (key == "dtype" and part == "masked")]
        cost = {r[key]: {} for r in among}
        for r in among:
            cost[r[key]][tuple(r[part] for part in mine)] = r["ms_median"] / rows_of(r) / r["V"]
        return [value / cost[other][at] for at, value in cost.get(one, {}).items() if at in cost.get(other, {})]

    def verdict(what: str, seen: list[float], limit: float, unit: str = "x", least: bool = False) -> list[str]:
        if not seen:
            return []
        worst = min(seen) if least else max(seen)
        missed = worst < limit if least else worst > limit
        share = f"missed by {100 * abs(worst / limit - 1):.0f}%" if missed else "met"
        bound = "at least" if least else "at most"
        middle = f"{statistics.median(seen):.2f}{unit} in the median of {len(seen)}"
        return [f"{what}: {worst:.2f}{unit} at worst, {middle}; {bound} {limit:g}{unit} wanted: {share}"]

    lines = []
    for what, (found, ratio, nanoseconds) in kinds.items():
        f32 = [r for r in found if r["dtype"] == "float32"]
        lines += verdict(f"{what}, of the nearer floor", [r["ratio_to_floor"] for r in f32], ratio)
        if name != "avx512":
            spent = [1e6 * r["ms_median"] / rows_of(r) / r["V"] for r in f32]
            lines += verdict(f"{what}, a logit", spent, nanoseconds, " ns")
    lines += verdict("bf16 beside f32", pairs("dtype", "bfloat16", "float32", large), 1.1)
    both: dict[tuple[Any, ...], dict[str, float]] = {}
    for r in large:
        if r["top_p"] < 1 and r["top_k"] > 0:
            both.setdefault((r["V"], r["L"], r["dtype"]), {})[r["name"]] = r["ms_median"]
    beside = [spent["ours"] / spent[ALONE] for spent in both.values() if ALONE in spent]
    lines += verdict("top_p with top_k beside top_p", beside, 1.2)
    lines += verdict("V = 2047 beside 2048", [a / b for a, b in zip(*(
        [r["ms_median"] / r["V"] for r in ours if r["V"] == V] for V in (2047, 2048)), strict=True)], 1.2)  # fmt: skip
    lines += verdict("V = 1024, a row", [1e3 * r["ms_median"] / rows_of(r) for r in ours if r["V"] == 1024], 2.5, " us")
    greedy = {(r["name"], r["V"]): r["ms_median"] for r in rows if r["temperature"] == 0 and 0 < r["V"] <= 256}
    beside = [value / greedy["torch", V] for (who, V), value in greedy.items() if who == "ours"]
    lines += verdict("V <= 256 at T = 0 beside torch", beside, 1)
    cut = {r["V"]: r["ms_median"] for r in ours if r["top_p"] < 1 and r["V"] in (256, 257)}
    lines += verdict("top_p at V = 256 beside 257", [cut[256] / cut[257]] if len(cut) == 2 else [], 1.2)
    fixed = {r["name"]: r["ms_median"] for r in rows if r["V"] < 0}
    starts = [ms for what, ms in fixed.items() if what.startswith("start of generate")]
    lines += verdict("start of generate, at any head", starts, 1, " ms")
    if PRODUCT in fixed:
        lines += verdict("lm_head_sample beside one product", [fixed[TILES] / fixed[PRODUCT]], 1)
    speed = {(r["name"], r["V"], r["L"], r["temperature"]): r["ms_median"] for r in rows
             if r["V"] >= 50000 and r["dtype"] == "float32" and r["top_p"] == 1 and r["top_k"] == 0}  # fmt: skip
    for temperature, factor in ((0, 10), (0.7, 150)):
        found = {key[1:]: ms for key, ms in speed.items() if key[0] == "llada" and key[-1] == temperature}
        seen = [ms / speed[("ours", *key)] for key, ms in found.items()]
        lines += verdict(f"LLaDA's step at T = {temperature}, half masked, beside ours", seen, factor, least=True)
    chosen = {r["name"]: r["ms_median"] for r in rows if r["V"] == 0}
    if chosen:
        loop = chosen["select topk loop"] / chosen["select ours"]
        lines += verdict("topk + scatter loops beside ours", [loop], 5, least=True)
    return lines


def rows_of(row: Row) -> int:
    """Rows of a case that are drawn from."""
    return row["B"] * max(1, round(row["masked"] * row["L"]))


KINDS = {
    "one distribution": lambda r: r["top_p"] == 1 and r["top_k"] == 0 and not r["two"],
    "two distributions": lambda r: r["two"],
    "top_p": lambda r: r["top_p"] < 1 and r["top_k"] == 0,
    "top_k": lambda r: r["top_p"] == 1 and r["top_k"] > 0,
    "top_p and top_k": lambda r: r["top_p"] < 1 and r["top_k"] > 0,
}


def plot(rows: list[Row], path: str) -> None:
    """Left: nanoseconds a logit of every kind of draw beside the floors. Right: how many times as long others take."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained", width_ratios=(3, 2))
    large = [r for r in rows if r["V"] >= 50000 and not r["cached"]]
    sets = [(name, dtype) for name in dict.fromkeys(r["isa"] for r in rows) for dtype in ("float32", "bfloat16")]
    for number, (name, dtype) in enumerate(sets):
        for place, belongs in enumerate(KINDS.values()):
            found = [r for r in large if (r["isa"], r["dtype"]) == (name, dtype) and r["name"].startswith("ours")
                     and belongs(r)]  # fmt: skip
            if not found:
                continue
            at = place + 0.8 * (number + 0.5) / len(sets) - 0.4
            spent = [[1e6 * r[key] / rows_of(r) / r["V"] for r in found] for key in ("ms_median", "floor_ms")]
            middle = statistics.median(spent[0])
            left.bar(at, middle, width=0.7 / len(sets), color=f"C{number}", label=None if place else f"{name}, {dtype}")
            left.vlines(at, min(spent[0]), max(spent[0]), color="black", linewidth=1)
            nearer = statistics.median(spent[1])
            left.hlines(nearer, at - 0.35 / len(sets), at + 0.35 / len(sets), color="black", linewidth=2)
    left.set_xticks(range(len(KINDS)), [kind.replace(" ", "\n", 1) for kind in KINDS])
    left.set(ylabel="nanoseconds a logit", title="A draw (bar: median, line: range); thick line: the nearer floor")
    left.legend(frameon=False, fontsize=8, loc="upper left")
    rivals = [name for name in dict.fromkeys(r["name"] for r in large) if not name.startswith("ours")]
    own = {(r["isa"], *(r[k] for k in CASE)): r["ms_median"] for r in large if r["name"] == "ours"}
    for place, name in enumerate(rivals):
        factors = [r["ms_median"] / own[(r["isa"], *(r[k] for k in CASE))] for r in large if r["name"] == name]
        right.hlines(place, min(factors), max(factors), color="C0", linewidth=2)
        right.plot(statistics.median(factors), place, "o", color="C0")
    right.set_yticks(range(len(rivals)), rivals)
    right.set_xscale("log")
    right.set(xlabel="times as long as ours: range, median", title="Other samplers' steps", xlim=(1, None))
    plain_ticks(right.xaxis)
    with write_atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


CASE = ("V", "L", "B", "dtype", "temperature", "top_p", "top_k", "masked")


def processor() -> str:
    """The processor by its name."""
    with open("/proc/cpuinfo") as file:
        about = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in file)}
    found, kind = about.get("model name", platform.processor()), about.get("cpu family")
    family = f"family {kind} model {about.get('model')}, " if kind else ""
    return f"{found} ({family}{platform.machine()}, {os.cpu_count()} cores)"


def keep(rows: list[Row], kept: Path | None) -> None:
    """What has been measured so far, for a run that is broken off."""
    if kept:
        with write_atomic(kept) as path:
            path.write_text(json.dumps({"rows": rows}))


def measure(quick: bool, own: bool, kept: Path | None) -> list[Row]:
    """All rows of this process's instruction set; cases that were kept are not measured again."""
    rows: list[Row] = json.loads(kept.read_text())["rows"] if kept and kept.exists() else []
    one, zeros = torch.randn(1, 126464), torch.zeros(64, dtype=torch.int64)
    kinds: dict[str, Step] = {
        "one": lambda: sample_rows(one, zeros, zeros, zeros, zeros, seed=0),
        "two": lambda: sample_rows(
            one, zeros, zeros, zeros, zeros, seed=0, temperature=0.7, confidence_of="untempered"
        ),
    }
    rate = [64 * one.numel() / min(taken) for taken in timed(kinds, 1).values()]  # logits a millisecond
    print(f"{isa()}: {rate[0] / 1e6:.2f} and {rate[1] / 1e6:.2f} billion logits a second from the cache")
    for case in cases(quick):
        if any(all(row[name] == value for name, value in case.figures.items()) for row in rows):
            continue
        steps = steps_of(case)
        if own:
            steps = {name: steps[name] for name in ("read", *OURS, "torch") if name in steps}
        if quick:  # the slowest would take most of the time
            steps = {name: steps[name] for name in ("read", *OURS, "torch", "llada") if name in steps}
        arithmetic = case.needed * case.V / rate[0], case.needed * case.V / rate[1]
        report(rows, case.figures, timed(steps, 2 if quick else 1), arithmetic, case.bytes < CACHE_BYTES)
        keep(rows, kept)
    if not any(row["V"] == 0 for row in rows):
        where = {
            "V": 0,
            "L": 4096,
            "B": 32,
            "dtype": "float32",
            "temperature": 0,
            "top_p": 1,
            "top_k": 0,
            "masked": 0.5,
        }
        report(rows, where, timed(selection(32, 4096), 2), (0.0, 0.0), True)
        for group, budget in ((calls(), 5), (starts(), 5), (output_layer(), 15)):
            report(rows, {**where, "V": -1}, timed(group, budget), (0.0, 0.0), True)
        keep(rows, kept)
    return rows


def page(result: Row, plotted: str | None) -> str:
    """The result as a page: the targets, every case of the large vocabularies that no cache holds, and the plot."""
    runs = [(f"    {of['command']}", "", f"{name}: {of['run']}.", "") for name, of in result["runs"].items()]
    lines = ["# What one sampling step costs beside the model", "", *(line for run in runs for line in run),
             "Medians over repeats in turn within a case, of the processor's time where one thread works, else of the "
             "clock's; a command with `--kept` may have taken several runs. Load beyond the cores takes caches, memory "
             "and boost from them: ratios then hold better than nanoseconds, and those within a case best. "
             "Not run on a GPU. The targets:", "",
             *(f"- {line}" for line in result["targets"]), "",
             "Of rows that no cache holds, in nanoseconds a logit; floor: the nearer of reading the rows once (the "
             "least of its repeats) and of the op itself on one cached row. Small vocabularies, cached cases and the "
             "spread are in `step_overhead.json`. What is fixed:", "",
             "| what | isa | microseconds, median | least |", "|---|---|--:|--:|",
             *(f"| {r['name']} | {r['isa']} | {1e3 * r['ms_median']:,.0f} | {1e3 * r['ms_min']:,.0f} |"
               for r in result["rows"] if r["V"] < 0), "",
             "| step | isa | V | rows | dtype | T | top_p | top_k | ns a logit | of the floor |",
             "|---|---|--:|--:|---|--:|--:|--:|--:|--:|"]  # fmt: skip
    for r in result["rows"]:
        if r["V"] >= 50000 and not r["cached"]:
            logits = rows_of(r) * r["V"]
            about = [r[key] for key in ("name", "isa", "V")] + [rows_of(r)]
            about += [r[key] for key in ("dtype", "temperature", "top_p", "top_k")]
            spent = [f"{1e6 * r['ms_median'] / logits:.2f}", f"{r['ratio_to_floor']:.1f}"]
            lines.append(f"| {' | '.join(map(str, [*about, *spent]))} |")
    if plotted:
        lines += ["", f"![Nanoseconds a logit, and other samplers]({Path(plotted).name})"]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few cases and the main rivals, within 50 seconds")
    parser.add_argument("--isa", nargs="+", choices=["avx512", "avx2", "portable"], help="each in its own process")
    parser.add_argument("--own", action="store_true", help="leave the other samplers out")
    parser.add_argument(
        "--kept", type=Path, metavar="FOLDER", help="keep every case; a run that was broken off goes on"
    )
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--page", metavar="FILE", help="a page for people")
    parser.add_argument("--plot", metavar="FILE")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.isa:
        rows = []
        with tempfile.TemporaryDirectory() as folder:
            for name in arguments.isa:
                kept = arguments.kept or Path(folder)
                command = [sys.executable, __file__, "--threads", str(arguments.threads), "--kept", str(kept)]
                others = arguments.own or bool(rows)  # theirs is one instruction set
                more = [*["--quick"] * arguments.quick, *["--own"] * others]
                subprocess.run([*command, *more], env={**os.environ, "PRISM_ISA": name}, check=True)
                rows += json.loads((kept / f"{name}.json").read_text())["rows"]
    else:
        print(f"{processor()}; threads: {arguments.threads}; torch {torch.__version__}; CPU only, not run on a GPU")
        print(f"{'name':17}{'isa':9}{'V':>7}{'L':>5}{'B':>3} {'dtype':9}{'T':>4}{'p':>5}{'k':>4}{'mask':>5}"
              f"{'ms median':>11}{'min':>10}{'max':>10}{'floor':>9}{'/ floor':>8}")  # fmt: skip
        with torch.no_grad():
            rows = measure(arguments.quick, arguments.own, arguments.kept and arguments.kept / f"{isa()}.json")
    about = f"{processor()}, load average {os.getloadavg()[2]:.0f}, {arguments.threads} thread(s), "
    about += f"torch {torch.__version__}, {time.strftime('%Y-%m-%d')}"
    typed = f"python benchmarks/step_overhead.py {' '.join(sys.argv[1:])}"
    runs = {name: {"command": typed, "run": about} for name in dict.fromkeys(row["isa"] for row in rows)}
    if arguments.json and Path(arguments.json).exists():
        before = json.loads(Path(arguments.json).read_text())
        rows = [row for row in before["rows"] if row["isa"] not in runs] + rows
        runs = {**before["runs"], **runs}
    lines = targets(rows)
    print(*lines, sep="\n")
    result = {"runs": runs, "targets": lines, "rows": rows}
    shown = page(result, arguments.plot)
    for file, text in ((arguments.json, json.dumps(result, indent=1) + "\n"), (arguments.page, shown)):
        if file:
            with write_atomic(file) as path:
                path.write_text(text)
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
