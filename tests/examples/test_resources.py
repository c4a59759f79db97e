from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated

import pytest

from examples.resources import FILE, Book, Catalogue, Database, Library, Loan, LoanRefusedError, catalogue, loan, main, open_library
from tracedflow import StartEvent, StopEvent, Workflow, WorkflowValidationError, draw_all_possible_flows_mermaid, step
from tracedflow.resource import Resource, ResourceConfig
from tracedflow.testing import assert_run

BOOKS = {book["title"]: book["copies"] for book in json.loads(FILE.read_text(encoding="utf-8"))["library"]["books"]}
PLENTY = max(BOOKS, key=BOOKS.__getitem__)
NONE_LEFT = min(BOOKS, key=BOOKS.__getitem__)


def rows(library: Library) -> dict[str, int]:
    """Return the copies that the database has now."""
    connection = library.resource_manager.get_all()["open_library"]
    return dict(connection.execute("SELECT title, copies FROM book"))


async def test_a_book_is_lent_as_often_as_there_are_copies() -> None:
    async with Library() as library:
        for left in reversed(range(BOOKS[PLENTY])):
            assert await library.run(word=PLENTY) == f"{PLENTY}: yours; {left} left."
        with pytest.raises(LoanRefusedError, match=PLENTY):
            await library.run(word=PLENTY)
        assert rows(library) == {**BOOKS, PLENTY: 0}, "what was refused was undone"


async def test_what_is_not_there_is_not_found() -> None:
    async with Library() as library:
        assert await library.run(word="no such word") == "No such book."
        with pytest.raises(LoanRefusedError):
            await library.run(word=NONE_LEFT)
        assert rows(library) == BOOKS


async def test_the_library_is_shared_by_all_runs_and_each_loan_is_a_transaction_of_its_own() -> None:
    async with Library() as library:
        await library.run(word="no such word")
        first = library.resource_manager.get_all()
        told: list[str] = []
        first["open_library"].set_trace_callback(told.append)
        for _ in range(BOOKS[PLENTY]):
            await library.run(word=PLENTY)
        with pytest.raises(LoanRefusedError):
            await library.run(word=PLENTY)
        now = library.resource_manager.get_all()
        assert (now["open_library"], now["catalogue"]) == (first["open_library"], first["catalogue"])
        assert "loan" not in now, "what is made for an attempt is not kept"
        ends = [statement for statement in told if statement in ("BEGIN", "COMMIT", "ROLLBACK")]
        assert ends == ["BEGIN", "COMMIT"] * BOOKS[PLENTY] + ["BEGIN", "ROLLBACK"]
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        first["open_library"].execute("SELECT 1")


async def test_many_runs_at_once_lend_each_copy_once() -> None:
    async with Library() as library:
        with library.resource_manager.override("books", [Book(title="Tides", shelf="harbour", copies=10)]):
            handlers = [library.run(word="tides") for _ in range(25)]
            results = await asyncio.gather(*handlers, return_exceptions=True)
    left = sorted(int(re.search(r"(\d+) left", result)[1]) for result in results if isinstance(result, str))  # type: ignore[index]
    assert left == list(range(10))
    assert sum(isinstance(result, LoanRefusedError) for result in results) == 15
    assert_run(handlers[0]).completed().order("find", "lend")


async def test_each_factory_gets_what_the_one_before_it_made() -> None:
    library = Library()
    lent: list[str] = []

    class Desk(Loan):
        def take(self, title: str) -> int:
            lent.append(title)
            return 41

    def fake() -> Iterator[Loan]:
        with closing(sqlite3.connect(":memory:")) as connection:
            yield Desk(connection)

    with library.resource_manager.override(loan, next(fake())), library.resource_manager.override(catalogue, Everything()):
        assert await library.run(word="anything") == "anything: yours; 41 left."
    assert lent == ["anything"]
    assert library.resource_manager.get_all() == {}, "nobody asked for the library itself"


class Everything(Catalogue):
    def __init__(self) -> None: ...

    def matches(self, word: str) -> list[str]:
        return [word]


async def test_other_books_give_other_answers() -> None:
    async with Library() as library:
        with library.resource_manager.override("books", [Book(title="Winds", shelf="tower", copies=7)]):
            assert await library.run(word="winds") == "Winds: yours; 6 left."
            assert await library.run(word=PLENTY) == "No such book."


# What is wrong with a file is said before any step runs.


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "does not exist"),
        ("{", "not valid JSON|no valid JSON|JSON"),
        ('{"library": {}}', "database"),
        ('{"library": {"database": {"timeout": "soon"}}}', "url"),
    ],
)
async def test_a_wrong_file_is_a_clear_error(content: str | None, says: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.json"
    if content is not None:
        path.write_text(content)
    ran: list[str] = []

    class Wrong(Workflow):
        @step
        async def use(self, ev: StartEvent, database: Annotated[Database, ResourceConfig(path, "library.database")]) -> StopEvent:
            ran.append("use")
            return StopEvent()

    flow = Wrong()
    with pytest.raises(WorkflowValidationError, match=says) as caught:
        await flow.run()
    assert path.name in str(caught.value)
    with pytest.raises(WorkflowValidationError, match=says):
        flow.validate()
    assert ran == []


def test_the_file_of_the_example_is_right() -> None:
    assert Library().validate(validate_resources=True) is False


async def test_resources_are_not_part_of_what_is_saved() -> None:
    library = Library()
    handler = library.run(word=PLENTY)
    await handler
    text = json.dumps(handler.ctx.to_dict())
    for name in ("Connection", "Catalogue", "Loan", "sqlite", "Database"):
        assert name not in text
    await library.aclose()


def test_the_drawing_shows_who_needs_what() -> None:
    lines = {line.strip() for line in draw_all_possible_flows_mermaid(Library, filename=None).splitlines()}
    assert {
        "resource_database -.-> resource_open_library",
        "resource_books -.-> resource_open_library",
        "resource_open_library -.-> resource_catalogue",
        "resource_open_library -.-> resource_loan",
        "resource_catalogue -.-> step_find",
        "resource_loan -.-> step_lend",
    } <= lines


def test_resource_names_are_those_of_the_factories() -> None:
    assert [Resource(each).name for each in (open_library, catalogue, loan)] == ["open_library", "catalogue", "loan"]


# The command.


def test_the_command_lends_what_is_there_and_tells_what_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([PLENTY] * (BOOKS[PLENTY] + 1) + ["no such word"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:-2] == [f"{PLENTY}: yours; {left} left." for left in reversed(range(BOOKS[PLENTY]))]
    assert lines[-2].startswith(PLENTY)
    assert "out" in lines[-2]
    assert lines[-1] == "No such book."
