"""`python -m benchmarks`: measures with telemetry off, for the held figures, and with the defaults, and shows both.

python -m benchmarks                 every figure, nine rounds
python -m benchmarks --quick         three rounds, for a first look
python -m benchmarks --only chain    one part
python -m benchmarks --check         exit code 1 when a held figure is missed
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ._imports import import_figures
from ._report import Figure, table

PARTS = ("chain", "fan-out", "runs", "traced", "memory", "import")
ONCE = ("traced", "memory")  # they bring their own telemetry, or need none: the second pass would repeat them
ROUNDS, QUICK_ROUNDS = 9, 3
_ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Measure, print the tables, and return the exit code."""
    options = _options()
    rounds = QUICK_ROUNDS if options.quick else ROUNDS
    parts = options.only or PARTS
    print(f"Python {platform.python_version()}, {os.cpu_count()} CPUs, medians of {rounds} interleaved rounds\n", flush=True)
    held = _measured(parts, rounds, telemetry_off=True)
    if "import" in parts:
        held += import_figures(rounds)
    print(table("telemetry off: held against its limits", held), flush=True)
    if shown := _measured([part for part in parts if part not in ONCE], rounds, telemetry_off=False):
        print("\n" + table("defaults: no provider set, metrics on", shown))
    missed = [figure.name for figure in held if figure.is_missed]
    print(f"\n{len(missed)} missed: {', '.join(missed)}" if missed else "\nall held")
    return 1 if missed and options.check else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="What tracedflow costs against bare asyncio.")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds instead of {ROUNDS}")
    parser.add_argument("--check", action="store_true", help="exit code 1 when a held figure is missed")
    parser.add_argument("--only", action="append", choices=PARTS, help="measure this part; may be given several times")
    return parser.parse_args()


def _measured(parts: Sequence[str], rounds: int, *, telemetry_off: bool) -> list[Figure]:
    """Measure in a process of its own: what telemetry a process has is settled when it first runs a workflow."""
    parts = [part for part in parts if part != "import"]
    if not parts:
        return []
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("TRACEDFLOW_", "OTEL_"))}
    environment["PYTHONPATH"] = os.pathsep.join([str(_ROOT / "src"), str(_ROOT)])
    if telemetry_off:
        environment["TRACEDFLOW_TELEMETRY"] = "off"
    command = [sys.executable, "-m", "benchmarks._pass", str(rounds), "held" if telemetry_off else "shown", *parts]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return [Figure(**figure) for figure in json.loads(done.stdout)]


if __name__ == "__main__":
    sys.exit(main())
