"""The one place where a step is called: builds its call, runs the chain around it, and hands the outcome back.

It must not know how runs are scheduled; it asks the runner for that.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import inspect
import logging
import threading
import types
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from . import _state as st
from . import _watchdog
from ._threads import pool
from .context import Context, current_scope
from .decorators import StepConfig
from .errors import StepCancelledError, StepResultError, StepTimeoutError, WorkflowRuntimeError
from .events import Event, StopEvent
from .middleware import (
    AttemptCall,
    Cause,
    Chain,
    Middleware,
    RetryScheduled,
    RunCall,
    StepCall,
    StepResult,
    StepTimedOut,
    WaitEnded,
    WaitStarted,
)
from .outcomes import error_type, outcome_of_step
from .records import Outcome, Row
from .retry_policy import RetryInfo, RetryPolicy, ask, seed_for

if TYPE_CHECKING:
    from ._runner import Runner
    from .limits import Limiter, Permit

_log = logging.getLogger("tracedflow")

current_runner: ContextVar[Runner | None] = ContextVar("tracedflow_run", default=None)
"""The run whose layers are being called."""

_NEVER_RETRIED = (StepCancelledError, StepResultError)
_NOTHING_YET: Any = object()


@dataclass(slots=True, eq=False)
class BoundStep:
    """A step of one workflow instance, ready to be called."""

    config: StepConfig
    fn: Callable[..., Any]
    policy: RetryPolicy | None
    timeout: float | None
    event_name: str
    context_name: str | None
    is_async: bool

    def arguments(self, inputs: tuple[Event, ...], scope: StepScope) -> dict[str, Any]:
        """Return the keywords to call the function with."""
        if self.context_name is None:
            return {self.event_name: inputs[0]}
        return {self.event_name: inputs[0], self.context_name: scope.context}


def bind(config: StepConfig, fn: Callable[..., Any]) -> BoundStep:
    """Bind a step to the function of an instance."""
    return BoundStep(
        config, fn, config.retry_policy, config.timeout, config.event_name, config.context_parameter, inspect.iscoroutinefunction(fn)
    )


class StepScope:
    """One live step execution: what its Context, its attempts and its end need. Never outlives its run."""

    # Most executions never change these; set on the class, they cost nothing to open.
    attempt = 0
    ended = False
    in_thread = False
    sent_calls = 0
    outcome: Outcome = "skipped"
    error: str | None = None
    returned: object = _NOTHING_YET  # by the step itself
    last_error: Exception | None = None
    last_failed_at: float | None = None
    children: list[Runner] | None = None
    helpers: set[asyncio.Task[Any]] | None = None
    _context: Context[Any] | None = None
    _order: dict[str, int] | None = None
    _parked: dict[int, asyncio.Future[st.Envelope | None]] | None = None
    _pending: Row | None = None
    _permit: Permit | None = None
    _timeout: asyncio.Timeout | None = None
    _marks = (0.0, 0.0, 0.0, 0.0)  # queued, backoff, waiting, blocked at the end of the last attempt
    _emitted_before = 0
    ended_at = 0.0
    task: asyncio.Task[None]

    def __init__(self, runner: Runner, step: BoundStep, execution: st.Execution, now: float) -> None:
        self.runner = runner
        self.step = step
        self.execution = execution
        inputs = execution.inputs
        call = self.call = StepCall(
            run=runner.call,
            config=step.config,
            execution=execution.id,
            inputs=(inputs[0].event,) if len(inputs) == 1 else tuple([envelope.event for envelope in inputs]),
            origin=self._origin,
            enqueued_at=execution.ready_at,
            started_at=now,
            headers=inputs[0].headers,
        )
        queued = now - execution.ready_at
        if queued > 0:
            call.queued = queued

    def _origin(self) -> tuple[Cause, ...]:
        return tuple([cause_of(envelope) for envelope in self.execution.inputs])

    @property
    def context(self) -> Context[Any]:
        """The Context of this execution; made when somebody asks."""
        if self._context is None:
            self._context = Context._inside(self)
        return self._context

    # --- attempts ---

    def begin_attempt(self) -> None:
        """Start counting anew; a repeated call of the same order is then the same call."""
        if self._pending is not None:
            self.write_record()  # of the attempt before
        self.attempt += 1
        self.call.attempts += 1
        self._order = None
        self.call.collecting = False
        self._emitted_before = len(self.call.emitted)
        if self.attempt > 1:  # what a failed attempt sent in this process is sent again
            self.sent_calls = self.execution.replayed = 0
        if self.execution.first_started_at is None:
            self.execution.first_started_at = self.call.started_at

    def delay_after(self, error: Exception) -> float | None:
        """Ask the retry policy; None: the step failed for good."""
        policy = self.step.policy
        if policy is None or isinstance(error, _NEVER_RETRIED):
            return None
        failures = self.execution.failures + 1
        now = self.runner.now()
        elapsed = now - (self.execution.first_started_at or now)
        seed = seed_for(self.runner.run_id, self.call.step, failures)
        return ask(policy, elapsed=elapsed, attempts=failures, error=error, seed=seed)

    def retry_info(self) -> RetryInfo:
        """Return how often this execution was retried."""
        started = self.execution.first_started_at
        return RetryInfo(
            retry_number=self.execution.failures,
            elapsed_seconds=0.0 if started is None else self.runner.now() - started,
            last_exception=self.last_error,
            last_failed_at=None if self.last_failed_at is None else datetime.fromtimestamp(self.last_failed_at, UTC),
        )

    async def back_off(self, delay: float) -> None:
        """Give the slot back for `delay` seconds, then wait for one."""
        runner, call = self.runner, self.call
        timer = runner.state.seq + 1  # the reducer takes the next number for it
        began = runner.now()
        runner.apply(st.AttemptFailed(self.execution.id, delay, began))
        if delay <= 0:
            return
        self.release_limit()
        await self._parked_on(timer)
        ready = self.execution.ready_at
        call.backoff += ready - began
        call.queued += max(0.0, runner.now() - ready)
        await self.acquire_limit()

    # --- limits ---

    async def acquire_limit(self) -> None:
        """Wait for a permit of the step's shared limit; the time counts as queued."""
        limit = self.step.config.limit
        if limit is None:
            return
        began = self.runner.now()
        self._permit = await self.runner.acquire(limit)
        waited = self.runner.now() - began
        self.call.queued += waited
        self.call.limit_waits = (*self.call.limit_waits, (limit.name, waited))

    def release_limit(self) -> None:
        """Give the permit back."""
        if self._permit is not None:
            self._permit.release()
            self._permit = None

    def holds(self, limit: Limiter) -> bool:
        """Whether this execution has a permit of the limit."""
        return self._permit is not None and self.step.config.limit is limit

    # --- parking ---

    async def wait(
        self, event_type: type[Event], question: Event | None, waiter_id: str | None, requirements: dict[str, Any], timeout: float | None
    ) -> Event:
        """Park until an event answers; see `Context.wait_for_event`."""
        _check_wait(event_type, question, timeout)
        key = self._key("wait", waiter_id)
        known, answer = self.recall(key)
        if known:
            return cast("Event", answer)
        runner = self.runner
        wait_id = runner.state.seq + 1  # the reducer takes the next number for it
        opened = runner.now()
        subclasses = self.step.config.accept_event_subclasses
        execution = self.execution
        runner.apply(
            st.OpenWait(execution.id, key, event_type, opened, subclasses, waiter_id, requirements, question, timeout)
        )
        known, answer = self.recall(key)
        if not known:
            self._notice_wait(wait_id, event_type, waiter_id, timeout, opened)
            answer = (await self._park(wait_id, event_type, opened)).event
        return cast("Event", answer)

    def _notice_wait(self, wait_id: int, event_type: type[Event], waiter_id: str | None, timeout: float | None, at: float) -> None:
        if self.runner.chain.hears(WaitStarted):
            self.runner.chain.notice(
                WaitStarted(
                    run=self.runner.call, at=at, call=self.call, wait_id=wait_id, event_type=event_type.__name__, waiter_id=waiter_id,
                    timeout=timeout,
                )
            )  # fmt: skip

    async def _park(self, wait_id: int, event_type: type[Event], opened: float) -> st.Envelope:
        call, runner = self.call, self.runner
        outcome: Outcome = "cancelled"
        remaining = self._pause_timeout()
        self.release_limit()
        envelope: st.Envelope | None = None
        try:
            envelope = await self._parked_on(wait_id)
            outcome = "timeout" if envelope is None else "success"
            ready = self.execution.ready_at
            call.waiting += ready - opened
            call.queued += max(0.0, runner.now() - ready)
            await self.acquire_limit()
        except asyncio.CancelledError:
            if not runner.is_over:
                runner.apply(st.AbandonWait(wait_id))
            call.waiting += runner.now() - opened
            if call.cancel_reason == "suspended":
                outcome = "suspended"
            raise
        finally:
            self._continue_timeout(remaining)
            self._notice_wait_end(wait_id, event_type, outcome, opened, envelope)
        if envelope is None:
            raise TimeoutError(f"no {event_type.__name__} came within the timeout of this wait_for_event")
        return envelope

    def _notice_wait_end(
        self, wait_id: int, event_type: type[Event], outcome: Outcome, opened: float, envelope: st.Envelope | None
    ) -> None:
        runner = self.runner
        if not runner.chain.hears(WaitEnded):
            return
        now = runner.now()
        cause = None if envelope is None else cause_of(envelope)
        runner.chain.notice(
            WaitEnded(
                run=runner.call, at=now, call=self.call, wait_id=wait_id, event_type=event_type.__name__, outcome=outcome,
                duration=now - opened, cause=cause,
            )
        )  # fmt: skip

    async def _parked_on(self, number: int) -> st.Envelope | None:
        if self._parked is None:
            self._parked = {}
        future = self._parked[number] = self.runner.loop.create_future()
        try:
            return await future
        finally:
            self._parked.pop(number, None)

    def resume(self, number: int, answer: st.Envelope | None) -> bool:
        """Let the coroutine that is parked on this wait or timer go on; False: there is none."""
        future = self._parked.get(number) if self._parked else None
        if future is None:
            return False
        if not future.done():
            future.set_result(answer)
        return True

    def _pause_timeout(self) -> float | None:
        timeout = self._timeout
        when = timeout.when() if timeout is not None else None
        if timeout is None or when is None:
            return None
        timeout.reschedule(None)
        return when - self.runner.loop.time()

    def _continue_timeout(self, remaining: float | None) -> None:
        if self._timeout is not None and remaining is not None:
            self._timeout.reschedule(self.runner.loop.time() + remaining)

    # --- the memo ---

    def _key(self, kind: str, given: str | None) -> str:
        if given is not None:
            return f"{kind}#{given}"
        if self._order is None:
            self._order = {}
        number = self._order[kind] = self._order.get(kind, 0) + 1
        return f"{kind}:{number}"

    def recall(self, key: str) -> tuple[bool, Any]:
        """Return whether this execution has an answer under `key`, and the answer."""
        memo = self.execution.memo
        return (True, memo[key]) if memo is not None and key in memo else (False, None)

    def remember(self, key: str, value: Any) -> None:
        """Keep an answer over retries and resumes."""
        self.runner.apply(st.Remember(self.execution.id, key, value))

    def collect(self, event: object, expected: Sequence[type[Event]], buffer: str) -> list[Event] | None:
        """Add an event to a join; see `Context.collect_events`."""
        if not expected:
            return []
        if not isinstance(event, Event):
            raise WorkflowRuntimeError(f"collect_events() in step `{self.call.step}` takes an event, not {type(event).__name__}")
        key = self._key(f"collect:{buffer}", None)
        known, answer = self.recall(key)
        if not known:
            self.on_loop(lambda: self.runner.apply(st.Collect(self.execution.id, key, event, buffer, expected)))
            _, answer = self.recall(key)
        self.call.collecting = answer is None
        return cast("list[Event] | None", answer)

    # --- threads ---

    def on_loop(self, act: Callable[[], None]) -> None:
        """Do something to the run on its loop, from whatever thread, and come back when it is done."""
        runner = self.runner
        if threading.get_ident() == runner.thread_id:
            act()
            return
        done: concurrent.futures.Future[None] = concurrent.futures.Future()

        def call() -> None:
            try:
                act()
            except BaseException as error:  # noqa: BLE001 - raised in the thread that asked
                done.set_exception(error)
            else:
                done.set_result(None)

        runner.loop.call_soon_threadsafe(call)
        done.result()

    def block_on(self, make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Run a coroutine on the run's loop and block this thread until it is done."""
        return self.submit(make).result()

    def submit(self, make: Callable[[], Coroutine[Any, Any, Any]]) -> concurrent.futures.Future[Any]:
        """Run a coroutine on the run's loop, in this step's context; it ends with the step."""
        done: concurrent.futures.Future[Any] = concurrent.futures.Future()
        context = contextvars.copy_context()

        def start() -> None:
            if self.ended or self.runner.is_over:
                done.cancel()
                return
            task = self.runner.loop.create_task(make(), context=context)
            self.helpers = self.helpers or set()
            self.helpers.add(task)
            task.add_done_callback(finish)

        def finish(task: asyncio.Task[Any]) -> None:
            if self.helpers:
                self.helpers.discard(task)
            if task.cancelled():
                done.cancel()
            elif (error := task.exception()) is not None:
                done.set_exception(error)
            else:
                done.set_result(task.result())

        self.runner.loop.call_soon_threadsafe(start)
        return done

    # --- ending ---

    def cancel(self, reason: str) -> None:
        """Ask the step to stop."""
        if self.call.cancel_reason is None:
            self.call.cancel_reason = reason
        for helper in tuple(self.helpers or ()):
            helper.cancel(reason)
        self.task.cancel(reason)

    def abandon(self, why: str) -> None:
        """Make the Context of a task or thread that will not stop unusable; a later attempt gets a new one."""
        if self._context is not None:
            self._context._dead = why
            self._context = None

    def close(self) -> None:
        """End for good: the Context can only send from now on."""
        self.ended = True
        self.release_limit()
        for helper in tuple(self.helpers or ()):
            helper.cancel("step ended")

    def end_attempt(self, started: float, queued_before: float, result: StepResult, error: BaseException | None, traced: AttemptCall | None) -> None:
        """Take down the attempt that just ended; `write_record` makes its record when its events are known."""
        call = self.call
        ended = self.runner.now()
        if ended - started > _watchdog.BLOCKED_AFTER:
            _watchdog.settle(self)
        queued, backoff, waiting, blocked = self._marks
        parked = call.waiting - waiting + call.queued - queued_before
        self.outcome = outcome_of_step(call, result, error)
        self.error = None if error is None else error_type(error)
        span_id = (traced.span_id if traced is not None else None) or call.span_id
        self._pending = (
            call.config.name, call.execution, self.attempt, call.enqueued_at, started, ended, call.queued - queued,
            ended - started - parked, call.backoff - backoff or 0.0, call.waiting - waiting or 0.0, call.blocked - blocked or 0.0,
            span_id,
        )  # fmt: skip
        if parked or self.step.policy is not None:
            self._marks = (call.queued, call.backoff, call.waiting, call.blocked)

    def write_record(self) -> None:
        """Write the record of the last attempt: all that will be left of it. See `records.Row` for its form."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        call, inputs = self.call, self.execution.inputs
        emitted = call.emitted[self._emitted_before :]
        self.runner.records.append(
            (
                *pending[:-1],
                self.outcome,
                self.error,
                call.trace_id,
                pending[-1],
                len(inputs),
                *[part for envelope in inputs for part in (envelope.id, type(envelope.event).__name__, envelope.source)],
                len(emitted),
                *[part for pair in emitted for part in pair],
                *[part for measured in call.measurements for part in measured],
            )
        )


class Dispatcher:
    """Calls the steps of one workflow instance through one chain. `chain` is folded here, once."""

    def __init__(self, layers: Sequence[Middleware]) -> None:
        self.chain = Chain(layers, run=self._run, step=self._attempts, attempt=self._attempt)

    async def _run(self, call: RunCall) -> StopEvent | None:
        """The innermost `run`: whatever context variables are set now, every step sees."""
        runner = current_runner.get()
        assert runner is not None
        return await runner.execute(call)

    async def work(self, scope: StepScope) -> None:
        """Run a step in its own task, and in the same task whatever follows it alone: a task costs more than the engine.

        Each execution runs in a context of its own all the same.
        """
        runner = scope.runner
        await self.dispatch(scope)
        following = runner.take_next(scope)
        while following is not None:
            following.task = scope.task
            await _in_context(runner.new_context(), self.dispatch(following))
            following = runner.take_next(following)

    async def dispatch(self, scope: StepScope) -> None:
        """Take one step execution from its start to its end."""
        current_scope.set(scope)
        runner = scope.runner
        runner.unbegun -= 1
        result: StepResult = None
        try:
            if scope.step.config.limit is not None:
                await scope.acquire_limit()
                scope.call.started_at = runner.now()
            result = await self.chain.step(scope.call)
            if result is not scope.returned:
                check_result(scope, result)  # a layer put it there
        except BaseException as error:  # noqa: BLE001 - the runner decides what each kind means
            scope.close()
            runner.step_failed(scope, error)
        else:
            scope.close()
            if scope.attempt == 0:  # a layer answered without calling the step
                scope.end_attempt(scope.call.started_at, scope.call.queued, result, None, None)
            runner.step_completed(scope, events_of(result))

    async def _attempts(self, call: StepCall) -> StepResult:
        """The attempt loop: the retry policy is asked here and nowhere else."""
        scope = _scope()
        while True:
            try:
                return await self._recorded(scope, call)
            except Exception as error:
                delay = scope.delay_after(error)
                if delay is None:
                    raise
                scope.last_error = error
                scope.last_failed_at = scope.runner.now()
                if self.chain.hears(RetryScheduled):
                    notice = RetryScheduled(
                        run=call.run, at=scope.last_failed_at, call=call, attempt=scope.attempt, delay=delay, error=error
                    )
                    self.chain.notice(notice)
            await scope.back_off(delay)

    async def _recorded(self, scope: StepScope, call: StepCall) -> StepResult:
        """Make one attempt through its layers, and its record."""
        backoff_before = scope._marks[1]
        scope.begin_attempt()
        started = scope.runner.now() if scope.attempt > 1 else call.started_at
        queued_before = scope.call.queued
        traced: AttemptCall | None = None
        result: StepResult = None
        error: BaseException | None = None
        try:
            layers = self.chain.single_attempt if scope.step.policy is None else self.chain.attempt
            if layers is None:
                result = await self.call_step(scope, call.inputs)
            else:
                backoff = scope.call.backoff - backoff_before
                traced = AttemptCall(step=call, attempt=scope.attempt, last_error=scope.last_error, backoff=backoff)
                result = await layers(traced)
        except BaseException as caught:
            error = caught
            raise
        else:
            return result
        finally:
            scope.end_attempt(started, queued_before, result, error, traced)

    async def _attempt(self, call: AttemptCall) -> StepResult:
        return await self.call_step(_scope(), call.step.inputs)

    async def call_step(self, scope: StepScope, inputs: tuple[Event, ...]) -> StepResult:
        """Call the user's step. Its time limit is innermost, so that every layer sees a `StepTimeoutError`."""
        step = scope.step
        arguments = step.arguments(inputs, scope)
        try:
            if not step.is_async:
                result = await _in_time(scope, _in_thread(scope, step.fn, arguments))
            elif step.timeout is None:
                result = await step.fn(**arguments)
            else:
                result = await _in_time(scope, step.fn(**arguments))
        except asyncio.CancelledError as error:
            if _is_cancelled(scope):
                raise
            raise StepCancelledError(
                f"Step `{scope.call.step}` ({step.config.place}) raised CancelledError, but nobody cancelled it; "
                "a task that it awaited was probably cancelled"
            ) from error
        check_result(scope, result)  # here too, so that every layer sees it fail
        scope.returned = result
        return cast("StepResult", result)


_watchdog.step_callers.add(Dispatcher.call_step.__code__)


@types.coroutine
def _in_context(context: contextvars.Context, step: Coroutine[Any, Any, None]) -> Generator[Any, Any, None]:
    """Await a coroutine in another context than the task's, by driving it by hand."""
    try:
        awaited = context.run(step.send, None)
        while True:
            try:
                received = yield awaited
            except GeneratorExit:
                context.run(step.close)
                raise
            except BaseException as error:  # noqa: BLE001 - a cancellation: the coroutine's to handle
                awaited = context.run(step.throw, error)
            else:
                awaited = context.run(step.send, received)
    except StopIteration:
        return


def cause_of(envelope: st.Envelope) -> Cause:
    """Return where an event came from, without the event."""
    return Cause(
        event_id=envelope.id,
        event_type=type(envelope.event).__name__,
        step=envelope.source_step,
        execution=envelope.source,
        span_context=envelope.span_context,
        headers=envelope.headers,
    )


def events_of(result: StepResult) -> Sequence[Event]:
    """Return the events of a checked result."""
    if result is None:
        return ()
    return result if isinstance(result, list) else (result,)


def check_result(scope: StepScope, result: object) -> None:
    """Refuse what a step may not return.

    Raises:
        StepResultError: it is not an event, None, or a list where the step may return one.
    """
    if isinstance(result, Event):
        _check_declared(scope, result, result)
    elif result is not None:
        for event in _listed(scope, result):
            _check_declared(scope, event, result)


def _listed(scope: StepScope, result: object) -> list[Event]:
    call = scope.call
    if not isinstance(result, list) or not scope.step.config.is_fan_out:
        hint = "; annotate it `-> list[...]` to return a list of events" if isinstance(result, list) else ""
        raise StepResultError(
            f"Step `{call.step}` ({call.config.place}) returned {_kind(cast('object', result))}; it must return an event or None{hint}"
        )
    for event in cast("list[object]", result):
        if not isinstance(event, Event):
            raise StepResultError(f"Step `{call.step}` ({call.config.place}) returned a list with {_kind(event)} in it")
    return cast("list[Event]", result)


def _check_declared(scope: StepScope, event: Event, result: object) -> None:
    """A step may return what it did not declare, said once; a layer may not put such an event in its place."""
    config = scope.step.config
    kind = type(event)
    if kind in config.return_types or issubclass(kind, tuple(config.return_types)):
        return
    declared = ", ".join(each.__name__ for each in config.return_types) or "None"
    text = f"Step `{config.name}` ({config.place}) returned {kind.__name__}, but declares {declared}"
    if scope.returned is not _NOTHING_YET and result is not scope.returned:
        raise StepResultError(f"{text}; a middleware put it there, and no layer may emit what the step may not")
    scope.runner.warn_once(f"{text}; add it to the return annotation")


def _check_wait(event_type: object, question: object, timeout: object) -> None:
    if not (isinstance(event_type, type) and issubclass(event_type, Event)):
        raise WorkflowRuntimeError(f"wait_for_event() takes an event class, not {event_type!r}")
    if question is not None and not isinstance(question, Event):
        raise WorkflowRuntimeError(f"wait_for_event() takes an event as waiter_event, not {type(question).__name__}")
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, (int, float))):
        raise WorkflowRuntimeError(f"wait_for_event() takes seconds, or None, as timeout, not {timeout!r}")


