"""Reading, writing, loading and fingerprinting weights."""

from __future__ import annotations

import json
import re

import pytest
import torch
from torch import nn

from wellread.nn.checkpoints import fingerprint, load_weights, read_hub, write_hub

CONFIG = {"model_type": "t5", "d_model": 4}


def some_weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "a.weight": torch.randn(6, 4),
        "b.weight": torch.randn(3, 5).bfloat16(),
        "c.count": torch.tensor(7),
        "d.weight": torch.randn(8, 2).T,  # not contiguous
    }


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    if first.keys() != second.keys():
        return False
    return all(first[n].dtype == second[n].dtype and torch.equal(first[n], second[n]) for n in first)


@pytest.mark.parametrize("limit", [None, 100, 1], ids=["one file", "some files", "a file each"])
def test_round_trip(tmp_path, limit):
    weights = some_weights()
    write_hub(tmp_path / "model", CONFIG, weights, max_shard_bytes=limit)
    config, found = read_hub(tmp_path / "model")
    assert config == CONFIG
    assert same(found, weights)
    files = sorted(tmp_path.glob("model/*.safetensors"))
    assert len(files) == {None: 1, 100: 3, 1: 4}[limit]
    assert not list(tmp_path.glob("model/.*"))  # nothing unfinished stays behind


def test_a_new_write_replaces_an_old_one_of_another_form(tmp_path):
    old, new = some_weights(), {"a.weight": torch.zeros(2)}
    write_hub(tmp_path, CONFIG, old)
    write_hub(tmp_path, CONFIG, old, max_shard_bytes=100)
    assert same(read_hub(tmp_path)[1], old)
    write_hub(tmp_path, CONFIG, new)
    assert same(read_hub(tmp_path)[1], new)
    assert [file.name for file in tmp_path.glob("model*")] == ["model.safetensors"]


def test_two_names_of_one_tensor_and_views_are_written_out(tmp_path):
    whole = torch.arange(12.0).view(4, 3)
    weights = {"a": whole, "b": whole, "c": whole[1:3]}
    write_hub(tmp_path, CONFIG, weights)
    assert same(read_hub(tmp_path)[1], weights)


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    old = some_weights()
    write_hub(tmp_path, CONFIG, old)

    def dies(weights, file, metadata):
        file.write_bytes(b"half")
        raise OSError("the disk is full")

    monkeypatch.setattr("wellread.nn.checkpoints.save_file", dies)
    with pytest.raises(OSError, match="the disk is full"):
        write_hub(tmp_path, CONFIG, {"a": torch.zeros(2)})
    assert same(read_hub(tmp_path)[1], old)


