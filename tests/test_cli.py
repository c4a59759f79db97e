"""The command line, on trace files that real runs wrote, and on wrong input: one calm line, exit code 2, never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import asyncio
from tracedflow import Context, Event, StartEvent, StopEvent, Workflow, step

class Item(Event):
    n: int

class Flow(Workflow):
    '''Doubles numbers.'''

    @step
    async def spread(self, ev: StartEvent) -> list[Item]:
        return [Item(n=n) for n in range(int(ev.get("count", 3)))]

    @step(num_workers=2)
    async def work(self, ev: Item) -> Item | StopEvent:
        await asyncio.sleep(0.01)
        return StopEvent(result="done") if ev.n >= 0 else ev

class Wrong(Workflow):
    @step
    async def only(self, ev: StartEvent) -> Item | StopEvent: ...
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a program, and with the trace files of two of its runs."""
    made = tmp_path_factory.mktemp("cli")
    (made / "app.py").write_text(PROGRAM)
    for name, count in (("a", 2), ("b", 4)):
        ran = tracedflow(made, "run", "app:Flow", f"count={count}", "--trace", f"{name}.jsonl")
        assert ran.returncode == 0, ran.stderr
        assert "done" in ran.stdout
    return made


def tracedflow(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TRACEDFLOW_", "OTEL_"))}
    command = [sys.executable, "-m", "tracedflow", *arguments]
    return subprocess.run(
        command, cwd=folder, env={**clean, "COLUMNS": "120", "NO_COLOR": "1"}, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (("show", "a.jsonl"), "Flow"),
        (("why", "a.jsonl"), "of Flow completed in"),
        (("path", "a.jsonl"), "work"),
        (("diff", "a.jsonl", "b.jsonl"), "spread"),
        (("check", "app:Flow"), "Flow"),
        (("metrics",), "tracedflow_runs_total"),
    ],
)
def test_a_command_says_what_it_is_for(folder: Path, arguments: tuple[str, ...], shown: str) -> None:
    ran = tracedflow(folder, *arguments)
    assert ran.returncode in (0, 1), ran.stderr
    assert shown in ran.stdout + ran.stderr


@pytest.mark.parametrize(
    ("arguments", "file"),
    [(("report", "a.jsonl", "-o", "run.html"), "run.html"), (("draw", "app:Flow", "-o", "flow.svg"), "flow.svg")],
)
def test_a_command_writes_the_file_it_is_asked_for(folder: Path, arguments: tuple[str, ...], file: str) -> None:
    ran = tracedflow(folder, *arguments)
    assert ran.returncode == 0, ran.stderr
    assert "<svg" in (folder / file).read_text()


def test_check_prints_every_problem_and_fails(folder: Path) -> None:
    ran = tracedflow(folder, "check", "app:Wrong")
    assert ran.returncode == 1
    assert "Item" in ran.stdout + ran.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("show", "nowhere.jsonl"),
        ("why", "app.py"),
        ("check", "app:Flwo"),
        ("check", "nowhere:Flow"),
        ("run", "app"),
        ("diff", "a.jsonl", "nowhere"),
    ],
)
def test_wrong_input_is_told_in_calm_words(folder: Path, arguments: tuple[str, ...]) -> None:
    ran = tracedflow(folder, *arguments)
    assert ran.returncode == 2, ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr
    assert ran.stderr.strip()
