"""tracedflow: event-driven workflows that show everything they did.

This module is the composition root: it names the public API and says which edges the engine uses by default. Their
modules are loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import distributions
from typing import TYPE_CHECKING, Any

from . import _factories
from ._config import configure
from ._live import accept_again, drain, runs
from ._settings import RunOptions
from .checkpointer import Checkpoint, WorkflowCheckpointer
from .collect import All, Collect, Take
from .context import Context, JsonPickleSerializer, JsonSerializer
from .decorators import catch_error, step
from .errors import (
    ContextSerdeError,
    ContextStateError,
    DrainingError,
    LimitError,
    QueueFullError,
    ResourceError,
    StepCancelledError,
    StepResultError,
    StepTimeoutError,
    StreamOffsetError,
    TracedflowError,
    UnserializableError,
    WorkflowCancelledByUser,
    WorkflowConfigurationError,
    WorkflowDone,
    WorkflowRuntimeError,
    WorkflowStalledError,
    WorkflowStartError,
    WorkflowStepDoesNotExistError,
    WorkflowTimeoutError,
    WorkflowValidationError,
)
from .events import Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent
from .handler import WorkflowHandler
from .limits import Limit
from .middleware import (
    AttemptCall,
    Chain,
    Middleware,
    Notice,
    Observer,
    RunCall,
    StepCall,
)
from .records import AttemptRecord, RunReport
from .workflow import Workflow

if TYPE_CHECKING:
    from .drawing import (
        draw_all_possible_flows,
        draw_all_possible_flows_mermaid,
        draw_all_possible_flows_svg,
        draw_most_recent_execution,
        draw_most_recent_execution_mermaid,
        draw_most_recent_execution_svg,
    )

__version__ = next((found.version for found in distributions(name="tracedflow")), "0.0.0")  # a source tree may not be installed


def _edge(module: str, name: str, *, call: bool = True) -> Any:
    def make() -> Any:
        found = getattr(import_module(f"tracedflow.{module}"), name)
        return found() if call else found

    return make


_factories.register("tracing", _edge("telemetry.tracing", "Tracing"))
_factories.register("metrics", _edge("telemetry.metrics", "Metrics"))
_factories.register("logs", _edge("telemetry.logs", "Logs"))
_factories.register("console", _edge("telemetry.console", "Console"))
_factories.register("explainer", _edge("inspect.why", "explain", call=False))
_factories.register("checkpoint store", _edge("checkpointer.sqlite", "SqliteCheckpoints", call=False))
_factories.register("drawer", _edge("drawing", "notebook_bundle", call=False))


if not TYPE_CHECKING:  # type checkers would take any name for one that is there

    def __getattr__(name: str) -> Any:
        if name.startswith("draw_") and name in __all__:
            return getattr(import_module("tracedflow.drawing"), name)
        raise AttributeError(f"module 'tracedflow' has no attribute {name!r}")


__all__ = [
    "All",
    "AttemptCall",
    "AttemptRecord",
    "Chain",
    "Checkpoint",
    "Collect",
    "Context",
    "ContextSerdeError",
    "ContextStateError",
    "DrainingError",
    "Event",
    "HumanResponseEvent",
    "InputRequiredEvent",
    "JsonPickleSerializer",
    "JsonSerializer",
    "Limit",
    "LimitError",
    "Middleware",
    "Notice",
    "Observer",
    "QueueFullError",
    "ResourceError",
    "RunCall",
    "RunOptions",
    "RunReport",
    "StartEvent",
    "StepCall",
    "StepCancelledError",
    "StepResultError",
    "StepTimeoutError",
    "StopEvent",
    "StreamOffsetError",
    "Take",
    "TracedflowError",
    "UnserializableError",
    "Workflow",
    "WorkflowCancelledByUser",
    "WorkflowCheckpointer",
    "WorkflowConfigurationError",
    "WorkflowDone",
    "WorkflowHandler",
    "WorkflowRuntimeError",
    "WorkflowStalledError",
    "WorkflowStartError",
    "WorkflowStepDoesNotExistError",
    "WorkflowTimeoutError",
    "WorkflowValidationError",
    "accept_again",
    "catch_error",
    "configure",
    "drain",
    "draw_all_possible_flows",
    "draw_all_possible_flows_mermaid",
    "draw_all_possible_flows_svg",
    "draw_most_recent_execution",
    "draw_most_recent_execution_mermaid",
    "draw_most_recent_execution_svg",
    "runs",
    "step",
]
