"""Section 3: the workflow: its constructor, the checks of its graph, its runs, their limits and their failures."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import BaseModel

from tracedflow import (
    Context,
    ContextStateError,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    JsonSerializer,
    RunOptions,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowCancelledByUser,
    WorkflowConfigurationError,
    WorkflowHandler,
    WorkflowRuntimeError,
    WorkflowStalledError,
    WorkflowTimeoutError,
    WorkflowValidationError,
    catch_error,
    step,
)
from tracedflow.errors import StepCancelledError, WorkflowStartError
from tracedflow.events import StepFailedEvent, WorkflowFailedEvent, WorkflowTimedOutEvent
from tracedflow.resource import ResourceConfig, ResourceManager
from tracedflow.testing import virtual_time


class A(Event):
    n: int = 0


class B(Event):
    n: int = 0


class C(Event):
    pass


class Ask(InputRequiredEvent):
    pass


class Reply(HumanResponseEvent):
    pass


class Echo(Workflow):
    """Gives back what it was started with."""

    @step
    async def only(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=ev.to_dict())


class Gated(Workflow):
    """Runs until its gate is opened."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gate = asyncio.Event()
        self.begun: list[Any] = []
        self.ended: list[Any] = []

    @step
    async def hold(self, ev: StartEvent) -> StopEvent:
        self.begun.append(ev.get("n"))
        try:
            await self.gate.wait()
        finally:
            self.ended.append(ev.get("n"))
        return StopEvent(result=ev.get("n"))


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def streamed(handler: WorkflowHandler[Any]) -> list[Event]:
    return [event async for event in handler.stream_events()]


# --- 3.1 the constructor ---


def test_all_arguments_may_be_given_by_position_in_the_known_order() -> None:
    manager, serializer = ResourceManager(), JsonSerializer()
    flow = Echo(3.0, True, False, manager, 2, None, "named", ["dead_end"], serializer)
    assert (flow.resource_manager, flow.workflow_name, flow.runtime) == (manager, "named", None)
    assert flow.serializer is serializer


def test_another_runtime_is_refused_with_what_to_do_instead() -> None:
    with pytest.raises(WorkflowConfigurationError, match=r"runtime=.*leave it out.*middleware"):
        Echo(runtime=object())  # type: ignore[arg-type]


def two_starts() -> None:
    class Other(StartEvent):
        pass

    class Flow(Workflow):
        @step
        async def one(self, ev: StartEvent) -> StopEvent: ...  # type: ignore[empty-body]
        @step
        async def two(self, ev: Other) -> StopEvent: ...  # type: ignore[empty-body]

    Flow()


def two_stops() -> None:
    class Other(StopEvent):
        pass

    class Flow(Workflow):
        @step
        async def one(self, ev: StartEvent) -> StopEvent | Other: ...  # type: ignore[empty-body]

    Flow()


def no_start() -> None:
    class Flow(Workflow):
        @step
        async def one(self, ev: A) -> StopEvent: ...  # type: ignore[empty-body]

    Flow()


def no_stop() -> None:
    class Flow(Workflow):
        @step
        async def one(self, ev: StartEvent) -> None: ...

    Flow()


def no_steps() -> None:
    class Flow(Workflow):
        pass

    Flow()


