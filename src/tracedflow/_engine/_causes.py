"""Where events came from, without the events."""

from __future__ import annotations

from ..middleware import Cause
from . import _state as st


def causes_of(inputs: tuple[st.Envelope, ...]) -> tuple[Cause, ...]:
    """Return where each came from."""
    return tuple([cause_of(envelope) for envelope in inputs])


def cause_of(envelope: st.Envelope) -> Cause:
    """Return where an event came from."""
    return Cause(
        event_id=envelope.id,
        event_type=envelope.type_name,
        step=envelope.source_step,
        execution=envelope.source,
        span_context=envelope.span_context,
        headers=envelope.headers,
    )
