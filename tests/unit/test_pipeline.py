"""The five steps together: memory, corpus and index of a few passages, asked by tiny readers."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from wellread.corpus.store import Corpus
from wellread.evaluation.confidence import Confidence
from wellread.evaluation.cost import Stopwatch
from wellread.memory.store import Memory
from wellread.model import Model, build_model, load_model, save_model
from wellread.nn.building import build_from_scratch
from wellread.pipeline import Pipeline, memorize_corpus, open_pipeline
from wellread.reading.frame import FrameConfig
from wellread.reading.spans import find_span
from wellread.retrieval import RETRIEVERS, open_index
from wellread.types import Candidates, Passage, Question

WORDS = ["moon", "planet", "star", "comet", "river", "ocean", "desert", "island", "forest", "valley"]
PASSAGES = [
    Passage(
        f"p{index}",
        f"The {word} is old. " + f"A {word} and a {WORDS[index - 3]} are far. " * (1 + index % 3),
        title=word.title(),
        metadata={"topic": "sky" if index < 4 else "earth"},
    )
    for index, word in enumerate(WORDS)
]
QUESTIONS = ["Is the moon old?", "How far is a comet or a star from here?", "river", "Which ocean and which desert?"]
OPTIONS = {"glimmer": {"keep": 2, "live_share": 0.5}, "lumen": {"live_share": 0.5, "question_encoder": "shared"}}
# The same float32 sums, some in another order.
CLOSE = {"rel": 1e-4, "abs": 1e-4}


@dataclass(frozen=True)
class Place:
    """Folders of a corpus, an index, and the memory and models of one set of weights."""

    corpus: Path
    index: Path
    memory: Path
    models: dict[str, Model]

    def pipeline(self, name: str, *, memory: bool = True) -> Pipeline:
        kept = Memory.open(self.memory) if memory else None
        return Pipeline(self.models[name], open_index(self.index), memory=kept, corpus=Corpus.open(self.corpus))


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


def same(one, other) -> None:
    assert one.text == other.text
    assert one.log_likelihood == pytest.approx(other.log_likelihood, **CLOSE)
    assert [item.id for item in one.passages] == [item.id for item in other.passages]
    for left, right in zip(one.passages, other.passages, strict=True):
        assert left.score == pytest.approx(right.score, **CLOSE)
        assert left.share == pytest.approx(right.share, **CLOSE)
        assert replace(left, score=0.0, share=0.0) == replace(right, score=0.0, share=0.0)


def ask(pipeline: Pipeline, questions, **options) -> list:
    """Counting FLOPs would take most of the time of these tests."""
    return pipeline.ask(questions, **{"top_k": 4, "flops": False, **options})


# -- asking ----------------------------------------------------------------------------------------------------


def test_questions_asked_together_are_answered_as_if_alone(place, name):
    pipeline = place.pipeline(name)
    questions = [*QUESTIONS[:2], "xylophone", *QUESTIONS[2:]]  # one of them finds nothing
    together = ask(pipeline, questions)
    counts = [len(answer.passages) for answer in together]
    assert counts[2] == 0
    assert len({count for count in counts if count}) > 1, "unequal numbers of candidates are the point"
    for question, answer in zip(questions, together, strict=True):
        same(answer, ask(pipeline, [question])[0])


def test_answers_come_in_the_order_asked(place):
    pipeline = place.pipeline("lumen")
    found = [{item.id for item in answer.passages} for answer in ask(pipeline, WORDS, top_k=1)]
    many = [
        {item.id for item in answer.passages}
        for answer in pipeline.ask_many(iter(WORDS), batch_size=3, top_k=1, flops=False)
    ]
    expected = [{pipeline.retrieve([word], top_k=1)[0].ids[0]} for word in WORDS]
    assert found == many == expected
    assert len({name for names in found for name in names}) > 5
    assert list(pipeline.ask_many([])) == []


def test_tokens_of_a_memory_are_those_of_its_corpus(place):
    """FiD reads the passages of a LUMEN's memory, whose states it has no use for."""
    asked = (ask(place.pipeline("fid", memory=memory), QUESTIONS) for memory in (True, False))
    for stored, live in zip(*asked, strict=True):
        same(stored, live)


@pytest.mark.parametrize("name", ["lumen", "glimmer"])
def test_states_of_a_memory_are_those_of_its_corpus(place, name):
    stored, live = (place.pipeline(name, memory=memory) for memory in (True, False))
    for one, other in zip(ask(stored, QUESTIONS), ask(live, QUESTIONS), strict=True):
        # Stored states are bfloat16: 8 bits of states whose likelihoods of five tokens add up to about -25.
        assert one.log_likelihood == pytest.approx(other.log_likelihood, rel=0.05)
        assert {item.id for item in one.passages} == {item.id for item in other.passages}


