"""The searches of the Run dashboard, asked of Tempo with our configuration; skipped, with the reason, where Tempo cannot be installed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.backends.conftest import running
from tests.backends.services import ROOT, Tempo, eventually, get
from tests.backends.workload import Fails, Quick, run, traced

SEARCHES = {
    panel["title"]: target["query"]
    for panel in json.loads((ROOT / "dashboards/grafana/run.json").read_text())["panels"]
    for target in panel.get("targets", ())
    if target["datasource"]["type"] == "tempo"
}


@pytest.fixture
def tempo(tmp_path: Path) -> Iterator[Tempo]:
    with running(lambda: Tempo(tmp_path, yaml.safe_load((ROOT / "dashboards/tempo.yml").read_text()))) as service:
        yield service


async def test_a_run_is_found_by_its_id_and_a_failed_one_by_its_outcome(tempo: Tempo) -> None:
    with traced(f"http://{tempo.otlp_grpc}", grpc=True) as (layer, _):
        good, ran = await run(Quick(middleware=[layer], telemetry=False))
        bad, _ = await run(Fails(middleware=[layer], telemetry=False))

    def found(title: str) -> set[str]:
        query = SEARCHES[title].replace("${run:raw}", ran.run_id)
        return {each["traceID"].rjust(32, "0") for each in get(f"{tempo.url}/api/search", q=query)["traces"]}

    eventually(lambda: found("Trace") == {good})
    eventually(lambda: found("Failed") == {bad})


def test_tempo_takes_every_search(tempo: Tempo) -> None:
    for query in SEARCHES.values():
        assert "traces" in get(f"{tempo.url}/api/search", q=query.replace("${run:raw}", "x"))
