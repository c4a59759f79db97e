"""Work side by side: a fan-out over a bounded number of workers, a join, and restarts from the middle of it.

A file is cut into slices, and each slice is an event. `num_workers` says how many of them one step works on at the same time;
the others queue. Results come in the order in which they are ready, so each carries its index, and the join puts them in order.
Then the run is started again from the checkpoint after each slice: what was done is not done again, and the result is the same.

```mermaid
flowchart LR
  begin([StartEvent]) --> start -->|ProcessEvent x n| process_data -->|ResultEvent x n| combine_results --> stop([StopEvent: Combined])
```

`python -m examples.parallel_execution [--items N] [--workers K] [--file FILE]`. After LlamaIndex's "Parallel Execution of Same
Event Example"; its last part, the checkpoints, does not run there any more.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

from pydantic import BaseModel

from examples._kit.cli import NotFoundError, Stage, WrongInputError, run_example
from tracedflow import Context, Event, StartEvent, StopEvent, Workflow, WorkflowCheckpointer, step
from tracedflow.records import AttemptRecord

FILE = "crew.json"  # in the data, if no other file is named
ITEMS, WORKERS = 3, 3
PIECES = 4  # that a slice is hashed in, with a pause after each
PAUSE = 0.01  # seconds: stands for a disk or a server


class Job(StartEvent):
    text: str
    slices: int


class ProcessEvent(Event):
    index: int
    data: str


class ResultEvent(Event):
    index: int
    result: str


class Combined(BaseModel):
    slices: list[str]  # the digest of each, in the order of the file
    sha256: str  # over those


class ParallelFlow(Workflow):
    @step
    async def start(self, ctx: Context, ev: Job) -> ProcessEvent | None:
        await ctx.store.set("num_to_collect", ev.slices)
        for index, data in enumerate(sliced(ev.text, ev.slices)):
            ctx.send_event(ProcessEvent(index=index, data=data))
        return None

    @step(num_workers=WORKERS)
    async def process_data(self, ev: ProcessEvent) -> ResultEvent:
        digest = hashlib.sha256()
        for piece in sliced(ev.data, PIECES):
            digest.update(piece.encode())
            await self.pause(ev)
        return ResultEvent(index=ev.index, result=digest.hexdigest())

    @step
    async def combine_results(self, ctx: Context, ev: ResultEvent) -> StopEvent | None:
        results = ctx.collect_events(ev, [ResultEvent] * await ctx.store.get("num_to_collect"))
        if results is None:
            return None
        slices = [each.result for each in sorted(results, key=lambda each: each.index)]
        return StopEvent(result=Combined(slices=slices, sha256=hashlib.sha256("".join(slices).encode()).hexdigest()))

    async def pause(self, ev: ProcessEvent) -> None:
        await asyncio.sleep(PAUSE)


def with_workers(workers: int, flow: type[ParallelFlow] = ParallelFlow) -> type[ParallelFlow]:
    """Return the workflow with another number of workers: a step is overridden as any method is."""

    class Sized(flow):  # type: ignore[misc, valid-type]
        @step(num_workers=workers)
        async def process_data(self, ev: ProcessEvent) -> ResultEvent:
            result: ResultEvent = await super().process_data(ev)
            return result

    return Sized


def sliced(text: str, count: int) -> list[str]:
    """Return a text in this many parts, as equal as can be."""
    cuts = [len(text) * at // count for at in range(count + 1)]
    return [text[first:last] for first, last in pairwise(cuts)]


def at_once(records: Iterable[AttemptRecord]) -> int:
    """Return how many executions of `process_data` ran at the same time at most: it is in the records of the run."""
    spans = [(record.started_at, record.ended_at) for record in records if record.step == "process_data"]
    return max((sum(began <= moment < ended for began, ended in spans) for moment, _ in spans), default=0)


async def play(stage: Stage) -> str:
    arguments = stage.arguments
    path = Path(arguments.file or stage.data / FILE)
    keeper = WorkflowCheckpointer(with_workers(arguments.workers)(timeout=60, workflow_name="ParallelFlow"))
    handler = keeper.run(text=_text_of(path), slices=arguments.items)
    combined: Combined = await stage.follow(handler)
    lines = [f"{arguments.items} slices of {path.name} by {arguments.workers} workers, {at_once(handler.record)} at once"]
    lines += [f"  {index}: {digest}" for index, digest in enumerate(combined.slices)]
    lines.append(f"  all: {combined.sha256}")
    assert handler.run_id is not None
    for done, checkpoint in enumerate(keeper.filter_checkpoints(handler.run_id, "process_data"), start=1):
        print(f"Again, from where {done} of them were done:", file=sys.stderr)
        again = keeper.run_from(checkpoint)
        same = "the same" if await stage.follow(again) == combined else "not the same"
        left = sum(record.step == "process_data" for record in again.record)
        lines.append(f"again from after {done}: {left} left to do, the result is {same}")
    return "\n".join(lines)


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFoundError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise WrongInputError(f"{path} is not a text file: {error}") from None


def flags(parser: ArgumentParser) -> None:
    parser.add_argument("--items", type=_count, default=ITEMS, metavar="N", help=f"slices (default {ITEMS})")
    parser.add_argument("--workers", type=_count, default=WORKERS, metavar="K", help=f"slices in hand at a time (default {WORKERS})")
    parser.add_argument("--file", metavar="FILE", help=f"what is cut (default: {FILE} of the data)")


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 100:
        raise ArgumentTypeError(f"must be a number from 1 to 100, not {text}")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    return run_example(play, __doc__, None, argv, flags=flags, needs_model=False)


if __name__ == "__main__":
    sys.exit(main())
