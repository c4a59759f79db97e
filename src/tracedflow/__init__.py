"""tracedflow: event-driven workflows that show everything they did.

This module is the composition root: it names the public API and says which edges the engine uses by default. Their
modules, and those of the API, are loaded on first use: what a program does not name costs it nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import _factories

if TYPE_CHECKING:
    from ._config import configure
    from ._engine._live import accept_again, drain, runs
    from ._engine._settings import RunOptions
    from .checkpointer import Checkpoint, WorkflowCheckpointer
    from .collect import All, Collect, Take
    from .context import Context, JsonPickleSerializer, JsonSerializer
    from .decorators import catch_error, step
    from .drawing import (
        draw_all_possible_flows,
        draw_all_possible_flows_mermaid,
        draw_all_possible_flows_svg,
        draw_most_recent_execution,
        draw_most_recent_execution_mermaid,
        draw_most_recent_execution_svg,
    )
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
    from .middleware import AttemptCall, Chain, Middleware, Notice, Observer, RunCall, StepCall
    from .records import AttemptRecord, RunReport
    from .workflow import Workflow

    __version__: str

# Where the names live; a name ending in `Error` is one of `errors`, one that begins with `draw_` one of `drawing`.
_HOMES = {
    "_config": "configure",
    "_engine._live": "accept_again drain runs",
    "_engine._settings": "RunOptions",
    "checkpointer": "Checkpoint WorkflowCheckpointer",
    "collect": "All Collect Take",
    "context": "Context JsonPickleSerializer JsonSerializer",
    "decorators": "catch_error step",
    "errors": "WorkflowCancelledByUser WorkflowDone",
    "events": "Event HumanResponseEvent InputRequiredEvent StartEvent StopEvent",
    "handler": "WorkflowHandler",
    "limits": "Limit",
    "middleware": "AttemptCall Chain Middleware Notice Observer RunCall StepCall",
    "records": "AttemptRecord RunReport",
    "workflow": "Workflow",
}


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
        """Load what is asked for: a name of the API, or a module of the package."""
        if name == "__version__":
            found = _installed_version()
        elif name in __all__:
            found = getattr(import_module(f"tracedflow.{_home_of(name)}"), name)
        else:
            return _module(name)
        globals()[name] = found  # asked once
        return found


def _home_of(name: str) -> str:
    if name.startswith("draw_"):
        return "drawing"
    return next((home for home, names in _HOMES.items() if name in names.split()), "errors")


def _module(name: str) -> Any:
    module = f"tracedflow.{name}"
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise AttributeError(f"module 'tracedflow' has no attribute {name!r}") from None


def _installed_version() -> str:
    from importlib.metadata import distributions  # slow: 10 ms

    return next((found.version for found in distributions(name="tracedflow")), "0.0.0")  # a source tree may not be installed


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


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
