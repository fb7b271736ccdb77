"""`wellread index CORPUS`: build a search index over a corpus."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from wellread.cli.opening import check_related, replace_all_option
from wellread.cli.output import emit, json_option
from wellread.retrieval import RETRIEVERS, default_retriever, lies_inside, open_index

__all__ = ["command"]

# Questions, or passages whose first words are searched, to see how well an approximate search finds.
PROBED, WORDS = 32, 12
DEPTHS = (20, 100)


@click.command("index")
@click.argument("corpus", type=click.Path(path_type=Path))
@click.option(
    "--retriever",
    metavar="NAME",
    help=f"One of: {', '.join(RETRIEVERS)}; without it, hybrid where a dense encoder is installed, else lexical.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Directory for the index.")
@click.option("--encoder", metavar="NAME", help="Dense: name or folder of a sentence-transformers model.")
@click.option("--pictures", metavar="DIR", help="Visual: folder of pictures; default: that of the corpus.")
@click.option("--view", metavar="NAME", help="Visual: what is compared of pictures, grid or mean.")
@click.option("--approximate", is_flag=True, default=None, help="Dense, visual: search with an inverted file.")
@click.option("--model", metavar="DIR", help="A model that searches by itself: its folder or name.")
@click.option("--memory", metavar="DIR", help="With --model: a memory of it, so that no passage is read again.")
@click.option(
    "--precision", type=click.Choice(["fp32", "bf16"]), help="Of reading passages: with --model, dense, hybrid."
)
@click.option("--fusion", metavar="NAME", help="Hybrid: how the finds are joined, by scores or by ranks.")
@click.option("--codec", metavar="NAME", help="Search by tokens: how keys are stored: residual, float16 or float32.")
@click.option("--search", metavar="NAME", help="Search by tokens: approximate, exact or exhaustive.")
@click.option("--lists", type=int, metavar="N", help="Search by tokens: inverted lists; 0 for as many as fit.")
@click.option("--probes", type=int, metavar="N", help="Search by tokens: lists looked into per question token.")
@click.option("--per-token", type=int, metavar="N", help="Search by tokens: nearest tokens per question token.")
@click.option("--candidates", type=int, metavar="N", help="Search by tokens: passages scored over all their tokens.")
@click.option("--questions", metavar="FILE", help="Search by tokens: what is asked to see how much the search finds.")
@click.option("--run", metavar="FILE", help="Given: the file of candidates (JSON lines or a TREC run).")
@click.option("--overwrite", is_flag=True, help="Replace the index that is in the directory.")
@click.option("--sync", is_flag=True, help="Make the index that is there hold what CORPUS holds now.")
@replace_all_option
@json_option
def command(
    corpus: Path,
    retriever: str | None,
    out: Path,
    overwrite: bool,
    sync: bool,
    replace_all: bool,
    questions: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Build a search index over the CORPUS directory that `wellread corpus` made.

    A build that was stopped is resumed by the same command. With --sync only passages that are new or changed are read,
    as the index was built; those that are gone are forgotten.

    \b
    Example:
      wellread index corpus --out index
      wellread index corpus --retriever dense --approximate --out index
      wellread index corpus --model model --memory memory --out index
      wellread index corpus --out index --sync
    """
    from wellread.corpus.questions import evenly, read_questions
    from wellread.corpus.store import Corpus

    if sync:
        given = {"retriever": retriever, "overwrite": overwrite or None, "questions": questions, **options}
        _sync(Corpus.open(corpus), out, given, as_json, replace_all=replace_all)
        return
    if replace_all:
        raise ValueError("--replace-all belongs to --sync; give that too, or --overwrite instead.")
    given = {key: value for key, value in options.items() if value is not None}
    encoder = _encoder(given)
    name = retriever or (default_retriever() if encoder is None else encoder.model.system.retriever)
    kind = RETRIEVERS[name]
    asked = None
    if questions is not None:
        if not hasattr(kind, "search_exhaustive") or given.get("search") == "exhaustive":
            raise ValueError("--questions measures a search by tokens that does not score every passage; leave it out.")
        asked = [question.text for question in evenly(read_questions(questions), PROBED)]
    if encoder is not None:
        if name != encoder.model.system.retriever:
            raise ValueError(
                f"--model makes keys for --retriever {encoder.model.system.retriever}, not for {name}; leave one out."
            )
        given["encoder"] = encoder
    start = time.perf_counter()
    passages = Corpus.open(corpus)
    index = kind.build(passages, out, overwrite=overwrite, **given)
    result = {
        "retriever": name,
        "passages": len(index),
        "seconds": round(time.perf_counter() - start, 3),
        "bytes": sum(path.stat().st_size for path in out.rglob("*") if path.is_file()),
        "fingerprint": index.fingerprint,
        "out": str(out),
    }
    human = "{passages} passages in a {retriever} index of {bytes} bytes at {out}, {seconds} s".format(**result)
    if hasattr(index, "search_exhaustive"):
        sizes = result["bytes_per_token"] = index.bytes_per_token()
        found = _searched(index, passages, asked)
        result |= found
        human += f"; {_told(found)}, {sizes['stored']:.1f} bytes a token ({sizes['plain']:.0f} as float32)"
    emit(result, as_json, human)


