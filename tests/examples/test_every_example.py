"""What holds for every example: its answers follow the data, nothing is written into it, its trace tells what it did."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from examples import __main__ as listing
from examples._kit.cli import CORPUS
from examples._kit.messages import Asked, Wanted
from examples._kit.model import OpenAICompatModel, ScriptedModel, choose_model
from examples._kit.scripted_server import MODEL, ScriptedServer
from tests.examples.cases import Ask, case_of, module_of, names, played
from tracedflow import configure
from tracedflow.errors import WorkflowTimeoutError
from tracedflow.telemetry import Tracing

ROOT = Path(__file__).resolve().parent.parent.parent
ASKS = [pytest.param(name, ask, id=f"{name}-{number}") for name in names() for number, ask in enumerate(case_of(name).asks, start=1)]
ASKS_TO_EDIT = [param for param in ASKS if param.values[1].edit is not None]
ASKS_TO_REMOVE = [param for param in ASKS if param.values[1].remove is not None]
ASKS_OF_A_MODEL = [param for param in ASKS if case_of(param.values[0]).needs_model]
LIVE = choose_model()  # before a test hides the environment
WITH_A_MODEL = [name for name in names() if case_of(name).needs_model]
ON_THE_KIT = [name for name in names() if hasattr(module_of(name), "play")]


class HastyModel(ScriptedModel):
    """The scripted model without its pauses."""

    seconds_per_word = 0.0


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A copy of the data, to change."""
    return Path(shutil.copytree(CORPUS, tmp_path / "data"))


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    kept, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    configure(middleware=[Tracing(provider)])
    monkeypatch.setattr(trace, "get_tracer", lambda name, *_: provider.get_tracer(name))  # for the model calls, which ask the API
    yield kept
    provider.shutdown()


# What the documents of LlamaIndex Workflows list: guides, and examples.
LISTED = [
    "customizing_entry_exit_points",
    "drawing",
    "managing_events",
    "managing_state",
    "resources",
    "retry_steps",
    "stepwise",
    "deployment",
    "workflows_cookbook",
    "rag",
    "citation_query_engine",
    "corrective_rag_pack",
    "parallel_execution",
    "react_agent",
    "function_calling_agent",
    "from_scratch_code_act_agent",
    "human_in_the_loop_story_crafting",
    "reflection",
    "planning_workflow",
    "checkpointing_workflows",
    "advanced_text_to_sql",
    "jsonalyze_query_engine",
    "long_rag_pack",
    "multi_step_query_engine",
    "multi_strategy_workflow",
    "router_query_engine",
    "self_discover_workflow",
    "sub_question_query_engine",
]


def test_everything_that_the_documents_list_has_an_example() -> None:
    assert len(LISTED) == 28
    assert set(LISTED) - set(listing.examples()) == set()


def test_every_example_on_the_kit_has_a_case() -> None:
    on_the_kit = {name for name in listing.examples() if re.search(r"^async def play\(", source_of(name), re.MULTILINE)}
    assert on_the_kit == set(ON_THE_KIT)
    assert set(listing.examples()) - on_the_kit == {"demo"}  # which runs others, and shows their metrics


def test_every_example_says_in_one_line_what_it_shows() -> None:
    for name, shows in listing.examples().items():
        assert 20 < len(shows) < 140, name
        assert shows.endswith("."), name


@pytest.mark.parametrize("name", ON_THE_KIT)
def test_an_example_is_a_lesson_of_readable_length_with_a_picture(name: str) -> None:
    assert "```mermaid" in (module_of(name).__doc__ or "")
    assert len(source_of(name).splitlines()) <= case_of(name).longest


