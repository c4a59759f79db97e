"""The checkpoint callback of one run: awaited when a step execution has completed, before the run goes on past it.

Persistence is fail-closed and called from here, never by a layer: if it fails, the run does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from .. import clock
from ..context import Context
from ..errors import ContextSerdeError, WorkflowRuntimeError
from ..events import Event
from ..middleware import StepResult
from ._results import events_of

if TYPE_CHECKING:
    from ..checkpointer import Checkpoint
    from ..context import BaseSerializer
    from ..workflow import Workflow
    from ._scope import StepScope

CheckpointCallback: TypeAlias = Callable[[str, str, Any, Any, Context[Any]], Awaitable[None]]
"""`callback(run_id, last_completed_step, input_ev, output_ev, ctx)`.

`input_ev` is the event that the step took, a list if it takes several; `output_ev` is what it returned. `ctx.to_dict()`
saves the run as it is right after that step: with what the step returned, and with every other step that is live.
What other steps returned whose callback is still at work is in it too, so that going on from it repeats none of them.
"""


async def checkpointed(scope: StepScope, result: StepResult) -> bool:
    """Call the callback of the run for a step execution that completed; False: it failed, and so did the run."""
    runner = scope.runner
    callback = runner.settings.checkpoint
    assert callback is not None
    call = scope.call
    completed = scope.completion(events_of(result), stream=isinstance(result, list), at=runner.now())
    completed.held_back = False  # a run that goes on from the checkpoint gets the events at once
    runner.saving[call.execution] = completed
    try:
        await callback(runner.run_id, call.step, _taken(call.inputs, takes_one=scope.step.takes_one), result, Context._of_run(scope))
    except BaseException as error:  # noqa: BLE001 - it is the run's end
        _fail(scope, error)
        return False
    finally:
        del runner.saving[call.execution]  # from now on it counts
    return True


def _taken(inputs: tuple[Event, ...], *, takes_one: bool) -> Event | list[Event]:
    return inputs[0] if takes_one else list(inputs)


def _fail(scope: StepScope, error: BaseException) -> None:
    runner, call = scope.runner, scope.call
    if runner.is_over or call.cancel_reason is not None or scope.task.cancelling():
        runner.step_failed(scope, error)
        return
    if isinstance(error, asyncio.CancelledError):
        cause = error
        error = WorkflowRuntimeError("the checkpoint callback raised CancelledError, but nobody cancelled it")
        error.__cause__ = cause
    error.add_note(
        f"in the checkpoint callback after step `{call.step}` of {call.workflow}, run {call.run_id}: "
        "the step had completed, but the run does not go on past a step that was not saved"
    )
    trace = error.__traceback__
    runner.unsaved(scope, error.with_traceback(trace.tb_next if trace is not None and trace.tb_next is not None else trace))


def forked(workflow: Workflow[Any], checkpoint: Checkpoint, serializer: BaseSerializer | None) -> Context[Any]:
    """Return the Context of a run of its own, which goes on after the step that a checkpoint was made of.

    Raises:
        ContextSerdeError: the checkpoint is malformed, does not fit the workflow, or has no live run in it.
    """
    context = Context[Any].from_dict(workflow, checkpoint.ctx_state, serializer)
    if context._saved is None:
        raise ContextSerdeError(f"checkpoint {checkpoint.id_} has no live run in it; save it with the ctx that the callback is given")
    context._saved.run_id, context._saved.segment = clock.active.get().new_id(), 0
    return context
