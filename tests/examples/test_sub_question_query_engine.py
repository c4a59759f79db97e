from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from examples._kit.cli import CORPUS, NotFoundError, Stage
from examples._kit.messages import Asked
from examples._kit.model import ModelUnavailableError, Rule, ScriptedModel, StructuredOutputError
from examples._kit.scripts.react_agent import RULES as THINKING
from examples._kit.scripts.sub_question_query_engine import RULES
from examples._kit.tools import budget_tools
from examples.react_agent import AgentAnswer, ReActAgent
from examples.sub_question_query_engine import QUESTION, Combined, NoAnswerError, SubQuestionQueryEngine, main, play
from tests.examples.cases.sub_question_query_engine import total
from tracedflow import StartEvent, StopEvent, Workflow, configure, step
from tracedflow.telemetry import Tracing
from tracedflow.testing import Schedule, explore

YEARS = [2016, 2017, 2018, 2019, 2021, 2022, 2023]  # 2020 has no book
NAME = "sub_question_query_engine"


class HastyModel(ScriptedModel):
    seconds_per_word = 0.0


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    kept, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    configure(middleware=[Tracing(provider)])
    yield kept
    provider.shutdown()


THINK = "react_agent.think"  # what the agents ask


async def ask(question: str, rules: dict[str, Rule] | None = None, **options: Any) -> tuple[Combined, Any]:
    model = HastyModel({prompt if "." in prompt else f"{NAME}.{prompt}": rule for prompt, rule in (rules or {}).items()})
    agent = ReActAgent(model, budget_tools(CORPUS), timeout=30)
    handler = SubQuestionQueryEngine(model, agent, timeout=60, **options).run(query=question)
    return await handler, handler


async def test_a_question_for_each_year_is_answered_and_the_year_without_a_book_is_unknown() -> None:
    combined, handler = await ask(QUESTION)
    assert [int(re.findall(r"\d{4}", part.question)[0]) for part in combined.parts] == list(range(2016, 2024))
    for year, part in zip(range(2016, 2024), combined.parts, strict=True):
        if year == 2020:
            assert (part.answer, part.books) == (None, [])
        else:
            assert f"{total(CORPUS, year):,}" in (part.answer or "")
            assert part.books == [f"budget_{year}"]
    for expected in (total(CORPUS, 2016), total(CORPUS, 2023), total(CORPUS, 2023) - total(CORPUS, 2016)):
        assert f"{expected:,}" in combined.text
    assert "NOT FOUND for 2020" in combined.text
    assert sorted(record.step for record in handler.record) == sorted(["query", *["sub_question", "combine_answers"] * 8])


async def test_every_agent_is_a_run_under_the_step_that_started_it_in_one_trace(exporter: InMemorySpanExporter) -> None:
    await ask(QUESTION)
    spans = exporter.get_finished_spans()
    by_id = {span.context.span_id: span for span in spans}
    agents = [span for span in spans if span.name == "invoke_workflow ReActAgent"]
    assert len(agents) == 8
    assert len({span.context.trace_id for span in spans}) == 1
    assert {parent(span, by_id).name for span in agents} == {"run_step sub_question"}
    assert len({span.parent.span_id for span in agents if span.parent}) == 8
    # each looks up once and then answers; without a book there is nothing to look up
    steps = [span.name for span in spans if parent(span, by_id) in agents]
    assert (steps.count("run_step handle_llm_input"), steps.count("run_step handle_tool_calls")) == (15, 7)


def parent(span: ReadableSpan, by_id: dict[int, ReadableSpan]) -> ReadableSpan | None:
    return by_id.get(span.parent.span_id) if span.parent else None


