"""The CUDA kernels' own text, run on the CPU by csrc/cuda/simt.h, against the references of the CPU ops."""

import ctypes
import math
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given as given_problem
from hypothesis import settings
from torch import Tensor

from prism_plugin.ops import select_highest_ref, select_lowest_ref, uniform_ref
from prism_plugin.ops.philox import signed_seed
from prism_plugin.ops.sample import Sampled
from tests.ops.test_sample import assert_agree, keyed, reference
from tests.ops.test_sample import problems as sampling_problems
from tests.ops.test_select import problems as selection_problems

SOURCES = sorted((Path(__file__).parents[2] / "csrc" / "cuda").glob("*.cu"))
DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
THREADS = 64


class Arguments(ctypes.Structure):
    """A structure of 8-byte fields, filled by keyword: tensors by their address, None by null."""

    def __init__(self, **values: Any):
        kinds = dict(self._fields_)
        for name, value in values.items():
            plain = value.data_ptr() if isinstance(value, Tensor) else value
            setattr(self, name, plain if kinds[name] is not ctypes.c_int64 else int(plain))


def fields(text: str) -> list[tuple[str, type]]:
    """One letter a kind: p pointer, i int64, d double."""
    kinds = {"p": ctypes.c_void_p, "i": ctypes.c_int64, "d": ctypes.c_double}
    return [(name, kinds[kind]) for name, kind in (word.split(":") for word in text.split())]


class Select(Arguments):
    _fields_ = fields(
        "scores:p dtype:i down:i across:i eligible:p counts:p batch:i length:i highest:i chosen:p tokens:p narrow:i "
        "token_down:i token_across:i fill:p mask_id:i"
    )


