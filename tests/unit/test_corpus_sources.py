"""Sources of several kinds in one corpus: each entry knows where it is from and which picture is its own."""

from __future__ import annotations

import gzip
import io
import json
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from wellread.corpus import Corpus, Cutting, Problem, Source, ingest, read_documents, read_questions
from wellread.corpus.picture_sources import gather
from wellread.corpus.readers import format_of
from wellread.pictures import PictureStore
from wellread.types import Passage, Question


def png(colour: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(out, "PNG")
    return out.getvalue()


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    return path


PICTURES = [
    {
        "id": "i1",
        "source": "paint",
        "caption": "A red square.",
        "keywords": "shape; red",
        "entity": "red",
        "split": "train",
    },
    {"id": "i2", "source": "photo", "caption": "A blue square.", "keywords": None, "entity": "blue", "split": "dev"},
    {"id": "i3", "source": "photo", "caption": "Red again.", "keywords": None, "entity": "red", "split": "train"},
]
FACTS = [{"id": "red", "title": "Red", "text": "Red is a colour."}, {"id": "tea", "title": "Tea", "text": "A drink."}]


@pytest.fixture
def table(tmp_path):
    rows = [{**row, "image": png(colour)} for row, colour in zip(PICTURES, ("red", "blue", "red"))]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "images.parquet")
    return tmp_path / "images.parquet"


@pytest.fixture
def facts(tmp_path):
    return lines(tmp_path / "facts.jsonl", FACTS)


def made(tmp_path, sources, **options):
    return ingest(sources, tmp_path / "corpus", progress=False, **options), Corpus.open(tmp_path / "corpus")


def test_captioned_pictures_become_entries_and_keep_their_bytes(tmp_path, table):
    assert format_of(table) == "pictures"
    report, corpus = made(tmp_path, table)
    assert report.by_source == corpus.by_source == {"pictures": 3}
    first = corpus.get(["i1"])[0]
    assert (first.text, first.source, first.picture) == ("A red square. (shape; red)", "pictures", "i1")
    assert first.metadata["collection"] == "paint"
    assert first.metadata["entity"] == "red"
    assert PictureStore.open(corpus.pictures).bytes("i2") == png("blue")


def test_a_source_has_a_name_and_chooses_rows(tmp_path, table, facts):
    flags = Source.parse(f"flags={table}?split=train&source!=photo")
    assert flags.where == (("split", "train", True), ("source", "photo", False))
    # `source` of a picture is what kind of entry it is; the table's own is its collection.
    report, corpus = made(
        tmp_path, [Source.parse(f"flags={table}?split=train&collection!=photo"), Source(facts, "facts")]
    )
    assert report.by_source == {"flags": 1, "facts": 2}
    assert [(item.id, item.source) for item in corpus] == [("i1", "flags"), ("red", "facts"), ("tea", "facts")]


@pytest.mark.parametrize(
    ("conditions", "said"),
    [
        ("splt=train", r"images\.parquet\?splt=train: no row has a field 'splt'; conditions can name .*, split"),
        ("split!=train&entity=tea", r"no row of .*\?split!=train&entity=tea fulfils the conditions; give values that"),
    ],
)
def test_conditions_that_no_row_fulfils_are_named(tmp_path, table, facts, conditions, said):
    source = Source.parse(f"flags={table}?{conditions}")
    with pytest.raises(ValueError, match=said):
        made(tmp_path, [source, Source(facts, "facts")])
    with pytest.raises(ValueError, match=said):
        made(tmp_path, facts, illustrate=[source])
    assert not (tmp_path / "corpus").exists()


def test_pictures_illustrate_the_entries_they_are_of(tmp_path, table, facts):
    _, corpus = made(tmp_path, Source(facts, "facts"), illustrate=[Source.parse(f"{table}?split=train", named=False)])
    red, tea = corpus.get(["red", "tea"])
    assert red.picture == "i1"  # the first of two
    assert tea.picture is None
    assert PictureStore.open(corpus.pictures).ids() == ["i1"]


def test_the_picture_is_part_of_what_a_corpus_is(tmp_path, table, facts):
    plain = ingest(facts, tmp_path / "plain", progress=False)
    drawn = ingest(facts, tmp_path / "drawn", illustrate=[Source(table)], progress=False)
    assert plain.fingerprint != drawn.fingerprint


