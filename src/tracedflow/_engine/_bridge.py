"""From the threads of sync steps to the run's loop and back. The loop is never blocked; the threads are."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import threading
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._runner import Runner
    from ._scope import StepScope


def on_loop(scope: StepScope, act: Callable[..., None], *given: Any) -> None:
    """Do something to the run on its loop, from whatever thread, and come back when it is done."""
    on_loop_of(scope.runner, act, *given)


def on_loop_of(runner: Runner, act: Callable[..., None], *given: Any) -> None:
    """Do something to a run on its loop, from whatever thread, and come back when it is done."""
    if threading.get_ident() == runner.thread_id:
        act(*given)
        return
    done: concurrent.futures.Future[None] = concurrent.futures.Future()

    def call() -> None:
        try:
            act(*given)
        except BaseException as error:  # noqa: BLE001 - raised in the thread that asked
            done.set_exception(error)
        else:
            done.set_result(None)

    runner.loop.call_soon_threadsafe(call)
    done.result()


def block_on(scope: StepScope, make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run a coroutine on the run's loop and block this thread until it is done."""
    return submit(scope, make).result()


def submit(scope: StepScope, make: Callable[[], Coroutine[Any, Any, Any]]) -> concurrent.futures.Future[Any]:
    """Run a coroutine on the run's loop, in this step's context; it ends with the step."""
    done: concurrent.futures.Future[Any] = concurrent.futures.Future()
    context = contextvars.copy_context()

    def start() -> None:
        if scope.ended or scope.runner.is_over:
            done.cancel()
            return
        task = scope.runner.loop.create_task(make(), context=context)
        helpers = scope.helpers = scope.helpers or set()
        helpers.add(task)
        task.add_done_callback(helpers.discard)
        task.add_done_callback(finish)

    def finish(task: asyncio.Task[Any]) -> None:
        if task.cancelled():
            done.cancel()
        elif (error := task.exception()) is not None:
            done.set_exception(error)
        else:
            done.set_result(task.result())

    scope.runner.loop.call_soon_threadsafe(start)
    return done
