"""Commands that only inform: put on the account of who caused them, told to the layers, logged where somebody must know."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..events import Event, InternalDispatchEvent
from ..middleware import EventDropped, EventSent, EventStreamed, JoinWaiting, StepCall
from . import _state as st

if TYPE_CHECKING:
    from ._runner import Runner


def publish(runner: Runner, event: Event, execution: int | None) -> None:
    """Put an event on the stream, where the engine's own have no place that counts."""
    if isinstance(event, InternalDispatchEvent):
        runner.log.tell(event)
        return
    runner.log.append(event)
    if runner.chain.hears(EventStreamed):
        runner.chain.notice(
            EventStreamed(run=runner.call, at=runner.now(), call=_call_of(runner, execution), event_type=type(event).__name__)
        )
    parent = runner.parent
    if runner.settings.bubble and parent is not None and not parent.runner.log.closed:
        publish(parent.runner, event, parent.call.execution)


def routed(runner: Runner, command: st.Routed) -> None:
    """Put a sent event on its sender's account, and tell of it."""
    envelope = command.envelope
    scope = runner.scopes.get(envelope.source) if envelope.source is not None else None
    if scope is not None:
        account(runner, scope.call, envelope, command)
    elif runner.tells_sent:
        _tell_sent(runner, None, command)


def account(runner: Runner, call: StepCall, envelope: st.Envelope, command: st.Routed | None = None) -> None:
    """Put an event on its sender's account, and tell of it; without a command, it went the short way."""
    entry = (envelope.id, envelope.type_name)
    if call.emitted:
        call.emitted.append(entry)  # type: ignore[attr-defined]  # to layers it is a sequence
    else:
        call.emitted = [entry]
    if runner.tells_sent:
        _tell_sent(runner, call, command or st.Routed(envelope, _taken_by(runner, envelope), False))


def _taken_by(runner: Runner, envelope: st.Envelope) -> tuple[str, ...]:
    way = runner.graph.ways[type(envelope.event)]
    assert way is not None  # else it would not have gone the short way
    return way[:1]


def _tell_sent(runner: Runner, call: StepCall | None, sent: st.Routed) -> None:
    envelope = sent.envelope
    kind = envelope.type_name
    runner.chain.notice(
        EventSent(run=runner.call, at=envelope.at, call=call, event_id=envelope.id, event_type=kind, to=sent.to, waited=sent.waited)
    )


def dropped(runner: Runner, command: st.Dropped) -> None:
    """Say that nobody took an event."""
    drop = command.drop
    if drop.reason == "unclaimed":
        came = f"from step `{drop.source_step}`" if drop.source_step else "from outside"
        meant = f"; {drop.near_miss}" if drop.near_miss else ""
        kind = drop.event_type.__name__
        runner.warn_once(f"no step of {runner.call.workflow} takes {kind} (sent {came}), and no wait has asked for it{meant}")
    if runner.chain.hears(EventDropped):
        runner.chain.notice(
            EventDropped(
                run=runner.call,
                at=runner.now(),
                call=_call_of(runner, drop.source),
                event_id=drop.id,
                event_type=drop.event_type.__name__,
                reason=drop.reason,
                near_miss=drop.near_miss,
                final=command.final,
            )
        )


def joined(runner: Runner, command: st.Joining | st.Joined) -> None:
    """Put a join on the account of the execution that asked."""
    call = runner.scopes[command.execution].call
    if isinstance(command, st.Joined):
        call.joined += tuple(command.collected)
    elif runner.chain.hears(JoinWaiting):
        runner.chain.notice(
            JoinWaiting(
                run=runner.call, at=runner.now(), call=call, event_type=command.event_type.__name__,
                buffer=command.buffer, have=command.have, need=command.need,
            )
        )  # fmt: skip


def _call_of(runner: Runner, execution: int | None) -> StepCall | None:
    scope = runner.scopes.get(execution) if execution is not None else None
    return scope.call if scope else None
