from __future__ import annotations

import asyncio
import inspect
import json
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from examples._kit.cli import CORPUS
from examples._kit.messages import Asked, Message, ToolCall
from examples._kit.model import ModelUnavailableError, OpenAICompatModel, call_of
from examples._kit.scripted_server import MODEL, ScriptedServer
from examples._kit.tools import Tool, handbook_tools
from examples.function_calling_agent import AgentAnswer, AgentState, FunctionCallingAgent, FunctionOutputEvent, StreamEvent
from examples.react_agent import ReActAgent
from tests.examples.keeping import KeepingModel
from tracedflow import Context

SUM = "What is (2123 + 2321) * (300 + 12)?"
PROMPT = "function_calling_agent.think"


def agent(model: Any = None, tools: list[Tool] | None = None, **options: Any) -> FunctionCallingAgent:
    return FunctionCallingAgent(model or KeepingModel(), handbook_tools(CORPUS) if tools is None else tools, timeout=60, **options)


def calls_once(*calls: ToolCall) -> KeepingModel:
    """A model that makes some calls, and then repeats what the tools said."""
    return KeepingModel(
        {PROMPT: lambda asked: " | ".join(asked.results) if asked.results else Message(role="assistant", tool_calls=list(calls))}
    )


def check_pairing(messages: Sequence[Message]) -> None:
    """Each message with calls is followed by one answer for each, with its id, and there are no other answers."""
    open_calls: list[str] = []
    for message in messages:
        if message.role == "tool":
            assert open_calls
            assert message.tool_call_id == open_calls.pop(0)
        else:
            assert open_calls == []
            open_calls = [call.id for call in message.tool_calls]
    assert open_calls == []


def calls_in(answer: AgentAnswer) -> list[tuple[str, dict[str, Any]]]:
    return [(source.tool, json.loads(source.arguments)) for source in answer.sources]


async def test_calls_that_do_not_depend_on_each_other_are_made_in_one_turn() -> None:
    model = KeepingModel()
    handler = agent(model).run(input=SUM)
    answer = await handler
    assert calls_in(answer) == [
        ("add", {"a": 2123, "b": 2321}),
        ("add", {"a": 300, "b": 12}),
        ("multiply", {"a": 2123 + 2321, "b": 300 + 12}),
    ]
    assert answer.response == f"The result is {(2123 + 2321) * (300 + 12)}."
    assert [record.step for record in handler.record] == [
        "prepare_chat_history",
        *["handle_llm_input", "handle_tool_calls"] * 2,
        "handle_llm_input",
    ]


async def test_it_comes_to_the_same_result_as_the_agent_that_writes_text() -> None:
    question = "What is (2123 + 2321) * 312?"
    written = await ReActAgent(KeepingModel(), handbook_tools(CORPUS), timeout=60).run(input=question)
    called = await agent().run(input=question)
    assert called.response == written.response == f"The result is {(2123 + 2321) * 312}."


async def test_the_model_is_told_the_signature_of_each_tool() -> None:
    def weigh(load: str, times: int = 1, exact: bool = False) -> float:
        """Weigh a load."""
        return 0.0

    model = calls_once()
    tool = Tool(weigh)
    await agent(model, [tool]).run(input="?")
    [spec] = [each["function"] for each in model.asked[0].tools]
    assert (spec["name"], spec["description"]) == ("weigh", "Weigh a load.")
    properties, signature = spec["parameters"]["properties"], inspect.signature(weigh).parameters
    assert list(properties) == list(signature)
    assert [each["type"] for each in properties.values()] == ["string", "integer", "boolean"]
    assert spec["parameters"]["required"] == [name for name, each in signature.items() if each.default is each.empty]
    assert {name: each["default"] for name, each in properties.items() if "default" in each} == {"times": 1, "exact": False}
    assert spec["parameters"]["additionalProperties"] is False


@pytest.mark.parametrize("question", [SUM, "What is 10 - 4?", "How many steps does the lighthouse have? Multiply that by 12."])
async def test_every_call_is_answered_by_one_message_with_its_id(question: str) -> None:
    model = KeepingModel()
    talker = agent(model)
    ctx: Context[AgentState] = Context(talker)
    for each in (question, SUM, question):
        await talker.run(input=each, ctx=ctx)
    for asked in model.asked:
        check_pairing(asked.messages)
    last = [call.id for message in model.asked[-1].messages for call in message.tool_calls]
    assert len(last) == len(set(last)) > 3


async def test_calls_of_one_turn_run_at_the_same_time_and_answers_stay_with_their_calls() -> None:
    together, within = asyncio.Barrier(2), threading.Barrier(2, timeout=30)
    order: list[str] = []

    async def slow(name: str) -> str:
        """Wait for the other one."""
        await together.wait()
        if name == "first":
            while "second" not in order:
                await asyncio.sleep(0)
        order.append(name)
        return name

    def threaded(name: str) -> str:
        """Wait for the other one, in a thread."""
        within.wait()
        return name

    tools = [Tool(slow), Tool(threaded)]
    handler = agent(calls_once(call_of("slow", name="first"), call_of("slow", name="second")), tools).run(input="go")
    told = [event.output async for event in handler.stream_events() if isinstance(event, FunctionOutputEvent)]
    assert (await handler).response == "first | second"
    assert told == order == ["second", "first"]  # shown as they end

    model = calls_once(call_of("threaded", name="a"), call_of("threaded", name="b"))
    assert (await agent(model, tools).run(input="go")).response == "a | b"


