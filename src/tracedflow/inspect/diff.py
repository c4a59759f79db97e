"""Two runs side by side: aligned by what caused what, so that order in time does not matter, and the first step at which they part.

An execution is known by its causal position: its step, behind those of the executions that sent its inputs, and its
place among its like.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from ..records import AttemptRecord
from .durations import short
from .executions import Execution, executions_of

Kind: TypeAlias = Literal["missing", "extra", "outcome", "attempts", "events"]
"""`missing`: only the first run has it. `extra`: only the second. The others: both have it, and it went otherwise."""

_MOST = 20  # lines


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """One execution that differs. `path` are the steps that led to it, itself last."""

    kind: Kind
    path: tuple[str, ...]
    first: str  # what it was in the first run
    second: str

    def __str__(self) -> str:
        where = " > ".join(self.path)
        match self.kind:
            case "missing":
                return f"{where}: only in the first run ({self.first})"
            case "extra":
                return f"{where}: only in the second run ({self.second})"
            case _:
                return f"{where}: {self.kind} {self.first}, then {self.second}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDiff:
    """How two runs differ: in the order of the first run's causes. `slower` are (step, seconds, seconds) of both runs."""

    divergences: tuple[Divergence, ...] = ()
    slower: tuple[tuple[str, float, float], ...] = field(default=())

    @property
    def first(self) -> Divergence | None:
        """Where they part; None: they went the same way."""
        return self.divergences[0] if self.divergences else None

    def __str__(self) -> str:
        if self.first is None:
            lines = ["The runs went the same way."]
        else:
            more = self.divergences[1:]
            lines = [f"They part at {self.first}", *(f"  then {each}" for each in more[:_MOST])]
            if len(more) > _MOST:
                lines.append(f"  and at {len(more) - _MOST} more")
        lines += [f"{step}: {short(before)} in all, then {short(after)}" for step, before, after in self.slower[:_MOST]]
        return "\n".join(lines)


@dataclass(slots=True)
class _Node:
    """An execution at its causal position."""

    execution: Execution
    path: tuple[str, ...]
    children: list[_Node] = field(default_factory=list["_Node"])


def compare(first: Sequence[AttemptRecord], second: Sequence[AttemptRecord]) -> RunDiff:
    """Compare the records of two runs, usually of one workflow: a good one and a bad one."""
    found: list[Divergence] = []
    _compare(_roots(first), _roots(second), found)
    return RunDiff(divergences=tuple(found), slower=tuple(_times(first, second)))


def _roots(records: Sequence[AttemptRecord]) -> list[_Node]:
    """Return the executions that came from outside, each with what followed from it."""
    nodes: dict[int, _Node] = {}
    roots: list[_Node] = []
    known = executions_of(records)
    for number, execution in known.items():
        trigger = execution.triggered_by(known)
        parent = nodes.get(trigger.number) if trigger is not None else None
        node = nodes[number] = _Node(execution, (*(parent.path if parent else ()), execution.step))
        (parent.children if parent else roots).append(node)
    return roots


def _compare(first: Sequence[_Node], second: Sequence[_Node], found: list[Divergence]) -> None:
    """Walk both by step and place among the like, breadth first: the earliest difference comes first."""
    ones, others = list(first), list(second)
    while ones or others:
        pairs = list(_aligned(ones, others))
        for one, other in pairs:
            found.extend(_differences(one, other))
        ones = [child for one, other in pairs if one is not None and other is not None for child in one.children]
        others = [child for one, other in pairs if one is not None and other is not None for child in other.children]


def _aligned(first: Sequence[_Node], second: Sequence[_Node]) -> list[tuple[_Node | None, _Node | None]]:
    rest: dict[tuple[str, ...], list[_Node]] = {}
    for node in second:
        rest.setdefault(node.path, []).append(node)
    pairs: list[tuple[_Node | None, _Node | None]] = []
    for node in first:
        like = rest.get(node.path, [])
        same = next((other for other in like if _shape(other) == _shape(node)), like[0] if like else None)
        if same is not None:
            like.remove(same)
        pairs.append((node, same))
    return [*pairs, *((None, node) for left in rest.values() for node in left)]


def _shape(node: _Node) -> tuple[object, ...]:
    execution = node.execution
    return execution.outcome, len(execution.attempts), _emitted(execution)


def _emitted(execution: Execution) -> tuple[str, ...]:
    return tuple(sorted(kind for _, kind in execution.attempts[-1].events_out))


def _differences(one: _Node | None, other: _Node | None) -> list[Divergence]:
    if one is None or other is None:
        node = one or other
        assert node is not None
        text = _told(node.execution)
        kind: Kind = "missing" if other is None else "extra"
        return [Divergence(kind=kind, path=node.path, first=text if one else "", second=text if other else "")]
    facts: list[tuple[Kind, str, str]] = [
        ("outcome", _outcome(one.execution), _outcome(other.execution)),
        ("attempts", str(len(one.execution.attempts)), str(len(other.execution.attempts))),
        ("events", _listed(one.execution), _listed(other.execution)),
    ]
    return [Divergence(kind=kind, path=one.path, first=before, second=after) for kind, before, after in facts if before != after][:1]


def _told(execution: Execution) -> str:
    return f"{_outcome(execution)}, sent {_listed(execution)}"


def _outcome(execution: Execution) -> str:
    error = execution.attempts[-1].error
    return f"{execution.outcome} ({error})" if error else execution.outcome


def _listed(execution: Execution) -> str:
    counts = Counter(_emitted(execution))
    return ", ".join(kind if count == 1 else f"{kind} ×{count}" for kind, count in counts.items()) or "nothing"


def _times(first: Sequence[AttemptRecord], second: Sequence[AttemptRecord]) -> list[tuple[str, float, float]]:
    """Return the steps whose running time changed by a tenth and a millisecond at least, the greatest change first."""
    before, after = _running(first), _running(second)
    changed = [(step, before.get(step, 0.0), after.get(step, 0.0)) for step in {**before, **after}]
    changed = [each for each in changed if abs(each[2] - each[1]) > max(0.001, 0.1 * each[1])]
    return sorted(changed, key=lambda each: -abs(each[2] - each[1]))


def _running(records: Sequence[AttemptRecord]) -> dict[str, float]:
    found: dict[str, float] = {}
    for record in records:
        found[record.step] = found.get(record.step, 0.0) + record.running
    return found
