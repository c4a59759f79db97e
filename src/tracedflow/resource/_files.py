"""Reads the part of a configuration file that a parameter asks for. Knows nothing of runs or factories."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from .._descriptors import ResourceConfig, ResourceDefinition
from ..errors import ResourceError

_SHOWN = 8  # keys, in a message


def load(wanted: ResourceDefinition, files: dict[str, Any]) -> Any:
    """Return what a `ResourceConfig` asks for; `files` keeps what was read, so that one run reads each file once.

    Raises:
        ResourceError: the file cannot be read, has no such part, or the part is not valid.
    """
    config = cast("ResourceConfig", wanted.resource)
    if config.path not in files:
        files[config.path] = _parsed(config.path)
    part = _selected(config, files[config.path])
    named = f"`{config.path_selector}` of {config.path}" if config.path_selector else config.path
    try:
        return TypeAdapter(wanted.type_annotation).validate_python(part)
    except ValidationError as error:
        listed = "; ".join(_told(each) for each in error.errors(include_url=False, include_context=False))
        raise ResourceError(f"{named} is no valid {_name(wanted.type_annotation)}: {listed}") from error
    except PydanticSchemaGenerationError as error:
        raise ResourceError(f"{named} cannot be validated into {_name(wanted.type_annotation)}; use a pydantic model") from error


def _parsed(path: str) -> Any:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ResourceError(f"{path} does not exist (looked for {Path(path).absolute()})") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ResourceError(f"{path} cannot be read: {error}") from error
    match Path(path).suffix.lower():
        case ".json":
            return _parsed_json(path, text)
        case ".toml":
            return _parsed_toml(path, text)
        case _:
            return _parsed_yaml(path, text)


def _parsed_json(path: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ResourceError(f"{path} is no JSON: {error}") from error


def _parsed_toml(path: str, text: str) -> Any:
    import tomllib  # 2 ms of an import, for few programs

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ResourceError(f"{path} is no TOML: {error}") from error


def _parsed_yaml(path: str, text: str) -> Any:
    try:
        yaml: Any = import_module("yaml")
    except ImportError:
        raise ResourceError(f"{path} is YAML, and PyYAML is not installed: pip install 'tracedflow[yaml]'") from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ResourceError(f"{path} is no YAML: {' '.join(str(error).split())}") from error


def _selected(config: ResourceConfig, value: Any) -> Any:
    selector = config.path_selector
    for name in selector.split(".") if selector else ():
        if isinstance(value, Mapping) and name in value:
            value = cast("Mapping[str, Any]", value)[name]
        elif isinstance(value, list) and name.isdecimal() and int(name) < len(cast("Sequence[Any]", value)):
            value = cast("Sequence[Any]", value)[int(name)]
        else:
            raise ResourceError(f"{config.path} has no `{selector}`: no `{name}` in {_listed(value)}")
    return value


def _listed(value: Any) -> str:
    if not isinstance(value, Mapping):
        return f"a {type(value).__name__}"
    keys = [str(key) for key in cast("Mapping[object, object]", value)]
    return f"{', '.join(keys[:_SHOWN])}{', ...' if len(keys) > _SHOWN else ''}" if keys else "an empty table"


def _told(error: Any) -> str:
    """Return what is wrong with one field, without its value: it may be a secret."""
    path = ".".join(map(str, error["loc"]))
    return f"`{path}`: {error['msg']}" if path else str(error["msg"])


def _name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind)
