"""What one workflow class gets: a dashboard with a row for each of its steps, and alerts that defend an objective."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from grafana_foundation_sdk.builders import dashboard

from ..representation import WorkflowStepNode, get_workflow_representation
from ..telemetry import names as n
from ..workflow import Workflow
from ._rules import Alert, Case
from ._style import RATE, WIDE, board, choice, job_variable, quantiles, query, series, source


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What a workflow promises: this share of its runs ends well, and this share within `latency` seconds."""

    success: float = 0.99
    latency: float | None = None
    latency_share: float = 0.95


def _steps(workflow: Workflow[Any] | type[Workflow[Any]]) -> list[WorkflowStepNode]:
    return [node for node in get_workflow_representation(workflow).nodes if isinstance(node, WorkflowStepNode)]


def workflow_board(workflow: Workflow[Any] | type[Workflow[Any]], name: str) -> dashboard.Dashboard:
    """Return a dashboard of one workflow: its runs, and a row for each of its steps in the order of the class."""
    uid = f"tracedflow-{re.sub('[^a-z0-9]+', '-', name.lower())}"[:40]
    made = board(
        uid,
        f"tracedflow / {name}",
        f"The runs and steps of the workflow {name}.",
        [
            source("metrics", "prometheus", "Metrics"),
            job_variable(),
            choice("workflow", "Workflow", f'label_values({n.RUNS_ACTIVE.name}{{workflow="{name}"}}, workflow)', several=False),
        ],
    )
    where = f'job=~"$job", workflow="{name}"'
    made.with_row(dashboard.Row("Runs"))
    made.with_panel(
        series(
            "Runs by outcome",
            "Ended runs per second.",
            "ops",
            query(f"sum by (outcome) (rate({n.RUNS.name}{{{where}}}[{RATE}]))", "{{outcome}}"),
            stacked=True,
        )
    )
    made.with_panel(series("Duration of runs", "From start to end.", "s", *quantiles(n.RUN_DURATION.name, "workflow", where)))
    for node in _steps(workflow):
        _step_row(made, node.label, f'{where}, step="{node.label}"')
    return made


def _step_row(made: dashboard.Dashboard, step: str, where: str) -> None:
    third = WIDE // 3
    made.with_row(dashboard.Row(step))
    made.with_panel(
        series(
            f"{step}: duration",
            "Of whole step executions, retries and waits included.",
            "s",
            *quantiles(n.STEP_DURATION.name, "step", where),
            span=third,
        )
    )
    made.with_panel(
        series(
            f"{step}: attempts",
            "By outcome, per second.",
            "ops",
            query(f"sum by (outcome) (rate({n.STEP_ATTEMPTS_TOTAL.name}{{{where}}}[{RATE}]))", "{{outcome}}"),
            stacked=True,
            span=third,
        )
    )
    made.with_panel(
        series(
            f"{step}: running and queued",
            "Live step executions, and events that wait for a slot.",
            "short",
            query(f"sum ({n.STEPS_ACTIVE.name}{{{where}}})", "running"),
            query(f"sum ({n.QUEUE_DEPTH.name}{{{where}}})", "queued"),
            span=third,
        )
    )


def slo_alerts(name: str, objective: Objective) -> list[Alert]:
    """Return multi-window burn-rate alerts that defend an objective of one workflow (windows and factors: Google's SRE workbook, ch. 5)."""
    bad = f'{n.RUNS.name}{{workflow="{name}", outcome=~"error|timeout|stalled"}}'
    burns = [*_burns(name, "Errors", bad, f'{n.RUNS.name}{{workflow="{name}"}}', 1 - objective.success)]
    if objective.latency is not None:
        bucket = _bucket(objective.latency)
        total = f'{n.RUN_DURATION.name}_count{{workflow="{name}"}}'
        fast = f'{n.RUN_DURATION.name}_bucket{{workflow="{name}", le="{bucket}"}}'
        burns += _burns(name, "Latency", None, total, 1 - objective.latency_share, fast)
    return burns


def _burns(name: str, what: str, bad: str | None, total: str, budget: float, good: str | None = None) -> list[Alert]:
    def ratio(window: str) -> str:
        whole = f"sum by (job) (rate({total}[{window}]))"
        if bad is not None:
            return f"sum by (job) (rate({bad}[{window}])) / {whole}"
        return f"1 - sum by (job) (rate({good}[{window}])) / {whole}"

    nothing = Case({})
    ident = re.sub("[^A-Za-z0-9]+", "", name.title() if name.islower() else name)
    return [
        Alert(
            name=f"{ident}{what}Burn{speed}",
            severity=severity,
            expr=f"({ratio(long)}) > {factor * budget:.6g} and ({ratio(short)}) > {factor * budget:.6g}",
            lasting=lasting,
            summary=f"{name} burns its {what.lower()} budget {factor:g} times too fast",
            runbook="Open the workflow's dashboard; `tracedflow diff GOOD BAD` names the first step at which a bad run left the way of a good one.",
            fires=nothing,
            silent=nothing,
        )
        for speed, severity, factor, long, short, lasting in (
            ("Fast", "critical", 14.4, "1h", "5m", "2m"),
            ("Slow", "warning", 6.0, "6h", "30m", "15m"),
        )
    ]


def _bucket(seconds: float) -> str:
    """Return the bucket bound at or above this latency, as Prometheus shows it."""
    bound = next((each for each in n.RUN_DURATION.buckets if each >= seconds), None)
    return "+Inf" if bound is None else str(float(bound))
