"""How values become text and come back. JSON finds classes in an allow-list only; pickle must be asked for by name.

Knows nothing of workflows: whoever saves a run tells which of its types are allowed.
"""

from __future__ import annotations

import base64
import builtins
import dataclasses
import json
import math
import pickle
import pkgutil
import types
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast, get_args, get_type_hints
from uuid import UUID

from pydantic import BaseModel, PlainSerializer, RootModel, TypeAdapter, WrapSerializer

from .. import events
from ..errors import ContextSerdeError
from ..events import DictLikeModel, UnreconstructedException

# Data is whatever users put into it, hence `Any` in this module: it is arbitrary indeed.
Json: TypeAlias = Any

_MODEL, _COMPONENT, _TYPE = "__is_pydantic", "__is_component", "__is_type"
_TAGS = frozenset({_MODEL, _COMPONENT, _TYPE})


class BaseSerializer(ABC):
    """Turns values into text and back. Subclass it to use another format for the state of a run."""

    @abstractmethod
    def serialize(self, value: Any) -> str:
        """Return `value` as text."""

    @abstractmethod
    def deserialize(self, value: str) -> Any:
        """Return what `serialize` was given."""

    def serialize_at(self, value: Any, path: str) -> str:
        """Serialize what is found at `path`, such as `state.user`.

        Raises:
            ContextSerdeError: it cannot be saved; the message names the path.
        """
        return _named(self.serialize, value, f"{path} (a {_name(type(value))}) cannot be saved by {type(self).__qualname__}")

    def deserialize_at(self, value: str, path: str) -> Any:
        """Deserialize what belongs at `path`.

        Raises:
            ContextSerdeError: it cannot be loaded; the message names the path.
        """
        return _named(self.deserialize, value, f"{path} cannot be loaded by {type(self).__qualname__}")


class JsonSerializer(BaseSerializer):
    """JSON with tags for what JSON lacks. Imports nothing that data names: classes come from `allowed_types` only.

    What round-trips: JSON's own types, non-string keys, tuples, sets, bytes, dates and times (a time zone becomes its
    offset), `Decimal`, `UUID`, `Path`, built-in exceptions, and, if their classes are allowed: pydantic models, components
    (`class_name` and `to_dict`/`from_dict`), dataclasses, named tuples, enums and other exceptions. Allowing a class allows
    the classes that its fields are annotated with. An exception that may not or cannot be rebuilt comes back as
    `UnreconstructedException`.
    """

    def __init__(self, allowed_types: Iterable[type] | None = None) -> None:
        self._allowed = dict(_ALWAYS)
        for kind in allowed_types or ():
            _allow(kind, self._allowed)

    def with_types(self, *allowed_types: type | Iterable[type]) -> JsonSerializer:
        """Return a serializer that allows these types too.

        Raises:
            TypeError: one of them is not a class.
        """
        wider = type(self).__new__(type(self))
        wider.__dict__.update(self.__dict__)
        wider._allowed = dict(self._allowed)
        for given in allowed_types:
            for kind in (given,) if isinstance(given, type) else given:
                _allow(kind, wider._allowed)
        return wider

    def serialize(self, value: Any) -> str:
        """Return `value` as JSON.

        Raises:
            ContextSerdeError: it holds something that cannot be saved; the message names it by its path.
        """
        return self.serialize_at(value, "")

    def serialize_at(self, value: Any, path: str) -> str:
        """As `serialize`; the paths in messages begin with `path`."""
        try:
            return json.dumps(_encode(value, path), allow_nan=False, separators=(",", ":"))
        except RecursionError:
            raise _unsaved(value, path, "it contains itself, or is nested too deep") from None
        except ValueError as error:  # an int of more digits than Python writes
            raise _unsaved(value, path, str(error)) from error

    def deserialize(self, value: str) -> Any:
        """Return what `serialize` was given.

        Raises:
            ContextSerdeError: it is not JSON of ours, or names a type that is not allowed.
        """
        return self.deserialize_at(value, "")

    def deserialize_at(self, value: str, path: str) -> Any:
        """As `deserialize`; the paths in messages begin with `path`."""
        try:
            return _Decoder(self._find).decode(json.loads(value), path)
        except (ValueError, TypeError, RecursionError) as error:
            raise ContextSerdeError(f"{path or 'The text'} cannot be loaded as JSON: {error}") from error

    def _find(self, name: str) -> type | None:
        return self._allowed.get(name)


