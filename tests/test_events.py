from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import BaseModel, Field, PrivateAttr, ValidationError, computed_field, field_validator

from tracedflow.events import (
    Event,
    EventType,
    HumanResponseEvent,
    InputRequiredEvent,
    InternalDispatchEvent,
    SerializableEventType,
    SerializableOptionalEvent,
    StartEvent,
    StepFailedEvent,
    StepState,
    StepStateChanged,
    StopEvent,
    UnhandledEvent,
    UnreconstructedException,
    WorkflowCancelledEvent,
    WorkflowFailedEvent,
    WorkflowIdleEvent,
    WorkflowTimedOutEvent,
)


class Typed(Event):
    n: int = 0


class Strict(Event):
    n: int


class Secret(Event):
    n: int = 0
    _token: str = PrivateAttr(default="none")


class SecretChild(Secret):
    m: int = 0


class Aliased(Event):
    n: int = Field(1, alias="number")


class Doubled(Event):
    n: int = 1

    @computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> int:
        return self.n * 2


class Checked(Event):
    name: str

    @field_validator("name")
    @classmethod
    def shout(cls, value: str) -> str:
        return value.upper()


class OwnInit(Event):
    n: int = 0

    def __init__(self, n: int, **data: Any) -> None:
        super().__init__(n=n, **data)


class Outer(Event):
    inner: Typed


class Report(StopEvent):
    pages: int


class Answer(StopEvent):
    result: str = "nothing"


class Computed(StopEvent):
    n: int = 2

    def _get_result(self) -> int:
        return self.n * 10


class Nest:
    class Inside(Event):
        n: int = 0

    class InsideError(Exception):
        pass


# what a keyword becomes


def test_a_keyword_of_a_declared_field_is_validated_and_coerced() -> None:
    assert Typed(n="3").n == 3  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="n"):
        Typed(n="three")  # type: ignore[arg-type]
    assert Checked(name="ann").name == "ANN"


def test_a_missing_field_is_named() -> None:
    with pytest.raises(ValidationError, match=r"n\n\s+Field required"):
        Strict()  # type: ignore[call-arg]


def test_any_other_keyword_is_dynamic_data() -> None:
    event = Event(topic="ships", count=2)
    assert event.topic == "ships"
    assert event["topic"] == "ships"
    assert event.get("count") == 2
    assert "topic" in event
    assert event.to_dict() == {"topic": "ships", "count": 2}


def test_a_keyword_of_a_private_attribute_is_set_unvalidated_and_is_no_data() -> None:
    event = Secret(_token=5)  # type: ignore[call-arg]
    assert event._token == 5  # type: ignore[comparison-overlap]
    assert len(event) == 0
    assert Secret()._token == "none"
    assert SecretChild(_token="t", m=1, z=2)._token == "t"  # type: ignore[call-arg]


def test_an_undeclared_underscore_name_is_dynamic_data() -> None:
    assert Event(_hidden=1)["_hidden"] == 1
    assert Event(_hidden=1)._hidden == 1


def test_dynamic_data_may_be_given_as_data() -> None:
    assert Event(_data={"a": 1}, b=2).to_dict() == {"a": 1, "b": 2}
    assert Event(_data={"a": 1}).a == 1
    assert Event(_data={"a": 1}) == Event(a=1)


def test_the_name_self_is_as_good_as_any() -> None:
    for kind in (Event, StopEvent, Secret):
        assert kind(self=1)["self"] == 1


@pytest.mark.parametrize("kind", [Event, Typed, Secret, StartEvent])
def test_positional_arguments_are_refused(kind: Any) -> None:
    with pytest.raises(TypeError):
        kind(1)


def test_an_event_may_have_an_init_of_its_own() -> None:
    event = OwnInit(3, z=1)
    assert (event.n, event.z) == (3, 1)


# the mapping


def test_the_mapping_never_sees_declared_fields() -> None:
    event = Typed(n=1)
    with pytest.raises(KeyError):
        event["n"]
    assert event.get("n") is None
    assert event.get("n", 7) == 7
    assert "n" not in event
    assert len(event) == 0
    assert list(event) == []


def test_the_mapping_is_complete() -> None:
    event = Event(a=1, b=2)
    assert list(event) == ["a", "b"]
    assert list(event.keys()) == ["a", "b"]
    assert list(event.values()) == [1, 2]
    assert list(event.items()) == [("a", 1), ("b", 2)]
    assert len(event) == 2
    assert dict(event) == {"a": 1, "b": 2}
    del event["a"]
    assert event.to_dict() == {"b": 2}


