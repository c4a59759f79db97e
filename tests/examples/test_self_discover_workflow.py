from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from examples._kit.messages import Asked, Reply, Wanted
from examples._kit.model import StructuredOutputError
from examples._kit.reading import all_tagged, tagged
from examples._kit.scripts.self_discover_workflow import RULES
from examples.self_discover_workflow import QUESTION, WAYS_OF_THINKING, SelfDiscoverWorkflow, Solution, Structure
from tests.examples.cases.self_discover_workflow import FRUIT, NETS, buoys, nets, pears, plums
from tests.examples.keeping import KeepingModel

PROMPTS = [f"self_discover_workflow.{name}" for name in ("select", "adapt", "implement", "solve")]


async def solve(task: str, model: KeepingModel | None = None) -> Solution:
    solution: Solution = await SelfDiscoverWorkflow(model or KeepingModel(), timeout=60).run(task=task)
    return solution


@pytest.mark.parametrize(
    ("task", "left"), [(FRUIT, [plums(FRUIT), pears(FRUIT)]), (NETS, [nets(NETS), buoys(NETS)])], ids=["fruit", "nets"]
)
async def test_the_counts_are_those_of_the_task(task: str, left: list[str]) -> None:
    solution = await solve(task)
    assert solution.text == f"In the end there are {' and '.join(left)}."
    for each in left:
        count, item = each.split()
        assert sum(step.change for step in solution.structure.steps if step.item == item) == int(count)


def test_the_task_of_the_example_is_the_one_with_the_known_result() -> None:
    assert QUESTION == FRUIT
    assert (plums(QUESTION), pears(QUESTION)) == (f"{15 - 4 - 3 - 2 + 12} plums", f"{0 + 6 + 5 - 2} pears")


async def test_each_prompt_holds_what_the_one_before_it_gave_and_the_task() -> None:
    model = KeepingModel()
    handler = SelfDiscoverWorkflow(model, timeout=60).run(task=FRUIT)
    solution = await handler
    assert [asked.prompt_name for asked in model.asked] == PROMPTS
    select, adapt, implement, solving = model.asked
    assert all(tagged(asked.text, "task") == FRUIT for asked in model.asked)
    assert tagged(adapt.text, "selected") == RULES["select"](select)
    assert tagged(implement.text, "adapted") == RULES["adapt"](adapt)
    given = Structure.model_validate(RULES["implement"](implement))
    assert Structure.model_validate_json(tagged(solving.text, "structure")) == given == solution.structure
    assert len(given.steps) == 8
    steps = ["get_modules", "refine_modules", "create_reasoning_structure", "get_final_result"]
    assert [record.step for record in handler.record] == steps


async def test_some_ways_of_thinking_are_selected_as_they_stand_and_others_are_not() -> None:
    model = KeepingModel()
    await solve(FRUIT, model)
    offered = [part.text for part in all_tagged(model.asked[0].text, "module")]
    assert offered == WAYS_OF_THINKING
    selected = tagged(model.asked[1].text, "selected").splitlines()
    assert set(selected) < set(offered)
    assert 1 < len(selected) < len(offered) / 2
    assert len(offered) == len(set(offered)) == 15
    assert all(text.endswith(".") and text.count(".") == 1 for text in offered)  # no two of them fused


@pytest.mark.parametrize("kept", [7, 4, 1])
async def test_a_structure_that_is_cut_short_gives_another_result(kept: int) -> None:
    def cut(asked: Asked) -> Any:
        return {"steps": RULES["implement"](asked)["steps"][:kept]}

    whole, short = await solve(FRUIT), await solve(FRUIT, KeepingModel({PROMPTS[2]: cut}))
    assert short.structure.steps == whole.structure.steps[:kept]
    assert short.text != whole.text


@pytest.mark.parametrize("broken", PROMPTS[:2])
async def test_what_an_early_step_loses_is_not_in_the_result(broken: str) -> None:
    solution = await solve(FRUIT, KeepingModel({broken: lambda asked: "Think well."}))
    assert solution == Solution(text="NOT FOUND", structure=Structure(steps=[]))


async def test_a_structure_that_is_none_is_told_to_the_model_once_and_then_ends_the_run() -> None:
    answers = iter(["First count.", '{"steps": [{"what": "count", "change": "many"}]}'])
    model = KeepingModel({PROMPTS[2]: lambda asked: next(answers)})
    with pytest.raises(StructuredOutputError, match="no Structure"):
        await solve(FRUIT, model)
    assert "This answer cannot be used" in model.asked[-1].last


async def test_a_run_without_a_task_is_refused_before_the_model_is_asked() -> None:
    model = KeepingModel()
    with pytest.raises(ValueError, match="there is no task"):
        await SelfDiscoverWorkflow(model, timeout=60).run()
    assert model.asked == []


async def test_others_go_on_while_the_model_thinks() -> None:
    beats = asyncio.Semaphore(0)

    class SlowModel(KeepingModel):
        async def _reply(self, asked: Asked, wanted: Wanted) -> AsyncIterator[str | Reply]:
            for _ in range(5):
                await beats.acquire()  # were the loop blocked, it would never beat
            async for piece in super()._reply(asked, wanted):
                yield piece

    async def beat() -> None:
        while True:
            beats.release()
            await asyncio.sleep(0)

    heart = asyncio.create_task(beat())
    solution = await solve(FRUIT, SlowModel())
    heart.cancel()
    assert plums(FRUIT) in solution.text
