"""From JSON to values. Data chooses neither the class nor what is called: both come from a list."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Iterable
from typing import Any, cast

from pydantic import BaseModel, RootModel

from ...errors import ContextSerdeError
from ...events import UnreconstructedException
from ._types import COMPONENT_TAG, KINDS, MODEL_TAG, PLAIN, PLAIN_TAG, TAGS, Json, join


class Decoder:
    """Rebuilds values; `find` gives the class of a qualified name, or None if it is not allowed."""

    def __init__(self, find: Callable[[str], type | None]) -> None:
        self._find = find

    def decode(self, data: Json, path: str) -> Any:
        """Return what the JSON at `path` stands for."""
        if isinstance(data, list):
            return [self.decode(item, f"{path}[{index}]") for index, item in enumerate(cast("Iterable[Json]", data))]
        if not isinstance(data, dict):
            return data
        found = cast("dict[str, Json]", data)
        if TAGS.isdisjoint(found):
            return self._values(found, path)
        try:
            return self._tagged(found, path)
        except (ContextSerdeError, RecursionError):
            raise
        except Exception as error:  # data may be damaged, and constructors of the user's own may raise anything
            what = found.get("qualified_name") or found.get(PLAIN_TAG)
            raise ContextSerdeError(f"{path or 'The value'} cannot be loaded as {what}: {type(error).__name__}: {error}") from error

    def _values(self, data: dict[str, Json], path: str) -> dict[str, Any]:
        return {key: self.decode(item, join(path, key)) for key, item in data.items()}

    def _tagged(self, data: dict[str, Json], path: str) -> Any:
        tag = MODEL_TAG if data.get(MODEL_TAG) else COMPONENT_TAG if data.get(COMPONENT_TAG) else data[PLAIN_TAG]
        if tag in PLAIN:
            return PLAIN[tag].load(self.decode(data["value"], path))
        name = str(data["qualified_name"])
        if tag == "exception":
            return self._exception(name, data, path)
        kind, value = self._class(name, tag, path), data["value"]
        match tag:
            case "enum":
                return kind(self.decode(value, path))
            case "namedtuple":
                return kind(*self.decode(value, path))
            case "dataclass":
                return _load_dataclass(kind, self._values(value, path))
            case _ if tag == COMPONENT_TAG:
                return cast("Any", kind).from_dict(self.decode(value, path))
            case _:
                return self._model(kind, data, path)

    def _class(self, name: str, tag: str, path: str) -> type:
        kind = self._find(name)
        if kind is None:
            short = name.rpartition(".")[2]
            raise ContextSerdeError(
                f"{path or 'The value'} is a {name}, which this serializer may not load. "
                f"Allow it with JsonSerializer(allowed_types=[{short}]), or serializer.with_types({short})."
            )
        if tag not in KINDS or not KINDS[tag](kind):
            raise ContextSerdeError(f"{path or 'The value'} cannot be loaded: {name} is not what its tag {tag!r} says.")
        return kind

    def _model(self, kind: type[Any], data: dict[str, Json], path: str) -> BaseModel:
        value = self.decode(data["value"], path)
        if issubclass(kind, RootModel) and isinstance(value, dict):
            value = cast("dict[str, Any]", value).get("root", value)
        model = cast("type[BaseModel]", kind).model_validate(value, by_alias=False, by_name=True)
        for name, item in self._values(data.get("private", {}), path).items():
            setattr(model, name, item)
        return model

    def _exception(self, name: str, data: dict[str, Json], path: str) -> BaseException:
        kind, message = self._find(name), str(data["message"])
        if kind is not None and issubclass(kind, BaseException) and data["value"] is not None:
            try:
                return _load_exception(kind, self.decode(data["value"], path))
            except Exception:  # noqa: BLE001 - any constructor may fail: the message is what must survive
                return UnreconstructedException(message, original_type=name)
        return UnreconstructedException(message, original_type=name)


def _load_exception(kind: type[BaseException], value: dict[str, Any]) -> BaseException:
    if isinstance(kind.__init__, types.FunctionType):  # its parameters are its own, not `args`
        error = kind.__new__(kind, *value["args"])
        error.args = tuple(value["args"])
    else:
        error = kind(*value["args"])
    vars(error).update(value["attributes"])
    return error


def _load_dataclass(kind: type[Any], values: dict[str, Any]) -> Any:
    given = {field.name: values.pop(field.name) for field in dataclasses.fields(kind) if field.init and field.name in values}
    loaded = kind(**given)
    for name, value in values.items():
        object.__setattr__(loaded, name, value)  # frozen classes too
    return loaded
