"""Between text and tokens: prompts, holes, answers, stops and ragged batches."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from prism_plugin import enable
from prism_plugin.errors import DataError
from prism_plugin.models.denoiser import Denoiser, Output
from prism_plugin.sampling.drive import batches
from prism_plugin.tasks import get_task
from prism_plugin.text import GridCodec, TaskCodec, TokenizerCodec, cut, spoken
from prism_plugin.training.data import encode

GRID = "1 2 3 4\n. 4 1 2\n.143\n4.21\n"


class Letters:
    """A tokenizer of code points; 1 begins a text and 0 ends it."""

    all_special_ids, eos_token_id, pad_token_id = (0, 1), 0, None

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [1] * add_special_tokens + [ord(c) for c in text]

    def decode(self, ids: list[int], **settings: bool) -> str:
        return "".join(map(chr, ids))


def test_grid_codec_reads_the_last_grid_and_names_what_is_missing() -> None:
    codec = GridCodec(get_task("sudoku4"))
    shots = "1234\n3412\n2143\n4321\n\nAnd now:\n\n" + GRID + "\nSolution:\n"
    tokens = codec.encode(shots, 0)
    assert tokens.tolist() == [1, 2, 3, 4, 0, 4, 1, 2, 0, 1, 4, 3, 4, 0, 2, 1]
    assert codec.answer(tokens, tokens == 0) == codec.decode(tokens)
    assert codec.literal("1234\n" + ".412.14340.1 23.1") == [0, 4, 1, 2, 0, 1, 4, 3, 4, 0, 0, 1, 2, 3, 0, 1], (
        "in one line"
    )
    with pytest.raises(DataError, match="holds 2 such lines"):
        codec.encode("1234341221434321\n1234\n3412\n", 0)  # one grid and a half
    with pytest.raises(DataError, match="holds 3 such lines"):
        codec.encode("1234\n" * 3 + "5555\n", 0)


def test_tokenizer_codec_masks_the_answer_and_stops_at_special_tokens() -> None:
    codec = TokenizerCodec(Letters(), mask_id=300)
    tokens = codec.encode("ab", 4)
    assert tokens.tolist() == [1, 97, 98, 300, 300, 300, 300]
    assert codec.answer(torch.tensor([1, 97, 98, 99, 100, 0, 101]), tokens == 300) == "cd"
    assert codec.encode("a[MASK]b[MASK*3]", 0).tolist() == [1, 97, 300, 98, 300, 300, 300]
    asked = "what is [MASK]?"
    assert codec.encode(asked, 1).tolist() == [1, *map(ord, asked), 300], "a prompt is taken as it stands"
    assert codec.ends == [[0], [1]] and codec.end_id == 0 and codec.stop("b") == [98]


def test_task_codec_speaks_the_tasks_own_vocabulary() -> None:
    codec = TaskCodec(get_task("code"))
    tokens = codec.encode("def f(x):\n    return [MASK*3]\n", 0)
    assert int((tokens == codec.task.mask_id).sum()) == 3
    assert codec.decode(tokens) == "def f(x):\n    return [MASK*3]\n"
    assert int((codec.encode("def f", 5) == 0).sum()) == 5


def test_cut_takes_the_earliest_stop() -> None:
    assert cut("one\ntwo stop", ["stop", "\n", ""]) == "one"
    assert cut("one stop", "stop") == "one "
    assert cut("one", []) == "one"


@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=6), ragged=st.booleans())
def test_batches_hold_every_text_once_at_its_right_end(lengths: list[int], ragged: bool) -> None:
    texts = [torch.arange(length) + 10 * number for number, length in enumerate(lengths)]
    seen = []
    for numbers, tokens, padding in batches(texts, -1, ragged):
        assert ragged or padding is None
        for row, number in enumerate(numbers):
            real = tokens[row] if padding is None else tokens[row][padding[row]]
            assert torch.equal(real, texts[number]) and torch.equal(tokens[row, -len(real) :], real)
            seen.append(number)
    assert sorted(seen) == list(range(len(texts)))


# ---- rules that hold for every tokenizer

SPECIAL = ["<s>", "</s>", "<pad>", "<mask>", "<turn>", "<end>"]
TURNS = "{% for m in messages %}<turn>{{ m['role'] }}\n{{ m['content'] }}END{% endfor %}"
OPENED = "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
TEMPLATES = {
    "none": None,
    "turns": TURNS.replace("END", "<end>\n") + OPENED,
    "turns with BOS": "{{ bos_token }}" + TURNS.replace("END", "<end>\n") + OPENED,
    "ends in EOS": TURNS.replace("END", " </s>") + OPENED,
    "ends in text": TURNS.replace("END", "\n--\n") + OPENED,
    "no words of its own": "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}",
    "no generation prompt": TURNS.replace("END", "<end>"),
}


@cache
def random_tokenizer(
    kind: str, bos: bool, eos_behind: bool, template: str, end_special: bool, mask: str
) -> PreTrainedTokenizerFast:
    """Bytes, with some pairs of them and of half characters, or SentencePiece's way with a space before every text."""
    if kind == "metaspace":
        words = ["<unk>", *(f"<0x{n:02X}>" for n in range(256)), "\u2581", *map(chr, range(33, 127)), "he", "\u2581t"]
        pairs = [("h", "e"), ("\u2581", "t")]
        vocabulary = {word: n for n, word in enumerate(words)}
        made = Tokenizer(models.BPE(vocabulary, pairs, unk_token="<unk>", byte_fallback=True))
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        parts = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        made.decoder = decoders.Sequence(parts)
    else:
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        pairs = [("h", "e"), ("d", "e"), ("de", "f"), ("\u010a", "d"), ("\u00e6", "\u0139"), ("\u010a", "\u010a")]
        vocabulary = {word: n for n, word in enumerate([*letters, *("".join(pair) for pair in pairs)])}
        made = Tokenizer(models.BPE(vocabulary, pairs))
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=kind == "prefix space", use_regex=kind != "raw")
        made.decoder = decoders.ByteLevel()
    names = [word for word in SPECIAL if word != "<mask>" or mask != "outside"]
    plain = {"<end>": not end_special, "<mask>": mask == "added"}
    made.add_tokens([AddedToken(word, special=not plain.get(word), normalized=False) for word in names])
    if bos or eos_behind:
        single = "<s> " * bos + "$A" + " </s>" * eos_behind
        known = [(word, made.token_to_id(word)) for word in ("<s>", "</s>")]
        made.post_processor = processors.TemplateProcessing(single=single, pair=None, special_tokens=known)
    named = {"mask_token": "<mask>"} if mask == "named" else {}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="<pad>", **named
    )
    tokenizer.chat_template = TEMPLATES[template]
    return tokenizer


