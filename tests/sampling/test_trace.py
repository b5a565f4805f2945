"""A trace says what happened: its counts are the result's, its file is small, its page needs nothing but a browser."""

import base64
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prism_plugin.config import SamplerConfig
from prism_plugin.errors import ConfigError, DataError
from prism_plugin.models.noise import Noise
from prism_plugin.sampling import replay
from prism_plugin.sampling.config import fitting
from prism_plugin.sampling.drive import Result, generate
from prism_plugin.sampling.parts import trained_for
from prism_plugin.sampling.presets import presets
from prism_plugin.sampling.simulate import SYMBOLS, Stub
from prism_plugin.sampling.trace import CORRECTED, EVENTS, REMASKED, RESTORED, WRITTEN, Recorder, Trace


def record(length: int = 24, texts: int = 3, prompt: int = 4, **sampler: object) -> tuple[Result, Trace]:
    tokens = torch.full((texts, length), SYMBOLS)
    tokens[:, :prompt] = torch.arange(prompt)
    recorder = Recorder()
    told = {"steps": 8, "num_remask": 3, **sampler}
    config = SamplerConfig(**fitting(told, str(told.pop("name", "prism"))))
    stub = Stub(length, trained_for(presets[config.name].get("score", "none")))
    stub.noise = Noise(float(presets[config.name].get("method") == "redraw"))
    result = generate(stub, tokens, config, callback=recorder)
    return result, recorder.trace()


def count(trace: Trace, *kinds: int) -> np.ndarray:
    return np.isin(trace.events(), kinds).sum(axis=(0, 2))


@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 1000), length=st.integers(5, 24), prompt=st.integers(0, 4), steps=st.sampled_from([6, 16]))
@pytest.mark.parametrize("name", [*presets, "prism-stale", "prism-blocks"])
def test_events_are_those_the_result_counts(name: str, seed: int, length: int, prompt: int, steps: int) -> None:
    more = {"prism-stale": {"refill": "stale", "guard": "none"}, "prism-blocks": {"block_length": 6, "guard": "none"}}
    sampler = {"name": "prism" if name in more else name, "seed": seed, "steps": steps, **more.get(name, {})}
    result, trace = record(length, prompt=prompt, **sampler)
    assert trace.filled().sum(axis=(0, 2)).tolist() == result.fills.tolist()
    assert trace.doubted.sum(axis=(0, 2)).tolist() == result.remasked.tolist()
    at_once = trace.filled() & trace.doubted & ~trace.visible & (np.roll(trace.former, 1, axis=0) == trace.former)
    assert (count(trace, RESTORED) + at_once.sum(axis=(0, 2))).tolist() == result.wasted.tolist()
    assert (trace.tokens[-1] == result.tokens.numpy()).all()
    assert (trace.tokens[:, :, :prompt] == np.arange(prompt)).all()
    changed = trace.tokens[1:] != trace.tokens[:-1]
    assert not (changed & (trace.events()[1:] == 0)).any(), "nothing changes unseen"


def test_prism_removes_the_tokens_of_lowest_quality() -> None:
    result, trace = record(refill="wait", guard="none")
    assert count(trace, REMASKED).tolist() == result.remasked.tolist() != [0, 0, 0]
    for f in range(1, len(trace.tokens)):
        for b in range(3):
            quality, doubted = trace.quality[f - 1, b], trace.doubted[f, b]
            kept = trace.visible[f - 1, b] & trace.editable[b] & ~doubted
            if doubted.any() and kept.any():
                assert quality[doubted].max() <= quality[kept].min()


