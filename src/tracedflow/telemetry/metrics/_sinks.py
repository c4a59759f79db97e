"""Where measurements go: `prometheus_client`, and another sink beside it. A sink makes bound children and knows no runs."""

from __future__ import annotations

import logging
import math
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeAlias

from opentelemetry import trace
from opentelemetry.trace import SpanContext
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from .. import names
from ._processes import directory

_log = logging.getLogger("tracedflow.metrics")

Labels: TypeAlias = "tuple[str, ...]"
AtScrape: TypeAlias = Callable[[], "dict[Labels, float]"]

_ACROSS = {names.BUILD_INFO: "max", names.STEP_CONCURRENCY_LIMIT: "max", names.RUN_OLDEST_AGE: "livemax"}
"""How the gauges of several processes become one, where it is not the sum of those of the live ones."""


class Count(Protocol):
    """A bound counter."""

    def inc(self, amount: float = 1) -> None:
        """Add to it."""
        ...


class Level(Protocol):
    """A bound gauge."""

    def set(self, value: float) -> None:
        """Set it."""
        ...


class Timer(Protocol):
    """A bound histogram."""

    def observe_all(self, values: Sequence[float], exemplar: tuple[float, SpanContext] | None = None) -> None:
        """Take observations in seconds; `exemplar` is one more, with the span that it came from."""
        ...


class Sink(Protocol):
    """Makes metrics; each is a function from label values to a bound child."""

    eager: bool  # measurements must not wait for a scrape: none may come to this process

    def counter(self, spec: names.Metric) -> Callable[[Labels], Count]:
        """Return the maker of the counters of a metric."""
        ...

    def gauge(self, spec: names.Metric) -> Callable[[Labels], Level]:
        """Return the maker of the gauges of a metric."""
        ...

    def histogram(self, spec: names.Metric) -> Callable[[Labels], Timer]:
        """Return the maker of the histograms of a metric."""
        ...

    def at_scrape(self, before: Callable[[], None], gauges: Sequence[tuple[names.Metric, AtScrape]]) -> None:
        """Have `before` called ahead of each collection, and `gauges` computed in it."""
        ...

    def refresh(self) -> None:
        """Do what a collection would, if none comes to this process."""
        ...


# --- prometheus_client ---


