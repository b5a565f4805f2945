"""``prism compare``: samplers on the user's own model, at equal weighted forward passes, over the same texts.

A unit is one sampler at one budget with one seed. Its steps are scaled on a few texts until what it costs is nearest to
the budget; what all texts then cost is said beside it. Units are written one by one, so that a run that was killed goes
on with the one that is not there. Over the seeds a text's scores are averaged; intervals are over the texts, and the
spread of the seeds' means stands beside them.
"""

import fcntl
import importlib
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from .. import __version__, inputs
from ..api import Prism, enable
from ..config import DataConfig, varied
from ..errors import CheckpointError, ConfigError, DataError, PrismError, said
from ..files import load_json, output_folder, save_json
from ..quality.calibration import auroc, reliability
from ..quality.head import identity
from ..sampling.config import SamplerConfig
from ..sampling.drive import Result, generate, generate_many, join
from ..sampling.methods import without_head
from ..sampling.trace import Recorder
from ..tasks import HELD_OUT, Task, get_task, tasks
from ..tasks.text import TextTask
from ..text import need
from ..training.data import read
from .comparison import diversity, repaired, self_bleu, variety
from .judge import Causal, Judge, Reader

CONTROL = "random-remask"
PILOT = 8
"""Texts on which steps are scaled."""
DRAWS = 10_000
"""Draws of a bootstrap."""
AT_ONCE = 64
"""Texts of one length in a batch."""
JUDGES: dict[str, type[Judge | Causal]] = {"judge": Judge, "judge-causal": Causal}
"""Metrics that are no function of the user's: minus the bits a character by ``evaluation.judge``. What the other of the
two says is told beside it, where it knows the task."""


@dataclass
class CompareConfig:
    """Settings of ``prism compare``; steps are budgets of weighted forward passes a text (``Result.cost``), samplers
    presets, each with settings of its own behind it where it has some (``prism:eta=0.02:order=confidence``), ``slots``
    how many prompts of ``data`` are written at a time.
    """

    model: str = ""
    head: str = ""
    trust_remote_code: bool = False
    dtype: str = "float32"
    device: str = ""
    samplers: str = "prism,prism-evidence,remdm-conf,self-likelihood"
    steps: str = "16,32"
    data: str = ""
    column: str = ""
    max_new_tokens: int = 0
    slots: int = 8
    clues: int = 0
    real: str = ""
    texts: int = 64
    seeds: str = "0"
    metric: str = ""
    out: str = ""
    resume: bool = False
    overwrite: bool = False
    names: list[str] = field(default_factory=list, init=False)
    budgets: list[int] = field(default_factory=list, init=False)
    draws: list[int] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        for name, what in (("model", "an embedded model, a folder, or a hub id"), ("out", "a folder")):
            if not getattr(self, name):
                raise ConfigError(f"{name} is not set: {name}=… is {what}.")
        inputs.count(self.texts, "texts", 2, 2**20)
        inputs.count(self.max_new_tokens, "max_new_tokens", 0, 2**20)
        inputs.count(self.slots, "slots", 1, 2**20)
        for name in ["clues", "real"] if self.data else ["max_new_tokens", "column", "slots"]:
            if getattr(self, name) != getattr(type(self), name):
                raise ConfigError(
                    f"{name} = {said(getattr(self, name))} is "
                    + ("for texts of the model's own task, and data is set." if self.data else "for data=…, not set.")
                )
        if self.resume and self.overwrite:
            raise ConfigError("resume and overwrite are both set: go on with what is there, or replace it.")
        self.names = list(dict.fromkeys([*(n.strip() for n in self.samplers.split(",") if n.strip()), CONTROL]))
        self.budgets, self.draws = self._numbers("steps", 1), self._numbers("seeds", 0)

    def _numbers(self, name: str, low: int) -> list[int]:
        given = getattr(self, name)
        try:
            found = sorted({int(one) for one in given.split(",")})
        except ValueError:
            raise ConfigError(f"{name} = {given!r}: allowed whole numbers with commas between (16,32).") from None
        for one in found:
            inputs.count(one, name, low, 2**20)
        return found

    def same(self) -> dict[str, Any]:
        """What a comparison must be gone on with; the budgets, samplers and seeds may become more."""
        left_out = {"samplers", "steps", "seeds", "names", "budgets", "draws"}
        left_out |= {"device", "slots", "resume", "overwrite", "out"}
        return {name: value for name, value in asdict(self).items() if name not in left_out}


