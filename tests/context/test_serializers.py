from __future__ import annotations

import base64
import json
import socket
import sys
from dataclasses import dataclass, field
from datetime import UTC, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag
from http import HTTPStatus
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    AnyUrl,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PrivateAttr,
    RootModel,
    SecretStr,
    field_serializer,
    model_serializer,
)

from tracedflow.context.serializers import BaseSerializer, JsonPickleSerializer, JsonSerializer, PickleSerializer
from tracedflow.errors import ContextSerdeError
from tracedflow.events import Event, StepState, StopEvent, UnreconstructedException

if TYPE_CHECKING:
    from collections import OrderedDict


class Color(Enum):
    RED = "red"
    PAIR = (1, 2)


class Level(int, Enum):
    LOW = 1


class Right(Flag):
    READ = 1
    WRITE = 2


class Point(NamedTuple):
    x: int
    y: tuple[int, ...] = ()


@dataclass
class Tag:
    name: str


@dataclass(frozen=True, slots=True)
class Note:
    text: str
    tags: list[Tag] = field(default_factory=list)
    size: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", len(self.text))


class Item(BaseModel):
    name: str
    color: Color | None = None


class Apple(Item):
    sweet: bool = True


class Order(BaseModel):
    items: list[Item] = []
    note: Note | None = None
    total: Decimal = Decimal(0)
    anything: Any = None


class Greeting(Event):
    name: str
    _secret: int = PrivateAttr(default=0)


class Component:
    def __init__(self, size: int) -> None:
        self.size = size

    @classmethod
    def class_name(cls) -> str:
        return "component"

    def to_dict(self) -> dict[str, Any]:
        return {"size": self.size, "api_key": None}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Component:
        return cls(data["size"])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Component) and other.size == self.size

    __hash__ = None  # type: ignore[assignment]


TYPES: list[type] = [Order, Apple, Right, Level, Point, Greeting, Component]


def back(value: Any, serializer: BaseSerializer | None = None) -> Any:
    serializer = serializer or JsonSerializer(TYPES)
    return serializer.deserialize(serializer.serialize(value))


def same(value: Any, other: Any) -> bool:
    return repr(value) == repr(other) and type(value) is type(other)


KEYS = st.text() | st.sampled_from(["__is_pydantic", "__is_component", "__is_type", "value", "qualified_name"])
ATOMS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | KEYS
    | st.binary()
    | st.dates()
    | st.times()
    | st.datetimes(timezones=st.none() | st.just(UTC) | st.just(timezone(timedelta(hours=5, minutes=30))))
    | st.timedeltas()
    | st.uuids()
    | st.decimals(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.sampled_from([Path("a/b"), Color.RED, Color.PAIR, Level.LOW, Right.READ, Right.READ | Right.WRITE, StepState.RUNNING])
    | st.builds(Point, st.integers())
    | st.builds(Note, st.text(), st.lists(st.builds(Tag, st.text()), max_size=2))
    | st.builds(Item, name=st.text())
    | st.builds(Component, st.integers())
)
HASHABLE = st.integers() | st.text() | st.dates() | st.tuples(st.integers(), st.text())
VALUES = st.recursive(
    ATOMS | st.sets(HASHABLE) | st.frozensets(HASHABLE),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(KEYS | HASHABLE, inner, max_size=4)
        | st.builds(Event, payload=inner)
        | st.builds(StopEvent, result=inner)
        | st.builds(Order, anything=inner)
    ),
    max_leaves=10,
)


@given(VALUES)
def test_values_come_back_equal_and_of_their_type(value: Any) -> None:
    again = back(value)
    assert again == value
    assert type(again) is type(value)


@given(VALUES)
def test_the_text_is_strict_json_and_the_same_for_a_value_that_came_back(value: Any) -> None:
    serializer = JsonSerializer(TYPES)
    text = serializer.serialize(value)
    json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert serializer.serialize(serializer.deserialize(text)) == text
    text.encode()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), bytearray(b"x"), "\ud800", -0.0, Decimal("NaN")])
def test_odd_values_come_back(value: Any) -> None:
    assert same(back(value), value)


def test_the_tags_of_models_and_components_are_the_known_ones() -> None:
    serializer = JsonSerializer()
    assert json.loads(serializer.serialize(Item(name="a"))) == {
        "__is_pydantic": True,
        "value": {"name": "a", "color": None},
        "qualified_name": f"{__name__}.Item",
    }
    assert json.loads(serializer.serialize(Component(3))) == {
        "__is_component": True,
        "value": {"size": 3, "api_key": None},
        "qualified_name": f"{__name__}.Component",
    }


# models


