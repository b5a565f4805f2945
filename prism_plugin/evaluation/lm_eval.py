"""The model ``prism`` of lm-eval: ``lm_eval --model prism --tasks prism_sudoku``.

    --model_args model=sudoku,sampler=prism,sampler.steps=32     an embedded model (the default) or a folder of ours
    --model_args model=GSAI-ML/LLaDA-8B-Instruct,trust_remote_code=True,head_folder=my_head,sampler=prism-llada
    --gen_kwargs temperature=0,steps=64                          sampler settings of one task

Works with lm-eval 0.4.9 and later. Importing this module registers the model; the installed start-up file
(``_prism_lm_eval``) has lm-eval do that by itself.
"""

import logging
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, fields
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from torch import Tensor, nn
from tqdm import tqdm

from ..api import enable
from ..errors import ConfigError, DataError, unknown
from ..files import load_json
from ..model import PrismModel, embedded
from ..sampling.config import SamplerConfig, resolve
from ..tasks import Task, get_task

log = logging.getLogger(__name__)

BATCH_SIZE = 32
MAX_GEN_TOKS = 256
MODEL_ARGS = ["model", "pretrained", "head_folder", "trust_remote_code", "device", "batch_size", "sampler"]


class Codec(Protocol):
    """Between the text of a request and the tokens of a model."""

    def encode(self, context: str, max_gen_toks: int) -> Tensor:
        """Tokens of the prompt and masks for the answer, (L,) int64."""
        ...

    def decode(self, tokens: Tensor, answer: Tensor) -> str:
        """The text of the answer; ``answer`` (L,) bool marks what were masks."""
        ...


class GridCodec:
    """A Sudoku grid inside a text: the last lines that hold ``side`` cells each, '.' or 0 where blank."""

    def __init__(self, task: Task) -> None:
        self.task, self.side = task, task.grid**2

    def encode(self, context: str, max_gen_toks: int) -> Tensor:
        """See ``Codec.encode``; the masks are the blanks. Raises DataError where the text holds no grid."""
        rows = [re.sub(r"\s", "", line).replace(".", "0") for line in context.splitlines()]
        rows = [row for row in rows if re.fullmatch(f"[0-{self.side}]{{{self.side}}}", row)][-self.side :]
        if len(rows) < self.side:
            raise DataError(
                f"the model {self.task.name!r} reads grids of {self.side} lines of {self.side} cells ('.' is blank), "
                f"and the request holds {len(rows)} such lines: choose the task prism_sudoku, or a language model by "
                "--model_args model=<folder or hub id>."
            )
        return torch.tensor([int(cell) for cell in "".join(rows)])

    def decode(self, tokens: Tensor, answer: Tensor) -> str:
        """See ``Codec.decode``; the whole grid, clues too."""
        return self.task.render(tokens)


class TokenizerCodec:
    """A language model's own tokenizer; the answer is ``max_gen_toks`` masks after the prompt."""

    def __init__(self, tokenizer: Any, mask_id: int) -> None:
        self.tokenizer, self.mask_id = tokenizer, mask_id

    def encode(self, context: str, max_gen_toks: int) -> Tensor:
        """See ``Codec.encode``."""
        prompt = torch.tensor(self.tokenizer.encode(context), dtype=torch.long)
        return torch.cat([prompt, torch.full((max_gen_toks,), self.mask_id)])

    def decode(self, tokens: Tensor, answer: Tensor) -> str:
        """See ``Codec.decode``; up to the first special token."""
        special = set(self.tokenizer.all_special_ids)
        return self.tokenizer.decode(list(takewhile(lambda token: token not in special, tokens[answer].tolist())))


