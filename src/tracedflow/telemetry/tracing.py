"""Traces: one span per run, step execution and, where a step retries, attempt; what caused what is in links.

Uses the OpenTelemetry API only, and never sets a provider. Knows nothing of metrics, logs or the console.
"""

from __future__ import annotations

from collections import deque
from contextvars import Token
from importlib import metadata
from typing import TYPE_CHECKING, cast

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.propagate import extract
from opentelemetry.trace import Link, Span, SpanContext, Status, StatusCode, Tracer, TracerProvider

from ..errors import WorkflowStalledError
from ..middleware import EventDropped, Notice, Observer, RetryScheduled, WaitEnded, WaitStarted
from ..outcomes import FAILURES, error_type, outcome_of_run, outcome_of_step
from . import attributes, names
from .redaction import captures_text, describe, mask, stack_trace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.context import Context

    from ..events import Event, StopEvent
    from ..middleware import AttemptCall, AttemptNext, Cause, RunCall, RunNext, StepCall, StepNext, StepResult
    from ..records import Outcome
    from .attributes import Attributes

_LONG_RUN = 60.0  # seconds of timeout from which on a run gets an anchor, as it would be invisible until it ends
_FAILURES_KEPT = 16  # errors remembered in a run, to say each only once; a @catch_error step may see thousands


class _RunTrace:
    """What tracing keeps of one live run."""

    __slots__ = ("base", "context", "failed", "recording", "span", "steps", "waits")

    def __init__(self, span: Span, context: Context, base: Attributes) -> None:
        self.span = span
        self.context = context  # the explicit parent of its steps
        self.base = base  # attributes of every span
        self.recording = span.is_recording()
        self.steps: dict[int, Span] = {}
        self.waits: dict[int, Span] = {}
        self.failed: deque[tuple[BaseException, tuple[Event, ...]]] = deque(maxlen=_FAILURES_KEPT)

    def has_recorded(self, error: BaseException) -> bool:
        return any(known is error for known, _ in self.failed)

    def secrets(self, run: RunCall) -> tuple[Event, ...]:
        """Return the events whose values a text about the run may repeat."""
        return (run.start_event, *(event for _, inputs in self.failed for event in inputs))


