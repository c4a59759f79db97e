from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tracedflow import Context, Event, StartEvent, StopEvent, Workflow, WorkflowRuntimeError, step
from tracedflow.inspect import ask, on_signal

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="this system has no Unix sockets")
SRC = Path(__file__).resolve().parents[2] / "src"


class Yes(Event):
    pass


class Asks(Workflow):
    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        await ctx.wait_for_event(Yes)
        return StopEvent()


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the sockets are; a short path, as that of a socket must be."""
    made = Path(tempfile.mkdtemp(prefix="tf", dir="/tmp"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(made))
    yield made / "tracedflow"
    shutil.rmtree(made)


@contextmanager
def listening() -> Iterator[None]:
    undo = on_signal()
    try:
        yield
    finally:
        undo()


async def test_a_process_tells_why_each_of_its_runs_is_where_it_is(folder: Path) -> None:
    with listening():
        handler = Asks(on_stall="wait").run(run_id="asked")
        while not handler.why().waits:
            await asyncio.sleep(0)
        answer = await asyncio.to_thread(ask, os.getpid())
        await handler.cancel_run()
    assert answer["pid"] == os.getpid()
    (run,) = answer["runs"]
    assert (run["run_id"], run["workflow"], run["state"]) == ("asked", "Asks", "running")
    assert run["waits"][0]["step"] == "ask"
    assert run["why"].startswith("Run asked of Asks has been running for")


def test_it_can_be_asked_again_and_without_runs(folder: Path) -> None:
    with listening():
        assert [ask(os.getpid())["runs"] for _ in range(3)] == [[], [], []]


def test_the_socket_is_in_a_folder_that_only_its_user_enters_and_goes_with_the_process(folder: Path) -> None:
    with listening():
        assert folder.stat().st_mode & 0o777 == 0o700
        assert [path.name for path in folder.iterdir()] == [f"{os.getpid()}.sock"]
    assert list(folder.iterdir()) == []


def test_a_folder_that_others_can_enter_is_not_used(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)
    with listening():
        assert list(folder.iterdir()) == []
        assert ask(os.getpid())["runs"] == []  # it listens in another one


def test_an_answer_out_of_a_folder_that_others_can_enter_is_not_believed(folder: Path) -> None:
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as false, child() as pid:
        false.bind(str(folder / f"{pid}.sock"))
        false.listen()
        folder.chmod(0o777)
        with pytest.raises(WorkflowRuntimeError, match="does not listen"):
            ask(pid, 0.05)


@contextmanager
def child(script: str = "print(1, flush=True); input()") -> Iterator[int]:
    """A process that says something when it is there, and ends with this block."""
    started = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(SRC)}
    )
    assert started.stdout is not None
    said = started.stdout.readline()
    assert said, "it did not start"
    try:
        yield started.pid if said.strip() == "1" else int(said)
    finally:
        started.kill()
        started.communicate()


def test_a_process_that_does_not_listen_is_named_with_those_that_do(folder: Path) -> None:
    with listening(), child() as pid, pytest.raises(WorkflowRuntimeError) as error:
        ask(pid)
    assert str(error.value).startswith(f"process {pid} does not listen for this question; `tracedflow run` does")
    assert str(os.getpid()) in str(error.value).partition("these do listen: ")[2]


@pytest.mark.parametrize("pid", [0, -1, 2**70])
def test_a_number_that_is_no_process_is_refused(folder: Path, pid: int) -> None:
    with pytest.raises(WorkflowRuntimeError, match=f"there is no process {pid} on this machine"):
        ask(pid)


def test_a_process_that_does_not_answer_is_told_with_what_to_do(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as silent, child() as pid:  # as one that is stopped: the system takes the question, nobody reads it
        silent.bind(str(folder / f"{pid}.sock"))
        silent.listen()
        with pytest.raises(WorkflowRuntimeError, match=f"process {pid} did not answer within 0.05 s.*py-spy dump --pid {pid}"):
            ask(pid, 0.05)


def test_a_process_that_ends_while_it_is_asked_is_told(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as ending, child() as pid:
        ending.bind(str(folder / f"{pid}.sock"))
        ending.listen()
        ending.settimeout(10)
        with pytest.raises(WorkflowRuntimeError, match=f"process {pid} ended while it was asked"):
            answering = threading.Thread(target=lambda: ending.accept()[0].close())
            answering.start()
            try:
                ask(pid, 10)
            finally:
                answering.join()


def test_a_socket_that_a_killed_process_left_is_no_answer_and_is_removed_by_the_next(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    with child() as pid:
        left = folder / f"{pid}.sock"
        with socket.socket(socket.AF_UNIX) as gone:
            gone.bind(str(left))
        with pytest.raises(WorkflowRuntimeError, match="does not listen"):
            ask(pid)
    with listening():
        assert not left.exists()


FORKS = """
import os, sys
from tracedflow.inspect import on_signal
on_signal()
child = os.fork()
if child == 0:
    print(os.getpid(), flush=True)
    sys.stdin.read()
    os._exit(0)
os.waitpid(child, 0)
"""


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_process_answers_for_itself(folder: Path) -> None:
    with child(FORKS) as forked:
        assert ask(forked)["pid"] == forked


OTHER_USER = """
import os
from tracedflow.inspect import ask
os.setgid(65534); os.setuid(65534)
try:
    ask(os.getppid())
except Exception as error:
    print(error, flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user")
def test_another_users_process_is_told_of(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", OTHER_USER], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(SRC)}, check=True
    )
    assert done.stdout == f"process {os.getpid()} is another user's; ask it as that user, such as with sudo -u\n"
