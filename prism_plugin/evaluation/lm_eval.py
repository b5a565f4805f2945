"""The model ``prism`` of lm-eval: ``lm_eval --model prism --tasks prism_sudoku``.

    --model_args model=sudoku,sampler=prism,sampler.steps=32     an embedded model (the default) or a folder of ours
    --model_args model=GSAI-ML/LLaDA-8B-Instruct,trust_remote_code=True,head_folder=my_head,sampler=prism-llada
    --gen_kwargs temperature=0,steps=64                          sampler settings of one task

Works with lm-eval 0.4.9 and later. Importing this module registers the model; the installed start-up file
(``_prism_lm_eval``) has lm-eval do that by itself.
"""

import logging
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from tqdm import tqdm

from ..api import enable
from ..errors import ConfigError, unknown
from ..sampling import drive
from ..sampling.config import SamplerConfig, resolve
from ..text import TokenizerCodec, cut, listed, need

log = logging.getLogger(__name__)

BATCH_SIZE = 32
MAX_GEN_TOKS = 256
MODEL_ARGS = ["model", "pretrained", "head_folder", "trust_remote_code", "device", "batch_size", "sampler"]


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
        named = {key.removeprefix("sampler."): value for key, value in settings.items()}
        self.prism = enable(self.name, head_folder, trust_remote_code=trust_remote_code, sampler=sampler, **named)
        self.codec = need(self.prism.codec, self.prism.denoiser)
        resolve(self.prism.config())
        self._device = pick_device(device)
        self.prism.denoiser.to(self._device)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """One text a request, cut before the first of its ``until`` strings.

        ``batch_size`` texts with the same settings are written at a time, the next where one ends. A request's random
        numbers are keyed by its place in ``requests``, so that the batch size does not change them.
        """
        prompts, groups = [], defaultdict(list)
        for number, request in enumerate(requests):
            context, asked = request.args
            prompts.append(self.codec.encode(context, int(asked.get("max_gen_toks", MAX_GEN_TOKS))))
            resolve(self.prism.config(**sampler_settings(asked)))
            groups[repr((sampler_settings(asked), asked.get("until")))].append(number)

        answers = [""] * len(requests)
        with tqdm(total=len(requests), desc="prism", disable=disable_tqdm) as progress:
            for numbers in groups.values():
                asked = requests[numbers[0]].args[1]
                until = listed(asked.get("until") or [])
                done = drive.finished(
                    self.prism.denoiser, [prompts[number] for number in numbers],
                    self.prism.config(**sampler_settings(asked)), slots=self.batch_size,
                    request=torch.tensor(numbers), pad_id=self.codec.end_id,
                    stop=[*self.codec.ends, *(ids for text in until if (ids := self.codec.stop(text)))],
                )  # fmt: skip
                for places, result in done:
                    for number, row in zip((numbers[p] for p in places), result.tokens.cpu(), strict=True):
                        tokens, prompt = row[len(row) - len(prompts[number]) :], prompts[number]
                        answers[number] = cut(self.codec.answer(tokens, prompt == self.prism.denoiser.mask_id), until)
                        self.cache_hook.add_partial("generate_until", requests[number].args, answers[number])
                    progress.update(len(places))
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
