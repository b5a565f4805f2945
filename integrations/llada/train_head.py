"""Put a quality head on the tiny LLaDA of ``train_tiny``, and LoRA under it (minutes on one core).

    python -m prism_plugin.integrations.llada.train_head model=FOLDER out=HEAD [train.steps=800] [quality.fills=stale]

The settings are those of ``prism train quality``, which trains a LLaDA of any size on one's own texts. Here the texts
are the toy's, and training runs on a copy of the model that holds the rows of the vocabulary in use, as the tiny model
was made: what is trained does not depend on the vocabulary, and a CPU is many times quicker on 263 symbols than on
126,464.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from prism_plugin.config import Config, load
from prism_plugin.errors import ConfigError, PrismError
from prism_plugin.models.denoiser import Output
from prism_plugin.models.remote import load as load_model
from prism_plugin.models.remote import read_config
from prism_plugin.quality.head import save_head
from prism_plugin.training.data import collate
from prism_plugin.training.objectives import QualityObjective
from prism_plugin.training.train import fit, prepare

from .adapter import MASK, LLaDADenoiser
from .toy import TASKS, USED_IDS, VOCAB_SIZE, examples

UNUSED = 256
"""An id that no text holds: its row stands for all others."""

DEFAULTS = (
    "train.steps=800", "train.batch_size=64", "train.lr=2e-3", "train.warmup=50", "train.eval_texts=512",
    "quality.k=3", "quality.mdm_weight=1", "lora.r=64", "lora.dropout=0",
)  # fmt: skip


class UsedRows(LLaDADenoiser):
    """The model with the rows of the vocabulary in use; the last one counts for all that were left out."""

    def project(self, output: Output, index: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Denoiser.project``."""
        logits, rows = super().project(output, index)
        others = logits[:, -1:] + math.log(VOCAB_SIZE - len(USED_IDS))
        return torch.cat([logits[:, :-1], others], dim=1), rows


def with_used_rows(folder: Path) -> nn.Module:
    """A copy of a checkpoint of ``train_tiny`` cut to the rows in use."""
    from transformers import AutoModel

    weights = load_model(folder, trust_remote_code=True, dtype=torch.float32).state_dict()
    for name in ("model.transformer.wte.weight", "model.transformer.ff_out.weight"):
        weights[name] = weights[name][[*USED_IDS, UNUSED]]
    config = read_config(folder)
    config.vocab_size = config.embedding_size = len(USED_IDS) + 1
    small = AutoModel.from_config(config, trust_remote_code=True).float()
    small.load_state_dict(weights)
    return small


class Toy:
    """The toy's prompts and answers without end, in the ids of the rows in use; see ``training.data.Source``."""

    learned = 8

    def __init__(self) -> None:
        self.small = torch.full((VOCAB_SIZE,), len(USED_IDS))
        self.small[USED_IDS] = torch.arange(len(USED_IDS))

    def batch(self, first: int, count: int, stream: int) -> dict[str, Tensor]:
        """Texts ``first`` to ``first + count - 1``, the tasks in turn."""
        rows = []
        for number in range(first, first + count):
            generator = torch.Generator().manual_seed(2 * number + stream)
            prompt, _, answer = examples(1, generator, (TASKS[number % len(TASKS)],))
            tokens = self.small[torch.cat([prompt, answer], dim=1)]
            maskable = torch.arange(tokens.shape[1])[None] >= prompt.shape[1]
            padding = torch.ones_like(maskable)
            rows.append({"tokens": tokens, "number": torch.tensor([number]), "maskable": maskable, "padding": padding})
        return collate(rows)


def train_head(settings: Sequence[str]) -> Path:
    """Train in the manner of ``prism train quality`` and return the folder of head and LoRA."""
    config: Config = load([*DEFAULTS, *settings])
    if not config.model or not config.out:
        raise ConfigError("model and out are both needed: a folder of train_tiny, and the folder to write.")
    torch.manual_seed(config.train.seed)
    denoiser = UsedRows(with_used_rows(Path(config.model)), USED_IDS.index(MASK))
    tune = config.train.tune or "lora"
    adapter = prepare(denoiser, tune, config)

    def save(folder: Path) -> None:
        denoiser.vocab_size, denoiser.mask_id = VOCAB_SIZE, MASK  # what the head will be used with
        if adapter is not None:
            adapter.save_pretrained(folder, save_embedding_layers=False)
        save_head(denoiser, folder)

    return fit("quality", QualityObjective(denoiser, config.train.seed, config.quality), Toy(), config, save)


def main() -> None:
    """Run from the command line: one line and exit code 2 where a setting is wrong."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        logging.info("written: %s", train_head(sys.argv[1:]))
    except PrismError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
