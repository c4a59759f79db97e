from __future__ import annotations

import re
import sqlite3
from itertools import permutations
from pathlib import Path

import pytest

from examples._kit.cli import CORPUS
from examples._kit.reading import all_tagged
from examples._kit.retrieve import read_folder
from examples.long_rag_pack import GROUPED, QUESTION, SMALL, Answer, Article, LongRAG, group, main, read_articles
from tests.examples.keeping import KeepingModel
from tracedflow import WorkflowHandler
from tracedflow.errors import WorkflowStalledError
from tracedflow.representation import WorkflowStepNode, get_workflow_representation
from tracedflow.testing import assert_run

HANDBOOK = CORPUS / "handbook"


@pytest.fixture(scope="module")
def index_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path: str = LongRAG(KeepingModel()).run_sync(data_dir=str(HANDBOOK), index_file=tmp_path_factory.mktemp("index") / "index.db")
    return path


async def ask(question: str, **options: object) -> tuple[Answer, KeepingModel, WorkflowHandler]:
    model = KeepingModel()
    handler = LongRAG(model, timeout=60).run(query_str=question, **options)
    return await handler, model, handler


# Groups.


def article(name: str, words: int, *links: str) -> Article:
    return Article(name, " ".join([name] * words), links)


def names(groups: list[list[Article]]) -> list[list[str]]:
    return [[each.name for each in members] for members in groups]


@pytest.mark.parametrize("limit", [1, 100, 240, GROUPED, 10_000])
def test_groups_have_each_article_once_and_keep_to_the_limit(limit: int) -> None:
    articles = read_articles(HANDBOOK)
    groups = group(articles, limit)
    assert sorted(each.name for members in groups for each in members) == sorted(path.name for path in HANDBOOK.iterdir())
    for members in groups:
        assert len(members) == 1 or sum(len(each.text.split()) for each in members) <= limit


def test_only_linked_articles_come_together() -> None:
    chain = [article("a", 10, "b"), article("b", 10, "c"), article("c", 10), article("d", 10)]
    assert names(group(chain, 40)) == [["a", "b", "c"], ["d"]]
    assert names(group(chain, 20)) == [["a", "b"], ["c"], ["d"]]
    assert names(group([article("a", 1, "a", "nowhere")], 9)) == [["a"]]


def test_the_order_of_the_files_changes_no_group() -> None:
    articles = [article("a", 10, "b"), article("b", 20, "c"), article("c", 10, "d"), article("d", 5), article("e", 5, "a")]
    expected = names(group(articles, 35))
    assert len(expected) > 1
    for order in permutations(articles):
        assert names(group(order, 35)) == expected


# The index.


def test_the_result_is_the_path_of_a_file_with_small_passages_and_whole_articles(index_file: str) -> None:
    with sqlite3.connect(index_file) as db:
        small = db.execute("SELECT source, text FROM saved").fetchall()
        whole = dict(db.execute("SELECT name, text FROM grouped"))
    db.close()
    assert len(small) == len(read_folder(HANDBOOK, size=SMALL)) > len(whole)
    assert {source for source, _ in small} == set(whole)
    for source, text in small:
        assert text.split()[0] in whole[source]
    assert whole == {path.name: path.read_text(encoding="utf-8") for path in HANDBOOK.iterdir()}


def test_files_are_read_and_written_in_threads() -> None:
    steps = [node for node in get_workflow_representation(LongRAG).nodes if isinstance(node, WorkflowStepNode)]
    assert {node.id for node in steps if not node.is_async} == {"ingest", "make_query_engine", "retrieve"}


# Answers.


async def test_what_stands_in_the_group_is_answered_though_the_passage_found_does_not_hold_it(index_file: str) -> None:
    text = (HANDBOOK / "clockmaker.md").read_text(encoding="utf-8")
    [weight], [builder] = re.findall(r"weighs (\d+) kilograms", text), re.findall(r"among them (\w+ \w+)", text)
    answer, _, handler = await ask(QUESTION, index_file=index_file, top=1)
    assert weight in answer.text
    assert builder in answer.text
    assert "NOT FOUND" not in answer.text
    assert_run(handler).completed().order("retrieve", "query").ran("query", 1)
    small, model, _ = await ask(QUESTION, index_file=index_file, top=1, grouping=False)
    assert len(all_tagged(model.asked[0].text, "text")) == 1
    assert weight in small.text
    assert builder not in small.text
    assert "NOT FOUND" in small.text


@pytest.mark.parametrize("top", [1, 2, 3])
async def test_as_many_groups_are_read_as_were_wanted_each_once(index_file: str, top: int) -> None:
    _, model, _ = await ask("Who made the clock, and who built the machinery of the lighthouse?", index_file=index_file, top=top)
    read = [part.attributes["source"] for part in all_tagged(model.asked[0].text, "text")]
    assert len(read) == len(set(read))
    number_of = {name: number for number, members in enumerate(names(group(read_articles(HANDBOOK), GROUPED))) for name in members}
    numbers = {number_of[name] for name in read}
    assert len(numbers) == top
    assert sorted(read) == sorted(name for name, number in number_of.items() if number in numbers)


async def test_where_no_text_helps_there_is_no_source(index_file: str) -> None:
    answer, _, _ = await ask("What did the moon weigh, and who painted it?", index_file=index_file)
    assert answer.sources == []


@pytest.mark.parametrize("start", [{"data_dir": str(HANDBOOK)}, {"query_str": "When?"}])
async def test_a_run_without_a_place_for_the_index_is_refused(start: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="index_file="):
        await LongRAG(KeepingModel(), timeout=60).run(**start)
    with pytest.raises(WorkflowStalledError):
        await LongRAG(KeepingModel(), timeout=60).run()


# The command.


def test_the_command_keeps_its_index_and_asks_it_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "index.db"
    assert main(["--index", str(kept)]) == 0
    first = capsys.readouterr()
    before = kept.read_bytes()
    assert main(["--index", str(kept)]) == 0
    again = capsys.readouterr()
    assert again.out == first.out
    assert kept.read_bytes() == before
    assert "ingest" in first.err
    assert "ingest" not in again.err


def test_a_file_that_is_no_index_is_refused_and_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "letter.txt").write_text("Dear reader, this is a letter and no database.", encoding="utf-8")
    assert main(["--index", str(tmp_path / "letter.txt")]) == 2
    assert "is no index" in capsys.readouterr().err
    assert (tmp_path / "letter.txt").read_text(encoding="utf-8").startswith("Dear")
