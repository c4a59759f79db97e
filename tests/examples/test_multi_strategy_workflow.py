from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from examples._kit.cli import CORPUS
from examples._kit.messages import Asked, Reply, Wanted
from examples._kit.model import Rule, ScriptedModel, StructuredOutputError
from examples._kit.reading import all_tagged, tagged
from examples._kit.retrieve import HybridIndex, read_folder
from examples._kit.scripts.multi_strategy_workflow import RULES
from examples.multi_strategy_workflow import (
    FEW,
    FOLDERS,
    MANY,
    MOST_IMPROVEMENTS,
    STRATEGIES,
    IndexWorkflow,
    MultiStrategyWorkflow,
    Picked,
    ResponseEvent,
    main,
    named,
)
from tests.examples.cases.multi_strategy_workflow import YEARS, bell, marks
from tracedflow import Context, StopEvent, step
from tracedflow.testing import Schedule, explore

NAME = "multi_strategy_workflow"
EXACT = "How much did the Lighthouse spend in 2019?"
SCATTERED = f"How much did the Harbour spend in {', '.join(map(str, YEARS[:-1]))} and {YEARS[-1]}?"
DISTRACTED = "What did the second bell for the school cost in 2021?"
VAGUE = "How is the harbour doing?"

INDEX = HybridIndex(chunk for name in FOLDERS for chunk in read_folder(CORPUS / name))


class KeepingModel(ScriptedModel):
    seconds_per_word = 0.0

    def __init__(self, rules: dict[str, Rule] | None = None) -> None:
        super().__init__({f"{NAME}.{prompt}": rule for prompt, rule in (rules or {}).items()})
        self.asked: list[Asked] = []

    def _reply(self, asked: Asked, wanted: Wanted) -> AsyncIterator[str | Reply]:
        self.asked.append(asked)
        return super()._reply(asked, wanted)

    def asked_for(self, prompt: str) -> list[Asked]:
        return [asked for asked in self.asked if asked.prompt_name == f"{NAME}.{prompt}"]


async def ask(question: str, rules: dict[str, Rule] | None = None) -> tuple[Picked, list[str], KeepingModel]:
    """Return the result, the steps that ran, and the model."""
    model = KeepingModel(rules)
    handler = MultiStrategyWorkflow(model, INDEX, timeout=60).run(query=question)
    return await handler, [record.step for record in handler.record], model


# --- the question ---


async def test_a_clear_question_goes_to_the_three_strategies_at_once() -> None:
    picked, steps, _ = await ask(EXACT)
    assert steps[0] == "judge_query"
    assert sorted(steps[1:]) == sorted([*STRATEGIES, "judge", "judge", "judge"])
    assert picked.query == EXACT


async def test_a_vague_question_is_improved_once_from_what_the_texts_have() -> None:
    picked, steps, model = await ask(VAGUE)
    assert steps[:3] == ["judge_query", "improve_query", "judge_query"]
    assert sorted(steps[3:]) == sorted([*STRATEGIES, "judge", "judge", "judge"])
    [improve] = model.asked_for("improve")
    assert "harbour" in improve.text.partition("Rewrite")[0]  # why it is vague
    assert "Harbour" in picked.query
    assert {str(YEARS[0]), str(YEARS[-1])} <= set(picked.query.rstrip("?").split())
    for year in (YEARS[0], YEARS[-1]):
        assert marks(CORPUS, "Harbour", year) in picked.text
    for asked in model.asked_for("answer"):
        assert tagged(asked.text, "question") == picked.query


async def test_a_question_that_stays_vague_is_improved_twice_and_then_tried() -> None:
    _, steps, model = await ask(EXACT, {"judge": lambda asked: {"verdict": "bad", "reason": "I do not like it"}})
    assert steps.count("improve_query") == MOST_IMPROVEMENTS == 2
    assert len(model.asked_for("judge")) == MOST_IMPROVEMENTS
    assert len(model.asked_for("answer")) == 3


async def test_a_verdict_that_is_neither_good_nor_bad_is_asked_for_again() -> None:
    verdicts = iter([{"verdict": "Yes.", "reason": ""}, {"verdict": "good", "reason": ""}])
    _, steps, model = await ask(EXACT, {"judge": lambda asked: next(verdicts)})
    assert "improve_query" not in steps
    assert "cannot be used" in model.asked_for("judge")[1].last
    with pytest.raises(StructuredOutputError, match="Verdict"):
        await ask(EXACT, {"judge": lambda asked: {"verdict": "Yes.", "reason": ""}})


