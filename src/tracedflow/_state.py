"""The state of one run and its reducer: `reduce(state, input) -> commands`. No clock, no I/O, no tasks, no user code.

The inputs are what a journal stores: folding them again gives the same state. It must not know who carries the commands out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias, assert_never

from .events import Event, HumanResponseEvent, InputRequiredEvent, StopEvent

FORMAT = 1
"""Version of the saved form of the state and of its inputs."""

HELD_PER_TYPE = 100
DROPS_KEPT = 100


class Routes(Protocol):
    """The static facts about a graph that the reducer asks for."""

    def takers(self, event: type[Event], /) -> tuple[str, ...]:
        """Return the names of the steps that take events of this class."""
        ...

    def near_miss(self, event: type[Event], /) -> str | None:
        """Return what was probably meant by an event that nobody takes."""
        ...


# --- what the state is made of -----------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class Envelope:
    """An event on its way: where it came from and when. `span_context` is the sender's, in process only."""

    id: int
    event: Event
    at: float  # Unix seconds, advancing with the monotonic clock
    source: int | None = None  # the execution that sent it; None: from outside
    source_step: str | None = None
    headers: Mapping[str, str] | None = None
    span_context: object | None = None
    taken: bool = False  # a step started with it, or a wait was answered by it


@dataclass(slots=True, eq=False)
class Execution:
    """One step execution, from the moment an event was routed to the step until it ended for good."""

    id: int
    step: str
    inputs: tuple[Envelope, ...]
    ready_at: float  # since when it could run, if there were a slot
    phase: Literal["queued", "running", "parked", "backoff"] = "queued"
    holds_slot: bool = False
    failures: int = 0
    first_started_at: float | None = None
    retry_at: float | None = None
    memo: dict[str, Any] | None = None  # answers already given, by call order or given id
    sends: int = 0  # sends and stream writes accepted in this life
    replayed: int = 0  # those of the life before a resume, which are not repeated

    def remember(self, key: str, answer: Any) -> None:
        """Keep an answer for a repeated call."""
        if self.memo is None:
            self.memo = {}
        self.memo[key] = answer


@dataclass(slots=True, eq=False)
class Wait:
    """An open `wait_for_event`."""

    id: int
    execution: int
    key: str
    event_type: type[Event]
    subclasses: bool
    waiter_id: str | None
    requirements: dict[str, Any]
    opened_at: float
    deadline: float | None

    def wants(self, event: Event) -> bool:
        """Whether the event answers this wait."""
        fits = isinstance(event, self.event_type) if self.subclasses else type(event) is self.event_type
        return fits and all(_value(event, name) == wanted for name, wanted in self.requirements.items())


@dataclass(slots=True, eq=False)
class Lane:
    """The executions of one step that are ready, and how many hold one of its slots."""

    slots: int
    in_use: int = 0
    resuming: deque[tuple[int, int, Envelope | None]] = field(default_factory=deque[tuple[int, int, Envelope | None]])
    ready: deque[int] = field(default_factory=deque[int])


@dataclass(slots=True, eq=False)
class Buffer:
    """What a `collect_events` has gathered and not yet given out."""

    expected: Sequence[type[Event]]
    items: dict[type[Event], deque[Envelope]] = field(default_factory=dict[type[Event], deque[Envelope]])
    size: int = 0


@dataclass(slots=True, eq=False)
class Tally:
    """What became of the events of one type."""

    sent: int = 0
    consumed: int = 0
    collected: int = 0
    streamed: int = 0
    dropped: int = 0


@dataclass(slots=True, eq=False)
class Drop:
    """An event that nobody took."""

    id: int
    event_type: type[Event]
    reason: str
    source_step: str | None
    near_miss: str | None


Status: TypeAlias = Literal["new", "running", "completed", "failed", "cancelled", "timed_out", "stalled", "suspended"]


