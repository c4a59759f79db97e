"""What a step, or the caller of a run, may do to the run. It asks the runner for everything and decides nothing."""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ClassVar, Generic, cast

from pydantic import BaseModel
from typing_extensions import TypeVar

from .._engine._bridge import on_loop_of
from .._engine._sending import send, write_to_stream
from .._engine._snapshot import SavedRun
from .._engine._state import FORMAT
from ..errors import ContextSerdeError, ContextStateError
from ..events import Event, StopEvent
from ._sync import SyncContext
from .serializers import check_serializer
from .state_store import DictState, StateStore

if TYPE_CHECKING:
    from collections.abc import Generator

    from .._engine._runner import Runner
    from .._engine._scope import StepScope
    from ..retry_policy import RetryInfo
    from ..workflow import Workflow
    from .serializers import BaseSerializer

StateT = TypeVar("StateT", bound=BaseModel, default=DictState)
EventT = TypeVar("EventT", bound=Event)
ValueT = TypeVar("ValueT")

current_scope: ContextVar[StepScope | None] = ContextVar("tracedflow_step", default=None)
"""The step execution that this code runs in."""

_log = logging.getLogger("tracedflow")

_MISSING: Any = object()
DEFAULT_WAIT = 2000.0  # seconds


class Context(Generic[StateT]):
    """The state of a run and what can be done to it.

    A step that has a parameter annotated with `Context` (or `Context[MyState]`) gets one; `handler.ctx` is the
    caller's. `Context(workflow)` can be filled before a run and given to `workflow.run(ctx=)`, and to several runs
    one after the other: they share its store.
    """

    __tracedflow_context__: ClassVar[bool] = True
    __slots__ = ("__weakref__", "_dead", "_runner", "_saved", "_scope", "_serializer", "_store", "_workflow")

    def __init__(
        self, workflow: Workflow[Any], previous_context: Mapping[str, Any] | None = None, serializer: BaseSerializer | None = None
    ) -> None:
        if isinstance(workflow, type) or not hasattr(workflow, "_new_store"):
            raise ContextStateError(f"Context(workflow) takes an instance of a workflow, not {workflow!r}")
        if serializer is not None:
            check_serializer(serializer)
        self._workflow = workflow
        self._serializer = serializer
        self._runner: Runner | None = None
        self._scope: StepScope | None = None
        self._store: StateStore[StateT] | None = None
        self._saved: SavedRun | None = None
        self._dead: str | None = None  # why it may not be used any more
        if previous_context is not None:
            self._take(previous_context, serializer)

    @classmethod
    def _inside(cls, scope: StepScope) -> Context[Any]:
        context: Context[Any] = cls.__new__(cls)
        context._workflow = scope.runner.workflow
        context._runner = scope.runner
        context._scope = scope
        context._serializer = context._store = context._saved = context._dead = None
        return context

    @classmethod
    def _of_run(cls, scope: StepScope) -> Context[Any]:
        """Return a face of the run for a checkpoint callback, which is outside the step."""
        context: Context[Any] = cls(scope.runner.workflow)
        context._runner = scope.runner
        context._store = scope.runner.context.store
        return context

    # --- anywhere ---

    @property
    def store(self) -> StateStore[StateT]:
        """The run's state: `await ctx.store.get("key")`, `set`, `async with ctx.store.edit_state() as state`."""
        scope = self._scope
        if scope is None:
            if self._store is None:
                self._store = self._workflow._new_store()
            return self._store
        if scope.in_thread:
            return cast("StateStore[StateT]", _NotInThread("store"))
        return scope.runner.context.store

    @property
    def is_running(self) -> bool:
        """Whether a run with this Context is live, or was when it was saved."""
        return self._saved is not None or (self._runner is not None and not self._runner.is_over)

    @property
    def run_id(self) -> str:
        """The id of the run."""
        return self._live("run_id").run_id

    @staticmethod
    def get_step_context() -> Context[Any]:
        """Return the Context of the step that is running.

        Raises:
            ContextStateError: called outside a step.
        """
        scope = current_scope.get()
        if scope is None:
            raise ContextStateError("get_step_context() was called outside a step; take a `ctx: Context` parameter in the step")
        return scope.context

    def send_event(self, message: Event, step: str | None = None) -> None:
        """Send an event to every step that takes it, or to one named step. May be called from any thread.

        Raises:
            ContextStateError: the run has not started, or the step that owns this Context has ended.
            WorkflowRuntimeError: `message` is no event, the step does not exist or does not take the event.
            WorkflowDone: the run is over.
        """
        runner = self._live("send_event")
        send(runner, message, step, self._scope)

    # --- saving ---

    def to_dict(self, serializer: BaseSerializer | None = None, *, include_state: bool = True) -> dict[str, Any]:
        """Return the store and, of a live run, all that is live, as data for JSON: anywhere, also inside a step.

        Its cost grows with what is live, not with what has happened.

        Args:
            serializer: how values become text; by default JSON, which knows the types in the workflow's annotations.
            include_state: False leaves the store out.

        Raises:
            ContextSerdeError: a value cannot be saved; the message names it by its path.
        """
        runner = self._runner
        if runner is None or runner.is_over:
            return self._saved_data(serializer, include_state=include_state)
        data: list[dict[str, Any]] = []
        on_loop_of(runner, lambda: data.append(self._saved_data(serializer, include_state=include_state)))
        return data[0]

    def _saved_data(self, serializer: BaseSerializer | None, *, include_state: bool) -> dict[str, Any]:
        if self._scope is not None:
            return self._scope.runner.context._saved_data(serializer, include_state=include_state)
        chosen = self._workflow._serializer(serializer or self._serializer)
        saved = self._saved
        if saved is None and self._runner is not None:
            saved = SavedRun.of(self._runner)
        return {
            "version": FORMAT,
            "workflow": self._workflow.workflow_name,
            "state": self.store.to_dict(chosen) if include_state else None,
            "run": None if saved is None else saved.dump(chosen.serialize_at),
        }

    def _stay_resumable(self, runner: Runner) -> None:
        """Keep what is live in a run that is about to be cancelled: it can still be saved, and gone on with."""
        live = SavedRun.of(runner)
        assert live is not None
        try:
            self._saved = live.apart(self._workflow.events, runner.graph)
        except ContextSerdeError as error:  # a value that contains itself: nothing may keep a run from being cancelled
            _log.warning("run %s of %s cannot go on after it is cancelled: %s", runner.run_id, runner.call.workflow, error)

    @classmethod
    def from_dict(cls, workflow: Workflow[Any], data: Mapping[str, Any], serializer: BaseSerializer | None = None) -> Context[Any]:
        """Return the Context that `to_dict` saved. Give it to `workflow.run(ctx=)`: a run that was live goes on.

        Raises:
            ContextSerdeError: the data is malformed, of a newer version, or names a step or class the workflow has not.
        """
        context: Context[Any] = cls(workflow)
        context._take(data, serializer)
        return context

    def _take(self, data: Mapping[str, Any], serializer: BaseSerializer | None) -> None:
        if not isinstance(cast("object", data), Mapping) or type(data.get("version")) is not int or data["version"] < 1:
            raise ContextSerdeError("this is no saved Context: it has no version. Give what `ctx.to_dict()` returned")
        if data["version"] > FORMAT:
            raise ContextSerdeError(f"the saved Context has version {data['version']}, newer than {FORMAT}; upgrade tracedflow")
        chosen, workflow = self._workflow._serializer(serializer), self._workflow
        if data.get("state") is not None:
            self._store = workflow._loaded_store(data["state"], chosen)
        if data.get("run") is not None:
            self._saved = SavedRun.load(data["run"], chosen.deserialize_at, workflow.events, workflow._checked_graph())

    # --- outside steps ---

    def stream_events(self, expose_internal: bool = False) -> AsyncIterator[Event]:
        """Return a reader of the run's stream, as `handler.stream_events` does."""
        return self._live("stream_events").stream(None, expose_internal=expose_internal)

    async def running_steps(self) -> list[str]:
        """Return the names of the steps that are running or parked."""
        return self._live("running_steps").running_steps()

    # --- in a step ---

    def collect_events(self, ev: Event, expected: Sequence[type[EventT]], buffer_id: str | None = None) -> list[EventT] | None:
        """Add `ev` to this step's buffer; return a full set in the order of `expected`, else None.

        A class that stands n times in `expected` is needed n times. What is too much for one set is kept for the
        next. Build a long `expected` once and pass the same list.

        Args:
            ev: the event to add.
            expected: event classes, exact.
            buffer_id: names one of several buffers of the step.
        """
        return cast("list[EventT] | None", self._inside_step("collect_events").collect(ev, expected, buffer_id or "default"))

    def wait_for_event(
        self,
        event_type: type[EventT],
        waiter_event: Event | None = None,
        waiter_id: str | None = None,
        requirements: dict[str, Any] | None = None,
        timeout: float | None = DEFAULT_WAIT,
    ) -> Awaitable[EventT]:
        """Park the step until an event of this class arrives; its slot is free meanwhile.

        The step goes on where it was: nothing before the call runs again. One event answers one wait, the oldest
        first. An event that came before is taken only if this wait publishes no question, or names it.

        Args:
            event_type: the exact class of the answer.
            waiter_event: a question, published to the stream once.
            waiter_id: names the wait, where a step has several of the same class.
            requirements: attributes and values that the answer must have.
            timeout: seconds, 2000 by default; None waits without limit.

        Raises:
            TimeoutError: no answer came in time.
        """
        scope = self._inside_step("wait_for_event", asynchronous=True)
        return cast("Awaitable[EventT]", scope.wait(event_type, waiter_event, waiter_id, requirements or {}, timeout))

    def write_event_to_stream(self, ev: Event | None) -> None:
        """Put an event on the run's stream, for whoever reads `handler.stream_events()`. None is ignored."""
        if ev is not None:
            write_to_stream(self._live("write_event_to_stream"), ev, self._scope)

    def retry_info(self) -> RetryInfo:
        """Return how often this execution was retried, and the last error."""
        return self._inside_step("retry_info").retry_info()

    @property
    def idempotency_key(self) -> str:
        """A key that stays the same over retries and resumes of this execution: `run_id/step/number`."""
        scope = self._inside_step("idempotency_key")
        return f"{scope.runner.run_id}/{scope.execution.step}/{scope.execution.id}"

    def once(self, key: str, fn: Callable[[], Awaitable[ValueT]] | Callable[[], ValueT]) -> Awaitable[ValueT]:
        """Call `fn` once in the life of this execution; retries and resumes get the same value.

        The value must be one that the serializer of the run can save, if the run is ever saved.
        """
        return self._once(self._inside_step("once", asynchronous=True), key, fn)

    async def _once(self, scope: StepScope, key: str, fn: Callable[[], Awaitable[ValueT]] | Callable[[], ValueT]) -> ValueT:
        if scope.once_locks is None:
            scope.once_locks = {}
        async with scope.once_locks.setdefault(key, asyncio.Lock()):  # a second call at the same time waits for the first
            known, value = scope.recall(f"once:{key}")
            if known:
                return cast("ValueT", value)
            result = fn()
            if isinstance(result, Awaitable):
                result = await cast("Awaitable[ValueT]", result)
            scope.remember(f"once:{key}", result)
            return result

    def measure(self, name: str, value: float, unit: str = "1") -> None:
        """Put a number on the attempt's record and span; `@step(measures=[name])` makes it a metric too."""
        call = self._inside_step("measure").call
        call.measurements = (*call.measurements, (name, float(value), unit))

    def annotate(self, **facts: object) -> None:
        """Put facts on the step's record and span, as `tracedflow.user.<name>`."""
        self._inside_step("annotate").call.annotations.update(facts)

    @contextmanager
    def _expecting(self, runner: Runner, reason: str) -> Generator[None]:
        runner.stalls.expect(reason)
        try:
            yield
        finally:
            runner.stalls.no_longer_expect(reason)

    def expect_external(self, reason: str) -> _Expecting:
        """Say that something outside will send an event: `async with ctx.expect_external("webhook"):`.

        While it is open, the run is not called stalled.
        """
        return _Expecting(self._expecting(self._live("expect_external"), reason))

    @property
    def sync(self) -> SyncContext:
        """The blocking twins of the async members, for steps that are plain functions."""
        return SyncContext(self._inside_step("sync"))

    # --- kept from the seed's era ---

    def get(self, key: str, default: Any = _MISSING) -> Awaitable[Any]:
        """Return a value of the store. Deprecated: use `await ctx.store.get(key)`."""
        warnings.warn("ctx.get is deprecated; use ctx.store.get", DeprecationWarning, stacklevel=2)
        return self.store.get(key) if default is _MISSING else self.store.get(key, default)

    def set(self, key: str, value: Any, make_private: bool = False) -> Awaitable[None]:
        """Set a value of the store. Deprecated: use `await ctx.store.set(key, value)`. `make_private` has no effect."""
        warnings.warn("ctx.set is deprecated; use ctx.store.set", DeprecationWarning, stacklevel=2)
        return self.store.set(key, value)

    def get_result(self) -> Any:
        """Return the result of a run that is over, or raise what it failed with. Deprecated: await the handler.

        Raises:
            ContextStateError: the run is not over.
        """
        warnings.warn("ctx.get_result is deprecated; await the handler", DeprecationWarning, stacklevel=2)
        runner = self._live("get_result")
        if runner.ending is None or not runner.log.closed:
            raise ContextStateError("ctx.get_result was called before the run was over; await the handler")
        if runner.ending.error is not None:
            raise runner.ending.error
        stop = runner.ending.stop
        assert stop is not None  # it has no error
        return stop.result if type(stop) is StopEvent else stop

    @property
    def streaming_queue(self) -> StreamQueue:
        """The stream, as something with `get`. Deprecated: use `handler.stream_events()`."""
        warnings.warn("ctx.streaming_queue is deprecated; use handler.stream_events", DeprecationWarning, stacklevel=2)
        return StreamQueue(self.stream_events())

    # --- which face this is ---

    def _live(self, member: str) -> Runner:
        if self._runner is None:
            raise ContextStateError(f"ctx.{member} needs a run; start one with workflow.run(ctx=ctx)")
        if self._dead is not None:
            raise ContextStateError(f"ctx.{member} was called by {self._dead}")
        return self._runner

    def _inside_step(self, member: str, *, asynchronous: bool = False) -> StepScope:
        scope = self._scope
        if scope is None:
            raise ContextStateError(f"ctx.{member} works in a step only; take a `ctx: Context` parameter there")
        if self._dead is not None:
            raise ContextStateError(f"ctx.{member} was called by {self._dead}")
        if scope.ended:
            raise ContextStateError(f"ctx.{member} was called after step `{scope.execution.step}` had ended; await what you start in it")
        if asynchronous and scope.in_thread:
            raise ContextStateError(f"ctx.{member} must be awaited and this step is a plain function; use ctx.sync.{member}")
        return scope


class StreamQueue:
    """A reader of a stream, for programs that ask for one event at a time."""

    def __init__(self, stream: AsyncIterator[Event]) -> None:
        self._stream = stream

    async def get(self) -> Event:
        """Return the next event; after the last one it raises `StopAsyncIteration`."""
        return await anext(self._stream)


class _Expecting:
    """Works with `async with` and with `with`."""

    def __init__(self, inner: AbstractContextManager[None]) -> None:
        self._inner = inner

    def __enter__(self) -> None:
        self._inner.__enter__()

    def __exit__(self, *exc: Any) -> None:
        self._inner.__exit__(*exc)

    async def __aenter__(self) -> None:
        self._inner.__enter__()

    async def __aexit__(self, *exc: Any) -> None:
        self._inner.__exit__(*exc)


class _NotInThread:
    """Stands for an async member in a plain function; any use of it names the blocking twin."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, member: str) -> Any:
        name = f"{self._name}.{member}"
        raise ContextStateError(f"ctx.{name} must be awaited and this step is a plain function; use ctx.sync.{name}")
