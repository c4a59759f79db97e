"""One live step execution: what its Context, its attempts and its end need. Knows nothing of the chain around it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ..context import Context
from ..decorators import StepConfig
from ..errors import ContextStateError, StepCancelledError, StepResultError
from ..events import Event
from ..middleware import StepCall
from ..records import Outcome
from ..retry_policy import RetryInfo, RetryPolicy, ask, seed_for
from . import _state as st
from ._bridge import on_loop
from ._causes import causes_of
from ._parking import wait
from ._record import write
from ._results import NOTHING_YET, check_collect, check_wait

if TYPE_CHECKING:
    from ..limits import Limiter, Permit
    from ._parking import Parking
    from ._runner import Runner

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
    leads: int  # its first arguments, if it asks for no more: 1, the event; 2, the Context and the event. 0: it is called by keyword

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
    is_single = config.retry_policy is None and config.limit is None
    returns = frozenset(config.bare_return_types if config.is_fan_out else config.return_types)
    lists = frozenset(config.list_return_types)
    return BoundStep(
        config, fn, config.retry_policy, config.timeout, config.event_name, config.context_parameter, is_async, takes_one, is_plain,
        is_single, config.own_task, returns, lists, _leads(config, fn) if takes_one else 0,
    )  # fmt: skip


def _leads(config: StepConfig, fn: Callable[..., Any]) -> int:
    """Return how many arguments it takes without a keyword, if they are all. A wrapper's own signature counts, not the one it wraps."""
    wanted = [name for name in (config.context_parameter, config.event_name) if name is not None]
    first = list(inspect.signature(fn, follow_wrapped=False).parameters.values())[: len(wanted)]
    fits = [each.name for each in first if each.kind is not inspect.Parameter.KEYWORD_ONLY] == wanted
    return len(wanted) if fits and not config.resources else 0


class StepScope:
    """One live step execution: what its Context, its attempts and its end need. Never outlives its run."""

    # What few executions change stands on the class: there it costs nothing to open, and CPython gives an instance that sets more
    # than thirty attributes a dict.
    in_thread: bool = False
    error: str | None = None
    children: list[Runner] | None = None
    helpers: set[asyncio.Task[Any]] | None = None
    once_locks: dict[str, asyncio.Lock] | None = None
    parts: tuple[float, float, float, float] | None = None  # as `marks`, of an attempt that is followed by a backoff
    marks: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)  # queued, backoff, waiting, blocked at the end of the attempt before
    emitted_before: int = 0
    measured_before: int = 0
    parking: Parking | None = None
    _parked: dict[int, asyncio.Future[st.Envelope | None]] | None = None
    _permit: Permit | None = None
    _permit_lock: asyncio.Lock | None = None
    _timeout: asyncio.Timeout | None = None

    def __init__(self, runner: Runner, step: BoundStep, execution: st.Execution, now: float) -> None:
        self.runner = runner
        self.step = step
        self.execution = execution
        self.task: asyncio.Task[None]
        self.attempt: int = 0
        self.ended: bool = False
        self.sent_calls: int = 0
        self.outcome: Outcome = "skipped"
        self.returned: object = NOTHING_YET  # by the step itself
        self.started: float = 0.0  # of this attempt; run clock
        self.queued_at_start: float = 0.0
        self.ended_attempt: float = 0.0
        self.ended_at: float = 0.0
        self.span_id: str | None = None
        self._context: Context[Any] | None = None
        self._order: dict[str, int] | None = None
        inputs = execution.inputs
        events = (inputs[0].event,) if len(inputs) == 1 else tuple([envelope.event for envelope in inputs])
        headers = inputs[0].headers if inputs else None
        self.call: StepCall = StepCall(runner.call, step.config, execution.id, events, inputs, causes_of, execution.ready_at, now, headers)
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

    # --- limits ---

    def release_limit(self) -> None:
        """Give the permit back."""
        if self._permit is not None:
            self._permit.release()
            self._permit = None

    def holds(self, limit: Limiter) -> bool:
        """Whether this execution has a permit of the limit."""
        return self._permit is not None and self.step.config.limit is limit

    # --- parking ---

    def wait(self, event_type: Any, question: Any, waiter_id: Any, requirements: Any, timeout: Any) -> Coroutine[Any, Any, Event]:
        """Park until an event answers, when what the user gave is checked; see `Context.wait_for_event`."""
        check_wait(event_type, question, waiter_id, requirements, timeout)
        return wait(self, event_type, question, waiter_id, requirements, timeout)

    def end_parking(self, parking: Parking, ready: float | None = None) -> None:
        """Let the clocks of the attempt go on: it waits no more."""
        if parking is self.parking:  # not of an attempt before, left behind
            self.parking = None
            parking.end(self.runner.now(), ready, self._timeout)

    def resume(self, number: int, answer: st.Envelope | None) -> None:
        """Let the coroutine that is parked on this wait or timer go on, if it is."""
        future = self._parked.get(number) if self._parked else None
        if future is not None and not future.done():
            future.set_result(answer)

    def leave_waits(self) -> None:
        """Cancel the waits of tasks that the step left behind: the reducer has closed them, so nobody answers."""
        for future in tuple((self._parked or {}).values()):
            future.cancel()

    # --- the memo ---

    def next_key(self, kind: str, given: str | None) -> str:
        """Return what the next call of this kind is remembered by: the id that it was given, or its number."""
        if given is not None:
            return f"{kind}#{given}"
        if self._order is None:
            self._order = {kind: 1}
            return kind + ":1"
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

    def collect(self, event: Any, expected: Any, buffer: Any) -> list[Event] | None:
        """Add an event to a join, when what the user gave is checked; see `Context.collect_events`."""
        check_collect(self, event, expected, buffer)
        if not expected:
            return []
        execution = self.execution
        key = self.next_key("collect:" + buffer, None)
        if execution.memo is None or key not in execution.memo:
            on_loop(self, self._collect, st.Collect(execution.id, key, event, buffer, expected))
            assert execution.memo is not None
        answer: list[Event] | None = execution.memo[key]
        self.call.collecting = answer is None
        return answer

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
            self.leave_waits()
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
