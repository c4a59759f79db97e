"""Subclasses with arguments of their own, runs at once, nested workflows, and annotations without parameters."""

import asyncio
from typing import Annotated, Any

from tracedflow import Context, Workflow, step
from tracedflow.events import Event, StartEvent, StopEvent
from tracedflow.handler import WorkflowHandler
from tracedflow.resource import Resource


class Ready(Event):
    pass


def get_prefix() -> str:
    return "> "


class Base(Workflow):
    def __init__(self, *args: Any, llm: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.llm = llm or str.upper

    @step
    async def prepare(self, ev: StartEvent) -> Ready:
        return Ready(text=ev.text)


class Flow(Base):
    @step(num_workers=2)
    async def finish(self, ev: Ready, ctx: Context, prefix: Annotated[str, Resource(get_prefix)]) -> StopEvent:
        await asyncio.sleep(0)
        return StopEvent(result=prefix + self.llm(ev.text))


class Outer(Workflow):
    @step
    async def delegate(self, ev: StartEvent, ctx: Context) -> StopEvent:
        inner = Flow(timeout=10)
        return StopEvent(result=await inner.run(text=ev.text))


async def stream(handler: WorkflowHandler) -> list[str]:
    return [type(event).__name__ async for event in handler.stream_events()]


async def main():
    wf = Flow(timeout=None, verbose=False, llm=lambda text: text.title())
    many = await asyncio.gather(*(wf.run(text=f"item {i}") for i in range(3)))
    limited = Flow(num_concurrent_runs=1)
    one_by_one = await asyncio.gather(*(limited.run(text=text) for text in "ab"))
    handler = wf.run(text="x")
    return many, one_by_one, await Outer().run(text="nested"), await stream(handler), handler.is_done()


if __name__ == "__main__":
    print(asyncio.run(main()))
