"""``prism batch``: what a row comes to depends on nothing but the row, and a job that is killed goes on."""

import json
import os
import signal
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch

from prism_plugin import cli, files
from prism_plugin.api import Prism
from prism_plugin.corpus import ABOUT, BatchConfig, run
from prism_plugin.errors import ConfigError, DataError
from prism_plugin.sampling.config import SamplerConfig
from tests.table_model import chain

MASK = 3


def table() -> Prism:
    """A model of texts of one to five tokens that do not stand in one batch where they differ in length."""
    denoiser = chain()
    denoiser.gives = denoiser.gives - {"padding"}  # type: ignore[misc]
    return Prism(denoiser, "prism", {})


def holes(path: Path, count: int) -> Path:
    """Texts of a chain of five, of two to five tokens and up to five masks."""
    with open(path, "w") as file:
        for number in range(count):
            ids = [(number >> place) % 3 if (number * 7 + place) % 3 == 0 else MASK for place in range(2 + number % 4)]
            file.write(json.dumps({"text": ids}) + "\n")
    return path


def config(tmp_path: Path, out: str, **given: Any) -> BatchConfig:
    sampler = given.pop("sampler", SamplerConfig("prism", steps=5))
    return BatchConfig(
        data=str(given.pop("data", tmp_path / "in.jsonl")), out=str(tmp_path / out), sampler=sampler, **given
    )


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for part in sorted(folder.glob("part-*.jsonl")) for line in part.read_text().splitlines()]


@pytest.mark.parametrize("kind", ["generate", "infill", "correct"])
def test_a_row_depends_on_no_other(tmp_path: Path, kind: str) -> None:
    holes(tmp_path / "in.jsonl", 23)
    if kind == "correct":
        texts = [
            {"text": [token % 3 for token in json.loads(line)["text"]]}
            for line in (tmp_path / "in.jsonl").read_text().splitlines()
        ]
        (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, texts)))
    given: dict[str, Any] = {"quality": True, "column": "text"}
    given["sampler"] = SamplerConfig("prism-correct" if kind == "correct" else "prism", steps=5)
    for out, slots, size in (("alone", 1, 1), ("few", 3, 7), ("all", 64, 512)):
        done = run(kind, config(tmp_path, out, slots=slots, rows=size, **given), table())
        assert (done.rows, done.made) == (23, 23)
    alone = rows(tmp_path / "alone")
    assert [row["row"] for row in alone] == list(range(23))
    assert rows(tmp_path / "few") == alone == rows(tmp_path / "all")
    assert done.failed == sum("error" in row for row in alone)
    whole = [row for row in alone if "error" not in row]
    assert len(whole) > 15 and all(
        MASK not in row["tokens"] and len(row["quality"]) == len(row["tokens"]) for row in whole
    )
    assert len({tuple(row["tokens"]) for row in whole}) > 8  # each has random numbers of its own


def test_scores_are_those_of_the_python_face(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"text": [0, 1, 2, 0, 1]}\n{"text": [2, 2, 3]}\n')
    run("score", config(tmp_path, "out", quality=True), table())
    first, second = rows(tmp_path / "out")
    expected = table().score([[0, 1, 2, 0, 1]])[0]
    assert first["quality"] == pytest.approx(expected.tolist(), abs=1e-5)
    assert first["mean"] == pytest.approx(float(expected.mean())) and first["least"] == pytest.approx(
        float(expected.min())
    )
    assert second["quality"][2] is None


BAD = [
    "no JSON",
    "[1]",
    '{"text": {}}',
    '{"other": 1}',
    '{"text": [0, 9]}',
    '{"text": [0, 0, 0, 0, 0, 3]}',
    '{"text": []}',
]


def test_a_failed_row_is_kept_with_its_error_and_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("\n".join([*BAD, '{"text": [0, 3]}']) + "\n")
    summary = run("infill", config(tmp_path, "out"), table())
    found = rows(tmp_path / "out")
    assert summary == (len(BAD) + 1, len(BAD), len(BAD) + 1)
    assert [row["row"] for row in found] == list(range(len(BAD) + 1))
    for row in found[:-1]:
        assert row["error"] and row["where"].endswith(f"in.jsonl, line {row['row'] + 1}")
    assert "no column text or prompt; ['other'] came" in found[3]["error"]
    assert "error" not in found[-1]


