"""Texts of the user's own: what of a row is learned, how rows come together, and what is refused before a step."""

import bz2
import gzip
import itertools
import json
import lzma
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prism_plugin.config import ColumnsConfig, DataConfig, load
from prism_plugin.errors import ConfigError, DataError
from prism_plugin.models.checkpoint import PrismModel
from prism_plugin.models.denoiser import Denoiser
from prism_plugin.tasks import HELD_OUT, TRAIN, get_task
from prism_plugin.training import data
from prism_plugin.training.data import Corpus, Texts, batch, collate, encode, read

BOS, EOS, MASK = 1, 2, 3
CHAT = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)


def tokenizer(template: str | None = None):
    """Words of a small vocabulary."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra: train)")
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[unk]", "[bos]", "[eos]", "[mask]", "<user>", "<assistant>", "<a>"]
    words += ["one", "two", "three", "four", "five"]
    made = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="[unk]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"bos_token": "[bos]", "eos_token": "[eos]", "mask_token": "[mask]", "unk_token": "[unk]"}
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=made, **names)
    wrapped.chat_template = template
    return wrapped


class Model(Denoiser):
    vocab_size, mask_id, hidden_size, max_length = 12, MASK, 4, 8


def corpus(folder: Path, rows: list, *, model: Denoiser | None = None, name: str = "data.jsonl", **settings) -> Corpus:
    file = folder / name
    file.write_text(rows if isinstance(rows, str) else "\n".join(map(json.dumps, rows)))
    return Corpus(DataConfig(str(file), **settings), model or Model(), tokenizer(), 0)


@pytest.mark.parametrize(
    ("row", "template", "tokens", "start"),
    [
        ({"prompt": "one two", "response": "three"}, None, [7, 8, 9, EOS], 2),
        ({"prompt": "one two", "response": "three"}, CHAT, [4, 7, 8, 6, 9, EOS], 4),
        ({"messages": [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]}, CHAT,
         [4, 7, 6, 8, EOS], 3),
        ({"messages": [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"},
                       {"role": "user", "content": "three"}, {"role": "assistant", "content": "four"}]}, CHAT,
         [4, 7, 5, 8, 4, 9, 6, 10, EOS], 7),
        ({"text": "one two"}, CHAT, [7, 8, EOS], 0),
        ({"prompt": [7, 8], "response": [9]}, CHAT, [7, 8, 9], 2),
        ({"text": [7, 8]}, None, [7, 8], 0),
    ],
)  # fmt: skip
def test_what_of_a_row_is_learned(row: dict, template: str | None, tokens: list[int], start: int) -> None:
    assert encode(row, tokenizer(template), "here") == (tokens, start)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "one"}, r"here: prompt and response, messages, or text is wanted; \['prompt'\] came"),
        ({"text": 5}, "here: text or a list of token ids is wanted, a number came"),
        ({"messages": [{"role": "user", "content": "one"}]}, r"the last of two or more messages is the assistant's"),
    ],
)
def test_a_row_that_says_nothing_to_learn_is_refused(row: dict, said: str) -> None:
    with pytest.raises(DataError, match=said):
        encode(row, tokenizer(CHAT), "here")


def test_text_needs_a_tokenizer_and_messages_a_template() -> None:
    with pytest.raises(DataError, match="brings no tokenizer: give lists of token ids"):
        encode({"text": "one"}, None, "here")
    with pytest.raises(DataError, match="messages need a tokenizer with a chat template"):
        encode({"messages": [{"role": r, "content": "one"} for r in ("user", "assistant")]}, tokenizer(), "here")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "is empty: 0 of 0 texts"),
        ([{"text": [7]}], "1 of 1 texts are left, and one is wanted to learn from, one to judge on"),
        ([{"text": [7] * 9}] * 2, "data.jsonl, line 1: too long: 9 tokens, and 8 are what the model takes"),
        ([{"prompt": [7, 8], "response": []}] * 2, "line 1: nothing to learn: every position is protected"),
        ([{"text": [7]}, {"text": [12]}], "line 2: a token outside the vocabulary: 12 came, the model knows 0 to 11"),
        ([{"text": [7]}, {"text": [MASK]}], "line 2: a token outside the vocabulary: 3 came"),
        ([[1, 2], [3]], "line 1: no row: an object is wanted, a list came"),
        ("{nonsense", "data.jsonl, line 1: not JSON"),
    ],
)  # fmt: skip
def test_texts_that_cannot_be_trained_on_are_refused_and_named(tmp_path: Path, rows, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        corpus(tmp_path, rows)
    assert "\n" not in str(caught.value)


def test_what_is_no_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: No such file"):
        Corpus(DataConfig(str(tmp_path / "x.jsonl")), Model(), None, 0)
    (tmp_path / "x.docx").touch()
    with pytest.raises(DataError, match=r"a file's name ends in .jsonl, .ndjson, .json, .txt, .parquet"):
        Corpus(DataConfig(str(tmp_path / "x.docx")), Model(), None, 0)

    class Bare(Model):
        gives = frozenset()

    with pytest.raises(DataError, match="Bare takes no padding, and the texts differ in length"):
        corpus(tmp_path, [{"text": [7]}, {"text": [7, 8]}], model=Bare())


def test_long_texts_are_left_out_where_that_is_asked_for(tmp_path: Path) -> None:
    rows = [{"text": [7] * n} for n in (2, 9, 3, 5)]
    assert sum(map(len, corpus(tmp_path, rows, drop_long=True).streams.values())) == 3
    assert sum(map(len, corpus(tmp_path, rows, drop_long=True, length=4).streams.values())) == 2
    with pytest.raises(DataError, match=r"too long: 9 tokens, and 4 are what data.length allows"):
        corpus(tmp_path, rows, length=4)


def test_running_text_is_cut_into_pieces_of_one_length(tmp_path: Path) -> None:
    made = corpus(tmp_path, "one two three four five " * 4, name="book.txt", length=5)
    pieces = [ids.tolist() for stream in (HELD_OUT, TRAIN) for ids, _ in made.streams[stream]]
    assert sorted(map(tuple, pieces)) == sorted(
        [(7, 8, 9, 10, 11), (7, 8, 9, 10, 11), (7, 8, 9, 10, 11), (7, 8, 9, 10, 11)]
    )
    assert not made.ragged


def test_a_data_set_of_the_hub_is_read_from_its_folder(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed (extra: train)")
    rows = {"prompt": ["one", "two", "three"], "response": ["four five", "five", "one"]}
    datasets.DatasetDict({"sft": datasets.Dataset.from_dict(rows)}).save_to_disk(tmp_path / "set")
    made = Corpus(DataConfig(str(tmp_path / "set"), split="sft"), Model(), tokenizer(), 0)
    assert sum(map(len, made.streams.values())) == 3 and made.ragged and made.learned == 3
    with pytest.raises(DataError, match="with a split 'train'"):
        Corpus(DataConfig(str(tmp_path / "set")), Model(), tokenizer(), 0)


def test_every_epoch_holds_every_text_once_in_an_order_of_its_own(tmp_path: Path) -> None:
    made = corpus(tmp_path, [{"text": [4 + n, 4]} for n in range(8)], held_out=0.25)
    seen = batch(made, 0, 18, TRAIN)["tokens"][:, 0]
    epochs = seen.view(3, 6).tolist()
    assert len({tuple(sorted(epoch)) for epoch in epochs}) == 1 and len(set(epochs[0])) == 6
    assert len({tuple(epoch) for epoch in epochs}) > 1
    held_out = batch(made, 0, 2, HELD_OUT)["tokens"][:, 0].tolist()
    assert not set(held_out) & set(epochs[0])
    assert torch.equal(batch(made, 5, 3, TRAIN)["tokens"][:, 0], seen[5:8]), "a text depends on its number alone"


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4)), min_size=3, max_size=6))
def test_prompts_and_padding_are_kept_out(tmp_path_factory: pytest.TempPathFactory, sizes: list) -> None:
    rows = [{"prompt": [7] * before, "response": [8] * after} for before, after in sizes]
    made = corpus(tmp_path_factory.mktemp("rows"), rows)
    texts = Texts(made, 5)
    found = collate([texts[n] for n in range(5)])
    assert found["tokens"].shape == found["maskable"].shape == found["padding"].shape
    assert torch.equal(found["padding"], found["tokens"] != 0)
    assert torch.equal(found["maskable"], found["tokens"] == 8)
    assert found["number"].tolist() == list(range(5))
    assert all(torch.equal(found[name], value) for name, value in batch(made, 0, 5, TRAIN).items())


def test_a_tasks_texts_come_as_they_are() -> None:
    task = get_task("sudoku4")
    found = collate([Texts(task, 3)[n] for n in range(3)])
    assert found.keys() == {"tokens", "number"} and torch.equal(found["tokens"], task.texts(0, 3, TRAIN))


class Counted:
    """A source that keeps what it was asked for."""

    def __init__(self, source: object) -> None:
        self.source, self.asked = source, []

    def texts(self, first: int, count: int, stream: int) -> torch.Tensor:
        self.asked.append((first, count))
        return self.source.texts(first, count, stream)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=8))
def test_texts_that_are_asked_for_together_are_made_in_as_few_calls_as_may_be(numbers: list[int]) -> None:
    source = Counted(get_task("sudoku4"))
    texts = Texts(source, 31)
    together = collate(texts.__getitems__(numbers))
    runs = 1 + sum(b != a + 1 for a, b in itertools.pairwise(numbers))
    assert len(source.asked) == runs and sum(count for _, count in source.asked) == len(numbers)
    alone = collate([texts[n] for n in numbers])
    assert together.keys() == alone.keys() and all(torch.equal(together[name], alone[name]) for name in alone)


def test_the_loader_gives_the_same_batches_in_one_call_each() -> None:
    source = Counted(get_task("sudoku4"))
    found = list(torch.utils.data.DataLoader(Texts(source, 12), 4, collate_fn=collate))
    assert source.asked == [(0, 4), (4, 4), (8, 4)]
    assert torch.equal(torch.cat([b["tokens"] for b in found]), get_task("sudoku4").texts(0, 12, TRAIN))


def test_a_hub_that_cannot_be_reached_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(data, "hub_answers", lambda: asked.append(1))
    monkeypatch.setattr(data, "_datasets", lambda name: (_ for _ in ()).throw(ConfigError("none")))
    with pytest.raises(ConfigError, match="none"):
        list(data.read(DataConfig("somebody/something")))
    assert asked, "before datasets is imported, which asks again and again"


TURN = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
PAIR = {"prompt": "one", "response": "two"}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"instruction": "one", "input": "three", "output": "two", "id": 1},
         "alpaca: instruction + input -> prompt, output -> answer; not used: id"),
        ({"instruction": "one", "output": "two"}, "alpaca: "),
        ({"prompt": "one", "completion": "two"}, "prompt and completion: prompt -> prompt, completion -> answer"),
        ({"question": "one", "answer": "two"}, "question and answer: "),
        ({"conversations": [{"from": "human", "value": "one"}, {"from": "gpt", "value": "two"}]},
         "sharegpt: conversations -> messages"),
        ({"prompt": TURN[:1], "completion": TURN[1:]}, ""),
        ({"messages": [{**TURN[0], "tool_calls": None}, {**TURN[1], "content": [{"text": "two"}]}]}, ""),
        ({**PAIR, "text": "one two", "messages": None}, ""),
    ],
)  # fmt: skip
def test_rows_of_other_people_are_read_as_what_they_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, row: dict, said: str
) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text("\n".join([json.dumps(row)] * 3))
    made = Corpus(DataConfig(str(file)), Model(), tokenizer(CHAT), 0)
    prompt = [7, 9] if "input" in row else [7]
    ids, start = made.streams[TRAIN][0]
    assert ids.tolist() == [4, *prompt, 6, 8, EOS] and start == 2 + len(prompt)
    assert [said in line for line in caplog.messages] == [True] * bool(said), "said once"


def test_columns_may_be_named(tmp_path: Path) -> None:
    rows = [{"q": "one", "more": "three", "a": "two", "text": "four"}] * 2
    named = load(["data.columns.prompt=q+more", "data.columns.answer=a"]).data.columns
    assert corpus(tmp_path, rows, columns=named).streams[TRAIN][0][0].tolist() == [7, 9, 8, EOS]
    assert corpus(tmp_path, rows, columns=ColumnsConfig(text="a")).streams[TRAIN][0][0].tolist() == [8, EOS]
    with pytest.raises(DataError, match=r"line 1: no column 'z': data.columns.text names it"):
        corpus(tmp_path, rows, columns=ColumnsConfig(text="z"))
    with pytest.raises(DataError, match="go together"):
        corpus(tmp_path, rows, columns=ColumnsConfig(prompt="q"))


@pytest.mark.parametrize("name", [
    "r.jsonl", "R.JSONL", "r.ndjson", "r.json", "lines.json", "split.json", "r.jsonl.gz", "r.json.BZ2", "r.ndjson.xz",
    "r.csv", "r.tsv", "r.parquet", "folder/r.jsonl", "folder/deep/train-0.json",
])  # fmt: skip
def test_files_are_known_by_their_names(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    rows, lower = [PAIR] * 3, name.lower()
    content = "\n".join(map(json.dumps, rows))
    if lower.endswith(".parquet"):
        datasets = pytest.importorskip("datasets", reason="datasets is not installed (extra: train)")
        datasets.Dataset.from_list(rows).to_parquet(file)
    else:
        if ".json" in lower and ".jsonl" not in lower and name != "lines.json":
            content = json.dumps({"train": rows, "test": []} if name == "split.json" else rows)
        if lower[-4:] in (".csv", ".tsv"):
            pytest.importorskip("datasets", reason="datasets is not installed (extra: train)")
            content = "\n".join(
                (",", "\t")[lower[-3] == "t"].join(line) for line in [list(PAIR), *[["one", "two"]] * 3]
            )
        packers = {".gz": gzip, ".bz2": bz2, ".xz": lzma}
        raw = b"\xef\xbb\xbf" + content.encode()
        file.write_bytes(packers[file.suffix.lower()].compress(raw) if file.suffix.lower() in packers else raw)
    if name.startswith("folder"):
        (tmp_path / "folder/test.jsonl").write_text("not of this split")
        file = tmp_path / "folder"
    assert [row for _, row in read(DataConfig(str(file)))] == rows


def test_a_line_ends_with_a_line_feed_and_nothing_else(tmp_path: Path) -> None:
    rows = [{"text": f"a{c}b"} for c in "\u2028\u2029\x85\x0b\x0c\x1c"]
    (tmp_path / "r.jsonl").write_text("\r\n".join(json.dumps(r, ensure_ascii=False) for r in rows), newline="")
    assert [row for _, row in read(DataConfig(str(tmp_path / "r.jsonl")))] == rows


REFUSES = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "one", "arguments": "{}"}}]}
BAD: list[tuple[Any, str]] = [
    ("{", "not JSON"), ("\udcff", "not JSON"), ("[]", "no row"), ("5", "no row"), ("{}", "prompt and response"),
    ({"prompt": "one", "response": None}, "prompt and response"), ({"text": 5}, "text or a list of token ids"),
    ({"text": [True]}, "text or a list of token ids"), ({"prompt": "one", "response": {"a": 1}}, "text or a list"),
    ({"text": "\ud800"}, "no text"), ({"messages": None}, "prompt and response, messages"),
    ({"messages": 3}, "no conversation"), ({"messages": ["one", "two"]}, "no message"),
    ({"messages": [TURN[0], {"role": "assistant"}]}, "no content"), ({"messages": [TURN[0], CALL]}, "tool calls"),
    ({"messages": [TURN[0], {**CALL, "content": "two"}]}, "tool calls"), ({"messages": TURN[:1]}, "no answer"),
    ({"messages": [{"role": None, "content": "one"}, TURN[1]]}, "no role"),
    ({"messages": [{"role": "system", "content": "one"}, *TURN]}, "the chat template refused it"),
    ({"messages": TURN, "tools": [{"name": "f"}]}, "tools"), ({"messages": TURN, "tools": "{"}, "tools"),
    ({"text": [99]}, "a token outside the vocabulary"), ({"prompt": [7], "response": []}, "nothing to learn"),
    ({"text": [7] * 9}, "too long"), ({"prompt": "one", "response": "two[eos]three"}, "an end inside the answer"),
]  # fmt: skip


@pytest.mark.parametrize(("bad", "reason"), BAD)
def test_a_bad_row_is_named_or_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, bad: Any, reason: str
) -> None:
    file, template = tmp_path / "data.jsonl", REFUSES + CHAT
    lines = [json.dumps(PAIR), bad if isinstance(bad, str) else json.dumps(bad), json.dumps(PAIR)]
    file.write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError) as caught:
        Corpus(DataConfig(str(file)), Model(), tokenizer(template), 0)
    assert str(caught.value).startswith(f"{file}, line 2: {reason}") and "\n" not in str(caught.value)
    made = Corpus(DataConfig(str(file), skip_bad=True), Model(), tokenizer(template), 0)
    assert sum(map(len, made.streams.values())) == 2 and made.sieve.reasons.total() == 1
    assert f"1 of 3 texts are left out: 1 {reason}" in caplog.text


def test_embedded_models_are_trained_on_text(tmp_path: Path) -> None:
    file, model = tmp_path / "data.jsonl", PrismModel.from_pretrained("code")
    rows = [{"text": "def f(x):\n    return [MASK]\n"}, {"prompt": "def f(x):\n", "response": "    return x\n"}]
    file.write_text("\n".join(map(json.dumps, rows)))
    made = Corpus(DataConfig(str(file)), model, None, 0)
    task = get_task("code")
    texts = {task.render(ids[start:]) for rows in made.streams.values() for ids, start in rows}
    assert texts == {rows[0]["text"], rows[1]["response"]}
    file.write_text('{"text": "é"}')
    with pytest.raises(DataError, match="line 1: 'é' is not known to task 'code'"):
        Corpus(DataConfig(str(file)), model, None, 0)
