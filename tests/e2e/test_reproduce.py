"""`wellread reproduce` from a trained reader to rows, plots and verdicts, with tiny readers and few questions."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from wellread.claims import CLAIMS
from wellread.claims import run as running
from wellread.claims.claim import Ask, Claim, Figures, Run, Variant
from wellread.claims.plan import Planner, Settings
from wellread.claims.rules import Above
from wellread.claims.run import Stopped, run_claim
from wellread.claims.starts import STARTS
from wellread.corpus.store import Corpus
from wellread.model import build_model, load_model, save_model
from wellread.nn.building import build_from_scratch
from wellread.nn.checkpoints import named_weights
from wellread.pipeline import memorize_corpus
from wellread.reading.frame import FrameConfig
from wellread.retrieval import RETRIEVERS
from wellread.training.loop import TrainReport
from wellread.training.recipes import parse_recipe
from wellread.training.run import run_recipe
from wellread.types import Passage

COLOURS = ("red", "green", "blue", "white")
HOUSES = 12
FILES = ("qa/squad_train", "qa/squad_dev", "qa/nq_open_train", "qa/nq_gold", "kilt/slots_train", "kilt/slots_dev")
FILES += ("images/vqa_train", "images/vqa_dev")
# Papers whose claims find what they need in the folder below.
PAPERS = ("lumen", "glimmer", "reatt", "reveal")
# Of the template: a net of 16 numbers needs no bf16.
TINY = {"training.batch_size": 2, "training.precision": "fp32"}
SMALL = ["--steps", "2", "--seeds", "2", "--limit", "4", "--set", "training.batch_size=2"]
SMALL += ["--set", "training.precision=fp32"]
BASE, MEMORY = Path("runs/squad/start/last"), Path("runs/squad/memory-bf16")


def write_lines(file: Path, rows: list[dict]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with data, two corpora and indexes, a trained LUMEN with its record, and its memory."""
    home = tmp_path_factory.mktemp("claims")
    passages = [Passage(f"p{n}", f"House number {n} is {COLOURS[n % 4]}.", "Houses") for n in range(HOUSES)]
    rows = [
        {"id": f"q{n}", "question": f"What is house {n}?", "answers": [COLOURS[n % 4]], "positive": [f"p{n}"]}
        for n in range(HOUSES)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        for world in ("squad", "mini", "beir/scifact"):
            corpus = Corpus.write(passages, Path(f"runs/{world}/corpus"))
            RETRIEVERS["lexical"].build(corpus, Path(f"runs/{world}/index"))
        Corpus.write(passages, Path("runs/reveal/small"))
        Path("runs/reveal/pictures").mkdir()
        masked = [{**row, "question": row["question"].replace("What", "[MASK]"), "mask": "[MASK]"} for row in rows]
        write_lines(Path("runs/beir/scifact/masked.jsonl.gz"), masked)
        write_lines(Path("runs/beir/scifact/labels.jsonl.gz"), rows)
        beir = home / "data" / "retrieval" / "scifact"
        write_lines(beir / "queries.jsonl.gz", [{"_id": row["id"], "text": row["question"]} for row in rows])
        judged = "".join(f"q{number}\tp{number}\t1\n" for number in range(HOUSES))
        (beir / "qrels_test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}")
        for name in FILES:
            write_lines(home / "data" / f"{name}.jsonl.gz", rows)
        texts = [f"{item.title} {item.text}" for item in passages] + [row["question"] for row in rows]
        # Twelve heads, as many as the claims about single heads ask.
        sizes = {"vocab_size": 120, "dim": 24, "layers": 6, "heads": 12, "decoder_layers": 1, "family": "bert"}
        reader, tokenizer = build_from_scratch(texts, **sizes)
        frame = FrameConfig(question="{question}", passage="{title}. {text}", passage_tokens=24, answer_tokens=4)
        save_model("runs/squad/untrained", build_model("lumen", {}, reader, tokenizer, frame=frame))
        recipe = parse_recipe(
            {
                "init": {"from": "runs/squad/untrained"},
                "system": {"name": "lumen"},
                "training": {"steps": 2, "batch_size": 2, "learning_rate": 0.01},
                "data": {"corpus": "runs/squad/corpus", "index": "runs/squad/index", "stages": [{"top_k": 1}]},
                "tasks": {"squad": {"questions": str(home / "data/qa/squad_train.jsonl.gz")}},
            }
        )
        run_recipe(recipe, BASE.parent, progress=False)
        memorize_corpus(Corpus.open("runs/squad/corpus"), load_model(BASE), MEMORY, retriever="none", progress=False)
    return home


@pytest.fixture(autouse=True)
def _here(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("WELLREAD_DATA", str(place / "data"))


def settings(folder: Path = Path("nowhere"), **changed) -> Settings:
    small = {"seeds": 2, "steps": 2, "limit": 4, "changes": TINY, "memory": MEMORY}
    return Settings(base=BASE, work=folder / "runs", out=folder / "results", **{**small, **changed})


# -- plans -----------------------------------------------------------------------------------------------------


def test_every_recipe_validates():
    planner, keys = Planner(settings()), {}
    for claim in [claim for claim in CLAIMS.values() if claim.paper in PAPERS]:
        assert not planner.missing(claim)
        for name, runs in planner.runs(claim).items():
            variant = claim.variants[name]
            trained = bool(variant.run.steps)
            assert [run.recipe.training.seed for run in runs] == [0, int(trained)]
            assert runs[0].steps == max(round(2 * variant.run.steps), 1)
            assert "reader.encoder.embed_tokens." in runs[0].recipe.training.freeze
            planner.ask_key(variant.ask, 2)
            for run in runs[0].chain():
                assert run.minutes > 0
                assert run.recipe.dev is None
            assert (runs[0].key != runs[1].key) == trained
            keys.setdefault(runs[0].key, []).append((claim.id, variant.run))
    # One hash is one training, and what many claims look at is trained once.
    assert all(run == of_key[0][1] for of_key in keys.values() for _, run in of_key)
    assert max(len(of_key) for of_key in keys.values()) >= 5


def reads_memory(planner: Planner, run: Run) -> bool:
    return planner.plan(run, 0).recipe.data.memory is not None


def test_memory_is_read_where_it_is_what_the_run_would_make():
    planner = Planner(settings())
    assert reads_memory(planner, Run("lumen"))
    assert reads_memory(planner, Run("memory_fid", {"memory_layers": 4}))
    assert reads_memory(planner, Run("glimmer", {"train_memory": False}))
    assert reads_memory(planner, Run("lumen", start="plain-question"))
    assert reads_memory(planner, Run("lumen", start=Run("lumen", {"mem2q": False})))
    for other in (
        Run("fid"),
        Run("memory_fid"),
        Run("glimmer"),
        Run("lumen", {"live_share": 0.5}),
        Run("lumen", {"train_memory": True}),
        Run("lumen", {"condition_memory": True}),
        Run("lumen", start="first-half"),
        Run("lumen", start="pretrained"),
        Run("lumen", start=Run("lumen", {"train_memory": True})),
        Run("lumen", start=Run("lumen", {"live_share": 0.5})),
        Run("lumen", world="wide"),
    ):
        assert not reads_memory(planner, other), other
    assert not reads_memory(Planner(settings(memory=None)), Run("lumen"))


def test_the_hash_is_of_what_decides_and_not_of_where_it_lies(tmp_path):
    def key(run: Run | None = None, seed: int = 0, **changed) -> str:
        return Planner(settings(**changed)).plan(run or Run("lumen"), seed).key

    same = key()
    assert key(folder=tmp_path) == same
    assert key(changes={**TINY, "training.save_every": 7}) == same
    assert key(limit=3) == same  # dev questions are none of training's business
    others = [key(seed=1), key(steps=3), key(passages=3), key(memory=None), key(Run("lumen", {"q2mem": False}))]
    others += [key(changes={**TINY, "training.learning_rate": 1.0}), key(Run("lumen", start="pretrained"))]
    assert len({same, *others}) == 1 + len(others)


def test_what_is_missing_is_told(place, monkeypatch):
    planner = Planner(settings())
    monkeypatch.setenv("WELLREAD_DATA", str(place / "other"))
    assert planner.missing(CLAIMS["lumen-attention"]) == [
        place / "other/qa/squad_train.jsonl.gz",
        place / "other/qa/squad_dev.jsonl.gz",
    ]


@pytest.mark.parametrize("name", ["seeds", "steps", "passages", "limit"])
def test_a_budget_of_nothing(name):
    with pytest.raises(ValueError, match=f"{name}=0; it must be at least 1."):
        settings(**{name: 0})


# -- starts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, start in STARTS.items() if start.make])
def test_starts_are_made_of_the_given_reader(name, tmp_path):
    planner = Planner(settings(tmp_path))
    folder = running.make_start(planner, name)
    made, base = (named_weights(load_model(path).system) for path in (folder, BASE))
    kept = [key for key in made if key in base and torch.equal(made[key], base[key])]
    assert any(key.startswith("reader.decoder.") for key in kept)
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert running.make_start(planner, name) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def layers(model) -> dict[str, torch.Tensor]:
    weights = named_weights(model.system)
    return {key: value for key, value in weights.items() if key.startswith("reader.encoder.layers.")}


def test_what_starts_keep_and_what_they_drop(tmp_path):
    planner = Planner(settings(tmp_path))
    base, untrained = layers(load_model(BASE)), layers(load_model("runs/squad/untrained"))
    assert any(not torch.equal(base[key], untrained[key]) for key in base)
    half = layers(load_model(running.make_start(planner, "first-half")))
    assert {key.split(".")[3] for key in half} == {"0", "1", "2"}
    assert all(torch.equal(half[key], base[key]) for key in half)
    pretrained = layers(load_model(running.make_start(planner, "pretrained")))
    assert all(torch.equal(pretrained[key], untrained[key]) for key in untrained)
    ranker = load_model(running.make_start(planner, "new-ranker")).system.ranker.layers.state_dict()
    live = load_model(BASE).system.reader.encoder.layers[4:5].state_dict()
    assert not torch.equal(ranker["0.attention.query.weight"], live["0.attention.query.weight"])
    assert load_model(running.make_start(planner, "plain-question")).system.question_encoder is None


def test_a_reader_without_a_record_is_told():
    with pytest.raises(ValueError, match=r"needs what .*untrained was trained from, and there is no .*recipe.json"):
        Planner(replace(settings(), base=Path("runs/squad/untrained"))).plan(Run("lumen", start="pretrained"), 0)


# -- runs ------------------------------------------------------------------------------------------------------


def test_one_claim_from_the_command_line(wellread, tmp_path, monkeypatch):
    words = [
        "reproduce",
        "lumen",
        "fig10",
        *SMALL,
        "--work",
        str(tmp_path / "runs"),
        "--out",
        str(tmp_path / "results"),
    ]
    plan = wellread(" ".join([*words, "--dry-run", "--json"])).json
    assert (plan["trainings"], plan["steps"]) == (4, 8)
    assert plan["claims"][0]["claim"] == "lumen-question-encoder"
    assert not (tmp_path / "runs").exists()

    found = wellread(" ".join([*words, "--json"])).json
    assert found["claim"] == "lumen fig10"
    assert found["holds"] in (True, False, None)
    assert [row["variant"] for row in found["rows"]] == ["frozen", "tuned"]
    for row in found["rows"]:
        assert len(row["per_seed"]) == len(row["recipes"]) == 2
        assert row["interval"][0] <= row["em"] <= row["interval"][1]
        assert row["gflops"] > 0
    kept = json.loads((tmp_path / "results/lumen-question-encoder.json").read_text())
    assert kept["budget"]["steps"] == 2
    assert kept["budget"]["questions"] == 4
    assert kept["seeds"] == [0, 1]
    assert kept["figures"]["says"].startswith("shape only")
    assert kept["command"].startswith("wellread reproduce lumen-question-encoder --steps 2 --limit 4")
    assert (tmp_path / "results/lumen-question-encoder.svg").read_text().count("<svg") == 1
    # Every run is a folder of `wellread train` without what is only needed to go on.
    for row in found["rows"]:
        for key in row["recipes"]:
            folder = tmp_path / "runs" / f"lumen-{key}"
            assert json.loads((folder / "recipe.json").read_text())["recipe"]["training"]["steps"] == 2
            assert (folder / "last" / "system.json").is_file()
            assert not (folder / "checkpoint.pt").exists()

    def no_training(*arguments, **options):
        raise AssertionError("trained again")

    monkeypatch.setattr(running, "run_recipe", no_training)
    assert wellread(" ".join([*words, "--json"])).json == found
    assert wellread(" ".join([*words, "--dry-run", "--json"])).json["trainings"] == 0
    again = wellread(" ".join([*words, "--again", "--json"])).json
    assert again["rows"] == found["rows"]
    listed = wellread(f"reproduce --json --out {tmp_path / 'results'}").json["claims"]
    states = {row["claim"]: row["state"] for row in listed}
    assert states.pop("lumen-question-encoder") == kept["verdict"]
    assert set(states.values()) == {"not run"}
    told = wellread(" ".join(words))
    assert told.code == 0
    assert f"(LUMEN, Figure 10): {kept['verdict']}" in told.out
    assert f"{kept['rules'][0]['says']}: {kept['verdict']}" in told.out


TRIED = Claim(
    id="lumen-attention",
    paper="lumen",
    where="nowhere",
    tags=(),
    says="Everything a claim can ask for.",
    variants={
        "moved": Variant(
            Run(
                "lumen",
                start="pretrained",
                transfer=(Run("lumen", {"train_memory": True}, start="pretrained", passages=1), ("memory", "live")),
                tasks={"few_slots": 1.0, "nq": 1.0},
                world="wide",
            ),
            ask=Ask(questions="slots"),
        ),
        "small": Variant(Run("fid", start=Run("lumen", start="first-half", passages=1)), 1.0),
        "reranked": Variant(
            Run("glimmer", {"train_memory": False, "keep": 1}, passages=3),
            2.0,
            ask=Ask(top_k=4, gold=False, options={"keep": 2}),
        ),
    },
    rules=(Above("it is better", {"moved": 1, "small": -1}),),
    figures=Figures(says="nothing"),
    x_label="x",
)


SEARCHING = Run("reatt", gold=False, steps=2.0, iterations=2, delayed=("cross_document",), warmup=0.25, batch=0.5)
OWN = Ask(top_k=2, gold=False, search="own", measure="recall@1")
FINDS = Claim(
    id="finds",
    paper="test",
    where="here",
    tags=("here",),
    says="it finds what it reads",
    variants={
        "before": Variant(replace(SEARCHING, steps=0.0, iterations=1, options={"head": 3}), 0.0, ask=OWN),
        "after": Variant(SEARCHING, 1.0, ask=OWN),
        "words": Variant(replace(SEARCHING, steps=0.0, iterations=1), 2.0, ask=replace(OWN, search="lexical")),
        "answers": Variant(
            replace(SEARCHING, steps=0.0, iterations=1),
            2.0,
            "answer",
            replace(OWN, search="lexical", measure="answer@1"),
        ),
        "reads": Variant(SEARCHING, 3.0, "EM", replace(OWN, measure="em")),
        "elsewhere": Variant(
            replace(SEARCHING, start=SEARCHING, tasks={"masked": 1.0}, world="scifact"),
            4.0,
            ask=replace(OWN, measure="ndcg@10", questions="scifact"),
        ),
    },
    rules=(Above("words find more", {"words": 1, "before": -1}, -100.0), Above("it reads", {"reads": 1}, -1.0)),
    figures=Figures("nothing"),
    x_label="x",
)


def test_a_claim_about_finding(tmp_path):
    """Own search before and after training with iterations, another search, reading what is found, another world."""
    planner = Planner(settings(tmp_path))
    row = run_claim(planner, FINDS)
    found = {each["variant"]: each for each in row["rows"]}
    assert [each["measure"] for each in row["rows"]] == ["recall@1"] * 3 + ["answer@1", "em", "ndcg@10"]
    assert found["before"]["per_seed"][0] == found["before"]["per_seed"][1]
    assert found["words"]["em"] == 25  # one digit is no word: all four questions find the first house
    assert found["answers"]["em"] == 25  # its answer stands in no other house
    assert 0 <= found["before"]["em"] <= 100
    trained = planner.plan(SEARCHING, 0)
    data, training = trained.recipe.data, trained.recipe.training
    assert (data.refresh, data.refresh_share, training.batch_size) == ((2,), 0.5, 1)
    assert training.losses_from == {"cross_document": 1}
    log = [json.loads(line) for line in (trained.folder / "log.jsonl").read_text().splitlines()]
    assert log
    assert list(trained.folder.glob("own-candidates-000002-*.jsonl"))
    rows = [json.loads(file.read_text()) for file in trained.folder.glob("asked-*.json")]
    assert len(rows) == 2
    for asked in rows:
        assert len(asked["ranks"]) == 4
        assert (asked["em"] == []) == (max(len(each["em"]) for each in rows) > len(asked["em"]))
    assert not list(tmp_path.rglob("search"))
    again = run_claim(Planner(settings(tmp_path)), FINDS)
    assert again == row
    told = run_claim(Planner(settings(tmp_path)), replace(FINDS, note="New words."))
    assert told == row | {"note": "New words."}


def test_transfer_sizes_and_reranking(tmp_path):
    planner = Planner(settings(tmp_path, seeds=1))
    row = run_claim(planner, TRIED)
    runs = planner.runs(TRIED)
    told = {each["variant"]: each for each in row["rows"]}
    moved, source = (load_model(run.last) for run in (runs["moved"][0], runs["moved"][0].before[0]))
    # Frozen after the transfer: still what the other task had made of it.
    assert torch.equal(*(layers(model)["reader.encoder.layers.0.expand.weight"] for model in (moved, source)))
    assert not torch.equal(
        layers(moved)["reader.encoder.layers.0.expand.weight"],
        layers(load_model(BASE))["reader.encoder.layers.0.expand.weight"],
    )
    assert load_model(runs["small"][0].last).system.reader.encoder.num_layers == 3
    assert told["reranked"]["options"] == {"train_memory": False, "keep": 2}
    assert (told["reranked"]["trained_with"], told["reranked"]["asked_with"]) == (3, 4)
    assert told["reranked"]["right_passage_read"] is not None
    assert told["small"]["start"] == runs["small"][0].before[0].folder.name
    # The memory encoder is not live: its layers cost a question nothing.
    assert told["moved"]["gflops"] < told["small"]["gflops"] * 2


def test_states_read_and_states_made_answer_alike(tmp_path):
    claim = replace(TRIED, variants={"it": Variant(Run("lumen"))}, rules=(Above("", {"it": 1}),))
    rows = [
        run_claim(Planner(settings(tmp_path / name, seeds=1, memory=memory)), claim)["rows"][0]
        for name, memory in (("read", MEMORY), ("made", None))
    ]
    assert rows[0]["recipes"] != rows[1]["recipes"]
    assert rows[0]["gflops"] == pytest.approx(rows[1]["gflops"], rel=0.3)  # answers may differ in length


def test_a_stopped_claim_goes_on(wellread, tmp_path, monkeypatch):
    words = (
        f"reproduce lumen-question-encoder {' '.join(SMALL)} --work {tmp_path / 'runs'} --out {tmp_path / 'results'}"
    )
    trained = []

    def stopped(recipe, folder, **options):
        if trained:
            return TrainReport(0, None, folder, finished=False)
        trained.append(folder)
        return run_recipe(recipe, folder, **options)

    with monkeypatch.context() as patch:
        patch.setattr(running, "run_recipe", stopped)
        said = wellread(words)
    assert said.code == 130
    assert "stopped; run the same command again to go on." in said.err
    assert wellread(f"{words} --dry-run --json").json["trainings"] == 3
    planner, claim = Planner(settings(tmp_path, seeds=3)), CLAIMS["lumen-question-encoder"]
    with monkeypatch.context() as patch:
        patch.setattr(running, "run_recipe", stopped)
        with pytest.raises(Stopped):
            run_claim(planner, claim)
    assert wellread(f"{words} --json").json["claim"] == "lumen-question-encoder"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("lumen-sight", "claim 'lumen-sight' is unknown; `wellread reproduce` lists them."),
        ("lumen --base nowhere", "model nowhere does not exist; give the folder of a model"),
        ("lumen --memory nowhere", "nowhere"),
        ("lumen --seeds 0", "0 is not in the range x>=1"),
        ("lumen-attention --set data.index=nowhere", "nowhere/index.json is needed for lumen-attention and does not"),
        ("lumen-attention --set training.stepz=3", "training.stepz is unknown; did you mean 'steps'?"),
    ],
)
def test_mistakes_are_told_in_one_line(wellread, line, says):
    said = wellread(f"reproduce {line} --out nowhere/out --work nowhere/work")
    assert said.code == 2
    assert says in said.err
    assert len(said.err.strip().splitlines()) == 1
    assert not Path("nowhere").exists()


def test_a_plan_tells_what_is_missing(wellread):
    plan = wellread("reproduce lumen-attention --dry-run --json --set data.index=nowhere").json
    assert plan["claims"][0]["missing"] == "nowhere/index.json"
    assert (
        "nowhere/index.json is needed" in wellread("reproduce lumen-attention --dry-run --set data.index=nowhere").out
    )
