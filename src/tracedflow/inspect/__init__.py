"""Analyses over records: why a run hangs, where its time went. They read records and reports, never the engine."""

from .signals import on_signal, tell
from .sockets import ask

__all__ = ["ask", "on_signal", "tell"]
