"""One process for one peer: the contests between it and tracedflow, as figures in JSON.

python -m benchmarks._peers.duel MODULE ROUNDS
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import traceback
import warnings
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from importlib import import_module
from importlib.metadata import version
from types import ModuleType
from typing import Any

from prometheus_client import CollectorRegistry

from tracedflow.telemetry import Logs, Metrics, Tracing

from .._chain import LENGTH, chain_of
from .._fanout import fan_out_of
from .._measure import Contest, interleave
from .._report import Figure, against_peer
from .._runs import RUNS, runs_of
from .._spans import batching_provider
from .._traced import LENGTH as TRACED_LENGTH
from ._job import Job

FAN_OUT = 1_000
RUNS_LIMIT = 15  # the nearest peer is any of them
TRACED_LIMIT = 1  # our traced chain against a chain that is not
LIMITS = {("_llama_index", "chain"): 30, ("_llama_index", "fan-out"): 200, ("_burr", "chain"): 6}
OFF = "off"
SETTINGS: dict[str, dict[str, Any]] = {OFF: {"telemetry": False}, "defaults": {}}
OURS: dict[str, tuple[int, Callable[..., Callable[[], Awaitable[None]]]]] = {
    "chain": (LENGTH, lambda **options: chain_of(LENGTH, **options)),
    "fan-out": (FAN_OUT, lambda **options: fan_out_of("collect_events", FAN_OUT, **options)),
    "runs": (RUNS, lambda **options: runs_of(RUNS, **options)),
}
TITLES = {"chain": "chain, a step", "fan-out": "fan-out of 1,000 and join, an item", "runs": "two-step runs, 1,000 at once, a run"}


async def _figures(module: ModuleType, rounds: int) -> list[Figure]:
    name = f"{module.NAME} {version(module.PACKAGES[0])}"
    kind = module.__name__.rpartition(".")[2]
    figures: list[Figure] = []
    for what, job in module.jobs().items():
        limit = LIMITS.get((kind, what)) or (RUNS_LIMIT if what == "runs" else None)
        items, ours = OURS[what]
        for setting, options in SETTINGS.items():
            figures.append(await _duel(f"{TITLES[what]}: {name}, telemetry {setting}", (items, ours(**options)), job, rounds, limit))
    traced = TRACED_LENGTH, chain_of(TRACED_LENGTH, telemetry=False, middleware=_all_layers())
    figures.append(await _duel(f"our traced chain, a step, against untraced: {name}", traced, module.jobs()["chain"], rounds, TRACED_LIMIT))
    return figures + [await _duel(f"chain traced, a step: {name}", traced, job, rounds, None) for job in module.traced_jobs().values()]


def _all_layers() -> list[Any]:
    return [Tracing(batching_provider()), Metrics(CollectorRegistry()), Logs()]


async def _duel(name: str, ours: tuple[int, Callable[[], Awaitable[None]]], job: Job, rounds: int, limit: float | None) -> Figure:
    contest = Contest(name=name, items=ours[0], ours=ours[1], other=job.work, other_items=job.items, is_long=job.is_long)
    try:
        measured = await interleave([contest], rounds)
    except Exception as error:  # noqa: BLE001 - a peer that fails is a row that says so
        traceback.print_exc()
        return Figure(name=f"{name}: failed, {type(error).__name__}: {error}", value=float("nan"), unit="")
    return against_peer(name, measured[name], limit)


def main(module: str, rounds: str) -> None:
    """Measure and print; every argument is a string of the command line."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")  # what a peer deprecates is not for the reader of these figures
    peer = import_module(f"{__package__}.{module}")
    print(json.dumps([asdict(figure) for figure in asyncio.run(_figures(peer, int(rounds)))]))


if __name__ == "__main__":
    main(*sys.argv[1:])
