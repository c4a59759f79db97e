"""What `import tracedflow` takes in a new process, against importing what such a program imports anyway."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from tempfile import TemporaryDirectory

from ._measure import median_ratio
from ._processes import PACKAGE
from ._report import Figure

OURS = "import tracedflow"
COMPARED = "import pydantic, opentelemetry.trace, prometheus_client"
# Both sides above load their modules when they are asked for a name. What a program asks for, with all of its dependencies in use:
NAMES = "from tracedflow import Context, Event, StartEvent, StopEvent, Workflow, step"
NAMES_COMPARED = "import asyncio, opentelemetry.trace, prometheus_client, pydantic\nclass Model(pydantic.BaseModel): number: int"
LIMIT = 250  # milliseconds
RATIO_LIMIT = 1.2


def import_figures(rounds: int) -> list[Figure]:
    """Return import times and their ratios to the imports of the dependencies."""
    with TemporaryDirectory() as cache:
        took = _interleaved([OURS, COMPARED, NAMES, NAMES_COMPARED], 2 * rounds, cache)
    package, dependencies, names, names_compared = took
    return [
        Figure(name="import tracedflow", value=statistics.median(package), unit="ms", limit=LIMIT),
        _against("against pydantic + opentelemetry-api + prometheus_client", package, dependencies, limit=RATIO_LIMIT),
        Figure(name="the names of a program: from tracedflow import Workflow, ...", value=statistics.median(names), unit="ms", limit=LIMIT),
        _against("against these dependencies, a first model and asyncio", names, names_compared),
    ]


def _interleaved(statements: Sequence[str], rounds: int, cache: str) -> list[list[float]]:
    times: list[list[float]] = [[] for _ in statements]
    for number in range(-1, rounds):  # the first round fills the caches of the disk and of bytecode
        for statement, taken in zip(statements, times, strict=True):
            milliseconds = _milliseconds(statement, cache)
            if number >= 0:
                taken.append(milliseconds)
    return times


def _against(name: str, ours: Sequence[float], other: Sequence[float], limit: float | None = None) -> Figure:
    middle, other_middle = statistics.median(ours), statistics.median(other)
    return Figure(name=name, value=median_ratio(ours, other), unit="x", limit=limit, ours=middle, other=other_middle, each="ms")


def _milliseconds(statement: str, cache: str) -> float:
    script = f"import time; start = time.process_time()\n{statement}\nprint((time.process_time() - start) * 1e3)"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}  # an installed package has bytecode
    environment |= {"PYTHONPATH": str(PACKAGE), "PYTHONPYCACHEPREFIX": cache}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)