def test_states_come_from_the_memory_where_they_are_wanted(place, monkeypatch):
    found = [Candidates(("p1", "p0"), (2.0, 1.0)), Candidates(("p1",), (1.0,))]
    rows, passages = place.pipeline("lumen").rows(found)
    assert [[row.id for row in some] for some in rows] == [["p1", "p0"], ["p1"]]
    assert passages == {"p1": PASSAGES[1], "p0": PASSAGES[0]}
    assert rows[0][0].states is rows[1][0].states  # fetched once
    encoded = place.models["lumen"].encode([PASSAGES[1]])[0]
    # bfloat16 keeps 8 bits.
    torch.testing.assert_close(rows[0][0].states, encoded.states, rtol=2**-8, atol=1e-6)
    assert rows[0][0].tokens.tolist() == encoded.tokens.tolist()
    asked, fetch = [], Memory.fetch
    monkeypatch.setattr(Memory, "fetch", lambda self, ids, **more: asked.append(more) or fetch(self, ids, **more))
    rows, _ = place.pipeline("fid").rows(found)
    assert rows[0][0].states is None
    assert asked == [{"states": False}]  # and decoding them for nothing would cost
    rows, _ = place.pipeline("lumen", memory=False).rows(found)
    assert rows[0][0].states is None


def test_cited_passages_are_those_retrieved(place, name):
    pipeline = place.pipeline(name)
    [found] = pipeline.retrieve([QUESTIONS[3]], top_k=4)
    [answer] = ask(pipeline, [QUESTIONS[3]])
    texts = {passage.id: passage for passage in PASSAGES}
    assert sorted(item.id for item in answer.passages) == sorted(found.ids)
    for item in answer.passages:
        assert (item.title, item.text) == (texts[item.id].title, texts[item.id].text)
    kept = [item.kept for item in answer.passages]
    assert kept == [True] * 2 + [False] * 2 if name == "glimmer" else [True] * 4
    shares = [item.share for item in answer.passages]
    # One sum of float32 terms.
    assert sum(shares) == pytest.approx(1.0, abs=1e-5)
    assert shares == sorted(shares, reverse=True)
    own = {item.id: item.score for item in answer.passages}
    if name == "glimmer":
        assert min(own[item.id] for item in answer.passages[:2]) >= max(own[item.id] for item in answer.passages[2:])
        assert list(own.values()) != [found.scores[found.ids.index(item.id)] for item in answer.passages]
    else:
        assert own == dict(zip(found.ids, found.scores, strict=True))


def test_an_answer_that_stands_in_a_passage_is_marked(place):
    answers = ask(place.pipeline("fid"), [*QUESTIONS, *WORDS], num_beams=2)
    spans = [(answer, item) for answer in answers for item in answer.passages]
    assert all(item.span == find_span(answer.text, item.text) for answer, item in spans)
    assert any(item.span for _, item in spans), "no answer stands in a passage: ask for something else"


def test_only_matching_passages_are_read(place):
    pipeline = place.pipeline("lumen")
    for topic, ids in (("sky", {"p0", "p1", "p2", "p3"}), ("earth", {"p4", "p5", "p6", "p7", "p8", "p9"})):
        [answer] = ask(pipeline, ["old moon ocean far"], top_k=9, where={"topic": topic})
        assert {item.id for item in answer.passages} == ids


def test_candidates_may_be_given(place):
    pipeline = place.pipeline("fid")
    given = [Candidates(("p3", "p1", "p2"), (3.0, 2.0, 1.0)), Candidates((), ())]
    read, nothing = ask(pipeline, QUESTIONS[:2], candidates=given, top_k=2)
    assert {item.id for item in read.passages} == {"p3", "p1"}
    assert (nothing.text, nothing.passages) == ("", ())
    many = list(pipeline.ask_many(QUESTIONS[:2], candidates=given, top_k=2, batch_size=1, flops=False))
    same(many[0], read)


class TenEach(Stopwatch):
    """Ten milliseconds for every stage."""

    def __call__(self, stage: str):
        self.milliseconds[stage] = 10.0
        return nullcontext()


