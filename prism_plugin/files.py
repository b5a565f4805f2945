"""Files that are whole or not there: written beside their place, then renamed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import ConfigError


@contextmanager
def write_atomic(path: str | Path) -> Iterator[Path]:
    """Give a temporary path in the folder of ``path``; rename it onto ``path`` when the block ends well.

    On an exception the temporary file is removed and ``path`` is left as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def output_folder(path: str | Path, what: str = "output folder") -> Path:
    """Make a folder and prove that it can be written to, before any work is done.

    Raises ConfigError naming the folder and the reason.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with write_atomic(folder / ".writable") as probe:
            probe.touch()
        (folder / ".writable").unlink()
    except OSError as error:
        raise ConfigError(f"{what} {str(folder)!r} cannot be written: {error.strerror}. Name another folder.") from error
    return folder
