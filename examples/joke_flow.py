"""A joke and its critique: the getting-started workflow, as a class and as free functions.

`python -m examples.joke_flow [TOPIC]`. Written for LlamaIndex Workflows, it differs in its import lines and its model.
"""

from __future__ import annotations

import asyncio
import sys

from examples._kit.model import choose_model, introduce
from tracedflow import (
    Event,
    StartEvent,
    StopEvent,
    Workflow,
    step,
)


class JokeEvent(Event):
    joke: str


class JokeFlow(Workflow):
    llm = choose_model()

    @step
    async def generate_joke(self, ev: StartEvent) -> JokeEvent:
        topic = ev.topic

        prompt = f"Write your best joke about {topic}."
        response = await self.llm.complete(prompt)
        return JokeEvent(joke=str(response))

    @step
    async def critique_joke(self, ev: JokeEvent) -> StopEvent:
        joke = ev.joke

        prompt = f"Give a thorough analysis and critique of the following joke: {joke}"
        response = await self.llm.complete(prompt)
        return StopEvent(result=str(response))


# The same without a class: the steps are free functions, attached to an instance.

joke_flow = Workflow(timeout=60, verbose=True)

llm = choose_model()


@step(workflow=joke_flow)
async def generate_joke(ev: StartEvent) -> JokeEvent:
    topic = ev.topic

    prompt = f"Write your best joke about {topic}."
    response = await llm.complete(prompt)
    return JokeEvent(joke=str(response))


@step(workflow=joke_flow)
async def critique_joke(ev: JokeEvent) -> StopEvent:
    joke = ev.joke

    prompt = f"Give a thorough analysis and critique of the following joke: {joke}"
    response = await llm.complete(prompt)
    return StopEvent(result=str(response))


async def main(topic: str = "pirates") -> None:
    introduce(llm)

    w = JokeFlow(timeout=60, verbose=False)
    result = await w.run(topic=topic)
    print(str(result), flush=True)

    result = await joke_flow.run(topic=topic)
    print(str(result), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:2]))
