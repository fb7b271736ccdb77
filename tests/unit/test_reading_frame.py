"""Templates, budgets and padding."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from wellread.nn.tokenizers import ByteTokenizer, Tokenizer, train_tokenizer
from wellread.reading.frame import Frame, FrameConfig, pad_rows
from wellread.types import Passage

TEXTS = ["question: what is the moon? title: Moon context: The moon is far and old; {braces} too."] * 3


@pytest.fixture(scope="module", params=["unigram", "wordpiece"])
def tokenizer(request) -> Tokenizer:
    return train_tokenizer(TEXTS, 120, kind=request.param)


@pytest.fixture(scope="module")
def t5() -> Tokenizer:
    return train_tokenizer(TEXTS, 120, kind="unigram")


def plain(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text)


def test_questions_and_passages_of_a_t5_make_one_input(t5):
    frame = Frame(FrameConfig(), t5)
    asked = frame.questions(["what is the moon?"])
    assert asked.tokens[0].tolist() == plain(t5, "question: what is the moon?")
    rows = frame.passages([Passage("p", "The moon is far.", title="Moon")])
    assert rows == [[*plain(t5, "title: Moon context: The moon is far."), t5.end]]


def test_both_segments_of_a_bert_are_wrapped():
    bert = train_tokenizer(TEXTS, 120, kind="wordpiece")
    frame = Frame(FrameConfig(question="{question}", passage="{title} {text}"), bert)
    assert frame.questions(["the moon"]).tokens[0].tolist() == [bert.cls, *plain(bert, "the moon"), bert.sep]
    rows = frame.passages([Passage("p", "is far", title="Moon")])
    assert rows == [[bert.cls, *plain(bert, "Moon is far"), bert.sep]]


def test_questions_of_which_not_all_is_read_are_told(tokenizer):
    frame = Frame(FrameConfig(question="{question}", question_tokens=6), tokenizer)
    long, short = "moon " * 20, "moon"
    tokens = len(plain(tokenizer, long)) + (0 if tokenizer.cls is None else 2)
    assert frame.left_out([short, short]) is None
    assert frame.left_out([long]) == f"the question has {tokens} tokens; the first 6 are read"
    assert frame.left_out([long, short]) == "1 of the 2 questions have more than 6 tokens; the first 6 are read"
    whole = Frame(replace(frame.config, question_tokens=tokens), tokenizer)
    assert whole.left_out([long]) is None
    assert whole.questions([long]).mask.sum() == tokens


def test_questions_are_padded_to_the_longest(tokenizer):
    frame = Frame(FrameConfig(), tokenizer)
    one, other = "what is the moon?", "the moon"
    both = frame.questions([one, other])
    for row, text in enumerate((one, other)):
        alone = frame.questions([text])
        assert alone.mask.all()
        assert both.tokens[row][both.mask[row]].tolist() == alone.tokens[0].tolist()
    assert both.mask[0].all()
    assert not both.mask[1, -1]
    assert (both.tokens[~both.mask] == tokenizer.pad).all()
    assert both.tokens.dtype == torch.int64
    assert both.mask.dtype == torch.bool


def test_budgets_cut_the_end_and_count_special_tokens(tokenizer):
    frame = Frame(FrameConfig(question_tokens=8, passage_tokens=10, answer_tokens=4), tokenizer)
    long = "the moon is far and old " * 9
    asked, [read] = frame.questions([long]), frame.passages([Passage("p", long)])
    target, mask = frame.targets([long])
    assert asked.tokens.shape == (1, 8)
    assert len(read) == 10
    assert target.shape == (1, 4)
    assert mask.all()
    assert read[-1] == tokenizer.end
    assert target[0, -1] == tokenizer.end
    inner = slice(1, 7) if tokenizer.cls is not None else slice(0, 8)
    assert asked.tokens[0, inner].tolist() == plain(tokenizer, f"question: {long}")[: inner.stop - inner.start]
    assert target[0, :3].tolist() == plain(tokenizer, long)[:3]


def test_a_text_that_fits_exactly_is_not_cut(t5):
    words = plain(t5, "title:  context: the moon")
    passage = [Passage("p", "the moon")]
    for budget, kept in ((len(words) + 1, words), (len(words), words[:-1])):
        assert Frame(FrameConfig(passage_tokens=budget), t5).passages(passage) == [[*kept, t5.end]]


def test_targets_end_with_the_end_token(tokenizer):
    target, mask = Frame(FrameConfig(), tokenizer).targets(["the moon", ""])
    assert target[0][mask[0]].tolist() == [*plain(tokenizer, "the moon"), tokenizer.end]
    assert target[1][mask[1]].tolist() == [tokenizer.end]
    assert (target[~mask] == tokenizer.pad).all()


def test_braces_in_texts_are_no_templates(t5):
    frame = Frame(FrameConfig(question="{{q}} {question}"), t5)
    assert frame.questions(["{braces} {0}"]).tokens[0].tolist() == plain(t5, "{q} {braces} {0}")
    assert frame.passages([Passage("p", "{title}", title="}{")])[0][:-1] == plain(t5, "title: }{ context: {title}")


def test_generated_tokens_become_text_without_specials(tokenizer):
    frame = Frame(FrameConfig(), tokenizer)
    row = [*plain(tokenizer, "the moon"), tokenizer.end, tokenizer.pad, tokenizer.pad]
    assert frame.text(row) == "the moon"
    assert frame.text(torch.tensor(row)) == "the moon"
    assert frame.text([tokenizer.pad]) == ""


def test_bytes_are_tokens_too():
    frame = Frame(FrameConfig(question_tokens=13), ByteTokenizer())
    asked = frame.questions(["né"])  # cut in the middle of é
    assert asked.tokens.shape == (1, 12 + 1)
    assert frame.targets(["é"])[0].tolist() == [[0xC3 + 3, 0xA9 + 3, 1]]


def test_nothing_gives_nothing(tokenizer):
    frame = Frame(FrameConfig(), tokenizer)
    assert frame.passages([]) == []
    assert frame.questions([]).tokens.shape == (0, 1)


def test_the_fingerprint_is_of_what_changes_passages(t5):
    config = FrameConfig()
    same = [replace(config, question="{question}"), replace(config, question_tokens=9, answer_tokens=9)]
    other = [replace(config, passage="{text}"), replace(config, passage_tokens=207)]
    prints = [Frame(each, t5).fingerprint for each in (config, *same, *other)]
    assert prints[0] == prints[1] == prints[2]
    assert len(set(prints)) == 3


def test_rows_are_padded_on_the_right():
    tokens, mask = pad_rows([[5, 6], np.array([7], dtype=np.int32), []], pad=9)
    assert tokens.tolist() == [[5, 6], [7, 9], [9, 9]]
    assert mask.tolist() == [[True, True], [True, False], [False, False]]
    assert tokens.dtype == torch.int64
    assert pad_rows([[]], pad=9)[0].tolist() == [[9]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"question": "question:"}, r"frame question='question:' lacks \{question\}; the template must hold it"),
        ({"question": "{{question}}"}, r"frame question='\{\{question\}\}' lacks \{question\}"),
        ({"passage": "{title}"}, r"frame passage='\{title\}' lacks \{text\}; the template must hold it"),
        ({"passage": "{titel} {text}"}, r"has \{titel\}; it may hold \{text\} and \{title\} only"),
        ({"question": "{question} {}"}, r"has \{\}; it may hold \{question\} only"),
        ({"passage": "{text"}, r"frame passage='\{text': expected '\}' .*; write \{\{ or \}\} for a brace"),
        ({"question_tokens": 3}, r"frame question_tokens=3; it must be at least 4"),
        ({"passage_tokens": 0}, r"frame passage_tokens=0; it must be at least 4"),
        ({"answer_tokens": -1}, r"frame answer_tokens=-1; it must be at least 4"),
    ],
)
def test_bad_frames_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FrameConfig(**options)


def test_a_passage_needs_no_title_in_its_template(t5):
    rows = Frame(FrameConfig(passage="{text}"), t5).passages([Passage("p", "the moon", title="Moon")])
    assert rows == [[*plain(t5, "the moon"), t5.end]]
