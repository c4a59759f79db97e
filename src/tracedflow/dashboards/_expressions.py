"""Expressions of PromQL that dashboards and rules share: one meaning for each thing that is shown and warned of."""

from __future__ import annotations

from ..outcomes import FAILURES
from ..telemetry import names as n

BAD = f'outcome=~"{"|".join(sorted(FAILURES))}"'
WORKFLOW = "job, workflow"
STEP = "job, workflow, step"
RUNNING = f'sum by ({WORKFLOW}) ({n.RUNS_ACTIVE.name}{{state="{n.RUNNING_STATE}"}})'
"""Live runs that do something: those that wait for an answer from outside may take days, and nothing is wrong."""


def share(part: str, whole: str) -> str:
    """Return a part over a whole; 0, not nothing, where the part has no series: an outcome that never was has none."""
    return f"({part} or {whole} * 0) / {whole}"


def error_ratio(window: str) -> str:
    """Return the share of the ended runs that ended badly."""
    bad, ended = (f"sum by ({WORKFLOW}) (rate({n.RUNS.name}{where}[{window}]))" for where in (f"{{{BAD}}}", ""))
    return share(bad, ended)


def quantile(at: float, metric: str, by: str, window: str, where: str = "") -> str:
    """Return a quantile of a histogram."""
    return f"histogram_quantile({at}, sum by (le, {by}) (rate({metric}_bucket{where}[{window}])))"


def grew(metric: str, by: str, window: str) -> str:
    """Return by how much a counter grew: one that appears with 1 has, to `increase`, not grown, so a new series counts too."""
    return f"sum by ({by}) ((increase({metric}[{window}]) > 0) or (({metric} unless {metric} offset {window}) > 0)) > 0"


def saturation(by: str, steps: str = "", runs: str = "") -> str:
    """Return the live executions over the slots; `steps` and `runs` select in braces.

    The limit is that of one run (`num_workers`), so it counts once for each live run of its process. Parked executions
    are live and hold no slot: more than 1 is possible.
    """
    live = f"sum by (job, instance, workflow) ({n.RUNS_ACTIVE.name}{runs})"
    slots = f"{n.STEP_CONCURRENCY_LIMIT.name}{steps} * on (job, instance, workflow) group_left () {live}"
    return f"sum by ({by}) ({n.STEPS_ACTIVE.name}{steps}) / (sum by ({by}) ({slots}) > 0)"
