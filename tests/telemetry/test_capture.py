"""Payloads leave a process only where that is asked for; a canary in any field or argument is looked for at every exit."""

from __future__ import annotations

import io
import json
import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest
from pydantic import BaseModel, Field, SecretStr

from tests.telemetry.conftest import Spans
from tracedflow import Context, Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent, Workflow, step
from tracedflow.context import current_scope
from tracedflow.retry_policy import retry_policy, stop_after_attempt, wait_fixed
from tracedflow.telemetry import Console, Hidden, LogCorrelation, Logs, Metrics, Tracing, redaction, tracing
from tracedflow.telemetry.capture import captured
from tracedflow.telemetry.sdk import TraceFile

CANARIES = [
    "canary-argument", "canary-field", "canary-dynamic", "canary-secret", "canary-listed", "canary-key", "canary-question", "canary-answer",
    "canary-collected", "canary-nested", "canary-result",
]  # fmt: skip


class Load(Event):
    field: str
    secret: SecretStr
    listed: dict[str, list[str]]


class Part(Event):
    text: str


class Bird(Workflow):
    """Puts canaries wherever a value can be, and quotes them all in its errors."""

    @step
    async def begin(self, ev: StartEvent) -> Load:
        return Load(
            field="canary-field", secret=SecretStr("canary-secret"), listed={"canary-key": ["canary-listed"]}, more="canary-dynamic"
        )

    @step
    async def split(self, ctx: Context, ev: Load) -> Part | None:
        for _ in range(2):
            ctx.send_event(Part(text="canary-collected"))
        ctx.write_event_to_stream(Part(text="canary-field"))
        return None

    @step(retry_policy=retry_policy(wait=wait_fixed(0), stop=stop_after_attempt(2)))
    async def fail(self, ctx: Context, ev: Part) -> StopEvent | None:
        parts = ctx.collect_events(ev, [Part] * 2)
        if parts is None:
            return None
        answer = await ctx.wait_for_event(HumanResponseEvent, waiter_event=InputRequiredEvent(prefix="canary-question"))
        try:
            await Nest(telemetry=False, middleware=self._middleware).run(text="canary-nested", quotes=f"{answer.response}")
        except ValueError as error:
            raise LookupError(f"diagnosis: {parts[0].text} {answer.response}") from error
        return StopEvent(result="canary-result")


class Nest(Workflow):
    @step
    async def only(self, ev: StartEvent) -> StopEvent:
        raise ValueError(f"inner diagnosis: {ev.text} {ev.quotes}")


def layers(spans: Spans, registry: CollectorRegistry, console: io.StringIO) -> list[Any]:
    return [Tracing(spans.provider), Metrics(registry), Logs(), Console(console)]


