from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from opentelemetry.trace import SpanContext, TraceFlags
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.samples import Exemplar

from tests.telemetry.conftest import ByHand, Spans
from tracedflow import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    RunReport,
    StartEvent,
    StepCall,
    StopEvent,
    Workflow,
    step,
)
from tracedflow.middleware import (
    EventDropped,
    EventStreamed,
    LoopBlocked,
    MiddlewareFailed,
    Observer,
    RunStalled,
    StepTimedOut,
    WaitEnded,
)
from tracedflow.records import JoinReport, WaitReport
from tracedflow.retry_policy import retry_policy, stop_after_attempt, wait_fixed
from tracedflow.telemetry import Metrics, Tracing, names
from tracedflow.testing import virtual_time

TWICE = retry_policy(wait=wait_fixed(0), stop=stop_after_attempt(2))


class Query(Event):
    number: int = 0


class Answer(Event):
    pass


class Research(Workflow):
    @step
    async def plan(self, ctx: Context, ev: StartEvent) -> Query | None:
        for number in range(3):
            ctx.send_event(Query(number=number))
        return None

    @step(retry_policy=TWICE, num_workers=2)
    async def search(self, ctx: Context, ev: Query) -> Answer:
        if ev.number == 1 and ctx.retry_info().retry_number == 0:
            raise ConnectionError("refused")
        return Answer()

    @step
    async def gather(self, ctx: Context, ev: Answer) -> StopEvent | None:
        return None if ctx.collect_events(ev, [Answer] * 3) is None else StopEvent()


def value(registry: CollectorRegistry, name: str, /, **labels: str) -> float | None:
    return registry.get_sample_value(name, labels)


def by_hand(registry: CollectorRegistry, *notices: Any, **facts: Any) -> ByHand:
    """Run one step that has the given facts on its call and gives the notices."""
    hand = ByHand(Metrics(registry))

    def body(call: StepCall) -> StopEvent:
        for name, fact in facts.items():
            setattr(call, name, fact)
        for kind, given in notices:
            hand.chain.notice(kind(run=call.run, at=0.0, call=call, **given))
        return StopEvent()

    hand.body = body
    hand.make_step("work", Query(), measures=("tokens",))
    hand.go()
    return hand


# ------------------------------------------------------------------------------------------------------ real runs


async def test_a_run_is_counted_from_its_start_to_its_end(registry: CollectorRegistry) -> None:
    await Research(timeout=5, middleware=[Metrics(registry)], telemetry=False).run()
    flow = {"workflow": "Research"}
    assert value(registry, "tracedflow_runs_total", **flow, outcome="success") == 1
    assert value(registry, "tracedflow_run_duration_seconds_count", **flow, outcome="success") == 1
    assert value(registry, "tracedflow_runs_active", **flow, state="running") == 0
    assert value(registry, "tracedflow_run_oldest_age_seconds", **flow) == 0  # its series does not end with its runs
    search = {**flow, "step": "search"}
    attempts = "tracedflow_step_attempts_total"
    assert value(registry, attempts, **search, outcome="success", error_type="") == 3
    assert value(registry, attempts, **search, outcome="error", error_type="ConnectionError") == 1
    assert value(registry, "tracedflow_step_retries_total", **search) == 1
    assert value(registry, "tracedflow_step_duration_seconds_count", **search, outcome="success") == 3
    assert value(registry, "tracedflow_step_queue_wait_seconds_count", **search) == 3
    assert value(registry, "tracedflow_steps_active", **search) == 0
    assert value(registry, "tracedflow_step_concurrency_limit", **search) == 2
    gather = {**flow, "step": "gather"}
    assert value(registry, attempts, **gather, outcome="collecting", error_type="") == 2
    assert value(registry, "tracedflow_events_total", **flow, event_type="Query", action="emitted") == 3
    assert value(registry, "tracedflow_events_total", **flow, event_type="Query", action="dispatched") == 3
    assert value(registry, "tracedflow_events_total", **flow, event_type="Answer", action="collected") == 3


