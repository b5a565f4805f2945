"""PRISM against LLaDA's own rule on the tiny LLaDA, at equal forward passes (docs/logs/llada-real-run.log).

    python -m prism_plugin.integrations.llada.compare --llada LLADA --model FOLDER --head HEAD [--count 200]

LLADA is a checkout of ML-GSAI/LLaDA, for its generate.py; FOLDER comes from ``train_tiny``,
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
from prism_plugin.models.remote import load
from prism_plugin.quality.head import load_head

from .adapter import LLaDADenoiser
from .generate import generate
from .toy import ANSWER_LENGTH, TASKS, examples, solved

REVISE: dict[str, Any] = {"sampler": "prism-llada", "num_remask": 1}
SAMPLERS: dict[str, dict[str, Any]] = {
    "no revision": {"sampler": "confidence"},
    "random remask": {**REVISE, "score": "random"},
    "lowest w": {**REVISE, "score": "written"},
    "self-likelihood": {**REVISE, "score": "self_likelihood"},
    "PRISM": REVISE,
    "PRISM g < .3": {**REVISE, "select": "below", "tau": 0.3},
    "the same, late": {**REVISE, "select": "below", "tau": 0.3, "fill_share": 0.75},
}
"""One token remasked a step, or all below a threshold; ``late`` fills in the first 3/4 of the steps."""


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
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["sort", "shuffle"])
    parser.add_argument("--steps", nargs="+", type=int, default=[4, 6, 8])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1000)
    args = parser.parse_args()

    host = hosts_generate(args.llada)
    commit = subprocess.run(["git", "-C", args.llada, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    model: Any = load(args.model, trust_remote_code=True, dtype=torch.float32)
    print(f"ML-GSAI/LLaDA {commit.stdout.strip()}, torch {version('torch')}, transformers {version('transformers')},")
    print(f"compiled ops {ops.compiled()}, {torch.get_num_threads()} thread(s), f32, temperature 0, seed {args.seed}.")
    texts = {n: examples(args.count, torch.Generator().manual_seed(args.seed), (n,)) for n in args.tasks}

    print(
        f"\nAnswers of {args.count} that are token for token those of generate.py, and the share of its that are right"
    )
    for task, (prompt, attended, answer) in texts.items():
        for steps in args.steps:
            call = {"steps": steps, "gen_length": ANSWER_LENGTH, "block_length": ANSWER_LENGTH}
            written = host(model, prompt, attended, **call)
            equal = {n: generate(model, prompt, attended, **call, numerics=n) for n in ("host", "exact")}
            cells = [f"numerics={n} {int((x == written).all(dim=1).sum())}" for n, x in equal.items()]
            right = _share(task, written, answer)
            print(f"{task:<10}{steps} forwards: {', '.join(cells)}, right {right:.3f}", flush=True)

    if (args.head / "adapter_config.json").exists():
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, args.head).eval()
    denoiser = LLaDADenoiser(model)
    load_head(denoiser, args.head)
    print("\nThe model tuned with its head: share right (remasks an answer, of them brought back the same token)")
    for task, (prompt, attended, answer) in texts.items():
        for remasking in ("low_confidence", "random"):
            print(f"\n{task + ', ' + remasking:<24}" + "".join(f"{f'{n} forwards':>18}" for n in args.steps))
            for name, settings in SAMPLERS.items():
                cells = []
                for steps in args.steps:
                    result: Any = generate(
                        denoiser, prompt, attended, steps, ANSWER_LENGTH, ANSWER_LENGTH,
                        remasking=remasking, seed=args.seed, return_result=True, **settings,
                    )  # fmt: skip
                    cost = f"({result.remasked.float().mean():.1f}, {result.wasted.float().mean():.1f})"
                    cells.append(f"{_share(task, result.tokens, answer):.3f} {cost}")
                print(f"{name:<24}" + "".join(f"{cell:>18}" for cell in cells), flush=True)


def _share(task: str, tokens: Tensor, answer: Tensor) -> float:
    return solved(task, tokens[:, -ANSWER_LENGTH:], answer).float().mean().item()


if __name__ == "__main__":
    main()
