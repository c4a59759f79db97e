"""Events into a run: from its steps, from its caller, from any thread. Checked where they are sent."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from ..errors import QueueFullError, WorkflowDone, WorkflowRuntimeError, WorkflowStepDoesNotExistError
from ..events import Event
from . import _state as st
from ._bridge import on_loop

if TYPE_CHECKING:
    from ._runner import Runner
    from ._scope import StepScope


def send(runner: Runner, event: Any, target: Any, scope: StepScope | None) -> None:
    """Send an event from a step, or from outside, when what the user gave is checked; from any thread."""
    _check_send(runner, event, target)
    if threading.get_ident() == runner.thread_id:
        send_now(runner, event, target, scope)
    elif scope is not None and not scope.ended:
        on_loop(scope, lambda: send_now(runner, event, target, scope))
    else:
        runner.loop.call_soon_threadsafe(send_now, runner, event, target, scope)


def _check_send(runner: Runner, event: object, target: object) -> None:
    if not isinstance(event, Event):
        raise WorkflowRuntimeError(f"send_event() takes an event, not {event!r} of type {type(event).__name__}")
    if runner.is_over:
        raise WorkflowDone(f"Run {runner.run_id} of {runner.call.workflow} is over; {type(event).__name__} cannot be sent to it any more")
    if target is None:
        return
    if not isinstance(target, str):
        raise WorkflowRuntimeError(f"send_event() takes the name of a step as step, not {target!r}")
    step = runner.graph.steps.get(target)
    if step is None:
        known = ", ".join(sorted(runner.graph.steps))
        raise WorkflowStepDoesNotExistError(f"{runner.call.workflow} has no step `{target}`; it has {known}")
    if target not in runner.graph.takers(type(event)):
        wanted = " | ".join(kind.__name__ for kind in step.accepted_events)
        raise WorkflowRuntimeError(f"Step `{target}` ({step.place}) takes {wanted}, not {type(event).__name__}")


def send_now(runner: Runner, event: Event, target: str | None, scope: StepScope | None) -> None:
    """Send on the run's loop."""
    if not runner.has_begun:  # sent between `run()` and the run's first turn of the loop
        runner.sent_early += ((event, target),)
        return
    if scope is None or scope.ended:
        check_queue(runner, event)
        returned = runner.stepper.take(event) if runner.stepper is not None else None
        if returned is not None:
            runner.apply(st.SendOn(returned.id, runner.now(), target))
            return
        source = (None, None) if scope is None else (scope.execution.id, scope.call.step)
        sender = runner.call.sender
        runner.apply(st.Send(event, runner.now(), source[0], source[1], target, None, None if sender is None else sender()))
        return
    scope.sent_calls += 1
    if scope.sent_calls <= scope.execution.replayed:
        return  # accepted in the life before a resume
    check_queue(runner, event)
    runner.send(scope, event, target)


def check_queue(runner: Runner, event: Event) -> None:
    """Refuse an event that finds too many queued."""
    limit = runner.settings.max_queued
    if limit is not None and runner.state.queued >= limit:
        raise QueueFullError(
            f"{runner.state.queued} events are queued in run {runner.run_id} of {runner.call.workflow}, and max_queued is {limit}; "
            f"{type(event).__name__} was not sent"
        )


def write_to_stream(runner: Runner, event: object, scope: StepScope | None) -> None:
    """Put an event on the stream, from a step, in any thread."""
    if not isinstance(event, Event):
        raise WorkflowRuntimeError(f"write_event_to_stream() takes an event, not {type(event).__name__}")
    if scope is not None and threading.get_ident() != runner.thread_id:
        on_loop(scope, lambda: write_to_stream(runner, event, scope))
        return
    if scope is not None and not scope.ended:
        scope.sent_calls += 1
        if scope.sent_calls <= scope.execution.replayed:
            return
    runner.apply(st.Streamed(None if scope is None else scope.execution.id, event))
