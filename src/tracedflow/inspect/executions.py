"""Step executions, put together from the records of their attempts: what the analyses of time work on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

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
        """Yield (what, from, until), without gaps, from its readiness to its end.

        A record says how long an attempt waited and was blocked, not when: blocked is put first, a wait in the middle.
        """
        at = self.ready_at
        for record in self.attempts:
            backoff = min(max(0.0, record.started_at - at), record.backoff)
            yield "backoff", at, at + backoff
            yield "queued", at + backoff, record.started_at
            yield from _within(record)
            at = record.ended_at


_AT_ONCE = 0.001  # seconds that the engine may take between an end and what follows


def _within(record: AttemptRecord) -> Iterator[tuple[Stretch, float, float]]:
    begin, end = record.started_at, record.ended_at
    body = max(0.0, end - begin)
    blocked = min(body, record.blocked)
    parked = min(body - blocked, record.waiting)
    running = min(body - blocked - parked, max(0.0, record.running - blocked))
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
