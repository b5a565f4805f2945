"""Texts that come and go while others are written. One thread has the model; what it runs are our own methods."""

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .. import inputs
from ..errors import PrismError
from ..models.denoiser import Denoiser, View
from ..sampling.drive import account_of, bucket, drive, new_state
from ..sampling.state import State
from .metrics import Metrics


class Refused(PrismError):  # noqa: N818  (it is an answer)
    """A request that cannot be taken now, or not be ended; ``status`` is HTTP's word for it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(eq=False)
class Text:
    """A text that is to be written: tokens (L,) int64, editable (L,) bool, config as ``resolve`` gives it.

    key: of its random numbers (``State.request``). stop: token sequences that end it. ``tell`` is called by the
    engine's thread with its last frame, and where it is ``watched`` with one after every pass. index: its number in
    its request. dropped: nobody waits for it any more.
    """

    tokens: Tensor
    editable: Tensor
    config: Any
    key: int
    tell: Callable[["Frame"], None]
    stop: tuple[tuple[int, ...], ...] = ()
    watched: bool = False
    index: int = 0
    dropped: bool = False
    begun: float = field(default_factory=time.monotonic)
    remasks: Tensor | None = None  # (L,) int64, in the frame before


@dataclass
class Frame:
    """A text between two passes: tokens (L,) int64, of which the first ``final`` will not change any more.

    doubted (L,) bool: revised since the frame before. quality (L,) f32: what the pass over the frame before said of
    its tokens, None where nobody asked. account: the text has come to its end, and this is what it cost. error: it has
    not, and never will.
    """

    text: Text
    tokens: Tensor
    step: int = 0
    final: int = 0
    doubted: Tensor | None = None
    quality: Tensor | None = None
    account: dict[str, Any] | None = None
    error: Exception | None = None


class Batch:
    """Texts of one width and equal settings that are written together (one ``State``); they join between steps."""

    def __init__(self, engine: "Engine", width: int) -> None:
        self.engine, self.width = engine, width
        self.rows: list[Text] = []
        self.coming: list[Text] = []
        self.closed = False
        self.state: State | None = None
        self.passes: Iterator[View | None] = iter(())

    def step(self) -> None:
        """Everything up to the next forward pass, the pass before it included; whoever ends is told."""
        try:
            self._step()
        except Exception as error:  # of the model or a part: its texts fail, all others go on
            self.closed = True
            for text in (*self.rows, *self.coming):
                self.engine.finish(Frame(text, text.tokens, error=error))
            self.rows, self.coming = [], []

    def _step(self) -> None:
        if self.state is None:
            self.rows, self.coming = self.coming, []
            self.state = self._begin(self.rows)
            self.state.refill = self._refill
            self.passes = drive(self.state.parts.method(self.state), self.engine.denoiser)
        before = self.rows
        try:
            view = next(self.passes)
        except StopIteration:  # all have ended (``_refill`` has told them)
            self.closed = True
        if self.closed:
            return
        for row, text in enumerate(self.rows):
            if text.watched and not text.dropped:
                quality = None
                if view is not None and view.judged is not None and text in before:
                    quality = view.judged[before.index(text)]
                text.tell(self._frame(row, text, quality))
            self.engine.in_time(text)
        self.closed = all(text.dropped for text in self.rows) and not self.coming
        if not self.closed:  # the pass that comes now
            self.engine.metrics.passes.inc()
            self.engine.metrics.rows.inc(len(self.rows))

    def _refill(self, state: State, running: list[int]) -> bool:
        """Called between steps (``State.refill``): take out what has ended or is not wanted, put in what has come."""
        if self.closed:
            return False
        on = [row for row in running if not self.rows[row].dropped]
        ended = [row for row in range(len(self.rows)) if row not in set(running)]
        if ended:
            accounts = account_of(state, ended)
            for number, row in enumerate(ended):
                frame = self._frame(row, self.rows[row], None)
                frame.account = {
                    name: round(value, 3) if isinstance(value := table[number].item(), float) else value
                    for name, table in accounts.items()
                    if table is not None and name != "tokens"
                }
                self.engine.finish(frame)
        was, self.rows = len(self.rows), [self.rows[row] for row in on]
        self.engine.place()
        new, self.coming = self.coming, []
        if not on and not new:
            self.closed = True
            return False
        if len(on) == was and not new:
            return False
        state.keep([*on, *[on[0] if on else 0] * len(new)])
        if new:
            state.admit(list(range(len(on), len(on) + len(new))), self._begin(new))
            self.rows = self.rows + new
        self.engine.forget()
        return True

    def _begin(self, texts: Sequence[Text]) -> State:
        """The state of texts as new, padded on the left to the width of the batch where the host takes padding."""
        engine, first = self.engine, texts[0]
        tokens = torch.full((len(texts), self.width), engine.pad_id)
        real = torch.zeros(tokens.shape, dtype=torch.bool)
        editable = real.clone()
        for row, text in enumerate(texts):
            tokens[row, self.width - len(text.tokens) :] = text.tokens
            editable[row, self.width - len(text.tokens) :] = text.editable
            real[row, self.width - len(text.tokens) :] = True
        keys = torch.tensor([text.key for text in texts])
        tokens, real, editable, keys = (table.to(engine.device) for table in (tokens, real, editable, keys))
        return new_state(
            engine.denoiser, tokens, first.config, keys, real if engine.ragged else None, editable, None, None,
            first.stop, engine.pad_id,
        )  # fmt: skip

    def _frame(self, row: int, text: Text, quality: Tensor | None) -> Frame:
        state, start = self.state, self.width - len(text.tokens)
        assert state is not None
        block_of, block = state.block_of[row, start:], int(state.block[row])
        unsure = (block_of >= block) if state.config.reach == "block" else text.editable.to(block_of.device)
        ended = block >= int(state.blocks[row])
        final = len(text.tokens) if ended or not bool(unsure.any()) else int(unsure.int().argmax())
        remasks = state.remasks[row, start:].cpu().clone()
        doubted = remasks > (torch.zeros_like(remasks) if text.remasks is None else text.remasks)
        text.remasks = remasks
        quality = None if quality is None else quality[start:].float().cpu()
        tokens = state.tokens[row, start:].cpu().clone()
        return Frame(text, tokens, int(state.step[row]), final, doubted, quality)


class Engine:
    """Whoever asks, whenever: texts wait in a line and are written ``slots`` at a time by the one thread that has the
    model, those of equal settings and nearly one length in one batch. A text is what its own tokens, settings and key
    make it, given equal logits, whoever else is there.

    queue: texts that may wait. timeout: seconds that a text may take, waiting included.
    """

    def __init__(
        self, denoiser: Denoiser, pad_id: int, slots: int, queue: int, timeout: float, metrics: Metrics
    ) -> None:
        self.denoiser, self.pad_id, self.metrics = denoiser, pad_id, metrics
        self.slots, self.queue, self.timeout = slots, queue, timeout
        self.device, self.ragged = inputs.device_of(denoiser), "padding" in denoiser.gives
        self.waiting: deque[Text] = deque()
        self.calls: deque[tuple[Future, Callable[[], Any]]] = deque()
        self.batches: dict[Any, Batch] = {}
        self.last: Batch | None = None  # whose keys and values the cache holds
        self.closing = False
        self.wake = threading.Condition()
        self.thread = threading.Thread(target=self._run, name="prism-engine", daemon=True)
        self.thread.start()

    def submit(self, texts: Sequence[Text]) -> None:
        """Put texts in the line, all or none. Raises Refused where there is no room, or the server ends."""
        with self.wake:
            self._room(len(texts))
            self.waiting.extend(texts)
            self.wake.notify()

    def call(self, function: Callable[[], Any]) -> Future:
        """Have something else done with the model, between two steps. Raises Refused as ``submit`` does."""
        future: Future = Future()
        with self.wake:
            self._room(1)
            self.calls.append((future, function))
            self.wake.notify()
        return future

    def drop(self, texts: Sequence[Text]) -> None:
        """Nobody waits for these any more: their places in the line and their slots are free."""
        with self.wake:
            for text in texts:
                text.dropped = True
            self.waiting = deque(text for text in self.waiting if not text.dropped)

    def close(self) -> None:
        """Take nothing more, end all that was taken, and stop."""
        with self.wake:
            self.closing = True
            self.wake.notify()
        self.thread.join()

    @property
    def held(self) -> int:
        """Slots that are taken."""
        batches = list(self.batches.values())
        return sum(sum(not t.dropped for t in batch.rows) + len(batch.coming) for batch in batches)

    @property
    def queued(self) -> int:
        """How many wait."""
        return len(self.waiting) + len(self.calls)

    def _room(self, number: int) -> None:
        if self.closing:
            raise Refused(503, "this server is about to end and takes nothing new.")
        if self.queued + number > self.queue:
            raise Refused(
                429,
                f"{self.queued} texts are waiting and {number} more came: at most {self.queue} may wait. Try again "
                "later, or start the server with a larger queue=….",
            )

    def _run(self) -> None:
        with torch.no_grad():
            while True:
                with self.wake:
                    while not (self.waiting or self.calls or self.batches):
                        if self.closing:
                            return
                        self.wake.wait()
                    calls, self.calls = self.calls, deque()
                for future, function in calls:
                    if future.set_running_or_notify_cancel():
                        try:
                            future.set_result(function())
                        except Exception as error:
                            future.set_exception(error)
                    self.forget()
                self.place()
                for key, batch in list(self.batches.items()):
                    if batch is not self.last:
                        self.forget()
                        self.last = batch
                    batch.step()
                    if batch.closed and self.batches.get(key) is batch:
                        del self.batches[key]

    def place(self) -> None:
        """Give free slots to those who wait, first come first served."""
        with self.wake:
            self.waiting = deque(text for text in self.waiting if self.in_time(text))
            while self.waiting and self.held < self.slots:
                text = self.waiting.popleft()
                width = min(bucket(len(text.tokens)), self.denoiser.max_length) if self.ragged else len(text.tokens)
                key = width, text.stop, json.dumps(text.config.settings(), sort_keys=True, default=str)
                if key not in self.batches or self.batches[key].closed:
                    self.batches[key] = Batch(self, width)
                self.batches[key].coming.append(text)

    def in_time(self, text: Text) -> bool:
        """Whether a text has time left; where it has not, it is told so and dropped."""
        if text.dropped or time.monotonic() - text.begun < self.timeout:
            return True
        self.finish(Frame(text, text.tokens, error=Refused(
            408, f"the text was not written within {self.timeout:g} s: ask for fewer steps or tokens, or start the "
            "server with a larger timeout=….",
        )))  # fmt: skip
        text.dropped = True
        return False

    def finish(self, frame: Frame) -> None:
        """Tell the last that there is to tell of a text."""
        if frame.text.dropped:
            return
        if frame.account is not None:
            for kind in ("fills", "remasked", "wasted"):
                self.metrics.tokens.labels(kind).inc(frame.account[kind])
        frame.text.tell(frame)

    def forget(self) -> None:
        """What a cache holds is of other rows."""
        if self.denoiser.cache is not None:
            self.denoiser.cache.forget()
