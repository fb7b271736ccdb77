"""The papers' claims as data, and what trains, measures and judges them at small scale."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from wellread.claims.claim import Claim
from wellread.claims.glimmer import GLIMMER
from wellread.claims.lumen import LUMEN
from wellread.claims.realm import REALM
from wellread.claims.reatt import REATT
from wellread.claims.retro import RETRO
from wellread.claims.reveal import REVEAL
from wellread.claims.text_claim import TextClaim

__all__ = ["CLAIMS", "find_claims"]

CLAIMS: dict[str, Claim | TextClaim] = {
    claim.id: claim for claim in (*LUMEN, *GLIMMER, *REATT, *REALM, *RETRO, *REVEAL)
}
"""id -> claim, in the order of the papers."""

ALL = "all"


def find_claims(names: Sequence[str]) -> list[Claim | TextClaim]:
    """The claims that are named: by id, by paper ("lumen"), by paper and places ("lumen", "fig1", "tab1"), or "all".

    A place belongs to the paper named before it. ValueError for a name that stands for nothing, with what to do.
    """
    papers = {claim.paper for claim in CLAIMS.values()}
    places = {tag for claim in CLAIMS.values() for tag in claim.tags}
    found: set[str] = set()
    paper, whole = "", False  # the paper named last, and whether no place followed yet
    for name in [*map(str.lower, names), ""]:
        if name in places:
            found |= _at(paper, name)
            whole = False
            continue
        found |= {claim.id for claim in CLAIMS.values() if whole and claim.paper == paper}
        paper, whole = (name, True) if name in papers else (paper, False)
        if name == ALL or name in CLAIMS:
            found |= set(CLAIMS) if name == ALL else {name}
        elif name and name not in papers:
            close = get_close_matches(name, [*CLAIMS, *papers, *places, ALL], n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"claim {name!r} is unknown; `wellread reproduce` lists them.{hint}")
    return [claim for claim in CLAIMS.values() if claim.id in found]


def _at(paper: str, place: str) -> set[str]:
    """The claims of a paper at a place."""
    if not paper:
        raise ValueError(f"{place} of which paper? Name it first: lumen {place}, or glimmer {place}.")
    found = {claim.id for claim in CLAIMS.values() if claim.paper == paper and place in claim.tags}
    if not found:
        known = sorted({tag for claim in CLAIMS.values() if claim.paper == paper for tag in claim.tags})
        raise ValueError(f"no claim of {paper} stands at {place}; use one of: {', '.join(known)}.")
    return found
