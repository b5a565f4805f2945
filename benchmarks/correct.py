"""Which tau should `prism-correct` have where the head says the posterior of a token? Held-out texts with wrong tokens.

    OMP_NUM_THREADS=1 python benchmarks/correct.py --models code prose --out docs/results

In held-out texts some tokens are replaced by tokens of other texts. A tau is judged by how many of the wrong ones end
as right, and how many of the right ones end as others, which may be as good: that is not counted. Several sets of texts
and of wrong tokens (seeds); mean, least and most.
"""

import argparse
import os
import platform
import shlex
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

from prism_plugin import enable
from prism_plugin.files import save_json, write_atomic
from prism_plugin.sampling.drive import generate
from prism_plugin.tasks import HELD_OUT, get_task

TAUS = (0.1, 0.01, 0.001, 0.0003, 0.0001, 0.00003, 0.00001, 0.000003, 0.000001)


def spoil(truth: torch.Tensor, share: float, seed: int) -> torch.Tensor:
    """Texts (B, L) of which a share of the tokens is replaced by tokens from anywhere in them."""
    rng = torch.Generator().manual_seed(seed)
    where = torch.rand(truth.shape, generator=rng) < share
    return torch.where(where, truth.flatten()[torch.randint(truth.numel(), truth.shape, generator=rng)], truth)


def tried(model: str, texts: int, length: int, share: float, seeds: int) -> list[dict[str, Any]]:
    """A row a tau: shares in % of the wrong that are repaired and of the right that are changed, of all the right ones
    gained, and passes a text.
    """
    prism = enable(model)
    task = get_task(prism.denoiser.task)
    found = []
    for tau in TAUS:
        row: dict[str, Any] = {"model": model, "tau": tau, "repaired": [], "changed": [], "gained": [], "forwards": []}
        for seed in range(seeds):
            truth = task.texts(seed * texts, texts, HELD_OUT)[:, :length].contiguous()
            given = spoil(truth, share, seed)
            config, free = prism.config("prism-correct", tau=tau), torch.ones_like(given, dtype=torch.bool)
            result = generate(prism.denoiser, given, config, editable=free, truth=truth)
            wrong, right = given != truth, result.tokens == truth
            row["repaired"].append(100 * float(right[wrong].float().mean()))
            row["changed"].append(100 * float((~right)[~wrong].float().mean()))
            row["gained"].append(100 * float(right.float().mean() - (~wrong).float().mean()))
            row["forwards"].append(float(result.forwards.float().mean()))
        found.append(row)
        print(f"{model} tau {tau:g}: " + "; ".join(f"{name} {spread(row[name])}" for name in list(row)[2:]), flush=True)
    return found


def spread(values: list[float]) -> str:
    """Mean, least and most."""
    return f"{statistics.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["code", "prose"])
    parser.add_argument("--texts", type=int, default=16, help="of a seed (16)")
    parser.add_argument("--length", type=int, default=64, help="tokens of a text (64)")
    parser.add_argument("--share", type=float, default=0.05, help="of the tokens that is made wrong (.05)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    given = parser.parse_args()
    rows = [row for model in given.models for row in tried(model, given.texts, given.length, given.share, given.seeds)]
    about = (
        f"{platform.machine()} CPU, {os.cpu_count()} cores, {torch.get_num_threads()} thread(s), torch "
        f"{torch.__version__}, not run on a GPU"
    )
    command = shlex.join(["python", *sys.argv])
    save_json(given.out / "correct.json", {"command": command, "machine": about, "rows": rows})
    lines = [
        "# tau of `prism-correct` on a head that learned a posterior", "", f"    {command}", "",
        f"{given.seeds} times {given.texts} held-out texts of {given.length} tokens, {100 * given.share:g}% of them "
        f"made wrong; mean, least, most. Changed: right tokens in whose place another stands at the end. "
        f"Gained: right tokens at the end more than before, of all tokens. {about}.", "",
        "| model | tau | wrong tokens repaired, % | right tokens changed, % | gained, % | passes a text |",
        "|---|--:|--:|--:|--:|--:|",
        *(f"| {row['model']} | {row['tau']:g} | {spread(row['repaired'])} | {spread(row['changed'])} | "
          f"{spread(row['gained'])} | {spread(row['forwards'])} |" for row in rows), "",
    ]  # fmt: skip
    with write_atomic(given.out / "correct.md") as path:
        path.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
