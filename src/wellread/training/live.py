"""Retrieval by the weights of the moment, over an index that is made anew while training goes on (REALM section 3.3).

At every step the question side seeks in the index with the weights reached. The index holds the keys of all passages by
an earlier passage side. Every `data.live.every` steps a snapshot of the weights is given to a process of its own, which
reads the corpus with it; when it is done the next step seeks in the new index. A process that dies, or hangs and is
ended when the next refresh is due, costs nothing but a later refresh. With `background = false` the loop waits instead:
such a run, stopped and resumed, repeats an unbroken one to the last bit.

Kept in the run's folder: keys-STEP.npy, made with the weights of that step; those that no checkpoint needs are dropped.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from wellread.memory.fingerprint import check
from wellread.memory.store import Memory
from wellread.model import save_model
from wellread.nn.precision import precision_dtype
from wellread.reading.batching import to_device
from wellread.training.data import Example, collate
from wellread.training.dev import DevQuestions
from wellread.training.keys import encode_keys, write_keys, write_passages
from wellread.training.processes import Processes
from wellread.types import Candidates, Question, TrainingBatch

if TYPE_CHECKING:
    from wellread.model import Model
    from wellread.training.config import DataConfig
    from wellread.training.data import Batches, PassageTokens

__all__ = ["LiveDev", "LiveSearch", "drop_keys"]

# Questions that ask for the passage they are from: it is the one candidate they have.
OWN_PASSAGE = frozenset({"cloze"})
# How long a worker may take before it counts as hung: so many times the last refresh, seconds where there was none.
PATIENCE, FIRST_PATIENCE = 3.0, 3600.0
SNAPSHOT, PASSAGES = "keys-snapshot", "keys-passages.npz"
_LOG = logging.getLogger(__name__)


class _Keys(NamedTuple):
    keys: torch.Tensor
    states: None = None


def drop_keys(folder: Path) -> None:
    """Forget the indexes of a run that begins anew, and what its worker was given: another model's or corpus's."""
    shutil.rmtree(folder / SNAPSHOT, ignore_errors=True)
    for file in [*folder.glob("keys-[0-9]*.npy"), folder / PASSAGES]:
        file.unlink(missing_ok=True)


class LiveSearch:
    """Gives the questions of every step their candidates, and keeps the index young.

    batches: whose questions come without candidates. passages: all of the corpus. last: the number of steps.
    `steps`: those before which a refresh is due; `now`: the step the run is at, which the loop says.
    """

    def __init__(
        self,
        batches: Batches,
        passages: PassageTokens,
        folder: Path,
        *,
        data: DataConfig,
        last: int,
        processes: Processes | None = None,
        precision: str = "fp32",
        progress: bool = True,
    ) -> None:
        self.batches, self.passages, self.folder, self.data = batches, passages, folder, data
        self.config, self.precision, self.progress = data.live, precision, progress
        self.processes = processes or Processes()
        every = self.config.every
        self.steps: Sequence[int] = range(every, last, every) if every else ()
        self.now, self.made_at, self.refreshes, self.deaths = 0, None, 0, 0
        self.worker: subprocess.Popen | None = None
        self._begun, self._patience = 0.0, FIRST_PATIENCE
        self.ids = passages.ids
        self._row = {name: row for row, name in enumerate(self.ids)}
        self._keys, self._maybe_newer = torch.zeros(0), True
        own = [question for task in batches.tasks for question in task.questions if question.task in OWN_PASSAGE]
        lost = next((question for question in own if not set(question.positive[:1]) & self._row.keys()), None)
        if lost is not None:
            raise ValueError(
                f"question {lost.id!r} asks for its own passage, which corpus {data.corpus} does not have; make the "
                "questions of the corpus that is searched (wellread questions cloze CORPUS)."
            )

    # -- the loop's side -----------------------------------------------------------------------------------

    def __call__(self, model: Model, step: int) -> None:
        """A refresh is due before this step. One that was due before a resumed run is not made up for."""
        if step < self.now or self._file(step).is_file():
            return
        (self._start_worker if self.config.background else self._refresh_now)(model, step)

    def complete(self, model: Model, examples: Sequence[Example]) -> TrainingBatch:
        """The questions of a step with what the model finds for them now."""
        top_k = self._top_k
        # Where positives take all places there is nothing to look for.
        asked = [row for row, each in enumerate(examples) if _is_asked(each) and len(each.ids) < top_k]
        found = dict(zip(asked, self.search(model, [examples[row].question for row in asked], top_k)))
        rows = [_with(example, found.get(row), top_k) for row, example in enumerate(examples)]
        stored = None if self.made_at is None or not asked or _passages_learn(model) else self
        return collate(rows, self.batches.frame, self.passages, memory=stored)

    def fetch(self, ids: Sequence[str]) -> _Keys:
        """What the index holds of passages, as a memory gives it."""
        return _Keys(self._keys[[self._row[name] for name in ids]])

    def facts(self, step: int) -> dict[str, int]:
        """For the log: the step whose weights made the index, how long ago that was, refreshes, dead workers."""
        if self.made_at is None:
            return {}
        age = {"index_step": self.made_at, "index_age": step - self.made_at}
        return {**age, "index_refreshes": self.refreshes, "workers_died": self.deaths}

    def saved(self, step: int) -> None:
        """A checkpoint of this step is there: indexes older than the one it searches are not needed again."""
        older = sorted(file for file in self._files() if _step_of(file) <= step)[:-1]
        for file in older:
            file.unlink()

    def close(self) -> None:
        """Stop a refresh that nobody waits for any more."""
        if self.worker is not None:
            self.worker.kill()
            self.worker.wait()
            self.worker = None

    # -- search --------------------------------------------------------------------------------------------

    def search(self, model: Model, questions: Sequence[Question], top_k: int) -> list[Candidates]:
        """The best `top_k` passages of every question by the model's vectors, without those hidden from it."""
        if not model.system.reads_passages:
            return [Candidates(self.ids[:1], (0.0,)) for _ in questions]
        if not questions:
            return []
        self._take_newest(model)
        training, dtype = model.system.training, precision_dtype(self.precision)
        model.system.eval()  # so that nothing random is drawn
        inputs = to_device(model.frame.questions([question.text for question in questions]), model.device)
        with torch.no_grad(), torch.autocast(model.device.type, dtype=dtype, enabled=dtype is not None):
            vectors = torch.cat(list(model.system.seek(inputs))).float()
        model.system.train(training)
        scores = vectors @ self._keys.to(vectors.device).T
        for row, question in enumerate(questions):
            hidden = [self._row[name] for name in self.passages.hiding(question) if name in self._row]
            scores[row, hidden] = -torch.inf
        best = scores.topk(min(top_k, scores.shape[1]))
        found = []
        for rows, values in zip(best.indices.tolist(), best.values.tolist(), strict=True):
            count = sum(value > -math.inf for value in values)  # less where a small corpus is hidden in part
            found.append(Candidates([self.ids[row] for row in rows[:count]], values[:count]))
        return found

    @property
    def _top_k(self) -> int:
        return self.data.stage(self.now).top_k

    # -- the index -----------------------------------------------------------------------------------------

    def _file(self, step: int) -> Path:
        return self.folder / f"keys-{step:06d}.npy"

    def _take_newest(self, model: Model) -> None:
        """Change to the newest index there is of a step reached; the first one is made where there is none."""
        if self.made_at is None:
            self._first(model)
        self._look_after_worker()
        if not self._maybe_newer:
            return
        self._maybe_newer = not self.processes.main  # the others do not know when the worker is done
        newest = max(step for step in map(_step_of, self._files()) if step <= self.now)
        if newest != self.made_at:
            self._keys = torch.from_numpy(np.load(self._file(newest))).to(model.device)
            self.refreshes += self.made_at is not None
            self.made_at = newest

    def _files(self) -> list[Path]:
        return list(self.folder.glob("keys-[0-9]*.npy"))

    def _first(self, model: Model) -> None:
        """See that there is an index. A stopped run may have been further than its checkpoint: that is forgotten."""
        if self.processes.main:
            for file in self._files():
                if _step_of(file) > self.now:
                    file.unlink()
            if not self._files():
                keys = self._from_memory(model) if self.config.memory else self._encoded(model)
                write_keys(self._file(self.now), keys)
        self.processes.wait()

    def _from_memory(self, model: Model) -> np.ndarray:
        """The keys a memory holds, in the order of the passages. ValueError where it is not this model's."""
        memory = Memory.open(self.config.memory)
        check(memory.fingerprint, model.fingerprint(), model.system.bound_to)
        rows = {name: row for row, name in enumerate(memory.ids())}
        missing = next((name for name in self.ids if name not in rows), None)
        if missing is not None:
            raise ValueError(
                f"data.live.memory={str(self.config.memory)!r} lacks passage {missing!r} of the corpus; memorize this "
                "corpus, or leave it out."
            )
        return torch.cat(list(memory.keys())).numpy()[[rows[name] for name in self.ids]]

    def _encoded(self, model: Model) -> np.ndarray:
        training = model.system.training
        keys = encode_keys(
            model, [self.passages[name] for name in self.ids], precision=self.precision, progress=self.progress
        )
        model.system.train(training)
        return keys

    def _refresh_now(self, model: Model, step: int) -> None:
        if self.processes.main:
            write_keys(self._file(step), self._encoded(model))
        self.processes.wait()
        self._maybe_newer = True

    def _start_worker(self, model: Model, step: int) -> None:
        self._look_after_worker()
        if not self.processes.main or self.made_at is None:
            return  # a first index of nearly the same weights is about to be made
        if self.worker is not None and time.monotonic() - self._begun <= self._patience:
            _LOG.warning("an earlier refresh is not done at step %d; refresh less often.", step)
            return
        self._end_hung_worker()
        snapshot, passages = self.folder / SNAPSHOT, self.folder / PASSAGES
        shutil.rmtree(snapshot, ignore_errors=True)
        save_model(snapshot, model)
        if not passages.is_file():
            write_passages(passages, [self.passages[name] for name in self.ids])
        order = [snapshot, passages, self._file(step), self.precision, model.device, os.getpid()]
        self.worker = subprocess.Popen([sys.executable, "-m", "wellread.training.keys", *map(str, order)])
        self._begun = time.monotonic()

    def _end_hung_worker(self) -> None:
        """See that there is no worker; the one after it is given twice the time, in case this one was only slow."""
        if self.worker is not None:
            self.close()
            self.deaths += 1
            _LOG.warning("a refresh was not done after %.0f seconds and is ended for a new one.", self._patience)
            self._patience *= 2

    def _look_after_worker(self) -> None:
        """Forget a worker that has ended; one that failed is told, and missed by nobody until the next refresh."""
        if self.worker is None or self.worker.poll() is None:
            return
        if self.worker.returncode != 0:
            self.deaths += 1
            _LOG.warning("the refresh ended with code %d; the index stays as it is.", self.worker.returncode)
        else:
            self._patience = PATIENCE * (time.monotonic() - self._begun)
        self.worker, self._maybe_newer = None, True


