"""`telemetry.setup()` in this process: started, ended and started again; and whatever it is made of, one by one."""

from __future__ import annotations

import asyncio
import atexit
import json
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

import pytest
from opentelemetry import _logs, metrics, trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.util._once import Once
from prometheus_client import CollectorRegistry

from tracedflow import Context, Event, StartEvent, StopEvent, Workflow, step, telemetry
from tracedflow._engine import _live
from tracedflow.inspect.trace_file import read_runs
from tracedflow.telemetry import DropCollecting, Logs, Metrics, Tracing, _process, redaction, sdk, tracing
from tracedflow.telemetry.sdk import _exporters
from tracedflow.telemetry.sdk._processors import Counted, Relay, TraceFile
from tracedflow.telemetry.tracing import _endings
from tracedflow.testing.otlp import OtlpSink


@pytest.fixture(scope="module")
def sink() -> Iterator[OtlpSink]:
    with OtlpSink() as sink:
        yield sink


@pytest.fixture(autouse=True)
def _as_new(monkeypatch: pytest.MonkeyPatch, sink: OtlpSink) -> Iterator[None]:
    """What a process has before its first `setup()`; OpenTelemetry has no public way back."""
    for name in [name for name in os.environ if name.startswith(("OTEL_", "TRACEDFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", sink.http_endpoint)
    for module, name, value in (
        (trace, "_TRACER_PROVIDER", None),
        (trace, "_TRACER_PROVIDER_SET_ONCE", Once()),
        (metrics._internal, "_METER_PROVIDER", None),
        (metrics._internal, "_METER_PROVIDER_SET_ONCE", Once()),
        (_logs._internal, "_LOGGER_PROVIDER", None),
        (_logs._internal, "_LOGGER_PROVIDER_SET_ONCE", Once()),
        (sdk, "_set", None),
        (sdk, "_already_set", set()),
        (_process, "current", None),
        (tracing, "provider_in_use", None),
        (tracing, "on_record", None),
        (_endings, "logger_provider", None),
        (redaction, "_own", None),
        (telemetry.metrics, "_by_registry", WeakKeyDictionary()),
        (_live, "flush", None),
        (atexit, "register", lambda job: None),
    ):
        monkeypatch.setattr(module, name, value)
    sink.answer = 200
    sink.clear()
    yield
    if _process.current is not None:
        assert _process.current.shutdown()
    telemetry.metrics.use_meter_provider(None)


class Item(Event):
    pass


class Flow(Workflow):
    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> Item | None:
        for _ in range(3):
            ctx.send_event(Item())
        return None

    @step(num_workers=2)
    async def end(self, ctx: Context, ev: Item) -> StopEvent | None:
        logging.getLogger("shop").warning("item of %s", ctx.run_id)
        return None if ctx.collect_events(ev, [Item] * 3) is None else StopEvent(result="done")


class Fails(Workflow):
    @step
    async def only(self, ev: StartEvent) -> StopEvent:
        raise ConnectionError("refused")


def services(sink: OtlpSink) -> list[tuple[str, str]]:
    return sorted((span.name, span.resource["service.name"]) for span in sink.spans)


EXPECTED = ["invoke_workflow Flow", "run_step begin", "run_step end"]  # not the unfinished joins


# ------------------------------------------------------------------------------------------------------ again


async def test_a_second_setup_after_a_shutdown_sends_where_it_says_also_what_the_application_traces(sink: OtlpSink) -> None:
    flow = Flow(telemetry=False, middleware=[Tracing()])
    first = telemetry.setup(service_name="first")
    assert telemetry.setup(service_name="ignored") is first
    await flow.run()
    assert await telemetry.flush()
    assert services(sink) == [(name, "first") for name in EXPECTED]
    assert await telemetry.shutdown()
    assert await telemetry.shutdown()
    assert await telemetry.flush()
    sink.clear()

    await flow.run()  # nobody listens
    assert not first.active

    second = telemetry.setup(service_name="second")
    assert second is not first
    assert second.active
    await flow.run()
    trace.get_tracer("shop").start_span("of the application").end()
    assert await telemetry.flush()
    assert [name for name, service in services(sink) if service == "second"] == EXPECTED
    assert [name for name, service in services(sink) if service == "first"] == ["of the application"]
    assert [finding.text for finding in telemetry.diagnose() if finding.topic == "provider"] == [
        "opentelemetry.sdk.trace.TracerProvider, set by setup()"
    ]
    assert await telemetry.shutdown()
    sink.clear()

    third = telemetry.setup()
    await flow.run()
    trace.get_tracer("shop").start_span("of the application").end()
    third.flush()
    assert len(sink.spans) == 4


async def test_each_setup_writes_its_own_file(tmp_path: Path) -> None:
    flow = Flow(telemetry=False, middleware=[Tracing(), Logs()])
    lines: list[int] = []
    for number in range(2):
        path = tmp_path / f"{number}.jsonl"
        telemetry.setup(trace_file=path, logs=True)
        await flow.run()
        await telemetry.shutdown()
        (run,) = read_runs(path)
        assert (run.workflow, len(run.attempts)) == ("Flow", 4)
        lines.append(len(path.read_text().splitlines()))
        await flow.run()
        assert len(path.read_text().splitlines()) == lines[-1]
    assert lines[0] == lines[1]
    assert "item of" in (tmp_path / "0.jsonl").read_text()


async def test_metrics_follow_a_second_setup_and_gauges_keep_their_values(sink: OtlpSink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "otlp")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    registry = CollectorRegistry()
    flow = Flow(telemetry=False, middleware=[Metrics(registry)])
    await flow.run()  # before there is anything to send it to
    counted: list[tuple[Any, Any]] = []
    for _ in range(2):
        telemetry.setup()
        await flow.run()
        await telemetry.shutdown()
        found = {
            metric.name: metric
            for request in sink.metrics
            for batch in request.resource_metrics
            for scope in batch.scope_metrics
            for metric in scope.metrics
        }
        limits = {point.as_double or point.as_int for point in found["tracedflow.step.concurrency_limit"].gauge.data_points}
        counted.append((found["tracedflow.runs"].sum.data_points[0].as_int, max(limits)))
        assert "tracedflow.run.oldest_age" in found
        sink.clear()
    assert counted == [(1, 4), (1, 4)]
    assert registry.get_sample_value("tracedflow_runs_total", {"workflow": "Flow", "outcome": "success"}) == 3


async def test_exceptions_as_logs_follow_a_second_setup(sink: OtlpSink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", "otlp")
    monkeypatch.setenv("OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN", "logs")
    for number in range(2):
        telemetry.setup(service_name=f"shop {number}")
        with pytest.raises(ConnectionError):
            await Fails(telemetry=False, middleware=[Tracing()]).run()
        await telemetry.shutdown()
        (request,) = sink.logs
        resource = {pair.key: pair.value.string_value for pair in request.resource_logs[0].resource.attributes}
        assert resource["service.name"] == f"shop {number}"
        assert "refused" in str(request)
        sink.clear()


# ------------------------------------------------------------------------------------------------------ not at all


async def test_without_setup_there_is_nothing_to_flush_or_end() -> None:
    assert await telemetry.flush()
    assert await telemetry.shutdown()


async def test_switched_off_nothing_is_started_and_may_be_later(monkeypatch: pytest.MonkeyPatch, sink: OtlpSink) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    off = telemetry.setup()
    assert (off.active, off.provider, off.closer) == (False, None, None)
    assert await telemetry.flush()
    assert await telemetry.shutdown()
    monkeypatch.delenv("OTEL_SDK_DISABLED")
    assert telemetry.setup().active


def test_whatever_fails_while_it_starts_is_logged_and_the_application_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*facts: object) -> Any:
        raise RuntimeError("a detector is broken")

    monkeypatch.setattr(Resource, "create", broken)
    assert not telemetry.setup().active
    assert "telemetry could not be started as its settings ask" in caplog.text


def test_a_provider_of_the_application_that_takes_no_processors_is_kept_without_a_file(tmp_path: Path) -> None:
    trace.set_tracer_provider(trace.NoOpTracerProvider())
    started = telemetry.setup(trace_file=tmp_path / "runs.jsonl")
    assert started.provider is None
    assert started.file is None
    assert not (tmp_path / "runs.jsonl").exists()


async def test_a_provider_of_the_application_gets_the_file_and_is_not_ended(tmp_path: Path) -> None:
    kept = InMemorySpanExporter()
    mine = TracerProvider(shutdown_on_exit=False)
    mine.add_span_processor(SimpleSpanProcessor(kept))
    trace.set_tracer_provider(mine)
    flow = Flow(telemetry=False, middleware=[Tracing()])
    for number in range(2):
        telemetry.setup(trace_file=tmp_path / f"{number}.jsonl")
        await flow.run()
        await telemetry.shutdown()
    await flow.run()
    assert len(kept.get_finished_spans()) == 15
    assert [len(list(read_runs(tmp_path / f"{number}.jsonl"))) for number in range(2)] == [1, 1]
    mine.shutdown()


# ------------------------------------------------------------------------------------------------------ the end, bounded


def test_a_flush_that_hangs_is_given_up_and_one_that_raises_keeps_none_from_its_turn() -> None:
    stuck, done = threading.Event(), threading.Event()

    def broken() -> None:
        raise OSError("the exporter is broken")

    started = telemetry.Telemetry(closer=_process.Closer(), flushes=[stuck.wait], shutdowns=[broken, lambda: done.set()])
    assert not started.flush(0.01)
    stuck.set()
    assert started.shutdown()
    assert done.is_set()
    assert started.flush(0.01)


def test_a_thread_that_was_let_go_does_not_come_back_in_a_forked_child() -> None:
    closer = _process.Closer()
    assert closer.run(lambda: None, 5)
    closer.end()
    jobs = closer._jobs
    closer._start()  # as after a fork
    assert closer._jobs is jobs


# ------------------------------------------------------------------------------------------------------ exporters


@pytest.mark.parametrize(
    ("text", "otherwise", "names"),
    [("", "otlp", ["otlp"]), ("none", "otlp", []), (" OTLP , console,none", "none", ["otlp", "console"]), ("", "none", [])],
)
def test_exporters_are_asked_for_by_the_standard_variable(
    text: str, otherwise: str, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", text)
    assert _exporters.asked("TRACES", otherwise) == names


def test_the_variable_of_a_signal_goes_before_that_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    assert (_exporters.endpoint("LOGS"), _exporters.protocol("LOGS")) == ("http://all", "http")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://logs")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "grpc")
    assert (_exporters.endpoint("LOGS"), _exporters.protocol("LOGS")) == ("http://logs", "grpc")
    assert _exporters.default_endpoint("LOGS").endswith(":4317")
    assert _exporters.default_endpoint("TRACES").endswith(":4318")


def test_an_unknown_protocol_is_said_and_http_is_used(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "carrier-pigeon")
    assert _exporters.protocol("TRACES") == "http"
    assert "OTEL_EXPORTER_OTLP_PROTOCOL=carrier-pigeon is not known here" in caplog.text


@pytest.mark.parametrize("signal", ["TRACES", "METRICS", "LOGS"])
def test_what_cannot_be_made_is_said_and_left_out(signal: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def missing(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    (console,) = _exporters.made(signal, ["console", "prometheus" if signal == "METRICS" else "zipkin"])
    assert type(console).__name__.startswith("Console")
    assert (f"OTEL_{signal}_EXPORTER=zipkin is not known here" in caplog.text) is (signal != "METRICS")
    monkeypatch.setattr(_exporters, "import_module", missing)
    assert _exporters.made(signal, ["otlp"]) == []
    assert "pip install 'tracedflow[otlp]'" in caplog.text


def test_an_exporter_whose_settings_are_wrong_is_left_out(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def refuse() -> Any:
        raise ValueError("no such compression")

    monkeypatch.setattr(_exporters, "import_module", lambda name: SimpleNamespace(OTLPSpanExporter=refuse))
    assert _exporters.made("TRACES", ["otlp"]) == []
    assert "the exporter could not be made" in caplog.text


# ------------------------------------------------------------------------------------------------------ processors


class Told(SpanProcessor):
    def __init__(self) -> None:
        self.heard: list[str] = []
        self.arrives = True

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self.heard.append(f"start {span.name}")

    def on_end(self, span: ReadableSpan) -> None:
        self.heard.append(f"end {span.name}")

    def shutdown(self) -> None:
        self.heard.append("shutdown")

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        self.heard.append(f"flush {timeout_millis}")
        return self.arrives


def collecting(provider: TracerProvider, name: str = "run_step join", **facts: Any) -> Any:
    return provider.get_tracer("test").start_span(name, attributes={"tracedflow.outcome": "collecting", **facts})


def test_only_joins_that_say_nothing_are_dropped() -> None:
    told = Told()
    drops, provider = DropCollecting(told), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(drops)
    collecting(provider).end()
    collecting(provider, **{"tracedflow.emitted": ["Item"]}).end()
    collecting(provider, "attempt join").end()
    parent = collecting(provider)
    with trace.use_span(parent):
        provider.get_tracer("test").start_span("child").end()
    parent.end()
    assert [heard for heard in told.heard if heard.startswith("end")] == [
        "end run_step join",
        "end attempt join",
        "end child",
        "end run_step join",
    ]
    assert (drops.dropped, drops.passed) == (1, 4)
    told.arrives = False
    assert not provider.force_flush(1000)
    provider.shutdown()
    assert told.heard[-1] == "shutdown"


class Backend(SpanExporter):
    def __init__(self) -> None:
        self.answers: list[SpanExportResult | Exception] = []
        self.ended = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def shutdown(self) -> None:
        self.ended = True

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return timeout_millis > 5


def test_what_arrived_and_what_failed_is_counted_also_when_the_exporter_raises() -> None:
    backend = Backend()
    counted = Counted(backend)
    backend.answers = [SpanExportResult.SUCCESS, SpanExportResult.FAILURE, OSError("broken")]
    span: Any = object()
    assert counted.export([span, span]) is SpanExportResult.SUCCESS
    assert counted.export([span]) is SpanExportResult.FAILURE
    with pytest.raises(OSError, match="broken"):
        counted.export([span, span, span])
    assert (counted.taken, counted.arrived, counted.failed) == (6, 2, 4)
    assert counted.force_flush(10)
    assert not counted.force_flush(1)
    counted.shutdown()
    assert backend.ended


def test_a_relay_passes_on_to_all_and_after_its_end_to_none() -> None:
    first, second, relay = Told(), Told(), Relay()
    relay.add(first)
    relay.add(second)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(relay)
    provider.get_tracer("test").start_span("one").end()
    first.arrives = False
    assert not relay.force_flush(7)
    relay.shutdown()
    provider.get_tracer("test").start_span("two").end()
    assert relay.force_flush()
    assert first.heard == second.heard == ["start one", "end one", "flush 7", "shutdown"]


def test_a_closed_file_is_not_opened_again(tmp_path: Path) -> None:
    file = TraceFile(tmp_path / "deep" / "runs.jsonl", Resource.get_empty())
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(file)
    provider.get_tracer("test").start_span("one").end()
    assert file.force_flush()
    provider.shutdown()
    provider.get_tracer("test").start_span("two").end()
    file.shutdown()
    (line,) = (tmp_path / "deep" / "runs.jsonl").read_text().splitlines()
    assert json.loads(line)["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["name"] == "one"


def test_nothing_is_left_behind_by_many_setups() -> None:
    before = threading.active_count()
    for _ in range(3):
        assert telemetry.setup().shutdown()
    for thread in threading.enumerate():
        if thread.name == "tracedflow-telemetry":
            thread.join(5)
    assert threading.active_count() <= before


async def test_a_run_that_lives_through_a_shutdown_ends_as_it_would() -> None:
    telemetry.setup()
    go_on = asyncio.Event()

    class Waits(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            await go_on.wait()
            return StopEvent(result="done")

    handler = Waits(telemetry=False, middleware=[Tracing()]).run()
    await asyncio.sleep(0)
    await telemetry.shutdown()
    go_on.set()
    assert await handler == "done"