def codec_for(options: tuple) -> TokenizerCodec:
    tokenizer = random_tokenizer(*options)
    return TokenizerCodec(tokenizer, len(tokenizer) if options[-1] == "outside" else tokenizer.vocab["<mask>"])


OPTIONS = st.tuples(
    st.sampled_from(["bytes", "raw", "prefix space", "metaspace"]), st.booleans(), st.booleans(),
    st.sampled_from(list(TEMPLATES)), st.booleans(), st.sampled_from(["named", "added", "outside"]),
)  # fmt: skip
PIECES = [
    "a",
    "he",
    " the",
    " ",
    "\n",
    "\n\n",
    "def",
    "é",
    "日本",
    "\u2028",
    "0",
    "[MASK]",
    "<mask>",
    "<MASK>",
    "[MASK*3]",
]
TEXT = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)
SAID = TEXT.filter(str.strip)


@given(OPTIONS, st.lists(st.sampled_from([*PIECES, "</s>", "<turn>", "<end>"]), max_size=6))
@settings(deadline=None)
def test_a_text_comes_back_from_its_tokens(options: tuple, pieces: list[str]) -> None:
    if options[0] == "prefix space":  # it writes a space behind every special token too
        pieces = [piece for piece in pieces if piece in PIECES]
    codec, text = codec_for(options), "".join(pieces)
    tokens = torch.tensor(codec.literal(text), dtype=torch.long)
    if options[0] in ("prefix space", "metaspace"):  # the same tokens with and without a space before the text
        text = text.removeprefix(" ")
    assert codec.show(tokens) == text, "nothing is cut, lost or added"
    assert codec.mask_id not in tokens.tolist(), "a mask that is typed is text"


