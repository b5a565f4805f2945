"""One suite for every adapter, ours and third parties': what an adapter promises, checked on a model of its host.

from prism_plugin.testing import CHECKS, Case

@pytest.mark.parametrize("check", CHECKS)
def test_my_host(check: str) -> None:
    print(Case(MyDenoiser, model).run(check))      # AssertionError says what broke; else what was found

report = prism_plugin.testing.conformance(MyDenoiser, model)   # all of them at once
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .api import enable
from .errors import ConfigError
from .models.denoiser import Denoiser
from .models.hooked import base_model
from .models.lora import find_targets, network
from .quality.head import attach_head
from .quality.loss import QualityConfig
from .sampling import drive
from .training.objectives import QualityObjective, RedrawObjective

CHECKS: dict[str, Callable[[Case], str]] = {}
"""By name, in the order in which they run; each takes a ``Case`` and returns what was found, or raises."""

Make = Callable[..., Denoiser]


def checks(run: Callable[[Case], str]) -> Callable[[Case], str]:
    """Decorator that puts a check on the list."""
    CHECKS[run.__name__] = run
    return run


@dataclass
class Case:
    """An adapter and a small model of its host, in eval mode and in f32, on the device where it shall be checked.

    adapter(model) is a Denoiser. logits(model, tokens, padding): the host's own logits (B, L, V), each at the position
    that it is for; by default one plain call, shifted where the adapter says so. vocabulary: ids that texts are made of
    (default: all but the mask). length: of a text.
    """

    adapter: Make
    model: Any
    logits: Callable[[Any, Tensor, Tensor | None], Tensor] | None = None
    vocabulary: range | None = None
    length: int = 12
    denoiser: Denoiser = field(init=False)

    def __post_init__(self) -> None:
        self.denoiser = self.adapter(self.model)

    def run(self, check: str) -> str:
        """One check by its name."""
        with torch.no_grad():
            return CHECKS[check](self)

    def texts(self, rows: int = 2, masks: int = 4, seed: int = 1) -> Tensor:
        """Texts (B, L) that end in masks."""
        ids = self.vocabulary or range(self.denoiser.vocab_size)
        known = torch.tensor([i for i in ids if i != self.denoiser.mask_id])
        drawn = torch.randint(len(known), (rows, self.length), generator=torch.Generator().manual_seed(seed))
        text = known[drawn]
        text[:, self.length - masks :] = self.denoiser.mask_id
        return text.to(_device(self.denoiser))

    def own(self, model: Any, tokens: Tensor, padding: Tensor | None = None) -> Tensor:
        """The host's own logits (B, L, V)."""
        if self.logits is not None:
            return self.logits(model, tokens, padding)
        denoiser: Any = self.adapter(model)
        if not hasattr(denoiser, "call"):
            raise TypeError(f"{type(denoiser).__name__}: give Case(logits=…), the host's own way to its logits.")
        made = denoiser.call(denoiser.readable(tokens), padding)
        logits = denoiser.widened(getattr(made, "logits", made))
        return torch.cat([logits[:, :1], logits[:, :-1]], dim=1) if getattr(self.denoiser, "shift", 0) else logits


def conformance(adapter: Make, model: Any, **about: Any) -> dict[str, str]:
    """Run every check on ``Case(adapter, model, **about)``: what was found, by name.

    Raises AssertionError that names each check that broke, one line each.
    """
    case, found, broken = Case(adapter, model, **about), {}, []
    for name in CHECKS:
        try:
            found[name] = case.run(name)
        except Exception as error:  # whatever breaks is part of the report
            broken.append(f"{name}: {type(error).__name__}: {str(error).strip().splitlines()[0]}")
    assert not broken, f"{type(case.denoiser).__name__} breaks {len(broken)} of {len(CHECKS)}: " + "\n".join(broken)
    return found


@checks
def states(case: Case) -> str:
    """Hidden states have the promised shape, the host's precision, and no logits are made on the way to them."""
    denoiser, tokens = case.denoiser, case.texts()
    made: list[int] = []
    layer: Any = getattr(denoiser, "output_layer", nn.Identity)()
    layer = nn.Identity() if isinstance(layer, nn.Embedding) else layer  # tied, and called at the other end
    handle = layer.register_forward_hook(lambda m, x, y: made.append(y.shape[:-1].numel()))
    output = denoiser(tokens)
    handle.remove()
    assert output.hidden.shape == (*tokens.shape, denoiser.hidden_size), f"hidden is {tuple(output.hidden.shape)}"
    assert output.hidden.dtype == _floating(denoiser), f"hidden is {output.hidden.dtype}"
    assert output.hidden.isfinite().all(), "hidden states are not finite"
    assert (output.time is None) == (denoiser.cond_size == 0), "cond_size and the time vector do not agree"
    if output.time is not None:
        assert output.time.shape == (len(tokens), denoiser.cond_size), f"time is {tuple(output.time.shape)}"
    assert output.logits is not None or not any(made), f"{sum(made)} rows of logits were computed"
    return f"(B, L, {denoiser.hidden_size}) {denoiser.hidden_at}"