class PickleSerializer(JsonSerializer):
    """JSON where it can, else base64 of a pickle. Only for data you trust: loading runs whatever it names."""

    def serialize_at(self, value: Any, path: str) -> str:
        """Return JSON, or base64 of a pickle.

        Raises:
            ContextSerdeError: neither can save it.
        """
        try:
            return super().serialize_at(value, path)
        except ContextSerdeError as refused:
            try:
                return base64.b64encode(pickle.dumps(value)).decode("ascii")
            except Exception as error:  # pickling runs code of the value
                raise ContextSerdeError(f"{refused} Pickle cannot save it either: {error}") from error

    def deserialize_at(self, value: str, path: str) -> Any:
        """Load JSON or base64 of a pickle.

        Raises:
            ContextSerdeError: it is neither.
        """
        try:
            json.loads(value)
        except (ValueError, RecursionError):
            return _named(_unpickle, value, f"{path or 'The text'} is neither JSON nor a pickle")
        return super().deserialize_at(value, path)

    def _find(self, name: str) -> type | None:
        found = super()._find(name)
        if found is None:
            try:
                found = pkgutil.resolve_name(name)
            except Exception:  # noqa: BLE001 - importing runs code
                return None
        return found if isinstance(found, type) else None


JsonPickleSerializer = PickleSerializer


ResultT = TypeVar("ResultT")


def _named(function: Callable[[Any], ResultT], value: Any, failed: str) -> ResultT:
    try:
        return function(value)
    except ContextSerdeError as error:
        raise ContextSerdeError(f"{failed}: {error}") from error
    except Exception as error:  # a serializer of the user's own may raise anything
        raise ContextSerdeError(f"{failed}: {type(error).__name__}: {error}") from error


def _unpickle(text: str) -> Any:
    return pickle.loads(base64.b64decode(text, validate=True))  # asked for by name


# Types: how they are named, and which an allow-list reaches.


def _name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _allow(kind: object, allowed: dict[str, type]) -> None:
    """Allow a class and, since its instances hold them, the classes in the annotations of its fields."""
    if not isinstance(kind, type):
        raise TypeError(f"allowed_types must be classes, not {kind!r}")
    if allowed.get(_name(kind)) is kind:
        return
    allowed[_name(kind)] = kind
    for annotation in _annotations(kind):
        for part in _classes(annotation):
            _allow(part, allowed)


def _annotations(kind: type) -> Iterator[object]:
    if issubclass(kind, BaseModel):
        yield from (field.annotation for field in kind.model_fields.values())
    elif dataclasses.is_dataclass(kind) or _is_named_tuple(kind):
        try:
            yield from get_type_hints(kind).values()
        except (NameError, TypeError):  # names that only a type checker sees; the user can still allow those classes
            return


def _classes(annotation: object) -> Iterator[type]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        yield annotation
    for part in get_args(annotation):
        yield from _classes(part)


def _is_named_tuple(kind: type) -> bool:
    return hasattr(kind, "_fields") and issubclass(kind, tuple)


_ALWAYS: dict[str, type] = {
    _name(kind): kind for kind in vars(builtins).values() if isinstance(kind, type) and issubclass(kind, BaseException)
}
for _kind in vars(events).values():
    if isinstance(_kind, type) and issubclass(_kind, (DictLikeModel, Enum)) and _kind.__module__ == events.__name__:
        _allow(_kind, _ALWAYS)


# Plain types: each with its way into something that can be encoded, and back.


