"""Commands about recorded runs: show, why, path, diff, report. `why` asks live processes too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from .._targets import load
from ..errors import WorkflowRuntimeError
from ..inspect import ask
from ..inspect.accounting import account
from ..inspect.critical import CriticalPath
from ..inspect.diff import compare
from ..inspect.durations import short
from ..inspect.recorded import why as explained
from ..inspect.signals import as_text
from ..inspect.trace_file import RecordedRun
from ..inspect.whatif import what_if
from ..records import AttemptRecord
from . import _completion, _documents
from ._files import chosen, named_run, run_in, runs_in, written
from ._output import AsJson, note, say, say_heading, say_json, say_table, say_waterfall
from ._source import valid
from ._wrong import FAILED, Wrong

File = Annotated[Path | None, typer.Argument(metavar="FILE", help="A trace file; the one that TRACEDFLOW_TRACE_FILE names if left out.")]
RunId = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN", help="The id of a run, or its beginning; the last run of the file if left out.", autocompletion=_completion.runs
    ),
]
AnyRunId = Annotated[
    str | None,
    typer.Argument(metavar="RUN", help="The id of a run, or its beginning; all runs if left out.", autocompletion=_completion.runs),
]

_MOST_HOPS = 40
_MOST_ATTEMPTS = 200


def show(file: File = None, run: AnyRunId = None, as_json: AsJson = False) -> None:
    """List the runs of a trace file, or show one as a waterfall.

    With a RUN: its attempts, what of it has no end on record, and the waterfall.
    """
    source, run = chosen(file, run)
    if run is not None:
        found = run_in(source, run)
        say_json({"run": _documents.whole(found)}) if as_json else _show_run(found)
        return
    runs = runs_in(source)
    if as_json:
        say_json({"runs": [_documents.head(each) for each in runs]})
    else:
        _list_runs(runs)


def why(
    file: File = None,
    run: RunId = None,
    pid: Annotated[int | None, typer.Option("--pid", metavar="PID", help="Ask a live process, in place of a trace file.")] = None,
    wait: Annotated[float, typer.Option("--wait", metavar="SECONDS", min=0.01, help="How long that process may take to answer.")] = 5.0,
    as_json: AsJson = False,
) -> None:
    """Say why a run is slow, stuck or failed.

    Of a trace file: what it was doing, where its time and its events went. Of a live process: what runs, what waits for
    what, what each join lacks. `tracedflow run` answers, and so does a program that calls tracedflow.inspect.on_signal().
    """
    if pid is not None:
        _ask(pid, wait, file, run, as_json)
        return
    found = run_in(*chosen(file, run))
    traffic = _traffic(found.attempts)
    if as_json:
        say_json(_documents.reasons(found, traffic))
        return
    say(explained(found))
    if traffic:
        say()
        rows = [(kind, str(each["count"]), _counts(each["from"]), _counts(each["to"])) for kind, each in traffic.items()]
        say_table(("event", "count", "from", "to"), rows)


def _ask(pid: int, wait: float, file: Path | None, run: str | None, as_json: bool) -> None:
    if run is not None:
        raise Wrong(f"--pid asks a process, and {file} is a file: give one of them, or a RUN alone")
    try:
        answer = ask(pid, wait)
    except WorkflowRuntimeError as error:
        raise Wrong(str(error)) from None
    if file is not None:
        live = [each["run_id"] for each in answer["runs"]]
        answer["runs"] = [each for each in answer["runs"] if each["run_id"].startswith(str(file))]
        if not answer["runs"]:
            raise Wrong(f"process {pid} has no live run `{file}`; it has {', '.join(f'`{each}`' for each in live) or 'none'}")
    if as_json:
        say_json(answer)
    else:
        say(as_text(answer))


def path(
    file: File = None,
    run: RunId = None,
    workers: Annotated[
        list[str] | None, typer.Option("--workers", metavar="STEP=N", help="Estimate the run with N workers for a step; may be repeated.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a run's end waited for, and what would be faster.

    That is its critical path, where the time of it and of each step went, and what other numbers of workers would change.
    """
    source, run = chosen(file, run)
    found = run_in(source, run)
    if not found.attempts:
        raise Wrong(f"run `{found.run_id}` in {source} has no attempt that ended, so it has no path; try `tracedflow why {source}`")
    given = dict(_worker_count(each) for each in workers or ())
    accounting = account(found.attempts, found.started, found.ended)
    estimate = _estimated(found, given) if given else None
    if as_json:
        say_json(_documents.where_time_went(found, accounting, estimate))
        return
    say_heading(found)
    say()
    _show_hops(accounting.path)
    say(f"\n{accounting}")
    if estimate:
        changed = ", ".join(f"{count} for `{step}`" for step, count in given.items())
        now, then = short(estimate["now"]), short(estimate["then"])
        say(f"\nWith other workers ({changed}): about {then}, in place of {now} by the same estimate.")


