from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from examples._kit.cli import CORPUS
from examples._kit.model import Prompt, Rule
from examples._kit.reading import tagged
from examples._kit.retrieve import Chunk, Hit
from examples._kit.search import LocalSearch, Page
from examples.corrective_rag_pack import Answer, CorrectiveRAG, main, says_yes
from tests.examples.keeping import KeepingModel
from tracedflow import WorkflowHandler
from tracedflow.errors import WorkflowStalledError
from tracedflow.telemetry import Metrics, Tracing
from tracedflow.testing import Schedule, assert_run, explore, virtual_time

QUESTION = "When did the old mill burn down?"
MILL = "The old mill burned down in 1802."
MILLER = "The old mill was burned down, says the miller."
HERON = "The heron is grey."
WEB = Page("The mill", "https://web.example/mill", "The old mill of Karrow burned down in 1803.")


class FixedIndex:
    def __init__(self, *texts: str) -> None:
        self.chunks = [Chunk(f"{n}.md#1", f"{n}.md", "", text) for n, text in enumerate(texts)]

    def search(self, query: str, top: int = 8) -> list[Hit]:
        return [Hit(chunk, 1.0) for chunk in self.chunks[:top]]


class FixedSearch:
    """Finds the same page always, after so many failures."""

    def __init__(self, *, failures: int = 0) -> None:
        self.queries: list[str] = []
        self.failures = failures

    async def search(self, query: str, top: int) -> list[Page]:
        self.queries.append(query)
        if len(self.queries) <= self.failures:
            raise ConnectionError("the search engine is away (planted)")
        return [WEB][:top]


async def ask(
    index: object, search: FixedSearch | None, rules: dict[str, Rule] | None = None, **options: object
) -> tuple[Answer, KeepingModel, WorkflowHandler]:
    model = KeepingModel(rules)
    handler = CorrectiveRAG(model, search, timeout=60, **options).run(query_str=QUESTION, index=index)
    return await handler, model, handler


async def test_where_all_passages_help_nothing_is_searched() -> None:
    search = FixedSearch()
    answer, model, handler = await ask(FixedIndex(MILL, MILLER), search)
    assert search.queries == []
    assert model.of("corrective_rag_pack.rewrite") == []
    assert (answer.text, answer.sources) == (MILL, ["0.md", "1.md"])
    assert_run(handler).completed().ran("eval_relevance", 2).ran("search", 0).no_retries()


async def test_where_some_do_not_the_web_is_searched_once_and_they_are_left_out() -> None:
    search = FixedSearch()
    answer, model, handler = await ask(FixedIndex(HERON, MILLER, HERON), search)
    [query] = search.queries
    assert query != QUESTION
    assert "mill" in query
    [final] = model.of("corrective_rag_pack.answer")
    assert MILLER in final.text
    assert WEB.text in final.text
    assert HERON not in final.text
    assert (answer.text, answer.sources) == (WEB.text, ["1.md", WEB.url])
    assert_run(handler).completed().order("extract", "transform_query", "search", "query_result").ran("search", 1)


async def test_the_query_names_what_the_passages_know_of() -> None:
    search = FixedSearch()
    await ask(FixedIndex("When the old mill burned it was owned by Orla Pym.", HERON), search)
    assert {"Orla", "Pym"} <= set(search.queries[0].split())


async def test_what_only_the_web_holds_is_not_found_without_it() -> None:
    found, _, _ = await ask(FixedIndex(HERON), FixedSearch())
    assert found.sources == [WEB.url]
    alone, model, handler = await ask(FixedIndex(HERON), None)
    assert (alone.text, alone.sources) == ("NOT FOUND", [])
    assert tagged(model.asked[-1].text, "question") == QUESTION
    assert_run(handler).completed().ran("search", 0)


async def test_an_index_that_finds_nothing_leaves_it_to_the_web() -> None:
    answer, model, handler = await ask(FixedIndex(), FixedSearch())
    assert answer.sources == [WEB.url]
    assert model.of("corrective_rag_pack.grade") == []
    assert_run(handler).completed().ran("eval_relevance", 0)


@virtual_time()
async def test_a_search_that_fails_twice_is_tried_twice_more_and_the_model_is_not_asked_again() -> None:
    registry, exporter, provider = CollectorRegistry(), InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    search = FixedSearch(failures=2)
    layers = [Tracing(provider), Metrics(registry=registry)]
    answer, model, handler = await ask(FixedIndex(HERON), search, middleware=layers, telemetry=False)
    assert answer.sources == [WEB.url]
    assert len(search.queries) == 3
    assert len(set(search.queries)) == 1
    assert len(model.of("corrective_rag_pack.rewrite")) == 1
    assert [record.outcome for record in handler.record if record.step == "search"] == ["error", "error", "success"]
    counted = registry.get_sample_value("tracedflow_step_retries_total", {"workflow": "CorrectiveRAG", "step": "search"})
    assert counted == 2
    told = [event.name for span in exporter.get_finished_spans() for event in span.events if "search" in span.name]
    assert told.count("tracedflow.retry_scheduled") == 2


@virtual_time()
async def test_a_search_that_stays_away_ends_the_run_with_its_error() -> None:
    search = FixedSearch(failures=99)
    with pytest.raises(ConnectionError, match="search engine is away"):
        await ask(FixedIndex(HERON), search)
    assert len(search.queries) == 4


@pytest.mark.parametrize(
    ("verdict", "helps"),
    [
        ("yes", True),
        ("Yes.", True),
        ('"YES", it does', True),
        ("no", False),
        ("No.", False),
        ("maybe", False),
        ("", False),
        ("eyes", False),
    ],
)
def test_a_verdict_is_read_through_dots_quotes_and_capitals(verdict: str, helps: bool) -> None:
    assert says_yes(verdict) is helps


def test_grades_that_come_in_any_order_leave_the_passages_in_theirs() -> None:
    texts = [f"The old mill burned down, part {n}." for n in range(4)]

    async def program(schedule: Schedule) -> None:
        _, model, _ = await ask(FixedIndex(*texts), None, middleware=[schedule])
        final = model.of("corrective_rag_pack.answer")[0].text
        assert sorted(texts, key=final.index) == texts

    explore(program, seeds=20)


async def test_four_grades_are_asked_for_at_once() -> None:
    grading = asyncio.Barrier(4)

    class Grader(KeepingModel):
        async def complete(self, prompt: Prompt, *, prompt_name: str = "") -> str:
            if prompt_name == "corrective_rag_pack.grade":
                await grading.wait()
            return await super().complete(prompt, prompt_name=prompt_name)

    handler = CorrectiveRAG(Grader(), None, timeout=60).run(query_str=QUESTION, index=FixedIndex(*[MILL] * 8))
    await handler
    assert_run(handler).parallel("eval_relevance", at_least=4, at_most=4)


async def test_an_index_is_needed_and_a_folder_gives_one() -> None:
    workflow = CorrectiveRAG(KeepingModel(), LocalSearch(CORPUS / "web"), timeout=60)
    with pytest.raises(ValueError, match="needs an index"):
        await workflow.run(query_str=QUESTION)
    with pytest.raises(WorkflowStalledError):
        await workflow.run()
    index = await workflow.run(documents=str(CORPUS / "handbook"))
    assert {chunk.source for chunk in index.chunks} == {path.name for path in (CORPUS / "handbook").iterdir()}


def test_the_command_without_a_search_does_not_find_what_is_on_the_web(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["Who won the sound marathon?", "--no-search"]) == 3
    assert capsys.readouterr().out == ""