async def test_spans_metrics_and_records_tell_the_same(registry: CollectorRegistry, spans: Spans) -> None:
    flow = Research(timeout=30, middleware=[Tracing(spans.provider), Metrics(registry)], telemetry=False)
    handlers = [flow.run() for _ in range(20)]
    await asyncio.gather(*handlers)
    records = [record for handler in handlers for record in handler.record]
    for name in ("plan", "search", "gather"):
        for outcome in ("success", "error", "collecting"):
            recorded = [record for record in records if record.step == name and record.outcome == outcome]
            counted = sum(
                sample.value
                for family in registry.collect()
                for sample in family.samples
                if sample.name == "tracedflow_step_attempts_total"
                and (sample.labels["step"], sample.labels["outcome"]) == (name, outcome)
                and sample.labels["error_type"] in {record.error or "" for record in recorded}
            )
            span_name = "attempt search" if name == "search" else f"run_step {name}"
            traced = [span for span in spans.named(span_name) if (span.attributes or {})[names.OUTCOME] == outcome]
            assert len(recorded) == counted == len(traced), (name, outcome)


class Broken(Observer):
    """Fails wherever it can."""

    async def run(self, call: Any, call_next: Any, /) -> Any:
        await call_next(call)
        raise RuntimeError("in run")

    async def step(self, call: Any, call_next: Any, /) -> Any:
        raise RuntimeError("in step")

    async def attempt(self, call: Any, call_next: Any, /) -> Any:
        await asyncio.sleep(0)

    def on(self, notice: Any, /) -> None:
        raise RuntimeError("on notice")


async def test_telemetry_that_raises_changes_no_outcome_and_is_counted(registry: CollectorRegistry) -> None:
    class Fine(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=1)

    assert await Fine(timeout=5, middleware=[Metrics(registry), Broken()], telemetry=False).run() == 1
    errors = "tracedflow_middleware_errors_total"
    assert (value(registry, errors, middleware="Broken", error_type="RuntimeError") or 0) >= 2
    assert value(registry, errors, middleware="Broken", error_type="Suspended") == 1


# ------------------------------------------------------------------------------------------------------ registration


def test_nothing_is_registered_before_the_first_run(registry: CollectorRegistry) -> None:
    Metrics(registry)
    assert list(registry.collect()) == []
    before = {family.name for family in REGISTRY.collect()}
    Metrics()
    assert {family.name for family in REGISTRY.collect()} == before


def test_two_layers_on_one_registry_share_its_metrics(registry: CollectorRegistry) -> None:
    for _ in range(2):
        ByHand(Metrics(registry)).go()
    assert value(registry, "tracedflow_runs_total", workflow="Flow", outcome="success") == 2


def test_every_declared_metric_is_registered_and_no_other(registry: CollectorRegistry) -> None:
    by_hand(registry)
    exposed = {family.name: family for family in registry.collect()}
    assert set(exposed) == {spec.name.removesuffix("_total") if spec.kind == "counter" else spec.name for spec in names.METRICS}
    for spec in names.METRICS:
        family = exposed[spec.name.removesuffix("_total") if spec.kind == "counter" else spec.name]
        assert (family.type, family.documentation) == (spec.kind, spec.help)
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(spec.labels)


def test_names_follow_the_rules_of_prometheus() -> None:
    for spec in names.METRICS:
        assert spec.name.startswith("tracedflow_")
        assert spec.name.endswith("_total") == (spec.kind == "counter")
        assert bool(spec.buckets) == (spec.kind == "histogram")
        assert list(spec.buckets) == sorted(spec.buckets)
        assert "run_id" not in spec.labels
        assert spec.help.endswith(".")


# ------------------------------------------------------------------------------------------------------ details


