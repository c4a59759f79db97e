"""Resources: what steps need besides their event, made by factories, shared or not, from a configuration file, in chains.

A parameter `Annotated[T, Resource(factory)]` asks for what the factory makes. Everybody gets the same object, unless the
mark says `cache=False`: then each attempt of a step has one of its own. A factory may ask for resources in turn, may be
async, and may be a generator, whose end closes what it made. `ResourceConfig` reads a part of a file into a model.
Resources are never part of the state: `ctx.to_dict()` saves a run without them, and a resumed run makes its own.

```mermaid
flowchart LR
  start([Wish]) --> find -->|Found| lend --> stop([StopEvent])
  find -->|"Found: none"| lend
  file[(resources.json)] -.-> open_library -.-> catalogue -.-> find
  open_library -.-> loan -.-> lend
```

`python -m examples.resources [WORD...]`
"""

from __future__ import annotations

import sqlite3
import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field

from examples._kit.cli import Stage, run_example, some_text
from tracedflow import Event, Limit, StartEvent, StopEvent, Workflow, step
from tracedflow.resource import Resource, ResourceConfig

FILE = Path(__file__).parent / "data" / "resources.json"

# What the configuration file holds. It is read, and checked, when a run starts.


class Book(BaseModel):
    title: str
    shelf: str
    copies: int = Field(ge=0)


class Database(BaseModel):
    url: str
    timeout: float = 5.0  # seconds


# The factories, each asking for what the one before it makes.


def open_library(
    database: Annotated[Database, ResourceConfig(FILE, "library.database", label="database")],
    books: Annotated[list[Book], ResourceConfig(FILE, "library.books", label="books")],
) -> Iterator[sqlite3.Connection]:
    """Open the database and fill it; one for all runs of a workflow, closed with the workflow."""
    connection = sqlite3.connect(database.url, timeout=database.timeout, uri=True, check_same_thread=False, isolation_level=None)
    connection.execute("CREATE TABLE book (title TEXT PRIMARY KEY, shelf TEXT, copies INTEGER)")
    connection.executemany("INSERT INTO book VALUES (?, ?, ?)", [(book.title, book.shelf, book.copies) for book in books])
    yield connection
    connection.close()


class Catalogue:
    """Finds books."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def matches(self, word: str) -> list[str]:
        """Return the titles that contain a word, those that can be lent first."""
        rows = self._connection.execute("SELECT title FROM book WHERE instr(lower(title), lower(?)) ORDER BY copies = 0, title", [word])
        return [title for (title,) in rows]


async def catalogue(connection: Annotated[sqlite3.Connection, Resource(open_library)]) -> Catalogue:
    return Catalogue(connection)


class LoanRefusedError(Exception):
    """There is no copy left."""


class Loan:
    """Takes one copy of a book, in a transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def take(self, title: str) -> int:
        """Take a copy and return how many are left."""
        self._connection.execute("UPDATE book SET copies = copies - 1 WHERE title = ?", [title])
        (left,) = self._connection.execute("SELECT copies FROM book WHERE title = ?", [title]).fetchone()
        if left < 0:
            raise LoanRefusedError(title)
        return int(left)


def loan(connection: Annotated[sqlite3.Connection, Resource(open_library)]) -> Iterator[Loan]:
    """Begin a transaction for one attempt of a step; commit it if that goes well, else undo it."""
    connection.execute("BEGIN")
    try:
        yield Loan(connection)
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


# The workflow only says what it needs.

one_at_a_time = Limit("library desk", concurrency=1)


class Wish(StartEvent):
    word: str


class Found(Event):
    title: str | None


class Library(Workflow[str]):
    @step
    async def find(self, ev: Wish, books: Annotated[Catalogue, Resource(catalogue)]) -> Found:
        titles = books.matches(ev.word)
        return Found(title=titles[0] if titles else None)

    # All runs use one connection, and a connection has one transaction at a time: the permit is held around the loan.
    @step(limit=one_at_a_time)
    async def lend(self, ev: Found, desk: Annotated[Loan, Resource(loan, cache=False)]) -> StopEvent:
        if ev.title is None:
            return StopEvent(result="No such book.")
        return StopEvent(result=f"{ev.title}: yours; {desk.take(ev.title)} left.")


async def play(stage: Stage) -> str:
    """Wish for a book by each word, in a run of its own; all runs share the library."""
    told: list[str] = []
    async with Library() as library:  # at its end the library is closed
        for word in stage.arguments.words:
            try:
                told.append(await stage.run(library, word=word))
            except LoanRefusedError as error:
                told.append(f"{error}: all copies are out.")
    return "\n".join(told)


def flags(parser: ArgumentParser) -> None:
    wished = ["tides", "tides", "tides", "keeper", "fog"]
    parser.add_argument("words", nargs="*", type=some_text, metavar="WORD", default=wished, help="of the title of each book wished for")


def main(argv: Sequence[str] | None = None) -> int:
    return run_example(play, __doc__, None, argv, flags=flags, needs_model=False)


if __name__ == "__main__":
    sys.exit(main())
