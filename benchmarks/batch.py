"""``prism batch`` against the plain loop, its memory on many rows, and a job that is killed at random moments.

    OMP_NUM_THREADS=1 python benchmarks/batch.py --out docs/results [--only memory kills cluster speed]

Speed: prompts of several lengths and the embedded model ``code``; the loop calls ``Prism.generate`` once a prompt. All
jobs are run one after the other, then all again, so that what else the machine does falls on all of them. The model's
share is the time inside its forward, its head and its output layer. Kills: the job runs in a process that gets kill -9
after a random share of the time of the undisturbed one, then ``resume=true``, each time from what the one before left
until it is done; the parts are compared with those of the undisturbed job, byte by byte. On a cluster of two actors
of Ray (where it is installed) an actor or the driver is killed. Parts that were measured before are kept.
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
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

from prism_plugin import __version__
from prism_plugin.api import Prism, enable
from prism_plugin.corpus import BatchConfig, run
from prism_plugin.files import save_json, write_atomic
from prism_plugin.sampling.config import SamplerConfig

NEW, STEPS = 24, 12


def prompts(path: Path, count: int) -> list[str]:
    """Prompts of one to seven lines of code, in a JSONL file."""
    texts = ["".join(f"x{line} = f({number}, {line})\n" for line in range(1 + number % 7)) for number in range(count)]
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
    """CPU seconds inside the forward, the head and the output layer of a model."""

    def __init__(self, denoiser: Any) -> None:
        self.seconds, self.depth = 0.0, 0  # a head may call the output layer
        for name in ("forward", "judge", "project"):
            setattr(denoiser, name, self._timed(getattr(denoiser, name)))

    def _timed(self, call: Any) -> Any:
        def timed(*args: Any, **given: Any) -> Any:
            started, self.depth = time.process_time(), self.depth + 1
            try:
                return call(*args, **given)
            finally:
                self.depth -= 1
                self.seconds += 0.0 if self.depth else time.process_time() - started

        return timed


PART = 16
"""Rows of a part where several work at a time: a part is what one of them is given."""


def speed(folder: Path, count: int, repeats: int) -> list[dict[str, Any]]:
    """Rows a second, and CPU seconds a row, of the loop, of one process, of two, and of actors.

    Of actors from the end of their first parts on, and without the CPU time of the driver and of Ray.
    """
    texts = prompts(folder / "in.jsonl", count)
    prism = enable("code", sampler="prism")
    clock = Clock(prism.denoiser)

    def timed(job: Callable[[], None], used: Callable[[], float] = time.process_time) -> tuple[int, float, float]:
        started, before = time.perf_counter(), used()
        job()
        return count, time.perf_counter() - started, used() - before

    def loop() -> None:
        for number, text in enumerate(texts):
            prism.generate(text, max_new_tokens=NEW, steps=STEPS, request=torch.tensor([number]))

    def here(slots: int, rows: int, out: str = "here") -> None:
        run("generate", config(folder, out, slots=slots, rows=rows), prism)

    def at_once() -> None:
        children = []
        for number in range(2):
            children.append(os.fork())
            if not children[-1]:
                here(8, PART, f"here{number}")
                os._exit(0)
        assert not any(os.waitpid(child, 0)[1] for child in children)

    def children_used() -> float:
        return sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])

    def twice() -> tuple[int, float, float]:
        rows, spent, used = timed(at_once, children_used)
        return 2 * rows, spent, used

    def cluster(workers: int) -> tuple[int, float, float]:
        import psutil

        ended: list[tuple[int, float, float]] = []

        def done(rows: int, _: int) -> None:
            used = sum(sum(one.cpu_times()[:2]) for one in actors(psutil.Process()))
            ended.append((rows, time.perf_counter(), used))

        run("generate", config(folder, "ray", cluster="auto", workers=workers, rows=PART), done=done)
        sys.modules["ray"].shutdown()  # it would run on beside the next job
        (_, begun, before), (_, end, after) = ended[workers - 1], ended[-1]
        return sum(rows for rows, *_ in ended[workers:]), end - begun, after - before

    jobs: dict[str, Any] = {"plain loop": partial(timed, loop)}
    jobs |= {f"prism batch, slots={slots}": partial(timed, partial(here, slots, 512)) for slots in (1, 8)}
    jobs |= {f"prism batch, rows={PART}": partial(timed, partial(here, 8, PART))}
    own = list(jobs)
    jobs |= {f"prism batch, rows={PART}, two such at once": twice}
    if importlib.util.find_spec("ray"):
        jobs |= {f"prism batch, rows={PART} cluster=auto workers={n}": partial(cluster, n) for n in (1, 2)}
    found: dict[str, Any] = {name: {"job": name, "rates": [], "cpu": [], "not_model": []} for name in jobs}
    for _ in range(repeats):
        for name, job in jobs.items():
            clock.seconds = 0.0
            rows, spent, used = job()
            found[name]["rates"].append(rows / spent)
            found[name]["cpu"].append(used / rows)
            if name in own:
                found[name]["not_model"].append(1 - clock.seconds / used)
    return list(found.values())


def kills(folder: Path, prism: Prism, moments: int) -> tuple[int, int, int]:
    """Kills that met the job at work, jobs that were finished by them, and parts of each."""
    prompts(folder / "in.jsonl", 32)
    started = time.perf_counter()
    run("generate", config(folder, "whole"), prism)
    spent, rng = time.perf_counter() - started, random.Random(0)
    whole = parts(folder / "whole")
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
        assert parts(folder / "killed").items() <= whole.items(), "a part is not that of the undisturbed job"
        if rng.random() < 0.25 or met == moments:
            run("generate", config(folder, "killed", resume=True), prism)
            assert parts(folder / "killed") == whole, "the parts are not those of the undisturbed job"
            finished, resume = finished + 1, False
    return met, finished, len(whole)


def parts(folder: Path) -> dict[str, bytes]:
    """The files of a job by name; of what was being written nothing."""
    return {part.name: part.read_bytes() for part in folder.glob("part-*")}


def cluster_kills(folder: Path, moments: int) -> tuple[int, int, int]:
    """A job on two actors of Ray, of which an actor or the driver gets kill -9: actors, drivers killed, jobs finished.

    After the loss of an actor the job must go on by itself; after that of the driver, by ``resume=true``.
    """
    import psutil

    prompts(folder / "in.jsonl", 64)
    run("generate", config(folder, "whole"), enable("code", sampler="prism"))
    whole, rng = parts(folder / "whole"), random.Random(1)
    killed, finished, out = {"actor": 0, "driver": 0}, 0, folder / "cluster"
    shutil.rmtree(out, ignore_errors=True)
    while sum(killed.values()) < moments or parts(out) != whole:
        settings = [f"data={folder / 'in.jsonl'}", f"out={out}", "model=code", f"max_new_tokens={NEW}", "rows=4"]
        settings += ["sampler=prism", f"sampler.steps={STEPS}", "cluster=auto", "workers=2", "resume=true", "--quiet"]
        driver = psutil.Popen([sys.executable, "-m", "prism_plugin", "batch", "generate", *settings])
        while driver.poll() is None and not actors(driver):
            time.sleep(0.2)
        while driver.poll() is None:
            time.sleep(rng.uniform(0, 4))
            there = actors(driver)
            if sum(killed.values()) == moments or driver.poll() is not None or not there:
                continue
            victim = driver if killed["driver"] < killed["actor"] else rng.choice(there)
            victim.kill()
            killed["driver" if victim is driver else "actor"] += 1
        assert parts(out).items() <= whole.items(), "a part is not that of the undisturbed job"
        if driver.wait() == 0:
            assert parts(out) == whole, "the parts are not those of the undisturbed job"
            finished += 1
            if sum(killed.values()) < moments:
                shutil.rmtree(out)
    return killed["actor"], killed["driver"], finished


def actors(driver: Any) -> list[Any]:
    """The processes of Ray's actors below a driver, as they are called while they work or wait."""
    import psutil

    found = []
    for process in driver.children(recursive=True) if driver.is_running() else ():
        with suppress(psutil.Error):
            if any(word.startswith("ray::Actor") for word in process.cmdline()[:1]):
                found.append(process)
    return found


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


