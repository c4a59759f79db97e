"""Where the time of a run went: each step execution split into its parts, and the parts of the critical path.

Two sums hold, to the rounding of floats. Of an execution: queued + running + backoff + waiting = its end - its readiness.
Of the run: the parts of its critical path, with the engine's own share, = its wall clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..records import AttemptRecord
from .critical import PARTS, CriticalPath, Part, critical_path
from .durations import short
from .executions import Execution, executions_of
from .tables import table, without_empty


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """What the executions of one step took together, in seconds. `blocked` is a part of `running`."""

    step: str
    executions: int
    queued: float
    running: float
    blocked: float
    backoff: float
    waiting: float
    joining: float  # from when the first event of a join was there until the last one was: the events waited, no execution did
    on_path: float  # of the critical path

    @property
    def total(self) -> float:
        """From readiness to the end, over all executions."""
        return self.queued + self.running + self.backoff + self.waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounting:
    """Where the time of one run went. `str()` gives a table."""

    wall: float  # seconds
    path: CriticalPath
    steps: tuple[StepTime, ...] = field(default=())  # most on the critical path first

    @property
    def parts(self) -> dict[Part, float]:
        """The wall clock by part, along the critical path; they sum to `wall`."""
        return self.path.parts

    def __str__(self) -> str:
        return "\n".join([self._clock(), "", *table(*without_empty(_COLUMNS, [_row(each) for each in self.steps]))])

    def _clock(self) -> str:
        shown = [f"{part} {short(seconds)}" for part, seconds in self.parts.items() if seconds > 0]
        return f"{short(self.wall)} of wall clock, along the critical path: {', '.join(shown)}"


def account(records: Sequence[AttemptRecord], started: float | None = None, ended: float | None = None) -> Accounting:
    """Return where the time of one run went; `started` and `ended` are the run's own, if known."""
    path = critical_path(records, started, ended)
    known = executions_of(records)
    on_path = path.steps
    of_step: dict[str, list[Execution]] = {}
    for execution in known.values():
        of_step.setdefault(execution.step, []).append(execution)
    steps = [_step_time(step, of, _joining(of, known), on_path.get(step, 0.0)) for step, of in of_step.items()]
    return Accounting(wall=path.duration, path=path, steps=tuple(sorted(steps, key=lambda each: -each.on_path)))


def _step_time(step: str, executions: Sequence[Execution], joining: float, on_path: float) -> StepTime:
    sums = dict.fromkeys(PARTS, 0.0)
    for execution in executions:
        for part, begin, end in execution.stretches():
            sums[part] += end - begin
    return StepTime(
        step=step,
        executions=len(executions),
        queued=sums["queued"],
        running=sums["running"] + sums["blocked"],
        blocked=sums["blocked"],
        backoff=sums["backoff"],
        waiting=sums["waiting"],
        joining=joining,
        on_path=on_path,
    )


def _joining(executions: Sequence[Execution], known: dict[int, Execution]) -> float:
    """Add up, over the joins of a step, the time from its first event to its last."""
    seconds = 0.0
    first: float | None = None  # of a join by `collect_events`: when its first event came
    for execution in executions:
        if execution.outcome == "collecting":
            first = execution.ready_at if first is None else first
        elif first is not None:
            seconds += execution.ready_at - first
            first = None
        elif len(execution.causes) > 1:
            sent = [known[cause].ended_at for cause in execution.causes if cause in known]
            seconds += max(0.0, execution.ready_at - min(sent, default=execution.ready_at))
    return seconds


_COLUMNS = ("step", "runs", "on path", "running", "blocked", "queued", "backoff", "waiting", "joining")


def _row(time: StepTime) -> tuple[str, ...]:
    seconds = (time.on_path, time.running, time.blocked, time.queued, time.backoff, time.waiting, time.joining)
    return (time.step, str(time.executions), *("-" if each < 0.00005 else short(each) for each in seconds))