def test_a_row_that_fails_while_it_is_written_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    holes(tmp_path / "in.jsonl", 12)
    run("infill", config(tmp_path, "well"), table())
    prism, forward = table(), type(chain()).forward

    def breaks(self: Any, tokens: Any, *given: Any) -> Any:
        if tokens.shape[1] == 4 and bool((tokens[:, 0] == 0).any()):
            raise RuntimeError("out of order")
        return forward(self, tokens, *given)

    monkeypatch.setattr(type(prism.denoiser), "forward", breaks)
    run("infill", config(tmp_path, "out"), prism)
    well, found = rows(tmp_path / "well"), rows(tmp_path / "out")
    failed = [row["row"] for row in found if "error" in row]
    assert 0 < len(failed) < 12
    assert [row for row in found if row["row"] not in failed] == [row for row in well if row["row"] not in failed]
    assert all(found[number]["error"] == "RuntimeError: out of order" for number in failed)


def test_parquet_in_and_out(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    import pyarrow as pa

    holes(tmp_path / "in.jsonl", 9)
    texts = [json.loads(line) for line in (tmp_path / "in.jsonl").read_text().splitlines()]
    pq.write_table(pa.Table.from_pylist([*texts, {"text": []}]), tmp_path / "in.parquet")
    run("infill", config(tmp_path, "lines"), table())
    given = config(tmp_path, "table", data=tmp_path / "in.parquet", format="parquet", rows=4, quality=True)
    assert run("infill", given, table()) == (10, 1, 10)
    found = [row for part in sorted((tmp_path / "table").glob("*.parquet")) for row in pq.read_table(part).to_pylist()]
    assert [row["tokens"] for row in found[:9]] == [row["tokens"] for row in rows(tmp_path / "lines")]
    assert found[9]["error"] and found[9]["where"].endswith("row 10")
    given.resume = True
    assert run("infill", given, table()) == (10, 1, 0)


def killed(given: BatchConfig, renames: int, after: bool) -> None:
    """A job in a process of its own that is killed at its n-th rename, before it or after."""
    process = os.fork()
    if process == 0:
        left, replace = renames, os.replace

        def last(source: Any, target: Any) -> None:
            nonlocal left
            left -= 1
            if after or left:
                replace(source, target)
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

        files.os.replace = last  # type: ignore[assignment]
        run("infill", given, table())
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(process, 0)[1]) == signal.SIGKILL


@pytest.mark.parametrize("after", [False, True])
def test_a_job_that_is_killed_is_finished_by_resume(tmp_path: Path, after: bool) -> None:
    holes(tmp_path / "in.jsonl", 40)
    run("infill", config(tmp_path, "whole", rows=4), table())
    given = config(tmp_path, "out", rows=4)
    for renames in (2, 4, 5, 3):  # the first may be the folder's probe, the second its description
        killed(given, renames, after)
        given.resume = True
    assert after or list((tmp_path / "out").glob(".part-*.tmp"))
    there = len(list((tmp_path / "out").glob("part-*")))
    assert 0 < there < 10
    assert run("infill", given, table()) == (40, 0, 40 - 4 * there)
    assert rows(tmp_path / "out") == rows(tmp_path / "whole")
    assert not list((tmp_path / "out").glob(".part-*"))
    assert json.loads((tmp_path / "out" / ABOUT).read_text())["done"] == {"rows": 40, "failed": 0}
    assert run("infill", given, table()) == (40, 0, 0)


def test_only_the_same_job_is_gone_on_with(tmp_path: Path) -> None:
    holes(tmp_path / "in.jsonl", 4)
    run("infill", config(tmp_path, "out"), table())
    with pytest.raises(ConfigError, match="holds a job: resume=true"):
        run("infill", config(tmp_path, "out"), table())
    with pytest.raises(ConfigError, match="with rows = 512, now 2"):
        run("infill", config(tmp_path, "out", rows=2, resume=True), table())
    with pytest.raises(ConfigError, match="with kind = 'infill', now 'score'"):
        run("score", config(tmp_path, "out", resume=True), table())
    other = table()
    other.denoiser.head = torch.nn.Linear(1, 1)
    with pytest.raises(ConfigError, match="weights"):
        run("infill", config(tmp_path, "out", resume=True), other)
    holes(tmp_path / "in.jsonl", 5)
    with pytest.raises(ConfigError, match="bytes"):
        run("infill", config(tmp_path, "out", resume=True), table())
    assert run("infill", config(tmp_path, "out", overwrite=True), table()).rows == 5


