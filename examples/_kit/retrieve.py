"""Finding passages: Markdown cut into chunks, an index of words (SQLite FTS5), one of hashed vectors, and both together."""

from __future__ import annotations

import math
import re
import sqlite3
import weakref
from array import array
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

DIMENSIONS = 512
STOP_WORDS = frozenset(
    [
        "a",
        "about",
        "after",
        "all",
        "also",
        "an",
        "and",
        "any",
        "are",
        "as",
        "at",
        "be",
        "been",
        "before",
        "but",
        "by",
        "can",
        "did",
        "do",
        "does",
        "each",
        "for",
        "from",
        "had",
        "has",
        "have",
        "he",
        "her",
        "his",
        "how",
        "i",
        "if",
        "in",
        "into",
        "is",
        "it",
        "its",
        "many",
        "me",
        "more",
        "most",
        "much",
        "no",
        "not",
        "of",
        "on",
        "one",
        "only",
        "or",
        "other",
        "our",
        "out",
        "over",
        "per",
        "she",
        "should",
        "so",
        "some",
        "than",
        "that",
        "the",
        "their",
        "them",
        "then",
        "there",
        "these",
        "they",
        "this",
        "to",
        "under",
        "up",
        "us",
        "was",
        "we",
        "were",
        "what",
        "when",
        "where",
        "which",
        "who",
        "whom",
        "whose",
        "why",
        "will",
        "with",
        "would",
        "you",
        "your",
        "please",
        "tell",
        "give",
    ]
)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A passage: where it is from and what it says. `id` is the same as long as the file keeps its sections."""

    id: str
    source: str  # name of the file
    title: str  # of the document and the section
    text: str

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Hit:
    chunk: Chunk
    score: float  # more is better; comparable within one search only


class Index(Protocol):
    """What finds chunks."""

    def search(self, query: str, top: int = 8) -> list[Hit]: ...


# --- from files to chunks ---


def read_folder(folder: str | Path, *, size: int = 160, overlap: int = 0) -> list[Chunk]:
    """Return the sections of all Markdown files in a folder, in the order of their names, none longer than `size` words."""
    return [chunk for path in sorted(Path(folder).glob("*.md")) for chunk in read_file(path, size=size, overlap=overlap)]


def read_file(path: str | Path, *, size: int = 160, overlap: int = 0) -> list[Chunk]:
    path = Path(path)
    sections = _sections(path.read_text(encoding="utf-8"))
    pieces = [(title, piece) for title, text in sections for piece in split_text(text, size=size, overlap=overlap)]
    return [Chunk(f"{path.name}#{number}", path.name, title, piece) for number, (title, piece) in enumerate(pieces, start=1)]


def _sections(markdown: str) -> list[tuple[str, str]]:
    """Return (title, text) of each section that has a text."""
    document, found = "", []
    for part in re.split(r"^(?=#{1,3} )", markdown, flags=re.MULTILINE):
        heading, _, text = part.partition("\n") if part.startswith("#") else ("", "", part)
        name = heading.lstrip("# ").strip()
        if heading.startswith("# "):
            document = name
        title = name if name == document else f"{document}: {name}"
        if text.strip():
            found.append((title, text.strip()))
    return found


def split_text(text: str, *, size: int, overlap: int = 0) -> list[str]:
    """Return pieces of at most `size` words that end with a sentence or a line; each begins with the last `overlap` words before it.

    A sentence longer than that is a piece of its own. Text that fits is returned as it is.
    """
    if len(text.split()) <= size:
        return [text]
    pieces: list[str] = []
    current: list[str] = []
    for sentence in re.split(r"(?<=[.!?])\s+|\n+", text):
        if current and len(" ".join(current).split()) + len(sentence.split()) > size:
            pieces.append(" ".join(current))
            current = [" ".join(pieces[-1].split()[-overlap:])] if overlap else []
        current.append(sentence)
    return [*pieces, " ".join(current)]


# --- an index of words ---


class WordIndex:
    """SQLite's full-text search, ranked by bm25. Knows word forms (`ferries` finds `ferry`), not synonyms."""

    def __init__(self, chunks: Iterable[Chunk], connection: sqlite3.Connection | None = None) -> None:
        # Steps that are plain functions run in threads of their own; SQLite itself serializes them.
        self._db = connection or sqlite3.connect(":memory:", check_same_thread=False)
        if connection is None:
            weakref.finalize(self, self._db.close)  # Python 3.13 warns of one that nobody closed
        columns = "id UNINDEXED, source UNINDEXED, title, text, tokenize='porter'"
        self._db.execute(f"CREATE VIRTUAL TABLE IF NOT EXISTS chunks USING fts5({columns})")
        self._db.executemany("INSERT INTO chunks VALUES (?, ?, ?, ?)", [(c.id, c.source, c.title, c.text) for c in chunks])
        self._db.commit()

    def search(self, query: str, top: int = 8) -> list[Hit]:
        if not (match := _match_expression(query)):
            return []
        rows = self._db.execute(
            "SELECT id, source, title, text, bm25(chunks, 0, 0, 2, 1) AS rank FROM chunks WHERE chunks MATCH ? ORDER BY rank, id LIMIT ?",
            (match, top),
        )
        return [Hit(Chunk(*row[:4]), -row[4]) for row in rows]


