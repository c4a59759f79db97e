"""What telemetry costs a chain: everything on against a bare queue and task that make the same span and metrics; and its parts."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import CollectorRegistry, Counter, Histogram

from tracedflow.telemetry import Logs, Metrics, Tracing

from ._chain import Begin, Chain, Tick
from ._measure import Contest, take_turn
from ._report import Figure
from ._spans import batching_provider

LENGTH = 2_000  # a batch processor keeps 2,048 spans: more at one go would measure how it drops them
LIMIT = 1.5  # x bare
SPAN_LIMIT = 1.5  # x one bare span, for what telemetry adds to a step
API_LIMIT = 5.0  # microseconds
IDLE_LIMIT = 1.0  # microseconds


def traced_contest() -> Contest:
    """Return the chain with everything on: SDK, batch processor, metrics with exemplars, links, log fields."""
    provider = batching_provider()
    flow = Chain(timeout=None, telemetry=False, middleware=[Tracing(provider), Metrics(CollectorRegistry()), Logs()])
    bare = _Bare(provider)

    async def ours() -> None:
        await flow.run(start_event=Begin(length=LENGTH))

    return Contest(name="chain, everything on", items=LENGTH, ours=ours, other=bare.chain, repeats=5)


class _Bare:
    """One queue, a task for each event, and in it a span, its link and the metrics that tracedflow has."""

    def __init__(self, provider: TracerProvider) -> None:
        registry = CollectorRegistry()
        self._tracer = provider.get_tracer("bare")
        kinds = ("workflow", "step", "outcome", "error_type"), ("workflow", "step", "outcome"), ("workflow", "event_type", "action")
        self._attempts = Counter("attempts", ".", kinds[0], registry=registry).labels("Chain", "turn", "success", "")
        self._duration = Histogram("duration", ".", kinds[1], registry=registry).labels("Chain", "turn", "success")
        self._queued = Histogram("queued", ".", kinds[1][:2], registry=registry).labels("Chain", "turn")
        events = Counter("events", ".", kinds[2], registry=registry)
        self._emitted, self._dispatched = events.labels("Chain", "Tick", "emitted"), events.labels("Chain", "Tick", "dispatched")
        self._marked = 0.0

    async def chain(self) -> None:
        """Pass the events on."""
        run = self._tracer.start_span("invoke_workflow Chain")
        context, cause = trace.set_span_in_context(run), run.get_span_context()
        queue: asyncio.Queue[tuple[Tick, float]] = asyncio.Queue()
        following: Tick | None = Tick(left=LENGTH)
        while following is not None:
            queue.put_nowait((following, time.monotonic()))
            following, cause = await asyncio.create_task(self._turn(*await queue.get(), context, cause))
        run.end()

    async def _turn(self, event: Tick, enqueued: float, context: Any, cause: trace.SpanContext) -> tuple[Tick | None, trace.SpanContext]:
        began = time.monotonic()
        span = self._tracer.start_span(
            "run_step turn",
            context,
            attributes={
                "tracedflow.workflow.name": "Chain",
                "tracedflow.run.id": "q3k9z1m5w7",
                "tracedflow.step.name": "turn",
                "code.function.name": "benchmarks._chain.Chain.turn",
                "tracedflow.step.queue_wait": began - enqueued,
                "tracedflow.event.type": "Tick",
                "tracedflow.event.id": str(event.left),
                "tracedflow.trigger.step": "turn",
            },
            links=[trace.Link(cause, {"tracedflow.link.type": "triggered_by", "tracedflow.event.type": "Tick"})],
        )
        token = otel_context.attach(trace.set_span_in_context(span))
        following = Tick(left=event.left - 1) if event.left else None
        span.set_attribute("tracedflow.outcome", "success")
        span.set_attribute("tracedflow.emitted", ("Tick",))
        span.end()
        otel_context.detach(token)
        self._count(began, enqueued, span.get_span_context())
        return following, span.get_span_context()

    def _count(self, began: float, enqueued: float, context: trace.SpanContext) -> None:
        now = time.monotonic()
        self._emitted.inc()
        self._dispatched.inc()
        self._attempts.inc()
        self._queued.observe(began - enqueued)
        exemplar = None
        if now - self._marked >= 1.0:
            self._marked = now
            exemplar = {"trace_id": trace.format_trace_id(context.trace_id), "span_id": trace.format_span_id(context.span_id)}
        self._duration.observe(now - began, exemplar)


async def cost_figures(rounds: int) -> list[Figure]:
    """Return what telemetry adds to a step, in three stages, interleaved with the same engine without it and with bare spans."""
    provider = batching_provider()
    layers: dict[str, list[Any]] = {
        "off": [],
        "idle": [Tracing(), Logs()],
        "api": [Tracing(), Logs(), Metrics(CollectorRegistry())],
        "all": [Tracing(provider), Logs(), Metrics(CollectorRegistry())],
    }
    work: dict[str, Callable[[], Awaitable[None]]] = {name: _run_of(of) for name, of in layers.items()}
    work["span"] = _spans_of(provider)
    took: dict[str, list[float]] = {name: [] for name in work}
    for number in range(-1, rounds):
        for name, each in work.items():
            turn = await take_turn(each, LENGTH, repeats=3)
            if number >= 0:
                took[name].append(turn.cpu)
    over = statistics.median((full - off) / span for full, off, span in zip(took["all"], took["off"], took["span"], strict=True))
    idle, api = ((min(took[name]) - min(took["off"])) * 1e6 for name in ("idle", "api"))  # so little is lost in the noise of a median
    return [
        Figure(name="telemetry a step, nothing set", value=idle, unit="µs", limit=IDLE_LIMIT),
        Figure(name="telemetry a step, metrics and no SDK", value=api, unit="µs", limit=API_LIMIT),
        Figure(name="telemetry a step, everything on", value=over, unit="x one bare span", limit=SPAN_LIMIT),
    ]


def _run_of(layers: list[Any]) -> Callable[[], Awaitable[None]]:
    flow = Chain(timeout=None, telemetry=False, middleware=layers)

    async def run() -> None:
        await flow.run(start_event=Begin(length=LENGTH))

    return run


def _spans_of(provider: TracerProvider) -> Callable[[], Awaitable[None]]:
    tracer = provider.get_tracer("bare")
    facts = {f"attribute.{number}": f"value {number}" for number in range(8)}

    async def make() -> None:
        parent = tracer.start_span("parent")
        context, cause = trace.set_span_in_context(parent), parent.get_span_context()
        for _ in range(LENGTH):
            links = [trace.Link(cause, {"type": "triggered_by", "event": "Tick"})]
            tracer.start_span("bare", context, attributes=facts, links=links).end()
        parent.end()

    return make
