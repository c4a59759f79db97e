"""Dotted paths into a state: keys, attributes and list indices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableSequence, Sequence
from difflib import get_close_matches
from functools import cached_property
from inspect import getattr_static
from typing import Any, cast

from pydantic import BaseModel, ValidationError

from ...events import DictLikeModel
from ..serializers._types import dynamic

MAX_DEPTH = 1000
"""The most segments that a path may have."""

MISSING: Any = object()


def split(path: str) -> list[str]:
    """Return the segments of a path; none for the empty path."""
    if not isinstance(path, str):  # pyright: ignore[reportUnnecessaryIsInstance] - users need not type-check
        raise TypeError(f"path must be a str, not {path!r}")
    segments = path.split(".") if path else []
    if len(segments) > MAX_DEPTH:
        raise ValueError(f"path has {len(segments)} segments, and {MAX_DEPTH} is the most: {path[:60]}...")
    return segments


def child(parent: Any, segment: str) -> Any:
    """Return what `parent` has under `segment`, or `MISSING`."""
    match parent:
        case BaseModel():
            return _model_child(parent, segment)
        case Mapping():
            return cast("Mapping[str, Any]", parent).get(segment, MISSING)
        case list() | tuple():
            items = cast("Sequence[Any]", parent)
            index = _index(items, segment)
            return MISSING if index is None else items[index]
        case _:
            return getattr(parent, segment, MISSING)


def _model_child(model: BaseModel, segment: str) -> Any:
    for values in (model.__dict__, dynamic(model)):
        if segment in values:
            return values[segment]
    # Not a plain `getattr`: a key named `items` that was never set must be missing, not a method of the model.
    is_property = isinstance(getattr_static(type(model), segment, None), (property, cached_property))
    return getattr(model, segment, MISSING) if is_property else MISSING


def _index(sequence: Sequence[Any], segment: str) -> int | None:
    try:
        index = int(segment)
    except ValueError:
        return None
    return index if -len(sequence) <= index < len(sequence) else None


def put(state: BaseModel, segments: list[str], value: Any) -> None:
    """Set a value, making dicts on the way."""
    parent: Any = state
    for depth, segment in enumerate(segments[:-1]):
        found = child(parent, segment)
        if found is MISSING or found is None:
            found = dict[str, Any]()
            assign(parent, segment, found, segments[: depth + 1])
        parent = found
    assign(parent, segments[-1], value, segments)


def assign(parent: Any, segment: str, value: Any, segments: list[str]) -> None:
    """Set what `parent` has under `segment`; `segments` is the whole path, for messages."""
    path = ".".join(segments)
    if isinstance(parent, list):
        items = cast("MutableSequence[Any]", parent)
        index = _index(items, segment)
        if index is None:
            raise ValueError(f"cannot set {path!r}: {segment!r} is not an index of a list of {len(items)}")
        items[index] = value
    elif isinstance(parent, dict) or (isinstance(parent, DictLikeModel) and segment not in type(parent).model_fields):
        parent[segment] = value
    else:
        try:
            setattr(parent, segment, value)
        except (AttributeError, TypeError, ValueError) as error:
            if isinstance(parent, BaseModel) and isinstance(error, ValidationError) and segment in type(parent).model_fields:
                raise  # the field is there: the model says what is wrong with the value
            known = ", ".join(type(parent).model_fields) if isinstance(parent, BaseModel) else ""
            hint = f" (its fields are {known})" if known else ""
            raise ValueError(f"cannot set {path!r}: a {type(parent).__qualname__} does not take {segment!r}{hint}") from error


def not_found(state: BaseModel, segments: list[str], index: int) -> str:
    """Return the message for a path whose segment number `index` is missing."""
    path, missing = ".".join(segments), segments[index]
    parent: Any = state
    for segment in segments[:index]:
        parent = child(parent, segment)
    near = get_close_matches(missing, _keys(parent), n=1)
    where = f" in {'.'.join(segments[:index])!r}" if index else ""
    meant = f"; did you mean {near[0]!r}?" if near else ""
    return f"the state has nothing at {path!r}: there is no {missing!r}{where}{meant}"


def _keys(value: Any) -> list[str]:
    match value:
        case BaseModel():
            return [*value.__dict__, *dynamic(value)]
        case Mapping():
            return [str(key) for key in cast("Iterable[Any]", value)]
        case _:
            return list(getattr(value, "__dict__", ()))
