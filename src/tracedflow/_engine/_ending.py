"""How a run ended, and what its stream and its exception say of it."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import CodeType, TracebackType
from typing import TYPE_CHECKING, Any

from ..errors import WorkflowCancelledByUser, WorkflowRuntimeError, WorkflowStalledError, WorkflowTimeoutError
from ..events import (
    Event,
    StepFailedEvent,
    StopEvent,
    UnreconstructedException,
    WorkflowCancelledEvent,
    WorkflowFailedEvent,
    WorkflowTimedOutEvent,
)
from ..middleware import RunSuspended
from ..outcomes import error_type
from . import _state as st
from . import _watchdog
from ._dispatch import Dispatcher
from ._scope import StepScope

if TYPE_CHECKING:
    from ..decorators import StepConfig
    from ._runner import Runner

_log = logging.getLogger("tracedflow")

_RESOURCES = str(Path(__file__).parent.parent / "resource")
CLOSING_GRACE = 10.0  # seconds to close one resource: a run must not hang on its way out
STOP_REASONS: dict[str, str] = {"cancelled": "cancelled", "timed_out": "run_timeout", "suspended": "suspended"}
_CANCEL_REASONS: dict[str, str] = {"failed": "sibling_failed", "timed_out": "run_timeout", "suspended": "suspended"}


@dataclass(slots=True, kw_only=True)
class Ending:
    """How a run ended; only the first ending counts."""

    status: st.Status
    stop: StopEvent | None = None
    error: BaseException | None = None
    scope: StepScope | None = None  # the step that ended it
    hard: bool = False  # cancelled as a task is, not by `cancel_run`
    reason: str | None = None  # why it was stopped, where its status does not say
    trace: TracebackType | None = None  # the user's own frames


def suspend(runner: Runner) -> dict[str, Any]:
    """Save a run and end this segment of it; returns what `Context.from_dict` takes."""
    saved = runner.context.to_dict()
    if runner.chain.hears(RunSuspended):
        runner.chain.notice(RunSuspended(run=runner.call, at=runner.now()))
    text = f"Run {runner.run_id} of {runner.call.workflow} was suspended; it goes on from its saved Context"
    runner.finish(Ending(status="suspended", error=WorkflowCancelledByUser(text)))
    if not runner.has_begun:  # it may be waiting for a permit
        runner.task.cancel()
    return saved


def checked_stop(runner: Runner, stop: object) -> StopEvent | None:
    """Return what the `run` layers made of the run: its StopEvent, or None if its own ending says how it ended.

    Raises:
        WorkflowRuntimeError: a layer returned something else.
    """
    if isinstance(stop, StopEvent):
        return stop
    if stop is None and runner.ending is not None and runner.ending.error is not None:
        return None
    kind = "None" if stop is None else f"an object of type {type(stop).__name__}"
    raise WorkflowRuntimeError(
        f"A `run` layer of {runner.call.workflow} returned {kind} at the end of run {runner.run_id}; "
        "it must return what `await call_next(call)` gave it, or a StopEvent of its own"
    )


def last_event(runner: Runner, stop: StopEvent | None, error: BaseException | None) -> StopEvent:
    """Return the last event of the stream of a run that ended so."""
    match error:
        case None:
            assert stop is not None
            return stop
        case WorkflowStalledError():
            return WorkflowFailedEvent(step_name=_stalled_step(error), exception=error, elapsed_seconds=_age(runner))
        case WorkflowTimeoutError():
            return WorkflowTimedOutEvent(timeout=runner.deadline.seconds or 0.0, active_steps=_active_steps(error))
        case WorkflowCancelledByUser() | asyncio.CancelledError():
            return WorkflowCancelledEvent()
        case _:
            return _failed_event(runner, error)


def _failed_event(runner: Runner, error: BaseException) -> StopEvent:
    scope = runner.ending.scope if runner.ending is not None else None
    shown = error if isinstance(error, Exception) else UnreconstructedException(str(error), error_type(error))
    return WorkflowFailedEvent(
        step_name=scope.call.step if scope else "",
        exception=shown,
        attempts=scope.attempt if scope else None,
        elapsed_seconds=_age(runner),
    )


def _age(runner: Runner) -> float:
    return runner.now() - runner.call.started_at


def _stalled_step(error: WorkflowStalledError) -> str:
    report = error.report
    if report is None:
        return ""
    if report.joins:
        return report.joins[0].step
    return next(iter(report.silent), "") or next((fate.source for fate in report.unclaimed if fate.source), "")


def _active_steps(error: WorkflowTimeoutError) -> list[str]:
    report = error.report
    return sorted({step.step for step in report.running} | {wait.step for wait in report.waits}) if report else []


def leave_children(scope: StepScope, children: Sequence[Runner]) -> None:
    """Let the runs go on by themselves that an execution started, which ended before them."""
    runner = scope.runner
    for child in children:
        if child.is_over:
            continue
        handler = child.handler
        if scope.call.cancel_reason is not None or (handler is not None and handler.was_awaited):
            continue  # the run's end takes care of it
        assert runner.children  # it is live, so it is one of them
        runner.children.discard(child)
        child.parent = None
        _log.warning(
            "step `%s` of %s ended while run %s of %s, which it started, is live and nobody awaited it; it goes on by itself. "
            "Await it, or start it with RunOptions(parent=None)",
            scope.call.step, runner.call.workflow, child.run_id, child.call.workflow,
        )  # fmt: skip
    scope.children = None  # their contexts know the scope


def annotate(error: BaseException, scope: StepScope) -> None:
    """Leave the user's own frames on the exception, and say where it was raised."""
    trace = error.__traceback__
    inner = (
        _within(trace, Dispatcher._attempt.__code__)
        or _within(trace, Dispatcher._recorded.__code__)
        or _within(trace, Dispatcher.dispatch.__code__)
    )
    while inner is not None and inner.tb_next is not None and _is_between(inner.tb_frame.f_code):
        inner = inner.tb_next
    if inner is not None:
        error.__traceback__ = inner
    call = scope.call
    taken = ", ".join(dict.fromkeys(type(event).__name__ for event in call.inputs)) or "no event"
    tried = f", attempt {scope.attempt}" if scope.attempt > 1 else ""
    traced = f", trace {call.trace_id}" if call.trace_id else ""
    error.add_note(f"in step `{call.step}` of {call.workflow} ({call.config.place}), which took {taken}{tried}, run {call.run_id}{traced}")
    if isinstance(error, TypeError) and (unfilled := _unfilled(call.config)):
        remedy = "write `ctx: Context`, a class of events, or Annotated[..., Resource(...)], or give it a default"
        error.add_note(f"no annotation says what the step is to get as {', '.join(f'`{name}`' for name in unfilled)}: {remedy}")