class Tracing(Observer):
    """Makes spans of runs, step executions, attempts and waits.

    Step spans are children of the run span; an event's path through the steps is in links. Without an SDK it only
    passes on the identity of the caller's span.

    Args:
        tracer_provider: where spans go; the global provider, also one that is set later, if None.
    """

    attempts_of = "retried"
    hears = (EventDropped, RetryScheduled, WaitStarted, WaitEnded)

    def __init__(self, tracer_provider: TracerProvider | None = None) -> None:
        self._provider = tracer_provider
        self._tracer: Tracer | None = None
        self._runs: dict[str, _RunTrace] = {}
        self._listeners: dict[type[Notice], Callable[[_RunTrace, Notice], None]] = {
            RetryScheduled: _retry_scheduled,
            EventDropped: _event_dropped,
            WaitStarted: self._wait_started,
            WaitEnded: _wait_ended,
        }

    async def run(self, call: RunCall, call_next: RunNext, /) -> StopEvent | None:
        """Wrap a run, or one segment of it, in its span."""
        if self._idle():
            return await _pass_on(call, call_next)
        state = self._start_run(call)
        self._runs[call.run_id] = state
        token = otel_context.attach(state.context)
        try:
            result = await call_next(call)
        except GeneratorExit:  # closed from elsewhere: in another context there is nothing to detach
            self._leave(call, state)
            raise
        except BaseException as error:
            self._end_run(call, state, None, error)
            otel_context.detach(token)
            raise
        self._end_run(call, state, result, None)
        otel_context.detach(token)
        return result

    async def step(self, call: StepCall, call_next: StepNext, /) -> StepResult:
        """Wrap a step execution in its span, a child of the run's."""
        state = self._runs.get(call.run_id)
        if state is None:
            _inherit(call)
            return await call_next(call)
        span = self._start_step(call, state)
        token = _enter(span)
        try:
            result = await call_next(call)
        except GeneratorExit:
            span.end()
            raise
        except BaseException as error:
            _end_step(call, state, span, None, error)
            otel_context.detach(token)
            raise
        _end_step(call, state, span, result, None)
        otel_context.detach(token)
        return result

    async def attempt(self, call: AttemptCall, call_next: AttemptNext, /) -> StepResult:
        """Wrap a try in its span, if its step retries."""
        state = self._runs.get(call.step.run_id)
        if state is None or call.step.config.retry_policy is None:
            call.trace_id, call.span_id = call.step.trace_id, call.step.span_id
            return await call_next(call)
        span = self._start_attempt(call, state)
        token = _enter(span)
        try:
            result = await call_next(call)
        except GeneratorExit:
            span.end()
            raise
        except BaseException as error:
            _end_attempt(call, state, span, None, error)
            otel_context.detach(token)
            raise
        _end_attempt(call, state, span, result, None)
        otel_context.detach(token)
        return result

    def on(self, notice: Notice, /) -> None:
        """Turn the notices of interest into span events and wait spans."""
        listener = self._listeners.get(type(notice))
        if listener is not None and (state := self._runs.get(notice.run.run_id)) is not None:
            listener(state, notice)

    def _idle(self) -> bool:
        """Return whether spans would go nowhere: no provider was given and none is set, so none is made."""
        return self._provider is None and isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)

    def _get_tracer(self) -> Tracer:
        if self._tracer is None:
            self._tracer = trace.get_tracer(names.SCOPE, _version(), self._provider, names.SCHEMA_URL)
        return self._tracer

    def _start_run(self, call: RunCall) -> _RunTrace:
        parent, links = _origin(call)
        base = attributes.of_every_span(call)
        if _needs_anchor(call, parent):
            parent = self._anchor(call, parent, base)
        span = self._get_tracer().start_span(
            names.RUN_SPAN.format(workflow=call.workflow), context=parent, attributes={**base, **attributes.of_run(call)}, links=links
        )
        _identify(call, span.get_span_context())
        return _RunTrace(span, trace.set_span_in_context(span, parent), base)

    def _anchor(self, call: RunCall, parent: Context, base: Attributes) -> Context:
        """Make the zero-length root that shows a long run in a backend while its own span is still open."""
        span = self._get_tracer().start_span(
            names.ANCHOR_SPAN.format(workflow=call.workflow), context=parent, attributes={**base, names.RUN_STATE: "running"}
        )
        span.end()
        return trace.set_span_in_context(span, parent)

    def _end_run(self, call: RunCall, state: _RunTrace, result: StopEvent | None, error: BaseException | None) -> None:
        self._leave(call, state, ended=False)
        try:
            if state.span.is_recording():
                _describe_run(call, state, result, error)
        finally:
            state.span.end()

    def _leave(self, call: RunCall, state: _RunTrace, *, ended: bool = True) -> None:
        if self._runs.get(call.run_id) is state:
            del self._runs[call.run_id]
        for span in state.waits.values():
            span.end()
        if ended:
            state.span.end()

    def _start_step(self, call: StepCall, state: _RunTrace) -> Span:
        start = self._get_tracer().start_span
        name = names.STEP_SPAN.format(step=call.step)
        if state.recording:
            kind = names.COLLECTED if len(call.causes) > 1 else names.TRIGGERED_BY
            links = _cause_links(call.causes, kind, besides=state.span.get_span_context())
            span = start(name, context=state.context, attributes=attributes.of_step(state.base, call), links=links)
        else:  # hardly a sampler will want it: no more than what every span must have
            span = start(name, context=state.context, attributes=state.base)
        _identify(call, span.get_span_context())
        if state.recording:
            state.steps[call.execution] = span
            _send_context(call, cast("SpanContext", call.span_context))
        return span

    def _start_attempt(self, call: AttemptCall, state: _RunTrace) -> Span:
        facts: Attributes = {**state.base, names.STEP_NAME: call.step.step, names.STEP_ATTEMPT: call.attempt}
        span = self._get_tracer().start_span(
            names.ATTEMPT_SPAN.format(step=call.step.step), context=_parent_of_attempt(call, state), attributes=facts
        )
        context = span.get_span_context()
        if context.is_valid:
            call.trace_id, call.span_id = trace.format_trace_id(context.trace_id), trace.format_span_id(context.span_id)
        return span

    def _wait_started(self, state: _RunTrace, notice: Notice) -> None:
        assert isinstance(notice, WaitStarted)
        if not state.recording:
            return
        facts: Attributes = {**state.base, names.WAIT_EVENT_TYPE: notice.event_type}
        if notice.call is not None:
            facts[names.STEP_NAME] = notice.call.step
        name = names.WAIT_SPAN.format(event_type=notice.event_type)
        state.waits[notice.wait_id] = self._get_tracer().start_span(name, context=state.context, attributes=facts)


