"""Holds what `assert_run` promises: each gate holds where it should, and fails with what was found and the waterfall."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tracedflow import Context, Event, StartEvent, StopEvent, Workflow, WorkflowHandler, WorkflowStalledError, step
from tracedflow.records import AttemptRecord, Outcome
from tracedflow.retry_policy import retry_policy, stop_after_attempt, wait_fixed
from tracedflow.testing import Faults, RunGates, assert_run, run_virtual, virtual_time


class Page(Event):
    n: int


class Read(Event):
    n: int


class Book(Workflow):
    """Opens for 1 s, reads four pages two at a time for 2 s each, and closes at once."""

    def __init__(self, *layers: Any) -> None:
        super().__init__(telemetry=False, middleware=layers, timeout=None)

    @step
    async def open(self, ev: StartEvent) -> list[Page]:
        await asyncio.sleep(1)
        return [Page(n=n) for n in range(4)]

    @step(num_workers=2, retry_policy=retry_policy(wait=wait_fixed(10), stop=stop_after_attempt(3)))
    async def read(self, ev: Page) -> Read:
        await asyncio.sleep(2)
        return Read(n=ev.n)

    @step
    async def close(self, ctx: Context, ev: Read) -> StopEvent | None:
        return None if ctx.collect_events(ev, [Read] * 4) is None else StopEvent()


async def finished(*layers: Any) -> WorkflowHandler[Any]:
    handler = Book(*layers).run()
    await asyncio.wait([handler])
    handler.exception()
    return handler


def gates(*layers: Any) -> RunGates:
    return assert_run(run_virtual(finished(*layers)))


def test_gates_that_hold_can_be_chained() -> None:
    (
        gates()
        .completed()
        .ended("completed")
        .ran("open")
        .ran("read", 4)
        .ran("read", at_least=3, at_most=4)
        .never_ran("burn", "sell")
        .order("open", "read", "close")
        .after("read", "open")
        .parallel("read", at_least=2, at_most=2)
        .parallel(at_most=2)
        .no_retries()
        .no_retries("read", "open")
        .attempts("read", 1)
        .took(exactly=5)
        .took(at_least=5, at_most=5.01)
        .took("open", exactly=1)
        .took("read", at_least=2, at_most=4.01)
        .critical("read", at_least=0.79, at_most=0.81)
        .critical("open", at_least=0.19, at_most=0.21)
        .critical("close", at_most=0.01)
    )


WRONG = [
    (lambda run: run.ended("failed"), "wanted the run to be failed; it is completed"),
    (lambda run: run.ran("read", 3), "wanted exactly 3 executions of step `read`; there are 4"),
    (lambda run: run.ran("read", at_least=5), "wanted at least 5 executions of step `read`; there are 4"),
    (lambda run: run.ran("read", at_least=0, at_most=1), "wanted 0 to 1 execution of step `read`; there are 4"),
    (lambda run: run.ran("burn"), "wanted at least 1 execution of step `burn`; there are 0; those that ran are `open`, `read`, `close`"),
    (lambda run: run.never_ran("open"), "wanted exactly 0 executions of step `open`; there is 1"),
    (lambda run: run.order("read", "open"), "wanted the order read → open; they began in the order open → read"),
    (lambda run: run.order("open", "burn"), "wanted step `burn` to have run; it has not; those that ran are"),
    (lambda run: run.after("close", "read"), "wanted step `close` to begin after step `read`; `close` #"),
    (lambda run: run.parallel("read", at_least=3), "wanted at least 3 attempts of `read` at one moment; the most there were is 2"),
    (lambda run: run.parallel(at_most=1), "wanted exactly 1 attempt at one moment; the most there were is 2"),
    (lambda run: run.parallel("burn"), "wanted step `burn` to have run"),
    (lambda run: run.attempts("read", 2), "wanted exactly 2 attempts of step `read`; `read` #"),
    (lambda run: run.took(at_most=4), "wanted the run to take at most 4 s; the run took 5 s"),
    (lambda run: run.took(at_least=6), "wanted the run to take at least 6 s; the run took 5 s"),
    (lambda run: run.took("open", exactly=2), "wanted step `open` to take exactly 2 s; `open` #"),
    (
        lambda run: run.critical("read", at_most=0.5),
        "wanted step `read` to have 0% to 50% of the critical path; the shares are `read` 80%, `open` 20%, `close` 0%",
    ),
    (lambda run: run.critical("burn"), "wanted step `burn` to have run"),
    (lambda run: run.took("open", at_least=2, at_most=3), "wanted step `open` to take 2 to 3 s; `open` #"),
]


@pytest.mark.parametrize(("gate", "text"), WRONG)
def test_a_gate_that_does_not_hold_says_what_was_wanted_and_found(gate: Callable[[RunGates], object], text: str) -> None:
    with pytest.raises(AssertionError) as failure:
        gate(gates())
    message = str(failure.value)
    assert message.startswith(text)
    assert "of Book completed in 5.00 s." in message
    assert message.count("read #") >= 4  # the waterfall
    assert "██ running" in message


def test_retries_are_named_and_many_of_them_are_counted() -> None:
    retried = gates(Faults().fail("read", attempt=1))
    with pytest.raises(AssertionError, match=r"^wanted no retries; `read` #\d+ was tried 2 times, `read` #\d+ was tried 2 times"):
        retried.no_retries()
    retried.no_retries("open").attempts("read", 2).attempts("read", at_least=2, at_most=3)
    with pytest.raises(AssertionError, match="wanted 3 to 4 attempts of step `read`"):
        retried.attempts("read", at_least=3, at_most=4)

    class Many(Workflow):
        @step(retry_policy=retry_policy(wait=wait_fixed(1), stop=stop_after_attempt(2)))
        async def work(self, ev: StartEvent | Page) -> StopEvent | Page | None:
            return StopEvent() if isinstance(ev, Page) and ev.n == 9 else Page(n=ev.n + 1 if isinstance(ev, Page) else 0)

    async def many() -> WorkflowHandler[Any]:
        handler = Many(middleware=[Faults().fail(attempt=1)], telemetry=False).run()
        await handler
        return handler

    with pytest.raises(AssertionError, match="was tried 2 times and 6 more"):
        assert_run(run_virtual(many())).no_retries()


def test_backoff_is_no_work() -> None:
    gates(Faults().fail("read", attempt=1)).parallel("read", at_most=2)


def test_bare_records_do_for_all_but_the_end() -> None:
    records = run_virtual(finished()).record
    run = assert_run(list(records)).ran("read", 4).parallel("read", at_least=2)
    with pytest.raises(TypeError, match="give assert_run the handler"):
        run.completed()
    with pytest.raises(AssertionError, match="wanted no retries|wanted exactly 1") as failure:
        run.ran("read", 1)
    assert "completed" not in str(failure.value)


def test_a_run_without_records_says_so() -> None:
    run = assert_run([]).no_retries().took(exactly=0)
    with pytest.raises(AssertionError, match="wanted at least 1 execution of step `a`; there are 0; none ran"):
        run.ran("a")


@virtual_time()
async def test_a_live_run_can_be_asked() -> None:
    handler = Book().run()
    await asyncio.sleep(2)
    assert_run(handler).ended("running").order("open").never_ran("close")
    await handler


def test_a_failed_run_says_why() -> None:
    run = run_virtual(finished(Faults().drop("read", times=1)))
    with pytest.raises(WorkflowStalledError):
        run.result()
    with pytest.raises(AssertionError, match=r"it is stalled(.|\n)*waits to collect 1 more Read"):
        assert_run(run).completed()


def record(step: str, execution: int, started: float, ended: float, *causes: int | None, outcome: Outcome = "success") -> AttemptRecord:
    return AttemptRecord(
        run_id="r", workflow="W", step=step, execution=execution, attempt=1, events_in=(), causes=causes, started_at=started,
        ended_at=ended, enqueued_at=started, outcome=outcome,
    )  # fmt: skip


def test_the_critical_path_follows_the_causes_of_what_ended_last() -> None:
    records = [
        record("start", 1, 0, 10, None),
        record("fast", 2, 2, 4, 1),  # `start` sent the first event after 2 s, and the second after 6
        record("slow", 3, 6, 16, 1),
        record("join", 4, 16, 20, 2, 3),
        record("cut", 5, 2, 21, 1, outcome="cancelled"),
    ]
    run = assert_run(records).critical("slow", at_least=0.5, at_most=0.5).critical("start", at_least=0.3, at_most=0.3)
    run.critical("join", at_least=0.2, at_most=0.2).critical("fast", at_most=0).critical("cut", at_most=0)


def test_a_run_that_took_no_time_has_no_critical_shares() -> None:
    assert_run([record("a", 1, 3, 3)]).critical("a", at_most=0)


@pytest.mark.parametrize(
    ("spans", "most"),
    [
        ([(0, 1), (1, 2)], 1),
        ([(0, 2), (1, 3), (2, 4)], 2),
        ([(0, 4), (1, 3), (2, 2)], 3),
        ([(1, 1), (1, 1), (1, 1)], 1),
        ([(0, 1), (1, 1), (1, 2)], 1),
        ([(0, 1), (0, 1), (0, 1)], 3),
    ],
)
def test_work_that_only_touches_is_not_parallel(spans: list[tuple[float, float]], most: int) -> None:
    records = [record("a", number, *span) for number, span in enumerate(spans)]
    assert_run(records).parallel(at_least=most, at_most=most)
