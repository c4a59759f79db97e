"""Waits of every kind in one run: answered early, late, at the moment of their timeout, twice, given up, while others fail."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from pydantic import BaseModel, Field

from tests.programs.invariants import check
from tracedflow import Context, Event, Limit, StartEvent, StopEvent, Workflow, WorkflowDone, WorkflowHandler, catch_error, step
from tracedflow.events import StepFailedEvent, WorkflowFailedEvent
from tracedflow.retry_policy import retry_if_exception_type, retry_policy, stop_after_attempt, wait_fixed
from tracedflow.testing import Schedule


class Work(Event):
    number: int
    kind: str


class Answer(Event):
    serial: int
    to: int = -1


class Done(Event):
    number: int
    serials: list[int]


class Got(BaseModel):
    serials: list[int] = Field(default_factory=list)


KINDS = ("one", "both", "given up", "retried", "timed", "anybody", "anybody", "fails")


class Waits(Workflow):
    """Two slots, and one permit, for eight steps that wait."""

    line = Limit("line", concurrency=1)

    def __init__(self, schedule: Schedule, *, is_fatal: bool) -> None:
        super().__init__(timeout=None, middleware=[schedule], telemetry=False)
        self.is_fatal = is_fatal

    @step
    async def begin(self, ev: StartEvent) -> list[Work]:
        return [Work(number=number, kind=kind) for number, kind in enumerate(KINDS)]

    @step(
        num_workers=2,
        limit=line,
        timeout=2,
        retry_policy=retry_policy(
            retry=retry_if_exception_type((ConnectionError, TimeoutError)), wait=wait_fixed(1), stop=stop_after_attempt(3)
        ),
    )
    async def work(self, ctx: Context[Got], ev: Work) -> Done:
        serials = [answer.serial for answer in await self._answers(ctx, ev)]
        async with ctx.store.edit_state() as got:
            got.serials.extend(serials)
        return Done(number=ev.number, serials=serials)

    async def _answers(self, ctx: Context[Got], ev: Work) -> list[Answer]:
        mine = {"to": ev.number}
        match ev.kind:
            case "one":
                return [await ctx.wait_for_event(Answer, requirements=mine)]
            case "both":  # two branches of one step park at the same time
                return list(await asyncio.gather(*(ctx.wait_for_event(Answer, waiter_id=f"w{n}", requirements=mine) for n in range(2))))
            case "given up":  # the step's own code does not wait any longer, then asks again
                try:
                    return [await asyncio.wait_for(ctx.wait_for_event(Answer, requirements=mine), 5)]
                except TimeoutError:
                    return [await ctx.wait_for_event(Answer, requirements=mine)]
            case "retried":  # the answer is kept over the failure
                first = await ctx.wait_for_event(Answer, waiter_id="first", requirements=mine)
                if ctx.retry_info().retry_number < 2:
                    raise ConnectionError("after the answer")
                return [first, await ctx.wait_for_event(Answer, waiter_id="second", requirements=mine)]
            case "timed":  # in vain twice; the third attempt has time
                return [await ctx.wait_for_event(Answer, requirements=mine, timeout=5 if ctx.retry_info().retry_number < 2 else None)]
            case "anybody":
                return [await ctx.wait_for_event(Answer, requirements={"to": -1})]
            case _:
                await asyncio.sleep(1)
                raise LookupError("fails while the others wait")

    @catch_error(for_steps=["work"])
    async def rescue(self, ev: StepFailedEvent) -> Done:
        if self.is_fatal:
            raise ev.exception
        return Done(number=ev.input_event.number, serials=[])

    @step
    async def close(self, ctx: Context[Got], done: list[Done]) -> StopEvent:
        return StopEvent(result={each.number: each.serials for each in done})


async def answers(handler: WorkflowHandler[Any], schedule: Schedule, sent: Counter[int]) -> None:
    """Send as many answers as are asked for, and no more, at moments when things happen."""
    wanted = [0, 1, 1, 2, 3, 3, 4, -1, -1]
    schedule.random.shuffle(wanted)
    for serial, number in enumerate(wanted):
        await asyncio.sleep(schedule.random.choice([0, 0, 1, 5, 6]))
        try:
            handler.ctx.send_event(Answer(serial=serial, to=number))
        except WorkflowDone:
            return
        sent[number] += 1


async def main(schedule: Schedule) -> None:
    is_fatal = schedule.random.random() < 0.3
    handler = Waits(schedule, is_fatal=is_fatal).run()
    sent: Counter[int] = Counter()
    sending = asyncio.create_task(answers(handler, schedule, sent))
    stopped = await handler.stop_event_result()
    sending.cancel()
    await asyncio.wait([sending])
    got = (await handler.ctx.store.get_state()).serials
    assert len(got) == len(set(got)), "one answer, one wait"
    check(handler, workers={"work": 2, "rescue": 1}, limits=[Waits.line])
    events = handler.why().events
    assert not sent or events["Answer"].sent == sent.total()
    if is_fatal:
        assert isinstance(stopped, WorkflowFailedEvent)
        assert isinstance(handler.exception(), LookupError)
        assert {record.outcome for record in handler.record if record.step == "work"} <= {"success", "error", "timeout", "cancelled"}
    else:
        result = await handler
        assert {number: len(serials) for number, serials in result.items()} == {0: 1, 1: 2, 2: 1, 3: 2, 4: 1, 5: 1, 6: 1, 7: 0}
        assert sorted(got) == list(range(9)) == sorted(serial for serials in result.values() for serial in serials)
        assert events["Answer"].consumed == 9
