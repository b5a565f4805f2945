"""The engine: texts move through slots, each as it would come out alone; a step waits for the device once at most."""

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from prism_plugin.errors import ConfigError
from prism_plugin.models.denoiser import Denoiser, Layout, Output
from prism_plugin.models.noise import Noise
from prism_plugin.sampling import _budget
from prism_plugin.sampling import state as state_module
from prism_plugin.sampling.config import SamplerConfig, fitting, resolve
from prism_plugin.sampling.drive import bucket, finished, generate, generate_many
from prism_plugin.sampling.methods import Parts
from prism_plugin.sampling.parts import Forward, methods, trained_for
from prism_plugin.sampling.presets import presets
from prism_plugin.sampling.state import State
from tests.table_model import LogitOf

SYMBOLS = 5
MASK = SYMBOLS


class Hashed(Denoiser):
    """Logits and quality are a hash of the real tokens of a row: the same to the last bit at any width of the batch."""

    vocab_size, mask_id, hidden_size, max_length = SYMBOLS + 1, MASK, 1, 64
    gives = frozenset({"padding", "second_forward", "probe", "layout"})

    def __init__(self) -> None:
        super().__init__()
        self.head: nn.Module | None = LogitOf()
        self.rows = 0

    def forward(self, tokens: Tensor, padding: Tensor | None = None, layout: Layout | None = None) -> Output:
        self.rows += len(tokens)
        real = torch.ones_like(tokens, dtype=torch.bool) if padding is None else padding
        place = real.cumsum(1) - 1 if layout is None else layout.positions
        seen = real[:, None] if layout is None else layout.attend
        word = (tokens + 1) * (place * 40503 + 12289) % 65521
        key = (seen * (word * word)[:, None]).sum(-1) % 65521  # (B, 1) or (B, N)
        cell = ((key + place * 257) * 75 + 74) % 65537
        symbol = torch.arange(SYMBOLS)
        logits = ((cell[..., None] * (symbol * 2 + 3) * 4093) % 65539).double() / 16384
        quality = ((cell * 8191 + word) % 65539).double() / 65540
        return Output(quality[..., None], None, nn.functional.pad(logits, (0, 1), value=-torch.inf))


def model_for(name: str) -> Hashed:
    """One whose head was trained as the preset's score wants it."""
    model = Hashed()
    model.trained = {"objective": trained_for(resolve(SamplerConfig(name)).score)}
    model.noise = Noise(float(presets[name].get("method") == "redraw"))
    return model


@st.composite
def ragged(draw: st.DrawFn) -> dict[str, Any]:
    """Texts of different length with some positions given, settings, and a number of slots."""
    size = st.integers(1, 9) | st.sampled_from([16, 17])  # of several buckets
    texts = [
        torch.tensor(draw(st.lists(st.sampled_from([MASK, MASK, 0, 3]), min_size=n, max_size=n)))
        for n in draw(st.lists(size, min_size=1, max_size=7))
    ]
    numbers = {"steps": (9, 12), "seed": (0, 9)}
    changes = {key: draw(st.integers(*bounds)) for key, bounds in numbers.items()}
    changes["block_length"] = draw(st.sampled_from([0, 2, 3, 4]))
    return {"texts": texts, "changes": changes, "slots": draw(st.integers(1, 4))}


@pytest.mark.parametrize("name", list(presets))
@settings(max_examples=4, deadline=None)
@given(case=ragged())
def test_a_text_comes_out_as_it_would_alone(name: str, case: dict[str, Any]) -> None:
    model, config = model_for(name), resolve(SamplerConfig(**fitting(case["changes"], name)))
    together = generate_many(model, case["texts"], config, slots=case["slots"])
    for number, text in enumerate(case["texts"]):
        alone = generate(model, text[None], config, request=torch.tensor([number]))
        for field in ("forwards", "cost", "fills", "remasked", "overwritten", "wasted"):
            assert getattr(alone, field)[0] == getattr(together, field)[number], field
        assert torch.equal(alone.tokens[0], together.tokens[number][-len(text) :])


@pytest.mark.parametrize("slots", [1, 3, 20])
def test_a_slot_is_filled_again_as_soon_as_its_text_ends(slots: int) -> None:
    """Texts of 1 to 12 masks, one a step at the least: with few slots as many passes as the busiest slot needs."""
    model, lengths = Hashed(), [12, 1, 1, 7, 2, 5, 1, 9]
    texts = [torch.full((length,), MASK) for length in lengths]
    config = SamplerConfig("threshold", steps=12, fill_bound=2.0)
    order, rows = [], 0
    for numbers, result in finished(model, texts, config, slots=slots):
        order += numbers
        assert result.forwards.tolist() == [lengths[number] for number in numbers]
    assert sorted(order) == list(range(8))
    if slots == 1:
        assert order == sorted(range(8), key=lambda number: -lengths[number]), "longest first"
    rows = sum(lengths)  # no row of any pass was spent on a text that had ended, or on an empty slot
    assert model.rows == rows


