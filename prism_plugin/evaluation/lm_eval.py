"""The model ``prism`` of lm-eval: ``lm_eval --model prism --tasks prism_sudoku``.

    --model_args model=sudoku,sampler=prism,sampler.steps=32     an embedded model (the default) or a folder of ours
    --model_args model=GSAI-ML/LLaDA-8B-Instruct,trust_remote_code=True,head=my_head,sampler=prism-llada
    --gen_kwargs temperature=0,steps=64                          sampler settings of one task

docs/lm_eval.md has every setting. Importing this module registers the model and puts ``evaluate`` around lm-eval's own;
the installed start-up file (``_prism_lm_eval``) has lm-eval import it by itself.
"""

import atexit
import hashlib
import json
import logging
import math
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.utils import simple_parse_args_string
from torch import Tensor
from tqdm import tqdm

from ..api import enable
from ..errors import CheckpointError, ConfigError, DataError, unknown
from ..models.hosts import is_ours, load_host
from ..quality.head import identity
from ..sampling import drive
from ..sampling.config import SamplerConfig, resolve
from ..sampling.trace import Recorder
from ..text import GridCodec, TokenizerCodec, cut, need
from . import evaluate
from .arguments import DTYPES, generation, read
from .figures import KINDS
from .likelihood import Scored, greedy, log_likelihood

log = logging.getLogger(__name__)

ON_CPU = 32
"""Texts at a time where there is no device whose memory could be searched."""


@dataclass
class Job:
    """What has to be written or scored once: the same content and repeat asked for at several ``places`` is one.

    digest: of the content; key: its first 32 bits, which key the random numbers. tokens (L,) int64; failed: why there
    can be no answer.
    """

    request: Instance
    repeat: int
    digest: str
    plain: dict[str, Any]
    config: SamplerConfig | None
    places: list[int] = field(default_factory=list)
    tokens: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    answer_length: int = 0
    truncated: bool = False
    failed: str = ""

    @property
    def key(self) -> int:
        """32 bits."""
        return int(self.digest[:8], 16)


