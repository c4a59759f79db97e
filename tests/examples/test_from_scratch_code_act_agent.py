from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import pytest

from examples import from_scratch_code_act_agent as example
from examples._kit.messages import Asked
from examples._kit.sandbox import Sandbox
from examples.from_scratch_code_act_agent import (
    FUNCTIONS,
    CodeActAgent,
    CodeActAnswer,
    CodeActState,
    CodeExecutionEvent,
    CodeResultEvent,
    StreamEvent,
    code_in,
    interpreter,
)
from tests.examples.cases.from_scratch_code_act_agent import fibonacci_numbers
from tests.examples.keeping import KeepingModel
from tracedflow import Context

PROMPT = "from_scratch_code_act_agent.act"
FIRST_TEN = "What is the sum of the first 10 Fibonacci numbers?"
FIRST_TWENTY = "Use your function: what is the sum of the first 20 Fibonacci numbers?"


def agent(model: KeepingModel | None = None, **options: Any) -> CodeActAgent:
    return CodeActAgent(model or KeepingModel(), timeout=60, **options)


def writes(*programs: str) -> KeepingModel:
    """A model that writes these programs, one a turn, and then repeats the last result."""

    def act(asked: Asked) -> str:
        turn = sum(message.role == "assistant" for message in asked.messages)
        return f"<execute>\n{programs[turn]}\n</execute>" if turn < len(programs) else asked.last

    return KeepingModel({PROMPT: act})


async def results_of(workflow: CodeActAgent, question: str = "go", **start: Any) -> tuple[CodeActAnswer, list[CodeResultEvent]]:
    handler = workflow.run(input=question, **start)
    results = [event async for event in handler.stream_events() if isinstance(event, CodeResultEvent)]
    return await handler, results


@pytest.mark.parametrize(
    ("question", "result"),
    [
        ("What is the sum of all numbers from 1 to 10?", sum(range(1, 11))),
        ("What is (5 + 3) * 2?", (5 + 3) * 2),
        ("What is 7 - 10 / 4?", 7 - 10 / 4),
        (FIRST_TEN, sum(fibonacci_numbers()[:10])),
        ("What is the sum of the first 20 Fibonacci numbers?", sum(fibonacci_numbers()[:20])),
    ],
)
async def test_the_number_that_the_program_printed_is_the_answer(question: str, result: float) -> None:
    model = KeepingModel()
    handler = agent(model).run(input=question)
    answer = await handler
    assert answer.response == f"The result is {result}."
    assert model.asked[-1].last == f"<result>{result}</result>"
    steps = ["handle_llm_input", "handle_code_execution", "handle_llm_input"]
    assert [record.step for record in handler.record] == ["prepare_chat_history", *steps]


async def test_a_later_run_uses_the_function_of_an_earlier_one() -> None:
    talker = agent()
    ctx: Context[CodeActState] = Context(talker)
    first = await talker.run(input=FIRST_TEN, ctx=ctx)
    second, results = await results_of(talker, FIRST_TWENTY, ctx=ctx)
    assert "def fibonacci" in first.code[0]
    assert "def fibonacci" not in "".join(second.code)
    assert [(each.text, each.failed) for each in results] == [(str(sum(fibonacci_numbers()[:20])), False)]

    saved = json.loads(json.dumps(ctx.to_dict()))
    other = agent()  # as in another process: with an interpreter that has not seen the function
    third, results = await results_of(other, FIRST_TWENTY, ctx=Context.from_dict(other, saved))
    assert "def fibonacci" not in "".join(third.code)
    assert [each.failed for each in results] == [False]


async def test_without_the_earlier_run_the_function_is_not_there_and_the_error_is_repaired_in_the_next_turn() -> None:
    model = KeepingModel()
    answer, results = await results_of(agent(model), FIRST_TWENTY)
    assert [each.failed for each in results] == [True, False]
    assert results[0].text == "Error: NameError: name 'fibonacci' is not defined"
    assert model.asked[1].last == f"<result>{results[0].text}</result>"
    assert ["def fibonacci" in code for code in answer.code] == [False, True]
    assert answer.response == f"The result is {sum(fibonacci_numbers()[:20])}."


async def test_broken_code_is_run_once() -> None:
    _, results = await results_of(agent(writes("print('once')\n1 / 0")))
    assert [each.text for each in results] == ["once\nError: ZeroDivisionError: division by zero"]


async def test_variables_of_a_run_stay_in_it_and_those_of_a_failed_program_end_with_it() -> None:
    talker = agent(writes("a = 2", "b = 3\n1 / 0", "print(a + b)"))
    ctx: Context[CodeActState] = Context(talker)
    _, results = await results_of(talker, ctx=ctx)
    assert [each.text for each in results] == ["The program printed nothing.", "Error: ZeroDivisionError: division by zero", "5"]
    assert (await ctx.store.get_state()).programs == ["a = 2", "print(a + b)"]


