"""``prism batch``: the rows of a corpus written, scored, corrected or filled in, a window of them at a time.

A window is ``rows`` rows of the input in its order, and one file of the output, which is there when it is whole: a job
that was killed goes on with the windows that are not there. Within a window texts are batched by length and take each
other's slots (``sampling.drive.finished``); random numbers are keyed by a row's number in the input, so that neither
the batch nor whoever wrote it shows in a text.
"""

import fcntl
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor

from . import inputs
from .api import Prism, enable
from .config import DataConfig
from .errors import ConfigError, DataError, PrismError, said, unknown
from .files import load_json, output_folder, save_json, write_atomic
from .quality.head import identity
from .sampling.config import SamplerConfig, resolve
from .sampling.drive import batches, finished
from .sampling.state import lay_out
from .text import need
from .training.data import Sieve, read

KINDS = ("generate", "score", "correct", "infill")
FORMATS = ("jsonl", "parquet")
COUNTS = ("forwards", "fills", "remasked", "overwritten", "wasted")
COLUMNS = {"generate": ("prompt", "messages", "text"), "infill": ("text", "prompt")}
"""Columns that are looked for, the first that is there is taken; ``text`` for all else."""
ABOUT = ".batch.json"
"""The job that a folder's parts are of; hidden, so that the folder can be read as data."""
SAME = (
    "data", "split", "column", "model", "head", "mask_id", "cache", "max_new_tokens", "stop", "rows", "format",
    "quality", "dtype", "sampler",
)  # fmt: skip
"""Settings that a job must be gone on with; where it runs, and in how many slots, may change."""


@dataclass
class BatchConfig:
    """Settings of ``prism batch``.

    data: a file or folder as ``training.data.read`` takes them. column: of the text or prompt. out: a folder of parts
    of ``rows`` rows each. quality: write the quality of every token. slots: texts in work at a time. cluster: empty for
    this process, ``auto`` or the address of a Ray cluster for ``workers`` actors (0: one a GPU, or one). sampler: one
    without a name is the model's own.
    """

    data: str = ""
    split: str = "train"
    column: str = ""
    out: str = ""
    model: str = ""
    head: str = ""
    trust_remote_code: bool = False
    mask_id: Optional[int] = None
    dtype: str = "float32"
    device: str = ""
    cache: str = "none"
    max_new_tokens: int = 0
    stop: list[str] = field(default_factory=list)
    quality: bool = False
    slots: int = 8
    rows: int = 512
    format: str = "jsonl"
    resume: bool = False
    overwrite: bool = False
    cluster: str = ""
    workers: int = 0
    sampler: SamplerConfig = field(default_factory=SamplerConfig)

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise unknown("format", self.format, FORMATS)
        for name, low in {"slots": 1, "rows": 1, "workers": 0, "max_new_tokens": 0}.items():
            inputs.count(getattr(self, name), name, low, 2**31 - 1)
        if self.resume and self.overwrite:
            raise ConfigError("resume and overwrite are both set: go on with what is there, or replace it.")
        if self.workers and not self.cluster:
            raise ConfigError(f"workers = {self.workers}: without cluster=auto all is done in this process.")


class Summary(NamedTuple):
    """rows and failed: of the whole input. made: rows of this run."""

    rows: int
    failed: int
    made: int


class Broken(str):
    """What is wrong with a row that could not be read."""


class Kept(Sieve):
    """Rows that cannot be read are kept, as what is wrong with them."""

    def __call__(self, where: str, make: Callable[..., Any], *given: Any) -> Any:
        """See ``Sieve``."""
        try:
            return make(*given)
        except MemoryError:
            raise
        except Exception as error:
            return Broken(_line(error))


RETRIES = 3
"""How many times a part is made again whose actor has died."""
Row = tuple[int, str, Any]
"""A row's number in the input, where it stands, and what it holds."""


def enabled(config: BatchConfig) -> Prism:
    """The model that the settings name, ready; ConfigError and CheckpointError as ``api.enable`` raises them."""
    if not config.model:
        raise ConfigError("model is not set: model=… is an embedded model, a folder, or a hub id.")
    device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return enable(
        config.model, config.head or None, trust_remote_code=config.trust_remote_code, mask_id=config.mask_id,
        dtype=inputs.precision(config.dtype), device=device, cache=config.cache,
    )  # fmt: skip


