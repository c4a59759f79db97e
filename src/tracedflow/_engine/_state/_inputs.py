"""What may happen to a run. These are what a journal stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ...events import Event
from ._model import Status

FORMAT = 1
"""Version of the saved form of the state and of its inputs."""


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
    stream: bool = False  # it returned a list: the events are the members of a stream
    silent: bool = False  # it sent nothing, returned None and is not part of a join
    held_back: bool = False  # the run is stepwise: the events go to its caller, who may send them on


@dataclass(slots=True, eq=False)
class SendOn:
    """The caller of a stepwise run sent on an event that it was given; `target` names one step."""

    envelope: int
    at: float
    target: str | None = None


@dataclass(slots=True, eq=False)
class Discard:
    """The caller of a stepwise run goes on without having sent these events on."""

    envelopes: Sequence[int]
    at: float


@dataclass(slots=True, eq=False)
class Recover:
    """A step execution failed for good, and a `@catch_error` step takes over."""

    execution: int
    handler: str
    event: Event
    at: float
    headers: Mapping[str, str] | None = None
    span_context: object | None = None


@dataclass(slots=True, eq=False)
class AttemptFailed:
    """An attempt raised; it is tried again after `delay` seconds, or None: it failed for good."""

    execution: int
    delay: float | None
    at: float
    error: Exception | None = None


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
    """A saved run goes on in another process: whatever was live starts again with its memo.

    `completed` are the ends of executions that are live in the saved state: a checkpoint is saved before they count.
    """

    at: float
    completed: Sequence[Complete] = ()


Input: TypeAlias = (
    Begin
    | Send
    | SendOn
    | Discard
    | Collect
    | OpenWait
    | AbandonWait
    | Remember
    | Streamed
    | Complete
    | Recover
    | AttemptFailed
    | Fire
    | End
    | Restart
)
