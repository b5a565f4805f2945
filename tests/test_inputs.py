"""The door of the Python API: whatever is handed over works as it is meant, or is one line of ours that says what is
allowed. Nobody gets an exception of torch's, and nothing is dropped or broadcast in silence.
"""

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import BatchEncoding

from prism_plugin import Prism, enable
from prism_plugin.errors import PrismError
from prism_plugin.models.backbone import BackboneConfig
from prism_plugin.models.checkpoint import PrismModel
from prism_plugin.sampling import drive
from prism_plugin.sampling.config import SamplerConfig

from .table_model import chain
from .test_api import Follow, tokenizer

TABLE, WHOLE = torch.tensor([[2, 0, 0]]), torch.tensor([[2, 3, 4]])
WANTED = "a string, messages"


@pytest.fixture(scope="module")
def words() -> Prism:
    return made()


def made(**settings: Any) -> Prism:
    """A model of words that writes b behind a, c behind b, … and a tokenizer with a chat template."""
    reader = tokenizer()
    reader.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    return enable(Follow({"padding"}), tokenizer=reader, **{"sampler": "confidence", "steps": 4, **settings})


@pytest.fixture(scope="module")
def ids_only() -> Prism:
    return enable(chain(), steps=5)


@pytest.fixture(scope="module")
def code() -> Prism:
    return enable("code", steps=2)


# ---- what works as it is meant

USER = {"role": "user", "content": "a b"}
ONE_TEXT: dict[str, Callable[[], Any]] = {
    "table": lambda: torch.tensor([[2, 3]]), "one row": lambda: torch.tensor([2, 3]),
    "int32": lambda: torch.tensor([[2, 3]], dtype=torch.int32), "uint8": lambda: torch.tensor([2, 3]).byte(),
    "list": lambda: [2, 3], "tuple": lambda: (2, 3), "list of lists": lambda: [[2, 3]],
    "numpy": lambda: np.array([[2, 3]]), "numpy int16": lambda: np.array([2, 3], dtype=np.int16),
    "numbers of numpy": lambda: [np.int64(2), np.int64(3)], "list of tensors": lambda: [torch.tensor([2, 3])],
    "encoding": lambda: BatchEncoding({"input_ids": [2, 3], "attention_mask": [1, 1]}),
    "encoding of tensors": lambda: BatchEncoding(
        {"input_ids": torch.tensor([[1, 2, 3]]), "attention_mask": torch.tensor([[0, 1, 1]])}
    ),
    "padded right": lambda: {"input_ids": torch.tensor([[2, 3, 1]]), "attention_mask": torch.tensor([[1, 1, 0]])},
    "string": lambda: "a b", "strings": lambda: ["a b"], "generator": lambda: (t for t in ["a b"]),
    "array of strings": lambda: np.array(["a b"]), "values": lambda: {"x": "a b"}.values(),
    "message": lambda: USER, "messages": lambda: [USER], "conversations": lambda: [[USER]],
    "messages of parts": lambda: [{"role": "user", "content": [{"type": "text", "text": "a b"}]}],
}  # fmt: skip


@pytest.mark.parametrize("name", ONE_TEXT)
def test_one_text_is_continued_however_it_comes(words: Prism, name: str) -> None:
    result = words.generate(ONE_TEXT[name](), max_new_tokens=2)
    assert result.texts == ["c d"] and result.tokens.tolist() == [[2, 3, 4, 5]]
    last = list(words.stream(ONE_TEXT[name](), max_new_tokens=2))[-1]
    assert last == "a b c d" if isinstance(last, str) else last.tolist() == [[2, 3, 4, 5]]


