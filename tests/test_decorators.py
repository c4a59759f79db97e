from __future__ import annotations

import asyncio
import inspect
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any, Optional, Union

import pytest
from pydantic import BaseModel

from tracedflow import (
    All,
    Collect,
    Context,
    Event,
    Limit,
    StartEvent,
    StopEvent,
    Take,
    Workflow,
    WorkflowValidationError,
    catch_error,
    step,
)
from tracedflow.decorators import StepConfig
from tracedflow.events import StepFailedEvent
from tracedflow.retry_policy import retry_policy, stop_after_attempt


class First(Event):
    n: int = 0


class Second(Event):
    n: int = 0


class State(BaseModel):
    count: int = 0


def config(function: Any) -> StepConfig:
    found: StepConfig = function._step_config
    return found


# what the decorator gives back


def test_step_works_bare_and_called() -> None:
    class Flow(Workflow):
        @step
        async def bare(self, ev: StartEvent) -> First: ...  # type: ignore[empty-body]

        @step()
        async def called(self, ev: First) -> StopEvent: ...  # type: ignore[empty-body]

    assert config(Flow.bare).accepted_events == [StartEvent]
    assert config(Flow.called).return_types == [StopEvent]
    Flow()


async def test_a_step_can_still_be_called_directly() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            return StopEvent(ev.n + 1)

    assert (await Flow().only(StartEvent(n=1))).result == 2
    assert inspect.iscoroutinefunction(Flow.only)


def test_the_defaults_of_a_step() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent: ...  # type: ignore[empty-body]

    found = config(Flow.only)
    assert found.num_workers == 4
    assert found.retry_policy is None
    assert found.timeout is None
    assert not found.accept_event_subclasses
    assert found.place.startswith(__file__)


def test_the_options_of_a_step() -> None:
    limit, policy = Limit("api", concurrency=1), retry_policy(stop=stop_after_attempt(2))

    class Flow(Workflow):
        @step(
            num_workers=2, retry_policy=policy, timeout=1.5, limit=limit, own_task=True, skip_graph_checks=["reachability"],
            accept_event_subclasses=True, measures=["tokens"],
        )  # fmt: skip
        async def only(self, ev: StartEvent) -> StopEvent: ...  # type: ignore[empty-body]

    found = config(Flow.only)
    assert (found.num_workers, found.retry_policy, found.timeout, found.limit) == (2, policy, 1.5, limit)
    assert (found.own_task, found.skip_graph_checks, found.measures) == (True, ("reachability",), ("tokens",))
    assert found.accept_event_subclasses


# inference: events


def declare(function: Callable[..., Any]) -> StepConfig:
    return config(step(workflow=type("Anywhere", (Workflow,), {}))(function))


def test_a_union_is_read_however_it_is_written() -> None:
    async def bar(ev: First | Second) -> StopEvent: ...  # type: ignore[empty-body]
    async def union(ev: Union[First, Second]) -> StopEvent: ...  # type: ignore[empty-body]  # noqa: UP007
    async def optional(ev: Optional[First]) -> StopEvent: ...  # type: ignore[empty-body]  # noqa: UP045
    async def nested(ev: Union[First, Optional[Second]]) -> StopEvent: ...  # type: ignore[empty-body]  # noqa: UP007, UP045

    assert declare(bar).accepted_events == [First, Second]
    assert declare(union).accepted_events == [First, Second]
    assert declare(optional).accepted_events == [First]
    assert declare(nested).accepted_events == [First, Second]


def test_the_event_may_have_any_name_and_place() -> None:
    async def last(ctx: Context, note: str = "", *, message: First) -> StopEvent: ...  # type: ignore[empty-body]

    found = declare(last)
    assert found.event_name == "message"
    assert found.context_parameter == "ctx"


def test_what_is_returned_is_a_union_without_none() -> None:
    async def either(ev: First) -> Second | StopEvent | None: ...
    async def optional(ev: First) -> Optional[Second]: ...  # noqa: UP045
    async def nothing(ev: First) -> None: ...

    assert declare(either).return_types == [Second, StopEvent]
    assert declare(optional).return_types == [Second]
    assert declare(nothing).return_types == []


def test_a_list_of_events_is_a_fan_out() -> None:
    async def one(ev: StartEvent) -> list[First]: ...  # type: ignore[empty-body]
    async def mixed(ev: StartEvent) -> list[First | Second] | StopEvent | None: ...

    assert declare(one).is_fan_out
    assert declare(one).return_types == [First]
    assert declare(mixed).is_fan_out
    assert declare(mixed).return_types == [First, Second, StopEvent]


def test_annotations_that_are_strings_are_read() -> None:
    async def quoted(ev: "First | None", ctx: "Context[State]") -> "Second": ...  # type: ignore[empty-body]  # noqa: UP037

    found = declare(quoted)
    assert (found.accepted_events, found.return_types, found.context_state_type) == ([First], [Second], State)


