"""Counter-based random numbers: Philox4x32-10 (Salmon et al., SC 2011), the same bits on every device.

A number is a pure function of (seed, request, position, step, stream, draw), so that a sequence's result depends
neither on its batch row, nor on its neighbours, nor on the number of threads.
"""

import torch
from torch import Tensor

from prism_plugin.errors import ConfigError
from prism_plugin.ops._load import compiled

FILL, REVISE, ORDER, PROBE = 0, 1, 2, 3

_WORD = 0xFFFFFFFF
_MULTIPLY = 0xD2511F53, 0xCD9E8D57
_WEYL = 0x9E3779B9, 0xBB67AE85

Word = Tensor | int


def philox4x32(counter: tuple[Word, Word, Word, Word], key: tuple[Word, Word]) -> tuple[Word, Word, Word, Word]:
    """Ten rounds of Philox4x32; words are int64 tensors (or ints) that hold 32 bits, and broadcast."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = _multiply(c0, _MULTIPLY[0])
        high1, low1 = _multiply(c2, _MULTIPLY[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return c0, c1, c2, c3


def _multiply(word: Word, constant: int) -> tuple[Word, Word]:
    product = word * constant  # int64 wraps, and the bits of a product modulo 2^64 are those of the unsigned one
    return (product >> 32) & _WORD, product & _WORD


def signed_seed(seed: int) -> int:
    """The 64 bits of a seed as the signed integer that an op's schema holds. ``ConfigError`` outside 64 bits."""
    if not -(2**63) <= seed < 2**64:
        raise ConfigError(f"seed = {seed} does not fit in 64 bits: allowed -2^63 <= seed < 2^64.")
    return seed - 2**64 if seed >= 2**63 else seed


def uniform(seed: int, request: Tensor, position: Tensor, step: Tensor, stream: int, draw: int = 0) -> Tensor:
    """53-bit uniform numbers in the open interval (0, 1).

    request, position, step: int64, of shapes that broadcast; their low 32 bits count. ``stream`` is FILL, REVISE,
    ORDER or PROBE (0 to 255), ``draw`` (0 to 2^24 - 1) numbers the draws within one. Returns float64 of the
    broadcast shape.
    """
    if not (0 <= stream < 256 and 0 <= draw < 2**24):
        raise ConfigError(f"stream = {stream}, draw = {draw}: allowed 0 <= stream < 256 and 0 <= draw < 2^24.")
    if compiled(request.device.type):
        return torch.ops.prism.philox_uniform(signed_seed(seed), request, position, step, stream, draw)
    return uniform_ref(seed, request, position, step, stream, draw)


def uniform_ref(seed: int, request: Tensor, position: Tensor, step: Tensor, stream: int, draw: int = 0) -> Tensor:
    """``uniform`` in plain PyTorch, bit for bit."""
    seed = signed_seed(seed)
    request, position, step = torch.broadcast_tensors(request, position, step)
    counter = (position & _WORD, step & _WORD, request & _WORD, stream * 2**24 + draw)
    w0, w1, _, _ = philox4x32(counter, (seed & _WORD, (seed >> 32) & _WORD))
    high, low = torch.as_tensor(w0 >> 5).double(), torch.as_tensor(w1 >> 6).double()
    return ((high * 2**26 + low + 0.5) * 2**-53).clamp(max=1 - 2**-53)  # the largest would round to 1
