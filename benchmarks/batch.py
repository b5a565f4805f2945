"""``prism batch`` against the plain loop, its memory on many rows, and a job that is killed at random moments.

    OMP_NUM_THREADS=1 python benchmarks/batch.py --out docs/results

Speed: prompts of several lengths and the embedded model ``code``; the loop calls ``Prism.generate`` once a prompt. The
model's share is the time inside its forward and its output layer. Kills: the job runs in a process that gets kill -9
after a random share of the time of the undisturbed one, then ``resume=true``, each time from what the one before left
until it is done; the parts are compared with those of the undisturbed job, byte by byte. Ray where it is installed.
"""

import argparse
import importlib.util
import json
import os
import platform
import random
import resource
import shutil
import signal
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from prism_plugin import __version__
from prism_plugin.api import Prism, enable
from prism_plugin.corpus import BatchConfig, run
from prism_plugin.files import write_atomic
from prism_plugin.sampling.config import SamplerConfig

NEW, STEPS = 24, 12


def prompts(path: Path, count: int) -> list[str]:
    """Prompts of one to nine lines of code, in a JSONL file."""
    texts = ["".join(f"x{line} = f({number}, {line})\n" for line in range(1 + number % 9)) for number in range(count)]
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    return texts


def config(folder: Path, out: str, **given: Any) -> BatchConfig:
    """The job of the benchmark; ``overwrite`` unless it is gone on with."""
    sampler = SamplerConfig("prism", steps=STEPS)
    given = {"overwrite": not given.get("resume"), "rows": 4, **given}
    return BatchConfig(
        data=str(folder / "in.jsonl"), out=str(folder / out), model="code", max_new_tokens=NEW, sampler=sampler, **given
    )


class Clock:
    """Seconds inside the forward and the output layer of a model."""

    def __init__(self, denoiser: Any) -> None:
        self.seconds = 0.0
        for name in ("forward", "project"):
            setattr(denoiser, name, self._timed(getattr(denoiser, name)))

    def _timed(self, call: Any) -> Any:
        def timed(*args: Any, **given: Any) -> Any:
            started = time.perf_counter()
            try:
                return call(*args, **given)
            finally:
                self.seconds += time.perf_counter() - started

        return timed


def speed(folder: Path, count: int, repeats: int) -> list[tuple[str, float, float, float | None]]:
    """What ran, rows a second (median) and their spread, and the share of time that is not the model's."""
    texts, found = prompts(folder / "in.jsonl", count), []
    prism = enable("code", sampler="prism")
    clock = Clock(prism.denoiser)

    def loop() -> None:
        for number, text in enumerate(texts):
            prism.generate(text, max_new_tokens=NEW, steps=STEPS, request=torch.tensor([number]))

    jobs: dict[str, Any] = {"plain loop": loop}
    for slots in (1, 8, 32):
        jobs[f"batch, slots={slots}"] = lambda slots=slots: run(
            "generate", config(folder, "here", slots=slots, rows=512), prism
        )
    if importlib.util.find_spec("ray"):
        import ray

        for workers in (1, 2):
            name = f"batch, cluster=auto, workers={workers}, with their start"
            jobs[name] = lambda workers=workers: run("generate", config(folder, "ray", cluster="auto", workers=workers))
    for name, job in jobs.items():
        rates, shares = [], []
        for _ in range(repeats):
            clock.seconds, started = 0.0, time.perf_counter()
            job()
            spent = time.perf_counter() - started
            rates.append(count / spent)
            shares.append(1 - clock.seconds / spent)
        share = None if "cluster" in name else statistics.median(shares)
        found.append((name, statistics.median(rates), max(rates) - min(rates), share))
    if importlib.util.find_spec("ray"):
        ray.shutdown()
    return found


