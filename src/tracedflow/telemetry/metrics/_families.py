"""All metrics of one sink. Attempts are taken down as they come, and summed when somebody looks: that halves their cost."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

from opentelemetry.trace import SpanContext

from ..._engine import _live
from ...outcomes import FAILURES
from .. import names
from ._sinks import Count, Labels, Level, Sink, Timer
from ._tallies import EXEMPLAR_EVERY, StepTally, Taker, sampled_context

if TYPE_CHECKING:
    from ..._engine._state import RunState
    from ..._record_log import Listener
    from ...clock import Clock
    from ...middleware import RunCall, StepCall
    from ...records import Outcome

_log = logging.getLogger("tracedflow.metrics")

REFRESH = 5.0  # seconds between looks at the live runs, where no scrape comes to this process
_PENDING = 256  # attempts of a step that are taken down before they are summed
_RUNS_PENDING = 16  # the same of runs: each has more to be summed

ChildT = TypeVar("ChildT")
EndedRun: TypeAlias = "tuple[str, Outcome | None, float, SpanContext | None, list[tuple[str, int]]]"
"""workflow, how it ended (None: it was let go), seconds, exemplar, and events that it sent, by type"""


class Family(Generic[ChildT]):
    """A metric with its bound children. Past the cap, every new label set counts as `_other`."""

    __slots__ = ("_bind", "_children", "_lock", "_warned", "spec")

    def __init__(self, spec: names.Metric, bind: Callable[[Labels], ChildT]) -> None:
        self.spec = spec
        self._bind = bind
        self._children: dict[Labels, ChildT] = {}
        self._lock = threading.RLock()
        self._warned = False

    def __call__(self, *labels: str) -> ChildT:
        """Return the child of these labels."""
        found = self._children.get(labels)
        return found if found is not None else self._add(labels)

    def _add(self, labels: Labels) -> ChildT:
        with self._lock:
            if len(self._children) >= names.MAX_LABEL_SETS:
                labels = self._overflow()
            if labels not in self._children:
                self._children[labels] = self._bind(labels)
            return self._children[labels]

    def _overflow(self) -> Labels:
        if not self._warned:
            self._warned = True
            _log.warning(
                "metric %s has %d label sets; further ones count as %r. Are there names made from data, such as a run id?",
                self.spec.name,
                names.MAX_LABEL_SETS,
                names.OTHER,
            )
        return (names.OTHER,) * len(self.spec.labels)


@dataclass(slots=True, eq=False)
class LiveRun:
    """A run that is watched. `counted`: how many events of each type that it sent are in the metrics."""

    call: RunCall
    clock: Clock
    state: RunState | None  # None: it has no runner
    counted: dict[str, int] = field(default_factory=dict[str, int])

    def more_sent(self) -> list[tuple[str, int]]:
        """Return how many events of each type the run has sent since this was asked before."""
        found: list[tuple[str, int]] = []
        for kind, count in self.sent():
            more = count - self.counted.get(kind, 0)
            if more > 0:
                self.counted[kind] = count
                found.append((kind, more))
        return found

    def sent(self) -> Iterable[tuple[str, int]]:
        """Return how many events of each type the run has sent so far."""
        counts: dict[str, int] = {}
        if self.state is None:
            return ()
        for kind, tally in list(self.state.tallies.items()):  # in one step: a scrape runs in a thread of its own
            counts[kind.__name__] = counts.get(kind.__name__, 0) + tally.sent
        return counts.items()

    @property
    def activity(self) -> str:
        """`suspended` if nothing runs, is queued or backs off: only an event from outside lets it go on; else `running`."""
        state = self.state
        if state is None or state.status != "running" or state.queued:
            return names.RUNNING_STATE
        parked = all(each.phase == "parked" and not each.resuming for each in list(state.executions.values()))
        return names.SUSPENDED_STATE if parked else names.RUNNING_STATE


class Families:
    """All metrics of one sink, what is taken down for them, and the live runs that a scrape looks at."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.runs = _family(names.RUNS, sink.counter)
        self.run_duration = _family(names.RUN_DURATION, sink.histogram)
        self.runs_stalled = _family(names.RUNS_STALLED, sink.counter)
        self.step_attempts = _family(names.STEP_ATTEMPTS_TOTAL, sink.counter)
        self.step_duration = _family(names.STEP_DURATION, sink.histogram)
        self.step_queue_wait = _family(names.STEP_QUEUE_WAIT_SECONDS, sink.histogram)
        self.step_retries = _family(names.STEP_RETRIES, sink.counter)
        self.step_timeouts = _family(names.STEP_TIMEOUTS, sink.counter)
        self.concurrency_limit = _family(names.STEP_CONCURRENCY_LIMIT, sink.gauge)
        self.events = _family(names.EVENTS, sink.counter)
        self.wait_duration = _family(names.WAIT_DURATION, sink.histogram)
        self.loop_blocked = _family(names.LOOP_BLOCKED, sink.counter)
        self.measurements = _family(names.MEASUREMENTS, sink.counter)
        self.limit_wait = _family(names.LIMIT_WAIT, sink.histogram)
        self.middleware_errors = _family(names.MIDDLEWARE_ERRORS, sink.counter)
        _family(names.BUILD_INFO, sink.gauge)(_version()).set(1)
        self.live: dict[int, LiveRun] = {}
        self._steps: dict[tuple[str, str], StepTally] = {}
        self._adding, self._summing = threading.RLock(), threading.RLock()
        self._ended: deque[EndedRun] = deque()  # runs that are taken down and not summed yet
        self._marked: dict[tuple[str, Outcome | None], float] = {}
        self._takers: dict[str, tuple[Listener, ...]] = {}  # by workflow
        self._seen: set[str] = set()  # workflows: one without a live run shows 0, so that its series does not end
        self._ticking: asyncio.AbstractEventLoop | None = None  # the one whose timer looks at the live runs
        sink.at_scrape(
            self.settle,
            (
                (names.RUNS_ACTIVE, self._runs_active),
                (names.RUN_OLDEST_AGE, self._ages),
                (names.QUEUE_DEPTH, self._depths),
                (names.STEPS_ACTIVE, self._active),
            ),
        )

    # --- runs ---

    def begin(self, run: LiveRun) -> None:
        """Watch a run."""
        run.counted.update(run.sent())  # a resumed run has sent some in an earlier life
        self.live[id(run)] = run
        if run.call.workflow not in self._seen:
            self._see(run)
        if self._sink.eager:
            self._keep_fresh()

    def end(self, run: LiveRun, outcome: Outcome | None) -> None:
        """Count a run that has ended; without an outcome it is only let go."""
        call, now, exemplar = run.call, run.clock.now(), None
        with self._summing:  # a scrape may be counting what it has sent
            self.live.pop(id(run), None)
            sent = run.more_sent()
        if call.trace_id is not None and now - self._marked.get((call.workflow, outcome), 0.0) >= EXEMPLAR_EVERY:
            exemplar = sampled_context(call)
            if exemplar is not None:
                self._marked[call.workflow, outcome] = now
        self._ended.append((call.workflow, outcome, now - call.started_at, exemplar, sent))
        if self._sink.eager or len(self._ended) >= _RUNS_PENDING:
            with self._summing:
                self._sum_runs()
        if self._sink.eager and not self.live:
            self._sink.refresh()

    def _see(self, run: LiveRun) -> None:
        """Know a workflow, with its steps: their limits are there before their first attempt ends."""
        if len(self._seen) < names.MAX_LABEL_SETS:
            self._seen.add(run.call.workflow)
        for step, lane in list(run.state.lanes.items()) if run.state is not None else ():
            self._add_step(run.call.workflow, step, lane.slots)

    def _sum_runs(self) -> None:
        counts: dict[Labels, int] = {}
        durations: dict[Labels, list[float]] = {}
        emitted: dict[Labels, int] = {}
        while self._ended:
            workflow, outcome, seconds, exemplar, sent = self._ended.popleft()
            for kind, count in sent:
                emitted[workflow, kind] = emitted.get((workflow, kind), 0) + count
            if outcome is None:
                continue
            key: Labels = (workflow, outcome)
            counts[key] = counts.get(key, 0) + 1
            if exemplar is None:
                durations.setdefault(key, []).append(seconds)
            else:
                self.run_duration(*key).observe_all((), (seconds, exemplar))
        for labels, count in counts.items():
            self.runs(*labels).inc(count)
        for labels, values in durations.items():
            self.run_duration(*labels).observe_all(values)
        for labels, count in emitted.items():
            self.events(*labels, names.EMITTED_ACTION).inc(count)

    # --- attempts ---

    def takers_of(self, workflow: str) -> tuple[Listener, ...]:
        """Return what hears of every attempt of the runs of a workflow."""
        found = self._takers.get(workflow)
        if found is None:
            taker = Taker(1 if self._sink.eager else _PENDING, self._step_of, self._count_details, self._settle_step)
            found = (taker.take,)
            if len(self._takers) < names.MAX_LABEL_SETS:
                self._takers[workflow] = found
        return found

    def _step_of(self, call: StepCall) -> StepTally:
        return self._steps.get((call.workflow, call.step)) or self._add_step(call.workflow, call.step, call.config.num_workers)

    def _settle_step(self, tally: StepTally) -> None:
        with self._summing:
            self._sum(tally)

    def _add_step(self, workflow: str, step: str, slots: int) -> StepTally:
        labels = (workflow, step)
        with self._adding:
            if len(self._steps) >= names.MAX_LABEL_SETS:
                labels = (names.OTHER, names.OTHER)
            if labels not in self._steps:
                self.concurrency_limit(*labels).set(slots)
                self._steps[labels] = StepTally(labels)
            return self._steps[labels]

    def _count_details(self, call: StepCall) -> None:
        if call.collecting or call.joined:
            self.events(call.workflow, call.event_type, names.COLLECTED_ACTION).inc()
        for limit, seconds in call.limit_waits:
            self.limit_wait(limit, call.workflow, call.step).observe_all((seconds,))
        for name, value, _ in call.measurements:
            if name in call.config.measures and value >= 0:  # a counter cannot fall; the record and the span have the value
                self.measurements(call.workflow, call.step, name).inc(value)

    def settle(self) -> None:
        """Sum everything that is taken down."""
        with self._summing:
            for run in list(self.live.values()):
                for kind, count in run.more_sent():
                    self.events(run.call.workflow, kind, names.EMITTED_ACTION).inc(count)
            self._sum_runs()
            for tally in list(self._steps.values()):
                self._sum(tally)

    def _sum(self, tally: StepTally) -> None:
        sums = tally.summed()
        if not sums.attempts:
            return
        workflow, step = tally.labels
        for (outcome, error), count in sums.attempts.items():
            self.step_attempts(workflow, step, outcome, error if outcome in FAILURES else "").inc(count)
        for kind, count in sums.events.items():
            self.events(workflow, kind, names.DISPATCHED_ACTION).inc(count)
        for outcome, values in sums.seconds.items():
            self.step_duration(workflow, step, outcome).observe_all(values)
        for outcome, duration, exemplar in sums.marked:
            self.step_duration(workflow, step, outcome).observe_all((), (duration, exemplar))
        self.step_queue_wait(workflow, step).observe_all(sums.queued)

    # --- where no scrape comes to this process: now and then ---

    def _keep_fresh(self) -> None:
        """Look at the live runs now if there is but one, and from time to time as long as there are any."""
        if len(self.live) == 1:
            self._sink.refresh()
        loop = asyncio.get_running_loop()
        if self._ticking is not loop:
            self._ticking = loop
            loop.call_later(REFRESH, self._tick, loop)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._ticking is not loop:  # the runs of another one began later
            return
        try:
            self._sink.refresh()
        except Exception:  # noqa: BLE001 - a timer of ours: nobody else would catch it
            _log.exception("the gauges of the live runs could not be brought up to date")
        if self.live:
            loop.call_later(REFRESH, self._tick, loop)
        else:
            self._ticking = None

    # --- at scrape ---

    def _runs_active(self) -> dict[Labels, float]:
        states = (names.RUNNING_STATE, names.SUSPENDED_STATE)
        active: dict[Labels, float] = {(workflow, state): 0.0 for workflow in list(self._seen) for state in states}
        for run in list(self.live.values()):
            _add(active, (run.call.workflow, run.activity), 1)
        return active

    def _ages(self) -> dict[Labels, float]:
        live = list(self.live.values())  # in one step: a scrape runs in a thread of its own
        ages: dict[Labels, float] = {(workflow,): 0.0 for workflow in list(self._seen)}
        for run in live:
            key = (run.call.workflow,) if (run.call.workflow,) in ages else (names.OTHER,)
            ages[key] = max(ages.get(key, 0.0), run.clock.now() - run.call.started_at)
        return ages

    def _active(self) -> dict[Labels, float]:
        active: dict[Labels, float] = {tally.labels: 0.0 for tally in list(self._steps.values())}
        watched = {run.call.run_id for run in list(self.live.values())}
        for runner in _live.live():
            if runner.run_id in watched:
                for scope in list(runner.scopes.values()):
                    _add(active, (runner.call.workflow, scope.call.step), 1)
        return active

    def _depths(self) -> dict[Labels, float]:
        sums: dict[Labels, float] = {}
        for workflow, step, depth in _live.queue_depths():
            _add(sums, (workflow, step), depth)
        return sums


def _family(spec: names.Metric, maker: Callable[[names.Metric], Callable[[Labels], ChildT]]) -> Family[ChildT]:
    return Family(spec, maker(spec))


def _add(sums: dict[Labels, float], key: Labels, amount: float) -> None:
    if key not in sums and len(sums) >= names.MAX_LABEL_SETS:
        key = (names.OTHER,) * len(key)
    sums[key] = sums.get(key, 0.0) + amount


def _version() -> str:
    try:
        return metadata.version("tracedflow")
    except metadata.PackageNotFoundError:
        return "unknown"


__all__ = ["Count", "Families", "Family", "Level", "LiveRun", "Timer"]
