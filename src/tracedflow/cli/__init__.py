"""The command line, `tracedflow`: it names runs and workflows, asks the analyses and prints what they say.

Results go to standard output. Wrong input is one line on standard error and exit code 2, never a traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, cast

import typer

from . import _programs, _recorded
from ._targets import WrongInput

WRONG_INPUT = 2

app = typer.Typer(
    name="tracedflow",
    help="Workflows that show what they did: look at recorded runs, check, draw and run programs.",
    pretty_exceptions_enable=False,
)
for _name, _command in (*_recorded.COMMANDS, *_programs.COMMANDS):
    app.command(_name)(cast("Callable[..., Any]", _command))


@app.callback(invoke_without_command=True)
def _root(  # pyright: ignore[reportUnusedFunction]
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False
) -> None:
    if version:
        from .. import __version__

        typer.echo(f"tracedflow {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    try:
        code = app(args=None if arguments is None else list(arguments), prog_name="tracedflow", standalone_mode=False)
    except WrongInput as error:
        return _refuse(str(error))
    except typer.TyperException as error:
        context: Any = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "tracedflow"
        return _refuse(f"{' '.join(error.format_message().split())} Try `{command} --help`.")
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter complains when it flushes at exit
        return 0
    return code if isinstance(code, int) else 0


def _refuse(text: str) -> int:
    print(f"tracedflow: {text}", file=sys.stderr)
    return WRONG_INPUT


__all__ = ["WRONG_INPUT", "app", "main"]
