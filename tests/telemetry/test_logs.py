from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from tests.telemetry.conftest import Spans
from tracedflow import Context, Event, Middleware, RunCall, RunOptions, StartEvent, StopEvent, Workflow, WorkflowHandler, step
from tracedflow.retry_policy import retry_policy, stop_after_attempt, wait_fixed
from tracedflow.telemetry import LogCorrelation, Logs, Tracing, logs, names
from tracedflow.testing import run_virtual

_log = logging.getLogger("tests.users")


class Kept(logging.Handler):
    """Keeps its records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def kept() -> Iterator[Kept]:
    handler = Kept()
    handler.addFilter(LogCorrelation())
    _log.addHandler(handler)
    _log.setLevel(logging.INFO)
    yield handler
    _log.removeHandler(handler)


def fields(record: logging.LogRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in names.LOG_FIELDS}


class Talks(Workflow):
    @step(retry_policy=retry_policy(wait=wait_fixed(0), stop=stop_after_attempt(2)))
    async def talk(self, ctx: Context, ev: StartEvent) -> StopEvent:
        await asyncio.sleep(0)
        _log.info("working for %s", ev.get("who"))
        if ctx.retry_info().retry_number == 0:
            raise ConnectionError
        return StopEvent()


async def test_a_record_made_in_a_step_says_where(kept: Kept, spans: Spans) -> None:
    flow = Talks(timeout=5, middleware=[Tracing(spans.provider), Logs()], telemetry=False)
    await flow.run(run_id="r1", options=RunOptions(tags={"tenant": "blue"}))
    first, second = kept.records
    span = spans.one("run_step talk").context
    assert fields(first) == {
        "trace_id": format(span.trace_id, "032x"),
        "span_id": format(span.span_id, "016x"),
        "run_id": "r1",
        "workflow": "Talks",
        "step": "talk",
        "attempt": 1,
    }
    assert fields(second)["attempt"] == 2
    assert getattr(first, "tags", None) == {"tenant": "blue"}


async def test_concurrent_runs_do_not_mix(kept: Kept) -> None:
    flow = Talks(timeout=5, middleware=[Logs()], telemetry=False)
    await asyncio.gather(*(flow.run(run_id=f"r{number}", who=f"r{number}") for number in range(20)))
    assert len(kept.records) == 40
    for record in kept.records:
        assert record.getMessage() == f"working for {fields(record)['run_id']}"


async def test_a_record_made_in_a_run_but_outside_its_steps_has_the_run(kept: Kept) -> None:
    class Speaks(Middleware):
        async def run(self, call: RunCall, call_next: Any, /) -> StopEvent | None:
            _log.info("before")
            return await call_next(call)  # type: ignore[no-any-return]

    await Talks(timeout=5, middleware=[Logs(), Speaks()], telemetry=False).run(run_id="r1")
    assert (fields(kept.records[0])["run_id"], fields(kept.records[0])["step"]) == ("r1", "")


async def test_a_run_inside_a_step_is_said_in_place_of_the_outer_one(kept: Kept) -> None:
    class Outer(Workflow):
        @step
        async def start(self, ev: StartEvent) -> StopEvent:
            await Talks(timeout=5, middleware=[Logs()], telemetry=False).run(run_id="inner")
            _log.info("outer again")
            return StopEvent()

    await Outer(timeout=5, middleware=[Logs()], telemetry=False).run(run_id="outer")
    assert [fields(record)["run_id"] for record in kept.records] == ["inner", "inner", "outer"]


def test_outside_a_run_the_fields_are_empty_and_given_ones_are_kept(kept: Kept) -> None:
    _log.info("alone", extra={"step": "mine"})
    found = fields(kept.records[0])
    assert found == {"trace_id": "", "span_id": "", "run_id": "", "workflow": "", "step": "mine", "attempt": 0}


class Payload(Event):
    text: str


class Leaks(Workflow):
    @step
    async def send(self, ev: StartEvent) -> Payload:
        return Payload(text="payload-value")

    @step
    async def leak(self, ev: Payload) -> StopEvent:
        try:
            raise ValueError(ev.text)
        except ValueError:
            _log.exception("failed on %s", ev.text)
        return StopEvent()


async def test_values_are_masked_on_request() -> None:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.addFilter(LogCorrelation(mask=True))
    _log.addHandler(handler)
    try:
        await Leaks(timeout=5, middleware=[Logs()], telemetry=False).run()
    finally:
        _log.removeHandler(handler)
    assert "failed on ***" in out.getvalue()
    assert "ValueError: ***" in out.getvalue()
    assert "payload-value" not in out.getvalue()


class Long(Workflow):
    @step
    async def sleep(self, ev: StartEvent) -> StopEvent:
        await asyncio.sleep(ev.seconds)
        return StopEvent()


def test_a_long_run_says_every_five_minutes_what_it_does(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        await Long(timeout=None, middleware=[Logs()], telemetry=False, workflow_name="Long").run(
            run_id="r1", seconds=1000, topic="payload-value"
        )
        await asyncio.sleep(1000)  # an ended run is still

    with caplog.at_level(logging.INFO, "tracedflow.runs"):
        run_virtual(main())
    beats = [record for record in caplog.records if record.name == "tracedflow.runs"]
    assert [record.getMessage() for record in beats] == [
        f"Run r1 of Long has been running for {age}: step `sleep` is running, for {age} (StartEvent)."
        for age in ("5 m 00 s", "10 m 00 s", "15 m 00 s")
    ]
    assert {fields(record)["run_id"] for record in beats} == {"r1"}


def test_each_long_run_of_each_loop_is_told_of_and_no_run_without_the_layer(caplog: pytest.LogCaptureFixture) -> None:
    async def main(ids: list[str]) -> None:
        quiet = Long(timeout=None, telemetry=False).run(run_id="quiet", seconds=700)
        flow = Long(timeout=None, telemetry=False, middleware=[Logs()])
        handlers = []
        for number, run_id in enumerate(ids):
            handlers.append(flow.run(run_id=run_id, seconds=700))
            await asyncio.sleep(10 + 90 * number)
        await asyncio.gather(quiet, *handlers)

    with caplog.at_level(logging.INFO, "tracedflow.runs"):
        run_virtual(main(["a", "b", "c"]))  # they begin after 0, 10 and 110 seconds
        run_virtual(main(["d"]))
    told = [record for record in caplog.records if record.name == "tracedflow.runs"]
    assert [(fields(record)["run_id"], record.getMessage().split(":")[0].rsplit("for ")[-1]) for record in told] == [
        ("a", "5 m 00 s"),
        ("b", "5 m 20 s"),  # its time was ten seconds after that of `a`: too soon for another look
        ("c", "5 m 00 s"),
        ("a", "10 m 00 s"),
        ("b", "10 m 20 s"),
        ("c", "10 m 00 s"),
        ("d", "5 m 00 s"),
        ("d", "10 m 00 s"),
    ]


def test_the_runs_of_one_loop_do_not_still_those_of_another(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "HEARTBEAT", 0.02)
    flow = Long(timeout=None, telemetry=False, middleware=[Logs()])
    one, other = asyncio.new_event_loop(), asyncio.new_event_loop()

    async def begun() -> WorkflowHandler[Any]:
        handler = flow.run(run_id="first", seconds=60)
        while not await handler.ctx.running_steps():
            await asyncio.sleep(0)
        return handler

    async def told(handler: WorkflowHandler[Any]) -> None:
        while not any(record.name == "tracedflow.runs" for record in caplog.records):
            await asyncio.sleep(0.001)
        handler.cancel()
        await asyncio.wait([handler])

    async def short() -> None:
        await flow.run(run_id="second", seconds=0)

    with caplog.at_level(logging.INFO, "tracedflow.runs"):
        handler = one.run_until_complete(begun())
        other.run_until_complete(short())
        one.run_until_complete(told(handler))
    one.close()
    other.close()
