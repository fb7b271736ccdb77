"""Salient spans: sentences cut right, names and dates found by rules, and by the model where it is installed."""

from __future__ import annotations

import sys

import pytest

from wellread.corpus.salient import (
    SPAN_FINDERS,
    RuleFinder,
    Span,
    drawn,
    missing_packages,
    sentence_spans,
    span_finder,
)

needs_spacy = pytest.mark.skipif(bool(missing_packages()), reason="needs the extra entities (spaCy and its model)")

# Sentences as encyclopedias have them, and all that a reader would call a name, a date, a title or a quantity.
SENTENCES = {
    "In 1912 the Polish physicist Marie Curie visited the United Kingdom.": [
        ("1912", "DATE"),
        ("Polish", "NAME"),
        ("Marie Curie", "NAME"),
        ("United Kingdom", "NAME"),
    ],
    "It was founded on 5 November 1688 by William III of Orange.": [
        ("5 November 1688", "DATE"),
        ("William III of Orange", "NAME"),
    ],
    "On May 24, 1626, Peter Minuit bought the island for 60 guilders.": [
        ("May 24, 1626", "DATE"),
        ("Peter Minuit", "NAME"),
    ],
    'Walt Disney\'s "Flowers and Trees" cost $1.5 million.': [
        ("Walt Disney", "NAME"),
        ("Flowers and Trees", "TITLE"),
        ("$1.5 million", "QUANTITY"),
    ],
    "The summit, at 8,849 m, was reached in the early 20th century.": [
        ("8,849 m", "QUANTITY"),
        ("early 20th century", "DATE"),
    ],
    "The war lasted from 1914–1918 and killed 9 million soldiers.": [
        ("1914–1918", "DATE"),
        ("9 million", "QUANTITY"),
    ],
    "She studied under J. R. R. Tolkien at the University of Oxford until the 1950s.": [
        ("J. R. R. Tolkien", "NAME"),
        ("University of Oxford", "NAME"),
        ("1950s", "DATE"),
    ],
    "Agassi's US Open title came before he met Mrs. Charles de Gaulle.": [
        ("US Open", "NAME"),
        ("Mrs. Charles de Gaulle", "NAME"),
    ],
    "However, the latter ruled Egypt until 1344 BC, says O'Connor.": [
        ("Egypt", "NAME"),
        ("1344 BC", "DATE"),
        ("O'Connor", "NAME"),
    ],
    "About 41.5% of the land in Łódź belongs to the EU.": [
        ("41.5%", "QUANTITY"),
        ("Łódź", "NAME"),
        ("EU", "NAME"),
    ],
    "Scientists say that I should read more, and so may you.": [],
    "We met on a Tuesday, when nobody was there.": [],
}


def texts(sentence, spans):
    return [(sentence[span.start : span.end], span.kind) for span in spans]


@pytest.mark.parametrize("sentence", SENTENCES)
def test_rules_find_names_dates_titles_and_quantities(sentence):
    (found,) = RuleFinder().find([sentence])
    assert texts(sentence, found) == SENTENCES[sentence]


def test_a_capital_at_the_start_of_a_sentence_is_no_name():
    (found,) = RuleFinder().find(["Volcanoes on Io throw sulphur up to 500 km high."])
    assert [span.kind for span in found] == ["NAME", "QUANTITY"]
    assert texts("Volcanoes on Io throw sulphur up to 500 km high.", found)[0] == ("Io", "NAME")


def cut(text):
    return [text[start:end] for start, end in sentence_spans(text)]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One is here. Two is there!", ["One is here.", "Two is there!"]),
        ("He met Dr. Smith, i.e. John. Then he left.", ["He met Dr. Smith, i.e. John.", "Then he left."]),
        ("He lived in the U.S. He died in St. Louis.", ["He lived in the U.S.", "He died in St. Louis."]),
        ("The U.S. Army came. J. R. Smith led it.", ["The U.S. Army came.", "J. R. Smith led it."]),
        ('She said "Go." Then she went (alone.) Fine.', ['She said "Go."', "Then she went (alone.)", "Fine."]),
        ("It rose by 3.5 percent, see No. 7 of p. 12.", ["It rose by 3.5 percent, see No. 7 of p. 12."]),
        ("He said no. Then he left.", ["He said no.", "Then he left."]),
        ("History\nThe town is old.", ["History", "The town is old."]),
        ("x" * 59 + " long\nline goes on. End.", ["x" * 59 + " long\nline goes on.", "End."]),
        ("x" * 59 + " long\n\nThe next one.", ["x" * 59 + " long", "The next one."]),
        ("東京は大きい。大阪も大きい。", ["東京は大きい。", "大阪も大きい。"]),
        ("no end at all", ["no end at all"]),
        (" \n ", []),
    ],
)
def test_sentences(text, sentences):
    assert cut(text) == sentences


