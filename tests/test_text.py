"""Between text and tokens: prompts, holes, answers, stops and ragged batches."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prism_plugin.errors import DataError
from prism_plugin.sampling.drive import batches
from prism_plugin.tasks import get_task
from prism_plugin.text import GridCodec, TaskCodec, TokenizerCodec, cut

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
