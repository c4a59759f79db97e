"""Events: the pydantic models that travel between steps. Knows nothing of steps, runs or asyncio."""

from __future__ import annotations

import sys
from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeAlias, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    model_serializer,
)


class DictLikeModel(BaseModel):
    """A pydantic model that accepts any keyword and offers the undeclared ones as a mapping.

    Declared fields are validated by pydantic. Every other keyword is kept as dynamic data, readable as an
    attribute (`event.topic`), by subscript (`event["topic"]`) and with `event.get("topic")`. The mapping
    protocol acts on the dynamic data only, never on declared fields.
    """

    # Dynamic data lives in pydantic's own extras: an `__init__` of ours would cost 1.9 µs per event (measured).
    model_config: ClassVar[ConfigDict] = ConfigDict(
        extra="allow", arbitrary_types_allowed=True, populate_by_name=True, protected_namespaces=()
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        # Only a class that declares private attributes pays for accepting them as keywords.
        if cls.__private_attributes__ and getattr(cls.__init__, "__pydantic_base_init__", False):
            type.__setattr__(cls, "__init__", _init_with_private_attributes)

    @property
    def _data(self) -> dict[str, Any]:
        extra = self.__pydantic_extra__
        if extra is None:  # a model made by `model_construct` of an older pickle
            extra = {}
            object.__setattr__(self, "__pydantic_extra__", extra)
        if "_data" in extra:  # given as `_data={...}`, the shape of `model_dump()`
            nested = extra.pop("_data")
            extra.update(nested)
        for name in type(self).__pydantic_computed_fields__:  # a dump names them, and they are computed anew
            extra.pop(name, None)
        return extra

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("__"):
            extra = object.__getattribute__(self, "__pydantic_extra__")
            if extra is not None:
                if "_data" in extra and name != "_data":
                    extra = self._data
                if name in extra:
                    return extra[name]
        try:
            return super().__getattr__(name)  # type: ignore[misc]
        except AttributeError as error:
            if name.startswith("_"):
                raise
            has = ", ".join([*type(self).model_fields, *self._data][:20]) or "no fields"
            raise AttributeError(f"{error}; it has {has}", name=name, obj=self) from None

    def __getitem__(self, key: str) -> Any:
        return self._data[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._data[key] = value

    def __delitem__(self, key: str) -> None:
        del self._data[key]

    def __contains__(self, key: object) -> bool:
        return key in self._data

    def __len__(self) -> int:
        return len(self._data)

    def __bool__(self) -> bool:
        return True  # an event without dynamic data is still an event

    def __iter__(self) -> Iterator[str]:  # type: ignore[override]
        return iter(self._data)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, DictLikeModel):
            _ = self._data, other._data  # both in their normal form before pydantic compares them
        return super().__eq__(other)

    __hash__ = None  # type: ignore[assignment]

    def get(self, key: str, default: Any = None) -> Any:
        """Return the dynamic value under `key`, or `default`."""
        return self._data.get(key, default)

    def keys(self) -> KeysView[str]:
        """Return the names of the dynamic data."""
        return self._data.keys()

    def values(self) -> ValuesView[Any]:
        """Return the values of the dynamic data."""
        return self._data.values()

    def items(self) -> ItemsView[str, Any]:
        """Return the pairs of the dynamic data."""
        return self._data.items()

    def to_dict(self) -> dict[str, Any]:
        """Return a copy of the dynamic data."""
        return dict(self._data)

    @model_serializer(mode="wrap")
    def _dump(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        dynamic = self._data
        dumped: dict[str, Any] = handler(self)
        nested = {name: dumped.pop(name) for name in dynamic if name in dumped}
        if hidden := nested.keys() & type(self).model_fields.keys():  # `event["n"] = 1` beside a declared `n`: both are kept
            bare = self.model_copy()
            bare.__pydantic_extra__ = {}
            dumped |= {name: value for name, value in handler(bare).items() if name in hidden}
        return {**dumped, **self._dump_more(), "_data": nested} if nested else {**dumped, **self._dump_more()}

    def _dump_more(self) -> dict[str, Any]:
        return {}


def _init_with_private_attributes(self: DictLikeModel, /, **data: Any) -> None:
    """Accept declared private attributes as keywords, set as given."""
    declared = type(self).__private_attributes__
    private = {name: data.pop(name) for name in list(data) if name in declared}
    BaseModel.__init__(self, **data)
    for name, value in private.items():
        setattr(self, name, value)


_init_with_private_attributes.__pydantic_base_init__ = True  # type: ignore[attr-defined]


class Event(DictLikeModel):
    """Base of all events. Subclass it and declare fields; any further keyword is kept as dynamic data.

    Raises:
        pydantic.ValidationError: a declared field is missing or has a wrong type.
        TypeError: positional arguments were given.
    """

    if TYPE_CHECKING:  # else type checkers take the declared fields for all there is

        def __init__(self, /, **data: Any) -> None: ...


class StartEvent(Event):
    """Starts a run: the keywords of `workflow.run(...)` become its data. Subclass it for a typed entry point."""

    if TYPE_CHECKING:

        def __init__(self, /, **data: Any) -> None: ...


class StopEvent(Event):
    """Ends a run when a step returns it. `StopEvent(x)` and `StopEvent(result=x)` give `x` to the caller.

    Awaiting a run whose stop event is exactly this class gives `result`; with a subclass it gives the event itself.
    """

    _result: Any = PrivateAttr(default=None)

    def __init__(self, /, *args: Any, **data: Any) -> None:
        if len(args) > 1:
            raise TypeError(f"{type(self).__name__}() takes one positional argument, its result, but {len(args)} were given")
        declared = type(self).model_fields
        if args:
            data["result"] = args[0]
        result = data.pop("result", None) if "result" not in declared else None
        private = {name: data.pop(name) for name in list(data) if name in type(self).__private_attributes__}
        super().__init__(**data)
        self._result = result
        for name, value in private.items():
            setattr(self, name, value)

    if TYPE_CHECKING:
        result: Any = None
        """What the run gives to its caller; override `_get_result` to compute it."""

    # Not a property: as a data descriptor it would hide the `result` field that a subclass may declare.
    def __getattr__(self, name: str) -> Any:
        return self._get_result() if name == "result" else super().__getattr__(name)

    def _get_result(self) -> Any:
        return self._result

    def _dump_more(self) -> dict[str, Any]:
        return {"result": self.result} if self._result is not None else {}

    def __repr_args__(self) -> Any:
        if self._result is not None:
            yield "result", self.result
        yield from super().__repr_args__()

    def __str__(self) -> str:
        if type(self) is StopEvent or "result" in type(self).model_fields or self._result is not None:
            return str(self.result)
        return super().__str__()


class InputRequiredEvent(Event):
    """Asks a human for input: it goes to the stream and needs no step that accepts it."""

    if TYPE_CHECKING:

        def __init__(self, /, **data: Any) -> None: ...


class HumanResponseEvent(Event):
    """Answers an `InputRequiredEvent`; it comes from outside and needs no step that produces it."""

    if TYPE_CHECKING:

        def __init__(self, /, **data: Any) -> None: ...


class UnreconstructedException(Exception):  # noqa: N818 - the name is part of the public API
    """Stands for an exception that was saved and whose type could not be rebuilt.

    `original_type` is the dotted name of that type.
    """

    def __init__(self, message: str, original_type: str = "") -> None:
        super().__init__(message)
        self.original_type = original_type


def _save_exception(error: Exception) -> dict[str, str]:
    if isinstance(error, UnreconstructedException):
        return {"exception_type": error.original_type, "exception_message": str(error)}
    kind = type(error)
    return {"exception_type": f"{kind.__module__}.{kind.__qualname__}", "exception_message": str(error)}


def _load_exception(value: Any) -> Exception:
    if isinstance(value, Exception):
        return value
    if not isinstance(value, Mapping):
        raise ValueError("expected an exception, or a mapping with exception_type and exception_message")  # noqa: TRY004 - pydantic's
    saved = cast("Mapping[str, object]", value)
    dotted, message = str(saved.get("exception_type")), str(saved.get("exception_message", ""))
    kind = _imported(dotted)
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            return kind(message)
        except Exception:  # noqa: BLE001 - any constructor may fail: the message is what must survive
            return UnreconstructedException(message, original_type=dotted)
    return UnreconstructedException(message, original_type=dotted)


def _imported(dotted: str) -> object:
    """Return what a dotted name means in the modules that are already imported: data must not choose what is imported."""
    module, _, path = dotted.rpartition(".")
    while module and module not in sys.modules:  # a class inside a class
        module, _, name = module.rpartition(".")
        path = f"{name}.{path}"
    found: object = sys.modules.get(module)
    for name in path.split("."):
        found = getattr(found, name, None)
    return found


def _load_event(value: Any) -> Event:
    if isinstance(value, Event):
        return value
    if not isinstance(value, Mapping):
        raise ValueError("expected an event, or a mapping with type and value")  # noqa: TRY004 - pydantic's
    saved = cast("Mapping[str, object]", value)
    return _load_event_type(saved.get("type")).model_validate(saved.get("value", {}))


def _load_event_type(value: Any) -> type[Event]:
    if isinstance(value, type) and issubclass(value, Event):
        return value
    found = _imported(str(cast("object", value)))
    if not (isinstance(found, type) and issubclass(found, Event)):
        raise ValueError(f"{value} is not an event class of an imported module")  # noqa: TRY004 - pydantic's
    return found


def _save_event_type(kind: type[Event]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _save_event(event: Event) -> dict[str, Any]:
    return {"type": _save_event_type(type(event)), "value": event.model_dump()}


SerializableException: TypeAlias = Annotated[
    Exception, PlainValidator(_load_exception), PlainSerializer(_save_exception, return_type=dict[str, str])
]
"""An exception that survives JSON as its dotted type name and message."""

SerializableEvent: TypeAlias = Annotated[Event, PlainValidator(_load_event), PlainSerializer(_save_event, return_type=dict[str, Any])]
"""An event that survives JSON with its type."""

SerializableOptionalEvent: TypeAlias = SerializableEvent | None
"""A `SerializableEvent` or None."""

SerializableEventType: TypeAlias = Annotated[
    type[Event], PlainValidator(_load_event_type), PlainSerializer(_save_event_type, return_type=str)
]
"""An event class that survives JSON as its dotted name."""

EventType: TypeAlias = type[Event]
"""An event class."""


class WorkflowTimedOutEvent(StopEvent):
    """Last event of the stream of a run that exceeded its timeout (seconds)."""

    timeout: float
    active_steps: list[str] = Field(default_factory=list)


class WorkflowCancelledEvent(StopEvent):
    """Last event of the stream of a run that was cancelled."""


class WorkflowFailedEvent(StopEvent):
    """Last event of the stream of a run that failed; awaiting the run raises `exception`."""

    step_name: str
    exception: SerializableException
    attempts: int | None = None
    elapsed_seconds: float | None = None


class IdleReleasedEvent(StopEvent):
    """Known to programs that release idle runs on a server; no run of this engine writes it."""


class StepFailedEvent(Event):
    """Tells a `@catch_error` step that a step failed for good."""

    step_name: str
    input_event: SerializableEvent
    exception: SerializableException
    attempts: int
    elapsed_seconds: float
    failed_at: datetime


class CollectionReleaseEvent(Event):
    """Known to programs by its name; here a collecting step gets its list as it is, and nothing wraps it."""

    events: list[SerializableEvent] = Field(default_factory=list)
    stream_id: str
    binding_id: str


class InternalDispatchEvent(Event):
    """Base of the events that tell what the engine does; `stream_events(expose_internal=True)` shows them."""


class StepState(str, Enum):
    """What a step execution is doing."""

    PREPARING = "preparing"
    RUNNING = "running"
    NOT_RUNNING = "not_running"


class StepStateChanged(InternalDispatchEvent):
    """A step execution was queued, started or ended."""

    name: str
    step_state: StepState
    worker_id: str
    input_event_name: str
    output_event_name: str | None = None


class UnhandledEvent(InternalDispatchEvent):
    """No step and no wait took an event."""

    event_type: str
    qualified_name: str
    step_name: str | None = None
    idle: bool


class WorkflowIdleEvent(InternalDispatchEvent):
    """Only input from outside can advance the run."""


BUILT_IN_EVENTS: tuple[type[Event], ...] = (Event, StartEvent, StopEvent, InputRequiredEvent, HumanResponseEvent, StepFailedEvent)
"""The event classes that every workflow knows."""
