"""Slots: which executions of a step run, which wait for a slot, which are parked."""

from __future__ import annotations

from collections import deque
from typing import Literal, Protocol

from ._commands import Command, Resume
from ._model import Envelope, Execution, Lane, RunState


def take(state: RunState, envelope: Envelope) -> None:
    """Give an event its fate: a step or a wait has it."""
    if not envelope.taken:
        envelope.taken = True
        state.tallies[type(envelope.event)].consumed += 1


class Starts(Protocol):
    """What takes the executions that start."""

    def append(self, execution: Execution, /) -> object:
        """Take one more."""
        ...


def start(state: RunState, lane: Lane, execution: Execution, out: Starts) -> None:
    """Let an execution run: it takes a slot."""
    lane.in_use += 1
    execution.holds_slot = True
    execution.phase = "running"
    for envelope in execution.inputs:
        if not envelope.taken:
            envelope.taken = True
            state.tallies[type(envelope.event)].consumed += 1
    out.append(execution)


def pump(state: RunState, lane: Lane, out: list[Command]) -> None:
    """Give free slots to parked executions that may go on, then to queued ones, in order."""
    while lane.resuming and lane.in_use < lane.slots:
        execution_id, parked_on, answer = lane.resuming.popleft()
        execution = state.executions[execution_id]
        execution.resuming -= 1
        resume(lane, execution, parked_on, answer, out)
        resume_branches(lane, execution, out)
    start_queued(state, lane, out)


def start_queued(state: RunState, lane: Lane, out: Starts) -> None:
    """Give free slots to queued executions, in order."""
    while lane.ready and lane.in_use < lane.slots:
        execution = state.executions[lane.ready.popleft()]
        state.queued -= 1
        start(state, lane, execution, out)


def resume(lane: Lane, execution: Execution, parked_on: int, answer: Envelope | None, out: list[Command]) -> None:
    """Let a parked execution go on: it takes a slot, unless it has one."""
    if not execution.holds_slot:
        lane.in_use += 1
        execution.holds_slot = True
    execution.phase = "running"
    execution.retry_at = None
    out.append(Resume(execution.id, parked_on, answer))


def resume_branches(lane: Lane, execution: Execution, out: list[Command]) -> None:
    """Let its other branches go on that are ready to: its slot is for all of them, and it may await them before it gives it back."""
    if not execution.resuming:
        return
    found = [ready for ready in lane.resuming if ready[0] == execution.id]
    lane.resuming = deque(ready for ready in lane.resuming if ready[0] != execution.id)
    for ready in found:
        execution.resuming -= 1
        resume(lane, execution, ready[1], ready[2], out)


def regain(state: RunState, execution: Execution) -> None:
    """Count an execution whose code runs on, whether a slot is free or not: it may be one over the limit."""
    execution.phase = "running"
    if not execution.holds_slot:
        execution.holds_slot = True
        state.lanes[execution.step].in_use += 1


def park(state: RunState, execution: Execution, phase: Literal["parked", "backoff"], out: list[Command]) -> None:
    """Take an execution out of its slot, and give the slot to the next."""
    execution.phase = phase
    if execution.holds_slot:
        execution.holds_slot = False
        lane = state.lanes[execution.step]
        lane.in_use -= 1
        pump(state, lane, out)


def wake(state: RunState, execution: Execution, parked_on: int, answer: Envelope | None, at: float, out: list[Command]) -> None:
    """Let a parked execution go on as soon as a slot is free."""
    lane = state.lanes[execution.step]
    execution.ready_at = at
    if execution.holds_slot:  # another branch of the same step took the slot back already
        resume(lane, execution, parked_on, answer, out)
        return
    lane.enqueue_resuming((execution.id, parked_on, answer))
    execution.resuming += 1
    pump(state, lane, out)


def admit(state: RunState, step: str, inputs: tuple[Envelope, ...], at: float, scopes: tuple[int, ...], out: Starts) -> Execution:
    """Make a step execution: it starts if there is a slot and nothing before it, else it queues."""
    state.seq = number = state.seq + 1
    execution = state.executions[number] = Execution(number, step, inputs, at, scopes)
    if scopes:
        state.streams[scopes[-1]].live += 1
    lane = state.lanes[step]
    if lane.in_use < lane.slots and not lane.ready and not lane.resuming:
        start(state, lane, execution, out)
    else:
        state.queued += 1
        lane.enqueue(number)
    return execution
