"""The command line that all examples share, and the scripted server behind it."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from argparse import ArgumentParser
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from examples._kit import cli
from examples._kit.cli import NotFoundError, Stage, WrongInputError, as_text, output_file, run_example
from examples._kit.model import ModelRefusedError, ModelUnavailableError, StructuredOutputError
from examples._kit.scripted_server import MODEL, ScriptedServer
from examples._kit.terminal import at_a_terminal
from tracedflow import Context, Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent, Workflow, step


class Piece(Event):
    delta: str


class Found(Event):
    names: list[str]
    note: str = "as\nbefore"


class Small(Workflow):
    @step
    async def look(self, ev: StartEvent) -> Found | None:
        return Found(names=["a", "b"]) if ev.get("text") else None

    @step
    async def write(self, ctx: Context, ev: Found) -> StopEvent:
        ctx.write_event_to_stream(ev)
        for word in ("in ", "pieces"):
            ctx.write_event_to_stream(Piece(delta=word))
        return StopEvent(result=f"{len(ev.names)} names")


class Asking(Workflow):
    @step
    async def ask(self, ev: StartEvent) -> InputRequiredEvent:
        return InputRequiredEvent(prefix="how many?")

    @step
    async def take(self, ev: HumanResponseEvent) -> StopEvent:
        return StopEvent(result=ev.response)


async def play(stage: Stage) -> Any:
    if stage.question == "nothing":
        raise NotFoundError("no names")
    return await stage.run(Small(), text=stage.question)


Run = Callable[..., tuple[int, str, list[str]]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*argv: str, **options: Any) -> tuple[int, str, list[str]]:
        status = run_example(options.pop("play", play), "A small example.\n\nMore.", "who?", argv, **options)
        said = capsys.readouterr()
        return status, said.out, said.err.splitlines()

    return run


def test_the_result_stands_alone_between_the_model_and_the_trace(run: Run) -> None:
    status, out, said = run()
    assert (status, out) == (0, "2 names\n")
    assert said[0].startswith("Model: scripted, offline")
    assert re.fullmatch(r"Trace: [0-9a-f]{32}", said[-1])
    told = [re.sub(r"^\+\d+\.\d{3}s ", "", line) for line in said[1:-1]]
    assert told == ["look -> Found", "Found(names=2 items, note=as before)", "in pieces", "write -> StopEvent"]


def test_an_answer_that_is_not_there_has_a_status_of_its_own(run: Run) -> None:
    status, out, said = run("nothing")
    assert (status, out) == (3, "")
    assert said[-2] == "Not found: no names"


def test_what_cannot_be_used_is_said_and_has_the_status_of_a_wrong_call(run: Run) -> None:
    async def refuses(stage: Stage) -> str:
        raise WrongInputError("a text needs a word")

    status, out, said = run(play=refuses)
    assert (status, out) == (2, "")
    assert said[-2] == "Wrong input: a text needs a word"


def test_an_example_without_a_model_says_so_and_has_no_flag_for_one(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, said = run(needs_model=False)
    assert (status, said[0]) == (0, "Model: none is needed")
    with pytest.raises(SystemExit):
        run("--model", "large", needs_model=False)
    assert "--model" in capsys.readouterr().err


def test_a_model_that_does_not_answer_is_said_in_one_sentence(run: Run) -> None:
    async def fails(stage: Stage) -> str:
        raise ModelUnavailableError("small at http://127.0.0.1:1/v1 cannot be reached, or broke off")

    status, out, said = run(play=fails)
    assert (status, out) == (1, "")
    assert said[-2].startswith("No answer: small at")


@pytest.mark.parametrize(("suffix", "begins"), [(".svg", "<svg"), (".mmd", "flowchart"), (".html", "<!doctype html>")])
def test_the_last_run_is_drawn_as_the_name_of_the_file_says(run: Run, tmp_path: Path, suffix: str, begins: str) -> None:
    drawing = tmp_path / f"run{suffix}"
    _, _, said = run("--draw", str(drawing))
    assert f"Drawn: {drawing}" in said
    text = drawing.read_text()
    assert text.lower().startswith(begins)
    assert "look" in text


def test_an_interrupt_has_its_status_and_leaves_the_trace_id_on_a_line_of_its_own(run: Run) -> None:
    async def interrupted(stage: Stage) -> str:
        print("How many? ", end="", file=sys.stderr)
        raise KeyboardInterrupt

    status, out, said = run(play=interrupted)
    assert (status, out) == (130, "")
    assert re.fullmatch(r"Trace: [0-9a-f]{32}", said[-1])


@pytest.mark.parametrize("flag", ["--draw", "--trace"])
def test_a_file_that_cannot_be_written_is_refused_before_anything_runs(
    run: Run, flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for wrong, says in ((tmp_path / "no" / "x.svg", "there is no folder"), (tmp_path, "is a folder")):
        with pytest.raises(SystemExit) as ended:
            run(flag, str(wrong))
        assert ended.value.code == 2
        said = capsys.readouterr().err
        assert says in said
        assert "look" not in said


@pytest.mark.parametrize("flag", ["--draw", "--trace"])
def test_a_file_that_the_system_refuses_is_told_before_anything_runs(run: Run, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(flag, "/proc/self/picture.svg")  # a folder in which not even root can make files
    assert ended.value.code == 2
    assert f"{flag}: /proc/self/picture.svg cannot be written" in capsys.readouterr().err


def test_a_file_that_was_only_tried_is_not_left_behind_nor_changed(run: Run, tmp_path: Path) -> None:
    there = tmp_path / "there.svg"
    there.write_text("as it was")
    for path in (there, tmp_path / "new.svg"):
        assert output_file(str(path)) == path
    assert (there.read_text(), sorted(tmp_path.iterdir())) == ("as it was", [there])
    assert output_file("/dev/null") == Path("/dev/null")


def test_a_drawing_is_of_a_kind_that_there_is(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run("--draw", str(tmp_path / "run.pdf"))
    assert ended.value.code == 2
    assert "has to end in .html, .svg, .mmd or .mermaid" in capsys.readouterr().err


@pytest.mark.parametrize(("question", "says"), [("", "it is empty"), (" \n\t ", "it is empty"), ("caf\udce9", r"'caf\udce9' is not UTF-8")])
def test_a_question_without_text_is_a_wrong_call(run: Run, question: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(question)
    assert ended.value.code == 2
    assert f"argument question: {says}" in capsys.readouterr().err


def test_an_error_that_quotes_a_long_question_is_cut(run: Run) -> None:
    async def fails(stage: Stage) -> str:
        raise NotFoundError("why " * 10_000 + "not?")

    status, _, said = run(play=fails)
    assert status == 3
    assert re.fullmatch(r"Not found: why (why )+.*not\? \(40,004 characters\)", said[-2])
    assert len(said[-2]) < 600


def test_a_text_that_broke_off_leaves_no_line_open(run: Run) -> None:
    class Breaking(Workflow):
        @step
        async def write(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ctx.write_event_to_stream(Piece(delta="It was a dark and"))
            raise ModelUnavailableError("small broke off")

    async def breaks(stage: Stage) -> Any:
        return await stage.run(Breaking())

    status, _, said = run(play=breaks)
    assert status == 1
    assert said[1:3] == ["It was a dark and", "No answer: small broke off"]


def test_a_file_that_the_data_lacks_is_a_wrong_call(run: Run, tmp_path: Path) -> None:
    async def reads(stage: Stage) -> str:
        return (stage.data / "towns" / "karrow.md").read_text()

    status, out, said = run("--data", str(tmp_path), play=reads)
    assert (status, out, said[-2]) == (2, "", f"Wrong input: --data {tmp_path} lacks towns/karrow.md")

    async def reads_elsewhere(stage: Stage) -> str:
        return (tmp_path.parent / "no-such-file").read_text()

    with pytest.raises(FileNotFoundError):  # which is a mistake of the example
        run("--data", str(tmp_path), play=reads_elsewhere)


def test_a_run_that_takes_too_long_is_said_in_one_sentence(run: Run) -> None:
    class Endless(Workflow):
        @step
        async def wait(self, ev: StartEvent) -> StopEvent:
            await asyncio.Event().wait()
            return StopEvent()

    async def waits(stage: Stage) -> Any:
        return await stage.run(Endless(timeout=0.05))

    status, out, said = run(play=waits)
    assert (status, out) == (1, "")
    assert re.fullmatch(r"No answer: Run \w+ of \S+Endless exceeded its timeout of 0\.05 s\.", said[1])
    assert "step `wait` is running" in said[2]


@pytest.mark.parametrize("number", ["65536", "-1", "http"])
def test_a_port_that_is_none_is_a_wrong_call(run: Run, number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(f"--metrics-port={number}")
    assert ended.value.code == 2
    assert f"{number} is no port" in capsys.readouterr().err


def test_a_port_that_is_taken_is_said_in_one_sentence(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit) as ended:
        run("--metrics-port", str(taken.getsockname()[1]))
    assert ended.value.code == 2
    assert re.fullmatch(r"--metrics-port \d+: Address already in use\. 0 takes any port that is free\.\n", capsys.readouterr().err)


def test_a_program_without_any_input_does_not_wait_for_its_end(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)  # as after `0<&-`
    status, _, said = run("--metrics-port", "0")
    assert status == 0
    assert any("/metrics until" in line for line in said)
    assert not at_a_terminal()


def test_verbose_leaves_the_steps_to_the_engine(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACEDFLOW_VERBOSE", "")
    _, out, said = run("--verbose")
    assert out == "2 names\n"
    assert not any("look -> Found" in line for line in said)
    assert any("look" in line and "started" in line for line in said)


def test_metrics_are_served_until_the_input_ends(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    scraped: list[str] = []

    class Input(io.StringIO):
        def read(self, size: int | None = -1, /) -> str:
            scraped.append(urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode())
            return ""

    monkeypatch.setattr("sys.stdin", Input())
    _, _, said = run("--metrics-port", str(port))
    assert re.search(r'tracedflow_runs_total\{.*workflow="Small"', scraped[0])
    assert any("/metrics until" in line for line in said)


def test_a_model_that_is_named_needs_a_place(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run("--model", "large")
    assert ended.value.code == 2
    assert "TRACEDFLOW_LLM_BASE_URL" in capsys.readouterr().err


def test_a_model_without_its_package_is_refused_with_the_remedy(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRACEDFLOW_LLM_BASE_URL", "http://127.0.0.1:1/v1")
    monkeypatch.setenv("TRACEDFLOW_LLM_API_KEY", "k")
    monkeypatch.setitem(sys.modules, "openai", None)  # as if it were not installed
    with pytest.raises(SystemExit) as ended:
        run("--model", "large")
    assert ended.value.code == 2
    assert re.match(r"The model large needs the package `openai`.*-m pip install openai\. .*--model scripted", capsys.readouterr().err)


@pytest.mark.parametrize("error", [ModelRefusedError("large refused", 401), StructuredOutputError("Plan", "p", "no JSON", "")])
def test_a_model_that_is_no_use_is_said_in_one_sentence(run: Run, error: Exception) -> None:
    async def fails(stage: Stage) -> str:
        raise error

    status, out, said = run(play=fails)
    assert (status, out, said[-2]) == (1, "", f"No answer: {error}")


def test_a_folder_of_data_that_is_not_there_is_a_wrong_call(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run("--data", str(tmp_path / "none"))
    assert ended.value.code == 2
    assert "there is no such folder" in capsys.readouterr().err


def test_an_example_may_have_flags_of_its_own(run: Run, tmp_path: Path) -> None:
    async def tell(stage: Stage) -> str:
        return f"{stage.arguments.seed}, {stage.data.name}"

    def flags(parser: ArgumentParser) -> None:
        parser.add_argument("--seed", type=int, default=1)

    assert run("--seed", "7", "--data", str(tmp_path), play=tell, flags=flags)[1] == f"7, {tmp_path.name}\n"


def test_help_is_the_first_line_of_the_docstring(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_example(play, "A small example.\n\nMore.", "100 % who?", ["--help"])
    said = capsys.readouterr().out
    assert "A small example." in said
    assert "More." not in said
    assert "100 % who?" in said


async def test_a_question_to_a_person_is_answered_by_the_stage() -> None:
    async def answer(event: InputRequiredEvent) -> HumanResponseEvent:
        return HumanResponseEvent(response=f"{event.prefix} seven")

    stage = Stage(cli.choose_model({}))
    assert await stage.run(Asking(), answer=answer) == "how many? seven"
    assert stage.handlers[0].done()


def test_results_are_shown_as_text_or_as_json() -> None:
    assert as_text("plain") == "plain"
    assert as_text(StopEvent(result="inside")) == "inside"
    assert json.loads(as_text({"a": [1, Path("x")]})) == {"a": [1, "x"]}
    assert json.loads(as_text(Found(names=["a"])))["names"] == ["a"]


# --- as a program of a shell ---

ROOT = Path(__file__).resolve().parent.parent.parent


def program(*arguments: str, first: str = "", **variables: str) -> subprocess.Popen[str]:
    """Start an example as a shell does; Ctrl-C reaches it, whatever the parent does with it: what is ignored is inherited."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return _started(arguments, first, variables)
    finally:
        signal.signal(signal.SIGINT, before)


