from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from tracedflow import (
    Context,
    Event,
    HumanResponseEvent,
    Limit,
    StartEvent,
    StepCall,
    StopEvent,
    Workflow,
    WorkflowCancelledByUser,
    WorkflowHandler,
    step,
)
from tracedflow.middleware import Middleware, StepNext, StepResult
from tracedflow.retry_policy import retry_policy, stop_after_attempt, wait_fixed
from tracedflow.testing import virtual_time


class Item(Event):
    n: int = 0


class Result(Event):
    n: int = 0


class Answer(HumanResponseEvent):
    n: int = 0


async def turns(count: int = 20) -> None:
    """Let everything that is ready run."""
    for _ in range(count):
        await asyncio.sleep(0)


class Limited:
    """Counts who is inside a limited step, and lets them out when told."""

    def __init__(self) -> None:
        self.inside = 0
        self.peak = 0
        self.entered: list[Any] = []
        self.release = asyncio.Event()

    async def __call__(self, who: Any) -> None:
        self.inside += 1
        self.peak = max(self.peak, self.inside)
        self.entered.append(who)
        await self.release.wait()
        self.inside -= 1


def one_step(limit: Limit, work: Limited) -> type[Workflow[Any]]:
    class Flow(Workflow):
        @step(limit=limit)
        async def only(self, ev: StartEvent) -> StopEvent:
            await work(ev.n)
            return StopEvent(result=ev.n)

    return Flow


async def test_a_limit_is_shared_by_all_runs_and_workflows_of_the_process() -> None:
    limit, work = Limit("api", concurrency=2), Limited()
    one, two = one_step(limit, work)(), one_step(limit, work)()
    handlers = [flow.run(n=n) for n, flow in enumerate([one, two, one, two, one])]
    await turns()
    assert (work.inside, limit.in_use, limit.waiting) == (2, 2, 3)
    work.release.set()
    assert await asyncio.gather(*handlers) == [0, 1, 2, 3, 4]
    assert work.peak == 2
    assert work.entered == [0, 1, 2, 3, 4]
    assert (limit.in_use, limit.waiting) == (0, 0)


async def test_a_limit_bounds_the_executions_of_one_run_below_its_workers() -> None:
    limit, work = Limit("api", concurrency=2), Limited()

    class Flow(Workflow):
        @step
        async def spread(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(6)]

        @step(num_workers=6, limit=limit)
        async def work(self, ev: Item) -> Result:
            await work(ev.n)
            return Result(n=ev.n)

        @step
        async def join(self, ctx: Context, ev: Result) -> StopEvent | None:
            return None if ctx.collect_events(ev, [Result] * 6) is None else StopEvent()

    handler = Flow().run()
    await turns()
    assert work.inside == 2
    work.release.set()
    await handler
    assert (work.peak, work.entered) == (2, list(range(6)))


async def test_waiting_for_a_permit_counts_as_queued_and_not_as_running() -> None:
    limit, work = Limit("api", concurrency=1), Limited()
    waits: list[Any] = []

    class Layer(Middleware):
        async def step(self, call: StepCall, call_next: StepNext, /) -> StepResult:
            result = await call_next(call)
            waits.append((call.queued, call.limit_waits))
            return result

    flow = one_step(limit, work)(middleware=[Layer()])
    first, second = flow.run(n=0), flow.run(n=1)
    await asyncio.sleep(0.03)
    work.release.set()
    await asyncio.gather(first, second)
    (record,) = second.record
    assert record.queued >= 0.025
    assert record.running < record.queued
    queued, ((name, waited),) = waits[1]
    assert name == "api"
    assert 0.025 <= waited <= queued


async def test_a_parked_execution_gives_its_permit_back_and_takes_one_again() -> None:
    limit = Limit("api", concurrency=1)
    release = asyncio.Event()
    order: list[str] = []

    class Flow(Workflow):
        @step(limit=limit)
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            if ev.parks:
                order.append("parks")
                await ctx.wait_for_event(Answer)
                order.append(f"goes on with {limit.in_use} permit")
            else:
                order.append("other runs")
                await release.wait()
                order.append("other ends")
            return StopEvent()

    flow = Flow()
    parks = flow.run(parks=True)
    while not parks.why().waits:
        await asyncio.sleep(0)
    assert limit.in_use == 0
    other = flow.run(parks=False)
    await turns()
    await parks.send_event(Answer())
    await turns()
    assert order == ["parks", "other runs"]
    assert (limit.in_use, limit.waiting) == (1, 1)
    release.set()
    await asyncio.gather(parks, other)
    assert order == ["parks", "other runs", "other ends", "goes on with 1 permit"]
    assert limit.in_use == 0


