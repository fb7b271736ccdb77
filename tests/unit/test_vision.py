"""Image encoders: any picture becomes one vector per patch, the same whoever stands beside it."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from wellread.nn.vision import load_image_encoder, squared

transformers = pytest.importorskip("transformers", reason="needs transformers")


def save_vit(folder, *, seed: int = 0) -> str:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        net = transformers.ViTModel(
            transformers.ViTConfig(**shape, image_size=16, patch_size=8), add_pooling_layer=False
        )
    net.save_pretrained(folder)
    return f"vit:{folder}"


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    return load_image_encoder(save_vit(tmp_path_factory.mktemp("vit")))


def painted(colour, size=(20, 20)):
    return Image.new("RGB", size, colour)


def test_a_vit_gives_its_last_states_for_every_patch(vit):
    assert (vit.patches, vit.dim) == (4, 8)
    seen = vit([painted("red"), painted("blue", (16, 16))])
    assert seen.shape == (2, 4, 8)
    assert not seen.requires_grad
    pixels = torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1).expand(1, 3, 16, 16)  # red, at mean and deviation 0.5
    # The same operations on the same numbers; only the batch is of another size.
    states = vit.net(pixel_values=pixels).last_hidden_state[:, 1:]  # the first is the class token
    torch.testing.assert_close(seen[:1], states, rtol=0, atol=1e-6)


def test_the_normalisation_of_the_folder_is_used(tmp_path):
    name = save_vit(tmp_path)
    plain = load_image_encoder(name)
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0, 0, 0], "image_std": [1, 1, 1]}')
    other = load_image_encoder(name)
    assert other.fingerprint != plain.fingerprint
    assert not torch.allclose(other([painted("red")]), plain([painted("red")]))


def test_equal_weights_have_equal_fingerprints(tmp_path, vit):
    assert load_image_encoder(save_vit(tmp_path / "same")).fingerprint == vit.fingerprint
    assert load_image_encoder(save_vit(tmp_path / "other", seed=1)).fingerprint != vit.fingerprint


def test_colours_stand_behind_what_the_net_sees(monkeypatch):
    from wellread.nn import vision

    class Blind:
        name, fingerprint, side, patches, dim = "blind", "blind:0", 2, 4, 3

        def __call__(self, pictures):
            return torch.zeros(len(pictures), 4, 3)

    monkeypatch.setattr(vision, "EfficientNetLite0", Blind)
    net = load_image_encoder("efficientnet-lite0+colours")
    assert (net.patches, net.dim, net.groups) == (4, 51, (3, 48))
    picture = painted("white", (8, 8))
    picture.paste((255, 0, 0), (4, 0, 8, 4))  # the patch on the right of the first row
    picture.putpixel((5, 2), (0, 0, 255))
    colours = net([picture])[0, :, 3:].unflatten(-1, (4, 4, 3))
    assert colours[0].eq(2).all()
    assert colours[1, 0, 0].tolist() == [2, -2, -2]
    assert colours[1, 2, 1].tolist() == [-2, -2, 2]  # its third row, its second column
    assert not net([picture])[0, :, :3].any()


def test_the_whole_picture_is_seen_on_white():
    wide = squared(painted("black", (40, 20)), 8)
    assert wide.size == (8, 8)
    assert [wide.getpixel((4, row)) for row in (0, 4, 7)] == [(255,) * 3, (0,) * 3, (255,) * 3]
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert squared(clear, 4).getpixel((1, 1)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("clip", "image_encoder='clip' is unknown; use one of: efficientnet-lite0, efficientnet-lite0.colours, vit"),
        ("vit", "does not fit; write vit:FOLDER"),
        ("efficientnet-lite0:here", "does not fit; write efficientnet-lite0"),
        ("vit:nowhere", "there is no config.json"),
    ],
)
def test_wrong_names_are_refused(name, said):
    with pytest.raises(ValueError, match=said):
        load_image_encoder(name)


def test_a_net_that_sees_nothing_is_refused(tmp_path):
    shape = {"vocab_size": 10, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    transformers.BertModel(transformers.BertConfig(**shape, intermediate_size=8)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a bert without patches; give a ViT"):
        load_image_encoder(f"vit:{tmp_path}")


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr("wellread.nn.vision.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs packages that are missing \(efficientnet_lite_pytorch.*\.\[vision\]"):
        load_image_encoder("efficientnet-lite0")
    with pytest.raises(ValueError, match="needs transformers; install it"):
        load_image_encoder("vit:here")


def test_efficientnet_knows_a_frog(shared_data):
    pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra `vision`")
    tables = pytest.importorskip("pyarrow.parquet")
    from wellread.pictures import open_image

    net = load_image_encoder("efficientnet-lite0")
    filters = [("caption", "=", "A frog."), ("style", "=", "photo")]
    rows = tables.read_table(shared_data / "images/images.parquet", filters=filters, columns=["image"]).to_pylist()
    seen = net([open_image(row["image"]) for row in rows[:2]])
    assert seen.shape == (2, 49, 1280)
    # Classes 30 to 32 of ImageNet are frogs: the pixels are prepared as the net was trained.
    assert set(net.net._fc(seen.mean(1)).argmax(1).tolist()) <= {30, 31, 32}
