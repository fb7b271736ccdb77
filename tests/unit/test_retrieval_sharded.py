"""Keys on several processes are searched as if they were one. Run as a script, this file is one of the processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from wellread.retrieval.sharded import Found, Hierarchy, ShardedSearch, inner_product

COUNT = 4
TOTAL, DIM, PROBES = 203, 24, 3
# How many keys each process has: uneven, fewer than top_k, none, all on one.
SHARDS = {"even": (51, 51, 51, 50), "uneven": (120, 2, 80, 1), "empty": (0, 140, 0, 63), "one": (0, 0, 203, 0)}
ASKED = (3, 0, 5, 1)  # queries of each process
TOP_K = {"few": 7, "most": 190, "more than there are": 220}


def world() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, keys with many equal ones, ids out of order, values, and the probe of every key."""
    generator = torch.Generator().manual_seed(3)
    keys = torch.randn(TOTAL, DIM, generator=generator)
    keys[40:80] = keys[:40]  # pairs of equal keys on different processes
    keys[100:120] = keys[100]
    keys[150:170] = 0
    ids = torch.randperm(1000, generator=generator)[:TOTAL]
    queries = torch.randn(sum(ASKED), PROBES, DIM, generator=generator)
    values = torch.randn(TOTAL, 2, 3, generator=generator).bfloat16()
    return queries, keys, ids, values, torch.arange(TOTAL) % PROBES


def part(sizes: tuple[int, ...], rank: int) -> slice:
    return slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))


def searched(sizes: tuple[int, ...], rank: int, top_k: int, *, hierarchy=None, probes=False, **options) -> Found:
    """The finds of one process for its queries."""
    queries, keys, ids, values, probe = world()
    mine, asks = part(sizes, rank), part(ASKED, rank)
    own = values[mine]
    search = ShardedSearch(
        keys[mine],
        ids[mine],
        probe=probe[mine] if probes else None,
        values=lambda rows: own[rows],
        hierarchy=hierarchy,
        **options,
    )
    return search.search(queries[asks] if probes else queries[asks, 0], top_k=top_k)


def main(folder: Path, rank: int) -> None:
    """One of the processes: every layout of the keys, in one step and in two."""
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(str(folder / "store"), COUNT)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=COUNT)
    two = Hierarchy.of(2)
    found = {}
    for layout, sizes in SHARDS.items():
        for kind, top_k in TOP_K.items():
            for probes in (False, True):
                for steps, hierarchy in (("flat", None), ("two steps", two)):
                    name = (layout, kind, probes, steps)
                    found[name] = tuple(searched(sizes, rank, top_k, hierarchy=hierarchy, probes=probes))
    try:
        Hierarchy.of(3)
    except ValueError as error:
        found["refused"] = str(error)
    torch.save(found, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def of_four(tmp_path_factory) -> list[dict]:
    """What four processes found, by process."""
    folder = tmp_path_factory.mktemp("four")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, __file__, str(folder)]
    started = [
        subprocess.Popen([*command, str(rank)], env=environment, stderr=subprocess.PIPE, text=True)
        for rank in range(COUNT)
    ]
    told = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [0] * COUNT, told
    return [torch.load(folder / f"{rank}.pt") for rank in range(COUNT)]


def plain(top_k: int, *, probes: bool) -> Found:
    """What one process finds that has everything and asks everything."""
    queries, keys, ids, values, probe = world()
    search = ShardedSearch(keys, ids, probe=probe if probes else None, values=lambda rows: values[rows])
    return search.search(queries if probes else queries[:, 0], top_k=top_k)


@pytest.mark.parametrize("probes", [False, True])
@pytest.mark.parametrize("kind", TOP_K)
@pytest.mark.parametrize("layout", SHARDS)
def test_four_processes_find_what_one_finds(of_four, layout, kind, probes):
    alone = plain(TOP_K[kind], probes=probes)
    for steps in ("flat", "two steps"):
        parts = [found[layout, kind, probes, steps] for found in of_four]
        for name, one, of_all in zip(Found._fields, alone, zip(*parts)):
            assert torch.equal(torch.cat(of_all), one), (steps, name)


def test_unequal_hosts_are_refused(of_four):
    assert all(found["refused"].startswith("per_host=3 does not divide 4 processes") for found in of_four)


def test_one_process_orders_as_every_pair_compared():
    """Against all scores sorted by hand: by score, then by id."""
    queries, keys, ids, values, _ = world()
    found = plain(7, probes=False)
    scores = inner_product(queries[:, 0][:, None], keys)
    for row in range(len(scores)):
        order = sorted(range(TOTAL), key=lambda place: (-float(scores[row, place]), int(ids[place])))[:7]
        assert found.ids[row].tolist() == ids[order].tolist()
        assert torch.equal(found.scores[row], scores[row, order])
        assert torch.equal(found.values[row], values[order])
    # The order of the sum moves the last bits only.
    torch.testing.assert_close(scores, queries[:, 0] @ keys.T, rtol=0, atol=1e-5)


