"""``prism train``: one run of the HF Trainer over numbered texts, and the folder that it leaves behind."""

import csv
import json
import logging
import platform
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import torch
import transformers
from torch import Tensor, nn
from torch.utils.data import Dataset

from ..backbone import BackboneConfig
from ..config import Config
from ..errors import ConfigError, PrismError
from ..files import output_folder, write_atomic
from ..model import PrismModel
from ..quality.calibration import report
from ..quality.head import attach_head
from ..tasks import HELD_OUT, TRAIN, Task, get_task
from .objectives import MDMObjective, QualityObjective

log = logging.getLogger(__name__)


class Texts(Dataset):
    """The first ``size`` texts of a task's training stream, each with its number."""

    def __init__(self, task: Task, size: int) -> None:
        self.task, self.size = task, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        return {"tokens": self.task.texts(number, 1, TRAIN)[0], "number": torch.tensor(number)}


class Watch(transformers.TrainerCallback):
    """Averages weights (EMA), judges them on held-out texts, stops at NaN, and writes ``training_log.csv``."""

    def __init__(self, objective: nn.Module, task: Task, config: Config, folder: Path) -> None:
        self.objective, self.task, self.config, self.folder = objective, task, config, folder
        self.average = {n: p.detach().clone() for n, p in objective.named_parameters() if p.requires_grad}
        self.started, self.rows = time.monotonic(), []

    def on_step_end(self, args, state, control, **kwargs) -> None:  # noqa: D102, ANN001, ANN003
        decay = min(self.config.train.ema, (1 + state.global_step) / (10 + state.global_step))
        parameters = dict(self.objective.named_parameters())
        with torch.no_grad():
            for name, average in self.average.items():
                average.lerp_(parameters[name], 1 - decay)
        every = self.config.train.eval_every
        if state.global_step == state.max_steps or (every and state.global_step % every == 0):
            self.judge(state.global_step)

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:  # noqa: D102, ANN001, ANN003
        if logs and "loss" in logs and not torch.isfinite(torch.tensor(float(logs["loss"]))):
            raise PrismError(f"the loss is not finite at step {state.global_step}: lower train.lr (now {self.config.train.lr}).")

    def judge(self, step: int) -> None:
        """Evaluate the averaged weights on held-out texts and add a row to the log."""
        texts = self.config.train.eval_texts
        kept = {n: p.detach().clone() for n, p in self.objective.named_parameters()}
        self.load_average()
        self.objective.eval()
        found = evaluate(self.objective, self.task, texts, self.config.train.batch_size)
        self.objective.train()
        with torch.no_grad():
            for name, parameter in self.objective.named_parameters():
                parameter.copy_(kept[name])
        self.rows.append({"step": step, "seconds": round(time.monotonic() - self.started), **found})
        log.info("step %d: %s", step, ", ".join(f"{k} {v:.4f}" for k, v in found.items()))
        with write_atomic(self.folder / "training_log.csv") as path, path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(self.rows[-1]))
            writer.writeheader()
            writer.writerows(self.rows)

    def load_average(self) -> None:
        """Put the averaged weights into the model."""
        with torch.no_grad():
            for name, parameter in self.objective.named_parameters():
                if name in self.average:
                    parameter.copy_(self.average[name])


@torch.no_grad()
def evaluate(objective: nn.Module, task: Task, count: int, batch_size: int) -> dict[str, float]:
    """Terms of the loss and, for a head, its calibration, over the first ``count`` held-out texts."""
    terms: dict[str, list[float]] = {}
    judged = []
    for first in range(0, count, batch_size):
        number = torch.arange(first, min(first + batch_size, count))
        out = objective(task.texts(first, len(number), HELD_OUT), number)
        if "scores" in out:
            judged.append((out.pop("scores"), out.pop("labels")))
        for name, value in out.items():
            terms.setdefault(name, []).append(float(value))
    means = {name: sum(values) / len(values) for name, values in terms.items()}
    if judged:
        means |= report(*(torch.cat(parts) for parts in zip(*judged, strict=True)))
    return means


def train(kind: str, config: Config) -> Path:
    """Train ``mdm`` (a model from scratch) or ``quality`` (a head on ``config.model``); return the folder written.

    Raises ConfigError before any work where a setting cannot be used.
    """
    if not config.out:
        raise ConfigError("out is not set: name the folder to write, as in out=runs/sudoku.")
    task = get_task(config.task)
    torch.manual_seed(config.train.seed)
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    if kind == "mdm":
        size = vars(config.backbone)
        model = PrismModel(BackboneConfig(task.vocab_size, task.mask_id, task.length, task.grid, **size), task.name)
        objective: MDMObjective | QualityObjective = MDMObjective(model, config.train.seed)
    else:
        if not config.model:
            raise ConfigError("model is not set: name the folder or embedded model to put a head on, as in model=sudoku.")
        model = PrismModel.from_pretrained(config.model)
        attach_head(model, config.head)
        objective = QualityObjective(model, config.train.seed, config.quality)
    return fit(kind, objective, task, config, model.save_pretrained)


def fit(
    kind: str, objective: MDMObjective | QualityObjective, task: Task, config: Config, save: Callable[[Path], None]
) -> Path:
    """Run the trainer on an objective, around our model or a host's; ``save(folder)`` writes what was trained."""
    folder = output_folder(config.out)
    watch = Watch(objective, task, config, folder)
    torch.set_flush_denormal(True)  # gradients of a converged softmax are denormal, and a CPU is ten times slower on them
    trainer = transformers.Trainer(
        objective, _arguments(config, folder), train_dataset=Texts(task, config.train.steps * config.train.batch_size),
        callbacks=[watch],
    )  # fmt: skip
    started = time.monotonic()
    objective.train()
    trainer.train(resume_from_checkpoint=config.train.resume or None)
    watch.load_average()
    if isinstance(objective, QualityObjective):
        objective.denoiser.trained = {**vars(config.quality), "seed": config.train.seed}
    save(folder)
    _describe(folder, kind, config, time.monotonic() - started, watch.rows[-1] if watch.rows else {})
    return folder


def _arguments(config: Config, folder: Path) -> transformers.TrainingArguments:
    settings = config.train
    return transformers.TrainingArguments(
        output_dir=str(folder / "checkpoints"),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.lr,
        warmup_steps=settings.warmup,
        lr_scheduler_type="cosine",
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.clip,
        adam_beta2=0.98,
        seed=settings.seed,
        bf16=settings.bf16,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="steps" if settings.save_every else "no",
        save_steps=settings.save_every or 1,
        save_total_limit=1,
        logging_steps=50,
        report_to=[],
        remove_unused_columns=False,
        label_names=[],
        dataloader_pin_memory=False,
    )


def _describe(folder: Path, kind: str, config: Config, seconds: float, last: dict) -> None:
    """Write ``training_<kind>.json``: the exact command, seed, date, versions, machine and last figures."""
    described = {
        "command": "prism " + " ".join(sys.argv[1:]),
        "seed": config.train.seed,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "minutes": round(seconds / 60, 1),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} thread(s), not run on a GPU"
        if not torch.cuda.is_available()
        else torch.cuda.get_device_name(),
        "versions": {name: version(name) for name in ("torch", "transformers")},
        "last": last,
    }
    with write_atomic(folder / f"training_{kind}.json") as path:
        path.write_text(json.dumps(described, indent=2) + "\n")
