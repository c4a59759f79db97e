"""Checkpoints: what a run was right after each of its steps, to start runs from. Knows no database: a store is given to it."""

from __future__ import annotations

import json
import logging
import threading
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from .. import _factories
from .._engine._checkpoint import CheckpointCallback
from ..context import BaseSerializer, Context
from ..errors import ContextSerdeError, WorkflowStepDoesNotExistError
from ..events import Event

if TYPE_CHECKING:
    from ..handler import WorkflowHandler
    from ..workflow import Workflow

__all__ = ["Checkpoint", "CheckpointCallback", "CheckpointStore", "StoredCheckpoint", "WorkflowCheckpointer"]

_log = logging.getLogger("tracedflow")


@dataclass(slots=True, kw_only=True)
class Checkpoint:
    """What a run was right after one of its steps.

    `input_event` is what the step took: an event, or a list if it takes several. `output_event` is what it returned: an
    event, a list of them, or None. `ctx_state` is what `Context.from_dict` takes; it has the other steps in it that
    were live.
    """

    id_: str = field(default_factory=lambda: str(uuid.uuid4()))
    last_completed_step: str | None
    input_event: Event | list[Event] | None
    output_event: Event | list[Event] | None
    ctx_state: dict[str, Any]


@dataclass(slots=True, kw_only=True)
class StoredCheckpoint:
    """A checkpoint as text, as a store keeps it."""

    id: str
    workflow: str
    run_id: str
    step: str
    input_event: str
    output_event: str
    ctx_state: str


class CheckpointStore(Protocol):
    """Where checkpoints outlive the process."""

    async def add(self, checkpoint: StoredCheckpoint, /) -> None:
        """Keep a checkpoint; when this returns, it is safe."""
        ...

    def after(self, workflow: str, number: int, /) -> Iterable[tuple[int, StoredCheckpoint]]:
        """Return the checkpoints of a workflow with numbers above `number`, in the order they were added."""
        ...


