"""Analyses over records: why a run hangs, where its time went. They read records and reports, never the engine."""

from .signals import on_signal, tell

__all__ = ["on_signal", "tell"]