def source_of(name: str) -> str:
    return (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8")


# --- answers come from the data ---


@pytest.mark.parametrize(("name", "ask"), ASKS)
async def test_the_answer_holds_what_the_data_says(name: str, ask: Ask) -> None:
    text, _ = await played(name, ask, HastyModel())
    assert holds(text, ask.truth(CORPUS)), text


@pytest.mark.parametrize(("name", "ask"), ASKS)
def test_no_answer_is_written_into_an_example(name: str, ask: Ask) -> None:
    truth = ask.truth(CORPUS)
    written = [path.name for path in sorted((ROOT / "examples").rglob("*.py")) if holds(path.read_text(encoding="utf-8"), truth)]
    assert written == []


@pytest.mark.parametrize(("name", "ask"), ASKS_TO_EDIT)
async def test_the_answer_follows_a_change_of_the_data(name: str, ask: Ask, data: Path) -> None:
    before = ask.truth(data)
    assert ask.edit is not None
    ask.edit(data)
    after = ask.truth(data)
    assert before != after
    text, _ = await played(name, ask, HastyModel(), data)
    assert holds(text, after), text
    assert not holds(text, before), text


@pytest.mark.parametrize(("name", "ask"), ASKS_TO_REMOVE)
async def test_nothing_is_answered_without_the_data(name: str, ask: Ask, data: Path) -> None:
    assert ask.remove is not None
    ask.remove(data)
    with pytest.raises(case_of(name).missing):
        await played(name, ask, HastyModel(), data)


def holds(text: str, value: str) -> bool:
    """Return whether a value stands in a text by itself, so that 17 is not found in 171."""
    return re.search(rf"(?<![\w.,]){re.escape(value)}(?![\w]|[.,]\d)", text) is not None


# --- the model ---


@pytest.mark.parametrize(("name", "ask"), ASKS_OF_A_MODEL)
async def test_a_model_behind_http_gives_the_same_answer(name: str, ask: Ask) -> None:
    pytest.importorskip("openai")
    offline, _ = await played(name, ask, HastyModel())
    with ScriptedServer() as server:
        over_http, _ = await played(name, ask, OpenAICompatModel(server.url, "none-needed", MODEL))
    assert over_http == offline
    assert server.requests


@pytest.mark.parametrize("name", WITH_A_MODEL if LIVE.name != ScriptedModel.name else [])
async def test_the_model_of_the_environment_answers_what_the_data_says(name: str) -> None:
    """Runs where the three variables name a model: its words are its own, the numbers and names are those of the data."""
    ask = case_of(name).asks[0]
    text, _ = await played(name, ask, LIVE)
    assert text.strip()
    facts = re.findall(r"\d[\d,.]*\d|\d|\b[A-Z]\w+", ask.truth(CORPUS))
    assert [fact for fact in facts if fact not in text] == [], text


class BrokenModel(ScriptedModel):
    """A model that cannot be reached."""

    async def _reply(self, asked: Asked, wanted: Wanted) -> AsyncIterator[Any]:
        raise ConnectionError("the model cannot be reached (planted)")
        yield


@pytest.mark.parametrize("name", [name for name in WITH_A_MODEL if not case_of(name).survives_broken_model])
async def test_a_model_that_cannot_be_reached_ends_the_run_with_its_error(name: str) -> None:
    with pytest.raises(Exception, match="cannot be reached") as caught:
        await played(name, case_of(name).asks[0], BrokenModel())
    assert not isinstance(caught.value, WorkflowTimeoutError)


# --- the trace ---


@pytest.mark.parametrize("name", names())
async def test_the_trace_tells_which_steps_ran_and_who_asked_the_model(name: str, exporter: InMemorySpanExporter) -> None:
    case = case_of(name)
    await played(name, case.asks[0], HastyModel())
    spans = exporter.get_finished_spans()
    by_id = {span.context.span_id: span for span in spans}
    steps = sorted((span for span in spans if span.name.startswith("run_step ")), key=lambda span: span.start_time or 0)
    assert list(dict.fromkeys(step_of(span) for span in steps)) == list(case.steps)
    for span in steps:
        assert parent_of(span, by_id).name.startswith("invoke_workflow "), span.name

    asked = {}
    for span in (span for span in spans if span.name.startswith("chat ")):
        facts = dict(span.attributes or {})
        assert facts["gen_ai.operation.name"] == "chat"
        assert facts["gen_ai.usage.input_tokens"] > 0
        caller = parent_of(span, by_id)
        asked.setdefault(facts.get("gen_ai.prompt.name", ""), set()).add(step_of(caller))
    assert asked == {prompt: set(callers.split()) for prompt, callers in case.calls.items()}


def parent_of(span: ReadableSpan, by_id: dict[int, ReadableSpan]) -> ReadableSpan:
    assert span.parent is not None, f"{span.name} has no parent"
    return by_id[span.parent.span_id]


def step_of(span: ReadableSpan) -> str:
    """Return the step of a step span or of one of its attempts."""
    kind, _, step = span.name.partition(" ")
    assert kind in ("run_step", "attempt"), span.name
    return step


# --- as a program ---


@pytest.mark.parametrize("question", ["", " \t\n"])
@pytest.mark.parametrize("name", [name for name in ON_THE_KIT if hasattr(module_of(name), "QUESTION")])
def test_an_empty_question_is_refused_before_anything_runs(name: str, question: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        module_of(name).main([question])
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"python -m examples.{name}: error: argument question: it is empty"


@pytest.mark.parametrize("name", ON_THE_KIT)
def test_help_says_what_it_shows_what_it_takes_and_what_its_status_means(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        module_of(name).main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0
    assert said.startswith(f"usage: python -m examples.{name} ")
    assert listing.examples()[name] in said
    assert all(word in said for word in ("--draw", "--trace", "--metrics-port", "--data", "Status: 0"))


@pytest.mark.parametrize("name", ON_THE_KIT)
def test_a_flag_that_there_is_not_is_named(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        module_of(name).main(["--no-such-flag"])
    assert ended.value.code == 2
    assert "unrecognized arguments: --no-such-flag" in capsys.readouterr().err


@pytest.mark.parametrize("name", ON_THE_KIT)
def test_a_folder_without_the_data_is_told_without_a_traceback(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = module_of(name).main([*case_of(name).program, "--data", str(tmp_path)])
    assert status in (0, 2, 3)  # 0: it needs none of the data
    assert re.fullmatch(r"Trace: [0-9a-f]{32}", capsys.readouterr().err.splitlines()[-1])


WITHOUT_NETWORK = """
import runpy, socket, sys
connect = socket.socket.connect
def only_here(self, address):
    if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise PermissionError(f"an example offline reached for {address}")
    return connect(self, address)
socket.socket.connect = only_here
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def run_offline(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("TRACEDFLOW_", "OTEL_"))}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "utf-8", "OPENAI_API_KEY": "stray"}
    return subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", WITHOUT_NETWORK, f"examples.{name}", *arguments],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("name", ON_THE_KIT)
def test_it_runs_offline_and_keeps_stdout_for_the_result(name: str, tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    case = case_of(name)
    files = ("--draw", str(tmp_path / "run.svg"), "--trace", str(tmp_path / "trace.jsonl"))
    ended = run_offline(name, *case.program, *files, "--metrics-port", "0")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert ended.returncode == 0, ended.stderr
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 5  # seconds of a processor, whatever else it does
    said = ended.stderr.splitlines()
    assert said[0].startswith("Model: scripted, offline" if case.needs_model else "Model: none is needed")
    assert re.match(r"Trace: [0-9a-f]{32} in ", said[-1])
    assert said[-1].split()[1] in (tmp_path / "trace.jsonl").read_text()
    assert (tmp_path / "run.svg").read_text().startswith("<svg")
    assert re.search(r"^Metrics: http://127\.0\.0\.1:[1-9]\d+/metrics ", ended.stderr, re.MULTILINE)
    assert ended.stdout.strip()
    assert "Model:" not in ended.stdout
