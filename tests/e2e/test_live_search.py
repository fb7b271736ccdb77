"""A model that seeks while it trains: the index behind it, runs that are stopped, and the command line's whole way."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from live_kit import PASSAGES, made, recipe, rows, weights

from wellread.cli.main import main
from wellread.corpus.questions import read_questions
from wellread.corpus.store import Corpus
from wellread.corpus.writing import write_questions
from wellread.model import load_model, save_model
from wellread.pipeline import open_pipeline
from wellread.retrieval import open_index
from wellread.retrieval.vectors import VectorOptions
from wellread.training import live
from wellread.training.config import DataConfig, LiveConfig, StageConfig
from wellread.training.dev import DevQuestions
from wellread.training.recipes import parse_recipe
from wellread.training.run import run_recipe
from wellread.types import Candidates, Passage, Probe


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return made(tmp_path_factory.mktemp("live"))


def test_what_is_found_is_what_the_weights_of_the_step_find(home, tmp_path, monkeypatch):
    """Every step seeks anew in the keys of the last refresh, and never finds a question's own passage."""
    seen, plain = [], live.LiveSearch.complete

    def complete(self, model, examples):
        batch = plain(self, model, examples)
        names = [example.question.hidden for example in examples]
        assert not any(set(own) & set(found) for own, found in zip(names, batch.candidates.ids, strict=True))
        inputs = model.frame.questions([example.question.text for example in examples])
        model.system.eval()
        with torch.no_grad():
            queries = torch.cat(list(model.system.seek(inputs)))
        model.system.train()
        for query, ids, own in zip(queries, batch.candidates.ids, names, strict=True):
            scores = (self._keys @ query).tolist()
            allowed = sorted((score for name, score in zip(self.ids, scores) if name not in own), reverse=True)
            # Untrained passages score nearly alike: what counts is that none scores higher. float32 in another order.
            assert [scores[self.ids.index(name)] for name in ids] == pytest.approx(allowed[:3], abs=1e-5)
        seen.append((self.now, self.made_at))
        return batch

    monkeypatch.setattr(live.LiveSearch, "complete", complete)
    run_recipe(recipe(home, steps=5, every=2, background=False), tmp_path, progress=False)
    assert seen == [(0, 0), (1, 0), (2, 2), (3, 2), (4, 4)]
    assert [row["index_age"] for row in rows(tmp_path)] == [1, 2, 1, 2, 1]
    assert [row["answerable"] for row in rows(tmp_path)] == [1.0] * 5


def test_a_stopped_run_goes_on_to_the_last_bit(home, tmp_path):
    how = {"every": 2, "background": False}
    run_recipe(recipe(home, steps=7, **how), tmp_path / "whole", progress=False)
    run_recipe(recipe(home, steps=3, **how), tmp_path / "parts", progress=False)
    # As if it had been killed later than its checkpoint: an index of the future is not used.
    (tmp_path / "parts" / "keys-000006.npy").write_bytes((tmp_path / "parts" / "keys-000002.npy").read_bytes())
    run_recipe(recipe(home, steps=7, **how), tmp_path / "parts", progress=False)
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert [row["index_step"] for row in rows(tmp_path / "parts")] == [0, 0, 2, 2, 4, 4, 6]


def test_indexes_that_no_checkpoint_needs_are_dropped(home, tmp_path):
    run_recipe(recipe(home, steps=7, every=2, background=False), tmp_path, progress=False)
    assert [file.name for file in sorted(tmp_path.glob("keys-0*.npy"))] == ["keys-000006.npy"]


