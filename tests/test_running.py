from __future__ import annotations

import asyncio
import contextvars
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tracedflow import (
    AttemptCall,
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    Middleware,
    Notice,
    Observer,
    QueueFullError,
    RunCall,
    StartEvent,
    StepCall,
    StopEvent,
    Workflow,
    WorkflowDone,
    WorkflowRuntimeError,
    WorkflowStalledError,
    WorkflowStepDoesNotExistError,
    step,
)
from tracedflow.errors import StepResultError
from tracedflow.middleware import RunNext, StepNext, StepResult
from tracedflow.retry_policy import retry_policy, stop_after_attempt, wait_none


class Item(Event):
    n: int = 0


class Result(Event):
    n: int = 0


class Other(Event):
    n: int = 0


async def turns(count: int = 10) -> None:
    """Let everything that is ready run."""
    for _ in range(count):
        await asyncio.sleep(0)


# fan-out and order


class FanOut(Workflow):
    def __init__(self, items: int, **options: Any) -> None:
        super().__init__(**options)
        self.items = items
        self.started: list[int] = []

    @step
    async def spread(self, ctx: Context, ev: StartEvent) -> Item | None:
        for n in range(self.items):
            ctx.send_event(Item(n=n))
        return None

    @step(num_workers=3)
    async def work(self, ev: Item) -> Result:
        self.started.append(ev.n)
        await asyncio.sleep(0)
        return Result(n=ev.n * 10)

    @step
    async def join(self, ctx: Context, ev: Result) -> StopEvent | None:
        got = ctx.collect_events(ev, [Result] * self.items)
        return None if got is None else StopEvent(result=sorted(each.n for each in got))


async def test_a_step_spreads_its_work_over_many_executions() -> None:
    assert await FanOut(7).run() == [0, 10, 20, 30, 40, 50, 60]


async def test_events_to_one_step_start_in_the_order_sent() -> None:
    flow = FanOut(50)
    await flow.run()
    assert flow.started == list(range(50))


async def test_what_is_sent_arrives_before_what_is_returned() -> None:
    seen: list[int] = []

    class Flow(Workflow):
        @step
        async def first(self, ctx: Context, ev: StartEvent) -> Item:
            for n in range(3):
                ctx.send_event(Item(n=n))
            return Item(n=99)

        @step(num_workers=1)
        async def second(self, ev: Item) -> StopEvent | None:
            seen.append(ev.n)
            return StopEvent() if ev.n == 99 else None

    await Flow().run()
    assert seen == [0, 1, 2, 99]


async def test_a_returned_list_sends_each_of_its_events_in_order() -> None:
    seen: list[int] = []

    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(4)]

        @step
        async def second(self, ev: Item) -> StopEvent | None:
            seen.append(ev.n)
            return StopEvent() if ev.n == 3 else None

    await Flow().run()
    assert seen == [0, 1, 2, 3]


async def test_an_event_reaches_every_step_that_takes_it() -> None:
    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> Item:
            return Item(n=1)

        @step
        async def plus(self, ev: Item) -> Result:
            return Result(n=ev.n + 1)

        @step
        async def minus(self, ev: Item) -> Result:
            return Result(n=ev.n - 1)

        @step
        async def join(self, ctx: Context, ev: Result) -> StopEvent | None:
            got = ctx.collect_events(ev, [Result, Result])
            return None if got is None else StopEvent(result={each.n for each in got})

    assert await Flow().run() == {0, 2}


class Targeted(Workflow):
    @step
    async def first(self, ctx: Context, ev: StartEvent) -> Item | None:
        try:
            ctx.send_event(ev.event, ev.target)
        except Exception as error:
            await ctx.store.set("error", error)
            ctx.send_event(Item(), "right")
        return None

    @step
    async def left(self, ev: Item) -> StopEvent:
        return StopEvent(result="left")

    @step
    async def right(self, ctx: Context, ev: Item) -> StopEvent:
        return StopEvent(result=await ctx.store.get("error", "right"))


