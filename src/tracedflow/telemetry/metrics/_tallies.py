"""Attempts as they are taken down: the least that can be done for each, and their sums when somebody looks."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from opentelemetry.trace import SpanContext

from ..._record_log import ENDED_AT, OUTCOME, STEP, error_of, input_types, only_type

if TYPE_CHECKING:
    from ..._record_log import Row
    from ...middleware import RunCall, StepCall

EXEMPLAR_EVERY = 1.0  # seconds: a backend keeps few
_SAMPLED = 1  # the bit of the trace flags

Entry: TypeAlias = "tuple[Row, bool, float, float, SpanContext | None]"  # row, last, seconds, queued, exemplar
Settle: TypeAlias = "Callable[[StepTally], None]"
Simple: TypeAlias = "tuple[Any, Any, float, float]"  # outcome and event type, both str; seconds, queued


def sampled_context(call: RunCall | StepCall) -> SpanContext | None:
    """Return the span of a call, if a backend will have it."""
    context = call.span_context
    return context if isinstance(context, SpanContext) and context.trace_flags & _SAMPLED else None


class Sums:
    """What some attempts of one step come to."""

    def __init__(self) -> None:
        self.attempts: dict[tuple[str, str], int] = {}  # by outcome and error
        self.events: dict[str, int] = {}  # that executions ended with, by type
        self.seconds: dict[str, list[float]] = {}  # of executions, by outcome
        self.marked: list[tuple[str, float, SpanContext]] = []  # the same, of those that are exemplars
        self.queued: list[float] = []  # seconds

    def add_simple(self, entries: list[Simple]) -> None:
        """Add executions of one attempt and one event."""
        alike = Counter([(outcome, kind) for outcome, kind, _, _ in entries])
        for (outcome, kind), count in alike.items():
            self._count(outcome, "", count)
            self.events[kind] = self.events.get(kind, 0) + count
        for outcome in {outcome for outcome, _ in alike}:
            self.seconds.setdefault(outcome, []).extend([seconds for each, _, seconds, _ in entries if each == outcome])
        self.queued.extend([queued for _, _, _, queued in entries])

    def add(self, entry: Entry) -> None:
        """Add an attempt."""
        row, last, duration, wait, exemplar = entry
        outcome = str(row[OUTCOME])
        self._count(outcome, error_of(row), 1)
        if not last:
            return
        self.queued.append(wait)
        if exemplar is not None:
            self.marked.append((outcome, duration, exemplar))
        else:
            self.seconds.setdefault(outcome, []).append(duration)
        for each in input_types(row):
            kind = str(each)
            self.events[kind] = self.events.get(kind, 0) + 1

    def _count(self, outcome: str, error: str, count: int) -> None:
        self.attempts[outcome, error] = self.attempts.get((outcome, error), 0) + count


class StepTally:
    """The attempts of one step that are taken down and not summed yet."""

    def __init__(self, labels: tuple[str, str]) -> None:
        self.labels = labels
        # Appended by loops, emptied by whoever looks: both are safe with threads.
        self.simple: deque[Simple] = deque()  # most
        self.others: deque[Entry] = deque()
        self.marked: dict[object, float] = {}  # outcome -> when it had its last exemplar

    def take(self, row: Row, call: StepCall, last: bool) -> int:
        """Take down an attempt; return how many are."""
        ended: Any = row[ENDED_AT]
        seconds: float = ended - call.started_at
        exemplar = None
        if last and call.trace_id is not None and ended - self.marked.get(row[OUTCOME], 0.0) >= EXEMPLAR_EVERY:
            exemplar = sampled_context(call)
            if exemplar is not None:
                self.marked[row[OUTCOME]] = ended
        kind = only_type(row)
        if kind is None or exemplar is not None:
            self.others.append((row, last, seconds, call.queued, exemplar))
        else:
            self.simple.append((row[OUTCOME], kind, seconds, call.queued))
        return len(self.simple) + len(self.others)

    def summed(self) -> Sums:
        """Sum what is taken down, and forget it."""
        sums = Sums()
        sums.add_simple([self.simple.popleft() for _ in range(len(self.simple))])
        while self.others:
            sums.add(self.others.popleft())
        return sums


class Taker:
    """Hears of every attempt of the runs of one workflow."""

    def __init__(self, pending: int, add: Callable[[StepCall], StepTally], add_details: Callable[[StepCall], None], settle: Settle) -> None:
        self._tallies: dict[object, StepTally] = {}
        self._pending = pending  # attempts of a step that are taken down before they are summed
        self._add = add
        self._add_details = add_details
        self._settle = settle

    def take(self, row: Row, call: StepCall, last: bool) -> None:
        """Take down an attempt."""
        tally = self._tallies.get(row[STEP])
        if tally is None:
            tally = self._tallies[row[STEP]] = self._add(call)
        count = tally.take(row, call, last)
        if last and (call.collecting or call.joined or call.limit_waits or call.measurements):  # more than the record says
            self._add_details(call)
        if count >= self._pending:
            self._settle(tally)
