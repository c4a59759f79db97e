"""Section 0 and the signature sheet: every submodule and name resolves, with the same parameters."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import pytest

import tracedflow

SURFACE = {
    "": "Context Workflow step catch_error",
    "events": (
        "Event StartEvent StopEvent InputRequiredEvent HumanResponseEvent StepFailedEvent WorkflowFailedEvent WorkflowTimedOutEvent "
        "WorkflowCancelledEvent WorkflowIdleEvent UnhandledEvent StepStateChanged StepState InternalDispatchEvent EventType "
        "SerializableEvent SerializableOptionalEvent SerializableEventType SerializableException UnreconstructedException DictLikeModel"
    ),
    "decorators": "step catch_error StepConfig StepFunction",
    "context": "Context JsonSerializer PickleSerializer BaseSerializer",
    "context.serializers": "JsonSerializer PickleSerializer BaseSerializer JsonPickleSerializer",
    "context.state_store": "DictState InMemoryStateStore StateStore",
    "handler": "WorkflowHandler",
    "errors": (
        "WorkflowValidationError WorkflowTimeoutError WorkflowRuntimeError WorkflowDone WorkflowCancelledByUser "
        "WorkflowStepDoesNotExistError WorkflowConfigurationError ContextSerdeError ContextStateError"
    ),
    "retry_policy": (
        "RetryPolicy retry_policy ConstantDelayRetryPolicy ExponentialBackoffRetryPolicy retry_if_exception retry_if_exception_type "
        "retry_if_not_exception_type retry_unless_exception_type retry_if_exception_message retry_if_not_exception_message "
        "retry_if_exception_cause_type retry_any retry_all retry_always retry_never wait_fixed wait_none wait_exponential "
        "wait_incrementing wait_random wait_exponential_jitter wait_random_exponential wait_full_jitter wait_chain wait_combine "
        "stop_after_attempt stop_after_delay stop_before_delay stop_any stop_all stop_never"
    ),
    "resource": "Resource ResourceConfig ResourceManager ResourceDefinition ResourceDescriptor",
    "collect": "Collect All Take Cardinality",
    "types": "RunResultT StopEventT",
    "representation": (
        "get_workflow_representation WorkflowGraph WorkflowGraphNode WorkflowGraphEdge WorkflowStepNode WorkflowEventNode "
        "WorkflowExternalNode WorkflowResourceNode WorkflowResourceConfigNode WorkflowGenericNode WorkflowNodeBase"
    ),
    "testing": "WorkflowTestRunner WorkflowTestResult",
    "checkpointer": "WorkflowCheckpointer Checkpoint",
    "drawing": "draw_all_possible_flows draw_most_recent_execution",
}
LEGACY = (
    "Context Event StartEvent StopEvent InputRequiredEvent HumanResponseEvent Workflow WorkflowRuntimeError WorkflowTimeoutError "
    "WorkflowValidationError step JsonSerializer JsonPickleSerializer WorkflowCheckpointer "
    "draw_all_possible_flows draw_most_recent_execution"
)


@pytest.mark.parametrize("module", SURFACE)
def test_every_public_name_is_where_it_was(module: str) -> None:
    found = importlib.import_module(f"tracedflow.{module}".rstrip("."))
    assert [name for name in SURFACE[module].split() if not hasattr(found, name)] == []


def test_the_names_of_the_older_package_are_at_the_top() -> None:
    assert [name for name in LEGACY.split() if not hasattr(tracedflow, name)] == []


def parameters(function: Any) -> dict[str, Any]:
    return {
        name: each.default
        for name, each in inspect.signature(function).parameters.items()
        if name not in ("self", "cls") and each.kind is not inspect.Parameter.VAR_KEYWORD
    }


NONE: Any = inspect.Parameter.empty
SHEET: list[tuple[Any, dict[str, Any]]] = [
    (
        tracedflow.Workflow,
        {
            "timeout": 45.0, "disable_validation": False, "verbose": False, "resource_manager": None, "num_concurrent_runs": None,
            "workflow_name": None, "skip_graph_checks": None, "serializer": None,
        },
    ),
    (tracedflow.Workflow.run, {"ctx": None, "start_event": None}),
    (tracedflow.Workflow.validate, {"validate_resource_configs": True, "validate_resources": False}),
    (tracedflow.Context, {"workflow": NONE, "previous_context": None, "serializer": None}),
    (tracedflow.Context.to_dict, {"serializer": None, "include_state": True}),
    (tracedflow.Context.from_dict, {"workflow": NONE, "data": NONE, "serializer": None}),
    (tracedflow.Context.collect_events, {"ev": NONE, "expected": NONE, "buffer_id": None}),
    (tracedflow.Context.send_event, {"message": NONE, "step": None}),
    (
        tracedflow.Context.wait_for_event,
        {"event_type": NONE, "waiter_event": None, "waiter_id": None, "requirements": None, "timeout": 2000},
    ),
    (tracedflow.Context.write_event_to_stream, {"ev": NONE}),
    (tracedflow.WorkflowHandler.stream_events, {"expose_internal": False}),
    (tracedflow.WorkflowHandler.send_event, {"event": NONE, "step": None}),
    (tracedflow.WorkflowHandler.cancel_run, {"timeout": 5.0}),
    (tracedflow.WorkflowCheckpointer, {"workflow": NONE, "checkpoint_serializer": None, "disabled_steps": ()}),
    (
        tracedflow.draw_all_possible_flows,
        {"workflow": NONE, "filename": "workflow_all_flows.html", "notebook": False},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("function", "expected"), SHEET, ids=lambda each: getattr(each, "__qualname__", ""))
def test_the_parameters_have_the_same_names_and_defaults(function: Any, expected: dict[str, Any]) -> None:
    found = parameters(function)
    assert {name: found.get(name, "missing") for name in expected} == expected


def test_what_the_peer_takes_by_position_is_taken_by_position() -> None:
    kinds = inspect.signature(tracedflow.Workflow.__init__).parameters
    assert [name for name, each in kinds.items() if each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD][1:5] == [
        "timeout", "disable_validation", "verbose", "resource_manager",
    ]  # fmt: skip
