"""The local trace file: what is read back is what happened, also when the process was killed."""

# ruff: noqa: ASYNC240 - a test may read its file while no loop waits for it
from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider

from tests.telemetry.programs import WORKERS, Everything, answered
from tracedflow import StartEvent, StopEvent, Workflow, step
from tracedflow.inspect.trace_file import ABANDONED, read_runs
from tracedflow.telemetry import Logs, Tracing, tracing
from tracedflow.telemetry.sdk import TraceFile
from tracedflow.telemetry.sdk._processors import TraceFileLogs

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "traces" / "runs.jsonl"


@pytest.fixture
def provider(path: Path) -> Iterator[TracerProvider]:
    """A provider that writes to the file, as `setup(trace_file=)` makes it."""
    file = TraceFile(path, Resource.create({"service.name": "tests"}))
    provider = TracerProvider()
    provider.add_span_processor(file)
    tracing.on_record = file.add_record
    yield provider
    tracing.on_record = None
    provider.shutdown()


class Fails(Workflow):
    @step
    async def only(self, ev: StartEvent) -> StopEvent:
        raise ValueError(f"no luck with {ev.topic}")


async def test_the_records_of_a_run_are_read_back_exactly(path: Path, provider: TracerProvider) -> None:
    handler = Everything(timeout=30, telemetry=False, middleware=[Tracing(provider)]).run(run_id="outer", topic="payload-of-the-run")
    await answered(handler)
    inner, outer = sorted(read_runs(path), key=lambda run: run.run_id)
    assert sorted(map(repr, outer.attempts)) == sorted(map(repr, handler.record))
    assert (outer.workflow, outer.outcome, outer.segments, outer.error) == ("Everything", "success", 1, None)
    assert (inner.workflow, inner.parent_run_id, inner.outcome, len(inner.attempts)) == ("Inner", "outer", "success", 1)
    assert outer.duration is not None
    assert outer.duration >= 0.15
    assert outer.unfinished == inner.unfinished == []
    assert "payload-of" not in path.read_text()


async def test_spans_alone_are_enough_to_read_the_runs(path: Path, provider: TracerProvider) -> None:
    """A collector's file has no records of ours in it."""
    handler = Everything(timeout=30, telemetry=False, middleware=[Tracing(provider)]).run(run_id="outer")
    await answered(handler)
    spans = [line for line in path.read_text().splitlines() if "resourceSpans" in line]
    path.write_text("\n".join(spans))
    outer = next(run for run in read_runs(path) if run.run_id == "outer")
    counts: dict[tuple[str, str], int] = {}
    for record in outer.attempts:
        counts[record.step, record.outcome] = counts.get((record.step, record.outcome), 0) + 1
    expected: dict[tuple[str, str], int] = {}
    for record in handler.record:
        expected[record.step, record.outcome] = expected.get((record.step, record.outcome), 0) + 1
    assert counts == expected
    by_step = {record.step: record for record in outer.attempts}
    assert by_step["nest"].causes == (by_step["ask"].execution,)
    assert {record.attempt for record in outer.attempts if record.step == "work"} == {1, 2, 3}
    assert len([record for record in outer.attempts if record.step == "work"]) == WORKERS + 2


async def test_a_failed_run_tells_its_masked_error(path: Path, provider: TracerProvider) -> None:
    with pytest.raises(ValueError, match="no luck"):
        await Fails(telemetry=False, middleware=[Tracing(provider)]).run(topic="payload-value")
    (run,) = read_runs(path)
    assert (run.outcome, run.error, run.error_type) == ("error", "no luck with ***", "ValueError")
    assert run.error_stack is not None
    assert "in only" in run.error_stack
    assert "payload-value" not in path.read_text()


async def test_runs_that_share_an_id_are_told_apart(path: Path, provider: TracerProvider) -> None:
    flow = Fails(telemetry=False, middleware=[Tracing(provider)])
    for _ in range(2):
        with pytest.raises(ValueError, match="no luck"):
            await flow.run(run_id="same", topic="x")
    assert [(run.run_id, len(run.attempts)) for run in read_runs(path)] == [("same", 1), ("same", 1)]


async def test_damaged_lines_are_skipped(path: Path, provider: TracerProvider) -> None:
    with pytest.raises(ValueError, match="no luck"):
        await Fails(telemetry=False, middleware=[Tracing(provider)]).run(topic="x")
    whole = path.read_text()
    path.write_text('{"resourceSpans": [{"scopeSpans"\nnonsense\n[]\n{"resourceSpans": 3}\n' + whole + whole.splitlines()[0][:40])
    (run,) = read_runs(path)
    assert run.outcome == "error"


