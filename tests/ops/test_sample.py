"""sample_rows: the compiled op (where built) against the float64 reference, and both against the docstring."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given as given_problem
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from prism_plugin.errors import ConfigError, PrismError
from prism_plugin.ops import Sampled, lm_head_sample, sample_rows, sample_rows_ref, uniform

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def keyed(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """request, position, step of ``count`` rows."""
    n = torch.arange(count)
    return n % 7, n, n // 3


def reference(logits: Tensor, rows: Tensor, *key: Tensor, seed: int = 0, **options: Any) -> Sampled:
    """``sample_rows`` by its reference."""
    token, prob, margin, entropy, given = sample_rows_ref(
        logits, rows, *key, seed, options.get("temperature", 1.0), options.get("top_p", 1.0), options.get("top_k", 0),
        options.get("min_p", 0.0), options.get("suppress"), *(options.get("logit_bias") or (None, None)),
        *(options.get("seen") or (None, None)), options.get("repetition_penalty", 1.0),
        options.get("confidence_of") == "untempered", options.get("top_p_rule") == "inclusive",
        options.get("given"), options.get("margin", False), options.get("entropy", False), options.get("stream", 0),
    )  # fmt: skip
    return Sampled(token, prob, margin, entropy, given)


def assert_agree(ours: Sampled, theirs: Sampled, allowed: float = 0.0) -> None:
    """Equal tokens (up to a share ``allowed`` that rounding may move) and figures to 1e-5 where the tokens agree."""
    same = ours.token == theirs.token
    assert (~same).float().mean().nan_to_num() <= allowed
    torch.testing.assert_close(ours.prob[same], theirs.prob[same], rtol=1e-5, atol=1e-37)
    for mine, other in zip(ours[2:], theirs[2:], strict=True):
        if mine is not None:
            torch.testing.assert_close(mine, other, rtol=1e-5, atol=3e-6)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Rows with ties, NaN, infinities, nothing at all; every dtype, stride and option."""
    vocabulary = draw(st.sampled_from([1, 2, 9, 12, 256, 257, 2048, 2049, 5000]))
    height, count = draw(st.integers(0, 4)), draw(st.integers(0, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scale = draw(st.sampled_from([0.0, 0.3, 3.0, 30.0, 1000.0]))
    dtype = draw(st.sampled_from(DTYPES))
    logits = torch.randn(height, vocabulary, generator=generator) * scale
    if draw(st.booleans()):
        logits = logits.round()
    for _ in range(draw(st.integers(0, 3)) if height else 0):
        spoilt = torch.rand(vocabulary, generator=generator) < draw(st.sampled_from([0.01, 0.5, 1.0]))
        logits[draw(st.integers(0, height - 1)), spoilt] = draw(
            st.sampled_from([math.nan, -math.inf, math.inf, -6e4, 3e38])
        )
    logits = logits.to(dtype)
    layout = draw(st.sampled_from(["plain", "wide", "transposed"]))
    if layout == "wide":
        logits = torch.cat([logits, logits], 1)[:, :vocabulary]
    if layout == "transposed":
        logits = logits.t().contiguous().t()
    rows = torch.randint(-1, height, (count,), generator=generator) if height else torch.full((count,), -1)
    suppress = draw(st.sampled_from([None, [], [0], [vocabulary - 1, 0, 0], list(range(vocabulary))]))
    some = torch.randperm(vocabulary, generator=generator)[: draw(st.integers(0, 9))]
    biased = some, torch.randn(len(some), generator=generator) * draw(st.sampled_from([1.0, 20.0]))
    table = torch.randint(-2, vocabulary + 2, (3, 7), generator=generator)
    options = {
        "seed": draw(st.sampled_from([0, 5, 2**63, -1])),
        "temperature": draw(st.sampled_from([0.0, 1e-9, 0.05, 0.7, 1.0, 30.0])),
        "top_p": draw(st.sampled_from([1.0, 1.0, 0.9, 0.5, 1e-6, 1 - 1e-9])),
        "top_k": draw(st.sampled_from([0, 0, 1, 3, 300, 10000])),
        "min_p": draw(st.sampled_from([0.0, 0.0, 0.1, 1e-5, 1.0])),
        "logit_bias": draw(st.sampled_from([None, biased])),
        "seen": draw(st.sampled_from([None, (table, torch.randint(0, 3, (count,), generator=generator))])),
        "repetition_penalty": draw(st.sampled_from([1.0, 1.3, 0.5])),
        "suppress": None if suppress is None else torch.tensor(suppress, dtype=torch.int64),
        "confidence_of": draw(st.sampled_from(["sampled", "untempered"])),
        "top_p_rule": draw(st.sampled_from(["exclusive", "inclusive"])),
        "margin": draw(st.booleans()),
        "entropy": draw(st.booleans()),
        "given": draw(st.sampled_from([None, torch.randint(-2, vocabulary + 2, (count,), generator=generator)])),
    }
    return logits, rows, options


@settings(max_examples=120, deadline=None)
@given_problem(problems())
def test_agrees_with_the_reference_and_never_leaves_the_vocabulary(
    problem: tuple[Tensor, Tensor, dict[str, Any]],
) -> None:
    logits, rows, options = problem
    key = keyed(len(rows))
    ours, theirs = sample_rows(logits, rows, *key, **options), reference(logits, rows, *key, **options)
    assert torch.equal(ours.token < 0, theirs.token < 0)
    alive = ours.token >= 0
    kept = logits.double().nan_to_num(nan=-math.inf, neginf=-math.inf)
    assert (ours.token < logits.shape[1]).all() and (rows[alive] >= 0).all()
    assert (kept[rows[alive], ours.token[alive]] > -math.inf).all()
    if options["suppress"] is not None:
        assert not torch.isin(ours.token, options["suppress"]).any()
    assert ((ours.prob >= 0) & (ours.prob <= 1)).all() and (ours.prob[~alive] == 0).all()
    if options["confidence_of"] == "sampled" and options["temperature"] > 0:  # else it may underflow, or be cut
        assert (ours.prob[alive] > 0).all()
    # A cumulative sum within rounding of a bound may fall on either side of it; it is not where these draws are.
    truncated = options["top_p"] < 1 and not 0 < options["temperature"] < 1e-3
    if not truncated:
        assert_agree(ours, theirs)
    elif options["temperature"] == 0:
        assert torch.equal(ours.token, theirs.token)


@pytest.mark.parametrize(("dtype", "temperature"), list(zip(DTYPES, [0.3, 1.0, 0.0, 0.3], strict=True)))
@pytest.mark.parametrize("truncation", [{}, {"top_p": 0.9}, {"top_p": 0.9, "top_p_rule": "inclusive"}, {"top_k": 50},
                                        {"top_p": 0.6, "top_k": 3000}, {"min_p": 0.02},
                                        {"top_p": 0.8, "top_k": 500, "min_p": 1e-3}])  # fmt: skip
def test_large_vocabularies_agree(dtype: torch.dtype, temperature: float, truncation: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(6, 50258, generator=generator) * torch.tensor([0.5, 2.0, 6.0]).repeat(2)[:, None]
    logits = logits.to(dtype)
    rows = torch.arange(6).flip(0)
    options = {"seed": 9, "temperature": temperature, "margin": True, "entropy": True, "given": torch.arange(6) * 9000,
               "suppress": torch.tensor([7, 50257]), **truncation}  # fmt: skip
    for confidence_of in ("sampled", "untempered"):
        options["confidence_of"] = confidence_of
        ours, theirs = sample_rows(logits, rows, *keyed(6), **options), reference(logits, rows, *keyed(6), **options)
        assert torch.equal(ours.token, theirs.token)
        if dtype == torch.float64 or not truncation:
            assert_agree(ours, theirs)
        else:  # one symbol more or less at the edge of the nucleus moves the normaliser by its share
            torch.testing.assert_close(ours.prob, theirs.prob, rtol=1e-4, atol=0)


def test_the_result_does_not_depend_on_the_batch_its_order_or_the_threads() -> None:
    logits = torch.randn(40, 3000, generator=torch.Generator().manual_seed(0)) * 3
    key = keyed(40)
    whole = sample_rows(logits, torch.arange(40), *key, seed=3, top_p=0.95)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    shuffled = sample_rows(logits, order, *(part[order] for part in key), seed=3, top_p=0.95)
    assert torch.equal(shuffled.token, whole.token[order]) and torch.equal(shuffled.prob, whole.prob[order])
    single = [sample_rows(logits[n : n + 1], torch.tensor([0]), *(part[n : n + 1] for part in key), seed=3, top_p=0.95)
              for n in range(40)]  # fmt: skip
    assert torch.equal(torch.cat([one.prob for one in single]), whole.prob)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads % 2 + 1)
        again = sample_rows(logits, torch.arange(40), *key, seed=3, top_p=0.95)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(again.token, whole.token) and torch.equal(again.prob, whole.prob)


@pytest.mark.parametrize("vocabulary", [10, 5000])
def test_the_top_p_rules_are_the_published_ones(vocabulary: int) -> None:
    """p = (.5, .3, .15, .05), top_p = .9: exclusive keeps two, inclusive three (ALGORITHMS of the hosts)."""
    logits = torch.full((1, vocabulary), -math.inf)
    logits[0, [1, 3, 4, 8]] = torch.tensor([0.3, 0.5, 0.05, 0.15]).log()
    many = torch.zeros(400, dtype=torch.int64)
    for rule, kept in [("exclusive", {1, 3}), ("inclusive", {1, 3, 8})]:
        drawn = sample_rows(logits, many, many, torch.arange(400), many, seed=0, top_p=0.9, top_p_rule=rule)
        assert set(drawn.token.tolist()) == kept
        mass = sum({1: 0.3, 3: 0.5, 8: 0.15}[token] for token in kept)
        torch.testing.assert_close(drawn.prob[drawn.token == 3][0], torch.tensor(0.5 / mass))


@pytest.mark.parametrize("vocabulary", [10, 5000])
def test_figures_name_their_distribution(vocabulary: int) -> None:
    """The same draw, its figures from softmax(l / T) cut by top_k, or from softmax(l)."""
    logits = torch.randn(1, vocabulary, generator=torch.Generator().manual_seed(2)) * 2
    one = torch.zeros(1, dtype=torch.int64)
    runner_up = logits.topk(2).indices[0, 1:]
    options: dict[str, Any] = {
        "seed": 0,
        "temperature": 0.5,
        "top_k": 2,
        "margin": True,
        "entropy": True,
        "given": runner_up,
    }
    for confidence_of, p in [("sampled", (logits.topk(2).values * 2).softmax(-1)), ("untempered", logits.softmax(-1))]:
        seen = sample_rows(logits, one, one, one, one, confidence_of=confidence_of, **options)
        best = p.topk(2).values[0]
        assert seen.margin is not None and seen.entropy is not None and seen.given_prob is not None
        torch.testing.assert_close(seen.margin[0], best[0] - best[1], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(seen.entropy[0], torch.special.entr(p).sum(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(seen.given_prob[0], best[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocabulary, temperature", [(12, 1.0), (12, 0.1), (1000, 1.0), (1000, 0.1), (6000, 0.25)])
def test_draws_follow_the_softmax(dtype: torch.dtype, vocabulary: int, temperature: float) -> None:
    """Chi-square over many draws; also at low temperature, where float32 Gumbel noise is truncated (2409.02908)."""
    draws = 40000
    logits = torch.randn(1, vocabulary, generator=torch.Generator().manual_seed(vocabulary)).to(dtype)
    zero = torch.zeros(draws, dtype=torch.int64)
    drawn = sample_rows(logits, zero, zero, torch.arange(draws), zero, seed=17, temperature=temperature)
    expected = (logits[0].double() / temperature).softmax(-1) * draws
    seen = torch.bincount(drawn.token, minlength=vocabulary).double()
    rare = expected < 5
    pooled = torch.cat([expected[~rare], expected[rare].sum()[None]]), torch.cat([seen[~rare], seen[rare].sum()[None]])
    bins = pooled[0] > 0
    chi = ((pooled[1] - pooled[0])[bins] ** 2 / pooled[0][bins]).sum().item()
    freedom = int(bins.sum()) - 1
    assert chi < freedom + 5 * math.sqrt(2 * freedom) + 10


def test_rare_symbols_are_drawn_as_often_as_they_should() -> None:
    """A tail of 4,000 symbols of 1e-9 each: a 24-bit uniform number could not tell them apart, 53 bits can."""
    vocabulary = 6000
    logits = torch.full((1, vocabulary), math.log(1e-9))
    logits[0, 5000] = 0.0
    total = 1 + 5999e-9
    one = torch.zeros(1, dtype=torch.int64)
    hits = 0
    for seed in range(200):
        u = float(uniform(seed, one, one, one, 0))
        token = int(sample_rows(logits, one, one, one, one, seed=seed).token)
        assert token == (5000 if 5000e-9 <= u * total < 1 + 5000e-9 else int(u * total * 1e9))
        hits += token == 5000
    assert hits >= 198


def test_empty_and_hopeless_rows_have_a_defined_result() -> None:
    none = torch.full((3,), -1)
    for logits in (
        torch.zeros(0, 5),
        torch.zeros(3, 0),
        torch.full((3, 5), -math.inf),
        torch.full((3, 4000), math.nan),
    ):
        rows = none if len(logits) == 0 else torch.arange(3)
        drawn = sample_rows(
            logits, rows, none, none, none, seed=0, margin=True, entropy=True, given=torch.zeros_like(none)
        )
        assert drawn.token.tolist() == [-1] * 3
        for figure in drawn[1:]:
            assert figure is not None and figure.tolist() == [0.0] * 3
    empty = torch.zeros(0, dtype=torch.int64)
    assert sample_rows(torch.zeros(2, 5), empty, empty, empty, empty, seed=0).token.shape == (0,)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocabulary", [10, 4000])
def test_a_bias_a_penalty_and_min_p_are_those_of_serving_samplers(dtype: torch.dtype, vocabulary: int) -> None:
    """Each against the formula, on softmax: what is added, what a seen id is divided or multiplied by, who stays."""
    logits = torch.randn(2, vocabulary, generator=torch.Generator().manual_seed(5)).to(dtype)
    rows, zero = torch.tensor([0, 1]), torch.zeros(2, dtype=torch.int64)
    seen = torch.tensor([[1, 4, 4, -1], [7, -1, -1, vocabulary]])
    changed = logits.double()
    changed[:, [2, 4]] += torch.tensor([1.5, -0.5])
    for row, ids in enumerate([[1, 4], [7]]):
        picked = changed[row, ids]
        changed[row, ids] = torch.where(picked > 0, picked / 1.7, picked * 1.7)
    changed[:, 3] = -math.inf
    p = (changed / 0.8).softmax(-1)
    p = torch.where(p >= 0.4 * p.amax(-1, keepdim=True), p, 0.0)
    p = p / p.sum(-1, keepdim=True)
    for token in range(10):
        drawn = sample_rows(
            logits, rows, zero, zero, zero, seed=0, temperature=0.8, min_p=0.4, suppress=torch.tensor([3]),
            logit_bias=(torch.tensor([2, 4]), torch.tensor([1.5, -0.5])), seen=(seen, rows), repetition_penalty=1.7,
            given=torch.full((2,), token),
        )  # fmt: skip
        torch.testing.assert_close(drawn.given_prob, p[:, token].float(), rtol=2e-6, atol=1e-7)
        assert bool((p.gather(1, drawn.token[:, None]) > 0).all())


@pytest.mark.parametrize("vocabulary", [10, 4000])
def test_huge_logits_are_exact(vocabulary: int) -> None:
    """+inf counts as the largest finite number: two of them share the row; 1e30 apart is no problem."""
    logits = torch.zeros(2, vocabulary)
    logits[0, [3, 7]] = math.inf
    logits[1, [2, 5]] = torch.tensor([1e32, -1e32])
    many = torch.arange(200)
    drawn = sample_rows(logits, many % 2, many, many, many, seed=0)
    assert set(drawn.token[::2].tolist()) == {3, 7} and (drawn.prob[::2] == 0.5).all()
    assert (drawn.token[1::2] == 2).all() and (drawn.prob[1::2] == 1).all()


def test_bad_settings_say_what_is_allowed() -> None:
    one = torch.zeros(1, dtype=torch.int64)
    logits = torch.zeros(1, 5)
    for bad in ({"temperature": -1.0}, {"temperature": math.nan}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_k": -1},
                {"min_p": -0.1}, {"min_p": 1.1}, {"repetition_penalty": 0.0}, {"repetition_penalty": math.inf},
                {"confidence_of": "me"}, {"top_p_rule": "both"}, {"seed": 2**64}):  # fmt: skip
        with pytest.raises(ConfigError, match="allowed"):
            sample_rows(logits, one, one, one, one, **{"seed": 0, **bad})
    with pytest.raises(IndexError):
        sample_rows(logits, one + 1, one, one, one, seed=0)
    with pytest.raises(IndexError):
        sample_rows(logits, one, one, one, one, seed=0, suppress=one + 5)
    with pytest.raises(ValueError, match="step must be int64"):
        sample_rows(logits, one, one, one, one.int(), seed=0)
    with pytest.raises(PrismError, match="no gradient"):
        sample_rows(logits.requires_grad_(), one, one, one, one, seed=0)


def test_the_fused_head_draws_what_the_logits_would() -> None:
    """Blocks of rows, padding, bias and scale: equal tokens, and figures up to the rounding of logits."""
    generator = torch.Generator().manual_seed(3)
    hidden, weight = torch.randn(300, 16, generator=generator), torch.randn(60000, 16, generator=generator)
    bias, rows = torch.randn(60000, generator=generator), torch.randint(-1, 300, (330,), generator=generator)
    options: dict[str, Any] = {"seed": 1, "temperature": 0.8, "margin": True, "given": torch.arange(330)}
    for extra in ({}, {"top_k": 20, "confidence_of": "untempered"}):
        whole = sample_rows((hidden @ weight.T + bias) * 0.5, rows, *keyed(330), **options, **extra)
        fused = lm_head_sample(hidden, weight, bias, rows, *keyed(330), scale=0.5, **options, **extra)
        assert (fused.token < 0).equal(rows < 0)
        assert (fused.token == whole.token).float().mean() > 0.99
        torch.testing.assert_close(fused.given_prob, whole.given_prob, rtol=1e-4, atol=1e-9)
    with pytest.raises(ValueError, match="rows must be int64"):
        lm_head_sample(hidden, weight, None, rows.int(), *keyed(330), seed=0)


@pytest.mark.parametrize("vocabulary", [5, 64, 256, 2049])
def test_a_nan_beside_the_largest_is_no_rival_of_it(vocabulary: int) -> None:
    logits = torch.full((1, vocabulary), -3.0)
    logits[0, 1], logits[0, 2:5] = 4.0, math.nan
    options = {"temperature": 0.0, "margin": True, "entropy": True}
    ours, theirs = (
        sample_rows(logits, torch.tensor([0]), *keyed(1), seed=0, **options),
        reference(logits, torch.tensor([0]), *keyed(1), **options),
    )
    assert_agree(ours, theirs)
    assert float(ours.margin) > 0.9 * float(ours.prob)  # type: ignore[arg-type]
