"""Weights in int8: what is kept of them, what is stored once, and files of bounded size."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from wellread.cli.init import WEIGHTS as CHOICES
from wellread.nn import building
from wellread.nn.building import load_saved_weights, save_weights, saved_weights
from wellread.nn.quantized_weights import WEIGHTS, Packed, pack, unpack


def matrix(rows: int = 40, columns: int = 24, *, seed: int = 0) -> torch.Tensor:
    """Rows of very different sizes, as embeddings have."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.logspace(-6, 3, rows)[:, None]
    return torch.randn(rows, columns, generator=generator) * sizes


def test_the_command_line_offers_all_kinds():
    assert list(CHOICES) == list(WEIGHTS)


def test_every_row_keeps_its_own_precision():
    weight = matrix()
    packed = pack({"a": weight}, "int8")
    assert packed.tensors["a"].dtype == torch.int8
    assert packed.tensors["a.scale"].shape == (40,)
    back = unpack(packed)["a"]
    # Half a step of 1/127 of the largest of the row; the step is rounded up by less than a thousandth.
    assert ((back - weight).abs() <= 0.501 * weight.abs().amax(1, keepdim=True) / 127).all()
    assert packed.tensors["a"].abs().amax(1).eq(127).all()  # the whole range is used


def test_written_again_nothing_changes():
    first = pack({"a": matrix()}, "int8")
    second = pack(unpack(first), "int8")
    assert torch.equal(first.tensors["a"], second.tensors["a"])
    assert torch.equal(first.tensors["a.scale"], second.tensors["a.scale"])


def test_products_are_exact_so_that_every_machine_reads_the_same():
    packed = pack({"a": matrix()}, "int8")
    exact = packed.tensors["a"].double() * packed.tensors["a.scale"].double()[:, None]
    assert torch.equal(unpack(packed)["a"].double(), exact)


def test_what_is_small_or_no_matrix_is_bfloat16_and_integers_stay():
    weights = {
        "bias": torch.randn(40),
        "types": torch.randn(2, 24),
        "scalar": torch.tensor(0.5),
        "count": torch.arange(20)[:, None],
        "cube": torch.randn(20, 2, 2),
    }
    packed = pack(weights, "int8")
    kinds = {name: tensor.dtype for name, tensor in packed.tensors.items()}
    assert kinds == dict.fromkeys(weights, torch.bfloat16) | {"count": torch.int64}
    assert torch.equal(unpack(packed)["count"], weights["count"])


def test_rows_of_zeros_and_tiny_rows_are_read_back():
    weight = matrix()
    weight[3], weight[4] = 0, 1e-42  # smaller than any normal number
    back = unpack(pack({"a": weight}, "int8"))["a"]
    assert back.isfinite().all()
    assert back[3].eq(0).all()
    assert back[4].abs().max() < 1e-37


def test_values_that_are_not_finite_are_refused():
    weight = matrix()
    weight[2, 2] = float("nan")
    with pytest.raises(ValueError, match=r"a\.b holds values that are not finite; int8 cannot store it\. Train"):
        pack({"a.b": weight}, "int8")


def test_equal_weights_are_stored_once():
    weight = matrix()
    packed = pack({"a": weight, "b": weight.clone(), "c": matrix(seed=1), "d": weight.view(24, 40)}, "int8")
    assert packed.aliases == {"b": "a"}
    assert sorted(packed.tensors) == ["a", "a.scale", "c", "c.scale", "d", "d.scale"]
    back = unpack(packed)
    assert sorted(back) == ["a", "b", "c", "d"]
    assert torch.equal(back["a"], back["b"])


def test_an_alias_of_what_is_not_there_is_left_to_the_loading():
    assert unpack(Packed({}, {"b": "a"})) == {}


class Two(nn.Module):
    """Two tables that start equal and are two parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Embedding(40, 24), nn.Embedding(40, 24)
        self.linear = nn.Linear(24, 40)
        with torch.no_grad():
            self.second.weight.copy_(self.first.weight)


def test_files_are_divided_and_read_as_one(tmp_path, monkeypatch):
    module = Two()
    monkeypatch.setitem(building.SHARD_BYTES, "int8", 1200)
    save_weights(tmp_path, module, weights="int8")
    shards = sorted(tmp_path.glob("model-*-of-*.safetensors"))
    assert len(shards) == 2
    assert (tmp_path / "model.safetensors.index.json").is_file()
    other = Two()
    load_saved_weights(tmp_path, other)
    assert torch.equal(other.first.weight, other.second.weight)
    assert other.first.weight is not other.second.weight
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    save_weights(tmp_path, other, weights="int8")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    # A whole file in place of the shards leaves nothing of them behind.
    save_weights(tmp_path, module)
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
    assert torch.equal(saved_weights(tmp_path)["second.weight"], module.second.weight)


def test_shards_that_are_missing_or_cut_short_are_named(tmp_path, monkeypatch):
    monkeypatch.setitem(building.SHARD_BYTES, "int8", 1200)
    save_weights(tmp_path, Two(), weights="int8")
    second = tmp_path / "model-00002-of-00002.safetensors"
    whole = second.read_bytes()
    second.write_bytes(whole[:-10])
    with pytest.raises(
        ValueError, match=r"model-00002-of-00002\.safetensors is truncated or damaged; download or copy"
    ):
        load_saved_weights(tmp_path, Two())
    second.unlink()
    with pytest.raises(ValueError, match=r"model-00002-of-00002\.safetensors is missing; download or copy it again"):
        load_saved_weights(tmp_path, Two())


def test_a_shard_stays_below_16_mib_with_its_head():
    # 600 names of 100 letters, each with its place, is more than any reader here has.
    assert building.SHARD_BYTES["int8"] + 600 * 200 < 16 << 20
