"""`collect_events`: what a join has gathered, and its full sets."""

from __future__ import annotations

from collections import Counter

from ...events import Event
from ._commands import Joined, Joining
from ._inputs import Collect
from ._model import Buffer, Envelope, Execution, RunState


def join(state: RunState, execution: Execution, asked: Collect) -> list[Envelope] | None:
    """Add an event to a join; return a full set if there is one. The answer goes to the execution's memo."""
    expected = asked.expected
    slot = (execution.step, asked.buffer)
    buffer = state.buffers.get(slot)
    if buffer is None:
        buffer = state.buffers[slot] = Buffer(expected)
    buffer.expected = expected
    buffer.add(_envelope_of(execution, asked.event))
    # The size is looked at first: comparing the sets on every call would make a join of n events cost n².
    collected = _full_set(buffer) if buffer.size >= len(expected) else None
    if collected is None:
        execution.remember(asked.key, None)
        return None
    execution.remember(asked.key, [envelope.event for envelope in collected])
    for envelope in collected:
        state.count_collected(envelope)
    if buffer.size == 0:
        del state.buffers[slot]
    return collected


def told(state: RunState, asked: Collect, collected: list[Envelope] | None) -> Joined | Joining:
    """Return what is to be told of an event that a join took."""
    if collected is not None:
        return Joined(asked.execution, collected)
    buffer = state.buffers[state.executions[asked.execution].step, asked.buffer]
    return Joining(asked.execution, type(asked.event), asked.buffer, buffer.size, len(asked.expected))


def _envelope_of(execution: Execution, event: Event) -> Envelope:
    for envelope in execution.inputs:
        if envelope.event is event:
            return envelope
    # Made by the step itself: it was never sent, and does not count.
    made = Envelope(0, event, execution.ready_at, execution.id, execution.step)
    made.taken = made.collected = True
    return made


def _full_set(buffer: Buffer) -> list[Envelope] | None:
    """Take one full set out of the buffer, in expected order; None if it is not there."""
    if any(len(buffer.items.get(kind, ())) < count for kind, count in _counts(buffer).items()):
        return None
    buffer.size -= len(buffer.expected)
    return [buffer.items[kind].popleft() for kind in buffer.expected]


def _counts(buffer: Buffer) -> dict[type[Event], int]:
    """Return how many of each class are expected, counted anew only when that changes: a surplus asks for every event."""
    expected = tuple(buffer.expected)
    if buffer.counted is None or buffer.counted[0] != expected:
        buffer.counted = (expected, dict(Counter(expected)))
    return buffer.counted[1]