@pytest.mark.parametrize(
    ("kind", "given", "name", "labels", "expected"),
    [
        (StepTimedOut, {"timeout": 1.0, "attempt": 1}, "tracedflow_step_timeouts_total", {"step": "work"}, 1),
        (
            EventDropped,
            {"event_id": 1, "event_type": "Lost", "reason": "overflow"},
            "tracedflow_events_total",
            {"event_type": "Lost", "action": "dropped"},
            1,
        ),
        (EventStreamed, {"event_type": "Progress"}, "tracedflow_events_total", {"event_type": "Progress", "action": "streamed"}, 1),
        (
            WaitEnded,
            {"wait_id": 1, "event_type": "Approval", "outcome": "success", "duration": 2.5},
            "tracedflow_wait_duration_seconds_sum",
            {"event_type": "Approval", "outcome": "success"},
            2.5,
        ),
        (LoopBlocked, {"step": "work", "location": "f:1", "duration": 0.5}, "tracedflow_loop_blocked_seconds_total", {"step": "work"}, 0.5),
        (LoopBlocked, {"step": None, "location": "f:1", "duration": 0.5}, "tracedflow_loop_blocked_seconds_total", {"step": "_other"}, 0.5),
    ],
)
def test_notices_are_counted(
    registry: CollectorRegistry, kind: type, given: dict[str, Any], name: str, labels: dict[str, str], expected: float
) -> None:
    by_hand(registry, (kind, given))
    assert value(registry, name, workflow="Flow", **labels) == expected


def test_an_event_that_is_only_held_is_not_dropped(registry: CollectorRegistry) -> None:
    by_hand(registry, (EventDropped, {"event_id": 1, "event_type": "Held", "reason": "unclaimed", "final": False}))
    assert value(registry, "tracedflow_events_total", workflow="Flow", event_type="Held", action="dropped") is None


def test_an_observers_failure_is_counted_by_its_name(registry: CollectorRegistry) -> None:
    by_hand(registry, (MiddlewareFailed, {"middleware": "Mine", "error_type": "KeyError"}))
    assert value(registry, "tracedflow_middleware_errors_total", middleware="Mine", error_type="KeyError") == 1


JOIN = JoinReport(step="gather", buffer="", has={"A": 1}, lacks={"B": 1, "C": 2}, producers={})
WAIT = WaitReport(step="ask", execution=1, event_type="Yes", waiter_id=None, requirements={}, since=1.0, remaining=None)


@pytest.mark.parametrize(
    ("report", "missing"),
    [
        ({"joins": [JOIN], "waits": [WAIT]}, {"step": "gather", "missing_event": "B"}),
        ({"waits": [WAIT]}, {"step": "ask", "missing_event": "Yes"}),
        ({}, {"step": "", "missing_event": "StopEvent"}),
    ],
)
def test_a_stalled_run_counts_once_by_what_it_misses_first(
    registry: CollectorRegistry, report: dict[str, Any], missing: dict[str, str]
) -> None:
    by_hand(registry, (RunStalled, {"report": RunReport(workflow="Flow", run_id="r1", state="stalled", age=1.0, **report)}))
    assert value(registry, "tracedflow_runs_stalled_total", workflow="Flow", **missing) == 1


def test_only_declared_measurements_are_counted_and_a_falling_one_is_not(registry: CollectorRegistry) -> None:
    by_hand(registry, measurements=[("tokens", 5.0, "1"), ("tokens", -1.0, "1"), ("secret", 7.0, "1")])
    assert value(registry, "tracedflow_measurements_total", workflow="Flow", step="work", name="tokens") == 5
    assert value(registry, "tracedflow_measurements_total", workflow="Flow", step="work", name="secret") is None


def test_the_wait_for_a_limit_is_timed(registry: CollectorRegistry) -> None:
    by_hand(registry, limit_waits=[("openai", 0.25)])
    assert value(registry, "tracedflow_limit_wait_seconds_sum", limit="openai", workflow="Flow", step="work") == 0.25