@pytest.mark.parametrize(
    ("declare", "says"),
    [
        (no_start, "No step accepts a StartEvent"),
        (two_starts, r"2 start events.*StartEvent by `one`.*Other by `two`"),
        (no_stop, "No step returns a StopEvent"),
        (two_stops, r"2 stop events.*StopEvent by `one`.*Other by `one`"),
        (no_steps, r"no steps.*@step\(workflow="),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_a_workflow_without_one_way_in_and_one_way_out_is_refused_by_its_constructor(declare: Callable[[], None], says: str) -> None:
    with pytest.raises(WorkflowConfigurationError, match=says) as caught:
        declare()
    assert "Flow" in str(caught.value)
    assert Path(__file__).name in str(caught.value)


async def test_a_bare_workflow_is_checked_at_its_first_run() -> None:
    flow = Workflow()
    with pytest.raises(WorkflowConfigurationError, match="no steps"):
        flow.run()


@pytest.mark.parametrize("count", [0, -1, 1.5, "2", True, False])
def test_num_concurrent_runs_is_a_positive_whole_number_or_none(count: Any) -> None:
    with pytest.raises(WorkflowValidationError, match=r"num_concurrent_runs=.*integer greater than 0"):
        Echo(num_concurrent_runs=count)


@pytest.mark.parametrize("names", [["nonsense"], "dead_end", [3]])
def test_skip_graph_checks_knows_three_names(names: Any) -> None:
    with pytest.raises(WorkflowValidationError, match=r"skip_graph_checks=.*reachability.*terminal_event.*dead_end"):
        Echo(skip_graph_checks=names)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("timeout", "45"),
        ("timeout", True),
        ("timeout", float("nan")),
        ("resource_manager", object()),
        ("workflow_name", 3),
        ("workflow_name", ""),
        ("serializer", object()),
        ("serializer", JsonSerializer),
        ("middleware", object()),
        ("middleware", [object()]),
        ("on_stall", "hang"),
        ("max_queued", 0),
        ("keep_events", 0),
        ("keep_records", "all"),
        ("cancel_grace", "soon"),
        ("cancel_grace", -1),
        ("cancel_grace", None),
    ],
)
def test_an_argument_with_a_wrong_value_is_refused_by_its_name(option: str, value: Any) -> None:
    with pytest.raises((WorkflowValidationError, TypeError), match=option):
        Echo(**{option: value})


async def test_forgetting_super_init_says_so() -> None:
    class Forgetful(Echo):
        def __init__(self) -> None:
            self.mine = 1

    with pytest.raises(WorkflowRuntimeError, match=r"Forgetful.*super\(\)\.__init__"):
        Forgetful().run()


def test_its_properties_tell_its_name_and_its_events() -> None:
    class Begin(StartEvent):
        pass

    class End(StopEvent):
        pass

    class Flow(Workflow):
        @step
        async def one(self, ev: Begin) -> A: ...  # type: ignore[empty-body]
        @step
        async def two(self, ev: A) -> End: ...  # type: ignore[empty-body]

    flow = Flow()
    assert flow.workflow_name.endswith("Flow")
    assert Flow(workflow_name="mine").workflow_name == "mine"
    assert (flow.start_event_class, flow.stop_event_class) == (Begin, End)
    assert set(flow.events) == {Begin, A, End}
    assert isinstance(flow.serializer, JsonSerializer)
    assert flow.runtime is None


async def test_an_instance_may_run_often_and_at_once_and_its_attributes_are_shared() -> None:
    flow = Gated()
    handlers = [flow.run(n=n) for n in range(3)]
    await turns()
    flow.gate.set()
    assert await asyncio.gather(*handlers) == [0, 1, 2]
    assert sorted(flow.ended) == [0, 1, 2]
    assert await flow.run(n=9) == 9


async def test_an_instance_is_not_kept_alive_after_its_run() -> None:
    flow = Echo()
    await flow.run()
    gone = weakref.ref(flow)
    del flow
    for _ in range(3):
        await turns()
        gc.collect()
    assert gone() is None


# --- 3.2 the checks of the graph ---


def takes_the_end() -> type[Workflow]:
    class Flow(Workflow):
        @step
        async def one(self, ev: StartEvent) -> StopEvent: ...  # type: ignore[empty-body]
        @step
        async def late(self, ev: StopEvent) -> None: ...

    return Flow


def takes_what_nobody_gives() -> type[Workflow]:
    class Flow(Workflow):
        @step
        async def one(self, ev: StartEvent) -> StopEvent: ...  # type: ignore[empty-body]
        @step
        async def never(self, ev: A) -> StopEvent: ...  # type: ignore[empty-body]

    return Flow


