"""Finds or makes what an attempt, a run or a workflow needs: each resource once for its lifetime. Makes no tasks and no timers."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Generator, Hashable
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias, assert_never

from .._descriptors import Resource, ResourceConfig, ResourceDefinition, chain, own_problems
from ..context.state_store._turns import Turns
from ..errors import ResourceError
from ..events import Event, StartEvent
from ._files import load
from ._opened import Opened, close_all, close_last, enter

if TYPE_CHECKING:
    from . import ResourceManager

_log = logging.getLogger("tracedflow")

ContextOf: TypeAlias = Callable[[], object]
"""Returns the Context to give to a factory."""

_making: ContextVar[tuple[tuple[int, Resource], ...]] = ContextVar("tracedflow_making", default=())
"""The resources that are being made around this code, each with the id of whom for."""


@dataclass(slots=True, eq=False)
class Made:
    """A resource that is kept; `loop`: the only event loop that may use it."""

    resource: Resource
    value: Any
    loop: asyncio.AbstractEventLoop | None


class Kept:
    """The resources of one lifetime: each made once, even if many ask at the same time, and closed together."""

    def __init__(self) -> None:
        self.opened: list[Opened] = []
        self._made: dict[Hashable, list[Made]] = {}
        self._turns: dict[Hashable, Turns] = {}

    def all(self) -> list[Made]:
        """Return what is kept, in the order of the first request."""
        return [made for each in self._made.values() for made in each]

    async def obtain(self, key: Hashable, make: Callable[[], Awaitable[Made]]) -> Made:
        """Return what is kept under `key`, made now if it was not yet: by one of those who ask, while the others wait."""
        found = self._find(key)
        if found is not None:
            return found
        turns = self._turns.setdefault(key, Turns())
        turn = await turns.take()
        try:
            found = self._find(key)
            if found is None:
                self._drop_closed_loops()
                found = await make()
                self._made.setdefault(key, []).append(found)
            return found
        finally:
            turns.pass_on(turn)

    def _find(self, key: Hashable) -> Made | None:
        loop = asyncio.get_running_loop()
        return next((made for made in self._made.get(key, ()) if made.loop is None or made.loop is loop), None)

    def _drop_closed_loops(self) -> None:
        for opened in [each for each in self.opened if each.loop is not None and each.loop.is_closed()]:
            self.opened.remove(opened)
            name, place = opened.resource.name, opened.resource.place
            _log.warning(
                "resource `%s` (%s) was not closed before its event loop was; use `async with workflow:`, or workflow.aclose()", name, place
            )
        for key, made in self._made.items():
            self._made[key] = [each for each in made if each.loop is None or not each.loop.is_closed()]

    async def close(self, error: BaseException | None, *, loop_only: bool = False) -> BaseException | None:
        """Close what this event loop can, last entered first, and forget it; return the failure to raise.

        Args:
            error: what ended the lifetime, if an error did.
            loop_only: leave what any event loop may use.
        """
        loop = asyncio.get_running_loop()
        self._drop_closed_loops()
        mine = (loop,) if loop_only else (loop, None)
        for key, made in self._made.items():
            self._made[key] = [each for each in made if each.loop not in mine]
        closing = [each for each in self.opened if each.loop in mine]
        self.opened = [each for each in self.opened if each not in closing]
        return await close_all(closing, error)


class RunResources:
    """What one run has for its factories, and what was made for it."""

    def __init__(self, manager: ResourceManager, start_event: Event | None, context: ContextOf | None) -> None:
        self.manager = manager
        self.start_event = start_event
        self.context = context
        self.kept: Kept = Kept()
        self._files: dict[str, Any] = {}
        self._configs: dict[int, tuple[ResourceDefinition, Any]] = {}

    def config(self, wanted: ResourceDefinition) -> Any:
        """Return a configuration as this run sees it: as it was when it was first asked for."""
        known = self._configs.get(id(wanted))
        if known is None:
            known = self._configs[id(wanted)] = (wanted, load(wanted, self._files))
        return known[1]

    def for_attempt(self, context: ContextOf | None) -> Supply:
        """Return the supply of one attempt of a step, to be used with `async with`."""
        return Supply(self.manager, self, context)

    async def close(self, error: BaseException | None) -> None:
        """Close everything, last entered first; what fails is logged and noted on `error`."""
        await close_all(self.kept.opened, error)

    @property
    def is_open(self) -> bool:
        """Whether something is still to be closed."""
        return bool(self.kept.opened)

    async def close_last(self, error: BaseException | None) -> None:
        """Close what was entered last; what fails is logged and noted on `error`."""
        await close_last(self.kept.opened, error)


class Supply:
    """What one asker is supplied with: an attempt of a step, or the making of a resource that lives longer.

    What is not cached is made once for it, and closed with it.
    """

    def __init__(self, manager: ResourceManager, run: RunResources | None, context: ContextOf | None) -> None:
        self._manager = manager
        self._run = run
        self._context = context
        self._own: dict[Hashable, Any] = {}
        self.opened: list[Opened] = []
        self.loop: asyncio.AbstractEventLoop | None = None  # the only one that may use what was supplied

    async def __aenter__(self) -> Supply:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        failure = await close_all(self.opened, error)
        if failure is not None and error is None:
            raise failure

    async def get(self, wanted: ResourceDefinition) -> Any:
        """Return what a parameter asks for.

        Raises:
            ResourceError: it cannot be had as it is declared.
        """
        override = self._manager.overriding(wanted.resource)
        if override is not None:
            return override.value
        match wanted.resource:
            case ResourceConfig():
                return load(wanted, {}) if self._run is None else self._run.config(wanted)
            case Resource():
                return await self._resource(wanted.resource)
            case _:
                assert_never(wanted.resource)

    async def _resource(self, resource: Resource) -> Any:
        kept = self._kept_by(resource)
        with _link(self if kept is None else kept, resource):
            if kept is None:
                if resource.key not in self._own:
                    self._own[resource.key] = await self.build(resource)
                return self._own[resource.key]
            made = await kept.obtain((resource.key, self._manager.overrides_in(resource)), lambda: self._make_for(kept, resource))
        self.loop = self.loop or made.loop
        return made.value

    def _kept_by(self, resource: Resource) -> Kept | None:
        match resource.lifetime:
            case "attempt":
                return None
            case "workflow":
                return self._manager.kept
            case "run":
                if self._run is None:
                    raise ResourceError(f"resource `{resource.name}` ({resource.place}) lives for one run; only a step can ask for it")
                return self._run.kept
            case _:
                assert_never(resource.lifetime)

    async def _make_for(self, kept: Kept, resource: Resource) -> Made:
        """Make a resource that outlives this asker; what it needs for itself alone is closed with it."""
        supply = Supply(self._manager, self._run, None if self._run is None else self._run.context)
        try:
            value = await supply.build(resource)
        except BaseException as error:
            await close_all(supply.opened, error)
            raise
        kept.opened.extend(supply.opened)
        return Made(resource, value, supply.loop)

    async def build(self, resource: Resource) -> Any:
        """Call the factory with what it asks for, and enter what it makes."""
        problem = next(own_problems(resource), None)
        if problem is not None:
            raise ResourceError(" ".join(problem))
        needs = resource.needs()
        arguments = {name: await self.get(wanted) for name, wanted in needs.resources.items()}
        for name in needs.contexts:
            arguments[name] = self._given(resource, "Context", self._context)()
        for name, kind in needs.start_events.items():
            arguments[name] = self._start_event(resource, kind)
        made = resource.factory(**arguments)
        if inspect.iscoroutine(made):  # not any awaitable: some clients are, and are meant themselves
            made = await made
        value, opened = await enter(resource, made)
        if opened is not None:
            self.loop = opened.loop = self.loop or opened.loop
            self.opened.append(opened)
        return value

    def _start_event(self, resource: Resource, kind: type[StartEvent]) -> StartEvent:
        event = self._given(resource, "start event", None if self._run is None else self._run.start_event)
        if isinstance(event, kind):
            return event
        text = f"factory `{resource.name}` ({resource.place}) asks for {kind.__name__}, but the run started with {type(event).__name__}"
        raise ResourceError(text)

    def _given(self, resource: Resource, what: str, found: Any) -> Any:
        if found is None:
            raise ResourceError(f"factory `{resource.name}` ({resource.place}) asks for the {what} of a run; only a step can ask for it")
        return found


@contextmanager
def _link(owner: object, resource: Resource) -> Generator[None]:
    """Refuse to make a resource while it is being made for the same owner, by the same chain of factories."""
    above = _making.get()
    for number, (other, made) in enumerate(above):
        if other == id(owner) and made.key == resource.key:
            raise ResourceError(chain(tuple(each for _, each in above[number:]), resource))
    token = _making.set((*above, (id(owner), resource)))
    try:
        yield
    finally:
        _making.reset(token)
