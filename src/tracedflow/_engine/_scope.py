"""One live step execution: what its Context, its attempts and its end need. Knows nothing of the chain around it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from .._keys import with_keys
from ..context import Context
from ..decorators import StepConfig
from ..errors import ContextStateError, StepCancelledError, StepResultError
from ..events import Event
from ..middleware import Cause, StepCall, WaitEnded, WaitStarted
from ..records import Outcome
from ..retry_policy import RetryInfo, RetryPolicy, ask, seed_for
from . import _state as st
from ._bridge import on_loop
from ._parking import Parking
from ._permits import acquire
from ._record import write
from ._results import NOTHING_YET, check_collect, check_wait

if TYPE_CHECKING:
    from ..limits import Limiter, Permit
    from ._runner import Runner

_NO_ANSWER = "no {} came within the timeout of this wait_for_event"
_NEVER_RETRIED = (StepCancelledError, StepResultError)


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
    takes_one: bool  # one event: neither a list nor one of each of several
    is_plain: bool  # calling it gives all that is to be awaited: no thread, no resource, no time limit
    is_single: bool  # it makes one attempt, without a limit that it shares
    own_task: bool
    returns: frozenset[type[Any]]  # what it says that it returns, but for lists: what is of these classes needs no further look
    lists: frozenset[type[Any]]  # what it says that it returns lists of: so do these
    takes_event_alone: bool  # as its first argument: a dict of keywords for each call would cost more than the call

    def arguments(self, inputs: tuple[Event, ...], scope: StepScope) -> dict[str, Any]:
        """Return the keywords to call the function with."""
        given: dict[str, Any] = {self.event_name: inputs[0]} if self.takes_one else self._joined(inputs)
        if self.context_name is not None:
            given[self.context_name] = scope.context
        return given

    def _joined(self, inputs: tuple[Event, ...]) -> dict[str, Any]:
        if self.config.collection_param is not None:
            return {self.config.collection_param: list(inputs)}
        return dict(zip(self.config.event_parameters, inputs, strict=True))


def bind(config: StepConfig, fn: Callable[..., Any]) -> BoundStep:
    """Bind a step to the function of an instance."""
    is_async = inspect.iscoroutinefunction(fn)
    takes_one = config.collection_param is None and not config.is_multi_slot
    is_plain = is_async and not config.resources and config.timeout is None
    alone = takes_one and config.context_parameter is None and not config.resources and _is_first(fn, config.event_name)
    is_single = config.retry_policy is None and config.limit is None
    returns = frozenset(config.bare_return_types if config.is_fan_out else config.return_types)
    lists = frozenset(config.list_return_types)
    return BoundStep(
        config, fn, config.retry_policy, config.timeout, config.event_name, config.context_parameter, is_async, takes_one, is_plain,
        is_single, config.own_task, returns, lists, alone,
    )  # fmt: skip


def _is_first(fn: Callable[..., Any], name: str) -> bool:
    """Whether an argument without a keyword goes to this parameter. A wrapper's own signature counts, not what it claims to wrap."""
    first = next(iter(inspect.signature(fn, follow_wrapped=False).parameters.values()), None)
    return first is not None and first.name == name and first.kind is not inspect.Parameter.KEYWORD_ONLY


