"""Resources: what steps get besides events. Made by factories or read from files, shared, and closed when nobody needs them.

It knows nothing of how runs and steps are scheduled; a run says when it begins and ends.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

from .._descriptors import Resource, ResourceConfig, ResourceDefinition, ResourceDescriptor
from ..events import Event
from ._opened import close_all
from ._supply import ContextOf, Kept, RunResources, Supply

if TYPE_CHECKING:
    from typing import Self

__all__ = ["Resource", "ResourceConfig", "ResourceDefinition", "ResourceDescriptor", "ResourceManager"]

OverrideTarget: TypeAlias = str | Callable[..., Any] | ResourceDescriptor
"""What can be overridden: a factory, its name, or a descriptor; a configuration also by its file or label."""


@dataclass(slots=True, eq=False)
class _Override:
    target: OverrideTarget
    value: Any


class ResourceManager:
    """Keeps the resources that live as long as a workflow. Each workflow instance makes its own, unless it is given one.

    Two workflows that are given the same one share what is cached; `async with ResourceManager() as manager:` closes it.
    It may be used again after it was closed, and from several event loops: what an async generator or async context manager
    gave belongs to the loop it was entered in, and each loop gets its own.
    """

    def __init__(self) -> None:
        self.kept: Kept = Kept()
        self._overrides: list[_Override] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose(error)

    # --- for programs and tests ---

    async def get(self, resource: ResourceDescriptor, type_annotation: Any = Any) -> Any:
        """Return a resource as a step gets it, made now if it was not yet. One that is not cached is closed by `aclose`.

        Args:
            resource: what to get.
            type_annotation: what a configuration is validated into.

        Raises:
            ResourceError: it cannot be had as it is declared, or it needs a run.
        """
        supply = Supply(self, None, None)
        try:
            value = await supply.get(ResourceDefinition("resource", resource, type_annotation))
        except BaseException as error:
            await close_all(supply.opened, error)
            raise
        self.kept.opened.extend(supply.opened)
        return value

    async def set(self, target: OverrideTarget, value: Any) -> None:
        """Give `value` wherever `target` is asked for, in place of what its factory makes. It is never closed.

        Args:
            target: a factory, its name, or a descriptor; a configuration also by its file or label.
            value: given as it is, neither called nor entered.
        """
        self._overrides.append(_Override(target, value))

    @contextmanager
    def override(self, target: OverrideTarget, value: Any) -> Generator[None]:
        """Do as `set` inside a `with` block. What was made with the value is not found again after it."""
        override = _Override(target, value)
        self._overrides.append(override)
        try:
            yield
        finally:
            self._overrides.remove(override)

    def get_all(self) -> dict[str, Any]:
        """Return what is kept, by the name of its factory, and what was set by name. Of two with one name, the later."""
        kept = {made.resource.name: made.value for made in self.kept.all()}
        return kept | {_name_of(each.target): each.value for each in self._overrides}

    async def aclose(self, error: BaseException | None = None) -> None:
        """Close what is kept, last made first, and forget it. Each is tried; failures are logged.

        Args:
            error: what ended its use, if an error did: it is thrown into generators, and failures are noted on it.

        Raises:
            BaseException: the first failure to close, if there was no `error`.
        """
        failure = await self.kept.close(error)
        if failure is not None and error is None:
            raise failure

    # --- for the engine ---

    def for_trial(self) -> ResourceManager:
        """Return one that has the same overrides and keeps nothing yet."""
        trial = ResourceManager()
        trial._overrides = list(self._overrides)
        return trial

    def open_run(self, start_event: Event | None, context: ContextOf | None) -> RunResources:
        """Return what a run that begins has for its factories."""
        return RunResources(self, start_event, context)

    async def leave_loop(self) -> None:
        """Close what only this event loop can use, because the loop ends. Failures are logged."""
        await self.kept.close(None, loop_only=True)

    def overriding(self, resource: ResourceDescriptor) -> _Override | None:
        """Return what is given in place of a resource; the last that was set counts."""
        return next((each for each in reversed(self._overrides) if resource.is_named(each.target)), None)

    def overrides_in(self, resource: Resource) -> Hashable:
        """Return what is overridden in all that a resource needs: with other overrides it is another object."""
        return frozenset(self._found_in(resource, ()) if self._overrides else ())

    def _found_in(self, resource: Resource, above: tuple[Hashable, ...]) -> Generator[_Override]:
        if resource.key in above:
            return
        for wanted in resource.needs().resources.values():
            override = self.overriding(wanted.resource)
            if override is not None:
                yield override
            elif isinstance(wanted.resource, Resource):
                yield from self._found_in(wanted.resource, (*above, resource.key))


def _name_of(target: OverrideTarget) -> str:
    if isinstance(target, str):
        return target
    return target.name if isinstance(target, Resource | ResourceConfig) else str(getattr(target, "__name__", target))
