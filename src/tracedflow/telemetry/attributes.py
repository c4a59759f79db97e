"""The attributes of spans, read off calls. Knows the names, and nothing of the tracing library."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from . import names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..middleware import Cause, RunCall, StepCall, StepResult
    from ..records import Outcome

Attributes: TypeAlias = "dict[str, str | int | float | bool | Sequence[str]]"


def of_every_span(call: RunCall) -> Attributes:
    """Return what every span of a run has."""
    attributes: Attributes = {names.WORKFLOW_NAME: call.workflow, names.RUN_ID: call.run_id}
    attributes.update({names.TAG_PREFIX + key: value for key, value in call.tags.items()})
    if call.conversation_id is not None:
        attributes[names.GEN_AI_CONVERSATION_ID] = call.conversation_id
    return attributes


def of_run(call: RunCall) -> Attributes:
    """Return what only the run span has."""
    attributes: Attributes = {
        names.RUN_SEGMENT: call.segment,
        names.GEN_AI_OPERATION_NAME: names.INVOKE_WORKFLOW,
        names.GEN_AI_WORKFLOW_NAME: call.workflow,
    }
    if call.parent_run_id is not None:
        attributes[names.PARENT_RUN_ID] = call.parent_run_id
    return attributes


def of_every_execution(base: Attributes, call: StepCall) -> Attributes:
    """Return what every span of a step has in a run; `base` is what every span of the run has."""
    attributes: Attributes = {**base, names.STEP_NAME: call.step, names.CODE_FUNCTION_NAME: call.config.code_name}
    if (most := call.max_attempts) is not None:
        attributes[names.STEP_MAX_ATTEMPTS] = most
    return attributes


def of_step(of_execution: Attributes, call: StepCall, causes: Sequence[Cause]) -> Attributes:
    """Return what a step span has from its start, where samplers see it."""
    queued = call.started_at - call.enqueued_at
    if not causes:
        return {**of_execution, names.STEP_QUEUE_WAIT: queued}
    cause = causes[0]
    attributes: Attributes = {
        **of_execution, names.STEP_QUEUE_WAIT: queued, names.EVENT_TYPE: cause.event_type, names.EVENT_ID: str(cause.event_id),
    }  # fmt: skip
    if cause.step is not None:  # a copy of the link, for backends that drop links
        attributes[names.TRIGGER_STEP] = cause.step
    if len(causes) > names.MAX_LINKS:
        attributes[names.LINKS_DROPPED] = len(causes) - names.MAX_LINKS
    return attributes


def of_ended_step(call: StepCall, result: StepResult, outcome: Outcome) -> Attributes:
    """Return what a step span has at its end."""
    attributes: Attributes = {names.OUTCOME: outcome}
    if call.config.retry_policy is not None:  # else it is 1
        attributes[names.STEP_ATTEMPTS] = call.attempts
    if call.emitted:
        attributes[names.EMITTED] = _emitted(call, result)
    elif result is not None:
        attributes[names.EMITTED] = (type(result).__name__,) if not isinstance(result, list) else _emitted(call, result)
    if call.blocked > 0:
        attributes[names.STEP_LOOP_BLOCKED] = call.blocked
    return attributes


def of_own_facts(call: StepCall) -> Attributes:
    """Return what the step said of itself."""
    sums: dict[str, float] = {}
    for name, value, _ in call.measurements:
        sums[name] = sums.get(name, 0.0) + value
    return {**{names.USER_PREFIX + name: value for name, value in sums.items()}, **_annotations(call.annotations)}


def _emitted(call: StepCall, result: StepResult) -> tuple[str, ...]:
    """Return the types that the step sent, and those it returned: they are on their way only after its span."""
    returned = result if isinstance(result, list) else [] if result is None else [result]
    return tuple(dict.fromkeys([*(kind for _, kind in call.emitted), *(type(event).__name__ for event in returned)]))


def _annotations(annotations: Mapping[str, object]) -> Attributes:
    return {
        names.USER_PREFIX + name: value if isinstance(value, (str, bool, int, float)) else str(value) for name, value in annotations.items()
    }
