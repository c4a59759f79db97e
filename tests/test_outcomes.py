from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tracedflow import Event, StopEvent
from tracedflow.errors import StepTimeoutError, WorkflowCancelledByUser, WorkflowStalledError, WorkflowTimeoutError
from tracedflow.outcomes import error_type, outcome_of_run, outcome_of_step


@pytest.mark.parametrize(
    ("result", "error", "outcome"),
    [
        (StopEvent(), None, "success"),
        (None, None, "suspended"),
        (None, WorkflowStalledError(""), "stalled"),
        (None, WorkflowTimeoutError(""), "timeout"),
        (None, WorkflowCancelledByUser(), "cancelled"),
        (None, asyncio.CancelledError(), "cancelled"),
        (None, StepTimeoutError(), "error"),
        (None, KeyboardInterrupt(), "error"),
    ],
)
def test_the_outcome_of_a_run(result: StopEvent | None, error: BaseException | None, outcome: str) -> None:
    assert outcome_of_run(result, error) == outcome


@pytest.mark.parametrize(
    ("facts", "result", "error", "outcome"),
    [
        ({}, Event(), None, "success"),
        ({}, None, None, "success"),
        ({"collecting": True}, None, None, "collecting"),
        ({"collecting": True}, Event(), None, "success"),
        ({"attempts": 0}, Event(), None, "skipped"),
        ({}, None, StepTimeoutError(), "timeout"),
        ({}, None, ValueError(), "error"),
        ({"cancel_reason": "run_timeout"}, None, asyncio.CancelledError(), "cancelled"),
        ({"cancel_reason": "suspended"}, None, asyncio.CancelledError(), "suspended"),
        ({"attempts": 0}, None, asyncio.CancelledError(), "cancelled"),
    ],
)
def test_the_outcome_of_a_step(facts: dict[str, Any], result: Event | None, error: BaseException | None, outcome: str) -> None:
    call = SimpleNamespace(**{"attempts": 1, "collecting": False, "cancel_reason": None, **facts})
    assert outcome_of_step(cast("Any", call), result, error) == outcome


def test_an_error_is_named_by_its_qualified_type() -> None:
    assert error_type(ValueError()) == "ValueError"
    assert error_type(json.JSONDecodeError("", "", 0)) == "json.decoder.JSONDecodeError"
