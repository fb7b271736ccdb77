"""The memory that is trained along: what is stored, what is found, and that a stopped run goes on with the same.

Run as a script, this file is one of several processes.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from wellread.config import from_mapping
from wellread.corpus.store import Corpus
from wellread.model import Model, build_model
from wellread.nn.building import build_from_scratch
from wellread.reading.frame import FrameConfig
from wellread.systems import SYSTEMS
from wellread.training.config import DataConfig, StageConfig, TaskConfig, TrainingConfig
from wellread.training.data import Batches, PassageTokens, Task
from wellread.training.loop import train
from wellread.training.online import OnlineMemory, drop_online_memory
from wellread.training.processes import Processes, find_processes
from wellread.types import Candidates, Inputs, Passage, Question

COLOURS = ("red", "green", "blue", "white")
ENTRIES = [
    Passage(f"f{n}", f"thing {n} is {COLOURS[n % 4]}", "Thing", {"picture": f"img{n}"} if n % 2 else {}, "facts")
    for n in range(8)
] + [
    Passage(f"c{n}", f"a picture of thing {n}", "", {"picture": f"cap{n}", "entity": f"f{n}"}, "captions")
    for n in range(4)
]
QUESTIONS = [
    Question(
        f"q{n}",
        "what colour is it",
        (COLOURS[n % 4],),
        (f"f{n}",),
        metadata={"image": f"img{n}" if n == 1 else f"ask{n}", "hidden": [f"c{n}"]},
    )
    for n in range(8)
]
OPTIONS = {"sources": ("facts", "captions"), "picture_dim": 6, "patches": 4, "patch_width": 2, "num_latents": 3}
OPTIONS |= {"key_dim": 8, "reencoded": 1}
DATA = DataConfig(Path("c"), refresh=(0, 2), stages=(StageConfig(top_k=3, gold_share=1.0),))


class Pictures:
    """Features that follow from the picture's name."""

    fingerprint, patches, groups = "a net", 4, (6,)

    def features(self, names):
        picture, mask = torch.zeros(len(names), 4, 6), torch.zeros(len(names), 4, dtype=torch.bool)
        for row, name in enumerate(names):
            if name is not None:
                seed = int.from_bytes(name.encode(), "little") % 2**31
                picture[row] = torch.randn(4, 6, generator=torch.Generator().manual_seed(seed))
                mask[row] = True
        return picture, mask


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    return Corpus.write(ENTRIES, tmp_path_factory.mktemp("things") / "corpus")


def new_model() -> Model:
    texts = [f"{entry.title} {entry.text}" for entry in ENTRIES] + [question.text for question in QUESTIONS]
    sizes = {"vocab_size": 120, "dim": 16, "layers": 3, "heads": 2, "decoder_layers": 1, "family": "bert"}
    return build_model("reveal", OPTIONS, *build_from_scratch(texts, **sizes), frame=FrameConfig(passage_tokens=16))


@pytest.fixture
def model() -> Model:
    return new_model()


def a_task(name: str = "vqa", weight: float = 1.0) -> Task:
    nothing = [Candidates((), ()) for _ in QUESTIONS]
    config = TaskConfig(Path("x"), weight=weight)
    return Task(name, config, QUESTIONS, nothing, [item.positive for item in QUESTIONS], {})


def batches(model: Model, corpus: Corpus, *tasks: Task) -> Batches:
    passages = PassageTokens(model.frame, corpus, corpus.ids())
    more = {"pictures": Pictures(), "source_of": model.system.source_of}
    return Batches(tasks or [a_task()], passages, model.frame, data=DATA, batch_size=4, **more)


def online(model: Model, corpus: Corpus, folder: Path, processes: Processes | None = None) -> OnlineMemory:
    source = batches(model, corpus)
    return OnlineMemory(source, corpus, folder, data=DATA, last=4, processes=processes, progress=False)


def alone(model: Model, entry: Passage):
    """What an entry by itself is remembered as."""
    with torch.no_grad():
        return model.with_pictures(Pictures()).encode([entry])[0]


def test_what_is_stored_is_what_the_model_remembers(model, corpus, tmp_path):
    memory = online(model, corpus, tmp_path)
    memory(model, 0)
    for entry in ENTRIES:
        kept = memory.fetch([entry.id])
        wanted = alone(model, entry)
        # Values are kept in float16, eleven bits.
        torch.testing.assert_close(kept.states[0], wanted.states, rtol=1e-3, atol=2e-3)
        torch.testing.assert_close(kept.keys[0], wanted.keys, rtol=1e-4, atol=2e-5)