def test_with_frozen_passages_stored_keys_are_read(home, tmp_path, monkeypatch):
    main(["memorize", str(home / "corpus"), "--model", str(home / "model"), "--out", str(tmp_path / "memory")])
    monkeypatch.setattr(live, "encode_keys", None)  # no passage is read for an index
    how = {"memory": str(tmp_path / "memory"), "freeze": ["passage_tower."]}
    report = run_recipe(recipe(home, steps=2, task="qa", dev=True, **how), tmp_path / "run", progress=False)
    assert report.best is not None
    before, after = load_model(home / "model").system, load_model(tmp_path / "run" / "last").system
    same = [torch.equal(*pair) for pair in zip(before.passage_tower.parameters(), after.passage_tower.parameters())]
    assert all(same)
    moved = zip(before.question_tower.parameters(), after.question_tower.parameters())
    assert not all(torch.equal(*pair) for pair in moved)


def test_dev_results_say_how_often_an_answer_was_found(home):
    model, questions = load_model(home / "model"), read_questions(home / "qa.jsonl")
    tokens = dict(zip([passage.id for passage in PASSAGES], model.frame.passages(PASSAGES)))
    # Two get their own passage beside another one, four the one before, one gets nothing.
    ids = [("p0", "p1"), ("p1", "p2"), ("p2",), ("p3",), ("p4",), ("p5",), ()]
    found = [Candidates(each, (0.0,) * len(each)) for each in ids]
    dev = DevQuestions(questions[1:], found, tokens)(model)
    assert dev["recall"] == pytest.approx(100 * 2 / 7)
    assert dev["n"] == 7


def test_inverse_cloze_reads_its_own_passage_less_the_sentence(home, tmp_path):
    seen = []
    plain = live.LiveSearch.complete

    class Seen(live.LiveSearch):
        def complete(self, model, examples):
            batch = plain(self, model, examples)
            for row, example in enumerate(examples):
                own = model.frame.text(batch.candidates.tokens[row, 0].tolist())
                seen.append((example.question.text.lower() in own.replace(" .", "."), example.question.metadata))
            return batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wellread.training.run.LiveSearch", Seen)
        run_recipe(recipe(home, steps=2, task="cloze"), tmp_path, progress=False)
    assert len(seen) == 8
    assert all(there != ("cut_out" in facts) for there, facts in seen)
    assert set(rows(tmp_path)[0]) >= {"loss", "cloze"}
    assert not list(tmp_path.glob("keys-*.npy"))  # nothing was sought


def test_inverse_cloze_of_another_corpus_is_refused(home, tmp_path):
    Corpus.write(PASSAGES[:4], tmp_path / "few")
    table = recipe(home, steps=1, task="cloze")
    other = replace(table, data=replace(table.data, corpus=tmp_path / "few"))
    with pytest.raises(ValueError, match=r"asks for its own passage, which corpus .*few does not have; make the"):
        run_recipe(other, tmp_path / "run", progress=False)


def test_a_memory_of_other_weights_is_no_first_index(home, tmp_path):
    other = load_model(home / "model")
    with torch.no_grad():
        other.system.passage_tower.projection.weight.add_(0.1)
    save_model(tmp_path / "other", other)
    main(["memorize", str(home / "corpus"), "--model", str(tmp_path / "other"), "--out", str(tmp_path / "memory")])
    with pytest.raises(ValueError, match="encoder"):
        run_recipe(recipe(home, steps=2, memory=str(tmp_path / "memory")), tmp_path / "run", progress=False)


def test_a_memory_of_other_passages_is_no_first_index(home, tmp_path):
    Corpus.write(PASSAGES[:4], tmp_path / "few")
    main(["memorize", str(tmp_path / "few"), "--model", str(home / "model"), "--out", str(tmp_path / "memory")])
    with pytest.raises(ValueError, match=r"data.live.memory='.*memory' lacks passage 'p4' of the corpus"):
        run_recipe(recipe(home, steps=2, memory=str(tmp_path / "memory")), tmp_path / "run", progress=False)