@given(OPTIONS, TEXT, TEXT, st.integers(1, 3))
@settings(deadline=None)
def test_holes_alone_are_masks_and_what_stands_around_them_stays(options: tuple, a: str, b: str, size: int) -> None:
    codec = codec_for(options)
    a, b = (text.replace("[", "(") for text in (a.lstrip(" "), b))
    tokens = codec.encode(f"{a}[MASK*{size}]{b}", 0)
    assert int((tokens == codec.mask_id).sum()) == size
    assert codec.show(tokens).replace("[MASK]", "[MASK*1]") == f"{a}[MASK*{size}]{b}"


@given(OPTIONS, TEXT, SAID, SAID, st.integers(1, 4))
@settings(deadline=None)
def test_a_prompt_is_what_training_saw_before_the_answer(
    options: tuple, system: str, asked: str, answer: str, size: int
) -> None:
    codec = codec_for(options)
    said = [{"role": "system", "content": system}, {"role": "user", "content": asked}]
    if options[3] == "none":
        row, prompt = {"prompt": asked, "response": answer}, asked
    else:
        row, prompt = {"messages": [*said, {"role": "assistant", "content": answer}]}, codec.chat(said)
    ids, start = encode(row, codec, "here")
    tokens = codec.encode(prompt, size).tolist()
    assert tokens == ids[:start] + [codec.mask_id] * size, "encoded once, and nothing between it and the masks"
    begins = [codec.tokenizer.bos_token_id] == tokens[:1]
    assert tokens.count(codec.tokenizer.bos_token_id) == begins, "never a second beginning"

    learned = ids[start:]
    stops = [end for end in codec.ends for at in range(len(learned)) if learned[at : at + len(end)] == end]
    assert len(stops) == 1 and learned[-len(stops[0]) :] == stops[0], "writing it ends the text, and not before"
    written = torch.arange(len(ids)) >= start
    assert codec.answer(torch.tensor(ids), written).endswith(answer + " " * (options[3] == "ends in EOS"))


class Says(Denoiser):
    """Writes one text behind whatever comes before it."""

    hidden_size, max_length = 1, 512

    def __init__(self, codec: TokenizerCodec, ids: list[int], start: int) -> None:
        super().__init__()
        self.mask_id, self.vocab_size = codec.mask_id, 400
        self.weight, self.ids, self.start = nn.Parameter(torch.zeros(1)), torch.tensor(ids), start

    def forward(self, tokens: Tensor, padding: Tensor | None = None) -> Output:
        place = torch.arange(tokens.shape[1]).sub(self.start).clamp(0, len(self.ids) - 1)
        logits = nn.functional.one_hot(self.ids[place], self.vocab_size).float().expand(len(tokens), -1, -1) * 30
        return Output(torch.zeros(*tokens.shape, 1), None, logits)