def test_short_texts_do_not_pay_for_a_long_one() -> None:
    """Columns of all passes: eight short texts and a long one cost what they cost apart, to the columns they differ."""
    widths: list[int] = []

    class Wide(Hashed):
        max_length = 4096

        def forward(self, tokens: Tensor, padding: Tensor | None = None, layout: Layout | None = None) -> Output:
            widths.append(tokens.numel())
            return super().forward(tokens, padding, layout)

    config = SamplerConfig("random", steps=4)
    short = [torch.cat([torch.zeros(40 + n, dtype=torch.long), torch.full((4,), MASK)]) for n in range(4)] * 2
    generate_many(Wide(), short, config)
    alone = sum(widths)
    widths.clear()
    generate_many(Wide(), [*short, torch.cat([torch.zeros(1000, dtype=torch.long), torch.full((4,), MASK)])], config)
    assert alone == 4 * 8 * 47 and sum(widths) == alone + 4 * 1004


@given(st.integers(0, 5000), st.integers(0, 5000))
def test_a_bucket_pads_by_a_quarter_at_most(one: int, other: int) -> None:
    assert bucket(one) >= one and (one <= other) <= (bucket(one) <= bucket(other))
    if bucket(one) == bucket(other) and min(one, other) >= 64:
        assert max(one, other) <= 1.25 * min(one, other)


def test_a_method_with_a_loop_of_its_own_goes_batch_by_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    def filling(state: State) -> Any:
        use = Parts(state)
        while bool(state.active.any()):
            use.fill((yield Forward(state)), state.masked)
            state.advance()

    monkeypatch.setitem(methods._known, "revise_and_fill", filling)
    model, texts = Hashed(), [torch.full((length,), MASK) for length in (4, 2, 6, 3, 1)]
    config = SamplerConfig("random", steps=6)
    result = generate_many(model, texts, config, slots=2)
    assert not (result.tokens == MASK).any() and result.forwards.tolist() == [6] * 5
    for number, text in enumerate(texts):
        alone = generate(model, text[None], config, request=torch.tensor([number]))
        assert torch.equal(alone.tokens[0], result.tokens[number][-len(text) :])


def test_hosts_without_padding_get_texts_of_one_length() -> None:
    model = Hashed()
    model.gives = frozenset({"second_forward"})
    texts = [torch.full((length,), MASK) for length in (3, 5, 3, 4, 5)]
    result = generate_many(model, texts, SamplerConfig("prism", steps=5, num_remask=1), slots=2, pad_id=1)
    assert result.tokens.shape == (5, 5) and (result.tokens != MASK).all()
    assert (result.tokens[0, :2] == 1).all() and result.forwards.eq(5).all()


def test_what_cannot_be_written_is_refused_before_anything_runs() -> None:
    model = Hashed()
    texts = [torch.full((length,), MASK) for length in (2, 2, 9)]
    with pytest.raises(ConfigError, match="fewer than the 9 blocks"):
        list(finished(model, texts, SamplerConfig("random", steps=4, block_length=1), slots=1))
    with pytest.raises(ConfigError, match="slots = 0"):
        list(finished(model, texts, SamplerConfig("random", steps=4), slots=0))
    assert model.rows == 0


@given(
    active=st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=12, max_size=12),
    texts=st.integers(0, 9), slots=st.integers(1, 4),
)  # fmt: skip
def test_slots_hand_out_every_text_once(active: list[list[bool]], texts: int, slots: int) -> None:
    line = _budget.Slots(texts, slots)
    holder, taken, begun = list(range(min(texts, slots))), [], min(texts, slots)
    for flags in [*active, *[[False] * 4] * 12]:
        running = [slot for slot in range(len(holder)) if flags[slot]]
        ended, done, places, new = line.turn(running)
        assert done == [holder[slot] for slot in ended] and set(ended).isdisjoint(running)
        assert new == list(range(begun, begun + len(new))) and places == ended[: len(new)]
        begun, taken = begun + len(new), taken + done
        for slot, text in zip(places, new, strict=True):
            holder[slot] = text
        holder = [text for slot, text in enumerate(holder) if slot in running or slot in places]
    assert sorted(taken) == list(range(texts)) and not holder


