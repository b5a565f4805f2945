"""benchmarks/trained.py: every recipe goes on from one backbone, and its page says what its JSON holds."""

import json
from pathlib import Path

import pytest

from benchmarks import trained


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    length = "train.steps=2 train.batch_size=4 train.eval_texts=4 train.eval_forwards=0 train.warmup=1"
    monkeypatch.setitem(trained.TASKS, "sudoku4", (length, "steps=3 texts=8"))


def asked(folder: Path, base: Path, *recipes: str, seeds: str = "01") -> list[str]:
    return ["sudoku4", "--base", str(base), "--seeds", *seeds, "--work", str(folder / "work"), "--out",
            str(folder / "out"), "--recipes", *recipes]  # fmt: skip


def test_every_recipe_trains_writes_and_is_on_the_page(small: None, sudoku4_folder: Path, tmp_path: Path) -> None:
    assert trained.main(asked(tmp_path, sudoku4_folder, *trained.RECIPES, seeds="7")) == 0
    found = json.loads((tmp_path / "out/sudoku4.json").read_text())
    page = (tmp_path / "out/sudoku4.md").read_text()
    assert (tmp_path / "out/sudoku4.png").stat().st_size > 10_000
    wanted = {
        trained.named(recipe, name)
        for recipe, (_, _, samplers) in trained.RECIPES.items()
        for name in (*samplers.split(","), trained.CONTROL)
    }
    assert {"prism-share by self-likelihood", "PRISM: prism-share"} < wanted
    assert {unit["sampler"] for unit in found["units"]} == wanted
    for name in wanted:
        assert f"| {name} | 3 |" in page
    for recipe, runs in found["trained"].items():
        assert {run["settings"]["train.seed"] for run in runs.values()} == {7}, recipe
        assert {run["settings"]["train.steps"] for run in runs.values()} == {2}, "equal updates"


def test_what_is_there_is_not_made_again(
    small: None, sudoku4_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = asked(tmp_path, sudoku4_folder, "further", "PRISM")
    assert trained.main(asking) == 0
    before = (tmp_path / "out/sudoku4.json").read_bytes()
    made = {file: file.stat().st_mtime_ns for file in (tmp_path / "work").glob("*/*.safetensors")}
    (tmp_path / "out/sudoku4.json").unlink()
    with monkeypatch.context() as nobody:
        nobody.setattr("prism_plugin.evaluation.rivals._Rivals.unit", lambda *args: pytest.fail("written again"))
        assert trained.main(asking) == 0
    assert (tmp_path / "out/sudoku4.json").read_bytes() == before
    assert {file: file.stat().st_mtime_ns for file in made} == made
    page = (tmp_path / "out/sudoku4.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| PRISM: prism | 3 |")]
    assert len(rows) == 1 and rows[0].endswith("| 0, 1 |")
    assert trained.main(["sudoku4", "--page", "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out/sudoku4.md").read_text() == page


def test_recipes_and_seeds_join_those_on_the_page(
    small: None, sudoku4_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def units() -> dict[tuple[str, int], list[float]]:
        found = json.loads((tmp_path / "out/sudoku4.json").read_text())
        return {(unit["sampler"], unit["seed"]): unit["scores"] for unit in found["units"]}

    assert trained.main(asked(tmp_path, sudoku4_folder, "further", "T2T", seeds="1")) == 0
    alone = units()
    made: list[tuple[str, int]] = []
    train = trained.trained
    monkeypatch.setattr(
        trained,
        "trained",
        lambda *given: made.append((given[2], given[3])) or train(*given[:4], tmp_path / str(len(made))),
    )
    assert trained.main(asked(tmp_path, sudoku4_folder, "further", "T2T", seeds="01")) == 0
    assert made == [("further", 0), ("T2T", 0)], "what the page has is not trained again, though the models are gone"
    assert alone.items() < units().items()
    rows = (tmp_path / "out/sudoku4.md").read_text().splitlines()
    assert [row[-8:] for row in rows if row.startswith("| T2T: t2t | 3 |")] == ["| 0, 1 |"]
    monkeypatch.setitem(trained.TASKS, "sudoku4", (trained.TASKS["sudoku4"][0] + " train.clip=0.5", "steps=3 texts=8"))
    before = units()
    assert trained.main(asked(tmp_path, sudoku4_folder, "further", seeds="0")) == 0
    assert made[2:] == [("further", 0)], "other settings, another model"
    assert units().keys() == before.keys()


def test_a_base_that_is_not_there_is_said(small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert trained.main(asked(tmp_path, tmp_path / "none", "further")) == 2
    assert "none" in capsys.readouterr().out
    assert not (tmp_path / "out/sudoku4.json").exists()
