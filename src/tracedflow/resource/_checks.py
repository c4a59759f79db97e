"""What is wrong with the resources of a workflow, found before a run needs them: its configuration files, and its factories on trial."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import TYPE_CHECKING

from .._descriptors import Resource, ResourceConfig, ResourceDefinition, asked_of_run
from .._problems import Problem
from ..decorators import StepConfig
from ..errors import ResourceError
from ._supply import RunResources

if TYPE_CHECKING:
    from . import ResourceManager


def config_problems(run: RunResources, steps: Iterable[StepConfig]) -> list[Problem]:
    """Read every configuration that the steps ask for, for a run that begins; return what is wrong with them."""
    found: list[Problem] = []
    for step in steps:
        for name, wanted in step.resources.items():
            for config in _configs_in(run.manager, wanted, ()):
                try:
                    run.config(config)
                except ResourceError as error:
                    found.append(_problem(step, name, f"{error}.", "Correct the file, or the ResourceConfig."))
    return found


async def trial_problems(manager: ResourceManager, steps: Iterable[StepConfig]) -> list[Problem]:
    """Make every resource that needs nothing of a run, and close it again; return what failed."""
    found: list[Problem] = []
    async with manager.for_trial() as trial:
        run = RunResources(trial, None, None)
        for step in steps:
            for name, wanted in step.resources.items():
                if _needs_run(wanted):
                    continue
                try:
                    async with run.for_attempt(None) as supply:
                        await supply.get(wanted)
                except Exception as error:  # noqa: BLE001 - whatever the factory raises is what was asked for
                    found.append(_problem(step, name, f"{type(error).__name__}: {error}.", "It was made on trial."))
        await run.close(None)
    return found


def _needs_run(wanted: ResourceDefinition) -> bool:
    resource = wanted.resource
    return isinstance(resource, Resource) and any(what != "scope" for _, what in asked_of_run(resource))


def _configs_in(manager: ResourceManager, wanted: ResourceDefinition, above: tuple[Hashable, ...]) -> Iterator[ResourceDefinition]:
    """Yield the configurations that a parameter asks for, itself or through its factories, but for those overridden."""
    resource = wanted.resource
    if manager.overriding(resource) is not None:
        return
    if isinstance(resource, ResourceConfig):
        yield wanted
    elif resource.key not in above:
        for nested in resource.needs().resources.values():
            yield from _configs_in(manager, nested, (*above, resource.key))


def _problem(step: StepConfig, parameter: str, text: str, remedy: str) -> Problem:
    return Problem(text=f"Step `{step.name}` ({step.place}), parameter `{parameter}`: {text}", remedy=remedy)
