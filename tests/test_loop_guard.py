from __future__ import annotations

import asyncio
import ctypes
import logging
import re
import threading
import time
from collections.abc import Iterator

import pytest

from tracedflow import (
    Context,
    Event,
    Middleware,
    Notice,
    StartEvent,
    StepCall,
    StopEvent,
    Workflow,
    step,
)
from tracedflow._engine import _watchdog
from tracedflow._engine._alarm import Alarm
from tracedflow.middleware import LoopBlocked, StepNext, StepResult

LONG = 0.4  # seconds: the guard speaks after 0.1 to 0.2
GUARD = "tracedflow.loop"


class Item(Event):
    n: int = 0


class Heard(logging.Handler):
    """Keeps what the guard says, and tells a blocked step that it has spoken."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.spoken = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())
        self.spoken.set()


@pytest.fixture
def heard() -> Iterator[Heard]:
    handler = Heard()
    logger = logging.getLogger(GUARD)
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


class Listener(Middleware):
    """Keeps the notices, and the calls as they are when their step has ended."""

    hears = (LoopBlocked,)

    def __init__(self) -> None:
        self.notices: list[LoopBlocked] = []
        self.calls: dict[str, StepCall] = {}

    async def step(self, call: StepCall, call_next: StepNext, /) -> StepResult:
        self.calls[call.step] = call
        return await call_next(call)

    def on(self, notice: Notice, /) -> None:
        assert isinstance(notice, LoopBlocked)
        self.notices.append(notice)


async def settled(listener: Listener) -> None:
    """Wait for the notice, which comes when the loop turns again."""
    async with asyncio.timeout(5):
        while not listener.notices:
            await asyncio.sleep(0.001)


def block(heard: Heard) -> None:
    """Block the event loop until the guard has said so."""
    assert heard.spoken.wait(5)


async def test_while_a_step_blocks_the_loop_the_log_says_which_where_and_how_long(heard: Heard) -> None:
    class Hog(Workflow):
        @step
        async def hog(self, ev: StartEvent) -> StopEvent:
            block(heard)  # the line to be named
            await asyncio.sleep(0)
            return StopEvent(result="done")

    assert await Hog().run(run_id="run-b") == "done"
    (text,) = heard.texts
    found = re.fullmatch(r"step `hog` of (\S+) has blocked the event loop for (\d\.\d) s at (.+):(\d+) \(run run-b\); .+", text)
    assert found is not None, text
    assert found[1].endswith("Hog")
    assert 0.1 <= float(found[2]) < 5
    assert found[3] == __file__
    with open(__file__) as source:  # noqa: ASYNC230
        assert "the line to be named" in source.readlines()[int(found[4]) - 1]


async def test_the_notice_follows_and_the_time_is_on_the_steps_account(heard: Heard) -> None:
    class Hog(Workflow):
        @step
        async def hog(self, ev: StartEvent) -> Item:
            block(heard)
            return Item()

        @step
        async def after(self, ev: Item) -> StopEvent:
            await settled(listener)
            return StopEvent()

    listener = Listener()
    handler = Hog(middleware=[listener]).run()
    await handler
    notice = listener.notices[0]
    assert notice.step == "hog"
    assert notice.location.startswith(f"{__file__}:")
    assert 0.1 <= notice.duration < 5
    assert listener.calls["hog"].blocked == pytest.approx(notice.duration)
    assert listener.calls["after"].blocked == 0
    assert "step `hog` blocked the event loop" in (handler.why().blocked or "")
    records = {record.step: record for record in handler.record}
    assert records["hog"].blocked >= 0.1
    assert records["after"].blocked == 0


async def test_a_later_step_in_the_same_task_is_the_one_that_is_named(heard: Heard) -> None:
    class Chain(Workflow):
        @step
        async def first(self, ev: StartEvent) -> Item:
            return Item()

        @step
        async def second(self, ev: Item) -> StopEvent:
            block(heard)
            return StopEvent()

    await Chain().run()
    texts = heard.texts
    assert len(texts) == 1
    assert "step `second`" in texts[0]


async def test_a_task_that_the_step_started_is_reported_by_file_and_line(heard: Heard) -> None:
    class Flow(Workflow):
        @step
        async def innocent(self, ev: StartEvent) -> StopEvent:
            async def hog() -> None:
                block(heard)

            await asyncio.create_task(hog())
            return StopEvent()

    await Flow().run()
    texts = heard.texts
    assert texts
    assert f"{__file__}:" in texts[0]


async def test_many_short_steps_in_one_turn_are_not_reported(heard: Heard) -> None:
    class Busy(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> list[Item]:
            return [Item() for _ in range(60)]

        @step(num_workers=60)
        async def busy(self, ctx: Context, ev: Item) -> StopEvent | None:
            time.sleep(LONG / 60)  # noqa: ASYNC251
            return None if ctx.collect_events(ev, [Item] * 60) is None else StopEvent()

    listener = Listener()
    await Busy(middleware=[listener]).run()
    await asyncio.sleep(0)
    assert listener.notices == []
    assert heard.texts == []


async def test_a_plain_function_that_takes_long_blocks_nobody(heard: Heard) -> None:
    class Flow(Workflow):
        @step
        def slow(self, ev: StartEvent) -> StopEvent:
            time.sleep(LONG)
            return StopEvent()

    listener = Listener()
    await Flow(middleware=[listener]).run()
    assert listener.notices == []
    assert heard.texts == []


async def test_a_step_that_awaits_long_blocks_nobody(heard: Heard) -> None:
    class Flow(Workflow):
        @step
        async def slow(self, ev: StartEvent) -> StopEvent:
            await asyncio.sleep(LONG)
            return StopEvent()

    await Flow().run()
    assert heard.texts == []


async def test_there_is_one_guard_for_all_runs_and_it_is_a_daemon() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            return StopEvent()

    await asyncio.gather(*[Flow().run() for _ in range(20)])
    guards = [thread for thread in threading.enumerate() if thread.name == "tracedflow-loop-guard"]
    assert len(guards) == 1
    assert guards[0].daemon


class Stands(Workflow):
    """Keeps the loop until the guard has spoken."""

    def __init__(self, heard: Heard) -> None:
        super().__init__(telemetry=False)
        self.heard = heard

    @step
    async def only(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=self.heard.spoken.wait(5))


def until_it_rests() -> None:
    while not _watchdog._is_resting:
        time.sleep(0.01)


@pytest.mark.parametrize("has_timer", [True, False], ids=["a timer of the kernel", "none"])
def test_a_process_that_was_forked_gets_a_guard_of_its_own(heard: Heard, monkeypatch: pytest.MonkeyPatch, has_timer: bool) -> None:
    until_it_rests()
    monkeypatch.setattr(_watchdog, "_thread", None)  # a fork leaves it behind
    monkeypatch.setattr(_watchdog, "_alarm", Alarm())
    if not has_timer:
        monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    for _ in range(2):  # the second one is forked, too
        _watchdog._thread = None
        heard.spoken.clear()
        assert Stands(heard).run_sync()
        until_it_rests()
    assert all("step `only` of Stands has blocked the event loop" in text for text in heard.texts)


async def test_a_loop_that_turns_puts_the_knock_off_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that wakes beside a busy loop costs it up to a third of its time."""
    me, signs, wanted = threading.get_ident(), 0, 0

    def put_off(seconds: float) -> None:
        nonlocal signs
        signs += threading.get_ident() == me
        Alarm.put_off(alarm, seconds)

    class Busy(Workflow):
        @step
        async def turn(self, ev: StartEvent | Item) -> Item | StopEvent:
            await asyncio.sleep(0)
            return Item() if signs < wanted else StopEvent()

    await Busy(telemetry=False).run()  # now there is a guard
    alarm, wanted = _watchdog._alarm, 5
    assert alarm is not None
    monkeypatch.setattr(alarm, "put_off", put_off)
    await Busy(telemetry=False).run()