@checks
def rows(case: Case) -> str:
    """Logits of the rows asked for are the host's own, -1 stays none, and one text does not see the other."""
    denoiser, tokens = case.denoiser, case.texts()
    index = torch.tensor([0, case.length - 1, -1, 2 * case.length - 2, case.length], device=tokens.device)
    logits, which = denoiser.project(denoiser(tokens), index)
    assert which.tolist()[2] == -1 and (which >= 0).sum() == 4, f"rows are {which.tolist()}"
    kept = which >= 0
    own = case.own(case.model, tokens).flatten(0, 1)[index[kept]]
    _equal(_without_mask(denoiser, logits[which[kept]]), _without_mask(denoiser, own), "logits of the rows")
    return f"{denoiser.vocab_size} symbols"


@checks
def mask_id(case: Case) -> str:
    """The mask is a row of the vocabulary; one that is none is refused in one line."""
    denoiser = case.denoiser
    assert 0 <= denoiser.mask_id < denoiser.vocab_size, f"mask_id = {denoiser.mask_id}"
    for wrong in (-1, denoiser.vocab_size):
        try:
            case.adapter(case.model, mask_id=wrong)
        except ConfigError as error:
            if "vocabulary" not in str(error) or str(wrong) not in str(error):
                raise
        except TypeError:
            return f"{denoiser.mask_id}, by the host alone"
        else:
            raise AssertionError(f"mask_id = {wrong} is taken")
    return str(denoiser.mask_id)


@checks
def padding(case: Case) -> str:
    """A text comes out as it does alone, behind padding and before it, whatever stands in the padding."""
    denoiser, tokens = case.denoiser, case.texts()
    if "padding" not in denoiser.gives:
        try:
            drive.generate(
                denoiser, tokens, enable(denoiser, sampler=_plain(denoiser), steps=2).config(), padding=tokens > -1
            )
        except ConfigError:
            return "none: texts of one length at a time"
        raise AssertionError("padding is taken although gives does not say so")
    short = tokens[:1, 5:]
    alone = denoiser(short)
    index = torch.arange(short.shape[1], device=tokens.device)
    expected = _without_mask(denoiser, denoiser.project(alone, index)[0])
    for side, real in (("left", slice(5, None)), ("right", slice(0, -5))):
        batch = torch.cat([tokens, tokens])
        batch[0] = denoiser.mask_id  # two paddings, then two texts without
        batch[:2, real] = short[0]
        seen = torch.ones_like(batch, dtype=torch.bool)
        seen[:2] = False
        seen[:2, real] = True
        output = denoiser(batch, seen)
        first = real.start or 0
        for row in (0, 1):
            _equal(output.hidden[row, real], alone.hidden[0], f"states behind padding on the {side}", loose=True)
            found = _without_mask(denoiser, denoiser.project(output, row * case.length + first + index)[0])
            skip = 1 if getattr(denoiser, "shift", 0) else 0  # the first logits come from the state before the text
            _equal(found[skip:], expected[skip:], f"logits behind padding on the {side}", loose=True)
    plain = denoiser(tokens, torch.ones_like(tokens, dtype=torch.bool))
    _equal(plain.hidden, denoiser(tokens).hidden, "states where nothing is padding", loose=True)
    return "left, right, none"


@checks
def context(case: Case) -> str:
    """Whom a position sees: everybody, or with ``block_length`` nobody in a later block."""
    denoiser, tokens = case.denoiser, case.texts()
    size = getattr(denoiser, "block_length", 0)
    other = tokens.clone()
    other[:, -1] = tokens[:, 0]
    one, two = denoiser(tokens).hidden, denoiser(other).hidden
    if not size:
        assert not torch.equal(one[:, 0], two[:, 0]), "the first position does not see the last one"
        return "all of the text"
    border = (case.length - 1) // size * size
    assert 0 < border < case.length - 1, f"length = {case.length} must hold more than one block of {size}"
    _equal(one[:, :border], two[:, :border], "states before the last block, which must not be seen")
    assert not torch.equal(one[:, border], two[:, border]), "a position does not see the end of its own block"
    other = tokens.clone()
    other[:, 0] = tokens[:, 1]
    assert not torch.equal(one[:, -1], denoiser(other).hidden[:, -1]), "the last block does not see the first"
    return f"its block of {size} and those before"