class _Text(NamedTuple):
    number: int
    tokens: Tensor  # (L,) int64
    editable: Tensor  # (L,) bool


class Writer:
    """The work of one kind on windows of rows. ConfigError where the sampler cannot run on the model."""

    def __init__(self, kind: str, config: BatchConfig, prism: Prism) -> None:
        self.kind, self.prism, self.config = kind, prism, config
        if kind != "score":
            asked = config.sampler.settings()
            self.sampler = prism.config(asked.pop("name") or None, **asked)
            self.resolved = resolve(self.sampler)
        codec = need(prism.codec, prism.denoiser) if config.stop else prism.codec
        self.ends = [] if codec is None or kind != "generate" else list(codec.ends)
        self.ends += [ids for text in config.stop if codec is not None and (ids := codec.stop(text))]

    def __call__(self, window: Iterable[Row]) -> list[dict[str, Any]]:
        """The rows of the output, in the order of the input; one that fails holds its ``error`` and ``where``.

        Raises DataError where the rows that the input begins with cannot be read, all for one reason: it is a setting
        that is wrong then, and no row.
        """
        made: dict[int, dict[str, Any]] = {}
        places: dict[int, str] = {}
        texts = []
        for number, where, row in window:
            places[number] = where
            try:
                texts.append(self._read(number, row))
            except PrismError as error:
                made[number] = {"error": _line(error)}
        reasons = {about["error"] for about in made.values()}
        if 0 in places and not texts and len(made) > len(reasons) == 1:
            raise DataError(f"all of the first {len(made)} rows fail alike ({places[0]}): {reasons.pop()}")
        try:
            made |= self._made(texts)
        except Exception as error:  # of one row, or of memory that the batch has no place in: each for itself
            failed = 0
            for text in texts:
                try:
                    made |= self._made([text])
                except Exception as own:
                    failed, made[text.number] = failed + 1, {"error": _line(own)}
            if failed == len(texts) > 1:
                raise error
        return [
            {"row": number, **made[number], **({"where": where} if "error" in made[number] else {})}
            for number, where in sorted(places.items())
        ]

    def _read(self, number: int, row: Any) -> _Text:
        """A row as what is written of it; DataError or ConfigError where it cannot be."""
        given = self._column(row)
        if self.prism.codec is None and isinstance(given, str):
            raise DataError("the model has no tokenizer: a list of token ids is wanted in the place of text")
        literal = self.kind in ("score", "correct")
        found = self.prism._given([given], self.config.max_new_tokens, literal=literal)
        tokens = found.each[0].cpu()
        mask_id = self.prism.denoiser.mask_id
        if not len(tokens):
            raise DataError("an empty text")
        inputs.short_enough(len(tokens), self.prism.denoiser)
        inputs.in_vocabulary(tokens, self.prism.denoiser, "text")
        if self.kind == "correct":
            editable = self.prism._editable(tokens) if found.spoken else torch.ones_like(tokens, dtype=torch.bool)
        else:
            editable = tokens == mask_id
        if self.kind == "generate" and not bool(editable.any()):
            raise DataError("nothing to write: max_new_tokens=… says how many tokens, or [MASK] is a hole of one token")
        if self.kind != "score":
            lay_out(editable[None], self.resolved)
        return _Text(number, tokens, editable)

    def _column(self, row: Any) -> Any:
        if isinstance(row, Broken):
            raise DataError(str(row))
        if isinstance(row, str):
            return row
        if not isinstance(row, dict):
            raise DataError(f"no row: an object is wanted, {said(row)} came")
        names = (self.config.column,) if self.config.column else COLUMNS.get(self.kind, ("text",))
        name = next((name for name in names if row.get(name) is not None), None)
        if name is None:
            raise DataError(f"no column {' or '.join(names)}; {sorted(map(str, row))} came, and column=… names one")
        if not isinstance(row[name], str | list):
            raise DataError(f"{name} = {said(row[name])}: text or a list of token ids is wanted")
        return row[name]

    def _made(self, texts: list[_Text]) -> dict[int, dict[str, Any]]:
        if not texts:
            return {}
        if self.kind == "score":
            return dict(self._scored(texts))
        made, ended = {}, []
        for text, about in self._written(texts):
            made[text.number] = about
            ended.append(text)
        for text, quality in self._qualities(ended) if self.config.quality else ():
            made[text.number] |= self._each(text.tokens, quality)
        return made

    def _scored(self, texts: list[_Text]) -> Iterator[tuple[int, dict[str, Any]]]:
        for text, quality in self._qualities(texts):
            seen = quality[~quality.isnan()]
            figures = {"mean": float(seen.mean()), "least": float(seen.min())} if len(seen) else {}
            about = {**self._shown(text.tokens, text), "forwards": 1, **figures}
            yield text.number, about | (self._each(text.tokens, quality) if self.config.quality else {})

    def _written(self, texts: list[_Text]) -> Iterator[tuple[_Text, dict[str, Any]]]:
        """Texts in the order in which they end, as they were left, and what is said of each."""
        for some, result in finished(
            self.prism.denoiser, [text.tokens for text in texts], self.sampler, slots=self.config.slots,
            request=torch.tensor([text.number for text in texts]), editable=[text.editable for text in texts],
            stop=self.ends, pad_id=self.prism._pad_id,
        ):  # fmt: skip
            for place, index in enumerate(some):
                given = texts[index]
                tokens = result.tokens[place].cpu()
                tokens = tokens[len(tokens) - len(given.tokens) :]
                counts = {name: int(getattr(result, name)[place]) for name in COUNTS}
                costs = {"cost": round(float(result.cost[place]), 3), "cut": bool(result.cut[place])}
                yield given._replace(tokens=tokens), {**self._shown(tokens, given), **counts, **costs}

    def _shown(self, tokens: Tensor, given: _Text) -> dict[str, Any]:
        """A text as a string, or as ids where the model has no tokenizer."""
        codec = self.prism.codec
        if codec is None:
            return {"tokens": tokens.tolist()}
        if self.kind == "generate":
            return {"text": self.prism._answer(tokens, given.tokens, self.config.stop)}
        written = given.editable if self.kind == "correct" else given.tokens == self.prism.denoiser.mask_id
        return {"text": codec.show(tokens, written)}

    def _each(self, tokens: Tensor, quality: Tensor) -> dict[str, Any]:
        """Every token with its quality, None at masks."""
        figures = [None if figure != figure else round(figure, 6) for figure in quality.tolist()]
        codec = self.prism.codec
        return {"quality": figures} if codec is None else {"pieces": codec.pieces(tokens), "quality": figures}

    @torch.no_grad()
    def _qualities(self, texts: list[_Text]) -> Iterator[tuple[_Text, Tensor]]:
        """Texts with the quality (L,) f32 of their tokens, NaN at masks, ``slots`` at a time."""
        prism, device = self.prism, inputs.device_of(self.prism.denoiser)
        ragged = "padding" in prism.denoiser.gives and self.config.slots > 1
        for numbers, tokens, real in batches([text.tokens for text in texts], prism._pad_id, ragged):
            for first in range(0, len(numbers), self.config.slots):
                part = slice(first, first + self.config.slots)
                padding = None if real is None else real[part].to(device)
                quality = prism._quality(tokens[part].to(device), padding).float().cpu()
                for index, row in zip(numbers[part], quality, strict=True):
                    yield texts[index], row[len(row) - len(texts[index].tokens) :]


