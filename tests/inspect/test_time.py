"""The analyses of time, on runs that really ran, in virtual time: the truth is known."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from opentelemetry.sdk.trace import TracerProvider

from tracedflow import Context, Event, StartEvent, StopEvent, Workflow, WorkflowRuntimeError, step
from tracedflow.events import HumanResponseEvent
from tracedflow.inspect.accounting import account
from tracedflow.inspect.critical import critical_path
from tracedflow.inspect.diff import compare
from tracedflow.inspect.executions import executions_of, within
from tracedflow.inspect.trace_file import read_runs
from tracedflow.inspect.whatif import slots_seen, what_if
from tracedflow.records import AttemptRecord
from tracedflow.retry_policy import retry_policy, stop_after_attempt, wait_fixed
from tracedflow.telemetry import tracing
from tracedflow.telemetry.sdk import TraceFile
from tracedflow.testing import run_virtual, virtual_time


class Item(Event):
    n: int = 0


class Slow(Event):
    pass


class Fast(Event):
    pass


class Done(Event):
    n: int = 0


class Answer(HumanResponseEvent):
    pass


def records_of(flow: Workflow, **arguments: Any) -> Sequence[AttemptRecord]:
    """Run in virtual time; return the records."""

    async def main() -> Sequence[AttemptRecord]:
        handler = flow.run(**arguments)
        await asyncio.wait([handler])
        if not handler.cancelled():
            handler.exception()
        return handler.record

    return run_virtual(main())


class Diamond(Workflow):
    """Two branches, of 3 and of 1 second, then a join."""

    @step
    async def start(self, ctx: Context, ev: StartEvent) -> Slow | Fast:
        await asyncio.sleep(0.5)
        ctx.send_event(Slow())
        ctx.send_event(Fast())
        return None  # type: ignore[return-value]

    @step
    async def slow(self, ev: Slow) -> Done:
        await asyncio.sleep(3)
        return Done()

    @step
    async def fast(self, ev: Fast) -> Done:
        await asyncio.sleep(1)
        return Done()

    @step
    async def join(self, ctx: Context, ev: Done) -> StopEvent | None:
        if ctx.collect_events(ev, [Done, Done]) is None:
            return None
        await asyncio.sleep(0.25)
        return StopEvent()


def test_the_critical_path_goes_through_the_slower_branch() -> None:
    path = critical_path(records_of(Diamond()))
    assert [hop.step for hop in path.hops] == ["start", "slow", "join"]
    assert path.duration == pytest.approx(3.75, abs=1e-3)
    assert path.steps == pytest.approx({"slow": 3.0, "start": 0.5, "join": 0.25}, abs=1e-3)
    assert path.share("slow") == pytest.approx(0.8, abs=1e-3)
    assert path.share("fast") == 0


class Fan(Workflow):
    """As many items as asked for, each as long as its number says, in a list that is joined."""

    @step
    async def spread(self, ev: StartEvent) -> list[Item]:
        return [Item(n=n) for n in ev.lengths]

    @step(num_workers=3)
    async def work(self, ev: Item) -> Done:
        await asyncio.sleep(ev.n / 10)
        return Done(n=ev.n)

    @step
    async def join(self, ev: list[Done]) -> StopEvent:
        await asyncio.sleep(0.05)
        return StopEvent(result=len(ev))


class WideFan(Fan):
    """The same with other numbers of workers: what the estimates are compared with."""

    @step(num_workers=8)
    async def work(self, ev: Item) -> Done:
        await asyncio.sleep(ev.n / 10)
        return Done(n=ev.n)


class NarrowFan(Fan):
    @step(num_workers=1)
    async def work(self, ev: Item) -> Done:
        await asyncio.sleep(ev.n / 10)
        return Done(n=ev.n)


def real(flow: Workflow, lengths: list[int]) -> float:
    return critical_path(records_of(flow, lengths=lengths)).duration


@settings(max_examples=30, deadline=None)
@given(some.lists(some.integers(0, 20), min_size=1, max_size=25))
def test_an_estimate_with_other_numbers_of_workers_is_what_really_happens(lengths: list[int]) -> None:
    records = records_of(Fan(), lengths=lengths)
    now = critical_path(records).duration
    assert what_if(records, {}, {"work": 3}) == pytest.approx(now, abs=0.01)
    assert what_if(records, {"work": 8}) == pytest.approx(real(WideFan(), lengths), abs=0.01)
    assert what_if(records, {"work": 1}) == pytest.approx(real(NarrowFan(), lengths), abs=0.01)


class Chatty(Workflow):
    """Sends while it works, retries, parks for an answer, and joins by hand."""

    workers = 2

    @step
    async def start(self, ctx: Context, ev: StartEvent) -> Item | None:
        for n in range(6):
            await asyncio.sleep(0.1)
            ctx.send_event(Item(n=n))
        return None

    @step(num_workers=2, retry_policy=retry_policy(stop=stop_after_attempt(3), wait=wait_fixed(0.7)))
    async def work(self, ctx: Context, ev: Item) -> Done:
        await asyncio.sleep(0.4)
        if ev.n == 2 and ctx.retry_info().retry_number < 2:
            raise ConnectionError
        return Done(n=ev.n)

    @step
    async def join(self, ctx: Context, ev: Done) -> StopEvent | None:
        if ctx.collect_events(ev, [Done] * 6) is None:
            return None
        await asyncio.sleep(0.2)
        return StopEvent()


class ChattyWide(Chatty):
    @step(num_workers=6, retry_policy=retry_policy(stop=stop_after_attempt(3), wait=wait_fixed(0.7)))
    async def work(self, ctx: Context, ev: Item) -> Done:
        await asyncio.sleep(0.4)
        if ev.n == 2 and ctx.retry_info().retry_number < 2:
            raise ConnectionError
        return Done(n=ev.n)


def test_an_estimate_knows_sends_in_mid_step_backoffs_and_joins_by_hand() -> None:
    records = records_of(Chatty())
    assert slots_seen(records)["work"] == 2
    assert what_if(records, {}) == pytest.approx(critical_path(records).duration, abs=0.01)
    assert what_if(records, {"work": 6}) == pytest.approx(critical_path(records_of(ChattyWide())).duration, abs=0.01)


@pytest.mark.parametrize(("workers", "text"), [({"wrok": 2}, "`wrok` is not in this run; it has"), ({"work": 0}, "cannot have 0")])
def test_an_estimate_for_what_is_not_there_is_refused(workers: dict[str, int], text: str) -> None:
    with pytest.raises(WorkflowRuntimeError, match=text):
        what_if(records_of(Fan(), lengths=[1]), workers)


@settings(max_examples=30, deadline=None)
@given(some.lists(some.integers(0, 20), max_size=12))
def test_the_parts_sum_to_the_wall_clock(lengths: list[int]) -> None:
    found = account(records_of(Fan(), lengths=lengths))
    assert sum(found.parts.values()) == pytest.approx(found.wall, abs=1e-9)
    assert found.parts["engine"] >= -1e-9


@pytest.mark.parametrize("flow", [Chatty(), Diamond()], ids=["chatty", "diamond"])
def test_the_parts_of_each_execution_sum_to_its_time(flow: Workflow) -> None:
    records = records_of(flow)
    for execution in executions_of(records).values():
        stretches = list(execution.stretches())
        assert sum(end - begin for _, begin, end in stretches) == pytest.approx(execution.ended_at - execution.ready_at, abs=1e-6)
        last = records_last(records, execution.number)
        for part in ("running", "backoff", "waiting"):
            told = sum(getattr(record, part) for record in execution.attempts)
            assert sum(end - begin for kind, begin, end in stretches if kind == part) == pytest.approx(told, abs=1e-3), (part, last)


def records_last(records: Sequence[AttemptRecord], number: int) -> AttemptRecord:
    return [record for record in records if record.execution == number][-1]


def test_the_account_says_how_long_a_join_waited_for_its_siblings() -> None:
    found = account(records_of(Diamond()))
    join = next(each for each in found.steps if each.step == "join")
    assert join.joining == pytest.approx(2.0, abs=1e-3)  # the fast branch was there after one second, the slow one after three
    text = str(found)
    assert "3.75 s of wall clock" in text
    columns = text.splitlines()[2].split()
    assert (columns[:5], columns[-1]) == (["step", "runs", "on", "path", "running"], "joining")
    assert {"backoff", "waiting"}.isdisjoint(columns)  # there was none; a busy machine may have blocked the loop


def test_time_parked_for_an_answer_is_waiting_and_not_running() -> None:
    class Asks(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await asyncio.sleep(1)
            await ctx.wait_for_event(Answer)
            return StopEvent()

    async def main() -> Sequence[AttemptRecord]:
        handler = Asks().run()
        await asyncio.sleep(3)
        handler.ctx.send_event(Answer())
        await handler
        return handler.record

    parts = account(run_virtual(main())).parts
    assert parts["waiting"] == pytest.approx(2, abs=1e-3)
    assert parts["running"] == pytest.approx(1, abs=1e-3)


def test_nothing_recorded_is_no_path_and_no_time() -> None:
    assert critical_path([]).hops == ()
    assert account([]).wall == 0


# two runs


def test_two_equal_runs_went_the_same_way_whatever_the_order() -> None:
    assert compare(records_of(Fan(), lengths=[1, 2, 3]), records_of(Fan(), lengths=[3, 1, 2])).first is None


def test_the_first_divergence_is_named_by_its_causal_position() -> None:
    class Fails(Diamond):
        @step
        async def slow(self, ev: Slow) -> Done:
            raise ConnectionError("down")

    found = compare(records_of(Diamond()), records_of(Fails()))
    assert found.first is not None
    assert (found.first.kind, found.first.path) == ("outcome", ("start", "slow"))
    assert "They part at start > slow: outcome success, then error (ConnectionError)" in str(found)


def test_more_items_and_more_attempts_are_divergences() -> None:
    more = compare(records_of(Fan(), lengths=[1, 1]), records_of(Fan(), lengths=[1, 1, 1]))
    assert [(each.kind, each.path) for each in more.divergences][:2] == [("events", ("spread",)), ("extra", ("spread", "work"))]

    class Steady(Chatty):
        @step(num_workers=2)
        async def work(self, ctx: Context, ev: Item) -> Done:
            await asyncio.sleep(0.4)
            return Done(n=ev.n)

    retried = compare(records_of(Steady()), records_of(Chatty()))
    assert retried.first is not None
    assert (retried.first.kind, retried.first.first, retried.first.second) == ("attempts", "1", "3")
    assert retried.slower[0][0] == "work"


# ------------------------------------------------------------------------------------------------------ when it was


class Interrupted(Workflow):
    """One slot: the first execution waits from 1 to 3, then for the slot until 8, and runs on till 10; the other runs from 1 to 8."""

    @step
    async def begin(self, ev: StartEvent) -> list[Item]:
        return [Item(n=0), Item(n=1)]

    @step(num_workers=1)
    async def work(self, ctx: Context, ev: Item) -> Done:
        if ev.n == 0:
            await asyncio.sleep(1)
            await ctx.wait_for_event(Answer)
            await asyncio.sleep(2)
        else:
            await asyncio.sleep(7)
        return Done(n=ev.n)

    @step
    async def end(self, ev: list[Done]) -> StopEvent:
        return StopEvent()


async def interrupted() -> tuple[float, Sequence[AttemptRecord]]:
    handler = Interrupted().run()
    await asyncio.sleep(3)
    handler.ctx.send_event(Answer())
    await handler
    return handler.record[0].enqueued_at, handler.record


def test_a_wait_and_the_queueing_after_it_are_where_they_were() -> None:
    began, records = run_virtual(interrupted())
    first, second = [each for each in executions_of(records).values() if each.step == "work"]
    found = [(part, round(start - began, 3), round(end - began, 3)) for part, start, end in first.stretches() if end - start > 1e-6]
    assert found == [("running", 0, 1), ("waiting", 1, 3), ("queued", 3, 8), ("running", 8, 10)]
    assert [part for part, start, end in second.stretches() if end - start > 1e-6] == ["queued", "running"]
    assert all(record.interruptions == () for record in records if record.execution != first.number)


def test_the_account_has_every_execution_and_their_sums_are_those_of_the_steps() -> None:
    _, records = run_virtual(interrupted())
    found = account(records)
    assert len(found.executions) == len({record.execution for record in records})
    for of in found.steps:
        own = [each for each in found.executions if each.step == of.step]
        assert sum(each.total for each in own) == pytest.approx(of.total)
    first = next(each for each in found.executions if each.step == "work")
    assert (first.waiting, first.queued, first.running) == (pytest.approx(2), pytest.approx(5), pytest.approx(3))
    (end,) = [each for each in found.executions if each.step == "end"]
    assert end.joining == pytest.approx(2, abs=1e-3)  # the second was there at 8, the first at 10


def test_each_attempt_has_its_own_interruptions() -> None:
    class Twice(Workflow):
        @step(retry_policy=retry_policy(wait=wait_fixed(4), stop=stop_after_attempt(2)))
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await asyncio.sleep(1)
            with suppress(TimeoutError):
                await ctx.wait_for_event(Answer, waiter_id=f"{ctx.retry_info().retry_number}", timeout=2)
            if ctx.retry_info().retry_number == 0:
                raise ConnectionError
            return StopEvent()

    records = records_of(Twice(timeout=60))
    began = records[0].enqueued_at
    shown = [[(what, round(start - began, 3), round(end - began, 3)) for what, start, end in record.interruptions] for record in records]
    assert shown == [[("waiting", 1, 3)], [("waiting", 8, 10)]]
    (execution,) = executions_of(records).values()
    parts = [(part, round(end - start, 3)) for part, start, end in execution.stretches() if end - start > 1e-6]
    assert parts == [("running", 1), ("waiting", 2), ("backoff", 4), ("running", 1), ("waiting", 2)]


async def test_a_step_that_blocks_the_loop_says_when() -> None:
    class Blocks(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            await asyncio.sleep(0.2)
            time.sleep(0.4)  # noqa: ASYNC251 - the mistake that is to be seen
            return StopEvent()

    handler = Blocks(telemetry=False).run()
    await handler
    (record,) = handler.record
    ((what, start, end),) = record.interruptions
    assert what == "blocked"
    assert end - start == pytest.approx(record.blocked)
    assert record.started_at + 0.15 < start < end <= record.ended_at + 1e-3
    (execution,) = executions_of([record]).values()
    assert [part for part, begin, until in execution.stretches() if until - begin > 1e-3][:2] == ["running", "blocked"]


def test_overlapping_interruptions_count_once_and_waits_are_exact() -> None:
    record = AttemptRecord(
        run_id="r", workflow="F", step="s", execution=1, attempt=1, events_in=(), causes=(), started_at=0.0, ended_at=10.0,
        interruptions=(("blocked", 1.0, 4.0), ("waiting", 3.0, 6.0), ("queued", 6.0, 7.0), ("blocked", 5.0, 12.0)),
    )  # fmt: skip
    assert list(within(record)) == [
        ("running", 0.0, 1.0), ("blocked", 1.0, 3.0), ("waiting", 3.0, 6.0), ("queued", 6.0, 7.0), ("blocked", 7.0, 10.0),
    ]  # fmt: skip


@virtual_time()
async def test_a_trace_file_says_when_too(tmp_path: Path) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    file = TraceFile(tmp_path / "runs.jsonl", provider.resource)
    provider.add_span_processor(file)
    tracing.on_record = file.add_record
    try:
        handler = Interrupted(telemetry=False, middleware=[tracing.Tracing(provider)]).run()
        await asyncio.sleep(3)
        await handler.send_event(Answer())
        await handler
    finally:
        tracing.on_record = None
        provider.shutdown()
    (run,) = read_runs(file.path)
    assert run.attempts == list(handler.record)
    assert [len(record.interruptions) for record in run.attempts if record.step == "work"] == [0, 2]
