"""Where the commands write: results to standard output, with colours on a terminal; what is said about them to standard error."""

from __future__ import annotations

import sys

from ..inspect.durations import short
from ..inspect.tables import table
from ..inspect.trace_file import ABANDONED, RecordedRun
from ..inspect.waterfall import Line, waterfall
from ..outcomes import FAILURES
from ..telemetry import Screen, Style


def say(text: str = "") -> None:
    """Write a line of the result."""
    print(text)


def note(text: str) -> None:
    """Write a line about the result to standard error."""
    print(text, file=sys.stderr)


def show_waterfall(run: RecordedRun, rows: int) -> None:
    """Draw the waterfall of a run, as wide as the terminal."""
    screen = Screen(sys.stdout)
    drawn = waterfall(run.attempts, width=screen.width, rows=rows, ascii_only=screen.ascii_only)
    screen.write_lines(drawn.lines)


def show_heading(run: RecordedRun) -> None:
    """Write what run this is, and how it ended."""
    style: Style = "bad" if run.outcome in FAILURES else "good" if run.outcome == "success" else "odd"
    took = "no end on record" if run.duration is None else f"in {short(run.duration)}"
    facts = [f"run {run.run_id}", f"trace {run.trace_id}" if run.trace_id else "not traced"]
    facts += [f"segment {run.segments}"] if run.segments > 1 else []
    facts += [f"{name}={value}" for name, value in run.tags.items()]
    line: Line = ((run.workflow, "bold"), (f"  {run.outcome} ", style), (took, "plain"), (f"  {', '.join(facts)}", "dim"))
    Screen(sys.stdout).write(line)


def runs_table(runs: list[RecordedRun]) -> list[str]:
    """Return the lines of a list of runs."""
    begin = runs[0].started
    rows = [
        (
            run.run_id,
            run.workflow,
            run.outcome,
            f"+{short(run.started - begin)}",
            short(run.duration) if run.duration is not None else "-",
            str(len({record.execution for record in run.attempts})),
            _reason(run),
        )
        for run in runs
    ]
    return table(("run", "workflow", "outcome", "started", "took", "steps", ""), rows, left=3)


def _reason(run: RecordedRun) -> str:
    if run.outcome == ABANDONED:
        return f"{len(run.unfinished)} steps open" if run.unfinished else ""
    return (run.error_type or "").rpartition(".")[2]
