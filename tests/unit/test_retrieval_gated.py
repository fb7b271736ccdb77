"""Search with a probe per source: what one look at all entries by their gated score would find."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wellread.retrieval import RETRIEVERS, open_index
from wellread.types import Passage, Probe

SOURCES = ("facts", "captions", "pages")
ENTRIES = [Passage(f"p{n}", f"text {n}", source=SOURCES[n % 2 if n < 12 else 2]) for n in range(16)]


class Encoder:
    """Keys drawn from the entry's number."""

    name, fingerprint, sources = "drawn", "1", SOURCES

    def passages(self, passages):
        return [np.random.default_rng(int(each.id[1:])).normal(size=4).astype(np.float32) for each in passages]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return RETRIEVERS["reveal"].build(ENTRIES, tmp_path_factory.mktemp("gated") / "index", encoder=Encoder())


@pytest.fixture
def probes() -> list[Probe]:
    generator = torch.Generator().manual_seed(0)
    return [Probe(vectors=torch.randn(3, 4, generator=generator)) for _ in range(3)]


def best(probe: Probe, entries, top_k: int) -> list[str]:
    keys = dict(zip((each.id for each in ENTRIES), Encoder().passages(ENTRIES)))
    scores = {each.id: float(probe.vectors[SOURCES.index(each.source)].numpy() @ keys[each.id]) for each in entries}
    return sorted(scores, key=scores.get, reverse=True)[:top_k]


def test_all_sources_are_ranked_by_their_own_probes(index, probes):
    for probe, found in zip(probes, index.search(probes, top_k=5)):
        assert list(found.ids) == best(probe, ENTRIES, 5)
        assert list(found.scores) == sorted(found.scores, reverse=True)


def test_one_source_can_be_searched_alone(index, probes):
    some = [each for each in ENTRIES if each.source == "captions"]
    for probe, found in zip(probes, index.search(probes, top_k=4, where={"source": "captions"})):
        assert list(found.ids) == best(probe, some, 4)


def test_entries_are_added_and_deleted(index, probes, tmp_path):
    built = RETRIEVERS["reveal"].build(ENTRIES[:9], tmp_path / "index", encoder=Encoder())
    built.add(ENTRIES[9:])
    built.delete(["p3", "p13"])
    left = [each for each in ENTRIES if each.id not in ("p3", "p13")]
    again = open_index(tmp_path / "index")
    assert again.options.sources == SOURCES
    for probe, found in zip(probes, again.search(probes, top_k=6)):
        assert list(found.ids) == best(probe, left, 6)


def test_probes_of_another_shape(index):
    with pytest.raises(ValueError, match=r"probe vectors have shape \(1, 4\); this index of 3 sources needs \(3, 4\)"):
        index.search([Probe(vectors=torch.zeros(1, 4))], top_k=1)
    with pytest.raises(ValueError, match=r"the probe has words but no vectors; reveal search needs those"):
        index.search([Probe(words="which flag")], top_k=1)
