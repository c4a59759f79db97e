"""Commands about recorded runs: show, why, path, diff, report."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from ..errors import WorkflowRuntimeError
from ..inspect.accounting import account
from ..inspect.critical import CriticalPath
from ..inspect.diff import compare
from ..inspect.durations import short
from ..inspect.recorded import why as explained
from ..inspect.tables import table
from ..inspect.trace_file import RecordedRun
from ..inspect.waterfall import waterfall
from ..inspect.whatif import what_if
from ..records import AttemptRecord
from ..telemetry.console import Screen
from ._files import named_run, run_in, runs_in, written
from ._targets import load
from ._wrong import Wrong

File = Annotated[Path, typer.Argument(metavar="FILE", help="A trace file.")]
RunId = Annotated[
    str | None, typer.Argument(metavar="[RUN]", help="The id of a run, or its beginning; the last run of the file if left out.")
]

_MOST_HOPS = 40
_MOST_ATTEMPTS = 200


def show(
    file: File,
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="The id of a run, or its beginning; all runs if left out.")] = None,
) -> None:
    """Show the runs of a trace file, or the attempts and the waterfall of one of them."""
    if run is None:
        typer.echo(_runs_table(runs_in(file)))
        return
    found = run_in(file, run)
    typer.echo(f"{found.workflow}  run {found.run_id}  {_ending(found)}")
    if not found.attempts:
        typer.echo("No attempt of a step has ended.")
    else:
        typer.echo("\n" + _attempts_table(found))
        screen = Screen(sys.stdout)
        screen.write_lines(waterfall(found.attempts, width=screen.width, ascii_only=screen.ascii_only).lines)
    for live in found.unfinished:
        typer.echo(f"{live.step} #{live.execution} has no end on record: {short(live.since)}, attempt {live.attempt}, {live.event_type}")


def why(file: File, run: RunId = None) -> None:
    """Say why a run was slow, stuck or failed: what it was doing, and where its events went."""
    found = run_in(file, run)
    typer.echo(explained(found))
    rows = _traffic(found.attempts)
    if rows:
        typer.echo("\n" + _aligned(("event", "count", "from", "to"), rows))


def path(
    file: File,
    run: RunId = None,
    workers: Annotated[
        list[str] | None, typer.Option("--workers", metavar="STEP=N", help="Estimate the run with N workers for a step; may be repeated.")
    ] = None,
) -> None:
    """Show the critical path of a run, where its time went, and what other numbers of workers would change."""
    found = run_in(file, run)
    if not found.attempts:
        raise Wrong(f"run `{found.run_id}` in {file} has no attempt that ended, so it has no path; try `tracedflow why {file}`")
    given = dict(_worker_count(each) for each in workers or ())
    accounting = account(found.attempts, found.started, found.ended)
    estimate = _estimated(found, given) if given else ""
    typer.echo(f"{found.workflow}  run {found.run_id}  {_ending(found)}\n")
    typer.echo(_hops_table(accounting.path))
    typer.echo(f"\n{accounting}")
    if estimate:
        typer.echo(f"\n{estimate}")


def diff(
    first: Annotated[str, typer.Argument(metavar="A", help="A run: FILE for its last one, or FILE:RUN.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The run to compare: FILE, FILE:RUN, or :RUN for one of A's file.")],
) -> None:
    """Compare two runs, a good one and a bad one: where they part, and which steps took how long."""
    file, before = named_run(first)
    _, after = named_run(second, default=file)
    for run in (before, after):
        typer.echo(f"{run.workflow}  run {run.run_id}  {_ending(run)}")
    typer.echo(f"\n{compare(before.attempts, after.attempts)}")


def report(
    file: File,
    run: RunId = None,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="The page.")] = Path("run.html"),
    workflow: Annotated[
        str | None, typer.Option("--workflow", metavar="MODULE:NAME", help="The workflow, to draw its whole graph.")
    ] = None,
) -> None:
    """Write a run as one HTML page that needs no network."""
    found = run_in(file, run)
    try:
        from ..report import render
    except ImportError:
        raise Wrong("the report is not in this build of tracedflow") from None
    typer.echo(f"wrote {written(out, render(found, load(workflow) if workflow else None))}")


def _ending(run: RecordedRun) -> str:
    if run.duration is None:
        return run.outcome
    return f"{run.outcome} after {short(run.duration)}"


def _aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(table(head, rows, left=len(head)))


def _runs_table(runs: list[RecordedRun]) -> str:
    rows = [
        (
            run.run_id,
            run.workflow,
            datetime.fromtimestamp(run.started, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S"),
            "-" if run.duration is None else short(run.duration),
            run.outcome,
            str(len({record.execution for record in run.attempts} | {live.execution for live in run.unfinished})),
            (run.error_type or "").rpartition(".")[2],
        )
        for run in runs
    ]
    return _aligned(("run", "workflow", "started", "took", "outcome", "steps", "error"), rows)


def _attempts_table(run: RecordedRun) -> str:
    kept = run.attempts[-_MOST_ATTEMPTS:]
    start = min(run.started, *(record.enqueued_at for record in kept))
    rows = [
        (
            f"{record.ended_at - start:.3f}",
            f"{record.step} #{record.execution}",
            str(record.attempt),
            record.outcome,
            short(record.running),
            short(record.queued) if record.queued > 0 else "-",
            ", ".join(sorted({kind for _, kind in record.events_in})),
            ", ".join(sorted({kind for _, kind in record.events_out})) or (record.error or "").rpartition(".")[2],
        )
        for record in kept
    ]
    text = _aligned(("ended", "step", "try", "outcome", "running", "queued", "took", "gave"), rows)
    left = len(run.attempts) - len(kept)
    return f"{text}\n({left} earlier attempts are left out)" if left else text


def _traffic(attempts: list[AttemptRecord]) -> list[tuple[str, str, str, str]]:
    """Return each type of event with how many there were, who sent them and who took them."""
    step_of = {record.execution: record.step for record in attempts}
    senders: dict[str, Counter[str]] = {}
    takers: dict[str, Counter[str]] = {}
    seen: set[tuple[str, int]] = set()
    for record in attempts:
        for number, kind in record.events_out:
            senders.setdefault(kind, Counter())[record.step] += 1
            seen.add((kind, number))
        if record.attempt > 1:
            continue  # it took the same events again
        for (number, kind), cause in zip(record.events_in, record.causes, strict=False):
            takers.setdefault(kind, Counter())[record.step] += 1
            if (kind, number) not in seen and step_of.get(cause or 0) is None:
                senders.setdefault(kind, Counter())["outside"] += 1
    kinds = dict.fromkeys([*takers, *senders])
    return [
        (
            kind,
            str(max(senders.get(kind, Counter()).total(), takers.get(kind, Counter()).total())),
            _counts(senders, kind),
            _counts(takers, kind),
        )
        for kind in kinds
    ]


def _counts(of: dict[str, Counter[str]], kind: str) -> str:
    return ", ".join(f"{step} ×{count}" if count > 1 else step for step, count in of.get(kind, Counter[str]()).items()) or "-"


def _hops_table(path: CriticalPath) -> str:
    shown = path.hops if len(path.hops) <= _MOST_HOPS else sorted(path.hops, key=lambda hop: -hop.duration)[:_MOST_HOPS]
    rows = [
        (
            f"{hop.start - path.start:.3f}",
            f"{hop.step} #{hop.execution}" if hop.execution else hop.step,
            short(hop.duration),
            ", ".join(f"{part} {short(seconds)}" for part, seconds in hop.parts.items() if seconds > 0),
        )
        for hop in sorted(shown, key=lambda hop: hop.start)
    ]
    text = _aligned(("from", "critical path", "took", "of which"), rows)
    left = len(path.hops) - len(shown)
    return f"{text}\n({left} shorter stretches are left out)" if left else text


def _worker_count(given: str) -> tuple[str, int]:
    step, _, count = given.partition("=")
    if not step or not count.isdecimal() or int(count) < 1:
        raise Wrong(f"--workers {given} is not of the form STEP=N with a positive N, such as --workers fetch=8")
    return step, int(count)


def _estimated(run: RecordedRun, workers: dict[str, int]) -> str:
    try:
        now, then = what_if(run.attempts, {}), what_if(run.attempts, workers)
    except WorkflowRuntimeError as error:
        raise Wrong(f"--workers: {error}") from None
    changed = ", ".join(f"{count} for `{step}`" for step, count in workers.items())
    return f"With other workers ({changed}): about {short(then)}, in place of {short(now)} by the same estimate."