def test_milliseconds_and_flops_are_shares_of_the_batch(place, monkeypatch):
    monkeypatch.setattr("wellread.pipeline.Stopwatch", TenEach)
    pipeline = place.pipeline("lumen")
    answered, nothing = pipeline.ask([QUESTIONS[1], "xylophone"], top_k=4)
    stages = ["retrieve", "fetch", "read", "generate", "explain", "total"]
    # Two questions were looked up, one was read.
    assert answered.milliseconds == dict(zip(stages, [5.0, 10.0, 10.0, 10.0, 10.0, 45.0], strict=True))
    assert nothing.milliseconds == {"retrieve": 5.0, "total": 5.0}
    assert (nothing.flops, nothing.text, nothing.passages) == (0, "", ())
    one, two = (pipeline.ask([QUESTIONS[1]] * count, top_k=4)[0] for count in (1, 2))
    assert list(one.flops_by_stage) == ["read", "generate"]
    assert one.flops == sum(one.flops_by_stage.values())
    # Shares are rounded down, so they may be one short of the whole.
    assert two.flops == pytest.approx(sum(two.flops_by_stage.values()), abs=1)
    assert two.flops_by_stage["read"] == one.flops_by_stage["read"]
    assert pipeline.ask([QUESTIONS[1]], top_k=4, flops=False)[0].flops == 0


def test_a_memory_saves_the_reading(place):
    """The same weights: FiD reads all layers live, LUMEN half of them, GLIMMER half of them for two of four."""
    read = {name: place.pipeline(name).ask([QUESTIONS[1]], top_k=4)[0].flops_by_stage["read"] for name in place.models}
    # Half the encoder's layers and all of the question: somewhat above a half.
    assert 0.4 * read["fid"] < read["lumen"] < 0.75 * read["fid"]
    assert read["glimmer"] < read["lumen"]
    live = place.pipeline("lumen", memory=False).ask([QUESTIONS[1]], top_k=4)[0].flops_by_stage["read"]
    assert live > read["lumen"]


def test_answers_are_without_dropout(place):
    model = place.models["lumen"]
    plain = ask(place.pipeline("lumen"), QUESTIONS[:1])[0]
    model.system.train()
    same(ask(place.pipeline("lumen"), QUESTIONS[:1])[0], plain)


def test_a_question_object_is_asked_by_its_text(place):
    pipeline = place.pipeline("fid")
    same(ask(pipeline, [Question("q", QUESTIONS[0])], top_k=2)[0], ask(pipeline, [QUESTIONS[0]], top_k=2)[0])


@pytest.mark.parametrize(
    ("questions", "options", "message"),
    [
        ([], {}, r"the question is empty; ask something"),
        (["moon", " \n"], {}, r"the question is empty; ask something"),
        ("moon", {}, r"questions is a single question; give a list of questions"),
        (Question("q", "moon"), {}, r"questions is a single question; give a list of questions"),
        (["moon"], {"top_k": 0}, r"top_k=0; it must be at least 1"),
        (["moon"], {"top_k": 1}, r"keep=2 but 1 passages were retrieved; keep must be between 1 and 1"),
        (["moon"], {"num_beams": 0}, r"num_beams=0; it must be at least 1"),
        (["moon"], {"where": {"colour": "red"}}, r"colour"),
        (["moon", "star"], {"candidates": [Candidates((), ())]}, r"1 lists of candidates for 2 questions; give one"),
        (["moon"], {"candidates": [Candidates(("p77",) * 2, (1.0,) * 2)]}, r"p77"),
    ],
)
def test_what_cannot_be_asked_is_told(place, questions, options, message):
    with pytest.raises(ValueError, match=message):
        place.pipeline("glimmer").ask(questions, **{"top_k": 4, **options})


def test_many_questions_need_a_list_and_a_batch(place):
    pipeline = place.pipeline("fid")
    with pytest.raises(ValueError, match=r"batch_size=0; it must be at least 1"):
        list(pipeline.ask_many(["moon"], batch_size=0))
    with pytest.raises(ValueError, match=r"questions is a single question; give a list"):
        list(pipeline.ask_many("moon"))


# -- abstaining ------------------------------------------------------------------------------------------------


def sure_of(pipeline: Pipeline, **weights: float) -> Pipeline:
    """The pipeline with a made-up confidence: features by name with their weights."""
    ones = (1.0,) * len(weights)
    zeros = (0.0,) * len(weights)
    return replace(pipeline, confidence=Confidence(tuple(weights), tuple(weights.values()), 0.0, zeros, ones))


# The tiny readers say something to the first five of these, nothing to the next; the last one finds nothing.
UNSURE = ["star", "comet", "ocean", "forest", "valley", QUESTIONS[0], "xylophone"]


