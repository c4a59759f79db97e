"""The alerts: of runs, of steps, of events and waits, and of the process. Each names what to do."""

from __future__ import annotations

from collections.abc import Mapping

from ..telemetry import names as n
from ._expressions import RUNNING, STEP, WORKFLOW, grew, quantile
from ._rules import ERROR_RATIO, QUEUE_P95, SATURATION, STEP_ERROR_RATIO, STEP_P95, WINDOWS, Alert, Case, Thresholds, burn


def alerts(at: Thresholds | None = None) -> list[Alert]:
    """Return the alerts, with these thresholds."""
    limits = at or Thresholds()
    return [*_of_runs(limits), *_of_steps(limits), *_of_events(), *_of_the_process(limits)]


def _of_runs(at: Thresholds) -> list[Alert]:
    ratio = {window: ERROR_RATIO.format(window=window) for window in WINDOWS}
    budget = 1 - at.objective
    healthy = Case({_runs("success"): "0+60x90", _runs("error"): "0+0x90"})
    failing = Case({_runs("success"): "0+30x90", _runs("error"): "0+30x90"})
    return [
        Alert(
            name="TracedflowRunErrorRatioHigh",
            severity="warning",
            expr=f"{ratio['5m']} > {at.run_error_ratio:g}",
            lasting="10m",
            summary="{{ $labels.workflow }}: {{ $value | humanizePercentage }} of the runs end badly",
            runbook="`Errors by type` in the dashboard tracedflow / Workflow; the trace of a failed run, or `tracedflow why TRACE_FILE`.",
            fires=failing,
            silent=healthy,
            labels={"job": "app", "workflow": "F"},
        ),
        Alert(
            name="TracedflowRunErrorBudgetBurnsFast",
            severity="critical",
            expr=burn(ratio["1h"], ratio["5m"], 14.4, budget),
            lasting="2m",
            summary="{{ $labels.workflow }} uses up its error budget of 30 days within two",
            runbook="Stop what was released last. `tracedflow diff GOOD BAD` names the first step in which a bad run differs.",
            fires=failing,
            silent=healthy,
            labels={"job": "app", "workflow": "F"},
        ),
        Alert(
            name="TracedflowRunErrorBudgetBurnsSlowly",
            severity="warning",
            expr=burn(ratio["6h"], ratio["30m"], 6, budget),
            lasting="15m",
            summary="{{ $labels.workflow }} uses up its error budget of 30 days within five",
            runbook="Look at `Errors by type` over the last day; `tracedflow show TRACE_FILE` lists the attempts of a run that failed.",
            fires=Case({_runs("success"): "0+92x90", _runs("error"): "0+8x90"}),
            silent=Case({_runs("success"): "0+999x90", _runs("error"): "0+1x90"}),
            labels={"job": "app", "workflow": "F"},
        ),
        Alert(
            name="TracedflowRunsStall",
            severity="critical",
            expr=grew(n.RUNS_STALLED.name, "job, workflow, step, missing_event", "10m"),
            summary="{{ $labels.workflow }}: step {{ $labels.step }} waited for {{ $labels.missing_event }}, which could not come",
            runbook="`tracedflow why TRACE_FILE` says what the join or wait has and lacks, and who could produce it.",
            fires=Case({f'{n.RUNS_STALLED.name}{{job="app", instance="a", workflow="F", step="s", missing_event="E"}}': "_x58 1+0x20"}),
            silent=Case({f'{n.RUNS_STALLED.name}{{job="app", instance="a", workflow="F", step="s", missing_event="E"}}': "4+0x90"}),
            labels={"job": "app", "workflow": "F", "step": "s", "missing_event": "E"},
        ),
        Alert(
            name="TracedflowRunStuck",
            severity="warning",
            expr=f"max by ({WORKFLOW}) ({n.RUN_OLDEST_AGE.name}) > {at.stuck_after:g} and {RUNNING} > 0",
            lasting="5m",
            summary="{{ $labels.workflow }}: a run lives for {{ $value | humanizeDuration }}",
            runbook="`tracedflow.runs()` lists the live runs of the process; `handler.why()` of one says what runs and what waits.",
            fires=Case({_oldest(): f"{at.stuck_after + 1:g}+60x90", _active(): "1+0x90"}),
            silent=Case(
                {
                    _oldest(): "3+0x90",
                    _active(): "1+0x90",
                    _oldest("Waits"): f"{at.stuck_after + 1:g}+60x90",
                    _active("Waits"): "0+0x90",
                    _active("Waits", n.SUSPENDED_STATE): "1+0x90",
                }
            ),
            labels={"job": "app", "workflow": "F"},
        ),
        Alert(
            name="TracedflowNoRunEnds",
            severity="warning",
            expr=f"{RUNNING} > 0 unless {grew(n.RUNS.name, WORKFLOW, '30m')}",
            lasting="30m",
            summary="{{ $labels.workflow }}: {{ $value }} runs are at work, and none has ended for an hour",
            runbook="`handler.why()` of a run in `tracedflow.runs()`; `Waits` and `Saturation` in the dashboard tracedflow / Workflow.",
            fires=Case({_active(): "3+0x200", _runs("success"): "7+0x200"}, 150),
            silent=Case(
                {
                    _active(): "3+0x200",
                    _runs("success"): "7+1x200",
                    _active("Waits"): "0+0x200",
                    _active("Waits", n.SUSPENDED_STATE): "3+0x200",
                },
                150,
            ),
            labels={"job": "app", "workflow": "F"},
        ),
    ]


