"""What is to be done about what happened: carried out by the runner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, final

from ...events import Event, StopEvent
from ._model import Drop, Envelope, Execution


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


@final
@dataclass(slots=True, eq=False)
class Routed:
    """Tell that an event was sent and who takes it."""

    envelope: Envelope
    to: tuple[str, ...]
    waited: bool


@dataclass(slots=True, eq=False)
class Returned:
    """Give an event that a step returned to the caller of a stepwise run."""

    envelope: Envelope


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


Rare: TypeAlias = Resume | SetTimer | CancelTimer | Publish | Finish | Returned | Dropped | Joining | Joined
"""Commands that most steps do without."""

Command: TypeAlias = Execution | Routed | Rare
"""What is to be done; an execution: start it."""
