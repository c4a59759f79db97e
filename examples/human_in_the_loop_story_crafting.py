"""A story that a person and a model write: the run asks what happens next, waits without a limit, and can be laid aside.

`prompt_human` publishes a question and waits for its answer; a choice that there is not is asked for again. Nothing blocks
meanwhile: the step is parked, and the trace has the waiting as a span of its own. A waiting run is data: `--pause-to` writes it to a
file, and `--resume` goes on with it in another process, without writing any part of the story twice.

```mermaid
flowchart LR
  start([Adventure]) --> create_segment -->|NewBlockEvent| prompt_human -->|HumanChoiceEvent| create_segment
  prompt_human -.->|StoryPrompt| person((person)) -.->|StoryChoice| prompt_human
  create_segment --> stop([StopEvent: Story])
```

`python -m examples.human_in_the_loop_story_crafting [HERO] [--choices 2,1,3] [--pause-to FILE | --resume FILE]`. After LlamaIndex's
"Choose Your Own Adventure Workflow (Human In The Loop)", which stops the event loop while somebody types.
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from examples._kit.cli import NotFoundError, Stage, WrongInputError, output_file, run_example
from examples._kit.model import Model
from examples._kit.terminal import at_a_terminal, typed
from tracedflow import Context, Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent, Workflow, step
from tracedflow.errors import ContextSerdeError

QUESTION = "Marit"  # who the story is about
MOST_CHOICES = 3

STORY_SO_FAR = """\
Things and people of the town, as JSON:
<world>{world}</world>
The hero:
<hero>{hero}</hero>
The story so far, with what the reader chose after each part:
<story>
{story}
</story>
"""
SEGMENT = "Write the next part of the story, in two or three sentences, and two to four things that the reader may have the hero do next."
ENDING = "Write the last part of the story, in two or three sentences. Nothing stays open."


class Segment(BaseModel):
    plot: str
    actions: list[str] = Field(min_length=2, max_length=4)


class Ending(BaseModel):
    plot: str


class Block(BaseModel):
    """A part of the story. The last has no actions, and one that is not answered yet has no choice."""

    id: int
    plot: str
    actions: list[str] = []
    choice: str | None = None


class Story(BaseModel):
    blocks: list[Block]

    def __str__(self) -> str:
        return "\n".join(f"{block.plot}{f'{chr(10)}  > {block.choice}' if block.choice else ''}" for block in self.blocks)


class Adventure(StartEvent):
    hero: str
    world: str


class NewBlockEvent(Event):
    block: Block


class HumanChoiceEvent(Event):
    block_id: int
    choice: str


class StoryPrompt(InputRequiredEvent):
    block_id: int
    plot: str
    actions: list[str]
    problem: str = ""  # what was wrong with the choice before


class StoryChoice(HumanResponseEvent):
    block_id: int
    choice: str  # the number of an action


class StoryWorkflow(Workflow):
    def __init__(self, model: Model, most_choices: int = MOST_CHOICES, **options: Any) -> None:
        super().__init__(**options)
        self.model, self.most_choices = model, most_choices

    @step
    async def create_segment(self, ctx: Context, ev: Adventure | HumanChoiceEvent) -> NewBlockEvent | StopEvent:
        if isinstance(ev, Adventure):
            await ctx.store.set("adventure", ev)
            blocks: list[Block] = []
        else:
            blocks = await ctx.store.get("blocks")
            blocks = [each.model_copy(update={"choice": ev.choice}) if each.id == ev.block_id else each for each in blocks]
        adventure: Adventure = await ctx.store.get("adventure")
        story = "\n".join(f"<part>{each.plot}</part>\n<choice>{each.choice}</choice>" for each in blocks)
        prompt = STORY_SO_FAR.format(world=adventure.world, hero=adventure.hero, story=story)
        number = len(blocks) + 1
        if number > self.most_choices:
            ending = await self.model.structured(Ending, prompt + ENDING, prompt_name="human_in_the_loop_story_crafting.ending")
            return StopEvent(result=Story(blocks=[*blocks, Block(id=number, plot=ending.plot)]))
        segment = await self.model.structured(Segment, prompt + SEGMENT, prompt_name="human_in_the_loop_story_crafting.segment")
        block = Block(id=number, plot=segment.plot, actions=segment.actions)
        await ctx.store.set("blocks", [*blocks, block])
        return NewBlockEvent(block=block)

    @step
    async def prompt_human(self, ctx: Context, ev: NewBlockEvent) -> HumanChoiceEvent:
        block, problem, asked = ev.block, "", 0
        while True:
            asked += 1
            question = StoryPrompt(block_id=block.id, plot=block.plot, actions=block.actions, problem=problem)
            answer = await ctx.wait_for_event(StoryChoice, question, f"block {block.id}, {asked}", {"block_id": block.id}, timeout=None)
            if answer.choice.strip() in map(str, range(1, len(block.actions) + 1)):
                return HumanChoiceEvent(block_id=block.id, choice=block.actions[int(answer.choice) - 1])
            problem = f"{answer.choice.strip()!r} is not a number from 1 to {len(block.actions)}"


# --- at the terminal ---


class PausedError(Exception):
    """The story is to be laid aside."""


Choose = Callable[[], Awaitable[str]]


def chooser(stage: Stage) -> Choose:
    """Return what gives the choices: those of the command line, then the terminal, and else the first action each time."""
    arguments = stage.arguments
    left = list(arguments.choices or ())

    async def choose() -> str:
        if left:
            return str(left.pop(0))
        if arguments.ask and not arguments.choices:
            line = await typed("Which? " if arguments.pause_to is None else "Which? (p: pause) ")
            if not line and arguments.pause_to is None:
                raise WrongInputError("the input ended before the story did")
            if line.strip() != "p" and line:
                return line
        if arguments.pause_to is not None:
            raise PausedError
        return "1"

    return choose


async def play(stage: Stage) -> Story | str:
    arguments, choose = stage.arguments, chooser(stage)

    async def answer(question: InputRequiredEvent) -> StoryChoice:
        assert isinstance(question, StoryPrompt)
        _show(question)
        return StoryChoice(block_id=question.block_id, choice=await choose())

    workflow = StoryWorkflow(stage.model, timeout=None)  # a person may think as long as they like
    if arguments.resume is None:
        handler = workflow.run(hero=stage.question.strip(), world=_world(stage.data / "story.json"))
    else:
        handler = workflow.run(ctx=_laid_aside(workflow, arguments.resume))
    try:
        if arguments.resume is not None:  # the open question is on the stream of the run that was laid aside, and not again
            await handler.send_event(await answer(await open_question(handler.ctx)))
        story: Story = await stage.follow(handler, answer=answer)
    except PausedError:
        saved = handler.ctx.to_dict()
        await handler.cancel_run()
        arguments.pause_to.write_text(json.dumps(saved), encoding="utf-8")
        return f"The story waits in {arguments.pause_to}; --resume {arguments.pause_to} goes on."
    return story


async def open_question(ctx: Context) -> StoryPrompt:
    """Return what a story that was laid aside waits for."""
    block = (await ctx.store.get("blocks"))[-1]
    return StoryPrompt(block_id=block.id, plot=block.plot, actions=block.actions)


def _show(question: StoryPrompt) -> None:
    lines = [question.problem] if question.problem else [question.plot]
    lines += [f"  {number}. {action}" for number, action in enumerate(question.actions, start=1)]
    print(*lines, sep="\n", file=sys.stderr, flush=True)


def _world(path: Path) -> str:
    try:
        return json.dumps(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise NotFoundError(f"a world to tell of: there is no {path}") from None


def _laid_aside(workflow: StoryWorkflow, path: Path) -> Context:
    try:
        return Context.from_dict(workflow, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, ContextSerdeError) as error:
        raise WrongInputError(f"--resume {path}: {error}") from None


def flags(parser: ArgumentParser) -> None:
    parser.add_argument("--choices", type=lambda text: text.split(","), metavar="2,1,3", help="what to choose, without asking")
    parser.add_argument("--ask", action="store_true", default=at_a_terminal(), help="ask, also without a terminal")
    parser.add_argument("--pause-to", type=output_file, metavar="FILE", help="after --choices, or at `p`, lay the story aside in this file")
    parser.add_argument("--resume", type=Path, metavar="FILE", help="go on with the story in this file")


def main(argv: Sequence[str] | None = None) -> int:
    return run_example(play, __doc__, QUESTION, argv, flags=flags)


if __name__ == "__main__":
    sys.exit(main())
