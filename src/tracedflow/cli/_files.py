"""Runs out of trace files: all of one, or the one that was meant; and files that are written."""

from __future__ import annotations

from pathlib import Path

from ..inspect.trace_file import RecordedRun, read_runs
from ._wrong import Wrong

_MOST = 5


def runs_in(file: Path) -> list[RecordedRun]:
    """Return the runs in a trace file, oldest first: at least one.

    Raises:
        Wrong: it cannot be read, or has no run in it.
    """
    try:
        found = read_runs(file)
    except FileNotFoundError:
        remedy = "runs write it where TRACEDFLOW_TRACE_FILE, or `tracedflow run --trace`, says so"
        raise Wrong(f"there is no file {file}; {remedy}") from None
    except OSError as error:
        raise Wrong(f"{file} cannot be read: {error.strerror or error}") from None
    if not found:
        raise Wrong(f"{file} has no run in it; is it a file that TRACEDFLOW_TRACE_FILE wrote?")
    return found


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
    shown = ", ".join(f"`{name}`" for name in reversed(names[-_MOST:]))
    return shown if len(names) <= _MOST else f"{shown} and {len(names) - _MOST} older ones"