def diff(
    first: Annotated[
        str, typer.Argument(metavar="A", help="A run: FILE for its last one, or FILE:RUN.", autocompletion=_completion.named_runs)
    ],
    second: Annotated[
        str,
        typer.Argument(
            metavar="B", help="The run to compare: FILE, FILE:RUN, or :RUN for one of A's file.", autocompletion=_completion.named_runs
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Compare two runs, a good one and a bad one.

    Tells where they part, by what caused what, and which steps took longer. Exit code 1 if they went other ways.
    """
    file, before = named_run(first)
    _, after = named_run(second, default=file)
    found = compare(before.attempts, after.attempts)
    if as_json:
        say_json(_documents.difference(before, after, found))
    else:
        if before.workflow != after.workflow:
            note(f"these are runs of two workflows, {before.workflow} and {after.workflow}")
        say_heading(before)
        say_heading(after)
        say(f"\n{found}")
    if found.first is not None:
        raise typer.Exit(FAILED)


def report(
    file: File = None,
    run: RunId = None,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="The page.")] = Path("run.html"),
    workflow: Annotated[
        str | None,
        typer.Option(
            "--workflow", metavar="MODULE:NAME", help="The workflow, to draw its whole graph.", autocompletion=_completion.workflows
        ),
    ] = None,
) -> None:
    """Write a run as one HTML page that needs no network."""
    from ..report import render

    found = run_in(*chosen(file, run))
    say(f"wrote {written(out, render(found, valid(workflow, load) if workflow else None))}")


def _list_runs(runs: list[RecordedRun]) -> None:
    rows = [
        (
            run.run_id,
            run.workflow,
            datetime.fromtimestamp(run.started, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S"),
            "-" if run.duration is None else short(run.duration),
            run.outcome,
            str(_documents.steps_of(run)),
            (run.error_type or "").rpartition(".")[2],
        )
        for run in runs
    ]
    say_table(("run", "workflow", "started", "took", "outcome", "steps", "error"), rows, whole=1)


def _show_run(run: RecordedRun) -> None:
    say_heading(run)
    if not run.attempts:
        say("No attempt of a step has ended.")
    else:
        say()
        _show_attempts(run)
        say_waterfall(run)
    for live in run.unfinished:
        say(f"{live.step} #{live.execution} has no end on record: {short(live.since)}, attempt {live.attempt}, {live.event_type}")


def _show_attempts(run: RecordedRun) -> None:
    kept = run.attempts[-_MOST_ATTEMPTS:]
    start = min(run.started, *(record.enqueued_at for record in kept))
    rows = [
        (
            f"{record.ended_at - start:.3f}",
            f"{record.step} #{record.execution}",
            str(record.attempt),
            record.outcome,
            short(record.running),
            _or_dash(record.queued),
            ", ".join(sorted({kind for _, kind in record.events_in})),
            ", ".join(sorted({kind for _, kind in record.events_out})) or (record.error or "").rpartition(".")[2],
        )
        for record in kept
    ]
    say_table(("ended", "step", "try", "outcome", "running", "queued", "in", "out"), rows, whole=1)
    if left := len(run.attempts) - len(kept):
        say(f"({left} earlier attempts are left out; --json has all)")


def _traffic(attempts: list[AttemptRecord]) -> dict[str, dict[str, Any]]:
    """Return of each type of event how many there were, and how many of them each step sent and took."""
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
    none = Counter[str]()
    return {
        kind: {
            "count": max(senders.get(kind, none).total(), takers.get(kind, none).total()),
            "from": dict(senders.get(kind, none)),
            "to": dict(takers.get(kind, none)),
        }
        for kind in dict.fromkeys([*takers, *senders])
    }


def _counts(of: Mapping[str, int]) -> str:
    return ", ".join(f"{step} ×{count}" if count > 1 else step for step, count in of.items()) or "-"


def _show_hops(path: CriticalPath) -> None:
    shown = path.hops if len(path.hops) <= _MOST_HOPS else sorted(path.hops, key=lambda hop: -hop.duration)[:_MOST_HOPS]
    rows = [
        (
            f"{hop.start - path.start:.3f}",
            f"{hop.step} #{hop.execution}" if hop.execution else hop.step,
            short(hop.duration),
            ", ".join(f"{part} {short(seconds)}" for part, seconds in hop.parts.items() if seconds >= _SHOWN),
        )
        for hop in sorted(shown, key=lambda hop: hop.start)
    ]
    say_table(("from", "critical path", "took", "of which"), rows, whole=1)
    if left := len(path.hops) - len(shown):
        say(f"({left} shorter stretches are left out; --json has all)")


_SHOWN = 0.00005  # seconds: what is less is written as 0.0 ms


def _or_dash(seconds: float) -> str:
    return short(seconds) if seconds >= _SHOWN else "-"


def _worker_count(given: str) -> tuple[str, int]:
    step, _, count = given.partition("=")
    if not step or not count.isdecimal() or int(count) < 1:
        raise Wrong(f"--workers {given} is not of the form STEP=N with a positive N, such as --workers fetch=8")
    return step, int(count)


def _estimated(run: RecordedRun, workers: dict[str, int]) -> dict[str, Any]:
    try:
        return {"workers": workers, "now": what_if(run.attempts, {}), "then": what_if(run.attempts, workers)}
    except WorkflowRuntimeError as error:
        raise Wrong(f"--workers: {error}") from None
