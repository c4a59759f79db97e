"""Exporters, as the standard `OTEL_*` variables ask for them. A package that is missing is said with its remedy."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from importlib import import_module
from typing import Any, Literal, TypeAlias

_log = logging.getLogger("tracedflow.telemetry")

Signal: TypeAlias = Literal["TRACES", "METRICS", "LOGS"]

_OTLP: dict[tuple[Signal, str], tuple[str, str]] = {
    ("TRACES", "http"): ("opentelemetry.exporter.otlp.proto.http.trace_exporter", "OTLPSpanExporter"),
    ("TRACES", "grpc"): ("opentelemetry.exporter.otlp.proto.grpc.trace_exporter", "OTLPSpanExporter"),
    ("METRICS", "http"): ("opentelemetry.exporter.otlp.proto.http.metric_exporter", "OTLPMetricExporter"),
    ("METRICS", "grpc"): ("opentelemetry.exporter.otlp.proto.grpc.metric_exporter", "OTLPMetricExporter"),
    ("LOGS", "http"): ("opentelemetry.exporter.otlp.proto.http._log_exporter", "OTLPLogExporter"),
    ("LOGS", "grpc"): ("opentelemetry.exporter.otlp.proto.grpc._log_exporter", "OTLPLogExporter"),
}
_CONSOLE: dict[Signal, tuple[str, str]] = {
    "TRACES": ("opentelemetry.sdk.trace.export", "ConsoleSpanExporter"),
    "METRICS": ("opentelemetry.sdk.metrics.export", "ConsoleMetricExporter"),
    "LOGS": ("opentelemetry.sdk._logs.export", "ConsoleLogRecordExporter"),
}


def is_disabled() -> bool:
    """Return whether the environment switches the SDK off."""
    return os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


def asked(signal: Signal, otherwise: str) -> list[str]:
    """Return the names of the exporters that the environment asks for."""
    text = os.environ.get(f"OTEL_{signal}_EXPORTER", "").strip() or otherwise
    return [name for word in text.split(",") if (name := word.strip().lower()) and name != "none"]


def endpoint(signal: Signal) -> str | None:
    """Return where the environment wants a signal sent; None: nothing is said."""
    return os.environ.get(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT") or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or None


def protocol(signal: Signal) -> Literal["http", "grpc"]:
    """Return how the environment wants a signal sent."""
    text = os.environ.get(f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") or "http/protobuf"
    match text.strip().lower():
        case "grpc":
            return "grpc"
        case "http/protobuf":
            return "http"
        case other:
            _log.warning("OTEL_EXPORTER_OTLP_PROTOCOL=%s is not known here; http/protobuf is used. Known: grpc, http/protobuf", other)
            return "http"


def default_endpoint(signal: Signal) -> str:
    """Return where OTLP goes if nothing is said."""
    return "http://localhost:4317" if protocol(signal) == "grpc" else "http://localhost:4318"


def made(signal: Signal, wanted: Iterable[str]) -> list[Any]:
    """Return the exporters of these names; one that cannot be made is said, and left out."""
    homes: list[tuple[str, tuple[str, str]]] = []
    for name in wanted:
        match name:
            case "otlp":
                homes.append((name, _OTLP[signal, protocol(signal)]))
            case "console":
                homes.append((name, _CONSOLE[signal]))
            case "prometheus" if signal == "METRICS":
                continue  # always there: `tracedflow.telemetry.metrics_app()` shows them
            case _:
                _log.warning("OTEL_%s_EXPORTER=%s is not known here; known are otlp, console, none", signal, name)
    return [exporter for name, home in homes if (exporter := _tried(signal, name, *home)) is not None]


def _tried(signal: Signal, name: str, module: str, kind: str) -> Any:
    try:
        return getattr(import_module(module), kind)()
    except ImportError as error:
        _log.warning("no %s are exported by %s: %s. Install it: pip install 'tracedflow[otlp]'", signal.lower(), name, error)
    except Exception:  # noqa: BLE001 - whatever a setting leads to, the application starts
        _log.exception("no %s are exported by %s: the exporter could not be made", signal.lower(), name)
    return None
