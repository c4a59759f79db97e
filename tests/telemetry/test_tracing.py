from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from opentelemetry import baggage, propagate, trace
from opentelemetry import context as otel_context
from opentelemetry.propagate import extract
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, SpanKind, StatusCode, TraceFlags
from pydantic import SecretStr

from tests.telemetry.conftest import ByHand, Spans
from tracedflow import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    Middleware,
    RunCall,
    RunOptions,
    StartEvent,
    StepCall,
    StopEvent,
    Workflow,
    step,
)
from tracedflow.errors import StepTimeoutError, WorkflowCancelledByUser, WorkflowStalledError, WorkflowTimeoutError
from tracedflow.middleware import Cause, EventDropped, RetryScheduled, WaitEnded, WaitStarted
from tracedflow.retry_policy import retry_policy, stop_after_attempt, wait_fixed
from tracedflow.telemetry import Tracing, names
from tracedflow.testing import run_virtual

TWICE = retry_policy(wait=wait_fixed(0), stop=stop_after_attempt(2))


class Query(Event):
    text: str = ""


class Answer(Event):
    pass


class Research(Workflow):
    """Fans out to three, one of which fails once, and joins them."""

    @step
    async def plan(self, ctx: Context, ev: StartEvent) -> Query | None:
        for number in range(3):
            ctx.send_event(Query(text=str(number)))
        return None

    @step(retry_policy=TWICE)
    async def search(self, ctx: Context, ev: Query) -> Answer:
        if ev.text == "1" and ctx.retry_info().retry_number == 0:
            raise ConnectionError("refused")
        return Answer()

    @step
    async def gather(self, ctx: Context, ev: Answer) -> StopEvent | None:
        return None if ctx.collect_events(ev, [Answer] * 3) is None else StopEvent(result="done")


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def event_names(span: ReadableSpan) -> list[str]:
    return [event.name for event in span.events]


def outcome(span: ReadableSpan) -> object:
    return attributes(span)[names.OUTCOME]


def without_anchor(spans: Spans) -> list[ReadableSpan]:
    return [span for span in spans.ended if not span.name.startswith("start_workflow")]


def parent_of(span: ReadableSpan, spans: Spans) -> str | None:
    if span.parent is None:
        return None
    return next(other.name for other in spans.ended if other.context.span_id == span.parent.span_id)


# ------------------------------------------------------------------------------------------------------ real runs


async def test_the_trace_of_a_fan_out_with_a_retry_and_a_join(spans: Spans) -> None:
    assert await Research(timeout=5, middleware=[Tracing(spans.provider)], telemetry=False).run() == "done"
    tree = sorted((span.name, parent_of(span, spans), str(outcome(span)), span.status.status_code.name) for span in without_anchor(spans))
    run = "invoke_workflow Research"
    assert tree == [
        ("attempt search", "run_step search", "error", "ERROR"),
        *[("attempt search", "run_step search", "success", "UNSET")] * 3,
        (run, None, "success", "UNSET"),
        *[("run_step gather", run, "collecting", "UNSET")] * 2,
        ("run_step gather", run, "success", "UNSET"),
        ("run_step plan", run, "success", "UNSET"),
        *[("run_step search", run, "success", "UNSET")] * 3,
    ]
    assert len({span.context.trace_id for span in spans.ended}) == 1
    assert {span.kind for span in spans.ended} == {SpanKind.INTERNAL}


async def test_links_say_what_caused_a_step_and_what_a_join_collected(spans: Spans) -> None:
    await Research(timeout=5, middleware=[Tracing(spans.provider)], telemetry=False).run()
    plan = spans.one("run_step plan").context.span_id
    searches = {span.context.span_id for span in spans.named("run_step search")}
    for search in spans.named("run_step search"):
        (link,) = search.links
        assert link.context.span_id == plan
        assert dict(link.attributes or {}) == {"tracedflow.link.type": "triggered_by", "tracedflow.event.type": "Query"}
    join = next(span for span in spans.named("run_step gather") if outcome(span) == "success")
    kinds = [(link.attributes or {})["tracedflow.link.type"] for link in join.links]
    assert kinds == ["triggered_by", "collected", "collected", "collected"]
    assert {link.context.span_id for link in join.links} == searches
    assert all(not span.links for span in spans.named("run_step plan"))


