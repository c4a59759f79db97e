"""Holds what `tracedflow.testing` promises to those who test their workflows and layers with it."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tracedflow import (
    Context,
    Event,
    Middleware,
    Notice,
    Observer,
    RunCall,
    StartEvent,
    StepCall,
    StopEvent,
    Workflow,
    WorkflowStalledError,
    WorkflowTimeoutError,
    clock,
    step,
)
from tracedflow import middleware as protocol
from tracedflow._engine._watchdog import KNOCK_EVERY
from tracedflow.errors import StepTimeoutError
from tracedflow.events import HumanResponseEvent
from tracedflow.middleware import (
    AttemptCall,
    AttemptNext,
    EventSent,
    EventStreamed,
    RetryScheduled,
    RunNext,
    StepNext,
    StepResult,
)
from tracedflow.retry_policy import retry_policy, stop_after_attempt, wait_fixed
from tracedflow.telemetry.console import Console
from tracedflow.telemetry.logs import Logs
from tracedflow.telemetry.metrics import Metrics
from tracedflow.telemetry.tracing import Tracing
from tracedflow.testing import (
    Faults,
    InjectedError,
    Recorder,
    VirtualClock,
    VirtualLoop,
    check_observer,
    real_time,
    run_virtual,
    virtual_time,
)
from tracedflow.testing._conformance import every_notice

DAY = 86_400.0


def now() -> float:
    return asyncio.get_running_loop().time()


class Work(Event):
    n: int = 0


class Answer(HumanResponseEvent):
    n: int = 0


class Flow(Workflow):
    def __init__(self, **options: Any) -> None:
        super().__init__(telemetry=False, **options)
        self.calls = 0

    @step
    async def first(self, ev: StartEvent) -> Work:
        return Work(n=1)

    @step(retry_policy=retry_policy(wait=wait_fixed(DAY), stop=stop_after_attempt(4)))
    async def second(self, ev: Work) -> StopEvent:
        self.calls += 1
        return StopEvent(result=ev.n)


# --- virtual time


@virtual_time()
async def test_sleeping_takes_virtual_time_only() -> None:
    began = time.monotonic()
    await asyncio.sleep(30 * DAY)
    assert now() == 30 * DAY
    assert time.monotonic() - began < 5


@virtual_time()
async def test_timers_fire_in_the_order_of_their_times_and_not_before_what_is_ready() -> None:
    fired: list[Any] = []
    loop = asyncio.get_running_loop()
    for delay in (3, 1, 2):
        loop.call_later(delay, lambda delay=delay: fired.append((delay, now())))
    for _ in range(100):
        await asyncio.sleep(0)
    assert fired == []
    assert now() == 0
    await asyncio.sleep(10)
    assert fired == [(1, 1), (2, 2), (3, 3)]


@virtual_time()
async def test_timeouts_follow() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(DAY):
            await asyncio.sleep(2 * DAY)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.get_running_loop().create_future(), 3600)
    assert now() == DAY + 3600


@virtual_time()
async def test_the_engine_agrees_with_the_loop() -> None:
    active = clock.active.get()
    assert isinstance(active, VirtualClock)
    started = active.now()
    await asyncio.sleep(90)
    assert (active.monotonic(), active.now() - started) == (now(), 90)

    async def in_a_task() -> float:
        return clock.active.get().monotonic()

    assert await asyncio.create_task(in_a_task()) == now()


def test_a_virtual_day_starts_on_the_first_of_january() -> None:
    assert time.gmtime(VirtualClock().now())[:5] == (2026, 1, 1, 0, 0)


def test_run_ids_follow_from_the_seed() -> None:
    async def ids() -> list[str]:
        return [Flow().run().run_id for _ in range(2)]

    assert run_virtual(ids()) == run_virtual(ids())
    assert run_virtual(ids(), seed=1) != run_virtual(ids())
    assert len(set(run_virtual(ids()))) == 2
    assert all(len(each) == 10 for each in run_virtual(ids()))


def test_run_virtual_gives_the_result_and_raises_the_error() -> None:
    async def gives() -> int:
        return 7

    async def raises() -> None:
        raise ValueError("true")

    assert run_virtual(gives()) == 7
    with pytest.raises(ValueError, match="true"):
        run_virtual(raises())


@virtual_time()
async def test_a_backoff_of_days_passes_and_the_record_says_so() -> None:
    faults = Faults().fail("second", times=3)
    handler = Flow(middleware=[faults], timeout=None).run()
    assert await handler == 1
    assert now() == 3 * DAY
    assert [record.backoff for record in handler.record if record.step == "second"] == [0, DAY, DAY, DAY]


@virtual_time()
async def test_a_run_times_out_when_its_virtual_time_is_over() -> None:
    class Slow(Workflow):
        @step
        async def slow(self, ev: StartEvent) -> StopEvent:
            await asyncio.sleep(31 * DAY)
            return StopEvent()

    with pytest.raises(WorkflowTimeoutError, match="exceeded its timeout of 2.592e"):
        await Slow(timeout=30 * DAY, telemetry=False).run()
    assert now() == 30 * DAY


@virtual_time()
async def test_a_step_and_a_wait_time_out_in_virtual_time() -> None:
    class Waits(Workflow):
        @step
        async def first(self, ctx: Context, ev: StartEvent) -> Work:
            with pytest.raises(TimeoutError):
                await ctx.wait_for_event(Answer, timeout=DAY)
            return Work()

        @step(timeout=60)
        async def slow(self, ev: Work) -> StopEvent:
            await asyncio.sleep(61)
            return StopEvent()

    with pytest.raises(StepTimeoutError, match="60 s"):
        await Waits(timeout=None, telemetry=False).run()
    assert now() == DAY + 60


@virtual_time()
async def test_the_knocks_of_the_loop_guard_do_not_move_time() -> None:
    class Counts(Workflow):
        @step
        async def count(self, ev: StartEvent) -> StopEvent:
            until = time.monotonic() + 3 * KNOCK_EVERY
            while time.monotonic() < until:  # real time passes, in which the guard knocks
                await asyncio.sleep(0)
            return StopEvent()

    await Counts(telemetry=False).run()
    assert now() == 0


@virtual_time()
async def test_real_time_passes_while_a_step_runs_in_a_thread() -> None:
    class Threaded(Workflow):
        @step
        def work(self, ev: StartEvent) -> StopEvent:
            time.sleep(0.1)
            return StopEvent(result=threading.current_thread() is not threading.main_thread())

    assert await Threaded(timeout=45, telemetry=False).run() is True
    assert 0.03 < now() < 10  # a busy machine takes longer than it counts
    before = now()
    await asyncio.sleep(DAY)
    assert now() - before == pytest.approx(DAY)


@virtual_time()
async def test_a_thread_that_is_too_slow_times_out_in_real_time() -> None:
    released = threading.Event()

    class Threaded(Workflow):
        @step(timeout=0.05)
        def work(self, ev: StartEvent) -> StopEvent:
            released.wait(20)
            return StopEvent()

    began = time.monotonic()
    try:
        with pytest.raises(StepTimeoutError):
            await Threaded(cancel_grace=0.01, telemetry=False).run()
        assert 0.04 < time.monotonic() - began < 10
    finally:
        released.set()
    await asyncio.sleep(DAY)  # the abandoned thread holds nothing up


@virtual_time()
async def test_time_jumps_while_the_thread_of_a_step_waits_for_an_event() -> None:
    class Threaded(Workflow):
        @step
        def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=ctx.sync.wait_for_event(Answer, timeout=None).n)

    handler = Threaded(timeout=None, telemetry=False).run()
    await asyncio.sleep(7 * DAY)
    await handler.send_event(Answer(n=5))
    assert await handler == 5
    assert 7 * DAY <= now() < 7 * DAY + 10


@virtual_time()
async def test_real_time_passes_while_an_executor_works() -> None:
    async def later() -> float:
        await asyncio.sleep(DAY)
        return now()

    jumping = asyncio.create_task(later())
    assert await asyncio.to_thread(lambda: time.sleep(0.05) or 3) == 3  # type: ignore[func-returns-value]
    assert 0.01 < now() < 10
    assert not jumping.done()
    assert await jumping == pytest.approx(DAY)


def test_an_executor_that_refuses_work_does_not_stop_time() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, lambda: None)
        await loop.shutdown_default_executor()
        with pytest.raises(RuntimeError):
            loop.run_in_executor(None, lambda: None)
        await asyncio.sleep(DAY)

    run_virtual(main())


@virtual_time()
async def test_real_time_passes_while_a_socket_is_watched() -> None:
    loop = asyncio.get_running_loop()
    here, there = socket.socketpair()
    here.setblocking(False)
    with here, there:
        reading = asyncio.create_task(loop.sock_recv(here, 10))
        await asyncio.sleep(0.02)
        assert now() == pytest.approx(0.02, abs=1)
        there.send(b"hello")
        async with asyncio.timeout(30):
            assert await reading == b"hello"
    before = now()
    await asyncio.sleep(DAY)
    assert now() - before == pytest.approx(DAY)


@virtual_time()
async def test_real_time_passes_in_a_block_that_asks_for_it() -> None:
    loop = asyncio.get_running_loop()
    woken = asyncio.Event()
    thread = threading.Timer(0.05, lambda: loop.call_soon_threadsafe(woken.set))
    thread.start()
    with real_time():
        await asyncio.wait_for(woken.wait(), 30)
    assert now() < 10
    thread.join()


async def test_asking_for_real_time_in_real_time_changes_nothing() -> None:
    with real_time():
        await asyncio.sleep(0)


def test_a_virtual_loop_is_a_loop_factory() -> None:
    async def main() -> float:
        await asyncio.sleep(DAY)
        return now()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        assert runner.run(main()) == DAY
        assert runner.run(main()) == 2 * DAY


@virtual_time()
async def test_a_loop_of_hops_that_never_waits_lets_other_tasks_go_on() -> None:
    class Hops(Workflow):
        stops = False

        @step
        async def there(self, ev: StartEvent | Work) -> Answer:
            return Answer()

        @step
        async def back(self, ev: Answer) -> Work | StopEvent:
            return StopEvent(result="let") if self.stops else Work()

    flow = Hops(telemetry=False)
    handler = flow.run()
    for _ in range(5):
        await asyncio.sleep(0)
    flow.stops = True
    assert await handler == "let"


@virtual_time()
async def test_a_decorated_test_keeps_its_name_and_its_arguments() -> None:
    @virtual_time(seed=3)
    async def inner(one: int, *, two: int) -> int:
        """Say something."""
        return one + two

    assert (inner.__name__, inner.__doc__) == ("inner", "Say something.")
    assert await asyncio.to_thread(lambda: inner(1, two=2)) == 3


# --- the recorder


@virtual_time()
async def test_a_recorder_keeps_calls_and_notices_in_order() -> None:
    recorder = Recorder()
    faults = Faults().fail("second", times=1)
    await Flow(middleware=[recorder, faults], timeout=None).run()
    assert recorder.timeline == [
        "run Flow began",
        "EventSent",
        "step first began",
        "attempt first 1 began",
        "attempt first 1 ended",
        "step first ended",
        "EventSent",
        "step second began",
        "attempt second 1 began",
        "attempt second 1 ended: InjectedError",
        "RetryScheduled",
        "attempt second 2 began",
        "attempt second 2 ended",
        "step second ended",
        "EventSent",
        "run Flow ended",
    ]
    assert recorder.order == ["first", "second"]
    assert [seen.call.attempt for seen in recorder.tries("second")] == [1, 2]
    assert [notice.delay for notice in recorder.heard(RetryScheduled)] == [DAY]
    assert len(recorder.heard(EventSent)) == 3
    (run,) = recorder.runs
    assert run.ended
    assert isinstance(run.result, StopEvent)
    failed, succeeded = recorder.tries("second")
    assert isinstance(failed.error, InjectedError)
    assert succeeded.error is None
    assert isinstance(succeeded.result, StopEvent)
    assert isinstance(recorder.steps[0].result, Work)


@virtual_time()
async def test_a_recorder_sees_a_run_that_fails_and_one_that_is_live() -> None:
    recorder = Recorder()
    flow = Flow(middleware=[recorder, Faults().fail("first")])
    handler = flow.run()
    await asyncio.sleep(0)
    assert [seen.ended for seen in recorder.runs] == [False]
    with pytest.raises(InjectedError):
        await handler
    assert [type(seen.error) for seen in (*recorder.runs, *recorder.steps, *recorder.attempts)] == [InjectedError] * 3
    assert recorder.timeline[-1] == "run Flow ended: InjectedError"


# --- faults


@virtual_time()
async def test_faults_delay_the_steps_they_name() -> None:
    faults = Faults().delay("second", seconds=90)
    assert await Flow(middleware=[faults], timeout=None).run() == 1
    assert now() == 90
    (fault,) = faults.injected
    assert (fault.kind, fault.step, fault.attempt, fault.seconds) == ("delay", "second", 1, 90)


@virtual_time()
async def test_a_delay_from_a_range_lies_in_it_and_follows_from_the_seed() -> None:
    async def seconds(seed: int) -> list[float]:
        faults = Faults(seed).delay(seconds=(10, 20))
        await Flow(middleware=[faults], timeout=None).run()
        return [fault.seconds for fault in faults.injected]

    first = await seconds(1)
    assert len(first) == 2
    assert all(10 <= each <= 20 for each in first)
    assert first[0] != first[1]
    assert await seconds(1) == first
    assert await seconds(2) != first


@virtual_time()
async def test_faults_raise_what_they_are_told_instead_of_calling_the_step() -> None:
    flow = Flow(middleware=[Faults().fail("second", error=lambda: ConnectionError("lost"))], timeout=None)
    with pytest.raises(ConnectionError, match="lost"):
        await flow.run()
    assert flow.calls == 0


@virtual_time()
async def test_a_dropped_result_is_lost_after_the_step_ran() -> None:
    flow = Flow(middleware=[Faults().drop("second")])
    with pytest.raises(WorkflowStalledError):
        await flow.run()
    assert flow.calls == 1


@virtual_time()
async def test_chance_hits_some_attempts_and_the_same_ones_for_the_same_seed() -> None:
    async def hit(seed: int) -> list[int]:
        class Many(Workflow):
            @step
            async def spread(self, ctx: Context, ev: StartEvent) -> Work | None:
                for n in range(50):
                    ctx.send_event(Work(n=n))
                return None

            @step
            async def work(self, ctx: Context, ev: Work) -> StopEvent | None:
                return StopEvent() if ctx.collect_events(ev, [Work] * 50) else None

        faults = Faults(seed).delay("work", seconds=1, chance=0.3)
        await Many(middleware=[faults], telemetry=False, timeout=None).run()
        return sorted(fault.execution for fault in faults.injected)

    first = await hit(1)
    assert 3 < len(first) < 30
    assert await hit(1) == first
    assert await hit(2) != first


@virtual_time()
async def test_rules_add_up_and_strike_no_more_often_than_told() -> None:
    faults = Faults().delay("second", seconds=5).fail("second", times=2).fail("first", chance=0)
    assert await Flow(middleware=[faults], timeout=None).run() == 1
    assert [fault.kind for fault in faults.injected] == ["delay", "raise", "delay", "raise", "delay"]
    assert now() == 2 * DAY + 15


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Faults().fail(chance=1.5), "chance=1.5"),
        (lambda: Faults().drop(chance=-1), "chance=-1"),
        (lambda: Faults().delay(seconds=-1), "seconds="),
        (lambda: Faults().delay(seconds=(2, 1)), "seconds="),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(make: Callable[[], Faults], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# --- conformance


@pytest.mark.parametrize("make", [Observer, Middleware, Recorder, Tracing, Metrics, Logs, Console], ids=lambda make: make.__name__)
async def test_our_own_observers_are_transparent(make: Callable[[], Middleware]) -> None:
    await check_observer(make)


@virtual_time()
async def test_the_check_runs_in_virtual_time_too() -> None:
    await check_observer(Recorder)


class Lies(Observer):
    async def step(self, call: StepCall, call_next: StepNext, /) -> StepResult:
        await call_next(call)
        return None


async def test_the_shield_makes_a_liar_transparent() -> None:
    await check_observer(Lies)


class RaisesAfter(Observer):
    async def step(self, call: StepCall, call_next: StepNext, /) -> StepResult:
        await call_next(call)
        raise ValueError("a bug")


class Sleeps(Observer):
    async def attempt(self, call: AttemptCall, call_next: AttemptNext, /) -> StepResult:
        await asyncio.sleep(0)
        return await call_next(call)


class DeafToStreams(Observer):
    hears = (EventStreamed,)

    def on(self, notice: Notice, /) -> None:
        raise LookupError(type(notice).__name__)


class DeafToStalls(Observer):
    def on(self, notice: Notice, /) -> None:
        if isinstance(notice, protocol.RunSuspended):
            raise LookupError("what is that?")


class Cancels(Observer):
    async def attempt(self, call: AttemptCall, call_next: AttemptNext, /) -> StepResult:
        task = asyncio.current_task()
        if task is not None:
            task.cancel()
        return await call_next(call)


class Mutates(Observer):
    async def step(self, call: StepCall, call_next: StepNext, /) -> StepResult:
        if "n" in type(call.event).model_fields:
            call.event.n += 1
        return await call_next(call)


class Annotates(Observer):
    async def attempt(self, call: AttemptCall, call_next: AttemptNext, /) -> StepResult:
        try:
            return await call_next(call)
        except Exception as error:
            error.add_note("I was here")
            raise


class CallsTwice(Middleware):
    async def attempt(self, call: AttemptCall, call_next: AttemptNext, /) -> StepResult:
        await call_next(call)
        return await call_next(call)


class Replaces(Middleware):
    async def run(self, call: RunCall, call_next: RunNext, /) -> StopEvent | None:
        try:
            return await call_next(call)
        except Exception as error:
            raise RuntimeError("mine") from error


class Swallows(Middleware):
    async def step(self, call: StepCall, call_next: StepNext, /) -> StepResult:
        try:
            return await call_next(call)
        except ValueError:
            return None


class Wraps(Middleware):
    async def attempt(self, call: AttemptCall, call_next: AttemptNext, /) -> StepResult:
        return await asyncio.shield(asyncio.ensure_future(call_next(call)))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (RaisesAfter, r"RaisesAfter is no clean observer: in 'success' it raised ValueError \(\d+ times\)"),
        (Sleeps, r"Sleeps is no clean observer: in 'success' it awaited something else than call_next"),
        (DeafToStreams, r"DeafToStreams is no clean observer: in 'success' it raised LookupError"),
        (DeafToStalls, r"DeafToStalls is no clean observer: `on` raised at RunSuspended: LookupError\('what is that\?'\)"),
        (Cancels, r"Cancels is no clean observer: in 'success' it tried to cancel the task it runs in \(\d+ times\)"),
        (Mutates, "Mutates is not transparent: in 'success' the result is"),
        (Annotates, r"Annotates is not transparent: in 'failure' the notes is \['I was here'"),
        (CallsTwice, "CallsTwice is not transparent: in 'success' the "),
        (Replaces, "Replaces is not transparent: in 'failure' the error is 'RuntimeError"),
        (Swallows, "Swallows is not transparent: in 'failure' the "),
        (Wraps, "Wraps is not transparent: in '"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
@virtual_time()
async def test_the_check_names_what_a_layer_changes_and_where(layer: type[Middleware], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        await check_observer(layer)


async def test_the_check_can_be_cancelled() -> None:
    task = asyncio.create_task(check_observer(Observer))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_the_check_tells_of_every_kind_of_notice() -> None:
    call: Any = type("Call", (), {"run": type("Run", (), {"workflow": "f", "run_id": "r"}), "started_at": 1.0, "step": "s"})
    known = {kind for kind in vars(protocol).values() if isinstance(kind, type) and issubclass(kind, Notice) and kind is not Notice}
    assert {type(notice) for notice in every_notice(call)} == known


@pytest.mark.parametrize("seconds", [1e7, 1e8, 1e9, 1e10])
def test_virtual_time_gets_through_years(seconds: float) -> None:
    async def long() -> float:
        await asyncio.sleep(0.1)
        await asyncio.sleep(seconds)
        return asyncio.get_running_loop().time()

    assert run_virtual(long()) == pytest.approx(seconds + 0.1)
