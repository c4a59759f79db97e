"""`diagnose()`: what telemetry of this process is set, reachable, sampled, dropped and captured. Changes nothing."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeAlias
from urllib.parse import urlsplit

from opentelemetry import propagate, trace

from . import _process
from .capture import VARIABLE, level

Status: TypeAlias = Literal["ok", "info", "warning", "problem"]

_CONNECT = 2.0  # seconds
_FILE_VARIABLE = "TRACEDFLOW_TRACE_FILE"
_AS_PARENT = (
    ",remoteParentSampled:AlwaysOnSampler,remoteParentNotSampled:AlwaysOffSampler"
    ",localParentSampled:AlwaysOnSampler,localParentNotSampled:AlwaysOffSampler}"
)
_OTLP_PORTS = {"grpc": 4317, "http": 4318}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at. `remedy` says what to do about it; empty: nothing."""

    topic: str  # provider | exporter | endpoint | sampling | dropped | file | capture | metrics | propagation
    status: Status
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.status:8} {self.topic}: {self.text}" + (f" -> {self.remedy}" if self.remedy else "")


def diagnose(*, connect: bool = True) -> list[Finding]:
    """Look at the telemetry of this process. `connect`: also try, for two seconds each, to reach the OTLP endpoints."""
    found = [_switch(), _provider()]
    provider = _in_use()
    found += _processors(provider)
    found += [_sampling(provider)]
    if connect:
        found += _endpoints(provider)
    found += _losses()
    found += [_capture(), _metrics(), _propagation()]
    return found


def _switch() -> Finding:
    if os.environ.get("TRACEDFLOW_TELEMETRY", "on").lower() in ("off", "0", "false", "no"):
        return Finding(topic="switch", status="warning", text="TRACEDFLOW_TELEMETRY is off", remedy="unset it to see anything")
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return Finding(topic="switch", status="warning", text="OTEL_SDK_DISABLED is true: no spans", remedy="unset it to see spans")
    return Finding(topic="switch", status="ok", text="telemetry is on")


def _in_use() -> Any:
    """Return the provider that spans go to: that of the last `setup()`, else that of the process."""
    started = _process.current
    return started.provider if started is not None and started.active else trace.get_tracer_provider()


def _provider() -> Finding:
    provider = _in_use()
    if isinstance(provider, trace.ProxyTracerProvider):
        if find_spec("opentelemetry.sdk") is None:
            return Finding(topic="provider", status="problem", text="the SDK is not installed", remedy="pip install opentelemetry-sdk")
        return Finding(topic="provider", status="warning", text="none is set: no spans", remedy="call tracedflow.telemetry.setup()")
    name = f"{type(provider).__module__}.{type(provider).__qualname__}"
    started = _process.current is not None and _process.current.provider is provider
    return Finding(topic="provider", status="ok", text=f"{name}, {'set by setup()' if started else 'set by the application'}")


def _leaves(processor: Any) -> list[Any]:
    """Return the processors inside a processor that only passes on."""
    inner = getattr(processor, "_span_processors", None) or getattr(processor, "to", None)
    if inner is not None:
        return [leaf for each in inner for leaf in _leaves(each)]
    wrapped = getattr(processor, "inner", None)
    return [processor] if wrapped is None else _leaves(wrapped)


def _exporters(provider: Any) -> list[tuple[Any, Any]]:
    """Return (processor, exporter) of each that has one; from the SDK's private parts, as there are no public ones."""
    found: list[tuple[Any, Any]] = []
    for leaf in _leaves(getattr(provider, "_active_span_processor", None)):
        exporter = getattr(leaf, "span_exporter", None) or getattr(getattr(leaf, "_batch_processor", None), "_exporter", None)
        if exporter is not None:
            found.append((leaf, getattr(exporter, "inner", exporter)))
    return found


def _processors(provider: Any) -> list[Finding]:
    found: list[Finding] = []
    for processor, exporter in _exporters(provider):
        name = f"{type(processor).__name__} to {type(exporter).__name__}"
        if type(processor).__name__ == "SimpleSpanProcessor":
            remedy = "use BatchSpanProcessor: this one stops the event loop for every span"
            found.append(Finding(topic="exporter", status="problem", text=name, remedy=remedy))
        else:
            found.append(Finding(topic="exporter", status="ok", text=name))
    telemetry = _process.current
    if telemetry is not None and telemetry.file is not None:
        found.append(_file(telemetry.file))
    elif os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none":
        found.append(Finding(topic="exporter", status="info", text="no spans are sent, as OTEL_TRACES_EXPORTER says"))
    elif not found and not isinstance(provider, trace.ProxyTracerProvider):
        found.append(
            Finding(topic="exporter", status="warning", text="none: spans are made and go nowhere", remedy="pip install 'tracedflow[otlp]'")
        )
    return found


def _file(file: Any) -> Finding:
    if file.failed:
        return Finding(
            topic="file", status="problem", text=f"{file.path}: {file.failed} lines could not be written", remedy="is the disk full?"
        )
    if not _is_writable(file.path):
        remedy = f"make its folder, or give another place in {_FILE_VARIABLE}"
        return Finding(topic="file", status="problem", text=f"{file.path} cannot be written", remedy=remedy)
    size = file.path.stat().st_size if file.path.exists() else 0
    return Finding(topic="file", status="ok", text=f"{file.path}, {size} bytes")


