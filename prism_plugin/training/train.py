"""``prism train``: one run of the HF Trainer over numbered texts, and the folder that it leaves behind."""

import importlib.util
import json
import logging
import math
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import SequentialSampler
from tqdm.contrib.logging import logging_redirect_tqdm

from ..config import NOISE, Config
from ..errors import ConfigError, DataError, PrismError
from ..files import finished, folder_to_write, load_json, output_folder, replace_model, save_json, write_atomic
from ..inputs import device_of
from ..models.backbone import BackboneConfig
from ..models.checkpoint import ASSETS, PrismModel, embedded
from ..models.denoiser import Denoiser
from ..models.hosts import is_ours, load_host
from ..models.lora import add_lora, network
from ..models.precision import in_halves
from ..quality.head import HeadConfig, attach_head, load_head, save_head
from ..quality.loss import QualityConfig
from ..tasks import TRAIN, get_task
from . import sharding
from .data import Blank, Corpus, Texts, batch, collate
from .objectives import CavityObjective, MDMObjective, QualityObjective, RedrawObjective, RemediObjective
from .watch import UNWRITTEN, WATCH, Watch, draw_reliability, unsaved

log = logging.getLogger(__name__)

LAST = "last_checkpoint"
"""The checkpoint of the last step, in the folder of a finished run: what it is extended from."""
OPTIMIZER, SCHEDULER = "optimizer.pt", "scheduler.pt"
Objective = MDMObjective | QualityObjective | CavityObjective
OBJECTIVES: dict[str, type[QualityObjective | CavityObjective]] = {"cavity": CavityObjective, "remedi": RemediObjective}
"""Those of ``quality.objective`` that are no variants of the PRISM loss."""
Save = Callable[[Path], None]


class Bar(transformers.trainer_callback.ProgressCallback):
    """The Trainer's progress bar, with the loss in it and not in lines of its own."""

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if self.training_bar is not None and logs and "loss" in logs:
            self.training_bar.set_postfix(loss=f"{float(logs['loss']):.4f}", refresh=False)


class Trainer(transformers.Trainer):
    """Stops at a loss that is not finite and keeps the batch that made it; saves what is trained, no more."""

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        if sharding.asked():
            sharding.begin(self.accelerator)
            self.is_fsdp_enabled = True

    def learned(self) -> dict[str, torch.Tensor]:
        """The parameters that are trained."""
        return {name: p.detach() for name, p in self.model.named_parameters() if p.requires_grad}

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """To where the logits are made, of a model that lies over several devices."""
        where = device_of(self.accelerator.unwrap_model(self.model).denoiser)
        return {name: tensor.to(where) for name, tensor in super()._prepare_inputs(inputs).items()}

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        weights = {name: sharding.whole(p).contiguous() for name, p in self.learned().items()}
        if self.args.should_save:
            folder.mkdir(parents=True, exist_ok=True)
            save_file(weights, folder / "model.safetensors")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        saved = load_file(Path(resume_from_checkpoint) / "model.safetensors")
        for name, parameter in self.learned().items():
            parameter.copy_(sharding.shard_like(saved[name], parameter))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """As of one process, whoever saves: any number of them can go on."""
        state = self.optimizer.state_dict()
        state["state"] = {
            number: {name: sharding.whole(value) if torch.is_tensor(value) else value for name, value in own.items()}
            for number, own in state["state"].items()
        }
        if self.args.should_save:
            torch.save(state, Path(output_dir) / OPTIMIZER)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        state = torch.load(Path(checkpoint) / OPTIMIZER, map_location="cpu", weights_only=True)
        ordered = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        for number, own in state["state"].items():
            like = ordered[number]
            own |= {name: sharding.shard_like(v, like) for name, v in own.items() if v.shape == like.shape != ()}
        self.optimizer.load_state_dict(state)
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER, weights_only=True))

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        try:
            super()._save_checkpoint(*args, **kwargs)
        except UNWRITTEN as error:
            folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
            raise unsaved(folder, error) from error

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