async def test_whatever_is_wrong_with_a_call_is_the_answer_to_it() -> None:
    def break_down() -> str:
        """Raise."""
        raise OSError("out of order")

    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    model = calls_once(
        call_of("add", a=1, b=2),
        call_of("add", a="one", b=2),
        call_of("add", a=1),
        ToolCall(id="", name="add", arguments='{"a": 1,'),
        call_of("break_down"),
        call_of("divide", a=1, b=2),
    )
    answer = await agent(model, [Tool(add), Tool(break_down)]).run(input="go")
    assert [source.is_error for source in answer.sources] == [False, True, True, True, True, True]
    outputs = [source.output for source in answer.sources]
    assert outputs == model.asked[-1].results  # what the model is told
    assert outputs[0] == "3"
    assert "a: Input should be a valid integer" in outputs[1]
    assert "b: Field required" in outputs[2]
    assert "Invalid JSON" in outputs[3]
    assert outputs[4:] == [
        "Error: break_down failed: OSError: out of order",
        "Error: there is no tool 'divide'; there are add, break_down",
    ]
    check_pairing(model.asked[-1].messages)


async def test_a_talk_is_remembered_on_its_context_and_on_no_other() -> None:
    talker = agent()
    ctx: Context[AgentState] = Context(talker)
    await talker.run(input="Hello, my name is Odette.", ctx=ctx)
    await talker.run(input=SUM, ctx=ctx)
    saved = json.loads(json.dumps(ctx.to_dict()))
    other = agent()  # as in another process
    assert (await other.run(input="What is my name?", ctx=Context.from_dict(other, saved))).response == "Your name is Odette."
    assert (await other.run(input="What is my name?")).response == "You have not told me your name."


async def test_an_agent_that_never_ends_is_ended_after_its_turns() -> None:
    model = KeepingModel({PROMPT: lambda asked: Message(role="assistant", tool_calls=[call_of("add", a=1, b=1)])})
    talker = agent(model, max_turns=3)
    ctx: Context[AgentState] = Context(talker)
    answer = await talker.run(input="Go on.", ctx=ctx)
    assert (answer.finished, answer.response) == (False, "There was no answer after 3 turns.")
    assert (len(model.asked), len(answer.sources)) == (3, 2)
    check_pairing((await ctx.store.get_state()).memory)  # the last call has no answer, so it is not in the talk


async def test_over_http_calls_come_in_pieces_and_are_the_same() -> None:
    pytest.importorskip("openai")
    offline = KeepingModel()
    expected = await agent(offline).run(input=SUM)
    with ScriptedServer() as server:
        handler = agent(OpenAICompatModel(server.url, "none-needed", MODEL)).run(input=SUM)
        pieces = [event.delta async for event in handler.stream_events() if isinstance(event, StreamEvent)]
        assert await handler == expected
    assert all(request["stream"] for request in server.requests)
    assert [[call["id"] for m in r["messages"] for call in m.get("tool_calls", ())] for r in server.requests] == [
        [call.id for message in asked.messages for call in message.tool_calls] for asked in offline.asked
    ]
    assert len(pieces) > 5
    assert "".join(pieces).endswith(expected.response)


async def test_a_stream_that_breaks_off_in_a_call_leaves_no_half_call_behind() -> None:
    pytest.importorskip("openai")
    with ScriptedServer(faults=[None, "drop"]) as server:
        talker = agent(OpenAICompatModel(server.url, "none-needed", MODEL))
        ctx: Context[AgentState] = Context(talker)
        with pytest.raises(ModelUnavailableError):
            await talker.run(input=SUM, ctx=ctx)
        check_pairing((await ctx.store.get_state()).memory)
        answer = await talker.run(input=SUM, ctx=ctx)
        assert answer.response == f"The result is {(2123 + 2321) * (300 + 12)}."


async def test_an_agent_that_is_asked_nothing_says_so_before_it_asks_the_model() -> None:
    model = KeepingModel()
    with pytest.raises(ValueError, match="needs something to answer"):
        await agent(model).run()
    assert model.asked == []


async def test_the_model_is_asked_with_the_whole_talk_each_time() -> None:
    model = KeepingModel()
    await agent(model).run(input=SUM)

    def roles(asked: Asked) -> list[str]:
        return [message.role for message in asked.messages]

    assert [roles(asked) for asked in model.asked] == [
        ["system", "user"],
        ["system", "user", "assistant", "tool", "tool"],
        ["system", "user", "assistant", "tool", "tool", "assistant", "tool"],
    ]
