"""Every `console` block of docs/cli.md prints what the page shows: the same words, numbers left out.

A line of `...` stands for whatever is left. Commands that only read run in this process; those that set up telemetry have one of their own.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tracedflow.cli._app import app

PAGE = (Path(__file__).resolve().parent.parent / "docs/cli.md").read_text(encoding="utf-8")
OWN_PROCESS = ("run", "doctor")
TIMES = {"s", "ms", "running", "queued", "backoff", "waiting", "blocked", "joining", "engine"}


def examples() -> list[tuple[str, str]]:
    """Return each command of the page with what it prints there."""
    blocks = re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return [(found[1], found[2]) for block in blocks for found in re.finditer(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)]


def words(text: str) -> set[str]:
    """Return what a text says, but for numbers, order, and parts of time: one under 0.05 ms is not told."""
    lines = [line for line in text.splitlines() if " in all, then " not in line]  # nor does every step get slower on every machine
    found = {token.strip(',"(){}[]:') for line in lines for token in line.split()}
    return {word for word in found if re.fullmatch(r"[^\W\d_][\w.:`→×]*", word)} - TIMES


def printed(line: str, folder: Path) -> str:
    """Return all that a command prints, which must not be a refusal."""
    tokens = shlex.split(line)
    settings = dict(token.split("=", 1) for token in tokens[: tokens.index("tracedflow")])
    arguments = tokens[tokens.index("tracedflow") + 1 :]
    if arguments[0] not in OWN_PROCESS:
        ran = CliRunner().invoke(app, arguments)
        code, text = ran.exit_code, ran.output
    else:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("TRACEDFLOW_", "OTEL_"))}
        command = [sys.executable, "-m", "tracedflow", *arguments]
        done = subprocess.run(command, cwd=folder, env={**clean, **settings}, capture_output=True, text=True, check=False)
        code, text = done.returncode, done.stdout + done.stderr
    assert code in (0, 1), text
    return text


def test_every_command_prints_what_the_page_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = re.search(r"^```python\n(# app\.py\n.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert program
    (tmp_path / "app.py").write_text(program[1])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "app", raising=False)
    shown = examples()
    assert len(shown) >= 12
    for line, expected in shown:
        found, (whole, rest, _) = words(printed(line, tmp_path)), expected.partition("\n...")
        assert words(whole) - found == set(), line
        assert rest or found - words(whole) == set(), line
    monkeypatch.delitem(sys.modules, "app", raising=False)


def test_the_page_has_every_command() -> None:
    for command in app.registered_commands:
        assert command.callback is not None
        assert re.search(rf"^(## .*`{command.callback.__name__}`|\$ tracedflow {command.callback.__name__} )", PAGE, re.MULTILINE)
