from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from examples._kit.cli import CORPUS
from examples._kit.model import StructuredOutputError
from examples._kit.tools import Tool, budget_tools
from examples.planning_workflow import (
    MOST_ITEMS,
    MOST_ROUNDS,
    PlanAnswer,
    Progress,
    QueryPlan,
    QueryPlanningWorkflow,
)
from tests.examples.keeping import KeepingModel
from tracedflow.telemetry import Metrics

CHANGE = "How did the total spending of Karrow change from 2016 to 2023?"
WORKERS = 4  # of the step `execute_item`


def table_total(year: int) -> int:
    """Return what the departments spent, summed up from the table of a book."""
    rows = re.findall(r"^\| (\w+) \| ([\d,]+) \|$", (CORPUS / "budgets" / f"{year}.md").read_text(encoding="utf-8"), re.MULTILINE)
    return sum(int(sum_.replace(",", "")) for name, sum_ in rows if name != "Total")


def planner(model: KeepingModel | None = None, tools: list[Tool] | None = None, **options: Any) -> QueryPlanningWorkflow:
    return QueryPlanningWorkflow(model or KeepingModel(), budget_tools(CORPUS) if tools is None else tools, timeout=60, **options)


def plans(*rounds: list[tuple[str, str]]) -> KeepingModel:
    """A model that makes these plans, and answers with how many results it saw."""
    left = iter(rounds)

    def plan(asked: Any) -> dict[str, Any]:
        return {"items": [{"name": name, "query": query} for name, query in next(left)]}

    return KeepingModel(
        {
            "planning_workflow.plan": plan,
            "planning_workflow.decide": lambda asked: {"verdict": "plan"},
            "planning_workflow.answer": lambda asked: f"{asked.text.count('<result ')} results",
            "planning_workflow.extract": lambda asked: asked.text,
        }
    )


def ask_of(search: Callable[[str], Any]) -> list[Tool]:
    return [Tool(search, "ask", "Answer anything.")]


async def test_the_change_is_that_of_the_tables_in_the_books() -> None:
    answer = await planner().run(query=CHANGE)
    first, last = table_total(2016), table_total(2023)
    assert answer.text == (
        f"From 2016 to 2023 it rose by {last - first:,} marks, {100 * (last - first) / first:.1f} percent: "
        f"from {first:,} to {last:,} marks."
    )


async def test_what_the_first_plan_forgot_is_in_the_second_which_sees_the_results_so_far() -> None:
    model = KeepingModel()
    handler = planner(model).run(query=CHANGE)
    answer = await handler
    years = sorted(int(path.stem) for path in (CORPUS / "budgets").iterdir())
    assert [result.name for result in answer.results] == [f"budget_{year}" for year in years]
    assert answer.rounds == 2

    first, second = model.of("planning_workflow.plan")
    assert "<result " not in first.text
    assert re.findall(r'<result tool="budget_(\d+)">', second.text) == [str(year) for year in years[:-1]]
    steps = [record.step for record in handler.record]
    n = len(years) - 1
    assert [steps.count(name) for name in ("planning_step", "execute_item", "aggregate_results")] == [3, n + 1, n + 1]
    assert steps[0] == steps[-1] == "planning_step"
    joins = [record for record in handler.record if record.step == "aggregate_results" and record.events_out]
    assert len(joins) == 2  # of the n + 1 executions, the last of each plan goes on


async def test_items_run_at_the_same_time_but_no_more_than_there_are_workers() -> None:
    running = peak = 0
    full = asyncio.Event()
    registry = CollectorRegistry()
    labels = {"workflow": "QueryPlanningWorkflow", "step": "execute_item"}
    seen: list[float | None] = []

    async def search(query: str) -> str:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        seen.append(registry.get_sample_value("tracedflow_steps_active", labels))
        if running == WORKERS:
            full.set()
        await full.wait()  # the first four wait for each other: without overlap nobody would go on
        running -= 1
        return query

    model = plans([("ask", f"item {n}") for n in range(7)], [])
    answer = await planner(model, ask_of(search), middleware=[Metrics(registry)]).run(query="?")
    assert peak == WORKERS == max(each or 0 for each in seen)
    assert len(answer.results) == 7
    executed = registry.get_sample_value("tracedflow_step_attempts_total", {**labels, "outcome": "success", "error_type": ""})
    assert executed == 7


