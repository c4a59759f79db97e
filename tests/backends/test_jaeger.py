from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest

from tests.backends.services import Collector, Jaeger, eventually
from tests.backends.workload import Fails, Parent, Quick, Retries, run, traced


def attributes(span: dict[str, Any]) -> dict[str, Any]:
    return {tag["key"]: tag["value"] for tag in span["tags"]}


def parents(spans: list[dict[str, Any]]) -> dict[str, str | None]:
    """Return the name of the parent of each span, by span id."""
    names = {span["spanID"]: span["operationName"] for span in spans}
    up = {
        span["spanID"]: next((r["spanID"] for r in span["references"] if r["refType"] == "CHILD_OF" and r["spanID"] in names), None)
        for span in spans
    }
    return {own: None if parent is None else names[parent] for own, parent in up.items()}


def tree(spans: list[dict[str, Any]]) -> Counter[tuple[str | None, str]]:
    above = parents(spans)
    return Counter((above[span["spanID"]], span["operationName"]) for span in spans)


def links(spans: list[dict[str, Any]]) -> Counter[tuple[str, str]]:
    """Count (from, to) over all links; Jaeger shows them as references that do not follow the tree."""
    names = {span["spanID"]: span["operationName"] for span in spans}
    up = {span["spanID"]: span["references"][0]["spanID"] for span in spans if span["references"]}
    return Counter(
        (span["operationName"], names[ref["spanID"]])
        for span in spans
        for ref in span["references"]
        if ref["spanID"] != up.get(span["spanID"]) or ref["refType"] != "CHILD_OF"
    )


@pytest.mark.parametrize("grpc", [False, True], ids=["http", "grpc"])
async def test_a_run_comes_back_as_one_tree_with_its_links(jaeger: Jaeger, grpc: bool) -> None:
    with traced(f"http://{jaeger.otlp_grpc}" if grpc else jaeger.otlp_http, grpc=grpc) as (layer, exporter):
        trace_id, handler = await run(Quick(middleware=[layer], telemetry=False))
        assert handler.result() == [0, 1, 2]
    assert exporter.refused == 0
    spans = eventually(lambda: (found := jaeger.trace(trace_id)) and len(found) == len(exporter.given) and found)
    root = "invoke_workflow Quick"
    assert tree(spans) - Counter({(None, "start_workflow Quick"): 1}) == Counter(
        {(None, root): 1, (root, "run_step split"): 1, (root, "run_step work"): 3, (root, "run_step join"): 1}
    )
    assert links(spans) == Counter({("run_step work", "run_step split"): 3, ("run_step join", "run_step work"): 3})
    assert {attributes(span)["tracedflow.run.id"] for span in spans} == {handler.run_id}


async def test_a_nested_run_hangs_under_the_step_that_started_it(jaeger: Jaeger) -> None:
    with traced(jaeger.otlp_http) as (layer, exporter):
        trace_id, _ = await run(Parent(middleware=[layer], telemetry=False), layers=[layer])
    spans = eventually(lambda: (found := jaeger.trace(trace_id)) and len(found) == len(exporter.given) and found)
    assert ("run_step outer", "invoke_workflow Quick") in tree(spans)


async def test_a_failure_is_red_where_it_was_and_a_retried_success_is_not(jaeger: Jaeger) -> None:
    with traced(jaeger.otlp_http) as (layer, exporter):
        failed, _ = await run(Fails(middleware=[layer], telemetry=False))
        retried, handler = await run(Retries(middleware=[layer], telemetry=False))
        assert handler.result() == [0, 1, 2]
    eventually(lambda: len(jaeger.trace(failed)) + len(jaeger.trace(retried)) == len(exporter.given))

    def red(trace_id: str) -> Counter[str]:
        return Counter(span["operationName"] for span in jaeger.trace(trace_id) if attributes(span).get("error"))

    assert red(failed) == Counter({"invoke_workflow Fails": 1, "run_step work": 1})
    assert red(retried) == Counter({"attempt work": 2})


async def test_through_the_collector_the_remarkable_traces_arrive_whole(jaeger: Jaeger, collector: Collector) -> None:
    with traced(collector.otlp_http) as (layer, exporter):
        failed, _ = await run(Fails(middleware=[layer], telemetry=False))
    spans = eventually(lambda: (found := jaeger.trace(failed)) and len(found) == len(exporter.given) and found)
    assert exporter.refused == 0
    assert not re.search(r"\berror\b.*(drop|refus)", collector.tail(1000))
    assert {span["operationName"] for span in spans} >= {"invoke_workflow Fails", "run_step split", "run_step work"}
