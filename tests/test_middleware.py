"""Holds what the chain promises: the order of its layers, and that no observer, whatever it does, changes what happens."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as hyp

from tracedflow import (
    AttemptCall,
    Chain,
    Event,
    Middleware,
    Notice,
    Observer,
    RunCall,
    StartEvent,
    StepCall,
    StopEvent,
    Workflow,
    WorkflowCancelledByUser,
    WorkflowRuntimeError,
    WorkflowTimeoutError,
    step,
)
from tracedflow.errors import StepTimeoutError
from tracedflow.events import WorkflowFailedEvent
from tracedflow.middleware import AttemptNext, EventSent, EventStreamed, MiddlewareFailed, RunNext, StepNext, StepResult
from tracedflow.middleware._apart import Apart
from tracedflow.retry_policy import retry_policy, stop_after_attempt, wait_fixed
from tracedflow.testing import run_virtual, virtual_time

LOGGER = "tracedflow.middleware"


class Work(Event):
    n: int = 0


# --- a chain without an engine


def run_call() -> RunCall:
    return RunCall(workflow="Flow", run_id="r", start_event=StartEvent(), started_at=1.0)


def step_call(run: RunCall | None = None) -> StepCall:
    config = cast("Any", SimpleNamespace(name="work"))
    return StepCall(
        run=run or run_call(), config=config, execution=1, inputs=(Work(),), sources=(), origin=tuple, enqueued_at=1.0, started_at=2.0
    )


async def _end_run(call: RunCall) -> StopEvent | None:
    return StopEvent()


async def _end_step(call: StepCall) -> StepResult:
    return Work()


async def _end_attempt(call: AttemptCall) -> StepResult:
    return Work()


def chain(*layers: Middleware, run: RunNext = _end_run, step: StepNext = _end_step, attempt: AttemptNext = _end_attempt) -> Chain:
    return Chain(layers, run=run, step=step, attempt=attempt)


# --- folding


class Named(Middleware):
    def __init__(self, name: str, log: list[str]) -> None:
        self.name = name
        self.log = log

    async def step(self, call: StepCall, call_next: StepNext, /) -> StepResult:
        self.log.append(f"{self.name} in")
        result = await call_next(call)
        self.log.append(f"{self.name} out")
        return result


class Watching(Named, Observer):
    pass


async def test_the_first_listed_layer_is_outermost_whatever_its_kind() -> None:
    log: list[str] = []
    await chain(Named("a", log), Watching("b", log), Named("c", log), Watching("d", log)).step(step_call())
    assert log == ["a in", "b in", "c in", "d in", "d out", "c out", "b out", "a out"]


def test_what_no_layer_overrides_costs_nothing() -> None:
    class Silent(Observer):
        pass

    for layers in ((), (Middleware(), Silent())):
        folded = chain(*layers)
        assert folded.run is _end_run
        assert folded.step is _end_step
        assert folded.attempt is _end_attempt
        assert folded.single_attempt is None
        assert not folded.hears(EventSent)


def test_a_layer_is_folded_only_where_it_overrides() -> None:
    folded = chain(Named("a", []))
    assert folded.step is not _end_step
    assert folded.run is _end_run
    assert folded.attempt is _end_attempt


def test_a_method_that_a_base_class_overrides_counts() -> None:
    class Derived(Named):
        pass

    assert chain(Derived("a", [])).step is not _end_step


class Tries(Middleware):
    def __init__(self) -> None:
        self.seen = 0

    async def attempt(self, call: AttemptCall, call_next: AttemptNext, /) -> StepResult:
        self.seen += 1
        return await call_next(call)


class TriesOfRetried(Tries):
    attempts_of = "retried"


async def test_a_layer_for_attempts_of_retried_steps_is_left_out_of_the_others() -> None:
    everywhere, retried = Tries(), TriesOfRetried()
    folded = chain(everywhere, retried)
    call = AttemptCall(step=step_call(), attempt=1)
    assert folded.single_attempt is not None
    await folded.single_attempt(call)
    assert (everywhere.seen, retried.seen) == (1, 0)
    await folded.attempt(call)
    assert (everywhere.seen, retried.seen) == (2, 1)
    assert chain(retried).single_attempt is None


# --- notices


class Hears(Middleware):
    def __init__(self) -> None:
        self.heard: list[Notice] = []

    def on(self, notice: Notice, /) -> None:
        self.heard.append(notice)


class HearsStreams(Hears):
    hears = (EventStreamed,)


def streamed() -> EventStreamed:
    return EventStreamed(run=run_call(), at=3.0, event_type="Work")


def sent() -> EventSent:
    return EventSent(run=run_call(), at=3.0, event_id=1, event_type="Work", to=())


def test_a_layer_hears_what_it_asks_for_and_by_default_everything() -> None:
    everything, streams = Hears(), HearsStreams()
    folded = chain(everything, streams)
    for notice in (streamed(), sent()):
        folded.notice(notice)
    assert [type(notice) for notice in everything.heard] == [EventStreamed, EventSent]
    assert [type(notice) for notice in streams.heard] == [EventStreamed]
    assert chain(streams).hears(EventStreamed)
    assert not chain(streams).hears(EventSent)


class Broken(BaseException):
    """No Exception."""


@pytest.mark.parametrize("error", [ValueError("deaf"), asyncio.CancelledError(), Broken(), GeneratorExit(), StopIteration()])
def test_a_listener_that_raises_is_logged_once_counted_each_time_and_the_next_one_is_told(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    class Deaf(Observer):
        def on(self, notice: Notice, /) -> None:
            raise error

    after = Hears()
    folded = chain(Deaf(), after)
    for _ in range(3):
        folded.notice(streamed())
    assert sum(isinstance(notice, EventStreamed) for notice in after.heard) == 3
    failed = [notice for notice in after.heard if isinstance(notice, MiddlewareFailed)]
    assert [(each.middleware, each.error_type) for each in failed] == [(Deaf.__qualname__, type(error).__qualname__)] * 3
    said = [record.getMessage() for record in caplog.records if record.name == LOGGER]
    assert len([text for text in said if "raised on EventStreamed" in text]) == 1
    assert len([text for text in said if "raised on MiddlewareFailed" in text]) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_process_is_let_through(error: type[BaseException]) -> None:
    class Ends(Observer):
        def on(self, notice: Notice, /) -> None:
            raise error

        async def step(self, call: StepCall, call_next: StepNext, /) -> StepResult:
            raise error

        async def attempt(self, call: AttemptCall, call_next: AttemptNext, /) -> StepResult:
            await call_next(call)
            raise error

    folded = chain(Ends())
    with pytest.raises(error):
        folded.notice(streamed())
    with pytest.raises(error):
        folded.step(step_call()).__await__().send(None)  # type: ignore[attr-defined]
    with pytest.raises(error):
        folded.attempt(AttemptCall(step=step_call(), attempt=1)).__await__().send(None)  # type: ignore[attr-defined]


def test_a_failure_says_where_it_was() -> None:
    class Deaf(Observer):
        def on(self, notice: Notice, /) -> None:
            if not isinstance(notice, MiddlewareFailed):
                raise ValueError

        async def run(self, call: RunCall, call_next: RunNext, /) -> StopEvent | None:
            raise ValueError

        async def step(self, call: StepCall, call_next: StepNext, /) -> StepResult:
            raise ValueError

        async def attempt(self, call: AttemptCall, call_next: AttemptNext, /) -> StepResult:
            raise ValueError

    hears = Hears()
    folded = chain(Deaf(), hears)
    call = step_call()

    async def main() -> None:
        await folded.run(call.run)
        await folded.step(call)
        await folded.attempt(AttemptCall(step=call, attempt=1))
        folded.notice(EventStreamed(run=call.run, at=3.0, call=call, event_type="Work"))

    asyncio.run(main())
    failed = [notice for notice in hears.heard if isinstance(notice, MiddlewareFailed)]
    assert [(each.run, each.call, each.at) for each in failed] == [(call.run, None, 1.0), *[(call.run, call, 2.0)] * 3]


# --- hostile observers

NOT_CALL_NEXT = "awaited something else than call_next"
BEFORE = "raised before call_next"
AFTER = "raised after call_next"

Go = Callable[[], Awaitable[Any]]


class Sabotage(Exception):
    pass


async def passes(go: Go) -> Any:
    return await go()


async def never_calls(go: Go) -> Any:
    return StopEvent(result="never")


async def calls_and_does_not_await(go: Go) -> Any:
    go()
    return StopEvent(result="early")


async def sleeps_before(go: Go) -> Any:
    await asyncio.sleep(1000)
    return await go()


async def sleeps_after(go: Go) -> Any:
    try:
        return await go()
    finally:
        await asyncio.sleep(1000)


async def yields_before(go: Go) -> Any:
    await asyncio.sleep(0)
    return await go()


async def waits_forever(go: Go) -> Any:
    await asyncio.get_running_loop().create_future()


async def refuses_to_stop(go: Go) -> Any:
    try:
        await asyncio.sleep(0)
    except GeneratorExit:
        await asyncio.sleep(0)


async def raises_when_stopped(go: Go) -> Any:
    try:
        await asyncio.sleep(0)
    finally:
        raise Sabotage("stopped")


async def swallows(go: Go) -> Any:
    try:
        return await go()
    except BaseException:
        return StopEvent(result="swallowed")


async def lies(go: Go) -> Any:
    await go()
    return StopEvent(result="a lie")


async def raises_before(go: Go) -> Any:
    raise Sabotage("before")


async def raises_after(go: Go) -> Any:
    try:
        await go()
    finally:
        raise Sabotage("after")


async def raises_another(go: Go) -> Any:
    try:
        return await go()
    except BaseException as error:
        raise Sabotage("instead") from error


async def raises_it_in_the_midst_of_another(go: Go) -> Any:
    try:
        return await go()
    except BaseException as error:
        try:
            raise Sabotage("other")
        except Sabotage:
            raise error  # noqa: B904 - its context must not stay


async def cuts_the_traceback(go: Go) -> Any:
    try:
        return await go()
    except BaseException as error:
        raise error.with_traceback(None) from None


async def calls_twice(go: Go) -> Any:
    try:
        await go()
    except BaseException:
        await go()
    return await go()


async def calls_in_a_task(go: Go) -> Any:
    return await asyncio.ensure_future(go())


async def calls_in_wait_for(go: Go) -> Any:
    return await asyncio.wait_for(go(), 1000)


async def raises_base_before(go: Go) -> Any:
    raise Broken


async def raises_base_after(go: Go) -> Any:
    try:
        await go()
    finally:
        raise Broken


async def raises_cancelled_before(go: Go) -> Any:
    raise asyncio.CancelledError


async def raises_cancelled_after(go: Go) -> Any:
    try:
        await go()
    finally:
        raise asyncio.CancelledError


async def raises_generator_exit(go: Go) -> Any:
    raise GeneratorExit


def is_no_coroutine(go: Go) -> Any:
    return None


# Since Python 3.12 `wait_for` awaits in the task of its caller, so an observer may put a limit around `call_next`.
_WAIT_FOR = NOT_CALL_NEXT if sys.version_info < (3, 12) else None

# What each is reported for, when the step succeeds and when it raises; None: it did no wrong, or nobody could tell.
HOSTILE: dict[Callable[[Go], Any], tuple[str | None, str | None]] = {
    passes: (None, None),
    never_calls: (None, None),
    calls_and_does_not_await: (None, None),
    sleeps_before: (NOT_CALL_NEXT, NOT_CALL_NEXT),
    sleeps_after: (NOT_CALL_NEXT, NOT_CALL_NEXT),
    yields_before: (NOT_CALL_NEXT, NOT_CALL_NEXT),
    waits_forever: (NOT_CALL_NEXT, NOT_CALL_NEXT),
    refuses_to_stop: (NOT_CALL_NEXT, NOT_CALL_NEXT),
    raises_when_stopped: (NOT_CALL_NEXT, NOT_CALL_NEXT),
    swallows: (None, None),
    lies: (None, None),
    raises_before: (BEFORE, BEFORE),
    raises_after: (AFTER, AFTER),
    raises_another: (None, AFTER),
    raises_it_in_the_midst_of_another: (None, None),
    cuts_the_traceback: (None, None),
    calls_twice: (None, None),
    calls_in_a_task: (NOT_CALL_NEXT, NOT_CALL_NEXT),
    calls_in_wait_for: (_WAIT_FOR, _WAIT_FOR),
    raises_base_before: (BEFORE, BEFORE),
    raises_base_after: (AFTER, AFTER),
    raises_cancelled_before: (BEFORE, BEFORE),
    raises_cancelled_after: (AFTER, AFTER),
    raises_generator_exit: (BEFORE, BEFORE),
    is_no_coroutine: (BEFORE, BEFORE),
}
METHODS = ("run", "step", "attempt")

Plan = dict[str, Callable[[Go], Any]]


def hostile(number: int, plan: Plan) -> Observer:
    """Return an observer of a class of its own that overrides what the plan names."""

    def method(act: Callable[[Go], Any]) -> Any:
        return lambda self, call, call_next: act(lambda: call_next(call))

    made = type(f"Hostile{number}", (Observer,), {name: method(act) for name, act in plan.items()})
    return cast("Observer", made())


plans = hyp.dictionaries(hyp.sampled_from(METHODS), hyp.sampled_from(list(HOSTILE)), min_size=1)
mixes = hyp.lists(plans, min_size=1, max_size=4)


def expected_reports(mix: list[Plan], calls: dict[str, list[bool]]) -> tuple[Counter[tuple[str, str]], set[tuple[str, str]]]:
    """Return how often each layer fails and what is logged, for calls of each method that succeeded (True) or raised."""
    counts: Counter[tuple[str, str]] = Counter()
    for number, plan in enumerate(mix):
        for method, act in plan.items():
            for succeeded in calls[method]:
                what = HOSTILE[act][0 if succeeded else 1]
                if what is not None:
                    counts[f"Hostile{number}", what] += 1
    return counts, set(counts)


class Logged(logging.Handler):
    """What was said of layers, and what asyncio said of tasks that nobody wanted."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR:
            name, what = cast("tuple[str, str]", record.args)
            self.said.append((name, what))

    def __enter__(self) -> Logged:
        logging.getLogger(LOGGER).addHandler(self)
        return self

    def __exit__(self, *exc: object) -> None:
        logging.getLogger(LOGGER).removeHandler(self)