@with_keys("sent_calls", "_context", "_order", "span_id")
class StepScope:
    """One live step execution: what its Context, its attempts and its end need. Never outlives its run."""

    # Most executions never change these; set on the class, they cost nothing to open.
    attempt: int = 0
    ended: bool = False
    in_thread = False
    sent_calls: int = 0
    outcome: Outcome = "skipped"
    error: str | None = None
    returned: object = NOTHING_YET  # by the step itself
    children: list[Runner] | None = None
    helpers: set[asyncio.Task[Any]] | None = None
    once_locks: dict[str, asyncio.Lock] | None = None
    _context: Context[Any] | None = None
    _order: dict[str, int] | None = None
    _parked: dict[int, asyncio.Future[st.Envelope | None]] | None = None
    parts: tuple[float, float, float, float] | None = None  # as `marks`, of an attempt that is followed by a backoff
    started: float = 0.0  # of this attempt; run clock
    ended_attempt: float = 0.0
    queued_at_start: float = 0.0
    span_id: str | None = None
    marks: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)  # queued, backoff, waiting, blocked at the end of the attempt before
    emitted_before: int = 0
    measured_before: int = 0
    parking: Parking | None = None
    _permit: Permit | None = None
    _permit_lock: asyncio.Lock | None = None
    _timeout: asyncio.Timeout | None = None
    ended_at: float = 0.0
    task: asyncio.Task[None]

    def __init__(self, runner: Runner, step: BoundStep, execution: st.Execution, now: float) -> None:
        self.runner = runner
        self.step = step
        self.execution = execution
        inputs = execution.inputs
        events = (inputs[0].event,) if len(inputs) == 1 else tuple([envelope.event for envelope in inputs])
        headers = inputs[0].headers if inputs else None
        self.call: StepCall = StepCall(runner.call, step.config, execution.id, events, inputs, _causes, execution.ready_at, now, headers)
        self.call._scope = self  # until it ends: they know each other
        queued = now - execution.ready_at
        if queued > 0:
            self.call.queued = queued

    @property
    def context(self) -> Context[Any]:
        """The Context of this execution; made when somebody asks."""
        if self._context is None:
            self._context = Context._inside(self)
        return self._context

    # --- attempts ---

    def begin_attempt(self) -> None:
        """Start counting anew; a repeated call of the same order is then the same call."""
        call, execution = self.call, self.execution
        if call.attempts:
            self._begin_again(call)
        else:
            self.started = call.started_at
        self.attempt = execution.failures + 1  # those before a resume count
        call.attempts += 1
        if execution.first_started_at is None:
            execution.first_started_at = call.started_at
        self.queued_at_start = call.queued

    def _begin_again(self, call: StepCall) -> None:
        write(self, last=False)  # of the attempt before
        self.started = self.runner.now()
        self.error = self.span_id = None
        self._order = None
        call.collecting = False
        self.emitted_before = len(call.emitted)
        self.measured_before = len(call.measurements)
        self.sent_calls = 0  # what a failed attempt sent in this process is sent again

    def delay_after(self, error: Exception) -> float | None:
        """Ask the retry policy; None: the step failed for good."""
        policy = self.step.policy
        if policy is None or self.runner.is_over or isinstance(error, _NEVER_RETRIED):
            return None
        failures = self.execution.failures + 1
        now = self.runner.now()
        elapsed = now - (self.execution.first_started_at or now)
        seed = seed_for(self.runner.run_id, self.call.step, failures)
        return ask(policy, elapsed=elapsed, attempts=failures, error=error, seed=seed)

    def retry_info(self) -> RetryInfo:
        """Return how often this execution was retried."""
        execution = self.execution
        started, failed_at = execution.first_started_at, execution.last_failed_at
        return RetryInfo(
            retry_number=execution.failures,
            elapsed_seconds=0.0 if started is None else self.runner.now() - started,
            last_exception=execution.last_error,
            last_failed_at=None if failed_at is None else datetime.fromtimestamp(failed_at, UTC),
        )

    async def back_off(self, delay: float, error: Exception) -> None:
        """Give the slot back for `delay` seconds after this error, then wait for one."""
        runner, call = self.runner, self.call
        self.parts = (call.queued, call.backoff, call.waiting, call.blocked)  # of the attempt that failed; what follows is not its own
        timer = runner.state.seq + 1  # the reducer takes the next number for it
        began = runner.now()
        runner.apply(st.AttemptFailed(self.execution.id, delay, began, error))
        self._leave_waits()
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
        """Wait for a permit of the step's shared limit, one for all its branches; the time counts as queued."""
        limit = self.step.config.limit
        if limit is None:
            return
        self._permit_lock = self._permit_lock or asyncio.Lock()
        async with self._permit_lock:
            if self._permit is not None or self.ended:
                return
            began = self.runner.now()
            try:
                self._permit = await acquire(self.runner, limit)
            finally:
                waited = self.runner.now() - began
                self.call.limit_waits = (*self.call.limit_waits, (limit.name, waited))
                self.call.queued += waited if self.parking is None else 0.0  # a parked attempt counts it when it goes on
        if self.ended:  # a task that the step left behind asked for it
            self.release_limit()

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
        check_wait(event_type, question, waiter_id, requirements, timeout)
        key = self._key("wait", waiter_id)
        known, answer = self.recall(key)
        if known and answer is None:  # before a resume
            raise TimeoutError(_NO_ANSWER.format(event_type.__name__))
        if known:
            return cast("Event", answer)
        runner = self.runner
        wait_id = runner.state.seq + 1  # the reducer takes the next number for it
        opened = runner.now()
        subclasses = self.step.config.accept_event_subclasses
        execution = self.execution
        runner.apply(st.OpenWait(execution.id, key, event_type, opened, subclasses, waiter_id, requirements, question, timeout))
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
        parking = self.parking = self.parking or Parking(call, self._timeout, opened)
        parking.open += 1
        ready: float | None = None
        self.release_limit()
        envelope: st.Envelope | None = None
        try:
            envelope = await self._parked_on(wait_id)
            outcome = "timeout" if envelope is None else "success"
            ready = self.execution.ready_at
            await self.acquire_limit()
        except asyncio.CancelledError:
            if not runner.is_over:
                runner.apply(st.AbandonWait(wait_id))
            if call.cancel_reason == "suspended":
                outcome = "suspended"
            raise
        finally:
            parking.open -= 1
            if not parking.open:
                self.end_parking(parking, ready)
            self._notice_wait_end(wait_id, event_type, outcome, opened, envelope)
        if envelope is None:
            raise TimeoutError(_NO_ANSWER.format(event_type.__name__))
        return envelope

    def end_parking(self, parking: Parking, ready: float | None = None) -> None:
        """Let the clocks of the attempt go on: it waits no more."""
        if parking is self.parking:  # not of an attempt before, left behind
            self.parking = None
            parking.end(self.runner.now(), ready, self._timeout)

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
            answer: st.Envelope | None = await future
        finally:
            self._parked.pop(number, None)
        return answer

    def resume(self, number: int, answer: st.Envelope | None) -> None:
        """Let the coroutine that is parked on this wait or timer go on, if it is."""
        future = self._parked.get(number) if self._parked else None
        if future is not None and not future.done():
            future.set_result(answer)

    def _leave_waits(self) -> None:
        """Cancel the waits of tasks that the step left behind: the reducer has closed them, so nobody answers."""
        for future in tuple((self._parked or {}).values()):
            future.cancel()

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
        if not self.ended:  # a task that the step left behind has found it
            self.runner.apply(st.Remember(self.execution.id, key, value))

    def collect(self, event: Event, expected: Sequence[type[Event]], buffer: str) -> list[Event] | None:
        """Add an event to a join; see `Context.collect_events`."""
        check_collect(self, event, expected, buffer)
        if not expected:
            return []
        key = self._key(f"collect:{buffer}", None)
        known, answer = self.recall(key)
        if not known:
            on_loop(self, self._collect, st.Collect(self.execution.id, key, event, buffer, expected))
            _, answer = self.recall(key)
        self.call.collecting = answer is None
        return cast("list[Event] | None", answer)

    def _collect(self, asked: st.Collect) -> None:
        if self.ended:  # while a thread that the step left behind was on its way here
            raise ContextStateError(
                f"ctx.collect_events was called after step `{self.execution.step}` had ended; await what you start in it"
            )
        self.runner.collect(self, asked)

    # --- ending ---

    def cancel(self, reason: str) -> None:
        """Ask the step to stop."""
        self.call.cancel_reason = reason
        for helper in tuple(self.helpers or ()):
            helper.cancel(reason)
        if not (self.runner.task.cancelling() and self.task.cancelling()):  # a loop that closes cancelled both: not again in the cleanup
            self.task.cancel(reason)

    def abandon(self, why: str) -> None:
        """Make the Context of a task or thread that will not stop unusable; a later attempt gets a new one."""
        if self._context is not None:
            self._context._dead = why
            self._context = None

    def close(self) -> None:
        """End for good: the Context can only send from now on."""
        self.ended = True
        self._context = None  # they know each other: a cycle, which only the garbage collector would free
        if self._permit is not None:
            self.release_limit()
        if self._parked:
            self._leave_waits()
        if self.helpers:
            for helper in tuple(self.helpers):
                helper.cancel("step ended")

    @property
    def is_silent(self) -> bool:
        """Whether nothing has followed from it, and nothing will."""
        return not self.call.emitted and not self.call.collecting

    def completion(self, events: Sequence[Event], *, stream: bool, at: float) -> st.Complete:
        """Return what the run's state hears when this execution has ended with these events; `stream`: it returned a list."""
        call = self.call
        held_back = self.runner.settings.stepwise
        return st.Complete(call.execution, events, at, call._outgoing, call.span_context, stream, not events and self.is_silent, held_back)


def _causes(inputs: tuple[st.Envelope, ...]) -> tuple[Cause, ...]:
    return tuple([cause_of(envelope) for envelope in inputs])


def cause_of(envelope: st.Envelope) -> Cause:
    """Return where an event came from, without the event."""
    return Cause(
        event_id=envelope.id,
        event_type=envelope.type_name,
        step=envelope.source_step,
        execution=envelope.source,
        span_context=envelope.span_context,
        headers=envelope.headers,
    )
