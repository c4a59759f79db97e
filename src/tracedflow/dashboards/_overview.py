"""All workflows at a glance: is anything failing, stuck or silent, and which."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from ..telemetry import names as n
from ._expressions import BAD, share
from ._style import (
    OVERVIEW_UID,
    RATE,
    SELECT,
    STEPS_UID,
    board,
    choice,
    job_variable,
    number,
    quantiles,
    query,
    rows,
    series,
    source,
)

_TO_STEPS = f"/d/{STEPS_UID}?var-workflow=${{__field.labels.workflow}}&${{__url_time_range}}"
_ROW_TO_STEPS = f"/d/{STEPS_UID}?var-workflow=${{__data.fields.workflow}}&var-step=${{__data.fields.step}}&${{__url_time_range}}"


def overview_board() -> dashboard.Dashboard:
    """Return the dashboard to open first."""
    workflows = choice("workflow", "Workflow", f"label_values({n.RUNS_ACTIVE.name}, workflow)")
    made = board(
        OVERVIEW_UID,
        "tracedflow / Overview",
        "Runs of all workflows: how many, how well, how long, and what is stuck.",
        [source("metrics", "prometheus", "Metrics"), job_variable(), workflows],
    )
    made.with_row(dashboard.Row("Now"))
    _numbers(made)
    made.with_row(dashboard.Row("Runs"))
    _runs(made)
    made.with_row(dashboard.Row("Events and health"))
    _health(made)
    return made


def _numbers(made: dashboard.Dashboard) -> None:
    runs = n.RUNS.name
    ended = f"sum(rate({runs}{{{SELECT}}}[{RATE}]))"
    failed = share(f"sum(rate({runs}{{{SELECT}, {BAD}}}[{RATE}]))", ended)
    made.with_panel(number("Runs", "Runs that ended, per second.", "ops", ended))
    made.with_panel(
        number(
            "Failed",
            "Share of the ended runs that failed, timed out or stalled.",
            "percentunit",
            failed,
            steps=[(None, "green"), (0.01, "orange"), (0.05, "red")],
        )
    )
    made.with_panel(number("Live", "Runs that are live now, in all processes.", "short", f"sum({n.RUNS_ACTIVE.name}{{{SELECT}}})"))
    made.with_panel(
        number(
            "Oldest",
            "Age of the oldest live run: a stuck run shows here.",
            "s",
            f"max({n.RUN_OLDEST_AGE.name}{{{SELECT}}})",
            steps=[(None, "green"), (600, "orange"), (3600, "red")],
        )
    )


def _runs(made: dashboard.Dashboard) -> None:
    made.with_panel(
        series(
            "Runs by outcome",
            "Ended runs per second.",
            "ops",
            query(f"sum by (outcome) (rate({n.RUNS.name}{{{SELECT}}}[{RATE}]))", "{{outcome}}"),
            stacked=True,
        )
    )
    made.with_panel(
        series(
            "Duration of runs",
            "From start to end, waits for people included. The points are exemplars: each opens a trace.",
            "s",
            *quantiles(n.RUN_DURATION.name, "workflow", SELECT),
        ).data_links([dashboard.DashboardLink("Steps of this workflow").url(_TO_STEPS)])
    )
    made.with_panel(
        series(
            "Live runs",
            "Live runs by workflow.",
            "short",
            query(f"sum by (workflow, state) ({n.RUNS_ACTIVE.name}{{{SELECT}}})", "{{workflow}} {{state}}"),
        )
    )
    made.with_panel(
        series(
            "Age of the oldest run",
            "By workflow. It falls when runs end; a line that only rises is a run that does not.",
            "s",
            query(f"max by (workflow) ({n.RUN_OLDEST_AGE.name}{{{SELECT}}})", "{{workflow}}"),
        )
    )
    made.with_panel(
        series(
            "Stalled runs",
            "Runs that could never finish, by the step that waited and the event it missed. `tracedflow why` tells the rest.",
            "short",
            query(
                f"sum by (workflow, step, missing_event) (increase({n.RUNS_STALLED.name}{{{SELECT}}}[{RATE}]))",
                "{{workflow}}: {{step}} lacks {{missing_event}}",
            ),
        )
    )
    made.with_panel(
        rows(
            "Slowest steps",
            "Mean duration of step executions over the shown time.",
            "s",
            f"topk(20, sum by (workflow, step) (rate({n.STEP_DURATION.name}_sum{{{SELECT}}}[$__range]))"
            f" / sum by (workflow, step) (rate({n.STEP_DURATION.name}_count{{{SELECT}}}[$__range])))",
        ).data_links([dashboard.DashboardLink("Steps of this workflow").url(_ROW_TO_STEPS)])
    )


def _health(made: dashboard.Dashboard) -> None:
    made.with_panel(
        series(
            "Events",
            "What happened to events, per second: sent, started a step, in a full join, streamed, dropped.",
            "ops",
            query(f"sum by (action) (rate({n.EVENTS.name}{{{SELECT}}}[{RATE}]))", "{{action}}"),
        )
    )
    made.with_panel(
        series(
            "Blocked event loop",
            "Share of the time in which steps kept the event loop from turning. Everything in the process waits meanwhile.",
            "percentunit",
            query(f"sum by (workflow, step) (rate({n.LOOP_BLOCKED.name}{{{SELECT}}}[{RATE}]))", "{{workflow}} {{step}}"),
        )
    )
    made.with_panel(
        series(
            "Failing observers",
            "Errors of middleware that only watches. The runs went on without it.",
            "ops",
            query(
                f'sum by (middleware, error_type) (rate({n.MIDDLEWARE_ERRORS.name}{{job=~"$job"}}[{RATE}]))',
                "{{middleware}} {{error_type}}",
            ),
        )
    )
    made.with_panel(
        rows(
            "Versions",
            "Processes by version of tracedflow.",
            "short",
            f'count by (job, version) ({n.BUILD_INFO.name}{{job=~"$job"}})',
        )
    )
