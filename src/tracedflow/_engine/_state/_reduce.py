"""The reducer: one small function for each input, and the routing of events between them."""

from __future__ import annotations

from collections import deque
from typing import assert_never

from ...events import HumanResponseEvent, InputRequiredEvent, StopEvent
from ._commands import CancelTimer, Command, Dropped, Finish, Publish, Resume, Returned, Routed, SetTimer
from ._inputs import (
    AbandonWait,
    AttemptFailed,
    Begin,
    Collect,
    Complete,
    Discard,
    End,
    Fire,
    Input,
    OpenWait,
    Recover,
    Remember,
    Restart,
    Send,
    SendOn,
    Streamed,
)
from ._joins import join, told
from ._lanes import admit, park, pump, regain, wake
from ._model import HELD_PER_TYPE, Drop, Envelope, Execution, Routes, RunState, Status, is_over
from ._streams import fill_slot, gather, ignore, leave, open_stream
from ._waits import abandon_wait, answer, close_waits, matching_wait, open_wait


def reduce(state: RunState, happened: Input, routes: Routes) -> list[Command]:
    """Change the state by one input and return what is to be done. Inputs after the end change nothing."""
    out: list[Command] = []
    if is_over(state) and not (isinstance(happened, Restart) and state.status == "suspended"):
        return out
    match happened:
        case Complete():
            _complete(state, happened, routes, out)
        case Send():
            _send(state, happened, routes, out)
        case SendOn():
            _send_on(state, happened, routes, out)
        case Discard():
            _discard(state, happened, routes, out)
        case Recover():
            _recover(state, happened, routes, out)
        case Collect():
            out.append(told(state, happened, join(state, state.executions[happened.execution], happened)))
        case Begin():
            _begin(state, happened, routes, out)
        case OpenWait():
            open_wait(state, happened, out)
        case AttemptFailed():
            _attempt_failed(state, happened, out)
        case Fire():
            _fire(state, happened, out)
        case AbandonWait():
            abandon_wait(state, happened, out)
        case Remember():
            _remember(state, happened)
        case Streamed():
            _streamed(state, happened, out)
        case End():
            _end(state, happened.status, out)
        case Restart():
            _restart(state, happened, routes, out)
        case _:
            assert_never(happened)
    return out


def _begin(state: RunState, begun: Begin, routes: Routes, out: list[Command]) -> None:
    state.status = "running"
    envelope = Envelope(state.next_id(), begun.event, begun.at, headers=begun.headers, span_context=begun.span_context)
    _route(state, envelope, routes.takers(type(begun.event)), routes, out)


def _send(state: RunState, sent: Send, routes: Routes, out: list[Command]) -> None:
    source = state.executions.get(sent.source) if sent.source is not None else None
    if source is not None:
        source.sends += 1
    envelope = Envelope(state.next_id(), sent.event, sent.at, sent.source, sent.source_step, sent.headers, sent.span_context)
    envelope.recoveries = source.recoveries if source is not None else ()
    takers = (sent.target,) if sent.target is not None else routes.takers(type(sent.event))
    _route(state, envelope, takers, routes, out)


def _complete(state: RunState, done: Complete, routes: Routes, out: list[Command]) -> None:
    execution = state.executions.pop(done.execution)
    lane = state.lanes[execution.step]
    if state.waits or lane.resuming:
        close_waits(state, execution, out)
    if execution.holds_slot:
        lane.in_use -= 1
    if done.silent:
        state.silent[execution.step] = state.silent.get(execution.step, 0) + 1
    scopes = execution.scopes
    stream = open_stream(state, execution.step, scopes) if done.stream else None
    if stream is not None:
        scopes = (*scopes, stream.id)
    recovered = execution.recoveries
    for number, event in enumerate(done.events):
        envelope = Envelope(state.next_id(), event, done.at, execution.id, execution.step, done.headers, done.span_context)
        if isinstance(event, StopEvent):
            _stop(state, envelope, out)
            _drop_late(state, done, execution, number + 1, out)
            return
        if scopes:
            envelope.scopes = scopes
        if recovered:
            envelope.recoveries = recovered
        if done.held_back:
            _hold_back(state, envelope, out)
        else:
            _route(state, envelope, routes.takers(type(event)), routes, out)
    if scopes:
        leave(state, scopes, done.at, routes, out)
    if stream is not None and execution.scopes:
        leave(state, execution.scopes, done.at, routes, out)
    if lane.ready or lane.resuming:
        pump(state, lane, out)


def _drop_late(state: RunState, done: Complete, execution: Execution, first: int, out: list[Command]) -> None:
    """Give what stands behind the StopEvent in a returned list its fate."""
    for event in done.events[first:]:
        envelope = Envelope(state.next_id(), event, done.at, execution.id, execution.step)
        state.tallies[type(event)].sent += 1
        out.append(Routed(envelope, (), False))
        _drop(state, envelope, "run_ended", None, out)


