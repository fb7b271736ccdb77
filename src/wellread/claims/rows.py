"""results/claims: one JSON file per claim that was run. What `wellread reproduce` lists and docs/claims.md shows."""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wellread.claims import CLAIMS
from wellread.claims.claim import Claim
from wellread.claims.rules import HOLDS, UNDECIDED, Judgement, verdict
from wellread.evaluation.report import hardware

if TYPE_CHECKING:
    from wellread.claims.text_claim import TextClaim

__all__ = [
    "NOT_RUN",
    "description",
    "judged_row",
    "number",
    "read_rows",
    "state",
    "table",
    "variants_digest",
    "write_row",
]

NOT_RUN = "not run"
OTHER = "run before the claim was changed"


def judged_row(
    claim: Claim | TextClaim,
    judged: Sequence[Judgement],
    variants: Sequence[Mapping[str, Any]],
    *,
    budget: Mapping[str, Any],
    seeds: int,
) -> dict[str, Any]:
    """What is kept of a claim that was run. judged: its rules; variants: what was measured of each."""
    found = verdict(judged)
    return {
        "claim": claim.id,
        **description(claim),
        "variants": variants_digest(claim),
        "verdict": found,
        "holds": None if found == UNDECIDED else found == HOLDS,
        "rules": [
            {
                "says": each.says,
                "verdict": each.verdict,
                "value": number(each.value),
                "interval": [number(each.low), number(each.high)],
            }
            for each in judged
        ],
        "rows": list(variants),
        "budget": dict(budget),
        "seeds": list(range(seeds)),
        "hardware": hardware(),
        "date": datetime.date.today().isoformat(),
    }


def description(claim: Claim | TextClaim) -> dict[str, Any]:
    """What a row says of its claim in words, and the paper's figures; no run changes it."""
    figures = {"says": claim.figures.says, "series": claim.figures.series}
    words = {"paper": claim.paper, "where": claim.where, "says": claim.says, "figures": figures, "note": claim.note}
    return json.loads(json.dumps(words))  # as it is read back


def variants_digest(claim: Claim | TextClaim) -> str:
    """What is trained and asked, hashed: a row of other variants is one of another claim."""
    return hashlib.sha256(repr(_chosen(claim.variants)).encode()).hexdigest()[:12]


def _chosen(value: Any) -> Any:
    """A value, of its dataclasses what was not left as it always is, so that new options change no hash."""
    if isinstance(value, Mapping):
        return {name: _chosen(each) for name, each in value.items()}
    if not is_dataclass(value):
        return value
    defaults = {each.name: each.default for each in fields(value)}
    defaults |= {each.name: each.default_factory() for each in fields(value) if each.default_factory is not MISSING}
    return {name: _chosen(getattr(value, name)) for name in defaults if getattr(value, name) != defaults[name]}


def number(value: float) -> float | None:
    """As it is written in a row: three places, None where there is none."""
    return None if math.isnan(value) else round(value, 3)


def write_row(folder: Path, row: Mapping[str, Any]) -> Path:
    """Write the row of a claim; the one before stays until the new one is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{row['claim']}.json"
    waiting = path.with_name(f".{path.name}.{os.getpid()}.part")
    waiting.write_text(json.dumps(row, indent=1, ensure_ascii=False) + "\n", encoding="utf8")
    os.replace(waiting, path)
    return path


def read_rows(folder: Path) -> dict[str, dict[str, Any]]:
    """claim id -> its row, of the claims that were run."""
    files = {name: folder / f"{name}.json" for name in CLAIMS}
    return {name: json.loads(file.read_text(encoding="utf8")) for name, file in files.items() if file.is_file()}


def state(row: Mapping[str, Any] | None, claim: Claim) -> str:
    """In words: not run, holds, does not hold, undecided; or that the claim was another one when it was run."""
    if row is None:
        return NOT_RUN
    rules, variants = ([each[key] for each in row[part]] for part, key in (("rules", "says"), ("rows", "variant")))
    same = (row["says"], rules, variants) == (claim.says, [rule.says for rule in claim.rules], list(claim.variants))
    digest = variants_digest(claim)
    return row["verdict"] if same and row.get("variants", digest) == digest else OTHER


def table(
    rows: Mapping[str, Mapping[str, Any]], claims: Sequence[Claim] = tuple(CLAIMS.values())
) -> list[dict[str, str]]:
    """One row per claim, run or not: what it says, what the paper found, what we found, at which size."""
    return [_told(claim, rows.get(claim.id)) for claim in claims]


def _told(claim: Claim, row: Mapping[str, Any] | None) -> dict[str, str]:
    return {
        "claim": f"`{claim.id}`: {claim.says}",
        "where": f"{claim.paper.upper()}, {claim.where}",
        "paper": claim.figures.says,
        "ours": "" if row is None else "; ".join(_variant(each) for each in row["rows"]),
        "rules": "" if row is None else "; ".join(_rule(each) for each in row["rules"]),
        "verdict": state(row, claim),
        "size": "" if row is None else _size(row),
    }


def _variant(each: Mapping[str, Any]) -> str:
    low, high = each["interval"]
    measure = each.get("measure", "em")  # rows of older results have none
    what = f"{each['gflops']:.3g} GFLOP" if measure == "em" else measure
    return f"{each['variant']} {each['em']:.1f} ({low:.1f} to {high:.1f}), {what}"


def _rule(each: Mapping[str, Any]) -> str:
    low, high = each["interval"]
    counted = low is not None and low == high  # a cost, which has no interval
    value = "no value" if each["value"] is None else f"{each['value']:.2f}"
    spread = "interval unknown" if low is None else f"{low:.2f} to {high:.2f}"
    return f"{each['says']}: {each['verdict']}, {value}{'' if counted else f' ({spread})'}"


def _size(row: Mapping[str, Any]) -> str:
    budget = row["budget"]
    trained, asked = budget.get("units", ["questions", "dev questions"])
    return (
        f"{budget['steps']} steps of {budget['batch_size']} {trained}, {len(row['seeds'])} seeds, "
        f"{budget['questions']} {asked}; {row['hardware']}; {row['date']}"
    )
