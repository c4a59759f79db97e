"""Settings for all workflows of the process: the layers that each instance starts with."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from . import _factories
from .middleware import Middleware

DEFAULT_LAYERS = ("tracing", "metrics", "logs")
"""Outermost first; the console comes after them, where it is verbose."""


@dataclass(slots=True)
class _Settings:
    middleware: tuple[Middleware, ...] = ()
    telemetry: bool | None = None  # None: as the environment says
    in_use: bool = False  # an instance has folded its chain


_settings = _Settings()


def configure(*, middleware: Sequence[Middleware] | None = None, telemetry: bool | None = None) -> None:
    """Set what every workflow instance starts with; holds for instances that have not run yet.

    Args:
        middleware: layers for all workflows, outermost first, outside those given to `Workflow(middleware=)`.
        telemetry: False leaves out traces, metrics, log fields and the console; `Workflow(telemetry=)` overrides it, and
            `TRACEDFLOW_TELEMETRY=off` is the same from outside.
    """
    if _settings.in_use:
        warnings.warn(
            "tracedflow.configure() was called after a workflow had run; instances that have run keep their layers",
            UserWarning,
            stacklevel=2,
        )
        _settings.in_use = False  # said once
    if middleware is not None:
        for layer in middleware:
            check_layer(layer)
        _settings.middleware = tuple(middleware)
    if telemetry is not None:
        _settings.telemetry = telemetry


def check_layer(layer: object) -> None:
    """Refuse what is not a middleware.

    Raises:
        TypeError: it is not an instance of `Middleware`.
    """
    if isinstance(layer, type) and issubclass(layer, Middleware):
        raise TypeError(f"middleware takes instances: write {layer.__name__}() in place of {layer.__name__}")
    if not isinstance(layer, Middleware):
        raise TypeError(f"{layer!r} is not a middleware; subclass tracedflow.Middleware or tracedflow.Observer")


def layers_for(middleware: Sequence[Middleware], telemetry: bool | None, verbose: bool) -> tuple[Middleware, ...]:
    """Return the effective layers of an instance, outermost first."""
    _settings.in_use = True
    own = (*_settings.middleware, *middleware)
    if not _telemetry_is_on(telemetry):
        return own
    defaults = [_factories.made(name) for name in DEFAULT_LAYERS]
    if verbose or os.environ.get("TRACEDFLOW_VERBOSE", "").lower() in ("1", "true", "yes", "on"):
        defaults.append(_factories.made("console"))
    return (*defaults, *own)


def _telemetry_is_on(own: bool | None) -> bool:
    if own is not None:
        return own
    if _settings.telemetry is not None:
        return _settings.telemetry
    return os.environ.get("TRACEDFLOW_TELEMETRY", "on").lower() not in ("off", "0", "false", "no")


def reset() -> None:
    """Go back to the settings of a fresh process."""
    _settings.middleware, _settings.telemetry, _settings.in_use = (), None, False