def _of_steps(at: Thresholds) -> list[Alert]:
    attempts, slow = n.STEP_ATTEMPTS_TOTAL.name, n.STEP_DURATION.name
    step = {"job": "app", "workflow": "F", "step": "s"}
    retries = f"sum by ({STEP}) (rate({n.STEP_RETRIES.name}[5m])) / sum by ({STEP}) (rate({attempts}[5m]))"
    return [
        Alert(
            name="TracedflowStepErrorRatioHigh",
            severity="warning",
            expr=f"{STEP_ERROR_RATIO} > {at.step_error_ratio:g}",
            lasting="10m",
            summary="{{ $labels.workflow }}.{{ $labels.step }}: {{ $value | humanizePercentage }} of the attempts fail",
            runbook="`Errors by type` in tracedflow / Workflow; an exemplar of `Duration of steps` opens the trace of one.",
            fires=Case({_attempts("success"): "0+6x90", _attempts("error"): "0+4x90"}),
            silent=Case({_attempts("success"): "0+6x90", _attempts("error"): "0+0x90"}),
            labels=step,
        ),
        Alert(
            name="TracedflowStepSlow",
            severity="warning",
            expr=f"{STEP_P95} > {at.step_p95:g}",
            lasting="10m",
            summary="{{ $labels.workflow }}.{{ $labels.step }}: one in twenty takes longer than {{ $value | humanizeDuration }}",
            runbook="`tracedflow path TRACE_FILE` says whether the step is on the critical path, and what it spent its time on.",
            fires=Case(_histogram(slow, 'step="s", outcome="success"', {"60": 0, "300": 9})),
            silent=Case(_histogram(slow, 'step="s", outcome="success"', {"60": 9, "300": 9})),
            labels=step,
        ),
        Alert(
            name="TracedflowStepTimeouts",
            severity="warning",
            expr=grew(n.STEP_TIMEOUTS.name, STEP, "15m"),
            summary="{{ $labels.workflow }}.{{ $labels.step }}: attempts exceed the step's timeout",
            runbook="`tracedflow show TRACE_FILE` shows the attempts; the error carries the report of what the run was doing.",
            fires=Case({f"{n.STEP_TIMEOUTS.name}{{{_of('s')}}}": "_x55 1+0x20"}),
            silent=Case({f"{n.STEP_TIMEOUTS.name}{{{_of('s')}}}": "2+0x90"}),
            labels=step,
        ),
        Alert(
            name="TracedflowRetryStorm",
            severity="warning",
            expr=f"{retries} > {at.retry_ratio:g}",
            lasting="10m",
            summary="{{ $labels.workflow }}.{{ $labels.step }}: {{ $value | humanizePercentage }} of the attempts are retries",
            runbook="Something behind the step is down or slow. `Errors by type` says what it answers; a `Limit` keeps the load off it.",
            fires=Case({f"{n.STEP_RETRIES.name}{{{_of('s')}}}": "0+5x90", _attempts("success"): "0+10x90"}),
            silent=Case({f"{n.STEP_RETRIES.name}{{{_of('s')}}}": "0+0x90", _attempts("success"): "0+10x90"}),
            labels=step,
        ),
        Alert(
            name="TracedflowQueueWaitHigh",
            severity="warning",
            expr=f"{QUEUE_P95} > {at.queue_p95:g}",
            lasting="10m",
            summary="{{ $labels.workflow }}.{{ $labels.step }}: one in twenty waits longer than {{ $value | humanizeDuration }} for a slot",
            runbook="`tracedflow path TRACE_FILE` estimates the run with more `num_workers`.",
            fires=Case(_histogram(n.STEP_QUEUE_WAIT_SECONDS.name, 'step="s"', {"30": 0, "60": 9})),
            silent=Case(_histogram(n.STEP_QUEUE_WAIT_SECONDS.name, 'step="s"', {"30": 9, "60": 9})),
            labels=step,
        ),
        Alert(
            name="TracedflowStepSaturated",
            severity="info",
            expr=f"{SATURATION} > {at.saturation:g} and sum by ({STEP}) ({n.QUEUE_DEPTH.name}) > 0",
            lasting="15m",
            summary="{{ $labels.workflow }}.{{ $labels.step }} has no free slot, and events queue",
            runbook="Raise `num_workers` of the step, or take load off: `tracedflow path TRACE_FILE` estimates what more workers bring.",
            fires=Case({**_slots(4), f"{n.QUEUE_DEPTH.name}{{{_of('s')}}}": "7+0x90"}),
            silent=Case({**_slots(1), f"{n.QUEUE_DEPTH.name}{{{_of('s')}}}": "7+0x90"}),
            labels=step,
        ),
    ]