def test_pictures_go_along_when_corpora_are_joined(tmp_path, table):
    ingest(table, tmp_path / "a", progress=False)
    ingest([tmp_path / "a"], tmp_path / "b", progress=False)
    assert PictureStore.open(Corpus.open(tmp_path / "b").pictures).ids() == ["i1", "i2", "i3"]


def test_a_folder_of_pictures_with_captions(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").write_bytes(png("red"))
    (folder / "bad.png").write_bytes(b"no picture")
    rows = [{"file_name": "a.png", "text": "A sunset."}, {"file_name": "gone.png", "text": "x"}, {"text": "no file"}]
    lines(folder / "metadata.jsonl", [*rows, {"file_name": "bad.png", "text": "x"}])
    found = list(read_documents(tmp_path))  # found inside another folder too
    assert [(item.id, item.text, item.picture) for item in found[:1]] == [("a.png", "A sunset.", png("red"))]
    reasons = [item.reason for item in found[1:] if isinstance(item, Problem)]
    assert len(reasons) == 3
    assert "names 'gone.png', which is not in the folder" in reasons[0]
    assert "names no picture" in reasons[1]
    assert "is no picture that can be read" in reasons[2]


def test_passages_may_name_a_picture_beside_their_file(tmp_path):
    (tmp_path / "tower.png").write_bytes(png("blue"))
    (tmp_path / "broken.png").write_bytes(b"")
    row = {"title": "Tower", "text": "It is tall."}
    rows = [
        {"id": "t", "picture": "tower.png", **row},
        {"id": "u", "image": "broken.png", **row},
        {"id": "v", "image": "http://x", **row},
    ]
    report, corpus = made(tmp_path, lines(tmp_path / "wiki.jsonl", rows))
    assert report.skipped == 1
    assert "is no picture that can be read" in str(report.problems[0])
    assert [item.picture for item in corpus] == ["tower.png", None]
    assert PictureStore.open(corpus.pictures).bytes("tower.png") == png("blue")


@pytest.mark.parametrize("layout", ["tsv", "jsonl", "bare"])
def test_triples_are_grouped_by_subject(tmp_path, layout):
    triples = [
        ("Nile", "flows through", "Egypt"),
        ("Rhine", "flows through", "Basel"),
        ("Nile", "flows through", "Sudan"),
    ]
    triples += [("Nile", "/geo/river/mouth_at", "Mediterranean Sea"), ("Nile", "flows through", "Egypt")]
    if layout == "jsonl":
        rows = [{"subject": s, "relation": r, "object": o, "description": "A river"} for s, r, o in triples]
        path = lines(tmp_path / "graph.jsonl", rows)
    else:
        head = ["subject\trelation\tobject"] if layout == "tsv" else []
        path = tmp_path / "graph.tsv"
        path.write_text("\n".join([*head, *("\t".join(row) for row in triples)]) + "\n")
    found = list(read_documents(path, format="triples" if layout == "bare" else None))
    described = ": A river." if layout == "jsonl" else "."
    text = f"Nile{described} flows through: Egypt, Sudan. mouth at: Mediterranean Sea."
    assert [(item.id, item.title, item.source) for item in found] == [
        ("Nile", "Nile", "triples"),
        ("Rhine", "Rhine", "triples"),
    ]
    assert found[0].text == text


def test_numbered_triples_use_the_names_beside_them(tmp_path):
    entities = [{"id": 0, "entity": "/m/0", "name": "Peru"}, {"id": 1, "entity": "/m/1", "name": "Lima"}]
    lines(tmp_path / "fb_entities.jsonl", [*entities, {"id": 2, "entity": "/m/2", "name": "Alone"}])
    lines(tmp_path / "fb_relations.jsonl", [{"id": 0, "relation": "/location/country/capital_city"}])
    path = lines(tmp_path / "fb_train.jsonl", [[0, 0, 1], [0, 0]])
    found = list(read_documents(path))
    assert "is no triple" in found[0].reason
    assert [(item.id, item.title, item.text) for item in found[1:]] == [
        ("/m/0", "Peru", "Peru. capital city: Lima."),
        ("/m/1", "Lima", "Lima."),
        ("/m/2", "Alone", "Alone."),
    ]


def test_wordnet_is_a_graph_of_kinds(tmp_path):
    rows = [
        {"id": "n1", "lemmas": ["animal", "beast"], "gloss": "it lives", "hypernyms": []},
        {"id": "n2", "lemmas": []},
    ]
    rows += [{"id": "n3", "lemmas": ["dog"], "gloss": "it barks.", "hypernyms": ["n1", "n9"], "domain": "animal"}]
    found = list(read_documents(lines(tmp_path / "nouns.jsonl", rows)))
    assert "is no synset" in found[0].reason
    assert [(item.id, item.text) for item in found[1:]] == [
        ("wordnet-n1", "animal: it lives. also called: beast."),
        ("wordnet-n3", "dog: it barks. a kind of: animal."),
    ]
    assert found[2].metadata == {"domain": "animal", "synset": "n3"}


def test_questions_with_answers_are_entries_when_asked_for(tmp_path):
    rows = [
        {"id": "q1", "question": "What is it?", "answers": ["red", "crimson"], "image": "i1", "type": "name"},
        {"question": "Why?"},
    ]
    path = lines(tmp_path / "vqa.jsonl", rows)
    with pytest.raises(ValueError, match="no passage came out"):
        made(tmp_path, path)
    report, corpus = made(tmp_path, Source.parse(f"asked=pairs:{path}"))
    assert report.by_source == {"asked": 1}
    pair = corpus.get(["q1"])[0]
    assert (pair.text, pair.picture) == ("Question: What is it? Answer: red, crimson.", "i1")
    assert "hidden" not in pair.metadata


def test_an_entry_made_of_a_question_is_hidden_from_it_and_from_no_other(tmp_path):
    rows = [{"question": "Who?", "answers": ["me"]}, {"id": "1", "question": "Why?", "answers": ["so"]}]
    rows += [{"id": "2", "question": "How long?", "answers": ["very " * 200 + "long"]}]
    path = lines(tmp_path / "faq.jsonl", rows)
    _, corpus = made(tmp_path, Source.parse(f"questions=pairs:{path}"), cutting=Cutting("words", size=100))
    entries = list(corpus)
    assert [item.id for item in entries if item.asked == "How long?"] == ["2-0", "2-1", "2-2"]
    for question in read_questions(path):
        assert [question.hides(item) for item in entries] == [item.asked == question.text for item in entries]
    # Other rows under the same ids, and what is typed, are other questions.
    others = lines(tmp_path / "others.jsonl", [{"id": name, "question": "Which?", "answers": ["x"]} for name in "12"])
    for question in [*read_questions(others), Question("", "Why?")]:
        assert not any(question.hides(item) for item in entries)
    why = read_questions(path)[1]
    assert not why.hides(Passage("1", "Question: Why? Answer: so."))  # a page that is called so


def test_pictures_of_questions_come_along_wherever_the_file_lies(tmp_path, monkeypatch):
    (tmp_path / "asked" / "photos").mkdir(parents=True)
    (tmp_path / "asked" / "photos" / "a.png").write_bytes(png("red"))
    lines(tmp_path / "asked" / "faq.jsonl", [{"question": "What?", "answers": ["red"], "image": "photos/a.png"}])
    monkeypatch.chdir(tmp_path)
    for path in ("asked/faq.jsonl", str(tmp_path / "asked" / "faq.jsonl")):
        _, corpus = made(tmp_path, Source.parse(f"asked=pairs:{path}"), overwrite=True)
        assert PictureStore.open(corpus.pictures).ids() == [item.picture for item in corpus] == ["photos/a.png"]


def test_questions_keep_their_picture_and_hide_what_gives_them_away(tmp_path):
    (tmp_path / "a.png").write_bytes(png("red"))
    rows = [{"id": "q1", "question": "What?", "answers": ["red"], "image": "i1", "type": "name", "hidden": ["x"]}]
    rows += [
        {"id": "q2", "question": "What?", "answers": ["red"], "picture": "a.png"},
        {"question": "Why?", "answers": ["y"]},
    ]
    seen, file, plain = read_questions(lines(tmp_path / "q.jsonl", rows))
    assert (seen.picture, seen.metadata["type"], seen.hidden) == ("i1", "name", ("x", "i1"))
    assert (file.picture, file.hidden) == (str(tmp_path / "a.png"), ("a.png", str(tmp_path / "a.png")))
    assert plain.picture is None
    assert plain.hidden == ()
    caption, page = (Passage(name, "x", metadata={"picture": "i1"}) for name in ("i1", "p"))
    assert [seen.hides(item) for item in (caption, page, Passage("q1", "x"), Passage("x", "x"))] == [1, 1, 0, 1]
    right = replace(seen, positive=("i1", "p"))  # a page that is known to hold the answer may be illustrated by it
    assert [right.hides(item) for item in (caption, page)] == [True, False]
    assert not plain.hides(page)


def test_captions_are_questions_to_describe(tmp_path, table):
    found = read_questions(table, split="dev")
    assert [(item.id, item.answers, item.task, item.picture, item.hidden) for item in found] == [
        ("i2", ("A blue square.",), "caption", "i2", ("i2",))
    ]
    assert found[0].positive == ("blue",)
    assert [item.id for item in read_questions(f"{table}?split=train&entity!=blue")] == ["i1", "i3"]
    assert [item.id for item in read_questions(f"{table}?task=caption")] == ["i1", "i2", "i3"]
    with pytest.raises(ValueError, match=r"no question of .* fulfils the conditions"):
        read_questions(f"{table}?split=nowhere")
    with pytest.raises(ValueError, match=r"no row has a field 'splt'; conditions can name .*, split"):
        read_questions(f"{table}?splt!=train")
    literal = tmp_path / "what?.jsonl"
    literal.write_text('{"question": "Who?", "answers": ["me"]}\n')
    assert [item.text for item in read_questions(literal)] == ["Who?"]
    with pytest.raises(ValueError, match=r"'dev' is no condition; write FIELD=VALUE or FIELD!=VALUE"):
        read_questions(f"{table}?dev")
    told = read_questions(lines(tmp_path / "c.jsonl", [{"image": "i1", "captions": ["A red square.", "Red."]}]))
    assert (told[0].task, told[0].answers) == ("caption", ("A red square.", "Red."))


def test_gather_takes_pictures_of_tables_folders_and_corpora(tmp_path, table):
    out, added, problems = gather([table], tmp_path / "p")
    assert (added, problems) == (3, [])
    ingest(table, tmp_path / "corpus", progress=False)
    assert gather([tmp_path / "corpus", table], out)[1] == 0
    assert gather([tmp_path / "corpus"])[0] == tmp_path / "corpus" / "pictures"
    with pytest.raises(ValueError, match="give --out FOLDER"):
        gather([table])
    lines(tmp_path / "f.jsonl", FACTS)
    ingest(tmp_path / "f.jsonl", tmp_path / "bare", progress=False)
    with pytest.raises(ValueError, match="holds no pictures; give sources that do"):
        gather([tmp_path / "bare"], out)
    with pytest.raises(ValueError, match="no pictures came out of"):
        gather([tmp_path / "f.jsonl"], tmp_path / "none")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("images.parquet", "has no name; write NAME=PATH"),
        ("a=", "names no file"),
        ("a=b?split", "'split' is no condition"),
    ],
)
def test_a_bad_source_is_refused(text, said):
    with pytest.raises(ValueError, match=said):
        Source.parse(text)


def test_the_real_pictures_and_graphs(shared_data, tmp_path):
    with gzip.open(shared_data / "kg/fb15k237_entities.jsonl.gz", "rt", encoding="utf8") as file:
        named = sum(1 for _ in file)
    graph = [
        item for item in read_documents(shared_data / "kg/fb15k237_valid.jsonl.gz") if not isinstance(item, Problem)
    ]
    assert len(graph) == named
    knowledge, images = shared_data / "images/knowledge.jsonl.gz", shared_data / "images/images.parquet"
    flags = Source.parse(f"{images}?style=reference", named=False)
    report, corpus = made(tmp_path, Source.parse(f"facts={knowledge}?kind=country"), illustrate=[flags])
    assert report.by_source == {"facts": 222}
    assert all(passage.picture for passage in corpus)
    asked = read_questions(shared_data / "images/vqa_dev.jsonl.gz")
    assert all(question.picture in question.hidden and question.metadata["type"] for question in asked)
