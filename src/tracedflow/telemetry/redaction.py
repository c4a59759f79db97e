"""The redactor that stands before every exit: what a run was given never leaves it in an error's text.

Exception messages and stack traces are diagnostics and go out; the string values of the events they are about do
not. Knows nothing of spans, logs or the console.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from pydantic import BaseModel, SecretBytes, SecretStr

from ..context import current_scope
from ..context.serializers._types import dynamic
from ..outcomes import error_type

if TYPE_CHECKING:
    from .._engine._scope import StepScope
    from ..middleware import StepCall

_log = logging.getLogger("tracedflow.telemetry")

MASK = "***"
SHORTEST = 6  # characters: shorter values are words like "yes" and would mask the text itself
_MOST_VALUES = 10_000  # strings looked at in one event: an error path may not walk a whole data set
_FRAGMENT = 16  # characters: libraries shorten long values in the middle, so heads and tails are looked for too
_DESCRIPTION = 256  # characters
_GIVEN = "__tracedflow_given__"  # on an exception: what its text may repeat
_MOST_SOURCES = 1_000
_MOST_CAUSES = 64
_OURS = str(Path(__file__).resolve().parent.parent) + os.sep


_own: Callable[[str], str] | None = None


def use_redactor(own: Callable[[str], str] | None) -> None:
    """Let a function of the application's own see every text last, before it leaves; None: no function."""
    global _own
    _own = own


def redacted(text: str) -> str:
    """Return what the application's own redactor makes of a text. One that raises lets nothing through."""
    if _own is None:
        return text
    try:
        return str(_own(text))
    except Exception as error:  # noqa: BLE001 - its message is not logged: it may quote the text
        _log.error("the redactor %r raised %s; the text it was given is left out", _own, type(error).__name__)
        return MASK


def captures_text() -> bool:
    """Return whether exception messages and stack traces may go out; `TRACEDFLOW_CAPTURE=none` says no."""
    return os.environ.get("TRACEDFLOW_CAPTURE", "").strip().lower() != "none"


def mask(text: str, sources: Iterable[object]) -> str:
    """Return `text` without the string values of `sources`, which are events or anything that holds strings.

    Strings of six characters or more are masked, secrets of any length, in their plain and their escaped form, and
    heads and tails of long ones.
    """
    for value in sorted(set(_secret_texts(sources)), key=len, reverse=True):
        if value in text:
            text = text.replace(value, MASK)
        if len(value) > 2 * _FRAGMENT:
            text = _mask_ends(text, value)
    return redacted(text)


def given_to(call: StepCall) -> tuple[object, ...]:
    """Return what a text about a step may repeat.

    These are its inputs, the run's arguments, what it collected, the answers of its waits, and what the store holds now.
    """
    scope = current_scope.get()
    if scope is None or scope.call is not call:
        return (*call.inputs, call.run.start_event)
    return (*call.inputs, call.run.start_event, *(scope.execution.memo or {}).values(), *_stored(scope))


class _Texts(tuple[tuple[str, int], ...]):
    """Strings that were found, each with the length from which on it is masked: what they were found in may change."""

    __slots__ = ()


def _stored(scope: StepScope) -> Iterator[_Texts]:
    """Yield the strings in the values of the run's store, and of the draft of an edit that was not committed; not its keys."""
    store = scope.runner.context._store
    for model in (getattr(store, "_state", None), getattr(store, "_draft", None)):
        if isinstance(model, BaseModel):
            seen: set[int] = set()
            values = [*model.__dict__.values(), *dynamic(model).values()]
            yield _Texts(islice(chain.from_iterable(_strings(value, seen) for value in values), _MOST_VALUES))


