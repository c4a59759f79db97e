"""One process of the benchmark: measures with the telemetry that its environment asks for, and prints figures as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from ._chain import chain_contest
from ._fanout import KINDS, SIZES, contest_name, fan_out_contests
from ._measure import Contest, Rounds, interleave, median_ratio
from ._memory import memory_growth
from ._report import Figure, against_bare
from ._runs import runs_contest
from ._traced import LIMIT as TRACED_LIMIT
from ._traced import cost_figures, traced_contest

CHAIN_LIMIT = 2.0  # x bare
GROWTH_LIMIT = 1.3  # an item of 10,000 against an item of 100
MEMORY_LIMIT = 5.0  # MB


async def _figures(parts: Sequence[str], rounds: int, *, held: bool) -> list[Figure]:
    contests: list[Contest] = []
    if "chain" in parts:
        contests.append(chain_contest())
    if "fan-out" in parts:
        contests += fan_out_contests()
    if "runs" in parts:
        contests.append(runs_contest())
    if "traced" in parts:
        contests.append(traced_contest())
    measured = await interleave(contests, rounds)
    limits = {"chain": CHAIN_LIMIT, "chain, everything on": TRACED_LIMIT} if held else {}
    figures = [against_bare(name, found, limits.get(name)) for name, found in measured.items()]
    if "traced" in parts:
        figures += await cost_figures(rounds, held=held)
    if "fan-out" in parts:
        figures += [_growth(kind, measured, held=held) for kind in KINDS]
    if "memory" in parts:
        growth = await memory_growth()
        figures.append(Figure(name="memory after 100,000 events", value=growth, unit="MB", limit=MEMORY_LIMIT if held else None))
    return figures


def _growth(kind: str, measured: dict[str, Rounds], *, held: bool) -> Figure:
    large, small = (measured[contest_name(kind, size)].ours for size in (max(SIZES), min(SIZES)))
    limit = GROWTH_LIMIT if held else None
    return Figure(name=f"fan-out, {kind}, an item of 10,000", value=median_ratio(large, small), unit="x one of 100", limit=limit)


def main(rounds: str, held: str, *parts: str) -> None:
    """Measure the parts and print the figures; every argument is a string of the command line."""
    figures = asyncio.run(_figures(parts, int(rounds), held=held == "held"))
    print(json.dumps([asdict(figure) for figure in figures]))


if __name__ == "__main__":
    main(*sys.argv[1:])