async def test_results_stay_with_their_items_in_whatever_order_they_come() -> None:
    done: list[str] = []
    all_there = asyncio.Barrier(WORKERS)
    before = {"item 0": 3, "item 1": 1, "item 2": 2, "item 3": 0}  # how many are done before it is

    async def search(query: str) -> str:
        await all_there.wait()
        while len(done) < before[query]:
            await asyncio.sleep(0)
        done.append(query)
        return f"result of {query}"

    answer = await planner(plans([("ask", query) for query in before], []), ask_of(search)).run(query="?")
    assert done == ["item 3", "item 1", "item 2", "item 0"]
    assert [result.query for result in answer.results] == list(before)
    for result in answer.results:
        assert f"result of {result.query}\n" in result.result


async def test_two_items_that_are_the_same_and_one_that_was_done_before() -> None:
    model = plans([("ask", "a"), ("ask", "a")], [("ask", "b"), ("ask", "a")], [("ask", "a")])
    answer = await planner(model, ask_of(lambda query: query)).run(query="?")
    assert [result.query for result in answer.results] == ["a", "a", "b"]
    assert (answer.text, answer.rounds) == ("3 results", 2)


async def test_a_tool_that_does_not_exist_or_raises_is_a_result() -> None:
    def search(query: str) -> str:
        raise OSError("the book is lent")

    answer = await planner(plans([("budget_1066", "a"), ("ask", "b")], []), ask_of(search)).run(query="?")
    assert [result.result for result in answer.results] == [
        "Error: there is no tool 'budget_1066'; there are ask",
        "Error: ask failed: OSError: the book is lent",
    ]


async def test_a_year_without_a_book_is_planned_and_not_found() -> None:
    answer = await planner().run(query="What was the total spending of Karrow in 2018 and in 2020?")
    assert answer.text == "NOT FOUND"
    assert f"{table_total(2018):,} marks" in answer.results[0].result
    assert "there is no tool 'budget_2020'" in answer.results[1].result


async def test_an_empty_plan_is_answered_at_once() -> None:
    model = KeepingModel()
    handler = planner(model).run(query="How many budget books are there?")
    answer = await handler
    assert answer == PlanAnswer(text=f"There are {len(budget_tools(CORPUS))} budget books.", results=[], rounds=0)
    assert [asked.prompt_name for asked in model.asked] == ["planning_workflow.plan", "planning_workflow.answer"]
    assert [record.step for record in handler.record] == ["planning_step"]


async def test_a_plan_without_an_end_is_cut_and_so_is_replanning() -> None:
    rounds = [[("ask", f"{number} of plan {at}") for number in range(MOST_ITEMS + 3)] for at in range(MOST_ROUNDS + 1)]
    answer = await planner(plans(*rounds), ask_of(lambda query: query)).run(query="?")
    assert answer.rounds == MOST_ROUNDS
    assert [result.query for result in answer.results] == [query for plan in rounds[:MOST_ROUNDS] for _, query in plan[:MOST_ITEMS]]


async def test_what_is_told_comes_in_the_order_of_its_causes() -> None:
    handler = planner().run(query=CHANGE)
    told = [event.msg for event in [each async for each in handler.stream_events()] if isinstance(event, Progress)]
    places = {tuple(msg.split(": ")[:2]): at for at, msg in enumerate(told)}
    for tool in (f"budget_{path.stem}" for path in (CORPUS / "budgets").iterdir()):
        assert places["planned", tool] < places["asked", tool] < places["found", tool]
    second_plan = places["planned", "budget_2023"]
    assert sum(msg.startswith("found") for msg in told[:second_plan]) == len(budget_tools(CORPUS)) - 1


async def test_a_verdict_is_one_of_two_words() -> None:
    model = KeepingModel({"planning_workflow.decide": lambda asked: {"verdict": "PLAN, as the word plan is in this answer"}})
    with pytest.raises(StructuredOutputError, match="planning_workflow.decide"):
        await planner(model).run(query=CHANGE)
    assert len(model.of("planning_workflow.decide")) == 2  # it was told once what is wrong


def test_the_model_is_not_asked_for_the_number_of_an_item() -> None:
    [item] = QueryPlan.model_json_schema()["$defs"].values()
    assert list(item["properties"]) == ["name", "query"]


async def test_a_run_without_a_question_is_refused_before_the_model_is_asked(tmp_path: Path) -> None:
    model = KeepingModel()
    with pytest.raises(ValueError, match="nothing to plan for"):
        await planner(model).run()
    assert model.asked == []
