"""Fixtures: an in-memory exporter, a fresh registry, and calls made by hand for what a real run reaches only with luck."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.util._once import Once
from prometheus_client import CollectorRegistry

from tracedflow import AttemptCall, Chain, Event, Middleware, RunCall, StartEvent, StepCall, StopEvent, clock
from tracedflow._record_log import RecordLog
from tracedflow.middleware import Cause, StepResult
from tracedflow.outcomes import error_type, outcome_of_step


@pytest.fixture(autouse=True)
def _no_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever tests before have set, this one begins without a global provider; OpenTelemetry has no public way back."""
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", Once())


class Spans:
    """A tracer provider that keeps its spans."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    @property
    def ended(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        return sorted((span for span in self.ended if span.name == name), key=lambda span: span.start_time or 0)

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span


class ByHand:
    """One run with one step, called through a chain as the engine would."""

    def __init__(self, *layers: Middleware) -> None:
        self.chain = Chain(layers, run=self._run, step=self._step, attempt=self._attempt)
        self.body: Callable[[StepCall], StepResult] = lambda call: StopEvent()
        self.before_step: Callable[[StepCall], None] = lambda call: None
        self.run = RunCall(workflow="Flow", run_id="r1", start_event=StartEvent(), started_at=clock.SYSTEM.now(), timeout=5.0)
        self.run.records = RecordLog("r1", "Flow", None)
        self.step = self.make_step("work", StartEvent())

    def make_step(self, name: str, *inputs: Event, retries: bool = False, execution: int = 1, measures: tuple[str, ...] = ()) -> StepCall:
        now = clock.SYSTEM.now()
        policy = object() if retries else None
        config = SimpleNamespace(name=name, num_workers=4, retry_policy=policy, code_name=f"flow.Flow.{name}", measures=measures)
        causes = tuple(Cause(event_id=n, event_type=type(event).__name__, step=None, execution=None) for n, event in enumerate(inputs))
        self.step = StepCall(
            run=self.run,
            config=cast("Any", config),
            execution=execution,
            inputs=inputs,
            sources=causes,
            origin=tuple,
            enqueued_at=now,
            started_at=now,
        )
        return self.step

    def go(self) -> StopEvent | None:
        """Run it all; what the chain raises comes out."""
        return asyncio.run(self._go())

    async def _go(self) -> StopEvent | None:
        return await self.chain.run(self.run)

    async def _run(self, call: RunCall) -> StopEvent | None:
        self.before_step(self.step)
        try:
            result = await self.chain.step(self.step)
        except BaseException as error:
            self._record(None, error)
            raise
        self._record(result, None)
        return result if isinstance(result, StopEvent) else None

    def _record(self, result: StepResult, error: BaseException | None) -> None:
        call, now = self.step, clock.SYSTEM.now()
        row = (
            call.step, call.execution, call.attempts, call.enqueued_at, call.started_at, now, call.queued, now - call.started_at,
            0.0, 0.0, 0.0, outcome_of_step(call, result, error), None if error is None else error_type(error), call.trace_id, call.span_id,
            len(call.inputs), *(part for cause in call.causes for part in (cause.event_id, cause.event_type, cause.execution)), 0,
        )  # fmt: skip
        cast("RecordLog", self.run.records).append(row, call, last=True)

    async def _step(self, call: StepCall) -> StepResult:
        call.attempts += 1
        return await self.chain.attempt(AttemptCall(step=call, attempt=call.attempts))

    async def _attempt(self, call: AttemptCall) -> StepResult:
        return self.body(call.step)


@pytest.fixture
def spans() -> Iterator[Spans]:
    kept = Spans()
    yield kept
    kept.provider.shutdown()


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()