def test_sentences_leave_nothing_out_but_space():
    text = "  A one.  B two?\n\nC three… D\n"
    assert "".join("".join(cut(text)).split()) == "".join(text.split())


def test_random_words_and_runs():
    sentence = "The moon Io has four hundred volcanoes, and rock-hard ice."
    (words,) = SPAN_FINDERS["random-tokens"]().find([sentence])
    assert [sentence[span.start : span.end] for span in words][-2:] == ["rock-hard", "ice"]
    (runs,) = SPAN_FINDERS["random-spans"]().find([sentence])
    assert [run.start for run in runs] == [word.start for word in words]
    assert {run.end for run in runs} <= {word.end for word in words}
    assert all(run.end >= word.end for run, word in zip(runs, words))
    assert SPAN_FINDERS["random-spans"]().find([sentence, sentence]) == [runs, runs]


def test_runs_are_about_as_long_as_spanbert_draws_them():
    """Geometric with p = 0.2, cut at ten words: mean 4.46; 2,000 draws have a standard error of 0.07."""
    words = [f"w{number}" for number in range(2010)]
    (runs,) = SPAN_FINDERS["random-spans"]().find([" ".join(words)])
    lengths = [" ".join(words)[run.start : run.end].count(" ") + 1 for run in runs[:2000]]
    assert max(lengths) == 10
    assert sum(lengths) / len(lengths) == pytest.approx(4.46, abs=0.28)  # four standard errors


def test_drawing_is_the_same_everywhere():
    assert drawn("passage", 0, "a") == drawn("passage", 0, "a")
    assert drawn("passage", 0, "a") != drawn("passage", 1, "a")
    assert drawn("span", 7, "jupiter") == pytest.approx(0.5, abs=0.5)
    numbers = [drawn(number) for number in range(1000)]
    assert sum(numbers) / 1000 == pytest.approx(0.5, abs=0.04)  # four standard errors of a mean of 1,000


def test_finders_by_name(monkeypatch):
    assert span_finder("rules").name == "rules"
    own = RuleFinder()
    assert span_finder(own) is own
    assert span_finder().name == ("rules" if missing_packages() else "spacy")
    monkeypatch.setattr("wellread.corpus.salient.missing_packages", lambda: ["spacy"])
    assert span_finder().name == "rules"
    with pytest.raises(ValueError, match=r"needs packages that are missing \(spacy\).*\.\[entities\]"):
        span_finder("spacy")
    with pytest.raises(ValueError, match=r"finder='bert' is unknown; use one of: auto, spacy, rules, random-spans"):
        span_finder("bert")


@needs_spacy
def test_the_model_finds_entities_without_articles_and_bare_numbers():
    sentence = "In 1912 the second wife of Marie Curie's brother moved to the United Kingdom today with two cats."
    (found,) = span_finder("spacy").find([sentence])
    assert texts(sentence, found) == [("1912", "DATE"), ("Marie Curie", "PERSON"), ("United Kingdom", "GPE")]


@needs_spacy
def test_rules_agree_with_the_model(shared_data):
    """Of the spans of either, four in five touch one of the other; 0.87 and 0.94 on 500 sentences."""
    from wellread.corpus import read_documents
    from wellread.corpus.documents import Document

    rows = read_documents(shared_data / "qa" / "nq_gold_passages.jsonl.gz")
    passages = [item for item in rows if isinstance(item, Document)][::12]
    sentences = [sentence for item in passages[:100] for sentence in cut(item.text) if 6 <= len(sentence.split()) <= 40]
    by_model, by_rules = (span_finder(name).find(sentences[:120]) for name in ("spacy", "rules"))
    assert touched(by_model, by_rules) > 0.8
    assert touched(by_rules, by_model) > 0.75


def touched(ours: list[list[Span]], others: list[list[Span]]) -> float:
    """The share of our spans that overlap one of the others."""
    hits = [
        any(span.start < other.end and other.start < span.end for other in theirs)
        for mine, theirs in zip(ours, others)
        for span in mine
    ]
    assert len(hits) > 100
    return sum(hits) / len(hits)


def test_nothing_heavy_is_imported_for_rules():
    import subprocess

    code = "import sys; from wellread.corpus.salient import RuleFinder; RuleFinder().find(['In Rome.']); "
    code += "assert not {'spacy', 'torch', 'numpy'} & set(sys.modules), sorted(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
