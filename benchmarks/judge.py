"""Train the judge of texts that is no count of n-grams: a small causal transformer on texts of its own.

    python -m benchmarks.corpora code --out build/corpora/code
    python -m benchmarks.judge code --corpus build/corpora/code --out prism_plugin/assets/judges/code

It learns the judge's part of a corpus (benchmarks/corpora.py), which neither the models under test nor what is held out
share a file or a function with, and is measured on held-out texts beside the 5-gram model, in bits a character: in
``training.json``, with the command and the curve. A run that was killed goes on from its last 200 steps. In the folder
above `prism compare metric=judge-causal` finds it.
"""

import argparse
import json
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset, SequentialSampler
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from benchmarks.corpora import texts
from prism_plugin.evaluation.judge import Causal, Judge, Reader
from prism_plugin.evaluation.rivals import bootstrap
from prism_plugin.files import output_folder, save_json
from prism_plugin.models.precision import in_halves, precision_in_words
from prism_plugin.tasks import HELD_OUT, get_task
from prism_plugin.tasks.text import TextTask


class Windows(Dataset):
    """Texts of the judge's part in order, round and round, each behind the mask, which stands for a beginning."""

    def __init__(self, tokens: torch.Tensor, mask_id: int, size: int) -> None:
        self.rows, self.size = torch.nn.functional.pad(tokens, (1, 0), value=mask_id), size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        row = self.rows[number % len(self.rows)]
        return {"input_ids": row, "labels": row}


class InOrder(Trainer):
    """The texts are in random order already."""

    def _get_train_sampler(self, *args) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


def told(judge: Reader, task: TextTask, shown: Sequence[str]) -> dict[str, float]:
    """Bits a character with a 95% interval over texts."""
    found = np.array([judge.bits(task, text) for text in shown])
    low, high = bootstrap(found)
    return {"bits": round(float(found.mean()), 4), "low": round(low, 4), "high": round(high, 4)}


def main(argv: Sequence[str] | None = None) -> int:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=["code", "prose"])
    parser.add_argument("--corpus", required=True, type=Path, help="folder that benchmarks.corpora wrote")
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--work", default="build/judge", help="folder of the run's checkpoints (build/judge)")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    if not (options.corpus / "about.json").exists():
        parser.error(f"--corpus {options.corpus}: no corpus is there; python -m benchmarks.corpora writes one.")
    given = sys.argv[1:] if argv is None else argv
    torch.manual_seed(options.seed)
    task, out = get_task(options.name), output_folder(options.out)
    work = output_folder(Path(options.work) / options.name)
    assert isinstance(task, TextTask)
    tokens = texts(options.corpus / "judge.jsonl")
    config = LlamaConfig(
        vocab_size=task.vocab_size, hidden_size=128, intermediate_size=352, num_hidden_layers=6, num_attention_heads=4,
        max_position_embeddings=256, tie_word_embeddings=True, bos_token_id=task.mask_id, eos_token_id=None,
    )  # fmt: skip
    model, started, halves = LlamaForCausalLM(config), time.monotonic(), in_halves("auto")
    arguments = TrainingArguments(
        str(work), max_steps=options.steps, per_device_train_batch_size=64, learning_rate=3e-3, warmup_steps=50,
        lr_scheduler_type="cosine", weight_decay=0.01, max_grad_norm=1.0, adam_beta2=0.98, seed=options.seed,
        logging_steps=50, save_steps=200, save_total_limit=1, report_to=[], use_cpu=True, bf16=halves,
    )  # fmt: skip
    trainer = InOrder(model, arguments, train_dataset=Windows(tokens, task.mask_id, options.steps * 64))
    trainer.train(resume_from_checkpoint=any(work.glob("checkpoint-*")) or None)
    model.eval().to(torch.bfloat16).save_pretrained(out)
    held_out = {
        "packages": texts(options.corpus / "held_out.jsonl", 256),
        "standard library": task.texts(0, 256, HELD_OUT),
    }
    judges: list[Reader] = [Causal(out, task.mask_id), Judge.of(task)]
    measured = {
        where: {judge.name: told(judge, task, [task.render(row) for row in rows]) for judge in judges}
        for where, rows in held_out.items()
    }
    made = json.loads((options.corpus / "about.json").read_text())["parts"]["judge"]
    save_json(out / "training.json", {
        "command": shlex.join(["python", "-m", "benchmarks.judge", *given]), "seed": options.seed,
        "minutes": round((time.monotonic() - started) / 60, 1),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} thread(s), not run on a GPU",
        "passes in": precision_in_words(halves),
        "versions": {name: version(name) for name in ("torch", "transformers")},
        "parameters": sum(p.numel() for p in model.parameters()),
        "corpus": made | {"read": options.steps * 64},
        "bits a character of held-out texts": measured,
        "log": [{k: row[k] for k in ("step", "loss")} for row in trainer.state.log_history if "loss" in row],
    })  # fmt: skip
    print(json.dumps(measured, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