async def test_a_step_that_succeeded_after_a_retry_is_not_an_error(spans: Spans) -> None:
    await Research(timeout=5, middleware=[Tracing(spans.provider)], telemetry=False).run()
    retried = next(span for span in spans.named("run_step search") if attributes(span)["tracedflow.step.attempts"] == 2)
    assert retried.status.status_code is StatusCode.UNSET
    assert names.ERROR_TYPE not in attributes(retried)
    assert event_names(retried) == ["tracedflow.retry_scheduled"]
    failed = next(span for span in spans.named("attempt search") if outcome(span) == "error")
    assert event_names(failed) == ["exception"]
    assert attributes(failed)["tracedflow.step.attempt"] == 1
    assert attributes(failed)["error.type"] == "ConnectionError"


async def test_every_span_has_the_names_that_samplers_and_searches_need(spans: Spans) -> None:
    options = RunOptions(tags={"tenant": "blue"}, conversation_id="c1")
    handler = Research(timeout=5, middleware=[Tracing(spans.provider)], telemetry=False).run(run_id="run-7", options=options)
    await handler
    for span in spans.ended:
        found = attributes(span)
        assert found["tracedflow.workflow.name"] == "Research"
        assert found["tracedflow.run.id"] == "run-7"
        assert found["tracedflow.tag.tenant"] == "blue"
        assert found["gen_ai.conversation.id"] == "c1"
    run = attributes(spans.one("invoke_workflow Research"))
    assert run["gen_ai.operation.name"] == "invoke_workflow"
    assert run["gen_ai.workflow.name"] == "Research"
    assert run["tracedflow.run.segment"] == 1
    plan = attributes(spans.one("run_step plan"))
    assert plan["tracedflow.event.type"] == "StartEvent"
    assert plan["tracedflow.emitted"] == ("Query",)
    assert plan["code.function.name"].endswith("Research.plan")
    assert attributes(spans.named("run_step search")[0])["tracedflow.trigger.step"] == "plan"


async def test_every_emitted_attribute_is_a_declared_name(spans: Spans) -> None:
    await Research(timeout=5, middleware=[Tracing(spans.provider)], telemetry=False).run()
    known = {*names.ATTRIBUTES, *names.CONVENTIONAL_ATTRIBUTES}
    assert {name for span in spans.ended for name in attributes(span)} <= known
    assert {event.name for span in spans.ended for event in span.events} <= set(names.SPAN_EVENTS)


async def test_a_users_own_span_hangs_under_the_step_or_attempt_that_started_it(spans: Spans) -> None:
    tracer = spans.provider.get_tracer("user")

    class Calls(Workflow):
        @step
        async def first(self, ev: StartEvent) -> Query:
            with tracer.start_as_current_span("in step"):
                return Query()

        @step(retry_policy=TWICE)
        async def second(self, ev: Query) -> StopEvent:
            with tracer.start_as_current_span("in attempt"):
                return StopEvent()

    await Calls(timeout=5, middleware=[Tracing(spans.provider)], telemetry=False).run()
    assert parent_of(spans.one("in step"), spans) == "run_step first"
    assert parent_of(spans.one("in attempt"), spans) == "attempt second"


async def test_a_run_continues_the_callers_trace_and_leaves_its_context_alone(spans: Spans) -> None:
    tracer = spans.provider.get_tracer("user")
    with tracer.start_as_current_span("request") as request:
        await Research(timeout=5, middleware=[Tracing(spans.provider)], telemetry=False).run()
        assert trace.get_current_span() is request
    assert parent_of(spans.one("invoke_workflow Research"), spans) == "request"


