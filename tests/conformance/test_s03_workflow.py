"""Section 3: the constructor, the graph, runs, limits, failures, nesting."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import pytest

from tracedflow import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowConfigurationError,
    WorkflowRuntimeError,
    WorkflowStalledError,
    WorkflowTimeoutError,
    WorkflowValidationError,
    step,
)
from tracedflow.events import WorkflowFailedEvent, WorkflowTimedOutEvent
from tracedflow.testing import virtual_time


class A(Event):
    n: int = 0


class B(Event):
    pass


class Question(InputRequiredEvent):
    pass


class Reply(HumanResponseEvent):
    pass


class Begin(StartEvent):
    x: int


class Echo(Workflow):
    @step
    async def only(self, ev: Begin) -> StopEvent:
        return StopEvent(result=ev.x)


# 3.1


def no_start() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: A) -> StopEvent | A: ...  # type: ignore[empty-body]

    Flow()


def two_starts() -> None:
    class Flow(Workflow):
        @step
        async def one(self, ev: Begin) -> StopEvent: ...  # type: ignore[empty-body]

        @step
        async def two(self, ev: StartEvent) -> StopEvent: ...  # type: ignore[empty-body]

    Flow()


def no_stop() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> None: ...

    Flow()


def two_stops() -> None:
    class Mine(StopEvent):
        pass

    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent | Mine: ...  # type: ignore[empty-body]

    Flow()


def no_steps() -> None:
    class Flow(Workflow):
        pass

    Flow()


@pytest.mark.parametrize(
    ("make", "text"),
    [(no_start, "StartEvent"), (two_starts, "StartEvent"), (no_stop, "StopEvent"), (two_stops, "StopEvent"), (no_steps, "@step")],
)
def test_a_workflow_that_cannot_start_or_end_is_refused_when_it_is_made(make: Any, text: str) -> None:
    with pytest.raises(WorkflowConfigurationError, match=text) as caught:
        make()
    assert "test_s03_workflow.py" in str(caught.value)


@pytest.mark.parametrize("count", [0, -1, True, 1.5, "2"])
def test_num_concurrent_runs_is_a_positive_whole_number_or_none(count: Any) -> None:
    with pytest.raises((WorkflowValidationError, ValueError, TypeError), match="num_concurrent_runs"):
        Echo(num_concurrent_runs=count)


def test_unknown_graph_checks_are_refused() -> None:
    with pytest.raises((WorkflowValidationError, ValueError), match="reachability"):
        Echo(skip_graph_checks=["everything"])


async def test_a_subclass_that_forgets_to_call_the_constructor_is_told_so() -> None:
    class Forgets(Echo):
        def __init__(self) -> None:
            self.mine = 1

    with pytest.raises(WorkflowRuntimeError, match=r"does not call super\(\).__init__\(\)"):
        await Forgets().run(x=3)


def test_the_properties_tell_what_the_graph_is() -> None:
    flow = Echo()
    assert flow.start_event_class is Begin
    assert flow.stop_event_class is StopEvent
    assert set(flow.events) >= {Begin, StopEvent}
    assert Echo(workflow_name="mine").workflow_name == "mine"
    assert flow.validate() is False


def test_validate_says_whether_people_are_asked() -> None:
    class Asks(Workflow):
        @step
        async def ask(self, ev: StartEvent) -> Question: ...  # type: ignore[empty-body]

        @step
        async def done(self, ev: Reply) -> StopEvent: ...  # type: ignore[empty-body]

    assert Asks().validate() is True


# 3.2


def test_every_problem_of_a_graph_is_told_at_once_with_its_place() -> None:
    class Flow(Workflow):
        @step
        async def one(self, ev: StartEvent) -> A | StopEvent: ...  # type: ignore[empty-body]

        @step
        async def two(self, ev: B) -> StopEvent: ...  # type: ignore[empty-body]

        @step
        async def three(self, ev: StopEvent) -> StopEvent: ...  # type: ignore[empty-body]

    with pytest.raises(WorkflowValidationError) as caught:
        Flow()
    text = str(caught.value)
    assert "3 problems" in text or "4 problems" in text
    for name in ("`two`", "`three`", "accepts B", "A"):
        assert name in text


def test_validation_can_be_left_to_validate() -> None:
    class Flow(Workflow):
        @step
        async def one(self, ev: StartEvent) -> A | StopEvent: ...  # type: ignore[empty-body]

    flow = Flow(disable_validation=True)
    with pytest.raises(WorkflowValidationError, match="A"):
        flow.validate()


def test_checks_can_be_skipped_for_a_workflow_or_a_step() -> None:
    class Flow(Workflow):
        @step
        async def one(self, ev: StartEvent) -> StopEvent: ...  # type: ignore[empty-body]

        @step(skip_graph_checks=["reachability"])
        async def island(self, ev: A) -> A | StopEvent: ...  # type: ignore[empty-body]

    Flow()


# 3.3


async def test_keywords_make_the_start_event_or_an_event_is_given() -> None:
    assert await Echo().run(x=1) == 1
    assert await Echo().run(start_event=Begin(x=2)) == 2


async def test_a_start_event_that_cannot_be_made_says_what_is_wrong_with_it() -> None:
    with pytest.raises(WorkflowRuntimeError, match="Begin") as caught:
        Echo().run(x="many")
    assert caught.value.__cause__ is not None  # the reference hides it
    with pytest.raises(WorkflowRuntimeError, match="x"):
        Echo().run()


async def test_what_is_no_start_event_is_refused_and_the_wrong_one_does_not_hang() -> None:
    with pytest.raises(ValueError, match="StartEvent"):
        Echo().run(start_event=A())  # type: ignore[arg-type]
    with pytest.raises(WorkflowStalledError, match="starts with Begin"):
        await Echo().run(start_event=StartEvent())


async def test_a_run_id_may_be_given_and_is_unique_among_live_runs() -> None:
    handler = Echo().run(x=1, run_id="mine")
    assert handler.run_id == "mine"
    with pytest.raises(RuntimeError, match="'mine' is that of a live run"):
        Echo().run(x=1, run_id="mine")
    await handler
    assert len((await _handler_of(Echo())).run_id) == 10


async def _handler_of(flow: Workflow) -> Any:
    handler = flow.run(x=1)
    await handler
    return handler


def test_without_a_loop_a_run_is_refused_with_the_remedy() -> None:
    with pytest.raises(WorkflowRuntimeError, match="run_sync"):
        Echo().run(x=1)


# 3.4


class Slow(Workflow):
    @step
    async def slow(self, ev: StartEvent) -> StopEvent:
        await asyncio.sleep(ev.seconds)
        return StopEvent(result="slow")


@virtual_time()
async def test_a_run_that_takes_too_long_says_so_first_on_the_stream_and_names_the_active_steps() -> None:
    handler = Slow(timeout=5).run(seconds=100)
    events = [event async for event in handler.stream_events()]
    assert isinstance(events[-1], WorkflowTimedOutEvent)
    assert (events[-1].timeout, events[-1].active_steps) == (5, ["slow"])
    with pytest.raises(WorkflowTimeoutError, match="`slow`"):
        await handler
    assert await Slow(timeout=None).run(seconds=10**6) == "slow"


@virtual_time()
async def test_several_runs_of_one_context_do_not_share_one_time_limit() -> None:
    flow = Slow(timeout=3)
    ctx: Context[Any] = Context(flow)
    for _ in range(3):
        assert await flow.run(ctx=ctx, seconds=2) == "slow"


@virtual_time()
async def test_no_more_runs_than_num_concurrent_runs_are_live_and_waiting_for_that_is_not_on_their_clock() -> None:
    live = most = 0

    class Counts(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            nonlocal live, most
            live += 1
            most = max(most, live)
            await asyncio.sleep(2)
            live -= 1
            return StopEvent()

    flow = Counts(num_concurrent_runs=2, timeout=3)
    await asyncio.gather(*[flow.run() for _ in range(6)])
    assert most == 2


# 3.5


async def test_a_failure_is_the_original_exception_and_the_last_event_of_the_stream() -> None:
    error = ConnectionError("down")

    class Fails(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            raise error

    handler = Fails().run()
    events = [event async for event in handler.stream_events()]
    assert isinstance(events[-1], WorkflowFailedEvent)
    assert events[-1].step_name == "only"
    with pytest.raises(ConnectionError) as caught:
        await handler
    assert caught.value is error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), asyncio.CancelledError()], ids=["base", "cancelled"])
async def test_whatever_a_step_raises_the_stream_ends(error: BaseException) -> None:
    class Fails(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            raise Nasty if isinstance(error, KeyboardInterrupt) else error

    class Nasty(BaseException):
        pass

    handler = Fails().run()
    async with asyncio.timeout(5):
        assert [event async for event in handler.stream_events()]
    with pytest.raises(BaseException):  # noqa: B017, PT011 - whatever it is
        await handler


# 3.6


async def test_a_nested_run_is_awaited_like_any_other_and_what_is_sent_comes_before_what_is_returned() -> None:
    class Outer(Workflow):
        order: list[int]

        @step
        async def start(self, ctx: Context, ev: StartEvent) -> A:
            for n in range(3):
                ctx.send_event(A(n=n))
            return A(n=await Echo().run(x=99))

        @step(num_workers=1)
        async def take(self, ev: A) -> StopEvent | None:
            self.order.append(ev.n)
            return StopEvent(result=self.order) if ev.n == 99 else None

    flow = Outer()
    flow.order = []
    assert await flow.run() == [0, 1, 2, 99]


async def test_context_variables_of_the_caller_are_seen_and_those_of_a_step_do_not_leak() -> None:
    class Flow(Workflow):
        @step
        async def one(self, ev: StartEvent) -> A:
            seen = [var.get()]
            var.set("step")
            return A(seen=seen)

        @step
        async def two(self, ev: A) -> StopEvent:
            return StopEvent(result=[*ev.seen, var.get()])

    var.set("caller")
    assert await Flow().run() == ["caller", "caller"]


var: contextvars.ContextVar[str] = contextvars.ContextVar("conformance")


# 3.7


async def test_verbose_tells_of_each_step(capsys: pytest.CaptureFixture[str]) -> None:
    await Echo(verbose=True).run(x=1)
    err = capsys.readouterr().err
    assert "only" in err
    assert "Begin" in err
