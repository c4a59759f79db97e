"""The files: JSON for Grafana, YAML for Prometheus, tests for promtool."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import yaml
from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from ._overview import overview_board
from ._rules import alerts, promtool_tests, recordings, rule_file
from ._run import run_board
from ._steps import steps_board

RECORDINGS_FILE = "rules/recording.yml"
ALERTS_FILE = "rules/alerts.yml"
TESTS_FILE = "rules/tests.yml"
_NOTE = "# Made by `python -m tracedflow.dashboards`; change the code, not this file.\n"


def dashboards() -> dict[str, dashboard.Dashboard]:
    """Return the dashboards by file name."""
    return {"grafana/overview.json": overview_board(), "grafana/workflow.json": steps_board(), "grafana/run.json": run_board()}


def files() -> dict[str, str]:
    """Return the text of every file, by its path within the folder."""
    found = alerts()
    return {
        **{path: as_json(board) for path, board in dashboards().items()},
        RECORDINGS_FILE: as_yaml(rule_file("tracedflow-recording", recordings())),
        ALERTS_FILE: as_yaml(rule_file("tracedflow", [alert.rule() for alert in found])),
        TESTS_FILE: as_yaml(promtool_tests(found, ["recording.yml", "alerts.yml"])),
    }


def as_json(board: dashboard.Dashboard) -> str:
    """Return a dashboard as Grafana imports it: without an id, with its uid."""
    data: dict[str, Any] = json.loads(json.dumps(board.build(), cls=JSONEncoder))
    return json.dumps({"id": None, **_without_nulls(data)}, indent=2, sort_keys=True) + "\n"


def as_yaml(data: Mapping[str, Any]) -> str:
    """Return a rule file."""
    return _NOTE + yaml.safe_dump(dict(data), sort_keys=False, width=150, allow_unicode=True)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value
