"""What is live now, as lines: of each run a waterfall of its latest attempts and of what it is at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..inspect.durations import short
from ..inspect.waterfall import Line, waterfall
from ..records import AttemptRecord

if TYPE_CHECKING:
    from ..clock import Clock
    from ..middleware import RunCall, StepCall

PATIENCE = 0.3  # seconds; a shorter run is over before a drawing could be read
_RECENT = 60  # attempts that are looked at
_FEWEST = 4  # rows of a run


@dataclass(slots=True)
class _Open:
    """A step execution that has not ended. `at_rest` is since when it waits, and for what; None: it runs."""

    call: StepCall
    at_rest: tuple[float, str] | None = None


@dataclass(slots=True)
class LiveRun:
    """A run that has not ended, with its clock."""

    call: RunCall
    timer: Clock
    steps: dict[int, _Open] = field(default_factory=dict[int, _Open])

    def began(self, call: StepCall) -> None:
        """Take a step execution that begins."""
        self.steps[call.execution] = _Open(call)

    def ended(self, call: StepCall) -> None:
        """Take the end of one."""
        self.steps.pop(call.execution, None)

    def rests(self, call: StepCall | None, what: str) -> None:
        """Take that an execution waits: for its next attempt, or for an event."""
        if call is not None and (found := self.steps.get(call.execution)) is not None:
            found.at_rest = (self.timer.now(), what)

    def goes_on(self, call: StepCall | None) -> None:
        """Take that it does so no more."""
        if call is not None and (found := self.steps.get(call.execution)) is not None:
            found.at_rest = None

    def drawn(self, width: int, rows: int, *, ascii_only: bool) -> list[Line]:
        """Return its waterfall up to now, under a line that says which run it is. Nothing while it is young."""
        now = self.timer.now()
        if now - self.call.started_at < PATIENCE:
            return []
        live = dict(self.steps)
        records = [*self.call.records[-_RECENT:], *(_so_far(each, now) for each in live.values())]
        ongoing = {number: _note(each, now) for number, each in live.items()}
        drawing = waterfall(records, width=width, rows=rows, ascii_only=ascii_only, ongoing=ongoing)
        heading: Line = ((f"{self.call.workflow}", "bold"), (f"  run {self.call.run_id}, {short(now - self.call.started_at)}", "dim"))
        return [(), heading, *drawing.lines]


def all_drawn(runs: Sequence[LiveRun], width: int, height: int, *, ascii_only: bool) -> list[Line]:
    """Return the waterfalls of all live runs, in as many lines as a terminal has."""
    shown = list(runs)[: max(1, height // (_FEWEST + 5))]
    rows = max(_FEWEST, (height - 2) // max(1, len(shown)) - 5)
    lines = [line for run in shown for line in run.drawn(width, rows, ascii_only=ascii_only)]
    if lines and len(shown) < len(runs):
        lines.append(((f"and {len(runs) - len(shown)} more runs", "dim"),))
    return lines


def _note(step: _Open, now: float) -> str:
    return "running" if step.at_rest is None else f"{step.at_rest[1]} for {short(now - step.at_rest[0])}"


def _so_far(step: _Open, now: float) -> AttemptRecord:
    """Return the record that the latest attempt would leave if it ended now."""
    call = step.call
    resting = 0.0 if step.at_rest is None else now - step.at_rest[0]
    in_backoff = step.at_rest is not None and step.at_rest[1] == "backoff"
    attempt = max(1, call.attempts + (1 if in_backoff else 0))
    at_rest = () if in_backoff or step.at_rest is None else (("waiting", step.at_rest[0], now),)
    return AttemptRecord(
        run_id=call.run_id,
        workflow=call.workflow,
        step=call.step,
        execution=call.execution,
        attempt=attempt,
        events_in=(),
        causes=(),
        enqueued_at=call.enqueued_at,
        started_at=now if in_backoff else call.started_at if attempt == 1 else max(call.started_at, now - resting),
        ended_at=now,
        backoff=resting if in_backoff else 0.0,
        waiting=0.0 if in_backoff else (call.waiting if attempt == 1 else 0.0) + resting,
        blocked=call.blocked if attempt == 1 else 0.0,
        interruptions=() if in_backoff else (*call.interruptions, *at_rest),
    )