@dataclass(slots=True, eq=False)
class RunState:
    """All that a run is: plain data, changed by `reduce` only."""

    run_id: str
    lanes: dict[str, Lane]
    status: Status = "new"
    seq: int = 0
    executions: dict[int, Execution] = field(default_factory=dict[int, Execution])
    waits: dict[int, Wait] = field(default_factory=dict[int, Wait])
    backoffs: dict[int, int] = field(default_factory=dict[int, int])  # timer -> execution
    buffers: dict[tuple[str, str], Buffer] = field(default_factory=dict[tuple[str, str], Buffer])
    held: dict[type[Event], deque[Envelope]] = field(default_factory=dict[type[Event], deque[Envelope]])
    awaited_types: set[type[Event]] = field(default_factory=set[type[Event]])
    tallies: dict[type[Event], Tally] = field(default_factory=dict[type[Event], Tally])
    drops: deque[Drop] = field(default_factory=lambda: deque[Drop](maxlen=DROPS_KEPT))
    silent: dict[str, int] = field(default_factory=dict[str, int])
    queued: int = 0
    questions: int = 0  # InputRequiredEvents out and not answered by a HumanResponseEvent

    def next_id(self) -> int:
        """Return the next number of the run's one sequence."""
        self.seq += 1
        return self.seq

    def tally(self, kind: type[Event]) -> Tally:
        """Return the tally of one event type."""
        found = self.tallies.get(kind)
        if found is None:
            found = self.tallies[kind] = Tally()
        return found

    def pending(self) -> Iterator[Envelope]:
        """Yield every event that was sent and has no fate yet, once each."""
        seen: set[int] = set()
        queued = (envelope for execution in self.executions.values() for envelope in execution.inputs)
        for envelope in (*queued, *(envelope for box in self.held.values() for envelope in box)):
            if not envelope.taken and envelope.id not in seen:
                seen.add(envelope.id)
                yield envelope


# --- inputs: what happened ---------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class Begin:
    """The run starts with its start event."""

    event: Event
    at: float
    headers: Mapping[str, str] | None = None
    span_context: object | None = None


@dataclass(slots=True, eq=False)
class Send:
    """A step, or the outside, sent an event; `target` names one step."""

    event: Event
    at: float
    source: int | None = None
    source_step: str | None = None
    target: str | None = None
    headers: Mapping[str, str] | None = None
    span_context: object | None = None


@dataclass(slots=True, eq=False)
class Collect:
    """A step called `collect_events`; the answer is its memo's `key`."""

    execution: int
    key: str
    event: Event
    buffer: str
    expected: Sequence[type[Event]]


@dataclass(slots=True, eq=False)
class OpenWait:
    """A step called `wait_for_event`. `question` is published once."""

    execution: int
    key: str
    event_type: type[Event]
    at: float
    subclasses: bool = False
    waiter_id: str | None = None
    requirements: dict[str, Any] = field(default_factory=dict[str, Any])
    question: Event | None = None
    timeout: float | None = None


@dataclass(slots=True, eq=False)
class AbandonWait:
    """The step's own code cancelled a wait and goes on."""

    wait: int


@dataclass(slots=True, eq=False)
class Remember:
    """A step's `once` got its value."""

    execution: int
    key: str
    value: Any


@dataclass(slots=True, eq=False)
class Streamed:
    """A step wrote an event to the stream."""

    execution: int | None
    event: Event


@dataclass(slots=True, eq=False)
class Complete:
    """A step execution ended with these events; none if it returned None."""

    execution: int
    events: Sequence[Event]
    at: float
    headers: Mapping[str, str] | None = None
    span_context: object | None = None
    silent: bool = False  # it sent nothing, returned None and is not part of a join


@dataclass(slots=True, eq=False)
class AttemptFailed:
    """An attempt raised; it is tried again after `delay` seconds, or None: it failed for good."""

    execution: int
    delay: float | None
    at: float


@dataclass(slots=True, eq=False)
class Fire:
    """A timer went off."""

    timer: int
    at: float


@dataclass(slots=True, eq=False)
class End:
    """The run ends without a StopEvent of its own."""

    status: Status


@dataclass(slots=True, eq=False)
class Restart:
    """A saved run goes on in another process: whatever was live starts again with its memo."""

    at: float


Input: TypeAlias = (
    Begin | Send | Collect | OpenWait | AbandonWait | Remember | Streamed | Complete | AttemptFailed | Fire | End | Restart
)


# --- commands: what to do about it -------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class Start:
    """Start this execution."""

    execution: Execution


@dataclass(slots=True, eq=False)
class Resume:
    """Let a parked coroutine go on. `answer` None: its timer went off (a wait), or its backoff is over."""

    execution: int
    parked_on: int  # the wait, or the backoff's timer
    answer: Envelope | None


