"""`run_step`: one step of a workflow without the others, called by the dispatcher through every layer as in any run.

It starts a run whose state is as if the events had just been routed to the step, starts no other execution, and reads what
the step does from the inputs of the run's state. It calls nothing itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypedDict, TypeVar, Unpack, cast, overload

from pydantic import BaseModel

from .. import clock
from .._engine import _state as st
from .._engine._dispatch import Dispatcher
from .._engine._ending import Ending
from .._engine._runner import Runner
from .._engine._snapshot import SavedRun
from ..context import Context
from ..decorators import StepConfig, config_of
from ..errors import ContextStateError, WorkflowCancelledByUser, WorkflowStepDoesNotExistError
from ..events import Event, StartEvent
from ..handler import WorkflowHandler
from ..middleware import EventSent, Middleware, Observer, StepCall, StepNext, StepResult
from ..records import AttemptRecord, RunReport
from ..resource import OverrideTarget
from ..workflow import Workflow

ReturnT = TypeVar("ReturnT")
EventsT = TypeVar("EventsT", bound="Event | Sequence[Event] | None")

Answer: TypeAlias = Event | Callable[[Event | None], Event] | type[TimeoutError] | None
"""What a `wait_for_event` gets: an event, a function that makes one of the question, `TimeoutError` for a wait that times out
at once, or None for one that stays open."""


class UnansweredWaitError(AssertionError):
    """The step waits for an event, and `answers` has none for it."""


class StepOptions(TypedDict, total=False):
    """What a step that runs alone may be given.

    `store`: what the run's store holds, by dotted path, or as the state model of a typed Context. `answers`: for its waits,
    in the order in which they are opened; an event that does not fit a wait is kept for the next. `resources`: objects in
    place of what factories make, by factory, name or descriptor. `middleware`: further layers, inside the workflow's own.
    `start_event`: what the run is said to have started with, for factories that ask. `ctx`: a Context to go on with.
    `catch`: errors to give in the outcome and not to raise.
    """

    store: Mapping[str, Any] | BaseModel
    answers: Sequence[Answer]
    resources: Mapping[OverrideTarget, Any]
    middleware: Sequence[Middleware]
    start_event: StartEvent
    ctx: Context[Any]
    catch: type[Exception] | tuple[type[Exception], ...]


@dataclass(slots=True, kw_only=True)
class StepOutcome(Generic[ReturnT]):
    """What a step did that ran alone.

    `returned`: by its last execution. `returns`: by each, in the order of the events; None also for one that failed or was
    stopped. `sent`: by `ctx.send_event`. `streamed`: by `ctx.write_event_to_stream`, and the questions of its waits.
    `collected`: each full set that `ctx.collect_events` gave. `record`: one for each attempt. `ctx`: the run's Context, for
    its store. `error`: what failed, if it was to be caught.
    """

    returned: ReturnT
    returns: list[ReturnT | None]
    sent: list[Event]
    streamed: list[Event]
    collected: list[list[Event]]
    record: Sequence[AttemptRecord]
    ctx: Context[Any]
    error: BaseException | None
    report: RunReport

    def why(self) -> RunReport:
        """Tell what the run was doing when it ended, for one: what a join has and lacks."""
        return self.report


@overload
async def run_step(
    workflow: Workflow[Any], step: Callable[..., EventsT], /, *events: Event, **options: Unpack[StepOptions]
) -> StepOutcome[EventsT]: ...
@overload
async def run_step(
    workflow: Workflow[Any], step: Callable[..., Coroutine[Any, Any, ReturnT]], /, *events: Event, **options: Unpack[StepOptions]
) -> StepOutcome[ReturnT]: ...
@overload
async def run_step(workflow: Workflow[Any], step: str, /, *events: Event, **options: Unpack[StepOptions]) -> StepOutcome[Any]: ...
async def run_step(
    workflow: Workflow[Any], step: str | Callable[..., Any], /, *events: Event, **options: Unpack[StepOptions]
) -> StepOutcome[Any]:
    """Run one step without the others, and tell what it did.

        found = await run_step(shop, shop.price, Order(item="tea"), store={"rate": 2}, answers=[Approval(ok=True)])
        assert found.returned == Bill(total=6)

    It is a run like any other: attempts, timeouts, limits, resources and layers are as they always are, but what the step
    returns or sends starts nothing.

    Args:
        workflow: an instance.
        step: the name of a step, or its function, which types `returned`.
        *events: what it takes: of a step that takes one event, each starts an execution, in this order and at the same
            time, as in a run; of one that joins several parameters, or takes a list, all are for one execution.
        **options: see `StepOptions`.

    Raises:
        WorkflowStepDoesNotExistError: the workflow has no such step.
        TypeError: the step does not take these events.
        UnansweredWaitError: it waits, and no answer is left for that.
        Exception: what the step raised, unless `catch` names it.
    """
    config = _config(workflow, step)
    run = _Isolation(workflow, config, _executions(config, events), options)
    return await run.outcome(events)


def _config(workflow: Workflow[Any], step: str | Callable[..., Any]) -> StepConfig:
    steps = workflow._checked_graph().steps
    if isinstance(step, str):
        name = step
    else:
        config = config_of(getattr(step, "__func__", step))
        if config is None:
            raise TypeError(f"{step!r} is no step: give the name of a step of {workflow.workflow_name}, or a function with @step")
        name = config.name
    if name not in steps:
        raise WorkflowStepDoesNotExistError(f"{workflow.workflow_name} has no step `{name}`; it has {', '.join(sorted(steps))}")
    return steps[name]


# --- which executions the events make ---


def _executions(config: StepConfig, events: Sequence[Event]) -> list[tuple[Event, ...]]:
    """Return the inputs of each execution.

    Raises:
        TypeError: the step does not take them.
    """
    for event in events:
        if not _takes(config, config.accepted_events, event):
            wanted = " | ".join(kind.__name__ for kind in config.accepted_events)
            raise TypeError(f"step `{config.name}` ({config.place}) takes {wanted}, not {event!r} of type {type(event).__name__}")
    if config.collection_param is not None:
        return [tuple(events)]
    if config.is_multi_slot:
        return [tuple(_in_slots(config, events))]
    if not events:
        raise TypeError(f"step `{config.name}` ({config.place}) takes an event: give one, or several for an execution each")
    return [(event,) for event in events]


def _takes(config: StepConfig, kinds: Sequence[type[Event]], event: Event) -> bool:
    return type(event) in kinds or (config.accept_event_subclasses and isinstance(event, tuple(kinds)))


def _in_slots(config: StepConfig, events: Sequence[Event]) -> list[Event]:
    """Put one event into each parameter of a step that joins several."""
    left = list(events)
    found: list[Event] = []
    for name, kinds in config.event_parameters.items():
        fitting = next((event for event in left if _takes(config, kinds, event)), None)
        if fitting is None:
            raise TypeError(f"step `{config.name}` ({config.place}) also takes {kinds[0].__name__} as `{name}`; give one of each")
        left.remove(fitting)
        found.append(fitting)
    if left:
        raise TypeError(f"step `{config.name}` ({config.place}) takes one event for each parameter; {len(left)} too many were given")
    return found


# --- the run ---


class _Only(deque[st.Execution]):
    """The ready executions of a run, of which only these ever become ready."""

    def __init__(self, executions: set[int]) -> None:
        super().__init__()
        self._executions = executions

    def append(self, execution: st.Execution, /) -> None:
        if execution.id in self._executions:
            super().append(execution)


class _Results(Observer):
    """Keeps what came out of each execution, outside all other layers."""

    def __init__(self) -> None:
        self.returned: dict[int, StepResult] = {}
        self.errors: list[BaseException] = []

    async def step(self, call: StepCall, call_next: StepNext, /) -> StepResult:
        try:
            result = await call_next(call)
        except BaseException as error:
            self.errors.append(error)
            raise
        self.returned[call.execution] = result
        return result


class _Isolation:
    """One run of one step alone."""

    def __init__(self, workflow: Workflow[Any], config: StepConfig, inputs: Sequence[tuple[Event, ...]], options: StepOptions) -> None:
        self._workflow = workflow
        self._config = config
        self._options = options
        self._answers = list(options.get("answers", ()))
        self._results = _Results()
        self._sent: list[Event] = []
        self._collected: list[list[Event]] = []
        self._state = self._state_with(inputs)
        self._executions = tuple(self._state.executions)
        self._live = set(self._executions)
        self._own_end = WorkflowCancelledByUser(f"step `{config.name}` was run alone, and has ended")
        self._runner: Runner

    def _state_with(self, inputs: Sequence[tuple[Event, ...]]) -> st.RunState:
        """Return a state in which the events were just routed to the step."""
        time = clock.active.get()
        now = time.now()
        steps = self._workflow._checked_graph().steps
        state = st.new_state(time.new_id(), {name: config.num_workers for name, config in steps.items()})
        for events in inputs:
            envelopes = tuple([st.Envelope(state.next_id(), event, now) for event in events])
            execution = st.Execution(state.next_id(), self._config.name, envelopes, now)
            state.executions[execution.id] = execution
            for event in events:
                state.tallies[type(event)].sent += 1
        return state

    async def outcome(self, events: Sequence[Event]) -> StepOutcome[Any]:
        """Run it and tell."""
        context = await self._context(events)
        with ExitStack() as overridden:
            for target, value in self._options.get("resources", {}).items():
                overridden.enter_context(self._workflow.resource_manager.override(target, value))
            handler = self._workflow.run(context)
            self._isolate(handler._runner)
            error = await self._end(handler)
        streamed = [event async for event in handler.stream_events() if event is not handler.get_stop_event()]
        returns = [self._results.returned.get(each) for each in self._executions]
        return StepOutcome(
            returned=returns[-1],
            returns=returns,
            sent=self._sent,
            streamed=streamed,
            collected=self._collected,
            record=handler.record,
            ctx=handler.ctx,
            error=error,
            report=handler.why(),
        )

    async def _context(self, events: Sequence[Event]) -> Context[Any]:
        """Return a Context whose next run goes on from the state, with what the store shall hold."""
        context = self._options.get("ctx") or Context(self._workflow)
        if context.is_running:
            raise ContextStateError("run_step(ctx=) got the Context of a live or saved run; give one whose run is over, or a new one")
        store = self._options.get("store", {})
        if isinstance(store, BaseModel):
            await context.store.set_state(store)
        else:
            for path, value in store.items():
                await context.store.set(path, value)
        start = self._options.get("start_event") or next((event for event in events if isinstance(event, StartEvent)), None)
        start = start or self._workflow.start_event_class.model_construct()
        context._saved = SavedRun(run_id=self._state.run_id, start_event=start, segment=0, state=self._state)
        return context

    def _isolate(self, runner: Runner) -> None:
        """Fit a run that starts with the next turn of the loop for one step alone."""
        self._runner = runner
        runner.call.resumed = False  # it only uses the way of a saved run
        runner.dispatcher = Dispatcher((self._results, *runner.chain.layers, *self._options.get("middleware", ())))
        runner.chain = runner.dispatcher.chain
        runner.tells_sent = runner.chain.hears(EventSent)
        runner.ready = _Only(set(self._executions))
        runner.apply = self._apply  # type: ignore[method-assign]
        runner.has_shortcuts = False

    async def _end(self, handler: WorkflowHandler[Any]) -> BaseException | None:
        """Wait for the end; return the error that was to be caught."""
        error: BaseException | None = None
        try:
            await handler
        except Exception as raised:  # noqa: BLE001 - raised again below, or asked for
            error = raised if raised is not self._own_end else next(iter(self._results.errors), None)
        if error is None:
            return None
        if isinstance(error, self._options.get("catch", ())):
            return error
        raise error

    # --- what happens in it ---

    def _apply(self, happened: st.Input) -> None:
        """Let something take effect, and keep what it tells of the step."""
        runner = self._runner
        Runner.apply(runner, happened)
        match happened:
            case st.Send(event=event, source=source) if source is not None:
                self._sent.append(event)
            case st.Collect(execution=execution, key=key):
                full = (runner.state.executions[execution].memo or {})[key]
                if full is not None:
                    self._collected.append(full)
            case st.OpenWait():
                runner.loop.call_soon(self._answer, happened)  # it parks first
            case st.Complete(execution=execution) | st.Recover(execution=execution):
                self._live.discard(execution)
                if not self._live:
                    runner.finish(Ending(status="suspended", error=self._own_end))
            case _:
                pass

    def _answer(self, opened: st.OpenWait) -> None:
        """Give a wait that has just been opened the first answer that fits it."""
        runner = self._runner
        waits = runner.state.waits.values()
        wait = next((wait for wait in waits if wait.execution == opened.execution and wait.key == opened.key), None)
        if wait is None or runner.is_over:
            return
        for number, answer in enumerate(self._answers):
            if answer is None or answer is TimeoutError:
                del self._answers[number]
                if answer is not None:
                    self._time_out(wait.id)
                return
            event = answer if isinstance(answer, Event) else cast("Callable[[Event | None], Event]", answer)(opened.question)
            if wait.wants(event):
                del self._answers[number]
                self._runner.context.send_event(event)
                return
        runner.finish(Ending(status="failed", error=self._unanswered(opened)))

    def _time_out(self, wait: int) -> None:
        runner = self._runner
        timer = runner.timers.pop(wait, None)
        if timer is not None:
            timer.cancel()
        runner.apply(st.Fire(wait, runner.now()))

    def _unanswered(self, opened: st.OpenWait) -> UnansweredWaitError:
        which = f" with {opened.requirements}" if opened.requirements else ""
        named = f", waiter_id={opened.waiter_id!r}" if opened.waiter_id is not None else ""
        left = f"none of {self._answers!r} fits" if self._answers else "none is left"
        return UnansweredWaitError(
            f"step `{self._config.name}` ({self._config.place}) waits for {opened.event_type.__name__}{which}{named}, and of the answers "
            f"{left}; give run_step(answers=[...]) an event, TimeoutError for a wait that times out, or None for one that stays open"
        )
