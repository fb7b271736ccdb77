"""BM25 against the formula written out, against bm25s, against Lance's full-text search, and on real questions."""

from __future__ import annotations

import gzip
import json
import math
import random
from collections import Counter

import numpy as np
import pytest

from wellread.retrieval import lexical
from wellread.retrieval.lexical import LexicalRetriever, terms_of
from wellread.types import Passage, Probe

WORDS = [f"{a}{b}" for a in ("sol", "lun", "mar", "ter", "ven") for b in ("ok", "im", "ux", "ab", "ed", "or")]


@pytest.fixture(scope="module")
def passages():
    draw = random.Random(5)
    # Word n is drawn with weight 1 / n, as in real text; lengths from 1 to 60.
    weights = [1 / (rank + 1) for rank in range(len(WORDS))]
    return [
        Passage(f"p{n}", " ".join(draw.choices(WORDS, weights, k=draw.randint(1, 60))), title=draw.choice(WORDS))
        for n in range(400)
    ]


@pytest.fixture(scope="module")
def index(passages, tmp_path_factory):
    """Built in three steps with deletions, so that parity covers the merged statistics too."""
    retriever = LexicalRetriever.build(passages[:300], tmp_path_factory.mktemp("bm25") / "index")
    retriever.add([*passages[300:], Passage("gone", " ".join(WORDS * 3))])
    retriever.delete(["gone"])
    return retriever


@pytest.fixture(scope="module")
def probes():
    draw = random.Random(6)
    return [Probe(words=" ".join(draw.choices(WORDS, k=draw.randint(1, 6)))) for _ in range(60)]


def by_the_formula(passages, words, *, k1=0.9, b=0.4):
    """Every passage's score, term by term, in plain Python."""
    counts = [Counter(terms_of([f"{passage.title} {passage.text}"], "english")[0]) for passage in passages]
    lengths = [sum(count.values()) for count in counts]
    mean = sum(lengths) / len(lengths)
    scores = dict.fromkeys((passage.id for passage in passages), 0.0)
    for term in terms_of([words], "english")[0]:
        found_in = sum(term in count for count in counts)
        idf = math.log(1 + (len(passages) - found_in + 0.5) / (found_in + 0.5))
        for passage, count, length in zip(passages, counts, lengths):
            norm = k1 * (1 - b + b * length / mean)
            scores[passage.id] += idf * count[term] / (count[term] + norm)
    return scores


def test_scores_are_those_of_the_formula(index, passages, probes):
    for probe, found in zip(probes[:10], index.search(probes[:10], top_k=len(passages))):
        scores = {name: score for name, score in by_the_formula(passages, probe.words).items() if score > 0}
        assert set(found.ids) == set(scores)
        # float32 sums of at most six terms
        assert found.scores == pytest.approx([scores[name] for name in found.ids], rel=1e-5)
        assert list(found.scores) == sorted(found.scores, reverse=True)


def test_scores_are_those_of_bm25s(index, passages, probes):
    import bm25s

    rival = bm25s.BM25(method="lucene", k1=0.9, b=0.4)
    rival.index(terms_of([f"{passage.title} {passage.text}" for passage in passages], "english"), show_progress=False)
    for probe, found in zip(probes, index.search(probes, top_k=len(passages))):
        scores = rival.get_scores(terms_of([probe.words], "english")[0])
        # bm25s rounds each term's score to float32 before adding, as we do; idf is rounded once more there.
        assert np.sort(scores[scores > 0])[::-1] == pytest.approx(np.array(found.scores), rel=1e-5)


def test_many_probes_at_once_give_exactly_what_few_give(index, probes, monkeypatch):
    copies = [Passage(f"copy{n}", "solok lunim") for n in range(5)]  # equal scores at every cut
    index.add(copies)
    asked = [*probes, Probe(words="solok"), Probe(words="nothing known"), Probe(words="the")]
    expected = [index.search(asked, top_k=top_k) for top_k in (1, 3, 1000)]
    filtered = index.search(asked, top_k=4, where={"source": "text"})
    monkeypatch.setattr(lexical, "BULK", 1)
    monkeypatch.setattr(lexical, "BULK_STEP", 25)
    assert [index.search(asked, top_k=top_k) for top_k in (1, 3, 1000)] == expected
    assert index.search(asked, top_k=4, where={"source": "text"}) == filtered
    index.delete([copy.id for copy in copies])


def load(place, passages, questions):
    def rows(name):
        with gzip.open(place / "qa" / name, "rt", encoding="utf8") as file:
            return [json.loads(line) for line in file]

    items = [Passage(row["id"], row["text"], title=row["title"]) for row in rows(passages)]
    return items, rows(questions)


@pytest.fixture(scope="module")
def squad(shared_data, tmp_path_factory):
    passages, questions = load(shared_data, "squad_passages.jsonl.gz", "squad_dev.jsonl.gz")
    return LexicalRetriever.build(passages, tmp_path_factory.mktemp("squad") / "index"), passages, questions


def share_found(candidates, questions, top_k):
    hits = [bool(set(found.ids[:top_k]) & set(row["positive"])) for found, row in zip(candidates, questions)]
    return sum(hits) / len(hits)


def test_recall_on_real_questions(squad):
    index, _, questions = squad
    asked = questions[::3]
    found = index.search([Probe(words=row["question"]) for row in asked], top_k=20)
    # Measured on all 2,824 questions: .704, .913, .966; 942 of them vary by 1.5 points (one standard error).
    for top_k, recall in ((1, 0.704), (5, 0.913), (20, 0.966)):
        assert share_found(found, asked, top_k) == pytest.approx(recall, abs=0.03)


def test_recall_is_that_of_lance_full_text_search(squad, tmp_path):
    lance = pytest.importorskip("lance")
    import pyarrow as pa

    index, passages, questions = squad
    table = {"id": [item.id for item in passages], "text": [f"{item.title} {item.text}" for item in passages]}
    dataset = lance.write_dataset(pa.table(table), str(tmp_path / "lance"))
    dataset.create_scalar_index("text", "INVERTED", language="English", stem=True, remove_stop_words=True)
    asked = questions[::20]
    ours = index.search([Probe(words=row["question"]) for row in asked], top_k=10)
    theirs = 0
    for row in asked:
        found = dataset.to_table(columns=["id"], full_text_query=row["question"], limit=10)["id"].to_pylist()
        theirs += bool(set(found) & set(row["positive"]))
    # Other k1, b and stop words; on 142 questions two good BM25s differ by a few questions at most.
    assert share_found(ours, asked, 10) == pytest.approx(theirs / len(asked), abs=0.03)
