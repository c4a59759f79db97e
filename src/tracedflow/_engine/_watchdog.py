"""The loop guard: a thread that sees an event loop stand still, and says which step keeps it, while it does.

It sleeps when no run is live. It must not slow the loop: all it asks of one is to answer a knock now and then.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import TYPE_CHECKING

from ..middleware import LoopBlocked
from ._alarm import Alarm

if TYPE_CHECKING:
    from ._scope import StepScope

_log = logging.getLogger("tracedflow.loop")

KNOCK_EVERY = 0.05  # seconds
BLOCKED_AFTER = 0.1  # seconds without an answer

step_callers: set[CodeType] = set()
"""The code that calls steps: what stands below it on a stack is a step's."""

_SAID_AGAIN_AFTER = 4.0  # times longer than when it was said last


@dataclass(slots=True, eq=False)
class _Watched:
    loop: asyncio.AbstractEventLoop
    thread_id: int
    runs: int = 0
    knocked_at: float | None = None  # monotonic; None: the last knock was answered
    said_after: float = 0.0
    suspect: object = None  # what was on the stack at the last look
    culprit: StepScope | None = None
    location: str | None = None

    def answer(self) -> None:
        """Runs on the loop: it turns."""
        self.tell()
        self.knocked_at = self.suspect = None
        self.said_after = 0.0

    def tell(self) -> None:
        """Runs on the loop: put what was seen on the culprit's account, once."""
        culprit, location = self.culprit, self.location
        self.culprit = self.location = None
        if location is not None and self.knocked_at is not None:
            _tell(culprit, location, time.monotonic() - self.knocked_at)


_lock = threading.RLock()  # the collector may end a run whose loop is closed wherever it comes, also in here
_watched: dict[int, _Watched] = {}
_thread: threading.Thread | None = None
_alarm: Alarm | None = None
_is_resting = True  # the thread sleeps until a run begins
_next_sign = 0.0  # monotonic: when a loop that turns says so again


def watch(loop: asyncio.AbstractEventLoop, thread_id: int) -> None:
    """Guard a loop, once for each of its runs."""
    global _thread, _alarm, _is_resting
    with _lock:
        found = _watched.get(id(loop))
        if found is None:
            found = _watched[id(loop)] = _Watched(loop, thread_id)
        found.runs += 1
        if _thread is None or not _thread.is_alive():  # a fork leaves the thread behind
            if _alarm is not None:
                _alarm.close()  # the parent has it, too
            _alarm = Alarm()
            _thread = threading.Thread(target=_guard, args=(_alarm,), name="tracedflow-loop-guard", daemon=True)
            _thread.start()
            _is_resting = True
        if _is_resting and _alarm is not None:
            _is_resting = False
            _alarm.put_off(KNOCK_EVERY)


def unwatch(loop: asyncio.AbstractEventLoop) -> None:
    """A run of the loop is over."""
    with _lock:
        found = _watched.get(id(loop))
        if found is None:
            return
        found.runs -= 1
        if found.runs <= 0:
            _forget(loop)


def _forget(loop: asyncio.AbstractEventLoop) -> None:
    """Stop guarding a loop. Call it with the lock held."""
    _watched.pop(id(loop), None)


def settle(scope: StepScope) -> None:
    """Put a block on the account of the step that is just ending, before its record is made."""
    watched = _watched.get(id(scope.runner.loop))
    if watched is not None and watched.culprit is scope:
        watched.tell()


def sign_of_life() -> None:
    """Hear from a loop that it turns: if no other is guarded, nobody needs to knock for the moment."""
    global _next_sign
    now = time.monotonic()
    if now >= _next_sign and len(_watched) == 1 and _alarm is not None:
        _next_sign = now + KNOCK_EVERY / 10
        _alarm.put_off(KNOCK_EVERY / 2)  # sooner than the guard does: a step that blocks now is seen 0.125 s later


def _guard(alarm: Alarm) -> None:
    global _is_resting
    while True:
        alarm.sleep()
        with _lock:
            watched = list(_watched.values())
        for each in watched:
            _look(each)
        del watched
        with _lock:
            if _watched:
                alarm.put_off(KNOCK_EVERY)
            else:
                alarm.rest()
                _is_resting = True


def _look(watched: _Watched) -> None:
    if watched.knocked_at is None or watched.loop.is_closed():
        watched.knocked_at = time.monotonic()
        try:
            watched.loop.call_soon_threadsafe(watched.answer)
        except RuntimeError:  # the loop was closed with live runs: nobody will tell that they are over
            with _lock:
                _forget(watched.loop)
        return
    scope, location = _culprit(sys._current_frames().get(watched.thread_id))
    suspect, watched.suspect = watched.suspect, scope or location
    if location is None or suspect != watched.suspect:
        return  # many short steps in one turn of the loop are not one step that blocks
    blocked = time.monotonic() - watched.knocked_at
    if blocked >= BLOCKED_AFTER and blocked >= watched.said_after:
        watched.said_after = blocked * _SAID_AGAIN_AFTER
        _say(watched, scope, location, blocked)


def _say(watched: _Watched, scope: StepScope | None, location: str, blocked: float) -> None:
    watched.culprit, watched.location = scope, location
    if scope is None:
        _log.warning("the event loop has been blocked for %.1f s at %s (in a task that a step may have started)", blocked, location)
        return
    call = scope.call
    _log.warning(
        "step `%s` of %s has blocked the event loop for %.1f s at %s (run %s); make it `def` to run it in a thread, or await",
        call.step, call.workflow, blocked, location, call.run_id,
    )  # fmt: skip


def _culprit(frame: FrameType | None) -> tuple[StepScope | None, str | None]:
    """Return the step that the stack is in, and the place of its innermost line in the step's own code, if it is in one."""
    innermost: str | None = None
    below: FrameType | None = None
    while frame is not None:
        code = frame.f_code
        if code in step_callers:
            if below is not None and innermost is not None and below.f_code.co_filename.startswith(_PACKAGE):
                return frame.f_locals.get("scope"), innermost  # in a factory: code of ours called it
            place = below or frame
            return frame.f_locals.get("scope"), f"{place.f_code.co_filename}:{place.f_lineno}"
        if innermost is None and not _is_library(code.co_filename):
            innermost = f"{code.co_filename}:{frame.f_lineno}"
        below = frame
        frame = frame.f_back
    return None, innermost


def _is_library(filename: str) -> bool:
    return filename.startswith((_STDLIB, "<frozen", _PACKAGE)) or "site-packages" in filename


_STDLIB = asyncio.__file__.rsplit("asyncio", 1)[0]
_PACKAGE = __file__.rsplit("_engine", 1)[0]


def _tell(culprit: StepScope | None, location: str, blocked: float) -> None:
    """Runs on the loop: put it on the step's account and tell the layers."""
    if culprit is None:
        return
    runner, call = culprit.runner, culprit.call
    call.blocked += blocked
    now = runner.now()
    call.interruptions += (("blocked", now - blocked, now),)
    notice = LoopBlocked(run=call.run, at=now, call=call, step=call.step, location=location, duration=blocked)
    runner.blocked = notice
    if runner.chain.hears(LoopBlocked):
        runner.chain.notice(notice)
