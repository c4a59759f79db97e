"""`Faults`: a middleware that delays, fails, loses, doubles and cancels, by a seed, so that a bad day can be had again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Literal, Self, TypeAlias, TypedDict, Unpack

from ..context import Context
from ..events import Event, StopEvent
from ..middleware import AttemptCall, AttemptNext, Middleware, StepResult

FaultKind: TypeAlias = Literal["delay", "raise", "drop", "duplicate", "cancel"]

EventFilter: TypeAlias = type[Event] | Callable[[Event], bool]
"""A class, with its subclasses, or a function that tells whether an event is meant."""


class InjectedError(Exception):
    """What an injected failure raises, unless the rule says otherwise."""


@dataclass(slots=True, kw_only=True)
class Fault:
    """One fault that was injected."""

    kind: FaultKind
    run_id: str
    step: str
    execution: int
    attempt: int
    seconds: float = 0.0  # of a delay, or until a cancellation
    error: BaseException | None = None


class FaultOptions(TypedDict, total=False):
    """Which attempts a rule strikes; all of it must hold.

    `event`: a class, or a function of the event that the step was started by. `attempt`: its number, or several; 1 is the
    first. `chance`: of each attempt, from 0 to 1. `times`: how often at most.
    """

    event: EventFilter | None
    attempt: int | Collection[int] | None
    chance: float
    times: int | None


@dataclass(slots=True, kw_only=True)
class _Rule:
    kind: FaultKind
    steps: tuple[str, ...]  # none: all
    event: EventFilter | None = None
    attempts: Collection[int] | None = None
    chance: float = 1.0
    times: int | None = None
    seconds: tuple[float, float] = (0.0, 0.0)
    error: Callable[[], BaseException] = field(default=InjectedError)

    def concerns(self, call: AttemptCall) -> bool:
        """Whether it may strike this attempt, if the dice say so."""
        if self.times == 0 or (self.steps and call.step.step not in self.steps):
            return False
        if self.attempts is not None and call.attempt not in self.attempts:
            return False
        return self.event is None or any(_is_meant(event, self.event) for event in call.step.inputs)


def _is_meant(event: Event, wanted: EventFilter) -> bool:
    return isinstance(event, wanted) if isinstance(wanted, type) else wanted(event)


class Faults(Middleware):
    """Injects faults into attempts, as if the step had had them: retry policies see them.

        Faults(seed=7).delay("fetch", seconds=(0.1, 2.0)).fail("fetch", chance=0.3).drop("parse", times=1)

    Whether an attempt is hit follows from the seed, the step, the number of its execution in the run and the number of the
    attempt, not from timing: the same seed gives the same faults. `injected` lists them. Each rule takes the names of steps
    (none: all) and `FaultOptions`: `event`, `attempt`, `chance`, `times`. Rules strike in the order they were added.
    """

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._rules: list[_Rule] = []
        self.injected: list[Fault] = []

    def delay(self, *steps: str, seconds: float | tuple[float, float], **which: Unpack[FaultOptions]) -> Self:
        """Wait before the step is called: so many seconds, or a random number from a range. The step's timeout excludes it."""
        span = seconds if isinstance(seconds, tuple) else (seconds, seconds)
        return self._add("delay", steps, which, seconds=span)

    def fail(self, *steps: str, error: Callable[[], BaseException] = InjectedError, **which: Unpack[FaultOptions]) -> Self:
        """Raise what `error()` makes, in place of calling the step."""
        return self._add("raise", steps, which, error=error)

    def drop(self, *steps: str, **which: Unpack[FaultOptions]) -> Self:
        """Call the step and lose what it returns: None comes out. What it sent itself is sent."""
        return self._add("drop", steps, which)

    def duplicate(self, *steps: str, **which: Unpack[FaultOptions]) -> Self:
        """Deliver what the step returns twice, as a queue may. A StopEvent comes once: it ends the run."""
        return self._add("duplicate", steps, which)

    def cancel(self, *steps: str, after: float = 0.0, **which: Unpack[FaultOptions]) -> Self:
        """Cancel the step's task, as if code outside had: before the step is called, or `after` so many seconds if it still runs."""
        return self._add("cancel", steps, which, seconds=(after, after))

    def _add(
        self,
        kind: FaultKind,
        steps: tuple[str, ...],
        which: FaultOptions,
        *,
        seconds: tuple[float, float] = (0.0, 0.0),
        error: Callable[[], BaseException] = InjectedError,
    ) -> Self:
        attempt = which.get("attempt")
        rule = _Rule(
            kind=kind,
            steps=steps,
            event=which.get("event"),
            attempts=(attempt,) if isinstance(attempt, int) else attempt,
            chance=which.get("chance", 1.0),
            times=which.get("times"),
            seconds=seconds,
            error=error,
        )
        if not 0 <= rule.chance <= 1:
            raise ValueError(f"chance={rule.chance!r} must be from 0 to 1")
        if not 0 <= seconds[0] <= seconds[1]:
            raise ValueError(f"seconds={seconds!r} must be a range of seconds that are not negative")
        if rule.attempts is not None and min(rule.attempts, default=0) < 1:
            raise ValueError(f"attempt={attempt!r} must be 1 for the first attempt, or more")
        self._rules.append(rule)
        return self

    async def attempt(self, call: AttemptCall, call_next: AttemptNext, /) -> StepResult:
        """Make one attempt, with the faults that are due."""
        kinds: set[FaultKind] = set()
        cancelling: list[asyncio.TimerHandle] = []
        try:
            for number, rule in enumerate(self._rules):
                fault = self._due(number, rule, call)
                if fault is not None:
                    kinds.add(fault.kind)
                    await _strike(fault, cancelling)
            result = await call_next(call)
        finally:
            for timer in cancelling:
                timer.cancel()
        if "drop" in kinds:
            return None
        return _doubled(result) if "duplicate" in kinds else result

    def _due(self, number: int, rule: _Rule, call: AttemptCall) -> Fault | None:
        """Return the fault that a rule makes in this attempt, and take it down."""
        step = call.step
        if not rule.concerns(call):
            return None
        dice = random.Random(f"{self._seed}/{number}/{step.step}/{step.execution}/{call.attempt}")
        if dice.random() >= rule.chance:
            return None
        if rule.times is not None:
            rule.times -= 1
        fault = Fault(
            kind=rule.kind,
            run_id=step.run_id,
            step=step.step,
            execution=step.execution,
            attempt=call.attempt,
            seconds=dice.uniform(*rule.seconds),
            error=rule.error() if rule.kind == "raise" else None,
        )
        self.injected.append(fault)
        return fault


async def _strike(fault: Fault, cancelling: list[asyncio.TimerHandle]) -> None:
    """Do what a fault does before the step is called."""
    if fault.error is not None:
        raise fault.error
    if fault.kind == "delay":
        await asyncio.sleep(fault.seconds)
    elif fault.kind == "cancel":
        task = asyncio.current_task()
        assert task is not None  # a step runs in one
        if fault.seconds:
            cancelling.append(asyncio.get_running_loop().call_later(fault.seconds, task.cancel))
        else:
            task.cancel()
            await asyncio.sleep(0)


def _doubled(result: StepResult) -> StepResult:
    """Send a returned event once more, before it is returned; of a list, every member is in it twice."""
    if isinstance(result, list):
        return [*result, *(event.model_copy() for event in result if not isinstance(event, StopEvent))]
    if result is not None and not isinstance(result, StopEvent):
        Context.get_step_context().send_event(result.model_copy())
    return result
