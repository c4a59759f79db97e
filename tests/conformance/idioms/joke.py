"""The program that every page starts with, in the two forms of its imports."""

import asyncio

from tracedflow import Context, Workflow, step
from tracedflow.events import Event, StartEvent, StopEvent


class JokeEvent(Event):
    joke: str


class JokeFlow(Workflow):
    llm = staticmethod(lambda prompt: f"<{prompt}>")

    @step
    async def generate_joke(self, ev: StartEvent) -> JokeEvent:
        topic = ev.topic
        response = self.llm(f"Write your best joke about {topic}.")
        return JokeEvent(joke=str(response))

    @step()
    async def critique_joke(self, ctx: Context, ev: JokeEvent) -> StopEvent:
        ctx.write_event_to_stream(Event(msg="thinking"))
        response = self.llm(f"Analyse: {ev.joke}")
        return StopEvent(result=str(response))


async def main():
    w = JokeFlow(timeout=60, verbose=False)
    result = await w.run(topic="pirates")
    handler = w.run(topic="cats")
    streamed = []
    async for ev in handler.stream_events():
        if isinstance(ev, StopEvent):
            streamed.append("StopEvent")
        else:
            streamed.append(ev.msg)
    final = await handler
    return str(result), str(final), streamed


if __name__ == "__main__":
    print(asyncio.run(main()))