@dataclasses.dataclass(slots=True)
class _Plain:
    kind: type
    save: Callable[[Any], Any]
    load: Callable[[Any], Any]


def _sorted(values: Iterable[Any]) -> list[Any]:
    return sorted(values, key=repr)  # the same set gives the same text


def _save_bytes(value: bytes | bytearray) -> str:
    return base64.b64encode(value).decode("ascii")


def _load_bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


_PLAIN: dict[str, _Plain] = {
    "float": _Plain(float, repr, float),  # NaN and the infinities only
    "dict": _Plain(dict, lambda value: [list(pair) for pair in value.items()], dict),
    "tuple": _Plain(tuple, list, tuple),
    "set": _Plain(set, _sorted, set),
    "frozenset": _Plain(frozenset, _sorted, frozenset),
    "bytes": _Plain(bytes, _save_bytes, _load_bytes),
    "bytearray": _Plain(bytearray, _save_bytes, lambda text: bytearray(_load_bytes(text))),
    "complex": _Plain(complex, repr, complex),
    "datetime": _Plain(datetime, datetime.isoformat, datetime.fromisoformat),  # before date, its base
    "date": _Plain(date, date.isoformat, date.fromisoformat),
    "time": _Plain(time, time.isoformat, time.fromisoformat),
    "timedelta": _Plain(timedelta, lambda value: [value.days, value.seconds, value.microseconds], lambda parts: timedelta(*parts)),
    "uuid": _Plain(UUID, str, UUID),
    "decimal": _Plain(Decimal, str, Decimal),
    "path": _Plain(Path, str, Path),
}


# Saving. Each function takes the value and its path.


def _join(path: str, key: object) -> str:
    if isinstance(key, str) and key.isidentifier():
        return f"{path}.{key}" if path else key
    return f"{path}[{key!r}]"


def _unsaved(value: object, path: str, why: str) -> ContextSerdeError:
    return ContextSerdeError(f"{path or 'The value'} (a {_name(type(value))}) cannot be saved as JSON: {why}.")


def _tagged(tag: str, value: Json, kind: type | None = None, **more: Json) -> Json:
    named = {} if kind is None else {"qualified_name": _name(kind)}
    return {_TYPE: tag, "value": value, **named, **more}


def _encode(value: Any, path: str) -> Json:
    match value:
        case None | bool():
            return value
        case Enum():  # before str and int, which some enums also are
            return _tagged("enum", _encode(value.value, path), type(value))
        case str() | int():
            return value
        case float() if math.isfinite(value):
            return value
        case list():
            return _encode_items(cast("Iterable[Any]", value), path)
        case dict():
            return _encode_dict(cast("Mapping[Any, Any]", value), path)
        case _:
            return _encode_object(value, path)


def _encode_items(values: Iterable[Any], path: str) -> Json:
    return [_encode(item, f"{path}[{index}]") for index, item in enumerate(values)]


def _encode_values(values: Mapping[str, Any], path: str) -> Json:
    return {key: _encode(value, _join(path, key)) for key, value in values.items()}


def _encode_dict(value: Mapping[Any, Any], path: str) -> Json:
    if all(isinstance(key, str) for key in value) and not _TAGS & value.keys():
        return _encode_values(value, path)
    return _tagged("dict", [[_encode(key, f"{path} key {key!r}"), _encode(item, _join(path, key))] for key, item in value.items()])


def _encode_object(value: Any, path: str) -> Json:
    kind = cast("type", type(value))
    if _is_component(kind):
        return {_COMPONENT: True, "value": _encode(value.to_dict(), path), "qualified_name": _name(kind)}
    if isinstance(value, BaseModel):
        return _encode_model(value, path)
    if isinstance(value, BaseException):
        return _encode_exception(value, path)
    if dataclasses.is_dataclass(kind):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(kind)}
        return _tagged("dataclass", _encode_values(fields, path), kind)
    if _is_named_tuple(kind):
        return _tagged("namedtuple", _encode_items(value, path), kind)
    for tag, plain in _PLAIN.items():
        if isinstance(value, plain.kind):
            return _tagged(tag, _encode(plain.save(value), path))
    raise _unsaved(
        value,
        path,
        "keep it out of the state (clients and connections are resources), give its class `class_name` and `to_dict`, or use PickleSerializer",
    )


