"""Section 14: the error catalogue. The types are the contract; each text names what is wrong, where, and what to do."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import pytest
from pydantic import BaseModel

from tracedflow import Context, HumanResponseEvent, StartEvent, StopEvent, Workflow, WorkflowCheckpointer, catch_error, errors, step
from tracedflow.collect import Take
from tracedflow.context.state_store import DictState, InMemoryStateStore
from tracedflow.errors import (
    ContextSerdeError,
    ContextStateError,
    TracedflowError,
    WorkflowCancelledByUser,
    WorkflowConfigurationError,
    WorkflowDone,
    WorkflowRuntimeError,
    WorkflowStepDoesNotExistError,
    WorkflowTimeoutError,
    WorkflowValidationError,
)
from tracedflow.events import Event, InputRequiredEvent, StepFailedEvent
from tracedflow.resource import Resource, ResourceConfig
from tracedflow.retry_policy import retry_if_exception_message, wait_chain


class A(Event):
    pass


class B(Event):
    pass


class OtherStart(StartEvent):
    pass


class OtherStop(StopEvent):
    pass


class Good(Workflow):
    """Takes a field, waits for an answer if it is told to, and ends."""

    @step
    async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
        if ev.get("wait"):
            await ctx.wait_for_event(HumanResponseEvent)
        return StopEvent(result=ev.get("x"))


def no_steps() -> None:
    class Flow(Workflow):
        pass

    Flow()


def no_start() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: A) -> StopEvent: ...

    Flow()


def two_starts() -> None:
    class Flow(Workflow):
        @step
        async def one(self, ev: StartEvent) -> StopEvent: ...
        @step
        async def two(self, ev: OtherStart) -> StopEvent: ...

    Flow()


def no_stop() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> None: ...

    Flow()


def two_stops() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent | OtherStop: ...

    Flow()


def bare_workflow() -> None:
    Workflow().validate()


def no_event_parameter() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ctx: Context) -> StopEvent: ...


def no_return_annotation() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent): ...


def no_workers() -> None:
    class Flow(Workflow):
        @step(num_workers=0)
        async def only(self, ev: StartEvent) -> StopEvent: ...


def stray_function() -> None:
    exec(  # at the top of a module, where a method never stands
        "from tracedflow import step, StartEvent, StopEvent\n@step\nasync def stray(ev: StartEvent) -> StopEvent: ...",
        {"__name__": "a_module"},
    )


def unknown_name() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: Missing) -> StopEvent: ...  # type: ignore[name-defined]  # noqa: F821

    Flow()


def async_generator() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> AsyncIterator[StopEvent]:
            yield StopEvent()


def two_lists() -> None:
    class Flow(Workflow):
        @step
        async def only(self, a: list[A], b: list[B]) -> StopEvent: ...


def duplicate_step() -> None:
    class Flow(Good):
        pass

    async def only(ev: StartEvent) -> StopEvent: ...

    step(workflow=Flow)(only)


def undecorated_function() -> None:
    async def plain(ev: StartEvent) -> StopEvent: ...

    Good.add_step(plain)


def no_concurrent_runs() -> None:
    Good(num_concurrent_runs=0)


def unknown_check() -> None:
    Good(skip_graph_checks=["reachabilty"])


def accepts_stop() -> None:
    class Flow(Good):
        @step
        async def after(self, ev: StopEvent) -> None: ...

    Flow()


def never_produced() -> None:
    class Flow(Good):
        @step
        async def take(self, ev: A) -> StopEvent: ...

    Flow()


def never_consumed() -> None:
    class Flow(Good):
        @step
        async def make(self, ev: StartEvent) -> A | StopEvent: ...

    Flow()


def no_way_out() -> None:
    class Flow(Good):
        @step
        async def one(self, ev: StartEvent) -> A: ...
        @step
        async def two(self, ev: A) -> A: ...

    Flow()


def list_from_nobody() -> None:
    class Flow(Good):
        @step
        async def one(self, ev: StartEvent) -> A: ...
        @step
        async def two(self, evs: list[A]) -> StopEvent: ...

    Flow()


def states_apart() -> None:
    class One(BaseModel):
        pass

    class Two(BaseModel):
        pass

    class Flow(Workflow):
        @step
        async def one(self, ctx: Context[One], ev: StartEvent) -> A: ...
        @step
        async def two(self, ctx: Context[Two], ev: A) -> StopEvent: ...

    Flow()


async def missing_config() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent, c: Annotated[BaseModel, ResourceConfig("missing.json")]) -> StopEvent: ...

    await Flow().run()


def no_recoveries() -> None:
    class Flow(Good):
        @catch_error(max_recoveries=0)
        async def handle(self, ev: StepFailedEvent) -> StopEvent: ...


def handles_a_string() -> None:
    class Flow(Good):
        @catch_error(for_steps="only")  # type: ignore[arg-type]
        async def handle(self, ev: StepFailedEvent) -> StopEvent: ...


def handles_another_event() -> None:
    class Flow(Good):
        @catch_error
        async def handle(self, ev: A) -> StopEvent: ...


def handles_no_step() -> None:
    class Flow(Good):
        @catch_error(for_steps=["onyl"])
        async def handle(self, ev: StepFailedEvent) -> StopEvent: ...

    Flow()


def handles_twice() -> None:
    class Flow(Good):
        @catch_error(for_steps=["only"])
        async def one(self, ev: StepFailedEvent) -> StopEvent: ...
        @catch_error(for_steps=["only"])
        async def two(self, ev: StepFailedEvent) -> StopEvent: ...

    Flow()


def two_wildcards() -> None:
    class Flow(Good):
        @catch_error
        async def one(self, ev: StepFailedEvent) -> StopEvent: ...
        @catch_error
        async def two(self, ev: StepFailedEvent) -> StopEvent: ...

    Flow()


async def start_event_not_made() -> None:
    class Typed(StartEvent):
        topic: str

    class Flow(Workflow):
        @step
        async def only(self, ev: Typed) -> StopEvent: ...

    await Flow().run(subject="x")


async def wrong_return() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            return 42  # type: ignore[return-value]

    await Flow().run()


async def send_to_unknown_step() -> None:
    handler = Good().run(wait=True)
    handler.ctx.send_event(HumanResponseEvent(), step="onyl")


async def send_to_step_that_takes_it_not() -> None:
    handler = Good().run(wait=True)
    await handler.send_event(A(), step="only")


async def timeout() -> None:
    await Good(timeout=0.01).run(wait=True)


async def cancelled() -> None:
    handler = Good().run(wait=True)
    await handler.cancel_run()
    await handler


async def send_to_finished_run() -> None:
    handler = Good().run()
    await handler
    handler.ctx.send_event(A())


def disable_unknown_checkpoint() -> None:
    WorkflowCheckpointer(Good()).disable_checkpoint("onyl")


def send_before_the_run() -> None:
    Context(Good()).send_event(A())


def wait_outside_a_step() -> None:
    Context(Good()).wait_for_event(A)


def collect_outside_a_step() -> None:
    Context(Good()).collect_events(A(), [A])


async def context_of_a_live_run() -> None:
    flow = Good()
    handler = flow.run(wait=True)
    flow.run(ctx=handler.ctx)


def no_snapshot() -> None:
    Context.from_dict(Good(), {"garbage": True})


def newer_snapshot() -> None:
    Context.from_dict(Good(), {**Context(Good()).to_dict(), "version": 999})


async def missing_path() -> None:
    await Context(Good()).store.get("a.b")


async def empty_path() -> None:
    await Context(Good()).store.set("", 1)


async def start_event_of_another_kind() -> None:
    Good().run(start_event=A())  # type: ignore[arg-type]


def circle_of_resources() -> None:
    def again(a: Annotated[Any, Resource(lambda: None)]) -> Any: ...

    again.__annotations__["a"] = Annotated[Any, Resource(again)]

    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent, a: Annotated[Any, Resource(again)]) -> StopEvent: ...

    Flow()


async def circle_at_run_time() -> None:
    def again(a: Annotated[Any, Resource(lambda: None)]) -> Any: ...

    again.__annotations__["a"] = Annotated[Any, Resource(again)]

    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent, a: Annotated[Any, Resource(again)]) -> StopEvent: ...

    await Flow(disable_validation=True).run()


async def write_in_an_edit() -> None:
    store = InMemoryStateStore(DictState())
    async with store.edit_state():
        await store.set("a", 1)


async def id_of_a_live_run() -> None:
    flow = Good()
    flow.run(wait=True, run_id="one")
    flow.run(run_id="one")


async def no_answer_in_time() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await ctx.wait_for_event(HumanResponseEvent, InputRequiredEvent(), timeout=0.01)
            return StopEvent()

    await Flow().run()


CATALOGUE: list[tuple[type[Exception], Callable[[], Any], str]] = [
    (WorkflowConfigurationError, no_steps, r"Flow.*@step"),
    (WorkflowConfigurationError, no_start, r"Flow.*StartEvent"),
    (WorkflowConfigurationError, two_starts, r"Flow.*(StartEvent.*OtherStart|OtherStart.*StartEvent)"),
    (WorkflowConfigurationError, no_stop, r"Flow.*StopEvent"),
    (WorkflowConfigurationError, two_stops, r"Flow.*(StopEvent.*OtherStop|OtherStop.*StopEvent)"),
    (WorkflowConfigurationError, bare_workflow, r"@step\(workflow="),
    (WorkflowValidationError, no_event_parameter, r"`only` \(.*test_s14_errors\.py:\d+\).*[Ee]vent"),
    (WorkflowValidationError, no_return_annotation, r"`only` \(.*:\d+\).*-> "),
    (WorkflowValidationError, no_workers, r"`only` \(.*:\d+\).*num_workers=0"),
    (WorkflowValidationError, stray_function, r"`stray`.*workflow="),
    (WorkflowValidationError, unknown_name, r"`only` \(.*:\d+\).*Missing"),
    (WorkflowValidationError, async_generator, r"`only` \(.*:\d+\).*write_event_to_stream"),
    (WorkflowValidationError, two_lists, r"`only` \(.*:\d+\).*list"),
    (WorkflowValidationError, duplicate_step, r"`only` already.*:\d+.*another name"),
    (WorkflowValidationError, undecorated_function, r"`plain`.*@step"),
    (WorkflowValidationError, no_concurrent_runs, r"num_concurrent_runs.*0"),
    (WorkflowValidationError, unknown_check, r"reachabilty.*reachability"),
    (WorkflowValidationError, accepts_stop, r"`after` \(.*:\d+\).*StopEvent"),
    (WorkflowValidationError, never_produced, r"`take` \(.*:\d+\).*A"),
    (WorkflowValidationError, never_consumed, r"`make` \(.*:\d+\).*A"),
    (WorkflowValidationError, no_way_out, r"`two` \(.*:\d+\)"),
    (WorkflowValidationError, list_from_nobody, r"`two` \(.*:\d+\).*list\[A\]"),
    (WorkflowValidationError, missing_config, r"`only` \(.*:\d+\).*`c`.*missing\.json"),
    (WorkflowValidationError, no_recoveries, r"`handle` \(.*:\d+\).*max_recoveries=0"),
    (WorkflowValidationError, handles_a_string, r"`handle` \(.*:\d+\).*for_steps"),
    (WorkflowValidationError, handles_another_event, r"`handle` \(.*:\d+\).*StepFailedEvent"),
    (WorkflowValidationError, handles_no_step, r"`handle` \(.*:\d+\).*onyl.*only"),
    (WorkflowValidationError, handles_twice, r"`two`.*`one`.*`only`"),
    (WorkflowValidationError, two_wildcards, r"`one`.*`two`"),
    (WorkflowRuntimeError, start_event_not_made, r"Typed.*subject.*topic"),
    (WorkflowRuntimeError, wrong_return, r"`only`.*int|`only`.*42"),
    (WorkflowRuntimeError, send_to_unknown_step, r"onyl.*only"),
    (WorkflowRuntimeError, send_to_step_that_takes_it_not, r"only.*\bA\b"),
    (WorkflowTimeoutError, timeout, r"0\.01.*only"),
    (WorkflowCancelledByUser, cancelled, r"cancel_run"),
    (WorkflowDone, send_to_finished_run, r"over"),
    (WorkflowStepDoesNotExistError, disable_unknown_checkpoint, r"onyl.*only"),
    (ContextStateError, send_before_the_run, r"send_event.*run\("),
    (ContextStateError, wait_outside_a_step, r"wait_for_event.*step"),
    (ContextStateError, collect_outside_a_step, r"collect_events.*step"),
    (ContextStateError, context_of_a_live_run, r"live run"),
    (ContextSerdeError, no_snapshot, r"version.*to_dict"),
    (ContextSerdeError, newer_snapshot, r"999"),
    (ValueError, missing_path, r"a\.b"),
    (ValueError, empty_path, r"path"),
    (ValueError, start_event_of_another_kind, r"start_event.*StartEvent.*A\b"),
    (WorkflowValidationError, circle_of_resources, r"`only` \(.*:\d+\).*circle.*again.*again"),
    (ValueError, circle_at_run_time, r"circle.*again.*again"),
    (WorkflowValidationError, states_apart, r"One by `one` .*Two by `two`"),
    (RuntimeError, write_in_an_edit, r"edit_state"),
    (RuntimeError, id_of_a_live_run, r"one"),
    (asyncio.TimeoutError, no_answer_in_time, r"HumanResponseEvent"),
    (TypeError, retry_if_exception_message, r"message or match"),
    (TypeError, lambda: retry_if_exception_message("a", "b"), r"message or match"),
    (ValueError, wait_chain, r"wait_chain"),
    (ValueError, lambda: Take(0), r"0"),
]


@pytest.mark.parametrize(("kind", "trigger", "says"), CATALOGUE, ids=[f"{kind.__name__}-{each.__name__}" for kind, each, _ in CATALOGUE])
async def test_each_mistake_has_its_type_and_a_text_that_helps(kind: type[Exception], trigger: Callable[[], Any], says: str) -> None:
    with pytest.raises(kind, match=f"(?s){says}"):
        result = trigger()
        if inspect.isawaitable(result):
            await result


async def test_a_stream_may_be_read_again_instead_of_failing() -> None:
    handler = Good().run(x=1)
    first = [event async for event in handler.stream_events(offset=0)]
    assert [event async for event in handler.stream_events(offset=0)] == first
    assert await handler == 1


def test_every_type_of_the_reference_exists_and_has_one_base() -> None:
    names = (
        "WorkflowValidationError WorkflowTimeoutError WorkflowRuntimeError WorkflowDone WorkflowCancelledByUser "
        "WorkflowStepDoesNotExistError WorkflowConfigurationError ContextSerdeError ContextStateError"
    )
    for name in names.split():
        assert issubclass(getattr(errors, name), TracedflowError)


def test_several_mistakes_are_told_at_once() -> None:
    class Flow(Workflow):
        @step
        async def one(self, ev: StartEvent) -> A: ...
        @step
        async def two(self, ev: B) -> StopEvent: ...
        @step
        async def three(self, ev: StopEvent) -> None: ...

    with pytest.raises(WorkflowValidationError) as raised:
        Flow()
    text = str(raised.value)
    assert all(f"`{name}`" in text for name in ("one", "two", "three"))


async def test_an_error_of_a_step_is_the_users_own_and_says_where() -> None:
    error = KeyError("their own")

    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            raise error

    with pytest.raises(KeyError) as raised:
        await Flow().run(run_id="one")
    assert raised.value is error
    notes = "\n".join(error.__notes__)
    assert all(part in notes for part in ("only", "Flow", "one"))
