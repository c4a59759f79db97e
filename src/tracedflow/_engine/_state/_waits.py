"""`wait_for_event`: opened, answered early or late, given up."""

from __future__ import annotations

from collections import deque

from ...events import Event, HumanResponseEvent, InputRequiredEvent
from ._commands import CancelTimer, Command, Publish, SetTimer
from ._inputs import AbandonWait, OpenWait
from ._lanes import park, regain, resume_branches, take, wake
from ._model import Envelope, Execution, RunState, Wait, value_of


def open_wait(state: RunState, asked: OpenWait, out: list[Command]) -> None:
    """Open a wait, unless an event that came before answers it."""
    execution = state.executions[asked.execution]
    if asked.event_type not in state.awaited_types:
        state.awaited_types += (asked.event_type,)
    deadline = None if asked.timeout is None else asked.at + asked.timeout
    wait = Wait(
        state.next_id(),
        execution.id,
        asked.key,
        asked.event_type,
        asked.subclasses,
        asked.waiter_id,
        asked.requirements,
        asked.at,
        deadline,
    )
    early = _early_answer(state, wait, after=_ask(state, execution, asked, out))
    if early is not None:
        take(state, early)
        execution.remember(wait.key, early.event)
        if state.questions and isinstance(early.event, HumanResponseEvent):
            state.questions -= 1
        return
    state.add_wait(wait)
    if asked.timeout is not None:
        out.append(SetTimer(wait.id, asked.timeout))
    park(state, execution, "parked", out)


def _ask(state: RunState, execution: Execution, asked: OpenWait, out: list[Command]) -> int:
    """Publish the question of a wait, once in the life of the execution; return the last event that cannot answer it."""
    if asked.question is None:
        return 0
    asked_key = f"asked:{asked.key}"
    if not (execution.memo and asked_key in execution.memo):
        execution.remember(asked_key, state.seq)
        if isinstance(asked.question, InputRequiredEvent):
            state.questions += 1
        out.append(Publish(asked.question, execution.id))
    assert execution.memo is not None
    return int(execution.memo[asked_key])


def _early_answer(state: RunState, wait: Wait, *, after: int) -> Envelope | None:
    """Return a held event that answers the wait. One that asked takes only what came `after` that or names it: never a stale approval."""
    for kind, box in state.held.items():
        if not (kind is wait.event_type or (wait.subclasses and issubclass(kind, wait.event_type))):
            continue
        for envelope in box:
            named = bool(wait.requirements) or (wait.waiter_id is not None and value_of(envelope.event, "waiter_id") == wait.waiter_id)
            if wait.wants(envelope.event) and (named or envelope.id > after):
                box.remove(envelope)
                return envelope
    return None


def matching_wait(state: RunState, event: Event) -> Wait | None:
    """Return the oldest wait that an event answers."""
    found = (_first(state.waits_by.get(group, {}), event) for group in (type(event), None))
    return min((wait for wait in found if wait is not None), key=lambda wait: wait.id, default=None)


def _first(waits: dict[int, Wait], event: Event) -> Wait | None:
    return next((wait for wait in waits.values() if wait.wants(event)), None)


def answer(state: RunState, wait: Wait, envelope: Envelope, out: list[Command]) -> None:
    """Let the step that waits go on with an event."""
    execution = state.executions[wait.execution]
    take(state, envelope)
    state.drop_wait(wait.id)
    if wait.deadline is not None:
        out.append(CancelTimer(wait.id))
    execution.remember(wait.key, envelope.event)
    wake(state, execution, wait.id, envelope, envelope.at, out)


def abandon_wait(state: RunState, abandoned: AbandonWait, out: list[Command]) -> None:
    """Forget a wait whose step goes on without an answer."""
    wait = state.drop_wait(abandoned.wait)
    if wait is None:
        execution = _unresumed(state, abandoned.wait)
    else:
        execution = state.executions[wait.execution]
        if wait.deadline is not None:
            out.append(CancelTimer(wait.id))
    if execution is not None:
        regain(state, execution)
        resume_branches(state.lanes[execution.step], execution, out)


def _unresumed(state: RunState, wait: int) -> Execution | None:
    """Return the execution whose wait is over and which waits for a slot; it does so no more."""
    for lane in state.lanes.values():
        for resuming in lane.resuming:
            if resuming[1] == wait:
                lane.resuming = deque(other for other in lane.resuming if other[1] != wait)
                execution = state.executions[resuming[0]]
                execution.resuming -= 1
                return execution
    return None


def close_waits(state: RunState, execution: Execution, out: list[Command]) -> None:
    """Forget the waits of an execution that ended or tries again, and those that are over and wait for a slot."""
    if execution.resuming:  # else it is in none: looking through all of them for each that ends would cost n²
        lane = state.lanes[execution.step]
        lane.resuming = deque(resuming for resuming in lane.resuming if resuming[0] != execution.id)
        execution.resuming = 0
    for wait in state.waits_of(execution.id):
        state.drop_wait(wait.id)
        if wait.deadline is not None:
            out.append(CancelTimer(wait.id))
