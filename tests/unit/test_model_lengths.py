"""What a frame may make: no longer rows of tokens than the nets have positions for."""

from __future__ import annotations

import pytest

from wellread.model import build_model
from wellread.nn.tokenizers import train_tokenizer
from wellread.reading.batching import CandidateRow, batch_candidates
from wellread.reading.frame import FrameConfig
from wellread.systems import SYSTEMS
from wellread.types import Passage, Question


def built(tiny, name: str, family: str, **lengths: int):
    tokenizer = train_tokenizer(["title context question one two six"] * 3, 100, kind="wordpiece")
    nets = tiny.nets(SYSTEMS[name].built_on, family)
    return build_model(name, {}, nets, tokenizer, frame=FrameConfig(**lengths))


@pytest.mark.parametrize(
    ("name", "lengths", "says"),
    [
        (
            "realm",
            {"question_tokens": 300, "passage_tokens": 213},
            "frame question_tokens=300 and passage_tokens=213, but the encoder of this realm has positions for 512 "
            "tokens in a row; use at most 512 together",
        ),
        (
            "lumen",
            {"passage_tokens": 513},
            "frame passage_tokens=513, but the encoder of this lumen has positions for 512 tokens in a row; use at "
            "most 512[.]$",
        ),
        ("fid", {"question_tokens": 600}, "frame question_tokens=600, but the encoder of this fid"),
        ("glimmer", {"answer_tokens": 513}, "frame answer_tokens=513, but the decoder of this glimmer"),
    ],
)
def test_frames_too_long_for_the_positions_are_refused(tiny, name, lengths, says):
    with pytest.raises(ValueError, match=says):
        built(tiny, name, "bert", **lengths)


@pytest.mark.parametrize(
    ("name", "family", "lengths"),
    [
        ("realm", "bert", {"question_tokens": 300, "passage_tokens": 212}),
        ("fid", "bert", {"question_tokens": 512, "passage_tokens": 512}),
        ("lumen", "bert", {"question_tokens": 512, "passage_tokens": 512}),
        ("reveal", "bert", {"question_tokens": 512, "passage_tokens": 512}),
        ("fid", "t5", {"question_tokens": 600, "passage_tokens": 600}),
        ("retro", "t5", {"question_tokens": 600, "passage_tokens": 600}),
    ],
)
def test_frames_that_fit_can_be_filled(tiny, name, family, lengths):
    model = built(tiny, name, family, **lengths)
    long = "one two six " * 300
    rows = model.frame.passages([Passage("a", long)])
    inputs = model.inputs([Question("", long)])
    assert (inputs.tokens.shape[1], len(rows[0])) == tuple(lengths.values())
    candidates = batch_candidates([[CandidateRow("a", rows[0])]], model.frame.tokenizer.pad)
    if not model.system.continues:  # which reads chunks, whatever the frame
        model.system.eval().read(inputs, candidates)
