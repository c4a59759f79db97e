"""The record of an attempt: what it took, taken down when it ends, and written when its events are known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from ..outcomes import error_type, outcome_of_step
from ._watchdog import BLOCKED_AFTER, settle

if TYPE_CHECKING:
    from .._record_log import Row
    from ..middleware import AttemptCall, StepResult
    from . import _state as st
    from ._scope import StepScope


def end_attempt(scope: StepScope, result: StepResult, error: BaseException | None, traced: AttemptCall | None = None) -> None:
    """Take down the attempt that just ended."""
    call = scope.call
    ended = scope.ended_attempt = scope.runner.now()
    if scope.parking is not None:  # its code went on without the answer
        scope.end_parking(scope.parking)
    if ended - scope.started > BLOCKED_AFTER:
        settle(scope)
    scope.outcome = outcome_of_step(call, result, error)
    if error is not None:
        scope.error = error_type(error)
    if traced is not None:
        scope.span_id = traced.span_id


def end_without_attempt(scope: StepScope, result: StepResult, error: BaseException | None) -> None:
    """Take down an execution whose step was never called."""
    scope.started, scope.queued_at_start = scope.call.started_at, scope.call.queued
    end_attempt(scope, result, error)


def write(scope: StepScope, *, last: bool) -> None:
    """Write the record of the latest attempt: all that will be left of it. See `records.Row` for its form."""
    call, execution = scope.call, scope.execution
    inputs, trace_id, emitted = execution.inputs, call.trace_id, call.emitted
    if (
        not scope.step.is_single or len(inputs) != 1 or scope.attempt != 1 or scope.error is not None
        or call.interruptions or call.measurements
    ):  # fmt: skip
        scope.runner.records.append(_whole_row(scope, last=last), call, last=last)
        return
    envelope = inputs[0]
    row: Row = (
        execution.step, execution.id, None, call.enqueued_at, scope.started, scope.ended_attempt, scope.outcome,
        trace_id, None if trace_id is None else scope.span_id or call.span_id, envelope.id, envelope.type_name, envelope.source,
    )  # fmt: skip
    if len(emitted) == 1:
        row += emitted[0]
    elif emitted:
        row += (*_flat(emitted),)
    scope.runner.records.append(row, call, last=last)


def _whole_row(scope: StepScope, *, last: bool) -> Row:
    call, inputs, started, ended = scope.call, scope.execution.inputs, scope.started, scope.ended_attempt
    queued, backoff, waiting, blocked = call.queued, call.backoff, call.waiting, call.blocked
    emitted, measured = call.emitted, call.measurements
    if scope.parts is not None:
        (queued, backoff, waiting, blocked), scope.parts = scope.parts, None
    parked = queued - scope.queued_at_start + waiting
    if not last or call.attempts > 1:
        before, scope.marks = scope.marks, (queued, backoff, waiting, blocked)
        queued, backoff, waiting, blocked = (now - then for now, then in zip(scope.marks, before, strict=True))
        parked -= before[2]
        emitted, measured = emitted[scope.emitted_before :], measured[scope.measured_before :]
    interruptions, call.interruptions = call.interruptions, ()  # the next attempt has its own
    return (
        call.config.name, call.execution, scope.attempt, call.enqueued_at, started, ended, scope.outcome,
        call.trace_id, scope.span_id or call.span_id,
        queued, ended - started - parked, backoff, waiting, blocked, scope.error,
        len(inputs), *_flat([_input(envelope) for envelope in inputs]), len(emitted), *_flat(emitted),
        *_flat(measured), *_flat(interruptions),
    )  # fmt: skip


def _input(envelope: st.Envelope) -> tuple[int, str, int | None]:
    return envelope.id, envelope.type_name, envelope.source


def _flat(groups: Sequence[tuple[Any, ...]]) -> Iterable[Any]:
    """Return the parts of all groups in a row."""
    return chain.from_iterable(groups)