def table(found: dict[str, Any]) -> str:
    """docs/results/batch.md, of what has been measured."""
    lines = ["# Corpora: `prism batch`", ""]
    if part := found.get("speed"):
        lines += [
            "## Speed", "", f"{part['made']} Prompts of 1 to 7 lines, {NEW} new tokens, {STEPS} steps, model `code`, "
            "sampler `prism`. The jobs took turns; median and range of the turns, and of the ratios within a turn. "
            f"Parts of 512 rows, or of {PART}. Actors from the end of their first parts on, their start left out. CPU "
            "seconds tell what a job costs where other work shares the cores: rows/s say little then, and flatter "
            "several processes, which are given more of the cores than one. Of actors they are theirs alone, "
            "without Ray's and the driver's. The model's are those of its forward, its head and its output layer.", "",
            "| | rows/s | times the plain loop | CPU seconds a row | times the plain loop | not the model's |",
            "|---|---|---|---|---|---|",
            *(f"| {row['job']} | {spread(row['rates'])} | {ratio(row, part['rows'][0], 'rates')} | "
              f"{spread(row['cpu'])} | {ratio(row, part['rows'][0], 'cpu')} | "
              f"{format(statistics.median(row['not_model']), '.0%') if row['not_model'] else '–'} |"
              for row in part["rows"]), "",
            "![CPU seconds a row](batch.png)", "",
        ]  # fmt: skip
    if part := found.get("kills"):
        met, finished, count = part["rows"]
        lines += [
            "## Kills", "", part["made"], "",
            f"- in this process: {met} times kill -9 at a random moment of a job of {count} parts; {finished} jobs "
            "were finished by `resume=true`, each byte for byte the undisturbed one, nothing lost and nothing twice",
        ]  # fmt: skip
    if part := found.get("cluster"):
        of_actors, drivers, finished = part["rows"]
        lines += [
            f"- on two actors of Ray: {of_actors} times an actor, after which the job went on by itself, {drivers} "
            f"times the driver, after which `resume=true` went on; finished jobs, as above: "
            f"{finished}. {part['made']}",
        ]  # fmt: skip
    if part := found.get("memory"):
        lines += [
            "", "## Memory", "", f"{part['made']} `score` on rows of two tokens by a model of one layer of 8.", "",
            "| rows | rows/s | peak resident MiB |", "|---|---|---|",
            *(f"| {count} | {rate:.0f} | {peak:.0f} |" for count, rate, peak in part["rows"]), "",
        ]  # fmt: skip
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Median, least and most."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def ratio(row: dict[str, Any], base: dict[str, Any], of: str) -> str:
    """``spread`` of the ratios of two jobs, turn by turn."""
    return spread([one / other for one, other in zip(row[of], base[of], strict=True)])


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """CPU seconds a row, a bar each, a dot a run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 2.6), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(rows):
        axes.barh(place, statistics.median(row["cpu"]), color="0.8")
        axes.plot(row["cpu"], [place] * len(row["cpu"]), "k.", markersize=4)
    axes.set_yticks(range(len(rows)), [row["job"] for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("CPU seconds a row")
    figure.savefig(path, format="png", dpi=120)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=32, help="prompts of the speed test")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--many", type=int, nargs="*", default=[10_000, 100_000, 1_000_000], help="of the memory test")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--only", nargs="*", default=["memory", "kills", "cluster", "speed"], help="parts to measure")
    given = parser.parse_args()
    # memory first: the peak of a process begins with that of its parent
    measure = {
        "memory": lambda folder: memory(folder, given.many),
        "kills": lambda folder: kills(folder, enable("code", sampler="prism"), given.kills),
        "cluster": lambda folder: cluster_kills(folder, given.kills) if importlib.util.find_spec("ray") else None,
        "speed": lambda folder: speed(folder, given.rows, given.repeats),
    }
    options = dict.fromkeys(("kills", "cluster"), f"--kills {given.kills}")
    options |= {"memory": f"--many {' '.join(map(str, given.many))}"}
    options |= {"speed": f"--rows {given.rows} --repeats {given.repeats}"}
    kept = given.out / "batch.json"
    for name in measure:
        if name not in given.only:
            continue
        folder = Path(tempfile.mkdtemp())
        try:
            rows = measure[name](folder)
        finally:
            shutil.rmtree(folder)
        made = (
            f"By `python benchmarks/batch.py --only {name} {options[name]}`, prism-plugin {__version__}, "
            f"torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} cores, "
            f"{torch.get_num_threads()} thread(s), load average {os.getloadavg()[2]:.0f} at the end; not run on a GPU."
        )
        if rows is not None:
            found = json.loads(kept.read_text()) if kept.exists() else {}
            save_json(kept, found | {name: {"made": made, "rows": rows}})
    found = json.loads(kept.read_text())
    with write_atomic(given.out / "batch.md") as path:
        path.write_text(table(found))
    if "speed" in found:
        with write_atomic(given.out / "batch.png") as path:
            plot(found["speed"]["rows"], path)
    print(table(found))


if __name__ == "__main__":
    main()
