"""`explore`: one program under many schedules. `Schedule` is the layer that makes one of them, by a seed."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

from .._engine import _live
from .._engine._dispatch import current_runner
from .._engine._state import Execution
from ..events import StopEvent
from ..middleware import AttemptCall, AttemptNext, Middleware, RunCall, RunNext, StepResult
from ._time import run_virtual

ResultT = TypeVar("ResultT")

_AGES = 1e9  # virtual seconds, 31 years: a loop gets there only when nothing else is left to happen
_PARTS = 4  # of the longest pause: few different ones, so that many things fall on the same moment


class Schedule(Middleware):
    """Makes things happen in another order for each seed, and in the same order for the same seed.

    Each attempt pauses before the step is called and again before its outcome counts; steps that are ready at the same
    moment start in a random order, but for events to one step, which start in the order sent. Pauses are at most `longest`
    seconds, which are meant to be virtual; many are none, and many are equal. A step's own timeout excludes them.
    `random` is for choices of the test's own, `pause()` for the test's own code outside steps. Put it first in the layers,
    of nested workflows too.
    """

    def __init__(self, seed: int, *, longest: float = 1.0) -> None:
        self.seed = seed
        self.random: random.Random = random.Random(seed)
        self._longest = longest

    async def run(self, call: RunCall, call_next: RunNext, /) -> StopEvent | None:
        """Let the run choose by this schedule what starts next."""
        runner = current_runner.get()
        assert runner is not None  # it is being driven
        runner.choose = self._choose
        return await call_next(call)

    async def attempt(self, call: AttemptCall, call_next: AttemptNext, /) -> StepResult:
        """Pause, make the attempt, and pause again, also if it failed."""
        await self.pause()
        try:
            result = await call_next(call)
        except Exception:
            await self.pause()
            raise
        await self.pause()
        return result

    async def pause(self) -> None:
        """Let a random time pass, which may be none at all."""
        kind = self.random.randrange(4)
        if kind > 1:
            await asyncio.sleep(self._longest * self.random.randint(1, _PARTS) / _PARTS)
        elif kind:
            await asyncio.sleep(0)

    def _choose(self, ready: deque[Execution]) -> Execution:
        """Take any execution that no earlier one of the same step is ready before."""
        firsts: dict[str, int] = {}
        for at, execution in enumerate(ready):
            firsts.setdefault(execution.step, at)
        at = self.random.choice(tuple(firsts.values()))
        chosen = ready[at]
        del ready[at]
        return chosen


def explore(
    program: Callable[[Schedule], Coroutine[Any, Any, ResultT]], *, seeds: int | Iterable[int] = 200, longest: float = 1.0
) -> list[ResultT]:
    """Run a program once for each seed, each time in virtual time and under a schedule of its own; return the results.

        def test_nothing_is_lost() -> None:
            explore(program, seeds=200)

        async def program(schedule: Schedule) -> None:
            assert await Shop(middleware=[schedule]).run(count=2) == "paid 6"

    What a program raises gets a note with its seed: `explore(program, seeds=[seed])` raises it again, unless threads take
    part, whose order no seed decides. A program in which nothing can happen any more raises TimeoutError, which says of each
    live run what it is doing.

    Args:
        program: called with the schedule, to be given to its workflows as their first layer.
        seeds: how many, from 0 on, or which.
        longest: of a pause of the schedule, in virtual seconds.
    """
    found: list[ResultT] = []
    for seed in range(seeds) if isinstance(seeds, int) else seeds:
        try:
            found.append(run_virtual(_ended(program(Schedule(seed, longest=longest))), seed=seed))
        except BaseException as error:
            error.add_note(f"under the schedule of seed {seed}; explore(..., seeds=[{seed}]) repeats it")
            raise
    return found


async def _ended(program: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Await a program; when no timer is left but one set for ages later, it will never end."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    stuck: list[str] = []

    def give_up() -> None:
        stuck.extend(("nothing can happen any more, and the program has not ended", *(str(runner.report()) for runner in _live.live())))
        assert task is not None
        task.cancel()

    timer = loop.call_later(_AGES, give_up)
    try:
        return await program
    except asyncio.CancelledError:
        if stuck:
            raise TimeoutError("\n".join(stuck)) from None
        raise
    finally:
        timer.cancel()
