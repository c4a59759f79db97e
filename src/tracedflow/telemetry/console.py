"""The console: one line for each thing that happens in a run, and a waterfall at its end. Event types, never payloads.

`rich` is imported here only, and only when the stream is a terminal. Always standard error by default.
"""

from __future__ import annotations

import shutil
import sys
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
from .redaction import captures_text, describe, given_to, mask, remember

if TYPE_CHECKING:
    from ..clock import Clock
    from ..events import StopEvent
    from ..middleware import RunNext, StepNext, StepResult
    from ..records import Outcome

_PLAIN_WIDTH = 100  # columns of a waterfall in a file or a pipe
_WIDEST = 160  # columns: longer bars are harder to read, not easier
_STEP = 20  # columns of a step's name and execution
_EVENT = 9  # columns of what happened

_STYLES: dict[Style, str] = {
    "plain": "",
    "bold": "bold",
    "dim": "dim",
    "good": "green",
    "bad": "bold red",
    "odd": "yellow",
    "running": "green",
    "queued": "bright_black",
    "backoff": "yellow",
    "waiting": "blue",
    "blocked": "red",
}

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
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._screen = _Screen(stream)
        self._live: dict[str, Clock] = {}
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
        self._live[call.run_id] = timer = clock.active.get()
        self._run_started(call)
        try:
            result = await call_next(call)
        except GeneratorExit:
            self._live.pop(call.run_id, None)
            raise
        except BaseException as error:
            self._run_ended(call, timer, outcome_of_run(None, error), error)
            raise
        self._run_ended(call, timer, outcome_of_run(result, None), None)
        return result

    async def step(self, call: StepCall, call_next: StepNext, /) -> StepResult:
        """Write the start of a step execution and its outcome."""
        self._say(call.run, call, "started", "dim", "", _input_types(call))
        try:
            result = await call_next(call)
        except GeneratorExit:
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
            self._live.pop(call.run_id, None)

    # --- steps ---

    def _step_ended(self, call: StepCall, result: StepResult, error: BaseException | None) -> None:
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
            what = f"attempt {_attempt(call, notice.attempt)}  {_error_line(notice.error, call)}"
            self._say(notice.run, call, "retry", "odd", f"in {short(notice.delay)}", what)

    def _wait_started(self, notice: WaitStarted) -> None:
        limit = f", {short(notice.timeout)} at most" if notice.timeout is not None else ""
        self._say(notice.run, notice.call, "waiting", "odd", "", f"for {notice.event_type}{limit}")

    def _wait_ended(self, notice: WaitEnded) -> None:
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
        timer = self._live.get(run.run_id)
        return clock.active.get().now() if timer is None else timer.now()


class _Screen:
    """A stream, with colours if it is a terminal."""

    def __init__(self, stream: TextIO | None) -> None:
        self._given = stream
        self._rich: tuple[TextIO, Any] | None = None  # the stream and the rich console made for it

    @property
    def _stream(self) -> TextIO:
        return sys.stderr if self._given is None else self._given

    @property
    def _is_terminal(self) -> bool:
        return self._stream.isatty()

    @property
    def width(self) -> int:
        """Columns for a waterfall."""
        return min(_WIDEST, shutil.get_terminal_size().columns - 1) if self._is_terminal else _PLAIN_WIDTH

    @property
    def ascii_only(self) -> bool:
        """Whether the stream cannot take the drawing characters."""
        encoding = getattr(self._stream, "encoding", None)
        return encoding is not None and not encoding.lower().replace("-", "").startswith("utf")

    @property
    def arrow(self) -> str:
        """What stands before the events that a step gave."""
        return "->" if self.ascii_only else "→"

    def write(self, pieces: Sequence[tuple[str, Style]]) -> None:
        """Write one line; on a terminal it is cut at the right edge."""
        if self._is_terminal:
            self._write_rich(pieces)
            return
        text = "".join(text for text, _ in pieces).rstrip() + "\n"
        self._stream.write(text.encode("ascii", "replace").decode() if self.ascii_only else text)

    def write_lines(self, lines: Sequence[Line]) -> None:
        """Write a drawing with an empty line around it."""
        if lines:
            for line in ((), *lines, ()):
                self.write(line)

    def _write_rich(self, pieces: Sequence[tuple[str, Style]]) -> None:
        from rich.text import Text  # here, as it takes a quarter of the import time of the whole package

        text = Text.assemble(*((text, _STYLES[style]) for text, style in pieces))
        self._console().print(text, no_wrap=True, overflow="ellipsis", crop=True, soft_wrap=False)

    def _console(self) -> Any:
        from rich.console import Console as RichConsole

        stream = self._stream
        if self._rich is None or self._rich[0] is not stream:
            self._rich = (stream, RichConsole(file=stream, highlight=False))
        return self._rich[1]


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