def takes_any_event() -> type[Workflow]:
    class Flow(Workflow):
        @step
        async def one(self, ev: StartEvent) -> StopEvent: ...  # type: ignore[empty-body]
        @step
        async def all(self, ev: Event) -> None: ...

    return Flow


def takes_failures_without_catching() -> type[Workflow]:
    class Flow(Workflow):
        @step
        async def one(self, ev: StartEvent) -> StopEvent: ...  # type: ignore[empty-body]
        @step
        async def failed(self, ev: StepFailedEvent) -> StopEvent: ...  # type: ignore[empty-body]

    return Flow


def gives_what_nobody_takes() -> type[Workflow]:
    class Flow(Workflow):
        @step
        async def one(self, ev: StartEvent) -> StopEvent | A: ...  # type: ignore[empty-body]

    return Flow


def gives_no_event() -> type[Workflow]:
    class Flow(Workflow):
        @step
        async def one(self, ev: StartEvent) -> StopEvent: ...  # type: ignore[empty-body]
        @step
        async def text(self, ev: Reply) -> str: ...  # type: ignore[empty-body,type-var]

    return Flow


def has_an_island() -> type[Workflow]:
    class Flow(Workflow):
        @step
        async def one(self, ev: StartEvent) -> StopEvent: ...  # type: ignore[empty-body]
        @step
        async def there(self, ev: A) -> B: ...  # type: ignore[empty-body]
        @step
        async def back(self, ev: B) -> A | StopEvent: ...  # type: ignore[empty-body]

    return Flow


def has_a_dead_end() -> type[Workflow]:
    class Flow(Workflow):
        @step
        async def one(self, ev: StartEvent) -> StopEvent | A: ...  # type: ignore[empty-body]
        @step
        async def there(self, ev: A) -> B: ...  # type: ignore[empty-body]
        @step
        async def back(self, ev: B) -> A: ...  # type: ignore[empty-body]

    return Flow


def has_two_states() -> type[Workflow]:
    class One(BaseModel):
        pass

    class Two(BaseModel):
        pass

    class Flow(Workflow):
        @step
        async def one(self, ctx: Context[One], ev: StartEvent) -> A: ...  # type: ignore[empty-body]
        @step
        async def two(self, ctx: Context[Two], ev: A) -> StopEvent: ...  # type: ignore[empty-body]

    return Flow


