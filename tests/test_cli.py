"""The command line on trace files and on code, and on wrong input: one calm line, exit code 2, never a traceback.

What depends on the process (signals, terminals, exit) is in test_cli_processes.py; what asks servers and telemetry in
test_cli_telemetry.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tracedflow import __version__
from tracedflow._engine._state import reduce
from tracedflow.cli._app import app

PROGRAM = """
import asyncio
from tracedflow import Context, Event, StartEvent, StopEvent, Workflow, step, telemetry
from tracedflow.retry_policy import retry_policy, stop_after_attempt, wait_fixed

class Item(Event):
    n: int

class Done(Event):
    n: int

class Flow(Workflow):
    '''Doubles numbers.'''

    @step
    async def spread(self, ctx: Context, ev: StartEvent) -> list[Item]:
        await ctx.store.set("count", ev.count)
        return [Item(n=n) for n in range(ev.count)]

    @step(num_workers=2, retry_policy=retry_policy(wait=wait_fixed(0), stop=stop_after_attempt(2)))
    async def work(self, ctx: Context, ev: Item) -> Done:
        await asyncio.sleep(0.002)
        if ev.n == 1 and ctx.retry_info().retry_number == 0:
            raise ConnectionError("gone")
        return Done(n=ev.n)

    @step
    async def join(self, ctx: Context, ev: Done) -> StopEvent | None:
        found = ctx.collect_events(ev, [Done] * await ctx.store.get("count"))
        return None if found is None else StopEvent(result="done")

class Broken(Workflow):
    @step
    async def only(self, ev: StartEvent) -> StopEvent:
        raise ValueError("no way")

class Wrong(Workflow):
    @step
    async def only(self, ev: StartEvent) -> Item | StopEvent: ...

class Needs(Workflow):
    def __init__(self, name):
        super().__init__()
        self.name = name
    @step
    async def only(self, ev: StartEvent) -> StopEvent: ...

flow = Flow(timeout=5)
number = 3
"""
RECORDING = """
import asyncio, sys
from sample import Broken, flow, telemetry
async def main():
    telemetry.setup(trace_file="runs.jsonl")
    await flow.run(run_id="two-items", count=2)
    await flow.run(run_id="three-items", count=3)
    try:
        await Broken().run(run_id="broken")
    except ValueError:
        pass
