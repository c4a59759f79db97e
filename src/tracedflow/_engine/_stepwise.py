"""Stepwise runs: what is ready starts when the caller says so, and what it returns goes to the caller."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..errors import WorkflowRuntimeError
from ..events import Event
from . import _state as st
from ._part import Part

if TYPE_CHECKING:
    from ._runner import Runner


class Produced(list[Event]):
    """What the steps returned. True while the run is live, so that `while produced := await handler.run_step()` goes on.

    A step may return nothing, as one that joins does until its set is complete, and the run is not over for that.
    """

    def __init__(self, events: Iterable[Event], *, is_live: bool) -> None:
        super().__init__(events)
        self._is_live = is_live

    def __bool__(self) -> bool:
        return len(self) > 0 or self._is_live


class Stepper(Part):
    """Starts what is ready in one run when it is told to, and knows what its caller has in hand."""

    def __init__(self, runner: Runner) -> None:
        super().__init__(runner)
        self._returned: list[st.Envelope] = []  # and not handed over yet
        self._in_hand: dict[int, list[st.Envelope]] = {}  # by the identity of the event
        self._put_off: list[st.Resume] = []
        self._stepping = False
        self._change: asyncio.Future[None] | None = None

    async def run_step(self) -> Produced | None:
        """Run what is ready; return what it returned, undelivered, or None when the run is over.

        It ends when all that it started has ended or waits for an event. When there was nothing to start, and a step
        waits for an event, it waits for that too.
        """
        runner = self._runner
        if self._stepping:
            raise WorkflowRuntimeError(
                f"run_step() of run {runner.run_id} was called while another call of it is at work; await that first"
            )
        self._stepping = True
        try:
            await asyncio.sleep(0)  # the run starts with the loop's next turn
            self._discard_the_rest()
            started = False
            while not runner.is_over:
                started = started or self._start()
                if not self._is_busy() and (started or self._returned or not runner.state.executions):
                    break
                self._change = runner.loop.create_future()
                await self._change
        finally:
            self._stepping = False
        return self._hand_over()

    def _start(self) -> bool:
        """Let everything go on that may; return whether there was anything."""
        runner = self._runner
        put_off, self._put_off = self._put_off, []
        for command in put_off:
            runner.resume(command)
        if runner.lifecycle is not None:
            for execution in runner.ready:
                told = runner.lifecycle.goes_on(execution)
                if told is not None:
                    runner.log.tell(told)
        found = bool(runner.ready or put_off)
        runner.lead.take_each()  # what they send is not ready before the next call
        return found

    def _is_busy(self) -> bool:
        runner = self._runner
        return not runner.has_begun or any(scope.execution.phase != "parked" for scope in runner.scopes.values())

    def _hand_over(self) -> Produced | None:
        runner = self._runner
        returned, self._returned = self._returned, []
        if runner.is_over and not returned:
            return None
        for envelope in returned:
            self._in_hand.setdefault(id(envelope.event), []).append(envelope)
        return Produced((envelope.event for envelope in returned), is_live=bool(runner.state.executions) and not runner.is_over)

    def _discard_the_rest(self) -> None:
        """Take it that what the caller has not sent on by now shall have no effect."""
        left = [envelope.id for envelopes in self._in_hand.values() for envelope in envelopes]
        self._in_hand.clear()
        if left and not self._runner.is_over:
            self._runner.apply(st.Discard(left, self._runner.now()))

    # --- what the runner tells ---

    def take(self, event: Event) -> st.Envelope | None:
        """Return the envelope of an event that a step returned and the caller now sends on: it keeps its cause."""
        envelopes = self._in_hand.get(id(event))
        if not envelopes:
            return None
        envelope = envelopes.pop(0)
        if not envelopes:
            del self._in_hand[id(event)]
        return envelope

    def add(self, envelope: st.Envelope) -> None:
        """Take an event that a step returned."""
        self._returned.append(envelope)
        assert envelope.source is not None
        call = self._runner.scopes[envelope.source].call
        call.emitted = [*call.emitted, (envelope.id, envelope.type_name)]

    def puts_off(self, command: st.Resume) -> bool:
        """Whether a parked step must wait for the next `run_step`."""
        if self._stepping:
            return False
        self._put_off.append(command)
        return True

    def look(self) -> None:
        """See that something has changed."""
        if self._change is not None and not self._change.done():
            self._change.set_result(None)