@pytest.mark.parametrize(
    ("declare", "says"),
    [
        (takes_the_end, r"`late` \(.*\) accepts StopEvent.*accept another event"),
        (takes_what_nobody_gives, r"`never` \(.*\) accepts A, which no step produces"),
        (takes_any_event, r"`all` \(.*\) accepts Event, which no step produces"),
        (takes_failures_without_catching, r"`failed` \(.*\) accepts StepFailedEvent, which no step produces"),
        (gives_what_nobody_takes, r"`one` \(.*\) produces A, which no step accepts"),
        (gives_no_event, r"`text` \(.*\) is annotated to return str"),
        (has_an_island, r"`there` \(.*\) can never be reached"),
        (has_a_dead_end, r"`there` \(.*\) leads to no StopEvent"),
        (has_two_states, r"not derived from each other: One by `one` .* Two by `two`"),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_each_mistake_of_a_graph_is_named_with_its_step_and_place(declare: Callable[[], type[Workflow]], says: str) -> None:
    with pytest.raises(WorkflowValidationError, match=says) as caught:
        declare()()
    assert Path(__file__).name in str(caught.value)


def test_all_mistakes_are_told_at_once() -> None:
    class Flow(Workflow):
        @step
        async def one(self, ev: StartEvent) -> A: ...  # type: ignore[empty-body]
        @step
        async def two(self, ev: B) -> C: ...  # type: ignore[empty-body]

    with pytest.raises(WorkflowConfigurationError) as caught:
        Flow()
    told = str(caught.value)
    assert all(part in told for part in ("No step returns a StopEvent", "`one`", "produces A", "`two`", "accepts B", "produces C"))


def test_a_near_miss_is_named() -> None:
    class Draft(Event):
        pass

    class Drafts(Event):
        pass

    class Flow(Workflow):
        @step
        async def one(self, ev: StartEvent) -> Draft: ...  # type: ignore[empty-body]
        @step
        async def two(self, ev: Drafts) -> StopEvent: ...  # type: ignore[empty-body]

    with pytest.raises(WorkflowValidationError, match=r"Did you mean Drafts\?"):
        Flow()


def test_an_event_that_is_only_sent_must_stand_in_some_return_annotation() -> None:
    class Sends(Workflow):
        @step
        async def one(self, ctx: Context, ev: StartEvent) -> StopEvent | None: ...
        @step
        async def two(self, ev: A) -> StopEvent: ...  # type: ignore[empty-body]

    with pytest.raises(WorkflowValidationError, match=r"accepts A, which no step produces.*return annotation"):
        Sends()


def test_questions_answers_and_caught_failures_need_no_counterpart() -> None:
    class Flow(Workflow):
        @step
        async def one(self, ev: StartEvent) -> Ask: ...  # type: ignore[empty-body]
        @step
        async def two(self, ev: Reply) -> StopEvent: ...  # type: ignore[empty-body]
        @catch_error
        async def failed(self, ev: StepFailedEvent) -> StopEvent: ...  # type: ignore[empty-body]

    assert Flow().validate() is True


def test_validate_tells_whether_a_human_is_asked() -> None:
    assert Echo().validate() is False


def test_a_check_may_be_skipped_for_a_workflow_or_for_a_step() -> None:
    has_an_island()(skip_graph_checks=["reachability"])
    has_a_dead_end()(skip_graph_checks=["dead_end"])

    class Flow(Workflow):
        @step
        async def one(self, ev: StartEvent) -> StopEvent | A: ...  # type: ignore[empty-body]
        @step(skip_graph_checks=["dead_end"])
        async def there(self, ev: A) -> B: ...  # type: ignore[empty-body]
        @step(skip_graph_checks=["dead_end"])
        async def back(self, ev: B) -> A: ...  # type: ignore[empty-body]

    Flow()


def test_an_event_that_ends_the_graph_may_be_allowed() -> None:
    gives_what_nobody_takes()(skip_graph_checks=["terminal_event"])

    class Flow(Workflow):
        @step(skip_graph_checks=["terminal_event"])
        async def one(self, ev: StartEvent) -> StopEvent | A: ...  # type: ignore[empty-body]

    Flow()


def test_skipping_one_check_leaves_the_others() -> None:
    class Flow(Workflow):
        @step
        async def one(self, ev: StartEvent) -> StopEvent | A: ...  # type: ignore[empty-body]
        @step
        async def there(self, ev: B) -> C: ...  # type: ignore[empty-body]
        @step
        async def back(self, ev: C) -> B | StopEvent: ...  # type: ignore[empty-body]

    with pytest.raises(WorkflowValidationError, match="`there` .* can never be reached"):
        Flow(skip_graph_checks=["terminal_event"])


async def test_disable_validation_leaves_the_checks_to_validate() -> None:
    class Flow(Workflow):
        @step
        async def one(self, ev: StartEvent) -> StopEvent | A:
            return StopEvent(result=1)

    flow = Flow(disable_validation=True)
    assert await flow.run() == 1
    with pytest.raises(WorkflowValidationError, match="produces A"):
        flow.validate()


def test_a_class_is_not_checked_when_it_is_made() -> None:
    has_a_dead_end()


async def test_a_step_attached_later_is_checked_at_the_next_run() -> None:
    class Flow(Echo):
        pass

    flow = Flow()
    assert await flow.run(x=1) == {"x": 1}

    @step(workflow=Flow)
    async def never(ev: A) -> None: ...

    with pytest.raises(WorkflowValidationError, match=r"`never` \(.*\) accepts A"):
        flow.run()


def test_a_missing_configuration_file_is_told_with_step_and_parameter(tmp_path: Path) -> None:
    class Settings(BaseModel):
        n: int

    class Flow(Workflow):
        @step
        async def one(self, ev: StartEvent, c: Annotated[Settings, ResourceConfig(str(tmp_path / "none.json"))]) -> StopEvent: ...  # type: ignore[empty-body]

    flow = Flow()
    with pytest.raises(WorkflowValidationError, match=r"`one` .*`c`.*none\.json"):
        flow.validate()
    assert flow.validate(validate_resource_configs=False) is False


async def test_resources_may_be_tried_inside_a_running_loop() -> None:
    assert Echo().validate(validate_resources=True) is False  # the reference cannot


async def test_the_most_derived_state_is_used_and_must_have_defaults() -> None:
    class Base(BaseModel):
        n: int = 1

    class More(Base):
        m: int = 2

    class Flow(Workflow):
        @step
        async def one(self, ctx: Context[Base], ev: StartEvent) -> A:
            await ctx.store.set("n", 5)
            return A()

        @step
        async def two(self, ctx: Context[More], ev: A) -> StopEvent:
            return StopEvent(result=await ctx.store.get_state())

    state = await Flow().run()
    assert (type(state), state.n, state.m) == (More, 5, 2)


# --- 3.3 run ---


def test_run_needs_a_running_loop_and_leaves_no_coroutine_behind() -> None:
    with pytest.raises(RuntimeError, match=r"needs a running event loop.*run_sync"):
        Echo().run()


def test_run_sync_is_for_scripts() -> None:
    assert Echo().run_sync(x=1) == {"x": 1}


async def test_run_sync_inside_a_running_loop_has_a_loop_of_its_own() -> None:
    assert Echo().run_sync(x=1) == {"x": 1}


async def test_the_keywords_are_the_fields_of_the_start_event() -> None:
    assert await Echo().run(topic="x", n=1) == {"topic": "x", "n": 1}


async def test_a_start_event_that_cannot_be_made_is_told_with_the_field_and_its_cause() -> None:
    class Begin(StartEvent):
        topic: str

    class Flow(Workflow):
        @step
        async def one(self, ev: Begin) -> StopEvent:
            return StopEvent(result=ev.topic)

    with pytest.raises(WorkflowRuntimeError, match=r"(?s)Begin.*other.*topic") as caught:
        Flow().run(other=1)
    assert caught.value.__cause__ is not None  # the reference hides it
    assert await Flow().run(topic="x") == "x"
    assert await Flow().run(start_event=Begin(topic="y")) == "y"


@pytest.mark.parametrize("wrong", [A(), {"topic": "x"}, "x", StartEvent])
async def test_a_start_event_must_be_one(wrong: Any) -> None:
    with pytest.raises(ValueError, match="start_event must be a StartEvent"):
        Echo().run(start_event=wrong)


async def test_fields_beside_a_start_event_are_ignored_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="n, which are ignored"):
        handler = Echo().run(start_event=StartEvent(x=1), n=2)
    assert await handler == {"x": 1}


async def test_a_start_event_of_another_class_fails_at_once_and_says_which_is_right() -> None:
    class Other(StartEvent):
        pass

    with pytest.raises(WorkflowStalledError, match=r"Other.*starts with StartEvent"):
        await Echo().run(start_event=Other())


async def test_a_run_has_an_id_of_its_own_or_the_one_given() -> None:
    handler = Echo().run(run_id="mine", x=1)
    assert handler.run_id == "mine"
    assert await handler == {"x": 1}
    handlers = [Echo().run() for _ in range(20)]
    assert len({each.run_id for each in handlers}) == 20
    assert {len(each.run_id) for each in handlers} == {10}
    await asyncio.gather(*handlers)


async def test_the_id_of_a_live_run_may_not_be_used_again() -> None:
    flow = Gated()
    handler = flow.run(run_id="same")
    with pytest.raises(WorkflowStartError, match="'same' is that of a live run") as caught:
        flow.run(run_id="same")
    assert isinstance(caught.value, RuntimeError)
    flow.gate.set()
    await handler
    assert await flow.run(run_id="same", n=1) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ctx", {"version": 1}),
        ("run_id", 3),
        ("run_id", ""),
        ("options", {"timeout": 3}),
        ("checkpoint_callback", "save"),
    ],
)
async def test_a_reserved_argument_with_a_wrong_value_is_refused_by_its_name(name: str, value: Any) -> None:
    with pytest.raises((WorkflowRuntimeError, ContextStateError, WorkflowValidationError), match=name):
        Echo().run(**{name: value})


