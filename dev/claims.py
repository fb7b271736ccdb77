"""Write docs/claims.md from the rows in results/claims: every claim, run or not.

command:  python dev/claims.py            (a test fails while docs/claims.md is out of date)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wellread.claims import CLAIMS
from wellread.claims.rows import NOT_RUN, read_rows, table
from wellread.evaluation.report import to_markdown

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs" / "claims.md"
ROWS = ROOT / "results" / "claims"
HEAD = """# The papers' claims, tried

The claims of LUMEN, GLIMMER, ReAtt, REALM, RETRO and REVEAL, each tried with small models and a small budget by one
command: `wellread reproduce CLAIM` (`wellread reproduce` lists them, `--dry-run` says what one takes). {counts}

**How to read it.** EM in percent (or what the row says: recall@20, nDCG@10) with its 95 % interval, FLOPs as counted
for a question. Differences are judged by paired bootstrap intervals over questions and seeds. A claim *holds* where
all its rules do, *does not hold* where one of them clearly does not, and is *undecided* where an interval holds the
value asked for. The papers' readers are 10 to 500 times as large and trained until they converge: a claim that does
not hold here is not refuted, and one that is undecided often wants more questions, seeds or steps. Where a figure of
the paper is a picture without numbers, only its shape is told.

**What they have in common.** Every run of LUMEN's claims starts from one small reader that has learned to read as a
LUMEN with a third of live layers over a frozen memory (`recipes/squad/start.toml`), every run of GLIMMER's from one
that has learned to read and rerank as a GLIMMER with half of them live (`recipes/mini/second.toml`, by `--base
runs/mini/second/last --memory runs/squad/mini-bf16`). That favours readers cut at the same layer: others have to
learn in their few steps what their layers never did. Word embeddings are frozen. Dev questions are squad's, with the
right passage put among the candidates, unless the note says otherwise. The recipe is
`src/wellread/data/claims/recipe.toml`. ReAtt's claims start from the default model over its memory of squad's
passages (`--base wellread-mini --memory runs/squad/mini-memory`), and read what was found, the right passage or not.
REALM's start from the sentence encoder, RETRO's from random weights or a language model (bits per byte, in
thousandths), REVEAL's from the default model's layers; the notes say over what.
"""


def render(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The whole page. rows: claim -> its row."""
    shown = [
        {
            "claim": told["claim"],
            "where": told["where"],
            "the paper": told["paper"],
            "ours": " ".join(part for part in (told["ours"], told["rules"]) if part),
            "verdict": f"**{told['verdict']}**",
            "size run": told["size"],
        }
        for told in table(rows)
    ]
    notes = [f"- `{claim.id}`: {claim.note}" for claim in CLAIMS.values() if claim.note]
    made = [
        f"- `{row['command']}`: [row](../results/claims/{name}.json), [plot](../results/claims/{name}.svg)"
        for name, row in rows.items()
    ]
    parts = [
        HEAD.format(counts=_counts(rows)),
        to_markdown(shown),
        "## What differs from the papers\n",
        "\n".join(notes),
    ]
    parts += ["\n## Commands of the claims that were run\n", "\n".join(made)] if made else []
    return "\n".join(parts) + "\n"


def _counts(rows: Mapping[str, Mapping[str, Any]]) -> str:
    found = sorted((told["verdict"] for told in table(rows)), key=lambda verdict: verdict == NOT_RUN)
    told = [f"{found.count(verdict)} {verdict}" for verdict in dict.fromkeys(found)]
    return f"Of {len(CLAIMS)} claims: {', '.join(told)}."


if __name__ == "__main__":
    DOCS.write_text(render(read_rows(ROWS)), encoding="utf8")
