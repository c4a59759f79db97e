"""Traces: one span per run, step execution and, where a step retries, attempt; what caused what is in links.

Uses the OpenTelemetry API only, and never sets a provider. Knows nothing of metrics, logs or the console.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from importlib import metadata
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import NoOpTracer, Span, SpanContext, Tracer, TracerProvider

from ..._record_log import RecordLog
from ...middleware import EventDropped, Notice, Observer, RetryScheduled, WaitEnded, WaitStarted
from ...outcomes import FAILURES, outcome_of_run, outcome_of_step
from ...records import AttemptRecord
from .. import attributes, names
from ..capture import captured, level
from ..redaction import given_to, remember
from ._contexts import caller_context, cause_links, inject, leave_carrier, needs_anchor, origin_of, span_context
from ._endings import cancelled, fail, stalled
from ._live_trace import LiveTrace

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from ..._record_log import Listener
    from ...events import StopEvent
    from ...middleware import AttemptCall, AttemptNext, RunCall, RunNext, StepCall, StepNext, StepResult
    from ...records import Outcome
    from ..attributes import Attributes

_log = logging.getLogger("tracedflow.telemetry")

MARKER_AFTER = 10.0  # seconds: a collector that samples by whole traces decides after 30, and must have seen the run by then
COMPAT_VARIABLE = "TRACEDFLOW_COMPAT"

provider_in_use: TracerProvider | None = None
"""Set from outside: where the layers that name no provider send their spans; the global provider, if None."""

on_record: Callable[[AttemptRecord], None] | None = None
"""Set from outside: is given the record of each attempt of a traced run, as it is written. A trace file wants them."""


class Tracing(Observer):
    """Makes spans of runs, step executions, attempts and waits.

    Step spans are children of the run span; an event's path through the steps is in links. Without an SDK it only
    passes on the identity of the caller's span.

    Args:
        tracer_provider: where spans go; if None, to what `setup()` started last, or the global provider, also one that is set later.
        openinference: also give each span a kind, and captured payloads the names, that OpenInference viewers know;
            None: if `TRACEDFLOW_COMPAT=openinference` says so.
    """

    attempts_of: ClassVar[Literal["all", "retried"]] = "retried"
    hears: ClassVar[tuple[type[Notice], ...] | None] = (EventDropped, RetryScheduled, WaitStarted, WaitEnded)

    def __init__(self, tracer_provider: TracerProvider | None = None, *, openinference: bool | None = None) -> None:
        self._provider = tracer_provider
        self._openinference = openinference
        self._tracer: tuple[TracerProvider, Tracer] | None = None
        self._runs: dict[str, LiveTrace] = {}

    async def run(self, call: RunCall, call_next: RunNext, /) -> StopEvent | None:
        """Wrap a run, or one segment of it, in its span."""
        if self._idle():
            return await _pass_on(call, call_next)
        state = self._start_run(call)
        token = otel_context.attach(state.context)
        try:
            result = await call_next(call)
        except GeneratorExit:  # closed from elsewhere: in another context there is nothing to detach
            self._end_run(call, state, None, asyncio.CancelledError())
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
        if state is None:  # in a subclass of another package: its `_skips_step` is not asked
            _inherit(call)
            return await call_next(call)
        current = otel_context.get_current()  # with what the run's layers put there
        span = self._start_step(call, state, current)
        token = otel_context.attach(trace.set_span_in_context(span, current))
        try:
            result = await call_next(call)
        except GeneratorExit:
            _end_step(call, state, span, None, asyncio.CancelledError())
            raise
        except BaseException as error:
            _end_step(call, state, span, None, error)
            otel_context.detach(token)
            raise
        _end_step(call, state, span, result, None)
        otel_context.detach(token)
        return result

    def _skips_run(self, call: RunCall) -> bool:
        """Return whether there is no span to make, and no caller's in the headers; that of the code around the run goes on."""
        if call.headers or not self._idle():
            return False
        _identify(call, span_context(origin_of(call).parent))
        return True

    def _skips_step(self, call: StepCall) -> bool:
        """Return whether there is no span to make; the caller's goes on with what the step sends."""
        if call.run_id in self._runs:
            return False
        _inherit(call)
        return True

    async def attempt(self, call: AttemptCall, call_next: AttemptNext, /) -> StepResult:
        """Wrap a try in its span, if its step retries."""
        state = self._runs.get(call.step.run_id)
        if state is None or call.step.config.retry_policy is None:
            call.trace_id, call.span_id = call.step.trace_id, call.step.span_id
            return await call_next(call)
        span = _start_attempt(call, state)
        token = otel_context.attach(trace.set_span_in_context(span))
        try:
            result = await call_next(call)
        except GeneratorExit:
            _end_attempt(call, state, span, None, asyncio.CancelledError())
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
        state = self._runs.get(notice.run.run_id)
        if state is None:
            return
        match notice:
            case RetryScheduled():
                state.retry_scheduled(notice)
            case EventDropped():
                state.event_dropped(notice)
            case WaitStarted():
                state.wait_started(notice)
            case WaitEnded():
                state.wait_ended(notice)
            case _:
                pass

    # --- runs ---

    def _idle(self) -> bool:
        """Return whether spans would go nowhere, so that none is made: no provider is given or set, or it is switched off."""
        provider = self._provider_now()
        return isinstance(provider, trace.ProxyTracerProvider) or isinstance(self._get_tracer(provider), NoOpTracer)

    def _provider_now(self) -> TracerProvider:
        return self._provider or provider_in_use or trace.get_tracer_provider()

    def _get_tracer(self, provider: TracerProvider) -> Tracer:
        if self._tracer is None or self._tracer[0] is not provider:
            self._tracer = provider, trace.get_tracer(names.SCOPE, _version(), provider, names.SCHEMA_URL)
        return self._tracer[1]

    def _start_run(self, call: RunCall) -> LiveTrace:
        origin, tracer, capture = origin_of(call), self._get_tracer(self._provider_now()), level()
        base = attributes.of_every_span(call)
        if self._speaks_openinference():
            base[names.OPENINFERENCE_KIND] = names.OPENINFERENCE_CHAIN
        parent = origin.parent
        anchored = needs_anchor(call, parent)
        if anchored:
            parent = _anchor(tracer, call, parent, base)
        facts = {**base, **attributes.of_run(call), **_shown(call.start_event, names.INPUT, base, capture)}
        span = tracer.start_span(names.RUN_SPAN.format(workflow=call.workflow), context=parent, attributes=facts, links=origin.links)
        state = LiveTrace(tracer, span, trace.set_span_in_context(span, parent), base, capture)
        _identify(call, span.get_span_context())
        leave_carrier(call, span_context(parent), span.get_span_context(), anchored=anchored)
        call.sender = caller_context
        if state.recording:
            state.marker = asyncio.get_running_loop().call_later(MARKER_AFTER, _mark, call, state)
            if on_record is not None and isinstance(call.records, RecordLog):
                call.records.listeners += (_record_teller(call.records, on_record),)
        self._runs[call.run_id] = state
        return state

    def _speaks_openinference(self) -> bool:
        if self._openinference is not None:
            return self._openinference
        return "openinference" in os.environ.get(COMPAT_VARIABLE, "").lower()

    def _end_run(self, call: RunCall, state: LiveTrace, result: StopEvent | None, error: BaseException | None) -> None:
        if self._runs.get(call.run_id) is state:
            del self._runs[call.run_id]
        if state.marker is not None:
            state.marker.cancel()
        secrets = state.secrets(call)
        try:
            state.abandon()
            state.end_waits(error, secrets)
            if state.recording:
                _describe_run(call, state, result, error, secrets)
        finally:
            state.span.end()
        outer = self._runs.get(call.parent_run_id or "")
        if outer is not None and error is not None:  # the step that awaits it will fail with the same error
            outer.remember(error, secrets)

    # --- steps ---

    def _start_step(self, call: StepCall, state: LiveTrace, current: Context) -> Span:
        name, of_execution = state.known_steps.get(call.config.name) or state.know_step(call)
        if state.recording:
            causes, spans = call.causes, state.step_spans
            kind = names.COLLECTED if len(causes) > 1 else names.TRIGGERED_BY
            facts = attributes.of_step(of_execution, call, causes)
            if state.shows_payloads:
                facts |= _shown(call.inputs[0] if len(call.inputs) == 1 else call.inputs, names.INPUT, state.base, state.capture)
            span = spans.make(name, facts, cause_links(causes, kind, besides=state.identity, link=spans.link))
        else:  # hardly a sampler will want it: no more than what every span must have
            span = state.tracer.start_span(name, state.context, attributes=state.base)
        state.steps[call.execution] = span
        context = call.span_context = span.get_span_context()
        if context.is_valid:
            call.trace_id = trace_id = state.trace_id if context.trace_id == state.identity.trace_id else f"{context.trace_id:032x}"
            call.span_id = f"{context.span_id:016x}"
            inject(context, call.outgoing, trace_id, call.span_id, current)
        return span


