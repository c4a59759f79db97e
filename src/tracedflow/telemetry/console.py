"""The console: one line for each thing that happens in a run, and a waterfall at its end. Event types, never payloads.

On a terminal the waterfall is there while runs go on. Always standard error by default.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from .. import clock
from ..errors import TracedflowError
from ..inspect.durations import short
from ..inspect.waterfall import Line, Style, waterfall
from ..middleware import (
    EventDropped,
    LoopBlocked,
    MiddlewareFailed,
    Notice,
    Observer,
    RetryScheduled,
    RunCall,
    StepCall,
    WaitEnded,
    WaitStarted,
)
from ..outcomes import FAILURES, error_type, outcome_of_run, outcome_of_step
from ._live_view import LiveRun, all_drawn
from ._screen import Screen as Screen
from .redaction import captures_text, describe, given_to, mask, remember

if TYPE_CHECKING:
    from ..clock import Clock
    from ..events import StopEvent
    from ..middleware import RunNext, StepNext, StepResult
    from ..records import Outcome

_STEP = 20  # columns of a step's name and execution
_EVENT = 9  # columns of what happened

_WORDS: dict[Outcome, tuple[str, Style]] = {
    "success": ("done", "good"),
    "error": ("failed", "bad"),
    "timeout": ("timeout", "bad"),
    "stalled": ("stalled", "bad"),
    "cancelled": ("cancelled", "odd"),
    "suspended": ("suspended", "odd"),
    "skipped": ("skipped", "dim"),
    "collecting": ("collected", "dim"),
}


_ANSWERED: tuple[str, Style] = ("answered", "good")


class Console(Observer):
    """Writes what runs do, line by line, and draws a waterfall when a run ends.

    An exceeded time limit shows in the line of the retry or of the outcome that it leads to.

    Args:
        stream: where to; standard error, as it is at that moment, if None.
        live: on a terminal, also draw the waterfall while runs go on, under the lines. It makes way for good as soon as the
            program itself writes there, and is not begun where log records go there.
    """

    def __init__(self, stream: TextIO | None = None, *, live: bool = True) -> None:
        self._screen = Screen(stream)
        self._draws = live
        self._live: dict[str, LiveRun] = {}
        self._listeners: dict[type[Notice], Callable[[Any], None]] = {
            RetryScheduled: self._retry,
            WaitStarted: self._wait_started,
            WaitEnded: self._wait_ended,
            EventDropped: self._dropped,
            LoopBlocked: self._blocked,
            MiddlewareFailed: self._middleware_failed,
        }

    async def run(self, call: RunCall, call_next: RunNext, /) -> StopEvent | None:
        """Write the start of a run, its outcome and its waterfall."""
        timer = clock.active.get()
        self._live[call.run_id] = LiveRun(call, timer)
        self._run_started(call)
        if self._draws:
            self._screen.keep(self._drawn)
        try:
            result = await call_next(call)
        except GeneratorExit:
            self._forget(call)
            raise
        except BaseException as error:
            self._run_ended(call, timer, outcome_of_run(None, error), error)
            raise
        self._run_ended(call, timer, outcome_of_run(result, None), None)
        return result

    async def step(self, call: StepCall, call_next: StepNext, /) -> StepResult:
        """Write the start of a step execution and its outcome."""
        self._say(call.run, call, "started", "dim", "", _input_types(call))
        run = self._live.get(call.run_id)
        if run is not None:
            run.began(call)
        try:
            result = await call_next(call)
        except GeneratorExit:
            self._over(call)
            raise
        except BaseException as error:
            self._step_ended(call, None, error)
            raise
        self._step_ended(call, result, None)
        return result

    def on(self, notice: Notice, /) -> None:
        """Write a line for the notices that a reader wants."""
        listener = self._listeners.get(type(notice))
        if listener is not None:
            listener(notice)

    # --- runs ---

    def _run_started(self, call: RunCall) -> None:
        facts = [f"run {call.run_id}", type(call.start_event).__name__]
        if call.resumed:
            facts.append(f"resumed, segment {call.segment}")
        if call.parent_run_id is not None:
            facts.append(f"inside run {call.parent_run_id}")
        self._screen.write([(self._clock(call) + "  ", "dim"), (call.workflow, "bold"), (f"  {', '.join(facts)}", "dim")])

    def _run_ended(self, call: RunCall, timer: Clock, outcome: Outcome, error: BaseException | None) -> None:
        if len(self._live) == 1:
            self._screen.drop()  # before the last words, which it would be drawn under
        try:
            word, style = _WORDS[outcome]
            age = short(timer.now() - call.started_at)
            pieces: list[tuple[str, Style]] = [(self._clock(call) + "  ", "dim"), (call.workflow, "bold")]
            pieces.extend([(f"  {word}", style), (f" in {age}, {_size(call)}", "plain")])
            self._screen.write(pieces)
            self._screen.write([(f"{'':>11}{_identity(call)}", "dim")])  # alone, so that a narrow terminal does not cut it
            if error is not None and outcome in FAILURES:
                for line in _run_error(error, call):
                    self._screen.write([(f"{'':>11}{line}", "bad")])
            drawing = waterfall(call.records, width=self._screen.width, ascii_only=self._screen.ascii_only)
            self._screen.write_lines(drawing.lines)
        finally:
            self._forget(call)

    def _forget(self, call: RunCall) -> None:
        self._live.pop(call.run_id, None)
        if not self._live:
            self._screen.drop()

    def _drawn(self) -> list[Line]:
        """Return what is live now; asked from the thread that draws."""
        screen = self._screen
        return all_drawn(list(self._live.values()), screen.width, screen.height, ascii_only=screen.ascii_only)

    # --- steps ---

    def _over(self, call: StepCall) -> None:
        run = self._live.get(call.run_id)
        if run is not None:
            run.ended(call)

    def _rests(self, run: RunCall, call: StepCall | None, what: str | None) -> None:
        """Tell the drawing that a step execution waits, for `what`, or does so no more."""
        live = self._live.get(run.run_id)
        if live is not None:
            live.goes_on(call) if what is None else live.rests(call, what)

    def _step_ended(self, call: StepCall, result: StepResult, error: BaseException | None) -> None:
        self._over(call)
        outcome = outcome_of_step(call, result, error)
        word, style = _WORDS[outcome]
        duration = short(self._now(call.run) - call.started_at)
        detail = _emitted(call, result, self._screen.arrow)
        if error is not None:
            detail = _why_ended(call, outcome, error)
        if call.attempts > 1:
            detail = f"attempt {_attempt(call, call.attempts)}  {detail}"
        self._say(call.run, call, word, style, duration, detail)

    # --- notices ---

    def _retry(self, notice: RetryScheduled) -> None:
        if (call := notice.call) is not None:
            self._rests(notice.run, call, "backoff")
            what = f"attempt {_attempt(call, notice.attempt)}  {_error_line(notice.error, call)}"
            self._say(notice.run, call, "retry", "odd", f"in {short(notice.delay)}", what)

    def _wait_started(self, notice: WaitStarted) -> None:
        self._rests(notice.run, notice.call, "waiting")
        limit = f", {short(notice.timeout)} at most" if notice.timeout is not None else ""
        self._say(notice.run, notice.call, "waiting", "odd", "", f"for {notice.event_type}{limit}")

    def _wait_ended(self, notice: WaitEnded) -> None:
        self._rests(notice.run, notice.call, None)
        word, style = _ANSWERED if notice.outcome == "success" else _WORDS[notice.outcome]
        self._say(notice.run, notice.call, word, style, short(notice.duration), notice.event_type)

    def _dropped(self, notice: EventDropped) -> None:
        reasons = {"unclaimed": "nobody takes it", "overflow": "too many are held", "run_ended": "the run ended first"}
        reason = reasons.get(notice.reason, notice.reason)
        word = "dropped" if notice.final else "held"
        self._say(notice.run, notice.call, word, "odd", "", f"{notice.event_type}: {notice.near_miss or reason}")

    def _blocked(self, notice: LoopBlocked) -> None:
        what = f"the event loop stood still at {notice.location}"
        self._say(notice.run, notice.call, "blocked", "bad", short(notice.duration), what, step=notice.step)

    def _middleware_failed(self, notice: MiddlewareFailed) -> None:
        self._say(notice.run, notice.call, "observer", "odd", "", f"{notice.middleware} failed: {notice.error_type}")

    # --- lines ---

    def _say(
        self, run: RunCall, call: StepCall | None, word: str, style: Style, duration: str, detail: str, *, step: str | None = None
    ) -> None:
        """Write one line: clock, step, what happened, duration, details. With several runs live, say which."""
        name = f"{call.step} #{call.execution}" if call is not None else step or run.workflow
        pieces: list[tuple[str, Style]] = [(self._clock(run) + "  ", "dim")]
        if len(self._live) > 1:
            pieces.append((f"{run.run_id:<10}  ", "dim"))
        pieces.extend([(f"{name:<{_STEP}}  ", "plain"), (f"{word:<{_EVENT}}  ", style)])
        pieces.extend([(f"{duration:>9}  ", "plain"), (detail, "dim")])
        self._screen.write(pieces)

    def _clock(self, run: RunCall) -> str:
        return f"{self._now(run) - run.started_at:>9.3f}"

    def _now(self, run: RunCall) -> float:
        live = self._live.get(run.run_id)
        return clock.active.get().now() if live is None else live.timer.now()


def _input_types(call: StepCall) -> str:
    return _counted(type(event).__name__ for event in call.inputs)


def _emitted(call: StepCall, result: StepResult, arrow: str) -> str:
    """Return the types that the step sent and returned."""
    returned = result if isinstance(result, list) else [] if result is None else [result]
    kinds = [*(kind for _, kind in call.emitted), *(type(event).__name__ for event in returned)]
    return f"{arrow} {_counted(kinds)}" if kinds else ""


def _counted(kinds: Iterable[str]) -> str:
    return ", ".join(kind if count == 1 else f"{count} {kind}" for kind, count in Counter(kinds).items())


def _why_ended(call: StepCall, outcome: Outcome, error: BaseException) -> str:
    if outcome in FAILURES:
        return _error_line(error, call)
    return call.cancel_reason.replace("_", " ") if call.cancel_reason not in (None, outcome) else ""


def _error_line(error: BaseException, call: StepCall) -> str:
    given = given_to(call)
    remember(error, given)
    return _one_line(error, given)


def _one_line(error: BaseException, secrets: Sequence[object]) -> str:
    name = error_type(error).rpartition(".")[2]
    lines = describe(error, secrets).strip().splitlines()
    if not lines:
        return name
    return lines[0] if lines[0].startswith(name) else f"{name}: {lines[0]}"


def _run_error(error: BaseException, call: RunCall) -> list[str]:
    """Return our own message, which says why; of a step's error the type alone: its own line has the text, masked by its input."""
    if isinstance(error, TracedflowError) and captures_text():
        return mask(str(error), (call.start_event,)).splitlines()
    return [error_type(error).rpartition(".")[2]]


def _attempt(call: StepCall, number: int) -> str:
    return str(number) if call.max_attempts is None else f"{number}/{call.max_attempts}"


def _size(call: RunCall) -> str:
    """Return how many step executions the run had, and attempts if there were more."""
    attempts = len(call.records)
    steps = len({record.execution for record in call.records})
    text = f"{steps} step execution{'' if steps == 1 else 's'}"
    return text if attempts <= steps else f"{text}, {attempts} attempts"


def _identity(call: RunCall) -> str:
    return f"trace {call.trace_id}" if call.trace_id is not None else f"run {call.run_id}"
