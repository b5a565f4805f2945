"""All that a GPU can tell of the CUDA ops, in ten minutes and one file.

    python benchmarks/gpu.py [--out docs/results/gpu.json]

Needs an NVIDIA GPU and the extension built for it (`PRISM_CUDA=1 pip install --no-build-isolation .` beside a CUDA
build of torch); says what is missing where it is, and exits with 1. In turn:
  agreement  every op against its PyTorch reference on the CPU, over dtypes, truncations, ties and padding: tokens, and
             figures within 1e-5 and what a plain softmax in the logits' precision is off from float64
  draws      chi-square of 40,000 draws against the softmax, as in the tests of the CPU ops
  graph      a whole step (draw, order, fill, remask) captured as a CUDA graph and replayed: equal to the step itself
  speed      microseconds and bandwidth of sample_rows over 32 to 4,096 rows of bf16 logits, beside a copy of the same
             bytes, torch (softmax and multinomial; argmax) and, where it is installed, flashinfer
The JSON names the GPU, its driver and every figure; commit it.
"""

import argparse
import importlib.util
import json
import math
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from prism_plugin import ops
from prism_plugin.files import write_atomic

VOCABULARIES, ROWS = (32000, 126464, 151936), (32, 128, 512, 1024, 4096)
WAYS: dict[str, dict[str, Any]] = {
    "T=0": {"temperature": 0.0},
    "T=1": {},
    "T=.7, confidence at 1": {"temperature": 0.7, "confidence_of": "untempered"},
    "top_p=.9": {"temperature": 0.7, "top_p": 0.9},
    "top_k=50": {"temperature": 0.7, "top_k": 50},
    "top_p=.9, top_k=50": {"temperature": 0.7, "top_p": 0.9, "top_k": 50},
    "min_p=.05": {"temperature": 0.7, "min_p": 0.05},
}


def missing() -> str:
    """What a run lacks here; empty where nothing."""
    if not torch.cuda.is_available():
        return "no CUDA device is visible to torch"
    if not ops.compiled("cuda"):
        return "the extension has no CUDA kernels: build it with PRISM_CUDA=1 beside a CUDA build of torch and nvcc"
    return ""


def keyed(count: int) -> tuple[Tensor, ...]:
    """Request, position and step of so many rows, (N,) int64."""
    n = torch.arange(count)
    return n // 7, n * 3, n % 5


def agreement() -> list[dict[str, Any]]:
    """Every op on the device beside its reference on the CPU."""
    found = []
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        for vocabulary in (7, 2048, 50258, 126464):
            logits = (torch.randn(12, vocabulary, generator=generator) * 3).to(dtype)
            logits[0], logits[1, ::3] = 1.0, math.nan
            rows, key = torch.tensor([*range(12), -1]), keyed(13)
            for way, options in WAYS.items():
                both = [
                    ops.sample_rows(logits.to(device), rows.to(device), *(part.to(device) for part in key), seed=3,
                                    margin=True, entropy=True, suppress=torch.tensor([2], device=device), **options)
                    for device in ("cuda", "cpu")
                ]  # fmt: skip
                same = both[0].token.cpu() == both[1].token
                plain = logits.nan_to_num(nan=-math.inf).softmax(-1).double()
                exact = logits.double().nan_to_num(nan=-math.inf).softmax(-1)
                allowed = 1e-5 + float(((plain - exact).abs() / exact.clamp(min=1e-30))[exact > 1e-6].max())
                apart = (both[0].prob.cpu() - both[1].prob).abs() / both[1].prob.clamp(min=1e-30)
                worst = float(apart[same & (both[1].token >= 0)].max())
                found.append({"op": "sample_rows", "dtype": str(dtype), "V": vocabulary, "way": way,
                              "tokens_equal": float(same.double().mean()), "prob_apart": worst, "allowed": allowed,
                              "fine": bool(same.double().mean() > 0.9) and worst <= allowed})  # fmt: skip
    scores = torch.rand(16, 4096, generator=generator).round(decimals=2)
    eligible, counts = torch.rand(16, 4096, generator=generator) < 0.5, torch.arange(16) * 300
    for name, reference in (("select_lowest", ops.select_lowest_ref), ("select_highest", ops.select_highest_ref)):
        ours = getattr(ops, name)(scores.cuda(), eligible.cuda(), counts.cuda()).cpu()
        found.append({"op": name, "fine": bool(torch.equal(ours, reference(scores, eligible, counts)))})
    request, position, step = keyed(1000)
    ours = ops.uniform(5, request.cuda(), position.cuda(), step.cuda(), 1).cpu()
    found.append({"op": "uniform", "fine": bool(torch.equal(ours, ops.uniform_ref(5, request, position, step, 1)))})
    return found