def _started(arguments: Sequence[str], first: str, variables: Mapping[str, str]) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("TRACEDFLOW_", "OTEL_"))}
    environment |= {"PYTHONPATH": os.pathsep.join(filter(None, [first, str(ROOT), *sys.path])), **variables}
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_ctrl_c_while_the_model_thinks_ends_the_run_and_tells_its_trace() -> None:
    pytest.importorskip("openai")
    with ScriptedServer(faults=["slow"], slowness=600) as server:
        running = program("examples.rag", "--model", MODEL, **server.environment)
        assert running.stderr is not None
        while "retrieve" not in running.stderr.readline():
            pass
        while not server.requests:
            pass
        running.send_signal(signal.SIGINT)
        out, said = running.communicate(timeout=30)
    assert (running.returncode, out) == (130, "")
    assert "Traceback" not in said
    assert re.fullmatch(r"Trace: [0-9a-f]{32}", said.splitlines()[-1])


def test_ctrl_c_while_an_example_is_imported_just_ends_it(tmp_path: Path) -> None:
    (tmp_path / "pydantic.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(600)\n")
    starting = program("examples.rag", first=str(tmp_path))
    assert starting.stdout is not None
    assert starting.stdout.readline() == "importing\n"
    starting.send_signal(signal.SIGINT)
    _, said = starting.communicate(timeout=30)
    assert (starting.returncode, said) == (-signal.SIGINT, "")


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_an_output_that_nobody_reads_ends_an_example_without_a_word(closed: str) -> None:
    running = program("examples.stepwise")
    getattr(running, closed).close()
    setattr(running, closed, None)
    out, said = running.communicate(timeout=30)
    assert running.returncode == 141
    assert "Traceback" not in f"{out}{said}"
    if closed == "stdout":
        assert re.fullmatch(r"Trace: [0-9a-f]{32}", said.splitlines()[-1])


# --- the server ---


def test_a_slow_answer_does_not_keep_the_server_from_ending() -> None:
    with (
        ScriptedServer({"": lambda asked: "late"}, faults=["slow"], slowness=600) as server,
        socket.create_connection(
            server._http.server_address[:2]  # type: ignore[arg-type]
        ) as client,
    ):
        body = json.dumps({"model": "m", "messages": []}).encode()
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        while not server.requests:
            pass


def test_a_prompt_that_the_server_has_no_rule_for_is_answered_with_the_reason() -> None:
    with ScriptedServer() as server:
        request = urllib.request.Request(
            f"{server.url}/chat/completions",
            data=json.dumps({"model": "m", "messages": []}).encode(),
            headers={"x-prompt-name": "rag.nothing"},
        )
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=10)
        assert caught.value.code == 404
        assert "scripts/rag.py" in json.load(caught.value)["error"]["message"]
        caught.value.close()
