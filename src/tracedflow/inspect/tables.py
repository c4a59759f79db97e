"""Plain tables for people: the first columns to the left, numbers to the right."""

from __future__ import annotations

from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> list[str]:
    """Return the lines of a table, its head first; the first `left` columns are aligned to the left."""
    everything = [head, *rows]
    widths = [max(len(row[column]) for row in everything) for column in range(len(head))]
    return ["  ".join(_cell(cell, widths[at], to_the_left=at < left) for at, cell in enumerate(row)).rstrip() for row in everything]


def _cell(text: str, width: int, *, to_the_left: bool) -> str:
    return text.ljust(width) if to_the_left else text.rjust(width)
