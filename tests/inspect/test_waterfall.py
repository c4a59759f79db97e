from __future__ import annotations

from typing import Any

from tracedflow import AttemptRecord
from tracedflow.inspect.waterfall import waterfall


def record(step: str, execution: int, attempt: int, enqueued: float, started: float, ended: float, **more: Any) -> AttemptRecord:
    return AttemptRecord(
        run_id="r1",
        workflow="Flow",
        step=step,
        execution=execution,
        attempt=attempt,
        events_in=((1, "Query"),),
        causes=(None,),
        enqueued_at=enqueued,
        started_at=started,
        ended_at=ended,
        **more,
    )


RUN = [
    record("plan", 1, 1, 0, 0, 0.1),
    record("search", 2, 1, 0.1, 0.1, 0.4),
    record("search", 3, 1, 0.1, 0.4, 0.5, outcome="error", error="ConnectionError"),
    record("search", 3, 2, 0.1, 0.7, 0.8, backoff=0.2),
    record("gather", 4, 1, 0.4, 0.4, 0.4, outcome="collecting"),
    record("ask", 5, 1, 0.8, 0.8, 1.0, waiting=0.1),
    record("publish", 6, 1, 0.9, 0.9, 1.0, blocked=0.05, outcome="error", error="httpx.HTTPStatusError"),
]


def test_a_run_as_a_picture() -> None:
    assert str(waterfall(RUN, width=60)) == (
        "  plan         100 ms  ██\n"
        "  search #2    300 ms   █████\n"
        "  search #3    700 ms   ░░░░░█···██     2 attempts\n"
        "  gather       0.0 ms        █          collecting\n"
        "  ask          200 ms              █─█\n"
        "  publish      100 ms               ▓█  error HTTPStatusErr…\n"
        "                       0        1.00 s\n"
        "  ██ running   ░░ queued   ·· backoff   ── waiting   ▓▓ loop blocked"
    )


def test_no_line_is_wider_than_asked() -> None:
    for width in (50, 60, 80, 100, 160):
        lines = str(waterfall(RUN, width=width)).splitlines()
        assert max(len(line) for line in lines[:-1]) <= width


def test_a_stream_that_takes_ascii_only_gets_it() -> None:
    assert str(waterfall(RUN, width=60, ascii_only=True)).isascii()


def test_a_long_run_is_folded_and_keeps_what_failed_and_what_took_long() -> None:
    many = [record("work", number, 1, number, number, number + 0.1) for number in range(1, 100)]
    many[10].outcome, many[10].error = "error", "ValueError"
    many[20].ended_at += 5
    text = str(waterfall(many, rows=2))
    assert "work #11" in text
    assert "error ValueError" in text
    assert "work #21" in text
    assert "⋮ 97 more step executions, of 100 ms at most" in text
    assert len(text.splitlines()) == 5


def test_one_left_out_is_not_a_plural() -> None:
    assert "1 more step execution," in str(waterfall([record("a", 1, 1, 0, 0, 1), record("b", 2, 1, 0, 0, 2)], rows=1))


def test_no_records_give_no_picture() -> None:
    assert str(waterfall([])) == ""


def test_a_run_without_duration_still_has_a_bar() -> None:
    assert "█" in str(waterfall([record("a", 1, 1, 5, 5, 5)])).splitlines()[0]


def test_records_are_ordered_by_time_and_attempts_by_number() -> None:
    text = str(waterfall(list(reversed(RUN)), width=60))
    assert text == str(waterfall(RUN, width=60))


def test_failures_and_phases_have_their_own_styles() -> None:
    styles = {style for line in waterfall(RUN).lines for _, style in line}
    assert {"bad", "odd", "dim", "queued", "running", "backoff", "waiting", "blocked"} <= styles


def test_what_goes_on_stays_when_a_long_run_is_folded_and_says_what_it_is_at() -> None:
    many = [record("work", number, 1, number, number, number + 9) for number in range(1, 50)]
    young = record("ask", 99, 1, 58, 58, 58.1)
    lines = str(waterfall([*many, young], rows=3, ongoing={99: "waiting for 2.00 s"})).splitlines()
    assert [line for line in lines if line.endswith("waiting for 2.00 s")] == [line for line in lines if "ask" in line] != []