@pytest.fixture
def calibrated(place, name) -> Pipeline:
    return sure_of(place.pipeline(name), mean_log_likelihood=0.5, supported=1.0)


def test_an_answer_says_how_sure_it_is(calibrated):
    answers = ask(calibrated, UNSURE)
    plain = ask(replace(calibrated, confidence=None), UNSURE)
    for answer, without in zip(answers, plain, strict=True):
        same(answer, without)
        assert without.confidence is None
        assert answer.confidence == calibrated.confidence(without)
        assert not answer.abstained
    assert answers[-1].confidence == 0
    assert len({answer.confidence for answer in answers}) > 3


def test_unsure_answers_are_withheld_and_still_cited(calibrated):
    plain = ask(calibrated, UNSURE)
    middle = sorted(answer.confidence for answer in plain if answer.text)[2]
    for least in (0.0, middle, 1.0):
        # The same batch again gives the same sums, so the confidence of the middle one is just enough.
        for answer, given in zip(ask(calibrated, UNSURE, min_confidence=least), plain, strict=True):
            assert answer.confidence == given.confidence
            assert answer.abstained == (given.confidence < least)
            assert (answer.text, answer.withheld) == (("", given.text) if answer.abstained else (given.text, ""))
            assert answer.passages == given.passages
            assert answer.support == given.support
    assert any(answer.text and answer.confidence < middle for answer in plain)


def test_withholding_reaches_every_way_of_asking(place):
    pipeline = sure_of(place.pipeline("lumen"), mean_log_likelihood=1.0)
    [many] = pipeline.ask_many(UNSURE[:1], top_k=4, flops=False, min_confidence=1.0)
    measured = pipeline.ask_measured(UNSURE[0], top_k=4, min_confidence=1.0)
    assert many.abstained
    assert measured.abstained
    assert measured.withheld == many.withheld != ""
    assert measured.flops > 0


def test_answers_name_the_passage_that_supports_them(place, name):
    for answer in ask(place.pipeline(name), [*QUESTIONS, *WORDS]):
        holding = [item for item in answer.passages if item.kept and item.span]
        most = max((item for item in answer.passages if item.kept), key=lambda item: item.share)
        assert answer.support == (holding[0] if holding else most)
        if answer.support.span:
            assert answer.support.span == find_span(answer.text, answer.support.text)


def test_tokens_of_an_answer_are_counted(place):
    pipeline = place.pipeline("fid")
    answers = ask(pipeline, QUESTIONS)
    assert all(1 <= answer.num_tokens <= 5 for answer in answers)  # the frame allows five
    alone = [ask(pipeline, [question])[0] for question in QUESTIONS]
    assert [answer.num_tokens for answer in answers] == [answer.num_tokens for answer in alone]
    assert ask(pipeline, ["xylophone"])[0].num_tokens == 0


@pytest.mark.parametrize("least", [-0.1, 1.5, float("nan")])
def test_a_confidence_is_from_0_to_1(place, least):
    with pytest.raises(ValueError, match=rf"min_confidence={least}; it must be between 0 and 1"):
        sure_of(place.pipeline("fid"), share=1.0).ask(["moon"], min_confidence=least)


def test_without_a_confidence_nothing_can_be_withheld(place, tmp_path):
    message = (
        r"min_confidence=0\.5, but no confidence was fitted for this lumen model; fit one with `wellread calibrate`"
    )
    with pytest.raises(ValueError, match=message):
        ask(place.pipeline("lumen"), ["moon"], min_confidence=0.5)
    model = save_model(tmp_path / "model", place.models["glimmer"])
    confidence = replace(sure_of(place.pipeline("fid"), share=1.0).confidence, fitted={"system": "glimmer"})
    confidence.save(model)
    places = {"model": model, "corpus": place.corpus, "index": place.index}
    assert open_pipeline(**places).confidence == confidence
    assert ask(open_pipeline(**places), ["moon"], min_confidence=1)[0].abstained
    with pytest.raises(ValueError, match=message):  # what was fitted on one system says nothing of another
        ask(open_pipeline(**places, system="lumen"), ["moon"], min_confidence=0.5)


# -- evaluating ------------------------------------------------------------------------------------------------

DEV = [
    Question(f"q{index}", text, answers=("old",), positive=(f"p{index}",)) for index, text in enumerate(QUESTIONS)
] + [Question("none", "xylophone", answers=("old",), positive=("p1",))]


