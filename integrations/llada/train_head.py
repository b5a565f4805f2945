"""Put a quality head on the tiny LLaDA of ``train_tiny``, and LoRA under it, by the PRISM loss (minutes on one core).

    python -m prism_plugin.integrations.llada.train_head --model FOLDER --out HEAD [--steps 800] [--fills stale|fresh]

As in the release for LLaDA: a head on the states after ``ln_f``, LoRA on the q, k and v projections (a frozen model's
states say little about a visible token), both losses through both passes. Training runs on a copy of the model that
holds the rows of the vocabulary in use; what is trained does not depend on the vocabulary. HEAD then holds
head.safetensors and the LoRA as peft saves it.
"""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prism_plugin.denoiser import Output
from prism_plugin.files import output_folder
from prism_plugin.quality.calibration import report
from prism_plugin.quality.head import attach_head, save_head
from prism_plugin.quality.loss import QualityConfig
from prism_plugin.training.objectives import QualityObjective

from .adapter import MASK, LLaDADenoiser
from .load import load, read_config
from .toy import TASKS, USED_IDS, VOCAB_SIZE, examples

logger = logging.getLogger(__name__)

UNUSED = 256
"""An id that no text holds: its row stands for all others."""


class UsedRows(LLaDADenoiser):
    """The model with the rows of the vocabulary in use; the last one counts for all that were left out."""

    def project(self, output: Output, index: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Denoiser.project``."""
        logits, rows = super().project(output, index)
        others = logits[:, -1:] + math.log(VOCAB_SIZE - len(USED_IDS))
        return torch.cat([logits[:, :-1], others], dim=1), rows


def with_used_rows(folder: Path, rank: int) -> tuple[UsedRows, Any]:
    """A copy of a checkpoint of ``train_tiny`` cut to the rows in use, and the fresh LoRA on its q, k and v."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel

    weights = load(folder, trust_remote_code=True, dtype=torch.float32).state_dict()
    for name in ("model.transformer.wte.weight", "model.transformer.ff_out.weight"):
        weights[name] = weights[name][[*USED_IDS, UNUSED]]
    config = read_config(folder)
    config.vocab_size = config.embedding_size = len(USED_IDS) + 1
    small = AutoModel.from_config(config, trust_remote_code=True).float()
    small.load_state_dict(weights)
    lora = LoraConfig(r=rank, lora_alpha=rank, target_modules=["q_proj", "k_proj", "v_proj"])
    adapted = get_peft_model(small, lora)
    return UsedRows(adapted, USED_IDS.index(MASK)), adapted


def batches(size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (tokens (size, L), maskable (size, L)), ids cut to the rows in use; one task a batch, so no padding."""
    small = torch.full((VOCAB_SIZE,), len(USED_IDS))
    small[USED_IDS] = torch.arange(len(USED_IDS))
    generator = torch.Generator().manual_seed(seed)
    while True:
        task = TASKS[int(torch.randint(len(TASKS), (), generator=generator))]
        prompt, _, answer = examples(size, generator, (task,))
        tokens = small[torch.cat([prompt, answer], dim=1)]
        yield tokens, (torch.arange(tokens.shape[1]) >= prompt.shape[1]).expand_as(tokens)


def train_head(denoiser: UsedRows, config: QualityConfig, steps: int, batch_size: int = 64, seed: int = 0) -> None:
    """Train a fresh head and the LoRA; logs the calibration on held-out answers at the end."""
    torch.manual_seed(seed)
    attach_head(denoiser, "mlp")
    objective = QualityObjective(denoiser, seed, config).train()
    trained = [p for p in objective.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-3, weight_decay=0.0)
    texts = batches(batch_size, seed + 1)
    for step in range(1, steps + 1):
        number = torch.arange((step - 1) * batch_size, step * batch_size)
        tokens, maskable = next(texts)
        terms = objective(tokens, number, maskable)
        optimizer.param_groups[0]["lr"] = 2e-3 * min(step / 50, 1 - (step - 1) / steps)
        optimizer.zero_grad()
        terms["loss"].backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        if step % 50 == 0:
            logger.info("step %d, %s", step, ", ".join(f"{k} {float(v):.4f}" for k, v in terms.items()))
    objective.eval()
    held_out = batches(batch_size, seed + 2)
    with torch.no_grad():
        judged = [objective(t, torch.arange(batch_size), m) for t, m in (next(held_out) for _ in range(16))]
    found = report(torch.cat([j["scores"] for j in judged]), torch.cat([j["labels"] for j in judged]))
    logger.info("held out: %s", ", ".join(f"{k} {v:.4f}" for k, v in found.items()))
    denoiser.trained = {**asdict(config), "seed": seed, "steps": steps, "batch_size": batch_size}


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a PRISM quality head and LoRA on the tiny LLaDA.")
    parser.add_argument("--model", type=Path, required=True, help="a folder written by train_tiny")
    parser.add_argument("--out", type=Path, required=True, help="folder for the head and the LoRA")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--fills", choices=("stale", "fresh"), default="stale")
    parser.add_argument("--k", type=int, default=3, help="tokens filled and judged in one answer")
    parser.add_argument("--rank", type=int, default=64, help="of the LoRA")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    output_folder(args.out)
    torch.manual_seed(args.seed)
    denoiser, lora = with_used_rows(args.model, args.rank)
    train_head(denoiser, QualityConfig(fills=args.fills, k=args.k, mdm_weight=1.0), args.steps, seed=args.seed)
    denoiser.vocab_size, denoiser.mask_id = VOCAB_SIZE, MASK  # what the head will be used with
    save_head(denoiser, args.out)
    lora.save_pretrained(args.out, save_embedding_layers=False)


if __name__ == "__main__":
    main()