def test_what_is_found_is_what_scores_highest_of_what_may_be_read(model, corpus, tmp_path):
    torch.nn.init.normal_(model.system.gate.weight, std=3.0)
    memory = online(model, corpus, tmp_path)
    memory(model, 0)
    found = memory.find(model, QUESTIONS, top_k=5)
    for question, candidates in zip(QUESTIONS, found):
        asked = model.frame.questions([question.text])
        with torch.no_grad():
            probe = model.system.seek(Inputs(asked.tokens, asked.mask, *Pictures().features([question.picture])))[0]
        scores = {entry.id: float(probe[model.system.source_of(entry)] @ alone(model, entry).keys) for entry in ENTRIES}
        allowed = sorted((name for name in scores if name not in question.hidden), key=scores.get, reverse=True)
        assert list(candidates.ids) == allowed[:5]
        assert candidates.scores == pytest.approx([scores[name] for name in allowed[:5]], abs=1e-5)
        assert f"c{question.id[1:]}" not in candidates.ids


def test_entries_of_a_hidden_picture_are_not_found_and_not_compared_with(model, tmp_path):
    more = [Passage(f"q{n}", "what colour is it", "", {"picture": "ask2", "asked": "what?"}, "facts") for n in range(3)]
    corpus = Corpus.write([*ENTRIES, *more], tmp_path / "corpus")
    asked = [replace(item, metadata={**item.metadata, "hidden": [item.picture]}) for item in QUESTIONS]
    memory = online(model, corpus, tmp_path)
    memory(model, 0)
    for question, found in zip(asked, memory.find(model, asked, top_k=len(ENTRIES))):
        of_picture = {item.id for item in more} if question.id == "q2" else set()
        assert len(found.ids) == len(ENTRIES)
        assert of_picture.isdisjoint(found.ids)
        assert set(memory.batches.passages.hiding(question)) == {question.picture, *of_picture}
    # It is right, though it shows what is asked about.
    assert "f1" in memory.find(model, asked[1:2], top_k=len(ENTRIES))[0].ids


def test_batches_read_pictures_sources_and_what_is_stored(model, corpus, tmp_path):
    memory = online(model, corpus, tmp_path)
    memory(model, 0)
    source = memory.batches
    batch, examples = source.batch(0), source.examples(0)
    about = {entry.id: entry for entry in ENTRIES}
    for row, example in enumerate(examples):
        torch.testing.assert_close(batch.inputs.picture[row], Pictures().features([example.question.picture])[0][0])
        assert example.question.positive[0] in example.ids  # gold_share = 1
        for column, name in enumerate(example.ids):
            entry = about[name]
            assert batch.candidates.source[row, column] == OPTIONS["sources"].index(entry.source)
            own = entry.picture == example.question.picture
            assert bool(batch.candidates.picture_mask[row, column].any()) == (entry.picture is not None and not own)
            assert bool(batch.positive[row, column]) == (name in example.question.positive)
            assert batch.about[row][column] == entry.metadata.get("entity", "")
        assert batch.known[row] == example.question.positive
        assert batch.hidden[row] == example.question.hidden
    kept = memory.fetch([example.ids[0] for example in examples])
    torch.testing.assert_close(batch.candidates.keys[:, 0], kept.keys)
    torch.testing.assert_close(batch.candidates.states[:, 0], torch.stack(list(kept.states)))


def test_a_question_is_not_read_with_its_own_picture(model, corpus, tmp_path):
    source = batches(model, corpus)
    source.renew(0, {"vqa": {item.id: Candidates(("f1", "f3"), (2.0, 1.0)) for item in QUESTIONS}})
    for step in range(4):
        batch = source.batch(step)
        for row, example in enumerate(source.examples(step)):
            place = example.ids.index("f1")
            assert bool(batch.candidates.picture_mask[row, place].any()) == (example.question.picture != "img1")


def run(
    model: Model, corpus: Corpus, folder: Path, steps: int = 4, save_every: int = 1, killed_at: int | None = None
) -> dict:
    memory = online(model, corpus, folder)
    plain = memory.batches.batch

    def batch(step: int, *parts: int):
        if step == killed_at:
            raise KeyboardInterrupt
        return plain(step, *parts)

    memory.batches.batch = batch
    sizes = {"steps": steps, "schedule_steps": 4, "batch_size": 4, "save_every": save_every}
    config = TrainingConfig(**sizes, learning_rate=1e-2, device="cpu")
    train(model, memory.batches, config, out=folder, refresh=memory, progress=False)
    return {name: weight.detach().clone() for name, weight in model.system.named_parameters()}


def test_a_stopped_run_goes_on_as_an_unbroken_one(model, corpus, tmp_path):
    first, second, third = (deepcopy(model) for _ in range(3))
    whole = run(first, corpus, tmp_path / "whole")
    run(second, corpus, tmp_path / "parts", steps=3)
    resumed = run(third, corpus, tmp_path / "parts")
    moved = [name for name in whole if not torch.equal(whole[name], dict(model.system.named_parameters())[name])]
    assert any(name.startswith("nets.key_head.") for name in moved)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    kept = sorted(file.name for file in (tmp_path / "whole").glob("online-*"))
    assert kept == ["online-000002-keys.npy", "online-000002-values.npy", "online-000002.json"]
    drop_online_memory(tmp_path / "whole")
    assert not list((tmp_path / "whole").glob("online-*"))


