from __future__ import annotations

import base64
from collections import Counter
from typing import Any

from tests.backends.services import Mlflow, eventually, get
from tests.backends.workload import Quick, run, traced


async def test_mlflow_shows_the_tree_the_links_and_the_attributes(mlflow: Mlflow) -> None:
    with traced(mlflow.url, headers={"x-mlflow-experiment-id": "0"}) as (layer, exporter):
        trace_id, _ = await run(Quick(middleware=[layer], telemetry=False))
    assert exporter.refused == 0

    def whole() -> list[dict[str, Any]] | None:
        found: list[dict[str, Any]] = get(f"{mlflow.url}/ajax-api/3.0/mlflow/get-trace-artifact", request_id=f"tr-{trace_id}")["spans"]
        return found if len(found) == len(exporter.given) else None

    spans = eventually(whole)
    names = {_hex(span["span_id"]): span["name"] for span in spans}
    tree = Counter((names.get(_hex(span["parent_span_id"])), span["name"]) for span in spans)
    root = "invoke_workflow Quick"
    assert tree == {(None, root): 1, (root, "run_step split"): 1, (root, "run_step work"): 3, (root, "run_step join"): 1}
    links = Counter(
        (span["name"], names[link["span_id"]], link["attributes"]["tracedflow.link.type"]) for span in spans for link in span["links"]
    )
    assert links == {("run_step work", "run_step split", "triggered_by"): 3, ("run_step join", "run_step work", "collected"): 3}


def _hex(span_id: str | None) -> str | None:
    """MLflow gives span ids in base64, and in links as hexadecimal."""
    return None if span_id is None else base64.b64decode(span_id).hex()
