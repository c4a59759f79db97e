"""What can be wrong with the graph of a workflow: each problem with its place and its remedy, all at once."""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ._descriptors import problems_of
from .decorators import StepConfig
from .events import Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StepFailedEvent, StopEvent

if TYPE_CHECKING:
    from ._graph import Graph


@dataclass(slots=True, kw_only=True)
class Problem:
    """One thing that is wrong with a workflow: what and where, and what to do."""

    text: str
    remedy: str
    check: str = ""  # the name under which it can be skipped
    is_configuration: bool = False

    def __str__(self) -> str:
        return f"{self.text} {self.remedy}".strip()


def found_in(graph: Graph, skipped: Sequence[str]) -> list[Problem]:
    """Return all that is wrong with a graph, but for the checks that are skipped as a whole."""
    return [problem for problem in _Checks(graph).all(skipped) if problem.check not in skipped]


class _Checks:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def all(self, skipped: Sequence[str]) -> list[Problem]:
        if not self.graph.steps:
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
        quiet = bool(unproduced or unconsumed or not self.graph.start_events or not self.graph.stop_events)
        return [*found, *unproduced, *unconsumed, *([] if quiet else self._path_problems())]

    def _entry_problems(self) -> list[Problem]:
        if len(self.graph.start_events) == 1:
            return []
        if not self.graph.start_events:
            text, remedy = "No step accepts a StartEvent.", "Let the first step take `ev: StartEvent`, or a subclass of it."
        else:
            text = f"Its steps accept {len(self.graph.start_events)} start events: {self._accepting(self.graph.start_events)}."
            remedy = "A workflow has one way in: use one class."
        return [Problem(text=text, remedy=remedy, is_configuration=True)]

    def _exit_problems(self) -> list[Problem]:
        if len(self.graph.stop_events) == 1:
            return []
        if not self.graph.stop_events:
            text, remedy = "No step returns a StopEvent.", "Annotate the last step with `-> StopEvent`, or a subclass of it."
        else:
            text = f"Its steps return {len(self.graph.stop_events)} stop events: {self._returning(self.graph.stop_events)}."
            remedy = "A run has one kind of result: use one class."
        return [Problem(text=text, remedy=remedy, is_configuration=True)]

    def _type_problems(self) -> list[Problem]:
        found: list[Problem] = []
        for step in self.graph.steps.values():
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
                if not is_kind(kind, Event)
            ]
        return found

    def _state_problems(self) -> list[Problem]:
        owners = {step.context_state_type: step for step in self.graph.steps.values() if step.context_state_type is not None}
        if not owners or any(all(issubclass(kind, other) for other in owners) for kind in owners):
            return []
        listed = ", ".join(f"{kind.__name__} by `{step.name}` ({step.place})" for kind, step in owners.items())
        text = f"Its steps ask for states that are not derived from each other: {listed}."
        return [Problem(text=text, remedy="A run has one state: use one class, or derive one from the other.")]

    def _join_problems(self) -> list[Problem]:
        fed = {name for producer in self.graph.steps.values() if producer.is_fan_out for name in self.graph.closed_by(producer.name)}
        found: list[Problem] = []
        for step in self.graph.steps.values():
            if step.collection_param is not None and step.name not in fed:
                kinds = " | ".join(event.__name__ for event in step.accepted_events)
                remedy = f"Let a step return `list[...]` of events that lead to {kinds}, or use ctx.collect_events."
                found.append(
                    Problem(text=f"{_where(step)} collects list[{kinds}], but no step returns a list that leads there.", remedy=remedy)
                )
        return [*found, *self._slot_problems()]

    def _slot_problems(self) -> list[Problem]:
        """A step that joins several events gets them of one stream, or all from outside any: what a list opened is apart."""
        joins = [step for step in self.graph.steps.values() if step.is_multi_slot]
        levels = self._levels() if joins else []
        return [
            Problem(
                text=f"{_where(step)} joins {' and '.join(kind.__name__ for kind in step.accepted_events)}, which never come up together.",
                remedy="What a step returns as a list is a stream of its own: collect it with a `list[...]` parameter first.",
            )
            for step in joins
            if self._are_produced(step.accepted_events) and not any(self._are_in(level, step) for level in levels)
        ]

    def _levels(self) -> list[list[type[Any]]]:
        """Return the event classes that can come up outside of any stream, and within each."""
        steps = self.graph.steps.values()
        outside: list[type[Any]] = [e for e in self.graph.accepted if issubclass(e, (StartEvent, HumanResponseEvent, StepFailedEvent))]
        outside += [event for step in steps if step.may_send for event in step.bare_return_types]  # what is sent joins no stream
        streams = [self.graph.level([*p.list_return_types, StepFailedEvent], frozenset({p.name})) for p in steps if p.is_fan_out]
        return [self.graph.level(outside, frozenset()), *streams]

    def _are_produced(self, events: Iterable[type[Event]]) -> bool:
        return all(event in self.graph.produced or issubclass(event, (StartEvent, HumanResponseEvent, StepFailedEvent)) for event in events)

    @staticmethod
    def _are_in(level: Sequence[type[Any]], step: StepConfig) -> bool:
        subclasses = step.accept_event_subclasses
        return all(any(e is slot or (subclasses and issubclass(e, slot)) for e in level) for slot in step.accepted_events)

    def _handler_problems(self) -> list[Problem]:
        handlers = [step for step in self.graph.steps.values() if step.role == "catch_error"]
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
            for step in self.graph.steps.values()
            for name, wanted in step.resources.items()
            for text, remedy in problems_of(wanted, self.graph.start_event, seen)
        ]

    def _claim_problems(self, handler: StepConfig, name: str, claimed: Mapping[str, str]) -> list[Problem]:
        where = _where(handler)
        step = self.graph.steps.get(name)
        if step is None:
            close = difflib.get_close_matches(name, self.graph.steps, n=1)
            remedy = f"Did you mean `{close[0]}`?" if close else f"Its steps are {', '.join(self.graph.steps)}."
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
        for step in self.graph.steps.values():
            for event in step.accepted_events:
                if issubclass(event, (StartEvent, HumanResponseEvent, StopEvent)) or self._has_producer(step, event):
                    continue
                if issubclass(event, StepFailedEvent) and step.role == "catch_error":
                    continue
                text = f"{_where(step)} accepts {event.__name__}, which no step produces."
                remedy = self._meant(event, self.graph.produced, taken=False) or (
                    f"Name {event.__name__} in the return annotation of the step that returns or sends it."
                )
                found.append(Problem(text=text, remedy=remedy))
        return found

    def _has_producer(self, step: StepConfig, event: type[Event]) -> bool:
        return event in self.graph.produced or (step.accept_event_subclasses and any(is_kind(kind, event) for kind in self.graph.produced))

    def _unconsumed(self) -> list[Problem]:
        found: list[Problem] = []
        for step in (each for each in self.graph.steps.values() if "terminal_event" not in each.skip_graph_checks):
            for event in step.return_types:
                if not is_kind(event, Event) or issubclass(event, (StopEvent, InputRequiredEvent)) or self._all_takers(event):
                    continue
                text = f"{_where(step)} produces {event.__name__}, which no step accepts."
                remedy = (
                    self._meant(event, self.graph.accepted, taken=True)
                    or f"Add a step that takes {event.__name__}, or return something else."
                )
                found.append(Problem(text=text, remedy=remedy))
        return found

    def _meant(self, event: type[Event], candidates: Iterable[type[Any]], *, taken: bool) -> str | None:
        others = {kind.__name__: kind for kind in candidates if is_kind(kind, Event) and kind is not event}
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
        for step in self.graph.steps.values():
            if step.name not in reached and "reachability" not in step.skip_graph_checks:
                remedy = "Let a step that can be reached produce what it takes."
                found.append(Problem(text=f"{_where(step)} can never be reached.", remedy=remedy, check="reachability"))
            if step.name not in ending and "dead_end" not in step.skip_graph_checks:
                remedy = "Let what it returns lead to a StopEvent or an InputRequiredEvent, or return None only to end a side branch."
                found.append(Problem(text=f"{_where(step)} leads to no StopEvent.", remedy=remedy, check="dead_end"))
        return found

    def _reached(self) -> set[str]:
        seen: set[str] = set()
        todo = [e for e in self.graph.accepted if issubclass(e, (StartEvent, HumanResponseEvent, StepFailedEvent))]
        done: set[type[Any]] = set()
        while todo:
            event = todo.pop()
            if event in done or not is_kind(event, Event):
                continue
            done.add(event)
            for name in self._all_takers(event):
                seen.add(name)
                todo += self.graph.steps[name].return_types
        return seen

    def _all_takers(self, event: type[Any]) -> tuple[str, ...]:
        return (*self.graph.takers(event), *self.graph.collectors(event))

    def _ending(self) -> set[str]:
        """Return the steps from which the run's end, or a silent end of a side branch, can be reached."""
        ending: set[str] = set()
        grown = True
        while grown:
            grown = False
            for name, step in self.graph.steps.items():
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
        pairs = [f"{e.__name__} by `{s.name}` ({s.place})" for e in events for s in self.graph.steps.values() if e in s.accepted_events]
        return ", ".join(pairs)

    def _returning(self, events: Sequence[type[Event]]) -> str:
        pairs = [f"{e.__name__} by `{s.name}` ({s.place})" for e in events for s in self.graph.steps.values() if e in s.return_types]
        return ", ".join(pairs)


def _where(step: StepConfig) -> str:
    return f"Step `{step.name}` ({step.place})"


def is_kind(kind: object, base: type[Event]) -> bool:
    """Whether it is an event class derived from `base`: annotations may name anything."""
    return isinstance(kind, type) and issubclass(kind, base)


def _name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind)
