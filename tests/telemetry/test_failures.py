"""Telemetry that fails changes nothing of a run; and it makes no noise that is not about it."""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Sampler
from prometheus_client import CollectorRegistry, Counter

from tests.telemetry.conftest import ByHand, Spans
from tests.telemetry.programs import Everything, answered
from tests.telemetry.test_setup import NO_SDK, ROOT
from tracedflow import Chain, Context, Event, StartEvent, StopEvent, Workflow, WorkflowTimeoutError, step, telemetry
from tracedflow._record_log import RecordLog
from tracedflow.telemetry import Console, DropCollecting, Logs, Metrics, Tracing, tracing
from tracedflow.telemetry.sdk import TraceFile
from tracedflow.testing import run_virtual


class BrokenProcessor(SpanProcessor):
    def __init__(self, at: str) -> None:
        self.at = at

    def on_start(self, span: Span, parent_context: Any = None) -> None:
        if self.at == "start":
            raise OSError("the processor is broken")

    def on_end(self, span: ReadableSpan) -> None:
        if self.at == "end":
            raise OSError("the processor is broken")


class BrokenExporter(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        raise OSError("the exporter is broken")


class BrokenSampler(Sampler):
    def should_sample(self, *args: Any, **options: Any) -> Any:
        raise OSError("the sampler is broken")

    def get_description(self) -> str:
        return "broken"


class BrokenStream:
    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")

    def flush(self) -> None:
        raise OSError(28, "No space left on device")

    def isatty(self) -> bool:
        return False


_made: list[TracerProvider] = []


def provider_with(processor: SpanProcessor) -> TracerProvider:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    _made.append(provider)
    return provider


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    logging.disable(logging.CRITICAL)
    while _made:
        _made.pop().shutdown()
    logging.disable(logging.NOTSET)


def clashing() -> CollectorRegistry:
    registry = CollectorRegistry()
    Counter("tracedflow_runs_total", "Somebody else's.", registry=registry)
    Counter("tracedflow_queue_depth", "Somebody else's.", registry=registry)
    return registry


def full_disk() -> Tracing:
    """Traces into a file on a disk that has no room, spans and records both."""
    file = TraceFile("/dev/full", Resource.get_empty())
    tracing.on_record = file.add_record
    return Tracing(provider_with(file))


@pytest.mark.parametrize(
    "layer",
    [
        lambda: Tracing(provider_with(BrokenProcessor("start"))),
        lambda: Tracing(provider_with(BrokenProcessor("end"))),
        lambda: Tracing(provider_with(SimpleSpanProcessor(BrokenExporter()))),
        lambda: Tracing(provider_with(DropCollecting(BatchSpanProcessor(BrokenExporter(), schedule_delay_millis=1)))),
        lambda: Tracing(TracerProvider(sampler=BrokenSampler())),
        lambda: full_disk(),
        lambda: Metrics(clashing()),
        lambda: Console(BrokenStream()),  # type: ignore[arg-type]
        Logs,
    ],
    ids=["processor at start", "processor at end", "exporter", "batches", "sampler", "disk full", "registry", "console", "nothing"],
)
async def test_the_outcome_and_the_records_are_those_without_telemetry(layer: Any) -> None:
    logging.disable(logging.CRITICAL)
    try:
        handler = Everything(timeout=30, telemetry=False, middleware=[layer()]).run()
        assert await answered(handler) == "done"
    finally:
        logging.disable(logging.NOTSET)
        tracing.on_record = None
    outcomes = sorted((record.step, record.outcome) for record in handler.record)
    plain = Everything(timeout=30, telemetry=False).run()
    await answered(plain)
    assert outcomes == sorted((record.step, record.outcome) for record in plain.record)


WITHOUT = """
import asyncio, json, logging, sys
logging.disable(logging.CRITICAL)
from tests.telemetry.programs import Everything, answered
from tracedflow import telemetry
if not {alone}:
    assert not telemetry.setup().active
async def main():
    handler = Everything(timeout=30).run()
    assert await answered(handler) == "done"
    print(json.dumps(sorted((record.step, record.outcome) for record in handler.record)))
asyncio.run(main())
"""
BROKEN_SDK = NO_SDK.replace('ImportError("broken " + name)', 'AttributeError("a version that does not fit")')


@pytest.mark.parametrize(
    ("before", "alone", "variables"),
    [
        ("", True, {}),
        ("", False, {"OTEL_SDK_DISABLED": "true"}),
        (NO_SDK, False, {}),
        (BROKEN_SDK, False, {}),
        (BROKEN_SDK, True, {"OTEL_PYTHON_TRACER_PROVIDER": "sdk_tracer_provider"}),
    ],
    ids=["no provider", "switched off", "no SDK", "an SDK that fails on import", "one that is asked for and fails"],
)
async def test_the_outcome_and_the_records_are_the_same_without_an_sdk(before: str, alone: bool, variables: dict[str, str]) -> None:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "TRACEDFLOW_"))}
    environment = {**kept, **variables, "PYTHONPATH": str(ROOT)}
    script = "import sys\n" + before + WITHOUT.replace("{alone}", str(alone))
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    plain = Everything(timeout=30, telemetry=False).run()
    await answered(plain)
    assert [tuple(each) for each in json.loads(done.stdout)] == sorted((record.step, record.outcome) for record in plain.record)


