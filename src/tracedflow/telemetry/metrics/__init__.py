"""Metrics of runs, steps, attempts, events and waits, fed by the same records as everything else that is shown.

The only package that imports `prometheus_client`. Nothing is registered before the first run; then once per registry,
however many layers use it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary

import prometheus_client
from opentelemetry.metrics import MeterProvider
from prometheus_client import CollectorRegistry

from ... import clock
from ..._engine._dispatch import current_runner
from ..._record_log import RecordLog
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
from .. import names
from ._families import Families, LiveRun
from ._otel_sink import OtelSink
from ._processes import MULTIPROCESS, LiveProcesses
from ._sinks import Both, PrometheusSink

if TYPE_CHECKING:
    from ...events import StopEvent
    from ...middleware import RunNext
    from ...records import RunReport

_by_registry: WeakKeyDictionary[CollectorRegistry, tuple[Families, OtelSink]] = WeakKeyDictionary()
_registering = threading.RLock()
_in_use: MeterProvider | None = None


def use_meter_provider(provider: MeterProvider | None) -> None:
    """Also send there the metrics of all layers that name no provider, those that have begun too."""
    global _in_use
    with _registering:
        before, _in_use = _in_use, provider
        for families, otel in list(_by_registry.values()):
            if provider is not None and otel.provider in (None, before):
                _bind(families, otel, provider)


def _bind(families: Families, otel: OtelSink, provider: MeterProvider) -> None:
    families.settle()  # what ended before is not the new provider's
    otel.bind(provider)


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
        run = LiveRun(call, clock.active.get(), runner.state if runner is not None and runner.run_id == call.run_id else None)
        families.begin(run)
        if isinstance(call.records, RecordLog):
            call.records.listeners += families.takers_of(call.workflow)
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
            self._bound = _families_of(registry, self._meter_provider)
        return self._bound


def _families_of(registry: CollectorRegistry, provider: MeterProvider | None) -> Families:
    with _registering:
        found = _by_registry.get(registry)
        if found is None:
            otel = OtelSink()
            found = _by_registry[registry] = Families(Both(PrometheusSink(registry), otel)), otel
        families, otel = found
        wanted = provider or (_in_use if otel.provider is None else None)
        if wanted is not None and otel.provider is not wanted:
            _bind(families, otel, wanted)
        return families


def metrics_app(registry: CollectorRegistry | None = None) -> Callable[..., Any]:
    """Return an ASGI app that shows the metrics. Mount it where Prometheus looks, at `/metrics`.

    With `PROMETHEUS_MULTIPROC_DIR` set, as for Gunicorn, it shows those of all workers: without exemplars, and without the
    gauges of workers that are no more. Exemplars are shown to who accepts `application/openmetrics-text`, as Prometheus
    does with `--enable-feature=exemplar-storage`.
    """
    if registry is None and any(os.environ.get(name) for name in MULTIPROCESS):
        registry = CollectorRegistry()
        LiveProcesses(registry)
    shown = prometheus_client.REGISTRY if registry is None else registry
    app: Callable[..., Any] = prometheus_client.make_asgi_app(shown)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return app


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
