from __future__ import annotations

import re
from itertools import permutations

import pytest

from examples._kit.cli import CORPUS
from examples._kit.model import ScriptedModel
from examples._kit.retrieve import Chunk, Hit, HybridIndex, read_folder
from examples.citation_query_engine import CITATION_SIZE, CitationQueryEngine, CitedAnswer, with_sources

FACTS = ["The mill burned down in 1802.", "Orla Pym owned the brewery.", "The heron is grey."]
QUESTION = "When did the mill burn down, and who owned the brewery?"


class FixedIndex:
    def __init__(self, texts: list[str]) -> None:
        self.chunks = [Chunk(f"{text[4:8]}.md#1", f"{text[4:8]}.md", "", text) for text in texts]

    def search(self, query: str, top: int = 8) -> list[Hit]:
        return [Hit(chunk, 1.0) for chunk in self.chunks]


async def ask(question: str, index: object, model: ScriptedModel | None = None) -> CitedAnswer:
    model = model or ScriptedModel()
    model.seconds_per_word = 0.0
    answer: CitedAnswer = await CitationQueryEngine(model, timeout=60).run(query=question, index=index)
    return answer


def claims_of(answer: CitedAnswer) -> list[tuple[str, int]]:
    return [(claim.strip(), int(number)) for claim, number in re.findall(r"([^\[\]]+?) \[(\d+)\]\.?", answer.text)]


@pytest.mark.parametrize("order", list(permutations(range(3))))
async def test_each_claim_stands_in_the_source_it_cites_in_whatever_order_they_come(order: tuple[int, ...]) -> None:
    answer = await ask(QUESTION, FixedIndex([FACTS[at] for at in order]))
    claims = claims_of(answer)
    assert [number for _, number in claims] == [order.index(0) + 1, order.index(1) + 1]
    for claim, number in claims:
        assert claim in answer.sources[number].text
    assert len({source.source for source in answer.sources.values()}) == 2


async def test_sources_are_small_and_keep_the_name_of_their_file() -> None:
    answer = await ask("When was the lighthouse built, and who founded the library?", HybridIndex(read_folder(CORPUS / "handbook")))
    assert {source.source for source in answer.sources.values()} == {"lighthouse.md", "library.md"}
    for source in answer.sources.values():
        assert len(source.text.split()) <= 2 * CITATION_SIZE
        assert source.text.split(". ")[0] in (CORPUS / "handbook" / source.source).read_text(encoding="utf-8")


async def test_where_no_source_helps_nothing_is_cited() -> None:
    answer = await ask("What did the moon weigh?", FixedIndex(FACTS))
    assert answer == CitedAnswer(text="NO SOURCE HELPS.", sources={})


async def test_numbers_that_no_source_has_are_taken_out() -> None:
    model = ScriptedModel({"citation_query_engine.cite": lambda asked: "It burned [1, 7]. It was rebuilt [0]. It is grey [3]."})
    answer = await ask(QUESTION, FixedIndex(FACTS), model)
    assert answer.text == "It burned [1]. It was rebuilt. It is grey [3]."
    assert list(answer.sources) == [1, 3]


def test_an_answer_without_numbers_stays_as_it_is() -> None:
    assert with_sources("Nothing [is] cited.", []) == CitedAnswer(text="Nothing [is] cited.", sources={})


@pytest.mark.parametrize("start", [{}, {"query": "When?"}, {"index": FixedIndex(FACTS)}])
async def test_a_run_without_a_question_or_an_index_is_refused(start: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="needs a question and where to look"):
        await CitationQueryEngine(ScriptedModel(), timeout=60).run(**start)
