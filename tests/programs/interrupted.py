"""Runs a program over several lives: it is cut off at some point, saved as text, and goes on in a new workflow instance."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from tracedflow import Context, Middleware, Notice, StartEvent, Workflow, WorkflowHandler
from tracedflow.middleware import AttemptCall, AttemptNext, StepResult

Handler = WorkflowHandler[Any]
Visit = Callable[[Handler], Awaitable[None]]


class Cut(Middleware):
    """Saves the run at its n-th point and ends it there. Points: each notice, before each attempt, and after it."""

    def __init__(self, at: int | None) -> None:
        self.at = at
        self.points = 0
        self.saved: str | None = None
        self.handler: Handler

    def _point(self) -> None:
        self.points += 1
        if self.points == self.at:
            data = self.handler.ctx.to_dict()
            if data["run"] is not None:  # else this point is past its end
                self.saved = json.dumps(data)
                self.handler.cancel("the power went off")

    def on(self, notice: Notice, /) -> None:
        self._point()

    async def attempt(self, call: AttemptCall, call_next: AttemptNext, /) -> StepResult:
        self._point()
        await asyncio.sleep(0)
        result = await call_next(call)
        self._point()
        await asyncio.sleep(0)
        return result


async def lives(make: Callable[[Cut], Workflow[Any]], start: StartEvent, cuts: Iterable[int], visit: Visit) -> tuple[list[Handler], Any]:
    """Run it, cut off after so many points in each life, and in the last one to its end; return the handlers and the result.

    `visit` is the world outside, which comes in every life.
    """
    handlers: list[Handler] = []
    saved: str | None = None
    for at in (*cuts, None):
        cut = Cut(at)
        flow = make(cut)
        handler = flow.run(start_event=start) if saved is None else flow.run(ctx=Context.from_dict(flow, json.loads(saved)))
        cut.handler = handler
        handlers.append(handler)
        visitor = asyncio.ensure_future(visit(handler))
        try:
            return handlers, await handler
        except asyncio.CancelledError:
            if cut.saved is None:
                raise
            saved = cut.saved
        finally:
            visitor.cancel()
            await asyncio.wait([visitor])
    raise AssertionError("the last life is not cut off")