@dataclass(slots=True, eq=False)
class SetTimer:
    """Apply `Fire(timer)` after `delay` seconds."""

    timer: int
    delay: float


@dataclass(slots=True, eq=False)
class CancelTimer:
    """Forget a timer."""

    timer: int


@dataclass(slots=True, eq=False)
class Publish:
    """Put an event on the stream."""

    event: Event
    execution: int | None


@dataclass(slots=True, eq=False)
class Finish:
    """A step returned a StopEvent: the run is over."""

    event: StopEvent


@dataclass(slots=True, eq=False)
class Routed:
    """Tell that an event was sent and who takes it."""

    envelope: Envelope
    to: tuple[str, ...]
    waited: bool


@dataclass(slots=True, eq=False)
class Dropped:
    """Tell that nobody took an event. Not `final`: it is held."""

    drop: Drop
    final: bool


@dataclass(slots=True, eq=False)
class Joining:
    """Tell that a join took an event and is not complete."""

    execution: int
    event_type: type[Event]
    buffer: str
    have: int
    need: int


@dataclass(slots=True, eq=False)
class Joined:
    """Tell that a join is complete, and of what."""

    execution: int
    collected: list[Envelope]


Command: TypeAlias = Start | Resume | SetTimer | CancelTimer | Publish | Finish | Routed | Dropped | Joining | Joined


# --- the reducer -------------------------------------------------------------------------------------------------


def new_state(run_id: str, slots: Mapping[str, int]) -> RunState:
    """Return the state of a run that has not begun; `slots` gives each step's `num_workers`."""
    return RunState(run_id=run_id, lanes={name: Lane(slots=count) for name, count in slots.items()})


def is_over(state: RunState) -> bool:
    """Whether the run has ended, so that no input changes it any more."""
    return state.status not in ("new", "running")


def reduce(state: RunState, happened: Input, routes: Routes) -> list[Command]:
    """Change the state by one input and return what is to be done. Inputs after the end change nothing."""
    out: list[Command] = []
    if is_over(state):
        return out
    match happened:
        case Complete():
            _complete(state, happened, routes, out)
        case Send():
            _send(state, happened, routes, out)
        case Collect():
            _collect(state, happened, out)
        case Begin():
            _begin(state, happened, routes, out)
        case OpenWait():
            _open_wait(state, happened, out)
        case AttemptFailed():
            _attempt_failed(state, happened, out)
        case Fire():
            _fire(state, happened, out)
        case AbandonWait():
            _abandon_wait(state, happened, out)
        case Remember():
            _remember(state, happened)
        case Streamed():
            _streamed(state, happened, out)
        case End():
            _end(state, happened.status, out)
        case Restart():
            _restart(state, happened, out)
        case _:
            assert_never(happened)
    return out


def _begin(state: RunState, begun: Begin, routes: Routes, out: list[Command]) -> None:
    state.status = "running"
    envelope = Envelope(state.next_id(), begun.event, begun.at, headers=begun.headers, span_context=begun.span_context)
    _route(state, envelope, routes.takers(type(begun.event)), routes, out)


def _send(state: RunState, sent: Send, routes: Routes, out: list[Command]) -> None:
    source = state.executions.get(sent.source) if sent.source is not None else None
    if source is not None:
        source.sends += 1
    envelope = Envelope(state.next_id(), sent.event, sent.at, sent.source, sent.source_step, sent.headers, sent.span_context)
    takers = (sent.target,) if sent.target is not None else routes.takers(type(sent.event))
    _route(state, envelope, takers, routes, out)


def _complete(state: RunState, done: Complete, routes: Routes, out: list[Command]) -> None:
    execution = state.executions.pop(done.execution)
    if state.waits:
        _close_waits(state, execution.id, out)
    lane = state.lanes[execution.step]
    if execution.holds_slot:
        lane.in_use -= 1
    if done.silent:
        state.silent[execution.step] = state.silent.get(execution.step, 0) + 1
    for event in done.events:
        envelope = Envelope(state.next_id(), event, done.at, execution.id, execution.step, done.headers, done.span_context)
        if isinstance(event, StopEvent):
            _stop(state, envelope, out)
            return
        _route(state, envelope, routes.takers(type(event)), routes, out)
    if lane.ready or lane.resuming:
        _pump(state, lane, out)


