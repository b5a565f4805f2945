"""``prism train``: one run of the HF Trainer over numbered texts, and the folder that it leaves behind."""

import csv
import json
import logging
import math
import os
import platform
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import Dataset, SequentialSampler
from tqdm.contrib.logging import logging_redirect_tqdm

from ..backbone import BackboneConfig
from ..config import Config
from ..errors import ConfigError, DataError, PrismError
from ..files import output_folder, save_json, write_atomic
from ..model import PrismModel
from ..quality.calibration import report
from ..quality.head import attach_head
from ..tasks import HELD_OUT, TRAIN, Task, get_task
from .objectives import MDMObjective, QualityObjective

log = logging.getLogger(__name__)

WATCH = "watch.safetensors"


class Texts(Dataset):
    """The first ``size`` texts of a task's training stream, each with its number."""

    def __init__(self, task: Task, size: int) -> None:
        self.task, self.size = task, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        return {"tokens": self.task.texts(number, 1, TRAIN)[0], "number": torch.tensor(number)}


class Watch(transformers.TrainerCallback):
    """Averages weights (EMA), judges them on held-out texts, stops early, and writes ``training_log.csv``.

    Its own state is saved last into every checkpoint, whole or not at all: a checkpoint without it was cut off.
    """

    def __init__(self, objective: nn.Module, task: Task, config: Config, folder: Path, resumed: Path | None) -> None:
        self.objective, self.task, self.settings, self.folder, self.resumed = (
            objective,
            task,
            config.train,
            folder,
            resumed,
        )
        self.average: dict[str, Tensor] = {}
        self.rows: list[dict[str, float]] = []
        self.started = time.monotonic()

    def learned(self) -> dict[str, Tensor]:
        """The parameters that are trained, without their graph."""
        return {name: p.detach() for name, p in self.objective.named_parameters() if p.requires_grad}

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self.average = {name: p.clone() for name, p in self.learned().items()}
        if self.resumed:
            with safe_open(self.resumed / WATCH, framework="pt") as file:
                self.rows = json.loads(file.metadata()["rows"])
                for name, average in self.average.items():
                    average.copy_(file.get_tensor(name))
            self.started -= self.rows[-1]["seconds"] if self.rows else 0

    def on_save(self, args, state, control, **kwargs) -> None:
        if state.is_world_process_zero:
            with write_atomic(Path(args.output_dir) / f"checkpoint-{state.global_step}" / WATCH) as path:
                save_file(self.average, path, metadata={"rows": json.dumps(self.rows)})

    def on_step_end(self, args, state, control, **kwargs) -> None:
        decay = min(self.settings.ema, (1 + state.global_step) / (10 + state.global_step))
        for name, parameter in self.learned().items():
            self.average[name].lerp_(parameter, 1 - decay)
        every = self.settings.eval_every
        if state.global_step == state.max_steps or (every and state.global_step % every == 0):
            self.judge(state.global_step)
            if state.is_world_process_zero:
                self.write_log()
            control.should_training_stop |= self.overdue()

    def judge(self, step: int) -> None:
        """Evaluate the averaged weights on held-out texts and add a row to the log."""
        kept = {name: p.clone() for name, p in self.learned().items()}
        self.load(self.average)
        self.objective.eval()
        found = evaluate(self.objective, self.task, self.settings.eval_texts, self.settings.batch_size)
        self.objective.train()
        self.load(kept)
        self.rows.append({"step": step, "seconds": round(time.monotonic() - self.started), **found})
        log.info("step %d: %s", step, ", ".join(f"{k} {v:.4f}" for k, v in found.items()))
        if not math.isfinite(found["loss"]):
            raise PrismError(
                f"the held-out loss is not finite at step {step}: lower train.lr (now {self.settings.lr})."
            )

    def overdue(self) -> bool:
        """Whether ``patience`` evaluations have gone by since the best (Brier score of a head, loss of a model)."""
        values = [row.get("brier", row["loss"]) for row in self.rows]
        since = len(values) - 1 - values.index(min(values))
        return 0 < self.settings.patience <= since

    def write_log(self) -> None:
        """One line an evaluation."""
        with write_atomic(self.folder / "training_log.csv") as path, path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(self.rows[-1]))
            writer.writeheader()
            writer.writerows(self.rows)

    def load(self, weights: dict[str, Tensor]) -> None:
        """Put weights, the averaged ones say, into the model."""
        for name, parameter in self.learned().items():
            parameter.copy_(weights[name])


class Bar(transformers.trainer_callback.ProgressCallback):
    """The Trainer's progress bar, with the loss in it and not in lines of its own."""

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if self.training_bar is not None and logs and "loss" in logs:
            self.training_bar.set_postfix(loss=f"{float(logs['loss']):.4f}", refresh=False)


class Trainer(transformers.Trainer):
    """Stops at a loss that is not finite, and keeps the batch that made it."""

    def _get_train_sampler(self, *args: Any) -> SequentialSampler:
        """In order: the texts are random already, and neighbours share out noise levels evenly."""
        return SequentialSampler(self.train_dataset)  # type: ignore[arg-type]

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        loss: Any = super().compute_loss(model, inputs, *args, **kwargs)
        if not torch.isfinite(loss):
            kept = Path(str(self.args.output_dir)).with_name("not_finite.safetensors")
            with write_atomic(kept) as path:
                save_file({name: tensor.contiguous() for name, tensor in inputs.items()}, path)
            raise PrismError(
                f"the loss is not finite at step {self.state.global_step + 1}: lower train.lr "
                f"(now {self.args.learning_rate}). The batch is in {kept}."
            )
        return loss


