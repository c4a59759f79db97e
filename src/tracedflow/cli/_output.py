"""Where the commands write: results to standard output, what is said about them to standard error.

Tables are as wide as a terminal and no wider; in a file or a pipe they are whole. Colours are for terminals.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from ..inspect.durations import short
from ..inspect.tables import table
from ..inspect.trace_file import ABANDONED, RecordedRun
from ..inspect.waterfall import Line, Style, waterfall
from ..outcomes import FAILURES
from ..telemetry.console import Screen

FORMAT = 1
"""Of the JSON that commands print: it grows when a key is taken away or means something else, not when one is added."""

AsJson = Annotated[bool, typer.Option("--json", help="Print it as JSON, for programs.")]


def say(text: str = "") -> None:
    """Write a line of the result."""
    typer.echo(text)


def note(text: str) -> None:
    """Write a line about the result."""
    typer.echo(f"tracedflow: {text}", err=True)


def say_json(document: Mapping[str, Any]) -> None:
    """Write the result as JSON."""
    typer.echo(json.dumps({"format": FORMAT, **document}, indent=2, ensure_ascii=False))


def say_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, whole: int = 0) -> None:
    """Write a table of which the first `whole` columns are never cut."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    first, *rest = table(head, rows, left=len(head), width=width, whole=whole)
    Screen(sys.stdout).write(((first, "dim"),))
    for line in rest:
        say(line)


def say_heading(run: RecordedRun) -> None:
    """Write what run this is, and how it ended."""
    style: Style = "bad" if run.outcome in FAILURES else "good" if run.outcome == "success" else "odd"
    line: Line = ((run.workflow, "bold"), (f"  run {run.run_id}  ", "plain"), (ending(run), style))
    Screen(sys.stdout).write(line)


def say_waterfall(run: RecordedRun) -> None:
    """Draw the waterfall of a run."""
    screen = Screen(sys.stdout)
    screen.write_lines(waterfall(run.attempts, width=screen.width, ascii_only=screen.ascii_only).lines)


def ending(run: RecordedRun) -> str:
    """Return how a run ended, and how long it took."""
    if run.outcome == ABANDONED or run.duration is None:
        return "has no end on record"
    return f"{run.outcome} after {short(run.duration)}"
