"""What engines share that run the model themselves and show a sampler one block of each text, and its logits.

A method takes one step at a time, over whichever texts the engine has put into its batch: a ``Step`` is what it does
before the forward pass and after it. SGLang, vLLM's plugin and Diffulex are built on this.
"""

import hashlib
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from prism_plugin.errors import CheckpointError, ConfigError
from prism_plugin.files import load_json, local_folder
from prism_plugin.models.denoiser import Denoiser, Output, View
from prism_plugin.models.lora import ADAPTER
from prism_plugin.quality.head import FITS, load_head
from prism_plugin.sampling import methods
from prism_plugin.sampling.config import SamplerConfig, resolve
from prism_plugin.sampling.state import State

log = logging.getLogger(__name__)


@dataclass
class BlockState(State):
    """Blocks that an engine shows us, one of each text; the method ends where its step does."""

    taken: ClassVar[bool] = False  # the forward pass of this step has been had
    written_at: Tensor = field(init=False)  # (B, L) int64, the step in which the token that stands was written, or -1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.written_at = torch.full_like(self.tokens, -1)

    def running(self, ask: Any = None) -> bool:
        """As ``State.running``, within a step."""
        return not self.taken and super().running(ask)


class Step:
    """One step of the method over a state: all that comes before the forward pass happens at once.

    The engine then runs the model on ``state.tokens`` (B, L) and calls ``finish``.
    """

    def __init__(self, state: BlockState) -> None:
        self.state = state
        state.taken = False  # type: ignore[misc]  # this state's own
        self._method = state.parts.method(state)
        self._asked = next(self._method, None)  # None where every text has ended
        self._before = state.tokens.clone()

    def finish(self, view: View) -> Tensor:
        """The rest of the step, given the pass; (B,) bool: texts that have ended, all that stands seen by the pass."""
        state = self.state
        state.taken, step = True, state.block_step  # type: ignore[misc]
        state.vocab_size = view.denoiser.vocab_size
        if self._asked is not None:
            with suppress(StopIteration):
                self._method.send(view)
                raise AssertionError("settings() lets no method through that asks for a second pass")
        state.view = state.guessed_by = None  # or a waiting text would keep the logits of its batch
        changed = state.tokens != self._before
        written = changed & (state.tokens != state.mask_id)
        state.written_at = torch.where(written, step[:, None], state.written_at)
        return ~state.active & ~changed.any(dim=1)


@dataclass
class Place:
    """Where the block of a request stands: a row of a state, which it may share with others."""

    state: BlockState
    row: int
    reported: bool = False


def together(places: Sequence[Place]) -> BlockState:
    """One state of the blocks of a batch, in its order: the one they share, or a new one that they then share."""
    state = places[0].state
    if len(places) != len(state.tokens) or any(p.state is not state or p.row != i for i, p in enumerate(places)):
        state = BlockState.gathered([(place.state, place.row) for place in places])  # type: ignore[assignment]
        for row, place in enumerate(places):
            place.state, place.row = state, row
    return state


def after_only(config: Any) -> None:
    """ConfigError where a sampler remasks before a forward pass, for engines that call one after it and not before."""
    if config.refill == "fresh" or config.method == "revise_then_loop":
        raise ConfigError(f"sampler = {config.name} cannot run here: it remasks before a pass, the call comes after.")


class Seen(Denoiser):
    """Stands for a model that an engine runs: logits, and hidden states where the engine shows them."""

    gives = frozenset()
    hidden_at = "post_norm"

    def __init__(self, mask_id: int, head: str = "") -> None:
        """head: folder of a trained head. Raises CheckpointError or ConfigError where it cannot be used here."""
        super().__init__()
        if mask_id < 0:
            raise ConfigError(f"mask_id = {mask_id}: a model of uniform noise has no mask to write, ours need one.")
        self.mask_id = mask_id
        if not head:
            return
        folder = local_folder(head)
        if (folder / ADAPTER).exists():
            raise ConfigError(f"head = {head} comes with a LoRA, which the engine's model lacks: merge it first.")
        try:  # what cannot be known before the first pass is taken as the head says, and compared then
            described = load_json(folder / "prism_config.json")
            self.vocab_size = int(described["model"]["vocab_size"])
            self.hidden_size = int(described["head"]["hidden_size"])
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{folder}/prism_config.json does not describe a head ({error}).") from error
        # An engine fuses weights and shards them: their fingerprint would tell nothing.
        load_head(self, folder, fits=[name for name in FITS if name != "fingerprint"])
        self.requires_grad_(False)
        if getattr(self.head, "attends", False) or getattr(self.head, "reads_text", False):
            raise ConfigError(f"head = {head} looks at the whole text, and an engine shows a block: use head=mlp.")

    def view(self, logits: Tensor, hidden: Tensor | None = None) -> View:
        """A pass as methods see it: logits (B, L, V), hidden (B, L, D), which a head cannot do without."""
        if self.head is None:
            self.vocab_size, hidden = logits.shape[-1], logits[..., :0]
        elif hidden is None:
            raise ConfigError("a head reads hidden states, and the engine gave none with this forward pass.")
        elif (hidden.shape[-1], logits.shape[-1]) != (self.hidden_size, self.vocab_size):
            raise CheckpointError(
                f"the head was trained for hidden states of {self.hidden_size} and {self.vocab_size} symbols, "
                f"this model has {hidden.shape[-1]} and {logits.shape[-1]}."
            )
        else:
            self.head.to(hidden.device)
        return View(self, Output(hidden, None, logits))


def settings(given: SamplerConfig, block_length: int, has_head: bool = False) -> Any:
    """Settings of the sampler in full, for blocks of ``block_length``: ``steps`` are those of a block, one a token
    where none are given.

    Raises ConfigError, naming the sampler and why, where an engine that runs one pass a step over one block cannot
    run it.
    """
    try:
        if given.block_length:
            raise ConfigError(f"sampler.block_length = {given.block_length}: the engine's own is {block_length}.")
        config, fell_back = (given, False) if has_head else methods.without_head(given)
        if fell_back:
            log.warning("sampler = %s: %s", given.name, methods.NO_HEAD)
        resolved = resolve(replace(config, steps=config.steps or block_length, block_length=0))
        methods.check(resolved, has_head, Seen.gives)
        if resolved.method == "redraw":
            raise ConfigError("sampler.method = redraw is for models of uniform noise, ours are written from masks.")
        if resolved.repetition_penalty != 1:
            raise ConfigError("sampler.repetition_penalty looks at the whole text, and an engine shows a block.")
        if resolved.reach == "text":
            raise ConfigError("sampler.reach = text goes back to finished blocks, which an engine keeps as they are.")
    except ConfigError as error:
        raise ConfigError(f"sampler = {given.name} cannot run here: {error}") from error
    return resolved


def key(name: str) -> int:
    """What keys the random numbers of a request that is called so."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
