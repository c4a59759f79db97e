"""Runs out of trace files: all of one, or the one that was meant; and files that are written."""

from __future__ import annotations

import os
from pathlib import Path

from ..inspect.trace_file import RecordedRun, TraceFile, read_file
from ._output import note
from ._wrong import Wrong

VARIABLE = "TRACEDFLOW_TRACE_FILE"

_MOST = 5


def runs_in(file: Path) -> list[RecordedRun]:
    """Return the runs in a trace file, oldest first: at least one. What of it could not be read is said.

    Raises:
        Wrong: it cannot be read, or has no run in it.
    """
    try:
        found = read_file(file)
    except FileNotFoundError:
        raise Wrong(f"there is no file {file}; runs write it where {VARIABLE}, or `tracedflow run --trace`, says so") from None
    except OSError as error:
        raise Wrong(f"{file} cannot be read: {error.strerror or error}") from None
    if not found.runs:
        raise Wrong(_without_runs(file, found))
    damaged = found.damaged
    if found.is_cut_off:
        note(f"{file}:{damaged.pop()} is cut off and left out: its process was killed while it wrote this line, or is at it now")
    if damaged:
        more = f", and so are {len(damaged) - 1} more lines" if len(damaged) > 1 else ""
        note(f"{file}:{damaged[0]} is damaged and left out{more}")
    return found.runs


def _without_runs(file: Path, found: TraceFile) -> str:
    if not found.lines:
        return f"{file} is empty: no run has written to it yet; `tracedflow doctor` tells whether telemetry is on"
    if len(found.damaged) == found.lines:
        return f"{file}:{found.damaged[0]} is no line of a trace file; name a file that {VARIABLE}, or `tracedflow run --trace`, wrote"
    return f"{file} has {found.lines} lines of OpenTelemetry data, but no run of tracedflow in them"


def run_in(file: Path, run_id: str | None) -> RecordedRun:
    """Return the last run in a file, or the last whose id is, or begins with, `run_id`.

    Raises:
        Wrong: as `runs_in`, or no run, or more than one, is meant.
    """
    found = runs_in(file)
    if run_id is None:
        return found[-1]
    meant = [run for run in found if run.run_id == run_id] or [run for run in found if run.run_id.startswith(run_id)]
    names = list(dict.fromkeys(run.run_id for run in meant))
    if len(names) == 1:
        return meant[-1]
    if names:
        raise Wrong(f"`{run_id}` begins the ids of {len(names)} runs in {file}: {_listed(names)}; give more of one")
    raise Wrong(f"{file} has no run `{run_id}`; it has {_listed([run.run_id for run in found])}")


def chosen(file: Path | None, run: str | None) -> tuple[Path, str | None]:
    """Return the file and the run that are meant: without a file, those of the one that the environment names.

    Raises:
        Wrong: no file is named.
    """
    usual = os.environ.get(VARIABLE)
    if usual and file is None:
        return Path(usual), None
    if usual and file is not None and run is None and not file.exists() and len(file.parts) == 1 and Path(usual).exists():
        return Path(usual), str(file)
    if file is None:
        raise Wrong(f"name a trace file, such as runs.jsonl, or set {VARIABLE}")
    return file, run


def named_run(name: str, default: Path | None = None) -> tuple[Path, RecordedRun]:
    """Return the run that `FILE`, `FILE:RUN` or, in the file `default`, `:RUN` means.

    Raises:
        Wrong: as `run_in`.
    """
    if default is not None and name.startswith(":"):
        return default, run_in(default, name[1:])
    whole = Path(name)
    file, colon, run_id = name.rpartition(":")
    if colon and file and run_id and not whole.exists():
        return Path(file), run_in(Path(file), run_id)
    return whole, run_in(whole, None)


def written(file: Path, text: str) -> Path:
    """Write a file.

    Raises:
        Wrong: it cannot be written.
    """
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Wrong(f"{file} cannot be written: {error.strerror or error}") from None
    return file


def _listed(names: list[str]) -> str:
    """Name the last ones, which are most likely meant."""
    names = list(dict.fromkeys(names))
    shown = ", ".join(f"`{name}`" for name in reversed(names[-_MOST:]))
    return shown if len(names) <= _MOST else f"{shown} and {len(names) - _MOST} older ones"
