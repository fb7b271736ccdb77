"""The memory of a system that is trained with it: made anew with the weights reached, every so many steps.

REVEAL's online memory (Hu et al. 2023, appendix F.1): the keys of all entries are on the device that trains, their
values in the host's memory (a file that is mapped), and the entries themselves in the corpus. At every refresh all
entries are encoded, and the questions of the steps up to the next one get candidates by the keys; what a step then
encodes anew, with gradients, is the system's choice, and the rest is read from here. What was made is kept in the
run's folder, so that a resumed run reads what the stopped one read.

Several processes share the work: each encodes a part of the entries, has their keys on its device, and seeks for a
part of the questions, over the keys of all (algorithm 3, `retrieval.sharded`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from wellread.bars import progress_bar
from wellread.nn.precision import precision_dtype
from wellread.reading.frame import pad_rows
from wellread.retrieval.sharded import Found, ShardedSearch
from wellread.training.candidates import read_kept, write_kept
from wellread.training.processes import Processes
from wellread.training.refresh import OWN
from wellread.types import Candidates, Question

if TYPE_CHECKING:
    from wellread.corpus.store import Corpus
    from wellread.model import Model
    from wellread.systems.base import Remembered
    from wellread.training.config import DataConfig
    from wellread.training.data import Batches

__all__ = ["OnlineMemory", "drop_online_memory"]

# Entries and questions encoded at a time; they are sorted by length first.
BATCH = 64
KEPT = "online"


def drop_online_memory(folder: Path) -> None:
    """Forget the memory of a run that begins anew."""
    for file in folder.glob(f"{KEPT}-*.*"):
        file.unlink()


class _Fetched(NamedTuple):
    states: Sequence[Tensor]
    keys: Tensor


class OnlineMemory:
    """Gives `batches` candidates from each of data.refresh on, and what is stored of them.

    last: the number of steps of the run. The first process keeps what all made; the others read it there. ValueError
    where what the folder keeps was made of other entries.
    """

    def __init__(
        self,
        batches: Batches,
        corpus: Corpus,
        folder: Path,
        *,
        data: DataConfig,
        last: int,
        processes: Processes | None = None,
        precision: str = "fp32",
        progress: bool = True,
    ) -> None:
        self.steps: Sequence[int] = [step for step in data.refresh if step < last]
        self.batches, self.folder, self.data, self.last = batches, folder, data, last
        self.processes, self.precision, self.progress = processes or Processes(), precision, progress
        self.ids = [passage.id for passage in corpus]
        self._row = {name: row for row, name in enumerate(self.ids)}
        self._made_of = {"entries": len(corpus), "corpus": corpus.fingerprint}
        self._check_kept()
        batches.passages.add(self.ids, progress=progress)
        about = batches.passages.about
        numbers = [batches.source_of(about[name]) if name in about else 0 for name in self.ids]
        self.sources = torch.tensor(numbers, dtype=torch.int64)
        self.keys: Tensor = torch.zeros(0, 0)
        self.values: np.ndarray = np.zeros((0, 0, 0), np.float16)

    # -- a memory, as batches read it ------------------------------------------------------------------------

    def fetch(self, ids: Sequence[str]) -> _Fetched:
        """Values [stored, dim] and key of every entry, on the CPU, as they were at the last refresh."""
        rows = [self._row[name] for name in ids]
        values = torch.from_numpy(self.values[rows].astype(np.float32))
        return _Fetched(list(values), self.host_keys[rows])

    # -- renewed ---------------------------------------------------------------------------------------------

    def __call__(self, model: Model, step: int) -> None:
        """Encode all entries and find the candidates of the steps to the next refresh, or read both back."""
        if any(self._kept(later).is_file() for later in self.steps if later > step):
            return  # a resumed run is beyond this one
        model.system.eval()
        following = next((each for each in self.steps if each > step), self.last)
        asked = self.batches.drawn(step, following)
        lists = {name: self.folder / f"{OWN}-{step:06d}-{name}.jsonl" for name in asked}
        kept = self._kept(step)
        made = kept.is_file() and all(file.is_file() for file in lists.values())
        if not self.processes.gather(made)[0]:
            self._make(model, step)
            for name, questions in asked.items():
                rows = list(questions.values())
                found = self.find(model, rows, top_k=self.data.top_k)
                if self.processes.main:
                    write_kept(lists[name], rows, found)
            if self.processes.main:
                kept.write_text(json.dumps(self._made_of) + "\n", encoding="utf8")
        self.processes.wait()
        self._open(model, step)
        self.batches.renew(step, {name: read_kept(file) for name, file in lists.items()})
        self.batches.memory = self
        for file in self.folder.glob(f"{KEPT}-*.*"):
            if self.processes.main and f"-{step:06d}" not in file.name:
                file.unlink()

    def _check_kept(self) -> None:
        """ValueError where the run began with another corpus: its keys and values are another's, row by row."""
        for file in self.folder.glob(f"{KEPT}-*.json"):
            said = json.loads(file.read_text(encoding="utf8"))
            if any(said.get(name, value) != value for name, value in self._made_of.items()):
                raise ValueError(
                    f"the run in {self.folder} began with other entries than {self.data.corpus} holds now "
                    f"({said['entries']} then, {len(self.ids)} now). Put back the corpus it began with, give another "
                    "--out, or --restart to begin anew."
                )

    def _make(self, model: Model, step: int) -> None:
        """Write keys and values of all entries, each process of its part."""
        passages, arrays = self.batches.passages, []
        order = np.argsort([len(passages[name]) for name in self.ids], kind="stable")
        mine = order[self.processes.rank :: self.processes.count]
        files = [self._file(step, name) for name in ("values", "keys")]
        with progress_bar(total=len(mine), desc="online memory", shown=self.progress) as bar:
            for some in np.array_split(mine, -(-len(mine) // BATCH)) if len(mine) else ():
                kept = self._remember(model, [self.ids[row] for row in some])
                arrays = arrays or self._arrays(files, kept)
                values, keys = arrays
                length = min(kept.states.shape[1], values.shape[1])
                values[some, :length] = kept.states[:, :length].float().cpu().numpy()
                keys[some] = kept.keys.float().cpu().numpy()
                bar.update(len(some))
        for array in arrays or self._arrays(files, None):
            array.flush()
        self.processes.wait()
        if self.processes.main:
            for file in files:
                os.replace(f"{file}.part", file)
        self.processes.wait()
        self._open(model, step)

    def _arrays(self, files: Sequence[Path], first: Remembered | None) -> list[np.ndarray]:
        """Values and keys as files that all processes write their rows of; the first process makes them."""
        if self.processes.main:
            parts = zip(files, ("float16", "float32"), (first.states, first.keys))
            for file, kind, part in parts:
                np.lib.format.open_memmap(f"{file}.part", "w+", kind, (len(self.ids), *part.shape[1:]))
        self.processes.wait()
        return [np.lib.format.open_memmap(f"{file}.part", "r+") for file in files]

    def _remember(self, model: Model, names: Sequence[str]) -> Remembered:
        passages, batches = self.batches.passages, self.batches
        tokens, mask = pad_rows([passages[name] for name in names], model.frame.tokenizer.pad)
        shown = {}
        if batches.pictures is not None:
            about = [passages.about.get(name) for name in names]
            wanted = [None if passage is None else passage.picture for passage in about]
            shown = dict(zip(("picture", "picture_mask"), batches.pictures.features(wanted)))
        with self._computing(model):
            device = model.device
            shown = {name: part.to(device) for name, part in shown.items()}
            return model.system.remember(tokens.to(device), mask.to(device), **shown)

    @contextmanager
    def _computing(self, model: Model) -> Iterator[None]:
        dtype = precision_dtype(self.precision)
        with torch.no_grad(), torch.autocast(model.device.type, dtype=dtype, enabled=dtype is not None):
            yield

    def _kept(self, step: int) -> Path:
        """What is written when all of a refresh is there."""
        return self.folder / f"{KEPT}-{step:06d}.json"

    def _file(self, step: int, name: str) -> Path:
        return self.folder / f"{KEPT}-{step:06d}-{name}.npy"

    def _open(self, model: Model, step: int) -> None:
        self.values = np.load(self._file(step, "values"), mmap_mode="r")
        self.host_keys = torch.from_numpy(np.load(self._file(step, "keys")))
        self.keys = self.host_keys[self.processes.rank :: self.processes.count].to(model.device)

    # -- searched --------------------------------------------------------------------------------------------

    def find(self, model: Model, questions: Sequence[Question], *, top_k: int) -> list[Candidates]:
        """The best `top_k` entries of every question by the keys there are, without those hidden from it.

        All processes call this with the same questions, and get what all found.
        """
        if not questions:
            return []
        rank, count = self.processes.rank, self.processes.count
        model = model.with_pictures(self.batches.pictures)
        hidden = [self.batches.passages.hiding(question) for question in questions]
        more = max(map(len, hidden))
        places = range(len(questions))[rank::count]
        found: dict[int, Candidates] = {}
        with progress_bar(total=len(places), desc="candidates", shown=self.progress) as bar:
            for start in range(0, -(-len(questions) // count), BATCH):  # as often in every process
                some = places[start : start + BATCH]
                scores, rows, _ = self._search(model, [questions[place] for place in some], questions[0], top_k + more)
                for place, *pair in zip(some, scores.tolist(), rows.tolist()):
                    named = [(self.ids[row], score) for score, row in zip(*pair) if row >= 0]
                    best = Candidates(*zip(*named)).without(hidden[place])
                    found[place] = best.top(top_k)
                bar.update(len(some))
        everything = {place: each for part in self.processes.gather(found) for place, each in part.items()}
        return [everything[place] for place in range(len(questions))]

    def _search(self, model: Model, questions: Sequence[Question], example: Question, top_k: int) -> Found:
        """The best entries of this process's questions, of which there may be none. example: any question."""
        with self._computing(model):
            probes = torch.stack(list(model.system.seek(model.inputs(questions or [example])))).float()
        own = slice(self.processes.rank, None, self.processes.count)
        rows = torch.arange(len(self.ids))[own]
        single = probes.shape[1] == 1
        search = ShardedSearch(self.keys, rows, probe=None if single else self.sources[own])
        probes = probes[: len(questions)]
        return search.search(probes[:, 0] if single else probes, top_k=min(top_k, len(self.ids)))