def _of_events() -> list[Alert]:
    dropped = f'{n.EVENTS.name}{{action="{n.DROPPED_ACTION}"}}'
    expired = f'{n.WAIT_DURATION.name}_count{{outcome="timeout"}}'
    drop_series = f'{n.EVENTS.name}{{job="app", instance="a", workflow="F", event_type="E", action="{n.DROPPED_ACTION}"}}'
    wait_series = f'{n.WAIT_DURATION.name}_count{{job="app", instance="a", workflow="F", event_type="E", outcome="timeout"}}'
    event = {"job": "app", "workflow": "F", "event_type": "E"}
    return [
        Alert(
            name="TracedflowEventsDropped",
            severity="warning",
            expr=grew(dropped, "job, workflow, event_type", "15m"),
            summary="{{ $labels.workflow }}: {{ $labels.event_type }} was sent and nobody took it",
            runbook="`tracedflow why TRACE_FILE` says where each event went, and the near miss; `tracedflow check app:Flow`.",
            fires=Case({drop_series: "_x55 1+0x20"}),
            silent=Case({drop_series: "2+0x90"}),
            labels=event,
        ),
        Alert(
            name="TracedflowWaitsExpire",
            severity="warning",
            expr=grew(expired, "job, workflow, event_type", "30m"),
            summary="{{ $labels.workflow }}: nobody sent {{ $labels.event_type }} in time",
            runbook="Whoever should answer does not. `handler.why()` lists the open waits, since when and until when.",
            fires=Case({wait_series: "_x55 1+0x20"}),
            silent=Case({wait_series: "2+0x90"}),
            labels=event,
        ),
    ]


