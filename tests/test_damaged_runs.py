"""A saved run whose parts do not fit together is refused when it is loaded, and the message says which."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from tracedflow import (
    Context,
    ContextSerdeError,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StopEvent,
    Workflow,
    step,
)
from tracedflow._engine import _state as st
from tracedflow._engine._snapshot import dump_input
from tracedflow.testing import run_virtual


class Item(Event):
    n: int = 0


class Left(Event):
    n: int = 0


class Right(Event):
    n: int = 0


class Note(Event):
    pass


class Ask(InputRequiredEvent):
    pass


class Answer(HumanResponseEvent):
    n: int = 0


class Both(Workflow):
    """Saved while it has a list, a wait, a half full join of each kind, a memo and an event that nobody took yet."""

    @step
    async def start(self, ctx: Context, ev: StartEvent) -> list[Item]:
        ctx.send_event(Note())
        return [Item(n=1), Item(n=2)]

    @step
    async def work(self, ctx: Context, ev: Item) -> Left | Right:
        await ctx.once("drawn", lambda: 7)
        if ev.n == 1:
            return Left(n=1)
        answer = await ctx.wait_for_event(Answer, waiter_event=Ask())
        ctx.send_event(Left(n=answer.n))
        return Right(n=answer.n)

    @step
    async def join(self, left: Left, right: Right) -> StopEvent | None:
        return StopEvent(result=[left.n, right.n])

    @step
    async def gather(self, ctx: Context, ev: Left) -> None:
        ctx.collect_events(ev, [Left, Left])


async def _saved() -> Any:
    handler = Both(timeout=None).run(run_id="r")
    await asyncio.sleep(1)
    data = json.loads(json.dumps(handler.ctx.to_dict()))
    await handler.cancel_run()
    return data


SAVED = run_virtual(_saved())


class Saved:
    """The data of a saved run, and the way to its parts."""

    def __init__(self) -> None:
        self.data = copy.deepcopy(SAVED)
        self.run = self.data["run"]
        self.state = self.run["snapshot"]["state"]
        self.envelopes = self.run["snapshot"]["envelopes"]

    def only(self, name: str) -> Any:
        """Return the key and the value of a mapping of one, as they are in the data: [key, value]."""
        (pair,) = self.state[name]["items"]
        return pair

    @property
    def execution(self) -> Any:
        return self.only("executions")[1]

    def remember(self, key: str, answer: Any) -> None:
        self.execution["memo"]["items"].append([key, answer])

    def point_to(self, box: Any, number: int) -> None:
        """Put another event into what holds some."""
        box["items"] = [{"~": "envelope", "id": number}]


def damage(change: Callable[[Saved], Any], said: str) -> Any:
    return pytest.param(change, said, id=said[:60])


def held(saved: Saved) -> Any:
    return saved.only("held")[1]


def of_work(saved: Saved) -> int:
    """Return the number of the event that the live execution took."""
    return int(saved.execution["inputs"]["items"][0]["id"])


def complete(saved: Saved, *numbers: int) -> None:
    saved.run["completed"] = [dump_input(st.Complete(number, (), 1.0), lambda value, path: "") for number in numbers]


def renumber(saved: Saved) -> None:
    """Give the event that nobody took a number that the run has not come to."""
    number = saved.state["seq"] + 1
    old = held(saved)["items"][0]["id"]
    saved.envelopes[str(number)] = {**saved.envelopes[str(old)], "id": number}
    saved.point_to(held(saved), number)


def live_in(saved: Saved, *scopes: int) -> None:
    saved.execution["scopes"]["items"] = list(scopes)


DAMAGES = [
    damage(lambda s: s.execution.update(color="red"), r"Execution has no 'color'"),
    damage(lambda s: s.execution.update(sends="1"), r"sends: '1' is not of the type it must have"),
    damage(lambda s: s.execution.update(sends="y" * 99), r"sends: 'y{76}\.\.\. is not of the type"),
    damage(lambda s: s.only("waits")[1].update(event_type={"~": "value"}), r"the saved run is malformed: KeyError: 'text'"),
    damage(lambda s: s.only("waits")[1].update(event_type={"~": "secret"}), r"has a part of unknown kind 'secret'"),
    damage(lambda s: complete(s, 99), r"executions \[99\], which had ended when it was saved, are not in it, or twice"),
    damage(lambda s: complete(s, s.execution["id"], s.execution["id"]), r"had ended when it was saved, are not in it, or twice"),
    damage(lambda s: s.state.update(status="completed"), r"its status is 'completed', so there is nothing to go on with"),
    damage(lambda s: s.only("waits")[1].update(id=1), r"wait \d+ has the number 1, and the last of the run is"),
    damage(lambda s: s.state.update(seq=s.execution["id"] - 1), r"execution \d+ has the number \d+, and the last of the run is \d+"),
    damage(lambda s: (s.only("streams").__setitem__(0, 0), s.only("streams")[1].update(id=0)), r"stream 0 has the number 0"),
    damage(renumber, r"an event has a number above \d+, the last of the run"),
    damage(lambda s: s.envelopes[str(of_work(s))].update(id=1), r"event \d+ has the number 1"),
    damage(lambda s: s.state.update(questions=-1), r"its waits do not belong to what is live in it"),
    damage(lambda s: s.only("waits")[1].update(execution=1), r"its waits do not belong"),
    damage(lambda s: s.execution["inputs"]["items"].append({"~": "envelope", "id": of_work(s)}), r"`work` takes one event, and has 2"),
    damage(lambda s: s.execution["inputs"]["items"].clear(), r"`work` takes one event, and has 0"),
    damage(lambda s: s.execution.update(step="join"), r"`join` takes 2 events, and has 1"),
    damage(lambda s: s.execution.update(step="gather"), r"`gather` \(.*\) does not take Item"),
    damage(lambda s: s.execution.update(step="gone"), r"live steps that Both has not: gone; it has gather, join, start, work"),
    damage(lambda s: s.only("buffers")[0]["items"].__setitem__(0, "gone"), r"live steps that Both has not: gone"),
    damage(lambda s: s.only("streams")[1].update(producer="gone"), r"live steps that Both has not: gone"),
    damage(lambda s: s.remember("wait:1", 5), r"5 is no answer to 'wait:1' of step `work`"),
    damage(lambda s: s.remember("wait#named", None), r"None is no answer to 'wait#named'"),
    damage(lambda s: s.remember("asked:wait:2", "x"), r"'x' is no answer to 'asked:wait:2'"),
    damage(lambda s: s.remember("collect:default:1", 5), r"5 is no answer to 'collect:default:1'"),
    damage(lambda s: s.remember("collect:default:1", {"~": "list", "items": [1]}), r"\[1\] is no answer to 'collect:default:1'"),
    damage(lambda s: s.only("buffers")[1].update(size=2), r"a join says that it has 2 events"),
    damage(lambda s: s.only("buffers")[1].update(expected={"~": "list", "items": []}), r"a join says that it has 1 events"),
    damage(lambda s: s.point_to(s.only("buffers")[1]["items"]["items"][0][1], of_work(s)), r"what is kept as Left is of another class"),
    damage(lambda s: s.point_to(held(s), of_work(s)), r"what is kept as Note is of another class"),
    damage(lambda s: s.only("slots")[1]["items"].pop(), r"`join` \(.*\) joins other events than those it has"),
    damage(lambda s: s.point_to(s.only("slots")[1]["items"][0], of_work(s)), r"`join` \(.*\) joins other events than those it has"),
    damage(lambda s: s.only("slots")[0]["items"].__setitem__(0, "work"), r"`work` \(.*\) joins other events"),
    damage(lambda s: live_in(s, 1), r"something is live in the list \(1,\), which is not in it"),
    damage(lambda s: live_in(s, s.only("streams")[0], s.only("streams")[0]), r"something is live in the list \(\d+, \d+\)"),
    damage(lambda s: live_in(s), r"list"),
    damage(lambda s: s.only("streams")[1].update(live=2), r"list"),
]


@pytest.mark.parametrize(("change", "said"), DAMAGES)
def test_parts_that_do_not_fit_are_refused_by_name(change: Callable[[Saved], Any], said: str) -> None:
    saved = Saved()
    change(saved)
    assert saved.data != SAVED
    with pytest.raises(ContextSerdeError, match=said):
        Context.from_dict(Both(), saved.data)


GOOD: list[Callable[[Saved], Any]] = [
    lambda s: None,
    lambda s: s.remember("wait:7", None),
    lambda s: s.remember("collect:default:1", None),
    lambda s: s.remember("collect:default:1", {"~": "list", "items": []}),
]


@pytest.mark.parametrize("change", GOOD)
async def test_what_fits_goes_on_with_what_it_had(change: Callable[[Saved], Any]) -> None:
    saved = Saved()
    change(saved)
    flow = Both()
    handler = flow.run(ctx=Context.from_dict(flow, saved.data))
    await handler.send_event(Answer(n=5))
    assert await handler == [1, 5]
