"""The state of a run: read and written by paths, edited in transactions. Knows nothing of runs or steps."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import threading
import warnings
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator, Mapping, MutableSequence, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from difflib import get_close_matches
from functools import cached_property
from inspect import getattr_static
from typing import Any, Generic, Protocol, TypeVar, cast

from pydantic import BaseModel

from ..errors import ContextSerdeError
from ..events import DictLikeModel
from .serializers import BaseSerializer, JsonSerializer

StateT = TypeVar("StateT", bound=BaseModel)

MAX_DEPTH = 1000
"""The most segments that a path may have."""


class DictState(DictLikeModel):
    """The state of a workflow that declares none: any key, by attribute or by subscript."""


class UnserializableKeyWarning(UserWarning):
    """A key of the state was left out of a snapshot because it cannot be saved."""


class StateStore(Protocol[StateT]):
    """The state of a run, as steps use it. Paths are dotted: keys, attributes and list indices, as in `user.tags.0`."""

    async def get_state(self) -> StateT:
        """Return a copy of the whole state."""
        ...

    async def set_state(self, state: StateT, /) -> None:
        """Replace the state, or merge an instance of a parent class into it."""
        ...

    async def get(self, path: str, default: Any = ...) -> Any:
        """Return the value at `path`; else `default`, if given."""
        ...

    async def set(self, path: str, value: Any) -> None:
        """Set the value at `path`."""
        ...

    async def clear(self) -> None:
        """Set everything back to its default."""
        ...

    def edit_state(self) -> AbstractAsyncContextManager[StateT]:
        """Give a draft of the state, exclusively; committed at the end of the block."""
        ...

    def to_dict(self, serializer: BaseSerializer) -> dict[str, Any]:
        """Return the state as data for JSON."""
        ...


class InMemoryStateStore(Generic[StateT]):
    """A `StateStore` in memory. It may be used from several event loops and threads.

    Readers never wait: they see what was committed last. Writers take turns with `edit_state` blocks, first come first
    served, over all event loops. `get` then `set` is not one step: use `edit_state` for that.
    """

    def __init__(self, initial_state: StateT) -> None:
        self._state = initial_state
        self._turns = _Turns()
        self._walking = threading.RLock()  # held while the state is changed or copied, never over an await

    @property
    def state_type(self) -> type[StateT]:
        """The class of the state."""
        return type(self._state)

    async def get_state(self) -> StateT:
        """Return a copy of the state; nested values are copies too, but for those that cannot be copied."""
        return self._copy()

    def _copy(self) -> StateT:
        with self._walking:
            return isolated(self._state)

    async def set_state(self, state: StateT, /) -> None:
        """Replace the state by one of the same class, or merge the fields of an instance of a parent class into it.

        Raises:
            ValueError: `state` is of another class.
            RuntimeError: called inside an `edit_state` block.
        """
        async with self._turn("set_state"):
            with self._walking:
                self._state = _replaced(self._state, state)

    async def get(self, path: str, default: Any = ...) -> Any:
        """Return the value at `path` itself, not a copy; with `""` a copy of the whole state.

        Args:
            path: keys, attributes and list indices, joined by dots.
            default: returned if there is nothing at `path`.

        Raises:
            ValueError: there is nothing at `path`, and no default.
        """
        segments = _split(path)
        if not segments:
            return self._copy()
        value: Any = self._state
        for index, segment in enumerate(segments):
            value = _child(value, segment)
            if value is _MISSING:
                if default is not ...:
                    return default
                raise ValueError(_not_found(self._state, segments, index))
        return value

    async def set(self, path: str, value: Any) -> None:
        """Set the value at `path`; dicts on the way there are made. Values are not validated.

        Raises:
            ValueError: the path is empty, a typed state has no such field, or a value on the way takes no children.
            RuntimeError: called inside an `edit_state` block.
        """
        segments = _split(path)
        if not segments:
            raise ValueError("set() needs a path, but it is empty: use set_state() to replace the whole state")
        async with self._turn("set"):
            with self._walking:
                _put(self._state, segments, value)

    async def clear(self) -> None:
        """Set everything back to its default.

        Raises:
            ValueError: the state has a field without a default.
            RuntimeError: called inside an `edit_state` block.
        """
        async with self._turn("clear"):
            self._state = type(self._state)()

    @asynccontextmanager
    async def edit_state(self) -> AsyncGenerator[StateT]:
        """Give a draft of the state to change in an `async with` block; nobody else writes meanwhile.

        The draft becomes the state when the block ends, and is thrown away when it raises. Values that cannot be copied
        (locks, clients, sockets) are the same objects in the draft.

        Raises:
            RuntimeError: called inside another `edit_state` block of the same task.
        """
        async with self._turn("edit_state"):
            draft = self._copy()
            yield draft
            self._state = draft

    @asynccontextmanager
    async def _turn(self, method: str) -> AsyncGenerator[None]:
        if self._turns.mine():
            raise RuntimeError(
                f"{method}() was called inside edit_state(), where it would wait for itself: change the state that the block was given"
            )
        await self._turns.take()
        try:
            yield
        finally:
            self._turns.pass_on()

    def to_dict(self, serializer: BaseSerializer) -> dict[str, Any]:
        """Return the state as data for JSON. What an open `edit_state` block has changed is not in it.

        Raises:
            ContextSerdeError: a value cannot be saved; the message names its path, which begins with `state`.
        """
        with self._walking:
            state = self._state
            data = _save_keys(state, serializer) if isinstance(state, DictLikeModel) else serializer.serialize_at(state, "state")
        kind = type(state)
        return {"store_type": "in_memory", "state_type": kind.__qualname__, "state_module": kind.__module__, "state_data": data}

    @classmethod
    def from_dict(
        cls,
        data: Mapping[str, Any],
        serializer: BaseSerializer,
        state_type: type[StateT] = cast("type[StateT]", DictState),  # noqa: B008 - a constant
    ) -> InMemoryStateStore[StateT]:
        """Return a store with what `to_dict` saved. `state_type` decides the class; no class is looked up by its name in the data.

        Raises:
            ContextSerdeError: the data is malformed or of another class.
        """
        saved = data.get("state_data")
        if saved is None:
            return cls(state_type())
        if isinstance(saved, Mapping):
            return cls(_load_keys(cast("Mapping[str, Any]", saved), serializer, state_type))
        if not isinstance(saved, str):
            raise ContextSerdeError(f"state cannot be loaded: state_data must be text or keys with text, not {saved!r}")
        if isinstance(serializer, JsonSerializer):  # the state's own class needs no allowing
            serializer = serializer.with_types(_models(state_type))
        loaded = serializer.deserialize_at(saved, "state")
        try:
            return cls(_replaced(state_type(), loaded))
        except ValueError as error:
            raise ContextSerdeError(f"state cannot be loaded: {error}") from error


def most_derived(types: Iterable[type[BaseModel]]) -> type[BaseModel]:
    """Return the class that is derived from all the others.

    Raises:
        ValueError: there is none, because the classes do not form one chain of inheritance.
    """
    given = list(dict.fromkeys(types))
    for kind in given:
        if all(issubclass(kind, other) for other in given):
            return kind
    names = ", ".join(f"{kind.__module__}.{kind.__qualname__}" for kind in given) or "none"
    raise ValueError(f"the state types of a workflow must form one chain of inheritance, but these do not: {names}")


# Turns: a lock over event loops.


@dataclasses.dataclass(slots=True, eq=False)
class _Turn:
    loop: asyncio.AbstractEventLoop
    task: asyncio.Task[Any] | None
    came: asyncio.Event


class _Turns:
    """Lets one writer at a time in, first come first served, whatever event loop it runs on.

    An `asyncio.Lock` serves one loop only, and a `threading.Lock` would stop a whole loop while another one's block awaits.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()  # held for a few instructions
        self._holder: _Turn | None = None
        self._waiting: deque[_Turn] = deque()

    def mine(self) -> bool:
        """Tell whether the calling task has the turn."""
        holder = self._holder
        return holder is not None and holder.task is asyncio.current_task()

    async def take(self) -> None:
        turn = _Turn(asyncio.get_running_loop(), asyncio.current_task(), asyncio.Event())
        with self._guard:
            # A loop that was closed in the middle of a block can never pass its turn on.
            if self._holder is None or self._holder.loop.is_closed():
                self._holder = turn
                return
            self._waiting.append(turn)
        try:
            await turn.came.wait()
        except BaseException:
            self._withdraw(turn)
            raise

    def _withdraw(self, turn: _Turn) -> None:
        with self._guard:
            if self._holder is not turn:
                self._waiting.remove(turn)
                return
        self.pass_on()  # the turn came together with the cancellation

    def pass_on(self) -> None:
        with self._guard:
            while self._waiting:
                self._holder = self._waiting.popleft()
                try:
                    self._holder.loop.call_soon_threadsafe(self._holder.came.set)
                except RuntimeError:  # that loop is closed
                    continue
                return
            self._holder = None