def _is_writable(path: Path) -> bool:
    """Return whether a file could be written, and made if it is not there, with its folders."""
    if path.exists():
        return path.is_file() and os.access(path, os.W_OK)
    folder = next(each for each in path.absolute().parents if each.exists())
    return folder.is_dir() and os.access(folder, os.W_OK)


def _sampling(provider: Any) -> Finding:
    sampler = getattr(provider, "sampler", None)
    if sampler is None:
        return Finding(topic="sampling", status="info", text="unknown: the provider names no sampler")
    text = str(sampler.get_description())
    if "AlwaysOff" in text.partition("root:")[2].partition(",")[0] or text.startswith("AlwaysOff"):
        return Finding(topic="sampling", status="warning", text=f"{text}: no spans", remedy="set OTEL_TRACES_SAMPLER")
    return Finding(topic="sampling", status="ok", text=text.replace(_AS_PARENT, "}, else as the parent"))


def _endpoints(provider: Any) -> list[Finding]:
    wanted: dict[tuple[str, str], None] = {}
    for _, exporter in _exporters(provider):
        address = getattr(exporter, "_endpoint", None)
        if isinstance(address, str) and address:
            wanted[address, "grpc" if ".grpc." in type(exporter).__module__ else "http"] = None
    if _process.current is not None and _process.current.active:
        wanted.update(dict.fromkeys(_other_endpoints()))
    found = {str(each): each for each in (_reach(address, protocol) for address, protocol in wanted)}
    return [*found.values()]


def _other_endpoints() -> list[tuple[str, str]]:
    """Return (address, protocol) of where `setup()` sends metrics and logs."""
    from .sdk._exporters import asked, default_endpoint, endpoint, protocol

    signals: tuple[Literal["METRICS", "LOGS"], ...] = ("METRICS", "LOGS")
    return [(endpoint(each) or default_endpoint(each), protocol(each)) for each in signals if "otlp" in asked(each, "none")]


def _is_asked() -> bool:
    """Return whether the environment says where telemetry goes: what `setup()` does by itself is nobody's mistake."""
    started = _process.current is not None and _process.current.active
    return not started or any(name.startswith("OTEL_") and value and ("_EXPORTER" in name) for name, value in os.environ.items())


def _reach(address: str, protocol: str) -> Finding:
    parts = urlsplit(address if "://" in address else f"//{address}")
    host, port = parts.hostname or "localhost", parts.port or (443 if parts.scheme == "https" else _OTLP_PORTS[protocol])
    try:
        socket.create_connection((host, port), _CONNECT).close()
    except OSError as error:
        remedy = "start a collector there, or set OTEL_EXPORTER_OTLP_ENDPOINT"
        status: Status = "problem" if _is_asked() else "warning"
        return Finding(topic="endpoint", status=status, text=f"{host}:{port} ({protocol}) cannot be reached: {error}", remedy=remedy)
    return Finding(topic="endpoint", status="ok", text=f"{host}:{port} ({protocol}) takes connections")


def _losses() -> list[Finding]:
    telemetry = _process.current
    if telemetry is None:
        return []
    found: list[Finding] = []
    for pipeline, counted in telemetry.pipelines:
        waiting = len(getattr(getattr(pipeline.inner, "_batch_processor", None), "_queue", ()))
        lost = max(0, pipeline.passed - counted.taken - waiting)
        text = f"{counted.arrived} spans arrived, {waiting} wait, {counted.failed} failed, {lost} found the queue full"
        text += f", {pipeline.dropped} of unfinished joins were left out on purpose"
        remedy = "raise OTEL_BSP_MAX_QUEUE_SIZE, or sample" if lost else "see endpoint" if counted.failed else ""
        found.append(Finding(topic="dropped", status="warning" if remedy else "ok", text=text, remedy=remedy))
    return found


def _capture() -> Finding:
    match level():
        case "none":
            return Finding(topic="capture", status="ok", text=f"{VARIABLE}=none: no payloads, and of exceptions type and place only")
        case "types":
            return Finding(topic="capture", status="ok", text="types and ids; exception texts go out with payload values masked")
        case "summary":
            return Finding(topic="capture", status="info", text="names, types and sizes of fields")
        case "full":
            return Finding(topic="capture", status="warning", text="payload values go out", remedy=f"unset {VARIABLE} where data is real")


def _metrics() -> Finding:
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        return Finding(topic="metrics", status="info", text="multiprocess mode: no exemplars, and gauges of what is live up to 5 s old")
    text = "registered with prometheus_client at the first run; exemplars are shown to scrapes that accept OpenMetrics"
    return Finding(topic="metrics", status="ok", text=text)


def _propagation() -> Finding:
    fields = sorted(propagate.get_global_textmap().fields)
    return Finding(topic="propagation", status="ok" if "traceparent" in fields else "info", text=", ".join(fields) or "nothing")
