"""Traces: what happened to every token in every step of a generation, in one compact file.

``generate(…, callback=Recorder())`` records; without a callback nothing is computed or kept.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from ..files import write_atomic
from ..models.denoiser import View
from .state import State

NOTHING, WRITTEN, REMASKED, CORRECTED, RESTORED = range(5)
EVENTS = ("nothing", "written", "remasked", "corrected", "restored")


@dataclass
class Trace:
    """Frames of B texts of L tokens: frame 0 is the prompt, frame f the texts before forward pass f + 1, or at the end.

    tokens (F, B, L) int; editable (B, L) bool, False on the prompt; doubted (F, B, L) bool, what was revised since the
    frame before; former (F, B, L) int, the token last remasked at a position that waits to be filled again, -1
    elsewhere; written (F, B, L) f16, probability of a token when it was written; quality (F, B, L) f16, the learned
    quality of the frame's tokens where the sampler looked at it, NaN elsewhere.
    about: the settings of the sampler, mask_id, the side of a box (``grid``, 0 for text), ``words`` by token id.
    """

    tokens: np.ndarray
    editable: np.ndarray
    doubted: np.ndarray
    former: np.ndarray
    written: np.ndarray
    quality: np.ndarray
    about: dict

    @property
    def visible(self) -> np.ndarray:
        """(F, B, L) bool: tokens that are not masks."""
        return self.tokens != self.about["mask_id"]

    def filled(self) -> np.ndarray:
        """(F, B, L) bool: positions written since the frame before, those that were then remasked at once included."""
        masked_before = np.roll(~self.visible, 1, axis=0)
        found = np.where(masked_before, self.visible | self.doubted, self.visible & self.doubted)
        found[0] = False
        return found

    def replaced(self) -> np.ndarray:
        """The token that each token written since the frame before replaces, (F, B, L) int, -1 for none."""
        before, waiting = np.roll(self.tokens, 1, axis=0), np.roll(self.former, 1, axis=0)
        at_once = self.doubted & (before != self.about["mask_id"])  # overwritten, or remasked and filled
        found = np.where(waiting >= 0, waiting, np.where(at_once, before, -1))
        return np.where(self.filled(), found, -1)

    def events(self) -> np.ndarray:
        """What happened to each position since the frame before, (F, B, L) uint8, one of ``EVENTS``.

        A token written where one was doubted before is a correction, or restored where it is the same one.
        """
        replaced = self.replaced()
        event = np.where(self.filled(), WRITTEN, NOTHING)
        event[replaced >= 0] = np.where(self.tokens == replaced, RESTORED, CORRECTED)[replaced >= 0]
        event[self.doubted & ~self.visible] = REMASKED
        return event.astype(np.uint8)

    def save(self, path: str | Path) -> None:
        """Write the trace (a compressed npz), whole or not at all."""
        small = np.min_scalar_type(int(self.tokens.max(initial=0)))
        arrays: dict[str, Any] = {
            "tokens": self.tokens.astype(small),
            "former": (self.former + 1).astype(np.min_scalar_type(int(self.former.max(initial=0)) + 1)),
            "editable": np.packbits(self.editable),
            "doubted": np.packbits(self.doubted),
            "written": self.written,
            "quality": self.quality,
            "about": np.array(json.dumps(self.about)),
        }
        with write_atomic(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path: str | Path) -> "Trace":
        """Read a trace; DataError where the file is not one."""
        try:
            with np.load(path, allow_pickle=False) as file:
                read = {name: file[name] for name in file.files}
            shape = read["tokens"].shape
            flags = {
                name: np.unpackbits(read[name], count=int(np.prod(size))).reshape(size).astype(bool)
                for name, size in (("editable", shape[1:]), ("doubted", shape))
            }
            return cls(
                read["tokens"].astype(np.int64), former=read["former"].astype(np.int64) - 1, written=read["written"],
                quality=read["quality"], about=json.loads(str(read["about"])), **flags,
            )  # fmt: skip
        except FileNotFoundError:
            raise DataError(f"no trace at {str(path)!r}. `prism sample … trace=FILE` writes one.") from None
        except (ValueError, KeyError, EOFError, BadZipFile) as error:
            raise DataError(
                f"{str(path)!r} is not a trace that `prism sample … trace=FILE` wrote ({error})."
            ) from error


class Recorder:
    """A callback for ``generate`` that keeps every step; ``trace`` gives what it saw of one run."""

    def __init__(self) -> None:
        self.frames: list[dict[str, np.ndarray]] = []
        self.state: State | None = None

    def __call__(self, state: State, view: View | None) -> None:
        """Keep the texts after a step. ``view`` is the forward pass over the frame before."""
        if view is not None and view.judged is not None:  # that is, the score used it
            self.frames[-1]["quality"] = _half(view.judged)
        self.state = state
        self.frames.append(
            {
                "tokens": state.tokens.cpu().numpy().copy(),
                "remasks": state.remasks.cpu().numpy().copy(),
                "former": state.former.cpu().numpy().copy(),
                "written": _half(state.written),
                "quality": np.full(state.tokens.shape, np.nan, np.float16),
            }
        )

    def trace(self, grid: int = 0, decode: Callable[[int], str] = str) -> Trace:
        """The run as a trace. ``decode`` gives the text of a token id; ``grid`` is the side of a Sudoku box, or 0."""
        if self.state is None:
            raise DataError("nothing was recorded: pass the recorder to generate(…, callback=recorder) first.")
        stacked = {name: np.stack([frame[name] for frame in self.frames]) for name in self.frames[0]}
        stacked["doubted"] = np.diff(stacked.pop("remasks"), axis=0, prepend=0) > 0
        stacked["quality"][stacked["tokens"] == self.state.mask_id] = np.nan  # a mask has none
        ids = np.unique(np.concatenate([stacked["tokens"].ravel(), stacked["former"].ravel()]))
        words = {int(i): decode(int(i)) for i in ids if i >= 0 and i != self.state.mask_id}
        about = {"settings": self.state.config.settings(), "mask_id": self.state.mask_id, "grid": grid, "words": words}
        return Trace(
            editable=self.state.editable.cpu().numpy(), about=json.loads(json.dumps(about, default=str)), **stacked
        )


def _half(values: Tensor) -> np.ndarray:
    return values.detach().to("cpu", torch.float16).numpy()