def _record_teller(log: RecordLog, tell: Callable[[AttemptRecord], None]) -> Listener:
    return lambda row, call, last: tell(log.made(row))


def _version() -> str | None:
    try:
        return metadata.version("tracedflow")
    except metadata.PackageNotFoundError:
        return None


def _anchor(tracer: Tracer, call: RunCall, parent: Context, base: Attributes) -> Context:
    """Make the zero-length root that shows a long run in a backend while its own span is still open."""
    name = names.ANCHOR_SPAN.format(workflow=call.workflow)
    span = tracer.start_span(name, context=parent, attributes={**base, names.RUN_STATE: "running"})
    span.end()
    return trace.set_span_in_context(span, parent)


def _mark(call: RunCall, state: LiveTrace) -> None:
    """Export a sign of a run that takes long: its own span is seen only when it ends."""
    try:
        name = names.MARKER_SPAN.format(workflow=call.workflow)
        span = state.tracer.start_span(name, context=state.context, attributes={**state.base, names.RUN_STATE: "running"})
        span.end()
    except Exception:  # noqa: BLE001 - a timer of ours: nobody else would catch it
        _log.exception("the marker of run %s could not be made", call.run_id)


def _identify(call: RunCall | StepCall, context: SpanContext) -> None:
    """Leave the span's identity on the call, also when it is not sampled: the next hop must know."""
    if context.is_valid:
        call.span_context = context
        call.trace_id = trace.format_trace_id(context.trace_id)
        call.span_id = trace.format_span_id(context.span_id)


