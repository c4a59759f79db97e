"""Span contexts: where a run's trace begins, what its spans link to, and how their identity travels in headers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opentelemetry import baggage, propagate, trace
from opentelemetry import context as otel_context
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.trace import Link, SpanContext
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from .. import names

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from ...middleware import Cause, RunCall

LONG_RUN = 60.0  # seconds of timeout from which on a run gets an anchor, as it would be invisible until it ends
ONE_TRACE = 3600.0  # seconds between two segments from which on the later one is a trace of its own
_SEGMENT = "tracedflow-segment"  # the key in the carrier for the last segment's own span; no header on any wire
_ROOT = otel_context.Context()
_FLAGS = [f"{flags:02x}" for flags in range(256)]


@dataclass(slots=True)
class Origin:
    """What the span of a run hangs under, and what it links to."""

    parent: Context
    links: list[Link]


def origin_of(call: RunCall) -> Origin:
    """Return where a run, or one segment of it, begins."""
    if isinstance(call.spawned_by, SpanContext):
        return Origin(_ROOT, _links(call.spawned_by, names.SPAWNED_BY))
    current = otel_context.get_current()
    if call.headers:
        current = propagate.extract(call.headers, context=current)
    if not call.resumed:
        return Origin(current, [])
    if not call.carrier:  # saved without tracing: the caller's headers are all there is
        return Origin(current, _links(span_context(current), names.RESUMED_FROM) if call.headers else [])
    return _resumption(call, current)


def _resumption(call: RunCall, current: Context) -> Origin:
    """Return where a later segment begins: in the trace of the first, unless that is long over or the run is a fork."""
    before = remote_context({"traceparent": call.carrier.get(_SEGMENT, ""), **_state(call.carrier)})
    links = _links(before, names.RESUMED_FROM) + _links(span_context(current), names.RESUMED_BY)
    if call.segment == 1:
        return Origin(current, [link for link in links if link.context == before])
    if call.left_at is not None and call.started_at - call.left_at > ONE_TRACE:
        return Origin(_ROOT, links)
    stored = remote_context(call.carrier)
    return Origin(trace.set_span_in_context(trace.NonRecordingSpan(stored), current), links)


def leave_carrier(call: RunCall, parent: SpanContext, span: SpanContext, *, anchored: bool) -> None:
    """Leave on the call what a later segment needs, also in another process: a parent for its span, and this segment's own."""
    kept = call.segment > 1 and parent.is_valid
    hook = parent if anchored or kept else span
    call.carrier = {"traceparent": traceparent(hook), _SEGMENT: traceparent(span)}
    if span.trace_state:
        call.carrier["tracestate"] = span.trace_state.to_header()


def needs_anchor(call: RunCall, parent: Context) -> bool:
    """Return whether a run would be invisible for long: it has no parent, and may take more than a minute."""
    if span_context(parent).is_valid:
        return False
    return call.timeout is None or call.timeout > LONG_RUN or call.can_wait


def span_context(context: Context | None = None) -> SpanContext:
    """Return the identity of the current span of a context."""
    return trace.get_current_span(context).get_span_context()


def caller_context() -> SpanContext | None:
    """Return the identity of the span that the calling code runs in, if there is one: who sends an event from outside."""
    found = span_context()
    return found if found.is_valid else None


def remote_context(headers: Mapping[str, str]) -> SpanContext:
    """Return the identity that came in headers."""
    return span_context(propagate.extract(headers, context=_ROOT))


def traceparent(context: SpanContext) -> str:
    """Return an identity in the W3C form."""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def inject(context: SpanContext, headers: MutableMapping[str, str], trace_id: str, span_id: str, current: Context) -> None:
    """Put the identity of a span into headers, in the formats that the process has chosen; `current` is what holds its baggage.

    The W3C one, which is the default, by hand: `propagate.inject` costs ten times as much.
    """
    if not _is_default(propagate.get_global_textmap()) or (len(current) > 1 and baggage.get_all(current)):  # one: a span
        propagate.inject(headers, context=trace.set_span_in_context(trace.NonRecordingSpan(context), current))
        return
    headers["traceparent"] = f"00-{trace_id}-{span_id}-{_FLAGS[context.trace_flags]}"
    if context.trace_state:
        headers["tracestate"] = context.trace_state.to_header()


_judged: tuple[object, bool] = (None, False)


def _is_default(propagator: object) -> bool:
    global _judged
    known, answer = _judged
    if known is not propagator:
        parts: tuple[object, ...] = (propagator,)
        if isinstance(propagator, CompositePropagator):
            parts = tuple(getattr(propagator, "_propagators", ()))
        kinds: set[type] = {type(part) for part in parts}
        answer = TraceContextTextMapPropagator in kinds and kinds <= {TraceContextTextMapPropagator, W3CBaggagePropagator}
        _judged = (propagator, answer)
    return answer


def _state(carrier: Mapping[str, str]) -> dict[str, str]:
    return {"tracestate": carrier["tracestate"]} if "tracestate" in carrier else {}


def cause_link(context: SpanContext, kind: str, event_type: str) -> Link:
    """Return a link to what sent an event."""
    return Link(context, {names.LINK_TYPE: kind, names.EVENT_TYPE: event_type})


def cause_links(
    causes: Sequence[Cause], kind: str, *, besides: SpanContext | None = None, link: Callable[[SpanContext, str, str], Link] = cause_link
) -> list[Link]:
    """Return links to what sent the events, `besides` left out: a start event comes from the run span, the parent."""
    links: list[Link] = []
    for cause in causes[: names.MAX_LINKS]:
        context = cause.span_context
        if context is None and cause.headers:  # it came through a queue, a journal or another process
            context = remote_context(cause.headers)
        if isinstance(context, SpanContext) and context.is_valid and context != besides:
            links.append(link(context, kind, cause.event_type))
    return links


def _links(context: SpanContext, kind: str) -> list[Link]:
    return [Link(context, {names.LINK_TYPE: kind})] if context.is_valid else []