@register_model("prism")
class PrismLM(LM):
    """Generates with any sampler of this package, scores by the bound that masked diffusion models are trained on."""

    def __init__(self, model: Any = None, **given: Any) -> None:
        """Settings are those of ``arguments.Arguments``; ``sampler.*`` and ``cache.*`` with their own names.

        Raises ConfigError for a setting, CheckpointError for a model that cannot be used, before anything runs.
        """
        super().__init__()
        self.arguments, self.sampler = read({**given, **({} if model is None else {"model": model})})
        self._join()
        self._device = self._pick_device()
        self._load()
        self.codec = need(self.prism.codec, self.prism.denoiser)
        self.tokenizer = self.codec.tokenizer if isinstance(self.codec, TokenizerCodec) else None
        self.max_length = min(
            self.prism.denoiser.max_length, self.arguments.max_length or self.prism.denoiser.max_length
        )
        self.max_gen_toks = min(self.arguments.max_gen_toks, self.max_length // 2)
        self._read_batch_size()
        resolve(self.prism.config())
        self.point: dict[str, Any] = {}  # of a sweep: settings that win over all others
        self.store: MutableMapping[str, Any] | None = None  # what has been answered, by content, where there is a file
        self.effective: dict[str, list[dict[str, Any]]] = {}  # settings of each task, as they were used
        self._said: set[str] = set()
        self._template: str | None = None
        self._rows: dict[int, int] = {}  # rows a pass that there is memory for, by the length of a text
        self._last: tuple[tuple[int, ...], Tensor] | None = None
        self.identity = {
            **identity(self.prism.denoiser), "dtype": str(self.dtype), "peft": self.arguments.peft,
            "max_length": self.max_length, "bos": self.arguments.add_bos_token,
            "cache": None if self.prism.denoiser.cache is None else self.prism.denoiser.cache.settings(),
        }  # fmt: skip

    # ---- making

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict, additional_config: dict | None = None) -> "PrismLM":
        """Of ``--model_args`` as a mapping, and ``--batch_size``, ``--max_batch_size`` and ``--device``, which count
        where they were typed and ``--model_args`` do not name them (lm-eval's own ends on what is named twice).
        """
        flags = {name: value for name, value in (additional_config or {}).items() if value is not None}
        for name, default, typed in (("batch_size", "1", ("-b", "--b")), ("device", "cuda:0", ("--d",))):
            if str(flags.get(name)) == default and not asked_for(*typed):
                del flags[name]  # the command line's own
        return cls(**{**flags, **arg_dict})

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict | None = None) -> "PrismLM":
        """The same of a string."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    def _load(self) -> None:
        given, name = self.arguments, self.arguments.model
        dtype = DTYPES.get(given.dtype, given.dtype)
        tokenizer = given.tokenizer
        if isinstance(tokenizer, str):
            from transformers import AutoTokenizer

            with loading("tokenizer", tokenizer):
                tokenizer = AutoTokenizer.from_pretrained(tokenizer, trust_remote_code=given.trust_remote_code)
        self.name = str(name) if isinstance(name, str | Path) else type(name).__name__
        placed = given.device_map is not None
        if isinstance(name, str | Path) and not is_ours(str(name)):
            if dtype == "auto":
                dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
            more = {"revision": given.revision, "device_map": given.device_map}
            name, own = load_host(
                str(name), trust_remote_code=given.trust_remote_code, mask_id=given.mask_id, dtype=dtype,
                **{key: value for key, value in more.items() if value is not None},
            )  # fmt: skip
            tokenizer = tokenizer or own
        elif placed or given.revision or given.peft:
            raise ConfigError(
                f"revision, peft, device_map and parallelize are for a host's checkpoint; {self.name!r} is none."
            )
        if given.peft:
            from peft import PeftModel

            with loading("peft", given.peft):
                PeftModel.from_pretrained(name.host, given.peft)  # in place: the layers stay in the host's model
        settings = {key: value for key, value in self.sampler.items() if key != "name"}
        self.prism = enable(
            name, given.head, host=given.host, tokenizer=tokenizer,
            trust_remote_code=given.trust_remote_code, cache=given.cache, sampler=self.sampler.get("name"), **settings,
        )  # fmt: skip
        denoiser = self.prism.denoiser
        if not placed:
            denoiser.to(self.device)
        if isinstance(dtype, torch.dtype) and is_floating(denoiser) != dtype and denoiser.head is None:
            denoiser.to(dtype)
        denoiser.eval()

    def _pick_device(self) -> torch.device:
        asked, there = self.arguments.device, torch.cuda.is_available()
        if asked is None or (asked == "cuda" and self.world_size > 1):
            asked = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if there else "cpu" if asked is None else asked
        try:
            device = torch.device(asked)
        except RuntimeError as error:
            raise ConfigError(f"device = {asked!r}: {str(error).splitlines()[0]}") from None
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise ConfigError(
                f"device = {asked!r} is not there: {torch.cuda.device_count()} CUDA devices are. Try device=cpu."
            )
        return device

    def _read_batch_size(self) -> None:
        asked = str(self.arguments.batch_size)
        word, _, number = asked.partition(":")
        try:
            self._auto = max(1, int(float(number or 1))) if word == "auto" else 0
            self._fixed = 0 if self._auto else int(asked)
        except ValueError:
            self._auto, self._fixed = 0, 0
        if not self._auto and self._fixed < 1:
            raise ConfigError(f"batch_size = {asked}: allowed batch_size >= 1, auto, or auto:N.")
        self.batch_size = "auto" if self._auto else self._fixed
        self.batch_sizes: dict[int, int] = {}

    @property
    def device(self) -> torch.device:
        """Where texts are written; lm-eval gathers there what several processes found."""
        return self._device

    @property
    def dtype(self) -> torch.dtype:
        """Of the model's weights."""
        return is_floating(self.prism.denoiser)

    # ---- several processes

    def _join(self) -> None:
        """Take part in what torchrun or accelerate launched."""
        self._world_size, self._rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
        if self._world_size < 2:
            self._world_size, self._rank = 1, 0
        elif not torch.distributed.is_initialized():
            if torch.cuda.is_available() and self.arguments.device in (None, "cuda"):
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
            torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
            atexit.register(torch.distributed.destroy_process_group)  # threads at the end of a process abort it

    def all_gather(self, tensor: Tensor) -> Tensor:
        """A number of every process, (W,)."""
        if self.world_size == 1:
            return tensor
        found = [torch.zeros_like(tensor) for _ in range(self.world_size)]
        torch.distributed.all_gather(found, tensor)
        return torch.stack(found)

    def gather_object(self, obj: Any, dst: int = 0) -> list[Any] | None:
        """An object of every process, on process ``dst``; None elsewhere."""
        if self.world_size == 1:
            return [obj]
        found = [None] * self.world_size if self.rank == dst else None
        torch.distributed.gather_object(obj, found, dst=dst)
        return found

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.world_size > 1:
            torch.distributed.barrier()

    @property
    def accelerator(self) -> SimpleNamespace:
        """Where lm-eval looked for ``all_gather`` and ``barrier`` before 0.4.10."""
        return SimpleNamespace(gather=self.all_gather, wait_for_everyone=self.barrier)

    # ---- text and tokens

    def tok_encode(self, text: str, add_special_tokens: bool | None = None) -> list[int]:
        """Tokens of a text that is nothing but text, with the beginning that tokenizer or add_bos_token give it."""
        ids = self.codec.literal(text, start=add_special_tokens is not False)
        bos = getattr(self.tokenizer, "bos_token_id", None)
        if add_special_tokens is False or self.arguments.add_bos_token is None or bos is None:
            return ids
        ids = ids[1:] if ids[:1] == [bos] else ids
        return [bos, *ids] if self.arguments.add_bos_token else ids

    @property
    def eot_token_id(self) -> int | None:
        """End of text."""
        return getattr(self.tokenizer, "eos_token_id", None)

    @property
    def prefix_token_id(self) -> int | None:
        """What stands before a text without context; None where the vocabulary has no such token."""
        bos = getattr(self.tokenizer, "bos_token_id", None)
        found = (self.arguments.prefix_token_id, bos, self.eot_token_id)
        return next((token for token in found if token is not None), None)

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Tokens of both, as lm-eval's TemplateLM has them: spaces at the border belong to the continuation, and what
        merges over the border is split where the context alone would end.
        """
        if not context:
            ids, prefix = self.tok_encode(continuation, add_special_tokens=False), self.prefix_token_id
            if prefix is None:
                return [], ids
            return ([prefix], ids) if ids[:1] != [prefix] else (ids[:1], ids[1:])
        bare = context.rstrip()
        continuation, context = context[len(bare) :] + continuation, bare
        if not context:
            return self._encode_pair("", continuation)
        start = self.tok_encode(context)
        return start, self.tok_encode(context + continuation)[len(start) :]

    # ---- what is asked for

    def _jobs(self, kind: str, requests: Sequence[Instance]) -> list[Job]:
        """Each content and repeat once. The repeat is the how-manieth time the very same request is handed over."""
        seen: Counter[int] = Counter()
        jobs: dict[str, Job] = {}
        for place, request in enumerate(requests):
            repeat = seen[id(request)] % max(1, request.repeats or len(requests))  # more of them only fill up a rank
            seen[id(request)] += 1
            if kind == "generate_until":
                plain, settings = generation(request.args[1], self.max_gen_toks)
                self._say_overrides(request, settings)
                config = self.config_of(settings)
                about: dict[str, Any] = {**plain, "sampler": config.settings()}
            else:
                names = ("likelihood", "mc_num", "likelihood_block_length", "is_greedy")
                plain, config = {name: getattr(self.arguments, name) for name in names}, None
                about = plain | {"seed": resolve(self.prism.config()).seed}
            used = self.effective.setdefault(str(request.task_name), [])
            if about not in used:
                used.append(about)
            content = [kind, request.args[0], about, repeat]
            if kind == "loglikelihood":
                content += [request.args[1], request.doc]
            digest = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
            jobs.setdefault(digest, Job(request, repeat, digest, plain, config)).places.append(place)
        return list(jobs.values())

    def config_of(self, settings: Mapping[str, Any]) -> SamplerConfig:
        """The sampler that a task's settings make of ours, resolved; ConfigError where one is not known."""
        named = {**settings, **self.point}
        return resolve(self.prism.config(named.pop("name", None), **named))

    def _say_overrides(self, request: Instance, settings: Mapping[str, Any]) -> None:
        for name, value in settings.items():
            given = self.sampler.get(name)
            if given is not None and given != value and name not in self.point:
                self._warn(
                    f"{request.task_name}: {name} = {value} of the task or gen_kwargs in place of {given} of model_args"
                )

    def _warn(self, message: str) -> None:
        """Once."""
        if message not in self._said and self.rank == 0:
            log.warning(message)
        self._said.add(message)

    def _stored(self, job: Job) -> str:
        return hashlib.sha256(json.dumps([job.digest, self.identity], sort_keys=True).encode()).hexdigest()

    def _run(
        self, kind: str, requests: Sequence[Instance], work: Callable[[list[Job]], Iterator[tuple[Job, Any, dict]]],
        disable_tqdm: bool,
    ) -> list[Any]:  # fmt: skip
        """Answers in the order of the requests; what the store has is not made again, what is made goes into it."""
        jobs, answers = self._jobs(kind, requests), [None] * len(requests)
        with tqdm(total=len(jobs), desc=f"prism {kind}", disable=disable_tqdm or self.rank != 0) as progress:

            def take(job: Job, value: Any, figures: dict[str, Any]) -> None:
                for place in job.places:
                    answers[place] = KINDS[kind](value, figures)
                progress.update()

            left = []
            for job in jobs:
                known = None if self.store is None else self.store.get(self._stored(job))
                if known is None:
                    left.append(job)
                else:
                    take(job, *known)
            for job, value, figures in work(left):
                if self.store is not None:
                    self.store[self._stored(job)] = (value, figures)
                self.cache_hook.add_partial(kind, job.request.args, value)
                take(job, value, figures)
        return answers

    # ---- generating

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """One text a request, cut before the first of its ``until`` strings.

        A request's random numbers are keyed by its content, the settings that are in force, and the repeat: answers do
        not depend on the batch size, the order, on what else is asked for, on a run that was broken off, or on how many
        processes share the work. A document that cannot be written has an empty answer; DataError where all are such.
        """
        return self._run("generate_until", requests, self._generate, disable_tqdm)

    def _generate(self, jobs: list[Job]) -> Iterator[tuple[Job, Any, dict[str, Any]]]:
        groups: dict[str, list[Job]] = defaultdict(list)
        problems: list[DataError] = []
        for job in jobs:
            try:
                self._prompt(job)
            except DataError as error:
                job.failed = str(error)
                problems.append(error)
        if problems and len(problems) == len(jobs):
            raise problems[0]
        truncated = sum(job.truncated for job in jobs)
        if truncated:
            log.warning(
                "%d of %d prompts do not fit into the model's %d tokens with their answers: cut off on the left.",
                truncated, len(jobs), self.max_length,
            )  # fmt: skip
        if problems:
            log.warning(
                "%d of %d documents have no answer, the first for this: %s", len(problems), len(jobs), problems[0]
            )
        for job in jobs:
            if job.failed or job.plain.get("quality") or not job.answer_length:
                figures = {"failed": job.failed} if job.failed else {"forwards": 0}
                yield job, (self._judged(job) if job.plain.get("quality") and not job.failed else ""), figures
            else:
                groups[
                    json.dumps([job.plain, job.config and job.config.settings()], sort_keys=True, default=str)
                ].append(job)
        for group in groups.values():
            group.sort(key=lambda job: (-len(job.tokens), job.digest))
            size = math.ceil(len(group) / max(1, self._auto))
            for first in range(0, len(group), size):
                yield from self._write(group[first : first + size])

    def _prompt(self, job: Job) -> None:
        """The tokens of a prompt with the masks of its answer; DataError where there can be none."""
        text, number = job.request.args[0], job.plain["max_gen_toks"]
        if job.plain.get("infill") or job.plain.get("quality") or isinstance(self.codec, GridCodec):
            job.tokens = self.codec.encode(text, 0)
            if len(job.tokens) > self.max_length:
                raise DataError(f"a text of {len(job.tokens)} tokens: the model has {self.max_length}.")
            job.answer_length = int((job.tokens == self.prism.denoiser.mask_id).sum())
            return
        ids, room = self.tok_encode(text), self.max_length - number
        if room < 1:
            raise ConfigError(
                f"max_gen_toks = {number} leaves no room for a prompt: the model has {self.max_length} positions."
            )
        if len(ids) > room:
            if not self.arguments.truncation:
                raise DataError(
                    f"a prompt of {len(ids)} tokens: beside an answer of {number} there is room for {room}."
                )
            ids, job.truncated = ids[-room:], True
        job.tokens = torch.tensor([*ids, *[self.prism.denoiser.mask_id] * number], dtype=torch.long)
        job.answer_length = number

    def _write(self, jobs: list[Job]) -> Iterator[tuple[Job, Any, dict[str, Any]]]:
        """Jobs of the same settings, some slots at a time, half as many where the memory does not hold them."""
        slots = self._slots(jobs)
        left = jobs
        while left:
            self.batch_sizes[len(self.batch_sizes)] = slots  # for the results file, as HFLM has them
            done: set[str] = set()
            try:
                for job, value, figures in self._alone(left) if self.arguments.trace else self._together(left, slots):
                    done.add(job.digest)
                    yield job, value, figures
            except RuntimeError as error:
                if not out_of_memory(error) or slots == 1:
                    raise
                slots //= 2
                log.warning("out of memory: going on with %d texts at a time.", slots)
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
            left = [job for job in left if job.digest not in done]

    def _given(self, jobs: Sequence[Job]) -> dict[str, Any]:
        until = [] if self.arguments.think_end_token else jobs[0].plain["until"]
        stop = [*self.codec.ends, *(ids for text in until if (ids := self.codec.stop(text)))]
        return {"request": torch.tensor([job.key for job in jobs]), "stop": stop, "pad_id": self.codec.end_id}

    def _together(self, jobs: list[Job], slots: int) -> Iterator[tuple[Job, Any, dict[str, Any]]]:
        config, denoiser = jobs[0].config, self.prism.denoiser
        assert config is not None
        texts = [job.tokens for job in jobs]
        for numbers, result in drive.finished(denoiser, texts, config, slots=slots, **self._given(jobs)):
            for row, number in enumerate(numbers):
                yield jobs[number], *self._read(jobs[number], result, row, result.seconds / len(numbers))

    def _alone(self, jobs: list[Job]) -> Iterator[tuple[Job, Any, dict[str, Any]]]:
        """One by one, each recorded into the report folder."""
        for job in jobs:
            config, recorder = job.config, Recorder()
            assert config is not None and self.arguments.report is not None
            tokens = job.tokens[None].to(self.device)
            given = self._given([job])
            given["request"] = given["request"].to(self.device)
            result = drive.generate(self.prism.denoiser, tokens, config, callback=recorder, **given)
            folder = Path(self.arguments.report) / "traces"
            folder.mkdir(parents=True, exist_ok=True)
            file = folder / f"{job.request.task_name}-{job.request.doc_id}-{job.digest[:8]}.npz"
            grid = getattr(getattr(self.codec, "task", None), "grid", 0)
            words = str if grid else lambda token: self.codec.show(torch.tensor([token]))
            recorder.trace(grid, words).save(file)
            value, figures = self._read(job, result, 0, result.seconds)
            yield job, value, figures | {"trace": file.name}

    def _read(self, job: Job, result: drive.Result, row: int, seconds: float) -> tuple[str, dict[str, Any]]:
        """The answer that a row of a result holds, and its figures."""
        tokens = result.tokens[row, result.tokens.shape[1] - len(job.tokens) :].cpu()
        written = job.tokens == self.prism.denoiser.mask_id
        text = self.codec.answer(tokens, written)
        if self.arguments.think_end_token:
            text = text.split(self.arguments.think_end_token)[-1].lstrip()
        figures: dict[str, Any] = {
            "forwards": int(result.forwards[row]), "cost": float(result.cost[row]),
            "remasked": int(result.remasked[row]), "wasted": int(result.wasted[row]), "cut": bool(result.cut[row]),
            "tokens": int((written & (tokens != self.codec.end_id)).sum()), "seconds": seconds,
        }  # fmt: skip
        if job.truncated:
            figures["truncated"] = True
        if self.arguments.quality and self.prism.denoiser.head is not None:
            quality = self._quality(tokens)[written & (tokens != self.codec.end_id)]
            if len(quality):
                figures |= {"quality_mean": float(quality.mean()), "quality_least": float(quality.min())}
        return cut(text, job.plain["until"]), figures

    def _quality(self, tokens: Tensor) -> Tensor:
        """How likely each token of a text (L,) is right, (L,) f32; a pass of its own, nothing of it kept."""
        kept, self.prism.denoiser.cache = self.prism.denoiser.cache, None
        try:
            return self.prism.score(tokens[None].to(self.device))[0].cpu()
        finally:
            self.prism.denoiser.cache = kept

    def _judged(self, job: Job) -> str:
        """The quality of every token of a text that is there already: JSON, [characters up to its end, quality]."""
        quality = self._quality(job.tokens).tolist()
        ends = [len(self.codec.show(job.tokens[: n + 1])) for n in range(len(job.tokens))]
        return json.dumps([[end, round(one, 6)] for end, one in zip(ends, quality, strict=True)])

    def _slots(self, jobs: Sequence[Job]) -> int:
        """Texts at a time: as asked for, or of ``max_batch_size`` and its halves the most that there is memory for."""
        if not self._auto:
            return self._fixed
        most = min(self.arguments.max_batch_size, len(jobs))
        if self.device.type == "cpu":
            return max(1, min(most, ON_CPU))
        return self.fitting(most, max(len(job.tokens) for job in jobs))

    @torch.no_grad()
    def fitting(self, most: int, length: int) -> int:
        """How many texts of ``length`` tokens a pass with all their logits has memory for: ``most``, or its half, …"""
        size, denoiser = most, self.prism.denoiser
        while size > 1:
            try:
                tokens = torch.full((size, length), denoiser.mask_id, device=self.device)
                output = denoiser(tokens, None)
                denoiser.project(output, torch.arange(size * min(length, 256), device=self.device))
                return size
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
            size //= 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        return 1

    # ---- scoring

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log-likelihood in nats, is greedy) a request, by ``likelihood`` and ``mc_num``; see ``likelihood``.

        Draws are keyed by the document, so that all choices of a question have the same masks. is greedy is what its
        setting says, and False where that is off.
        """
        return self._run("loglikelihood", requests, self._score, disable_tqdm)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of whole texts, in disjoint windows of the model's length, each behind one token."""
        return self._run("loglikelihood_rolling", requests, self._score_whole, disable_tqdm)

    def _score(self, jobs: list[Job]) -> Iterator[tuple[Job, Any, dict[str, Any]]]:
        for job in jobs:
            started = time.perf_counter()
            doc = json.dumps(job.request.doc or job.request.args[0], sort_keys=True, default=str)
            key = int(hashlib.sha256(doc.encode()).hexdigest()[:8], 16)
            context, answer = self._encode_pair(*job.request.args[:2])
            scored, same = self._likelihood(context, answer, key), False
            if self.arguments.is_greedy:
                room = max(0, self.max_length - len(answer))
                same, passes = greedy(
                    self.prism.denoiser, _ids(context[len(context) - room :] if room else []), _ids(answer)
                )
                scored.forwards += passes
            yield job, (scored.value, same), self._about(scored, len(answer), started)

    def _score_whole(self, jobs: list[Job]) -> Iterator[tuple[Job, Any, dict[str, Any]]]:
        for job in jobs:
            started, prefix = time.perf_counter(), self.prefix_token_id
            ids = self.tok_encode(job.request.args[0])
            before = [] if prefix is None or ids[:1] == [prefix] else [prefix]
            scored = self._likelihood(before, ids, job.key)
            yield job, scored.value, self._about(scored, len(ids), started)

    def _likelihood(self, context: list[int], answer: list[int], key: int) -> Scored:
        """Of an answer, in windows where it is longer than the model, behind as much of the context as has room."""
        found = []
        size = max(1, self.max_length - 1)
        for start in range(0, max(1, len(answer)), size):
            window = answer[start : start + size]
            before = (context + answer[:start]) if start == 0 else answer[start - 1 : start]
            before = before[max(0, len(before) - (self.max_length - len(window))) :]
            found.append(self._window(before, window, key + start))
        known = [one.stderr for one in found]
        stderr = None if None in known else math.hypot(*known)  # type: ignore[arg-type]
        draws = found[0].draws if len(found) == 1 else None
        return Scored(sum(o.value for o in found), stderr, sum(o.forwards for o in found), draws=draws)

    @torch.no_grad()
    def _window(self, context: list[int], answer: list[int], key: int) -> Scored:
        given = self.arguments
        if len(answer) == 1:  # all choices of a question by one pass
            if self._last is None or self._last[0] != tuple(context):
                row = _ids([*context, self.prism.denoiser.mask_id])[None].to(self.device)
                output = self.prism.denoiser(row, None)
                logits, _ = self.prism.denoiser.project(output, torch.tensor([len(context)], device=self.device))
                self._last = (
                    tuple(context),
                    (logits[0] if len(logits) == 1 else logits[len(context)]).float().log_softmax(-1),
                )
            return Scored(float(self._last[1][answer[0]]), 0.0, 1)
        size = self._fixed or self._rows.setdefault(len(context) + len(answer), 0)
        while True:
            size = size or (
                ON_CPU if self.device.type == "cpu" else self.fitting(given.max_batch_size, len(context) + len(answer))
            )
            try:
                return log_likelihood(
                    self.prism.denoiser, _ids(context), _ids(answer), kind=given.likelihood, mc_num=given.mc_num,
                    block_length=given.likelihood_block_length, batch_size=size, seed=resolve(self.prism.config()).seed,
                    key=key,
                )  # fmt: skip
            except RuntimeError as error:
                if not out_of_memory(error) or size == 1:
                    raise
                size //= 2
                log.warning("out of memory: going on with %d rows at a time.", size)
            finally:
                if self._auto:
                    self._rows[len(context) + len(answer)] = size

    def _about(self, scored: Scored, tokens: int, started: float) -> dict[str, Any]:
        return {
            "forwards": scored.forwards, "stderr": scored.stderr, "tokens": tokens,
            "seconds": time.perf_counter() - started,
            **({} if scored.draws is None else {"draws": scored.draws.tolist()}),
        }  # fmt: skip

    # ---- conversations

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template, chosen by name where there are several; ConfigError where that one is not there."""
        if not chat_template:
            return None
        known = getattr(self.tokenizer, "chat_template", None)
        if isinstance(chat_template, str) and not (isinstance(known, dict) and chat_template in known):
            raise unknown("chat template", chat_template, known if isinstance(known, dict) else ())
        if isinstance(known, dict):
            name = chat_template if isinstance(chat_template, str) else "default"
            if name not in known:
                raise ConfigError(
                    f"there are several chat templates, none is the default: name one of {', '.join(sorted(known))}."
                )
            self._template = name
            return known[name]
        if not known:
            raise ConfigError(f"the model {self.name!r} has no chat template: leave --apply_chat_template out.")
        return known

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as a prompt; without the system's message where the template refuses one.

        Raises ConfigError for a model without a template.
        """
        from jinja2.exceptions import TemplateError

        self.chat_template(self._template or True)
        more = dict(self.arguments.chat_template_args or {})
        if self.arguments.enable_thinking is not None:
            more["enable_thinking"] = self.arguments.enable_thinking
        if self._template:
            more["chat_template"] = self._template

        def written(history: list[dict[str, str]]) -> str:
            return self.tokenizer.apply_chat_template(
                history, tokenize=False, add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt, **more,
            )  # fmt: skip

        try:
            return written(chat_history)
        except TemplateError:
            rest = [message for message in chat_history if message["role"] != "system"]
            if len(rest) == len(chat_history):
                raise
            self._warn("the chat template refuses a system message: conversations go without it.")
            return written(rest)

    @property
    def tokenizer_name(self) -> str:
        """Names the tokenizer and its template in lm-eval's cache of requests."""
        name = str(getattr(self.tokenizer, "name_or_path", "") or self.name).replace("/", "__")
        known = getattr(self.tokenizer, "chat_template", None)
        about = json.dumps([known, self._template, self.arguments.chat_template_args, self.arguments.enable_thinking])
        return f"{name}-{hashlib.sha256(about.encode()).hexdigest()[:12]}" if known else name

    # ---- what is told

    def get_model_info(self) -> dict[str, Any]:
        """What goes into the results file about the model; the settings of each task stand under ``prism``."""
        denoiser, given = self.prism.denoiser, self.arguments
        return {
            "prism_model": self.name, "prism_fingerprint": self.identity["model"], "prism_head": self.identity["head"],
            "model_num_parameters": sum(p.numel() for p in denoiser.parameters()), "model_dtype": str(self.dtype),
            "model_revision": given.revision, "prism_peft": given.peft, "prism_cache": self.identity["cache"],
            "prism_device": str(self.device), "prism_processes": self.world_size,
        }  # fmt: skip

    def check_tasks(self, tasks: Mapping[str, Any]) -> None:
        """Raises ConfigError where a task asks for what there is not, before anything is generated."""
        for name, task in tasks.items():
            kind = task.OUTPUT_TYPE
            allowed = ["generate_until"] if isinstance(self.codec, GridCodec) else [*KINDS, "multiple_choice"]
            if kind not in allowed:
                raise ConfigError(
                    f"task {name!r} is of output_type {kind!r}; the model {self.name!r} does {', '.join(allowed)}."
                )
            if kind == "generate_until":
                self.config_of(generation(task.get_config("generation_kwargs") or {}, self.max_gen_toks)[1])
            elif kind == "loglikelihood" and not self.arguments.is_greedy:
                self._warn(
                    f"task {name!r} may ask whether greedy decoding writes an answer: without is_greedy=True "
                    "that is always no."
                )


def is_floating(module: torch.nn.Module) -> torch.dtype:
    """The dtype of a module's weights."""
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)


def out_of_memory(error: RuntimeError) -> bool:
    """Whether it says that a device, or the machine, had no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


@contextmanager
def loading(setting: str, value: str) -> Iterator[None]:
    """What a library says of a folder or hub id that a setting names, as one CheckpointError."""
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{setting} = {value!r} cannot be loaded: {str(error).splitlines()[0]}") from error


def asked_for(*flags: str) -> bool:
    """Whether one of these (beginnings of) flags was given, where lm-eval's command line hands over defaults of its own
    (batch_size=1, device=cuda:0) without a word. In Python whatever comes was asked for.
    """
    command = {"lm_eval._cli.run", "lm_eval.__main__"} & set(sys.modules)
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if not command and getattr(spec, "name", "") != "lm_eval.__main__":
        return True
    return any(word.startswith((*flags, "--config", "-C")) for word in sys.argv[1:])


def _ids(tokens: Sequence[int]) -> Tensor:
    return torch.tensor(list(tokens), dtype=torch.long)


evaluate.install()
