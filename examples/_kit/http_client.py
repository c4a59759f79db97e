"""A client with nothing but a socket, for the example `deployment`. A browser has `fetch` and `EventSource` for it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from opentelemetry import propagate


@asynccontextmanager
async def asked(
    url: str, path: str, method: str = "GET", body: object = None, **headers: str
) -> AsyncIterator[tuple[int, asyncio.StreamReader]]:
    """Send a request, with the trace it is part of; give the status, and the body to be read as it comes.

    HTTP/1.0 has no chunks, which makes this short.
    """
    host, port = urlsplit(url).hostname, urlsplit(url).port
    traced: dict[str, str] = {}
    propagate.inject(traced)
    reader, writer = await asyncio.open_connection(host, port)
    content = b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.0", f"Content-Length: {len(content)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in {**traced, **headers}.items()]
    try:
        writer.write("\r\n".join([*lines, "", ""]).encode() + content)
        status = int((await reader.readline()).split()[1])
        while (await reader.readline()).strip():
            pass  # the headers of the answer are not needed here
        yield status, reader
    finally:
        writer.close()


async def ask(url: str, path: str, method: str = "GET", body: object = None, **headers: str) -> tuple[int, Any]:
    """Send a request; return the status and the JSON of the answer."""
    async with asked(url, path, method, body, **headers) as (status, answer):
        return status, json.loads(await answer.read())


async def follow(url: str, run_id: str, last_id: int = -1) -> AsyncIterator[tuple[int, str, Any]]:
    """Yield the number, name and data of each event of a run, after the last that was seen."""
    async with asked(url, f"/runs/{run_id}/events", last_event_id=str(last_id)) as (_, stream):
        fields: dict[str, str] = {}
        while line := (await stream.readline()).decode():
            name, _, value = line.rstrip("\n").partition(": ")
            if name:
                fields[name] = value
            elif "id" in fields:
                yield int(fields["id"]), fields["event"], json.loads(fields["data"])
                fields = {}
