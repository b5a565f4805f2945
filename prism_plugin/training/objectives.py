"""What a step of training computes: modules that map numbered texts to a loss, for the HF Trainer to drive."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import ops
from ..errors import ConfigError, DataError
from ..models.denoiser import Denoiser, Output, View
from ..models.noise import pick
from ..quality import cavity
from ..quality import loss as losses
from ..sampling.config import SamplerConfig
from ..sampling.drive import generate
from ..sampling.state import State

REDRAW = 28  # Philox streams, beside those of ``losses``


def _logits(denoiser: Denoiser, output: Output, where: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (N, V) of the positions that are true in ``where`` (B, L), and their flat indices (N,)."""
    index = where.flatten().nonzero().squeeze(1)
    values, rows = denoiser.project(output, index)
    return values[rows], index


def _share(count: int, device: torch.device) -> float:
    """Of ``count`` tokens in this process, the weight that makes a mean over processes the mean over all tokens."""
    if not torch.distributed.is_initialized():
        return 1.0
    everywhere = torch.tensor(float(count), device=device)
    torch.distributed.all_reduce(everywhere)
    return count * torch.distributed.get_world_size() / max(float(everywhere), 1.0)


NOTHING = "every position of this batch is protected: there is nothing to mask and nothing to judge."


class MDMObjective(nn.Module):
    """The loss of a masked diffusion model (MDLM), or of one whose noise is symbols as well (``Noise``).

    There every token is to be told, the visible too: the cross-entropy at all positions, whose minimiser is
    P(x_i | y) over the noise levels, unweighted.
    With a ``corrector`` the masks are filled by the model's own likeliest tokens, and it is told the truth of that text
    too (see ``CorrectorConfig``): a second pass, and the gradient goes through that pass alone.
    """

    def __init__(self, denoiser: Denoiser, seed: int, corrector: losses.CorrectorConfig | None = None) -> None:
        super().__init__()
        self.denoiser, self.seed, self.corrector = denoiser, seed, corrector or losses.CorrectorConfig()
        if self.corrector.weight and denoiser.noise.uniform:
            raise ConfigError("corrector.weight: a model of uniform noise is told of visible tokens anyway.")

    def forward(
        self, tokens: Tensor, number: Tensor, maskable: Tensor | None = None, padding: Tensor | None = None
    ) -> dict[str, Tensor]:
        """tokens (B, L) int64 clean texts, number (B,) int64 -> the terms of the loss, ``loss`` their sum.

        maskable (B, L) bool keeps prompts and padding out. padding (B, L) bool, True where a token is real. Raises
        DataError where ``maskable`` leaves nothing to learn from.
        """
        if maskable is not None and not maskable.any():
            raise DataError(NOTHING)
        free = torch.ones_like(tokens, dtype=torch.bool) if maskable is None else maskable
        if self.denoiser.noise.uniform:
            noised = losses.noised(tokens, number, self.seed, self.denoiser, maskable)
            logits, index = _logits(self.denoiser, self.denoiser(noised, padding), free)
            return {"loss": nn.functional.cross_entropy(logits, tokens.flatten()[index])}
        t = losses.noise_level(self.seed, number)
        masked = free & (losses.ranks(self.seed, number, tokens.shape[1], losses.CONTEXT) < t[:, None])
        truth, over = tokens.flatten(), tokens.numel() if padding is None else int(padding.sum())
        output = self.denoiser(tokens.masked_fill(masked, self.denoiser.mask_id), padding)
        logits, index = _logits(self.denoiser, output, masked)
        told = losses.mdm_loss(logits, truth[index], t[index // tokens.shape[1]], over)
        config = self.corrector
        if not config.weight:
            return {"loss": told}
        likeliest = logits.detach().index_fill(1, torch.tensor(self.denoiser.mask_id, device=logits.device), -torch.inf)
        draft = truth.index_copy(0, index, likeliest.argmax(1)).view_as(tokens)
        judged = masked if config.over == "filled" else free
        logits, index = _logits(self.denoiser, self.denoiser(draft, padding), judged)
        weight = t[index // tokens.shape[1]] if config.reweight else torch.ones_like(logits[:, 0])
        corrected = losses.corrector_loss(logits, truth[index], draft.flatten()[index], weight, over, config.upweight)
        return {"loss": told + config.weight * corrected, "mdm": told.detach(), "corrector": corrected.detach()}


class QualityObjective(nn.Module):
    """The PRISM loss: BCE of the head on revealed tokens, plus lambda times the loss of the model itself.

    maskable (B, L) bool in ``forward`` keeps prompts and padding out; they are neither masked nor judged.
    The term of the model itself is there where some parameter of it is to be trained (``requires_grad``); a backbone of
    which none is stays in eval mode, so that its dropout is off.
    """

    def __init__(self, denoiser: Denoiser, seed: int, config: losses.QualityConfig) -> None:
        super().__init__()
        if denoiser.head is None:
            raise ConfigError("the model has no head to train: attach_head puts one on it.")
        self.denoiser, self.seed, self.settings = denoiser, seed, config
        self.tuned = any(p.requires_grad for name, p in denoiser.named_parameters() if not name.startswith("head."))

    def train(self, mode: bool = True) -> "QualityObjective":
        """As ``nn.Module.train``, but for a backbone that is not tuned."""
        super().train(mode)
        if not self.tuned:
            self.denoiser.eval()
            self.denoiser.head.train(mode)
        return self

    def forward(
        self, tokens: Tensor, number: Tensor, maskable: Tensor | None = None, padding: Tensor | None = None
    ) -> dict[str, Tensor]:
        """As ``MDMObjective.forward``, with the terms ``quality`` and ``mdm``; in eval mode also the revealed tokens'
        ``scores`` (N,) and whether each is right, ``labels`` (N,). padding (B, L) bool, True where a token is real.

        Raises DataError where ``maskable`` leaves nothing to learn from.
        """
        if maskable is not None and not maskable.any():
            raise DataError(NOTHING)
        denoiser, config = self.denoiser, self.settings
        sample = losses.draw_sample(tokens, number, denoiser.mask_id, self.seed, config, maskable)
        rows, length = tokens.shape
        x = tokens.repeat(config.fills_per_text, 1)
        wanted = sample.masked if self.tuned else sample.chosen.view(-1, rows, length).any(0)
        with torch.set_grad_enabled(self.tuned and torch.is_grad_enabled()):
            output = denoiser(sample.context, padding)
            logits, index = _logits(denoiser, output, wanted)
        padding = None if padding is None else padding.repeat(config.fills_per_text, 1)
        y = self.fill(sample, logits.detach(), index, tokens, number)
        scores = denoiser.judge(denoiser(y, padding), padding, y)
        quality = self.judge(scores, y, x, sample, padding)
        terms = {"loss": quality, "quality": quality.detach()}
        if self.tuned:
            real = tokens.numel() if padding is None else int(padding.sum())
            over = rows * config.window if config.mdm_over == "window" else real
            mdm = losses.mdm_loss(logits, tokens.flatten()[index], sample.t[index // length], over)
            if padding is not None and config.mdm_over == "positions":
                mdm = mdm * _share(real, mdm.device)
            terms |= {"loss": quality + config.mdm_weight * mdm, "mdm": mdm.detach()}
        if not self.training:
            terms |= {"scores": scores[sample.chosen], "labels": (y == x)[sample.chosen]}
        return terms

    def fill(self, sample: losses.Sample, logits: Tensor, index: Tensor, x: Tensor, number: Tensor) -> Tensor:
        """Draw the fills, settle ``sample.chosen``, and return the texts that the head sees, (n B, L) int64.

        logits (N, V) of the flat positions ``index`` (N,) of the contexts; x (B, L), number (B,) the texts.
        """
        config, length, size = self.settings, x.shape[1], x.numel()
        row_of = torch.full((size,), -1, device=x.device).index_copy(
            0, index, torch.arange(len(index), device=x.device)
        )
        place = sample.chosen.flatten().nonzero().squeeze(1)
        text = place % size // length
        drawn = ops.sample_rows(
            logits, row_of[place % size], number[text], place % length, place // size,
            seed=self.seed, temperature=config.temperature, top_p=config.top_p, confidence_of="untempered",
        )  # fmt: skip
        if config.objective == "prism" and config.positions != "random":
            confidence = torch.zeros(sample.chosen.numel(), device=x.device).index_copy(0, place, drawn.prob)
            count = torch.full_like(sample.chosen[:, 0], config.k, dtype=torch.long)
            sample.chosen = ops.select_highest(confidence.view_as(sample.chosen), sample.chosen, count)
        kept = sample.chosen.flatten()[place]
        return losses.reveal(sample, x, place[kept], drawn.token[kept], self.denoiser.mask_id)

    def judge(
        self, scores: Tensor, y: Tensor, x: Tensor, sample: losses.Sample, padding: Tensor | None = None
    ) -> Tensor:
        """The quality term: BCE of scores (n B, L) with the labels, the weights and the normaliser of the settings."""
        config = self.settings
        weight, right = None, y == x
        if config.labels == "posterior":
            right = cavity.posterior(self.denoiser, y, sample.chosen, 1, padding)
        t = sample.t.repeat(config.fills_per_text)
        if config.objective == "critic":
            weight = 1 / t
        elif config.reweight:
            weight = 1 / (1 - t).clamp(min=losses.TIME_EPS)
        if config.quality_over == "revealed":
            share = _share(int(sample.chosen.sum()), scores.device)
            return losses.quality_loss(scores, right, sample.chosen, weight) * share
        over = len(scores) * config.k if config.quality_over == "slots" else scores.numel()
        return losses.quality_loss(scores, right, sample.chosen, weight, over)


class RemediObjective(QualityObjective):
    """RemeDi's supervised stage (arXiv 2509.23653; rates, labels and smoothing as in the SFT code of its authors).

    One pass over a text with masks, and among its visible tokens wrong ones at the rate 4 ``WRONG`` t (1 - t), which
    are tokens of the same text from elsewhere. The head judges every position: a visible token is right or wrong, a
    mask has the probability that the model gives the true token there. Labels are smoothed by ``SMOOTH``.
    """

    def __init__(self, denoiser: Denoiser, seed: int, config: losses.QualityConfig) -> None:
        super().__init__(denoiser, seed, config)
        if getattr(denoiser.head, "reads_text", False):
            raise ConfigError(
                "quality.objective = remedi judges masks too, which this head cannot: choose head.name=dit."
            )

    def forward(
        self, tokens: Tensor, number: Tensor, maskable: Tensor | None = None, padding: Tensor | None = None
    ) -> dict[str, Tensor]:
        """See ``QualityObjective.forward``; ``scores`` and ``labels`` are of the visible tokens."""
        if maskable is not None and not maskable.any():
            raise DataError(NOTHING)
        denoiser, length, smooth = self.denoiser, tokens.shape[1], losses.SMOOTH
        free = torch.ones_like(tokens, dtype=torch.bool) if maskable is None else maskable
        t = losses.noise_level(self.seed, number)
        masked = free & (losses.ranks(self.seed, number, length, losses.CONTEXT) < t[:, None])
        u, v = (losses.ranks(self.seed, number, length, stream) for stream in (REDRAW, REDRAW + 1))
        real = length if padding is None else padding.sum(dim=1, keepdim=True)
        other = tokens.gather(1, (v * real).long())
        wrong = free & ~masked & (u < (4 * losses.WRONG * t * (1 - t))[:, None]) & (other != tokens)
        y = torch.where(wrong, other, tokens).masked_fill(masked, denoiser.mask_id)
        with torch.set_grad_enabled(self.tuned and torch.is_grad_enabled()):
            output = denoiser(y, padding)
            logits, index = _logits(denoiser, output, masked)
        truth = tokens.flatten()[index]
        known = logits.detach().float().softmax(dim=1).gather(1, truth[:, None])[:, 0]
        target = (~wrong).float().flatten().index_copy(0, index, known).view_as(free) * (1 - 2 * smooth) + smooth
        scores = denoiser.judge(output, padding, y)
        quality = nn.functional.binary_cross_entropy_with_logits(scores[free], target[free])
        quality = quality * _share(int(free.sum()), scores.device)
        terms = {"loss": quality, "quality": quality.detach()}
        if self.tuned:
            over = tokens.numel() if padding is None else int(padding.sum())
            mdm = losses.mdm_loss(logits, truth, t[index // length], over) * _share(over, scores.device)
            terms |= {"loss": quality + self.settings.mdm_weight * mdm, "mdm": mdm.detach()}
        if not self.training:
            visible = free & ~masked
            terms |= {"scores": scores[visible], "labels": ~wrong[visible]}
        return terms


class RedrawObjective(QualityObjective):
    """The quality of a model whose noise is symbols: it judges the tokens of a text that the sampler has redrawn.

    A true text is noised to t as in training and taken back to a level s < t by the sampler's own step, so that what is
    wrong in it is noise, or of the model's making; every token of it but masks is judged, true or not. Of the settings
    ``temperature`` and ``top_p`` are read, and ``mdm_weight``, for the loss of the model.
    """

    def forward(
        self, tokens: Tensor, number: Tensor, maskable: Tensor | None = None, padding: Tensor | None = None
    ) -> dict[str, Tensor]:
        """See ``QualityObjective.forward``."""
        denoiser, config, noise = self.denoiser, self.settings, self.denoiser.noise
        length = tokens.shape[1]
        t = losses.noise_level(self.seed, number).double()
        s = t * losses.ranks(self.seed, number, 1, losses.TIME)[:, 0]
        noised = losses.noised(tokens, number, self.seed, denoiser, maskable)
        free = torch.ones_like(tokens, dtype=torch.bool) if maskable is None else maskable
        with torch.set_grad_enabled(self.tuned and torch.is_grad_enabled()):
            logits, index = _logits(denoiser, denoiser(noised, padding, **denoiser.told(1 - t)), free)
        row, now, mask = index // length, noised.flatten()[index], denoiser.mask_id
        drawn = ops.sample_rows(
            logits.detach(), torch.arange(len(index), device=index.device), number[row], index % length,
            torch.zeros_like(index), seed=self.seed, temperature=config.temperature, top_p=config.top_p, given=now,
            suppress=index.new_tensor([mask]),
        )  # fmt: skip
        u = [losses.ranks(self.seed, number, length, stream).flatten()[index] for stream in (REDRAW, REDRAW + 1)]
        symbols, masked, alpha = denoiser.vocab_size - 1, now == mask, (1 - t)[row]
        itself = noise.itself(drawn.given_prob if noise.tilted else None, masked, symbols, alpha)
        x0 = torch.where(u[0] < itself, now, drawn.token)
        weights = noise.before(masked, now == x0, symbols, alpha, (1 - s)[row])
        fresh = losses.any_symbol(tokens, number, self.seed, denoiser, REDRAW + 2).flatten()[index]
        y = tokens.flatten().index_copy(0, index, pick(weights, u[1], x0, now, fresh, mask)).view_as(tokens)
        scores = denoiser.judge(denoiser(y, padding, **denoiser.told(1 - s)), padding, y)
        judged = free & (y != mask)
        quality = losses.quality_loss(scores, y == tokens, judged) * _share(int(judged.sum()), scores.device)
        terms = {"loss": quality, "quality": quality.detach()}
        if self.tuned:
            mdm = nn.functional.cross_entropy(logits, tokens.flatten()[index])
            terms |= {"loss": quality + config.mdm_weight * mdm, "mdm": mdm.detach()}
        if not self.training:
            terms |= {"scores": scores[judged], "labels": (y == tokens)[judged]}
        return terms


PRESETS = ("random", "prism-evidence", "prism", "random-remask", "confidence")
FILLS = (16, 8, 4)
PER_RUN = 8
"""States are taken from runs of each of these presets, of a step for so many tokens each, so many from a run."""
KEPT = 32
"""Batches of states that are held for steps to come."""


def run_steps(positions: float, fills: int) -> int:
    """Steps of a run that writes so many positions, one for so many each: in a single one nothing would be revised."""
    return max(2, round(positions / fills))


@dataclass
class States:
    """Texts on their way: tokens (S, L) int64, judged (S, L) bool, those that the sampler wrote; of these, in order,
    (N,) f32 log probabilities, ``target`` and when they were ``written``; the model's pass over the texts.
    """

    tokens: Tensor
    padding: Tensor | None
    judged: Tensor
    target: Tensor
    written: Tensor
    output: Output


class CavityObjective(nn.Module):
    """A head on a frozen model learns what that model says of each visible token where it is hidden.

    The states are the sampler's own, written as training goes on, by the head as it stands: every eighth of the texts
    is the start of a run, the longer the texts the more its steps. Of every second one a share stands as the prompt, as
    in training, of the others nothing but what ``maskable`` protects. The targets are ``cavity.posterior`` with
    ``groups`` groups. Every ``reuse``-th step makes a batch of states, the others draw one of those before; a run that
    is resumed makes its own.
    """

    def __init__(self, denoiser: Denoiser, seed: int, config: losses.QualityConfig) -> None:
        super().__init__()
        if denoiser.head is None:
            raise ConfigError("the model has no head to train: attach_head puts one on it.")
        self.denoiser, self.seed, self.settings = denoiser, seed, config
        self.kept: list[States] = []
        self.steps = 0

    def train(self, mode: bool = True) -> "CavityObjective":
        """As ``nn.Module.train``, but for the model, whose dropout stays off."""
        super().train(mode)
        self.denoiser.eval()
        self.denoiser.head.train(mode)
        return self

    def forward(
        self, tokens: Tensor, number: Tensor, maskable: Tensor | None = None, padding: Tensor | None = None
    ) -> dict[str, Tensor]:
        """As ``QualityObjective.forward``; in eval mode also the judged tokens' ``scores`` (N,), and in place of labels
        their log probabilities (N,), ``target`` and when they were ``written``.
        """
        if not self.training:
            states = self.states(tokens, number, maskable, padding)
        elif self.steps % self.settings.reuse == 0:
            states = self.states(tokens, number, maskable, padding)
            self.kept = [*self.kept[1 - KEPT :], states]
        else:
            states = self.kept[int(losses.ranks(self.seed, number[:1], 1, losses.TIME) * len(self.kept))]
        self.steps += self.training
        scores = self.denoiser.judge(states.output, states.padding, states.tokens)[states.judged]
        loss = losses.cavity_loss(scores, states.target)
        terms = {"loss": loss * _share(len(states.target), loss.device)}
        if not self.training:
            terms |= {"scores": scores, "target": states.target, "written": states.written}
        return terms

    @torch.no_grad()
    def states(self, tokens: Tensor, number: Tensor, maskable: Tensor | None, padding: Tensor | None) -> States:
        """What the sampler makes of the first eighth of the texts, eight times on the way."""
        denoiser, runs = self.denoiser, -(-len(tokens) // PER_RUN)
        tokens, number = tokens[:runs], number[:runs]
        maskable, padding = (None if table is None else table[:runs] for table in (maskable, padding))
        free = losses.ranks(self.seed, number, tokens.shape[1], losses.CONTEXT)
        free = (free < losses.noise_level(self.seed, number)[:, None]) | (number % 2 == 0)[:, None]
        free = free if maskable is None else free & maskable
        turn = int(number[0]) // runs if not self.training else self.steps // self.settings.reuse
        preset, fills = PRESETS[turn % len(PRESETS)], FILLS[turn // len(PRESETS) % len(FILLS)]
        some = {"num_remask": FILLS[0] // fills} if preset in ("prism", "random-remask") else {}
        length = tokens.shape[1] if maskable is None else int(maskable.sum()) / runs
        sampler = SamplerConfig(preset, steps=run_steps(length, fills), seed=self.seed, **some)
        seen: list[tuple[Tensor, Tensor, Tensor]] = []

        def keep(state: State, view: View | None) -> None:
            seen.append((state.tokens.clone(), state.editable & (state.tokens != state.mask_id), state.written.clone()))

        mode = denoiser.head.training
        denoiser.head.eval()
        start = tokens.masked_fill(free, denoiser.mask_id)
        generate(denoiser, start, sampler, request=number, padding=padding, callback=keep)
        denoiser.head.train(mode)
        begun = seen[1:] or seen  # all of a short text may stand as its prompt
        chosen = [begun[place * len(begun) // PER_RUN] for place in range(PER_RUN)]
        y, judged, written = (torch.cat(tables) for tables in zip(*chosen, strict=True))
        padding = None if padding is None else padding.repeat(PER_RUN, 1)
        target = cavity.posterior(denoiser, y, judged, self.settings.groups, padding)
        target, written = (table[judged].clamp(min=1e-30).log() for table in (target, written))
        return States(y, padding, judged, target, written, denoiser(y, padding))