def _stop(state: RunState, envelope: Envelope, out: list[Command]) -> None:
    assert isinstance(envelope.event, StopEvent)
    tally = state.tally(type(envelope.event))
    tally.sent += 1
    tally.streamed += 1
    envelope.taken = True
    out.append(Routed(envelope, (), False))
    out.append(Finish(envelope.event))
    _end(state, "completed", out)


def _route(state: RunState, envelope: Envelope, takers: tuple[str, ...], routes: Routes, out: list[Command]) -> None:
    """Give an event to every step and to the first wait that takes it; else to the stream, or hold it."""
    event = envelope.event
    kind = type(event)
    state.tally(kind).sent += 1
    wait = _matching_wait(state, event) if state.waits else None
    out.append(Routed(envelope, takers, wait is not None))
    if state.questions and isinstance(event, HumanResponseEvent) and (takers or wait):
        state.questions -= 1
    for name in takers:
        execution = Execution(state.next_id(), name, (envelope,), envelope.at)
        state.executions[execution.id] = execution
        lane = state.lanes[name]
        if lane.in_use < lane.slots and not lane.ready and not lane.resuming:
            _start(state, lane, execution, out)
        else:
            state.queued += 1
            lane.ready.append(execution.id)
    if wait is not None:
        _answer(state, wait, envelope, out)
    if isinstance(event, InputRequiredEvent):
        state.questions += 1
        out.append(Publish(event, envelope.source))
        if not takers and wait is None:
            envelope.taken = True
            state.tally(kind).streamed += 1
    elif not takers and wait is None:
        _hold(state, envelope, routes, out)


def _take(state: RunState, envelope: Envelope) -> None:
    if not envelope.taken:
        envelope.taken = True
        state.tally(type(envelope.event)).consumed += 1


def _start(state: RunState, lane: Lane, execution: Execution, out: list[Command]) -> None:
    lane.in_use += 1
    execution.holds_slot = True
    execution.phase = "running"
    for envelope in execution.inputs:
        _take(state, envelope)
    out.append(Start(execution))


def _pump(state: RunState, lane: Lane, out: list[Command]) -> None:
    """Give free slots to parked executions that may go on, then to queued ones, in order."""
    while lane.resuming and lane.in_use < lane.slots:
        execution_id, parked_on, answer = lane.resuming.popleft()
        execution = state.executions.get(execution_id)
        if execution is not None:
            _resume(lane, execution, parked_on, answer, out)
    while lane.ready and lane.in_use < lane.slots:
        execution = state.executions[lane.ready.popleft()]
        state.queued -= 1
        _start(state, lane, execution, out)


def _resume(lane: Lane, execution: Execution, parked_on: int, answer: Envelope | None, out: list[Command]) -> None:
    if not execution.holds_slot:
        lane.in_use += 1
        execution.holds_slot = True
    execution.phase = "running"
    execution.retry_at = None
    out.append(Resume(execution.id, parked_on, answer))


def _park(state: RunState, execution: Execution, phase: Literal["parked", "backoff"], out: list[Command]) -> None:
    execution.phase = phase
    if execution.holds_slot:
        execution.holds_slot = False
        lane = state.lanes[execution.step]
        lane.in_use -= 1
        _pump(state, lane, out)


def _wake(state: RunState, execution: Execution, parked_on: int, answer: Envelope | None, at: float, out: list[Command]) -> None:
    """Let a parked execution go on as soon as a slot is free."""
    lane = state.lanes[execution.step]
    execution.ready_at = at
    if execution.holds_slot:  # another branch of the same step took the slot back already
        _resume(lane, execution, parked_on, answer, out)
        return
    lane.resuming.append((execution.id, parked_on, answer))
    _pump(state, lane, out)


# --- waits ---


def _open_wait(state: RunState, asked: OpenWait, out: list[Command]) -> None:
    execution = state.executions[asked.execution]
    state.awaited_types.add(asked.event_type)
    deadline = None if asked.timeout is None else asked.at + asked.timeout
    wait = Wait(
        state.next_id(), execution.id, asked.key, asked.event_type, asked.subclasses, asked.waiter_id, asked.requirements, asked.at, deadline
    )
    early = _early_answer(state, wait, asks=_ask(state, execution, asked, out))
    if early is not None:
        _take(state, early)
        execution.remember(wait.key, early.event)
        if state.questions and isinstance(early.event, HumanResponseEvent):
            state.questions -= 1
        return
    state.waits[wait.id] = wait
    if asked.timeout is not None:
        out.append(SetTimer(wait.id, asked.timeout))
    _park(state, execution, "parked", out)


