"""The one interface the core knows of a model: tokens in, hidden states out, logits for the rows asked for.

A host's adapter is a ``Denoiser``; so is our own backbone, and so is a table of exact posteriors in a test.
"""

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from ..errors import ConfigError
from ..registry import Registry
from .noise import MASKS, Noise

log = logging.getLogger(__name__)

FUSED_FROM = 32 * 2**20  # bytes of f32 logits, what ``ops.lm_head_sample`` holds at a time: below it saves nothing


class Output(NamedTuple):
    """One forward pass: hidden (B, L, D); time (B, C) or None; logits (B, L, V) where the host made them anyway.

    share: positions that the pass went over, as a share of the text's (a cache saves some, a shadow block adds some),
    (B,) where rows differ.
    unguided (B, L, D): the states of a pass that saw no prompt, where logits are to be guided by it.
    """

    hidden: Tensor
    time: Tensor | None = None
    logits: Tensor | None = None
    share: float | Tensor = 1.0
    unguided: Tensor | None = None


class Layout(NamedTuple):
    """A row laid out by the method: it may hold more than the text (WINO's shadow block).

    positions (B, N) int64, where each token stands in the text; attend (B, N, N) bool, True where row i looks at
    column j, which takes the place of padding.
    """

    positions: Tensor
    attend: Tensor


class Embedding(NamedTuple):
    """A host's output layer as one matrix: logits = (rows(output, index) @ weight.T + bias) * scale.

    rows: an Output and flat indices (N,) int64 to what enters the layer, (N, D), after any norm. weight (V, D), bias
    (V,) or None, of the dtype of these. never (S,) int64: ids that the host puts at -inf.
    """

    rows: Callable[[Output, Tensor], Tensor]
    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    never: Tensor | None = None


