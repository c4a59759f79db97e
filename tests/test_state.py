"""Holds the reducer's promises over random graphs and random interleavings of whatever may legally happen to a run."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as hyp

from tracedflow import Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent
from tracedflow._engine import _state as st
from tracedflow._engine._snapshot import dump_input, dump_state, load_input, load_state


class Go(StartEvent):
    n: int = 0


class Stop(StopEvent):
    n: int = 0


class A(Event):
    n: int = 0


class SubA(A):
    pass


class B(Event):
    n: int = 0


class C(Event):
    n: int = 0


class Ask(InputRequiredEvent):
    n: int = 0


class Failed(Event):
    n: int = 0


class Reply(HumanResponseEvent):
    n: int = 0
    waiter_id: str | None = None


KINDS: tuple[type[Event], ...] = (A, SubA, B, C, Ask, Reply)
TYPES = (Go, Stop, Failed, *KINDS)
STEPS = ("one", "two", "three")
MAX_INPUTS = 40


@dataclass
class Graph:
    """What each step takes: single events of some classes, a list of them, or one of each."""

    single: dict[str, tuple[type[Event], ...]]
    lists: dict[str, tuple[tuple[type[Event], ...], int | None]] = field(default_factory=dict)
    joins: dict[str, tuple[type[Event], ...]] = field(default_factory=dict)
    feeds: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def has_joins(self) -> bool:
        return bool(self.lists or self.joins)

    def takers(self, event: type[Event], /) -> tuple[str, ...]:
        return tuple(step for step in STEPS if event in (*self.single.get(step, ()), *self.joins.get(step, ())))

    def collectors(self, event: type[Event], /) -> tuple[str, ...]:
        return tuple(step for step, (kinds, _) in self.lists.items() if event in kinds)

    @property
    def ways(self) -> Mapping[type[Event], tuple[str, bool] | None]:
        return {event: self.way(event) for event in (*TYPES, StopEvent)}

    def way(self, event: type[Event]) -> tuple[str, bool] | None:
        takers, collectors = self.takers(event), self.collectors(event)
        if len(takers) + len(collectors) != 1 or issubclass(event, (StopEvent, InputRequiredEvent, HumanResponseEvent)):
            return None
        step = (*takers, *collectors)[0]
        return None if step in self.joins else (step, not takers)

    def take(self, step: str, /) -> int | None:
        return self.lists[step][1]

    def slots(self, step: str, /) -> tuple[type[Event], ...] | None:
        return self.joins.get(step)

    def slot(self, step: str, event: type[Event], /) -> int:
        return self.joins[step].index(event)

    def closed_by(self, step: str, /) -> tuple[str, ...]:
        return self.feeds.get(step, ())

    def near_miss(self, event: type[Event], /) -> str | None:
        return None


some_kinds = hyp.lists(hyp.sampled_from(KINDS), unique=True).map(tuple)


@hyp.composite
def graphs(draw: hyp.DrawFn) -> Graph:
    graph = Graph({STEPS[0]: (Go, *draw(some_kinds))})
    for step in STEPS[1:]:
        match draw(hyp.sampled_from(["single", "single", "list", "join"])):
            case "single":
                graph.single[step] = (*draw(some_kinds), *draw(hyp.sampled_from([(), (Go,)])))
            case "list":
                graph.lists[step] = (draw(some_kinds), draw(hyp.sampled_from([None, None, 1, 2])))
            case _:
                graph.joins[step] = draw(hyp.lists(hyp.sampled_from(KINDS), unique=True, min_size=2, max_size=3).map(tuple))
    for step in STEPS:
        graph.feeds[step] = tuple(draw(hyp.lists(hyp.sampled_from(sorted(graph.lists)), unique=True))) if graph.lists else ()
    return graph


# --- saving, as a serializer would


def save(value: Any, path: str) -> str:
    return json.dumps([type(value).__name__, value.model_dump()])


def load(text: str, path: str) -> Any:
    name, data = json.loads(text)
    data.pop("result", None)
    return next(kind for kind in TYPES if kind.__name__ == name)(**data)


def picture(state: st.RunState) -> Any:
    """Return all that a state is, to be compared."""
    return json.loads(json.dumps(dump_state(state, save)))


def saved_and_loaded(state: st.RunState) -> st.RunState:
    return load_state(json.loads(json.dumps(dump_state(state, save))), load, TYPES)


# --- one run, driven by drawn choices, and watched


@dataclass
class Watched:
    """A run's state with what an engine would know beside it: every command is checked against that."""

    graph: Graph
    state: st.RunState
    inputs: list[st.Input] = field(default_factory=list)
    commands: list[list[str]] = field(default_factory=list)
    ids: Counter[int] = field(default_factory=Counter)
    begun: dict[str, list[int]] = field(default_factory=lambda: {name: [] for name in STEPS})
    live: set[int] = field(default_factory=set)
    timers: set[int] = field(default_factory=set)
    parked: set[tuple[int, int]] = field(default_factory=set)  # (execution, wait or timer) whose coroutine is suspended there
    waits: set[int] = field(default_factory=set)
    formerly: set[int] = field(default_factory=set)  # executions of the life before
    handed_out: set[int] = field(default_factory=set)  # events that a stepwise run returned to its caller
    stepwise: bool = False
    finished: int = 0
    now: float = 1000.0
    number: int = 0

    def feed(self, happened: st.Input) -> list[st.Command]:
        self.inputs.append(happened)
        following = self.state.seq + 1  # the engine takes it for the number of the wait or timer
        before = {name: lane.in_use for name, lane in self.state.lanes.items()}
        was_over = st.is_over(self.state)
        out = st.reduce(self.state, happened, self.graph)
        if was_over and not isinstance(happened, st.Restart):
            assert out == []
        for command in out:
            self.carry_out(command)
        if isinstance(happened, st.OpenWait) and happened.key not in (self.state.executions[happened.execution].memo or {}):
            self.parked.add((happened.execution, following))
            self.waits.add(following)
        if isinstance(happened, st.AttemptFailed) and happened.delay:
            self.parked.add((happened.execution, following))
        self.commands.append([type(command).__name__ for command in out])
        self.check(before, may_exceed=isinstance(happened, st.AbandonWait | st.AttemptFailed))
        return out

    def carry_out(self, command: st.Command) -> None:
        state = self.state
        match command:
            case st.Execution() as execution:
                assert state.executions.get(execution.id) is execution or st.is_over(state)
                assert execution.id not in self.live, "started twice"
                assert all(envelope.taken for envelope in execution.inputs)
                self.ids[execution.id] += 1
                self.live.add(execution.id)
                self.begun[execution.step].append(execution.id)
            case st.Resume():
                assert (command.execution, command.parked_on) in self.parked, "resumed what is not parked there"
                self.parked.discard((command.execution, command.parked_on))
            case st.SetTimer():
                self.ids[command.timer] += 1
                assert command.delay >= 0
                self.timers.add(command.timer)
            case st.CancelTimer():
                assert command.timer in self.timers, "cancelled a timer that is not set"
                self.timers.discard(command.timer)
            case st.Routed():
                if command.envelope.id not in self.handed_out:  # counted when it was returned
                    self.ids[command.envelope.id] += 1
                self.handed_out.discard(command.envelope.id)
                assert command.envelope.id > 0
                assert set(command.to) <= set(STEPS)
            case st.Returned():
                self.ids[command.envelope.id] += 1
                self.handed_out.add(command.envelope.id)
                assert state.returned[command.envelope.id] is command.envelope
            case st.Publish():
                assert command.execution is None or command.execution in self.ids or command.execution in self.formerly
            case st.Finish():
                self.finished += 1
                assert state.status == "completed"
            case st.Dropped():
                assert command.drop.reason in ("unclaimed", "overflow", "run_ended", "not_needed", "not_sent_on")
                assert command.final == (command.drop.reason != "unclaimed")
            case st.Joining():
                assert command.execution in self.live
                assert command.have >= 1
            case st.Joined():
                assert command.execution in self.live
                assert command.collected

    def check(self, before: dict[str, int], *, may_exceed: bool) -> None:
        state = self.state
        assert all(count == 1 for count in self.ids.values()), "an id was given twice"
        assert not self.ids or max(self.ids) <= state.seq
        self.check_events()
        if not st.is_over(state):
            self.check_lanes(before, may_exceed=may_exceed)
            self.check_parked()
            self.check_streams()
        assert state.questions >= 0
        assert self.finished <= 1
        for buffer in state.buffers.values():
            assert buffer.size == sum(map(len, buffer.items.values())) > 0

    def check_events(self) -> None:
        """No event is lost, and none is counted twice."""
        pending = Counter(type(envelope.event) for envelope in self.state.pending())
        for kind, tally in self.state.tallies.items():
            assert tally.sent == tally.consumed + tally.streamed + tally.dropped + pending[kind], kind
            assert tally.collected <= tally.sent, kind
        assert set(pending) <= set(self.state.tallies)
        assert all(len(box) <= st.HELD_PER_TYPE for box in self.state.held.values())

    def check_lanes(self, before: dict[str, int], *, may_exceed: bool) -> None:
        state = self.state
        assert state.queued == sum(len(lane.ready) for lane in state.lanes.values())
        for name, lane in state.lanes.items():
            here = [each for each in state.executions.values() if each.step == name]
            assert lane.in_use == sum(each.holds_slot for each in here) >= 0
            if not may_exceed:  # code that runs on after an abandoned wait is counted, even one over the limit
                assert lane.in_use <= max(lane.slots, before[name])
            assert {each.id for each in here if each.phase == "queued"} == set(lane.ready)
            assert list(lane.ready) == sorted(lane.ready), "not first come first served"
            assert self.begun[name] == sorted(self.begun[name]), "not started in the order sent"
            if lane.ready or lane.resuming:
                assert lane.in_use >= lane.slots, "a slot is free and something waits for it"
            for each in here:
                assert each.holds_slot == (each.phase == "running"), each
                assert (each.phase == "queued") == (each.id not in self.live), each

    def check_streams(self) -> None:
        """A list is open as long as something that follows from it is live."""
        state = self.state
        inside = Counter(each.scopes[-1] for each in state.executions.values() if each.scopes)
        inside += Counter(envelope.scopes[-1] for envelope in state.returned.values() if envelope.scopes)
        inside += Counter(stream.outer[-1] for stream in state.streams.values() if stream.outer)
        assert {number: stream.live for number, stream in state.streams.items()} == dict(inside)
        for stream in state.streams.values():
            assert not stream.fired & stream.members.keys()
        for (step, _), slots in state.slots.items():
            assert len(slots) == len(self.graph.joins[step])
            assert any(slots)
            assert not all(slots)

    def check_parked(self) -> None:
        state = self.state
        assert set(state.executions) >= self.live
        assert all(wait.execution in self.live for wait in state.waits.values())
        assert all(execution in self.live for execution in state.backoffs.values())
        timed = {wait.id for wait in state.waits.values() if wait.deadline is not None} | set(state.backoffs)
        assert self.timers == timed
        coming = {(execution, number) for lane in state.lanes.values() for execution, number, _ in lane.resuming}
        open_waits = {(wait.execution, wait.id) for wait in state.waits.values()}
        backing_off = {(execution, timer) for timer, execution in state.backoffs.items()}
        assert self.parked == open_waits | backing_off | {each for each in coming if each[0] in self.live}

    # --- what may happen

    def event(self, kind: type[Event], **fields: Any) -> Event:
        self.number += 1
        return kind(n=self.number, **fields)

    def tick(self) -> float:
        self.now += 1
        return self.now

    def abandonable(self) -> list[int]:
        return sorted(number for _, number in self.parked if number in self.waits)

    def forget(self, execution: int) -> None:
        self.parked = {each for each in self.parked if each[0] != execution}


