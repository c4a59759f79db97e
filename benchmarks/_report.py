"""Figures, the limits they are held against, and the tables they are shown in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from ._measure import Rounds


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of a table. `limit` is the most that `value` may be, or the least with `at_least`; None: shown and not held."""

    name: str
    value: float
    unit: str
    limit: float | None = None
    at_least: bool = False
    ours: float | None = None  # what the value is made of, in `each`
    other: float | None = None
    each: str = "µs"
    wall: float | None = None  # the value by the clock on the wall, where `value` is of processor time

    @property
    def is_missed(self) -> bool:
        """Whether the value is on the wrong side of its limit."""
        if self.limit is None:
            return False
        return self.value < self.limit if self.at_least else self.value > self.limit

    @property
    def verdict(self) -> str:
        """`held`, `MISSED`, or nothing where there is no limit."""
        if self.limit is None:
            return ""
        return "MISSED" if self.is_missed else "held"


@dataclass(slots=True, kw_only=True)
class Section:
    """The figures of one part of the suite, under one telemetry setting; `notes` say what is not there and why."""

    part: str
    title: str
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def against_bare(name: str, rounds: Rounds, limit: float | None = None) -> Figure:
    """Return the ratio of ours to bare, with the best microseconds per item of each beside it."""
    ours, other = best_of(rounds)
    return Figure(name=name, value=rounds.ratio, unit="x bare", limit=limit, wall=rounds.wall_ratio, ours=ours, other=other)


def against_peer(name: str, rounds: Rounds, limit: float | None = None) -> Figure:
    """Return how many times as long the peer takes, with the best microseconds per item of each beside it."""
    ours, other = best_of(rounds)
    times, wall = 1 / rounds.ratio, 1 / rounds.wall_ratio
    return Figure(name=name, value=times, unit="x ours", limit=limit, at_least=True, wall=wall, ours=ours, other=other)


def best_of(rounds: Rounds) -> tuple[float, float]:
    """Return the least microseconds of processor time per item that each side took."""
    return min(turn.cpu for turn in rounds.ours) * 1e6, min(turn.cpu for turn in rounds.other) * 1e6


COLUMNS = ("figure", "tracedflow", "other", "median", "wall", "limit", "")


def rows_of(figures: Iterable[Figure]) -> list[tuple[str, ...]]:
    """Return the cells of a table, a tuple a figure, in the order of `COLUMNS`."""
    return [_row(figure) for figure in figures]


def _row(figure: Figure) -> tuple[str, ...]:
    limit = "" if figure.limit is None else f"{'≥' if figure.at_least else '≤'} {figure.limit:g}"
    wall = "" if figure.wall is None else number(figure.wall)
    sides = ("" if side is None else f"{number(side)} {figure.each}" for side in (figure.ours, figure.other))
    return (figure.name, *sides, f"{number(figure.value)} {figure.unit}".strip(), wall, limit, figure.verdict)


def number(value: float) -> str:
    """Return a value with as many digits as can be told apart."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def text_table(section: Section) -> str:
    """Return the section as plain text."""
    rows = [COLUMNS, *rows_of(section.figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    return "\n".join([section.title, *_lines(rows, widths), *(f"  {note}" for note in section.notes)])


def _lines(rows: Sequence[tuple[str, ...]], widths: Sequence[int]) -> Iterator[str]:
    for index, row in enumerate(rows):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        yield ("  " + "  ".join(cells)).rstrip()
        if index == 0:
            yield ("  " + "  ".join("-" * width for width in widths)).rstrip()
