"""Metrics of runs, steps, attempts, events and waits, fed by the same records as everything else that is shown.

The only package that imports `prometheus_client`. Nothing is registered before the first run; then once per registry,
however many layers use it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary

import prometheus_client
from opentelemetry import metrics as otel_metrics
from opentelemetry.metrics import MeterProvider
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from ... import clock
from ..._dispatch import current_runner
from ...middleware import (
    EventDropped,
    EventStreamed,
    LoopBlocked,
    MiddlewareFailed,
    Notice,
    Observer,
    RetryScheduled,
    RunCall,
    RunStalled,
    StepTimedOut,
    WaitEnded,
)
from ...outcomes import outcome_of_run
from ...records import RecordLog
from .. import names
from ._families import Families, LiveRun
from ._sinks import MULTIPROCESS, Both, OtelSink, PrometheusSink

if TYPE_CHECKING:
    from ..._runner import Runner
    from ...events import StopEvent
    from ...middleware import RunNext
    from ...records import RunReport

meter_provider: MeterProvider | None = None
"""Set from outside: where the layers that name no provider also send their metrics."""

_by_registry: WeakKeyDictionary[CollectorRegistry, Families] = WeakKeyDictionary()
_registering = threading.Lock()


class Metrics(Observer):
    """Counts and times runs, steps, attempts, events and waits.

    Labels are names that the program declares: workflows, steps, event and exception classes, limits. A metric keeps
    at most 2,000 label sets; what comes later counts as `_other`.

    Args:
        registry: where the metrics are registered at the first run; `prometheus_client.REGISTRY` if None.
        meter_provider: also send them as OpenTelemetry metrics.
    """

    hears: ClassVar[tuple[type[Notice], ...] | None] = (
        EventDropped, EventStreamed, StepTimedOut, WaitEnded, RunStalled, LoopBlocked, MiddlewareFailed, RetryScheduled,
    )  # fmt: skip

    def __init__(self, registry: CollectorRegistry | None = None, *, meter_provider: MeterProvider | None = None) -> None:
        self._registry = registry
        self._meter_provider = meter_provider
        self._bound: Families | None = None

    async def run(self, call: RunCall, call_next: RunNext, /) -> StopEvent | None:
        """Count and time a run; its attempts are counted from their records, which saves a layer around each."""
        families, runner = self._families(), current_runner.get()
        run = LiveRun(call, clock.active.get(), _sent_by(runner, call))
        families.begin(run)
        if isinstance(call.records, RecordLog):
            call.records.listeners += (families.take,)
        try:
            result = await call_next(call)
        except GeneratorExit:
            families.end(run, None)
            raise
        except BaseException as error:
            families.end(run, outcome_of_run(None, error))
            raise
        families.end(run, outcome_of_run(result, None))
        return result

    def on(self, notice: Notice, /) -> None:
        """Count what happens at an instant."""
        listener = _LISTENERS.get(type(notice))
        if listener is not None:
            listener(self._bound or self._families(), notice)

    def _families(self) -> Families:
        if self._bound is None:
            registry = prometheus_client.REGISTRY if self._registry is None else self._registry
            self._bound = _families_of(registry, self._meter_provider or meter_provider)
        return self._bound


def _families_of(registry: CollectorRegistry, provider: MeterProvider | None) -> Families:
    with _registering:
        found = _by_registry.get(registry)
        if found is None:
            prometheus = PrometheusSink(registry)
            meter = None if provider is None else otel_metrics.get_meter(names.SCOPE, meter_provider=provider, schema_url=names.SCHEMA_URL)
            found = _by_registry[registry] = Families(prometheus if meter is None else Both(prometheus, OtelSink(meter)))
        return found


def metrics_app(registry: CollectorRegistry | None = None) -> Callable[..., Any]:
    """Return an ASGI app that shows the metrics. Mount it where Prometheus looks, at `/metrics`.

    With `PROMETHEUS_MULTIPROC_DIR` set, as for Gunicorn, it shows those of all workers. Exemplars are shown to who accepts
    `application/openmetrics-text`, as Prometheus does with `--enable-feature=exemplar-storage`.
    """
    if registry is None and any(os.environ.get(name) for name in MULTIPROCESS):
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    shown = prometheus_client.REGISTRY if registry is None else registry
    app: Callable[..., Any] = prometheus_client.make_asgi_app(shown)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return app


def _sent_by(runner: Runner | None, call: RunCall) -> Callable[[], Iterable[tuple[str, int]]]:
    """Return a function that says how many events of each type a run has sent so far."""
    if runner is None or runner.run_id != call.run_id:
        return lambda: ()
    state = runner.state

    def sent() -> Iterable[tuple[str, int]]:
        counts: dict[str, int] = {}
        for kind, tally in list(state.tallies.items()):  # in one step: a scrape runs in a thread of its own
            counts[kind.__name__] = counts.get(kind.__name__, 0) + tally.sent
        return counts.items()

    return sent


def _retry(families: Families, notice: Notice) -> None:
    assert isinstance(notice, RetryScheduled)
    if notice.call is not None:
        families.step_retries(notice.call.workflow, notice.call.step).inc()


def _dropped(families: Families, notice: Notice) -> None:
    assert isinstance(notice, EventDropped)
    if notice.final:
        families.events(notice.run.workflow, notice.event_type, names.DROPPED_ACTION).inc()


def _streamed(families: Families, notice: Notice) -> None:
    assert isinstance(notice, EventStreamed)
    families.events(notice.run.workflow, notice.event_type, names.STREAMED_ACTION).inc()


def _timed_out(families: Families, notice: Notice) -> None:
    assert isinstance(notice, StepTimedOut)
    families.step_timeouts(notice.run.workflow, notice.call.step if notice.call else names.OTHER).inc()


def _wait_ended(families: Families, notice: Notice) -> None:
    assert isinstance(notice, WaitEnded)
    families.wait_duration(notice.run.workflow, notice.event_type, notice.outcome).observe_all((notice.duration,))


def _stalled(families: Families, notice: Notice) -> None:
    assert isinstance(notice, RunStalled)
    families.runs_stalled(notice.run.workflow, *_first_lack(notice.report)).inc()


def _loop_blocked(families: Families, notice: Notice) -> None:
    assert isinstance(notice, LoopBlocked)
    families.loop_blocked(notice.run.workflow, notice.step or names.OTHER).inc(notice.duration)


def _middleware_failed(families: Families, notice: Notice) -> None:
    assert isinstance(notice, MiddlewareFailed)
    families.middleware_errors(notice.middleware, notice.error_type).inc()


_LISTENERS: dict[type[Notice], Callable[[Families, Notice], None]] = {
    RetryScheduled: _retry,
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
