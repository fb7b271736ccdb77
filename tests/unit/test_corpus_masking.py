"""Masked questions: the answer is gone from the question, and what is drawn depends on the passage alone."""

from __future__ import annotations

import re

import pytest

from wellread.corpus import Corpus, read_questions
from wellread.corpus.masking import MaskingReport, masked_questions
from wellread.corpus.salient import Span
from wellread.corpus.writing import write_questions
from wellread.types import Passage, Question

PASSAGES = [
    Passage(f"p{number}", text)
    for number, text in enumerate(
        [
            "The moon Io has four hundred volcanoes. It was found in January 1610 by Galileo Galilei.",
            "A telescope in Chile watched the planet Mars. In 1877 Giovanni Schiaparelli drew lines on Mars.",
            "Rings of ice lie around Saturn, as Christiaan Huygens wrote in 1655. There is nothing more to say here.",
            "it has no names in it at all and goes on for quite some time",
            "The planet Venus turns backwards. A probe named Venera 7 landed on 15 December 1970 and sent data.",
        ]
    )
]


def words(text):
    return " " + " ".join(re.findall(r"\w+", text.casefold())) + " "


def rows(questions):
    return {question.id: (question.text, question.answers) for question in questions}


def make(passages=PASSAGES, **options):
    return list(masked_questions(passages, **{"finder": "rules", **options}))


@pytest.mark.parametrize("finder", ["rules", "random-spans", "random-tokens"])
@pytest.mark.parametrize("seed", range(5))
def test_the_answer_is_masked_and_stands_nowhere_else(finder, seed):
    questions = make(finder=finder, per_passage=5, seed=seed)
    texts = {passage.id: " ".join(passage.text.split()) for passage in PASSAGES}
    assert len(questions) >= 4
    for question in questions:
        (answer,), (positive,) = question.answers, question.positive
        assert "[MASK]" in question.text
        assert words(answer) not in words(question.text.replace("[MASK]", " | "))
        assert question.text.replace("[MASK]", answer).casefold() in texts[positive].casefold()
        assert question.task == "masked"


def test_one_of_every_passage_that_has_something_to_mask():
    report = MaskingReport()
    questions = make(report=report)
    assert sorted(question.positive[0] for question in questions) == ["p0", "p1", "p2", "p4"]
    assert (report.passages, report.skipped, report.questions) == (5, 1, 4)


def test_what_is_drawn_depends_on_seed_and_passage_alone():
    whole = rows(make(per_passage=2))
    assert rows(make(PASSAGES[::-1], per_passage=2)) == whole
    alone = [rows(make([passage], per_passage=2)) for passage in PASSAGES if passage.id != "p3"]
    assert {name: row for one in alone for name, row in one.items()} == whole
    assert list(rows(make(PASSAGES[::-1]))) == list(rows(make()))  # in the same order, too
    assert any(rows(make(per_passage=2, seed=seed)) != whole for seed in (1, 2))


def test_the_limit_is_met_by_passages_from_all_over_or_by_more_of_each():
    many = [Passage(f"n{number}", f"In the year {1500 + number} the town of Praha was sold.") for number in range(400)]
    some = make(many, limit=40)
    assert len(some) == 40
    places = sorted(int(question.positive[0][1:]) for question in some)
    assert places[0] < 60
    assert places[-1] > 340
    assert rows(make(many[::-1], limit=40)) == rows(some)
    assert set(rows(some)) <= set(rows(make(many, limit=80)))
    assert len(make(PASSAGES, limit=6)) == 6
    assert len(make(PASSAGES, limit=6, per_passage=1)) == 4
    assert len(make(PASSAGES, limit=1)) == 1
    assert len(make(PASSAGES, limit=99)) == len(make(PASSAGES, per_passage=99)) == 6


def test_what_is_masked_is_masked_everywhere():
    text = "The city of Rome, says Rome's mayor, is older than ROME, New York."
    questions = [make([Passage("a", text)], seed=seed)[0] for seed in range(20)]
    masked = {question.answers[0]: question.text for question in questions}
    assert masked["Rome"] == "The city of [MASK], says [MASK]'s mayor, is older than [MASK], New York."


