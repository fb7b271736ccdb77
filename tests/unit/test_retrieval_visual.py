"""Search by looks: the nearest pictures, of passages that have one, for questions that have one."""

from __future__ import annotations

import io

import pytest
import torch
from PIL import Image

from wellread.cli.rank import command as rank
from wellread.corpus import Corpus
from wellread.pictures import PictureWriter, build_features
from wellread.pictures.looks import looks
from wellread.retrieval import RETRIEVERS, open_index
from wellread.types import Passage, Probe

COLOURS = ("red", "green", "blue", "white", "black")


class Colours:
    """An image encoder that sees the colour of each quarter."""

    name, patches, dim, groups, fingerprint = "colours", 4, 3, (3,), "colours:1"

    def __call__(self, pictures):
        small = [picture.convert("RGB").resize((2, 2)) for picture in pictures]
        rows = [[small_one.getpixel((x, y)) for y in range(2) for x in range(2)] for small_one in small]
        return torch.tensor(rows) / 255 - 0.5


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr("wellread.nn.vision.load_image_encoder", lambda name: Colours())
    with PictureWriter(tmp_path / "pictures") as writer:
        for colour in COLOURS:
            out = io.BytesIO()
            Image.new("RGB", (4, 4), colour).save(out, "PNG")
            writer.add(colour, out.getvalue())
    build_features(tmp_path / "pictures", Colours(), progress=False)
    return tmp_path / "pictures"


@pytest.fixture
def corpus(tmp_path):
    passages = [Passage(f"p-{name}", f"It is {name}.", metadata={"picture": name}, source="paint") for name in COLOURS]
    passages.insert(2, Passage("words", "It has no colour."))
    passages.append(Passage("again", "Red once more.", metadata={"picture": "red"}, source="photo"))
    return Corpus.write(passages, tmp_path / "corpus")


def test_what_looks_alike_is_found(tmp_path, folder, corpus):
    index = RETRIEVERS["visual"].build(corpus, tmp_path / "index", pictures=str(folder))
    assert len(index) == 6  # one passage has no picture
    (tmp_path / "rose.png").write_bytes(_png((250, 10, 10)))
    by_id, by_file = index.search([Probe(picture="blue"), Probe(picture=str(tmp_path / "rose.png"))], top_k=2)
    assert by_id.ids[0] == "p-blue"
    assert by_id.scores[0] == pytest.approx(1, abs=1e-2)  # features are stored in int8
    assert by_file.ids == ("p-red", "again")
    where = index.search([Probe(picture="red")], top_k=2, where={"source": "photo"})[0]
    assert where.ids == ("again",)


def test_an_index_opens_and_grows(tmp_path, folder, corpus):
    RETRIEVERS["visual"].build(corpus, tmp_path / "index", pictures=str(folder), view="mean")
    index = open_index(tmp_path / "index")
    assert index.add([Passage("new", "x", metadata={"picture": "green"}), Passage("bare", "y")]) == 1
    index.delete(["p-green"])
    assert index.search([Probe(picture="green")], top_k=1)[0].ids == ("new",)


class Greys(Colours):
    """Another image encoder: it sees how light each quarter is."""

    name, dim, groups, fingerprint = "greys", 1, (1,), "greys:1"

    def __call__(self, pictures):
        return super().__call__(pictures).mean(-1, keepdim=True)


def test_an_index_reads_the_features_it_was_made_of(tmp_path, folder, corpus, monkeypatch):
    visual = RETRIEVERS["visual"]
    visual.build(corpus, tmp_path / "colours", pictures=str(folder))
    build_features(folder, Greys(), progress=False)
    assert open_index(tmp_path / "colours").search([Probe(picture="blue")], top_k=1)[0].ids == ("p-blue",)
    with pytest.raises(ValueError, match=r"features of several image encoders; give the folder of one: .*greys-"):
        visual.build(corpus, tmp_path / "greys", pictures=str(folder))
    [greys] = folder.glob("features/greys-*")
    index = visual.build(corpus, tmp_path / "greys", pictures=str(greys))
    assert (index.dim, index.options.features) == (open_index(tmp_path / "greys").dim, "greys:1")


def test_a_sync_looks_at_what_has_a_picture_alone(tmp_path, folder, corpus):
    index = RETRIEVERS["visual"].build(corpus, tmp_path / "index", pictures=str(folder))
    assert index.sync(corpus) == (0, 0, 0, 6)
    assert index.sync([passage for passage in corpus if passage.id != "p-red"]) == (0, 0, 1, 5)
    with pytest.raises(ValueError, match="can be read only once"):
        index.sync(iter(corpus))


def test_questions_and_options_must_fit(tmp_path, folder, corpus):
    visual = RETRIEVERS["visual"]
    with pytest.raises(ValueError, match="visual search needs pictures, a folder that wellread pictures made"):
        visual.build(corpus, tmp_path / "a")
    with pytest.raises(ValueError, match="view='patch' is unknown; use one of: grid, mean"):
        visual.build(corpus, tmp_path / "a", pictures=str(folder), view="patch")
    index = visual.build(corpus, tmp_path / "index", pictures=str(folder))
    with pytest.raises(ValueError, match=r"the question 'What\?' has no picture; visual search needs one"):
        index.search([Probe(words="What?")], top_k=1)
    object.__setattr__(index.options, "features", "other:1")
    with pytest.raises(
        ValueError, match=r"are of colours:1, the index was built with those of other:1; build it again"
    ):
        index.search([Probe(picture="red")], top_k=1)


def test_rank_leaves_out_what_is_hidden(tmp_path, folder, corpus):
    pytest.importorskip("pytrec_eval", reason="needs the extra `ranking`")
    import json

    from click.testing import CliRunner

    RETRIEVERS["visual"].build(corpus, tmp_path / "index", pictures=str(folder))
    row = {"id": "q", "question": "Which?", "image": "red", "positive": ["again"], "hidden": ["p-red"]}
    (tmp_path / "q.jsonl").write_text(json.dumps(row) + "\n")
    arguments = [str(tmp_path / "q.jsonl"), "--index", str(tmp_path / "index"), "--json"]
    assert json.loads(CliRunner().invoke(rank, arguments).stdout)["recall@1"] == 100
    # Without its source nothing right can be found.
    limited = json.loads(CliRunner().invoke(rank, [*arguments, "--where", "source=paint"]).stdout)
    assert limited["recall@5"] == 0


def test_looks_count_every_kind_of_feature_the_same():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3, 49, 6, generator=generator)
    grid = looks(features, (4, 2))
    assert grid.shape == (3, 9 * 4 + 49 * 2)
    torch.testing.assert_close(grid.norm(dim=-1), torch.ones(3))
    torch.testing.assert_close(grid[:, :36].norm(dim=-1), torch.full((3,), 0.5**0.5))
    mean = looks(features, (4, 2), view="mean")
    torch.testing.assert_close(mean[:, :4], torch.nn.functional.normalize(features[..., :4].mean(1), dim=-1) / 2**0.5)
    # Of a ViT with a class token, whose patches form no square, the grid is the mean.
    assert torch.equal(looks(features[:, :5], (6,)), looks(features[:, :5], (6,), view="mean"))
    # Brighter by the same everywhere is no other look.
    brighter = torch.cat([features[..., :4], features[..., 4:] + 1], dim=-1)
    torch.testing.assert_close(looks(brighter, (4, 2)), grid, rtol=0, atol=1e-6)


def _png(colour):
    out = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(out, "PNG")
    return out.getvalue()