def test_a_model_keeps_the_types_of_what_its_fields_hold() -> None:
    order = Order(items=[Apple(name="a", color=Color.RED)], note=Note("n", [Tag("t")]), total=Decimal("1.10"), anything=(1, {2}))
    again = back(order)
    assert again == order
    assert type(again.items[0]) is Apple


def test_an_event_keeps_dynamic_data_and_private_attributes() -> None:
    event = Greeting(name="a", _secret=3, extra={"x": (1,)}, items=[1])
    again = back(event)
    assert again == event
    assert (again._secret, again.extra, again["items"]) == (3, {"x": (1,)}, [1])


def test_an_event_with_a_field_that_hides_a_method_of_the_mapping_comes_back() -> None:
    with pytest.warns(UserWarning, match="shadows"):

        class Cart(Event):
            items: list[int]  # type: ignore[assignment]

    assert back(Cart(items=[1], more=2), JsonSerializer([Cart])) == Cart(items=[1], more=2)


def test_a_stop_event_keeps_its_result() -> None:
    assert back(StopEvent(result={"a": Color.RED})).result == {"a": Color.RED}


class Extras(BaseModel):
    model_config = ConfigDict(extra="allow")
    given: int = Field(alias="Given")
    _client: object = PrivateAttr(default_factory=object)


def test_aliases_and_extras_of_plain_models_come_back_and_their_private_attributes_start_anew() -> None:
    again = back(Extras(Given=1, more={2}), JsonSerializer([Extras]))
    assert (again.given, again.more) == (1, {2})


def test_a_root_model_comes_back() -> None:
    class Names(RootModel[list[str]]):
        pass

    class Named(RootModel[dict[str, int]]):
        @model_serializer
        def dump(self) -> dict[str, int]:
            return self.root

    assert back(Names(["a"]), JsonSerializer([Names])) == Names(["a"])
    assert back(Named({"a": 1}), JsonSerializer([Named])) == Named({"a": 1})


class Serialized(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    annotated: Annotated[int, PlainSerializer(lambda value: value + 1)]
    decorated: int
    hidden: int = Field(default=0, exclude=True)

    @field_serializer("decorated")
    def dump(self, value: int) -> int:
        return value * 2


def test_serializers_and_exclusions_that_a_model_declares_are_respected() -> None:
    again = back(Serialized(annotated=1, decorated=2, hidden=3), JsonSerializer([Serialized]))
    assert (again.annotated, again.decorated, again.hidden) == (2, 4, 0)


def test_an_event_with_a_serializer_of_its_own_uses_it() -> None:
    class Wrapped(Event):
        a: int

        @model_serializer
        def dump(self) -> dict[str, int]:
            return {"a": self.a + 1}

    assert back(Wrapped(a=1), JsonSerializer([Wrapped])).a == 2


class Visit(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    url: AnyUrl | None = None
    hosts: list[IPv4Address] = []
    secret: SecretStr | None = None
    anything: Any = None


def test_what_pydantic_restores_by_the_annotation_needs_no_tag() -> None:
    visit = Visit(url=AnyUrl("http://a.example/"), hosts=[IPv4Address("10.0.0.1")])
    assert back(visit, JsonSerializer([Visit])) == visit


@pytest.mark.parametrize(("name", "value"), [("secret", SecretStr("x")), ("anything", IPv4Address("10.0.0.1")), ("anything", object())])
def test_what_would_not_come_back_is_refused(name: str, value: object) -> None:
    with pytest.raises(ContextSerdeError, match=rf"^visits\[0\]\.{name} "):
        JsonSerializer([Visit]).serialize({"visits": [Visit(**{name: value})]})


# what cannot be saved


def test_the_path_of_what_cannot_be_saved_is_named_with_its_type_and_the_remedy() -> None:
    with socket.socket() as live, pytest.raises(ContextSerdeError) as caught:
        JsonSerializer().serialize_at({"user": {"sockets": [1, live]}}, "state")
    assert str(caught.value).startswith("state.user.sockets[1] (a socket.socket) cannot be saved as JSON: ")
    assert "PickleSerializer" in str(caught.value)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (object(), "The value"),
        ({"a b": object()}, "['a b']"),
        ({1: object()}, "[1]"),
        ((1, object()), "[1]"),
        ({(1, 2): {"x": object()}}, "[(1, 2)].x"),
        ({object: 1}, f" key {object!r}"),
        (Greeting(name="a", live=object()), "live"),
        (Order(anything=[object()]), "anything[0]"),
        (StopEvent(result=object()), "_result"),
        (Note("a", [object()]), "tags[0]"),  # type: ignore[list-item]
    ],
)
def test_every_container_adds_to_the_path(value: object, path: str) -> None:
    with pytest.raises(ContextSerdeError) as caught:
        JsonSerializer().serialize(value)
    assert str(caught.value).startswith(f"{path} (a ")


