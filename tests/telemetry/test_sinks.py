"""Where metrics go: Prometheus with exemplars, OpenTelemetry beside it, an ASGI app, and many processes at once."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.telemetry.conftest import Spans
from tests.telemetry.programs import WORKERS, Everything, answered
from tracedflow import Event, StartEvent, StopEvent, Workflow, step
from tracedflow.telemetry import Metrics, Tracing, metrics_app, names

ROOT = Path(__file__).resolve().parents[2]


class Quick(Workflow):
    @step
    async def only(self, ev: StartEvent) -> StopEvent:
        return StopEvent()


def points(reader: InMemoryMetricReader) -> dict[str, list[Any]]:
    data = reader.get_metrics_data()
    assert data is not None
    return {
        metric.name: list(metric.data.data_points)
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


async def test_opentelemetry_gets_what_prometheus_gets() -> None:
    registry, reader = CollectorRegistry(), InMemoryMetricReader()
    layer = Metrics(registry, meter_provider=MeterProvider([reader]))
    await answered(Everything(timeout=30, telemetry=False, middleware=[layer]).run())
    found = points(reader)
    compared = 0
    for spec in names.METRICS:
        if spec.kind != "counter":
            continue
        ours = {
            tuple(sample.labels[label] for label in spec.labels): sample.value
            for family in registry.collect()
            for sample in family.samples
            if sample.name == spec.name
        }
        theirs = {
            tuple(point.attributes[names.OTEL_LABELS.get(label, label)] for label in spec.labels): point.value
            for point in found.get(spec.otel, [])
        }
        assert ours == theirs
        compared += len(ours)
    assert compared > 20
    (work,) = [point for point in found["tracedflow.step.duration"] if point.attributes["tracedflow.step.name"] == "work"]
    assert work.count == WORKERS
    assert list(work.explicit_bounds) == list(names.STEP_DURATION.buckets)
    assert all(point.value == 0 for point in found["tracedflow.run.active"])


def test_every_metric_has_a_name_of_its_own_in_opentelemetry() -> None:
    found = [spec.otel for spec in names.METRICS]
    assert len(set(found)) == len(found)
    assert {"tracedflow.runs", "tracedflow.run.duration", "tracedflow.run.active", "tracedflow.step.attempts"} <= set(found)


async def scrape(app: Any, accept: str) -> tuple[str, str]:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "method": "GET", "path": "/metrics", "query_string": b"", "headers": [(b"accept", accept.encode())]}
    await app(scope, receive, send)
    kind = dict(sent[0]["headers"])[b"Content-Type"].decode()
    return kind, b"".join(message.get("body", b"") for message in sent).decode()


async def test_the_app_shows_exemplars_to_who_accepts_them(spans: Spans) -> None:
    registry = CollectorRegistry()
    await Quick(telemetry=False, middleware=[Tracing(spans.provider), Metrics(registry)]).run()
    kind, text = await scrape(metrics_app(registry), "application/openmetrics-text; version=1.0.0")
    assert "openmetrics" in kind
    exemplars = {
        (family.name, sample.exemplar.labels["span_id"])
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.exemplar is not None
    }
    step_id, run_id = (format(spans.one(name).context.span_id, "016x") for name in ("run_step only", "invoke_workflow Quick"))
    assert exemplars == {("tracedflow_step_duration_seconds", step_id), ("tracedflow_run_duration_seconds", run_id)}
    kind, text = await scrape(metrics_app(registry), "text/plain")
    assert "trace_id" not in text
    assert 'tracedflow_runs_total{outcome="success",workflow="Quick"} 1.0' in text


async def test_exemplars_of_many_runs_at_once_belong_to_their_own_series(spans: Spans) -> None:
    registry = CollectorRegistry()
    layers = [Tracing(spans.provider), Metrics(registry)]
    flows = [Quick(telemetry=False, middleware=layers, workflow_name=f"flow {number}") for number in range(20)]
    await asyncio.gather(*(flow.run() for flow in flows for _ in range(10)))
    by_id = {format(span.context.span_id, "016x"): span for span in spans.ended}
    found = 0
    for family in registry.collect():
        for sample in family.samples:
            if sample.exemplar is not None:
                span = by_id[sample.exemplar.labels["span_id"]]
                assert (span.attributes or {})["tracedflow.workflow.name"] == sample.labels["workflow"]
                assert sample.exemplar.labels["trace_id"] == format(span.context.trace_id, "032x")
                found += 1
    assert found == 40  # one for the run and one for the step of each workflow, although each ran ten times


async def test_ten_thousand_names_made_from_data_are_bounded_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    kinds = [type(f"Kind{number}", (Event,), {}) for number in range(5_000)]

    class Streams(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            from tracedflow import Context

            context = Context.get_step_context()
            for kind in kinds:
                context.write_event_to_stream(kind())
            return StopEvent()

    registry = CollectorRegistry()
    for number in range(2):
        await Streams(telemetry=False, middleware=[Metrics(registry)], workflow_name=f"w{number}").run()
    (series,) = [family for family in registry.collect() if family.name == "tracedflow_events"]
    counts = [sample for sample in series.samples if sample.name == "tracedflow_events_total"]
    assert len(counts) <= names.MAX_LABEL_SETS + 1
    assert sum(sample.value for sample in counts) >= 10_000
    assert len([record for record in caplog.records if "tracedflow_events_total" in record.getMessage()]) == 1


WORKER = """
from tracedflow import StartEvent, StopEvent, Workflow, step
class Quick(Workflow):
    @step
    async def only(self, ev: StartEvent) -> StopEvent:
        return StopEvent()
for _ in range(5):
    Quick(timeout=5).run_sync()
"""
SCRAPE = """
import asyncio
from tests.telemetry.test_sinks import scrape
from tracedflow.telemetry import metrics_app
print(asyncio.run(scrape(metrics_app(), "text/plain"))[1])
"""


def test_several_processes_are_counted_together(tmp_path: Path) -> None:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    for _ in range(2):
        subprocess.run([sys.executable, "-c", WORKER], env=environment, check=True, timeout=30)
    done = subprocess.run([sys.executable, "-c", SCRAPE], env=environment, check=True, timeout=30, capture_output=True, text=True, cwd=ROOT)
    assert 'tracedflow_runs_total{outcome="success",workflow="Quick"} 10.0' in done.stdout
    assert 'tracedflow_step_duration_seconds_count{outcome="success",step="only",workflow="Quick"} 10.0' in done.stdout
    attempts = 'tracedflow_step_attempts_total{error_type="",outcome="success",step="only",workflow="Quick"} 10.0'
    assert attempts in done.stdout
