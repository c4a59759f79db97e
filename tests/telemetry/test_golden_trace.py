"""The whole trace of one program that does everything, as a backend gets it: names, parents, links, status, attributes, events."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from prometheus_client import CollectorRegistry

from tests.telemetry.programs import UNLUCKY, WORKERS, Everything, answered
from tracedflow import AttemptRecord
from tracedflow.telemetry import DropCollecting, Metrics, Tracing
from tracedflow.testing.otlp import OtlpSink, SinkSpan

STEP_TIMEOUT = "tracedflow.errors.StepTimeoutError"


@pytest.fixture
def sink() -> Iterator[OtlpSink]:
    with OtlpSink() as sink:
        yield sink


def exporter(protocol: str, sink: OtlpSink) -> SpanExporter:
    if protocol == "grpc":
        return GrpcExporter(endpoint=sink.grpc_endpoint, insecure=True)
    return HttpExporter(endpoint=f"{sink.http_endpoint}/v1/traces")


async def ran(provider: TracerProvider, registry: CollectorRegistry | None = None) -> tuple[AttemptRecord, ...]:
    """Run the program inside a request, answered from another one, and return its records."""
    layers = [Tracing(provider), Metrics(registry or CollectorRegistry())]
    handler = Everything(timeout=30, telemetry=False, middleware=layers).run(run_id="outer", topic="payload-of-the-run")
    with provider.get_tracer("user").start_as_current_span("POST /answer"):
        assert await answered(handler) == "done"
    provider.shutdown()
    return tuple(handler.record)


# ------------------------------------------------------------------------------------------------------ the expected tree

WORK_ERROR = {"error.type": "ConnectionError"}


def span(
    name: str,
    parent: str,
    outcome: str | None,
    *links: str,
    status: str = "UNSET",
    message: str = "",
    events: tuple[Any, ...] = (),
    **facts: Any,
) -> dict[str, Any]:
    """What is expected of one span: ids and times are named, not told."""
    run, flow = ("inner", "Inner") if facts.pop("inner", False) else ("outer", "Everything")
    told = {"tracedflow.workflow.name": flow, "tracedflow.run.id": run, **{key.replace("__", "."): value for key, value in facts.items()}}
    if outcome is not None:
        told["tracedflow.outcome"] = outcome
    return {
        "name": name, "parent": parent, "kind": "INTERNAL", "status": status, "message": message, "attributes": told,
        "links": list(links), "events": list(events),
    }  # fmt: skip


def step(
    name: str, event: str, outcome: str, *links: str, cause: str | None = None, emits: str | None = None, **more: Any
) -> dict[str, Any]:
    facts: dict[str, Any] = {"tracedflow__step__name": name, "tracedflow__event__type": event, "tracedflow__event__id": "<id>"}
    facts["tracedflow__step__queue_wait"] = "<seconds>"
    facts["code__function__name"] = f"tests.telemetry.programs.{'Inner' if more.get('inner') else 'Everything'}.{name}"
    if cause is not None:
        facts["tracedflow__trigger__step"] = cause
        links = links or (f"triggered_by {event} from run_step {cause}",)
    if emits is not None:
        facts["tracedflow__emitted"] = [emits]
    parent = "invoke_workflow Inner" if more.get("inner") else "invoke_workflow Everything"
    return span(f"run_step {name}", parent, outcome, *links, **{**facts, **more})


def run_span(name: str, parent: str, **facts: Any) -> dict[str, Any]:
    told = {"gen_ai__operation__name": "invoke_workflow", "gen_ai__workflow__name": name, "tracedflow__run__segment": 1}
    return span(f"invoke_workflow {name}", parent, "success", **told, **facts)


def exception(kind: str, message: str) -> tuple[str, dict[str, str]]:
    return "exception", {"exception.type": kind, "exception.message": message, "exception.stacktrace": "<trace>"}


def retry(number: int) -> tuple[str, dict[str, Any]]:
    return "tracedflow.retry_scheduled", {"tracedflow.retry.delay": 0.0, "tracedflow.step.attempt": number, "error.type": "ConnectionError"}


def work(attempts: int, **more: Any) -> dict[str, Any]:
    facts = {"tracedflow__step__attempts": attempts, "tracedflow__step__max_attempts": 3}
    return step("work", "Task", "success", cause="plan", emits="Done", **facts, **more)


def attempt(number: int, outcome: str, **more: Any) -> dict[str, Any]:
    return span("attempt work", "run_step work", outcome, tracedflow__step__name="work", tracedflow__step__attempt=number, **more)


TOO_SLOW = "Step `slow` (<place>) took longer than its timeout of 0.01 s"
FAILED = {
    "status": "ERROR",
    "message": "refused by ***",
    "events": (exception("ConnectionError", "refused by ***"),),
    "error__type": "ConnectionError",
}
CANCELLED = "tracedflow.cancel_requested", {"tracedflow.cancel.reason": "cancelled"}
DONE = "Done from run_step work"
TREE = [
    span("start_workflow Everything", "", None, tracedflow__run__state="running"),
    run_span("Everything", "start_workflow Everything"),
    step("plan", "StartEvent", "success", emits="Task"),
    *[work(1)] * (WORKERS - 1),
    *[attempt(1, "success")] * (WORKERS - 1),
    work(3, events=(retry(1), retry(2))),
    attempt(1, "error", **FAILED),
    attempt(2, "error", **FAILED),
    attempt(3, "success"),
    *[step("gather", "Done", "collecting", cause="work")] * (WORKERS - 1),
    step("gather", "Done", "success", f"triggered_by {DONE}", *[f"collected {DONE}"] * WORKERS, cause="work", emits="Joined"),
    step(
        "slow", "Joined", "timeout", cause="gather", status="ERROR", message=TOO_SLOW, error__type=STEP_TIMEOUT,
        events=(exception(STEP_TIMEOUT, TOO_SLOW),),
    ),
    step("recover", "StepFailedEvent", "success", cause="slow", emits="GaveUp"),
    step("ask", "GaveUp", "success", cause="recover", emits="Approved"),
    span(
        "wait HumanResponseEvent", "invoke_workflow Everything", "success", "resumed_by HumanResponseEvent from POST /answer",
        tracedflow__wait__event_type="HumanResponseEvent", tracedflow__step__name="ask",
    ),
    step("nest", "Approved", "success", cause="ask", emits="Nested"),
    run_span("Inner", "run_step nest", inner=True, tracedflow__parent_run__id="outer"),
    step("only", "StartEvent", "success", emits="StopEvent", inner=True),
    step("block", "Nested", "success", cause="nest", emits="StopEvent", tracedflow__step__loop_blocked="<seconds>"),
    step("forever", "Joined", "cancelled", cause="gather", events=(CANCELLED,)),
]  # fmt: skip


def told(found: SinkSpan, by_id: dict[str, SinkSpan]) -> dict[str, Any]:
    """Return a span in the form of the expected ones."""

    def name_of(span_id: str) -> str:
        return by_id[span_id].name if span_id else ""

    return {
        "name": found.name, "parent": name_of(found.parent_id), "kind": found.kind, "status": found.status, "message": plain(found.message),
        "attributes": {key: _named(key, value) for key, value in found.attributes.items()},
        "links": [
            f"{link.attributes['tracedflow.link.type']} {link.attributes['tracedflow.event.type']} from {name_of(link.span_id)}"
            for link in found.links
        ],
        "events": [(event.name, {key: _named(key, value) for key, value in event.attributes.items()}) for event in found.events],
    }  # fmt: skip


def plain(text: str) -> str:
    before, opened, rest = text.partition("(")
    return f"{before}(<place>){rest.partition(')')[2]}" if opened else text


def _named(key: str, value: Any) -> Any:
    match key:
        case "tracedflow.event.id":
            return "<id>"
        case "tracedflow.step.queue_wait" | "tracedflow.step.loop_blocked":
            assert 0 <= value < 5
            return "<seconds>"
        case "exception.stacktrace":
            assert "tests/telemetry/programs.py" in value or "took longer" in value
            return "<trace>"
        case _:
            return plain(value) if isinstance(value, str) else value


def sortable(tree: list[dict[str, Any]]) -> list[str]:
    return sorted(json.dumps(each, sort_keys=True) for each in tree)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
async def test_the_whole_trace_arrives_as_the_contract_says(sink: OtlpSink, protocol: str) -> None:
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(exporter(protocol, sink)))
    await ran(provider)
    spans = sink.spans
    assert {found.protocol for found in spans} == {protocol}
    by_id = {found.span_id: found for found in spans}
    assert len(by_id) == len(spans)  # nothing is exported twice
    ours = [found for found in spans if found.scope == "tracedflow"]
    assert sortable([told(found, by_id) for found in ours]) == sortable(TREE)
    assert len({found.trace_id for found in ours}) == 1
    for found in ours:
        assert found.start <= found.end
        if found.parent_id and not found.name.startswith("invoke_workflow Everything"):
            assert by_id[found.parent_id].start <= found.start
            assert found.end <= by_id[found.parent_id].end


async def test_no_payload_of_the_program_is_anywhere_in_its_trace(sink: OtlpSink) -> None:
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(exporter("http", sink)))
    await ran(provider)
    everything = repr(sink.spans)
    assert "payload-of" not in everything


async def test_before_export_only_the_unfinished_joins_are_left_out(sink: OtlpSink) -> None:
    provider = TracerProvider()
    provider.add_span_processor(DropCollecting(BatchSpanProcessor(exporter("http", sink))))
    await ran(provider)
    by_id = {found.span_id: found for found in sink.spans}
    ours = [found for found in sink.spans if found.scope == "tracedflow"]
    kept = [each for each in TREE if each["attributes"].get("tracedflow.outcome") != "collecting"]
    assert len(kept) == len(TREE) - (WORKERS - 1)
    assert sortable([told(found, by_id) for found in ours]) == sortable(kept)  # every parent and link target is still there


async def test_records_spans_and_metrics_tell_the_same(sink: OtlpSink) -> None:
    provider, registry = TracerProvider(), CollectorRegistry()
    provider.add_span_processor(BatchSpanProcessor(exporter("http", sink)))
    records = await ran(provider, registry)
    spans = {found.span_id: found for found in sink.spans}
    outer = [found for found in sink.spans if found.attributes.get("tracedflow.run.id") == "outer"]
    tries = [
        found for found in outer if found.name == "attempt work" or (found.name.startswith("run_step") and found.name != "run_step work")
    ]
    assert len(records) == len(tries)
    told_by_records, told_by_spans, told_by_metrics = {}, {}, {}
    for record in records:
        _count(told_by_records, (record.step, record.outcome))
        found = spans[record.span_id or ""]
        assert found.attributes["tracedflow.outcome"] == record.outcome
        assert abs(found.start / 1e9 - record.started_at) < 1
    for found in tries:
        _count(told_by_spans, (found.attributes["tracedflow.step.name"], found.attributes["tracedflow.outcome"]))
    for family in registry.collect():
        for sample in family.samples:
            if sample.name == "tracedflow_step_attempts_total" and sample.labels["workflow"] == "Everything":
                _count(told_by_metrics, (sample.labels["step"], sample.labels["outcome"]), int(sample.value))
    assert told_by_records == told_by_spans == told_by_metrics
    assert told_by_records["work", "error"] == 2
    assert told_by_records["gather", "collecting"] == WORKERS - 1
    for flow in ("Everything", "Inner"):
        runs = [found for found in sink.spans if found.name == f"invoke_workflow {flow}"]
        assert registry.get_sample_value("tracedflow_runs_total", {"workflow": flow, "outcome": "success"}) == len(runs)


def _count(counts: dict[tuple[str, str], int], key: tuple[str, str], amount: int = 1) -> None:
    counts[key] = counts.get(key, 0) + amount


def test_the_unlucky_task_is_one_of_them() -> None:
    assert 0 <= UNLUCKY < WORKERS
