"""The shortest ways of `Complete` and `Send`, which most events go: no wait is open, and no list, join or person is in play.

They change the state as `reduce` does, with fewer objects on the way; a property test holds them to it.
"""

from __future__ import annotations

from collections.abc import Mapping

from ...events import Event
from ._lanes import Starts, admit, start_queued
from ._model import Envelope, Execution, Routes, RunState


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
    step = routes.only_taker(type(event))
    lane = state.lanes[done.step]
    if step is None or state.waits or lane.resuming or state.status != "running" or not done.holds_slot:
        return None
    del state.executions[done.id]
    lane.in_use -= 1
    envelope = _give(state, done, event, at, headers, span_context, step, out)
    if lane.ready:
        start_queued(state, lane, out)
    return envelope


def end(state: RunState, done: Execution, silent: bool, out: Starts) -> bool:
    """End an execution without an event. False: it is not that simple, and nothing has changed."""
    lane = state.lanes[done.step]
    if done.scopes or state.waits or lane.resuming or state.status != "running" or not done.holds_slot:
        return False
    del state.executions[done.id]
    lane.in_use -= 1
    if silent:
        state.silent[done.step] = state.silent.get(done.step, 0) + 1
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
    step = routes.only_taker(type(event))
    if step is None or state.waits or state.status != "running":
        return None
    source.sends += 1
    return _give(state, source, event, at, headers, span_context, step, out)


def _give(
    state: RunState,
    source: Execution,
    event: Event,
    at: float,
    headers: Mapping[str, str] | None,
    span_context: object | None,
    step: str,
    out: Starts,
) -> Envelope:
    state.seq = number = state.seq + 1
    envelope = Envelope(number, event, at, source.id, source.step, headers, span_context)
    recovered = source.inputs[0].recoveries  # there is one input where there are no joins
    if recovered:
        envelope.recoveries = recovered
    state.tally(type(event)).sent += 1
    admit(state, step, (envelope,), at, (), out)
    return envelope