@checks
def cache(case: Case) -> str:
    """Keys and values kept of a block-causal host change no token, and save work."""
    made = case.adapter(case.model)
    size = getattr(made, "block_length", 0)
    if "cache" not in made.gives or not size:
        return "none that is exact"
    tokens, seen = case.texts(masks=case.length - size), None
    if "padding" in made.gives:
        seen = torch.ones_like(tokens, dtype=torch.bool)
        seen[0, :2] = False
    torch.manual_seed(0)
    attach_head(made, "mlp").to(_device(made))
    settings: dict[str, Any] = {"steps": case.length, "block_length": size, "num_remask": 1, "padding": seen}
    plain = enable(made, sampler="prism").generate(tokens, **settings)
    kept = enable(made, sampler="prism", cache="prefix").generate(tokens, **settings)
    assert torch.equal(kept.tokens, plain.tokens), "other tokens than without a cache"
    assert torch.equal(kept.forwards, plain.forwards) and bool((kept.cost < plain.cost).all()), "nothing is saved"
    return f"{float(kept.cost.sum() / plain.cost.sum()):.0%} of the positions are computed"


def _in(case: Case, kind: torch.dtype) -> str:
    model = _to(copy.deepcopy(case.model), kind)
    try:
        case.own(model, case.texts())
    except RuntimeError as error:
        if kind == torch.float32:
            raise
        return f"{kind}: the host itself cannot ({str(error).splitlines()[0]})"
    made = case.adapter(model)
    torch.manual_seed(0)
    attach_head(made).to(_device(made))
    quality = made.judge(made(case.texts()))
    assert quality.dtype == torch.float32 and quality.isfinite().all(), f"{kind}: the head gives {quality.dtype}"
    prism = enable(made, **_sampler(made), steps=4)
    result = prism.generate(case.texts())
    assert not (result.tokens == made.mask_id).any(), f"{kind}: masks are left"
    assert torch.equal(result.tokens[:, : case.length - 4], case.texts()[:, : case.length - 4]), "a prompt was changed"
    assert next(made.head.parameters()).dtype == torch.float32
    return str(kind).removeprefix("torch.")


@checks
def dtypes(case: Case) -> str:
    """In f32, bf16 and f16, with a head that stays in f32: scores are finite, texts are written."""
    return ", ".join(_in(case, kind) for kind in (torch.float32, torch.bfloat16, torch.float16))


@checks
def device(case: Case) -> str:
    """States, logits and scores lie where the model does."""
    denoiser, tokens = case.denoiser, case.texts()
    output = denoiser(tokens)
    logits, _ = denoiser.project(output, torch.tensor([0], device=tokens.device))
    assert {output.hidden.device.type, logits.device.type} == {tokens.device.type}
    return str(tokens.device)


@checks
def lora(case: Case) -> str:
    """Under peft the tuned weights are the ones used."""
    try:
        import peft
    except ImportError:
        return "peft is not installed"
    if not hasattr(base_model(case.model), "config") or network(case.denoiser) is not base_model(case.model):
        return "not of peft: the host's model is not what is given"
    model, tokens = copy.deepcopy(case.model), case.texts()
    try:
        targets = find_targets(model)
    except ConfigError as error:
        return f"none: {error}"
    config = peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False)
    tuned = peft.get_peft_model(model, config)
    denoiser = case.adapter(tuned)
    index = torch.arange(case.length, device=tokens.device)
    found, which = denoiser.project(denoiser(tokens), index)
    own = case.own(tuned, tokens)[0]
    _equal(_without_mask(denoiser, found[which]), _without_mask(denoiser, own), "logits under LoRA")
    before = case.own(case.model, tokens)[0]
    assert not torch.allclose(_without_mask(denoiser, own), _without_mask(denoiser, before)), "LoRA changes nothing"
    return "the tuned weights"