def compared(config: CompareConfig, tell: Callable[[str, int, int], None] = lambda what, done, units: None) -> dict:
    """All units, and the report beside them; ``tell(what, done, units)`` is told of every one.

    Raises ConfigError, DataError or CheckpointError before any work where a setting cannot be meant.
    """
    measure = _function(config.metric) if config.metric not in ("", *JUDGES) else None
    out = output_folder(config.out)
    with _alone(out):
        file = out / "results.json"
        found = _begun(file, config)
        device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
        prism = enable(
            config.model, config.head or None, trust_remote_code=config.trust_remote_code,
            dtype=inputs.precision(config.dtype), device=device,
        )  # fmt: skip
        of = {"prism_plugin": __version__, **identity(prism.denoiser)}
        for what, before in found.setdefault("of", of).items():
            if before != of[what]:
                raise ConfigError(
                    f"{str(file)!r} was begun with {what} {before}, now it is {of[what]}, under the same name: "
                    "name another out=…, or overwrite=true replaces what is there."
                )
        for name in config.names:
            if {"steps", "seed"} & set(varied(name)[1]):
                raise ConfigError(f"sampler {name!r}: steps=… and seeds=… are of the whole comparison.")
            _sampler(prism, name, config.budgets[0], 0)
        rivals = _Rivals(config, prism, measure)
        units = [(name, budget, seed) for budget in config.budgets for name in config.names for seed in config.draws]
        done = {(unit["sampler"], unit["budget"], unit["seed"]): unit["steps"] for unit in found["units"]}
        for number, (name, budget, seed) in enumerate(units):
            tell(f"{name}, {budget} forwards, seed {seed}", number, len(units))
            if (name, budget, seed) not in done:
                before = next((steps for key, steps in done.items() if key[:2] == (name, budget)), None)
                steps = rivals.steps(name, budget, seed) if before is None else before
                found["units"].append(rivals.unit(name, budget, steps, seed))
                done[name, budget, seed] = steps
                save_json(file, found)
        found |= {"metric": rivals.metric, "rows": merged(found["units"])}
        found["other judge"] = rivals.judges[1].name if rivals.judges[1:] else None
        found["tests"] = tests(found["rows"])
        for name, make in (("real", rivals.real), ("calibration", rivals.calibration)):
            if name not in found:
                found[name] = make()
                save_json(file, found)
        save_json(file, found)
        tell("report", len(units), len(units))
        from .report import write

        write(found, rivals.corrected(best(found)), out)
        return found


def _sampler(prism: Prism, name: str, steps: int, seed: int) -> SamplerConfig:
    preset, given = varied(name)
    return prism.config(preset, **given, steps=steps, seed=seed)


