"""An agent that thinks aloud: the model writes what to do as text, a tool does it, and the observation goes into the next prompt.

Nothing is needed but a model that keeps to a form: `Thought`, `Action`, `Action Input`, or `Thought`, `Answer`. Whatever goes
wrong, a reply out of form, a tool that does not exist, wrong arguments, becomes an observation, so that the model can mend it;
only the number of turns is limited. What was said stays in the store: a second run on the same Context remembers it.

```mermaid
flowchart LR
  start([StartEvent: input]) --> new_user_msg -->|PrepEvent| prepare_chat_history -->|InputEvent| handle_llm_input
  handle_llm_input -->|ToolCallEvent| handle_tool_calls -->|PrepEvent| prepare_chat_history
  handle_llm_input -->|PrepEvent: out of form| prepare_chat_history
  handle_llm_input --> stop([StopEvent: an AgentAnswer])
  handle_llm_input -.->|StreamEvent| stream[/stream/]
  handle_tool_calls -.->|FunctionOutputEvent| stream
```

`python -m examples.react_agent [QUESTION] [--then QUESTION]`. After LlamaIndex's example "Workflow for a ReAct Agent".
"""

from __future__ import annotations

import json
import re
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from examples._kit.cli import NotFoundError, Stage, run_example, some_text
from examples._kit.model import Message, Model, ToolCall, assistant, system, user
from examples._kit.tools import Tool, ToolError, handbook_tools, tool_named
from tracedflow import Context, Event, StartEvent, StopEvent, Workflow, step

QUESTION = "What is (2123 + 2321) * 312?"

SYSTEM = """\
Answer the last message of the user. You may use these tools, one at a time:

{tools}

To use one, write these three lines, and stop. You will be told what it gave.
Thought: why you need the tool
Action: its name
Action Input: its arguments, as a JSON object

To answer, write these two lines. If neither the tools nor the user told you the answer, it is NOT FOUND.
Thought: why this is the answer
Answer: the answer"""

TOOL = '<tool name="{name}">{description}</tool>\n<arguments>{schema}</arguments>'
OBSERVATION = "Observation: {text}"
OUT_OF_FORM = "this reply cannot be used: {problem}. Write Thought, Action and Action Input, or Thought and Answer, each on a line."


class PrepEvent(Event):
    pass


class InputEvent(Event):
    input: list[Message]


class StreamEvent(Event):
    """A piece of what the model writes, for the stream."""

    delta: str


class ToolCallEvent(Event):
    tool_calls: list[ToolCall]


class FunctionOutputEvent(Event):
    """What a tool gave, for the stream."""

    output: str


class ToolOutput(BaseModel):
    tool: str
    arguments: str
    output: str


class AgentState(BaseModel):
    """All of it is data, so that a talk can be saved in the middle: the tools and the model belong to the workflow."""

    memory: list[Message] = []  # what user and agent said, over all runs on this Context
    reasoning: list[Message] = []  # of this run: what the model wrote, and what it was told
    sources: list[ToolOutput] = []


class AgentAnswer(BaseModel):
    response: str
    sources: list[ToolOutput]
    reasoning: list[str]
    finished: bool  # False if the turns were used up

    def __str__(self) -> str:
        return self.response


class OutOfFormError(Exception):
    """A reply is neither an action nor an answer."""