def train(kind: str, config: Config) -> Path:
    """Train ``mdm`` (a model from scratch, or ``config.model`` further) or ``quality`` (a head on ``config.model``);
    return the folder written.

    Raises ConfigError, CheckpointError or DataError before any work where something given cannot be used.
    """
    if not config.out:
        raise ConfigError("out is not set: name the folder to write, as in out=runs/sudoku.")
    _apart(config)
    config = replace(config, train=replace(config.train, bf16=_half(kind, config)))
    if _done(kind, config):
        return Path(config.out)
    unread(kind, config, not config.model or is_ours(config.model))
    torch.manual_seed(config.train.seed)
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    objective, texts, save = (_mdm if kind == "mdm" else _quality)(config)
    return fit(kind, objective, texts, config, save)


def unread(kind: str, config: Config, ours: bool) -> None:
    """Raises ConfigError where a setting that is not its default would be read by nothing in this run.

    ours: whether the model is one of ours, or made here.
    """
    found: dict[str, list[str]] = {}
    quality, tune = kind == "quality", tuned(config, ours)
    own = "of a model from scratch, and model=… has its own"

    def none_of(group: str, why: str, *but: str) -> None:
        node = getattr(config, group)
        found.setdefault(why, []).extend(f"{group}.{name}" for name in _changed(node) if name not in but)

    def nor(name: str, why: str) -> None:
        if getattr(config, name) != getattr(Config, name):
            found.setdefault(why, []).append(name)

    if quality:
        objective = config.quality.objective
        none_of("corrector", "of `prism train mdm`")
        none_of("quality", f"not read by quality.objective={objective}", "objective", *_read_by(objective))
    else:
        none_of("head", "of `prism train quality`")
        none_of("quality", "of `prism train quality`")
        if config.train.head_from:
            found["of `prism train quality`"].append("train.head_from")
        if not config.model and config.train.tune not in (None, "full"):
            found["of model=…, and one from scratch learns in full"] = ["train.tune"]
    if config.model:
        none_of("backbone", own)
        nor("noise", own)
    if tune != "lora" or not config.model:
        none_of("lora", f"of train.tune=lora, and {tune if config.model else 'full'} is tuned")
    if not config.data.name:
        blank = quality and config.quality.objective == "cavity" and not ours
        none_of("data", "of data=FILE, which is not set", *(["length"] if blank else []))
    if ours:
        nor("mask_id", "of a host's checkpoint")
        nor("device_map", "of a host's checkpoint")
    else:
        nor("task", "of models of ours, and a host's learns data=FILE")
    if told := "; ".join(f"{', '.join(names)}: {why}" for why, names in found.items() if names):
        raise ConfigError(f"this run would not read {told}. Leave it out.")


def _changed(group: Any) -> list[str]:
    """The settings of a group that are not its defaults."""
    default = type(group)()
    return [f.name for f in fields(group) if getattr(group, f.name) != getattr(default, f.name)]


def _read_by(objective: str) -> set[str]:
    """The settings of ``quality`` that an objective reads; see ``QualityConfig``."""
    alone = {"cavity": {"groups", "reuse"}, "remedi": {"mdm_weight"}}
    unused = alone["cavity"] | ({"positions", "reweight"} if objective == "critic" else set())
    return alone.get(objective) or {f.name for f in fields(QualityConfig)} - unused


def _half(kind: str, config: Config) -> bool:
    """Whether passes are under bf16 autocast; a run that goes on keeps to what it took where that is left open."""
    folder, wanted = Path(config.out), config.train.bf16
    if wanted == "auto" and config.train.resume:
        story = folder / f"training_{kind}.json"
        if whole := _whole(folder / "checkpoints"):
            wanted = _started_with(whole[-1]).get("train.bf16", wanted)
        elif story.exists():
            wanted = load_json(story).get("settings", {}).get("train.bf16", wanted)
    return in_halves(wanted, "cuda" if torch.cuda.is_available() else "cpu")


