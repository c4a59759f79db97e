from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from examples._kit.reading import tagged
from examples.checkpointing_workflows import Critique, JokeEvent, JokeFlow, Topic, main, unfinished
from tests.examples.keeping import KeepingModel
from tracedflow import StopEvent, WorkflowCheckpointer
from tracedflow.telemetry import Tracing

ROOT = Path(__file__).resolve().parent.parent.parent
FACTS = "The mill has 3 wheels. It is tall."


@pytest.fixture
def model() -> KeepingModel:
    return KeepingModel()


@pytest.fixture
def keeper(model: KeepingModel) -> WorkflowCheckpointer:
    return WorkflowCheckpointer(JokeFlow(model, timeout=60))


async def test_each_run_has_a_checkpoint_after_each_step(keeper: WorkflowCheckpointer) -> None:
    handlers = [keeper.run(topic="mill", facts=FACTS) for _ in range(3)]
    for handler in handlers:
        await handler
    assert list(keeper.checkpoints) == [handler.run_id for handler in handlers]
    for taken in keeper.checkpoints.values():
        assert [each.last_completed_step for each in taken] == ["generate_joke", "critique_joke"]
        assert [(type(each.input_event), type(each.output_event)) for each in taken] == [(Topic, JokeEvent), (JokeEvent, Critique)]
    assert sum(map(len, keeper.checkpoints.values())) == 6


async def test_checkpoints_are_filtered_by_all_that_is_given(keeper: WorkflowCheckpointer) -> None:
    for _ in range(3):
        handler = keeper.run(topic="mill", facts=FACTS)
        await handler
    assert len(keeper.filter_checkpoints(last_completed_step="generate_joke")) == 3
    assert len(keeper.filter_checkpoints(last_completed_step="generate_joke", output_event_type=JokeEvent)) == 3
    assert keeper.filter_checkpoints(last_completed_step="generate_joke", input_event_type=JokeEvent) == []
    assert len(keeper.filter_checkpoints(run_id=handler.run_id, input_event_type=JokeEvent)) == 1


async def test_a_run_from_the_first_checkpoint_criticises_the_same_joke(keeper: WorkflowCheckpointer, model: KeepingModel) -> None:
    handler = keeper.run(topic="mill", facts=FACTS)
    first = await handler
    assert handler.run_id is not None
    again = keeper.run_from(keeper.checkpoints[handler.run_id][0])
    second = await again

    assert again.run_id not in (None, handler.run_id)
    assert [each.last_completed_step for each in keeper.checkpoints[again.run_id or ""]] == ["critique_joke"]
    assert [record.step for record in again.record] == ["critique_joke"]
    assert (len(model.of("checkpointing_workflows.joke")), len(model.of("checkpointing_workflows.critique"))) == (1, 2)
    [asked, asked_again] = model.of("checkpointing_workflows.critique")
    assert tagged(asked.text, "joke") == tagged(asked_again.text, "joke") == first.joke == second.joke


async def test_a_disabled_step_leaves_the_other(keeper: WorkflowCheckpointer) -> None:
    keeper.disable_checkpoint("critique_joke")
    handler = keeper.run(topic="mill", facts=FACTS)
    await handler
    assert keeper.enabled_checkpoints == {"generate_joke"}
    assert [each.last_completed_step for each in keeper.checkpoints[handler.run_id or ""]] == ["generate_joke"]
    keeper.enable_checkpoint("critique_joke")
    handler = keeper.run(topic="mill", facts=FACTS)
    await handler
    assert len(keeper.checkpoints[handler.run_id or ""]) == 2


async def test_the_workflow_can_be_replaced_by_one_with_another_model(keeper: WorkflowCheckpointer) -> None:
    handler = keeper.run(topic="mill", facts=FACTS)
    first = await handler
    keeper.workflow = JokeFlow(KeepingModel({"checkpointing_workflows.critique": lambda asked: "It is fine."}), timeout=60)
    assert handler.run_id is not None
    second = await keeper.run_from(keeper.checkpoints[handler.run_id][0])
    assert (second.joke, second.critique) == (first.joke, "It is fine.")


# --- in another process ---


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    call = "import sys; from examples.checkpointing_workflows import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run([sys.executable, "-c", call, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def killed_before(step: str, store: Path, *question: str) -> None:
    ended = run(*question, "--store", str(store), "--kill-before", step)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert ended.stdout == ""


async def test_a_killed_process_is_gone_on_with_and_repeats_nothing(tmp_path: Path, model: KeepingModel) -> None:
    store = tmp_path / "runs.db"
    killed_before("critique_joke", store, "ferry")
    keeper = WorkflowCheckpointer(JokeFlow(model, timeout=60), store=store)
    [[checkpoint]] = keeper.checkpoints.values()
    assert isinstance(checkpoint.output_event, JokeEvent)
    result = await keeper.run_from(unfinished(keeper))
    assert result.joke == checkpoint.output_event.joke
    assert model.of("checkpointing_workflows.joke") == []
    assert isinstance(keeper.filter_checkpoints(last_completed_step="critique_joke")[0].output_event, StopEvent)


def test_the_program_goes_on_with_what_was_killed_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = str(tmp_path / "runs.db")
    killed_before("critique_joke", tmp_path / "runs.db", "the harbour")
    assert main(["--store", store, "--resume"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("Joke: ")
    assert "generate_joke" not in said.err
    assert main(["--store", store, "--resume"]) == 3
    assert "came to its end" in capsys.readouterr().err


def test_what_was_killed_before_its_first_checkpoint_left_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    killed_before("generate_joke", tmp_path / "runs.db")
    assert main(["--store", str(tmp_path / "runs.db"), "--resume"]) == 3
    assert "the store has none" in capsys.readouterr().err


def test_what_cannot_be_used_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text").write_text("no database")
    assert main(["--store", str(tmp_path / "text")]) == 2
    assert "not a database" in capsys.readouterr().err
    assert main(["astronomy"]) == 3
    assert "which is about almshouse," in capsys.readouterr().err


# --- the trace ---


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    yield exporter
    exporter.shutdown()


async def test_the_run_that_was_started_again_links_to_the_first(exporter: InMemorySpanExporter, tmp_path: Path) -> None:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    store = tmp_path / "runs.db"
    keepers = [
        WorkflowCheckpointer(JokeFlow(KeepingModel(), timeout=60, middleware=[Tracing(provider)], telemetry=False), store=store)
        for _ in range(2)  # the second reads what the first wrote, as another process would
    ]
    handler = keepers[0].run(topic="mill", facts=FACTS)
    await handler
    await keepers[1].run_from(keepers[1].checkpoints[handler.run_id or ""][0])
    first, again = (span for span in exporter.get_finished_spans() if span.name == "invoke_workflow JokeFlow")
    assert first.links == ()
    [link] = again.links
    assert link.context.span_id == first.context.span_id
    assert dict(link.attributes or {})["tracedflow.link.type"] == "resumed_from"
    assert again.context.trace_id != first.context.trace_id