@virtual_time()
async def test_an_execution_that_ends_between_two_attempts_counts_no_attempt_twice() -> None:
    registry = CollectorRegistry()

    class Slow(Workflow):
        @step(timeout=1, retry_policy=retry_policy(wait=wait_fixed(9), stop=stop_after_attempt(2)))
        async def work(self, ev: StartEvent) -> StopEvent:
            await asyncio.sleep(2)
            return StopEvent()

    handler = Slow(timeout=60, middleware=[Metrics(registry)], telemetry=False).run()
    await asyncio.sleep(5)
    await handler.cancel_run()
    samples = [s for f in registry.collect() for s in f.samples if s.name == "tracedflow_step_attempts_total"]
    assert [(s.labels["outcome"], s.labels["error_type"], s.value) for s in samples] == [
        ("timeout", "tracedflow.errors.StepTimeoutError", 1.0)
    ]


# ------------------------------------------------------------------------------------------------------ at scrape


class Busy(Workflow):
    """One slot, three events: one runs until it is let go, two wait."""

    def __init__(self, **options: Any) -> None:
        super().__init__(timeout=None, telemetry=False, **options)
        self.started, self.go_on = asyncio.Event(), asyncio.Event()

    @step
    async def plan(self, ev: StartEvent) -> list[Query]:
        return [Query(), Query(), Query()]

    @step(num_workers=1)
    async def work(self, ev: Query) -> Answer:
        self.started.set()
        await self.go_on.wait()
        return Answer()

    @step
    async def gather(self, ev: list[Answer]) -> StopEvent:
        return StopEvent()


@virtual_time()
async def test_a_scrape_shows_age_steps_and_queues_of_live_runs_and_zero_when_they_ended() -> None:
    registry = CollectorRegistry()
    flow = Busy(middleware=[Metrics(registry)])
    handlers = [flow.run(), flow.run()]
    await flow.started.wait()
    await asyncio.sleep(100)
    work = {"workflow": "Busy", "step": "work"}
    assert value(registry, "tracedflow_run_oldest_age_seconds", workflow="Busy") == pytest.approx(100)
    assert value(registry, "tracedflow_steps_active", **work) == 2
    assert value(registry, "tracedflow_queue_depth", **work) == 4
    assert value(registry, "tracedflow_runs_active", workflow="Busy", state="running") == 2
    flow.go_on.set()
    await asyncio.gather(*handlers)
    assert value(registry, "tracedflow_run_oldest_age_seconds", workflow="Busy") == 0
    assert value(registry, "tracedflow_steps_active", **work) == 0
    assert value(registry, "tracedflow_queue_depth", **work) is None


class GoOn(Event):
    pass


class Approval(Workflow):
    """Waits in one step, and asks by an event that another takes the answer to."""

    @step
    async def wait(self, ctx: Context, ev: StartEvent) -> InputRequiredEvent:
        await ctx.wait_for_event(GoOn, timeout=None)
        await asyncio.sleep(5)
        return InputRequiredEvent()

    @step(num_workers=3)
    async def take(self, ev: HumanResponseEvent) -> StopEvent:
        await asyncio.sleep(5)
        return StopEvent()


@virtual_time()
async def test_a_run_that_only_waits_for_an_event_from_outside_is_suspended_until_it_comes() -> None:
    registry = CollectorRegistry()
    handler = Approval(timeout=None, middleware=[Metrics(registry)]).run()

    def states() -> tuple[float | None, ...]:
        return tuple(value(registry, "tracedflow_runs_active", workflow="Approval", state=state) for state in ("running", "suspended"))

    seen: list[tuple[float | None, ...]] = []
    await asyncio.sleep(1)
    seen.append(states())
    await handler.send_event(GoOn())
    await asyncio.sleep(1)
    seen.append(states())
    await asyncio.sleep(10)
    seen.append(states())
    await handler.send_event(HumanResponseEvent(response="yes"))
    await asyncio.sleep(1)
    seen.append(states())
    await handler
    assert [*seen, states()] == [(0, 1), (1, 0), (0, 1), (1, 0), (0, 0)]


