"""What one run takes from its workflow and its options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .limits import Limiter


@dataclass(slots=True, kw_only=True)
class RunSettings:
    """What a run takes from its workflow and its options. Times are seconds."""

    timeout: float | None
    on_stall: str
    max_queued: int | None
    keep_events: int | None
    keep_records: int | None
    cancel_grace: float
    stepwise: bool
    gate: Limiter | None  # num_concurrent_runs
