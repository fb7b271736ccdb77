"""Folders of pictures: bytes by id, features computed once, and what they are for pictures by id or by file."""

from __future__ import annotations

import io
import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from wellread.pictures import Pictures, PictureStore, PictureWriter, build_features, features, open_image
from wellread.types import Question

transformers = pytest.importorskip("transformers", reason="needs transformers")
COLOURS = ("red", "green", "blue", "white", "black")


def png(colour: str, size: int = 16) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    from wellread.nn.vision import load_image_encoder

    folder = tmp_path_factory.mktemp("vit")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        model = transformers.ViTModel(
            transformers.ViTConfig(**shape, image_size=16, patch_size=8), add_pooling_layer=False
        )
    model.save_pretrained(folder)
    return load_image_encoder(f"vit:{folder}")


def filled(path, colours=COLOURS):
    with PictureWriter(path) as writer:
        for colour in colours:
            writer.add(colour, png(colour))
    return path


@pytest.fixture
def seen(tmp_path, net):
    build_features(filled(tmp_path / "p"), net, progress=False)
    return Pictures.open(tmp_path / "p")


def test_bytes_come_back_by_id(tmp_path):
    store = PictureStore.open(filled(tmp_path / "p"))
    assert store.ids() == list(COLOURS) == list(store)
    assert [store.bytes(colour) for colour in COLOURS] == [png(colour) for colour in COLOURS]
    assert store.image("blue").convert("RGB").getpixel((0, 0)) == (0, 0, 255)
    assert "red" in store
    assert "pink" not in store
    with pytest.raises(ValueError, match=r"picture 'pink' is not in .* \(5 pictures\)"):
        store.bytes("pink")


def test_a_folder_grows_and_keeps_one_picture_per_id(tmp_path):
    filled(tmp_path, COLOURS[:2])
    with PictureWriter(tmp_path) as writer:
        assert not writer.add("red", png("red"))
        assert writer.add("blue", png("blue"))
        assert "blue" in writer
        with pytest.raises(ValueError, match="picture id 'blue' is taken by another picture"):
            writer.add("blue", png("red"))
        assert writer.add("white", png("white"))  # after a look back, writing goes on at the end
    store = PictureStore.open(tmp_path)
    assert [store.bytes(name) for name in store] == [png(name) for name in ("red", "green", "blue", "white")]


def test_what_was_not_committed_leaves_nothing(tmp_path):
    filled(tmp_path, COLOURS[:2])
    writer = PictureWriter(tmp_path).__enter__()
    writer.add("blue", png("blue"))
    writer.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert PictureStore.open(tmp_path).ids() == ["red", "green"]
    filled(tmp_path, ["white"])
    store = PictureStore.open(tmp_path)
    assert store.bytes("white") == png("white")


