"""What the signature of a step says: its events, its Context, its resources, what it returns. Knows nothing of options."""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

from ._descriptors import Resource, ResourceConfig, wanted_by
from .collect import Collect
from .events import Event

if TYPE_CHECKING:
    from .decorators import StepConfig

_UNION_ORIGINS = (Union, types.UnionType)
_FRAMES_SEARCHED = 5  # a class body in a function in a test, with room for one decorator of the user's own


def names_around(depth: int) -> dict[str, Any]:
    """Return the local names of the callers, so that classes defined in a function can be annotated with."""
    names: dict[str, Any] = {}
    frame = sys._getframe(depth) if hasattr(sys, "_getframe") else None
    for _ in range(_FRAMES_SEARCHED):
        if frame is None:
            break
        if frame.f_locals is not frame.f_globals:
            names = {**frame.f_locals, **names}
        frame = frame.f_back
    return names


def read_signature(config: StepConfig, hints: Mapping[str, Any], names: Mapping[str, Any]) -> None:
    """Take from the parameters and the return annotation of a function what they say of its step.

    Raises:
        WorkflowValidationError: they are not those of a step.
    """
    for name, parameter in inspect.signature(config.fn).parameters.items():
        if isinstance(parameter.default, Resource | ResourceConfig):
            kind = type(parameter.default).__name__
            raise config.problem(f"has a {kind} as the default of `{name}`; annotate it `{name}: Annotated[T, {kind}(...)]`")
        if name in hints:
            _read_parameter(config, name, hints[name])
    for wanted in config.resources.values():
        if isinstance(wanted.resource, Resource):
            wanted.resource.read(names)
    _check_parameters(config, hints)
    if "return" not in hints:
        raise config.problem("needs a return annotation, such as `-> StopEvent` or `-> None`")
    config.return_types = _read_return(config, hints["return"])


def _read_parameter(config: StepConfig, name: str, hint: Any) -> None:
    wanted = wanted_by(name, hint)
    if wanted is not None:
        config.resources[name] = wanted
        return
    if get_origin(hint) is Annotated:
        base, *marks = get_args(hint)
        policy = next((mark for mark in marks if isinstance(mark, Collect)), None)
        if policy is None:
            return
        if get_origin(base) is not list:
            raise config.problem(
                f"marks `{name}` with Collect, which is for a list of events; annotate it `Annotated[list[...], Collect(...)]`"
            )
        config.collection_policy = policy
        hint = base
    _read_event_parameter(config, name, hint)


def _read_event_parameter(config: StepConfig, name: str, hint: Any) -> None:
    origin = get_origin(hint) or hint
    if getattr(origin, "__tracedflow_context__", False):
        config.context_parameter = name
        state = get_args(hint)
        config.context_state_type = state[0] if state and isinstance(state[0], type) else None
        return
    if origin is list and get_args(hint) and any(_is_event(member) for member in _members(get_args(hint)[0])):
        config.collection_param = name
        config.collection_policy = config.collection_policy or Collect()
        hint = get_args(hint)[0]
    accepted = [member for member in _members(hint) if _is_event(member)]
    if accepted:
        config.event_parameters[name] = accepted
        config.event_name = config.event_name or name
        config.accepted_events = [*config.accepted_events, *accepted]


def _check_parameters(config: StepConfig, hints: Mapping[str, Any]) -> None:
    """Several event parameters are a join with one slot each: then each is one class, and none is a list."""
    if not config.event_parameters:
        for name, hint in hints.items():
            if name not in ("return", config.context_parameter) and isinstance(hint, type) and hint.__module__ != "builtins":
                raise config.problem(f"takes `{name}: {hint.__name__}`, which is no event; let {hint.__name__} be a subclass of Event")
        raise config.problem("needs a parameter annotated with an event class, such as `ev: StartEvent`")
    if not config.is_multi_slot:
        return
    if config.collection_param is not None:
        raise config.problem(
            f"takes the list `{config.collection_param}` and also other events; take the list alone, and the rest from the store"
        )
    for name, kinds in config.event_parameters.items():
        if len(kinds) > 1:
            raise config.problem(
                f"joins {len(config.event_parameters)} event parameters, and `{name}` is a union; give each parameter one class"
            )
    if len(set(config.accepted_events)) < len(config.accepted_events):
        raise config.problem("joins two parameters of the same event class; use `list[...]` or ctx.collect_events for several of one class")


def _read_return(config: StepConfig, hint: Any) -> list[type[Any]]:
    returned: list[type[Any]] = []
    for member in _members(hint):
        if get_origin(member) is list:
            config.is_fan_out = True
            config.list_return_types.extend(_members(get_args(member)[0]))
            returned.extend(_members(get_args(member)[0]))
        elif member is not type(None):
            returned.append(member)
            config.bare_return_types.append(member)
    return returned


def _members(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in _UNION_ORIGINS else (hint,)


def _is_event(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Event)
