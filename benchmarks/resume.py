"""A run of lm-eval that is killed (kill -9) at several moments and started again: the same results.json as if it were not.

    python benchmarks/resume.py --kills 10 --out docs/results

Each moment is a share of the answers: the kill comes when the cache holds so many, from none to all but one. After it the
same command with the same --use_cache runs to its end; a kill that came too late counts as a failure. Compared is
results.json without clocks, durations and paths, and every sample. Two tasks, one that generates at temperature 1 with
three repeats a document, and one of multiple choice; a tiny model with random weights. Every run is a process of its own,
forked off one that has imported lm-eval.
"""  # noqa: E501

import argparse
import json
import multiprocessing
import os
import platform
import shlex
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import prism_plugin.evaluation.lm_eval  # noqa: F401  (registers the model)
from prism_plugin import __version__
from prism_plugin.files import save_json
from prism_plugin.models.backbone import BackboneConfig
from prism_plugin.models.checkpoint import PrismModel

CLOCKS = {
    "date", "start_time", "end_time", "total_evaluation_time_seconds", "pretty_env_info", "seconds", "tokens_a_second",
    "use_cache", "git_hash", "upper_git_hash", "batch_sizes",
}  # fmt: skip
"""Keys of results that no two runs share: when, how fast, in what batches, on which commit."""

TASKS = {
    "written": """\
task: written
class: !function docs.Made
documents: !function docs.docs
test_split: test
output_type: generate_until
doc_to_text: "def f{{number}}(x):\\n"
doc_to_target: "x"
generation_kwargs: {until: ["\\ndef"], max_gen_toks: 24, temperature: 1.0, steps: 12, sampler: random}
repeats: 3
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
""",
    "chosen": """\
task: chosen
class: !function docs.Made
documents: !function docs.docs
test_split: test
output_type: multiple_choice
doc_to_text: "def f{{number}}(x):\\n    return"
doc_to_target: 0
doc_to_choice: ["x", "self.x + {{number}} * (x - 1) if x else None", "None"]
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
""",
}
DOCS = """\
import datasets
from prism_plugin.evaluation.task import Made


def docs():
    return {"test": datasets.Dataset.from_list([{"number": n} for n in range(%d)])}
"""


def make(folder: Path, documents: int) -> None:
    """The two tasks, and beside them a model of code with random weights."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    shape = BackboneConfig(
        vocab_size=1024, mask_id=0, length=128, hidden_size=32, num_layers=1, num_heads=2, cond_size=8
    )
    PrismModel(shape, "code").save_pretrained(folder.parent / "model")
    (folder / "docs.py").write_text(DOCS % documents)
    for name, text in TASKS.items():
        (folder / f"{name}.yaml").write_text(text)


def command(tasks: Path, out: Path, cache: Path) -> list[str]:
    """lm-eval as one types it."""
    return [
        "lm_eval", "--model", "prism", "--device", "cpu", "--batch_size", "4",
        "--model_args", f"model={tasks.parent}/model,sampler=random", "--tasks", ",".join(TASKS),
        "--include_path", str(tasks), "--output_path", str(out), "--use_cache", str(cache), "--log_samples",
    ]  # fmt: skip


def bare(value: Any) -> Any:
    """Results without what no two runs share."""
    if isinstance(value, dict):
        return {key: bare(each) for key, each in value.items() if key not in CLOCKS}
    return [bare(each) for each in value] if isinstance(value, list) else value


def told(out: Path) -> tuple[Any, list[Any]]:
    """results.json and all samples of a run, without clocks."""
    results = json.loads(next(out.rglob("results_*.json")).read_text())
    samples = [
        json.loads(line) for file in sorted(out.rglob("samples_*.jsonl")) for line in file.read_text().splitlines()
    ]
    return bare(results), bare(samples)


def answered(cache: Path) -> int:
    """How many answers the cache holds, -1 while it is not there."""
    try:
        with sqlite3.connect(f"file:{cache}_rank0.db?mode=ro", uri=True) as found:
            return found.execute("select count(*) from unnamed").fetchone()[0]
    except sqlite3.OperationalError:
        return -1


def watched(arguments: list[str], cache: Path, stop_at: int | None) -> int:
    """Run it; kill -9 once its cache is there and holds ``stop_at`` answers. How many it holds in the end."""
    run = multiprocessing.get_context("fork").Process(target=typed, args=(arguments, cache.with_suffix(".log")))
    run.start()
    while stop_at is not None and run.is_alive():
        if answered(cache) >= stop_at:
            run.kill()
            break
        time.sleep(0.002)
    run.join()
    if run.exitcode not in (0, -signal.SIGKILL):
        raise SystemExit(cache.with_suffix(".log").read_text())
    return answered(cache)


def typed(arguments: list[str], said: Path) -> None:
    """What the command ``lm_eval`` does with these arguments; what it says goes to a file."""
    from lm_eval.__main__ import cli_evaluate  # its presence tells the model that a command line is read

    with said.open("a") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
        sys.argv = arguments
        cli_evaluate()


def main() -> None:
    """Run once whole, then once for each moment; print and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--documents", type=int, default=20)
    parser.add_argument("--out", default="")
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="resume-"))
    make(work / "tasks", options.documents)

    def run(name: str, stop_at: int | None) -> int:
        cache = work / name / "cache"
        cache.parent.mkdir(exist_ok=True)
        return watched(command(work / "tasks", work / name / "out", cache), cache, stop_at)

    whole = run("whole", None)
    expected = told(work / "whole" / "out")
    rows = []
    for number in range(options.kills):
        name, moment = f"kill{number}", (whole - 1) * number // max(options.kills - 1, 1)
        kept = run(name, moment)
        inside = kept < whole and not (work / name / "out").exists()
        run(name, None)
        same = told(work / name / "out") == expected
        rows.append({"moment": moment, "answers_kept": kept, "answers": whole, "inside": inside, "identical": same})
        when = "" if inside else ", too late: the run had ended"
        print(f"killed at {kept} of {whole} answers{when}; results identical: {same}", flush=True)
    shutil.rmtree(work)
    if options.out:
        about = {
            "command": shlex.join(["python", *sys.argv]),
            "prism_plugin": __version__,
            "lm_eval": version("lm_eval"),
            "python": platform.python_version(),
            "machine": f"{platform.machine()} CPU, {os.cpu_count()} cores, no GPU",
        }
        save_json(Path(options.out) / "resume.json", {"about": about, "documents": options.documents, "rows": rows})
    if differ := [row["answers_kept"] for row in rows if not row["identical"]]:
        raise SystemExit(f"after a kill at {', '.join(map(str, differ))} answers the results differ")
    if late := sum(not row["inside"] for row in rows):
        raise SystemExit(f"{late} of {len(rows)} kills came too late: more --documents make the run longer")


if __name__ == "__main__":
    main()