@pytest.mark.parametrize(("timeout", "anchored"), [(60.0, False), (61.0, True), (None, True)])
async def test_a_long_run_without_a_parent_gets_an_anchor(spans: Spans, timeout: float | None, anchored: bool) -> None:
    class Quick(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            return StopEvent()

    await Quick(timeout=timeout, middleware=[Tracing(spans.provider)], telemetry=False).run()
    anchors = [span for span in spans.ended if span.name.startswith("start_workflow")]
    assert len(anchors) == anchored
    if anchored:
        assert parent_of(spans.one("invoke_workflow " + Quick.__qualname__), spans) == anchors[0].name


async def test_an_error_is_recorded_once_on_the_innermost_span_and_said_on_the_outer_ones(spans: Spans) -> None:
    class Fails(Workflow):
        @step(retry_policy=TWICE)
        async def only(self, ev: StartEvent) -> StopEvent:
            raise KeyError("missing")

    with pytest.raises(KeyError):
        await Fails(timeout=5, middleware=[Tracing(spans.provider)], telemetry=False).run()
    run, failed, *attempts = [spans.one("invoke_workflow " + Fails.__qualname__), spans.one("run_step only"), *spans.named("attempt only")]
    for span in (run, failed, *attempts):
        assert span.status.status_code is StatusCode.ERROR
        assert attributes(span)["error.type"] == "KeyError"
        assert outcome(span) == "error"
    recorded = [span.name for span in spans.ended if "exception" in event_names(span)]
    assert recorded == ["attempt only", "attempt only"]


async def test_a_stack_trace_starts_with_the_users_own_frame(spans: Spans) -> None:
    class Fails(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            raise KeyError("missing")

    with pytest.raises(KeyError):
        await Fails(timeout=5, middleware=[Tracing(spans.provider)], telemetry=False).run()
    (event,) = [event for event in spans.one("run_step only").events if event.name == "exception"]
    text = str((event.attributes or {})["exception.stacktrace"])
    assert "in only" in text
    assert "_dispatch.py" not in text


CANARIES = ("canary-in-event", "canary-in-start", "canary-in-secret", "canary-in-nested")


class Canary(Event):
    text: str
    secret: SecretStr
    nested: dict[str, list[str]]


class Leaky(Workflow):
    @step
    async def send(self, ev: StartEvent) -> Canary:
        return Canary(text="canary-in-event", secret=SecretStr("canary-in-secret"), nested={"a": ["canary-in-nested"]})

    @step(retry_policy=TWICE)
    async def leak(self, ev: Canary, ctx: Context) -> StopEvent:
        raise ValueError(f"{ev.text} {ev.secret.get_secret_value()} {ev.nested} canary-in-start diagnosis")


async def test_what_a_run_was_given_never_leaves_it_in_an_error(spans: Spans) -> None:
    with pytest.raises(ValueError, match="diagnosis"):
        await Leaky(timeout=5, middleware=[Tracing(spans.provider)], telemetry=False).run(topic="canary-in-start")
    exported = "\n".join(span.to_json() for span in spans.ended)
    assert "diagnosis" in exported
    for canary in CANARIES:
        # the message of the test's own source line is code, not payload: the stack trace shows it as it is written
        assert canary not in exported.replace("canary-in-start diagnosis", "")


async def test_capture_none_leaves_type_and_place_only(spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACEDFLOW_CAPTURE", "none")
    with pytest.raises(ValueError, match="diagnosis"):
        await Leaky(timeout=5, middleware=[Tracing(spans.provider)], telemetry=False).run(topic="canary-in-start")
    exported = "\n".join(span.to_json() for span in spans.ended)
    assert "diagnosis" not in exported
    assert "ValueError at " in exported
    assert "test_tracing.py:" in exported


async def test_two_hundred_runs_at_once_do_not_mix(spans: Spans) -> None:
    flow = Research(timeout=30, middleware=[Tracing(spans.provider)], telemetry=False)
    await asyncio.gather(*(flow.run(run_id=f"run-{number}") for number in range(200)))
    by_trace: dict[int, set[object]] = {}
    for span in spans.ended:
        by_trace.setdefault(span.context.trace_id, set()).add(attributes(span)["tracedflow.run.id"])
        for link in span.links:
            assert link.context.trace_id == span.context.trace_id
    assert len(by_trace) == 200
    assert all(len(runs) == 1 for runs in by_trace.values())
    assert len(without_anchor(spans)) == 200 * 12


async def test_records_carry_the_ids_of_their_spans(spans: Spans) -> None:
    handler = Research(timeout=5, middleware=[Tracing(spans.provider)], telemetry=False).run()
    await handler
    ids = {format(span.context.span_id, "016x"): span.name for span in spans.ended}
    assert handler.record
    for record in handler.record:
        expected = "attempt search" if record.step == "search" else f"run_step {record.step}"
        assert record.span_id is not None
        assert ids[record.span_id] == expected


# ------------------------------------------------------------------------------------------------------ status table


@pytest.mark.parametrize(
    ("error", "reason", "step_outcome", "run_outcome", "step_status", "run_status"),
    [
        (ValueError("x"), None, "error", "error", "ERROR", "ERROR"),
        (StepTimeoutError("x"), None, "timeout", "error", "ERROR", "ERROR"),
        (asyncio.CancelledError(), "cancelled", "cancelled", "cancelled", "UNSET", "UNSET"),
        (asyncio.CancelledError(), "suspended", "suspended", "cancelled", "UNSET", "UNSET"),
        (None, None, "success", "success", "UNSET", "UNSET"),
    ],
)
def test_status_by_outcome(
    spans: Spans, error: BaseException | None, reason: str | None, step_outcome: str, run_outcome: str, step_status: str, run_status: str
) -> None:
    def body(call: StepCall) -> StopEvent:
        call.cancel_reason = reason
        if error is not None:
            raise error
        return StopEvent()

    hand = ByHand(Tracing(spans.provider))
    hand.body = body
    with contextlib.suppress(BaseException):
        hand.go()
    done, run = spans.one("run_step work"), spans.one("invoke_workflow Flow")
    assert (outcome(done), done.status.status_code.name) == (step_outcome, step_status)
    assert (outcome(run), run.status.status_code.name) == (run_outcome, run_status)
    if reason == "cancelled":
        assert event_names(done) == ["tracedflow.cancel_requested"]
        assert names.ERROR_TYPE not in attributes(done)


@pytest.mark.parametrize(
    ("error", "expected", "events"),
    [
        (WorkflowTimeoutError("too long"), "timeout", ["exception"]),
        (WorkflowStalledError("step a waits"), "stalled", ["tracedflow.stalled", "exception"]),
        (WorkflowCancelledByUser("no"), "cancelled", ["tracedflow.cancel_requested"]),
    ],
)
def test_a_runs_own_end_shows_on_its_span(spans: Spans, error: BaseException, expected: str, events: list[str]) -> None:
    class Ends(Middleware):
        async def run(self, call: RunCall, call_next: Any, /) -> StopEvent | None:
            await call_next(call)
            raise error

    hand = ByHand(Tracing(spans.provider), Ends())
    with pytest.raises(type(error)):
        hand.go()
    run = spans.one("invoke_workflow Flow")
    assert outcome(run) == expected
    assert event_names(run) == events
    assert run.status.status_code is (StatusCode.UNSET if expected == "cancelled" else StatusCode.ERROR)


def test_a_segment_that_gives_no_result_is_suspended(spans: Spans) -> None:
    hand = ByHand(Tracing(spans.provider))
    hand.body = lambda call: None
    hand.go()
    run = spans.one("invoke_workflow Flow")
    assert outcome(run) == "suspended"
    assert attributes(run)["tracedflow.run.state"] == "suspended"
    assert run.status.status_code is StatusCode.UNSET


def test_a_layer_that_answers_without_the_step_leaves_a_skipped_span(spans: Spans) -> None:
    class Cache(Middleware):
        async def step(self, call: StepCall, call_next: Any, /) -> Any:
            return StopEvent()

    ByHand(Tracing(spans.provider), Cache()).go()
    assert outcome(spans.one("run_step work")) == "skipped"


# ------------------------------------------------------------------------------------------------------ edges


REMOTE = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}


def test_headers_from_another_process_are_the_parent(spans: Spans) -> None:
    hand = ByHand(Tracing(spans.provider))
    hand.run.headers = REMOTE
    hand.go()
    run = spans.one("invoke_workflow Flow")
    assert run.parent is not None
    assert format(run.parent.span_id, "016x") == "00f067aa0ba902b7"
    assert hand.run.trace_id == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert not run.links


def test_a_resumed_segment_stays_in_its_trace_and_links_where_it_came_from(spans: Spans) -> None:
    hand = ByHand(Tracing(spans.provider))
    hand.run.headers, hand.run.resumed, hand.run.segment = REMOTE, True, 2
    hand.go()
    run = spans.one("invoke_workflow Flow")
    (link,) = run.links
    assert dict(link.attributes or {}) == {"tracedflow.link.type": "resumed_from"}
    assert attributes(run)["tracedflow.run.segment"] == 2


def test_a_spawned_run_is_a_root_with_a_link(spans: Spans) -> None:
    tracer = spans.provider.get_tracer("user")
    hand = ByHand(Tracing(spans.provider))
    with tracer.start_as_current_span("other") as other:
        hand.run.spawned_by = other.get_span_context()
        hand.go()
    run = spans.one("invoke_workflow Flow")
    assert run.parent is None
    (link,) = run.links
    assert (link.attributes or {})["tracedflow.link.type"] == "spawned_by"


def test_what_a_step_sends_carries_its_context_as_w3c_headers(spans: Spans) -> None:
    hand = ByHand(Tracing(spans.provider))
    hand.go()
    sent = trace.get_current_span(extract(hand.step.outgoing, context=otel_context.Context())).get_span_context()
    context = hand.step.span_context
    assert isinstance(context, SpanContext)
    assert (sent.trace_id, sent.span_id, sent.trace_flags) == (context.trace_id, context.span_id, context.trace_flags)


def test_a_cause_that_came_as_headers_is_linked_too(spans: Spans) -> None:
    hand = ByHand(Tracing(spans.provider))
    cause = Cause(event_id=1, event_type="Query", step="far", execution=None, headers=REMOTE)
    hand.step.origin = lambda _: (cause,)
    hand.go()
    (link,) = spans.one("run_step work").links
    assert format(link.context.span_id, "016x") == "00f067aa0ba902b7"


def test_a_join_has_at_most_32_links_and_counts_the_rest(spans: Spans) -> None:
    context = SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(1))
    many = tuple(Cause(event_id=n, event_type="E", step="s", execution=n, span_context=context) for n in range(40))
    hand = ByHand(Tracing(spans.provider))

    def body(call: StepCall) -> StopEvent:
        call.joined = many  # the harness makes its causes of themselves
        return StopEvent()

    hand.body = body
    hand.go()
    done = spans.one("run_step work")
    assert len(done.links) == 32
    assert attributes(done)["tracedflow.links.dropped"] == 8


def test_a_wait_is_a_span_under_the_run_with_a_link_to_its_answer(spans: Spans) -> None:
    tracing = Tracing(spans.provider)
    hand = ByHand(tracing)
    answer = SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(1))

    def body(call: StepCall) -> StopEvent:
        common: dict[str, Any] = {"run": call.run, "at": 0.0, "call": call, "wait_id": 3, "event_type": "Approval"}
        hand.chain.notice(WaitStarted(**common, waiter_id=None, timeout=None))
        cause = Cause(event_id=1, event_type="Approval", step=None, execution=None, span_context=answer)
        hand.chain.notice(WaitEnded(**common, outcome="success", duration=1.0, cause=cause))
        return StopEvent()

    hand.body = body
    hand.go()
    wait = spans.one("wait Approval")
    assert parent_of(wait, spans) == "invoke_workflow Flow"
    assert outcome(wait) == "success"
    assert (wait.links[0].attributes or {})["tracedflow.link.type"] == "resumed_by"