def _unfilled(config: StepConfig) -> list[str]:
    """Return the parameters of a step that nothing is given for, which is told when the call fails."""
    filled = {"self", config.context_parameter, config.collection_param, *config.event_parameters, *config.resources}
    of_function = inspect.signature(config.fn).parameters.values()
    open_ = [each for each in of_function if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
    return [each.name for each in open_ if each.name not in filled]


def _within(trace: TracebackType | None, code: CodeType) -> TracebackType | None:
    """Return what some code called, where a traceback first comes through it."""
    while trace is not None and trace.tb_frame.f_code is not code:
        trace = trace.tb_next
    return None if trace is None else trace.tb_next


def _is_between(code: CodeType) -> bool:
    """Whether it is code of ours that stands between the dispatcher and the code of the user: a step, or a factory."""
    return code in _watchdog.step_callers or code.co_filename.startswith(_RESOURCES)


async def tear_down(runner: Runner) -> None:
    """End every task of the run and of its nested runs; abandon and name what does not end in time."""
    runner.deadline.stop()
    for timer in runner.timers.values():
        timer.cancel()
    runner.timers.clear()
    ending = runner.ending
    assert ending is not None
    reason = _CANCEL_REASONS.get(ending.status, "cancelled")
    scopes = list(runner.scopes.values())
    for child in tuple(runner.children):  # before the steps that await them, whose cancellation reaches them without its reason
        child.cancel(f"the run that started it ended ({ending.status})", hard=True, reason=reason)
    for scope in scopes:
        scope.cancel(reason)
    tasks = [*(scope.task for scope in scopes), *(child.task for child in runner.children), *runner.lead.coming]
    if not tasks:
        return
    try:
        await asyncio.wait(tasks, timeout=_grace_of(runner))
    except asyncio.CancelledError:
        _log.debug("run %s was cancelled again while it ended", runner.run_id)
    for scope in scopes:
        if not scope.task.done():
            _abandon(runner, scope)


async def close_resources(runner: Runner) -> None:
    """Close what was made for the run, last made first. One that takes too long is cancelled and logged, and the next is closed."""
    resources = runner.resources
    assert runner.ending is not None
    while resources is not None and resources.is_open:
        async with asyncio.timeout(CLOSING_GRACE):
            await resources.close_last(runner.ending.error)


def _grace_of(runner: Runner) -> float:
    """Return the seconds to wait for a run's tasks: those of its nested runs come first, and have a grace of their own."""
    return runner.settings.cancel_grace + 0.05 + max([_grace_of(child) for child in runner.children], default=0.0)


def _abandon(runner: Runner, scope: StepScope) -> None:
    name = scope.call.step
    text = f"the task of step `{name}`, which was abandoned {runner.settings.cancel_grace:g} s after it was cancelled"
    scope.abandon(text)
    runner.abandoned += (name,)
    _log.warning("run %s of %s: %s still runs", runner.run_id, runner.call.workflow, text)


def recover(runner: Runner, scope: StepScope, error: Exception) -> bool:
    """Give the failure to a `@catch_error` step, if there is one and its budget for this line of events is not used up."""
    call, execution = scope.call, scope.execution
    handler = runner.graph.handler_for(call.step)
    if handler is None or execution.recoveries.count(handler.name) >= handler.catch_error_max_recoveries:
        return False
    now = runner.now()
    event = StepFailedEvent(
        step_name=call.step,
        input_event=call.inputs[0] if call.inputs else Event(),
        exception=error,
        attempts=scope.attempt,
        elapsed_seconds=now - (execution.first_started_at or now),
        failed_at=datetime.fromtimestamp(now, UTC),
    )
    runner.apply(st.Recover(execution.id, handler.name, event, now, call._outgoing, call.span_context))
    return True
