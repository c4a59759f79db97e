"""Arguments of a workflow, checked where they are given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from .decorators import GRAPH_CHECKS, wrong_check
from .errors import WorkflowValidationError


def check_seconds(name: str, value: float | None) -> float | None:
    """Refuse what is not seconds."""
    if value is not None and (isinstance(value, bool) or not isinstance(cast("object", value), (int, float))):
        raise WorkflowValidationError(f"{name}={value!r} must be seconds, or None for no limit")
    return value


def check_count(name: str, value: int | None) -> int | None:
    """Refuse what is not a count."""
    if value is not None and (isinstance(value, bool) or not isinstance(cast("object", value), int) or value < 1):
        raise WorkflowValidationError(f"{name}={value!r} must be an integer greater than 0, or None")
    return value


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