class _Given(tuple[object, ...]):
    """What rides on an exception. It neither shows itself nor is copied or saved with it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<left by tracedflow to mask texts>"

    def __reduce__(self) -> tuple[type[_Given], tuple[()]]:
        return _Given, ()


def remember(error: BaseException, sources: Iterable[object]) -> None:
    """Leave on an error what its text may repeat: it may come out of a nested run, in a step that knows nothing of that."""
    known = {id(each): each for each in (*getattr(error, _GIVEN, ()), *sources)}
    with suppress(AttributeError, TypeError):  # an exception class with slots
        setattr(error, _GIVEN, _Given(tuple(known.values())[:_MOST_SOURCES]))


def _carried(error: BaseException) -> Iterator[object]:
    """Yield what an error, and those that it came from, may repeat."""
    chain: list[BaseException | None] = [error]
    for _ in range(_MOST_CAUSES):
        found = chain.pop(0) if chain else None
        if found is not None:
            yield from getattr(found, _GIVEN, ())
            chain += [found.__cause__, found.__context__]


def describe(error: BaseException, sources: Iterable[object]) -> str:
    """Return one short masked text about an error: its message, or its type and place if text may not go out."""
    if not captures_text():
        return f"{error_type(error)} at {place(error)}"
    text = mask(_message(error), (*sources, *_carried(error)))
    return text if len(text) <= _DESCRIPTION else text[: _DESCRIPTION - 1] + "…"


def stack_trace(error: BaseException, sources: Iterable[object]) -> str:
    """Return the masked stack trace of an error, or its place if text may not go out. Never local variables."""
    if not captures_text():
        return place(error)
    frames = user_frames(error.__traceback__)
    return mask("".join(traceback.format_exception(type(error), error, frames)), (*sources, *_carried(error)))


def place(error: BaseException) -> str:
    """Return where an error was raised, as file:line."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "unknown"


def user_frames(trace: TracebackType | None) -> TracebackType | None:
    """Return the traceback from its first frame outside tracedflow on; all of it if there is none."""
    frame = trace
    while frame is not None and frame.tb_frame.f_code.co_filename.startswith(_OURS):
        frame = frame.tb_next
    return frame if frame is not None else trace


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - an exception class with a broken __str__ is still an error to show
        return error_type(error)


def _mask_ends(text: str, value: str) -> str:
    """Mask a head or a tail of `value`: as much of it as the text has, if that is more than a fragment."""
    at = text.find(value[:_FRAGMENT])
    if at >= 0:
        length = _common(text[at:], value)
        text = text[:at] + MASK + text[at + length :]
    at = text.rfind(value[-_FRAGMENT:])
    if at >= 0:
        end = at + _FRAGMENT
        length = _common(text[:end][::-1], value[::-1])
        text = text[: end - length] + MASK + text[end:]
    return text


def _common(left: str, right: str) -> int:
    length = 0
    for one, other in zip(left, right, strict=False):
        if one != other:
            break
        length += 1
    return length


def _secret_texts(sources: Iterable[object]) -> Iterator[str]:
    for source in sources:
        for count, (text, shortest) in enumerate(source if isinstance(source, _Texts) else _strings(source, set())):
            if count >= _MOST_VALUES:
                break
            for form in (text, repr(text)[1:-1]):
                if len(form) >= shortest:
                    yield form


def _strings(value: object, seen: set[int]) -> Iterator[tuple[str, int]]:
    """Yield each string in `value`, with the length from which on it is masked."""
    match value:
        case str():
            yield str.__str__(value), SHORTEST
            return
        case SecretStr():
            yield value.get_secret_value(), 1
            return
        case SecretBytes():
            yield value.get_secret_value().decode(errors="replace"), 1
            return
        case bytes() | bytearray():
            yield value.decode(errors="replace"), SHORTEST
            return
        case None | int() | float():
            return
        case _:
            pass
    if id(value) in seen:
        return
    seen.add(id(value))
    for part in _parts(value):
        yield from _strings(part, seen)


def _parts(value: object) -> Iterable[object]:
    """Return what a value holds, without calling any code of its class."""
    if isinstance(value, BaseModel):
        return [*value.__dict__.values(), *(value.__pydantic_extra__ or {}).values(), *(value.__pydantic_private__ or {}).values()]
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType, reportUnknownMemberType]
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, BaseException):
        return list(value.args)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, field.name, None) for field in dataclasses.fields(value)]
    return ()
