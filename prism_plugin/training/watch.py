"""What is looked at while training: weights averaged, held-out texts judged, curves and reliability written."""

import csv
import json
import logging
import math
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .. import inputs
from ..config import Config
from ..errors import CheckpointError, PrismError
from ..files import write_atomic
from ..quality import cavity
from ..quality import loss as losses
from ..quality.calibration import reliability, report, sharpness
from ..sampling.drive import generate
from ..tasks import HELD_OUT
from . import sharding
from .data import batch

log = logging.getLogger(__name__)

WATCH = "watch.safetensors"
UNWRITTEN = (OSError, RuntimeError, SafetensorError, CheckpointError)
"""What is raised where a file cannot be written, by Python, torch, safetensors and ourselves."""
Judged = tuple[Tensor, Tensor]
"""Logits of quality (N,) and whether each token is the true one, (N,) bool."""
Told = tuple[Tensor, Tensor, Tensor]
"""Log probabilities (N,): by the head, by the model with the token's group hidden, when it was written."""


class Watch(transformers.TrainerCallback):
    """Averages weights (EMA), judges them on held-out texts, stops early, and writes ``training_log.csv``.

    Its own state is saved last into every checkpoint, whole or not at all: a checkpoint without it was cut off.
    ``about`` is what a run may not change when it goes on, and is saved with it.
    """

    def __init__(
        self,
        objective: nn.Module,
        texts: Any,
        config: Config,
        folder: Path,
        resumed: Path | None,
        about: dict[str, Any],
    ) -> None:
        self.objective, self.texts, self.config, self.folder = objective, texts, config, folder
        self.resumed, self.about = resumed, about
        self.average: dict[str, Tensor] = {}
        self.rows: list[dict[str, float]] = []
        self.started = time.monotonic()
        self.board: Any = None

    def learned(self) -> dict[str, Tensor]:
        """The parameters that are trained, without their graph."""
        return {name: p.detach() for name, p in self.objective.named_parameters() if p.requires_grad}

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self.average = {name: p.clone() for name, p in self.learned().items()}
        if self.resumed:
            with safe_open(self.resumed / WATCH, framework="pt") as file:
                self.rows = json.loads(file.metadata()["rows"])
                for name, average in self.average.items():
                    average.copy_(sharding.shard_like(file.get_tensor(name), average))
            self.started -= self.rows[-1]["seconds"] if self.rows else 0
        if self.config.train.report == "tensorboard" and state.is_world_process_zero:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=state.global_step + 1)

    def on_train_end(self, args, state, control, **kwargs) -> None:
        if self.board:
            self.board.close()

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        self.show(state.global_step, {f"train/{name}": value for name, value in (logs or {}).items()})

    def show(self, step: int, figures: dict[str, float]) -> None:
        """Give figures to TensorBoard, where that is asked for."""
        if self.board:
            for name, value in figures.items():
                self.board.add_scalar(name, float(value), step)

    def on_save(self, args, state, control, **kwargs) -> None:
        average = {name: sharding.whole(tensor) for name, tensor in self.average.items()}
        if state.is_world_process_zero:
            path = Path(args.output_dir) / f"checkpoint-{state.global_step}" / WATCH
            try:
                with write_atomic(path) as temporary:
                    about = {"rows": json.dumps(self.rows), "about": json.dumps(self.about)}
                    save_file(average, temporary, metadata=about)
            except UNWRITTEN as error:
                raise unsaved(path.parent, error) from error

    def on_step_end(self, args, state, control, **kwargs) -> None:
        settings = self.config.train
        decay = min(settings.ema, (1 + state.global_step) / (10 + state.global_step))
        for name, parameter in self.learned().items():
            self.average[name].lerp_(parameter, 1 - decay)
        every = settings.eval_every
        if state.global_step == state.max_steps or (every and state.global_step % every == 0):
            tables = self.judge(state.global_step)
            if state.is_world_process_zero:
                self.write_log()
                write_reliability(self.folder, tables)
            if self.overdue():
                control.should_training_stop, control.should_save = True, bool(settings.save_every)

    def judge(self, step: int) -> dict[str, Judged]:
        """Evaluate the averaged weights on held-out texts and add a row to the log; what was judged, by where."""
        kept = {name: p.clone() for name, p in self.learned().items()}
        self.load(self.average)
        self.objective.eval()
        with sharding.opened(self.objective):
            found, judged = evaluate(self.objective, self.texts, self.config)
        self.objective.train()
        self.load(kept)
        self.rows.append({"step": step, "seconds": round(time.monotonic() - self.started), **found})
        log.info("step %d: %s", step, ", ".join(f"{k} {v:.4f}" for k, v in found.items()))
        self.show(step, {f"held_out/{name}": value for name, value in found.items()})
        if not math.isfinite(found["loss"]):
            raise PrismError(
                f"the held-out loss is not finite at step {step}: lower train.lr (now {self.config.train.lr})."
            )
        return judged

    def overdue(self) -> bool:
        """Whether ``patience`` evaluations have gone by since the best (Brier score of a head, loss of a model)."""
        values = [row.get("brier", row["loss"]) for row in self.rows]
        since = len(values) - 1 - values.index(min(values))
        return 0 < self.config.train.patience <= since

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


