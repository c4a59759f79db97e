"""`Recorder`: an observer that keeps what it saw, in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from ..events import StopEvent
from ..middleware import AttemptCall, AttemptNext, Notice, Observer, RunCall, RunNext, StepCall, StepNext, StepResult

CallT = TypeVar("CallT", RunCall, StepCall, AttemptCall)
NoticeT = TypeVar("NoticeT", bound=Notice)


@dataclass(slots=True, eq=False)
class Seen(Generic[CallT]):
    """A call that the recorder saw begin. `result` and `error` say how it ended, once `ended`."""

    call: CallT
    ended: bool = False
    result: StepResult = None
    error: BaseException | None = None


class Recorder(Observer):
    """Keeps every call and notice of the runs that it watches, for assertions. It never forgets: use one for each test.

    `runs`, `steps`, `attempts`: the calls in the order they began. `notices`: in the order heard. `timeline`: all of it as
    one list of lines, such as "step work began", "attempt work 1 ended: ValueError", "EventSent".
    """

    def __init__(self) -> None:
        self.runs: list[Seen[RunCall]] = []
        self.steps: list[Seen[StepCall]] = []
        self.attempts: list[Seen[AttemptCall]] = []
        self.notices: list[Notice] = []
        self.timeline: list[str] = []

    async def run(self, call: RunCall, call_next: RunNext, /) -> StopEvent | None:
        """Record a run."""
        seen = Seen(call)
        self.runs.append(seen)
        self._began(f"run {call.workflow}")
        try:
            result = await call_next(call)
        except BaseException as error:
            self._ended(f"run {call.workflow}", seen, None, error)
            raise
        self._ended(f"run {call.workflow}", seen, result, None)
        return result

    async def step(self, call: StepCall, call_next: StepNext, /) -> StepResult:
        """Record a step execution."""
        seen = Seen(call)
        self.steps.append(seen)
        self._began(f"step {call.step}")
        try:
            result = await call_next(call)
        except BaseException as error:
            self._ended(f"step {call.step}", seen, None, error)
            raise
        self._ended(f"step {call.step}", seen, result, None)
        return result

    async def attempt(self, call: AttemptCall, call_next: AttemptNext, /) -> StepResult:
        """Record an attempt."""
        seen, name = Seen(call), f"attempt {call.step.step} {call.attempt}"
        self.attempts.append(seen)
        self._began(name)
        try:
            result = await call_next(call)
        except BaseException as error:
            self._ended(name, seen, None, error)
            raise
        self._ended(name, seen, result, None)
        return result

    def on(self, notice: Notice, /) -> None:
        """Record a notice."""
        self.notices.append(notice)
        self.timeline.append(type(notice).__name__)

    def _began(self, name: str) -> None:
        self.timeline.append(f"{name} began")

    def _ended(self, name: str, seen: Seen[CallT], result: StepResult, error: BaseException | None) -> None:
        seen.ended, seen.result, seen.error = True, result, error
        self.timeline.append(f"{name} ended" if error is None else f"{name} ended: {type(error).__name__}")

    def heard(self, kind: type[NoticeT]) -> list[NoticeT]:
        """Return the notices of one kind."""
        return [notice for notice in self.notices if isinstance(notice, kind)]

    @property
    def order(self) -> list[str]:
        """The names of the steps, in the order in which their executions began."""
        return [seen.call.step for seen in self.steps]

    def tries(self, step: str) -> list[Seen[AttemptCall]]:
        """Return the attempts of one step."""
        return [seen for seen in self.attempts if seen.call.step.step == step]
