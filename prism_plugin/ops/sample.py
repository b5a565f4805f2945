"""Draw one token for every row of logits that needs one, with the figures a sampler asks for."""

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from prism_plugin.errors import ConfigError
from prism_plugin.ops._load import compiled, refuse_gradient
from prism_plugin.ops.philox import FILL, signed_seed, uniform_ref

ConfidenceOf = Literal["sampled", "untempered"]
TopPRule = Literal["exclusive", "inclusive"]


class Sampled(NamedTuple):
    """What ``sample_rows`` found, one entry a row: token (N,) int64, the rest (N,) f32 or None where not asked for."""

    token: Tensor
    prob: Tensor
    margin: Tensor | None = None
    entropy: Tensor | None = None
    given_prob: Tensor | None = None


def sample_rows(
    logits: Tensor,
    rows: Tensor,
    request: Tensor,
    position: Tensor,
    step: Tensor,
    *,
    seed: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    min_p: float = 0.0,
    suppress: Tensor | None = None,
    logit_bias: tuple[Tensor, Tensor] | None = None,
    seen: tuple[Tensor, Tensor] | None = None,
    repetition_penalty: float = 1.0,
    confidence_of: ConfidenceOf = "sampled",
    top_p_rule: TopPRule = "exclusive",
    given: Tensor | None = None,
    margin: bool = False,
    entropy: bool = False,
    stream: int = FILL,
) -> Sampled:
    """Draw from softmax(logits / temperature) of every listed row, exactly, by inverting its CDF.

    logits (M, V) f32, bf16, f16 or f64, rows of any stride; rows (N,) int64 indices into them, -1 for padding;
    request, position, step (N,) int64 key the one 53-bit uniform number a row uses, with ``seed`` and ``stream``.

    temperature 0 takes the argmax, the lowest id on ties. ``suppress`` (S,) int64 lists ids that are never drawn and
    hold no probability. ``top_k`` > 0 keeps the k largest logits; ``top_p`` < 1 the largest whose cumulative
    probability stays <= top_p ('exclusive': the top one always; MDLM, ReMDM, PRISM's DiT release) or that and the
    next one ('inclusive', the one that crosses; Dream); ``min_p`` > 0 those at least min_p times as likely as the top
    one (2407.01082). Each looks at the whole tempered distribution, ties rank by lower id, and what all keep stays.

    What is changed in the logits first counts for every figure, in their precision (f32 for 16 bits): ``logit_bias`` is
    ids (S,) int64, each once, and what is added to them, (S,) f32 (OpenAI's logit_bias); then ``repetition_penalty``
    r divides a positive logit by r and multiplies another by r (CTRL, 1909.05858) where the id is in ``seen``: ids
    (B, K) int64, any that is outside the vocabulary for none, and for every row which b it looks at, (N,) int64.

    ``confidence_of`` names the distribution of every figure: 'untempered' is softmax(logits) without the suppressed;
    'sampled' the tempered, truncated and renormalised one that was drawn from (at temperature 0: the truncated one of
    temperature 1, as Dream has it). prob is the drawn token's, margin the top-1 minus the top-2 probability,
    entropy is in nats, given_prob the probability of ``given`` (N,) int64 (0 for an id outside [0, V)).

    A NaN logit counts as -inf, +inf as the largest finite number. A padding row, or one with nothing to draw
    from (V = 0, all -inf, all suppressed), gives token -1 and zeros. Not differentiable: raises ``PrismError`` where
    autograd would record it; ``ConfigError`` for a setting out of range.
    """
    refuse_gradient("sample_rows", logits)
    _check("sample_rows", {"logits": logits}, rows, request, position, step, given)
    op = torch.ops.prism.sample_rows if compiled(logits.device.type) else sample_rows_ref
    settings = _settings(
        seed, temperature, top_p, top_k, min_p, suppress, logit_bias, seen, repetition_penalty, confidence_of,
        top_p_rule, given, margin, entropy, stream,
    )  # fmt: skip
    return _asked(op(logits, rows, request, position, step, *settings), margin, entropy, given)


