from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tracedflow import (
    Checkpoint,
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowCheckpointer,
    WorkflowHandler,
    WorkflowStepDoesNotExistError,
    catch_error,
    step,
)
from tracedflow.checkpointer import StoredCheckpoint
from tracedflow.checkpointer.sqlite import SqliteCheckpoints
from tracedflow.errors import ContextSerdeError, WorkflowRuntimeError
from tracedflow.events import StepFailedEvent
from tracedflow.retry_policy import retry_policy, stop_after_attempt, wait_none


class Item(Event):
    n: int = 0


class Done(Event):
    n: int = 0


class Ask(InputRequiredEvent):
    pass


class Answer(HumanResponseEvent):
    n: int = 0


class Chain(Workflow):
    """Three steps, each of which writes down that it ran."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.called: list[str] = []

    @step
    async def first(self, ctx: Context, ev: StartEvent) -> Item:
        self.called.append("first")
        await ctx.store.set("seen", ["first"])
        return Item(n=ev.n)

    @step
    async def second(self, ctx: Context, ev: Item) -> Done:
        self.called.append("second")
        async with ctx.store.edit_state() as state:
            state["seen"].append("second")
        return Done(n=ev.n * 2)

    @step
    async def third(self, ctx: Context, ev: Done) -> StopEvent:
        self.called.append("third")
        return StopEvent(result=[ev.n, *await ctx.store.get("seen")])


class Joins(Workflow):
    """Fans out into five retried items, joins them as a list, and asks at the end."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.called: Counter[str] = Counter()

    @step
    async def spread(self, ev: StartEvent) -> list[Item]:
        self.called["spread"] += 1
        return [Item(n=n) for n in range(5)]

    @step(num_workers=2, retry_policy=retry_policy(wait=wait_none(), stop=stop_after_attempt(3)))
    async def work(self, ctx: Context, ev: Item) -> Done:
        self.called[f"work {ev.n}"] += 1
        if ev.n == 3 and ctx.retry_info().retry_number < 1:
            raise ConnectionError
        return Done(n=ev.n)

    @step
    async def join(self, ctx: Context, ev: list[Done]) -> StopEvent:
        self.called["join"] += 1
        answer = await ctx.wait_for_event(Answer, waiter_event=Ask())
        return StopEvent(result=sorted(done.n for done in ev) + [answer.n])


async def finish(handler: WorkflowHandler[Any]) -> Any:
    while not handler.done():
        if handler.why().waits and handler._runner.has_begun:
            handler.ctx.send_event(Answer(n=9))
        await asyncio.sleep(0)
    return await handler


# what is taken


async def test_a_run_leaves_a_checkpoint_after_each_step_with_what_went_in_and_came_out() -> None:
    keeper = WorkflowCheckpointer(workflow=Chain())
    handler = keeper.run(n=1)
    assert await handler == [2, "first", "second"]
    taken = keeper.checkpoints[handler.run_id]
    assert [(type(c.input_event).__name__, c.last_completed_step, type(c.output_event).__name__) for c in taken] == [
        ("StartEvent", "first", "Item"),
        ("Item", "second", "Done"),
        ("Done", "third", "StopEvent"),
    ]
    assert len({c.id_ for c in taken}) == 3


async def test_a_run_that_is_not_started_here_leaves_none() -> None:
    flow = Chain()
    keeper = WorkflowCheckpointer(workflow=flow)
    await flow.run(n=1)
    assert keeper.checkpoints == {}


async def test_steps_can_be_left_out_and_taken_in_again() -> None:
    keeper = WorkflowCheckpointer(workflow=Chain(), disabled_steps=["second"])
    keeper.disable_checkpoint("third")
    assert keeper.enabled_checkpoints == {"first"}
    keeper.enable_checkpoint("third")
    handler = keeper.run(n=1)
    await handler
    assert [c.last_completed_step for c in keeper.checkpoints[handler.run_id]] == ["first", "third"]


@pytest.mark.parametrize("change", ["enable_checkpoint", "disable_checkpoint"])
def test_a_step_that_there_is_not_is_refused_with_those_there_are(change: str) -> None:
    keeper = WorkflowCheckpointer(workflow=Chain())
    with pytest.raises(WorkflowStepDoesNotExistError, match="no step `fourth`; it has first, second, third"):
        getattr(keeper, change)("fourth")
    with pytest.raises(WorkflowStepDoesNotExistError, match="fourth"):
        WorkflowCheckpointer(workflow=Chain(), disabled_steps=["fourth"])


