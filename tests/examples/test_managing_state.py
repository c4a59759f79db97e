from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from examples.managing_state import Accounts, Booking, CarelessTill, Coins, Ledger, Till, keep_books, main
from tracedflow import Context, ContextSerdeError, WorkflowRuntimeError
from tracedflow.testing import Schedule, assert_run, explore

FIFTY = list(range(1, 51))


def test_fifty_edits_at_once_lose_nothing_in_any_order() -> None:
    async def program(schedule: Schedule) -> None:
        assert await Till(middleware=[schedule]).run(coins=FIFTY) == sum(FIFTY)

    explore(program, seeds=20)


async def test_the_edits_are_really_made_at_once() -> None:
    handler = Till().run(coins=FIFTY)
    await handler
    assert_run(handler).completed().ran("add", len(FIFTY)).parallel("add", at_least=2, at_most=8)


async def test_without_the_lock_coins_are_lost() -> None:
    assert await CarelessTill().run(coins=FIFTY) < sum(FIFTY)


async def test_a_second_run_goes_on_where_the_first_left_the_state() -> None:
    till = Till()
    ctx = Context(till)
    assert await till.run(ctx=ctx, coins=[5, 7]) == 12
    assert await till.run(ctx=ctx, coins=[-2]) == 10
    assert await till.run(coins=[1]) == 1, "a run without that Context has a state of its own"


async def test_a_till_without_coins_is_empty() -> None:
    assert await Till().run(coins=[]) == 0


@pytest.mark.parametrize("mistake", [{"coins": ["half"]}, {"coins": 3}, {}])
async def test_what_is_no_coin_is_refused_before_a_step_runs(mistake: dict[str, object]) -> None:
    with pytest.raises(WorkflowRuntimeError, match="coins"):
        Till().run(**mistake)
    with pytest.raises(ValidationError):
        Coins(**mistake)


# The typed model.


async def test_the_ledger_and_its_copy_from_json_are_equal() -> None:
    bookings = [Booking(text="rope", cents=-250), Booking(text="ferry", cents=900), Booking(text="lamp oil", cents=-75)]
    kept, copy = await keep_books(bookings)
    assert kept == copy
    assert kept is not copy
    assert kept.balance == sum(booking.cents for booking in bookings)
    assert kept.entries == [f"{booking.text}: {booking.cents}" for booking in bookings]


async def test_the_saved_state_is_json_to_the_letter() -> None:
    accounts = Accounts()
    ctx: Context[Ledger] = Context(accounts)
    await accounts.run(ctx=ctx, text="rope", cents=-250)
    saved = ctx.to_dict()
    assert json.loads(json.dumps(saved)) == saved
    assert Context.from_dict(accounts, json.loads(json.dumps(saved))).to_dict() == saved


async def test_a_wrong_value_is_refused_and_the_state_stays() -> None:
    accounts = Accounts()
    ctx: Context[Ledger] = Context(accounts)
    await accounts.run(ctx=ctx, text="ferry", cents=900)
    with pytest.raises(ValidationError, match="valid integer"):
        await ctx.store.set("balance", "a lot")
    with pytest.raises(ValidationError, match="valid integer"):
        async with ctx.store.edit_state() as ledger:
            ledger.entries.append("half a booking")
            ledger.balance = "a lot"  # type: ignore[assignment]
    assert (await ctx.store.get_state()).model_dump() == {"balance": 900, "entries": ["ferry: 900"]}


async def test_a_value_that_cannot_be_saved_is_named_by_its_path() -> None:
    ctx = Context(Till())
    await ctx.store.set("desk.bell", object())
    with pytest.raises(ContextSerdeError, match=r"state\.desk\.bell"):
        ctx.to_dict()


# The command.


def test_the_command_shows_what_is_lost_without_the_lock(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    told = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert int(told["total"]) == sum(FIFTY)
    assert int(told["without a lock"]) < sum(FIFTY)
    assert int(told["after a second run"]) == 2 * sum(FIFTY)
    assert told["the same after JSON"] == "True"
