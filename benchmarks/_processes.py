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
BENCH_VENV = ROOT / os.environ.get("BENCH_VENV", ".bench-venv")
PACKAGE = ROOT / os.environ.get("BENCH_PACKAGE", "src")  # what is measured: the sources, or what a compiled wheel holds
IS_COMPILED = any(PACKAGE.rglob("*.so"))
PEERS = {"_llama_index": "llama-index-workflows", "_langgraph": "LangGraph", "_pydantic_graph": "pydantic-graph", "_burr": "Burr"}
TIMEOUT = 600  # seconds that one process may take


def python_of(environment: Path) -> Path | None:
    """Return the Python of an environment for the peers; None: it is not there, or was not made to its end."""
    return environment / "bin" / "python" if (environment / ".peers").exists() else None


def measured(section: Section, arguments: Sequence[str], *, environment: Path | None = None, telemetry_off: bool = False) -> Section:
    """Fill the section with the figures of one process; what fails is a note in it, never an end of the suite.

    Args:
        section: what is filled, and returned.
        arguments: those of `python -m`.
        environment: the virtual environment in which it runs. None: this one.
        telemetry_off: whether the engine's own telemetry is left out.
    """
    python = python_of(environment) if environment else Path(sys.executable)
    if python is None:
        section.notes.append(f"left out: there is no complete {environment} (`make bench` makes it, and needs a network for that)")
        return section
    began = time.monotonic()
    print(f"  {section.title}: {' '.join(arguments[1:])} ...", file=sys.stderr, end=" ", flush=True)
    figures, problem = _run([str(python), "-m", *arguments], _variables(telemetry_off=telemetry_off))
    section.figures += figures
    if problem:
        section.notes.append(problem)
    print(f"{time.monotonic() - began:.0f} s{f', {problem}' if problem else ''}", file=sys.stderr, flush=True)
    return section


def _run(command: list[str], variables: dict[str, str]) -> tuple[list[Figure], str]:
    try:
        done = subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT, check=True)
        return [Figure(**figure) for figure in json.loads(done.stdout)], ""
    except subprocess.TimeoutExpired:
        return [], f"failed: `{' '.join(command[1:])}` took more than {TIMEOUT} s"
    except subprocess.CalledProcessError as error:
        said = (error.stderr.strip() or "nothing").splitlines()[-1]
        return [], f"failed: `{' '.join(command[1:])}` ended with {error.returncode}: {said}"


def _variables(*, telemetry_off: bool) -> dict[str, str]:
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("TRACEDFLOW_", "OTEL_"))}
    variables["PYTHONPATH"] = os.pathsep.join([str(PACKAGE), str(ROOT)])
    if telemetry_off:
        variables["TRACEDFLOW_TELEMETRY"] = "off"
    return variables