def draws() -> list[dict[str, Any]]:
    """Chi-square of many draws of one row."""
    found, count = [], 40000
    for vocabulary, temperature in ((12, 0.1), (1000, 1.0), (6000, 0.25)):
        logits = torch.randn(1, vocabulary, generator=torch.Generator().manual_seed(vocabulary)).cuda()
        zero, position = torch.zeros(count, dtype=torch.long, device="cuda"), torch.arange(count, device="cuda")
        token = ops.sample_rows(logits, zero, zero, position, zero, seed=17, temperature=temperature).token
        expected = (logits[0].double() / temperature).softmax(-1) * count
        seen = torch.bincount(token, minlength=vocabulary).double()
        often = expected >= 5
        pairs = [(seen[often], expected[often]), (seen[~often].sum()[None], expected[~often].sum()[None])]
        chi = sum(float(((a - b) ** 2 / b)[b > 0].sum()) for a, b in pairs)
        freedom = int(often.sum())
        limit = freedom + 5 * math.sqrt(2 * max(freedom, 1)) + 10
        found.append({"V": vocabulary, "T": temperature, "chi_square": chi, "limit": limit, "fine": chi < limit})
    return found


def graph() -> dict[str, Any]:
    """A step captured and replayed, against the step as it stands; in two states, so that a frozen value would show."""
    batch, length, vocabulary, mask_id = 4, 128, 32000, 31999
    device = torch.device("cuda")
    logits = torch.randn(batch * length, vocabulary, device=device, dtype=torch.bfloat16)
    tokens = torch.full((batch, length), mask_id, device=device)
    place = torch.arange(batch * length, device=device)
    step = torch.zeros(batch * length, dtype=torch.long, device=device)
    counts = torch.full((batch,), 5, device=device)
    never = torch.tensor([mask_id], device=device)

    def one(text: Tensor) -> None:
        drawn = ops.sample_rows(logits, place, place // length, place % length, step, seed=1, top_p=0.9, suppress=never)
        prob = drawn.prob.view(batch, length)
        ops.remask_scatter_(text, prob, text != mask_id, counts // 2, mask_id)
        ops.fill_scatter_(text, drawn.token.view(batch, length), prob, text == mask_id, counts)

    warm = tokens.clone()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        one(warm)
    torch.cuda.current_stream().wait_stream(side)
    captured = torch.cuda.CUDAGraph()
    text = tokens.clone()
    with torch.cuda.graph(captured):
        one(text)
    fine = True
    text.copy_(tokens)
    plain = tokens.clone()
    for number in range(3):
        step.fill_(number)
        captured.replay()
        one(plain)
        fine &= bool(torch.equal(text, plain))
    return {"steps": 3, "fine": fine}


def microseconds(call: Callable[[], object]) -> float:
    """Median of 20 timed by events, after a warm-up."""
    for _ in range(3):
        call()
    spent = []
    for _ in range(20):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        spent.append(1000 * start.elapsed_time(end))
    return sorted(spent)[len(spent) // 2]


def ways_to_draw(logits: Tensor) -> dict[str, Callable[[], object]]:
    """All that is timed on logits (N, V) bf16."""
    n, copy = torch.arange(len(logits), device="cuda"), torch.empty_like(logits)
    ways: dict[str, Callable[[], object]] = {"copy": lambda: copy.copy_(logits)}
    for way, options in WAYS.items():
        ways[f"prism {way}"] = partial(ops.sample_rows, logits, n, n, n, n, seed=1, **options)
    ways["torch argmax"] = lambda: logits.argmax(-1)
    ways["torch softmax, multinomial"] = lambda: (logits.float() / 0.7).softmax(-1).multinomial(1)
    if importlib.util.find_spec("flashinfer"):
        probs = (logits.float() / 0.7).softmax(-1)
        ways["flashinfer top_p"] = partial(import_module("flashinfer.sampling").top_p_sampling_from_probs, probs, 0.9)
    return ways


def speed() -> list[dict[str, Any]]:
    """Time and bandwidth of every way to draw, beside a copy, torch and flashinfer."""
    found = []
    for vocabulary in VOCABULARIES:
        for count in ROWS:
            logits = (torch.randn(count, vocabulary, device="cuda") * 3).bfloat16()
            for name, call in ways_to_draw(logits).items():
                spent = microseconds(call)
                size = logits.numel() * 2 * (2 if name == "copy" else 1)
                found.append({"name": name, "V": vocabulary, "rows": count, "microseconds": spent,
                              "gigabytes_a_second": size / spent / 1e3})  # fmt: skip
                print(f"{name:34}{vocabulary:>8}{count:>6}{spent:>11.1f} us{size / spent / 1e3:>9.0f} GB/s", flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="docs/results/gpu.json", help="file to write (docs/results/gpu.json)")
    options = parser.parse_args()
    if lacking := missing():
        print(f"benchmarks/gpu.py was not run: {lacking}.", file=sys.stderr)
        return 1
    properties = torch.cuda.get_device_properties(0)
    result: dict[str, Any] = {
        "gpu": properties.name, "capability": f"{properties.major}.{properties.minor}", "torch": torch.__version__,
        "cuda": torch.version.cuda, "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    with torch.no_grad():
        for part in (agreement, draws, graph, speed):
            result[part.__name__] = part()
            rows = result[part.__name__] if isinstance(result[part.__name__], list) else [result[part.__name__]]
            wrong = [row for row in rows if not row.get("fine", True)]
            print(f"{part.__name__}: {len(rows)} rows, {len(wrong)} not as they should be", *wrong[:5], sep="\n  ")
    with write_atomic(options.out) as path:
        path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"Written: {options.out}. Please commit it.")
    return int(any(not row.get("fine", True) for row in result["agreement"] + result["draws"] + [result["graph"]]))


if __name__ == "__main__":
    sys.exit(main())
