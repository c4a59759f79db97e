"""Plans, runs the plan's items at the same time, looks at the results, and answers or plans again.

The items of a plan are events: what the model writes as JSON is sent as it is, and as many results are collected. They come
back in any order, so each carries the number of its item. The model that decides, and the one that plans again, see all
results so far. A plan may be empty (then the question is answered at once), too long (it is cut), or name a tool that does not
exist (that is its result), and there are not more rounds than allowed: the run always ends.

```mermaid
flowchart LR
  start([StartEvent: query]) --> planning_step ==>|QueryPlanItem, one an item| execute_item
  execute_item ==>|QueryPlanItemResult| aggregate_results -->|ExecutedPlanEvent| planning_step
  planning_step --> stop([StopEvent: a PlanAnswer])
  planning_step -.->|Progress| stream[/stream/]
  execute_item -.->|Progress| stream
```

`python -m examples.planning_workflow [QUESTION]`. After LlamaIndex's example "Query Planning Workflow".
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from enum import Enum
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import SkipJsonSchema

from examples._kit.cli import NotFoundError, Stage, run_example
from examples._kit.model import Model
from examples._kit.tools import Tool, ToolError, budget_tools, tool_named
from tracedflow import Context, Event, StartEvent, StopEvent, Workflow, step

QUESTION = "How did the total spending of Karrow change from 2016 to 2023?"
MOST_ITEMS, MOST_ROUNDS = 8, 3  # items of a plan, and plans

TOOLS_AND_RESULTS = """\
{tools}

{results}
<question>{question}</question>"""

PLAN = """\
Plan how to find what the question needs. An item of the plan names one of the tools and asks it for one fact. Items run at
the same time. Plan nothing of which there is a result already, and no items at all if no tool can help.

"""

DECIDE = """\
Do the results hold all that the question needs? Give the verdict `answer` if they do, or if no tool can give more; give `plan`
if tools should be asked for more.

"""

ANSWER = """\
Answer the question from the results, or from the list of tools if it is about them. If you compare, give the difference, also
in percent. If they do not hold what it needs, write NOT FOUND.

"""

EXTRACT = """\
Answer with the one sentence of the passages that holds the answer, or write NOT FOUND.

{passages}
<question>{question}</question>"""


class QueryPlanItem(Event):
    """What the model plans, and the event that has it done."""

    name: str  # of a tool
    query: str
    number: SkipJsonSchema[int] = 0  # its place in the plan; not the model's business


class QueryPlan(BaseModel):
    items: list[QueryPlanItem]


class QueryPlanItemResult(Event):
    number: int
    name: str
    query: str
    result: str


class ExecutedPlanEvent(Event):
    """All items of a plan are done."""


class Progress(Event):
    """What is being done, for the stream."""

    msg: str


class Verdict(str, Enum):
    ANSWER = "answer"
    PLAN = "plan"


class Decision(BaseModel):
    verdict: Verdict


class Result(BaseModel):
    name: str
    query: str
    result: str


class PlanState(BaseModel):
    query: str = ""
    num_items: int = 0  # in the plan that is being done
    rounds: int = 0
    results: list[Result] = []  # of all plans so far


class PlanAnswer(BaseModel):
    text: str
    results: list[Result]
    rounds: int

    def __str__(self) -> str:
        return self.text


class QueryPlanningWorkflow(Workflow):
    def __init__(self, model: Model, tools: Sequence[Tool], **options: Any) -> None:
        super().__init__(**options)
        self.model, self.tools = model, list(tools)

    @step
    async def planning_step(self, ctx: Context[PlanState], ev: StartEvent | ExecutedPlanEvent) -> QueryPlanItem | StopEvent | None:
        if isinstance(ev, StartEvent):
            if not (query := ev.get("query")):
                raise ValueError("there is nothing to plan for: run(query=...)")
            await ctx.store.set_state(PlanState(query=query))
        state = await ctx.store.get_state()
        items = await self._next_plan(state)
        if not items:
            text = await self.model.complete(self._prompt(ANSWER, state), prompt_name="planning_workflow.answer")
            return StopEvent(result=PlanAnswer(text=text, results=state.results, rounds=state.rounds))
        async with ctx.store.edit_state() as state:
            state.num_items = len(items)
            state.rounds += 1
        for number, item in enumerate(items):
            ctx.write_event_to_stream(Progress(msg=f"planned: {item.name}: {item.query}"))
            ctx.send_event(item.model_copy(update={"number": number}))
        return None

    @step(num_workers=4)
    async def execute_item(self, ctx: Context[PlanState], ev: QueryPlanItem) -> QueryPlanItemResult:
        ctx.write_event_to_stream(Progress(msg=f"asked: {ev.name}: {ev.query}"))
        try:
            passages = await tool_named(self.tools, ev.name).call(json.dumps({"query": ev.query}))
        except ToolError as error:
            result = f"Error: {error}"
        else:
            prompt = EXTRACT.format(passages=passages, question=ev.query)
            result = await self.model.complete(prompt, prompt_name="planning_workflow.extract")
        ctx.write_event_to_stream(Progress(msg=f"found: {ev.name}: {result}"))
        return QueryPlanItemResult(number=ev.number, name=ev.name, query=ev.query, result=result)

    @step
    async def aggregate_results(self, ctx: Context[PlanState], ev: QueryPlanItemResult) -> ExecutedPlanEvent | None:
        num_items = (await ctx.store.get_state()).num_items
        found = ctx.collect_events(ev, [QueryPlanItemResult] * num_items)
        if found is None:
            return None
        async with ctx.store.edit_state() as state:
            in_order = sorted(found, key=lambda each: each.number)
            state.results += [Result(name=each.name, query=each.query, result=each.result) for each in in_order]
        return ExecutedPlanEvent()

    async def _next_plan(self, state: PlanState) -> list[QueryPlanItem]:
        """Return what to do next; nothing if it is time to answer."""
        if state.rounds >= MOST_ROUNDS:
            return []
        if state.rounds:
            decision = await self.model.structured(Decision, self._prompt(DECIDE, state), prompt_name="planning_workflow.decide")
            if decision.verdict is Verdict.ANSWER:
                return []
        plan = await self.model.structured(QueryPlan, self._prompt(PLAN, state), prompt_name="planning_workflow.plan")
        done = {(result.name, result.query) for result in state.results}
        return [item for item in plan.items if (item.name, item.query) not in done][:MOST_ITEMS]

    def _prompt(self, task: str, state: PlanState) -> str:
        tools = "\n".join(f'<tool name="{tool.name}">{tool.description}</tool>' for tool in self.tools)
        results = "\n".join(f'<result tool="{r.name}">\n<asked>{r.query}</asked>\n{r.result}\n</result>' for r in state.results)
        return task + TOOLS_AND_RESULTS.format(tools=tools, results=results, question=state.query)


async def play(stage: Stage) -> PlanAnswer:
    workflow = QueryPlanningWorkflow(stage.model, budget_tools(stage.data), timeout=120)
    answer: PlanAnswer = await stage.run(workflow, query=stage.question)
    if "NOT FOUND" in answer.text:
        raise NotFoundError(stage.question)
    return answer


def main(argv: Sequence[str] | None = None) -> int:
    return run_example(play, __doc__, QUESTION, argv)


if __name__ == "__main__":
    sys.exit(main())