async def test_a_targeted_send_reaches_only_the_named_step() -> None:
    handler = Targeted().run(event=Item(), target="right")
    assert await handler == "right"
    assert {record.step for record in handler.record} == {"first", "right"}


async def test_a_send_to_an_unknown_step_names_the_steps_there_are() -> None:
    error = await Targeted().run(event=Item(), target="rihgt")
    assert isinstance(error, WorkflowStepDoesNotExistError)
    assert all(name in str(error) for name in ("`rihgt`", "first", "left", "right"))


async def test_a_send_to_a_step_that_takes_something_else_says_what_it_takes() -> None:
    error = await Targeted().run(event=Other(), target="right")
    assert isinstance(error, WorkflowRuntimeError)
    assert all(name in str(error) for name in ("`right`", "Item", "Other"))


async def test_sending_something_that_is_no_event_is_refused_in_the_step_that_does_it() -> None:
    error = await Targeted().run(event="text", target=None)
    assert isinstance(error, WorkflowRuntimeError)
    assert "'text'" in str(error)


async def test_a_run_that_is_over_takes_no_events() -> None:
    handler = FanOut(1).run()
    await handler
    with pytest.raises(WorkflowDone, match="Item"):
        await handler.send_event(Item())


async def test_what_is_sent_before_the_run_has_begun_arrives() -> None:
    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> Item | None:
            return None

        @step
        async def second(self, ev: Item) -> StopEvent:
            return StopEvent(result=ev.n)

    handler = Flow().run()
    await handler.send_event(Item(n=4))
    assert await handler == 4


# slots


async def test_no_more_than_num_workers_executions_of_a_step_run_at_once() -> None:
    release = asyncio.Event()
    full = asyncio.Event()
    running = 0
    peak = 0

    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(10)]

        @step(num_workers=3)
        async def work(self, ev: Item) -> Result:
            nonlocal running, peak
            running += 1
            peak = max(peak, running)
            if running == 3:
                full.set()
            await release.wait()
            running -= 1
            return Result()

        @step
        async def join(self, ctx: Context, ev: Result) -> StopEvent | None:
            return None if ctx.collect_events(ev, [Result] * 10) is None else StopEvent()

    handler = Flow().run()
    await full.wait()
    await turns()
    assert handler.why().queued == {"work": 7}
    release.set()
    await handler
    assert peak == 3


async def test_num_workers_bounds_each_run_by_itself() -> None:
    both = asyncio.Barrier(2)

    class Flow(Workflow):
        @step(num_workers=1)
        async def only(self, ev: StartEvent) -> StopEvent:
            await both.wait()
            return StopEvent(result=ev.n)

    flow = Flow(timeout=5)
    assert await asyncio.gather(flow.run(n=1), flow.run(n=2)) == [1, 2]


async def test_branches_do_not_wait_for_each_other() -> None:
    fast_is_through = asyncio.Event()

    class Flow(Workflow):
        @step
        async def fork(self, ctx: Context, ev: StartEvent) -> Item | Other:
            ctx.send_event(Item())
            return Other(n=0)

        @step
        async def slow(self, ev: Item) -> StopEvent:
            await fast_is_through.wait()
            return StopEvent(result="slow saw fast go through")

        @step
        async def fast(self, ev: Other) -> Other | StopEvent | None:
            if ev.n < 20:
                return Other(n=ev.n + 1)
            fast_is_through.set()
            return None

    assert await Flow(timeout=5).run() == "slow saw fast go through"


async def test_more_queued_events_than_max_queued_fail_the_sender() -> None:
    class Flow(Workflow):
        @step
        async def first(self, ctx: Context, ev: StartEvent) -> Item | None:
            for n in range(10):
                ctx.send_event(Item(n=n))
            return None

        @step(num_workers=2)
        async def work(self, ev: Item) -> StopEvent:
            return StopEvent()

    with pytest.raises(WorkflowRuntimeError, match="max_queued is 3") as caught:
        await Flow(max_queued=3).run()
    assert type(caught.value).__name__ == "QueueFullError"
    assert any("`first`" in note for note in caught.value.__notes__)


