"""`diagnose()`: what is set, reachable, sampled, dropped and captured, and what to do about it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SimpleSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, Sampler
from opentelemetry.util._once import Once

from tests.telemetry.test_setup_inside import Backend
from tracedflow.telemetry import DropCollecting, Finding, Telemetry, _process, diagnose
from tracedflow.telemetry.sdk._processors import Counted, TraceFile


@pytest.fixture(autouse=True)
def _as_new(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("TRACEDFLOW_TELEMETRY", "TRACEDFLOW_CAPTURE", "OTEL_SDK_DISABLED", "PROMETHEUS_MULTIPROC_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", Once())
    monkeypatch.setattr(_process, "current", None)
    yield
    provider: Any = trace._TRACER_PROVIDER
    if isinstance(provider, TracerProvider):
        provider.shutdown()


def of(topic: str, **options: Any) -> Finding:
    (found,) = [finding for finding in diagnose(**options) if finding.topic == topic]
    return found


def use(*processors: Any, sampler: Sampler | None = None) -> TracerProvider:
    provider = TracerProvider(shutdown_on_exit=False, sampler=sampler)
    for processor in processors:
        provider.add_span_processor(processor)
    trace.set_tracer_provider(provider)
    return provider


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [("TRACEDFLOW_TELEMETRY", "off", "warning"), ("OTEL_SDK_DISABLED", "true", "warning"), ("TRACEDFLOW_TELEMETRY", "on", "ok")],
)
def test_what_is_switched_off_is_said(name: str, value: str, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    found = of("switch")
    assert found.status == status
    assert (name in found.text) is (status == "warning")


def test_without_a_provider_the_remedy_is_setup_and_without_the_sdk_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert of("provider").remedy == "call tracedflow.telemetry.setup()"
    assert of("sampling").status == "info"
    monkeypatch.setattr("tracedflow.telemetry.diagnosis.find_spec", lambda name: None)
    assert str(of("provider")) == "problem  provider: the SDK is not installed -> pip install opentelemetry-sdk"


def test_a_provider_of_the_application_and_its_exporters_are_named() -> None:
    use(SimpleSpanProcessor(ConsoleSpanExporter()), BatchSpanProcessor(Counted(Backend())))
    assert of("provider").text == "opentelemetry.sdk.trace.TracerProvider, set by the application"
    exporters = {finding.text: finding.status for finding in diagnose() if finding.topic == "exporter"}
    assert exporters == {"SimpleSpanProcessor to ConsoleSpanExporter": "problem", "BatchSpanProcessor to Backend": "ok"}


def test_spans_that_go_nowhere_are_said() -> None:
    use()
    assert of("exporter").text.startswith("none: spans are made and go nowhere")


@pytest.mark.parametrize(("sampler", "status"), [(ALWAYS_OFF, "warning"), (ParentBased(ALWAYS_OFF), "warning"), (None, "ok")])
def test_a_sampler_that_keeps_nothing_is_said(sampler: Sampler | None, status: str) -> None:
    use(sampler=sampler)
    assert of("sampling").status == status


class Endpoint(Backend):
    _endpoint = ""


def test_an_endpoint_is_tried_where_that_is_asked_for() -> None:
    backend = Endpoint()
    use(SimpleSpanProcessor(backend))
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        backend._endpoint = f"127.0.0.1:{server.getsockname()[1]}"
        assert of("endpoint").status == "ok"
    refused = of("endpoint")
    assert refused.status == "problem"
    assert "cannot be reached" in refused.text
    assert [finding for finding in diagnose(connect=False) if finding.topic == "endpoint"] == []


def test_a_trace_file_is_named_with_its_size_and_what_it_lost(tmp_path: Path) -> None:
    file = TraceFile(tmp_path / "runs.jsonl", Resource.get_empty())
    provider = use(file)
    _process.current = Telemetry(provider=provider, file=file)
    assert of("file").text == f"{file.path}, 0 bytes"
    provider.get_tracer("test").start_span("one").end()
    assert of("file").status == "ok"
    file.failed = 3
    assert of("file").text.endswith("3 lines could not be written")


def test_losses_are_counted_by_where_they_were() -> None:
    counted = Counted(Backend())
    pipeline = DropCollecting(BatchSpanProcessor(counted, schedule_delay_millis=60_000))
    _process.current = Telemetry(pipelines=[(pipeline, counted)])
    try:
        assert of("dropped").status == "ok"
        counted.taken, counted.arrived, counted.failed, pipeline.passed = 5, 3, 2, 5
        assert of("dropped").remedy == "see endpoint"
        pipeline.passed = 9
        found = of("dropped")
        assert found.remedy == "raise OTEL_BSP_MAX_QUEUE_SIZE, or sample"
        assert "4 found the queue full" in found.text
    finally:
        pipeline.shutdown()


@pytest.mark.parametrize(("level", "status"), [("none", "ok"), ("types", "ok"), ("summary", "info"), ("full", "warning")])
def test_what_is_captured_is_said(level: str, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACEDFLOW_CAPTURE", level)
    assert of("capture").status == status


def test_the_limits_of_several_processes_are_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert of("metrics").status == "ok"
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    assert "no exemplars" in of("metrics").text


def test_the_formats_of_propagation_are_named() -> None:
    assert of("propagation").text == "baggage, traceparent, tracestate"
