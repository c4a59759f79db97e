from __future__ import annotations

import asyncio
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from examples._kit.cli import CORPUS
from examples.parallel_execution import Combined, ParallelFlow, ProcessEvent, ResultEvent, at_once, main, sliced, with_workers
from tracedflow import WorkflowCheckpointer, step
from tracedflow.telemetry import Metrics

TEXT = (CORPUS / "register.txt").read_text(encoding="utf-8")


class Watched(ParallelFlow):
    """Counts who is at work. The first ones wait until as many are there as are awaited; the rest pauses for no time."""

    awaited = 1

    def __init__(self, **options: Any) -> None:
        self.registry = CollectorRegistry()
        super().__init__(timeout=60, workflow_name="Watched", middleware=[Metrics(self.registry)], **options)
        self.full = asyncio.Event()
        self.running = self.peak = 0
        self.gauge = 0.0
        self.done: list[int] = []

    @step
    async def process_data(self, ev: ProcessEvent) -> ResultEvent:
        self.running += 1
        self.peak = max(self.peak, self.running)
        self.gauge = max(self.gauge, self.sample("tracedflow_steps_active"))
        if self.running == self.awaited:
            self.full.set()
        await self.full.wait()
        result = await super().process_data(ev)
        self.running -= 1
        self.done.append(ev.index)
        return result

    async def pause(self, ev: ProcessEvent) -> None:
        for _ in range(3 * (10 - ev.index)):  # the last slice is ready first
            await asyncio.sleep(0)

    def sample(self, name: str, **labels: str) -> float:
        labels = {"workflow": "Watched", "step": "process_data", **labels}
        return self.registry.get_sample_value(name, labels) or 0.0


def watched(workers: int, items: int) -> Watched:
    flow = with_workers(workers, Watched)()
    assert isinstance(flow, Watched)
    flow.awaited = min(workers, items)
    return flow


def expected(items: int) -> Combined:
    """Return what is to come out, computed by hand."""
    cuts = [len(TEXT) * at // items for at in range(items + 1)]
    digests = [sha256(TEXT[cuts[at] : cuts[at + 1]].encode()).hexdigest() for at in range(items)]
    return Combined(slices=digests, sha256=sha256("".join(digests).encode()).hexdigest())


@pytest.mark.parametrize(("workers", "items"), [(1, 3), (2, 5), (3, 3), (3, 7), (4, 2)])
async def test_as_many_work_at_once_as_there_are_workers_and_slices(workers: int, items: int) -> None:
    flow = watched(workers, items)
    handler = flow.run(text=TEXT, slices=items)
    assert await handler == expected(items)
    assert flow.peak == flow.gauge == at_once(handler.record) == min(workers, items)
    assert flow.sample("tracedflow_steps_active") == 0
    assert flow.sample("tracedflow_step_concurrency_limit") == workers
    assert sorted(flow.done) == list(range(items))


async def test_results_are_in_order_though_they_arrive_in_another() -> None:
    flow = watched(5, 5)
    assert await flow.run(text=TEXT, slices=5) == expected(5)
    assert flow.done == [4, 3, 2, 1, 0]


async def test_one_worker_or_three_come_to_the_same() -> None:
    results = [await with_workers(workers)().run(text=TEXT, slices=6) for workers in (1, 3)]
    assert results == [expected(6)] * 2


async def test_every_slice_is_processed_once_and_joined_once() -> None:
    handler = ParallelFlow().run(text=TEXT, slices=8)
    await handler
    assert Counter(record.step for record in handler.record) == {"start": 1, "process_data": 8, "combine_results": 8}
    joined = [record for record in handler.record if record.step == "combine_results" and record.events_out]
    assert len(joined) == 1


@pytest.mark.parametrize("workers", [1, 3])
async def test_a_run_goes_on_from_the_middle_of_the_fan_out(workers: int) -> None:
    keeper = WorkflowCheckpointer(with_workers(workers)(timeout=60))
    handler = keeper.run(text=TEXT, slices=3)
    assert await handler == expected(3)
    assert handler.run_id is not None
    checkpoints = keeper.filter_checkpoints(handler.run_id, last_completed_step="process_data")
    left = []
    for checkpoint in checkpoints:
        again = keeper.run_from(checkpoint)
        assert await again == expected(3)
        assert again.run_id != handler.run_id
        steps = Counter(record.step for record in again.record)
        assert steps["start"] == 0
        left.append(steps["process_data"])
    assert left == [2, 1, 0]


def test_slices_make_up_the_text() -> None:
    for count in (1, 2, 3, 7, len(TEXT) + 5):
        parts = sliced(TEXT, count)
        assert ("".join(parts), len(parts)) == (TEXT, count)


def test_the_program_tells_how_many_were_at_work_and_what_was_left(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--items", "4", "--workers", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("2 at once")
    assert lines[6:] == [f"again from after {done}: {4 - done} left to do, the result is the same" for done in range(1, 5)]


def test_what_cannot_be_cut_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "noise").write_bytes(bytes(range(128, 256)))
    assert main(["--file", str(tmp_path / "noise")]) == 2
    assert main(["--file", str(tmp_path)]) == 2
    assert main(["--file", str(tmp_path / "nothing")]) == 3
    assert "there is no such file" in capsys.readouterr().err
    for wrong in (["--items", "0"], ["--workers", "-1"], ["--items", "many"]):
        with pytest.raises(SystemExit):
            main(wrong)