def test_dropped_events_and_retries_are_events_of_their_step(spans: Spans) -> None:
    hand = ByHand(Tracing(spans.provider))

    def body(call: StepCall) -> StopEvent:
        common: dict[str, Any] = {"run": call.run, "at": 0.0, "call": call}
        hand.chain.notice(EventDropped(**common, event_id=4, event_type="Lost", reason="overflow"))
        hand.chain.notice(EventDropped(**common, event_id=5, event_type="Held", reason="unclaimed", final=False))
        hand.chain.notice(RetryScheduled(**common, attempt=1, delay=0.5, error=OSError()))
        return StopEvent()

    hand.body = body
    hand.go()
    assert event_names(spans.one("run_step work")) == ["tracedflow.event_dropped", "tracedflow.retry_scheduled"]


def test_measurements_and_annotations_are_attributes(spans: Spans) -> None:
    hand = ByHand(Tracing(spans.provider))

    def body(call: StepCall) -> StopEvent:
        call.measurements = [("tokens", 3.0, "1"), ("tokens", 4.0, "1")]
        call.annotations["model"] = "small"
        return StopEvent()

    hand.body = body
    hand.go()
    found = attributes(spans.one("run_step work"))
    assert found["tracedflow.user.tokens"] == 7.0
    assert found["tracedflow.user.model"] == "small"


