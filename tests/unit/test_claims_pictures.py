"""What a claim asks of a reader that sees: it searches with the picture, in the sources it may, and reads with it."""

from __future__ import annotations

import pytest
import torch

from wellread.claims.measure import ask_all
from wellread.claims.searching import SearchPlaces, search_all
from wellread.corpus.store import Corpus
from wellread.model import Model, build_model
from wellread.nn.building import build_from_scratch
from wellread.reading.frame import FrameConfig
from wellread.types import Passage, Question

ENTRIES = [
    Passage(f"p{n}", f"thing {n} is here", "Thing", {"picture": f"img{n}"}, ("facts", "captions")[n % 2])
    for n in range(8)
]
QUESTIONS = [
    Question(f"q{n}", "what is it", (f"thing {n}",), (f"p{n}",), metadata={"image": f"ask{n}", "hidden": ["p7"]})
    for n in range(5)
]
OPTIONS = {"sources": ("facts", "captions"), "picture_dim": 6, "patches": 4, "patch_width": 2, "key_dim": 8}


class Pictures:
    """Features that follow from the picture's name."""

    fingerprint, patches, groups = "a net", 4, (6,)

    def features(self, names):
        seeds = [int.from_bytes(name.encode(), "little") % 2**31 for name in names]
        rows = [torch.randn(4, 6, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return torch.stack(rows), torch.ones(len(names), 4, dtype=torch.bool)


@pytest.fixture
def model() -> Model:
    texts = [f"{entry.title} {entry.text}" for entry in ENTRIES] * 3
    sizes = {"vocab_size": 120, "dim": 16, "layers": 3, "heads": 2, "decoder_layers": 1, "family": "bert"}
    made = build_model("reveal", OPTIONS, *build_from_scratch(texts, **sizes), frame=FrameConfig(answer_tokens=6))
    torch.nn.init.normal_(made.system.gate.weight, std=3.0, generator=torch.Generator().manual_seed(0))
    made.system.eval()
    return made.with_pictures(Pictures())


@pytest.fixture
def places(tmp_path) -> SearchPlaces:
    return SearchPlaces(Corpus.write(ENTRIES, tmp_path / "corpus"), tmp_path / "own", tmp_path)


def best(model, question, entries, top_k):
    """By brute force over what each entry is remembered as."""
    with torch.no_grad():
        probes = model.system.seek(model.inputs([question]))[0]
    keys = {each.id: each_kept.keys for each, each_kept in zip(entries, model.encode(entries))}
    scores = {each.id: float(probes[model.system.source_of(each)] @ keys[each.id]) for each in entries}
    return sorted((name for name in scores if name not in question.hidden), key=scores.get, reverse=True)[:top_k]


def test_it_searches_with_the_picture_and_without_what_is_hidden(model, places):
    found = search_all(model, QUESTIONS, places, search="own", top_k=3)
    # Keys of the index are made in bfloat16, whose last bits may exchange near entries: the first one is compared.
    assert [row.ids[0] for row in found] == [best(model, question, ENTRIES, 1)[0] for question in QUESTIONS]
    assert not any("p7" in row.ids for row in search_all(model, QUESTIONS, places, search="own", top_k=8))


def test_it_searches_some_sources_alone(model, places):
    found = search_all(model, QUESTIONS, places, search="own", top_k=8, sources=("captions",))
    assert all(set(row.ids) == {"p1", "p3", "p5"} for row in found)


def test_it_reads_with_the_picture(model, places):
    found = search_all(model, QUESTIONS, places, search="own", top_k=2)
    read = ask_all(model, QUESTIONS, found, corpus=places.corpus)
    assert len(read.em) == 5
    assert read.kept == [float(question.positive[0] in row.ids) for question, row in zip(QUESTIONS, found)]
    assert read.flops > 0
