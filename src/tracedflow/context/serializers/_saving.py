"""From values to JSON. Each function takes a value and its path, for the message that names it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, cast

from pydantic import BaseModel, PlainSerializer, TypeAdapter, WrapSerializer

from ...errors import UnserializableError
from ...events import DictLikeModel, UnreconstructedException
from ._types import (
    COMPONENT_TAG,
    MODEL_TAG,
    PLAIN,
    PLAIN_TAG,
    TAGS,
    Json,
    dynamic,
    is_component,
    is_named_tuple,
    join,
    qualified_name,
    type_name,
)


def unsaved(value: object, path: str, why: str) -> UnserializableError:
    """Return the error that names a value, its path and what to do."""
    return UnserializableError(f"{path or 'The value'} (a {type_name(value)}) cannot be saved as JSON: {why}.")


def _tagged(tag: str, value: Json, kind: type[Any] | None = None, **more: Json) -> Json:
    named = {} if kind is None else {"qualified_name": qualified_name(kind)}
    return {PLAIN_TAG: tag, "value": value, **named, **more}


def encode(value: Any, path: str) -> Json:
    """Return what JSON can hold of a value, tagged where JSON alone would lose its type."""
    match value:
        case None | bool():
            return value
        case Enum():  # before str and int, which some enums also are
            return _tagged("enum", encode(value.value, path), type(value))
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
    return [encode(item, f"{path}[{index}]") for index, item in enumerate(values)]


def _encode_values(values: Mapping[str, Any], path: str) -> Json:
    return {key: encode(value, join(path, key)) for key, value in values.items()}


def _encode_dict(value: Mapping[Any, Any], path: str) -> Json:
    if all(isinstance(key, str) for key in value) and not TAGS & value.keys():
        return _encode_values(value, path)
    return _tagged("dict", [[encode(key, f"{path} key {key!r}"), encode(item, join(path, key))] for key, item in value.items()])


def _encode_object(value: Any, path: str) -> Json:
    kind: type[Any] = cast("Any", type(value))
    if is_component(kind):
        return {COMPONENT_TAG: True, "value": encode(value.to_dict(), path), "qualified_name": qualified_name(kind)}
    if isinstance(value, BaseModel):
        return _encode_model(value, path)
    if isinstance(value, BaseException):
        return _encode_exception(value, path)
    if dataclasses.is_dataclass(kind):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(kind) if hasattr(value, field.name)}
        return _tagged("dataclass", _encode_values(fields, path), kind)
    if is_named_tuple(kind):
        return _tagged("namedtuple", _encode_items(value, path), kind)
    for tag, plain in PLAIN.items():
        if isinstance(value, plain.kind):
            return _tagged(tag, encode(plain.save(value), path))
    raise unsaved(
        value,
        path,
        "keep it out of the state (clients are resources), give its class `class_name` and `to_dict`, or use PickleSerializer",
    )


def _encode_exception(error: BaseException, path: str) -> Json:
    if isinstance(error, UnreconstructedException):  # it still stands for the original
        return {PLAIN_TAG: "exception", "value": None, "qualified_name": error.original_type, "message": str(error)}
    try:
        reduced = error.__reduce__()  # an OSError has more here than in `args`
        arguments = reduced[1] if isinstance(reduced, tuple) and reduced[0] is type(error) else error.args
        value = {"args": _encode_items(arguments, path), "attributes": encode(vars(error), path)}
    except Exception:  # noqa: BLE001 - often it holds a request or a response: type and message must survive all the same
        value = None
    return _tagged("exception", value, type(error), message=str(error))


def _encode_model(model: BaseModel, path: str) -> Json:
    kind = type(model)
    tagged: Json = {MODEL_TAG: True, "value": None, "qualified_name": qualified_name(kind)}
    if _has_model_serializer(kind):
        return {**tagged, "value": encode(model.model_dump(round_trip=True), path)}
    value = {
        name: _encode_field(model, name, join(path, name))
        for name, field in kind.model_fields.items()
        if name in vars(model) and not field.exclude
    }
    if not isinstance(model, DictLikeModel):
        return {**tagged, "value": {**value, **_encode_values(dynamic(model), path)}}
    # Private attributes of events and of the state are data: their classes take them as keywords.
    private = _encode_values(model.__pydantic_private__ or {}, path)
    return {**tagged, "value": {**value, **_encode_values(dynamic(model), path)}, **({"private": private} if private else {})}


def _has_model_serializer(kind: type[BaseModel]) -> bool:
    ours = DictLikeModel.__pydantic_decorators__.model_serializers if issubclass(kind, DictLikeModel) else {}
    return bool(kind.__pydantic_decorators__.model_serializers.keys() - ours.keys())


def _has_field_serializer(kind: type[BaseModel], name: str) -> bool:
    if any(isinstance(found, (PlainSerializer, WrapSerializer)) for found in kind.model_fields[name].metadata):
        return True
    return any({name, "*"} & set(found.info.fields) for found in kind.__pydantic_decorators__.field_serializers.values())


def _encode_field(model: BaseModel, name: str, path: str) -> Json:
    """Encode the value of a field as it is, so that its type survives; else in pydantic's way, if that restores it."""
    kind, value = type(model), vars(model)[name]
    if _has_field_serializer(kind, name):
        return encode(model.model_dump(include={name})[name], path)
    try:
        return encode(value, path)
    except UnserializableError as refused:
        try:
            dumped = model.model_dump(mode="json", include={name})[name]
            adapter: TypeAdapter[Any] = TypeAdapter(cast("Any", kind.model_fields[name].annotation))
            restored = adapter.validate_python(dumped) == value  # a masked secret, say, is not
        except Exception:  # noqa: BLE001 - serializers, validators and comparisons of the user's own
            raise refused from None
        if not restored:
            raise
        return encode(dumped, path)
