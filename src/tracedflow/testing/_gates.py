"""`assert_run`: gates over the records of a run, which show the waterfall when they fail."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from ..inspect.critical import critical_path
from ..inspect.durations import short
from ..inspect.waterfall import waterfall
from ..records import AttemptRecord, RunReport

_TOLERANCE = 0.001  # seconds, of `exactly`: Unix seconds in a float are not exact
_ROWS = 20  # of a waterfall
_NAMED = 5  # executions in one message


class Recorded(Protocol):
    """What `assert_run` reads: a handler, or what `run_step` gave."""

    @property
    def record(self) -> Sequence[AttemptRecord]:
        """The records of the attempts."""
        ...

    def why(self) -> RunReport:
        """Tell what became of the run."""
        ...


@dataclass(slots=True)
class _Execution:
    """One step execution, from its records."""

    step: str
    number: int
    attempts: list[AttemptRecord]

    @property
    def began(self) -> float:
        return self.attempts[0].started_at

    @property
    def ended(self) -> float:
        return self.attempts[-1].ended_at

    @property
    def seconds(self) -> float:
        return self.ended - self.attempts[0].enqueued_at

    @property
    def tries(self) -> int:
        return self.attempts[-1].attempt


def assert_run(run: Recorded | Sequence[AttemptRecord]) -> RunGates:
    """Return gates for a run, live or over: each method checks one thing, returns the gates again, or fails with the waterfall.

        assert_run(handler).completed().order("fetch", "parse").parallel("parse", at_least=3).no_retries()

    Args:
        run: a handler, what `run_step` gave, or the records of one run.
    """
    return RunGates(run, None) if isinstance(run, Sequence) else RunGates(run.record, run.why())


class RunGates:
    """What can be asserted of one run. A name of a step that has not run fails where it must have."""

    def __init__(self, records: Iterable[AttemptRecord], report: RunReport | None) -> None:
        self._records = sorted(records, key=lambda record: (record.started_at, record.execution, record.attempt))
        self._report = report
        found: dict[int, _Execution] = {}
        for record in self._records:
            found.setdefault(record.execution, _Execution(record.step, record.execution, [])).attempts.append(record)
        self._executions = list(found.values())

    # --- what ran ---

    def ended(self, state: str) -> Self:
        """The run's state is this: running, completed, failed, cancelled, timed out, stalled or suspended. Not for bare records."""
        __tracebackhide__ = True
        if self._report is None:
            raise TypeError("records do not tell how their run ended: give assert_run the handler")
        return self._check(self._report.state == state, f"the run to be {state}", f"it is {self._report.state}")

    def completed(self) -> Self:
        """The run ended with a StopEvent."""
        __tracebackhide__ = True
        return self.ended("completed")

    def ran(self, step: str, times: int | None = None, *, at_least: int = 1, at_most: int | None = None) -> Self:
        """The step ran: so many executions exactly, or within bounds; once at least, if nothing is said."""
        __tracebackhide__ = True
        least, most = (at_least, at_most) if times is None else (times, times)
        found = len(self._of(step))
        wanted = f"{_counted(least, most)} of step `{step}`"
        return self._check(least <= found and (most is None or found <= most), wanted, f"there {_are(found)}{self._known(found)}")

    def never_ran(self, *steps: str) -> Self:
        """None of the steps ran."""
        __tracebackhide__ = True
        for step in steps:
            self.ran(step, 0)
        return self

    # --- order ---

    def order(self, *steps: str) -> Self:
        """The steps ran and began in this order: the first execution of each before the first of the next."""
        __tracebackhide__ = True
        firsts = [self._some(step)[0] for step in steps]
        places = [self._executions.index(first) for first in firsts]
        seen = " → ".join(first.step for first in sorted(firsts, key=self._executions.index))
        return self._check(places == sorted(places), f"the order {' → '.join(steps)}", f"they began in the order {seen}")

    def after(self, step: str, *others: str) -> Self:
        """No execution of the step began before every execution of the others had ended."""
        __tracebackhide__ = True
        first = self._some(step)[0]
        for other in others:
            last = max(self._some(other), key=lambda each: each.ended)
            early = f"{_title(first)} began {short(last.ended - first.began)} before {_title(last)} had ended"
            self._check(last.ended <= first.began, f"step `{step}` to begin after step `{other}`", early)
        return self

    # --- parallelism ---

    def parallel(self, *steps: str, at_least: int = 1, at_most: int | None = None) -> Self:
        """So many attempts of the steps (none named: of all) were at work at one moment, at most.

        Backoff is no work; time parked in `wait_for_event` counts, as records do not tell where in an attempt it lies.
        """
        __tracebackhide__ = True
        for step in steps:
            self._some(step)
        found = _most_at_once([record for record in self._records if not steps or record.step in steps])
        whose = f"of {', '.join(f'`{step}`' for step in steps)} " if steps else ""
        wanted = f"{_counted(at_least, at_most, 'attempt')} {whose}at one moment"
        return self._check(at_least <= found and (at_most is None or found <= at_most), wanted, f"the most there were is {found}")

    # --- attempts ---

    def no_retries(self, *steps: str) -> Self:
        """Every execution of the steps (none named: of all) was tried once."""
        __tracebackhide__ = True
        retried = [each for each in self._executions if each.tries > 1 and (not steps or each.step in steps)]
        found = ", ".join(f"{_title(each)} was tried {each.tries} times" for each in retried[:_NAMED])
        return self._check(not retried, "no retries", found + _more(retried))

    def attempts(self, step: str, count: int | None = None, *, at_least: int = 1, at_most: int | None = None) -> Self:
        """Each execution of the step was tried so often: exactly, or within bounds."""
        __tracebackhide__ = True
        least, most = (at_least, at_most) if count is None else (count, count)
        wrong = [each for each in self._some(step) if each.tries < least or (most is not None and each.tries > most)]
        found = ", ".join(f"{_title(each)} had {each.tries}" for each in wrong[:_NAMED])
        return self._check(not wrong, f"{_counted(least, most, 'attempt')} of step `{step}`", found + _more(wrong))

    # --- time ---

    def took(self, step: str | None = None, *, at_least: float = 0.0, at_most: float | None = None, exactly: float | None = None) -> Self:
        """Each execution of the step, or the run, took so many seconds, from when it was ready to its end.

        `exactly` is meant within a millisecond, for tests in virtual time. Of a run, from its first step to its last.
        """
        __tracebackhide__ = True
        spans = [(_title(each), each.seconds) for each in self._some(step)] if step is not None else [("the run", self._span())]
        least, most = (at_least, at_most) if exactly is None else (exactly - _TOLERANCE, exactly + _TOLERANCE)
        wrong = [(name, span) for name, span in spans if span < least or (most is not None and span > most)]
        found = ", ".join(f"{name} took {span:.6g} s" for name, span in wrong[:_NAMED])
        bounds = f"exactly {exactly:g} s" if exactly is not None else _within(at_least, at_most)
        return self._check(not wrong, f"{'the run' if step is None else f'step `{step}`'} to take {bounds}", found + _more(wrong))

    def critical(self, step: str, *, at_least: float = 0.0, at_most: float = 1.0) -> Self:
        """The step had such a share, from 0 to 1, of the critical path: the chain of causes behind the execution that ended last.

        Each execution counts from when it was ready until the next of the chain was; backoff and waits are its own.
        """
        __tracebackhide__ = True
        self._some(step)
        path = critical_path(self._records)
        found = path.share(step)
        shares = ", ".join(f"`{name}` {path.share(name):.0%}" for name in path.steps)
        wanted = f"step `{step}` to have {at_least:.0%} to {at_most:.0%} of the critical path"
        return self._check(at_least <= found <= at_most, wanted, f"the shares are {shares}")

    def _span(self) -> float:
        if not self._records:
            return 0.0
        return max(record.ended_at for record in self._records) - min(record.enqueued_at for record in self._records)

    # --- failing ---

    def _of(self, step: str) -> list[_Execution]:
        return [each for each in self._executions if each.step == step]

    def _some(self, step: str) -> list[_Execution]:
        """Return the executions of a step that must have run, in the order in which they began."""
        __tracebackhide__ = True
        found = self._of(step)
        self._check(bool(found), f"step `{step}` to have run", f"it has not{self._known(0)}")
        return found

    def _known(self, found: int) -> str:
        """Say which steps ran, if one was asked for that did not."""
        names = ", ".join(f"`{name}`" for name in dict.fromkeys(each.step for each in self._executions))
        return "" if found else f"; those that ran are {names}" if names else "; none ran"

    def _check(self, holds: bool, wanted: str, found: str) -> Self:
        __tracebackhide__ = True
        if holds:
            return self
        lines = [f"wanted {wanted}; {found}"]
        if self._report is not None:
            lines.append(str(self._report))
        lines.append(str(waterfall(self._records, rows=_ROWS)))
        raise AssertionError("\n".join(lines))


