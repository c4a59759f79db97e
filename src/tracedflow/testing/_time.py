"""Virtual time: an event loop that jumps to its next timer when nothing else is ready, and the clock that goes with it.

`asyncio.sleep`, `asyncio.timeout`, `loop.call_later` and the engine's timers all follow it, so that 30 days pass in
milliseconds. Computing takes no time, so nothing that never waits can time out. `time.time()` and `time.monotonic()` of
the standard library stay real.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import math
import random
import selectors
import time
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from .. import clock
from .._engine import _live

ResultT = TypeVar("ResultT")
P = ParamSpec("P")

_EPOCH = 1_767_225_600.0  # 2026-01-01T00:00:00Z
_SLICE = 0.01  # seconds; how soon it is seen that nothing outside the loop is at work any more
_ALPHABET = "abcdefghijkmnopqrstuvwxyz0123456789"


class VirtualClock:
    """Time that a test moves. It starts at 0, on 1 January 2026 UTC; its run ids follow from `seed`."""

    def __init__(self, seed: int = 0) -> None:
        self._elapsed = 0.0
        self._random = random.Random(seed)

    def monotonic(self) -> float:
        """Return the seconds that have passed."""
        return self._elapsed

    def now(self) -> float:
        """Return Unix seconds."""
        return _EPOCH + self._elapsed

    def new_id(self) -> str:
        """Return a run id: ten characters, the same ones in the same order for the same seed."""
        return "".join(self._random.choices(_ALPHABET, k=10))

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._elapsed += seconds


class _Selector(selectors.DefaultSelector):
    """Where a loop would wait for its next timer, this one moves the clock there."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self.loop.is_awaited_outside():
            return self._wait(timeout)
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        ready = super().select(0)  # the loop guard's knock, for one: it is answered, and no time passes
        if not ready:
            self.loop.clock.advance(timeout)
            # A timer is due once it is before the time plus this; half a year on, the usual 1e-9 s is lost when it is added.
            self.loop._clock_resolution = max(1e-9, math.ulp(self.loop.time()))
        return ready

    def _wait(self, timeout: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        longest = _SLICE if timeout is None else max(0.0, min(timeout, _SLICE))
        began = time.monotonic()
        ready = super().select(longest)
        self.loop.clock.advance(min(time.monotonic() - began, longest))
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time; `clock` is its clock, and every task of the loop uses it as the engine's.

    Real time passes, and no timer is jumped to, while something outside the loop may still wake it: a thread of a sync
    step, an executor's call, an open socket or pipe, or a `real_time()` block. It is a loop factory as it stands:
    `asyncio.Runner(loop_factory=VirtualLoop)`, or for all tests of pytest-asyncio, in `conftest.py`:

        def pytest_asyncio_loop_factories(config, item):
            return {"virtual": VirtualLoop}
    """

    _clock_resolution: float  # of asyncio's own loop

    def __init__(self, seed: int = 0) -> None:
        self.clock: VirtualClock = VirtualClock(seed)
        self._outside = 0
        self._own_files = 0
        selector = _Selector()
        selector.loop = self
        self._files = selector.get_map()
        super().__init__(selector)
        self._own_files = len(self._files)  # the pipe that wakes it

    def time(self) -> float:
        """Return the virtual seconds that have passed."""
        return self.clock.monotonic()

    def create_task(self, coro: Any, *, context: contextvars.Context | None = None, **options: Any) -> asyncio.Task[Any]:
        """Start a task, with the loop's clock in its context."""
        context = context or contextvars.copy_context()
        if context.get(clock.active) is not self.clock:
            context.run(clock.active.set, self.clock)
        return super().create_task(coro, context=context, **options)

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Call a function in a thread or process; real time passes until it is done."""
        self._outside += 1
        future: asyncio.Future[Any]
        try:
            future = super().run_in_executor(executor, func, *args)
        except BaseException:
            self._outside -= 1
            raise
        future.add_done_callback(lambda _: self._back())
        return future

    async def shutdown_default_executor(self, *args: Any, **options: Any) -> None:
        """Join the threads of the default executor, in real time."""
        with self.outside():
            await super().shutdown_default_executor(*args, **options)

    @contextmanager
    def outside(self) -> Generator[None]:
        """Let real time pass inside the block: something outside the loop will wake it."""
        self._outside += 1
        try:
            yield
        finally:
            self._back()

    def _back(self) -> None:
        self._outside -= 1

    def is_awaited_outside(self) -> bool:
        """Whether something outside the loop may still wake it."""
        return self._outside > 0 or len(self._files) > self._own_files > 0 or self._busy_threads() > 0

    def _busy_threads(self) -> int:
        """Return how many threads of sync steps are at work; one that waits for an event waits for this loop."""
        runners = [runner for runner in _live.live() if runner.loop is self and runner.threads]
        waiting = sum(scope.in_thread and scope.execution.phase == "parked" for runner in runners for scope in runner.scopes.values())
        return sum(runner.threads for runner in runners) - waiting


def run_virtual(main: Coroutine[Any, Any, ResultT], *, seed: int = 0) -> ResultT:
    """Run a coroutine in virtual time, as `asyncio.run` does in real time, and return its result. `seed`: of the run ids."""
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(seed)) as runner:
        return runner.run(main)


def virtual_time(*, seed: int = 0) -> Callable[[Callable[P, Coroutine[Any, Any, ResultT]]], Callable[P, ResultT]]:
    """Make a test that is an `async def` run in virtual time, in a loop of its own, with any test runner and no plugin.

    @virtual_time()
    async def test_it_gives_up_after_30_days() -> None: ...
    """

    def decorate(test: Callable[P, Coroutine[Any, Any, ResultT]]) -> Callable[P, ResultT]:
        @functools.wraps(test)
        def run(*args: P.args, **kwargs: P.kwargs) -> ResultT:
            return run_virtual(test(*args, **kwargs), seed=seed)

        return run

    return decorate


@contextmanager
def real_time() -> Generator[None]:
    """Let real time pass inside the block, in virtual time too: for threads that the engine does not know of."""
    loop = asyncio.get_running_loop()
    if not isinstance(loop, VirtualLoop):
        yield
        return
    with loop.outside():
        yield