async def test_an_execution_that_backs_off_gives_its_permit_back() -> None:
    limit = Limit("api", concurrency=1)
    order: list[str] = []

    class Flow(Workflow):
        @step(limit=limit, retry_policy=retry_policy(wait=wait_fixed(0.02), stop=stop_after_attempt(2)))
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            order.append(f"{ev.who} {ctx.retry_info().retry_number}")
            if ev.who == "flaky" and ctx.retry_info().retry_number == 0:
                raise ConnectionError
            return StopEvent()

    flow = Flow()
    await asyncio.gather(flow.run(who="flaky"), flow.run(who="steady"))
    assert order == ["flaky 0", "steady 0", "flaky 1"]
    assert limit.in_use == 0


@pytest.mark.parametrize("how", ["fails", "is cancelled", "is cancelled while it waits"])
async def test_a_permit_comes_back_however_a_step_ends(how: str) -> None:
    limit, work = Limit("api", concurrency=1), Limited()

    class Flow(Workflow):
        @step(limit=limit)
        async def only(self, ev: StartEvent) -> StopEvent:
            if ev.n == "fails":
                raise ConnectionError
            await work(ev.n)
            return StopEvent()

    flow = Flow()
    if how == "fails":
        with pytest.raises(ConnectionError):
            await flow.run(n=how)
    else:
        first, second = flow.run(n=0), flow.run(n=1)
        await turns()
        victim: WorkflowHandler[Any] = first if how == "is cancelled" else second
        await victim.cancel_run()
        with pytest.raises(WorkflowCancelledByUser):
            await victim
        await turns()
        assert (limit.in_use, limit.waiting) == (1, 0)
        work.release.set()
        await (second if victim is first else first)
    assert (limit.in_use, limit.waiting) == (0, 0)


async def test_a_run_that_waits_for_a_permit_is_not_stalled() -> None:
    limit, work = Limit("api", concurrency=1), Limited()
    flow = one_step(limit, work)()
    first, second = flow.run(n=0), flow.run(n=1)
    await asyncio.sleep(0.03)
    assert not second.done()
    work.release.set()
    assert await asyncio.gather(first, second) == [0, 1]


@virtual_time()
async def test_starts_are_spaced_to_the_rate() -> None:
    limit = Limit("api", per_second=100)
    starts: list[float] = []

    class Flow(Workflow):
        @step
        async def spread(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(4)]

        @step(limit=limit)
        async def work(self, ev: Item) -> Result:
            starts.append(asyncio.get_running_loop().time())
            return Result()

        @step
        async def join(self, ctx: Context, ev: Result) -> StopEvent | None:
            return None if ctx.collect_events(ev, [Result] * 4) is None else StopEvent()

    await Flow().run()
    assert starts == pytest.approx([starts[0] + n / 100 for n in range(4)])
    assert limit.in_use == 0


async def test_a_run_cancelled_while_it_waits_for_its_start_time_gives_it_back() -> None:
    limit, work = Limit("api", per_second=0.01), Limited()
    flow = one_step(limit, work)()
    work.release.set()
    assert await flow.run(n=0) == 0
    handler = flow.run(n=1)
    await turns()
    assert limit.in_use == 1
    await handler.cancel_run()
    assert limit.in_use == 0
    assert work.entered == [0]


