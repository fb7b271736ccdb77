"""Candidates found anew while training goes on, by the search of the system that is trained.

Every iteration of ReAtt (section 3.1) begins so: the corpus is indexed with the weights reached, and the questions of
the steps up to the next iteration get candidates from that index. What was found is kept in the run's folder, so a
resumed run reads what the stopped one read.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from wellread.retrieval import RETRIEVERS
from wellread.token_encoder import model_encoder
from wellread.training.candidates import read_kept, seek, write_kept
from wellread.training.processes import Processes
from wellread.types import Question

if TYPE_CHECKING:
    from wellread.corpus.store import Corpus
    from wellread.memory.store import Memory
    from wellread.model import Model
    from wellread.training.config import DataConfig
    from wellread.training.data import Batches

__all__ = ["OwnCandidates", "drop_own_candidates"]

OWN = "own-candidates"


def drop_own_candidates(folder: Path) -> None:
    """Forget what the model of a run that begins anew found before: it was another one's."""
    for file in folder.glob(f"{OWN}-*.jsonl"):
        file.unlink()


class OwnCandidates:
    """Gives `batches` the model's own candidates from each of data.refresh on.

    last: the number of steps of the run. memory: states to index, where the memory encoder is frozen.
    """

    def __init__(
        self,
        batches: Batches,
        corpus: Corpus,
        folder: Path,
        *,
        data: DataConfig,
        last: int,
        memory: Memory | None = None,
        processes: Processes | None = None,
        precision: str = "fp32",
        progress: bool = True,
    ) -> None:
        self.steps: Sequence[int] = [step for step in data.refresh if step < last]
        self.batches, self.corpus, self.folder, self.data, self.last = batches, corpus, folder, data, last
        self.memory, self.processes, self.precision = memory, processes or Processes(), precision
        self.progress = progress

    def __call__(self, model: Model, step: int) -> None:
        """Find, or read back, the candidates of the steps from `step` to the next refresh."""
        following = next((each for each in self.steps if each > step), self.last)
        asked = self.batches.drawn(step, following)
        files = {name: self.folder / f"{OWN}-{step:06d}-{name}.jsonl" for name in asked}
        if self.processes.main and not all(file.is_file() for file in files.values()):
            self._find(model, step, asked, files)
        self.processes.wait()
        self.batches.renew(step, {name: read_kept(file) for name, file in files.items()})

    def _find(
        self, model: Model, step: int, asked: Mapping[str, Mapping[str, Question]], files: Mapping[str, Path]
    ) -> None:
        place = self.folder / f"refresh-{step:06d}"
        shutil.rmtree(place, ignore_errors=True)  # left by a killed refresh, of weights that may differ
        encoder = model_encoder(model, memory=self.memory, precision=self.precision)
        top_k = max(stage.top_k for stage in self.data.stages)
        # Training draws from the global random state, which searching must leave as it was.
        with torch.random.fork_rng(devices=[]):
            index = RETRIEVERS[model.system.retriever].build(self.corpus, place, encoder=encoder)
            for name, questions in asked.items():
                rows = list(questions.values())
                found = seek(index, rows, top_k=top_k, name=name, progress=self.progress)
                write_kept(files[name], rows, found)
        shutil.rmtree(place)
