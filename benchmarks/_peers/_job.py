"""What one peer does for one contest."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """`work` handles `items` events or runs; it takes seconds where `is_long`, and is measured in fewer rounds."""

    items: int
    work: Callable[[], Awaitable[None]]
    is_long: bool = False
