"""What of a run's payloads is shown: nothing by default. Knows events, and nothing of spans.

`TRACEDFLOW_CAPTURE` chooses: `none` leaves even the texts of exceptions out, `types` (the default) shows types and ids,
`summary` adds the names, types and sizes of fields, `full` their values, redacted and cut.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time, timedelta
from enum import Enum
from typing import Any, Literal, TypeAlias, cast
from uuid import UUID

from pydantic import BaseModel, SecretBytes, SecretStr

from ..events import Event
from .redaction import MASK, redacted

_log = logging.getLogger("tracedflow.telemetry")

Level: TypeAlias = Literal["none", "types", "summary", "full"]
LEVELS: tuple[Level, ...] = ("none", "types", "summary", "full")
VARIABLE = "TRACEDFLOW_CAPTURE"

_LONGEST = 4096  # bytes of JSON
_ITEMS = 100  # of a collection
_DEPTH = 8
_SECRET_NAMES = re.compile(r"pass(word|wd|phrase)|secret|token|api_?key|authorization|cookie|credential", re.IGNORECASE)
_PLAIN = (int, float, bool, type(None))


class Hidden:
    """Marks a field of an event that is never captured: `token: Annotated[str, Hidden]`. So do `Field(repr=False)` and `exclude=True`."""


_warned: set[str] = set()


def level() -> Level:
    """Return the level that the environment asks for; an unknown one is said once, and is `types`."""
    asked = os.environ.get(VARIABLE, "").strip().lower()
    if not asked:
        return "types"
    if asked in LEVELS:
        return asked
    if asked not in _warned:
        _warned.add(asked)
        _log.warning("%s=%s is unknown; it is one of %s. Types are captured, and no values", VARIABLE, asked, ", ".join(LEVELS))
    return "types"


def captured(value: Event | Iterable[Event] | None, at: Level) -> str | None:
    """Return an event, or several, as JSON of at most 4 KiB; None where nothing is captured."""
    if value is None or at not in ("summary", "full"):
        return None
    show = _values if at == "full" else _sizes
    shown = _fields(value, show, 0) if isinstance(value, Event) else [_fields(event, show, 0) for event in value]
    text = redacted(json.dumps(shown, ensure_ascii=False, separators=(",", ":"), allow_nan=True))
    encoded = text.encode("utf-8", errors="replace")
    return text if len(encoded) <= _LONGEST else encoded[: _LONGEST - 3].decode(errors="ignore") + "…"


def _fields(model: BaseModel, show: Any, depth: int) -> dict[str, Any]:
    """Return what a model shows of itself: what is declared and not hidden, what was added, and a result."""
    declared = type(model).model_fields
    found = {name: value for name, value in model.__dict__.items() if name not in declared or not _is_hidden(declared[name])}
    found.update(model.__pydantic_extra__ or {})
    result = (model.__pydantic_private__ or {}).get("_result")
    if result is not None:
        found["result"] = result
    return {name: MASK if _SECRET_NAMES.search(name) else show(value, depth + 1) for name, value in found.items()}


def _is_hidden(field: Any) -> bool:
    marks = cast("Iterable[Any]", field.metadata)
    return field.repr is False or field.exclude is True or any(mark is Hidden or isinstance(mark, Hidden) for mark in marks)


def _values(value: Any, depth: int) -> Any:
    """Return a value as data for JSON, without calling any code of its class."""
    if isinstance(value, str) or type(value) in _PLAIN:
        return value if not isinstance(value, Enum) else value.value
    if isinstance(value, (SecretStr, SecretBytes)):
        return MASK
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, (UUID, timedelta)):
        return str(value)
    if depth > _DEPTH:
        return _type(value)
    return _contents(value, _values, depth)


def _contents(value: Any, show: Any, depth: int) -> Any:
    if isinstance(value, BaseModel):
        return _fields(value, show, depth)
    if isinstance(value, Mapping):
        pairs = list(dict[Any, Any](cast("Any", value)).items())[:_ITEMS]
        return {str(key): MASK if _SECRET_NAMES.search(str(key)) else show(item, depth + 1) for key, item in pairs if _is_key(key)}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [show(item, depth + 1) for item in list(cast("Iterable[Any]", value))[:_ITEMS]]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [each.name for each in dataclasses.fields(value) if each.repr]
        return {name: MASK if _SECRET_NAMES.search(name) else show(getattr(value, name, None), depth + 1) for name in names}
    return _type(value)


def _is_key(key: object) -> bool:
    return isinstance(key, (str, int, float))


def _sizes(value: Any, depth: int) -> Any:
    """Return the type of a value, and its size if it has one."""
    if isinstance(value, BaseModel) and depth <= _DEPTH:
        return _fields(value, _sizes, depth)
    if isinstance(value, (str, bytes, bytearray, list, tuple, set, frozenset, dict)):
        return f"{type(cast('object', value)).__name__}[{len(cast('Any', value))}]"
    return _type(value)


def _type(value: object) -> str:
    return type(value).__name__
