"""Questions about pictures without a trained reader: the commonest answer, search by looks, captions of look-alikes.

command:  python benchmarks/vqa_baselines.py
          (writes results/vqa_baselines.json and .md; ten minutes of one core, most of it for the pictures' features)

Corpus: the facts and things of images/knowledge, with pictures (flags for countries, a training picture for things
where there is one), and the captions of training pictures and reference flags. Pictures that dev questions are about
are in no entry. Corpus, pictures and indexes are kept in runs/reveal; what is there already is not made again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import data_folder

from wellread.corpus import Corpus, Source, ingest, read_questions
from wellread.corpus.picture_sources import gather
from wellread.evaluation.metrics import bootstrap
from wellread.evaluation.report import evaluate_answers, hardware, to_markdown, write_table
from wellread.evaluation.tasks import commonest_answers
from wellread.nn.vision import DEFAULT_IMAGE_ENCODER, load_image_encoder
from wellread.pictures import build_features
from wellread.retrieval import RETRIEVERS, open_index
from wellread.types import Answer, Candidates, Probe, Question

RUNS, RESULTS = Path("runs/reveal"), Path("results/vqa_baselines")
DEPTHS = (1, 5, 20)
KINDS = ("flag", "map", "object", "animal", "all")
WHERE = {"facts and things": ["facts", "things"], "all with pictures": ["facts", "things", "pictures"]}


def corpus_of_pictures(folder: Path, data: Path) -> Corpus:
    """The corpus, made where it is missing."""
    if not (folder / "corpus.json").is_file():
        knowledge, images = data / "images/knowledge.jsonl.gz", data / "images/images.parquet"
        named = {"facts": f"{knowledge}?kind=country", "things": f"{knowledge}?kind=synset"}
        sources = [Source.parse(f"{name}={place}") for name, place in named.items()]
        sources += [Source.parse(f"pictures={images}?{choice}") for choice in ("split=train", "style=reference")]
        drawn = [Source.parse(f"{images}?{choice}", named=False) for choice in ("style=reference", "split=train")]
        ingest(sources, folder, illustrate=drawn)
    return Corpus.open(folder)


def visual_index(folder: Path, corpus: Corpus, pictures: Path, *, view: str) -> Any:
    """An index of looks, made where it is missing."""
    if not (folder / "index.json").is_file():
        RETRIEVERS["visual"].build(corpus, folder, pictures=str(pictures), view=view)
    return open_index(folder)


def found_at(
    questions: Sequence[Question], found: Sequence[Candidates], entity: Mapping[str, str], depth: int
) -> np.ndarray:
    """[questions]: whether a positive entry, or the picture of one, is among the first `depth`."""
    hits = [
        any({name, entity.get(name)} & set(item.positive) for name in each.ids[:depth])
        for item, each in zip(questions, found)
    ]
    return np.array(hits, dtype=np.float64)


def searched(index: Any, questions: Sequence[Question], corpus: Corpus) -> list[dict[str, Any]]:
    """Rows: where was looked, the kind of question, and how many found the right entry among the first."""
    entity = {item.id: item.metadata.get("entity") for item in corpus if item.source == "pictures"}
    kinds = [str(item.metadata["type"]).partition("-")[0] for item in questions]
    probes = [Probe(picture=item.picture) for item in questions]
    rows = []
    for place, sources in WHERE.items():
        deep = index.search(probes, top_k=max(DEPTHS) + 2, where={"source": sources})
        found = [each.without(item.hidden).top(max(DEPTHS)) for item, each in zip(questions, deep)]
        values = {depth: found_at(questions, found, entity, depth) for depth in DEPTHS}
        for kind in KINDS:
            chosen = [row for row, other in enumerate(kinds) if kind in (other, "all")]
            low, high = (100 * bound for bound in bootstrap(values[1][chosen]))
            shares = {f"@{depth}": round(100 * float(values[depth][chosen].mean()), 1) for depth in DEPTHS}
            interval = f"{low:.1f} to {high:.1f}"
            rows.append({"searched": place, "questions": kind, "n": len(chosen), **shares, "@1, 95 %": interval})
    return rows


def described(index: Any, questions: Sequence[Question], corpus: Corpus) -> dict[str, Any]:
    """How good a caption the caption of the nearest picture is."""
    probes = [Probe(picture=item.picture) for item in questions]
    deep = index.search(probes, top_k=2, where={"source": "pictures"})
    nearest = corpus.get([each.without(item.hidden).ids[0] for item, each in zip(questions, deep)])
    found = evaluate_answers(questions, [Answer(passage.metadata["caption"]) for passage in nearest])
    told = {name: round(found.scores[name], 1) for name in ("bleu", "cider", "em")}
    low, high = found.intervals["cider"]
    return {"captions": len(questions), **told, "cider, 95 %": f"{low:.1f} to {high:.1f}"}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, default=data_folder())
    options.add_argument("--runs", type=Path, default=RUNS)
    options.add_argument("--out", type=Path, default=RESULTS)
    choice = options.parse_args()
    asked, known = (read_questions(choice.data / f"images/vqa_{split}.jsonl.gz") for split in ("dev", "train"))

    commonest = commonest_answers(known)
    said = [Answer(commonest.get(str(item.metadata["type"]), "")) for item in asked]
    blind = evaluate_answers(asked, said).to_json()

    corpus = corpus_of_pictures(choice.runs / "small", choice.data)
    pictures, _, _ = gather([choice.data / "images/images.parquet"], choice.runs / "pictures")
    build_features(pictures, load_image_encoder(DEFAULT_IMAGE_ENCODER))
    looks = {
        view: searched(visual_index(choice.runs / f"visual-{view}", corpus, pictures, view=view), asked, corpus)
        for view in ("grid", "mean")
    }
    undescribed = read_questions(choice.data / "images/images.parquet", split="dev")
    undescribed = [item for item in undescribed if item.id not in corpus]
    captions = described(open_index(choice.runs / "visual-grid"), undescribed, corpus)
    choice.out.parent.mkdir(parents=True, exist_ok=True)
    told = {
        "commonest": blind,
        "looks": looks,
        "captions": captions,
        "entries": corpus.by_source,
        "hardware": hardware(),
    }
    choice.out.with_suffix(".json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf8")
    types = [
        {"type": kind, **{key: row[key] for key in ("n", "em", "vqa_accuracy")}} for kind, row in blind["types"].items()
    ]
    whole = {"type": "all", "n": blind["n"], "em": blind["em"], "vqa_accuracy": blind["vqa_accuracy"]}
    notes = [
        "Above: the commonest training answer of each type, always said, per cent of vqa_dev.",
        "## Search by looks alone",
        "Per cent of the questions of vqa_dev for which a right entry is among the first 1, 5, 20: one that the "
        "question names, or a picture of the same thing. Frozen EfficientNet-Lite0 with the colours of each patch; the "
        "picture that is asked about is in no entry. No map of a dev country is in any entry.",
    ]
    for view, rows in looks.items():
        notes += [f"View `{view}`:", to_markdown(rows).rstrip()]
    notes += [
        "## Captions",
        "Pictures of the dev part that are no entries, each described by the caption of the picture that looks most "
        "like it (view `grid`). BLEU by sacrebleu, CIDEr-D by pycocoevalcap, both times 100; em: the very caption.",
        to_markdown([captions]).rstrip(),
    ]
    write_table(
        choice.out.with_suffix(".md"),
        [whole, *types],
        title="Questions about pictures without a reader",
        command="python benchmarks/vqa_baselines.py",
        seed=0,
        notes="\n\n".join(notes),
    )


if __name__ == "__main__":
    main()
