"""What one sampling step costs beside the model: this package's ops, the published samplers, and the read floor.

    python benchmarks/step_overhead.py [--quick] [--json FILE] [--plot FILE] [--threads N]

One run, side by side: every case times, in turn and several times over,
  floor      one pass over as many contiguous bytes as the needed rows hold
  arithmetic as many exponentials as the op needs (one or two a symbol), at the rate of the op on one cached row
  ours       sample_rows + fill_scatter_ (the compiled ops where they are built); with top_p = 1 the figures are of
             softmax(logits), so that T = 0.7 asks for two distributions; 'ours tempered' asks for one
  reference  the same through the PyTorch references
  llada, fast_dllm, dllm, remdm, prism_release
             step functions with those samplers' mathematics, written from their description, each on the logits of all
             rows, as they do (tests/ops/test_published_steps.py shows their tokens equal to the checkouts' own);
             in the largest cases, where one step takes most of a minute, they are left out
Then the selection ops beside a torch.topk loop, and every target with what was measured. Rows of f32 logits hold more
than four times a 32 MiB cache unless a case says 'cached'. Ratios within one run are what counts.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from prism_plugin.files import write_atomic
from prism_plugin.ops import (
    compiled,
    fill_scatter_,
    fill_scatter_ref_,
    remask_scatter_,
    remask_scatter_ref_,
    sample_rows,
    sample_rows_ref,
)

CACHE_BYTES = 4 * 32 * 2**20
RIVALS_UP_TO = 8 * 10**7  # logits
HEADLINE = (126464, 1024, 1)  # a shape where all are measured
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


@lru_cache(maxsize=1)
def logits_of(V: int, L: int, B: int, dtype: torch.dtype) -> Tensor:
    """(B, L, V): normal, three wide, about what a trained model's look like in the flatter places."""
    generator = torch.Generator().manual_seed(V + L + B)
    logits = torch.empty(B, L, V, dtype=dtype)
    for b in range(B):
        logits[b] = 3 * torch.randn(L, V, generator=generator)
    return logits


def case(
    V: int, L: int, B: int, dtype: torch.dtype, temperature: float, top_p: float, share: float
) -> tuple[dict[str, Step], int]:
    """The named steps of a case, and the bytes that the needed rows hold."""
    generator = torch.Generator().manual_seed(V + L + B)
    mask_id = V - 1
    logits = logits_of(V, L, B, dtype)
    masked = torch.zeros(B, L, dtype=torch.bool)
    for b in range(B):
        masked[b, torch.randperm(L, generator=generator)[: max(1, round(share * L))]] = True
    tokens = torch.where(masked, mask_id, torch.randint(0, mask_id, (B, L), generator=generator))
    counts = (masked.sum(-1) + 3) // 4
    quality = torch.rand(B, L, generator=generator)
    needed = int(masked.sum())
    rows = masked.flatten().nonzero()[:, 0]
    request, position, step = rows // L, rows % L, torch.zeros_like(rows)
    flat, suppress = logits.view(B * L, V), torch.tensor([mask_id])

    def step_of(sample: Callable[..., tuple[Tensor, ...]], fill: Callable[..., Tensor]) -> Step:
        def run() -> Tensor:
            drawn = sample(flat, rows, request, position, step)
            x0, confidence = tokens.flatten().clone(), torch.zeros(B * L)
            x0[rows], confidence[rows] = drawn[0], drawn[1]
            out = tokens.clone()
            fill(out, x0.view(B, L), confidence.view(B, L), masked, counts)
            return out

        return run

    options = {"temperature": temperature, "top_p": top_p, "suppress": suppress}
    shown = "sampled" if top_p < 1 else "untempered"
    steps: dict[str, Step] = {
        "floor": lambda: flat[:needed].sum(-1, dtype=None if dtype == torch.float32 else torch.float32),
        "ours": step_of(lambda *a: sample_rows(*a, seed=0, confidence_of=shown, **options), fill_scatter_),
    }
    if top_p == 1 and temperature not in (0, 1):
        steps["ours tempered"] = step_of(lambda *a: sample_rows(*a, seed=0, **options), fill_scatter_)
    if V * L * B > RIVALS_UP_TO and (V, L, B) != HEADLINE:
        return steps, needed * V * logits.element_size()
    steps["reference"] = step_of(
        lambda *a: sample_rows_ref(
            *a,
            0,
            temperature,
            top_p,
            0,
            0.0,
            suppress,
            None,
            None,
            None,
            None,
            1.0,
            shown == "untempered",
            False,
            None,
            False,
            False,
            0,
        ),
        fill_scatter_ref_,
    )
    if top_p == 1:
        steps["llada"] = lambda: llada_step(logits, tokens, masked, counts, temperature)
        steps["fast_dllm"] = lambda: llada_step(logits, tokens, masked, counts, temperature, torch.float64)
        steps["dllm"] = lambda: llada_step(logits, tokens, masked, counts, temperature)
    if temperature == 1:
        visible = L - int(masked[0].sum())
        steps["remdm"] = lambda: remdm_step(logits, tokens, masked, mask_id, top_p, 0.5, 0.01, 0.01)
        steps["prism_release"] = lambda: prism_release_step(
            logits, tokens, masked, mask_id, top_p, quality, min(4, visible), min(L, visible + int(counts[0]))
        )
    return steps, needed * V * logits.element_size()


