"""``PrismSampler`` where a sampler of the library stood: its own call, its config with our settings behind it.

from prism_plugin.integrations.dllm import PrismSampler, PrismSamplerConfig

sampler = PrismSampler(model=model, tokenizer=tokenizer)
sampler.sample(inputs, PrismSamplerConfig(steps=128, max_new_tokens=128, head="heads/llada", num_remask=1))
sampler.sample(inputs, DreamSamplerConfig(steps=128, alg="entropy"), head="heads/dream")  # as DreamSampler lays it out
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, make_dataclass
from types import SimpleNamespace
from typing import Any

import torch
import yaml
from dllm.core.samplers import BaseSampler, BaseSamplerOutput, MDLMSamplerConfig
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from prism_plugin import inputs as door
from prism_plugin.api import Prism, enable
from prism_plugin.errors import ConfigError, DataError
from prism_plugin.models.hooked import HookedDenoiser
from prism_plugin.sampling import drive
from prism_plugin.sampling.config import DEFAULTS, described_parts, resolve

from ..block_causal.adapter import BlockCausalDenoiser
from . import adapter  # noqa: F401  (it registers fill=dllm)
from .kinds import INFILL, KINDS, Plan

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
    """A sampler of the library, for every model that ``prism_plugin.enable`` takes; the config's class says which.

    Without a head and a preset it writes the tokens of the library's own sampler at temperature 0, and its law above.
    Random numbers follow torch's seed, as there, but a text's do not depend on its neighbours; ``seed=…`` sets them.
    ConfigError and DataError, before the first forward, for what cannot be done.
    """

    @torch.no_grad()
    def sample(self, inputs: Any, config: Any = None, **given: Any) -> BaseSamplerOutput | Tensor:
        """Answers behind prompts, a list of ids (L,): (B, T) int64, or the library's output with ``return_dict``."""
        asked, settings = _asked(config, given)
        rows = self._rows(inputs, asked)
        mask_id = self.tokenizer.mask_token_id
        if any(bool((row == mask_id).any()) for row in rows):
            raise DataError("a prompt holds the mask: sample writes after the prompts, infill into them.")
        name = _name(asked)
        plan = KINDS[asked.kind](asked, [len(row) for row in rows], name, self.scheduler)
        rows = [torch.nn.functional.pad(row, (0, plan.new), value=mask_id) for row in rows]
        return self._write(rows, asked, settings, plan, name)

    @torch.no_grad()
    def infill(self, inputs: Any, config: Any = None, **given: Any) -> BaseSamplerOutput | Tensor:
        """The masks in texts, wherever they stand, block after block from the texts' beginning; as ``sample``."""
        asked, settings = _asked(config, given)
        if asked.kind not in INFILL:
            raise ConfigError(f"{asked.kind} has no infill: give a config of {' or '.join(INFILL)}.")
        rows, name = self._rows(inputs, asked), _name(asked)
        plan = KINDS[asked.kind](asked, [len(row) for row in rows], name, self.scheduler, infill=True)
        return self._write(rows, asked, settings, plan, name)

    def _rows(self, inputs: Any, asked: Any) -> list[Tensor]:
        if not len(inputs):
            raise DataError("inputs: no text came.")
        if (asked.block_size is not None and asked.block_size < 1) or asked.steps < 1:
            raise ConfigError(f"block_size = {asked.block_size}, steps = {asked.steps}: allowed both >= 1.")
        first = [self.tokenizer.bos_token_id] if asked.right_shift_logits else []
        return [door.read_ids(row if len(row) else first, f"inputs[{n}]") for n, row in enumerate(inputs)]

    def _write(
        self, rows: list[Tensor], asked: Any, settings: dict[str, Any], plan: Plan, name: str
    ) -> BaseSamplerOutput | Tensor:
        """Texts (L,) with masks, window after window, in batches of one length where the model ignores padding."""
        prism = self._prism(asked, plan)
        denoiser: Any = prism.denoiser
        own = plan.own if name == "confidence" else {}
        chosen = {"name": name, "steps": plan.steps, **plan.rule, **own, **settings, "block_length": plan.block_length}
        config = prism.config(chosen.pop("name"), **chosen)
        if len(plan.windows) > 1 and resolve(config).reach == "text":
            raise ConfigError("reach = text goes beyond the blocks that are written one after the other here.")
        device, side = door.device_of(denoiser), "left" if plan.left else "right"
        pad: Any = {"batch_first": True, "padding_side": side}
        canvas = pad_sequence(rows, **pad, padding_value=getattr(self.tokenizer, plan.pad)).to(device)
        real = pad_sequence([torch.ones_like(row) for row in rows], **pad).bool().to(device)
        more = (max(plan.width - canvas.shape[1], 0), 0)
        canvas = torch.nn.functional.pad(canvas, more, value=getattr(self.tokenizer, plan.pad))
        real = torch.nn.functional.pad(real, more)
        never = torch.tensor(asked.suppress_tokens or [], dtype=torch.long, device=device)
        door.in_vocabulary(never, denoiser, "suppress_tokens")
        whole = plan.grid or "padding" in denoiser.gives  # blocks of the columns are those of the padded text
        lengths = [canvas.shape[1] if whole else len(row) for row in rows]
        histories, results, stop = [canvas.clone()], [], canvas.shape[1]
        for length in dict.fromkeys(lengths):
            numbers = torch.tensor([n for n, one in enumerate(lengths) if one == length], device=device)
            columns = slice(canvas.shape[1] - length, None) if plan.left else slice(length)
            seen = real[numbers, columns]
            tokens, padding = door.checked(canvas[numbers, columns], denoiser, None if bool(seen.all()) else seen)
            denoiser.guide(asked.cfg_scale, _prompt(tokens, padding, denoiser.mask_id, asked.cfg_keep_tokens))
            frames = [tokens]
            if denoiser.cache is not None:
                denoiser.cache.forget()
            for window in plan.windows:
                free = torch.zeros_like(tokens, dtype=torch.bool)
                free[:, window] = (tokens == denoiser.mask_id)[:, window]
                free = free if padding is None else free & padding
                if not bool(free.any()):
                    continue
                state = drive.new_state(denoiser, tokens, config, numbers, padding, free, never, None, (), 0)
                for view in drive.drive(state.parts.method(state), denoiser):
                    if view is not None and asked.return_dict:
                        frames.append(state.tokens.clone())
                tokens = state.tokens
                frames.append(tokens)
                results.append(drive.Result(**drive.account_of(state), seconds=0.0, settings=config.settings()))
                written = tokens[:, plan.windows[0].start : window.stop]
                if plan.ends and bool((written == self.tokenizer.eos_token_id).any(dim=1).all()):
                    stop = window.stop
                    tokens[:, stop:] = self.tokenizer.eos_token_id
                    break
            canvas[numbers, columns] = tokens
            while len(histories) < len(frames):
                histories.append(histories[-1].clone())
            for step, history in enumerate(histories):
                history[numbers, columns] = frames[min(step, len(frames) - 1)]
        if plan.grows:
            canvas, histories = canvas[:, :stop], [_begun(frame, plan, denoiser.mask_id) for frame in histories]
        return PrismSamplerOutput(canvas, histories, results) if asked.return_dict else canvas

    def _prism(self, asked: Any, plan: Plan) -> Prism:
        """The model switched on, once for a model, a head and what the plan wants of it."""
        wanted = (asked.head, plan.grid, plan.cache)
        made = self.__dict__.get("_made")
        if made is None or made[0] is not self.model or made[1] != wanted:
            mask_id, model = self.tokenizer.mask_token_id, self.model
            if plan.grid:  # what is kept of finished blocks is exact
                model = BlockCausalDenoiser(model, mask_id, block_length=plan.grid)
            cache = "prefix" if plan.grid else plan.cache
            prism = enable(model, asked.head, mask_id=mask_id, sampler="confidence", cache=cache)
            if not isinstance(prism.denoiser, HookedDenoiser):
                raise ConfigError(f"{type(prism.denoiser).__name__}: give PrismSampler a model of a host of dLLM's.")
            made = self.__dict__["_made"] = (self.model, wanted, prism)
        shift = bool(made[2].denoiser.shift)
        if bool(asked.right_shift_logits) != shift:
            raise ConfigError(f"right_shift_logits = {asked.right_shift_logits}: this model's logits say {shift}.")
        return made[2]


