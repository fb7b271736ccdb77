"""A corpus read ahead by a model: its memory, and the search index that is kept inside it."""

from __future__ import annotations

from pathlib import Path

from wellread.corpus.store import Corpus
from wellread.memory.build import MemorizeReport, memorize
from wellread.memory.store import Memory
from wellread.model import Model
from wellread.retrieval import INDEX_FOLDER, RETRIEVERS, default_retriever, open_index
from wellread.token_encoder import ModelTokens, model_encoder

__all__ = ["memorize_corpus"]


def memorize_corpus(
    corpus: Corpus,
    model: Model,
    out: str | Path,
    *,
    codec: str = "bf16",
    retriever: str | None = None,
    batch_size: int = 32,
    precision: str = "fp32",
    pictures: str | Path | None = None,
    progress: bool = True,
) -> MemorizeReport:
    """Read a corpus ahead: build or resume its memory, then the search index kept inside it.

    retriever: a name in RETRIEVERS, "none" for no index, None for the default: the system's own where it has one.
    precision: of the reading, "fp32" or "bf16" (see Model.encode). pictures: folder of the passages' pictures, for
    models that read them.
    """
    model = model.with_pictures(pictures)
    chosen = retriever or model.system.retriever or default_retriever()
    if chosen != "none":
        kind = RETRIEVERS[chosen]  # a wrong name is told before hours of reading
        encoder = model_encoder(model, precision=precision) if kind.of_a_model else None
    encode, fingerprint, dim = model.encoder_for_memory(corpus.cutting, precision=precision)
    report = memorize(
        corpus,
        encode,
        out,
        codec=codec,
        fingerprint=fingerprint,
        dim=dim,
        precision=precision,
        batch_size=batch_size,
        total=len(corpus),
        progress=progress,
    )
    if chosen != "none":
        folder = Path(out) / INDEX_FOLDER
        if not _serves(folder, retriever, encoder):
            options = {"reading": precision} if kind.reads else {}
            if encoder is not None:
                options["encoder"] = encoder.reading(Memory.open(out))
            kind.build(corpus, folder, overwrite=True, **options)
    return report


def _serves(folder: Path, retriever: str | None, encoder: ModelTokens | None) -> bool:
    """Whether there is an index in a memory that will do: of the search that is asked for, and of these keys."""
    if not (folder / "index.json").is_file():
        return False
    index = open_index(folder)
    if encoder is None:
        return retriever in (None, index.name)
    return index.of_a_model and index.options.encoder_fingerprint == encoder.fingerprint
