"""LangGraph: a state graph whose conditional edges choose what follows; `Send` fans out, an edge from the workers joins."""

from __future__ import annotations

import asyncio
import operator
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

from ._job import Job

NAME = "LangGraph"
PACKAGES = ("langgraph",)
LENGTH, FAN_OUT, RUNS = 300, 1_000, 1_000


class _Left(TypedDict):
    left: int


class _Items(TypedDict):
    count: int
    done: Annotated[list[int], operator.add]


class _Item(TypedDict):
    number: int


async def _turn(state: _Left) -> dict[str, Any]:
    return {"left": state["left"] - 1}


def _which(state: _Left) -> str:
    return "turn" if state["left"] else END


def _chain_graph() -> Any:
    graph = StateGraph(_Left)
    graph.add_node("turn", _turn)
    graph.add_edge(START, "turn")
    graph.add_conditional_edges("turn", _which, ["turn", END])
    return graph.compile()


def _spread(state: _Items) -> list[Send]:
    return [Send("work", {"number": number}) for number in range(state["count"])]


async def _work(state: _Item) -> dict[str, Any]:
    await asyncio.sleep(0)
    return {"done": [state["number"]]}


async def _join(state: _Items) -> dict[str, Any]:
    return {"count": len(state["done"])}


def _fan_out_graph() -> Any:
    graph = StateGraph(_Items)
    graph.add_node("work", _work, input_schema=_Item)
    graph.add_node("join", _join)
    graph.add_conditional_edges(START, _spread, ["work"])
    graph.add_edge("work", "join")
    graph.add_edge("join", END)
    return graph.compile()


async def _pass(state: _Left) -> dict[str, Any]:
    return {"left": state["left"]}


def _short_graph() -> Any:
    graph = StateGraph(_Left)
    graph.add_node("first", _pass)
    graph.add_node("second", _pass)
    graph.add_edge(START, "first")
    graph.add_edge("first", "second")
    graph.add_edge("second", END)
    return graph.compile()


def jobs() -> dict[str, Job]:
    """Return what is measured; its tracing is a hosted product, and is not."""
    chain, fan, short = _chain_graph(), _fan_out_graph(), _short_graph()

    async def run_chain() -> None:
        await chain.ainvoke({"left": LENGTH}, {"recursion_limit": LENGTH + 10})

    async def run_fan_out() -> None:
        state = await fan.ainvoke({"count": FAN_OUT, "done": []})
        assert state["count"] == FAN_OUT, f"{state['count']} of {FAN_OUT} items were joined"

    async def run_all() -> None:
        await asyncio.gather(*(short.ainvoke({"left": number}) for number in range(RUNS)))

    return {
        "chain": Job(items=LENGTH, work=run_chain),
        "fan-out": Job(items=FAN_OUT, work=run_fan_out),
        "runs": Job(items=RUNS, work=run_all, is_long=True),
    }


def traced_jobs() -> dict[str, Job]:
    """Return nothing."""
    return {}
