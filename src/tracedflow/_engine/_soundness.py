"""Whether a loaded state can be run: the types of its parts, and the references between them. Changes nothing.

Data may be damaged, or of an older version of the workflow. What passes here never makes the reducer fail.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, Union, cast, get_args, get_origin, get_type_hints

from .._graph import accepts
from ..errors import ContextSerdeError
from ..events import Event
from . import _state as st
from ._form import FORM

if TYPE_CHECKING:
    from .._graph import Graph

Test: TypeAlias = Callable[[Any], bool]

_SEQUENCES: Sequence[Any] = (list, tuple)

# --- the parts


def check_fields(kind: type[Any], values: Mapping[str, Any], path: str) -> None:
    """Refuse values that the fields of a class cannot have.

    Raises:
        ContextSerdeError: one is of another type, or has no field; the message names its path.
    """
    tests = _tests(kind)
    for name, value in values.items():
        if name not in tests:
            raise ContextSerdeError(f"the saved run is malformed at {path}: {kind.__name__} has no {name!r}")
        if not tests[name](value):
            raise ContextSerdeError(f"the saved run is malformed at {path}.{name}: {_short(value)} is not of the type it must have")


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


_known: dict[type[Any], dict[str, Test]] = {}


def _tests(kind: type[Any]) -> dict[str, Test]:
    if kind not in _known:
        _known[kind] = _made_tests(kind)
    return _known[kind]


def _made_tests(kind: type[Any]) -> dict[str, Test]:
    hints = FORM[kind] if kind in FORM else get_type_hints(kind)
    return {field.name: _test(hints[field.name]) for field in dataclasses.fields(kind)}


def _test(annotation: Any) -> Test:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in (Any, object):
        return lambda value: True
    if origin in (Union, UnionType):
        options = [_test(each) for each in arguments]
        return lambda value: any(option(value) for option in options)
    if origin is Literal:
        return lambda value: type(value) is str and value in arguments
    if origin is type:
        return lambda value: isinstance(value, type) and issubclass(value, arguments[0])
    if origin is not None:
        return _test_of_many(origin, arguments)
    return _test_of_one(annotation)


def _test_of_one(kind: type[Any]) -> Test:
    if kind is float:
        return lambda value: type(value) in (int, float) and math.isfinite(value)
    if kind in (int, str, bool, NoneType):
        return lambda value: type(value) is kind
    return lambda value: isinstance(value, kind)


def _test_of_many(origin: Any, arguments: tuple[Any, ...]) -> Test:
    parts = [_test(each) for each in arguments if each is not ...]
    if origin is tuple and ... not in arguments:

        def fits(value: Any) -> bool:
            return _is(value, tuple) and len(value) == len(parts) and all(map(_pass, parts, value))
    elif issubclass(origin, Mapping):

        def fits(value: Any) -> bool:
            return _is(value, dict) and all(map(parts[0], value)) and all(map(parts[1], value.values()))
    else:
        kinds: Sequence[Any] = _SEQUENCES if origin is Sequence else [origin]

        def fits(value: Any) -> bool:
            return type(value) in kinds and all(map(parts[0], value))

    return fits


def _is(value: object, kind: type[Any]) -> bool:
    return type(value) is kind


def _pass(test: Test, value: Any) -> bool:
    return test(value)


# --- the whole


def check_run(state: st.RunState, completed: Sequence[st.Complete], graph: Graph) -> None:
    """Refuse a state that the workflow cannot go on with.

    Raises:
        ContextSerdeError: it names a step that the workflow has not, or its parts do not fit together.
    """
    _check_steps(state, graph)
    _check_numbers(state)
    _check_executions(state, graph)
    _check_joins(state, graph)
    _check_streams(state)
    ended = [each.execution for each in completed]
    if len(ended) != len(set(ended)) or not set(ended) <= state.executions.keys():
        raise _unsound(f"executions {ended}, which had ended when it was saved, are not in it, or twice")


def _unsound(text: str) -> ContextSerdeError:
    return ContextSerdeError(f"the saved run is malformed: {text}")


def _check_steps(state: st.RunState, graph: Graph) -> None:
    live = {execution.step for execution in state.executions.values()}
    joining = {step for step, _ in (*state.buffers, *state.slots)}
    listing = {stream.producer for stream in state.streams.values()} | {step for s in state.streams.values() for step in s.members}
    gone = sorted((live | joining | listing) - graph.steps.keys())
    if gone:
        known = ", ".join(sorted(graph.steps))
        raise ContextSerdeError(f"the saved run has live steps that {graph.name} has not: {', '.join(gone)}; it has {known}")


def _check_numbers(state: st.RunState) -> None:
    if state.status not in ("new", "running", "suspended"):
        raise _unsound(f"its status is {state.status!r}, so there is nothing to go on with")
    keyed: list[tuple[str, Mapping[int, Any]]] = [
        ("execution", state.executions), ("wait", state.waits), ("stream", state.streams), ("returned event", state.returned),
    ]  # fmt: skip
    for name, found in keyed:
        for number, item in found.items():
            if item.id != number or not 0 < number <= state.seq:
                raise _unsound(f"{name} {number} has the number {item.id}, and the last of the run is {state.seq}")
    if any(envelope.id > state.seq for envelope in _envelopes(state)):
        raise _unsound(f"an event has a number above {state.seq}, the last of the run")
    if state.questions < 0 or any(wait.execution not in state.executions for wait in state.waits.values()):
        raise _unsound("its waits do not belong to what is live in it")


def _envelopes(state: st.RunState) -> Iterable[st.Envelope]:
    yield from state.pending()
    for execution in state.executions.values():
        yield from execution.inputs
    for buffer in state.buffers.values():
        for items in buffer.items.values():
            yield from items


def _check_executions(state: st.RunState, graph: Graph) -> None:
    for execution in state.executions.values():
        config = graph.steps[execution.step]
        count = len(execution.inputs)
        if count != 1 and config.collection_param is None and not config.is_multi_slot:
            raise _unsound(f"step `{execution.step}` takes one event, and has {count}")
        if config.is_multi_slot and count != len(graph.slots(execution.step) or ()):
            raise _unsound(f"step `{execution.step}` takes {len(graph.slots(execution.step) or ())} events, and has {count}")
        for envelope in execution.inputs:
            if not accepts(config, type(envelope.event)):
                raise _unsound(f"step `{execution.step}` ({config.place}) does not take {type(envelope.event).__name__}")
        for key, answer in (execution.memo or {}).items():
            if not _is_answer(key, answer):
                raise _unsound(f"{_short(answer)} is no answer to {key!r} of step `{execution.step}`")


def _is_answer(key: str, answer: object) -> bool:
    if key.startswith("wait"):
        return isinstance(answer, Event) or (answer is None and key.startswith("wait:"))
    if key.startswith("asked:"):
        return type(answer) is int
    if key.startswith("collect:"):
        return answer is None or (isinstance(answer, list) and all(isinstance(item, Event) for item in cast("list[object]", answer)))
    return True


def _check_joins(state: st.RunState, graph: Graph) -> None:
    for buffer in state.buffers.values():
        if buffer.size != sum(map(len, buffer.items.values())) or not buffer.expected:
            raise _unsound(f"a join says that it has {buffer.size} events")
        _check_classes(buffer.items)
    _check_classes(state.held)
    for (step, _), waiting in state.slots.items():
        kinds = graph.slots(step) or ()
        if len(kinds) != len(waiting) or not all(accepts(graph.steps[step], type(each.event)) for slot in waiting for each in slot):
            raise _unsound(f"step `{step}` ({graph.steps[step].place}) joins other events than those it has")


def _check_classes(boxes: Mapping[type[Event], deque[st.Envelope]]) -> None:
    for kind, box in boxes.items():
        if any(type(envelope.event) is not kind for envelope in box):
            raise _unsound(f"what is kept as {kind.__name__} is of another class")


def _check_streams(state: st.RunState) -> None:
    """A list is complete when nothing in it is live any more, so the count of what is must be right."""
    inside = [*(execution.scopes for execution in state.executions.values()), *(stream.outer for stream in state.streams.values())]
    inside += [envelope.scopes for envelope in state.returned.values()]
    for scopes in inside:
        if not set(scopes) <= state.streams.keys() or (scopes and state.streams[scopes[-1]].outer != scopes[:-1]):
            raise _unsound(f"something is live in the list {scopes}, which is not in it")
    live = Counter(scopes[-1] for scopes in inside if scopes)
    for number, stream in state.streams.items():
        if stream.live != live[number] or not stream.live:
            raise _unsound(f"list {number} says that {stream.live} are live in it, and {live[number]} are")
