"""Pictures and facts in one memory, from the command line: corpus, pictures, memorize, ask --image, eval."""

from __future__ import annotations

import gzip
import json
import shutil

import pytest
import torch
from PIL import Image

transformers = pytest.importorskip("transformers", reason="needs transformers")

LANDS = {"red": "Ruby", "green": "Emerald", "blue": "Sapphire"}
INIT = (
    "init --from scratch --corpus corpus --vocabulary 120 --dim 16 --layers 3 --heads 2 --decoder-layers 1"
    ' --system reveal --set \'sources=["facts","photos"]\' --set picture_dim=8 --set patches=4 --set key_dim=8'
    " --set patch_width=2 --set num_latents=3 --frame answer_tokens=6 --out model"
)
ASK = "ask 'What is its capital?' --model model --memory memory --pictures corpus/pictures"


def lines(path, rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def atlas(tmp_path_factory):
    """A folder with flags, facts, questions and a tiny image encoder."""
    home = tmp_path_factory.mktemp("atlas")
    (home / "photos").mkdir()
    for colour in LANDS:
        Image.new("RGB", (20, 20), colour).save(home / "photos" / f"{colour}.png")
    Image.new("RGB", (30, 20), (250, 10, 10)).save(home / "mine.png")
    captions = [{"file_name": f"{name}.png", "caption": f"A {name} flag.", "entity": f"land-{name}"} for name in LANDS]
    lines(home / "photos" / "captions.jsonl", captions)
    facts = [
        {"id": f"land-{name}", "title": f"{name}land", "text": f"Its capital is {city}."}
        for name, city in LANDS.items()
    ]
    lines(home / "facts.jsonl", facts)
    right = {"answers": ["Ruby"], "positive": ["land-red"], "type": "capital"}
    asked = [{"id": "q1", "image": "red.png"}, {"id": "q2", "image": "mine.png"}]
    lines(home / "questions.jsonl", [{**row, "question": "What is its capital?", **right} for row in asked])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        net = transformers.ViTModel(
            transformers.ViTConfig(**shape, image_size=16, patch_size=8), add_pooling_layer=False
        )
    net.save_pretrained(home / "vit")
    return home


@pytest.fixture(scope="module")
def built(atlas, tmp_path_factory):
    """The same with a corpus, its pictures, an untrained model and its memory."""
    import os

    from click.testing import CliRunner

    from wellread.cli.main import app

    here = os.getcwd()
    os.chdir(atlas)
    try:
        import shlex

        for command in (
            "corpus --source facts=facts.jsonl --source photos=photos --illustrate photos --out corpus --json",
            "pictures corpus --encoder vit:vit",
            INIT,
            "memorize corpus --model model --pictures corpus/pictures --retriever lexical --out memory",
            "index corpus --retriever visual --out visual",
        ):
            done = CliRunner().invoke(app, shlex.split(command), catch_exceptions=False)
            assert done.exit_code == 0, done.output
    finally:
        os.chdir(here)
    return atlas


@pytest.fixture
def there(built, monkeypatch):
    monkeypatch.chdir(built)
    return built


def test_sources_are_counted(there, wellread):
    again = wellread("corpus --source facts=facts.jsonl --source photos=photos --out again --json").json
    assert again["by_source"] == {"facts": 3, "photos": 3}


def test_a_picture_is_asked_about(there, wellread):
    answer = wellread(f"{ASK} --image mine.png --index visual --top-k 4 --json").json
    first = answer["passages"]
    assert {item["id"] for item in first[:2]} == {"land-red", "red.png"}  # what looks like it
    assert {item["source"] for item in first} == {"facts", "photos"}
    assert all(item["gate"] == pytest.approx(0.5) for item in first)  # untrained: it trusts both alike
    assert all(item["picture"].endswith(".png") for item in first)
    told = wellread(f"{ASK} --image mine.png --index visual").out
    assert "facts gate 0.50" in told


def test_the_answer_is_drawn(there, wellread, tmp_path):
    done = wellread(f"{ASK} --image mine.png --index visual --sheet {tmp_path}/sheet.png")
    assert "drawn: " in done.err
    with Image.open(tmp_path / "sheet.png") as sheet:
        colours = {colour for _, colour in sheet.convert("RGB").getcolors(1 << 20)}
    assert (250, 10, 10) in colours  # the picture that was asked about
    assert {(255, 0, 0), (0, 128, 0), (0, 0, 255)} <= colours  # those of the entries


def test_own_picture_is_not_read_and_types_are_scored(there, wellread):
    report = wellread(
        "eval --model model --memory memory --pictures corpus/pictures --index visual --questions questions.jsonl "
        "--answers said.jsonl --json"
    ).json
    assert report["recall@1"] == 100
    assert report["types"]["capital"]["n"] == 2
    assert "vqa_accuracy" in report
    said = [json.loads(line) for line in (there / "said.jsonl").read_text().splitlines()]
    assert "red.png" not in {item["id"] for item in said[0]["passages"]}
    assert "red.png" in {item["id"] for item in said[1]["passages"]}


def test_questions_of_a_file_bring_their_pictures(there, wellread):
    rows = [{"question": "Which?", "image": "blue.png", "positive": ["land-blue"]}, {"question": "Which?"}]
    # The entry of the very picture is not read, whatever it is called there.
    rows += [{"question": "Which?", "image": name} for name in ("blue.png", "photos/blue.png")]
    lines(there / "typed.jsonl", rows)
    out = wellread(
        "ask --questions typed.jsonl --image mine.png --model model --memory memory --index visual --top-k 1 "
        "--pictures corpus/pictures --no-flops --json"
    ).out
    first = [json.loads(line)["passages"][0] for line in out.splitlines()]
    assert [item["picture"] for item in first[:2]] == ["blue.png", "red.png"]
    assert first[0]["id"] == "land-blue"
    assert all(item["picture"] != "blue.png" for item in first[2:])


def test_a_file_of_questions_is_read_as_eval_reads_it(there, wellread, tmp_path):
    Image.new("RGB", (10, 10), "blue").save(tmp_path / "own.png")
    row = {"question": "Which?", "image": "own.png", "hidden": ["land-blue"]}
    (tmp_path / "asked.jsonl.gz").write_bytes(gzip.compress(json.dumps(row).encode()))
    said = wellread(
        f"ask --questions {tmp_path}/asked.jsonl.gz --model model --memory memory --index visual --top-k 2 "
        "--pictures corpus/pictures --json"
    ).json
    assert [item["id"] for item in said["passages"]][:1] == ["blue.png"]
    assert "land-blue" not in {item["id"] for item in said["passages"]}


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            f"{ASK} --image nowhere.png",
            "picture 'nowhere.png' is neither one of the 3 ids of corpus/pictures nor a file",
        ),
        (f"{ASK} --image mine.png --sheet sheet.pdf", "sheet=sheet.pdf must end in one of: .png, .jpg, .jpeg, .webp."),
        (f"{ASK} --image mine.png --sheet no/sheet.png", "sheet=no/sheet.png: there is no folder no"),
        (
            "ask --questions typed.jsonl --model model --memory memory --sheet sheet.png",
            "--sheet shows one answer; give the question on the command line.",
        ),
        (
            "ask Which? --model model --corpus corpus --index visual --pictures photos",
            "photos holds no pictures; make it with wellread pictures SOURCE --out photos.",
        ),
    ],
)
def test_mistakes_are_one_line(there, wellread, command, said):
    lines(there / "typed.jsonl", [{"question": "Which?"}])
    answer = wellread(command)
    assert answer.code == 2
    assert said in answer.err
    assert len(answer.err.splitlines()) == 1


