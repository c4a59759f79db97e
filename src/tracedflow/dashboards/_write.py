"""The files: JSON for Grafana, YAML for Prometheus, tests for promtool. Of all workflows, or of one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from ..representation import get_workflow_representation
from ..workflow import Workflow
from ._alerts import alerts
from ._of_workflow import Objective, slo_alerts, slug, workflow_board
from ._overview import overview_board
from ._rules import promtool_tests, recordings, rule_file
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


def files_of(workflow: Workflow[Any] | type[Workflow[Any]], objective: Objective | None = None) -> dict[str, str]:
    """Return the text of the dashboard and of the alerts of one workflow, by path within the folder."""
    name = slug(get_workflow_representation(workflow).name)
    found = slo_alerts(workflow, objective or Objective())
    return {
        f"grafana/{name}.json": as_json(workflow_board(workflow)),
        f"rules/{name}.yml": as_yaml(rule_file(f"tracedflow-{name}", [alert.rule() for alert in found])),
        f"rules/{name}_tests.yml": as_yaml(promtool_tests(found, [f"{name}.yml"])),
    }


def write(texts: Mapping[str, str], folder: Path) -> list[Path]:
    """Write every file that differs, and return which."""
    written: list[Path] = []
    for name, text in texts.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            written.append(path)
    return written


def as_json(board: dashboard.Dashboard) -> str:
    """Return a dashboard as Grafana imports it: without an id, with its uid."""
    data = json.loads(json.dumps(board.build(), cls=JSONEncoder), object_pairs_hook=_given)
    for number, panel in enumerate(data["panels"], 1):
        panel["id"] = number  # the SDK gives all of them 0; links to one panel need numbers that stay
    return json.dumps({"id": None, **data}, indent=2, sort_keys=True) + "\n"


def as_yaml(data: Mapping[str, Any]) -> str:
    """Return a rule file."""
    yaml: Any = import_module("yaml")  # has no types
    return _NOTE + str(yaml.safe_dump(dict(data), sort_keys=False, width=150, allow_unicode=True))


def _given(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object without what the SDK leaves open: Grafana takes a missing key for its default, and null not always."""
    return {key: value for key, value in pairs if value is not None}
