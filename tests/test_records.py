"""The records of a run: a bounded sequence, read from the front or the back, while the run goes on or after it."""

from __future__ import annotations

import pytest

from tracedflow import Event, StartEvent, StopEvent, Workflow, step


class Tick(Event):
    left: int


class Countdown(Workflow):
    @step
    async def begin(self, ev: StartEvent) -> Tick:
        return Tick(left=ev.steps)

    @step
    async def turn(self, ev: Tick) -> Tick | StopEvent:
        return Tick(left=ev.left - 1) if ev.left else StopEvent()


@pytest.mark.parametrize("kept", [None, 1, 3, 63, 64, 65, 128, 200, 10_000])
async def test_the_last_records_are_kept_as_many_as_asked_for(kept: int | None) -> None:
    steps = 300
    handler = Countdown(keep_records=kept).run(steps=steps)
    await handler
    records = handler._runner.records
    made = steps + 2
    first = 0 if kept is None else max(0, made - kept)
    executions = [2 * number + 2 for number in range(first, made)]  # each takes a number, and its event one before
    assert [record.execution for record in records] == executions
    assert len(records) == len(executions)
    assert [records[number].execution for number in range(len(records))] == executions
    assert [records[number - len(records)].execution for number in range(len(records))] == executions
    assert [record.execution for record in records[1:-1]] == executions[1:-1]
    with pytest.raises(IndexError):
        records[len(records)]


async def test_a_record_holds_events_and_causes_however_many_rows_came_before() -> None:
    handler = Countdown().run(steps=100)
    await handler
    last = handler.record[-1]
    assert last.events_in == ((203, "Tick"),)
    assert last.causes == (202,)
    assert last.events_out == ((205, "StopEvent"),)
