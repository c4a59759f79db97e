"""What holds of every trace, whatever the program does and however it ends: random programs, in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from opentelemetry.context import Context as OtelContext
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider

from tracedflow import Context, Event, Middleware, RunCall, StartEvent, StepCall, StopEvent, Workflow, step
from tracedflow.retry_policy import retry_policy, stop_after_attempt, wait_fixed
from tracedflow.telemetry import Tracing
from tracedflow.testing import run_virtual


class Part(Event):
    """A node of a random program: what one step execution does."""

    sleeps: int
    fails: int  # attempts that raise; the policy allows two
    waits: bool
    nests: bool
    spins: bool  # starts a span of its own
    parts: list[dict[str, Any]]


class Leaf(Event):
    pass


class Answer(Event):
    pass


def leaves(part: dict[str, Any]) -> int:
    return sum(leaves(each) for each in part["parts"]) or 1


class Program(Workflow):
    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> Part | None:
        for part in ev.parts:
            ctx.send_event(Part(**part))
        return None

    @step(num_workers=3, retry_policy=retry_policy(wait=wait_fixed(1), stop=stop_after_attempt(3)))
    async def work(self, ctx: Context, ev: Part) -> Leaf | None:
        if ev.waits:
            with contextlib.suppress(TimeoutError):
                await ctx.wait_for_event(Answer, timeout=2)
        if ev.spins:
            with self.tracer.start_as_current_span("user"):
                await asyncio.sleep(ev.sleeps)
        else:
            await asyncio.sleep(ev.sleeps)
        if ctx.retry_info().retry_number < ev.fails:
            raise ConnectionError("refused")
        if ev.nests:
            inner = {**Part(**ev.model_dump()).model_dump(), "nests": False, "fails": 0, "parts": []}
            await self.copy().run(parts=[inner], leaves=1)
        for part in ev.parts:
            ctx.send_event(Part(**part))
        return None if ev.parts else Leaf()

    @step
    async def end(self, ctx: Context, ev: Leaf) -> StopEvent | None:
        wanted = (await ctx.store.get("leaves", default=None)) or self.wanted
        return None if ctx.collect_events(ev, [Leaf] * wanted) is None else StopEvent()

    wanted = 1
    tracer: Any
    copy: Callable[[], Program]


def programs(depth: int = 2) -> st.SearchStrategy[dict[str, Any]]:
    parts = st.lists(programs(depth - 1), max_size=3) if depth else st.just([])
    return st.fixed_dictionaries(
        {
            "sleeps": st.integers(0, 3),
            "fails": st.sampled_from([0, 0, 0, 1, 2, 3]),
            "waits": st.booleans(),
            "nests": st.booleans(),
            "spins": st.booleans(),
            "parts": parts,
        }
    )


class Ledger(SpanProcessor):
    """Keeps what began and what ended."""

    def __init__(self) -> None:
        self.began: list[int] = []
        self.ended: list[ReadableSpan] = []

    def on_start(self, span: Span, parent_context: OtelContext | None = None) -> None:
        self.began.append(span.get_span_context().span_id)

    def on_end(self, span: ReadableSpan) -> None:
        self.ended.append(span)


class Breaks(Middleware):
    """A layer that raises: before or after the run, before or after the n-th step."""

    def __init__(self, place: str, number: int) -> None:
        self.place, self.left = place, number

    async def run(self, call: RunCall, call_next: Any, /) -> Any:
        if self.place == "before run":
            raise LookupError(self.place)
        result = await call_next(call)
        if self.place == "after run":
            raise LookupError(self.place)
        return result

    async def step(self, call: StepCall, call_next: Any, /) -> Any:
        self.left -= 1
        if self.place == "before step" and self.left < 0:
            raise LookupError(self.place)
        result = await call_next(call)
        if self.place == "after step" and self.left < 0:
            raise LookupError(self.place)
        return result


ENDINGS = ["complete", "complete", "timeout", "cancel", "cancel task", "leave the stream"]
BREAKS = [None, None, None, "before run", "after run", "before step", "after step"]


async def lived(layers: list[Middleware], tracer: Any, parts: list[dict[str, Any]], ending: str, after: int) -> Any:
    def make(timeout: float | None = 1000) -> Program:
        flow = Program(timeout=timeout, telemetry=False, middleware=layers, on_stall="fail")
        flow.tracer, flow.copy = tracer, make
        return flow

    flow = make(timeout=after + 0.5 if ending == "timeout" else 1000)
    flow.wanted = sum(leaves(part) for part in parts)
    handler = flow.run(parts=parts)
    if ending == "leave the stream":
        async for _ in handler.stream_events():
            break
    if ending.startswith("cancel"):
        await asyncio.wait([handler], timeout=after)
        if ending == "cancel":
            await handler.cancel_run()
        else:
            handler.cancel()
    with contextlib.suppress(Exception, asyncio.CancelledError):
        await handler
    return handler


@settings(
    max_examples=100,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    parts=st.lists(programs(), min_size=1, max_size=4),
    ending=st.sampled_from(ENDINGS),
    after=st.integers(0, 8),
    place=st.sampled_from(BREAKS),
    number=st.integers(0, 4),
)
def test_a_trace_is_whole_whatever_happens(
    caplog: pytest.LogCaptureFixture, parts: list[dict[str, Any]], ending: str, after: int, place: str | None, number: int
) -> None:
    ledger, provider = Ledger(), TracerProvider()
    provider.add_span_processor(ledger)
    tracing = Tracing(provider)
    layers: list[Middleware] = [tracing] + ([Breaks(place, number)] if place else [])
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        handler = run_virtual(lived(layers, provider.get_tracer("user"), parts, ending, after))

    assert [record.message for record in caplog.records if record.name.startswith(("opentelemetry", "tracedflow.middleware"))] == []
    ids = [span.get_span_context().span_id for span in ledger.ended]
    assert len(set(ids)) == len(ids)  # nothing is exported twice
    assert sorted(ledger.began) == sorted(ids)  # whatever began has ended
    assert len({span.get_span_context().trace_id for span in ledger.ended}) == 1  # one run, one trace, its nested runs included
    by_id = {span.get_span_context().span_id: span for span in ledger.ended}
    for span in ledger.ended:
        assert span.parent is None or span.parent.span_id in by_id
        assert all(link.context.span_id in by_id for link in span.links)
    within = [(span, by_id[span.parent.span_id]) for span in ledger.ended if span.parent is not None and not span.name.startswith("invoke")]
    for span, outer in within:
        assert (outer.start_time or 0) <= (span.start_time or 0)
        assert (span.end_time or 0) <= (outer.end_time or 0)
    if place != "after step":  # a layer that raises after it fails the execution, not the try that had succeeded
        _agrees_with_the_records(ledger.ended, handler)
    assert tracing._runs == {}


def _agrees_with_the_records(spans: list[ReadableSpan], handler: Any) -> None:
    told = {
        format(span.get_span_context().span_id, "016x"): (span.attributes or {})["tracedflow.outcome"]
        for span in spans
        if span.name.startswith(("attempt ", "run_step ")) and (span.attributes or {})["tracedflow.run.id"] == handler.run_id
    }
    for record in handler.record:
        assert record.span_id in told
        if record.step != "work" or record.attempt:  # one stopped before its first attempt has a span of its step alone
            assert told[record.span_id] == record.outcome
