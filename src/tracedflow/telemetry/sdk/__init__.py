"""What `telemetry.setup()` starts: traces, and on request metrics and logs, sent where the standard `OTEL_*` variables say, in one line.

For applications only. The one place that makes providers of the OpenTelemetry SDK and sets them for the process.
"""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from opentelemetry import _logs, trace
from opentelemetry import metrics as otel_metrics
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from ... import _live
from .. import _process, metrics, redaction, tracing
from .._process import SHUTDOWN, Closer, Telemetry
from ._exporters import asked, endpoint, is_disabled, made
from ._processors import Counted, DropCollecting, TraceFile, TraceFileLogs

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.sampling import Sampler

__all__ = ["DropCollecting", "TraceFile", "start"]

_log = logging.getLogger("tracedflow.telemetry")

FILE_VARIABLE = "TRACEDFLOW_TRACE_FILE"


def start(
    *, service_name: str | None, trace_file: str | Path | None, sampler: Sampler | None, redact: Callable[[str], str] | None, logs: bool
) -> Telemetry:
    """Start telemetry; see `tracedflow.telemetry.setup`."""
    found = _process.current
    if found is not None and not found.is_shut_down:
        return found
    redaction.use_redactor(redact)
    telemetry = _process.current = Telemetry()
    if is_disabled():
        _log.info("OTEL_SDK_DISABLED is true: nothing is recorded")
        return telemetry
    telemetry.closer = Closer()
    path = trace_file or os.environ.get(FILE_VARIABLE) or None
    resource = Resource.create({"service.name": service_name} if service_name else {})
    _set_up_traces(telemetry, resource, sampler, path)
    if path is not None and telemetry.provider is not None:
        _set_up_file(telemetry, path, resource, logs=logs)
    _set_up_metrics(telemetry, resource)
    _set_up_logs(telemetry, resource)
    _live.flush = telemetry.flush
    atexit.register(telemetry.shutdown)
    return telemetry


def _set_up_traces(telemetry: Telemetry, resource: Resource, sampler: Sampler | None, path: str | Path | None) -> None:
    known = trace.get_tracer_provider()
    if not isinstance(known, trace.ProxyTracerProvider):
        if hasattr(known, "add_span_processor"):
            telemetry.provider = known
        _log.info("a tracer provider is set already (%s) and is kept", type(known).__qualname__)
        return
    provider = TracerProvider(resource=resource, sampler=sampler, shutdown_on_exit=False)
    otherwise = "otlp" if path is None or endpoint("TRACES") else "none"
    for exporter in made("TRACES", asked("TRACES", otherwise)):
        counted = Counted(exporter)
        pipeline = DropCollecting(BatchSpanProcessor(counted))
        provider.add_span_processor(pipeline)
        telemetry.pipelines.append((pipeline, counted))
    trace.set_tracer_provider(provider)
    telemetry.provider = provider
    telemetry.flushes.append(provider.force_flush)
    telemetry.shutdowns.append(provider.shutdown)


def _set_up_file(telemetry: Telemetry, path: str | Path, resource: Resource, *, logs: bool) -> None:
    file = telemetry.file = TraceFile(path, resource)
    processor: SpanProcessor = file
    telemetry.provider.add_span_processor(processor)
    tracing.on_record = file.add_record
    telemetry.shutdowns.append(_stop_records)
    if logs:
        handler = TraceFileLogs(file)
        logging.getLogger().addHandler(handler)
        telemetry.shutdowns.append(lambda: logging.getLogger().removeHandler(handler))


def _stop_records() -> None:
    tracing.on_record = None


def _set_up_metrics(telemetry: Telemetry, resource: Resource) -> None:
    exporters = made("METRICS", asked("METRICS", "none"))
    if not exporters:
        return
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    provider = MeterProvider([PeriodicExportingMetricReader(each) for each in exporters], resource=resource, shutdown_on_exit=False)
    otel_metrics.set_meter_provider(provider)
    metrics.meter_provider = provider
    telemetry.flushes.append(provider.force_flush)
    telemetry.shutdowns.append(lambda: provider.shutdown(timeout_millis=SHUTDOWN * 1000))


def _set_up_logs(telemetry: Telemetry, resource: Resource) -> None:
    exporters = made("LOGS", asked("LOGS", "none"))
    if not exporters:
        return
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor

    provider = LoggerProvider(resource=resource, shutdown_on_exit=False)
    for exporter in exporters:
        provider.add_log_record_processor(BatchLogRecordProcessor(exporter))
    _logs.set_logger_provider(provider)
    telemetry.flushes.append(provider.force_flush)
    telemetry.shutdowns.append(provider.shutdown)