def _ask(state: RunState, execution: Execution, asked: OpenWait, out: list[Command]) -> bool:
    """Publish the question of a wait, once in the life of the execution; return whether it was published now."""
    asked_key = f"asked:{asked.key}"
    if asked.question is None or (execution.memo and asked_key in execution.memo):
        return False
    execution.remember(asked_key, True)
    if isinstance(asked.question, InputRequiredEvent):
        state.questions += 1
    out.append(Publish(asked.question, execution.id))
    return True


def _early_answer(state: RunState, wait: Wait, *, asks: bool) -> Envelope | None:
    """Return a held event that answers the wait. One that asks takes only what names it: never a stale approval."""
    for kind, box in state.held.items():
        if not (kind is wait.event_type or (wait.subclasses and issubclass(kind, wait.event_type))):
            continue
        for envelope in box:
            named = bool(wait.requirements) or (wait.waiter_id is not None and _value(envelope.event, "waiter_id") == wait.waiter_id)
            if wait.wants(envelope.event) and (named or not asks):
                box.remove(envelope)
                return envelope
    return None


def _matching_wait(state: RunState, event: Event) -> Wait | None:
    return next((wait for wait in state.waits.values() if wait.wants(event)), None)


def _answer(state: RunState, wait: Wait, envelope: Envelope, out: list[Command]) -> None:
    execution = state.executions[wait.execution]
    _take(state, envelope)
    del state.waits[wait.id]
    if wait.deadline is not None:
        out.append(CancelTimer(wait.id))
    execution.remember(wait.key, envelope.event)
    _wake(state, execution, wait.id, envelope, envelope.at, out)


def _abandon_wait(state: RunState, abandoned: AbandonWait, out: list[Command]) -> None:
    wait = state.waits.pop(abandoned.wait, None)
    if wait is None:
        return
    if wait.deadline is not None:
        out.append(CancelTimer(wait.id))
    execution = state.executions[wait.execution]
    execution.phase = "running"
    if not execution.holds_slot:  # its code runs on whether a slot is free or not: count it, even one over the limit
        execution.holds_slot = True
        state.lanes[execution.step].in_use += 1


def _close_waits(state: RunState, execution_id: int, out: list[Command]) -> None:
    for wait in [wait for wait in state.waits.values() if wait.execution == execution_id]:
        del state.waits[wait.id]
        if wait.deadline is not None:
            out.append(CancelTimer(wait.id))


# --- joins ---


def _collect(state: RunState, asked: Collect, out: list[Command]) -> None:
    execution = state.executions[asked.execution]
    slot = (execution.step, asked.buffer)
    buffer = state.buffers.get(slot)
    if buffer is None:
        buffer = state.buffers[slot] = Buffer(asked.expected)
    buffer.expected = asked.expected
    buffer.items.setdefault(type(asked.event), deque()).append(_envelope_of(execution, asked.event))
    buffer.size += 1
    # The size is looked at first: comparing the sets on every call would make a join of n events cost n².
    collected = _full_set(buffer) if buffer.size >= len(asked.expected) else None
    execution.remember(asked.key, None if collected is None else [envelope.event for envelope in collected])
    if collected is None:
        out.append(Joining(execution.id, type(asked.event), asked.buffer, buffer.size, len(asked.expected)))
        return
    for envelope in collected:
        state.tally(type(envelope.event)).collected += 1
    out.append(Joined(execution.id, collected))
    if buffer.size == 0:
        del state.buffers[slot]


def _envelope_of(execution: Execution, event: Event) -> Envelope:
    for envelope in execution.inputs:
        if envelope.event is event:
            return envelope
    return Envelope(0, event, execution.ready_at, execution.id, execution.step, taken=True)  # made by the step itself


def _full_set(buffer: Buffer) -> list[Envelope] | None:
    """Take one full set out of the buffer, in expected order; None if it is not there."""
    need: dict[type[Event], int] = {}
    for kind in buffer.expected:
        need[kind] = need.get(kind, 0) + 1
    if any(len(buffer.items.get(kind, ())) < count for kind, count in need.items()):
        return None
    buffer.size -= len(buffer.expected)
    return [buffer.items[kind].popleft() for kind in buffer.expected]


