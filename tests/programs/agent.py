"""An agent: a model asks for tools, they run side by side, dangerous ones need a human's leave, results go back to the model."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from pydantic import BaseModel, Field

from tests.programs.invariants import check, count
from tracedflow import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    Limit,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowHandler,
    catch_error,
    step,
)
from tracedflow.events import StepFailedEvent
from tracedflow.resource import Resource
from tracedflow.retry_policy import retry_if_exception_type, retry_policy, stop_after_attempt, wait_fixed
from tracedflow.testing import Schedule

SCRIPT = [
    [("search", 3), ("search", 5), ("delete", 7), ("flaky", 11)],
    [("delete", 13), ("slow", 17), ("broken", 19)],
    [],
]
ANSWERS = {7: True, 13: False}


class Task(StartEvent):
    goal: str


class ToolCall(Event):
    turn: int
    tool: str
    number: int


class ToolResult(Event):
    turn: int
    number: int
    text: str


class Observed(Event):
    turn: int


class MayI(InputRequiredEvent):
    number: int


class Leave(HumanResponseEvent):
    number: int
    granted: bool


class Memory(BaseModel):
    goal: str = ""
    texts: list[str] = Field(default_factory=list)


class Toolbox:
    """Fails as real ones do, and writes down what it did."""

    def __init__(self) -> None:
        self.tried: dict[int, int] = {}
        self.charged: list[int] = []
        self.deleted: list[int] = []

    async def run(self, tool: str, number: int) -> str:
        tried = self.tried[number] = self.tried.get(number, 0) + 1
        match tool:
            case "flaky" if tried < 3:
                raise ConnectionError("refused")
            case "slow" if tried < 2:
                await asyncio.sleep(1_000)
            case "broken":
                raise ValueError("no such table")
            case "delete":
                self.deleted.append(number)
        return f"{tool} {number}"


def toolbox() -> Toolbox:
    """Make what the steps share; replaced by each run of the program with its own."""
    return Toolbox()


class Agent(Workflow):
    """The loop: think, use tools, observe, think again."""

    model = Limit("model", concurrency=1)

    @step
    async def begin(self, ctx: Context[Memory], ev: Task) -> Observed:
        async with ctx.store.edit_state() as memory:
            memory.goal = ev.goal
        return Observed(turn=0)

    @step(limit=model)
    async def think(self, ctx: Context[Memory], ev: Observed) -> list[ToolCall] | StopEvent:
        memory = await ctx.store.get_state()
        wanted = SCRIPT[ev.turn]
        if not wanted:
            return StopEvent(result=f"{memory.goal}: {'; '.join(memory.texts)}")
        return [ToolCall(turn=ev.turn, tool=tool, number=number) for tool, number in wanted]

    @step(
        num_workers=3,
        timeout=50,
        retry_policy=retry_policy(
            retry=retry_if_exception_type((ConnectionError, TimeoutError)), wait=wait_fixed(2), stop=stop_after_attempt(3)
        ),
    )
    async def use(self, ctx: Context[Memory], ev: ToolCall, box: Annotated[Toolbox, Resource(toolbox)]) -> ToolResult:
        await ctx.once("charge", lambda: box.charged.append(ev.number))
        if ev.tool == "delete":
            leave = await ctx.wait_for_event(
                Leave, waiter_event=MayI(number=ev.number), waiter_id=f"leave {ev.number}", requirements={"number": ev.number}, timeout=900
            )
            if not leave.granted:
                return ToolResult(turn=ev.turn, number=ev.number, text=f"delete {ev.number} denied")
        return ToolResult(turn=ev.turn, number=ev.number, text=await box.run(ev.tool, ev.number))

    @catch_error(for_steps=["use"])
    async def tell(self, ev: StepFailedEvent) -> ToolResult:
        call = ev.input_event
        return ToolResult(turn=call.turn, number=call.number, text=f"{call.tool} {call.number} failed: {ev.exception}")

    @step
    async def observe(self, ctx: Context[Memory], results: list[ToolResult]) -> Observed:
        async with ctx.store.edit_state() as memory:
            memory.texts.extend(result.text for result in sorted(results, key=lambda result: result.number))
        return Observed(turn=results[0].turn + 1)


async def human(handler: WorkflowHandler[Any], schedule: Schedule) -> list[int]:
    """Answer each question after a while, in whatever order; also one that nobody asked."""
    asked: list[int] = []
    async with asyncio.TaskGroup() as group:
        async for event in handler.stream_events():
            if isinstance(event, MayI):
                asked.append(event.number)
                group.create_task(_answer(handler, event.number, schedule))
    return asked


async def _answer(handler: WorkflowHandler[Any], number: int, schedule: Schedule) -> None:
    await asyncio.sleep(schedule.random.choice([0, 1, 100]))
    handler.ctx.send_event(Leave(number=-1, granted=True))
    handler.ctx.send_event(Leave(number=number, granted=ANSWERS[number]))


async def main(schedule: Schedule) -> None:
    box = Toolbox()
    agent = Agent(middleware=[schedule], telemetry=False, timeout=5_000)
    with agent.resource_manager.override(toolbox, box):
        handler = agent.run(goal="tidy up")
        asked = await human(handler, schedule)
        assert await handler == (
            "tidy up: search 3; search 5; delete 7; flaky 11; delete 13 denied; slow 17; broken 19 failed: no such table"
        )
    check(handler, workers={"use": 3, "tell": 1}, limits=[Agent.model])
    assert asked == [7, 13], "each question once"
    assert box.deleted == [7]
    assert sorted(box.charged) == [3, 5, 7, 11, 13, 17, 19], "once each, over all attempts"
    assert count(handler) == {"begin": 1, "think": 3, "use": 10, "tell": 1, "observe": 2}