def selection(B: int, L: int) -> dict[str, Step]:
    """Remask 64 of every row: the fused op, its reference, and a loop of torch.topk + scatter."""
    generator = torch.Generator().manual_seed(0)
    scores, eligible = torch.rand(B, L, generator=generator), torch.rand(B, L, generator=generator) < 0.5
    counts, tokens = torch.full((B,), 64), torch.zeros(B, L, dtype=torch.int64)

    def loop() -> None:
        for b in range(B):
            tokens[b, scores[b].masked_fill(~eligible[b], torch.inf).topk(64, largest=False).indices] = 7

    return {
        "floor": lambda: scores.sum(-1),
        "select ours": lambda: remask_scatter_(tokens, scores, eligible, counts, 7),
        "select reference": lambda: remask_scatter_ref_(tokens, scores, eligible, counts, 7),
        "select topk loop": loop,
    }


def timed(steps: dict[str, Step], budget: float) -> dict[str, list[float]]:
    """Milliseconds of each step, taken in turn until the budget (seconds) is spent; a costly one just once."""
    spent: dict[str, list[float]] = {name: [] for name in steps}
    end = time.perf_counter() + budget
    for turn in range(40):
        for name, step in steps.items():
            quick = not spent[name] or spent[name][-1] < 1000 * budget / 10
            if turn and (not quick or (turn > 2 and time.perf_counter() > end)):
                continue
            start = time.perf_counter()
            step()
            spent[name].append(1000 * (time.perf_counter() - start))
    return {name: taken[1:] or taken for name, taken in spent.items()}


def report(rows: list[Row], where: Row, taken: dict[str, list[float]], note: str) -> None:
    floor = statistics.median(taken["floor"])
    for name, values in taken.items():
        middle = statistics.median(values)
        rows.append({"name": name, **where, "ms_median": middle, "ms_min": min(values), "ms_max": max(values),
                     "floor_ms": floor, "ratio_to_floor": middle / floor})  # fmt: skip
        print(f"{name:17}{where['V']:>8}{where['L']:>6}{where['B']:>4} {where['dtype']:9}{where['temperature']:>5}"
              f"{where['top_p']:>6}{where['masked_fraction']:>5}{middle:>11.2f}{min(values):>11.2f}{max(values):>11.2f}"
              f"{middle / floor:>9.1f}  {note}", flush=True)  # fmt: skip


def cases(quick: bool) -> list[tuple[int, int, int, torch.dtype, float, float, float]]:
    """(V, L, B, dtype, temperature, top_p, masked share), those whose f32 logits fit in 1 GiB."""
    f32, bf16 = torch.float32, torch.bfloat16
    if quick:
        return [(12, 81, 32, f32, 1.0, 1.0, 0.5), (126464, 576, 1, f32, 0.0, 1.0, 0.5),
                (126464, 576, 1, f32, 0.7, 1.0, 0.5), (126464, 576, 1, f32, 1.0, 0.9, 0.5)]  # fmt: skip
    shapes = [(V, L, B) for V in (12, 50258, 126464, 151936) for L in (81, 1024, 4096) for B in (1, 8, 32)]
    shapes = [s for s in shapes if s[0] * s[1] * s[2] * 4 <= 2**30]
    how = [(temperature, top_p) for top_p in (1.0, 0.9) for temperature in (0.0, 0.7, 1.0)]
    full = [(*shape, f32, *h, 0.5) for shape in shapes for h in how]
    shares = [(151936, 1024, 1, f32, *h, share) for share in (0.3, 1.0) for h in how]
    sparse = [(50258, 4096, 1, f32, *h, 0.1) for h in how]
    return [*full, *shares, *sparse, *((V, 1024, 1, bf16, *h, 0.5) for V in (50258, 126464) for h in how)]


