"""Layers, resources, policies and tests as a reader would write them: both type checkers accept every line."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Generic, TypeVar, assert_type

from tracedflow import (
    AttemptCall,
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    Middleware,
    Notice,
    Observer,
    RunCall,
    StartEvent,
    StepCall,
    StopEvent,
    Workflow,
    catch_error,
    configure,
    step,
)
from tracedflow.events import StepFailedEvent
from tracedflow.middleware import AttemptNext, EventSent, RetryScheduled, RunNext, StepNext, StepResult
from tracedflow.resource import Resource
from tracedflow.retry_policy import retry_if_exception_type, retry_policy, stop_after_attempt, wait_exponential_jitter
from tracedflow.testing import (
    Faults,
    Recorder,
    StepOutcome,
    WorkflowTestResult,
    WorkflowTestRunner,
    assert_run,
    check_observer,
    explore,
    run_step,
    run_virtual,
    virtual_time,
)
from tracedflow.testing.runner import WorkflowTestRunner as SameRunner


class Draft(Event):
    text: str


class Report(StopEvent):
    pages: int


ReportT = TypeVar("ReportT", bound=StopEvent)


class Base(Workflow[ReportT], Generic[ReportT]):
    """A generic workflow of one's own."""


@asynccontextmanager
async def connection() -> AsyncGenerator[str]:
    yield "connection"


class Write(Base[Report]):
    @step(retry_policy=retry_policy(retry=retry_if_exception_type(OSError), wait=wait_exponential_jitter(), stop=stop_after_attempt(3)))
    async def begin(self, ev: StartEvent, link: Annotated[str, Resource(connection)]) -> Draft | list[Draft] | None:
        assert_type(link, str)
        return [Draft(text=link)]

    @step
    def plain(self, ctx: Context, ev: Draft) -> Report:
        assert_type(ctx.sync.wait_for_event(HumanResponseEvent, waiter_event=InputRequiredEvent()), HumanResponseEvent)
        return Report(pages=1)

    @catch_error
    async def mend(self, ev: StepFailedEvent) -> Report:
        assert_type(ev.step_name, str)
        return Report(pages=0)


class Cache(Middleware):
    hears = (RetryScheduled, EventSent)

    async def run(self, call: RunCall, call_next: RunNext, /) -> StopEvent | None:
        return await call_next(call)

    async def step(self, call: StepCall, call_next: StepNext, /) -> StepResult:
        assert_type(call.inputs, tuple[Event, ...])
        return Draft(text="cached") if call.attempts else await call_next(call)

    async def attempt(self, call: AttemptCall, call_next: AttemptNext, /) -> StepResult:
        assert_type(call.last_error, BaseException | None)
        return await call_next(call)

    def on(self, notice: Notice, /) -> None:
        if isinstance(notice, RetryScheduled):
            assert_type(notice.delay, float)


class Watch(Observer):
    attempts_of = "retried"

    async def attempt(self, call: AttemptCall, call_next: AttemptNext, /) -> StepResult:
        return await call_next(call)


configure(middleware=[Watch()], telemetry=False)


@virtual_time(seed=3)
async def test_a_run() -> None:
    assert_type(await Write(middleware=[Cache(), Recorder()]).run(), Report)
    found = await WorkflowTestRunner(Write()).run(StartEvent(), exclude_events=[Draft])
    assert_type(found, WorkflowTestResult[Report])
    assert_type(found.result, Report)
    assert_type(found.event_types, dict[type[Event], int])
    await SameRunner(Workflow()).run(ctx=found.ctx)


async def test_a_step() -> None:
    flow = Write()
    by_name = await run_step(flow, "begin", StartEvent(), store={"a.b": 1}, answers=[HumanResponseEvent(), TimeoutError, None])
    assert_type(by_name, StepOutcome[Any])
    begun = await run_step(flow, flow.begin, StartEvent(), resources={connection: "fake", "name": 3}, middleware=[Faults()])
    assert_type(begun.returned, Draft | list[Draft] | None)
    plain = await run_step(flow, Write.plain, Draft(text="x"), answers=[lambda question: HumanResponseEvent(to=question)])
    assert_type(plain.returned, Report)
    assert_type(plain.returns, list[Report | None])
    failed = await run_step(flow, Write.mend, catch=(OSError, ValueError))
    assert_type(failed.error, BaseException | None)
    assert_run(failed).ran("mend", 1).no_retries()


def test_faults() -> None:
    Faults(7).delay("begin", seconds=(0.1, 2)).fail(error=OSError, chance=0.3).drop("begin", times=1, attempt=(1, 2))
    Faults().duplicate("begin", event=Draft).cancel("begin", after=3, event=lambda event: event.get("n") == 1)


def test_gates() -> None:
    handler = Write().run()
    assert_run(handler).completed().order("begin", "plain").parallel("plain", at_least=2).took(at_most=3)
    assert_run(handler.record).attempts("begin", at_most=3)


async def tools() -> None:
    await check_observer(Watch)
    assert_type(run_virtual(test_a_step()), None)

    async def program(schedule: Middleware) -> int:
        return len(await Write(middleware=[schedule]).run())

    assert_type(explore(program, seeds=3), list[int])