asyncio.run(main())
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a program, and with the trace file of its runs."""
    made = tmp_path_factory.mktemp("cli")
    (made / "sample.py").write_text(PROGRAM)
    subprocess.run([sys.executable, "-c", RECORDING], cwd=made, check=True, env=clean_environment())
    return made


@pytest.fixture
def folder(recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a test: it has the program and the trace file."""
    (tmp_path / "broken.py").write_text("from sample import Wrong\nflow = Wrong()\n")
    for name in ("sample.py", "runs.jsonl"):
        (tmp_path / name).write_bytes((recorded / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("sample", "broken"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name in [*os.environ]:
        if name.startswith(("TRACEDFLOW_", "OTEL_")):
            monkeypatch.delenv(name)
    return tmp_path


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("TRACEDFLOW_", "OTEL_", "COLUMNS", "NO_COLOR"))}


def tracedflow(*arguments: str, code: int = 0) -> Result:
    ran = CliRunner().invoke(app, list(arguments), prog_name="tracedflow")
    assert ran.exit_code == code, ran.output + repr(ran.exception)
    assert "Traceback" not in ran.output
    return ran


def document(*arguments: str, code: int = 0) -> dict[str, Any]:
    found = json.loads(tracedflow(*arguments, "--json", code=code).stdout)
    assert found["format"] == 1
    return dict(found)


def said_wrong(*arguments: str) -> str:
    """Return what a command says of wrong input: one line on standard error, nothing else."""
    ran = tracedflow(*arguments, code=2)
    assert ran.stdout == ""
    (line,) = ran.stderr.splitlines()
    assert line.startswith("tracedflow ")
    return line


# --------------------------------------------------------------------------------------------------------- recorded runs


def test_the_version_says_whether_the_hot_modules_are_compiled() -> None:
    build = "pure Python" if hasattr(reduce, "__code__") else "its hot modules compiled"
    assert CliRunner().invoke(app, ["--version"]).stdout == f"tracedflow {__version__}, {build}\n"


def test_show_lists_the_runs_of_a_file_oldest_first(folder: Path) -> None:
    lines = tracedflow("show", "runs.jsonl").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["run", "two-items", "three-items", "broken"]
    assert lines[3].endswith("ValueError")
    listed = document("show", "runs.jsonl")["runs"]
    assert [(run["run_id"], run["outcome"], run["steps"]) for run in listed] == [
        ("two-items", "success", 5),
        ("three-items", "success", 7),
        ("broken", "error", 1),
    ]
    assert listed[2]["error_type"] == "ValueError"


def test_show_of_a_run_has_its_attempts_and_a_waterfall(folder: Path) -> None:
    text = tracedflow("show", "runs.jsonl", "two").stdout
    assert "run two-items  success after" in text
    assert "2 attempts" in text
    assert "██ running" in text
    run = document("show", "runs.jsonl", "two-items")["run"]
    tried = [each for each in run["attempts"] if each["step"] == "work" and each["outcome"] == "error"]
    assert [(each["attempt"], each["error"]) for each in tried] == [(1, "ConnectionError")]
    first = next(each for each in run["attempts"] if each["step"] == "spread")
    assert [event["type"] for event in first["events_in"]] == ["StartEvent"]
    assert [event["type"] for event in first["events_out"]] == ["Item", "Item"]
    assert run["unfinished"] == []


def test_why_tells_what_was_tried_again_and_where_events_went(folder: Path) -> None:
    lines = tracedflow("why", "runs.jsonl", "two-items").stdout.splitlines()
    assert lines[0].startswith("Run two-items of Flow completed in")
    assert "  Step `work` was tried again once." in lines
    assert ["Item", "2", "spread", "×2", "work", "×2"] in [line.split() for line in lines]
    found = document("why", "runs.jsonl", "two-items")
    assert found["run"]["run_id"] == "two-items"
    assert found["events"]["Item"] == {"count": 2, "from": {"spread": 2}, "to": {"work": 2}}


def test_without_a_run_the_last_one_is_meant(folder: Path) -> None:
    assert tracedflow("why", "runs.jsonl").stdout.startswith("Run broken of Broken failed after")


def test_path_sums_to_the_wall_clock_and_estimates(folder: Path) -> None:
    text = tracedflow("path", "runs.jsonl", "two-items", "--workers", "work=1").stdout
    assert "With other workers (1 for `work`): about" in text
    found = document("path", "runs.jsonl", "two-items", "--workers", "work=1")
    assert sum(found["parts"].values()) == pytest.approx(found["wall"])
    assert [hop["step"] for hop in found["path"]] == ["spread", "work", "join"]
    assert {step["step"] for step in found["steps"]} == {"spread", "work", "join"}
    assert found["estimate"]["workers"] == {"work": 1}
    assert found["estimate"]["then"] > 0
    assert document("path", "runs.jsonl", "two-items")["estimate"] is None


def test_diff_names_where_two_runs_part_and_fails(folder: Path) -> None:
    text = tracedflow("diff", "runs.jsonl:two-items", "runs.jsonl:three-items", code=1).stdout
    assert "They part at spread" in text
    found = document("diff", "runs.jsonl:two-items", ":three-items", code=1)
    assert found["same"] is False
    assert found["divergences"][0]["path"] == ["spread"]
    assert (found["first"]["run_id"], found["second"]["run_id"]) == ("two-items", "three-items")


def test_diff_of_two_files_compares_their_last_runs(folder: Path) -> None:
    (folder / "copy.jsonl").write_bytes((folder / "runs.jsonl").read_bytes())
    assert "went the same way" in tracedflow("diff", "runs.jsonl", "copy.jsonl").stdout
    assert document("diff", "runs.jsonl", "copy.jsonl")["same"] is True


def test_diff_of_two_workflows_says_so(folder: Path) -> None:
    ran = tracedflow("diff", "runs.jsonl:two-items", ":broken", code=1)
    assert "two workflows, Flow and Broken" in ran.stderr


def test_report_writes_a_page(folder: Path) -> None:
    assert tracedflow("report", "runs.jsonl", "two-items", "--workflow", "sample:Flow").stdout == "wrote run.html\n"
    assert "two-items" in (folder / "run.html").read_text(encoding="utf-8")


def test_metrics_of_a_file_are_its_runs_in_numbers(folder: Path) -> None:
    lines = [line.split() for line in tracedflow("metrics", "runs.jsonl").stdout.splitlines()]
    assert ["Flow", "2"] in [line[:2] for line in lines]
    assert lines[1][-2:] == ["2", "success"]
    found = document("metrics", "runs.jsonl")
    work = next(step for step in found["steps"] if step["step"] == "work")
    assert (work["durations"]["count"], work["retries"], work["failed"]) == (5, 2, 0)
    assert {each["workflow"]: each["outcomes"] for each in found["workflows"]} == {"Flow": {"success": 2}, "Broken": {"error": 1}}


def test_the_file_that_the_environment_names_is_the_default(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACEDFLOW_TRACE_FILE", "runs.jsonl")
    assert tracedflow("show").stdout == tracedflow("show", "runs.jsonl").stdout
    assert tracedflow("why", "two-items").stdout.startswith("Run two-items")


# ---------------------------------------------------------------------------------------------------------- trace files


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "file.jsonl is empty"),
        ("\n\n", "file.jsonl is empty"),
        ("level=info message=hello\n", "file.jsonl:1 is no line of a trace file"),
        ('{"level": "info", "message": "hello"}\n', "file.jsonl:1 is no line of a trace file"),
        ("[" * 100_000, "file.jsonl:1 is no line of a trace file"),
        ('{"resourceSpans": []}\n', "no run of tracedflow"),
    ],
    ids=["empty", "blank", "text", "json", "deep", "foreign"],
)
def test_a_file_without_runs_is_told_by_what_it_is(folder: Path, content: str, told: str) -> None:
    (folder / "file.jsonl").write_text(content)
    assert told in said_wrong("show", "file.jsonl")