def test_a_limit_is_shared_between_event_loops() -> None:
    limit = Limit("api", concurrency=1)
    inside = 0
    peak = 0

    class Flow(Workflow):
        @step(limit=limit)
        async def only(self, ev: StartEvent) -> StopEvent:
            nonlocal inside, peak
            inside += 1
            peak = max(peak, inside)
            await asyncio.sleep(0.002)
            inside -= 1
            return StopEvent(result=ev.n)

    flow = Flow()
    results: list[int] = []
    threads = [threading.Thread(target=lambda n=n: results.append(flow.run_sync(n=n))) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(results) == list(range(6))
    assert peak == 1
    assert limit.in_use == 0


# runs at once


async def test_no_more_runs_than_num_concurrent_runs_go_at_once_and_the_rest_wait_in_order() -> None:
    work = Limited()

    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            await work(ev.n)
            return StopEvent(result=ev.n)

    flow = Flow(num_concurrent_runs=2)
    handlers = [flow.run(n=n) for n in range(5)]
    await turns()
    assert work.entered == [0, 1]
    work.release.set()
    assert await asyncio.gather(*handlers) == list(range(5))
    assert (work.peak, work.entered) == (2, list(range(5)))


async def test_another_instance_has_a_bound_of_its_own() -> None:
    work = Limited()

    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            await work(ev.n)
            return StopEvent()

    handlers = [Flow(num_concurrent_runs=1).run(n=n) for n in range(3)]
    await turns()
    assert work.inside == 3
    work.release.set()
    await asyncio.gather(*handlers)


async def test_a_run_that_failed_leaves_its_place_to_the_next() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            if ev.n == 0:
                raise ConnectionError
            return StopEvent(result=ev.n)

    flow = Flow(num_concurrent_runs=1)
    results = await asyncio.gather(*[flow.run(n=n) for n in range(3)], return_exceptions=True)
    assert [repr(result) for result in results] == ["ConnectionError()", "1", "2"]


async def test_branches_of_a_step_share_one_permit_and_give_it_back() -> None:
    limit = Limit("shared by branches", concurrency=1)

    class Flow(Workflow):
        @step(limit=limit)
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            answers = await asyncio.gather(*(ctx.wait_for_event(Answer, requirements={"n": n}) for n in range(3)))
            return StopEvent(result=[answer.n for answer in answers])

    handler = Flow(timeout=5).run()
    while len(handler.why().waits) < 3:
        await asyncio.sleep(0)
    for n in range(3):
        handler.ctx.send_event(Answer(n=n))
    assert await handler == [0, 1, 2]
    assert (limit.in_use, limit.waiting) == (0, 0)


async def test_a_task_that_its_step_left_behind_keeps_no_permit() -> None:
    limit = Limit("left behind", concurrency=1)
    others = limit.request(lambda: None, 0.0)
    others.release()

    class Flow(Workflow):
        @step(limit=limit)
        async def ask(self, ctx: Context, ev: StartEvent) -> Item:
            self.left = asyncio.ensure_future(ctx.wait_for_event(Answer))
            await asyncio.sleep(0)
            self.others = limit.request(lambda: None, 0.0)
            ctx.send_event(Answer(n=1))
            await turns()
            return Item()

        @step
        async def end(self, ev: Item) -> StopEvent:
            self.others.release()
            await turns()
            return StopEvent()

    await Flow(timeout=5).run()
    await turns()
    assert (limit.in_use, limit.waiting) == (0, 0)


async def test_a_step_that_is_cancelled_while_it_waits_for_its_permit_was_queued_and_never_ran() -> None:
    limit = Limit("taken", concurrency=1)
    permit = limit.request(lambda: None, 0.0)

    class Flow(Workflow):
        @step(limit=limit)
        async def work(self, ev: StartEvent) -> StopEvent:
            return StopEvent()

    handler = Flow().run()
    while not limit.waiting:
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    await handler.cancel_run()
    (record,) = handler.record
    assert (record.attempt, record.outcome) == (0, "cancelled")
    assert record.queued >= 0.01
    assert record.running < 0.01
    permit.release()
    assert (limit.in_use, limit.waiting) == (0, 0)


@virtual_time()
async def test_waiting_for_a_permit_after_an_answer_counts_once() -> None:
    limit = Limit("one", concurrency=1)

    class Flow(Workflow):
        @step(limit=limit)
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent | Item:
            ctx.send_event(Item())
            await ctx.wait_for_event(Answer)
            return StopEvent()

        @step(limit=limit)
        async def hold(self, ev: Item) -> None:
            await asyncio.sleep(10)

    handler = Flow(timeout=None).run()
    await asyncio.sleep(2)
    await handler.send_event(Answer())
    await handler
    (asked,) = [record for record in handler.record if record.step == "ask"]
    assert (asked.waiting, asked.queued, asked.running) == (2, 8, 0)