def _hold_back(state: RunState, envelope: Envelope, out: list[Command]) -> None:
    """Give an event to the caller of a stepwise run; the stream that it is a member of stays open meanwhile."""
    state.tallies[type(envelope.event)].sent += 1
    state.returned[envelope.id] = envelope
    if envelope.scopes:
        state.streams[envelope.scopes[-1]].live += 1
    out.append(Returned(envelope))


def _send_on(state: RunState, sent: SendOn, routes: Routes, out: list[Command]) -> None:
    envelope = state.returned.pop(sent.envelope)
    envelope.at = sent.at
    takers = (sent.target,) if sent.target is not None else routes.takers(type(envelope.event))
    _deliver(state, envelope, takers, routes, out)
    if envelope.scopes:
        leave(state, envelope.scopes, sent.at, routes, out)


def _discard(state: RunState, discarded: Discard, routes: Routes, out: list[Command]) -> None:
    for number in discarded.envelopes:
        envelope = state.returned.pop(number)
        _drop(state, envelope, "not_sent_on", None, out)
        if envelope.scopes:
            leave(state, envelope.scopes, discarded.at, routes, out)


def _stop(state: RunState, envelope: Envelope, out: list[Command]) -> None:
    assert isinstance(envelope.event, StopEvent)
    tally = state.tallies[type(envelope.event)]
    tally.sent += 1
    tally.streamed += 1
    envelope.taken = True
    out.append(Routed(envelope, (), False))
    out.append(Finish(envelope.event))
    _end(state, "completed", out)


def _route(state: RunState, envelope: Envelope, takers: tuple[str, ...], routes: Routes, out: list[Command]) -> None:
    state.tallies[type(envelope.event)].sent += 1
    _deliver(state, envelope, takers, routes, out)


def _deliver(state: RunState, envelope: Envelope, takers: tuple[str, ...], routes: Routes, out: list[Command]) -> None:
    """Give an event to every step and to the first wait that takes it; else to the stream, or hold it."""
    event = envelope.event
    kind = type(event)
    wait = matching_wait(state, event) if state.waits else None
    collecting = routes.collectors(kind) if envelope.scopes else ()
    everybody = (*takers, *collecting) if collecting else takers
    out.append(Routed(envelope, everybody, wait is not None))
    if state.questions and isinstance(event, HumanResponseEvent) and (takers or wait):
        state.questions -= 1
    for name in takers:
        if routes.has_joins:
            _admit_to(state, envelope, name, routes, out)
        else:
            admit(state, name, (envelope,), envelope.at, (), out)
    needed = [gather(state, envelope, name, routes, out) for name in collecting]
    if wait is not None:
        answer(state, wait, envelope, out)
    elif collecting and not takers and not any(needed):
        ignore(state, envelope, out)
    if isinstance(event, InputRequiredEvent):
        state.questions += 1
        out.append(Publish(event, envelope.source))
        if not everybody and wait is None:
            envelope.taken = True
            state.tallies[kind].streamed += 1
    elif not everybody and wait is None:
        _hold(state, envelope, routes, out)


def _admit_to(state: RunState, envelope: Envelope, step: str, routes: Routes, out: list[Command]) -> None:
    kinds = routes.slots(step)
    if kinds is None:
        admit(state, step, (envelope,), envelope.at, envelope.scopes, out)
    else:
        fill_slot(state, envelope, step, len(kinds), routes.slot(step, type(envelope.event)), out)


def _recover(state: RunState, failed: Recover, routes: Routes, out: list[Command]) -> None:
    """End a failed execution and give its failure to the handler, which takes its place in its stream."""
    execution = state.executions.pop(failed.execution)
    close_waits(state, execution, out)
    lane = state.lanes[execution.step]
    if execution.holds_slot:
        lane.in_use -= 1
    envelope = Envelope(state.next_id(), failed.event, failed.at, execution.id, execution.step, failed.headers, failed.span_context)
    envelope.scopes = execution.scopes
    envelope.recoveries = (*execution.recoveries, failed.handler)
    state.tallies[type(failed.event)].sent += 1
    out.append(Routed(envelope, (failed.handler,), False))
    admit(state, failed.handler, (envelope,), failed.at, execution.scopes, out)
    if execution.scopes:
        leave(state, execution.scopes, failed.at, routes, out)
    pump(state, lane, out)


def _attempt_failed(state: RunState, failed: AttemptFailed, out: list[Command]) -> None:
    execution = state.executions[failed.execution]
    execution.failures += 1
    execution.last_error, execution.last_failed_at = failed.error, failed.at
    execution.sends = execution.replayed = 0  # the next attempt sends everything again
    _forget_timeouts(execution)
    close_waits(state, execution, out)
    if failed.delay is None or failed.delay <= 0:
        regain(state, execution)  # the run is about to end, or the next attempt keeps the slot; a parked branch had given it back
        return
    timer = state.next_id()
    execution.retry_at = failed.at + failed.delay
    state.backoffs[timer] = execution.id
    out.append(SetTimer(timer, failed.delay))
    park(state, execution, "backoff", out)