async def test_a_clash_in_the_registry_is_said_and_the_other_metrics_are_there(caplog: pytest.LogCaptureFixture) -> None:
    registry = clashing()
    await answered(Everything(timeout=30, telemetry=False, middleware=[Metrics(registry)]).run())
    said = [record.getMessage() for record in caplog.records if record.name == "tracedflow.metrics"]
    assert len(said) == 2
    assert said[0].startswith("metric tracedflow_runs_total is not exported: the registry has another one of that name")
    assert registry.get_sample_value("tracedflow_step_retries_total", {"workflow": "Everything", "step": "work"}) == 2


async def test_a_listener_of_records_that_raises_hears_no_more_and_the_run_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    class Quick(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result="done")

    handler = Quick(telemetry=False).run()
    heard: list[object] = []

    def broken(row: object, call: object, last: bool) -> None:
        heard.append(row)
        raise KeyError("broken")

    assert isinstance(handler._runner.records, RecordLog)
    handler._runner.records.listeners += (broken,)
    assert await handler == "done"
    assert len(heard) == len(handler.record) == 1
    assert "hears no more of it" in caplog.text


# ------------------------------------------------------------------------------------------------------ noise


class Tick(Event):
    pass


class Ticks(Workflow):
    @step
    async def tick(self, ctx: Context, ev: StartEvent) -> StopEvent:
        for _ in range(20):
            ctx.write_event_to_stream(Tick())
            await asyncio.sleep(1)
        return StopEvent()


async def leave_early(flow: Ticks) -> None:
    async for _ in flow.run().stream_events():
        break


async def close_from_another_task(flow: Ticks) -> None:
    handler = flow.run()
    stream = handler.stream_events()
    await anext(stream)
    await asyncio.create_task(stream.aclose())
    await handler.cancel_run()


async def cancel_from_another_task(flow: Ticks) -> None:
    handler = flow.run()
    await asyncio.sleep(2)
    await asyncio.create_task(handler.cancel_run())


async def wait_too_short(flow: Ticks) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(flow.run(), 2)


async def loop_ends(flow: Ticks) -> None:
    flow.run()
    await asyncio.sleep(2)


@pytest.mark.parametrize("use", [leave_early, close_from_another_task, cancel_from_another_task, wait_too_short, loop_ends])
def test_no_context_fails_to_detach_however_a_run_is_left(spans: Spans, caplog: pytest.LogCaptureFixture, use: Any) -> None:
    flow = Ticks(timeout=60, telemetry=False, middleware=[Tracing(spans.provider), Logs()])
    with caplog.at_level(logging.DEBUG):
        run_virtual(use(flow))
    assert [record.getMessage() for record in caplog.records if record.name.startswith("opentelemetry")] == []
    assert not trace.get_current_span().get_span_context().is_valid
    assert [span.name for span in spans.ended] == ["run_step tick", "invoke_workflow Ticks"]


class Stubborn(Workflow):
    @step
    async def only(self, ev: StartEvent) -> StopEvent:
        while True:
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                await self.let_go.wait()
                return StopEvent()

    let_go: asyncio.Event


def test_a_step_that_does_not_stop_has_its_span_ended_with_the_run_and_only_then(spans: Spans, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        flow = Stubborn(timeout=5, telemetry=False, middleware=[Tracing(spans.provider)])
        flow.let_go = asyncio.Event()
        handler = flow.run()
        with pytest.raises(WorkflowTimeoutError):
            await handler
        assert [span.name for span in spans.ended] == ["run_step only", "invoke_workflow Stubborn"]
        flow.let_go.set()
        await asyncio.sleep(1)

    run_virtual(main())
    assert [span.name for span in spans.ended] == ["run_step only", "invoke_workflow Stubborn"]
    assert (spans.one("run_step only").attributes or {})["tracedflow.outcome"] == "cancelled"
    assert [record.getMessage() for record in caplog.records if record.name.startswith("opentelemetry")] == []


class Never:
    def __await__(self) -> Any:
        yield


async def test_a_run_that_is_closed_from_another_context_ends_its_spans_without_a_word(
    spans: Spans, caplog: pytest.LogCaptureFixture
) -> None:
    """As the garbage collector closes what a dead loop left behind."""
    hand = ByHand(Tracing(spans.provider))
    hand.make_step("work", StartEvent(), retries=True)

    async def never(call: Any) -> Any:
        await Never()

    hand.chain = Chain(hand.chain.layers, run=hand._run, step=hand._step, attempt=never)
    running: Any = hand.chain.run(hand.run)
    contextvars.copy_context().run(running.send, None)
    running.close()
    assert [span.name for span in spans.ended] == ["attempt work", "run_step work", "invoke_workflow Flow"]
    assert {(span.attributes or {})["tracedflow.outcome"] for span in spans.ended} == {"cancelled"}
    assert caplog.records == []


def test_a_setup_that_goes_wrong_is_logged_and_raises_nothing(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    from tracedflow.telemetry import sdk

    def broken(**options: Any) -> Any:
        raise ValueError("a setting of no use")

    monkeypatch.setattr(sdk, "start", broken)
    assert telemetry.setup().active is False
    assert "telemetry could not be started" in caplog.text
