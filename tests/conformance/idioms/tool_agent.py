"""An agent: a model asks for tools, which run side by side, until it answers; its memory is kept from turn to turn."""

import asyncio
from typing import Any, List  # noqa: UP035 - the idiom

from tracedflow import Context, Workflow, step
from tracedflow.events import Event, StartEvent, StopEvent


class InputEvent(Event):
    input: list[dict[str, Any]]


class StreamEvent(Event):
    delta: str


class ToolCallEvent(Event):
    tool_name: str
    tool_kwargs: dict[str, Any]


class ToolResultEvent(Event):
    content: str


class FakeLlm:
    """Asks for two tools first, then answers with what they said."""

    async def astream(self, history):
        tools = [message["content"] for message in history if message["role"] == "tool"]
        text = f"the answer is {' and '.join(tools)}" if tools else ""
        for word in text.split():
            yield word

    def tool_calls(self, history):
        asked = [message for message in history if message["role"] == "tool"]
        return [] if asked else [("add", {"a": 1, "b": 2}), ("multiply", {"a": 3, "b": 4}), ("missing", {})]


class FunctionCallingAgent(Workflow):
    def __init__(self, *args: Any, llm: FakeLlm | None = None, tools: List[Any] | None = None, **kwargs: Any) -> None:  # noqa: UP006
        super().__init__(*args, **kwargs)
        self.tools = {tool.__name__: tool for tool in tools or []}
        self.llm = llm or FakeLlm()

    @step
    async def prepare_chat_history(self, ctx: Context, ev: StartEvent) -> InputEvent:
        await ctx.store.set("sources", [])
        memory = await ctx.store.get("memory", default=None) or []
        memory.append({"role": "user", "content": ev.input})
        await ctx.store.set("memory", memory)
        return InputEvent(input=memory)

    @step
    async def handle_llm_input(self, ctx: Context, ev: InputEvent) -> ToolCallEvent | StopEvent:
        response = ""
        async for delta in self.llm.astream(ev.input):
            response += f" {delta}" if response else delta
            ctx.write_event_to_stream(StreamEvent(delta=delta))
        calls = self.llm.tool_calls(ev.input)
        await ctx.store.set("num_tool_calls", len(calls))
        if not calls:
            return StopEvent(result={"response": response, "sources": [*await ctx.store.get("sources", default=[])]})
        for name, arguments in calls:
            ctx.send_event(ToolCallEvent(tool_name=name, tool_kwargs=arguments))
        return None

    @step(num_workers=4)
    async def handle_tool_call(self, ctx: Context, ev: ToolCallEvent) -> ToolResultEvent:
        tool = self.tools.get(ev.tool_name)
        if not tool:
            return ToolResultEvent(content=f"no tool {ev.tool_name}")
        await asyncio.sleep(0.001 if ev.tool_name == "add" else 0)
        async with ctx.store.edit_state() as state:
            state.sources = [*state.sources, ev.tool_name]
        return ToolResultEvent(content=str(tool(**ev.tool_kwargs)))

    @step
    async def aggregate_tool_results(self, ctx: Context, ev: ToolResultEvent) -> InputEvent | None:
        num_tool_calls = await ctx.store.get("num_tool_calls")
        results = ctx.collect_events(ev, [ToolResultEvent] * num_tool_calls)
        if not results:
            return None
        memory = await ctx.store.get("memory")
        memory += [{"role": "tool", "content": result.content} for result in sorted(results, key=lambda each: each.content)]
        await ctx.store.set("memory", memory)
        return InputEvent(input=memory)


def add(a: int, b: int) -> int:
    return a + b


def multiply(a: int, b: int) -> int:
    return a * b


async def main():
    agent = FunctionCallingAgent(llm=FakeLlm(), tools=[add, multiply], timeout=120, verbose=False)
    ctx = Context(agent)
    handler = agent.run(input="What is it?", ctx=ctx)
    words = [event.delta async for event in handler.stream_events() if isinstance(event, StreamEvent)]
    response = await handler
    again = await agent.run(input="And now?", ctx=ctx)
    memory = await ctx.store.get("memory")
    return " ".join(words) == response["response"], response["response"], sorted(response["sources"]), again["sources"], len(memory)


if __name__ == "__main__":
    print(asyncio.run(main()))
