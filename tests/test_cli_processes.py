"""The command line where the process matters: running, signals, asking a live process, pipes, terminals, a missing extra."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tracedflow import Context, Event, StartEvent, StopEvent, Workflow, step
from tracedflow.cli._app import app
from tracedflow.inspect import on_signal
from tracedflow.inspect.trace_file import read_file

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="this system has no Unix signals")

PROGRAM = """
import asyncio, sys, time
from tracedflow import StartEvent, StopEvent, Workflow, step

class Item(StartEvent):
    name: str
    many: int = 1

class Greets(Workflow):
    @step
    async def greet(self, ev: Item) -> StopEvent:
        return StopEvent(result={"greeting": [f"hello {ev.name}"] * ev.many})

class Fails(Workflow):
    @step
    async def only(self, ev: StartEvent) -> StopEvent:
        raise ValueError("no way")

class Naps(Workflow):
    @step
    async def nap(self, ev: StartEvent) -> StopEvent:
        print("napping", flush=True)
        try:
            await asyncio.Event().wait()
        finally:
            print("cleaned", flush=True)
        return StopEvent()

class Blocks(Workflow):
    @step
    async def block(self, ev: StartEvent) -> StopEvent:
        print("napping", flush=True)
        time.sleep(60)
        return StopEvent()

naps, blocks = Naps(timeout=None), Blocks(timeout=None)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("cli")
    (made / "sample.py").write_text(PROGRAM)
    return made


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TRACEDFLOW_", "OTEL_", "COLUMNS", "NO_COLOR"))}
    return {**kept, **more}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tracedflow", *arguments]


def ran(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), cwd=folder, env=environment(), capture_output=True, text=True, timeout=60, check=False)


