"""What rules are made of: the recorded series, alerts as data with a case in which each fires and one in which it is silent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from ..telemetry import names as n
from ._expressions import STEP, error_ratio, quantile, saturation, share

Severity: TypeAlias = Literal["critical", "warning", "info"]

ERROR_RATIO = "workflow:tracedflow_run_error_ratio:rate{window}"
STEP_ERROR_RATIO = "workflow_step:tracedflow_step_error_ratio:rate5m"
STEP_P95 = "workflow_step:tracedflow_step_duration_seconds:p95_5m"
QUEUE_P95 = "workflow_step:tracedflow_step_queue_wait_seconds:p95_5m"
SATURATION = "workflow_step:tracedflow_step_saturation:ratio"
WINDOWS = ("5m", "30m", "1h", "6h")


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """From where on the alerts speak. Ratios are between 0 and 1, times in seconds."""

    run_error_ratio: float = 0.05
    objective: float = 0.99  # share of runs that shall end well: what the burn-rate alerts defend
    stuck_after: float = 3600.0
    step_error_ratio: float = 0.1
    step_p95: float = 60.0
    retry_ratio: float = 0.2
    queue_p95: float = 30.0
    saturation: float = 0.9
    loop_blocked: float = 0.05
    limit_wait_p95: float = 30.0


@dataclass(frozen=True, slots=True)
class Case:
    """Series, in promtool's notation at one sample a minute, and the minute at which to look."""

    series: Mapping[str, str]
    minute: int = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One alert. `fires` and `silent` are what `promtool test rules` tries."""

    name: str
    severity: Severity
    expr: str
    lasting: str = "0m"  # for how long before it speaks
    summary: str
    runbook: str
    fires: Case
    silent: Case
    labels: Mapping[str, str] = field(default_factory=dict[str, str])  # of the alert that fires

    def rule(self) -> dict[str, Any]:
        """Return it as Prometheus reads it."""
        return {
            "alert": self.name,
            "expr": self.expr,
            "for": self.lasting,
            "labels": {"severity": self.severity},
            "annotations": {"summary": self.summary, "description": self.runbook},
        }


def recordings() -> list[dict[str, str]]:
    """Return the recording rules: what alerts and dashboards would else compute again and again."""
    bad = f'sum by ({STEP}) (rate({n.STEP_ATTEMPTS_TOTAL.name}{{outcome=~"error|timeout"}}[5m]))'
    ratios = [{"record": ERROR_RATIO.format(window=window), "expr": error_ratio(window)} for window in WINDOWS]
    return [
        *ratios,
        {"record": STEP_ERROR_RATIO, "expr": share(bad, f"sum by ({STEP}) (rate({n.STEP_ATTEMPTS_TOTAL.name}[5m]))")},
        {"record": STEP_P95, "expr": quantile(0.95, n.STEP_DURATION.name, STEP, "5m")},
        {"record": QUEUE_P95, "expr": quantile(0.95, n.STEP_QUEUE_WAIT_SECONDS.name, STEP, "5m")},
        {"record": SATURATION, "expr": saturation(STEP)},
    ]


def burn(long: str, short: str, factor: float, budget: float) -> str:
    """Return when an error ratio uses up its budget `factor` times too fast, in a long window and still in a short one.

    Windows and factors are those of Google's SRE Workbook, chapter 5: 14.4 over an hour spends 2 % of a month's budget,
    6 over six hours 5 %.
    """
    return f"({long}) > {factor * budget:.6g} and ({short}) > {factor * budget:.6g}"


def rule_file(group: str, rules: Sequence[Mapping[str, Any]], interval: str = "30s") -> dict[str, Any]:
    """Return a rule file of Prometheus with one group."""
    return {"groups": [{"name": group, "interval": interval, "rules": list(rules)}]}


def promtool_tests(found: Sequence[Alert], rule_files: Sequence[str]) -> dict[str, Any]:
    """Return what `promtool test rules` runs: each alert, firing and silent."""
    tests = [test for alert in found for test in (_test(alert, alert.fires, speaks=True), _test(alert, alert.silent, speaks=False))]
    return {"rule_files": list(rule_files), "evaluation_interval": "1m", "tests": tests}


def _test(alert: Alert, case: Case, *, speaks: bool) -> dict[str, Any]:
    expression = f'ALERTS{{alertname="{alert.name}", alertstate="firing"}}'
    labels = {"alertname": alert.name, "alertstate": "firing", "severity": alert.severity, **alert.labels}
    shown = ", ".join(f'{name}="{value}"' for name, value in labels.items())
    return {
        "name": f"{alert.name} {'fires' if speaks else 'is silent'}",
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
        "promql_expr_test": [
            {
                "expr": expression,
                "eval_time": f"{case.minute}m",
                "exp_samples": [{"labels": f"ALERTS{{{shown}}}", "value": 1}] if speaks else [],
            }
        ],
    }