def test_an_unsampled_run_keeps_its_identity_and_its_steps_share_it() -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased

    hand = ByHand(Tracing(TracerProvider(sampler=ParentBased(ALWAYS_OFF))))
    hand.go()
    assert hand.run.trace_id is not None
    assert hand.step.trace_id == hand.run.trace_id
    assert isinstance(hand.step.span_context, SpanContext)
    assert not hand.step.span_context.trace_flags.sampled


def test_without_a_provider_no_span_is_made_but_the_callers_trace_goes_on() -> None:
    seen: list[int] = []
    hand = ByHand(Tracing())
    hand.run.headers = REMOTE

    def body(call: StepCall) -> StopEvent:
        seen.append(trace.get_current_span().get_span_context().span_id)
        return StopEvent()

    hand.body = body
    hand.go()
    assert seen == [0x00F067AA0BA902B7]
    assert hand.step.trace_id == REMOTE["traceparent"].split("-")[1]
    assert hand.step.outgoing == REMOTE


def test_a_provider_that_is_switched_off_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    from opentelemetry.sdk.trace import TracerProvider

    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    hand = ByHand(Tracing(TracerProvider()))
    hand.run.headers = REMOTE
    hand.go()
    assert hand.run.trace_id == hand.step.trace_id == REMOTE["traceparent"].split("-")[1]
    assert hand.run.carrier == {}