# Copies.

_HANDLES = frozenset(
    {"_asyncio", "_contextvars", "_queue", "_thread", "asyncio", "concurrent", "contextvars", "multiprocessing", "queue", "threading"}
)
"""Modules whose objects can be copied, some of them, but mean nothing apart from the original: whoever waits there waits on that."""

_ATOMS = (str, int, float, bool, bytes, complex, type(None))

ValueT = TypeVar("ValueT")


def isolated(value: ValueT) -> ValueT:
    """Return a deep copy in which everything that cannot be copied is the same object.

    Containers, pydantic models and dataclasses are walked; other objects are deep-copied, and kept if that fails.
    """
    return cast("ValueT", _isolated(value, {}))


def _isolated(value: Any, memo: dict[int, Any]) -> Any:
    kind = cast("type", type(value))
    if kind in _ATOMS or kind.__module__.partition(".")[0] in _HANDLES:
        return value
    if id(value) in memo:
        return memo[id(value)]
    if kind in _WALKS:
        return _WALKS[kind](value, memo)
    if isinstance(value, BaseModel) and type(value).__deepcopy__ is BaseModel.__deepcopy__:
        return _isolated_model(value, memo)
    if dataclasses.is_dataclass(kind) and not hasattr(kind, "__deepcopy__"):
        return _isolated_dataclass(value, memo)
    return _isolated_leaf(value, memo)