def test_what_contains_itself_is_refused() -> None:
    ring: list[Any] = []
    ring.append(ring)
    with pytest.raises(ContextSerdeError, match="contains itself"):
        JsonSerializer().serialize_at(ring, "state.ring")


def test_code_of_the_value_that_fails_is_reported_as_what_it_is() -> None:
    class Broken(Component):
        def to_dict(self) -> dict[str, Any]:
            raise OSError("disk")

    with pytest.raises(ContextSerdeError, match="OSError: disk"):
        JsonSerializer().serialize(Broken(1))


def test_an_int_that_python_cannot_write_is_refused() -> None:
    with pytest.raises(ContextSerdeError, match="ValueError: Exceeds"):
        JsonSerializer().serialize(10 ** (sys.get_int_max_str_digits() + 1))


# what may be loaded


@pytest.mark.parametrize("value", [Item(name="a"), Component(1), Color.RED, Tag("a"), Point(1)])
def test_a_class_that_is_not_allowed_is_refused_with_the_way_to_allow_it(value: object) -> None:
    name = type(value).__name__
    with pytest.raises(ContextSerdeError) as caught:
        back({"held": [value]}, JsonSerializer())
    assert f"held[0] is a {__name__}.{name}, which this serializer may not load" in str(caught.value)
    assert f"JsonSerializer(allowed_types=[{name}])" in str(caught.value)
    assert back(value, JsonSerializer().with_types(type(value))) == value
    assert back(value, JsonSerializer().with_types([type(value)])) == value


def test_nothing_that_data_names_is_imported() -> None:
    text = json.dumps({"__is_pydantic": True, "value": {}, "qualified_name": "antigravity.Model"})
    with pytest.raises(ContextSerdeError, match=r"antigravity\.Model"):
        JsonSerializer().deserialize(text)
    assert "antigravity" not in sys.modules


def test_more_types_leave_the_first_serializer_as_it_was() -> None:
    first = JsonSerializer()
    first.with_types(Item)
    with pytest.raises(ContextSerdeError, match="may not load"):
        back(Item(name="a"), first)


def test_subclasses_keep_their_own_settings_with_more_types() -> None:
    class Mine(JsonSerializer):
        def __init__(self, label: str) -> None:
            super().__init__()
            self.label = label

    wider = Mine("x").with_types(Item)
    assert isinstance(wider, Mine)
    assert wider.label == "x"


def test_a_type_that_is_no_class_cannot_be_allowed() -> None:
    with pytest.raises(TypeError, match="allowed_types must be classes, not 'Item'"):
        JsonSerializer(["Item"])  # type: ignore[list-item]


@dataclass
class Unresolved:
    later: OrderedDict[str, int]


def test_annotations_that_cannot_be_resolved_do_not_hinder() -> None:
    assert back(Unresolved({}), JsonSerializer([Unresolved])) == Unresolved({})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "data",
    [
        {"__is_type": "dataclass", "qualified_name": f"{__name__}.Item", "value": {}},
        {"__is_type": "nonsense", "qualified_name": f"{__name__}.Item", "value": {}},
        {"__is_type": [], "value": {}},
        {"__is_type": "tuple"},
        {"__is_type": "uuid", "value": "x"},
        {"__is_type": "dict", "value": [[[], 1]]},
        {"__is_pydantic": True, "qualified_name": f"{__name__}.Item", "value": {"name": []}},
        {"__is_pydantic": True, "qualified_name": f"{__name__}.Component", "value": {}},
    ],
)
def test_damaged_data_is_refused_with_its_path(data: object) -> None:
    with pytest.raises(ContextSerdeError, match=r"^state\.x"):
        JsonSerializer(TYPES).deserialize_at(json.dumps({"x": data}), "state")


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000])
def test_text_that_is_not_json_is_refused(text: str) -> None:
    with pytest.raises(ContextSerdeError, match=r"^The text cannot be loaded as JSON"):
        JsonSerializer().deserialize(text)


def test_a_dataclass_with_new_fields_takes_their_defaults() -> None:
    text = json.dumps({"__is_type": "dataclass", "qualified_name": f"{__name__}.Note", "value": {"text": "abc"}})
    assert JsonSerializer([Note]).deserialize(text) == Note("abc")


# exceptions


class CodedError(Exception):
    def __init__(self, code: int, *, hint: str) -> None:
        super().__init__(f"code {code}")
        self.code = code
        self.hint = hint


class DemandingError(ValueError):
    def __new__(cls, first: int, second: int) -> DemandingError:
        return super().__new__(cls, f"{first} {second}")

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} {second}")


