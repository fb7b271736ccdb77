"""Model folders: what is saved is what is loaded, also as another system; parts of other runs; encoding."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from wellread.model import (
    NAMED,
    Model,
    as_system,
    average,
    build_model,
    load_model,
    model_path,
    save_model,
    take_companions,
    transfer,
)
from wellread.nn.checkpoints import named_weights
from wellread.nn.tokenizers import Tokenizer, train_tokenizer
from wellread.reading.frame import Frame, FrameConfig
from wellread.types import Passage

PASSAGES = [Passage("a", "one two"), Passage("b", "six two one " * 4, title="six"), Passage("c", "")]
# The same float32 sums, some in another order.
CLOSE = {"rtol": 1e-4, "atol": 2e-5}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Few enough words for the 60 rows of the tiny readers' embeddings."""
    tokenizer = train_tokenizer(["title context question one two six"] * 3, 100)
    assert tokenizer.vocab_size <= 60
    return tokenizer


@pytest.fixture
def make(tiny, tokenizer):
    def model(name: str, *, family: str = "t5", seed: int = 0, copy_head=None, **options) -> Model:
        frame = Frame(FrameConfig(question_tokens=12), tokenizer)
        return Model(name, tiny.system(name, family, seed=seed, copy_head=copy_head, **options), frame)

    return model


def weights_of(model: Model) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in named_weights(model.system).items()}


def likelihood(model: Model, tiny) -> torch.Tensor:
    with torch.no_grad():
        return model.system.eval().log_likelihood(*tiny.batch(), *tiny.target(2))


# -- folders ---------------------------------------------------------------------------------------------------


def test_options_and_frame_are_kept(make, tmp_path):
    model = make("glimmer", live_share=0.7, keep=2, score="mean")
    again = load_model(save_model(tmp_path / "deep" / "model", model))
    assert again.name == "glimmer"
    assert again.system.config == model.system.config
    assert again.frame.config == model.frame.config
    assert again.frame.tokenizer.fingerprint == model.frame.tokenizer.fingerprint
    assert not again.system.training
    before, after = weights_of(model), weights_of(again)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_model_older_than_some_options_is_what_it_was(make, tiny, tmp_path):
    model = make("reveal", reencoded=1)
    folder = save_model(tmp_path / "model", model)
    described = json.loads((folder / "system.json").read_text())
    del described["options"]["renewed"], described["options"]["words"]
    (folder / "system.json").write_text(json.dumps(described))
    assert torch.equal(likelihood(load_model(folder), tiny), likelihood(model, tiny))


def test_bfloat16_halves_the_file_and_rounds_the_weights(make, tiny, tmp_path):
    model = make("lumen")
    save_model(tmp_path / "full", model)
    half = load_model(save_model(tmp_path / "half", model, weights="bf16"))
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("full", "half")]
    assert sizes[1] < 0.7 * sizes[0]  # the header with the names stays as it is
    rounded = {name: weight.bfloat16().float() for name, weight in weights_of(model).items()}
    loaded = weights_of(half)
    assert all(weight.dtype == torch.float32 and torch.equal(weight, rounded[name]) for name, weight in loaded.items())
    # bfloat16 keeps 8 bits; log-likelihoods of four tokens near -16 may move by a few tenths.
    torch.testing.assert_close(likelihood(half, tiny), likelihood(model, tiny), rtol=0.05, atol=0.3)
    # Rounded weights remember other states: memories of the two must not be mixed up.
    assert half.fingerprint().encoder != model.fingerprint().encoder
    assert load_model(tmp_path / "half").fingerprint() == half.fingerprint()


def test_a_glimmer_reads_as_a_lumen(make, tiny, tmp_path):
    saved = make("glimmer", keep=4, rerank_share=0.5, reranker="separate", live_share=2 / 3)
    lumen = load_model(save_model(tmp_path, saved), system="lumen")
    assert lumen.name == "lumen"
    assert lumen.system.config.live_share == 2 / 3  # options both have are kept
    assert not lumen.system.training
    assert lumen.fingerprint() == saved.fingerprint()  # and so it reads the same memory
    torch.testing.assert_close(likelihood(lumen, tiny), likelihood(saved, tiny), **CLOSE)  # keep=4 keeps all