def test_to_dict_is_a_copy() -> None:
    event = Event(a=1)
    event.to_dict()["a"] = 2
    assert event.a == 1


def test_an_item_may_shadow_a_field_without_touching_it() -> None:
    event = Typed(n=1)
    event["n"] = 5
    assert (event.n, event["n"]) == (1, 5)


@pytest.mark.parametrize("name", ["keys", "values", "items", "get", "to_dict", "model_dump"])
def test_a_dynamic_name_that_is_a_method_is_reached_by_subscript_only(name: str) -> None:
    event = Event(**{name: 1})
    assert event[name] == 1
    assert callable(getattr(event, name))


def test_an_event_is_true_even_when_empty() -> None:
    assert Event()
    assert not len(Event())


# attributes


def test_an_unknown_attribute_is_an_attribute_error_with_its_class() -> None:
    with pytest.raises(AttributeError, match="'Typed' object has no attribute 'topic'"):
        _ = Typed().topic
    assert not hasattr(Typed(), "topic")


def test_writing_an_undeclared_attribute_makes_dynamic_data() -> None:
    event = Event()
    event.topic = "ships"  # type: ignore[attr-defined]
    assert event["topic"] == "ships"


def test_writing_a_declared_attribute_is_not_validated() -> None:
    event = Typed(n=1)
    event.n = "zz"  # type: ignore[assignment]
    assert event.n == "zz"  # type: ignore[comparison-overlap]
    assert len(event) == 0


# equality, text, schema


def test_equality_counts_class_fields_and_dynamic_data() -> None:
    assert Typed(n=1, z=2) == Typed(n=1, z=2)
    assert Typed(n=1, z=2) != Typed(n=1, z=3)
    assert Typed(n=1) != Typed(n=2)
    assert Event() != Typed()
    assert Event() != 1
    assert StopEvent(1) != StopEvent(2)


def test_events_are_not_hashable() -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(Event())


def test_the_text_of_an_event_is_pydantics() -> None:
    assert str(Event()) == ""
    assert str(Typed(n=1)) == "n=1"
    assert repr(Typed(n=1)).startswith("Typed(n=1")


def test_the_schema_shows_declared_fields_and_the_docstring() -> None:
    class Documented(Event):
        """Says what it is."""

        n: int = 0

    schema = Documented.model_json_schema()
    assert list(schema["properties"]) == ["n"]
    assert schema["description"] == "Says what it is."


# dumps and copies


def test_a_dump_has_the_fields_and_the_data_beside_them() -> None:
    assert Typed(n=1).model_dump() == {"n": 1}
    assert Typed(n=1, z=2).model_dump() == {"n": 1, "_data": {"z": 2}}


def test_a_flat_dict_is_as_good_as_a_dump() -> None:
    assert Typed.model_validate({"n": 1, "z": 2}) == Typed(n=1, z=2)
    assert Typed.model_validate({"n": 1, "_data": {"z": 2}}) == Typed(n=1, z=2)


def shadowed() -> Typed:
    event = Typed(n=1)
    event["n"] = 5
    return event


EVENTS: list[Callable[[], Event]] = [
    Event,
    lambda: Event(a=1, keys=2, model_dump=3),
    lambda: Typed(n=1, z=[1, {"k": 2}]),
    shadowed,
    lambda: Typed(n=1, _data={"n": 2}),
    lambda: Aliased(number=5),
    lambda: Doubled(n=2, z=1),
    lambda: Checked(name="x"),
    lambda: Outer(inner=Typed(n=1, z=2), y=3),
    lambda: StartEvent(topic="ships"),
    StopEvent,
    lambda: StopEvent("r", z=1),
    lambda: Report(pages=3, z=1),
    lambda: Report("kept", pages=3),
    lambda: Answer("a"),
    lambda: WorkflowTimedOutEvent(timeout=1.5, active_steps=["a"]),
    lambda: InputRequiredEvent(prefix="?"),
]


@pytest.mark.parametrize("make", EVENTS)
def test_a_dump_loads_into_an_equal_event(make: Callable[[], Event]) -> None:
    event = make()
    kind = type(event)
    assert kind.model_validate(event.model_dump()) == event
    assert kind.model_validate(event.model_dump(by_alias=True)) == event
    assert kind.model_validate_json(event.model_dump_json()) == event
    assert kind.model_validate(event.model_dump()).model_dump() == event.model_dump()


