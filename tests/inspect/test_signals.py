from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tracedflow import Context, Event, StartEvent, StopEvent, Workflow, WorkflowRuntimeError, step
from tracedflow.inspect import on_signal, tell

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="this system has no SIGUSR1")
SRC = Path(__file__).resolve().parents[2] / "src"


class Yes(Event):
    pass


class Asks(Workflow):
    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        await ctx.wait_for_event(Yes)
        return StopEvent()


class Said(io.StringIO):
    """A stream that tells when an answer is complete."""

    def __init__(self) -> None:
        super().__init__()
        self.complete = threading.Event()

    def flush(self) -> None:
        self.complete.set()


def asked(out: Said, raise_it: Callable[[], object] = lambda: signal.raise_signal(signal.SIGUSR1)) -> str:
    out.complete.clear()
    raise_it()
    assert out.complete.wait(10)
    return out.getvalue()


async def test_the_signal_prints_why_of_every_live_run() -> None:
    out = Said()
    undo = on_signal(stream=out)
    try:
        handlers = [Asks(on_stall="wait").run(run_id=f"run-{number}") for number in range(2)]
        while not all(handler.why().waits for handler in handlers):
            await asyncio.sleep(0)
        text = asked(out)
        assert "2 live runs" in text
        assert "Run run-0 of Asks has been running for" in text
        assert "Run run-1 of Asks has been running for" in text
        assert text.count("step `ask` waits for Yes") == 2
        for handler in handlers:
            await handler.cancel_run()
    finally:
        undo()


def test_without_a_run_it_says_so() -> None:
    assert tell().endswith(f"process {os.getpid()}: no live runs")


def test_a_handler_that_was_there_is_still_called_and_comes_back() -> None:
    heard: list[int] = []
    previous = signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    try:
        mine = signal.getsignal(signal.SIGUSR1)
        out = Said()
        undo = on_signal(stream=out)
        asked(out)
        assert heard == [signal.SIGUSR1]
        undo()
        assert signal.getsignal(signal.SIGUSR1) is mine
    finally:
        signal.signal(signal.SIGUSR1, previous)


def test_a_stream_that_breaks_does_not_end_the_answers() -> None:
    class Breaks(Said):
        broken = True

        def write(self, text: str, /) -> int:
            if self.broken:
                self.complete.set()
                raise OSError("gone")
            return super().write(text)

    out = Breaks()
    undo = on_signal(stream=out)
    try:
        asked(out)
        out.broken = False
        assert "no live runs" in asked(out)
    finally:
        undo()


def test_another_thread_than_the_main_one_is_refused() -> None:
    found: list[BaseException] = []

    def attempt() -> None:
        try:
            on_signal()
        except WorkflowRuntimeError as error:
            found.append(error)

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    assert "must be called in the main thread" in str(found[0])


BLOCKED = """
import os, signal, sys, time
from tracedflow import StartEvent, StopEvent, Workflow, step
from tracedflow.inspect import on_signal
class Blocks(Workflow):
    @step
    async def stuck(self, ev: StartEvent) -> StopEvent:
        print("here", flush=True)
        sys.stdin.readline()  # the event loop stands still
        return StopEvent()
on_signal()
Blocks(timeout=None).run_sync(run_id="blocked")
"""


def test_a_process_whose_event_loop_stands_still_answers_on_standard_error() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", BLOCKED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(SRC)},
    )  # fmt: skip
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stderr is not None
    assert child.stdout.readline().strip() == "here"
    child.send_signal(signal.SIGUSR1)
    assert "1 live run" in (first := child.stderr.readline()), first
    assert "step `stuck` is running" in child.stderr.readline()
    child.communicate("\n", timeout=20)
    assert child.returncode == 0