MANY: dict[str, Callable[[], Any]] = {
    "strings": lambda: ["a", "b c"], "lists": lambda: [[2], [3, 4]], "tensors": lambda: [torch.tensor([2]), [3, 4]],
    "encoding": lambda: {"input_ids": [[2], [3, 4]], "attention_mask": [[1], [1, 1]]},
    "padded": lambda: {"input_ids": [[1, 2], [3, 4]], "attention_mask": [[0, 1], [1, 1]]},
    "mixed": lambda: ["a", [{"role": "user", "content": "b c"}]],
}  # fmt: skip


@pytest.mark.parametrize("name", MANY)
def test_texts_of_several_lengths_are_continued_each(words: Prism, name: str) -> None:
    result = words.generate(MANY[name](), max_new_tokens=2)
    assert result.texts == ["b c", "d"] and result.tokens[:, -2:].tolist() == [[3, 4], [5, 1]]


@pytest.mark.parametrize("given", [[], (), np.array([], dtype=object), torch.zeros(0, 3, dtype=torch.long), iter([])])
def test_no_text_gives_no_text(words: Prism, given: Any) -> None:
    given = list(given) if isinstance(given, Iterator) else given
    for result in (words.generate(given, max_new_tokens=2), words.infill(given), words.correct(given)):
        assert len(result.tokens) == 0 and len(result.forwards) == 0 and not result.texts
    assert len(words.score(given)) == 0


def test_empty_texts_are_texts(words: Prism) -> None:
    assert words.correct(["", "a b"]).texts == ["", "a b"] and words.infill("").texts == [""]
    assert words.generate(["", "a b"], max_new_tokens=2).texts[1] == "c d"
    assert words.score("").pieces == []


def test_a_table_keeps_its_shape_and_its_padding(words: Prism) -> None:
    given = torch.tensor([[2, 0, 1], [2, 0, 0]])
    real = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert words.generate(given, padding=real).tokens.tolist() == [[2, 3, 1], [2, 3, 4]]
    assert words.generate({"input_ids": given, "attention_mask": real}).tokens.tolist() == [[2, 3, 1], [2, 3, 4]]
    quality = words.score({"input_ids": given, "attention_mask": real})
    assert quality.isnan().tolist() == [[False, True, True], [False, True, True]]


def test_a_padded_table_is_corrected_and_filled_in_its_place(words: Prism) -> None:
    given = {"input_ids": torch.tensor([[2, 6, 1], [2, 6, 4]]), "attention_mask": torch.tensor([[1, 1, 0], [1, 1, 1]])}
    where = [[False, True, False], [False, True, False]]
    assert words.infill(given, where).tokens.tolist() == [[2, 3, 1], [2, 3, 4]]
    doubted = words.correct(given, tau=0.5, remask_share=1.0).tokens
    assert doubted[0, 2] == 1 and not torch.equal(doubted, given["input_ids"])
    kept = words.correct(given, torch.ones(2, 3, dtype=torch.bool), tau=0.5, remask_share=1.0).tokens
    assert torch.equal(kept, given["input_ids"])
    alone = enable(Follow(set()), tokenizer=tokenizer(), sampler="confidence", steps=4)  # a host without padding
    whole = {"input_ids": TABLE, "attention_mask": torch.ones(1, 3).long()}
    assert alone.generate(whole).tokens.tolist() == [[2, 3, 4]]


def test_a_score_of_a_string_comes_with_its_pieces(words: Prism, code: Prism) -> None:
    found = words.score("a b e")
    assert found.pieces == ["a", "b", "e"] and found.tokens.tolist() == [2, 3, 6]
    assert found.quality.shape == (3,) and found.quality[1] > 0.9 > 0.1 > found.quality[2]
    several = words.score(["a b e", "b"])
    assert several[0].quality.allclose(found.quality, atol=1e-6) and several[1].pieces == ["b"]
    text = "def add(a, b):\n    return a + b\n"
    assert "".join(code.score(text).pieces) == text


def test_a_grid_in_a_string_is_scored_by_its_cells() -> None:
    prism = enable("sudoku")
    found = prism.score("\n".join(["1 2 3 4 5 6 7 8 ."] * 9))
    assert len(found.pieces) == 81 and found.pieces[7:9] == ["8", "."] and bool(found.quality[8].isnan())


