"""The spans of steps are those that the SDK would make, whichever way they are made; and where its settings matter, it makes them."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import Context as OtelContext
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, Sampler, SamplingResult, TraceIdRatioBased
from opentelemetry.trace import StatusCode

from tests.telemetry.programs import WORKERS, Everything, answered
from tracedflow import Context, Event, RunOptions, StartEvent, StopEvent, Workflow, step
from tracedflow.telemetry import Tracing
from tracedflow.telemetry.tracing._siblings import Anew, Copies, step_spans


class Asked(Sampler):
    """One of the application's own, which samples all: nobody can know that beforehand."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, Any], int]] = []

    def should_sample(
        self, parent_context: OtelContext | None, trace_id: int, name: str, kind: Any = None, attributes: Any = None, links: Any = None
    ) -> SamplingResult:
        self.seen.append((name, dict(attributes or {}), len(links or ())))
        return ALWAYS_ON.should_sample(parent_context, trace_id, name, kind, attributes, links)

    def get_description(self) -> str:
        return "ParentBased{localParentSampled:AlwaysOnSampler}"  # a lie


class Kept:
    """A provider, and what it exported."""

    def __init__(self, **options: Any) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False, **options)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        return self._exporter.get_finished_spans()

    def maker(self) -> type:
        tracer = self.provider.get_tracer("test")
        span = tracer.start_span("run")
        made = step_spans(span, tracer, trace.set_span_in_context(span))
        return type(made)


def plain(spans: Sequence[ReadableSpan]) -> list[str]:
    """Return the spans as their JSON, sorted, with numbers for ids and nothing for times and what depends on them."""
    numbers = {span.get_span_context().span_id: span.name for span in spans}  # type: ignore[union-attr]
    shown: list[str] = []
    for span in spans:
        data = json.loads(span.to_json())
        facts = {key: value for key, value in data["attributes"].items() if not key.endswith(("run.id", "queue_wait", "loop_blocked"))}
        facts = {key: value for key, value in facts.items() if key != "tracedflow.event.id"}
        events = [(event["name"], sorted(event["attributes"])) for event in data["events"]]
        links = sorted((numbers[link.context.span_id], tuple(sorted((link.attributes or {}).items()))) for link in span.links)
        parent = span.parent and numbers.get(span.parent.span_id)
        shown.append(repr((data["name"], data["kind"], parent, data["status"], sorted(facts.items(), key=str), events, links)))
        shown[-1] += repr((data["resource"], span.instrumentation_scope, span.get_span_context().trace_flags))  # type: ignore[union-attr]
    return sorted(shown)


async def test_a_run_has_the_same_spans_made_by_the_sdk_and_after_the_pattern_of_the_run() -> None:
    trees: list[list[str]] = []
    resource = TracerProvider().resource
    for kept in (Kept(resource=resource), Kept(resource=resource, sampler=Asked())):
        await answered(Everything(timeout=30, telemetry=False, middleware=[Tracing(kept.provider)]).run())
        trees.append(plain(kept.spans))
    assert trees[0] == trees[1]
    assert sum("run_step work" in span for span in trees[0]) >= WORKERS


@pytest.mark.parametrize(
    ("options", "made_by"),
    [
        ({}, Copies),
        ({"sampler": ALWAYS_ON}, Copies),
        ({"sampler": ParentBased(TraceIdRatioBased(1.0))}, Copies),
        ({"sampler": TraceIdRatioBased(1.0)}, Anew),
        ({"sampler": ParentBased(ALWAYS_ON, local_parent_sampled=TraceIdRatioBased(0.5))}, Anew),
        ({"sampler": Asked()}, Anew),
        ({"span_limits": SpanLimits(max_span_attributes=5)}, Anew),
        ({"span_limits": SpanLimits(max_span_attribute_length=5)}, Anew),
        ({"span_limits": SpanLimits(max_attribute_length=5)}, Anew),
        ({"span_limits": SpanLimits(max_links=2)}, Anew),
        ({"span_limits": SpanLimits(max_link_attributes=1)}, Anew),
    ],
    ids=str,
)
def test_where_the_sampler_or_the_limits_might_say_otherwise_the_sdk_makes_each_span(options: dict[str, Any], made_by: type) -> None:
    assert Kept(**options).maker() is made_by


@pytest.mark.parametrize("strange", ["field", "fewer", "attributes", "class", "generator"])
def test_spans_of_an_unknown_sdk_are_not_copied(strange: str) -> None:
    tracer: Any = Kept().provider.get_tracer("test")
    span: Any = tracer.start_span("run")
    match strange:
        case "field":
            span._brand_new = 1
        case "fewer":
            del span._trace_config
        case "attributes":
            span._attributes._brand_new = 1
        case "class":
            span.__class__ = type("Span", (type(span),), {"__module__": "vendor.sdk"})
        case _:
            tracer = trace.NoOpTracer()
    assert type(step_spans(span, tracer, trace.set_span_in_context(span))) is Anew


class Next(Event):
    pass


