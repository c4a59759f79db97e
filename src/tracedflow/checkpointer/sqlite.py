"""Checkpoints in a SQLite file, which several processes may write and read at once."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import weakref
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import astuple, fields
from pathlib import Path

from ..errors import ContextSerdeError
from . import StoredCheckpoint

_BUSY = 30.0  # seconds that a writer waits for another process
_FORMAT = 1
_COLUMNS = ", ".join(each.name for each in fields(StoredCheckpoint))
_SCHEMA = """
CREATE TABLE IF NOT EXISTS checkpoints (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE, workflow TEXT NOT NULL, run_id TEXT NOT NULL, step TEXT NOT NULL,
    input_event TEXT NOT NULL, output_event TEXT NOT NULL, ctx_state TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS checkpoints_of_workflow ON checkpoints (workflow, number);
"""


class SqliteCheckpoints:
    """A `CheckpointStore` in one file, in write-ahead mode. A checkpoint is on disk when `add` returns.

    Writing happens in a thread, so that it does not hold up the event loop; it takes the time of one sync of the disk.

    Raises:
        ContextSerdeError: the file was written by a newer release, is damaged or no database, or cannot be opened. `add`
            and `after` raise it too, with SQLite's own error as its cause.
    """

    def __init__(self, path: str | Path) -> None:
        self.path: Path = Path(path)
        self._lock = threading.Lock()
        self._turns: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = weakref.WeakKeyDictionary()
        self._process = os.getpid()
        with self._named("opened"):
            self._connection = self._connect()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=_BUSY, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        weakref.finalize(self, _close, connection, self._process)  # Python 3.13 warns of one that nobody closed
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        (found,) = connection.execute("PRAGMA user_version").fetchone()
        if found > _FORMAT:
            raise ContextSerdeError(f"{self.path} has format {found}, newer than {_FORMAT}; upgrade tracedflow")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        if found < _FORMAT:
            connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version={_FORMAT}; COMMIT;")

    @contextmanager
    def _named(self, tried: str) -> Generator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise ContextSerdeError(f"the checkpoints in {self.path} cannot be {tried}: {error}") from error

    @contextmanager
    def _used(self, tried: str) -> Generator[sqlite3.Connection]:
        with self._lock, self._named(tried):
            if self._process != os.getpid():  # a connection must not be used after a fork
                self._process, self._connection = os.getpid(), self._connect()
            yield self._connection

    async def add(self, checkpoint: StoredCheckpoint, /) -> None:
        """Keep a checkpoint; when this returns, it is on disk. Those of one loop are added in the order of the calls."""
        async with self._turns.setdefault(asyncio.get_running_loop(), asyncio.Lock()):  # threads take theirs in any order
            await asyncio.to_thread(self._add, checkpoint)

    def _add(self, checkpoint: StoredCheckpoint) -> None:
        values = astuple(checkpoint)
        with self._used("written") as connection:
            connection.execute(f"INSERT INTO checkpoints ({_COLUMNS}) VALUES ({', '.join('?' * len(values))})", values)

    def after(self, workflow: str, number: int, /) -> Iterable[tuple[int, StoredCheckpoint]]:
        """Return the checkpoints of a workflow with numbers above `number`, in the order they were added."""
        query = f"SELECT number, {_COLUMNS} FROM checkpoints WHERE workflow = ? AND number > ? ORDER BY number"
        with self._used("read") as connection:
            rows = connection.execute(query, (workflow, number)).fetchall()
        return [(found, StoredCheckpoint(**dict(zip(_COLUMNS.split(", "), values, strict=True)))) for found, *values in rows]

    def close(self) -> None:
        """Close the file; it cannot be used any more."""
        with self._lock:
            self._connection.close()


def _close(connection: sqlite3.Connection, process: int) -> None:
    if process == os.getpid():  # a connection must not be used after a fork
        connection.close()
