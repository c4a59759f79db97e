"""pydantic-graph: a graph of typed steps; a decision branches on the type, a mapping edge fans out and a join reduces."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import logfire
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from pydantic_graph import Graph, GraphBuilder, StepContext, reduce_list_append

from .._spans import Nowhere
from ._job import Job

NAME = "pydantic-graph"
PACKAGES = ("pydantic-graph",)
LENGTH, FAN_OUT, RUNS = 1_000, 1_000, 1_000


@dataclass
class Tick:
    """An event of the chain."""

    left: int


@dataclass
class Done:
    """The end of the chain."""


def _chain_graph(*, traced: bool) -> Graph[None, None, int, Done]:
    builder = GraphBuilder(input_type=int, output_type=Done, auto_instrument=traced)

    @builder.step
    async def begin(ctx: StepContext[None, None, int]) -> Tick | Done:
        return Tick(ctx.inputs)

    @builder.step
    async def turn(ctx: StepContext[None, None, Tick]) -> Tick | Done:
        return Tick(ctx.inputs.left - 1) if ctx.inputs.left else Done()

    @builder.step
    async def end(ctx: StepContext[None, None, Done]) -> Done:
        return ctx.inputs

    which = builder.decision().branch(builder.match(Tick).to(turn)).branch(builder.match(Done).to(end))
    builder.add(
        builder.edge_from(builder.start_node).to(begin),
        builder.edge_from(begin, turn).to(which),
        builder.edge_from(end).to(builder.end_node),
    )
    return builder.build()


def _fan_out_graph() -> Graph[None, None, int, list[int]]:
    builder = GraphBuilder(input_type=int, output_type=list[int], auto_instrument=False)

    @builder.step
    async def spread(ctx: StepContext[None, None, int]) -> list[int]:
        return list(range(ctx.inputs))

    @builder.step
    async def work(ctx: StepContext[None, None, int]) -> int:
        await asyncio.sleep(0)
        return ctx.inputs

    join = builder.join(reduce_list_append, initial_factory=list[int])
    builder.add(
        builder.edge_from(builder.start_node).to(spread),
        builder.edge_from(spread).map().to(work),
        builder.edge_from(work).to(join),
        builder.edge_from(join).to(builder.end_node),
    )
    return builder.build()


def _short_graph() -> Graph[None, None, int, int]:
    builder = GraphBuilder(input_type=int, output_type=int, auto_instrument=False)

    @builder.step
    async def first(ctx: StepContext[None, None, int]) -> int:
        return ctx.inputs

    @builder.step
    async def second(ctx: StepContext[None, None, int]) -> int:
        return ctx.inputs

    builder.add(
        builder.edge_from(builder.start_node).to(first),
        builder.edge_from(first).to(second),
        builder.edge_from(second).to(builder.end_node),
    )
    return builder.build()


def jobs() -> dict[str, Job]:
    """Return what is measured without tracing."""
    chain, fan, short = _chain_graph(traced=False), _fan_out_graph(), _short_graph()

    async def run_fan_out() -> None:
        joined = len(await fan.run(inputs=FAN_OUT))
        assert joined == FAN_OUT, f"{joined} of {FAN_OUT} items were joined"

    async def run_all() -> None:
        await asyncio.gather(*(short.run(inputs=number) for number in range(RUNS)))

    return {
        "chain": Job(items=LENGTH, work=_runner(chain)),
        "fan-out": Job(items=FAN_OUT, work=run_fan_out),
        "runs": Job(items=RUNS, work=run_all, is_long=True),
    }


def traced_jobs() -> dict[str, Job]:
    """Switch tracing on, for the rest of the process, and return what is measured with it."""
    logfire.configure(send_to_logfire=False, console=False, additional_span_processors=[BatchSpanProcessor(Nowhere())])
    return {"chain traced": Job(items=LENGTH, work=_runner(_chain_graph(traced=True)))}


def _runner(chain: Graph[None, None, int, Done]) -> Any:
    async def run() -> None:
        await chain.run(inputs=LENGTH)

    return run
