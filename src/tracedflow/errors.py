"""Every error that tracedflow raises, and nothing else.

```
TracedflowError
├── WorkflowValidationError            the workflow is declared wrongly
│   ├── WorkflowConfigurationError     its constructor was given something wrong, or it has no way in or out
│   └── ResourceError                  a resource cannot be had as it is declared            (also a ValueError)
├── WorkflowRuntimeError               a run, or a call made to it, went wrong
│   ├── WorkflowStartError             a run cannot start here, or under this id          (also a RuntimeError)
│   ├── StepTimeoutError               an attempt exceeded @step(timeout=)      (also a TimeoutError)
│   ├── StepCancelledError             a step raised CancelledError that nobody had asked for
│   ├── StepResultError                a step returned what it may not, or a middleware put such a result there
│   ├── QueueFullError                 more events are queued than Workflow(max_queued=) allows
│   ├── LimitError                     a permit that can never be granted
│   ├── StreamOffsetError              events asked for are no longer kept
│   ├── WorkflowStepDoesNotExistError  a step name that the workflow does not have
│   └── DrainingError                  the process takes no new runs
├── WorkflowTimeoutError               the run exceeded its timeout
│   └── WorkflowStalledError           the run can never finish, and says why
├── WorkflowCancelledByUser            the run was cancelled
├── WorkflowDone                       the run is over
├── ContextStateError                  a Context was used where it cannot be
└── ContextSerdeError                  a Context could not be saved or loaded
    └── UnserializableError            a value cannot be saved                            (also a ValueError)
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .records import RunReport


class TracedflowError(Exception):
    """Base of every error raised by tracedflow itself; errors of your steps keep their own type."""


class WorkflowValidationError(TracedflowError):
    """The workflow is declared wrongly; the message lists every problem with its place and remedy."""


class WorkflowConfigurationError(WorkflowValidationError):
    """The workflow has no usable start or stop event, or its constructor was given a wrong value."""


class ResourceError(WorkflowValidationError, ValueError):
    """A resource cannot be had as it is declared: its configuration is wrong, or its factories need each other in a circle."""


class WorkflowRuntimeError(TracedflowError):
    """A run, or a call made to a run, went wrong."""


class WorkflowStartError(WorkflowRuntimeError, RuntimeError):
    """A run cannot start: no event loop runs, or a live run has the same id."""


class StepTimeoutError(WorkflowRuntimeError, TimeoutError):
    """An attempt took longer than its `@step(timeout=)`; retry policies may retry it."""


class StepCancelledError(WorkflowRuntimeError):
    """A step raised `CancelledError` although nobody had cancelled it; the original is its `__cause__`."""


class StepResultError(WorkflowRuntimeError):
    """A step returned something else than an event, a declared list of events or None; never retried."""


class QueueFullError(WorkflowRuntimeError):
    """More events are queued than `Workflow(max_queued=)` allows."""


class LimitError(WorkflowRuntimeError):
    """A permit was asked for that can never be granted, because its holder waits for the asker."""


class StreamOffsetError(WorkflowRuntimeError):
    """The stream was asked for events that it no longer keeps."""


class DrainingError(WorkflowRuntimeError):
    """The process is draining and takes no new runs."""


class WorkflowTimeoutError(TracedflowError):
    """The run exceeded its timeout. `report` is the answer of `handler.why()` at that moment."""

    def __init__(self, message: str, report: RunReport | None = None) -> None:
        super().__init__(message)
        self.report = report


class WorkflowStalledError(WorkflowTimeoutError):
    """The run can never finish. `report` names what is missing and who could produce it.

    It is a `WorkflowTimeoutError`, so that programs which caught the hang still do.
    """


class WorkflowCancelledByUser(TracedflowError):  # noqa: N818 - the name is part of the public API
    """The run was cancelled, by `handler.cancel_run()`, a drain, or the run that started it."""


class WorkflowDone(TracedflowError):  # noqa: N818 - the name is part of the public API
    """The run is over; nothing can be sent to it or asked of it any more."""


class WorkflowStepDoesNotExistError(WorkflowRuntimeError):
    """A step was named that the workflow does not have; the message lists those it has."""


class ContextStateError(TracedflowError):
    """A Context was used where it cannot be: before its run, after its run, or in the wrong thread."""


class ContextSerdeError(TracedflowError):
    """A Context could not be saved or loaded; the message names the failing key by its path."""


class UnserializableError(ContextSerdeError, ValueError):
    """A value cannot be saved by the serializer; the message says what to do with it."""
