"""What the caller of a run holds: an awaitable that can be streamed, sent to, cancelled and asked why."""

from __future__ import annotations

import asyncio
import reprlib
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any, Generic, cast

from ._checks import check_seconds
from ._engine._sending import send
from ._notebook import Drawn
from .errors import WorkflowCancelledByUser
from .events import Event, StopEvent
from .types import RunResultT

if TYPE_CHECKING:
    from ._engine._runner import Runner
    from ._engine._stream import EventStream
    from .context import Context
    from .records import AttemptRecord, RunReport


class WorkflowHandler(Drawn, asyncio.Future[RunResultT], Generic[RunResultT]):
    """A live or finished run. `await handler` gives its result or raises what it failed with, as often as asked.

    It is an `asyncio.Future` and behaves as a task does: `cancel()`, a timed-out `asyncio.wait_for` and a cancelled
    `await` cancel the run. Use `asyncio.shield` where several await one handler.
    """

    def __init__(self, runner: Runner, context: Context[Any]) -> None:
        super().__init__(loop=runner.loop)
        self._runner = runner
        self._context = context
        self._stop_event: StopEvent | None = None
        self._was_awaited = False
        self._has_result = False

    if not TYPE_CHECKING:  # else type checkers take any name for an attribute

        def __getattr__(self, name: str) -> Any:
            text = f"'{type(self).__name__}' object has no attribute '{name}'; what the run returned is the value of `await handler`"
            raise AttributeError(text, name=name, obj=self)

    @property
    def run_id(self) -> str:
        """The id of the run."""
        return self._runner.run_id

    @property
    def ctx(self) -> Context[Any]:
        """The run's Context, as the caller sees it."""
        return self._context

    @property
    def record(self) -> Sequence[AttemptRecord]:
        """The records of the last attempts of the run (10,000 by default), oldest first."""
        return tuple(self._runner.records)

    @property
    def was_awaited(self) -> bool:
        """Whether somebody waits, or waited, for the result."""
        return self._was_awaited

    def why(self) -> RunReport:
        """Tell what runs, what waits for what, what each join has and lacks, and where events went; `str()` explains it."""
        return self._runner.report()

    def is_done(self) -> bool:
        """Whether the run is over."""
        return self.done()

    def stream_events(self, expose_internal: bool = False, *, offset: int | None = None) -> EventStream:
        """Return a reader of what the run writes to its stream; it ends with the run, whatever way that ends.

        The last event is the StopEvent, or tells of a failure, timeout or cancellation; awaiting the handler raises
        the error. Any number of readers may be attached, each from an `offset` (0 is the first event). Without one, a
        reader goes on where one that left early stopped, else from the first event. A StopEvent that a step only wrote
        ends a reader too, not the run.

        `expose_internal` adds what the engine does, as it does it: `StepStateChanged`, `UnhandledEvent` and
        `WorkflowIdleEvent`. These belong to the reader: they have no offset and are not kept, so no other reader can tell
        that there are any. One that comes while the run is live is told first which steps run, or that the run is
        idle, and nothing internal of before. A step is running while it holds a slot: each attempt is told, and that a
        wait gives the slot back (`not_running`); after the wait it goes on in place, without a second `running`. At
        most as many internal events as the stream keeps wait for one reader; then it gets a `StreamOffsetError`.
        """
        return self._runner.stream(offset, expose_internal=expose_internal)

    async def send_event(self, event: Event, step: str | None = None) -> None:
        """Send an event to every step that takes it, or to one named step."""
        send(self._runner, event, step, None)

    async def run_step(self) -> list[Event] | None:
        """Run what is ready in a run started with `stepwise=True`; None when the run is over.

        The events that the steps returned are given to the caller, not delivered: send on those that shall take effect,
        with `handler.ctx.send_event`.

        Raises:
            ValueError: the run is not stepwise.
        """
        stepper = self._runner.stepper
        if stepper is None:
            raise ValueError("run_step() needs a stepwise run: workflow.run(stepwise=True, ...)")
        return await stepper.run_step()

    async def cancel_run(self, *, timeout: float = 5.0) -> None:
        """End the run: awaiting it raises `WorkflowCancelledByUser`. Returns when it has ended, or after `timeout` seconds.

        Its Context stays as it was: `workflow.run(ctx=handler.ctx)` goes on with it, as with one that was saved.
        """
        check_seconds("timeout", timeout)
        if self.done():
            return
        if not self._runner.is_over:
            self._context._stay_resumable(self._runner)
        self._runner.cancel("cancel_run() was called")
        await asyncio.wait([self], timeout=timeout)

    def cancel(self, msg: Any | None = None) -> bool:
        """End the run as a task is cancelled: awaiting it raises `asyncio.CancelledError`. False if it is over."""
        ending = self._runner.ending
        if self.done() or (ending is not None and not ending.hard):  # True would promise that whoever awaits it is cancelled
            return False
        self._runner.cancel("its handler was cancelled" if msg is None else str(msg), hard=True)
        return True

    def get_stop_event(self) -> StopEvent | None:
        """Return the last event of the stream, or None while the run is live."""
        return self._stop_event

    async def stop_event_result(self) -> StopEvent | None:
        """Wait for the end of the run and return the last event of its stream, without raising."""
        await asyncio.wait([self])
        if not self.cancelled():
            self.exception()
        return self._stop_event

    def add_done_callback(self, fn: Any, /, *, context: Any = None) -> None:
        """Call `fn(handler)` when the run is over."""
        self._was_awaited = True
        super().add_done_callback(fn, context=context)

    def __await__(self) -> Generator[Any, None, RunResultT]:
        self._was_awaited = True
        return super().__await__()

    def __iter__(self) -> Generator[Any, None, RunResultT]:
        return self.__await__()

    def __repr__(self) -> str:
        return f"<{self._told()}>"  # without the result: asyncio logs it, and content leaves a process only on request

    def __str__(self) -> str:
        # Whether it has an exception is not asked of the future: that would count as having seen it.
        return f"<{self._told()}, result {reprlib.repr(self.result())}>" if self._has_result else repr(self)

    def _told(self) -> str:
        runner = self._runner
        state = (runner.state if runner.ending is None else runner.ending).status.replace("_", " ")
        return f"WorkflowHandler of {self._runner.call.workflow}, run {self.run_id}, {state}"

    def _settle(self, last: StopEvent | None, error: BaseException | None, *, hard: bool) -> None:
        """Take the outcome; called once, by the runner."""
        self._stop_event = last
        if self.done():
            return
        if error is None:
            self.set_result(cast("RunResultT", last.result if type(last) is StopEvent else last))
            self._has_result = True
        elif isinstance(error, asyncio.CancelledError) or (hard and isinstance(error, WorkflowCancelledByUser)):
            super().cancel()
        else:
            self.set_exception(error)
            if isinstance(error, WorkflowCancelledByUser):
                self.exception()  # no failure: not "never retrieved", whoever cancelled it


def launch(runner: Runner, context: Context[Any]) -> WorkflowHandler[Any]:
    """Start a run on its loop; return what its caller holds."""
    handler: WorkflowHandler[Any] = WorkflowHandler(runner, context)
    runner.start(handler)
    return handler
