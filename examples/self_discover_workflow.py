"""Lets the model first find out how to think about a task, then think so: select ways, adapt them, make a structure, fill it in.

Four steps in a line, one prompt each, after the paper "Self-Discover" (Zhou et al., 2024): from a list of ways of thinking the
model selects those that help, says what they mean for this task, and turns that into a structure of steps; the last prompt
follows the structure and nothing else. The structure is not text but data, so that what the answer rests on can be checked.

```mermaid
flowchart LR
  start([StartEvent: task]) --> get_modules -->|GetModulesEvent| refine_modules
  refine_modules -->|RefineModulesEvent| create_reasoning_structure
  create_reasoning_structure -->|ReasoningStructureEvent| get_final_result --> stop([StopEvent: a Solution])
```

`python -m examples.self_discover_workflow [TASK]`. After LlamaIndex's example "Self-Discover Workflow".
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, Field

from examples._kit.cli import NotFoundError, Stage, run_example
from examples._kit.model import Model
from tracedflow import Event, StartEvent, StopEvent, Workflow, step

QUESTION = (
    "Tilda has 15 plums. She gives 4 plums to her sister and swaps 3 plums for 6 pears with a neighbour. She throws away 2 plums "
    "that are rotten. At the market she buys 12 plums and 5 pears, and later she gives 2 pears to a friend. "
    "How many plums and pears does Tilda have in the end?"
)

WAYS_OF_THINKING = [
    "Say in one's own words what is asked and what is known.",
    "Keep an account of somebody who gives, buys, sells, swaps, eats or throws away things: each change with its amount.",
    "Count each kind of thing by itself where several kinds change at once.",
    "Put what happens before and later into the order of time.",
    "Go back from the wished result to what has to be true before it.",
    "Try a smaller case first, and see what stays the same in a larger one.",
    "Look for a rule behind a row of numbers or figures.",
    "Draw the places, and go along the roads between them.",
    "Name what is taken for granted without being said, and doubt it.",
    "Split the task into parts that can be solved one by one.",
    "Compare the choices by the same few measures.",
    "Ask who wants what, and how each of them sees the matter.",
    "Think of what could go wrong, and how likely that is.",
    "Find a case like this one of which the solution is known.",
    "Check the result by another way than the one that led to it.",
]

SELECT = """\
Here are ways of thinking and a task. Choose those that help with the task; do not solve it. Write each on a line, as it stands.

{modules}
<task>{task}</task>"""

ADAPT = """\
Say of each of these ways of thinking what it means for the task, with the amounts that the task names. Do not solve the task.

<selected>
{modules}
</selected>
<task>{task}</task>"""

IMPLEMENT = """\
Turn this into a structure: steps in the order in which they are done, so that whoever follows them solves the task. A step that
changes how many there are of something says of what, and by how much (less is negative). Do not solve the task.

<adapted>
{modules}
</adapted>
<task>{task}</task>"""

SOLVE = """\
Solve the task by following the structure, step by step and nothing else. Give the result in one sentence, or write NOT FOUND if
the structure does not lead to it.

<structure>
{structure}
</structure>
<task>{task}</task>"""


class ReasoningStep(BaseModel):
    what: str = Field(description="what is done in this step")
    item: str = Field(default="", description="what it changes the number of, if it does")
    change: int = Field(default=0, description="by how much; less than 0 if there are fewer after it")


class Structure(BaseModel):
    steps: list[ReasoningStep]


class GetModulesEvent(Event):
    task: str
    modules: str


class RefineModulesEvent(Event):
    task: str
    refined_modules: str


class ReasoningStructureEvent(Event):
    task: str
    reasoning_structure: Structure


class Solution(BaseModel):
    text: str
    structure: Structure

    def __str__(self) -> str:
        lines = [f"{n}. {step.what}{f': {step.change:+d}' if step.item else ''}" for n, step in enumerate(self.structure.steps, start=1)]
        return "\n".join([self.text, *lines])


class SelfDiscoverWorkflow(Workflow):
    def __init__(self, model: Model, **options: Any) -> None:
        super().__init__(**options)
        self.model = model

    @step
    async def get_modules(self, ev: StartEvent) -> GetModulesEvent:
        """Select the ways of thinking that help."""
        if not (task := ev.get("task")):
            raise ValueError("there is no task: run(task=...)")
        modules = "\n".join(f'<module id="{number}">{text}</module>' for number, text in enumerate(WAYS_OF_THINKING, start=1))
        selected = await self.model.complete(SELECT.format(modules=modules, task=task), prompt_name="self_discover_workflow.select")
        return GetModulesEvent(task=task, modules=selected)

    @step
    async def refine_modules(self, ev: GetModulesEvent) -> RefineModulesEvent:
        """Say what they mean for this task."""
        prompt = ADAPT.format(modules=ev.modules, task=ev.task)
        adapted = await self.model.complete(prompt, prompt_name="self_discover_workflow.adapt")
        return RefineModulesEvent(task=ev.task, refined_modules=adapted)

    @step
    async def create_reasoning_structure(self, ev: RefineModulesEvent) -> ReasoningStructureEvent:
        prompt = IMPLEMENT.format(modules=ev.refined_modules, task=ev.task)
        structure = await self.model.structured(Structure, prompt, prompt_name="self_discover_workflow.implement")
        return ReasoningStructureEvent(task=ev.task, reasoning_structure=structure)

    @step
    async def get_final_result(self, ev: ReasoningStructureEvent) -> StopEvent:
        prompt = SOLVE.format(structure=ev.reasoning_structure.model_dump_json(indent=1), task=ev.task)
        text = await self.model.complete(prompt, prompt_name="self_discover_workflow.solve")
        return StopEvent(result=Solution(text=text, structure=ev.reasoning_structure))


async def play(stage: Stage) -> Solution:
    solution: Solution = await stage.run(SelfDiscoverWorkflow(stage.model, timeout=120), task=stage.question)
    if "NOT FOUND" in solution.text:
        raise NotFoundError(stage.question)
    return solution


def main(argv: Sequence[str] | None = None) -> int:
    return run_example(play, __doc__, QUESTION, argv)


if __name__ == "__main__":
    sys.exit(main())