# ---- the job


def run(
    kind: str, config: BatchConfig, prism: Prism | None = None, done: Callable[[int, int], None] | None = None
) -> Summary:
    """Do the work of one kind on all rows of ``config.data``; parts in the folder ``config.out``.

    prism: a model in memory, in place of the one that the settings name. done(rows, failed) is called after each part,
    those that were there already too. Raises ConfigError before any work where the settings cannot be meant or
    ``out`` holds a job that they do not go on with, DataError where the input cannot be read on.
    """
    if kind not in KINDS:
        raise unknown("kind of work", kind, KINDS)
    if not config.data or not config.out:
        raise ConfigError(f"{'out' if config.data else 'data'} is not set: data=FILE out=FOLDER are needed.")
    if prism is not None and config.cluster:
        raise ConfigError("a model in memory stays in this process: name it with model=… for a cluster.")
    if config.max_new_tokens and kind != "generate":
        raise ConfigError(f"max_new_tokens = {config.max_new_tokens}: only generate writes behind a text, not {kind}.")
    out, data = Path(config.out), Path(config.data).expanduser()
    if data.is_dir() and data.resolve() in (out.resolve(), *out.resolve().parents):
        raise ConfigError(f"out = {config.out!r} lies in data = {config.data!r}: name a folder outside of it.")
    windows = _windows(read(DataConfig(name=config.data, split=config.split), Kept()), config.rows)
    first = next(windows, None)
    if first is None:
        raise DataError(f"data {config.data!r} is empty: there is no row.")
    writers = None if config.cluster else Writer(kind, config, prism or enabled(config))
    of = None if writers is None else identity(writers.prism.denoiser)
    with _job(kind, config, out, data, of):
        rows = failed = made = 0

        def missing() -> Iterator[tuple[int, list[Row]]]:
            nonlocal rows, failed
            for number, window in enumerate(chain([first], windows)):
                part = _part(out, number, config.format)
                if part.exists():
                    wrong = _failed(part)
                    rows, failed = rows + len(window), failed + wrong
                    if done is not None:
                        done(len(window), wrong)
                    continue
                yield number, window

        work = _here(writers, missing()) if writers is not None else _on_ray(kind, config, missing())
        for number, found in work:
            _write(_part(out, number, config.format), found, config.format)
            wrong = sum("error" in row for row in found)
            rows, failed, made = rows + len(found), failed + wrong, made + len(found)
            if done is not None:
                done(len(found), wrong)
        save_json(out / ABOUT, {**load_json(out / ABOUT), "done": {"rows": rows, "failed": failed}})
    return Summary(rows, failed, made)


