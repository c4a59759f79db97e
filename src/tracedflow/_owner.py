"""What a workflow instance has to do with resources: it owns a manager, checks what its steps ask for, and can be closed."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from ._engine import _live
from ._engine._threads import run_in_own_loop
from ._graph import Graph
from ._problems import Problem
from .errors import WorkflowConfigurationError
from .events import Event
from .resource import ResourceManager
from .resource._checks import config_problems, trial_problems
from .resource._supply import RunResources

if TYPE_CHECKING:
    from typing import Self

    from .context import Context

_WAIT_FOR_RUNS = 5.0  # seconds, for those that are cancelled


class ResourceOwner:
    """The part of a workflow that owns its resources."""

    def _own(self, given: ResourceManager | None) -> None:
        if not isinstance(cast("object", given), ResourceManager | None):
            raise WorkflowConfigurationError(f"resource_manager={given!r} must be a ResourceManager, or None")
        self._resources = ResourceManager() if given is None else given
        self._owns_resources = given is None

    @property
    def resource_manager(self) -> ResourceManager:
        """What keeps the resources of this instance; with `.override(factory, value)` tests put others in their place."""
        return self._resources

    async def aclose(self) -> None:
        """Cancel the live runs of this instance, then close the resources that it kept. It may run again after it.

        A manager that was given as `resource_manager=` may have other users: who made it closes it. Without resources that
        need closing there is no need to call this. `async with workflow:` does it at the end of the block.

        Raises:
            BaseException: the first failure to close a resource; each is logged.
        """
        await self._close(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._close(error)

    async def _close(self, error: BaseException | None) -> None:
        loop = asyncio.get_running_loop()
        mine = [handler for handler in _live.runs() if handler._runner.workflow is self]
        for handler in mine:
            handler.get_loop().call_soon_threadsafe(handler._runner.cancel, "its workflow was closed")
        ending = [handler for handler in mine if handler.get_loop() is loop]
        try:
            if ending:
                await asyncio.wait(ending, timeout=_WAIT_FOR_RUNS)
        finally:
            if self._owns_resources:
                await self._resources.aclose(error)

    def _resources_of_run(self, graph: Graph, event: Event, context: Context[Any], *, check: bool) -> RunResources | None:
        """Return what a run has for its factories, with its configuration files read; None: its steps ask for no resource."""
        if not graph.has_resources:
            return None
        resources = self._resources.open_run(event, lambda: context)
        if check:
            graph.refuse(config_problems(resources, graph.steps.values()))
        return resources

    def _config_problems(self, graph: Graph) -> list[Problem]:
        """Return what is wrong with the configuration files."""
        return config_problems(self._resources.open_run(None, None), graph.steps.values())

    def _trial_problems(self, graph: Graph) -> list[Problem]:
        """Return what fails when the resources are made on trial, in an event loop of their own."""
        return run_in_own_loop(lambda: trial_problems(self._resources, graph.steps.values()))
