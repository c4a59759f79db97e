"""`check_observer`: proves that a layer is transparent, by running the same workflows with and without it."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ..middleware import (
    Chain,
    EventDropped,
    EventSent,
    EventStreamed,
    JoinWaiting,
    LoopBlocked,
    Middleware,
    MiddlewareFailed,
    Notice,
    RetryScheduled,
    RunResumed,
    RunStalled,
    RunSuspended,
    StepCall,
    StepNext,
    StepResult,
    StepTimedOut,
    WaitEnded,
    WaitStarted,
)
from ..records import RunReport
from ._scenarios import SCENARIOS, Ledger, Scenario, Success

_ENGINE_NOTE = "in step `"
_MISDEEDS = {"Suspended": "awaited something else than call_next", "Cancelled": "tried to cancel the task it runs in"}  # as the shield says


async def check_observer(make_observer: Callable[[], Middleware]) -> None:
    """Check that a layer only watches, on workflows that end in every way a run can. It takes less than a second.

    Each runs without the layer and with a new one. Compared are the result or the very exception object with its traceback,
    context and notes, the order and number of step calls, who was cancelled, the stream, and the records. Every kind of
    notice is told to it.

    Args:
        make_observer: called for each run; returns the layer to check.

    Raises:
        AssertionError: something differs, or the layer failed; the message says what and in which workflow.
    """
    for scenario in SCENARIOS:
        without = await _watch(scenario, ())
        layer = make_observer()
        complaints = _Complaints()
        found = await _watch(scenario, (layer, complaints))
        name = type(layer).__qualname__
        _compare(name, scenario.name, without, found)
        if complaints.failed:
            raise AssertionError(f"{name} is no clean observer: in {scenario.name!r} it {_listed(complaints.failed)}")
    await _check_notices(make_observer())


@dataclass(slots=True, kw_only=True)
class _Outcome:
    """What there is to compare; the name of a field is what a difference is called."""

    result: str
    error: str
    error_object: str
    traceback: list[str]
    notes: list[str]
    step_starts: list[str]
    cancelled_steps: list[str]
    stream: list[str]
    records: list[tuple[str, int, int, str, str | None]]


class _Complaints(Middleware):
    """Hears of layers that failed behind the shield."""

    hears = (MiddlewareFailed,)

    def __init__(self) -> None:
        self.failed: list[str] = []

    def on(self, notice: Notice, /) -> None:
        if isinstance(notice, MiddlewareFailed):
            self.failed.append(notice.error_type)


def _listed(failed: Sequence[str]) -> str:
    kinds = ", ".join(dict.fromkeys(_MISDEEDS.get(kind, f"raised {kind}") for kind in failed))
    return f"{kinds} ({len(failed)} times)"


async def _watch(scenario: Scenario, layers: Sequence[Middleware]) -> _Outcome:
    ledger = Ledger()
    flow = scenario.workflow(ledger, middleware=layers, **scenario.options)
    handler = flow.run(n=5)
    task = asyncio.current_task()
    asked = task.cancelling() if task is not None else 0
    result: Any = None
    error: BaseException | None = None
    try:
        await scenario.act(handler)
        result = await handler
    except asyncio.CancelledError as caught:
        if task is not None and task.cancelling() > asked:
            raise  # the caller itself is cancelled
        error = caught
    except Exception as caught:  # noqa: BLE001 - it is what is compared
        error = caught
    stream = [f"{type(event).__name__} {event.get('n')}" async for event in handler.stream_events(offset=0)]
    return _Outcome(
        result=repr(result),
        error=_described(error),
        error_object=_identity(error, ledger),
        traceback=_frames(error),
        notes=[note for note in getattr(error, "__notes__", ()) if not note.startswith(_ENGINE_NOTE)],
        step_starts=ledger.started,
        cancelled_steps=ledger.cancelled,
        stream=stream,
        records=[(each.step, each.execution, each.attempt, each.outcome, each.error) for each in handler.record],
    )


def _described(error: BaseException | None) -> str:
    if error is None:
        return "none"
    context = f", after {_described(error.__context__)}" if error.__context__ is not None else ""
    return f"{type(error).__qualname__}{context}"


def _identity(error: BaseException | None, ledger: Ledger) -> str:
    """Say which of the objects that the steps raised it is, and that nobody changed what it says."""
    for number, raised in enumerate(ledger.raised):
        if raised is error:
            return f"number {number} that a step raised: {error!r}"
    return "not one that a step raised"


def _frames(error: BaseException | None) -> list[str]:
    """Return the functions in the traceback, without this module's and the shield's own, which say nothing of a layer."""
    if error is None:
        return []
    frames = traceback.extract_tb(error.__traceback__)
    return [frame.name for frame in frames if frame.filename not in (__file__, Chain.notice.__code__.co_filename)]


def _compare(layer: str, scenario: str, without: _Outcome, found: _Outcome) -> None:
    for each in fields(_Outcome):
        was, now = getattr(without, each.name), getattr(found, each.name)
        if was != now:
            what = each.name.replace("_", " ")
            raise AssertionError(f"{layer} is not transparent: in {scenario!r} the {what} is {now!r} with it and {was!r} without")


# --- notices ---


def every_notice(call: StepCall) -> Iterator[Notice]:
    """Yield one notice of each kind, about a live step execution."""
    run, at = call.run, call.started_at
    error = ConnectionError("shown to the layer")
    report = RunReport(workflow=run.workflow, run_id=run.run_id, state="stalled", age=1.0)
    yield EventSent(run=run, at=at, call=call, event_id=90, event_type="Item", to=("work",))
    yield EventSent(run=run, at=at, event_id=91, event_type="Item", to=(), waited=True)
    yield EventDropped(run=run, at=at, event_id=92, event_type="Item", reason="unclaimed", final=False)
    yield EventDropped(run=run, at=at, event_id=92, event_type="Item", reason="run_ended", near_miss="Items")
    yield EventStreamed(run=run, at=at, call=call, event_type="Item")
    yield RetryScheduled(run=run, at=at, call=call, attempt=1, delay=0.5, error=error)
    yield StepTimedOut(run=run, at=at, call=call, timeout=0.5, attempt=1)
    yield WaitStarted(run=run, at=at, call=call, wait_id=93, event_type="Item", waiter_id=None, timeout=None)
    yield WaitEnded(run=run, at=at, call=call, wait_id=93, event_type="Item", outcome="success", duration=0.5)
    yield JoinWaiting(run=run, at=at, call=call, event_type="Item", buffer="default", have=1, need=2)
    yield LoopBlocked(run=run, at=at, call=call, step=call.step, location="somewhere.py:1", duration=0.5)
    yield LoopBlocked(run=run, at=at, step=None, location="somewhere.py:1", duration=0.5)
    yield MiddlewareFailed(run=run, at=at, call=call, middleware="Other", error_type="ValueError")
    yield RunStalled(run=run, at=at, report=report)
    yield RunSuspended(run=run, at=at)
    yield RunResumed(run=run, at=at)


class _Announcer(Middleware):
    """Tells a layer of everything, in the midst of a step that it watches."""

    def __init__(self, layer: Middleware) -> None:
        self._layer = layer
        self.failed: list[str] = []

    async def step(self, call: StepCall, call_next: StepNext, /) -> StepResult:
        for notice in every_notice(call):
            if self._layer.hears is not None and not isinstance(notice, self._layer.hears):
                continue
            try:
                self._layer.on(notice)
            except Exception as error:  # noqa: BLE001 - reported
                self.failed.append(f"{type(notice).__name__}: {error!r}")
        return await call_next(call)


async def _check_notices(layer: Middleware) -> None:
    announcer = _Announcer(layer)
    await Success(Ledger(), middleware=(layer, announcer)).run()
    if announcer.failed:
        failed = "; ".join(dict.fromkeys(announcer.failed))
        raise AssertionError(f"{type(layer).__qualname__} is no clean observer: `on` raised at {failed}")
