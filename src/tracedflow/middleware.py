"""The middleware protocol: calls that are wrapped, notices that are noticed, and the chain folded from both.

Wrap what has a duration, notice what has none. Knows nothing of the engine that calls it.
"""

from __future__ import annotations

import logging
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeAlias, TypeVar

from .events import Event, StopEvent

if TYPE_CHECKING:
    from .decorators import StepConfig
    from .records import AttemptRecord, Outcome, RunReport

_log = logging.getLogger("tracedflow.middleware")

StepResult: TypeAlias = Event | list[Event] | None
"""What a step returns."""


@dataclass(slots=True, kw_only=True)
class Cause:
    """Where an input event came from: ids only, so that a record never keeps history alive."""

    event_id: int
    event_type: str
    step: str | None  # None: from outside the run
    execution: int | None
    span_context: object | None = None  # what a tracing layer left on the sender's call
    headers: Mapping[str, str] | None = None


@dataclass(slots=True, kw_only=True)
class RunCall:
    """One run, or one segment of a resumed run. Treat the fields as read-only, except where said.

    `headers` came with the caller. A tracing layer sets `span_context`, `trace_id` and `span_id`.
    """

    workflow: str
    run_id: str
    start_event: Event
    started_at: float  # the run clock: Unix seconds that advance with the monotonic clock
    timeout: float | None = None  # seconds
    segment: int = 1
    resumed: bool = False
    can_wait: bool = False  # the graph takes human input, or a step asks for a Context and may wait
    parent_run_id: str | None = None
    spawned_by: object | None = None  # span context of the step that started a run which is not its child
    tags: Mapping[str, str] = field(default_factory=dict[str, str])
    conversation_id: str | None = None
    headers: Mapping[str, str] | None = None
    span_context: object | None = None
    trace_id: str | None = None
    span_id: str | None = None
    records: Sequence[AttemptRecord] = ()  # the engine's bounded deque; complete when `call_next` returned


@dataclass(kw_only=True)
class StepCall:
    """One step execution, over all its attempts. Treat the fields as read-only, except where said.

    `headers` came with the event; what a layer puts into `outgoing` is copied onto every event that the execution
    sends or returns from then on. A tracing layer sets `span_context`, `trace_id` and `span_id`. The times and counts
    are live: read them after `await call_next(call)` for their final values.
    """

    run: RunCall
    config: StepConfig
    execution: int  # sequence number in the run
    inputs: tuple[Event, ...]
    origin: Callable[[], tuple[Cause, ...]]  # makes `causes`; most executions are never asked
    enqueued_at: float  # run clock
    started_at: float  # run clock
    headers: Mapping[str, str] | None = None
    # Not slotted, and set when they change: an object with 30 slots to fill and five containers cost 2 µs a step.
    max_attempts: int | None = field(default=None, init=False)
    attempts: int = field(default=0, init=False)
    queued: float = field(default=0.0, init=False)  # seconds waiting for a slot or a limit, over all attempts
    backoff: float = field(default=0.0, init=False)  # seconds between attempts
    waiting: float = field(default=0.0, init=False)  # seconds parked in wait_for_event
    blocked: float = field(default=0.0, init=False)  # seconds in which the step blocked the event loop
    limit_waits: Sequence[tuple[str, float]] = field(default=(), init=False)  # (limit, seconds)
    emitted: Sequence[tuple[int, str]] = field(default=(), init=False)  # (event id, type name) sent or returned
    collecting: bool = field(default=False, init=False)  # its last `collect_events` answered None
    collected: tuple[Cause, ...] = field(default=(), init=False)  # what its completed joins are made of
    measurements: Sequence[tuple[str, float, str]] = field(default=(), init=False)  # (name, value, unit)
    cancel_reason: str | None = field(default=None, init=False)  # cancelled | run_timeout | sibling_failed | suspended
    span_context: object | None = field(default=None, init=False)
    trace_id: str | None = field(default=None, init=False)
    span_id: str | None = field(default=None, init=False)
    _causes: tuple[Cause, ...] | None = field(default=None, init=False)
    _outgoing: dict[str, str] | None = field(default=None, init=False)
    _annotations: dict[str, object] | None = field(default=None, init=False)

    @property
    def workflow(self) -> str:
        """The name of the workflow."""
        return self.run.workflow

    @property
    def run_id(self) -> str:
        """The id of the run."""
        return self.run.run_id

    @property
    def step(self) -> str:
        """The name of the step."""
        return self.config.name

    @property
    def causes(self) -> tuple[Cause, ...]:
        """Where each input came from."""
        if self._causes is None:
            self._causes = self.origin()
        return self._causes

    @property
    def outgoing(self) -> dict[str, str]:
        """Headers for every event that the execution sends or returns from now on."""
        if self._outgoing is None:
            self._outgoing = {}
        return self._outgoing

    @property
    def annotations(self) -> dict[str, object]:
        """Facts of the step's own, from `ctx.annotate`."""
        if self._annotations is None:
            self._annotations = {}
        return self._annotations

    @property
    def event(self) -> Event:
        """The input event of a step that takes one."""
        return self.inputs[0]