def unsaved(folder: Path, error: Exception) -> PrismError:
    """What to raise where a checkpoint could not be written, to a full disk say."""
    return PrismError(
        f"{folder} could not be saved ({str(error).splitlines()[0]}). The last whole checkpoint beside it stays: "
        "make room and go on with train.resume=true."
    )


@torch.no_grad()
def evaluate(objective: Any, texts: Any, config: Config) -> tuple[dict[str, float], dict[str, Judged]]:
    """Terms of the loss and, for a head, its calibration on revealed tokens, over the first held-out texts; then what
    the sampler makes of a quarter of them (see ``written``), and how near a head comes there to what the model says of
    a hidden token, which a cavity head is judged by on its own states. Returns figures, and logits and labels by where.
    """
    device, count = inputs.device_of(objective.denoiser), config.train.eval_texts
    sums: Counter[str] = Counter()
    judged: dict[str, Judged] = {}
    parts, told = [], []
    for made in _batches(texts, count, config.train.batch_size, device):
        out = objective(**made)
        if "target" in out:
            told.append((F.logsigmoid(out.pop("scores")), out.pop("target"), out.pop("written")))
        if "scores" in out:
            parts.append((out.pop("scores"), out.pop("labels")))
        sums.update({name: float(value) * len(made["number"]) for name, value in out.items()})
    means = {name: value / count for name, value in sums.items()}
    by_cavity = bool(told)
    if parts:
        judged["revealed"] = _joined(parts)
        means |= report(*judged["revealed"])
    if config.train.eval_forwards:
        parts, reached, fewer = [], 0.0, (count + 3) // 4
        for made in _batches(texts, fewer, config.train.batch_size, device):
            found, hidden, share = written(objective, texts, config, **made)
            parts += found
            told += [] if by_cavity else hidden
            reached += share * len(made["number"]) / fewer
        means["solved" if hasattr(texts, "accuracy") else "same"] = reached
        if parts:
            judged["states"] = _joined(parts)
            means |= {f"states_{name}": value for name, value in report(*judged["states"]).items()}
    if told:
        means |= sharpness(*(torch.cat(figures) for figures in zip(*told, strict=True)))
    return means, judged


def _batches(texts: Any, count: int, size: int, device: torch.device) -> Any:
    for first in range(0, count, size):
        made = batch(texts, first, min(size, count - first), HELD_OUT)
        yield {name: x.to(device) for name, x in made.items()}


def _joined(parts: list[Judged]) -> Judged:
    scores, labels = zip(*parts, strict=True)
    return torch.cat(scores), torch.cat(labels)


