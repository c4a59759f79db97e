from __future__ import annotations

import re

import pytest

from examples._kit.cli import CORPUS
from examples._kit.reading import tagged
from examples._kit.scripts.reflection import stubborn
from examples.reflection import Boat, BoatCollection, ExtractionFailed, ReflectionWorkflow, main
from tests.examples.keeping import KeepingModel
from tracedflow.testing import Recorder

PASSAGE = (CORPUS / "register.txt").read_text(encoding="utf-8").partition("\n\n")[2].partition("\n\nHarbour")[0]


def by_hand(passage: str) -> BoatCollection:
    """Return the boats, each list of facts found by itself."""
    named = re.findall(r"\b(ketch|sloop|trawler) ((?:[A-Z]\w+ ?)+)", passage)
    lengths, numbers = re.findall(r"(\S+) metres", passage), re.findall(r"number (\d+)", passage)
    boats = [
        Boat(kind=kind, name=name.strip(), length=float(length), number=int(number))
        for (kind, name), length, number in zip(named, lengths, numbers, strict=True)
    ]
    return BoatCollection(boats=boats)


async def test_the_boats_are_those_of_the_passage_after_two_corrections() -> None:
    model = KeepingModel()
    handler = ReflectionWorkflow(model).run(passage=PASSAGE)
    assert await handler == by_hand(PASSAGE)
    assert len(by_hand(PASSAGE).boats) == 3
    assert [record.step for record in handler.record] == ["extract", "validate"] * 3


async def test_another_passage_gives_other_boats() -> None:
    passage = PASSAGE.replace("Quiet Otter", "Loud Otter").replace("23.5", "24.75")
    assert passage != PASSAGE
    found = await ReflectionWorkflow(KeepingModel()).run(passage=passage)
    assert found == by_hand(passage) != by_hand(PASSAGE)


async def test_each_prompt_holds_the_answer_before_and_what_was_wrong_with_it() -> None:
    model, recorder = KeepingModel(), Recorder()
    await ReflectionWorkflow(model, middleware=[recorder]).run(passage=PASSAGE)
    errors = [seen.result for seen in recorder.steps if type(seen.result).__name__ == "ValidationErrorEvent"]
    first, second, third = (asked.text for asked in model.asked)
    assert "<problem>" not in first
    assert [error.error in prompt for error, prompt in zip(errors, (second, third), strict=True)] == [True, True]
    assert [error.wrong_output in prompt for error, prompt in zip(errors, (second, third), strict=True)] == [True, True]
    assert "JSON" in tagged(second, "problem")
    assert tagged(third, "problem").startswith("boats.0.length: ")
    assert all(tagged(prompt, "passage") == PASSAGE.strip() for prompt in (first, second, third))


@pytest.mark.parametrize("tries", [1, 2, 5])
async def test_a_model_that_learns_nothing_is_asked_as_often_as_was_said(tries: int) -> None:
    model = KeepingModel({"reflection.extract": stubborn})
    handler = ReflectionWorkflow(model, tries).run(passage=PASSAGE)
    failed = await handler
    assert isinstance(failed, ExtractionFailed)
    assert (failed.tries, len(model.asked)) == (tries, tries)
    assert failed.answer == stubborn(model.asked[-1])
    assert "JSON" in failed.problem
    assert [record.step for record in handler.record].count("validate") == tries


async def test_the_right_answer_at_the_last_try_counts() -> None:
    assert isinstance(await ReflectionWorkflow(KeepingModel(), 3).run(passage=PASSAGE), BoatCollection)
    assert isinstance(await ReflectionWorkflow(KeepingModel(), 2).run(passage=PASSAGE), ExtractionFailed)


@pytest.mark.parametrize("passage", ["", " \n"])
async def test_an_empty_passage_asks_nobody(passage: str) -> None:
    model = KeepingModel()
    handler = ReflectionWorkflow(model).run(passage=passage)
    assert await handler == ExtractionFailed(tries=0, problem="the passage is empty")
    assert model.asked == []
    assert [record.step for record in handler.record] == ["extract"]


async def test_tries_are_counted_for_each_run_of_a_context() -> None:
    workflow = ReflectionWorkflow(KeepingModel())
    handler = workflow.run(passage=PASSAGE)
    await handler
    assert await workflow.run(ctx=handler.ctx, passage=PASSAGE) == by_hand(PASSAGE)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ('{"boats": {}}', "boats: "),
        ('{"boots": []}', "boats: Field required"),
        ('{"boats": [{"kind": "tug", "name": "A", "length": 3, "number": 1.5}]}', "boats.0.number: "),
        ("[]", "the answer: "),
    ],
)
async def test_a_problem_names_its_place(answer: str, problem: str) -> None:
    failed = await ReflectionWorkflow(KeepingModel({"reflection.extract": lambda asked: answer}), 1).run(passage=PASSAGE)
    assert failed.problem.startswith(problem)


def test_the_program_reads_a_page_or_a_passage_and_tells_what_failed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert capsys.readouterr().out == f"{by_hand(PASSAGE)}\n"
    assert main(["--passage", "The brig Hope, 31 metres, has number 5."]) == 0
    assert capsys.readouterr().out == "5: brig Hope, 31.0 metres\n"
    assert main(["--tries", "2"]) == 3
    assert "boats.0.length" in capsys.readouterr().err
    assert main(["99"]) == 3
    assert "which has 12, 13" in capsys.readouterr().err
    assert main(["--passage", ""]) == 3
    assert main(["--passage", "It rains."]) == 3
    assert "Not found: a boat in the passage" in capsys.readouterr().err