# --- retries, timers, ends ---


def _attempt_failed(state: RunState, failed: AttemptFailed, out: list[Command]) -> None:
    execution = state.executions[failed.execution]
    execution.failures += 1
    _close_waits(state, execution.id, out)
    if failed.delay is None or failed.delay <= 0:
        return  # the run is about to end, or the next attempt keeps the slot
    timer = state.next_id()
    execution.retry_at = failed.at + failed.delay
    state.backoffs[timer] = execution.id
    out.append(SetTimer(timer, failed.delay))
    _park(state, execution, "backoff", out)


def _fire(state: RunState, fired: Fire, out: list[Command]) -> None:
    wait = state.waits.pop(fired.timer, None)
    if wait is not None:
        _wake(state, state.executions[wait.execution], wait.id, None, fired.at, out)
        return
    execution_id = state.backoffs.pop(fired.timer, None)
    if execution_id is not None:
        _wake(state, state.executions[execution_id], fired.timer, None, fired.at, out)


def _remember(state: RunState, told: Remember) -> None:
    state.executions[told.execution].remember(told.key, told.value)


def _streamed(state: RunState, written: Streamed, out: list[Command]) -> None:
    execution = state.executions.get(written.execution) if written.execution is not None else None
    if execution is not None:
        execution.sends += 1
    if isinstance(written.event, InputRequiredEvent):
        state.questions += 1
    out.append(Publish(written.event, written.execution))


def _hold(state: RunState, envelope: Envelope, routes: Routes, out: list[Command]) -> None:
    kind = type(envelope.event)
    box = state.held.setdefault(kind, deque())
    if len(box) >= HELD_PER_TYPE:
        _drop(state, box.popleft(), "overflow", None, out)
    box.append(envelope)
    awaited = any(kind is waited or issubclass(kind, waited) for waited in state.awaited_types)
    if not awaited:
        drop = Drop(envelope.id, kind, "unclaimed", envelope.source_step, routes.near_miss(kind))
        out.append(Dropped(drop, final=False))


def _drop(state: RunState, envelope: Envelope, reason: str, near_miss: str | None, out: list[Command]) -> None:
    kind = type(envelope.event)
    envelope.taken = True  # it has its fate
    state.tally(kind).dropped += 1
    drop = Drop(envelope.id, kind, reason, envelope.source_step, near_miss)
    state.drops.append(drop)
    out.append(Dropped(drop, final=True))


def _end(state: RunState, status: Status, out: list[Command]) -> None:
    """Give every event its fate and every timer its end. A suspended run keeps all, to be saved."""
    state.status = status
    if status == "suspended":
        return
    out.extend(CancelTimer(timer) for timer in (*state.backoffs, *(w.id for w in state.waits.values() if w.deadline is not None)))
    for envelope in list(state.pending()):
        _drop(state, envelope, "run_ended", None, out)


def _restart(state: RunState, restarted: Restart, out: list[Command]) -> None:
    """Queue again whatever was live, in its old order, with its memo; a backoff keeps what is left of it."""
    state.status = "running"
    state.waits.clear()
    state.backoffs.clear()
    for lane in state.lanes.values():
        lane.in_use = 0
        lane.ready.clear()
        lane.resuming.clear()
    state.queued = 0
    for execution in state.executions.values():
        _requeue(state, execution, restarted.at, out)
    for lane in state.lanes.values():
        _pump(state, lane, out)


def _requeue(state: RunState, execution: Execution, at: float, out: list[Command]) -> None:
    execution.holds_slot = False
    execution.replayed, execution.sends = execution.sends, 0
    execution.ready_at = at
    lane = state.lanes[execution.step]
    if execution.retry_at is not None and execution.retry_at > at:
        execution.phase = "backoff"
        timer = state.next_id()
        state.backoffs[timer] = execution.id
        out.append(SetTimer(timer, execution.retry_at - at))
        return
    execution.phase = "queued"
    execution.retry_at = None
    state.queued += 1
    lane.ready.append(execution.id)


def _value(event: Event, name: str) -> Any:
    return getattr(event, name, None)


