"""The ``prism`` command gathers ``commands/`` and imports only the one that is called, so that ``--help`` is quick."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

from rich.console import Console

from .errors import ConfigError, PrismError, unknown

console = Console()

DESCRIPTION = "Self-correction for masked diffusion language models: find wrong tokens, mask and rewrite them."
COMMANDS = {
    "demo": "compare revision methods on Sudoku grids and watch PRISM correct one",
    "train": "train a model, or the quality head on one",
    "sample": "solve a puzzle or make texts with any sampler",
    "import": "make a folder of ours of a checkpoint of PRISM's release or of MDLM's DiT",
    "info": "versions, devices, compiled ops, and every name that a setting may take",
    "trace": "look at a recorded run",
    "schedule": "what a sampler does in every step, before anything is run",
}

EXAMPLES = """\
examples:
  prism demo                                    compare revision methods on Sudoku, two minutes
  prism sample puzzle=530070000600195000098000060800060003400803001700020006060000280000419005000080079
  prism sample model=sudoku sampler=prism-evidence sampler.steps=32 count=4 trace=run.npz
  prism trace view run.npz --html run.html      every step, in the terminal and as a page
  prism train mdm task=sudoku4 out=runs/mdm4    then: prism train quality model=runs/mdm4 task=sudoku4 out=runs/q4
  prism sample model=code prompt='def read(path):'    Python by a model of its standard library
  prism import pytorch_model.bin out=runs/head  a checkpoint of PRISM's release, DiT or LLaDA
  prism info samplers                           all samplers and the parts they are made of
  prism schedule sampler=prism length=81 sampler.steps=32

Each command explains itself: prism COMMAND --help."""


class Parser(argparse.ArgumentParser):
    """Complains in one line, as every error of the command does."""

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError in place of the usage and an exit."""
        raise ConfigError(f"{message}. `{self.prog} --help` shows what is allowed.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0, or 2 after one line on stderr where something given cannot be used."""
    try:
        _run(list(sys.argv[1:] if argv is None else argv) or ["--help"])
    except (PrismError, OSError) as error:
        print(f"prism: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("prism: interrupted", file=sys.stderr)
        return 130
    return 0


def _run(argv: list[str]) -> None:
    layout: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    if argv[0].startswith("-"):
        parser = Parser(prog="prism", epilog=EXAMPLES, description=DESCRIPTION, **layout)
        listed = parser.add_subparsers(metavar="COMMAND", parser_class=Parser, required=True)
        for name, summary in COMMANDS.items():
            listed.add_parser(name, help=summary)
        parser.parse_args(argv)
        return
    if argv[0] not in COMMANDS:
        raise unknown("command", argv[0], COMMANDS)
    command = import_module(f".commands.{argv[0] if argv[0] != 'import' else 'import_'}", __package__)
    summary = COMMANDS[argv[0]]
    parser = Parser(
        prog=f"prism {argv[0]}", description=summary[0].upper() + summary[1:] + ".", epilog=command.HELP, **layout
    )
    command.add(parser)
    options, extra = parser.parse_known_args(argv[1:])
    if extra:
        raise unknown("option", extra[0], [name for action in parser._actions for name in action.option_strings])
    command.run(options, console)


if __name__ == "__main__":
    sys.exit(main())