async def test_classes_that_are_local_to_a_function_are_found() -> None:
    class Local(Event):
        n: int

    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> Local:
            return Local(n=ev.n)

        @step
        async def second(self, ev: Local) -> StopEvent:
            return StopEvent(ev.n)

    assert await Flow().run(n=3) == 3


async def test_classes_that_are_defined_later_are_found() -> None:
    assert await Early().run() == "late"


class Early(Workflow):
    @step
    async def first(self, ev: StartEvent) -> Late:
        return Late(text="late")

    @step
    async def second(self, ev: Late) -> StopEvent:
        return StopEvent(ev.text)


class Late(Event):
    text: str


async def test_local_classes_that_are_defined_later_are_found() -> None:
    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> After:
            return After()

        @step
        async def second(self, ev: After) -> StopEvent:
            return StopEvent("found")

    class After(Event):
        pass

    assert await Flow().run() == "found"


def test_a_name_that_is_never_defined_is_named_with_step_and_place() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: Missing) -> StopEvent: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(WorkflowValidationError, match=rf"Step `only` \({re.escape(__file__)}:\d+\).*'Missing' is not defined"):
        Flow()


# inference: the Context and other parameters


def test_the_context_is_known_by_its_annotation_alone() -> None:
    async def first(context: Context, ev: First) -> StopEvent: ...  # type: ignore[empty-body]
    async def typed(ev: First, c: Context[State]) -> StopEvent: ...  # type: ignore[empty-body]
    async def none(ev: First) -> StopEvent: ...  # type: ignore[empty-body]

    assert declare(first).context_parameter == "context"
    assert declare(typed).context_parameter == "c"
    assert declare(typed).context_state_type is State
    assert declare(none).context_parameter is None


async def test_a_parameter_that_is_only_called_ctx_is_not_filled() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent, ctx=None) -> StopEvent:  # type: ignore[no-untyped-def]
            return StopEvent(ctx)

    assert await Flow().run() is None


async def test_other_parameters_keep_their_defaults() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent, a=1, b: int = 2) -> StopEvent:  # type: ignore[no-untyped-def]
            return StopEvent((a, b))

    assert await Flow().run() == (1, 2)


async def test_a_parameter_without_default_that_nobody_fills_fails_the_step() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent, extra) -> StopEvent:  # type: ignore[no-untyped-def]
            return StopEvent(extra)

    with pytest.raises(TypeError, match="missing 1 required positional argument: 'extra'"):
        await Flow().run()


async def test_the_context_and_the_event_come_in_any_order_at_run_time() -> None:
    class Flow(Workflow):
        @step
        async def first(self, ctx: Context, ev: StartEvent) -> First:
            await ctx.store.set("n", ev.n)
            return First()

        @step
        async def second(self, ev: First, *, ctx: Context) -> StopEvent:
            return StopEvent(await ctx.store.get("n"))

    assert await Flow().run(n=4) == 4


# wrong signatures


def refused(function: Callable[..., Any], match: str, **options: Any) -> None:
    with pytest.raises(WorkflowValidationError, match=match) as caught:
        step(workflow=type("Anywhere", (Workflow,), {}), **options)(function)
    assert f"`{function.__name__}`" in str(caught.value)
    assert __file__ in str(caught.value)


def test_a_step_needs_an_event() -> None:
    async def unannotated(ev) -> StopEvent: ...  # type: ignore[no-untyped-def,empty-body]
    async def none() -> StopEvent: ...  # type: ignore[empty-body]
    async def text(ev: str) -> StopEvent: ...  # type: ignore[empty-body]
    async def marked(ev: Annotated[First, "x"]) -> StopEvent: ...  # type: ignore[empty-body]

    for function in (unannotated, none, text, marked):
        refused(function, "needs a parameter annotated with an event class")


def test_a_step_needs_a_return_annotation() -> None:
    async def unannotated(ev: First): ...  # type: ignore[no-untyped-def]

    refused(unannotated, "needs a return annotation")


def test_several_event_parameters_are_a_join_of_one_class_each() -> None:
    async def two(a: First, b: Second) -> StopEvent: ...  # type: ignore[empty-body]
    async def union(a: First | Second, b: StartEvent) -> StopEvent: ...  # type: ignore[empty-body]
    async def twice(a: First, b: First) -> StopEvent: ...  # type: ignore[empty-body]
    async def listed(a: list[First], b: Second) -> StopEvent: ...  # type: ignore[empty-body]
    async def marked(a: Annotated[First, Collect()]) -> StopEvent: ...  # type: ignore[empty-body]

    assert declare(two).event_parameters == {"a": [First], "b": [Second]}
    refused(union, "`a` is a union")
    refused(twice, "two parameters of the same event class")
    refused(listed, "takes the list `a` and also other events")
    refused(marked, "marks `a` with Collect")


