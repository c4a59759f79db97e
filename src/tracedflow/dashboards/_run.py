"""One run: its trace in Tempo and in Jaeger, its logs, and the runs that are worth opening."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard, logs, loki, table, tempo
from grafana_foundation_sdk.cog import variants
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import tempo as tempo_model

from ..outcomes import FAILURES
from ..telemetry import names as n
from ._style import HALF, JAEGER, LOGS, RUN_UID, TRACES, WIDE, board, source

_RUN = "${run:raw}"


class _JaegerSearch(Builder[variants.Dataquery], variants.Dataquery):
    """A search of Jaeger, which the SDK has no builder for. Grafana takes the tags in logfmt."""

    def __init__(self, service: str, tags: str) -> None:
        self._stored: dict[str, object] = {"refId": "A", "datasource": JAEGER, "queryType": "search", "service": service, "tags": tags}

    def build(self) -> variants.Dataquery:
        """Return the query: itself."""
        return self

    def to_json(self) -> dict[str, object]:
        """Return it as Grafana stores it."""
        return self._stored


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
    made.with_panel(
        table.Panel()
        .title("Trace in Jaeger")
        .description("The same from Jaeger, for those who have it in place of Tempo. Jaeger searches within one service.")
        .datasource(JAEGER)
        .with_target(_JaegerSearch("$service", f'{n.RUN_ID}="{_RUN}"'))
        .height(8)
        .span(HALF)
    )
    made.with_panel(
        logs.Panel()
        .title("Logs")
        .description("Log records made inside the steps of the run; `LogCorrelation` puts the run id on them.")
        .datasource(LOGS)
        .with_target(loki.Dataquery().ref_id("A").datasource(LOGS).expr(f'{{service_name=~".+"}} | run_id = "{_RUN}"'))
        .height(10)
        .span(WIDE)
    )
    made.with_row(dashboard.Row("Runs and steps worth opening"))
    run, step, bad = _any(n.RUN_SPAN), _any(n.STEP_SPAN), "|".join(sorted(FAILURES))
    live = f'{{ span.{n.RUN_STATE} =~ "running|suspended" }}'
    slow = f'{{ name =~ "{step}" && duration > 1s }}'
    waits = f'{{ name =~ "{_any(n.WAIT_SPAN)}" }}'
    for panel in (
        _tempo("Failed", "Runs that failed, timed out or stalled.", f'{{ span.{n.OUTCOME} =~ "{bad}" && name =~ "{run}" }}'),
        _tempo("Live or paused", "Runs that live longer than ten seconds, or wait in storage.", live),
        _tempo("Retried", "Step executions that took more than one attempt.", f"{{ span.{n.STEP_ATTEMPTS} > 1 }}", spans=True),
        _tempo("Slow steps", "Step executions of more than a second.", slow, spans=True),
        _tempo("Queued", "Step executions that waited more than a second for a slot.", f"{{ span.{n.STEP_QUEUE_WAIT} > 1 }}", spans=True),
        _tempo("Blocking", "Step executions that kept the event loop from turning.", f"{{ span.{n.STEP_LOOP_BLOCKED} > 0 }}", spans=True),
        _tempo("Waits", "What runs waited for, from the question to the answer.", waits, spans=True),
    ):
        made.with_panel(panel)
    return made


def _any(span_name: str) -> str:
    """Return the pattern of the names that a span of this kind has."""
    return f"{span_name.partition(' ')[0]} .*"


def _tempo(title: str, description: str, search: str, *, spans: bool = False) -> table.Panel:
    """Return a list of traces, or of spans, each a link to its trace."""
    shown = tempo_model.SearchTableType.SPANS if spans else tempo_model.SearchTableType.TRACES
    target = tempo.TempoQuery().ref_id("A").datasource(TRACES).query_type("traceql").query(search).limit(20).table_type(shown)
    return table.Panel().title(title).description(description).datasource(TRACES).with_target(target).height(8).span(HALF)