@pytest.mark.parametrize("timeout", ["3", True, float("nan")])
async def test_the_timeout_of_one_run_is_checked_too(timeout: Any) -> None:
    with pytest.raises(WorkflowValidationError, match="timeout"):
        Echo().run(options=RunOptions(timeout=timeout))


class Counting(Workflow):
    @step
    async def count(self, ctx: Context, ev: StartEvent) -> StopEvent:
        async with ctx.store.edit_state() as state:
            state.n = state.get("n", 0) + 1
        return StopEvent(result=await ctx.store.get("n"))


async def test_a_context_given_again_keeps_its_store() -> None:
    flow = Counting()
    ctx: Context[Any] = Context(flow)
    assert [await flow.run(ctx=ctx) for _ in range(3)] == [1, 2, 3]
    handler = flow.run()
    assert await handler == 1
    assert await flow.run(ctx=handler.ctx) == 2


async def test_a_run_saved_by_another_workflow_is_not_gone_on_with() -> None:
    handler = Waits().run()
    await turns()
    saved = Context.from_dict(Waits(), handler.ctx.to_dict())
    with pytest.raises(ContextStateError, match=r"Gated got a saved run of .*Waits"):
        Gated().run(ctx=saved)
    await handler.cancel_run()


async def test_a_context_of_a_live_run_may_not_start_another() -> None:
    flow = Gated()
    handler = flow.run()
    with pytest.raises(ContextStateError, match="live run"):
        flow.run(ctx=handler.ctx)
    flow.gate.set()
    await handler


