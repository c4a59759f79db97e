from __future__ import annotations

import warnings
from typing import Any

import pytest

import tracedflow
from tracedflow import Middleware, Observer, StartEvent, StepCall, StopEvent, Workflow, step
from tracedflow.middleware import StepNext, StepResult


class Flow(Workflow):
    @step
    async def only(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result="done")


class Order(Middleware):
    """Writes its name down when a step passes it."""

    def __init__(self, name: str, seen: list[str]) -> None:
        self.name = name
        self.seen = seen

    async def step(self, call: StepCall, call_next: StepNext, /) -> StepResult:
        self.seen.append(self.name)
        return await call_next(call)


async def test_configured_layers_are_outside_those_of_an_instance() -> None:
    seen: list[str] = []
    tracedflow.configure(middleware=[Order("everywhere", seen)])
    await Flow(middleware=[Order("here", seen)]).run()
    assert seen == ["everywhere", "here"]


@pytest.mark.parametrize("wrong", [Observer, "layer", None])
def test_what_is_no_layer_is_refused_when_it_is_given(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"Observer\(\)|subclass tracedflow.Middleware"):
        tracedflow.configure(middleware=[wrong])
    with pytest.raises(TypeError, match=r"Observer\(\)|subclass tracedflow.Middleware"):
        Flow(middleware=[wrong])


async def test_configuring_after_a_run_warns_once_and_holds_for_new_instances() -> None:
    seen: list[str] = []
    old = Flow()
    await old.run()
    with pytest.warns(UserWarning, match="after a workflow had run"):
        tracedflow.configure(middleware=[Order("late", seen)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tracedflow.configure(telemetry=True)
    await old.run()
    assert seen == []
    await Flow().run()
    assert seen == ["late"]


@pytest.mark.parametrize(
    ("configured", "given", "on"), [(False, None, False), (False, True, True), (True, False, False), (True, None, True)]
)
async def test_what_an_instance_says_of_telemetry_wins_over_what_is_configured(
    configured: bool, given: bool | None, on: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    tracedflow.configure(telemetry=configured)
    await Flow(telemetry=given, verbose=True).run()  # the console is a part of telemetry
    assert bool(capsys.readouterr().err) is on
