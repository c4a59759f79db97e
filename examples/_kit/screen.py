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


def show_waterfall(records: Sequence[AttemptRecord], *, rows: int, stream: TextIO) -> None:
    """Draw the attempts of a run on `stream`; the failed and the longest `rows` step executions stay."""
    console = Console(file=stream, highlight=False, width=_width(stream))
    ascii_only = not (stream.encoding or "utf-8").lower().replace("-", "").startswith("utf")
    for line in waterfall(records, width=_width(stream) - 1, rows=rows, ascii_only=ascii_only).lines:
        console.print(Text.assemble(*((piece, _COLOURS.get(style, "")) for piece, style in line)), no_wrap=True, overflow="ellipsis")


def _width(stream: TextIO) -> int:
    return min(_WIDEST, shutil.get_terminal_size().columns) if stream.isatty() else 100
