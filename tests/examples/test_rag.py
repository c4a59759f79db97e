from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from examples._kit.cli import CORPUS
from examples._kit.messages import Asked, Reply, Wanted
from examples._kit.model import ScriptedModel
from examples._kit.reading import all_tagged, tagged
from examples._kit.retrieve import Chunk, Hit, HybridIndex, read_folder
from examples.rag import BATCH, KEPT, RAGWorkflow
from tracedflow.errors import WorkflowStalledError


class FixedIndex:
    """Finds what it is told to, in this order."""

    def __init__(self, *texts: str) -> None:
        self.chunks = [Chunk(f"{n}.md#1", f"{n}.md", "", text) for n, text in enumerate(texts)]

    def search(self, query: str, top: int = 8) -> list[Hit]:
        return [Hit(chunk, 1.0) for chunk in self.chunks[:top]]


@pytest.fixture
def asked() -> list[Asked]:
    return []


@pytest.fixture
def workflow(asked: list[Asked]) -> RAGWorkflow:
    """The workflow with a model that keeps what it is asked."""

    class KeepingModel(ScriptedModel):
        seconds_per_word = 0.0

        def _reply(self, request: Asked, wanted: Wanted) -> AsyncIterator[str | Reply]:
            asked.append(request)
            return super()._reply(request, wanted)

    return RAGWorkflow(KeepingModel(), timeout=60)


async def test_a_folder_becomes_an_index_that_is_asked_in_another_run(workflow: RAGWorkflow) -> None:
    index = await workflow.run(dirname=str(CORPUS / "handbook"))
    assert isinstance(index, HybridIndex)
    assert index.chunks == read_folder(CORPUS / "handbook")
    answer = await workflow.run(query="Who founded the library?", index=index)
    assert answer.sources[0] == "library.md"
    assert answer.text in (CORPUS / "handbook" / "library.md").read_text(encoding="utf-8")


async def test_what_came_first_by_words_alone_does_not_stay_first(workflow: RAGWorkflow, asked: list[Asked]) -> None:
    index = FixedIndex("The heron is grey.", "Mills grind flour and mills are loud.", "The old mill burned down in 1802.")
    answer = await workflow.run(query="When did the old mill burn down?", index=index)
    passages = all_tagged(asked[-1].text, "passage")
    assert passages[0].text == "The old mill burned down in 1802."
    assert "The heron is grey." not in asked[-1].text
    assert answer.text == "The old mill burned down in 1802."


async def test_the_reranker_gets_batches_and_keeps_the_best(workflow: RAGWorkflow, asked: list[Asked]) -> None:
    index = FixedIndex(*(f"Mill number {n} is made of stone." for n in range(7)))
    answer = await workflow.run(query="What is the mill made of?", index=index)
    reranks = [request for request in asked if request.prompt_name == "rag.rerank"]
    assert [len(all_tagged(request.text, "passage")) for request in reranks] == [BATCH, 7 - BATCH]
    assert len(answer.sources) == KEPT


async def test_the_pieces_on_the_stream_make_up_the_answer(workflow: RAGWorkflow) -> None:
    handler = workflow.run(query="When did the old mill burn down?", index=FixedIndex("The old mill burned down in 1802."))
    pieces = [event.delta async for event in handler.stream_events() if "Delta" in type(event).__name__]
    assert len(pieces) > 1
    assert "".join(pieces) == (await handler).text


async def test_without_a_passage_that_helps_the_answer_is_that_there_is_none(workflow: RAGWorkflow, asked: list[Asked]) -> None:
    answer = await workflow.run(query="When did the old mill burn down?", index=FixedIndex("The heron is grey."))
    assert (answer.text, answer.sources) == ("NOT FOUND", [])
    assert tagged(asked[-1].text, "question") == "When did the old mill burn down?"


async def test_a_query_without_an_index_is_refused_at_once(workflow: RAGWorkflow) -> None:
    with pytest.raises(ValueError, match="a query needs an index"):
        await workflow.run(query="When?")


async def test_a_run_that_is_asked_nothing_ends_with_a_reason(workflow: RAGWorkflow) -> None:
    with pytest.raises(WorkflowStalledError):
        await workflow.run()


async def test_an_empty_folder_answers_nothing(workflow: RAGWorkflow, tmp_path: Path) -> None:
    index = await workflow.run(dirname=str(tmp_path))
    assert (await workflow.run(query="When?", index=index)).sources == []


async def test_numbers_of_passages_that_there_are_not_are_passed_over() -> None:
    rules = {"rag.rerank": lambda asked: "Doc: 9, Relevance: 10\nDoc: 2, Relevance: 3\nDoc: 0, Relevance: 8"}
    answer = await RAGWorkflow(ScriptedModel(rules), timeout=60).run(
        query="Which bird is grey?", index=FixedIndex("A.", "The heron is a grey bird.")
    )
    assert answer.sources == ["1.md"]