def test_a_list_parameter_collects() -> None:
    async def every(evs: list[First | Second]) -> StopEvent: ...  # type: ignore[empty-body]
    async def some(evs: Annotated[list[First], Collect(Take(2))]) -> StopEvent: ...  # type: ignore[empty-body]

    assert declare(every).collection_param == "evs"
    assert declare(every).accepted_events == [First, Second]
    assert declare(every).collection_policy == Collect(All())
    assert declare(some).collection_policy == Collect(Take(2))
    with pytest.raises(ValueError, match="greater than 0"):
        Take(0)


def test_a_step_is_no_generator() -> None:
    async def stream(ev: First) -> AsyncIterator[Second]:
        yield Second()

    def plain(ev: First) -> Iterator[Second]:
        yield Second()

    refused(stream, "is a generator.*ctx.write_event_to_stream")
    refused(plain, "is a generator.*ctx.write_event_to_stream")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_workers": 0}, "num_workers=0"),
        ({"num_workers": -1}, "num_workers=-1"),
        ({"num_workers": "2"}, "num_workers='2'"),
        ({"num_workers": 1.5}, "num_workers=1.5"),
        ({"timeout": 0}, "timeout=0"),
        ({"timeout": "1"}, "timeout='1'"),
        ({"timeout": True}, "timeout=True"),
        ({"timeout": float("nan")}, "timeout=nan"),
        ({"retry_policy": 3}, "retry_policy=3"),
        ({"skip_graph_checks": ["reachabilty"]}, "skip_graph_checks='reachabilty'"),
    ],
)
def test_an_option_with_a_wrong_value_is_refused(options: dict[str, Any], match: str) -> None:
    async def only(ev: StartEvent) -> StopEvent: ...  # type: ignore[empty-body]

    refused(only, match, **options)


def test_an_option_that_does_not_exist_is_a_type_error_that_lists_those_that_do() -> None:
    with pytest.raises(TypeError, match=r"no option 'num_worker'.*num_workers"):
        step(num_worker=2)  # type: ignore[call-overload]


def test_true_passes_as_one_worker() -> None:
    async def only(ev: StartEvent) -> StopEvent: ...  # type: ignore[empty-body]

    assert config(step(workflow=type("Anywhere", (Workflow,), {}), num_workers=True)(only)).num_workers == 1


# free functions


def test_a_free_function_must_say_where_it_belongs() -> None:
    namespace: dict[str, Any] = {"step": step, "StartEvent": StartEvent, "StopEvent": StopEvent}
    source = "@step\nasync def stray(ev: StartEvent) -> StopEvent: ...\n"
    with pytest.raises(WorkflowValidationError, match=r"`stray`.*is a free function.*@step\(workflow=MyWorkflow\)"):
        exec(compile(source, "stray.py", "exec"), namespace)


def test_a_free_function_inside_a_function_must_say_so_too() -> None:
    with pytest.raises(WorkflowValidationError, match=r"`stray`.*is a free function"):

        @step
        async def stray(ev: StartEvent) -> StopEvent: ...  # type: ignore[empty-body]


async def test_free_functions_become_steps_of_a_class() -> None:
    class Flow(Workflow):
        pass

    @step(workflow=Flow)
    async def first(ev: StartEvent) -> First:
        return First(n=ev.n)

    @step(workflow=Flow)
    def second(ev: First) -> StopEvent:
        return StopEvent(ev.n + 1)

    assert await Flow().run(n=1) == 2


async def test_free_functions_become_steps_of_an_instance() -> None:
    flow = Workflow(timeout=5)
    other = Workflow()

    @step(workflow=flow)
    async def first(ctx: Context, ev: StartEvent) -> First:
        return First(n=ev.n)

    @step(workflow=flow)
    async def second(ev: First) -> StopEvent:
        return StopEvent(ev.n + 1)

    @step(workflow=other)
    async def only(ev: StartEvent) -> StopEvent:
        return StopEvent("other")

    assert await flow.run(n=1) == 2
    assert await other.run() == "other"


async def test_one_function_may_be_a_step_of_several_workflows() -> None:
    class One(Workflow):
        pass

    class Two(Workflow):
        pass

    @step(workflow=One)
    async def shared(ev: StartEvent) -> StopEvent:
        return StopEvent(ev.n)

    Two.add_step(shared)
    third = Workflow()
    third.add_step(shared)
    assert [await flow.run(n=n) for n, flow in enumerate((One(), Two(), third))] == [0, 1, 2]


