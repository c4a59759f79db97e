"""The processes of the suite: each measures a few parts in a fresh interpreter, since what telemetry a process has is settled once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ._report import Figure, Section

ROOT = Path(__file__).resolve().parent.parent
BENCH_PYTHON = ROOT / os.environ.get("BENCH_VENV", ".bench-venv") / "bin" / "python"
PEERS = {"_llama_index": "llama-index-workflows", "_langgraph": "LangGraph", "_pydantic_graph": "pydantic-graph", "_burr": "Burr"}
TIMEOUT = 600  # seconds that one process may take


def measured(section: Section, arguments: Sequence[str], *, python: Path | None = None, telemetry_off: bool = False) -> Section:
    """Fill the section with the figures of one process; what fails is a note in it, never an end of the suite."""
    needed = python or Path(sys.executable)
    if not needed.exists():
        section.notes.append(f"left out: there is no {needed.relative_to(ROOT)} (`make bench` makes it, and needs a network for that)")
        return section
    began = time.monotonic()
    print(f"  {section.title}: {' '.join(arguments[1:])} ...", file=sys.stderr, end=" ", flush=True)
    figures, problem = _run([str(needed), "-m", *arguments], _environment(telemetry_off=telemetry_off))
    section.figures += figures
    if problem:
        section.notes.append(problem)
    print(f"{time.monotonic() - began:.0f} s{f', {problem}' if problem else ''}", file=sys.stderr, flush=True)
    return section


def _run(command: list[str], environment: dict[str, str]) -> tuple[list[Figure], str]:
    try:
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT, check=True)
        return [Figure(**figure) for figure in json.loads(done.stdout)], ""
    except subprocess.TimeoutExpired:
        return [], f"failed: `{' '.join(command[1:])}` took more than {TIMEOUT} s"
    except subprocess.CalledProcessError as error:
        said = (error.stderr.strip() or "nothing").splitlines()[-1]
        return [], f"failed: `{' '.join(command[1:])}` ended with {error.returncode}: {said}"


def _environment(*, telemetry_off: bool) -> dict[str, str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("TRACEDFLOW_", "OTEL_"))}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    if telemetry_off:
        environment["TRACEDFLOW_TELEMETRY"] = "off"
    return environment