@dataclass(slots=True, kw_only=True)
class AttemptCall:
    """One try of a step execution. A tracing layer sets `trace_id` and `span_id`."""

    step: StepCall
    attempt: int  # 1 for the first
    last_error: BaseException | None = None
    backoff: float = 0.0  # seconds waited before this attempt
    trace_id: str | None = None
    span_id: str | None = None


RunNext: TypeAlias = Callable[[RunCall], Awaitable[StopEvent | None]]
StepNext: TypeAlias = Callable[[StepCall], Awaitable[StepResult]]
AttemptNext: TypeAlias = Callable[[AttemptCall], Awaitable[StepResult]]


@dataclass(slots=True, kw_only=True)
class Notice:
    """Something that happened at one instant of a run. `call` is the step execution that it happened in, if any."""

    run: RunCall
    at: float  # run clock
    call: StepCall | None = None


@dataclass(slots=True, kw_only=True)
class EventSent(Notice):
    """A step or the outside sent an event, by `send_event` or by returning it; `to` are the steps that take it."""

    event_id: int
    event_type: str
    to: tuple[str, ...]
    waited: bool = False  # an open wait took it


@dataclass(slots=True, kw_only=True)
class EventDropped(Notice):
    """Nobody took an event. With `final` false it is held, and a later `wait_for_event` may still take it."""

    event_id: int
    event_type: str
    reason: str  # unclaimed | overflow | run_ended
    near_miss: str | None = None
    final: bool = True


@dataclass(slots=True, kw_only=True)
class EventStreamed(Notice):
    """An event was written to the run's stream."""

    event_type: str


@dataclass(slots=True, kw_only=True)
class RetryScheduled(Notice):
    """An attempt failed and will be tried again after `delay` seconds. Comes before the wait."""

    attempt: int  # the one that failed
    delay: float
    error: BaseException


@dataclass(slots=True, kw_only=True)
class StepTimedOut(Notice):
    """An attempt exceeded its `@step(timeout=)`, in seconds."""

    timeout: float
    attempt: int


@dataclass(slots=True, kw_only=True)
class WaitStarted(Notice):
    """A step parked in `wait_for_event`."""

    wait_id: int
    event_type: str
    waiter_id: str | None
    timeout: float | None  # seconds


@dataclass(slots=True, kw_only=True)
class WaitEnded(Notice):
    """A parked step goes on: answered, timed out or ended with its run."""

    wait_id: int
    event_type: str
    outcome: Outcome  # success | timeout | cancelled | suspended
    duration: float  # seconds
    cause: Cause | None = None  # where the answer came from


@dataclass(slots=True, kw_only=True)
class JoinWaiting(Notice):
    """A join took an event and is not complete: `have` of `need` are there."""

    event_type: str
    buffer: str
    have: int
    need: int


@dataclass(slots=True, kw_only=True)
class RunSuspended(Notice):
    """This segment of the run ended; its state was saved."""


@dataclass(slots=True, kw_only=True)
class RunResumed(Notice):
    """The run goes on from a saved state."""


@dataclass(slots=True, kw_only=True)
class RunStalled(Notice):
    """The run can never finish."""

    report: RunReport


@dataclass(slots=True, kw_only=True)
class LoopBlocked(Notice):
    """A step kept the event loop from turning."""

    step: str | None
    location: str  # file:line
    duration: float  # seconds


@dataclass(slots=True, kw_only=True)
class MiddlewareFailed(Notice):
    """An observer raised or awaited something else than `call_next`; the run went on without it."""

    middleware: str
    error_type: str


