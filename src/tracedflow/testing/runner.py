"""`WorkflowTestRunner`: runs a workflow to its end and keeps everything that came over its stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic

from ..context import Context
from ..events import Event, StartEvent
from ..types import RunResultT
from ..workflow import Workflow


@dataclass(slots=True, kw_only=True)
class WorkflowTestResult(Generic[RunResultT]):
    """What a run gave: its stream, how often each exact event class was on it, its result, and its Context."""

    collected: list[Event]
    event_types: dict[type[Event], int]
    result: RunResultT
    ctx: Context


class WorkflowTestRunner(Generic[RunResultT]):
    """Runs one workflow, as often as asked.

    found = await WorkflowTestRunner(Shop()).run(StartEvent(count=2))
    """

    def __init__(self, workflow: Workflow[RunResultT]) -> None:
        self._workflow = workflow

    async def run(
        self,
        start_event: StartEvent | None = None,
        ctx: Context | None = None,
        expose_internal: bool = True,
        exclude_events: Sequence[type[Event]] | None = None,
    ) -> WorkflowTestResult[RunResultT]:
        """Run to the end, and raise what the run raises.

        Args:
            start_event: what to start with; None: the workflow's own start event, without fields.
            ctx: a Context to go on with.
            expose_internal: also collect what `stream_events(expose_internal=True)` shows.
            exclude_events: classes, exact, that are neither collected nor counted.
        """
        left_out = frozenset(exclude_events or ())
        handler = self._workflow.run(ctx, start_event)
        stream = handler.stream_events(expose_internal=expose_internal)
        collected = [event async for event in stream if type(event) not in left_out]
        result = await handler
        counts: dict[type[Event], int] = {}
        for event in collected:
            counts[type(event)] = counts.get(type(event), 0) + 1
        return WorkflowTestResult(collected=collected, event_types=counts, result=result, ctx=handler.ctx)
