"""The model of the examples: one surface over two backends, spans by the conventions, answers that follow the prompt alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import BaseModel

from examples._kit import model as models
from examples._kit.calls import json_in
from examples._kit.messages import Asked, Message
from examples._kit.model import (
    Model,
    ModelRefusedError,
    ModelUnavailableError,
    OpenAICompatModel,
    ScriptedModel,
    StructuredOutputError,
    call_of,
    tool_result,
    user,
)
from examples._kit.scripted_server import ScriptedServer
from tracedflow import StartEvent, StopEvent, Workflow, step
from tracedflow.retry_policy import retry_if_exception_type, retry_policy, stop_after_attempt, wait_none


class Length(BaseModel):
    length: int


def count(asked: Asked) -> dict[str, int]:
    return {"length": len(asked.question)}


def count_when_told(asked: Asked) -> str:
    return '{"length": 1}' if "cannot be used" in asked.last else "It is one letter long."


def plan(asked: Asked) -> Message | str:
    if asked.results:
        return f"It is {' and '.join(asked.results)}."
    return Message(role="assistant", content="Let me see.", tool_calls=[call_of("add", a=1, b=22222), call_of("echo", text="äö")])


RULES: dict[str, Callable[[Asked], Any]] = {
    "t.count": count,
    "t.told": count_when_told,
    "t.stubborn": lambda asked: '{"length": "long"}',
    "t.plan": plan,
    "t.echo": lambda asked: f"You said:  {asked.last}\n",
}


@pytest.fixture(params=["scripted", "over http", "over http without schemas"])
def model(request: pytest.FixtureRequest) -> Iterator[Model]:
    """Each backend, with the same rules."""
    if request.param == "scripted":
        yield ScriptedModel(RULES)
        return
    pytest.importorskip("openai")
    with ScriptedServer(RULES, takes_schemas=request.param == "over http") as server:
        yield OpenAICompatModel(server.url, "none-needed", "small")


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    kept, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    monkeypatch.setattr(trace, "get_tracer", lambda name, *_: provider.get_tracer(name))
    yield kept
    provider.shutdown()


# --- both backends ---


async def test_a_completion_is_what_the_rule_makes_of_the_messages(model: Model) -> None:
    assert await model.complete("three words here", prompt_name="t.echo") == "You said:  three words here\n"
    assert await model.complete([user("a"), user("b")], prompt_name="t.echo") == "You said:  b\n"


async def test_a_stream_comes_in_pieces_that_make_up_the_answer(model: Model) -> None:
    pieces = [piece async for piece in model.stream("three words here", prompt_name="t.echo")]
    assert len(pieces) > 3
    assert "".join(pieces) == "You said:  three words here\n"


async def test_a_structured_answer_is_checked_and_repaired_once(model: Model) -> None:
    # Where the schema has to go into the prompt, the prompt is longer.
    assert (await model.structured(Length, "four", prompt_name="t.count")).length >= 4
    assert await model.structured(Length, "four", prompt_name="t.told") == Length(length=1)
    with pytest.raises(StructuredOutputError, match=r"t\.stubborn.*Length") as caught:
        await model.structured(Length, "four", prompt_name="t.stubborn")
    assert caught.value.answer == '{"length": "long"}'


async def test_tools_are_asked_for_and_their_results_are_read(model: Model) -> None:
    pieces: list[str] = []
    asked: list[Message] = [user("what is it?")]
    wish = await model.chat(asked, prompt_name="t.plan", on_text=pieces.append)
    assert wish == await model.chat(asked, prompt_name="t.plan")
    assert "".join(pieces) == wish.content == "Let me see."
    assert [(call.name, json_in(call.arguments)) for call in wish.tool_calls] == [("add", {"a": 1, "b": 22222}), ("echo", {"text": "äö"})]
    assert len({call.id for call in wish.tool_calls}) == 2
    answers = [tool_result(call, call.name) for call in wish.tool_calls]
    assert (await model.chat([*asked, wish, *answers], prompt_name="t.plan")).content == "It is add and echo."


async def test_vectors_of_alike_texts_are_near(model: Model) -> None:
    one, same, other = await model.embed(["the old lighthouse", "an old lighthouse", "price of bread"])
    assert sum(a * b for a, b in zip(one, same, strict=True)) > 0.9
    assert abs(sum(a * b for a, b in zip(one, other, strict=True))) < 0.3


async def test_each_call_is_a_span_by_the_genai_conventions(model: Model, exporter: InMemorySpanExporter) -> None:
    await model.complete("hello you", prompt_name="t.echo")
    async for _ in model.stream("hello you", prompt_name="t.echo"):
        pass
    await model.embed(["hello"])
    whole, stream, vectors = exporter.get_finished_spans()
    for span in (whole, stream):
        facts = dict(span.attributes or {})
        assert (span.name, span.kind.name) == (f"chat {model.name}", "CLIENT")
        assert facts["gen_ai.operation.name"] == "chat"
        assert facts["gen_ai.request.model"] == facts["gen_ai.response.model"] == model.name
        assert facts["gen_ai.prompt.name"] == "t.echo"
        assert (facts["gen_ai.usage.input_tokens"], facts["gen_ai.usage.output_tokens"]) == (2, 5)
        assert facts["gen_ai.response.finish_reasons"] == ("stop",)
        assert "hello" not in span.to_json()
    assert vectors.name == f"embeddings {model.name}"
    assert (vectors.attributes or {})["gen_ai.embeddings.dimension.count"] == 512


async def test_the_tokens_of_both_calls_of_a_repair_are_told(model: Model, exporter: InMemorySpanExporter) -> None:
    await model.structured(Length, "four", prompt_name="t.told")
    answered = [span for span in exporter.get_finished_spans() if span.status.status_code.name != "ERROR"]
    assert len(answered) == 2
    assert all((span.attributes or {})["gen_ai.usage.output_tokens"] for span in answered)


async def test_a_stream_that_is_left_early_ends_its_span(model: Model, exporter: InMemorySpanExporter) -> None:
    stream = model.stream("three words here", prompt_name="t.echo")
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    [span] = exporter.get_finished_spans()
    assert span.status.status_code.name == "UNSET"


def test_both_backends_have_the_surface_of_the_protocol() -> None:
    for backend in (ScriptedModel, OpenAICompatModel):
        for name in ("complete", "stream", "structured", "chat", "embed"):
            wanted = inspect.signature(getattr(Model, name)).parameters
            assert list(inspect.signature(getattr(backend, name)).parameters) == list(wanted), (backend, name)


# --- errors ---


@pytest.mark.parametrize(("fault", "status"), [("429", 429), ("500", 500), ("drop", None)])
async def test_a_fault_of_the_server_is_raised_at_once_and_marks_the_span(
    fault: Any, status: int | None, exporter: InMemorySpanExporter
) -> None:
    pytest.importorskip("openai")
    with ScriptedServer(RULES, faults=[fault]) as server:
        model = OpenAICompatModel(server.url, "none-needed", "small")
        with pytest.raises(ModelUnavailableError) as caught:
            await model.complete("hello you", prompt_name="t.echo")
        assert len(server.requests) == 1  # retries are the retry policy's
        assert await model.complete("hello you", prompt_name="t.echo") == "You said:  hello you\n"
    assert caught.value.status == status
    assert caught.value.retry_after == (0 if status else None)
    failed, good = exporter.get_finished_spans()
    assert (failed.attributes or {})["error.type"] == str(status or "ModelUnavailableError")
    assert failed.status.status_code.name == "ERROR"
    assert good.status.status_code.name == "UNSET"
    assert "hello" not in failed.to_json()


async def test_a_stream_that_is_cut_is_not_taken_for_the_whole(exporter: InMemorySpanExporter) -> None:
    pytest.importorskip("openai")
    pieces: list[str] = []
    with ScriptedServer(RULES, faults=["drop"]) as server:
        model = OpenAICompatModel(server.url, "none-needed", "small")
        with pytest.raises(ModelUnavailableError):
            async for piece in model.stream("three words here", prompt_name="t.echo"):
                pieces.append(piece)  # noqa: PERF401 - what came before the error is looked at
    assert pieces == ["You"]
    [span] = exporter.get_finished_spans()
    assert span.status.status_code.name == "ERROR"


async def test_what_no_later_attempt_mends_is_told_in_the_words_of_the_server() -> None:
    pytest.importorskip("openai")
    with ScriptedServer(RULES, faults=["401"]) as server:
        model = OpenAICompatModel(server.url, "wrong", "small")
        with pytest.raises(ModelRefusedError, match=r"^small at http://\S+ refused with status 401: planted: 401$") as caught:
            await model.complete("x", prompt_name="t.echo")
        assert caught.value.status == 401
        with pytest.raises(ModelRefusedError, match=r"status 404: .*scripts/rag\.py"):
            await model.complete("x", prompt_name="rag.nothing")


async def test_the_seconds_that_a_busy_server_asks_for_are_told() -> None:
    pytest.importorskip("openai")
    asks = r"status 429, and asks to wait 1\.5 s"
    with ScriptedServer(RULES, faults=["429"], retry_after=1.5) as server, pytest.raises(ModelUnavailableError, match=asks) as caught:
        await OpenAICompatModel(server.url, "none-needed", "small").complete("x", prompt_name="t.echo")
    assert (caught.value.status, caught.value.retry_after) == (429, 1.5)


@pytest.mark.parametrize("streams", [False, True])
async def test_a_server_that_does_not_answer_in_time_is_worth_another_attempt(streams: bool) -> None:
    pytest.importorskip("openai")
    with ScriptedServer(RULES, faults=["slow"], slowness=600) as server:
        model = OpenAICompatModel(server.url, "none-needed", "small")
        model.timeout = 0.05
        with pytest.raises(ModelUnavailableError, match="did not answer in time"):
            await said_by(model, streams)
        model.timeout = 30
        assert await said_by(model, streams) == "You said:  hello you\n"


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("fault", ["garbled", "page"])
async def test_what_is_no_answer_of_a_model_makes_the_address_suspect(fault: Any, streams: bool) -> None:
    pytest.importorskip("openai")
    with ScriptedServer(RULES, faults=[fault]) as server, pytest.raises(ModelRefusedError, match="Is that the base URL of an OpenAI-style"):
        await said_by(OpenAICompatModel(server.url, "none-needed", "small"), streams)


async def said_by(model: Model, streams: bool) -> str:
    if streams:
        return "".join([piece async for piece in model.stream("hello you", prompt_name="t.echo")])
    return await model.complete("hello you", prompt_name="t.echo")


async def test_a_step_is_retried_when_the_model_is_busy() -> None:
    pytest.importorskip("openai")

    class Asking(Workflow):
        @step(retry_policy=retry_policy(retry=retry_if_exception_type(ModelUnavailableError), wait=wait_none(), stop=stop_after_attempt(3)))
        async def ask(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await model.complete("hello you", prompt_name="t.echo"))

    with ScriptedServer(RULES, faults=["429", "drop"]) as server:
        model = OpenAICompatModel(server.url, "none-needed", "small")
        assert await Asking().run() == "You said:  hello you\n"
        assert len(server.requests) == 3


async def test_a_prompt_without_a_rule_says_where_to_write_one() -> None:
    with pytest.raises(models.NoRuleError, match=r"RULES\['nothing'\] to examples/_kit/scripts/rag\.py"):
        await ScriptedModel().complete("x", prompt_name="rag.nothing")
    with pytest.raises(models.NoRuleError, match=r"scripts/no_such\.py"):
        await ScriptedModel().complete("x", prompt_name="no_such.prompt")


# --- which one ---


def test_the_flag_names_a_model_of_the_server_and_nothing_else_chooses_one(capsys: pytest.CaptureFixture[str]) -> None:
    place = {models.BASE_URL: "http://127.0.0.1:1/v1", models.API_KEY: "k"}
    assert models.choose_model(place).name == "scripted"
    assert models.choose_model(place, "small").name == "small"
    assert models.choose_model({**place, models.MODEL: "large"}, "scripted").name == "scripted"
    assert models.choose_model({"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": "http://127.0.0.1:1/v1"}).name == "scripted"
    with pytest.raises(SystemExit) as ended:
        models.choose_model({"OPENAI_API_KEY": "k"}, "small")
    assert ended.value.code == 2
    assert "TRACEDFLOW_LLM_BASE_URL" in capsys.readouterr().err


@pytest.mark.parametrize("text", ['{"a": [1]}', 'Here it is:\n```json\n{"a": [1]}\n```\nDone.', 'So: {"a": [1]} - as you asked.'])
def test_json_is_found_in_an_answer(text: str) -> None:
    assert json_in(text) == {"a": [1]}
