"""Training questions and their candidates -> batches, any step's at once.

`Batches.batch(step)` is a function of (seed, step): which task a question is drawn from, which of its
questions comes next, which answer is the target and whether a positive is put among the candidates. So a
resumed run needs to know nothing but its step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from wellread.bars import progress_bar
from wellread.corpus.store import Corpus
from wellread.evaluation.metrics import normalise
from wellread.reading.batching import CandidateRow, batch_candidates
from wellread.retrieval.readable import Hiding
from wellread.types import Candidates, Passage, Question, TrainingBatch

if TYPE_CHECKING:
    from wellread.pictures import Pictures
    from wellread.reading.frame import Frame
    from wellread.training.candidates import Finder
    from wellread.training.config import DataConfig, StageConfig, TaskConfig

__all__ = ["Batches", "Example", "PassageTokens", "Task", "collate", "prepare_task"]

# Tasks are drawn in blocks of this many questions, so that any place is found without drawing all before it.
BLOCK = 4096
FRAMED_AT_ONCE = 2048
# Tasks whose targets are labels, or begin with one.
LABELLED = ("claim", "relevance")


class Stored(Protocol):
    """What passages' states, and keys where there are any, are read from: a memory on disk, or one that is trained."""

    def fetch(self, ids: Sequence[str]) -> Any:
        """`states`, one [stored, dim] per id, and `keys`, [ids, key dim] or None."""


@dataclass(frozen=True)
class Task:
    """Training questions with the candidates of each. positives: those known positives that the corpus has.

    left_out: why and how many questions of the file are not trained on.
    """

    name: str
    config: TaskConfig
    questions: Sequence[Question]
    candidates: Sequence[Candidates]
    positives: Sequence[tuple[str, ...]]
    left_out: Mapping[str, int]

    def passages(self, *, positives: bool) -> Iterator[str]:
        """The ids of all passages that may be read for these questions."""
        for candidates in self.candidates:
            yield from candidates.ids
        if positives:
            for ids in self.positives:
                yield from ids


def prepare_task(
    name: str,
    config: TaskConfig,
    questions: Sequence[Question],
    *,
    data: DataConfig,
    finder: Finder,
    corpus: Corpus,
) -> Task:
    """Find the candidates of a task's questions and leave out those that cannot be trained on."""
    answered = [question for question in questions if any(answer.strip() for answer in question.answers)]
    found = finder.find(answered, top_k=data.top_k, name=name)
    rows = [
        (question, candidates, tuple(id for id in question.positive if id in corpus))
        for question, candidates in zip(answered, found)
        if candidates.ids or data.finds_all_itself
    ]
    left_out = {
        "without_answer": len(questions) - len(answered),
        "without_candidates": len(answered) - len(rows),
    }
    if data.drop_unanswerable:
        holds = _Holds(corpus)
        golden = any(stage.gold_share > 0 for stage in data.stages)
        kept = [row for row in rows if holds.answer(*row, golden=golden)]
        left_out["unanswerable"] = len(rows) - len(kept)
        rows = kept
    if not rows:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items()).replace("_", " ")
        raise ValueError(
            f"no question of tasks.{name} can be trained on ({config.questions}: {len(questions)} questions, left out: "
            f"{reasons}); give questions with answers."
        )
    if any(stage.gold_share > 0 for stage in data.stages) and not any(positives for *_, positives in rows):
        raise ValueError(
            f"data.stages ask for gold_share, but no question of tasks.{name} names a positive passage of corpus "
            f"{data.corpus}; set gold_share = 0 or give questions with `positive`."
        )
    return Task(name, config, *map(list, zip(*rows)), left_out)