def _is_component(kind: type) -> bool:
    return callable(getattr(kind, "class_name", None)) and callable(getattr(kind, "to_dict", None))


def _encode_exception(error: BaseException, path: str) -> Json:
    if isinstance(error, UnreconstructedException):  # it still stands for the original
        return {_TYPE: "exception", "value": None, "qualified_name": error.original_type, "message": str(error)}
    reduced = error.__reduce__()
    arguments = reduced[1] if isinstance(reduced, tuple) and reduced[0] is type(error) else error.args
    try:
        value = {"args": _encode_items(arguments, path), "attributes": _encode(vars(error), path)}
    except ContextSerdeError:  # often a request or a response: type and message must survive all the same
        value = None
    return _tagged("exception", value, type(error), message=str(error))


def _encode_model(model: BaseModel, path: str) -> Json:
    kind = type(model)
    tagged: Json = {_MODEL: True, "value": None, "qualified_name": _name(kind)}
    if _has_model_serializer(kind):
        return {**tagged, "value": _encode(model.model_dump(round_trip=True), path)}
    value = {
        name: _encode_field(model, name, _join(path, name))
        for name, field in kind.model_fields.items()
        if name in vars(model) and not field.exclude
    }
    if not isinstance(model, DictLikeModel):
        return {**tagged, "value": {**value, **_encode_values(model.__pydantic_extra__ or {}, path)}}
    # Private attributes of events and of the state are data: their classes take them as keywords.
    private = _encode_values(model.__pydantic_private__ or {}, path)
    return {**tagged, "value": {**value, **_encode_values(dict(model.items()), path)}, **({"private": private} if private else {})}


def _has_model_serializer(kind: type[BaseModel]) -> bool:
    return any(found.cls_ref != _OUR_DUMP for found in kind.__pydantic_decorators__.model_serializers.values())


_OUR_DUMP = DictLikeModel.__pydantic_decorators__.model_serializers["_dump"].cls_ref


def _has_field_serializer(kind: type[BaseModel], name: str) -> bool:
    if any(isinstance(found, (PlainSerializer, WrapSerializer)) for found in kind.model_fields[name].metadata):
        return True
    return any({name, "*"} & set(found.info.fields) for found in kind.__pydantic_decorators__.field_serializers.values())


def _encode_field(model: BaseModel, name: str, path: str) -> Json:
    """Encode the value of a field as it is, so that its type survives; else in pydantic's way, if that restores it."""
    kind, value = type(model), vars(model)[name]
    if _has_field_serializer(kind, name):
        return _encode(model.model_dump(include={name})[name], path)
    try:
        return _encode(value, path)
    except ContextSerdeError as refused:
        try:
            dumped = model.model_dump(mode="json", include={name})[name]
            adapter: TypeAdapter[Any] = TypeAdapter(cast("Any", kind.model_fields[name].annotation))
            restored = adapter.validate_python(dumped) == value  # a masked secret, say, is not
        except Exception:  # serializers, validators and comparisons of the user's own
            raise refused from None
        if not restored:
            raise
        return _encode(dumped, path)


# Loading.