@contextmanager
def napping(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A `tracedflow run` of which the step has begun. It is killed if it is left alive."""
    child = subprocess.Popen(
        command("run", *arguments), cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "napping\n"
        yield child
    finally:
        child.kill()
        child.communicate()


# ------------------------------------------------------------------------------------------------------------- running


def test_run_prints_the_result_and_writes_a_trace(folder: Path) -> None:
    done = ran(folder, "run", "sample:Greets", "name=12", "many=2", "--trace", "deep/greets.jsonl")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"greeting": ["hello 12", "hello 12"]}
    assert done.stderr == "trace in deep/greets.jsonl: tracedflow why deep/greets.jsonl\n"
    (run,) = read_file(folder / "deep/greets.jsonl").runs
    assert (run.workflow, run.outcome) == ("Greets", "success")


def test_a_run_that_fails_says_where_and_exits_with_1(folder: Path) -> None:
    done = ran(folder, "run", "sample:Fails")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Fails failed: ValueError: no way\n  in step `only`")
    assert "Traceback" not in done.stderr


# ------------------------------------------------------------------------------------------------------------- signals


@pytest.mark.parametrize(
    ("number", "code", "told"), [(signal.SIGINT, 130, "was cancelled by Ctrl-C"), (signal.SIGTERM, 143, "was cancelled by SIGTERM")]
)
def test_a_signal_cancels_the_run_and_its_trace_is_whole(folder: Path, number: signal.Signals, code: int, told: str) -> None:
    trace = folder / f"{number.name}.jsonl"
    with napping(folder, "sample:naps", "--trace", trace.name) as child:
        child.send_signal(number)
        out, err = child.communicate(timeout=30)
    assert child.returncode == code, err
    assert out == "cleaned\n"  # the step's own `finally`
    assert "tracedflow run: cancelling the run" in err
    assert told in err
    assert "Traceback" not in err
    found = read_file(trace)
    assert (found.damaged, [(run.outcome, run.unfinished) for run in found.runs]) == ([], [("cancelled", [])])


def test_a_step_that_blocks_the_loop_is_told_of_the_first_signal_and_killed_by_the_second(folder: Path) -> None:
    with napping(folder, "sample:blocks") as child:
        assert child.stderr is not None
        child.send_signal(signal.SIGINT)
        while "cancelling the run; Ctrl-C again ends it at once" not in (line := child.stderr.readline()):
            assert line, "it said nothing"
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=30)
    assert child.returncode == -signal.SIGINT


def test_a_run_in_the_background_goes_on_when_ctrl_c_is_not_for_it(folder: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell starts a job with `&`; a child inherits it
    try:
        with napping(folder, "sample:naps") as child:
            child.send_signal(signal.SIGINT)
            child.send_signal(signal.SIGTERM)
            _, err = child.communicate(timeout=30)
    finally:
        signal.signal(signal.SIGINT, before)
    assert child.returncode == 143
    assert "SIGTERM" in err


# ------------------------------------------------------------------------------------------------------- a live process


def test_a_process_that_was_started_by_run_can_be_asked_and_lives_on(folder: Path) -> None:
    with napping(folder, "sample:blocks") as child:
        text = ran(folder, "why", "--pid", str(child.pid)).stdout
        assert child.poll() is None
    assert text.startswith(f"tracedflow, process {child.pid}: 1 live run\nRun ")
    assert "step `block` is running, for" in text


class Yes(Event):
    pass


class Asks(Workflow):
    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        await ctx.wait_for_event(Yes)
        return StopEvent()


async def test_one_of_the_runs_of_a_process_can_be_asked_for_and_read_as_json() -> None:
    undo = on_signal()
    handlers = [Asks(on_stall="wait").run(run_id=f"{name}-run") for name in ("red", "blue")]
    try:
        while not all(handler.why().waits for handler in handlers):
            await asyncio.sleep(0)

        def why(*arguments: str) -> tuple[int, str]:
            done = CliRunner().invoke(app, ["why", "--pid", str(os.getpid()), *arguments])
            return done.exit_code, done.output

        _, text = await asyncio.to_thread(why, "--json")
        found = json.loads(text)
        assert (found["format"], found["pid"]) == (1, os.getpid())
        assert {run["run_id"]: run["waits"][0]["event_type"] for run in found["runs"]} == {"red-run": "Yes", "blue-run": "Yes"}
        code, text = await asyncio.to_thread(why, "blue")
        assert (code, text.count("Run "), "Run blue-run of Asks has been running for" in text) == (0, 1, True)
        code, text = await asyncio.to_thread(why, "green")
        assert (code, "has no live run `green`; it has `red-run`, `blue-run`" in text) == (2, True)
    finally:
        for handler in handlers:
            await handler.cancel_run()
        undo()


def test_a_process_that_does_not_listen_is_told_of_and_not_touched() -> None:
    with subprocess.Popen(["sleep", "60"]) as deaf:
        done = CliRunner().invoke(app, ["why", "--pid", str(deaf.pid)])
        assert deaf.poll() is None
        deaf.kill()
    assert done.exit_code == 2
    assert done.stderr.startswith(f"tracedflow why: process {deaf.pid} does not listen for this question; `tracedflow run` does")


def test_a_process_that_is_gone_is_told_of() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    done = CliRunner().invoke(app, ["why", "--pid", str(gone.pid)])
    assert (done.exit_code, f"there is no process {gone.pid} on this machine" in done.stderr) == (2, True)


# -------------------------------------------------------------------------------------------------- pipes and terminals


@pytest.fixture(scope="module")
def trace(folder: Path) -> str:
    done = ran(folder, "run", "sample:Greets", "name=x", "--trace", "piped.jsonl")
    assert done.returncode == 0, done.stderr
    line = (folder / "piped.jsonl").read_text()
    (folder / "piped.jsonl").write_text(line * 2000)  # more than a pipe holds, once it is JSON
    return "piped.jsonl"


def test_a_reader_that_goes_away_is_no_error(folder: Path, trace: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as nobody:
        done = subprocess.run(
            command("show", trace), cwd=folder, env=environment(), stdout=nobody, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (141, "")


def on_terminal(folder: Path, columns: int, *arguments: str, **more: str) -> str:
    """Return what a command writes to a terminal of so many columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    child = subprocess.Popen(command(*arguments), cwd=folder, env=environment(TERM="xterm-256color", **more), stdout=theirs, stderr=theirs)
    os.close(theirs)
    said = b""
    try:
        while chunk := os.read(ours, 65536):
            said += chunk
    except OSError:  # the other side is closed
        pass
    os.close(ours)
    assert child.wait(30) == 0
    return said.decode().replace("\r\n", "\n")


def test_a_terminal_gets_colours_and_lines_that_fit(folder: Path, trace: str) -> None:
    text = on_terminal(folder, 60, "doctor", "--no-connect")
    assert "\x1b[32m" in text
    assert max(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) for line in text.splitlines()) <= 60


def test_no_color_is_heard(folder: Path, trace: str) -> None:
    text = on_terminal(folder, 76, "show", trace, read_file(folder / trace).runs[0].run_id, NO_COLOR="1")
    assert re.findall(r"\x1b\[(?:\d+;)*[349]\d", text) == []
    assert max(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) for line in text.splitlines()) <= 76


def test_a_pipe_gets_no_control_codes_and_whole_lines(folder: Path, trace: str) -> None:
    text = ran(folder, "show", trace, read_file(folder / trace).runs[0].run_id).stdout
    assert "\x1b" not in text
    assert "…" not in text


def test_without_the_extra_the_remedy_is_said() -> None:
    script = "import sys; sys.modules['typer'] = None; from tracedflow.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, "pip install 'tracedflow[cli]'" in done.stderr) == (2, True)
    assert "Traceback" not in done.stderr
