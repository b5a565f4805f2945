"""Put a quality head on the tiny LLaDA of ``train_tiny`` by the PRISM loss, its backbone frozen (minutes on one core).

    python -m prism_plugin.integrations.llada.train_head --model FOLDER --out HEAD [--steps 600] [--fills stale|fresh]

HEAD is then a folder with prism_config.json and head.safetensors for ``enable(model, head=HEAD)``.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from prism_plugin.denoiser import View
from prism_plugin.files import output_folder
from prism_plugin.quality.head import attach_head, save_head
from prism_plugin.quality.loss import QualityConfig, draw_sample, quality_loss, reveal

from .adapter import LLaDADenoiser
from .load import load
from .toy import ANSWER_LENGTH, examples

logger = logging.getLogger(__name__)


@torch.no_grad()
def judged(
    denoiser: LLaDADenoiser, batch: tuple[Tensor, Tensor, Tensor], number: Tensor, seed: int, config: QualityConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Answers as the head sees them: hidden (B, 8, D), y (B, 8) int64, and what of it was filled, (B, 8) bool."""
    prompt, attended, answer = batch
    padding = nn.functional.pad(attended, (0, ANSWER_LENGTH), value=1).bool()
    sample = draw_sample(answer, number, denoiser.mask_id, seed, config)
    filled = sample.chosen.flatten().nonzero().squeeze(1)
    row, position = filled // ANSWER_LENGTH, filled % ANSWER_LENGTH
    output = denoiser(torch.cat([prompt, sample.context], dim=1), padding)
    drawn = View(denoiser, output).sample(
        row * padding.shape[1] + prompt.shape[1] + position, number[row], position, torch.zeros_like(row),
        seed=seed, temperature=config.temperature, top_p=config.top_p,
    )  # fmt: skip
    y = reveal(sample, answer, filled, drawn.token, denoiser.mask_id)
    hidden = denoiser(torch.cat([prompt, y], dim=1), padding).hidden
    return hidden[:, -ANSWER_LENGTH:], y, sample.chosen


def train_head(
    denoiser: LLaDADenoiser, config: QualityConfig, *, steps: int, batch_size: int = 64, seed: int = 0
) -> None:
    """Train a fresh head on the states after ``ln_f``; the model itself does not change."""
    torch.manual_seed(seed)
    denoiser.requires_grad_(False)
    head = attach_head(denoiser, "mlp")
    optimizer = torch.optim.AdamW(head.parameters(), lr=2e-3, weight_decay=0.0)
    generator = torch.Generator().manual_seed(seed + 1)
    for step in range(steps):
        batch = examples(batch_size, generator)
        number = torch.arange(step * batch_size, (step + 1) * batch_size)
        hidden, y, chosen = judged(denoiser, batch, number, seed, config)
        optimizer.param_groups[0]["lr"] = 2e-3 * (1 - step / steps)
        loss = quality_loss(head(hidden), y, batch[2], chosen)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % 50 == 0:
            wrong = (y != batch[2])[chosen].float().mean()
            logger.info("step %d, loss %.4f, wrong fills %.3f", step + 1, loss.item(), wrong.item())
    denoiser.trained = {**asdict(config), "seed": seed, "steps": steps, "batch_size": batch_size}


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a PRISM quality head on the tiny LLaDA.")
    parser.add_argument("--model", type=Path, required=True, help="a folder written by train_tiny")
    parser.add_argument("--out", type=Path, required=True, help="folder for the head")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--fills", choices=("stale", "fresh"), default="stale")
    parser.add_argument("--k", type=int, default=3, help="tokens filled and judged in one answer")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    output_folder(args.out)
    config = QualityConfig(fills=args.fills, k=args.k, tune_backbone=False)
    denoiser = LLaDADenoiser(load(args.model, trust_remote_code=True, dtype=torch.float32))
    train_head(denoiser, config, steps=args.steps, seed=args.seed)
    save_head(denoiser, args.out)


if __name__ == "__main__":
    main()
