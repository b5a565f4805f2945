"""``PrismSampler`` where ``MDLMSampler`` stood: the library's own call, its config with our settings behind it.

from prism_plugin.integrations.dllm import PrismSampler, PrismSamplerConfig

sampler = PrismSampler(model=model, tokenizer=tokenizer)
sampler.sample(inputs, PrismSamplerConfig(steps=128, max_new_tokens=128, head="heads/llada", num_remask=1))
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, make_dataclass
from typing import Any

import torch
import yaml
from dllm.core.samplers import BaseSampler, BaseSamplerOutput, MDLMSamplerConfig
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from prism_plugin import inputs as door
from prism_plugin.api import Prism, enable
from prism_plugin.errors import ConfigError, DataError, unknown
from prism_plugin.models.hooked import HookedDenoiser
from prism_plugin.sampling import drive
from prism_plugin.sampling.config import DEFAULTS, described_parts, resolve
from prism_plugin.sampling.presets import presets

from . import adapter  # noqa: F401  (it registers fill=dllm)

OWN = {item.name for item in fields(MDLMSamplerConfig)}
HOSTS = ("name", "steps", "block_length", "temperature", "seed")
"""Settings of ours that the library's config or generator has."""


def _settings() -> list[tuple[str, Any, Any]]:
    """Every setting of a sampler as a field of a dataclass, None where the preset decides."""
    values = {**DEFAULTS, **{each.key: each.value for each in described_parts()}}
    kinds = {name: type(value) if type(value) in (bool, int, float) else str for name, value in values.items()}
    kinds |= {"every": str, "step_on": str, "step_off": str}  # a whole number is steps, any other a share of them
    lines = {each.key: each.line for each in described_parts()}
    return [
        (name, kind | None, field(default=None, metadata={"help": lines.get(name, "").replace("%", "%%")}))
        for name, kind in kinds.items()
        if name not in OWN and name not in HOSTS
    ]


@dataclass
class PrismSamplerConfig(make_dataclass("Settings", _settings(), bases=(MDLMSamplerConfig,))):  # type: ignore[misc]
    """``MDLMSamplerConfig``, and what `prism info settings` lists as ``sampler.*``, each a field: so that command lines
    (``HfArgumentParser``) and ``--model_args`` reach them.

    sampler: a preset; by default ``prism-llada`` with a head, and without one the library's own rule. head: the folder
    of a trained head, or the module. Settings that are None are the preset's.
    """

    sampler: str | None = None
    head: Any = field(default=None, metadata={"help": "folder of a trained head"})


@dataclass
class PrismSamplerOutput(BaseSamplerOutput):
    """The library's output; results: the account of every batch that ran by itself (forwards, remasked, …)."""

    results: list[drive.Result] | None = None


