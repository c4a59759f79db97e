"""What a step may return, and what `wait_for_event` may be asked: checked before anything follows from it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from math import isnan
from typing import TYPE_CHECKING, Any, cast

from ..errors import StepResultError, WorkflowRuntimeError
from ..events import Event
from ..middleware import StepResult

if TYPE_CHECKING:
    from ._scope import StepScope

NOTHING_YET: Any = object()
"""What a step has returned before it returned."""


def events_of(result: StepResult) -> Sequence[Event]:
    """Return the events of a checked result."""
    if result is None:
        return ()
    return result if isinstance(result, list) else (result,)


def check_result(scope: StepScope, result: object) -> None:
    """Refuse what a step may not return.

    Raises:
        StepResultError: it is not an event, None, or a list where the step may return one.
    """
    step = scope.step
    if type(result) in step.returns or _all_of(result, step.lists):
        return
    config = scope.step.config
    if isinstance(result, Event):
        if type(result) in config.list_return_types:
            where = f"Step `{config.name}` ({config.place})"
            raise StepResultError(
                f"{where} returned one {type(result).__name__}, but declares a list of them; return [{type(result).__name__}(...)]"
            )
        _check_declared(scope, result, result)
    elif result is not None:
        for event in _listed(scope, result):
            _check_declared(scope, event, result)


def _all_of(result: object, kinds: frozenset[type[Any]]) -> bool:
    return isinstance(result, list) and bool(kinds) and kinds.issuperset(map(type, cast("list[object]", result)))


def _listed(scope: StepScope, result: object) -> list[Event]:
    where = f"Step `{scope.call.step}` ({scope.call.config.place})"
    if not isinstance(result, list):
        raise StepResultError(f"{where} returned {_kind(result)}; it must return an event or None")
    if not scope.step.config.is_fan_out:
        raise StepResultError(f"{where} returned a list; annotate it `-> list[...]` to return a list of events")
    for event in cast("list[object]", result):
        if not isinstance(event, Event):
            raise StepResultError(f"{where} returned a list with {_kind(event)} in it")
    return cast("list[Event]", result)


def _check_declared(scope: StepScope, event: Event, result: object) -> None:
    """A step may return what it did not declare, said once; a layer may not put such an event in its place."""
    config = scope.step.config
    kind = type(event)
    if kind in config.return_types or issubclass(kind, tuple(config.return_types)):
        return
    declared = ", ".join(each.__name__ for each in config.return_types) or "None"
    text = f"Step `{config.name}` ({config.place}) returned {kind.__name__}, but declares {declared}"
    if result is not scope.returned:
        raise StepResultError(f"{text}; a middleware put it there, and no layer may emit what the step may not")
    scope.runner.warn_once(f"{text}; add it to the return annotation")


def check_collect(scope: StepScope, event: object, expected: object, buffer: object) -> None:
    """Refuse what `collect_events` cannot collect; a set that the buffer knows was checked when it came."""
    known = scope.runner.state.buffers.get((scope.step.config.name, buffer)) if isinstance(buffer, str) else None
    if known is not None and isinstance(event, Event) and (known.expected is expected or known.expected == expected):
        return
    where = f"collect_events() in step `{scope.call.step}`"
    if not isinstance(event, Event):
        raise WorkflowRuntimeError(f"{where} takes an event, not {_kind(event)}")
    if not isinstance(buffer, str):
        raise WorkflowRuntimeError(f"{where} takes a string as buffer_id, not {buffer!r}")
    if isinstance(expected, str) or not isinstance(expected, Sequence):
        raise WorkflowRuntimeError(f"{where} takes a list of event classes as expected, not {expected!r}")
    for kind in cast("Sequence[object]", expected):
        if not _is_event_class(kind):
            raise WorkflowRuntimeError(f"{where} takes event classes in expected, not {kind!r}")


def check_wait(event_type: object, question: object, waiter_id: object, requirements: object, timeout: object) -> None:
    """Refuse what `wait_for_event` cannot wait for."""
    if not _is_event_class(event_type):
        raise WorkflowRuntimeError(f"wait_for_event() takes an event class, not {event_type!r}")
    if question is not None and not isinstance(question, Event):
        raise WorkflowRuntimeError(f"wait_for_event() takes an event as waiter_event, not {type(question).__name__}")
    if waiter_id is not None and not isinstance(waiter_id, str):
        raise WorkflowRuntimeError(f"wait_for_event() takes a string as waiter_id, not {waiter_id!r}")
    if not isinstance(requirements, dict) or not all(isinstance(name, str) for name in cast("dict[object, Any]", requirements)):
        raise WorkflowRuntimeError(f"wait_for_event() takes a dict of attribute names and values as requirements, not {requirements!r}")
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or isnan(timeout)):
        raise WorkflowRuntimeError(f"wait_for_event() takes seconds, or None, as timeout, not {timeout!r}")


def _is_event_class(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Event)


def _kind(value: object) -> str:
    if inspect.iscoroutine(value):
        value.close()
        return "a coroutine (did you forget `await`?)"
    return f"an instance of {type(value).__qualname__}"
