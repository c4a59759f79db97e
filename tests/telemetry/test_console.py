from __future__ import annotations

import asyncio
import contextlib
import io
import os
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.telemetry.conftest import ByHand, Spans
from tracedflow import AttemptRecord, Context, Event, StartEvent, StepCall, StopEvent, Workflow, step
from tracedflow.errors import StepTimeoutError, WorkflowStalledError
from tracedflow.middleware import EventDropped, LoopBlocked, Middleware, MiddlewareFailed, WaitEnded, WaitStarted
from tracedflow.retry_policy import retry_policy, stop_after_attempt, wait_fixed
from tracedflow.telemetry import Console, Tracing


class Query(Event):
    text: str


class Answer(Event):
    pass


class Research(Workflow):
    @step
    async def plan(self, ctx: Context, ev: StartEvent) -> Query | None:
        for number in range(2):
            ctx.send_event(Query(text=f"payload-{number}"))
        return None

    @step(retry_policy=retry_policy(wait=wait_fixed(0), stop=stop_after_attempt(2)))
    async def search(self, ctx: Context, ev: Query) -> Answer:
        if ev.text.endswith("1") and ctx.retry_info().retry_number == 0:
            raise ConnectionError(f"refused {ev.text}")
        return Answer()

    @step
    async def gather(self, ctx: Context, ev: Answer) -> StopEvent | None:
        return None if ctx.collect_events(ev, [Answer] * 2) is None else StopEvent()


def normalised(text: str) -> str:
    """Put a word in place of every time, a sign in place of execution numbers, and two blanks in place of more."""
    text = re.sub(r"^ +\d+\.\d{3}", "CLOCK", text, flags=re.MULTILINE)
    text = re.sub(r"\d+(\.\d+)? (ms|s)\b", "TIME", text)
    return re.sub(r" {2,}", "  ", re.sub(r" #\d+", " #n", text))


async def test_a_run_line_by_line_and_as_a_waterfall() -> None:
    out = io.StringIO()
    await Research(timeout=5, middleware=[Console(out)], telemetry=False).run(run_id="r1", topic="payload-start")
    lines = normalised(out.getvalue()).splitlines()
    assert lines[:15] == [
        "CLOCK  Research  run r1, StartEvent",
        "CLOCK  plan #n  started  StartEvent",
        "CLOCK  plan #n  done  TIME  → 2 Query",
        "CLOCK  search #n  started  Query",
        "CLOCK  search #n  done  TIME  → Answer",
        "CLOCK  search #n  started  Query",
        "CLOCK  search #n  retry  in TIME  attempt 1/2  ConnectionError: refused ***",
        "CLOCK  search #n  done  TIME  attempt 2/2  → Answer",
        "CLOCK  gather #n  started  Answer",
        "CLOCK  gather #n  collected  TIME",
        "CLOCK  gather #n  started  Answer",
        "CLOCK  gather #n  done  TIME  → StopEvent",
        "CLOCK  Research  done in TIME, 5 step executions, 6 attempts",
        "  run r1",
        "",
    ]
    assert [line.split()[0] for line in lines[15:20]] == ["plan", "search", "search", "gather", "gather"]
    assert "payload" not in out.getvalue()


async def test_with_a_trace_its_id_is_shown(spans: Spans) -> None:
    out = io.StringIO()
    await Research(timeout=5, middleware=[Tracing(spans.provider), Console(out)], telemetry=False).run()
    assert f"trace {spans.ended[0].context.trace_id:032x}" in out.getvalue()


async def test_lines_of_runs_at_once_say_which_run() -> None:
    out = io.StringIO()
    flow = Research(timeout=5, middleware=[Console(out)], telemetry=False)
    await asyncio.gather(*(flow.run(run_id=f"run-{number}") for number in range(3)))
    started = [line for line in out.getvalue().splitlines() if " started " in line]
    assert sum("run-1" in line for line in started) >= 4


def said(body: Callable[[ByHand, StepCall], Any], *layers: Middleware, encoding: str | None = None) -> str:
    out: Any = io.StringIO() if encoding is None else io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    hand = ByHand(Console(out), *layers)
    hand.body = lambda call: body(hand, call)
    with contextlib.suppress(BaseException):
        hand.go()
    if encoding is not None:
        out.seek(0)
        return str(out.read())
    return normalised(str(out.getvalue()))


