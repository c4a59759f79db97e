"""What the engine makes for each event and each step keeps its attributes in an array, whatever ran before it in the process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = """
import asyncio, gc
from collections import Counter

from benchmarks._fanout import KINDS, FanOut, Item, Done, fan_out_of
from opentelemetry.sdk.trace import TracerProvider
from tracedflow import step, telemetry

MADE = {"Envelope", "Execution", "StepScope", "StepCall"}
seen, with_dict = Counter(), Counter()


class Looking(FanOut):
    @step
    async def work(self, ev: Item) -> Done:
        await asyncio.sleep(0)
        if ev.number == 30:
            for each in gc.get_objects():
                if type(each).__name__ in MADE:
                    seen[type(each).__name__] += 1
                    dicts = [held for held in gc.get_referents(each) if type(held) is dict]
                    with_dict[type(each).__name__] += any({"id", "runner", "run"} & set(each) for each in dicts)
        return Done(number=ev.number)


class LookingAtLists(KINDS["list[E]"]):
    work = Looking.work


KINDS |= {"looking": Looking, "looking at lists": LookingAtLists}


async def main():
    for options in ({"telemetry": False}, {"middleware": [telemetry.Tracing(tracer_provider=TracerProvider())]}):
        for kind in ("collect_events", "looking at lists", "looking"):
            await fan_out_of(kind, 60, **options)()


asyncio.run(main())
assert set(seen) == MADE, seen
assert not +with_dict, (seen, with_dict)
"""


def test_no_dict_is_made_for_what_each_event_and_each_step_need() -> None:
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    subprocess.run([sys.executable, "-c", PROGRAM], env={**os.environ, "PYTHONPATH": path}, timeout=60, check=True)
