"""Section 2: step declaration, num_workers, catch_error, lists and joins."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any, Optional

import pytest

from tracedflow import (
    Collect,
    Context,
    Event,
    StartEvent,
    StopEvent,
    Take,
    Workflow,
    WorkflowRuntimeError,
    WorkflowStalledError,
    WorkflowValidationError,
    catch_error,
    step,
)
from tracedflow.decorators import StepConfig
from tracedflow.events import StepFailedEvent
from tracedflow.retry_policy import retry_policy, stop_after_attempt, wait_none


class A(Event):
    n: int = 0


class B(Event):
    n: int = 0


class Host(Workflow):
    pass


def config(function: Any) -> StepConfig:
    found: StepConfig = function._step_config
    return found


# 2.1


async def test_a_step_is_the_same_callable_and_can_be_called_by_itself() -> None:
    class Flow(Workflow):
        @step
        async def bare(self, ev: StartEvent) -> A:
            return A(n=1)

        @step(num_workers=2)
        async def called(self, ev: A) -> StopEvent:
            return StopEvent(result=ev.n)

    assert (await Flow().bare(StartEvent())).n == 1
    assert config(Flow.called).num_workers == 2
    with pytest.raises(TypeError):
        step(nonsense=1)  # type: ignore[call-overload]


def no_event(n: int) -> A: ...  # type: ignore[empty-body]
def no_return(ev: A): ...  # type: ignore[no-untyped-def]
async def generates(ev: A) -> AsyncIterator[A]:
    yield A()


def marked(ev: Annotated[A, "x"]) -> B: ...  # type: ignore[empty-body]
def two_lists(ev: list[A], other: list[B]) -> B: ...  # type: ignore[empty-body]
def list_and_one(ev: list[A], other: B) -> B: ...  # type: ignore[empty-body]
def union_of_two(ev: A | B, other: B) -> B: ...  # type: ignore[empty-body]
def unresolved(ev: Nowhere) -> B: ...  # type: ignore[empty-body,name-defined] # noqa: F821


@pytest.mark.parametrize("wrong", [no_event, no_return, generates, marked, two_lists, list_and_one, union_of_two])
def test_what_cannot_be_a_step_is_refused_with_its_place(wrong: Any) -> None:
    with pytest.raises(WorkflowValidationError, match=rf"`{wrong.__name__}` \(.*test_s02_steps\.py:\d+\)"):
        step(workflow=Host)(wrong)


def test_a_name_that_cannot_be_resolved_is_named_when_the_workflow_is_made() -> None:
    class Own(Workflow):
        pass

    with pytest.raises(WorkflowValidationError, match="Nowhere"):
        step(workflow=Own)(unresolved)
        Own()


async def _start(ev: StartEvent) -> StopEvent: ...  # type: ignore[empty-body]


@pytest.mark.parametrize("workers", [0, -1, 1.5, "4"])
def test_num_workers_is_a_positive_whole_number(workers: Any) -> None:
    with pytest.raises(WorkflowValidationError, match="num_workers"):
        step(workflow=Host, num_workers=workers)(_start)


def test_a_free_function_needs_its_workflow() -> None:
    with pytest.raises(WorkflowValidationError, match="workflow="):

        @step
        async def lonely(ev: StartEvent) -> StopEvent:
            return StopEvent()


def test_events_and_returns_are_read_from_the_annotations() -> None:
    class Flow(Workflow):
        @step
        async def optional(self, context: Context, ev: Optional[A], extra: int = 0) -> list[A | B] | StopEvent | None: ...  # type: ignore[empty-body] # noqa: UP045

    found = config(Flow.optional)
    assert (found.accepted_events, found.event_name, found.context_parameter) == ([A], "ev", "context")
    assert set(found.return_types) == {A, B, StopEvent}
    assert found.is_fan_out


async def test_a_context_is_known_by_its_annotation_and_not_by_its_name() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ctx: StartEvent, ev: Context) -> StopEvent:
            return StopEvent(result=[type(ctx).__name__, type(ev).__name__])

    assert await Flow().run() == ["StartEvent", "Context"]


@pytest.mark.parametrize("on_instance", [False, True])
async def test_a_free_function_may_belong_to_a_class_or_to_an_instance(on_instance: bool) -> None:
    class Own(Workflow):
        pass

    flow = Workflow()

    @step(workflow=flow if on_instance else Own)
    async def only(ev: StartEvent) -> StopEvent:
        return StopEvent(result="free")

    assert await (flow if on_instance else Own()).run() == "free"


def test_a_name_that_is_taken_is_refused() -> None:
    class Own(Workflow):
        pass

    def attach() -> None:
        @step(workflow=Own)
        async def only(ev: StartEvent) -> StopEvent:
            return StopEvent()

    attach()
    with pytest.raises(WorkflowValidationError, match="`only`"):
        attach()


async def test_steps_are_inherited_overridden_and_removed_as_methods_are() -> None:
    class Base(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result="base")

    class Child(Base):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result="child")

    class Plain(Base):
        async def only(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result="plain")

    assert await Child().run() == "child"
    with pytest.raises(WorkflowValidationError):
        Plain()


async def test_a_property_is_not_read_to_find_the_steps() -> None:
    class Flow(Workflow):
        @property
        def expensive(self) -> int:
            raise AssertionError("was read")

        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=1)

    assert await Flow().run() == 1


async def test_a_plain_function_may_send_and_stream_which_it_cannot_in_the_reference() -> None:
    class Flow(Workflow):
        @step
        def first(self, ctx: Context, ev: StartEvent) -> A | None:
            ctx.write_event_to_stream(B(n=1))
            ctx.send_event(A(n=2))
            return None

        @step
        def second(self, ev: A) -> StopEvent:
            return StopEvent(result=ev.n)

    handler = Flow().run()
    assert [event.n async for event in handler.stream_events() if isinstance(event, B)] == [1]
    assert await handler == 2


@pytest.mark.parametrize("wrong", ["text", 3, [A()]])
async def test_what_is_no_event_may_not_be_returned(wrong: Any) -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            return wrong  # type: ignore[no-any-return]

    with pytest.raises(WorkflowRuntimeError, match="`only`"):
        await Flow().run()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("num_workers", None),
        ("retry_policy", 3),
        ("timeout", 0),
        ("timeout", "1"),
        ("limit", 3),
        ("skip_graph_checks", "dead_end"),
        ("skip_graph_checks", ["everything"]),
        ("skip_graph_checks", 3),
        ("measures", "tokens"),
        ("workflow", 3),
        ("workflow", "Host"),
        ("workflow", A),
    ],
)
def test_an_option_with_a_wrong_value_is_refused_with_step_and_place(option: str, value: Any) -> None:
    with pytest.raises(WorkflowValidationError, match=rf"`_start` \(.*test_s02_steps\.py:\d+\) has {option}="):
        step(**{"workflow": Host, option: value})(_start)


@pytest.mark.parametrize("wrong", [3, "text", A, object()])
@pytest.mark.parametrize("decorator", [step, catch_error])
def test_only_functions_are_decorated(decorator: Any, wrong: Any) -> None:
    with pytest.raises(WorkflowValidationError, match="decorate a function"):
        decorator(wrong)


def test_true_passes_as_one_worker() -> None:
    class Flow(Workflow):
        @step(num_workers=True)
        async def only(self, ev: StartEvent) -> StopEvent: ...  # type: ignore[empty-body]

    assert config(Flow.only).num_workers == 1


@pytest.mark.parametrize("wrong", [3, lambda ev: None])
@pytest.mark.parametrize("on_instance", [False, True])
def test_what_is_not_decorated_cannot_be_attached(wrong: Any, on_instance: bool) -> None:
    class Own(Workflow):
        pass

    with pytest.raises(WorkflowValidationError, match=r"decorate it with @step"):
        (Workflow() if on_instance else Own).add_step(func=wrong)


def test_a_collect_mark_belongs_to_a_list() -> None:
    async def marked_one(ev: Annotated[A, Collect()]) -> B: ...  # type: ignore[empty-body]

    with pytest.raises(WorkflowValidationError, match=r"`ev` with Collect.*list"):
        step(workflow=Host)(marked_one)
    for wrong in (3, Take, None):
        with pytest.raises(ValueError, match=r"takes All\(\) or Take\(n\)"):
            Collect(wrong)  # type: ignore[arg-type]


async def test_a_parameter_that_nobody_fills_fails_the_step_as_a_call_would() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent, ctx, other: int = 3) -> StopEvent:  # type: ignore[no-untyped-def]
            return StopEvent()

    with pytest.raises(TypeError, match="ctx"):
        await Flow().run()


async def test_annotations_of_classes_that_are_local_to_a_function_are_resolved() -> None:
    class Local(Event):
        n: int = 3

    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> "Local":  # noqa: UP037
            return Local()

        @step
        async def second(self, ev: "Local") -> StopEvent:  # noqa: UP037
            return StopEvent(result=ev.n)

    assert await Flow().run() == 3


async def test_free_functions_of_a_base_are_inherited() -> None:
    class Own(Workflow):
        pass

    class Child(Own):
        pass

    @step(workflow=Own)
    async def only(ev: StartEvent) -> StopEvent:
        return StopEvent(result="inherited")  # the reference forgets it

    assert await Child().run() == "inherited"


async def test_an_event_that_is_not_declared_is_delivered_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> A:
            return B(n=1)  # type: ignore[return-value]

        @step
        async def second(self, ev: A) -> B: ...  # type: ignore[empty-body]

        @step
        async def third(self, ev: B) -> StopEvent:
            return StopEvent(result=ev.n)

    assert await Flow().run() == 1
    assert "returned B, but declares A" in caplog.text


# 2.2


async def test_num_workers_bounds_one_step_of_one_run_in_the_order_of_arrival() -> None:
    class Flow(Workflow):
        live = most = 0
        order: list[int]

        @step
        async def spread(self, ctx: Context, ev: StartEvent) -> A | None:
            for n in range(10):
                ctx.send_event(A(n=n))
            return None

        @step(num_workers=3)
        async def work(self, ev: A) -> B:
            self.order.append(ev.n)
            self.live += 1
            self.most = max(self.most, self.live)
            await asyncio.sleep(0)
            self.live -= 1
            return B(n=ev.n)

        @step
        async def join(self, ctx: Context, ev: B) -> StopEvent | None:
            found = ctx.collect_events(ev, [B] * 10)
            return None if found is None else StopEvent(result=self.most)

    flow = Flow()
    flow.order = []
    assert await flow.run() == 3
    assert flow.order == list(range(10))


# 2.3


class Risky(Workflow):
    @step
    async def risky(self, ev: StartEvent | A) -> StopEvent:
        raise ConnectionError("down")

    @step
    async def other(self, ev: B) -> A:
        return A()


async def test_a_handler_takes_over_and_a_scoped_one_comes_before_the_wildcard() -> None:
    class Flow(Risky):
        @catch_error
        async def wildcard(self, ev: StepFailedEvent) -> StopEvent:
            return StopEvent(result="wildcard")

        @catch_error(for_steps=["risky"])
        async def scoped(self, ev: StepFailedEvent) -> StopEvent | B:
            return StopEvent(result=[ev.step_name, type(ev.input_event).__name__, str(ev.exception), ev.attempts])

    assert await Flow().run() == ["risky", "StartEvent", "down", 1]


async def test_the_budget_of_recoveries_is_the_lines_and_then_the_original_failure_ends_the_run() -> None:
    class Flow(Risky):
        @catch_error(max_recoveries=2)
        async def again(self, ev: StepFailedEvent) -> B:
            tries.append(1)
            return B()

    tries: list[int] = []
    with pytest.raises(ConnectionError, match="down"):
        await Flow().run()
    assert len(tries) == 2


async def test_a_handler_is_called_when_the_retries_are_used_up() -> None:
    class Flow(Workflow):
        tries = 0

        @step(retry_policy=retry_policy(wait=wait_none(), stop=stop_after_attempt(3)))
        async def risky(self, ev: StartEvent) -> StopEvent:
            self.tries += 1
            raise ConnectionError("down")

        @catch_error
        async def handler(self, ev: StepFailedEvent) -> StopEvent:
            return StopEvent(result=[ev.attempts, self.tries])

    assert await Flow().run() == [3, 3]
    assert config(Flow.handler).num_workers == 1


async def test_a_failure_in_a_handler_is_the_failure_of_the_run() -> None:
    class Flow(Risky):
        @catch_error
        async def handler(self, ev: StepFailedEvent) -> StopEvent | B:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await Flow().run()


async def test_a_handler_that_returns_none_does_not_hang_the_run() -> None:
    class Flow(Risky):
        @catch_error
        async def handler(self, ev: StepFailedEvent) -> StopEvent | B | None:
            return None

    with pytest.raises(WorkflowStalledError, match="handler"):
        await Flow().run()


async def test_a_free_function_is_attached_as_a_handler() -> None:
    class Flow(Workflow):
        @step
        async def risky(self, ev: StartEvent) -> StopEvent:
            raise ConnectionError("down")

    @catch_error
    async def handler(ev: StepFailedEvent) -> StopEvent:
        return StopEvent(result=ev.step_name)

    Flow.add_step(handler)
    assert await Flow().run() == "risky"


def test_a_handler_takes_a_failure_and_nothing_else() -> None:
    with pytest.raises(WorkflowValidationError, match="`wrong` .* must be `StepFailedEvent`"):

        class Flow(Workflow):
            @catch_error
            async def wrong(self, ev: A) -> StopEvent: ...  # type: ignore[empty-body]


def test_a_handler_whose_annotation_is_resolved_late_is_checked_all_the_same() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent: ...  # type: ignore[empty-body]

        @catch_error
        async def wrong(self, ev: Later) -> StopEvent: ...  # type: ignore[empty-body]

    class Later(Event):
        pass

    with pytest.raises(WorkflowValidationError, match="`wrong` .* must be `StepFailedEvent`"):
        Flow()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        *(({"max_recoveries": each}, "max_recoveries") for each in (0, -1, True, 1.5, "1", None)),
        *(({"for_steps": each}, "for_steps") for each in ("risky", [3], 3, [])),
    ],
)
def test_a_handler_with_wrong_options_is_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(WorkflowValidationError, match=text):

        @catch_error(**options)
        async def handler(self: Any, ev: StepFailedEvent) -> StopEvent:
            return StopEvent()


def test_handlers_that_claim_wrong_steps_are_all_told_at_once() -> None:
    with pytest.raises(WorkflowValidationError) as caught:

        class Flow(Risky):
            @catch_error
            async def one(self, ev: StepFailedEvent) -> StopEvent | B: ...  # type: ignore[empty-body]

            @catch_error
            async def two(self, ev: StepFailedEvent) -> StopEvent: ...  # type: ignore[empty-body]

            @catch_error(for_steps=["nowhere", "one"])
            async def three(self, ev: StepFailedEvent) -> StopEvent: ...  # type: ignore[empty-body]

        Flow()
    assert all(name in str(caught.value) for name in ("two", "nowhere", "three"))


# 2.4


class Spread(Workflow):
    """Items whose number says in which order they are through."""

    @step
    async def spread(self, ev: StartEvent) -> list[A]:
        return [A(n=n) for n in ev.numbers]

    @step
    async def work(self, ev: A) -> B | None:
        for _ in range(ev.n * 3):
            await asyncio.sleep(0)
        return B(n=ev.n) if ev.n != 7 else None


class Joined(Spread):
    @step
    async def join(self, ev: list[B]) -> StopEvent:
        return StopEvent(result=[each.n for each in ev])


@pytest.mark.parametrize(("numbers", "joined"), [([3, 1, 2], [1, 2, 3]), ([], []), ([1, 7], [1])])
async def test_a_list_is_joined_once_in_the_order_of_completion_when_all_of_it_has_ended(numbers: list[int], joined: list[int]) -> None:
    assert await Joined().run(numbers=numbers) == joined


async def test_take_is_content_with_the_first_ones() -> None:
    class Flow(Spread):
        @step
        async def join(self, ev: Annotated[list[B], Collect(Take(2))]) -> StopEvent:
            return StopEvent(result=[each.n for each in ev])

    assert await Flow().run(numbers=[3, 1, 2]) == [1, 2]
    assert await Flow().run(numbers=[3]) == [3]
    with pytest.raises(ValueError, match="greater than 0"):
        Take(0)


def test_a_list_that_nobody_opens_is_refused() -> None:
    with pytest.raises(WorkflowValidationError, match="list"):

        class Flow(Workflow):
            @step
            async def one(self, ev: StartEvent) -> A:
                return A()

            @step
            async def join(self, ev: list[A]) -> StopEvent:
                return StopEvent()

        Flow()


@pytest.mark.parametrize("first", [A, B])
async def test_a_step_with_several_events_waits_for_one_of_each_in_whatever_order(first: type[Event]) -> None:
    class Flow(Workflow):
        @step
        async def both(self, ctx: Context, ev: StartEvent) -> A | B | None:
            for kind in (first, B if first is A else A):
                ctx.send_event(kind(n=1))
            return None

        @step
        async def join(self, a: A, b: B) -> StopEvent:
            return StopEvent(result=[type(a).__name__, type(b).__name__])

    assert await Flow().run() == ["A", "B"]


def test_what_can_never_come_up_together_is_not_joined() -> None:
    class Flow(Workflow):
        @step
        async def spread(self, ev: StartEvent) -> list[A]: ...  # type: ignore[empty-body]

        @step
        async def work(self, ev: A) -> B: ...  # type: ignore[empty-body]

        @step
        async def join(self, one: StartEvent, other: B) -> StopEvent: ...  # type: ignore[empty-body]

        @step
        async def collect(self, ev: list[B]) -> StopEvent: ...  # type: ignore[empty-body]

    with pytest.raises(WorkflowValidationError, match=r"`join` \(.*\) joins StartEvent and B, which never come up together.*list"):
        Flow()


async def test_within_a_list_one_of_each_is_joined_for_each_member() -> None:
    class Left(Event):
        n: int

    class Right(Event):
        n: int

    class Both(Event):
        n: int

    class Flow(Workflow):
        @step
        async def spread(self, ev: StartEvent) -> list[A]:
            return [A(n=n) for n in range(3)]

        @step
        async def left(self, ev: A) -> Left:
            return Left(n=ev.n)

        @step
        async def right(self, ev: A) -> Right:
            return Right(n=ev.n)

        @step
        async def join(self, a: Left, b: Right) -> Both:
            return Both(n=a.n + b.n)

        @step
        async def done(self, ev: list[Both]) -> StopEvent:
            return StopEvent(result=sum(each.n for each in ev))

    assert await Flow().run() == 6
