"""Holds what the package promises to type checkers, and that what they are told of a workflow's result is true."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar

import pytest

from tracedflow import Event, StartEvent, StopEvent, Workflow, WorkflowValidationError, step

ROOT = Path(__file__).parent.parent
FIXTURES = Path(__file__).parent / "typing"
RIGHT = sorted(path.name for path in FIXTURES.glob("right*.py"))
WRONG = sorted(path.name for path in FIXTURES.glob("wrong*.py"))

Errors = dict[str, dict[int, str]]
"""By file and line."""


@cache
def by_mypy() -> Errors:
    """Return the errors that mypy --strict finds."""
    programs = [str(FIXTURES / name) for name in (*RIGHT, *WRONG)]
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", "--output", "json", *programs]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found: Errors = defaultdict(dict)
    for each in (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")):
        if each["severity"] == "error" and Path(each["file"]).parent.name == FIXTURES.name:
            found[Path(each["file"]).name][each["line"]] = each["message"]
    return found


@cache
def by_basedpyright() -> Errors:
    """Return the errors that basedpyright finds as pyright strict."""
    config = FIXTURES / "pyrightconfig.json"
    command = [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable, "--project", str(config)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found: Errors = defaultdict(dict)
    for each in json.loads(done.stdout)["generalDiagnostics"]:
        if each["severity"] == "error":
            found[Path(each["file"]).name][each["range"]["start"]["line"] + 1] = each["message"]
    return found


CHECKERS = [pytest.param(by_mypy, id="mypy"), pytest.param(by_basedpyright, id="basedpyright")]


@pytest.mark.parametrize("check", CHECKERS)
@pytest.mark.parametrize("name", RIGHT)
def test_a_right_program_has_no_errors(check: Callable[[], Errors], name: str) -> None:
    assert check().get(name, {}) == {}


@pytest.mark.parametrize("check", CHECKERS)
@pytest.mark.parametrize("name", WRONG)
def test_each_mistake_is_an_error_on_its_line(check: Callable[[], Errors], name: str) -> None:
    lines = (FIXTURES / name).read_text().splitlines()
    expected = {number for number, line in enumerate(lines, 1) if line.endswith("# error")}
    assert expected
    found = check().get(name, {})
    missed = {number: lines[number - 1].strip() for number in expected - found.keys()}
    surplus = {number: found[number] for number in found.keys() - expected}
    assert (missed, surplus) == ({}, {})


def test_the_public_api_has_no_untyped_corner(tmp_path: Path) -> None:
    """As `pyright --verifytypes` sees it: every public name has a type that no checker must guess."""
    command = [sys.executable, "-m", "basedpyright", "--verifytypes", "tracedflow", "--ignoreexternal", "--outputjson"]
    here = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # it asks the first `python` there
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PATH": here}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = json.loads(done.stdout)["typeCompleteness"]
    guessed = {symbol["name"]: symbol["diagnostics"] for symbol in found["symbols"] if not symbol["isTypeKnown"]}
    assert [name for name in guessed if ".__main__." not in name] == [], guessed
    assert found["exportedSymbolCounts"]["withKnownType"] > 1000


# ------------------------------------------------------------------------------------ the result type and the graph


class Report(StopEvent):
    pages: int = 0


class LongReport(Report):
    pass


class Other(StopEvent):
    pass


T = TypeVar("T")
ReportT = TypeVar("ReportT")


class Generic1(Workflow[ReportT], Generic[ReportT]):
    pass


class Swapped(Generic1[ReportT], Generic[T, ReportT]):
    pass


class Bound(Swapped[int, Report]):
    pass


class Mixin:
    pass


class Mixed(Mixin, Workflow[Report]):
    pass


def ending_with(base: Any, stop: type[StopEvent]) -> Workflow[Any]:
    """Make an instance of a workflow on this base, whose only step returns this class."""

    class Flow(base):  # type: ignore[misc]
        @step
        async def only(self, ev: StartEvent) -> stop:  # type: ignore[valid-type]
            return stop()

    made: Workflow[Any] = Flow()
    return made


@pytest.mark.parametrize(
    ("base", "stop"),
    [
        (Workflow, Report),
        (Workflow, StopEvent),
        (Workflow[Any], Report),
        (Workflow[Any], StopEvent),
        (Workflow[object], Report),
        (Workflow[Report], Report),
        (Workflow[Report], LongReport),
        (Workflow[StopEvent], Report),
        (Workflow[Report | Other], Other),
        (Workflow[str], StopEvent),
        (Workflow[str | None], StopEvent),
        (Workflow[dict[str, int]], StopEvent),
        (Workflow["Anything"], Report),  # type: ignore[name-defined]
        (Generic1, Report),
        (Generic1[Report], Report),
        (Bound, Report),
        (Mixed, Report),
        (Workflow[T], Other),  # type: ignore[valid-type]
    ],
)
def test_a_result_type_that_is_true_is_accepted(base: Any, stop: type[StopEvent]) -> None:
    assert ending_with(base, stop).stop_event_class is stop


@pytest.mark.parametrize(
    ("base", "stop", "text"),
    [
        (Workflow[Report], Other, r"Workflow\[Report\] says that a run gives Report, but it gives Other, by `only` \(.*:\d+\)"),
        (Workflow[LongReport], Report, "gives LongReport, but it gives Report"),
        (Workflow[Report], StopEvent, "gives Report, but it gives the `result` of a StopEvent"),
        (Workflow[StopEvent], StopEvent, "gives StopEvent, but it gives the `result` of a StopEvent"),
        (Workflow[str], Report, "gives str, but it gives Report"),
        (Workflow[str | None], Report, r"gives str \| None, but it gives Report"),
        (Workflow[dict[str, int]], Report, "gives dict, but it gives Report"),
        (Generic1[Report], Other, "gives Report, but it gives Other"),
        (Swapped[Other, Report], Other, "gives Report, but it gives Other"),
        (Bound, Other, "gives Report, but it gives Other"),
        (Mixed, Other, "gives Report, but it gives Other"),
    ],
)
def test_a_result_type_that_is_not_true_is_refused_at_construction(base: Any, stop: type[StopEvent], text: str) -> None:
    with pytest.raises(WorkflowValidationError, match=text):
        ending_with(base, stop)


def test_a_bare_workflow_promises_nothing() -> None:
    flow = Workflow()

    @step(workflow=flow)
    async def only(ev: StartEvent) -> Report:
        return Report(pages=3)

    assert flow.run_sync() == Report(pages=3)


def test_a_wrong_result_type_is_listed_beside_other_problems_and_found_by_validate() -> None:
    class Flow(Workflow[Report]):
        @step
        async def first(self, ev: StartEvent) -> Other:
            return Other()

        @step
        async def second(self, ev: StepLost) -> Other:
            return Other()

    with pytest.raises(WorkflowValidationError, match="has 2 problems") as failure:
        Flow()
    assert "Give Workflow[...] Other, or let the step return Report." in str(failure.value)
    with pytest.raises(WorkflowValidationError, match="gives Report"):
        Flow(disable_validation=True).validate()


class StepLost(Event):
    pass
