"""One corpus with its index, memory and readers, made once for the tests of a file."""

from __future__ import annotations

import pytest
import torch
from pipeline_pieces import OPTIONS, PASSAGES, Place

from wellread.corpus.store import Corpus
from wellread.model import build_model
from wellread.nn.building import build_from_scratch
from wellread.pipeline import memorize_corpus
from wellread.reading.frame import FrameConfig
from wellread.retrieval import RETRIEVERS


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Place:
    home = tmp_path_factory.mktemp("pipeline")
    corpus = Corpus.write(PASSAGES, home / "corpus")
    RETRIEVERS["lexical"].build(corpus, home / "index")
    texts = [passage.text for passage in PASSAGES] * 3
    frame = FrameConfig(answer_tokens=5)
    models = {}
    for name in ("fid", "lumen", "glimmer"):
        sizes = {"vocab_size": 200, "dim": 16, "layers": 4, "heads": 2, "decoder_layers": 2}
        reader, tokenizer = build_from_scratch(texts, **sizes, seed=3)
        models[name] = build_model(name, OPTIONS.get(name, {}), reader, tokenizer, frame=frame)
        models[name].system.eval()
    torch.nn.init.normal_(models["glimmer"].system.scorer.weight, generator=torch.Generator().manual_seed(0))
    memorize_corpus(corpus, models["lumen"], home / "memory", retriever="none", progress=False)
    return Place(home / "corpus", home / "index", home / "memory", models)


@pytest.fixture(params=["fid", "lumen", "glimmer"])
def name(request) -> str:
    return request.param
