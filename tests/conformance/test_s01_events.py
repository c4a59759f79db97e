"""Section 1: events."""

from __future__ import annotations

import asyncio
import copy
import pickle
from datetime import timedelta
from typing import Any

import pytest
from pydantic import Field, PrivateAttr, ValidationError

from tracedflow import Context, Event, StartEvent, StopEvent, Workflow, WorkflowStalledError, catch_error, step
from tracedflow.events import (
    HumanResponseEvent,
    InputRequiredEvent,
    StepFailedEvent,
    UnreconstructedException,
    WorkflowCancelledEvent,
    WorkflowFailedEvent,
    WorkflowTimedOutEvent,
)


class My(Event):
    a: int = 0
    _token: str = PrivateAttr(default="none")


class Sub(My):
    pass


# 1.1


def test_a_keyword_goes_to_its_field_its_private_attribute_or_the_data() -> None:
    event = My(a="3", _token="t", other=[1])
    assert (event.a, event._token, event.other) == (3, "t", [1])
    assert dict(event.items()) == {"other": [1]}


def test_a_bad_field_and_a_positional_argument_are_refused() -> None:
    with pytest.raises(ValidationError):
        My(a="x")
    with pytest.raises(TypeError):
        My(1)  # type: ignore[call-arg]


def test_the_mapping_sees_dynamic_data_only() -> None:
    event = My(a=1, k=2)
    assert (event["k"], event.get("a"), event.get("z", 5), "a" in event, "k" in event, len(event), list(event)) == (
        2,
        None,
        5,
        False,
        True,
        1,
        ["k"],
    )
    with pytest.raises(KeyError):
        event["a"]
    event["a"] = 5
    assert (event.a, event["a"]) == (1, 5)
    assert event.to_dict() == {"k": 2, "a": 5}


@pytest.mark.parametrize("name", ["keys", "items", "values", "get", "to_dict"])
def test_a_key_with_the_name_of_a_method_is_reached_by_subscript_only(name: str) -> None:
    event = Event(**{name: 1})
    assert event[name] == 1
    assert callable(getattr(event, name))


def test_data_may_be_given_as_data_and_names_with_an_underscore_are_data_too() -> None:
    assert Event(_data={"k": 1}) == Event(k=1)
    assert Event(_k=1)["_k"] == 1


def test_writing_a_declared_field_is_not_validated() -> None:
    event = My()
    event.a = "zz"  # type: ignore[assignment]
    assert event.a == "zz"  # type: ignore[comparison-overlap]


def test_the_schema_shows_the_declared_fields_and_the_docstring() -> None:
    class Told(Event):
        """What it is."""

        x: int

    schema = Told.model_json_schema()
    assert (schema["description"], list(schema["properties"])) == ("What it is.", ["x"])


def test_an_unknown_attribute_is_an_attribute_error_and_a_new_one_is_data() -> None:
    event = My()
    with pytest.raises(AttributeError, match="'My' object has no attribute 'nope'"):
        _ = event.nope
    event.later = 1
    assert event["later"] == 1


def test_events_are_true_equal_by_value_and_not_hashable() -> None:
    assert My()
    assert My(a=1, k=1) == My(a=1, k=1) != My(a=1, k=2)
    with pytest.raises(TypeError):
        hash(My())


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e)), lambda e: e.model_copy()])
def test_every_kind_of_copy_keeps_the_data(copied: Any) -> None:
    assert copied(My(a=1, k=[2])) == My(a=1, k=[2])


def test_a_dump_is_complete_and_both_shapes_load() -> None:
    event = My(a=1, k=2)
    assert event.model_dump() == {"a": 1, "_data": {"k": 2}}
    assert My().model_dump() == {"a": 0}
    assert My.model_validate({"a": 1, "_data": {"k": 2}}) == My.model_validate({"a": 1, "k": 2}) == event


def test_aliases_work_which_they_do_not_in_the_reference() -> None:
    class Aliased(Event):
        x: int = Field(1, alias="ex")

    assert Aliased(ex=5).x == Aliased(x=5).x == 5


async def test_an_event_is_delivered_by_identity() -> None:
    seen: list[Event] = []

    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> My:
            seen.append(My(a=1))
            return seen[0]  # type: ignore[return-value]

        @step
        async def second(self, ev: My) -> StopEvent:
            return StopEvent(result=ev is seen[0])

    assert await Flow().run() is True


async def test_one_event_goes_to_every_step_that_takes_it_and_a_change_in_one_is_seen_in_the_other() -> None:
    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> My:
            return My(a=1)

        @step
        async def changes(self, ev: My) -> None:
            ev.seen = True

        @step
        async def sees(self, ev: My) -> StopEvent:
            await asyncio.sleep(0)
            return StopEvent(result=ev.get("seen"))

    assert await Flow().run() is True


# 1.2


def test_a_stop_event_has_its_result_by_position_and_its_dump_loses_nothing() -> None:
    event = StopEvent("a", k=1)
    assert (event.result, str(event), event.k) == ("a", "a", 1)
    assert event.model_dump()["result"] == "a"
    assert event.model_dump()["_data"] == {"k": 1}  # the reference loses it
    assert "result" not in StopEvent().model_dump()
    assert repr(StopEvent("a")) == "StopEvent(result='a')"
    with pytest.raises(TypeError, match="2 were given"):
        StopEvent(1, 2)  # type: ignore[call-arg]


async def test_a_subclass_may_compute_its_result_or_declare_it() -> None:
    class Computes(StopEvent):
        n: int = 3

        def _get_result(self) -> int:
            return self.n * 2

    class Declares(StopEvent):
        result: int

    assert Computes().result == 6
    assert Declares(result=4).result == 4