def lm_head_sample(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    rows: Tensor,
    request: Tensor,
    position: Tensor,
    step: Tensor,
    *,
    seed: int,
    scale: float = 1.0,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    min_p: float = 0.0,
    suppress: Tensor | None = None,
    logit_bias: tuple[Tensor, Tensor] | None = None,
    seen: tuple[Tensor, Tensor] | None = None,
    repetition_penalty: float = 1.0,
    confidence_of: ConfidenceOf = "sampled",
    top_p_rule: TopPRule = "exclusive",
    given: Tensor | None = None,
    margin: bool = False,
    entropy: bool = False,
    stream: int = FILL,
) -> Sampled:
    """``sample_rows`` of (hidden @ weight.T + bias) * scale, without ever holding the logits of all rows.

    hidden (M, D), of which ``rows`` (N,) lists the needed ones, weight (V, D) and bias (V,) of one dtype; all else as
    for ``sample_rows``. At most 48 MiB of logits exist at a time on a CPU, 512 rows of them elsewhere. The tokens are
    those of ``sample_rows`` up to the rounding of logits, which a matrix product may do differently at another number
    of rows.
    """
    for tensor in (hidden, weight) if bias is None else (hidden, weight, bias):
        refuse_gradient("lm_head_sample", tensor)
    _check("lm_head_sample", {"hidden": hidden, "weight": weight}, rows, request, position, step, given)
    op = torch.ops.prism.lm_head_sample if compiled(hidden.device.type) else lm_head_sample_ref
    settings = _settings(
        seed, temperature, top_p, top_k, min_p, suppress, logit_bias, seen, repetition_penalty, confidence_of,
        top_p_rule, given, margin, entropy, stream,
    )  # fmt: skip
    return _asked(op(hidden, weight, bias, scale, rows, request, position, step, *settings), margin, entropy, given)


