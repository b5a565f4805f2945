"""Code and prose: texts that are what they say, split as they say, the same however they are asked for."""

import ast
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prism_plugin.errors import DataError
from prism_plugin.tasks import HELD_OUT, get_task, text

NAMES = ("code", "prose")
TASKS = {name: get_task(name) for name in NAMES}  # one for all tests: its texts are made once


@pytest.mark.parametrize("name", NAMES)
def test_texts_do_not_depend_on_how_they_are_asked_for(name: str) -> None:
    task = TASKS[name]
    texts = task.texts(0, 40, HELD_OUT)
    assert texts.shape == (40, 128) and texts.min() > task.mask_id and texts.max() < task.vocab_size == 1024
    assert torch.equal(task.texts(7, 3, HELD_OUT), texts[7:10])
    assert len({tuple(row) for row in texts.tolist()}) == 40
    starts = len(task.stream(HELD_OUT)[1])
    assert torch.equal(task.texts(starts + 2, 1, HELD_OUT), texts[2:3])
    prompts = task.prompts(40, 30)
    assert ((prompts != task.mask_id).sum(dim=1) == 30).all()
    assert torch.equal(torch.where(prompts == task.mask_id, texts, prompts), texts)
    assert torch.equal(task.prompts(2, 30, first=5), prompts[5:7])


@pytest.mark.parametrize("name", NAMES)
def test_training_and_held_out_units_never_meet(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a small standard library: three training modules and one that is held out, a function in common."""
    same = "def same(a):\n    '''A docstring that is said in two modules, and long enough.'''\n    return a\n"
    modules = {
        text.TRAIN: [f"{same}def one(a):\n    return 'é'\nclass A:\n    def two(self): # comment\n        return 2\n"],
        text.HELD_OUT: [f"{same}def three():\n    '''Words.'''\n"],
    }
    monkeypatch.setattr(text, "_modules", lambda stream: map(ast.parse, modules[stream]))
    train, held_out = (list(text.UNITS[name](stream)) for stream in (text.TRAIN, text.HELD_OUT))
    assert not set(train) & set(held_out) and len(set(train)) == len(train)
    if name == "code":
        assert train == ["def two(self):\n    return 2"]  # not the one in common, nor what is not ASCII
        assert held_out == ["def same(a):\n    return a", "def three():\n    pass"]
    else:
        assert held_out[-1].startswith("A docstring") and len(train) > 300  # topics, which the modules do not make
        assert all("\n" not in line and line[0].isalpha() for line in train)


def test_held_out_code_is_of_the_modules_named() -> None:
    functions = "\n".join(text.UNITS["code"](HELD_OUT))
    assert "def add_argument(" in functions and "def getreader(" not in functions  # argparse, not codecs


def test_held_out_code_is_valid_and_what_is_spoilt_is_found() -> None:
    task = TASKS["code"]
    texts = task.texts(0, 60, HELD_OUT)
    solved, share = task.accuracy(texts, texts)
    assert solved.all() and (share == 1).all()
    assert set(task.verdict(texts, texts)) == {"valid"}
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(1, 1024, texts.shape, generator=generator)
    solved, share = task.accuracy(noise, noise)
    assert solved.float().mean() < 0.1 and share.mean() < 0.3  # a bracket left open lets much pass
    assert not task.accuracy(task.texts(60, 60, HELD_OUT), texts)[0].any()  # valid, but not what the prompt says
    masked = texts.clone()
    masked[:, -1] = task.mask_id
    assert not task.accuracy(masked, masked)[0].any()


@pytest.mark.parametrize(
    ("source", "where"),
    [
        ("def f():\n    try:\n        x = 1\n", None),
        ("def f(a,\n      b", None),
        ("x = (1,\n     2\ny = 'cut off he", None),  # a bracket that is still open may go on
        ("def f():\nreturn 1\nx", 9),
        ("x = 1\ny = = 2\nz", 6),
        ("x = 'cut off\ny = 1\n", 0),
    ],
)
def test_only_the_last_line_may_be_cut_off(source: str, where: int | None) -> None:
    fault = text.code_fault(source)
    assert fault is None if where is None else fault is not None and fault[0] == where


@given(st.text(text.ALPHABET, min_size=1, max_size=80), st.sampled_from(NAMES))
@settings(max_examples=60, deadline=None)
def test_every_printable_text_comes_back(written: str, name: str) -> None:
    task = TASKS[name]
    ids = task.prompt(written + "[MASK*3]")
    assert task.render(ids) == written + "[MASK*3]" and (ids == task.mask_id).sum() == 3


def test_prompts_of_people() -> None:
    task = TASKS["code"]
    infill = task.prompt("def f(x):\n    return [MASK*5] + [MASK]\n")
    assert (infill == task.mask_id).sum() == 6 and len(infill) < 30
    assert task.render(infill) == "def f(x):\n    return [MASK*5] + [MASK]\n"
    whole = task.prompt("def f(x):")
    assert len(whole) == 128 and task.render(whole).startswith("def f(x):[MASK*1")
    with pytest.raises(DataError, match=r"'é' is not known to task 'code': printable ASCII"):
        task.prompt("é")
    with pytest.raises(DataError, match="tokens: task 'code' has 128"):
        task.prompt("x" * random.Random(0).randint(300, 400))
    with pytest.raises(DataError, match="clues = 129: a text of 128 tokens allows 0 to 128"):
        task.prompts(1, 129)


def test_a_python_without_sources_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(text.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(DataError, match="no sources of the standard library"):
        get_task("code").texts(0, 1, HELD_OUT)