def test_recording_changes_nothing_and_computes_no_quality_that_the_sampler_does_not_use() -> None:
    for name in ("prism", "self-likelihood"):
        stub, tokens = Stub(20), torch.full((2, 20), SYMBOLS)
        asked = []
        stub.head.register_forward_hook(lambda *_, asked=asked: asked.append(1))
        plain = generate(Stub(20), tokens, SamplerConfig(name, steps=6))
        recorder = Recorder()
        watched = generate(stub, tokens, SamplerConfig(name, steps=6), callback=recorder)
        assert torch.equal(plain.tokens, watched.tokens)
        assert bool(asked) == (name == "prism")
        assert np.isnan(recorder.trace().quality).all() == (name != "prism")


def test_a_file_holds_the_whole_trace_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    _, trace = record()
    path = tmp_path / "run.npz"
    trace.save(path)
    again = Trace.load(path)
    for name in ("tokens", "editable", "doubted", "former", "written", "quality"):
        np.testing.assert_array_equal(getattr(again, name), getattr(trace, name), err_msg=name)
    assert again.about == trace.about
    assert [p.name for p in tmp_path.iterdir()] == ["run.npz"]

    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"not a zip file"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"run\.npz' is not a trace"):
            Trace.load(path)
    np.savez(path, other=np.zeros(3))
    with pytest.raises(DataError, match="is not a trace"):
        Trace.load(path)
    with pytest.raises(DataError, match="no trace at"):
        Trace.load(tmp_path / "none.npz")
    with pytest.raises(DataError, match="nothing was recorded"):
        Recorder().trace()


def test_a_long_text_stays_small(tmp_path: Path) -> None:
    _, trace = record(4096, texts=1, steps=32, num_remask=20)
    trace.save(tmp_path / "run.npz")
    assert (tmp_path / "run.npz").stat().st_size < 4 * trace.tokens.size, "4 bytes a token and step"
    assert len(replay.page(trace, 0, "long")) < 4 * trace.tokens.size + 40_000


def test_the_page_holds_the_run_and_nothing_external() -> None:
    _, trace = record(12, texts=2, prompt=2)
    trace.about["words"] = {token: f"</script>{word}&" for token, word in trace.about["words"].items()}
    page = replay.page(trace, 1, "<b>&", "a note")
    assert not re.search(r"https?://|<link|@import|src=|url\(", page)
    assert page.count("</script>") == 3 and "<title>&lt;b&gt;&amp;</title>" in page
    packed = re.search(r'id="data">([^<]+)<', page).group(1)  # type: ignore[union-attr]
    raw = zlib.decompress(base64.b64decode(packed))
    frames, _, length = trace.tokens.shape
    n = frames * length
    assert len(raw) == 2 * n + 2 * n + 2 * n + n + length  # tokens, former, two levels, events, editable
    numbers = np.frombuffer(raw[: 2 * n], "<u2").reshape(frames, length)
    words = ["", *trace.about["words"].values()]
    for number, token in zip(numbers.ravel(), trace.tokens[:, 1].ravel(), strict=True):
        assert words[number] == ("" if token == SYMBOLS else f"</script>{token}&")
    assert (np.frombuffer(raw[6 * n : 7 * n], "u1").reshape(frames, length) == trace.events()[:, 1]).all()


def test_frames_name_what_happened(capsys: pytest.CaptureFixture) -> None:
    from rich.console import Console

    _, trace = record(16, texts=1, prompt=0, refill="wait", guard="none")
    replay.show(trace, 0, Console(width=100))
    printed = capsys.readouterr().out
    assert len(re.findall(r"─ (start|step \d+)", printed)) == len(trace.tokens)
    events = trace.events()[:, 0]
    for kind in (WRITTEN, REMASKED, CORRECTED, RESTORED):
        shown = sum(int(n) for n in re.findall(rf"(\d+) {EVENTS[kind]}", printed))
        assert shown == (events == kind).sum()
    assert "masks▁" in printed, "a run of masks is shown by its length"
    replay.show(trace, 0, Console(width=100), most=3)
    assert f"3 of {len(trace.tokens)} frames shown" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="row 1: the trace has 1 text, allowed 0 to 0"):
        replay.show(trace, 1, Console())
