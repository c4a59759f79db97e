"""The tasks that take what is ready in a run, one execution after another: a task for each costs more than the engine.

Each execution runs in a context of its own all the same. While one waits, other tasks take what is ready; when it goes on and
ends, its task takes more. Nothing here knows what an execution does.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context
from typing import TYPE_CHECKING, Any

from ..context import current_scope
from ._part import Part
from ._scope import StepScope

if TYPE_CHECKING:
    from ._runner import Runner


class Lead(Part):
    """Who takes what is ready in one run."""

    __slots__ = ("_is_taken", "coming")

    def __init__(self, runner: Runner) -> None:
        super().__init__(runner)
        self._is_taken = False  # a task of ours runs at this moment: it takes what becomes ready
        self.coming: set[asyncio.Task[None]] = set()  # tasks that will take what they find ready, in their next turn

    def take(self) -> None:
        """See that what is ready begins, with the loop's next turn at the latest."""
        if not self._is_taken and not self.coming:
            self._call()

    def take_each(self) -> None:
        """Let each begin that is ready now, in a task of its own; what they send is left."""
        runner = self._runner
        while runner.ready:
            execution = runner.choose(runner.ready)
            scope = runner.scopes[execution.id] = StepScope(runner, runner.steps[execution.step], execution, runner.now())
            self._take_apart(scope)

    def _call(self) -> None:
        runner = self._runner
        self.coming.add(runner.loop.create_task(self._guarded(self._take_all()), context=runner.step_context))

    def _take_apart(self, scope: StepScope) -> None:
        runner = self._runner
        assert runner.step_context is not None
        scope.task = runner.loop.create_task(self._apart(scope), context=runner.step_context.copy())

    async def _apart(self, scope: StepScope) -> None:
        runner = scope.runner
        if runner.ending is None:  # else it ended before this one's first turn
            await self._guarded(runner.dispatcher.dispatch(scope))
        current_scope.set(None)  # the scope knows its task, which keeps its context

    async def _guarded(self, work: Awaitable[None]) -> None:
        runner = self._runner
        try:
            await work
        except Exception as error:  # noqa: BLE001 - whatever a step raises is handled below this: it is the engine's own fault
            runner.crashed(error)

    @types.coroutine
    def _take_all(self) -> Generator[Any, Any, None]:
        me = asyncio.current_task()
        runner = self._runner
        assert me is not None
        assert runner.step_context is not None
        ready, scopes, steps, turn = runner.ready, runner.scopes, runner.steps, runner.turn
        dispatch, new_context = runner.dispatcher.dispatch, runner.step_context.copy  # what one sets, no other sees
        now = runner.now()
        if not turn.allows(now):
            yield from self._next_turn(me)
            now = runner.now()
        self.coming.discard(me)
        self._is_taken = True
        while ready and runner.ending is None:
            execution = runner.choose(ready)
            scope = scopes[execution.id] = StepScope(runner, steps[execution.step], execution, now)
            if scope.step.own_task:
                self._take_apart(scope)
                continue
            scope.task = me
            step, context = dispatch(scope), new_context()
            try:
                awaited = context.run(step.send, None)
            except StopIteration:
                pass
            else:
                yield from self._rest(step, context, awaited)
            if me.cancelling():  # before Python 3.13 a request cannot be taken back: no other execution must inherit it
                break
            now = scope.ended_at or runner.now()  # one that failed has no time of its end
            if ready and not turn.allows(now):
                self._is_taken = False
                self.coming.add(me)
                yield from self._next_turn(me)  # everything else that the loop has to do comes first
                self.coming.discard(me)
                self._is_taken = True
                now = runner.now()
        self._leave()

    def _next_turn(self, me: asyncio.Task[None]) -> Generator[Any, Any, None]:
        """Wait for a turn. Cancelled meanwhile, by who kept it from an execution that is over, it leaves what is ready to another."""
        try:
            yield from self._runner.turn.next()
        except asyncio.CancelledError:
            self.coming.discard(me)
            if not self._runner.task.cancelling():  # else the run ends, or its loop does
                self._leave()
            raise

    def _rest(self, step: Coroutine[Any, Any, None], context: Context, awaited: Any) -> Generator[Any, Any, None]:
        """Drive an execution that has to wait to its end. Whatever is ready then gets tasks of its own: it will wait, too, most likely."""
        go: Callable[[Any], Any]
        try:
            while True:
                self._leave()
                try:
                    given = yield awaited
                    go = step.send
                except GeneratorExit:
                    context.run(step.close)
                    raise
                except BaseException as error:  # noqa: BLE001 - a cancellation: the execution's to handle
                    go, given = step.throw, error
                self._is_taken = True
                awaited = context.run(go, given)
        except StopIteration:
            given = None  # a cancellation's traceback knows this frame
            return

    def _leave(self) -> None:
        self._is_taken = False
        runner = self._runner
        if runner.ready and runner.ending is None:
            for _ in range(len(runner.ready) - len(self.coming)):
                self._call()
