"""A system that finds what it reads: one memory, one reading of every passage, an index of its own, iterations."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import torch

from wellread.cli.main import main
from wellread.corpus.questions import read_questions
from wellread.corpus.store import Corpus
from wellread.memory.store import Memory
from wellread.model import build_model, load_model, save_model
from wellread.nn.bert import BertEncoder
from wellread.nn.building import build_from_scratch
from wellread.pipeline import Pipeline, memorize_corpus, open_pipeline
from wellread.reading.frame import Frame, FrameConfig
from wellread.retrieval import RETRIEVERS, open_index
from wellread.retrieval.tokens import TokenRetriever
from wellread.token_encoder import ModelTokens
from wellread.training.recipes import parse_recipe
from wellread.training.run import run_recipe
from wellread.types import Passage, Probe

RIVERS = ("Vltava", "Danube", "Seine", "Thames", "Tiber", "Ebro", "Rhine", "Oder")
CITIES = ("Prague", "Vienna", "Paris", "London", "Rome", "Zaragoza", "Cologne", "Wroclaw")
PASSAGES = [
    Passage(f"p{number}", f"The {river} flows through {city} and on to the sea.", river)
    for number, (river, city) in enumerate(zip(RIVERS, CITIES))
]
ASKED = "Which river flows through Prague?"
SHARED = {"question_encoder": "shared", "live_share": 0.5}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("own")
    texts = [f"{item.title} {item.text}" for item in PASSAGES] * 4
    reader, tokenizer = build_from_scratch(
        texts, vocab_size=200, dim=16, layers=4, heads=2, decoder_layers=1, family="bert", seed=0
    )
    model = build_model("reatt", {"head": 1}, reader, tokenizer, frame=FrameConfig(answer_tokens=6))
    save_model(home / "model", model)
    Corpus.write(PASSAGES, home / "corpus")
    return home


@pytest.fixture
def passages_read(monkeypatch):
    """How many passages any encoder embeds; questions are of the other segment."""
    rows, plain = [], BertEncoder.embed

    def embed(self, tokens, *, segment=0):
        rows.extend([1] * tokens.shape[0] if segment == 0 else [])
        return plain(self, tokens, segment=segment)

    monkeypatch.setattr(BertEncoder, "embed", embed)
    return rows


@pytest.fixture
def memory(home, tmp_path, passages_read):
    memorize_corpus(Corpus.open(home / "corpus"), load_model(home / "model"), tmp_path / "memory", progress=False)
    return tmp_path / "memory"


def test_no_passage_is_read_for_the_index_or_while_answering(home, memory, tmp_path, passages_read):
    """One memory answers with retrieval by attention, read by ReAtt's layers or by LUMEN's."""
    with_index = len(passages_read)
    corpus, model = Corpus.open(home / "corpus"), load_model(home / "model")
    memorize_corpus(corpus, model, tmp_path / "states-alone", retriever="none", progress=False)
    assert with_index == len(passages_read) - with_index > 0
    passages_read.clear()
    assert open_index(memory / "index").name == "reatt"
    own = open_pipeline(model=home / "model", memory=memory)
    lumen = open_pipeline(model=home / "model", memory=memory, system="lumen", options=SHARED)
    found = [pipeline.ask([ASKED], top_k=3)[0] for pipeline in (own, lumen)]
    assert not passages_read
    assert [item.id for item in found[0].passages] == [item.id for item in found[1].passages]
    assert len(found[0].passages) == 3
    # The same states, the same live layers, the same decoder.
    assert found[0].text == found[1].text
    assert found[0].log_likelihood == pytest.approx(found[1].log_likelihood, abs=1e-4)


def test_a_memory_without_an_index_says_how_to_build_one(home, tmp_path, capsys):
    model, memory, index = (str(place) for place in (home / "model", tmp_path / "memory", tmp_path / "index"))
    main(["memorize", str(home / "corpus"), "--model", model, "--retriever", "none", "--out", memory])
    with pytest.raises(SystemExit):
        main(["ask", ASKED, "--model", model, "--memory", memory])
    advice = re.search(r"holds no search index; build one with `wellread (.*?)` and pass", capsys.readouterr().err)[1]
    for word, place in (("CORPUS", str(home / "corpus")), ("MODEL", model), ("DIR", index)):
        advice = advice.replace(word, place)
    main(advice.split())
    main(["ask", ASKED, "--model", model, "--memory", memory, "--index", index])
    assert "[1]" in capsys.readouterr().out


def test_the_index_scores_as_the_reader_does(home, memory):
    """Score from stored keys = score of the live pass, through build, storage, search and reading."""
    folder = memory / "plain"
    model = load_model(home / "model")
    exact = {"codec": "float32", "search": "exhaustive"}
    RETRIEVERS["reatt"].build(Corpus.open(home / "corpus"), folder, encoder=ModelTokens(model), **exact)
    live = open_pipeline(model=home / "model", corpus=home / "corpus", index=folder)
    found = live.retrieve([ASKED], top_k=8)[0]
    answer = live.ask([ASKED], top_k=8)[0]
    scores = {item.id: item.score for item in answer.passages}
    assert len(found.ids) == 8
    for name, score in zip(found.ids, found.scores):
        assert scores[name] == pytest.approx(score, abs=1e-4)  # float32 sums in another order


def test_words_and_vectors_find_the_same(home, memory):
    index = open_index(memory / "index")
    pipeline = open_pipeline(model=home / "model", memory=memory)
    by_vectors = pipeline.retrieve([ASKED], top_k=4)[0]
    from wellread.types import Probe

    by_words = index.search([Probe(words=ASKED)], top_k=4)[0]
    assert by_vectors.ids == by_words.ids


def test_other_weights_are_refused(home, memory, tmp_path):
    changed = load_model(home / "model")
    with torch.no_grad():
        changed.system.reader.encoder.layers[2].attention.key.weight.add_(0.1)  # above the memory, below the index
    save_model(tmp_path / "changed", changed)
    with pytest.raises(ValueError, match="the search index was built with other weights or options than this reatt"):
        open_pipeline(model=tmp_path / "changed", memory=memory)


def test_an_index_stays_where_only_what_reads_and_writes_changes(home, tmp_path, capsys):
    """A decoder that learnt on, and the head that searches anyway chosen, as the warning says."""
    unsure, picked, memory = (str(tmp_path / name) for name in ("unsure", "picked", "memory"))
    save_model(unsure, load_model(home / "model", options={"head": None, "live_share": 0.25}))
    main(["memorize", str(home / "corpus"), "--model", unsure, "--out", memory])
    advice = load_model(unsure).system.search_doubt.partition("choose: wellread ")[2]
    words = advice.replace("MODEL", unsure).replace("NUMBER.", "0").split()
    main([*words, "--out", picked])
    model = load_model(picked)
    with torch.no_grad():
        model.system.reader.decoder.layers[0].cross.value.weight.add_(1)
    save_model(picked, model)
    capsys.readouterr()
    main(["ask", ASKED, "--model", picked, "--memory", memory, "--json"])
    assert len(json.loads(capsys.readouterr().out)["passages"]) == len(PASSAGES)
    with pytest.raises(ValueError, match="the search index was built with other weights or options than this reatt"):
        open_pipeline(model=picked, memory=memory, options={"head": 1})


def test_keys_of_other_templates_are_refused(home, memory):
    model = load_model(home / "model")
    for frame in (FrameConfig(question="{question}?"), FrameConfig(passage="{text}")):
        other = replace(model, frame=Frame(frame, model.frame.tokenizer))
        with pytest.raises(ValueError, match="the search index was built with other weights or options than this"):
            Pipeline(other, open_index(memory / "index"), corpus=Corpus.open(home / "corpus"))
    longer = replace(model.frame.config, question_tokens=60, answer_tokens=30)
    other = replace(model, frame=Frame(longer, model.frame.tokenizer))
    Pipeline(other, open_index(memory / "index"), corpus=Corpus.open(home / "corpus"))


def test_a_model_without_a_search_is_refused(home):
    with pytest.raises(ValueError, match="lumen has no search of its own; use a model of a system that retrieves"):
        ModelTokens(load_model(home / "model", system="lumen", options=SHARED))


def test_added_passages_are_read_once_and_deleted_ones_not_found(home, memory, tmp_path, passages_read, capsys):
    """`wellread memory add` and `delete` bring the index along, from the states that were stored."""
    new = [Passage("n1", "The Loire flows through Nantes to the ocean.", "Loire")]
    Corpus.write(new, tmp_path / "new")
    before = len(passages_read)
    main(["memory", "add", str(memory), str(tmp_path / "new"), "--model", str(home / "model")])
    assert len(passages_read) == before + 1
    main(["memory", "delete", str(memory), "p3"])
    capsys.readouterr()
    names = {item.id for item in open_pipeline(model=home / "model", memory=memory).ask([ASKED], top_k=9)[0].passages}
    assert names == {"n1", *(item.id for item in PASSAGES)} - {"p3"}
    assert len(open_index(memory / "index")) == len(Memory.open(memory)) == len(PASSAGES)


def test_an_index_whose_model_moved_says_what_it_needs(home, tmp_path, monkeypatch):
    """Asked with words, as every other system does; a link in the old place is enough."""
    old, moved, index = tmp_path / "old", tmp_path / "moved", tmp_path / "index"
    save_model(old, load_model(home / "model"))
    main(["index", str(home / "corpus"), "--model", str(old), "--out", str(index)])
    old.rename(moved)
    monkeypatch.setattr(TokenRetriever, "_encoders", {})  # as in a new process
    with pytest.raises(ValueError, match=r"/index needs the model it was built with, .* no longer at .*/old; put it"):
        open_index(index).search([Probe(words=ASKED)], top_k=1)
    old.symlink_to(moved)
    assert open_index(index).search([Probe(words=ASKED)], top_k=1)[0].ids
    monkeypatch.setattr(TokenRetriever, "_encoders", {})
    (moved / "system.json").unlink()
    with pytest.raises(ValueError, match=r"old is not a model folder: system.json is missing"):
        open_index(index).search([Probe(words=ASKED)], top_k=1)


def test_a_model_whose_keys_differ_changes_nothing(home, memory, tmp_path):
    changed = load_model(home / "model")
    with torch.no_grad():
        changed.system.reader.encoder.layers[2].attention.key.weight.add_(0.1)  # above the memory, below the index
    save_model(tmp_path / "changed", changed)
    Corpus.write([Passage("n1", "The Loire flows through Nantes to the ocean.", "Loire")], tmp_path / "new")
    with pytest.raises(ValueError, match=r"this index was built with .*; build the index again, or bring back"):
        main(["--debug", "memory", "add", str(memory), str(tmp_path / "new"), "--model", str(tmp_path / "changed")])
    assert len(Memory.open(memory)) == len(open_index(memory / "index")) == len(PASSAGES)


def test_index_verb_takes_keys_from_a_memory(home, memory, tmp_path, passages_read, capsys):
    before = len(passages_read)
    place = ["--model", str(home / "model"), "--memory", str(memory), "--out", str(tmp_path / "index")]
    main(["index", str(home / "corpus"), "--retriever", "reatt", *place, "--json"])
    told = json.loads(capsys.readouterr().out)
    assert len(passages_read) == before
    assert told["passages"] == len(PASSAGES)
    assert told["bytes_per_token"]["stored"] > 0
    assert "recall" not in told
    main(["index", str(home / "corpus"), "--retriever", "reatt", *place, "--overwrite"])
    assert re.search(r"s; all passages are scored, \d+\.\d bytes a token \(32 as float32\)$", capsys.readouterr().out)


@pytest.fixture(scope="module")
def many(home):
    """The corpus several times over."""
    Corpus.write([replace(item, id=f"{item.id}-{copy}") for copy in range(15) for item in PASSAGES], home / "many")
    return str(home / "many")


@pytest.mark.parametrize(
    ("options", "depths"),
    [("--candidates 0 --per-token 9999", [20, 100]), ("--candidates 110", [20, 100]), ("--candidates 120", [])],
)
def test_the_index_verb_tells_how_much_is_found(home, many, tmp_path, capsys, options, depths):
    """Of 120 passages; where as many are scored there is nothing to tell."""
    build = ["index", many, "--model", str(home / "model"), "--overwrite", "--out", str(tmp_path / "index")]
    main([*build, *options.split()])
    said = capsys.readouterr().out
    found = re.findall(r"([\d.]+)% of the first (\d+)", said)
    assert [int(depth) for _, depth in found] == depths
    assert ("all passages are scored, " in said) == (not depths)
    if depths:
        assert "that scoring all passages by their stored keys would find (32 beginnings of passages), " in said
        assert all(90 <= float(share) <= 100 for share, _ in found)


def test_the_shares_of_what_is_found_are_counted(home, many, tmp_path, capsys, monkeypatch):
    plain = TokenRetriever.search
    monkeypatch.setattr(TokenRetriever, "search", lambda *_, top_k: [each.top(5) for each in plain(*_, top_k=top_k)])
    build = ["index", many, "--model", str(home / "model"), "--candidates", "110", "--out", str(tmp_path / "index")]
    main([*build, "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["recall"] == {"20": pytest.approx(5 / 20, abs=0.02), "100": pytest.approx(5 / 100, abs=0.005)}
    assert (told["asked"], told["asked_with"]) == (32, "beginnings of passages")


def test_an_index_by_a_head_that_was_not_picked_is_told(home, tmp_path, caplog):
    model = load_model(home / "model", options={"head": None})
    assert ModelTokens(model).fingerprint == ModelTokens(model).fingerprint
    assert not caplog.records  # nothing was built
    RETRIEVERS["reatt"].build(Corpus.open(home / "corpus"), tmp_path / "index", encoder=ModelTokens(model))
    assert [record.message[:16] for record in caplog.records] == ["head 0 searches,"]


def test_an_index_is_asked_with_questions_of_ones_own(home, many, tmp_path, capsys):
    asked = tmp_path / "asked.jsonl"
    asked.write_text(json.dumps({"question": ASKED, "answers": ["Vltava"]}) + "\n")
    build = ["index", many, "--retriever", "reatt", "--model", str(home / "model"), "--overwrite"]
    build += ["--out", str(tmp_path / "index"), "--questions", str(asked), "--json"]
    main([*build, "--per-token", "1", "--candidates", "1"])
    found = json.loads(capsys.readouterr().out)
    assert (found["asked"], found["asked_with"]) == (1, "questions")
    kept = open_index(tmp_path / "index").options
    assert (kept.per_token, kept.candidates) == (1, 1)
    words = ["index", str(home / "corpus"), "--retriever", "lexical", "--out", str(tmp_path / "words")]
    for command in ([*words, "--questions", str(asked)], [*build, "--search", "exhaustive"]):
        with pytest.raises(SystemExit):
            main(command)
        assert "--questions measures a search by tokens that does not score every" in capsys.readouterr().err


def test_questions_that_are_cut_are_told(home, memory, tmp_path, capsys):
    texts = ASKED, f"{'river ' * 60}{ASKED}"
    rows = [{"question": text, "answers": ["Vltava"], "positive": ["p0"]} for text in texts]
    asked = tmp_path / "asked.jsonl"
    asked.write_text("".join(json.dumps(row) + "\n" for row in rows))
    place = ["--model", str(home / "model"), "--memory", str(memory)]
    main(["ask", texts[1], *place])
    assert re.search(r"the question has \d{2,3} tokens; the first 48 are read", capsys.readouterr().err)
    main(["ask", ASKED, *place])
    assert "are read" not in capsys.readouterr().err
    for command in (["eval", "--questions", str(asked), *place], ["rank", str(asked), "--index", str(memory)]):
        main([*command, "--top-k", "5", "--json"])
        assert "1 of the 2 questions have more than 48 tokens; the first 48 are read" in capsys.readouterr().err


# -- training --------------------------------------------------------------------------------------------------------


def recipe(home, **training):
    return parse_recipe(
        {
            "init": {"from": str(home / "model")},
            "system": {"name": "reatt"},
            "data": {
                "corpus": str(home / "corpus"),
                "index": str(home / "lexical"),
                "stages": [{"top_k": 3}],
                "refresh": [2, 4],
            },
            "tasks": {"rivers": {"questions": str(home / "questions.jsonl")}},
            "training": {"steps": 6, "batch_size": 4, "save_every": 1, "log_every": 1, "learning_rate": 1e-3}
            | training,
        }
    )


@pytest.fixture(scope="module")
def taught(home):
    RETRIEVERS["lexical"].build(Corpus.open(home / "corpus"), home / "lexical")
    rows = [
        {"id": f"q{number}", "question": f"Which river flows through {city}?", "answers": [RIVERS[number]]}
        for number, city in enumerate(CITIES)
    ]
    (home / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run_recipe(recipe(home), home / "run", progress=False)
    return home / "run"


def test_iterations_read_what_the_model_finds(home, taught, tmp_path):
    """From its first refresh on, candidates are those of the model's own search, with the weights reached then."""
    questions = {question.id: question.text for question in read_questions(home / "questions.jsonl")}
    differ = 0
    for step in (2, 4):
        refreshed = [border for border in (2, 4) if border < step]
        plan = recipe(home, steps=step, schedule_steps=6, warmup=0)
        plan = replace(plan, data=replace(plan.data, refresh=refreshed))
        run_recipe(plan, tmp_path / f"{step}", progress=False)
        encoder = ModelTokens(load_model(tmp_path / f"{step}" / "last"))
        index = RETRIEVERS["reatt"].build(Corpus.open(home / "corpus"), tmp_path / f"{step}-index", encoder=encoder)
        lines = (taught / f"own-candidates-{step:06d}-rivers.jsonl").read_text().splitlines()
        words = open_index(home / "lexical")
        for row in map(json.loads, lines):
            probe = Probe(words=questions[row["id"]])
            found = index.search([probe], top_k=3)[0].ids
            assert [each["id"] for each in row["candidates"]] == list(found)
            differ += list(words.search([probe], top_k=3)[0].ids) != list(found)
    assert differ > 0
    assert not list(taught.glob("refresh-*"))