class UnreducibleError(Exception):
    def __reduce__(self) -> Any:
        return "nonsense"


def noted(error: Exception) -> Exception:
    error.add_note("while testing")
    return error


@pytest.mark.parametrize(
    "error",
    [
        noted(ValueError("a", 2)),
        KeyError("k"),
        FileNotFoundError(2, "gone", "file"),
        UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"),
        ExceptionGroup("all", [ValueError(1), OSError("x")]),
        CodedError(3, hint="h"),
        UnreducibleError("u"),
    ],
)
def test_an_exception_comes_back_with_its_arguments_attributes_and_notes(error: Exception) -> None:
    again = back({"error": error}, JsonSerializer([CodedError, UnreducibleError]))["error"]
    assert type(again) is type(error)
    assert repr(again) == repr(error)
    assert str(again) == str(error)
    assert repr(vars(again)) == repr(vars(error))


@pytest.mark.parametrize("error", [CodedError(3, hint="h"), DemandingError(1, 2), ValueError(object())])
def test_an_exception_that_cannot_be_rebuilt_keeps_its_message_and_the_name_of_its_type(error: Exception) -> None:
    serializer = JsonSerializer([DemandingError])
    for again in (back(error, serializer), back(back(error, serializer), serializer)):
        assert type(again) is UnreconstructedException
        assert str(again) == str(error)
        assert again.original_type.endswith(type(error).__qualname__)


# pickle


class Local:
    def __init__(self, value: int) -> None:
        self.value = value


def test_pickle_saves_json_where_it_can() -> None:
    assert JsonPickleSerializer is PickleSerializer
    assert PickleSerializer().serialize({"a": [1]}) == '{"a":[1]}'


def test_pickle_saves_the_rest_in_base64() -> None:
    text = PickleSerializer().serialize({"a": Local(3)})
    base64.b64decode(text, validate=True)
    assert PickleSerializer().deserialize(text)["a"].value == 3


def test_pickle_finds_the_classes_that_json_names_without_an_allow_list() -> None:
    text = PickleSerializer().serialize(HTTPStatus.NOT_FOUND)
    assert json.loads(text)["qualified_name"] == "http.HTTPStatus"
    assert PickleSerializer().deserialize(text) is HTTPStatus.NOT_FOUND
    with pytest.raises(ContextSerdeError, match="may not load"):
        JsonSerializer().deserialize(text)


def test_pickle_takes_an_allow_list_too_for_classes_that_cannot_be_imported() -> None:
    class Hidden(BaseModel):
        a: int

    with pytest.raises(ContextSerdeError, match="may not load"):
        back(Hidden(a=1), PickleSerializer())
    assert back(Hidden(a=1), PickleSerializer([Hidden])) == Hidden(a=1)


@pytest.mark.parametrize("name", ["no.such.module.Class", "json.dumps"])
def test_pickle_refuses_a_name_that_is_no_class(name: str) -> None:
    text = json.dumps({"__is_pydantic": True, "value": {}, "qualified_name": name})
    with pytest.raises(ContextSerdeError, match="may not load"):
        PickleSerializer().deserialize(text)


def test_what_neither_json_nor_pickle_can_save_is_refused_with_its_path() -> None:
    with socket.socket() as live, pytest.raises(ContextSerdeError, match=r"^a\[0\] .* Pickle cannot save it either: "):
        PickleSerializer().serialize({"a": [live]})


@pytest.mark.parametrize("text", ["!", base64.b64encode(b"x").decode()])
def test_text_that_is_neither_json_nor_a_pickle_is_refused(text: str) -> None:
    with pytest.raises(ContextSerdeError, match=r"^state\.x is neither JSON nor a pickle"):
        PickleSerializer().deserialize_at(text, "state.x")


# serializers of the user's own


class Reversed(BaseSerializer):
    def serialize(self, value: Any) -> str:
        if value is None:
            raise ContextSerdeError("nothing there")
        return str(value)[::-1]

    def deserialize(self, value: str) -> Any:
        return int(value[::-1])


def test_a_serializer_of_the_users_own_gets_paths_in_its_errors_too() -> None:
    serializer = Reversed()
    assert serializer.deserialize_at(serializer.serialize_at(12, "state.x"), "state.x") == 12
    with pytest.raises(ContextSerdeError, match=r"^state.x cannot be loaded by Reversed: ValueError: invalid"):
        serializer.deserialize_at("z", "state.x")
    with pytest.raises(ContextSerdeError, match=r"^state.x \(a NoneType\) cannot be saved by Reversed: nothing there"):
        serializer.serialize_at(None, "state.x")
