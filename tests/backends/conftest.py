"""Starts the real backends once for all tests here. What is not installed is skipped, with its reason; nothing is passed unseen."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import hypothesis  # noqa: F401 - else its plugin imports it when all is over, which CPython 3.11.7 failed at in every other session
import pytest

from tests.backends.application import LABEL_SETS, Application, Orders, Sluggish
from tests.backends.services import Collector, Jaeger, Missing, Mlflow, Prometheus, Service, eventually
from tracedflow.dashboards import Objective, Thresholds, alerts, as_yaml, recordings, rule_file, slo_alerts
from tracedflow.telemetry import names

ServiceT = TypeVar("ServiceT", bound=Service)


@contextmanager
def running(start: Callable[[], ServiceT]) -> Iterator[ServiceT]:
    """Start a service for a while; skip the test, with the reason, if it is not installed."""
    try:
        service = start()
    except Missing as reason:
        pytest.skip(f"not installed: {reason}")
    try:
        yield service
    finally:
        service.stop()


@pytest.fixture(scope="session")
def jaeger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jaeger]:
    with running(lambda: Jaeger(tmp_path_factory.mktemp("jaeger"))) as service:
        yield service


@pytest.fixture(scope="session")
def collector(tmp_path_factory: pytest.TempPathFactory, jaeger: Jaeger) -> Iterator[Collector]:
    """The collector in front of Jaeger: everything remarkable is kept, nothing of the rest."""
    with running(lambda: Collector(tmp_path_factory.mktemp("collector"), jaeger.otlp_grpc, keep_percent=0)) as service:
        yield service


@pytest.fixture(scope="session")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mlflow]:
    with running(lambda: Mlflow(tmp_path_factory.mktemp("mlflow"))) as service:
        yield service


# The windows of expressions in seconds: what takes a month to burn is to burn in a test.
PACE = {"5m": "10s", "10m": "12s", "15m": "12s", "30m": "15s", "1h": "20s", "6h": "25s"}
IN_HEALTH = 8.0  # seconds; longer than an alert takes to speak
LOW = Thresholds(stuck_after=5, step_p95=0.5, queue_p95=0.6, loop_blocked=0.2, limit_wait_p95=0.6)

SLO_ALERTS = [*slo_alerts(Orders, Objective(success=0.99)), *slo_alerts(Sluggish, Objective(latency=0.5))]


def quickened(rule: dict[str, Any]) -> dict[str, Any]:
    """Return a rule with the windows of its expression, and its patience, shortened; nothing else of it changes."""
    expr = re.sub(r"(?<=\[)\d+[mh](?=\])|(?<=offset )\d+[mh]", lambda found: PACE[found[0]], rule["expr"])
    return {**rule, "expr": expr, **({"for": "1s"} if rule.get("for", "0m") != "0m" else {})}


@dataclass(frozen=True)
class Stage:
    """An application with all its faults, the Prometheus that scrapes it with our rules, and what that said before the faults."""

    application: Application
    prometheus: Prometheus
    fired_in_health: list[Any]


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The application, first well and then broken."""
    folder = tmp_path_factory.mktemp("stage")
    rules = folder / "rules.yml"
    quick = [quickened(rule) for rule in (*recordings(), *(alert.rule() for alert in (*alerts(LOW), *SLO_ALERTS)))]
    rules.write_text(as_yaml(rule_file("quickened", quick, interval="1s")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(names, "MAX_LABEL_SETS", LABEL_SETS)
        application = Application()
        try:
            with running(lambda: Prometheus(folder, application.targets, [rules])) as prometheus:
                eventually(lambda: prometheus.query(recordings()[0]["record"]), what="the rules record")
                time.sleep(IN_HEALTH)
                fired = prometheus.query('max_over_time(ALERTS{alertstate="firing"}[1m])')
                application.break_all()
                yield Stage(application, prometheus, fired)
        finally:
            application.close()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Iterator[Any]:
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, Service):
                report.sections.append((f"end of the log of {value.name}", value.tail()))