# one task for many steps


class Loop(Workflow):
    @step
    async def begin(self, ev: StartEvent) -> Item:
        return Item(n=ev.hops)

    @step
    async def hop(self, ev: Item) -> Item | StopEvent:
        return Item(n=ev.n - 1) if ev.n else StopEvent(result="round")


async def test_a_loop_of_50000_hops_does_not_starve_other_tasks() -> None:
    handler = Loop(timeout=None).run(hops=50_000)
    timers = 0
    ticks = 0

    def tick() -> None:
        nonlocal timers
        timers += 1
        if not handler.done():
            asyncio.get_running_loop().call_later(0.005, tick)

    tick()
    while not handler.done():
        await asyncio.sleep(0)
        ticks += 1
    assert await handler == "round"
    assert ticks > 100
    assert timers > 10


async def test_a_finished_hop_leaves_nothing_but_the_last_records() -> None:
    handler = Loop(keep_records=100).run(hops=1000)
    await handler
    assert len(handler.record) == 100
    assert handler.why().events["Item"].consumed == 1001


async def test_hops_of_one_run_let_other_runs_go_on() -> None:
    long = Loop(timeout=None).run(hops=20_000)
    assert await Loop().run(hops=3) == "round"
    assert not long.done()
    await long


VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


def variable_flow(own_task: bool) -> type[Workflow[Any]]:
    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> Item:
            seen = [VARIABLE.get()]
            VARIABLE.set("first")
            await asyncio.sleep(0)
            seen.append(VARIABLE.get())
            return Item(seen=seen, task=asyncio.current_task())

        @step(own_task=own_task)
        async def second(self, ev: Item) -> Result:
            seen = [*ev.seen, VARIABLE.get()]
            VARIABLE.set("second")
            return Result(seen=seen, shared=asyncio.current_task() is ev.task)

        @step
        async def third(self, ev: Result) -> StopEvent:
            return StopEvent(result=([*ev.seen, VARIABLE.get()], ev.shared))

    return Flow


@pytest.mark.parametrize("own_task", [False, True])
async def test_what_a_step_sets_in_its_context_no_other_step_sees(own_task: bool) -> None:
    VARIABLE.set("caller")
    seen, shared = await variable_flow(own_task)().run()
    assert seen == ["caller", "first", "caller", "caller"]
    assert shared is not own_task
    assert VARIABLE.get() == "caller"


async def test_steps_see_what_the_caller_had_set_when_the_run_started() -> None:
    VARIABLE.set("at the start")
    handler = variable_flow(False)().run()
    VARIABLE.set("later")
    seen, _ = await handler
    assert seen[0] == "at the start"


async def test_what_a_run_layer_sets_every_step_sees_and_the_caller_does_not() -> None:
    class Layer(Middleware):
        async def run(self, call: RunCall, call_next: RunNext, /) -> StopEvent | None:
            VARIABLE.set("layer")
            return await call_next(call)

    VARIABLE.set("caller")
    seen, _ = await variable_flow(False)(middleware=[Layer()]).run()
    assert seen == ["layer", "first", "layer", "layer"]
    assert VARIABLE.get() == "caller"


@pytest.mark.parametrize("suspends", [False, True])
async def test_a_cancellation_that_a_step_left_behind_does_not_reach_its_successor(suspends: bool) -> None:
    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> Item:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            if suspends:
                with pytest.raises(asyncio.CancelledError):
                    await asyncio.sleep(0)
            return Item()

        @step
        async def second(self, ev: Item) -> StopEvent:
            task = asyncio.current_task()
            assert task is not None
            before = task.cancelling()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            return StopEvent(result=before)

    assert await Flow().run() == 0


