"""Resources that were entered: entering them, and closing them so that no error of it is lost. Knows nothing of who asked."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncGenerator, Generator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, cast

from .._descriptors import Resource
from ..errors import ResourceError

_log = logging.getLogger("tracedflow")


@dataclass(slots=True, eq=False)
class Opened:
    """A resource that was entered and is to be closed; `loop`: the only event loop that may."""

    resource: Resource
    manager: AbstractContextManager[Any] | AbstractAsyncContextManager[Any]
    is_async: bool
    loop: asyncio.AbstractEventLoop | None

    async def close(self, error: BaseException | None) -> None:
        """Leave it, as a `with` block does that ends with `error`; what it says about suppressing it is not asked."""
        kind, trace = (None, None) if error is None else (type(error), error.__traceback__)
        if self.is_async:
            await cast("AbstractAsyncContextManager[Any]", self.manager).__aexit__(kind, error, trace)
        else:
            cast("AbstractContextManager[Any]", self.manager).__exit__(kind, error, trace)


async def enter(resource: Resource, made: Any) -> tuple[Any, Opened | None]:
    """Return what the step gets of what a factory made, and what is to be closed later."""
    if not resource.needs().is_entered:
        return made, None
    manager = _manager_of(made)
    is_async = hasattr(manager, "__aenter__")
    if not is_async and not hasattr(manager, "__enter__"):
        raise ResourceError(
            f"factory `{resource.name}` ({resource.place}) made {type(made).__name__}, which cannot be entered; make a context manager"
        )
    value = await manager.__aenter__() if is_async else manager.__enter__()
    return value, Opened(resource, manager, is_async, asyncio.get_running_loop() if is_async else None)


def _manager_of(made: Any) -> Any:
    """Return the context manager that a factory made, or that its generator stands for."""
    if inspect.isgenerator(made):
        return contextmanager(lambda: cast("Generator[Any]", made))()
    if inspect.isasyncgen(made):
        return asynccontextmanager(lambda: cast("AsyncGenerator[Any]", made))()
    return made


async def close_last(opened: list[Opened], error: BaseException | None) -> BaseException | None:
    """Close what was entered last. If that fails, log it, note it on `error`, and return the failure."""
    last = opened.pop()
    try:
        await last.close(error)
    except BaseException as failure:  # noqa: BLE001 - the others must be closed too; the caller raises what is left to raise
        if failure is error:  # handed on, as a context manager may
            return None
        name = f"resource `{last.resource.name}` ({last.resource.place})"
        what = "was cut short, as it was cancelled or took too long" if isinstance(failure, asyncio.CancelledError) else "failed"
        if error is not None:
            error.add_note(f"closing {name} {what}: {type(failure).__name__}: {failure}".rstrip(": "))
        _log.error("closing %s %s", name, what, exc_info=failure)
        return failure
    return None


async def close_all(opened: list[Opened], error: BaseException | None) -> BaseException | None:
    """Close everything, last entered first; return the failure to raise, a cancellation before all others."""
    failures: list[BaseException] = []
    while opened:
        failure = await close_last(opened, error)
        if failure is not None:
            failures.append(failure)
    return next((each for each in failures if not isinstance(each, Exception)), next(iter(failures), None))
