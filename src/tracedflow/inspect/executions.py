"""Step executions, put together from the records of their attempts: what the analyses of time work on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

from ..records import AttemptRecord, Outcome

Stretch: TypeAlias = Literal["queued", "running", "blocked", "backoff", "waiting"]


@dataclass(frozen=True, slots=True)
class Execution:
    """One step execution, with its attempts in order."""

    number: int
    step: str
    attempts: tuple[AttemptRecord, ...]

    @property
    def ready_at(self) -> float:
        """When it could run, if there were a slot."""
        return self.attempts[0].enqueued_at

    @property
    def started_at(self) -> float:
        """When its first attempt began."""
        return self.attempts[0].started_at

    @property
    def ended_at(self) -> float:
        """When its last attempt ended."""
        return self.attempts[-1].ended_at

    @property
    def outcome(self) -> Outcome:
        """How it ended: as its last attempt did."""
        return self.attempts[-1].outcome

    @property
    def causes(self) -> tuple[int, ...]:
        """The executions that sent its inputs."""
        return tuple(cause for cause in self.attempts[0].causes if cause is not None)

    def triggered_by(self, known: Mapping[int, Execution]) -> Execution | None:
        """Return the execution that sent its last input, or closed the list that it takes; None: it came from outside."""
        senders = [known[cause] for cause in self.causes if cause in known]
        if not senders:
            return None
        latest = max(senders, key=lambda sender: (min(sender.ended_at, self.ready_at), sender.number))
        if len(self.attempts[0].events_in) == 1 or self.ready_at - latest.ended_at < _AT_ONCE:
            return latest
        return self.ended_before(known) or latest  # a list is complete when its whole stream has ended, also what sent nothing

    def ended_before(self, known: Mapping[int, Execution]) -> Execution | None:
        """Return the execution that ended last before this one was ready."""
        before = [each for each in known.values() if each.ended_at <= self.ready_at and each.number != self.number]
        return max(before, key=lambda each: (each.ended_at, each.number), default=None)

    def stretches(self) -> Iterator[tuple[Stretch, float, float]]:
        """Yield (what, from, until), without gaps, from its readiness to its end."""
        at = self.ready_at
        for record in self.attempts:
            backoff = min(max(0.0, record.started_at - at), record.backoff)
            yield "backoff", at, at + backoff
            yield "queued", at + backoff, record.started_at
            yield from within(record)
            at = record.ended_at


_AT_ONCE = 0.001  # seconds that the engine may take between an end and what follows


def within(record: AttemptRecord) -> Iterator[tuple[Stretch, float, float]]:
    """Yield (what, from, until), without gaps, from the start of an attempt to its end."""
    if not record.interruptions:
        yield from _supposed(record)
        return
    at = record.started_at
    for what, begin, end in _apart(record):
        if begin > at:
            yield "running", at, begin
        yield what, begin, end
        at = end
    if record.ended_at > at:
        yield "running", at, record.ended_at


def _apart(record: AttemptRecord) -> list[tuple[Stretch, float, float]]:
    """Return the interruptions in order and without overlaps: while a branch of the step waits, another one may block the loop."""
    free = [(record.started_at, record.ended_at)]
    found: list[tuple[Stretch, float, float]] = []
    for what, begin, end in sorted(record.interruptions, key=lambda each: each[0] == "blocked"):  # how long it waited is exact
        left: list[tuple[float, float]] = []
        for low, high in free:
            start, stop = max(low, begin), min(high, end)
            if start >= stop:
                left.append((low, high))
                continue
            found.append((cast("Stretch", what), start, stop))
            left += [each for each in ((low, start), (stop, high)) if each[0] < each[1]]
        free = left
    return sorted(found, key=lambda each: each[1])


def _supposed(record: AttemptRecord) -> Iterator[tuple[Stretch, float, float]]:
    """Yield the parts of an attempt of which nobody said when they were: blocked first, a wait in the middle."""
    begin, end = record.started_at, record.ended_at
    body = max(0.0, end - begin)
    blocked = min(body, record.blocked)
    parked = min(body - blocked, record.waiting)
    left = body - blocked - parked
    running = min(left, max(0.0, record.running - blocked)) if record.running else left  # it may be known of its span alone
    queued = body - blocked - parked - running  # for a slot, after a wait
    before = running / 2 if parked or queued else running
    at = begin
    order: tuple[tuple[Stretch, float], ...] = (
        ("blocked", blocked), ("running", before), ("waiting", parked), ("queued", queued), ("running", running - before),
    )  # fmt: skip
    for part, seconds in order:
        if seconds > 0:
            yield part, at, at + seconds
            at += seconds


def executions_of(records: Sequence[AttemptRecord]) -> dict[int, Execution]:
    """Return the executions of one run by number, in the order in which they became ready."""
    attempts: dict[int, list[AttemptRecord]] = {}
    for record in records:
        attempts.setdefault(record.execution, []).append(record)
    found = [
        Execution(number, of[0].step, tuple(sorted(of, key=lambda record: (record.attempt, record.started_at))))
        for number, of in attempts.items()
    ]
    return {each.number: each for each in sorted(found, key=lambda each: (each.ready_at, each.number))}
