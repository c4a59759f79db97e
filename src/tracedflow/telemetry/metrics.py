"""Prometheus metrics, fed by the same hook as the spans. The only module that imports `prometheus_client`.

Nothing is registered before the first run; then once per registry, however many layers use it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from importlib import metadata
from typing import TYPE_CHECKING, Generic, TypeVar
from weakref import WeakKeyDictionary

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from .. import clock
from ..middleware import (
    EventDropped,
    EventSent,
    EventStreamed,
    LoopBlocked,
    MiddlewareFailed,
    Notice,
    Observer,
    RetryScheduled,
    RunCall,
    RunStalled,
    StepCall,
    StepTimedOut,
    WaitEnded,
)
from ..outcomes import error_type, outcome_of_run, outcome_of_step
from . import names

if TYPE_CHECKING:
    from ..clock import Clock
    from ..events import StopEvent
    from ..middleware import RunNext, StepNext, StepResult
    from ..records import Outcome, RunReport

_log = logging.getLogger("tracedflow.metrics")

queue_depths: Callable[[], Iterable[tuple[str, str, int]]] | None = None
"""Set from outside: gives (workflow, step, events that wait for a slot) of the live runs. Asked at scrape."""

_EXEMPLAR_EVERY = 1.0  # seconds: an exemplar costs twice its observation, and a backend keeps few
_SAMPLED = 1  # the bit of the trace flags

ChildT = TypeVar("ChildT")


class _Family(Generic[ChildT]):
    """A metric with its bound children. Past the cap, every new label set counts as `_other`."""

    __slots__ = ("_bind", "_children", "_lock", "_warned", "spec")

    def __init__(self, spec: names.Metric, bind: Callable[[tuple[str, ...]], ChildT]) -> None:
        self.spec = spec
        self._bind = bind
        self._children: dict[tuple[str, ...], ChildT] = {}
        self._lock = threading.Lock()
        self._warned = False

    def __call__(self, *labels: str) -> ChildT:
        found = self._children.get(labels)
        return found if found is not None else self._add(labels)

    def _add(self, labels: tuple[str, ...]) -> ChildT:
        with self._lock:
            if len(self._children) >= names.MAX_LABEL_SETS:
                labels = self._overflow()
            if labels not in self._children:
                self._children[labels] = self._bind(labels)
            return self._children[labels]

    def _overflow(self) -> tuple[str, ...]:
        if not self._warned:
            self._warned = True
            _log.warning(
                "metric %s has %d label sets; further ones count as %r. Are there names made from data, such as a run id?",
                self.spec.name,
                names.MAX_LABEL_SETS,
                names.OTHER,
            )
        return (names.OTHER,) * len(self.spec.labels)


class _Timer:
    """A bound histogram that gives an exemplar at most once a second."""

    __slots__ = ("_child", "_last")

    def __init__(self, child: Histogram) -> None:
        self._child = child
        self._last = float("-inf")

    def observe(self, seconds: float, at: float, call: RunCall | StepCall) -> None:
        """Observe a duration that ended at the run-clock time `at`."""
        if at - self._last >= _EXEMPLAR_EVERY and (exemplar := _exemplar(call)) is not None:
            self._last = at
            self._child.observe(seconds, exemplar)
        else:
            self._child.observe(seconds)


def _exemplar(call: RunCall | StepCall) -> dict[str, str] | None:
    flags = getattr(call.span_context, "trace_flags", 0)
    if not flags & _SAMPLED or call.trace_id is None or call.span_id is None:
        return None
    return {"trace_id": call.trace_id, "span_id": call.span_id}


class _Step:
    """The children of one step, so that an execution finds them with one lookup."""

    __slots__ = ("attempts", "durations", "labels", "live", "queue_wait")

    def __init__(self, labels: tuple[str, str], families: _Families) -> None:
        self.labels = labels
        self.live: set[int] = set()  # executions: adding and discarding is cheaper than a gauge, and as safe with threads
        self.queue_wait = families.step_queue_wait(*labels)
        self.durations: dict[Outcome, _Timer] = {}
        self.attempts: dict[Outcome, Counter] = {}  # those without an error type
        families.steps_active(*labels).set_function(lambda: len(self.live))


class _Families(Collector):
    """All metrics of one registry, and the live runs that its scrape looks at."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.runs = _counter(registry, names.RUNS)
        self.run_duration = _timer(registry, names.RUN_DURATION)
        self.runs_active = _gauge(registry, names.RUNS_ACTIVE)
        self.runs_stalled = _counter(registry, names.RUNS_STALLED)
        self.step_attempts = _counter(registry, names.STEP_ATTEMPTS_TOTAL)
        self.step_duration = _timer(registry, names.STEP_DURATION)
        self.step_queue_wait = _histogram(registry, names.STEP_QUEUE_WAIT_SECONDS)
        self.step_retries = _counter(registry, names.STEP_RETRIES)
        self.step_timeouts = _counter(registry, names.STEP_TIMEOUTS)
        self.steps_active = _gauge(registry, names.STEPS_ACTIVE)
        self.concurrency_limit = _gauge(registry, names.STEP_CONCURRENCY_LIMIT)
        self.events = _counter(registry, names.EVENTS)
        self.wait_duration = _histogram(registry, names.WAIT_DURATION)
        self.loop_blocked = _counter(registry, names.LOOP_BLOCKED)
        self.measurements = _counter(registry, names.MEASUREMENTS)
        self.limit_wait = _histogram(registry, names.LIMIT_WAIT)
        self.middleware_errors = _counter(registry, names.MIDDLEWARE_ERRORS)
        _gauge(registry, names.BUILD_INFO)(_version()).set(1)
        self.steps: dict[tuple[str, str], _Step] = {}
        self._lock = threading.Lock()
        self._sent: dict[tuple[str, str], tuple[Counter, Counter]] = {}
        self.live: dict[int, tuple[RunCall, Clock]] = {}
        self._seen: set[str] = set()  # workflows: one without a live run shows 0, so that its series does not end
        registry.register(self)

    def step(self, call: StepCall) -> _Step:
        """Return the children of the step of `call`."""
        found = self.steps.get((call.run.workflow, call.config.name))
        return found if found is not None else self._add_step(call)

    def event(self, workflow: str, event_type: str) -> tuple[Counter, Counter]:
        """Return the counters of sent events of a type: emitted and dispatched. The most frequent ones, hence one lookup."""
        key = (workflow, event_type)
        found = self._sent.get(key)
        if found is None:
            found = self.events(*key, names.EMITTED_ACTION), self.events(*key, names.DISPATCHED_ACTION)
            if len(self._sent) < names.MAX_LABEL_SETS:
                self._sent[key] = found
        return found

    def _add_step(self, call: StepCall) -> _Step:
        labels = (call.workflow, call.step)
        with self._lock:
            if len(self.steps) >= names.MAX_LABEL_SETS:
                labels = (names.OTHER, names.OTHER)
            if labels not in self.steps:
                self.concurrency_limit(*labels).set(call.config.num_workers)
                self.steps[labels] = _Step(labels, self)
            return self.steps[labels]

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Name the metrics of `collect`, so that registering does not collect."""
        return [_empty(names.RUN_OLDEST_AGE), _empty(names.QUEUE_DEPTH)]

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Compute the gauges that only a scrape asks for."""
        return [self._ages(), _depths()]

    def _ages(self) -> GaugeMetricFamily:
        live = list(self.live.values())  # in one step: a scrape runs in a thread of its own
        self._seen.update([call.workflow for call, _ in live][: max(0, names.MAX_LABEL_SETS - len(self._seen))])
        ages = dict.fromkeys(self._seen, 0.0)
        for call, timer in live:
            name = call.workflow if call.workflow in ages else names.OTHER
            ages[name] = max(ages.get(name, 0.0), timer.now() - call.started_at)
        family = _empty(names.RUN_OLDEST_AGE)
        for workflow, age in sorted(ages.items()):
            family.add_metric([workflow], age)
        return family