def test_old_pickled_weights_are_read(tmp_path):
    weights = some_weights()
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    torch.save(weights, tmp_path / "pytorch_model.bin")
    assert same(read_hub(tmp_path)[1], weights)


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    torch.save({"a": nn.Linear(1, 1)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is truncated or damaged"):
        read_hub(tmp_path)


@pytest.mark.parametrize("kept", [0, 5, 40, 200])
@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "pickle"])
def test_truncated_weights_are_named(tmp_path, kept, pickled):
    write_hub(tmp_path, CONFIG, some_weights())
    file = tmp_path / "model.safetensors"
    if pickled:
        file.unlink()
        file = tmp_path / "pytorch_model.bin"
        torch.save(some_weights(), file)
    file.write_bytes(file.read_bytes()[:kept])
    message = f"{re.escape(str(file))} is truncated or damaged; download or copy it again"
    with pytest.raises(ValueError, match=message):
        read_hub(tmp_path)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere does not exist; give a folder with config\.json"):
        read_hub(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"config\.json is missing; a model folder needs it"):
        read_hub(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds no weights; it must have model\.safetensors or"):
        read_hub(tmp_path)


def test_damaged_sharded_folders_are_named(tmp_path):
    write_hub(tmp_path, CONFIG, some_weights(), max_shard_bytes=1)
    (tmp_path / "model-00002-of-00004.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model-00002-of-00004\.safetensors is missing; download or copy it again"):
        read_hub(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text("{}")
    with pytest.raises(ValueError, match=r"index\.json has no weight_map"):
        read_hub(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", r"config\.json is not valid JSON: .*; download or copy it again"), ("[1]", "holds list; it must be a JSON")],
)
def test_a_damaged_config_is_named(tmp_path, text, message):
    write_hub(tmp_path, CONFIG, some_weights())
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_hub(tmp_path)


def test_a_shard_size_that_makes_no_sense_is_refused(tmp_path):
    with pytest.raises(ValueError, match="max_shard_bytes=0; it must be a positive number of bytes"):
        write_hub(tmp_path, CONFIG, some_weights(), max_shard_bytes=0)


def test_loading_converts_to_the_dtype_of_the_module():
    module = nn.Linear(2, 3).bfloat16()
    weights = {"weight": torch.randn(3, 2), "bias": torch.randn(3)}
    load_weights(module, weights)
    assert module.weight.dtype == torch.bfloat16
    assert torch.equal(module.weight, weights["weight"].bfloat16())
    assert module.weight.requires_grad


def test_all_misfits_are_listed_and_nothing_is_loaded():
    module = nn.ModuleDict({"first": nn.Linear(2, 3), "second": nn.Linear(3, 1)})
    before = {name: weight.clone() for name, weight in module.state_dict().items()}
    weights = {
        "first.weight": torch.zeros(3, 2),
        "first.bias": torch.zeros(4),
        "second.weight": torch.zeros(1, 3),
        "third.weight": torch.zeros(1),
    }
    with pytest.raises(ValueError, match="the weights do not fit ModuleDict; check that config") as caught:
        load_weights(module, weights)
    text = str(caught.value)
    assert "second.bias is missing" in text
    assert "third.weight is unknown" in text
    assert "first.bias has shape (4,) and must have (3,)" in text
    assert same(dict(module.state_dict()), before)


def test_ignored_names_may_be_missing_or_unknown():
    module = nn.ModuleDict({"first": nn.Linear(2, 3), "copy": nn.Linear(2, 3)})
    weights = {"first.weight": torch.ones(3, 2), "first.bias": torch.ones(3), "pooler.dense": torch.ones(1)}
    with pytest.raises(ValueError, match=r"pooler\.dense is unknown"):
        load_weights(module, weights, ignore=["copy.*"])
    load_weights(module, weights, ignore=["copy.*", "pooler.*"])
    assert module["first"].bias.eq(1).all()


def test_one_parameter_under_two_names_takes_one_value():
    module = nn.ModuleDict({"first": nn.Embedding(2, 3), "second": nn.Embedding(2, 3)})
    module["second"].weight = module["first"].weight
    load_weights(module, {"first.weight": torch.ones(2, 3), "second.weight": torch.ones(2, 3)})
    assert module["second"].weight.eq(1).all()
    differing = {"first.weight": torch.ones(2, 3), "second.weight": torch.zeros(2, 3)}
    with pytest.raises(ValueError, match=r"first\.weight and second\.weight are one parameter here but differ"):
        load_weights(module, differing)


def test_fingerprint_sees_every_change_and_nothing_else():
    weights = some_weights()
    mark = fingerprint(weights)
    assert re.fullmatch("[0-9a-f]{16}", mark)
    assert fingerprint(dict(reversed(weights.items()))) == mark
    assert fingerprint({**weights, "d.weight": weights["d.weight"].contiguous()}) == mark
    changes = {
        "a value": {"a.weight": weights["a.weight"] + 1e-6},
        "a dtype": {"a.weight": weights["a.weight"].view(torch.int32)},
        "a shape": {"a.weight": weights["a.weight"].reshape(4, 6)},
        "bfloat16": {"b.weight": -weights["b.weight"]},
        "a scalar": {"c.count": torch.tensor(8)},
        "a name": {"e.weight": torch.zeros(0)},
    }
    marks = {name: fingerprint({**weights, **change}) for name, change in changes.items()}
    assert len({mark, *marks.values()}) == len(changes) + 1


def test_fingerprint_does_not_depend_on_the_piece_size(monkeypatch):
    weights = some_weights()
    whole = fingerprint(weights)
    monkeypatch.setattr("wellread.nn.checkpoints._HASH_BYTES", 7)
    assert fingerprint(weights) == whole
