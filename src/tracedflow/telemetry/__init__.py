"""What tracedflow shows of itself: traces, metrics, log fields and the console, all of them observers.

`setup()` is the one line for applications. Importing this package imports none of the libraries; each loads on first use.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from . import _process
from ._process import SHUTDOWN, Telemetry

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.sampling import Sampler

    from .capture import Hidden
    from .console import Console
    from .diagnosis import Finding, diagnose
    from .logs import LogCorrelation, Logs
    from .metrics import Metrics, metrics_app
    from .sdk import DropCollecting
    from .tracing import Tracing

__all__ = [
    "Console",
    "DropCollecting",
    "Finding",
    "Hidden",
    "LogCorrelation",
    "Logs",
    "Metrics",
    "Telemetry",
    "Tracing",
    "diagnose",
    "flush",
    "metrics_app",
    "setup",
    "shutdown",
]

_log = logging.getLogger("tracedflow.telemetry")

_HOMES = {
    "Console": "console",
    "DropCollecting": "sdk",
    "Finding": "diagnosis",
    "Hidden": "capture",
    "LogCorrelation": "logs",
    "Logs": "logs",
    "Metrics": "metrics",
    "Tracing": "tracing",
    "diagnose": "diagnosis",
    "metrics_app": "metrics",
}


def setup(
    *,
    service_name: str | None = None,
    trace_file: str | Path | None = None,
    sampler: Sampler | None = None,
    redact: Callable[[str], str] | None = None,
    logs: bool = False,
) -> Telemetry:
    """Start telemetry for this process, as its environment says. Call it once, early; a second call changes nothing.

    After a `shutdown()` it starts anew. OpenTelemetry lets a process set its providers once, so what the application itself
    traces goes on through the first one, with its service name and sampler, to the new exporters.

    Read are `OTEL_SDK_DISABLED`, `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER`, `OTEL_BSP_*`,
    `OTEL_TRACES_EXPORTER`, `OTEL_METRICS_EXPORTER` and `OTEL_LOGS_EXPORTER` (`otlp`, `console`, `none`),
    `OTEL_EXPORTER_OTLP_*`, and `TRACEDFLOW_TRACE_FILE`. Traces go to OTLP unless only a file is asked for; metrics and logs
    only where their variable says so. A provider that is set already is kept, and gets the trace file alone. Nothing here
    raises: what cannot be started is logged, and left out.

    Args:
        service_name: in place of `OTEL_SERVICE_NAME`.
        trace_file: a local file of OTLP-JSON lines; in place of `TRACEDFLOW_TRACE_FILE`.
        sampler: in place of `OTEL_TRACES_SAMPLER`.
        redact: sees every text that leaves, last, and returns what may.
        logs: also write log records that are made inside runs to the trace file.
    """
    try:
        from .sdk import start
    except ImportError as error:
        _log.warning("no telemetry is sent: the OpenTelemetry SDK cannot be imported (%s). pip install opentelemetry-sdk", error)
        if _process.current is None:
            _process.current = Telemetry()
        return _process.current
    try:
        return start(service_name=service_name, trace_file=trace_file, sampler=sampler, redact=redact, logs=logs)
    except Exception:  # noqa: BLE001 - whatever a setting leads to, the application starts
        _log.exception("telemetry could not be started as its settings ask")
        return _process.current or Telemetry()


async def flush(timeout: float = SHUTDOWN) -> bool:
    """Send what is buffered; return whether that was done within `timeout` seconds."""
    found = _process.current
    return True if found is None else await asyncio.to_thread(found.flush, timeout)


async def shutdown(timeout: float = SHUTDOWN) -> bool:
    """Send what is buffered and end the exporters, as a process does by itself when it exits; return whether there was time."""
    found = _process.current
    return True if found is None else await asyncio.to_thread(found.shutdown, timeout)


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{home}", __name__), name)