def _counter(registry: CollectorRegistry, spec: names.Metric) -> _Family[Counter]:
    metric = Counter(spec.name, spec.help, spec.labels, registry=registry)
    return _Family(spec, lambda labels: metric.labels(*labels))


def _gauge(registry: CollectorRegistry, spec: names.Metric) -> _Family[Gauge]:
    metric = Gauge(spec.name, spec.help, spec.labels, registry=registry)
    return _Family(spec, lambda labels: metric.labels(*labels))


def _histogram(registry: CollectorRegistry, spec: names.Metric) -> _Family[Histogram]:
    metric = Histogram(spec.name, spec.help, spec.labels, registry=registry, buckets=spec.buckets)
    return _Family(spec, lambda labels: metric.labels(*labels))


def _timer(registry: CollectorRegistry, spec: names.Metric) -> _Family[_Timer]:
    metric = Histogram(spec.name, spec.help, spec.labels, registry=registry, buckets=spec.buckets)
    return _Family(spec, lambda labels: _Timer(metric.labels(*labels)))


_by_registry: WeakKeyDictionary[CollectorRegistry, _Families] = WeakKeyDictionary()
_registering = threading.Lock()


def _families_of(registry: CollectorRegistry) -> _Families:
    with _registering:
        found = _by_registry.get(registry)
        if found is None:
            found = _by_registry[registry] = _Families(registry)
        return found


