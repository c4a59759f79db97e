"""Mistakes in layers and resources: on each line that says `# error`, both type checkers find one."""

from __future__ import annotations

from tracedflow import AttemptCall, Middleware, Notice, Observer, RunCall, StepCall, StopEvent, Workflow, configure
from tracedflow.middleware import AttemptNext, RunNext, StepNext, StepResult
from tracedflow.resource import Resource, ResourceConfig, ResourceManager


class WrongCall(Middleware):
    async def step(self, call: RunCall, call_next: StepNext, /) -> StepResult:  # error
        return None


class NotAsync(Observer):
    def run(self, call: RunCall, call_next: RunNext, /) -> StopEvent | None:  # error
        return None


class TooFew(Observer):
    async def attempt(self, call: AttemptCall, /) -> StepResult:  # error
        return None


class WrongResult(Middleware):
    async def step(self, call: StepCall, call_next: StepNext, /) -> int:  # error
        return 3


class AsyncNotice(Observer):
    async def on(self, notice: Notice, /) -> None:  # error
        return None


class WrongKinds(Observer):
    hears = (int,)  # error


class WrongAttempts(Observer):
    attempts_of = "some"  # error


class WrongUse(Middleware):
    async def step(self, call: StepCall, call_next: StepNext, /) -> StepResult:
        await call_next()  # error
        call.step_name()  # error
        call.execution.upper()  # error
        return call_next(call)  # error

    async def run(self, call: RunCall, call_next: RunNext, /) -> StopEvent | None:
        call.no_such_field()  # error
        return await call_next("x")  # error

    async def attempt(self, call: AttemptCall, call_next: AttemptNext, /) -> StepResult:
        call.step.inputs.append(1)  # error
        return await call_next(call.step)  # error

    def on(self, notice: Notice, /) -> None:
        notice.delay()  # error


def lists() -> None:
    Workflow(middleware=WrongUse())  # error
    Workflow(middleware=[WrongUse])  # error
    configure(middleware=[3])  # error
    configure(layers=[])  # error
    Workflow(resource_manager=3)  # error


def factory() -> int:
    return 3


def resources() -> None:
    Resource()  # error
    Resource(3)  # error
    Resource(factory, cache="no")  # error
    Resource(factory, scope="day")  # error
    ResourceConfig()  # error
    ResourceConfig(3)  # error
    ResourceManager().override(3, 4)  # error


async def manager() -> None:
    await ResourceManager().set(factory)  # error
    await ResourceManager().get(factory)  # error