class Boom(Exception):
    pass


def frames(error: BaseException) -> list[str]:
    return [frame.name for frame in traceback.extract_tb(error.__traceback__)]


class Endpoint:
    """The inner end of a bare chain: counts its calls and ends as told."""

    def __init__(self, ending: str) -> None:
        self.ending = ending
        self.calls = 0
        self.result = Work(n=7)
        self.error: BaseException = asyncio.CancelledError("true") if ending == "cancelled" else Boom("true")
        self.context = KeyError("context")

    async def __call__(self, call: Any) -> Any:
        self.calls += 1
        await asyncio.sleep(0)
        if self.ending == "success":
            return self.result
        try:
            raise self.context
        except KeyError:
            raise self.error  # noqa: B904 - it has a context that must stay


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")  # of what hostile layers left lying
@settings(max_examples=150)
@given(mixes, hyp.sampled_from(METHODS), hyp.sampled_from(["success", "failure", "cancelled"]))
def test_no_mix_of_hostile_observers_changes_what_a_bare_chain_does(mix: list[Plan], method: str, ending: str) -> None:
    endpoint = Endpoint(ending)
    hears = Hears()
    layers = [hostile(number, plan) for number, plan in enumerate(mix)]
    folded = Chain([*layers, hears], run=endpoint, step=endpoint, attempt=endpoint)
    run = run_call()
    call = {"run": run, "step": step_call(run), "attempt": AttemptCall(step=step_call(run), attempt=1)}[method]

    async def main() -> Any:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        return await getattr(folded, method)(call)

    with Logged() as logged:
        if ending == "success":
            assert run_virtual(main()) is endpoint.result
        else:
            with pytest.raises(type(endpoint.error)) as caught:
                run_virtual(main())
            if ending == "failure":  # asyncio makes a new CancelledError where a task ends
                assert caught.value is endpoint.error
                assert frames(endpoint.error)[-1] == "__call__"
                assert not any(name in {act.__name__ for act in HOSTILE} for name in frames(endpoint.error))
            assert endpoint.error.__context__ is endpoint.context
    assert endpoint.calls == 1
    calls = {each: [ending == "success"] if each == method else [] for each in METHODS}
    counts, said = expected_reports(mix, calls)
    assert Counter(cast("MiddlewareFailed", notice).middleware for notice in hears.heard) == _by_layer(counts)
    assert sorted(logged.said) == sorted(said)