class Metrics(Observer):
    """Counts and times runs, steps, attempts, events and waits.

    Labels are names that the program declares: workflows, steps, event and exception classes, limits. A metric keeps
    at most 2,000 label sets; what comes later counts as `_other`.

    Args:
        registry: where the metrics are registered at the first run; `prometheus_client.REGISTRY` if None.
    """

    hears = (
        EventSent, EventDropped, EventStreamed, StepTimedOut, WaitEnded, RunStalled, LoopBlocked, MiddlewareFailed, RetryScheduled,
    )  # fmt: skip

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._registry = registry
        self._bound: _Families | None = None
        self._retried: dict[tuple[str, int], int] = {}  # (run, execution) -> last attempt that was counted as failed
        self._listeners: dict[type[Notice], Callable[[_Families, Notice], None]] = {**_LISTENERS, RetryScheduled: self._retry}

    async def run(self, call: RunCall, call_next: RunNext, /) -> StopEvent | None:
        """Count and time a run."""
        families, timer = self._families(), clock.active.get()
        active = families.runs_active(call.workflow, "running")
        families.live[id(call)] = (call, timer)
        active.inc()
        try:
            result = await call_next(call)
        except GeneratorExit:
            raise
        except BaseException as error:
            _count_run(families, call, outcome_of_run(None, error), timer)
            raise
        finally:
            active.dec()
            families.live.pop(id(call), None)
        _count_run(families, call, outcome_of_run(result, None), timer)
        return result

    async def step(self, call: StepCall, call_next: StepNext, /) -> StepResult:
        """Count and time a step execution; its attempts are counted here too, which saves a layer around each."""
        families = self._bound or self._families()
        step = families.step(call)
        step.live.add(id(call))
        try:
            result = await call_next(call)
        except GeneratorExit:
            raise
        except BaseException as error:
            self._count_step(families, step, call, None, error)
            raise
        finally:
            step.live.discard(id(call))
        self._count_step(families, step, call, result, None)
        return result

    def on(self, notice: Notice, /) -> None:
        """Count what happens at an instant."""
        listener = self._listeners.get(type(notice))
        if listener is not None:
            listener(self._bound or self._families(), notice)

    def _families(self) -> _Families:
        if self._bound is None:
            self._bound = _families_of(prometheus_client.REGISTRY if self._registry is None else self._registry)
        return self._bound

    def _count_step(self, families: _Families, step: _Step, call: StepCall, result: StepResult, error: BaseException | None) -> None:
        outcome = outcome_of_step(call, result, error)
        now = clock.active.get().now()
        duration = step.durations.get(outcome)
        if duration is None:
            duration = step.durations[outcome] = families.step_duration(*step.labels, outcome)
        duration.observe(now - call.started_at, now, call)
        step.queue_wait.observe(call.queued)
        counted = self._retried.pop((call.run_id, call.execution), 0) if self._retried else 0
        if call.attempts > counted:  # else it ended between two attempts, or before the first
            _attempt_counter(families, step, outcome, error).inc()
        if call.collecting or call.collected:
            families.events(call.workflow, call.event_type, names.COLLECTED_ACTION).inc()
        if call.limit_waits or call.measurements:
            _count_details(families, call)

    def _retry(self, families: _Families, notice: Notice) -> None:
        assert isinstance(notice, RetryScheduled)
        if (call := notice.call) is None:
            return
        families.step_retries(call.workflow, call.step).inc()
        outcome = outcome_of_step(call, None, notice.error)
        families.step_attempts(call.workflow, call.step, outcome, error_type(notice.error)).inc()
        self._retried[(call.run_id, call.execution)] = notice.attempt


