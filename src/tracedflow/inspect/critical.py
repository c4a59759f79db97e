"""The critical path of a run, and where the time on it went. Exact: from what caused what, not guessed from overlaps.

Walks back from the execution that ended last, to the one that sent its last input, up to the start. Each stretch between
an execution's becoming ready and the sending of the next event is split into the parts of its records.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from ..records import AttemptRecord
from .executions import Execution, executions_of

Part: TypeAlias = Literal["queued", "running", "blocked", "backoff", "waiting", "engine"]
"""What a moment was spent on. `queued`: for a slot or a limit. `blocked`: running, and the event loop could not turn.
`waiting`: parked for an event. `engine`: between the end of one execution and the readiness of the next."""

OUTSIDE = "outside"
"""The step of a hop in which the run waited for an event from outside, and nothing else."""

PARTS: tuple[Part, ...] = ("running", "blocked", "queued", "backoff", "waiting", "engine")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """One stretch of the path: an execution, from when it was ready until it sent what came next. Times as in the records."""

    step: str
    execution: int
    start: float
    end: float
    parts: dict[Part, float] = field(default_factory=dict[Part, float])

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.end - self.start


@dataclass(frozen=True, slots=True, kw_only=True)
class CriticalPath:
    """The chain of executions that the end of a run waited for, first to last.

    The parts of all hops, and `engine`, sum to `duration`.
    """

    start: float
    end: float
    hops: tuple[Hop, ...] = ()

    @property
    def duration(self) -> float:
        """Seconds from the start of the run, or its first event, to its end."""
        return self.end - self.start

    @property
    def parts(self) -> dict[Part, float]:
        """Seconds by part, `engine` being all that is no hop's."""
        found: dict[Part, float] = dict.fromkeys(PARTS, 0.0)
        for hop in self.hops:
            for part, seconds in hop.parts.items():
                found[part] += seconds
        found["engine"] += self.duration - sum(found.values())
        return found

    @property
    def steps(self) -> dict[str, float]:
        """Seconds by step, most first."""
        found: dict[str, float] = {}
        for hop in self.hops:
            found[hop.step] = found.get(hop.step, 0.0) + hop.duration
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def share(self, step: str) -> float:
        """Return the share of the path, from 0 to 1, that a step had."""
        return self.steps.get(step, 0.0) / self.duration if self.duration > 0 else 0.0


def critical_path(records: Sequence[AttemptRecord], started: float | None = None, ended: float | None = None) -> CriticalPath:
    """Return the critical path of one run; `started` and `ended` are the run's own, if known."""
    known = executions_of(records)
    if not known:
        return CriticalPath(start=started or 0.0, end=ended or started or 0.0)
    by_itself = [each for each in known.values() if each.outcome != "cancelled"]  # the others were cut off by the end of the run
    last = max(by_itself or known.values(), key=lambda each: (each.ended_at, each.number))
    hops: list[Hop] = []
    current: Execution | None = last
    until = last.ended_at
    seen: set[int] = set()
    while current is not None and current.number not in seen:
        seen.add(current.number)
        hops.append(_hop(current, until))
        until = current.ready_at
        trigger = current.triggered_by(known)
        if trigger is None and (trigger := current.ended_before(known)) is not None:  # it waited for somebody
            hops.append(Hop(step=OUTSIDE, execution=0, start=trigger.ended_at, end=until, parts={"waiting": until - trigger.ended_at}))
            until = trigger.ended_at
        current = trigger
    hops.reverse()
    start = hops[0].start if started is None else min(started, hops[0].start)
    return CriticalPath(start=start, end=max(last.ended_at, ended or last.ended_at), hops=tuple(hops))


def _hop(execution: Execution, until: float) -> Hop:
    parts: dict[Part, float] = {}
    for part, begin, end in execution.stretches():
        seconds = min(end, until) - begin
        if seconds > 0:
            parts[part] = parts.get(part, 0.0) + seconds
    end = max(execution.ready_at, min(until, execution.ended_at))
    return Hop(step=execution.step, execution=execution.number, start=execution.ready_at, end=end, parts=parts)
