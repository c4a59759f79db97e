from __future__ import annotations

import shutil
from pathlib import Path

from examples._kit.cli import Stage
from examples.folder_digest import NothingToDigestError, as_text, digest
from tests.examples.cases import Ask, Case


async def play(stage: Stage) -> str:
    report, handler = await digest(str(stage.data / "handbook"))
    stage.handlers.append(handler)
    return as_text(report)


def words(data: Path) -> str:
    return f"{sum(len(path.read_text(encoding='utf-8').split()) for path in (data / 'handbook').iterdir()):,} words"


def add_a_word(data: Path) -> None:
    with (data / "handbook" / "ferry.md").open("a", encoding="utf-8") as file:
        file.write("\nonce\n")


CASE = Case(
    steps=("find_files", "digest_file", "gather_files", "write_index", "summarize", "report"),
    asks=[Ask("", words, add_a_word, lambda data: shutil.rmtree(data / "handbook"))],
    play=play,
    missing=NothingToDigestError,
    needs_model=False,
    program=["examples"],
    longest=400,
)
