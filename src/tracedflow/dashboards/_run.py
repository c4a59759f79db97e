"""One run: its trace in Tempo and in Jaeger, its logs, and the runs that are worth opening."""

from __future__ import annotations

from typing import Any

from grafana_foundation_sdk.builders import dashboard, logs, loki, table, tempo
from grafana_foundation_sdk.cog import variants

from ..telemetry import names as n
from ._style import HALF, JAEGER, LOGS, RUN_UID, TRACES, WIDE, board, source

_RUN = "${run:raw}"


class _JaegerQuery(variants.Dataquery):
    """A search of Jaeger: the SDK has no builder for it."""

    def __init__(self, **values: str) -> None:
        self._values = values

    def to_json(self) -> dict[str, object]:
        """Return it as Grafana stores it."""
        return {"refId": "A", "datasource": {"type": "jaeger", "uid": "${jaeger}"}, **self._values}


class _Jaeger:
    def __init__(self, **values: str) -> None:
        self._query = _JaegerQuery(**values)

    def build(self) -> Any:
        """Return the query."""
        return self._query


def run_board() -> dashboard.Dashboard:
    """Return the dashboard of one run, by its id."""
    made = board(
        RUN_UID,
        "tracedflow / Run",
        "One run by its id, as the console, the logs and `handler.run_id` give it: trace and logs; and runs that are worth opening.",
        [
            source("traces", "tempo", "Tempo"),
            source("jaeger", "jaeger", "Jaeger"),
            source("logs", "loki", "Loki"),
            dashboard.TextBoxVariable("run").label("Run id").default_value(""),
            dashboard.TextBoxVariable("service").label("Service").default_value("unknown_service"),
        ],
    )
    made.with_row(dashboard.Row("This run"))
    made.with_panel(_tempo("Trace", "The trace of the run (Tempo).", f'{{ span.{n.RUN_ID} = "{_RUN}" }}'))
    tags = '{"' + n.RUN_ID + '": "' + _RUN + '"}'
    made.with_panel(
        table.Panel()
        .title("Trace in Jaeger")
        .description("The same from Jaeger, for those who have it in place of Tempo. Jaeger searches within one service.")
        .datasource(JAEGER)
        .with_target(_Jaeger(queryType="search", service="$service", tags=tags))
        .height(8)
        .span(HALF)
    )
    made.with_panel(
        logs.Panel()
        .title("Logs")
        .description("Log records made inside the steps of the run; `LogCorrelation` puts the run id on them.")
        .datasource(LOGS)
        .with_target(loki.Dataquery().datasource(LOGS).expr(f'{{service_name=~".+"}} | run_id = "{_RUN}"'))
        .height(10)
        .span(WIDE)
    )
    made.with_row(dashboard.Row("Runs worth opening"))
    made.with_panel(
        _tempo(
            "Failed",
            "Runs that failed, timed out or stalled.",
            f'{{ span.{n.OUTCOME} =~ "error|timeout|stalled" && name =~ "invoke_workflow .*" }}',
        )
    )
    made.with_panel(
        _tempo(
            "Live or paused",
            "Runs that live longer than ten seconds, or wait in storage.",
            f'{{ span.{n.RUN_STATE} =~ "running|suspended" }}',
        )
    )
    made.with_panel(_tempo("Retried", "Step executions that took more than one attempt.", f"{{ span.{n.STEP_ATTEMPTS} > 1 }}"))
    made.with_panel(_tempo("Slow steps", "Step executions of more than a second.", '{ name =~ "run_step .*" && duration > 1s }'))
    return made


def _tempo(title: str, description: str, search: str) -> table.Panel:
    return (
        table.Panel()
        .title(title)
        .description(description)
        .datasource(TRACES)
        .with_target(tempo.TempoQuery().datasource(TRACES).query_type("traceql").query(search).limit(20))
        .height(8)
        .span(HALF)
    )
