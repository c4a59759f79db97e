"""Log correlation: which run, step and attempt a log record was made in. Knows nothing of handlers and formats."""

from __future__ import annotations

import asyncio
import logging
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING
from weakref import ref

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
    """Logs a sign of life of each run at intervals: what it does and waits for. One timer for all runs of a loop."""

    def __init__(self) -> None:
        self._loop: ref[asyncio.AbstractEventLoop] | None = None  # whose timer is set

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """See that the loop's timer is set."""
        if self._loop is None or self._loop() is not loop:
            self._loop = ref(loop)
            self._set(loop, HEARTBEAT)

    def _set(self, loop: asyncio.AbstractEventLoop, delay: float) -> None:
        loop.call_later(delay, self._look, loop, loop.time(), context=Context())  # the context of a run would keep it

    def _look(self, loop: asyncio.AbstractEventLoop, before: float) -> None:
        """Log the runs for which another interval has passed since the last look."""
        if self._loop is None or self._loop() is not loop:  # the runs of another one began later
            return
        passed, least = loop.time() - before, HEARTBEAT
        watched = [runner for runner in _live.live() if runner.loop is loop and _logs(runner)]
        for runner in watched:
            age = runner.now() - runner.call.started_at + _EARLY
            least = min(least, HEARTBEAT - age % HEARTBEAT)
            if age // HEARTBEAT > max(0.0, age - passed) // HEARTBEAT and _log.isEnabledFor(logging.INFO):
                self._report(runner)
        if watched:
            self._set(loop, max(least, LATE))
        else:
            self._loop = None

    def _report(self, runner: Runner) -> None:
        try:
            _log.info("%s", mask(str(runner.report()), (runner.call.start_event,)), extra=_fields(runner.call))
        except Exception:  # noqa: BLE001 - a timer of ours: nobody else would catch it
            _log.exception("run %s could not be reported", runner.run_id)


_pulse = _Pulse()


def _logs(runner: Runner) -> bool:
    return any(isinstance(layer, Logs) for layer in runner.chain.layers)


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
        """Bind the run; nothing is to be done when it ends, for its task has a context of its own."""
        _run.set(call)
        _pulse.start(asyncio.get_running_loop())
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
