"""The types that a serializer knows: the plain ones, and the classes that an allow-list reaches."""

from __future__ import annotations

import base64
import builtins
import dataclasses
import types
from collections.abc import Callable, Iterable, Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, TypeAlias, get_args, get_type_hints
from uuid import UUID

from pydantic import BaseModel

from ... import events
from ...events import DictLikeModel

# Data is whatever users put into it, hence `Any` in this package: it is arbitrary indeed.
Json: TypeAlias = Any

MODEL_TAG, COMPONENT_TAG, PLAIN_TAG = "__is_pydantic", "__is_component", "__is_type"
TAGS = frozenset({MODEL_TAG, COMPONENT_TAG, PLAIN_TAG})


def join(path: str, key: object) -> str:
    """Return the path of what stands under `key`."""
    if isinstance(key, str) and key.isidentifier():
        return f"{path}.{key}" if path else key
    return f"{path}[{key!r}]"


def qualified_name(kind: type[Any]) -> str:
    """Return the name under which data refers to a class; a built-in class has no module in it."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def type_name(value: object) -> str:
    """Return the qualified name of a value's class."""
    return qualified_name(type(value))


def allow(kind: object, allowed: dict[str, type]) -> None:
    """Allow a class and, since its instances hold them, the classes in the annotations of its fields."""
    if not isinstance(kind, type):
        raise TypeError(f"allowed_types must be classes, not {kind!r}")
    if allowed.get(qualified_name(kind)) is kind:
        return
    allowed[qualified_name(kind)] = kind
    for annotation in _annotations(kind):
        for part in _classes(annotation):
            allow(part, allowed)


def _annotations(kind: type[Any]) -> Iterator[object]:
    if issubclass(kind, BaseModel):
        yield from (field.annotation for field in kind.model_fields.values())
    elif dataclasses.is_dataclass(kind) or is_named_tuple(kind):
        try:
            yield from get_type_hints(kind).values()
        except (NameError, TypeError):  # names that only a type checker sees; the user can still allow those classes
            return


def _classes(annotation: object) -> Iterator[type]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        yield annotation
    for part in get_args(annotation):
        yield from _classes(part)


def dynamic(model: BaseModel) -> dict[str, Any]:
    """Return the undeclared data of a model."""
    if isinstance(model, DictLikeModel):
        len(model)  # brings data that was given as `_data` into its place; `items()` may be hidden by a field of that name
    return model.__pydantic_extra__ or {}


def is_named_tuple(kind: type[Any]) -> bool:
    """Tell whether a class is a named tuple."""
    return hasattr(kind, "_fields") and issubclass(kind, tuple)


def is_component(kind: type[Any]) -> bool:
    """Tell whether a class is a component of LlamaIndex's kind."""
    return callable(getattr(kind, "class_name", None)) and callable(getattr(kind, "to_dict", None))


ALWAYS: dict[str, type] = {
    qualified_name(kind): kind for kind in vars(builtins).values() if isinstance(kind, type) and issubclass(kind, BaseException)
}
for _kind in vars(events).values():
    if isinstance(_kind, type) and issubclass(_kind, (DictLikeModel, Enum)) and _kind.__module__ == events.__name__:
        allow(_kind, ALWAYS)


KINDS: dict[str, Callable[[type], bool]] = {
    "enum": lambda kind: issubclass(kind, Enum),
    "namedtuple": is_named_tuple,
    "dataclass": dataclasses.is_dataclass,
    COMPONENT_TAG: is_component,
    MODEL_TAG: lambda kind: issubclass(kind, BaseModel),
}
"""What a class must be for a tag: data chooses neither the class nor what is called."""


# Plain types: each with its way into something that can be encoded, and back.


@dataclasses.dataclass(slots=True)
class _Plain:
    kind: type[Any]
    save: Callable[[Any], Any]
    load: Callable[[Any], Any]


def _sorted(values: Iterable[Any]) -> list[Any]:
    return sorted(values, key=repr)  # the same set gives the same text


def _save_bytes(value: bytes | bytearray) -> str:
    return base64.b64encode(value).decode("ascii")


def _load_bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


PLAIN: dict[str, _Plain] = {
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
