"""What ``--model_args`` and ``--gen_kwargs`` may say to the model ``prism``: one schema, checked before anything runs.

docs/lm_eval.md is written from it by docs/lm_eval.py.
"""

from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any

import torch

from ..errors import ConfigError, unknown
from ..models.cache import CacheConfig
from .likelihood import KINDS

MAX_TOKENS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # the first that is there counts
OWN = ("until", "do_sample", "num_beams", "infill", "quality", *MAX_TOKENS)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def about(line: str, *, low: int | None = None, among: Any = None) -> Any:
    """Metadata of a field: what it is, its lowest value, the values that are allowed."""
    return {"line": line, "low": low, "among": among}


@dataclass
class Arguments:
    """Settings of ``--model_args``; each field says what it is. Raises ConfigError naming what is wrong."""

    model: Any = field(default="sudoku", metadata=about("an embedded model, a folder, a hub id, or in Python a model"))
    pretrained: Any = field(default=None, metadata=about("lm-eval's usual word for `model`"))
    host: str | None = field(default=None, metadata=about("the adapter of a model that was given in Python"))
    tokenizer: Any = field(
        default=None, metadata=about("a folder, a hub id, or in Python a tokenizer, in place of the model's")
    )
    revision: str | None = field(default=None, metadata=about("branch, tag or commit of a hub id"))
    trust_remote_code: bool = field(default=False, metadata=about("let code of the checkpoint run"))
    dtype: Any = field(
        default="auto",
        metadata=about("of a host's weights; auto is bfloat16 on CUDA, float32 elsewhere", among=("auto", *DTYPES)),
    )
    peft: str | None = field(
        default=None, metadata=about("a folder or hub id of updates by peft, put on the host's model")
    )
    head: Any = field(
        default=None, metadata=about("a folder or hub id of a quality head; none: not even the model's own")
    )
    head_folder: str | None = field(default=None, metadata=about("the older word for `head`"))
    mask_id: int | None = field(default=None, metadata=about("the mask, where the checkpoint does not name it", low=0))
    device: str | None = field(
        default=None, metadata=about("cpu, cuda, cuda:1, …; CUDA where there is one, else the CPU")
    )
    device_map: Any = field(default=None, metadata=about("of transformers, to lay a host's model over several devices"))
    parallelize: bool = field(default=False, metadata=about("device_map=auto"))
    batch_size: Any = field(
        default="auto", metadata=about("texts at a time; auto searches the memory, auto:N anew for N lengths")
    )
    max_batch_size: int = field(default=64, metadata=about("what auto begins with", low=1))
    max_length: int | None = field(
        default=None, metadata=about("of prompt and answer, where it is less than the model's", low=2)
    )
    max_gen_toks: int = field(default=256, metadata=about("tokens of an answer where the task says nothing", low=0))
    truncation: bool = field(
        default=True, metadata=about("cut long prompts on the left; false: such a document has no answer")
    )
    add_bos_token: bool | None = field(
        default=None,
        metadata=about("put the beginning-of-text token first, or leave it out; by default as the tokenizer does"),
    )
    prefix_token_id: int | None = field(
        default=None,
        metadata=about("the context of a text without one; by default the beginning or end of text", low=0),
    )
    chat_template_args: Any = field(default=None, metadata=about("further values for the chat template"))
    enable_thinking: bool | None = field(default=None, metadata=about("`enable_thinking` among these values"))
    think_end_token: str | None = field(
        default=None, metadata=about("an answer is what stands behind its last occurrence")
    )
    sampler: Any = field(
        default=None,
        metadata=about(
            "a preset, or in YAML a mapping of `name` and settings; `sampler.steps=32` and so on replace its settings"
        ),
    )
    cache: Any = field(
        default="none",
        metadata=about(
            "keys and values between passes: none, prefix, dual, or a mapping; `cache.refresh=8` and so on; "
            "`cache.block_length` is by default a block-causal model's own, else 32, and Fast-dLLM's is the sampler's"
        ),
    )
    likelihood: str = field(default="bound", metadata=about("how log-likelihoods are made", among=tuple(KINDS)))
    mc_num: int = field(
        default=128,
        metadata=about("forward passes of a bound at the most; where all subsets take no more it is exact", low=1),
    )
    likelihood_block_length: int = field(default=32, metadata=about("tokens of a block of likelihood=block", low=1))
    is_greedy: bool = field(
        default=False,
        metadata=about(
            "whether greedy decoding, the surest first, writes the continuation (a pass a token); else always false"
        ),
    )
    quality: bool = field(default=False, metadata=about("judge every answer by the head, in one more pass"))
    sweep: Any = field(
        default=None, metadata=about('every combination in one run: `sweep="sampler=prism,wino;steps=32,64;seed=0,1"`')
    )
    report: str | None = field(
        default=None, metadata=about("a folder for the table and plot of a sweep, and for traces")
    )
    trace: bool = field(
        default=False,
        metadata=about("record every answer into the report folder (`prism trace view`); one text at a time"),
    )

    def __post_init__(self) -> None:
        for item in fields(self):
            _check(item, getattr(self, item.name))
        if self.pretrained is not None and self.model != "sudoku" and self.model is not self.pretrained:
            raise ConfigError("model and pretrained are both set, and differ: they are two words for one thing.")
        self.model = self.model if self.pretrained is None else self.pretrained
        if self.head is not None and self.head_folder is not None:
            raise ConfigError("head and head_folder are both set: they are two words for one thing.")
        self.head = self.head_folder if self.head is None else self.head
        if self.trace and not self.report:
            raise ConfigError("trace = True needs a folder to write to: report=FOLDER.")
        if self.parallelize and self.device_map is None:
            self.device_map = "auto"