async def test_checkpoints_are_found_by_run_step_and_events_and_all_filters_hold_together() -> None:
    keeper = WorkflowCheckpointer(workflow=Chain())
    one, two = keeper.run(n=1), keeper.run(n=2)
    await asyncio.gather(one, two)
    assert len(keeper.filter_checkpoints(run_id=one.run_id)) == 3
    assert len(keeper.filter_checkpoints(last_completed_step="second")) == 2
    assert [c.last_completed_step for c in keeper.filter_checkpoints(input_event_type=Done, run_id=two.run_id)] == ["third"]
    assert [c.output_event.n for c in keeper.filter_checkpoints(output_event_type=Done)] == [2, 4]  # type: ignore[union-attr]
    assert keeper.filter_checkpoints(last_completed_step="second", output_event_type=Item) == []
    with pytest.raises(ValueError, match="needs a run_id"):
        keeper.filter_checkpoints()
    with pytest.raises(ValueError, match="'nobody' has no checkpoints"):
        keeper.filter_checkpoints(run_id="nobody")


async def test_of_a_list_one_event_of_the_class_is_enough() -> None:
    keeper = WorkflowCheckpointer(workflow=Joins())
    handler = keeper.run()
    await finish(handler)
    assert [c.last_completed_step for c in keeper.filter_checkpoints(output_event_type=Item)] == ["spread"]
    assert [c.last_completed_step for c in keeper.filter_checkpoints(input_event_type=Done)] == ["join"]


# going on


async def test_a_run_goes_on_after_the_step_of_a_checkpoint_and_repeats_nothing() -> None:
    flow = Chain()
    keeper = WorkflowCheckpointer(workflow=flow)
    first = keeper.run(n=5)
    await first
    for number, left in ((0, ["second", "third"]), (1, ["third"])):
        flow.called.clear()
        again = keeper.run_from(keeper.checkpoints[first.run_id][number])
        assert await again == [10, "first", "second"]
        assert flow.called == left
        assert again.run_id != first.run_id
        assert [c.last_completed_step for c in keeper.checkpoints[again.run_id]] == left


async def test_after_the_last_step_there_is_nothing_left_but_the_result() -> None:
    flow = Chain()
    keeper = WorkflowCheckpointer(workflow=flow)
    first = keeper.run(n=5)
    await first
    flow.called.clear()
    assert await keeper.run_from(keeper.checkpoints[first.run_id][-1]) == [10, "first", "second"]
    assert flow.called == []


@pytest.mark.parametrize("stored", [False, True], ids=["memory", "file"])
async def test_from_each_checkpoint_of_a_parallel_joining_waiting_run_comes_the_same_result(stored: bool, tmp_path: Path) -> None:
    flow = Joins()
    keeper = WorkflowCheckpointer(workflow=flow, store=tmp_path / "runs.db" if stored else None)
    first = keeper.run()
    assert await finish(first) == [0, 1, 2, 3, 4, 9]
    taken = list(keeper.checkpoints[first.run_id])
    assert Counter(c.last_completed_step for c in taken) == {"spread": 1, "work": 5, "join": 1}
    for number, checkpoint in enumerate(taken):
        flow.called.clear()
        assert await finish(keeper.run_from(checkpoint)) == [0, 1, 2, 3, 4, 9]
        assert flow.called["spread"] == 0
        since = number if stored else 0  # in a file they stand in the order in which they were written, not made
        done = {c.output_event.n for c in taken[since : number + 1] if c.last_completed_step == "work"}  # type: ignore[union-attr]
        assert {n for n in range(5) if flow.called[f"work {n}"] == 0} >= done


async def test_a_step_that_joins_by_hand_keeps_what_it_has() -> None:
    class Collects(Workflow):
        @step
        async def spread(self, ctx: Context, ev: StartEvent) -> Item | None:
            for n in range(3):
                ctx.send_event(Item(n=n))
            return None

        @step(num_workers=1)
        async def join(self, ctx: Context, ev: Item) -> StopEvent | None:
            found = ctx.collect_events(ev, [Item] * 3)
            return None if found is None else StopEvent(result=[each.n for each in found])

    keeper = WorkflowCheckpointer(workflow=Collects())
    handler = keeper.run()
    assert await handler == [0, 1, 2]
    for checkpoint in tuple(keeper.checkpoints[handler.run_id]):
        assert await keeper.run_from(checkpoint) == [0, 1, 2]


async def test_a_run_may_go_on_where_a_failure_ended_it() -> None:
    class Breaks(Chain):
        broken = True

        @step
        async def third(self, ctx: Context, ev: Done) -> StopEvent:
            if self.broken:
                raise ConnectionError("down")
            return StopEvent(result=ev.n)

    flow = Breaks()
    keeper = WorkflowCheckpointer(workflow=flow)
    handler = keeper.run(n=4)
    with pytest.raises(ConnectionError):
        await handler
    flow.broken = False
    flow.called.clear()
    assert await keeper.run_from(keeper.checkpoints[handler.run_id][-1]) == 8
    assert flow.called == []