class Middleware:
    """Wraps runs, step executions and attempts, and hears notices. Override what you need.

    The first listed is outermost. A middleware may control: replace events, answer without `call_next`, or raise,
    which fails the attempt as the step would. Layers that a class does not override cost nothing.
    """

    hears: ClassVar[tuple[type[Notice], ...] | None] = None
    """The notices that `on` is called with; None: all. What nobody hears is not even made."""

    attempts_of: ClassVar[Literal["all", "retried"]] = "all"
    """The steps whose attempts `attempt` wraps: all, or those with a retry policy."""

    async def run(self, call: RunCall, call_next: RunNext, /) -> StopEvent | None:
        """Wrap a run. None means that this segment ended suspended."""
        return await call_next(call)

    async def step(self, call: StepCall, call_next: StepNext, /) -> StepResult:
        """Wrap a step execution, over all its attempts."""
        return await call_next(call)

    async def attempt(self, call: AttemptCall, call_next: AttemptNext, /) -> StepResult:
        """Wrap one try of a step execution."""
        return await call_next(call)

    def on(self, notice: Notice, /) -> None:
        """Hear an instant, always on the run's event loop. Errors are logged and go no further."""


class Observer(Middleware):
    """A middleware that only watches: neither its bugs nor its result reach the run.

    It may await nothing but `call_next`; slow I/O belongs in a queue of its own.
    """


CallT = TypeVar("CallT")
ResultT = TypeVar("ResultT")
_Next: TypeAlias = Callable[[CallT], Awaitable[ResultT]]
_Layer: TypeAlias = Callable[[CallT, Any], Coroutine[Any, Any, ResultT]]
_Report: TypeAlias = Callable[[Any, str, str, BaseException | str], None]


class _Question:
    """What the shield's `call_next` yields instead of suspending."""


_ASK = _Question()


@types.coroutine
def _ask(call: object) -> Generator[_Question, Any, Any]:
    return (yield _ASK)


class _Shield(Generic[CallT, ResultT]):
    """Drives one observer method by hand around `inner`, so that it can watch but never change what happens.

    The inner call is awaited here, not inside the observer: the observer's `call_next` only yields a question, which
    is answered with the outcome. So the inner call runs exactly once, whatever the observer does.
    """

    __slots__ = ("_inner", "_layer", "_name", "_report")

    def __init__(self, layer: _Layer[CallT, ResultT], inner: _Next[CallT, ResultT], name: str, report: _Report) -> None:
        self._layer = layer
        self._inner = inner
        self._name = name
        self._report = report

    async def __call__(self, call: CallT) -> ResultT:
        watching = self._open(call)
        error: BaseException | None = None
        result: Any = None
        try:
            result = await self._inner(call)
        except GeneratorExit:
            if watching is not None:
                watching.close()
            raise
        except BaseException as caught:  # noqa: BLE001 - shown to the observer, then raised again below
            error = caught
        if watching is not None:
            self._close(call, watching, result, error)
        if error is not None:
            raise error
        return result  # type: ignore[no-any-return]

    def _open(self, call: CallT) -> Coroutine[Any, Any, ResultT] | None:
        """Run the observer up to its `call_next`; None if it does not get there."""
        try:
            watching = self._layer(call, _ask)
            asked = watching.send(None)
        except StopIteration:
            return None  # it never called `call_next`: the step goes on without it
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - an observer's bug must not reach the run
            self._report(call, self._name, "raised before call_next", error)
            return None
        return watching if self._asked(call, watching, asked) else None

    def _asked(self, call: CallT, watching: Coroutine[Any, Any, ResultT], asked: object) -> bool:
        if asked is _ASK:
            return True
        self._report(call, self._name, "awaited something else than call_next", "Suspended")
        self._quit(watching)
        return False

    def _close(self, call: CallT, watching: Coroutine[Any, Any, ResultT], result: Any, error: BaseException | None) -> None:
        """Show the outcome to the observer and let it finish; what it makes of it is ignored."""
        trace = None if error is None else error.__traceback__
        context = None if error is None else error.__context__
        try:
            asked = watching.send(result) if error is None else watching.throw(error)
            while self._asked(call, watching, asked):  # asked again: the same answer, and no second run
                asked = watching.send(result) if error is None else watching.throw(error)
        except StopIteration:
            pass
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as raised:  # noqa: BLE001 - see `_open`
            if raised is not error:
                self._report(call, self._name, "raised after call_next", raised)
        finally:
            if error is not None:  # the observer's frames are nobody's business
                error.__traceback__ = trace
                error.__context__ = context

    def _quit(self, watching: Coroutine[Any, Any, ResultT]) -> None:
        try:
            watching.close()
        except BaseException as error:  # noqa: BLE001 - it may refuse to stop; then it is dropped
            _log.debug("observer %s refused to stop: %r", self._name, error)


