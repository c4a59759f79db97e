"""What telemetry costs a step, against the same engine without it, interleaved in one process: a guard against relapses.

The bounds are wide, as a test shares its machine; the figures of the contract are the benchmark's business.
"""

from __future__ import annotations

import asyncio
import gc
import time
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from tracedflow import Event, StartEvent, StopEvent, Workflow, step
from tracedflow.telemetry import Logs, Metrics, Tracing

STEPS = 300
ROUNDS = 8


class Next(Event):
    number: int


class Line(Workflow):
    @step
    async def begin(self, ev: StartEvent) -> Next:
        return Next(number=1)

    @step
    async def work(self, ev: Next) -> Next | StopEvent:
        return Next(number=ev.number + 1) if ev.number < STEPS else StopEvent()


def flow(*layers: Any) -> Line:
    return Line(timeout=60, telemetry=False, middleware=layers)


def bare_spans(provider: TracerProvider) -> None:
    tracer = provider.get_tracer("bare")
    parent = tracer.start_span("parent")
    context = trace.set_span_in_context(parent)
    facts = {f"attribute.{number}": f"value {number}" for number in range(8)}
    for _ in range(STEPS):
        links = [trace.Link(parent.get_span_context(), {"type": "triggered_by", "event": "Next"})]
        tracer.start_span("bare", context=context, attributes=facts, links=links).end()
    parent.end()


async def test_a_step_with_telemetry_costs_little_more_than_one_without() -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(InMemorySpanExporter(), max_queue_size=100_000, schedule_delay_millis=60_000))
    flows = {
        "off": flow(),
        "api and metrics": flow(Tracing(), Metrics(CollectorRegistry()), Logs()),
        "sdk and metrics": flow(Tracing(provider), Metrics(CollectorRegistry()), Logs()),
    }
    best = dict.fromkeys([*flows, "bare span"], float("inf"))
    for _ in range(ROUNDS):
        for name, each in flows.items():
            gc.collect()
            began = time.perf_counter()
            await each.run()
            best[name] = min(best[name], time.perf_counter() - began)
        began = time.perf_counter()
        await asyncio.to_thread(bare_spans, provider)
        best["bare span"] = min(best["bare span"], time.perf_counter() - began)
    provider.shutdown()
    assert best["api and metrics"] < 1.8 * best["off"]  # 1.3 on a quiet machine
    assert best["sdk and metrics"] - best["off"] < 3.5 * best["bare span"]  # 1.4 on a quiet machine
