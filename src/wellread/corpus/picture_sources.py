"""Sources -> a folder of pictures, which a corpus and its questions may share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wellread.corpus.captions import read_captions
from wellread.corpus.documents import Problem
from wellread.corpus.readers import parts_of
from wellread.corpus.store import Corpus
from wellread.pictures.store import PictureStore, PictureWriter

__all__ = ["gather"]


def gather(sources: Sequence[str | Path], out: str | Path | None = None) -> tuple[Path, int, list[Problem]]:
    """Add the pictures of sources (captioned pictures, corpora) to a folder: the folder, how many were new, problems.

    out: the folder; None is for one corpus, or one folder of pictures, that stays where it is. ValueError where
    a source holds no pictures.
    """
    places = [Path(source) for source in sources]
    if out is None:
        if len(places) != 1 or (folder := _own(places[0])) is None:
            raise ValueError("where to keep the pictures is not said; give --out FOLDER (only a corpus keeps its own).")
        return folder, 0, []
    problems: list[Problem] = []
    with PictureWriter(out) as writer:
        for place in places:
            own = _own(place)
            if own is not None:
                store = PictureStore.open(own)
                for name in store:
                    writer.add(name, store.bytes(name))
                continue
            for part in parts_of(place):
                if isinstance(part, Problem) or part[1] != "pictures":
                    continue
                for found in read_captions(part[0]):
                    if isinstance(found, Problem):
                        problems.append(found)
                    else:
                        writer.add(found.metadata["picture"], found.picture)
    if not len(PictureStore.open(out)):
        shown = f": {problems[0]}" if problems else ""
        raise ValueError(
            f"no pictures came out of {', '.join(map(str, places))}{shown}; give tables or folders of them."
        )
    return Path(out), writer.added, problems


def _own(place: Path) -> Path | None:
    """The folder of pictures that a source is, or that a corpus has."""
    if (place / "index.arrow").is_file() and (place / "bytes.bin").is_file():
        return place
    if not (place / "corpus.json").is_file():
        return None
    folder = Corpus.open(place).pictures
    if folder is None:
        raise ValueError(f"corpus {place} holds no pictures; give sources that do.")
    return folder