def _onion(layer: _Layer[CallT, ResultT], inner: _Next[CallT, ResultT]) -> _Next[CallT, ResultT]:
    def call_layer(call: CallT) -> Awaitable[ResultT]:
        return layer(call, inner)

    return call_layer


class Chain:
    """The layers of a workflow, folded once around three endpoints; afterwards only closures are called.

    `run`, `step` and `attempt` call through every layer that overrides that method, first listed outermost.
    `single_attempt` is for a step without a retry policy; None: no layer asks for it.
    """

    __slots__ = ("_failed", "_heard", "attempt", "layers", "run", "single_attempt", "step")

    def __init__(self, layers: Sequence[Middleware], *, run: RunNext, step: StepNext, attempt: AttemptNext) -> None:
        self.layers = tuple(layers)
        self._failed: set[tuple[str, str]] = set()
        self.run: RunNext = self._fold("run", run)
        self.step: StepNext = self._fold("step", step)
        self.attempt: AttemptNext = self._fold("attempt", attempt)
        everywhere = [layer for layer in self.layers if layer.attempts_of == "all"]
        watched = any(type(layer).attempt is not Middleware.attempt for layer in everywhere)
        self.single_attempt: AttemptNext | None = self._fold("attempt", attempt, everywhere) if watched else None
        self._heard: dict[type[Notice], tuple[tuple[str, Callable[[Notice], None]], ...]] = {}

    def _fold(self, method: str, endpoint: Any, layers: Sequence[Middleware] | None = None) -> Any:
        folded = endpoint
        for layer in reversed(self.layers if layers is None else layers):
            if getattr(type(layer), method) is getattr(Middleware, method):
                continue
            bound = getattr(layer, method)
            folded = _Shield(bound, folded, _name(layer), self._report) if isinstance(layer, Observer) else _onion(bound, folded)
        return folded

    def hears(self, kind: type[Notice]) -> bool:
        """Whether a layer hears notices of this kind; if not, none need be made."""
        return bool(self._listeners(kind))

    def _listeners(self, kind: type[Notice]) -> tuple[tuple[str, Callable[[Notice], None]], ...]:
        found = self._heard.get(kind)
        if found is None:
            listening = [layer for layer in self.layers if type(layer).on is not Middleware.on]
            found = self._heard[kind] = tuple(
                (_name(layer), layer.on) for layer in listening if layer.hears is None or issubclass(kind, layer.hears)
            )
        return found

    def notice(self, notice: Notice) -> None:
        """Tell every listener; one that raises is logged once and counted, and the next one is told."""
        for name, listen in self._listeners(type(notice)):
            try:
                listen(notice)
            except Exception as error:  # noqa: BLE001 - a listener's bug must not reach the run
                self._report(notice, name, f"raised on {type(notice).__name__}", error)

    def _report(self, about: RunCall | StepCall | AttemptCall | Notice, name: str, what: str, error: BaseException | str) -> None:
        kind = error if isinstance(error, str) else type(error).__qualname__
        if (name, what) not in self._failed:
            self._failed.add((name, what))
            _log.error(
                "observer %s %s; the run goes on without it (said once)", name, what, exc_info=None if isinstance(error, str) else error
            )
        if not isinstance(about, MiddlewareFailed):
            run, call = _whereabouts(about)
            at = call.started_at if call else run.started_at
            self.notice(MiddlewareFailed(run=run, call=call, at=at, middleware=name, error_type=kind))


def _name(layer: Middleware) -> str:
    return type(layer).__qualname__


def _whereabouts(about: RunCall | StepCall | AttemptCall | Notice) -> tuple[RunCall, StepCall | None]:
    match about:
        case RunCall():
            return about, None
        case StepCall():
            return about.run, about
        case AttemptCall():
            return about.step.run, about.step
        case Notice():
            return about.run, about.call
