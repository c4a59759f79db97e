"""Section 13: whole programs as users write them, with nothing changed but the package name in their imports."""

from __future__ import annotations

import ast
import asyncio
import importlib.util
from pathlib import Path
from typing import Any

import pytest

IDIOMS = Path(__file__).with_name("idioms")

RESULTS: dict[str, Any] = {
    "constructors": (["> Item 0", "> Item 1", "> Item 2"], ["> A", "> B"], "> NESTED", ["StopEvent"], True),
    "durable": ("crashed", "chapter 3", 1, 3),
    "events": (
        {"query": "who?", "best": "b", "llm": "tiny", "seen": 2, "extra": 1, "keys": ["extra", "note"], "declared is no key": None},
        "no sources",
        "7",
        True,
    ),
    "human_in_the_loop": ["Enter a number: 5", "You said yes", "6", "You said later"],
    "joke": (
        "<Analyse: <Write your best joke about pirates.>>",
        "<Analyse: <Write your best joke about cats.>>",
        ["thinking", "StopEvent"],
    ),
    "legacy_imports": (
        "pirates: yes",
        ["pirates: no", "pirates: no"],
        ["WorkflowRuntimeError", "WorkflowTimeoutError", "WorkflowValidationError"],
        ["WorkflowCheckpointer", "draw_all_possible_flows", "draw_most_recent_execution"],
    ),
    "loops_and_branches": ["short ok", "OK ONE TWO", "gave up"],
    "state": ([1, "first", None, 1, "item access"], [1, "first", None, 2, "item access"], "2: hello, again", 2),
    "tool_agent": (True, "the answer is 12 and 3 and no tool missing", ["add", "multiply"], [], 5),
    "typed_ends": (["book 4", "pen 3", "unknown (LookupError) 0"], 7, "Receipt", 3, ["fast"]),
    "unit_tests": (True, {"double": "Doubles it.", "finish": None}, 10, True, (10, 1)),
}

# What the modules of the reference give that the programs import, by the name that the module has here.
KNOWN = {
    "tracedflow": "Context Workflow step catch_error",
    "tracedflow.events": "Event StartEvent StopEvent InputRequiredEvent HumanResponseEvent StepFailedEvent",
    "tracedflow.decorators": "step catch_error StepConfig StepFunction",
    "tracedflow.context": "Context JsonSerializer PickleSerializer BaseSerializer",
    "tracedflow.handler": "WorkflowHandler",
    "tracedflow.errors": "WorkflowValidationError",
    "tracedflow.retry_policy": "retry_policy stop_after_attempt wait_fixed",
    "tracedflow.resource": "Resource ResourceConfig",
    "tracedflow.collect": "Collect All Take",
    "tracedflow.testing": "WorkflowTestRunner",
    "tracedflow.representation": "get_workflow_representation",
}
LEGACY = (
    "Context Event StartEvent StopEvent InputRequiredEvent HumanResponseEvent Workflow WorkflowRuntimeError WorkflowTimeoutError "
    "WorkflowValidationError step JsonSerializer JsonPickleSerializer WorkflowCheckpointer draw_all_possible_flows "
    "draw_most_recent_execution"
)


def loaded(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, IDIOMS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_program_is_run() -> None:
    assert sorted(path.stem for path in IDIOMS.glob("*.py")) == sorted(RESULTS)


@pytest.mark.parametrize("name", RESULTS)
def test_a_program_runs_unchanged(name: str) -> None:
    assert asyncio.run(loaded(name).main()) == RESULTS[name]


@pytest.mark.parametrize("name", RESULTS)
def test_a_program_imports_only_what_the_reference_has_under_the_same_name(name: str) -> None:
    for node in ast.walk(ast.parse((IDIOMS / f"{name}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "tracedflow":
            known = LEGACY if name == "legacy_imports" else KNOWN[node.module or ""]
            assert {alias.name for alias in node.names} <= set(known.split())
        assert not isinstance(node, ast.Import) or all(alias.name != "tracedflow" for alias in node.names)
