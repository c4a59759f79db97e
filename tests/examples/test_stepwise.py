from __future__ import annotations

import asyncio
import io

import pytest

from examples.stepwise import Draft, Fits, Notice, TooLong, drive, main
from tracedflow import Event, WorkflowCancelledByUser, runs

TEXT = "the evening boat to the outer island leaves from the old pier"


def shortened(text: str, room: int) -> list[str]:
    """Return every version of a text until it fits, by hand."""
    words = text.split()
    versions = [text]
    while len(versions[-1]) > room and len(words) > 1:
        words.pop()
        versions.append(" ".join(words))
    return versions


async def everything(number: int, events: list[Event]) -> list[Event]:
    return events


@pytest.mark.parametrize("room", [4, 20, 40, 1000])
async def test_step_by_step_gives_what_a_normal_run_gives(room: int) -> None:
    handler = Notice().run(stepwise=True, text=TEXT, room=room)
    await drive(handler, everything)
    assert await handler == await Notice().run(text=TEXT, room=room) == shortened(TEXT, room)[-1]


@pytest.mark.parametrize("room", [4, 20, 40, 1000])
async def test_each_step_runs_once_and_returns_what_is_due(room: int) -> None:
    seen: list[Event] = []

    async def look(number: int, events: list[Event]) -> list[Event]:
        seen.extend(events)
        return events

    handler = Notice().run(stepwise=True, text=TEXT, room=room)
    steps = await drive(handler, look)
    versions = shortened(TEXT, room)
    assert len(handler.record) == 2 * len(versions) + 1, "a review for each version, a cut between them, draft and publish"
    assert steps == len(handler.record) - 1, "after the last there is nothing to decide"
    assert [event.text for event in seen if isinstance(event, Draft)] == versions
    assert [event.excess for event in seen if isinstance(event, TooLong)] == [len(version) - room for version in versions[:-1]]


async def test_nothing_runs_between_two_calls() -> None:
    handler = Notice().run(stepwise=True, text=TEXT, room=20)
    counts: list[int] = []

    async def wait_long(number: int, events: list[Event]) -> list[Event]:
        before = len(handler.record)
        for _ in range(20):
            await asyncio.sleep(0)
        counts.append(len(handler.record) - before)
        return events

    await drive(handler, wait_long)
    assert set(counts) == {0}


async def test_what_is_kept_back_has_no_effect_and_the_run_can_be_ended() -> None:
    async def drop_the_second(number: int, events: list[Event]) -> list[Event]:
        return [] if number == 2 else events

    handler = Notice().run(stepwise=True, text=TEXT, room=20)
    assert await drive(handler, drop_the_second) == 2
    with pytest.raises(WorkflowCancelledByUser):
        await handler
    assert [record.step for record in handler.record] == ["draft", "review"]
    assert runs() == []


async def test_what_is_changed_is_what_the_next_step_gets() -> None:
    async def enough(number: int, events: list[Event]) -> list[Event]:
        return [Fits(text=event.text.upper()) if isinstance(event, TooLong) else event for event in events]

    handler = Notice().run(stepwise=True, text=TEXT, room=20)
    assert await drive(handler, enough) == 2
    assert await handler == TEXT.upper()


async def test_all_but_the_end_is_shown() -> None:
    seen: list[Event] = []

    async def look(number: int, events: list[Event]) -> list[Event]:
        seen.extend(events)
        return events

    handler = Notice().run(stepwise=True, text="fog", room=20)
    assert await drive(handler, look) == 2
    assert [type(event) for event in seen] == [Draft, Fits]
    assert await handler == "fog"


# The command.


def test_the_command_runs_by_itself_where_nobody_types(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([TEXT, "--room", "20"]) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == shortened(TEXT, 20)[-1]
    assert len([line for line in printed.err.splitlines() if line.startswith("  ")]) == 2 * len(shortened(TEXT, 20))


def test_what_is_typed_decides(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("fog at sea\n\n\n"))
    assert main([TEXT, "--room", "20", "--ask"]) == 0
    assert capsys.readouterr().out.strip() == "fog at sea"
    monkeypatch.setattr("sys.stdin", io.StringIO("x\n"))
    assert main([TEXT, "--room", "20", "--ask"]) == 3
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "kept back" in printed.err