def lm_head_sample_ref(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, scale: float, rows: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """``lm_head_sample`` in two steps: all logits, then ``sample_rows_ref``."""
    return sample_rows_ref(torch.nn.functional.linear(hidden, weight, bias) * scale, rows, *rest)


def sample_rows_ref(
    logits: Tensor, rows: Tensor, request: Tensor, position: Tensor, step: Tensor, seed: int, temperature: float,
    top_p: float, top_k: int, min_p: float, suppress: Tensor | None, bias_ids: Tensor | None, bias: Tensor | None,
    seen: Tensor | None, seen_of: Tensor | None, penalty: float, untempered: bool, inclusive: bool,
    given: Tensor | None, margin: bool, entropy: bool, stream: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """``sample_rows`` in float64, a block of rows at a time; (0,) tensors for what is not asked for."""
    count, vocabulary = rows.numel(), logits.shape[-1]
    token = rows.new_full((count,), -1)
    prob, margins, entropies, given_prob = (logits.new_zeros(count, dtype=torch.float32) for _ in range(4))
    u = uniform_ref(seed, request, position, step, stream)
    for block in torch.arange(count, device=rows.device).split(max(1, 2**22 // max(1, vocabulary))):
        if logits.numel() == 0:
            break
        x = logits.index_select(0, rows[block].clamp(min=0))
        x = x if x.dtype == torch.float64 else x.float()
        if bias_ids is not None and bias is not None:
            x = x.index_add(1, bias_ids, bias.to(x.dtype).expand(len(x), -1))
        if seen is not None and seen_of is not None:
            ids = seen[seen_of[block].clamp(0, len(seen) - 1)]
            ids = torch.where((ids >= 0) & (ids < vocabulary), ids, vocabulary)
            repeated = torch.zeros(len(x), vocabulary + 1, dtype=torch.bool, device=x.device).scatter(1, ids, True)
            r = x.new_tensor(penalty)
            x = torch.where(repeated[:, :-1], torch.where(x > 0, x / r, x * r), x)
        x = x.double().nan_to_num(nan=-torch.inf, neginf=-torch.inf)
        if suppress is not None:
            x[:, suppress] = -torch.inf
        top = x.amax(-1, keepdim=True)
        alive = ((rows[block] >= 0)[:, None] & (top > -torch.inf)).double()
        x = torch.where(alive.bool(), x - top, 0.0)

        hot = (x / (temperature or 1.0)).exp()
        kept = _kept(hot / hot.sum(-1, keepdim=True), x, top_p, top_k, inclusive)
        if min_p > 0:
            kept = kept * (x >= (temperature or 1.0) * math.log(min_p))
        hot = hot * kept
        chosen = _invert(hot, u[block][:, None]) if temperature > 0 else x.argmax(-1, keepdim=True)
        token[block] = torch.where(alive.bool(), chosen, -1)[:, 0]

        shown = x.exp() if untempered else hot
        shown = alive * shown / shown.sum(-1, keepdim=True)
        prob[block] = shown.gather(-1, chosen)[:, 0].float()
        if margin:
            best = torch.nn.functional.pad(shown, (0, 1)).topk(2).values
            margins[block] = (best[:, 0] - best[:, 1]).float()
        if entropy:
            entropies[block] = torch.special.entr(shown).sum(-1).float()
        if given is not None:
            inside = (given[block] >= 0) & (given[block] < vocabulary)
            found = shown.gather(-1, given[block].clamp(0, vocabulary - 1)[:, None])[:, 0]
            given_prob[block] = torch.where(inside, found, 0.0).float()
    return (
        token,
        prob,
        margins if margin else prob.new_empty(0),
        entropies if entropy else prob.new_empty(0),
        given_prob if given is not None else prob.new_empty(0),
    )


def _kept(p: Tensor, x: Tensor, top_p: float, top_k: int, inclusive: bool) -> Tensor:
    """What top_p and top_k leave of p (N, V): 1 or 0. Ranks are those of x, ties to the lower id."""
    if top_p >= 1 and top_k <= 0:
        return torch.ones_like(p)
    order = x.argsort(dim=-1, descending=True, stable=True)
    rank = torch.arange(p.shape[-1], device=p.device).expand_as(order)
    kept = rank < top_k if top_k > 0 else torch.ones_like(p, dtype=torch.bool)
    if top_p < 1:
        within = (p.gather(-1, order).cumsum(-1) <= top_p).sum(-1, keepdim=True)
        kept = kept & (rank < (within + 1 if inclusive else within.clamp(min=1)))
    return torch.zeros_like(p).scatter(-1, order, kept.double())


def _invert(weights: Tensor, u: Tensor) -> Tensor:
    """The first id whose cumulative weight exceeds u times the total: (N, 1)."""
    cumulative = weights.cumsum(-1)
    return torch.searchsorted(cumulative, u * cumulative[:, -1:], right=True).clamp(max=weights.shape[-1] - 1)


def _settings(
    seed: int, temperature: float, top_p: float, top_k: int, min_p: float, suppress: Tensor | None,
    logit_bias: tuple[Tensor, Tensor] | None, seen: tuple[Tensor, Tensor] | None, repetition_penalty: float,
    confidence_of: ConfidenceOf, top_p_rule: TopPRule, given: Tensor | None, margin: bool, entropy: bool, stream: int,
) -> tuple[Any, ...]:  # fmt: skip
    """The settings as the ops take them. Raises ``ConfigError``."""
    if not 0 <= temperature < math.inf:
        raise ConfigError(f"temperature = {temperature} is not allowed: 0 <= temperature < inf (0 takes the argmax).")
    if not 0 < top_p <= 1:
        raise ConfigError(f"top_p = {top_p} is not allowed: 0 < top_p <= 1 (1 keeps all).")
    if top_k < 0:
        raise ConfigError(f"top_k = {top_k} is not allowed: top_k >= 0 (0 keeps all).")
    if not 0 <= min_p <= 1:
        raise ConfigError(f"min_p = {min_p} is not allowed: 0 <= min_p <= 1 (0 keeps all).")
    if not 0 < repetition_penalty < math.inf:
        raise ConfigError(
            f"repetition_penalty = {repetition_penalty} is not allowed: 0 < repetition_penalty < inf (1 is none)."
        )
    if confidence_of not in ("sampled", "untempered"):
        raise ConfigError(f"confidence_of = {confidence_of!r} is not known: allowed are sampled, untempered.")
    if top_p_rule not in ("exclusive", "inclusive"):
        raise ConfigError(f"top_p_rule = {top_p_rule!r} is not known: allowed are exclusive, inclusive.")
    untempered, inclusive = confidence_of == "untempered", top_p_rule == "inclusive"
    return (
        signed_seed(seed), temperature, top_p, top_k, min_p, suppress, *(logit_bias or (None, None)),
        *((seen if repetition_penalty != 1 else None) or (None, None)), repetition_penalty, untempered, inclusive,
        given, margin, entropy, stream,
    )  # fmt: skip


def _asked(figures: tuple[Tensor, ...], margin: bool, entropy: bool, given: Tensor | None) -> Sampled:
    token, prob, margins, entropies, given_prob = figures
    return Sampled(
        token,
        prob,
        margins if margin else None,
        entropies if entropy else None,
        given_prob if given is not None else None,
    )


def _check(
    op: str, matrices: dict[str, Tensor], rows: Tensor, request: Tensor, position: Tensor, step: Tensor,
    given: Tensor | None,
) -> None:  # fmt: skip
    for name, matrix in matrices.items():
        if matrix.dim() != 2 or not matrix.is_floating_point():
            shape = tuple(matrix.shape)
            raise ValueError(f"{op}: {name} must be floating point with two dimensions, not {matrix.dtype} {shape}.")
    named = (("rows", rows), ("request", request), ("position", position), ("step", step), ("given", given))
    for name, ids in named:
        if ids is not None and (ids.dim() != 1 or ids.shape != rows.shape or ids.dtype != torch.int64):
            raise ValueError(
                f"{op}: {name} must be int64 ({rows.numel()},) like rows, not {ids.dtype} {tuple(ids.shape)}."
            )
