"""A stream that lines and drawings are written to: colours on a terminal, plain text elsewhere.

`rich` is imported here only, and only when the stream is a terminal.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, TextIO

from ..inspect.waterfall import Line, Style

_PLAIN_WIDTH = 100  # columns of a drawing in a file or a pipe
_WIDEST = 160  # columns: longer bars are harder to read, not easier
_A_SECOND = 4  # drawings

STYLES: dict[Style, str] = {
    "plain": "",
    "bold": "bold",
    "dim": "dim",
    "good": "green",
    "bad": "bold red",
    "odd": "yellow",
    "running": "green",
    "queued": "bright_black",
    "backoff": "yellow",
    "waiting": "blue",
    "blocked": "red",
}

Draw = Callable[[], Sequence[Line]]


class Screen:
    """A stream, with colours if it is a terminal. Standard error, as it is at that moment, if None.

    Under the lines a drawing can be kept up to date, on a terminal. It makes way for good as soon as the program itself
    writes to the terminal, and is not begun where log records go there: the two would write over each other.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._given = stream
        self._rich: tuple[TextIO, Any] | None = None  # the stream and the rich console made for it
        self._lock = threading.RLock()  # runs may be in several threads, and so may the program's prints
        self._live: Any = None
        self._made_way = False

    @property
    def _stream(self) -> TextIO:
        found = sys.stderr if self._given is None else self._given
        return found.inner if isinstance(found, _Watched) else found

    @property
    def _is_terminal(self) -> bool:
        return self._stream.isatty()

    @property
    def width(self) -> int:
        """Columns for a drawing."""
        return min(_WIDEST, shutil.get_terminal_size().columns - 1) if self._is_terminal else _PLAIN_WIDTH

    @property
    def height(self) -> int:
        """Lines of the terminal."""
        return shutil.get_terminal_size().lines

    @property
    def ascii_only(self) -> bool:
        """Whether the stream cannot take the drawing characters."""
        encoding = getattr(self._stream, "encoding", None)
        return encoding is not None and not encoding.lower().replace("-", "").startswith("utf")

    @property
    def arrow(self) -> str:
        """What stands before the events that a step gave."""
        return "->" if self.ascii_only else "→"

    def write(self, pieces: Line | Sequence[tuple[str, Style]]) -> None:
        """Write one line; on a terminal it is cut at the right edge."""
        if self._is_terminal:
            self._console().print(_text([pieces]), no_wrap=True, overflow="ellipsis", crop=True, soft_wrap=False)
            return
        text = "".join(text for text, _ in pieces).rstrip() + "\n"
        self._stream.write(text.encode("ascii", "replace").decode() if self.ascii_only else text)

    def write_lines(self, lines: Sequence[Line]) -> None:
        """Write a drawing with an empty line around it."""
        if lines:
            for line in ((), *lines, ()):
                self.write(line)

    def _console(self) -> Any:
        from rich.console import Console as RichConsole  # here, as it takes a quarter of the import time of the whole package

        stream = self._stream
        if self._rich is None or self._rich[0] is not stream:
            self._rich = (stream, RichConsole(file=stream, highlight=False))
        return self._rich[1]

    # --- the drawing under the lines ---

    @property
    def is_live(self) -> bool:
        """Whether a drawing is kept up to date."""
        return self._live is not None

    def keep(self, draw: Draw) -> None:
        """Keep a drawing under the lines, where that can be: `draw` is called from a thread, four times a second."""
        with self._lock:
            if self._live is not None or self._made_way or not self._is_terminal or os.environ.get("TERM") == "dumb" or _logs_to_terminal():
                return
            from rich.live import Live

            self._live = Live(
                console=self._console(),
                get_renderable=lambda: _drawn(draw),
                refresh_per_second=_A_SECOND,
                transient=True,
                redirect_stdout=False,  # ours are watched instead: redirected, text without a line end would not show
                redirect_stderr=False,
            )
            self._live.start()
            _watch(self._make_way)

    def drop(self) -> None:
        """Take the drawing away."""
        with self._lock:
            live, self._live = self._live, None
            if live is not None:
                _unwatch(self._make_way)
                live.stop()

    def _make_way(self) -> None:
        with self._lock:
            self._made_way = True
            self.drop()


class _Watched:
    """A standard stream of the program, as it is, but for calls before its next use."""

    def __init__(self, inner: TextIO) -> None:
        self.inner = inner
        self.before: list[Callable[[], None]] = []

    def write(self, text: str) -> int:
        self._used()
        return self.inner.write(text)

    def writelines(self, lines: Any) -> None:
        self._used()
        self.inner.writelines(lines)

    def flush(self) -> None:
        self._used()  # `input` flushes, and then writes past this object
        self.inner.flush()

    def _used(self) -> None:
        for each in tuple(self.before):
            each()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


_watchers: dict[TextIO, _Watched] = {}
"""One for each stream, never let go: `print` borrows `sys.stdout` while it writes, and a freed one crashes the interpreter."""


def _watch(before: Callable[[], None]) -> None:
    """Have `before` called when the program writes to a terminal by its standard streams."""
    for name in ("stdout", "stderr"):
        stream: Any = getattr(sys, name)
        if isinstance(stream, _Watched):
            stream.before.append(before)
        elif stream is not None and stream.isatty():
            watched = _watchers.setdefault(stream, _Watched(stream))
            watched.before.append(before)
            setattr(sys, name, watched)


def _unwatch(before: Callable[[], None]) -> None:
    for watched in list(_watchers.values()):
        watched.before = [each for each in watched.before if each != before]
    for name in ("stdout", "stderr"):
        stream: Any = getattr(sys, name)
        if isinstance(stream, _Watched) and not stream.before:
            setattr(sys, name, stream.inner)


def _logs_to_terminal() -> bool:
    handlers = [*logging.getLogger().handlers, *logging.getLogger("tracedflow").handlers]
    streams = [getattr(handler, "stream", None) for handler in handlers]
    return any(stream is not None and hasattr(stream, "isatty") and stream.isatty() for stream in streams)


def _drawn(draw: Draw) -> Any:
    try:
        lines = draw()
    except Exception:  # noqa: BLE001 - what it shows is changed by other threads meanwhile: the next one is better
        lines = ()
    return _text(lines)


def _text(lines: Sequence[Line | Sequence[tuple[str, Style]]]) -> Any:
    from rich.text import Text

    drawn: list[Any] = [Text.assemble(*((text, STYLES[style]) for text, style in line)) for line in lines]
    return Text("\n", no_wrap=True, overflow="ellipsis").join(drawn)
