from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from examples.drawing import Signpost, draw, main
from tracedflow import draw_most_recent_execution_mermaid
from tracedflow.representation import get_workflow_representation

TEXT = "Harbour office and customs / Mill / The road to the northern lighthouse"
WIDTH = 12


def cut_by_hand(text: str, width: int) -> tuple[list[str], int]:
    """Return the lines as they fit, and how often something was cut."""
    lines, cuts = [], 0
    for line in text.split("/"):
        words = line.split()
        while len(" ".join(words)) > width and len(words) > 1:
            words.pop()
            cuts += 1
        lines.append(" ".join(words))
    return lines, cuts


async def test_the_lines_fit_and_keep_their_order() -> None:
    lines, cuts = cut_by_hand(TEXT, WIDTH)
    handler = Signpost().run(text=TEXT, width=WIDTH)
    assert await handler == lines
    assert Counter(record.step for record in handler.record) == {"split": 1, "fit": len(lines) + cuts, "join": 1}


@pytest.mark.parametrize("nothing", ["", " / /"])
async def test_without_a_line_there_is_a_way_out(nothing: str) -> None:
    handler = Signpost().run(text=nothing, width=WIDTH)
    assert await handler == []
    assert [record.step for record in handler.record] == ["split", "refuse"]


async def test_every_picture_is_written_and_none_needs_a_network(tmp_path: Path) -> None:
    handler = Signpost().run(text=TEXT, width=WIDTH)
    await handler
    files = draw(handler, tmp_path / "new" / "folder")
    assert [file.name for file in files] == ["flows.html", "flows.mermaid", "flows.svg", "run.html", "run.mermaid", "run.svg"]
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert len(text) > 500
        loaded = re.findall(r"""(?:src|href|action)\s*=\s*["']?(?!#|data:)([^"'\s>]+)|url\((?!["']?#)([^)]+)\)|@import""", text)
        assert loaded == [], file.name
        assert not re.search(r"https?://(?!www\.w3\.org/)", text), file.name


async def test_the_flows_are_those_that_the_steps_declare() -> None:
    graph = get_workflow_representation(Signpost)
    declared = {
        ("Sign", "split"), ("split", "Line"), ("split", "Nothing"),
        ("Line", "fit"), ("fit", "Line"), ("fit", "Fitted"),
        ("Fitted", "join"), ("join", "StopEvent"), ("Nothing", "refuse"), ("refuse", "StopEvent"),
    }  # fmt: skip
    assert {(edge.source, edge.target) for edge in graph.edges} == declared


async def test_the_mermaid_text_has_the_same_edges(tmp_path: Path) -> None:
    handler = Signpost().run(text=TEXT, width=WIDTH)
    await handler
    draw(handler, tmp_path)
    text = (tmp_path / "flows.mermaid").read_text()
    assert '(["Nothing"])' in text
    assert '(["StopEve…"])' in text  # the longest label, cut
    drawn = re.findall(r"(?:step|event)_(\w+) (?:--|==)> (?:step|event)_(\w+)", text)
    assert set(drawn) == {(edge.source, edge.target) for edge in get_workflow_representation(Signpost).edges}


async def test_a_run_shows_only_what_it_did_as_often_as_it_did_it() -> None:
    lines, cuts = cut_by_hand(TEXT, WIDTH)
    handler = Signpost().run(text=TEXT, width=WIDTH)
    await handler
    text = draw_most_recent_execution_mermaid(handler, filename=None)
    assert text.count(":::stepStyle") == 2 + len(lines) + cuts
    assert "refuse" not in text
    assert "Nothing" not in text
    assert f"Line ×{len(lines)}" in text


async def test_a_long_run_is_one_box_for_each_step_with_its_counts() -> None:
    text = " / ".join(f"sign number {number}" for number in range(60))
    lines, cuts = cut_by_hand(text, 4)
    handler = Signpost().run(text=text, width=4)
    assert await handler == lines
    drawn = draw_most_recent_execution_mermaid(handler, filename=None)
    assert drawn.count(":::stepStyle") == 3
    assert f"×{len(lines) + cuts}" in drawn


# The command.


def test_the_command_prints_the_run_or_writes_the_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([TEXT, "--width", str(WIDTH)]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("flowchart")
    assert str(cut_by_hand(TEXT, WIDTH)[0]) in printed.err
    (tmp_path / "file").touch()
    assert main([TEXT, "--folder", str(tmp_path / "file" / "below")]) == 2
    (tmp_path / "file").unlink()
    capsys.readouterr()
    assert main([TEXT, "--folder", str(tmp_path)]) == 0
    assert capsys.readouterr().out.split() == [str(file) for file in sorted(tmp_path.iterdir())]
