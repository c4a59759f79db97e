"""What is drawn of live runs, and the terminal that it is drawn on: in this process, with a stream that says it is a terminal."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import pytest

from tests.telemetry.conftest import ByHand
from tracedflow import Event, StartEvent
from tracedflow.telemetry import _screen
from tracedflow.telemetry._live_view import PATIENCE, LiveRun, all_drawn
from tracedflow.telemetry._screen import Screen


class Ask(Event):
    pass


@dataclass
class Hands:
    """A clock that goes when it is told to."""

    at: float = 0.0

    def now(self) -> float:
        return self.at


def begun(run_id: str = "r1") -> tuple[ByHand, Hands, LiveRun]:
    hand = ByHand()
    hand.run.run_id = run_id
    hand.run.started_at = 100.0
    clock = Hands(100.0)
    return hand, clock, LiveRun(hand.run, cast("Any", clock))


def open_step(hand: ByHand, run: LiveRun, name: str, at: float, execution: int, attempts: int = 1) -> Any:
    call = hand.make_step(name, Ask(), execution=execution)
    call.enqueued_at = call.started_at = at
    call.attempts = attempts
    run.began(call)
    return call


def lines(drawn: Any) -> list[str]:
    return ["".join(text for text, _ in line).rstrip() for line in drawn]


# ------------------------------------------------------------------------------------------------------ the drawing


def test_a_young_run_is_not_drawn_and_an_older_one_says_who_it_is_and_what_runs() -> None:
    hand, clock, run = begun()
    open_step(hand, run, "work", 100.0, 1)
    clock.at = 100.0 + PATIENCE / 2
    assert run.drawn(100, 10, ascii_only=False) == []
    clock.at = 102.0
    shown = lines(run.drawn(100, 10, ascii_only=False))
    assert shown[1] == "Flow  run r1, 2.00 s"
    (bar,) = [line for line in shown if "work" in line]
    assert bar.endswith("running")
    assert "2.00 s" in bar


def test_what_waits_says_for_how_long_and_the_wait_is_drawn_where_it_is() -> None:
    hand, clock, run = begun()
    call = open_step(hand, run, "ask", 100.0, 1)
    clock.at = 101.0
    run.rests(call, "waiting")
    clock.at = 102.0
    (bar,) = [line for line in lines(run.drawn(80, 10, ascii_only=True)) if "ask" in line]
    assert bar.endswith("waiting for 1.00 s")
    drawn = bar.split()[3]
    assert drawn.strip("#-") == ""
    assert drawn.startswith("#")
    assert drawn.endswith("-")
    assert abs(drawn.count("#") - drawn.count("-")) <= 1
    run.goes_on(call)
    call.interruptions, call.waiting = (("waiting", 101.0, 102.0),), 1.0
    clock.at = 103.0
    (bar,) = [line for line in lines(run.drawn(80, 10, ascii_only=True)) if "ask" in line]
    assert bar.endswith("running")
    assert [piece for piece in ("#", "-", "#") if piece in bar.split()[3]] == ["#", "-", "#"]
    assert bar.split()[3].strip("#").count("#") == 0  # running, waiting, running


def test_a_step_between_two_attempts_backs_off() -> None:
    hand, clock, run = begun()
    call = open_step(hand, run, "fetch", 100.0, 1)
    clock.at = 101.0
    run.rests(call, "backoff")
    clock.at = 103.0
    (bar,) = [line for line in lines(run.drawn(80, 10, ascii_only=True)) if "fetch" in line]
    assert bar.endswith("backoff for 2.00 s")
    assert "~" in bar


def test_a_later_attempt_that_waits_is_drawn_from_when_it_waited() -> None:
    hand, clock, run = begun()
    call = open_step(hand, run, "fetch", 100.0, 1, attempts=2)
    clock.at = 104.0
    run.rests(call, "waiting")
    clock.at = 105.0
    (bar,) = [line for line in lines(run.drawn(80, 10, ascii_only=True)) if "fetch" in line]
    assert bar.endswith("waiting for 1.00 s")


def test_what_ended_or_is_not_known_is_not_drawn() -> None:
    hand, clock, run = begun()
    call = open_step(hand, run, "work", 100.0, 1)
    other = hand.make_step("other", StartEvent(), execution=2)
    run.rests(other, "waiting")
    run.goes_on(other)
    run.rests(None, "waiting")
    run.goes_on(None)
    run.ended(call)
    run.ended(other)
    clock.at = 102.0
    assert not any("work" in line or "other" in line for line in lines(run.drawn(100, 10, ascii_only=False)))


def test_of_many_runs_as_many_are_drawn_as_there_are_lines_and_the_rest_is_counted() -> None:
    runs: list[LiveRun] = []
    for number in range(10):
        hand, clock, run = begun(f"r{number}")
        open_step(hand, run, "work", 100.0, 1)
        clock.at = 102.0
        runs.append(run)
    shown = lines(all_drawn(runs, 100, 40, ascii_only=False))
    assert sum("run r" in line for line in shown) == 4
    assert shown[-1] == "and 6 more runs"
    assert len(shown) <= 40
    assert lines(all_drawn(runs[:1], 100, 5, ascii_only=False))
    assert all_drawn([], 100, 40, ascii_only=False) == []


# ------------------------------------------------------------------------------------------------------ the terminal


class FakeTerminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def be_terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[], FakeTerminal]:
    """Make standard output and error a terminal where no log records go: in the test itself, as pytest sets its own before."""

    def replaced() -> FakeTerminal:
        fake = FakeTerminal()
        monkeypatch.setattr(sys, "stdout", fake)
        monkeypatch.setattr(sys, "stderr", fake)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setattr(_screen, "_watchers", {})
        return fake

    return replaced


def draw() -> list[Any]:
    return [(("a drawing", "good"),)]


def test_a_drawing_is_kept_until_it_is_dropped_and_the_streams_are_as_they_were(be_terminal: Callable[[], FakeTerminal]) -> None:
    terminal = be_terminal()
    screen = Screen()
    assert not screen.is_live
    screen.keep(draw)
    assert screen.is_live
    assert sys.stderr is not terminal
    assert sys.stderr.isatty()  # everything else of it is as before
    screen.keep(draw)
    screen.write([("a line", "bold")])
    screen.drop()
    screen.drop()
    assert not screen.is_live
    assert sys.stderr is sys.stdout is terminal
    assert "a drawing" in terminal.getvalue()
    assert "a line" in terminal.getvalue()
    screen.keep(draw)  # the next run
    assert screen.is_live
    screen.drop()


@pytest.mark.parametrize("use", ["write", "writelines", "flush"])
def test_it_makes_way_for_good_when_the_program_uses_the_terminal(be_terminal: Callable[[], FakeTerminal], use: str) -> None:
    terminal = be_terminal()
    screen = Screen()
    screen.keep(draw)
    match use:
        case "write":
            print("of the program")
        case "writelines":
            sys.stdout.writelines(["of the program\n"])
        case _:
            sys.stdout.flush()
    assert not screen.is_live
    assert sys.stdout is terminal
    if use != "flush":
        assert terminal.getvalue().endswith("of the program\n")
    screen.keep(draw)
    assert not screen.is_live


def test_two_screens_watch_the_same_streams(be_terminal: Callable[[], FakeTerminal]) -> None:
    terminal = be_terminal()
    one, other = Screen(), Screen(terminal)
    one.keep(draw)
    other.keep(draw)
    one.drop()
    assert sys.stderr is not terminal
    print("of the program")
    assert not other.is_live
    assert sys.stderr is terminal


def test_it_is_not_begun_on_a_dumb_terminal_or_none_or_where_log_records_go(
    be_terminal: Callable[[], FakeTerminal], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = be_terminal()
    plain = Screen(io.StringIO())
    plain.keep(draw)
    assert not plain.is_live
    monkeypatch.setenv("TERM", "dumb")
    screen = Screen()
    screen.keep(draw)
    assert not screen.is_live
    monkeypatch.setenv("TERM", "xterm")
    handler = logging.StreamHandler(terminal)
    logging.getLogger("tracedflow").addHandler(handler)
    try:
        screen.keep(draw)
        assert not screen.is_live
    finally:
        logging.getLogger("tracedflow").removeHandler(handler)
    screen.keep(draw)
    assert screen.is_live
    screen.drop()


def test_a_drawing_that_fails_leaves_the_space_empty(be_terminal: Callable[[], FakeTerminal]) -> None:
    terminal = be_terminal()

    def broken() -> list[Any]:
        raise RuntimeError("dictionary changed size during iteration")

    screen = Screen()
    screen.keep(broken)
    screen.drop()
    assert "dictionary changed" not in terminal.getvalue()


def test_the_width_is_that_of_the_terminal_up_to_what_eyes_can_follow(
    be_terminal: Callable[[], FakeTerminal], monkeypatch: pytest.MonkeyPatch
) -> None:
    be_terminal()
    monkeypatch.setenv("COLUMNS", "500")
    monkeypatch.setenv("LINES", "33")
    assert (Screen().width, Screen().height) == (160, 33)
    monkeypatch.setenv("COLUMNS", "80")
    assert Screen().width == 79
    assert Screen(io.StringIO()).width == 100
    assert Screen().arrow == "→"


def test_a_line_is_cut_at_the_edge_of_the_terminal_and_an_empty_drawing_is_nothing(
    be_terminal: Callable[[], FakeTerminal], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = be_terminal()
    monkeypatch.setenv("COLUMNS", "20")
    screen = Screen()
    screen.write([("x" * 100, "plain")])
    assert len(terminal.getvalue().rstrip("\n")) <= 20
    terminal.truncate(0)
    screen.write_lines([])
    assert terminal.getvalue() == ""