def test_where_there_are_fewer_keys_the_rest_says_so():
    found = plain(220, probes=False)
    assert (found.ids[:, TOTAL:] == -1).all()
    assert found.scores[:, TOTAL:].isneginf().all()
    assert not found.values[:, TOTAL:].any()
    empty = ShardedSearch(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)).search(torch.ones(2, 4), top_k=3)
    assert empty.ids.tolist() == [[-1] * 3] * 2
    assert empty.values is None


def test_probes_are_compared_with_their_own_keys():
    queries, keys, _, _, probe = world()
    found = plain(1, probes=True)
    scores = torch.stack([inner_product(queries[:, probe[place]], keys[place]) for place in range(TOTAL)], dim=1)
    best = scores.max(dim=1)
    assert torch.equal(found.scores[:, 0], best.values)


def test_blocks_do_not_change_what_is_found(monkeypatch):
    wanted = plain(7, probes=True)
    monkeypatch.setattr("wellread.retrieval.sharded.BLOCK", 10)
    assert all(torch.equal(*pair) for pair in zip(wanted, plain(7, probes=True)))


def test_products_some_at_a_time_are_the_same(monkeypatch):
    wanted, most, product = plain(190, probes=True), [], inner_product
    limit = 40 * DIM * sum(ASKED)
    monkeypatch.setattr("wellread.retrieval.sharded.TERMS", limit)

    def counted(queries, keys):
        most.append(keys.numel())
        return product(queries, keys)

    monkeypatch.setattr("wellread.retrieval.sharded.inner_product", counted)
    assert all(torch.equal(*pair) for pair in zip(wanted, plain(190, probes=True)))
    assert max(most) <= limit


def test_a_gate_near_zero_has_few_keys_looked_at(monkeypatch):
    """Keys of a source that a question does not trust all have scores near zero, and are none of the best."""
    generator = torch.Generator().manual_seed(0)
    keys = torch.nn.functional.normalize(torch.randn(2000, 32, generator=generator), dim=-1)
    probe = (torch.arange(2000) >= 20).long()  # the first source has more than are asked for
    queries = torch.nn.functional.normalize(torch.randn(4, 1, 32, generator=generator), dim=-1)
    queries = queries * torch.tensor([1 - 1e-5, 1e-5])[None, :, None]
    looked_at, product = [], inner_product

    def counted(queries, keys):
        looked_at.append(keys.shape[1])
        return product(queries, keys)

    monkeypatch.setattr("wellread.retrieval.sharded.inner_product", counted)
    found = ShardedSearch(keys, torch.arange(2000), probe=probe).search(queries, top_k=15)
    assert max(looked_at) < 100
    scores = product(queries[:, probe], keys)
    assert torch.equal(found.scores, scores.sort(dim=1, descending=True).values[:, :15])


def test_approximate_search_finds_most():
    generator = torch.Generator().manual_seed(0)
    keys, queries = torch.randn(4000, 8, generator=generator), torch.randn(50, 8, generator=generator)
    exact = ShardedSearch(keys, torch.arange(4000)).search(queries, top_k=20).ids
    found = ShardedSearch(keys, torch.arange(4000), recall=0.9).search(queries, top_k=20)
    shared = [len(set(one) & set(other)) / 20 for one, other in zip(exact.tolist(), found.ids.tolist())]
    # 0.95 is expected where 20 fall into 190 bins at random; 0.9 is promised.
    assert 0.9 <= sum(shared) / 50 < 1
    assert (found.scores.diff(dim=1) <= 0).all()
    few = ShardedSearch(keys[:7], torch.arange(7), recall=0.9).search(queries, top_k=5).ids
    assert torch.equal(few, ShardedSearch(keys[:7], torch.arange(7)).search(queries, top_k=5).ids)


def test_wrong_arguments_are_refused():
    keys, ids = torch.zeros(3, 4), torch.arange(3)
    with pytest.raises(ValueError, match=r"keys are \(3, 4\) and ids \(2,\)"):
        ShardedSearch(keys, ids[:2])
    with pytest.raises(ValueError, match=r"recall=1\.5; it must be between 0 and 1"):
        ShardedSearch(keys, ids, recall=1.5)
    with pytest.raises(ValueError, match="top_k=0; it must be at least 1"):
        ShardedSearch(keys, ids).search(torch.zeros(1, 4), top_k=0)
    with pytest.raises(ValueError, match=r"give \[batch, dim\], or \[batch, probes, dim\] with probe"):
        ShardedSearch(keys, ids).search(torch.zeros(1, 2, 4), top_k=1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