class Sample(Arguments):
    _fields_ = fields(
        "logits:p dtype:i stride:i vocabulary:i count:i rows:p request:p position:p step:p given:p suppress:p "
        "bias_ids:p bias:p seen:p seen_of:p suppressed:i biased:i seen_width:i seed:i stream:i top_k:i untempered:i "
        "inclusive:i temperature:d top_p:d min_p:d penalty:d scratch:p token:p prob:p margin:p entropy:p given_prob:p"
    )


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler to build the emulation with")
    library = tmp_path_factory.mktemp("simt") / "kernels.so"
    flags = ["-std=c++17", "-O2", "-DPRISM_SIMT", "-shared", "-fPIC", "-x", "c++"]
    subprocess.run([compiler, *flags, *map(str, SOURCES), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def sample(kernels: ctypes.CDLL, logits: Tensor, rows: Tensor, *key: Tensor, **options: Any) -> Sampled:
    logits = logits if logits.stride(-1) == 1 else logits.contiguous()
    count = len(rows)
    token = torch.empty(count, dtype=torch.int64)
    given, suppress = options["given"], options["suppress"]
    bias_ids, bias = options.get("logit_bias") or (None, None)
    penalty = options.get("repetition_penalty", 1.0)
    seen, seen_of = (options.get("seen") if penalty != 1 else None) or (None, None)
    kernels.prism_cuda_sample_scratch.restype = ctypes.c_int64
    size = kernels.prism_cuda_sample_scratch(ctypes.c_int64(count), ctypes.c_int64(logits.shape[1]))
    scratch = torch.full((size // 8 + 1,), torch.nan, dtype=torch.float64)
    asked = (True, options["margin"], options["entropy"], given is not None)
    prob, margin, entropy, given_prob = (torch.full((count,), torch.nan) if wanted else None for wanted in asked)
    arguments = Sample(
        logits=logits, dtype=DTYPES[logits.dtype], stride=logits.stride(0), vocabulary=logits.shape[1], count=count,
        rows=rows, request=key[0], position=key[1], step=key[2], given=given, suppress=suppress,
        suppressed=0 if suppress is None else len(suppress), bias_ids=bias_ids, bias=bias,
        biased=0 if bias_ids is None else len(bias_ids), seen=seen, seen_of=seen_of,
        seen_width=0 if seen is None else seen.shape[1], min_p=options.get("min_p", 0.0), penalty=penalty,
        scratch=scratch, seed=signed_seed(options["seed"]), stream=0,
        top_k=options["top_k"], untempered=options["confidence_of"] == "untempered",
        inclusive=options["top_p_rule"] == "inclusive", temperature=options["temperature"], top_p=options["top_p"],
        token=token, prob=prob, margin=margin, entropy=entropy, given_prob=given_prob,
    )  # fmt: skip
    assert kernels.prism_cuda_sample(ctypes.byref(arguments), ctypes.c_int64(THREADS), None) == 0
    assert prob is not None
    return Sampled(token, prob, margin, entropy, given_prob)


@settings(max_examples=60, deadline=None)
@given_problem(problem=sampling_problems())
def test_sampling(kernels: ctypes.CDLL, problem: tuple[Tensor, Tensor, dict[str, Any]]) -> None:
    logits, rows, options = problem
    key = keyed(len(rows))
    ours, theirs = sample(kernels, logits, rows, *key, **options), reference(logits, rows, *key, **options)
    assert torch.equal(ours.token < 0, theirs.token < 0)
    assert (ours.token < logits.shape[1]).all()
    if options["suppress"] is not None:
        assert not torch.isin(ours.token, options["suppress"]).any()
    if options["top_p"] == 1:  # else rounding may move the edge of the nucleus
        assert_agree(ours, theirs)


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_an_infinite_logit_that_is_penalised_stays_one(kernels: ctypes.CDLL, top_p: float) -> None:
    options = {
        "seed": 0, "temperature": 1.0, "top_p": top_p, "top_k": 0, "given": None, "suppress": None, "margin": False,
        "entropy": False, "confidence_of": "sampled", "top_p_rule": "inclusive", "repetition_penalty": 1.3,
        "seen": (torch.tensor([[1]]), torch.zeros(1, dtype=torch.long)),
    }  # fmt: skip
    given = (torch.tensor([[torch.inf, torch.inf, 0.0]]), torch.tensor([0]), *keyed(1))
    ours, theirs = sample(kernels, *given, **options), reference(*given, **options)
    assert ours.prob is not None and theirs.prob is not None
    assert torch.equal(ours.token, theirs.token) and ours.prob.item() == theirs.prob.item() == 0.5


@pytest.mark.parametrize("top", [0.0, -0.0, 1.5, -60000.0])
@pytest.mark.parametrize("dtype", list(DTYPES))
def test_min_p_of_one_keeps_the_top_alone(kernels: ctypes.CDLL, dtype: torch.dtype, top: float) -> None:
    logits = torch.tensor([[top - 1, top, top, top - 2]], dtype=dtype)
    rows = torch.zeros(8, dtype=torch.int64)
    options = {"seed": 1, "temperature": 0.7, "top_p": 1.0, "top_k": 0, "min_p": 1.0, "top_p_rule": "exclusive",
               "given": None, "margin": False, "confidence_of": "sampled",
               "entropy": False, "suppress": None}  # fmt: skip
    found = sample(kernels, logits, rows, *keyed(8), **options)
    assert torch.isin(found.token, logits[0].eq(logits.max()).nonzero()).all()
    assert torch.equal(found.token, reference(logits, rows, *keyed(8), **options).token)


@pytest.mark.parametrize("rest", [1, 2000])  # of one logit: listed one by one, or too many to be
def test_entropy_where_what_a_cut_keeps_weighs_nothing(kernels: ctypes.CDLL, rest: int) -> None:
    """28 tops, and behind them tokens so unlikely that their logits, divided by the temperature, are -inf."""
    logits = torch.cat([torch.full((28,), torch.inf), torch.zeros(rest)])[None].double()
    options = {"seed": 0, "temperature": 1e-9, "top_p": 1.0, "top_k": 28 + (rest + 1) // 2, "min_p": 0.0,
               "top_p_rule": "exclusive", "confidence_of": "sampled", "margin": False, "entropy": True,
               "given": None, "suppress": None}  # fmt: skip
    rows = torch.zeros(1, dtype=torch.int64)
    found = sample(kernels, logits, rows, *keyed(1), **options)
    assert found.entropy is not None and found.entropy.item() == pytest.approx(math.log(28), rel=1e-5)
    assert_agree(found, reference(logits, rows, *keyed(1), **options))


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_truncated_sampling_of_a_large_row(kernels: ctypes.CDLL, dtype: torch.dtype) -> None:
    logits = (torch.randn(2, 9000, generator=torch.Generator().manual_seed(0)) * 3).to(dtype)
    rows = torch.tensor([1, -1, 0])
    changes = {"logit_bias": (torch.tensor([8, 5000]), torch.tensor([9.0, 3.0])), "repetition_penalty": 1.4,
               "seen": (torch.tensor([[7, 7, 4096, -1]]), torch.zeros(3, dtype=torch.int64))}  # fmt: skip
    for extra in [
        {"top_p": 0.9},
        {"top_p": 0.9, "top_p_rule": "inclusive"},
        {"top_k": 50},
        {"min_p": 0.02},
        {"top_p": 0.5, "top_k": 20},
        {"top_p": 0.8, "top_k": 900, "min_p": 1e-3},
        {"top_p": 0.7, **changes},
    ]:
        options = {
            "seed": 1,
            "temperature": 0.8,
            "top_p": 1.0,
            "top_k": 0,
            "top_p_rule": "exclusive",
            "given": None,
            "margin": True,
            "confidence_of": "sampled",
            "entropy": True,
            "suppress": torch.tensor([3]),
            **extra,
        }
        ours = sample(kernels, logits, rows, *keyed(3), **options)
        theirs = reference(logits, rows, *keyed(3), **options)
        assert torch.equal(ours.token, theirs.token), extra
        torch.testing.assert_close(ours.prob, theirs.prob, rtol=1e-3, atol=0)


@pytest.mark.parametrize("extra", [{"top_k": 2500}, {"top_p": 0.4}, {"top_p": 0.4, "top_p_rule": "inclusive"}])
def test_ties_by_the_thousand_rank_by_id(kernels: ctypes.CDLL, extra: dict[str, Any]) -> None:
    """More equal logits at the edge than fit into shared memory: the lower ids stay."""
    logits = torch.zeros(1, 6007)[:, :6001]
    logits[0, ::7] = 1.0
    for step in range(8):
        options = {"seed": 1, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "top_p_rule": "exclusive",
                   "given": torch.tensor([700 * step + 1]), "margin": True, "confidence_of": "sampled",
                   "entropy": True, "suppress": None, **extra}  # fmt: skip
        key = [torch.tensor([step])] * 3
        ours, theirs = (f(logits, torch.tensor([0]), *key, **options) for f in (
            lambda *a, **k: sample(kernels, *a, **k), reference))  # fmt: skip
        assert torch.equal(ours.token, theirs.token)
        assert_agree(ours, theirs)


@settings(max_examples=20, deadline=None)
@given_problem(problem=selection_problems())
def test_selection_and_scatter(kernels: ctypes.CDLL, problem: tuple[Tensor, Tensor, Tensor]) -> None:
    scores, eligible, counts = problem
    x0 = torch.arange(scores.numel()).view(scores.shape) % 5 - 1
    for dtype in (torch.int64, torch.int32):
        for highest, fill in [(False, None), (True, None), (True, x0.to(dtype).contiguous())]:
            tokens, chosen = torch.full(scores.shape, 7, dtype=dtype), torch.empty(scores.shape, dtype=torch.bool)
            arguments = Select(
                scores=scores, dtype=DTYPES[scores.dtype], down=scores.stride(0), across=scores.stride(1),
                eligible=eligible, counts=counts, batch=scores.shape[0], length=scores.shape[1], highest=highest,
                chosen=chosen, tokens=tokens, narrow=dtype == torch.int32, token_down=tokens.stride(0),
                token_across=tokens.stride(1), fill=fill, mask_id=9,
            )  # fmt: skip
            assert kernels.prism_cuda_select(ctypes.byref(arguments), ctypes.c_int64(THREADS), None) == 0
            allowed = eligible & (x0 >= 0) if fill is not None else eligible
            expected = (select_highest_ref if highest else select_lowest_ref)(scores, allowed, counts)
            assert torch.equal(chosen, expected)
            assert torch.equal(tokens, torch.where(chosen, 9 if fill is None else x0, 7).to(dtype))


def test_uniform_is_bit_identical(kernels: ctypes.CDLL) -> None:
    request, position, step = keyed(600)
    out = torch.empty(600, dtype=torch.float64)
    seed = signed_seed(2**63 + 5)
    word = [ctypes.c_int64(value) for value in (seed, 2, 3, 600)]
    pointer = [ctypes.c_void_p(part.data_ptr()) for part in (request, position, step, out)]
    assert kernels.prism_cuda_uniform(word[0], *pointer[:3], *word[1:], pointer[3], None) == 0
    assert torch.equal(out, uniform_ref(seed, request, position, step, 2, 3))


def test_every_op_of_the_cpu_has_a_cuda_kernel() -> None:
    """The two bindings register the same ops; ``lm_head_sample`` is composed of ops that have both.

    But for those over lists, which on a device are a few of PyTorch's own and these (tests/ops/test_lists.py).
    """
    csrc = SOURCES[0].parents[1]
    cpu, cuda = (
        re.findall(r'm\.impl\("(\w+)"', (csrc / path).read_text()) for path in ("bindings.cpp", "cuda/binding.cpp")
    )
    assert len(cuda) >= 6 and sorted(cpu) == sorted(
        [*cuda, "end_step", "even_split", "fill_rows", "list_rows", "live_rows", "spread"]
    )


def test_wrong_launches_are_refused(kernels: ctypes.CDLL) -> None:
    for threads in (0, 33, 2048):
        assert kernels.prism_cuda_select(ctypes.byref(Select()), ctypes.c_int64(threads), None) != 0
        assert kernels.prism_cuda_sample(ctypes.byref(Sample()), ctypes.c_int64(threads), None) != 0
