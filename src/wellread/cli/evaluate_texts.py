"""`wellread eval --texts`: bits per byte of texts, with and without neighbours, by database, number and overlap."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wellread.cli.output import say

if TYPE_CHECKING:
    from wellread.evaluation.language import TextScores
    from wellread.model import Model
    from wellread.texts import NeighbourTexts, Windows

__all__ = ["evaluate_texts"]

NONE, SHUFFLED = "none", "shuffled"


def evaluate_texts(choice: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """What `eval --texts` prints, as JSON and for people."""
    from wellread.config import parse_settings
    from wellread.model import load_model
    from wellread.retrieval.chunks import ChunkTexts
    from wellread.texts import LOSSY, Windows, check_language_model, lossless

    for option, given in {"--overlap": choice["overlap"], "--shuffled": choice["shuffled"] is not None}.items():
        if given and not (choice["neighbours"] and max(choice["k"])):
            raise ValueError(f"{option} needs neighbours to compare with; give --neighbours.")
    model = load_model(choice["model"], system=choice["system"], options=parse_settings(choice["settings"]))
    texts = ChunkTexts.open(choice["texts"])
    check_language_model(model, texts)
    windows = Windows(texts, choice["sequence_chunks"], documents=choice["limit"])
    whole = lossless(texts, choice["limit"])
    if not whole:
        say(LOSSY.format(path=texts.path))
    began = time.perf_counter()
    sources = _sources(choice, model)
    scored = {name: _score(model, source, windows, name, choice) for name, source in sources.items()}
    rows = _rows(sources, scored, choice["seed"])
    result = {
        "system": model.name,
        "documents": len(set(scored[NONE].documents.tolist())),
        "tokens": int(scored[NONE].tokens.sum()),
        "bytes": int(scored[NONE].bytes.sum()),
        "lossless": whole,
        "bits_per_byte": {row["neighbours"]: row["bits_per_byte"] for row in rows},
        "rows": rows,
        "own_less_shuffled": _own_less_shuffled(scored, choice),
        "overlap": _overlap(sources, scored, choice) if choice["overlap"] else [],
        "seconds": round(time.perf_counter() - began, 1),
    }
    return result, _told(result)


def _sources(choice: Mapping[str, Any], model: Model) -> dict[str, NeighbourTexts]:
    """What is read, by name: nothing, then every list with every number of neighbours."""
    from wellread.texts import NeighbourTexts

    def opened(folder: str | None, k: int, shuffled: int | None = None) -> NeighbourTexts:
        place = choice["database"] or choice["texts"]
        words = model.frame.tokenizer
        return NeighbourTexts.open(choice["texts"], folder, place, tokenizer=words, k=k, shuffled=shuffled)

    found = {NONE: opened(None, 0)}
    lists = [_named(text) for text in choice["neighbours"]]
    names = [name for name, _ in lists]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"--neighbours: two lists have the name {twice!r}; give each one of its own, NAME=FOLDER.")
    for name, folder in lists:
        for k in sorted(set(choice["k"]) - {0}):
            found[_read(name, k)] = opened(folder, k)
    if choice["shuffled"] is not None:
        name, folder = lists[-1]
        found[f"{name} {SHUFFLED}"] = opened(folder, max(choice["k"]), choice["shuffled"])
    return found


def _named(text: str) -> tuple[str, str]:
    """NAME=FOLDER, or FOLDER, which then is its own name."""
    name, sign, folder = text.partition("=")
    return (name, folder) if sign else (Path(text).name, text)


def _read(name: str, k: int) -> str:
    """What a list of which k neighbours are read is called."""
    return f"{name} k={k}"


def _score(model: Model, source: NeighbourTexts, windows: Windows, name: str, choice: Mapping[str, Any]) -> TextScores:
    from wellread.texts import score_texts

    say(f"neighbours: {name}")
    return score_texts(
        model, source, windows, batch_size=choice["batch_size"], precision=choice["precision"], progress=True
    )


def _rows(sources: Mapping[str, NeighbourTexts], scored: Mapping[str, TextScores], seed: int) -> list[dict[str, Any]]:
    from wellread.evaluation.language import bits_difference, bits_per_byte

    rows = []
    for name, scores in scored.items():
        row = {"neighbours": name, "k": sources[name].k, "bits_per_byte": bits_per_byte(scores, seed=seed).to_json()}
        if name != NONE:
            row["difference"] = bits_difference(scores, scored[NONE], seed=seed).to_json()
        rows.append(row)
    return rows


def _own_less_shuffled(scored: Mapping[str, TextScores], choice: Mapping[str, Any]) -> dict[str, Any] | None:
    """Bits per byte with a chunk's own neighbours less those with another's, of the list that was shuffled."""
    from wellread.evaluation.language import bits_difference

    if choice["shuffled"] is None:
        return None
    name, _ = _named(choice["neighbours"][-1])
    own, other = scored[_read(name, max(choice["k"]))], scored[f"{name} {SHUFFLED}"]
    return bits_difference(own, other, seed=choice["seed"]).to_json()


def _overlap(
    sources: Mapping[str, NeighbourTexts], scored: Mapping[str, TextScores], choice: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Of every list, by overlap with all neighbours that it holds, however many of them are read."""
    from wellread.evaluation.language import by_overlap

    rows = []
    for name, _ in map(_named, choice["neighbours"]):
        most = _read(name, max(choice["k"]))
        listed = replace(sources[most], k=sources[most].neighbours.k)
        overlap = listed.overlap(scored[most].chunks)
        found = by_overlap({most: scored[most], NONE: scored[NONE]}, overlap, against=NONE, seed=choice["seed"])
        rows += [{"list": name, "listed": listed.k, **row} for row in found]
    return rows


def _told(result: Mapping[str, Any]) -> str:
    from wellread.evaluation.report import to_markdown

    rows = [
        {
            "neighbours": row["neighbours"],
            "bits per byte": f"{row['bits_per_byte']['value']:.4f}",
            "95 %": _between(row["bits_per_byte"]),
            "less those without": _difference(row.get("difference")),
        }
        for row in result["rows"]
    ]
    parts = [f"{result['documents']} documents, {result['bytes']:,} bytes", to_markdown(rows).rstrip()]
    if result["own_less_shuffled"]:
        parts.append(f"own neighbours less those of other chunks: {_difference(result['own_less_shuffled'])}")
    for (name, listed), found in groupby(result["overlap"], lambda row: (row["list"], row["listed"])):
        parts.append(f"by overlap with the {listed} neighbours that {name} lists:")
        parts.append(to_markdown([_overlap_row(row) for row in found]).rstrip())
    return "\n\n".join(parts)


def _overlap_row(row: Mapping[str, Any]) -> dict[str, str]:
    shown = {"overlap up to": f"{row['overlap']:g}", "chunks": f"{row['share']:.0%}"}
    for name, value in row.items():
        if isinstance(value, Mapping):
            shown[name] = _difference(value) if name.endswith(f"-{NONE}") else f"{value['value']:.4f}"
    return shown


def _difference(value: Mapping[str, Any] | None) -> str:
    return "" if value is None else f"{value['value']:+.4f} ({_between(value)})"


def _between(value: Mapping[str, Any]) -> str:
    low, high = value["interval"]
    return f"{low:.4f} to {high:.4f}"