class PrometheusSink:
    """Metrics in a registry of `prometheus_client`. A metric whose name is taken goes nowhere, and that is said."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._before: list[Callable[[], None]] = []
        self._kept: list[tuple[_KeptGauge, AtScrape]] = []
        self._refreshing = threading.RLock()
        self.eager = directory() is not None

    def counter(self, spec: names.Metric) -> Callable[[Labels], Count]:
        """Return the maker of the counters of a metric."""
        metric = self._made(_Counter, spec)
        return lambda labels: metric.labels(*labels)

    def gauge(self, spec: names.Metric) -> Callable[[Labels], Level]:
        """Return the maker of the gauges of a metric."""
        metric = self._made(_Gauge, spec, multiprocess_mode=_ACROSS.get(spec, "livesum"))
        return lambda labels: metric.labels(*labels) if labels else metric

    def histogram(self, spec: names.Metric) -> Callable[[Labels], Timer]:
        """Return the maker of the histograms of a metric."""
        metric = self._made(_Histogram, spec, buckets=spec.buckets)
        return lambda labels: _PrometheusTimer(metric.labels(*labels), spec.buckets)

    def at_scrape(self, before: Callable[[], None], gauges: Sequence[tuple[names.Metric, AtScrape]]) -> None:
        """Have `before` called ahead of each collection, and `gauges` computed in it; over several processes, at `refresh`."""
        self._before.append(before)
        if self.eager:
            self._kept += [(_KeptGauge(self.gauge(spec)), compute) for spec, compute in gauges]
            return
        try:
            self._registry.register(_AtScrape(before, gauges))
        except ValueError as error:
            _say_clash(", ".join(spec.name for spec, _ in gauges), error)

    def refresh(self) -> None:
        """Do what a collection would."""
        for before in self._before:
            before()
        with self._refreshing:
            for gauge, compute in self._kept:
                gauge.set_all(compute())

    def _made(self, kind: Any, spec: names.Metric, **options: Any) -> Any:
        try:
            metric = kind(spec.name, spec.help, spec.labels, registry=self._registry, **options)
        except ValueError as error:
            _say_clash(spec.name, error)
            metric = kind(spec.name, spec.help, spec.labels, registry=None, **options)
        metric.before = self._before
        return metric


def _say_clash(name: str, error: ValueError) -> None:
    _log.error("metric %s is not exported: the registry has another one of that name (%s). Give tracedflow its own registry", name, error)


class _KeptGauge:
    """A gauge that is computed, and kept for a scrape which comes to another process."""

    __slots__ = ("_bind", "_shown")

    def __init__(self, bind: Callable[[Labels], Level]) -> None:
        self._bind = bind
        self._shown: dict[Labels, Level] = {}

    def set_all(self, values: dict[Labels, float]) -> None:
        for labels in values.keys() - self._shown.keys():
            self._shown[labels] = self._bind(labels)
        for labels, child in self._shown.items():
            child.set(values.get(labels, 0.0))


class _Flushing:
    """Brings what is pending into a metric before it is collected, whatever part of its registry is asked for."""

    before: list[Callable[[], None]]

    def collect(self) -> Iterable[Any]:
        for flush in getattr(self, "before", ()):
            flush()
        return super().collect()  # type: ignore[misc,no-any-return]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType, reportUnknownMemberType]


class _Counter(_Flushing, Counter):
    pass


class _Gauge(_Flushing, Gauge):
    pass


class _Histogram(_Flushing, Histogram):
    pass


class _PrometheusTimer:
    """A bound histogram that takes many observations at once: one by one they cost four times as much."""

    __slots__ = ("_bounds", "_child", "_parts")

    def __init__(self, child: Any, bounds: Sequence[float]) -> None:
        self._child = child
        self._bounds = bounds
        parts = (getattr(child, "_sum", None), getattr(child, "_buckets", None))
        self._parts = parts if None not in parts and len(parts[1] or ()) == len(bounds) + 1 else None

    def observe_all(self, values: Sequence[float], exemplar: tuple[float, SpanContext] | None = None) -> None:
        """Take observations in seconds."""
        if exemplar is not None:
            seconds, context = exemplar
            ids = {"trace_id": trace.format_trace_id(context.trace_id), "span_id": trace.format_span_id(context.span_id)}
            self._child.observe(seconds, ids)
        if self._parts is None:
            for value in values:
                self._child.observe(value)
        elif values:
            total, buckets = self._parts
            total.inc(sum(values))  # type: ignore[union-attr]
            ordered, counted = sorted(values), 0
            for place, bound in enumerate((*self._bounds, math.inf)):
                within = bisect_right(ordered, bound, counted)
                if within > counted:
                    buckets[place].inc(within - counted)  # type: ignore[index]
                    counted = within
                    if counted == len(ordered):
                        break


class _AtScrape(Collector):
    def __init__(self, before: Callable[[], None], gauges: Sequence[tuple[names.Metric, AtScrape]]) -> None:
        self._before = before
        self._gauges = gauges

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Name the metrics of `collect`, so that registering does not collect."""
        return [GaugeMetricFamily(spec.name, spec.help, labels=list(spec.labels)) for spec, _ in self._gauges]

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Compute the gauges that only a scrape asks for."""
        self._before()
        for spec, compute in self._gauges:
            family = GaugeMetricFamily(spec.name, spec.help, labels=list(spec.labels))
            for labels, value in sorted(compute().items()):
                family.add_metric(list(labels), value)
            yield family


# --- both ---


class Both:
    """Two sinks as one: each child is a pair."""

    def __init__(self, first: Sink, second: Sink) -> None:
        self._sinks = (first, second)
        self.eager = first.eager or second.eager

    def counter(self, spec: names.Metric) -> Callable[[Labels], Count]:
        """Return the maker of the counters of a metric."""
        one, other = (sink.counter(spec) for sink in self._sinks)
        return lambda labels: _Pair(one(labels), other(labels))

    def gauge(self, spec: names.Metric) -> Callable[[Labels], Level]:
        """Return the maker of the gauges of a metric."""
        one, other = (sink.gauge(spec) for sink in self._sinks)
        return lambda labels: _Pair(one(labels), other(labels))

    def histogram(self, spec: names.Metric) -> Callable[[Labels], Timer]:
        """Return the maker of the histograms of a metric."""
        one, other = (sink.histogram(spec) for sink in self._sinks)
        return lambda labels: _Pair(one(labels), other(labels))

    def at_scrape(self, before: Callable[[], None], gauges: Sequence[tuple[names.Metric, AtScrape]]) -> None:
        """Have `before` called ahead of each collection of either, and `gauges` computed in it."""
        for sink in self._sinks:
            sink.at_scrape(before, gauges)

    def refresh(self) -> None:
        """Do what a collection would."""
        for sink in self._sinks:
            sink.refresh()


class _Pair:
    __slots__ = ("_one", "_other")

    def __init__(self, one: Any, other: Any) -> None:
        self._one = one
        self._other = other

    def inc(self, amount: float = 1) -> None:
        self._one.inc(amount)
        self._other.inc(amount)

    def set(self, value: float) -> None:
        self._one.set(value)
        self._other.set(value)

    def observe_all(self, values: Sequence[float], exemplar: tuple[float, SpanContext] | None = None) -> None:
        self._one.observe_all(values, exemplar)
        self._other.observe_all(values, exemplar)
