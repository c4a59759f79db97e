"""Mistakes with handlers and with the testing kit: on each line that says `# error`, both type checkers find one."""

from __future__ import annotations

from tracedflow import Context, Event, StartEvent, StopEvent, Workflow, WorkflowHandler, step
from tracedflow.testing import Faults, WorkflowTestRunner, assert_run, run_step


class Draft(Event):
    text: str


class Report(StopEvent):
    pages: int


class Write(Workflow[Report]):
    @step
    async def only(self, ev: StartEvent) -> Report:
        return Report(pages=1)

    @step
    async def other(self, ev: Draft) -> Draft | None:
        return None


class Narrow(Write):
    pass


async def handlers(handler: WorkflowHandler[Report]) -> None:
    number: int = await handler  # error
    text: str = handler.result()  # error
    inherited: str = await Narrow().run()  # error
    resumed: int = await Write().run(ctx=Context(Write()))  # error
    for event in handler.stream_events():  # error
        del event
    await handler.stream_events()  # error
    handler.why().no_such_member()  # error
    handler.record.append(1)  # error
    handler.record[0].step.no_such_member()  # error
    handler.run_id = "x"  # error
    await handler.run_step(3)  # error
    await handler.cancel_run(timeout="3")  # error
    last: int = handler.get_stop_event()  # error
    handler.ctx.send_event(3)  # error
    with handler:  # error
        pass
    del number, text, inherited, resumed, last


async def runner() -> None:
    found = await WorkflowTestRunner(Write()).run(exclude_events=[Draft])
    number: int = found.result  # error
    WorkflowTestRunner(Write)  # error
    await WorkflowTestRunner(Write()).run(Draft(text="x"))  # error
    await WorkflowTestRunner(Write()).run(exclude_events=[3])  # error
    del number


async def alone() -> None:
    found = await run_step(Write(), Write.only, StartEvent())
    number: int = found.returned  # error
    await run_step(Write, "only", StartEvent())  # error
    await run_step(Write(), 3, StartEvent())  # error
    await run_step(Write(), "only", "text")  # error
    await run_step(Write(), "only", StartEvent(), answers=[3])  # error
    await run_step(Write(), "only", StartEvent(), stores={})  # error
    await run_step(Write(), "only", StartEvent(), catch=3)  # error
    del number


def faults() -> None:
    Faults().delay("only")  # error
    Faults().delay("only", seconds="3")  # error
    Faults().fail("only", error=ValueError("x"))  # error
    Faults().drop("only", event=int)  # error
    Faults().drop("only", changes=0.5)  # error
    Faults().duplicate(3)  # error


def gates(handler: WorkflowHandler[Report]) -> None:
    assert_run(3)  # error
    assert_run(handler).ran(3)  # error
    assert_run(handler).took(at_most="3")  # error
    assert_run(handler).no_such_gate()  # error
