"""Deep copies that keep what cannot be copied."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar, cast

from pydantic import BaseModel

_HANDLES = frozenset(
    {"_asyncio", "_contextvars", "_queue", "_thread", "asyncio", "concurrent", "contextvars", "multiprocessing", "queue", "threading"}
)
"""Modules whose objects can be copied, some of them, but mean nothing apart from the original: whoever waits there waits on that."""

_ATOMS = (str, int, float, bool, bytes, complex, type(None))

ValueT = TypeVar("ValueT")


def isolated(value: ValueT) -> ValueT:
    """Return a deep copy in which everything that cannot be copied is the same object.

    Containers, pydantic models and dataclasses are walked; other objects are deep-copied, and kept if that fails.
    """
    return cast("ValueT", _isolated(value, {}))


def _isolated(value: Any, memo: dict[int, Any]) -> Any:
    kind: type[Any] = cast("Any", type(value))
    if kind in _ATOMS or kind.__module__.partition(".")[0] in _HANDLES:
        return value
    if id(value) in memo:
        return memo[id(value)]
    if kind in _WALKS:
        return _WALKS[kind](value, memo)
    if isinstance(value, BaseModel) and type(value).__deepcopy__ is BaseModel.__deepcopy__:
        return _isolated_model(value, memo)
    if dataclasses.is_dataclass(kind) and not hasattr(kind, "__deepcopy__"):
        return _isolated_dataclass(value, memo)
    return _isolated_leaf(value, memo)


def _isolated_list(value: list[Any], memo: dict[int, Any]) -> list[Any]:
    copied: list[Any] = []
    memo[id(value)] = copied  # before its items, for lists that contain themselves
    copied.extend(_isolated(item, memo) for item in value)
    return copied


def _isolated_dict(value: dict[Any, Any], memo: dict[int, Any]) -> dict[Any, Any]:
    copied: dict[Any, Any] = {}
    memo[id(value)] = copied
    copied.update((_isolated(key, memo), _isolated(item, memo)) for key, item in value.items())
    return copied


def _isolated_set(value: set[Any], memo: dict[int, Any]) -> set[Any]:
    memo[id(value)] = copied = {_isolated(item, memo) for item in value}
    return copied


def _isolated_fixed(value: tuple[Any, ...] | frozenset[Any], memo: dict[int, Any]) -> Any:
    items = [_isolated(item, memo) for item in value]
    if all(one is other for one, other in zip(items, value, strict=True)):
        return value
    return memo.setdefault(id(value), type(value)(items))  # it may have been met within itself


_WALKS: dict[type, Callable[[Any, dict[int, Any]], Any]] = {
    list: _isolated_list,
    dict: _isolated_dict,
    set: _isolated_set,
    tuple: _isolated_fixed,
    frozenset: _isolated_fixed,
}


def _isolated_model(value: BaseModel, memo: dict[int, Any]) -> BaseModel:
    copied = memo[id(value)] = value.model_copy()
    for values in (vars(copied), copied.__pydantic_extra__, copied.__pydantic_private__):
        for name, item in list((values or {}).items()):
            cast("dict[str, Any]", values)[name] = _isolated(item, memo)
    return copied


def _isolated_dataclass(value: Any, memo: dict[int, Any]) -> Any:
    try:
        copied = memo[id(value)] = copy.copy(value)
    except Exception:  # noqa: BLE001 - copying runs code of the value
        return value
    for field in dataclasses.fields(value):
        if hasattr(value, field.name):
            object.__setattr__(copied, field.name, _isolated(getattr(value, field.name), memo))
    return copied


def _isolated_leaf(value: Any, memo: dict[int, Any]) -> Any:
    size = len(memo)
    try:
        return copy.deepcopy(value, memo)
    except Exception:  # noqa: BLE001 - copying runs code of the value
        while len(memo) > size:  # half-made copies of its parts
            memo.popitem()
        return value