def test_without_a_provider_and_without_a_caller_there_is_no_identity() -> None:
    hand = ByHand(Tracing())
    hand.go()
    assert hand.run.trace_id is None
    assert hand.step.span_context is None
    assert hand.step.outgoing == {}


def test_nothing_of_a_run_stays_on_the_layer(spans: Spans) -> None:
    tracing = Tracing(spans.provider)
    hand = ByHand(tracing)
    hand.go()
    assert tracing._runs == {}
    assert trace.get_current_span(otel_context.get_current()).get_span_context().is_valid is False


class Asks(Workflow):
    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        answer = await ctx.wait_for_event(HumanResponseEvent, waiter_event=InputRequiredEvent())
        return StopEvent(result=answer.text)


async def test_a_real_wait_has_its_span(spans: Spans) -> None:
    handler = Asks(timeout=5, middleware=[Tracing(spans.provider)], telemetry=False).run()
    async for event in handler.stream_events():
        if isinstance(event, InputRequiredEvent):
            handler.ctx.send_event(HumanResponseEvent(text="yes"))
    assert await handler == "yes"
    assert outcome(spans.one("wait HumanResponseEvent")) == "success"
    assert spans.one("start_workflow Asks").parent is None  # its graph can wait


# ------------------------------------------------------------------------------------------------------ long runs


class Naps(Workflow):
    @step
    async def nap(self, ev: StartEvent) -> StopEvent:
        await asyncio.sleep(ev.seconds)
        return StopEvent()


