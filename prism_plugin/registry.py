"""Named factories: what a configuration may name, ours and third parties'.

A third party adds a name by an entry point in the group ``prism_plugin.<kind>``
(``prism_plugin.score``, ``prism_plugin.preset``, …) that points at the object to register.
"""

from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from .errors import unknown

T = TypeVar("T")


class Registry(Generic[T]):
    """A table from name to object, filled by a decorator and, on the first miss, by entry points."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._known: dict[str, T] = {}
        self._loaded = False

    def __call__(self, name: str) -> Callable[[T], T]:
        """Decorator that registers an object under ``name``."""

        def register(item: T) -> T:
            self._known[name] = item
            return item

        return register

    def _load(self) -> None:
        if not self._loaded:
            self._loaded = True
            for entry in entry_points(group=f"prism_plugin.{self.kind}"):
                self._known.setdefault(entry.name, entry.load())

    def __getitem__(self, name: str) -> T:
        """Look a name up; raises ConfigError with the nearest known name."""
        if name not in self._known:
            self._load()
        if name not in self._known:
            raise unknown(self.kind, name, self._known)
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(sorted(self._known))

    def __contains__(self, name: object) -> bool:
        return name in list(self)