def _by_layer(counts: Counter[tuple[str, str]]) -> Counter[str]:
    found: Counter[str] = Counter()
    for (name, _), count in counts.items():
        found[name] += count
    return found


class Flow(Workflow):
    """Two steps; the second ends as told."""

    def __init__(self, ending: str, **options: Any) -> None:
        super().__init__(telemetry=False, **options)
        self.ending = ending
        self.calls: list[str] = []
        self.errors: list[Boom] = []
        self.was_cancelled = False

    @step
    async def first(self, ev: StartEvent) -> Work:
        self.calls.append("first")
        return Work(n=1)

    @step(retry_policy=retry_policy(wait=wait_fixed(60), stop=stop_after_attempt(3)), timeout=100)
    async def second(self, ev: Work) -> StopEvent:
        self.calls.append("second")
        match self.ending:
            case "failure":
                raise self._boom()
            case "retry" if len(self.errors) < 2:
                raise self._boom()
            case "cancelled" | "timeout":
                try:
                    await asyncio.sleep(10_000)
                except asyncio.CancelledError:
                    self.was_cancelled = True
                    raise
        return StopEvent(result=ev.n)

    def _boom(self) -> Boom:
        try:
            raise KeyError("context")
        except KeyError as inner:
            error = Boom("true")
            error.__context__ = inner
        self.errors.append(error)
        return error


