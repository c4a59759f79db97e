"""Permits of limits that other runs, maybe on other loops, share: asked for without blocking, waited for on the run's loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ..errors import LimitError

if TYPE_CHECKING:
    from ..limits import Limiter, Permit
    from ._runner import Runner
    from ._scope import StepScope


async def acquire(runner: Runner, limit: Limiter) -> Permit:
    """Wait for a permit of a limit that other runs, maybe on other loops, share."""
    granted: asyncio.Future[None] = runner.loop.create_future()

    def settle() -> None:
        if not granted.done():
            granted.set_result(None)

    def wake() -> None:
        runner.loop.call_soon_threadsafe(settle)

    permit = limit.request(wake, runner.clock.monotonic())
    if not permit.granted:
        if _ancestor_holds(runner, limit):
            permit.cancel()
            raise LimitError(
                f"Run {runner.run_id} of {runner.call.workflow} would wait for a permit of {limit.name!r} that the run which "
                "started it holds: neither could go on. Raise the limit, or start it with RunOptions(parent=None)"
            )
        try:
            await granted
        except asyncio.CancelledError:
            permit.cancel()
            raise
    delay = permit.not_before - runner.clock.monotonic()
    if delay > 0:
        try:
            await asyncio.sleep(delay)
        except asyncio.CancelledError:
            permit.cancel()
            raise
    return permit


async def acquire_for(scope: StepScope) -> None:
    """Wait for a permit of the step's shared limit, one for all its branches; the time counts as queued."""
    limit = scope.step.config.limit
    if limit is None:
        return
    scope._permit_lock = scope._permit_lock or asyncio.Lock()
    async with scope._permit_lock:
        if scope._permit is not None or scope.ended:
            return
        began = scope.runner.now()
        try:
            scope._permit = await acquire(scope.runner, limit)
        finally:
            waited = scope.runner.now() - began
            scope.call.limit_waits = (*scope.call.limit_waits, (limit.name, waited))
            scope.call.queued += waited if scope.parking is None else 0.0  # a parked attempt counts it when it goes on
    if scope.ended:  # a task that the step left behind asked for it
        scope.release_limit()


def _ancestor_holds(runner: Runner, limit: Limiter) -> bool:
    scope = runner.parent
    while scope is not None:
        if scope.holds(limit) or any(held is limit for held, _ in scope.runner.permits):
            return True
        scope = scope.runner.parent
    return False
