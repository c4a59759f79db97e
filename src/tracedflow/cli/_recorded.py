"""The commands that read recorded runs: show, why, path, report, metrics and diff."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..errors import WorkflowRuntimeError
from ..inspect import recorded
from ..inspect.accounting import account
from ..inspect.critical import CriticalPath
from ..inspect.diff import compare
from ..inspect.durations import short
from ..inspect.summary import summarize
from ..inspect.tables import table
from ..inspect.trace_file import RecordedRun
from ..inspect.whatif import slots_seen, what_if
from ..representation import WorkflowStepNode, get_workflow_representation
from ..telemetry import names
from ._output import note, runs_table, say, show_heading, show_waterfall
from ._targets import WrongInput, complete_run, run_in, runs_in, workflow_at

_TARGET = "A trace file, FILE:RUN, or a RUN of $TRACEDFLOW_TRACE_FILE; RUN may be the beginning of an id, or `last`."
Target = Annotated[str | None, typer.Argument(metavar="[FILE[:RUN]]", help=_TARGET, autocompletion=complete_run)]
Other = Annotated[str, typer.Argument(metavar="FILE[:RUN]", help=_TARGET, autocompletion=complete_run)]
Flow = Annotated[str | None, typer.Option("--workflow", "-w", metavar="MODULE:NAME", help="Its code, for what records do not say.")]
Rows = Annotated[int, typer.Option(min=1, help="The most rows of the waterfall.")]
_LISTED = 30
_WORTH = 0.05  # of the run; where less of it was spent in the queue, more workers are no advice


def show(
    target: Target = None,
    rows: Rows = 40,
    everything: Annotated[bool, typer.Option("--all", help="List all runs of a file, not the last 30.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="All that is known, as one line of JSON for each run.")] = False,
) -> None:
    """Show a run as a waterfall, or list the runs of a file."""
    path, runs = runs_in(target)
    if as_json:
        for run in runs:
            say(json.dumps(asdict(run)))
    elif len(runs) > 1:
        shown = runs if everything else runs[-_LISTED:]
        say("\n".join(runs_table(shown)))
        if len(shown) < len(runs):
            note(f"{len(runs) - len(shown)} earlier runs are not shown; --all shows them")
        note(f"`tracedflow show {path}:{runs[-1].run_id}` shows one of them")
    else:
        show_heading(runs[0])
        show_waterfall(runs[0], rows)


def why(
    target: Target = None,
    pid: Annotated[int | None, typer.Option(help="Ask a live process that has called tracedflow.inspect.on_signal().")] = None,
) -> None:
    """Say why a run was slow, stuck or failed. Of a file alone: the last run."""
    if pid is not None:
        _ask(pid)
    else:
        say(recorded.why(run_in(target)))


def _ask(pid: int) -> None:
    """Send SIGUSR1 to a process, if it takes it: the signal kills one that does not."""
    number = getattr(signal, "SIGUSR1", None)
    if number is None:
        raise WrongInput("this system has no SIGUSR1; read the run's trace file instead")
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError as error:
        if not Path("/proc/self/status").exists():
            raise WrongInput(f"this system does not say whether process {pid} takes SIGUSR1; if it does, `kill -USR1 {pid}` asks it") from error
        raise WrongInput(f"there is no process {pid} to ask") from error
    caught = next((int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigCgt:")), 0)
    if not caught >> (number - 1) & 1:
        raise WrongInput(f"process {pid} does not listen: it must have called tracedflow.inspect.on_signal(), else the signal would kill it")
    try:
        os.kill(pid, number)
    except PermissionError as error:
        raise WrongInput(f"process {pid} belongs to somebody else; ask as its user") from error
    say(f"asked; process {pid} answers on its standard error")


def path(
    target: Target = None,
    workers: Annotated[list[str] | None, typer.Option("--what-if", metavar="STEP=N", help="Estimate with N workers; may be repeated.")] = None,
    workflow: Flow = None,
) -> None:
    """Show the critical path of a run, where its time went, and what other numbers of workers would change."""
    run = run_in(target)
    if not run.attempts:
        raise WrongInput(f"run {run.run_id} has no attempt of a step on record, so it has no critical path")
    found = account(run.attempts, run.started, run.ended)
    show_heading(run)
    say()
    say("\n".join(_hops(found.path)))
    say()
    say(str(found))
    asked = dict(_asked(each) for each in workers or ())
    try:
        lines = _estimates(run, asked, _slots(workflow), found.path)
    except WorkflowRuntimeError as error:
        raise WrongInput(f"--what-if: {error}") from error
    if lines:
        say()
        say("\n".join(lines))


def _hops(path: CriticalPath) -> list[str]:
    most = 30
    shown = list(path.hops) if len(path.hops) <= most else [*path.hops[: most // 2], *path.hops[-most // 2 :]]
    rows = [
        (
            f"{hop.step} #{hop.execution}" if hop.execution else hop.step,
            f"+{short(hop.start - path.start)}",
            short(hop.duration),
            ", ".join(f"{part} {short(seconds)}" for part, seconds in hop.parts.items() if seconds > 1e-4),
        )
        for hop in shown
    ]
    lines = [line.rstrip() for line in table(("critical path", "from", "took", ""), rows)]
    left = len(path.hops) - len(shown)
    return [*lines[: 1 + most // 2], f"... {left} more", *lines[1 + most // 2 :]] if left else lines


def _asked(text: str) -> tuple[str, int]:
    step, equals, count = text.partition("=")
    if not equals or not count.isdecimal():
        raise WrongInput(f"--what-if {text} is not STEP=N; write, for example, --what-if {step or 'work'}=8")
    return step, int(count)


def _slots(workflow: str | None) -> dict[str, int]:
    """Return the numbers of workers that the code says, if it was named."""
    if workflow is None:
        return {}
    graph = get_workflow_representation(workflow_at(workflow))
    return {node.label: node.num_workers for node in graph.nodes if isinstance(node, WorkflowStepNode)}


def _estimates(run: RecordedRun, asked: dict[str, int], slots: dict[str, int], path: CriticalPath) -> list[str]:
    """Estimate what was asked for; without a question, twice the workers of the step that waited for slots most, if that is much."""
    seen = {**slots_seen(run.attempts), **slots}
    if not asked:
        queued = [hop for hop in path.hops if hop.parts.get("queued", 0.0) > 0]
        waited: dict[str, float] = {}
        for hop in queued:
            waited[hop.step] = waited.get(hop.step, 0.0) + hop.parts["queued"]
        worst = max(waited, key=lambda step: waited[step], default=None)
        if worst is None or waited[worst] < _WORTH * path.duration:
            return []
        asked = {worst: 2 * seen[worst]}
    as_it_was = what_if(run.attempts, {}, seen)
    then = what_if(run.attempts, asked, seen)
    told = ", ".join(f"num_workers {count} for `{step}` (it had {seen[step]})" for step, count in asked.items())
    return [f"with {told}: est. {short(then)}, in place of {short(as_it_was)}"]


def report(
    target: Target = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The page; RUN.html here if not given.")] = None,
    workflow: Flow = None,
) -> None:
    """Write a run as one HTML page that needs no network. Of a file alone: the last run."""
    from ..report import write_report

    run = run_in(target)
    page = output or Path(f"{run.run_id}.html")
    code = workflow_at(workflow) if workflow is not None else None
    try:
        write_report(run, page, code)
    except OSError as error:
        raise WrongInput(f"{page} cannot be written: {(error.strerror or str(error)).lower()}") from error
    say(str(page))


def metrics(
    target: Target = None,
    declared: Annotated[bool, typer.Option("--names", help="List the metrics that tracedflow emits.")] = False,
) -> None:
    """Show what a trace file says in numbers: runs by outcome, durations, failures and retries of each step."""
    if declared:
        rows = [(each.name, each.kind, ", ".join(each.labels) or "-", each.help) for each in names.METRICS]
        say("\n".join(table(("metric", "kind", "labels", ""), rows, left=4)))
    else:
        say(str(summarize(runs_in(target)[1])))


def diff(first: Other, second: Other) -> None:
    """Compare two runs by what caused what, and name the first step at which they part. Exit code 1 if they do."""
    one, other = run_in(first), run_in(second)
    if one.workflow != other.workflow:
        note(f"these are different workflows: {one.workflow} and {other.workflow}")
    found = compare(one.attempts, other.attempts)
    say(f"{_named(one)}\n{_named(other)}\n\n{found}")
    if found.first is not None:
        raise typer.Exit(1)


def _named(run: RecordedRun) -> str:
    took = "no end on record" if run.duration is None else short(run.duration)
    return f"run {run.run_id} of {run.workflow}: {run.outcome}, {took}"


COMMANDS: Sequence[tuple[str, object]] = (
    ("show", show), ("why", why), ("path", path), ("report", report), ("metrics", metrics), ("diff", diff),
)  # fmt: skip