def _started_with(checkpoint: Path) -> dict[str, Any]:
    """The settings of the run that a whole checkpoint is of."""
    with safe_open(checkpoint / WATCH, framework="pt") as file:
        return json.loads(file.metadata()["about"])


def _apart(config: Config) -> None:
    """Raises ConfigError where the model that is trained on would be overwritten."""
    model = ASSETS / config.model if config.model in embedded() else Path(config.model)
    if config.model and Path(config.out).resolve() == model.resolve():
        raise ConfigError(f"out = {config.out!r} is the model that is trained on: name another folder with out=….")


def _done(kind: str, config: Config) -> bool:
    """Whether a run that is to be resumed has come to its end, with these settings.

    Raises ConfigError where a finished model would be overwritten unasked, or was made with other settings, naming both
    values of each.
    """
    folder = output_folder(config.out, keep=False)
    if _whole(folder / "checkpoints"):  # a run that was broken off goes on, whatever it was to replace
        return False
    story = folder / f"training_{kind}.json"
    if config.train.resume and finished(folder) and story.exists() and "settings" in (told := load_json(story)):
        if _extended(folder, _about(kind, config)):
            return False
        try:
            _unchanged(_about(kind, config), told["settings"], folder)
        except ConfigError as error:
            if not config.overwrite:
                only = "; a finished run goes on with more train.steps and nothing else changed, from its "
                raise ConfigError(f"{str(error)[:-1]}{only}{LAST}. overwrite=true trains anew.") from error
            return False
        log.info("%s: done, all %d steps were made.", folder, config.train.steps)
        return True
    folder_to_write(config.out, config.overwrite)
    return False


def _extended(folder: Path, about: dict[str, Any]) -> Path | None:
    """What a finished run goes on from, to more steps and with nothing else changed; None where it cannot."""
    if not (folder / LAST / WATCH).exists():
        return None
    before = _started_with(folder / LAST)
    more = before["train.steps"] < about["train.steps"] and before == about | {"train.steps": before["train.steps"]}
    return folder / LAST if more else None


def _about(kind: str, config: Config) -> dict[str, Any]:
    return {"kind": kind, **_flat(asdict(config))}


def _unchanged(about: dict[str, Any], before: dict[str, Any], folder: Path) -> None:
    changed = [
        f"{name} = {value} (was {before.get(name)})" for name, value in about.items() if value != before.get(name)
    ]
    if changed:
        raise ConfigError(f"the run in {folder} was started with other settings: {', '.join(changed)}.")


def _mdm(config: Config) -> tuple[Objective, Any, Save]:
    if config.model:
        return _further(config)
    if config.data.name and not config.task:
        raise ConfigError("a model from scratch has the vocabulary and length of a task=…: name it beside data=….")
    task = get_task(config.task or "sudoku")
    model = PrismModel(shape(config), task.name)
    texts = Corpus(config.data, model, None, config.train.seed) if config.data.name else task
    return MDMObjective(model, config.train.seed, config.corrector), texts, model.save_pretrained


def _further(config: Config) -> tuple[Objective, Any, Save]:
    """A model that is there, trained on; a head that it had is left out, since it is of the model before."""
    tune = tuned(config, is_ours(config.model))
    if tune == "head":
        raise ConfigError("train.tune = head: `prism train mdm` trains the model; choose lora or full.")
    if not config.data.name and not is_ours(config.model):
        raise ConfigError("data is not set: name what to train on, as in data=instructions.jsonl.")
    model, tokenizer, texts = _loaded(config, tune)
    if model.noise.tilted:
        raise ConfigError(f"model {config.model!r} learns by its own code's bound, which is not here: train it there.")
    model.head = None
    adapter = free(model, tune, config)

    def save(folder: Path) -> None:
        if adapter is not None:
            adapter.merge_and_unload()
        if isinstance(model, PrismModel):
            model.save_pretrained(folder)
        else:
            save_host(model, tokenizer, config.model, folder)

    return MDMObjective(model, config.train.seed, config.corrector), texts, save