async def _pass_on(call: RunCall, call_next: RunNext) -> StopEvent | None:
    """Run without spans of our own, inside the caller's trace."""
    context = origin_of(call).parent
    _identify(call, span_context(context))
    if not call.headers:
        return await call_next(call)
    token = otel_context.attach(context)
    try:
        result = await call_next(call)
    except GeneratorExit:  # closed from elsewhere: in another context there is nothing to detach
        raise
    except BaseException:
        otel_context.detach(token)
        raise
    otel_context.detach(token)
    return result


def _inherit(call: StepCall) -> None:
    run = call.run
    if isinstance(run.span_context, SpanContext):
        call.span_context, call.trace_id, call.span_id = run.span_context, run.trace_id, run.span_id
        inject(run.span_context, call.outgoing, run.trace_id or "", run.span_id or "", otel_context.get_current())


def _start_attempt(call: AttemptCall, state: LiveTrace) -> Span:
    facts: Attributes = {**state.base, names.STEP_NAME: call.step.step, names.STEP_ATTEMPT: call.attempt}
    name = names.ATTEMPT_SPAN.format(step=call.step.step)
    span = state.tracer.start_span(name, context=_parent_of_attempt(call, state), attributes=facts)
    state.attempts[call.step.execution] = span
    context = span.get_span_context()
    if context.is_valid:
        call.trace_id, call.span_id = trace.format_trace_id(context.trace_id), trace.format_span_id(context.span_id)
    return span