def targets(rows: list[Row]) -> list[str]:
    """Each target beside the worst case measured, over f32 rows of V >= 50k that no cache holds."""
    large = [r for r in rows if r["V"] >= 50000 and r["dtype"] == "float32" and needed_bytes(r) >= CACHE_BYTES]
    half = {(r["name"], r["V"], r["L"], r["B"], r["temperature"]): r["ms_median"]
            for r in large if r["top_p"] == 1 and r["masked_fraction"] == 0.5}  # fmt: skip
    times = {t: [ms / half[("ours", *key[1:])] for key, ms in half.items() if key[0] == "llada" and key[-1] == t]
             for t in (0, 0.7)}  # fmt: skip
    chosen = {r["name"]: r["ms_median"] for r in rows}

    def ratios(name: str, top_p: float, temperatures: tuple[float, ...]) -> list[float]:
        return [r["ratio_to_floor"] for r in large
                if r["name"] == name and r["top_p"] == top_p and r["temperature"] in temperatures]  # fmt: skip

    at_most = [
        ("one distribution", 2.0, ratios("ours", 1, (0, 1)) + ratios("ours tempered", 1, (0.7,))),
        ("two distributions", 2.5, ratios("ours", 1, (0.7,))),
        ("top_p = 0.9", 4.0, ratios("ours", 0.9, (0, 0.7, 1))),
    ]
    at_least = [
        ("LLaDA's step at T = 0, half masked", 10.0, times[0]),
        ("LLaDA's step at T = 0.7, half masked", 150.0, times[0.7]),
        ("topk + scatter loops", 5.0, [chosen["select topk loop"] / chosen["select ours"]]),
    ]
    lines = []
    for what, limit, seen in at_most:
        if seen:
            verdict = "met" if max(seen) <= limit else f"missed by {100 * (max(seen) / limit - 1):.0f}%"
            lines.append(f"{what}: {max(seen):.2f}x the read floor at worst, {statistics.median(seen):.2f}x in the "
                         f"median of {len(seen)}; at most {limit:g}x wanted: {verdict}")  # fmt: skip
    for what, limit, seen in at_least:
        if seen:
            verdict = "met" if min(seen) >= limit else f"missed by {100 * (1 - min(seen) / limit):.0f}%"
            lines.append(f"{what}: ours is {min(seen):.1f}x faster; at least {limit:g}x wanted: {verdict}")
    return lines


def needed_bytes(row: Row) -> float:
    width = {"float32": 4, "bfloat16": 2}[row["dtype"]]
    return row["V"] * row["B"] * max(1, round(row["masked_fraction"] * row["L"])) * width


def plot(rows: list[Row], path: str) -> None:
    """Bytes of the needed rows against time; the read floor and the arithmetic floor as lines."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 5), layout="constrained")
    for name in dict.fromkeys(row["name"] for row in rows if row["V"]):
        points = sorted((needed_bytes(row), row["ms_median"]) for row in rows if row["name"] == name)
        style = {"floor": "k-", "arithmetic": "k:"}.get(name, "o")
        axes.loglog(*zip(*points, strict=True), style, label=name, markersize=4)
    axes.set(xlabel="bytes of the needed rows", ylabel="milliseconds a step")
    axes.legend(loc="lower right", fontsize=8)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few cases and the main rivals, within 50 seconds")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--plot", metavar="FILE")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    kind = torch.ops.prism.instruction_set() if compiled() else "reference, the extension is not built"
    print(f"ops: {kind}; threads: {arguments.threads}; CPU only, not yet run on a GPU")
    rows: list[Row] = []
    with torch.no_grad():
        one, zeros = torch.randn(1, 126464), torch.zeros(64, dtype=torch.int64)
        hot = timed({"op": lambda: sample_rows(one, zeros, zeros, zeros, zeros, seed=0)}, 1)["op"]
        per_ms = 64 * one.numel() / statistics.median(hot)
        print(f"arithmetic floor: {per_ms / 1e6:.2f} billion exponentials a second")
        print(f"{'name':17}{'V':>8}{'L':>6}{'B':>4} {'dtype':9}{'T':>5}{'top_p':>6}{'mask':>5}"
              f"{'ms median':>11}{'min':>11}{'max':>11}{'/ floor':>9}")  # fmt: skip
        for V, L, B, dtype, temperature, top_p, share in cases(arguments.quick):
            steps, size = case(V, L, B, dtype, temperature, top_p, share)
            where = {"V": V, "L": L, "B": B, "dtype": str(dtype).removeprefix("torch."), "temperature": temperature,
                     "top_p": top_p, "masked_fraction": share}  # fmt: skip
            note = "cached" if size < CACHE_BYTES else ""
            if arguments.quick and V > 12:  # the slowest would take most of the time
                steps = {name: steps[name] for name in ("floor", "ours", "ours tempered", "llada") if name in steps}
            taken = timed(steps, 2 if arguments.quick else 1)
            exponentials = size / logits_of(V, L, B, dtype).element_size() * (2 if "ours tempered" in steps else 1)
            report(rows, where, {"floor": taken.pop("floor"), "arithmetic": [exponentials / per_ms], **taken}, note)
        where = {"V": 0, "L": 4096, "B": 32, "dtype": "float32", "temperature": 0, "top_p": 1, "masked_fraction": 0.5}
        report(rows, where, timed(selection(32, 4096), 2), "cached")
    print(*targets(rows), sep="\n")
    if arguments.json:
        with write_atomic(arguments.json) as path:
            path.write_text(json.dumps(rows, indent=1) + "\n")
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
