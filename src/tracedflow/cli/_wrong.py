"""What the user gave wrongly, and how every command says so: one calm line on standard error, and exit code 2."""

from __future__ import annotations

import os
import sys
from typing import Any, Never

import typer
from typer.core import TyperGroup

from .._targets import TargetError

FAILED = 1
"""The command did what it should, and what it has to say is bad news."""

USAGE = 2
"""It could not do what was asked for."""

BROKEN_PIPE = 141
"""Nobody read its output to the end; as shells report a program that such a pipe ended."""


class Wrong(Exception):  # noqa: N818 - what it says is shown to people, as it is
    """Wrong input. Its text names the place and the remedy."""


class Calm(TyperGroup):
    """The group of all commands; turns wrong input into a line in place of a usage box or a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            found = super().invoke(ctx)
            sys.stdout.flush()  # here, where a pipe that broke can still be met
        except (Wrong, TargetError) as error:
            _say(ctx, str(error))
        except typer.TyperException as error:  # an option or an argument that typer refused
            place = f"{ctx.command_path} {ctx.invoked_subcommand}" if ctx.invoked_subcommand else ctx.command_path
            _say(ctx, f"{error.format_message().rstrip('.')}; see {place} --help")
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter complains when it flushes at exit
            raise typer.Exit(BROKEN_PIPE) from None
        return found


def _say(ctx: Any, text: str) -> Never:
    command = f" {ctx.invoked_subcommand}" if ctx.invoked_subcommand else ""
    typer.echo(f"tracedflow{command}: {text}", err=True)
    raise typer.Exit(USAGE)
