"""How values become text and come back. JSON finds classes in an allow-list only; pickle must be asked for by name.

Knows nothing of workflows: whoever saves a run tells which of its types are allowed.
"""

from __future__ import annotations

import base64
import copy
import json
import pickle
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from ...errors import ContextSerdeError, UnserializableError
from ._loading import Decoder
from ._saving import encode, unsaved
from ._types import ALWAYS, allow, type_name

__all__ = ["BaseSerializer", "JsonPickleSerializer", "JsonSerializer", "PickleSerializer"]


class BaseSerializer(ABC):
    """Turns values into text and back. Subclass it to use another format for the state of a run."""

    @abstractmethod
    def serialize(self, value: Any) -> str:
        """Return `value` as text."""

    @abstractmethod
    def deserialize(self, value: str) -> Any:
        """Return what `serialize` was given."""

    def serialize_at(self, value: Any, path: str) -> str:
        """Serialize what is found at `path`, such as `state.user`.

        Raises:
            ContextSerdeError: it cannot be saved; the message names the path.
        """
        return _named(self.serialize, value, f"{path} (a {type_name(value)}) cannot be saved by {type(self).__qualname__}")

    def deserialize_at(self, value: str, path: str) -> Any:
        """Deserialize what belongs at `path`.

        Raises:
            ContextSerdeError: it cannot be loaded; the message names the path.
        """
        return _named(self.deserialize, value, f"{path} cannot be loaded by {type(self).__qualname__}")


def check_serializer(given: object) -> None:
    """Refuse what is no serializer.

    Raises:
        ContextSerdeError: it is not an instance of a `BaseSerializer`.
    """
    if not isinstance(given, BaseSerializer):
        hint = f"write {given.__name__}()" if isinstance(given, type) else "subclass BaseSerializer"
        raise ContextSerdeError(f"serializer={given!r} must be an instance of a serializer: {hint}")


class JsonSerializer(BaseSerializer):
    """JSON with tags for what JSON lacks. Imports nothing that data names: classes come from `allowed_types` only.

    What round-trips: JSON's own types, non-string keys, tuples, sets, bytes, dates and times (a time zone becomes its
    offset), `Decimal`, `UUID`, `Path`, built-in exceptions, and, if their classes are allowed: pydantic models, components
    (`class_name` and `to_dict`/`from_dict`), dataclasses, named tuples, enums and other exceptions. Allowing a class allows
    the classes that its fields are annotated with. An exception that may not or cannot be rebuilt comes back as
    `UnreconstructedException`.
    """

    _more: Callable[[str], type | None] | None = None

    def __init__(self, allowed_types: Iterable[type] | None = None) -> None:
        self._allowed = dict(ALWAYS)
        for kind in allowed_types or ():
            allow(kind, self._allowed)

    def with_types(self, *allowed_types: type | Iterable[type]) -> JsonSerializer:
        """Return a serializer that allows these types too.

        Raises:
            TypeError: one of them is not a class.
        """
        wider = copy.copy(self)
        wider._allowed = dict(self._allowed)
        for given in allowed_types:
            for kind in (given,) if isinstance(given, type) else given:
                allow(kind, wider._allowed)
        return wider

    def or_else(self, find: Callable[[str], type | None]) -> JsonSerializer:
        """Return a serializer that asks `find` for a class that is not allowed, by its qualified name; it must import nothing."""
        wider = copy.copy(self)
        wider._allowed = dict(self._allowed)
        wider._more = find
        return wider

    def serialize(self, value: Any) -> str:
        """Return `value` as JSON.

        Raises:
            ContextSerdeError: it holds something that cannot be saved; the message names it by its path.
        """
        return self.serialize_at(value, "")

    def serialize_at(self, value: Any, path: str) -> str:
        """As `serialize`; the paths in messages begin with `path`."""
        try:
            return json.dumps(encode(value, path), allow_nan=False, separators=(",", ":"))
        except RecursionError:
            raise unsaved(value, path, "it contains itself, or is nested too deep") from None
        except ContextSerdeError:
            raise
        except Exception as error:  # code of the value's own, or an int of more digits than Python writes
            raise unsaved(value, path, f"{type(error).__name__}: {error}") from error

    def deserialize(self, value: str) -> Any:
        """Return what `serialize` was given.

        Raises:
            ContextSerdeError: it is not JSON of ours, or names a type that is not allowed.
        """
        return self.deserialize_at(value, "")

    def deserialize_at(self, value: str, path: str) -> Any:
        """As `deserialize`; the paths in messages begin with `path`."""
        try:
            return Decoder(self._find).decode(json.loads(value), path)
        except (ValueError, TypeError, RecursionError) as error:
            raise ContextSerdeError(f"{path or 'The text'} cannot be loaded as JSON: {error}") from error

    def _find(self, name: str) -> type | None:
        found = self._allowed.get(name)
        if found is None and self._more is not None:
            found = self._more(name)
            if found is not None:
                allow(found, self._allowed)  # and what its fields are
        return found


class PickleSerializer(JsonSerializer):
    """JSON where it can, else base64 of a pickle. Only for data you trust: loading runs whatever it names."""

    def serialize_at(self, value: Any, path: str) -> str:
        """Return JSON, or base64 of a pickle.

        Raises:
            ContextSerdeError: neither can save it.
        """
        try:
            return super().serialize_at(value, path)
        except ContextSerdeError as refused:
            try:
                return base64.b64encode(pickle.dumps(value)).decode("ascii")
            except Exception as error:  # pickling runs code of the value
                raise UnserializableError(f"{refused} Pickle cannot save it either: {error}") from error

    def deserialize_at(self, value: str, path: str) -> Any:
        """Load JSON or base64 of a pickle.

        Raises:
            ContextSerdeError: it is neither.
        """
        try:
            json.loads(value)
        except (TypeError, ValueError, RecursionError):
            return _named(_unpickle, value, f"{path or 'The text'} is neither JSON nor a pickle")
        return super().deserialize_at(value, path)

    def _find(self, name: str) -> type | None:
        found = super()._find(name)
        if found is None:
            try:
                found = pkgutil.resolve_name(name)
            except Exception:  # noqa: BLE001 - importing runs code
                return None
        return found if isinstance(found, type) else None


JsonPickleSerializer = PickleSerializer


ResultT = TypeVar("ResultT")


def _named(function: Callable[[Any], ResultT], value: Any, failed: str) -> ResultT:
    try:
        return function(value)
    except ContextSerdeError as error:
        raise ContextSerdeError(f"{failed}: {error}") from error
    except Exception as error:  # a serializer of the user's own may raise anything
        raise ContextSerdeError(f"{failed}: {type(error).__name__}: {error}") from error


def _unpickle(text: str) -> Any:
    return pickle.loads(base64.b64decode(text, validate=True))  # asked for by name
