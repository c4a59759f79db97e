from __future__ import annotations

from examples._kit.cli import Stage
from examples.joke_flow import JokeFlow
from tests.examples.cases import Ask, Case


async def play(stage: Stage) -> str:
    """Run the first form alone: the second is an instance of the module, which is older than what a test configures."""

    class OfThisStage(JokeFlow):
        llm = stage.model

    return str(await stage.run(OfThisStage(workflow_name="JokeFlow"), topic=stage.question))


CASE = Case(
    steps=("generate_joke", "critique_joke"),
    asks=[Ask("heron postcards", lambda data: "heron postcards"), Ask("wet maps", lambda data: "wet maps")],
    calls={"": "generate_joke critique_joke"},
    play=play,
)