async def test_a_stop_event_ends_the_run_at_once_others_are_cancelled_and_what_is_queued_is_dropped() -> None:
    class Flow(Workflow):
        seen: list[Any]

        @step
        async def both(self, ev: StartEvent) -> list[My | Sub]:
            return [My(a=1), My(a=2), Sub()]

        @step(num_workers=1)
        async def slow(self, ev: My) -> StopEvent:
            self.seen.append(ev.a)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.seen.append("cancelled")
                raise
            return StopEvent()

        @step
        async def ends(self, ev: Sub) -> StopEvent:
            await asyncio.sleep(0)
            return StopEvent(result="first")

    flow = Flow()
    flow.seen = []
    assert await flow.run() == "first"
    assert flow.seen == [1, "cancelled"]


async def test_awaiting_gives_the_result_or_the_event_itself_if_its_class_is_a_subclass() -> None:
    class Mine(StopEvent):
        n: int

    class Plain(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=3)

    class Typed(Workflow):
        @step
        async def only(self, ev: StartEvent) -> Mine:
            return Mine(n=3)

    assert await Plain().run() == 3
    assert (await Typed().run()).n == 3


async def test_a_stop_event_that_is_sent_does_not_end_the_run_and_the_run_says_so_instead_of_hanging() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent | None:
            ctx.send_event(StopEvent(result=1))
            return None

    with pytest.raises(WorkflowStalledError, match="StopEvent ends the run only when a step returns it"):
        await Flow().run()


# 1.3


async def test_a_returned_question_goes_to_the_stream_and_needs_no_consumer() -> None:
    class Ask(InputRequiredEvent):
        pass

    class Reply(HumanResponseEvent):
        pass

    class Flow(Workflow):
        @step
        async def ask(self, ev: StartEvent) -> Ask:
            return Ask(prefix="?")

        @step
        async def done(self, ev: Reply) -> StopEvent:
            return StopEvent(result=ev.response)

    handler = Flow().run()
    async for event in handler.stream_events():
        if isinstance(event, Ask):
            handler.ctx.send_event(Reply(response=event.prefix))
    assert await handler == "?"


# 1.4


def test_terminal_events_have_their_bases_and_fields() -> None:
    for kind in (WorkflowTimedOutEvent, WorkflowCancelledEvent, WorkflowFailedEvent):
        assert issubclass(kind, StopEvent)
    assert set(WorkflowTimedOutEvent.model_fields) >= {"timeout", "active_steps"}
    assert set(WorkflowFailedEvent.model_fields) >= {"step_name", "exception", "attempts", "elapsed_seconds"}
    assert set(StepFailedEvent.model_fields) >= {"step_name", "input_event", "exception", "attempts", "elapsed_seconds", "failed_at"}
    assert not issubclass(StepFailedEvent, StopEvent)


def test_an_exception_is_saved_as_its_type_and_message() -> None:
    event = WorkflowFailedEvent(step_name="s", exception=ConnectionError("down"))
    data = event.model_dump(mode="json")
    assert data["exception"] == {"exception_type": "builtins.ConnectionError", "exception_message": "down"}
    loaded = WorkflowFailedEvent.model_validate(data).exception
    assert (type(loaded), str(loaded)) == (ConnectionError, "down")


def test_an_exception_that_cannot_be_rebuilt_keeps_its_message_and_the_name_of_its_type() -> None:
    class Odd(Exception):
        def __init__(self, one: int, two: int) -> None:
            super().__init__(f"{one} and {two}")

    loaded = WorkflowFailedEvent.model_validate_json(WorkflowFailedEvent(step_name="s", exception=Odd(1, 2)).model_dump_json()).exception
    assert isinstance(loaded, UnreconstructedException)
    assert (str(loaded), loaded.original_type.rpartition(".")[2]) == ("1 and 2", "Odd")


async def test_a_handler_is_told_of_a_failure_with_its_event_and_an_aware_time() -> None:
    class Flow(Workflow):
        @step
        async def bad(self, ev: StartEvent) -> StopEvent:
            raise KeyError("x")

        @catch_error
        async def handler(self, ev: StepFailedEvent) -> StopEvent:
            return StopEvent(result=ev)

    given = StartEvent(n=1)
    told = await Flow().run(start_event=given)
    assert told.input_event is given
    assert (told.step_name, type(told.exception), told.attempts) == ("bad", KeyError, 1)
    assert told.elapsed_seconds >= 0
    assert told.failed_at.utcoffset() == timedelta(0)


@pytest.mark.parametrize("wrong", ["text", 3, None])
def test_what_is_no_exception_is_refused(wrong: Any) -> None:
    with pytest.raises(ValidationError, match="exception"):
        WorkflowFailedEvent(step_name="s", exception=wrong)


# 1.6


@pytest.mark.parametrize("subclasses", [False, True])
async def test_routing_is_by_exact_class_unless_a_step_asks_for_subclasses(subclasses: bool) -> None:
    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> My | Sub:
            return Sub(a=1)

        @step(accept_event_subclasses=subclasses)
        async def second(self, ev: My) -> StopEvent:
            return StopEvent(result="taken")

    flow = Flow(skip_graph_checks=["terminal_event", "dead_end", "reachability"], disable_validation=True)
    if subclasses:
        assert await flow.run() == "taken"
    else:
        with pytest.raises(WorkflowStalledError, match="accept_event_subclasses"):
            await flow.run()
