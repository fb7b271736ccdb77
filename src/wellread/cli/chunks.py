"""`wellread chunks`: texts as chunks of tokens, their keys, and the neighbours of every chunk."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wellread.cli.output import POSITIVE, emit, json_option, say

if TYPE_CHECKING:
    from wellread.corpus.store import Corpus
    from wellread.nn.tokenizers import Tokenizer
    from wellread.retrieval.chunks import ChunkTexts, Document
    from wellread.retrieval.neighbours import Neighbours

__all__ = ["command"]

FOLDER = click.Path(path_type=Path)
BOUNDS = (0.125, 0.25, 0.5, 0.75, 1.0)  # shares of overlap that are counted
OVERLAPPED = 4096  # chunks compared with their neighbours at a time
Options = Callable[[Callable], Callable]


def _options(*options: Options) -> Options:
    """Several options as one decorator, in the order they are listed in the help."""

    def add(verb: Callable) -> Callable:
        for option in reversed(options):
            verb = option(verb)
        return verb

    return add


_cut_options = _options(
    click.option(
        "--tokenizer",
        default="default",
        show_default=True,
        metavar="FOLDER",
        help="Folder with a tokenizer.json, or `default`: that of the key encoder, all-MiniLM-L6-v2, which loses case "
        "and accents: good for neighbours, not for bits per byte (--learn-tokenizer is).",
    ),
    click.option(
        "--learn-tokenizer",
        type=POSITIVE,
        metavar="TOKENS",
        help="Learn a byte-level vocabulary of this size from the texts first, into the --tokenizer folder, if it "
        "has none yet. Every text decodes to itself.",
    ),
    click.option("--chunk-tokens", type=POSITIVE, default=64, show_default=True, help="Tokens of a chunk."),
    click.option("--documents", type=POSITIVE, metavar="N", help="Only the first N documents (of every split)."),
)
_key_options = _options(
    click.option(
        "--encoder",
        default="all-MiniLM-L6-v2",
        show_default=True,
        metavar="NAME",
        help="Frozen BERT-family encoder of the keys: this one, or a model folder in hub layout.",
    ),
    click.option("--layers", type=int, help="Take states after this layer; all by default, 0: word states (fast)."),
    click.option(
        "--rarity",
        type=float,
        default=0.0,
        show_default=True,
        help="Weigh tokens by a / (a + their frequency) in the mean, such as 1e-4; 0 for a plain mean.",
    ),
    click.option("--unit/--plain", default=True, help="Keys of length 1 (default), or the plain means of the states."),
    click.option("--precision", default="bf16", show_default=True, metavar="bf16|fp32", help="Of encoding."),
    click.option("--storage", default="float16", show_default=True, metavar="float16|int8", help="Of the keys."),
)
_index_options = _options(
    click.option("--code", default="sq8", show_default=True, metavar="flat|sq8|pq", help="Of keys in the index."),
    click.option("--lists", type=int, default=0, show_default=True, help="Inverted lists; 0: 2 sqrt(chunks)."),
    click.option("--shard-rows", type=int, default=1 << 18, show_default=True, help="Keys per file of the index."),
)
_find_options = _options(
    click.option("-k", "--neighbours", "k", type=int, default=10, show_default=True, help="Neighbours of a chunk."),
    click.option("--probes", type=int, default=32, show_default=True, help="Inverted lists looked into per chunk."),
    click.option(
        "--recall-sample",
        "sample",
        type=int,
        default=200,
        show_default=True,
        help="Chunks whose neighbours are found exactly too, to say how many the search finds; 0 for none.",
    ),
    click.option("--seed", type=int, default=0, show_default=True, help="Of the sample, the centres and --share."),
)


@click.group()
def command() -> None:
    """Texts as chunks of tokens, their keys, and the neighbours of every chunk: what a language model looks up.

    Every command goes on where it was stopped when it is run again.

    \b
    Example:
      wellread corpus wiki.parquet --cut none --out corpus
      wellread chunks build corpus --tokenizer tokenizer --learn-tokenizer 8192 \\
          --split train --other valid --other test --out chunks
    """


@command.command()
@click.argument("corpus", type=FOLDER)
@_cut_options
@click.option(
    "--split", "splits", multiple=True, help="Only documents with this `split` in their metadata; repeatable."
)
@click.option("--out", required=True, type=FOLDER, help="Folder of the chunks.")
@json_option
def cut(corpus: Path, splits: tuple[str, ...], out: Path, chunk_tokens: int, as_json: bool, **options: Any) -> None:
    """Put the documents of CORPUS together again, tokenise them and cut them into chunks.

    A document is its passages in order. The last chunk of a document is as short as it comes; nothing is dropped.

    \b
    Example:
      wellread chunks cut corpus --tokenizer tokenizer --split train --out chunks
    """
    from wellread.corpus.store import Corpus
    from wellread.retrieval.chunks import write_chunks

    start = time.perf_counter()
    passages = Corpus.open(corpus)
    tokenizer = _tokenizer(passages, splits, options)
    made_of = _made_of(passages, options) | {"splits": list(splits)}
    opened = _opener(passages, options)
    texts = write_chunks(lambda: opened(splits), tokenizer, out, chunk_tokens=chunk_tokens, made_of=made_of)
    human = "{documents:,} documents, {tokens:,} tokens in {chunks:,} chunks of {chunk_tokens} at {out}, {seconds} s"
    result = {**_facts(texts), "seconds": round(time.perf_counter() - start, 1), "out": str(out)}
    emit(result, as_json, human.format(**result))


@command.command()
@click.argument("chunks", type=FOLDER)
@_key_options
@_index_options
@click.option(
    "--keys-of",
    "database",
    type=FOLDER,
    help="Keys alone, made as those of this database, to look for neighbours in it; the options above are not used.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the centres.")
@json_option
def index(
    chunks: Path,
    as_json: bool,
    database: Path | None,
    storage: str,
    code: str,
    lists: int,
    shard_rows: int,
    seed: int,
    **encoder: Any,
) -> None:
    """Make the keys of CHUNKS with a frozen encoder, and an index over them: a database to find neighbours in.

    \b
    Example:
      wellread chunks index chunks/database --layers 3
    """
    from wellread.retrieval.chunk_database import ChunkDatabase
    from wellread.retrieval.chunk_index import IndexOptions, build_index
    from wellread.retrieval.chunk_keys import Keys, write_keys
    from wellread.retrieval.chunks import ChunkTexts

    start = time.perf_counter()
    options = IndexOptions(code, lists, shard_rows, seed)
    texts = ChunkTexts.open(chunks)
    made = _encoder(encoder).fit(texts) if database is None else Keys.open(database).encoder()
    keys = write_keys(texts, made, storage=storage)
    result = {**_facts(texts), "dim": keys.dim, "key_seconds": keys.info["seconds"], "out": str(chunks)}
    human = "{chunks:,} keys of {dim} dimensions at {out}"
    if database is None:
        build_index(keys, chunks, options)
        result["recall"] = round(ChunkDatabase.open(chunks).recall(), 4)
        human += "; the index finds {recall:.1%} of the 10 exactly nearest"
    result |= {"seconds": round(time.perf_counter() - start, 1), "bytes": _bytes(chunks)}
    emit(result, as_json, human.format(**result))


@command.command()
@click.argument("chunks", type=FOLDER)
@click.option("--database", required=True, type=FOLDER, help="Chunks with an index, which neighbours come from.")
@_find_options
@click.option("--share", type=float, default=1.0, show_default=True, help="Of the database's documents, by --seed.")
@click.option("--limit", type=int, default=0, help="Only chunks of the database with numbers below this.")
@click.option("--own", is_flag=True, help="Let a chunk find its own document.")
@click.option("--out", required=True, type=FOLDER, help="Folder of the lists.")
@json_option
def neighbours(chunks: Path, database: Path, out: Path, as_json: bool, **options: Any) -> None:
    """Find the nearest chunks of DATABASE for every chunk of CHUNKS, whose keys are made, and keep the lists.

    Smaller shares of the documents lie within larger ones with the same seed. No keys are made anew.

    \b
    Example:
      wellread chunks neighbours chunks/valid --database chunks/database --share 0.25 --out chunks/valid/quarter
    """
    from wellread.retrieval.chunk_database import ChunkDatabase
    from wellread.retrieval.chunks import ChunkTexts
    from wellread.retrieval.neighbours import NeighbourOptions, find_neighbours

    start = time.perf_counter()
    options = NeighbourOptions(**options)
    found = find_neighbours(ChunkTexts.open(chunks), ChunkDatabase.open(database), out, options)
    result = {**_found(found), "seconds": round(time.perf_counter() - start, 1), "out": str(out)}
    emit(result, as_json, _told("{chunks:,} chunks at {out}", result))


@command.command()
@click.argument("corpus", type=FOLDER)
@_cut_options
@click.option("--split", "splits", multiple=True, help="Split whose chunks are the database; all documents by default.")
@click.option("--other", "others", multiple=True, help="Further split whose chunks look for neighbours; repeatable.")
@_key_options
@_index_options
@_find_options
@click.option("--out", required=True, type=FOLDER, help="Folder of the whole.")
@json_option
def build(
    corpus: Path,
    out: Path,
    as_json: bool,
    splits: tuple[str, ...],
    others: tuple[str, ...],
    chunk_tokens: int,
    storage: str,
    code: str,
    lists: int,
    shard_rows: int,
    k: int,
    probes: int,
    sample: int,
    seed: int,
    **options: Any,
) -> None:
    """From CORPUS to neighbour lists in one command: cut, index, neighbours.

    Writes OUT/database with OUT/database/neighbours, and OUT/SPLIT with OUT/SPLIT/neighbours for every --other split.
    Chunks never find their own document.

    \b
    Example:
      wellread chunks build corpus --tokenizer tokenizer --split train --other valid --out chunks
    """
    from wellread.corpus.store import Corpus
    from wellread.retrieval.chunk_index import IndexOptions
    from wellread.retrieval.neighbours import NeighbourOptions, build_neighbours

    start = time.perf_counter()
    encoder = {name: options.pop(name) for name in ("encoder", "layers", "rarity", "unit", "precision")}
    passages = Corpus.open(corpus)
    found = build_neighbours(
        _opener(passages, options),
        out,
        tokenizer=_tokenizer(passages, splits, options),
        database=splits,
        others=others,
        encoder=_encoder(encoder),
        chunk_tokens=chunk_tokens,
        storage=storage,
        index=IndexOptions(code, lists, shard_rows, seed),
        options=NeighbourOptions(k=k, probes=probes, sample=sample, seed=seed),
        made_of=_made_of(passages, options),
    )
    rows = {name: _found(lists) for name, lists in found.items()}
    seconds = round(time.perf_counter() - start, 1)
    result = {"out": str(out), "parts": rows, "seconds": seconds, "bytes": _bytes(out)}
    lines = [_told(f"{out / name}: {{chunks:,}} chunks", row) for name, row in rows.items()]
    emit(result, as_json, "\n".join([*lines, f"{seconds} s, {result['bytes'] / 2**20:.1f} MiB"]))


@command.command()
@click.argument("chunks", type=FOLDER)
@click.option("--database", required=True, type=FOLDER, help="Chunks that the neighbours come from.")
@click.option("--lists", type=FOLDER, help="Folder of the neighbour lists; CHUNKS/neighbours by default.")
@click.option("-k", "--neighbours", "k", type=POSITIVE, help="Only the first k neighbours; all by default.")
@click.option("--out", type=FOLDER, help="File (.npy) for the share of every chunk, [chunks] float32.")
@json_option
def overlap(chunks: Path, database: Path, lists: Path | None, k: int | None, out: Path | None, as_json: bool) -> None:
    """How much of CHUNKS is in their neighbours: the longest run of tokens in common, as a share of the chunk.

    Neighbours of another vocabulary are tokenised anew with that of CHUNKS.

    \b
    Example:
      wellread chunks overlap chunks/valid --database chunks/database --out overlap.npy
    """
    import numpy as np

    from wellread.bars import progress_bar
    from wellread.retrieval.chunks import ChunkTexts
    from wellread.retrieval.neighbours import Neighbours
    from wellread.texts import NeighbourTexts

    words, lists = ChunkTexts.open(chunks).tokenizer, lists or chunks / "neighbours"
    source = NeighbourTexts.open(chunks, lists, database, tokenizer=words, k=k or Neighbours.open(lists).k)
    parts = range(0, source.texts.num_chunks, OVERLAPPED)
    numbers = np.arange(source.texts.num_chunks)
    found = [source.overlap(numbers[first : first + OVERLAPPED]) for first in progress_bar(parts, desc="overlap")]
    shares = np.concatenate(found)
    if out is not None:
        np.save(out, shares)
    at_most = {f"{bound:g}": round(float((shares <= bound).mean()), 4) for bound in BOUNDS}
    result = {"chunks": len(shares), "k": source.k, "mean": round(float(shares.mean()), 4), "at_most": at_most}
    human = f"{len(shares):,} chunks, mean share {result['mean']:.1%}; " + ", ".join(
        f"{share:.1%} of them at most {bound}" for bound, share in at_most.items()
    )
    emit(result, as_json, human)


def _tokenizer(passages: Corpus, splits: tuple[str, ...], options: dict[str, Any]) -> Tokenizer:
    """The tokenizer that was asked for, learnt first where it has to be."""
    from wellread.nn.tokenizers import TOKENIZER_FILE, Tokenizer, train_tokenizer
    from wellread.retrieval.chunk_keys import encoder_folder

    name, size = options["tokenizer"], options["learn_tokenizer"]
    if size is None:
        return Tokenizer.load(encoder_folder() if name == "default" else name)
    if name == "default":
        raise ValueError("--learn-tokenizer needs --tokenizer FOLDER, where what is learnt is kept.")
    if not (Path(name) / TOKENIZER_FILE).is_file():
        say(f"learning a vocabulary of {size} from the texts")
        train_tokenizer((item.text for item in _opener(passages, options)(splits)), size, kind="bytes").save(name)
    return Tokenizer.load(name)


def _opener(passages: Corpus, options: dict[str, Any]) -> Callable[[Iterable[str]], Iterable[Document]]:
    """Splits -> their documents, from the start."""
    from wellread.retrieval.chunks import documents_of

    return lambda splits: islice(documents_of(passages, splits=tuple(splits)), options["documents"])


def _made_of(passages: Corpus, options: dict[str, Any]) -> dict[str, Any]:
    first = {} if options["documents"] is None else {"first_documents": options["documents"]}
    return {"corpus": passages.fingerprint, **first}


def _encoder(options: dict[str, Any]) -> Any:
    from wellread.retrieval.chunk_keys import ChunkEncoder

    return ChunkEncoder(options.pop("encoder"), **options)


def _facts(texts: ChunkTexts) -> dict[str, Any]:
    return {
        "documents": texts.num_documents,
        "chunks": texts.num_chunks,
        "tokens": texts.num_tokens,
        "chunk_tokens": texts.chunk_tokens,
        "fingerprint": texts.fingerprint,
    }


def _found(lists: Neighbours) -> dict[str, Any]:
    names = ("share", "limit", "recall", "recall_sample")
    facts = {name: lists.info[name] for name in names if name in lists.info}
    return {"chunks": len(lists), "k": lists.k, **facts, "search_seconds": lists.info["seconds"]}


def _told(text: str, row: dict[str, Any]) -> str:
    text += ", {k} neighbours each in {search_seconds} s"
    return (text + (", {recall:.1%} of the exactly nearest among them" if "recall" in row else "")).format(**row)


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
