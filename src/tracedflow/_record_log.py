"""The records of a run as they are kept: rows of atoms, made into records when somebody reads them."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, overload

from .records import AttemptRecord, RunReport

if TYPE_CHECKING:
    from .middleware import StepCall

_log = logging.getLogger("tracedflow")

Row: TypeAlias = tuple[str | int | float | None, ...]
"""An attempt as one flat tuple, which begins with the fields of `_ALWAYS`.

Most attempts are their execution's first and last, took one event, ran from their start to their end and succeeded. Those have no
attempt number in their row, and end with (id, type, cause) of the event and (id, type) of each event out. The others go on with
the fields of `_MORE`, the count of inputs and (id, type, cause) of each, the count of events out and (id, type) of each, then
(name, value, unit) of each measurement and (what, from, until) of each interruption.
"""

Listener: TypeAlias = "Callable[[Row, StepCall, bool], None]"
"""Hears of each attempt of a run as it is recorded: the row, the call, and whether the execution is over."""

_PACKED = 64  # rows
_ALWAYS = ("step", "execution", "attempt", "enqueued_at", "started_at", "ended_at", "outcome", "trace_id", "span_id")
_MORE = ("queued", "running", "backoff", "waiting", "blocked", "error")
_ATTEMPT = _ALWAYS.index("attempt")
_REST = len(_ALWAYS)
_ERROR = _REST + _MORE.index("error")
_INPUTS = _REST + len(_MORE)  # their count
STEP = _ALWAYS.index("step")
ENDED_AT = _ALWAYS.index("ended_at")
OUTCOME = _ALWAYS.index("outcome")


def only_type(row: Row) -> object:
    """Return the type name of the one event that an attempt took, if it was of those that most are; else None."""
    return row[_REST + 1] if row[_ATTEMPT] is None else None


def error_of(row: Row) -> str:
    """Return the type name of what an attempt raised, or nothing."""
    return "" if row[_ATTEMPT] is None else str(row[_ERROR] or "")


def input_types(row: Row) -> Row:
    """Return the type names of the events that an attempt took."""
    if row[_ATTEMPT] is None:
        return row[_REST + 1 : _REST + 2]
    return row[_INPUTS + 2 : _INPUTS + 2 + 3 * int(row[_INPUTS] or 0) : 3]


class RecordLog(Sequence[AttemptRecord]):
    """The last records of a run, made when they are read.

    Until then each is a row of atoms, packed with others into one list: what has no object of its own costs the garbage
    collector nothing. With a thousand busy runs, a tuple for each made it look at everything that is alive once a second.
    """

    __slots__ = ("_atoms", "_full", "_kept", "_run_id", "_sizes", "_workflow", "listeners", "report")

    def __init__(self, run_id: str, workflow: str, kept: int | None) -> None:
        self._run_id = run_id
        self._workflow = workflow
        self._kept = kept
        self._atoms: list[Any] = []
        self._sizes: list[int] = []  # of the rows in `_atoms`
        # Earlier ones, with as many rows as they take: as tuples, for the collector does not look into tuples of atoms.
        self._full: deque[tuple[tuple[Any, ...], tuple[int, ...]]] | tuple[()] = ()
        self.report: RunReport | None = None  # None while the run is live
        self.listeners: tuple[Listener, ...] = ()

    @property
    def run_id(self) -> str:
        """The run that these are of."""
        return self._run_id

    def append(self, row: Row, call: StepCall, *, last: bool) -> None:
        """Add one attempt of the execution `call`; `last`: there will be no further one."""
        if len(self._sizes) == _PACKED:
            self._begin_anew()
        self._atoms.extend(row)
        self._sizes.append(len(row))
        if self.listeners:
            self._tell(row, call, last)

    def _begin_anew(self) -> None:
        """Begin a new list; the oldest one goes when the others have as many rows as are to be kept."""
        if isinstance(self._full, tuple):
            self._full = deque()
        self._full.append((tuple(self._atoms), tuple(self._sizes)))
        self._atoms, self._sizes = [], []
        if self._kept is not None and len(self._full) * _PACKED >= self._kept + _PACKED:
            self._full.popleft()

    def _rows(self) -> list[Row]:
        rows: list[Row] = []
        for atoms, sizes in (*self._full, (self._atoms, self._sizes)):
            at = 0
            for size in tuple(sizes):
                rows.append(tuple(atoms[at : at + size]))
                at += size
        return rows if self._kept is None else rows[max(0, len(rows) - self._kept) :]

    def _tell(self, row: Row, call: StepCall, last: bool) -> None:
        for listen in self.listeners:
            try:
                listen(row, call, last)
            except Exception:  # noqa: BLE001 - what listens only shows: a bug in it must not reach the run
                self.listeners = tuple(each for each in self.listeners if each is not listen)
                _log.exception("%r raised on a record of run %s, and hears no more of it", listen, self._run_id)

    def close(self, state: str, age: float, report: RunReport | None) -> None:
        """Take the last word on the run, which is over after `age` seconds: a whole report if there is one, for what outlives the run."""
        self.report = report or RunReport(workflow=self._workflow, run_id=self._run_id, state=state, age=age)

    def __len__(self) -> int:
        count = len(self._full) * _PACKED + len(self._sizes)
        return count if self._kept is None else min(count, self._kept)

    def __iter__(self) -> Iterator[AttemptRecord]:
        return map(self.made, self._rows())

    @overload
    def __getitem__(self, index: int, /) -> AttemptRecord: ...
    @overload
    def __getitem__(self, index: slice, /) -> list[AttemptRecord]: ...
    def __getitem__(self, index: int | slice, /) -> AttemptRecord | list[AttemptRecord]:
        if isinstance(index, slice):
            return [self.made(row) for row in self._rows()[index]]
        number = range(len(self))[index] + len(self._full) * _PACKED + len(self._sizes) - len(self)  # those no longer kept come first
        atoms, sizes = (*self._full, (self._atoms, self._sizes))[number // _PACKED]
        at = sum(sizes[: number % _PACKED])
        return self.made(tuple(atoms[at : at + sizes[number % _PACKED]]))

    def made(self, row: Row) -> AttemptRecord:
        """Return the record that a row stands for."""
        fields: dict[str, Any] = dict(zip(_ALWAYS, row, strict=False))
        rest: list[Any] = list(row[_REST:])
        if fields["attempt"] is None:
            running = fields["ended_at"] - fields["started_at"]
            fields |= {"attempt": 1, "queued": max(0.0, fields["started_at"] - fields["enqueued_at"]), "running": running}
            rest = [1, *rest[:3], len(rest) // 2 - 1, *rest[3:]]
        else:
            fields |= zip(_MORE, rest, strict=False)
            del rest[: len(_MORE)]
        inputs = _take(rest, 3)
        outputs = _take(rest, 2)
        triples = [(rest[at], rest[at + 1], rest[at + 2]) for at in range(0, len(rest), 3)]
        return AttemptRecord(
            run_id=self._run_id,
            workflow=self._workflow,
            events_in=tuple((number, kind) for number, kind, _ in inputs),
            causes=tuple(cause for _, _, cause in inputs),
            events_out=tuple((number, kind) for number, kind in outputs),
            measurements=tuple(triple for triple in triples if isinstance(triple[2], str)),
            interruptions=tuple(triple for triple in triples if not isinstance(triple[2], str)),
            **fields,
        )


def _take(rest: list[Any], width: int) -> list[tuple[Any, ...]]:
    """Take a counted list of groups off the front."""
    end = 1 + rest[0] * width
    groups = [tuple(rest[at : at + width]) for at in range(1, end, width)]
    del rest[:end]
    return groups