TRIES = {"success": [True], "failure": [False] * 3, "retry": [False, False, True], "cancelled": [False], "timeout": [False] * 3}


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@settings(max_examples=200, deadline=None)
@given(mixes, hyp.sampled_from(sorted(TRIES)))
def test_no_mix_of_hostile_observers_changes_what_a_workflow_does(mix: list[Plan], ending: str) -> None:
    hears = HearsFailures()
    flow = Flow(ending, middleware=[*(hostile(number, plan) for number, plan in enumerate(mix)), hears], timeout=None)
    caught: BaseException | None = None
    result: Any = None

    async def main() -> None:
        nonlocal caught, result
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        handler = flow.run()
        if ending == "cancelled":
            await asyncio.sleep(50)
            await handler.cancel_run()
        try:
            result = await handler
        except Exception as error:
            caught = error

    with Logged() as logged:
        run_virtual(main())
    tries = TRIES[ending]
    assert flow.calls == ["first", *["second"] * len(tries)]
    match ending:
        case "success" | "retry":
            assert (result, caught) == (1, None)
        case "failure":
            assert caught is flow.errors[-1]
            assert isinstance(caught.__context__, KeyError)
            assert frames(caught)[-1] == "second"
            assert not any(name in {act.__name__ for act in HOSTILE} for name in frames(caught))
        case "timeout":
            assert isinstance(caught, StepTimeoutError)
            assert flow.was_cancelled
        case _:
            assert isinstance(caught, WorkflowCancelledByUser)
            assert flow.was_cancelled
    calls = {"run": [result is not None], "step": [True, result is not None], "attempt": [True, *tries]}
    counts, said = expected_reports(mix, calls)
    assert Counter(cast("MiddlewareFailed", notice).middleware for notice in hears.heard) == _by_layer(counts)
    assert sorted(logged.said) == sorted(said)


