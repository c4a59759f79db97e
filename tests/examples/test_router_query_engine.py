from __future__ import annotations

import asyncio
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from examples._kit.cli import CORPUS
from examples._kit.reading import all_tagged, tagged
from examples.router_query_engine import QueryEngineTool, RoutedAnswer, RouterQueryEngine, SelectionError, engines, main
from tests.examples.keeping import KeepingModel

HANDBOOK = CORPUS / "handbook"
SUMMARY, FACT, BOTH = (
    "Give me a summary of the market.",
    "When was the library opened?",
    "How many steps does the lighthouse have, and where is Jorun Vask mentioned?",
)


def router(
    model: KeepingModel | None = None, order: tuple[int, ...] = (0, 1, 2), folder: Path = HANDBOOK, **options: Any
) -> RouterQueryEngine:
    model = model or KeepingModel()
    tools = engines(model, folder)
    return RouterQueryEngine(model, [tools[at] for at in order], timeout=60, **options)


def choosing(*indexes: int) -> KeepingModel:
    """A model that chooses these tools."""
    selections = [{"index": index, "reason": f"reason {at}"} for at, index in enumerate(indexes)]
    return KeepingModel({"router_query_engine.select": lambda asked: {"selections": selections}})


def told(*answers: str) -> list[QueryEngineTool]:
    """Engines that always answer the same."""

    def tool(number: int, answer: str) -> QueryEngineTool:
        async def query(question: str) -> str:
            return answer

        return QueryEngineTool(f"engine {number}", f"Answers {number}.", query)

    return [tool(number, answer) for number, answer in enumerate(answers)]


def sentences_with(name: str) -> set[str]:
    """Return all sentences of the handbook with a name, found by hand."""
    texts = [re.sub(r"^#.*$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE) for path in HANDBOOK.glob("*.md")]
    return {sentence.strip() for text in texts for sentence in re.split(r"(?<=\.)\s+|\n", text) if name in sentence}


@pytest.mark.parametrize(("question", "chosen"), [(SUMMARY, {0}), (FACT, {1}), (BOTH, {1, 2})])
async def test_each_question_goes_to_the_engines_it_is_for(question: str, chosen: set[int]) -> None:
    handler = router().run(query=question)
    answer = await handler
    assert {each.index for each in answer.responses} == chosen
    assert Counter(record.step for record in handler.record)["generate_responses"] == len(chosen)


@pytest.mark.parametrize("question", [SUMMARY, FACT, BOTH])
async def test_in_another_order_the_same_engines_have_other_numbers(question: str) -> None:
    answers = [await router(order=order).run(query=question) for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0))]
    names = [{each.engine for each in answer.responses} for answer in answers]
    assert names[0] == names[1] == names[2]
    indexes = [frozenset(each.index for each in answer.responses) for answer in answers]
    assert len(set(indexes)) == 3
    for order, answer in zip(((0, 1, 2), (2, 0, 1), (1, 2, 0)), answers, strict=True):
        assert all(each.engine == ("summary", "vector", "keyword")[order[each.index]] for each in answer.responses)


async def test_the_merged_answer_has_what_each_engine_found_and_nothing_twice() -> None:
    model = KeepingModel()
    answer = await router(model).run(query=BOTH)
    by_engine = {each.engine: each.text for each in answer.responses}
    [steps] = re.findall(r"has (\d+) steps", (HANDBOOK / "lighthouse.md").read_text(encoding="utf-8"))
    assert steps in by_engine["vector"]
    assert steps not in by_engine["keyword"]
    mentions = sentences_with("Jorun Vask")
    assert len(mentions) == 3
    assert all(sentence in by_engine["keyword"] for sentence in mentions)
    assert steps in answer.text
    assert [answer.text.count(sentence) for sentence in mentions] == [1] * len(mentions)
    [asked] = model.of("router_query_engine.merge")
    assert {part.attributes["engine"]: part.text for part in all_tagged(asked.text, "answer")} == by_engine