@dataclass
class PrismSampler(BaseSampler):
    """A sampler of the library, for every model that ``prism_plugin.enable`` takes.

    Without a head and a preset it writes ``MDLMSampler``'s tokens at temperature 0, and its law above. Random numbers
    follow torch's seed, as there, but a text's do not depend on its neighbours; ``seed=…`` sets them. ConfigError and
    DataError, before the first forward, for what cannot be done.
    """

    @torch.no_grad()
    def sample(self, inputs: Any, config: Any = None, **given: Any) -> BaseSamplerOutput | Tensor:
        """Answers behind prompts, a list of ids (L,): (B, T) int64, or the library's output with ``return_dict``."""
        asked, settings = _asked(config, given)
        rows = self._rows(inputs, asked)
        new = asked.max_new_tokens or (asked.max_length or 0) - max(map(len, rows))
        if new < 1:
            raise ConfigError(f"max_new_tokens = {new} for prompts of up to {max(map(len, rows))}: allowed >= 1.")
        mask_id = self._prism(asked).denoiser.mask_id
        if any(bool((row == mask_id).any()) for row in rows):
            raise DataError("a prompt holds the mask: sample writes after the prompts, infill into them.")
        size = asked.block_size or new
        blocks = math.ceil(new / size)
        rows = [torch.nn.functional.pad(row, (0, new), value=mask_id) for row in rows]
        plan = {"block_length": size, "steps": math.ceil(asked.steps / blocks) * blocks}
        return self._write(rows, asked, {**settings, **plan}, [slice(None)])

    @torch.no_grad()
    def infill(self, inputs: Any, config: Any = None, **given: Any) -> BaseSamplerOutput | Tensor:
        """The masks in texts, wherever they stand, block after block from the texts' beginning; as ``sample``."""
        asked, settings = _asked(config, given)
        rows = self._rows(inputs, asked)
        length = max(map(len, rows))
        size = asked.block_size or length
        windows = [slice(start, start + size) for start in range(0, length, size)]
        plan = {"block_length": 0, "steps": math.ceil(asked.steps / len(windows))}
        return self._write(rows, asked, {**settings, **plan}, windows)

    def _rows(self, inputs: Any, asked: PrismSamplerConfig) -> list[Tensor]:
        if not len(inputs):
            raise DataError("inputs: no text came.")
        if (asked.block_size is not None and asked.block_size < 1) or asked.steps < 1:
            raise ConfigError(f"block_size = {asked.block_size}, steps = {asked.steps}: allowed both >= 1.")
        first = [self.tokenizer.bos_token_id] if asked.right_shift_logits else []
        return [door.read_ids(row if len(row) else first, f"inputs[{n}]") for n, row in enumerate(inputs)]

    def _write(
        self, rows: list[Tensor], asked: PrismSamplerConfig, settings: dict[str, Any], windows: list[slice]
    ) -> BaseSamplerOutput | Tensor:
        """Texts (L,) with masks, window after window, in batches of one length where the model ignores padding."""
        prism = self._prism(asked)
        denoiser: Any = prism.denoiser
        name = asked.sampler or ("confidence" if denoiser.head is None else "prism-llada")
        config = prism.config(name, **self._rule(name, asked, settings), **settings)
        if len(windows) > 1 and resolve(config).reach == "text":
            raise ConfigError("reach = text: infill is done with a block when it ends: block_size=None is one block.")
        side: Any = {"batch_first": True, "padding_value": self.tokenizer.eos_token_id}
        canvas = pad_sequence(rows, **side).to(door.device_of(denoiser))
        real = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True).bool().to(canvas.device)
        never = torch.tensor(asked.suppress_tokens or [], dtype=torch.long, device=canvas.device)
        door.in_vocabulary(never, denoiser, "suppress_tokens")
        lengths = [canvas.shape[1] if "padding" in denoiser.gives else len(row) for row in rows]
        histories, results = [canvas.clone()], []
        for length in dict.fromkeys(lengths):
            numbers = torch.tensor([n for n, one in enumerate(lengths) if one == length], device=canvas.device)
            seen = real[numbers, :length]
            tokens, padding = door.checked(canvas[numbers, :length], denoiser, None if bool(seen.all()) else seen)
            denoiser.guide(asked.cfg_scale, _prompt(tokens, padding, denoiser.mask_id, asked.cfg_keep_tokens))
            frames = [tokens]
            for window in windows:
                free = torch.zeros_like(tokens, dtype=torch.bool)
                free[:, window] = (tokens == denoiser.mask_id)[:, window]
                free = free if padding is None else free & padding
                if not bool(free.any()):
                    continue
                state = drive.new_state(denoiser, tokens, config, numbers, padding, free, never, None, (), 0)
                for view in drive.drive(state.parts.method(state), denoiser, state):
                    if view is not None and asked.return_dict:
                        frames.append(state.tokens.clone())
                tokens = state.tokens
                frames.append(tokens)
                results.append(drive.Result(**drive.account_of(state), seconds=0.0, settings=config.settings()))
            canvas[numbers, :length] = tokens
            while len(histories) < len(frames):
                histories.append(histories[-1].clone())
            for step, history in enumerate(histories):
                history[numbers, :length] = frames[min(step, len(frames) - 1)]
        return PrismSamplerOutput(canvas, histories, results) if asked.return_dict else canvas

    def _prism(self, asked: PrismSamplerConfig) -> Prism:
        """The model switched on, once for a model and a head."""
        made = self.__dict__.get("_made")
        if made is None or made[0] is not self.model or made[1] != asked.head:
            prism = enable(self.model, asked.head, mask_id=self.tokenizer.mask_token_id, sampler="confidence")
            if not isinstance(prism.denoiser, HookedDenoiser):
                raise ConfigError(f"{type(prism.denoiser).__name__}: give PrismSampler a model of a host of dLLM's.")
            made = self.__dict__["_made"] = (self.model, asked.head, prism)
        shift = bool(made[2].denoiser.shift)
        if bool(asked.right_shift_logits) != shift:
            raise ConfigError(f"right_shift_logits = {asked.right_shift_logits}: this model's logits say {shift}.")
        return made[2]

    def _rule(self, name: str, asked: PrismSamplerConfig, settings: dict[str, Any]) -> dict[str, Any]:
        """The library's own rule, where nothing else is asked for."""
        if asked.remasking not in ("low_confidence", "random"):
            raise unknown("remasking", asked.remasking, ("low_confidence", "random"))
        rule: dict[str, Any] = {"temperature": asked.temperature, "confidence_of": "untempered"}
        scheduler = type(self.scheduler).__name__
        if vars(self.scheduler):
            raise ConfigError(f"scheduler = {self.scheduler}: allowed one without settings of its own.")
        if name in ("confidence", "random"):
            rule["fill"] = {"name": "dllm", "scheduler": scheduler}
        if asked.stochastic_transfer:
            alphas = {"LinearAlphaScheduler": "linear", "CosineAlphaScheduler": "cosine"}
            if scheduler not in alphas:
                raise unknown("scheduler", scheduler, alphas)
            rule |= {"fill": "hazard", "alpha": alphas[scheduler]}
        if asked.sampler is None and asked.remasking == "random":
            rule["order"] = "random"
        elif asked.begin_suppress_tokens:
            if presets[name].get("order") != "confidence":
                raise ConfigError(f"begin_suppress_tokens is for samplers that fill by confidence, {name} does not.")
            rule["order"] = {"name": "confidence-eos-last", "last": [*asked.begin_suppress_tokens]}
        return {key: value for key, value in rule.items() if key not in settings}


def _asked(config: Any, given: dict[str, Any]) -> tuple[PrismSamplerConfig, dict[str, Any]]:
    """The library's own settings, a keyword before the config; and ours, as ``SamplerConfig`` takes them."""
    default = PrismSamplerConfig()
    merged = {**vars(default), **(vars(config) if config is not None else {}), **given}
    own = {name: merged.pop(name) for name in (*OWN, "sampler", "head")}
    ours = {name: value for name, value in merged.items() if value is not None}
    ours = {name: yaml.safe_load(value) if isinstance(value, str) else value for name, value in ours.items()}
    ours.setdefault("seed", int(torch.randint(2**31 - 1, ())))
    return PrismSamplerConfig(**own), ours


def _prompt(tokens: Tensor, padding: Tensor | None, mask_id: int, keep: list[int] | None) -> Tensor:
    """(B, L) bool: what stands in the texts from the start, less the ids that guidance is to leave visible."""
    given = tokens != mask_id
    given = given if padding is None else given & padding
    return given & ~torch.isin(tokens, torch.tensor(keep, device=tokens.device)) if keep else given