def _parent_of_attempt(call: AttemptCall, state: LiveTrace) -> Context:
    """Return the step's span as parent: by its execution, as a layer between may have set another current span."""
    span = state.steps.get(call.step.execution)
    return state.context if span is None else trace.set_span_in_context(span, state.context)


def _shown(value: Any, key: str, base: Attributes, capture: Any) -> Attributes:
    """Return a payload as attributes, where payloads are captured."""
    text = captured(value, capture)
    if text is None:
        return {}
    if names.OPENINFERENCE_KIND not in base:
        return {key: text}
    return {key: text, names.OPENINFERENCE_INPUT if key == names.INPUT else names.OPENINFERENCE_OUTPUT: text}


def _describe_run(
    call: RunCall, state: LiveTrace, result: StopEvent | None, error: BaseException | None, secrets: tuple[object, ...]
) -> None:
    span, outcome = state.span, outcome_of_run(result, error)
    span.set_attribute(names.OUTCOME, outcome)
    if result is not None:
        span.set_attributes(_shown(result, names.OUTPUT, state.base, state.capture))
    if outcome == "suspended":
        span.set_attribute(names.RUN_STATE, "suspended")
    elif outcome == "cancelled":
        span.add_event(names.CANCEL_REQUESTED, {names.CANCEL_REASON: call.cancel_reason or "cancelled"})
    if error is not None:
        stalled(span, error, secrets)
        fail(span, outcome, error, secrets, record=not state.has_recorded(error))


def _end_step(call: StepCall, state: LiveTrace, span: Span, result: StepResult, error: BaseException | None) -> None:
    if state.steps.pop(call.execution, None) is not span:
        return  # it was abandoned, and ended with the run
    try:
        if state.has_late_waits:
            state.settle_waits(call, error)
        if span.is_recording():
            outcome = outcome_of_step(call, result, error)
            state.step_spans.add(span, attributes.of_ended_step(call, result, outcome))
            if call.measurements or call._annotations:
                span.set_attributes(attributes.of_own_facts(call))
            if result is not None and state.shows_payloads:
                span.set_attributes(_shown(result, names.OUTPUT, state.base, state.capture))
            if call.joined:
                _link_collected(call, span)
            if error is not None:
                cancelled(span, call, outcome)
                _fail_step(span, outcome, error, call, state)
    finally:
        span.end()


def _end_attempt(call: AttemptCall, state: LiveTrace, span: Span, result: StepResult, error: BaseException | None) -> None:
    if state.attempts.pop(call.step.execution, None) is not span:
        return  # it was abandoned, and ended with the run
    try:
        if span.is_recording():
            outcome = outcome_of_step(call.step, result, error)
            span.set_attribute(names.OUTCOME, outcome)
            if error is not None:
                _fail_step(span, outcome, error, call.step, state)
    finally:
        span.end()


def _fail_step(span: Span, outcome: Outcome, error: BaseException, call: StepCall, state: LiveTrace) -> None:
    if outcome not in FAILURES:
        return
    given = given_to(call)
    remember(error, given)
    fail(span, outcome, error, (*given, *state.secrets(call.run)), record=not state.has_recorded(error))
    state.remember(error, given)


def _link_collected(call: StepCall, span: Span) -> None:
    """Link what a completed `collect_events` is made of: known only now, so not at creation."""
    room = names.MAX_LINKS - len(getattr(span, "links", ()))
    collected = call.collected
    for link in cause_links(collected[:room], names.COLLECTED):
        span.add_link(link.context, link.attributes)
    if len(collected) > room:
        span.set_attribute(names.LINKS_DROPPED, len(collected) - room)