def test_the_log_tells_which_head_retrieves(taught):
    log = [json.loads(line) for line in (taught / "log.jsonl").read_text().splitlines()]
    assert {"nll", "cross_document"} <= set(log[0])
    model = load_model(taught / "last")
    assert (log[-1]["head"], log[-1]["head_share"]) == tuple(model.system.facts().values())
    assert log[-1]["head_share"] == 1.0  # picked before its own search first found what is read


def test_a_stopped_run_goes_on_with_the_same_candidates(home, taught, tmp_path):
    """Stopped inside the second iteration and gone on with, it ends with the weights of the unbroken run."""
    folder = tmp_path / "run"
    calls = []

    def interrupt(model):
        calls.append(1)
        raise KeyboardInterrupt

    stopping = recipe(home, evaluate_every=3, keep_best="em")
    with pytest.raises(KeyboardInterrupt):
        run_recipe(stopping, folder, lambda *_: interrupt, progress=False)
    assert calls
    assert (folder / "own-candidates-000002-rivers.jsonl").is_file()
    run_recipe(stopping, folder, lambda *_: lambda model: {"em": 0.0}, progress=False)
    whole, resumed = (load_model(place / "last").system.state_dict() for place in (taught, folder))
    for name, weight in whole.items():
        assert torch.equal(weight, resumed[name]), name


def test_refreshing_needs_a_search(home, taught, tmp_path):
    plan = recipe(home)
    other = {**plan.system, "name": "fid"}
    with pytest.raises(ValueError, match=r"data.refresh=\[2, 4\], but fid has no search of its own"):
        run_recipe(replace(plan, system=other), tmp_path / "run", progress=False)