def test_a_corpus_without_a_memory_is_seen_too(there, wellread):
    """The pictures of a corpus are found where it keeps them, and read anew."""
    plain = f"{ASK} --image mine.png --index visual --top-k 2 --no-flops --json".replace("--memory memory ", "")
    with_memory = wellread(f"{ASK} --image mine.png --index visual --top-k 2 --json").json
    anew = wellread(plain.replace("--pictures corpus/pictures", "--corpus corpus")).json
    scores = [{item["id"]: item["score"] for item in answer["passages"]} for answer in (with_memory, anew)]
    # The memory holds keys in float32, and features are the same: only the batch differs.
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)


def test_a_folder_seen_by_several_encoders_is_read_as_the_model_was_trained(there, wellread, tmp_path):
    shutil.copytree(there / "corpus" / "pictures", tmp_path / "both")
    [vit] = (tmp_path / "both" / "features").iterdir()
    other = shutil.copytree(vit, vit.with_name("other"))
    said = json.loads((vit / "about.json").read_text())
    (other / "about.json").write_text(json.dumps({**said, "encoder": "other", "fingerprint": "other:1"}))
    asked = f"{ASK} --image mine.png --index visual --top-k 4 --json"
    both = asked.replace("corpus/pictures", str(tmp_path / "both"))
    assert "features of several image encoders; give the folder of one: " in wellread(both).err  # it was never trained
    trained = wellread(f"{both} --set 'picture_encoder=\"{said['fingerprint']}\"'").json
    named = wellread(asked.replace("corpus/pictures", str(vit))).json
    assert trained["passages"] == named["passages"] == wellread(asked).json["passages"]
    assert (
        "the model was trained with those of"
        in wellread(
            both.replace(str(tmp_path / "both"), str(other)) + f" --set 'picture_encoder=\"{said['fingerprint']}\"'"
        ).err
    )


def test_pictures_must_be_given_and_be_read(there):
    from wellread.model import load_model
    from wellread.types import Question

    model = load_model("model")
    asked = [Question("", "Which?", metadata={"picture": "mine.png"})]
    with pytest.raises(ValueError, match=r"the question 'Which\?' has a picture.*no folder of pictures was given"):
        model.inputs(asked)
    assert model.inputs([Question("", "Which?")]).picture is None


def test_a_model_without_eyes_takes_no_picture(there, wellread):
    answer = wellread("ask Which? --image mine.png --corpus corpus --index visual")
    assert "reads no pictures; give a model that does, or leave --image out." in answer.err