@pytest.mark.parametrize(("seconds", "markers"), [(9.9, 0), (10.1, 1), (1000, 1)])
def test_a_run_shows_itself_once_after_ten_seconds(spans: Spans, seconds: float, markers: int) -> None:
    async def main() -> None:
        handler = Naps(timeout=None, middleware=[Tracing(spans.provider)], telemetry=False).run(run_id="r1", seconds=seconds)
        await asyncio.sleep(min(seconds, 11))
        assert len(spans.named("run_in_progress Naps")) == markers  # while the run is live
        await handler

    run_virtual(main())
    found = spans.named("run_in_progress Naps")
    assert len(found) == markers
    for span in found:
        assert parent_of(span, spans) == "invoke_workflow Naps"
        assert attributes(span) == {"tracedflow.workflow.name": "Naps", "tracedflow.run.id": "r1", "tracedflow.run.state": "running"}


# ------------------------------------------------------------------------------------------------------ waits


class Waits(Workflow):
    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        try:
            await ctx.wait_for_event(HumanResponseEvent, timeout=5)
        except TimeoutError:
            if not ev.get("forgives"):
                raise
        return StopEvent(result="went on")


@pytest.mark.parametrize("forgives", [True, False])
def test_a_wait_that_timed_out_is_an_error_only_if_that_failed_the_run(spans: Spans, forgives: bool) -> None:
    async def main() -> None:
        handler = Waits(timeout=60, middleware=[Tracing(spans.provider)], telemetry=False).run(forgives=forgives)
        with contextlib.suppress(TimeoutError):
            await handler

    run_virtual(main())
    wait = spans.one("wait HumanResponseEvent")
    assert outcome(wait) == "timeout"
    assert wait.status.status_code is (StatusCode.UNSET if forgives else StatusCode.ERROR)
    assert attributes(wait).get("error.type") == (None if forgives else "TimeoutError")
    assert event_names(wait) == []  # the exception is on its step


def test_a_wait_that_is_cancelled_with_its_run_is_no_error(spans: Spans) -> None:
    async def main() -> None:
        handler = Waits(timeout=60, middleware=[Tracing(spans.provider)], telemetry=False).run()
        await asyncio.sleep(1)
        await handler.cancel_run()

    run_virtual(main())
    wait = spans.one("wait HumanResponseEvent")
    assert (outcome(wait), wait.status.status_code) == ("cancelled", StatusCode.UNSET)


# ------------------------------------------------------------------------------------------------------ context in and out


