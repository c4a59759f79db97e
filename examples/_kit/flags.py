"""What a flag of an example may be given; what cannot be used is refused before anything runs, with status 2."""

from __future__ import annotations

import sys
from argparse import ArgumentTypeError
from pathlib import Path
from typing import NoReturn

DRAWINGS = (".html", ".svg", ".mmd", ".mermaid")


def refuse(text: str) -> NoReturn:
    """End the program, as what it was called with cannot be used: one sentence, and the status of a wrong call."""
    print(text, file=sys.stderr, flush=True)
    raise SystemExit(2)


def some_text(text: str) -> str:
    """Return a text that is more than blanks. Bytes that are no UTF-8 come from a shell as lone surrogates, which nothing can store."""
    if not text.strip():
        raise ArgumentTypeError("it is empty")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ArgumentTypeError(f"{text!a} is not UTF-8") from None
    return text


def output_file(text: str) -> Path:
    """Return the path of a file that is to be written, for a flag; one that cannot be is refused before anything runs."""
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir():
        raise ArgumentTypeError(f"{path} is a folder" if path.is_dir() else f"there is no folder {path.parent}")
    there = path.exists()
    if there and not path.is_file():
        return path  # a device or a pipe: opening it may be its only use
    try:
        path.open("a").close()  # asking for the rights is not enough: file systems may be read-only, or not for files
    except OSError as error:
        raise ArgumentTypeError(f"{path} cannot be written: {error.strerror}") from None
    if not there:
        path.unlink()
    return path


def drawing_file(text: str) -> Path:
    """Return the path of a drawing, whose ending says what it is."""
    path = output_file(text)
    if path.suffix not in DRAWINGS:
        raise ArgumentTypeError(f"{path} has to end in {', '.join(DRAWINGS[:-1])} or {DRAWINGS[-1]}")
    return path


def port_number(text: str) -> int:
    """Return the number of a port; 0 is any that is free."""
    if not text.isdecimal() or int(text) > 65535:
        raise ArgumentTypeError(f"{text} is no port: they go from 0, any that is free, to 65535")
    return int(text)