async def test_a_canary_appears_nowhere_at_default_settings(spans: Spans, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    registry, console, said = CollectorRegistry(), io.StringIO(), io.StringIO()
    file = TraceFile(tmp_path / "runs.jsonl", Resource.create())
    spans.provider.add_span_processor(file)
    tracing.on_record = file.add_record
    handler_of_logs = logging.StreamHandler(said)
    handler_of_logs.addFilter(LogCorrelation(mask=True))
    logging.getLogger("tracedflow").addHandler(handler_of_logs)
    try:
        handler = Bird(timeout=5, telemetry=False, middleware=layers(spans, registry, console)).run(topic="canary-argument")
        async for event in handler.stream_events():
            if isinstance(event, InputRequiredEvent):
                await handler.send_event(HumanResponseEvent(response="canary-answer"))
        with pytest.raises(LookupError, match="canary-collected canary-answer"):
            await handler
    finally:
        tracing.on_record = None
        logging.getLogger("tracedflow").removeHandler(handler_of_logs)
    exits = {
        "spans": "\n".join(span.to_json() for span in spans.ended),
        "metrics": generate_latest(registry).decode(),
        "console": console.getvalue(),
        "logs": said.getvalue() + caplog.text,
        "file": file.path.read_text(),
        "report": str(handler.why()),
    }
    assert "diagnosis" in exits["spans"]
    assert "inner diagnosis" in exits["spans"]
    found = {(name, canary) for name, text in exits.items() for canary in CANARIES if canary in _without_source_lines(text)}
    assert found == set()


def _without_source_lines(text: str) -> str:
    """A stack trace shows lines of the program as they are written: code, not payload."""
    return "\n".join(
        line for line in text.replace("\\n", "\n").splitlines() if 'text="canary' not in line and '"canary-nested"' not in line
    )


class Nested(BaseModel):
    secret: SecretStr
    note: str


class Account(BaseModel):
    customer: str = ""
    words: list[dict[str, str]] = []
    nested: Nested | None = None


class Keeps(Workflow):
    """Puts canaries into its store in each way, and quotes them in its errors, none of which an event has held."""

    @step
    async def fill(self, ctx: Context[Account], ev: StartEvent) -> Part:
        await ctx.store.set("customer", "canary-customer")
        async with ctx.store.edit_state() as state:
            state.words.append({"word": "canary-word"})
            state.nested = Nested(secret=SecretStr("can"), note="canary-note")
        return Part(text="go on")

    @step(retry_policy=retry_policy(wait=wait_fixed(0), stop=stop_after_attempt(3)))
    async def quote(self, ctx: Context[Account], ev: Part) -> StopEvent:
        state = await ctx.store.get_state()
        assert state.nested is not None
        match ctx.retry_info().retry_number:
            case 0:
                logging.getLogger("shop").error("about %s", state.customer)
                raise ValueError(f"diagnosis: {state.customer!r} {state.words}")
            case 1:
                async with ctx.store.edit_state() as draft:
                    draft.customer = "canary-draft"
                    raise ValueError(f"diagnosis: {draft.customer}")
            case _:
                await Quotes(telemetry=False, middleware=self._middleware).run(text=state.nested.note)
                raise AssertionError


class Quotes(Workflow):
    @step
    async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
        await ctx.store.set("inner", {"deep": ("canary-inner",)})
        try:
            raise ValueError(f"diagnosis: {ev.text} {await ctx.store.get('inner')}")
        finally:
            await ctx.store.set("other", "canary-other")


async def test_a_canary_in_the_store_appears_nowhere_at_default_settings(
    spans: Spans, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry, console, said = CollectorRegistry(), io.StringIO(), io.StringIO()
    file = TraceFile(tmp_path / "runs.jsonl", Resource.create())
    spans.provider.add_span_processor(file)
    handler_of_logs = logging.StreamHandler(said)
    handler_of_logs.addFilter(LogCorrelation(mask=True))
    logging.getLogger("shop").addHandler(handler_of_logs)
    caplog.set_level(logging.CRITICAL)  # what is not masked on request is the application's own affair
    logging.getLogger("shop").setLevel(logging.INFO)
    try:
        with pytest.raises(ValueError, match="canary-inner"):
            await Keeps(timeout=5, telemetry=False, middleware=layers(spans, registry, console)).run()
    finally:
        logging.getLogger("shop").removeHandler(handler_of_logs)
        logging.getLogger("shop").setLevel(logging.NOTSET)
    exits = {
        "spans": "\n".join(span.to_json() for span in spans.ended),
        "metrics": generate_latest(registry).decode(),
        "console": console.getvalue(),
        "logs": said.getvalue(),
        "file": file.path.read_text(),
    }
    assert exits["spans"].count("diagnosis: ") >= 6
    assert "about ***" in exits["logs"]
    lines = {
        name: "\n".join(line for line in text.replace("\\n", "\n").splitlines() if 'customer = "' not in line)
        for name, text in exits.items()
    }
    assert {(name, text[max(0, text.find("canary-") - 60) :][:90]) for name, text in lines.items() if "canary-" in text} == set()
    assert "diagnosis: '***' [{'word': '***'}]" in exits["spans"]  # names of keys are shown


async def test_values_that_left_the_store_are_no_longer_looked_for() -> None:
    seen: list[str] = []

    class Clears(Workflow):
        @step
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            async with ctx.store.edit_state() as state:
                state.word = "a draft that was committed"
            await ctx.store.set("word", "another one")
            call = current_scope.get().call  # type: ignore[union-attr]
            seen.append(redaction.mask("a draft that was committed, another one", redaction.given_to(call)))
            return StopEvent()

    await Clears(telemetry=False).run()
    assert seen == ["a draft that was committed, ***"]


async def test_a_store_of_a_hundred_thousand_strings_holds_no_error_up(spans: Spans) -> None:
    class Big(Workflow):
        @step
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await ctx.store.set("first", "canary-first")
            await ctx.store.set("many", [f"text number {number}" for number in range(100_000)])
            raise ValueError("diagnosis: canary-first")

    began = time.perf_counter()
    with pytest.raises(ValueError, match="diagnosis"):
        await Big(telemetry=False, middleware=[Tracing(spans.provider)]).run()
    assert time.perf_counter() - began < 2
    assert spans.one("run_step only").status.description == "diagnosis: ***"


# ------------------------------------------------------------------------------------------------------ on request


class Address(BaseModel):
    street: str
    api_key: str = "canary-by-name"


@dataclass
class Point:
    x: int


class Rich(Event):
    name: str
    token: str = "canary-by-name"
    hidden: Annotated[str, Hidden] = "canary-hidden"
    unshown: str = Field(default="canary-hidden", repr=False)
    secret: SecretStr = SecretStr("canary-secret")
    address: Address = Address(street="main")
    point: Point = Field(default_factory=lambda: Point(3))
    when: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    blob: bytes = b"12345"


def test_full_shows_values_and_never_what_is_marked_named_or_secret() -> None:
    text = captured(Rich(name="tea", extra=[1, {"password": "canary-by-name", "ok": None}]), "full")
    assert text is not None
    assert json.loads(text) == {
        "name": "tea", "token": "***", "secret": "***", "address": {"street": "main", "api_key": "***"}, "point": {"x": 3},
        "when": "2026-01-01T00:00:00+00:00", "blob": "bytes", "extra": [1, {"password": "***", "ok": None}],
    }  # fmt: skip


def test_a_summary_shows_names_types_and_sizes() -> None:
    text = captured(Rich(name="tea", extra=[1, 2]), "summary")
    assert text is not None
    shown = json.loads(text)
    assert (shown["name"], shown["extra"], shown["blob"], shown["when"]) == ("str[3]", "list[2]", "bytes[5]", "datetime")
    assert "tea" not in text


@pytest.mark.parametrize("level", ["none", "types"])
def test_other_levels_show_nothing(level: Any) -> None:
    assert captured(Rich(name="tea"), level) is None


def test_what_is_long_is_cut_at_4_kib() -> None:
    text = captured(Rich(name="ä" * 10_000), "full")
    assert text is not None
    assert len(text.encode()) <= 4096
    assert text.endswith("…")


class Shows(Workflow):
    @step
    async def begin(self, ev: StartEvent) -> list[Part]:
        return [Part(text="a"), Part(text="b")]

    @step
    async def end(self, ev: list[Part]) -> StopEvent:
        return StopEvent(result="done")


def facts(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


async def test_captured_payloads_are_attributes_of_runs_and_steps(spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACEDFLOW_CAPTURE", "full")
    await Shows(telemetry=False, middleware=[Tracing(spans.provider)]).run(topic="tea")
    run, begin, end = (facts(spans.one(name)) for name in ("invoke_workflow Shows", "run_step begin", "run_step end"))
    assert (run["tracedflow.input"], run["tracedflow.output"]) == ('{"topic":"tea"}', '{"result":"done"}')
    assert begin["tracedflow.output"] == end["tracedflow.input"] == '[{"text":"a"},{"text":"b"}]'


async def test_openinference_names_are_there_on_request(spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACEDFLOW_CAPTURE", "full")
    monkeypatch.setenv("TRACEDFLOW_COMPAT", "openinference")
    await Shows(telemetry=False, middleware=[Tracing(spans.provider)]).run(topic="tea")
    assert {facts(span)["openinference.span.kind"] for span in spans.ended} == {"CHAIN"}
    assert facts(spans.one("invoke_workflow Shows"))["input.value"] == '{"topic":"tea"}'
    assert facts(spans.one("run_step end"))["output.value"] == '{"result":"done"}'


async def test_by_default_there_is_neither_payload_nor_openinference(spans: Spans) -> None:
    await Shows(telemetry=False, middleware=[Tracing(spans.provider)]).run(topic="tea")
    keys = {key for span in spans.ended for key in facts(span)}
    assert not keys & {"tracedflow.input", "tracedflow.output", "openinference.span.kind", "input.value"}


async def test_an_unknown_level_captures_no_values_and_is_said(spans: Spans, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setenv("TRACEDFLOW_CAPTURE", "everything")
    await Shows(telemetry=False, middleware=[Tracing(spans.provider)]).run(topic="tea")
    assert "tracedflow.input" not in facts(spans.one("invoke_workflow Shows"))
    assert "TRACEDFLOW_CAPTURE=everything is unknown" in caplog.text


# ------------------------------------------------------------------------------------------------------ the application's own redactor


@pytest.fixture
def own() -> Any:
    yield redaction.use_redactor
    redaction.use_redactor(None)


class Mails(Workflow):
    @step
    async def only(self, ev: StartEvent) -> StopEvent:
        raise ValueError("could not reach bob@example.com")


async def test_the_applications_redactor_sees_every_text_last(spans: Spans, own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACEDFLOW_CAPTURE", "full")
    own(lambda text: text.replace("bob@example.com", "<mail>"))
    with pytest.raises(ValueError, match="bob"):
        await Mails(telemetry=False, middleware=[Tracing(spans.provider)]).run(to="bob@example.com")
    exported = "\n".join(span.to_json() for span in spans.ended)
    assert "<mail>" in exported
    assert "bob@" not in exported


async def test_a_redactor_that_raises_lets_nothing_through(spans: Spans, own: Any, caplog: pytest.LogCaptureFixture) -> None:
    def broken(text: str) -> str:
        raise KeyError(text)

    own(broken)
    with pytest.raises(ValueError, match="bob"):
        await Mails(telemetry=False, middleware=[Tracing(spans.provider)]).run()
    assert spans.one("run_step only").status.description == "***"
    assert "bob@" not in "\n".join(span.to_json() for span in spans.ended) + caplog.text