class Waits(Workflow):
    started = 0

    @step
    async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
        self.started += 1
        answer = await ctx.wait_for_event(Reply)
        return StopEvent(result=[ev.get("n"), answer.text])


async def test_a_context_saved_in_the_middle_resumes_and_no_new_start_event_fires() -> None:
    flow = Waits()
    handler = flow.run(n=1)
    await turns()
    data = handler.ctx.to_dict()
    await handler.cancel_run()
    again = Context.from_dict(Waits(), data)
    assert again.is_running
    resumed = flow.run(ctx=again)
    await turns()
    resumed.ctx.send_event(Reply(text="yes"))
    assert await resumed == [1, "yes"]


# --- 3.4 time limits, concurrency ---


@virtual_time()
async def test_a_run_that_takes_too_long_is_ended_and_the_stream_told_first() -> None:
    handler = Gated(timeout=3).run()
    last = (await streamed(handler))[-1]
    assert isinstance(last, WorkflowTimedOutEvent)
    assert (last.timeout, last.active_steps) == (3, ["hold"])
    with pytest.raises(WorkflowTimeoutError, match=r"3.*hold"):
        await handler


@virtual_time()
@pytest.mark.parametrize("timeout", [0, -1])
async def test_no_time_is_an_immediate_timeout(timeout: float) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(WorkflowTimeoutError):
        await Gated(timeout=timeout).run()
    assert loop.time() == began


@virtual_time()
async def test_none_is_no_limit() -> None:
    flow = Gated(timeout=None)
    handler = flow.run(n=1)
    await asyncio.sleep(1e6)
    flow.gate.set()
    assert await handler == 1


