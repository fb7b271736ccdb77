"""A memory is read only by the model it was made with, as far as that model cares."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from wellread.memory.fingerprint import Fingerprint, check

FIRST = Fingerprint("aaa", "bbb", "4 of 6", "{title}: {text}", "100 words")


@pytest.mark.parametrize("name", [item.name for item in fields(Fingerprint)])
def test_every_part_is_compared(name: str) -> None:
    other = replace(FIRST, **{name: "other"})
    assert FIRST.difference(other) == [name]
    told = rf"{name} is '.*' in the memory and 'other' in the model.*Memorize.*again"
    if name == "cutting":  # the corpus differs, not the model
        told = r"the memory's corpus was cut by '100 words', this one by 'other'; cut it as the first one was"
    with pytest.raises(ValueError, match=told):
        check(FIRST, other)


def test_needed_parts_only() -> None:
    other = replace(FIRST, encoder="zzz", cut="2 of 6")
    check(FIRST, other, {"tokenizer", "template"})
    assert FIRST.difference(other, {"tokenizer", "cut"}) == ["cut"]
    assert FIRST.difference(other, ()) == []
    assert FIRST.difference(FIRST) == []


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"needed=\['layers'\] is unknown; parts .* encoder, tokenizer"):
        FIRST.difference(FIRST, {"layers"})
    with pytest.raises(ValueError, match=r"fingerprint cut=4 is int; it must be text"):
        Fingerprint("a", "b", 4, "d", "e")