def phases(run: Watched, *wanted: str) -> list[int]:
    return [each.id for each in run.state.executions.values() if each.phase in wanted]


def active(run: Watched) -> list[int]:
    """Executions whose code runs; beside a parked branch another may run."""
    return phases(run, "running", "parked")


Choose = Callable[[Any], Any]


def send(run: Watched, draw: Choose) -> None:
    source = draw(hyp.sampled_from([None, *active(run)]))
    kind = draw(hyp.sampled_from((*KINDS, Stop)))
    takers = run.graph.takers(kind)
    target = draw(hyp.sampled_from([None, *takers]))
    fields = {"waiter_id": draw(hyp.sampled_from([None, "w"]))} if kind is Reply else {}
    step = None if source is None else run.state.executions[source].step
    run.feed(st.Send(run.event(kind, **fields), run.tick(), source, step, target))


def complete(run: Watched, draw: Choose) -> None:
    execution = draw(hyp.sampled_from(active(run)))
    kinds = draw(hyp.lists(hyp.sampled_from((*KINDS, *KINDS, Stop)), max_size=3))
    listed = run.graph.has_joins and draw(hyp.booleans())
    run.live.discard(execution)
    run.forget(execution)
    events = [run.event(kind) for kind in kinds]
    run.feed(st.Complete(execution, events, run.tick(), stream=listed, silent=not kinds, held_back=run.stepwise))
    assert execution not in run.state.executions


