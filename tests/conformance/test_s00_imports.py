"""Section 0 and the signature sheet: every submodule and name resolves, with the same parameters."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import pytest

import tracedflow
from tracedflow import Context, Workflow, WorkflowCheckpointer, WorkflowHandler, catch_error, errors, events, resource, retry_policy, step
from tracedflow.collect import All, Collect, Take
from tracedflow.context.serializers import JsonPickleSerializer, JsonSerializer, PickleSerializer
from tracedflow.context.state_store import InMemoryStateStore, StateStore
from tracedflow.drawing import draw_all_possible_flows, draw_most_recent_execution
from tracedflow.events import Event, InternalDispatchEvent, StopEvent
from tracedflow.representation import WorkflowGraph, get_workflow_representation
from tracedflow.testing import WorkflowTestRunner

SURFACE = {
    "": "Context Workflow step catch_error",
    "events": (
        "Event StartEvent StopEvent InputRequiredEvent HumanResponseEvent StepFailedEvent WorkflowFailedEvent WorkflowTimedOutEvent "
        "WorkflowCancelledEvent WorkflowIdleEvent UnhandledEvent StepStateChanged StepState IdleReleasedEvent InternalDispatchEvent "
        "CollectionReleaseEvent EventType DictLikeModel SerializableEvent SerializableOptionalEvent SerializableEventType "
        "SerializableException UnreconstructedException"
    ),
    "decorators": "step catch_error StepConfig StepFunction",
    "workflow": "Workflow",
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


def test_what_is_listed_at_the_top_is_there() -> None:
    assert [name for name in tracedflow.__all__ if not hasattr(tracedflow, name)] == []


def test_the_pickle_serializer_has_its_two_names() -> None:
    assert JsonPickleSerializer is PickleSerializer


def test_the_errors_are_told_apart_as_before_and_have_one_base_now() -> None:
    kinds = [getattr(errors, name) for name in SURFACE["errors"].split()]
    assert all(issubclass(kind, errors.TracedflowError) for kind in kinds)
    # An `except` for one of them catches no other, but for two that are special cases of another.
    nested = {(a.__name__, b.__name__) for a in kinds for b in kinds if a is not b and issubclass(a, b)}
    assert nested == {
        ("WorkflowConfigurationError", "WorkflowValidationError"),
        ("WorkflowStepDoesNotExistError", "WorkflowRuntimeError"),
    }


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("StartEvent", Event),
        ("StopEvent", Event),
        ("InputRequiredEvent", Event),
        ("HumanResponseEvent", Event),
        ("StepFailedEvent", Event),
        ("CollectionReleaseEvent", Event),
        ("WorkflowTimedOutEvent", StopEvent),
        ("WorkflowCancelledEvent", StopEvent),
        ("WorkflowFailedEvent", StopEvent),
        ("IdleReleasedEvent", StopEvent),
        ("StepStateChanged", InternalDispatchEvent),
        ("UnhandledEvent", InternalDispatchEvent),
        ("WorkflowIdleEvent", InternalDispatchEvent),
    ],
)
def test_the_events_have_their_bases(name: str, base: type[Event]) -> None:
    assert getattr(events, name).__bases__ == (base,)


# --- the signature sheet ---

REQUIRED: Any = inspect.Parameter.empty
POSITIONAL = inspect.Parameter.POSITIONAL_OR_KEYWORD
KEYWORD = inspect.Parameter.KEYWORD_ONLY


def sheet(line: str, **defaults: Any) -> list[tuple[str, Any, Any]]:
    """Read `a b * c`: names in their order, those after the star by keyword only; what has no default is required."""
    kind, read = POSITIONAL, list[tuple[str, Any, Any]]()
    for name in line.split():
        if name == "*":
            kind = KEYWORD
        else:
            read.append((name, kind, defaults.get(name, REQUIRED)))
    return read


WAIT = {"waiter_event": None, "waiter_id": None, "requirements": None, "timeout": 2000.0}
SHEET: list[tuple[Any, list[tuple[str, Any, Any]]]] = [
    (step, sheet("* workflow num_workers retry_policy skip_graph_checks accept_event_subclasses", workflow=None, num_workers=4,
                 retry_policy=None, skip_graph_checks=None, accept_event_subclasses=False)),
    (catch_error, sheet("* for_steps max_recoveries", for_steps=None, max_recoveries=1)),
    (Workflow.__init__, sheet("timeout disable_validation verbose resource_manager num_concurrent_runs runtime workflow_name "
                              "skip_graph_checks serializer", timeout=45.0, disable_validation=False, verbose=False,
                              resource_manager=None, num_concurrent_runs=None, runtime=None, workflow_name=None,
                              skip_graph_checks=None, serializer=None)),
    (Workflow.add_step, sheet("func")),
    (Workflow.run, sheet("ctx start_event * run_id", ctx=None, start_event=None, run_id=None)),
    (Workflow.run, sheet("* stepwise checkpoint_callback", stepwise=False, checkpoint_callback=None)),
    (Workflow.run_from, sheet("checkpoint ctx_serializer checkpoint_callback", ctx_serializer=None, checkpoint_callback=None)),
    (Workflow.validate, sheet("validate_resource_configs validate_resources", validate_resource_configs=True, validate_resources=False)),
    (Context.__init__, sheet("workflow previous_context serializer", previous_context=None, serializer=None)),
    (Context.to_dict, sheet("serializer * include_state", serializer=None, include_state=True)),
    (Context.from_dict, sheet("workflow data serializer", serializer=None)),
    (Context.get_step_context, []),
    (Context.running_steps, []),
    (Context.collect_events, sheet("ev expected buffer_id", buffer_id=None)),
    (Context.send_event, sheet("message step", step=None)),
    (Context.wait_for_event, sheet("event_type waiter_event waiter_id requirements timeout", **WAIT)),
    (Context.write_event_to_stream, sheet("ev")),
    (Context.stream_events, []),
    (Context.retry_info, []),
    (Context.set, sheet("key value make_private", make_private=False)),
    (retry_policy.RetryInfo, sheet("retry_number elapsed_seconds last_exception last_failed_at", last_exception=None, last_failed_at=None)),
    *[
        (member, parameters)
        for kind in (StateStore, InMemoryStateStore)
        for member, parameters in (
            (kind.get_state, []), (kind.set_state, sheet("state")), (kind.get, sheet("path default", default=...)),
            (kind.set, sheet("path value")), (kind.clear, []), (kind.edit_state, []), (kind.to_dict, sheet("serializer")),
            (kind.from_dict, sheet("data serializer")),
        )
    ],
    (WorkflowHandler.is_done, []),
    (WorkflowHandler.get_stop_event, []),
    (WorkflowHandler.stop_event_result, []),
    (WorkflowHandler.stream_events, sheet("expose_internal", expose_internal=False)),
    (WorkflowHandler.send_event, sheet("event step", step=None)),
    (WorkflowHandler.cancel_run, sheet("* timeout", timeout=5.0)),
    (WorkflowHandler.run_step, []),
    (JsonSerializer, sheet("allowed_types", allowed_types=None)),
    (retry_policy.retry_policy, sheet("retry wait stop", retry=None, wait=retry_policy.wait_fixed(5),
                                      stop=retry_policy.stop_after_attempt(3))),
    (retry_policy.RetryPolicy.next, sheet("elapsed_time attempts error * seed", seed=None)),
    (retry_policy.ConstantDelayRetryPolicy, sheet("maximum_attempts delay", maximum_attempts=3, delay=5)),
    (retry_policy.ExponentialBackoffRetryPolicy, sheet("maximum_attempts initial_delay multiplier max_delay jitter", maximum_attempts=5,
                                                       initial_delay=1.0, multiplier=2.0, max_delay=60.0, jitter=True)),
    (resource.Resource, sheet("factory cache", cache=True)),
    (resource.ResourceConfig, sheet("config_file path_selector label description", path_selector=None, label=None, description=None)),
    (resource.ResourceManager.get, sheet("resource")),
    (resource.ResourceManager.get_all, []),
    (All, []),
    (Take, sheet("n")),
    (WorkflowTestRunner, sheet("workflow")),
    (WorkflowTestRunner.run, sheet("start_event ctx expose_internal exclude_events", start_event=None, ctx=None, expose_internal=True,
                                   exclude_events=None)),
    (get_workflow_representation, sheet("workflow")),
    (WorkflowCheckpointer, sheet("workflow checkpoint_serializer disabled_steps", checkpoint_serializer=None, disabled_steps=())),
    (WorkflowCheckpointer.run_from, sheet("checkpoint")),
    (WorkflowCheckpointer.filter_checkpoints, sheet("run_id last_completed_step input_event_type output_event_type", run_id=None,
                                                    last_completed_step=None, input_event_type=None, output_event_type=None)),
    (WorkflowCheckpointer.enable_checkpoint, sheet("step")),
    (WorkflowCheckpointer.disable_checkpoint, sheet("step")),
    (draw_all_possible_flows, sheet("workflow filename notebook", filename="workflow_all_flows.html", notebook=False)),
    (draw_most_recent_execution, sheet("workflow filename notebook", filename="workflow_recent_execution.html", notebook=False)),
]  # fmt: skip


@pytest.mark.parametrize(("function", "expected"), SHEET, ids=lambda each: getattr(each, "__qualname__", ""))
def test_the_parameters_have_the_same_names_kinds_places_and_defaults(function: Any, expected: list[tuple[str, Any, Any]]) -> None:
    found = {name: each for name, each in inspect.signature(function).parameters.items() if name != "self"}
    wanted = [name for name, _, _ in expected]
    got = [(name, found[name].kind, found[name].default) if name in found else (name, "missing", None) for name in wanted]
    assert repr(got) == repr(expected)  # parts of retry policies have no equality
    taken_by_place = [name for name, kind, _ in expected if kind is POSITIONAL]
    assert [name for name, each in found.items() if each.kind is POSITIONAL][: len(taken_by_place)] == taken_by_place
    more = [name for name in found if name not in wanted]
    named_only = (KEYWORD, inspect.Parameter.VAR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)
    assert all(found[name].default is not REQUIRED or found[name].kind in named_only for name in more)


@pytest.mark.parametrize("member", ["set", "get", "clear"])
def test_what_is_awaited_is_a_coroutine(member: str) -> None:
    assert inspect.iscoroutinefunction(getattr(InMemoryStateStore, member))
    assert inspect.iscoroutinefunction(resource.ResourceManager.get)
    assert all(
        inspect.iscoroutinefunction(each) for each in (WorkflowHandler.send_event, WorkflowHandler.cancel_run, Context.running_steps)
    )


def test_what_is_read_is_a_property() -> None:
    assert [name for name in ("workflow_name", "start_event_class", "stop_event_class", "events", "runtime", "serializer")
            if not isinstance(inspect.getattr_static(Workflow, name), property)] == []  # fmt: skip
    assert all(isinstance(inspect.getattr_static(Context, name), property) for name in ("is_running", "store"))
    assert all(isinstance(inspect.getattr_static(WorkflowHandler, name), property) for name in ("ctx", "run_id"))


def test_a_collection_takes_all_unless_told_otherwise() -> None:
    assert Collect() == Collect(All()) == Collect(cardinality=All())


def test_a_graph_is_filtered_by_any_number_of_node_types() -> None:
    (_, wanted) = inspect.signature(WorkflowGraph.filter_by_node_type).parameters.values()
    assert wanted.kind is inspect.Parameter.VAR_POSITIONAL


STEP_FAILED = "step_name input_event exception attempts elapsed_seconds failed_at"


@pytest.mark.parametrize(
    ("name", "required", "optional"),
    [
        ("StepFailedEvent", STEP_FAILED, ""),
        ("WorkflowFailedEvent", "step_name exception", "attempts elapsed_seconds"),
        ("WorkflowTimedOutEvent", "timeout", "active_steps"),
        ("WorkflowCancelledEvent", "", ""),
        ("WorkflowIdleEvent", "", ""),
        ("UnhandledEvent", "event_type qualified_name idle", "step_name"),
        ("StepStateChanged", "name step_state worker_id input_event_name", "output_event_name"),
        ("CollectionReleaseEvent", "stream_id binding_id", "events"),
        ("StartEvent", "", ""),
        ("StopEvent", "", ""),
        ("InputRequiredEvent", "", ""),
        ("HumanResponseEvent", "", ""),
    ],
)
def test_the_events_have_their_fields(name: str, required: str, optional: str) -> None:
    fields = getattr(events, name).model_fields
    assert {key for key, each in fields.items() if each.is_required()} == set(required.split())
    assert {key for key, each in fields.items() if not each.is_required()} == set(optional.split())


def test_the_states_of_a_step_have_their_values() -> None:
    states = events.StepState
    assert [(each.name, each.value) for each in states] == [
        ("PREPARING", "preparing"), ("RUNNING", "running"), ("NOT_RUNNING", "not_running"),
    ]  # fmt: skip
    assert issubclass(states, str)


def test_a_step_configuration_has_the_known_fields() -> None:
    known = (
        "accepted_events event_name return_types context_parameter num_workers retry_policy resources context_state_type "
        "skip_graph_checks collect_params is_fan_out bare_return_types collection_param collection_policy role "
        "catch_error_for_steps catch_error_max_recoveries accept_event_subclasses"
    )

    class Flow(Workflow):
        @step
        async def only(self, ev: events.StartEvent) -> StopEvent: ...  # type: ignore[empty-body]

    assert [name for name in known.split() if not hasattr(Flow.only._step_config, name)] == []  # type: ignore[attr-defined]
