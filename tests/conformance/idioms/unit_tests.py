"""How users test their workflows: a step is called as what it is, a method; and the graph is validated."""

import asyncio

from tracedflow import Context, Workflow, step
from tracedflow.decorators import StepConfig
from tracedflow.errors import WorkflowValidationError
from tracedflow.events import Event, StartEvent, StopEvent
from tracedflow.representation import get_workflow_representation
from tracedflow.testing import WorkflowTestRunner


class Doubled(Event):
    n: int


class Flow(Workflow):
    @step
    async def double(self, ev: StartEvent) -> Doubled:
        """Doubles it."""
        return Doubled(n=ev.n * 2)

    @step
    def finish(self, ev: Doubled) -> StopEvent:
        return StopEvent(result=ev.n)


class Broken(Flow):
    @step
    async def lost(self, ev: Event) -> StopEvent:
        return StopEvent()


async def main():
    wf = Flow()
    assert (await wf.double(StartEvent(n=2))).n == 4
    assert wf.finish(Doubled(n=3)).result == 3
    assert isinstance(Flow.double._step_config, StepConfig)
    assert wf.validate() is False
    try:
        Broken().validate()
    except WorkflowValidationError as error:
        said = "lost" in str(error)
    steps = {node.label: node.description for node in get_workflow_representation(Flow).nodes if node.node_type == "step"}
    ctx = Context(wf)
    await ctx.store.set("prepared", True)
    found = await WorkflowTestRunner(wf).run(start_event=StartEvent(n=5), exclude_events=[Doubled])
    ran = (found.result, found.event_types[StopEvent])
    return said, steps, await wf.run(ctx=ctx, n=5), await ctx.store.get("prepared"), ran


if __name__ == "__main__":
    print(asyncio.run(main()))
