"""The saved form of a run's state and of its inputs: data for JSON, with a format version. No I/O.

A journal stores what `dump_input` gives; recovery folds those inputs onto the last `dump_state`.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from pydantic import TypeAdapter

from ..errors import ContextSerdeError
from ..events import Event, SerializableException
from . import _state as st
from ._soundness import check_fields, check_run

if TYPE_CHECKING:
    from .._graph import Graph
    from ._runner import Runner

Save: TypeAlias = Callable[[Any, str], str]
"""Turns a value into text; the second argument is its path, for errors."""

Load: TypeAlias = Callable[[str, str], Any]
"""Turns text back into a value."""

_TAG = "~"
_MOST = 1_000_000  # members of a list that the data may ask for in one word
_DAMAGE = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError)  # what damaged data leads to
_FAILURES = {"last_error", "error"}  # fields with what a step raised: saved as type and message, whatever the serializer can do
_ERROR: TypeAdapter[Exception] = TypeAdapter(SerializableException)
_NOT_SAVED = {"span_context", "waits_by", "counted"}  # means something in its own process only, or follows from the rest
_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        st.RunState, st.Envelope, st.Execution, st.Wait, st.Lane, st.Buffer, st.Stream, st.Tally, st.Drop,
        st.Begin, st.Send, st.SendOn, st.Discard, st.Collect, st.OpenWait, st.AbandonWait, st.Remember, st.Streamed, st.Complete,
        st.Recover, st.AttemptFailed, st.Fire, st.End, st.Restart,
    )
}  # fmt: skip


def dump_state(state: st.RunState, save: Save) -> dict[str, Any]:
    """Return a run's state as data for JSON, in time proportional to what is live.

    Raises:
        ContextSerdeError: a value cannot be saved; the message names it by its path.
    """
    saver = _Saver(save)
    return {"format": st.FORMAT, "state": saver.saved(state, "run"), "envelopes": saver.envelopes}


def load_state(data: Mapping[str, Any], load: Load, types: Iterable[type[Event]]) -> st.RunState:
    """Return the state that `dump_state` saved. Only classes in `types`, and event classes already imported, are found.

    Raises:
        ContextSerdeError: the data is malformed, of a newer format, or names an unknown class.
    """
    _check_format(data, "state")
    state = _Loader(load, types, data.get("envelopes", {})).loaded(data["state"], "run")
    if not isinstance(state, st.RunState):
        raise ContextSerdeError("the saved run has no state in it")
    state.drops = deque(state.drops, maxlen=st.DROPS_KEPT) if state.drops else ()
    state.tallies = defaultdict(st.Tally, state.tallies)
    for wait in tuple(state.waits.values()):
        state.add_wait(wait)
    return state


@dataclass(slots=True, kw_only=True)
class SavedRun:
    """A run that was live when it was saved.

    `completed` are the ends of executions that are live in `state`: a checkpoint is saved before they count. `early` are
    events sent to a run that had not begun, and the steps they were sent to.
    """

    run_id: str
    start_event: Event
    segment: int
    state: st.RunState
    completed: list[st.Complete] = field(default_factory=list[st.Complete])
    early: list[tuple[Event, str | None]] = field(default_factory=list[tuple[Event, str | None]])
    carrier: dict[str, str] = field(default_factory=dict[str, str])  # of the layers; see `RunCall`
    saved_at: float | None = None  # run clock

    @classmethod
    def of(cls, runner: Runner) -> SavedRun | None:
        """Return what a later segment of a run needs to go on; None if it is over. Nothing is copied: `dump` it now."""
        state, call = runner.state, runner.call
        if state.status not in ("new", "running", "suspended") or (state.status == "new" and runner.is_over):
            return None
        unbegun = runner.resumes if not runner.has_begun else None
        completed = list(runner.saving.values()) if unbegun is None else unbegun.completed
        early = [] if runner.has_begun else list(runner.sent_early)
        return cls(
            run_id=call.run_id, start_event=call.start_event, segment=call.segment, state=state, completed=completed, early=early,
            carrier=dict(call.carrier), saved_at=runner.now(),
        )  # fmt: skip

    @property
    def has_begun(self) -> bool:
        """Whether its start event was delivered."""
        return self.state.seq > 0

    def dump(self, save: Save) -> dict[str, Any]:
        """Return it as data for JSON."""
        return {
            "run_id": self.run_id,
            "segment": self.segment,
            "start_event": save(self.start_event, "start_event"),
            "snapshot": dump_state(self.state, save),
            "completed": [dump_input(each, save) for each in self.completed],
            "early": [[save(event, f"early[{at}]"), target] for at, (event, target) in enumerate(self.early)],
            "carrier": self.carrier,
            "saved_at": self.saved_at,
        }

    @classmethod
    def load(cls, data: Mapping[str, Any], load: Load, types: Iterable[type[Event]], graph: Graph) -> SavedRun:
        """Return what `dump` saved, for a workflow with this graph.

        Raises:
            ContextSerdeError: the data is malformed, or does not fit the workflow.
        """
        try:
            saved = cls._loaded(data, load, list(types))
        except _DAMAGE as error:
            raise ContextSerdeError(f"the saved run is malformed: {error!r} is missing or wrong") from error
        check_run(saved.state, saved.completed, graph)
        slots = {name: config.num_workers for name, config in graph.steps.items()}
        saved.state.lanes = {name: st.Lane(slots=count) for name, count in slots.items()}  # what is live is queued anew
        if not saved.has_begun:
            saved.state.status = "new"
        return saved

    def apart(self, types: Iterable[type[Event]], graph: Graph) -> SavedRun:
        """Return it as `load` would, apart from the live run that it is of; events and results stay the same objects."""
        kept: list[Any] = []

        def keep(value: Any, path: str) -> str:
            kept.append(value)
            return str(len(kept) - 1)

        return SavedRun.load(self.dump(keep), lambda text, path: kept[int(text)], types, graph)

    @classmethod
    def _loaded(cls, data: Mapping[str, Any], load: Load, types: Iterable[type[Event]]) -> SavedRun:
        values: dict[str, Any] = {
            "run_id": data["run_id"],
            "segment": data["segment"],
            "start_event": load(data["start_event"], "start_event"),
            "state": load_state(data["snapshot"], load, types),
            "completed": [load_input(each, load, types) for each in data.get("completed", [])],
            "early": [(load(text, f"early[{at}]"), target) for at, (text, target) in enumerate(data.get("early", []))],
            "carrier": data.get("carrier", {}),
            "saved_at": data.get("saved_at"),
        }
        check_fields(cls, values, "run")
        return cls(**values)


def dump_input(happened: st.Input, save: Save) -> dict[str, Any]:
    """Return one input of the reducer as data for JSON."""
    saver = _Saver(save)
    return {"format": st.FORMAT, "input": saver.saved(happened, "input")}


def load_input(data: Mapping[str, Any], load: Load, types: Iterable[type[Event]]) -> st.Input:
    """Return the input that `dump_input` saved."""
    _check_format(data, "input")
    return cast("st.Input", _Loader(load, types, {}).loaded(data["input"], "input"))


def _check_format(data: Mapping[str, Any], key: str) -> None:
    version = data.get("format") if isinstance(cast("object", data), Mapping) else None
    if type(version) is not int or version < 1 or key not in data:
        raise ContextSerdeError(f"this is no saved {key}: it has no format version, or no {key!r}")
    if version > st.FORMAT:
        raise ContextSerdeError(f"the saved {key} has format {version}, newer than {st.FORMAT}, the newest this release knows; upgrade")


def type_name(kind: type[Any]) -> str:
    """Return the name under which a class is saved."""
    return f"{kind.__module__}.{kind.__qualname__}"


class _Saver:
    def __init__(self, save: Save) -> None:
        self._save = save
        self.envelopes: dict[str, Any] = {}  # one event may be queued for several steps: it is saved once

    def saved(self, value: Any, path: str) -> Any:
        """Return a whole as data for JSON."""
        try:
            return self.encode(value, path)
        except RecursionError:
            raise ContextSerdeError(f"{path} cannot be saved: something in it contains itself, or is nested too deep") from None

    def encode(self, value: Any, path: str) -> Any:
        kind = type(cast("object", value))
        if value is None or kind in (bool, int, str) or (kind is float and math.isfinite(value)):
            return value
        if kind is st.Envelope and value.id:
            return self._envelope(value, path)
        if kind in _KINDS.values():
            return {_TAG: kind.__name__, **self._fields(value, path)}
        if kind in (list, tuple, deque, set):
            return self._items(value, path)
        if kind is dict or kind is defaultdict:
            pairs = [[self.encode(key, path), self.encode(item, f"{path}.{_shown(key)}")] for key, item in value.items()]
            return {_TAG: "dict", "items": pairs}
        if _is_event_class(value):
            return {_TAG: "type", "name": type_name(value)}
        return {_TAG: "value", "text": self._save(value, path)}

    def _envelope(self, envelope: st.Envelope, path: str) -> dict[str, Any]:
        key = str(envelope.id)
        if key not in self.envelopes:
            self.envelopes[key] = self._fields(envelope, path)
        return {_TAG: "envelope", "id": envelope.id}

    def _fields(self, value: Any, path: str) -> dict[str, Any]:
        names = [each.name for each in dataclasses.fields(value) if each.name not in _NOT_SAVED]
        return {name: self._field(name, getattr(value, name), path) for name in names}

    def _field(self, name: str, value: Any, path: str) -> Any:
        if name in _FAILURES and value is not None:
            return {_TAG: "error", **_ERROR.dump_python(value)}
        return self.encode(value, f"{path}.{name}")

    def _items(self, value: Any, path: str) -> dict[str, Any]:
        tag = type(value).__name__
        if tag == "set":  # its order follows from what it has been through: one state is saved in one way
            value = sorted(value, key=lambda item: type_name(item) if _is_event_class(item) else repr(item))
        kinds: list[type[Any]] = [item for item in value if _is_event_class(item)]
        if kinds and len(kinds) == len(value):  # what a join expects: often one class 10,000 times
            runs = [[type_name(kind), len(list(run))] for kind, run in groupby(kinds)]
            return {_TAG: tag, "types": runs}
        return {_TAG: tag, "items": [self.encode(item, f"{path}[{at}]") for at, item in enumerate(value)]}


class _Loader:
    def __init__(self, load: Load, types: Iterable[type[Event]], envelopes: Mapping[str, Any]) -> None:
        self._load = load
        self._types = {type_name(kind): kind for kind in types}
        self._saved = envelopes
        self._envelopes: dict[int, st.Envelope] = {}

    def loaded(self, data: Any, path: str) -> Any:
        """Return what a whole stands for."""
        try:
            return self.decode(data, path)
        except _DAMAGE as error:
            raise ContextSerdeError(f"the saved {path} is malformed: {type(error).__name__}: {error}") from error

    def decode(self, data: Any, path: str) -> Any:
        if not isinstance(data, dict):
            return data
        found = cast("dict[str, Any]", data)
        tag = found.get(_TAG)
        match tag:
            case "value":
                return self._load(found["text"], path)
            case "type":
                return self._type(found["name"])
            case "error":
                return _ERROR.validate_python(found)
            case "dict":
                return {self.decode(key, path): self.decode(item, path) for key, item in found["items"]}
            case "list" | "tuple" | "deque" | "set":
                return self._items(tag, found, path)
            case "envelope":
                return self._envelope(found["id"], path)
            case str() if tag in _KINDS:
                return self._made(_KINDS[tag], {name: item for name, item in found.items() if name != _TAG}, path)
            case _:
                raise ContextSerdeError(f"the saved run is malformed at {path}: it has a part of unknown kind {tag!r}")

    def _items(self, tag: str, data: Mapping[str, Any], path: str) -> Any:
        if "types" in data:
            items = [kind for name, count in data["types"] for kind in [self._type(name)] * min(count, _MOST)]
        else:
            items = [self.decode(item, f"{path}[{at}]") for at, item in enumerate(data["items"])]
        return {"list": list, "tuple": tuple, "deque": deque, "set": set}[tag](items)

    def _envelope(self, number: int, path: str) -> st.Envelope:
        if number not in self._envelopes:
            envelope = self._envelopes[number] = self._made(st.Envelope, self._saved[str(number)], path)
            if envelope.id != number:
                raise ContextSerdeError(f"the saved run is malformed at {path}: event {number} has the number {envelope.id}")
        return self._envelopes[number]

    def _made(self, kind: type[Any], data: Mapping[str, Any], path: str) -> Any:
        values = {name: self.decode(item, f"{path}.{name}") for name, item in data.items()}
        check_fields(kind, values, path)
        later = [each.name for each in dataclasses.fields(kind) if not each.init and each.name in values]
        made = kind(**{name: value for name, value in values.items() if name not in later})
        for name in later:
            setattr(made, name, values[name])
        return made

    def _type(self, name: str) -> type[Event]:
        if name not in self._types:
            self._types.update({type_name(kind): kind for kind in _imported(Event)})
        if name not in self._types:
            raise ContextSerdeError(
                f"the saved run names the event class {name}, which neither the workflow's annotations nor any imported module "
                "has; import its module before loading"
            )
        return self._types[name]


def _imported(base: type[Event]) -> Iterable[type[Event]]:
    for kind in base.__subclasses__():
        yield kind
        yield from _imported(kind)


def imported_event(name: str) -> type[Event] | None:
    """Return the event class of this name, if its module is imported: the one that was defined last."""
    return {type_name(kind): kind for kind in _imported(Event)}.get(name)


def _is_event_class(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Event)


def _shown(key: object) -> str:
    return key.__name__ if isinstance(key, type) else str(key)
