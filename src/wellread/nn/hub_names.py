"""Names of a net's weights, the hub's <-> ours, by tables of what stands outside its layers and inside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["HubNames"]


@dataclass(frozen=True)
class HubNames:
    """outer, inner: the hub's name -> ours, outside the layers and inside each of them, without the last word (weight,
    bias). layers: what the hub's names of layers begin with; ours begin with "layers."."""

    outer: Mapping[str, str]
    inner: Mapping[str, str]
    layers: str

    def ours(self, name: str) -> str | None:
        """Our name for one of the hub's; None where we have none."""
        stem, _, kind = name.rpartition(".")
        if stem in self.outer:
            return f"{self.outer[stem]}.{kind}"
        number, _, inner = stem.removeprefix(self.layers).partition(".")
        if inner in self.inner and number.isdigit():
            return f"layers.{number}.{self.inner[inner]}.{kind}"
        return None

    def hubs(self, name: str) -> str:
        """The hub's name for one of ours."""
        stem, _, kind = name.rpartition(".")
        outer = {ours: theirs for theirs, ours in self.outer.items()}
        if stem in outer:
            return f"{outer[stem]}.{kind}"
        inner = {ours: theirs for theirs, ours in self.inner.items()}
        _, number, rest = stem.split(".", 2)
        return f"{self.layers}{number}.{inner[rest]}.{kind}"
