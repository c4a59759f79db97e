"""The command that says what telemetry does in this shell, and what to mend."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import textwrap
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated

import typer

from .. import telemetry
from ..inspect.waterfall import Style
from ..telemetry.console import Screen
from ..telemetry.diagnosis import Finding, Status
from ._output import AsJson, say_json
from ._wrong import FAILED

_STYLES: dict[Status, Style] = {"ok": "good", "info": "plain", "warning": "odd", "problem": "bad"}
_LEFT = 23  # columns before the text of a finding
_LOGGERS = (logging.getLogger("tracedflow"), logging.getLogger("opentelemetry"))


def doctor(
    setup: Annotated[bool, typer.Option(help="First call telemetry.setup(), as an application would in this shell.")] = True,
    connect: Annotated[bool, typer.Option(help="Try to reach the endpoints, for two seconds each.")] = True,
    as_json: AsJson = False,
) -> None:
    """Say what telemetry does here, and what to mend.

    What is set, reachable, sampled, dropped and captured. Exit code 1 if something that was asked for is broken.
    """
    said: list[Finding] = []
    with _complaints(said):
        if setup:
            telemetry.setup()
        looked_at = telemetry.diagnose(connect=connect)
    found = [*said, *looked_at]
    is_well = all(each.status != "problem" for each in found)
    if as_json:
        say_json({"ok": is_well, "findings": [asdict(each) for each in found]})
    else:
        for each in found:
            _show(each)
    if not is_well:
        raise typer.Exit(FAILED)


@contextmanager
def _complaints(said: list[Finding]) -> Generator[None]:
    """Take as findings what is logged meanwhile: `setup()` raises nothing."""
    is_asked = any(name.startswith(("OTEL_", "TRACEDFLOW_")) and value for name, value in os.environ.items())
    taken = _Taken("problem" if is_asked else "warning", said)
    before = [logger.propagate for logger in _LOGGERS]
    for logger in _LOGGERS:
        logger.addHandler(taken)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, propagate in zip(_LOGGERS, before, strict=True):
            logger.propagate = propagate
            logger.removeHandler(taken)


class _Taken(logging.Handler):
    """Keeps warnings."""

    def __init__(self, status: Status, said: list[Finding]) -> None:
        super().__init__(logging.WARNING)
        self._status: Status = status
        self._said = said

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info is not None and record.exc_info[1] is not None:
            text += f": {record.exc_info[1]}"
        remedy = "" if "pip install" in text else "correct that setting, or unset it"
        found = Finding(topic="setup", status=self._status, text=text, remedy=remedy)
        if found not in self._said:
            self._said.append(found)


def _show(finding: Finding) -> None:
    """Write a finding, and its remedy on a line of its own; on a terminal, folded at its edge."""
    screen = Screen(sys.stdout)
    is_terminal = sys.stdout.isatty()
    width = max(40, shutil.get_terminal_size().columns) - _LEFT if is_terminal else 100_000
    lines = textwrap.wrap(finding.text, width, break_on_hyphens=False)
    lines += textwrap.wrap(f"{screen.arrow} {finding.remedy}", width, subsequent_indent="  ") if finding.remedy else []
    for number, line in enumerate(lines or [""]):
        status, topic = (finding.status, finding.topic) if number == 0 else ("", "")
        screen.write(((f"{status:<8} ", _STYLES[finding.status]), (f"{topic:<12}  ", "bold"), (line, "plain")))