@pytest.mark.parametrize(
    "row, fault",
    [
        ('{"other": 1}', r"in.jsonl, line 1\): no column text; \['other'\] came"),
        ("no JSON", "not JSON: Expecting value at character 1"),
        ('{"text": "words"}', "no tokenizer: a list of token ids is wanted"),
    ],
)
def test_a_fault_of_all_the_first_rows_is_one_of_the_settings(tmp_path: Path, row: str, fault: str) -> None:
    (tmp_path / "in.jsonl").write_text(f"{row}\n" * 3)
    with pytest.raises(DataError, match="all of the first 3 rows fail alike.*" + fault):
        run("score", config(tmp_path, "out"), table())
    (tmp_path / "in.jsonl").write_text('{"text": [0, 1]}\n' + f"{row}\n" * 3)  # no job is in the way of the next
    assert run("score", config(tmp_path, "out", rows=1), table()) == (4, 3, 4)


def test_what_cannot_be_meant_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("\n")
    with pytest.raises(DataError, match="there is no row"):
        run("infill", config(tmp_path, "out"), table())
    with pytest.raises(ConfigError, match="lies in data"):
        run("infill", config(tmp_path, "out", data=tmp_path), table())
    with pytest.raises(ConfigError, match="only generate writes behind"):
        run("infill", config(tmp_path, "out", max_new_tokens=3), table())
    with pytest.raises(ConfigError, match="format 'csv' is not known"):
        config(tmp_path, "out", format="csv")
    with pytest.raises(ConfigError, match="workers = 2: without cluster"):
        config(tmp_path, "out", workers=2)
    assert not (tmp_path / "out").exists()


def test_memory_does_not_grow_with_the_input(tmp_path: Path) -> None:
    """Four times the rows, no more memory: nothing but a window is held."""
    prism, peaks = table(), []
    for count in (1000, 4000):
        with open(tmp_path / "in.jsonl", "w") as file:
            file.writelines(f'{{"text": [{number % 3}, {number // 3 % 3}]}}\n' for number in range(count))
        given = config(tmp_path, f"out{count}", rows=250, slots=250)
        run("score", given, prism) if not peaks else None  # what is made once is made
        given.overwrite = True
        tracemalloc.start()
        assert run("score", given, prism) == (count, 0, count)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0], peaks


def test_the_command(tmp_path: Path, sudoku4_folder: Path, capsys: pytest.CaptureFixture) -> None:
    grid = "1 2 3 4\n3 4 1 2\n2 1 4 3\n4 3 2 1"
    lines = [{"prompt": grid.replace("1", ".")}, {"prompt": "no grid"}, {"prompt": grid.replace("3", ".")}]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, lines)))
    argv = [f"data={tmp_path}/in.jsonl", f"out={tmp_path}/out", f"model={sudoku4_folder}", "sampler.steps=8"]
    assert cli.main(["batch", "generate", *argv]) == 0
    assert "(3 rows, 1 failed)" in capsys.readouterr().out
    found = rows(tmp_path / "out")
    assert "reads grids of 4 lines" in found[1]["error"] and found[1]["where"].endswith("line 2")
    assert all(len(found[number]["text"].split()) == 16 for number in (0, 2))
    assert all(name in found[0] for name in ("forwards", "remasked", "wasted", "cost", "cut"))
    for kind in ("score", "correct"):
        argv[:2] = [f"data={tmp_path}/out", f"out={tmp_path}/{kind}"]
        assert cli.main(["batch", kind, *argv]) == 0
        assert "(3 rows, 1 failed)" in capsys.readouterr().out
    assert cli.main(["batch", "score", *argv]) == 2
    assert "holds a job: resume=true" in capsys.readouterr().err


def test_two_actors_write_what_one_process_writes_also_where_one_is_killed(
    tmp_path: Path, sudoku4_folder: Path
) -> None:
    pytest.importorskip("ray", reason="ray is not installed: pip install 'prism-plugin[cluster]'")
    import psutil

    grid = "1 2 3 4\n3 4 1 2\n2 1 4 3\n4 3 2 1"
    lines = [{"prompt": grid.replace(str(1 + number % 4), ".")} for number in range(24)]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, lines)))
    given = {"model": str(sudoku4_folder), "rows": 3}
    run("generate", config(tmp_path, "here", **given))
    killed: list[int] = []

    def after_the_first_part(*_: int) -> None:
        below = psutil.Process().children(recursive=True) if not killed else ()
        for one in (process for process in below if any("ray::Actor" in word for word in process.cmdline()[:1])):
            if not killed:
                one.kill()
                killed.append(one.pid)

    try:
        done = run("generate", config(tmp_path, "ray", cluster="auto", workers=2, **given), done=after_the_first_part)
    finally:
        sys.modules["ray"].shutdown()
    assert killed and (done.rows, done.failed, done.made) == (24, 0, 24)
    assert rows(tmp_path / "ray") == rows(tmp_path / "here")