@virtual_time()
async def test_the_default_is_45_seconds() -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(WorkflowTimeoutError):
        await Gated().run()
    assert loop.time() - began == pytest.approx(45)


@virtual_time()
async def test_waiting_for_a_human_counts() -> None:
    with pytest.raises(WorkflowTimeoutError):
        await Waits(timeout=5, on_stall="wait").run()


@virtual_time()
async def test_waiting_for_its_turn_does_not_count() -> None:
    class Slow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            await asyncio.sleep(2)
            return StopEvent(result=1)

    flow = Slow(timeout=3, num_concurrent_runs=1)
    assert await asyncio.gather(*(flow.run() for _ in range(4))) == [1, 1, 1, 1]


@virtual_time()
async def test_the_runs_of_one_context_have_a_timeout_each() -> None:
    class Slow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            await asyncio.sleep(2)
            return StopEvent(result=1)

    flow = Slow(timeout=3)
    ctx: Context[Any] = Context(flow)
    assert [await flow.run(ctx=ctx) for _ in range(3)] == [1, 1, 1]


@virtual_time()
@pytest.mark.parametrize(("needs", "cleaned"), [(0.4, True), (0.6, False)])
async def test_a_cancelled_step_has_half_a_second_to_clean_up(needs: float, cleaned: bool, caplog: pytest.LogCaptureFixture) -> None:
    done: list[bool] = []

    class Slow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            try:
                await asyncio.sleep(100)
            finally:
                await asyncio.sleep(needs)
                done.append(True)
            return StopEvent()

    with pytest.raises(WorkflowTimeoutError):
        await Slow(timeout=1).run()
    assert done == [True] * cleaned
    assert ("abandoned" in caplog.text) is not cleaned


async def test_num_concurrent_runs_bounds_the_live_runs_of_one_instance() -> None:
    flow = Gated(num_concurrent_runs=2)
    handlers = [flow.run(n=n) for n in range(4)]  # returns at once
    await turns()
    assert flow.begun == [0, 1]
    other = Gated(num_concurrent_runs=2)
    apart = other.run(n=7)
    await turns()
    assert other.begun == [7]
    other.gate.set()
    flow.gate.set()
    assert await asyncio.gather(*handlers, apart) == [0, 1, 2, 3, 7]


async def test_none_bounds_nothing() -> None:
    flow = Gated()
    handlers = [flow.run(n=n) for n in range(30)]
    await turns()
    assert len(flow.begun) == 30
    flow.gate.set()
    await asyncio.gather(*handlers)


# --- 3.5 failures ---


class Fails(Workflow):
    error: BaseException = ValueError("boom")
    cancelled = 0

    @step
    async def both(self, ev: StartEvent) -> list[A | B]:
        return [B(), A()]

    @step
    async def other(self, ev: B) -> StopEvent:
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled += 1
        return StopEvent()

    @step
    async def bad(self, ev: A) -> StopEvent:
        await turns()
        raise self.error


async def test_a_failure_ends_the_run_cancels_the_others_and_raises_the_very_exception() -> None:
    flow = Fails()
    handler = flow.run()
    last = (await streamed(handler))[-1]
    assert isinstance(last, WorkflowFailedEvent)
    assert (last.step_name, last.exception, last.attempts) == ("bad", flow.error, 1)
    assert flow.cancelled == 1
    with pytest.raises(ValueError, match="boom") as caught:
        await handler
    assert caught.value is flow.error
    assert "step `bad`" in "".join(caught.value.__notes__)


class Nasty(BaseException):
    pass