def _of_the_process(at: Thresholds) -> list[Alert]:
    failing = f'{n.MIDDLEWARE_ERRORS.name}{{job="app", instance="a", middleware="M", error_type="KeyError"}}'
    blocked = f"sum by (job, instance, workflow, step) (rate({n.LOOP_BLOCKED.name}[5m]))"
    waits = quantile(0.95, n.LIMIT_WAIT.name, "job, limit", "5m")
    capped = f'{n.RUNS.name}{{job="app", instance="a", workflow="{n.OTHER}", outcome="success"}}'
    return [
        Alert(
            name="TracedflowEventLoopBlocked",
            severity="warning",
            expr=f"{blocked} > {at.loop_blocked:g}",
            lasting="5m",
            summary="{{ $labels.workflow }}.{{ $labels.step }} keeps the event loop of {{ $labels.instance }} from turning",
            runbook="The log of tracedflow.loop has file and line. Make the step `def`: it runs in a thread. See `Blocked event loop`.",
            fires=Case({f"{n.LOOP_BLOCKED.name}{{{_of('s')}}}": "0+20x90"}),
            silent=Case({f"{n.LOOP_BLOCKED.name}{{{_of('s')}}}": "0+0x90"}),
            labels={"job": "app", "instance": "a", "workflow": "F", "step": "s"},
        ),
        Alert(
            name="TracedflowLimitWaitHigh",
            severity="warning",
            expr=f"{waits} > {at.limit_wait_p95:g}",
            lasting="10m",
            summary="Limit {{ $labels.limit }}: one in twenty waits longer than {{ $value | humanizeDuration }}",
            runbook="The limit is the bottleneck: `Waiting for shared limits` in tracedflow / Workflow says which steps wait.",
            fires=Case(_histogram(n.LIMIT_WAIT.name, 'limit="l", step="s"', {"30": 0, "60": 9})),
            silent=Case(_histogram(n.LIMIT_WAIT.name, 'limit="l", step="s"', {"30": 9, "60": 9})),
            labels={"job": "app", "limit": "l"},
        ),
        Alert(
            name="TracedflowMiddlewareErrors",
            severity="warning",
            expr=grew(n.MIDDLEWARE_ERRORS.name, "job, middleware, error_type", "15m"),
            summary="Observer {{ $labels.middleware }} fails with {{ $labels.error_type }}; the runs go on without it",
            runbook="The log of tracedflow.middleware has its traceback, once; `tracedflow.testing.check_observer` tries it out.",
            fires=Case({failing: "_x55 1+0x20"}),
            silent=Case({failing: "2+0x90"}),
            labels={"job": "app", "middleware": "M", "error_type": "KeyError"},
        ),
        Alert(
            name="TracedflowLabelsCapped",
            severity="info",
            expr=f'count by (job) ({{__name__=~"tracedflow_.+", workflow="{n.OTHER}"}}) > 0',
            summary="{{ $labels.job }} has more label values than the cap of a metric; the rest is counted as _other",
            runbook="Name workflows and steps in code, not from data. The log of tracedflow.metrics says which metric was the first.",
            fires=Case({capped: "1+1x90"}),
            silent=Case({_runs("success"): "1+1x90"}),
            labels={"job": "app"},
        ),
        Alert(
            name="TracedflowProcessGone",
            severity="critical",
            expr=f"up == 0 and on (job, instance) last_over_time({n.BUILD_INFO.name}[1h])",
            lasting="2m",
            summary="{{ $labels.instance }} of {{ $labels.job }} is not scraped any more",
            runbook="Drained: its runs go on from their snapshots. If not, `tracedflow show TRACE_FILE` shows what was open when it ended.",
            fires=Case(
                {'up{job="app", instance="a"}': "1x40 0x50", f'{n.BUILD_INFO.name}{{job="app", instance="a", version="1"}}': "1x40 _x50"}
            ),
            silent=Case({'up{job="app", instance="a"}': "1x90", f'{n.BUILD_INFO.name}{{job="app", instance="a", version="1"}}': "1x90"}),
            labels={"job": "app", "instance": "a"},
        ),
    ]


def _of(step: str) -> str:
    return f'job="app", instance="a", workflow="F", step="{step}"'


def _runs(outcome: str) -> str:
    return f'{n.RUNS.name}{{job="app", instance="a", workflow="F", outcome="{outcome}"}}'


def _active(workflow: str = "F", state: str = n.RUNNING_STATE) -> str:
    return f'{n.RUNS_ACTIVE.name}{{job="app", instance="a", workflow="{workflow}", state="{state}"}}'


def _oldest(workflow: str = "F") -> str:
    return f'{n.RUN_OLDEST_AGE.name}{{job="app", instance="a", workflow="{workflow}"}}'


def _attempts(outcome: str) -> str:
    kind = "ConnectionError" if outcome == "error" else ""
    return f'{n.STEP_ATTEMPTS_TOTAL.name}{{{_of("s")}, outcome="{outcome}", error_type="{kind}"}}'


def _slots(busy: int) -> dict[str, str]:
    return {
        f"{n.STEPS_ACTIVE.name}{{{_of('s')}}}": f"{busy}+0x90",
        f"{n.STEP_CONCURRENCY_LIMIT.name}{{{_of('s')}}}": "4+0x90",
        _active(): "1+0x90",
    }


def _histogram(metric: str, labels: str, per_minute: Mapping[str, int]) -> dict[str, str]:
    """Return the series of a histogram that grows by so much in each bucket a minute."""
    most = max(per_minute.values())
    buckets = {**per_minute, "+Inf": most}
    return {
        f'{metric}_bucket{{job="app", instance="a", workflow="F", {labels}, le="{le}"}}': f"0+{count}x90" for le, count in buckets.items()
    }
