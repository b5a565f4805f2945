"""A host's script, run as it stands with PRISM in it (``prism run``); which host's it is, its own lines say."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prism_plugin.errors import ConfigError


def run_script(script: str, words: Sequence[str], head: str = "", sampler: str = "", **settings: Any) -> None:
    """Run a Python file with ``words`` behind it, as ``python script words`` would, with our sampling in it.

    head, sampler, settings: as for ``enable``; a preset is ``prism-llada`` where none is named.
    Raises ConfigError before anything is run where the script is of no host that is known here.
    """
    from .dllm import script as dllm
    from .llada import script as llada

    file = Path(script)
    tree = read(file)
    host = dllm if imports(tree, "dllm") else llada
    host.run(file, tree, words, head or None, sampler or "prism-llada", settings)


def read(file: Path) -> ast.Module:
    """The file as Python reads it."""
    try:
        return ast.parse(file.read_bytes(), str(file))
    except (OSError, SyntaxError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read as a Python file: {error}") from error


def imports(tree: ast.Module, name: str) -> bool:
    """Whether a package is imported anywhere in it."""
    return any(
        (isinstance(node, ast.ImportFrom) and not node.level and str(node.module).split(".")[0] == name)
        or (isinstance(node, ast.Import) and any(alias.name.split(".")[0] == name for alias in node.names))
        for node in ast.walk(tree)
    )


@contextmanager
def running(file: Path, words: Sequence[str]) -> Iterator[None]:
    """What ``python file words`` has: its arguments, and its folder first on the path."""
    before = sys.argv, sys.path[:], sys.modules["__main__"]
    sys.argv, sys.path[:] = [str(file), *words], [str(file.resolve().parent), *sys.path]
    try:
        yield
    finally:
        sys.argv, sys.path[:], sys.modules["__main__"] = before