def send_on(run: Watched, draw: Choose) -> None:
    number = draw(hyp.sampled_from(sorted(run.state.returned)))
    takers = run.graph.takers(type(run.state.returned[number].event))
    run.feed(st.SendOn(number, run.tick(), draw(hyp.sampled_from([None, *takers]))))


def discard(run: Watched, draw: Choose) -> None:
    numbers = draw(hyp.lists(hyp.sampled_from(sorted(run.state.returned)), unique=True))
    run.handed_out -= set(numbers)
    run.feed(st.Discard(numbers, run.tick()))


def recover(run: Watched, draw: Choose) -> None:
    execution = draw(hyp.sampled_from(active(run)))
    handlers = sorted(run.graph.single.keys() - {run.state.executions[execution].step})
    if not handlers:
        return
    handler = draw(hyp.sampled_from(handlers))
    run.live.discard(execution)
    run.forget(execution)
    before = run.state.executions[execution].recoveries
    run.feed(st.Recover(execution, handler, run.event(Failed), run.tick()))
    assert execution not in run.state.executions
    taken = max(run.state.executions.values(), key=lambda each: each.inputs[0].id if each.step == handler else 0)
    assert taken.inputs[0].source == execution
    assert taken.recoveries == (*before, handler)


def fail(run: Watched, draw: Choose) -> None:
    execution = draw(hyp.sampled_from(active(run)))
    delay = draw(hyp.sampled_from([0.0, 0.0, 2.5, None]))
    run.forget(execution)
    run.feed(st.AttemptFailed(execution, delay, run.tick()))
    if delay is None:
        run.feed(st.End("failed"))


def open_wait(run: Watched, draw: Choose) -> None:
    execution = draw(hyp.sampled_from(active(run)))
    held = Counter(type(envelope.event) for box in run.state.held.values() for envelope in box)
    asked = st.OpenWait(
        execution,
        f"wait:{run.number}",
        draw(hyp.sampled_from((A, B, Reply))),
        run.tick(),
        subclasses=draw(hyp.booleans()),
        waiter_id=draw(hyp.sampled_from([None, "w"])),
        requirements=draw(hyp.sampled_from([{}, {}, {"n": run.number - 1}, {"waiter_id": "w"}])),
        question=draw(hyp.sampled_from([None, run.event(Ask), run.event(C)])),
        timeout=draw(hyp.sampled_from([None, 5.0])),
    )
    run.feed(asked)
    answer = (run.state.executions[execution].memo or {}).get(asked.key)
    if answer is not None:
        assert held[type(answer)] > 0, "an early answer was held"
        assert run.state.seq not in run.state.waits


def abandon(run: Watched, draw: Choose) -> None:
    chosen = draw(hyp.sampled_from(run.abandonable()))
    run.parked = {each for each in run.parked if each[1] != chosen}
    run.feed(st.AbandonWait(chosen))


def fire(run: Watched, draw: Choose) -> None:
    timer = draw(hyp.sampled_from(sorted(run.timers)))
    run.timers.discard(timer)
    run.feed(st.Fire(timer, run.tick()))


def collect(run: Watched, draw: Choose) -> None:
    execution = draw(hyp.sampled_from(active(run)))
    live = run.state.executions[execution]
    own = draw(hyp.sampled_from((A, B)))
    event = draw(hyp.sampled_from([*(envelope.event for envelope in live.inputs), run.event(own)]))
    expected = draw(hyp.lists(hyp.sampled_from((A, B, C, Go)), min_size=1, max_size=4))
    run.feed(st.Collect(execution, f"collect:{run.number}", event, draw(hyp.sampled_from("xy")), expected))


def remember(run: Watched, draw: Choose) -> None:
    run.feed(st.Remember(draw(hyp.sampled_from(active(run))), f"once:{run.number}", run.number))


def stream(run: Watched, draw: Choose) -> None:
    run.feed(st.Streamed(draw(hyp.sampled_from([None, *active(run)])), run.event(draw(hyp.sampled_from(KINDS)))))


def stale(run: Watched, draw: Choose) -> None:
    """A timer or a wait that is long gone changes nothing."""
    before = picture(run.state)
    number = 10_000 + run.number
    assert run.feed(draw(hyp.sampled_from([st.Fire(number, run.now), st.AbandonWait(number)]))) == []
    assert picture(run.state) == before


def end(run: Watched, draw: Choose) -> None:
    run.feed(st.End(draw(hyp.sampled_from(["failed", "cancelled", "timed_out", "stalled"]))))


def moves(run: Watched) -> list[Callable[[Watched, Choose], None]]:
    found = [send, send, stream, stale]
    if active(run):
        found += [complete] * 4 + [fail, recover, open_wait, open_wait, collect, collect, remember]
    if run.abandonable():
        found.append(abandon)
    if run.state.returned:
        found += [send_on, send_on, discard]
    if run.timers:
        found += [fire, fire]
    return found


def explore(graph: Graph, slots: dict[str, int], draw: Choose) -> Watched:
    """Let a run have a random life; it may end in the midst of it."""
    run = Watched(graph, st.new_state("r", slots), stepwise=draw(hyp.sampled_from([False, False, True])))
    run.feed(st.Begin(run.event(Go), run.tick()))
    for _ in range(draw(hyp.integers(1, MAX_INPUTS))):
        if st.is_over(run.state):
            break
        draw(hyp.sampled_from(moves(run)))(run, draw)
    return run


