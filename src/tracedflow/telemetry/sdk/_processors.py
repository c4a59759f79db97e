"""Span processors: one that keeps unfinished joins from export, one that writes the local trace file; and what counts exports."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from .. import names
from ..logs import LogCorrelation
from ._otlp_json import Lines

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from ...records import AttemptRecord

_log = logging.getLogger("tracedflow.telemetry")

_STEP = names.STEP_SPAN.partition(" ")[0] + " "
_LASTING = tuple(name.partition(" ")[0] + " " for name in (names.RUN_SPAN, names.STEP_SPAN, names.ATTEMPT_SPAN, names.WAIT_SPAN))


class DropCollecting(SpanProcessor):
    """Passes on every span but those of joins that were not complete yet: 999 of 1,000 say nothing.

    A span with a child, or of a step that sent something, is passed on: others name it.

    Args:
        inner: the processor before the exporter.
    """

    def __init__(self, inner: SpanProcessor) -> None:
        self.inner = inner
        self.dropped: int = 0
        self.passed: int = 0
        self._open: dict[int, bool] = {}  # span id of a live step -> whether it has a child

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Note steps that began, and which of them have children."""
        self.inner.on_start(span, parent_context)
        if span.parent is not None and span.parent.span_id in self._open:
            self._open[span.parent.span_id] = True
        if span.name.startswith(_STEP):
            self._open[span.get_span_context().span_id] = False

    def on_end(self, span: ReadableSpan) -> None:
        """Pass a span on, or drop it."""
        context, facts = span.get_span_context(), span.attributes or {}
        has_child = self._open.pop(context.span_id, True) if context is not None else True
        if not has_child and facts.get(names.OUTCOME) == "collecting" and names.EMITTED not in facts:
            self.dropped += 1
            return
        self.passed += 1
        self.inner.on_end(span)

    def shutdown(self) -> None:
        """End the inner processor."""
        self.inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Flush the inner processor."""
        return self.inner.force_flush(timeout_millis)


class Relay(SpanProcessor):
    """Passes spans on to whatever is started now: a provider that is set for the process cannot be replaced, but what it feeds can."""

    def __init__(self) -> None:
        self.to: tuple[SpanProcessor, ...] = ()

    def add(self, processor: SpanProcessor) -> None:
        """Pass spans on to this one too."""
        self.to += (processor,)

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Tell all of the beginning of a span."""
        for each in self.to:
            each.on_start(span, parent_context)

    def on_end(self, span: ReadableSpan) -> None:
        """Pass a span on."""
        for each in self.to:
            each.on_end(span)

    def shutdown(self) -> None:
        """End all, and pass nothing on any more."""
        to, self.to = self.to, ()
        for each in to:
            each.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Flush all."""
        done = [each.force_flush(timeout_millis) for each in self.to]
        return all(done)


class Counted(SpanExporter):
    """An exporter that counts what it was given and what arrived."""

    def __init__(self, inner: SpanExporter) -> None:
        self.inner = inner
        self.taken = 0
        self.arrived = 0
        self.failed = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export and count."""
        self.taken += len(spans)
        result = SpanExportResult.FAILURE
        try:
            result = self.inner.export(spans)
        finally:
            if result is SpanExportResult.SUCCESS:
                self.arrived += len(spans)
            else:
                self.failed += len(spans)
        return result

    def shutdown(self) -> None:
        """End the inner exporter."""
        self.inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Flush the inner exporter."""
        return self.inner.force_flush(timeout_millis)


class TraceFile(SpanProcessor):
    """Appends each span to a file of OTLP-JSON lines: once when it begins and once when it ends.

    Each line is one write to the operating system, so a killed process loses nothing that had ended, and what it was at
    can be read. A file that cannot be written is said once, and never raises.
    """

    def __init__(self, path: str | Path, resource: Resource) -> None:
        self.path: Path = Path(path)
        self.failed: int = 0
        self._lines = Lines(resource)
        self._file: int | None = None
        self._is_closed = False
        self._torn = False  # the last line may lack its end

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Write the beginning of a span of ours that lasts."""
        if span.name.startswith(_LASTING) and names.RUN_ID in (span.attributes or {}):
            self._write(lambda: self._lines.started(span))

    def on_end(self, span: ReadableSpan) -> None:
        """Write a span."""
        self._write(lambda: self._lines.ended(span))

    def add_record(self, record: AttemptRecord) -> None:
        """Write the record of an attempt."""
        self._write(lambda: self._lines.attempt(record))

    def add_log(self, record: logging.LogRecord, text: str) -> None:
        """Write a log record."""
        self._write(lambda: self._lines.logged(record, text))

    def _write(self, line: Callable[[], str]) -> None:
        if self._is_closed:
            return
        try:
            data = line().encode("utf-8", errors="replace") + b"\n"
            file = self._file if self._file is not None else self._open()
            if self._torn:
                data = b"\n" + data
            self._torn = True
            self._torn = os.write(file, data) != len(data)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a file of ours may not reach the run
            self._say(error)
        else:
            if self._torn:
                self._say(OSError("a line was written in part only; is the disk full?"))

    def _say(self, error: Exception) -> None:
        self.failed += 1
        if self.failed == 1:
            _log.error("the trace file %s cannot be written, and lacks spans from now on: %r", self.path, error)

    def _open(self) -> int:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)  # Windows would write other line ends
        file = self._file = os.open(self.path, flags, 0o644)
        if os.fstat(file).st_size > 0:
            os.lseek(file, -1, os.SEEK_END)
            self._torn = os.read(file, 1) != b"\n"
        return file

    def shutdown(self) -> None:
        """Close the file: what comes later is not written."""
        self._is_closed = True
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Do nothing: every line is written at once."""
        return True


class TraceFileLogs(logging.Handler):
    """Writes the log records that are made inside runs to a trace file, masked as exceptions are."""

    def __init__(self, file: TraceFile) -> None:
        super().__init__()
        self._file = file
        self._fields = LogCorrelation(mask=True)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, if it belongs to a run."""
        own = copy.copy(record)  # other handlers see it unmasked
        self._fields.filter(own)
        if not own.__dict__["run_id"]:
            return
        text = own.getMessage() + (f"\n{own.exc_text}" if own.exc_text else "")
        self._file.add_log(own, text)
