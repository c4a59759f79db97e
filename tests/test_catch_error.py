"""`@catch_error`: a step that takes over when another one failed for good."""

from __future__ import annotations

import pytest

from tracedflow import Event, StartEvent, StopEvent, Workflow, catch_error, step
from tracedflow.errors import WorkflowValidationError
from tracedflow.events import StepFailedEvent, WorkflowFailedEvent
from tracedflow.retry_policy import retry_policy, stop_after_attempt, wait_none


class Item(Event):
    i: int


class Result(Event):
    i: int


class Risky(Workflow):
    @step
    async def start(self, ev: StartEvent) -> Item:
        return Item(i=ev.get("i", 1))

    @step(retry_policy=retry_policy(wait=wait_none(), stop=stop_after_attempt(3)))
    async def work(self, ev: Item) -> Result:
        raise ValueError("bad item")

    @step
    async def finish(self, ev: Result) -> StopEvent:
        return StopEvent(result=ev.i)


async def test_a_handler_takes_over_after_the_last_attempt() -> None:
    seen: list[StepFailedEvent] = []

    class Flow(Risky):
        @catch_error
        async def rescue(self, ev: StepFailedEvent) -> Result:
            seen.append(ev)
            return Result(i=42)

    assert await Flow().run(i=7) == 42
    (failed,) = seen
    assert failed.step_name == "work"
    assert failed.attempts == 3
    assert isinstance(failed.exception, ValueError)
    assert isinstance(failed.input_event, Item)
    assert failed.input_event.i == 7
    assert failed.elapsed_seconds >= 0
    assert failed.failed_at.tzinfo is not None


async def test_a_handler_that_names_the_step_comes_before_one_for_all() -> None:
    class Flow(Risky):
        @catch_error
        async def anything(self, ev: StepFailedEvent) -> StopEvent:
            return StopEvent(result="any")

        @catch_error(for_steps=["work"])
        async def its_own(self, ev: StepFailedEvent) -> StopEvent:
            return StopEvent(result="own")

        @step
        async def start(self, ev: StartEvent) -> Item:
            if ev.get("early"):
                raise KeyError("early")
            return Item(i=1)

    assert await Flow().run() == "own"
    assert await Flow().run(early=True) == "any"


async def test_the_budget_counts_along_one_line_of_events() -> None:
    tried: list[str] = []

    class Flow(Risky):
        @catch_error(max_recoveries=2)
        async def again(self, ev: StepFailedEvent) -> Item:
            tried.append("again")
            return Item(i=1)

    with pytest.raises(ValueError, match="bad item"):
        await Flow().run()
    assert tried == ["again", "again"]


async def test_every_line_of_events_has_a_budget_of_its_own() -> None:
    class Flow(Workflow):
        @step
        async def start(self, ev: StartEvent) -> list[Item]:
            return [Item(i=i) for i in range(4)]

        @step
        async def work(self, ev: Item) -> Result:
            if ev.i % 2:
                raise ValueError(ev.i)
            return Result(i=ev.i)

        @catch_error(for_steps=["work"])
        async def rescue(self, ev: StepFailedEvent) -> Result:
            return Result(i=-1)

        @step
        async def gather(self, evs: list[Result]) -> StopEvent:
            return StopEvent(result=sorted(ev.i for ev in evs))

    assert await Flow().run() == [-1, -1, 0, 2], "the replacement stays in the stream"


async def test_an_error_in_the_handler_fails_the_run() -> None:
    class Flow(Risky):
        @catch_error
        async def rescue(self, ev: StepFailedEvent) -> Result:
            raise RuntimeError("worse")

    handler = Flow().run()
    last = [event async for event in handler.stream_events()][-1]
    assert isinstance(last, WorkflowFailedEvent)
    assert last.step_name == "rescue"
    with pytest.raises(RuntimeError, match="worse"):
        await handler


async def test_a_base_exception_is_not_handled() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            raise SystemExit(3)

        @catch_error
        async def rescue(self, ev: StepFailedEvent) -> StopEvent:
            return StopEvent()

    with pytest.raises(SystemExit):
        await Flow().run()


def test_wrong_handlers_are_refused_all_at_once() -> None:
    class Flow(Risky):
        @catch_error(for_steps=["wrok"])
        async def one(self, ev: StepFailedEvent) -> Result: ...  # type: ignore[empty-body]

        @catch_error(for_steps=["one", "work"])
        async def two(self, ev: StepFailedEvent) -> Result: ...  # type: ignore[empty-body]

        @catch_error(for_steps=["work"])
        async def three(self, ev: StepFailedEvent) -> Result: ...  # type: ignore[empty-body]

        @catch_error
        async def four(self, ev: StepFailedEvent) -> Result: ...  # type: ignore[empty-body]

        @catch_error
        async def five(self, ev: StepFailedEvent) -> Result: ...  # type: ignore[empty-body]

    with pytest.raises(WorkflowValidationError) as caught:
        Flow()
    text = str(caught.value)
    assert "`wrok`, which is no step. Did you mean `work`?" in text
    assert "`one`, which is a handler itself" in text
    assert "both handle errors of `work`" in text
    assert "all handle the errors of any step" in text


@pytest.mark.parametrize(("options", "text"), [({"max_recoveries": 0}, "max_recoveries=0"), ({"for_steps": "work"}, "for_steps='work'")])
def test_wrong_options_are_refused(options: dict[str, object], text: str) -> None:
    with pytest.raises(WorkflowValidationError, match=text):

        class Flow(Risky):
            @catch_error(**options)  # type: ignore[call-overload]
            async def rescue(self, ev: StepFailedEvent) -> Result: ...


def test_a_handler_takes_step_failed_event() -> None:
    with pytest.raises(WorkflowValidationError, match="must be `StepFailedEvent`"):

        class Flow(Risky):
            @catch_error
            async def rescue(self, ev: Item) -> Result: ...  # type: ignore[empty-body]