def _windows(rows: Iterator[tuple[str, Any]], size: int) -> Iterator[list[Row]]:
    numbered = ((number, where, row) for number, (where, row) in enumerate(rows))
    while window := list(islice(numbered, size)):
        yield window


def _here(writer: Writer, windows: Iterator[tuple[int, list[Row]]]) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    for number, window in windows:
        yield number, writer(window)


def _on_ray(
    kind: str, config: BatchConfig, windows: Iterator[tuple[int, list[Row]]]
) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Windows as they end on actors, each with a model of its own. Two wait at each, no more are read; an actor that
    dies is begun again, and so is its window.
    """
    try:
        import ray
    except ImportError:
        raise ConfigError("cluster=… needs ray: pip install 'prism-plugin[cluster]'.") from None
    ray.init(
        address=None if config.cluster == "auto" else config.cluster, ignore_reinit_error=True, log_to_driver=False,
        logging_level=logging.ERROR, include_dashboard=False,
    )  # fmt: skip
    gpus = int(ray.cluster_resources().get("GPU", 0))
    actor = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0, max_restarts=-1, max_task_retries=RETRIES)(Actor)
    model = str(Path(config.model).resolve()) if Path(config.model).is_dir() else config.model
    given = replace(config, model=model)
    actors: list[Any] = [actor.remote(kind, given) for _ in range(config.workers or gpus or 1)]
    try:
        work: dict[Any, tuple[Any, int]] = {}
        free = [one for one in actors for _ in range(2)]
        while True:
            while free and (each := next(windows, None)) is not None:
                one = free.pop(0)
                work[one.windows.remote(each[1])] = (one, each[0])
            if not work:
                return
            for ended in ray.wait(list(work))[0]:
                one, number = work.pop(ended)
                free.append(one)
                try:
                    found = ray.get(ended)
                except ray.exceptions.RayTaskError as error:
                    raise error.cause if isinstance(error.cause, PrismError) else error from None
                except ray.exceptions.RayActorError as error:
                    raise PrismError(
                        f"a worker died {RETRIES + 1} times over part {number:06d} ({_line(error)}). What is written "
                        "stays: resume=true goes on with it, perhaps with fewer slots."
                    ) from error
                yield number, found
    finally:
        for one in actors:
            ray.kill(one)


class Actor:
    """A model of its own on a machine of a cluster."""

    def __init__(self, kind: str, config: BatchConfig) -> None:
        self.kind, self.config = kind, config

    @cached_property
    def writer(self) -> Writer:
        """Made by the first window, so that its error is known; that of a constructor Ray takes for a death."""
        return Writer(self.kind, self.config, enabled(self.config))

    def windows(self, window: list[Row]) -> list[dict[str, Any]]:
        """See ``Writer``."""
        return self.writer(window)


# ---- files


def _part(out: Path, number: int, ending: str) -> Path:
    return out / f"part-{number:06d}.{ending}"


@contextmanager
def _job(
    kind: str, config: BatchConfig, out: Path, data: Path, of: dict[str, str | None] | None = None
) -> Iterator[None]:
    """The folder of a job, held by this process alone; ConfigError where it is another's or holds another job.

    of: the model's ``identity``, where it is in this process.
    """
    output_folder(out)
    with open(out / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(f"out = {config.out!r}: another process works on it.") from None
        about = json.loads(json.dumps({"kind": kind, "bytes": _sizes(data), **_settings(config), "weights": of}))
        parts = [file for file in out.iterdir() if re.fullmatch(r"part-\d{6,}\.\w+", file.name)]
        if parts and config.resume:
            before = load_json(out / ABOUT)
            if not (before.get("weights") and of):  # a cluster's actors have the model
                before["weights"] = of
            other = [name for name in about if before.get(name) != about[name]]
            if other:
                raise ConfigError(
                    f"out = {config.out!r} holds a job with {other[0]} = {said(before.get(other[0]))}, now "
                    f"{said(about[other[0]])}: resume with the same settings, or overwrite=true."
                )
        elif parts and not config.overwrite:
            raise ConfigError(f"{config.out!r} holds a job: resume=true goes on with it, overwrite=true replaces it.")
        else:
            (out / ABOUT).unlink(missing_ok=True)
            for file in parts:
                file.unlink()
            save_json(out / ABOUT, about)
        for file in out.glob(".part-*.tmp"):  # of a process that was killed
            file.unlink()
        yield


def _settings(config: BatchConfig) -> dict[str, Any]:
    given = {**asdict(config), "sampler": config.sampler.settings()}
    return {name: given[name] for name in SAME}


def _sizes(data: Path) -> int:
    """Bytes of an input; 0 where it is none of this machine's files."""
    files = data.rglob("*") if data.is_dir() else [data]
    return sum(file.stat().st_size for file in files if file.is_file())


