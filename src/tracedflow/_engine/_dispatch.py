"""The one place where a step is called: builds its call, runs the chain around it, and hands the outcome back.

It must not know how runs are scheduled; it asks the runner for that.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from ..context import current_scope
from ..errors import StepCancelledError, StepTimeoutError
from ..events import StopEvent
from ..middleware import AttemptCall, Chain, Middleware, RetryScheduled, RunCall, StepCall, StepResult, StepTimedOut
from . import _watchdog
from ._checkpoint import checkpointed
from ._parking import back_off
from ._permits import acquire_for
from ._record import end_attempt, end_without_attempt
from ._results import check_result
from ._scope import StepScope
from ._threads import pool

if TYPE_CHECKING:
    from ._runner import Runner

_log = logging.getLogger("tracedflow")

current_runner: ContextVar[Runner | None] = ContextVar("tracedflow_run", default=None)
"""The run whose layers are being called."""


class Dispatcher:
    """Calls the steps of one workflow instance through one chain. `chain` is folded here, once."""

    def __init__(self, layers: Sequence[Middleware]) -> None:
        self.chain: Chain = Chain(layers, run=self._run, step=self._attempts, attempt=self._attempt)
        self._is_bare = self.chain.step == self._attempts and self.chain.single_attempt is None
        self._is_bare_untraced = self.chain.untraced_step == self._attempts and self.chain.single_attempt is None

    async def _run(self, call: RunCall) -> StopEvent | None:
        """The innermost `run`: whatever context variables are set now, every step sees."""
        runner = current_runner.get()
        assert runner is not None
        return await runner.execute(call)

    async def dispatch(self, scope: StepScope) -> None:
        """Take one step execution from its start to its end."""
        current_scope.set(scope)
        runner = scope.runner
        step = scope.step
        # Nobody looks on: no coroutine is needed that only passes on what comes.
        alone = step.is_single and (self._is_bare or (self._is_bare_untraced and runner.call.span_context is None))
        try:
            if alone:
                scope.begin_attempt()
                result = scope.returned = await called(scope)
                if type(result) not in step.returns:
                    check_result(scope, result)
                end_attempt(scope, result, None)
            else:
                if step.config.limit is not None:
                    await _wait_for_permit(scope)
                result = await self.chain.step(scope.call)
                if result is not scope.returned:
                    check_result(scope, result)  # a layer put it there
                if scope.attempt == 0:  # a layer answered without calling the step
                    end_without_attempt(scope, result, None)
        except BaseException as caught:  # noqa: BLE001 - the runner decides what each kind means
            error = ended_badly(scope, caught) if alone else caught
            scope.close()
            runner.step_failed(scope, error)
            if isinstance(error, asyncio.CancelledError):
                error.__traceback__ = None  # nobody sees it, and its frames know it and the run
            return
        scope.close()
        if runner.settings.checkpoint is not None and not await checkpointed(scope, result):
            return
        runner.step_completed(scope, result, scope.ended_attempt if alone else runner.now())

    def _attempts(self, call: StepCall) -> Awaitable[StepResult]:
        """The innermost `step`: one attempt, or as many as the retry policy asks for."""
        scope: StepScope = call._scope
        return self._recorded(scope, call) if scope.step.policy is None else self._retried(scope, call)

    async def _retried(self, scope: StepScope, call: StepCall) -> StepResult:
        """The attempt loop: the retry policy is asked here and nowhere else."""
        while True:
            try:
                return await self._recorded(scope, call)
            except Exception as error:
                delay = scope.delay_after(error)
                if delay is None:
                    raise
                failed = error
                if self.chain.hears(RetryScheduled):
                    notice = RetryScheduled(run=call.run, at=scope.runner.now(), call=call, attempt=scope.attempt, delay=delay, error=error)
                    self.chain.notice(notice)
            await back_off(scope, delay, failed)

    async def _recorded(self, scope: StepScope, call: StepCall) -> StepResult:
        """Make one attempt through its layers, and its record."""
        scope.begin_attempt()
        traced: AttemptCall | None = None
        layers = self.chain.single_attempt if scope.step.policy is None else self.chain.attempt
        try:
            if layers is None:
                result = checked(scope, await called(scope))
            else:
                backoff = call.backoff - scope.marks[1]
                traced = AttemptCall(step=call, attempt=scope.attempt, last_error=scope.execution.last_error, backoff=backoff)
                result = await layers(traced)
        except BaseException as caught:  # noqa: BLE001 - raised again below
            error = ended_badly(scope, caught, traced)
            raise error from (None if error is caught else caught)
        end_attempt(scope, result, None, traced)
        return result

    async def _attempt(self, call: AttemptCall) -> StepResult:
        """The innermost `attempt`."""
        scope: StepScope = call.step._scope
        try:
            return checked(scope, await called(scope))
        except asyncio.CancelledError as error:
            if _is_cancelled(scope):
                raise
            raise nobodys(scope) from error


async def _wait_for_permit(scope: StepScope) -> None:
    try:
        await acquire_for(scope)
    finally:
        scope.call.started_at = scope.runner.now()


def called(scope: StepScope) -> Awaitable[Any]:
    """Call the user's step. Its time limit is innermost, so that every layer sees a `StepTimeoutError`."""
    step = scope.step
    inputs = scope.call.inputs
    if step.is_plain and step.leads:  # a dict of keywords for each call would cost more than the call
        return step.fn(inputs[0]) if step.leads == 1 else step.fn(scope.context, inputs[0])  # type: ignore[no-any-return]
    arguments = step.arguments(inputs, scope)
    if step.is_plain:
        return step.fn(**arguments)  # type: ignore[no-any-return]
    if step.config.resources:
        call = partial(_in_thread, scope, step.fn, arguments) if not step.is_async else lambda: step.fn(**arguments)
        return _in_time(scope, _supplied(scope, arguments, call))
    if not step.is_async:
        return _in_time(scope, _in_thread(scope, step.fn, arguments))
    return _in_time(scope, step.fn(**arguments))


