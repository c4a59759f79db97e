"""The waterfall of a run: one row for each step execution, its time split into queued, running, backoff and so on.

Pure over records: text and style names come out, and whoever shows them brings the colours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, TypeAlias

from ..outcomes import FAILURES
from ..records import AttemptRecord
from .durations import short
from .executions import within

Phase: TypeAlias = Literal["queued", "running", "backoff", "waiting", "blocked"]
Style: TypeAlias = Literal["plain", "bold", "dim", "good", "bad", "odd", "queued", "running", "backoff", "waiting", "blocked"]
Line: TypeAlias = tuple[tuple[str, Style], ...]
"""A line as pieces of text with the name of a style."""

_MARKS: dict[Phase, str] = {"queued": "░", "running": "█", "backoff": "·", "waiting": "─", "blocked": "▓"}
_ASCII: dict[Phase, str] = {"queued": ".", "running": "#", "backoff": "~", "waiting": "-", "blocked": "!"}
_LABELS: dict[Phase, str] = {
    "running": "running",
    "queued": "queued",
    "backoff": "backoff",
    "waiting": "waiting",
    "blocked": "loop blocked",
}
_MOST_NAME = 28  # columns
_LEAST_BAR = 12  # columns


@dataclass(frozen=True, slots=True)
class Waterfall:
    """A drawn waterfall. `str()` gives plain text; `lines` has the names of the styles too."""

    lines: tuple[Line, ...]

    def __str__(self) -> str:
        return "\n".join("".join(text for text, _ in line).rstrip() for line in self.lines)


@dataclass(frozen=True, slots=True)
class _Row:
    """One step execution: what its attempts have in common."""

    step: str
    execution: int
    attempts: tuple[AttemptRecord, ...]

    @property
    def start(self) -> float:
        return self.attempts[0].enqueued_at

    @property
    def end(self) -> float:
        return self.attempts[-1].ended_at

    @property
    def last(self) -> AttemptRecord:
        return self.attempts[-1]

    @property
    def failed(self) -> bool:
        return self.last.outcome in FAILURES

    @property
    def weight(self) -> tuple[bool, bool, float]:
        """What makes a row worth keeping: failures first, joins that only collected last."""
        return self.failed, self.last.outcome != "collecting", self.end - self.start


def waterfall(
    records: Sequence[AttemptRecord],
    *,
    width: int = 100,
    rows: int = 40,
    ascii_only: bool = False,
    ongoing: Mapping[int, str] | None = None,
) -> Waterfall:
    """Draw the attempts of one run, in `width` columns.

    A run with more than `rows` step executions is folded: those that go on, the failed and the longest stay. `ongoing` has
    those that have not ended, each with what it is at; their last record ends now.
    """
    live = ongoing or {}
    if not records:
        return Waterfall(lines=())
    everything = _rows(records)
    heaviest = sorted(everything, key=lambda row: (row.execution in live, row.weight), reverse=True)
    kept = {row.execution for row in heaviest[:rows]}
    shown = [row for row in everything if row.execution in kept]
    paper = _Paper(shown, everything, width, _ASCII if ascii_only else _MARKS, live)
    lines = [paper.row(row) for row in shown]
    if len(shown) < len(everything):
        lines.append(_fold(heaviest[rows:], ascii_only))
    return Waterfall(lines=(*lines, paper.axis(), paper.legend()))


def _rows(records: Sequence[AttemptRecord]) -> list[_Row]:
    by_execution: dict[int, list[AttemptRecord]] = {}
    for record in records:
        by_execution.setdefault(record.execution, []).append(record)
    rows = [
        _Row(attempts[0].step, execution, tuple(sorted(attempts, key=lambda record: record.attempt)))
        for execution, attempts in by_execution.items()
    ]
    return sorted(rows, key=lambda row: (row.start, row.execution))


def _fold(rows: Sequence[_Row], ascii_only: bool) -> Line:
    longest = max(row.end - row.start for row in rows)
    dots = "..." if ascii_only else "⋮"
    noun = "step execution" if len(rows) == 1 else "step executions"
    return ((f"  {dots} {len(rows)} more {noun}, of {short(longest)} at most", "dim"),)


class _Paper:
    """The columns and the time scale that all rows of one waterfall share."""

    def __init__(
        self, shown: Sequence[_Row], everything: Sequence[_Row], width: int, marks: dict[Phase, str], ongoing: Mapping[int, str]
    ) -> None:
        self._marks = marks
        self._ongoing = ongoing
        self._start = min(row.start for row in everything)
        self._span = max(max(row.end for row in everything) - self._start, 1e-9)
        counts: dict[str, int] = {}
        for row in everything:
            counts[row.step] = counts.get(row.step, 0) + 1
        self._repeated = {step for step, count in counts.items() if count > 1}
        self._drawn: set[Phase] = {"running"}
        self._name = min(_MOST_NAME, width // 4, max(len(self._title(row)) for row in shown))
        notes = min(width // 3, max(len(self._told(row)) for row in shown))
        fixed = 2 + self._name + 2 + 8 + 2
        self._bar = max(_LEAST_BAR, width - fixed - (2 + notes if notes else 0))
        self._notes = max(0, width - fixed - self._bar - 2)

    def row(self, row: _Row) -> Line:
        """Draw one step execution."""
        title = self._title(row)
        title = self._cut(title, self._name)
        style: Style = "bad" if row.failed else "dim" if row.last.outcome == "collecting" else "plain"
        pieces: list[tuple[str, Style]] = [(f"  {title:<{self._name}}  ", style), (f"{short(row.end - row.start):>8}", "dim")]
        pieces.extend([("  ", "plain"), *self._draw(row)])
        note = self._cut(self._told(row), self._notes)
        if note:
            pieces.append(("  " + note, style if row.failed else "dim" if row.last.outcome == "collecting" else "odd"))
        return tuple(pieces)

    def axis(self) -> Line:
        """Draw the time scale under the bars."""
        end = short(self._span)
        indent = " " * (2 + self._name + 2 + 8 + 2)
        return ((f"{indent}0{end:>{self._bar - 1}}", "dim"),)

    def legend(self) -> Line:
        """Name the marks that were drawn."""
        pieces: list[tuple[str, Style]] = [("  ", "plain")]
        for phase, label in _LABELS.items():
            if phase in self._drawn:
                pieces.extend([(self._marks[phase] * 2, phase), (f" {label}   ", "dim")])
        return tuple(pieces)

    def _cut(self, text: str, columns: int) -> str:
        if len(text) <= columns:
            return text
        return text[: max(0, columns - 1)] + ("…" if self._marks is _MARKS else "~") if columns else ""

    def _told(self, row: _Row) -> str:
        return self._ongoing.get(row.execution) or _note(row)

    def _title(self, row: _Row) -> str:
        return f"{row.step} #{row.execution}" if row.step in self._repeated else row.step

    def _draw(self, row: _Row) -> list[tuple[str, Style]]:
        """Return the bar as pieces, one per run of equal marks, padded to the bar's width."""
        scale = self._bar / self._span
        first = min(self._bar - 1, int((row.start - self._start) * scale))
        last = max(first + 1, min(self._bar, round((row.end - self._start) * scale)))
        cells = _cells(_phases(row), last - first)
        self._drawn.update(cells)
        pieces: list[tuple[str, Style]] = [(" " * first, "plain")] if first else []
        pieces.extend((self._marks[phase] * len(list(run)), phase) for phase, run in groupby(cells))
        return [*pieces, (" " * (self._bar - last), "plain")]