class HearsFailures(Hears):
    hears = (MiddlewareFailed,)


@pytest.mark.parametrize("act", [raises_when_stopped, swallows, sleeps_after, raises_after], ids=lambda act: act.__name__)
def test_a_chain_that_is_closed_in_the_midst_of_a_call_is_closed_whatever_an_observer_says(act: Callable[[Go], Any]) -> None:
    class Holds:
        closed = False

        async def __call__(self, call: Any) -> Any:
            try:
                await asyncio.sleep(0)
            except GeneratorExit:
                self.closed = True
                raise

    endpoint = Holds()
    running = chain(hostile(0, {"step": act}), step=endpoint).step(step_call()).__await__()
    next(running)
    running.close()
    assert endpoint.closed


# --- what layers see and set

_variable: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar("variable", default=())


class Sets(Middleware):
    def __init__(self, *methods: str) -> None:
        self.methods = methods

    def add(self, name: str) -> None:
        if name in self.methods:
            _variable.set((*_variable.get(), name))

    async def run(self, call: RunCall, call_next: RunNext, /) -> StopEvent | None:
        self.add("run")
        return await call_next(call)

    async def step(self, call: StepCall, call_next: StepNext, /) -> StepResult:
        self.add("step")
        return await call_next(call)

    async def attempt(self, call: AttemptCall, call_next: AttemptNext, /) -> StepResult:
        self.add("attempt")
        return await call_next(call)


class SetsAsObserver(Sets, Observer):
    pass


class Reads(Workflow):
    @step
    async def first(self, ev: StartEvent) -> Work:
        return Work(seen=_variable.get())

    @step
    def second(self, ev: Work) -> StopEvent:
        return StopEvent(result=(ev.get("seen"), _variable.get()))


