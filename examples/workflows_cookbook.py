"""A tour in six small flows: one step, a loop, shared state, data that comes in another run, a join of three, the pictures.

Each flow is a few lines; `--flow` plays one of them, and without it all are played. What to look for: in the loop, both steps may
end the run, and there is a bound. State that a later run needs is in the Context that both runs are given, not on the workflow.
Where several steps take the start event, only the one that owns the request ends the run; the others return None. And a join
gives its events in the order in which they were asked for, whatever order they came in.

```mermaid
flowchart LR
  start([StartEvent]) --> answer -->|FailedEvent| improve -->|QueryEvent| answer --> stop([StopEvent])
  improve --> stop
  start2([StartEvent]) --> setup2[setup] -->|SetupEvent| run_query --> stop2([StopEvent])
  start2 --> take_input -->|InputEvent| run_query
  start2 --> parse_query -->|QueryEvent| run_query
```

`python -m examples.workflows_cookbook [QUESTION] [--flow NAME] [--outcomes fail,improve,ok | --seed N]`. After LlamaIndex's
"Workflow Cookbook". There, the waiting flow is a race that 50 milliseconds lose, and the set-up of the joining one never happens.
"""

from __future__ import annotations

import random
import re
import sys
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from examples._kit.cli import NotFoundError, Stage, run_example
from examples._kit.model import Model
from examples._kit.reading import sentences
from examples._kit.retrieve import HybridIndex, read_folder
from tracedflow import Context, Event, StartEvent, StopEvent, Workflow, draw_all_possible_flows_mermaid, step
from tracedflow.drawing import draw_most_recent_execution_mermaid

QUESTION = "When was the library opened?"
MOST_ATTEMPTS = 6
OUTCOMES = {"ok": True, "improve": True, "fail": False, "give-up": False}  # what a step does whose coin shows this

ANSWER = """\
Answer the question from the passages alone, in one sentence. If they do not hold the answer, write NOT FOUND.

{passages}
<question>{question}</question>"""

Coin = Callable[[], bool]
Facts = dict[str, str]  # what a word of the handbook is about


class FailedEvent(Event):
    error: str
    query: str
    attempt: int


class QueryEvent(Event):
    query: str
    attempt: int = 1


class SetupEvent(Event):
    error: bool


class InputEvent(Event):
    input: Facts


class GeneratorFlow(Workflow):
    """1. One step, one call of a model."""

    def __init__(self, model: Model, index: HybridIndex, **options: Any) -> None:
        super().__init__(**options)
        self.model, self.index = model, index

    @step
    async def generate(self, ev: StartEvent) -> StopEvent:
        found = [hit.chunk for hit in self.index.search(ev.query, 4)]
        passages = "\n".join(f'<passage title="{chunk.title}">\n{chunk.text}\n</passage>' for chunk in found)
        prompt = ANSWER.format(passages=passages, question=ev.query)
        return StopEvent(result=await self.model.complete(prompt, prompt_name="workflows_cookbook.generate"))


class LoopFlow(Workflow):
    """2. A loop: what failed is improved and asked again, as long as the coin and the bound allow it."""

    def __init__(self, coin: Coin, **options: Any) -> None:
        super().__init__(**options)
        self.coin = coin

    @step
    async def answer(self, ev: StartEvent | QueryEvent) -> FailedEvent | StopEvent:
        attempt = ev.attempt if isinstance(ev, QueryEvent) else 1
        if self.coin():
            return StopEvent(result=f"answered in attempt {attempt}: {ev.query}")
        return FailedEvent(error="the coin was against it", query=ev.query, attempt=attempt)

    @step
    async def improve(self, ev: FailedEvent) -> QueryEvent | StopEvent:
        if ev.attempt >= MOST_ATTEMPTS or not self.coin():
            return StopEvent(result=f"given up after attempt {ev.attempt}: {ev.error}")
        return QueryEvent(query=f"{ev.query} Please.", attempt=ev.attempt + 1)


class SharedStateFlow(Workflow):
    """3. State that the steps of a run share is in the store of its Context."""

    @step
    async def setup(self, ctx: Context, ev: StartEvent) -> QueryEvent:
        await ctx.store.set("some_database", ev.facts)
        return QueryEvent(query=ev.query)

    @step
    async def query(self, ctx: Context, ev: QueryEvent) -> StopEvent:
        return StopEvent(result=(await ctx.store.get("some_database")).get(ev.query))


class WaitFlow(Workflow):
    """4. Data that comes in a later run: a query gives None until then. The runs share a Context."""

    @step
    async def data(self, ctx: Context, ev: StartEvent) -> StopEvent | None:
        if ("facts" in ev) == ("query" in ev):
            raise ValueError("a run takes one request: facts=... or query=...")
        if "facts" not in ev:
            return None
        await ctx.store.set("facts", ev.facts)
        return StopEvent(result=None)

    @step
    async def query(self, ctx: Context, ev: StartEvent) -> StopEvent | None:
        if "query" not in ev:
            return None
        return StopEvent(result=(await ctx.store.get("facts", default={})).get(ev.query))