class Delayed(Workflow):
    """An agent whose first question is answered last."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.answered: list[str] = []
        self.others = asyncio.Event()

    @step
    async def answer(self, ev: StartEvent) -> StopEvent:
        if "2016" in ev.input:
            await self.others.wait()
        self.answered.append(ev.input)
        if len(self.answered) == 3:
            self.others.set()
        return StopEvent(result=AgentAnswer(response=f"It says {ev.input}", sources=[], reasoning=[], finished=True))


async def test_answers_keep_the_order_of_the_questions_whichever_arrives_first() -> None:
    agent = Delayed()
    combined = await SubQuestionQueryEngine(HastyModel(), agent).run(query="What was spent from 2016 to 2019?")
    assert agent.answered[-1].startswith(combined.parts[0].question)
    assert [part.question for part in combined.parts] == [f"What was spent in {year}?" for year in range(2016, 2020)]


def test_no_order_of_the_steps_changes_the_answer() -> None:
    seen: set[str] = set()
    tools = budget_tools(CORPUS)

    async def program(schedule: Schedule) -> None:
        model = HastyModel()
        agent = ReActAgent(model, tools, middleware=[schedule])
        seen.add(str(await SubQuestionQueryEngine(model, agent, middleware=[schedule]).run(query=QUESTION)))

    explore(program, seeds=10)
    assert len(seen) == 1


async def test_a_question_that_is_not_split_is_answered_directly() -> None:
    def unexpected(asked: Asked) -> str:
        raise AssertionError("there is nothing to combine")

    combined, _ = await ask("Who retired after 43 years of service?", {"combine": unexpected})
    [part] = combined.parts
    assert part.question == "Who retired after 43 years of service?"
    assert part.books == [f"budget_{year}" for year in YEARS]
    assert combined.text == part.answer
    assert combined.text in (CORPUS / "budgets" / "2017.md").read_text(encoding="utf-8")


async def test_the_parts_come_as_json_in_a_fence_and_a_wrong_answer_is_asked_for_again() -> None:
    asked_to_split: list[Asked] = []

    def clumsy(asked: Asked) -> str:
        asked_to_split.append(asked)
        return "2016 and 2017, I should say." if len(asked_to_split) == 1 else RULES["split"](asked)

    combined, _ = await ask("How much did the Harbour spend in 2016 and 2017?", {"split": clumsy})
    assert "```json" in RULES["split"](asked_to_split[0])
    assert len(asked_to_split) == 2
    assert "cannot be used" in asked_to_split[1].last
    assert len(combined.parts) == 2


async def test_a_question_is_not_split_without_end() -> None:
    with pytest.raises(StructuredOutputError, match="too_long|at most"):
        await ask(QUESTION, {"split": lambda asked: json.dumps({"questions": ["What?"] * 1000})})


# --- agents that do not answer ---


def failing_for_2018(asked: Asked) -> Any:
    if "in 2018?" in asked.text:
        raise ModelUnavailableError("the model is busy (planted)", 503)
    return THINKING["think"](asked)


async def test_an_agent_that_fails_fails_the_whole() -> None:
    with pytest.raises(ModelUnavailableError, match="planted"):
        await ask(QUESTION, {THINK: failing_for_2018})


async def test_or_counts_as_one_that_found_nothing_if_that_is_wished() -> None:
    combined, _ = await ask(QUESTION, {THINK: failing_for_2018}, keep_going=True)
    assert [part.question for part in combined.parts if part.problem] == [combined.parts[2].question]
    assert "the model is busy (planted)" in str(combined)
    assert "NOT FOUND for 2018, 2020" in combined.text
    assert f"{total(CORPUS, 2023) - total(CORPUS, 2016):,} more" in combined.text


async def test_where_all_agents_fail_the_example_says_why() -> None:
    def down(asked: Asked) -> str:
        raise ModelUnavailableError("nobody answers (planted)")

    stage = Stage(HastyModel({THINK: down}), question=QUESTION)
    stage.arguments.keep_going = True
    with pytest.raises(NotFoundError, match="planted"):
        await play(stage)


async def test_a_book_that_there_is_not_is_told_to_the_model_and_answers_nothing() -> None:
    seen: list[Asked] = []

    def mistaken(asked: Asked) -> str:
        seen.append(asked)
        if len(seen) == 1:
            return 'Thought: I guess.\nAction: budget_2020\nAction Input: {"query": "total spending"}'
        return "Thought: There is none.\nAnswer: NOT FOUND"

    combined, _ = await ask("Who retired after 43 years of service?", {THINK: mistaken})
    assert "there is no tool 'budget_2020'" in seen[1].last
    assert combined.parts[0].answer is None


async def test_an_agent_that_searches_on_and_on_counts_as_one_that_failed() -> None:
    def restless(asked: Asked) -> str:
        return 'Thought: More.\nAction: budget_2019\nAction Input: {"query": "more"}'

    with pytest.raises(NoAnswerError, match=r"no answer after \d+ turns"):
        await ask("Who retired?", {THINK: restless})
    combined, _ = await ask("Who retired?", {THINK: restless}, keep_going=True)
    assert "failed: Who retired? There was no answer" in combined.parts[0].problem


# --- as a program ---


def test_without_an_answer_the_status_is_3(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["What was the total spending in 1999?"]) == 3
    assert main(["--data", str(tmp_path), QUESTION]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert "Not found: What was the total spending in 1999?" in err
