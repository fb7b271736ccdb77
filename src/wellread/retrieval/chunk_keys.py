"""Keys of chunks: the mean of a frozen BERT's states over a chunk's tokens (Borgeaud et al. 2022, section 2.2).

The text of a chunk is tokenised anew for the encoder, unless the chunks were cut with the encoder's own tokenizer;
[CLS] and [SEP] are put around it and count in the mean. Fewer layers cost less: `layers` says after which one the
states are taken. Keys get length 1, unlike the paper's, where `unit`: sentence encoders are trained to be compared
that way, and find better so.

Beyond the paper: with `rarity` = a > 0 the mean is weighted by a / (a + p(token)) and the mean of all keys is taken
away (Arora et al. 2017, "A simple but tough-to-beat baseline for sentence embeddings", with the mean in place of the
first component). With layers=0 the states are the encoder's word states without positions: a table, far faster.

Folder of the keys of a ChunkTexts, inside its folder: keys/{keys.json, keys.bin, scales.bin with int8, rarity.npz}.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wellread.bars import progress_bar
from wellread.config import require
from wellread.locking import locked
from wellread.retrieval.blocks import Blocks, different, read_json, write_json
from wellread.retrieval.chunks import ChunkTexts
from wellread.retrieval.encoders import DEFAULT_ENCODER, batches_by_length, packaged_folder, require_package

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["KEYS", "STORAGES", "ChunkEncoder", "Keys", "encoder_folder", "write_keys"]

KEYS = "keys"
MANIFEST = "keys.json"
BLOCK = 2048  # chunks between two safe points: half a minute of a small encoder on one core
BATCH = 32
FITTED = 1000  # chunks that the mean of the keys is learnt from where encoding takes layers
RARITY = "rarity.npz"
PRECISIONS = ("bf16", "fp32")
COMMAND = "wellread chunks index"


class ChunkEncoder:
    """A frozen BERT-family encoder that turns chunks into keys, [dim] float32 each.

    name: all-MiniLM-L6-v2 (from its pip package), or a model folder in hub layout. layers: states are taken after
    this many; None for all, 0 for word states alone. rarity: how steeply frequent tokens count less, 0 for a plain
    mean; the encoder then learns the frequencies with `fit` before it is used. unit: keys have length 1, so that
    squared distances are 2 - 2 cosine; False for plain means. precision: "bf16" or "fp32" of the computation; keys
    differ in the third digit.
    """

    def __init__(
        self,
        name: str = DEFAULT_ENCODER,
        *,
        layers: int | None = None,
        rarity: float = 0.0,
        unit: bool = True,
        precision: str = "bf16",
    ) -> None:
        import torch

        from wellread.nn.bert import BertEncoder
        from wellread.nn.tokenizers import Tokenizer

        require(precision in PRECISIONS, f"precision={precision!r} is unknown; use one of: {', '.join(PRECISIONS)}.")
        folder = encoder_folder(name)
        self.net = BertEncoder.from_hub(folder).eval().requires_grad_(False)
        most = self.net.num_layers
        require(layers is None or 0 <= layers <= most, f"layers={layers}; {name} has {most}: use 0 to {most}.")
        require(rarity >= 0, f"rarity={rarity} is negative; it must be 0 (plain mean) or more, such as 1e-4.")
        self.name, self.rarity, self.unit, self.precision = name, rarity, unit, precision
        self._weights: np.ndarray | None = None
        self._centre: np.ndarray | None = None
        self.layers = most if layers is None else layers
        self.net.to({"bf16": torch.bfloat16, "fp32": torch.float32}[precision])
        self.tokenizer = Tokenizer.load(folder)
        require(self.tokenizer.cls is not None, f"{name} has no [CLS]; keys need a BERT-family encoder.")

    @property
    def dim(self) -> int:
        return self.net.dim

    @property
    def made_with(self) -> dict[str, Any]:
        """What decides its keys, by name."""
        names = ("layers", "rarity", "unit", "precision")
        options = {name: getattr(self, name) for name in names}
        return {"encoder": self.name, **options, "encoder_fingerprint": self.fingerprint}

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change with the weights that count, the tokenizer, the options and what `fit` learnt."""
        options = f"{self.layers} {self.rarity} {self.unit} {self.precision} {self.tokenizer.fingerprint}"
        digest = hashlib.blake2b(options.encode(), digest_size=8)
        digest.update(self._net_digest)
        for learnt in (self._weights, self._centre):
            digest.update(b"" if learnt is None else learnt.tobytes())
        return digest.hexdigest()

    @cached_property
    def _net_digest(self) -> bytes:
        digest = hashlib.blake2b()
        parts = self.net.modules_below(self.layers)
        for weight in (weight for part in parts for weight in part.parameters()):
            digest.update(weight.detach().float().cpu().numpy().tobytes())
        return digest.digest()

    def fit(self, texts: ChunkTexts, *, sample: int = 20000, seed: int = 0) -> ChunkEncoder:
        """Learn how frequent tokens are, and the mean of the keys, from chunks drawn with `seed`; returns itself.

        Without `rarity` there is nothing to learn.
        """
        if not self.rarity:
            return self
        draw = np.random.default_rng(seed)
        chunks = np.sort(draw.choice(texts.num_chunks, min(sample, texts.num_chunks), replace=False))
        rows = self.tokenizer.encode_batch([texts.chunk_text(int(chunk)) for chunk in chunks])
        counts = np.bincount(np.concatenate([np.asarray(row, np.int64) for row in rows]), minlength=self.net.vocab_size)
        self._weights = (self.rarity / (self.rarity + counts / max(1, counts.sum()))).astype(np.float32)
        self._centre = np.zeros(self.dim, np.float32)
        self._centre = self._means(rows if not self.layers else rows[:: 1 + len(rows) // FITTED]).mean(0)
        return self

    def save(self, path: Path) -> None:
        """Keep what `fit` learnt."""
        if self.rarity:
            np.savez(path / RARITY, weights=self._weights, centre=self._centre)

    def load(self, path: Path) -> ChunkEncoder:
        """Take what `fit` learnt from where `save` kept it; returns itself."""
        if self.rarity:
            learnt = np.load(path / RARITY)
            self._weights, self._centre = learnt["weights"], learnt["centre"]
        return self

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """The keys of texts, [texts, dim] float32."""
        return self.encode_tokens(self.tokenizer.encode_batch(texts))

    def encode_tokens(self, rows: Sequence[Sequence[int]]) -> np.ndarray:
        """The keys of texts given as the encoder's tokens without special ones. Rows of alike length go together."""
        if self.rarity and self._centre is None:
            raise ValueError(f"rarity={self.rarity}, but frequencies were not learnt; call fit(texts) first.")
        keys = self._means(rows)
        if self._centre is not None:
            keys -= self._centre
        return keys / np.maximum(np.linalg.norm(keys, axis=1, keepdims=True), 1e-12) if self.unit else keys

    def _means(self, rows: Sequence[Sequence[int]]) -> np.ndarray:
        """(Weighted) means of the states, [rows, dim] float32."""
        import torch

        keys = np.empty((len(rows), self.dim), np.float32)
        mean = self._mean if self.layers else self._word_mean
        with torch.inference_mode():
            for batch in batches_by_length(rows, BATCH):
                keys[batch] = mean([rows[row] for row in batch]).cpu().numpy()
        return keys

    def _mean(self, rows: Sequence[Sequence[int]]) -> Tensor:
        import torch

        from wellread.nn.mean_states import mean_states

        most = self.net.config.max_positions - 2
        weights = None if self._weights is None else torch.from_numpy(self._weights)
        return mean_states(self.net, self.tokenizer, [row[:most] for row in rows], layers=self.layers, weights=weights)

    @cached_property
    def _words(self) -> Tensor:
        """The state of every token before the first layer, less its position: [vocab, dim] float32."""
        placing = self.net.placing
        return placing.norm(self.net.embed_tokens.weight + placing.segments.weight[0]).float()

    def _word_mean(self, rows: Sequence[Sequence[int]]) -> Tensor:
        import torch

        device = self._words.device
        tokens = torch.tensor([token for row in rows for token in row], dtype=torch.int64, device=device)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        weights = torch.ones(len(tokens), device=device)
        if self._weights is not None:
            weights = torch.from_numpy(self._weights).to(device)[tokens]
        starts = lengths.cumsum(0) - lengths
        bag = torch.nn.functional.embedding_bag
        total = bag(tokens, self._words, starts, mode="sum", per_sample_weights=weights)
        shares = bag(tokens, torch.ones_like(self._words[:, :1]), starts, mode="sum", per_sample_weights=weights)
        return total / shares.clamp_min(1e-12)


def encoder_folder(name: str = DEFAULT_ENCODER) -> Path:
    """Where the weights of an encoder are. ValueError where there are none."""
    if name != DEFAULT_ENCODER:
        require(Path(name).is_dir(), f"encoder {name!r} is no folder; give one in hub layout, or {DEFAULT_ENCODER}.")
        return Path(name)
    require_package(name)
    return packaged_folder()


def _as_float16(keys: np.ndarray) -> dict[str, np.ndarray]:
    return {"keys": keys.astype(np.float16)}


def _as_int8(keys: np.ndarray) -> dict[str, np.ndarray]:
    scales = np.maximum(np.abs(keys).max(1), 1e-12) / 127
    return {"keys": np.rint(keys / scales[:, None]).astype(np.int8), "scales": scales.astype(np.float32)}


# How keys are stored -> float32 keys as the arrays of a block.
STORAGES: dict[str, Callable[[np.ndarray], dict[str, np.ndarray]]] = {"float16": _as_float16, "int8": _as_int8}


class Keys:
    """Stored keys, [chunks, dim], memory-mapped; indexing gives float32."""

    def __init__(self, path: Path, info: dict[str, Any]) -> None:
        self.path, self.info = path, info
        self.fingerprint: str = info["fingerprint"]
        files = {name: (path / f"{name}.bin", item) for name, item in info["arrays"].items()}
        mapped = {
            name: np.memmap(file, item["type"], "r", shape=tuple(item["shape"])) for name, (file, item) in files.items()
        }
        self._keys, self._scales = mapped["keys"], mapped.get("scales")

    @classmethod
    def open(cls, folder: str | Path) -> Keys:
        """The keys of the chunks in a folder. ValueError where there are none or they are damaged."""
        path = Path(folder) / KEYS
        info = read_json(path / MANIFEST, "keys", COMMAND)
        try:
            return cls(path, info)
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"keys {path} are damaged ({error}); remove them and run `{COMMAND}` again.") from error

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def dim(self) -> int:
        return self._keys.shape[1]

    def __getitem__(self, rows: Any) -> np.ndarray:
        """The keys of chunk numbers or of a slice, float32."""
        keys = self._keys[rows].astype(np.float32)
        return keys if self._scales is None else keys * self._scales[rows][..., None]

    def encoder(self) -> ChunkEncoder:
        """The encoder they were made with. ValueError where it has changed since."""
        options = {name: self.info[name] for name in ("layers", "rarity", "unit", "precision")}
        made = ChunkEncoder(self.info["encoder"], **options).load(self.path)
        if made.fingerprint != self.info["encoder_fingerprint"]:
            raise ValueError(
                f"encoder {made.name!r} is not the one that {self.path} was made with ({made.fingerprint}, not "
                f"{self.info['encoder_fingerprint']}); give its folder back, or make the keys again."
            )
        return made


def write_keys(texts: ChunkTexts, encoder: ChunkEncoder, *, storage: str = "float16") -> Keys:
    """Encode every chunk into the folder of its texts, in bounded memory; called again after a kill, it goes on.

    Batches are the same however often it was stopped, so the keys are too. ValueError where there are keys of
    another encoder, layer, precision or storage.
    """
    require(storage in STORAGES, f"storage={storage!r} is unknown; use one of: {', '.join(STORAGES)}.")
    path = texts.path / KEYS
    made_with = {"texts": texts.fingerprint, **encoder.made_with, "storage": storage}
    with locked(path, make=True):
        if (path / MANIFEST).is_file():
            info = read_json(path / MANIFEST, "keys", COMMAND)
            there = {name: info.get(name) for name in made_with}
            require(there == made_with, f"{path} holds keys of {different(there, made_with)}; {AGAIN}")
            return Keys.open(texts.path)
        names = tuple(STORAGES[storage](np.zeros((1, encoder.dim), np.float32)))
        blocks = Blocks(path, made_with, names, suffix="bin", fixed=True)
        encoder.save(path)
        seconds = _fill(blocks, texts, encoder, storage)
        fingerprint = hashlib.blake2b(str(sorted(made_with.items())).encode(), digest_size=16).hexdigest()
        info = {**made_with, "fingerprint": fingerprint, "seconds": round(seconds, 1), "arrays": blocks.described()}
        write_json(path / MANIFEST, info)
        blocks.record.unlink()
    return Keys.open(texts.path)


AGAIN = "give the same again, or remove that folder to make them anew."


def _fill(blocks: Blocks, texts: ChunkTexts, encoder: ChunkEncoder, storage: str) -> float:
    """Encode the chunks that have no key yet; returns the seconds it took."""
    own = texts.tokenizer_fingerprint == encoder.tokenizer.fingerprint
    start, before = time.perf_counter(), blocks.rows("keys")
    with progress_bar(desc="keys", unit=" chunks", total=texts.num_chunks, initial=before) as bar:
        for first in range(before, texts.num_chunks, BLOCK):
            numbers = range(first, min(first + BLOCK, texts.num_chunks))
            if own:
                keys = encoder.encode_tokens([texts.chunk(number).tolist() for number in numbers])
            else:
                keys = encoder.encode([texts.chunk_text(number) for number in numbers])
            blocks.append(str(first), **STORAGES[storage](keys))
            bar.update(len(numbers))
    return time.perf_counter() - start
