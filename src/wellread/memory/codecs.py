"""States to bytes and back: bf16, int8 with a scale per token, product quantisation 8 and 16 times smaller.

Every codec is made by `fit` from a sample of states (only product quantisation looks at its values), writes
`bytes_per_token` bytes for a token, and decodes on the device its codes are on.

Product quantisation: H. Jegou, M. Douze, C. Schmid, "Product quantization for nearest neighbor search", 2011;
for token memories: Y. Zemlyanskiy et al., "MEMORY-VQ: Compression for Tractable Internet-Scale Memory", 2023.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from wellread.nn.kmeans import assign, kmeans
from wellread.registry import Registry

__all__ = ["CODECS", "Bf16", "Codec", "Int8", "ProductQuantiser", "ProductQuantiser8", "ProductQuantiser16"]

CODECS = Registry(
    "codec",
    {
        "bf16": "wellread.memory.codecs:Bf16",
        "int8": "wellread.memory.codecs:Int8",
        "pq8": "wellread.memory.codecs:ProductQuantiser8",
        "pq16": "wellread.memory.codecs:ProductQuantiser16",
    },
)


class Codec(ABC):
    """The face of every codec. dim: width of a state. bytes_per_token: width of its code."""

    name: ClassVar[str]
    needs_sample: ClassVar[bool] = False  # whether `fit` looks at the values of its sample
    compressible: ClassVar[bool] = False  # whether general compression of the codes saves anything

    dim: int
    bytes_per_token: int

    @classmethod
    @abstractmethod
    def fit(cls, sample: Tensor, seed: int = 0) -> Codec:
        """A codec for states like the sample, [n, dim] float with n >= 1. Same sample and seed, same codec."""

    @classmethod
    @abstractmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], dim: int) -> Codec:
        """The codec that `to_tensors` wrote down. ValueError if the tensors do not fit `dim`."""

    @abstractmethod
    def to_tensors(self) -> dict[str, Tensor]:
        """The tables of the codec, by name; empty where it has none."""

    @abstractmethod
    def encode(self, states: Tensor) -> Tensor:
        """Codes of states: [n, dim] float -> [n, bytes_per_token] uint8."""

    @abstractmethod
    def decode(self, codes: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """States of codes: [n, bytes_per_token] uint8 -> [n, dim] of `dtype`."""

    def error(self, sample: Tensor) -> dict[str, float]:
        """What the codec loses on a sample [n, dim].

        relative_l2: norm of the error over norm of the states, over the whole sample. cosine: mean cosine of
        a state and its copy.
        """
        before = sample.float()
        after = self.decode(self.encode(sample))
        relative = (after - before).norm() / before.norm().clamp_min(torch.finfo(torch.float32).tiny)
        cosine = torch.nn.functional.cosine_similarity(before, after, dim=-1).mean()
        return {"relative_l2": relative.item(), "cosine": cosine.item()}

    def _check(self, values: Tensor, width: int, what: str) -> None:
        if values.dim() != 2 or values.shape[1] != width:
            raise ValueError(
                f"{what} have shape {tuple(values.shape)}; codec {self.name} takes [n, {width}]. "
                "Encode with the model the codec was fitted for."
            )


class Bf16(Codec):
    """States as bfloat16: two bytes per number, no loss beyond rounding to 8 bits of mantissa."""

    name = "bf16"
    compressible = True  # the exponents repeat: about 0.8 times the size

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.bytes_per_token = 2 * dim

    @classmethod
    def fit(cls, sample: Tensor, seed: int = 0) -> Bf16:
        return cls(sample.shape[1])

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], dim: int) -> Bf16:
        return cls(dim)

    def to_tensors(self) -> dict[str, Tensor]:
        return {}

    def encode(self, states: Tensor) -> Tensor:
        self._check(states, self.dim, "states")
        return states.to(torch.bfloat16).contiguous().view(torch.uint8)

    def decode(self, codes: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        self._check(codes, self.bytes_per_token, "codes")
        return codes.contiguous().view(torch.bfloat16).to(dtype)


class Int8(Codec):
    """States as int8 with one bfloat16 scale per token: dim + 2 bytes."""

    name = "int8"

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.bytes_per_token = dim + 2

    @classmethod
    def fit(cls, sample: Tensor, seed: int = 0) -> Int8:
        return cls(sample.shape[1])

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], dim: int) -> Int8:
        return cls(dim)

    def to_tensors(self) -> dict[str, Tensor]:
        return {}

    def encode(self, states: Tensor) -> Tensor:
        self._check(states, self.dim, "states")
        states = states.float()
        scale = states.abs().amax(1, keepdim=True) / 127
        # Rounded up to bfloat16 (the upper half of the bits), so that the largest number never passes 127.
        bits = (scale.contiguous().view(torch.int32) + 0xFFFF) & ~0xFFFF
        scale = bits.view(torch.float32)
        codes = (states / scale.where(scale > 0, 1.0)).round().to(torch.int8)
        ends = scale.flatten().to(torch.bfloat16).view(torch.uint8).view(-1, 2)
        return torch.cat([codes.view(torch.uint8), ends], 1)

    def decode(self, codes: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        self._check(codes, self.bytes_per_token, "codes")
        # A clone starts at an even address whatever dim is, which a view as two-byte numbers needs.
        scale = codes[:, self.dim :].clone(memory_format=torch.contiguous_format).view(torch.bfloat16).float()
        return codes[:, : self.dim].view(torch.int8).mul(scale).to(dtype)


class ProductQuantiser(Codec):
    """Each run of `group` neighbouring dimensions becomes one byte: the nearest of 256 learned centroids.

    Dimensions are normalised to mean 0 and deviation 1 before the centroids are learned, because a few carry
    values twenty times the mean and would take all centroids. The normalisation is folded into the stored
    centroids, so that decoding is one gather. A last group that dim does not fill is padded with zeros.
    """

    group: ClassVar[int]
    needs_sample = True
    centroids = 256
    iterations = 15

    def __init__(self, mean: Tensor, deviation: Tensor, table: Tensor) -> None:
        """mean, deviation: [dim]. table: [groups, 256, group], centroids of normalised states."""
        self.dim = len(mean)
        self.groups = self.bytes_per_token = len(table)
        self.mean, self.deviation, self.table = mean, deviation, table
        unfolded = table * self._fill(deviation, 1.0).view(self.groups, 1, -1)
        unfolded = unfolded + self._fill(mean, 0.0).view(self.groups, 1, -1)
        self._gather = unfolded.reshape(-1, self.group)
        self._offset = torch.arange(self.groups, dtype=torch.int32) * self.centroids

    def _fill(self, row: Tensor, value: float) -> Tensor:
        return torch.nn.functional.pad(row, (0, self.groups * self.group - self.dim), value=value)

    @classmethod
    def fit(cls, sample: Tensor, seed: int = 0) -> ProductQuantiser:
        sample = sample.float().cpu()
        mean = sample.mean(0)
        deviation = sample.std(0, correction=0)
        deviation = deviation.where(deviation > 1e-6 * (1 + mean.abs()), 1.0)
        generator = torch.Generator().manual_seed(seed)
        tables = []
        for start in range(0, sample.shape[1], cls.group):
            part = slice(start, start + cls.group)
            vectors = (sample[:, part] - mean[part]) / deviation[part]
            vectors = torch.nn.functional.pad(vectors, (0, cls.group - vectors.shape[1])).contiguous()
            tables.append(kmeans(vectors, cls.centroids, iterations=cls.iterations, generator=generator))
        return cls(mean, deviation, torch.stack(tables))

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], dim: int) -> ProductQuantiser:
        shapes = {name: tuple(tensor.shape) for name, tensor in sorted(tensors.items())}
        groups = -(-dim // cls.group)
        wanted = {"deviation": (dim,), "mean": (dim,), "table": (groups, cls.centroids, cls.group)}
        if shapes != wanted:
            raise ValueError(
                f"codec tables have shapes {shapes}; {cls.name} of dim={dim} has {wanted}. "
                "Take codec.safetensors from the same build as memory.json."
            )
        return cls(tensors["mean"], tensors["deviation"], tensors["table"])

    def to_tensors(self) -> dict[str, Tensor]:
        return {"mean": self.mean, "deviation": self.deviation, "table": self.table}

    def encode(self, states: Tensor) -> Tensor:
        self._check(states, self.dim, "states")
        device = states.device
        normal = (states.float() - self.mean.to(device)) / self.deviation.to(device)
        normal = torch.nn.functional.pad(normal, (0, self.groups * self.group - self.dim))
        codes = torch.empty(len(states), self.groups, dtype=torch.uint8, device=device)
        table = self.table.to(device)
        for index in range(self.groups):
            vectors = normal[:, index * self.group : (index + 1) * self.group].contiguous()
            codes[:, index] = assign(vectors, table[index]).to(torch.uint8)
        return codes

    def decode(self, codes: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        self._check(codes, self.bytes_per_token, "codes")
        rows = (codes.int() + self._offset.to(codes.device)).view(-1)
        states = self._gather.to(codes.device, dtype).index_select(0, rows).view(len(codes), self.groups * self.group)
        return states[:, : self.dim]


class ProductQuantiser8(ProductQuantiser):
    """dim / 4 bytes per token, 8 times smaller than bf16."""

    name = "pq8"
    group = 4


class ProductQuantiser16(ProductQuantiser):
    """dim / 8 bytes per token, 16 times smaller than bf16."""

    name = "pq16"
    group = 8