@pytest.mark.parametrize("make", [*EVENTS, lambda: Secret(n=1, _token="t", z=2)])
@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda e: e.model_copy(), lambda e: e.model_copy(deep=True), lambda e: pickle.loads(pickle.dumps(e))],
    ids=["copy", "deepcopy", "model_copy", "model_copy_deep", "pickle"],
)
def test_a_copy_is_equal_and_independent(make: Callable[[], Event], copied: Callable[[Event], Event]) -> None:
    event = make()
    other = copied(event)
    assert other == event
    assert other.to_dict() == event.to_dict()
    other["only_here"] = 1
    assert "only_here" not in event


def test_a_shadowed_field_and_its_shadow_are_both_saved() -> None:
    assert shadowed().model_dump() == {"n": 1, "_data": {"n": 5}}


def test_computed_fields_are_dumped_and_computed_anew() -> None:
    event = Doubled.model_validate(Doubled(n=2).model_dump())
    event.n = 5
    assert event.model_dump() == {"n": 5, "double": 10}
    assert len(event) == 0


def test_values_of_any_type_survive_json_as_pydantic_writes_them() -> None:
    at = datetime(2024, 1, 2, tzinfo=UTC)
    assert json.loads(Event(at=at).model_dump_json()) == {"_data": {"at": "2024-01-02T00:00:00Z"}}
    assert json.loads(StopEvent(result=Typed(n=1)).model_dump_json()) == {"result": {"n": 1}}


# aliases


def test_a_field_can_be_given_by_its_alias_and_by_its_name() -> None:
    assert Aliased(number=5).n == 5
    assert Aliased(n=5).n == 5  # type: ignore[call-arg]
    assert Aliased(number=5).model_dump() == {"n": 5}
    assert Aliased(number=5).model_dump(by_alias=True) == {"number": 5}


# StopEvent


def test_a_stop_event_takes_its_result_by_position_or_by_name() -> None:
    assert StopEvent("a").result == "a"
    assert StopEvent(result="a").result == "a"
    assert StopEvent().result is None
    with pytest.raises(TypeError, match="one positional argument, its result, but 2"):
        StopEvent(1, 2)


def test_the_result_is_no_dynamic_data() -> None:
    event = StopEvent(result=1, z=2)
    assert event.to_dict() == {"z": 2}
    assert event.model_dump() == {"result": 1, "_data": {"z": 2}}


def test_a_result_of_none_is_not_dumped() -> None:
    assert StopEvent().model_dump() == {}


def test_a_stop_event_shows_its_result() -> None:
    assert repr(StopEvent("a")) == "StopEvent(result='a')"
    assert str(StopEvent("a")) == "a"
    assert str(StopEvent({"k": 1})) == "{'k': 1}"
    assert str(StopEvent()) == "None"


def test_a_subclass_may_declare_its_own_result() -> None:
    assert Answer().result == "nothing"
    assert Answer("a").result == "a"
    assert Answer(result="a").model_dump() == {"result": "a"}
    with pytest.raises(ValidationError):
        Answer(result=object())


def test_a_subclass_may_compute_its_result() -> None:
    assert Computed(n=3).result == 30


def test_a_subclass_shows_its_fields() -> None:
    assert str(Report(pages=3)) == "pages=3"
    assert repr(Report(pages=3)) == "Report(pages=3)"
    assert Report(pages=3).result is None


# other built-in events


@pytest.mark.parametrize("kind", [InputRequiredEvent, HumanResponseEvent])
def test_human_events_need_no_fields_and_take_any(kind: type[Event]) -> None:
    assert kind().to_dict() == {}
    assert kind(prefix="?", response="!").response == "!"


@pytest.mark.parametrize("kind", [WorkflowTimedOutEvent, WorkflowCancelledEvent, WorkflowFailedEvent])
def test_the_last_events_are_stop_events(kind: type[Event]) -> None:
    assert issubclass(kind, StopEvent)


def test_internal_events_have_one_base() -> None:
    for kind in (StepStateChanged, UnhandledEvent, WorkflowIdleEvent):
        assert issubclass(kind, InternalDispatchEvent)
    changed = StepStateChanged(name="s", step_state=StepState.RUNNING, worker_id="0", input_event_name="StartEvent")
    assert changed.model_dump(mode="json")["step_state"] == "running"
    assert StepState.RUNNING == "running"