@pytest.mark.parametrize(
    "error", [Nasty("mine"), SystemExit(3), KeyboardInterrupt(), GeneratorExit()], ids=lambda each: type(each).__name__
)
def test_what_is_no_exception_reaches_who_awaits_and_the_stream_ends(error: BaseException) -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            raise error

    async def main() -> tuple[list[Event], BaseException | None]:
        handler = Flow().run()
        events = await streamed(handler)
        try:
            await handler
        except BaseException as caught:
            return events, caught
        return events, None

    events, caught = asyncio.run(main())
    assert isinstance(events[-1], WorkflowFailedEvent)
    assert caught is error


async def test_a_cancellation_that_a_step_raises_itself_is_a_failure() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            raise asyncio.CancelledError

    handler = Flow().run()
    assert isinstance((await streamed(handler))[-1], WorkflowFailedEvent)
    with pytest.raises(StepCancelledError, match="only"):
        await handler


@pytest.mark.parametrize("timeout", [45, None])
async def test_a_run_whose_branches_all_return_none_fails_at_once_and_says_why(timeout: float | None) -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent | None:
            return None

    handler = Flow(timeout=timeout).run()
    assert isinstance((await streamed(handler))[-1], WorkflowFailedEvent)
    with pytest.raises(WorkflowTimeoutError, match="only") as caught:
        await handler
    assert isinstance(caught.value, WorkflowStalledError)


async def test_a_failed_run_that_nobody_awaits_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            raise ValueError("boom")

    async def forget() -> None:
        assert len(await streamed(Flow().run())) == 1

    await forget()
    await turns()
    gc.collect()
    assert "boom" in caplog.text


# --- 3.6 nesting, order, context variables ---


class Inner(Workflow):
    seen: list[Any]

    @step
    async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.write_event_to_stream(A(n=1))
        return StopEvent(result=[ev.x, await ctx.store.get("n", default=None)])


async def test_a_run_inside_a_step_shares_neither_state_nor_stream() -> None:
    class Outer(Workflow):
        @step
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await ctx.store.set("n", 1)
            return StopEvent(result=await Inner().run(x=2))

    handler = Outer().run()
    assert [type(event) for event in await streamed(handler)] == [StopEvent]
    assert await handler == [2, None]


async def test_cancelling_a_run_cancels_the_runs_inside_it() -> None:
    inner = Gated(timeout=None)

    class Outer(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await inner.run())

    handler = Outer().run()
    await turns()
    assert inner.begun
    await handler.cancel_run()
    assert inner.ended
    with pytest.raises(WorkflowCancelledByUser):
        await handler


async def test_what_a_step_sends_comes_before_what_it_returns_and_in_order() -> None:
    class Flow(Workflow):
        order: list[int]

        @step
        async def first(self, ctx: Context, ev: StartEvent) -> A:
            for n in range(3):
                ctx.send_event(A(n=n))
            return A(n=99)

        @step(num_workers=1)
        async def second(self, ctx: Context, ev: A) -> StopEvent | None:
            self.order.append(ev.n)
            return StopEvent() if ev.n == 99 else None

    flow = Flow()
    flow.order = []
    await flow.run()
    assert flow.order == [0, 1, 2, 99]  # [99, 0, 1, 2] in the reference


async def test_steps_see_the_context_variables_of_the_caller_and_change_only_their_own() -> None:
    colour: contextvars.ContextVar[str] = contextvars.ContextVar("colour", default="none")

    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> A:
            before = colour.get()
            colour.set("mine")
            return A(text=before)

        @step
        def second(self, ev: A) -> StopEvent:
            return StopEvent(result=[ev.text, colour.get()])

    colour.set("callers")
    assert await Flow().run() == ["callers", "callers"]
    assert colour.get() == "callers"


# --- 3.7 verbose ---


async def test_verbose_tells_each_step_and_what_it_gave(capsys: pytest.CaptureFixture[str]) -> None:
    await Echo(verbose=True).run(x=1)
    told = capsys.readouterr()
    assert "only" in told.err
    assert "StopEvent" in told.err
    assert told.out == ""


async def test_without_verbose_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    await Echo().run(x=1)
    assert capsys.readouterr() == ("", "")