slots_of_steps = hyp.fixed_dictionaries({name: hyp.integers(1, 3) for name in STEPS})


@settings(max_examples=200)
@given(graphs(), slots_of_steps, hyp.data())
def test_whatever_happens_nothing_is_lost_nothing_is_done_twice_and_slots_are_kept(
    graph: Graph, slots: dict[str, int], data: hyp.DataObject
) -> None:
    run = explore(graph, slots, data.draw)
    if not st.is_over(run.state):
        end(run, data.draw)
    assert list(run.state.pending()) == []
    assert run.timers == set()
    after = picture(run.state)
    assert run.feed(st.Send(A(), run.tick())) == []
    assert picture(run.state) == after


@settings(max_examples=100)
@given(graphs(), slots_of_steps, hyp.data())
def test_the_same_inputs_give_the_same_state_and_the_same_commands(graph: Graph, slots: dict[str, int], data: hyp.DataObject) -> None:
    run = explore(graph, slots, data.draw)
    again = st.new_state("r", slots)
    commands = [[type(command).__name__ for command in st.reduce(again, happened, graph)] for happened in run.inputs]
    assert commands == run.commands
    assert picture(again) == picture(run.state)


def shortcut(state: st.RunState, happened: st.Input, graph: Graph) -> list[st.Execution] | None:
    """Do what happened by its shortcut, if it has one; return what starts."""
    started: list[st.Execution] = []
    match happened:
        case st.Complete(events=[event], stream=False, held_back=False) if happened.execution in state.executions:
            done = state.executions[happened.execution]
            sent = st.complete(state, done, event, happened.at, happened.headers, happened.span_context, graph, started)
        case st.Complete(events=events, stream=True, held_back=False) if happened.execution in state.executions:
            done = state.executions[happened.execution]
            sent = st.fan_out(state, done, events, happened.at, happened.headers, happened.span_context, graph, started)
        case st.Complete(events=[], stream=False, held_back=False) if happened.execution in state.executions:
            done = state.executions[happened.execution]
            sent = st.end(state, done, happened.silent, happened.at, graph, started) or None
        case st.Send(target=None, source=int()) if happened.source in state.executions:
            source = state.executions[happened.source]
            sent = st.send(state, source, happened.event, happened.at, happened.headers, happened.span_context, graph, started)
        case _:
            return None
    return None if sent is None else started


def count_of(happened: st.Input) -> int:
    return len(happened.events) if isinstance(happened, st.Complete) else 1


def both_ways(graph: Graph, slots: dict[str, int], inputs: list[st.Input]) -> int:
    """Feed two states, one by shortcuts where there are some; they stay the same. Return how many there were."""
    long, short = st.new_state("r", slots), st.new_state("r", slots)
    taken = 0
    for happened in inputs:
        commands = st.reduce(long, happened, graph)
        before = picture(short)
        started = shortcut(short, happened, graph)
        if started is None:
            assert picture(short) == before, "a way that is not taken changes nothing"
            st.reduce(short, happened, graph)
        else:
            taken += 1
            assert [execution.id for execution in started] == [c.id for c in commands if isinstance(c, st.Execution)]
            assert [type(c) for c in commands if not isinstance(c, st.Execution)] == [st.Routed] * count_of(happened)
        assert picture(short) == picture(long)
    return taken


# Of the graphs above, few have a short way for most of what happens.
plain_graphs = hyp.just(Graph({step: (KINDS[number], *((Go,) if number == 0 else ())) for number, step in enumerate(STEPS)}))
list_graphs = hyp.sampled_from([None, 1, 2]).map(
    lambda take: Graph({"one": (Go, A, B), "two": (SubA,)}, lists={"three": ((C,), take)}, feeds={"one": ("three",), "two": ("three",)})
)


@settings(max_examples=150)
@given(hyp.one_of(graphs(), plain_graphs, list_graphs), slots_of_steps, hyp.data())
def test_a_shortcut_changes_the_state_as_the_long_way_does(graph: Graph, slots: dict[str, int], data: hyp.DataObject) -> None:
    both_ways(graph, slots, explore(graph, slots, data.draw).inputs)


def test_an_event_that_one_step_takes_goes_the_short_way() -> None:
    graph = Graph({STEPS[0]: (Go,), STEPS[1]: (A,)})
    inputs = [st.Begin(Go(), 1.0), st.Send(A(), 2.0, 2, STEPS[0]), st.Complete(2, [A()], 3.0)]  # execution 2 takes event 1
    assert both_ways(graph, dict.fromkeys(STEPS, 1), inputs) == 2


def test_a_list_goes_the_short_way_and_so_does_what_is_made_of_it() -> None:
    graph = Graph({STEPS[0]: (Go,), STEPS[1]: (A,)}, lists={STEPS[2]: ((B,), None)}, feeds={STEPS[0]: (STEPS[2],)})
    split = st.Complete(2, [A(), A()], 2.0, stream=True)  # opens stream 3 for events 4 and 6, which executions 5 and 7 take
    inputs = [st.Begin(Go(), 1.0), split, st.Complete(5, [B()], 3.0), st.Complete(7, [], 4.0, silent=True)]
    assert both_ways(graph, dict.fromkeys(STEPS, 2), inputs) == 3


def test_equal_sets_are_saved_alike_whatever_order_they_have() -> None:
    first, second = {0, 8}, {8, 0}
    assert list(first) != list(second)
    assert dump_input(st.Remember(1, "once", first), save) == dump_input(st.Remember(1, "once", second), save)


@settings(max_examples=100)
@given(graphs(), slots_of_steps, hyp.data())
def test_a_state_saved_anywhere_and_loaded_goes_on_as_if_nothing_had_happened(
    graph: Graph, slots: dict[str, int], data: hyp.DataObject
) -> None:
    run = explore(graph, slots, data.draw)
    cut = data.draw(hyp.integers(0, len(run.inputs)))
    state = st.new_state("r", slots)
    for happened in run.inputs[:cut]:
        st.reduce(state, happened, graph)
    state = saved_and_loaded(state)
    rest = [[type(command).__name__ for command in st.reduce(state, of_this_life(each, state), graph)] for each in run.inputs[cut:]]
    assert rest == run.commands[cut:]
    assert picture(state) == picture(run.state)