@pytest.mark.parametrize("kind", [Sets, SetsAsObserver])
async def test_what_layers_set_in_the_context_the_steps_see_each_its_own(kind: type[Sets]) -> None:
    everything = ("run", "step", "attempt")
    assert await Reads(telemetry=False, middleware=[kind(*everything)]).run() == (everything, everything)
    assert await Reads(telemetry=False, middleware=[kind("run")]).run() == (("run",), ("run",))
    assert await Reads(telemetry=False, middleware=[kind("run"), kind("run")]).run() == (("run", "run"),) * 2
    assert _variable.get() == ()


class Changes(Middleware):
    def __init__(self, act: Callable[[StepCall, StepNext], Awaitable[StepResult]]) -> None:
        self.act = act

    async def step(self, call: StepCall, call_next: StepNext, /) -> StepResult:
        return await self.act(call, call_next) if call.step == "second" else await call_next(call)


@virtual_time()
async def test_a_middleware_may_answer_replace_repeat_and_raise() -> None:
    async def answers(call: StepCall, call_next: StepNext) -> StepResult:
        return StopEvent(result="answered")

    async def replaces(call: StepCall, call_next: StepNext) -> StepResult:
        result = await call_next(call)
        assert isinstance(result, StopEvent)
        return StopEvent(result=result.result * 100)

    async def waits_then_calls(call: StepCall, call_next: StepNext) -> StepResult:
        await asyncio.sleep(3600)
        return await call_next(call)

    async def fails(call: StepCall, call_next: StepNext) -> StepResult:
        raise Sabotage("on purpose")

    for act, wanted, called in [(answers, "answered", 1), (replaces, 100, 2), (waits_then_calls, 1, 2)]:
        flow = Flow("success", middleware=[Changes(act)], timeout=None)
        assert await flow.run() == wanted
        assert len(flow.calls) == called
    flow = Flow("success", middleware=[Changes(fails)])
    with pytest.raises(Sabotage, match="on purpose"):
        await flow.run()
    assert flow.calls == ["first"]


async def test_an_observer_sees_the_true_outcome_and_cannot_keep_it() -> None:
    seen: list[Any] = []

    class Sees(Observer):
        async def step(self, call: StepCall, call_next: StepNext, /) -> StepResult:
            try:
                seen.append(await call_next(call))
            except Boom as error:
                seen.append(error)
            return None

    flow = Flow("success", middleware=[Sees()])
    assert await flow.run() == 1
    assert [type(each) for each in seen] == [Work, StopEvent]


async def test_the_log_of_a_failed_observer_shows_its_own_traceback(caplog: pytest.LogCaptureFixture) -> None:
    await chain(hostile(0, {"step": raises_before})).step(step_call())
    (record,) = [record for record in caplog.records if record.name == LOGGER]
    assert "Hostile0 raised before call_next" in record.getMessage()
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], Sabotage)


@virtual_time()
async def test_an_observer_that_cancels_the_task_it_runs_in_does_not_cancel_the_step() -> None:
    class Times(Observer):
        async def step(self, call: StepCall, call_next: StepNext, /) -> StepResult:
            async with asyncio.timeout(1):
                return await call_next(call)

    class Slow(Workflow):
        @step
        async def slow(self, ev: StartEvent) -> StopEvent:
            await asyncio.sleep(10)
            return StopEvent(result="done")

    result = await asyncio.gather(Slow(telemetry=False, middleware=[Times()]).run(), return_exceptions=True)
    assert result == ["done"]


@pytest.mark.parametrize("when", ["before", "after", "later"])
async def test_an_observer_that_asks_the_current_task_to_stop_is_reported_and_changes_nothing(when: str) -> None:
    heard: list[MiddlewareFailed] = []

    class Cancels(Observer):
        async def step(self, call: StepCall, call_next: StepNext, /) -> StepResult:
            task = asyncio.current_task()
            assert task is not None
            if when == "before":
                task.cancel()
            elif when == "later":
                asyncio.get_running_loop().call_soon(task.cancel)
            result = await call_next(call)
            assert asyncio.current_task() is task
            if when == "after":
                task.cancel()
            return result

        def on(self, notice: Notice, /) -> None:
            if isinstance(notice, MiddlewareFailed):
                heard.append(notice)

    class Slow(Workflow):
        @step
        async def slow(self, ev: StartEvent) -> StopEvent:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task = asyncio.current_task()
            assert isinstance(task, asyncio.Task)
            return StopEvent(result=task.cancelling())

    assert await Slow(telemetry=False, middleware=[Cancels()]).run() == 0
    assert [(notice.middleware.rpartition(".")[2], notice.error_type) for notice in heard] == [("Cancels", "Cancelled")]


