"""Each alert, in a real Prometheus: silent while a real application does well, and firing once its cause is there."""

from __future__ import annotations

import pytest

from tests.backends.conftest import SLO_ALERTS, Stage
from tests.backends.services import eventually
from tracedflow.dashboards import alerts

# The labels by which each alert shows that it fires for its cause, and for no other.
CAUSES: dict[str, dict[str, str]] = {
    "TracedflowRunErrorRatioHigh": {"workflow": "Orders"},
    "TracedflowRunErrorBudgetBurnsFast": {"workflow": "Orders"},
    "TracedflowRunErrorBudgetBurnsSlowly": {"workflow": "Orders"},
    "TracedflowRunsStall": {"workflow": "Puzzle", "step": "put", "missing_event": "Piece"},
    "TracedflowRunStuck": {"workflow": "Endless"},
    "TracedflowNoRunEnds": {"workflow": "Endless"},
    "TracedflowStepErrorRatioHigh": {"workflow": "Orders", "step": "charge"},
    "TracedflowStepSlow": {"workflow": "Sluggish", "step": "think"},
    "TracedflowStepTimeouts": {"workflow": "Timely", "step": "answer"},
    "TracedflowRetryStorm": {"workflow": "Retrying", "step": "fetch"},
    "TracedflowQueueWaitHigh": {"workflow": "Till", "step": "serve"},
    "TracedflowStepSaturated": {"workflow": "Till", "step": "serve"},
    "TracedflowEventsDropped": {"workflow": "Leaflets", "event_type": "Leaflet"},
    "TracedflowWaitsExpire": {"workflow": "Desk", "event_type": "Answer"},
    "TracedflowEventLoopBlocked": {"workflow": "Blocking", "step": "compute"},
    "TracedflowLimitWaitHigh": {"limit": "door"},
    "TracedflowMiddlewareErrors": {"error_type": "KeyError"},
    "TracedflowLabelsCapped": {"job": "many"},
    "TracedflowProcessGone": {"job": "gone"},
    # Those that are made for one workflow.
    "OrdersErrorsBurnFast": {"job": "app"},
    "OrdersErrorsBurnSlow": {"job": "app"},
    "SluggishLatencyBurnFast": {"job": "app"},
    "SluggishLatencyBurnSlow": {"job": "app"},
}
DO_NOT_FIRE = {"SluggishErrorsBurnFast", "SluggishErrorsBurnSlow"}  # it is slow, and does not fail


def test_every_alert_has_a_cause_here() -> None:
    assert set(CAUSES) | DO_NOT_FIRE == {alert.name for alert in (*alerts(), *SLO_ALERTS)}


def test_no_alert_fires_while_the_application_does_well(stage: Stage) -> None:
    assert stage.fired_in_health == []


@pytest.mark.parametrize("name", CAUSES)
def test_an_alert_fires_once_its_cause_is_there(stage: Stage, name: str) -> None:
    labels = ", ".join(f'{label}="{value}"' for label, value in CAUSES[name].items())
    expression = f'ALERTS{{alertname="{name}", alertstate="firing", {labels}}}'
    eventually(lambda: stage.prometheus.query(expression), within=60, what=expression)


def test_nothing_is_said_of_the_workflow_that_goes_on_doing_well(stage: Stage) -> None:
    assert stage.prometheus.query('tracedflow_runs_total{job="app", workflow="Quick", outcome="success"}')
    assert stage.prometheus.query('last_over_time(ALERTS{alertstate="firing", job="app", workflow="Quick"}[5m])') == []
    assert stage.prometheus.query(f'last_over_time(ALERTS{{alertname=~"{"|".join(DO_NOT_FIRE)}", alertstate="firing"}}[5m])') == []
