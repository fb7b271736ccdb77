"""memorize: passages -> memory, streaming in bounded memory and resumable after a kill."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import pyarrow as pa
import torch
from safetensors.torch import save
from torch import Tensor

from wellread.bars import Bar, progress_bar
from wellread.locking import locked
from wellread.memory import rows, table
from wellread.memory.codecs import CODECS, Codec
from wellread.memory.fingerprint import Fingerprint
from wellread.memory.manifest import (
    CODEC_FILE,
    MANIFEST_FILE,
    TABLE,
    BuildOptions,
    Manifest,
    file_sum,
    now,
    write_atomically,
    writing,
)
from wellread.memory.rows import Encoded, batched
from wellread.memory.store import load_codec
from wellread.types import Passage

__all__ = ["Encode", "MemorizeReport", "encode_rows", "memorize"]

Encode = Callable[[list[Passage]], Sequence[Encoded]]

_COMMIT_BYTES = 64 << 20  # rows held in memory between two commits, where the caller does not say
_COMMIT_MOST = 4096  # passages: two minutes of work of a small encoder on one core
_CHUNK = 8  # batches whose passages are sorted by length together
_SWEEP_EVERY = 64  # commits; each leaves a list of all files behind


@dataclass(frozen=True, slots=True)
class MemorizeReport:
    """What a build did. bytes: of the whole memory on disk. resumed_from: passages that were already stored.
    passages_per_second: of those encoded in this run."""

    passages: int
    tokens: int
    bytes: int
    seconds: float
    passages_per_second: float
    resumed_from: int


def memorize(
    passages: Iterable[Passage],
    encode: Encode,
    out: str | Path,
    *,
    fingerprint: Fingerprint,
    dim: int | None,
    codec: str = "int8",
    batch_size: int = 32,
    commit_every: int | None = None,
    sample_tokens: int = 65536,
    total: int | None = None,
    progress: bool = True,
    seed: int = 0,
    precision: str | None = None,
) -> MemorizeReport:
    """Read passages with `encode` and keep the result in the directory `out`.

    passages: a list or anything else that can be iterated from the start again; ids are unique.
    encode: up to `batch_size` passages -> what is remembered of each, in order. dim: width of the states it
    gives, None if it gives none (`codec` then plays no part). commit_every: passages between two commits,
    rounded up to full batches; None takes about 64 MB. sample_tokens: states a learned codec is fitted on,
    from passages drawn with `seed`. total: number of passages, for the bar, where `len` does not tell.
    precision: that `encode` computes in ("fp32", "bf16"); a build is not gone on with in another.

    Called again with the same arguments after a kill, it goes on behind the last commit; passages are always
    batched alike, so the result has the same `Memory.content_hash` as an unbroken build. ValueError if `out`
    holds a memory of another model, codec, corpus or other options; OSError if `out` cannot be written.
    """
    directory = Path(out)
    _check_arguments(passages, batch_size, commit_every, sample_tokens)
    codec = CODECS[codec].name if dim is not None else "none"
    _check_place(directory)
    start = time.perf_counter()
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    with locked(directory), torch.no_grad():
        options = BuildOptions(batch_size, commit_every or 0, sample_tokens, seed, precision)
        if (directory / MANIFEST_FILE).exists():
            manifest = _resume(directory, fingerprint, codec, dim, options)
        else:
            manifest = _begin(passages, encode, directory, fingerprint, codec, dim, options)
        resumed_from = manifest.passages
        if total is None and hasattr(passages, "__len__"):
            total = len(passages)
        with progress_bar(total=total, initial=resumed_from, unit="passage", shown=progress) as bar:
            manifest = _fill(iter(passages), encode, directory, manifest, bar)
    seconds = time.perf_counter() - start
    rate = (manifest.passages - resumed_from) / seconds
    return MemorizeReport(
        manifest.passages, manifest.tokens, manifest.data_bytes, round(seconds, 3), round(rate, 2), resumed_from
    )


def _check_arguments(passages: object, batch_size: int, commit_every: int | None, sample_tokens: int) -> None:
    if iter(passages) is passages:
        raise ValueError(
            f"passages is a {type(passages).__name__}, which can be read only once; resuming starts from the "
            "first passage again, so give a list or an object that opens its source in __iter__."
        )
    for name, value in (
        ("batch_size", batch_size),
        ("commit_every", commit_every),
        ("sample_tokens", sample_tokens),
    ):
        if value is not None and value < 1:
            raise ValueError(f"{name}={value}; it must be at least 1.")


def _check_place(directory: Path) -> None:
    """ValueError where the directory holds something else than a memory, or a build that was killed early."""
    if not directory.is_dir() or (directory / MANIFEST_FILE).exists():
        return
    ours = (CODEC_FILE, TABLE, f"{CODEC_FILE}.new", f"{MANIFEST_FILE}.new")
    other = sorted(item.name for item in directory.iterdir() if item.name not in ours and item.name[0] != ".")
    if other:
        raise ValueError(f"{directory} is no memory and holds {other[0]!r}; give a new directory.")


def _begin(
    passages: Iterable[Passage],
    encode: Encode,
    directory: Path,
    fingerprint: Fingerprint,
    codec: str,
    dim: int | None,
    options: BuildOptions,
) -> Manifest:
    """Encode a first sample, fit the codec, and write the manifest of a memory without rows."""
    chosen = _sample(passages, codec, options)
    if not chosen:
        raise ValueError("there are no passages to memorize; the corpus is empty.")
    encoded = _encode_sample(chosen, encode, dim, options)
    fitted, error = _fit(encoded, codec, options.seed)
    key_dim = None if encoded[0].keys is None else encoded[0].keys.shape[-1]
    width = fitted.bytes_per_token if fitted else 0
    commit_every = options.commit_every or _COMMIT_BYTES // _row_bytes(encoded, width)
    if not options.commit_every:
        commit_every = min(max(commit_every, options.batch_size), _COMMIT_MOST)
    full_batches = -(-commit_every // options.batch_size)
    files = {}
    with writing(directory):
        if fitted and fitted.to_tensors():
            write_atomically(directory / CODEC_FILE, save(fitted.to_tensors()))
            files[CODEC_FILE] = file_sum(directory / CODEC_FILE)
        return Manifest(
            codec=codec,
            bytes_per_token=width,
            dim=dim,
            key_dim=key_dim,
            fingerprint=fingerprint,
            build=replace(options, commit_every=full_batches * options.batch_size),
            error=error,
            created=now(),
            changed=now(),
            files=files,
        ).write(directory)


def _sample(passages: Iterable[Passage], codec: str, options: BuildOptions) -> list[Passage]:
    """Passages to look at before the build: the first batch, or a seeded draw from all if the codec learns."""
    if codec not in CODECS or not CODECS[codec].needs_sample:
        return list(islice(passages, options.batch_size))
    # Reservoir sampling (Vitter, algorithm R) reads the corpus once and needs no length; passages shorter
    # than 16 tokens would leave the sample smaller, which does no harm.
    most = max(options.batch_size, options.sample_tokens // 16)
    draw = random.Random(options.seed)
    chosen: list[Passage] = []
    for index, passage in enumerate(passages):
        if index < most:
            chosen.append(passage)
        elif (place := draw.randrange(index + 1)) < most:
            chosen[place] = passage
    draw.shuffle(chosen)
    return chosen


def _encode_sample(chosen: list[Passage], encode: Encode, dim: int | None, options: BuildOptions) -> list[Encoded]:
    encoded: list[Encoded] = []
    states = 0
    for batch in batched(chosen, options.batch_size):
        fresh = _encode(list(batch), encode, dim, "any")
        encoded += fresh
        states += sum(len(item.states) for item in fresh if item.states is not None)
        if states >= options.sample_tokens or dim is None:
            break
    return encoded


def _fit(encoded: list[Encoded], name: str, seed: int) -> tuple[Codec | None, dict[str, float]]:
    """The codec and what it loses, measured on the last eighth of the states, which a learned codec is not
    fitted on."""
    if name == "none":
        return None, {}
    sample = torch.cat([item.states.float().cpu() for item in encoded])
    if not len(sample):
        raise ValueError("the encoder gave no states for the first passages; the codec needs some to look at.")
    split = -(-len(sample) * 7 // 8)
    codec = CODECS[name].fit(sample[:split], seed)
    return codec, {key: round(value, 6) for key, value in codec.error(sample[-max(1, len(sample) // 8) :]).items()}


def _row_bytes(encoded: list[Encoded], width: int) -> int:
    """Mean bytes a passage takes as a row, with 1 KB for its text."""
    states = sum(len(item.states) for item in encoded if item.states is not None)
    tokens = sum(len(item.tokens) for item in encoded)
    return 1024 + (states * width + 4 * tokens) // len(encoded)


def _resume(directory: Path, fingerprint: Fingerprint, codec: str, dim: int | None, options: BuildOptions) -> Manifest:
    """The manifest of a build that was begun with the same arguments, rolled back to its last commit."""
    manifest = Manifest.read(directory)
    if not options.commit_every:
        options = replace(options, commit_every=manifest.build.commit_every)
    else:
        full_batches = -(-options.commit_every // options.batch_size)
        options = replace(options, commit_every=full_batches * options.batch_size)
    if manifest.build.precision is None:  # begun before it was kept: there is nothing to compare with
        options = replace(options, precision=None)
    stored = {"codec": manifest.codec, "dim": manifest.dim, **asdict(manifest.fingerprint)}
    given = {"codec": codec, "dim": dim, **asdict(fingerprint)}
    stored |= asdict(manifest.build)
    given |= asdict(options)
    differing = [f"{name}={given[name]!r} (it has {stored[name]!r})" for name in given if given[name] != stored[name]]
    if differing:
        raise ValueError(
            f"{directory} holds a memory begun with other arguments: {', '.join(differing)}. "
            "Give the same again to continue it, or choose another directory."
        )
    with writing(directory):
        return table.recover(directory, manifest)


def _fill(passages: Iterator[Passage], encode: Encode, directory: Path, manifest: Manifest, bar: Bar) -> Manifest:
    """Encode and commit what is not stored yet."""
    seen = _skip_stored(passages, directory, manifest)
    codec = load_codec(directory, manifest)
    for number, group in enumerate(batched(passages, manifest.build.commit_every), start=1):
        if manifest.complete:
            raise ValueError(
                f"the memory in {directory} is complete with {manifest.passages} passages, but the corpus goes "
                f"on with id={group[0].id!r}; add the new passages with `wellread memory add`."
            )
        for passage in group:
            if passage.id in seen:
                raise ValueError(f"passage id={passage.id!r} comes twice; every passage needs an id of its own.")
            seen.add(passage.id)
        batches = encode_rows(group, encode, codec, manifest, bar)
        with writing(directory):
            manifest = table.commit(directory, manifest, batches)
            if number % _SWEEP_EVERY == 0:
                table.sweep(directory)
    with writing(directory):
        if not manifest.complete:
            manifest = replace(manifest, complete=True).write(directory)
        table.sweep(directory)
    return manifest


def _skip_stored(passages: Iterator[Passage], directory: Path, manifest: Manifest) -> set[str]:
    """Move past the passages that are stored, making sure that they are the same; returns their ids."""
    seen: set[str] = set()
    if not manifest.version:
        return seen
    dataset = table.open_table(directory, manifest.version)
    for batch in dataset.to_batches(columns=list(rows.PASSAGE_COLUMNS), batch_size=1024):
        for stored in rows.passages_of(batch):
            given = next(passages, None)
            if given is None or _words(given) != _words(stored):
                there = "ends there" if given is None else f"has id={given.id!r}, {given.text[:40]!r}"
                raise ValueError(
                    f"row {len(seen)} of the memory in {directory} is id={stored.id!r}, {stored.text[:40]!r}, "
                    f"but the corpus {there}; give the corpus the memory was begun with, or bring the "
                    "memory in line with this one: `wellread memory sync`."
                )
            seen.add(stored.id)
    return seen


def _words(passage: Passage) -> tuple[str, str, str, str]:
    return passage.id, passage.title, passage.text, passage.source


def encode_rows(
    passages: Sequence[Passage], encode: Encode, codec: Codec | None, manifest: Manifest, bar: Bar
) -> list[pa.RecordBatch]:
    """Rows of passages, in their order. Passages of alike length share a batch, within chunks of 8 batches.

    The same passages always give the same batches: which ones are padded together decides the last bits.
    """
    size = manifest.build.batch_size
    columns = rows.schema(key_dim=manifest.key_dim, compressible=bool(codec and codec.compressible))
    batches = []
    for chunk in batched(passages, _CHUNK * size):
        order = sorted(range(len(chunk)), key=lambda index: -len(chunk[index].title) - len(chunk[index].text))
        encoded: list[Encoded | None] = [None] * len(chunk)
        codes: list[bytes | None] = [None] * len(chunk)
        for places in batched(order, size):
            fresh = _encode([chunk[place] for place in places], encode, manifest.dim, manifest.key_dim)
            packed = _codes(fresh, codec)
            for place, item, code in zip(places, fresh, packed):
                encoded[place], codes[place] = replace(item, states=None), code
            bar.update(len(places))
        batches.append(rows.to_batch(chunk, encoded, codes, columns))
    return batches


def _encode(passages: list[Passage], encode: Encode, dim: int | None, key_dim: int | str | None) -> list[Encoded]:
    """What the encoder gives for a batch, checked. key_dim="any": taken from the first passage."""
    encoded = list(encode(passages))
    if len(encoded) != len(passages):
        raise ValueError(f"the encoder gave {len(encoded)} results for {len(passages)} passages; one each, please.")
    if key_dim == "any":
        key_dim = None if encoded[0].keys is None else encoded[0].keys.shape[-1]
    for passage, item in zip(passages, encoded):
        rows.check_encoded(passage, item, dim=dim, key_dim=key_dim)
    return encoded


def _codes(encoded: Sequence[Encoded], codec: Codec | None) -> list[bytes | None]:
    """The states of a batch as bytes, coded together on the device they are on."""
    if codec is None:
        return [None] * len(encoded)
    states: list[Tensor] = [item.states for item in encoded]
    codes = codec.encode(torch.cat(states)).cpu().numpy()
    ends = torch.tensor([len(item) for item in states]).cumsum(0).tolist()
    return [codes[end - len(item) : end].tobytes() for end, item in zip(ends, states)]