def of_this_life(happened: st.Input, state: st.RunState) -> st.Input:
    """Return an input about loaded events: a step that collects gives the very object that it was called with."""
    if isinstance(happened, st.Collect):
        own = {id_of(envelope.event): envelope.event for envelope in state.executions[happened.execution].inputs}
        return replace(happened, event=own.get(id_of(happened.event), happened.event))
    return happened


def id_of(event: Event) -> Any:
    return type(event), getattr(event, "n", None)


@settings(max_examples=100)
@given(graphs(), slots_of_steps, hyp.data())
def test_a_journal_of_the_inputs_gives_the_state_back(graph: Graph, slots: dict[str, int], data: hyp.DataObject) -> None:
    run = explore(graph, slots, data.draw)
    journal = json.loads(json.dumps([dump_input(happened, save) for happened in run.inputs]))
    state = st.new_state("r", slots)
    for entry in journal:
        st.reduce(state, of_this_life(load_input(entry, load, TYPES), state), graph)
    assert picture(state) == picture(run.state)


@settings(max_examples=100)
@given(graphs(), slots_of_steps, hyp.booleans(), hyp.data())
def test_a_run_that_goes_on_elsewhere_starts_again_what_was_live_and_loses_nothing(
    graph: Graph, slots: dict[str, int], suspended: bool, data: hyp.DataObject
) -> None:
    first = explore(graph, slots, data.draw)
    if st.is_over(first.state):
        return
    if suspended:
        assert st.reduce(first.state, st.End("suspended"), graph) == []
    live = {each.id: (each.memo, each.sends, each.retry_at) for each in first.state.executions.values()}
    run = Watched(graph, saved_and_loaded(first.state), now=first.now + data.draw(hyp.sampled_from([0.0, 100.0])), number=first.number)
    run.state.lanes = {name: st.Lane(slots=count) for name, count in slots.items()}
    run.timers, run.handed_out = set(first.timers), set(first.handed_out)
    run.formerly = set(first.ids)
    completed = ended_meanwhile(run, data.draw)
    before = run.state.seq
    out = st.reduce(run.state, st.Restart(run.now, completed), graph)
    later = {command.timer for command in out if isinstance(command, st.SetTimer)}
    for command in out:
        run.carry_out(command)
    if st.is_over(run.state):
        assert list(run.state.pending()) == []
        return
    run.timers = later  # those of the life before are gone
    for timer in later:  # a backoff that is not over: its attempt is still to come
        execution = run.state.backoffs[timer]
        run.live.add(execution)
        run.parked.add((execution, timer))
        retry_at = live[execution][2]
        assert retry_at is not None
        assert retry_at > run.now
    run.check(dict.fromkeys(STEPS, 0), may_exceed=False)
    assert run.state.status == "running"
    old = {each.id for each in run.state.executions.values() if each.id <= before}
    assert old == live.keys() - {each.execution for each in completed}
    for number in old:
        each = run.state.executions[number]
        assert (each.memo or {}).keys() >= (live[number][0] or {}).keys()
        assert (each.replayed, each.sends) == (live[number][1], 0)
    assert run.state.waits == {}
    assert run.state.returned == {}
    go_on(run, data.draw)


def ended_meanwhile(run: Watched, draw: Choose) -> list[st.Complete]:
    """Return the ends of executions that the saved state does not know yet, as a checkpoint has them."""
    running = phases(run, "running")
    ended = draw(hyp.lists(hyp.sampled_from(running), unique=True, max_size=3)) if running else []
    return [an_end(run, execution, draw) for execution in ended]


def an_end(run: Watched, execution: int, draw: Choose) -> st.Complete:
    kinds = draw(hyp.lists(hyp.sampled_from((*KINDS, Stop)), max_size=2))
    return st.Complete(execution, [run.event(kind) for kind in kinds], run.tick(), stream=run.graph.has_joins and draw(hyp.booleans()))


def go_on(run: Watched, draw: Choose) -> None:
    """Let a resumed run live on for a while, then end it."""
    for _ in range(draw(hyp.integers(0, 10))):
        if st.is_over(run.state):
            return
        draw(hyp.sampled_from(moves(run)))(run, draw)
    if not st.is_over(run.state):
        end(run, draw)
    assert list(run.state.pending()) == []


# --- one thing each


def begun(routes: dict[type[Event], tuple[str, ...]], slots: int = 1) -> Watched:
    single = {step: tuple(kind for kind, takers in {Go: ("one",), **routes}.items() if step in takers) for step in STEPS}
    run = Watched(Graph(single), st.new_state("r", dict.fromkeys(STEPS, slots)))
    run.feed(st.Begin(run.event(Go), run.tick()))
    return run


def the_one(run: Watched) -> st.Execution:
    return next(each for each in run.state.executions.values() if each.phase != "queued")


def test_what_stands_behind_the_stop_event_in_a_returned_list_is_dropped_and_not_lost() -> None:
    run = begun({A: ("two",)})
    run.live.clear()
    out = run.feed(st.Complete(the_one(run).id, [A(n=1), Stop(), A(n=2), B(n=3)], run.tick()))
    assert [type(command).__name__ for command in out[:3]] == ["Routed", "Execution", "Routed"]
    tallies = run.state.tallies
    assert (tallies[A].sent, tallies[A].consumed, tallies[A].dropped) == (2, 1, 1)
    assert (tallies[B].sent, tallies[B].dropped) == (1, 1)
    assert [drop.reason for drop in run.state.drops] == ["run_ended", "run_ended"]


def test_only_the_last_hundred_unclaimed_events_of_a_type_are_held() -> None:
    run = begun({})
    for _ in range(st.HELD_PER_TYPE + 3):
        run.feed(st.Send(run.event(A), run.tick()))
    assert len(run.state.held[A]) == st.HELD_PER_TYPE
    assert [drop.reason for drop in run.state.drops] == ["overflow"] * 3
    run.feed(st.OpenWait(the_one(run).id, "wait:1", A, run.tick()))
    assert the_one(run).memo["wait:1"].n == 5  # type: ignore[index]  # the oldest that is left


def test_an_event_without_a_taker_is_noticed_at_once_unless_something_waits_or_waited_for_its_type() -> None:
    run = begun({})
    (_, noticed) = run.feed(st.Send(run.event(A), run.tick()))
    assert isinstance(noticed, st.Dropped)
    assert not noticed.final
    run.feed(st.OpenWait(the_one(run).id, "wait:1", A, run.tick()))
    assert [type(command) for command in run.feed(st.Send(run.event(A), run.tick()))] == [st.Routed]


