"""One workflow, step by step: how long, how often, how contended, and what it waits for."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from ..telemetry import names as n
from ._expressions import quantile, saturation
from ._style import RATE, SELECT, SELECT_STEP, STEPS_UID, board, choice, heat, job_variable, quantiles, query, series, source


def steps_board() -> dashboard.Dashboard:
    """Return the dashboard of a workflow that is chosen in it."""
    made = board(
        STEPS_UID,
        "tracedflow / Workflow",
        "The steps of one workflow: latency with traces behind it, attempts, queues, joins, waits, the event loop.",
        [
            source("metrics", "prometheus", "Metrics"),
            job_variable(),
            choice("workflow", "Workflow", f"label_values({n.RUNS_ACTIVE.name}, workflow)", several=False),
            choice("step", "Step", f'label_values({n.STEP_CONCURRENCY_LIMIT.name}{{workflow=~"$workflow"}}, step)'),
        ],
    )
    add_steps(made)
    return made


def add_steps(made: dashboard.Dashboard) -> None:
    """Add the panels of the steps that `$workflow` and `$step` choose."""
    made.with_row(dashboard.Row("Latency and attempts"))
    _latency(made)
    made.with_row(dashboard.Row("Queues and slots"))
    _queues(made)
    made.with_row(dashboard.Row("Joins, waits and events"))
    _events(made)
    made.with_row(dashboard.Row("Event loop and measurements"))
    _loop(made)


def _latency(made: dashboard.Dashboard) -> None:
    made.with_panel(
        series(
            "Duration of steps",
            "Of whole step executions: retries and waits included, the queue before it not. The points are exemplars: each opens a trace.",
            "s",
            *quantiles(n.STEP_DURATION.name, "step", SELECT_STEP),
        )
    )
    made.with_panel(heat("Duration of steps, all of it", "How many step executions took how long.", n.STEP_DURATION.name, SELECT_STEP))
    made.with_panel(
        series(
            "Attempts by outcome",
            "Per second. `collecting` is a step that waits for more events to join.",
            "ops",
            query(f"sum by (outcome) (rate({n.STEP_ATTEMPTS_TOTAL.name}{{{SELECT_STEP}}}[{RATE}]))", "{{outcome}}"),
            stacked=True,
        )
    )
    made.with_panel(
        series(
            "Errors by type",
            "Failed attempts per second, also those that a retry made good.",
            "ops",
            query(
                f'sum by (step, error_type) (rate({n.STEP_ATTEMPTS_TOTAL.name}{{{SELECT_STEP}, error_type!=""}}[{RATE}]))',
                "{{step}} {{error_type}}",
            ),
        )
    )
    made.with_panel(
        series(
            "Retries and timeouts",
            "Per second.",
            "ops",
            query(f"sum by (step) (rate({n.STEP_RETRIES.name}{{{SELECT_STEP}}}[{RATE}]))", "{{step}} retried"),
            query(f"sum by (step) (rate({n.STEP_TIMEOUTS.name}{{{SELECT_STEP}}}[{RATE}]))", "{{step}} timed out"),
        )
    )


def _queues(made: dashboard.Dashboard) -> None:
    active = f"sum by (step) ({n.STEPS_ACTIVE.name}{{{SELECT_STEP}}})"
    made.with_panel(
        series(
            "Time in the queue",
            "How long events waited for a slot of their step (`num_workers`) or for a limit: p95.",
            "s",
            query(
                quantile(0.95, n.STEP_QUEUE_WAIT_SECONDS.name, "step", RATE, f"{{{SELECT_STEP}}}"),
                "{{step}}",
            ),
        )
    )
    made.with_panel(
        series(
            "Queue",
            "Events that wait for a slot now.",
            "short",
            query(f"sum by (step) ({n.QUEUE_DEPTH.name}{{{SELECT_STEP}}})", "{{step}}"),
        )
    )
    made.with_panel(series("Running", "Step executions that are live, parked ones included.", "short", query(active, "{{step}}")))
    made.with_panel(
        series(
            "Saturation",
            "Live executions over the slots that the live runs have together (`num_workers` each). Near 100 % with a queue, more may help: "
            "`tracedflow path` estimates by how much. Parked executions hold no slot, so more than 100 % is possible.",
            "percentunit",
            query(saturation("step", f"{{{SELECT_STEP}}}", f"{{{SELECT}}}"), "{{step}}"),
        )
    )
    made.with_panel(
        series(
            "Waiting for shared limits",
            "p95 of the time that step executions waited for a `Limit`.",
            "s",
            query(
                quantile(0.95, n.LIMIT_WAIT.name, "limit, step", RATE, f"{{{SELECT_STEP}}}"),
                "{{limit}} {{step}}",
            ),
        )
    )


def _events(made: dashboard.Dashboard) -> None:
    made.with_panel(
        series(
            "Events by type",
            "Sent, per second.",
            "ops",
            query(f'sum by (event_type) (rate({n.EVENTS.name}{{{SELECT}, action="{n.EMITTED_ACTION}"}}[{RATE}]))', "{{event_type}}"),
        )
    )
    lost = f'{SELECT}, action=~"{n.COLLECTED_ACTION}|{n.DROPPED_ACTION}"'
    made.with_panel(
        series(
            "Joined and dropped",
            "Events in full joins, and events that nobody took, per second.",
            "ops",
            query(
                f"sum by (event_type, action) (rate({n.EVENTS.name}{{{lost}}}[{RATE}]))",
                "{{event_type}} {{action}}",
            ),
        )
    )
    made.with_panel(
        series(
            "Waits",
            "Median time in `wait_for_event`, by event and by how it ended.",
            "s",
            query(
                quantile(0.5, n.WAIT_DURATION.name, "event_type, outcome", RATE, f"{{{SELECT}}}"),
                "{{event_type}} {{outcome}}",
            ),
        )
    )
    made.with_panel(
        series(
            "Stalls",
            "Runs that could never finish: the step that waited, the event it missed.",
            "short",
            query(
                f"sum by (step, missing_event) (increase({n.RUNS_STALLED.name}{{{SELECT}}}[{RATE}]))", "{{step}} lacks {{missing_event}}"
            ),
        )
    )


def _loop(made: dashboard.Dashboard) -> None:
    made.with_panel(
        series(
            "Blocked event loop",
            "Share of the time in which a step kept the loop from turning. Make it `def`, so that it runs in a thread.",
            "percentunit",
            query(f"sum by (step) (rate({n.LOOP_BLOCKED.name}{{{SELECT_STEP}}}[{RATE}]))", "{{step}}"),
        )
    )
    made.with_panel(
        series(
            "Measurements",
            "What the steps measured with `ctx.measure`, per second, in the unit the step gave.",
            "short",
            query(f"sum by (step, name) (rate({n.MEASUREMENTS.name}{{{SELECT_STEP}}}[{RATE}]))", "{{step}} {{name}}"),
        )
    )
