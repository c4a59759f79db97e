"""How the examples show a run: a heading, a coloured waterfall, seconds a reader can take in. Plain where there is no terminal."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from typing import TextIO

from rich.console import Console
from rich.text import Text

from tracedflow import AttemptRecord
from tracedflow.inspect.waterfall import waterfall

_COLOURS = {
    "good": "green",
    "bad": "bold red",
    "odd": "yellow",
    "running": "green",
    "queued": "bright_black",
    "backoff": "yellow",
    "waiting": "blue",
    "blocked": "red",
    "bold": "bold",
    "dim": "dim",
}
_WIDEST = 120  # columns


def heading(number: int, title: str, text: str) -> None:
    """Print the title of a section and a sentence on what is to be seen in it."""
    console = Console(highlight=False, width=_width(sys.stdout))
    console.print()
    console.print(Text(f"{number}. {title}", style="bold cyan"))
    console.print(Text(text, style="dim"))
    console.print()


def show_waterfall(records: Sequence[AttemptRecord], stream: TextIO, *, of_each: int = 4) -> None:
    """Draw a run on `stream`: of each step the `of_each` executions that ran longest, and a line for those left out."""
    console = Console(file=stream, highlight=False, width=_width(stream))
    ascii_only = not (stream.encoding or "utf-8").lower().replace("-", "").startswith("utf")
    shown, left_out = _telling(records, of_each)
    drawing = waterfall(shown, width=_width(stream) - 1, ascii_only=ascii_only)
    for line in drawing.lines:
        console.print(Text.assemble(*((piece, _COLOURS.get(style, "")) for piece, style in line)), no_wrap=True, overflow="ellipsis")
    if left_out:
        counts = ", ".join(f"{count:,} of {step}" for step, count in left_out.items())
        console.print(Text(f"  not drawn: {counts}", style="dim"))


def _telling(records: Sequence[AttemptRecord], of_each: int) -> tuple[list[AttemptRecord], dict[str, int]]:
    """Return the attempts worth drawing, and how many executions of each step are left out. Joins that only took an event do not count."""
    executions: dict[int, list[AttemptRecord]] = {}
    for record in records:
        executions.setdefault(record.execution, []).append(record)
    by_step: dict[str, list[list[AttemptRecord]]] = {}
    for attempts in executions.values():
        by_step.setdefault(attempts[0].step, []).append(attempts)
    shown: list[AttemptRecord] = []
    left_out: dict[str, int] = {}
    for step, members in by_step.items():
        done = [attempts for attempts in members if attempts[-1].outcome != "collecting"]
        done.sort(key=lambda attempts: sum(record.running for record in attempts), reverse=True)
        shown.extend(record for attempts in done[:of_each] for record in attempts)
        if len(done) > of_each:
            left_out[step] = len(done) - of_each
    return shown, left_out


def _width(stream: TextIO) -> int:
    return min(_WIDEST, shutil.get_terminal_size().columns) if stream.isatty() else 100
