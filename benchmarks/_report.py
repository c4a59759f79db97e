"""Figures, the limits they are held against, and the table they are shown in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ._measure import Rounds


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of the table. `limit` is the most that `value` may be; None: shown and not held."""

    name: str
    value: float
    unit: str
    limit: float | None = None
    ours: str = ""
    bare: str = ""

    @property
    def is_missed(self) -> bool:
        """Whether the value is over its limit."""
        return self.limit is not None and self.value > self.limit

    @property
    def verdict(self) -> str:
        """`held`, `MISSED`, or nothing where there is no limit."""
        if self.limit is None:
            return ""
        return "MISSED" if self.is_missed else "held"


def against_bare(name: str, rounds: Rounds, limit: float | None = None) -> Figure:
    """Return the ratio of ours to bare, with the best seconds per item of each beside it."""
    ours, bare = _microseconds(min(rounds.ours)), _microseconds(min(rounds.bare))
    return Figure(name=name, value=rounds.ratio, unit="x bare", limit=limit, ours=ours, bare=bare)


def _microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:.2f} µs"


def table(title: str, figures: Sequence[Figure]) -> str:
    """Return the figures as a plain text table under a title."""
    rows = [("figure", "tracedflow", "bare", "median", "limit", ""), *map(_row, figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join([title, *_lines(rows, widths)])


def _row(figure: Figure) -> tuple[str, ...]:
    limit = "" if figure.limit is None else f"{figure.limit:g}"
    return (figure.name, figure.ours, figure.bare, f"{figure.value:.2f} {figure.unit}", limit, figure.verdict)


def _lines(rows: Sequence[tuple[str, ...]], widths: Sequence[int]) -> Iterator[str]:
    for number, row in enumerate(rows):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        yield ("  " + "  ".join(cells)).rstrip()
        if number == 0:
            yield ("  " + "  ".join("-" * width for width in widths)).rstrip()