def _count_run(families: _Families, call: RunCall, outcome: Outcome, timer: Clock) -> None:
    now = timer.now()
    families.runs(call.workflow, outcome).inc()
    families.run_duration(call.workflow, outcome).observe(now - call.started_at, now, call)


def _attempt_counter(families: _Families, step: _Step, outcome: Outcome, error: BaseException | None) -> Counter:
    if error is not None and outcome in ("error", "timeout"):
        return families.step_attempts(*step.labels, outcome, error_type(error))
    found = step.attempts.get(outcome)
    if found is None:
        found = step.attempts[outcome] = families.step_attempts(*step.labels, outcome, "")
    return found


def _count_details(families: _Families, call: StepCall) -> None:
    for limit, seconds in call.limit_waits:
        families.limit_wait(limit, call.workflow, call.step).observe(seconds)
    for name, value, _ in call.measurements:
        if name in call.config.measures and value >= 0:  # a counter cannot fall; the record and the span have the value
            families.measurements(call.workflow, call.step, name).inc(value)


def _sent(families: _Families, notice: Notice) -> None:
    assert isinstance(notice, EventSent)
    emitted, dispatched = families.event(notice.run.workflow, notice.event_type)
    emitted.inc()
    if notice.to:
        dispatched.inc(len(notice.to))


def _dropped(families: _Families, notice: Notice) -> None:
    assert isinstance(notice, EventDropped)
    if notice.final:
        families.events(notice.run.workflow, notice.event_type, names.DROPPED_ACTION).inc()


def _streamed(families: _Families, notice: Notice) -> None:
    assert isinstance(notice, EventStreamed)
    families.events(notice.run.workflow, notice.event_type, names.STREAMED_ACTION).inc()


def _timed_out(families: _Families, notice: Notice) -> None:
    assert isinstance(notice, StepTimedOut)
    families.step_timeouts(notice.run.workflow, notice.call.step if notice.call else names.OTHER).inc()


def _wait_ended(families: _Families, notice: Notice) -> None:
    assert isinstance(notice, WaitEnded)
    families.wait_duration(notice.run.workflow, notice.event_type, notice.outcome).observe(notice.duration)


def _stalled(families: _Families, notice: Notice) -> None:
    assert isinstance(notice, RunStalled)
    families.runs_stalled(notice.run.workflow, *_first_lack(notice.report)).inc()


def _loop_blocked(families: _Families, notice: Notice) -> None:
    assert isinstance(notice, LoopBlocked)
    families.loop_blocked(notice.run.workflow, notice.step or names.OTHER).inc(notice.duration)


def _middleware_failed(families: _Families, notice: Notice) -> None:
    assert isinstance(notice, MiddlewareFailed)
    families.middleware_errors(notice.middleware, notice.error_type).inc()


_LISTENERS: dict[type[Notice], Callable[[_Families, Notice], None]] = {
    EventSent: _sent,
    EventDropped: _dropped,
    EventStreamed: _streamed,
    StepTimedOut: _timed_out,
    WaitEnded: _wait_ended,
    RunStalled: _stalled,
    LoopBlocked: _loop_blocked,
    MiddlewareFailed: _middleware_failed,
}


def _first_lack(report: RunReport) -> tuple[str, str]:
    """Return the step and the event type that a stalled run misses first: a run counts once."""
    for join in report.joins:
        for missing in join.lacks:
            return join.step, missing
    for wait in report.waits:
        return wait.step, wait.event_type
    return "", "StopEvent"


def _depths() -> GaugeMetricFamily:
    sums: dict[tuple[str, str], int] = {}
    for workflow, step, depth in queue_depths() if queue_depths is not None else ():
        key = (workflow, step)
        if key not in sums and len(sums) >= names.MAX_LABEL_SETS:
            key = (names.OTHER, names.OTHER)
        sums[key] = sums.get(key, 0) + depth
    family = _empty(names.QUEUE_DEPTH)
    for key, depth in sorted(sums.items()):
        family.add_metric(list(key), depth)
    return family


def _empty(spec: names.Metric) -> GaugeMetricFamily:
    return GaugeMetricFamily(spec.name, spec.help, labels=list(spec.labels))


def _version() -> str:
    try:
        return metadata.version("tracedflow")
    except metadata.PackageNotFoundError:
        return "unknown"