@checks
def untouched(case: Case) -> str:
    """The host is byte for byte what it was, before and after, with the plugin on it and taken off again."""
    tokens = case.texts()
    host = network(case.denoiser)
    weights = {name: value.clone() for name, value in host.state_dict().items()}
    hooks = _hooks(host)
    before = case.own(case.model, tokens)
    prism = enable(case.adapter(case.model), _head(case), **_sampler(case.denoiser), steps=3)
    prism.generate(tokens)
    assert torch.equal(case.own(case.model, tokens), before), "the host's own forward gives other logits"
    prism.disable()
    assert _hooks(host) == hooks, "a hook is left"
    assert torch.equal(case.own(case.model, tokens), before), "other logits after disable()"
    after = host.state_dict()
    assert weights.keys() == after.keys() and all(torch.equal(weights[name], after[name]) for name in weights)
    return "byte for byte"


@checks
def threads(case: Case) -> str:
    """Two threads on one model get what each gets alone."""
    texts = [case.texts(seed=seed) for seed in range(8)]
    alone = [case.denoiser(text).hidden for text in texts]

    def run(text: Tensor) -> Tensor:
        with torch.no_grad():
            return case.denoiser(text).hidden

    with ThreadPoolExecutor(2) as pool:
        for one, other in zip(alone, pool.map(run, texts), strict=True):
            _equal(other, one, "states made beside another thread")
    return "two at once"


@checks
def fused(case: Case) -> str:
    """The output layer as one matrix gives the host's logits, or the adapter says why it is none."""
    denoiser, tokens = case.denoiser, case.texts()
    embedding = denoiser.output_embedding()
    if embedding is None:
        reason = getattr(denoiser, "unfused", "")
        assert reason, "output_embedding() is None and ``unfused`` does not say why"
        return f"none: {reason}"
    index = torch.tensor([0, case.length - 1, case.length], device=tokens.device)
    output = denoiser(tokens)
    hidden = embedding.rows(output, index)
    found = F.linear(hidden, embedding.weight, embedding.bias) * embedding.scale
    own = denoiser.project(output, index)[0]
    _equal(_without_mask(denoiser, found), _without_mask(denoiser, own), "hidden @ weight.T")
    return "one matrix"


@checks
def training(case: Case) -> str:
    """A head learns on it: its gradients are there, the frozen host has none and stays in eval mode."""
    denoiser = case.adapter(copy.deepcopy(case.model))
    denoiser.requires_grad_(False)
    attach_head(denoiser).to(_device(denoiser))
    kind = RedrawObjective if denoiser.noise.uniform else QualityObjective
    objective = kind(denoiser, 0, QualityConfig(k=2)).train()
    with torch.enable_grad():
        loss = objective(case.texts(masks=0), torch.arange(2, device=_device(denoiser)))["loss"]
        loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in denoiser.head.parameters())
    assert all(p.grad is None for p in network(denoiser).parameters()), "the host has gradients"
    assert not network(denoiser).training, "the host is in training mode"
    return f"loss {float(loss):.2f}"


def _plain(denoiser: Denoiser) -> str:
    return "uniform" if denoiser.noise.uniform else "confidence"


def _sampler(denoiser: Denoiser) -> dict[str, Any]:
    """One that revises by the head."""
    if denoiser.noise.uniform:
        return {"sampler": "uniform", "score": "quality"}
    return {"sampler": "prism", "num_remask": 1}


def _head(case: Case) -> nn.Module:
    """A fresh head that fits."""
    torch.manual_seed(0)
    spare = case.adapter(case.model)
    return attach_head(spare).to(_device(spare)).eval()


def _to(model: Any, kind: torch.dtype) -> Any:
    return model.to(kind) if isinstance(model, nn.Module) else model


def _device(denoiser: Denoiser) -> torch.device:
    return next(network(denoiser).parameters()).device


def _floating(denoiser: Denoiser) -> torch.dtype:
    return next(p.dtype for p in network(denoiser).parameters() if p.is_floating_point())


def _hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def _without_mask(denoiser: Denoiser, logits: Tensor) -> Tensor:
    return logits.float().index_fill(-1, torch.tensor([denoiser.mask_id], device=logits.device), 0.0)


def _equal(found: Tensor, expected: Tensor, what: str, loose: bool = False) -> None:
    """Equal but for the rounding of other shapes; loose: of another length."""
    gap = float((found.float() - expected.float()).abs().max())
    allowed = (1e-4 if loose else 2e-5) * max(1.0, float(expected.float().abs().max()))
    assert gap <= allowed, f"{what} differ by {gap:.2g}, allowed {allowed:.2g}"