class _Decoder:
    def __init__(self, find: Callable[[str], type | None]) -> None:
        self._find = find

    def decode(self, data: Json, path: str) -> Any:
        if isinstance(data, list):
            return [self.decode(item, f"{path}[{index}]") for index, item in enumerate(cast("Iterable[Json]", data))]
        if not isinstance(data, dict):
            return data
        found = cast("dict[str, Json]", data)
        if _TAGS.isdisjoint(found):
            return self._values(found, path)
        try:
            return self._tagged(found, path)
        except (ContextSerdeError, RecursionError):
            raise
        except Exception as error:  # data may be damaged, and constructors of the user's own may raise anything
            what = found.get("qualified_name") or found.get(_TYPE)
            raise ContextSerdeError(f"{path or 'The value'} cannot be loaded as {what}: {type(error).__name__}: {error}") from error

    def _values(self, data: dict[str, Json], path: str) -> dict[str, Any]:
        return {key: self.decode(item, _join(path, key)) for key, item in data.items()}

    def _tagged(self, data: dict[str, Json], path: str) -> Any:
        tag = _MODEL if data.get(_MODEL) else _COMPONENT if data.get(_COMPONENT) else data[_TYPE]
        if tag in _PLAIN:
            return _PLAIN[tag].load(self.decode(data["value"], path))
        name = str(data["qualified_name"])
        if tag == "exception":
            return self._exception(name, data, path)
        kind, value = self._class(name, tag, path), data["value"]
        match tag:
            case "enum":
                return kind(self.decode(value, path))
            case "namedtuple":
                return kind(*self.decode(value, path))
            case "dataclass":
                return _load_dataclass(kind, self._values(value, path))
            case _ if tag == _COMPONENT:
                return cast("Any", kind).from_dict(self.decode(value, path))
            case _:
                return self._model(kind, data, path)

    def _class(self, name: str, tag: str, path: str) -> type:
        kind = self._find(name)
        if kind is None:
            short = name.rpartition(".")[2]
            raise ContextSerdeError(
                f"{path or 'The value'} is a {name}, which this serializer may not load. "
                f"Allow it with JsonSerializer(allowed_types=[{short}]), or serializer.with_types({short})."
            )
        if tag not in _KINDS or not _KINDS[tag](kind):
            raise ContextSerdeError(f"{path or 'The value'} cannot be loaded: {name} is not what its tag {tag!r} says.")
        return kind

    def _model(self, kind: type, data: dict[str, Json], path: str) -> BaseModel:
        value = self.decode(data["value"], path)
        if issubclass(kind, RootModel) and isinstance(value, dict):
            value = cast("dict[str, Any]", value).get("root", value)
        model = cast("type[BaseModel]", kind).model_validate(value, by_alias=False, by_name=True)
        for name, item in self._values(data.get("private", {}), path).items():
            setattr(model, name, item)
        return model

    def _exception(self, name: str, data: dict[str, Json], path: str) -> BaseException:
        kind, message = self._find(name), str(data["message"])
        if kind is not None and issubclass(kind, BaseException) and data["value"] is not None:
            try:
                return _load_exception(kind, self.decode(data["value"], path))
            except Exception:  # noqa: BLE001 - any constructor may fail: the message is what must survive
                return UnreconstructedException(message, original_type=name)
        return UnreconstructedException(message, original_type=name)


def _load_exception(kind: type[BaseException], value: dict[str, Any]) -> BaseException:
    if isinstance(kind.__init__, types.FunctionType):  # its parameters are its own, not `args`
        error = kind.__new__(kind, *value["args"])
        error.args = tuple(value["args"])
    else:
        error = kind(*value["args"])
    vars(error).update(value["attributes"])
    return error


def _load_dataclass(kind: type, values: dict[str, Any]) -> Any:
    given = {field.name: values.pop(field.name) for field in dataclasses.fields(kind) if field.init and field.name in values}
    loaded = kind(**given)
    for name, value in values.items():
        object.__setattr__(loaded, name, value)  # frozen classes too
    return loaded


_KINDS: dict[str, Callable[[type], bool]] = {
    "enum": lambda kind: issubclass(kind, Enum),
    "namedtuple": _is_named_tuple,
    "dataclass": dataclasses.is_dataclass,
    _COMPONENT: _is_component,
    _MODEL: lambda kind: issubclass(kind, BaseModel),
}
"""What a class must be for a tag: data chooses neither the class nor what is called."""
