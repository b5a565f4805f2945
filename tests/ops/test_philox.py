"""The generator against the published known answers, and the properties that samplers rely on."""

import pytest
import torch

from prism_plugin.errors import ConfigError
from prism_plugin.ops import FILL, ORDER, PROBE, REVISE, uniform, uniform_ref
from prism_plugin.ops.philox import philox4x32

# Random123's kat_vectors, philox4x32 with 10 rounds: counter, key, answer.
KNOWN = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize("counter, key, answer", KNOWN)
def test_known_answers(counter: list[int], key: list[int], answer: list[int]) -> None:
    words = philox4x32(tuple(torch.tensor([c]) for c in counter), tuple(torch.tensor([k]) for k in key))
    assert [int(word) for word in words] == answer


def test_the_counter_layout_is_the_published_one() -> None:
    """Counter: position, step, request, stream * 2^24 + draw; key: the seed's halves. The third known answer again."""
    seed = 0x299F31D0A4093822
    stream, draw = divmod(0x03707344, 2**24)
    one = [torch.tensor(value) for value in (0x13198A2E, 0x243F6A88, 0x85A308D3)]
    w0, w1 = 0xD16CFE09, 0x94FDCCEB
    expected = ((w0 >> 5) * 2**26 + (w1 >> 6) + 0.5) * 2**-53
    assert float(uniform(seed, *one, stream, draw)) == expected
    assert float(uniform_ref(seed, *one, stream, draw)) == expected


def test_broadcasts_and_ignores_the_batch() -> None:
    request, position = torch.arange(3)[:, None], torch.arange(5)
    step = torch.tensor([[7], [8], [9]])
    u = uniform(11, request, position, step, FILL)
    assert u.shape == (3, 5) and u.dtype == torch.float64
    flipped = uniform(11, request.flip(0), position, step.flip(0), FILL)
    assert torch.equal(flipped.flip(0), u)
    assert torch.equal(u, uniform_ref(11, request, position, step, FILL))


def test_streams_draws_and_seeds_differ_and_are_uniform() -> None:
    position = torch.arange(20000)
    zero = torch.zeros_like(position)
    drawn_from = [
        (0, FILL, 0),
        (0, REVISE, 0),
        (0, ORDER, 0),
        (0, PROBE, 0),
        (0, FILL, 1),
        (1, FILL, 0),
        (2**32, FILL, 0),
    ]
    columns = [uniform(seed, zero, position, zero, stream, draw) for seed, stream, draw in drawn_from]
    u = torch.stack(columns)
    assert u.min() > 0 and u.max() < 1
    assert (u.mean(-1) - 0.5).abs().max() < 5 / (12 * 20000) ** 0.5
    assert (torch.corrcoef(u) - torch.eye(len(columns))).abs().max() < 5 / 20000**0.5


def test_bad_settings_say_what_is_allowed() -> None:
    zero = torch.zeros(1, dtype=torch.int64)
    for seed, stream, draw in [(2**64, 0, 0), (0, 256, 0), (0, 0, 2**24), (0, -1, 0)]:
        with pytest.raises(ConfigError, match="allowed"):
            uniform(seed, zero, zero, zero, stream, draw)
