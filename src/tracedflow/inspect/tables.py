"""Plain tables for people: the first columns to the left, numbers to the right."""

from __future__ import annotations

from collections.abc import Sequence

_GAP = "  "
_LEAST = 10  # columns that a cell keeps, however narrow the terminal is


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1, width: int | None = None, whole: int = 0) -> list[str]:
    """Return the lines of a table, its head first; the first `left` columns are aligned to the left.

    With a `width`, the widest columns are cut until it fits, if it can; the first `whole` columns never are.
    """
    everything = [head, *rows]
    widths = [max(len(row[column]) for row in everything) for column in range(len(head))]
    if width is not None:
        _narrow(widths, width, whole)
    return [_GAP.join(_cell(cell, widths[at], to_the_left=at < left) for at, cell in enumerate(row)).rstrip() for row in everything]


def without_empty(head: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """Return a table without the columns that have a dash in every row."""
    kept = [at for at in range(len(head)) if not rows or any(row[at] != "-" for row in rows)]
    return [head[at] for at in kept], [[row[at] for at in kept] for row in rows]


def _narrow(widths: list[int], width: int, whole: int) -> None:
    """Take from the widest column, again and again, until all fit."""
    while sum(widths) + len(_GAP) * (len(widths) - 1) > width:
        at = max(range(whole, len(widths)), key=lambda column: widths[column], default=None)
        if at is None or widths[at] <= _LEAST:
            return
        widths[at] -= 1


def _cell(text: str, width: int, *, to_the_left: bool) -> str:
    shown = text if len(text) <= width else f"{text[: width - 1]}…"
    return shown.ljust(width) if to_the_left else shown.rjust(width)
