"""The shortest ways of `Complete` and `Send`, which most events go: no wait is open, and no list, join or person is in play.

What they change and return is what `reduce` does, at half the price; a property test holds them to it.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..events import Event
from ._commands import Command, Routed
from ._lanes import admit, pump
from ._model import Envelope, Execution, Routes, RunState


def complete(
    state: RunState,
    done: Execution,
    event: Event,
    at: float,
    headers: Mapping[str, str] | None,
    span_context: object | None,
    routes: Routes,
) -> list[Command] | None:
    """End an execution with one event, which one step takes. None: it is not that simple, and nothing has changed."""
    step = routes.only_taker(type(event))
    lane = state.lanes[done.step]
    if step is None or state.waits or lane.resuming or state.status != "running" or not done.holds_slot:
        return None
    del state.executions[done.id]
    lane.in_use -= 1
    out = _give(state, done, event, at, headers, span_context, step)
    if lane.ready:
        pump(state, lane, out)
    return out


def send(
    state: RunState,
    source: Execution,
    event: Event,
    at: float,
    headers: Mapping[str, str] | None,
    span_context: object | None,
    routes: Routes,
) -> list[Command] | None:
    """Send an event, which one step takes, from an execution. None: it is not that simple, and nothing has changed."""
    step = routes.only_taker(type(event))
    if step is None or state.waits or state.status != "running":
        return None
    source.sends += 1
    return _give(state, source, event, at, headers, span_context, step)


def _give(
    state: RunState, source: Execution, event: Event, at: float, headers: Mapping[str, str] | None, span_context: object | None, step: str
) -> list[Command]:
    state.seq += 1
    envelope = Envelope(state.seq, event, at, source.id, source.step, headers, span_context)
    envelope.recoveries = source.inputs[0].recoveries  # there is one input where there are no joins
    state.tally(type(event)).sent += 1
    out: list[Command] = [Routed(envelope, (step,), False)]
    admit(state, step, (envelope,), at, (), out)
    return out