async def test_a_step_may_use_asyncio_timeout_after_a_shared_task_was_cancelled_before() -> None:
    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> Item:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await asyncio.sleep(1)
            return Item()

        @step
        async def second(self, ev: Item) -> StopEvent:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await asyncio.sleep(1)
            return StopEvent(result="both")

    assert await Flow().run() == "both"


# many runs


class Ask(InputRequiredEvent):
    n: int


class Answer(HumanResponseEvent):
    n: int


class Mixed(Workflow):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.failures: Counter[str] = Counter()

    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> Item:
        await ctx.store.set("who", ev.who)
        ctx.write_event_to_stream(Other(n=ev.who))
        for n in range(3):
            ctx.send_event(Item(n=n, who=ev.who))
        return Item(n=3, who=ev.who)

    @step(num_workers=2, retry_policy=retry_policy(wait=wait_none(), stop=stop_after_attempt(3)))
    async def work(self, ctx: Context, ev: Item) -> Result:
        if ctx.retry_info().retry_number < ev.n % 3:
            self.failures[ctx.run_id] += 1
            raise ConnectionError
        await asyncio.sleep(0)
        return Result(n=ev.n, who=await ctx.store.get("who"))

    @step
    async def join(self, ctx: Context, ev: Result) -> StopEvent | None:
        got = ctx.collect_events(ev, [Result] * 4)
        if got is None:
            return None
        assert {each.who for each in got} == {await ctx.store.get("who")}
        answer = await ctx.wait_for_event(Answer, waiter_event=Ask(n=got[0].who))
        return StopEvent(result=(answer.n, sorted(each.n for each in got)))


async def test_200_runs_of_one_instance_at_once_do_not_mix() -> None:
    flow = Mixed(timeout=30)

    async def one(who: int) -> tuple[int, list[int]]:
        handler = flow.run(who=who, run_id=f"run-{who}")
        async for event in handler.stream_events():
            if isinstance(event, Other):
                assert event.n == who
            if isinstance(event, Ask):
                assert event.n == who
                await handler.send_event(Answer(n=who * 2))
        assert {record.run_id for record in handler.record} == {f"run-{who}"}
        result: tuple[int, list[int]] = await handler
        return result

    results = await asyncio.gather(*[one(who) for who in range(200)])
    assert results == [(who * 2, [0, 1, 2, 3]) for who in range(200)]
    assert set(flow.failures.values()) == {3}


def test_one_instance_runs_on_several_loops_one_after_the_other() -> None:
    flow = Loop(num_concurrent_runs=1)
    assert [flow.run_sync(hops=2) for _ in range(2)] == ["round", "round"]


# facts of the user's own


class Facts(Middleware):
    def __init__(self) -> None:
        self.calls: list[StepCall] = []

    async def step(self, call: StepCall, call_next: StepNext, /) -> StepResult:
        self.calls.append(call)
        return await call_next(call)


async def test_measurements_reach_the_record_and_annotations_the_call() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ctx.measure("tokens", 12, unit="{token}")
            ctx.measure("cost", 0.5)
            ctx.annotate(model="m1", cached=False)
            return StopEvent()

    facts = Facts()
    handler = Flow(middleware=[facts]).run()
    await handler
    (record,) = handler.record
    assert record.measurements == (("tokens", 12.0, "{token}"), ("cost", 0.5, "1"))
    assert facts.calls[0].annotations == {"model": "m1", "cached": False}


async def test_each_attempt_keeps_its_own_measurements() -> None:
    class Flow(Workflow):
        @step(retry_policy=retry_policy(wait=wait_none(), stop=stop_after_attempt(2)))
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            number = ctx.retry_info().retry_number
            ctx.measure("number", number)
            if number == 0:
                raise ValueError
            return StopEvent()

    handler = Flow().run()
    await handler
    assert [record.measurements for record in handler.record] == [(("number", 0.0, "1"),), (("number", 1.0, "1"),)]


