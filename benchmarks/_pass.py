"""One process of the suite: measures parts with the telemetry that its environment asks for, and prints figures as JSON.

python -m benchmarks._pass ROUNDS all|quick asyncio|uvloop PART...
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib import import_module

from ._chain import LIMIT as CHAIN_LIMIT
from ._chain import chain_contest
from ._fairness import fairness_figures
from ._fanout import LARGE, SIZES, fan_out_contests, fan_out_figures
from ._measure import Contest, interleave
from ._memory import memory_figures, parked_figure
from ._report import Figure, against_bare
from ._runs import MANY_RUNS, RUNS, completed, runs_contests, runs_figures
from ._snapshots import snapshot_figures
from ._traced import LIMIT as TRACED_LIMIT
from ._traced import cost_figures, traced_contest


async def _figures(parts: Sequence[str], rounds: int, *, quick: bool) -> list[Figure]:
    figures: list[Figure] = []
    for part in parts:
        figures += await _figures_of(part, rounds, quick=quick)
    return figures


async def _figures_of(part: str, rounds: int, *, quick: bool) -> list[Figure]:
    match part:
        case "chain":
            return await _against_bare(chain_contest(), rounds, CHAIN_LIMIT)
        case "fan-out":
            return fan_out_figures(await interleave(fan_out_contests(SIZES), rounds))
        case "large-fan-out":
            return fan_out_figures(await interleave(fan_out_contests([LARGE]), rounds))
        case "runs":
            return runs_figures(await interleave(runs_contests([RUNS]), rounds))
        case "many-runs":
            figures = runs_figures(await interleave(runs_contests([MANY_RUNS]), rounds))
            return [*figures, await completed(MANY_RUNS)]
        case "traced":
            return [*await _against_bare(traced_contest(), rounds, TRACED_LIMIT), *await cost_figures(rounds)]
        case "memory":
            return await memory_figures(quick=quick)
        case "parked":
            return await parked_figure()
        case "fairness":
            return await fairness_figures(with_settings="TRACEDFLOW_TELEMETRY" in os.environ)
        case "exporting":
            from ._exporting import exporting_figures  # its exporter is in the environment of the peers only

            return await exporting_figures()
        case "snapshots":
            return await snapshot_figures(rounds, quick=quick)
        case _:
            raise ValueError(f"there is no part {part!r}")


async def _against_bare(contest: Contest, rounds: int, limit: float) -> list[Figure]:
    measured = await interleave([contest], rounds)
    return [against_bare(name, found, limit) for name, found in measured.items()]


def _factory_of(loop: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if loop == "asyncio":
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = import_module(loop).new_event_loop
    return factory


def main(rounds: str, extent: str, loop: str, *parts: str) -> None:
    """Measure the parts and print the figures; every argument is a string of the command line."""
    logging.disable(logging.WARNING)  # the loop guard says rightly that a collection of garbage blocks the loop
    with asyncio.Runner(loop_factory=_factory_of(loop)) as runner:
        figures = runner.run(_figures(parts, int(rounds), quick=extent == "quick"))
    print(json.dumps([asdict(figure) for figure in figures]))


if __name__ == "__main__":
    main(*sys.argv[1:])