def kills(folder: Path, prism: Prism, moments: int) -> tuple[int, int, int]:
    """Kills that met the job at work, jobs that were finished by them, and parts of each."""
    prompts(folder / "in.jsonl", 32)
    started = time.perf_counter()
    run("generate", config(folder, "whole"), prism)
    spent, rng = time.perf_counter() - started, random.Random(0)
    whole = {part.name: part.read_bytes() for part in (folder / "whole").glob("part-*")}
    met = finished = 0
    resume = False
    while met < moments:
        process = os.fork()
        if process == 0:
            run("generate", config(folder, "killed", resume=resume), prism)
            os._exit(0)
        time.sleep(rng.uniform(0, spent))
        os.kill(process, signal.SIGKILL)
        met += os.WIFSIGNALED(os.waitpid(process, 0)[1])
        resume = True
        for part in (folder / "killed").glob("part-*"):
            assert part.read_bytes() == whole[part.name], f"{part} is not that of the undisturbed job"
        if rng.random() < 0.25 or met == moments:
            run("generate", config(folder, "killed", resume=True), prism)
            there = {part.name: part.read_bytes() for part in (folder / "killed").glob("*part-*")}
            assert there == whole, "the parts are not those of the undisturbed job"
            finished, resume = finished + 1, False
    return met, finished, len(whole)


def memory(folder: Path, rows: list[int]) -> list[tuple[int, float, float]]:
    """Rows of two tokens, rows a second, and the peak resident memory (MiB) of a process that scores them."""
    from prism_plugin.models.backbone import BackboneConfig
    from prism_plugin.models.checkpoint import PrismModel

    tiny = BackboneConfig(vocab_size=5, mask_id=4, length=4, hidden_size=8, num_layers=1, num_heads=1)
    found = []
    for count in rows:
        with open(folder / "in.jsonl", "w") as file:
            file.writelines(f'{{"text": [{number % 4}, {number // 4 % 4}]}}\n' for number in range(count))
        read, write = os.pipe()
        process = os.fork()
        if process == 0:
            given = config(folder, "tiny", rows=4096, slots=4096)
            given.max_new_tokens = 0
            started = time.perf_counter()
            run("score", given, Prism(PrismModel(tiny, "").eval(), "self-likelihood", {}))
            spent = time.perf_counter() - started
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            os.write(write, json.dumps([spent, peak]).encode())
            os._exit(0)
        os.waitpid(process, 0)
        os.close(write)
        spent, peak = json.loads(os.read(read, 1000))
        os.close(read)
        found.append((count, count / spent, peak))
    return found


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=24, help="prompts of the speed test")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--many", type=int, nargs="*", default=[10_000, 100_000], help="rows of the memory test")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        peaks = memory(folder, given.many)  # first: the peak of a process begins with that of its parent
        met, finished, parts = kills(folder, enable("code", sampler="prism"), given.kills)
        rates = speed(folder, given.rows, given.repeats)
    finally:
        shutil.rmtree(folder)
    lines = [
        "# Corpora: `prism batch`", "",
        f"By `python benchmarks/batch.py --rows {given.rows} --repeats {given.repeats} --kills {given.kills} --many "
        f"{' '.join(map(str, given.many))}`, prism-plugin {__version__}, torch {torch.__version__}, "
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} thread(s), load "
        f"{os.getloadavg()[1]:.1f} when it ended. Not run on a GPU.", "",
        f"Speed: {given.rows} prompts of 1 to 9 lines, {NEW} new tokens, {STEPS} steps, model `code`, sampler `prism`; "
        f"median of {given.repeats} and spread (largest less smallest).", "",
        "| | rows/s | spread | time that is not the model's |", "|---|---|---|---|",
        *(f"| {n} | {rate:.2f} | {spread:.2f} | {'–' if share is None else f'{share:.0%}'} |"
          for n, rate, spread, share in rates), "",
        f"Kills: {met} times kill -9 at a random moment of a job of {parts} parts; {finished} jobs were finished by "
        "`resume=true`, each byte for byte the undisturbed one, nothing lost and nothing twice.", "",
        "Memory: `score` on rows of two tokens by a model of one layer of 8.", "",
        "| rows | rows/s | peak resident MiB |", "|---|---|---|",
        *(f"| {count} | {rate:.0f} | {peak:.0f} |" for count, rate, peak in peaks), "",
    ]  # fmt: skip
    with write_atomic(given.out / "batch.md") as path:
        path.write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
