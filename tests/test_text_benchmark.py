"""What ``benchmarks/text.py`` adds up."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


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
