"""Runs of every kind that a backend must tell apart, exported over OTLP as an application would."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from tracedflow import Context, Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent, Workflow, WorkflowHandler, step
from tracedflow.retry_policy import retry_policy, stop_after_attempt, wait_fixed
from tracedflow.telemetry.tracing import Tracing


class Piece(Event):
    n: int


class Done(Event):
    n: int


class Ask(InputRequiredEvent):
    pass


class Answer(HumanResponseEvent):
    pass


class Quick(Workflow):
    """Fans out, joins, and is unremarkable."""

    @step
    async def split(self, ev: StartEvent) -> list[Piece]:
        return [Piece(n=n) for n in range(3)]

    @step
    async def work(self, ev: Piece) -> Done:
        return Done(n=ev.n)

    @step
    async def join(self, ev: list[Done]) -> StopEvent:
        return StopEvent(result=sorted(done.n for done in ev))


class Fails(Quick):
    """One piece fails for good."""

    @step
    async def work(self, ev: Piece) -> Done:
        if ev.n == 1:
            raise ConnectionError("down")
        return Done(n=ev.n)


class Retries(Quick):
    """One piece fails twice, and then does not: the run is a success."""

    @step(retry_policy=retry_policy(stop=stop_after_attempt(3), wait=wait_fixed(0.01)))
    async def work(self, ctx: Context, ev: Piece) -> Done:
        if ev.n == 1 and ctx.retry_info().retry_number < 2:
            raise ConnectionError("down")
        return Done(n=ev.n)


class Stalls(Workflow):
    """Waits for one piece more than there is."""

    @step
    async def split(self, ev: StartEvent) -> Piece:
        return Piece(n=1)

    @step
    async def join(self, ctx: Context, ev: Piece) -> StopEvent | None:
        return None if ctx.collect_events(ev, [Piece] * 2) is None else StopEvent()


class Slow(Workflow):
    """Takes as many seconds as it is told."""

    @step
    async def only(self, ev: StartEvent) -> StopEvent:
        await asyncio.sleep(ev.seconds)
        return StopEvent()


class Asks(Workflow):
    """Waits for somebody."""

    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        await ctx.wait_for_event(Answer, waiter_event=Ask())
        return StopEvent(result="answered")


class Parent(Workflow):
    """Starts another run in a step."""

    @step
    async def outer(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=await Quick(middleware=ev.layers, telemetry=False).run())


class Counting(SpanExporter):
    """Counts what another exporter was given and took."""

    def __init__(self, inner: SpanExporter) -> None:
        self.inner = inner
        self.given: list[tuple[str, str]] = []  # trace id, name
        self.refused = 0

    def export(self, spans: Sequence[Any]) -> SpanExportResult:
        self.given += [(format(span.context.trace_id, "032x"), span.name) for span in spans]
        result = self.inner.export(spans)
        if result is not SpanExportResult.SUCCESS:
            self.refused += len(spans)
        return result

    def shutdown(self) -> None:
        self.inner.shutdown()


@contextmanager
def traced(endpoint: str, *, grpc: bool = False, headers: dict[str, str] | None = None) -> Iterator[tuple[Tracing, Counting]]:
    """Yield a tracing layer whose spans go to an OTLP endpoint, each when it ends; see `provided` for the provider itself."""
    with provided(endpoint, grpc=grpc, headers=headers) as (provider, exporter):
        yield Tracing(tracer_provider=provider), exporter


@contextmanager
def provided(endpoint: str, *, grpc: bool = False, headers: dict[str, str] | None = None) -> Iterator[tuple[TracerProvider, Counting]]:
    """Yield a provider that exports each span when it ends, and what counts them."""
    inner: SpanExporter
    if grpc:
        inner = GrpcExporter(endpoint=endpoint, insecure=True, headers=headers)
    else:
        inner = HttpExporter(endpoint=f"{endpoint}/v1/traces", headers=headers)
    exporter = Counting(inner)
    provider = TracerProvider(resource=Resource.create({"service.name": "backend-tests"}))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    try:
        yield provider, exporter
    finally:
        provider.shutdown()


async def run(flow: Workflow, **arguments: Any) -> tuple[str, WorkflowHandler[Any]]:
    """Run to the end, whatever that is; return the trace id, empty if it is not traced."""
    handler = flow.run(**arguments)
    await asyncio.wait([handler])
    if not handler.cancelled():
        handler.exception()
    trace_id = next((record.trace_id for record in handler.record if record.trace_id), "")
    return trace_id, handler