class Denoiser(nn.Module):
    """Base of every adapter. Subclasses set the attributes, define ``forward``, and ``project`` or ``Output.logits``.

    hidden_at: ``pre_norm`` or ``post_norm``, where the hidden states are taken; a head says which it reads.
    cond_size: size of the time vector, 0 where there is none. head: the quality head, None until there is one.
    noise: what the model was trained to undo, by default masks.
    gives: what else the host can do, of ``padding`` (ragged batches), ``second_forward`` (within a step), ``probe`` (of
    other tokens than the text's), ``layout`` (positions and a 2-D attention mask of the method's own: forward takes a
    ``Layout`` as its third argument), ``level`` (how noisy the text is: forward takes ``level`` (B,) float64, the alpha
    of ``Noise``, None for a finished text) and ``cache``.
    cache: what is kept between passes, None where everything is computed. end_ids: tokens that the model's config
    says end a text.
    """

    vocab_size: int
    mask_id: int
    hidden_size: int
    max_length: int
    cond_size: int = 0
    hidden_at: str = "pre_norm"
    end_ids: tuple[int, ...] = ()
    gives: frozenset[str] = frozenset({"padding", "second_forward", "probe"})
    noise: Noise = MASKS

    def __init__(self) -> None:
        super().__init__()
        self.head: Any = None  # a module; see ``quality.head``
        self.cache: Any = None
        self.trained: dict[str, object] = {}  # how the head was made
        self.tokenizer: Any = None  # where the host brings one
        self.undo: list[Callable[[], Any]] = []  # takes away what was put on the host
        self._embedding: list[Embedding | None] = []  # empty where nobody has looked yet
        self._told = False

    def forward(self, tokens: Tensor, padding: Tensor | None = None) -> Output:
        """tokens (B, L) int64; padding (B, L) bool, True where a token is real."""
        raise TypeError(f"{type(self).__name__} defines no forward(tokens, padding) -> Output.")

    def told(self, level: Tensor) -> dict[str, Tensor]:
        """What ``forward`` takes besides of a text whose noise is of the level alpha (B,): nothing, for most hosts."""
        return {"level": level} if "level" in self.gives else {}

    def project(self, output: Output, index: Tensor) -> tuple[Tensor, Tensor]:
        """Logits for chosen rows: (M, V) values and (N,) int64 which of them belongs to each entry of ``index``.

        index (N,) int64 holds b * L + i, -1 is padding. A host that made all logits hands them out uncopied.
        """
        if output.logits is None:
            raise TypeError(f"{type(self).__name__} makes no logits in forward and defines no project().")
        return output.logits.flatten(0, 1), index

    def embedded(self, tokens: Tensor) -> Tensor:
        """What enters the first layer, (B, L, D), of tokens (B, L) int64; ConfigError where the host does not tell."""
        raise ConfigError(f"{type(self).__name__} does not tell its embeddings: choose head=dit, or head=mlp.")

    def output_embedding(self) -> Embedding | None:
        """The output layer as a matrix, where it is one and nothing else makes the logits; None by default."""
        return None

    def new_cache(self, config: Any) -> Any:
        """Something to remember passes in, a ``models.cache.Cache``, of a host that gives ``cache``."""
        raise ConfigError(f"cache = {config.name} needs a model that keeps keys: {type(self).__name__} keeps none.")

    def recheck(self) -> None:
        """Weights may have changed: the output layer is looked at again when it is next needed."""
        self._embedding.clear()

    def fused(self, output: Output, index: Tensor) -> Embedding | None:
        """The output layer, where it shall be multiplied and drawn from in one op, so that no logits are kept.

        That is where the logits of all rows in ``index`` (N,) would take more than ``FUSED_FROM`` bytes, and where the
        matrix gives the host's own logits: a few rows are compared once a generation. Where it does not (a LoRA on the
        layer, quantised weights, a cap), one warning says so, and the host's own layer is used.
        """
        if output.logits is not None or index.numel() * self.vocab_size * 4 <= FUSED_FROM:
            return None
        if not self._embedding:
            found = self.output_embedding()
            differs = "" if found is None else self._differs(found, output, index[:8].clamp(min=0))
            if differs and not self._told:
                log.warning(
                    "%s: %s, so its own output layer runs, and the logits of all rows asked for are held at once.",
                    type(self).__name__, differs,
                )  # fmt: skip
            self._told |= bool(differs)
            self._embedding.append(None if differs else found)
        return self._embedding[0]

    def _differs(self, embedding: Embedding, output: Output, index: Tensor) -> str:
        """In what the matrix differs from ``project``, in words; empty where it does not."""
        weight, hidden = embedding.weight, embedding.rows(output, index)
        if weight.dtype != hidden.dtype or weight.shape != (self.vocab_size, hidden.shape[1]):
            return f"the output weight is {weight.dtype} {tuple(weight.shape)} for {hidden.dtype} {tuple(hidden.shape)}"
        logits, rows = self.project(output, index)
        theirs, ours = logits[rows].float(), (F.linear(hidden, weight, embedding.bias) * embedding.scale).float()
        if embedding.never is not None:
            theirs, ours = (table.index_fill(1, embedding.never, 0.0) for table in (theirs, ours))
        largest, gap = float(theirs.abs().max()), float((theirs - ours).abs().max())
        allowed = (1e-4 if weight.dtype in (torch.float32, torch.float64) else 2e-2) * max(1.0, largest)
        return "" if gap <= allowed else f"hidden @ weight.T differs from the logits by up to {gap:.2g}"

    def judge(self, output: Output, padding: Tensor | None = None, tokens: Tensor | None = None) -> Tensor:
        """Logits of the quality of every token, (B, L) f32, of a pass over ``tokens`` (B, L) int64.

        Raises ConfigError without a head, or where the head reads the tokens and none came.
        """
        if self.head is None:
            raise ConfigError("a quality score needs a trained head and this model has none.")
        if getattr(self.head, "reads_text", False):
            if tokens is None:
                raise ConfigError("this head reads the tokens that the pass went over: none came.")
            return self.head.judge(self, output, tokens, padding)
        seen = (padding,) if getattr(self.head, "attends", False) else ()
        kind = next((p.dtype for p in self.head.parameters()), output.hidden.dtype)  # f32, whatever the host's is
        time = None if output.time is None else output.time.to(kind)
        return self.head(output.hidden.to(kind), time, *seen).float()


