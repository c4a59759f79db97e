"""The engine's own events: what happens to a run's state, told as the states of its steps, for readers that ask for it.

A view of the reducer's inputs and commands, made only in a run that has such a reader. It must not change what follows.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from heapq import heappop, heappush
from itertools import takewhile

from ..events import InternalDispatchEvent, StepState, StepStateChanged, UnhandledEvent, WorkflowIdleEvent
from . import _state as st

ENQUEUED = "<enqueued>"
"""The worker id of an execution that has no worker yet."""


class Lifecycle:
    """Follows one run. Executions have worker ids as they have slots: each the lowest of its step that is free, from "0"."""

    def __init__(self, state: st.RunState, ready: Container[st.Execution], *, stepwise: bool) -> None:
        self._state = state
        self._stepwise = stepwise  # an execution runs when the caller says so, not when the state lets it
        self._running: dict[int, StepStateChanged] = {}  # as it was told, by execution
        self._parked: dict[int, StepStateChanged] = {}
        self._free: dict[str, list[int]] = {}  # worker numbers of a step given back; a heap
        self._workers: dict[str, int] = {}  # how many of a step there have been at once
        self._seen = state.seq  # executions up to this number have been looked at
        self._is_idle = False
        for execution in state.executions.values():
            if execution in ready:
                continue
            if execution.phase in ("running", "parked"):
                self.started(execution)
            if execution.phase == "parked":
                self._leave(execution.id, None, parks=True)

    def now(self) -> Sequence[InternalDispatchEvent]:
        """Return what a reader is told first that comes while the run is live: what runs, or that nothing does."""
        self._is_idle = self._is_at_rest()
        return [WorkflowIdleEvent()] if self._is_idle else list(self._running.values())

    def follow(self, happened: st.Input, commands: Iterable[st.Command]) -> list[st.Command]:
        """Return the commands with the engine's own events between them, each where it happens."""
        out: list[st.Command] = [st.Publish(event, None) for event in self._left(happened)]
        unhandled = False
        for command in commands:
            out.append(command)
            told = self._told(command)
            if told is not None:
                unhandled = unhandled or isinstance(told, UnhandledEvent)
                out.append(st.Publish(told, None))
        out.extend(st.Publish(event, None) for event in self._queued())
        was_idle, self._is_idle = self._is_idle, self._is_at_rest()
        if self._is_idle and (unhandled or not was_idle):
            out.append(st.Publish(WorkflowIdleEvent(), None))
        return out

    def started(self, execution: st.Execution) -> StepStateChanged:
        """Give an execution a worker; return what is told of it."""
        told = self._running[execution.id] = StepStateChanged(
            name=execution.step,
            step_state=StepState.RUNNING,
            worker_id=self._take_worker(execution.step),
            input_event_name=_input_of(execution),
        )
        return told

    def goes_on(self, execution: st.Execution) -> StepStateChanged | None:
        """Give an execution that starts or goes on a worker. After a wait it goes on where it was: that is not told as a second start."""
        if execution.id in self._running:  # another of its branches went on before, or its start is told already
            return None
        told = self.started(execution)
        return None if self._parked.pop(execution.id, None) else told

    def closing(self) -> list[StepStateChanged]:
        """Return the end of whatever still runs when the run ends."""
        return [self._leave(number, None) for number in tuple(self._running)]

    # --- what an input means ---

    def _left(self, happened: st.Input) -> list[StepStateChanged]:
        """Return who runs no more because of this input; after a retry without delay, also who runs again."""
        told: StepStateChanged | None = None
        match happened:
            case st.Complete():
                told = self._leave(happened.execution, _output_of(happened))
            case st.Recover():
                told = self._leave(happened.execution, None)
            case st.AttemptFailed():
                told = self._leave(happened.execution, None)
                execution = self._state.executions.get(happened.execution)
                if execution is not None and execution.phase == "running":
                    return [told, self.started(execution)]
            case st.OpenWait():
                execution = self._state.executions.get(happened.execution)
                if execution is not None and execution.phase == "parked" and execution.id in self._running:
                    told = self._leave(execution.id, None, parks=True)
            case st.Restart():
                self._forget()
            case _:
                pass
        return [] if told is None else [told]

    def _forget(self) -> None:
        """Begin anew: whatever was live starts again."""
        for told in (self._running, self._parked, self._free, self._workers):
            told.clear()
        self._seen = 0

    def _leave(self, execution: int, output: str | None, *, parks: bool = False) -> StepStateChanged:
        """Take an execution's worker away, which it has until it parks; return what is told of it."""
        told = self._running.pop(execution, None)
        if told is None:
            told = self._parked.pop(execution)
        else:
            heappush(self._free[told.name], int(told.worker_id))
        if parks:
            self._parked[execution] = told
        return StepStateChanged(
            name=told.name,
            step_state=StepState.NOT_RUNNING,
            worker_id=told.worker_id,
            input_event_name=told.input_event_name,
            output_event_name=output,
        )

    # --- what a command means ---

    def _told(self, command: st.Command) -> InternalDispatchEvent | None:
        match command:
            case st.Execution():
                return None if self._stepwise else self.started(command)
            case st.Resume():
                return self.goes_on(self._state.executions[command.execution])
            case st.Routed(to=(), waited=False) if not command.envelope.taken:
                kind = type(command.envelope.event)
                name = f"{kind.__module__}.{kind.__qualname__}"
                return UnhandledEvent(event_type=kind.__name__, qualified_name=name, idle=self._is_at_rest())
            case _:
                return None

    def _queued(self) -> list[StepStateChanged]:
        """Return which of the new executions found no free slot."""
        new = takewhile(lambda execution: execution.id > self._seen, reversed(self._state.executions.values()))
        queued = [execution for execution in new if execution.phase == "queued"]
        self._seen = self._state.seq
        return [
            StepStateChanged(name=execution.step, step_state=StepState.PREPARING, worker_id=ENQUEUED, input_event_name=_input_of(execution))
            for execution in reversed(queued)
        ]

    def _is_at_rest(self) -> bool:
        """Whether only the outside can let the run go on. A time limit of a wait does not count, the time of a retry does."""
        state = self._state
        if self._running or state.status != "running" or state.queued or state.returned:
            return False
        return all(execution.phase == "parked" and not execution.resuming for execution in state.executions.values())

    def _take_worker(self, step: str) -> str:
        free = self._free.setdefault(step, [])
        if free:
            return str(heappop(free))
        number = self._workers.get(step, 0)
        self._workers[step] = number + 1
        return str(number)


def _input_of(execution: st.Execution) -> str:
    """Return the class name of the first input event; of a list without members, `list`."""
    return execution.inputs[0].type_name if execution.inputs else "list"


def _output_of(done: st.Complete) -> str:
    if done.stream:
        return "list"
    return type(done.events[0]).__name__ if done.events else "NoneType"