async def test_a_line_that_a_kill_cut_off_does_not_swallow_the_next_one(path: Path) -> None:
    path.parent.mkdir()
    path.write_text('{"resourceSpans": [{"sco')
    provider = TracerProvider()
    provider.add_span_processor(TraceFile(path, Resource.create()))
    with pytest.raises(ValueError, match="no luck"):
        await Fails(telemetry=False, middleware=[Tracing(provider)]).run(topic="x")
    assert [run.outcome for run in read_runs(path)] == ["error"]


KILLED = """
import asyncio, sys
from tracedflow import Event, StartEvent, StopEvent, Workflow, step, telemetry
class Part(Event):
    number: int
class Done(Event):
    number: int
class Killed(Workflow):
    @step
    async def begin(self, ev: StartEvent) -> list[Part]:
        return [Part(number=number) for number in range(3)]
    @step
    async def work(self, ev: Part) -> Done:
        if ev.number == 2:
            print("here", flush=True)
            await asyncio.Event().wait()
        return Done(number=ev.number)
    @step
    async def end(self, ev: list[Done]) -> StopEvent:
        return StopEvent()
telemetry.setup(trace_file=sys.argv[1])
async def main():
    await Killed(timeout=60, on_stall="wait").run(run_id="killed")
asyncio.run(main())
"""


def test_a_killed_process_loses_only_what_was_open_and_that_is_named(path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True, env=clean_environment())
    assert child.stdout is not None
    assert child.stdout.readline().strip() == "here"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    (run,) = read_runs(path)
    assert (run.run_id, run.outcome, run.ended, run.duration) == ("killed", ABANDONED, None, None)
    assert [(record.step, record.outcome) for record in run.attempts] == [("begin", "success"), ("work", "success"), ("work", "success")]
    (open_step,) = run.unfinished
    assert (open_step.step, open_step.event_type, open_step.attempt) == ("work", "Part", 1)


def clean_environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "TRACEDFLOW_"))}
    return {**kept, "PYTHONPATH": str(ROOT)}


async def test_a_full_disk_costs_lines_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    file = TraceFile("/dev/full", Resource.create())
    provider = TracerProvider()
    provider.add_span_processor(file)
    with pytest.raises(ValueError, match="no luck"):
        await Fails(telemetry=False, middleware=[Tracing(provider)]).run(topic="x")
    assert file.failed >= 2
    assert [record.message.partition(" cannot be written")[0] for record in caplog.records] == ["the trace file /dev/full"]


async def test_every_line_is_otlp(path: Path, provider: TracerProvider) -> None:
    from google.protobuf.json_format import Parse
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    await answered(Everything(timeout=30, telemetry=False, middleware=[Tracing(provider)]).run())
    for line in path.read_text().splitlines():
        data: dict[str, Any] = json.loads(line)
        kind = ExportTraceServiceRequest if "resourceSpans" in data else ExportLogsServiceRequest
        Parse(line, kind())  # protobuf's JSON takes base64 ids where OTLP has hexadecimal ones: both are text


def test_the_file_of_concurrent_runs_holds_all_of_them(path: Path, provider: TracerProvider) -> None:
    class Quick(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            await asyncio.sleep(0)
            return StopEvent()

    async def main() -> None:
        flow = Quick(telemetry=False, middleware=[Tracing(provider)])
        await asyncio.gather(*(flow.run(run_id=f"r{number}") for number in range(50)))

    asyncio.run(main())
    runs = read_runs(path)
    assert {run.run_id for run in runs} == {f"r{number}" for number in range(50)}
    assert all(len(run.attempts) == 1 and run.outcome == "success" for run in runs)


async def test_payloads_and_log_records_are_read_back_where_they_were_captured(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Talks(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            logging.getLogger("tests.users").warning("working on %s", ev.topic)
            return StopEvent(result="done")

    monkeypatch.setenv("TRACEDFLOW_CAPTURE", "full")
    file = TraceFile(path, Resource.create())
    handler = TraceFileLogs(file)
    provider = TracerProvider()
    provider.add_span_processor(file)
    logging.getLogger("tests.users").addHandler(handler)
    monkeypatch.setattr(tracing, "on_record", file.add_record)
    try:
        logging.getLogger("tests.users").warning("outside of runs")
        await Talks(telemetry=False, middleware=[Tracing(provider), Logs()]).run(topic="payload-value")
    finally:
        logging.getLogger("tests.users").removeHandler(handler)
    (run,) = read_runs(path)
    (execution,) = [record.execution for record in run.attempts]
    assert run.inputs == {execution: '{"topic":"payload-value"}'}
    assert run.outputs == {execution: '{"result":"done"}'}
    (log,) = run.logs
    assert (log.level, log.text, log.logger, log.step, log.span_id) == (
        "WARNING", "working on ***", "tests.users", "only", run.attempts[0].span_id,
    )  # fmt: skip