def test_a_binary_file_is_no_trace_file(folder: Path) -> None:
    (folder / "file.jsonl").write_bytes(bytes(range(256)) * 10)
    assert "is no line of a trace file" in said_wrong("show", "file.jsonl")


def test_a_last_line_that_is_cut_off_is_named_and_the_rest_is_shown(folder: Path) -> None:
    whole = (folder / "runs.jsonl").read_text()
    (folder / "cut.jsonl").write_text(whole[:-20])
    lines = len(whole.splitlines())
    ran = tracedflow("show", "cut.jsonl")
    assert ran.stderr.startswith(f"tracedflow: cut.jsonl:{lines} is cut off and left out")
    assert "two-items" in ran.stdout


def test_damaged_lines_are_named_and_left_out(folder: Path) -> None:
    first, *rest = (folder / "runs.jsonl").read_text().splitlines(keepends=True)
    (folder / "damaged.jsonl").write_text("".join([first, "{broken\n", "more\n", *rest]))
    ran = tracedflow("show", "damaged.jsonl")
    assert ran.stderr == "tracedflow: damaged.jsonl:2 is damaged and left out, and so are 1 more lines\n"
    assert ran.stdout == tracedflow("show", "runs.jsonl").stdout


# ---------------------------------------------------------------------------------------------------------------- code


def test_check_says_that_a_workflow_is_well(folder: Path) -> None:
    assert tracedflow("check", "sample:Flow").stdout == "Flow is well: 3 steps.\n"


def test_check_prints_every_problem_and_fails(folder: Path) -> None:
    ran = tracedflow("check", "sample:Wrong", code=1)
    assert "Item" in ran.stdout
    assert "sample.py" in ran.stdout


@pytest.mark.parametrize(("file", "mark"), [("flow.svg", "<svg"), ("flow.html", "<svg"), ("flow.mermaid", "flowchart")])
def test_draw_writes_what_the_suffix_says(folder: Path, file: str, mark: str) -> None:
    assert tracedflow("draw", "sample:flow", "-o", file).stdout == f"wrote {file}\n"
    assert mark in (folder / file).read_text(encoding="utf-8")