def test_a_wait_that_publishes_its_question_takes_no_answer_sent_before_it() -> None:
    run = begun({})
    run.feed(st.Send(run.event(Reply), run.tick()))
    run.feed(st.OpenWait(the_one(run).id, "wait:1", Reply, run.tick(), question=run.event(Ask)))
    assert len(run.state.waits) == 1
    assert run.state.questions == 1
    run.feed(st.Send(run.event(Reply), run.tick()))
    assert run.state.waits == {}
    assert run.state.questions == 0


def test_a_question_is_published_once_in_the_life_of_an_execution() -> None:
    run = begun({})
    execution = the_one(run).id
    first = run.feed(st.OpenWait(execution, "wait:1", Reply, run.tick(), question=run.event(Ask)))
    run.forget(execution)
    run.feed(st.AttemptFailed(execution, 0.0, run.tick()))
    second = run.feed(st.OpenWait(execution, "wait:1", Reply, run.tick(), question=run.event(Ask)))
    assert [type(command) for command in first] == [st.Publish]
    assert second == []


def test_one_event_answers_one_wait_the_oldest_first() -> None:
    run = begun({A: ("two",)}, slots=2)
    run.feed(st.Send(run.event(A), run.tick()))
    one, two = run.state.executions
    run.feed(st.OpenWait(two, "wait:1", B, run.tick()))
    run.feed(st.OpenWait(one, "wait:1", B, run.tick()))
    (_, resumed) = run.feed(st.Send(run.event(B), run.tick()))
    assert isinstance(resumed, st.Resume)
    assert resumed.execution == two
    assert len(run.state.waits) == 1


def test_a_step_that_goes_on_after_an_answer_goes_before_those_that_never_started() -> None:
    run = begun({A: ("two",)})
    run.feed(st.Send(run.event(A), run.tick()))
    first = max(run.live)
    run.feed(st.OpenWait(first, "wait:1", B, run.tick()))
    run.feed(st.Send(run.event(A), run.tick()))  # takes the slot
    second = max(run.live)
    run.feed(st.Send(run.event(A), run.tick()))  # queues
    run.feed(st.Send(run.event(B), run.tick()))  # answers, and there is no slot
    assert run.state.executions[first].phase == "parked"
    run.live.discard(second)
    out = run.feed(st.Complete(second, [], run.tick(), silent=True))
    assert [type(command) for command in out] == [st.Resume]
    assert run.state.silent == {"two": 1}


def test_an_attempt_that_fails_beside_a_parked_branch_keeps_a_slot_for_the_next_one() -> None:
    run = begun({})
    execution = the_one(run)
    run.feed(st.OpenWait(execution.id, "wait:1", A, run.tick(), timeout=5.0))
    run.forget(execution.id)
    run.feed(st.AttemptFailed(execution.id, 0.0, run.tick()))
    assert execution.holds_slot
    assert run.state.waits == {}
    assert run.timers == set()


def test_a_wait_that_is_given_up_while_it_waits_for_a_slot_does_not_resume_later() -> None:
    run = begun({A: ("two",)})
    run.feed(st.Send(run.event(A), run.tick()))
    first = max(run.live)
    run.feed(st.OpenWait(first, "wait:1", B, run.tick()))
    wait = run.state.seq
    run.feed(st.Send(run.event(A), run.tick()))
    second = max(run.live)
    run.feed(st.Send(run.event(B), run.tick()))  # answered, but the slot is taken
    run.forget(first)
    run.feed(st.AbandonWait(wait))
    assert run.state.lanes["two"].in_use == 2  # one over the limit: its code runs on
    run.live.discard(second)
    assert run.feed(st.Complete(second, [], run.tick())) == []


def test_a_join_gives_full_sets_in_the_expected_order_and_keeps_the_rest() -> None:
    run = begun({A: ("two",), B: ("two",)}, slots=9)
    sent = [run.event(kind) for kind in (A, A, B, A, B)]
    for event in sent:
        run.feed(st.Send(event, run.tick()))
    answers = []
    for execution in list(run.state.executions.values())[1:]:
        run.feed(st.Collect(execution.id, "collect:1", execution.inputs[0].event, "default", [B, A]))
        answers.append((execution.memo or {})["collect:1"])
    assert answers == [None, None, [sent[2], sent[0]], None, [sent[4], sent[1]]]
    assert run.state.buffers["two", "default"].size == 1
    assert run.state.tallies[A].collected == 2


def test_one_event_in_two_joins_counts_as_collected_once() -> None:
    run = begun({A: ("two",)})
    run.feed(st.Send(run.event(A), run.tick()))
    execution = list(run.state.executions.values())[1]
    for buffer in "xy":
        run.feed(st.Collect(execution.id, f"collect:{buffer}", execution.inputs[0].event, buffer, [A]))
    assert run.state.tallies[A].collected == 1


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled", "timed_out", "stalled"])
def test_a_run_that_is_over_is_not_restarted(status: st.Status) -> None:
    run = begun({})
    st.reduce(run.state, st.End(status), run.graph)
    assert st.reduce(run.state, st.Restart(2000.0), run.graph) == []
    assert run.state.status == status


def test_a_backoff_goes_on_after_a_resume_with_what_is_left_of_it() -> None:
    run = begun({})
    execution = the_one(run).id
    run.feed(st.AttemptFailed(execution, 60.0, 1000.0))
    state = saved_and_loaded(run.state)
    (timer,) = st.reduce(state, st.Restart(1045.0), run.graph)
    assert isinstance(timer, st.SetTimer)
    assert timer.delay == 15
    assert state.executions[execution].phase == "backoff"
    (resumed,) = st.reduce(state, st.Fire(timer.timer, 1060.0), run.graph)
    assert isinstance(resumed, st.Resume)
    assert state.executions[execution].retry_at is None


def test_a_backoff_that_is_over_by_the_resume_starts_again_at_once() -> None:
    run = begun({})
    run.feed(st.AttemptFailed(the_one(run).id, 60.0, 1000.0))
    state = saved_and_loaded(run.state)
    assert [type(command) for command in st.reduce(state, st.Restart(1060.0), run.graph)] == [st.Execution]


