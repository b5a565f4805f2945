"""How well models know held-out texts.

    python -m benchmarks.backbone code python --corpus build/corpora/code/held_out.jsonl --texts 512

The bound on bits a character of a masked diffusion model (cross-entropy / t, MDLM, arXiv 2406.07524), over the same
masks for all models, with paired 95% intervals over texts: of the task's own held-out texts, and of those of a corpus
(benchmarks/corpora.py).
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.corpora import texts
from prism_plugin.errors import PrismError
from prism_plugin.evaluation.rivals import bootstrap
from prism_plugin.models.checkpoint import PrismModel
from prism_plugin.quality.loss import CONTEXT, ranks
from prism_plugin.tasks import HELD_OUT, get_task
from prism_plugin.tasks.text import TextTask


@torch.no_grad()
def nats(model: PrismModel, tokens: Tensor, levels: int = 8) -> Tensor:
    """The bound on each text's negative log-likelihood, (N, L) int64 -> (N,): a mean over evenly spread levels of
    noise, each drawn anew for every text.
    """
    length, number = tokens.shape[1], torch.arange(len(tokens))
    total = torch.zeros(len(tokens), dtype=torch.float64)
    shift = ranks(0, number, 1, CONTEXT + 1)[:, 0]
    for level in range(levels):
        t = ((level + shift) / levels).clamp(min=1 / length)
        masked = ranks(level, number, length, CONTEXT) < t[:, None]
        index = masked.flatten().nonzero()[:, 0]
        logits, rows = model.project(model(tokens.masked_fill(masked, model.mask_id)), index)
        told = torch.nn.functional.cross_entropy(logits[rows], tokens.flatten()[index], reduction="none")
        total.index_add_(0, index // length, told.double() / t[index // length])
    return total / levels


def bits(model: PrismModel, task: TextTask, tokens: Tensor) -> np.ndarray:
    """Bits a character of each text."""
    told = torch.cat([nats(model, part) for part in tokens.split(64)])
    characters = torch.tensor([len(task.render(row)) for row in tokens])
    return (told / math.log(2) / characters).numpy()


def main(argv: Sequence[str] | None = None) -> int:
    """Compare models."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="the first is what the others are compared with")
    parser.add_argument("--corpus", help="held-out texts of a corpus")
    parser.add_argument("--texts", type=int, default=512)
    options = parser.parse_args(argv)
    if options.corpus and not Path(options.corpus).exists():
        parser.error(f"--corpus {options.corpus}: no such file; python -m benchmarks.corpora writes one.")
    try:
        models = {name: PrismModel.from_pretrained(name) for name in options.models}
    except PrismError as error:
        print(f"backbone.py: {error}")
        return 2
    task = get_task(next(iter(models.values())).task)
    assert isinstance(task, TextTask), "of code or prose"
    sets = {"the task's held-out texts": task.texts(0, options.texts, HELD_OUT)}
    if options.corpus:
        sets["the corpus's held-out texts"] = texts(Path(options.corpus), options.texts)
    for called, tokens in sets.items():
        first = None
        for name, model in models.items():
            found = bits(model, task, tokens)
            low, high = bootstrap(found)
            line = f"{called}, {len(tokens)}: {Path(name).name}: {found.mean():.3f} bits a character"
            line += f" ({low:.3f}, {high:.3f})"
            if first is not None:
                low, high = bootstrap(found - first)
                line += f", {(found - first).mean():+.3f} ({low:+.3f}, {high:+.3f}) against {options.models[0]}"
            first = found if first is None else first
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
