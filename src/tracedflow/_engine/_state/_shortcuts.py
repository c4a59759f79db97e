"""The shortest ways of `Complete` and `Send`, which most events go: one step takes them, no wait is open, no person is in play.

They change the state as `reduce` does, with fewer objects on the way; a property test holds them to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...events import Event
from ._lanes import Starts, admit, start_queued
from ._model import Envelope, Execution, Routes, RunState
from ._streams import gather, leave, open_stream


def complete(
    state: RunState,
    done: Execution,
    event: Event,
    at: float,
    headers: Mapping[str, str] | None,
    span_context: object | None,
    routes: Routes,
    out: Starts,
) -> Envelope | None:
    """End an execution with one event, which one step takes. None: it is not that simple, and nothing has changed."""
    way = routes.ways[type(event)]
    lane = state.lanes[done.step]
    if way is None or state.waits or lane.resuming or state.status != "running" or not done.holds_slot:
        return None
    scopes = done.scopes
    step, as_list = way
    if as_list and (not scopes or step in state.streams[scopes[-1]].fired):
        return None
    del state.executions[done.id]
    lane.in_use -= 1
    envelope = _sent(state, done, event, at, headers, span_context)
    if scopes:
        envelope.scopes = scopes
    if as_list:
        gather(state, envelope, step, routes, out)
    else:
        admit(state, step, (envelope,), at, scopes, out)
    if scopes:
        leave(state, scopes, at, routes, out)
    if lane.ready:
        start_queued(state, lane, out)
    return envelope


def fan_out(
    state: RunState,
    done: Execution,
    events: Sequence[Event],
    at: float,
    headers: Mapping[str, str] | None,
    span_context: object | None,
    routes: Routes,
    out: Starts,
) -> list[Envelope] | None:
    """End an execution with a list of events, each of which one step takes. None: it is not that simple, and nothing has changed."""
    lane, ways = state.lanes[done.step], routes.ways
    if not events or state.waits or lane.resuming or state.status != "running" or not done.holds_slot:
        return None
    found = [ways[type(event)] for event in events]
    takers = [way[0] for way in found if way is not None and not way[1]]
    if len(takers) < len(found):
        return None
    del state.executions[done.id]
    lane.in_use -= 1
    scopes = (*done.scopes, open_stream(state, done.step, done.scopes).id)
    sent: list[Envelope] = []
    for event, step in zip(events, takers, strict=True):
        envelope = _sent(state, done, event, at, headers, span_context)
        envelope.scopes = scopes
        admit(state, step, (envelope,), at, scopes, out)
        sent.append(envelope)
    leave(state, scopes, at, routes, out)
    if done.scopes:
        leave(state, done.scopes, at, routes, out)
    if lane.ready:
        start_queued(state, lane, out)
    return sent


def end(state: RunState, done: Execution, silent: bool, at: float, routes: Routes, out: Starts) -> bool:
    """End an execution without an event. False: it is not that simple, and nothing has changed."""
    lane = state.lanes[done.step]
    if state.waits or lane.resuming or state.status != "running" or not done.holds_slot:
        return False
    del state.executions[done.id]
    lane.in_use -= 1
    if silent:
        state.silent[done.step] = state.silent.get(done.step, 0) + 1
    if done.scopes:
        leave(state, done.scopes, at, routes, out)
    if lane.ready:
        start_queued(state, lane, out)
    return True


def send(
    state: RunState,
    source: Execution,
    event: Event,
    at: float,
    headers: Mapping[str, str] | None,
    span_context: object | None,
    routes: Routes,
    out: Starts,
) -> Envelope | None:
    """Send an event, which one step takes, from an execution. None: it is not that simple, and nothing has changed."""
    way = routes.ways[type(event)]
    if way is None or way[1] or state.waits or state.status != "running":
        return None
    source.sends += 1
    envelope = _sent(state, source, event, at, headers, span_context)
    admit(state, way[0], (envelope,), at, (), out)
    return envelope


def _sent(
    state: RunState, source: Execution, event: Event, at: float, headers: Mapping[str, str] | None, span_context: object | None
) -> Envelope:
    state.seq = number = state.seq + 1
    envelope = Envelope(number, event, at, source.id, source.step, headers, span_context)
    inputs = source.inputs
    if len(inputs) != 1 or inputs[0].recoveries:
        envelope.recoveries = source.recoveries
    state.tallies[type(event)].sent += 1
    return envelope
