"""An application in which everything happens that is measured: it does well, and on request it has every fault there is an alert for."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine
from typing import Any, ClassVar

from prometheus_client import CollectorRegistry, start_http_server

from tests.backends.services import free_port
from tests.backends.workload import Answer, Ask, Done, Piece, Quick
from tracedflow import Context, Event, Limit, Observer, StartEvent, StopEvent, Workflow, step
from tracedflow.retry_policy import retry_policy, stop_after_attempt, wait_fixed
from tracedflow.telemetry import Metrics

LABEL_SETS = 200  # the cap of a metric, lowered for the session: 2,000 take long to fill


class Faulty(Workflow):
    """A workflow that does well until the fault is switched on, for all of them at once."""

    broken: ClassVar[bool] = False


class Orders(Faulty):
    """Fails."""

    @step(measures=["items"])
    async def accept(self, ctx: Context, ev: StartEvent) -> Piece:
        ctx.measure("items", 3)
        return Piece(n=1)

    @step
    async def charge(self, ev: Piece) -> StopEvent:
        if self.broken:
            raise ConnectionError("the bank is closed")
        return StopEvent()


class Retrying(Faulty):
    """Succeeds at the third attempt."""

    @step(retry_policy=retry_policy(stop=stop_after_attempt(3), wait=wait_fixed(0.01)))
    async def fetch(self, ctx: Context, ev: StartEvent) -> StopEvent:
        if self.broken and ctx.retry_info().retry_number < 2:
            raise ConnectionError("try again")
        return StopEvent()


class Sluggish(Faulty):
    """Takes long."""

    @step
    async def think(self, ev: StartEvent) -> StopEvent:
        await asyncio.sleep(0.9 if self.broken else 0.01)
        return StopEvent()


class Timely(Faulty):
    """Exceeds the time of its step."""

    @step(timeout=0.3)
    async def answer(self, ev: StartEvent) -> StopEvent:
        await asyncio.sleep(5 if self.broken else 0)
        return StopEvent()


class Puzzle(Faulty):
    """Joins more than there is."""

    @step
    async def cut(self, ev: StartEvent) -> list[Piece]:
        return [Piece(n=n) for n in range(1 if self.broken else 2)]

    @step
    async def put(self, ctx: Context, ev: Piece) -> StopEvent | None:
        return None if ctx.collect_events(ev, [Piece] * 2) is None else StopEvent()


class Till(Faulty):
    """Has one cashier."""

    @step
    async def open(self, ev: StartEvent) -> list[Piece]:
        return [Piece(n=n) for n in range(150 if self.broken else 2)]

    @step(num_workers=1)
    async def serve(self, ev: Piece) -> Done:
        await asyncio.sleep(0.1 if self.broken else 0)
        return Done(n=ev.n)

    @step
    async def close(self, ev: list[Done]) -> StopEvent:
        return StopEvent()


class Leaflet(Event):
    """Nobody takes it."""


class Leaflets(Faulty):
    """Sends what nobody takes."""

    @step
    async def hand_out(self, ctx: Context, ev: StartEvent) -> StopEvent:
        if self.broken:
            ctx.send_event(Leaflet())
        return StopEvent()


class Desk(Faulty):
    """Asks, and is not answered."""

    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        try:
            await ctx.wait_for_event(Answer, waiter_event=Ask(), timeout=0.2 if self.broken else 30)
        except TimeoutError:
            return StopEvent(result="nobody")
        return StopEvent(result="somebody")


class Blocking(Faulty):
    """Sleeps as plain functions do."""

    @step
    async def compute(self, ev: StartEvent) -> StopEvent:
        time.sleep(0.5 if self.broken else 0)  # noqa: ASYNC251 - the fault
        return StopEvent()


class Door(Faulty):
    """Shares a limit with its like."""

    @step(limit=Limit("door", concurrency=1))
    async def enter(self, ev: StartEvent) -> StopEvent:
        await asyncio.sleep(0.4 if self.broken else 0)
        return StopEvent()


class Watched(Faulty):
    """Is watched by somebody who stumbles."""

    @step
    async def work(self, ev: StartEvent) -> StopEvent:
        return StopEvent()


class Stumbling(Observer):
    """Fails when the application is broken."""

    async def step(self, call: Any, call_next: Any) -> Any:
        if Faulty.broken:
            raise KeyError("stumbled")
        return await call_next(call)


class Endless(Faulty):
    """Does not end."""

    @step
    async def wander(self, ev: StartEvent) -> StopEvent:
        await (asyncio.Event().wait() if self.broken else asyncio.sleep(0.3))
        return StopEvent()


class Shown:
    """A registry and the port where Prometheus finds it."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.layers = [Metrics(registry=self.registry)]
        self.port = free_port()
        self._server, self._thread = start_http_server(self.port, addr="127.0.0.1", registry=self.registry)

    def close(self) -> None:
        """Be gone, as a process that ended."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Application:
    """Runs its workflows again and again, on event loops of its own, until it is closed.

    It shows its metrics as three processes: `app`; `many`, whose workflows are named from data; and `gone`, which ends
    when everything breaks.
    """

    def __init__(self) -> None:
        self.app, self.many, self.gone = Shown(), Shown(), Shown()
        self._ends = threading.Event()
        self._threads = [threading.Thread(target=asyncio.run, args=(main,)) for main in (self._main(), self._blocking())]
        for thread in self._threads:
            thread.start()

    @property
    def targets(self) -> dict[str, str]:
        """What Prometheus scrapes, by job."""
        return {name: f"127.0.0.1:{getattr(self, name).port}" for name in ("app", "many", "gone")}

    def break_all(self) -> None:
        """Switch every fault on."""
        Faulty.broken = True
        self.gone.close()

    def close(self) -> None:
        """End all runs."""
        self._ends.set()
        for thread in self._threads:
            thread.join()
        Faulty.broken = False
        for shown in (self.app, self.many):
            shown.close()

    async def _main(self) -> None:
        simple = (Quick, Orders, Retrying, Sluggish, Timely, Puzzle, Till, Leaflets, Endless)
        loops = [self._again(kind) for kind in simple]
        loops += [self._again(Door, pause=0.05) for _ in range(5)]
        await self._until_the_end([*loops, self._watched(), self._desk(), self._named_from_data(), self._going()])

    async def _blocking(self) -> None:
        await self._until_the_end([self._again(Blocking, pause=0.4)])

    async def _until_the_end(self, loops: list[Coroutine[Any, Any, None]]) -> None:
        tasks = [asyncio.ensure_future(loop) for loop in loops]
        while not self._ends.is_set():
            await asyncio.sleep(0.05)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _again(self, kind: type[Workflow], *, pause: float = 0.1) -> None:
        flow = kind(middleware=self.app.layers, telemetry=False)
        while True:
            await _ended(flow)
            await asyncio.sleep(pause)

    async def _watched(self) -> None:
        flow = Watched(middleware=[*self.app.layers, Stumbling()], telemetry=False)
        while True:
            await _ended(flow)
            await asyncio.sleep(0.2)

    async def _desk(self) -> None:
        flow = Desk(middleware=self.app.layers, telemetry=False)
        while True:
            handler = flow.run()
            async for event in handler.stream_events():
                if isinstance(event, Ask) and not Faulty.broken:
                    await asyncio.sleep(0.02)
                    await handler.send_event(Answer())
            await handler
            await asyncio.sleep(0.1)

    async def _named_from_data(self) -> None:
        number = 0
        while True:
            number += 1
            tenant = number if Faulty.broken else number % 5
            await _ended(Quick(middleware=self.many.layers, telemetry=False, workflow_name=f"tenant-{tenant}"))
            await asyncio.sleep(0.01 if Faulty.broken and number <= 2 * LABEL_SETS else 0.5)

    async def _going(self) -> None:
        while not Faulty.broken:
            await _ended(Quick(middleware=self.gone.layers, telemetry=False))
            await asyncio.sleep(0.2)


async def _ended(flow: Workflow) -> None:
    """Run to the end, whatever that is."""
    handler = flow.run()
    try:
        await asyncio.wait([handler])
    finally:
        if not handler.done():  # the application is closed
            handler.cancel()
            await asyncio.wait([handler])
        if not handler.cancelled():
            handler.exception()
