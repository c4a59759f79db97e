"""Facts about a live run, gathered for `why()`, for stalls and for timeouts. Reads the run; changes nothing."""

from __future__ import annotations

import asyncio
import contextvars
import gc
from typing import TYPE_CHECKING, Any

from ..context import current_scope
from ..events import StopEvent
from ..records import EventCounts, EventFate, JoinReport, RunningStep, RunReport, WaitReport
from . import _state as st

if TYPE_CHECKING:
    from ._runner import Runner


def report_of(runner: Runner, state: str | None = None, now: float | None = None) -> RunReport:
    """Return what the run is doing, what it waits for, and where its events went."""
    now = runner.now() if now is None else now
    run = runner.state
    running, queued, backing_off = _executions(runner, now)
    return RunReport(
        workflow=runner.call.workflow,
        run_id=runner.run_id,
        state=state or run.status.replace("_", " "),
        age=now - runner.call.started_at,
        running=running,
        queued=queued,
        backing_off=backing_off,
        joins=[*_joins(runner), *_slot_joins(runner)],
        waits=[_wait(run, wait, now) for wait in run.waits.values()],
        unclaimed=_unclaimed(runner),
        silent=dict(run.silent),
        events=_counts(run),
        stop_producers=runner.graph.producers(runner.graph.stop_event.__name__),
        signs_of_life=tuple(runner.stalls.signs_of_life()),
        blocked=_blocked(runner),
    )


def background_tasks(runner: Runner) -> list[asyncio.Task[Any]]:
    """Return the tasks that steps of this run started and that are still alive.

    A task does not tell its context before Python 3.12, but the garbage collector sees it on all versions. This is
    asked only when a run looks stalled.
    """
    own = {scope.task for scope in runner.scopes.values()} | {runner.task, *runner.lead.coming, asyncio.current_task(runner.loop)}
    return [task for task in asyncio.all_tasks(runner.loop) if task not in own and _started_in(task, runner)]


def _started_in(task: asyncio.Task[Any], runner: Runner) -> bool:
    for referent in gc.get_referents(task):
        if type(referent) is contextvars.Context:
            scope = referent.get(current_scope)
            if scope is not None and scope.runner is runner:
                return True
    return False


def _executions(runner: Runner, now: float) -> tuple[list[RunningStep], dict[str, int], list[RunningStep]]:
    running: list[RunningStep] = []
    backing_off: list[RunningStep] = []
    queued: dict[str, int] = {}
    for execution in runner.state.executions.values():
        if execution.phase == "queued":
            queued[execution.step] = queued.get(execution.step, 0) + 1
        elif execution.phase != "parked":
            target = running if execution.phase == "running" else backing_off
            target.append(_running(runner, execution, now))
    return running, queued, backing_off


def _running(runner: Runner, execution: st.Execution, now: float) -> RunningStep:
    scope = runner.scopes.get(execution.id)
    return RunningStep(
        step=execution.step,
        execution=execution.id,
        attempt=scope.attempt if scope else execution.failures + 1,
        since=now - (scope.call.started_at if scope else execution.ready_at),
        event_type=execution.inputs[0].type_name if execution.inputs else "list",
    )


def _joins(runner: Runner) -> list[JoinReport]:
    return [_join(runner, step, name, buffer) for (step, name), buffer in runner.state.buffers.items() if buffer.size]


def _slot_joins(runner: Runner) -> list[JoinReport]:
    """Steps that join several parameters and lack some."""
    found: list[JoinReport] = []
    for (step, _), waiting in runner.state.slots.items():
        kinds = [kind.__name__ for kind in runner.graph.slots(step) or ()]
        has = {kind: len(slot) for kind, slot in zip(kinds, waiting, strict=True) if slot}
        lacks = {kind: 1 for kind in kinds if kind not in has}
        producers = {kind: runner.graph.producers(kind) for kind in lacks}
        found.append(JoinReport(step=step, buffer="parameters", has=has, lacks=lacks, producers=producers))
    return found


def _join(runner: Runner, step: str, name: str, buffer: st.Buffer) -> JoinReport:
    need: dict[str, int] = {}
    for kind in buffer.expected:
        need[kind.__name__] = need.get(kind.__name__, 0) + 1
    has = {kind.__name__: len(items) for kind, items in buffer.items.items() if items}
    lacks = {kind: count - has.get(kind, 0) for kind, count in need.items() if count > has.get(kind, 0)}
    producers = {kind: runner.graph.producers(kind) for kind in lacks}
    return JoinReport(step=step, buffer=name, has=has, lacks=lacks, producers=producers)


def _wait(run: st.RunState, wait: st.Wait, now: float) -> WaitReport:
    return WaitReport(
        step=run.executions[wait.execution].step,
        execution=wait.execution,
        event_type=wait.event_type.__name__,
        waiter_id=wait.waiter_id,
        requirements={name: type(value).__name__ for name, value in wait.requirements.items()},
        since=now - wait.opened_at,
        remaining=None if wait.deadline is None else wait.deadline - now,
    )


def _unclaimed(runner: Runner) -> list[EventFate]:
    run = runner.state
    fates: dict[tuple[str, str, str | None], EventFate] = {}
    held = ((envelope, "unclaimed") for box in run.held.values() for envelope in box if not envelope.taken)
    for envelope, reason in held:
        kind = type(envelope.event)
        _count(fates, kind.__name__, reason, envelope.source_step, runner.graph.near_miss(kind))
    for drop in run.drops:
        _count(fates, drop.event_type.__name__, drop.reason, drop.source_step, drop.near_miss)
    return list(fates.values())


def _count(fates: dict[tuple[str, str, str | None], EventFate], kind: str, reason: str, source: str | None, near_miss: str | None) -> None:
    key = (kind, reason, source)
    if key in fates:
        fates[key].count += 1
    else:
        fates[key] = EventFate(event_type=kind, count=1, reason=reason, source=source, near_miss=near_miss)


def _counts(run: st.RunState) -> dict[str, EventCounts]:
    pending: dict[type[Any], int] = {}
    for envelope in run.pending():
        pending[type(envelope.event)] = pending.get(type(envelope.event), 0) + 1
    return {
        kind.__name__: EventCounts(
            sent=tally.sent,
            consumed=tally.consumed,
            collected=tally.collected,
            streamed=tally.streamed,
            dropped=tally.dropped,
            pending=pending.get(kind, 0),
        )
        for kind, tally in run.tallies.items()
        if tally.sent or not issubclass(kind, StopEvent)
    }


def _blocked(runner: Runner) -> str | None:
    notice = runner.blocked
    if notice is None:
        return None
    who = f"step `{notice.step}`" if notice.step else "a task"
    return f"{who} blocked the event loop for {notice.duration:.1f} s at {notice.location}"
