"""Where the composition root leaves what the engine needs from the edges, by name; each is made on first use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_factories: dict[str, Callable[[], Any]] = {}
_made: dict[str, Any] = {}


def register(name: str, factory: Callable[[], Any]) -> None:
    """Say how `name` is made; called by the package's `__init__` only."""
    _factories[name] = factory
    _made.pop(name, None)


def made(name: str) -> Any:
    """Return the one object of this name, made now if it was not yet."""
    if name not in _made:
        _made[name] = _factories[name]()
    return _made[name]
