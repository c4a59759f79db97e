"""Every name that tracedflow emits: spans, attributes, links, span events, metrics. Nothing else spells them.

Dashboards, alert rules and the documentation are checked against this module, in both directions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

SCOPE = "tracedflow"
SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"

# Span names; the part after the blank comes from the program, never from data.
RUN_SPAN = "invoke_workflow {workflow}"
STEP_SPAN = "run_step {step}"
ATTEMPT_SPAN = "attempt {step}"
WAIT_SPAN = "wait {event_type}"
ANCHOR_SPAN = "start_workflow {workflow}"
MARKER_SPAN = "run_in_progress {workflow}"
SPANS = (RUN_SPAN, STEP_SPAN, ATTEMPT_SPAN, WAIT_SPAN, ANCHOR_SPAN, MARKER_SPAN)

# Attributes.
WORKFLOW_NAME = "tracedflow.workflow.name"
RUN_ID = "tracedflow.run.id"
RUN_SEGMENT = "tracedflow.run.segment"
RUN_STATE = "tracedflow.run.state"
PARENT_RUN_ID = "tracedflow.parent_run.id"
STEP_NAME = "tracedflow.step.name"
STEP_ATTEMPT = "tracedflow.step.attempt"
STEP_ATTEMPTS = "tracedflow.step.attempts"
STEP_MAX_ATTEMPTS = "tracedflow.step.max_attempts"
STEP_QUEUE_WAIT = "tracedflow.step.queue_wait"
STEP_LOOP_BLOCKED = "tracedflow.step.loop_blocked"
EVENT_TYPE = "tracedflow.event.type"
EVENT_ID = "tracedflow.event.id"
TRIGGER_STEP = "tracedflow.trigger.step"
EMITTED = "tracedflow.emitted"
OUTCOME = "tracedflow.outcome"
WAIT_EVENT_TYPE = "tracedflow.wait.event_type"
LINKS_DROPPED = "tracedflow.links.dropped"
LINK_TYPE = "tracedflow.link.type"
INPUT = "tracedflow.input"
OUTPUT = "tracedflow.output"
TAG_PREFIX = "tracedflow.tag."
USER_PREFIX = "tracedflow.user."
ATTRIBUTES = (
    (WORKFLOW_NAME, RUN_ID, RUN_SEGMENT, RUN_STATE, PARENT_RUN_ID, STEP_NAME, STEP_ATTEMPT, STEP_ATTEMPTS, STEP_MAX_ATTEMPTS)
    + (STEP_QUEUE_WAIT, STEP_LOOP_BLOCKED, EVENT_TYPE, EVENT_ID, TRIGGER_STEP, EMITTED, OUTCOME, WAIT_EVENT_TYPE)
    + (LINKS_DROPPED, LINK_TYPE, INPUT, OUTPUT)
)

# From the OpenTelemetry conventions. Our own strings: their `gen_ai` constants are deprecated and moving.
ERROR_TYPE = "error.type"
CODE_FUNCTION_NAME = "code.function.name"
GEN_AI_OPERATION_NAME = "gen_ai.operation.name"
GEN_AI_WORKFLOW_NAME = "gen_ai.workflow.name"
GEN_AI_CONVERSATION_ID = "gen_ai.conversation.id"
INVOKE_WORKFLOW = "invoke_workflow"
CONVENTIONAL_ATTRIBUTES = (ERROR_TYPE, CODE_FUNCTION_NAME, GEN_AI_OPERATION_NAME, GEN_AI_WORKFLOW_NAME, GEN_AI_CONVERSATION_ID)

# From OpenInference, on request: without a kind its viewers show ours as unknown.
OPENINFERENCE_KIND = "openinference.span.kind"
OPENINFERENCE_CHAIN = "CHAIN"
OPENINFERENCE_INPUT = "input.value"
OPENINFERENCE_OUTPUT = "output.value"
OPENINFERENCE_ATTRIBUTES = (OPENINFERENCE_KIND, OPENINFERENCE_INPUT, OPENINFERENCE_OUTPUT)

# Values of `LINK_TYPE`, and how many links a span may have.
TRIGGERED_BY = "triggered_by"
COLLECTED = "collected"
RESUMED_FROM = "resumed_from"
RESUMED_BY = "resumed_by"
SPAWNED_BY = "spawned_by"
LINKS = (TRIGGERED_BY, COLLECTED, RESUMED_FROM, RESUMED_BY, SPAWNED_BY)
MAX_LINKS = 32

# Span events and their attributes.
EXCEPTION = "exception"
EXCEPTION_TYPE = "exception.type"
EXCEPTION_MESSAGE = "exception.message"
EXCEPTION_STACKTRACE = "exception.stacktrace"
RETRY_SCHEDULED = "tracedflow.retry_scheduled"
RETRY_DELAY = "tracedflow.retry.delay"
CANCEL_REQUESTED = "tracedflow.cancel_requested"
CANCEL_REASON = "tracedflow.cancel.reason"
EVENT_DROPPED = "tracedflow.event_dropped"
DROP_REASON = "tracedflow.drop.reason"
STALLED = "tracedflow.stalled"
STALL_REPORT = "tracedflow.stall.report"
SPAN_EVENTS = (EXCEPTION, RETRY_SCHEDULED, CANCEL_REQUESTED, EVENT_DROPPED, STALLED)

Kind: TypeAlias = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric as Prometheus sees it; `otel` is its name in OpenTelemetry. `buckets` are upper bounds in seconds."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    exemplars: bool = False

    @property
    def otel(self) -> str:
        """Its name in OpenTelemetry: namespaces with dots, singular, neither unit nor `_total`."""
        scope, _, rest = self.name.removesuffix("_total").removesuffix("_seconds").removeprefix("tracedflow_").partition("_")
        scope = scope.removesuffix("s") if rest and scope in ("runs", "steps") else scope
        return ".".join(part for part in ("tracedflow", scope, rest) if part)

    @property
    def unit(self) -> str:
        """Its unit, in the form of UCUM."""
        return "s" if "_seconds" in self.name else "1"


OTHER = "_other"
"""The value of every label once a metric has `MAX_LABEL_SETS` of them, and of one whose name nobody declared."""
MAX_LABEL_SETS = 2_000

_RUN_SECONDS = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 600, 1800, 3600, 7200)
_STEP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_QUEUE_SECONDS = _STEP_SECONDS[:-1]
_WAIT_SECONDS = (1, 10, 60, 300, 1800, 3600, 14400, 86400, 604800)

RUNS = Metric("tracedflow_runs_total", "counter", "Ended runs, or ended segments of suspended runs.", ("workflow", "outcome"))
RUN_DURATION = Metric(
    "tracedflow_run_duration_seconds", "histogram", "Duration of runs.", ("workflow", "outcome"), _RUN_SECONDS, exemplars=True
)
RUNS_ACTIVE = Metric(
    "tracedflow_runs_active",
    "gauge",
    "Live runs; those in the state `suspended` only wait for an event from outside.",
    ("workflow", "state"),
)
RUN_OLDEST_AGE = Metric("tracedflow_run_oldest_age_seconds", "gauge", "Age of the oldest live run.", ("workflow",))
RUNS_STALLED = Metric(
    "tracedflow_runs_stalled_total",
    "counter",
    "Runs that could never finish, by the step that waited and the event it missed.",
    ("workflow", "step", "missing_event"),
)
STEP_ATTEMPTS_TOTAL = Metric(
    "tracedflow_step_attempts_total", "counter", "Ended step attempts.", ("workflow", "step", "outcome", "error_type")
)
STEP_DURATION = Metric(
    "tracedflow_step_duration_seconds",
    "histogram",
    "Duration of step executions, with their retries and waits.",
    ("workflow", "step", "outcome"),
    _STEP_SECONDS,
    exemplars=True,
)
STEP_QUEUE_WAIT_SECONDS = Metric(
    "tracedflow_step_queue_wait_seconds",
    "histogram",
    "Time that step executions waited for a slot or a limit.",
    ("workflow", "step"),
    _QUEUE_SECONDS,
)
STEP_RETRIES = Metric("tracedflow_step_retries_total", "counter", "Retries that were scheduled.", ("workflow", "step"))
STEP_TIMEOUTS = Metric("tracedflow_step_timeouts_total", "counter", "Attempts that exceeded the step's timeout.", ("workflow", "step"))
STEPS_ACTIVE = Metric("tracedflow_steps_active", "gauge", "Step executions that are live.", ("workflow", "step"))
STEP_CONCURRENCY_LIMIT = Metric(
    "tracedflow_step_concurrency_limit", "gauge", "Attempts of a step that may run at once in a run.", ("workflow", "step")
)
EVENTS = Metric("tracedflow_events_total", "counter", "What happened to events.", ("workflow", "event_type", "action"))
QUEUE_DEPTH = Metric("tracedflow_queue_depth", "gauge", "Events that wait for a slot.", ("workflow", "step"))
WAIT_DURATION = Metric(
    "tracedflow_wait_duration_seconds",
    "histogram",
    "Time that steps were parked in wait_for_event.",
    ("workflow", "event_type", "outcome"),
    _WAIT_SECONDS,
)
LOOP_BLOCKED = Metric(
    "tracedflow_loop_blocked_seconds_total",
    "counter",
    "Time in which a step kept the event loop from turning.",
    ("workflow", "step"),
)
MEASUREMENTS = Metric(
    "tracedflow_measurements_total",
    "counter",
    "Sums of what steps measured, for declared names, in the unit the step gave.",
    ("workflow", "step", "name"),
)
LIMIT_WAIT = Metric(
    "tracedflow_limit_wait_seconds",
    "histogram",
    "Time that step executions waited for a shared limit.",
    ("limit", "workflow", "step"),
    _QUEUE_SECONDS,
)
MIDDLEWARE_ERRORS = Metric(
    "tracedflow_middleware_errors_total", "counter", "Failures of observers; the runs went on.", ("middleware", "error_type")
)
BUILD_INFO = Metric("tracedflow_build_info", "gauge", "Always 1; the version of tracedflow is its label.", ("version",))
METRICS = (
    (RUNS, RUN_DURATION, RUNS_ACTIVE, RUN_OLDEST_AGE, RUNS_STALLED, STEP_ATTEMPTS_TOTAL, STEP_DURATION, STEP_QUEUE_WAIT_SECONDS)
    + (STEP_RETRIES, STEP_TIMEOUTS, STEPS_ACTIVE, STEP_CONCURRENCY_LIMIT, EVENTS, QUEUE_DEPTH, WAIT_DURATION, LOOP_BLOCKED)
    + (MEASUREMENTS, LIMIT_WAIT, MIDDLEWARE_ERRORS, BUILD_INFO)
)

# Labels that have another name as attributes of OpenTelemetry metrics: that of the spans.
OTEL_LABELS = {"workflow": WORKFLOW_NAME, "step": STEP_NAME, "outcome": OUTCOME, "event_type": EVENT_TYPE, "error_type": ERROR_TYPE}

# Values of the label `state`, and of the attribute `RUN_STATE`.
RUNNING_STATE = "running"
SUSPENDED_STATE = "suspended"

# Values of the label `action`.
EMITTED_ACTION = "emitted"
DISPATCHED_ACTION = "dispatched"
COLLECTED_ACTION = "collected"
STREAMED_ACTION = "streamed"
DROPPED_ACTION = "dropped"

# The lines of a trace file that are not spans are OTLP log records; these are their event names.
SPAN_STARTED_LOG = "tracedflow.span_started"
ATTEMPT_LOG = "tracedflow.attempt"
PARENT_SPAN_ID = "tracedflow.parent_span.id"
LOG_EVENTS = (SPAN_STARTED_LOG, ATTEMPT_LOG)

# Fields of log records.
LOG_FIELDS = ("trace_id", "span_id", "run_id", "workflow", "step", "attempt")
