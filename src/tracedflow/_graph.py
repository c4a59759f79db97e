"""The graph of a workflow's steps and events: built from step configurations, validated as a whole, asked for routes."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ._problems import Problem, found_in, is_kind
from .collect import Take
from .decorators import StepConfig
from .errors import WorkflowConfigurationError, WorkflowValidationError
from .events import Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent


class Graph:
    """The steps of one workflow, by name, and what follows from their types."""

    def __init__(self, name: str, place: Callable[[], str], steps: Mapping[str, StepConfig]) -> None:
        self.name = name
        self._place = place  # asked for in errors only: finding a class parses its file, 40 ms for a long one
        self.steps: dict[str, StepConfig] = dict(steps)
        self.accepted: list[type[Event]] = _unique(event for step in self.steps.values() for event in step.accepted_events)
        self.produced: list[type[Any]] = _unique(event for step in self.steps.values() for event in step.return_types)
        self.start_events: list[type[StartEvent]] = [event for event in self.accepted if issubclass(event, StartEvent)]
        self.stop_events: list[type[StopEvent]] = [event for event in self.produced if is_kind(event, StopEvent)]
        self.has_resources: bool = any(step.resources for step in self.steps.values())
        self.has_joins: bool = any(step.collection_param or step.is_multi_slot or step.is_fan_out for step in self.steps.values())
        self._takes: dict[str, int] = {
            name: step.collection_policy.cardinality.n
            for name, step in self.steps.items()
            if step.collection_policy is not None and isinstance(step.collection_policy.cardinality, Take)
        }
        self._routes: dict[type[Event], tuple[str, ...]] = {}
        self.ways: Mapping[type[Event], tuple[str, bool] | None] = _Ways(self.way)
        self._feeds: dict[str, tuple[str, ...]] = {}

    @property
    def place(self) -> str:
        """Where the workflow class stands, as file:line."""
        return self._place()

    @property
    def start_event(self) -> type[StartEvent]:
        """The class that starts a run."""
        return self.start_events[0] if self.start_events else StartEvent

    @property
    def stop_event(self) -> type[StopEvent]:
        """The class that ends a run."""
        return self.stop_events[0] if self.stop_events else StopEvent

    @property
    def events(self) -> list[type[Event]]:
        """Every event class that a step takes or returns."""
        return _unique([*self.accepted, *self.produced])

    @property
    def takes_human_input(self) -> bool:
        """Whether a step accepts a `HumanResponseEvent`."""
        return any(issubclass(event, HumanResponseEvent) for event in self.accepted)

    @property
    def can_wait(self) -> bool:
        """Whether a run may wait for somebody: it takes human input, or the code of a step names `wait_for_event`."""
        return self.takes_human_input or any(step.may_wait for step in self.steps.values())

    def takers(self, event: type[Event]) -> tuple[str, ...]:
        """Return the names of the steps that take events of exactly this class, or of a base they opted into."""
        found = self._routes.get(event)
        if found is None:
            taking = (name for name, step in self.steps.items() if step.collection_param is None and accepts(step, event))
            found = self._routes[event] = tuple(taking)
        return found

    def way(self, event: type[Event]) -> tuple[str, bool] | None:
        """Return the one step that takes events of this class, and whether as a list; None: there is more to it."""
        takers, collectors = self.takers(event), self.collectors(event)
        if len(takers) + len(collectors) != 1 or issubclass(event, (StopEvent, InputRequiredEvent, HumanResponseEvent)):
            return None
        if collectors:
            return collectors[0], True
        return None if self.steps[takers[0]].is_multi_slot else (takers[0], False)

    def collectors(self, event: type[Event]) -> tuple[str, ...]:
        """Return the names of the steps that take events of this class as a list."""
        return tuple(name for name, step in self.steps.items() if step.collection_param is not None and accepts(step, event))

    def take(self, step: str) -> int | None:
        """Return how many events a collecting step needs; None: all that can come."""
        return self._takes.get(step)

    def slots(self, step: str) -> tuple[type[Event], ...] | None:
        """Return the classes that a step joins, one of each; None: it takes one event."""
        config = self.steps[step]
        return tuple(kinds[0] for kinds in config.event_parameters.values()) if config.is_multi_slot else None

    def slot(self, step: str, event: type[Event]) -> int:
        """Return which of the classes that a step joins an event fills."""
        config = self.steps[step]
        exact = [kinds[0] for kinds in config.event_parameters.values()]
        return exact.index(event) if event in exact else next(n for n, kind in enumerate(exact) if issubclass(event, kind))

    def closed_by(self, step: str) -> tuple[str, ...]:
        """Return the collecting steps that a stream opened by `step` feeds, directly or through the steps that work on its events."""
        found = self._feeds.get(step)
        if found is None:
            level = self.level(self.steps[step].list_return_types, frozenset({step}))
            found = self._feeds[step] = tuple(dict.fromkeys(name for event in level for name in self.collectors(event)))
        return found

    def level(self, events: Iterable[type[Any]], above: frozenset[str]) -> list[type[Any]]:
        """Return every event class that can come up within one stream whose members are `events`."""
        level: list[type[Any]] = []
        todo = [event for event in events if is_kind(event, Event)]
        while todo:
            event = todo.pop(0)
            if event in level:
                continue
            level.append(event)
            for name in self.takers(event):
                todo += self._returned_here(self.steps[name], above)
        return level

    def _returned_here(self, step: StepConfig, above: frozenset[str]) -> list[type[Any]]:
        """Return what a step gives to its own stream: its single events, and what the streams that it opens are collected to."""
        here = [event for event in step.bare_return_types if is_kind(event, Event)]
        if step.is_fan_out and step.name not in above:
            inside = above | {step.name}
            inner = self.level(step.list_return_types, inside)
            for name in dict.fromkeys(name for event in inner for name in self.collectors(event)):
                here += self._returned_here(self.steps[name], inside)
        return here

    def handler_for(self, step: str) -> StepConfig | None:
        """Return the `@catch_error` step that handles the failures of a step: one that names it before one for all."""
        if self.steps[step].role == "catch_error":
            return None
        handlers = [config for config in self.steps.values() if config.role == "catch_error"]
        scoped = next((h for h in handlers if h.catch_error_for_steps is not None and step in h.catch_error_for_steps), None)
        return scoped or next((h for h in handlers if h.catch_error_for_steps is None), None)

    def producers(self, event_name: str) -> tuple[str, ...]:
        """Return the names of the steps whose return annotation names this event."""
        return tuple(name for name, step in self.steps.items() if any(e.__name__ == event_name for e in step.return_types))

    def near_miss(self, event: type[Event]) -> str | None:
        """Return what was probably meant by an event that nobody takes."""
        if issubclass(event, StopEvent):
            return "a StopEvent ends the run only when a step returns it"
        for name in self.collectors(event):
            return f"step `{name}` takes a list of what a step returned as a list; an event that was sent cannot join it"
        if issubclass(event, StartEvent):
            return f"this workflow starts with {self.start_event.__name__}"
        for name, step in self.steps.items():
            for accepted in step.accepted_events:
                if accepted is not Event and issubclass(event, accepted):
                    return f"step `{name}` takes {accepted.__name__} but not its subclasses; see @step(accept_event_subclasses=True)"
        return self._similar(event)

    def _similar(self, event: type[Event]) -> str | None:
        owners = {accepted.__name__: name for name, step in self.steps.items() for accepted in step.accepted_events}
        close = difflib.get_close_matches(event.__name__, owners, n=1)
        if not close:
            return None
        same = " (another class of the same name)" if close[0] == event.__name__ else ""
        return f"step `{owners[close[0]]}` takes {close[0]}{same}"

    def validate(self, skipped: Sequence[str] = (), others: Sequence[Problem] = ()) -> None:
        """Check the whole graph; `others` are problems that were found elsewhere.

        Raises:
            WorkflowConfigurationError: there is no step, or no single start or stop event; every other problem is listed too.
            WorkflowValidationError: events without producer or consumer, steps that cannot be reached or lead nowhere.
        """
        self.refuse([*found_in(self, skipped), *others])

    def refuse(self, problems: Sequence[Problem]) -> None:
        """Raise one error that lists all the problems, if there are any."""
        if not problems:
            return
        kind = WorkflowConfigurationError if any(p.is_configuration for p in problems) else WorkflowValidationError
        count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
        lines = [f"Workflow {self.name} ({self.place}) has {count}:"]
        raise kind("\n".join([*lines, *(f"  {n}. {problem}" for n, problem in enumerate(problems, 1))]))


class _Ways(dict[type[Event], tuple[str, bool] | None]):
    """What `Graph.way` says of each class, asked once: a subscript costs less than a call."""

    def __init__(self, way: Callable[[type[Event]], tuple[str, bool] | None]) -> None:
        super().__init__()
        self._way = way

    def __missing__(self, event: type[Event]) -> tuple[str, bool] | None:
        found = self[event] = self._way(event)
        return found


def accepts(step: StepConfig, event: type[Event]) -> bool:
    """Whether the step takes events of this class."""
    if event in step.accepted_events:
        return True
    return step.accept_event_subclasses and issubclass(event, tuple(step.accepted_events))


def _unique(events: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(events))