class CollectFlow(Workflow):
    """5. A join: three steps work on the start event, and the last step goes on when it has something of each."""

    @step
    async def setup(self, ctx: Context, ev: StartEvent) -> SetupEvent:
        if not await ctx.store.get("is_set_up", default=False):
            await ctx.store.set("is_set_up", "facts" in ev and bool(ev.facts))
        return SetupEvent(error=not await ctx.store.get("is_set_up"))

    @step
    async def take_input(self, ev: StartEvent) -> InputEvent:
        return InputEvent(input=ev.get("facts") or {})

    @step
    async def parse_query(self, ev: StartEvent) -> QueryEvent:
        return QueryEvent(query=ev.query)

    @step
    async def run_query(self, ctx: Context, ev: InputEvent | SetupEvent | QueryEvent) -> StopEvent | None:
        parts = ctx.collect_events(ev, [QueryEvent, InputEvent, SetupEvent])
        if parts is None:
            return None
        query, given, setup = parts
        answer = "there is nothing to ask" if setup.error else given.input.get(query.query)
        return StopEvent(result={"parts": [type(part).__name__ for part in parts], "answer": answer})


# --- playing them ---


def coin_of(outcomes: Iterable[bool]) -> Coin:
    """Return a coin that shows these, and heads ever after."""
    left = iter(outcomes)
    return lambda: next(left, True)


def random_coin(seed: int) -> Coin:
    chance = random.Random(seed)
    return lambda: chance.random() < 0.5


async def generator(stage: Stage, facts: Facts, topic: str) -> Any:
    index = HybridIndex(read_folder(stage.data / "handbook"))
    text = await stage.run(GeneratorFlow(stage.model, index), query=stage.question)
    if "NOT FOUND" in text:
        raise NotFoundError(stage.question)
    return text


async def loop(stage: Stage, facts: Facts, topic: str) -> Any:
    return await stage.run(_loop_flow(stage), query=stage.question)


async def shared(stage: Stage, facts: Facts, topic: str) -> Any:
    return await stage.run(SharedStateFlow(), query=topic, facts=facts)


async def wait(stage: Stage, facts: Facts, topic: str) -> Any:
    workflow = WaitFlow()
    ctx = Context(workflow)
    return [await stage.run(workflow, ctx=ctx, **request) for request in ({"query": topic}, {"facts": facts}, {"query": topic})]


async def collect(stage: Stage, facts: Facts, topic: str) -> Any:
    return await stage.run(CollectFlow(), query=topic, facts=facts)


async def drawing(stage: Stage, facts: Facts, topic: str) -> Any:
    """6. What a workflow may do, and what its last run did, as Mermaid; `--draw` does it as a page."""
    workflow = _loop_flow(stage)
    await stage.run(workflow, query=stage.question)
    last = re.sub(r"<br/>[^\"]*", "", draw_most_recent_execution_mermaid(stage.handlers[-1], filename=None))  # how long it took
    return {"may do": draw_all_possible_flows_mermaid(workflow, filename=None), "did": last}


FLOWS = {flow.__name__: flow for flow in (generator, loop, shared, wait, collect, drawing)}


def _loop_flow(stage: Stage) -> LoopFlow:
    outcomes = stage.arguments.outcomes
    return LoopFlow(random_coin(stage.arguments.seed) if outcomes is None else coin_of(outcomes))


async def play(stage: Stage) -> str:
    paths = sorted((stage.data / "handbook").glob("*.md"))
    facts = {path.stem: next(iter(sentences(path.read_text(encoding="utf-8"))), "") for path in paths}
    topic = next((word for word in facts if word in stage.question.lower()), "")
    if not facts or not topic:
        raise NotFoundError(f"a word of the handbook in {stage.question!r}; it knows {', '.join(facts) or 'none'}")
    names = list(FLOWS) if stage.arguments.flow == "all" else [stage.arguments.flow]
    return "\n".join([f"{name}: {_shown(await FLOWS[name](stage, facts, topic))}" for name in names])


def _shown(result: Any) -> str:
    return "".join(f"\n  {key}: {value}" for key, value in result.items()) if isinstance(result, dict) else str(result)


def outcomes_of(text: str) -> list[bool]:
    if wrong := [word for word in text.split(",") if word not in OUTCOMES]:
        raise ArgumentTypeError(f"{wrong[0]!r} is none of {', '.join(OUTCOMES)}")
    return [OUTCOMES[word] for word in text.split(",")]


def flags(parser: ArgumentParser) -> None:
    parser.add_argument("--flow", choices=["all", *FLOWS], default="all", help="play this one alone")
    parser.add_argument("--outcomes", type=outcomes_of, metavar="WORDS", help="what the coin of the loop shows, as fail,improve,ok")
    parser.add_argument("--seed", type=int, default=22, metavar="N", help="of the coin, if --outcomes is not given (default 22)")


def main(argv: Sequence[str] | None = None) -> int:
    return run_example(play, __doc__, QUESTION, argv, flags=flags)


if __name__ == "__main__":
    sys.exit(main())