async def test_a_record_tells_what_came_in_what_went_out_and_from_whom() -> None:
    handler = FanOut(2).run()
    await handler
    records = {(record.step, record.execution): record for record in handler.record}
    spread = next(record for record in records.values() if record.step == "spread")
    work = [record for record in records.values() if record.step == "work"]
    assert [kind for _, kind in spread.events_out] == ["Item", "Item"]
    assert [record.causes for record in work] == [(spread.execution,)] * 2
    assert [record.events_in for record in work] == [(event,) for event in spread.events_out]
    assert [record.outcome for record in records.values() if record.step == "join"] == ["collecting", "success"]


# once and idempotency


async def test_the_idempotency_key_is_the_same_for_every_attempt_and_differs_between_executions() -> None:
    keys: list[tuple[int, str]] = []

    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(2)]

        @step(retry_policy=retry_policy(wait=wait_none(), stop=stop_after_attempt(2)))
        async def work(self, ctx: Context, ev: Item) -> Result:
            keys.append((ev.n, ctx.idempotency_key))
            if ctx.retry_info().retry_number == 0:
                raise ValueError
            return Result()

        @step
        async def join(self, ctx: Context, ev: Result) -> StopEvent | None:
            return None if ctx.collect_events(ev, [Result] * 2) is None else StopEvent()

    await Flow().run(run_id="run")
    zero, one = ({key for n, key in keys if n == which} for which in (0, 1))
    assert len(keys) == 4
    assert len(zero) == len(one) == 1
    assert zero != one
    assert all(key.startswith("run/work/") for _, key in keys)


async def test_once_calls_its_function_once_over_all_attempts_and_keeps_none_too() -> None:
    calls: list[str] = []

    def plain() -> int:
        calls.append("plain")
        return len(calls)

    async def awaited() -> None:
        calls.append("awaited")

    class Flow(Workflow):
        @step(retry_policy=retry_policy(wait=wait_none(), stop=stop_after_attempt(3)))
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            result = (await ctx.once("a", plain), await ctx.once("b", awaited), await ctx.once("a", plain))
            if ctx.retry_info().retry_number < 2:
                raise ValueError
            return StopEvent(result=result)

    assert await Flow().run() == (1, None, 1)
    assert calls == ["plain", "awaited"]


async def test_once_that_raises_is_called_again() -> None:
    calls: list[int] = []

    def flaky() -> int:
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionError
        return len(calls)

    class Flow(Workflow):
        @step(retry_policy=retry_policy(wait=wait_none(), stop=stop_after_attempt(2)))
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await ctx.once("a", flaky))

    assert await Flow().run() == 2


# layers that control


