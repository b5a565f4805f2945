"""Make a tiny LLaDA on the host's real modeling code that has learned something (ten minutes on two cores).

    python -m prism_plugin.integrations.llada.train_tiny --checkout DLLM --out FOLDER [--steps 1500]

DLLM is a checkout of ZHZisZZ/dllm, whose modeling code honours the attention mask. Its two files are copied into FOLDER
with the initial device set to cpu, so that FOLDER is an ordinary remote-code checkpoint for ``AutoModel``. Training has
the 262 rows of the vocabulary in use and one row that stands for the 126,202 others (its logit counts that often), then
the rows are scattered into the full vocabulary: the probabilities stay what they were.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import shutil
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from prism_plugin.models.remote import read_config

from .toy import ANSWER_LENGTH, EOS, MASK, USED_IDS, VOCAB_SIZE, examples

logger = logging.getLogger(__name__)

MODELING = Path("dllm/pipelines/llada/models")
SIZE = {"d_model": 128, "n_heads": 4, "n_layers": 3, "mlp_hidden_size": 384}


def remote_code(checkout: Path, out: Path, vocab_size: int, weight_tying: bool = False) -> None:
    """Write the modeling code of the host and a config of the tiny model with ``vocab_size`` rows into ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    shutil.copy(checkout / MODELING / "configuration_llada.py", out)
    code = (checkout / MODELING / "modeling_llada.py").read_text()
    (out / "modeling_llada.py").write_text(code.replace('init_device = "cuda"', 'init_device = "cpu"'))
    config = {
        **SIZE,
        "architectures": ["LLaDAModelLM"],
        "auto_map": {"AutoConfig": "configuration_llada.LLaDAConfig", "AutoModel": "modeling_llada.LLaDAModelLM"},
        "model_type": "llada",
        "activation_type": "silu",
        "block_type": "llama",
        "layer_norm_type": "rms",
        "attention_dropout": 0.0,
        "residual_dropout": 0.0,
        "embedding_dropout": 0.0,
        "rope": True,
        "include_bias": False,
        "weight_tying": weight_tying,
        "vocab_size": vocab_size,
        "embedding_size": vocab_size,
        "max_sequence_length": 64,
        "mask_token_id": MASK,
        "eos_token_id": EOS,
        "pad_token_id": EOS,
    }
    (out / "config.json").write_text(json.dumps(config, indent=1))


def masked_loss(model: torch.nn.Module, batch: tuple[Tensor, Tensor, Tensor], generator: torch.Generator) -> Tensor:
    """LLaDA's supervised loss: mask each answer token with probability t, cross-entropy over t (rows are small ids)."""
    prompt, attended, answer = batch
    t = torch.linspace(0.02, 1, len(answer))[torch.randperm(len(answer), generator=generator), None]
    masked = torch.rand(answer.shape, generator=generator) < t
    tokens = torch.cat([prompt, answer.masked_fill(masked, USED_IDS.index(MASK))], dim=1)
    logits = model(tokens, attention_mask=F.pad(attended, (0, ANSWER_LENGTH), value=1)).logits[:, -ANSWER_LENGTH:]
    logits = torch.cat([logits[..., :-1], logits[..., -1:] + math.log(VOCAB_SIZE - len(USED_IDS))], dim=-1)
    nll = F.cross_entropy(logits.transpose(1, 2), answer, reduction="none")
    return (nll * masked / t).mean()


def train(checkout: Path, out: Path, steps: int, seed: int = 0, batch_size: int = 128) -> None:
    """Train for ``steps`` and write the checkpoint with the full vocabulary into ``out``."""
    from transformers import AutoModel

    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    small = torch.full((VOCAB_SIZE,), len(USED_IDS))
    small[USED_IDS] = torch.arange(len(USED_IDS))

    remote_code(checkout, out / "small", len(USED_IDS) + 1)
    model = AutoModel.from_config(read_config(out / "small"), trust_remote_code=True).float()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.03)
        else:
            torch.nn.init.ones_(parameter)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.98), weight_decay=0.01)

    begin = time.monotonic()
    for step in range(1, steps + 1):
        optimizer.param_groups[0]["lr"] = 2e-3 * min(step / 200, 0.5 + 0.5 * math.cos(math.pi * step / steps))
        prompt, attended, answer = examples(batch_size, generator)
        loss = masked_loss(model, (small[prompt], attended, small[answer]), generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0:
            logger.info("step %d, %.0f s, loss %.4f", step, time.monotonic() - begin, loss.item())

    remote_code(checkout, out, VOCAB_SIZE)
    full = AutoModel.from_config(read_config(out), trust_remote_code=True)
    weights = model.state_dict()
    for name in ("model.transformer.wte.weight", "model.transformer.ff_out.weight"):
        weights[name] = weights[name][small]
    full.load_state_dict(weights)
    full.to(torch.float32).save_pretrained(out)
    remote_code(checkout, out, VOCAB_SIZE)  # save_pretrained adds what newer versions would read differently
    shutil.rmtree(out / "small")
    logger.info("%d steps in %.0f s, seed %d, written", steps, time.monotonic() - begin, seed)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Train a tiny LLaDA on copy, reverse and sort, on the host's real code."
    )
    parser.add_argument("--checkout", type=Path, required=True, help="a checkout of ZHZisZZ/dllm")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train(args.checkout, args.out, args.steps, args.seed)


if __name__ == "__main__":
    main()
