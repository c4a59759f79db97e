"""Traces of runs that pause and go on: in this process, in another one, and much later."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from prometheus_client import CollectorRegistry

from tests.telemetry.conftest import Spans
from tests.telemetry.programs import Approval
from tracedflow import Context, HumanResponseEvent, InputRequiredEvent
from tracedflow._engine._ending import suspend
from tracedflow.inspect.trace_file import read_runs
from tracedflow.telemetry import Metrics, Tracing
from tracedflow.testing import run_virtual

ROOT = Path(__file__).resolve().parents[2]


def approval(spans: Spans, *more: Any) -> Approval:
    return Approval(timeout=None, telemetry=False, middleware=[Tracing(spans.provider), *more])


async def paused(flow: Approval) -> dict[str, Any]:
    """Run up to the question; return what is saved. The segment ends as suspended."""
    handler = flow.run(run_id="r1")
    async for event in handler.stream_events():
        if isinstance(event, InputRequiredEvent):
            break
    saved = suspend(handler._runner)  # what `drain(then="snapshot")` does with each run
    with pytest.raises(Exception, match="suspended"):
        await handler
    return json.loads(json.dumps(saved))


async def resumed(flow: Approval, saved: dict[str, Any]) -> object:
    handler = flow.run(ctx=Context.from_dict(flow, saved))
    while not handler.why().waits:
        await asyncio.sleep(0)
    await handler.send_event(HumanResponseEvent(response="yes"))  # the question was asked before the pause, and is not asked again
    return await handler


def facts(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def links(span: ReadableSpan) -> list[tuple[object, int]]:
    return [((link.attributes or {})["tracedflow.link.type"], link.context.span_id) for link in span.links]


async def test_a_resumed_run_is_one_trace_with_two_segments(spans: Spans) -> None:
    registry = CollectorRegistry()
    flow = approval(spans, Metrics(registry))
    saved = await paused(flow)
    with spans.provider.get_tracer("user").start_as_current_span("POST /resume") as request:
        assert await resumed(flow, saved) == "done"
    anchor = spans.one("start_workflow Approval")
    first, second = spans.named("invoke_workflow Approval")
    assert [span.parent.span_id for span in (first, second) if span.parent] == [anchor.context.span_id] * 2
    assert [facts(span)["tracedflow.run.segment"] for span in (first, second)] == [1, 2]
    assert [facts(span)["tracedflow.outcome"] for span in (first, second)] == ["suspended", "success"]
    assert facts(first)["tracedflow.run.state"] == "suspended"
    assert first.status.is_unset
    assert second.status.is_unset
    assert links(second) == [("resumed_from", first.context.span_id), ("resumed_by", request.get_span_context().span_id)]
    assert {span.context.trace_id for span in spans.ended if span.name != "POST /resume"} == {anchor.context.trace_id}
    for outcome in ("suspended", "success"):
        assert registry.get_sample_value("tracedflow_runs_total", {"workflow": "Approval", "outcome": outcome}) == 1


async def test_the_wait_of_a_paused_run_ends_as_suspended_and_its_step_goes_on_when_the_answer_is_there(spans: Spans) -> None:
    flow = approval(spans)
    await resumed(flow, await paused(flow))
    wait = spans.one("wait HumanResponseEvent")
    assert facts(wait)["tracedflow.outcome"] == "suspended"
    assert wait.status.is_unset
    first, second = spans.named("invoke_workflow Approval")
    assert wait.parent == first.context
    assert [span.parent for span in spans.named("run_step ask")] == [first.context, second.context]
    assert [facts(span)["tracedflow.outcome"] for span in spans.named("run_step ask")] == ["suspended", "success"]


async def test_a_step_that_a_snapshot_answers_for_makes_no_span_and_no_count_again(spans: Spans) -> None:
    registry = CollectorRegistry()
    flow = approval(spans, Metrics(registry))
    await resumed(flow, await paused(flow))
    assert len(spans.named("run_step prepare")) == 1
    prepared = {"workflow": "Approval", "step": "prepare", "outcome": "success", "error_type": ""}
    assert registry.get_sample_value("tracedflow_step_attempts_total", prepared) == 1
    sent = {"workflow": "Approval", "event_type": "Joined", "action": "emitted"}
    assert registry.get_sample_value("tracedflow_events_total", sent) == 1


async def test_what_was_sent_before_the_pause_still_links_to_its_sender(spans: Spans) -> None:
    flow = approval(spans)
    await resumed(flow, await paused(flow))
    prepare = spans.one("run_step prepare")
    assert links(spans.named("run_step ask")[1]) == [("triggered_by", prepare.context.span_id)]


@pytest.mark.parametrize(("hours", "traces"), [(0.9, 1), (1.1, 2)])
def test_more_than_an_hour_apart_is_a_new_trace_with_a_link(spans: Spans, hours: float, traces: int) -> None:
    async def main() -> None:
        flow = approval(spans)
        saved = await paused(flow)
        await asyncio.sleep(hours * 3600)
        await resumed(flow, saved)

    run_virtual(main())
    first, second = spans.named("invoke_workflow Approval")
    assert len({first.context.trace_id, second.context.trace_id}) == traces
    assert links(second) == [("resumed_from", first.context.span_id)]
    assert len(spans.named("start_workflow Approval")) == traces  # the new trace has an anchor of its own


async def test_a_short_run_without_anchor_goes_on_under_its_first_segment(spans: Spans) -> None:
    flow = approval(spans)
    with spans.provider.get_tracer("user").start_as_current_span("POST /start"):
        saved = await paused(flow)
    await resumed(flow, saved)
    first, second = spans.named("invoke_workflow Approval")
    assert second.parent is not None
    assert second.parent.span_id == first.context.span_id


RESUME = """
import asyncio, json, sys
from tests.telemetry.programs import Approval
from tests.telemetry.test_segments import resumed
from tracedflow import telemetry
telemetry.setup(trace_file=sys.argv[1])
flow = Approval(timeout=None)
print(asyncio.run(resumed(flow, json.load(sys.stdin))))
"""
PAUSE = """
import asyncio, json, sys
from tests.telemetry.test_segments import paused
from tests.telemetry.programs import Approval
from tracedflow import telemetry
telemetry.setup(trace_file=sys.argv[1])
print(json.dumps(asyncio.run(paused(Approval(timeout=None)))))
"""


def in_a_process(script: str, path: Path, given: str = "") -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(path)],
        env=environment, cwd=ROOT, input=given, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_run_that_goes_on_in_another_process_stays_in_its_trace(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    saved = in_a_process(PAUSE, path)
    (before,) = read_runs(path)
    assert (before.outcome, before.segments) == ("suspended", 1)
    assert in_a_process(RESUME, path, saved).strip() == "done"
    (run,) = read_runs(path)
    assert (run.run_id, run.outcome, run.segments, run.trace_id) == ("r1", "success", 2, before.trace_id)
    assert [(record.step, record.outcome) for record in run.attempts] == [
        ("prepare", "success"), ("ask", "suspended"), ("ask", "success"), ("finish", "success"),
    ]  # fmt: skip
    assert {record.trace_id for record in run.attempts} == {run.trace_id}
    seconds = [
        span for line in path.read_text().splitlines() for span in spans_in(json.loads(line)) if span["name"] == "invoke_workflow Approval"
    ]
    kinds = [pair["value"]["stringValue"] for pair in seconds[1]["links"][0]["attributes"]]
    assert (seconds[1]["links"][0]["spanId"], kinds) == (seconds[0]["spanId"], ["resumed_from"])


def spans_in(line: dict[str, Any]) -> list[dict[str, Any]]:
    return [span for batch in line.get("resourceSpans", []) for scope in batch["scopeSpans"] for span in scope["spans"]]


def test_no_current_span_is_left_behind() -> None:
    assert not trace.get_current_span().get_span_context().is_valid
