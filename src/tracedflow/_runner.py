"""One live run: applies what happens to its state, carries out the commands, and ends everything when it is over."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, assert_never

from . import _live
from . import _state as st
from ._dispatch import Dispatcher, StepScope, cause_of, current_runner
from ._report import background_tasks, report_of
from ._snapshot import SavedRun
from ._stream import EventLog, EventStream
from ._turn import turn_of
from .clock import active as active_clock
from .context import Context
from .errors import (
    LimitError,
    QueueFullError,
    WorkflowCancelledByUser,
    WorkflowDone,
    WorkflowRuntimeError,
    WorkflowStalledError,
    WorkflowStepDoesNotExistError,
    WorkflowTimeoutError,
)
from .events import (
    Event,
    StopEvent,
    UnreconstructedException,
    WorkflowCancelledEvent,
    WorkflowFailedEvent,
    WorkflowTimedOutEvent,
)
from .middleware import (
    EventDropped,
    EventSent,
    EventStreamed,
    JoinWaiting,
    LoopBlocked,
    Notice,
    RunCall,
    RunResumed,
    RunStalled,
    RunSuspended,
)
from .outcomes import error_type, outcome_of_step
from .records import RecordLog

if TYPE_CHECKING:
    from ._graph import Graph
    from .handler import WorkflowHandler
    from .limits import Limiter, Permit
    from .records import RunReport
    from .workflow import Workflow

_log = logging.getLogger("tracedflow")

_LATE = 0.1  # seconds after which a timer that fires late is worth a word
_CANCEL_REASONS: dict[str, str] = {"failed": "sibling_failed", "timed_out": "run_timeout", "suspended": "suspended"}


@dataclass(slots=True, kw_only=True)
class RunSettings:
    """What a run takes from its workflow and its options. Times are seconds."""

    timeout: float | None
    on_stall: str
    max_queued: int | None
    keep_events: int | None
    keep_records: int | None
    cancel_grace: float
    stepwise: bool
    gate: Limiter | None  # num_concurrent_runs


@dataclass(slots=True, kw_only=True)
class _Ending:
    status: st.Status
    stop: StopEvent | None = None
    error: BaseException | None = None
    scope: StepScope | None = None  # the step that ended it
    hard: bool = False  # cancelled as a task is, not by `cancel_run`
    trace: TracebackType | None = None  # the user's own frames


class Runner:
    """Owns the tasks, futures and timers of one run."""

    def __init__(
        self,
        workflow: Workflow[Any],
        graph: Graph,
        dispatcher: Dispatcher,
        call: RunCall,
        state: st.RunState,
        settings: RunSettings,
        context: Context[Any],
        parent: StepScope | None,
    ) -> None:
        self.workflow = workflow
        self.graph = graph
        self.dispatcher = dispatcher
        self.chain = dispatcher.chain
        self.call = call
        self.run_id = call.run_id
        self.state = state
        self.settings = settings
        self.cancel_grace = settings.cancel_grace
        self.context = context
        self.parent = parent
        self.loop = asyncio.get_running_loop()
        self.thread_id = threading.get_ident()
        self._clock = active_clock.get()
        self.now = self._clock.now  # the run clock
        self.records = RecordLog(call.run_id, call.workflow, settings.keep_records)
        call.records = self.records
        self.log = EventLog(settings.keep_events, self._on_reader)
        self.scopes: dict[int, StepScope] = {}
        self.children: set[Runner] = set()
        self.permits: list[tuple[Limiter, Permit]] = []
        self.threads = 0
        self.abandoned: list[str] = []
        self.blocked: LoopBlocked | None = None
        self.deadline: float | None = None
        self.handler: WorkflowHandler[Any]
        self.task: asyncio.Task[None]
        self._steps = workflow._bound_steps(graph)
        self._step_context: contextvars.Context | None = None
        self._ready: deque[st.Execution] = deque()
        self._turn = turn_of(self.loop)
        self._going_on: StepScope | None = None  # the execution whose task is free to go on
        self._next: StepScope | None = None  # what it goes on with
        self.unbegun = 0  # executions that were started and have not run yet
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._ending: _Ending | None = None
        self._over: asyncio.Future[None] = self.loop.create_future()
        self._stall_check: asyncio.Handle | None = None
        self._expected: dict[str, int] = {}
        self._warned: set[str] = set()
        self._sent_early: list[tuple[Event, str | None]] = []
        self._produced: list[Event] | None = None  # what a stepwise run's last step returned
        self._stepped: asyncio.Future[None] | None = None
        self._final_report: RunReport | None = None

    # --- facts ---

    @property
    def is_over(self) -> bool:
        """Whether nothing can change the run any more."""
        return self._ending is not None

    def running_steps(self) -> list[str]:
        """Return the names of the steps that are running or parked."""
        return sorted({scope.call.step for scope in self.scopes.values()})

    def report(self) -> RunReport:
        """Answer why."""
        return self._final_report or report_of(self)

    @property
    def is_saveable(self) -> bool:
        """Whether there is anything live to save."""
        return self.state.status in ("running", "suspended")

    def saved_run(self) -> SavedRun:
        """Return what a later segment needs to go on."""
        return SavedRun(run_id=self.run_id, start_event=self.call.start_event, segment=self.call.segment, state=self.state)

    def suspend(self) -> dict[str, Any]:
        """Save the run and end this segment of it; returns what `Context.from_dict` takes."""
        saved = self.context.to_dict()
        if self.chain.hears(RunSuspended):
            self._notice(RunSuspended(run=self.call, at=self.now()))
        text = f"Run {self.run_id} of {self.call.workflow} was suspended; it goes on from its saved Context"
        self.finish(_Ending(status="suspended", error=WorkflowCancelledByUser(text)))
        return saved

    def signs_of_life(self) -> list[str]:
        """Return why a run in which nothing happens may still go on."""
        signs = [f"a caller expects {reason}" for reason in self._expected]
        if self.settings.stepwise:
            signs.append("the run is stepwise")
        if self.state.questions and self.graph.takes_human_input:
            signs.append("a question to a human is unanswered")
        if not self.log.is_drained:
            signs.append("a reader of the stream has not asked for more")
        if any(not child.is_over for child in self.children):
            signs.append("a nested run is live")
        return signs

    # --- what happens to it ---

    def apply(self, happened: st.Input) -> None:
        """Change the state by one input and carry out what follows. On the run's loop only."""
        for command in st.reduce(self.state, happened, self.graph):
            self._carry_out(command)
        ended, self._going_on = self._going_on, None
        if self._ready and not self.settings.stepwise:
            if ended is not None and self._may_go_on(ended, ended.ended_at):
                self._next = self._open(self.choose(self._ready), ended.ended_at)
            else:
                self._start_ready()
        if not self.state.executions:
            self.look_for_stall()

    def send(self, event: Event, target: str | None, scope: StepScope | None) -> None:
        """Send an event from a step, or from outside; from any thread."""
        self._check_send(event, target)
        if threading.get_ident() == self.thread_id:
            self._send_now(event, target, scope)
        elif scope is not None and not scope.ended:
            scope.on_loop(lambda: self._send_now(event, target, scope))
        else:
            self.loop.call_soon_threadsafe(self._send_now, event, target, scope)

    def _check_send(self, event: object, target: str | None) -> None:
        if not isinstance(event, Event):
            raise WorkflowRuntimeError(f"send_event() takes an event, not {event!r} of type {type(event).__name__}")
        if self.is_over:
            raise WorkflowDone(f"Run {self.run_id} of {self.call.workflow} is over; {type(event).__name__} cannot be sent to it any more")
        if target is None:
            return
        step = self.graph.steps.get(target)
        if step is None:
            known = ", ".join(sorted(self.graph.steps))
            raise WorkflowStepDoesNotExistError(f"{self.call.workflow} has no step `{target}`; it has {known}")
        if target not in self.graph.takers(type(event)):
            wanted = " | ".join(kind.__name__ for kind in step.accepted_events)
            raise WorkflowRuntimeError(f"Step `{target}` ({step.place}) takes {wanted}, not {type(event).__name__}")

    def _send_now(self, event: Event, target: str | None, scope: StepScope | None) -> None:
        if self._step_context is None:  # sent between `run()` and the run's first turn of the loop
            self._sent_early.append((event, target))
            return
        if scope is None or scope.ended:
            self._check_queue(event)
            source = (None, None) if scope is None else (scope.execution.id, scope.call.step)
            self.apply(st.Send(event, self.now(), source[0], source[1], target))
            return
        scope.sent_calls += 1
        if scope.sent_calls <= scope.execution.replayed:
            return  # accepted in the life before a resume
        self._check_queue(event)
        call = scope.call
        self.apply(st.Send(event, self.now(), call.execution, call.step, target, call._outgoing, call.span_context))

    def _check_queue(self, event: Event) -> None:
        limit = self.settings.max_queued
        if limit is not None and self.state.queued >= limit:
            raise QueueFullError(
                f"{self.state.queued} events are queued in run {self.run_id} of {self.call.workflow}, and max_queued is {limit}; "
                f"{type(event).__name__} was not sent"
            )

    def write_to_stream(self, event: object, scope: StepScope | None) -> None:
        """Put an event on the stream, from a step, in any thread."""
        if not isinstance(event, Event):
            raise WorkflowRuntimeError(f"write_event_to_stream() takes an event, not {type(event).__name__}")
        if scope is not None and threading.get_ident() != self.thread_id:
            scope.on_loop(lambda: self.write_to_stream(event, scope))
            return
        if scope is not None and not scope.ended:
            scope.sent_calls += 1
            if scope.sent_calls <= scope.execution.replayed:
                return
        self.apply(st.Streamed(None if scope is None else scope.execution.id, event))

    def stream(self, offset: int | None, *, expose_internal: bool) -> EventStream:
        """Attach a reader to the stream."""
        return EventStream(self.log, offset, expose_internal=expose_internal)

    def step_completed(self, scope: StepScope, events: Sequence[Event]) -> None:
        """Hear from the dispatcher that a step execution ended well."""
        call = scope.call
        try:
            if events and self.settings.max_queued is not None:
                self._check_queue(events[0])
        except QueueFullError as error:
            self.step_failed(scope, error)
            return
        if self.settings.stepwise and not any(isinstance(event, StopEvent) for event in events):
            events = self._hold_back(events)
        silent = not events and not call.emitted and not call.collecting
        self._going_on = scope
        now = scope.ended_at = self.now()
        self.apply(st.Complete(call.execution, events, now, call._outgoing, call.span_context, silent))
        self._forget(scope)

    def step_failed(self, scope: StepScope, error: BaseException) -> None:
        """Hear from the dispatcher that a step execution ended badly, or was stopped."""
        if scope.attempt == 0:  # a layer raised, or it was stopped, before the step was called
            scope.end_attempt(scope.call.started_at, scope.call.queued, None, error, None)
        elif scope.error is None:  # its result was refused, or a layer raised after it
            scope.outcome, scope.error = outcome_of_step(scope.call, None, error), error_type(error)
        self._forget(scope)
        if self.is_over or isinstance(error, GeneratorExit):
            return
        if isinstance(error, asyncio.CancelledError):
            text = f"Run {self.run_id} of {self.call.workflow} was cancelled: the task of step `{scope.call.step}` was, from outside"
            self.finish(_Ending(status="cancelled", error=WorkflowCancelledByUser(text), scope=scope))
            return
        self._annotate(error, scope)
        self.finish(_Ending(status="failed", error=error, scope=scope, trace=error.__traceback__))

    def _annotate(self, error: BaseException, scope: StepScope) -> None:
        """Leave the user's own frames on the exception, and say where it was raised."""
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code is not Dispatcher.call_step.__code__:
            trace = trace.tb_next
        if trace is not None and trace.tb_next is not None:
            error.__traceback__ = trace.tb_next
        call = scope.call
        tried = f", attempt {scope.attempt}" if scope.attempt > 1 else ""
        traced = f", trace {call.trace_id}" if call.trace_id else ""
        error.add_note(f"in step `{call.step}` of {call.workflow} ({call.config.place}){tried}, run {self.run_id}{traced}")

    def _forget(self, scope: StepScope) -> None:
        scope.write_record()
        self.scopes.pop(scope.call.execution, None)
        for child in scope.children or ():
            if child.is_over:
                continue
            if scope.call.cancel_reason is not None or child.handler.was_awaited:
                continue  # the run's end takes care of it
            self.children.discard(child)
            child.parent = None
            _log.warning(
                "step `%s` of %s ended while run %s of %s, which it started, is live and nobody awaited it; it goes on by itself. "
                "Await it, or start it with RunOptions(parent=None)",
                scope.call.step, self.call.workflow, child.run_id, child.call.workflow,
            )  # fmt: skip
        if self.settings.stepwise:
            self._look_for_step_end()

    # --- commands ---

    def _carry_out(self, command: st.Command) -> None:
        match command:
            case st.Start():
                self._ready.append(command.execution)
            case st.Routed():
                self._routed(command)
            case st.Resume():
                self._resume(command)
            case st.Publish():
                self._publish(command.event, command.execution)
            case st.Finish():
                self.finish(_Ending(status="completed", stop=command.event))
            case st.SetTimer():
                self._timers[command.timer] = self.loop.call_later(command.delay, self._fire, command.timer)
            case st.CancelTimer():
                timer = self._timers.pop(command.timer, None)
                if timer is not None:
                    timer.cancel()
            case st.Joining() | st.Joined():
                self._joined(command)
            case st.Dropped():
                self._dropped(command)
            case _:
                assert_never(command)

    def choose(self, ready: deque[st.Execution]) -> st.Execution:
        """Take the next execution to start: the first. A test tool may explore other orders here."""
        return ready.popleft()

    def _start_ready(self) -> None:
        now = self.now()
        while self._ready and not self.is_over:
            scope = self._open(self.choose(self._ready), now)
            scope.task = self.loop.create_task(self.dispatcher.work(scope), context=self.new_context())

    def _open(self, execution: st.Execution, now: float) -> StepScope:
        scope = self.scopes[execution.id] = StepScope(self, self._steps[execution.step], execution, now)
        self.unbegun += 1
        return scope

    def new_context(self) -> contextvars.Context:
        """Return a context for one step execution: what one sets, no other sees."""
        assert self._step_context is not None
        return self._step_context.copy()

    def take_next(self, done: StepScope) -> StepScope | None:
        """Return the execution that the task of an ended one shall go on with, if there is one."""
        following, self._next = self._next, None
        if following is not None and done.task.cancelling():
            # Before Python 3.13 a request to cancel cannot be taken back: the successor must not inherit it.
            following.task = self.loop.create_task(self.dispatcher.work(following), context=self.new_context())
            return None
        return following

    def _may_go_on(self, scope: StepScope, now: float) -> bool:
        """Whether the only execution that is ready may run in the task of the one that just ended."""
        return (
            len(self._ready) == 1
            and not self.unbegun  # others were sent before it and have not begun
            and not self.is_over
            and not scope.step.config.own_task
            and not self._steps[self._ready[0].step].config.own_task
            and self._turn.allows(now)
        )

    def _resume(self, command: st.Resume) -> None:
        scope = self.scopes.get(command.execution)
        if scope is None:  # it was parked in another process: start it again, with its memo
            self._ready.append(self.state.executions[command.execution])
        else:
            scope.resume(command.parked_on, command.answer)

    def _fire(self, timer: int) -> None:
        self._timers.pop(timer, None)
        self.apply(st.Fire(timer, self.now()))

    def _publish(self, event: Event, execution: int | None) -> None:
        self.log.append(event)
        if self.chain.hears(EventStreamed):
            self._notice(EventStreamed(run=self.call, at=self.now(), call=self._call_of(execution), event_type=type(event).__name__))

    def _routed(self, command: st.Routed) -> None:
        envelope = command.envelope
        kind = type(envelope.event).__name__
        scope = self.scopes.get(envelope.source) if envelope.source is not None else None
        if scope is not None:
            emitted = scope.call.emitted
            if isinstance(emitted, list):
                emitted.append((envelope.id, kind))
            else:
                scope.call.emitted = [(envelope.id, kind)]
        if self.chain.hears(EventSent):
            call = scope.call if scope else None
            self._notice(
                EventSent(run=self.call, at=envelope.at, call=call, event_id=envelope.id, event_type=kind, to=command.to, waited=command.waited)
            )

    def _dropped(self, command: st.Dropped) -> None:
        drop = command.drop
        if drop.reason == "unclaimed":
            came = f"from step `{drop.source_step}`" if drop.source_step else "from outside"
            meant = f"; {drop.near_miss}" if drop.near_miss else ""
            _log.warning(
                "run %s of %s: no step takes %s (sent %s), and no wait has asked for it%s",
                self.run_id, self.call.workflow, drop.event_type.__name__, came, meant,
            )  # fmt: skip
        if self.chain.hears(EventDropped):
            self._notice(
                EventDropped(
                    run=self.call, at=self.now(), event_id=drop.id, event_type=drop.event_type.__name__, reason=drop.reason,
                    near_miss=drop.near_miss, final=command.final,
                )
            )  # fmt: skip

    def _joined(self, command: st.Joining | st.Joined) -> None:
        scope = self.scopes.get(command.execution)
        if isinstance(command, st.Joined):
            if scope is not None:
                scope.call.collected = (*scope.call.collected, *map(cause_of, command.collected))
        elif self.chain.hears(JoinWaiting):
            self._notice(
                JoinWaiting(
                    run=self.call, at=self.now(), call=scope.call if scope else None, event_type=command.event_type.__name__,
                    buffer=command.buffer, have=command.have, need=command.need,
                )
            )  # fmt: skip

    def _notice(self, notice: Notice) -> None:
        self.chain.notice(notice)

    def _call_of(self, execution: int | None) -> Any:
        scope = self.scopes.get(execution) if execution is not None else None
        return scope.call if scope else None

    def warn_once(self, text: str) -> None:
        """Log a warning once in a run."""
        if text not in self._warned:
            self._warned.add(text)
            _log.warning("%s (run %s)", text, self.run_id)

    # --- stepwise ---

    async def run_step(self) -> list[Event] | None:
        """Run what is ready, in a stepwise run; return what it returned, undelivered, or None when the run is over."""
        if not self.settings.stepwise:
            raise ValueError("run_step() needs a stepwise run: workflow.run(stepwise=True, ...)")
        await asyncio.sleep(0)  # the run starts with the loop's next turn
        if self.is_over:
            return None
        self._produced = []
        self._stepped = self.loop.create_future()
        self._start_ready()
        self._look_for_step_end()
        await self._stepped
        produced, self._produced = self._produced, None
        return None if self.is_over and not produced else produced

    def _hold_back(self, events: Sequence[Event]) -> Sequence[Event]:
        if self._produced is not None:
            self._produced.extend(events)
        return ()

    def _look_for_step_end(self) -> None:
        running = any(scope.execution.phase == "running" for scope in self.scopes.values())
        if self._stepped is not None and not self._stepped.done() and (self.is_over or not running):
            self._stepped.set_result(None)

    # --- limits ---

    async def acquire(self, limit: Limiter) -> Permit:
        """Wait for a permit of a limit that other runs, maybe on other loops, share."""
        granted: asyncio.Future[None] = self.loop.create_future()

        def settle() -> None:
            if not granted.done():
                granted.set_result(None)

        def wake() -> None:
            self.loop.call_soon_threadsafe(settle)

        permit = limit.request(wake, self._clock.monotonic())
        if not permit.granted:
            if self._ancestor_holds(limit):
                permit.cancel()
                raise LimitError(
                    f"Run {self.run_id} of {self.call.workflow} would wait for a permit of {limit.name!r} that the run which "
                    "started it holds: neither could go on. Raise the limit, or start it with RunOptions(parent=None)"
                )
            try:
                await granted
            except asyncio.CancelledError:
                permit.cancel()
                raise
        delay = permit.not_before - self._clock.monotonic()
        if delay > 0:
            try:
                await asyncio.sleep(delay)
            except asyncio.CancelledError:
                permit.cancel()
                raise
        return permit

    def _ancestor_holds(self, limit: Limiter) -> bool:
        scope = self.parent
        while scope is not None:
            if scope.holds(limit) or any(held is limit for held, _ in scope.runner.permits):
                return True
            scope = scope.runner.parent
        return False

    # --- signs of life and the end ---

    def expect(self, reason: str) -> None:
        """Hear that something outside will send an event."""
        self._expected[reason] = self._expected.get(reason, 0) + 1

    def no_longer_expect(self, reason: str) -> None:
        """Hear that it will not any more."""
        self._expected[reason] -= 1
        if not self._expected[reason]:
            del self._expected[reason]
        self.look_for_stall()

    def _on_reader(self) -> None:
        if threading.get_ident() == self.thread_id:
            self.look_for_stall()
        elif not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.look_for_stall)

    def look_for_stall(self) -> None:
        """Look, when the loop has turned, whether the run can still go on."""
        if self._stall_check is None and self._is_quiet():
            self._stall_check = self.loop.call_soon(self._check_stall, 1)

    def _is_quiet(self) -> bool:
        return self.state.status == "running" and not self.state.executions and not self.is_over and self.settings.on_stall == "fail"

    def _check_stall(self, turns: int) -> None:
        self._stall_check = None
        if not self._is_quiet() or self.signs_of_life():
            return
        if turns:
            self._stall_check = self.loop.call_soon(self._check_stall, turns - 1)
            return
        alive = background_tasks(self)
        if alive:
            for task in alive:
                task.add_done_callback(self._task_ended)
            return
        self._stall()

    def _task_ended(self, _: object) -> None:
        self.look_for_stall()

    def _stall(self) -> None:
        report = self._final_report = report_of(self, state="stalled")
        if self.chain.hears(RunStalled):
            self._notice(RunStalled(run=self.call, at=self.now(), report=report))
        self.finish(_Ending(status="stalled", error=WorkflowStalledError(str(report), report)))

    def _time_out(self) -> None:
        timeout = self.settings.timeout
        assert timeout is not None
        assert self.deadline is not None
        late = self.now() - self.deadline
        report = self._final_report = report_of(self, state="timed out")
        text = f"Run {self.run_id} of {self.call.workflow} exceeded its timeout of {timeout:g} s."
        if late > _LATE:
            text += f" It could not fire for {late:.1f} s: {report.blocked or 'the event loop was blocked'}."
        self.finish(_Ending(status="timed_out", error=WorkflowTimeoutError(f"{text}\n{report}", report)))

    def cancel(self, why: str, *, hard: bool = False) -> None:
        """End the run; `hard` as a task is cancelled, so that awaiting it raises CancelledError."""
        error = WorkflowCancelledByUser(f"Run {self.run_id} of {self.call.workflow} was cancelled: {why}")
        self.finish(_Ending(status="cancelled", error=error, hard=hard))
        if self._step_context is None:  # it has not begun: it may be waiting for a permit
            self.task.cancel()

    def finish(self, ending: _Ending) -> None:
        """End the run; only the first ending counts."""
        if self._ending is not None:
            return
        self._ending = ending
        if ending.status != "completed":
            self.apply(st.End(ending.status))
        if not self._over.done():
            self._over.set_result(None)
        self._look_for_step_end()

    # --- the run's own task ---

    def start(self, handler: WorkflowHandler[Any]) -> None:
        """Start with the loop's next turn."""
        self.handler = handler
        _live.register(self)
        self.context._runner = self
        if self.parent is not None:
            self.parent.runner.children.add(self)
            self.parent.children = [*(self.parent.children or ()), self]
        self.task = self.loop.create_task(self.drive())

    async def drive(self) -> None:
        """Take the run from its start to its end, through the `run` layers."""
        current_runner.set(self)
        stop: StopEvent | None = None
        error: BaseException | None = None
        try:
            await self._enter()
            stop = await self.chain.run(self.call)
        except BaseException as caught:  # noqa: BLE001 - it is handed to whoever awaits the run
            error = caught
        self._conclude(stop, error)

    async def _enter(self) -> None:
        gate = self.settings.gate
        if gate is not None:
            self.permits.append((gate, await self.acquire(gate)))

    async def execute(self, call: RunCall) -> StopEvent | None:
        """Run the steps: the innermost part of the run's chain."""
        self.call = call
        self._step_context = contextvars.copy_context()
        self._set_deadline()
        if self._ending is None:
            self.apply(self._first_input())
            for event, target in self._sent_early:
                self._send_now(event, target, None)
        try:
            await self._over
        except asyncio.CancelledError:
            error = WorkflowCancelledByUser(f"Run {self.run_id} of {self.call.workflow} was cancelled: its task was")
            self.finish(_Ending(status="cancelled", error=error, hard=True))
        await self._tear_down()
        ending = self._ending
        assert ending is not None
        if ending.stop is not None:
            return ending.stop
        if ending.error is None:
            return None
        if ending.hard:
            raise asyncio.CancelledError from ending.error
        raise ending.error

    def _first_input(self) -> st.Input:
        if self.call.resumed:
            if self.chain.hears(RunResumed):
                self._notice(RunResumed(run=self.call, at=self.now()))
            return st.Restart(self.now())
        return st.Begin(self.call.start_event, self.now(), self.call.headers, self.call.span_context)

    def _set_deadline(self) -> None:
        timeout = self.settings.timeout
        started = self.now()
        self.deadline = None if timeout is None else started + timeout
        outer = self.parent.runner.deadline if self.parent is not None else None
        if outer is not None and (self.deadline is None or outer < self.deadline):
            self.deadline = outer
            self.settings.timeout = max(0.0, outer - started)
        if self.deadline is None:
            return
        if self.deadline <= started:
            self._time_out()
            return
        self._timers[0] = self.loop.call_later(self.deadline - started, self._time_out)

    async def _tear_down(self) -> None:
        """End every task of the run and of its nested runs; abandon and name what does not end in time."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        ending = self._ending
        assert ending is not None
        reason = _CANCEL_REASONS.get(ending.status, "cancelled")
        scopes = list(self.scopes.values())
        for scope in scopes:
            scope.cancel(reason)
        for child in tuple(self.children):
            child.cancel(f"the run that started it ended ({ending.status})", hard=True)
        tasks = [*(scope.task for scope in scopes), *(child.task for child in self.children)]
        if not tasks:
            return
        try:
            await asyncio.wait(tasks, timeout=self.cancel_grace + 0.05)
        except asyncio.CancelledError:
            _log.debug("run %s was cancelled again while it ended", self.run_id)
        for scope in scopes:
            if not scope.task.done():
                self._abandon(scope)

    def _abandon(self, scope: StepScope) -> None:
        name = scope.call.step
        text = f"the task of step `{name}`, which was abandoned {self.cancel_grace:g} s after it was cancelled"
        scope.abandon(text)
        self.abandoned.append(name)
        _log.warning("run %s of %s: %s still runs", self.run_id, self.call.workflow, text)

    def _conclude(self, stop: StopEvent | None, error: BaseException | None) -> None:
        """Tell everybody how the run ended: the stream first, then whoever awaits it."""
        ending = self._ending or _Ending(status="completed" if error is None else "failed", stop=stop, error=error)
        self._ending = ending
        if error is not None and error is ending.error and ending.trace is not None:
            error.__traceback__ = ending.trace  # without the engine's frames that it came through since
        for _, permit in self.permits:
            permit.release()
        self.permits.clear()
        if self._final_report is None:
            self._final_report = report_of(self, state=ending.status.replace("_", " "))
        if error is not None and self.abandoned:
            error.add_note(f"abandoned after cancellation: {', '.join(f'`{name}`' for name in self.abandoned)}")
        last = self._last_event(stop, error)
        if last is not None:
            self.log.append(last)
        self.log.close()
        if self._stall_check is not None:
            self._stall_check.cancel()
        if self.parent is not None:
            self.parent.runner.children.discard(self)
            self.parent.runner.look_for_stall()
        _live.unregister(self)
        self.handler._settle(last, error, hard=ending.hard)

    def _last_event(self, stop: StopEvent | None, error: BaseException | None) -> StopEvent | None:
        match error:
            case None:
                return stop
            case WorkflowStalledError():
                return WorkflowFailedEvent(step_name=_stalled_step(error), exception=error, elapsed_seconds=self._age())
            case WorkflowTimeoutError():
                return WorkflowTimedOutEvent(timeout=self.settings.timeout or 0.0, active_steps=_active_steps(error))
            case WorkflowCancelledByUser() | asyncio.CancelledError():
                return WorkflowCancelledEvent()
            case _:
                return self._failed_event(error)

    def _failed_event(self, error: BaseException) -> StopEvent:
        scope = self._ending.scope if self._ending is not None else None
        shown = error if isinstance(error, Exception) else UnreconstructedException(str(error), error_type(error))
        return WorkflowFailedEvent(
            step_name=scope.call.step if scope else "",
            exception=shown,
            attempts=scope.attempt if scope else None,
            elapsed_seconds=self._age(),
        )

    def _age(self) -> float:
        return self.now() - self.call.started_at


def _stalled_step(error: WorkflowStalledError) -> str:
    report = error.report
    if report is None:
        return ""
    if report.joins:
        return report.joins[0].step
    return next(iter(report.silent), "") or next((fate.source for fate in report.unclaimed if fate.source), "")


def _active_steps(error: WorkflowTimeoutError) -> list[str]:
    report = error.report
    return sorted({step.step for step in report.running} | {wait.step for wait in report.waits}) if report else []