@pytest.mark.parametrize(
    "code", ["import os\nos.getpid()", "from os import path", "().__class__.__mro__", "__import__('os')", "'{0.__class__}'.format(1)"]
)
async def test_what_leads_out_of_the_interpreter_is_refused_before_anything_runs(code: str) -> None:
    talker = agent(writes(f"print('ran')\n{code}"))
    async with Sandbox(FUNCTIONS) as box:
        with talker.resource_manager.override(interpreter, box):
            _, [result] = await results_of(talker)
        assert result.failed
        assert result.text.startswith("Error: refused: line ")
        assert box.fresh  # not even a process was started


async def test_a_program_without_an_end_is_killed_and_harms_nobody() -> None:
    beats, ended = 0, asyncio.Event()

    async def beat() -> None:
        nonlocal beats
        while not ended.is_set():
            beats += 1
            await asyncio.sleep(0.01)

    heart = asyncio.create_task(beat())
    talker = agent(writes("kept = 7", "while True:\n    pass", "print(kept)"))
    async with Sandbox(FUNCTIONS, seconds=0.3) as box:
        with talker.resource_manager.override(interpreter, box):
            handler = talker.run(input="go")
            results, pids = [], list[int]()
            async for event in handler.stream_events():
                if isinstance(event, CodeResultEvent):
                    results.append(event)
                    pids += [box._process.pid] if box._process else []
                    if "stopped" in event.text:
                        with pytest.raises(ProcessLookupError):
                            os.kill(pids[-1], 0)
            await handler
    ended.set()
    await heart
    assert [each.failed for each in results] == [False, True, False]
    assert results[1].text.startswith("Error: stopped after 0.3 s")
    assert results[2].text == "7"  # what programs before it made is made again
    assert beats > 5


async def test_each_run_has_an_interpreter_of_its_own_that_ends_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Sandbox] = []
    were_fresh: list[bool] = []

    class Watched(Sandbox):
        async def __aenter__(self) -> Sandbox:
            opened.append(self)
            return self

        async def close(self) -> None:
            were_fresh.append(self.fresh)
            await super().close()

    monkeypatch.setattr(example, "Sandbox", Watched)
    talker = agent(writes("x = 1"))
    await asyncio.gather(*(talker.run(input="go") for _ in range(3)))
    assert len(opened) == 3
    assert were_fresh == [False] * 3
    assert all(box.fresh for box in opened)


async def test_the_program_is_shown_before_its_result() -> None:
    handler = agent().run(input=FIRST_TWENTY)
    shown: list[str] = []
    async for event in handler.stream_events():
        match event:
            case StreamEvent() if shown[-1:] != ["text"]:
                shown.append("text")
            case CodeExecutionEvent():
                shown.append("program")
            case CodeResultEvent():
                shown.append("result")
    assert shown == [*["text", "program", "result"] * 2, "text"]


async def test_a_result_that_the_model_makes_up_is_cut_off() -> None:
    def act(asked: Asked) -> str:
        return asked.last if "<result>" in asked.last else "<execute>\nprint(1 + 2)\n</execute>\n<result>99</result> It is 99."

    model = KeepingModel({PROMPT: act})
    assert (await agent(model).run(input="1 and 2?")).response == "<result>3</result>"
    assert "99" not in model.asked[-1].text


async def test_an_agent_that_never_ends_is_ended_after_its_turns() -> None:
    model = KeepingModel({PROMPT: lambda asked: "<execute>1</execute>"})
    answer, results = await results_of(agent(model, max_turns=3))
    assert (answer.finished, answer.response) == (False, "There was no answer after 3 turns.")
    assert (len(model.asked), len(results)) == (3, 2)


async def test_an_agent_that_is_asked_nothing_says_so_before_it_asks_the_model() -> None:
    model = KeepingModel()
    with pytest.raises(ValueError, match="needs something to answer"):
        await agent(model).run()
    assert model.asked == []


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        ("It is 3.", None),
        ("<execute>\nx = 1\nx\n</execute>", "x = 1\nx"),
        ("So: <execute>x</execute> and more", "x"),
        ("<execute>\n```python\nif x:\n    y\n```\n</execute>", "if x:\n    y"),
        ("<execute>\n    x\n", "    x"),
        ("<execute></execute>", ""),
    ],
)
def test_the_program_in_a_reply_is_found(reply: str, code: str | None) -> None:
    assert code_in(reply) == code