def shape(config: Config) -> BackboneConfig:
    """The backbone that ``train mdm`` makes: its size, and what the task gives."""
    task = get_task(config.task or "sudoku")
    given = {name: getattr(task, name) for name in ("vocab_size", "mask_id", "length", "grid")}
    return BackboneConfig(**given, **vars(config.backbone), uniform_noise=NOISE[config.noise])


def _quality(config: Config) -> tuple[Objective, Any, Save]:
    if not config.model:
        raise ConfigError("model is not set: name a folder, a hub id or an embedded model, as in model=sudoku.")
    tune = tuned(config, is_ours(config.model))
    model, tokenizer, texts = _loaded(config, tune)
    if model.noise.uniform and (config.quality.objective != "prism" or (model.noise.tilted and tune != "head")):
        raise ConfigError(
            f"quality.objective = {config.quality.objective}, train.tune = {tune}: on a model whose noise is symbols a "
            f"head learns by quality.objective=prism{', train.tune=head' if model.noise.tilted else ''}."
        )
    adapter = prepare(model, tune, config)

    def save(folder: Path) -> None:
        if adapter is not None:
            adapter.save_pretrained(folder, save_embedding_layers=False)
        if isinstance(model, PrismModel):
            if adapter is not None:
                adapter.unload()
            model.save_pretrained(folder)
        else:
            if tune == "full":
                save_host(model, tokenizer, config.model, folder)
            save_head(model, folder)

    objective = OBJECTIVES.get(config.quality.objective, QualityObjective)
    if model.noise.uniform:
        objective = RedrawObjective
    return objective(model, config.train.seed, config.quality), texts, save


def _loaded(config: Config, tune: str) -> tuple[Denoiser, Any, Any]:
    """The model that is trained on, its tokenizer where it is a host's, and the texts."""
    ours, tokenizer, cavity = is_ours(config.model), None, config.quality.objective == "cavity"
    if ours:
        model: Denoiser = PrismModel.from_pretrained(config.model)
    else:
        if not config.data.name and not cavity:
            raise ConfigError(
                "data is not set: name what to train on, as in data=instructions.jsonl, or choose "
                "quality.objective=cavity, which needs none."
            )
        half = config.train.bf16 and tune != "full"
        model, tokenizer = load_host(
            config.model, trust_remote_code=config.trust_remote_code, mask_id=config.mask_id,
            dtype=torch.bfloat16 if half else torch.float32,
            **({"device_map": config.device_map} if config.device_map else {}),
        )  # fmt: skip
    own = getattr(model, "task", "")
    if config.task and own and config.task != own:
        raise ConfigError(f"task = {config.task}: {config.model} is a model of the task {own}, another vocabulary.")
    if config.data.name:
        texts: Any = Corpus(config.data, model, tokenizer, config.train.seed)
    elif cavity and not ours:
        texts = Blank(model, config.data.length)
    else:
        texts = get_task(config.task or own)
    return model, tokenizer, texts


def tuned(config: Config, ours: bool) -> str:
    """What learns: ``head``, ``lora`` or ``full``. ConfigError where the head is to learn of a model that moves."""
    if config.quality.objective == "cavity":
        if config.train.tune not in (None, "head"):
            raise ConfigError(
                f"train.tune = {config.train.tune}: quality.objective = cavity teaches a head what a frozen model "
                "says: choose train.tune=head, or another objective."
            )
        return "head"
    return config.train.tune or ("full" if ours else "lora")


