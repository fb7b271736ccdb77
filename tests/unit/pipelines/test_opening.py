"""Pipelines opened from folders; what does not belong together is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pipeline_pieces import PASSAGES, QUESTIONS, ask, same

from wellread.corpus.store import Corpus
from wellread.memory.store import Memory
from wellread.model import Model, load_model, save_model
from wellread.pipeline import Pipeline, memorize_corpus, open_pipeline
from wellread.reading.frame import FrameConfig
from wellread.retrieval import default_retriever, open_index
from wellread.types import Passage, Question


def test_a_memory_of_other_weights_is_refused_unless_only_its_tokens_are_read(place):
    memory, index = Memory.open(place.memory), open_index(place.index)
    for name in ("lumen", "fid"):
        model = load_copy(place.models[name])
        with torch.no_grad():
            model.system.reader.encoder.layers[0].attention.query.weight.add_(1)
        if name == "fid":
            Pipeline(model, index, memory=memory)
            continue
        with pytest.raises(ValueError, match=r"the memory does not fit the model: encoder is '\w+' in the memory"):
            Pipeline(model, index, memory=memory)
        Pipeline(model, index, corpus=Corpus.open(place.corpus))  # reads for itself


def load_copy(model: Model) -> Model:
    from copy import deepcopy

    return replace(model, system=deepcopy(model.system))


def test_a_memory_of_other_templates_is_refused(place):
    from wellread.reading.frame import Frame

    model = place.models["fid"]
    other = replace(model, frame=Frame(FrameConfig(passage="{text}"), model.frame.tokenizer))
    with pytest.raises(ValueError, match=r"the memory does not fit the model: template is"):
        Pipeline(other, open_index(place.index), memory=Memory.open(place.memory))


def test_there_must_be_something_to_read(place):
    message = r"no memory and no corpus were given; give at least one to answer from"
    with pytest.raises(ValueError, match=message):
        Pipeline(place.models["fid"], open_index(place.index))
    with pytest.raises(ValueError, match=message):
        open_pipeline(model=place.models["fid"], index=place.index)


def test_pipelines_are_opened_from_folders(place, tmp_path):
    model = save_model(tmp_path / "model", place.models["glimmer"])
    report = memorize_corpus(
        Corpus.open(place.corpus), load_model(model), tmp_path / "memory", retriever="lexical", progress=False
    )
    assert (report.passages, report.resumed_from) == (10, 0)
    again = memorize_corpus(Corpus.open(place.corpus), load_model(model), tmp_path / "memory", progress=False)
    assert again.resumed_from == 10
    opened = open_pipeline(model=model, memory=tmp_path / "memory")  # with the index inside the memory
    for one, other in zip(ask(opened, QUESTIONS), ask(place.pipeline("glimmer"), QUESTIONS), strict=True):
        same(one, other)
    lumen = open_pipeline(model=model, memory=tmp_path / "memory", system="lumen", options={"mem2q": False})
    assert (lumen.model.name, lumen.model.system.config.mem2q) == ("lumen", False)
    assert len(ask(lumen, QUESTIONS[:1], top_k=1)[0].passages) == 1
    from_corpus = open_pipeline(model=model, corpus=place.corpus, index=place.index)
    assert from_corpus.memory is None


def test_pipelines_that_cannot_be_opened_are_told(place, tmp_path):
    model = place.models["fid"]
    message = r"no search index was given; build one with wellread index and pass --index DIR"
    with pytest.raises(ValueError, match=r"memory holds no search index; build one with `wellread index CORPUS --out"):
        open_pipeline(model=model, memory=place.memory)
    with pytest.raises(ValueError, match=message):
        open_pipeline(model=model, corpus=place.corpus)
    with pytest.raises(ValueError, match=r"system and options belong to a model folder; give them to load_model"):
        open_pipeline(model=model, corpus=place.corpus, index=place.index, options={"keep": 3})
    with pytest.raises(ValueError, match=r"retriever='lexica' is unknown"):
        memorize_corpus(Corpus.open(place.corpus), model, tmp_path / "memory", retriever="lexica")
    assert not (tmp_path / "memory").exists()


@pytest.mark.skipif(default_retriever() != "hybrid", reason="needs pip install '.[dense]'")
def test_the_index_inside_a_memory_is_read_in_the_precision_of_the_memory(place, tmp_path):
    for precision in ("fp32", "bf16"):
        memorize_corpus(
            Corpus.open(place.corpus), place.models["lumen"], tmp_path / precision, precision=precision, progress=False
        )
        assert open_index(tmp_path / precision / "index" / "dense").options.reading == precision


def test_hidden_passages_are_not_read(place):
    pipeline = place.pipeline("lumen")
    open_, closed = Question("a", "river"), Question("b", "river", metadata={"hidden": ["p4"]})
    with_it, without_it = pipeline.retrieve([open_, closed], top_k=3)
    assert with_it.ids[0] == "p4"
    assert "p4" not in without_it.ids
    assert without_it.ids[:2] == pipeline.retrieve(["river"], top_k=4)[0].ids[1:3]
    answer = pipeline.ask([closed], top_k=3, candidates=[with_it])[0]
    assert "p4" not in {passage.id for passage in answer.passages}


def test_an_entry_made_of_a_question_is_not_read_for_it(place, tmp_path):
    made_of = {"asked": "Which river?"}
    faq = Passage("b", "Question: Which river? Answer: the moon.", metadata=made_of, source="questions")
    corpus = Corpus.write([*PASSAGES, faq], tmp_path / "corpus")
    memorize_corpus(corpus, place.models["lumen"], tmp_path / "memory", retriever="lexical", progress=False)
    itself, other, typed = Question("b", "Which river?"), Question("b", "river"), "Which river?"
    for places in ({"memory": tmp_path / "memory"}, {"corpus": corpus.path, "index": tmp_path / "memory" / "index"}):
        pipeline = open_pipeline(model=place.models["lumen"], **places)
        found = pipeline.retrieve([itself, other, typed], top_k=3)
        assert ["b" in each.ids for each in found] == [False, True, True]
        answer = pipeline.ask([itself], top_k=3, candidates=[found[2]], flops=False)[0]
        assert [passage.id for passage in answer.passages] == [name for name in found[2].ids if name != "b"]


def test_a_picture_is_nothing_to_a_model_that_reads_none(place):
    pipeline = place.pipeline("lumen")
    plain = pipeline.ask(["river"], top_k=2)[0]
    asked = pipeline.ask([Question("", "river", metadata={"picture": "nowhere.png"})], top_k=2)[0]
    assert (asked.text, asked.passages) == (plain.text, plain.passages)