# ---- exactly as long as it is


def test_a_corrected_text_is_as_long_as_it_came_and_keeps_what_is_protected(code: Prism) -> None:
    text = "def add(a, b):\n    return a + b\n"
    tokens = code.score(text).tokens
    for touched in (code.correct(text, steps=6), code.correct(text, steps=6, tau=0.9)):
        assert touched.tokens.shape == (1, len(tokens)) and not (touched.tokens == code.denoiser.mask_id).any()
    everything = torch.ones(len(tokens), dtype=torch.bool)
    assert code.correct(text, everything, steps=6, tau=0.9).texts == [text]
    name = everything.clone()
    name[4:] = False
    kept = code.correct([text, "x = 1\n"], [name, [False] * len(code.score("x = 1\n").tokens)], steps=6, tau=0.9)
    assert kept.texts[0].startswith("".join(code.score(text).pieces[:4])) and len(kept.texts) == 2


@given(text=st.lists(st.sampled_from("abcd."), min_size=1, max_size=9).map(" ".join), holes=st.booleans())
def test_no_text_gets_longer(text: str, holes: bool) -> None:
    prism, length = made(), len(text.split())
    filled = prism.infill(text + " [MASK*3]" * holes)
    assert filled.tokens.shape == (1, length + 3 * holes) and filled.texts[0].startswith(text)
    assert prism.correct(text).tokens.shape == (1, length) and len(prism.score(text).tokens) == length


