"""A loop with a retry of its own, a branch by a union, and parallel work whose number is in the store."""

import asyncio

from tracedflow import Context, Workflow, step
from tracedflow.events import Event, StartEvent, StopEvent
from tracedflow.retry_policy import retry_policy, stop_after_attempt, wait_fixed


class Validate(Event):
    text: str


class Retry(Event):
    error: str


class Short(Event):
    text: str


class Long(Event):
    text: str


class Part(Event):
    number: int


class PartDone(Event):
    number: int
    text: str


class Flow(Workflow):
    @step
    async def extract(self, ctx: Context, ev: StartEvent | Retry) -> Validate | StopEvent:
        tries = await ctx.store.get("tries", default=0)
        if tries >= 3:
            return StopEvent(result="gave up")
        await ctx.store.set("tries", tries + 1)
        if isinstance(ev, StartEvent):
            await ctx.store.set("passage", ev.passage)
        passage = await ctx.store.get("passage")
        return Validate(text=passage[tries:])

    @step
    async def validate(self, ev: Validate) -> Retry | Short | Long:
        if not ev.text.startswith("ok"):
            return Retry(error=f"{ev.text} does not start with ok")
        if len(ev.text) < 8:
            return Short(text=ev.text)
        return Long(text=ev.text)

    @step
    async def short(self, ev: Short) -> StopEvent:
        return StopEvent(result=f"short {ev.text}")

    @step
    async def split(self, ctx: Context, ev: Long) -> Part | None:
        words = ev.text.split()
        await ctx.store.set("num_to_collect", len(words))
        await ctx.store.set("words", words)
        for number in range(len(words)):
            ctx.send_event(Part(number=number))

    @step(num_workers=4, retry_policy=retry_policy(wait=wait_fixed(0), stop=stop_after_attempt(3)))
    async def work(self, ctx: Context, ev: Part) -> PartDone:
        if ev.number == 1 and ctx.retry_info().retry_number == 0:
            raise ConnectionError("a flaky service")
        words = await ctx.store.get("words")
        await asyncio.sleep(0.001 * (3 - ev.number))
        return PartDone(number=ev.number, text=words[ev.number].upper())

    @step
    async def join(self, ctx: Context, ev: PartDone) -> StopEvent | None:
        num_to_collect = await ctx.store.get("num_to_collect")
        results = ctx.collect_events(ev, [PartDone] * num_to_collect)
        if results is None:
            return None
        return StopEvent(result=" ".join(each.text for each in sorted(results, key=lambda each: each.number)))


async def main():
    w = Flow(timeout=30)
    return [await w.run(passage=passage) for passage in ("xok", "ok one two", "never")]


if __name__ == "__main__":
    print(asyncio.run(main()))