def _kind(value: object) -> str:
    if inspect.iscoroutine(value):
        value.close()
        return "a coroutine (did you forget `await`?)"
    return f"an instance of {type(value).__qualname__}"


def _scope() -> StepScope:
    scope = current_scope.get()
    assert scope is not None
    return scope


def _is_cancelled(scope: StepScope) -> bool:
    """Whether somebody asked the step's task to stop, so that its CancelledError is not the step's own."""
    return scope.call.cancel_reason is not None or scope.task.cancelling() > 0


async def _in_time(scope: StepScope, attempt: Coroutine[Any, Any, Any]) -> Any:
    """Await one attempt, within the step's timeout if it has one. Parking stops the clock."""
    seconds = scope.step.timeout
    if seconds is None:
        return await attempt
    limit = asyncio.timeout(seconds)
    scope._timeout = limit
    try:
        async with limit:
            return await attempt
    except TimeoutError:
        if not limit.expired():
            raise  # the step's own
    finally:
        scope._timeout = None
    call = scope.call
    if scope.runner.chain.hears(StepTimedOut):
        notice = StepTimedOut(run=call.run, at=scope.runner.now(), call=call, timeout=seconds, attempt=scope.attempt)
        scope.runner.chain.notice(notice)
    raise StepTimeoutError(f"Step `{call.step}` ({call.config.place}) took longer than its timeout of {seconds:g} s")


async def _in_thread(scope: StepScope, fn: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Call a plain function in a thread of its own. A thread cannot be stopped: cancelled, it is abandoned."""
    scope.in_thread = True
    future = pool.run(scope.runner.loop, contextvars.copy_context(), lambda: fn(**arguments))
    scope.runner.threads += 1
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        if future.done():
            raise
        for helper in tuple(scope.helpers or ()):
            helper.cancel("step ended")
        await _grace(scope, future)
        raise
    finally:
        scope.runner.threads -= 1


async def _grace(scope: StepScope, future: asyncio.Future[Any]) -> None:
    """Let the thread end by itself for a moment, then make its Context unusable and go on without it."""
    future.add_done_callback(_forget)
    await asyncio.wait([future], timeout=scope.runner.cancel_grace)
    if not future.done():
        text = f"the thread of step `{scope.call.step}`, which was abandoned {scope.runner.cancel_grace:g} s after it was cancelled"
        scope.abandon(text)
        scope.runner.abandoned.append(scope.call.step)
        _log.warning("run %s of %s: %s still runs", scope.runner.run_id, scope.call.workflow, text)


def _forget(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()  # nobody waits for it: it is not "never retrieved"
