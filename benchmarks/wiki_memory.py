"""Memory of 20,000 Wikipedia passages with every codec: bytes, error, time, and resident memory of the build.

command:  wellread init --system lumen --set live_share=0.3333 --out runs/wiki/start
          python benchmarks/wiki_memory.py            (writes results/wiki_memory.md)

The corpus is read once, with bf16 (`wellread memorize`); the other codecs store the same states (`wellread memory
recode`). Every build is a process of its own whose peak memory is taken from the operating system; finished rows are
kept in results/wiki_memory/CODEC.json.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
from common import data_folder, wellread

from wellread.evaluation.report import hardware, write_table

RUNS, RESULTS = Path("runs/wiki"), Path("results/wiki_memory")
CODECS = ("bf16", "int8", "pq8", "pq16")


def run(*arguments: str) -> dict:
    """One wellread command with --json; its result, and the peak resident memory of its process in GiB."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    told = wellread(*arguments)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    # The counter is the largest of all children so far; it belongs to this one if it rose.
    return told | {"peak_gib": peak / 2**20 if peak > before else None}


def measure(codec: str, model: str) -> None:
    out = RUNS / f"memory-{codec}"
    if codec == CODECS[0]:
        read = ("--model", model, "--precision", "bf16", "--retriever", "none")
        built = run("memorize", str(RUNS / "corpus"), *read, "--codec", codec, "--out", str(out))
    else:
        built = run("memory", "recode", str(RUNS / f"memory-{CODECS[0]}"), "--codec", codec, "--out", str(out))
    facts = run("memory", "info", str(out))
    row = {**facts, **built, "hardware": hardware(), "fingerprint": None}
    (RESULTS / f"{codec}.json").write_text(json.dumps(row, indent=1) + "\n", encoding="utf8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="runs/wiki/start", help="the model that reads")
    parser.add_argument("--passages", type=int, default=20_000)
    parser.add_argument("--codec", choices=CODECS, help="measure this codec only")
    chosen = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    if not (RUNS / "corpus").is_dir():
        RUNS.mkdir(parents=True, exist_ok=True)
        table = pq.read_table(data_folder() / "wiki" / "wiki2018.parquet", columns=["id", "title", "text"])
        pq.write_table(table.slice(0, chosen.passages), RUNS / "first.parquet")
        run("corpus", str(RUNS / "first.parquet"), "--out", str(RUNS / "corpus"))
    for codec in CODECS if chosen.codec is None else (chosen.codec,):
        if not (RESULTS / f"{codec}.json").is_file():
            # A process of its own, so that the peak is this build's.
            subprocess.run([sys.executable, __file__, "--codec", codec, "--model", chosen.model], check=True) if (
                chosen.codec is None
            ) else measure(codec, chosen.model)
    table_of_rows()


def table_of_rows() -> None:
    rows = [
        json.loads(file.read_text("utf8")) for file in (RESULTS / f"{codec}.json" for codec in CODECS) if file.is_file()
    ]
    plain = rows[0]["bytes_per_token"]
    shown = [
        {
            "codec": row["codec"],
            "bytes/token": row["bytes_per_token"],
            "of bf16": row["bytes_per_token"] / plain,
            "MiB on disk": row["bytes"] / 2**20,
            "relative L2": row["error"].get("relative_l2", 0.0),
            "cosine": row["error"].get("cosine", 1.0),
            "passages/s": row["passages_per_second"],
            "peak GiB": row["peak_gib"],
            "passages": row["passages"],
            "tokens": row["tokens"],
        }
        for row in rows
    ]
    notes = "MiB on disk hold texts and tokens too. The states are those of a LUMEN's four memory layers (384 wide)."
    write_table(
        "results/wiki_memory.md",
        shown,
        title="Memory of 20,000 Wikipedia passages",
        command="python benchmarks/wiki_memory.py",
        seed=0,
        notes=notes,
    )


if __name__ == "__main__":
    main()