class ReActAgent(Workflow):
    """Answers `run(input=...)` with tools; `run(input=..., ctx=ctx)` goes on with an earlier talk."""

    def __init__(self, model: Model, tools: Sequence[Tool], *, max_turns: int = 10, **options: Any) -> None:
        super().__init__(**options)
        self.model, self.tools, self.max_turns = model, list(tools), max_turns

    @step
    async def new_user_msg(self, ctx: Context[AgentState], ev: StartEvent) -> PrepEvent:
        if not (text := ev.get("input")):
            raise ValueError("an agent needs something to answer: run(input=...)")
        async with ctx.store.edit_state() as state:
            state.memory.append(user(text))
            state.reasoning, state.sources = [], []
        return PrepEvent()

    @step
    async def prepare_chat_history(self, ctx: Context[AgentState], ev: PrepEvent) -> InputEvent:
        state = await ctx.store.get_state()
        tools = "\n".join(TOOL.format(name=t.name, description=t.description, schema=json.dumps(t.schema)) for t in self.tools)
        return InputEvent(input=[system(SYSTEM.format(tools=tools)), *state.memory, *state.reasoning])

    @step
    async def handle_llm_input(self, ctx: Context[AgentState], ev: InputEvent) -> ToolCallEvent | PrepEvent | StopEvent:
        reply = ""
        async for piece in self.model.stream(ev.input, prompt_name="react_agent.think"):
            ctx.write_event_to_stream(StreamEvent(delta=piece))
            reply += piece
        reply = reply.partition("\nObservation:")[0]  # a model may go on by itself, and make up what the tool gave
        async with ctx.store.edit_state() as state:
            state.reasoning.append(assistant(reply))
            turn = sum(message.role == "assistant" for message in state.reasoning)
        try:
            move = parse(reply, turn)
        except OutOfFormError as error:
            await self._observe(ctx, f"Error: {error}")
            move = None
        if isinstance(move, str):
            return StopEvent(result=await self._answer(ctx, move, finished=True))
        if turn >= self.max_turns:
            return StopEvent(result=await self._answer(ctx, f"There was no answer after {turn} turns.", finished=False))
        return PrepEvent() if move is None else ToolCallEvent(tool_calls=[move])

    @step
    async def handle_tool_calls(self, ctx: Context[AgentState], ev: ToolCallEvent) -> PrepEvent:
        for call in ev.tool_calls:
            try:
                output = await tool_named(self.tools, call.name).call(call.arguments)
            except ToolError as error:
                output = f"Error: {error}"
            ctx.write_event_to_stream(FunctionOutputEvent(output=output))
            async with ctx.store.edit_state() as state:
                state.sources.append(ToolOutput(tool=call.name, arguments=call.arguments, output=output))
            await self._observe(ctx, output)
        return PrepEvent()

    async def _observe(self, ctx: Context[AgentState], text: str) -> None:
        async with ctx.store.edit_state() as state:
            state.reasoning.append(user(OBSERVATION.format(text=text)))

    async def _answer(self, ctx: Context[AgentState], text: str, *, finished: bool) -> AgentAnswer:
        async with ctx.store.edit_state() as state:
            state.memory.append(assistant(text))
            said = [message.content for message in state.reasoning]
            return AgentAnswer(response=text, sources=state.sources, reasoning=said, finished=finished)


def parse(reply: str, turn: int) -> ToolCall | str:
    """Return the call that a reply wants, or the answer that it gives.

    Raises:
        OutOfFormError: it has neither.
    """
    if action := re.search(r"^Action: *(\S+) *\n+Action Input: *(\{.*\})", reply, re.MULTILINE | re.DOTALL):
        return ToolCall(id=f"turn_{turn}", name=action[1], arguments=action[2])
    if answer := re.search(r"^Answer: *(.+)", reply, re.MULTILINE | re.DOTALL):
        return answer[1].strip()
    problem = "an Action needs the name alone, and below it an Action Input" if "Action:" in reply else "it has no Action and no Answer"
    raise OutOfFormError(OUT_OF_FORM.format(problem=problem))


async def play(stage: Stage) -> AgentAnswer:
    agent = ReActAgent(stage.model, handbook_tools(stage.data), timeout=120)
    ctx: Context[AgentState] = Context(agent)
    for question in (stage.question, *getattr(stage.arguments, "then", ())):
        answer: AgentAnswer = await stage.run(agent, input=question, ctx=ctx)
        if not answer.finished or "NOT FOUND" in answer.response:
            raise NotFoundError(question if answer.finished else answer.response)
    return answer


def talk_flags(parser: ArgumentParser) -> None:
    parser.add_argument("--then", action="append", type=some_text, default=[], metavar="QUESTION", help="asked next, in the same talk")


def main(argv: Sequence[str] | None = None) -> int:
    return run_example(play, __doc__, QUESTION, argv, flags=talk_flags)


if __name__ == "__main__":
    sys.exit(main())
