from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FIXTURES = Path(__file__).parent / "typing"

Errors = dict[int, str]


def by_mypy(program: Path) -> Errors:
    """Return the errors that mypy --strict finds, by line."""
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", "--output", "json", str(program)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    elsewhere = [each for each in found if Path(each["file"]).name != program.name]
    assert elsewhere == []
    return {each["line"]: each["message"] for each in found if each["severity"] == "error"}


def by_basedpyright(program: Path) -> Errors:
    """Return the errors that basedpyright finds as pyright strict, by line."""
    config = FIXTURES / "pyrightconfig.json"
    command = [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable, "--project", str(config), str(program)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = json.loads(done.stdout)["generalDiagnostics"]
    return {each["range"]["start"]["line"] + 1: each["message"] for each in found if each["severity"] == "error"}


CHECKERS = [pytest.param(by_mypy, id="mypy"), pytest.param(by_basedpyright, id="basedpyright")]


@pytest.mark.parametrize("check", CHECKERS)
def test_a_right_program_has_no_errors(check: Callable[[Path], Errors]) -> None:
    assert check(FIXTURES / "right.py") == {}


@pytest.mark.parametrize("check", CHECKERS)
def test_each_mistake_is_an_error_on_its_line(check: Callable[[Path], Errors]) -> None:
    program = FIXTURES / "wrong.py"
    lines = program.read_text().splitlines()
    expected = {number for number, line in enumerate(lines, 1) if line.endswith("# error")}
    found = check(program)
    missed = {number: lines[number - 1].strip() for number in expected - found.keys()}
    surplus = {number: found[number] for number in found.keys() - expected}
    assert (missed, surplus) == ({}, {})
