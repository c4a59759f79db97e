"""Each example runs as a user runs it, offline, and what it says is checked against an independent count of the same input."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from examples import __main__ as listing
from examples import folder_digest
from examples._kit import model as models
from examples._kit.screen import show_waterfall
from examples.joke_flow import JokeFlow, generate_joke, joke_flow
from tracedflow import StepTimeoutError
from tracedflow.errors import WorkflowRuntimeError

ROOT = Path(__file__).resolve().parent.parent
OFFLINE = {name: value for name, value in os.environ.items() if not name.startswith("TRACEDFLOW_")}


def run_python(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**OFFLINE, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "utf-8", **variables},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


# --- the model ---


async def test_scripted_answers_follow_the_prompt() -> None:
    scripted = models.ScriptedModel()
    joke = await scripted.complete("Write your best joke about old clocks.")
    other = await scripted.complete("Write your best joke about pirates.")
    assert "old clocks" in joke
    assert "pirates" in other
    assert joke == await scripted.complete("Write your best joke about old clocks.")
    critique = await scripted.complete(f"Give a thorough analysis and critique of the following joke: {other}")
    setup, punchline = other.split("? ")
    assert f"{len(setup.split())} words of setup, {len(punchline.split())} of punchline" in critique
    assert "no rule" in await scripted.complete("What is the capital of France?")


def test_a_real_model_needs_all_three_variables() -> None:
    named = {models.BASE_URL: "http://127.0.0.1:1/v1", models.API_KEY: "k", models.MODEL: "small"}
    assert models.choose_model(named).name == "small"
    for missing in named:
        assert models.choose_model({name: value for name, value in named.items() if name != missing}).name == "scripted"
    assert models.choose_model({"OPENAI_API_KEY": "k"}).name == "scripted"


def test_a_missing_extra_is_said_in_one_sentence() -> None:
    hide = "import sys; sys.modules['openai'] = None; "
    start = "from examples.joke_flow import main; main([])"
    named = {models.BASE_URL: "http://127.0.0.1:1/v1", models.API_KEY: "secret-key", models.MODEL: "small"}
    ended = run_python("-c", hide + start, **named)
    assert ended.returncode == 2
    assert "pip install openai" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "secret-key" not in ended.stderr + ended.stdout


# --- the joke flow ---


async def test_both_forms_of_the_joke_flow_agree() -> None:
    as_class = await JokeFlow().run(topic="pirates")
    as_functions = await joke_flow.run(topic="pirates")
    assert as_class == as_functions
    assert "pirates" in as_class
    assert as_class != await JokeFlow().run(topic="cats")


def test_the_joke_flow_says_first_who_answers_and_keeps_stdout_for_results() -> None:
    ended = run_python("-m", "examples.joke_flow", "compilers")
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert ended.stderr.startswith("Model: scripted, offline")
    assert len(lines) == 2
    assert lines[0] == lines[1]
    assert "generate_joke" in ended.stderr


async def test_steps_of_the_free_form_can_be_called_by_themselves() -> None:
    event = joke_flow.start_event_class(topic="cats")
    assert "cat" in (await generate_joke(event)).joke


# --- the folder digest ---


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a file of every kind that the digest knows."""
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "a.py").write_text("class A:\n    def f(self): pass\n    async def g(self): pass\n\nf = lambda: 0\n")
    (tmp_path / "broken.py").write_text("def f(:\n")
    (tmp_path / "deep" / "er" / "words.txt").write_text("one  two\nthree äö\n\nno newline at the end", encoding="utf-8")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "zeros.bin").write_bytes(b"\0" * 10)
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "__pycache__" / "skipped.py").write_text("x = 1\n")
    return tmp_path


async def test_the_digest_of_a_folder_with_every_kind_of_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_digest, "LARGEST", 1000)
    (folder / "big.txt").write_bytes(b"x" * 1001)
    report, _ = await folder_digest.digest(str(folder))
    assert report.problems == {"binary": 2, "not a regular file": 1, "too large": 1, "unreadable": 1}
    assert report.files == 9
    assert (report.python_files, report.unparsable) == (2, 1)
    assert (report.functions, report.classes) == (2, 1)
    assert report.lines == 5 + 1 + 4 + 0
    assert report.words == 13 + 2 + 9
    assert report.largest[0] == ("a.py", (folder / "a.py").stat().st_size)


