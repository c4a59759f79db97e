"""What `class F(Workflow[MyStop])` says of its result, held against what its steps return."""

from __future__ import annotations

from types import UnionType
from typing import Any, ForwardRef, TypeVar, Union, get_args, get_origin

from ._graph import Graph
from ._problems import Problem
from .events import StopEvent


def result_problems(cls: type[Any], root: type[Any], graph: Graph) -> list[Problem]:
    """Return what is wrong with the result type that a class gives to `root`, its generic base."""
    declared = _declared(cls, root)
    if len(graph.stop_events) != 1 or declared is None:
        return []
    stop = graph.stop_event
    given = Any if stop is StopEvent else stop  # a plain StopEvent gives its `result`, of which nothing is known
    if any(_may_be(given, member) for member in _members(declared)):
        return []
    name = getattr(declared, "__name__", str(declared))
    what = "the `result` of a StopEvent" if given is Any else stop.__name__
    where = ", ".join(f"`{step.name}` ({step.place})" for step in graph.steps.values() if stop in step.return_types)
    instead = "the type of that result" if given is Any else stop.__name__
    return [
        Problem(
            text=f"Workflow[{name}] says that a run gives {name}, but it gives {what}, by {where}.",
            remedy=f"Give Workflow[...] {instead}, or let the step return {name}.",
        )
    ]


def _may_be(given: Any, declared: Any) -> bool:
    """Whether what a run gives may be what is declared; types that only a type checker knows are left to it."""
    if declared is Any or isinstance(declared, TypeVar | str | ForwardRef):
        return True
    is_event = isinstance(declared, type) and issubclass(declared, StopEvent)
    if given is Any:
        return not is_event
    return declared is object or (is_event and issubclass(given, declared))


def _members(declared: Any) -> tuple[Any, ...]:
    return get_args(declared) if get_origin(declared) in (Union, UnionType) else (declared,)


def _declared(cls: type[Any], root: type[Any]) -> Any:
    """Return the argument that `root` has in the bases of a class, through generic classes between them; None: it has none."""
    for base in vars(cls).get("__orig_bases__", cls.__bases__):
        origin = get_origin(base) or base
        if origin is root:
            return next(iter(get_args(base)), None)
        if isinstance(origin, type) and issubclass(origin, root):
            found = _declared(origin, root)
            if isinstance(found, TypeVar):
                parameters: tuple[Any, ...] = getattr(origin, "__parameters__", ())
                found = dict(zip(parameters, get_args(base), strict=False)).get(found)
            return found
    return None
