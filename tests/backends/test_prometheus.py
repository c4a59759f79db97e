from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, start_http_server

from tests.backends.services import Jaeger, Missing, Prometheus, eventually, free_port
from tests.backends.workload import Fails, Quick, run, traced
from tracedflow.telemetry.metrics import Metrics


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def prometheus(tmp_path: Path, registry: CollectorRegistry) -> Iterator[Prometheus]:
    """Scrapes this process."""
    port = free_port()
    server, thread = start_http_server(port, addr="127.0.0.1", registry=registry)
    try:
        service = Prometheus(tmp_path, {"app": f"127.0.0.1:{port}"})
    except Missing as reason:
        pytest.skip(f"not installed: {reason}")
    else:
        yield service
        service.stop()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


async def test_the_trace_id_of_an_exemplar_opens_the_trace(jaeger: Jaeger, prometheus: Prometheus, registry: CollectorRegistry) -> None:
    with traced(jaeger.otlp_http) as (layer, _):
        layers = [layer, Metrics(registry=registry)]
        good, _ = await run(Quick(middleware=layers, telemetry=False))
        bad, _ = await run(Fails(middleware=layers, telemetry=False))
    by_trace: dict[str, Any] = {}

    def both() -> bool:  # a scrape between the two runs brings one of them
        for exemplar in prometheus.exemplars("tracedflow_run_duration_seconds_bucket"):
            by_trace[exemplar["labels"]["trace_id"]] = exemplar
        return len(by_trace) > 1

    eventually(both)
    assert set(by_trace) == {good, bad}
    for exemplar in by_trace.values():
        spans = eventually(lambda: jaeger.trace(exemplar["labels"]["trace_id"]))  # noqa: B023
        assert exemplar["labels"]["span_id"] in {span["spanID"] for span in spans}


async def test_what_prometheus_counts_is_what_ran(prometheus: Prometheus, registry: CollectorRegistry) -> None:
    layers = [Metrics(registry=registry)]
    for _ in range(5):
        await run(Quick(middleware=layers, telemetry=False))
    await run(Fails(middleware=layers, telemetry=False))

    def value(expression: str) -> float | None:
        found = prometheus.query(expression)
        return float(found[0]["value"][1]) if found else None

    eventually(lambda: value('tracedflow_runs_total{workflow="Quick",outcome="success"}') == 5)
    assert value('tracedflow_runs_total{workflow="Fails",outcome="error"}') == 1
    assert value('tracedflow_step_attempts_total{workflow="Quick",step="work",outcome="success"}') == 15
    assert value('tracedflow_step_attempts_total{workflow="Fails",step="work",outcome="error",error_type="ConnectionError"}') == 1
    assert value("sum(tracedflow_runs_active)") == 0
