"""Sources -> a corpus, in one call: read, cut, drop duplicates, write, and say what happened."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from wellread.corpus.cutting import Cutting, looks_like_passages
from wellread.corpus.documents import Document, Problem
from wellread.corpus.sources import Illustrations, Source, with_picture
from wellread.corpus.store import Corpus, CorpusWriter, check_output

__all__ = ["IngestReport", "ingest"]

MAX_PROBLEMS = 1000  # kept in the report; all are counted
REPAIRED = (
    "holds bytes that are no UTF-8 (read as Windows-1252 where they fit, else replaced) or NULs; save it as UTF-8 to "
    "keep its letters"
)
LOOK_AHEAD = 200  # documents that decide whether a file holds passages
LOOK_AHEAD_LETTERS = 1 << 22


@dataclass
class IngestReport:
    """What came of it. skipped: rows, files and passages that were left out, each with a problem (the first
    1000 are kept). duplicates: passages dropped because the same one was there. repaired: documents whose
    encoding was mended (`repairs` says which, up to as many). by_source: passages of each source."""

    out: Path
    documents: int = 0
    passages: int = 0
    skipped: int = 0
    duplicates: int = 0
    repaired: int = 0
    seconds: float = 0.0
    fingerprint: str = ""
    by_source: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    repairs: list[Problem] = field(default_factory=list)

    def note(self, problem: Problem, *, strict: bool) -> None:
        if strict:
            raise ValueError(f"{problem}. Mend it, or leave strict off to skip it.")
        self.skipped += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)

    def note_repair(self, document: Document) -> None:
        self.repaired += 1
        if len(self.repairs) < MAX_PROBLEMS:
            self.repairs.append(Problem(document.file, document.line, REPAIRED))


def ingest(
    sources: str | Path | Source | Sequence[str | Path | Source],
    out: str | Path,
    *,
    illustrate: Sequence[Source] = (),
    cutting: Cutting | None = None,
    format: str | None = None,
    strict: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> IngestReport:
    """Read the sources, cut them into passages and write the corpus to the folder `out`.

    illustrate: captioned pictures that go with entries of other sources: each names an entry as its `entity`.
    What cannot be read is skipped and reported with its file and line; strict stops at the first such thing.
    Memory is bounded, whatever the size of the sources. Raises ValueError where a source or format does not
    exist, `out` is taken, no row of a source fulfils its conditions, or nothing at all came out; `out` is then left
    as it was.
    """
    started = time.perf_counter()
    sources = [Source.of(item) for item in ([sources] if isinstance(sources, (str, Path, Source)) else sources)]
    if not sources:
        raise ValueError("sources=[] is empty; give at least one file or folder.")
    for source in (*sources, *illustrate):
        next(source.parts(format), None)
    check_output(out, overwrite=overwrite)
    illustrations = Illustrations(illustrate)
    report = IngestReport(out=Path(out))
    with CorpusWriter(out, cutting=cutting or Cutting(), overwrite=overwrite) as writer:
        for document, whole in _progress(_documents(sources, format, writer.cutting, report, strict), progress):
            document = with_picture(illustrations.add_to(document))
            if isinstance(document, Problem):
                report.note(document, strict=strict)
                continue
            report.documents += document.part == 0
            if document.repaired:
                report.note_repair(document)
            if document.picture is not None:
                writer.add_picture(document.metadata["picture"], document.picture)
            for passage in writer.cutting.cut(document, whole=whole):
                writer.add(passage, file=document.file, line=document.line)
            while writer.problems:
                report.note(writer.problems.pop(), strict=strict)
        if not writer.passages and not writer.pending:
            raise ValueError(_nothing([source.path for source in sources], report))
        counts = {"documents": report.documents, "skipped": report.skipped, "repaired": report.repaired}
        writer.finish(sources=[str(source.path) for source in sources], **counts)
    report.passages, report.duplicates, report.by_source = writer.passages, writer.duplicates, writer.by_source
    report.fingerprint = Corpus.open(out).fingerprint
    report.seconds = time.perf_counter() - started
    return report


def _documents(
    sources: Sequence[Source], format: str | None, cutting: Cutting, report: IngestReport, strict: bool
) -> Iterator[tuple[Document, bool]]:
    """(document, whether it is a passage already) of all sources; problems go into the report."""
    for source in sources:
        sieve = source.sieve()
        for part in source.parts(format):
            if isinstance(part, Problem):
                report.note(part, strict=strict)
                continue
            documents = _without_problems(source.read(part, sieve), report, strict)
            head: list[Document] = []
            whole = False
            if cutting.rule == "auto":
                letters = 0
                for document in documents:
                    head.append(document)
                    letters += len(document.text)
                    if len(head) == LOOK_AHEAD or letters > LOOK_AHEAD_LETTERS:
                        break
                whole = looks_like_passages(head)
            for document in chain(head, documents):
                yield document, whole and document.id is not None
        sieve.check()


def _without_problems(found: Iterator[Document | Problem], report: IngestReport, strict: bool) -> Iterator[Document]:
    for item in found:
        if isinstance(item, Problem):
            report.note(item, strict=strict)
        else:
            yield item


def _progress(documents: Iterator[tuple[Document, bool]], shown: bool) -> Iterator[tuple[Document, bool]]:
    if not shown:
        return documents
    from wellread.bars import progress_bar

    return iter(progress_bar(documents, unit=" documents"))


def _nothing(sources: Sequence[Path], report: IngestReport) -> str:
    read = ", ".join(str(source) for source in sources[:3]) + (" ..." if len(sources) > 3 else "")
    if not report.problems:
        return f"no passage came out of {read}: nothing readable was found; give files with text in a known format."
    reasons = list(dict.fromkeys(problem.reason for problem in report.problems))
    shown = "; ".join(str(next(item for item in report.problems if item.reason == reason)) for reason in reasons[:3])
    return f"no passage came out of {read}: {report.documents} documents read, {report.skipped} skipped. Why: {shown}."
