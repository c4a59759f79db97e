"""The shortest way of `Complete`: one event, which one step takes that has room for it. Most executions end so.

What it does to the state is what `reduce` does, which a property test holds it to.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..events import Event
from ._model import Envelope, Execution, Routes, RunState


def hop(
    state: RunState,
    done: Execution,
    event: Event,
    at: float,
    headers: Mapping[str, str] | None,
    span_context: object | None,
    routes: Routes,
) -> Execution | None:
    """End an execution with one event and start the one that follows; return that. None: it is not that simple, and nothing has changed."""
    step = routes.only_taker(type(event))
    if step is None or state.waits or state.status != "running" or not done.holds_slot:
        return None
    lane, target = state.lanes[done.step], state.lanes[step]
    if lane.ready or lane.resuming or not (target is lane or target.has_room):
        return None
    del state.executions[done.id]
    number = state.seq = state.seq + 2
    envelope = Envelope(number - 1, event, at, done.id, done.step, headers, span_context, True)
    envelope.recoveries = done.inputs[0].recoveries
    following = state.executions[number] = Execution(number, step, (envelope,), at, (), "running", True)
    lane.in_use -= 1
    target.in_use += 1
    tally = state.tally(type(event))
    tally.sent += 1
    tally.consumed += 1
    return following