def test_a_run_that_was_suspended_and_then_saved_goes_on() -> None:
    run = begun({})
    st.reduce(run.state, st.End("suspended"), run.graph)
    state = saved_and_loaded(run.state)
    assert [type(command) for command in st.reduce(state, st.Restart(2000.0), run.graph)] == [st.Execution]
    assert state.status == "running"


def test_an_answer_sent_early_and_named_by_the_wait_settles_its_question() -> None:
    run = begun({})
    run.feed(st.Send(run.event(Reply, waiter_id="w"), run.tick()))
    asked = st.OpenWait(the_one(run).id, "wait:1", Reply, run.tick(), waiter_id="w", question=run.event(Ask))
    assert [type(command) for command in run.feed(asked)] == [st.Publish]
    assert run.state.waits == {}
    assert run.state.questions == 0


def test_what_a_list_leads_to_is_fed_even_where_the_graph_did_not_expect_it() -> None:
    run = Watched(Graph({"one": (Go,)}, lists={"two": ((A,), None)}, feeds={}), st.new_state("r", dict.fromkeys(STEPS, 1)))
    run.feed(st.Begin(run.event(Go), run.tick()))
    execution = the_one(run).id
    run.live.discard(execution)
    run.feed(st.Complete(execution, [run.event(A), run.event(A)], run.tick(), stream=True))
    fed = the_one(run)
    assert (fed.step, len(fed.inputs)) == ("two", 2)
    assert run.state.streams == {}


def test_a_step_that_takes_the_first_of_a_list_starts_once_and_the_rest_is_not_needed() -> None:
    graph = Graph({"one": (Go,)}, lists={"two": ((A,), 1)}, feeds={"one": ("two",)})
    run = Watched(graph, st.new_state("r", dict.fromkeys(STEPS, 9)))
    run.feed(st.Begin(run.event(Go), run.tick()))
    execution = the_one(run).id
    run.live.discard(execution)
    run.feed(st.Complete(execution, [run.event(A) for _ in range(3)], run.tick(), stream=True))
    assert [each.step for each in run.state.executions.values()] == ["two"]
    assert [drop.reason for drop in run.state.drops] == ["not_needed"] * 2


def test_what_is_written_to_the_stream_is_published_and_counts_as_a_send_of_its_step() -> None:
    run = begun({})
    execution = the_one(run)
    (published,) = run.feed(st.Streamed(execution.id, run.event(Ask)))
    assert isinstance(published, st.Publish)
    assert published.execution == execution.id
    assert execution.sends == 1
    assert run.state.questions == 1


def test_of_what_is_not_needed_everything_is_told() -> None:
    graph = Graph({"one": (Go,)}, lists={"two": ((A,), 1)}, feeds={"one": ("two",)})
    run = Watched(graph, st.new_state("r", dict.fromkeys(STEPS, 9)))
    run.feed(st.Begin(run.event(Go), run.tick()))
    execution = the_one(run).id
    run.live.discard(execution)
    out = run.feed(st.Complete(execution, [run.event(A), run.event(A)], run.tick(), stream=True))
    (told,) = [command for command in out if isinstance(command, st.Dropped)]
    late = [command.envelope for command in out if isinstance(command, st.Routed)][1]
    assert told.final
    assert told.drop == run.state.drops[0]
    drop = told.drop
    assert (drop.id, drop.event_type, drop.reason, drop.near_miss) == (late.id, A, "not_needed", None)
    assert (drop.source, drop.source_step) == (execution, "one")
    assert late.taken  # it has its fate
    assert run.state.tallies[A].dropped == 1


def held_back(run: Watched) -> st.Envelope:
    """Complete what runs, as in a stepwise run: what it returned is in its caller's hands."""
    execution = the_one(run).id
    run.live.discard(execution)
    (returned,) = run.feed(st.Complete(execution, [run.event(A)], run.tick(), stream=run.graph.has_joins, held_back=True))
    assert isinstance(returned, st.Returned)
    assert run.state.returned == {returned.envelope.id: returned.envelope}
    return returned.envelope


def test_what_a_caller_sends_on_goes_to_who_takes_it_or_to_the_one_step_named() -> None:
    for target, takers in ((None, ("two", "three")), ("three", ("three",))):
        run = begun({A: ("two", "three")})
        envelope = held_back(run)
        out = run.feed(st.SendOn(envelope.id, run.tick(), target))
        assert [command.to for command in out if isinstance(command, st.Routed)] == [takers]
        assert {each.step for each in run.state.executions.values()} == set(takers)
        assert run.state.returned == {}


def test_a_list_that_closes_when_its_last_member_is_sent_on_starts_its_step_at_that_time() -> None:
    graph = Graph({"one": (Go,)}, lists={"two": ((A,), None)}, feeds={"one": ("two",)})
    run = Watched(graph, st.new_state("r", dict.fromkeys(STEPS, 9)))
    run.feed(st.Begin(run.event(Go), run.tick()))
    envelope = held_back(run)
    at = run.tick() + 50
    run.feed(st.SendOn(envelope.id, at))
    assert (the_one(run).step, the_one(run).ready_at) == ("two", at)


def test_what_a_caller_had_in_hand_is_sent_on_when_the_run_goes_on_elsewhere() -> None:
    run = begun({A: ("two",)})
    held_back(run)
    state = saved_and_loaded(run.state)
    out = st.reduce(state, st.Restart(5000.0), run.graph)
    assert not any(isinstance(command, st.Returned) for command in out)
    (execution,) = state.executions.values()
    assert (execution.step, execution.ready_at, execution.inputs[0].at) == ("two", 5000.0, 5000.0)


def test_a_saved_end_that_would_go_through_a_callers_hands_takes_effect_at_once() -> None:
    run = begun({A: ("two",)})
    completed = st.Complete(the_one(run).id, [A(n=9)], run.tick(), held_back=True)
    state = saved_and_loaded(run.state)
    out = st.reduce(state, st.Restart(5000.0, [completed]), run.graph)
    assert [type(command) for command in out] == [st.Routed, st.Execution]
    assert state.returned == {}