def test_the_same_weights_with_other_options(make, tmp_path):
    save_model(tmp_path, make("glimmer", keep=4))
    assert load_model(tmp_path, options={"keep": 2}).system.config.keep == 2
    assert load_model(tmp_path, system="lumen", options={"q2mem": False}).system.config.q2mem is False
    with pytest.raises(ValueError, match=r"system\.kep is unknown; did you mean 'keep'"):
        load_model(tmp_path, options={"kep": 2})
    with pytest.raises(ValueError, match=r"system\.keep is unknown"):
        load_model(tmp_path, system="lumen", options={"keep": 2})


def test_weights_another_system_needs_must_be_there(make, tmp_path):
    save_model(tmp_path, make("lumen", question_encoder="shared"))
    with pytest.raises(ValueError, match=r"has no weights for scorer; glimmer needs them: make a model that has them"):
        load_model(tmp_path, system="glimmer")
    with pytest.raises(ValueError, match=r"question_encoder\.\S+ is missing"):
        load_model(tmp_path, options={"question_encoder": "separate"})
    with pytest.raises(ValueError, match=r"system='lumem' is unknown; use one of: fid.*Did you mean 'lumen'"):
        load_model(tmp_path, system="lumem")
    assert load_model(tmp_path, system="fid").name == "fid"


# -- small files -----------------------------------------------------------------------------------------------


def test_int8_quarters_the_file_and_hardly_moves_the_answers(make, tiny, tmp_path):
    # Of another seed, so that its question encoder is not the memory encoder.
    model = make("glimmer", keep=4, question_encoder="separate")
    save_model(tmp_path / "full", model)
    small = load_model(save_model(tmp_path / "small", model, weights="int8"))
    # A row of 127 steps to each side; log-likelihoods of four tokens near -16 may move by a tenth.
    torch.testing.assert_close(likelihood(small, tiny), likelihood(model, tiny), rtol=0.02, atol=0.1)
    for name, weight in weights_of(small).items():
        assert weight.dtype == torch.float32
        if weight.dim() == 2 and weight.shape[0] >= 16:
            step = weights_of(model)[name].abs().amax(1, keepdim=True) / 127
            # Half a step of rounding, and the step itself is rounded up by less than a thousandth.
            assert ((weight - weights_of(model)[name]).abs() <= 0.501 * step + 1e-12).all(), name
    assert load_model(tmp_path / "small").fingerprint() == small.fingerprint()
    assert small.fingerprint().encoder != model.fingerprint().encoder


def test_a_small_model_written_again_is_the_same(make, tmp_path):
    save_model(tmp_path / "small", make("lumen"), weights="int8")
    again = load_model(tmp_path / "small")
    save_model(tmp_path / "again", again, weights="int8")
    files = [
        [(file.name, file.read_bytes()) for file in sorted((tmp_path / name).iterdir())] for name in ("small", "again")
    ]
    assert files[0] == files[1]
    whole = load_model(save_model(tmp_path / "whole", again))
    assert whole.fingerprint() == again.fingerprint()  # fp32 holds every value of int8 exactly


def test_what_small_files_lack_is_told(make, tmp_path):
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    save_model(tmp_path, make("lumen", question_encoder="separate"), weights="int8")
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    with safe_open(file, "pt") as opened:
        head = opened.metadata()
    name = "reader.encoder.embed_tokens.weight"
    save_file({key: value for key, value in weights.items() if key != f"{name}.scale"}, file, metadata=head)
    with pytest.raises(ValueError, match=rf"the weights lack {name}\.scale; download or copy the model again"):
        load_model(tmp_path)
    save_file({key: value for key, value in weights.items() if not key.startswith(name)}, file, metadata=head)
    with pytest.raises(ValueError, match=rf"do not fit Lumen;(.|\n)*{name} is missing(.|\n)*question_encoder\.embed"):
        load_model(tmp_path)
    save_file({**weights, name: weights[name][:5]}, file, metadata=head)
    with pytest.raises(ValueError, match=rf"the weights lack {name}\.scale; download or copy the model again"):
        load_model(tmp_path)


def test_another_kind_of_weights_is_refused(make, tmp_path):
    with pytest.raises(ValueError, match=r"weights='int4' is unknown; use one of: fp32, bf16, int8"):
        save_model(tmp_path, make("fid"), weights="int4")


def test_a_small_model_reads_as_other_systems_and_gives_parts(make, tmp_path):
    model = make("glimmer", seed=1, question_encoder="separate")
    small = load_model(save_model(tmp_path, model, weights="int8"))
    lumen = load_model(tmp_path, system="lumen")
    assert lumen.fingerprint() == small.fingerprint()
    assert load_model(tmp_path, system="fid").name == "fid"
    other = make("lumen", seed=2)
    taken = transfer(other, tmp_path, ["memory", "question"])
    assert any(name.startswith("question_encoder.embed_tokens") for name in taken)  # stored under another name
    assert all(torch.equal(weights_of(other)[name], weights_of(small)[name]) for name in taken)


