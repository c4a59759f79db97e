from __future__ import annotations

import asyncio
import itertools
import re
from collections import Counter
from typing import Any

import pytest

from examples._kit.cli import CORPUS
from examples._kit.model import ScriptedModel
from examples._kit.reading import all_tagged
from examples._kit.retrieve import HybridIndex, read_folder
from examples.workflows_cookbook import (
    FLOWS,
    MOST_ATTEMPTS,
    CollectFlow,
    GeneratorFlow,
    LoopFlow,
    SharedStateFlow,
    WaitFlow,
    coin_of,
    main,
    random_coin,
)
from tests.examples.keeping import KeepingModel
from tracedflow import Context, Middleware, draw_all_possible_flows_mermaid
from tracedflow.drawing import draw_most_recent_execution_mermaid
from tracedflow.middleware import StepCall, StepNext, StepResult
from tracedflow.representation import get_workflow_representation

FACTS = {"mill": "The mill burned down.", "heron": "The heron is grey."}


class Late(Middleware):
    """Lets steps begin late: each waits for as many turns of the loop as is said here."""

    def __init__(self, **turns: int) -> None:
        self.turns = turns

    async def step(self, call: StepCall, call_next: StepNext, /) -> StepResult:
        for _ in range(self.turns.get(call.step, 0)):
            await asyncio.sleep(0)
        return await call_next(call)


# --- generator ---


async def test_the_generator_asks_once_and_shows_the_model_what_was_found() -> None:
    model = KeepingModel()
    handler = GeneratorFlow(model, HybridIndex(read_folder(CORPUS / "handbook"))).run(query="When was the library opened?")
    text = await handler
    [asked] = model.asked
    assert any(text in passage.text for passage in all_tagged(asked.text, "passage"))
    assert [record.step for record in handler.record] == ["generate"]


# --- loop ---


@pytest.mark.parametrize(
    ("outcomes", "steps", "result"),
    [
        ("ok", "answer", "answered in attempt 1"),
        ("fail,improve,ok", "answer improve answer", "answered in attempt 2"),
        ("fail,improve,fail,improve,ok", "answer improve answer improve answer", "answered in attempt 3"),
        ("fail,give-up", "answer improve", "given up after attempt 1"),
    ],
)
async def test_the_loop_goes_as_the_coin_says(outcomes: str, steps: str, result: str) -> None:
    shown = [word in ("ok", "improve") for word in outcomes.split(",")]
    handler = LoopFlow(coin_of(shown)).run(query="Why?")
    assert (await handler).startswith(result)
    assert [record.step for record in handler.record] == steps.split()


async def test_what_was_improved_is_what_is_asked_again() -> None:
    assert (await LoopFlow(coin_of([False, True, False, True, True])).run(query="Why?")).endswith("Why? Please. Please.")


async def test_the_loop_ends_though_every_answer_fails() -> None:
    handler = LoopFlow(coin_of([False, True] * 1000)).run(query="Why?")
    assert (await handler).startswith(f"given up after attempt {MOST_ATTEMPTS}")
    assert Counter(record.step for record in handler.record) == {"answer": MOST_ATTEMPTS, "improve": MOST_ATTEMPTS}


async def test_a_seed_gives_the_same_run_each_time() -> None:
    async def run(seed: int) -> list[str]:
        handler = LoopFlow(random_coin(seed)).run(query="Why?")
        await handler
        return [record.step for record in handler.record]

    runs = [await run(seed) for seed in range(20)]
    assert runs == [await run(seed) for seed in range(20)]
    assert len({tuple(run) for run in runs}) > 3


# --- shared state ---


async def test_steps_share_what_is_in_the_store_and_runs_do_not() -> None:
    workflow = SharedStateFlow()
    both = workflow.run(query="mill", facts=FACTS), workflow.run(query="mill", facts={})
    assert list(await asyncio.gather(*both)) == [FACTS["mill"], None]


# --- waiting for data ---

DELAYS = [dict(zip(("data", "query"), turns, strict=True)) for turns in itertools.product((0, 1, 7), repeat=2)]


@pytest.mark.parametrize("delays", DELAYS, ids=str)
async def test_a_query_has_an_answer_once_another_run_brought_the_data_on_every_schedule(delays: dict[str, int]) -> None:
    workflow = WaitFlow(middleware=[Late(**delays)])
    ctx = Context(workflow)
    requests: list[dict[str, Any]] = [{"query": "mill"}, {"facts": FACTS}, {"query": "mill"}]
    assert [await workflow.run(ctx=ctx, **request) for request in requests] == [None, None, FACTS["mill"]]
    assert await workflow.run(ctx=Context(workflow), query="mill") is None
    assert await workflow.run(query="mill") is None


