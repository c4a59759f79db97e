"""`python -m benchmarks`: measures tracedflow against bare asyncio and against its peers, and shows every figure with its limit.

python -m benchmarks                 every figure, seven rounds; some twelve minutes
python -m benchmarks --quick         three rounds and no long ones, for a first look
python -m benchmarks --only chain    one part; may be given several times
python -m benchmarks --check         exit code 1 when a held figure is missed
python -m benchmarks --publish       write the tables into docs/performance.md, and a chart for each beside it

With BENCH_PACKAGE, a directory that holds the package, that one is measured; `make bench-compiled` does so.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from . import _publish
from ._imports import import_figures
from ._processes import BENCH_VENV, IS_COMPILED, PEERS, measured
from ._report import Section, text_table

ROUNDS, QUICK_ROUNDS = 7, 3
LONG_PARTS = ("memory", "fairness", "exporting")  # nothing of them is short
BARE_PARTS = {
    "chain": "1. A chain, a step",
    "fan-out": "2. Fan-out and join, an item",
    "runs": "3. Many short runs at once, a run",
}
LARGE_PARTS = {"fan-out": "large-fan-out", "runs": "many-runs"}  # in processes of their own
PARTS = (*BARE_PARTS, "traced", "memory", "import", "fairness", "snapshots", "peers", "uvloop")


def main() -> int:
    """Measure, print the tables, and return the exit code."""
    options = _options()
    rounds = QUICK_ROUNDS if options.quick else ROUNDS
    kind = "the hot modules compiled" if IS_COMPILED else "pure Python"
    about = f"Python {platform.python_version()}, {kind}, {os.cpu_count()} CPUs, medians of {rounds} interleaved rounds"
    print(f"{about}; ratios of processor time, `wall` by the clock\n", flush=True)
    sections = []
    for section in _sections(options.only or PARTS, rounds, quick=options.quick):
        print(text_table(section), end="\n\n", flush=True)
        sections.append(section)
    if options.publish:
        _publish.publish(sections, rounds)
    missed = [f"{figure.name} ({section.title})" for section in sections for figure in section.figures if figure.is_missed]
    print("\n  ".join([f"{len(missed)} missed:", *missed]) if missed else "all held")
    return 1 if missed and options.check else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="What tracedflow costs, against bare asyncio and its peers.")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds instead of {ROUNDS}, and no part that takes minutes")
    parser.add_argument("--check", action="store_true", help="exit code 1 when a held figure is missed")
    parser.add_argument("--publish", action="store_true", help="write docs/performance.md and its charts")
    parser.add_argument("--only", action="append", choices=PARTS, help="measure this part; may be given several times")
    return parser.parse_args()


def _sections(parts: Sequence[str], rounds: int, *, quick: bool) -> Iterator[Section]:
    make: dict[str, Callable[[], Iterator[Section]]] = {
        "traced": lambda: _once("traced", "4. Everything on", rounds, quick=quick),
        "memory": lambda: _memory(rounds, quick=quick),
        "import": lambda: iter([Section(part="import", title="6. Import, processor time", figures=import_figures(rounds))]),
        "fairness": lambda: _fairness(rounds),
        "snapshots": lambda: _once("snapshots", "8. Snapshot and resume", rounds, quick=quick),
        "peers": lambda: _peers(rounds),
        "uvloop": lambda: _uvloop(rounds),
    }
    for part in parts:
        if quick and part in LONG_PARTS:
            yield Section(part=part, title=part, notes=["left out by --quick"])
        elif part in BARE_PARTS:
            yield from _off_and_defaults(part, BARE_PARTS[part], rounds, quick=quick)
        else:
            yield from make[part]()


def _command(parts: str, rounds: int, *, quick: bool = False, loop: str = "asyncio") -> list[str]:
    return ["benchmarks._pass", str(rounds), "quick" if quick else "all", loop, *parts.split()]


def _off_and_defaults(part: str, title: str, rounds: int, *, quick: bool = False) -> Iterator[Section]:
    parts = [part] if quick or part not in LARGE_PARTS else [part, LARGE_PARTS[part]]
    for told, off in (("telemetry off", True), ("telemetry by default: no provider set, metrics on", False)):
        section = Section(part=part, title=f"{title}, {told}")
        for each in parts:
            measured(section, _command(each, rounds, quick=quick), telemetry_off=off)
        yield section


def _once(part: str, title: str, rounds: int, *, quick: bool) -> Iterator[Section]:
    """Measure what brings its own telemetry, or needs none."""
    yield measured(Section(part=part, title=title), _command(part, rounds, quick=quick), telemetry_off=True)


def _memory(rounds: int, *, quick: bool) -> Iterator[Section]:
    yield measured(Section(part="memory", title="5. Memory, telemetry off"), _command("memory", rounds, quick=quick), telemetry_off=True)
    yield measured(Section(part="memory", title="5. Memory, telemetry by default"), _command("parked", rounds, quick=quick))


def _fairness(rounds: int) -> Iterator[Section]:
    yield from _off_and_defaults("fairness", "7. Fairness: p99 delay of a 10 ms timer, by the clock", rounds)
    exporting = Section(part="exporting", title="7. Fairness: the same beside 1,000 exported spans a second")
    yield measured(exporting, _command("exporting", rounds), environment=BENCH_VENV)


def _peers(rounds: int) -> Iterator[Section]:
    for module, name in PEERS.items():
        section = Section(part="peers", title=f"Against {name}: how many times as long it takes")
        yield measured(section, ["benchmarks._peers.duel", module, str(min(rounds, 5))], environment=BENCH_VENV)


def _uvloop(rounds: int) -> Iterator[Section]:
    section = Section(part="uvloop", title="On uvloop, against bare code on uvloop, telemetry off")
    command = _command("chain fan-out runs", min(rounds, 5), quick=True, loop="uvloop")
    measured(section, command, environment=BENCH_VENV, telemetry_off=True)
    section.figures = [replace(figure, limit=None) for figure in section.figures]  # the limits are those of the loop that all have
    yield section


if __name__ == "__main__":
    sys.exit(main())
