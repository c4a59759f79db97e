"""Interleaved measurement: ours and the bare counterpart take turns in one process, and only their ratios are compared.

Times from two processes, or from two minutes of a shared machine, differ by more than what is measured here.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """One thing done by tracedflow and by bare asyncio. `items` is how many events or runs one call handles."""

    name: str
    items: int
    ours: Callable[[], Awaitable[None]]
    bare: Callable[[], Awaitable[None]]
    repeats: int = 1  # calls per turn, so that a short one is as long as the clock is good


@dataclass(slots=True)
class Rounds:
    """What the turns of one contest took, in seconds per item, a value a round."""

    ours: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios, which is not the ratio of their medians."""
        return median_ratio(self.ours, self.bare)


def median_ratio(upper: Sequence[float], lower: Sequence[float]) -> float:
    """Return the median of `upper / lower`, round by round."""
    return statistics.median(high / low for high, low in zip(upper, lower, strict=True))


async def interleave(contests: Sequence[Contest], rounds: int) -> dict[str, Rounds]:
    """Let every contest take a turn in each round, each side first in every other round; one round before does not count."""
    found = {contest.name: Rounds() for contest in contests}
    for number in range(-1, rounds):
        for contest in contests:
            ours, bare = await _take_turns(contest, ours_first=number % 2 == 0)
            if number >= 0:
                found[contest.name].ours.append(ours)
                found[contest.name].bare.append(bare)
    return found


async def _take_turns(contest: Contest, *, ours_first: bool) -> tuple[float, float]:
    items, repeats = contest.items, contest.repeats
    if ours_first:
        ours = await seconds_per_item(contest.ours, items, repeats=repeats)
        return ours, await seconds_per_item(contest.bare, items, repeats=repeats)
    bare = await seconds_per_item(contest.bare, items, repeats=repeats)
    return await seconds_per_item(contest.ours, items, repeats=repeats), bare


async def seconds_per_item(work: Callable[[], Awaitable[None]], items: int, *, repeats: int) -> float:
    """Return what an item of `work` takes, over several calls of it."""
    gc.collect()  # what the other side left behind is not this one's cost; the collector stays on, as in a program
    start = time.perf_counter()
    for _ in range(repeats):
        await work()
    return (time.perf_counter() - start) / (repeats * items)
