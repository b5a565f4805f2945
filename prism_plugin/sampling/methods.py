"""Methods: generators that run no model. Each yields the forward pass that it needs and is sent what came of it."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from .. import ops
from ..errors import ConfigError
from ..models.denoiser import Layout, View
from ..models.noise import MASKS, Noise
from ..options import option
from ..quality import cavity
from . import acts, fills, guards, parts, scores, selects  # noqa: F401  (they register their parts)
from .config import SamplerConfig, resolve
from .parts import Forward, ends, methods
from .schedules import filling_steps, in_window, planned
from .state import State

Passes = Generator[Forward, View, None]


class Parts:
    """The parts that a configuration names, put together: only ``revise`` and ``fill`` change the state."""

    def __init__(self, state: State) -> None:
        self.state = state
        self._due_now: tuple[Any, ...] = (None, None, None, None)  # ``due``, made once a step, after what it is of

    def revise(self, view: View | None, refilled: bool = False) -> None:
        """Doubt and act. refilled: a mask that is put back here will be filled in this step, even the last."""
        state, config, parts = self.state, self.state.config, self.state.parts
        state.view, due = view, self.due(refilled)
        if parts.score.watches is not None:
            state.remember(parts.score.watches(view, state))
        if self.idle(refilled):
            keys, counts = torch.zeros_like(state.written), torch.zeros_like(state.step)
        else:
            doubt = parts.score.function(view, state)
            if config.pattern != "single":
                doubt = parts.pattern(doubt.masked_fill(~state.open, torch.inf), state)
            keys, counts = parts.select(doubt, state)
            counts = counts * due
        for guard in parts.guards:
            counts = guard(counts, state)
        if config.refill == "cancel":
            net = (planned(state) - state.visible.sum(dim=1)).clamp(min=0)
            counts = torch.minimum(counts, (state.masked.sum(dim=1) - net).clamp(min=0))
        parts.act(view, state, keys, counts)

    def leave_out(self, refilled: bool = False) -> Passes:
        """The passes of a score that judges a token by its absence: a group of the open tokens is hidden from each."""
        state = self.state
        asked = state.open & self.due(refilled)[:, None]
        state.cavity = torch.ones_like(state.written)
        for hidden in cavity.groups(asked, state.parts.score.options.cavity_groups):
            state.hidden = hidden
            view = yield Forward(state, state.tokens.masked_fill(hidden, state.mask_id), hidden.any(dim=1))
            state.cavity = torch.where(hidden, scores.support(view, state), state.cavity)

    def due(self, refilled: bool = False) -> Tensor:
        """(B,) bool: rows that may revise in this step."""
        state, (block, step, asked, found) = self.state, self._due_now
        if block is not state.block or step is not state.block_step or asked is not refilled:
            found = state.active & self._in_turn(state.block_step, state.of_block(state.budget), refilled)
            self._due_now = state.block, state.block_step, refilled, found
        return found

    def idle(self, refilled: bool = False) -> bool:
        """Whether no row may: then nothing is scored. The host tells by its ledger, and does not ask the device.

        A compiled step holds no such choice, and scores always.
        """
        if torch.compiler.is_compiling():
            return False
        if not self.state.static:
            return not self.due(refilled).numpy().any()
        step, steps = (torch.from_numpy(table) for table in self.state.ledger.turns())
        return not self._in_turn(step, steps, refilled).numpy().any()

    def _in_turn(self, step: Tensor, steps: Tensor, refilled: bool) -> Tensor:
        """Whether a block revises in its ``step`` of ``steps``: (N,) int64 each, on any device -> (N,) bool."""
        config, every = self.state.config, self.state.config.every
        period = (every * steps).round().long().clamp(min=1) if isinstance(every, float) else every
        turn = in_window(step, steps, config.step_on, config.step_off) & ((step + 1) % period == 0)
        return turn if refilled or config.act != "remask" else turn & (step + 1 < steps)

    def judged(self, refilled: bool = False) -> Tensor | bool:
        """For ``Forward.judged``: the rows that may revise, where a head is asked."""
        return self.due(refilled) if "head" in self.state.parts.score.needs else False

    def fill(self, view: View, allowed: Tensor) -> None:
        """Fill as many of the allowed masks (B, L) as the fill says, in its order."""
        self.state.view = view
        self.state.parts.order(view, self.state, allowed, self.state.parts.fill(self.state, allowed))

    def prospects(self) -> tuple[Tensor, ...]:
        """(B,) int64 each: rows that may revise in this step, and their masks."""
        return self.due().long(), self.state.masked.sum(dim=1)

    def wanted(self) -> tuple[Tensor, ...]:
        """(B,) int64 each: ``counts``, how many masks to fill without a revision, and ``held``, of how many.

        ``allowed`` (B, L) bool is which.
        """
        self.allowed = self.state.masked
        self.held = self.allowed.sum(dim=1)
        self.counts = torch.minimum(self.state.parts.fill(self.state, self.allowed), self.held)
        return self.counts, self.held

    def done(self) -> Tensor | Literal[False]:
        """(B,) bool, or False: rows that ``end`` lets go on to the next block before its steps are used."""
        return self.state.parts.end(self.state)


@ends("budget")
def budget(state: State) -> Literal[False]:
    """A block takes all its steps (methods that only fill go on when it is full)."""
    return False


@ends("filled")
def filled(state: State) -> Tensor:
    """A block ends when it has no mask."""
    return ~state.masked.any(dim=1)


@ends("stable")
def stable(state: State) -> Tensor:
    """A block ends when it has no mask and a pass over it led to nothing."""
    return filled(state) & ~(state.doubted | state.filled).any(dim=1)


@dataclass
class Confident:
    """Of end=confident."""

    unchanged: int = option(1, "passes for which no likeliest token of the block has changed", low=1)
    entropy_below: float = option(0.005, "mean entropy of the block's distributions, in nats", above=0)


@ends("confident")
def confident(state: State, options: Confident) -> Tensor:
    """A block ends when it has no mask, its likeliest tokens stay and their mean entropy is small (DiffusionGemma).

    StableAndConfidentStoppingCriteria of transformers, which knows no masks and takes entropies at the step's
    temperature; here they are untempered.
    """
    fills.guess(state)
    block = state.in_block
    calm = state.calm.masked_fill(~block, options.unchanged).amin(dim=1) >= options.unchanged
    mean = (state.guess_entropy * block).sum(dim=1) / block.sum(dim=1).clamp(min=1)
    return filled(state) & calm & (mean < options.entropy_below)


@methods("revise_and_fill")
def revise_and_fill(state: State) -> Passes:
    """MDLM, ReMDM, LLaDA, PRISM and kin: one forward a step, doubted tokens out, masked ones in."""
    config, use = state.config, Parts(state)
    if config.score == "none":
        yield from fill_only(state)
    while state.running():
        if config.refill == "fresh":
            use.revise(None, refilled=True)
        view = yield Forward(state, judged=use.judged(config.refill == "stale"))
        allowed = state.masked
        if config.refill != "fresh":
            if "cavity" in state.parts.score.needs:
                yield from use.leave_out(config.refill == "stale")
            use.revise(view, refilled=config.refill == "stale")
        if config.refill == "stale":
            allowed = state.masked
        use.fill(view, allowed)
        state.advance(use.done())


def fill_only(state: State) -> Passes:
    """The same without revision: where nothing is filled the posterior stays as it is, and no pass is spent on it."""
    use = Parts(state)
    while state.running(use.wanted):
        counts, (filling, state.room), before = use.counts, state.asked, state.fills
        if filling:
            view = yield Forward(state, rows=counts > 0)
            state.parts.order(view, state, use.allowed, counts)
        state.advance(done=state.fills - before == use.held)


@methods("fill_and_revise")
def fill_and_revise(state: State) -> Passes:
    """P2, RCR, Saber: one forward a step, masks filled first, then the worst of all that is visible out again."""
    use = Parts(state)
    while state.running():
        view = yield Forward(state, judged=use.judged())
        use.fill(view, state.masked)
        use.revise(view)
        state.advance(use.done())


@methods("two_pass")
def two_pass(state: State) -> Passes:
    """Two forwards a step: one to doubt by, one on the text without the doubted to fill by (NAVIRA, Gibbs)."""
    use = Parts(state)
    while state.running():
        view = yield Forward(state, judged=use.judged(refilled=True))
        use.revise(view, refilled=True)
        if bool(state.doubted.any()):
            view = yield Forward(state, rows=state.doubted.any(dim=1), judged=False)
        use.fill(view, state.masked)
        state.advance(use.done())


@methods("fill_and_judge")
def fill_and_judge(state: State) -> Passes:
    """Token-Critic, G-Star: one forward to fill every mask, one on what it wrote to judge it; the worst out again."""
    use = Parts(state)
    while state.running(use.prospects):
        (due, masks), room = state.asked, state.room
        view = yield Forward(state, judged=False)
        state.room = masks
        use.fill(view, state.masked)
        state.room = room
        state.doubted = torch.zeros_like(state.doubted)
        if due:
            view = yield Forward(state, rows=use.due())
            use.revise(view)
        state.advance(use.done())


@methods("keep_best")
def keep_best(state: State) -> Passes:
    """RemeDi: one forward, after which as many positions as planned are visible, masks and tokens ranked together.

    Of those with the highest scores the masks are filled; the tokens that are not among them are masked again.
    """
    use = Parts(state)
    while state.running():
        view = yield Forward(state)
        state.view = view
        score, masked, open_ = state.parts.score.function(view, state), state.masked, state.open
        open_ = open_ & use.due()[:, None]
        kept = ops.select_highest(score, masked | open_, planned(state) - (state.visible & ~open_).sum(dim=1))
        rows = state.rows(masked & kept)
        drawn = view.sample(*rows, **fills.draw_settings(state, rows[0]))
        wrong = open_ & ~kept
        state.remask(score, wrong, wrong.sum(dim=1))
        state.write_rows(rows[0], drawn.token, drawn.prob)
        state.advance(use.done())


@dataclass
class Hidden:
    """Of method=joint_probe."""

    remask_share: float = option(0.25, "share of the tokens that may be revised that a probe hides", low=0, high=1)


@methods("joint_probe")
def joint_probe(state: State, options: Hidden) -> Passes:
    """CoRe: where revision is due, the tokens of smallest margin are hidden, all at once, from a second forward.

    The score sees that pass.
    """
    use = Parts(state)
    while state.running(use.prospects):
        due, masks = state.asked
        state.doubted = torch.zeros_like(state.doubted)
        view = yield Forward(state)
        allowed = state.masked
        if due:
            counts = (state.open.sum(dim=1) * options.remask_share).ceil().long() * use.due()
            state.hidden = ops.select_lowest(scores.margin(view, state), state.open, counts)
            hidden = state.tokens.masked_fill(state.hidden, state.mask_id)
            probe = yield Forward(state, hidden, state.hidden.any(dim=1))
            use.revise(probe)
        state.room = masks
        use.fill(view, allowed)
        state.advance(use.done())


@dataclass
class FixedPoint:
    """Of method=argmax_fill."""

    rounds: int = option(4, "forward passes of the search for a fixed point, a step", low=0)


@methods("argmax_fill")
def argmax_fill(state: State, options: FixedPoint) -> Passes:
    """ProSeCo: where revision is due, every mask is filled by the likeliest token and the full text forwarded again.

    What comes of it is forwarded in turn, up to ``rounds`` times, until it changes nothing; visible tokens are judged
    and masks filled by the last of these passes.
    """
    use = Parts(state)
    while state.running(use.prospects):
        state.room = state.ledger.room(True)  # its lists go beyond the block
        state.doubted = torch.zeros_like(state.doubted)
        view = yield Forward(state)
        due = moving = use.due()
        revising = going = state.asked[0] > 0 and options.rounds > 0
        text = state.tokens
        if revising:
            text = _likeliest_text(view, state, text, state.editable & (text == state.mask_id))
        for number in range(options.rounds):
            if not going:
                break
            view = (yield Forward(state, text, moving)).where(due, view)
            better = _likeliest_text(view, state, text, state.editable & (state.block_of <= state.block[:, None]))
            moving = due & (better != text).any(dim=1)
            text = better
            going = number + 1 < options.rounds and bool(moving.any())
        if revising:
            use.revise(view)
        use.fill(view, state.masked)
        state.advance(use.done())


def _likeliest_text(view: View, state: State, text: Tensor, where: Tensor) -> Tensor:
    """A text (B, L) with the likeliest token at some positions (B, L)."""
    rows = state.rows(where & state.active[:, None])  # no list holds more than the texts that are being written
    found = state.spread(rows[0], fills.likeliest(view, state, rows).token, -1)
    return torch.where(found >= 0, found, text)


@methods("shadow")
def shadow(state: State) -> Passes:
    """WINO: one forward a step over the text and a shadow of its block; masks filled, then those doubted by it out."""
    use, length = Parts(state), state.tokens.shape[1]
    while state.running():
        view = yield with_shadow(state)
        use.fill(view.columns(0, length), state.masked)
        use.revise(view)
        state.advance(use.done())


@methods("shadow_first")
def shadow_first(state: State) -> Passes:
    """One forward a step over text and shadow, whose rows do not see each other: doubted by it out, masks filled."""
    use, length = Parts(state), state.tokens.shape[1]
    while state.running():
        state.filled = torch.zeros_like(state.filled)  # all that is visible has a shadow in this pass
        view = yield with_shadow(state, together=False)
        allowed = state.masked
        use.revise(view)
        use.fill(view.columns(0, length), allowed)
        state.advance(use.done())


def with_shadow(state: State, together: bool = True) -> Forward:
    """The text, and behind it a mask for every position of the block: it sees all but the token in its place.

    Shadows see each other where they are ``together`` (WINO); the text does not see them.
    """
    place, tokens = state.places, state.tokens
    there, count = place >= 0, tokens.shape[1]
    real = torch.ones_like(state.editable) if state.padding is None else state.padding
    main = torch.cat([real, torch.zeros_like(there)], dim=1)[:, None].expand(-1, count, -1)
    shadow = torch.cat([real, there], dim=1)[:, None].expand(-1, place.shape[1], -1)
    shadow = shadow.scatter(2, place.clamp(min=0)[..., None], ~there[..., None])
    if not together:
        shadow[:, :, count:] &= torch.eye(place.shape[1], dtype=torch.bool, device=place.device)
    positions = torch.cat([state.place, state.place.gather(1, place.clamp(min=0))], dim=1)
    return Forward(
        state, torch.cat([tokens, torch.full_like(place, state.mask_id)], dim=1), real=main[:, 0],
        layout=Layout(positions, torch.cat([main, shadow], dim=1)),
    )  # fmt: skip


@dataclass
class Loop:
    """Of method=revise_then_loop."""

    num_remask_loop: int = option(4, "tokens that a loop step masks", low=0)


@methods("revise_then_loop")
def revise_then_loop(state: State, options: Loop) -> Passes:
    """PRISM with loop refinement: ``revise_and_fill`` over the first ``fill_share`` of the steps, then loops.

    A loop masks ``num_remask_loop`` tokens at random before its forward and fills them by it.
    """
    config, use = state.config, Parts(state)
    while state.running():
        looping = state.block_step >= filling_steps(state.of_block(state.budget), config.fill_share)
        state.remask(scores.random(None, state), state.open, options.num_remask_loop * looping)
        looped = state.doubted
        view = yield Forward(state, judged=use.judged())
        allowed = state.masked
        use.revise(view)
        state.doubted = state.doubted | looped
        use.fill(view, allowed)
        state.advance(use.done())


NO_HEAD = "no quality head was given: doubtful tokens are found by self-likelihood instead."


def without_head(config: SamplerConfig) -> tuple[SamplerConfig, bool]:
    """Settings for a model without a head: where the preset's score is a learned one, the self-likelihood takes its
    place, everything else stays; and whether that was so. A score that was named is left to ``check``.
    """
    if config.score is not None or "head" not in parts.scores[str(resolve(config).score)].needs:
        return config, False
    return replace(config, score="self_likelihood"), True


SHADOWS = ("shadow", "shadow_first")  # methods whose forward holds more than the text


@methods("redraw")
def redraw(state: State) -> Passes:
    """Duo, GIDD, SCDD: the noise that the model was trained with stands everywhere, and is drawn anew in every step."""
    use = Parts(state)
    while state.running():
        state.begin_as_noise(state.levels[0])
        view = yield Forward(state, judged=use.judged(refilled=True))
        use.revise(view, refilled=True)
        state.advance(use.done())


@dataclass
class Back:
    """Of method=go_back."""

    stalled_below: float = option(0.3, "a block whose likeliest fill is less likely has stalled", low=0, high=1)
    keep_from: float = option(0.7, "on the way back a token keeps its place that was written as likely", low=0, high=1)


@methods("go_back")
def go_back(state: State, options: Back) -> Passes:
    """RDD (arXiv 2602.00150): a block that has stalled takes the text back to the one before, uncertain tokens out.

    A row has stalled where no mask of its block has a token of probability ``stalled_below``; of the block before and
    its own those written with less than ``keep_from`` are masked again, each at most ``max_remasks`` times, and nothing
    is filled in this step. Else masks are filled in ``order``.
    """
    use = Parts(state)
    while state.running():
        view = yield Forward(state)
        rows = state.rows(state.masked)
        best = state.spread(rows[0], fills.likeliest(view, state, rows).prob, 0.0).amax(dim=1)
        earlier = state.editable & (state.block_of == state.block[:, None] - 1) & (state.tokens != state.mask_id)
        uncertain = (earlier | state.visible) & (state.written < options.keep_from)
        uncertain &= state.remasks < state.config.max_remasks
        back = (
            state.active & state.masked.any(dim=1) & (best < options.stalled_below) & (uncertain & earlier).any(dim=1)
        )
        state.doubted = torch.zeros_like(state.doubted)
        use.fill(view, state.masked & ~back[:, None])
        state.go_back(back, state.written, uncertain & back[:, None])
        state.advance(use.done() & ~back)


LEAVE, UNMASK, REMASK = 0, 1, 2
"""What a policy says of a position."""


@dataclass
class Decides:
    """Of method=policy."""

    policy: Any = option(  # noqa: RUF009
        None, "function of confidence (B, L), masked (B, L), progress (B,): 0 leave, 1 unmask, 2 remask; or MODULE:NAME"
    )

    def __post_init__(self) -> None:
        if self.policy is None:
            raise ConfigError(
                "sampler.method.policy is not set: a function of confidence and masked (B, L) and progress (B,) that "
                "gives 0 (leave), 1 (unmask) or 2 (remask) for every position, or MODULE:NAME of one."
            )
        scores.resolved(self.policy, "method.policy")


@methods("policy")
def policy(state: State, options: Decides) -> Passes:
    """A learned policy decides of every position of the block: leave, unmask, remask (arXiv 2512.09106).

    It sees the largest probability at each position, which are masks, and the share of the block's steps that are over.
    Where it unmasks nothing the likeliest mask is filled; in the last step all are, and none is masked again.
    """
    use, decide = Parts(state), scores.resolved(options.policy, "method.policy")
    while state.running():
        view = yield Forward(state)
        state.view = view
        fills.guess(state)
        steps = state.of_block(state.budget)
        said = decide(state.guess_prob.masked_fill(~state.in_block, 0.0), state.masked, state.block_step / steps)
        if said.shape != state.tokens.shape:
            raise ConfigError(f"sampler.method.policy gave {tuple(said.shape)}: wanted {tuple(state.tokens.shape)}.")
        masked, last = state.masked, (state.block_step + 1 >= steps)[:, None]
        chosen = masked & ((said == UNMASK) | last)
        surest = ops.select_highest(state.guess_prob, masked, (~chosen.any(dim=1)).long())
        wrong = state.open & (said == REMASK) & ~last & use.due()[:, None]
        rows = state.rows(chosen | surest)
        drawn = view.sample(*rows, **fills.draw_settings(state, rows[0]))
        state.remask(state.written, wrong, wrong.sum(dim=1))
        state.write_rows(rows[0], drawn.token, drawn.prob)
        state.advance(use.done())


UNSCORED = ("revise_and_fill", "go_back", "policy")  # methods that ask no score whom to doubt
PROBES = ("joint_probe", "argmax_fill")  # methods that forward other tokens than the text's
SECOND = ("two_pass", "fill_and_judge", *PROBES)  # methods of more than one forward a step


def default_for(denoiser: Any) -> dict[str, Any]:
    """The sampler of a model where none is named: what its noise and its head want (docs/loss.md has the figures)."""
    if denoiser.noise.uniform:
        return {"name": "uniform"}
    if denoiser.head is None:
        return {"name": "self-likelihood"}
    if "sampler" in denoiser.trained:  # what was found best with this very head
        return dict(denoiser.trained["sampler"])
    if denoiser.trained.get("objective") in parts.TRAINED:  # the preset that reads it
        return {"name": parts.TRAINED[denoiser.trained["objective"]]}
    if denoiser.trained.get("objective") == "cavity":  # its ranks would slide into what is frequent
        return {"name": "prism-evidence", "tau": 1.0}
    return {"name": "prism"}


SURE = 3e-6
"""tau of `prism-correct` where the head says a token's posterior among all others, which is small for right ones too
(benchmarks/correct.py)."""


def correcting(denoiser: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What `prism-correct` wants of a head that learned a posterior, where ``settings`` do not say."""
    posterior = settings["name"] == "prism-correct" and denoiser.trained.get("objective") == "cavity"
    return {"tau": SURE} if posterior and not {"tau", "select.tau", "select"} & set(settings) else {}


