"""An expense that several people must approve, department by department; who does not answer in time is passed over."""

from __future__ import annotations

import asyncio
from typing import Any

from pydantic import BaseModel, Field

from tests.programs.invariants import check, count
from tracedflow import Context, Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent, Workflow, WorkflowHandler, step
from tracedflow.testing import Schedule

# name: department, seconds until the answer (None: never comes), verdict
PEOPLE: dict[str, tuple[str, int | None, str]] = {
    "ann": ("legal", 10, "yes"),
    "bob": ("legal", 40, "yes"),
    "cyd": ("legal", None, "yes"),
    "dan": ("finance", 5, "no"),
    "eve": ("finance", 60, "yes"),
    "fay": ("board", 20, "yes"),
}
PATIENCE = 100.0
DEPARTMENTS = {"legal": 3, "finance": 2, "board": 1}


class Ask(Event):
    person: str
    department: str


class Question(InputRequiredEvent):
    person: str


class Verdict(HumanResponseEvent):
    person: str
    says: str


class Vote(Event):
    person: str
    department: str
    says: str


class Decided(Event):
    department: str
    granted: bool


class Board(BaseModel):
    votes: dict[str, str] = Field(default_factory=dict)
    open: int = 0


class Expense(Workflow):
    """Everybody is asked at once; each department is decided when all of it has voted or was passed over."""

    @step
    async def begin(self, ctx: Context[Board], ev: StartEvent) -> Ask | None:
        for person, (department, _, _) in PEOPLE.items():
            ctx.send_event(Ask(person=person, department=department))
        return None

    @step(num_workers=2)
    async def ask(self, ctx: Context[Board], ev: Ask) -> Vote:
        async with ctx.store.edit_state() as board:
            board.open += 1
        try:
            verdict = await ctx.wait_for_event(
                Verdict,
                waiter_event=Question(person=ev.person),
                waiter_id=ev.person,
                requirements={"person": ev.person},
                timeout=PATIENCE,
            )
            says = verdict.says
        except TimeoutError:
            says = "silent"
        async with ctx.store.edit_state() as board:
            board.open -= 1
            board.votes[ev.person] = says
        return Vote(person=ev.person, department=ev.department, says=says)

    @step(num_workers=1)
    async def count(self, ctx: Context[Board], ev: Vote) -> Decided | None:
        votes = ctx.collect_events(ev, [Vote] * DEPARTMENTS[ev.department], buffer_id=ev.department)
        if votes is None:
            return None
        assert {vote.department for vote in votes} == {ev.department}
        return Decided(department=ev.department, granted=all(vote.says != "no" for vote in votes))

    @step
    async def decide(self, ctx: Context[Board], ev: Decided) -> StopEvent | None:
        decided = ctx.collect_events(ev, [Decided] * len(DEPARTMENTS))
        if decided is None:
            return None
        board = await ctx.store.get_state()
        return StopEvent(result=({each.department: each.granted for each in decided}, board.votes, board.open))


async def office(handler: WorkflowHandler[Any], schedule: Schedule) -> list[str]:
    """Let everybody answer in their own time; some answer twice, or before they are asked."""
    asked: list[str] = []
    async with asyncio.TaskGroup() as group:
        if schedule.random.random() < 0.5:
            handler.ctx.send_event(Verdict(person="fay", says="yes"))  # early, and named: it counts
        async for event in handler.stream_events():
            if isinstance(event, Question):
                asked.append(event.person)
                group.create_task(_answer(handler, event.person, schedule))
    return asked


async def _answer(handler: WorkflowHandler[Any], person: str, schedule: Schedule) -> None:
    _, seconds, says = PEOPLE[person]
    if seconds is None:
        return
    await asyncio.sleep(seconds)
    for _ in range(schedule.random.choice([1, 2])):
        if not handler.done() and handler.ctx.is_running:
            handler.ctx.send_event(Verdict(person=person, says=says))


async def main(schedule: Schedule) -> None:
    handler = Expense(middleware=[schedule], telemetry=False, timeout=None).run()
    asked = await office(handler, schedule)
    granted, votes, still_open = await handler
    assert granted == {"legal": True, "finance": False, "board": True}
    assert votes == {name: verdict if seconds is not None else "silent" for name, (_, seconds, verdict) in PEOPLE.items()}
    assert still_open == 0
    assert sorted(asked) == sorted(PEOPLE), "nobody is asked twice"
    check(handler, workers={"ask": 2, "count": 1})
    assert count(handler) == {"begin": 1, "ask": 6, "count": 6, "decide": 3}
    assert handler.why().events["Vote"].collected == 6
    waited = max(record.waiting for record in handler.record)
    assert abs(waited - PATIENCE) < 1e-6, "one was waited for in vain, exactly as long as was said"