async def test_a_checkpoint_without_a_live_run_cannot_be_gone_on_from() -> None:
    flow = Chain()
    empty = Checkpoint(last_completed_step="first", input_event=None, output_event=None, ctx_state=Context(flow).to_dict())
    with pytest.raises(ContextSerdeError, match="has no live run in it"):
        WorkflowCheckpointer(workflow=flow).run_from(empty)


# a callback of one's own


async def test_a_callback_of_ones_own_is_awaited_before_the_run_goes_on() -> None:
    order: list[str] = []

    class Flow(Chain):
        @step
        async def second(self, ctx: Context, ev: Item) -> Done:
            order.append("second")
            return Done(n=ev.n)

    async def keep(run_id: str, last_completed_step: str, input_ev: Any, output_ev: Any, ctx: Context[Any]) -> None:
        await asyncio.sleep(0.001)
        order.append(f"kept {last_completed_step}")
        assert ctx.to_dict()["run"]["run_id"] == run_id

    await Flow().run(n=1, checkpoint_callback=keep)
    assert order == ["kept first", "second", "kept second", "kept third"]


@pytest.mark.parametrize("error", [OSError("disk full"), asyncio.CancelledError()], ids=["error", "cancelled"])
async def test_a_callback_that_fails_fails_the_run_and_nothing_follows_the_step(error: BaseException) -> None:
    async def keep(run_id: str, last_completed_step: str, input_ev: Any, output_ev: Any, ctx: Context[Any]) -> None:
        if last_completed_step == "second":
            raise error

    flow = Chain()
    expected = OSError if isinstance(error, OSError) else WorkflowRuntimeError
    with pytest.raises(expected) as caught:
        await flow.run(n=1, checkpoint_callback=keep)
    assert any("checkpoint callback after step `second`" in note for note in caught.value.__notes__)
    assert flow.called == ["first", "second"]


async def test_a_value_that_cannot_be_saved_fails_the_run_and_is_named() -> None:
    class Flow(Chain):
        @step
        async def second(self, ctx: Context, ev: Item) -> Done:
            await ctx.store.set("handle", object())
            return Done()

    with pytest.raises(ContextSerdeError, match="handle"):
        await WorkflowCheckpointer(workflow=Flow()).run(n=1)


async def test_a_run_that_is_cancelled_while_it_is_saved_is_cancelled() -> None:
    saving = asyncio.Event()

    async def keep(run_id: str, last_completed_step: str, input_ev: Any, output_ev: Any, ctx: Context[Any]) -> None:
        saving.set()
        await asyncio.Event().wait()

    handler = Chain().run(n=1, checkpoint_callback=keep)
    await saving.wait()
    handler.cancel()
    with pytest.raises(asyncio.CancelledError):
        await handler


async def test_what_ended_while_a_slower_checkpoint_is_saved_has_the_other_end_in_it_too() -> None:
    """A saved run may not repeat a step that had completed, also if that step's own checkpoint is still on its way."""
    saved: dict[int, dict[str, Any]] = {}
    both = asyncio.Event()

    class Flow(Workflow):
        called: Counter[str] = Counter()

        @step
        async def spread(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(2)]

        @step
        async def work(self, ev: Item) -> Done:
            self.called[f"work {ev.n}"] += 1
            return Done(n=ev.n)

        @step
        async def join(self, ev: list[Done]) -> StopEvent:
            return StopEvent(result=[done.n for done in ev])

    async def keep(run_id: str, last_completed_step: str, input_ev: Any, output_ev: Any, ctx: Context[Any]) -> None:
        if last_completed_step == "work":
            saved[output_ev.n] = ctx.to_dict()
            if len(saved) == 2:
                saved[2] = handler.ctx.to_dict()
                both.set()
            await both.wait()

    flow = Flow()
    handler = flow.run(checkpoint_callback=keep)
    assert sorted(await handler) == [0, 1]
    for number, repeated in ((0, {"work 1": 1}), (1, {}), (2, {})):
        flow.called.clear()
        assert sorted(await flow.run(ctx=Context.from_dict(flow, saved[number]), run_id=f"again {number}")) == [0, 1]
        assert flow.called == repeated


