from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from examples._kit.cli import CORPUS
from examples._kit.reading import all_tagged
from examples.human_in_the_loop_story_crafting import MOST_CHOICES, Story, StoryChoice, StoryPrompt, StoryWorkflow, main, open_question
from tests.examples.keeping import KeepingModel
from tracedflow import Context, WorkflowHandler
from tracedflow.telemetry import Tracing
from tracedflow.testing import run_virtual

ROOT = Path(__file__).resolve().parent.parent.parent
WORLD = (CORPUS / "story.json").read_text(encoding="utf-8")


async def answered(handler: WorkflowHandler[Any], choices: Sequence[str]) -> list[StoryPrompt]:
    """Answer the questions of a run until the choices are used up; return all questions that were seen."""
    left, seen = list(choices), []
    async for event in handler.stream_events():
        if isinstance(event, StoryPrompt):
            seen.append(event)
            if not left:
                break
            await handler.send_event(StoryChoice(block_id=event.block_id, choice=left.pop(0)))
    return seen


async def told(*choices: str, model: KeepingModel | None = None) -> tuple[Story, list[StoryPrompt]]:
    handler = StoryWorkflow(model or KeepingModel(), timeout=None).run(hero="Ada", world=WORLD)
    prompts = await answered(handler, choices)
    return await handler, prompts


async def test_a_story_has_three_questions_and_four_parts() -> None:
    story, prompts = await told("1", "2", "3")
    assert [block.id for block in story.blocks] == [1, 2, 3, MOST_CHOICES + 1]
    assert [prompt.block_id for prompt in prompts] == [1, 2, 3]
    assert [(prompt.plot, prompt.actions) for prompt in prompts] == [(block.plot, block.actions) for block in story.blocks[:-1]]
    assert [block.choice for block in story.blocks[:-1]] == [prompt.actions[at] for at, prompt in enumerate(prompts)]
    assert (story.blocks[-1].actions, story.blocks[-1].choice) == ([], None)


async def test_other_choices_make_another_story_and_the_same_ones_the_same() -> None:
    first, again, other = [(await told(*choices))[0] for choices in (("1", "1", "1"), ("1", "1", "1"), ("2", "1", "1"))]
    assert first == again
    assert first.blocks[0].plot == other.blocks[0].plot
    for number in (1, 2, 3):
        assert first.blocks[number].plot != other.blocks[number].plot


async def test_each_prompt_holds_all_choices_so_far() -> None:
    model = KeepingModel()
    story, _ = await told("3", "1", "2", model=model)
    chosen = [block.choice for block in story.blocks[:-1]]
    assert [[part.text for part in all_tagged(asked.text, "choice")] for asked in model.asked] == [chosen[:n] for n in range(4)]
    assert [asked.prompt_name.rpartition(".")[2] for asked in model.asked] == ["segment"] * 3 + ["ending"]


@pytest.mark.parametrize("wrong", ["0", "4", "-1", "", "two", "1.0", "²"])
async def test_a_choice_that_there_is_not_is_asked_for_again(wrong: str) -> None:
    model = KeepingModel()
    story, prompts = await told("1", wrong, wrong, "2", "3", model=model)
    assert story == (await told("1", "2", "3"))[0]
    assert [prompt.block_id for prompt in prompts] == [1, 2, 2, 2, 3]
    assert [bool(prompt.problem) for prompt in prompts] == [False, False, True, True, False]
    assert repr(wrong) in prompts[2].problem
    assert len(model.asked) == 4


async def test_an_answer_to_another_question_is_none_to_this() -> None:
    handler = StoryWorkflow(KeepingModel(), timeout=None).run(hero="Ada", world=WORLD)
    await answered(handler, [])
    await handler.send_event(StoryChoice(block_id=99, choice="1"))
    await handler.send_event(StoryChoice(block_id=1, choice="2"))
    prompts = await answered(handler, ["1", "2", "3"])
    assert [prompt.block_id for prompt in prompts][-1] == 3
    assert (await handler).blocks[0].choice == prompts[0].actions[1]


# --- laying it aside ---


async def paused(*choices: str, model: KeepingModel | None = None) -> str:
    """Return a story as text, which waits after these choices."""
    handler = StoryWorkflow(model or KeepingModel(), timeout=None).run(hero="Ada", world=WORLD)
    await answered(handler, choices)
    text = json.dumps(handler.ctx.to_dict())
    await handler.cancel_run()
    return text


@pytest.mark.parametrize("before", [[], ["1"], ["1", "9"], ["1", "2"]], ids=str)
async def test_a_story_that_was_laid_aside_goes_on_as_if_it_had_not_been(before: list[str]) -> None:
    text = await paused(*before)
    model = KeepingModel()
    workflow = StoryWorkflow(model, timeout=None)
    handler = workflow.run(ctx=Context.from_dict(workflow, json.loads(text)))
    question = await open_question(handler.ctx)
    valid = [choice for choice in before if choice != "9"]
    assert question.block_id == len(valid) + 1
    after = ["1", "2", "3"][len(valid) :]
    await handler.send_event(StoryChoice(block_id=question.block_id, choice=after[0]))
    await answered(handler, after[1:])
    assert await handler == (await told("1", "2", "3"))[0]
    assert len(model.asked) == 4 - len(valid) - 1, "what was written before is not written again"


def test_it_goes_on_in_another_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "examples.human_in_the_loop_story_crafting", *arguments]
        return subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False)

    file = str(tmp_path / "story.saved")
    first = run("--choices", "2", "--pause-to", file)
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith(f"The story waits in {file}")
    second = run("--resume", file, "--choices", "1,3")
    assert second.returncode == 0, second.stderr
    assert main(["--choices", "2,1,3"]) == 0
    assert second.stdout == capsys.readouterr().out


def test_what_cannot_be_gone_on_with_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other.json").write_text('{"version": 7}')
    (tmp_path / "text").write_text("Once upon a time")
    for name in ("other.json", "text", "nothing"):
        assert main(["--resume", str(tmp_path / name)]) == 2
        assert f"Wrong input: --resume {tmp_path / name}: " in capsys.readouterr().err


# --- waiting ---


def test_the_time_of_waiting_is_told_apart_and_has_no_end() -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    async def slow_reader() -> WorkflowHandler[Any]:
        workflow = StoryWorkflow(KeepingModel(), timeout=None, middleware=[Tracing(provider)], telemetry=False)
        handler = workflow.run(hero="Ada", world=WORLD)
        async for event in handler.stream_events():
            if isinstance(event, StoryPrompt):
                await asyncio.sleep(86_400)  # a day, of the virtual clock
                await handler.send_event(StoryChoice(block_id=event.block_id, choice="1"))
        await handler
        return handler

    handler = run_virtual(slow_reader())
    asked = [record for record in handler.record if record.step == "prompt_human"]
    assert [round(record.waiting) for record in asked] == [86_400] * 3
    assert [round(record.running) for record in asked] == [0] * 3
    names = [span.name for span in exporter.get_finished_spans()]
    assert names.count("wait StoryChoice") == 3
    assert names.count("run_step prompt_human") == 3


async def test_others_go_on_while_a_person_thinks() -> None:
    waiting = StoryWorkflow(KeepingModel(), timeout=None).run(hero="Ada", world=WORLD)
    await answered(waiting, [])
    other, _ = await told("1", "1", "1")
    assert len(other.blocks) == 4
    assert not waiting.done()
    await waiting.cancel_run()