class Fixed:
    """A finder that always finds the given words."""

    name = "fixed"

    def __init__(self, *wanted):
        self.wanted = wanted

    def find(self, sentences):
        return [[Span(s.index(w), s.index(w) + len(w), "X") for w in self.wanted if w in s] for s in sentences]


def test_answers_that_would_still_be_told_are_not_asked_for():
    text = "Members of AC/DC met a fan of AC-DC in old Sydney."
    assert make([Passage("a", text)], finder=Fixed("AC/DC", "Sydney"), seed=3)[0].answers == ("Sydney",)
    with pytest.raises(ValueError, match="nothing to mask was found in 1 passages"):
        make([Passage("a", text)], finder=Fixed("AC/DC"))
    with pytest.raises(ValueError, match="nothing to mask"):  # hardly anything would be left
        make([Passage("a", text)], finder=Fixed("Members of AC/DC met a fan of AC-DC in"))
    with pytest.raises(ValueError, match="nothing to mask"):  # no word at all
        make([Passage("a", "A dash - is what stands in here.")], finder=Fixed("-"))
    with pytest.raises(ValueError, match="nothing to mask"):  # a sentence about masks
        make([Passage("a", "The token [MASK] of Bert hides a word.")], finder=Fixed("Bert"))


def test_whole_sentences_are_preferred_and_long_ones_left_out():
    broken = "and ended in Rome in the year 1870. The town of Praha lies on the Vltava. After that, in the city of"
    for seed in range(5):
        (question,) = make([Passage("a", broken)], seed=seed)
        assert question.text.startswith("The ")
    (question,) = make([Passage("a", "and so it ended in Rome without any")])
    assert question.answers == ("Rome",)
    with pytest.raises(ValueError, match="nothing to mask"):
        make([Passage("a", broken)], most_words=6)


def test_hidden_passages_are_named_and_no_positives():
    (question,) = make(PASSAGES[:1], hide_own=True)
    assert question.positive == ()
    assert question.metadata["hidden"] == ["p0"]
    assert "hidden" not in make(PASSAGES[:1])[0].metadata


def test_other_masks():
    (question,) = make(PASSAGES[:1], mask="<extra_id_0>")
    assert "<extra_id_0>" in question.text
    assert "[MASK]" not in question.text


def test_a_corpus_gives_what_its_passages_give(tmp_path):
    corpus = Corpus.write(PASSAGES, tmp_path / "corpus")
    assert rows(masked_questions(corpus, finder="rules", per_passage=2)) == rows(make(per_passage=2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0}, r"limit=0; it must be at least 1, or None\."),
        ({"per_passage": 0}, r"per_passage=0; it must be at least 1, or None\."),
        ({"most_words": 5}, r"most_words=5; it must be at least 6"),
        ({"mask": " "}, r"mask=' ' is empty; give the mask of the tokenizer"),
        ({"finder": "spaci"}, r"finder='spaci' is unknown"),
    ],
)
def test_mistakes_are_told_before_the_first_question(options, message):
    with pytest.raises(ValueError, match=message):
        masked_questions(PASSAGES, **options)


# -- the file --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["q.jsonl", "q.jsonl.gz", "q.jsonl.zst"])
def test_a_file_is_read_back_as_it_was(tmp_path, name):
    questions = make(hide_own=True, per_passage=2)
    assert write_questions(tmp_path / "new" / name, questions) == len(questions)
    assert read_questions(tmp_path / "new" / name) == questions
    first = (tmp_path / "new" / name).read_bytes()
    write_questions(tmp_path / "new" / name, questions, overwrite=True)
    assert (tmp_path / "new" / name).read_bytes() == first
    assert [file.name for file in (tmp_path / "new").iterdir()] == [name]


def test_what_cannot_be_written(tmp_path):
    (tmp_path / "d.jsonl").mkdir()
    (tmp_path / "e.jsonl").write_text("old", encoding="utf8")

    def never():
        pytest.fail("a question was asked for")
        yield

    with pytest.raises(ValueError, match=r"q\.csv must end in one of: \.jsonl, \.jsonl\.gz, \.jsonl\.zst\."):
        write_questions(tmp_path / "q.csv", never())
    with pytest.raises(ValueError, match=r"d\.jsonl is a folder; give the name of a file\."):
        write_questions(tmp_path / "d.jsonl", never())
    with pytest.raises(ValueError, match=r"e\.jsonl exists; give a new file, or --overwrite"):
        write_questions(tmp_path / "e.jsonl", never())