class LiveDev:
    """Dev questions, with candidates that the model finds when it is measured."""

    def __init__(self, questions: Sequence[Question], live: LiveSearch, *, top_k: int, **options: object) -> None:
        self.questions, self.live, self.top_k, self.options = questions, live, top_k, options

    def __call__(self, model: Model) -> dict[str, float]:
        found = self.live.search(model, self.questions, self.top_k)
        return DevQuestions(self.questions, found, self.live.passages, **self.options)(model)


def _is_asked(example: Example) -> bool:
    return example.question.task not in OWN_PASSAGE


def _with(example: Example, found: Candidates | None, top_k: int) -> Example:
    """The example with its candidates; a positive that was put in for training keeps the last place."""
    if not _is_asked(example):
        return replace(example, ids=example.question.positive[:1], scores=(0.0,))
    if found is None:
        return example
    golden = tuple(name for name in example.ids if name not in found.ids)
    keep = top_k - len(golden)
    ids = (*found.ids[:keep], *golden)
    return replace(example, ids=ids, scores=(*found.scores[:keep], *(0.0 for _ in golden)))


def _passages_learn(model: Model) -> bool:
    """Whether the weights that make keys are trained, so that stored ones have no gradient to give."""
    stored = set(model.system.memory_weights())
    return any(weight.requires_grad for name, weight in model.system.named_parameters() if name in stored)


def _step_of(file: Path) -> int:
    return int(file.stem.removeprefix("keys-"))
