"""`Faults`: a middleware that delays, fails and loses, by a seed, so that a bad day can be had again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self, TypeAlias

from ..middleware import AttemptCall, AttemptNext, Middleware, StepResult

FaultKind: TypeAlias = Literal["delay", "raise", "drop"]


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
    seconds: float = 0.0  # of a delay
    error: Exception | None = None


@dataclass(slots=True, kw_only=True)
class _Rule:
    kind: FaultKind
    steps: tuple[str, ...]  # none: all
    chance: float
    times: int | None
    shortest: float = 0.0
    longest: float = 0.0
    error: Callable[[], Exception] = InjectedError


class Faults(Middleware):
    """Injects faults into attempts, as if the step had had them: retry policies see them.

        Faults(seed=7).delay("fetch", seconds=(0.1, 2.0)).fail("fetch", chance=0.3).drop("parse", times=1)

    Whether an attempt is hit follows from the seed, the step, the number of its execution in the run and the number of the
    attempt, not from timing: the same seed gives the same faults. `injected` lists them. Each rule takes the names of steps
    (none: all), the `chance` of each attempt from 0 to 1, and how many `times` at most it strikes.
    """

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._rules: list[_Rule] = []
        self.injected: list[Fault] = []

    def delay(self, *steps: str, seconds: float | tuple[float, float], chance: float = 1.0, times: int | None = None) -> Self:
        """Wait before the step is called: so many seconds, or a random number from a range. The step's timeout excludes it."""
        shortest, longest = seconds if isinstance(seconds, tuple) else (seconds, seconds)
        return self._add(_Rule(kind="delay", steps=steps, chance=chance, times=times, shortest=shortest, longest=longest))

    def fail(self, *steps: str, error: Callable[[], Exception] = InjectedError, chance: float = 1.0, times: int | None = None) -> Self:
        """Raise what `error()` makes, in place of calling the step."""
        return self._add(_Rule(kind="raise", steps=steps, chance=chance, times=times, error=error))

    def drop(self, *steps: str, chance: float = 1.0, times: int | None = None) -> Self:
        """Call the step and lose what it returns: None comes out. What it sent itself is sent."""
        return self._add(_Rule(kind="drop", steps=steps, chance=chance, times=times))

    def _add(self, rule: _Rule) -> Self:
        if not 0 <= rule.chance <= 1:
            raise ValueError(f"chance={rule.chance!r} must be from 0 to 1")
        if not 0 <= rule.shortest <= rule.longest:
            raise ValueError(f"seconds={(rule.shortest, rule.longest)!r} must be a range of seconds that are not negative")
        self._rules.append(rule)
        return self

    async def attempt(self, call: AttemptCall, call_next: AttemptNext, /) -> StepResult:
        """Make one attempt, with the faults that are due."""
        is_lost = False
        for number, rule in enumerate(self._rules):
            fault = self._due(number, rule, call)
            if fault is None:
                continue
            self.injected.append(fault)
            if fault.error is not None:
                raise fault.error
            is_lost = is_lost or fault.kind == "drop"
            if fault.seconds:
                await asyncio.sleep(fault.seconds)
        result = await call_next(call)
        return None if is_lost else result

    def _due(self, number: int, rule: _Rule, call: AttemptCall) -> Fault | None:
        step = call.step
        if rule.times == 0 or (rule.steps and step.step not in rule.steps):
            return None
        dice = random.Random(f"{self._seed}/{number}/{step.step}/{step.execution}/{call.attempt}")
        if dice.random() >= rule.chance:
            return None
        if rule.times is not None:
            rule.times -= 1
        return Fault(
            kind=rule.kind,
            run_id=step.run_id,
            step=step.step,
            execution=step.execution,
            attempt=call.attempt,
            seconds=dice.uniform(rule.shortest, rule.longest),
            error=rule.error() if rule.kind == "raise" else None,
        )
