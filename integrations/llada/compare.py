"""PRISM against LLaDA's own rule on the tiny LLaDA, at equal forward passes (docs/logs/llada-real-run.log).

    python -m prism_plugin.integrations.llada.compare --llada LLADA --model FOLDER --head HEAD [--count 200]

LLADA is a checkout of ML-GSAI/LLaDA, whose generate.py writes the first column; FOLDER comes from ``train_tiny``,
HEAD from ``train_head``.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prism_plugin import ops

from .adapter import LLaDADenoiser
from .generate import generate
from .load import load
from .toy import ANSWER_LENGTH, TASKS, examples, solved

REVISE = {"sampler": "prism-llada", "num_remask": 1}
SAMPLERS: dict[str, dict[str, Any]] = {
    "confidence": {"sampler": "confidence"},
    "random remask": {**REVISE, "score": "random"},
    "lowest w": {**REVISE, "score": "written"},
    "self-likelihood": {**REVISE, "score": "self_likelihood"},
    "PRISM": REVISE,
    "PRISM, g < 0.2": {**REVISE, "select": "below", "tau": 0.2},
}


def hosts_generate(checkout: Path) -> Callable[..., Tensor]:
    """The function ``generate`` of a checkout's generate.py."""
    spec = importlib.util.spec_from_file_location("llada_generate", checkout / "generate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.generate


def main() -> None:
    parser = argparse.ArgumentParser(description="PRISM against LLaDA's own rule on the tiny LLaDA.")
    parser.add_argument("--llada", type=Path, required=True, help="a checkout of ML-GSAI/LLaDA")
    parser.add_argument("--model", type=Path, required=True, help="a folder written by train_tiny")
    parser.add_argument("--head", type=Path, required=True, help="a folder written by train_head")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["reverse", "shuffle"])
    parser.add_argument("--steps", nargs="+", type=int, default=[2, 4, 6, 8])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1000)
    args = parser.parse_args()

    host = hosts_generate(args.llada)
    commit = subprocess.run(["git", "-C", args.llada, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    model: Any = load(args.model, trust_remote_code=True, dtype=torch.float32)
    print(f"ML-GSAI/LLaDA {commit.stdout.strip()}, torch {version('torch')}, transformers {version('transformers')},")
    print(f"compiled ops {ops.compiled()}, {torch.get_num_threads()} thread(s), f32, temperature 0, seed {args.seed}.")
    print(
        f"Share of {args.count} answers that are right; in brackets remasks an answer, and how many came back the same."
    )
    for task in args.tasks:
        prompt, attended, answer = examples(args.count, torch.Generator().manual_seed(args.seed), (task,))
        print(f"\n{task:<16}" + "".join(f"{f'{n} forwards':>20}" for n in args.steps))
        written = [
            host(model, prompt, attended, steps=n, gen_length=ANSWER_LENGTH, block_length=ANSWER_LENGTH)
            for n in args.steps
        ]
        print(f"{'generate.py':<16}" + "".join(f"{_share(task, x, answer):>20.3f}" for x in written), flush=True)
        for name, settings in SAMPLERS.items():
            cells = []
            for n, expected in zip(args.steps, written, strict=True):
                result: Any = generate(
                    LLaDADenoiser(model), prompt, attended, n, ANSWER_LENGTH, ANSWER_LENGTH,
                    head=args.head, seed=args.seed, return_result=True, **settings,
                )  # fmt: skip
                cost = f"({result.remasked.float().mean():.1f}, {result.wasted.float().mean():.1f})"
                if name == "confidence":
                    cost = f"{(result.tokens == expected).all(dim=1).sum()}/{args.count} equal"
                cells.append(f"{_share(task, result.tokens, answer):.3f} {cost}")
            print(f"{name:<16}" + "".join(f"{cell:>20}" for cell in cells), flush=True)


def _share(task: str, tokens: Tensor, answer: Tensor) -> float:
    return solved(task, tokens[:, -ANSWER_LENGTH:], answer).float().mean().item()


if __name__ == "__main__":
    main()
