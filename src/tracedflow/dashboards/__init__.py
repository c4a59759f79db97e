"""Grafana dashboards and Prometheus rules, made from the names that tracedflow emits. Needs the extra `dashboards`.

`python -m tracedflow.dashboards FOLDER` writes what the repository has in `dashboards/`; `tracedflow dashboards app:MyFlow`
writes a dashboard and SLO alerts of one workflow. Imported by nothing else in the package.
"""

from __future__ import annotations

from importlib.util import find_spec

if any(find_spec(name) is None for name in ("grafana_foundation_sdk", "yaml")):
    raise ImportError("dashboards are made with Grafana's SDK and PyYAML: pip install 'tracedflow[dashboards]'")

from ._alerts import alerts
from ._of_workflow import Objective, slo_alerts, workflow_board
from ._overview import overview_board
from ._rules import Alert, Case, Thresholds, promtool_tests, recordings, rule_file
from ._run import run_board
from ._steps import steps_board
from ._write import ALERTS_FILE, RECORDINGS_FILE, TESTS_FILE, as_json, as_yaml, dashboards, files, files_of, write

__all__ = [
    "ALERTS_FILE",
    "RECORDINGS_FILE",
    "TESTS_FILE",
    "Alert",
    "Case",
    "Objective",
    "Thresholds",
    "alerts",
    "as_json",
    "as_yaml",
    "dashboards",
    "files",
    "files_of",
    "overview_board",
    "promtool_tests",
    "recordings",
    "rule_file",
    "run_board",
    "slo_alerts",
    "steps_board",
    "workflow_board",
    "write",
]
