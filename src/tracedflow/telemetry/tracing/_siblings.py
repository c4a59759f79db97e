"""The spans of steps: made after the pattern of their run's span where that is sound, else by the SDK.

The SDK checks every attribute of every span and asks its sampler again, also where the run's span has settled both: our names
are valid, and the child of a sampled span is sampled. To copy the run's span takes a third of that. The SDK is not imported:
its spans are known by the fields that they have, and a span with others is not copied.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Hashable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, cast

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.trace import Link, Span, SpanContext, Tracer

from .. import names
from ._contexts import cause_link

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from ..attributes import Attributes

_OF_SPAN = {
    "_attributes", "_context", "_end_time", "_events", "_instrumentation_info", "_instrumentation_scope", "_kind", "_limits", "_links",
    "_lock", "_name", "_parent", "_record_end_metrics", "_record_exception", "_resource", "_sampler", "_set_status_on_exception",
    "_span_processor", "_start_time", "_status", "_trace_config",
}  # fmt: skip
_OF_ATTRIBUTES = {"_dict", "_immutable", "_lock", "dropped", "max_value_len", "maxlen"}
_ROOM = 64  # attributes; with less, the SDK must choose which ones go
_SDK = "opentelemetry.sdk."


class StepSpans(Protocol):
    """Makes the spans of one run's steps."""

    def link(self, context: SpanContext, kind: str, event_type: str) -> Link:
        """Return a link to what sent an event."""
        ...

    def make(self, name: str, facts: Attributes, links: Sequence[Link]) -> Span:
        """Return a span that begins now, a child of the run's; `facts` are given away."""
        ...

    def add(self, span: Span, facts: Attributes) -> None:
        """Add attributes to a span that was made here and has not ended."""
        ...


def step_spans(run: Span, tracer: Tracer, parent: Context) -> StepSpans:
    """Return what makes the spans of a run's steps; `parent` is the context with the run's span."""
    return Copies(run, tracer, parent) if _can_be_copied(run, tracer) else Anew(tracer, parent)


class Anew:
    """Has the SDK make each span."""

    __slots__ = ("_parent", "_tracer")

    def __init__(self, tracer: Tracer, parent: Context) -> None:
        self._tracer = tracer
        self._parent = parent

    def link(self, context: SpanContext, kind: str, event_type: str) -> Link:
        """Return a link to what sent an event."""
        return cause_link(context, kind, event_type)

    def make(self, name: str, facts: Attributes, links: Sequence[Link]) -> Span:
        """Return a span that begins now."""
        return self._tracer.start_span(name, self._parent, attributes=facts, links=links)

    def add(self, span: Span, facts: Attributes) -> None:
        """Add attributes, one by one: for the two of most steps `set_attributes` costs twice as much."""
        for key, value in facts.items():
            span.set_attribute(key, value)


class Copies:
    """Makes spans like the run's, with their own identity, time, attributes and links. Values are those the SDK would keep: no lists."""

    __slots__ = (
        "_fields", "_identity", "_kind", "_linked", "_lists", "_most_attributes", "_most_events", "_most_links", "_new_id", "_parent",
        "_processor",
    )  # fmt: skip

    def __init__(self, run: Span, tracer: Tracer, parent: Context) -> None:
        fields: dict[str, Any] = vars(run)
        limits = fields["_limits"]
        self._kind = type(run)
        self._fields = {**fields, "_parent": fields["_context"]}
        self._most_attributes: int | None = fields["_attributes"].maxlen
        self._identity: SpanContext = fields["_context"]
        self._lists = _late(cast("Hashable", type(fields["_links"])))
        self._most_events, self._most_links = limits.max_events, limits.max_links
        self._processor = fields["_span_processor"]
        self._new_id = cast("Any", tracer).id_generator.generate_span_id
        self._parent = parent
        self._linked: dict[tuple[str, str], BoundedAttributes] = {}

    def link(self, context: SpanContext, kind: str, event_type: str) -> Link:
        """Return a link to what sent an event; those of one kind and type share their attributes, which nobody can change."""
        facts = self._linked.get((kind, event_type))
        if facts is None:
            facts = self._linked[kind, event_type] = BoundedAttributes(attributes={names.LINK_TYPE: kind, names.EVENT_TYPE: event_type})
        return Link(context, facts)

    def make(self, name: str, facts: Attributes, links: Sequence[Link]) -> Span:
        """Return a span that begins now."""
        run, lock = self._identity, threading.Lock()  # none of its parts calls another
        attributes: Any = object.__new__(BoundedAttributes)
        attributes._dict, attributes._lock, attributes._immutable, attributes.dropped = facts, lock, False, 0
        attributes.maxlen, attributes.max_value_len = self._most_attributes, None
        span: Any = object.__new__(self._kind)
        span.__dict__ = {
            **self._fields,
            "_name": name,
            "_context": SpanContext(run.trace_id, self._new_id(), False, run.trace_flags, run.trace_state),
            "_attributes": attributes,
            "_events": self._lists((), self._most_events, lock),
            "_links": self._lists(links, self._most_links, lock),
            "_lock": threading.Lock(),
            "_start_time": time.time_ns(),
        }
        self._processor.on_start(span, parent_context=self._parent)
        return cast("Span", span)

    def add(self, span: Span, facts: Attributes) -> None:
        """Add attributes."""
        vars(span)["_attributes"]._dict.update(facts)


@cache
def _late(lists: Any) -> Any:
    """Return the SDK's class of lists with room made at the first addition: few spans have events, and hardly one gets a link later."""

    class Late(lists):  # type: ignore[misc]
        _dq: Any
        _lock: Any
        _most: int | None

        def __init__(self, known: Sequence[object], most: int | None, lock: Any) -> None:
            self.dropped = 0
            self._dq = known
            self._lock = lock
            self._most = most

        def append(self, item: object) -> None:
            self._make_room()
            lists.append(self, item)

        def extend(self, seq: Sequence[object]) -> None:
            self._make_room()
            lists.extend(self, seq)

        def _make_room(self) -> None:
            with self._lock:
                if not isinstance(self._dq, deque):
                    self._dq = deque(self._dq, self._most)

        def __repr__(self) -> str:
            return repr(list(self._dq))

    return Late


def _can_be_copied(run: Span, tracer: Tracer) -> bool:
    """Whether the span has the fields that are known here, and the SDK would sample and keep a child of it as it is."""
    fields = cast("dict[str, Any]", getattr(run, "__dict__", {}))
    if not _is_of_sdk(run) or fields.keys() != _OF_SPAN or not hasattr(tracer, "id_generator"):
        return False
    bounded, limits, sampler = fields["_attributes"], fields["_limits"], fields["_sampler"]
    if cast("dict[str, Any]", vars(bounded)).keys() != _OF_ATTRIBUTES:
        return False
    if bounded.max_value_len is not None or limits.max_attribute_length is not None:
        return False
    limited = ((bounded.maxlen, _ROOM), (limits.max_links, names.MAX_LINKS), (limits.max_link_attributes, 2))
    if any(most is not None and most < needed for most, needed in limited):
        return False
    if getattr(fields["_record_end_metrics"], "__name__", "") != "noop":  # the SDK counts its spans
        return False
    return run.get_span_context().trace_flags.sampled and _is_of_sdk(sampler) and _samples_below(sampler.get_description())


def _is_of_sdk(found: object) -> bool:
    return type(found).__module__.startswith(_SDK)


def _samples_below(sampler: str) -> bool:
    """Whether the sampler of this description samples every child of a sampled span in the same process."""
    return sampler == "AlwaysOnSampler" or "localParentSampled:AlwaysOnSampler" in sampler
