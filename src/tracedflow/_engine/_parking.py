"""Step executions that wait: for an event, or for their next attempt. All that is awaited there is awaited here."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from ..events import Event
from ..middleware import WaitEnded, WaitStarted
from . import _state as st
from ._causes import cause_of
from ._permits import acquire_for

if TYPE_CHECKING:
    from ..middleware import StepCall
    from ..records import Outcome
    from ._scope import StepScope

_NO_ANSWER = "no {} came within the timeout of this wait_for_event"


class Parking:
    """The time that one attempt is parked, in run clock seconds: from the first open wait to the end of the last.

    However many of its branches wait at once, it counts once, and its timeout stands still.
    """

    __slots__ = ("_call", "_left", "_since", "open")

    def __init__(self, call: StepCall, timeout: asyncio.Timeout | None, since: float) -> None:
        self.open: int = 0  # waits
        self._call = call
        self._since = since
        self._left: float | None = None
        when = timeout.when() if timeout is not None else None
        if timeout is not None and when is not None:
            self._left = when - asyncio.get_running_loop().time()
            timeout.reschedule(None)

    def end(self, now: float, ready: float | None, timeout: asyncio.Timeout | None) -> None:
        """Let the timeout go on; None: it is over. Until `ready` the attempt waited, from then it was queued; None: it only waited."""
        if timeout is not None and self._left is not None:
            timeout.reschedule(asyncio.get_running_loop().time() + self._left)
        call, since = self._call, self._since
        until = now if ready is None else max(ready, since)
        call.queued += now - until
        call.waiting += until - since
        call.interruptions += (("waiting", since, until),) if until == now else (("waiting", since, until), ("queued", until, now))


async def wait(
    scope: StepScope,
    event_type: type[Event],
    question: Event | None,
    waiter_id: str | None,
    requirements: dict[str, Any],
    timeout: float | None,
) -> Event:
    """Park until an event answers; see `Context.wait_for_event`."""
    key = scope.next_key("wait", waiter_id)
    known, answer = scope.recall(key)
    if known and answer is None:  # before a resume
        raise TimeoutError(_NO_ANSWER.format(event_type.__name__))
    if known:
        return cast("Event", answer)
    runner = scope.runner
    wait_id = runner.state.seq + 1  # the reducer takes the next number for it
    opened = runner.now()
    subclasses = scope.step.config.accept_event_subclasses
    execution = scope.execution
    runner.apply(st.OpenWait(execution.id, key, event_type, opened, subclasses, waiter_id, requirements, question, timeout))
    known, answer = scope.recall(key)
    if not known:
        _tell_started(scope, wait_id, event_type, waiter_id, timeout, opened)
        answer = (await _park(scope, wait_id, event_type, opened)).event
    return cast("Event", answer)


def _tell_started(scope: StepScope, wait_id: int, event_type: type[Event], waiter_id: str | None, timeout: float | None, at: float) -> None:
    chain = scope.runner.chain
    if chain.hears(WaitStarted):
        chain.notice(
            WaitStarted(
                run=scope.runner.call, at=at, call=scope.call, wait_id=wait_id, event_type=event_type.__name__, waiter_id=waiter_id,
                timeout=timeout,
            )
        )  # fmt: skip


async def _park(scope: StepScope, wait_id: int, event_type: type[Event], opened: float) -> st.Envelope:
    call, runner = scope.call, scope.runner
    outcome: Outcome = "cancelled"
    parking = scope.parking = scope.parking or Parking(call, scope._timeout, opened)
    parking.open += 1
    ready: float | None = None
    scope.release_limit()
    envelope: st.Envelope | None = None
    try:
        envelope = await _parked_on(scope, wait_id)
        outcome = "timeout" if envelope is None else "success"
        ready = scope.execution.ready_at
        await acquire_for(scope)
    except asyncio.CancelledError:
        if not runner.is_over:
            runner.apply(st.AbandonWait(wait_id))
        if call.cancel_reason == "suspended":
            outcome = "suspended"
        raise
    finally:
        parking.open -= 1
        if not parking.open:
            scope.end_parking(parking, ready)
        _tell_ended(scope, wait_id, event_type, outcome, opened, envelope)
    if envelope is None:
        raise TimeoutError(_NO_ANSWER.format(event_type.__name__))
    return envelope


def _tell_ended(
    scope: StepScope, wait_id: int, event_type: type[Event], outcome: Outcome, opened: float, envelope: st.Envelope | None
) -> None:
    runner = scope.runner
    if not runner.chain.hears(WaitEnded):
        return
    now = runner.now()
    cause = None if envelope is None else cause_of(envelope)
    runner.chain.notice(
        WaitEnded(
            run=runner.call, at=now, call=scope.call, wait_id=wait_id, event_type=event_type.__name__, outcome=outcome,
            duration=now - opened, cause=cause,
        )
    )  # fmt: skip


async def _parked_on(scope: StepScope, number: int) -> st.Envelope | None:
    if scope._parked is None:
        scope._parked = {}
    future = scope._parked[number] = scope.runner.loop.create_future()
    try:
        answer: st.Envelope | None = await future
    finally:
        scope._parked.pop(number, None)
    return answer


async def back_off(scope: StepScope, delay: float, error: Exception) -> None:
    """Give the slot back for `delay` seconds after this error, then wait for one."""
    runner, call = scope.runner, scope.call
    scope.parts = (call.queued, call.backoff, call.waiting, call.blocked)  # of the attempt that failed; what follows is not its own
    timer = runner.state.seq + 1  # the reducer takes the next number for it
    began = runner.now()
    runner.apply(st.AttemptFailed(scope.execution.id, delay, began, error))
    scope.leave_waits()
    if delay <= 0:
        return
    scope.release_limit()
    await _parked_on(scope, timer)
    ready = scope.execution.ready_at
    call.backoff += ready - began
    call.queued += max(0.0, runner.now() - ready)
    await acquire_for(scope)
