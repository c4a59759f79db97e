"""The names of workflows in traces and metrics: two classes of one name must not share a row on a dashboard."""

from __future__ import annotations

import logging
import threading
from weakref import WeakValueDictionary

_log = logging.getLogger("tracedflow")

_lock = threading.Lock()
_first: WeakValueDictionary[str, type] = WeakValueDictionary()  # qualified name -> the first class that had it
_warned: set[str] = set()


def name_of(cls: type) -> str:
    """Return the qualified name of a workflow class; with its module, and a warning once, if one of another module has it already."""
    name = cls.__qualname__
    first = _first.get(name)
    if first is None:
        with _lock:
            first = _first.setdefault(name, cls)
    if first is cls or first.__module__ == cls.__module__:
        return name
    full = f"{cls.__module__}.{name}"
    if full not in _warned:
        _warned.add(full)
        _log.warning(
            "two workflow classes are called %s, in %s and in %s; the second shows as %s in traces and metrics. "
            "Give one a name of its own: Workflow(workflow_name=...)",
            name, first.__module__, cls.__module__, full,
        )  # fmt: skip
    return full


def forget() -> None:
    """Know no class any more, as a fresh process."""
    with _lock:
        _first.clear()
        _warned.clear()
