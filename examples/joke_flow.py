"""A joke and its critique: the getting-started workflow, as a class and as free functions.

The steps are as the documents of LlamaIndex Workflows have them: what differs is the import lines and the model. `JokeEvent`
goes from the step that returns it to the step that takes it; nothing else says so.

```mermaid
flowchart LR
  start([StartEvent: topic]) --> generate_joke -->|JokeEvent| critique_joke --> stop([StopEvent: the critique])
```

`python -m examples.joke_flow [TOPIC]` prints the critique of each form; the second form is verbose.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from examples._kit.cli import Stage, run_example
from examples._kit.model import choose_model
from tracedflow import (
    Event,
    StartEvent,
    StopEvent,
    Workflow,
    step,
)

QUESTION = "pirates"  # what the joke is about


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


async def play(stage: Stage) -> str:
    global llm
    as_class = JokeFlow(timeout=60, verbose=False)
    before, llm, as_class.llm = llm, stage.model, stage.model  # the model of the command line
    try:
        result = await stage.run(as_class, topic=stage.question)
        stage.handlers.append(handler := joke_flow.run(topic=stage.question))  # it tells what it does by itself
        return f"{result}\n{await handler}"
    finally:
        llm = before


def main(argv: Sequence[str] | None = None) -> int:
    return run_example(play, __doc__, QUESTION, argv)


if __name__ == "__main__":
    sys.exit(main())