def _sync(passages: Any, out: Path, options: dict[str, Any], as_json: bool, *, replace_all: bool) -> None:
    """Bring an index to what a corpus holds. Its options are those it was built with."""
    if lies_inside(out):
        raise ValueError(f"{out} is a memory; bring it up to date, and the index in it, with `wellread memory sync`.")
    given = {name: value for name, value in options.items() if value is not None}
    other = [name for name in given if name not in ("model", "memory")]
    if other:
        raise ValueError(f"--sync keeps the options that {out} was built with; leave --{other[0]} out.")
    index = open_index(out)
    if given and not index.of_a_model:
        raise ValueError(f"{out} holds no keys of a model; leave --model and --memory out.")
    if given:
        index.use_encoder(_encoder(given, name=index.options.encoder))
    check_related(index.digests(), passages, str(out), replace_all=replace_all)
    found = index.sync(passages)
    result = {**found._asdict(), "passages": len(index), "fingerprint": index.fingerprint, "out": str(out)}
    told = ", ".join(f"{count} {name}" for name, count in found._asdict().items())
    emit(result, as_json, f"{out}: {told}, now {len(index)} passages")


def _encoder(given: dict[str, Any], **more: Any) -> Any:
    """What makes the keys of a token index, if a model was given; takes what belongs to it out of the options."""
    model, memory, precision = (given.pop(name, None) for name in ("model", "memory", "precision"))
    if model is None:
        if memory is not None:
            raise ValueError("--memory says how the keys of a model are made; give --model DIR with it.")
        if precision is not None:
            given["reading"] = precision
        return None
    from wellread.memory.store import Memory
    from wellread.model import load_model
    from wellread.token_encoder import model_encoder

    store = None if memory is None else Memory.open(memory)
    return model_encoder(load_model(model), memory=store, precision=precision or "fp32", **more)


def _searched(index: Any, passages: Any, questions: list[str] | None) -> dict[str, Any]:
    """How well an approximate search finds: asked with questions, or with the beginnings of some passages. Nothing
    where it scores all passages."""
    from itertools import islice
    from statistics import fmean

    from wellread.types import Probe

    if index.options.search == "exhaustive" or len(index) <= max(DEPTHS[0], index.options.candidates_for(DEPTHS[0])):
        return {}
    texts, kind = questions, "questions"
    if texts is None:
        step, kind = max(1, len(passages) // PROBED), "beginnings of passages"
        texts = [" ".join(passage.text.split()[:WORDS]) for passage in islice(passages, 0, PROBED * step, step)]
    probes = [Probe(words=text) for text in texts if text]
    depths = [depth for depth in DEPTHS if depth < len(index)]
    every = index.search_exhaustive(probes, top_k=depths[-1])  # what takes time, once for all depths
    recall = {}
    for depth in depths:
        pairs = [
            (set(found.ids), set(best.ids[:depth])) for found, best in zip(index.search(probes, top_k=depth), every)
        ]
        recall[str(depth)] = round(fmean(len(found & best) / max(1, len(best)) for found, best in pairs), 4)
    return {"recall": recall, "asked": len(probes), "asked_with": kind}


def _told(found: dict[str, Any]) -> str:
    if not found:
        return "all passages are scored"
    shares = " and ".join(f"{share:.1%} of the first {depth}" for depth, share in found["recall"].items())
    asked = f"{found['asked']} {found['asked_with']}"
    return f"finds {shares} that scoring all passages by their stored keys would find ({asked})"
