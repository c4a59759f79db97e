"""The graph of a workflow's steps and events: built from step configurations, validated as a whole, asked for routes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .decorators import StepConfig
from .errors import WorkflowConfigurationError, WorkflowValidationError
from .events import Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent


@dataclass(slots=True, kw_only=True)
class Problem:
    """One thing that is wrong with a workflow: what and where, and what to do."""

    text: str
    remedy: str
    check: str = ""  # the name under which it can be skipped
    is_configuration: bool = False

    def __str__(self) -> str:
        return f"{self.text} {self.remedy}".strip()


class Graph:
    """The steps of one workflow, by name, and what follows from their types."""

    def __init__(self, name: str, place: str, steps: Mapping[str, StepConfig]) -> None:
        self.name = name
        self.place = place  # file:line of the workflow class
        self.steps = dict(steps)
        self.accepted = _unique(event for step in self.steps.values() for event in step.accepted_events)
        self.produced = _unique(event for step in self.steps.values() for event in step.return_types)
        self.start_events = [event for event in self.accepted if issubclass(event, StartEvent)]
        self.stop_events = [event for event in self.produced if _is(event, StopEvent)]
        self._routes: dict[type[Event], tuple[str, ...]] = {}

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
            found = self._routes[event] = tuple(name for name, step in self.steps.items() if accepts(step, event))
        return found

    def producers(self, event_name: str) -> tuple[str, ...]:
        """Return the names of the steps whose return annotation names this event."""
        return tuple(name for name, step in self.steps.items() if any(e.__name__ == event_name for e in step.return_types))

    def near_miss(self, event: type[Event]) -> str | None:
        """Return what was probably meant by an event that nobody takes."""
        if issubclass(event, StopEvent):
            return "a StopEvent ends the run only when a step returns it"
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

    def validate(self, skipped: Sequence[str] = ()) -> None:
        """Check the whole graph.

        Raises:
            WorkflowConfigurationError: there is no step, or no single start or stop event; every other problem is listed too.
            WorkflowValidationError: events without producer or consumer, steps that cannot be reached or lead nowhere.
        """
        problems = [p for p in self._problems() if p.check not in skipped]
        if not problems:
            return
        kind = WorkflowConfigurationError if any(p.is_configuration for p in problems) else WorkflowValidationError
        count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
        lines = [f"Workflow {self.name} ({self.place}) has {count}:"]
        raise kind("\n".join([*lines, *(f"  {n}. {problem}" for n, problem in enumerate(problems, 1))]))

    def _problems(self) -> list[Problem]:
        if not self.steps:
            remedy = "Decorate its methods with @step, or attach functions with @step(workflow=...)."
            return [Problem(text="It has no steps.", remedy=remedy, is_configuration=True)]
        found = [*self._entry_problems(), *self._exit_problems(), *self._type_problems()]
        unproduced, unconsumed = self._unproduced(), self._unconsumed()
        # An event without producer or consumer already says why its steps are cut off: say it once.
        quiet = bool(unproduced or unconsumed or not self.start_events or not self.stop_events)
        return [*found, *unproduced, *unconsumed, *([] if quiet else self._path_problems())]

    def _entry_problems(self) -> list[Problem]:
        if len(self.start_events) == 1:
            return []
        if not self.start_events:
            text, remedy = "No step accepts a StartEvent.", "Let the first step take `ev: StartEvent`, or a subclass of it."
        else:
            text = f"Its steps accept {len(self.start_events)} start events: {self._accepting(self.start_events)}."
            remedy = "A workflow has one way in: use one class."
        return [Problem(text=text, remedy=remedy, is_configuration=True)]

    def _exit_problems(self) -> list[Problem]:
        if len(self.stop_events) == 1:
            return []
        if not self.stop_events:
            text, remedy = "No step returns a StopEvent.", "Annotate the last step with `-> StopEvent`, or a subclass of it."
        else:
            text = f"Its steps return {len(self.stop_events)} stop events: {self._returning(self.stop_events)}."
            remedy = "A run has one kind of result: use one class."
        return [Problem(text=text, remedy=remedy, is_configuration=True)]

    def _type_problems(self) -> list[Problem]:
        found: list[Problem] = []
        for step in self.steps.values():
            found += [
                Problem(text=f"{_where(step)} accepts {event.__name__}.", remedy="A StopEvent ends the run; accept another event.")
                for event in step.accepted_events
                if issubclass(event, StopEvent)
            ]
            found += [
                Problem(
                    text=f"{_where(step)} is annotated to return {_name(kind)}.", remedy="Steps return events, lists of events or None."
                )
                for kind in step.return_types
                if not _is(kind, Event)
            ]
        return found

    def _unproduced(self) -> list[Problem]:
        found: list[Problem] = []
        for step in self.steps.values():
            for event in step.accepted_events:
                if issubclass(event, (StartEvent, HumanResponseEvent, StopEvent)) or self._has_producer(step, event):
                    continue
                text = f"{_where(step)} accepts {event.__name__}, which no step produces."
                remedy = self._meant(event, self.produced) or (
                    f"Name {event.__name__} in the return annotation of the step that returns or sends it."
                )
                found.append(Problem(text=text, remedy=remedy))
        return found

    def _has_producer(self, step: StepConfig, event: type[Event]) -> bool:
        return event in self.produced or (step.accept_event_subclasses and any(_is(kind, event) for kind in self.produced))

    def _unconsumed(self) -> list[Problem]:
        found: list[Problem] = []
        for step in self.steps.values():
            for event in step.return_types:
                if not _is(event, Event) or issubclass(event, (StopEvent, InputRequiredEvent)) or self.takers(event):
                    continue
                text = f"{_where(step)} produces {event.__name__}, which no step accepts."
                remedy = self._meant(event, self.accepted) or f"Add a step that takes {event.__name__}, or return something else."
                found.append(Problem(text=text, remedy=remedy))
        return found

    def _meant(self, event: type[Event], candidates: Iterable[type[Any]]) -> str | None:
        others = {kind.__name__: kind for kind in candidates if _is(kind, Event) and kind is not event}
        for name, kind in others.items():
            if kind is not Event and issubclass(event, kind) and not issubclass(kind, (StartEvent, StopEvent)):
                return f"A step takes {name}, but not its subclass {event.__name__}: use @step(accept_event_subclasses=True) there."
        close = difflib.get_close_matches(event.__name__, others, n=1)
        return f"Did you mean {close[0]}?" if close else None

    def _path_problems(self) -> list[Problem]:
        reached = self._reached()
        ending = self._ending()
        found: list[Problem] = []
        for step in self.steps.values():
            if step.name not in reached and "reachability" not in step.skip_graph_checks:
                remedy = "Let a step that can be reached produce what it takes."
                found.append(Problem(text=f"{_where(step)} can never be reached.", remedy=remedy, check="reachability"))
            if step.name not in ending and "dead_end" not in step.skip_graph_checks:
                remedy = "Let what it returns lead to a StopEvent or an InputRequiredEvent, or return None only to end a side branch."
                found.append(Problem(text=f"{_where(step)} leads to no StopEvent.", remedy=remedy, check="dead_end"))
        return found

    def _reached(self) -> set[str]:
        seen: set[str] = set()
        todo = [e for e in self.accepted if issubclass(e, (StartEvent, HumanResponseEvent))]
        done: set[type[Any]] = set()
        while todo:
            event = todo.pop()
            if event in done or not _is(event, Event):
                continue
            done.add(event)
            for name in self.takers(event):
                seen.add(name)
                todo += self.steps[name].return_types
        return seen

    def _ending(self) -> set[str]:
        """Return the steps from which the run's end, or a silent end of a side branch, can be reached."""
        ending: set[str] = set()
        grown = True
        while grown:
            grown = False
            for name, step in self.steps.items():
                if name not in ending and self._ends(step, ending):
                    ending.add(name)
                    grown = True
        return ending

    def _ends(self, step: StepConfig, ending: set[str]) -> bool:
        if not step.return_types:
            return True  # `-> None`: a side branch, or a step that sends its events
        final = any(issubclass(event, (StopEvent, InputRequiredEvent)) for event in step.return_types)
        return final or any(taker in ending for event in step.return_types for taker in self.takers(event))

    def _accepting(self, events: Sequence[type[Event]]) -> str:
        pairs = [f"{e.__name__} by `{s.name}` ({s.place})" for e in events for s in self.steps.values() if e in s.accepted_events]
        return ", ".join(pairs)

    def _returning(self, events: Sequence[type[Event]]) -> str:
        pairs = [f"{e.__name__} by `{s.name}` ({s.place})" for e in events for s in self.steps.values() if e in s.return_types]
        return ", ".join(pairs)


def accepts(step: StepConfig, event: type[Event]) -> bool:
    """Whether the step takes events of this class."""
    if event in step.accepted_events:
        return True
    return step.accept_event_subclasses and issubclass(event, tuple(step.accepted_events))


def _where(step: StepConfig) -> str:
    return f"Step `{step.name}` ({step.place})"


def _is(kind: Any, base: type[Event]) -> bool:
    return isinstance(kind, type) and issubclass(kind, base)


def _name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind)


def _unique(events: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(events))