def _on_real(task: Task | None, config: CompareConfig) -> TextTask:
    """The task on the texts of ``config.real``, each cut into whole ones of the task's length."""
    if not isinstance(task, TextTask):
        raise ConfigError(f"real = {said(config.real)}: held-out texts are for models of code and prose.")
    found: list[Tensor] = []
    for where, row in read(DataConfig(name=config.real)):
        text = row if isinstance(row, str) else row.get("text")
        if not isinstance(text, str | list):
            raise DataError(f"{where}: no string or list of ids in text.")
        ids = task.encode(text) if isinstance(text, str) else text
        if not all(isinstance(token, int) and task.mask_id < token < task.vocab_size for token in ids):
            raise DataError(f"{where}: ids of the vocabulary are whole numbers from 1 to {task.vocab_size - 1}.")
        found += torch.tensor(ids[: len(ids) // task.length * task.length], dtype=torch.long).view(-1, task.length)
        if len(found) >= config.texts:
            return task.of_texts(torch.stack(found[: config.texts]))
    raise DataError(
        f"real = {said(config.real)} holds {len(found)} texts of {task.length} tokens, and texts = {config.texts}."
    )


class _Rivals:
    """The model, the texts to write, and how they are judged."""

    def __init__(self, config: CompareConfig, prism: Prism, measure: Callable[[list[str]], Any] | None) -> None:
        self.config, self.prism, self.measure = config, prism, measure
        own = getattr(prism.denoiser, "task", "")
        own = get_task(own) if own in list(tasks) else None
        self.task: Task | None = None if config.data else own
        if config.real:
            self.task = _on_real(own, config)
        if not own and not config.data:
            raise ConfigError("data is not set, and the model has no task of its own: data=… is a file of prompts.")
        if not self.task and not config.metric:
            raise ConfigError("metric is not set: metric=MODULE:NAME judges the texts of your own data.")
        if not self.task:
            need(prism.codec, prism.denoiser)
        self.judges: list[Reader] = []
        if config.metric in JUDGES:
            if not isinstance(own, TextTask):
                raise ConfigError(f"metric = {config.metric!r} reads code and prose, and the model is of neither.")
            self.own, made = own, JUDGES[config.metric]
            others = [other for other in JUDGES.values() if other is not made and other.knows(own)]
            self.judges = [judge.of(own) for judge in (made, *others)]
        self.metric = config.metric or ("valid" if self.task and self.task.grid else "sound")
        if self.judges:
            self.metric = f"minus bits a character by a {self.judges[0].name} model"
        self.ends: list[list[int]] = []
        self.prompts = list(self.task.prompts(config.texts, config.clues)) if self.task else list(self._read())
        if len(self.prompts) < 2:
            raise DataError(
                f"data = {said(config.data)} holds {len(self.prompts)} text(s): a comparison is over two or more, "
                "each a row of .jsonl, say (.txt is one running text)."
            )
        if not any(bool((prompt == prism.denoiser.mask_id).any()) for prompt in self.prompts):
            given = f"clues = {config.clues}" if self.task else f"data = {said(config.data)} without a hole"
            raise ConfigError(f"{given}: nothing is left to write.")
        if isinstance(self.task, TextTask) and config.clues and config.texts > (most := self.task.held_out):
            raise ConfigError(
                f"texts = {config.texts}: {self.task.name} holds {most} held-out texts to take clues from. real=FILE "
                "is more of them."
            )
        self.truth = self.task.texts(0, config.texts, HELD_OUT) if self.task and config.clues else None

    def _read(self) -> Iterator[Tensor]:
        config = self.config
        for where, row in islice(read(DataConfig(name=config.data)), config.texts):
            names = [config.column] if config.column else ["prompt", "text"]
            text = row if isinstance(row, str) else next((row[name] for name in names if name in row), None)
            if not isinstance(text, str):
                raise DataError(f"{where}: no string in {' or '.join(names)}; column=… names one.")
            try:
                given, ends, _ = self.prism._asked([text], config.max_new_tokens or None, None, None)
            except PrismError as error:
                raise DataError(f"{where}: {error}") from error
            self.ends = ends if config.max_new_tokens else []
            yield given.each[0]

    def write(self, sampler: SamplerConfig, prompts: list[Tensor]) -> Result:
        """What a sampler makes of prompts (L,), the first ones of the comparison."""
        if not self.task:
            return generate_many(
                self.prism.denoiser, prompts, sampler,
                stop=self.ends, pad_id=self.prism._pad_id, slots=self.config.slots,
            )  # fmt: skip
        made, device = [], inputs.device_of(self.prism.denoiser)
        for first in range(0, len(prompts), AT_ONCE):
            some = torch.stack(prompts[first : first + AT_ONCE])
            known: dict[str, Any] = (
                {} if self.truth is None else {"truth": self.truth[first : first + len(some)].to(device)}
            )
            request = torch.arange(first, first + len(some), device=device)
            made.append(generate(self.prism.denoiser, some.to(device), sampler, request=request, **known))
        return join(made, list(range(len(prompts))), 0)

    def steps(self, name: str, budget: int, seed: int) -> int:
        """Steps with which a sampler's cost comes nearest to the budget."""

        def cost(steps: int) -> float:
            sampler = _sampler(self.prism, name, steps, seed)
            return float(self.write(sampler, self.prompts[:PILOT]).cost.mean())

        return nearest(cost, budget)

    def unit(self, name: str, budget: int, steps: int, seed: int) -> dict[str, Any]:
        """One sampler at one budget: scores by text, what they cost, how different they are."""
        sampler = _sampler(self.prism, name, steps, seed)
        result = self.write(sampler, self.prompts)
        length = result.tokens.shape[1]
        rows = [row[length - len(prompt) :].cpu() for row, prompt in zip(result.tokens, self.prompts, strict=True)]
        scores, other = self.scores(rows)
        return {
            "sampler": name, "budget": budget, "seed": seed, "steps": steps, "texts": len(rows),
            **self.variety(rows), **{n: float(getattr(result, n).double().mean()) for n in COUNTED},
            "harmful": None if self.truth is None else float(result.right_to_wrong.double().mean()),
            "seconds": round(result.seconds, 2), "settings": sampler.settings(), "scores": scores, "other": other,
        }  # fmt: skip

    def scores(self, rows: list[Tensor]) -> tuple[list[float], float | None]:
        """A score a text (L,), higher is better, and the mean of what another judge says, if there is one."""
        new = self.config.max_new_tokens
        if self.task:
            shown = [self.task.render(row) for row in rows]
        elif new:
            shown = [self.prism._ended(row, prompt, new) for row, prompt in zip(rows, self.prompts, strict=True)]
        else:
            shown = [self.prism._shown(row, prompt) for row, prompt in zip(rows, self.prompts, strict=True)]
        if self.judges:
            told = [[-judge.bits(self.own, text) for text in shown] for judge in self.judges]
            return told[0], float(np.mean(told[1])) if told[1:] else None
        if self.measure is None:
            assert self.task is not None
            tokens = torch.stack(rows)
            whole, share = self.task.accuracy(tokens, torch.stack(self.prompts[: len(rows)]))
            return [float(one) for one in (whole if self.task.grid else share)], None
        try:
            found = [float(one) for one in self.measure(shown)]
        except Exception as error:  # anything can go wrong in a user's function
            raise DataError(f"metric {self.config.metric}: {type(error).__name__}: {error}.") from error
        if len(found) != len(shown) or not all(math.isfinite(one) for one in found):
            raise DataError(f"metric {self.config.metric}: {len(shown)} texts, {len(found)} scores; one finite each.")
        return found, None

    def variety(self, rows: list[Tensor]) -> dict[str, float | None]:
        """``richness`` of texts; what follows the end of a text is none of it."""
        ended = (int((row == self.prism._pad_id).flip(0).cumprod(0).sum()) for row in rows)
        rows = [row[: len(row) - behind + 1] for row, behind in zip(rows, ended, strict=True)] if self.ends else rows
        return richness(rows, self.prism.denoiser.vocab_size)

    def real(self) -> dict[str, Any] | None:
        """The same of held-out texts, and the entropy that 95% of them exceed; None where there are none."""
        if not self.task:
            return None
        rows = list(self.task.texts(0, self.config.texts, HELD_OUT))
        scores, other = self.scores(rows)
        return _summary(scores) | self.variety(rows) | {"entropy_low": entropy_low(rows), "other": other}

    def calibration(self) -> dict[str, Any] | None:
        """Quality against the truth: half of each held-out text hidden, drawn in one pass, an eighth of that kept."""
        if not self.task or self.prism.denoiser.head is None:
            return None
        task = self.task
        truth = task.texts(0, self.config.texts, HELD_OUT)
        prompts = task.prompts(self.config.texts, task.length // 2)
        drawn = self.write(SamplerConfig("random", steps=1, seed=self.config.draws[0]), list(prompts)).tokens.cpu()
        hidden = prompts == task.mask_id
        order = torch.rand(truth.shape, generator=torch.Generator().manual_seed(self.config.draws[0]))
        order = order.masked_fill(~hidden, 2).argsort(1).argsort(1)
        kept = hidden & (order < max(1, task.length // 16))
        tokens = torch.where(kept, drawn, prompts).to(inputs.device_of(self.prism.denoiser))
        with torch.no_grad():
            quality = self.prism._quality(tokens, None).cpu()
        scores, labels = torch.logit(quality[kept].double(), eps=1e-7), drawn[kept] == truth[kept]
        area = auroc(scores, labels)
        return {"tokens": len(labels), "auroc": area if math.isfinite(area) else None,
                "bins": reliability(scores, labels)}  # fmt: skip

    def corrected(self, unit: dict[str, Any]) -> tuple[Any, int]:
        """A recorded run of a unit, and which of its texts was corrected most."""
        recorder = Recorder()
        same = [p for p in self.prompts if len(p) == len(self.prompts[0])][:PILOT]
        sampler = _sampler(self.prism, unit["sampler"], unit["steps"], unit["seeds"][0])
        table = torch.stack(same).to(inputs.device_of(self.prism.denoiser))
        generate(self.prism.denoiser, table, sampler, callback=recorder)
        task = self.task
        if task and task.grid:
            trace = recorder.trace(task.grid)
        else:
            codec = self.prism.codec
            trace = recorder.trace(0, lambda token: codec.pieces(torch.tensor([token]))[0] if codec else str(token))
        return trace, repaired(trace, torch.ones(len(same), dtype=torch.bool))


def nearest(cost: Callable[[int], float], budget: int) -> int:
    """Steps of which ``cost(steps)`` comes nearest to the budget or within 1% of it, in eight trials at most.

    The cost may rise faster than the steps (a pass for every group of what is visible), or stay where it is (a text
    that is full): a guess in proportion is kept between the steps that are known to be too few and too many.
    """
    known: dict[int, float] = {}
    steps = last = budget
    for _ in range(8):
        known[steps] = cost(steps)
        if abs(known[steps] - budget) <= 0.01 * budget:
            break
        few = max((tried for tried, found in known.items() if found <= budget), default=0)
        many = min((tried for tried, found in known.items() if found > budget), default=math.inf)
        guess = round(steps * budget / known[steps])
        if many < math.inf:
            guess = min(max(guess, few + 1), int(many) - 1)
        elif steps != last and budget - known[steps] > 0.9 * (budget - known[last]):
            break  # more steps hardly cost more
        if guess in known or guess <= few:
            break
        last, steps = steps, guess
    return min(known, key=lambda tried: (abs(known[tried] - budget), tried))


def richness(rows: list[Tensor], vocab_size: int) -> dict[str, float | None]:
    """Of texts (L,) int64: entropy and distinct-4, self-BLEU, difference of two, None where lengths differ. Means."""
    each = np.array([variety(row) for row in rows]).mean(0)
    different = diversity(torch.stack(rows), vocab_size) if len({len(row) for row in rows}) == 1 else None
    return {"entropy": float(each[0]), "distinct": float(each[1]), "self_bleu": self_bleu(rows),
            "difference": different}  # fmt: skip


def entropy_low(rows: list[Tensor]) -> float:
    """The entropy in nats that 95% of texts (L,) int64 exceed."""
    return float(np.quantile([variety(row)[0] for row in rows], 0.05))


COUNTED = ("forwards", "cost", "remasked", "wasted")
MEANS = (*COUNTED, "harmful", "entropy", "distinct", "self_bleu", "difference", "seconds", "other")


def _summary(scores: list[float]) -> dict[str, Any]:
    low, high = bootstrap(np.array(scores))
    return {"score": float(np.mean(scores)), "low": low, "high": high}


def merged(units: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The seeds of a sampler at a budget as one row: a text's scores averaged, ``spread`` the standard deviation of the
    seeds' means (None of one), all else the mean.
    """
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for unit in units:
        groups.setdefault((unit["sampler"], unit["budget"]), []).append(unit)
    made = []
    for group in groups.values():
        scores = np.array([unit["scores"] for unit in group])
        spread = float(scores.mean(1).std(ddof=1)) if len(group) > 1 else None
        row = {name: group[0][name] for name in ("sampler", "budget", "steps", "texts", "settings")}
        row |= {"seeds": [unit["seed"] for unit in group], **_summary(scores.mean(0).tolist()), "spread": spread}
        for name in MEANS:
            values = [unit[name] for unit in group if unit.get(name) is not None]  # all have it, or none
            row[name] = float(np.mean(values)) if len(values) == len(group) else None
        made.append(row | {"scores": scores.mean(0).tolist()})
    return made


def bootstrap(values: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95% percentile interval of the mean of values (N,), texts drawn anew; the same draws for any values."""
    chosen = np.random.default_rng(seed).integers(0, len(values), (DRAWS, len(values)))
    low, high = np.quantile(values[chosen].mean(1), [0.025, 0.975])
    return float(low), float(high)


def tests(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each sampler against the control at the same budget over the same texts: the difference and its interval."""
    control = {unit["budget"]: np.array(unit["scores"]) for unit in rows if unit["sampler"] == CONTROL}
    found = []
    for unit in rows:
        if unit["sampler"] != CONTROL and unit["budget"] in control:
            apart = np.array(unit["scores"]) - control[unit["budget"]]
            low, high = bootstrap(apart)
            found.append({"sampler": unit["sampler"], "budget": unit["budget"], "difference": float(apart.mean()),
                          "low": low, "high": high})  # fmt: skip
    return found


def slid(row: dict[str, Any], found: dict[str, Any]) -> bool:
    """Whether texts are likelier than real text to a judge, and poorer; or poorer in entropy than 95% of real ones."""
    real = found["real"]
    if not real or found["metric"] == "valid":  # all grids are as rich
        return False
    likelier = "bits" in found["metric"] and row["score"] > real["score"] and row["entropy"] < real["entropy"]
    return bool(likelier or row["entropy"] < real["entropy_low"])


def best(found: dict[str, Any]) -> dict[str, Any]:
    """The row of the best score that has not ``slid`` and spends its budget or less (5% over is allowed); the cheapest
    of equals.
    """
    rich = [unit for unit in found["rows"] if not slid(unit, found)] or found["rows"]
    fair = [unit for unit in rich if unit["cost"] <= 1.05 * unit["budget"]] or rich
    return max(fair, key=lambda unit: (unit["score"], -unit["cost"]))


def remarks(found: dict[str, Any]) -> str:
    """What has to be said of rows: which have ``slid``, and which went without the head that they are for."""
    past = dict.fromkeys(f"{row['sampler']} ({row['budget']})" for row in found["rows"] if slid(row, found))
    bare = dict.fromkeys(row["sampler"] for row in found["rows"] if _fell_back(row))
    said = {
        "Poorer than real text (loops, or what is frequent), so never the best": past,
        "No head was given, so these doubt by self-likelihood": bare,
    }
    return " ".join(f"{what}: {', '.join(names)}." for what, names in said.items() if names)


def _fell_back(row: dict[str, Any]) -> bool:
    """Whether the self-likelihood took the place of a learned score."""
    preset, given = varied(row["sampler"])
    return row["settings"].get("score") == "self_likelihood" and without_head(SamplerConfig(preset, **given))[1]


def _function(name: str) -> Callable[[list[str]], Any]:
    module, _, function = name.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"metric = {said(name)}: {error}; allowed MODULE:NAME of a function that imports.") from error
    finally:
        sys.path.remove(os.getcwd())
    if not callable(found):
        raise ConfigError(f"metric = {said(name)}: {function} is no function; allowed MODULE:NAME of one.")
    return found


def _begun(file: Path, config: CompareConfig) -> dict[str, Any]:
    """What is there of this comparison."""
    fresh: dict[str, Any] = {"settings": config.same(), "units": []}
    if not file.exists() or config.overwrite:
        return fresh
    if not config.resume:
        raise ConfigError(f"{str(file)!r} is there already: resume=true goes on, overwrite=true replaces it.")
    try:
        found = load_json(file)
    except CheckpointError as error:
        raise ConfigError(f"{error} overwrite=true begins anew.") from error
    changed = [name for name, value in fresh["settings"].items() if found.get("settings", {}).get(name) != value]
    if changed:
        raise ConfigError(f"{', '.join(changed)} differ from what {str(file)!r} was begun with: name another out=….")
    return found


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """One process at a time; the lock ends with the process, however it ends."""
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(f"out {str(out)!r} is being written by another process.") from None
        yield


def table(found: dict[str, Any]) -> Table:
    """The comparison for the terminal."""
    shown = Table(title=found["metric"], title_justify="left", box=None, padding=(0, 1, 0, 0))
    for name in ("sampler", "budget", "cost", "score", "vs random-remask (95%)", "entropy", "wasted"):
        if name == "sampler":  # long where it has settings: it alone is folded on a narrow terminal
            shown.add_column(name, overflow="fold")
        else:
            shown.add_column(name, justify="right", no_wrap=True)
    for cells in [*lines(found), *([truth(found)] if found["real"] else [])]:
        shown.add_row(*(cells[name].split(" (")[0] if name == "score (95%)" else cells[name] for name in SHORT))
    return shown


SHORT = ("sampler", "budget", "cost", "score (95%)", f"against {CONTROL} (95%)", "entropy", "wasted")
"""The columns for a terminal."""


def lines(found: dict[str, Any]) -> list[dict[str, str]]:
    """The table as strings by column; a column that no row has a figure for is left out."""
    against = {(test["sampler"], test["budget"]): test for test in found["tests"]}
    made = []
    for row in sorted(found["rows"], key=lambda row: (row["budget"], -row["score"])):
        test = against.get((row["sampler"], row["budget"]))
        apart = f"{test['difference']:+.3f} ({test['low']:+.3f}, {test['high']:+.3f})" if test else "control"
        made.append({
            "sampler": row["sampler"], "budget": str(row["budget"]), "cost": f"{row['cost']:.1f}",
            "score (95%)": f"{row['score']:.3f} ({row['low']:.3f}, {row['high']:.3f})",
            _other(found): _shown(row.get("other"), 3), "spread of seeds": _shown(row["spread"], 3),
            f"against {CONTROL} (95%)": apart, "steps": str(row["steps"]),
            "entropy": _shown(row["entropy"], 2), "distinct-4": _shown(row["distinct"], 3),
            "self-BLEU": _shown(row["self_bleu"], 3), "difference": _shown(row["difference"], 3),
            "remasked": _shown(row["remasked"], 1), "wasted": _shown(row["wasted"], 1),
            "harmful": _shown(row["harmful"], 1),
        })  # fmt: skip
    told = [name for name in made[0] if name in SHORT or any(line[name] != "-" for line in made)]
    return [{name: line[name] for name in told} for line in made]


def truth(found: dict[str, Any]) -> dict[str, str]:
    """The same of real text, where it is known; of the columns of ``lines``."""
    real = found["real"]
    score = f"{real['score']:.3f} ({real['low']:.3f}, {real['high']:.3f})"
    known = {
        "sampler": "real text", "score (95%)": score, _other(found): _shown(real.get("other"), 3),
        "entropy": _shown(real["entropy"], 2), "distinct-4": _shown(real["distinct"], 3),
        "self-BLEU": _shown(real["self_bleu"], 3), "difference": _shown(real["difference"], 3),
    }  # fmt: skip
    return {name: known.get(name, "") for name in lines(found)[0]}


def _other(found: dict[str, Any]) -> str:
    """The column of what the other judge says."""
    return f"by the {found.get('other judge')} model"


def _shown(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