def read(given: Mapping[str, Any]) -> tuple[Arguments, dict[str, Any]]:
    """Checked arguments, and settings of the sampler with its preset as ``name``; None values count as not given."""
    known = {item.name for item in fields(Arguments)}
    grouped: dict[str, dict[str, Any]] = {"sampler": {}, "cache": {}}
    plain: dict[str, Any] = {}
    for key, value in given.items():
        group, dot, rest = key.partition(".")
        if dot and group in grouped:
            grouped[group][rest] = value
        elif key not in known:
            raise unknown("setting", key, [*known, *(f"{group}.…" for group in grouped)])
        elif value is not None:
            plain[key] = value
    for group, named in grouped.items():
        whole = plain.pop(group, None)
        grouped[group] = {**(whole if isinstance(whole, Mapping) else {"name": whole} if whole else {}), **named}
    arguments = Arguments(**plain)
    try:
        arguments.cache = CacheConfig(**grouped["cache"])
    except TypeError:
        raise unknown(
            "setting", f"cache.{next(iter(grouped['cache']))}", [f"cache.{f.name}" for f in fields(CacheConfig)]
        ) from None
    return arguments, grouped["sampler"]


def generation(asked: Mapping[str, Any], max_gen_toks: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A task's ``generation_kwargs`` as (``until``, ``max_gen_toks``, …) and settings of the sampler.

    By lm-eval's own rules (``normalize_gen_kwargs``): ``do_sample=False`` is temperature 0; where it is not said the
    sampler's own temperature stays. ``sampler`` and ``sampler.*`` are taken as in ``--model_args``, and so is a
    sampler's setting by its bare name. What is left is for the sampler's schema to refuse.
    """
    numbers = [int(asked[name]) for name in MAX_TOKENS if asked.get(name) is not None]
    until = asked.get("until") or []
    plain: dict[str, Any] = {
        "until": [until] if isinstance(until, str) else list(until),
        "max_gen_toks": numbers[0] if numbers else max_gen_toks,
        **{name: True for name in ("infill", "quality") if asked.get(name)},
    }
    if plain["max_gen_toks"] < 0:
        raise ConfigError(f"max_gen_toks = {plain['max_gen_toks']}: allowed max_gen_toks >= 0.")
    if asked.get("num_beams", 1) != 1:
        raise ConfigError(
            f"num_beams = {asked['num_beams']}: allowed 1, there are no beams in a masked diffusion model."
        )
    settings: dict[str, Any] = {}
    for key, value in asked.items():
        if key == "sampler" and isinstance(value, Mapping):
            settings |= value
        elif key not in OWN and value is not None:
            settings["name" if key == "sampler" else key.removeprefix("sampler.")] = value
    if asked.get("do_sample") is False:
        settings["temperature"] = 0.0
    return plain, settings


def _check(item: Field, value: Any) -> None:
    """Raises ConfigError where a value is of another kind, too low, or none of those allowed."""
    if value is None:
        return
    for kind, words in ((bool, "true or false"), (int, "a whole number"), (str, "text")):
        if item.type in (kind, kind | None) and (not isinstance(value, kind) or (kind is int and value is True)):
            raise ConfigError(f"{item.name} = {value!r}: allowed {words}.")
    low, among = item.metadata["low"], item.metadata["among"]
    if low is not None and value < low:
        raise ConfigError(f"{item.name} = {value}: allowed {item.name} >= {low}.")
    if among and isinstance(value, str) and value not in among:
        raise unknown(item.name, value, among)
