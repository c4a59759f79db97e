from __future__ import annotations

import asyncio
import json
import random

import pytest

from examples.managing_events import (
    Announced,
    Gather,
    Given,
    Half,
    Letters,
    Measured,
    NumberGiven,
    NumberPrompt,
    NumberWanted,
    Progress,
    Reading,
    Synthesis,
    Words,
    main,
)
from tracedflow import Context, Event, StopEvent, WorkflowHandler, runs
from tracedflow.events import StepStateChanged
from tracedflow.testing import Schedule, assert_run, explore, run_step, virtual_time

TEXT = "Boats for the island leave, weather permitting, at 7 and at 9."


# Two kinds, in the order asked for.


@pytest.mark.parametrize("turned", [False, True])
async def test_the_two_kinds_are_collected_in_the_order_asked_for_whichever_comes_first(turned: bool) -> None:
    kinds: list[Event] = [Words(count=11), Letters(count=48)]
    found = await run_step(Synthesis(), "write", *(reversed(kinds) if turned else kinds))
    assert found.collected == [kinds]
    assert found.returned == StopEvent(result="11 words of 48 letters")


async def test_the_synthesis_counts_what_is_there() -> None:
    handler = Synthesis().run(text=TEXT)
    assert await handler == f"{len(TEXT.split())} words of {len([c for c in TEXT if c.isalpha()])} letters"
    assert_run(handler).completed().ran("write", 2).order("count_words", "write").order("count_letters", "write")
    assert [record.outcome for record in handler.record if record.step == "write"] == ["collecting", "success"]


# Several, and something else.


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_an_event_of_another_kind_changes_nothing_wherever_it_comes(place: int) -> None:
    arriving: list[Event] = [Measured(length=3), Measured(length=4)]
    arriving.insert(place, Announced(halves=2))
    found = await run_step(Gather(), "gather", *arriving)
    assert [event for event in found.returns if event is not None] == [StopEvent(result=7)]
    assert found.collected == [[Measured(length=3), Measured(length=4)]]


def test_the_halves_are_gathered_in_every_order() -> None:
    async def program(schedule: Schedule) -> None:
        assert await Gather(middleware=[schedule]).run(text=TEXT) == len(TEXT)

    explore(program, seeds=30)


async def test_one_step_sends_two_events_itself_and_returns_a_third() -> None:
    found = await run_step(Gather(), "split", Given(text="abcde"))
    assert found.sent == [Half(text="ab"), Half(text="cde")]
    assert found.returned == Announced(halves=2)


# Progress.


async def test_progress_is_told_word_by_word_and_ends_at_one() -> None:
    handler = Progress().run(text=TEXT)
    seen = [event async for event in handler.stream_events()]
    *told, last = seen
    assert [event.word for event in told if isinstance(event, Reading)] == TEXT.split()
    shares = [event.done for event in told if isinstance(event, Reading)]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert isinstance(last, StopEvent)
    assert len(await handler) == max(map(len, TEXT.split()))


@pytest.mark.parametrize("flow", [Synthesis, Gather, Progress])
async def test_the_internal_stream_has_the_start_and_the_end_of_every_step(flow: type[Synthesis | Gather | Progress]) -> None:
    handler = flow().run(text=TEXT)
    internal = [event async for event in handler.stream_events(expose_internal=True) if isinstance(event, StepStateChanged)]
    for name in {record.step for record in handler.record}:
        told = [change.step_state.value for change in internal if change.name == name]
        executions = len([record for record in handler.record if record.step == name])
        assert (told.count("running"), told.count("not_running")) == (executions, executions)


async def test_who_does_not_ask_sees_none_of_the_engine() -> None:
    handler = Progress().run(text=TEXT)
    assert {type(event) for event in [event async for event in handler.stream_events()]} == {Reading, StopEvent}


# A person.


async def until_asked(handler: WorkflowHandler[object]) -> tuple[list[Event], str]:
    """Read the stream up to the next question and leave it; return what was read, and the question."""
    read: list[Event] = []
    async for event in handler.stream_events():
        read.append(event)
        if isinstance(event, NumberWanted):
            return read, event.prefix
    raise AssertionError(f"nothing was asked: {read}")


async def test_leaving_the_stream_and_coming_back_loses_nothing_and_tells_nothing_twice() -> None:
    handler = NumberPrompt().run(text=TEXT)
    first, _ = await until_asked(handler)
    handler.ctx.send_event(NumberGiven(response="0"))
    second, question = await until_asked(handler)
    assert question.startswith("'0' is no number")
    handler.ctx.send_event(NumberGiven(response=" 3 "))
    third = [event async for event in handler.stream_events()]
    assert await handler == TEXT.split()[2]
    assert [len(part) for part in (first, second, third)] == [1, 1, 1]
    assert [event async for event in handler.stream_events(offset=0)] == first + second + third


@pytest.mark.parametrize("wrong", ["", "x", "-1", "0", "999", "²", "1.5"])
async def test_what_is_no_number_of_a_word_is_asked_again(wrong: str) -> None:
    handler = NumberPrompt().run(text=TEXT)
    await until_asked(handler)
    handler.ctx.send_event(NumberGiven(response=wrong))
    _, question = await until_asked(handler)
    assert repr(wrong) in question
    assert str(len(TEXT.split())) in question
    await handler.cancel_run()


async def test_a_prompt_may_be_saved_as_json_and_answered_by_another_instance() -> None:
    handler = NumberPrompt().run(text=TEXT)
    await until_asked(handler)
    saved = json.dumps(handler.ctx.to_dict())
    await handler.cancel_run()
    other = NumberPrompt()
    resumed = other.run(ctx=Context.from_dict(other, json.loads(saved)))
    resumed.ctx.send_event(NumberGiven(response="1"))
    assert await resumed == TEXT.split()[0]
    assert runs() == []


def test_a_person_may_take_a_day() -> None:
    @virtual_time()
    async def program() -> None:
        handler = NumberPrompt(timeout=None).run(text=TEXT)
        await until_asked(handler)
        await asyncio.sleep(86_400)
        handler.ctx.send_event(NumberGiven(response="2"))
        assert await handler == TEXT.split()[1]

    program()


async def test_another_text_gives_another_answer() -> None:
    words = random.Random(7).sample(["quay", "cod", "lantern", "fog", "gull", "breakwater"], 6)
    handler = NumberPrompt().run(text=" ".join(words))
    await until_asked(handler)
    handler.ctx.send_event(NumberGiven(response="4"))
    assert await handler == words[3]
    assert await Progress().run(text=" ".join(words)) == max(words, key=len)


# The command.


def test_the_command_prints_results_on_stdout_and_what_happens_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([TEXT, "--answers", "no,4"]) == 0
    printed = capsys.readouterr()
    told = dict(line.split(": ", 1) for line in printed.out.splitlines())
    assert told["length"] == str(len(TEXT))
    assert told["longest"] == max(TEXT.split(), key=len)
    assert told["chosen"] == TEXT.split()[3]
    assert "'no' is no number" in printed.err


@pytest.mark.parametrize("answers", ["", "x,y", "1,2,3,4"])
def test_answers_that_are_wrong_or_too_many_do_not_hold_the_command_up(answers: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fog", "--answers", answers]) == 0
    assert "chosen: fog" in capsys.readouterr().out
