"""Lists: the stream that a returned list opens, what its steps collect when it closes, and steps that join several events."""

from __future__ import annotations

from collections import deque

from ._commands import Command, Dropped
from ._lanes import Starts, admit
from ._model import Drop, Envelope, Routes, RunState, Stream


def open_stream(state: RunState, producer: str, outer: tuple[int, ...]) -> Stream:
    """Open a stream inside the one that its producer is in; it stays open until `leave` is called for whoever opened it."""
    stream = Stream(state.next_id(), producer, outer, live=1)
    state.streams[stream.id] = stream
    if outer:
        state.streams[outer[-1]].live += 1
    return stream


def leave(state: RunState, scopes: tuple[int, ...], at: float, routes: Routes, out: Starts) -> None:
    """Something in the innermost stream has ended; when it was the last, the stream closes and what collects it starts."""
    stream = state.streams[scopes[-1]]
    stream.live -= 1
    if stream.live:
        return
    # A step may return what it did not declare: what has members is fed, whatever the graph says.
    for step in dict.fromkeys((*routes.closed_by(stream.producer), *stream.members)):
        if step not in stream.fired:
            _fire(state, stream, step, at, out)
    del state.streams[stream.id]
    if stream.outer:
        leave(state, stream.outer, at, routes, out)


def gather(state: RunState, envelope: Envelope, step: str, routes: Routes, out: Starts) -> bool:
    """Add a member to what a step collects; one that takes the first n starts with the n-th, and needs no more: False."""
    stream = state.streams[envelope.scopes[-1]]
    if step in stream.fired:
        return False
    members = stream.members.setdefault(step, [])
    members.append(envelope)
    if len(members) == routes.take(step):
        _fire(state, stream, step, envelope.at, out)
    return True


def _fire(state: RunState, stream: Stream, step: str, at: float, out: Starts) -> None:
    stream.fired.add(step)
    members = stream.members.pop(step, [])
    for envelope in members:
        state.count_collected(envelope)
    admit(state, step, tuple(members), at, stream.outer, out)


def ignore(state: RunState, envelope: Envelope, out: list[Command]) -> None:
    """Drop a member that no step needs."""
    envelope.taken = True
    kind = type(envelope.event)
    state.tallies[kind].dropped += 1
    drop = Drop(envelope.id, kind, "not_needed", envelope.source, envelope.source_step, None)
    state.add_drop(drop)
    out.append(Dropped(drop, final=True))


def fill_slot(state: RunState, envelope: Envelope, step: str, kinds: int, slot: int, out: list[Command]) -> None:
    """Put an event into its slot of a step that joins several; the step starts with one event of each."""
    key = (step, envelope.scopes)
    slots = state.slots.get(key)
    if slots is None:
        slots = state.slots[key] = [deque() for _ in range(kinds)]
    slots[slot].append(envelope)
    if not all(slots):
        return
    joined = tuple(waiting.popleft() for waiting in slots)
    if not any(slots):
        del state.slots[key]
    for each in joined:
        state.count_collected(each)
    admit(state, step, joined, envelope.at, envelope.scopes, out)