class _Holds:
    """Which passages hold an answer, word for word; the words of every passage are cut once."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus
        self.words: dict[str, str] = {}

    def answer(self, question: Question, candidates: Candidates, positives: tuple[str, ...], *, golden: bool) -> bool:
        """Whether a question can be answered from what may be read for it; labels stand in no text."""
        if question.task in LABELLED or set(positives) & set(candidates.ids) or (golden and positives):
            return True
        new = [name for name in candidates.ids if name not in self.words]
        self.words.update((item.id, _words(f"{item.title} {item.text}")) for item in self.corpus.get(new))
        answers = [words for words in map(_words, question.answers) if words.strip()]
        return any(words in self.words[name] for name in candidates.ids for words in answers)


def _words(text: str) -> str:
    return f" {normalise(text)} "


class PassageTokens:
    """The tokens of framed passages, each once: one long int32 array and where every passage starts."""

    def __init__(self, frame: Frame, corpus: Corpus, ids: Iterable[str], *, progress: bool = False) -> None:
        self._frame, self._corpus = frame, corpus
        self._row: dict[str, int] = {}
        self.about: dict[str, Passage] = {}
        self.hiding = Hiding()
        self._tokens, self._starts = np.zeros(0, dtype=np.int32), np.zeros(1, dtype=np.int64)
        self.add(ids, progress=progress)

    def add(self, ids: Iterable[str], *, progress: bool = False) -> None:
        """Frame these passages too; those that are there already cost nothing."""
        wanted = {name: None for name in ids if name not in self._row}
        pieces, lengths = [self._tokens], []
        with progress_bar(total=len(wanted), desc="passages", shown=progress) as bar:
            for passages in _fetched(self._corpus, wanted):
                rows = self._frame.passages(passages)
                pieces.append(np.concatenate([np.asarray(row, dtype=np.int32) for row in rows]))
                for passage, row in zip(passages, rows):
                    self._row[passage.id] = len(self._row)
                    if passage.metadata or passage.source != "text":  # what systems may need that tell sources apart
                        self.about[passage.id] = replace(passage, text="", title="")
                        self.hiding.add(self.about[passage.id])
                    lengths.append(len(row))
                bar.update(len(passages))
        self._tokens = np.concatenate(pieces)
        self._starts = np.concatenate([self._starts, self._starts[-1] + np.cumsum(lengths, dtype=np.int64)])

    def __len__(self) -> int:
        return len(self._row)

    @property
    def ids(self) -> list[str]:
        """All passages, in the order they were added."""
        return list(self._row)

    def entity(self, id: str) -> str:
        """The id of the thing that a passage is about (`metadata["entity"]`), "" where nobody knows."""
        about = self.about.get(id)
        return str(about.metadata.get("entity") or "") if about is not None else ""

    def without(self, id: str, start: int, end: int) -> list[int]:
        """The tokens of a passage whose text lacks the letters [start, end)."""
        passage = self._corpus.get([id])[0]
        return self._frame.passages([replace(passage, text=passage.text[:start] + passage.text[end:])])[0]

    def __getitem__(self, id: str) -> np.ndarray:
        row = self._row[id]
        return self._tokens[self._starts[row] : self._starts[row + 1]]


def _fetched(corpus: Corpus, wanted: Mapping[str, None]) -> Iterator[list[Passage]]:
    """The wanted passages in lists; in one sweep where they are a large part of the corpus."""
    if len(wanted) * 4 > len(corpus):
        missing = dict(wanted)
        for passages in corpus.batches(FRAMED_AT_ONCE):
            some = [passage for passage in passages if passage.id in wanted]
            for passage in some:
                del missing[passage.id]
            if some:
                yield some
        wanted = missing  # those the corpus does not have; `get` names them
    ids = list(wanted)
    for start in range(0, len(ids), FRAMED_AT_ONCE):
        yield corpus.get(ids[start : start + FRAMED_AT_ONCE])


@dataclass(frozen=True, slots=True)
class Example:
    """One question as it is put before the reader."""

    question: Question
    task: str
    target: str
    ids: tuple[str, ...]
    scores: tuple[float, ...]


def collate(
    examples: Sequence[Example],
    frame: Frame,
    passages: PassageTokens,
    *,
    memory: Stored | None = None,
    pictures: Pictures | None = None,
    source_of: Callable[[Passage], int] | None = None,
) -> TrainingBatch:
    """Examples -> tensors. memory: read what is stored of the passages from it. pictures: of questions and passages.

    A passage is read without its picture where the question is about that very picture. source_of: the number of a
    passage's source.
    """
    stored: dict[str, dict[str, Tensor]] = {}
    if memory is not None:
        ids = list(dict.fromkeys(name for example in examples for name in example.ids))
        kept = memory.fetch(ids)
        stored = {name: {} if kept.states is None else {"states": kept.states[row]} for row, name in enumerate(ids)}
        if kept.keys is not None:
            for row, name in enumerate(ids):
                stored[name]["key"] = kept.keys[row]
    shown = _shown(examples, passages, pictures)
    source = {
        name: 0 if source_of is None or name not in passages.about else source_of(passages.about[name])
        for example in examples
        for name in example.ids
    }
    rows = [
        [
            CandidateRow(
                id=name,
                tokens=_tokens(example.question, name, passages),
                score=score,
                source=source[name],
                picture=shown.get((example.question.picture, name)),
                **stored.get(name, {}),
            )
            for name, score in zip(example.ids, example.scores)
        ]
        for example in examples
    ]
    candidates = batch_candidates(rows, frame.tokenizer.pad)
    positive = torch.zeros_like(candidates.exists)
    for index, example in enumerate(examples):
        for column, name in enumerate(example.ids):
            positive[index, column] = name in example.question.positive
    target, target_mask = frame.targets([example.target for example in examples])
    inputs = frame.questions([example.question.text for example in examples])
    if pictures is not None:
        inputs = replace(inputs, **_named(*pictures.features([example.question.picture for example in examples])))
    return TrainingBatch(
        inputs,
        candidates,
        target,
        target_mask,
        positive,
        task=[example.question.task for example in examples],
        known=[example.question.positive for example in examples],
        hidden=[passages.hiding(example.question) for example in examples],
        about=[[passages.entity(name) for name in example.ids] for example in examples],
    )


def _tokens(question: Question, name: str, passages: PassageTokens) -> Sequence[int]:
    """A passage as it is read for a question: its own may lack the part that asks for it (inverse cloze task)."""
    place = question.metadata.get("cut_out")
    return passages[name] if place is None or name not in question.positive else passages.without(name, *place)


def _named(picture: Tensor, picture_mask: Tensor) -> dict[str, Tensor]:
    return {"picture": picture, "picture_mask": picture_mask}


def _shown(
    examples: Sequence[Example], passages: PassageTokens, pictures: Pictures | None
) -> dict[tuple[str | None, str], Tensor]:
    """The features of the picture of each passage, by the question's own picture and the passage's id."""
    if pictures is None:
        return {}
    wanted = {}
    for example in examples:
        for name in example.ids:
            about = passages.about.get(name)
            if about is not None and about.picture not in (None, example.question.picture):
                wanted[example.question.picture, name] = about.picture
    names = list(dict.fromkeys(wanted.values()))
    if not names:
        return {}
    found = dict(zip(names, pictures.features(names)[0]))
    return {pair: found[name] for pair, name in wanted.items()}


class Batches:
    """The batches of a run, by step. Every question of a task comes once before any comes again."""

    def __init__(
        self,
        tasks: Sequence[Task],
        passages: PassageTokens,
        frame: Frame,
        *,
        data: DataConfig,
        batch_size: int,
        seed: int = 0,
        memory: Stored | None = None,
        pictures: Pictures | None = None,
        source_of: Callable[[Passage], int] | None = None,
    ) -> None:
        self.tasks, self.passages, self.frame = list(tasks), passages, frame
        self.data, self.batch_size, self.seed, self.memory = data, batch_size, seed, memory
        self.pictures, self.source_of = pictures, source_of
        weights = np.array([task.config.weight for task in tasks], dtype=np.float64)
        self._shares = weights / weights.sum()
        self._renewed: list[tuple[int, Mapping[str, Mapping[str, Candidates]]]] = []
        # counts before block 0, 1, ...: how many questions of each task the earlier blocks have taken
        self._before = [np.zeros(len(self.tasks), dtype=np.int64)]
        self._block = lru_cache(maxsize=4)(self._draw_block)
        self._order = lru_cache(maxsize=2 * len(self.tasks))(self._draw_order)

    def batch(self, step: int, part: int = 0, parts: int = 1) -> TrainingBatch:
        """Part `part` of `parts` of the questions of a step (steps count from 0)."""
        more = {"memory": self.memory, "pictures": self.pictures, "source_of": self.source_of}
        return collate(self.examples(step, part, parts), self.frame, self.passages, **more)

    def examples(self, step: int, part: int = 0, parts: int = 1) -> list[Example]:
        """The questions of a step, as they are put before the reader."""
        places = range(step * self.batch_size, (step + 1) * self.batch_size)
        mine = np.array_split(np.arange(self.batch_size), parts)[part]
        stage = self.data.stage(step)
        renewed = next((found for start, found in reversed(self._renewed) if start <= step), {})
        return [self._example(places[index], stage, renewed) for index in mine]

    def drawn(self, start: int, stop: int) -> dict[str, dict[str, Question]]:
        """The questions that steps start to stop - 1 put before the reader: by task, by id."""
        found: dict[str, dict[str, Question]] = {task.name: {} for task in self.tasks}
        for place in range(start * self.batch_size, stop * self.batch_size):
            task, index = self._drawn(place)
            found[task.name][task.questions[index].id] = task.questions[index]
        return found

    def renew(self, step: int, candidates: Mapping[str, Mapping[str, Candidates]]) -> None:
        """From this step on read other candidates: by task, by question; questions not named keep theirs.

        Of what is read, data.refresh_share are the given ones; those found at first take the places before them.
        """
        self.passages.add(name for rows in candidates.values() for found in rows.values() for name in found.ids)
        self._renewed.append((step, candidates))

    def _example(self, place: int, stage: StageConfig, renewed: Mapping[str, Mapping[str, Candidates]]) -> Example:
        task, index = self._drawn(place)
        rng = self._rng(3, place)
        question = task.questions[index]
        found = task.candidates[index].top(stage.top_k)
        if question.id in renewed.get(task.name, {}):
            found = self._mixed(found, renewed[task.name][question.id], stage.top_k)
        answers = [answer for answer in question.answers if answer.strip()]
        # Drawn whether needed or not: what one option draws must not move what another one does.
        which, chance, golden = rng.random(3)
        target = answers[int(which * len(answers))] if task.config.target == "sample" else answers[0]
        ids, scores, positives = found.ids, found.scores, task.positives[index]
        if positives and chance < stage.gold_share and not set(ids) & set(question.positive):
            keep = min(len(ids), stage.top_k - 1)
            ids = (*ids[:keep], positives[int(golden * len(positives))])
            scores = (*scores[:keep], *(scores[-1:] or (0.0,)))
        return Example(question, task.name, target, ids, scores)

    def _mixed(self, first: Candidates, own: Candidates, top_k: int) -> Candidates:
        """The places of data.refresh_share for the system's own finds, the places before them for what was first."""
        kept = first.top(top_k - max(round(top_k * self.data.refresh_share), 1))
        new = [pair for pair in zip(own.ids, own.scores) if pair[0] not in kept.ids][: top_k - len(kept.ids)]
        ids, scores = zip(*new) if new else ((), ())
        return Candidates((*kept.ids, *ids), (*kept.scores, *scores))

    def _drawn(self, place: int) -> tuple[Task, int]:
        """The task and the question in a place of the endless row of training questions."""
        drawn, nth = self._block(place // BLOCK)
        number = int(drawn[place % BLOCK])
        task = self.tasks[number]
        epoch, index = divmod(int(nth[place % BLOCK]), len(task.questions))
        return task, int(self._order(number, epoch)[index])

    def _draw_block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Of every place in a block: the number of its task, and how many of that task came before."""
        while len(self._before) <= block:
            drawn = self._numbers(len(self._before) - 1)
            self._before.append(self._before[-1] + np.bincount(drawn, minlength=len(self.tasks)))
        drawn = self._numbers(block)
        nth = np.zeros(BLOCK, dtype=np.int64)
        for number in range(len(self.tasks)):
            same = drawn == number
            nth[same] = self._before[block][number] + np.arange(same.sum())
        return drawn, nth

    def _numbers(self, block: int) -> np.ndarray:
        return self._rng(1, block).choice(len(self.tasks), size=BLOCK, p=self._shares)

    def _draw_order(self, number: int, epoch: int) -> np.ndarray:
        return self._rng(2, number, epoch).permutation(len(self.tasks[number].questions))

    def _rng(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *key])