def _asked(config: Any, given: dict[str, Any]) -> tuple[SimpleNamespace, dict[str, Any]]:
    """The library's own settings, a keyword before the config; and ours, as ``SamplerConfig`` takes them."""
    config = PrismSamplerConfig() if config is None else config
    kind, own = _kind(type(config))
    merged = {**vars(config), **given}
    common = {"remasking": "low_confidence", "block_size": None, "steps": 1, "cfg_scale": 0.0}
    absent = dict.fromkeys(("suppress_tokens", "begin_suppress_tokens", "cfg_keep_tokens", "max_length"))
    absent |= {"right_shift_logits": False, "stochastic_transfer": False, "head": None, "sampler": None}
    asked = {**common, **absent, **{name: merged.pop(name) for name in (*own, *absent) if name in merged}}
    ours = {name: value for name, value in merged.items() if value is not None}
    ours = {name: yaml.safe_load(value) if isinstance(value, str) else value for name, value in ours.items()}
    ours.setdefault("seed", int(torch.randint(2**31 - 1, ())))
    return SimpleNamespace(kind=kind, **asked), ours


def _kind(config: type) -> tuple[str, set[str]]:
    """Which sampler of the library a config is for, and the names of its settings."""
    for base in config.__mro__:
        name = base.__name__.removesuffix("Config")
        if name in KINDS:
            return name, {item.name for item in fields(base)}
    raise ConfigError(f"config = {config.__name__}: allowed that of {', '.join(KINDS)}, or PrismSamplerConfig.")


def _name(asked: Any) -> str:
    return asked.sampler or ("confidence" if asked.head is None else "prism-llada")


def _begun(frame: Tensor, plan: Plan, mask_id: int) -> Tensor:
    """A canvas up to the window that was being written, or before the first."""
    begun = [window.stop for window in plan.windows if bool((frame[:, window] != mask_id).any())]
    return frame[:, : max(begun, default=plan.windows[0].start)]


def _prompt(tokens: Tensor, padding: Tensor | None, mask_id: int, keep: list[int] | None) -> Tensor:
    """(B, L) bool: what stands in the texts from the start, less the ids that guidance is to leave visible."""
    given = tokens != mask_id
    given = given if padding is None else given & padding
    return given & ~torch.isin(tokens, torch.tensor(keep, device=tokens.device)) if keep else given
