"""What ``benchmarks/text.py`` adds up."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from prism_plugin.errors import ConfigError
from prism_plugin.evaluation.comparison import gone_on_with


@pytest.fixture(scope="module")
def text() -> ModuleType:
    path = Path(__file__).parents[1] / "benchmarks" / "text.py"
    spec = importlib.util.spec_from_file_location("benchmarks_text", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["benchmarks_text"] = module
    spec.loader.exec_module(module)
    return module


def test_moments_of_parts_are_those_of_the_whole(text: ModuleType) -> None:
    values = np.random.default_rng(2).normal(3, 2, 90).tolist()
    whole = np.sum([text.moments(values[:40]), text.moments(values[40:])], axis=0)
    mean, half = text.interval(*whole)
    assert mean == pytest.approx(np.mean(values)) and half == pytest.approx(1.96 * np.std(values, ddof=1) / 90**0.5)


def test_a_slide_has_less_than_real_text_in_bits_and_in_entropy(text: ModuleType) -> None:
    truth = {"bits": 1.7, "entropy": 3.8}
    row = {"setting": "free", "steps": 16, "order": "random", "method": text.DEFAULT, "bits_pm": 0.05}
    fills = row | {"method": "MDLM", "bits": 1.6, "entropy": 3.7}

    def said(bits: float, entropy: float, *more: dict) -> str:
        return text.slides([row | {"bits": bits, "entropy": entropy}, *more], truth)[-1].split("|")[-2].strip()

    assert said(1.6, 3.9) == said(1.8, 3.7) == "no"
    assert said(1.6, 3.7) == "yes" and said(1.66, 3.7) == "yes, within the interval"
    assert said(1.6, 3.7, fills) == "yes, as fills only" and said(1.6, 3.7, fills | {"bits": 1.8}) == "yes"
    assert text.slides([fills], truth) == []


def test_runs_of_other_texts_are_refused_and_stay(tmp_path: Path) -> None:
    file = tmp_path / "code.json"
    assert gone_on_with(file, {"texts_a_seed": 64}, ["texts_a_seed"]) == {"runs": []}
    file.write_text('{"texts_a_seed": 64, "runs": [1]}')
    assert gone_on_with(file, {"texts_a_seed": 64}, ["texts_a_seed"])["runs"] == [1]
    with pytest.raises(ConfigError, match=r"code.json holds runs of texts_a_seed = 64 \(now 128\): write elsewhere"):
        gone_on_with(file, {"texts_a_seed": 128}, ["texts_a_seed"])
