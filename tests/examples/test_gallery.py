from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("starlette")  # for the example `deployment`
pytest.importorskip("uvicorn")

from examples.__main__ import examples, main
from examples._kit import gallery
from tests.examples.cases import module_of
from tracedflow import Workflow
from tracedflow.representation import get_workflow_representation


def test_the_page_is_what_the_examples_are_now() -> None:
    assert gallery.PAGE.read_text(encoding="utf-8") == gallery.page(examples()), "python -m examples --gallery brings it up to date"


def test_it_has_each_example_with_what_it_shows_and_how_it_is_run() -> None:
    text = gallery.page(examples())
    assert sorted(re.findall(r"^### (\w+)$", text, re.MULTILINE)) == sorted(examples())
    for name, shows in examples().items():
        assert f"\n{shows}\n" in text
        assert re.search(rf"^`python -m examples\.{name}[` ]", text, re.MULTILINE), name
        assert (gallery.PAGE.parent / f"../examples/{name}.py").exists()


def workflows() -> list[tuple[str, type[Workflow]]]:
    return [
        (name, value)
        for name in examples()
        for value in vars(module_of(name)).values()
        if isinstance(value, type) and issubclass(value, Workflow) and value.__module__ == f"examples.{name}"
    ]


@pytest.mark.parametrize(("name", "flow"), [pytest.param(*pair, id=f"{pair[0]}-{pair[1].__name__}") for pair in workflows()])
def test_every_edge_of_a_workflow_is_in_the_graph_of_its_example(name: str, flow: type[Workflow]) -> None:
    entry = gallery.page({name: examples()[name]})
    drawn = set(re.findall(r"(?:step|event)_(\w+) (?:--|==|-\.-)> ?(?:\|[^|]*\|)? ?(?:step|event)_(\w+)", entry))
    graph = get_workflow_representation(flow)
    own = {node.id for node in graph.nodes if node.node_type in ("step", "event")}
    assert {(edge.source, edge.target) for edge in graph.edges if {edge.source, edge.target} <= own} <= drawn


def test_the_command_writes_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(gallery, "PAGE", tmp_path / "examples.md")
    main(["--gallery"])
    assert capsys.readouterr().out.strip() == str(tmp_path / "examples.md")
    assert (tmp_path / "examples.md").read_text(encoding="utf-8") == gallery.page(examples())