@register_model("prism")
class PrismLM(LM):
    """Generates with any sampler of this package; every other keyword is a setting, such as ``sampler.steps``."""

    def __init__(
        self,
        model: str = "sudoku",
        pretrained: str | None = None,
        head_folder: str | None = None,
        trust_remote_code: bool = False,
        device: str | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        sampler: str | None = None,
        **settings: Any,
    ) -> None:
        """``pretrained`` is lm-eval's usual word for ``model``; ``batch_size=auto`` is 32.

        Raises ConfigError for a setting, CheckpointError for a model that cannot be used, before anything runs.
        """
        super().__init__()
        for key in settings:
            if not key.startswith("sampler."):
                raise unknown("setting", key, MODEL_ARGS)
        automatic = batch_size is None or str(batch_size).startswith("auto")
        self.batch_size = BATCH_SIZE if automatic else int(str(batch_size))
        if self.batch_size < 1:
            raise ConfigError(f"batch_size = {batch_size}: allowed batch_size >= 1, or auto.")
        self.name = pretrained or model
        loaded, self.codec = load_model(self.name, trust_remote_code)
        named = {key.removeprefix("sampler."): value for key, value in settings.items()}
        self.prism = enable(loaded, head_folder, sampler=sampler, **named)
        resolve(self.prism.config())
        self._device = pick_device(device)
        self.prism.denoiser.to(self._device)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """One text a request, cut before the first of its ``until`` strings.

        Requests with the same settings and length share a batch. A request's random numbers are keyed by its place in
        ``requests``, so that the batch size does not change them.
        """
        batches: dict[tuple[str, int], list[int]] = defaultdict(list)
        prompts, settings = [], []
        for number, request in enumerate(requests):
            context, asked = request.args
            prompts.append(self.codec.encode(context, int(asked.get("max_gen_toks", MAX_GEN_TOKS))))
            settings.append(sampler_settings(asked))
            resolve(self.prism.config(**settings[-1]))
            batches[repr(settings[-1]), len(prompts[-1])].append(number)

        answers = [""] * len(requests)
        with tqdm(total=len(requests), desc="prism", disable=disable_tqdm) as progress:
            for numbers in batches.values():
                for start in range(0, len(numbers), self.batch_size):
                    batch = numbers[start : start + self.batch_size]
                    tokens = torch.stack([prompts[n] for n in batch]).to(self._device)
                    request_ids = torch.tensor(batch, device=tokens.device)
                    result = self.prism.generate(tokens, request=request_ids, **settings[batch[0]])
                    masked = tokens == self.prism.denoiser.mask_id
                    for number, written, answer in zip(batch, result.tokens.cpu(), masked.cpu(), strict=True):
                        context, asked = requests[number].args
                        answers[number] = cut(self.codec.decode(written, answer), asked.get("until") or [])
                        self.cache_hook.add_partial("generate_until", (context, asked), answers[number])
                    progress.update(len(batch))
        return answers

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Not defined for this kind of model: raises ConfigError."""
        raise ConfigError(
            "this task asks for log-likelihoods, and a masked diffusion model has none to read off: it has no "
            "left-to-right order. Choose tasks of output_type generate_until; many others have a generative variant."
        )

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Not defined for this kind of model: raises ConfigError."""
        self.loglikelihood(requests)
        return []

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The tokenizer's template; raises ConfigError for a model without one."""
        if not isinstance(self.codec, TokenizerCodec):
            raise ConfigError(f"the model {self.name!r} has no chat template: leave --apply_chat_template out.")
        return self.codec.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    @property
    def tokenizer_name(self) -> str:
        """Names the tokenizer in lm-eval's cache of requests."""
        return self.name.replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        """What goes into the results file: the model and every setting of its sampler."""
        return {"prism_model": self.name, "prism_sampler": asdict(resolve(self.prism.config()))}


def load_model(name: str, trust_remote_code: bool) -> tuple[nn.Module, Codec]:
    """One of our models (embedded, or a folder that ``prism train`` wrote), or a LLaDA checkpoint with its tokenizer.

    Raises ConfigError for a name that is neither, and for a LLaDA checkpoint without ``trust_remote_code``.
    """
    described = Path(name) / "config.json"
    if name in embedded() or (described.exists() and "backbone" in load_json(described)):
        ours = PrismModel.from_pretrained(name)
        return ours, GridCodec(get_task(ours.task))
    if "/" not in name and not Path(name).exists():
        raise unknown("model", name, embedded(), "Give an embedded model, a folder, or a hub id with a slash.")
    from transformers import AutoTokenizer

    from ..integrations.llada import LLaDADenoiser, load

    theirs = LLaDADenoiser(load(name, trust_remote_code=trust_remote_code))
    return theirs, TokenizerCodec(AutoTokenizer.from_pretrained(name), theirs.mask_id)


def pick_device(asked: str | None) -> str:
    """The device asked for; the CPU where lm-eval's default (cuda) does not exist here."""
    if asked and asked.startswith("cuda") and not torch.cuda.is_available():
        log.info("device %s (the default of lm-eval) is not available: running on the CPU.", asked)
        return "cpu"
    return asked or ("cuda" if torch.cuda.is_available() else "cpu")


def sampler_settings(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What a task or ``--gen_kwargs`` sets of the sampler; ``do_sample=False`` alone is temperature 0."""
    known = {f.name for f in fields(SamplerConfig)} - {"name"}
    settings = {key: value for key, value in asked.items() if key in known}
    if asked.get("do_sample") is False:
        settings.setdefault("temperature", 0.0)
    return settings


def cut(text: str, until: str | list[str]) -> str:
    """The text before the first of the ``until`` strings."""
    for stop in [until] if isinstance(until, str) else until:
        if stop:
            text = text.split(stop, 1)[0]
    return text