def test_a_text_without_a_hole_comes_back_with_a_warning(words: Prism, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert words.infill(["a . b", "a [MASK]"]).texts == ["a . b", "a b"]
        assert words.infill(WHOLE).tokens.tolist() == WHOLE.tolist()
        assert words.infill(WHOLE, torch.zeros(1, 3, dtype=torch.bool)).tokens.tolist() == WHOLE.tolist()
    assert len(caplog.records) == 3 and "1 of 2 texts have no hole" in caplog.text
    caplog.clear()
    words.infill("a [MASK]")
    assert not caplog.records


# ---- stream and generate


@pytest.mark.parametrize("block_length", [0, 1, 2, 4])
@pytest.mark.parametrize("stop", [None, "d", ["c", "x"], "b c"])
def test_a_stream_ends_as_generate_does(words: Prism, block_length: int, stop: Any) -> None:
    asked = {"max_new_tokens": 8, "steps": 8, "block_length": block_length, "stop": stop}
    result, seen = words.generate("a", **asked), list(words.stream("a", **asked))
    assert seen[-1].removeprefix("a").strip() == result.texts[0].strip()
    assert len(seen) == int(result.forwards) + 1


def test_a_stream_refuses_before_it_is_looked_at(words: Prism) -> None:
    with pytest.raises(PrismError, match="fewer than the 9 blocks"):
        words.stream("a", max_new_tokens=9, block_length=1, steps=4)


def test_callback_and_request_reach_strings(words: Prism) -> None:
    seen: list[Any] = []
    words.generate(["a", "b c"], max_new_tokens=3, callback=lambda state, view: seen.append(state.tokens.clone()))
    assert len(seen) > 2 and seen[0].shape == (2, 5)
    asked = {"max_new_tokens": 6, "temperature": 5.0, "sampler": "random"}
    first, again, other = (words.generate("a", request=[key], **asked).tokens for key in (7, 7, 8))
    assert torch.equal(first, again) and not torch.equal(first, other)


# ---- without a head


def test_a_learned_score_falls_back_with_one_warning_and_all_else_as_it_was(caplog: pytest.LogCaptureFixture) -> None:
    model = chain()
    model.head = None
    prism = enable(model, sampler="confidence", steps=5)
    tokens = torch.full((2, 5), model.mask_id)
    with caplog.at_level(logging.WARNING):
        prism.generate(tokens, "prism-llada")
        found = prism.generate(tokens, "prism-llada", seed=3)
    assert len(caplog.records) == 1 and "self-likelihood" in caplog.text
    same = prism.generate(tokens, "prism-llada", score="self_likelihood", seed=3)
    assert torch.equal(found.tokens, same.tokens) and found.settings == same.settings
    with pytest.raises(PrismError, match="score = quality needs a trained quality head"):
        prism.generate(tokens, score="quality")


# ---- enable


class Asks(nn.Module):
    """A host's model whose mask nobody names."""


def test_a_mask_id_reaches_the_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    class Adapter:
        matches = staticmethod(lambda model: isinstance(model, Asks))

        def __new__(cls, model: nn.Module, mask_id: int | None = None) -> Any:
            made = chain(symbols=3)
            made.mask_id = 3 if mask_id is None else mask_id
            return made

    from prism_plugin.models.denoiser import hosts

    monkeypatch.setitem(hosts._known, "asks", Adapter)
    assert enable(Asks(), mask_id=2).denoiser.mask_id == 2 and enable(Asks(), host="asks").denoiser.mask_id == 3


@pytest.mark.parametrize("said", ["false", "False", "0", 0, "no", False])
def test_false_is_false_however_it_is_written(said: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("prism_plugin.api.is_ours", lambda name: False)
    monkeypatch.setattr("prism_plugin.api.load_host", lambda name, **given: seen.append(given) or (chain(), None))
    enable("somebody/model", trust_remote_code=said, mask_id=3)
    assert len(seen) == 1 and seen[0]["trust_remote_code"] is False and seen[0]["mask_id"] == 3


def test_a_precision_is_known_by_its_name() -> None:
    for named in ("bfloat16", "torch.bfloat16", torch.bfloat16):
        assert enable("code", dtype=named, device="cpu").denoiser.backbone.embed.weight.dtype == torch.bfloat16


def spoilt(value: float) -> PrismModel:
    model = PrismModel(BackboneConfig(vocab_size=4, mask_id=3, length=8, hidden_size=8, num_heads=2, num_layers=1), "")
    nn.init.constant_(model.backbone.unembed.bias, value)
    return model


# ---- one line for everything else: (what is called, what the line says)

Call = Callable[[SimpleNamespace], Any]
KINDS: dict[str, Any] = {
    "None": None, "5": 5, "2.5": 2.5, "True": True, "bytes": b"a", "bytearray": bytearray(b"a"), "set": {"a"},
    "frozenset": frozenset("a"), "object": object(), "Path": Path("a"), "class": str, "function": len, "{}": {},
    "dict": {"a": 1}, "[None]": [None], "[5.0]": [5.0], "[bytes]": [b"a"], "[str, None]": ["a", None],
    "[str, int]": ["a", 5], "[[str]]": [["a"]], "[[[str]]]": [[["a"]]], "[int, str]": [2, "a"], "[True]": [True],
    "[[int, float]]": [[2, 0.5]], "[huge]": [2**70, 0], "[-1]": [-1, 0], "[V]": [8, 0],
    "float": torch.zeros(1, 3), "half": torch.zeros(1, 3).half(), "bool": torch.zeros(1, 3, dtype=torch.bool),
    "complex": torch.zeros(1, 3, dtype=torch.cfloat), "0-d": torch.tensor(3), "3-d": TABLE[None],
    "id -1": torch.tensor([[-1, 0]]), "id V": torch.tensor([[8, 0]]), "id 2**62": torch.tensor([[2**62, 0]]),
    "sparse": TABLE.to_sparse(), "meta": torch.empty(1, 3, dtype=torch.long, device="meta"),
    "numpy float": np.zeros((1, 2)), "numpy bool": np.array([[True]]), "numpy 0-d": np.array(3),
    "numpy 3-d": np.zeros((1, 1, 1), int), "numpy uint64": np.array([[2**63]], dtype=np.uint64),
    "numpy complex": np.array([[1j]]), "numpy dates": np.array(["2020-01-01"], dtype="datetime64[D]"),
    "numpy objects": np.array(["a", None], dtype=object), "too long": torch.zeros(1, 65, dtype=torch.long),
    "ids None": {"input_ids": None}, "ids str": {"input_ids": "a"}, "ids strs": {"input_ids": ["a"]},
    "mask short": {"input_ids": TABLE, "attention_mask": torch.ones(1, 2).long()},
    "mask float": {"input_ids": TABLE, "attention_mask": torch.ones(1, 3)},
    "mask empty": {"input_ids": TABLE, "attention_mask": torch.zeros(1, 3).long()},
    "mask with a gap": {"input_ids": TABLE, "attention_mask": torch.tensor([[1, 0, 1]])},
    "mask of 2": {"input_ids": TABLE, "attention_mask": torch.tensor([[1, 2, 1]])},
    "half a character": "\ud800", "0 tokens": torch.tensor([[2, 8]]), "2-d in a list": [TABLE],
    "message without role": [{"content": "a"}], "message without content": [{"role": "user"}],
}  # fmt: skip


@pytest.mark.parametrize("method", ["generate", "stream", "infill", "correct", "score"])
@pytest.mark.parametrize("name", KINDS)
def test_what_is_no_text_is_refused_in_one_line(words: Prism, method: str, name: str) -> None:
    more = [{}, {"max_new_tokens": 2}] if method in ("generate", "stream") else [{}]
    for settings in more:
        with pytest.raises(PrismError) as caught:
            getattr(words, method)(KINDS[name], **settings)
        assert "\n" not in str(caught.value) and 10 < len(str(caught.value)) < 300


LINES: list[tuple[str, Call, str]] = [
    ("nothing to write", lambda p: p.w.generate("a"), "max_new_tokens=… says how many"),
    ("nothing to write, ids", lambda p: p.w.generate(WHOLE), "no text holds a mask or a hole"),
    ("stream, nothing", lambda p: p.w.stream("a", max_new_tokens=0), "max_new_tokens=… says how many"),
    ("new -3", lambda p: p.w.generate("a", max_new_tokens=-3), "max_new_tokens = -3: allowed a whole number"),
    ("new 4.0", lambda p: p.w.generate("a", max_new_tokens=4.0), "max_new_tokens = 4.0"),
    ("new '4'", lambda p: p.w.generate("a", max_new_tokens="4"), "max_new_tokens = '4'"),
    ("new True", lambda p: p.w.generate("a", max_new_tokens=True), "max_new_tokens = True"),
    ("new huge", lambda p: p.w.generate("a", max_new_tokens=10**12), "from 0 to 64"),
    ("new too many", lambda p: p.w.generate("a b", max_new_tokens=64), "66 tokens is longer than the model's 64"),
    ("new on a grid", lambda p: p.s.generate("123", max_new_tokens=4), "nothing behind it"),
    ("grid of 3", lambda p: p.s.correct(WHOLE), "grids have 81 cells"),
    ("stop 5", lambda p: p.w.generate("a", max_new_tokens=2, stop=5), "stop = 5: allowed a string"),
    ("stop bytes", lambda p: p.w.generate("a", max_new_tokens=2, stop=b"d"), "stop = b'd'"),
    ("stop ''", lambda p: p.w.generate("a", max_new_tokens=2, stop=["d", ""]), "none of them empty"),
    ("stop of ids", lambda p: p.w.stream("a", max_new_tokens=2, stop=[5]), r"stop = \[5\]"),
    ("stop, no words", lambda p: p.n.generate(torch.full((1, 5), 3), stop="a"), "knows tokens only"),
    ("slots 0", lambda p: p.w.generate(TABLE, slots=0), "slots = 0"),
    ("slots None", lambda p: p.w.generate("a", max_new_tokens=2, slots=None), "slots = None"),
    ("slots '8'", lambda p: p.w.generate("a", max_new_tokens=2, slots="8"), "slots = '8'"),
    ("request 5", lambda p: p.w.generate(TABLE, request=5), r"request: shape \(\) came; allowed \(1,\)"),
    ("request float", lambda p: p.w.generate(TABLE, request=[0.5]), "request: torch.float32 came"),
    ("request long", lambda p: p.w.generate("a", max_new_tokens=2, request=[1, 2]), r"allowed \(1,\)"),
    ("callback 5", lambda p: p.w.generate(TABLE, callback=5), "callback = 5: allowed a function"),
    ("callback str", lambda p: p.w.generate("a", max_new_tokens=2, callback="f"), "callback = 'f'"),
    ("padding of a string", lambda p: p.w.generate("a [MASK]", padding=[True]), "padding belongs to token ids"),
    ("padding short", lambda p: p.w.generate(TABLE, padding=torch.ones(1, 2)), r"padding: .*allowed .*\(1, 3\)"),
    ("padding float", lambda p: p.w.score(WHOLE, torch.ones(1, 3)), "allowed True and False"),
    ("padding gap", lambda p: p.w.score(WHOLE, [[1, 0, 1]]), "leaves a gap in row 0"),
    ("padding none", lambda p: p.w.generate(TABLE, padding=[[0, 0, 0]]), "leaves no token in row 0"),
    ("padding str", lambda p: p.w.generate(TABLE, padding="110"), "padding = '110'"),
    ("where (1, 1)", lambda p: p.w.infill(WHOLE, torch.tensor([[True]])), r"where: Tensor \(1, 1\) .*allowed"),
    ("where (1,)", lambda p: p.w.infill(WHOLE, [True]), r"where: .*allowed one True or False a token"),
    ("where ids", lambda p: p.w.infill(WHOLE, [[0, 1, 2]]), "allowed True and False, or 1 and 0"),
    ("where float", lambda p: p.w.infill(WHOLE, torch.zeros(1, 3)), "allowed True and False"),
    ("where str", lambda p: p.w.infill("a b", "a"), "where = 'a'"),
    ("where 5", lambda p: p.w.infill(["a", "b"], 5), "where = 5: allowed one mask"),
    ("protected long", lambda p: p.w.correct("a b", [True] * 3), r"protected: .*\(1, 2\)"),
    ("protected one of two", lambda p: p.w.correct(["a", "b"], [[True]]), "for each of the 2 texts"),
    ("protected words", lambda p: p.w.correct(["a b"], ["a"]), r"protected = \['a'\]"),
    ("protected mask", lambda p: p.w.correct(TABLE, torch.ones(1, 3).bool()), "protected"),
    ("hole of 0", lambda p: p.w.infill("a [MASK*0]"), r"\[MASK\*20\] of twenty"),
    ("hole of x", lambda p: p.w.infill("a [MASK*x]"), r"\[MASK\*x\].*\[MASK\*20\] of twenty"),
    ("hole of -1", lambda p: p.c.infill("x = [MASK*-1]"), r"\[MASK\*20\] of twenty"),
    ("small hole", lambda p: p.c.infill("x = [mask]"), r"\[mask\].*\[MASK\*20\] of twenty"),
    ("huge hole", lambda p: p.w.infill("a [MASK*99999999999]"), r"\[MASK\*20\] of twenty"),
    ("unicode", lambda p: p.c.correct("x = 'ä'\n"), "'ä' is not known to task 'code'"),
    ("messages, no template", lambda p: p.c.generate([USER], max_new_tokens=2), "chat template"),
    ("messages, finished", lambda p: p.w.correct([USER]), "messages are for generate and stream"),
    ("words, no tokenizer", lambda p: p.n.generate("a", max_new_tokens=2), "knows tokens only"),
    ("many in a stream", lambda p: p.w.stream(["a", "b"], max_new_tokens=2), "stream writes one at a time"),
    ("sampler 5", lambda p: p.w.generate(TABLE, 5), "sampler = 5: allowed the name of a preset"),
    ("sampler ''", lambda p: p.w.generate(TABLE, ""), "preset '' is not known"),
    ("sampler misspelt", lambda p: p.w.generate(TABLE, "confidnce"), "Nearest: confidence"),
    ("setting misspelt", lambda p: p.w.generate(TABLE, step=3), "sampler.step'? is not known. Nearest: sampler.steps"),
    ("steps 0", lambda p: p.w.generate(TABLE, steps=0), "sampler.steps = 0"),
    ("steps nan", lambda p: p.w.generate(TABLE, temperature=float("nan")), "sampler.temperature = nan"),
    ("model None", lambda p: enable(None), "model = None: no adapter fits"),
    ("model 5", lambda p: enable(5), "model = 5: no adapter fits"),
    ("model ''", lambda p: enable(""), "model = ''"),
    ("model misspelt", lambda p: enable("sudko"), "Embedded models: code"),
    ("model a module", lambda p: enable(nn.Linear(2, 2)), "type Linear: no adapter fits"),
    ("model of NaN", lambda p: enable(spoilt(torch.nan)), "unembed.bias holds NaN or inf"),
    ("model of inf", lambda p: enable(spoilt(torch.inf)), "unembed.bias holds NaN or inf"),
    ("head 5", lambda p: enable(chain(), 5), "head = 5: allowed a folder"),
    ("head a class", lambda p: enable(chain(), nn.Linear), "head = something of type type"),
    ("head of another size", lambda p: enable(chain(), nn.Linear(7, 1)), "Linear does not take hidden states"),
    ("head nowhere", lambda p: enable(chain(), "nowhere"), "no folder 'nowhere'"),
    ("host 5", lambda p: enable(chain(), host=5), "host '5' is not known"),
    ("host misspelt", lambda p: enable(nn.Linear(2, 2), host="lada"), "Nearest: llada"),
    ("host of a name", lambda p: enable("code", host="llada"), "'code' says its own"),
    ("host that is none", lambda p: enable(nn.Linear(2, 2), host="llada"), "does not fit"),
    ("tokenizer by name", lambda p: enable(chain(), tokenizer="gpt2"), "tokenizer = 'gpt2': allowed a tokenizer"),
    ("cache 5", lambda p: enable("code", cache=5), "cache = 5: allowed none, prefix, dual"),
    ("cache misspelt", lambda p: enable("code", cache="prefx"), "Nearest: prefix"),
    ("mask elsewhere", lambda p: enable(chain(), mask_id=1), "mask_id = 1: the mask of TableModel is 3"),
    ("mask -1", lambda p: enable(chain(), mask_id=-1), "mask_id = -1"),
    ("mask '3'", lambda p: enable(chain(), mask_id="3"), "mask_id = '3'"),
    ("trust 'maybe'", lambda p: enable(chain(), trust_remote_code="maybe"), "trust_remote_code = 'maybe'"),
    ("trust None", lambda p: enable(chain(), trust_remote_code=None), "trust_remote_code = None"),
    ("enable sampler", lambda p: enable(chain(), sampler="prsm"), "Nearest: prism"),
    ("enable steps", lambda p: enable(chain(), steps=-1), "sampler.steps = -1"),
    ("enable eta", lambda p: enable(chain(), sampler="remdm-cap", eta=1.4), "eta = 1.4: allowed"),
    ("device gpu", lambda p: enable("code", device="gpu"), "device = 'gpu': .*allowed cpu, cuda"),
    ("device ''", lambda p: enable("code", device=""), "device = ''"),
    ("device meta", lambda p: enable("code", device="meta"), "device = 'meta'"),
    ("device 5", lambda p: enable("code", device=5), "device = 5: no name"),
    ("dtype int", lambda p: enable("code", dtype=torch.int64), "dtype = .*allowed torch.float32"),
    ("dtype x", lambda p: enable("code", dtype="x"), "dtype = 'x': allowed torch.float32"),
    ("dtype 32", lambda p: enable("code", dtype=32), "dtype = 32"),
    ("dtype complex", lambda p: enable("code", dtype=torch.complex64), "dtype = "),
    ("padding 5", lambda p: enable(chain(), padding=5), "padding = 5: allowed True or False"),
    ("steps beyond", lambda p: enable(chain(), steps=10**30), "sampler.steps = 1e.30: no whole number beyond"),
    ("block_length beyond", lambda p: enable(chain(), block_length=10**30), "sampler.block_length = 1e.30"),
    ("device in memory", lambda p: enable(chain(), device="cpu"), "device = cpu is for a model that is named"),
    ("enable clash", lambda p: enable(Follow(set()), sampler="wino"), "positions and an attention mask"),
    ("driver ids", lambda p: drive.generate(chain(), torch.tensor([[9]]), SamplerConfig()), "id 9 came; allowed 0"),
    ("driver dtype", lambda p: drive.generate(chain(), torch.zeros(1, 5), SamplerConfig()), "torch.float32 came"),
    ("driver config", lambda p: drive.generate(chain(), torch.full((1, 5), 3), "prism"), "config = 'prism'"),
    ("driver editable", lambda p: driven(editable=torch.ones(1, 4).bool()), r"editable: .*\(1, 5\)"),
    ("driver truth", lambda p: driven(truth=torch.zeros(1, 4).long()), "truth: shape"),
    ("driver suppress", lambda p: driven(suppress_ids=torch.tensor([7])), "suppress_ids: id 7 came"),
    ("driver stop", lambda p: driven(stop=[[]]), r"stop = \[\]"),
    ("driver slots", lambda p: drive.generate_many(chain(), [WHOLE[0]], SamplerConfig(), slots=0), "slots = 0"),
]  # fmt: skip


def driven(**given: Any) -> Any:
    return drive.generate(chain(), torch.full((1, 5), 3), SamplerConfig(), **given)


@pytest.mark.parametrize(("call", "says"), [line[1:] for line in LINES], ids=[line[0] for line in LINES])
def test_the_line_names_the_argument_and_what_is_allowed(
    words: Prism, ids_only: Prism, code: Prism, call: Call, says: str
) -> None:
    with pytest.raises(PrismError) as caught:
        call(SimpleNamespace(w=words, n=ids_only, c=code, s=enable("sudoku")))
    assert re.search(says, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


ODD = [
    None, -1, 0, 1, 2.0, "3", "x", "", True, b"x", float("nan"), float("inf"), [], [1], {}, {1}, object(), np.int64(1),
    TABLE,
]  # fmt: skip


@pytest.mark.parametrize("name", [item.name for item in fields(SamplerConfig) if item.name not in ("name", "options")])
def test_a_setting_of_any_kind_works_or_is_refused_in_one_line(ids_only: Prism, name: str) -> None:
    tokens, refused = torch.full((1, 5), 3), []
    for value in ODD:
        try:
            assert not (ids_only.generate(tokens, "prism", **{name: value}).tokens == 3).any()
        except PrismError as error:
            refused.append(str(error))
    assert 0 < len(refused) < len(ODD) and not any("\n" in line for line in refused)


def test_nothing_is_looked_at_in_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """One look at the tokens a call, however many passes."""
    looks: list[int] = []
    aminmax = Tensor.aminmax
    monkeypatch.setattr(Tensor, "aminmax", lambda self, **k: looks.append(1) or aminmax(self, **k))
    model = Follow({"padding"})
    few, many = (drive.generate(model, TABLE.repeat(1, 8), SamplerConfig("confidence", steps=n)) for n in (2, 16))
    assert int(many.forwards) > int(few.forwards) and len(looks) == 2
