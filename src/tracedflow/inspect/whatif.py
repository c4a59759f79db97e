"""What a run would have taken with other numbers of workers: its recorded durations, on the scheduler's own rules.

The slots are those of the engine: executions are admitted, parked and woken by the functions that the reducer calls.
What a step did, how long it ran, waited and backed off, and when in that time it sent each event, is as it was recorded.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .._engine import _state as st
from ..errors import WorkflowRuntimeError
from ..records import AttemptRecord
from .executions import Execution, executions_of

_UNBOUNDED = 1_000_000


@dataclass(slots=True)
class _Plan:
    """An execution as the simulation plays it."""

    execution: Execution
    stages: list[tuple[bool, float]] = field(default_factory=list[tuple[bool, float]])  # (holds a slot, seconds)
    sends: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])  # (seconds of its own time, receiver)
    lacks: int = 0  # events that it has not got yet
    latest: float = 0.0  # when the last of them arrives
    stage: int = 0
    own_time: float = 0.0


def what_if(records: Sequence[AttemptRecord], workers: Mapping[str, int], current: Mapping[str, int] | None = None) -> float:
    """Return an estimate of the seconds that a run would have taken with `workers` for these steps.

    The other steps have what `current` says, or else as many as ran at once at most.

    Raises:
        WorkflowRuntimeError: a step is not in the records, or has no positive number of workers.
    """
    known = {number: each for number, each in executions_of(records).items() if each.outcome != "cancelled"}  # cut off by the run's end
    steps = {each.step for each in known.values()}
    for step, count in workers.items():
        if step not in steps:
            raise WorkflowRuntimeError(f"step `{step}` is not in this run; it has {', '.join(f'`{name}`' for name in sorted(steps))}")
        if count < 1:
            raise WorkflowRuntimeError(f"step `{step}` cannot have {count} workers")
    slots = {step: workers.get(step) or (current or {}).get(step) or _most_at_once(known, step) for step in steps}
    return _Simulation(known, slots).run()


def slots_seen(records: Sequence[AttemptRecord]) -> dict[str, int]:
    """Return how many executions of each step held a slot at once at most: a lower bound of its `num_workers`."""
    known = executions_of(records)
    return {step: _most_at_once(known, step) for step in dict.fromkeys(each.step for each in known.values())}


class _Simulation:
    """Discrete events: an execution gets its events, starts when there is a slot, goes through its stages."""

    def __init__(self, known: Mapping[int, Execution], slots: Mapping[str, int]) -> None:
        self._start = min((each.ready_at for each in known.values()), default=0.0)
        self._plans = {number: _plan(execution) for number, execution in known.items()}
        self._state = st.new_state("what-if", slots)
        self._live: dict[int, int] = {}  # number in the simulation -> in the records
        self._queue: list[tuple[float, int, int, str]] = []  # (when, order, execution, what)
        self._order = 0
        self._now = 0.0
        _connect(known, self._plans)

    def run(self) -> float:
        """Play it; return when the last execution ends."""
        for number, plan in self._plans.items():
            if not plan.lacks:
                self._at(plan.execution.ready_at - self._start, number, "ready")
        while self._queue:
            self._now, _, number, what = heapq.heappop(self._queue)
            if what == "ready":
                self._admit(number)
            else:
                self._stage_over(number)
        return self._now

    def _at(self, when: float, number: int, what: str) -> None:
        self._order += 1
        heapq.heappush(self._queue, (when, self._order, number, what))

    def _admit(self, number: int) -> None:
        out: list[st.Command] = []
        plan = self._plans[number]
        made = st.admit(self._state, plan.execution.step, (), self._now, (), out)
        self._live[made.id] = number
        self._carry_out(out)

    def _carry_out(self, out: Sequence[st.Command]) -> None:
        for command in out:
            if isinstance(command, st.Execution):
                self._begin_stage(command.id)
            elif isinstance(command, st.Resume):
                self._begin_stage(command.execution)

    def _begin_stage(self, live: int) -> None:
        plan = self._plans[self._live[live]]
        _, seconds = plan.stages[plan.stage]
        for after, receiver in plan.sends:
            last = plan.stage == len(plan.stages) - 1
            if plan.own_time <= after and (after < plan.own_time + seconds or last):
                self._give(receiver, self._now + min(max(0.0, after - plan.own_time), seconds))
        self._at(self._now + seconds, live, "stage over")

    def _give(self, receiver: int, when: float) -> None:
        plan = self._plans[receiver]
        plan.lacks -= 1
        plan.latest = max(plan.latest, when)  # given in the order of sending, which is not that of arrival
        if plan.lacks <= 0:
            self._at(plan.latest, receiver, "ready")

    def _stage_over(self, live: int) -> None:
        plan = self._plans[self._live[live]]
        plan.own_time += plan.stages[plan.stage][1]
        plan.stage += 1
        execution = self._state.executions[live]
        out: list[st.Command] = []
        if plan.stage == len(plan.stages):
            del self._state.executions[live]
            lane = self._state.lanes[execution.step]
            lane.in_use -= 1
            st.pump(self._state, lane, out)
        elif plan.stages[plan.stage][0]:
            st.wake(self._state, execution, 0, None, self._now, out)
        else:
            st.park(self._state, execution, "parked", out)
            self._at(self._now + plan.stages[plan.stage][1], live, "stage over")
        self._carry_out(out)


def _plan(execution: Execution) -> _Plan:
    """Return the stages: time with a slot, time parked, in turn. Time in the queue is what the simulation finds."""
    plan = _Plan(execution)
    for part, begin, end in execution.stretches():
        if part == "queued" or end <= begin:
            continue
        holds = part in ("running", "blocked")
        if plan.stages and plan.stages[-1][0] == holds:
            plan.stages[-1] = (holds, plan.stages[-1][1] + end - begin)
        else:
            plan.stages.append((holds, end - begin))
    if not plan.stages or not plan.stages[0][0]:
        plan.stages.insert(0, (True, 0.0))
    if not plan.stages[-1][0]:
        plan.stages.append((True, 0.0))
    return plan


def _own_time(execution: Execution, at: float) -> float:
    """Return how much of its own time, the queue left out, an execution had had at a moment."""
    return sum(max(0.0, min(end, at) - begin) for part, begin, end in execution.stretches() if part != "queued")


def _connect(known: Mapping[int, Execution], plans: Mapping[int, _Plan]) -> None:
    """Say who sends what to whom, and how far it was then. A join's result needs every member, in whatever order they come."""
    groups: dict[str, list[int]] = {}
    for number, execution in known.items():
        senders = dict.fromkeys(cause for cause in execution.causes if cause in known)
        trigger = execution.triggered_by(known)
        if trigger is not None:
            senders[trigger.number] = None
        for sender in senders:
            _link(known[sender], execution, plans)
        group = groups.setdefault(execution.step, [])
        if execution.outcome == "collecting":
            group.append(number)
    for execution in known.values():
        members = [number for number in groups.get(execution.step, ()) if known[number].ready_at <= execution.ready_at]
        if execution.outcome == "collecting" or not members:
            continue
        for number in members:
            groups[execution.step].remove(number)
        for receiver in [receiver for _, receiver in plans[execution.number].sends]:
            for number in members:
                plans[number].sends.append((_own_time(known[number], known[number].ended_at), receiver))
                plans[receiver].lacks += 1


def _link(sender: Execution, receiver: Execution, plans: Mapping[int, _Plan]) -> None:
    plans[sender.number].sends.append((_own_time(sender, receiver.ready_at), receiver.number))
    plans[receiver.number].lacks += 1


def _most_at_once(known: Mapping[int, Execution], step: str) -> int:
    marks: list[tuple[float, int]] = []
    for execution in known.values():
        if execution.step == step:
            for part, begin, end in execution.stretches():
                if part in ("running", "blocked") and end > begin:
                    marks += [(begin, 1), (end, -1)]
    most = live = 0
    for _, change in sorted(marks):
        live += change
        most = max(most, live)
    return max(1, min(most, _UNBOUNDED))
