"""A digest of every file below a folder: fan-out over bounded workers, a join, a retry, and a timeout with a fallback.

A returned list is one event for each file; `num_workers` bounds how many are read at once; `collect_events` waits for all of
them, and again for the three parts of the report.

```mermaid
flowchart LR
  start([Digest]) --> find_files -->|FileFound x n| digest_file -->|FileDigested x n| gather_files
  gather_files -->|AllDigested| write_index -->|IndexWritten| report --> stop([DigestReport])
  gather_files -->|AllDigested| summarize -->|Summarized| report
  gather_files -->|AllDigested| report
```

`python -m examples.folder_digest [DIR] [--workers N] [--index FILE] [--json]`. DIR is the standard library of this Python if
left out. The result alone goes to stdout; progress and the waterfall go to stderr.

Two faults are planted, the same in every run: the index writer fails on its first two attempts, and the summary that was
wanted takes too long, so a cheaper one is made.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import hashlib
import json
import os
import stat
import sys
import sysconfig
import threading
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from examples._kit.cli import Stage, WrongInputError, run_example, some_text
from examples._kit.screen import show_waterfall
from tracedflow import Context, Event, StartEvent, StepTimeoutError, StopEvent, Workflow, WorkflowHandler, step
from tracedflow.retry_policy import retry_if_exception_type, retry_policy, stop_after_attempt, wait_exponential, wait_none

WORKERS = 4
SKIPPED = ("__pycache__", ".git", ".venv")
SKIPPED_IN_STDLIB = (*SKIPPED, "site-packages", "dist-packages", "test", "tests", "idle_test")
LARGEST = 32 * 1024 * 1024  # bytes of a file that is still read
PLANTED_FAILURES = 2  # attempts of the index writer
SUMMARY_TIMEOUT = 0.4  # seconds
SUMMARY_NEEDS = 30.0  # seconds: the planted delay, cut off by the timeout


class NothingToDigestError(WrongInputError):
    """The folder is missing, is no folder, or holds no file."""


# --- events ---


class Digest(StartEvent):
    folder: str
    index: str = os.devnull
    skipped: tuple[str, ...] = SKIPPED


class FileFound(Event):
    path: str


class FileDigested(Event):
    """What was found out about one file. With a `problem`, it was not read and the rest is empty."""

    path: str
    problem: str | None = None  # binary | unreadable | too large | not a regular file
    size: int = 0  # bytes
    lines: int = 0
    words: int = 0
    sha256: str = ""
    functions: int = 0
    classes: int = 0
    is_python: bool = False
    parses: bool = True


class AllDigested(Event):
    folder: str
    index: str
    files: list[FileDigested]


class IndexWritten(Event):
    size: int  # bytes


class Summarized(Event):
    text: str
    method: str  # close reading | at a glance


class FilesCounted(Event):
    """Progress, for the stream: how many files there are."""

    count: int


class FileDone(Event):
    """Progress, for the stream: one more is done."""


class DigestReport(StopEvent):
    folder: str
    files: int
    size: int
    lines: int
    words: int
    functions: int
    classes: int
    python_files: int
    unparsable: int
    problems: dict[str, int]
    largest: list[tuple[str, int]]
    sha256: str  # over the digests of all files, in the order of their paths
    index_size: int
    summary: str
    summary_method: str


# --- the workflow ---


class FolderDigest(Workflow):
    # A plain `def` runs in a thread of its own: reading folders and files must not stop the event loop.
    @step
    def find_files(self, ctx: Context, ev: Digest) -> list[FileFound]:
        paths = sorted(_files_below(Path(ev.folder), ev.skipped))
        if not paths:
            raise NothingToDigestError(f"{ev.folder} holds no file to digest.")
        ctx.sync.store.set("job", ev)
        ctx.sync.store.set("files", len(paths))
        ctx.write_event_to_stream(FilesCounted(count=len(paths)))
        return [FileFound(path=path) for path in paths]

    @step(num_workers=WORKERS)
    def digest_file(self, ctx: Context, ev: FileFound) -> FileDigested:
        digested = digest_file(ev.path)
        ctx.write_event_to_stream(FileDone())
        return digested

    @step
    async def gather_files(self, ctx: Context, ev: FileDigested) -> AllDigested | None:
        files = ctx.collect_events(ev, [FileDigested] * await ctx.store.get("files"))
        if files is None:
            return None
        job = await ctx.store.get("job")
        return AllDigested(folder=job.folder, index=job.index, files=sorted(files, key=lambda file: file.path))

    # `AllDigested` goes to each of the next three.

    @step(
        retry_policy=retry_policy(
            retry=retry_if_exception_type(OSError), wait=wait_exponential(multiplier=0.1, max=1), stop=stop_after_attempt(4)
        )
    )
    def write_index(self, ctx: Context, ev: AllDigested) -> IndexWritten:
        if ctx.retry_info().retry_number < PLANTED_FAILURES:
            raise OSError("the index is busy (planted)")
        text = json.dumps({file.path: file.sha256 for file in ev.files if not file.problem}, indent=1)
        Path(ev.index).write_text(text, encoding="utf-8")
        return IndexWritten(size=len(text.encode()))

    # An attempt that takes too long is tried once more, and the second attempt knows what became of the first.
    @step(
        timeout=SUMMARY_TIMEOUT,
        retry_policy=retry_policy(retry=retry_if_exception_type(StepTimeoutError), wait=wait_none(), stop=stop_after_attempt(2)),
    )
    async def summarize(self, ctx: Context, ev: AllDigested) -> Summarized:
        if isinstance(ctx.retry_info().last_exception, StepTimeoutError):
            return Summarized(text=_at_a_glance(ev.files), method="at a glance")
        return Summarized(text=await _close_reading(ev.files), method="close reading")

    @step
    async def report(self, ctx: Context, ev: AllDigested | IndexWritten | Summarized) -> DigestReport | None:
        parts = ctx.collect_events(ev, [AllDigested, IndexWritten, Summarized])
        return None if parts is None else _report(*parts)


def with_workers(workers: int) -> type[FolderDigest]:
    """Return the workflow with another number of workers: a step is overridden as any method is."""

    class Sized(FolderDigest):
        @step(num_workers=workers)
        def digest_file(self, ctx: Context, ev: FileFound) -> FileDigested:
            return super().digest_file(ctx, ev)

    return Sized


# --- what the steps do ---


def _files_below(folder: Path, skipped: Sequence[str]) -> Iterator[str]:
    if not os.path.isdir(folder):  # false also for a name that no file can have
        raise NothingToDigestError(f"{folder} is not a folder." if os.path.exists(folder) else f"{folder} does not exist.")
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in skipped]
        yield from (os.path.join(parent, name) for name in names)


def digest_file(path: str) -> FileDigested:
    """Read and count one file; one that cannot be read is counted by its problem."""
    problem, data = _read(path)
    if problem is not None:
        return FileDigested(path=path, problem=problem)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return FileDigested(path=path, problem="binary")
    functions, classes, parses = _definitions(text) if path.endswith(".py") else (0, 0, True)
    return FileDigested(
        path=path,
        size=len(data),
        lines=data.count(b"\n") + (not data.endswith(b"\n") and bool(data)),
        words=len(text.split()),
        sha256=hashlib.sha256(data).hexdigest(),
        functions=functions,
        classes=classes,
        is_python=path.endswith(".py"),
        parses=parses,
    )


def _read(path: str) -> tuple[str | None, bytes]:
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for its other end
            return "not a regular file", b""
        if found.st_size > LARGEST:
            return "too large", b""
        data = Path(path).read_bytes()
    except OSError:
        return "unreadable", b""
    return ("binary", b"") if b"\0" in data else (None, data)


_parser = threading.Lock()  # Python 3.11 fails where two threads parse at once: github.com/python/cpython/issues/106905


def _definitions(text: str) -> tuple[int, int, bool]:
    """Return how many functions and classes a Python source defines, and whether it is one."""
    try:
        with _parser:
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return 0, 0, False
    kinds = Counter(type(node) for node in ast.walk(tree))
    return kinds[ast.FunctionDef] + kinds[ast.AsyncFunctionDef], kinds[ast.ClassDef], True


async def _close_reading(files: Sequence[FileDigested]) -> str:
    """Stand for a model that is slow today: it would answer, but not in time."""
    await asyncio.sleep(SUMMARY_NEEDS)
    return f"{len(files)} files, read closely."


def _at_a_glance(files: Sequence[FileDigested]) -> str:
    kinds = Counter(Path(file.path).suffix or "no suffix" for file in files)
    kind, count = kinds.most_common(1)[0]
    longest = max(files, key=lambda file: file.lines)
    share = f"{100 * count / len(files):.0f} % of the files are {kind}"
    return f"{share}; the longest is {Path(longest.path).name} with {longest.lines:,} lines."


def _report(digested: AllDigested, index: IndexWritten, summary: Summarized) -> DigestReport:
    read = [file for file in digested.files if file.problem is None]
    largest = sorted(read, key=lambda file: (-file.size, file.path))[:5]
    return DigestReport(
        folder=digested.folder,
        files=len(digested.files),
        size=sum(file.size for file in read),
        lines=sum(file.lines for file in read),
        words=sum(file.words for file in read),
        functions=sum(file.functions for file in read),
        classes=sum(file.classes for file in read),
        python_files=sum(file.is_python for file in read),
        unparsable=sum(not file.parses for file in read),
        problems=dict(sorted(Counter(file.problem for file in digested.files if file.problem).items())),
        largest=[(os.path.relpath(file.path, digested.folder), file.size) for file in largest],
        sha256=hashlib.sha256("".join(file.sha256 for file in read).encode()).hexdigest(),
        index_size=index.size,
        summary=summary.text,
        summary_method=summary.method,
    )


# --- running and showing it ---


async def digest(folder: str | None = None, *, workers: int = WORKERS, index: str = os.devnull) -> tuple[DigestReport, WorkflowHandler]:
    """Run the workflow on a folder, the standard library if none is given; return its report and the finished run.

    Raises:
        NothingToDigestError: the folder is missing or empty.
    """
    job = Digest(folder=folder or standard_library(), index=index, skipped=SKIPPED if folder else SKIPPED_IN_STDLIB)
    workflow = with_workers(workers)(timeout=600, workflow_name="FolderDigest", keep_records=None)
    handler = workflow.run(start_event=job)
    await _show_progress(handler)
    return await handler, handler


def standard_library() -> str:
    """Return the folder of the standard library of this Python."""
    return sysconfig.get_path("stdlib")


async def _show_progress(handler: WorkflowHandler) -> None:
    """Print a line to stderr for each quarter of the files."""
    total = done = 0
    async for event in handler.stream_events():
        if isinstance(event, FilesCounted):
            total = event.count
            print(f"{total:,} files found", file=sys.stderr)
        elif isinstance(event, FileDone):
            done += 1
            if done * 4 // total > (done - 1) * 4 // total:
                print(f"{done:,} of {total:,} digested", file=sys.stderr)


def as_text(report: DigestReport) -> str:
    """Return the report for a reader."""
    problems = ", ".join(f"{count:,} {problem}" for problem, count in report.problems.items()) or "none"
    rows = [
        ("folder", report.folder),
        ("files", f"{report.files:,} ({report.size / 1e6:,.1f} MB read); not read: {problems}"),
        ("text", f"{report.lines:,} lines, {report.words:,} words"),
        ("Python", f"{report.python_files:,} files, {report.functions:,} functions, {report.classes:,} classes"),
        ("largest", ", ".join(f"{path} ({size / 1000:,.0f} kB)" for path, size in report.largest[:3])),
        ("sha256", report.sha256),
        ("index", f"{report.index_size / 1000:,.1f} kB"),
        ("summary", f"{report.summary} ({report.summary_method})"),
    ]
    return "\n".join(f"{name:<9}{text}" for name, text in rows)


async def play(stage: Stage) -> str:
    arguments = stage.arguments
    warnings.filterwarnings("ignore", category=SyntaxWarning)  # of the sources that are read, not of this program
    report, handler = await digest(arguments.folder, workers=arguments.workers, index=arguments.index)
    stage.handlers.append(handler)
    print(file=sys.stderr)
    show_waterfall(handler.record, sys.stderr)
    print(file=sys.stderr, flush=True)
    return report.model_dump_json(indent=1) if arguments.json else as_text(report)


def flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="?", type=some_text, metavar="DIR", help="default: the standard library of this Python")
    parser.add_argument("--workers", type=_workers, default=WORKERS, metavar="N", help=f"files read at once (default {WORKERS})")
    parser.add_argument("--index", default=os.devnull, metavar="FILE", help="where the index goes (default: nowhere)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def _workers(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    return run_example(play, __doc__, None, argv, flags=flags, needs_model=False)


if __name__ == "__main__":
    sys.exit(main())
