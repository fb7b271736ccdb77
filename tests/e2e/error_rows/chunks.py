"""Mistakes with chunks and their neighbours."""

from __future__ import annotations

from error_rows.kit import Place, Row, edit_json

CUT = "chunks cut corpus --tokenizer model --chunk-tokens 4 --out texts"


def cut(place: Place) -> None:
    """The corpus of the world as chunks of 4 tokens."""
    from wellread.corpus.store import Corpus
    from wellread.nn.tokenizers import Tokenizer
    from wellread.retrieval.chunks import documents_of, write_chunks

    passages = Corpus.open(place.folder / "corpus")
    made_of = {"corpus": passages.fingerprint, "splits": []}
    tokenizer = Tokenizer.load(place.folder / "model")
    write_chunks(lambda: documents_of(passages), tokenizer, place.folder / "texts", chunk_tokens=4, made_of=made_of)


def broken(place: Place) -> None:
    cut(place)
    (place.folder / "texts" / "tokens.bin").write_bytes(b"")


def begun(place: Place) -> None:
    cut(place)
    (place.folder / "texts" / "chunks.json").unlink()
    record = place.folder / "texts" / "progress.jsonl"
    record.write_text('{"tokenizer": "other", "chunk_tokens": 4}\n', encoding="utf8")


def of_another_corpus(place: Place) -> None:
    cut(place)
    edit_json(place.folder / "texts" / "chunks.json", corpus="other")


TOPICS: dict[str, list[Row]] = {
    "Chunks and neighbours": [
        Row(
            "chunks-missing",
            "chunks that do not exist",
            "chunks index nowhere",
            r"nowhere holds no finished chunks \(no chunks\.json\); make them with `wellread chunks cut`\.",
        ),
        Row(
            "chunks-damaged",
            "chunks with a damaged file",
            "chunks index texts",
            r"chunks texts are damaged \(.+\); make them again with `wellread chunks cut`\.",
            broken,
        ),
        Row(
            "chunks-of-another-corpus",
            "chunks of another corpus in the folder",
            CUT,
            r"texts holds chunks of corpus='other' \(now '\w+'\); give another folder\.",
            of_another_corpus,
        ),
        Row(
            "chunks-begun-otherwise",
            "going on with chunks of another tokenizer",
            CUT,
            r"texts was begun with tokenizer='other' \(now '\w+'\), .+; give the same again, or another folder\.",
            begun,
        ),
        Row(
            "chunks-split",
            "a split that the corpus does not have",
            "chunks cut corpus --tokenizer model --split dev --out new",
            r"split='dev' does not occur in the corpus; it has ''\.",
        ),
        Row(
            "chunks-learn-where",
            "a vocabulary to learn and no folder for it",
            "chunks cut corpus --learn-tokenizer 500 --out new",
            r"--learn-tokenizer needs --tokenizer FOLDER, where what is learnt is kept\.",
        ),
        Row(
            "keys-missing",
            "neighbours in a database without keys",
            "chunks neighbours texts --database texts --out found",
            r"texts/keys holds no finished keys \(no keys\.json\); make them with `wellread chunks index`\.",
            cut,
        ),
        Row(
            "keys-encoder",
            "an encoder that does not exist",
            "chunks index texts --encoder nowhere",
            r"encoder 'nowhere' is no folder; give one in hub layout, or all-MiniLM-L6-v2\.",
            cut,
        ),
        Row(
            "neighbours-share",
            "a share of the database that is none",
            "chunks neighbours texts --database texts --share 0 --out found",
            r"share=0\.0; it must be above 0 and at most 1 \(all documents\)\.",
        ),
        Row(
            "neighbours-missing",
            "neighbour lists that do not exist",
            "chunks overlap texts --database texts",
            r"texts/neighbours holds no finished neighbours \(no neighbours\.json\); "
            r"make them with `wellread chunks neighbours`\.",
            cut,
        ),
    ],
}