def checked(scope: StepScope, result: Any) -> StepResult:
    """Return what a step may return. Checked here too, so that every layer sees it fail."""
    scope.returned = result
    check_result(scope, result)
    return cast("StepResult", result)


def ended_badly(scope: StepScope, caught: BaseException, traced: AttemptCall | None = None) -> BaseException:
    """Take down an attempt that raised, and return what it raised: a CancelledError that nobody asked for is the step's own."""
    error = caught
    if traced is None and isinstance(caught, asyncio.CancelledError) and not _is_cancelled(scope):
        error = nobodys(scope)
        error.__cause__ = caught
    end_attempt(scope, None, error, traced)
    return error


def nobodys(scope: StepScope) -> StepCancelledError:
    """Return what a step raises that ends with a CancelledError which nobody asked for."""
    return StepCancelledError(
        f"Step `{scope.call.step}` ({scope.step.config.place}) raised CancelledError, but nobody cancelled it; "
        "a task that it awaited was probably cancelled"
    )


def _is_cancelled(scope: StepScope) -> bool:
    """Whether somebody asked the step's task to stop, so that its CancelledError is not the step's own."""
    return scope.call.cancel_reason is not None or scope.task.cancelling() > 0


async def _in_time(scope: StepScope, attempt: Coroutine[Any, Any, Any]) -> Any:
    """Await one attempt, within the step's timeout if it has one. Parking stops the clock."""
    seconds = scope.step.timeout
    if seconds is None:
        return await attempt
    limit = asyncio.timeout(seconds)
    scope._timeout = limit
    try:
        async with limit:
            return await attempt
    except TimeoutError:
        if not limit.expired():
            raise  # the step's own
    finally:
        scope._timeout = None
    call = scope.call
    if scope.runner.chain.hears(StepTimedOut):
        notice = StepTimedOut(run=call.run, at=scope.runner.now(), call=call, timeout=seconds, attempt=scope.attempt)
        scope.runner.chain.notice(notice)
    raise StepTimeoutError(f"Step `{call.step}` ({call.config.place}) took longer than its timeout of {seconds:g} s")


async def _supplied(scope: StepScope, arguments: dict[str, Any], call: Callable[[], Awaitable[Any]]) -> Any:
    """Add the resources that the step asks for to its arguments, call it, and close those made for this attempt alone."""
    resources = scope.runner.resources
    assert resources is not None
    scope.in_thread = False  # an attempt before may have been in one
    async with resources.for_attempt(lambda: scope.context) as supply:
        for name, wanted in scope.step.config.resources.items():
            arguments[name] = await supply.get(wanted)
        return await call()


async def _in_thread(scope: StepScope, fn: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Call a plain function in a thread of its own. A thread cannot be stopped: cancelled, it is abandoned."""
    scope.in_thread = True
    future = pool.run(scope.runner.loop, contextvars.copy_context(), lambda: fn(**arguments))
    scope.runner.threads += 1
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        if future.done():
            raise
        for helper in tuple(scope.helpers or ()):
            helper.cancel("step ended")
        await _grace(scope, future)
        raise
    finally:
        scope.runner.threads -= 1


async def _grace(scope: StepScope, future: asyncio.Future[Any]) -> None:
    """Let the thread end by itself for a moment, then make its Context unusable and go on without it."""
    future.add_done_callback(_forget)
    await asyncio.wait([future], timeout=scope.runner.settings.cancel_grace)
    if not future.done():
        grace = scope.runner.settings.cancel_grace
        text = f"the thread of step `{scope.call.step}`, which was abandoned {grace:g} s after it was cancelled"
        scope.abandon(text)
        scope.runner.abandoned += (scope.call.step,)
        _log.warning("run %s of %s: %s still runs", scope.runner.run_id, scope.call.workflow, text)


_watchdog.step_callers.update(
    caller.__code__ for caller in (Dispatcher.dispatch, Dispatcher._recorded, Dispatcher._attempt, _in_time, _supplied)
)


def _forget(future: asyncio.Future[Any]) -> None:
    future.exception()  # nobody waits for it: it is not "never retrieved". Nobody cancels it either: it is shielded