@pytest.mark.parametrize(
    ("kind", "given", "line"),
    [
        (WaitStarted, {"wait_id": 1, "event_type": "Yes", "waiter_id": None, "timeout": 9.0}, "waiting  for Yes, TIME at most"),
        (WaitEnded, {"wait_id": 1, "event_type": "Yes", "outcome": "success", "duration": 1.5}, "answered  TIME  Yes"),
        (WaitEnded, {"wait_id": 1, "event_type": "Yes", "outcome": "timeout", "duration": 1.5}, "timeout  TIME  Yes"),
        (EventDropped, {"event_id": 1, "event_type": "Lost", "reason": "overflow"}, "dropped  Lost: too many are held"),
        (
            EventDropped,
            {"event_id": 1, "event_type": "Lots", "reason": "unclaimed", "near_miss": "step `a` takes Lost", "final": False},
            "held  Lots: step `a` takes Lost",
        ),
        (LoopBlocked, {"step": "work", "location": "f.py:3", "duration": 2.0}, "blocked  TIME  the event loop stood still at f.py:3"),
        (MiddlewareFailed, {"middleware": "Mine", "error_type": "KeyError"}, "observer  Mine failed: KeyError"),
    ],
)
def test_a_notice_has_its_line(kind: type, given: dict[str, Any], line: str) -> None:
    def body(hand: ByHand, call: StepCall) -> StopEvent:
        hand.chain.notice(kind(run=call.run, at=0.0, call=call, **given))
        return StopEvent()

    assert f"CLOCK  work #n  {line}\n" in said(body)


@pytest.mark.parametrize(
    ("error", "reason", "line"),
    [
        (ValueError("first\nsecond"), None, "failed  TIME  ValueError: first"),
        (ValueError(), None, "failed  TIME  ValueError"),
        (StepTimeoutError("too slow"), None, "timeout  TIME  StepTimeoutError: too slow"),
        (asyncio.CancelledError(), "sibling_failed", "cancelled  TIME  sibling failed"),
        (asyncio.CancelledError(), "cancelled", "cancelled  TIME"),
    ],
)
def test_an_unhappy_end_has_its_line(error: BaseException, reason: str | None, line: str) -> None:
    def body(hand: ByHand, call: StepCall) -> StopEvent:
        call.cancel_reason = reason
        raise error

    assert f"CLOCK  work #n  {line}\n" in said(body)


def test_a_stalled_run_says_why_in_full() -> None:
    class Stalls(Middleware):
        async def run(self, call: Any, call_next: Any, /) -> Any:
            raise WorkflowStalledError("step a waits.\n  It lacks B.")

    text = said(lambda hand, call: StopEvent(), Stalls())
    assert "Flow  stalled in TIME, 0 step executions" in text
    assert "\n  step a waits.\n  It lacks B.\n" in text


def test_a_stream_without_unicode_gets_ascii() -> None:
    def body(hand: ByHand, call: StepCall) -> StopEvent:
        hand.run.records = [
            AttemptRecord(run_id="r1", workflow="Flow", step="work", execution=1, attempt=1, events_in=(), causes=(), ended_at=1.0)
        ]
        return StopEvent()

    text = said(body, encoding="latin-1")
    assert text.isascii()
    assert "-> StopEvent" in text
    assert "####" in text


def test_the_default_is_standard_error_as_it_is_now(capsys: pytest.CaptureFixture[str]) -> None:
    ByHand(Console()).go()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Flow  done in" in captured.err


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_colours_and_no_line_is_wider_than_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = Terminal()
    hand = ByHand(Console(out))

    def body(call: StepCall) -> StopEvent:
        raise ValueError("x" * 200)

    hand.body = body
    with pytest.raises(ValueError, match="x"):
        hand.go()
    text = out.getvalue()
    assert "\x1b[1;31m" in text
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    assert max(len(line.rstrip()) for line in plain.splitlines()) <= 60, plain
    assert "rich" in sys.modules
    assert os.environ["COLUMNS"] == "60"


def test_a_stream_that_breaks_does_not_reach_the_run() -> None:
    out = io.StringIO()
    out.close()
    assert isinstance(ByHand(Console(out)).go(), StopEvent)
