"""The graph of a workflow's steps and events: built from step configurations, validated as a whole, asked for routes."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ._descriptors import problems_of
from .collect import Take
from .decorators import StepConfig
from .errors import WorkflowConfigurationError, WorkflowValidationError
from .events import Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StepFailedEvent, StopEvent


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

    def __init__(self, name: str, place: Callable[[], str], steps: Mapping[str, StepConfig]) -> None:
        self.name = name
        self._place = place  # asked for in errors only: finding a class parses its file, 40 ms for a long one
        self.steps: dict[str, StepConfig] = dict(steps)
        self.accepted: list[type[Event]] = _unique(event for step in self.steps.values() for event in step.accepted_events)
        self.produced: list[type[Any]] = _unique(event for step in self.steps.values() for event in step.return_types)
        self.start_events: list[type[StartEvent]] = [event for event in self.accepted if issubclass(event, StartEvent)]
        self.stop_events: list[type[StopEvent]] = [event for event in self.produced if _is(event, StopEvent)]
        self.has_resources: bool = any(step.resources for step in self.steps.values())
        self.has_joins: bool = any(step.collection_param or step.is_multi_slot or step.is_fan_out for step in self.steps.values())
        self._routes: dict[type[Event], tuple[str, ...]] = {}
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

    def collectors(self, event: type[Event]) -> tuple[str, ...]:
        """Return the names of the steps that take events of this class as a list."""
        return tuple(name for name, step in self.steps.items() if step.collection_param is not None and accepts(step, event))

    def take(self, step: str) -> int | None:
        """Return how many events a collecting step needs; None: all that can come."""
        policy = self.steps[step].collection_policy
        return policy.cardinality.n if policy is not None and isinstance(policy.cardinality, Take) else None

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
            level = self._level(self.steps[step].list_return_types, frozenset({step}))
            found = self._feeds[step] = tuple(dict.fromkeys(name for event in level for name in self.collectors(event)))
        return found

    def _level(self, events: Iterable[type[Any]], above: frozenset[str]) -> list[type[Any]]:
        """Return every event class that can come up within one stream whose members are `events`."""
        level: list[type[Any]] = []
        todo = [event for event in events if _is(event, Event)]
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
        here = [event for event in step.bare_return_types if _is(event, Event)]
        if step.is_fan_out and step.name not in above:
            inner = self._level(step.list_return_types, above | {step.name})
            for name in dict.fromkeys(name for event in inner for name in self.collectors(event)):
                here += [event for event in self.steps[name].bare_return_types if _is(event, Event)]
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
        self.refuse([*(p for p in self._problems(skipped) if p.check not in skipped), *others])

    def refuse(self, problems: Sequence[Problem]) -> None:
        """Raise one error that lists all the problems, if there are any."""
        if not problems:
            return
        kind = WorkflowConfigurationError if any(p.is_configuration for p in problems) else WorkflowValidationError
        count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
        lines = [f"Workflow {self.name} ({self.place}) has {count}:"]
        raise kind("\n".join([*lines, *(f"  {n}. {problem}" for n, problem in enumerate(problems, 1))]))

    def _problems(self, skipped: Sequence[str]) -> list[Problem]:
        if not self.steps:
            remedy = "Decorate its methods with @step, or attach functions with @step(workflow=...)."
            return [Problem(text="It has no steps.", remedy=remedy, is_configuration=True)]
        found = [
            *self._entry_problems(),
            *self._exit_problems(),
            *self._type_problems(),
            *self._state_problems(),
            *self._join_problems(),
            *self._handler_problems(),
            *self._resource_problems(),
        ]
        unproduced = self._unproduced()
        unconsumed = [] if "terminal_event" in skipped else self._unconsumed()
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

    def _state_problems(self) -> list[Problem]:
        owners = {step.context_state_type: step for step in self.steps.values() if step.context_state_type is not None}
        if not owners or any(all(issubclass(kind, other) for other in owners) for kind in owners):
            return []
        listed = ", ".join(f"{kind.__name__} by `{step.name}` ({step.place})" for kind, step in owners.items())
        text = f"Its steps ask for states that are not derived from each other: {listed}."
        return [Problem(text=text, remedy="A run has one state: use one class, or derive one from the other.")]

    def _join_problems(self) -> list[Problem]:
        fed = {name for producer in self.steps.values() if producer.is_fan_out for name in self.closed_by(producer.name)}
        found: list[Problem] = []
        for step in self.steps.values():
            if step.collection_param is not None and step.name not in fed:
                kinds = " | ".join(event.__name__ for event in step.accepted_events)
                remedy = f"Let a step return `list[...]` of events that lead to {kinds}, or use ctx.collect_events."
                found.append(
                    Problem(text=f"{_where(step)} collects list[{kinds}], but no step returns a list that leads there.", remedy=remedy)
                )
        return found

    def _handler_problems(self) -> list[Problem]:
        handlers = [step for step in self.steps.values() if step.role == "catch_error"]
        found: list[Problem] = []
        claimed: dict[str, str] = {}
        for handler in handlers:
            for name in handler.catch_error_for_steps or ():
                found += self._claim_problems(handler, name, claimed)
                claimed.setdefault(name, handler.name)
        general = [handler for handler in handlers if handler.catch_error_for_steps is None]
        if len(general) > 1:
            text = f"{' and '.join(_where(handler) for handler in general)} all handle the errors of any step."
            found.append(Problem(text=text, remedy="Give all but one of them for_steps=[...]."))
        return found

    def _resource_problems(self) -> list[Problem]:
        seen: set[Hashable] = set()
        return [
            Problem(text=f"{_where(step)}, parameter `{name}`: {text}", remedy=remedy)
            for step in self.steps.values()
            for name, wanted in step.resources.items()
            for text, remedy in problems_of(wanted, self.start_event, seen)
        ]

    def _claim_problems(self, handler: StepConfig, name: str, claimed: Mapping[str, str]) -> list[Problem]:
        where = _where(handler)
        step = self.steps.get(name)
        if step is None:
            close = difflib.get_close_matches(name, self.steps, n=1)
            remedy = f"Did you mean `{close[0]}`?" if close else f"Its steps are {', '.join(self.steps)}."
            return [Problem(text=f"{where} handles errors of `{name}`, which is no step.", remedy=remedy)]
        if step.role == "catch_error":
            return [
                Problem(
                    text=f"{where} handles errors of `{name}`, which is a handler itself.", remedy="An error in a handler fails the run."
                )
            ]
        if name in claimed:
            return [Problem(text=f"{where} and `{claimed[name]}` both handle errors of `{name}`.", remedy="Let one handler name it.")]
        return []

    def _unproduced(self) -> list[Problem]:
        found: list[Problem] = []
        for step in self.steps.values():
            for event in step.accepted_events:
                if issubclass(event, (StartEvent, HumanResponseEvent, StopEvent)) or self._has_producer(step, event):
                    continue
                if issubclass(event, StepFailedEvent) and step.role == "catch_error":
                    continue
                text = f"{_where(step)} accepts {event.__name__}, which no step produces."
                remedy = self._meant(event, self.produced, taken=False) or (
                    f"Name {event.__name__} in the return annotation of the step that returns or sends it."
                )
                found.append(Problem(text=text, remedy=remedy))
        return found

    def _has_producer(self, step: StepConfig, event: type[Event]) -> bool:
        return event in self.produced or (step.accept_event_subclasses and any(_is(kind, event) for kind in self.produced))

    def _unconsumed(self) -> list[Problem]:
        found: list[Problem] = []
        for step in (each for each in self.steps.values() if "terminal_event" not in each.skip_graph_checks):
            for event in step.return_types:
                if not _is(event, Event) or issubclass(event, (StopEvent, InputRequiredEvent)) or self._all_takers(event):
                    continue
                text = f"{_where(step)} produces {event.__name__}, which no step accepts."
                remedy = (
                    self._meant(event, self.accepted, taken=True) or f"Add a step that takes {event.__name__}, or return something else."
                )
                found.append(Problem(text=text, remedy=remedy))
        return found

    def _meant(self, event: type[Event], candidates: Iterable[type[Any]], *, taken: bool) -> str | None:
        others = {kind.__name__: kind for kind in candidates if _is(kind, Event) and kind is not event}
        for kind in others.values():
            base, sub = (kind, event) if taken else (event, kind)
            if base is not Event and issubclass(sub, base) and not issubclass(base, (StartEvent, StopEvent)):
                return f"A step takes {base.__name__}, but not its subclass {sub.__name__}: use @step(accept_event_subclasses=True) there."
        close = difflib.get_close_matches(event.__name__, others, n=1)
        if close == [event.__name__]:
            kind = others[close[0]]
            return f"Did you mean the other class of this name, {kind.__module__}.{kind.__qualname__}?"
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
        todo = [e for e in self.accepted if issubclass(e, (StartEvent, HumanResponseEvent, StepFailedEvent))]
        done: set[type[Any]] = set()
        while todo:
            event = todo.pop()
            if event in done or not _is(event, Event):
                continue
            done.add(event)
            for name in self._all_takers(event):
                seen.add(name)
                todo += self.steps[name].return_types
        return seen

    def _all_takers(self, event: type[Any]) -> tuple[str, ...]:
        return (*self.takers(event), *self.collectors(event))

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
        return final or any(taker in ending for event in step.return_types for taker in self._all_takers(event))

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
