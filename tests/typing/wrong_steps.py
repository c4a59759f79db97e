"""Mistakes in steps, their options and retry policies: on each line that says `# error`, both type checkers find one."""

from __future__ import annotations

from tracedflow import Event, Limit, StartEvent, StopEvent, Workflow, catch_error, step
from tracedflow.events import StepFailedEvent
from tracedflow.retry_policy import (
    ConstantDelayRetryPolicy,
    ExponentialBackoffRetryPolicy,
    retry_any,
    retry_if_exception_type,
    retry_policy,
    stop_after_attempt,
    wait_chain,
    wait_fixed,
)


class Draft(Event):
    text: str
    score: float = 0.0


class Report(StopEvent):
    pages: int


class Steps(Workflow):
    @step  # error
    async def returns_a_number(self, ev: StartEvent) -> int:
        return 3

    @step  # error
    def plain_returns_a_number(self, ev: StartEvent) -> int:
        return 3

    @step  # error
    async def returns_a_list_of_numbers(self, ev: StartEvent) -> list[int]:
        return []

    @step(num_workers=2)  # error
    async def returns_a_number_with_options(self, ev: StartEvent) -> Draft | int:
        return 3

    @step
    async def returns_another_event_than_it_says(self, ev: StartEvent) -> Draft:
        return Report(pages=1)  # error

    @step
    async def returns_an_event_where_it_says_none(self, ev: StartEvent) -> None:
        return Draft(text="x")  # error

    @step
    async def reads_a_field_that_is_none(self, ev: Draft) -> StopEvent:
        number: int = ev.text  # error
        return StopEvent(result=number)

    @step(timeout="3")  # error
    async def wrong_timeout(self, ev: Draft) -> StopEvent:
        return StopEvent()

    @step(limit=3)  # error
    async def wrong_limit(self, ev: Draft) -> StopEvent:
        return StopEvent()

    @step(retry_policy=3)  # error
    async def wrong_policy(self, ev: Draft) -> StopEvent:
        return StopEvent()

    @step(retry_policy=stop_after_attempt(3))  # error
    async def part_of_a_policy(self, ev: Draft) -> StopEvent:
        return StopEvent()

    @step(retry_policy=ConstantDelayRetryPolicy)  # error
    async def class_of_a_policy(self, ev: Draft) -> StopEvent:
        return StopEvent()

    @step(skip_graph_checks=3)  # error
    async def wrong_checks(self, ev: Draft) -> StopEvent:
        return StopEvent()

    @step(accept_event_subclasses="yes")  # error
    async def wrong_flag(self, ev: Draft) -> StopEvent:
        return StopEvent()

    @catch_error(for_steps=3)  # error
    async def wrong_steps(self, ev: StepFailedEvent) -> StopEvent:
        return StopEvent()

    @catch_error(max_recoveries="1")  # error
    async def wrong_count(self, ev: StepFailedEvent) -> StopEvent:
        return StopEvent()

    @catch_error  # error
    async def handler_returns_a_number(self, ev: StepFailedEvent) -> int:
        return 3


async def calls() -> None:
    await Steps().reads_a_field_that_is_none(StartEvent())  # error
    await Steps().reads_a_field_that_is_none()  # error
    text: str = await Steps().reads_a_field_that_is_none(Draft(text="x"))  # error
    step(3)  # error
    Steps.add_step(3)  # error
    del text


def events() -> None:
    Draft()  # error
    Draft(text=3)  # error
    Draft("x")  # error
    Draft(text="x", score="high")  # error
    Report(pages="one")  # error
    length: str = Report(pages=1).pages  # error
    del length


def policies() -> None:
    retry_policy(wait=3)  # error
    retry_policy(stop=3)  # error
    retry_policy(retry=ValueError)  # error
    retry_policy(wait=stop_after_attempt(3))  # error
    retry_policy(stop=wait_fixed(3))  # error
    retry_policy(wait_fixed=3)  # error
    retry_if_exception_type("ValueError")  # error
    retry_any(3)  # error
    stop_after_attempt("3")  # error
    wait_fixed("3")  # error
    wait_chain(3)  # error
    ConstantDelayRetryPolicy(attempts=3)  # error
    ExponentialBackoffRetryPolicy(maximum_attempts="3")  # error


def limits() -> None:
    Limit()  # error
    Limit("api", per_second="9")  # error
    Limit("api", rate=9)  # error
