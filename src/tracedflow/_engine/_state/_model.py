"""What a run's state is made of: plain data, changed by `reduce` only."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias, final

from ...events import Event

HELD_PER_TYPE = 100
DROPS_KEPT = 100


class Routes(Protocol):
    """The static facts about a graph that the reducer asks for."""

    has_joins: bool
    """Whether a step returns a list, takes a list, or joins several parameters."""

    @property
    def ways(self) -> Mapping[type[Event], tuple[str, bool] | None]:
        """The one step that takes events of a class, and whether as a list; None: there is more to it."""
        ...

    def takers(self, event: type[Event], /) -> tuple[str, ...]:
        """Return the names of the steps that take events of this class, one by one."""
        ...

    def collectors(self, event: type[Event], /) -> tuple[str, ...]:
        """Return the names of the steps that take events of this class as a list."""
        ...

    def take(self, step: str, /) -> int | None:
        """Return how many events a collecting step needs; None: all that can come."""
        ...

    def slots(self, step: str, /) -> tuple[type[Event], ...] | None:
        """Return the classes that a step joins, one of each; None: it takes one event."""
        ...

    def slot(self, step: str, event: type[Event], /) -> int:
        """Return which of the classes that a step joins an event fills."""
        ...

    def closed_by(self, step: str, /) -> tuple[str, ...]:
        """Return the collecting steps that a stream opened by this step feeds."""
        ...

    def near_miss(self, event: type[Event], /) -> str | None:
        """Return what was probably meant by an event that nobody takes."""
        ...


Phase: TypeAlias = Literal["queued", "running", "parked", "backoff"]

# Envelopes and executions are made for each event: they set their attributes themselves, which is faster than what `dataclass` makes,
# and all of them, so that each instance has the same.


@dataclass(eq=False, init=False)
class Envelope:
    """An event on its way: where it came from and when. `span_context` is the sender's, in process only."""

    id: int
    event: Event
    at: float  # Unix seconds, advancing with the monotonic clock
    source: int | None  # the execution that sent it; None: from outside
    source_step: str | None
    headers: Mapping[str, str] | None
    span_context: object | None
    taken: bool = field(init=False)  # a step started with it, or a wait was answered by it
    collected: bool = field(init=False)  # it was in a full set of a join, of one at least
    scopes: tuple[int, ...] = field(init=False)  # the streams that it is a member of, outermost first
    recoveries: tuple[str, ...] = field(init=False)  # the error handlers that its line of events has been through

    def __init__(
        self,
        id: int,  # noqa: A002 - as its field
        event: Event,
        at: float,
        source: int | None = None,
        source_step: str | None = None,
        headers: Mapping[str, str] | None = None,
        span_context: object | None = None,
    ) -> None:
        self.id = id
        self.event = event
        self.at = at
        self.source = source
        self.source_step = source_step
        self.headers = headers
        self.span_context = span_context
        self.type_name: str = type(event).__name__  # asked for once: the metaclass of a model makes that slow
        self.taken = self.collected = False
        self.scopes = self.recoveries = ()


@final
@dataclass(eq=False, init=False)
class Execution:
    """One step execution, from the moment an event was routed to the step until it ended for good."""

    id: int
    step: str
    inputs: tuple[Envelope, ...]
    ready_at: float  # since when it could run, if there were a slot
    scopes: tuple[int, ...]
    phase: Phase = field(init=False)
    holds_slot: bool = field(init=False)
    failures: int = field(init=False)
    last_error: Exception | None = field(init=False)  # after a resume, one of the same type and message
    last_failed_at: float | None = field(init=False)
    first_started_at: float | None = field(init=False)
    retry_at: float | None = field(init=False)
    memo: dict[str, Any] | None = field(init=False)  # answers already given, by call order or given id
    sends: int = field(init=False)  # sends and stream writes accepted in this life
    replayed: int = field(init=False)  # those of the life before a resume, which are not repeated
    resuming: int = field(init=False)  # how often it is in its lane's `resuming`, at most

    def __init__(
        self,
        id: int,  # noqa: A002 - as its field
        step: str,
        inputs: tuple[Envelope, ...],
        ready_at: float,
        scopes: tuple[int, ...] = (),
    ) -> None:
        self.id = id
        self.step = step
        self.inputs = inputs
        self.ready_at = ready_at
        self.scopes = scopes
        self.phase = "queued"
        self.holds_slot = False
        self.failures = self.sends = self.replayed = self.resuming = 0
        self.last_error = self.last_failed_at = self.first_started_at = self.retry_at = self.memo = None

    @property
    def recoveries(self) -> tuple[str, ...]:
        """The handlers that the longest line of events behind it has been through."""
        if len(self.inputs) == 1:
            return self.inputs[0].recoveries
        return max((envelope.recoveries for envelope in self.inputs), key=len, default=())

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
        return fits and all(value_of(event, name) == wanted for name, wanted in self.requirements.items())

    @property
    def groups(self) -> tuple[object, object]:
        """What it is looked for by: its execution, and the class that it waits for, or None if subclasses do too."""
        return self.execution, None if self.subclasses else self.event_type


Resuming: TypeAlias = tuple[int, int, Envelope | None]
"""(execution, wait or timer, answer)"""


