"""Train a quality head on a host's own checkpoint, data and tokenizer, the host's weights frozen.

    cd mdlm
    python -m prism_plugin.integrations.mdlm.train out=heads/owt train.steps=2000 quality.k=8 -- \\
        data=openwebtext-split eval.checkpoint_path=/path/to/mdlm.ckpt

Ours stands before ``--`` (the keys of ``prism train quality``), the host's command line behind it.
"""

import itertools
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import Tensor
from torch.utils.data import Dataset

from prism_plugin.config import Config, load
from prism_plugin.errors import ConfigError, DataError, PrismError
from prism_plugin.quality.head import attach_head, save_head
from prism_plugin.tasks import HELD_OUT, TRAIN
from prism_plugin.training.objectives import QualityObjective
from prism_plugin.training.train import fit

from . import is_host
from .adapter import MDLMDenoiser


class HostTexts:
    """The host's wrapped, tokenized texts, in random order; see ``prism_plugin.tasks.Task.texts``."""

    def __init__(self, train: Dataset, held_out: Dataset) -> None:
        if not len(train) or not len(held_out):  # type: ignore[arg-type]
            raise DataError("the host's data is empty: its training or validation loader holds no text.")
        shuffle = torch.Generator().manual_seed(0)
        self.streams = {
            stream: (texts, torch.randperm(len(texts), generator=shuffle))  # type: ignore[arg-type]
            for stream, texts in ((TRAIN, train), (HELD_OUT, held_out))
        }

    def texts(self, first: int, count: int, stream: int) -> Tensor:
        """Texts ``first`` to ``first + count - 1``, (count, L) int64; past the end they begin again."""
        texts, order = self.streams[stream]
        chosen = order[torch.arange(first, first + count) % len(order)].tolist()
        return torch.stack([torch.as_tensor(texts[n]["input_ids"]) for n in chosen])


def train_quality(ours: Sequence[str], host: Sequence[str], checkout: str | Path = ".") -> Path:
    """Train a head in the manner of ``prism train quality`` and return its folder.

    ours: overrides of ``prism_plugin.config.Config``; host: overrides of the host's Hydra configuration.
    Raises ConfigError, before a step is made, for settings that cannot be used, naming both sides of a clash.
    """
    config: Config = load(["train.tune=head", *ours])
    if config.train.tune != "head":
        raise ConfigError(f"train.tune = {config.train.tune}: this host's weights are kept, the head alone is trained.")
    if not config.out:
        raise ConfigError("out is not set: name the folder to write the head to, as in out=heads/owt.")
    model, texts = load_host(Path(checkout).resolve(), host)
    model.requires_grad_(False)
    attach_head(model, config.head)
    objective = QualityObjective(model, config.train.seed, config.quality)
    return fit("quality", objective, texts, config, lambda folder: save_head(model, folder))


def load_host(checkout: Path, overrides: Sequence[str]) -> tuple[MDLMDenoiser, Any]:
    """The host's model with the weights that its own sampler uses (EMA unless eval.disable_ema), and its data."""
    sys.path.insert(0, str(checkout))
    import dataloader
    import diffusion
    import main as program

    if not is_host(diffusion):
        raise ConfigError(f"{checkout}: its diffusion.py is neither MDLM's nor ReMDM's.")
    with initialize_config_dir(str(checkout / "configs"), version_base=None):
        config: DictConfig = compose("config", list(overrides))
    if not config.data.wrap:
        raise ConfigError("data.wrap=False pads texts and padding would be trained on: use data with wrap=True.")
    tokenizer = dataloader.get_tokenizer(config)
    host = program._load_from_checkpoint(config, tokenizer)
    if host.ema and not config.eval.disable_ema:
        host.ema.copy_to(itertools.chain(host.backbone.parameters(), host.noise.parameters()))
    train, held_out = dataloader.get_dataloaders(config, tokenizer)
    return MDLMDenoiser(host.eval()), HostTexts(train.dataset, held_out.dataset)


def main() -> None:
    """Run from the command line: one line and exit code 2 where a setting is wrong."""
    ours, host = sys.argv[1:], []
    if "--" in ours:
        ours, host = ours[: ours.index("--")], ours[ours.index("--") + 1 :]
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        logging.info("head written to %s", train_quality(ours, host, os.getcwd()))
    except PrismError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
