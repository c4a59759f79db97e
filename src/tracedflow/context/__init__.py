"""What a step, or the caller of a run, sees of it: the Context, its store, and the serializers."""

from __future__ import annotations

from ._context import Context, current_scope
from .serializers import BaseSerializer, JsonPickleSerializer, JsonSerializer, PickleSerializer

__all__ = [
    "BaseSerializer",
    "Context",
    "JsonPickleSerializer",
    "JsonSerializer",
    "PickleSerializer",
    "current_scope",
]
