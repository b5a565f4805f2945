"""The commands of ``prism``, a file each, gathered by ``cli``.

A file declares what its command takes, as an ``app`` of typer, and imports what does the work when it is called: the
help of all commands is read from these files, and must not wait for torch.
"""

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperCommand, TyperGroup

from ..errors import unknown


class Terminal(Console):
    """Results go to standard output; what is said besides goes to standard error, and nowhere if ``quiet``."""

    silent = False

    def note(self, text: str) -> None:
        """Say something that is not the result."""
        if not self.silent:
            Console(stderr=True).print(text, style="dim", highlight=False, markup=False, soft_wrap=True)

    def result(self, text: str) -> None:
        """A result, as it is: neither coloured nor wrapped."""
        self.print(text, highlight=False, markup=False, soft_wrap=True, emoji=False)

    def json(self, content: Any, indent: int | None = 2) -> None:
        """A result for programs; what is not finite is null."""
        self.result(json.dumps(content, ensure_ascii=False, indent=indent))

    def on_broken_pipe(self) -> None:
        """Left to ``cli.main``."""
        raise BrokenPipeError


console = Terminal()


class Command(TyperCommand):
    """A command whose settings and examples, its epilog, are printed as they were written."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """See the class."""
        formatter.write(f"\n{self.epilog}\n" if self.epilog else "")


class Commands(TyperGroup):
    """A group of commands that says which one is nearest where one is not known."""

    format_epilog = Command.format_epilog

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """See the class."""
        if args[0] not in self.commands and not args[0].startswith("-"):
            raise unknown("command", args[0], self.commands)
        return super().resolve_command(ctx, args)


Settings = Annotated[list[str] | None, typer.Argument(metavar="key=value", hidden=True)]
Json = Annotated[bool, typer.Option("--json", help="print JSON, for programs")]

NOTHING_REMASKED = (
    "Nothing was remasked: the sampler found no step in which its rule allows it (num_remask above what can be written "
    "again, tau out of reach of the scores, or step_on too late)."
)
