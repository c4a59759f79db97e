"""The types of what a run's state is made of, as a saved run is held to them. A compiled class has lost those that it was written with."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from typing import Any

from ..events import Event
from . import _state as st

_KIND = type[Event]
_SCOPES = tuple[int, ...]

FORM: Mapping[type[Any], Mapping[str, Any]] = {
    st.Envelope: {
        "id": int, "event": Event, "at": float, "source": int | None, "source_step": str | None, "headers": Mapping[str, str] | None,
        "span_context": object | None, "taken": bool, "collected": bool, "scopes": _SCOPES, "recoveries": tuple[str, ...],
    },
    st.Execution: {
        "id": int, "step": str, "inputs": tuple[st.Envelope, ...], "ready_at": float, "scopes": _SCOPES, "phase": st.Phase,
        "holds_slot": bool, "failures": int, "last_error": Exception | None, "last_failed_at": float | None,
        "first_started_at": float | None, "retry_at": float | None, "memo": dict[str, Any] | None, "sends": int, "replayed": int,
        "resuming": int,
    },
    st.Wait: {
        "id": int, "execution": int, "key": str, "event_type": _KIND, "subclasses": bool, "waiter_id": str | None,
        "requirements": dict[str, Any], "opened_at": float, "deadline": float | None,
    },
    st.Lane: {"slots": int, "in_use": int, "resuming": deque[st.Resuming] | tuple[()], "ready": deque[int] | tuple[()]},
    st.Buffer: {
        "expected": Sequence[_KIND], "items": dict[_KIND, deque[st.Envelope]], "size": int,
        "counted": tuple[tuple[_KIND, ...], dict[_KIND, int]] | None,
    },
    st.Stream: {
        "id": int, "producer": str, "outer": _SCOPES, "live": int, "members": dict[str, list[st.Envelope]], "fired": set[str],
    },
    st.Tally: dict.fromkeys(("sent", "consumed", "collected", "streamed", "dropped"), int),
    st.Drop: {
        "id": int, "event_type": _KIND, "reason": str, "source": int | None, "source_step": str | None, "near_miss": str | None,
    },
    st.RunState: {
        "run_id": str, "lanes": dict[str, st.Lane], "status": st.Status, "seq": int, "executions": dict[int, st.Execution],
        "waits": dict[int, st.Wait], "waits_by": dict[object, dict[int, st.Wait]], "backoffs": dict[int, int],
        "buffers": dict[tuple[str, str], st.Buffer], "streams": dict[int, st.Stream],
        "slots": dict[tuple[str, _SCOPES], list[deque[st.Envelope]]], "held": dict[_KIND, deque[st.Envelope]],
        "returned": dict[int, st.Envelope], "awaited_types": tuple[_KIND, ...], "tallies": defaultdict[_KIND, st.Tally],
        "drops": deque[st.Drop] | tuple[()], "silent": dict[str, int], "queued": int, "questions": int,
    },
}  # fmt: skip
"""By class, what each field must be."""
