"""Burr: a state machine of actions. It fans out over whole applications only, which is other work, so that is left out."""

from __future__ import annotations

import asyncio
from typing import Any

from burr.core import Application, ApplicationBuilder, Condition, GraphBuilder, State, action, default
from burr.integrations.opentelemetry import OpenTelemetryBridge

from .._spans import batching_provider
from ._job import Job

NAME = "Burr"
PACKAGES = ("apache-burr",)
LENGTH, RUNS = 1_000, 1_000


@action(reads=["left"], writes=["left"])
async def turn(state: State[Any]) -> State[Any]:
    """Count down."""
    return state.update(left=state["left"] - 1)


@action(reads=["left"], writes=["left"])
async def pause(state: State[Any]) -> State[Any]:
    """Pass the number on."""
    return state.update(left=state["left"])


@action(reads=["left"], writes=[])
async def end(state: State[Any]) -> State[Any]:
    """End the run."""
    return state


def _chain(*hooks: Any) -> Application[Any]:
    return (
        ApplicationBuilder()
        .with_actions(turn=turn, end=end)
        .with_transitions(("turn", "turn", Condition.expr("left > 0")), ("turn", "end", default))
        .with_state(left=LENGTH)
        .with_entrypoint("turn")
        .with_hooks(*hooks)
        .build()
    )


_SHORT = GraphBuilder().with_actions(first=pause, second=pause, end=end).with_transitions(("first", "second"), ("second", "end")).build()


def _short(number: int) -> Application[Any]:
    return ApplicationBuilder().with_graph(_SHORT).with_state(left=number).with_entrypoint("first").build()


def _runner(*hooks: Any) -> Any:
    async def run() -> None:
        _, _, state = await _chain(*hooks).arun(halt_before=["end"])
        assert state["left"] == 0, f"the chain ended with {state['left']} left"

    return run


async def _runs() -> None:
    await asyncio.gather(*(_short(number).arun(halt_before=["end"]) for number in range(RUNS)))


def jobs() -> dict[str, Job]:
    """Return what is measured without tracing."""
    return {"chain": Job(items=LENGTH, work=_runner()), "runs": Job(items=RUNS, work=_runs, is_long=True)}


def traced_jobs() -> dict[str, Job]:
    """Return what is measured with tracing."""
    bridge = OpenTelemetryBridge(tracer=batching_provider().get_tracer("burr"))
    return {"chain traced": Job(items=LENGTH, work=_runner(bridge))}
