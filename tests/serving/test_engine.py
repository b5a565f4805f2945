"""Texts that join and leave a running batch come out as they would alone."""

import queue
import threading

import pytest
import torch

from tests.table_model import TableModel, chain

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from prism_plugin.sampling.config import SamplerConfig, resolve
from prism_plugin.sampling.drive import generate_many
from prism_plugin.serving.engine import Engine, Frame, Refused, Text
from prism_plugin.serving.metrics import Metrics

LENGTH = 6


class Gate:
    """Lets the model make one pass at a time, so that a test decides who is there in which step."""

    def __init__(self, model: TableModel) -> None:
        self.passes, self.let = threading.Semaphore(0), threading.Semaphore(0)
        inner = model.forward

        def forward(*given, **more):
            self.passes.release()
            assert self.let.acquire(timeout=20)
            return inner(*given, **more)

        model.forward = forward

    def one(self) -> None:
        assert self.passes.acquire(timeout=20)
        self.let.release()

    def open(self) -> None:
        self.let.release(10_000)


@pytest.fixture
def model() -> TableModel:
    return chain(LENGTH, 3)


@pytest.fixture
def engine(model: TableModel):
    made = Engine(model, 0, slots=3, queue=8, timeout=60, metrics=Metrics())
    yield made
    made.close()


def text(length: int, key: int, frames: queue.Queue, watched: bool = False, **settings) -> Text:
    tokens = torch.full((length,), 3)
    tokens[0] = key % 3
    config = resolve(SamplerConfig(**{"name": "prism", "steps": 5, **settings}))
    return Text(tokens, tokens == 3, config, key, frames.put, watched=watched)


def wait(frames: queue.Queue, number: int) -> dict[int, Frame]:
    """The last frames of some texts by their keys."""
    ended: dict[int, Frame] = {}
    while len(ended) < number:
        frame = frames.get(timeout=20)
        if frame.error is not None:
            raise frame.error
        if frame.account is not None:
            ended[frame.text.key] = frame
    return ended


def alone(model: TableModel, one: Text) -> list[int]:
    config = one.config
    return generate_many(model, [one.tokens], config, request=torch.tensor([one.key])).tokens[0].tolist()


@pytest.mark.parametrize("sampler", ["prism", "confidence", "wino", "prism-2pass", "proseco", "mdlm"])
def test_each_text_is_what_it_is_alone(model: TableModel, engine: Engine, sampler: str) -> None:
    frames: queue.Queue = queue.Queue()
    texts = [text(2 + key % (LENGTH - 1), key, frames, watched=key % 2 == 0, name=sampler) for key in range(8)]
    for one in texts[:3]:
        engine.submit([one])
    engine.submit(texts[3:])
    ended = wait(frames, 8)
    for one in texts:
        assert ended[one.key].tokens.tolist() == alone(model, one)
        assert ended[one.key].final == len(one.tokens)


def test_a_text_joins_while_another_is_written(model: TableModel, engine: Engine) -> None:
    gate, frames = Gate(model), queue.Queue()
    first, second = text(5, 0, frames), text(5, 1, frames)
    engine.submit([first])
    gate.one()
    gate.one()
    engine.submit([second])
    gate.open()
    ended = wait(frames, 2)
    assert float(engine.metrics.rows._value.get()) == ended[0].account["forwards"] + ended[1].account["forwards"]
    assert engine.metrics.passes._value.get() < engine.metrics.rows._value.get()  # they shared passes
    for one in (first, second):
        assert ended[one.key].tokens.tolist() == alone(model, one)


def test_texts_of_other_settings_are_written_in_a_batch_of_their_own(model: TableModel, engine: Engine) -> None:
    frames: queue.Queue = queue.Queue()
    texts = [text(5, key, frames, steps=3 + key) for key in range(3)]
    engine.submit(texts)
    ended = wait(frames, 3)
    for one in texts:
        assert ended[one.key].account["forwards"] <= 3 + one.key
        assert ended[one.key].tokens.tolist() == alone(model, one)


def test_who_is_dropped_leaves_its_slot_and_its_place_in_the_line(model: TableModel, engine: Engine) -> None:
    gate, frames = Gate(model), queue.Queue()
    texts = [text(5, key, frames) for key in range(5)]
    engine.submit(texts)
    gate.one()
    engine.drop([texts[0], texts[3]])  # one is written, one waits
    gate.open()
    ended = wait(frames, 3)
    assert sorted(ended) == [1, 2, 4]
    for key in ended:
        assert ended[key].tokens.tolist() == alone(model, texts[key])
    assert engine.queued == 0


def test_a_full_line_takes_all_or_none(model: TableModel, engine: Engine) -> None:
    gate, frames = Gate(model), queue.Queue()
    engine.submit([text(5, key, frames) for key in range(3)])
    gate.one()
    engine.submit([text(5, key, frames) for key in range(3, 9)])
    with pytest.raises(Refused, match=r"6 texts are waiting and 3 more came: at most 8 may wait") as refused:
        engine.submit([text(5, key, frames) for key in range(9, 12)])
    assert refused.value.status == 429
    gate.open()
    assert sorted(wait(frames, 9)) == list(range(9))


def test_what_fails_takes_nobody_else_with_it(model: TableModel, engine: Engine) -> None:
    frames: queue.Queue = queue.Queue()
    broken = text(5, 0, frames, name="uniform")  # of another noise than the model's
    engine.submit([broken])
    with pytest.raises(ValueError, match="uniform_noise"):
        wait(frames, 1)
    engine.submit([text(5, 1, frames)])
    assert wait(frames, 1)[1].tokens.tolist() == alone(model, text(5, 1, frames))


def test_a_text_that_takes_too_long_is_told_so(model: TableModel) -> None:
    engine, frames = Engine(model, 0, slots=1, queue=8, timeout=0.05, metrics=Metrics()), queue.Queue()
    gate = Gate(model)
    engine.submit([text(5, 0, frames), text(5, 1, frames)])
    threading.Timer(0.2, gate.open).start()
    for _ in range(2):
        with pytest.raises(Refused, match=r"not written within 0\.05 s"):
            wait(frames, 1)
    engine.close()
    assert engine.held == 0


def test_close_ends_what_was_taken_and_takes_nothing_new(model: TableModel) -> None:
    engine, frames = Engine(model, 0, slots=1, queue=8, timeout=60, metrics=Metrics()), queue.Queue()
    engine.submit([text(5, key, frames) for key in range(4)])
    engine.close()
    assert sorted(wait(frames, 4)) == [0, 1, 2, 3]
    with pytest.raises(Refused, match="about to end"):
        engine.submit([text(5, 4, frames)])


def test_frames_tell_what_is_final_and_every_revision(model: TableModel, engine: Engine) -> None:
    frames: queue.Queue = queue.Queue()
    one = text(6, 3, frames, watched=True, block_length=2, steps=12, name="prism-2pass")
    engine.submit([one])
    seen = []
    while not seen or seen[-1].account is None:
        seen.append(frames.get(timeout=20))
    finals = [frame.final for frame in seen]
    assert finals == sorted(finals) and finals[0] == 1 and len(set(finals)) == 4
    for frame in seen:
        assert frame.tokens[: frame.final].tolist() == seen[-1].tokens[: frame.final].tolist()
    assert sum(int(frame.doubted.sum()) for frame in seen) == seen[-1].account["remasked"] > 0
    assert any(frame.quality is not None for frame in seen)