async def test_the_summary_has_a_sentence_of_each_section() -> None:
    answer = await router().run(query=SUMMARY)
    text = (HANDBOOK / "market.md").read_text(encoding="utf-8")
    leads = [line.partition(". ")[0].rstrip(".") + "." for line in re.findall(r"^## .*\n(.*)$", text, re.MULTILINE)]
    assert answer.text == " ".join(leads)


async def test_one_engine_is_chosen_if_one_is_wanted_and_nothing_is_merged() -> None:
    model = KeepingModel()
    answer = await router(model).run(query=BOTH, select_multi=False)
    assert [each.engine for each in answer.responses] == ["vector"]
    assert answer.text == answer.responses[0].text
    assert model.of("router_query_engine.merge") == []
    assert tagged(model.of("router_query_engine.select")[0].text, "choose") == "one"


async def test_of_several_that_are_chosen_though_one_is_wanted_the_first_counts() -> None:
    model = choosing(2, 0)
    handler = RouterQueryEngine(model, told("a.", "b.", "c.")).run(query="?", select_multi=False)
    answer = await handler
    assert (answer.text, [each.index for each in answer.responses]) == ("c.", [2])


async def test_reasons_are_told_with_the_answers_and_the_choice_gives_the_order() -> None:
    answer = await RouterQueryEngine(choosing(2, 0, 2), told("A is.", "B is.", "C is.")).run(query="?")
    assert [(each.engine, each.index, each.reason, each.text) for each in answer.responses] == [
        ("engine 2", 2, "reason 0", "C is."),
        ("engine 0", 0, "reason 1", "A is."),
    ]
    assert answer.text == "C is. A is."


async def test_engines_work_side_by_side_and_answers_keep_their_order() -> None:
    barrier, done = asyncio.Barrier(3), []

    def waiting(tool: QueryEngineTool, turns: int) -> QueryEngineTool:
        async def query(question: str) -> str:
            await barrier.wait()  # without overlap nobody would go on
            for _ in range(turns):
                await asyncio.sleep(0)
            done.append(tool.name)
            return await tool.query(question)

        return replace(tool, query=query)

    tools = [waiting(tool, 20 - 10 * at) for at, tool in enumerate(told("A is.", "B is.", "C is."))]
    answer = await RouterQueryEngine(choosing(0, 1, 2), tools).run(query="?")
    assert done == ["engine 2", "engine 1", "engine 0"]
    assert answer.text == "A is. B is. C is."


async def test_an_engine_that_finds_nothing_is_left_out() -> None:
    model = choosing(0, 1)
    answer = await RouterQueryEngine(model, told("NOT FOUND", "B is.")).run(query="?")
    assert answer.text == "B is."
    assert model.of("router_query_engine.merge") == []
    nothing = await RouterQueryEngine(choosing(0, 1), told("NOT FOUND", "NOT FOUND")).run(query="?")
    assert nothing.text == "NOT FOUND"


@pytest.mark.parametrize(("indexes", "problem"), [((3,), "tool 3, but there are 0 to 2"), ((0, -1), "tool -1"), ((), "none of the tools")])
async def test_a_tool_that_there_is_not_is_refused(indexes: tuple[int, ...], problem: str) -> None:
    handler = RouterQueryEngine(choosing(*indexes), told("a", "b", "c")).run(query="?")
    with pytest.raises(SelectionError, match=problem):
        await handler
    assert [record.step for record in handler.record] == ["selector"]


async def test_a_handbook_without_a_page_answers_nothing(tmp_path: Path) -> None:
    answers: list[RoutedAnswer] = [await router(folder=tmp_path).run(query=question) for question in (SUMMARY, FACT, BOTH)]
    assert [answer.text for answer in answers] == ["NOT FOUND"] * 3


def test_the_program_tells_which_engines_answered_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert re.findall(r"^  (\w+): it is for", capsys.readouterr().out, re.MULTILINE) == ["vector", "keyword"]
    assert main(["--single"]) == 0
    assert re.findall(r"^  (\w+): it is for", capsys.readouterr().out, re.MULTILINE) == ["vector"]
    assert main(["xyzzy"]) == 3
