"""Every Python block of the README and of docs/ runs, every `make` target they name exists, and what they print is what is printed.

The blocks of one file share a namespace, in order. A block that begins with `# raises Error: text` must raise that error with
that text in it. A `text` block shows what the last Python block before it printed: compared word by word, numbers left out.
Each file runs in a process of its own, as the blocks set global providers.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

# Runs in the child: the blocks come as JSON on standard input.
RUN_BLOCKS = """
import contextlib, io, json, sys, types
name, blocks = json.load(sys.stdin)
page = types.ModuleType("page")
sys.modules["page"] = page
printed = []
for line, code in blocks:
    said = io.StringIO()
    first = code.splitlines()[0]
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            # Empty lines before it: a traceback then points into the page.
            exec(compile("\\n" * line + code, name, "exec"), page.__dict__)
        except Exception as error:
            expected, _, text = first.removeprefix("# raises ").partition(": ")
            if not first.startswith("# raises ") or type(error).__name__ != expected or text not in str(error):
                raise
        else:
            assert not first.startswith("# raises "), f"{name}:{line}: nothing was raised"
    printed.append(said.getvalue())
json.dump(printed, sys.stdout)
"""


@dataclass(frozen=True)
class Block:
    language: str
    line: int  # of its first line, from 0
    code: str


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(language=found[1], line=text.count("\n", 0, found.start(2)), code=found[2])
        for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    ]


def run(page: Path) -> list[tuple[Block, str]]:
    blocks = [block for block in blocks_of(page) if block.language == "python"]
    child = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUN_BLOCKS],
        input=json.dumps([page.name, [(block.line, block.code) for block in blocks]]),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    return list(zip(blocks, json.loads(child.stdout), strict=True))


def words(text: str) -> list[str]:
    """Return what stays the same from run to run: no numbers, run ids, units of time, bars or legend, which depend on the machine."""
    lines = [line for line in re.sub(r"\brun [a-z0-9]{10}\b", "run", text).splitlines() if not line.startswith("  ██ running")]
    tokens = [token.strip(",") for line in lines for token in line.split()]
    return [token for token in tokens if re.fullmatch(r"[A-Za-z_→]+", token) and token not in ("s", "ms")]


@pytest.mark.parametrize("name", NAMES)
def test_every_block_runs_and_prints_what_the_page_shows(name: str) -> None:
    page = ROOT / name
    ran = run(page)
    for shown in (block for block in blocks_of(page) if block.language == "text"):
        _, printed = [pair for pair in ran if pair[0].line < shown.line][-1]
        assert words(shown.code) == words(printed)


def test_pages_name_only_make_targets_that_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        (page.name, target)
        for page in (*PAGES, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md")
        for target in re.findall(r"(?:`|^)make (?:\w+=\S+ )?([a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert {("README.md", "demo"), ("README.md", "test")} <= named
    assert [(page, target) for page, target in sorted(named) if target not in targets] == []


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_what_the_readme_calls_missing_is_missing() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    missing = re.findall(r"^- .*?: `tracedflow\.(\w+)`", text.partition("Not there yet")[2], re.MULTILINE)
    assert missing
    assert [name for name in missing if importlib.util.find_spec(f"tracedflow.{name}")] == []


def test_the_readme_fits_on_a_few_screens() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_commands_that_run_an_example_name_one() -> None:
    named = {name for page in PAGES for name in re.findall(r"python -m (examples[\w.]*)", page.read_text(encoding="utf-8"))}
    assert named
    for name in named:
        path = ROOT / name.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists()