def check(
    config: Any, has_head: bool, gives: frozenset[str], trained: Mapping[str, Any] | None = None, noise: Noise = MASKS
) -> None:
    """ConfigError, naming both, where settings (as ``resolve`` gives them) clash with each other or with the model.

    has_head, gives, trained, noise: whether the model has a head, its ``gives``, ``trained`` (None: not known yet) and
    ``noise``.
    """
    if bool(noise.uniform) != (config.method == "redraw"):
        raise ConfigError(
            f"sampler.method = {config.method} is for noise of {'symbols' if config.method == 'redraw' else 'masks'}, "
            f"this model was trained with uniform_noise = {noise.uniform}: choose "
            f"{'sampler=uniform' if noise.uniform else 'another sampler, or train with noise=uniform'}."
        )
    if config.method in SECOND and "second_forward" not in gives:
        raise ConfigError(
            f"sampler.method = {config.method} needs a second forward pass within a step, which this host does not "
            "give: choose sampler.method=revise_and_fill."
        )
    if config.method in PROBES and "probe" not in gives:
        raise ConfigError(
            f"sampler.method = {config.method} needs a forward pass over other tokens than the text's, which this host "
            "does not run: choose sampler.method=two_pass."
        )
    if config.method in SHADOWS and "layout" not in gives:
        raise ConfigError(
            f"sampler.method = {config.method} needs positions and an attention mask of its own, which this host does "
            "not take: choose sampler=saber or sampler=threshold."
        )
    needs = parts.scores[config.score].needs
    if ("shadow" in needs) != (config.method in SHADOWS):
        raise ConfigError(
            f"sampler.score = {config.score} and sampler.method = {config.method} do not go together: "
            "score=shadow and shadow_evidence read the block that method=shadow and shadow_first lay out, and nothing "
            "else does."
        )
    if "probe" in needs and config.method != "joint_probe":
        raise ConfigError(
            f"sampler.score = {config.score} reads a pass from which tokens are hidden, "
            f"sampler.method = {config.method} hides none: choose method=joint_probe, or score=self_likelihood."
        )
    if config.reach == "text" and config.act == "remask":
        raise ConfigError(
            "sampler.reach = text goes back to finished blocks, where sampler.act = remask would leave masks for good: "
            "choose act=overwrite, or reach=block."
        )
    if "head" in needs and not has_head:
        raise ConfigError(
            f"sampler.score = {config.score} needs a trained quality head and the model has none: "
            "train one (prism train quality …) or choose sampler.score=self_likelihood."
        )
    if config.score == "verifier" and config.select != "below":
        raise ConfigError(
            f"sampler.score = verifier lets texts pass, whose tokens sampler.select = {config.select} would take all "
            "the same: choose select=below, with guard=share to bound it."
        )
    if "cavity" in needs and not (config.method == "revise_and_fill" and config.refill != "fresh"):
        raise ConfigError(
            f"sampler.score = {config.score} hides tokens from passes of its own, which sampler.method = "
            f"{config.method} with sampler.refill = {config.refill} does not ask for: choose method=revise_and_fill "
            "and refill=wait, cancel or stale."
        )
    if "cavity" in needs and not {"second_forward", "probe"} <= gives:
        raise ConfigError(
            f"sampler.score = {config.score} needs further forward passes within a step, over other tokens than the "
            "text's, which this host does not run: choose score=self_likelihood, or a trained head and score=quality."
        )
    objective, wanted = (trained or {}).get("objective", "prism"), parts.trained_for(config.score)
    strange = objective != wanted and (wanted != "prism" or objective == "critic")
    if "head" in needs and trained is not None and strange:
        raise ConfigError(
            f"sampler.score = {config.score} does not go with this head, which was trained by quality.objective = "
            f"{objective}: choose sampler={parts.TRAINED.get(objective, 'prism')}, or another head."
        )
    if config.refill == "fresh" and config.method == "revise_and_fill":
        if "view" in needs:
            raise ConfigError(
                f"sampler.refill = fresh remasks before the forward pass that sampler.score = {config.score} reads: "
                "choose refill=wait, or score=written or random."
            )
        if config.act != "remask":
            raise ConfigError(
                f"sampler.refill = fresh remasks before the forward pass that sampler.act = {config.act} reads: "
                "choose refill=wait."
            )
    if config.refill == "cancel" and config.fill != "count":
        raise ConfigError(
            f"sampler.refill = cancel reads the plan that fill=count follows, sampler.fill = {config.fill} does not: "
            "choose refill=wait, or fill=count."
        )
    if config.alpha != "linear" and config.fill_share != 1:
        raise ConfigError(
            f"sampler.alpha = {config.alpha} plans all steps, sampler.fill_share = {config.fill_share} only some: "
            "choose one of the two."
        )
    if config.method == "go_back" and not config.max_remasks:
        raise ConfigError(
            "sampler.method = go_back with sampler.max_remasks = 0 may go back for ever: choose max_remasks=1, or more."
        )
    if config.score == "none" and config.method not in UNSCORED:
        raise ConfigError(
            f"sampler.method = {config.method} revises and sampler.score = none doubts nobody: choose a score."
        )
