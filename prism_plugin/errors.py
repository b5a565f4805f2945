"""Errors that a user can act on: what came, what is allowed, where it came from."""

import difflib
from collections.abc import Iterable


class PrismError(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigError(PrismError, ValueError):
    """A setting that is unknown, out of range, or clashes with another."""


class CheckpointError(PrismError, ValueError):
    """A checkpoint that is missing, damaged, or does not fit the model."""


class DataError(PrismError, ValueError):
    """Input data that cannot be used (an impossible Sudoku, an empty data set)."""


def said(value: object) -> str:
    """What came, short enough for one line: a value of few characters, else its type; of a tensor shape and dtype."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{type(value).__name__} {tuple(value.shape)} of {value.dtype}"
    text = repr(value)
    plain = value is None or isinstance(value, (str, bytes, int, float, list, tuple, dict, set))
    return text if plain and len(text) <= 60 and "\n" not in text else f"something of type {type(value).__name__}"


def unknown(what: str, name: object, known: Iterable[str], hint: str = "") -> ConfigError:
    """``ConfigError`` for a name that is not known, with the nearest one that is."""
    known = sorted(known)
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.4)
    nearest = f" Nearest: {near[0]}." if near else ""
    return ConfigError(f"{what} {str(name)!r} is not known.{nearest} {hint or 'Known: ' + ', '.join(known) + '.'}")
