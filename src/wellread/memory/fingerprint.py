"""Which model a memory was made with, and whether another model may read it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields

__all__ = ["Fingerprint", "check"]


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Everything that changes what is stored for a passage.

    encoder: hash of the weights that ran. tokenizer: hash of the tokenizer. cut: the layers memory has run,
    such as "4 of 6". template: text or hash of the template around a passage. cutting: the rule by which
    documents became passages, as text.
    """

    encoder: str
    tokenizer: str
    cut: str
    template: str
    cutting: str

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not isinstance(value, str):
                raise ValueError(f"fingerprint {item.name}={value!r} is {type(value).__name__}; it must be text.")

    def difference(self, other: Fingerprint, needed: Collection[str] | None = None) -> list[str]:
        """Names of the parts that differ, in the order of the fields.

        needed: the parts that matter to the reader; None means all of them. A reader of tokens alone asks
        for tokenizer and template only, and so can read a memory that also holds states.
        """
        names = [item.name for item in fields(self)]
        unknown = sorted(set(needed or ()) - set(names))
        if unknown:
            raise ValueError(f"needed={unknown} is unknown; parts of a fingerprint are: {', '.join(names)}.")
        asked = names if needed is None else [name for name in names if name in needed]
        return [name for name in asked if getattr(self, name) != getattr(other, name)]


def check(memory: Fingerprint, model: Fingerprint, needed: Collection[str] | None = None) -> None:
    """Raise ValueError if the memory was made with another model than the one that wants to read it."""
    differing = memory.difference(model, needed)
    if differing == ["cutting"]:
        raise ValueError(
            f"the memory's corpus was cut by {memory.cutting!r}, this one by {model.cutting!r}; cut it as the "
            "first one was (`wellread corpus` with the same options), or memorize this one anew."
        )
    if differing:
        parts = "; ".join(
            f"{name} is {getattr(memory, name)!r} in the memory and {getattr(model, name)!r} in the model"
            for name in differing
        )
        raise ValueError(
            f"the memory does not fit the model: {parts}. "
            "Memorize the corpus again with this model, or load the model the memory was made with."
        )