def test_an_index_of_the_models_vectors(home, tmp_path, capsys):
    """Built by `index`, from a memory or without; asked by words or vectors; kept up to date; refused to others."""
    model, memory, index = home / "model", tmp_path / "memory", tmp_path / "index"
    main(["memorize", str(home / "corpus"), "--model", str(model), "--out", str(memory)])
    main(["index", str(home / "corpus"), "--model", str(model), "--out", str(index)])
    text = "Which city is on the Vltava?"
    loaded = load_model(model)
    with torch.no_grad():
        vectors = loaded.system.seek(loaded.frame.questions([text]))[0]
    asked = [
        place.search([probe], top_k=8)[0]
        for place in (open_index(index), open_index(memory / "index"))
        for probe in (Probe(words=text), Probe(vectors=vectors))
    ]
    by_id = [dict(zip(found.ids, found.scores)) for found in asked]
    for found in by_id[1:]:
        assert found == pytest.approx(by_id[0], abs=1e-5)  # float32 in batches of other sizes
    Corpus.write([Passage("n1", "The Loire is a river. It flows through Nantes.", "Loire")], tmp_path / "new")
    main(["memory", "add", str(memory), str(tmp_path / "new"), "--model", str(model)])
    assert "n1" in open_index(memory / "index").search([Probe(vectors=vectors)], top_k=9)[0].ids
    main(["memory", "delete", str(memory), "p0"])
    assert "p0" not in open_index(memory / "index").search([Probe(vectors=vectors)], top_k=9)[0].ids
    other = load_model(model)
    with torch.no_grad():
        other.system.question_tower.projection.weight.add_(0.1)
    save_model(tmp_path / "asks", other)  # asks in another way, of the same keys
    main(["ask", text, "--model", str(tmp_path / "asks"), "--memory", str(memory), "--json"])
    with torch.no_grad():
        other.system.passage_tower.projection.weight.add_(0.1)
    save_model(tmp_path / "other", other)
    corpus = ["--corpus", str(home / "corpus"), "--index", str(index)]
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["ask", text, "--model", str(tmp_path / "other"), *corpus])
    assert "the search index was built with other weights or options than this realm" in capsys.readouterr().err


def test_hidden_passages_are_not_read_for_an_answer(home, tmp_path):
    main(["memorize", str(home / "corpus"), "--model", str(home / "model"), "--out", str(tmp_path / "memory")])
    pipeline = open_pipeline(model=home / "model", memory=tmp_path / "memory")
    questions = list(read_questions(home / "masked.jsonl"))
    for question, answer in zip(questions, pipeline.ask(questions, top_k=7), strict=True):
        assert len(answer.passages) == 7
        assert question.hidden[0] not in {passage.id for passage in answer.passages}


@pytest.mark.parametrize("system", ["lumen", "reveal"])
def test_live_search_needs_keys_and_one_vector(home, tmp_path, system):
    table = recipe(home, steps=1).resolved()
    table = {name: value for name, value in table.items() if name in ("training", "data", "tasks")}
    table["data"].pop("index"), table["data"].pop("candidates")
    table["init"], table["system"] = {"from": "wellread-mini"}, {"name": system}
    said = rf"\[data.live\] searches one key per passage with one vector, which {system} does not make"
    with pytest.raises(ValueError, match=said):
        run_recipe(parse_recipe(table), tmp_path, progress=False)


def test_dev_questions_need_somebody_to_find_their_candidates(home, tmp_path):
    table = {
        "system": {"name": "reveal"},
        "data": {"corpus": str(home / "corpus"), "refresh": [0]},
        "tasks": {"qa": {"questions": str(home / "qa.jsonl")}},
        "dev": {"questions": str(home / "qa.jsonl")},
    }
    with pytest.raises(ValueError, match=r"\[dev\]: with data.refresh alone nothing finds candidates"):
        run_recipe(parse_recipe(table), tmp_path, progress=False)


def test_what_is_hidden_is_not_read_where_there_is_little_else(home, tmp_path, monkeypatch):
    found, plain = [], live.LiveSearch.search

    def search(self, model, questions, top_k):
        rows = plain(self, model, questions, top_k)
        found.extend(zip(questions, rows, strict=True))
        return rows

    monkeypatch.setattr(live.LiveSearch, "search", search)
    table = recipe(home, steps=1)
    whole = replace(table, data=replace(table.data, stages=(StageConfig(top_k=len(PASSAGES)),)))
    run_recipe(whole, tmp_path, progress=False)
    assert len(found) == 4
    for question, candidates in found:
        assert set(candidates.ids) == {item.id for item in PASSAGES} - set(question.hidden)


