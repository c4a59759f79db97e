"""Several processes counted together, as under Gunicorn: what live ones do, what killed ones leave, and what a scrape makes of it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from tests.telemetry.test_sinks import scrape
from tracedflow.telemetry import metrics_app
from tracedflow.telemetry.metrics import _processes

WORKER = """
import asyncio, sys
from tracedflow import Context, Event, HumanResponseEvent, StartEvent, StopEvent, Workflow, step
from tracedflow.telemetry.metrics import _families

_families.REFRESH = 0.005
class Item(Event):
    pass
class Asks(Workflow):
    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        await ctx.wait_for_event(HumanResponseEvent)
        return StopEvent()
class Works(Workflow):
    @step
    async def plan(self, ctx: Context, ev: StartEvent) -> Item | None:
        for _ in range(3):
            ctx.send_event(Item())
        return None
    @step(num_workers=1)
    async def work(self, ev: Item) -> StopEvent:
        await go_on.wait()
        return StopEvent()
async def main():
    global go_on
    go_on = asyncio.Event()
    asks, works = Asks(timeout=None).run(), Works(timeout=60).run()
    await asyncio.sleep(0.2)  # the age must be more than nothing
    print("live", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    go_on.set()
    await works
    await asks.send_event(HumanResponseEvent(response="yes"))
    await asks
    print("over", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
asyncio.run(main())
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def workers(folder: Path) -> Iterator[list[subprocess.Popen[str]]]:
    made = [subprocess.Popen([sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    yield made
    for worker in made:
        worker.kill()
        worker.communicate()


def told(worker: subprocess.Popen[str], word: str) -> None:
    assert worker.stdout is not None
    assert worker.stdout.readline().strip() == word


def go_on(worker: subprocess.Popen[str]) -> None:
    assert worker.stdin is not None
    worker.stdin.write("\n")
    worker.stdin.flush()


def samples() -> dict[str, float]:
    text = asyncio.run(scrape(metrics_app(), "text/plain"))[1]
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(sorted(sample.labels.values()))
            found[f"{sample.name.removeprefix('tracedflow_')} {labels}"] = sample.value
    return found


def test_gauges_of_live_processes_are_summed_and_go_with_them(workers: list[subprocess.Popen[str]]) -> None:
    for worker in workers:
        told(worker, "live")
    found = samples()
    assert found["runs_active Asks,suspended"] == 2
    assert found["runs_active Asks,running"] == 0
    assert found["runs_active Works,running"] == 2
    assert found["queue_depth Works,work"] == 4
    assert found["steps_active Works,work"] == 2
    assert found["step_concurrency_limit Works,work"] == 1  # of a run, whatever the number of processes
    assert 0.1 < found["run_oldest_age_seconds Works"] < 60
    assert found["events_total Item,Works,emitted"] == 6  # before the run has ended
    workers[0].kill()  # its child_exit hook, if it has one, is not called
    workers[0].wait()
    found = samples()
    assert found["runs_active Asks,suspended"] == 1
    assert found["steps_active Works,work"] == 1
    assert found["events_total Item,Works,emitted"] == 6
    go_on(workers[1])
    told(workers[1], "over")
    found = samples()
    assert found["runs_active Asks,suspended"] == found["runs_active Works,running"] == 0
    assert found["run_oldest_age_seconds Works"] == 0
    assert found["queue_depth Works,work"] == 0
    assert found["runs_total Works,success"] == 1


def test_a_file_of_nobodys_and_one_that_another_scrape_removed_are_left_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "gauge_livesum_worker.db").write_bytes(b"")
    mine = folder / f"gauge_livesum_{os.getpid()}.db"
    mine.write_bytes(b"")
    gone = folder / "gauge_livesum_99999999.db"
    gone.write_bytes(b"")
    remove = os.remove

    def twice(path: str) -> None:
        remove(path)
        remove(path)

    monkeypatch.setattr(os, "remove", twice)
    _processes.forget_dead()
    assert sorted(file.name for file in folder.iterdir()) == sorted([mine.name, "gauge_livesum_worker.db"])


def test_a_process_of_another_user_counts_as_live(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = folder / "gauge_livesum_1.db"
    file.write_bytes(b"")

    def refuse(pid: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    _processes.forget_dead()
    assert file.exists()


def test_without_the_folder_the_processes_own_metrics_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    assert asyncio.run(scrape(metrics_app(CollectorRegistry()), "text/plain"))[1] == ""
