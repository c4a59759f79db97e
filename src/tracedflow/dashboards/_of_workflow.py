"""What one workflow gets: a dashboard with a row for each of its steps, and alerts that defend an objective."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from grafana_foundation_sdk.builders import dashboard

from ..representation import WorkflowStepNode, get_workflow_representation
from ..telemetry import names as n
from ..workflow import Workflow
from ._expressions import BAD, share
from ._rules import Alert, Case, Severity, burn
from ._style import RATE, WIDE, board, job_variable, quantiles, query, series, source

_SPEEDS: tuple[tuple[str, Severity, float, str, str, str], ...] = (
    ("Fast", "critical", 14.4, "1h", "5m", "2m"),
    ("Slow", "warning", 6.0, "6h", "30m", "15m"),
)
_RUNBOOK = "Open the workflow's dashboard; `tracedflow diff GOOD BAD` names the first step at which a bad run differs from a good one."


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What a workflow promises: this share of its runs ends well, and `latency_share` of them within `latency` seconds.

    Raises:
        ValueError: a share is not between 0 and 1, or no bucket of the run durations is as long as the latency.
    """

    success: float = 0.99
    latency: float | None = None
    latency_share: float = 0.95

    def __post_init__(self) -> None:
        for name, value in (("success", self.success), ("latency_share", self.latency_share)):
            if not 0 < value < 1:
                raise ValueError(f"{name} is a share between 0 and 1, such as 0.99, not {value!r}")
        longest = n.RUN_DURATION.buckets[-1]
        if self.latency is not None and not 0 < self.latency <= longest:
            raise ValueError(f"latency is a number of seconds above 0 and at most {longest:g}, the longest bucket; not {self.latency!r}")

    @property
    def bucket(self) -> float:
        """The bucket of the run durations that stands for the latency: the next one at or above it."""
        return next(float(each) for each in n.RUN_DURATION.buckets if each >= (self.latency or 0))


def workflow_board(workflow: Workflow[Any] | type[Workflow[Any]]) -> dashboard.Dashboard:
    """Return a dashboard of one workflow: its runs, and a row for each of its steps in the order of the class."""
    graph = get_workflow_representation(workflow)
    variables = [source("metrics", "prometheus", "Metrics"), job_variable()]
    made = board(f"tracedflow-{slug(graph.name)}"[:40], f"tracedflow / {graph.name}", f"The runs and steps of {graph.name}.", variables)
    where = f'job=~"$job", workflow="{graph.name}"'
    made.with_row(dashboard.Row("Runs"))
    ended = query(f"sum by (outcome) (rate({n.RUNS.name}{{{where}}}[{RATE}]))", "{{outcome}}")
    made.with_panel(series("Runs by outcome", "Ended runs per second.", "ops", ended, stacked=True))
    made.with_panel(series("Duration of runs", "From start to end.", "s", *quantiles(n.RUN_DURATION.name, "workflow", where)))
    for node in graph.nodes:
        if isinstance(node, WorkflowStepNode):
            _step_row(made, node.label, f'{where}, step="{node.label}"')
    return made


def slug(name: str) -> str:
    """Return a name as part of a file name or of a dashboard's uid."""
    return re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")


def _step_row(made: dashboard.Dashboard, step: str, where: str) -> None:
    third = WIDE // 3
    durations = quantiles(n.STEP_DURATION.name, "step", where)
    attempts = query(f"sum by (outcome) (rate({n.STEP_ATTEMPTS_TOTAL.name}{{{where}}}[{RATE}]))", "{{outcome}}")
    running = query(f"sum ({n.STEPS_ACTIVE.name}{{{where}}})", "running")
    queued = query(f"sum ({n.QUEUE_DEPTH.name}{{{where}}})", "queued")
    made.with_row(dashboard.Row(step))
    made.with_panel(series(f"{step}: duration", "Of step executions, with retries and waits.", "s", *durations, span=third))
    made.with_panel(series(f"{step}: attempts", "By outcome, per second.", "ops", attempts, stacked=True, span=third))
    made.with_panel(series(f"{step}: running and queued", "Live, and waiting for a slot.", "short", running, queued, span=third))


def slo_alerts(workflow: Workflow[Any] | type[Workflow[Any]], objective: Objective) -> list[Alert]:
    """Return multi-window burn-rate alerts that defend an objective of one workflow."""
    name = get_workflow_representation(workflow).name
    ended, failed = (_rate(n.RUNS.name, f'workflow="{name}"{more}') for more in ("", f", {BAD}"))
    found = _burns(name, "Errors", lambda window: share(failed(window), ended(window)), 1 - objective.success, _ends(name))
    if objective.latency is None:
        return found
    bound = f"{objective.bucket:g}"
    fast = _rate(f"{n.RUN_DURATION.name}_bucket", f'workflow="{name}", le=~"{bound}([.]0)?"')  # exporters write 1 as `1.0` or as `1`
    timed = _rate(f"{n.RUN_DURATION.name}_count", f'workflow="{name}"')
    cases, budget = _latencies(name, bound), 1 - objective.latency_share
    return found + _burns(name, "Latency", lambda window: f"1 - {fast(window)} / {timed(window)}", budget, cases, f" ({bound} s)")


def _rate(metric: str, where: str) -> Callable[[str], str]:
    return lambda window: f"sum by (job) (rate({metric}{{{where}}}[{window}]))"


def _burns(name: str, what: str, ratio: Callable[[str], str], budget: float, cases: tuple[Case, Case], note: str = "") -> list[Alert]:
    fires, silent = cases
    return [
        Alert(
            name=f"{re.sub('[^A-Za-z0-9]+', '', name)}{what}Burn{speed}",
            severity=severity,
            expr=burn(ratio(long), ratio(short), factor, budget),
            lasting=lasting,
            summary=f"{name} uses up its {what.lower()} budget{note} {factor:g} times too fast",
            runbook=_RUNBOOK,
            fires=fires,
            silent=silent,
            labels={"job": "app"},
        )
        for speed, severity, factor, long, short, lasting in _SPEEDS
    ]


def _ends(name: str) -> tuple[Case, Case]:
    def ran(good: int, bad: int) -> Case:
        label = f'job="app", instance="a", workflow="{name}"'
        shown = {"success": good, "error": bad}
        return Case({f'{n.RUNS.name}{{{label}, outcome="{outcome}"}}': f"0+{count}x90" for outcome, count in shown.items()})

    return ran(1, 99), ran(99, 0)


def _latencies(name: str, bound: str) -> tuple[Case, Case]:
    def took(fast: int) -> Case:
        label = f'job="app", instance="a", workflow="{name}", outcome="success"'
        below = f'{n.RUN_DURATION.name}_bucket{{{label}, le="{bound}"}}'
        return Case({below: f"0+{fast}x90", f"{n.RUN_DURATION.name}_count{{{label}}}": "0+99x90"})

    return took(1), took(99)