def test_a_failure_leaves_the_old_file(tmp_path):
    def fails():
        yield Question("a", "Which?")
        raise ValueError("nothing more")

    (tmp_path / "e.jsonl").write_text("old", encoding="utf8")
    with pytest.raises(ValueError, match="nothing more"):
        write_questions(tmp_path / "e.jsonl", fails(), overwrite=True)
    assert [(file.name, file.read_text(encoding="utf8")) for file in tmp_path.iterdir()] == [("e.jsonl", "old")]


# -- one mask per token ------------------------------------------------------------------------------------------


def letters(text: str) -> int:
    """A tokenizer that takes every fourth letter for a new token."""
    return -(-len(text.replace(" ", "")) // 4)


def test_an_answer_gets_as_many_masks_as_it_has_tokens():
    questions = make(per_passage=5, tokens=letters)
    assert questions
    for question in questions:
        assert question.text.count("[MASK]") == letters(question.answers[0])
        assert "[MASK]" not in question.words


def test_with_tokens_what_stands_twice_is_not_asked_for():
    twice = [Passage("p", "The planet Mars was seen by nobody before Mars was named after a god.")]
    assert make(twice)[0].text.count("[MASK]") == 2
    with pytest.raises(ValueError, match="nothing to mask was found in 1 passages"):
        make(twice, tokens=letters)


def test_a_share_of_all_words_is_masked_in_order():
    questions = make(finder="random-tokens", per_passage=5, tokens=letters, share=0.15)
    texts = {passage.id: passage.text for passage in PASSAGES}
    several = 0
    for question in questions:
        pieces = re.split(r"(?:\[MASK\] ?)+", question.text)
        answers = question.answers[0].split()
        several += len(answers) > 1
        assert question.text.count("[MASK]") == sum(map(letters, answers))
        assert 1 <= len(answers) <= 4
        assert all(piece.strip() in texts[question.positive[0]] for piece in pieces)
    assert several


@pytest.mark.parametrize("finder", ["random-spans", "random-tokens"])
def test_a_share_of_the_words_is_no_more_of_them_in_long_spans(finder):
    sentence = " ".join(f"word{number}" for number in range(40)) + "."
    passages = [Passage(f"p{number}", f"N{number} {sentence}") for number in range(40)]
    questions = make(passages, finder=finder, tokens=lambda text: text.count(" ") + 1, share=0.15, most_words=60)
    masked = [len(question.answers[0].split()) for question in questions]
    assert len(masked) == 40
    assert max(masked) == 6  # of 41 words
    assert sum(masked) / 40 > 5.5  # spans that fit are found nearly always


def test_of_names_at_least_one_is_masked_however_long():
    text = "The man was called Johann Sebastian Bach by all of his many friends."
    (question,) = make([Passage("p", text)], finder=Fixed("Johann Sebastian Bach"), tokens=letters, share=0.1)
    assert question.answers == ("Johann Sebastian Bach",)


def test_long_sentences_are_left_out_by_their_tokens():
    every = {question.id: question for question in make(tokens=letters, per_passage=5)}
    short = {question.id for question in make(tokens=letters, per_passage=5, most_tokens=12)}
    assert 0 < len(short) < len(every)
    for name, question in every.items():
        sentence = re.sub(r"\[MASK\]( \[MASK\])*", question.answers[0], question.text)
        assert (letters(sentence) <= 12) == (name in short)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"share": 0.15}, r"share=0.15; it must be above 0, at most 1, and needs a tokenizer"),
        ({"share": 0.0, "tokens": letters}, r"share=0.0; it must be above 0, at most 1"),
        ({"most_tokens": 9}, "most_tokens=9 needs a tokenizer"),
    ],
)
def test_options_that_need_a_tokenizer(options, says):
    with pytest.raises(ValueError, match=says):
        make(**options)