async def test_an_observer_that_asks_the_current_task_to_stop_when_it_is_told_something_changes_nothing() -> None:
    heard: list[str] = []

    class Cancels(Observer):
        def on(self, notice: Notice, /) -> None:
            task = asyncio.current_task()
            if isinstance(notice, MiddlewareFailed):
                heard.append(notice.error_type)
            elif task is not None:
                task.cancel()

    flow = Flow("success", middleware=[Cancels()])
    assert await flow.run() == 1
    assert set(heard) == {"Cancelled"}


@pytest.mark.parametrize(
    ("how", "reasons"),
    [
        ("cancel", {"Outer": "cancelled", "Inner": "cancelled"}),
        ("timeout", {"Outer": "run_timeout", "Inner": "run_timeout"}),
        ("failure", {"Outer": None, "Inner": "sibling_failed"}),
    ],
)
@virtual_time()
async def test_a_layer_sees_why_a_run_was_stopped(how: str, reasons: dict[str, str | None]) -> None:
    seen: dict[str, str | None] = {}
    started = asyncio.Event()

    class Sees(Observer):
        async def run(self, call: RunCall, call_next: RunNext, /) -> StopEvent | None:
            try:
                return await call_next(call)
            finally:
                seen[call.workflow] = call.cancel_reason

    class Inner(Workflow):
        @step
        async def slow(self, ev: StartEvent) -> StopEvent:
            started.set()
            await asyncio.Event().wait()
            return StopEvent()

    class Outer(Workflow):
        @step
        async def nest(self, ev: StartEvent) -> StopEvent:
            return StopEvent(await Inner(timeout=None, middleware=[Sees()], workflow_name="Inner").run())

        @step
        async def fail(self, ev: StartEvent) -> StopEvent:
            await started.wait()
            if how == "failure":
                raise Boom("on purpose")
            await asyncio.Event().wait()
            return StopEvent()

    handler = Outer(timeout=5, middleware=[Sees()], workflow_name="Outer").run()
    await started.wait()
    if how == "cancel":
        await handler.cancel_run()
    await asyncio.wait([handler])
    assert isinstance(handler.exception(), {"cancel": WorkflowCancelledByUser, "timeout": WorkflowTimeoutError, "failure": Boom}[how])
    assert seen == reasons


async def test_a_cancellation_from_outside_reaches_the_step_and_its_observer_all_the_same() -> None:
    seen: list[str] = []
    started = asyncio.Event()

    class Times(Observer):
        async def step(self, call: StepCall, call_next: StepNext, /) -> StepResult:
            try:
                async with asyncio.timeout(60):
                    return await call_next(call)
            except asyncio.CancelledError:
                seen.append("observer")
                raise

    class Slow(Workflow):
        @step
        async def slow(self, ev: StartEvent) -> StopEvent:
            started.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                seen.append("step")
                raise
            return StopEvent()

    handler = Slow(telemetry=False, middleware=[Times()]).run()
    await started.wait()
    await handler.cancel_run()
    assert seen == ["step", "observer"]


async def test_a_layer_may_leave_a_part_of_its_work_to_the_base_class() -> None:
    passed: list[str] = []

    class Counts(Middleware):
        async def run(self, call: RunCall, call_next: RunNext, /) -> StopEvent | None:
            passed.append("run")
            return await super().run(call, call_next)

        async def step(self, call: StepCall, call_next: StepNext, /) -> StepResult:
            passed.append("step")
            return await super().step(call, call_next)

        async def attempt(self, call: AttemptCall, call_next: AttemptNext, /) -> StepResult:
            passed.append("attempt")
            return await super().attempt(call, call_next)

        def on(self, notice: Notice, /) -> None:
            super().on(notice)

    class One(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=1)

    assert await One(middleware=[Counts()]).run() == 1
    assert passed[:3] == ["run", "step", "attempt"]


@pytest.mark.parametrize(
    ("given", "said"),
    [(None, "returned None"), (Work(), "returned an object of type Work"), ("done", "returned an object of type str")],
    ids=repr,
)
@pytest.mark.parametrize("asks", [False, True])
async def test_a_run_layer_that_gives_no_stop_event_fails_the_run_and_its_stream_ends(given: Any, said: str, asks: bool) -> None:
    class Loses(Middleware):
        async def run(self, call: RunCall, call_next: RunNext, /) -> Any:
            if asks:
                await call_next(call)
            return given

    class One(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=1)

    handler = One(middleware=[Loses()]).run()
    with pytest.raises(WorkflowRuntimeError, match=rf"`run` layer of .*\.One {said} at the end of run"):
        await handler
    (last,) = [event async for event in handler.stream_events()]
    assert isinstance(last, WorkflowFailedEvent)


