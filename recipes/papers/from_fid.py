"""Questions and candidates in the form that FiD and DPR keep them -> the files the recipes name.

command:  python recipes/papers/from_fid.py open_domain_data/NQ --out $WELLREAD_PAPERS/nq

Reads train.json and dev.json, lists of {"question", "answers", "ctxs": [{"id"}, best first]}; writes train.jsonl,
dev.jsonl and candidates.jsonl. The ids of the passages are those of psgs_w100.tsv.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

PARTS = ("train", "dev")


def convert(source: Path, out: Path, *, top_k: int) -> int:
    """Write the three files; how many questions there are."""
    out.mkdir(parents=True, exist_ok=True)
    count = 0
    with open(out / "candidates.jsonl", "w", encoding="utf8") as candidates:
        for part in PARTS:
            rows = json.loads((source / f"{part}.json").read_text(encoding="utf8"))
            with open(out / f"{part}.jsonl", "w", encoding="utf8") as questions:
                for number, row in enumerate(rows):
                    name = f"{part}-{number}"
                    question = {"id": name, "question": row["question"], "answers": row["answers"]}
                    # Not all of these files have scores; the order is what counts.
                    found = [{"id": str(ctx["id"]), "score": -rank} for rank, ctx in enumerate(row["ctxs"][:top_k])]
                    questions.write(json.dumps(question, ensure_ascii=False) + "\n")
                    candidates.write(json.dumps({"id": name, "candidates": found}) + "\n")
            count += len(rows)
    return count


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="the folder with train.json and dev.json")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--top-k", type=int, default=100, help="candidates kept of each question")
    given = parser.parse_args()
    convert(given.source, given.out, top_k=given.top_k)