async def test_the_limits_of_all_steps_are_there_from_the_first_run_on() -> None:
    registry = CollectorRegistry()
    handler = Approval(timeout=None, middleware=[Metrics(registry)]).run()
    await asyncio.sleep(0)
    limit = "tracedflow_step_concurrency_limit"
    assert value(registry, limit, workflow="Approval", step="take") == 3
    assert value(registry, "tracedflow_steps_active", workflow="Approval", step="take") == 0
    await handler.cancel_run()


@virtual_time()
async def test_a_scrape_of_a_live_run_has_what_it_did_so_far() -> None:
    registry = CollectorRegistry()
    flow = Busy(middleware=[Metrics(registry)])
    handler = flow.run()
    await flow.started.wait()
    planned = {"workflow": "Busy", "step": "plan", "outcome": "success", "error_type": ""}
    assert value(registry, "tracedflow_step_attempts_total", **planned) == 1
    assert value(registry, "tracedflow_events_total", workflow="Busy", event_type="Query", action="emitted") == 3
    flow.go_on.set()
    await handler
    assert value(registry, "tracedflow_events_total", workflow="Busy", event_type="Query", action="emitted") == 3


# ------------------------------------------------------------------------------------------------------ exemplars, cap


def exemplars(registry: CollectorRegistry, name: str) -> list[Exemplar]:
    return [s.exemplar for f in registry.collect() for s in f.samples if s.name == name and s.exemplar is not None]


def test_durations_carry_the_ids_of_their_spans(registry: CollectorRegistry, spans: Spans) -> None:
    hand = ByHand(Tracing(spans.provider), Metrics(registry))
    hand.go()
    (found,) = exemplars(registry, "tracedflow_step_duration_seconds_bucket")
    assert found.labels == {"trace_id": hand.step.trace_id, "span_id": hand.step.span_id}
    assert len(exemplars(registry, "tracedflow_run_duration_seconds_bucket")) == 1
    assert b"trace_id" in generate_latest(registry)


def test_at_most_one_exemplar_a_second(registry: CollectorRegistry, spans: Spans) -> None:
    hands = [ByHand(Tracing(spans.provider), Metrics(registry)) for _ in range(3)]
    for hand in hands:
        hand.go()
    (found,) = exemplars(registry, "tracedflow_step_duration_seconds_bucket")
    assert found.labels["span_id"] == hands[0].step.span_id


def test_an_unsampled_span_gives_no_exemplar(registry: CollectorRegistry) -> None:
    unsampled = SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(0))
    by_hand(registry, span_context=unsampled, trace_id="1", span_id="2")
    assert exemplars(registry, "tracedflow_step_duration_seconds_bucket") == []


def test_past_the_cap_new_label_sets_count_as_other_with_one_warning(
    registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(names, "MAX_LABEL_SETS", 3)
    with caplog.at_level(logging.WARNING):
        by_hand(registry, *[(EventStreamed, {"event_type": f"E{number}"}) for number in range(6)])
    other = {"workflow": "_other", "event_type": "_other", "action": "_other"}
    assert value(registry, "tracedflow_events_total", **other) == 4  # three streamed, and the dispatched one
    assert [record.message for record in caplog.records if "tracedflow_events_total" in record.message] == [
        "metric tracedflow_events_total has 3 label sets; further ones count as '_other'. Are there names made from data, such as a run id?"
    ]


def test_steps_past_the_cap_share_one_set_of_children(registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "MAX_LABEL_SETS", 1)
    layer = Metrics(registry)
    for name in ("first", "second", "third"):
        hand = ByHand(layer)
        hand.make_step(name, Query())
        hand.go()
    assert value(registry, "tracedflow_step_queue_wait_seconds_count", workflow="Flow", step="first") == 1
    assert value(registry, "tracedflow_step_queue_wait_seconds_count", workflow="_other", step="_other") == 2