def written(
    objective: Any, texts: Any, config: Config, tokens: Tensor, number: Tensor,
    maskable: Tensor | None = None, padding: Tensor | None = None,
) -> tuple[list[Judged], list[Told], float]:  # fmt: skip
    """Mask held-out texts (B, L) as in training, from a few positions to all, let the sampler write them anew, and
    judge the tokens that stand in its own states a quarter, half and three quarters of the way.

    Returns these tokens' logits and whether each is the true one, of a head; their log probabilities by it, by the
    model with their group hidden (``quality.groups``), and when they were written; and the share of texts that the
    task calls right, or without a task the share of the rewritten tokens that are the true ones.
    """
    denoiser, forwards = objective.denoiser, config.train.eval_forwards
    masked = losses.ranks(objective.seed, number, tokens.shape[1], losses.CONTEXT)
    masked = masked < losses.noise_level(objective.seed, number)[:, None]
    masked = masked if maskable is None else masked & maskable
    start = tokens.masked_fill(masked, denoiser.mask_id)
    sampler = replace(config.sampler, steps=forwards)
    if denoiser.noise.uniform or denoiser.head is None:
        sampler = type(sampler)(name="uniform" if denoiser.noise.uniform else "confidence", steps=forwards)
    padding = None if padding is None or bool(padding.all()) else padding
    states: list[tuple[Tensor, Tensor]] = []
    result = generate(
        denoiser, start, sampler, request=number, padding=padding,
        callback=lambda state, view: states.append((state.tokens.clone(), state.written.clone())),
    )  # fmt: skip
    parts, told = [], []
    for quarter in (1, 2, 3) if denoiser.head is not None else ():
        y, drawn = states[min(forwards * quarter // 4, len(states) - 1)]
        shown = masked & (y != denoiser.mask_id)
        scores = denoiser.judge(denoiser(y, padding), padding, y)[shown]
        parts.append((scores, (y == tokens)[shown]))
        target = cavity.posterior(denoiser, y, shown, config.quality.groups, padding)
        hidden, drawn = (table[shown].clamp(min=1e-30).log() for table in (target, drawn))
        told.append((F.logsigmoid(scores), hidden, drawn))
    right = texts.accuracy(result.tokens, start)[0] if hasattr(texts, "accuracy") else (result.tokens == tokens)[masked]
    return parts, told, float(right.float().mean().nan_to_num(1.0))


def write_reliability(folder: Path, judged: dict[str, Judged]) -> None:
    """``reliability.csv``: by bins of the predicted log-odds, predicted quality against the share that is right."""
    rows = [{"where": where, **row} for where, found in judged.items() for row in reliability(*found)]
    if rows:
        with write_atomic(folder / "reliability.csv") as path, path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def draw_reliability(folder: Path) -> None:
    """``reliability.png`` from ``reliability.csv``, in log-odds, where matplotlib is installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    with (folder / "reliability.csv").open() as file:
        rows = list(csv.DictReader(file))
    figure = Figure(figsize=(4, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([-8, 8], [-8, 8], color="0.7", linewidth=1)
    for where in dict.fromkeys(row["where"] for row in rows):
        points = [
            [_log_odds(float(row[name]), float(row["count"])) for name in ("predicted", "right")]
            for row in rows
            if row["where"] == where
        ]
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, linewidth=1, label=where)
    axes.set(xlabel="predicted quality, log-odds", ylabel="found right, log-odds", xlim=(-9, 9), ylim=(-9, 9))
    axes.legend(title="tokens", frameon=False)
    with write_atomic(folder / "reliability.png") as path:
        figure.savefig(path, format="png", dpi=120)


def _log_odds(share: float, count: float) -> float:
    """With half a token added to both sides, so that none and all are finite."""
    return math.log((share * count + 0.5) / ((1 - share) * count + 0.5))
