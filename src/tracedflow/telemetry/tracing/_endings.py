"""How spans end: outcome, status, and the exception said once, on the innermost span. Everything passes the redactor."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from opentelemetry import _logs, trace
from opentelemetry._logs import LoggerProvider, LogRecord, SeverityNumber
from opentelemetry.trace import Span, Status, StatusCode

from ...errors import WorkflowStalledError
from ...outcomes import FAILURES, error_type
from .. import names
from ..redaction import captures_text, describe, mask, stack_trace

if TYPE_CHECKING:
    from ...middleware import StepCall
    from ...records import Outcome

logger_provider: LoggerProvider | None = None
"""Set from outside: where exceptions go that are said as log records; the global provider, if None."""

_SIGNAL = "OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN"


def fail(span: Span, outcome: Outcome, error: BaseException, secrets: Sequence[object], *, record: bool) -> None:
    """Set the error status, and record the exception if no span further inside has done it."""
    if outcome not in FAILURES:
        return
    span.set_attribute(names.ERROR_TYPE, error_type(error))
    description = describe(error, secrets)
    span.set_status(Status(StatusCode.ERROR, description))
    if record:
        facts = {names.EXCEPTION_TYPE: error_type(error), names.EXCEPTION_STACKTRACE: stack_trace(error, secrets)}
        if captures_text():
            facts[names.EXCEPTION_MESSAGE] = description
        _record(span, facts)


def _record(span: Span, facts: dict[str, str]) -> None:
    """Say an exception where the process wants it: as an event of its span, as a log record, or as both."""
    signals = {word.strip().lower() for word in os.environ.get(_SIGNAL, "").split(",")}
    as_log, as_both = "logs" in signals, "logs/dup" in signals
    if as_both or not as_log:
        span.add_event(names.EXCEPTION, facts)
    if as_both or as_log:
        record = LogRecord(
            context=trace.set_span_in_context(span),
            severity_number=SeverityNumber.ERROR,
            severity_text="ERROR",
            event_name=names.EXCEPTION,
            attributes=facts,
        )
        _logs.get_logger(names.SCOPE, logger_provider=logger_provider).emit(record)


def cancelled(span: Span, call: StepCall, outcome: Outcome) -> None:
    """Say why a step was cancelled, if it was."""
    if outcome == "cancelled":
        span.add_event(names.CANCEL_REQUESTED, {names.CANCEL_REASON: call.cancel_reason or "cancelled"})


def stalled(span: Span, error: BaseException, secrets: Sequence[object]) -> None:
    """Add the report of a run that could never finish."""
    if isinstance(error, WorkflowStalledError):
        span.add_event(names.STALLED, {names.STALL_REPORT: mask(str(error), secrets)})
