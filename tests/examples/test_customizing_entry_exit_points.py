from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from examples._kit.model import choose_model
from examples.customizing_entry_exit_points import JokeFlow, JokeReport, JokeStart, main
from tracedflow import Event, StartEvent, StopEvent, Workflow, WorkflowRuntimeError, WorkflowValidationError, step
from tracedflow.testing import assert_run, run_step


@dataclass
class Fixed:
    """A model that always gives the same answer, and keeps what it was asked."""

    answer: str
    name: str = "fixed"
    description: str = "fixed"
    asked: list[str] = field(default_factory=list)

    async def complete(self, prompt: str) -> str:
        self.asked.append(prompt)
        return self.answer


async def test_keywords_and_an_event_give_equal_results() -> None:
    by_keywords = await JokeFlow().run(topic="gulls")
    by_event = await JokeFlow().run(start_event=JokeStart(topic="gulls"))
    assert by_keywords == by_event
    assert by_keywords != await JokeFlow().run(topic="fog")


async def test_the_result_is_the_event_with_typed_fields() -> None:
    handler = JokeFlow().run(topic="gulls")
    report = await handler
    assert type(report) is JokeReport
    assert handler.get_stop_event() is report
    assert "gulls" in report.joke
    assert report.joke in report.critique
    assert report.score is None or f"Verdict: {report.score} of 10" in report.critique
    assert_run(handler).completed().order("tell", "judge", "file").no_retries()


@pytest.mark.parametrize("mistake", [{"topic": ""}, {"topic": ["gulls"]}, {"topic": "gulls", "out": 3}, {}])
async def test_a_wrong_start_is_refused_before_any_step(mistake: dict[str, object]) -> None:
    flow = JokeFlow()
    model = Fixed("ha")
    with flow.resource_manager.override(choose_model, model), pytest.raises(WorkflowRuntimeError, match="JokeStart") as caught:
        flow.run(**mistake)
    assert model.asked == []
    assert "topic" in str(caught.value) or "out" in str(caught.value)


async def test_the_report_is_written_to_the_file(tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    report = await JokeFlow().run(topic="gulls", out=out)
    assert json.loads(out.read_text(encoding="utf-8")) == {"joke": report.joke, "critique": report.critique, "score": report.score}


@pytest.mark.parametrize(
    ("critique", "score"),
    [("Thin. Verdict: 3 of 10.", 3), ("verdict:10 of 10", 10), ("Verdict: 11 of 10", None), ("Verdict: good", None), ("", None)],
)
async def test_the_score_is_what_the_critique_says(critique: str, score: int | None) -> None:
    flow = JokeFlow()
    with flow.resource_manager.override(choose_model, Fixed(critique)):
        assert (await flow.run(topic="gulls")).score == score


async def test_the_critic_is_shown_the_joke_that_was_told() -> None:
    model = Fixed("A gull walks into a bar.")
    flow = JokeFlow()
    with flow.resource_manager.override(choose_model, model):
        await flow.run(topic="gulls")
    assert len(model.asked) == 2
    assert "gulls" in model.asked[0]
    assert model.answer in model.asked[1]


async def test_two_kinds_of_start_events_are_refused() -> None:
    class OtherStart(StartEvent):
        pass

    class TwoWaysIn(Workflow):
        @step
        async def one(self, ev: JokeStart) -> StopEvent:
            return StopEvent()

        @step
        async def other(self, ev: OtherStart) -> StopEvent:
            return StopEvent()

    with pytest.raises(WorkflowValidationError, match=r"JokeStart.*OtherStart|OtherStart.*JokeStart"):
        TwoWaysIn()


async def test_a_step_can_be_tried_alone(tmp_path: Path) -> None:
    found = await run_step(JokeFlow(), "tell", JokeStart(topic="gulls", out=tmp_path / "x"), resources={"choose_model": Fixed("ha")})
    told: Event | None = found.returned
    assert told is not None
    assert told.joke == "ha"  # type: ignore[attr-defined]
    assert told.out == tmp_path / "x"  # type: ignore[attr-defined]


# The command.


def test_the_command_names_the_model_and_prints_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "report.json"
    assert main(["gulls", "--out", str(out)]) == 0
    printed = capsys.readouterr()
    joke, *_, score = printed.out.splitlines()
    written = json.loads(out.read_text(encoding="utf-8"))
    assert printed.err.startswith("Model: scripted")
    assert joke == written["joke"]
    assert score == f"Score: {written['score']}"


@pytest.mark.parametrize("mistake", [[""], ["gulls", "--out", "/nowhere/at/all.json"]])
def test_a_mistake_is_told_in_a_sentence(mistake: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status: object = main(mistake)
    except SystemExit as ended:  # the parser's own
        status = ended.code
    assert status == 2
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    assert printed.out == ""
