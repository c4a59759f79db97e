"""One live run: applies what happens to its state, carries out the commands, and ends everything when it is over."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, assert_never
from weakref import ref

from .._record_log import RecordLog
from ..clock import active as active_clock
from ..errors import ContextStateError, QueueFullError, WorkflowCancelledByUser, WorkflowStalledError
from ..events import Event, InternalDispatchEvent, StopEvent
from ..middleware import EventSent, LoopBlocked, RunCall, RunResumed, RunStalled
from ..outcomes import error_type, outcome_of_step
from . import _live, _shortly
from . import _state as st
from ._announce import dropped, joined, publish, routed
from ._deadline import Deadline
from ._dispatch import Dispatcher, current_runner
from ._ending import STOP_REASONS, Ending, annotate, checked_stop, close_resources, last_event, leave_children, recover, tear_down
from ._lead import Lead
from ._lifecycle import Lifecycle
from ._permits import acquire
from ._record import end_without_attempt, write
from ._report import report_of
from ._results import events_of
from ._scope import BoundStep, StepScope
from ._sending import check_queue, send_now
from ._settings import RunSettings
from ._snapshot import SavedRun
from ._stalls import StallWatch
from ._stepwise import Stepper
from ._stream import EventLog, EventStream
from ._turn import Turn, turn_of

if TYPE_CHECKING:
    from .._graph import Graph
    from ..clock import Clock
    from ..context import Context
    from ..handler import WorkflowHandler
    from ..limits import Limiter, Permit
    from ..middleware import Chain, StepResult
    from ..records import RunReport
    from ..resource._supply import RunResources
    from ..workflow import Workflow

_log = logging.getLogger("tracedflow")

_FIRST = deque[st.Execution].popleft


class Runner:
    """Owns the tasks, futures and timers of one run."""

    # With 40 attributes, a dict of them would take 2 kB; it is made for what most runs never set, below.
    __slots__ = (
        "__dict__", "__weakref__", "_ended_at", "_final_report", "_handler", "_over", "call", "chain", "choose", "clock",
        "deadline", "dispatcher", "ending", "graph", "has_shortcuts", "lead", "log", "loop", "now", "parent", "ready", "records", "run_id",
        "saving", "scopes", "settings", "stalls", "state", "step_context", "steps", "task", "tells_sent", "thread_id", "timers", "turn",
        "workflow",
    )  # fmt: skip
    children: set[Runner] | tuple[()] = ()
    permits: tuple[tuple[Limiter, Permit], ...] = ()
    abandoned: tuple[str, ...] = ()
    sent_early: tuple[tuple[Event, str | None], ...] = ()
    resumes: SavedRun | None = None
    stepper: Stepper | None = None
    lifecycle: Lifecycle | None = None  # made for the first reader of internal events
    resources: RunResources | None = None  # set by the workflow, if a step asks for some
    blocked: LoopBlocked | None = None
    threads = 0
    _warned: frozenset[str] = frozenset()

    def __init__(
        self,
        workflow: Workflow[Any],
        graph: Graph,
        dispatcher: Dispatcher,
        call: RunCall,
        state: st.RunState,
        settings: RunSettings,
        parent: StepScope | None,
        resumes: SavedRun | None = None,
    ) -> None:
        self.workflow: Workflow[Any] = workflow
        self.graph: Graph = graph
        self.dispatcher: Dispatcher = dispatcher
        self.chain: Chain = dispatcher.chain
        self.tells_sent: bool = self.chain.hears(EventSent)  # asked once: it would be asked for every event
        self.call: RunCall = call
        self.run_id: str = call.run_id
        self.state: st.RunState = state
        self.settings: RunSettings = settings
        self.parent: StepScope | None = parent
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.thread_id: int = threading.get_ident()
        self.clock: Clock = active_clock.get()
        self.now: Callable[[], float] = self.clock.now  # the run clock
        self.records: RecordLog = RecordLog(call.run_id, call.workflow, settings.keep_records)
        call.records = self.records
        self.stalls: StallWatch = StallWatch(self)
        self.log: EventLog = EventLog(settings.keep_events, self.stalls)
        self.scopes: dict[int, StepScope] = {}
        self.saving: dict[int, st.Complete] = {}  # ends of executions that a checkpoint callback is at work on: they do not count yet
        self.deadline: Deadline = Deadline(self)
        self._handler: ref[WorkflowHandler[Any]]
        self.task: asyncio.Task[None]
        self.steps: dict[str, BoundStep] = workflow._bound_steps(graph)
        self.step_context: contextvars.Context | None = None  # what each execution has a copy of; None: it has not begun
        self.ready: deque[st.Execution] = deque()
        self.choose: Callable[[deque[st.Execution]], st.Execution] = _FIRST  # a test tool may explore others
        self.turn: Turn = turn_of(self.loop)
        self.lead: Lead = Lead(self)
        self.timers: dict[int, asyncio.TimerHandle] = {}
        self.ending: Ending | None = None
        self._over: asyncio.Future[None] = self.loop.create_future()
        if resumes is not None:
            self.resumes = resumes
            self.sent_early = tuple(resumes.early)
        self.has_shortcuts: bool = not (settings.stepwise or settings.max_queued is not None or settings.pause_timeout)
        if settings.stepwise:
            self.stepper = Stepper(self)
        self._final_report: RunReport | None = None
        self._ended_at: float | None = None

    @property
    def handler(self) -> WorkflowHandler[Any] | None:
        """Its handler, which the registry of live runs holds, and then its caller; None when nobody does."""
        return self._handler()

    @property
    def context(self) -> Context[Any]:
        """Its Context, as the caller sees it."""
        handler = self._handler()
        if handler is None:
            raise ContextStateError(f"run {self.run_id} of {self.call.workflow} is over, and nobody holds it any more")
        return handler.ctx

    @property
    def has_begun(self) -> bool:
        """Whether its first turn of the loop has come, and a permit if it needs one."""
        return self.step_context is not None

    @property
    def is_over(self) -> bool:
        """Whether nothing can change the run any more."""
        return self.ending is not None

    def running_steps(self) -> list[str]:
        """Return the names of the steps that are running or parked."""
        return sorted({scope.call.step for scope in self.scopes.values()})

    def report(self) -> RunReport:
        """Answer why."""
        if self._final_report is None and self.ending is not None and self._ended_at is not None:
            self._final_report = report_of(self, state=self.ending.status.replace("_", " "), now=self._ended_at)
        return self._final_report or report_of(self)

    # --- what happens to it ---

    def apply(self, happened: st.Input) -> None:
        """Change the state by one input and carry out what follows. On the run's loop only."""
        commands = st.reduce(self.state, happened, self.graph)
        if self.lifecycle is not None:
            commands = self.lifecycle.follow(happened, commands)
        for command in commands:
            if type(command) is st.Execution:
                self.ready.append(command)
            elif type(command) is st.Routed:
                routed(self, command)
            else:
                self._carry_out(command)
        if self.stepper is not None:
            self.stepper.look()
        elif self.ready:
            self.lead.take()
        if not self.state.executions:
            self.stalls.look()
        if self.deadline.pauses:
            self.deadline.look()

    def stream(self, offset: int | None, *, expose_internal: bool) -> EventStream:
        """Attach a reader to the stream."""
        first: Sequence[InternalDispatchEvent] = ()
        if expose_internal and not self.log.closed:
            if self.lifecycle is None:
                self.has_shortcuts = False  # it follows every input
                self.lifecycle = Lifecycle(self.state, self.ready if self.stepper else (), stepwise=self.stepper is not None)
            if self.has_begun:
                first = self.lifecycle.now()
        return EventStream(self.log, offset, expose_internal=expose_internal, first=first)

    def step_completed(self, scope: StepScope, result: StepResult, at: float) -> None:
        """Hear from the dispatcher that a step execution ended well."""
        scope.ended_at = at
        if self.has_shortcuts and _shortly.completed(self, scope, result, at):
            self.forget(scope)
            if self.ready:
                self.lead.take()
            elif not self.state.executions:
                self.stalls.look()
            return
        events = events_of(result)
        try:
            if events and self.settings.max_queued is not None:
                check_queue(self, events[0])
        except QueueFullError as error:
            self.step_failed(scope, error)
            return
        self.apply(scope.completion(events, stream=isinstance(result, list), at=at))
        self.forget(scope)

    def send(self, scope: StepScope, event: Event, target: str | None) -> None:
        """Hear that a step execution sends an event."""
        at, call = self.now(), scope.call
        if target is not None or not self.has_shortcuts or not _shortly.sent(self, scope, event, at):
            self.apply(st.Send(event, at, call.execution, call.step, target, call._outgoing, call.span_context))

    def collect(self, scope: StepScope, asked: st.Collect) -> None:
        """Hear that a step execution adds an event to a join."""
        if self.has_shortcuts and self.state.status == "running":
            _shortly.joined(self, scope, asked)
        else:
            self.apply(asked)

    def step_failed(self, scope: StepScope, error: BaseException) -> None:
        """Hear from the dispatcher that a step execution ended badly, or was stopped."""
        if scope.attempt == 0:  # a layer raised, or it was stopped, before the step was called
            end_without_attempt(scope, None, error)
        elif scope.error is None:  # its result was refused, or a layer raised after it
            scope.outcome, scope.error = outcome_of_step(scope.call, None, error), error_type(error)
        self.forget(scope)
        if self.is_over or (isinstance(error, GeneratorExit) and not self.loop.is_running()):
            return
        if isinstance(error, asyncio.CancelledError):
            text = f"Run {self.run_id} of {self.call.workflow} was cancelled: the task of step `{scope.call.step}` was, from outside"
            self.finish(Ending(status="cancelled", error=WorkflowCancelledByUser(text), scope=scope))
            return
        annotate(error, scope)
        if isinstance(error, Exception) and recover(self, scope, error):
            return
        self.finish(Ending(status="failed", error=error, scope=scope, trace=error.__traceback__))

    def unsaved(self, scope: StepScope, error: BaseException) -> None:
        """Hear that a completed step execution could not be saved: the run does not go on past it."""
        self.forget(scope)
        self.finish(Ending(status="failed", error=error, scope=scope, trace=error.__traceback__))

    def crashed(self, error: Exception) -> None:
        """Hear of a fault of the engine itself: the run must not wait for what will never come."""
        error.add_note(f"a fault of tracedflow itself, in run {self.run_id} of {self.call.workflow}; please report it")
        self.finish(Ending(status="failed", error=error, trace=error.__traceback__))

    def forget(self, scope: StepScope) -> None:
        """Let go of a step execution that has ended, and of the runs that it left behind."""
        write(scope, last=True)
        scope.call._scope = None
        self.scopes.pop(scope.execution.id, None)
        if scope.children:
            leave_children(scope, scope.children)
        if self.stepper is not None:
            self.stepper.look()

    # --- commands ---

    def _carry_out(self, command: st.Rare) -> None:
        match command:
            case st.Resume():
                self.resume(command)
            case st.Returned():
                assert self.stepper is not None
                self.stepper.add(command.envelope)
            case st.Publish():
                publish(self, command.event, command.execution)
            case st.Finish():
                self.finish(Ending(status="completed", stop=command.event))
            case st.SetTimer():  # in the run's context: a timer that is cancelled may stay with the loop, and must not keep a step
                fire = self.loop.call_later(command.delay, self._fire, command.timer, context=self.step_context)
                self.timers[command.timer] = fire
            case st.CancelTimer():
                timer = self.timers.pop(command.timer, None)
                if timer is not None:
                    timer.cancel()
            case st.Joining() | st.Joined():
                joined(self, command)
            case st.Dropped():
                dropped(self, command)
            case _:
                assert_never(command)

    def resume(self, command: st.Resume) -> None:
        """Let a parked step go on."""
        scope = self.scopes.get(command.execution)
        if scope is None:  # it was parked in another process: start it again, with its memo
            self.ready.append(self.state.executions[command.execution])
        elif self.stepper is None or not self.stepper.puts_off(command):
            scope.resume(command.parked_on, command.answer)

    def _fire(self, timer: int) -> None:
        self.timers.pop(timer, None)
        self.apply(st.Fire(timer, self.now()))

    def warn_once(self, text: str) -> None:
        """Log a warning once in a run."""
        if text not in self._warned:
            self._warned |= {text}
            _log.warning("%s (run %s)", text, self.run_id)

    # --- the end ---

    def stall(self) -> None:
        """End the run, which can never finish."""
        report = self._final_report = report_of(self, state="stalled")
        if self.chain.hears(RunStalled):
            self.chain.notice(RunStalled(run=self.call, at=self.now(), report=report))
        self.finish(Ending(status="stalled", error=WorkflowStalledError(str(report), report)))

    def time_out(self) -> None:
        """End the run, whose time is over."""
        self._final_report = report_of(self, state="timed out")
        self.finish(Ending(status="timed_out", error=self.deadline.error(self._final_report)))

    def cancel(self, why: str, *, hard: bool = False, reason: str | None = None) -> None:
        """End the run; `hard` as a task is cancelled, so that awaiting it raises CancelledError."""
        error = WorkflowCancelledByUser(f"Run {self.run_id} of {self.call.workflow} was cancelled: {why}")
        self.finish(Ending(status="cancelled", error=error, hard=hard, reason=reason))
        if not self.has_begun:  # it may be waiting for a permit
            self.task.cancel()

    def finish(self, ending: Ending) -> None:
        """End the run; only the first ending counts."""
        if self.ending is not None:
            return
        self.ending = ending
        self.call.cancel_reason = ending.reason or STOP_REASONS.get(ending.status)
        if ending.status != "completed":
            self.apply(st.End(ending.status))
        if not self._over.done():
            self._over.set_result(None)
        if self.stepper is not None:
            self.stepper.look()

    # --- the run's own task ---

    def start(self, handler: WorkflowHandler[Any]) -> None:
        """Start with the loop's next turn."""
        self._handler = ref(handler)
        _live.register(self, handler)
        handler.ctx._runner = self
        if self.parent is not None:
            self.parent.children = [*(self.parent.children or ()), self]
        context = contextvars.copy_context()
        self.task = self.loop.create_task(self.drive(), context=context)
        self.task.add_done_callback(self._end_unbegun, context=context)

    async def drive(self) -> None:
        """Take the run from its start to its end, through the `run` layers."""
        current_runner.set(self)
        stop: StopEvent | None = None
        error: BaseException | None = None
        try:
            gate = self.settings.gate
            if gate is not None:
                self.permits = ((gate, await acquire(self, gate)),)
            stop = checked_stop(self, await self.chain.run(self.call))
        except BaseException as caught:  # noqa: BLE001 - it is handed to whoever awaits the run
            error = caught
            if isinstance(caught, asyncio.CancelledError) and not self.has_begun and self.ending is not None:
                error = self.ending.error  # it waited for a permit, and `cancel` made the wait end
        else:
            if stop is None and self.ending is not None:  # to the layers, a suspended segment is no failure
                error = self.ending.error
        self._conclude(stop, error)

    def _end_unbegun(self, task: asyncio.Task[None]) -> None:
        """Conclude a run whose task was cancelled before its first turn, so that `drive` never ran."""
        if self.log.closed:
            return
        self.cancel("its task was, before it had begun", hard=True)
        assert self.ending is not None
        self._conclude(None, self.ending.error)

    async def execute(self, call: RunCall) -> StopEvent | None:
        """Run the steps: the innermost part of the run's chain."""
        self.call = call
        current_runner.set(None)  # the context outlives the run, and must not keep it
        self.step_context = contextvars.copy_context()
        self.deadline.start()
        if self.ending is None:
            self.apply(self._first_input())
            for event, target in self.sent_early:
                send_now(self, event, target, None)
        try:
            await self._over
        except asyncio.CancelledError:
            error = WorkflowCancelledByUser(f"Run {self.run_id} of {self.call.workflow} was cancelled: its task was")
            self.finish(Ending(status="cancelled", error=error, hard=True))
        await tear_down(self)
        await close_resources(self)
        ending = self.ending
        assert ending is not None
        if ending.stop is not None:
            return ending.stop
        if ending.status == "suspended":
            return None
        assert ending.error is not None
        if ending.hard:
            raise asyncio.CancelledError from ending.error
        raise ending.error

    def _first_input(self) -> st.Input:
        if self.call.resumed and self.chain.hears(RunResumed):
            self.chain.notice(RunResumed(run=self.call, at=self.now()))
        if self.resumes is not None and self.resumes.has_begun:
            return st.Restart(self.now(), self.resumes.completed)
        return st.Begin(self.call.start_event, self.now(), self.call.headers, self.call.span_context)

    def _conclude(self, stop: StopEvent | None, error: BaseException | None) -> None:
        """Tell everybody how the run ended: the stream first, then whoever awaits it."""
        ending = self.ending or Ending(status="completed" if error is None else "failed", stop=stop, error=error)
        self.ending = ending
        if (error is None) != (ending.error is None):  # a layer raised after the run had ended, or answered for one that failed
            ending.status = "completed" if error is None else "failed"
        if error is not None and (error is ending.error or (ending.hard and isinstance(error, asyncio.CancelledError))):
            error.__traceback__ = ending.trace  # without the engine's frames that it came through since: they would keep the run
        for _, permit in self.permits:
            permit.release()
        self._ended_at = self.now()
        self.records.close(ending.status.replace("_", " "), self._ended_at - self.call.started_at, self._final_report)
        if error is not None and self.abandoned:
            error.add_note(f"abandoned after cancellation: {', '.join(f'`{name}`' for name in self.abandoned)}")
        if self.lifecycle is not None:
            for told in self.lifecycle.closing():
                self.log.tell(told)
            self.lifecycle = None  # what an abandoned step does from now on is told to nobody
        last = last_event(self, stop, error)
        ending.stop, ending.error, ending.scope = stop, error, None  # the scope would keep the run
        self.log.append(last)
        self.log.close()
        if self.parent is not None:
            self.parent.runner.stalls.look()
        handler = self.handler
        _live.unregister(self)
        if handler is not None:
            handler._settle(last, error, hard=ending.hard)
