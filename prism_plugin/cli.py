"""The ``prism`` command gathers ``commands/``: a file there with an ``app`` is a command. All errors are said here."""

import ctypes
import io
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pkgutil import iter_modules
from typing import Annotated, Any

import typer

from . import __version__, commands
from .commands import Commands, console
from .errors import ConfigError, PrismError, unknown

EXAMPLES = """\
examples:
  prism demo                             compare revision methods on Sudoku
  prism sample file=puzzles.txt          solve Sudokus, one a line
  prism sample model=sudoku sampler=prism-evidence count=4 trace=run.npz
  prism trace view run.npz --html run.html          every step, as a page
  prism sample model=code prompt='def read(path):'  Python, by a small model
  prism batch score data=texts.jsonl out=scores model=code   whole corpora
  prism serve model=code                 OpenAI's API, and a page to watch it
  prism train mdm task=sudoku4 out=runs/mdm4        then a quality head on it:
  prism train quality model=runs/mdm4 out=runs/q4
  prism import pytorch_model.bin out=runs/head      a checkpoint of the release
  prism info samplers                               all samplers
  prism schedule sampler=prism length=81 sampler.steps=32

Each command explains itself: prism COMMAND --help. Errors are one line and exit
code 2."""

EVERYWHERE = ("--quiet", "-q", "--debug")
LONGEST = 1000
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h

app = typer.Typer(cls=Commands, epilog=EXAMPLES, rich_markup_mode=None, pretty_exceptions_enable=False)
for _found in iter_modules(commands.__path__):
    app.add_typer(import_module(f"{commands.__name__}.{_found.name}").app)


def _version(asked: bool) -> None:
    if asked:
        console.result(f"prism-plugin {__version__}")
        raise typer.Exit


@app.callback()
def prism(
    version: Annotated[
        bool, typer.Option("--version", help="print the version", callback=_version, is_eager=True)
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="results and errors only (in any place)")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="show all of an error (in any place)")] = False,
) -> None:
    """Self-correction for masked diffusion language models: find wrong tokens, mask and rewrite them."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0, or 2 after one line on stderr where something given cannot be used, 130 if interrupted."""
    given = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    ours, theirs = _split(given)
    flags = [word for word in ours if word in EVERYWHERE]
    rest = sorted((word for word in ours if word not in EVERYWHERE), key="--dry-run".__eq__)  # wherever it was put
    words = [*flags, *rest, *theirs]
    debug, console.silent = "--debug" in flags, bool({"--quiet", "-q"} & set(flags))
    keep_memory()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what a terminal cannot show is spelled out
            stream.reconfigure(errors="backslashreplace")
    try:
        if any("\0" in word for word in words):
            raise ConfigError("a word of the command holds a zero byte, which no name has.")
        with warnings.catch_warnings():
            if not debug:
                warnings.simplefilter("ignore")
            code = typer.main.get_command(app).main(words, prog_name="prism", standalone_mode=False) or 0
            sys.stdout.flush()
        if code == 130:
            print("prism: interrupted", file=sys.stderr)
        return code
    except BrokenPipeError:  # whoever reads has read enough
        _drop_stdout()
        return 0
    except Exception as error:
        if debug:
            traceback.print_exc()
        print(f"prism: {_line(error)}", file=sys.stderr)
        _drop_stdout(isinstance(error, OSError))
        return 2


def keep_memory() -> None:
    """Have glibc keep up to 256 MiB of freed memory, in place of giving it back after a tensor and being handed pages
    of zeros for the next: a tenth of a small model's time on a CPU, nothing of a larger one's
    (docs/results/head_cost.md). Where the environment has settings of its own for malloc, or libc is another, nothing
    is changed.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and not any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        for setting, value in ((M_TRIM_THRESHOLD, 2**28), (M_MMAP_THRESHOLD, 2**25)):
            mallopt(setting, value)


def _split(given: list[str]) -> tuple[list[str], list[str]]:
    """What is for us, and what stands behind the script of ``prism run``."""
    if next((word for word in given if word not in EVERYWHERE), "") != "run":
        return given, []
    end = next((at for at, word in enumerate(given) if word.endswith(".py")), len(given))
    return given[:end], given[end:]


def _line(error: Exception) -> str:
    """What went wrong, in one line; what nobody has foreseen is called so."""
    if hasattr(error, "possibilities") and hasattr(
        error, "option_name"
    ):  # typer's NoSuchOption, which it keeps private
        context: Any = getattr(error, "ctx", None)
        error = unknown("option", error.option_name, [o for p in context.command.get_params(context) for o in p.opts])
    elif isinstance(error, typer.TyperException):
        error = ConfigError(f"{error.format_message()} See `prism --help`.")
    line = " ".join(str(error).split())
    if not isinstance(error, PrismError | OSError):
        line = (
            f"unforeseen {type(error).__name__}: {line} (If this is no fault of what was given, please report it as "
            "CONTRIBUTING.md says; --debug shows where it came from.)"
        )
    return line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} … {line[-LONGEST // 2 :]}"


def _drop_stdout(drop: bool = True) -> None:
    """What is left in a buffer that nobody takes would be an error of Python's own at the end."""
    with suppress(OSError, ValueError, io.UnsupportedOperation):
        if drop:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