def _most_at_once(records: Sequence[AttemptRecord]) -> int:
    """Return how many attempts there were at one moment. One that took no time meets only those that began before and ended after."""
    ended, instant, began = 0, 1, 2  # in this order, of what falls on one moment
    marks: list[tuple[float, int]] = []
    for record in records:
        if record.ended_at > record.started_at:
            marks += [(record.started_at, began), (record.ended_at, ended)]
        else:
            marks.append((record.started_at, instant))
    most = now = 0
    for _, kind in sorted(marks):
        now += {ended: -1, instant: 0, began: 1}[kind]
        most = max(most, now + (kind == instant))
    return most


def _title(execution: _Execution) -> str:
    return f"`{execution.step}` #{execution.number}"


def _are(count: int) -> str:
    return "is 1" if count == 1 else f"are {count}"


def _counted(least: int, most: int | None, noun: str = "execution") -> str:
    if most is None:
        return f"at least {least} {noun}{'' if least == 1 else 's'}"
    plural = "" if most == 1 else "s"
    return f"exactly {most} {noun}{plural}" if least == most else f"{least} to {most} {noun}{plural}"


def _within(least: float, most: float | None) -> str:
    if most is None:
        return f"at least {least:g} s"
    return f"{least:g} to {most:g} s" if least else f"at most {most:g} s"


def _more(found: Sequence[object]) -> str:
    return f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
