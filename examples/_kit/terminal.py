"""What a shell expects of a program: Ctrl-C, and a reader that goes away, end it quietly and with their own status."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

INTERRUPTED = 130  # as a shell reports Ctrl-C
NO_READER = 141  # and a pipe that nobody reads any more


def at_a_terminal() -> bool:
    """Return whether somebody is there to type. A program may be started without any input."""
    return sys.stdin is not None and sys.stdin.isatty()


async def typed(question: str) -> str:
    """Return the line that is typed, and "" where the input has ended.

    The thread is a daemon, so that Ctrl-C need not wait for a line that never comes.
    """
    loop = asyncio.get_running_loop()
    line: asyncio.Future[str] = loop.create_future()
    print(question, end="", file=sys.stderr, flush=True)

    def give(text: str) -> None:
        if not line.done():
            line.set_result(text)

    def read() -> None:
        text = sys.stdin.readline() if sys.stdin is not None else ""
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(give, text)

    threading.Thread(target=read, daemon=True).start()
    return await line


def ended_quietly(program: Callable[[], int]) -> int:
    """Run a program to its end; return its status, also where Ctrl-C or a pipe that closed cut it short."""
    with _interruptible():
        try:
            return program()
        except KeyboardInterrupt:
            return INTERRUPTED
        except BrokenPipeError:
            if not drop_closed_pipes():
                raise  # another pipe than those of the program itself
            return NO_READER


def drop_closed_pipes() -> bool:
    """Let stdout and stderr write into nothing where nobody reads them; return whether that is so of one.

    The interpreter writes what is left as it ends, and would complain then.
    """
    closed = [stream for stream in (sys.stdout, sys.stderr) if _is_closed_pipe(stream)]
    for stream in closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return bool(closed)


def _is_closed_pipe(stream: TextIO | None) -> bool:
    """Ask the system: whether another write would fail is not to be learned from the stream, which may have dropped what failed."""
    if stream is None:
        return False
    asked = select.poll()
    try:
        asked.register(stream.fileno(), 0)
    except (OSError, ValueError):  # a stream that is no file, or closed
        return False
    return any(events & select.POLLERR for _, events in asked.poll(0))


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C raise KeyboardInterrupt in here, as is usual; before and after, it just ends the program (see `examples/__init__.py`)."""
    ends = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    if ends:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        if ends:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