WAITS = {"nonzero", "_local_scalar_dense", "is_nonzero", "masked_select", "_unique2", "unique_dim"}
ASKS: dict[str, tuple[int, str]] = {
    "two_pass": (1, "whether anybody was doubted: without that the second pass would be the first again"),
    "argmax_fill": (3, "after each of its 4 rounds but the last whether the text moved"),
    "cavity_evidence": (1, "how many groups have tokens to hide: each is a pass"),
    "dfm": (1, "budgets that occur: the grid of a budget is solved for on the host"),
}
"""What a method, a score or an alpha wants to know of the device, beside the one read a step: how often in a step at
most, and why. ``fill_and_judge``, ``joint_probe`` and ``argmax_fill`` ask whether anybody is due in the one read."""


class Waits(TorchDispatchMode):
    """Counts the operations that on a device make the host wait for it, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = op.overloadpacket.__name__
        masks = args[1] if name.startswith(("index", "_index_put")) and isinstance(args[1], (list, tuple)) else ()
        found = name == "list_rows" and args[-1] is None  # counts what it lists
        if name in WAITS or found or any(mask is not None and mask.dtype == torch.bool for mask in masks):
            self.seen[name] += 1
        return op(*args, **(kwargs or {}))


@pytest.mark.parametrize("block_length", [0, 6])
@pytest.mark.parametrize("name", [*presets, "prism+reset", "prism+overwrite"])
def test_a_step_waits_for_the_device_once_at_most(
    name: str, block_length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a device, with lists of fixed length: the same texts, one read a step, no other operation that waits.

    Every preset, and acts that no preset names; what is in ``ASKS`` may look as often as it says there, and no more.
    """
    name, _, act = name.partition("+")
    model, tokens = model_for(name), torch.full((3, 12), MASK)
    tokens[1, 3:8] = 2
    config = SamplerConfig(**fitting({"steps": 12, "block_length": block_length, "num_remask": 1}, name))
    config = replace(config, act=act) if act else config
    plain = generate(model, tokens, config)
    reads, steps = [], []
    advance = State.advance
    monkeypatch.setattr(state_module, "_read", lambda table: reads.append(1) or table)
    monkeypatch.setattr(State, "advance", lambda *arguments, **named: steps.append(1) or advance(*arguments, **named))
    never = torch.tensor([MASK])
    state = State(
        tokens.clone(), tokens == MASK, MASK, resolve(config), torch.arange(3), suppress=never,
        vocab_size=model.vocab_size, noise=model.noise,
    )  # fmt: skip
    state.static = True
    method, view, waits = state.parts.method(state), None, Waits()
    while True:
        try:
            with waits:
                asked = next(method) if view is None else method.send(view)
        except StopIteration:
            break
        assert len(reads) <= len(steps) + 1
        view = asked.by(model)
    parts = {state.config.method, state.config.score, state.config.alpha} & ASKS.keys()
    assert waits.seen.keys() <= {"_local_scalar_dense", *(["_unique2"] if "dfm" in parts else [])}
    assert len(reads) <= len(steps) + 1
    assert waits.seen.total() - len(reads) <= sum(ASKS[part][0] for part in parts) * len(steps), waits.seen
    for name, figure in (("tokens", state.tokens), ("fills", state.fills), ("forwards", state.forwards)):
        assert torch.equal(figure, getattr(plain, name)), name


def test_a_bias_a_penalty_and_min_p_reach_the_draw() -> None:
    """What is forbidden by its bias is never written, what is preferred always; what the text does not hold is written
    under a penalty on all else; min_p of 1 draws the likeliest."""
    model, tokens = Hashed(), torch.full((2, 12), MASK)
    settings: dict[str, Any] = {"steps": 12, "seed": 3}
    never = generate(model, tokens, SamplerConfig("mdlm", **settings, logit_bias={2: -100.0})).tokens
    always = generate(model, tokens, SamplerConfig("mdlm", **settings, logit_bias={"2": 100.0})).tokens
    assert not (never == 2).any() and (always == 2).all()
    tokens[:, :4] = torch.arange(4)  # one symbol of five is not there yet
    varied = generate(model, tokens, SamplerConfig("random", **settings, repetition_penalty=1e6)).tokens
    assert all(4 in row for row in varied)
    likeliest = generate(model, tokens, SamplerConfig("mdlm", **settings, min_p=1.0)).tokens
    assert torch.equal(likeliest, generate(model, tokens, SamplerConfig("mdlm", **settings, top_k=1)).tokens)
    for bad in ({99: 1.0}, {-1: 1.0}, {"two": 1.0}, [2], {2: math.nan}):
        with pytest.raises(ConfigError, match="logit_bias"):
            generate(model, tokens, SamplerConfig("mdlm", **settings, logit_bias=bad))