# --- the strategies ---


async def test_the_three_search_at_the_same_time() -> None:
    together = asyncio.Barrier(3)

    class MeetingModel(KeepingModel):
        async def _reply(self, asked: Asked, wanted: Wanted) -> AsyncIterator[str | Reply]:
            if asked.prompt_name == f"{NAME}.answer":
                await asyncio.wait_for(together.wait(), timeout=10)  # one after the other they would not meet
            async for piece in super()._reply(asked, wanted):
                yield piece

    handler = MultiStrategyWorkflow(MeetingModel(), INDEX, timeout=60).run(query=EXACT)
    await handler
    times = [(record.started_at, record.ended_at) for record in handler.record if record.step in STRATEGIES]
    assert max(start for start, _ in times) < min(end for _, end in times)


async def test_each_gives_the_model_its_own_passages() -> None:
    _, _, model = await ask(DISTRACTED)
    given = sorted(len(all_tagged(asked.text, "passage")) for asked in model.asked_for("answer"))
    assert given == [FEW, FEW, MANY]
    [rerank] = model.asked_for("rerank")
    assert len(all_tagged(rerank.text, "passage")) == MANY


@pytest.mark.parametrize(
    ("question", "winner", "figures"),
    [
        (EXACT, "naive_rag", [marks(CORPUS, "Lighthouse", 2019)]),
        (SCATTERED, "high_top_k", [marks(CORPUS, "Harbour", year) for year in YEARS]),
        (DISTRACTED, "rerank", [bell(CORPUS)]),
    ],
)
async def test_each_is_best_for_one_kind_of_question(question: str, winner: str, figures: list[str]) -> None:
    picked, _, _ = await ask(question)
    assert picked.source == winner
    assert picked.text == picked.responses[winner]
    for figure in figures:
        assert figure in picked.text
    if winner != "naive_rag":  # the cheapest, which wins where all are right
        others = [response for source, response in picked.responses.items() if source != winner]
        assert not any(all(figure in response for figure in figures) for response in others)


@pytest.mark.parametrize(("order", "first"), [("none of them", 0), ("99, 0, 3, 3", 2), ("", 0)])
async def test_a_reranking_with_numbers_that_there_are_not_still_gives_passages(order: str, first: int) -> None:
    _, _, model = await ask(EXACT, {"rerank": lambda asked: order})
    found = [hit.chunk.text for hit in INDEX.search(EXACT, MANY)]
    given = [[part.text for part in all_tagged(asked.text, "passage")] for asked in model.asked_for("answer")]
    reranked = [texts for texts in given if len(texts) <= FEW][-1]
    assert reranked == ([found[first]] if first else found[:FEW])


# --- the pick ---


class InOrder(MultiStrategyWorkflow):
    """The answers arrive in an order that is given."""

    def __init__(self, model: KeepingModel, order: tuple[str, ...]) -> None:
        super().__init__(model, INDEX, timeout=60)
        self.turns = {source: asyncio.Event() for source in order}
        self.order = order
        self.turns[order[0]].set()
        self.arrived: list[str] = []

    async def answer(self, query: str, passages: Any, source: str) -> ResponseEvent:
        await self.turns[source].wait()
        return await super().answer(query, passages, source)

    @step
    async def judge(self, ctx: Context, ev: ResponseEvent) -> StopEvent | None:
        self.arrived.append(ev.source)
        for following in self.order[len(self.arrived) : len(self.arrived) + 1]:
            self.turns[following].set()
        return await super().judge(ctx, ev)


@pytest.mark.parametrize("order", list(permutations(STRATEGIES)))
@pytest.mark.parametrize(("question", "winner"), [(SCATTERED, "high_top_k"), (DISTRACTED, "rerank")])
async def test_the_pick_goes_by_the_source_whatever_arrives_first(order: tuple[str, ...], question: str, winner: str) -> None:
    workflow = InOrder(KeepingModel(), order)
    picked: Picked = await workflow.run(query=question)
    assert workflow.arrived == list(order)
    assert (picked.source, picked.text) == (winner, picked.responses[winner])


