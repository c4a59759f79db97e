"""Where a process can be asked why its runs are where they are: a Unix socket named by its pid, in a folder of the user's own.

A socket and no signal: nobody is killed by a question, a pid that was given to another program answers nothing, and it
works while the main thread is inside a long call.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from ..errors import WorkflowRuntimeError

_LONGEST = 100  # bytes of a path: macOS allows 103 of a socket, Linux 107
_ANSWER = 2.0  # seconds that an asker may take to read
_CHUNK = 65536
_MOST = 5


def ask(pid: int, timeout: float = 5.0) -> dict[str, Any]:
    """Ask a live process of this machine why each of its runs is where it is; it must have called `on_signal()`.

    Returns:
        `pid`, and `runs`: of each live run the fields of its `RunReport`, and `why`, their explanation.

    Raises:
        WorkflowRuntimeError: there is no such process, it is another user's, it does not listen, or it does not answer
            within `timeout` seconds.
    """
    if not hasattr(socket, "AF_UNIX"):
        raise WorkflowRuntimeError("this system has no Unix sockets, so no process can be asked; read a trace file instead")
    for path in _sockets_of(pid, _owner(pid)):
        text = _heard(path, pid, timeout)
        if text is not None:
            return _understood(text, pid)
    raise WorkflowRuntimeError(
        f"process {pid} does not listen for this question; `tracedflow run` does, and so does a program that calls "
        f"tracedflow.inspect.on_signal() in its main thread{_others()}"
    )


class Listener:
    """The socket of this process."""

    def __init__(self, socket: socket.socket, path: Path) -> None:
        self.socket = socket
        self._path = path

    def answer(self, text: bytes) -> None:
        """Answer whoever asks; one that does not read is left to itself."""
        with contextlib.suppress(OSError):
            asker, _ = self.socket.accept()
            with asker:
                asker.settimeout(_ANSWER)
                asker.sendall(text)

    def close(self) -> None:
        """Be gone."""
        self.socket.close()
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def forget(self) -> None:
        """Let go of the socket of the parent, after a fork."""
        self.socket.close()


def listen() -> Listener | None:
    """Open the socket of this process; None: there is no place for one, or the system has none."""
    if not hasattr(socket, "AF_UNIX"):
        return None
    for folder in _folders(os.geteuid()):
        path = folder / f"{os.getpid()}.sock"
        if len(os.fsencode(path)) > _LONGEST or not _is_ours(folder, make=True):
            continue
        _tidy(folder)
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            path.unlink(missing_ok=True)  # of a process before, which had the same pid
            opened.bind(str(path))
            opened.listen()
        except OSError:
            opened.close()
            continue
        return Listener(opened, path)
    return None


def _folders(uid: int) -> list[Path]:
    """Return where sockets of a user may be, best first. Asker and asked may have other environments, so it is more than one."""
    given = os.environ.get("XDG_RUNTIME_DIR")
    runtime = [Path(given) / "tracedflow"] if given else []
    temporary = dict.fromkeys((tempfile.gettempdir(), "/tmp"))
    return [*runtime, Path(f"/run/user/{uid}/tracedflow"), *(Path(each) / f"tracedflow-{uid}" for each in temporary)]


def _is_ours(folder: Path, *, make: bool = False, uid: int | None = None) -> bool:
    """Return whether a folder is closed to all but its owner, and its owner is who it should be: `/tmp` is open to everybody."""
    try:
        if make:
            folder.mkdir(mode=0o700, exist_ok=True)
        facts = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(facts.st_mode) and facts.st_uid == (os.geteuid() if uid is None else uid) and not facts.st_mode & 0o077


def _tidy(folder: Path) -> None:
    """Remove the sockets of processes that were killed. Pids say nothing of that where containers share a folder."""
    with contextlib.suppress(OSError):
        for path in folder.glob("*.sock"):
            _is_alive(path, remove=True)


def _is_alive(path: Path, *, remove: bool = False) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as tried:
        tried.setblocking(False)
        try:
            tried.connect(str(path))
        except ConnectionRefusedError:
            if remove:
                path.unlink(missing_ok=True)
            return False
        except OSError:  # it is there, and busy
            return True
    return True


def _owner(pid: int) -> int:
    """Return the user id of a process; our own where the system does not tell.

    Raises:
        WorkflowRuntimeError: there is no such process, or it is another user's.
    """
    try:
        os.kill(max(pid, 0) or 2**64, 0)  # sends nothing; zero and less would mean groups of processes
        uid = Path(f"/proc/{pid}").stat().st_uid
    except (ProcessLookupError, OverflowError):
        raise WorkflowRuntimeError(f"there is no process {pid} on this machine{_others()}") from None
    except PermissionError:
        raise WorkflowRuntimeError(f"process {pid} is another user's; ask it as that user, such as with sudo -u") from None
    except FileNotFoundError:
        return os.geteuid()
    return uid


def _sockets_of(pid: int, uid: int) -> Iterator[Path]:
    for folder in _folders(uid):
        path = folder / f"{pid}.sock"
        with contextlib.suppress(OSError):
            if _is_ours(folder, uid=uid) and path.is_socket():
                yield path


def _heard(path: Path, pid: int, timeout: float) -> bytes | None:
    """Return what the process at a socket says; None: it was killed, and left the socket behind."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(timeout)
        try:
            asking.connect(str(path))
            return b"".join(iter(lambda: asking.recv(_CHUNK), b""))
        except (ConnectionRefusedError, FileNotFoundError):
            return None
        except OSError as error:  # a timeout is one
            raise WorkflowRuntimeError(
                f"process {pid} did not answer within {timeout:g} s ({error}): it is stopped, or one call keeps the interpreter "
                f"from its other threads; wait longer, or look at it with `py-spy dump --pid {pid}`"
            ) from None


def _understood(text: bytes, pid: int) -> dict[str, Any]:
    try:
        return cast("dict[str, Any]", json.loads(text))
    except ValueError:
        raise WorkflowRuntimeError(f"process {pid} ended while it was asked; its trace file, if it wrote one, tells more") from None


def _others() -> str:
    """Name processes that could be asked."""
    found = sorted(
        {
            int(path.stem)
            for folder in _folders(os.geteuid())
            if _is_ours(folder)
            for path in folder.glob("*.sock")
            if path.stem.isdecimal() and _is_alive(path)
        }
    )
    shown = ", ".join(str(pid) for pid in found[-_MOST:])
    return f"; these do listen: {shown}" if found else ""