class Talkative(Workflow):
    """Its second step does to its span whatever one may do."""

    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> Next:
        return Next()

    @step
    async def talk(self, ctx: Context, ev: Next) -> StopEvent:
        span: Any = trace.get_current_span()
        assert isinstance(span, Span)
        assert span.is_recording()
        span.set_attribute("one", 1)
        span.set_attributes({"list": ["a", "b"], "odd": {"deep": [1]}})
        span.add_event("first", {"at": 1})
        span.add_link(span.get_span_context(), {"to": "itself"})
        span.add_link(span.get_span_context())
        span.update_name("run_step renamed")
        span.record_exception(ValueError("told"))
        ctx.annotate(kind="talk")
        ctx.measure("words", 3)
        with trace.get_tracer("user", tracer_provider=None).start_as_current_span("inner"):
            pass
        self.lengths = (len(span.events), len(span.links), span.dropped_links, span.dropped_events)
        return StopEvent()


async def test_a_step_may_do_to_its_span_whatever_one_may_do() -> None:
    found: list[ReadableSpan] = []
    flows: list[Talkative] = []
    for options in ({}, {"sampler": Asked()}):
        kept = Kept(**options)
        flow = Talkative(telemetry=False, middleware=[Tracing(kept.provider)])
        await flow.run()
        flows.append(flow)
        found += [span for span in kept.spans if span.name == "run_step renamed"]
    copied, made = found
    left_out = ("tracedflow.run.id", "tracedflow.step.queue_wait")
    facts = [{key: value for key, value in (span.attributes or {}).items() if key not in left_out} for span in (copied, made)]
    assert facts[0] == facts[1]
    assert [event.name for event in copied.events] == ["first", "exception"] == [event.name for event in made.events]
    assert [dict(link.attributes or {}) for link in copied.links] == [dict(link.attributes or {}) for link in made.links]
    assert len(copied.links) == 3
    assert flows[0].lengths == flows[1].lengths == (2, 3, 0, 0)


def test_links_and_events_beyond_the_limit_are_dropped_and_counted_as_the_sdk_does() -> None:
    kept = Kept(span_limits=SpanLimits(max_events=2, max_links=40))
    tracer = kept.provider.get_tracer("test")
    run = tracer.start_span("run")
    made = step_spans(run, tracer, trace.set_span_in_context(run))
    assert isinstance(made, Copies)
    span: Any = made.make("step", {}, [made.link(run.get_span_context(), "triggered_by", "Next")])
    assert repr(span._links) == repr([*span.links])
    for number in range(4):
        span.add_event(f"event {number}")
    for _ in range(45):
        span.add_link(run.get_span_context())
    span.end()
    (ended,) = kept.spans
    assert [event.name for event in ended.events] == ["event 2", "event 3"]
    assert (ended.dropped_events, len(ended.links), ended.dropped_links) == (2, 40, 6)


def test_additions_from_many_threads_are_all_kept() -> None:
    tracer = Kept().provider.get_tracer("test")
    run = tracer.start_span("run")
    made = step_spans(run, tracer, trace.set_span_in_context(run))
    for _ in range(50):
        span: Any = made.make("step", {}, [])
        gate = threading.Barrier(4)

        def add(gate: threading.Barrier = gate, span: Any = span) -> None:
            gate.wait()
            span.add_event("told")

        threads = [threading.Thread(target=add) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(span.events) == 4


def test_what_ended_takes_nothing_more_and_a_status_is_kept() -> None:
    kept = Kept()
    tracer = kept.provider.get_tracer("test")
    run = tracer.start_span("run")
    made = step_spans(run, tracer, trace.set_span_in_context(run))
    span: Any = made.make("step", {}, [])
    span.set_status(StatusCode.ERROR, "bad")
    span.end()
    assert not span.is_recording()
    assert kept.spans[0].status.description == "bad"
    assert run.is_recording()
    assert kept.spans[0].parent == run.get_span_context()


async def test_a_sampler_of_the_application_sees_every_step_with_its_attributes_and_links() -> None:
    sampler = Asked()
    await Talkative(telemetry=False, middleware=[Tracing(Kept(sampler=sampler).provider)]).run()
    (seen,) = [(facts, links) for name, facts, links in sampler.seen if name == "run_step talk"]
    assert seen[0]["tracedflow.trigger.step"] == "begin"
    assert seen[1] == 1


class Stamps(SpanProcessor):
    """As those that copy baggage: writes onto each span as it begins."""

    def on_start(self, span: Span, parent_context: OtelContext | None = None) -> None:
        assert parent_context is not None
        parent = trace.get_current_span(parent_context)
        span.set_attribute("stamp", f"{span.name} {len(span.attributes or {})} {parent.is_recording()} {span.end_time}")


async def test_processors_may_write_onto_a_span_as_it_begins() -> None:
    kept = Kept()
    kept.provider.add_span_processor(Stamps())
    await Talkative(timeout=5, telemetry=False, middleware=[Tracing(kept.provider)]).run()
    stamps = [str((span.attributes or {}).get("stamp")) for span in kept.spans if span.name.startswith("run_step")]
    assert stamps == ["run_step begin 7 True None", "run_step talk 8 True None"]


async def test_tags_that_are_no_text_are_cleaned_in_every_span() -> None:
    kept = Kept()
    tags: Any = {"team": ["blue", "red"]}
    await Talkative(telemetry=False, middleware=[Tracing(kept.provider)]).run(options=RunOptions(tags=tags))
    for span in kept.spans:
        assert (span.attributes or {})["tracedflow.tag.team"] == ("blue", "red")
