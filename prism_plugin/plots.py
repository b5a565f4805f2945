"""What the figures of benchmarks share."""

from collections.abc import Sequence
from typing import Any


def plain_ticks(axis: Any, ticks: Sequence[float] = ()) -> None:
    """Figures as one writes them, not powers of ten, on an ``axis`` of matplotlib that is logarithmic already.

    They stand at ``ticks`` (where the data is, say), else at 1, 2 and 5 times the powers of ten; on a symlog axis where
    matplotlib puts them.
    """
    from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

    if ticks:
        axis.set_major_locator(FixedLocator(sorted(ticks)))
    elif axis.get_scale() == "log":
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_locator(NullLocator())