async def test_a_run_layer_may_keep_an_error_to_itself_and_the_run_has_failed_all_the_same() -> None:
    class Swallows(Middleware):
        async def run(self, call: RunCall, call_next: RunNext, /) -> StopEvent | None:
            try:
                return await call_next(call)
            except Boom:
                return None

    class Fails(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            raise Boom("on purpose")

    with pytest.raises(Boom):
        await Fails(middleware=[Swallows()]).run()


def test_what_an_observer_runs_in_is_driven_and_not_awaited() -> None:
    watching = Apart(_end_step(step_call()), lambda: None)
    with pytest.raises(TypeError, match="driven by hand"):
        watching.__await__()
    watching.close()


def test_an_observer_whose_loop_has_ended_is_closed_outside_of_it(caplog: pytest.LogCaptureFixture) -> None:
    closed: list[str] = []

    class Holds:
        async def __call__(self, call: Any) -> Any:
            try:
                await asyncio.sleep(0)
            except GeneratorExit:
                closed.append("step")
                raise

    class Watches(Observer):
        async def step(self, call: StepCall, call_next: StepNext, /) -> StepResult:
            try:
                return await call_next(call)
            finally:
                closed.append("observer")

    async def begin() -> Any:
        running = chain(Watches(), step=Holds()).step(step_call()).__await__()
        next(running)
        return running

    running = asyncio.run(begin())
    with caplog.at_level(logging.DEBUG):
        running.close()
    assert closed == ["step", "observer"]
    assert not caplog.records  # it did not refuse to stop


@pytest.mark.parametrize(("act", "kind"), [(sleeps_before, "Suspended"), (raises_before, "Sabotage"), (raises_after, "Sabotage")])
async def test_a_layer_that_failed_is_told_of_with_what_it_did(act: Callable[[Go], Any], kind: str) -> None:
    hears = Hears()
    await chain(hostile(0, {"step": act}), hears).step(step_call())
    (failed,) = hears.heard
    assert isinstance(failed, MiddlewareFailed)
    assert (failed.middleware, failed.error_type) == ("Hostile0", kind)


async def test_a_layer_of_ours_that_fails_when_asked_whether_it_skips_is_reported_and_watches() -> None:
    seen: list[str] = []

    class Ours(Observer):
        __module__ = "tracedflow.telemetry"  # only a layer of the package may be asked

        def _skips_step(self, call: StepCall) -> bool:
            raise Sabotage("asked")

        async def step(self, call: StepCall, call_next: StepNext, /) -> StepResult:
            seen.append("watched")
            return await call_next(call)

    hears = Hears()
    assert isinstance(await chain(Ours(), hears).step(step_call()), Work)
    assert seen == ["watched"]
    (failed,) = hears.heard
    assert isinstance(failed, MiddlewareFailed)
    assert failed.error_type == "Sabotage"
    assert failed.middleware.endswith("Ours")


@pytest.mark.parametrize("fails", [False, True])
async def test_what_a_run_layer_makes_of_the_end_is_how_the_run_ended(fails: bool) -> None:
    class Turns(Middleware):
        async def run(self, call: RunCall, call_next: RunNext, /) -> StopEvent | None:
            try:
                await call_next(call)
            except Boom:
                return StopEvent(result="saved")
            raise Boom

    class One(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            if fails:
                raise Boom
            return StopEvent(result=1)

    handler = One(middleware=[Turns()]).run()
    if fails:
        assert await handler == "saved"
    else:
        with pytest.raises(Boom):
            await handler
    said = "completed" if fails else "failed"
    assert handler.why().state == said
    assert f", {said}>" in repr(handler)


async def test_a_call_says_which_execution_it_is() -> None:
    shown: list[str] = []

    class Shows(Middleware):
        async def step(self, call: StepCall, call_next: StepNext, /) -> StepResult:
            shown.append(repr(call))
            return await call_next(call)

    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            return StopEvent()

    handler = Flow(middleware=[Shows()]).run()
    await handler
    assert shown == [f"StepCall(run_id='{handler.run_id}', step='only', execution=2, inputs=(StartEvent(),))"]