def _cells(phases: Sequence[tuple[Phase, float]], count: int) -> list[Phase]:
    """Give each of `count` cells the phase that has most of it."""
    total = sum(seconds for _, seconds in phases)
    if total <= 0:
        return ["running"] * count
    cells: list[Phase] = []
    for number in range(count):
        low, high = number * total / count, (number + 1) * total / count
        cells.append(_dominant(phases, low, high))
    return cells


def _dominant(phases: Sequence[tuple[Phase, float]], low: float, high: float) -> Phase:
    shares: dict[Phase, float] = {}
    at = 0.0
    for phase, seconds in phases:
        share = min(high, at + seconds) - max(low, at)
        if share > 0:
            shares[phase] = shares.get(phase, 0.0) + share
        at += seconds
    return max(shares, key=lambda phase: shares[phase]) if shares else "running"


def _phases(row: _Row) -> list[tuple[Phase, float]]:
    """Return the parts of an execution in the order of time."""
    phases: list[tuple[Phase, float]] = []
    at = row.start
    for record in row.attempts:
        before = max(0.0, record.started_at - at)
        backoff = min(before, record.backoff)
        phases.extend([("backoff", backoff), ("queued", before - backoff)])
        phases.extend((part, end - begin) for part, begin, end in within(record))
        at = record.ended_at
    return phases


def _note(row: _Row) -> str:
    """Return what a glance must not miss: the outcome unless it is success, and the attempts if there were several."""
    parts: list[str] = [row.last.outcome] if row.last.outcome != "success" else []
    if row.failed and row.last.error:
        parts.append(row.last.error.rpartition(".")[2])
    if row.last.attempt > 1:
        parts.append(f"{row.last.attempt} attempts")
    return " ".join(parts[:2]) + (", " if len(parts) > 2 else "") + "".join(parts[2:])
