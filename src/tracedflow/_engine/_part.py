"""What a run's runner holds and what looks back at it. Kept alive by each other, they would wait for the garbage collector."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import ref

if TYPE_CHECKING:
    from ._runner import Runner


class Part:
    """A part of one run, which does not keep its runner alive: whatever calls it has the runner, or lets it be."""

    __slots__ = ("_whole",)

    def __init__(self, runner: Runner) -> None:
        self._whole = ref(runner)

    @property
    def _runner(self) -> Runner:
        runner = self._whole()
        assert runner is not None
        return runner
