"""Many recorded runs in one table: how often each workflow and step ran, failed, was tried again, and how long it took."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ..outcomes import FAILURES
from .durations import short
from .executions import executions_of
from .tables import table, without_empty
from .trace_file import RecordedRun


@dataclass(frozen=True, slots=True, kw_only=True)
class Durations:
    """A distribution of seconds. Quantiles are nearest-rank: each is a duration that was measured."""

    count: int
    p50: float
    p95: float
    longest: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowSummary:
    """The runs of one workflow. `outcomes` counts them; runs without an end on record have no duration."""

    workflow: str
    outcomes: dict[str, int]
    durations: Durations


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSummary:
    """The executions of one step, over all runs. Times are seconds."""

    workflow: str
    step: str
    durations: Durations
    failed: int
    retries: int
    queued: float  # the 95th percentile of the time for a slot
    blocked: float  # the sum of the time in which it kept the event loop from turning


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a trace file says in numbers. `str()` gives tables."""

    workflows: tuple[WorkflowSummary, ...] = ()
    steps: tuple[StepSummary, ...] = field(default=())

    def __str__(self) -> str:
        runs = table(("workflow", "runs", "p50", "p95", "longest", "outcomes"), [_run_row(each) for each in self.workflows])
        head = ("workflow", "step", "runs", "failed", "retries", "p50", "p95", "longest", "queued p95", "loop blocked")
        return "\n".join([*runs, "", *table(*without_empty(head, [_step_row(each) for each in self.steps]), left=2)])


def summarize(runs: Iterable[RecordedRun]) -> Summary:
    """Return the numbers of some runs, by workflow and by step, in the order in which they first appear."""
    of_workflow: dict[str, list[RecordedRun]] = {}
    for run in runs:
        of_workflow.setdefault(run.workflow, []).append(run)
    return Summary(
        workflows=tuple(_workflow(name, of) for name, of in of_workflow.items()),
        steps=tuple(step for name, of in of_workflow.items() for step in _steps(name, of)),
    )


def _workflow(name: str, runs: Sequence[RecordedRun]) -> WorkflowSummary:
    outcomes = Counter(run.outcome for run in runs)
    return WorkflowSummary(
        workflow=name, outcomes=dict(outcomes), durations=_durations([run.duration for run in runs if run.duration is not None])
    )


def _steps(workflow: str, runs: Sequence[RecordedRun]) -> list[StepSummary]:
    executions = [each for run in runs for each in executions_of(run.attempts).values()]
    found: list[StepSummary] = []
    for step in dict.fromkeys(each.step for each in executions):
        of = [each for each in executions if each.step == step]
        records = [record for each in of for record in each.attempts]
        found.append(
            StepSummary(
                workflow=workflow,
                step=step,
                durations=_durations([each.ended_at - each.started_at for each in of]),
                failed=sum(each.outcome in FAILURES for each in of),
                retries=sum(len(each.attempts) - 1 for each in of),
                queued=quantile([sum(record.queued for record in each.attempts) for each in of], 0.95),
                blocked=sum(record.blocked for record in records),
            )
        )
    return found


def _durations(seconds: Sequence[float]) -> Durations:
    return Durations(count=len(seconds), p50=quantile(seconds, 0.5), p95=quantile(seconds, 0.95), longest=max(seconds, default=0.0))


def quantile(values: Sequence[float], share: float) -> float:
    """Return the least value that `share` of all are at most; 0 of nothing."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


def _run_row(each: WorkflowSummary) -> tuple[str, ...]:
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in each.outcomes.items())
    return each.workflow, str(sum(each.outcomes.values())), *_shown(each.durations), outcomes


def _step_row(each: StepSummary) -> tuple[str, ...]:
    counts = (str(each.durations.count), str(each.failed or "-"), str(each.retries or "-"))
    return each.workflow, each.step, *counts, *_shown(each.durations), _or_dash(each.queued), _or_dash(each.blocked)


def _shown(durations: Durations) -> tuple[str, ...]:
    return tuple(short(each) if durations.count else "-" for each in (durations.p50, durations.p95, durations.longest))


def _or_dash(seconds: float) -> str:
    return short(seconds) if seconds > 1e-4 else "-"