async def test_an_event_from_outside_links_to_the_span_that_sent_it(spans: Spans) -> None:
    class Takes(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> InputRequiredEvent:
            return InputRequiredEvent()

        @step
        async def take(self, ev: HumanResponseEvent) -> StopEvent:
            return StopEvent()

    handler = Takes(timeout=5, middleware=[Tracing(spans.provider)], telemetry=False).run()
    async for event in handler.stream_events():
        if isinstance(event, InputRequiredEvent):
            with spans.provider.get_tracer("user").start_as_current_span("POST /answer") as request:
                await handler.send_event(HumanResponseEvent())
    await handler
    (link,) = spans.one("run_step take").links
    assert link.context == request.get_span_context()


async def test_the_propagators_of_the_process_are_used(spans: Spans) -> None:
    class Shout(TextMapPropagator):
        def inject(self, carrier: Any, context: Any = None, setter: Any = None) -> None:
            carrier["shout"] = format(trace.get_current_span(context).get_span_context().span_id, "016X")

        def extract(self, carrier: Any, context: Any = None, getter: Any = None) -> otel_context.Context:
            return context or otel_context.Context()

        @property
        def fields(self) -> set[str]:
            return {"shout"}

    before = propagate.get_global_textmap()
    propagate.set_global_textmap(Shout())
    try:
        hand = ByHand(Tracing(spans.provider))
        await hand._go()
    finally:
        propagate.set_global_textmap(before)
    assert hand.step.outgoing == {"shout": (hand.step.span_id or "").upper()}


async def test_baggage_travels_with_the_events(spans: Spans) -> None:
    token = otel_context.attach(baggage.set_baggage("tenant", "blue"))
    try:
        hand = ByHand(Tracing(spans.provider))
        await hand._go()
    finally:
        otel_context.detach(token)
    assert hand.step.outgoing["baggage"] == "tenant=blue"
    assert hand.step.outgoing["traceparent"].startswith(f"00-{hand.step.trace_id}-{hand.step.span_id}-")


async def test_a_detached_run_is_a_trace_of_its_own_with_a_link_to_its_starter(spans: Spans) -> None:
    class Starter(Workflow):
        @step
        async def start(self, ev: StartEvent) -> StopEvent:
            flow = Naps(timeout=5, middleware=self._middleware, telemetry=False)
            return StopEvent(result=await flow.run(seconds=0, options=RunOptions(parent=None)))

    await Starter(timeout=5, middleware=[Tracing(spans.provider)], telemetry=False).run()
    inner = spans.one("invoke_workflow Naps")
    assert inner.parent is None
    (link,) = inner.links
    assert link.context == spans.one("run_step start").context
    assert dict(link.attributes or {}) == {"tracedflow.link.type": "spawned_by"}


def test_an_unsampled_trace_is_passed_on_as_such() -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

    hand = ByHand(Tracing(TracerProvider(sampler=ALWAYS_OFF)))
    hand.go()
    sent = trace.get_current_span(extract(hand.step.outgoing, context=otel_context.Context())).get_span_context()
    assert format(sent.trace_id, "032x") == hand.step.trace_id
    assert not sent.trace_flags.sampled


# ------------------------------------------------------------------------------------------------------ exceptions as logs


class Logged:
    """A logger provider that keeps what is emitted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from opentelemetry.sdk._logs import LoggerProvider
        from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor

        self.kept = InMemoryLogRecordExporter()
        self.provider = LoggerProvider()
        self.provider.add_log_record_processor(SimpleLogRecordProcessor(self.kept))
        monkeypatch.setattr("opentelemetry._logs.get_logger", lambda *given, **named: self.provider.get_logger("tracedflow"))

    @property
    def records(self) -> list[Any]:
        return [each.log_record for each in self.kept.get_finished_logs()]


@pytest.mark.parametrize(("signals", "on_span", "as_log"), [("", 1, 0), ("logs", 0, 1), ("logs/dup", 1, 1), ("other, logs/dup", 1, 1)])
def test_an_exception_goes_where_the_process_wants_it(
    spans: Spans, monkeypatch: pytest.MonkeyPatch, signals: str, on_span: int, as_log: int
) -> None:
    logged = Logged(monkeypatch)
    monkeypatch.setenv("OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN", signals)
    hand = ByHand(Tracing(spans.provider))

    def body(call: StepCall) -> StopEvent:
        raise KeyError("missing")

    hand.body = body
    with pytest.raises(KeyError):
        hand.go()
    span = spans.one("run_step work")
    assert event_names(span).count("exception") == on_span
    assert len(logged.records) == as_log
    for record in logged.records:
        assert (record.event_name, record.span_id, record.trace_id) == ("exception", span.context.span_id, span.context.trace_id)
        assert record.attributes["exception.type"] == "KeyError"
        assert "Traceback" in record.attributes["exception.stacktrace"]


# ------------------------------------------------------------------------------------------------------ names


async def test_the_second_class_of_a_name_shows_its_module_and_that_is_said_once(spans: Spans, caplog: pytest.LogCaptureFixture) -> None:
    twin = type("Naps", (Naps,), {"__module__": "elsewhere", "__qualname__": "Naps"})
    for flow in (Naps, twin, twin):
        await flow(timeout=5, middleware=[Tracing(spans.provider)], telemetry=False).run(seconds=0)
    assert [len(spans.named(f"invoke_workflow {name}")) for name in ("Naps", "elsewhere.Naps")] == [1, 2]
    assert len([record for record in caplog.records if "two workflow classes are called Naps" in record.getMessage()]) == 1
