"""What the pytest plugin does: keeps what is left of the runs of one test, and tells of them if the test failed.

`src/pytest_tracedflow` has the hooks; it loads this module only when a test uses tracedflow.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .. import _config
from .._engine import _live
from .._engine._runner import Runner
from .._record_log import RecordLog
from ..handler import WorkflowHandler
from ..inspect.waterfall import waterfall
from ..records import RunReport
from ._recorder import Recorder

_KEPT = 100  # runs of one test
_SHOWN = 5
_ROWS = 15  # of each waterfall
_WIDTH = 100  # columns
_LINES = 25  # of each answer to "why"


@dataclass(slots=True, eq=False)
class _Watched:
    """A run: its records, and itself as long as somebody else has it, so that nothing lives longer for being watched."""

    runner: weakref.ref[Runner]
    records: RecordLog

    def report(self) -> RunReport | None:
        runner = self.runner()
        return self.records.report if runner is None else runner.report()


class RunWatch:
    """The runs that were started in a test."""

    def __init__(self) -> None:
        self._runs: deque[_Watched] = deque(maxlen=_KEPT)
        self._count = 0

    def _add(self, handler: WorkflowHandler[Any]) -> None:
        runner = handler._runner
        self._count += 1
        self._runs.append(_Watched(weakref.ref(runner), runner.records))

    @contextmanager
    def watching(self) -> Generator[None]:
        """Hear of every run of the process that starts inside the block."""
        with _told(self._add):
            yield

    def take(self) -> str:
        """Tell of the runs, and forget them; empty if there were none. Of many, those that did not complete are told first."""
        runs = [(run, run.report()) for run in self._runs]
        count, self._count = self._count, 0
        self._runs.clear()
        chosen = sorted(enumerate(runs), key=lambda each: (_is_well(each[1][1]), -each[0]))[:_SHOWN]
        told = [_described(*run) for _, run in sorted(chosen, key=lambda each: each[0])]
        if count > len(told):
            told.append(f"{count - len(told)} more runs")
        return "\n\n".join(told)


def _is_well(report: RunReport | None) -> bool:
    return report is not None and report.state == "completed"


def _described(run: _Watched, report: RunReport | None) -> str:
    why = str(report or f"Run {run.records.run_id} was left without an end.").splitlines()
    more = [f"  {len(why) - _LINES} more lines"] if len(why) > _LINES else []
    drawn = str(waterfall(run.records, width=_WIDTH, rows=_ROWS))
    return "\n".join([*why[:_LINES], *more, *([drawn] if drawn else [])])


@contextmanager
def _told(tell: Callable[[WorkflowHandler[Any]], None]) -> Generator[None]:
    _live.watchers.append(tell)
    try:
        yield
    finally:
        _live.watchers.remove(tell)


def handlers() -> Iterator[list[WorkflowHandler[Any]]]:
    """Yield a list that the handler of each run is added to, until the generator is closed."""
    found: list[WorkflowHandler[Any]] = []
    with _told(found.append):
        yield found


def recorder() -> Iterator[Recorder]:
    """Yield a recorder that is the outermost layer of every instance which runs for the first time until the generator is closed."""
    settings = _config._settings
    made = Recorder()
    settings.middleware = (made, *settings.middleware)
    try:
        yield made
    finally:
        settings.middleware = tuple(layer for layer in settings.middleware if layer is not made)
