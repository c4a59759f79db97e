"""The chain: layers folded once around three endpoints, with a shield around each observer."""

from __future__ import annotations

import logging
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from typing import Any, Generic, TypeAlias, TypeVar

from ._apart import Apart, call_apart
from ._calls import AttemptCall, AttemptNext, RunCall, RunNext, StepNext
from ._layers import Middleware, Observer
from ._notices import MiddlewareFailed, Notice
from ._step_call import StepCall

_log = logging.getLogger("tracedflow.middleware")

CallT = TypeVar("CallT")
ResultT = TypeVar("ResultT")
_Next: TypeAlias = Callable[[CallT], Awaitable[ResultT]]
_Layer: TypeAlias = Callable[[CallT, Any], Coroutine[Any, Any, ResultT]]
_Report: TypeAlias = Callable[[Any, str, str, BaseException | str], None]


class _Question:
    """What the shield's `call_next` yields instead of suspending."""


_ASK = _Question()
_CANCELS = "tried to cancel the task it runs in"


@types.coroutine
def _ask(call: object) -> Generator[_Question, Any, Any]:
    return (yield _ASK)


class _Shield(Generic[CallT, ResultT]):
    """Drives one observer method by hand around `inner`, so that it can watch but never change what happens.

    The inner call is awaited here, not inside the observer: the observer's `call_next` only yields a question, which
    is answered with the outcome. So the inner call runs exactly once, whatever the observer does.
    """

    __slots__ = ("_inner", "_layer", "_name", "_report", "_skips")

    def __init__(
        self, layer: _Layer[CallT, ResultT], inner: _Next[CallT, ResultT], name: str, report: _Report, skips: Callable[[CallT], bool] | None
    ) -> None:
        self._layer = layer
        self._inner = inner
        self._name = name
        self._report = report
        self._skips = skips

    def __call__(self, call: CallT) -> Awaitable[ResultT]:
        if self._skips is not None:
            try:
                if self._skips(call):
                    return self._inner(call)
            except Exception as error:  # noqa: BLE001 - see `_open`
                self._report(call, self._name, "raised when asked whether it skips", error)
        return self._watched(call)

    async def _watched(self, call: CallT) -> ResultT:
        watching = self._open(call)
        error: BaseException | None = None
        result: Any = None
        try:
            result = await self._inner(call)
        except GeneratorExit:
            if watching is not None:
                self._quit(watching)
            raise
        except BaseException as caught:  # noqa: BLE001 - shown to the observer, then raised again below
            error = caught
        if watching is not None:
            self._close(call, watching, result, error)
        if error is not None:
            raise error
        return result  # type: ignore[no-any-return]

    def _open(self, call: CallT) -> Coroutine[Any, Any, ResultT] | None:
        """Run the observer up to its `call_next`; None if it does not get there."""
        try:
            watching = self._layer(call, _ask)
            asked = watching.send(None)
        except StopIteration:
            return None  # it never called `call_next`: the step goes on without it
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - an observer's bug must not reach the run
            self._report(call, self._name, "raised before call_next", error)
            return None
        return watching if self._asked(call, watching, asked) else None

    def _asked(self, call: CallT, watching: Coroutine[Any, Any, ResultT], asked: object) -> bool:
        if asked is _ASK:
            return True
        self._report(call, self._name, "awaited something else than call_next", "Suspended")
        self._quit(watching)
        return False

    def _close(self, call: CallT, watching: Coroutine[Any, Any, ResultT], result: Any, error: BaseException | None) -> None:
        """Show the outcome to the observer and let it finish; what it makes of it is ignored."""
        trace = None if error is None else error.__traceback__
        context = None if error is None else error.__context__
        try:
            asked = watching.send(result) if error is None else watching.throw(error)
            while self._asked(call, watching, asked):  # asked again: the same answer, and no second run
                asked = watching.send(result) if error is None else watching.throw(error)
        except StopIteration:
            pass
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as raised:  # noqa: BLE001 - see `_open`
            if raised is not error:
                self._report(call, self._name, "raised after call_next", raised)
        finally:
            if error is not None:  # the observer's frames are nobody's business
                error.__traceback__ = trace
                error.__context__ = context

    def _quit(self, watching: Coroutine[Any, Any, ResultT]) -> None:
        try:
            watching.close()
        except BaseException as error:  # noqa: BLE001 - it may refuse to stop; then it is dropped
            _log.debug("observer %s refused to stop: %r", self._name, error)


def _onion(layer: _Layer[CallT, ResultT], inner: _Next[CallT, ResultT]) -> _Next[CallT, ResultT]:
    def call_layer(call: CallT) -> Awaitable[ResultT]:
        return layer(call, inner)

    return call_layer


def _apart(layer: _Layer[CallT, ResultT], name: str, report: _Report) -> _Layer[CallT, ResultT]:
    def watch(call: CallT, call_next: Any) -> Coroutine[Any, Any, ResultT]:
        return Apart(layer(call, call_next), lambda: report(call, name, _CANCELS, "Cancelled"))

    return watch