def _isolated_list(value: list[Any], memo: dict[int, Any]) -> list[Any]:
    copied: list[Any] = []
    memo[id(value)] = copied  # before its items, for lists that contain themselves
    copied.extend(_isolated(item, memo) for item in value)
    return copied


def _isolated_dict(value: dict[Any, Any], memo: dict[int, Any]) -> dict[Any, Any]:
    copied: dict[Any, Any] = {}
    memo[id(value)] = copied
    copied.update((_isolated(key, memo), _isolated(item, memo)) for key, item in value.items())
    return copied


def _isolated_set(value: set[Any], memo: dict[int, Any]) -> set[Any]:
    memo[id(value)] = copied = {_isolated(item, memo) for item in value}
    return copied


def _isolated_tuple(value: tuple[Any, ...], memo: dict[int, Any]) -> tuple[Any, ...]:
    copied = tuple(_isolated(item, memo) for item in value)
    if all(one is other for one, other in zip(copied, value, strict=True)):
        return value
    return cast("tuple[Any, ...]", memo.setdefault(id(value), copied))  # it may have been met within itself


_WALKS: dict[type, Callable[[Any, dict[int, Any]], Any]] = {
    list: _isolated_list,
    dict: _isolated_dict,
    set: _isolated_set,
    tuple: _isolated_tuple,
}


def _isolated_model(value: BaseModel, memo: dict[int, Any]) -> BaseModel:
    copied = memo[id(value)] = value.model_copy()
    for values in (vars(copied), copied.__pydantic_extra__, copied.__pydantic_private__):
        for name, item in list((values or {}).items()):
            cast("dict[str, Any]", values)[name] = _isolated(item, memo)
    return copied


def _isolated_dataclass(value: Any, memo: dict[int, Any]) -> Any:
    try:
        copied = memo[id(value)] = copy.copy(value)
    except Exception:  # noqa: BLE001 - copying runs code of the value
        return value
    for field in dataclasses.fields(value):
        if hasattr(value, field.name):
            object.__setattr__(copied, field.name, _isolated(getattr(value, field.name), memo))
    return copied


def _isolated_leaf(value: Any, memo: dict[int, Any]) -> Any:
    size = len(memo)
    try:
        return copy.deepcopy(value, memo)
    except Exception:  # noqa: BLE001 - copying runs code of the value
        while len(memo) > size:  # half-made copies of its parts
            memo.popitem()
        return value


# Paths.

_MISSING: Any = object()


def _split(path: str) -> list[str]:
    if not isinstance(path, str):  # pyright: ignore[reportUnnecessaryIsInstance] - users need not type-check
        raise TypeError(f"path must be a str, not {path!r}")
    segments = path.split(".") if path else []
    if len(segments) > MAX_DEPTH:
        raise ValueError(f"path has {len(segments)} segments, and {MAX_DEPTH} is the most: {path[:60]}...")
    return segments


def _child(parent: Any, segment: str) -> Any:
    """Return what `parent` has under `segment`, or `_MISSING`."""
    match parent:
        case BaseModel():
            return _model_child(parent, segment)
        case Mapping():
            return cast("Mapping[str, Any]", parent).get(segment, _MISSING)
        case list() | tuple():
            items = cast("Sequence[Any]", parent)
            index = _index(items, segment)
            return _MISSING if index is None else items[index]
        case _:
            return getattr(parent, segment, _MISSING)


def _model_child(model: BaseModel, segment: str) -> Any:
    for values in (model.__dict__, _dynamic(model)):
        if segment in values:
            return values[segment]
    # Not a plain `getattr`: a key named `items` that was never set must be missing, not a method of the model.
    is_property = isinstance(getattr_static(type(model), segment, None), (property, cached_property))
    return getattr(model, segment, _MISSING) if is_property else _MISSING


