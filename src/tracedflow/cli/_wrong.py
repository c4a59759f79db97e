"""What the user gave wrongly, and how every command says so: one calm line on standard error, and exit code 2."""

from __future__ import annotations

from typing import Any, Never

import typer
from typer.core import TyperGroup

USAGE = 2
FAILED = 1


class Wrong(Exception):  # noqa: N818 - what it says is shown to people, as it is
    """Wrong input. Its text names the place and the remedy."""


class Calm(TyperGroup):
    """The group of all commands; turns wrong input into a line in place of a usage box or a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except Wrong as error:
            _say(ctx, str(error))
        except typer.TyperException as error:  # an option or an argument that typer refused
            place = f"{ctx.command_path} {ctx.invoked_subcommand}" if ctx.invoked_subcommand else ctx.command_path
            _say(ctx, f"{error.format_message().rstrip('.')}; see {place} --help")


def _say(ctx: Any, text: str) -> Never:
    command = f" {ctx.invoked_subcommand}" if ctx.invoked_subcommand else ""
    typer.echo(f"tracedflow{command}: {text}", err=True)
    raise typer.Exit(USAGE)
