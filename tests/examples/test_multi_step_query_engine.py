from __future__ import annotations

import re
import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from examples._kit.cli import CORPUS, Stage, WrongInputError
from examples._kit.messages import Asked
from examples._kit.reading import all_tagged, tagged
from examples._kit.retrieve import Chunk, Hit, HybridIndex, read_folder
from examples.multi_step_query_engine import MultiStepQueryEngine, SubAnswer, SubQuestion, play
from tests.examples.cases import changed
from tests.examples.cases.multi_step_query_engine import FOUNDER
from tests.examples.keeping import KeepingModel

TWO_HOPS = "Where did the founder of the ferry company come from?"
THREE_HOPS = "On which street was the workshop of the teacher of the builder of the machinery of the lighthouse?"
DECOMPOSE = "multi_step_query_engine.decompose"


def engine(model: KeepingModel | None = None, data: Path = CORPUS, **options: Any) -> MultiStepQueryEngine:
    return MultiStepQueryEngine(model or KeepingModel(), HybridIndex(read_folder(data / "handbook")), timeout=60, **options)


class EmptyIndex:
    def search(self, query: str, top: int = 8) -> list[Hit]:
        return []


@pytest.mark.parametrize(("question", "hops"), [("Who founded the library?", 1), (TWO_HOPS, 2), (THREE_HOPS, 3)])
async def test_there_are_as_many_hops_as_the_question_has_and_each_has_its_steps(question: str, hops: int) -> None:
    handler = engine().run(query=question)
    answer = await handler
    assert len(answer.hops) == hops
    assert answer.done
    assert [record.step for record in handler.record] == [*["decompose", "answer"] * hops, "decompose", "synthesize"]


@pytest.mark.parametrize("question", [TWO_HOPS, THREE_HOPS])
async def test_what_a_hop_found_is_asked_about_in_the_next_one_and_was_not_in_the_question(question: str) -> None:
    answer = await engine().run(query=question)
    for hop, following in zip(answer.hops, answer.hops[1:], strict=False):
        names = re.findall(r"[A-Z]\w+ [A-Z]\w+", following.question)
        new = [name for name in names if name in hop.answer and name not in hop.question]
        assert new
        assert not [name for name in new if name in question]


async def test_another_founder_in_the_data_is_followed_to_another_place(tmp_path: Path) -> None:
    data = Path(shutil.copytree(CORPUS, tmp_path / "data"))
    before = await engine().run(query=TWO_HOPS)
    changed(*FOUNDER, "Berit Solange")(data)
    after = await engine(data=data).run(query=TWO_HOPS)
    assert before.hops[0].question == after.hops[0].question
    assert after.hops[1].question == "Where did Berit Solange come from?" != before.hops[1].question
    assert after.text != before.text
    assert (before.sources, after.sources) == (["ferry.md"], ["ferry.md", "school.md"])


async def test_the_sources_are_those_of_all_hops_each_once(tmp_path: Path) -> None:
    data = Path(shutil.copytree(CORPUS, tmp_path / "data"))
    changed(*FOUNDER, "Berit Solange")(data)
    answer = await engine(data=data).run(query=TWO_HOPS)
    for hop in answer.hops:
        [source] = hop.sources
        assert hop.answer in source.text
    assert answer.sources == [hop.sources[0].source for hop in answer.hops]

    same_twice = await engine().run(query=THREE_HOPS)
    assert len(same_twice.sources) == len(set(same_twice.sources))


async def test_a_bound_on_the_hops_ends_it_early_and_the_answer_says_so() -> None:
    model = KeepingModel()
    answer = await engine(model, num_steps=1).run(query=THREE_HOPS)
    assert (len(answer.hops), answer.done) == (1, False)
    assert "Stopped after 1 of the steps" in str(answer)
    assert len(model.of(DECOMPOSE)) == 2  # the second one says that it was not enough

    enough = await engine(num_steps=3).run(query=THREE_HOPS)
    assert enough.done
    assert "Stopped" not in str(enough)


async def test_the_word_none_in_a_question_ends_nothing() -> None:
    asked = iter([{"done": False, "question": "Is none of the stalls free?"}, {"done": False, "question": "None?"}, {"done": True}])
    model = KeepingModel({DECOMPOSE: lambda request: next(asked)})
    answer = await engine(model).run(query="Which stalls are free, or is there none?")
    assert [hop.question for hop in answer.hops] == ["Is none of the stalls free?", "None?"]
    assert answer.done


async def test_a_model_that_never_says_it_is_done_is_ended() -> None:
    model = KeepingModel({DECOMPOSE: lambda request: {"done": False, "question": f"Question {request.text.count('<step>')}?"}})
    answer = await engine(model, num_steps=3).run(query="Why?")
    assert [hop.question for hop in answer.hops] == ["Question 0?", "Question 1?", "Question 2?"]
    assert not answer.done


async def test_a_hop_that_finds_nothing_is_the_last_one() -> None:
    model = KeepingModel()
    answer = await engine(model).run(query="Where did the founder of the bank live?")
    assert [(hop.question, hop.answer) for hop in answer.hops] == [("Who founded the bank?", "NOT FOUND")]
    assert (answer.text, answer.sources, answer.done) == ("NOT FOUND", [], True)


async def test_each_question_is_made_from_all_steps_before_it() -> None:
    model = KeepingModel()
    answer = await engine(model).run(query=THREE_HOPS)
    for number, request in enumerate(model.of(DECOMPOSE)):
        steps = all_tagged(request.text, "step")
        assert [tagged(step.text, "asked") for step in steps] == [hop.question for hop in answer.hops[:number]]
        assert [tagged(step.text, "found") for step in steps] == [hop.answer for hop in answer.hops[:number]]


async def test_passages_that_there_are_not_are_passed_over() -> None:
    chunk = Chunk("a#1", "a.md", "", "The heron is grey.")

    class OneChunk:
        def search(self, query: str, top: int = 8) -> list[Hit]:
            return [Hit(chunk, 1.0)]

    def answer(asked: Asked) -> dict[str, Any]:
        return {"answer": "It is grey.", "passages": [0, 1, 2, -1]}

    model = KeepingModel({"multi_step_query_engine.answer": answer})
    found = await MultiStepQueryEngine(model, OneChunk(), timeout=60).run(query="Which bird is grey?")
    assert [hop.sources for hop in found.hops] == [[chunk]]


async def test_hops_are_shown_as_they_come() -> None:
    handler = engine().run(query=TWO_HOPS)
    shown = [event async for event in handler.stream_events() if isinstance(event, SubQuestion | SubAnswer)]
    answer = await handler
    assert [type(event) for event in shown] == [SubQuestion, SubAnswer] * 2
    assert [event.answer for event in shown if isinstance(event, SubAnswer)] == [hop.answer for hop in answer.hops]


async def test_without_a_passage_nothing_is_found() -> None:
    answer = await MultiStepQueryEngine(KeepingModel(), EmptyIndex(), timeout=60).run(query=TWO_HOPS)
    assert answer.text == "NOT FOUND"


async def test_a_run_without_a_question_is_refused_before_the_model_is_asked() -> None:
    model = KeepingModel()
    with pytest.raises(ValueError, match="nothing to answer"):
        await engine(model).run()
    assert model.asked == []


async def test_a_command_line_that_cannot_be_used_is_refused() -> None:
    with pytest.raises(WrongInputError):
        await play(Stage(KeepingModel(), question="Who?", arguments=Namespace(num_steps=0)))