@dataclass(slots=True, eq=False)
class Lane:
    """The executions of one step that are ready, and how many hold one of its slots."""

    slots: int
    in_use: int = 0
    # An empty deque takes 600 bytes, and most lanes of most runs never have a queue.
    resuming: deque[Resuming] | tuple[()] = ()
    ready: deque[int] | tuple[()] = ()

    def enqueue(self, execution: int) -> None:
        """Let an execution wait for a slot."""
        if isinstance(self.ready, tuple):
            self.ready = deque()
        self.ready.append(execution)

    def enqueue_resuming(self, resuming: Resuming) -> None:
        """Let a parked execution that may go on wait for a slot."""
        if isinstance(self.resuming, tuple):
            self.resuming = deque()
        self.resuming.append(resuming)


@dataclass(slots=True, eq=False)
class Buffer:
    """What a `collect_events` has gathered and not yet given out."""

    expected: Sequence[type[Event]]
    items: dict[type[Event], deque[Envelope]] = field(default_factory=dict[type[Event], deque[Envelope]])
    size: int = 0
    counted: tuple[tuple[type[Event], ...], dict[type[Event], int]] | None = None  # `expected`, and how many of each; made when asked for

    def add(self, envelope: Envelope) -> None:
        """Gather one more."""
        kind = type(envelope.event)
        items = self.items.get(kind)
        if items is None:
            items = self.items[kind] = deque()
        items.append(envelope)
        self.size += 1


@dataclass(slots=True, eq=False)
class Stream:
    """What a step that returned a list opened: it closes when everything that follows from the list has ended."""

    id: int
    producer: str
    outer: tuple[int, ...]
    live: int = 0  # executions in it, streams inside it, and whoever opens it
    members: dict[str, list[Envelope]] = field(default_factory=dict[str, list[Envelope]])  # by collecting step
    fired: set[str] = field(default_factory=set[str])


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
    source: int | None
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
    waits_by: dict[object, dict[int, Wait]] = field(default_factory=dict[object, dict[int, Wait]])  # the same ones by `Wait.groups`
    backoffs: dict[int, int] = field(default_factory=dict[int, int])  # timer -> execution
    buffers: dict[tuple[str, str], Buffer] = field(default_factory=dict[tuple[str, str], Buffer])
    streams: dict[int, Stream] = field(default_factory=dict[int, Stream])
    slots: dict[tuple[str, tuple[int, ...]], list[deque[Envelope]]] = field(
        default_factory=dict[tuple[str, tuple[int, ...]], list[deque[Envelope]]]
    )
    held: dict[type[Event], deque[Envelope]] = field(default_factory=dict[type[Event], deque[Envelope]])
    returned: dict[int, Envelope] = field(default_factory=dict[int, Envelope])  # to the caller of a stepwise run, not sent on yet
    awaited_types: tuple[type[Event], ...] = ()  # each once
    tallies: defaultdict[type[Event], Tally] = field(default_factory=lambda: defaultdict[type[Event], Tally](Tally))
    drops: deque[Drop] | tuple[()] = ()  # the last ones; most runs have none
    silent: dict[str, int] = field(default_factory=dict[str, int])
    queued: int = 0
    questions: int = 0  # InputRequiredEvents out and not answered by a HumanResponseEvent

    def next_id(self) -> int:
        """Return the next number of the run's one sequence."""
        self.seq += 1
        return self.seq

    def add_wait(self, wait: Wait) -> None:
        """Keep an open wait."""
        self.waits[wait.id] = wait
        for group in wait.groups:
            self.waits_by.setdefault(group, {})[wait.id] = wait

    def drop_wait(self, number: int) -> Wait | None:
        """Forget a wait; return it, or None if it is not open."""
        wait = self.waits.pop(number, None)
        if wait is not None:
            for group in wait.groups:
                found = self.waits_by[group]
                del found[number]
                if not found:
                    del self.waits_by[group]
        return wait

    def waits_of(self, group: object) -> tuple[Wait, ...]:
        """Return the open waits of an execution, or for a class of events, oldest first."""
        return tuple(self.waits_by.get(group, {}).values())

    def add_drop(self, drop: Drop) -> None:
        """Keep what became of an event that nobody took."""
        if isinstance(self.drops, tuple):
            self.drops = deque(maxlen=DROPS_KEPT)
        self.drops.append(drop)

    def count_collected(self, envelope: Envelope) -> None:
        """Count an event as part of a full set, once however many joins it is in."""
        if not envelope.collected:
            envelope.collected = True
            self.tallies[type(envelope.event)].collected += 1

    def pending(self) -> Iterator[Envelope]:
        """Yield every event that was sent and has no fate yet, once each."""
        seen: set[int] = set()
        queued = (envelope for execution in self.executions.values() for envelope in execution.inputs)
        held = (envelope for box in self.held.values() for envelope in box)
        collected = (envelope for stream in self.streams.values() for members in stream.members.values() for envelope in members)
        joined = (envelope for slots in self.slots.values() for slot in slots for envelope in slot)
        for envelope in (*queued, *held, *self.returned.values(), *collected, *joined):
            if not envelope.taken and envelope.id not in seen:
                seen.add(envelope.id)
                yield envelope


def new_state(run_id: str, slots: Mapping[str, int]) -> RunState:
    """Return the state of a run that has not begun; `slots` gives each step's `num_workers`."""
    return RunState(run_id=run_id, lanes={name: Lane(slots=count) for name, count in slots.items()})


def is_over(state: RunState) -> bool:
    """Whether the run has ended, so that no input changes it any more."""
    return state.status not in ("new", "running")


def value_of(event: Event, name: str) -> Any:
    """Return an attribute of an event, declared or dynamic; None if it has none."""
    return getattr(event, name, None)