def counted_by_hand(folder: Path) -> dict[str, int]:
    """Count the Python files below a folder in another way than the example does."""
    found = {"files": 0, "size": 0, "lines": 0, "words": 0, "functions": 0, "classes": 0}
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in names:
            data = (Path(parent) / name).read_bytes()
            found["files"] += 1
            found["size"] += len(data)
            found["lines"] += len(data.decode().split("\n")) - data.endswith(b"\n") if data else 0
            found["words"] += len(re.findall(r"\S+", data.decode()))
            for node in ast.walk(ast.parse(data)) if name.endswith(".py") else ():
                found["functions"] += isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
                found["classes"] += isinstance(node, ast.ClassDef)
    return found


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


async def test_the_digest_agrees_with_an_independent_count(tmp_path: Path) -> None:
    folder = Path(sysconfig.get_path("stdlib")) / "email"
    index = tmp_path / "index.json"
    report, handler = await folder_digest.digest(str(folder), workers=3, index=str(index))
    truth = counted_by_hand(folder)
    assert {name: getattr(report, name) for name in truth} == truth
    assert report.problems == {}
    written = json.loads(index.read_text())
    assert len(written) == truth["files"]
    assert written == {path: sha256_of(Path(path)) for path in written}
    assert report.index_size == index.stat().st_size
    digested = [record for record in handler.record if record.step == "digest_file"]
    edges = sorted([(r.started_at, 1) for r in digested] + [(r.ended_at, -1) for r in digested])
    running = [sum(change for _, change in edges[:end]) for end in range(len(edges))]
    assert 1 < max(running) <= 3


async def test_the_planted_faults_are_retried_exactly_as_planned() -> None:
    report, handler = await folder_digest.digest(str(ROOT / "examples"))
    index = [record for record in handler.record if record.step == "write_index"]
    assert [(record.attempt, record.outcome, record.error) for record in index] == [
        (1, "error", "OSError"),
        (2, "error", "OSError"),
        (3, "success", None),
    ]
    assert [round(record.backoff, 1) for record in index] == [0.0, 0.1, 0.2]
    summary = [record for record in handler.record if record.step == "summarize"]
    assert [record.outcome for record in summary] == ["timeout", "success"]
    assert summary[0].running == pytest.approx(folder_digest.SUMMARY_TIMEOUT, abs=0.2)
    assert report.summary_method == "at a glance"
    assert "% of the files are ." in report.summary


async def test_a_summary_in_time_needs_no_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_digest, "SUMMARY_NEEDS", 0.0)
    monkeypatch.setattr(folder_digest, "PLANTED_FAILURES", 0)
    report, handler = await folder_digest.digest(str(ROOT / "examples"))
    assert report.summary_method == "close reading"
    assert max(record.attempt for record in handler.record) == 1


async def test_an_index_that_stays_unwritable_fails_the_run_with_the_users_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_digest, "PLANTED_FAILURES", 0)
    with pytest.raises(OSError, match="nowhere") as caught:
        await folder_digest.digest(str(ROOT / "examples" / "_kit"), index=str(tmp_path / "nowhere" / "index.json"))
    assert "step `write_index`" in "".join(caught.value.__notes__)


