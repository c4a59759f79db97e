"""What `import tracedflow` takes in a new process, against importing what such a program imports anyway."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path

from ._measure import median_ratio
from ._report import Figure

OURS = "from tracedflow import Workflow"
COMPARED = "import pydantic, opentelemetry.trace, prometheus_client"
LIMIT = 250  # milliseconds
_SOURCE = Path(__file__).resolve().parent.parent / "src"


def import_figures(rounds: int) -> list[Figure]:
    """Return the import time, held, and its ratio to the imports of its dependencies, shown."""
    ours: list[float] = []
    compared: list[float] = []
    for number in range(-1, rounds):  # the first round fills the caches of the disk and of bytecode
        times = _milliseconds(OURS), _milliseconds(COMPARED)
        if number >= 0:
            ours.append(times[0])
            compared.append(times[1])
    middle, other = statistics.median(ours), statistics.median(compared)
    shown = {"ours": f"{middle:.0f} ms", "bare": f"{other:.0f} ms"}
    return [
        Figure(name="import", value=middle, unit="ms", limit=LIMIT, **shown),
        Figure(name="import, against its dependencies", value=median_ratio(ours, compared), unit="x", **shown),
    ]


def _milliseconds(statement: str) -> float:
    script = f"import time; start = time.perf_counter()\n{statement}\nprint((time.perf_counter() - start) * 1e3)"
    environment = {**os.environ, "PYTHONPATH": str(_SOURCE)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)
