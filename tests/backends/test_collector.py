from __future__ import annotations

import asyncio
import logging
import subprocess
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry._logs import LogRecord
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor

from tests.backends.conftest import running
from tests.backends.services import ROOT, Collector, Jaeger, Missing, Prometheus, eventually, get, program
from tests.backends.workload import Answer, Asks, Counting, Fails, Quick, Retries, Slow, Stalls, provided, run, traced
from tracedflow import Context, RunOptions, StartEvent, StopEvent, Workflow, step
from tracedflow.telemetry import LogCorrelation
from tracedflow.testing.otlp import OtlpSink


def test_the_collector_loads_our_file_without_a_warning() -> None:
    try:
        otelcol = program("otelcol")
    except Missing as reason:
        pytest.skip(f"not installed: {reason}")
    checked = subprocess.run([otelcol, "validate", "--config", ROOT / "otel-collector.yaml"], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


async def test_tail_sampling_keeps_each_promised_class_whole_and_drops_the_rest(jaeger: Jaeger, collector: Collector) -> None:
    with traced(collector.otlp_grpc, grpc=True) as (layer, exporter):
        options = {"middleware": [layer], "telemetry": False}
        slow = asyncio.create_task(run(Slow(**options), seconds=10.3))
        unremarkable = [(await run(Quick(**options)))[0] for _ in range(5)]
        kept = {
            "errors": (await run(Fails(**options)))[0],
            "retried": (await run(Retries(**options)))[0],
            "timed out": (await run(Slow(timeout=0.05, **options), seconds=5))[0],
            "stalled": (await run(Stalls(**options)))[0],
            "cancelled": await _cancelled(Slow(**options)),
            "resumed": await _paused_and_resumed(Asks(**options)),
            "slow": (await slow)[0],
        }
    assert exporter.refused == 0
    for kind, trace_id in kept.items():
        given = sorted(name for its_trace, name in exporter.given if its_trace == trace_id)
        eventually(lambda: sorted(s["operationName"] for s in jaeger.trace(trace_id)) == given, what=f"{kind}: {given}")  # noqa: B023
    for trace_id in unremarkable:  # the decision on the kept ones fell later than on these
        assert jaeger.trace(trace_id) == []
    _nothing_is_lost(collector, exporter)


async def _cancelled(flow: Slow) -> str:
    handler = flow.run(seconds=5)
    while not handler.why().running:
        await asyncio.sleep(0.01)
    await handler.cancel_run()
    return next(record.trace_id for record in handler.record if record.trace_id)


async def _paused_and_resumed(flow: Asks) -> str:
    first = flow.run(options=RunOptions(tags={"kind": "paused"}))
    while not first.why().waits:
        await asyncio.sleep(0.01)
    saved = first.ctx.to_dict()
    await first.cancel_run()
    second = flow.run(ctx=Context.from_dict(flow, saved))
    while not second.why().running and not second.why().waits:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    await second.send_event(Answer())
    assert await second == "answered"
    return next(record.trace_id for record in second.record if record.trace_id)


def _nothing_is_lost(collector: Collector, exporter: Counting) -> None:
    counts = collector.counts()
    refused = {name: n for name, n in counts.items() if n and ("refused" in name or "failed" in name or "dropped_spans" in name)}
    assert refused == {}
    accepted = sum(n for name, n in counts.items() if name.startswith("otelcol_receiver_accepted_spans"))
    assert accepted >= len(exporter.given)


async def test_span_metrics_count_every_run_also_those_that_sampling_drops(collector: Collector) -> None:
    runs = 20
    with traced(collector.otlp_http) as (layer, _):
        for _ in range(runs):
            await run(Quick(workflow_name="CountedBySpans", middleware=[layer], telemetry=False))

    def counted() -> bool:
        text = str(get(f"http://{collector.span_metrics}/metrics"))
        lines = [line for line in text.splitlines() if "calls" in line and 'tracedflow_workflow_name="CountedBySpans"' in line]
        steps = sum(float(line.partition("} ")[2].split()[0]) for line in lines if 'tracedflow_step_name="work"' in line)
        return steps == 3 * runs

    eventually(counted, within=40, what="3 steps of each of 20 runs in the span metrics")


def test_prometheus_takes_the_span_metrics_and_the_collectors_own(collector: Collector, tmp_path: Path) -> None:
    with traced(collector.otlp_http) as (layer, _):
        asyncio.run(run(Quick(workflow_name="Scraped", middleware=[layer], telemetry=False)))
    targets = {"spans": collector.span_metrics, "collector": collector.own_metrics}  # as in dashboards/prometheus.yml
    with running(lambda: Prometheus(tmp_path, targets)) as prometheus:
        eventually(lambda: prometheus.query('traces_spanmetrics_calls_total{job="backend-tests", tracedflow_workflow_name="Scraped"}'))
        eventually(lambda: prometheus.query("otelcol_receiver_accepted_spans > 0"))
        assert prometheus.query("sum(up)")[0]["value"][1] == "2"


async def test_secrets_in_attributes_of_other_libraries_do_not_pass(jaeger: Jaeger, collector: Collector) -> None:
    with provided(collector.otlp_http) as (provider, _):
        span = provider.get_tracer("some.http.client").start_span("request")
        span.set_attribute("http.request.header.authorization", "Bearer abcdefghijklmnopqrstuvwxyz")
        span.set_attribute("url", "https://x.test/?mail=ada@example.com")
        span.set_status(trace.StatusCode.ERROR)
        span.end()
        trace_id = format(span.get_span_context().trace_id, "032x")
    found = eventually(lambda: jaeger.trace(trace_id))
    shown = str(found)
    assert "abcdefghijklmnop" not in shown
    assert "ada@example.com" not in shown


async def test_logs_pass_with_their_run_and_without_their_secrets(tmp_path: Path) -> None:
    with OtlpSink() as loki, running(lambda: Collector(tmp_path, "127.0.0.1:1", logs_to=loki.http_endpoint)) as collector:
        exporter = OTLPLogExporter(endpoint=f"{collector.otlp_http}/v1/logs")
        provider = LoggerProvider()
        provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
        logger = logging.getLogger("tests.backends.logs")
        handler = Sending(provider.get_logger("tests"))
        handler.addFilter(LogCorrelation())
        logger.addHandler(handler)
        try:
            _, ran = await run(Logging(telemetry=True))
        finally:
            logger.removeHandler(handler)
            provider.shutdown()
        (request,) = eventually(lambda: loki.logs)
    (record,) = (record for resource in request.resource_logs for scope in resource.scope_logs for record in scope.log_records)
    attributes = {pair.key: pair.value.string_value for pair in record.attributes}
    assert attributes["run_id"] == ran.run_id
    assert attributes["step"] == "say"
    assert "ada@example.com" not in str(record)


class Logging(Workflow):
    @step
    async def say(self, ev: StartEvent) -> StopEvent:
        logging.getLogger("tests.backends.logs").warning("mail from ada@example.com")
        return StopEvent()


class Sending(logging.Handler):
    """The least handler that sends records with their fields."""

    def __init__(self, sender: Any) -> None:
        super().__init__()
        self.sender = sender

    def emit(self, record: logging.LogRecord) -> None:
        fields = {"run_id": record.run_id, "step": record.step}  # type: ignore[attr-defined]
        self.sender.emit(LogRecord(body=record.getMessage(), attributes=fields))