def prepare(model: Denoiser, tune: str, config: Config) -> Any:
    """A fresh head, and of the model what is to learn set free; peft's wrapper of the model where that is LoRA."""
    adapter = free(model, tune, config)
    start, made = config.train.head_from, config.head
    if start and made != HeadConfig():
        raise ConfigError(f"head = {made.name or made}: train.head_from = {start} says which head it is.")
    if start:
        load_head(model, ASSETS / start if start in embedded() else start)
        model.head.train()
    else:
        cavity = config.quality.objective == "cavity" and not made.name
        attach_head(model, replace(made, name="two_stream") if cavity else made)
    model.head.to(device_of(model)).requires_grad_(True)
    model.trained = {"tune": tune} | ({"lora": vars(config.lora)} if adapter is not None else {})
    return adapter


def free(model: Denoiser, tune: str, config: Config) -> Any:
    """Set free what is to learn of a model; peft's wrapper of it where that is LoRA."""
    if any(".lora_A." in name for name, _ in model.named_parameters()):
        raise ConfigError(f"model {config.model!r} has LoRA already: name the model that it was trained on.")
    model.requires_grad_(tune == "full")
    return add_lora(model, **vars(config.lora)) if tune == "lora" else None


def save_host(model: Denoiser, tokenizer: Any, name: str, folder: Path) -> None:
    """A host's model that was tuned as a whole, as its checkpoint was: weights, config, tokenizer, code."""
    host: Any = network(model)
    host.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    for file in Path(name).glob("*.py"):
        shutil.copy(file, folder)


def fit(kind: str, objective: Objective, texts: Any, config: Config, save: Save) -> Path:
    """Run the trainer on an objective, around our model or a host's; ``save(folder)`` writes what was trained.

    texts: see ``data.Source``.
    """
    folder = output_folder(config.out)
    _check(objective, texts, config)
    if hasattr(network(objective.denoiser), "hf_device_map"):  # the Trainer then leaves all where it is
        objective.hf_device_map = network(objective.denoiser).hf_device_map
    if sharding.asked():
        sharding.prepare(objective, bool(config.train.bf16))
    about = settings = _about(kind, config)
    checkpoint = _interrupted(folder / "checkpoints", config, about)
    watch = Watch(objective, texts, config, folder, checkpoint, about)
    # gradients of a converged softmax are denormal, and a CPU is ten times slower on them
    torch.set_flush_denormal(True)
    size = config.train.steps * config.train.batch_size
    trainer = Trainer(
        objective,
        _arguments(config, folder),
        train_dataset=Texts(texts, size),
        data_collator=collate,
        callbacks=[watch],
    )
    trainer.remove_callback(transformers.trainer_callback.ProgressCallback)
    bar = Bar()
    if log.isEnabledFor(logging.INFO):
        trainer.add_callback(bar)
    started = time.monotonic()
    objective.train()
    try:
        with logging_redirect_tqdm():
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        torch.set_flush_denormal(False)
        if bar.training_bar is not None:  # an error is a line of its own
            bar.training_bar.close()
    objective.eval()
    watch.load(watch.average)
    sharding.collect(objective, trainer.is_world_process_zero())
    if not isinstance(objective, MDMObjective):
        about = {"data": config.data.name or "task", "tune": config.train.tune, "seed": config.train.seed}
        objective.denoiser.trained = {**vars(config.quality), **about, **objective.denoiser.trained}
    if trainer.is_world_process_zero():
        if (folder / "reliability.csv").exists():
            draw_reliability(folder)
        try:
            with replace_model(folder) as written:
                save(written)
                _describe(written, kind, config, time.monotonic() - started, watch.rows[-1], settings)
        except UNWRITTEN as error:
            raise unsaved(folder, error) from error
        shutil.rmtree(folder / LAST, ignore_errors=True)
        if (kept := folder / "checkpoints" / f"checkpoint-{trainer.state.global_step}" / WATCH).exists():
            os.replace(kept.parent, folder / LAST)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return folder


