"""Which files a source has, and which reader each one gets.

A source is a file or a folder. The format of a file is told by its name, where that says nothing by its first
bytes; `format` forces it. A folder is one of the known layouts (a BEIR collection, a saved `datasets` folder,
pictures with their captions, a wellread corpus) or a tree of files that are read one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from wellread.corpus.captions import captions_file, holds_pictures
from wellread.corpus.documents import Document, Problem
from wellread.corpus.evidence import brings_passages
from wellread.corpus.files import peek_text, read_bytes
from wellread.corpus.graphs import graph_format, is_triple_header
from wellread.registry import Registry

__all__ = ["FORMATS", "format_of", "parts_of", "read_documents", "read_part", "stem_and_suffix"]

FORMATS = Registry(
    "format",
    {
        "jsonl": "wellread.corpus.json_files:read_jsonl",
        "kilt": "wellread.corpus.json_files:read_jsonl",
        "evidence": "wellread.corpus.evidence:read_evidence",
        "pictures": "wellread.corpus.captions:read_captions",
        "triples": "wellread.corpus.graphs:read_triples",
        "wordnet": "wellread.corpus.graphs:read_wordnet",
        "pairs": "wellread.corpus.pairs:read_pairs",
        "json": "wellread.corpus.json_files:read_json",
        "squad": "wellread.corpus.json_files:read_squad",
        "csv": "wellread.corpus.csv_files:read_csv",
        "tsv": "wellread.corpus.csv_files:read_csv",
        "parquet": "wellread.corpus.tables:read_table",
        "arrow": "wellread.corpus.tables:read_table",
        "datasets": "wellread.corpus.tables:read_saved",
        "beir": "wellread.corpus.readers:read_beir",
        "corpus": "wellread.corpus.readers:read_corpus",
        "text": "wellread.corpus.pages:read_plain",
        "markdown": "wellread.corpus.pages:read_markdown",
        "html": "wellread.corpus.pages:read_html",
        "pdf": "wellread.corpus.pdf:read_pdf",
        "word": "wellread.corpus.word:read_word",
    },
)
SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".txt": "text",
    ".text": "text",
    ".md": "markdown",
    ".markdown": "markdown",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".pdf": "pdf",
    ".docx": "word",
}
PACKED = (".gz", ".zst", ".zstd")
FOLDER_FORMATS = ("datasets", "beir", "corpus", "pictures")


def read_documents(source: str | Path, *, format: str | None = None) -> Iterator[Document | Problem]:
    """Documents and Problems of a file or folder, in order; a folder's files are sorted by path.

    ValueError where the source does not exist or the format is unknown.
    """
    for part in parts_of(source, format=format):
        yield from [part] if isinstance(part, Problem) else read_part(*part)


def parts_of(source: str | Path, *, format: str | None = None) -> Iterator[tuple[Path, str, Path] | Problem]:
    """(file or folder, format, root) of everything that a source consists of."""
    path = Path(source)
    if format is not None:
        FORMATS[format]  # raises for an unknown name before anything is read
    if not path.exists():
        raise ValueError(f"source {path} does not exist; give a file or a folder.")
    known = _folder_format(path) if path.is_dir() else None
    if known or (path.is_dir() and format in FOLDER_FORMATS):
        yield path, format if format in FOLDER_FORMATS else known, path
    elif path.is_dir():
        yield from _walk(path, format)
    else:
        yield from _file(path, format, path.parent)


def read_part(path: Path, format: str, root: Path) -> Iterator[Document | Problem]:
    """What one reader makes of one file. Pages say in their metadata where under the root they lie."""
    for found in FORMATS[format](path):
        if isinstance(found, Document) and path.parent != root and found.metadata.get("file") == path.name:
            place = str(path.relative_to(root))
            found = replace(found, metadata={**found.metadata, "file": place})
        yield found


def _walk(folder: Path, format: str | None) -> Iterator[tuple[Path, str, Path] | Problem]:
    stack = [folder]
    while stack:
        place = stack.pop()
        try:
            entries = sorted(item for item in place.iterdir() if not item.name.startswith((".", "~$")))
        except OSError as error:
            yield Problem(str(place), 0, f"cannot be read: {error.strerror}")
            continue
        for entry in entries:
            if entry.is_file():
                yield from _file(entry, format, folder, sure=False)
            elif entry.is_dir() and _folder_format(entry) in ("datasets", "beir", "pictures"):
                yield entry, _folder_format(entry), folder
        # A corpus among its own sources is what an earlier run wrote, not a source.
        below = [item for item in entries if item.is_dir() and not item.is_symlink()]
        stack.extend(item for item in reversed(below) if _folder_format(item) is None)


def _file(
    path: Path, format: str | None, root: Path, *, sure: bool = True
) -> Iterator[tuple[Path, str, Path] | Problem]:
    found = format or format_of(path, guess=sure)
    if found is None:
        names = ", ".join(FORMATS)
        yield Problem(str(path), 0, f"has no known format; force one with format, one of: {names}")
    else:
        yield path, found, root


def stem_and_suffix(path: Path) -> tuple[str, str]:
    """The name of a file without and its suffix, packing aside: a.jsonl.gz -> ("a", ".jsonl")."""
    name = path.name
    for packed in PACKED:
        name = name.removesuffix(packed)
    return Path(name).stem, Path(name).suffix.lower()


def format_of(path: Path, *, guess: bool = True) -> str | None:
    """The format of a file by its name, else by how it starts; None where neither says.

    guess: whether a file with an unknown suffix may be judged by its first bytes.
    """
    known = SUFFIXES.get(stem_and_suffix(path)[1])
    if known == "json" and '"paragraphs"' in peek_text(path, 1 << 16):
        return "squad"
    if known == "jsonl" and brings_passages(path):
        return "evidence"
    if known == "jsonl":
        return graph_format(path) or known
    if known == "parquet" and holds_pictures(path):
        return "pictures"
    if known in ("tsv", "csv") and is_triple_header(peek_text(path, 1 << 12).partition("\n")[0]):
        return "triples"
    if known is not None or not guess:
        return known
    first = next(read_bytes(path), b"")
    raw = b"" if isinstance(first, Problem) else first[:6]
    if raw.startswith((b"PAR1", b"ARROW1", b"\xff\xff\xff\xff")):
        return "parquet"
    head = peek_text(path).lstrip()
    if head.startswith(("{", "[")):
        return "squad" if '"paragraphs"' in head else "json"
    if head[:9].lower() == "<!doctype" or head[:5].lower() == "<html":
        return "html"
    return "text" if head.isprintable() or "\n" in head else None


def _folder_format(path: Path) -> str | None:
    if (path / "corpus.json").is_file() and (path / "passages.arrow").is_file():
        return "corpus"
    if any((path / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return "datasets"
    if beir_file(path, "corpus"):
        return "beir"
    return "pictures" if captions_file(path) else None


def beir_file(folder: Path, stem: str) -> Path | None:
    """corpus.jsonl or queries.jsonl of a BEIR folder, plain or packed; None where it is missing."""
    names = (folder / f"{stem}.jsonl{packed}" for packed in ("", *PACKED))
    return next((path for path in names if path.is_file()), None)


def read_beir(path: Path) -> Iterator[Document | Problem]:
    """The documents of a BEIR collection (its corpus.jsonl)."""
    file = beir_file(path, "corpus") if path.is_dir() else path
    if file is None:
        yield Problem(str(path), 0, "is no BEIR folder: it has no corpus.jsonl")
    else:
        yield from FORMATS["jsonl"](file)


def read_corpus(path: Path) -> Iterator[Document | Problem]:
    """The passages of a wellread corpus, to join corpora or to cut one again."""
    from wellread.corpus.store import Corpus

    corpus = Corpus.open(path)
    pictures = None
    if corpus.pictures is not None:
        from wellread.pictures.store import PictureStore

        pictures = PictureStore.open(corpus.pictures)
    for row, passage in enumerate(corpus, start=1):
        drawn = pictures is not None and passage.picture in pictures
        yield Document(
            passage.text,
            title=passage.title,
            id=passage.id,
            source=passage.source,
            metadata=passage.metadata,
            file=str(path),
            line=row,
            picture=pictures.bytes(passage.picture) if drawn else None,
        )
