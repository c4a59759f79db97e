from __future__ import annotations

from typing import Any

import pytest

from tracedflow import RunReport
from tracedflow.inspect.why import explain
from tracedflow.records import EventCounts, EventFate, JoinReport, RunningStep, WaitReport


def why(state: str, **facts: Any) -> list[str]:
    return explain(RunReport(workflow="Flow", run_id="r1", state=state, age=1.2, **facts)).splitlines()


def live(step: str, since: float, *, attempt: int = 1) -> RunningStep:
    return RunningStep(step=step, execution=1, attempt=attempt, since=since, event_type="Query")


def join(*, has: dict[str, int], lacks: dict[str, int], producers: dict[str, tuple[str, ...]]) -> JoinReport:
    return JoinReport(step="gather", buffer="", has=has, lacks=lacks, producers=producers)


def wait(*, waiter_id: str | None = None, requirements: dict[str, str] | None = None, remaining: float | None = None) -> WaitReport:
    return WaitReport(
        step="ask", execution=1, event_type="Yes", waiter_id=waiter_id, requirements=requirements or {}, since=0.5, remaining=remaining
    )


@pytest.mark.parametrize(
    ("state", "opening"), [("completed", "completed in"), ("failed", "failed after"), ("cancelled", "was cancelled after")]
)
def test_little_is_said_when_little_is_to_say(state: str, opening: str) -> None:
    assert why(state) == [f"Run r1 of Flow {opening} 1.20 s."]


def test_a_join_that_lacks_an_event_and_who_could_send_it() -> None:
    missing = join(has={"Left": 2}, lacks={"Right": 1}, producers={"Right": ("work",)})
    assert why("stalled", joins=[missing], silent={"work": 3}) == [
        "Run r1 of Flow stalled after 1.20 s: step `gather` waits to collect 1 more Right (it has 2 Left).",
        "  Right could come from step `work`, which returned None 3 times.",
    ]


@pytest.mark.parametrize(
    ("facts", "clause"),
    [
        ({"running": [live("work", 0.1)]}, ", which is running"),
        ({"backing_off": [live("work", 0.1)]}, ", which waits to be tried again"),
        ({"queued": {"work": 2}}, ", which waits for a free slot"),
        ({"silent": {"work": 1}}, ", which returned None once"),
        ({}, ""),
    ],
)
def test_what_a_producer_does_now(facts: dict[str, Any], clause: str) -> None:
    missing = join(has={}, lacks={"Right": 1}, producers={"Right": ("work",)})
    assert f"  Right could come from step `work`{clause}." in why("timed out", joins=[missing], **facts)


def test_a_producer_that_waits_itself() -> None:
    missing = join(has={}, lacks={"Right": 1}, producers={"Right": ("ask", "other")})
    assert "  Right could come from step `ask`, which waits itself and step `other`." in why("timed out", joins=[missing], waits=[wait()])


def test_an_event_that_no_step_returns_must_come_from_outside() -> None:
    missing = join(has={}, lacks={"Right": 2}, producers={})
    lines = why("stalled", joins=[missing])
    assert lines[0].endswith("step `gather` waits to collect 2 Right (it has none yet).")
    assert lines[1] == "  No step returns Right, so it must come from outside: handler.ctx.send_event(Right(...))."


def test_an_open_wait_with_its_conditions() -> None:
    (line,) = why("timed out", waits=[wait(waiter_id="w1", requirements={"user": "str"}, remaining=2)])
    assert line.endswith("step `ask` waits for Yes with waiter_id 'w1' and user must match, for 500 ms so far (2.00 s left).")


def test_answers_that_came_but_did_not_fit() -> None:
    lines = why("timed out", waits=[wait()], events={"Yes": EventCounts(sent=2)})
    assert lines[1] == "  2 Yes came, but none that this wait takes."


def test_what_runs_is_named_with_its_attempt_and_many_are_counted() -> None:
    lines = why("running", running=[live("a", 0.5, attempt=2), live("b", 0.1), live("b", 0.3)], backing_off=[live("c", 0.2)])
    assert lines == [
        "Run r1 of Flow has been running for 1.20 s: step `a` is running, for 500 ms (Query, attempt 2).",
        "  2 executions of step `b` are running, the longest for 300 ms.",
        "  Step `c` waits to be tried again, for 200 ms (Query).",
    ]


def test_a_blocked_loop_comes_first() -> None:
    lines = why("timed out", blocked="step a blocked the event loop for 2.1 s at f.py:3", running=[live("a", 1)], queued={"b": 2})
    assert lines[0].endswith(": step a blocked the event loop for 2.1 s at f.py:3.")
    assert lines[2] == "  Events wait for a free slot: 2 for step `b`."


def test_a_run_that_went_quiet() -> None:
    assert why("stalled", stop_producers=("finish",), silent={"finish": 1, "side": 2}) == [
        "Run r1 of Flow stalled after 1.20 s: nothing is running, queued or awaited, and no step has returned a StopEvent.",
        "  The run could be ended by step `finish`, which returned None once.",
        "  Step `side` returned None 2 times.",
    ]


def test_events_that_nobody_took() -> None:
    lost = [
        EventFate(event_type="Rihgt", count=2, reason="unclaimed", source="work", near_miss="step `gather` takes Right"),
        EventFate(event_type="Flood", count=9, reason="overflow", source=None),
        EventFate(event_type="Late", count=1, reason="run_ended", source="work"),
    ]
    assert why("completed", unclaimed=lost)[1:] == [
        "  Nobody took 2 Rihgt from step `work`: step `gather` takes Right.",
        "  Nobody took 9 Flood from outside, as too many were held already.",
        "  Nobody took 1 Late from step `work` before the run ended.",
    ]


@pytest.mark.parametrize(("near_miss", "said"), [(None, True), ("a StopEvent ends the run only when a step returns it", False)])
def test_a_stop_event_that_was_sent_is_explained_once(near_miss: str | None, said: bool) -> None:
    lost = EventFate(event_type="StopEvent", count=1, reason="unclaimed", source="work", near_miss=near_miss)
    text = "\n".join(why("stalled", unclaimed=[lost]))
    assert ("A StopEvent ends a run only when a step returns it." in text) is said
    assert text.count("when a step returns it") == 1


def test_why_a_quiet_run_is_not_called_stalled() -> None:
    lines = why("running", waits=[wait()], signs_of_life=("the run is stepwise", "a question to a human is unanswered"))
    assert lines[-1] == "  It is not called stalled because the run is stepwise and a question to a human is unanswered."


def test_long_lists_are_cut_and_counted() -> None:
    lost = [EventFate(event_type=f"E{number}", count=1, reason="unclaimed", source=None) for number in range(8)]
    lines = why("running", running=[live(f"s{number}", 1) for number in range(8)], queued={f"q{n}": 1 for n in range(8)}, unclaimed=lost)
    assert "  3 more steps." in lines
    assert "  3 more types of events that nobody took." in lines
    assert any(line.endswith("1 for step `q4` and 3 more steps.") for line in lines)
