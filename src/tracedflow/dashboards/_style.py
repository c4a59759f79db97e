"""What all dashboards look like: datasources and variables by name, units, sizes, links, legends."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_uppercase

from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common as common_model
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import prometheus as prometheus_model

from ..telemetry import names as n
from ._expressions import quantile

METRICS = model.DataSourceRef(type_val="prometheus", uid="${metrics}")
TRACES = model.DataSourceRef(type_val="tempo", uid="${traces}")
JAEGER = model.DataSourceRef(type_val="jaeger", uid="${jaeger}")
LOGS = model.DataSourceRef(type_val="loki", uid="${logs}")

OVERVIEW_UID = "tracedflow-overview"
STEPS_UID = "tracedflow-workflow"
RUN_UID = "tracedflow-run"

SELECT = 'job=~"$job", workflow=~"$workflow"'
SELECT_STEP = f'{SELECT}, step=~"$step"'
RATE = "$__rate_interval"
WIDE, HALF, QUARTER = 24, 12, 6  # of Grafana's 24 columns


def board(uid: str, title: str, description: str, variables: Sequence[Builder[model.VariableModel]]) -> dashboard.Dashboard:
    """Return an empty dashboard with the settings and links that all of ours have."""
    made = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags(["tracedflow"])
        .readonly()
        .timezone("browser")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .refresh("30s")
        .time("now-1h", "now")
        .link(dashboard.DashboardLink("tracedflow").type(model.DashboardLinkType.DASHBOARDS).tags(["tracedflow"]).keep_time(True))
    )
    for variable in variables:
        made.with_variable(variable)
    return made


def source(name: str, kind: str, label: str) -> dashboard.DatasourceVariable:
    """Return a variable that chooses a datasource of one kind."""
    return dashboard.DatasourceVariable(name).type(kind).label(label)


def choice(name: str, label: str, query: str, *, several: bool = True) -> dashboard.QueryVariable:
    """Return a variable whose values Prometheus knows."""
    made = (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(METRICS)
        .query(query)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
        .multi(several)
    )
    return made.include_all(True).all_value(".*") if several else made


def job_variable() -> dashboard.QueryVariable:
    """Return the variable that chooses applications."""
    return choice("job", "Application", f"label_values({n.BUILD_INFO.name}, job)")


def query(expression: str, legend: str = "__auto", *, exemplars: bool = False, instant: bool = False) -> prometheus.Dataquery:
    """Return a query of Prometheus."""
    made = prometheus.Dataquery().ref_id("A").datasource(METRICS).expr(expression).legend_format(legend).exemplar(exemplars)
    return made.instant().format(prometheus_model.PromQueryFormat.TABLE) if instant else made.range()


def number(title: str, description: str, unit: str, expression: str, *, steps: Sequence[tuple[float | None, str]] = ()) -> stat.Panel:
    """Return one big number with its course in the background; `steps` are (from, colour)."""
    marks = [model.Threshold(value=at, color=color) for at, color in steps or [(None, "text")]]
    return (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(METRICS)
        .unit(unit)
        .color_mode(common_model.BigValueColorMode.VALUE)
        .graph_mode(common_model.BigValueGraphMode.AREA)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(marks))
        .with_target(query(expression))
        .no_value("0")
        .height(4)
        .span(QUARTER)
    )


def series(
    title: str, description: str, unit: str, *queries: prometheus.Dataquery, stacked: bool = False, span: int = HALF
) -> timeseries.Panel:
    """Return a graph over time; nothing below zero happens here."""
    made = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(METRICS)
        .unit(unit)
        .min(0)
        .legend(
            common.VizLegendOptions()
            .display_mode(common_model.LegendDisplayMode.TABLE)
            .placement(common_model.LegendPlacement.BOTTOM)
            .calcs(["mean", "max", "lastNotNull"])
            .show_legend(True)
        )
        .tooltip(common.VizTooltipOptions().mode(common_model.TooltipDisplayMode.MULTI).sort(common_model.SortOrder.DESCENDING))
        .fill_opacity(25 if stacked else 8)
        .height(8)
        .span(span)
    )
    if stacked:
        made.stacking(common.StackingConfig().mode(common_model.StackingMode.NORMAL))
    for letter, each in zip(ascii_uppercase, queries, strict=False):
        made.with_target(each.ref_id(letter))
    return made


def quantiles(metric: str, by: str, where: str, *, exemplars: bool = True) -> list[prometheus.Dataquery]:
    """Return p50, p95 and p99 of a histogram; exemplars ride on the p99."""
    label = " ".join(f"{{{{{name}}}}}" for name in by.split(", "))
    return [
        query(
            quantile(at, metric, by, RATE, f"{{{where}}}"),
            f"p{round(at * 100)} {label}",
            exemplars=exemplars and at == 0.99,
        )
        for at in (0.5, 0.95, 0.99)
    ]


def heat(title: str, description: str, metric: str, where: str) -> heatmap.Panel:
    """Return a heat map of a histogram's buckets."""
    target = query(f"sum by (le) (increase({metric}_bucket{{{where}}}[{RATE}]))", "{{le}}").format(prometheus_model.PromQueryFormat.HEATMAP)
    return (
        heatmap.Panel()
        .title(title)
        .description(description)
        .datasource(METRICS)
        .calculate(False)
        .with_target(target)
        .unit("s")
        .height(8)
        .span(HALF)
    )


def rows(title: str, description: str, unit: str, expression: str) -> table.Panel:
    """Return a table of instant values."""
    target = query(expression, instant=True)
    return table.Panel().title(title).description(description).datasource(METRICS).unit(unit).with_target(target).height(8).span(HALF)
