"""RETRO's claims: Borgeaud et al., "Improving language models by retrieving from trillions of tokens" (2022)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from wellread.claims.claim import Figures
from wellread.claims.rules import Above
from wellread.claims.text_claim import TextAsk, TextClaim, TextVariant, Training

__all__ = ["RETRO"]

NET = {"kind": "scratch", "scratch": {"dim": 192, "layers": 4, "heads": 4}}
SYSTEM = {"name": "retro", "cross_layers": [1, 3], "encoder_layers": 2, "encoder_dim": 96, "encoder_heads": 2}
WITHOUT = Training("without", {"init": NET, "system": SYSTEM, "texts": {"k": 0}}, steps=10 / 3)
# The language model first, then what reads neighbours: a million tokens are too few to learn both at once.
READS = {"name": "retro", "cross_layers": [2, 3], "encoder_layers": 2, "copy_neighbours": True}
FROZEN = {"freeze": ["reader."], "learning_rate": 5e-3, "warmup": 20}
WITH = Training(
    "with",
    {"system": READS, "training": FROZEN, "texts": {"documents": 600}},
    steps=0.8,
    start=WITHOUT,
)
# The paper's model: nothing is copied, so that the cross-attention has to learn whatever is learnt.
PAPERS = replace(
    WITH,
    name="never copies",
    changes={
        **WITH.changes,
        "system": {**READS, "copy_neighbours": False},
        "training": {**FROZEN, "learning_rate": 1e-3},
    },
)

FIT = Path("runs/retro/fit")
SMALL_MODEL = {
    "init": {"from": "runs/retro/smollm2"},
    "system": {
        "name": "retro",
        "cross_layers": [20, 26],
        "encoder_layers": 2,
        "read_words": True,
        "copy_neighbours": True,
    },
}
FITTED = Training(
    "fitted",
    {
        **SMALL_MODEL,
        "texts": {"chunks": str(FIT / "train"), "neighbours": str(FIT / "train" / "neighbours")},
        "training": {"freeze": ["reader."], "batch_size": 1, "learning_rate": 3e-3, "warmup": 10},
    },
    steps=1.0,
    held=FIT / "valid",
)
NOTHING = TextAsk(k=0)
NOTE = (
    "A decoder of four layers of 192 that was trained on a million tokens, then stayed as it was while what reads "
    "neighbours was trained on 250 thousand. It also copies words from the neighbours (copy_neighbours), which the "
    "paper's model does not: what never copies in retro-database-size is the paper's, trained as long at a rate that "
    "suits it. The paper trains both at once, at its smallest 150 million weights on 420 billion tokens. Keys are "
    "MiniLM's word states weighted by rarity. "
)
READ_ONLY = {"use_copy_head": False}


def _off(training: Training, x: float, series: str) -> TextVariant:
    return TextVariant(training, NOTHING, x, series)


SIZE = TextClaim(
    id="retro-database-size",
    paper="retro",
    where="Figure 1 (middle) and Section 4.1",
    tags=("fig1", "sec4.1"),
    says="With neighbours a language model needs fewer bits per byte of held-out text than without, and the fewer the "
    "larger the database is.",
    variants={
        "without": _off(WITHOUT, 0.0, "without neighbours"),
        "1x": TextVariant(WITH, TextAsk(share=1 / 16), 1.0, "with neighbours"),
        "4x": TextVariant(WITH, TextAsk(share=1 / 4), 4.0, "with neighbours"),
        "16x": TextVariant(WITH, TextAsk(), 16.0, "with neighbours"),
        "16x, copy head switched off": TextVariant(WITH, TextAsk(options=READ_ONLY), 16.0, "copy head switched off"),
        "16x, never copies": TextVariant(PAPERS, TextAsk(), 16.0, "trained without a copy head"),
    },
    rules=(
        Above("with the whole database it needs fewer bits than without any", {"without": 1, "16x": -1}),
        Above("with 16 times the database it needs fewer bits", {"1x": 1, "16x": -1}),
        Above("with 4 times the database it needs fewer bits", {"1x": 1, "4x": -1}),
        Above("and with 4 times that again", {"4x": 1, "16x": -1}),
        Above(
            "trained without a copy head it needs fewer bits than without any", {"without": 1, "16x, never copies": -1}
        ),
    ),
    figures=Figures(
        says="C4, bits per byte fall without a sign of levelling off as the database grows from billions of tokens to "
        "1.75 trillion (a picture without numbers), for all sizes of the model",
        y_label="bits per byte",
    ),
    x_label="size of the database (16: all of wiki2018's train split); 0: no neighbours",
    note=NOTE + "Shares of the documents of one database; the model was trained with neighbours from all of it.",
)

COUNTS = {f"k={k}": TextVariant(WITH, TextAsk(k=k), float(k), "trained with 2 neighbours") for k in (1, 2, 4)}
NEIGHBOURS = TextClaim(
    id="retro-neighbours",
    paper="retro",
    where="Figure 1 (right)",
    tags=("fig1",),
    says="The more neighbours of a chunk are read, the fewer bits per byte are needed, also beyond the number it was "
    "trained with.",
    variants={
        "without": _off(WITHOUT, 0.0, "without neighbours"),
        **COUNTS,
        "k=2, never copies": TextVariant(PAPERS, TextAsk(), 2.0, "trained without a copy head"),
        "shuffled": TextVariant(WITH, TextAsk(shuffled=True), 2.0, "other chunks' neighbours"),
    },
    rules=(
        Above("two neighbours are better than none", {"without": 1, "k=2": -1}),
        Above("two neighbours are better than one", {"k=1": 1, "k=2": -1}),
        Above("four neighbours are better than two", {"k=2": 1, "k=4": -1}),
        Above("a chunk's own neighbours are better than another's", {"shuffled": 1, "k=2": -1}),
        Above("trained without a copy head two are better than none", {"without": 1, "k=2, never copies": -1}),
    ),
    figures=Figures(
        says="trained with 2 neighbours, C4 bits per byte fall up to 10 to 40 neighbours, for larger models further",
        y_label="bits per byte",
    ),
    x_label="neighbours of a chunk; 0: none",
    note=NOTE,
)

BOUNDS = (0.125, 0.25, 0.5, 1.0)
LEAKAGE = TextClaim(
    id="retro-leakage",
    paper="retro",
    where="Section 2.6 and Figure 6",
    tags=("sec2.6", "fig6"),
    says="Part of what neighbours give is copied from the database, but they help on chunks that have little in common "
    "with their neighbours too.",
    variants={
        **{f"without, r<={r:g}": TextVariant(WITHOUT, TextAsk(0, overlap=r), r, "without") for r in BOUNDS},
        **{f"with, r<={r:g}": TextVariant(WITH, TextAsk(overlap=r), r, "with 2 neighbours") for r in BOUNDS},
    },
    rules=(
        Above("neighbours help where at most an eighth is shared", {"without, r<=0.125": 1, "with, r<=0.125": -1}),
        Above(
            "and more where all chunks are counted",
            {"without, r<=1": 1, "with, r<=1": -1, "without, r<=0.125": -1, "with, r<=0.125": 1},
        ),
    ),
    figures=Figures(
        says="on C4, Wikipedia and others RETRO stays below the baseline at every r, also at r <= 1/8, and the gain "
        "grows with r (a picture without numbers)",
        y_label="bits per byte",
    ),
    x_label="chunks of which the neighbours hold at most this share word for word",
    note=NOTE
    + "Overlap with the four nearest chunks of the whole database and what follows them; the paper counts ten.",
)

FITTING = TextClaim(
    id="retro-fitting",
    paper="retro",
    where="Section 4.2 and Figure 5",
    tags=("sec4.2", "fig5"),
    says="A language model that was trained without retrieval learns to use neighbours from little training of the "
    "cross-attention and the neighbour encoder alone.",
    variants={
        "before": _off(FITTED, 0.0, "SmolLM2-135M"),
        "fitted": TextVariant(FITTED, TextAsk(), 1.0, "fitted"),
        "shuffled": TextVariant(FITTED, TextAsk(shuffled=True), 2.0, "fitted, other chunks' neighbours"),
    },
    rules=(
        Above("fitted it needs fewer bits than before", {"before": 1, "fitted": -1}),
        Above("a chunk's own neighbours are better than another's", {"shuffled": 1, "fitted": -1}),
    ),
    figures=Figures(
        says="from 6 million sequences, 3 % of those of pre-training, fitted models come close to RETRO trained from "
        "scratch, and pass the baseline quickly",
        y_label="bits per byte",
    ),
    x_label="0: SmolLM2-135M, 1: fitted, 2: fitted, with other chunks' neighbours",
    note="SmolLM2-135M-Instruct from its 4-bit file, weights frozen; two of its 30 layers read two neighbours, whose "
    "words can be copied as well (copy_neighbours), which the paper's models do not. Without neighbours the fitted "
    "model is the model before. The paper fits models of its own.",
)

RETRO = (SIZE, NEIGHBOURS, LEAKAGE, FITTING)
"""RETRO's claims, in the order of the paper."""
