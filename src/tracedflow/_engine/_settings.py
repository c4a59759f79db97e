"""What one run takes from its workflow and its options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .._checks import check_seconds

if TYPE_CHECKING:
    from ..limits import Limiter
    from ._checkpoint import CheckpointCallback


FROM_STEP: Any = object()
"""What an option has that was left out."""


@dataclass(slots=True, kw_only=True)
class RunOptions:
    """What one run may have of its own.

    Args:
        timeout: seconds for this run, in place of the workflow's; None: no limit. Left out: the workflow's.
        tags: go on every span, record and log line of the run.
        conversation_id: goes on the run's span as `gen_ai.conversation.id`.
        parent: None detaches a run that is started inside a step: it is neither cancelled nor traced with it.
        pause_timeout: the run's clock stands still while all it does is wait for an event: for a person, mostly.
        bubble: what a nested run writes to its stream comes to that of the run which started it, too.
        headers: W3C trace context of the caller, as an HTTP request brings it.
    """

    timeout: float | None = FROM_STEP
    tags: Mapping[str, str] = field(default_factory=dict[str, str])
    conversation_id: str | None = None
    parent: None = FROM_STEP
    pause_timeout: bool = False
    bubble: bool = False
    headers: Mapping[str, str] | None = None


@dataclass(slots=True, kw_only=True, frozen=True)
class RunSettings:
    """What a run takes from its workflow and its options. Times are seconds."""

    timeout: float | None
    on_stall: str
    max_queued: int | None
    keep_events: int | None
    keep_records: int | None
    cancel_grace: float
    gate: Limiter | None  # num_concurrent_runs
    stepwise: bool = False
    checkpoint: CheckpointCallback | None = None
    pause_timeout: bool = False
    bubble: bool = False

    def of_run(self, options: RunOptions, checkpoint: CheckpointCallback | None, *, stepwise: bool) -> RunSettings:
        """Return what one run takes: these, where its options say nothing else."""
        own_time = options.timeout is not FROM_STEP
        if not (own_time or stepwise or checkpoint or options.pause_timeout or options.bubble):
            return self
        return replace(
            self,
            timeout=check_seconds("timeout", options.timeout) if own_time else self.timeout,
            stepwise=stepwise,
            checkpoint=checkpoint,
            pause_timeout=options.pause_timeout,
            bubble=options.bubble,
        )