class WorkflowCheckpointer:
    """Takes a checkpoint of each run after each of its steps, and starts runs from them.

    A run started with `run` goes on past a step only when its checkpoint is kept; if that fails, the run fails.

    Args:
        workflow: whose runs they are.
        checkpoint_serializer: how values become text; by default as for `ctx.to_dict()`.
        disabled_steps: steps after which none is taken.
        store: None keeps them in memory, all of them; a path keeps them in a SQLite file, which other processes may use too.

    Raises:
        WorkflowStepDoesNotExistError: `disabled_steps` names a step that the workflow has not.
    """

    def __init__(
        self,
        workflow: Workflow[Any],
        checkpoint_serializer: BaseSerializer | None = None,
        disabled_steps: Sequence[str] = (),
        store: CheckpointStore | str | Path | None = None,
    ) -> None:
        self.workflow = workflow
        self.enabled_checkpoints: set[str] = set(workflow._checked_graph().steps)
        self._serializer = checkpoint_serializer
        self._store: CheckpointStore | None = _opened(store) if isinstance(store, (str, Path)) else store
        self._checkpoints: dict[str, list[Checkpoint]] = {}
        self._seen = 0
        self._lock = threading.Lock()
        for step in disabled_steps:
            self.disable_checkpoint(step)

    @property
    def checkpoints(self) -> dict[str, list[Checkpoint]]:
        """The checkpoints of each run, by its id, in the order they were taken; those of other processes too."""
        if self._store is not None:
            with self._lock:
                for number, stored in self._store.after(self.workflow.workflow_name, self._seen):
                    self._seen = number
                    self._take_in(stored)
        return self._checkpoints

    def _take_in(self, stored: StoredCheckpoint) -> None:
        try:
            checkpoint = self._loaded(stored)
        except ContextSerdeError as error:  # of an older version of the workflow: the others are still good
            _log.warning("checkpoint %s of run %s was left out: %s", stored.id, stored.run_id, error)
        else:
            self._checkpoints.setdefault(stored.run_id, []).append(checkpoint)

    # --- running ---

    def run(self, **kwargs: Any) -> WorkflowHandler[Any]:
        """Start a run of the workflow, with checkpoints; the keywords are those of `Workflow.run`."""
        return self.workflow.run(checkpoint_callback=self.new_checkpoint_callback_for_run(), **kwargs)

    def run_from(self, checkpoint: Checkpoint, **kwargs: Any) -> WorkflowHandler[Any]:
        """Start a run, with an id and checkpoints of its own, that goes on after the step that a checkpoint was made of."""
        callback = self.new_checkpoint_callback_for_run()
        return self.workflow.run_from(checkpoint, self._serializer, callback, **kwargs)

    def new_checkpoint_callback_for_run(self) -> CheckpointCallback:
        """Return what `Workflow.run(checkpoint_callback=)` takes, to have the checkpoints of that run here."""

        async def keep(run_id: str, last_completed_step: str, input_ev: Any, output_ev: Any, ctx: Context[Any]) -> None:
            if last_completed_step in self.enabled_checkpoints:
                await self._keep(run_id, last_completed_step, input_ev, output_ev, ctx.to_dict(self._serializer))

        return keep

    async def _keep(self, run_id: str, step: str, input_ev: Any, output_ev: Any, state: dict[str, Any]) -> None:
        checkpoint = Checkpoint(last_completed_step=step, input_event=input_ev, output_event=output_ev, ctx_state=state)
        if self._store is None:
            self._checkpoints.setdefault(run_id, []).append(checkpoint)
        else:
            await self._store.add(self._stored(run_id, step, checkpoint))

    # --- as text ---

    def _stored(self, run_id: str, step: str, checkpoint: Checkpoint) -> StoredCheckpoint:
        save = self.workflow._serializer(self._serializer).serialize_at
        return StoredCheckpoint(
            id=checkpoint.id_,
            workflow=self.workflow.workflow_name,
            run_id=run_id,
            step=step,
            input_event=save(checkpoint.input_event, "input_event"),
            output_event=save(checkpoint.output_event, "output_event"),
            ctx_state=json.dumps(checkpoint.ctx_state),
        )

    def _loaded(self, stored: StoredCheckpoint) -> Checkpoint:
        load = self.workflow._serializer(self._serializer).deserialize_at
        try:
            state = json.loads(stored.ctx_state)
        except ValueError as error:
            raise ContextSerdeError(f"its state is not JSON: {error}") from error
        return Checkpoint(
            id_=stored.id,
            last_completed_step=stored.step,
            input_event=load(stored.input_event, "input_event"),
            output_event=load(stored.output_event, "output_event"),
            ctx_state=state,
        )

    # --- which ---

    def filter_checkpoints(
        self,
        run_id: str | None = None,
        last_completed_step: str | None = None,
        input_event_type: type[Event] | None = None,
        output_event_type: type[Event] | None = None,
    ) -> list[Checkpoint]:
        """Return the checkpoints that fit everything that is given. Of a list of events, one of the class is enough.

        Raises:
            ValueError: nothing is given, or there is no run of that id.
        """
        if run_id is None and last_completed_step is None and input_event_type is None and output_event_type is None:
            raise ValueError("filter_checkpoints() needs a run_id, a last_completed_step, an input_event_type or an output_event_type")
        runs = self.checkpoints
        if run_id is not None and run_id not in runs:
            raise ValueError(f"run {run_id!r} has no checkpoints here")
        return [
            checkpoint
            for each in ([run_id] if run_id is not None else list(runs))
            for checkpoint in runs[each]
            if (last_completed_step is None or checkpoint.last_completed_step == last_completed_step)
            and _holds(checkpoint.input_event, input_event_type)
            and _holds(checkpoint.output_event, output_event_type)
        ]

    def enable_checkpoint(self, step: str) -> None:
        """Take checkpoints after this step.

        Raises:
            WorkflowStepDoesNotExistError: the workflow has no such step.
        """
        self.enabled_checkpoints.add(self._known(step))

    def disable_checkpoint(self, step: str) -> None:
        """Take no checkpoints after this step.

        Raises:
            WorkflowStepDoesNotExistError: the workflow has no such step.
        """
        self.enabled_checkpoints.discard(self._known(step))

    def _known(self, step: str) -> str:
        steps = self.workflow._checked_graph().steps
        if step not in steps:
            raise WorkflowStepDoesNotExistError(f"{self.workflow.workflow_name} has no step `{step}`; it has {', '.join(sorted(steps))}")
        return step


def _opened(path: str | Path) -> CheckpointStore:
    make: Callable[[str | Path], CheckpointStore] = _factories.made("checkpoint store")
    return make(path)


def _holds(found: Event | list[Event] | None, kind: type[Event] | None) -> bool:
    if kind is None:
        return True
    events = found if isinstance(found, list) else [found]
    return any(type(event) is kind for event in events)