def _dynamic(model: BaseModel) -> Mapping[str, Any]:
    return dict(model.items()) if isinstance(model, DictLikeModel) else model.__pydantic_extra__ or {}


def _index(sequence: Sequence[Any], segment: str) -> int | None:
    try:
        index = int(segment)
    except ValueError:
        return None
    return index if -len(sequence) <= index < len(sequence) else None


def _put(state: BaseModel, segments: list[str], value: Any) -> None:
    parent: Any = state
    for depth, segment in enumerate(segments[:-1]):
        child = _child(parent, segment)
        if child is _MISSING or child is None:
            child = dict[str, Any]()
            _assign(parent, segment, child, segments[: depth + 1])
        parent = child
    _assign(parent, segments[-1], value, segments)


def _assign(parent: Any, segment: str, value: Any, segments: list[str]) -> None:
    path = ".".join(segments)
    if isinstance(parent, list):
        items = cast("MutableSequence[Any]", parent)
        index = _index(items, segment)
        if index is None:
            raise ValueError(f"cannot set {path!r}: {segment!r} is not an index of a list of {len(items)}")
        items[index] = value
    elif isinstance(parent, dict) or (isinstance(parent, DictLikeModel) and segment not in type(parent).model_fields):
        parent[segment] = value
    else:
        try:
            setattr(parent, segment, value)
        except (AttributeError, TypeError, ValueError) as error:
            known = ", ".join(type(parent).model_fields) if isinstance(parent, BaseModel) else ""
            hint = f" (its fields are {known})" if known else ""
            raise ValueError(f"cannot set {path!r}: a {type(parent).__qualname__} does not take {segment!r}{hint}") from error


def _not_found(state: BaseModel, segments: list[str], index: int) -> str:
    path, missing = ".".join(segments), segments[index]
    parent: Any = state
    for segment in segments[:index]:
        parent = _child(parent, segment)
    near = get_close_matches(missing, _keys(parent), n=1)
    where = f" in {'.'.join(segments[:index])!r}" if index else ""
    meant = f"; did you mean {near[0]!r}?" if near else ""
    return f"the state has nothing at {path!r}: there is no {missing!r}{where}{meant}"


def _keys(value: Any) -> list[str]:
    match value:
        case BaseModel():
            return [*value.__dict__, *_dynamic(value)]
        case Mapping():
            return [key for key in cast("Mapping[Any, Any]", value) if isinstance(key, str)]
        case _:
            return list(getattr(value, "__dict__", ()))


# Whole states.


def _replaced(current: StateT, state: BaseModel) -> StateT:
    kind = type(current)
    if type(state) is kind:
        return state.model_copy()  # else the caller's later changes would be changes of the state
    if not (isinstance(state, BaseModel) and isinstance(current, type(state))):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(
            f"the state is a {kind.__qualname__}, and a {type(state).__qualname__} is neither that nor a parent of it: {state!r}"
        )
    merged = current.model_copy()
    for name, value in {**vars(state), **_dynamic(state)}.items():
        _assign(merged, name, value, [name])
    return merged


def _models(kind: type[BaseModel]) -> Iterator[type]:
    return (base for base in kind.__mro__ if issubclass(base, BaseModel))


def _save_keys(state: DictLikeModel, serializer: BaseSerializer) -> dict[str, dict[str, str]]:
    saved: dict[str, str] = {}
    for name, value in {**vars(state), **_dynamic(state)}.items():
        with _allowed_to_fail(name):
            saved[name] = serializer.serialize_at(value, f"state.{name}")
    return {"_data": saved}


@contextmanager
def _allowed_to_fail(name: str) -> Generator[None]:
    # Programs keep their chat memory under this name, rebuild it after loading, and have always been let off.
    try:
        yield
    except ContextSerdeError as error:
        if name != "memory":
            raise
        warnings.warn(f"the state is saved without 'memory': {error}", UnserializableKeyWarning, stacklevel=2)


def _load_keys(saved: Mapping[str, Any], serializer: BaseSerializer, state_type: type[StateT]) -> StateT:
    keys = saved.get("_data")
    if not isinstance(keys, Mapping):
        raise ContextSerdeError(f"state cannot be loaded: state_data needs the keys under '_data', but has {sorted(saved)}")
    values = {name: serializer.deserialize_at(text, f"state.{name}") for name, text in cast("Mapping[str, str]", keys).items()}
    state = state_type()
    try:
        for name, value in values.items():
            _assign(state, name, value, [name])
    except ValueError as error:
        raise ContextSerdeError(f"state cannot be loaded: {error}") from error
    return state
