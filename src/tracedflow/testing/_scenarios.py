"""Small workflows that end in every way a run can end, and what each of them leaves to be compared."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ..context import Context
from ..decorators import step
from ..events import Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent
from ..handler import WorkflowHandler
from ..retry_policy import retry_policy, stop_after_attempt, wait_fixed
from ..workflow import Workflow

_SOON = 0.02  # seconds


@dataclass(slots=True)
class Ledger:
    """What the steps themselves saw: the truth that no layer can touch."""

    started: list[str] = field(default_factory=list[str])
    cancelled: list[str] = field(default_factory=list[str])
    raised: list[BaseException] = field(default_factory=list[BaseException])


class Asked(InputRequiredEvent):
    """A question."""


class Answered(HumanResponseEvent):
    """Its answer."""

    n: int


class Item(Event):
    """Something to do."""

    n: int


class Done(Event):
    """It was done."""

    n: int


class Watched(Workflow):
    """Keeps a ledger."""

    def __init__(self, ledger: Ledger, **options: Any) -> None:
        super().__init__(telemetry=False, **options)
        self.ledger = ledger

    def begin(self, name: str) -> None:
        """Note that a step began."""
        self.ledger.started.append(name)

    def fail(self, error: Exception) -> Exception:
        """Note that a step is about to raise."""
        self.ledger.raised.append(error)
        return error

    async def hang(self, name: str) -> StopEvent:
        """Wait to be cancelled."""
        never: asyncio.Future[StopEvent] = asyncio.get_running_loop().create_future()
        try:
            return await never
        except asyncio.CancelledError:
            self.ledger.cancelled.append(name)
            raise


class Success(Watched):
    """Spreads, joins, returns lists, runs a step in a thread."""

    @step
    async def spread(self, ctx: Context, ev: StartEvent) -> list[Item]:
        """Send two events and return two."""
        self.begin("spread")
        ctx.send_event(Item(n=1))
        ctx.send_event(Item(n=2))
        return [Item(n=3), Item(n=4)]

    @step(num_workers=2)
    async def work(self, ctx: Context, ev: Item) -> Done:
        """Take an event, and time."""
        self.begin(f"work {ev.n}")
        ctx.write_event_to_stream(ev)
        await asyncio.sleep(0)
        return Done(n=ev.n * 10)

    @step
    async def join(self, ctx: Context, ev: Done) -> Item | StopEvent | None:
        """Wait for all four."""
        got = ctx.collect_events(ev, [Done] * 4)
        return None if got is None else StopEvent(result=sorted(done.n for done in got))


class Threaded(Watched):
    """Has a step that is a plain function."""

    @step
    def work(self, ev: StartEvent) -> StopEvent:
        """Work in a thread."""
        self.begin("work")
        return StopEvent(result=ev.get("n"))


class Failure(Watched):
    """Fails, with an exception that has a context, while a sibling runs."""

    @step
    async def first(self, ev: StartEvent) -> Item:
        """Lead to both."""
        self.begin("first")
        return Item(n=1)

    @step
    async def sibling(self, ev: Item) -> StopEvent:
        """Be cancelled."""
        self.begin("sibling")
        return await self.hang("sibling")

    @step
    async def broken(self, ev: Item) -> StopEvent:
        """Fail."""
        self.begin("broken")
        await asyncio.sleep(0)
        try:
            raise self.fail(KeyError("inner"))
        except KeyError as inner:
            raise self.fail(ValueError("broken", ev.n)) from inner


class Retry(Watched):
    """Succeeds at the third attempt."""

    failures = 0

    @step(retry_policy=retry_policy(wait=wait_fixed(0.001), stop=stop_after_attempt(5)))
    async def flaky(self, ctx: Context, ev: StartEvent) -> StopEvent:
        """Fail twice."""
        self.begin(f"flaky {ctx.retry_info().retry_number}")
        if self.failures < 2:
            self.failures += 1
            raise self.fail(ConnectionError(self.failures))
        return StopEvent(result=self.failures)


class GivesUp(Watched):
    """Fails at every attempt."""

    @step(retry_policy=retry_policy(wait=wait_fixed(0.001), stop=stop_after_attempt(2)))
    async def hopeless(self, ev: StartEvent) -> StopEvent:
        """Fail."""
        self.begin("hopeless")
        raise self.fail(ConnectionError("always"))


class Hangs(Watched):
    """Never ends by itself."""

    @step
    async def waiting(self, ev: StartEvent) -> StopEvent:
        """Wait to be cancelled."""
        self.begin("waiting")
        return await self.hang("waiting")


class StepTimeout(Watched):
    """Has a step that takes too long."""

    @step(timeout=_SOON)
    async def slow(self, ev: StartEvent) -> StopEvent:
        """Take too long."""
        self.begin("slow")
        return await self.hang("slow")


class Stall(Watched):
    """Waits for an event that nobody sends."""

    @step
    async def first(self, ev: StartEvent) -> Done:
        """Send one of two."""
        self.begin("first")
        return Done(n=1)

    @step
    async def join(self, ctx: Context, ev: Done) -> StopEvent | None:
        """Want two."""
        self.begin("join")
        return None if ctx.collect_events(ev, [Done, Done]) is None else StopEvent()


class Waits(Watched):
    """Asks, and goes on with the answer; a second question stays without one."""

    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        """Ask twice."""
        self.begin("ask")
        first = await ctx.wait_for_event(Answered, waiter_event=Asked())
        try:
            await ctx.wait_for_event(Answered, waiter_event=Asked(), timeout=_SOON)
        except TimeoutError:
            self.begin("asked in vain")
        return StopEvent(result=first.n)


class Nested(Watched):
    """Starts runs of others: one succeeds, one fails, one is still live when this one ends."""

    @step
    async def outer(self, ev: StartEvent) -> StopEvent:
        """Start three."""
        self.begin("outer")
        layers = self._middleware
        total = await Success(self.ledger, middleware=layers).run()
        try:
            await GivesUp(self.ledger, middleware=layers).run()
        except ConnectionError as error:
            self.begin(f"caught {error}")
        pending = Hangs(self.ledger, middleware=layers).run()
        await asyncio.wait([pending], timeout=_SOON)
        pending.cancel()
        await asyncio.wait([pending])
        return StopEvent(result=total)


async def _nothing(handler: WorkflowHandler[Any]) -> None:
    """Leave the run alone."""


async def _answer(handler: WorkflowHandler[Any]) -> None:
    async for event in handler.stream_events():
        if isinstance(event, Asked):
            await handler.send_event(Answered(n=7))
            return


async def _cancel_run(handler: WorkflowHandler[Any]) -> None:
    await asyncio.sleep(_SOON)
    await handler.cancel_run()


async def _cancel(handler: WorkflowHandler[Any]) -> None:
    await asyncio.sleep(_SOON)
    handler.cancel()


Act: TypeAlias = Callable[[WorkflowHandler[Any]], Awaitable[None]]


@dataclass(slots=True)
class Scenario:
    """A workflow, and what its caller does to the run."""

    name: str
    workflow: type[Watched]
    act: Act = _nothing
    options: dict[str, Any] = field(default_factory=dict[str, Any])


SCENARIOS = (
    Scenario("success", Success),
    Scenario("a step in a thread", Threaded),
    Scenario("failure", Failure),
    Scenario("retry", Retry),
    Scenario("retry that gives up", GivesUp),
    Scenario("cancel_run()", Hangs, _cancel_run),
    Scenario("cancel()", Hangs, _cancel),
    Scenario("step timeout", StepTimeout),
    Scenario("run timeout", Hangs, options={"timeout": _SOON}),
    Scenario("stall", Stall),
    Scenario("wait", Waits, _answer),
    Scenario("nested runs", Nested),
)
