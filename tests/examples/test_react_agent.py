from __future__ import annotations

import json
from typing import Any

import pytest

from examples._kit.cli import CORPUS
from examples._kit.messages import Asked, ToolCall
from examples._kit.tools import Tool, handbook_tools
from examples.react_agent import AgentAnswer, AgentState, FunctionOutputEvent, OutOfFormError, ReActAgent, StreamEvent, parse
from tests.examples.keeping import KeepingModel
from tracedflow import Context

SUM = "What is (2123 + 2321) * 312?"
TURN = ["prepare_chat_history", "handle_llm_input"]


def agent(model: KeepingModel | None = None, tools: list[Tool] | None = None, **options: Any) -> ReActAgent:
    return ReActAgent(model or KeepingModel(), handbook_tools(CORPUS) if tools is None else tools, timeout=60, **options)


def calls_in(answer: AgentAnswer) -> list[tuple[str, dict[str, Any]]]:
    return [(source.tool, json.loads(source.arguments)) for source in answer.sources]


async def test_tools_are_called_one_after_the_other_with_what_the_last_one_gave() -> None:
    handler = agent().run(input=SUM)
    answer = await handler
    assert calls_in(answer) == [("add", {"a": 2123, "b": 2321}), ("multiply", {"a": 2123 + 2321, "b": 312})]
    assert answer.response == f"The result is {(2123 + 2321) * 312}."
    out_of_form = TURN
    expected = ["new_user_msg", *out_of_form, *[*TURN, "handle_tool_calls"] * 2, *TURN]
    assert [record.step for record in handler.record] == expected


async def test_the_answer_is_what_the_tools_say_not_what_the_model_knows() -> None:
    def multiply(a: int, b: int) -> int:
        """Multiply two whole numbers."""
        return 7

    tools = [tool for tool in handbook_tools(CORPUS) if tool.name != "multiply"]
    assert (await agent(tools=[*tools, Tool(multiply)]).run(input=SUM)).response == "The result is 7."


async def test_a_reply_out_of_form_comes_back_as_an_observation() -> None:
    model = KeepingModel()
    answer = await agent(model).run(input=SUM)
    assert "Action: add(2123, 2321)" in answer.reasoning[0]  # the planted fault
    first, second, *_ = model.asked
    assert "Observation" not in first.text
    assert second.messages[-2].content == answer.reasoning[0]
    assert second.last.startswith("Observation: Error: this reply cannot be used: an Action needs the name alone")
    assert "Action Input: " in answer.reasoning[2]


async def test_a_tool_that_does_not_exist_comes_back_as_an_observation() -> None:
    model = KeepingModel()
    answer = await agent(model).run(input="What is 10 - 4?")
    assert model.asked[1].last == "Observation: Error: there is no tool 'subtract'; there are add, multiply, lookup"
    assert calls_in(answer) == [("subtract", {"a": 10, "b": 4}), ("add", {"a": 10, "b": -4})]
    assert answer.response == "The result is 6."


async def test_a_tool_that_raises_and_arguments_that_do_not_fit_come_back_as_observations() -> None:
    def lookup(question: str) -> str:
        """Look up."""
        raise OSError("the book is lent")

    model = KeepingModel()
    answer = await agent(model, [Tool(lookup)]).run(input="Who founded the library?")
    assert model.asked[1].last == "Observation: Error: lookup failed: OSError: the book is lent"
    assert answer.response == "NOT FOUND"

    answer = await agent().run(input="What is 2.5 + 1?")
    assert "a: Input should be a valid integer" in answer.sources[0].output


async def test_a_talk_is_remembered_on_its_context_and_on_no_other() -> None:
    model = KeepingModel()
    talker = agent(model)
    ctx: Context[AgentState] = Context(talker)
    await talker.run(input="Hello, my name is Odette.", ctx=ctx)
    assert (await talker.run(input="What is my name?", ctx=ctx)).response == "Your name is Odette."
    assert [message.role for message in model.asked[-1].messages] == ["system", "user", "assistant", "user"]
    assert (await talker.run(input="What is my name?")).response == "You have not told me your name."

    saved = json.loads(json.dumps(ctx.to_dict()))
    other = agent()  # as in another process
    assert (await other.run(input="What is my name?", ctx=Context.from_dict(other, saved))).response == "Your name is Odette."


async def test_what_a_run_thought_and_used_is_not_in_the_next_one() -> None:
    model = KeepingModel()
    talker = agent(model)
    ctx: Context[AgentState] = Context(talker)
    await talker.run(input=SUM, ctx=ctx)
    second = await talker.run(input="Who founded the library?", ctx=ctx)
    assert [source.tool for source in second.sources] == ["lookup"]
    assert not [message for message in model.asked[-2].messages if message.content.startswith("Observation")]


async def test_an_agent_that_never_ends_is_ended_after_its_turns() -> None:
    model = KeepingModel({"react_agent.think": lambda asked: 'Thought: Again.\nAction: add\nAction Input: {"a": 1, "b": 1}'})
    answer = await agent(model, max_turns=3).run(input="Go on.")
    assert (answer.finished, answer.response) == (False, "There was no answer after 3 turns.")
    assert len(model.asked) == 3
    assert len(answer.sources) == 2  # nobody would read what the third gives


async def test_each_piece_and_each_result_of_a_tool_goes_to_the_stream_in_order() -> None:
    handler = agent().run(input="What is 3 * 4?")
    shown: list[str] = []
    async for event in handler.stream_events():
        match event:
            case StreamEvent(delta=delta):
                shown.append(delta)
            case FunctionOutputEvent(output=output):
                shown.append(f"[{output}]")
    answer = await handler
    malformed, _, call, observation, last = answer.reasoning
    assert "".join(shown) == f"{malformed}{call}[12]{last}"
    assert observation == "Observation: 12"
    assert len(shown) > len(answer.reasoning)


async def test_an_observation_that_the_model_makes_up_is_cut_off() -> None:
    def think(asked: Asked) -> str:
        if "Observation" in asked.last:
            return f"Answer: {asked.last}"
        return 'Thought: I add.\nAction: add\nAction Input: {"a": 1, "b": 2}\nObservation: 99\nThought: So.\nAnswer: 99'

    answer = await agent(KeepingModel({"react_agent.think": think})).run(input="1 and 2?")
    assert answer.response == "Observation: 3"


async def test_an_agent_that_is_asked_nothing_says_so_before_it_asks_the_model() -> None:
    model = KeepingModel()
    with pytest.raises(ValueError, match="needs something to answer"):
        await agent(model).run()
    assert model.asked == []


@pytest.mark.parametrize(
    ("reply", "parsed"),
    [
        ("Thought: x\nAnswer: It is 3.\nIndeed.", "It is 3.\nIndeed."),
        ("Answer: 3", "3"),
        ('Action: add\nAction Input: {"a": 1}', ToolCall(id="turn_1", name="add", arguments='{"a": 1}')),
        ('Thought: x\nAction:  add\n\nAction Input:{"a": {"b": 1}}', ToolCall(id="turn_1", name="add", arguments='{"a": {"b": 1}}')),
    ],
)
def test_a_reply_in_form_is_read(reply: str, parsed: str | ToolCall) -> None:
    assert parse(reply, 1) == parsed


@pytest.mark.parametrize("reply", ["", "I think it is 3.", "Action: add", "Action: add(1, 2)", "Thought: Answer: 3"])
def test_a_reply_out_of_form_is_refused(reply: str) -> None:
    with pytest.raises(OutOfFormError):
        parse(reply, 1)