def test_a_report_says_quality_and_cost(place, monkeypatch):
    pipeline = place.pipeline("lumen")
    counting, asked = [], Pipeline.ask

    def watched(self, questions, **options):
        counting.append((len(questions), options.get("flops", True)))
        return asked(self, questions, **options)

    monkeypatch.setattr(Pipeline, "ask", watched)
    report, answers = pipeline.evaluate(DEV, top_k=3, batch_size=2, timed=1, recall_at=(1, 2, 50))
    # In batches; then one alone, for its FLOPs, and again for its time, which counting would spoil.
    assert counting == [(2, False), (2, False), (1, False), (1, True), (1, False)]
    told = report.to_json()
    assert told["n"] == len(answers) == 5
    assert {"em", "f1", "recall@1", "recall@2", "recall@kept", "intervals", "flops_per_question"} <= told.keys()
    assert "recall@50" not in told  # only ten passages exist
    assert {"retrieve", "fetch", "read", "generate", "total"} <= told["milliseconds"].keys()
    assert told["milliseconds_per_question"] > 0
    assert told["flops_per_question"] > 0
    settings = told["settings"]
    assert (settings["top_k"], settings["num_beams"], settings["codec"]) == (3, 1, "bf16")
    assert settings["bytes_per_passage"] == pytest.approx(pipeline.memory.info()["bytes"] / 10)
    assert settings["formula_flops"] > 0
    for question, answer in zip(DEV, answers, strict=True):
        same(answer, ask(pipeline, [question], top_k=3)[0])
        assert len(answer.passages) <= 3


def test_a_report_without_memory_recall_or_timing(place):
    report, answers = place.pipeline("fid", memory=False).evaluate(DEV[:2], top_k=2, recall_at=(), timed=0)
    told = report.to_json()
    assert len(answers) == 2
    assert told["flops_per_question"] == 0
    assert "bytes_per_passage" not in told["settings"]
    assert not any(name.startswith("recall@1") for name in told)


def test_a_paper_without_a_formula_is_reported_without_one(place, monkeypatch):
    from wellread.systems.base import System

    pipeline = place.pipeline("fid")
    monkeypatch.setattr(type(pipeline.model.system), "formula", System.formula)
    report, _ = pipeline.evaluate(DEV[:2], top_k=2, timed=1)
    assert "formula_flops" not in report.settings
    assert report.flops_per_question > 0


def test_what_cannot_be_evaluated_is_told(place):
    with pytest.raises(ValueError, match=r"there are no questions to score"):
        place.pipeline("fid").evaluate([])
    with pytest.raises(ValueError, match=r"keep=2 but 1 passages"):
        place.pipeline("glimmer").evaluate(DEV, top_k=1)
    with pytest.raises(ValueError, match=r"top_k=0; it must be at least 1"):
        place.pipeline("fid").evaluate(DEV, top_k=0)


# -- opening ---------------------------------------------------------------------------------------------------


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
    with pytest.raises(ValueError, match=message):
        open_pipeline(model=model, memory=place.memory)
    with pytest.raises(ValueError, match=message):
        open_pipeline(model=model, corpus=place.corpus)
    with pytest.raises(ValueError, match=r"system and options belong to a model folder; give them to load_model"):
        open_pipeline(model=model, corpus=place.corpus, index=place.index, options={"keep": 3})
    with pytest.raises(ValueError, match=r"retriever='lexica' is unknown"):
        memorize_corpus(Corpus.open(place.corpus), model, tmp_path / "memory", retriever="lexica")
    assert not (tmp_path / "memory").exists()


def test_hidden_passages_are_not_read(place):
    pipeline = place.pipeline("lumen")
    open_, closed = Question("a", "river"), Question("b", "river", metadata={"hidden": ["p4"]})
    with_it, without_it = pipeline.retrieve([open_, closed], top_k=3)
    assert with_it.ids[0] == "p4"
    assert "p4" not in without_it.ids
    assert without_it.ids[:2] == pipeline.retrieve(["river"], top_k=4)[0].ids[1:3]
    answer = pipeline.ask([closed], top_k=3, candidates=[with_it])[0]
    assert "p4" not in {passage.id for passage in answer.passages}


def test_a_picture_is_nothing_to_a_model_that_reads_none(place):
    pipeline = place.pipeline("lumen")
    plain = pipeline.ask(["river"], top_k=2)[0]
    asked = pipeline.ask([Question("", "river", metadata={"picture": "nowhere.png"})], top_k=2)[0]
    assert (asked.text, asked.passages) == (plain.text, plain.passages)