def _forget_timeouts(execution: Execution) -> None:
    """Let the next attempt wait anew where this one waited in vain."""
    if execution.memo:
        execution.memo = {key: answer for key, answer in execution.memo.items() if answer is not None or not key.startswith("wait:")}


def _fire(state: RunState, fired: Fire, out: list[Command]) -> None:
    wait = state.drop_wait(fired.timer)
    if wait is not None:
        if wait.waiter_id is None:  # one that has an id may be asked again under it
            state.executions[wait.execution].remember(wait.key, None)
        wake(state, state.executions[wait.execution], wait.id, None, fired.at, out)
        return
    execution_id = state.backoffs.pop(fired.timer, None)
    if execution_id is not None:
        wake(state, state.executions[execution_id], fired.timer, None, fired.at, out)


def _remember(state: RunState, told: Remember) -> None:
    state.executions[told.execution].remember(told.key, told.value)


def _streamed(state: RunState, written: Streamed, out: list[Command]) -> None:
    execution = state.executions.get(written.execution) if written.execution is not None else None
    if execution is not None:
        execution.sends += 1
    if isinstance(written.event, InputRequiredEvent):
        state.questions += 1
    out.append(Publish(written.event, written.execution))


def _hold(state: RunState, envelope: Envelope, routes: Routes, out: list[Command]) -> None:
    kind = type(envelope.event)
    box = state.held.setdefault(kind, deque())
    if len(box) >= HELD_PER_TYPE:
        _drop(state, box.popleft(), "overflow", None, out)
    box.append(envelope)
    awaited = any(kind is waited or issubclass(kind, waited) for waited in state.awaited_types)
    if not awaited:
        drop = Drop(envelope.id, kind, "unclaimed", envelope.source, envelope.source_step, routes.near_miss(kind))
        out.append(Dropped(drop, final=False))


def _drop(state: RunState, envelope: Envelope, reason: str, near_miss: str | None, out: list[Command]) -> None:
    kind = type(envelope.event)
    envelope.taken = True  # it has its fate
    state.tallies[kind].dropped += 1
    drop = Drop(envelope.id, kind, reason, envelope.source, envelope.source_step, near_miss)
    state.add_drop(drop)
    out.append(Dropped(drop, final=True))


def _end(state: RunState, status: Status, out: list[Command]) -> None:
    """Give every event its fate and every timer its end. A suspended run keeps all, to be saved."""
    state.status = status
    if status == "suspended":
        return
    out.extend(CancelTimer(timer) for timer in (*state.backoffs, *(w.id for w in state.waits.values() if w.deadline is not None)))
    for envelope in list(state.pending()):
        _drop(state, envelope, "run_ended", None, out)


def _restart(state: RunState, restarted: Restart, routes: Routes, out: list[Command]) -> None:
    """Queue again whatever was live, in its old order, with its memo; a backoff keeps what is left of it."""
    state.status = "running"
    _catch_up(state, restarted, routes, out)
    if is_over(state):
        return
    state.waits.clear()
    state.waits_by.clear()
    state.backoffs.clear()
    for lane in state.lanes.values():
        lane.in_use = 0
        lane.ready = lane.resuming = ()
    state.queued = 0
    for execution in state.executions.values():
        _requeue(state, execution, restarted.at, out)
    for lane in state.lanes.values():
        pump(state, lane, out)


def _catch_up(state: RunState, restarted: Restart, routes: Routes, out: list[Command]) -> None:
    """Let what had happened before the state was saved, or was in a caller's hands, take effect; nothing starts yet."""
    found: list[Command] = []
    for completed in restarted.completed:
        if not is_over(state):
            _complete(state, completed, routes, found)
    for number in tuple(state.returned):
        if not is_over(state):
            _send_on(state, SendOn(number, restarted.at), routes, found)
    out.extend(command for command in found if not isinstance(command, (Execution, Resume, Returned)))


def _requeue(state: RunState, execution: Execution, at: float, out: list[Command]) -> None:
    execution.holds_slot = False
    execution.replayed += execution.sends
    execution.sends = 0
    execution.ready_at = at
    lane = state.lanes[execution.step]
    if execution.retry_at is not None and execution.retry_at > at:
        execution.phase = "backoff"
        timer = state.next_id()
        state.backoffs[timer] = execution.id
        out.append(SetTimer(timer, execution.retry_at - at))
        return
    execution.phase = "queued"
    execution.retry_at = None
    state.queued += 1
    lane.enqueue(execution.id)
