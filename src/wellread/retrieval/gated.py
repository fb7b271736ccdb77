"""Search by a model's own vectors where entries come from several sources, and a question has a probe for each.

REVEAL's score (Hu et al. 2023, appendix F) is the gate of an entry's source times the relevance of its key. The gate
is in the probes, one row per source, so every source is searched with its own row and the finds are joined: the result
is that of one search over all entries by the gated score. `where={"source": ...}` searches some sources alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wellread.retrieval.segments import Hits, join
from wellread.retrieval.vectors import VectorOptions, VectorRetriever
from wellread.types import Candidates, Probe

__all__ = ["GatedOptions", "GatedRetriever"]


@dataclass(frozen=True)
class GatedOptions(VectorOptions):
    """As of search by vectors. sources: in the order of a probe's rows; filled in by `build`."""

    sources: tuple[str, ...] = ()


class GatedRetriever(VectorRetriever):
    """Search by one vector per source of a question. Probes need `vectors` [sources, dim]."""

    name = "reveal"
    Options = GatedOptions

    @classmethod
    def facts_of(cls, encoder: Any) -> dict[str, Any]:
        return {**super().facts_of(encoder), "sources": list(encoder.sources)}

    def _load(self) -> None:
        super()._load()
        self._places = [segment.catalog.places_in("source", self.options.sources) for segment in self.segments]

    def _search(self, probes: list[Probe], top_k: int, where: dict[str, Any]) -> list[Candidates]:
        rows = self._rows(probes)
        found: list[list[list[Hits]]] = []  # per source and segment, one Hits per probe
        allowed = self.allowed(where)
        for place in range(len(self.options.sources)):
            some = [these & (places == place) for these, places in zip(allowed, self._places)]
            if any(mask.any() for mask in some):
                vectors = np.ascontiguousarray(rows[:, place])
                pairs = zip(self.segments, some)
                found.append([self._search_segment(*pair, vectors, top_k) for pair in pairs])
        joined = [
            [join([source[segment][probe] for source in found], top_k) for probe in range(len(probes))]
            for segment in range(len(self.segments))
        ]
        return self.candidates(joined, top_k)

    def _rows(self, probes: Sequence[Probe]) -> np.ndarray:
        """[probes, sources, dim] float32."""
        wanted = (len(self.options.sources), self.dim)
        for probe in probes:
            if probe.vectors is None:
                raise ValueError("the probe has words but no vectors; reveal search needs those of the model's `seek`.")
            if tuple(probe.vectors.shape) != wanted:
                shape = tuple(probe.vectors.shape)
                raise ValueError(f"probe vectors have shape {shape}; this index of {wanted[0]} sources needs {wanted}.")
        return np.stack([probe.vectors.detach().float().cpu().numpy() for probe in probes])