def _version() -> str | None:
    try:
        return metadata.version("tracedflow")
    except metadata.PackageNotFoundError:
        return None


def _identify(call: RunCall | StepCall, context: SpanContext) -> None:
    """Leave the span's identity on the call, also when it is not sampled: the next hop must know."""
    if context.is_valid:
        call.span_context = context
        call.trace_id = trace.format_trace_id(context.trace_id)
        call.span_id = trace.format_span_id(context.span_id)


async def _pass_on(call: RunCall, call_next: RunNext) -> StopEvent | None:
    """Run without spans of our own, inside the caller's trace."""
    context, _ = _origin(call)
    _identify(call, trace.get_current_span(context).get_span_context())
    if not call.headers:
        return await call_next(call)
    token = otel_context.attach(context)
    try:
        return await call_next(call)
    finally:
        otel_context.detach(token)


def _inherit(call: StepCall) -> None:
    call.span_context, call.trace_id, call.span_id = call.run.span_context, call.run.trace_id, call.run.span_id


def _enter(span: Span) -> Token[Context]:
    """Make `span` current for the user's code, on top of what the run's layers put into the context."""
    return otel_context.attach(trace.set_span_in_context(span))


def _origin(call: RunCall) -> tuple[Context, list[Link]]:
    """Return the context that the run continues, and the links to what it does not continue."""
    if call.spawned_by is not None:
        return otel_context.Context(), _links([call.spawned_by], names.SPAWNED_BY)
    current = otel_context.get_current()
    if not call.headers:
        return current, []
    sent = extract(call.headers, context=current)
    origin = trace.get_current_span(sent).get_span_context()
    return sent, _links([origin], names.RESUMED_FROM) if call.resumed else []


def _needs_anchor(call: RunCall, parent: Context) -> bool:
    if trace.get_current_span(parent).get_span_context().is_valid:
        return False
    return call.timeout is None or call.timeout > _LONG_RUN or call.can_wait


def _send_context(call: StepCall, context: SpanContext) -> None:
    """Put the W3C headers on what the step sends. By hand: `inject` costs ten times as much, and is not needed for one format."""
    call.outgoing["traceparent"] = f"00-{call.trace_id}-{call.span_id}-{context.trace_flags:02x}"
    if context.trace_state:
        call.outgoing["tracestate"] = context.trace_state.to_header()


def _cause_context(cause: Cause) -> object:
    if cause.span_context is None and cause.headers:  # it came through a queue, a journal or another process
        return trace.get_current_span(extract(cause.headers, context=otel_context.Context())).get_span_context()
    return cause.span_context


def _cause_links(causes: Sequence[Cause], kind: str, *, besides: SpanContext | None = None) -> list[Link]:
    """Return links to what sent the events, `besides` left out: a start event comes from the run span, the parent."""
    return [
        Link(context, {names.LINK_TYPE: kind, names.EVENT_TYPE: cause.event_type})
        for cause in causes[: names.MAX_LINKS]
        if isinstance(context := _cause_context(cause), SpanContext) and context.is_valid and context != besides
    ]


def _links(contexts: Sequence[object], kind: str) -> list[Link]:
    return [Link(context, {names.LINK_TYPE: kind}) for context in contexts if isinstance(context, SpanContext) and context.is_valid]


def _parent_of_attempt(call: AttemptCall, state: _RunTrace) -> Context:
    """Return the step's span as parent: by the identity on the call, as a layer between may have set another current span."""
    context = call.step.span_context
    return trace.set_span_in_context(trace.NonRecordingSpan(context), state.context) if isinstance(context, SpanContext) else state.context


def _describe_run(call: RunCall, state: _RunTrace, result: StopEvent | None, error: BaseException | None) -> None:
    span, outcome = state.span, outcome_of_run(result, error)
    span.set_attribute(names.OUTCOME, outcome)
    if outcome == "suspended":
        span.set_attribute(names.RUN_STATE, "suspended")
    elif outcome == "cancelled":
        span.add_event(names.CANCEL_REQUESTED, {names.CANCEL_REASON: "cancelled"})
    if error is not None:
        secrets = state.secrets(call)
        _stalled(span, error, secrets)
        _fail(span, outcome, error, secrets, record=not state.has_recorded(error))