def test_no_order_of_the_steps_changes_the_pick() -> None:
    seen: set[str] = set()

    async def program(schedule: Schedule) -> None:
        seen.add(str(await MultiStrategyWorkflow(KeepingModel(), INDEX, middleware=[schedule]).run(query=DISTRACTED)))

    explore(program, seeds=10)
    assert len(seen) == 1


FOUND = {"naive_rag": "A.", "high_top_k": "B.", "rerank": "NOT FOUND"}


@pytest.mark.parametrize(
    ("pick", "source"),
    [
        ("2", "high_top_k"),
        ("best: 2", "high_top_k"),
        ("Response 1 is the best of the 3.", "naive_rag"),
        ("the second one", "naive_rag"),  # no number: the first that helps
        ("7", "naive_rag"),
        ("3", "naive_rag"),  # which found nothing
        ("0", None),
        ("", "naive_rag"),
    ],
)
def test_a_pick_is_read_as_it_comes(pick: str, source: str | None) -> None:
    assert named(pick, FOUND) == source


async def test_a_pick_in_words_of_its_own_is_understood_and_one_that_is_none_costs_no_answer() -> None:
    picked, _, _ = await ask(EXACT, {"pick": lambda asked: "best: 2"})
    assert picked.source == "high_top_k"
    picked, _, _ = await ask(EXACT, {"pick": lambda asked: "They are all lovely."})
    assert picked.source == "naive_rag"


async def test_where_none_finds_anything_nothing_is_picked() -> None:
    picked, _, _ = await ask(EXACT, {"answer": lambda asked: "NOT FOUND", "pick": lambda asked: "1"})
    assert (picked.source, picked.text) == (None, "NOT FOUND")


# --- the index ---


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return Path(shutil.copytree(CORPUS, tmp_path / "data"))


async def steps_of_index(folder: Path, file: Path) -> tuple[list[str], HybridIndex]:
    handler = IndexWorkflow(timeout=60).run(folder=folder, file=file)
    index = await handler
    return [record.step for record in handler.record], index


async def test_the_second_run_loads_the_index_and_cuts_nothing(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "index.db"
    first, made = await steps_of_index(data, file)
    second, loaded = await steps_of_index(data, file)
    assert (first, second) == (["load", "chunk"], ["load"])
    assert loaded.chunks == made.chunks == INDEX.chunks
    assert loaded.search(DISTRACTED, MANY) == made.search(DISTRACTED, MANY)


@pytest.mark.parametrize("change", ["edited", "added", "removed"])
async def test_a_text_that_changed_makes_the_index_anew(change: str, data: Path, tmp_path: Path) -> None:
    file = tmp_path / "index.db"
    await steps_of_index(data, file)
    touch(data, change, after=file)
    steps, index = await steps_of_index(data, file)
    assert steps == ["load", "chunk"]
    assert index.chunks == [chunk for name in FOLDERS for chunk in read_folder(data / name)]


def touch(data: Path, change: str, after: Path) -> None:
    """Change a text, a second after a file was written, whatever the clock of the file system can tell."""
    text, new = data / "letters" / "school_bell.md", data / "letters" / "another.md"
    match change:
        case "edited":
            text.write_text("# Letters\nThere are none.\n", encoding="utf-8")
        case "added":
            new.write_text("# More letters\nOne more.\n", encoding="utf-8")
        case _:
            text.unlink()
    changed = text if change == "edited" else data / "letters"
    os.utime(changed, ns=(0, after.stat().st_mtime_ns + 10**9))


# --- as a program ---


def test_a_kept_index_is_used_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "index.db"
    said = []
    for _ in range(2):
        assert main(["--index", str(file), EXACT]) == 0
        said.append(capsys.readouterr())
    assert said[0].out == said[1].out
    assert ["load -> ChunkEvent" in each.err for each in said] == [True, False]


def test_a_file_that_is_no_index_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "diary.txt"
    file.write_text(json.dumps("dear"))
    with pytest.raises(SystemExit) as ended:
        main(["--index", str(file), EXACT])
    assert ended.value.code == 2
    assert "is no index" in capsys.readouterr().err
    assert file.read_text() == json.dumps("dear")


def test_the_rules_find_nothing_in_texts_that_say_nothing() -> None:
    assert RULES["improve"](Asked([])) == ""
    assert RULES["pick"](Asked([])) == "0"