def test_steps_for_which_nothing_is_found_are_trained_on(home, tmp_path):
    """Every passage of the corpus is hidden from its questions: the null passage answers alone."""
    Corpus.write(PASSAGES[:1], tmp_path / "corpus")
    plain = recipe(home, steps=2, background=False)
    masked = [question for question in read_questions(home / "masked.jsonl") if question.hidden == ("p0",)]
    write_questions(tmp_path / "masked.jsonl", masked)
    tasks = {"masked": replace(plain.tasks["masked"], questions=tmp_path / "masked.jsonl")}
    alone = replace(plain, tasks=tasks, data=replace(plain.data, corpus=tmp_path / "corpus"))
    report = run_recipe(alone, tmp_path / "run", progress=False)
    assert report.finished
    assert [row["answerable"] for row in rows(tmp_path / "run")] == [1.0, 1.0]


def test_an_index_of_vectors_names_its_model():
    with pytest.raises(ValueError, match="encoder is missing; give the folder of a model that searches by one vector"):
        VectorOptions()


def test_what_does_not_go_with_live_search(home):
    with pytest.raises(ValueError, match=r"data.live: what is found changes from step to step; leave out data.refresh"):
        DataConfig(home, live=LiveConfig(), refresh=(2,))
    with pytest.raises(ValueError, match=r"or the table \[data.live\]"):
        DataConfig(home, index=home, live=LiveConfig())
    with pytest.raises(ValueError, match=r"data.live.every=-1; it must be at least 0"):
        LiveConfig(every=-1)


def test_the_whole_way_on_the_command_line(home, tmp_path, capsys):
    """init, memorize, ask, eval and train, for spans and for masks."""
    main(["memorize", str(home / "corpus"), "--model", str(home / "model"), "--out", str(tmp_path / "memory")])
    common = ["--model", str(home / "model"), "--memory", str(tmp_path / "memory"), "--top-k", "3", "--json"]
    capsys.readouterr()
    main(["ask", "Which city is on the Vltava?", *common])
    asked = json.loads(capsys.readouterr().out)
    assert len(asked["passages"]) == 3
    assert sum(passage["share"] for passage in asked["passages"]) == pytest.approx(1, abs=1e-3)
    main(["ask", "The Vltava flows through [MASK] [MASK].", *common])
    assert json.loads(capsys.readouterr().out)["answer"]
    for name in ("qa", "masked"):
        main(["eval", "--questions", str(home / f"{name}.jsonl"), *common])
        assert json.loads(capsys.readouterr().out)["n"] > 0


def test_nothing_is_cited_where_nothing_is_read(home, tmp_path, capsys):
    """With the null passage alone; passages that were found have no score then, which JSON says as null."""
    main(["memorize", str(home / "corpus"), "--model", str(home / "model"), "--out", str(tmp_path / "memory")])
    blind = ["--model", str(home / "model"), "--memory", str(tmp_path / "memory"), "--top-k", "3", "--json"]
    blind += ["--set", "null_only=true"]
    capsys.readouterr()
    main(["ask", "The Vltava flows through [MASK] [MASK].", *blind])
    told = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert told["answer"]
    assert (told["support"], told["quote"]) == (None, None)
    assert [(item["kept"], item["score"]) for item in told["passages"]] == [(False, None)] * 3
    main(["eval", "--questions", str(home / "qa.jsonl"), *blind, "--answers", str(tmp_path / "answers.jsonl")])
    told = json.loads(capsys.readouterr().out)
    assert told["answer@kept"] == 0 < told["answer@all"]
    for line in (tmp_path / "answers.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)
