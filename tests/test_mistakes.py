"""The mistakes that everybody makes once: each message names the place, and what to do."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import pytest

from tracedflow import Context, Event, StartEvent, StopEvent, Workflow, step
from tracedflow.testing import virtual_time

HERE = r"\S*test_mistakes\.py:\d+"


class Joke(Event):
    text: str


class Plain:
    """Not an event, though its author thinks so."""


class Topic(StartEvent):
    topic: str


class Number(StartEvent):
    number: int


def no_event_annotation() -> None:
    class Flow(Workflow):
        @step
        async def tell(self, ev) -> StopEvent:  # type: ignore[no-untyped-def]
            return StopEvent()


def no_return_annotation() -> None:
    class Flow(Workflow):
        @step
        async def tell(self, ev: StartEvent):  # type: ignore[no-untyped-def]
            return StopEvent()

    Flow().run_sync()


def event_that_is_none() -> None:
    class Flow(Workflow):
        @step
        async def tell(self, ev: Plain) -> StopEvent:  # type: ignore[arg-type]
            return StopEvent()

    Flow().run_sync()


def annotated_to_return_a_string() -> None:
    class Flow(Workflow):
        @step
        async def tell(self, ev: StartEvent) -> str:  # type: ignore[type-var]
            return "hello"

    Flow().run_sync()


def returns_a_string() -> None:
    class Flow(Workflow):
        @step
        async def tell(self, ev: StartEvent) -> StopEvent:
            return "hello"  # type: ignore[return-value]

    Flow().run_sync()


def returns_a_coroutine() -> None:
    class Flow(Workflow):
        async def _end(self) -> StopEvent:
            return StopEvent()

        @step
        async def tell(self, ev: StartEvent) -> StopEvent:
            return self._end()  # type: ignore[return-value]

    Flow().run_sync()


def forgets_to_return() -> None:
    class Flow(Workflow):
        @step
        async def tell(self, ev: StartEvent) -> Joke:  # type: ignore[return]
            Joke(text="nobody gets it")

        @step
        async def rate(self, ev: Joke) -> StopEvent:
            return StopEvent()

    Flow().run_sync()


def no_stop_event() -> None:
    class Flow(Workflow):
        @step
        async def tell(self, ev: StartEvent) -> Joke:
            return Joke(text="")

    Flow()


def no_start_event() -> None:
    class Flow(Workflow):
        @step
        async def rate(self, ev: Joke) -> StopEvent:
            return StopEvent()

    Flow()


def two_start_events() -> None:
    class Flow(Workflow):
        @step
        async def tell(self, ev: Topic) -> StopEvent:
            return StopEvent()

        @step
        async def count(self, ev: Number) -> StopEvent:
            return StopEvent()

    Flow()


def no_decorator() -> None:
    class Flow(Workflow):
        async def tell(self, ev: StartEvent) -> StopEvent:
            return StopEvent()

    Flow().run_sync()


def decorator_with_a_name() -> None:
    step("tell")  # type: ignore[call-overload]


def context_without_annotation() -> None:
    class Flow(Workflow):
        @step
        async def tell(self, ctx, ev: StartEvent) -> StopEvent:  # type: ignore[no-untyped-def]
            return StopEvent()

    Flow().run_sync()


def parameter_that_nobody_fills() -> None:
    class Flow(Workflow):
        @step
        async def tell(self, ev: StartEvent, model: str) -> StopEvent:
            return StopEvent()

    Flow().run_sync()


def base_not_initialised() -> None:
    class Flow(Workflow):
        def __init__(self, model: str) -> None:
            self.model = model

        @step
        async def tell(self, ev: StartEvent) -> StopEvent:
            return StopEvent()

    Flow("small").run_sync()


class Telling(Workflow):
    @step
    async def tell(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=ev.topic)


class Typed(Workflow):
    @step
    async def tell(self, ev: Topic) -> StopEvent:
        return StopEvent(result=ev.topik)


async def no_await() -> None:
    handler = Telling().run(topic="sheep")
    try:
        handler.upper()  # type: ignore[attr-defined]
    finally:
        await handler


def plain_step_that_cannot_await() -> None:
    class Flow(Workflow):
        @step
        def tell(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=ctx.store.get("n", 0))

    Flow().run_sync()


def join_of_too_many() -> None:
    class Flow(Workflow):
        @step
        async def tell(self, ev: StartEvent) -> list[Joke]:
            return [Joke(text="")]

        @step
        async def rate(self, ctx: Context, ev: Joke) -> StopEvent | None:
            return StopEvent() if ctx.collect_events(ev, [Joke] * 2) else None

    Flow().run_sync()


def step_that_is_not_there() -> None:
    class Flow(Workflow):
        @step
        async def tell(self, ctx: Context, ev: StartEvent) -> Joke | None:
            ctx.send_event(Joke(text=""), step="rat")

        @step
        async def rate(self, ev: Joke) -> StopEvent:
            return StopEvent()

    Flow().run_sync()


async def context_after_its_run() -> None:
    kept: list[Context[Any]] = []

    class Flow(Workflow):
        @step
        async def tell(self, ctx: Context, ev: StartEvent) -> StopEvent:
            kept.append(ctx)
            return StopEvent()

    await Flow().run()
    kept[0].send_event(Joke(text="too late"))


@virtual_time()
async def too_slow() -> None:
    class Flow(Workflow):
        @step
        async def tell(self, ev: StartEvent) -> StopEvent:
            await asyncio.sleep(100)
            return StopEvent()

    await Flow(timeout=10).run()


def unknown_annotation() -> None:
    class Flow(Workflow):
        @step
        async def tell(self, ev: StartEvent) -> Jokeevent:  # type: ignore[name-defined]  # noqa: F821
            return StopEvent()

    Flow()


def no_workers() -> None:
    step(num_workers=0)(lambda ev: None)  # type: ignore[arg-type]


MISTAKES: list[tuple[Callable[[], Any], str]] = [
    (no_event_annotation, rf"Step `tell` \({HERE}\) needs a parameter annotated with an event class, such as `ev: StartEvent`"),
    (no_return_annotation, rf"Step `tell` \({HERE}\) needs a return annotation, such as `-> StopEvent`"),
    (event_that_is_none, rf"Step `tell` \({HERE}\) takes `ev: Plain`, which is no event; let Plain be a subclass of Event"),
    (annotated_to_return_a_string, rf"Step `tell` \({HERE}\) is annotated to return str\. Steps return events"),
    (returns_a_string, rf"Step `tell` \({HERE}\) returned an instance of str; it must return an event or None"),
    (returns_a_coroutine, rf"Step `tell` \({HERE}\) returned a coroutine \(did you forget `await`\?\)"),
    (forgets_to_return, r"The run could be ended by step `rate`\.\s+Step `tell` returned None once"),
    (no_stop_event, r"No step returns a StopEvent\. Annotate the last step with `-> StopEvent`"),
    (no_start_event, r"No step accepts a StartEvent\. Let the first step take `ev: StartEvent`"),
    (two_start_events, rf"Topic by `tell` \({HERE}\), Number by `count` \({HERE}\)\. A workflow has one way in: use one class"),
    (no_decorator, rf"Flow \({HERE}\) has a problem:\s+1\. It has no steps\. Decorate its methods with @step"),
    (decorator_with_a_name, r"A step must be a function, .* and 'tell' is none"),
    (context_without_annotation, rf"missing 1 .*'ctx'\n.*{HERE}.*\n.* get as `ctx`: write `ctx: Context`, a class of events"),
    (parameter_that_nobody_fills, rf"missing 1 .*'model'\n.*{HERE}.*\n.* get as `model`: .*Annotated\[\.\.\., Resource\(\.\.\.\)\]"),
    (base_not_initialised, r"Flow\.__init__ does not call super\(\)\.__init__\(\); add super\(\)\.__init__"),
    (lambda: Telling().run_sync(topik="sheep"), rf"'StartEvent' object has no attribute 'topic'; it has topik\n.*{HERE}"),
    (lambda: Typed().run_sync(topic="sheep"), rf"'Topic' object has no attribute 'topik'; it has topic\n.*{HERE}"),
    (
        lambda: Typed().run_sync(topik="sheep"),
        r"run\(\) of Typed could not make its start event Topic from topik: .*\ntopic\n",
    ),
    (lambda: Telling().run_sync("sheep"), r"run\(ctx=\) takes a Context, not 'sheep'; .* by name, as run\(topic=\.\.\.\)"),
    (lambda: Telling().run(topic="sheep"), r"Telling\.run\(\) needs a running event loop: call it in an `async def`, or use .*run_sync"),
    (lambda: asyncio.run(no_await()), r"no attribute 'upper'; what the run returned is the value of `await handler`"),
    (plain_step_that_cannot_await, rf"ctx\.store\.get must be awaited .* use ctx\.sync\.store\.get\n.*{HERE}"),
    (join_of_too_many, r"step `rate` waits to collect 1 more Joke \(it has 1 Joke\)"),
    (step_that_is_not_there, rf"Flow has no step `rat`; it has rate, tell\n.*{HERE}"),
    (lambda: asyncio.run(context_after_its_run()), r"Run \w+ of \S+Flow is over; Joke cannot be sent to it any more"),
    (too_slow, r"exceeded its timeout of 10 s\.\n.*step `tell` is running"),
    (unknown_annotation, rf"Step `tell` \({HERE}\) .* 'Jokeevent' is not defined\. Import it or define it"),
    (no_workers, rf"\({HERE}\) has num_workers=0; it must be an integer greater than 0"),
]


@pytest.mark.parametrize(("mistake", "says"), MISTAKES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_mistake_is_told_with_its_place_and_its_remedy(mistake: Callable[[], Any], says: str) -> None:
    with pytest.raises(Exception, match=says):
        mistake()


def test_a_step_that_blocks_is_told_with_its_line_and_its_remedy(caplog: pytest.LogCaptureFixture) -> None:
    class Flow(Workflow):
        @step
        async def tell(self, ev: StartEvent) -> StopEvent:
            while not caplog.records:
                time.sleep(0.01)  # noqa: ASYNC251 - that is the mistake
            return StopEvent()

    with caplog.at_level(logging.WARNING, "tracedflow"):
        Flow().run_sync()
    said = caplog.records[0].getMessage()
    assert "step `tell`" in said
    assert "test_mistakes.py:" in said
    assert "make it `def` to run it in a thread, or await" in said


def test_an_attribute_that_is_not_there_is_looked_for_as_usual() -> None:
    joke = Joke(text="short")
    assert not hasattr(joke, "title")
    assert getattr(joke, "title", "none") == "none"
    with pytest.raises(AttributeError) as missed:
        joke.txt  # noqa: B018
    assert (missed.value.name, missed.value.obj) == ("txt", joke)  # with these, Python adds what was probably meant
    with pytest.raises(AttributeError, match="it has no fields"):
        StartEvent().topic  # noqa: B018