class Straight(Workflow):
    """Start → Item → Result → Stop, and an Other that `middle` does not declare."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.called: list[str] = []

    @step
    async def first(self, ev: StartEvent) -> Item | Other:
        self.called.append("first")
        return Other() if ev.get("other") else Item(n=1)

    @step(retry_policy=retry_policy(wait=wait_none(), stop=stop_after_attempt(2)))
    async def middle(self, ev: Item) -> Result:
        self.called.append("middle")
        if ev.n < 0:
            raise ConnectionError("as asked")
        return Result(n=ev.n)

    @step
    async def last(self, ev: Result | Other) -> StopEvent:
        self.called.append("last")
        return StopEvent(result=ev.n)


class OnMiddle(Middleware):
    """Puts `act` around the step `middle`."""

    def __init__(self, act: Callable[[StepCall, StepNext], Awaitable[StepResult]]) -> None:
        self._act = act

    async def step(self, call: StepCall, call_next: StepNext, /) -> StepResult:
        if call.step != "middle":
            return await call_next(call)
        return await self._act(call, call_next)


async def test_a_layer_that_answers_without_the_step_is_a_cache_and_the_record_says_skipped() -> None:
    async def answer(call: StepCall, call_next: StepNext) -> StepResult:
        return Result(n=42)

    flow = Straight(middleware=[OnMiddle(answer)])
    handler = flow.run()
    assert await handler == 42
    assert flow.called == ["first", "last"]
    assert [(r.step, r.outcome) for r in handler.record] == [("first", "success"), ("middle", "skipped"), ("last", "success")]


async def test_a_layer_may_replace_the_event_by_another_that_the_step_declares() -> None:
    async def replace(call: StepCall, call_next: StepNext) -> StepResult:
        result = await call_next(call)
        assert isinstance(result, Result)
        return Result(n=result.n + 10)

    assert await Straight(middleware=[OnMiddle(replace)]).run() == 11


async def test_a_layer_that_puts_an_undeclared_event_in_place_fails_the_run() -> None:
    async def smuggle(call: StepCall, call_next: StepNext) -> StepResult:
        await call_next(call)
        return Other()

    with pytest.raises(StepResultError, match="returned Other, but declares Result; a middleware put it there"):
        await Straight(middleware=[OnMiddle(smuggle)]).run()


async def test_a_layer_that_answers_with_an_undeclared_event_without_the_step_fails_the_run() -> None:
    async def smuggle(call: StepCall, call_next: StepNext) -> StepResult:
        return Other()

    with pytest.raises(StepResultError, match="Other"):
        await Straight(middleware=[OnMiddle(smuggle)]).run()


async def test_a_layer_that_returns_no_event_at_all_fails_the_run() -> None:
    async def rubbish(call: StepCall, call_next: StepNext) -> StepResult:
        await call_next(call)
        return "text"  # type: ignore[return-value]

    with pytest.raises(StepResultError, match="`middle`.*str"):
        await Straight(middleware=[OnMiddle(rubbish)]).run()


async def test_a_layer_that_raises_fails_the_step_with_its_own_error() -> None:
    error = PermissionError("not today")

    async def refuse(call: StepCall, call_next: StepNext) -> StepResult:
        raise error

    flow = Straight(middleware=[OnMiddle(refuse)])
    handler = flow.run()
    with pytest.raises(PermissionError) as caught:
        await handler
    assert caught.value is error
    assert "`middle`" in caught.value.__notes__[0]
    assert flow.called == ["first"]
    assert handler.record[-1].error == "PermissionError"


async def test_a_layer_that_raises_after_the_step_fails_it_too() -> None:
    async def refuse(call: StepCall, call_next: StepNext) -> StepResult:
        await call_next(call)
        raise PermissionError("too late")

    handler = Straight(middleware=[OnMiddle(refuse)]).run()
    with pytest.raises(PermissionError):
        await handler
    assert [(r.step, r.outcome) for r in handler.record] == [("first", "success"), ("middle", "error")]


async def test_a_layer_that_raises_around_an_attempt_is_retried_as_the_step_would_be() -> None:
    class Flaky(Middleware):
        raised = 0

        async def attempt(self, call: AttemptCall, call_next: Callable[[AttemptCall], Awaitable[StepResult]], /) -> StepResult:
            if call.step.step == "middle" and call.attempt == 1:
                self.raised += 1
                raise ConnectionError
            return await call_next(call)

    flaky = Flaky()
    assert await Straight(middleware=[flaky]).run() == 1
    assert flaky.raised == 1


async def test_a_layer_that_swallows_an_error_and_answers_saves_the_run() -> None:
    async def save(call: StepCall, call_next: StepNext) -> StepResult:
        call.inputs = (Item(n=-1),)
        try:
            return await call_next(call)
        except ConnectionError:
            return Result(n=7)

    flow = Straight(middleware=[OnMiddle(save)])
    assert await flow.run() == 7
    assert flow.called == ["first", "middle", "middle", "last"]


async def test_a_layer_that_swallows_the_event_stalls_the_run_and_the_step_is_named() -> None:
    async def swallow(call: StepCall, call_next: StepNext) -> StepResult:
        await call_next(call)
        return None

    with pytest.raises(WorkflowStalledError, match="`middle`.*returned None"):
        await Straight(middleware=[OnMiddle(swallow)]).run()


async def test_layers_nest_with_the_first_listed_outermost() -> None:
    order: list[str] = []

    def named(name: str) -> OnMiddle:
        async def around(call: StepCall, call_next: StepNext) -> StepResult:
            order.append(f"{name} in")
            result = await call_next(call)
            order.append(f"{name} out")
            return result

        return OnMiddle(around)

    await Straight(middleware=[named("a"), named("b")]).run()
    assert order == ["a in", "b in", "b out", "a out"]


async def test_a_layer_may_call_the_step_again() -> None:
    async def twice(call: StepCall, call_next: StepNext) -> StepResult:
        await call_next(call)
        return await call_next(call)

    flow = Straight(middleware=[OnMiddle(twice)])
    assert await flow.run() == 1
    assert flow.called == ["first", "middle", "middle", "last"]


async def test_a_step_that_returns_rubbish_is_named_and_not_retried() -> None:
    calls: list[int] = []

    class Flow(Workflow):
        @step(retry_policy=retry_policy(wait=wait_none()))
        async def only(self, ev: StartEvent) -> StopEvent:
            calls.append(1)
            return "text"  # type: ignore[return-value]

    with pytest.raises(StepResultError, match="`only`.*str"):
        await Flow().run()
    assert calls == [1]


async def test_a_step_may_return_an_event_that_it_did_not_declare_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> Item | Other:
            return Item()

        @step
        async def second(self, ev: Item) -> StopEvent:
            return Other(n=5)  # type: ignore[return-value]

        @step
        async def third(self, ev: Other) -> StopEvent:
            return StopEvent(result=ev.n)

    assert await Flow().run() == 5
    assert sum("returned Other, but declares StopEvent" in message for message in caplog.messages) == 1


# layers around a whole run


class OnRun(Middleware):
    """Puts `act` around the run."""

    def __init__(self, act: Callable[[RunCall, RunNext], Awaitable[StopEvent | None]]) -> None:
        self._act = act

    async def run(self, call: RunCall, call_next: RunNext, /) -> StopEvent | None:
        return await self._act(call, call_next)


async def test_a_run_layer_that_raises_before_the_run_ends_it_and_its_stream() -> None:
    async def refuse(call: RunCall, call_next: RunNext) -> StopEvent | None:
        raise PermissionError("closed")

    flow = Straight(middleware=[OnRun(refuse)])
    handler = flow.run()
    assert len([event async for event in handler.stream_events()]) == 1
    with pytest.raises(PermissionError, match="closed"):
        await handler
    assert flow.called == []


async def test_a_run_layer_that_raises_after_the_run_fails_it() -> None:
    async def refuse(call: RunCall, call_next: RunNext) -> StopEvent | None:
        await call_next(call)
        raise PermissionError("too late")

    with pytest.raises(PermissionError, match="too late"):
        await Straight(middleware=[OnRun(refuse)]).run()


async def test_a_run_layer_may_answer_in_place_of_the_run() -> None:
    async def answer(call: RunCall, call_next: RunNext) -> StopEvent | None:
        return StopEvent(result="cached")

    flow = Straight(middleware=[OnRun(answer)])
    handler = flow.run()
    assert [event.result async for event in handler.stream_events() if isinstance(event, StopEvent)] == ["cached"]
    assert await handler == "cached"
    assert flow.called == []


async def test_a_run_layer_may_save_a_run_that_failed() -> None:
    async def save(call: RunCall, call_next: RunNext) -> StopEvent | None:
        try:
            return await call_next(call)
        except ConnectionError:
            return StopEvent(result="saved")

    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            raise ConnectionError

    handler = Flow(middleware=[OnRun(save)]).run()
    assert [event.result async for event in handler.stream_events() if isinstance(event, StopEvent)] == ["saved"]
    assert await handler == "saved"


async def test_a_listener_that_raises_is_logged_once_and_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Middleware):
        def on(self, notice: Notice, /) -> None:
            raise ZeroDivisionError

    assert await FanOut(5, middleware=[Broken()]).run() == [0, 10, 20, 30, 40]
    texts = [text for text in caplog.messages if "raised on EventSent" in text]
    assert len(texts) == 1


async def test_an_observer_that_raises_or_suspends_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    class Raises(Observer):
        async def step(self, call: StepCall, call_next: StepNext, /) -> StepResult:
            raise ZeroDivisionError

    class Suspends(Observer):
        async def step(self, call: StepCall, call_next: StepNext, /) -> StepResult:
            await asyncio.sleep(1)
            return await call_next(call)

    class Replaces(Observer):
        async def step(self, call: StepCall, call_next: StepNext, /) -> StepResult:
            await call_next(call)
            return Other(n=1000)

    flow = Straight(middleware=[Raises(), Suspends(), Replaces()])
    assert await flow.run() == 1
    assert flow.called == ["first", "middle", "last"]


async def test_two_calls_of_once_at_the_same_time_call_the_function_once() -> None:
    calls: list[int] = []

    async def slow() -> int:
        calls.append(1)
        await asyncio.sleep(0)
        return len(calls)

    class Flow(Workflow):
        @step
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await asyncio.gather(ctx.once("key", slow), ctx.once("key", slow)))

    assert await Flow().run() == [1, 1]


async def test_more_returned_events_than_max_queued_fail_the_step_that_returned_them() -> None:
    class Flow(Workflow):
        @step
        async def first(self, ctx: Context, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(10)]

        @step(num_workers=1)
        async def work(self, ev: Item) -> Item | StopEvent | None:
            if ev.n < 100:
                return Item(n=100)
            return StopEvent()

    with pytest.raises(QueueFullError, match="max_queued is 3") as caught:
        await Flow(max_queued=3).run()
    assert any("`work`" in note or "`first`" in note for note in caught.value.__notes__)


async def test_a_layer_reads_the_records_of_a_run_as_a_sequence() -> None:
    class Reads(Middleware):
        found: Any = None

        async def run(self, call: RunCall, call_next: RunNext, /) -> StopEvent | None:
            ended = await call_next(call)
            records = call.records
            self.found = (len(records), records[-1].step, [record.step for record in records[:1]])
            return ended

    layer = Reads()
    await Straight(middleware=[layer]).run()
    count, last, first = layer.found
    assert count == len(first) + count - 1
    assert first != [last]


async def test_once_in_a_task_that_outlives_its_step_gives_that_task_its_value() -> None:
    go = asyncio.Event()
    tasks: list[asyncio.Task[int]] = []

    class Flow(Workflow):
        @step
        async def leaves(self, ctx: Context, ev: StartEvent) -> Item:
            async def slow() -> int:
                await go.wait()
                return 3

            async def later() -> int:
                return await ctx.once("drawn", slow)

            tasks.append(asyncio.create_task(later()))
            await asyncio.sleep(0)
            return Item()

        @step
        async def end(self, ev: Item) -> StopEvent:
            go.set()
            return StopEvent(result=await tasks[0])

    assert await Flow().run() == 3


async def test_an_event_that_is_sent_while_its_step_has_no_free_slot_waits_for_one() -> None:
    begun, go = asyncio.Event(), asyncio.Event()
    seen: list[int] = []

    class Flow(Workflow):
        @step
        async def sends(self, ctx: Context, ev: StartEvent) -> Item | None:
            ctx.send_event(Item(n=1))
            await begun.wait()
            ctx.send_event(Item(n=2))
            assert handler._runner.state.queued == 1
            go.set()

        @step(num_workers=1)
        async def works(self, ev: Item) -> StopEvent | None:
            begun.set()
            await go.wait()
            seen.append(ev.n)
            return StopEvent(result=seen) if ev.n == 2 else None

    handler = Flow().run()
    assert await handler == [1, 2]
