"""Checkpoints after every step, and runs that start from one: also in another process, when the first was killed.

A `WorkflowCheckpointer` runs a workflow and keeps, after each step, what the run was. A run started from a checkpoint has an id of
its own and repeats nothing that was done: below, the joke is made once and criticised twice. In memory the checkpoints end with
the process; with a store they are in a file, and a run goes on past a step only when its checkpoint is safe there.

```mermaid
flowchart LR
  start([Topic]) --> generate_joke -->|JokeEvent| critique_joke --> stop([Critique])
  generate_joke -.->|checkpoint| store[(store)]
  critique_joke -.->|checkpoint| store
  store -.->|run_from| critique_joke
```

`python -m examples.checkpointing_workflows [TOPIC]`, and to see that a killed process is no loss:
`python -m examples.checkpointing_workflows ferry --store jokes.db --kill-before critique_joke`, then
`python -m examples.checkpointing_workflows --store jokes.db --resume`. After LlamaIndex's "Checkpointing Workflow Runs", whose
checkpointer is no longer there.
"""

from __future__ import annotations

import os
import signal
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from examples._kit.cli import NotFoundError, Stage, WrongInputError, output_file, run_example
from examples._kit.model import Model
from examples._kit.reading import content_words
from tracedflow import Checkpoint, Event, Middleware, StartEvent, StopEvent, Workflow, WorkflowCheckpointer, step
from tracedflow.errors import ContextSerdeError
from tracedflow.middleware import StepCall, StepNext, StepResult

QUESTION = "lighthouse"  # what the joke is about

JOKE = """\
Write a short joke about the topic. Build it on one of the facts, and quote that fact.

<facts>
{facts}
</facts>
<topic>{topic}</topic>"""

CRITIQUE = """\
Say what is good and what is bad about this joke, in a few sentences. Quote it first.

<joke>{joke}</joke>"""


class Topic(StartEvent):
    topic: str
    facts: str


class JokeEvent(Event):
    joke: str


class Critique(StopEvent):
    joke: str
    critique: str


class JokeFlow(Workflow[Critique]):
    def __init__(self, model: Model, **options: Any) -> None:
        super().__init__(**options)
        self.model = model

    @step
    async def generate_joke(self, ev: Topic) -> JokeEvent:
        prompt = JOKE.format(topic=ev.topic, facts=ev.facts)
        return JokeEvent(joke=await self.model.complete(prompt, prompt_name="checkpointing_workflows.joke"))

    @step
    async def critique_joke(self, ev: JokeEvent) -> Critique:
        prompt = CRITIQUE.format(joke=ev.joke)
        critique = await self.model.complete(prompt, prompt_name="checkpointing_workflows.critique")
        return Critique(joke=ev.joke, critique=critique)


class KillBefore(Middleware):
    """Kills this process when a step is about to start: nothing is tidied up, as in a power cut."""

    def __init__(self, step: str) -> None:
        self.name = step

    async def step(self, call: StepCall, call_next: StepNext, /) -> StepResult:
        if call.step == self.name:
            os.kill(os.getpid(), signal.SIGKILL)
        return await call_next(call)


def unfinished(keeper: WorkflowCheckpointer) -> Checkpoint:
    """Return the last checkpoint of the newest run, which did not come to its end."""
    newest = list(keeper.checkpoints.values())[-1:]
    if not newest or isinstance(newest[0][-1].output_event, StopEvent):
        raise NotFoundError(f"a run to go on with: {'the newest came to its end' if newest else 'the store has none'}")
    return newest[0][-1]


async def play(stage: Stage) -> str:
    arguments = stage.arguments
    layers = [KillBefore(arguments.kill_before)] if arguments.kill_before else []
    keeper = _keeper(JokeFlow(stage.model, timeout=60, middleware=layers), arguments.store)
    if arguments.resume:
        finished: Critique = await stage.follow(keeper.run_from(unfinished(keeper)))
        return _shown(finished)

    topic, facts = _facts(stage)
    handler = keeper.run(topic=topic, facts=facts)
    first: Critique = await stage.follow(handler)
    assert handler.run_id is not None
    taken = keeper.checkpoints[handler.run_id]
    lines = [f"{number}. {_line(checkpoint)}" for number, checkpoint in enumerate(taken, start=1)]
    again: Critique = await stage.follow(keeper.run_from(taken[0]))
    lines += [_shown(first), f"From the first checkpoint, {'the same' if again.joke == first.joke else 'another'} joke:", _shown(again)]
    return "\n".join(lines)


def _keeper(workflow: JokeFlow, store: Path | None) -> WorkflowCheckpointer:
    try:
        keeper = WorkflowCheckpointer(workflow, store=store)
        _ = keeper.checkpoints  # reads the store
    except ContextSerdeError as error:
        raise WrongInputError(str(error)) from None
    return keeper


def _facts(stage: Stage) -> tuple[str, str]:
    files = {path.stem: path for path in sorted((stage.data / "handbook").glob("*.md"))}
    asked = content_words(stage.question)
    topic = next((name for name in files if set(content_words(name)) & set(asked)), None)
    if topic is None:
        raise NotFoundError(f"{stage.question!r} in the handbook, which is about {', '.join(files) or 'nothing'}")
    return topic, files[topic].read_text(encoding="utf-8")


def _line(checkpoint: Checkpoint) -> str:
    came, went = type(checkpoint.input_event).__name__, type(checkpoint.output_event).__name__
    return f"after {checkpoint.last_completed_step}: {came} -> {went}"


def _shown(critique: Critique) -> str:
    return f"Joke: {critique.joke}\nCritique: {critique.critique}"


def flags(parser: ArgumentParser) -> None:
    steps = ("generate_joke", "critique_joke")
    parser.add_argument("--store", type=output_file, metavar="FILE", help="keep the checkpoints in this SQLite file")
    parser.add_argument("--resume", action="store_true", help="go on with the newest run in the store")
    parser.add_argument("--kill-before", choices=steps, help="kill this process when that step is about to start")


def main(argv: Sequence[str] | None = None) -> int:
    return run_example(play, __doc__, QUESTION, argv, flags=flags)


if __name__ == "__main__":
    sys.exit(main())
