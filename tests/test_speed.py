"""Holds how many instructions of Python the hot path takes: a change that makes it a tenth longer fails here, on any machine.

No time is measured: instructions are counted, in virtual time, and the fixed part of a run is taken off by counting two sizes.
`python -m tests.test_speed` counts them and prints the table below anew, for a change that makes the path shorter, or longer with reason.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from benchmarks._chain import chain_of
from benchmarks._fanout import fan_out_of
from benchmarks._runs import runs_of
from tracedflow.telemetry import Logs, Metrics, Tracing
from tracedflow.testing import run_virtual

ROOT = Path(__file__).resolve().parent.parent
SLACK = 1.05
PYTHON = (3, 11)  # its compiler's instructions; another version has others
# Instructions of Python for each step, item or run, in all modules that take part. What runs in C counts nothing.
INSTRUCTIONS = {
    "chain, telemetry off, a step": 1_093,
    "chain, telemetry by default, a step": 1_317,
    "chain, a span for each, a step": 2_704,
    "fan-out by collect_events, an item": 3_330,
    "fan-out by a list, an item": 1_897,
    "two-step run": 7_334,
}


def _default_layers() -> dict[str, Any]:
    return {"telemetry": False, "middleware": [Tracing(), Metrics(CollectorRegistry()), Logs()]}


def _all_layers() -> dict[str, Any]:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(InMemorySpanExporter(), max_queue_size=100_000, schedule_delay_millis=60_000))
    return {"telemetry": False, "middleware": [Tracing(provider), Metrics(CollectorRegistry()), Logs()]}


OFF = {"telemetry": False}
WORK: dict[str, tuple[Callable[[int], Callable[[], Awaitable[None]]], int, int]] = {
    "chain, telemetry off, a step": (lambda size: chain_of(size, **OFF), 50, 250),
    "chain, telemetry by default, a step": (lambda size: chain_of(size, **_default_layers()), 50, 250),
    "chain, a span for each, a step": (lambda size: chain_of(size, **_all_layers()), 50, 250),
    "fan-out by collect_events, an item": (lambda size: fan_out_of("collect_events", size, **OFF), 25, 75),
    "fan-out by a list, an item": (lambda size: fan_out_of("list[E]", size, **OFF), 25, 75),
    "two-step run": (lambda size: runs_of(size, **OFF), 10, 30),
}


class _Counter:
    """A trace function that counts the instructions of every frame that begins or goes on while it is set."""

    def __init__(self) -> None:
        self.counted = 0

    def __call__(self, frame: FrameType, event: str, arg: object) -> _Counter:
        if event == "opcode":
            self.counted += 1
        else:
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self


async def _counted(work: Callable[[], Awaitable[None]]) -> int:
    await work()  # what is made at the first run, or loaded
    counter = _Counter()
    sys.settrace(counter)
    try:
        await asyncio.ensure_future(_awaited(work))
    finally:
        sys.settrace(None)
    return counter.counted


async def _awaited(work: Callable[[], Awaitable[None]]) -> None:
    await work()


def _instructions(name: str) -> float:
    work, few, many = WORK[name]
    return (run_virtual(_counted(work(many))) - run_virtual(_counted(work(few)))) / (many - few)


@pytest.fixture(scope="module")
def counted() -> dict[str, float]:
    """Count in a process of its own: what other tests have set up for telemetry is not the path's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TRACEDFLOW_", "OTEL_", "COV_"))}
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    command = [sys.executable, "-m", "tests.test_speed", "--json"]
    done = subprocess.run(command, cwd=ROOT, env={**kept, "PYTHONPATH": path}, capture_output=True, text=True, timeout=60, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


@pytest.mark.skipif(sys.version_info[:2] != PYTHON, reason="the bounds are instructions of Python 3.11")
@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_the_hot_path_is_not_longer_than_it_was(name: str, counted: dict[str, float]) -> None:
    found, bound = counted[name], INSTRUCTIONS[name] * SLACK
    assert found <= bound, f"{name}: {found:.0f} instructions, {INSTRUCTIONS[name]} before. `python -m tests.test_speed` counts anew"


if __name__ == "__main__":
    all_of_them = {each: _instructions(each) for each in INSTRUCTIONS}
    if "--json" in sys.argv:
        print(json.dumps(all_of_them))
    else:
        print("\n".join(f'    "{name}": {round(counted):_},' for name, counted in all_of_them.items()))