def _match_expression(query: str) -> str:
    """Return an FTS5 expression. Words are quoted, because a question as it stands is a syntax error there."""
    return " OR ".join(f'"{word}"' for word in dict.fromkeys(words_of(query)) if word not in STOP_WORDS)


def words_of(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


# --- an index of vectors ---


@lru_cache(maxsize=50_000)
def _feature(text: str) -> tuple[int, float]:
    """Return the place of a feature and its sign: with signs, features that fall together cancel as often as they add."""
    number = int.from_bytes(blake2b(text.encode(), digest_size=4).digest(), "big")
    return number % DIMENSIONS, 1.0 if number >> 31 else -1.0


def hash_vector(text: str) -> list[float]:
    """Return a text as a vector of length 1: its words and their runs of three letters, hashed to 512 places.

    It stands for an embedding: near are texts that share words or parts of words, so it forgives spelling. It knows no meaning.
    """
    vector = [0.0] * DIMENSIONS
    for word in words_of(text):
        if word in STOP_WORDS:
            continue
        framed = f"<{word}>"
        for feature, weight in [(word, 1.0), *((framed[at : at + 3], 0.4) for at in range(len(framed) - 2))]:
            place, sign = _feature(feature)
            vector[place] += sign * weight
    length = math.sqrt(sum(value * value for value in vector))
    return [value / length for value in vector] if length else vector


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """Return how near two vectors of length 1 are: 1 is the same direction."""
    return sum(a * b for a, b in zip(one, other, strict=True))


class VectorIndex:
    """Nearest vectors, by looking at each: enough for some thousand chunks."""

    def __init__(self, chunks: Iterable[Chunk], vectors: Iterable[Sequence[float]] | None = None) -> None:
        self._chunks = list(chunks)
        self._vectors = [array("f", v) for v in vectors or (hash_vector(f"{c.title} {c.text}") for c in self._chunks)]

    def search(self, query: str, top: int = 8) -> list[Hit]:
        return self.nearest(hash_vector(query), top)

    def nearest(self, vector: Sequence[float], top: int = 8) -> list[Hit]:
        """Search with a vector, as a model's `embed` gives it."""
        hits = [Hit(chunk, cosine(vector, each)) for chunk, each in zip(self._chunks, self._vectors, strict=True)]
        return sorted(hits, key=lambda hit: (-hit.score, hit.chunk.id))[:top]

    @property
    def vectors(self) -> Sequence[array[float]]:
        return self._vectors


# --- both ---


class HybridIndex:
    """Both indexes, fused by rank: a chunk scores 1 / (60 + rank) for each list that it is in (reciprocal rank fusion)."""

    def __init__(self, chunks: Iterable[Chunk]) -> None:
        self.chunks = list(chunks)
        self.words = WordIndex(self.chunks)
        self.vectors = VectorIndex(self.chunks)

    def search(self, query: str, top: int = 8) -> list[Hit]:
        scores: dict[Chunk, float] = {}
        for index in (self.words, self.vectors):
            for rank, hit in enumerate(index.search(query, 3 * top), start=1):
                scores[hit.chunk] = scores.get(hit.chunk, 0.0) + 1 / (60 + rank)
        return [Hit(chunk, score) for chunk, score in sorted(scores.items(), key=lambda item: (-item[1], item[0].id))[:top]]

    def save(self, path: str | Path) -> Path:
        """Write the chunks and their vectors to an SQLite file, in place of what was there."""
        path = Path(path)
        path.unlink(missing_ok=True)
        with closing(sqlite3.connect(path)) as db, db:
            db.execute("CREATE TABLE saved (id TEXT PRIMARY KEY, source TEXT, title TEXT, text TEXT, vector BLOB)")
            rows: list[tuple[Any, ...]] = [
                (c.id, c.source, c.title, c.text, v.tobytes()) for c, v in zip(self.chunks, self.vectors.vectors, strict=True)
            ]
            db.executemany("INSERT INTO saved VALUES (?, ?, ?, ?, ?)", rows)
        return path

    @classmethod
    def load(cls, path: str | Path) -> HybridIndex:
        """Return the index in a file that `save` wrote."""
        with closing(sqlite3.connect(f"{Path(path).resolve().as_uri()}?mode=ro", uri=True)) as db:
            rows = db.execute("SELECT id, source, title, text, vector FROM saved ORDER BY rowid").fetchall()
        index = cls.__new__(cls)
        index.chunks = [Chunk(*row[:4]) for row in rows]
        index.words = WordIndex(index.chunks)
        index.vectors = VectorIndex(index.chunks, [array("f", row[4]) for row in rows])
        return index
