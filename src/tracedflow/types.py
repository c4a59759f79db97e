"""Type variables of the public API."""

from __future__ import annotations

from typing import Any

from typing_extensions import TypeVar

from .events import StopEvent

StopEventT = TypeVar("StopEventT", bound=StopEvent)
"""A stop event class."""

RunResultT = TypeVar("RunResultT", default=Any)
"""What awaiting a run gives: the `StopEvent` subclass of the workflow, or the `result` of a plain one."""