# -- names -----------------------------------------------------------------------------------------------------


def test_a_model_by_its_name(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(NAMED, "wellread-mini", tmp_path / "packaged")
    with pytest.raises(
        ValueError, match=r"model wellread-mini has no weights in this version of wellread; give the fo"
    ):
        load_model("wellread-mini")
    packaged, other = make("lumen", seed=1), make("fid", seed=2)
    save_model(tmp_path / "packaged", packaged, weights="int8")
    assert model_path("wellread-mini") == tmp_path / "packaged"
    assert load_model("wellread-mini").name == "lumen"
    assert transfer(make("lumen"), "wellread-mini", ["memory"])
    save_model("wellread-mini", other)  # what lies here goes first
    assert load_model("wellread-mini").name == "fid"
    with pytest.raises(ValueError, match=r"model mini does not exist; .*, or a name: wellread-mini\."):
        load_model("mini")


def test_what_stands_beside_a_model_goes_with_it(tmp_path):
    source, folder = tmp_path / "source", tmp_path / "folder"
    for place in (source, folder):
        place.mkdir()
        (place / "CARD.md").write_text(place.name)
        (place / "other.txt").write_text(place.name)
    (folder / "confidence.json").write_text("{}")
    take_companions(folder, source)
    assert sorted(item.name for item in folder.iterdir()) == ["CARD.md", "other.txt"]
    assert [(folder / name).read_text() for name in ("CARD.md", "other.txt")] == ["source", "folder"]
    take_companions(folder, folder)
    assert (folder / "CARD.md").is_file()
    take_companions(folder, None)
    assert not (folder / "CARD.md").exists()


def edited(folder, **changes) -> None:
    file = folder / "system.json"
    described = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in described.items() if value is not None}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, r"system\.json has format 2; this version reads format 1\. Install the wellread"),
        ({"format": None}, r"system\.json has format None; this version reads format 1"),
        ({"options": None, "frame": None}, r"system\.json lacks options, frame; copy it again"),
        ({"options": 5}, r"system\.json lacks options; copy it again"),
        ({"system": "t6"}, r"names system 't6', which this version does not have \(it has: fid, .*\); install the"),
        ({"system": 7}, r"system\.json lacks system; copy it again"),
        ({"options": {"liv_share": 0.5}}, r"system\.liv_share is unknown; did you mean 'live_share'"),
        ({"options": {"live_share": 3.0}}, r"live_share=3\.0; it must be between 0"),
        ({"frame": {"answer_tokens": 1}}, r"frame: frame answer_tokens=1; it must be at least 4"),
    ],
)
def test_descriptions_that_do_not_fit_are_told(make, tmp_path, changes, message):
    save_model(tmp_path, make("lumen"))
    edited(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path)


def test_folders_without_a_model_are_told(make, tmp_path):
    with pytest.raises(ValueError, match=r"model .*nowhere does not exist; give the folder of a model"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(
        ValueError, match=r"is not a model folder: system\.json is missing; make one with wellread init"
    ):
        load_model(tmp_path)
    save_model(tmp_path, make("fid"))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"holds no weights; it must have model\.safetensors or"):
        load_model(tmp_path)


def test_models_are_built_from_options(tiny, tokenizer):
    model = build_model("glimmer", {"keep": 2}, tiny.reader("t5"), tokenizer)
    assert (model.name, model.system.config.keep) == ("glimmer", 2)
    assert model.frame.config == FrameConfig()
    with pytest.raises(ValueError, match=r"system\.keep='2' is str; it must be int"):
        build_model("glimmer", {"keep": "2"}, tiny.reader("t5"), tokenizer)
    with pytest.raises(ValueError, match=r"system='nothing' is unknown"):
        build_model("nothing", {}, tiny.reader("t5"), tokenizer)


