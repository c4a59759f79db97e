"""The one registry of the live runs of this process; `runs()` and `drain()` read it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from ..errors import ContextSerdeError, DrainingError, WorkflowStartError
from . import _watchdog
from ._ending import suspend

if TYPE_CHECKING:
    from ..handler import WorkflowHandler
    from ._runner import Runner

_log = logging.getLogger("tracedflow")

flush: Callable[[], object] | None = None
"""Set from outside: sends what telemetry has buffered, within a time of its own. It blocks."""

_lock = threading.RLock()  # see the loop guard's
_runs: dict[str, WorkflowHandler[Any]] = {}  # a handler holds its runner
_draining = False
_LAST_WAIT = 5.0  # seconds for the runs that were told to end

watchers: list[Callable[[WorkflowHandler[Any]], None]] = []
"""Told of each run that starts, in its thread: for test tools. They may not raise, nor keep a run alive unasked."""


leavers: list[Callable[[Runner], None]] = []
"""Told of each run that is over, in its thread, before whoever awaits it. They may not raise."""


def register(runner: Runner, handler: WorkflowHandler[Any]) -> None:
    """Add a run that is about to start.

    Raises:
        DrainingError: the process is draining.
        WorkflowStartError: a live run has the same id.
    """
    with _lock:
        if _draining:
            raise DrainingError(f"{runner.call.workflow} was not started: the process is draining")
        other = _runs.get(runner.run_id)
        if other is not None and not other.get_loop().is_closed():
            raise WorkflowStartError(f"run_id {runner.run_id!r} is that of a live run of {other._runner.call.workflow}; use another")
        _runs[runner.run_id] = handler
    if runner.parent is not None:
        outer = runner.parent.runner
        outer.children = outer.children or set()
        outer.children.add(runner)
    _watchdog.watch(runner.loop, runner.thread_id)
    for tell in tuple(watchers):
        tell(handler)


def unregister(runner: Runner) -> None:
    """Remove a run that is over."""
    with _lock:
        known = _runs.get(runner.run_id)
        if known is not None and known._runner is runner:
            del _runs[runner.run_id]
    if runner.parent is not None and runner.parent.runner.children:
        runner.parent.runner.children.discard(runner)
    _watchdog.unwatch(runner.loop)
    for tell in leavers:
        tell(runner)


def live() -> list[Runner]:
    """Return the live runs, oldest first."""
    return [handler._runner for handler in runs()]


def queue_depths() -> list[tuple[str, str, int]]:
    """Return (workflow, step, events waiting for a slot) of every step of every live run that has some."""
    found: list[tuple[str, str, int]] = []
    for runner in live():
        lanes = runner.state.lanes.copy()
        found += [(runner.call.workflow, name, len(lane.ready)) for name, lane in lanes.items() if lane.ready]
    return found


def runs() -> list[WorkflowHandler[Any]]:
    """Return the handlers of all live runs of this process, oldest first. A run whose loop was closed under it is forgotten."""
    with _lock:
        for run_id in [run_id for run_id, handler in _runs.items() if handler.get_loop().is_closed()]:
            del _runs[run_id]
        return list(_runs.values())


async def drain(timeout: float = 30.0, then: Literal["cancel", "snapshot"] = "cancel") -> dict[str, dict[str, Any] | None]:
    """Refuse new runs, let the live ones end for `timeout` seconds, then end the rest. New runs stay refused.

    Only the runs of the calling event loop are waited for; those of other loops are ended through their own loop.

    Returns:
        The runs that had to be ended, by id: with `then="snapshot"` what `Context.from_dict` takes to go on with a run of
        the calling loop, else None.
    """
    global _draining
    with _lock:
        _draining = True
    loop = asyncio.get_running_loop()
    await _wait_for(loop, timeout)
    ended: dict[str, dict[str, Any] | None] = {}
    for runner in live():
        saved = ended[runner.run_id] = _suspended(runner) if then == "snapshot" and runner.loop is loop else None
        if saved is None:
            runner.loop.call_soon_threadsafe(runner.cancel, "the process is draining")
    await _wait_for(loop, _LAST_WAIT)
    if flush is not None:
        await asyncio.to_thread(flush)
    return ended


def _suspended(runner: Runner) -> dict[str, Any] | None:
    """Save a run and end it; None if it cannot be saved: the others still can."""
    if runner.is_over:
        return None
    try:
        return suspend(runner)
    except ContextSerdeError:
        _log.exception("run %s of %s could not be saved, and is cancelled", runner.run_id, runner.call.workflow)
        return None


async def _wait_for(loop: asyncio.AbstractEventLoop, timeout: float) -> None:
    handlers = [handler for handler in runs() if handler.get_loop() is loop]
    if handlers:
        await asyncio.wait(handlers, timeout=timeout)


def accept_again() -> None:
    """Take new runs again after a drain."""
    global _draining
    with _lock:
        _draining = False
