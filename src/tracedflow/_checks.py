"""Arguments of a workflow and its runs, checked where they are given."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast

from pydantic import ValidationError

from .decorators import GRAPH_CHECKS, StepFunction, config_of, wrong_check
from .errors import WorkflowRuntimeError, WorkflowValidationError
from .events import StartEvent

ValueT = TypeVar("ValueT")


def check_seconds(name: str, value: float | None) -> float | None:
    """Refuse what is not seconds."""
    if value is not None and not _is_seconds(value):
        raise WorkflowValidationError(f"{name}={value!r} must be seconds, or None for no limit")
    return value


def check_grace(name: str, value: float) -> float:
    """Refuse what is not seconds from 0 on."""
    if not _is_seconds(value) or value < 0:
        raise WorkflowValidationError(f"{name}={value!r} must be seconds, 0 or more")
    return value


def _is_seconds(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)


def check_count(name: str, value: int | None) -> int | None:
    """Refuse what is not a count."""
    if value is not None and (isinstance(value, bool) or not isinstance(cast("object", value), int) or value < 1):
        raise WorkflowValidationError(f"{name}={value!r} must be an integer greater than 0, or None")
    return value


def check_name(name: str, value: str | None) -> str | None:
    """Refuse what is not a name."""
    if value is not None and (not isinstance(cast("object", value), str) or not value):
        raise WorkflowValidationError(f"{name}={value!r} must be a string that is not empty, or None")
    return value


def check_argument(name: str, value: ValueT, kind: type[Any]) -> ValueT:
    """Refuse what is neither None nor an instance of a class."""
    if value is not None and not isinstance(value, kind):
        instead = f"; write {value.__name__}()" if isinstance(value, type) and issubclass(value, kind) else ""
        raise WorkflowValidationError(f"{name}={value!r} must be a {kind.__name__}, or None{instead}")
    return value


def check_callable(name: str, value: object) -> None:
    """Refuse what is neither None nor can be called."""
    if value is not None and not callable(value):
        raise WorkflowValidationError(f"{name}={value!r} must be a function, or None")


def check_all(name: str, values: Iterable[ValueT]) -> tuple[ValueT, ...]:
    """Refuse what is not a sequence."""
    if not isinstance(cast("object", values), Iterable):
        raise WorkflowValidationError(f"{name}={values!r} must be a list; write {name}=[...]")
    return tuple(values)


def check_one_of(name: str, value: str, known: Sequence[str]) -> str:
    """Refuse what is not one of the known words."""
    if value not in known:
        raise WorkflowValidationError(f"{name}={value!r} must be one of {', '.join(map(repr, known))}")
    return value


def check_skipped(names: Sequence[str] | None) -> tuple[str, ...]:
    """Refuse names of checks that do not exist."""
    if (wrong := wrong_check(names)) is not None:
        raise WorkflowValidationError(f"skip_graph_checks={wrong!r} must be a list of {', '.join(map(repr, GRAPH_CHECKS))}")
    return tuple(names or ())


def checked_step(func: StepFunction, existing: Mapping[str, StepFunction], owner: str) -> str:
    """Return the name of a step that is attached to `owner`, beside those that it has."""
    config = config_of(func)
    name = getattr(func, "__name__", repr(func))
    if config is None:
        raise WorkflowValidationError(f"`{name}` is not a step of {owner}: decorate it with @step first")
    if name in existing:
        other = config_of(existing[name])
        place = other.place if other else "elsewhere"
        raise WorkflowValidationError(f"{owner} has a step `{name}` already ({place}); `{name}` at {config.place} needs another name")
    return name


def checked_start_event(given: StartEvent | None, kind: type[StartEvent], fields: Mapping[str, Any], workflow: str) -> StartEvent:
    """Return what a run starts with: what its caller gave, or an event made of the keywords of the call."""
    if given is not None:
        if not isinstance(cast("object", given), StartEvent):
            raise ValueError(f"start_event must be a StartEvent, not {given!r} of type {type(given).__name__}")
        if fields:
            text = f"run() got a start_event and also the fields {', '.join(fields)}, which are ignored; put them into the event"
            warnings.warn(text, UserWarning, stacklevel=4)
        return given
    try:
        return kind(**fields)
    except (ValidationError, TypeError) as error:
        names = ", ".join(sorted(fields)) or "nothing"
        text = f"run() of {workflow} could not make its start event {kind.__name__} from {names}: {error}"
        raise WorkflowRuntimeError(text) from error