class Chain:
    """The layers of a workflow, folded once around three endpoints; afterwards only closures are called.

    `run`, `step` and `attempt` call through every layer that overrides that method, first listed outermost.
    `single_attempt` is for a step without a retry policy; None: no layer asks for it. `untraced_step` is for the steps of a run
    that has no span and no caller's: our tracing has nothing to do there.
    """

    __slots__ = ("_failed", "_heard", "attempt", "layers", "run", "single_attempt", "step", "untraced_step")

    def __init__(self, layers: Sequence[Middleware], *, run: RunNext, step: StepNext, attempt: AttemptNext) -> None:
        self.layers: tuple[Middleware, ...] = tuple(layers)
        self._failed: set[tuple[str, str]] = set()
        self.run: RunNext = self._fold("run", run)
        self.step: StepNext = self._fold("step", step)
        self.untraced_step: StepNext = self._fold("step", step, [layer for layer in self.layers if _skip(layer, "run") is None])
        self.attempt: AttemptNext = self._fold("attempt", attempt)
        everywhere = [layer for layer in self.layers if layer.attempts_of == "all"]
        watched = any(type(layer).attempt is not Middleware.attempt for layer in everywhere)
        self.single_attempt: AttemptNext | None = self._fold("attempt", attempt, everywhere) if watched else None
        self._heard: dict[type[Notice], tuple[tuple[str, Callable[[Notice], None]], ...]] = {}

    def _fold(self, method: str, endpoint: Any, layers: Sequence[Middleware] | None = None) -> Any:
        folded = endpoint
        for layer in reversed(self.layers if layers is None else layers):
            if getattr(type(layer), method) is getattr(Middleware, method):
                continue
            bound = getattr(layer, method)
            if not isinstance(layer, Observer):
                folded = _onion(bound, folded)
                continue
            if not _is_ours(layer):
                bound = _apart(bound, _name(layer), self._report)
            folded = _Shield(bound, folded, _name(layer), self._report, _skip(layer, method))
        return folded

    def hears(self, kind: type[Notice]) -> bool:
        """Whether a layer hears notices of this kind; if not, none need be made."""
        try:
            return self._heard[kind] != ()
        except KeyError:
            return self._listeners(kind) != ()

    def _listeners(self, kind: type[Notice]) -> tuple[tuple[str, Callable[[Notice], None]], ...]:
        found = self._heard.get(kind)
        if found is None:
            listening = [layer for layer in self.layers if type(layer).on is not Middleware.on]
            found = self._heard[kind] = tuple(
                (_name(layer), self._listener(layer)) for layer in listening if layer.hears is None or issubclass(kind, layer.hears)
            )
        return found

    def _listener(self, layer: Middleware) -> Callable[[Notice], None]:
        if not isinstance(layer, Observer) or _is_ours(layer):
            return layer.on
        return lambda notice: call_apart(lambda: self._report(notice, _name(layer), _CANCELS, "Cancelled"), layer.on, notice)

    def notice(self, notice: Notice) -> None:
        """Tell every listener; one that raises is logged once and counted, and the next one is told."""
        for name, listen in self._listeners(type(notice)):
            try:
                listen(notice)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:  # noqa: BLE001 - a listener's bug must not reach the run
                self._report(notice, name, f"raised on {type(notice).__name__}", error)

    def _report(self, about: RunCall | StepCall | AttemptCall | Notice, name: str, what: str, error: BaseException | str) -> None:
        kind = error if isinstance(error, str) else type(error).__qualname__
        if (name, what) not in self._failed:
            self._failed.add((name, what))
            _log.error(
                "observer %s %s; the run goes on without it (said once)", name, what, exc_info=None if isinstance(error, str) else error
            )
        if not isinstance(about, MiddlewareFailed):
            run, call = _whereabouts(about)
            at = call.started_at if call else run.started_at
            self.notice(MiddlewareFailed(run=run, call=call, at=at, middleware=name, error_type=kind))


def _is_ours(layer: Middleware) -> bool:
    """Whether it comes with this package: those never ask for the current task, and keeping them from it would cost them 1 µs a step."""
    return type(layer).__module__.partition(".")[0] == __name__.partition(".")[0]


def _skip(layer: Middleware, method: str) -> Callable[[Any], bool] | None:
    """Return what says whether one of our layers need not watch a call: then it costs no coroutine."""
    return getattr(layer, f"_skips_{method}", None) if _is_ours(layer) else None


def _name(layer: Middleware) -> str:
    return type(layer).__qualname__


def _whereabouts(about: RunCall | StepCall | AttemptCall | Notice) -> tuple[RunCall, StepCall | None]:
    match about:
        case RunCall():
            return about, None
        case StepCall():
            return about.run, about
        case AttemptCall():
            return about.step.run, about.step
        case _:
            return about.run, about.call