def test_damage_is_told(tmp_path):
    with pytest.raises(ValueError, match="holds no pictures; make it with wellread pictures"):
        PictureStore.open(tmp_path)
    filled(tmp_path)
    (tmp_path / "bytes.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"are damaged \(bytes are missing\)"):
        PictureStore.open(tmp_path)
    (tmp_path / "index.arrow").write_bytes(b"none")
    with pytest.raises(ValueError, match=r"are damaged .*make the folder again"):
        PictureStore.open(tmp_path)


def test_what_is_no_picture_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a\.png is no picture that can be read"):
        open_image(b"GIF89a", name="a.png")
    broken = png("red", 64)
    with pytest.raises(ValueError, match="is no picture that can be read"):
        open_image(broken[: len(broken) // 2])


def test_pictures_are_turned_upright_and_scaled_to_eight_bits():
    lying = Image.new("RGB", (4, 2), "red")
    lying.paste("blue", (0, 0, 2, 2))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    file = io.BytesIO()
    lying.save(file, "PNG", exif=exif)
    upright = open_image(file.getvalue())
    assert upright.size == (2, 4)
    assert (upright.getpixel((0, 0)), upright.getpixel((0, 3))) == ((0, 0, 255), (255, 0, 0))
    file = io.BytesIO()
    Image.fromarray(np.array([[0, 256 * 100, 65535]], np.uint16)).save(file, "PNG")
    assert np.asarray(open_image(file.getvalue())).tolist() == [[0, 100, 255]]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's
@pytest.mark.parametrize("exif", [b"Exif\0\0MM\0*", b"junk", b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\xff"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_picture_whose_exif_is_damaged_is_taken_as_it_lies(kind, exif):
    file = io.BytesIO()
    Image.new("RGB", (4, 2), "red").save(file, kind, exif=exif)
    assert open_image(file.getvalue()).size == (4, 2)


def test_greys_of_the_other_byte_order_are_scaled_too():
    file = io.BytesIO()
    Image.fromarray(np.array([[0, 256 * 100, 65535]], ">u2")).save(file, "TIFF")
    assert np.asarray(open_image(file.getvalue())).tolist() == [[0, 100, 255]]


def test_features_are_those_of_the_net(seen, net):
    picture, mask = seen.features(["blue", None, "red"])
    assert picture.shape == (3, seen.patches, seen.dim) == (3, 4, 8)
    assert mask.tolist() == [[True] * 4, [False] * 4, [True] * 4]
    assert not picture[1].any()
    wanted = net([open_image(png(colour)) for colour in ("blue", "red")])
    # int8 with a scale per patch: half a step of its largest value.
    torch.testing.assert_close(picture[[0, 2]], wanted, rtol=0, atol=float(wanted.abs().max()) / 254 + 1e-6)
    assert seen.fingerprint == net.fingerprint
    assert pickle.loads(pickle.dumps(seen)).features(["blue"])[0].equal(picture[:1])


def test_means_have_length_one(seen):
    means = seen.means(["red", None, "green"])
    assert means[1].abs().sum() == 0
    torch.testing.assert_close(means[[0, 2]].norm(dim=-1), torch.ones(2))
    assert means[0] @ seen.means(["red"])[0] > means[0] @ means[2]


def test_files_and_images_are_encoded_when_asked_for(seen, tmp_path):
    (tmp_path / "new.png").write_bytes(png("red"))
    file, given, stored = seen.features([str(tmp_path / "new.png"), Image.new("RGB", (9, 9), "red"), "red"])[0]
    torch.testing.assert_close(file, given)
    # The stored one went through int8.
    torch.testing.assert_close(file, stored, rtol=0, atol=float(file.abs().max()) / 254 + 1e-6)
    assert (file * 1).requires_grad is False
    torch.nn.Linear(8, 2)(file).sum().backward()  # not a tensor of inference mode, which training cannot take
    with pytest.raises(ValueError, match=r"picture 'pink' is neither one of the 5 ids of .* nor a file"):
        seen.features(["pink"])


def test_the_net_is_loaded_ahead_where_it_is_needed(seen, tmp_path):
    (tmp_path / "new.png").write_bytes(png("red"))
    seen.prepare("red")
    assert "encoder" not in vars(seen)  # its features are stored
    seen.prepare(str(tmp_path / "new.png"))
    assert "encoder" in vars(seen)
    with pytest.raises(ValueError, match="is neither one of the 5 ids"):
        seen.prepare("pink")


def test_features_go_on_where_they_were_stopped(tmp_path, net, monkeypatch):
    monkeypatch.setattr(features, "BATCH", 2)
    monkeypatch.setattr(features, "COMMIT_EVERY", 1)
    whole = build_features(filled(tmp_path / "whole"), net, progress=False)
    assert (whole.pictures, whole.resumed_from) == (5, 0)

    class Killed:
        def __getattr__(self, name):
            return getattr(net, name)

        def __call__(self, pictures):
            if len(pictures) < 2:
                raise KeyboardInterrupt
            return net(pictures)

    with pytest.raises(KeyboardInterrupt):
        build_features(filled(tmp_path / "cut"), Killed(), progress=False)
    assert build_features(tmp_path / "cut", net, progress=False).resumed_from == 4
    files = [sorted((tmp_path / name / "features").rglob("*.bin")) for name in ("whole", "cut")]
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]
    filled(tmp_path / "cut", [*COLOURS, "yellow"])
    before = Pictures.open(tmp_path / "cut")
    assert before.features(["yellow"])[0].shape == (1, 4, 8)  # not stored yet: seen by the net
    assert build_features(tmp_path / "cut", net, progress=False).resumed_from == 5


def test_wrong_features_are_told(seen, tmp_path, net):
    about = next(seen.path.rglob("about.json"))
    said = json.loads(about.read_text())
    about.write_text(json.dumps({**said, "fingerprint": "vit:other"}))
    with pytest.raises(ValueError, match=r"but the features of .* are of vit:other; compute them again"):
        Pictures.open(seen.path).features([Image.new("RGB", (4, 4))])
    about.write_text(json.dumps({**said, "done": 9}))
    with pytest.raises(ValueError, match=r"are damaged .* is too short"):
        Pictures.open(seen.path)
    about.write_text("{")
    with pytest.raises(ValueError, match=r"are damaged .*compute them again"):
        Pictures.open(seen.path)
    with pytest.raises(ValueError, match="have no features; compute them with wellread pictures"):
        Pictures.open(filled(tmp_path / "bare"))


def test_several_encoders_have_to_be_told_apart(seen, tmp_path):
    from wellread.nn.vision import load_image_encoder

    with torch.random.fork_rng():
        torch.manual_seed(1)
        shape = {"hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
        model = transformers.ViTModel(
            transformers.ViTConfig(**shape, image_size=8, patch_size=8), add_pooling_layer=False
        )
    model.save_pretrained(tmp_path / "small")
    other = load_image_encoder(f"vit:{tmp_path / 'small'}")
    build_features(seen.path, other, progress=False)
    with pytest.raises(ValueError, match=r"features of several image encoders; give the folder of one: .* or .*/vit-"):
        Pictures.open(seen.path)
    small = Pictures.open(seen.path, fingerprint=other.fingerprint)
    assert (small.dim, Pictures.open(small.stored.path).dim) == (4, 4)
    assert pickle.loads(pickle.dumps(small)).fingerprint == other.fingerprint


def test_a_question_hides_its_picture_under_all_names(seen, tmp_path):
    with PictureWriter(seen.path) as writer:
        writer.add("again", png("red"))
    (tmp_path / "photo.png").write_bytes(png("red"))
    pictures = Pictures.open(seen.path)
    for name in ("red", "again", str(tmp_path / "photo.png")):
        asked = pictures.hiding_copies(Question("q", "What?", metadata={"picture": name, "hidden": ["x", name]}))
        assert (asked.hidden[:2], set(asked.hidden)) == (("x", name), {"x", name, "red", "again"})
    for hidden, name in ([["x"], "red"], [["no.png"], "no.png"], [["x"], None]):
        asked = Question("q", "What?", metadata={"picture": name, "hidden": hidden})
        assert pictures.hiding_copies(asked) is asked


def test_small_values_beside_large_ones_keep_their_scale():
    row = torch.tensor([[[100.0, -50.0, 0.01, 0.02]]])
    values, scales, _ = features._packed(row, (2, 2))
    assert values.tolist() == [[[127, -64, 64, 127]]]
    # Half a step of the largest value of each group.
    error = (features.unpacked(values, scales, (2, 2)) - row).abs()[0, 0]
    assert (error <= torch.tensor([100, 100, 0.02, 0.02]) / 253).all()