@pytest.mark.parametrize(("name", "says"), [("missing", "does not exist"), ("empty", "holds no file"), ("file", "is not a folder")])
def test_nothing_to_digest_is_said_and_exits_with_2(name: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    assert folder_digest.main([str(tmp_path / name)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert says in printed.err
    assert "Traceback" not in printed.err


def test_workers_must_be_a_positive_number(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        folder_digest.main(["--workers", "0"])
    assert ended.value.code == 2
    assert "at least 1" in capsys.readouterr().err


def test_stdout_holds_the_result_alone_and_stderr_the_progress(capsys: pytest.CaptureFixture[str]) -> None:
    folder = ROOT / "examples"
    assert folder_digest.main([str(folder), "--json", "--workers", "2"]) == 0
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert report["folder"] == str(folder)
    assert f"{report['files']} of {report['files']} digested" in printed.err
    assert "write_index" in printed.err
    assert "3 attempts" in printed.err


def test_an_empty_run_draws_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    show_waterfall([], sys.stdout)
    assert capsys.readouterr().out.strip() == ""


def test_a_step_timeout_is_an_error_that_callers_know() -> None:
    assert issubclass(StepTimeoutError, (TimeoutError, WorkflowRuntimeError))


# --- the listing and the demo ---


def test_the_listing_names_every_example(capsys: pytest.CaptureFixture[str]) -> None:
    listing.main([])
    named = set(re.findall(r"python -m examples\.(\w+)", capsys.readouterr().out))
    assert named == {path.stem for path in (ROOT / "examples").glob("[!_]*.py")}


RUN_DEMO = """
import json, sys
from prometheus_client import REGISTRY
from examples import demo
exporter = demo.main()
spans = [(f"{s.context.trace_id:032x}", f"{s.context.span_id:016x}", s.parent and f"{s.parent.span_id:016x}", s.name)
         for s in exporter.get_finished_spans()]
samples = [(s.name, s.labels, s.value) for family in REGISTRY.collect() for s in family.samples]
json.dump({"spans": spans, "samples": samples}, open(sys.argv[1], "w"))
"""


def test_the_demo_shows_what_was_really_traced_and_counted(tmp_path: Path) -> None:
    ended = run_python("-W", "error::RuntimeWarning", "-c", RUN_DEMO, str(tmp_path / "facts.json"))
    assert ended.returncode == 0, ended.stderr
    facts = json.loads((tmp_path / "facts.json").read_text())
    traces = {trace for trace, *_ in facts["spans"]}

    # Trace ids: two from the verbose flows, one with the digest.
    verbose = re.findall(r"^ +trace ([0-9a-f]{32})$", ended.stderr, re.MULTILINE)
    digest = re.findall(r"^trace +([0-9a-f]{32})$", ended.stdout, re.MULTILINE)
    assert len(verbose) == 2
    assert len(digest) == 1
    assert traces == {*verbose, *digest}
    assert f"{len(facts['spans']):,} spans in 3 traces" in ended.stdout

    # A model call is a child of the step that made it.
    names = {span: name for _, span, _, name in facts["spans"]}
    callers = [names[parent] for _, _, parent, name in facts["spans"] if name == "chat scripted"]
    assert sorted(callers) == ["run_step critique_joke"] * 2 + ["run_step generate_joke"] * 2

    # Every metric line is what the registry holds; the rest are counted.
    samples = {(name, tuple(sorted(labels.items()))): value for name, labels, value in facts["samples"] if name.startswith("tracedflow_")}
    shown = re.findall(r"^(tracedflow_\w+)\{(.*)\} (\S+)$", ended.stdout, re.MULTILINE)
    assert 20 <= len(shown) <= 30
    for name, labels, value in shown:
        assert samples[name, tuple(sorted(re.findall(r'(\w+)="([^"]*)"', labels)))] == float(value)
    found = int(re.search(r"^([\d,]+) files found", ended.stderr, re.MULTILINE)[1].replace(",", ""))
    assert samples["tracedflow_step_attempts_total", (("error_type", ""), ("outcome", "success"), ("step", "digest_file"),
                                                      ("workflow", "FolderDigest"))] == found  # fmt: skip
    assert samples["tracedflow_step_retries_total", (("step", "write_index"), ("workflow", "FolderDigest"))] == 2
    more = int(re.search(r"^\.\.\. and (\d+) more", ended.stdout, re.MULTILINE)[1])
    assert more + len(shown) == len(samples)

    # A page, not a flood.
    assert len((ended.stdout + ended.stderr).splitlines()) < 130
