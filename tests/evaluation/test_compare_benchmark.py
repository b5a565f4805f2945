"""The pages of ``benchmarks/compare.py`` say what their JSON says, and no more."""

from typing import Any

import numpy as np
import pytest

from benchmarks import compare
from prism_plugin.config import load
from prism_plugin.evaluation import rivals
from prism_plugin.evaluation.rivals import CompareConfig, merged


def unit(sampler: str, scores: list[float], seed: int = 0, **other: Any) -> dict[str, Any]:
    known = dict.fromkeys(("forwards", "cost", "remasked", "wasted", "seconds"), 8.0)
    known |= {"harmful": None, "entropy": 4.0, "distinct": 0.9, "self_bleu": 0.1, "difference": 0.9}
    return {"sampler": sampler, "budget": 8, "seed": seed, "steps": 8, "texts": len(scores), "settings": {},
            "scores": scores, **known, **other}  # fmt: skip


@pytest.fixture
def part() -> dict[str, Any]:
    base = np.random.default_rng(0).normal(-3, 0.1, 40)
    units = [
        unit("random-remask", base.tolist()), unit("mdlm", (base - 1).tolist()), unit("prism", (base + 0.5).tolist()),
        unit("prism-evidence", (base + 0.5 + np.tile([0.1, -0.1], 20)).tolist()),
        unit("confidence", (base + 2).tolist(), entropy=3.5), unit("wino", (base + 5).tolist(), cost=20.0),
        unit("prism-share", (base + 0.8).tolist(), entropy=2.4),
    ]  # fmt: skip
    rows = merged(units)
    real = {"score": -2.0, "low": -2.1, "high": -1.9, "entropy": 3.7, "entropy_low": 3.0, "distinct": 0.9,
            "self_bleu": 0.1, "difference": 0.9}  # fmt: skip
    return {"metric": "minus bits a character", "rows": rows, "tests": rivals.tests(rows), "real": real}


def test_the_best_is_fair_in_cost_and_has_not_slid_past_real_text(part: dict[str, Any]) -> None:
    said = compare.verdict(part, 8)
    assert said.startswith("best is prism (") and "level with it prism-evidence;" in said
    assert "poorer than real text, so out of the race: confidence, prism-share." in said and "wino" not in said
    assert "against the best without a head, random-remask: +0.500 (+0.500, +0.500)" in said
    assert rivals.best(part)["sampler"] == "prism", "nor is it the setting to paste"
    assert rivals.remarks(part) == (
        "Poorer than real text (loops, or what is frequent), so never the best: confidence (8), prism-share (8)."
    )
    part["real"] = None
    assert rivals.remarks(part) == "" and "best is confidence" in compare.verdict(part, 8)


def test_a_page_holds_every_row_and_the_command(part: dict[str, Any]) -> None:
    found = {"question": "Who?", "command": "python -m benchmarks.compare sudoku", "date": "2026-01-01",
             "machine": "a CPU", "parts": {"whole": part}}  # fmt: skip
    page = "\n".join(compare.page(found, "whole"))
    assert all(f"| {row['sampler']} |" in page for row in part["rows"]) and "| real text |" in page
    assert "    python -m benchmarks.compare sudoku\n" in page and "One seed" in page and "nan" not in page
    assert " over `" not in page
    page = "\n".join(compare.page(found | {"beside": "mdlm"}, "whole"))
    assert "- `prism` over `mdlm`: +1.500 (+1.500, +1.500)" in page and "`mdlm` over" not in page


def test_samplers_at_several_nuclei_are_read_off_where_texts_are_as_rich_as_real_ones(tmp_path: Any) -> None:
    base = np.random.default_rng(0).normal(-3, 0.1, 40)
    rows = merged([
        unit("prism:top_p=0.9:num_remask=1", (base + 1).tolist(), entropy=3.6),
        unit("prism:top_p=1.0:num_remask=1", base.tolist(), entropy=4.0),
        unit("mdlm:top_p=0.8", (base + 0.2).tolist(), entropy=3.5), unit("mdlm:top_p=1.0", base.tolist(), entropy=3.9),
        unit("remdm-conf:top_p=0.8", base.tolist(), entropy=3.9), unit("remdm-conf:top_p=1.0", base.tolist()),
        unit("random-remask", base.tolist()), unit("random-remask", base.tolist(), budget=16),
    ])  # fmt: skip
    drawn = compare.curves({"rows": rows})
    assert list(map(len, drawn.values())) == [2, 2, 2] and "random-remask" not in drawn
    assert np.allclose(compare.between(drawn["prism:num_remask=1"], 3.7), base + 0.75)
    assert compare.between(drawn["prism:num_remask=1"], 3.5) is None
    said = list(compare.as_rich(drawn, {"entropy": 3.7}))
    assert said[4].startswith("| prism:num_remask=1 |") and said[4].endswith("| first |")
    assert said[5].startswith("| mdlm |") and said[5].endswith("| -0.650 (-0.650, -0.650) |")
    assert said[6] == "| remdm-conf | richer at every nucleus: 3.90 to 4.00 | |"
    real = {"score": -2.0, "entropy": 3.7}
    compare.draw({"rows": rows, "real": real, "metric": "minus bits a character"}, tmp_path / "drawn.png")
    assert (tmp_path / "drawn.png").stat().st_size > 10_000


def test_a_page_is_gone_on_from_where_more_seeds_are_asked_for(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ("model=sudoku", "steps=2", "texts=2", "samplers=mdlm,confidence")
    question = compare.Question("Who?", {"sudoku": (*given, "seeds=0")})
    monkeypatch.setitem(compare.QUESTIONS, "who", question)
    compare.run("who", tmp_path, False, tmp_path / "first")
    before = compare.load_json(tmp_path / "who.json")["parts"]["sudoku"]["units"]
    wrote, unit = [], rivals._Rivals.unit

    def counted(self: Any, name: str, budget: int, steps: int, seed: int) -> dict[str, Any]:
        wrote.append((name, seed))
        return unit(self, name, budget, steps, seed)

    monkeypatch.setattr(rivals._Rivals, "unit", counted)
    more = (*given[:3], "samplers=mdlm,random", "seeds=0,1")
    monkeypatch.setitem(compare.QUESTIONS, "who", compare.Question("Who?", {"sudoku": more}))
    compare.run("who", tmp_path, False, tmp_path / "second")
    assert sorted(wrote) == [("mdlm", 1), ("random", 0), ("random", 1), ("random-remask", 1)]
    after = compare.load_json(tmp_path / "who.json")["parts"]["sudoku"]["units"]
    assert [one for one in before if one["sampler"] != "confidence"] == [one for one in after if one in before]
    assert len(after) == 6
    monkeypatch.setitem(compare.QUESTIONS, "who", compare.Question("Who?", {"sudoku": (*more[1:], "model=sudoku-k1")}))
    wrote.clear()
    compare.run("who", tmp_path, False, tmp_path / "third")
    assert len(wrote) == 6  # of another model nothing is kept


@pytest.mark.parametrize("name", compare.QUESTIONS)
def test_every_part_is_a_comparison_that_can_be_asked(name: str, tmp_path: Any) -> None:
    question = compare.QUESTIONS[name]
    for given in question.parts.values():
        asked = compare.settings(given, question, True, tmp_path)
        config = load([*asked, f"out={tmp_path / 'out'}"], CompareConfig)
        assert config.texts == 16 and config.budgets == [8, 16] and "random-remask" in config.names