def test_a_run_killed_after_a_refresh_goes_on_as_an_unbroken_one(model, corpus, tmp_path):
    """However seldom it saves: the refresh threw away what the steps before it would have needed."""
    first, second, third = (deepcopy(model) for _ in range(3))
    seldom = {"save_every": 1000}
    whole = run(first, corpus, tmp_path / "whole", **seldom)
    with pytest.raises(KeyboardInterrupt):
        run(second, corpus, tmp_path / "parts", killed_at=3, **seldom)
    resumed = run(third, corpus, tmp_path / "parts", **seldom)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("others", [ENTRIES[:-1], [replace(ENTRIES[0], text="thing 0 is black"), *ENTRIES[1:]]])
def test_a_run_is_not_resumed_over_other_entries(model, corpus, tmp_path, others):
    run(deepcopy(model), corpus, tmp_path / "run", steps=3)
    changed = Corpus.write(others, tmp_path / "changed")
    told = rf"the run in .*run began with other entries than c holds now \(12 then, {len(others)} now\).*--restart"
    with pytest.raises(ValueError, match=told):
        run(deepcopy(model), changed, tmp_path / "run")
    # What an earlier version kept says the number of entries alone.
    (tmp_path / "run" / "online-000002.json").write_text('{"entries": 12}\n')
    run(deepcopy(model), corpus, tmp_path / "run")


def test_a_task_that_no_question_is_drawn_of_stops_nothing(model, corpus, tmp_path):
    source = batches(model, corpus, a_task(), a_task("rare", weight=1e-9))
    memory = OnlineMemory(source, corpus, tmp_path, data=DATA, last=4, progress=False)
    assert source.drawn(0, 2)["rare"] == {}
    memory(model, 0)
    assert all(example.ids for example in source.examples(0))


def test_a_run_that_finds_everything_itself_needs_no_index():
    assert DATA.finds_all_itself
    with pytest.raises(ValueError, match=r"give one of them.*or refresh from step 0 on with refresh_share = 1"):
        DataConfig(Path("c"), refresh=(2,))
    with pytest.raises(ValueError, match=r"or refresh from step 0 on"):
        DataConfig(Path("c"), refresh=(0,), refresh_share=0.5)


def test_pictures_that_are_not_given_are_asked_for(model):
    with pytest.raises(ValueError, match=r"passage 'f1' has a picture, which this reveal reads, but no folder"):
        model.encode([ENTRIES[1]])
    assert model.encode([ENTRIES[0]])[0].keys.shape == (8,)


def test_other_systems_read_no_pictures(tiny, model):
    kind = SYSTEMS["fid"]
    other = replace(model, name="fid", system=kind(from_mapping(kind.Config, {}), tiny.reader("bert")))
    with pytest.raises(ValueError, match=r"FiD reads no pictures"):
        other.with_pictures(Pictures())
    assert other.encode([ENTRIES[1]])[0].states is None


def made(folder: Path, processes: Processes) -> dict:
    """A refresh, and what was found and stored in it."""
    model, corpus = new_model(), Corpus.open(folder / "corpus")
    model.system.load_state_dict(torch.load(folder / "weights.pt"))
    home = folder / f"of{processes.count}"
    home.mkdir(exist_ok=True)
    memory = online(model, corpus, home, processes)
    memory(model, 0)
    kept = memory.fetch([entry.id for entry in ENTRIES])
    few = memory.find(model, QUESTIONS[:1], top_k=4)
    return {"found": [*memory.find(model, QUESTIONS, top_k=4), *few], "keys": kept.keys, "values": list(kept.states)}


@pytest.mark.parametrize("count", [2, 3])
def test_several_processes_find_what_one_finds(model, tmp_path, count):
    Corpus.write(ENTRIES, tmp_path / "corpus")
    torch.nn.init.normal_(model.system.gate.weight, std=3.0)
    torch.save(model.system.state_dict(), tmp_path / "weights.pt")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    running = []
    for rank in range(count):
        places = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": count,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        env = {**os.environ, **{name: str(value) for name, value in places.items()}, "ACCELERATE_USE_CPU": "true"}
        command = [sys.executable, __file__, str(tmp_path)]
        running.append(subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True))
    one = made(tmp_path, Processes())
    told = [process.communicate(timeout=120)[1] for process in running]
    assert [process.returncode for process in running] == [0] * count, told
    for rank in range(count):
        other = torch.load(tmp_path / f"rank{rank}.pt", weights_only=False)
        # Entries are encoded beside others, so the last bits of their keys differ.
        torch.testing.assert_close(other["keys"], one["keys"], rtol=1e-4, atol=2e-5)
        torch.testing.assert_close(other["values"], one["values"], rtol=1e-3, atol=2e-3)
        assert [found.ids for found in other["found"]] == [found.ids for found in one["found"]]


if __name__ == "__main__":
    torch.set_num_threads(1)
    here = find_processes()
    torch.save(made(Path(sys.argv[1]), here), Path(sys.argv[1]) / f"rank{here.rank}.pt")
    here.end()
