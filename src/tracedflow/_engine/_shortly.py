"""The short way of what most steps do: end with one event, end with none, send one. See `_state._shortcuts` for when it is open."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..events import Event
from ..middleware import JoinWaiting
from . import _announce
from . import _state as st

if TYPE_CHECKING:
    from ..middleware import StepResult
    from ._runner import Runner
    from ._scope import StepScope


def completed(runner: Runner, scope: StepScope, result: StepResult, at: float) -> bool:
    """End an execution. False: it is not that simple, and nothing has changed."""
    if result is None:
        return st.end(runner.state, scope.execution, scope.is_silent, at, runner.graph, runner.ready)
    if isinstance(result, list):
        return _fanned_out(runner, scope, result, at)
    call = scope.call
    sent = st.complete(runner.state, scope.execution, result, at, call._outgoing, call.span_context, runner.graph, runner.ready)
    if sent is None:
        return False
    _announce.account(runner, call, sent)
    return True


def _fanned_out(runner: Runner, scope: StepScope, events: list[Event], at: float) -> bool:
    call = scope.call
    sent = st.fan_out(runner.state, scope.execution, events, at, call._outgoing, call.span_context, runner.graph, runner.ready)
    for envelope in sent or ():
        _announce.account(runner, call, envelope)
    return sent is not None


def sent(runner: Runner, scope: StepScope, event: Event, at: float) -> bool:
    """Send an event from an execution. False: it is not that simple, and nothing has changed."""
    call = scope.call
    envelope = st.send(runner.state, scope.execution, event, at, call._outgoing, call.span_context, runner.graph, runner.ready)
    if envelope is None:
        return False
    _announce.account(runner, call, envelope)
    if runner.ready:
        runner.lead.take()
    return True


def joined(runner: Runner, scope: StepScope, asked: st.Collect) -> None:
    """Add an event to a join for an execution."""
    collected = st.join(runner.state, scope.execution, asked)
    if collected is not None or runner.chain.hears(JoinWaiting):
        _announce.joined(runner, st.told(runner.state, asked, collected))