async def test_a_failure_that_a_handler_takes_over_leaves_the_checkpoint_of_the_handler() -> None:
    class Flow(Chain):
        @step
        async def second(self, ctx: Context, ev: Item) -> Done:
            raise ConnectionError

        @catch_error
        async def saved(self, ev: StepFailedEvent) -> StopEvent:
            return StopEvent(result="saved")

    keeper = WorkflowCheckpointer(workflow=Flow())
    handler = keeper.run(n=1)
    assert await handler == "saved"
    assert [c.last_completed_step for c in keeper.checkpoints[handler.run_id]] == ["first", "saved"]


# in a file


async def test_a_file_is_read_by_another_checkpointer_also_while_runs_write_to_it(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    writer, reader = (WorkflowCheckpointer(workflow=Chain(), store=path) for _ in range(2))
    first = writer.run(n=1)
    assert await first == [2, "first", "second"]
    assert [c.last_completed_step for c in reader.checkpoints[first.run_id]] == ["first", "second", "third"]
    second = writer.run(n=2)
    await second
    assert set(reader.checkpoints) == {first.run_id, second.run_id}
    assert await reader.run_from(reader.checkpoints[second.run_id][0]) == [4, "first", "second"]


PROGRAM = """
import asyncio, os, sys
sys.path.insert(0, {tests!r})
from test_checkpointer import Chain, Context, Done, StopEvent, WorkflowCheckpointer, step

class Dies(Chain):
    @step
    async def third(self, ctx: Context, ev: Done) -> StopEvent:
        if {dies}:
            os.kill(os.getpid(), 9)
        return StopEvent(result=[ev.n, self.called])

async def main():
    keeper = WorkflowCheckpointer(workflow=Dies(workflow_name="Chain"), store={path!r})
    if {dies}:
        await keeper.run(n=21, run_id="killed")
    taken = keeper.checkpoints["killed"]
    print([c.last_completed_step for c in taken], await keeper.run_from(taken[-1]))

asyncio.run(main())
"""


async def test_a_file_survives_the_death_of_its_process_and_another_goes_on(tmp_path: Path) -> None:
    def run(*, dies: bool) -> subprocess.CompletedProcess[str]:
        program = PROGRAM.format(tests=str(Path(__file__).parent), path=str(tmp_path / "runs.db"), dies=dies)
        return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    died = await asyncio.to_thread(run, dies=True)
    assert died.returncode == -9, died.stderr
    went_on = await asyncio.to_thread(run, dies=False)
    assert went_on.stdout.strip() == "['first', 'second'] [42, []]", went_on.stderr


def test_a_file_of_a_newer_release_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA user_version=99")
    with pytest.raises(ContextSerdeError, match="format 99, newer than 1; upgrade"):
        WorkflowCheckpointer(workflow=Chain(), store=path)


def test_a_file_that_is_no_database_or_cannot_be_opened_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a database " * 100)
    for path in (tmp_path / "notes.txt", tmp_path / "no such directory" / "runs.db"):
        with pytest.raises(ContextSerdeError, match=f"{path.name} cannot be opened: "):
            WorkflowCheckpointer(workflow=Chain(), store=path)


async def test_a_file_that_is_damaged_inside_says_so_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    store = SqliteCheckpoints(path)
    await asyncio.gather(*(WorkflowCheckpointer(workflow=Chain(), store=store).run(n=n) for n in range(10)))
    store.close()
    content = path.read_bytes()
    path.write_bytes(content[:4096] + bytes(byte ^ 0x5A for byte in content[4096:]))
    with pytest.raises(ContextSerdeError, match=r"runs\.db cannot be read: .*malformed"):
        _ = WorkflowCheckpointer(workflow=Chain(), store=path).checkpoints


async def test_a_checkpoint_that_no_longer_fits_is_left_out_with_a_word_and_the_others_stay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "runs.db"
    handler = WorkflowCheckpointer(workflow=Chain(), store=path).run(n=1)
    await handler
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE checkpoints SET output_event = '{\"oops\"' WHERE step = 'first'")
        connection.execute("UPDATE checkpoints SET ctx_state = '{' WHERE step = 'second'")
    left = WorkflowCheckpointer(workflow=Chain(), store=path).checkpoints[handler.run_id]
    assert [c.last_completed_step for c in left] == ["third"]
    assert caplog.text.count("was left out") == 2


async def test_a_file_that_cannot_be_written_fails_the_run(tmp_path: Path) -> None:
    store = SqliteCheckpoints(tmp_path / "runs.db")
    store.close()
    with pytest.raises(ContextSerdeError, match=r"runs\.db cannot be written: .*closed"):
        await WorkflowCheckpointer(workflow=Chain(), store=store).run(n=1)


async def test_what_ends_at_once_is_kept_in_the_order_in_which_it_ended(tmp_path: Path) -> None:
    store = SqliteCheckpoints(tmp_path / "runs.db")
    taken = [
        StoredCheckpoint(id=f"{n}", workflow="W", run_id="r", step="s", input_event="", output_event="", ctx_state="x" * (n % 3) * 5000)
        for n in range(40)
    ]
    await asyncio.gather(*map(store.add, taken))
    assert [checkpoint.id for _, checkpoint in store.after("W", 0)] == [checkpoint.id for checkpoint in taken]
    store.close()


async def test_many_runs_may_write_to_one_file_at_once(tmp_path: Path) -> None:
    keeper = WorkflowCheckpointer(workflow=Chain(), store=tmp_path / "runs.db")
    handlers = [keeper.run(n=n) for n in range(20)]
    assert [found[0] for found in await asyncio.gather(*handlers)] == [2 * n for n in range(20)]
    assert {len(keeper.checkpoints[handler.run_id]) for handler in handlers} == {3}


def test_a_child_process_opens_the_file_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SqliteCheckpoints(tmp_path / "runs.db")
    monkeypatch.setattr("tracedflow.checkpointer.sqlite.os.getpid", lambda: -1)  # what a fork changes
    before = store._connection
    assert list(store.after("F", 0)) == []
    assert store._connection is not before
    before.close()
    store.close()


# what it costs


async def test_the_last_checkpoint_of_a_long_run_is_no_larger_than_the_first() -> None:
    class Loop(Workflow):
        @step
        async def loop(self, ev: StartEvent | Item) -> Item | StopEvent:
            n = ev.n if isinstance(ev, Item) else 0
            return Item(n=n + 1) if n < 500 else StopEvent(result=n)

    keeper = WorkflowCheckpointer(workflow=Loop())
    handler = keeper.run()
    assert await handler == 500
    sizes = [len(str(c.ctx_state)) for c in keeper.checkpoints[handler.run_id]]
    assert max(sizes[-100:-1]) < sizes[1] + 200


# stepwise


async def test_a_stepwise_run_leaves_checkpoints_too() -> None:
    keeper = WorkflowCheckpointer(workflow=Chain())
    handler = keeper.run(n=3, stepwise=True)
    while produced := await handler.run_step():
        for event in produced:
            handler.ctx.send_event(event)
    assert await handler == [6, "first", "second"]
    taken = keeper.checkpoints[handler.run_id]
    assert [c.last_completed_step for c in taken] == ["first", "second", "third"]
    assert await keeper.run_from(taken[0]) == [6, "first", "second"]


class More(Event):
    pass


class Races(Workflow):
    """One branch ends the run, the other has more to do."""

    def __init__(self) -> None:
        super().__init__()
        self.called: list[str] = []

    @step
    async def start(self, ev: StartEvent) -> list[Item | Done]:
        self.called.append("start")
        return [Item(n=1), Done(n=2)]

    @step
    async def ends(self, ev: Item) -> StopEvent:
        self.called.append("ends")
        return StopEvent(result="over")

    @step
    async def other(self, ev: Done) -> More:
        self.called.append("other")
        return More()

    @step
    async def after(self, ev: More) -> None:
        self.called.append("after")


async def test_what_ended_beside_the_end_of_the_run_is_neither_repeated_nor_followed() -> None:
    held, saved = asyncio.Event(), asyncio.Event()
    data: list[dict[str, Any]] = []

    async def callback(run_id: str, name: str, given: Any, result: Any, ctx: Context[Any]) -> None:
        if name == "ends":
            held.set()
            await saved.wait()
        elif name == "other":
            await held.wait()
            data.append(ctx.to_dict())
            saved.set()

    flow = Races()
    await flow.run(checkpoint_callback=callback)
    assert len(data[0]["run"]["completed"]) == 2
    flow.called.clear()
    assert await flow.run(ctx=Context.from_dict(flow, data[0])) == "over"
    assert flow.called == []


async def test_what_a_stepwise_run_had_in_hand_when_it_ended_is_not_followed() -> None:
    data: list[dict[str, Any]] = []

    async def callback(run_id: str, name: str, given: Any, result: Any, ctx: Context[Any]) -> None:
        if name == "ends":
            while not handler._runner.state.returned:
                await asyncio.sleep(0)
            data.append(ctx.to_dict())

    flow = Races()
    handler = flow.run(stepwise=True, checkpoint_callback=callback)
    for event in await handler.run_step() or ():
        handler.ctx.send_event(event)
    await handler.run_step()
    assert await handler == "over"
    flow.called.clear()
    assert await flow.run(ctx=Context.from_dict(flow, data[0])) == "over"
    assert flow.called == []