# -- transfer --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [["memory"], ["live", "decoder"], ["question"], ["scorer"]])
def test_named_parts_and_no_others_are_taken(make, tmp_path, parts):
    options = {"question_encoder": "separate", "live_share": 2 / 3, "keep": 2}
    source, model = (make("glimmer", seed=seed, **options) for seed in (1, 2))
    save_model(tmp_path, source)
    before, wanted = weights_of(model), weights_of(source)
    taken = transfer(model, tmp_path, parts)
    prefixes = tuple(prefix for part in parts for prefix in model.system.parts()[part])
    assert sorted(taken) == sorted(name for name in before if name.startswith(prefixes))
    after = weights_of(model)
    for name in after:
        assert torch.equal(after[name], wanted[name] if name in taken else before[name]), name
    assert not all(torch.equal(wanted[name], before[name]) for name in taken)


def test_every_weight_belongs_to_one_part(make):
    model = make("glimmer", question_encoder="separate", reranker="separate", copy_head=True)
    parts = model.system.parts()
    for name in weights_of(model):
        owners = [part for part, prefixes in parts.items() if name.startswith(tuple(prefixes))]
        assert len(owners) == 1, (name, owners)


def test_parts_cross_systems_and_precisions(make, tmp_path):
    source = make("memory_fid", seed=1, memory_layers=2)
    save_model(tmp_path, source, weights="bf16")
    model = make("lumen", seed=2, live_share=1 / 3)
    taken = transfer(model, tmp_path, ["memory"])
    wanted, found = weights_of(source), weights_of(model)
    assert taken
    assert all(torch.equal(found[name], wanted[name].bfloat16().float()) for name in taken)


def test_parts_that_do_not_fit_are_refused_and_nothing_is_taken(make, tmp_path):
    save_model(tmp_path, make("glimmer", seed=1))
    model = make("lumen", seed=2)
    before = weights_of(model)
    with pytest.raises(ValueError, match=r"transfer parts=\['eyes'\] are unknown; lumen has: memory, live, question"):
        transfer(model, tmp_path, ["memory", "eyes"])
    # The glimmer's question encoder is its memory encoder.
    with pytest.raises(ValueError, match=r"and this lumen share no weights of question; name parts that both"):
        transfer(model, tmp_path, ["memory", "question"])
    with pytest.raises(ValueError, match=r"share no weights of no parts; name parts"):
        transfer(model, tmp_path, [])
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"holds no weights; it must have model\.safetensors or"):
        transfer(model, tmp_path, ["memory"])
    after = weights_of(model)
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("others", [1, 2])
def test_an_average_lies_in_the_middle_of_models(make, tmp_path, others):
    one = make("glimmer", seed=1)
    before = weights_of(one)
    rest = [make("glimmer", seed=2 + number) for number in range(others)]
    paths = [save_model(tmp_path / f"{number}", other) for number, other in enumerate(rest)]
    average(one, *paths)
    after = weights_of(one)
    for name, weight in before.items():
        expected = torch.stack([weight, *(weights_of(other)[name] for other in rest)]).mean(0)
        assert torch.allclose(after[name], expected, atol=1e-6)
    assert any(not torch.equal(after[name], before[name]) for name in before)


def test_weights_that_are_the_same_in_all_models_stay_so_to_the_last_bit(make, tmp_path):
    one = make("glimmer", seed=1)
    before = weights_of(one)
    paths = [save_model(tmp_path / name, one) for name in "ab"]
    average(one, *paths)
    after = weights_of(one)
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("system", ["memory_fid", "lumen"])
def test_models_of_other_weights_have_no_average(make, tmp_path, system):
    save_model(tmp_path, make("glimmer", seed=1))
    model = make(system, seed=2)
    before = weights_of(model)
    with pytest.raises(ValueError, match=r"is no model of the same weights \(.* is missing or of another shape in one"):
        average(model, tmp_path)
    after = weights_of(model)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_parts_of_another_size_are_refused(make, tmp_path):
    from safetensors.torch import load_file, save_file

    save_model(tmp_path, make("lumen", seed=1))
    file, model = tmp_path / "model.safetensors", make("lumen")
    weights = load_file(file)
    name = next(name for name in weights if name.startswith("reader.decoder.") and weights[name].dim() == 2)
    save_file({**weights, name: weights[name][:, :3].contiguous()}, file)
    before = weights_of(model)
    with pytest.raises(ValueError, match=r"has another shape in .*; transfer needs a reader of the same size"):
        transfer(model, tmp_path, ["decoder"])
    after = weights_of(model)
    assert all(torch.equal(after[name], before[name]) for name in before)


# -- encoding and fingerprints ---------------------------------------------------------------------------------


