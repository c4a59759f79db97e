"""Measurements as OpenTelemetry metrics, of a meter that may come late and may be replaced: `setup()` can follow a `shutdown()`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from opentelemetry import metrics, trace
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.trace import NonRecordingSpan, SpanContext

from .. import names

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter, MeterProvider

    from ._sinks import AtScrape, Count, Labels, Level, Timer

_Record: TypeAlias = Callable[..., None]


class OtelSink:
    """Metrics of an OpenTelemetry meter, under their OpenTelemetry names. Until it is bound, they go nowhere."""

    eager = False

    def __init__(self) -> None:
        self.provider: MeterProvider | None = None
        self._meter: Meter | None = None
        self._instruments: list[_Instrument] = []
        self._levels: list[_OtelLevel] = []
        self._gauges: list[tuple[names.Metric, AtScrape, Callable[[], None]]] = []

    def bind(self, provider: MeterProvider) -> None:
        """Send to this provider from now on, and to none before it; gauges keep their values."""
        self.provider = provider
        self._meter = meter = metrics.get_meter(names.SCOPE, meter_provider=provider, schema_url=names.SCHEMA_URL)
        for instrument in self._instruments:
            instrument.bind(meter)
        for level in self._levels:
            level.say()
        for gauge in self._gauges:
            _observe(meter, *gauge)

    def counter(self, spec: names.Metric) -> Callable[[Labels], Count]:
        """Return the maker of the counters of a metric."""
        made = self._instrument(lambda meter: meter.create_counter(spec.otel, unit=spec.unit, description=spec.help).add)
        return lambda labels: _OtelCount(made, _named(spec, labels))

    def gauge(self, spec: names.Metric) -> Callable[[Labels], Level]:
        """Return the maker of the gauges of a metric."""
        made = self._instrument(lambda meter: meter.create_gauge(spec.otel, unit=spec.unit, description=spec.help).set)

        def level(labels: Labels) -> Level:
            found = _OtelLevel(made, _named(spec, labels))
            self._levels.append(found)
            return found

        return level

    def histogram(self, spec: names.Metric) -> Callable[[Labels], Timer]:
        """Return the maker of the histograms of a metric."""
        bounds = list(spec.buckets)
        made = self._instrument(
            lambda meter: (
                meter.create_histogram(spec.otel, unit=spec.unit, description=spec.help, explicit_bucket_boundaries_advisory=bounds).record
            )
        )
        return lambda labels: _OtelTimer(made, _named(spec, labels))

    def at_scrape(self, before: Callable[[], None], gauges: Sequence[tuple[names.Metric, AtScrape]]) -> None:
        """Have `before` called ahead of each collection, and `gauges` computed in it: a reader asks observable ones first."""
        for spec, compute in gauges:
            self._gauges.append((spec, compute, before))
            if self._meter is not None:
                _observe(self._meter, spec, compute, before)

    def refresh(self) -> None:
        """Do nothing: a reader is in every process."""

    def _instrument(self, make: Callable[[Meter], _Record]) -> _Instrument:
        found = _Instrument(make)
        self._instruments.append(found)
        if self._meter is not None:
            found.bind(self._meter)
        return found


class _Instrument:
    """An instrument of whichever meter is bound."""

    __slots__ = ("_make", "record")

    def __init__(self, make: Callable[[Meter], _Record]) -> None:
        self._make = make
        self.record: _Record | None = None

    def bind(self, meter: Meter) -> None:
        self.record = self._make(meter)


def _observe(meter: Meter, spec: names.Metric, compute: AtScrape, before: Callable[[], None]) -> None:
    def observe(options: CallbackOptions) -> Iterable[Observation]:
        before()
        return [Observation(value, _named(spec, labels)) for labels, value in compute().items()]

    meter.create_observable_gauge(spec.otel, [observe], unit=spec.unit, description=spec.help)


def _named(spec: names.Metric, labels: Labels) -> dict[str, str]:
    return {names.OTEL_LABELS.get(name, name): value for name, value in zip(spec.labels, labels, strict=True)}


class _OtelCount:
    __slots__ = ("_instrument", "_labels")

    def __init__(self, instrument: _Instrument, labels: dict[str, str]) -> None:
        self._instrument = instrument
        self._labels = labels

    def inc(self, amount: float = 1) -> None:
        if self._instrument.record is not None:
            self._instrument.record(amount, self._labels)


class _OtelLevel:
    __slots__ = ("_instrument", "_labels", "_value")

    def __init__(self, instrument: _Instrument, labels: dict[str, str]) -> None:
        self._instrument = instrument
        self._labels = labels
        self._value = 0.0

    def set(self, value: float) -> None:
        self._value = value
        self.say()

    def say(self) -> None:
        """Tell the meter, which may know nothing of it yet."""
        if self._instrument.record is not None:
            self._instrument.record(self._value, self._labels)


class _OtelTimer:
    __slots__ = ("_instrument", "_labels")

    def __init__(self, instrument: _Instrument, labels: dict[str, str]) -> None:
        self._instrument = instrument
        self._labels = labels

    def observe_all(self, values: Sequence[float], exemplar: tuple[float, SpanContext] | None = None) -> None:
        record: Any = self._instrument.record
        if record is None:
            return
        for value in values:
            record(value, self._labels)
        if exemplar is not None:
            seconds, context = exemplar
            record(seconds, self._labels, trace.set_span_in_context(NonRecordingSpan(context)))
