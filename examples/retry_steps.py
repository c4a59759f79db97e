"""Retries: which errors, how long to wait, when to give up; a policy of one's own; and who takes over after the last attempt.

A policy is made of three parts that combine: conditions with `&` and `|`, waits with `+`, stops with `&` and `|`. Any object
with a `next()` is a policy as well. A step that waits for its next attempt holds no slot. When a step has failed for good, a
`@catch_error` step may take over, so often as `max_recoveries` allows.

```mermaid
flowchart LR
  start([Question]) --> ask -->|Answer| finish --> stop([StopEvent])
  ask -. "429: again, after a growing pause" .-> ask
  ask -. failed for good .-> fall_back["fall_back (catch_error)"] -->|Answer| finish
```

`python -m examples.retry_steps [TEXT] [--statuses 429 503]`
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from examples._kit.cli import Stage, run_example
from tracedflow import Context, Event, StartEvent, StopEvent, Workflow, catch_error, step
from tracedflow.events import StepFailedEvent
from tracedflow.resource import Resource
from tracedflow.retry_policy import (
    retry_if_exception_message,
    retry_if_exception_type,
    retry_policy,
    stop_after_attempt,
    stop_after_delay,
    wait_exponential,
    wait_fixed,
)

QUESTION = "two boats a day"

# A service that is asked, and sometimes refuses.


class ServiceError(Exception):
    """The service answered with something else than 200."""

    def __init__(self, status: int, retry_after: float | None = None) -> None:
        super().__init__(f"the service answered {status}")
        self.status = status
        self.retry_after = retry_after  # seconds, as the header of that name says


@dataclass
class Service:
    """Answers with its `statuses`, one after the other, and then with 200."""

    statuses: list[int] = field(default_factory=lambda: [429, 429])
    retry_after: float | None = None
    calls: int = 0

    async def length_of(self, text: str) -> int:
        self.calls += 1
        status = self.statuses[self.calls - 1] if self.calls <= len(self.statuses) else 200
        if status != 200:
            raise ServiceError(status, self.retry_after)
        return len(text)


def connect() -> Service:
    return Service()


# Two policies: one composed, one written by hand.

is_busy = retry_if_exception_type(ServiceError) & retry_if_exception_message(match="the service answered (429|503)")
patient = retry_policy(
    retry=is_busy | retry_if_exception_type(ConnectionError),
    wait=wait_fixed(0.05) + wait_exponential(multiplier=0.1, max=10),  # 0.15, 0.25, 0.45, ... seconds
    stop=stop_after_attempt(4) | stop_after_delay(60),
)


class AsToldByTheService:
    """Wait as long as the service asks for, at most so many times."""

    def __init__(self, attempts: int) -> None:
        self.attempts = attempts

    def next(self, elapsed_time: float, attempts: int, error: Exception, *, seed: int | None = None) -> float | None:
        if not isinstance(error, ServiceError) or error.retry_after is None or attempts >= self.attempts:
            return None
        return error.retry_after


class Question(StartEvent):
    text: str


class Answer(Event):
    length: int
    attempts: int
    is_estimate: bool = False


class Asking(Workflow):
    """Ask the service for the length of a text; estimate it when the service does not answer."""

    @step(retry_policy=patient)
    async def ask(self, ctx: Context, ev: Question, service: Annotated[Service, Resource(connect)]) -> Answer:
        earlier = ctx.retry_info().retry_number  # 0 at the first attempt
        return Answer(length=await service.length_of(ev.text), attempts=earlier + 1)

    @catch_error(for_steps=["ask"], max_recoveries=1)
    async def fall_back(self, ev: StepFailedEvent) -> Answer:
        if not isinstance(ev.exception, ServiceError) or not isinstance(ev.input_event, Question):
            raise ev.exception  # a mistake of ours is no reason to estimate
        return Answer(length=6 * len(ev.input_event.text.split()), attempts=ev.attempts, is_estimate=True)

    @step
    async def finish(self, ev: Answer) -> StopEvent:
        about = "about " if ev.is_estimate else ""
        return StopEvent(result=f"{about}{ev.length} letters, after {ev.attempts} attempt{'s' * (ev.attempts > 1)}")


class AskingAsTold(Asking):
    """The same, with pauses as the service asks for them. A step is replaced by one of its name."""

    @step(retry_policy=AsToldByTheService(attempts=3))
    async def ask(self, ctx: Context, ev: Question, service: Annotated[Service, Resource(connect)]) -> Answer:
        return Answer(length=await service.length_of(ev.text), attempts=ctx.retry_info().retry_number + 1)


class Stubborn(Asking):
    """A recovery that asks again: without `max_recoveries` on it, a service that stays busy would be asked for ever."""

    @catch_error(for_steps=["ask"], max_recoveries=2)
    async def fall_back(self, ev: StepFailedEvent) -> Question:  # type: ignore[override]  # it returns another event
        return Question(text=ev.input_event.text)


async def play(stage: Stage) -> str:
    """Ask a service that first answers with these statuses, and tell of each attempt."""
    flow = Asking()
    with flow.resource_manager.override(connect, Service(stage.arguments.statuses)):
        handler = flow.run(text=stage.question)
        result = await stage.follow(handler)
    for record in handler.record:
        print(f"  {record.step}, attempt {record.attempt}: {record.outcome}, after a pause of {record.backoff:.2f} s", file=sys.stderr)
    return str(result)


def flags(parser: ArgumentParser) -> None:
    parser.add_argument("--statuses", nargs="*", type=int, default=[429, 429], help="what it answers first, before it answers 200")


def main(argv: Sequence[str] | None = None) -> int:
    return run_example(play, __doc__, QUESTION, argv, flags=flags, needs_model=False)


if __name__ == "__main__":
    sys.exit(main())
