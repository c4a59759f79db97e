"""What tracedflow shows of itself: traces, metrics, log fields and the console, all of them observers.

Importing this package imports none of their libraries; each loads on first use of its class.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .console import Console
    from .logs import LogCorrelation, Logs
    from .metrics import Metrics
    from .tracing import Tracing

__all__ = ["Console", "LogCorrelation", "Logs", "Metrics", "Tracing"]

_HOMES = {"Console": "console", "LogCorrelation": "logs", "Logs": "logs", "Metrics": "metrics", "Tracing": "tracing"}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{home}", __name__), name)
