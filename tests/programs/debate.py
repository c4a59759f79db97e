"""A debate: agents that are workflows of their own argue in rounds, a judge that nests deeper decides, one agent hangs."""

from __future__ import annotations

import asyncio
from typing import Any

from pydantic import BaseModel, Field

import tracedflow
from tests.programs.invariants import check, count
from tracedflow import Context, Event, Limit, RunOptions, StartEvent, StopEvent, Workflow, WorkflowHandler, WorkflowTimeoutError, step
from tracedflow.retry_policy import retry_policy, stop_after_attempt, wait_fixed
from tracedflow.testing import Schedule

AGENTS = {"opt": 3, "pes": 2, "mad": 0}
ROUNDS = 3
Options = dict[str, Any]


class Turn(StartEvent):
    agent: str
    round: int
    heard: list[str]


class Thought(Event):
    agent: str
    text: str


class Argument(StopEvent):
    agent: str
    text: str
    strength: int


class Debater(Workflow[Argument]):
    """Thinks as long as it likes; `mad` never ends in the second round."""

    model = Limit("debater's model", concurrency=2)

    @step
    async def think(self, ctx: Context, ev: Turn) -> Thought | None:
        for number in range(2):
            ctx.send_event(Thought(agent=ev.agent, text=f"{ev.agent} {ev.round}.{number}"))
        await ctx.store.set("turn", ev.model_dump())
        return None

    @step(limit=model, retry_policy=retry_policy(wait=wait_fixed(1), stop=stop_after_attempt(2)))
    async def polish(self, ctx: Context, ev: Thought) -> Argument | None:
        if ctx.retry_info().retry_number == 0 and ev.text.endswith(".1"):
            raise ConnectionError("busy")
        ctx.write_event_to_stream(ev)
        thoughts = ctx.collect_events(ev, [Thought, Thought])
        if thoughts is None:
            return None
        turn = await ctx.store.get("turn")
        if ev.agent == "mad" and turn["round"] == 1:
            await asyncio.sleep(10_000)
        return Argument(agent=ev.agent, text=" + ".join(sorted(t.text for t in thoughts)), strength=AGENTS[ev.agent] + len(turn["heard"]))


class Weigh(StartEvent):
    arguments: list[str]


class Scale(Workflow):
    """The judge's own helper, a third level down."""

    @step
    async def weigh(self, ev: Weigh) -> StopEvent:
        return StopEvent(result=max(ev.arguments, key=lambda text: (len(text), text)))


class Judge(Workflow):
    """Asks the scale twice at the same time, and must get one answer."""

    def __init__(self, options: Options) -> None:
        super().__init__(**options)
        self.scale = Scale(**options)

    @step
    async def decide(self, ev: Weigh) -> StopEvent:
        both = await asyncio.gather(*(self.scale.run(arguments=ev.arguments) for _ in range(2)))
        assert both[0] == both[1]
        return StopEvent(result=both[0])


class Speak(Event):
    agent: str
    round: int


class Spoke(Event):
    agent: str
    text: str


class RoundOver(Event):
    round: int


class Minutes(BaseModel):
    said: list[list[str]] = Field(default_factory=list)
    silent: list[str] = Field(default_factory=list)


class Debate(Workflow):
    """Rounds of nested runs, side by side; what they think bubbles up to the stream."""

    def __init__(self, options: Options) -> None:
        super().__init__(timeout=2_000, **options)
        self.debater = Debater(timeout=500, **options)
        self.judge = Judge(options)
        self.runs: list[WorkflowHandler[Any]] = []

    @step
    async def open(self, ctx: Context[Minutes], ev: StartEvent) -> RoundOver:
        return RoundOver(round=-1)

    @step
    async def begin_round(self, ctx: Context[Minutes], ev: RoundOver) -> list[Speak] | StopEvent:
        minutes = await ctx.store.get_state()
        if len(minutes.said) == ROUNDS:
            said = [text for texts in minutes.said for text in texts]
            return StopEvent(result=(await self.judge.run(arguments=said), minutes))
        return [Speak(agent=agent, round=ev.round + 1) for agent in AGENTS]

    @step(num_workers=3)
    async def speak(self, ctx: Context[Minutes], ev: Speak) -> Spoke | None:
        heard = [text for texts in (await ctx.store.get_state()).said for text in texts]
        handler = self.debater.run(agent=ev.agent, round=ev.round, heard=heard, options=RunOptions(timeout=300))
        self.runs.append(handler)
        async for event in handler.stream_events():
            if isinstance(event, Thought):
                ctx.write_event_to_stream(event)
        try:
            argument = await handler
        except WorkflowTimeoutError:
            async with ctx.store.edit_state() as minutes:
                minutes.silent.append(f"{ev.agent} {ev.round}")
            return None
        return Spoke(agent=ev.agent, text=argument.text)

    @step
    async def end_round(self, ctx: Context[Minutes], spoken: list[Spoke]) -> RoundOver:
        async with ctx.store.edit_state() as minutes:
            minutes.said.append(sorted(each.text for each in spoken))
        return RoundOver(round=len(minutes.said) - 1)


async def main(schedule: Schedule) -> None:
    options: Options = {"middleware": [schedule], "telemetry": False}
    debate = Debate(options)
    handler = debate.run()
    thoughts = [event.text async for event in handler.stream_events() if isinstance(event, Thought)]
    best, minutes = await handler
    everything = [[f"{agent} {number}.0 + {agent} {number}.1" for agent in sorted(AGENTS)] for number in range(ROUNDS)]
    everything[1].remove("mad 1.0 + mad 1.1")
    assert minutes.said == everything
    assert minutes.silent == ["mad 1"]
    assert best == "pes 2.0 + pes 2.1"
    assert sorted(thoughts) == sorted(f"{a} {r}.{n}" for a in AGENTS for r in range(ROUNDS) for n in range(2)), "each once, from all levels"
    check(handler, workers={"speak": 3}, limits=[Debater.model])
    for run in debate.runs:
        check(run)
        assert count(run)["polish"] == 3
    assert count(handler, outcome="success") == {"open": 1, "begin_round": 4, "speak": 9, "end_round": 3}
    assert not tracedflow.runs()
