"""One memory, four readers: the same weights and the same stored states, read in four ways."""

from __future__ import annotations

import pytest

from wellread.corpus.store import Corpus
from wellread.model import build_model, load_model, save_model
from wellread.nn.building import build_from_scratch
from wellread.pipeline import memorize_corpus, open_pipeline
from wellread.reading.frame import FrameConfig
from wellread.types import Passage

PASSAGES = [
    Passage("a", "The Vltava flows through Prague and joins the Elbe.", "Vltava"),
    Passage("b", "The Danube flows through Vienna and Budapest to the Black Sea.", "Danube"),
    Passage("c", "The Seine flows through Paris to the English Channel.", "Seine"),
    Passage("d", "The Thames flows through London to the North Sea.", "Thames"),
]
READERS = {
    "glimmer": {"keep": 2},
    "lumen": {},
    "memory_fid": {"memory_layers": 2, "question_encoder": "shared"},
    "fid": {},
}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    home = tmp_path_factory.mktemp("one")
    texts = [f"{item.title} {item.text}" for item in PASSAGES] * 4
    reader, tokenizer = build_from_scratch(
        texts, vocab_size=200, dim=16, layers=3, heads=2, decoder_layers=1, family="bert", seed=0
    )
    model = build_model("glimmer", {"keep": 2}, reader, tokenizer, frame=FrameConfig(answer_tokens=6))
    save_model(home / "model", model)
    corpus = Corpus.write(PASSAGES, home / "corpus")
    memorize_corpus(corpus, model, home / "memory", retriever="lexical", progress=False)
    return home


@pytest.mark.parametrize("name", list(READERS))
def test_every_reader_answers_from_the_same_memory(places, name):
    pipeline = open_pipeline(model=places / "model", memory=places / "memory", system=name, options=READERS[name])
    answer = pipeline.ask(["Which river flows through Prague?"], top_k=3)[0]
    assert {item.id for item in answer.passages} <= {"a", "b", "c", "d"}
    assert answer.passages
    assert sum(item.kept for item in answer.passages) == (2 if name == "glimmer" else len(answer.passages))
    assert answer.flops > 0


def test_readers_of_states_encode_no_passage(places, monkeypatch):
    """Only FiD embeds passages while it answers; the others embed the question and nothing else."""
    embedded = {}
    for name, options in READERS.items():
        pipeline = open_pipeline(model=places / "model", memory=places / "memory", system=name, options=options)
        encoder, rows = pipeline.model.system.reader.encoder, []
        plain = encoder.embed
        monkeypatch.setattr(
            encoder,
            "embed",
            lambda tokens, segment=0, plain=plain, rows=rows: (
                rows.append(tokens.shape[0]),
                plain(tokens, segment=segment),
            )[1],
        )
        pipeline.ask(["Which river flows through Prague?"], top_k=3, flops=False)
        embedded[name] = sum(rows)
    assert embedded["fid"] > 1
    assert {embedded[name] for name in ("lumen", "glimmer", "memory_fid")} == {1}


def test_costs_are_ordered_as_the_papers_say(places):
    flops = {}
    for name, options in READERS.items():
        pipeline = open_pipeline(model=places / "model", memory=places / "memory", system=name, options=options)
        answer = pipeline.ask(["Which river flows through the city?"], top_k=4)[0]
        flops[name] = answer.flops_by_stage["read"]
    assert flops["memory_fid"] < flops["lumen"] < flops["fid"]


def test_lumen_reads_what_the_memory_holds_as_if_encoded_now(places):
    with_memory = open_pipeline(model=places / "model", memory=places / "memory", system="lumen")
    live = open_pipeline(
        model=load_model(places / "model", system="lumen"),
        corpus=places / "corpus",
        index=places / "memory" / "index",
    )
    asked = ["Which river flows through Prague?", "Where does the Danube end?"]
    for stored, fresh in zip(with_memory.ask(asked, top_k=3), live.ask(asked, top_k=3), strict=True):
        # The memory rounds states to bf16 (relative error 2e-3); a log-likelihood of six tokens near -25 moves less.
        assert stored.log_likelihood == pytest.approx(fresh.log_likelihood, abs=0.2)
