"""An agent on the model's own tool calls: tools are described by their signatures, and the calls of one turn run side by side.

The model is told the tools as JSON schemas, and answers with text or with calls. A message with calls has to be followed by one
message for each, with its id, also if the tool does not exist, cannot take the arguments, or raises: then the message says so.
What is kept in the store is always a talk that a model accepts: calls are added to it together with their answers.

```mermaid
flowchart LR
  start([StartEvent: input]) --> prepare_chat_history -->|InputEvent| handle_llm_input
  handle_llm_input -->|ToolCallEvent| handle_tool_calls -->|InputEvent| handle_llm_input
  handle_llm_input --> stop([StopEvent: an AgentAnswer])
  handle_llm_input -.->|StreamEvent| stream[/stream/]
  handle_tool_calls -.->|FunctionOutputEvent| stream
```

`python -m examples.function_calling_agent [QUESTION] [--then QUESTION]`. After LlamaIndex's example "Workflow for a Function
Calling Agent"; `examples/react_agent.py` is the same agent for a model that only writes text.
"""

from __future__ import annotations

import asyncio
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from examples._kit.cli import NotFoundError, Stage, run_example, some_text
from examples._kit.model import Message, Model, ToolCall, assistant, system, tool_result, user
from examples._kit.tools import Tool, ToolError, handbook_tools, tool_named
from tracedflow import Context, Event, StartEvent, StopEvent, Workflow, step

QUESTION = "What is (2123 + 2321) * (300 + 12)?"

SYSTEM = """\
Answer the last message of the user in one sentence. Use the tools for every sum and every fact, and call those that do not
depend on each other together. If neither the tools nor the user told you the answer, write NOT FOUND."""


class InputEvent(Event):
    input: list[Message]


class StreamEvent(Event):
    """A piece of what the model says, for the stream."""

    delta: str


class ToolCallEvent(Event):
    message: Message  # of the model, with what it says beside the calls
    tool_calls: list[ToolCall]


class FunctionOutputEvent(Event):
    """What a tool gave, for the stream."""

    call_id: str
    output: str


class ToolOutput(BaseModel):
    tool: str
    arguments: str
    output: str
    is_error: bool = False


class AgentState(BaseModel):
    memory: list[Message] = []  # over all runs on this Context
    sources: list[ToolOutput] = []  # of this run
    turns: int = 0


class AgentAnswer(BaseModel):
    response: str
    sources: list[ToolOutput]
    finished: bool  # False if the turns were used up

    def __str__(self) -> str:
        return self.response


class FunctionCallingAgent(Workflow):
    """Answers `run(input=...)` with tools; `run(input=..., ctx=ctx)` goes on with an earlier talk."""

    def __init__(self, model: Model, tools: Sequence[Tool], *, max_turns: int = 10, **options: Any) -> None:
        super().__init__(**options)
        self.model, self.tools, self.max_turns = model, list(tools), max_turns

    @step
    async def prepare_chat_history(self, ctx: Context[AgentState], ev: StartEvent) -> InputEvent:
        if not (text := ev.get("input")):
            raise ValueError("an agent needs something to answer: run(input=...)")
        async with ctx.store.edit_state() as state:
            state.sources, state.turns = [], 0
        return await self._remember(ctx, user(text))

    @step
    async def handle_llm_input(self, ctx: Context[AgentState], ev: InputEvent) -> ToolCallEvent | StopEvent:
        def tell(piece: str) -> None:
            ctx.write_event_to_stream(StreamEvent(delta=piece))

        messages = [system(SYSTEM), *ev.input]
        message = await self.model.chat(
            messages, [tool.spec for tool in self.tools], prompt_name="function_calling_agent.think", on_text=tell
        )
        async with ctx.store.edit_state() as state:
            state.turns += 1
            out_of_turns = state.turns >= self.max_turns
        if message.tool_calls and not out_of_turns:
            return ToolCallEvent(message=message, tool_calls=message.tool_calls)
        text = f"There was no answer after {self.max_turns} turns." if message.tool_calls else message.content
        await self._remember(ctx, assistant(text))
        sources = (await ctx.store.get_state()).sources
        return StopEvent(result=AgentAnswer(response=text, sources=sources, finished=not message.tool_calls))

    @step
    async def handle_tool_calls(self, ctx: Context[AgentState], ev: ToolCallEvent) -> InputEvent:
        async def answer(call: ToolCall) -> ToolOutput:
            found = await self._call(call)
            ctx.write_event_to_stream(FunctionOutputEvent(call_id=call.id, output=found.output))
            return found

        found = await asyncio.gather(*map(answer, ev.tool_calls))
        async with ctx.store.edit_state() as state:
            state.sources.extend(found)
        answers = [tool_result(call, output.output) for call, output in zip(ev.tool_calls, found, strict=True)]
        return await self._remember(ctx, ev.message, *answers)

    async def _call(self, call: ToolCall) -> ToolOutput:
        try:
            output = await tool_named(self.tools, call.name).call(call.arguments)
        except ToolError as error:
            return ToolOutput(tool=call.name, arguments=call.arguments, output=f"Error: {error}", is_error=True)
        return ToolOutput(tool=call.name, arguments=call.arguments, output=output)

    async def _remember(self, ctx: Context[AgentState], *messages: Message) -> InputEvent:
        async with ctx.store.edit_state() as state:
            state.memory.extend(messages)
            return InputEvent(input=list(state.memory))


async def play(stage: Stage) -> AgentAnswer:
    agent = FunctionCallingAgent(stage.model, handbook_tools(stage.data), timeout=120)
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
