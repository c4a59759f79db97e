"""The waterfall that is there while a run goes on, on a real terminal: a child process behind a pseudo-terminal."""

from __future__ import annotations

import contextlib
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pty = pytest.importorskip("pty", reason="this system has no pseudo-terminals")
SRC = Path(__file__).resolve().parents[2] / "src"

PROGRAM = """
import asyncio, logging, sys
from tracedflow import Event, StartEvent, StopEvent, Workflow, step
class Item(Event):
    n: int
class Done(Event):
    pass
class Shown(Workflow):
    @step
    async def spread(self, ev: StartEvent) -> list[Item]:
        return [Item(n=n) for n in range(2)]
    @step
    async def work(self, ev: Item) -> Done:
        {body}
        return Done()
    @step
    async def join(self, ev: list[Done]) -> StopEvent:
        return StopEvent()
{before}
Shown(timeout=60, verbose=True).run_sync(run_id="r1")
print("after the run")
"""
GO_ON = "await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)"


@dataclass
class Terminal:
    """A child whose standard output and error are a terminal of 80 columns; its input is a pipe."""

    child: subprocess.Popen[bytes]
    master: int
    seen: str = ""

    def until(self, pattern: str, timeout: float = 20.0) -> str:
        """Read until a pattern is there; return everything so far."""
        deadline = time.monotonic() + timeout
        while not re.search(pattern, self.seen) and time.monotonic() < deadline:
            if not self._read(deadline):
                break
        assert re.search(pattern, self.seen), self.seen
        return self.seen

    def rest(self) -> str:
        """Let it end; return everything."""
        assert self.child.stdin is not None
        self.child.stdin.close()
        while self._read(time.monotonic() + 20):
            pass
        assert self.child.wait(20) == 0, self.seen
        return self.seen

    def close(self) -> None:
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait()
        assert self.child.stdin is not None
        with contextlib.suppress(OSError):
            self.child.stdin.close()
        os.close(self.master)

    def go_on(self) -> None:
        assert self.child.stdin is not None
        self.child.stdin.write(b"\n\n")
        self.child.stdin.flush()

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self.master], [], [], max(0.0, deadline - time.monotonic()))
        try:
            data = os.read(self.master, 65536) if ready else b""
        except OSError:  # the child has closed its end
            data = b""
        self.seen += data.decode(errors="replace")
        return bool(data)


Start = Callable[..., Terminal]


@pytest.fixture
def started() -> Iterator[Start]:
    """Start children that end with the test, whatever happens in it."""
    terminals: list[Terminal] = []

    def start(body: str, before: str = "", term: str = "xterm") -> Terminal:
        terminals.append(opened(body, before, term))
        return terminals[-1]

    yield start
    for terminal in terminals:
        terminal.close()


def opened(body: str, before: str, term: str) -> Terminal:
    master, slave = pty.openpty()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "TRACEDFLOW_", "NO_COLOR"))}
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(body=body, before=before)],
        stdin=subprocess.PIPE,
        stdout=slave,
        stderr=slave,
        env={**kept, "PYTHONPATH": str(SRC), "TERM": term, "COLUMNS": "80", "LINES": "24", "PYTHONIOENCODING": "utf-8"},
    )
    os.close(slave)
    return Terminal(child, master)


ERASED = "\x1b[2K"  # a line that is drawn anew


def test_what_runs_is_drawn_while_it_runs_and_the_end_is_as_without(started: Start) -> None:
    terminal = started(GO_ON)
    drawn = terminal.until(r"work #\d+[^\n]*running")
    assert "Shown\x1b[0m" in drawn
    assert "after the run" not in drawn
    terminal.go_on()
    text = terminal.rest()
    assert ERASED in text
    last = text.rpartition(ERASED)[2]  # the drawing is gone; what stays is the last words and the waterfall
    assert re.search(r"work #\d+", last)
    assert "running\x1b" not in last.partition("██")[0]
    assert "after the run" in last
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h")  # the cursor is there again


def test_it_makes_way_for_good_when_the_program_writes_to_the_terminal(started: Start) -> None:
    terminal = started(f'print("said " + "aloud", end="", flush=True); {GO_ON}')
    terminal.until("said aloud")
    terminal.go_on()
    text = terminal.rest()
    after = text.partition("said aloud")[2]
    assert ERASED not in after
    assert "after the run" in after


@pytest.mark.parametrize(
    ("before", "term"), [("logging.basicConfig()", "xterm"), ("", "dumb")], ids=["log-records-go-there", "a-dumb-terminal"]
)
def test_it_is_not_begun_where_it_would_do_harm(started: Start, before: str, term: str) -> None:
    terminal = started("pass", before, term)
    text = terminal.rest()
    assert ERASED not in text
    assert "\x1b[?25l" not in text
    assert re.search(r"work #\d+", text)
