"""What tracing keeps of one live run: its span, those of its steps and waits, and the errors that were said already."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING

from opentelemetry.trace import Span, Tracer

from ...errors import StepTimeoutError
from ...outcomes import error_type
from .. import attributes, names
from ._contexts import cause_links
from ._endings import fail
from ._siblings import step_spans

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from ...middleware import EventDropped, Notice, RetryScheduled, RunCall, StepCall, WaitEnded, WaitStarted
    from ..attributes import Attributes
    from ..capture import Level

_SECRETS_KEPT = 1_000  # events and answers whose strings a text about the run is searched for
_FAILURES_KEPT = 16  # errors remembered in a run, to say each only once; a @catch_error step may see thousands


class LiveTrace:
    """The open spans of one run, or of one segment of it."""

    __slots__ = (
        "_failed", "_fatal_waits", "_late_waits", "attempts", "base", "capture", "context", "identity", "known_steps", "marker",
        "recording", "shows_payloads", "span", "step_spans", "steps", "trace_id", "tracer", "waits",
    )  # fmt: skip

    def __init__(self, tracer: Tracer, span: Span, context: Context, base: Attributes, capture: Level) -> None:
        self.tracer = tracer
        self.span = span
        self.context = context  # the explicit parent of its steps
        kept = getattr(span, "attributes", None) or base
        self.base: Attributes = {name: kept[name] for name in base if name in kept}  # what every span has, as the SDK has taken it
        self.capture = capture
        self.recording = span.is_recording()
        self.identity = span.get_span_context()
        self.trace_id = f"{self.identity.trace_id:032x}"
        self.known_steps: dict[str, tuple[str, Attributes]] = {}  # name -> that of its spans, and what all of them have
        self.step_spans = step_spans(span, tracer, context)
        self.shows_payloads = capture in ("summary", "full")
        self.steps: dict[int, Span] = {}
        self.attempts: dict[int, Span] = {}  # by the execution that they are of
        self.waits: dict[int, Span] = {}
        self.marker: asyncio.TimerHandle | None = None
        self._late_waits: dict[int, list[tuple[Span, int]]] = {}  # execution -> waits that timed out, and when
        self._fatal_waits: list[tuple[Span, int, BaseException]] = []  # those whose timeout failed their step
        self._failed: deque[tuple[BaseException, tuple[object, ...]]] = deque(maxlen=_FAILURES_KEPT)

    def know_step(self, call: StepCall) -> tuple[str, Attributes]:
        """Make what the spans of a step have in common."""
        known = names.STEP_SPAN.format(step=call.step), attributes.of_every_execution(self.base, call)
        self.known_steps[call.config.name] = known
        return known

    # --- errors ---

    def has_recorded(self, error: BaseException) -> bool:
        """Return whether a span further inside has told of this error."""
        return any(known is error for known, _ in self._failed)

    def remember(self, error: BaseException, secrets: tuple[object, ...]) -> None:
        """Keep an error that was told of, with what its texts may repeat."""
        if not self.has_recorded(error):
            self._failed.append((error, secrets))

    def secrets(self, call: RunCall) -> tuple[object, ...]:
        """Return what a text about the run may repeat: its own start event, and what its failed steps were given."""
        found: dict[int, object] = {id(call.start_event): call.start_event}
        found.update({id(secret): secret for _, known in self._failed for secret in known})
        return tuple(found.values())[:_SECRETS_KEPT]

    def abandon(self) -> None:
        """End the spans of steps that do not stop, with the run: what they do later belongs to nothing."""
        for span in (*self.attempts.values(), *self.steps.values()):
            span.set_attribute(names.OUTCOME, "cancelled")
            span.end()
        self.attempts.clear()
        self.steps.clear()

    # --- instants ---

    def span_of(self, notice: Notice) -> Span:
        """Return the span that an instant belongs to: its step's, else the run's."""
        found = None if notice.call is None else self.steps.get(notice.call.execution)
        return found if found is not None else self.span

    def retry_scheduled(self, notice: RetryScheduled) -> None:
        """Say that an attempt will be tried again."""
        facts: Attributes = {names.RETRY_DELAY: notice.delay, names.STEP_ATTEMPT: notice.attempt}
        facts[names.ERROR_TYPE] = error_type(notice.error)
        self.span_of(notice).add_event(names.RETRY_SCHEDULED, facts)

    def event_dropped(self, notice: EventDropped) -> None:
        """Say that nobody took an event."""
        if notice.final:
            facts: Mapping[str, str] = {
                names.EVENT_TYPE: notice.event_type,
                names.EVENT_ID: str(notice.event_id),
                names.DROP_REASON: notice.reason,
            }
            self.span_of(notice).add_event(names.EVENT_DROPPED, facts)

    # --- waits ---

    def wait_started(self, notice: WaitStarted) -> None:
        """Open the span of a wait."""
        if not self.recording:
            return
        facts: Attributes = {**self.base, names.WAIT_EVENT_TYPE: notice.event_type}
        if notice.call is not None:
            facts[names.STEP_NAME] = notice.call.step
        name = names.WAIT_SPAN.format(event_type=notice.event_type)
        self.waits[notice.wait_id] = self.tracer.start_span(name, context=self.context, attributes=facts)

    def wait_ended(self, notice: WaitEnded) -> None:
        """End the span of a wait. One that timed out stays until its step ends: only then it is known what came of it."""
        span = self.waits.pop(notice.wait_id, None)
        if span is None:
            return
        span.set_attribute(names.OUTCOME, notice.outcome)
        if notice.cause is not None:
            for link in cause_links((notice.cause,), names.RESUMED_BY):
                span.add_link(link.context, link.attributes)
        if notice.outcome == "timeout" and notice.call is not None:
            self._late_waits.setdefault(notice.call.execution, []).append((span, time.time_ns()))
        else:
            span.end()

    @property
    def has_late_waits(self) -> bool:
        """Whether a wait has timed out in a step that is live."""
        return bool(self._late_waits)

    def settle_waits(self, call: StepCall, error: BaseException | None) -> None:
        """End the waits that timed out in a step which has ended; the last stays if its timeout failed the step."""
        late = self._late_waits.pop(call.execution, [])
        if late and isinstance(error, TimeoutError) and not isinstance(error, StepTimeoutError):
            self._fatal_waits.append((*late.pop(), error))
        for span, at in late:
            span.end(at)

    def end_waits(self, error: BaseException | None, secrets: tuple[object, ...]) -> None:
        """End every wait, with the run; the one whose timeout was the run's error is one."""
        for span in self.waits.values():
            span.end()
        for span, at in [each for late in self._late_waits.values() for each in late]:
            span.end(at)
        for span, at, cause in self._fatal_waits:
            if cause is error:
                fail(span, "timeout", cause, secrets, record=False)
            span.end(at)
        self.waits.clear()
        self._late_waits.clear()
        self._fatal_waits.clear()
