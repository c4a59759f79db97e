"""SQLite that a model may write queries for: nothing but reading, one statement, and not for long."""

from __future__ import annotations

import csv
import json
import re
import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

_ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
_STEPS_BETWEEN_LOOKS = 10_000  # of SQLite's virtual machine: some tenths of a millisecond


class SqlError(Exception):
    """A statement was refused, is wrong, or took too long. `statement` is what was asked."""

    def __init__(self, problem: str, statement: str) -> None:
        super().__init__(problem)
        self.statement = statement


@dataclass(frozen=True, slots=True)
class Rows:
    columns: list[str]
    rows: list[tuple[Any, ...]]

    def as_text(self, most: int = 20) -> str:
        """Return the rows as a prompt shows them: a line of column names, a line for each row."""
        lines = [" | ".join(self.columns), *(" | ".join(map(str, row)) for row in self.rows[:most])]
        return "\n".join(lines + [f"... {len(self.rows) - most} more rows"] * (len(self.rows) > most))


def load_tables(path: str | Path, data: str | Path) -> Path:
    """Make an SQLite file from `tables.sql` and the CSV files beside it, in `tables/`."""
    path, data = Path(path), Path(data)
    with closing(sqlite3.connect(path)) as db, db:
        db.executescript((data / "tables.sql").read_text(encoding="utf-8"))
        for file in sorted((data / "tables").glob("*.csv")):
            with file.open(encoding="utf-8", newline="") as lines:
                header, *rows = csv.reader(lines)
            places = ", ".join("?" * len(header))
            db.executemany(f"INSERT INTO {file.stem} ({', '.join(header)}) VALUES ({places})", rows)
    return path


def load_records(path: str | Path, table: str, records: Sequence[Mapping[str, Any]]) -> Path:
    """Make an SQLite file with one table of these records.

    Keys become columns, whatever they are called; what a record lacks is NULL; lists and dicts become JSON text, for `json_each`.

    Raises:
        ValueError: there is no record, or no key.
    """
    columns = list(dict.fromkeys(key for record in records for key in record))
    if not columns:
        raise ValueError("there are no records, so there is nothing to make a table of")
    kinds = [_kind_of([record[column] for record in records if record.get(column) is not None]) for column in columns]
    names = [_quoted(name) for name in _distinct(columns)]
    rows = [[_as_value(record.get(column)) for column in columns] for record in records]
    path = Path(path)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(f"CREATE TABLE {_quoted(table)} ({', '.join(f'{n} {kind}' for n, kind in zip(names, kinds, strict=True))})")
        db.executemany(f"INSERT INTO {_quoted(table)} VALUES ({', '.join('?' * len(columns))})", rows)
    return path


def _distinct(names: Sequence[str]) -> list[str]:
    """Return names that SQLite tells apart, as it does not `Name` and `name`: the second becomes `name_2`."""
    found: list[str] = []
    for name in names:
        taken = {each.lower() for each in found} | {other.lower() for other in names if other != name}
        number = 1 + sum(each.lower() == name.lower() for each in found)
        found.append(name if number == 1 else next(new for at in count(number) if (new := f"{name}_{at}").lower() not in taken))
    return found


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _kind_of(values: Sequence[Any]) -> str:
    if values and all(isinstance(value, int) for value in values):
        return "INTEGER"
    return "REAL" if values and all(isinstance(value, int | float) for value in values) else "TEXT"


def _as_value(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def statement_in(answer: str) -> str:
    """Return the statement in a model's answer, which may stand in a fence and end with a semicolon."""
    fenced = re.search(r"```(?:sql)?\s(.+?)```", answer, re.DOTALL | re.IGNORECASE)
    return (fenced[1] if fenced else answer).strip().rstrip("; \n")


class Database:
    """A file of tables, opened for reading.

    Three guards: the file is read-only, an authorizer admits reads alone (a read-only file does not stop `ATTACH`), and a
    statement ends after `seconds`. At most `most` rows are returned.
    """

    def __init__(self, path: str | Path, *, seconds: float = 1.0, most: int = 1000) -> None:
        self._seconds, self._most = seconds, most
        self._until = float("inf")
        # A step that is a plain function runs in a thread of its own.
        self._db = sqlite3.connect(f"{Path(path).resolve().as_uri()}?mode=ro", uri=True, check_same_thread=False)
        self._tables = self._describe()
        self._db.execute("SELECT * FROM json_each('[]')")  # declares its columns on first use, which the authorizer would refuse
        self._db.set_authorizer(lambda action, *_: sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY)
        self._db.set_progress_handler(lambda: time.monotonic() > self._until, _STEPS_BETWEEN_LOOKS)

    def __enter__(self) -> Database:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()

    def _describe(self) -> dict[str, str]:
        found = self._db.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'table' ORDER BY name")
        return dict(found.fetchall())

    @property
    def tables(self) -> list[str]:
        return list(self._tables)

    def schema(self, *tables: str) -> str:
        """Return the `CREATE TABLE` statements of these tables, of all if none is named."""
        return "\n".join(self._tables[table] for table in tables or self._tables)

    def sample(self, table: str, most: int = 3) -> Rows:
        """Return the first rows of a table."""
        if table not in self._tables:
            raise SqlError(f"there is no table {table!r}; there are {', '.join(self._tables)}", table)
        return self.query(f'SELECT * FROM "{table}" LIMIT {most:d}')

    def query(self, statement: str) -> Rows:
        """Return what one SELECT finds.

        Raises:
            SqlError: it is wrong, not a read, more than one statement, or takes too long.
        """
        self._until = time.monotonic() + self._seconds
        try:
            cursor = self._db.execute(statement)
            if cursor.description is None:
                raise SqlError("it is not a SELECT", statement)
            rows = cursor.fetchmany(self._most)
        except (sqlite3.Error, sqlite3.Warning) as error:
            problem = f"it took longer than {self._seconds:g} s" if "interrupted" in str(error) else str(error)
            raise SqlError(problem, statement) from error
        finally:
            self._until = float("inf")
        return Rows([column[0] for column in cursor.description], rows)