def checked_mask_id(mask_id: int, vocab_size: int, where: str = "") -> int:
    """The mask id, where it is a row of the vocabulary; ConfigError otherwise."""
    if not 0 <= mask_id < vocab_size:
        raise ConfigError(f"mask_id = {mask_id}{where} is outside the vocabulary: allowed 0 to {vocab_size - 1}.")
    return mask_id


hosts: Registry[type[Any]] = Registry("host")
"""Adapters by name: ``adapter.matches(model)`` says whether a model is its own, ``adapter(model)`` is a Denoiser."""


class View:
    """What one forward pass shows a method. Nothing is computed before a part asks for it.

    ``logit_rows`` counts the rows of logits that were asked for, so that a test can show what a method costs.
    """

    def __init__(
        self, denoiser: Denoiser, output: Output, padding: Tensor | None = None, tokens: Tensor | None = None
    ) -> None:
        self.denoiser, self.output, self.padding, self.tokens = denoiser, output, padding, tokens
        self.logit_rows = 0
        self.judged: Tensor | None = None  # ``quality``, where it was asked for

    @property
    def quality(self) -> Tensor:
        """Learned quality g of the visible tokens, (B, L) f32 in [0, 1]; raises ConfigError without a head."""
        if self.judged is None:
            self.judged = self.denoiser.judge(self.output, self.padding, self.tokens).sigmoid()
        return self.judged

    def where(self, rows: Tensor, other: "View") -> "View":
        """This view in the rows (B,) bool, the other one in the rest."""
        chosen: dict[str, Any] = {
            name: torch.where(rows.view(-1, *[1] * (mine.dim() - 1)), mine, getattr(other.output, name))
            for name, mine in self.output._asdict().items()
            if isinstance(mine, Tensor)
        }
        both = self.tokens is not None and other.tokens is not None
        tokens = torch.where(rows[:, None], self.tokens, other.tokens) if both else None  # type: ignore[arg-type]
        return View(self.denoiser, self.output._replace(**chosen), self.padding, tokens)

    def columns(self, start: int, stop: int | None = None) -> "View":
        """A part of what a laid out row shows, as a view of its own."""
        output = self.output._replace(hidden=self.output.hidden[:, start:stop])
        if output.logits is not None:
            output = output._replace(logits=output.logits[:, start:stop])
        padding = None if self.padding is None else self.padding[:, start:stop]
        tokens = None if self.tokens is None else self.tokens[:, start:stop]
        return View(self.denoiser, output, padding, tokens)

    def sample(self, index: Tensor, request: Tensor, position: Tensor, step: Tensor, **draw: Any) -> "ops.Sampled":
        """Draw a token for each row of ``index`` ((N,) int64, b * L + i); see ``ops.sample_rows``."""
        self.logit_rows += index.numel()
        embedding = self.denoiser.fused(self.output, index)
        if embedding is not None:
            rows, which = ops.live_rows(index)
            never = [ids for ids in (draw.pop("suppress", None), embedding.never) if ids is not None]
            return ops.lm_head_sample(
                embedding.rows(self.output, rows), embedding.weight, embedding.bias, which, request, position, step,
                scale=embedding.scale, suppress=torch.cat(never) if never else None, **draw,
            )  # fmt: skip
        logits, rows = self.denoiser.project(self.output, index)
        return ops.sample_rows(logits, rows, request, position, step, **draw)

    def probability(self, tokens: Tensor, where: Tensor) -> Tensor:
        """Posterior probability of the tokens (B, L) where ``where`` (B, L) is true, 1 elsewhere, (B, L) f32."""
        index = where.flatten().nonzero().squeeze(1)
        unused = torch.zeros_like(index)
        given = tokens.flatten()[index]
        seen = self.sample(
            index, unused, unused, unused, seed=0, temperature=0.0, confidence_of="untempered", given=given
        )
        assert seen.given_prob is not None
        found = torch.ones(tokens.numel(), device=tokens.device)
        return found.index_copy(0, index, seen.given_prob).view_as(tokens)


def share_masked(tokens: Tensor, mask_id: int, padding: Tensor | None) -> Tensor:
    """Realised share of masks per row, (B,) f32: the time that a time-conditioned backbone is given."""
    masked = (tokens == mask_id).float()
    return masked.mean(1) if padding is None else (masked * padding).sum(1) / padding.sum(1).clamp(min=1)
