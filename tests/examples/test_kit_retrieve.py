"""Chunks, indexes and the reading of rules; and that the data of the town is what its tests rely on."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from examples._kit.cli import CORPUS
from examples._kit.reading import Part, all_tagged, best_sentence, content_words, facts_asked, numbers, overlap, sentences, tagged
from examples._kit.retrieve import Chunk, HybridIndex, VectorIndex, WordIndex, cosine, hash_vector, read_folder, split_text
from examples._kit.search import LocalSearch

ROOT = Path(__file__).resolve().parent.parent.parent
HANDBOOK = read_folder(CORPUS / "handbook")

# --- chunks ---


def test_a_file_becomes_a_chunk_for_each_section(tmp_path: Path) -> None:
    (tmp_path / "b.md").write_text("# B\n\n## One\nFirst. Second.\n\n## Empty\n\n## Two\nThird.\n")
    (tmp_path / "a.md").write_text("# A\nLead.\n")
    (tmp_path / "c.txt").write_text("no Markdown")
    assert read_folder(tmp_path) == [
        Chunk("a.md#1", "a.md", "A", "Lead."),
        Chunk("b.md#1", "b.md", "B: One", "First. Second."),
        Chunk("b.md#2", "b.md", "B: Two", "Third."),
    ]
    assert Chunk(**read_folder(tmp_path)[0].as_dict()) == read_folder(tmp_path)[0]


@pytest.mark.parametrize(("size", "overlap"), [(10, 0), (25, 0), (25, 6)])
def test_pieces_are_small_and_lose_nothing(size: int, overlap: int) -> None:
    text = " ".join(f"This is sentence {number} of many." for number in range(20))
    pieces = split_text(text, size=size, overlap=overlap)
    assert all(len(piece.split()) <= size + overlap for piece in pieces)
    assert [int(n) for n in dict.fromkeys(n for piece in pieces for n in re.findall(r"sentence (\d+) of", piece))] == list(range(20))
    if overlap:
        for before, after in pairwise(pieces):
            assert after.split()[:overlap] == before.split()[-overlap:]
    else:
        assert " ".join(pieces) == text


# --- indexes ---


@pytest.mark.parametrize("kind", [WordIndex, VectorIndex, HybridIndex])
@pytest.mark.parametrize(
    ("question", "source"),
    [
        ("Who built the lighthouse's machinery?", "lighthouse.md"),
        ("What does a berth in the harbour cost?", "harbour.md"),
        ("When was the communal bakery opened?", "bakery.md"),
    ],
)
def test_each_index_finds_the_file_that_knows(kind: type[HybridIndex], question: str, source: str) -> None:
    assert source in [hit.chunk.source for hit in kind(HANDBOOK).search(question, 3)]


def test_the_best_hit_is_first_and_all_orders_are_the_same_every_time() -> None:
    for kind in (WordIndex, VectorIndex, HybridIndex):
        hits = kind(HANDBOOK).search("herring market stall", 10)
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        assert hits == kind(list(reversed(HANDBOOK))).search("herring market stall", 10)


@pytest.mark.parametrize("query", ['what is "this?', "a AND OR NOT", "col:umn* ^x", "the of and", "", "'; DROP TABLE chunks; --"])
def test_no_question_is_a_syntax_error(query: str) -> None:
    WordIndex(HANDBOOK).search(query)


def test_words_are_found_in_all_their_forms_and_near_spellings_by_vectors() -> None:
    assert WordIndex(HANDBOOK).search("ferries", 1)[0].chunk.source == "ferry.md"
    rows = [Chunk(str(n), "", "", name) for n, name in enumerate(["M.V. Marrow-Bell", "Quiet Otter", "S.T. Hindmost", "Penny Gale"])]
    assert VectorIndex(rows).search("Marrowbell", 1)[0].chunk.text == "M.V. Marrow-Bell"


def test_vectors_have_length_one_and_are_the_same_in_every_process() -> None:
    vector = hash_vector("The lamp of the lighthouse")
    assert cosine(vector, vector) == pytest.approx(1)
    assert hash_vector("") == [0.0] * 512
    script = "from examples._kit.retrieve import hash_vector; print(hash_vector('The lamp of the lighthouse'))"
    seeds = [{**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)} for seed in ("1", "2")]
    for seed in seeds:
        assert (
            json.loads(subprocess.run([sys.executable, "-c", script], env=seed, capture_output=True, check=True, cwd=ROOT).stdout) == vector
        )


def test_an_index_is_saved_and_loaded(tmp_path: Path) -> None:
    index = HybridIndex(HANDBOOK)
    path = index.save(tmp_path / "index.db")
    assert index.save(path) == path  # a second time, in place of the first
    loaded = HybridIndex.load(path)
    assert loaded.chunks == HANDBOOK
    assert loaded.search("Who keeps the keys?", 5) == index.search("Who keeps the keys?", 5)


async def test_the_local_web_keeps_what_it_was_asked() -> None:
    search = LocalSearch(CORPUS / "web", pause=0)
    [page, *_] = await search.search("brass band contest", top=3)
    assert page.title == "Brass bands at Ostermoor"
    assert page.url.endswith("/brass-band-contest")
    assert search.queries == ["brass band contest"]


# --- what rules read with ---


def test_tagged_parts_are_read_with_their_attributes() -> None:
    prompt = '<source id="1" title="A: b">\none\n</source> <source id="2">two</source> <question>what?</question>'
    assert all_tagged(prompt, "source") == [Part("one", {"id": "1", "title": "A: b"}), Part("two", {"id": "2"})]
    assert (tagged(prompt, "question"), tagged(prompt, "nothing")) == ("what?", "")


def test_sentences_numbers_and_words() -> None:
    assert sentences("# Title\nOne here. Two, No. 5 there!\n\n| --- | ---: |\n| a | 4 |") == ["One here.", "Two, No. 5 there!", "| a | 4 |"]
    assert numbers("1,385,150 marks, 4.6 metres, -3 and 2019.") == [1385150, 4.6, -3, 2019]
    assert content_words("Who founded the keeper's prices?") == content_words("the founder keeps cost")
    assert facts_asked("When was it built, and who built it?") == ["When was it built", "who built it?"]
    assert overlap("old mill", "the mill is old") == 1
    assert overlap("old mill", "a heron") == 0


def test_the_best_sentence_fits_the_kind_of_question() -> None:
    text = "The mill is loud. The mill burned down in 1802. The mill was owned by Orla Pym."
    assert best_sentence("When did the mill burn down?", [text]) == ("The mill burned down in 1802.", 0)
    assert best_sentence("Who owned the mill?", ["The heron is grey.", text]) == ("The mill was owned by Orla Pym.", 1)
    assert best_sentence("How heavy is the moon?", [text]) is None


# --- the data ---


def test_a_year_is_missing_from_the_budgets_and_the_others_add_up() -> None:
    files = sorted((CORPUS / "budgets").glob("*.md"))
    assert [path.stem for path in files] == ["2016", "2017", "2018", "2019", "2021", "2022", "2023"]
    for path in files:
        rows = {
            name: int(value.replace(",", "")) for name, value in re.findall(r"^\| (\w+) \| ([\d,]+) \|$", path.read_text(), re.MULTILINE)
        }
        total = rows.pop("Total")
        assert sum(rows.values()) == total
        assert f"Total spending of Karrow in {path.stem} was {total:,} marks." in path.read_text()


def test_the_web_knows_what_the_handbook_does_not() -> None:
    handbook = " ".join(chunk.text for chunk in HANDBOOK)
    for name in ("Wenzel Aurich", "Ilvane", "Ilse Morant", "Henrike Paal", "Sunniva Brock"):
        assert name not in handbook
        assert name in " ".join(chunk.text for chunk in read_folder(CORPUS / "web"))