def _end_step(call: StepCall, state: _RunTrace, span: Span, result: StepResult, error: BaseException | None) -> None:
    state.steps.pop(call.execution, None)
    try:
        if span.is_recording():
            outcome = outcome_of_step(call, result, error)
            span.set_attributes({**attributes.of_ended_step(call, result), names.OUTCOME: outcome})
            _link_collected(call, span)
            if error is not None:
                _cancelled(span, call, outcome)
                _fail_step(span, outcome, error, call, state)
    finally:
        span.end()


def _end_attempt(call: AttemptCall, state: _RunTrace, span: Span, result: StepResult, error: BaseException | None) -> None:
    try:
        if span.is_recording():
            outcome = outcome_of_step(call.step, result, error)
            span.set_attribute(names.OUTCOME, outcome)
            if error is not None:
                _fail_step(span, outcome, error, call.step, state)
    finally:
        span.end()


def _fail_step(span: Span, outcome: Outcome, error: BaseException, call: StepCall, state: _RunTrace) -> None:
    if outcome not in FAILURES:
        return
    _fail(span, outcome, error, (*call.inputs, call.run.start_event), record=not state.has_recorded(error))
    if not state.has_recorded(error):
        state.failed.append((error, call.inputs))


def _fail(span: Span, outcome: Outcome, error: BaseException, secrets: Sequence[Event], *, record: bool) -> None:
    """Set the error status, and record the exception if no span further inside has done it."""
    if outcome not in FAILURES:
        return
    span.set_attribute(names.ERROR_TYPE, error_type(error))
    description = describe(error, secrets)
    span.set_status(Status(StatusCode.ERROR, description))
    if record:
        facts = {names.EXCEPTION_TYPE: error_type(error), names.EXCEPTION_STACKTRACE: stack_trace(error, secrets)}
        if captures_text():
            facts[names.EXCEPTION_MESSAGE] = description
        span.add_event(names.EXCEPTION, facts)


def _link_collected(call: StepCall, span: Span) -> None:
    """Link what a completed `collect_events` is made of: known only now, so not at creation."""
    if not call.collected:
        return
    for link in _cause_links(call.collected, names.COLLECTED):
        span.add_link(link.context, link.attributes)
    if len(call.collected) > names.MAX_LINKS:
        span.set_attribute(names.LINKS_DROPPED, len(call.collected) - names.MAX_LINKS)


def _cancelled(span: Span, call: StepCall, outcome: Outcome) -> None:
    if outcome == "cancelled":
        span.add_event(names.CANCEL_REQUESTED, {names.CANCEL_REASON: call.cancel_reason or "cancelled"})


def _stalled(span: Span, error: BaseException, secrets: Sequence[Event]) -> None:
    if isinstance(error, WorkflowStalledError):
        span.add_event(names.STALLED, {names.STALL_REPORT: mask(str(error), secrets)})


def _span_of(state: _RunTrace, notice: Notice) -> Span:
    found = None if notice.call is None else state.steps.get(notice.call.execution)
    return found if found is not None else state.span


def _retry_scheduled(state: _RunTrace, notice: Notice) -> None:
    assert isinstance(notice, RetryScheduled)
    facts: Attributes = {names.RETRY_DELAY: notice.delay, names.STEP_ATTEMPT: notice.attempt}
    facts[names.ERROR_TYPE] = error_type(notice.error)
    _span_of(state, notice).add_event(names.RETRY_SCHEDULED, facts)


def _event_dropped(state: _RunTrace, notice: Notice) -> None:
    assert isinstance(notice, EventDropped)
    if notice.final:
        facts = {names.EVENT_TYPE: notice.event_type, names.EVENT_ID: str(notice.event_id), names.DROP_REASON: notice.reason}
        _span_of(state, notice).add_event(names.EVENT_DROPPED, facts)


def _wait_ended(state: _RunTrace, notice: Notice) -> None:
    assert isinstance(notice, WaitEnded)
    span = state.waits.pop(notice.wait_id, None)
    if span is None:
        return
    span.set_attribute(names.OUTCOME, notice.outcome)
    if notice.cause is not None:
        for link in _cause_links((notice.cause,), names.RESUMED_BY):
            span.add_link(link.context, link.attributes)
    span.end()
