"""What `import tracedflow` takes in a new process, against importing what such a program imports anyway."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path

from ._measure import median_ratio
from ._report import Figure

OURS = "import tracedflow"
COMPARED = "import pydantic, opentelemetry.trace, prometheus_client"
LIMIT = 250  # milliseconds
RATIO_LIMIT = 1.2
_SOURCE = Path(__file__).resolve().parent.parent / "src"


def import_figures(rounds: int) -> list[Figure]:
    """Return the import time and its ratio to the imports of its dependencies."""
    ours: list[float] = []
    compared: list[float] = []
    for number in range(-1, 2 * rounds):  # the first round fills the caches of the disk and of bytecode
        times = _milliseconds(OURS), _milliseconds(COMPARED)
        if number >= 0:
            ours.append(times[0])
            compared.append(times[1])
    middle, other = statistics.median(ours), statistics.median(compared)
    return [
        Figure(name="import tracedflow", value=middle, unit="ms", limit=LIMIT),
        Figure(
            name="against pydantic + opentelemetry-api + prometheus_client",
            value=median_ratio(ours, compared),
            unit="x",
            limit=RATIO_LIMIT,
            ours=middle,
            other=other,
            each="ms",
        ),
    ]


def _milliseconds(statement: str) -> float:
    script = f"import time; start = time.process_time()\n{statement}\nprint((time.process_time() - start) * 1e3)"
    environment = {**os.environ, "PYTHONPATH": str(_SOURCE)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)