def test_a_failure_that_is_handled_says_where_it_came_from_and_carries_its_trace() -> None:
    run = begun({Failed: ("two",)})
    execution = the_one(run).id
    run.forget(execution)
    run.live.discard(execution)
    at = run.tick()
    out = run.feed(st.Recover(execution, "two", Failed(n=9), at, {"traceparent": "00"}, "span"))
    (sent,) = [command.envelope for command in out if isinstance(command, st.Routed)]
    assert (sent.at, sent.source, sent.source_step) == (at, execution, "one")
    assert (sent.headers, sent.span_context) == ({"traceparent": "00"}, "span")
    assert sent.recoveries == ("two",)


def test_what_was_sent_in_every_life_before_is_not_repeated_and_waiting_begins_anew() -> None:
    run = begun({B: ("two",)})
    state = run.state
    for life, at in ((1, 3000.0), (2, 4000.0)):
        execution = next(iter(state.executions.values()))
        st.reduce(state, st.Send(A(n=life), at - 1, execution.id, "one"), run.graph)
        state = saved_and_loaded(state)
        st.reduce(state, st.Restart(at), run.graph)
        execution = next(iter(state.executions.values()))
        assert (execution.replayed, execution.sends, execution.ready_at, execution.retry_at) == (life, 0, at, None)


def test_a_question_that_a_step_takes_is_streamed_too_and_counts_as_consumed() -> None:
    run = begun({Ask: ("two",)})
    out = run.feed(st.Send(run.event(Ask), run.tick()))
    assert [type(command) for command in out] == [st.Routed, st.Execution, st.Publish]
    assert run.state.questions == 1
    tally = run.state.tallies[Ask]
    assert (tally.sent, tally.consumed, tally.streamed) == (1, 1, 0)


def test_what_a_wait_publishes_is_a_question_only_if_it_asks_a_human() -> None:
    run = begun({})
    (published,) = run.feed(st.OpenWait(the_one(run).id, "wait:1", A, run.tick(), question=run.event(B)))
    assert isinstance(published, st.Publish)
    assert run.state.questions == 0


@pytest.mark.parametrize("timeout", [None, 5.0])
def test_a_wait_that_is_given_up_frees_its_timer_if_it_has_one(timeout: float | None) -> None:
    run = begun({})
    run.feed(st.OpenWait(the_one(run).id, "wait:1", A, run.tick(), timeout=timeout))
    wait = run.state.seq
    run.forget(the_one(run).id)
    out = run.feed(st.AbandonWait(wait))
    assert [command.timer for command in out if isinstance(command, st.CancelTimer)] == ([] if timeout is None else [wait])
    assert the_one(run).phase == "running"


def test_a_step_that_fails_while_a_branch_of_it_is_parked_gives_back_no_slot_that_it_has_not() -> None:
    run = begun({Failed: ("two",)})
    execution = the_one(run).id
    run.feed(st.OpenWait(execution, "wait:1", A, run.tick()))
    assert run.state.lanes["one"].in_use == 0
    run.forget(execution)
    run.live.discard(execution)
    run.feed(st.Recover(execution, "two", run.event(Failed), run.tick()))
    assert run.state.lanes["one"].in_use == 0
    assert run.state.waits == {}


def test_a_timer_that_nobody_waits_for_changes_nothing() -> None:
    run = begun({})
    before = picture(run.state)
    assert st.reduce(run.state, st.Fire(99, run.tick()), run.graph) == []
    assert picture(run.state) == before


def test_an_event_knows_who_sent_it_and_carries_the_trace_of_its_sender() -> None:
    run = begun({A: ("two",), B: ("three",)})
    execution = the_one(run).id
    trace = {"traceparent": "00"}
    sent = run.feed(st.Send(run.event(A), run.tick(), execution, "one", None, trace, "span of the sender"))
    run.live.discard(execution)
    returned = run.feed(st.Complete(execution, [run.event(B)], run.tick(), trace, "span of the step"))
    for out, span in ((sent, "span of the sender"), (returned, "span of the step")):
        (envelope,) = [command.envelope for command in out if isinstance(command, st.Routed)]
        assert (envelope.source, envelope.source_step, envelope.headers, envelope.span_context) == (execution, "one", trace, span)


def test_of_several_that_wait_for_a_slot_only_the_one_that_gives_up_is_taken_out() -> None:
    run = begun({A: ("two",)}, slots=2)
    run.feed(st.Send(run.event(A), run.tick()))
    run.feed(st.Send(run.event(A), run.tick()))
    first, second = sorted(run.live)[-2:]
    waits: list[int] = []
    for execution in (first, second):
        run.feed(st.OpenWait(execution, "wait:1", B, run.tick()))
        waits.append(run.state.seq)
    for _ in range(2):
        run.feed(st.Send(run.event(A), run.tick()))  # take the slots
    third = max(run.live)
    for _ in range(2):
        run.feed(st.Send(run.event(B), run.tick()))  # answer both
    run.forget(second)
    run.feed(st.AbandonWait(waits[1]))
    run.live.discard(second)
    run.feed(st.Complete(second, [], run.tick()))
    run.live.discard(third)
    out = run.feed(st.Complete(third, [], run.tick()))
    assert [(type(command), command.execution) for command in out if isinstance(command, st.Resume)] == [(st.Resume, first)]


def test_the_short_ways_leave_nothing_out_of_an_event() -> None:
    run = begun({A: ("two",), B: ("three",)})
    execution = the_one(run)
    trace = {"traceparent": "00"}
    starts: deque[st.Execution] = deque()
    sent = st.send(run.state, execution, A(n=1), 1500.0, trace, "span", run.graph, starts)
    returned = st.complete(run.state, execution, B(n=2), 1501.0, trace, "span", run.graph, starts)
    for envelope, at, number in ((sent, 1500.0, 1), (returned, 1501.0, 2)):
        assert envelope is not None
        assert (envelope.event.n, envelope.at, envelope.source, envelope.source_step) == (number, at, execution.id, "one")  # type: ignore[attr-defined]
        assert (envelope.headers, envelope.span_context) == (trace, "span")
    assert [each.step for each in starts] == ["two", "three"]
    assert st.complete(run.state, starts[0], C(), 1502.0, None, None, run.graph, starts) is None  # nobody takes it: that is not simple
    assert starts[0].id in run.state.executions