@torch.no_grad()
def evaluate(objective: nn.Module, task: Task, count: int, batch_size: int) -> dict[str, float]:
    """Terms of the loss and, for a head, its calibration, over the first ``count`` held-out texts."""
    device = next(objective.parameters()).device
    sums: Counter[str] = Counter()
    judged = []
    for first in range(0, count, batch_size):
        number = torch.arange(first, min(first + batch_size, count), device=device)
        out = objective(task.texts(first, len(number), HELD_OUT).to(device), number)
        if "scores" in out:
            judged.append((out.pop("scores"), out.pop("labels")))
        sums.update({name: float(value) * len(number) for name, value in out.items()})
    means = {name: value / count for name, value in sums.items()}
    if judged:
        means |= report(*(torch.cat(parts) for parts in zip(*judged, strict=True)))
    return means


def train(kind: str, config: Config) -> Path:
    """Train ``mdm`` (a model from scratch) or ``quality`` (a head on ``config.model``); return the folder written.

    Raises ConfigError before any work where a setting cannot be used.
    """
    if not config.out:
        raise ConfigError("out is not set: name the folder to write, as in out=runs/sudoku.")
    torch.manual_seed(config.train.seed)
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    if kind == "mdm":
        task = get_task(config.task or "sudoku")
        shape = {name: getattr(task, name) for name in ("vocab_size", "mask_id", "length", "grid")}
        model = PrismModel(BackboneConfig(**shape, **vars(config.backbone)), task.name)
        objective: MDMObjective | QualityObjective = MDMObjective(model, config.train.seed)
    else:
        if not config.model:
            raise ConfigError(
                "model is not set: name the folder or embedded model to put a head on, as in model=sudoku."
            )
        model = PrismModel.from_pretrained(config.model)
        task = get_task(config.task or model.task)
        model.requires_grad_(config.train.tune != "head")
        attach_head(model, config.head)
        objective = QualityObjective(model, config.train.seed, config.quality)
    return fit(kind, objective, task, config, model.save_pretrained)


def fit(
    kind: str, objective: MDMObjective | QualityObjective, task: Task, config: Config, save: Callable[[Path], None]
) -> Path:
    """Run the trainer on an objective, around our model or a host's; ``save(folder)`` writes what was trained."""
    folder = output_folder(config.out)
    _check(objective, task, config)
    checkpoint = _interrupted(folder / "checkpoints", config.train.resume)
    watch = Watch(objective, task, config, folder, checkpoint)
    torch.set_flush_denormal(
        True
    )  # gradients of a converged softmax are denormal, and a CPU is ten times slower on them
    trainer = Trainer(
        objective, _arguments(config, folder), train_dataset=Texts(task, config.train.steps * config.train.batch_size),
        callbacks=[watch],
    )  # fmt: skip
    trainer.remove_callback(transformers.trainer_callback.ProgressCallback)
    trainer.add_callback(Bar())
    started = time.monotonic()
    objective.train()
    with logging_redirect_tqdm():
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    objective.eval()
    watch.load(watch.average)
    if isinstance(objective, QualityObjective):
        objective.denoiser.trained = {**vars(config.quality), "tune": config.train.tune, "seed": config.train.seed}
    if trainer.is_world_process_zero():
        save(folder)
        _describe(folder, kind, config, time.monotonic() - started, watch.rows[-1])
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return folder


def _check(objective: MDMObjective | QualityObjective, task: Task, config: Config) -> None:
    """Raises ConfigError or DataError, before a step is made, where the first text cannot be trained on."""
    model, text = objective.denoiser, task.texts(0, 1, TRAIN)
    if text.numel() == 0:
        raise DataError("the data set is empty: there is no text to train on.")
    if text.shape[1] > model.max_length:
        raise DataError(f"a text of {text.shape[1]} tokens is longer than the model's {model.max_length}.")
    if not 0 <= int(text.min()) <= int(text.max()) < model.vocab_size:
        raise DataError(
            f"tokens {int(text.min())} to {int(text.max())} came: the model knows 0 to {model.vocab_size - 1}."
        )
    if isinstance(objective, QualityObjective) and config.quality.k > text.shape[1]:
        raise ConfigError(f"quality.k = {config.quality.k} is more than the {text.shape[1]} positions of a text.")


def _interrupted(folder: Path, resume: bool) -> Path | None:
    """The last whole checkpoint in ``folder``, None where there is none; what was cut off while saving is removed."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    whole = [path for path in found if (path / WATCH).exists()]
    if whole and not resume:
        raise ConfigError(
            f"{folder} holds an interrupted run at {whole[-1].name}: train.resume=true continues it. "
            "Remove that folder, or name another with out=…, to start anew."
        )
    for path in set(found) - set(whole):
        shutil.rmtree(path, ignore_errors=True)
    if resume:
        log.info("resuming from %s", whole[-1] if whole else "the start: no whole checkpoint was left")
    return whole[-1] if whole else None


def _arguments(config: Config, folder: Path) -> transformers.TrainingArguments:
    settings = config.train
    parts = int(os.environ.get("WORLD_SIZE", "1")) * settings.accumulate
    if settings.batch_size % parts:
        raise ConfigError(
            f"train.batch_size = {settings.batch_size} cannot be shared evenly by {parts} passes (processes times "
            f"train.accumulate = {settings.accumulate})."
        )
    return transformers.TrainingArguments(
        output_dir=str(folder / "checkpoints"),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch_size // parts,
        gradient_accumulation_steps=settings.accumulate,
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
        save_total_limit=2,  # the one before stays until the newest is whole
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
        "last": {name: value if math.isfinite(value) else None for name, value in last.items()},
    }
    save_json(folder / f"training_{kind}.json", described)
