"""Every query of every dashboard, asked of a real Prometheus that scraped a real application; and of Jaeger, what is Jaeger's."""

from __future__ import annotations

import json
import math
import re
import subprocess
from typing import Any

import pytest

from tests.backends.application import Faulty
from tests.backends.conftest import Stage
from tests.backends.services import ROOT, Jaeger, Missing, eventually, get, program
from tests.backends.workload import Quick, run, traced
from tracedflow.dashboards import files_of, recordings

NOT_ASKED = {
    "tempo": "test_tempo.py asks them, where Tempo can be installed",
    "loki": "Loki is not installed; what reaches it is tested at the collector",
}
BOARDS = {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "dashboards/grafana").glob("*.json"))}
AS_CHOSEN = {"$__rate_interval": "10s", "$__range": "60s", "$job": ".*", "$workflow": ".*", "$step": ".*"}  # All, of each variable


def asked(text: str) -> str:
    """Put in what Grafana would."""
    for name, value in AS_CHOSEN.items():
        text = text.replace(name, value)
    assert "$" not in text
    return text


def panels(kind: str) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Return (board and title, panel, target) of every query of a kind of datasource."""
    return [
        (f"{name}: {panel['title']} {target['refId']}", panel, target)
        for name, board in BOARDS.items()
        for panel in board["panels"]
        for target in panel.get("targets", ())
        if target["datasource"]["type"] == kind
    ]


def has_data(stage: Stage, expression: str) -> bool:
    return any(not math.isnan(float(series["value"][1])) for series in stage.prometheus.query(expression))


@pytest.mark.parametrize("target", [pytest.param(target, id=where) for where, _, target in panels("prometheus")])
def test_a_panel_shows_data(stage: Stage, target: dict[str, Any]) -> None:
    expression = asked(target["expr"])
    eventually(lambda: has_data(stage, expression), what=expression)


def test_every_other_panel_is_of_jaeger_or_has_a_reason_not_to_be_asked() -> None:
    kinds = {target["datasource"]["type"] for board in BOARDS.values() for panel in board["panels"] for target in panel.get("targets", ())}
    assert kinds == {"prometheus", "jaeger", *NOT_ASKED}


@pytest.mark.parametrize("board", BOARDS)
def test_a_variable_has_values(stage: Stage, board: str) -> None:
    queries = [each["query"] for each in BOARDS[board]["templating"]["list"] if each["type"] == "query"]
    for query in queries:
        found = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
        assert found
        values = get(f"{stage.prometheus.url}/api/v1/label/{found[2]}/values", **{"match[]": asked(found[1])})["data"]
        expected = {"job": {"app", "many"}, "workflow": {"Orders", "Till"}, "step": {"charge", "serve"}}[found[2]]
        assert set(values) >= expected


@pytest.mark.parametrize("name", [rule["record"] for rule in recordings()])
def test_a_recording_rule_records(stage: Stage, name: str) -> None:
    eventually(lambda: has_data(stage, name))


def test_the_dashboard_of_one_workflow_shows_data(stage: Stage) -> None:
    from tests.backends.application import Till

    board = json.loads(files_of(Till)["grafana/till.json"])
    expressions = [asked(target["expr"]) for panel in board["panels"] for target in panel.get("targets", ())]
    assert len(expressions) == 4 + 3 * 6
    for expression in expressions:
        if "tracedflow_queue_depth" in expression and 'step="serve"' not in expression:
            continue  # nothing queues before the other steps
        eventually(lambda: has_data(stage, expression), what=expression)  # noqa: B023


def test_the_saturation_of_the_one_cashier_is_full_and_that_of_the_steps_beside_it_is_not(stage: Stage) -> None:
    assert Faulty.broken
    expression = 'workflow_step:tracedflow_step_saturation:ratio{job="app", workflow="Till", step="%s"}'

    def value(step: str) -> float:
        return float(stage.prometheus.query(expression % step)[0]["value"][1])

    eventually(lambda: value("serve") == 1.0)
    assert value("open") < 1.0


def test_promtool_finds_no_fault_with_the_names_of_the_metrics(stage: Stage) -> None:
    try:
        promtool = program("promtool")
    except Missing as reason:
        pytest.skip(f"not installed: {reason}")
    shown = get(f"http://{stage.application.targets['app']}/metrics")
    done = subprocess.run([promtool, "check", "metrics"], input=shown, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


async def test_the_search_of_the_run_dashboard_finds_the_run_in_jaeger(jaeger: Jaeger) -> None:
    with traced(jaeger.otlp_http) as (layer, _):
        await run(Quick(middleware=[layer], telemetry=False))
        trace_id, handler = await run(Quick(middleware=[layer], telemetry=False))
    ((_, _, target),) = panels("jaeger")
    words = dict(re.findall(r'([\w.]+)="([^"]*)"', target["tags"]))  # logfmt, which Grafana sends on as JSON
    tags = json.dumps({name: value.replace("${run:raw}", handler.run_id) for name, value in words.items()})
    query = {"service": target["service"].replace("$service", "backend-tests"), "tags": tags}
    found = eventually(lambda: get(f"{jaeger.url}/api/traces", **query)["data"])
    assert [each["traceID"] for each in found] == [trace_id]
