"""``prism compare``: equal cost, paired intervals, a run that goes on, the report."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from prism_plugin.api import enable
from prism_plugin.config import load
from prism_plugin.errors import ConfigError, DataError, PrismError
from prism_plugin.evaluation import judge as judges
from prism_plugin.evaluation import report, rivals
from prism_plugin.evaluation.comparison import self_bleu
from prism_plugin.evaluation.rivals import CompareConfig, bootstrap, compared
from prism_plugin.models.backbone import BackboneConfig
from prism_plugin.models.checkpoint import PrismModel
from prism_plugin.tasks import TRAIN, get_task
from tests.evaluation.test_judge import causal
from tests.training.test_data import tokenizer


def settings(model: Path, out: Path, *more: str) -> CompareConfig:
    given = [f"model={model}", f"out={out}", "samplers=prism,gibbs", "steps=4,8", "texts=12", "device=cpu", *more]
    return load(given, CompareConfig)


@pytest.fixture(scope="module")
def done(sudoku4_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("compared")
    compared(settings(sudoku4_folder, out))
    return out


def test_the_table_has_the_control_and_equal_cost(done: Path) -> None:
    found = json.loads((done / "results.json").read_text())
    units = {(unit["sampler"], unit["budget"]): unit for unit in found["units"]}
    assert set(units) == {(name, steps) for name in ("prism", "gibbs", "random-remask") for steps in (4, 8)}
    assert all(len(unit["scores"]) == 12 for unit in units.values())
    for budget in (4, 8):  # a second pass counts: half as many steps
        assert units["gibbs", budget]["steps"] < units["prism", budget]["steps"] == budget
        assert abs(units["gibbs", budget]["cost"] - budget) <= 1
        assert units["prism", budget]["cost"] == budget
    test = next(one for one in found["tests"] if (one["sampler"], one["budget"]) == ("prism", 8))
    apart = np.array(units["prism", 8]["scores"]) - np.array(units["random-remask", 8]["scores"])
    assert test["difference"] == pytest.approx(apart.mean()) and test["low"] <= test["difference"] <= test["high"]
    assert found["real"]["score"] == 1 and found["calibration"]["tokens"] == 12


def test_the_table_cuts_no_figure_on_a_narrow_terminal(done: Path) -> None:
    found = json.loads((done / "results.json").read_text())
    for row in (*found["rows"], *found["tests"]):
        row["sampler"] = row["sampler"].replace("prism", "prism-evidence:temperature=0.9:order=confidence")
    terminal = Console(width=80, file=io.StringIO())
    terminal.print(rivals.table(found))
    shown = terminal.file.getvalue()
    assert "\u2026" not in shown and "wasted" in shown
    assert all(f"{row['score']:.3f}" in shown for row in found["rows"])


def test_a_sampler_may_bring_settings_of_its_own(sudoku4_folder: Path, tmp_path: Path) -> None:
    names = ("prism", "prism:order=confidence:temperature=0", "prism:temperature=1.0")
    found = compared(settings(sudoku4_folder, tmp_path, f"samplers={','.join(names)}", "steps=6"))
    rows = {row["sampler"]: row for row in found["rows"]}
    assert set(rows) == {*names, "random-remask"}
    assert rows[names[0]]["scores"] == rows[names[2]]["scores"], "the default, said"
    assert rows[names[0]]["difference"] > rows[names[1]]["difference"] == 0, "greedy from masks alone: one text"
    assert "temperature=0" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["model=sudoku4", "clues=16"], "clues = 16: nothing is left to write"),
        (["model=code", "clues=128"], "clues = 128: nothing is left to write"),
        (["model=code", "clues=9", "texts=5000"], "texts = 5000: code holds [0-9]+ held-out texts"),
    ],
)
def test_what_leaves_nothing_to_write_or_to_take_clues_from_is_refused(
    given: list[str], said: str, sudoku4_folder: Path, tmp_path: Path
) -> None:
    given = [one.replace("=sudoku4", f"={sudoku4_folder}") for one in given]
    with pytest.raises(ConfigError, match=said):
        compared(load([*given, f"out={tmp_path}", "steps=4", "device=cpu"], CompareConfig))
    assert not (tmp_path / "results.json").exists()


def test_the_report_needs_nothing_from_outside(done: Path) -> None:
    page = (done / "report.html").read_text()
    assert not re.search(r"(src|href)=\"(?!replay\.html)|https?:|@import|url\(", page)
    for part in ("Quality against cost", "Quality against diversity", "Calibration", "Settings to paste", "<rect"):
        assert part in page
    assert "{" not in re.sub(r"<style>.*?</style>", "", page, flags=re.S) and "nan" not in page
    assert (done / "replay.html").exists()


def test_a_ninth_sampler_is_told_from_the_first() -> None:
    unit = {"score": 0.5, "low": 0.4, "high": 0.6}
    drawn = {f"s{n}": [unit | {"budget": budget} for budget in (4, 8)] for n in range(9)}
    colour = {name: f"var(--c{n % report.COLOURS})" for n, name in enumerate(drawn)}
    said = report.chart(drawn, colour, lambda one: one["budget"], "cost", "score")
    assert said.count("stroke-dasharray") == 1 and said.count('fill="var(--page)"') == 2


def test_resume_makes_what_is_not_there(
    done: Path, sudoku4_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = json.loads((done / "results.json").read_text())
    cut = {"settings": whole["settings"], "units": whole["units"][:4]}  # as a kill after the fourth leaves it
    (tmp_path / "results.json").write_text(json.dumps(cut))
    made, unit = [], rivals._Rivals.unit
    monkeypatch.setattr(rivals._Rivals, "unit", lambda self, *what: made.append(what) or unit(self, *what))
    found = compared(settings(sudoku4_folder, tmp_path, "resume=true"))
    assert made == [tuple(one[name] for name in ("sampler", "budget", "steps", "seed")) for one in whole["units"][4:]]
    assert [one["scores"] for one in found["units"]] == [one["scores"] for one in whole["units"]]
    more = compared(settings(sudoku4_folder, tmp_path, "resume=true", "steps=4", "seeds=0,1"))
    row = next(one for one in more["rows"] if (one["sampler"], one["budget"]) == ("prism", 4))
    parts = [u["scores"] for u in more["units"] if (u["sampler"], u["budget"]) == ("prism", 4)]
    assert row["seeds"] == [0, 1] and row["scores"] == np.mean(parts, axis=0).tolist()
    assert row["spread"] == pytest.approx(np.std([np.mean(part) for part in parts], ddof=1))
    with pytest.raises(ConfigError, match="resume=true"):
        compared(settings(sudoku4_folder, tmp_path))
    with pytest.raises(ConfigError, match="texts differ"):
        compared(settings(sudoku4_folder, tmp_path, "resume=true", "texts=13"))


@pytest.mark.parametrize("part", ["head", "model", "prism_plugin"])
def test_another_model_under_the_same_name_is_not_gone_on_with(part: str, done: Path, sudoku4_folder: Path,
                                                               tmp_path: Path) -> None:  # fmt: skip
    whole = json.loads((done / "results.json").read_text())
    assert whole["of"].keys() == {"prism_plugin", "model", "head"} and all(whole["of"].values())
    whole["of"][part] = "another"
    (tmp_path / "results.json").write_text(json.dumps(whole))
    before = (tmp_path / "results.json").read_bytes()
    with pytest.raises(ConfigError, match=f"begun with {part} another, now it is"):
        compared(settings(sudoku4_folder, tmp_path, "resume=true", "seeds=0,1"))
    assert (tmp_path / "results.json").read_bytes() == before


def test_a_function_and_data_of_ones_own(sudoku4_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_for_compare.py").write_text("def ones(texts):\n    return [t.count('1') for t in texts]\n")
    (tmp_path / "puzzles.jsonl").write_text(
        '{"prompt": "1234\\n3412\\n2143\\n4320"}\n{"prompt": "1000\\n0000\\n0000\\n0000"}\n'
    )
    monkeypatch.chdir(tmp_path)
    found = compared(settings(sudoku4_folder, tmp_path / "out", "data=puzzles.jsonl", "metric=mine_for_compare:ones",
                              "samplers=mdlm", "steps=3"))  # fmt: skip
    assert found["real"] is None and found["calibration"] is None
    assert all(unit["texts"] == 2 and unit["scores"][0] >= 4 for unit in found["units"])
    by_one = compared(settings(sudoku4_folder, tmp_path / "out", "data=puzzles.jsonl", "metric=mine_for_compare:ones",
                               "samplers=mdlm,random", "steps=3", "slots=1", "resume=true"))  # fmt: skip
    assert len(by_one["units"]) == len(found["units"]) + 1
    (tmp_path / "wrong_for_compare.py").write_text("def lookup(texts):\n    return {}['boo']\n")
    with pytest.raises(DataError, match="metric wrong_for_compare:lookup: KeyError: 'boo'"):
        compared(settings(sudoku4_folder, tmp_path / "no", "data=puzzles.jsonl", "metric=wrong_for_compare:lookup"))


def test_a_model_is_compared_without_its_own_head(sudoku4_folder: Path, tmp_path: Path) -> None:
    found = compared(settings(sudoku4_folder, tmp_path, "head=none", "samplers=self-likelihood,prism", "steps=3"))
    assert found["of"]["head"] is None and found["calibration"] is None
    assert rivals.remarks(found) == "No head was given, so these doubt by self-likelihood: prism."
    assert rivals.remarks(found) in (tmp_path / "report.html").read_text()


def test_a_text_that_has_ended_is_judged_up_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_layers": 1, "num_heads": 2}
    model = PrismModel(BackboneConfig(vocab_size=12, mask_id=3, length=32, **shape), "none").eval()
    monkeypatch.setattr(rivals, "enable", lambda *given, **named: enable(model, tokenizer=tokenizer()))
    seen: list[str] = []
    monkeypatch.setattr(rivals, "_function", lambda name: lambda texts: seen.extend(texts) or [0] * len(texts))
    rows, lengths = ["one two", "three five"], []
    monkeypatch.setattr(rivals, "self_bleu", lambda rows: lengths.extend(map(len, rows)) or 0.0)
    for name, new, prompts in (("new", 12, rows), ("holes", 0, [f"{row} [MASK*12]" for row in rows])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"prompt": row}) + "\n" for row in prompts))
        compared(settings(Path("x"), tmp_path / name, f"data={tmp_path}/{name}.jsonl", f"max_new_tokens={new}",
                          "metric=any:thing", "samplers=random", "steps=4", "seeds=0,1,2"))  # fmt: skip
        assert not any("[eos]" in text or "[bos]" in text for text in seen) and all(map(str.startswith, seen, rows * 6))
        assert name == "holes" or min(lengths) < 9
        seen.clear()
    (tmp_path / "one.txt").write_text("one [MASK*3]\ntwo\n")
    with pytest.raises(DataError, match=r"holds 1 text\(s\)"):
        compared(settings(Path("x"), tmp_path / "one", f"data={tmp_path}/one.txt", "metric=any:thing"))


def test_harm_is_counted_where_the_truth_is_known(sudoku4_folder: Path, tmp_path: Path) -> None:
    given = ("samplers=prism", "steps=6")
    free = compared(settings(sudoku4_folder, tmp_path / "free", *given))
    known = compared(settings(sudoku4_folder, tmp_path / "known", "clues=8", *given))
    assert all(row["harmful"] is None for row in free["rows"]) and "harmful" not in rivals.lines(free)[0]
    assert all(0 <= row["harmful"] <= row["remasked"] for row in known["rows"]) and "harmful" in rivals.lines(known)[0]


def test_the_judge_of_text_is_a_metric(tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "def add(a, b):\\n"}\n{"prompt": "import os\\n"}\n')
    mine = [f"data={tmp_path / 'prompts.jsonl'}", "max_new_tokens=8"]
    for name, given in {"own": [], "data": mine}.items():
        found = load(["model=code", f"out={tmp_path / name}", "samplers=mdlm", "steps=2", "texts=2", "metric=judge",
                      "device=cpu", *given], CompareConfig)  # fmt: skip
        assert all(-20 < score < 0 for unit in compared(found)["units"] for score in unit["scores"])


def test_both_judges_are_told_beside_real_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judges, "JUDGES", tmp_path)
    counted = judges.Judge(np.random.default_rng(0).integers(1, 1024, 4000), 1024)
    monkeypatch.setattr(judges.Judge, "of", lambda task: counted)
    causal(tmp_path / "code", 1024)
    found = {
        metric: compared(load(["model=code", f"out={tmp_path / metric}", "samplers=mdlm", "steps=2", "texts=2",
                               f"metric={metric}", "device=cpu"], CompareConfig))
        for metric in ("judge", "judge-causal")
    }  # fmt: skip
    one, other = found["judge"], found["judge-causal"]
    for row, also in zip([*one["rows"], one["real"]], [*other["rows"], other["real"]], strict=True):
        assert (row["score"], row["other"]) == pytest.approx((also["other"], also["score"]))
    shown = {line["by the causal model"] for line in rivals.lines(one)}
    assert shown == {f"{row['other']:.3f}" for row in one["rows"]}
    assert rivals.truth(other)["by the 5-gram model"] == f"{one['real']['score']:.3f}"
    with pytest.raises(ConfigError, match="no causal judge"):
        compared(load(["model=prose", f"out={tmp_path / 'no'}", "metric=judge-causal", "device=cpu"], CompareConfig))


def test_held_out_texts_of_ones_own_stand_in_place_of_the_tasks(tmp_path: Path) -> None:
    task = get_task("code")
    rows = task.texts(40, 6, TRAIN)
    ids = torch.cat([rows[0], rows[1], rows[2][:9]]).tolist()
    lines = [json.dumps({"text": text}) for text in (ids, *map(task.render, rows[2:]))]
    (tmp_path / "own.jsonl").write_text("\n".join(lines))
    given = ["model=code", "samplers=confidence", "steps=2", "texts=3", "clues=120", "metric=judge"]
    found = compared(load([*given, f"real={tmp_path / 'own.jsonl'}", f"out={tmp_path / 'out'}"], CompareConfig))
    judge = judges.Judge.of(task)
    assert found["real"]["score"] == pytest.approx(-np.mean([judge.bits(task, task.render(row)) for row in rows[:3]]))
    assert all(abs(row["score"] - found["real"]["score"]) < 1 for row in found["rows"]), "120 of 128 tokens are theirs"
    for wrong, said in (("texts=9", "holds 6 texts of 128 tokens, and texts = 9"), ("model=sudoku", "code and prose"),
                        ("data=x.jsonl", "for texts of the model's own task")):  # fmt: skip
        asked = [*given[:4], f"real={tmp_path / 'own.jsonl'}", f"out={tmp_path / 'no'}", "metric=judge", wrong]
        with pytest.raises(PrismError, match=said):
            compared(load(asked, CompareConfig))


def test_self_bleu_is_that_of_sacrebleu() -> None:
    sacrebleu = pytest.importorskip("sacrebleu", reason="sacrebleu is not installed (lm-eval brings it)")
    texts = [torch.from_numpy(row) for row in np.random.default_rng(0).integers(0, 6, (5, 30))] + [torch.arange(3, 25)]
    shown = [" ".join(map(str, text.tolist())) for text in texts]
    by_it = [
        sacrebleu.sentence_bleu(one, shown[:n] + shown[n + 1 :], tokenize="none", smooth_method="floor").score / 100
        for n, one in enumerate(shown)
    ]
    assert self_bleu(texts) == pytest.approx(np.mean(by_it))
    assert self_bleu([texts[0]] * 3) == pytest.approx(1) and np.isnan(self_bleu(texts[:1]))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [("steps=a", "steps"), ("seeds=-1", "seeds"), ("metric=judge", "neither"),
     ("steps=0", "steps"), ("texts=1", "texts"), ("samplers=prisn", "Nearest: prism"),
     ("samplers=prism:eta", "is not key=value"), ("samplers=prism:etta=1", "Nearest: sampler.eta"),
     ("samplers=prism:steps=9", "of the whole comparison"),
     ("metric=nothing", "metric"), ("metric=math:pi", "no function"),
     ("max_new_tokens=8", "max_new_tokens = 8 is for data"), ("column=text", "column = 'text' is for data"),
     ("slots=16", "slots = 16 is for data")],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(sudoku4_folder: Path, tmp_path: Path, wrong: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        compared(settings(sudoku4_folder, tmp_path, wrong))
    with pytest.raises(ConfigError, match="clues = 4 is for texts of the model's own task"):
        settings(sudoku4_folder, tmp_path, "data=x.jsonl", "clues=4")


def test_the_bootstrap_finds_the_interval_of_a_mean() -> None:
    values = np.random.default_rng(1).normal(3, 2, 400)
    low, high = bootstrap(values)
    half = 1.96 * values.std(ddof=1) / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)


@pytest.mark.parametrize(
    ("cost", "budget", "steps"),
    [
        (lambda steps: steps * 1.5, 16, 11),
        (lambda steps: min(steps, 8), 16, 16),  # full after eight: more steps bring nothing
        (lambda steps: steps if steps < 3 else 4 * steps - 8, 8, 4),  # from the third on four passes each
        (lambda steps: steps if steps < 3 else 9 * steps, 8, 2),
        (lambda steps: 1.4 * steps, 1, 1),
        (lambda steps: steps + 1, 200, 200),  # within 1%: near enough
        (lambda steps: steps + 1, 20, 19),
    ],
)
def test_steps_are_those_whose_cost_is_nearest(cost: Callable[[int], float], budget: int, steps: int) -> None:
    assert rivals.nearest(cost, budget) == steps
