"""What `telemetry.setup()` starts: traces, and on request metrics and logs, sent where the standard `OTEL_*` variables say, in one line.

For applications only. The one place that makes providers of the OpenTelemetry SDK and sets them for the process.
"""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opentelemetry import _logs, trace
from opentelemetry import metrics as otel_metrics
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from ..._engine import _live
from .. import _process, metrics, redaction, tracing
from .._process import SHUTDOWN, Closer, Telemetry
from ..tracing import _endings
from ._exporters import asked, endpoint, is_disabled, made
from ._processors import Counted, DropCollecting, Relay, TraceFile, TraceFileLogs

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.sampling import Sampler

__all__ = ["DropCollecting", "TraceFile", "start"]

_log = logging.getLogger("tracedflow.telemetry")

FILE_VARIABLE = "TRACEDFLOW_TRACE_FILE"

_set: tuple[TracerProvider, Relay] | None = None
"""The provider that is set for the process, if one of ours is: OpenTelemetry lets it be set once, so after a shutdown it feeds the next."""


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
    add_processor = _set_up_traces(telemetry, resource, sampler, path)
    if path is not None and add_processor is not None:
        _set_up_file(telemetry, path, resource, add_processor, logs=logs)
    _set_up_metrics(telemetry, resource)
    _set_up_logs(telemetry, resource)
    _live.flush = telemetry.flush
    atexit.register(telemetry.shutdown)
    return telemetry


def _set_up_traces(
    telemetry: Telemetry, resource: Resource, sampler: Sampler | None, path: str | Path | None
) -> Callable[[SpanProcessor], None] | None:
    """Choose or make the provider; return what adds a processor to it, None: nothing can be added."""
    known = trace.get_tracer_provider()
    if not isinstance(known, trace.ProxyTracerProvider) and (_set is None or known is not _set[0]):
        _log.info("a tracer provider is set already (%s) and is kept", type(known).__qualname__)
        tracing.provider_in_use = None
        adds: Callable[[SpanProcessor], None] | None = getattr(known, "add_span_processor", None)
        if adds is not None:
            telemetry.provider = known
        return adds
    provider = TracerProvider(resource=resource, sampler=sampler, shutdown_on_exit=False)
    relay = Relay()
    provider.add_span_processor(relay)
    otherwise = "otlp" if path is None or endpoint("TRACES") else "none"
    for exporter in made("TRACES", asked("TRACES", otherwise)):
        counted = Counted(exporter)
        pipeline = DropCollecting(BatchSpanProcessor(counted))
        relay.add(pipeline)
        telemetry.pipelines.append((pipeline, counted))
    _use(provider, relay)
    telemetry.provider = provider
    telemetry.flushes.append(provider.force_flush)
    telemetry.shutdowns += [provider.shutdown, _stop_traces]
    return relay.add


def _stop_traces() -> None:
    tracing.provider_in_use = trace.NoOpTracerProvider()


def _use(provider: TracerProvider, relay: Relay) -> None:
    """Let the spans of tracedflow go to this provider, and those that the application makes too."""
    global _set
    tracing.provider_in_use = provider
    if _set is None:
        _set = provider, relay
        trace.set_tracer_provider(provider)
    else:
        _set[1].to = (relay,)


def _set_up_file(
    telemetry: Telemetry, path: str | Path, resource: Resource, add_processor: Callable[[SpanProcessor], None], *, logs: bool
) -> None:
    file = telemetry.file = TraceFile(path, resource)
    add_processor(file)
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
    _set_once(otel_metrics.set_meter_provider, provider, "metrics")
    metrics.use_meter_provider(provider)
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
    _set_once(_logs.set_logger_provider, provider, "logs")
    _endings.logger_provider = provider
    telemetry.flushes.append(provider.force_flush)
    telemetry.shutdowns.append(provider.shutdown)


_already_set: set[str] = set()


def _set_once(set_provider: Callable[[Any], None], provider: object, signal: str) -> None:
    """Set a provider for the process; later ones are for tracedflow alone, as OpenTelemetry takes only the first."""
    if signal in _already_set:
        _log.info("the %s of the application itself still go to the provider that was set first, and was shut down", signal)
        return
    _already_set.add(signal)
    set_provider(provider)
