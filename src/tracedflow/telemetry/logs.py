"""Log correlation: which run, step and attempt a log record was made in. Knows nothing of handlers and formats."""

from __future__ import annotations

import asyncio
import logging
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, ref

from .._engine import _live
from ..context import current_scope
from ..middleware import Observer, RunCall, StepCall
from .redaction import captures_text, given_to, mask

if TYPE_CHECKING:
    from .._engine._runner import Runner
    from ..events import StopEvent
    from ..middleware import RunNext

_log = logging.getLogger("tracedflow.runs")

HEARTBEAT = 300.0  # seconds
LATE = 30.0  # seconds: a heartbeat comes so much later at most, with those of other runs
_EARLY = 0.01  # seconds
_NOWHERE: dict[str, object] = {"trace_id": "", "span_id": "", "run_id": "", "workflow": "", "step": "", "attempt": 0, "tags": {}}

_run: ContextVar[RunCall | None] = ContextVar("tracedflow_log_run", default=None)


class _Pulse:
    """Logs a sign of life of each run of a loop at intervals: what it does and waits for. One timer for all of them."""

    def __init__(self) -> None:
        self._runs: set[str] = set()
        self._timer: ref[asyncio.TimerHandle] | None = None  # the loop holds it while it is set, and it the loop

    def begin(self, run_id: str, loop: asyncio.AbstractEventLoop) -> None:
        """Watch a run."""
        if not self._runs:
            self._set(loop, HEARTBEAT)
        self._runs.add(run_id)

    def end(self, run_id: str) -> None:
        """Let go of a run; without any there is no timer."""
        self._runs.discard(run_id)
        timer = self._timer() if self._timer is not None else None
        if timer is not None and not self._runs:
            timer.cancel()

    def _set(self, loop: asyncio.AbstractEventLoop, delay: float) -> None:
        self._timer = ref(loop.call_later(delay, self._look, loop.time(), context=Context()))  # the context of a run would keep it

    def _look(self, before: float) -> None:
        """Log the runs for which another interval has passed since the last look."""
        loop = asyncio.get_running_loop()
        passed, least = loop.time() - before, HEARTBEAT
        for runner in [runner for runner in _live.live() if runner.run_id in self._runs]:
            age = runner.now() - runner.call.started_at + _EARLY
            least = min(least, HEARTBEAT - age % HEARTBEAT)
            if age // HEARTBEAT > max(0.0, age - passed) // HEARTBEAT and _log.isEnabledFor(logging.INFO):
                self._report(runner)
        self._set(loop, max(least, LATE))

    def _report(self, runner: Runner) -> None:
        try:
            _log.info("%s", mask(str(runner.report()), (runner.call.start_event,)), extra=_fields(runner.call))
        except Exception:  # noqa: BLE001 - a timer of ours: nobody else would catch it
            _log.exception("run %s could not be reported", runner.run_id)


_pulses: WeakKeyDictionary[asyncio.AbstractEventLoop, _Pulse] = WeakKeyDictionary()


def _is_over(runner: Runner) -> None:
    pulse = _pulses.get(runner.loop)
    if pulse is not None:
        pulse.end(runner.run_id)


_live.leavers.append(_is_over)


class Logs(Observer):
    """Remembers the run that the code of a context runs in, for what is logged in a run but outside its steps.

    The step is known to the engine: a layer around each step would only repeat that, at a microsecond a step. Of a run
    that takes long, every five minutes a record to the logger `tracedflow.runs` says what it does.
    """

    async def run(self, call: RunCall, call_next: RunNext, /) -> StopEvent | None:
        """Bind the run."""
        self._skips_run(call)
        return await call_next(call)

    def _skips_run(self, call: RunCall) -> bool:
        """Bind the run; nothing is to be undone when it ends, for its task has a context of its own."""
        _run.set(call)
        loop = asyncio.get_running_loop()
        pulse = _pulses.get(loop)
        if pulse is None:
            pulse = _pulses[loop] = _Pulse()
        pulse.begin(call.run_id, loop)
        return True


class LogCorrelation(logging.Filter):
    """Puts `trace_id`, `span_id`, `run_id`, `workflow`, `step` and `attempt` on every record made inside a step.

    Add it to a handler: `handler.addFilter(LogCorrelation())`. Outside a run the fields are empty and `attempt` is 0,
    so that a format string may always name them. A field given by `extra=` is kept. `tags` holds the run's tags.

    Args:
        mask: also mask the string values of the step's input events in the record's text and exception.
    """

    def __init__(self, *, mask: bool = False) -> None:
        super().__init__()
        self._mask = mask

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields; let every record through."""
        call = _here()
        for name, value in _fields(call).items():
            record.__dict__.setdefault(name, value)
        if self._mask and call is not None:
            _mask_record(record, call)
        return True


def _here() -> RunCall | StepCall | None:
    """Return the innermost call of this context: its step, but not that of an outer run which started this one."""
    run, scope = _run.get(), current_scope.get()
    if scope is None or (run is not None and run.run_id != scope.call.run_id):
        return run
    return scope.call


def _fields(call: RunCall | StepCall | None) -> dict[str, object]:
    if call is None:
        return _NOWHERE
    fields: dict[str, object] = {"trace_id": call.trace_id or "", "span_id": call.span_id or ""}
    fields |= {"run_id": call.run_id, "workflow": call.workflow}
    if isinstance(call, StepCall):
        return fields | {"step": call.step, "attempt": call.attempts, "tags": call.run.tags}
    return fields | {"step": "", "attempt": 0, "tags": call.tags}


def _mask_record(record: logging.LogRecord, call: RunCall | StepCall) -> None:
    sources = given_to(call) if isinstance(call, StepCall) else (call.start_event,)
    record.msg, record.args = mask(record.getMessage(), sources), None
    if record.exc_info:
        text = logging.Formatter().formatException(record.exc_info) if captures_text() else ""
        record.exc_text, record.exc_info = mask(text, sources), None
