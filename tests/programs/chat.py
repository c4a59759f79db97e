"""A chat: one run for each turn over one Context, tokens streamed to several readers, a turn the user breaks off."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel, Field

from tests.programs.invariants import check, count
from tracedflow import (
    Context,
    ContextStateError,
    Event,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowCancelledByUser,
    WorkflowHandler,
    catch_error,
    step,
)
from tracedflow.events import StepFailedEvent, WorkflowCancelledEvent
from tracedflow.retry_policy import retry_policy, stop_after_attempt, wait_fixed
from tracedflow.testing import Schedule

USER = ["hello", "tell me everything", "be brief", "damn", "bye"]


class Said(StartEvent):
    text: str


class Checked(Event):
    text: str


class Recalled(Event):
    turns: int


class Token(Event):
    at: int
    text: str


class Reply(StopEvent):
    text: str


class History(BaseModel):
    lines: list[str] = Field(default_factory=list)
    begun: int = 0


class Rude(Exception):
    """Not to be answered."""


class Chat(Workflow[Reply]):
    """Check and recall side by side, then speak."""

    @step
    def moderate(self, ctx: Context[History], ev: Said) -> Checked:
        with ctx.sync.store.edit_state() as history:
            history.begun += 1
        if ev.text == "damn":
            raise Rude(ev.text)
        return Checked(text=ev.text)

    @catch_error(for_steps=["moderate"])
    async def refuse(self, ctx: Context[History], ev: StepFailedEvent) -> Reply:
        return await self._end(ctx, "I would rather not")

    @step
    async def recall(self, ctx: Context[History], ev: Said) -> Recalled:
        history = await ctx.store.get_state()
        return Recalled(turns=len(history.lines))

    @step(timeout=30, retry_policy=retry_policy(wait=wait_fixed(1), stop=stop_after_attempt(2)))
    async def speak(self, ctx: Context[History], checked: Checked, recalled: Recalled) -> Reply:
        words = f"reply {recalled.turns} to {checked.text}".split()
        if checked.text == "tell me everything":
            words *= 100
        if ctx.retry_info().retry_number == 0 and checked.text == "be brief":
            raise ConnectionError("the model is busy")
        for at, word in enumerate(words):
            ctx.write_event_to_stream(Token(at=at, text=word))
            await asyncio.sleep(0.25)
        return await self._end(ctx, " ".join(words))

    async def _end(self, ctx: Context[History], text: str) -> Reply:
        async with ctx.store.edit_state() as history:
            history.lines.append(text)
        return Reply(text=text)


async def tokens(handler: WorkflowHandler[Any], schedule: Schedule, *, pause: bool = False, enough: int = 10**6) -> list[Event]:
    """Read the stream from its first event; a slow reader falls behind."""
    found: list[Event] = []
    async for event in handler.stream_events(offset=0):
        found.append(event)
        if pause:
            await schedule.pause()
        if len(found) == enough:
            await handler.cancel_run()
    return found


async def main(schedule: Schedule) -> None:
    chat = Chat(middleware=[schedule], telemetry=False)
    context: Context[History] = Context(chat)
    replies = []
    for text in USER:
        handler = chat.run(ctx=context, text=text)
        with pytest.raises(ContextStateError):
            chat.run(ctx=context, text="two at once")
        enough = schedule.random.choice([1, 7]) if text == "tell me everything" else 10**6
        fast, slow, late = await asyncio.gather(
            tokens(handler, schedule, enough=enough), tokens(handler, schedule, pause=True), _joined_late(handler, schedule)
        )
        assert fast == slow == late, "every reader has everything, in order"
        assert [event.at for event in fast if isinstance(event, Token)] == list(range(len(fast) - 1))
        if enough < 10:
            assert isinstance(fast[-1], WorkflowCancelledEvent)
            assert len(fast) >= enough
            with pytest.raises(WorkflowCancelledByUser):
                await handler
        else:
            reply = await handler
            assert fast[-1] is reply
            replies.append(reply.text)
            assert text == "damn" or " ".join(event.text for event in fast[:-1] if isinstance(event, Token)) == reply.text
        check(handler, workers={"refuse": 1})
        if text == "be brief":
            assert count(handler) == {"moderate": 1, "recall": 1, "speak": 2}
        assert context.is_running == (enough < 10), "only a turn that was cancelled could be gone on with"
        saved = json_of(context)
        context = Context.from_dict(chat, saved) if schedule.random.random() < 0.5 else handler.ctx
        if context.is_running:
            context = await _turned(chat, context)
    history = await context.store.get_state()
    assert replies == history.lines == ["reply 0 to hello", "reply 1 to be brief", "I would rather not", "reply 3 to bye"]
    assert history.begun == len(USER)


async def _turned(chat: Chat, cancelled: Context[History]) -> Context[History]:
    """Take over what was said, and leave the turn that was cancelled."""
    fresh: Context[History] = Context(chat)
    await fresh.store.set_state(await cancelled.store.get_state())
    return fresh


def json_of(context: Context[Any]) -> dict[str, Any]:
    """Save it between two turns."""
    return context.to_dict()


async def _joined_late(handler: WorkflowHandler[Any], schedule: Schedule) -> list[Event]:
    await asyncio.sleep(schedule.random.choice([0, 1, 5]))
    return await tokens(handler, schedule)
