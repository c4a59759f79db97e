"""Interleaved measurement: ours and the other side take turns in one process, and only their ratios are compared.

Times from two processes, or from two minutes of a shared machine, differ by more than what is measured here. Ratios are of processor
time, which neighbours on the machine disturb little; those of the clock on the wall are noted beside them.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

LONG_ROUNDS = 2  # of a contest whose turn takes seconds: more would not tell more


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """One thing done by tracedflow and by another side. `items` is how many events or runs one call handles."""

    name: str
    items: int
    ours: Callable[[], Awaitable[None]]
    other: Callable[[], Awaitable[None]]
    repeats: int = 1  # calls per turn, so that a short one is as long as the clock is good
    is_long: bool = False
    other_items: int | None = None  # where the other side is too slow for as many; None: the same


@dataclass(frozen=True, slots=True)
class Turn:
    """What one turn took, in seconds per item."""

    cpu: float
    wall: float


@dataclass(slots=True)
class Rounds:
    """The turns of one contest, one of each side a round."""

    ours: list[Turn] = field(default_factory=list)
    other: list[Turn] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios of processor time, which is not the ratio of their medians."""
        return median_ratio([turn.cpu for turn in self.ours], [turn.cpu for turn in self.other])

    @property
    def wall_ratio(self) -> float:
        """The same by the clock on the wall."""
        return median_ratio([turn.wall for turn in self.ours], [turn.wall for turn in self.other])


def median_ratio(upper: Sequence[float], lower: Sequence[float]) -> float:
    """Return the median of `upper / lower`, round by round."""
    return statistics.median(high / low for high, low in zip(upper, lower, strict=True))


async def interleave(contests: Sequence[Contest], rounds: int) -> dict[str, Rounds]:
    """Let every contest take a turn in each round, each side first in every other round; one round before does not count."""
    found = {contest.name: Rounds() for contest in contests}
    for number in range(-1, rounds):
        for contest in contests:
            if contest.is_long and not 0 <= number < LONG_ROUNDS:
                continue  # nor does it need a first turn to warm up
            ours, other = await _take_turns(contest, ours_first=number % 2 == 0)
            if number >= 0:
                found[contest.name].ours.append(ours)
                found[contest.name].other.append(other)
    return found


async def _take_turns(contest: Contest, *, ours_first: bool) -> tuple[Turn, Turn]:
    other_items = contest.other_items or contest.items
    if ours_first:
        ours = await take_turn(contest.ours, contest.items, repeats=contest.repeats)
        return ours, await take_turn(contest.other, other_items, repeats=contest.repeats)
    other = await take_turn(contest.other, other_items, repeats=contest.repeats)
    return await take_turn(contest.ours, contest.items, repeats=contest.repeats), other


async def take_turn(work: Callable[[], Awaitable[None]], items: int, *, repeats: int = 1) -> Turn:
    """Return what an item of `work` takes, over several calls of it."""
    gc.collect()  # what the other side left behind is not this one's cost; the collector stays on, as in a program
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(repeats):
        await work()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return Turn(cpu / (repeats * items), wall / (repeats * items))
