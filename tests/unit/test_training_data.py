"""Batches: the same every time, in the right mixture, with the right candidates and targets."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from wellread.corpus.store import Corpus
from wellread.nn.tokenizers import train_tokenizer
from wellread.reading.frame import Frame, FrameConfig
from wellread.retrieval import RETRIEVERS
from wellread.retrieval.given import write_run
from wellread.training.candidates import Finder, open_finder
from wellread.training.config import DataConfig, StageConfig, TaskConfig
from wellread.training.data import BLOCK, Batches, PassageTokens, Task, collate, prepare_task
from wellread.types import Candidates, Passage, Probe, Question

COLOURS = ("red", "green", "blue", "white")
PASSAGES = [
    Passage(f"p{index}", f"The house number {index} is {COLOURS[index % 4]} .", "Houses") for index in range(20)
]
QUESTIONS = [
    Question(f"q{index}", f"what colour is house number {index}", (COLOURS[index % 4], "painted"), (f"p{index}",))
    for index in range(20)
]

THREE, FOUR = (StageConfig(top_k=3),), (StageConfig(top_k=4),)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("houses")
    RETRIEVERS["lexical"].build(Corpus.write(PASSAGES, folder / "corpus"), folder / "index")
    return folder


@pytest.fixture(scope="module")
def corpus(place) -> Corpus:
    return Corpus.open(place / "corpus")


@pytest.fixture(scope="module")
def frame() -> Frame:
    texts = [passage.text for passage in PASSAGES] + [question.text for question in QUESTIONS]
    return Frame(FrameConfig(passage_tokens=32), train_tokenizer(texts, 120))


def task(name: str = "one", questions=QUESTIONS, *, top_k: int = 4, first: int = 0, **options) -> Task:
    """Questions whose candidates are passages first, first + 1, ...: never the positive of a later question."""
    found = Candidates(tuple(f"p{first + k}" for k in range(top_k)), tuple(float(top_k - k) for k in range(top_k)))
    config = TaskConfig(Path("x"), **options)
    return Task(name, config, questions, [found] * len(questions), [item.positive for item in questions], {})


def batches(tasks, frame, corpus, *, stages=FOUR, batch_size=4, seed=0) -> Batches:
    data = DataConfig(Path("c"), Path("i"), stages=tuple(stages))
    passages = PassageTokens(frame, corpus, corpus.ids())
    return Batches(tasks, passages, frame, data=data, batch_size=batch_size, seed=seed)


# -- what is drawn -----------------------------------------------------------------------------------------


def test_a_batch_is_a_function_of_seed_and_step(frame, corpus):
    one = batches([task(target="sample")], frame, corpus)
    other = batches([task(target="sample")], frame, corpus)
    later = [one.examples(step) for step in range(9)]
    assert [other.examples(step) for step in reversed(range(9))] == later[::-1]
    assert batches([task()], frame, corpus, seed=1).examples(0) != batches([task()], frame, corpus).examples(0)


def test_parts_are_the_batch(frame, corpus):
    source = batches([task()], frame, corpus, batch_size=5)
    parts = [source.examples(3, part, 3) for part in range(3)]
    assert [example for part in parts for example in part] == source.examples(3)
    assert [len(part) for part in parts] == [2, 2, 1]


def test_every_question_comes_once_an_epoch_in_another_order_each_time(frame, corpus):
    source = batches([task()], frame, corpus)
    drawn = [example.question.id for step in range(10) for example in source.examples(step)]
    first, second = drawn[:20], drawn[20:]
    assert set(first) == set(second) == {question.id for question in QUESTIONS}
    assert first != second


def test_tasks_are_mixed_by_weight_and_each_keeps_its_epochs(frame, corpus):
    tasks = [task("one", QUESTIONS[:13], weight=3.0), task("two", QUESTIONS[13:])]
    source = batches(tasks, frame, corpus, batch_size=50)
    drawn = [(example.task, example.question.id) for step in range(100) for example in source.examples(step)]
    assert len(drawn) > BLOCK  # so that counting over blocks is part of this
    # 5,000 draws with p = 3/4: standard deviation 0.6 %, and four of them.
    assert np.mean([name == "one" for name, _ in drawn]) == pytest.approx(0.75, abs=0.025)
    for name, size in (("one", 13), ("two", 7)):
        counts = Counter(id for which, id in drawn if which == name)
        assert len(counts) == size
        assert max(counts.values()) - min(counts.values()) <= 1


def test_targets(frame, corpus):
    first = batches([task(target="first")], frame, corpus).examples(0)
    assert all(example.target == example.question.answers[0] for example in first)
    source = batches([task(target="sample")], frame, corpus)
    sampled = Counter(example.target == "painted" for step in range(100) for example in source.examples(step))
    # 400 draws with p = 1/2: standard deviation 2.5 %, and four of them.
    assert sampled[True] / 400 == pytest.approx(0.5, abs=0.1)


# -- candidates --------------------------------------------------------------------------------------------


def test_stages_change_how_many_candidates_are_read(frame, corpus):
    source = batches([task()], frame, corpus, stages=[StageConfig(0, 2), StageConfig(5, 3)])
    assert [source.batch(step).candidates.num_passages for step in (0, 4, 5)] == [2, 2, 3]


def test_gold_share_puts_a_positive_in_the_last_place(frame, corpus):
    missing = task(questions=QUESTIONS[4:])  # candidates p0..p3, positives p4...
    source = batches([missing], frame, corpus, stages=[StageConfig(0, 4, gold_share=0.25)])
    examples = [example for step in range(200) for example in source.examples(step)]
    golden = [example for example in examples if example.question.positive[0] in example.ids]
    # 800 draws with p = 1/4: standard deviation 1.5 %, and four of them.
    assert len(golden) / len(examples) == pytest.approx(0.25, abs=0.06)
    for example in golden:
        assert example.ids == ("p0", "p1", "p2", example.question.positive[0])
        assert len(example.scores) == 4


def test_gold_share_leaves_questions_alone_that_found_a_positive(frame, corpus):
    source = batches([task(questions=QUESTIONS[:3])], frame, corpus, stages=[StageConfig(0, 4, gold_share=1.0)])
    assert all(example.ids == ("p0", "p1", "p2", "p3") for example in source.examples(0))


def test_gold_share_fills_up_a_short_list(frame, corpus):
    short = task(questions=QUESTIONS[4:], top_k=2)
    source = batches([short], frame, corpus, stages=[StageConfig(0, 4, gold_share=1.0)])
    assert all(example.ids == ("p0", "p1", example.question.positive[0]) for example in source.examples(0))


def test_a_batch_holds_what_was_drawn(frame, corpus):
    source = batches([task()], frame, corpus)
    examples, batch = source.examples(2), source.batch(2)
    framed = frame.passages(corpus.get(examples[0].ids))
    for column, row in enumerate(framed):
        assert batch.candidates.tokens[0, column, : len(row)].tolist() == row
        assert batch.candidates.mask[0, column].sum() == len(row)
    positive = [[name in example.question.positive for name in example.ids] for example in examples]
    assert batch.positive.tolist() == positive
    target, mask = frame.targets([example.target for example in examples])
    assert torch.equal(batch.target, target)
    assert torch.equal(batch.target_mask, mask)
    assert batch.candidates.scores[0].tolist() == [4.0, 3.0, 2.0, 1.0]


def test_states_come_from_memory(frame, corpus):
    class Memory:
        def fetch(self, ids):
            rows = [torch.full((3, 5), float(name[1:])) for name in ids]
            return type("Rows", (), {"states": rows, "keys": None})

    source = batches([task()], frame, corpus)
    batch = collate(source.examples(0), frame, source.passages, memory=Memory())
    assert batch.candidates.states.shape == (4, 4, 3, 5)
    assert batch.candidates.states[:, :, 0, 0].tolist() == [[0.0, 1.0, 2.0, 3.0]] * 4


def test_tokens_of_passages_are_framed_once_whatever_way_they_are_read(frame, corpus):
    few, all_ = PassageTokens(frame, corpus, ["p3", "p3"]), PassageTokens(frame, corpus, corpus.ids())
    assert (len(few), len(all_)) == (1, 20)
    assert few["p3"].tolist() == all_["p3"].tolist() == frame.passages(corpus.get(["p3"]))[0]
    assert few["p3"].dtype == np.int32
    with pytest.raises(ValueError, match="ids 'p99' are not in corpus"):
        PassageTokens(frame, corpus, [*corpus.ids(), "p99"])


# -- preparing ---------------------------------------------------------------------------------------------


def prepare(place, corpus, questions, *, stages=THREE, drop=False) -> Task:
    data = DataConfig(place / "corpus", place / "index", stages=tuple(stages), drop_unanswerable=drop)
    finder = open_finder(index=data.index, candidates=None, progress=False)
    return prepare_task("one", TaskConfig(Path("x")), questions, data=data, finder=finder, corpus=corpus)


def test_preparing_finds_candidates_and_leaves_out_what_cannot_be_trained_on(place, corpus):
    extra = [Question("a", "house number 3", ()), Question("b", "zebra", ("x",))]
    ready = prepare(place, corpus, [*QUESTIONS, *extra])
    assert len(ready.questions) == 20
    assert ready.left_out == {"without_answer": 1, "without_candidates": 1}
    assert all(len(found.ids) == 3 for found in ready.candidates)


def test_unanswerable_questions_are_left_out_on_demand(place, corpus):
    asked = [
        Question("found", "what colour is house number 3", ("Red!",)),  # 3 is white, but some house found is red
        Question("never", "what colour is house number 3", ("purple",)),
        Question("part", "what colour is house number 3", ("hit",)),  # only a part of a word
        Question("known", "what colour is house number 3", ("purple",), ("p3",)),
        Question("claim", "house number 3 is purple", ("REFUTES",), task="claim"),  # a label stands in no passage
    ]
    ready = prepare(place, corpus, asked, stages=[StageConfig(top_k=20)], drop=True)
    assert [question.id for question in ready.questions] == ["found", "known", "claim"]
    assert ready.left_out["unanswerable"] == 2


def test_nothing_to_train_on_is_told(place, corpus):
    with pytest.raises(
        ValueError, match=r"no question of tasks.one can be trained on \(x: 1 questions, left out: 0 without answer, 1 "
    ):
        prepare(place, corpus, [Question("b", "zebra", ("x",))])


def test_gold_share_without_positives_is_told(place, corpus):
    asked = [Question("a", "house number 3", ("white",), ("elsewhere",))]
    with pytest.raises(ValueError, match=r"no question of tasks.one names a positive passage of corpus"):
        prepare(place, corpus, asked, stages=[StageConfig(top_k=2, gold_share=0.5)])


def test_candidates_are_kept_and_read_back(place, tmp_path, monkeypatch):
    finder = open_finder(index=place / "index", candidates=None, cache=tmp_path, progress=False)
    first = finder.find(QUESTIONS, top_k=3, name="one")
    assert [path.name.startswith("candidates-one-") for path in tmp_path.iterdir()] == [True]
    monkeypatch.setattr("wellread.training.candidates.open_index", None)  # it is not asked again
    assert finder.find(QUESTIONS, top_k=3, name="one") == first
    with pytest.raises(TypeError):
        finder.find(QUESTIONS, top_k=4, name="one")


def test_a_file_of_candidates_takes_the_place_of_an_index(place, tmp_path):
    found = Finder(place / "index", None, tmp_path, progress=False).find(QUESTIONS, top_k=3, name="one")
    (file,) = tmp_path.iterdir()
    given = open_finder(index=None, candidates=file, progress=False)
    assert given.find(QUESTIONS[:5], top_k=2, name="x") == [candidates.top(2) for candidates in found[:5]]
    with pytest.raises(ValueError, match="has no row for 1 of 1 questions, such as 'new'"):
        given.find([Question("new", "x")], top_k=2, name="x")


def test_finder_messages(place, tmp_path):
    with pytest.raises(ValueError, match="holds no search index; make one with `wellread index`"):
        open_finder(index=tmp_path, candidates=None)
    with pytest.raises(ValueError, match="does not exist; give a file of candidates"):
        open_finder(index=None, candidates=tmp_path / "nothing")
    twice = [Question("a", "one"), Question("a", "two")]
    with pytest.raises(ValueError, match="question id='a' stands for two questions"):
        open_finder(index=place / "index", candidates=None).find(twice, top_k=1, name="x")


# -- masked questions, and candidates found anew -----------------------------------------------------------------


def masked(number: int, *, hidden: bool) -> Question:
    more = {"hidden": [f"p{number}"]} if hidden else {}
    text = f"The house number {number} is [MASK] ."
    return Question(f"m{number}", text, (COLOURS[number % 4],), metadata={"mask": "[MASK]", **more})


def test_a_mask_is_no_word_to_search_for():
    assert masked(3, hidden=False).words == "The house number 3 is ."
    assert QUESTIONS[3].words == QUESTIONS[3].text


def test_hidden_passages_are_not_found(place):
    finder = Finder(index=place / "index", candidates=None, progress=False)
    seen, unseen = finder.find([masked(13, hidden=False), masked(17, hidden=True)], top_k=5, name="masked")
    assert seen.ids[0] == "p13"
    assert "p17" not in unseen.ids
    assert len(seen.ids) == len(unseen.ids) == 5
    assert list(unseen.scores) == sorted(unseen.scores, reverse=True)


def test_an_entry_made_of_a_question_is_no_candidate_of_it(tmp_path):
    asked = Question("1", "Who built the mill?", ("Anna",))
    own = Passage("1", f"Question: {asked.text} Answer: Anna.", metadata={"asked": asked.text})
    corpus = Corpus.write([own, Passage("2", "Anna built the mill.")], tmp_path / "corpus")
    index = RETRIEVERS["lexical"].build(corpus, tmp_path / "index")
    found = index.search([Probe(words=asked.text)], top_k=2)
    assert found[0].ids == ("1", "2")
    write_run(tmp_path / "given.jsonl", [asked], found)
    for index, candidates in ((tmp_path / "index", None), (None, tmp_path / "given.jsonl")):
        finder = open_finder(index=index, candidates=candidates, passages=corpus.get, progress=False)
        assert finder.find([asked], top_k=1, name="x")[0].ids == ("2",)


def test_renewed_candidates_count_from_their_step_on(frame, corpus):
    data = DataConfig(Path("c"), Path("i"), stages=FOUR)
    made = Batches(
        [task(first=0)], PassageTokens(frame, corpus, ["p0", "p1", "p2", "p3"]), frame, data=data, batch_size=4
    )
    before = [made.batch(step) for step in range(4)]
    drawn = made.drawn(2, 3)["one"]
    assert set(drawn) == {example.question.id for example in made.examples(2)}
    other = Candidates(("p9", "p8", "p7", "p6", "p5"), (5.0, 4.0, 3.0, 2.0, 1.0))
    made.renew(2, {"one": dict.fromkeys(drawn, other)})  # passages that were not framed before
    assert [list(row) for row in made.batch(2).candidates.ids] == [["p9", "p8", "p7", "p6"]] * 4
    for step in (0, 1):
        assert torch.equal(made.batch(step).candidates.tokens, before[step].candidates.tokens)
    kept = {example.question.id for example in made.examples(3)} - set(drawn)
    assert kept
    for example in made.examples(3):
        assert example.ids == (("p9", "p8", "p7", "p6") if example.question.id in drawn else ("p0", "p1", "p2", "p3"))


def test_steps_of_refreshing_are_in_order():
    with pytest.raises(ValueError, match=r"data.refresh=\[4, 2\]; steps from 0, each later than the one before"):
        DataConfig(Path("c"), Path("i"), refresh=(4, 2))