def test_what_is_encoded_is_the_passage_alone(make):
    model = make("lumen", live_share=1 / 3)
    together = model.encode(PASSAGES)
    for passage, item in zip(PASSAGES, together, strict=True):
        [alone] = model.encode([passage])
        [tokens] = model.frame.passages([passage])
        assert item.tokens.tolist() == tokens
        assert item.states.shape == (len(tokens), model.dim)
        assert item.keys is None
        assert item.states.device.type == "cpu"
        assert not item.states.requires_grad
        torch.testing.assert_close(item.states, alone.states, **CLOSE)
    assert model.encode([]) == []


def test_encoding_is_without_dropout(make):
    model = make("lumen", train_memory=True)  # a frozen memory encoder has no dropout even in training
    for module in model.system.modules():
        if hasattr(module, "dropout"):
            module.dropout = 0.5
    plain = model.encode(PASSAGES[:1])[0].states
    model.system.train()
    assert torch.equal(model.encode(PASSAGES[:1])[0].states, plain)


def test_readers_from_scratch_store_tokens_only(make):
    model = make("fid")
    encoded = model.encode(PASSAGES)
    assert model.dim is None
    assert [item.tokens.tolist() for item in encoded] == model.frame.passages(PASSAGES)
    assert all(item.states is None and item.keys is None for item in encoded)
    assert make("lumen").dim == 16


def test_precision_of_encoding(make):
    model = make("lumen", family="t5-gated")
    plain, half = (model.encode(PASSAGES, precision=precision) for precision in ("fp32", "bf16"))
    for one, other in zip(plain, half, strict=True):
        assert other.states.dtype == torch.float32
        assert not torch.equal(one.states, other.states)
        # Products of two layers in 8 bits, of states of size 1 to 4.
        torch.testing.assert_close(other.states, one.states, rtol=0.05, atol=0.05)
    with pytest.raises(ValueError, match=r"precision='fp16' is unknown; use one of: fp32, bf16"):
        model.encode(PASSAGES, precision="fp16")


def test_the_fingerprint_is_of_what_decides_the_memory(make, tokenizer):
    model = make("lumen", live_share=1 / 3)
    assert model.fingerprint("100 words").cutting == "100 words"
    assert model.fingerprint().cut == "2 of 3"
    plain = model.fingerprint()
    with torch.no_grad():
        model.system.reader.decoder.layers[0].cross.query.weight.add_(1)
        model.system.reader.encoder.layers[2].attention.query.weight.add_(1)
        model.system.question_encoder.layers[0].attention.query.weight.add_(1)
    assert model.fingerprint() == plain  # none of these makes states
    with torch.no_grad():
        model.system.reader.encoder.layers[1].attention.query.weight.add_(1)
    assert plain.difference(model.fingerprint()) == ["encoder"]
    framed = replace(model, frame=Frame(FrameConfig(passage="{text}"), tokenizer))
    assert model.fingerprint().difference(framed.fingerprint()) == ["template"]


def test_what_a_build_of_a_memory_needs(make):
    model = make("lumen")
    encode, fingerprint, dim = model.encoder_for_memory("100 words", precision="bf16")
    assert fingerprint == model.fingerprint("100 words")
    assert dim == 16
    assert torch.equal(encode(PASSAGES)[1].states, model.encode(PASSAGES, precision="bf16")[1].states)


def test_rows_of_sources_are_taken_by_name_and_what_is_not_taken_is_told(make, caplog):
    model = make("reveal", sources=("a", "b", "c"), num_latents=3)
    for weight in model.system.gate.parameters():
        torch.nn.init.normal_(weight)
    gate = {name: weight.detach().clone() for name, weight in model.system.gate.named_parameters()}
    with caplog.at_level("WARNING"):
        made = as_system(model, "reveal", {"sources": ["new", "c", "a", "b"], "num_latents": 3})
    assert not caplog.records
    for name, weight in made.system.gate.named_parameters():
        assert torch.equal(weight[1:], gate[name][[2, 0, 1]])
        assert not weight[0].any()
    with caplog.at_level("WARNING"):
        as_system(make("reveal", num_latents=3), "reveal", {"num_latents": 2})
    assert [record.getMessage() for record in caplog.records] == [
        "weights of another shape start anew: nets.compress.latents"
    ]


def test_a_system_on_other_nets_cannot_take_a_models(make, monkeypatch):
    model = make("lumen")
    monkeypatch.setattr(type(model.system), "built_on", "something_else")
    with pytest.raises(ValueError, match=r"fid is built on nets of kind 'encoder_decoder', and this lumen on 'someth"):
        as_system(model, "fid", {})