def _check(objective: Objective, texts: Any, config: Config) -> None:
    """Raises ConfigError or DataError, before a step is made, where the first text cannot be trained on."""
    model, text = objective.denoiser, batch(texts, 0, 1, TRAIN)["tokens"]
    if text.numel() == 0:
        raise DataError("the data set is empty: there is no text to train on.")
    if text.shape[1] > model.max_length:
        raise DataError(f"a text of {text.shape[1]} tokens is longer than the model's {model.max_length}.")
    if not 0 <= int(text.min()) <= int(text.max()) < model.vocab_size:
        raise DataError(
            f"tokens {int(text.min())} to {int(text.max())} came: the model knows 0 to {model.vocab_size - 1}."
        )
    learned = getattr(texts, "learned", text.shape[1])
    if isinstance(objective, QualityObjective) and config.quality.k > learned:
        raise ConfigError(f"quality.k = {config.quality.k} is more than the {learned} positions that a text can mask.")
    if config.train.report == "tensorboard" and not importlib.util.find_spec("tensorboard"):
        raise ConfigError("train.report = tensorboard: pip install tensorboard, or train.report=csv.")


FREE = {"threads", "eval_every", "eval_texts", "eval_forwards", "patience", "report", "save_every", "resume"}
"""Settings of ``train`` that may differ where a run goes on: the curve does not depend on them."""


def _flat(tree: dict[str, Any], where: str = "") -> dict[str, Any]:
    """The settings that a run may not change when it goes on, by their names on the command line."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{where}{name}.")
        elif (
            not where.startswith("sampler.")
            and (where, name) not in (("", "out"), ("", "overwrite"), ("", "device_map"))
            and (where != "train." or name not in FREE)
        ):
            flat[where + name] = value
    return flat


def _whole(folder: Path) -> list[Path]:
    """Checkpoints that were saved whole, in order."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    return [path for path in found if (path / WATCH).exists()]


def _interrupted(folder: Path, config: Config, about: dict[str, Any]) -> Path | None:
    """The last whole checkpoint in ``folder``, None where there is none; what was cut off while saving is removed.

    Raises ConfigError where a run would go on with other settings, naming both values of each.
    """
    whole, resume = _whole(folder), config.train.resume
    if whole and not resume:
        if not config.overwrite:
            raise ConfigError(
                f"{folder} holds an interrupted run at {whole[-1].name}: train.resume=true continues it, "
                "overwrite=true starts anew, or name another folder with out=…."
            )
        whole = []
    if whole:
        try:
            _unchanged(about, _started_with(whole[-1]), folder)
        except ConfigError as error:
            raise ConfigError(
                f"{error} It goes on with those it was started with; overwrite=true without train.resume starts anew."
            ) from error
    for path in set(folder.glob("checkpoint-*")) - set(whole):
        shutil.rmtree(path, ignore_errors=True)
    finished_at = _extended(folder.parent, about) if resume and not whole else None
    if finished_at:
        log.warning(
            "%s is extended to %d steps: optimizer, random numbers and place in the data go on; the learning rate "
            "takes up the cosine of all %d where it stands, so the curve is not that of one run",
            folder.parent, about["train.steps"], about["train.steps"],
        )  # fmt: skip
    elif resume:
        log.info("resuming from %s", whole[-1] if whole else "the start: no whole checkpoint was left")
    return whole[-1] if whole else finished_at


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
        bf16=bool(settings.bf16),
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


def _describe(folder: Path, kind: str, config: Config, seconds: float, last: dict, settings: dict) -> None:
    """Write ``training_<kind>.json``: the exact command, seed, date, versions, machine and last figures."""
    processes = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    described = {
        "command": "prism " + " ".join(sys.argv[1:]),
        "seed": config.train.seed,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "minutes": round(seconds / 60, 1),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} thread(s), not run on a GPU"
        if not torch.cuda.is_available()
        else torch.cuda.get_device_name(),
        "processes": processes,
        "versions": {name: version(name) for name in ("torch", "transformers")},
        "settings": settings,
        "last": {name: value if math.isfinite(value) else None for name, value in last.items()},
    }
    save_json(folder / f"training_{kind}.json", described)