async def test_each_run_is_ended_by_the_step_that_owns_its_request() -> None:
    workflow = WaitFlow()
    for owner, other, request in (("data", "query", {"facts": FACTS}), ("query", "data", {"query": "mill"})):
        handler = workflow.run(**request)
        await handler
        emitted = {record.step: list(record.events_out) for record in handler.record}
        assert emitted[owner] != []
        assert emitted.get(other, []) == []


@pytest.mark.parametrize("request_", [{}, {"facts": FACTS, "query": "mill"}])
async def test_a_run_with_no_request_or_two_is_refused(request_: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="one request"):
        await WaitFlow().run(**request_)


# --- collecting ---

ENTRIES = ("setup", "take_input", "parse_query")


@pytest.mark.parametrize("order", list(itertools.permutations(ENTRIES)), ids="-".join)
async def test_the_join_gives_what_was_asked_for_in_that_order_whatever_came_first(order: tuple[str, ...]) -> None:
    late = Late(**{step: 10 * place for place, step in enumerate(order)})
    handler = CollectFlow(middleware=[late]).run(query="heron", facts=FACTS)
    assert await handler == {"parts": ["QueryEvent", "InputEvent", "SetupEvent"], "answer": FACTS["heron"]}
    records = handler.record
    ended = [record.step for record in sorted(records, key=lambda record: record.ended_at) if record.step in ENTRIES]
    assert ended == list(order)
    joins = [record for record in records if record.step == "run_query"]
    assert len(joins) == 3
    assert [bool(record.events_out) for record in joins] == [False, False, True]


async def test_the_set_up_happens_once_in_a_context_and_is_told_where_it_did_not() -> None:
    workflow = CollectFlow()
    assert (await workflow.run(query="heron"))["answer"] == "there is nothing to ask"
    ctx = Context(workflow)
    await workflow.run(ctx=ctx, query="heron", facts=FACTS)
    assert await ctx.store.get("is_set_up") is True
    assert (await workflow.run(ctx=ctx, query="mill", facts={"mill": "It turns."}))["answer"] == "It turns."


# --- drawing ---


async def drawn(workflow: Any, **request: Any) -> tuple[set[tuple[str, str]], list[tuple[str, str]], Any]:
    """Return the edges of all flows, those of the last run without its numbers, and the run."""
    handler = workflow.run(**request)
    await handler
    every = re.findall(r"(?:step|event)_(\w+) -+> (?:step|event)_(\w+)", draw_all_possible_flows_mermaid(workflow, filename=None))
    last = re.findall(r"(?:step|event)_(\w+) -+> (?:step|event)_(\w+)", draw_most_recent_execution_mermaid(handler, filename=None))
    return set(every), [(bare(one), bare(other)) for one, other in last], handler


def bare(name: str) -> str:
    return re.sub(r"^(?:outside|[a-z_]+_\d+)_(?=[A-Z])|_\d+$", "", name)


@pytest.mark.parametrize(
    ("workflow", "request_"),
    [
        (LoopFlow(coin_of([False, True, True])), {"query": "Why?"}),
        (LoopFlow(coin_of([False, False])), {"query": "Why?"}),
        (SharedStateFlow(), {"query": "mill", "facts": FACTS}),
        (CollectFlow(), {"query": "mill", "facts": FACTS}),
        (GeneratorFlow(ScriptedModel(), HybridIndex(read_folder(CORPUS / "handbook"))), {"query": "When was the library opened?"}),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_the_pictures_have_what_may_happen_and_what_happened(workflow: Any, request_: dict[str, Any]) -> None:
    every, last, handler = await drawn(workflow, **request_)
    assert every == {(edge.source, edge.target) for edge in get_workflow_representation(type(workflow)).edges}
    taken = [(kind, record.step) for record in handler.record for _, kind in record.events_in]
    made = [(record.step, kind) for record in handler.record for _, kind in record.events_out]
    assert Counter(last) == Counter(taken + made)
    assert set(last) <= every


# --- the program ---


def test_one_flow_is_played_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--flow", "loop", "--outcomes", "fail,give-up"]) == 0
    assert capsys.readouterr().out == "loop: given up after attempt 1: the coin was against it\n"
    assert main([]) == 0
    assert re.findall(r"^(\w+):", capsys.readouterr().out, re.MULTILINE) == list(FLOWS)


def test_what_cannot_be_asked_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["Who are you?"]) == 3
    assert "library" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--outcomes", "ok,perhaps"])
    assert "'perhaps' is none of ok" in capsys.readouterr().err