def test_a_name_that_is_taken_is_refused_with_both_places() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent: ...  # type: ignore[empty-body]

    async def only(ev: StartEvent) -> StopEvent: ...  # type: ignore[empty-body]

    with pytest.raises(WorkflowValidationError, match=rf"has a step `only` already \(.*:\d+\); `only` at {re.escape(__file__)}:\d+"):
        step(workflow=Flow)(only)
    with pytest.raises(WorkflowValidationError, match="has a step `only` already"):
        step(workflow=Flow())(only)


def test_a_function_that_is_not_decorated_cannot_be_added() -> None:
    async def plain(ev: StartEvent) -> StopEvent: ...  # type: ignore[empty-body]

    with pytest.raises(WorkflowValidationError, match=r"`plain` is not a step of .*decorate it with @step first"):
        Workflow.add_step(plain)
    with pytest.raises(WorkflowValidationError, match=r"`plain` is not a step of .*decorate it with @step first"):
        Workflow().add_step(plain)


# methods


def test_finding_methods_runs_no_property() -> None:
    class Flow(Workflow):
        @property
        def costly(self) -> int:
            raise AssertionError("it was called")

        @step
        async def only(self, ev: StartEvent) -> StopEvent: ...  # type: ignore[empty-body]

    assert Flow().events == [StartEvent, StopEvent]


class Base(Workflow):
    @step
    async def first(self, ev: StartEvent) -> First:
        return First(n=1)

    @step
    async def second(self, ev: First) -> StopEvent:
        return StopEvent("base")


async def test_steps_are_inherited() -> None:
    class Child(Base):
        pass

    assert await Child().run() == "base"


async def test_a_step_is_overridden_by_a_step() -> None:
    class Child(Base):
        @step
        async def second(self, ev: First) -> StopEvent:
            return StopEvent("child")

    assert await Child().run() == "child"
    assert await Base().run() == "base"


async def test_an_override_may_call_the_step_of_the_base() -> None:
    class Child(Base):
        @step
        async def second(self, ev: First) -> StopEvent:
            return StopEvent([(await super().second(ev)).result, "child"])

    assert await Child().run() == ["base", "child"]


def test_overriding_without_decorating_removes_the_step() -> None:
    class Child(Base):
        async def second(self, ev: First) -> StopEvent: ...  # type: ignore[empty-body]

    with pytest.raises(WorkflowValidationError, match=r"(?s)No step returns a StopEvent.*`first`.*produces First"):
        Child()


async def test_steps_of_a_mixin_that_is_no_workflow_count() -> None:
    class Mixin:
        @step
        async def second(self, ev: First) -> StopEvent:
            return StopEvent("mixin")

    class Flow(Mixin, Workflow):
        @step
        async def first(self, ev: StartEvent) -> First:
            return First()

    assert await Flow().run() == "mixin"


async def test_free_functions_of_a_base_are_inherited() -> None:
    class Parent(Workflow):
        pass

    class Child(Parent):
        pass

    @step(workflow=Parent)
    async def only(ev: StartEvent) -> StopEvent:
        return StopEvent("parent")

    assert await Child().run() == "parent"


async def test_a_static_method_can_be_a_step() -> None:
    class Flow(Workflow):
        @staticmethod
        @step
        async def only(ev: StartEvent) -> StopEvent:
            return StopEvent("static")

    assert await Flow().run() == "static"


async def test_a_plain_function_can_be_a_step() -> None:
    class Flow(Workflow):
        @step
        def only(self, ev: StartEvent) -> StopEvent:
            with pytest.raises(RuntimeError, match="no running event loop"):
                asyncio.get_running_loop()
            return StopEvent("thread")

    assert await Flow().run() == "thread"


@pytest.mark.parametrize("names", ["a", 3, [], [1], {"a"}])
def test_error_handlers_take_a_list_of_step_names(names: Any) -> None:
    async def handler(ev: StepFailedEvent) -> StopEvent: ...  # type: ignore[empty-body]

    with pytest.raises(WorkflowValidationError, match="must be a list of step names"):
        catch_error(for_steps=names)(handler)


def test_a_step_may_be_declared_at_the_bottom_of_the_stack_of_a_thread() -> None:
    class Flow(Workflow):
        pass

    thread = threading.Thread(target=step(workflow=Flow), args=(_declared_below,))
    thread.start()
    thread.join(5)
    assert config(_declared_below).accepted_events == [First]


async def _declared_below(ev: First) -> Second: ...  # type: ignore[empty-body]


def test_a_class_that_is_local_to_the_function_of_a_thread_is_found() -> None:
    class Flow(Workflow):
        pass

    def declare() -> None:
        class Local(Event):
            pass

        @step(workflow=Flow)
        async def work(ev: Local) -> Second: ...  # type: ignore[empty-body]

        found.extend(config(work).accepted_events)

    found: list[type[Event]] = []
    thread = threading.Thread(target=declare)
    thread.start()
    thread.join(5)
    assert [kind.__name__ for kind in found] == ["Local"]