# failures and their exceptions


def failed(error: Exception) -> WorkflowFailedEvent:
    return WorkflowFailedEvent(step_name="s", exception=error)


def reloaded(error: Exception) -> Exception:
    return WorkflowFailedEvent.model_validate_json(failed(error).model_dump_json()).exception


def test_a_failure_keeps_the_exception_object_in_process() -> None:
    error = ValueError("boom")
    assert failed(error).exception is error
    assert (failed(error).attempts, failed(error).elapsed_seconds) == (None, None)


def test_an_exception_is_saved_as_its_type_and_message() -> None:
    assert failed(ValueError("boom")).model_dump()["exception"] == {
        "exception_type": "builtins.ValueError",
        "exception_message": "boom",
    }


@pytest.mark.parametrize("error", [ValueError("boom"), Nest.InsideError("inner"), UnreconstructedException("m", "a.b.C")])
def test_a_saved_exception_is_rebuilt(error: Exception) -> None:
    again = reloaded(error)
    assert type(again) is type(error)
    assert str(again) == str(error)


def test_an_exception_that_takes_other_arguments_keeps_its_message_and_type_name() -> None:
    error = UnicodeDecodeError("utf8", b"x", 0, 1, "reason")
    again = reloaded(error)
    assert isinstance(again, UnreconstructedException)
    assert again.original_type == "builtins.UnicodeDecodeError"
    assert str(again) == str(error)
    assert reloaded(again).original_type == "builtins.UnicodeDecodeError"  # type: ignore[attr-defined]


@pytest.mark.parametrize("dotted", ["builtins.SystemExit", "os.system", "no.such.Error", "builtins", "tracedflow.events", ""])
def test_saved_data_cannot_choose_what_is_called_or_imported(dotted: str) -> None:
    saved = {"step_name": "s", "exception": {"exception_type": dotted, "exception_message": "m"}}
    again = WorkflowFailedEvent.model_validate(saved).exception
    assert type(again) is UnreconstructedException
    assert again.original_type == dotted


def test_something_else_than_an_exception_is_refused() -> None:
    with pytest.raises(ValidationError, match="expected an exception"):
        WorkflowFailedEvent(step_name="s", exception=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("event", [Typed(n=1, z=2), Nest.Inside(n=3), StopEvent(5)])
def test_a_step_failure_keeps_its_event_through_json(event: Event) -> None:
    failure = StepFailedEvent(
        step_name="s", input_event=event, exception=KeyError("k"), attempts=2, elapsed_seconds=0.5, failed_at=datetime.now(UTC)
    )
    assert failure.input_event is event
    again = StepFailedEvent.model_validate_json(failure.model_dump_json())
    assert again.input_event == event
    assert again.failed_at == failure.failed_at
    assert again.attempts == 2


class Holder(BaseModel):
    maybe: SerializableOptionalEvent = None
    kind: SerializableEventType = Event


def test_event_types_and_optional_events_survive_json() -> None:
    held = Holder(maybe=Typed(n=1), kind=Nest.Inside)
    assert Holder.model_validate_json(held.model_dump_json()) == held
    assert Holder.model_validate_json(Holder().model_dump_json()) == Holder()


@pytest.mark.parametrize(
    "saved", [{"kind": "no.such.Event"}, {"kind": "builtins.ValueError"}, {"maybe": 3}, {"maybe": {"type": "os.system", "value": {}}}]
)
def test_data_that_names_no_event_class_is_refused(saved: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Holder.model_validate(saved)


def test_event_type_is_the_type_of_event_classes() -> None:
    kind: EventType = Typed
    assert issubclass(kind, Event)


def test_a_private_attribute_of_a_stop_event_may_be_given() -> None:
    class Done(StopEvent):
        _note: str = PrivateAttr(default="none")

    assert Done(_note="kept")._note == "kept"


def test_an_event_without_room_for_dynamic_fields_gets_it() -> None:
    event = Typed(n=1)
    object.__setattr__(event, "__pydantic_extra__", None)  # as a pickle of another pydantic may leave it
    with pytest.raises(AttributeError, match="missing"):
        _ = event.missing
    assert dict(event.items()) == {}
    event.missing = 2
    assert event.missing == 2
