"""MAUVE needs GPT-2 large; ReMDM's main.py calls it at the end of every sampling run, so it answers with no score."""

from types import SimpleNamespace


def compute_mauve(**kwargs: object) -> SimpleNamespace:
    """Stand in for mauve.compute_mauve: the score is NaN, never a number that could be taken for a result."""
    return SimpleNamespace(mauve=float("nan"))
