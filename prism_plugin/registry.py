"""Named factories: what a configuration may name, ours and third parties'.

A third party adds a name by an entry point in the group ``prism_plugin.<kind>``
(``prism_plugin.score``, ``prism_plugin.preset``, …) that points at the object to register.
"""

import logging
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from .errors import ConfigError, unknown

log = logging.getLogger(__name__)
T = TypeVar("T")


class Registry(Generic[T]):
    """A table from name to object, filled by a decorator and, on the first miss, by entry points."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._known: dict[str, T] = {}
        self._loaded = False
        self._broken: dict[str, str] = {}

    def __call__(self, name: str) -> Callable[[T], T]:
        """Decorator that registers an object under ``name``."""

        def register(item: T) -> T:
            self._known[name] = item
            return item

        return register

    def _load(self) -> None:
        """Take in what third parties registered; what does not load is named in one warning, all else stays."""
        if self._loaded:
            return
        self._loaded = True
        for entry in entry_points(group=f"prism_plugin.{self.kind}"):
            try:
                self._known.setdefault(entry.name, entry.load())
            except Exception as error:  # anything can go wrong in a third party's module
                whose = f" of {entry.dist.name} {entry.dist.version}" if entry.dist else ""
                why = self._broken[entry.name] = f"entry point {entry.value!r}{whose}: {type(error).__name__}: {error}"
                log.warning("%s %r does not load and is left out (%s).", self.kind, entry.name, why)

    def __getitem__(self, name: str) -> T:
        """Look a name up; raises ConfigError with the nearest known name."""
        if name not in self._known:
            self._load()
        if name in self._broken and name not in self._known:
            raise ConfigError(f"{self.kind} {name!r} does not load ({self._broken[name]}).")
        if name not in self._known:
            raise unknown(self.kind, name, self._known)
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(sorted(self._known))

    def __contains__(self, name: object) -> bool:
        return name in list(self)