@given(OPTIONS, st.sampled_from(["\ndef", "\n\n", "he the", "é0", "日本"]), st.integers(1, 9), TEXT, st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_stop_in_the_prompt_or_across_its_end_changes_nothing(
    options: tuple, stop: str, cut_at: int, before: str, whole: bool
) -> None:
    codec = codec_for(options)
    cut_at = 1 + cut_at % (len(stop) - 1)
    prompt, rest = (before + stop, "") if whole else (before + stop[:cut_at], stop[cut_at:])
    says = codec.literal(rest + "0a0a", start=False)
    size, start = len(says), len(codec.literal(prompt))
    prism = enable(Says(codec, says, start), tokenizer=codec.tokenizer, sampler="confidence", temperature=0.0)
    asked = {"max_new_tokens": size, "steps": size, "block_length": 1}
    free, stopped = (prism.generate(prompt, stop=s, **asked) for s in ((), stop))
    assert free.texts == stopped.texts == [rest + "0a0a"] and torch.equal(free.tokens, stopped.tokens)
    assert free.forwards.tolist() == stopped.forwards.tolist() == [size]


def test_ends_are_of_the_template_the_tokenizer_and_the_model() -> None:
    tokenizer = random_tokenizer("bytes", False, False, "turns", False, "named")
    ids = tokenizer.vocab
    ends = TokenizerCodec(tokenizer, ends=[7, 8, 7]).ends
    assert ends[:4] == [[ids["<end>"]], [ids["</s>"]], [7], [8]], "a token that is added ends a turn, special or not"
    assert [ids["<mask>"]] not in ends and [ids["<turn>"]] in ends
    calls = "{% for m in messages %}{% for c in m.tool_calls or () %}<pad>{{ c.function.name }}{% endfor %}"
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, eos_token="</s>", pad_token="<pad>"
    )
    tokenizer.chat_template = calls + "{{ m['content'] }}</s>{% endfor %}"
    assert TokenizerCodec(tokenizer, 3).ends[0] == [ids["</s>"]]
    assert [ids["<pad>"]] not in TokenizerCodec(tokenizer, 3).ends, "what the template writes inside a turn ends none"


def test_an_answer_is_over_at_any_end_and_a_whole_text_is_not() -> None:
    codec = codec_for(("bytes", True, True, "turns", False, "named"))
    for end in ("<end>", "</s>", "<turn>", "<pad>"):
        tokens = torch.tensor(codec.literal(f"fine{end}more"))
        assert codec.decode(tokens) == "fine" and codec.show(tokens) == f"fine{end}more"
        assert codec.show(tokens, torch.ones_like(tokens) == 1).removeprefix("fine") in ("more", "<end>more")
    assert codec.special(torch.tensor(codec.literal("a</s>b"))).tolist() == [True, False, True, False]


def test_an_end_that_the_answer_brings_is_not_doubled_and_none_stands_inside() -> None:
    codec = codec_for(("bytes", False, False, "turns", True, "named"))
    plain = codec.pair("a", "b")
    assert (
        codec.pair("a", "b<end>") == codec.pair("a", "b</s>\n") == plain
        and codec.tokenizer.decode(plain[1]) == "b<end>"
    )
    assert codec.pair(codec.chat([{"role": "user", "content": "a"}]), "b") == plain, "written out already"
    with pytest.raises(DataError, match="an end inside the answer: what stands behind '<end>' would never be written"):
        codec.pair("a", "b<end>c")
    assert codec.document("a</s>") == codec.document("a")
    with pytest.raises(DataError, match="half a character"):
        codec.literal("a\ud800")


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ("hi", "no conversation: a list of messages is wanted, text came"),
        ([], "no conversation"),
        (["hi"], "no message: "),
        ([{"content": "hi"}], "no role: text is wanted, null came in message 1"),
        ([{"role": "user"}], "message 1, of 'user', has neither content nor tool calls"),
        ([{"role": "user", "content": 5}], "no content: text or a list of parts is wanted, a number came"),
        ([{"role": "user", "content": [{"type": "image"}]}], "a part that is no text: 'image' came"),
        ([{"role": "assistant", "tool_calls": [{"id": "1"}]}], "tool calls: "),
    ],
)
def test_what_is_no_conversation_is_named(messages, said: str) -> None:
    with pytest.raises(DataError, match=said):
        spoken(messages)


def test_parts_are_joined_nulls_are_absent_and_arguments_are_read() -> None:
    call = {"id": "1", "function": {"name": "f", "arguments": '{"a": 1}'}}
    parts = [{"type": "text", "text": "a"}, "b", {"type": "text", "text": "c", "image": None}]
    found = spoken([{"role": "user", "content": parts, "tool_calls": None},
                    {"role": "assistant", "content": None, "tool_calls": [call]}])  # fmt: skip
    assert found[0] == {"role": "user", "content": "abc"}
    assert found[1]["content"] == "" and found[1]["tool_calls"][0]["function"]["arguments"] == {"a": 1}
