"""What the figures of benchmarks share."""

import pytest

from prism_plugin.plots import plain_ticks


def test_a_logarithmic_axis_has_plain_figures() -> None:
    figures = pytest.importorskip("matplotlib.figure", reason="matplotlib is not installed (extra: plots)")
    axes = figures.Figure().subplots()
    axes.set(xscale="log", yscale="log", xlim=(0.3, 30), ylim=(1, 64))
    plain_ticks(axes.xaxis)
    plain_ticks(axes.yaxis, [64, 1, 8])
    shown = [label.get_text() for label in axes.get_xticklabels()]
    assert {"0.5", "1", "2", "5", "10", "20"} <= set(shown) and not any("10^" in text for text in shown)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["1", "8", "64"]
    assert not len(axes.get_xticklabels(minor=True)) and not len(axes.get_yticklabels(minor=True))