# --------------------------------------------------------------------------------------------------------- wrong input


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("show",), "name a trace file"),
        (("show", "nowhere.jsonl"), "there is no file nowhere.jsonl"),
        (("show", "."), ". cannot be read: Is a directory"),
        (("show", "runs.jsonl", "x"), "has no run `x`; it has `broken`, `three-items`, `two-items`"),
        (("show", "runs.jsonl", "t"), "begins the ids of 2 runs"),
        (("why", "sample.py"), "sample.py:2 is no line of a trace file"),
        (("why", "runs.jsonl", "two", "--pid", "1"), "give one of them"),
        (("path", "runs.jsonl", "--workers", "work"), "is not of the form STEP=N"),
        (("path", "runs.jsonl", "two", "--workers", "nap=2"), "nap"),
        (("diff", "runs.jsonl", "nowhere"), "there is no file nowhere"),
        (("diff", "runs.jsonl:none", "runs.jsonl"), "has no run `none`"),
        (("report", "runs.jsonl", "-o", "no/where.html"), "no/where.html cannot be written"),
        (("report", "runs.jsonl", "--workflow", "sample:none"), "has no `none`"),
        (("check", "sample:Flwo"), "did you mean sample:Flow?"),
        (("check", "nowhere:Flow"), "there is no module `nowhere`"),
        (("check", "sample"), "sample:Flow or"),
        (("check", "sample.py:Flow"), "sample:NAME"),
        (("check", "sample:number"), "is of type int"),
        (("check", "sample:Needs"), "cannot be made without arguments"),
        (("draw", "sample:Flow", "-o", "flow.gif"), "flow.gif has a suffix that cannot be drawn"),
        (("draw", "broken:flow"), "`tracedflow check broken:flow` tells all"),
        (("run", "sample"), "sample:Flow or"),
        (("run", "sample:Wrong"), "`tracedflow check sample:Wrong` tells all"),
        (("run", "sample:Flow", "count"), "`count` is not of the form KEY=VALUE"),
        (("run", "sample:Flow", "run_id=3"), "`run_id` is an argument of run()"),
        (("show", "--everything"), "--everything"),
        (("check",), "MODULE:NAME"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_input_is_told_in_one_calm_line_with_a_remedy(folder: Path, arguments: tuple[str, ...], told: str) -> None:
    assert told in said_wrong(*arguments)


def test_a_module_that_cannot_be_imported_names_the_line(folder: Path) -> None:
    (folder / "breaks.py").write_text("x = 1\nraise RuntimeError('oh')\n")
    assert "breaks.py:2: RuntimeError: oh" in said_wrong("check", "breaks:Flow")


# ---------------------------------------------------------------------------------------------------------- completion


def offered(monkeypatch: pytest.MonkeyPatch, words: str) -> list[str]:
    """Return what a shell offers on Tab at the end of the words."""
    monkeypatch.setenv("_TRACEDFLOW_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
    return CliRunner().invoke(app, [], prog_name="tracedflow").stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("tracedflow do", ["doctor"]),
        ("tracedflow run sam", ["sample:"]),
        ("tracedflow check sample:F", ["sample:Flow"]),
        ("tracedflow draw sample:f", ["sample:flow"]),
        ("tracedflow show runs.jsonl t", ["three-items", "two-items"]),
        ("tracedflow diff runs.jsonl:b", ["runs.jsonl:broken"]),
        ("tracedflow diff run", ["runs.jsonl"]),
        ("tracedflow show nowhere.jsonl ", []),
    ],
)
def test_tab_offers_what_could_follow(folder: Path, monkeypatch: pytest.MonkeyPatch, words: str, expected: list[str]) -> None:
    assert offered(monkeypatch, words) == expected


def test_tab_runs_no_code(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "raise SystemExit('imported')\nclass Kept(Workflow): ...\nclass Own(Kept): ...\nmade = Own()\n"
    (folder / "loud.py").write_text(text)
    (folder / "cut.py").write_text("class Cut(Workflow:\n")
    assert offered(monkeypatch, "tracedflow run loud:") == ["loud:Kept", "loud:Own", "loud:made"]
    assert offered(monkeypatch, "tracedflow run cut:") == []


@pytest.mark.parametrize(
    ("shell", "mark"), [("bash", "complete -o default"), ("zsh", "compdef"), ("fish", "complete --command tracedflow")]
)
def test_completion_can_be_shown(monkeypatch: pytest.MonkeyPatch, shell: str, mark: str) -> None:
    monkeypatch.setattr("shellingham.detect_shell", lambda: (shell, f"/bin/{shell}"))
    assert mark in tracedflow("--show-completion").stdout


def test_completion_can_be_installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setattr("shellingham.detect_shell", lambda: ("bash", "/bin/bash"))
    assert "installed" in tracedflow("--install-completion").stdout
    assert "tracedflow" in (folder / ".bashrc").read_text()


def test_every_command_has_a_short_help_that_is_not_cut() -> None:
    lines = tracedflow("--help").stdout.splitlines()
    commands = lines[lines.index("Commands:") + 1 :]
    assert len([line for line in commands if line.strip()]) == 11
    assert [line for line in commands if line.endswith("...")] == []