SCHEMA = {
    "row": "int64", "text": "string", "tokens": "list<int64>", "mean": "float64", "least": "float64",
    **dict.fromkeys(COUNTS, "int64"), "cost": "float64", "cut": "bool", "pieces": "list<string>",
    "quality": "list<float32>", "error": "string", "where": "string",
}  # fmt: skip
"""Columns of a part in Parquet; in JSONL those that a row has."""


def _write(path: Path, rows: list[dict[str, Any]], ending: str) -> None:
    with write_atomic(path) as temporary:
        if ending == "parquet":
            pq, schema = _parquet()
            import pyarrow as pa

            pq.write_table(pa.Table.from_pylist(rows, schema=schema), temporary)
        else:
            with open(temporary, "w", encoding="utf-8") as file:
                file.writelines(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())


def _failed(part: Path) -> int:
    """How many rows of a part failed."""
    if part.suffix == ".parquet":
        pq, _ = _parquet()
        return sum(error is not None for error in pq.read_table(part, columns=["error"])["error"].to_pylist())
    with open(part, encoding="utf-8") as file:
        return sum("error" in json.loads(line) for line in file)


def _parquet() -> Any:
    """The module for Parquet, and the schema of a part."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ConfigError("format=parquet needs pyarrow: pip install 'prism-plugin[train]'.") from None

    def kind(name: str) -> Any:
        return pa.list_(kind(name[5:-1])) if name.startswith("list<") else pa.type_for_alias(name)

    return pq, pa.schema([(name, kind(word)) for name, word in SCHEMA.items()])


def _line(error: Exception) -> str:
    """An error as one line; what nobody has foreseen with its type."""
    text = " ".join(str(error).split())
    return text if isinstance(error, PrismError) else f"{type(error).__name__}: {text}"
